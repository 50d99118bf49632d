/*
 * What the measuring tools share: the probe every generated frame carries, option parsing and a
 * histogram for percentiles.
 *
 * A probe frame is an Ethernet II frame of ethertype 0x88b5 (IEEE 802 local experimental 1):
 * addresses, ethertype, struct probe, then zeros up to the wanted length. Both ends run on one
 * machine, so the probe is in host order and its time is the machine's CLOCK_REALTIME, which is
 * what the kernel stamps received frames with.
 */
#pragma once

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
	PROBE_ETHERTYPE = 0x88b5,
	PROBE_MAGIC = 0x56505242,
	PROBE_FRAME_MIN = 14 + 32, /* header and probe */
	PROBE_FRAME_MAX = 9014	   /* a jumbo frame */
};

struct probe {
	uint32_t magic;
	uint32_t stream;  /* one number a run of the generator; 0 is never counted */
	uint64_t seq;	  /* counts from 0 */
	uint64_t sent_ns; /* CLOCK_REALTIME */
	uint64_t reserved;
};
_Static_assert(sizeof(struct probe) == 32, "PROBE_FRAME_MIN says so");

/* Log-linear: 32 steps to each power of two, so a percentile is at most 3 % off. */
enum { HISTOGRAM_SUB_BITS = 5, HISTOGRAM_CELLS = (64 - HISTOGRAM_SUB_BITS + 1) << 5 };

struct histogram {
	uint64_t cell[HISTOGRAM_CELLS];
	uint64_t count;
	uint64_t max;
};

static inline unsigned histogram_index(uint64_t value)
{
	unsigned shift;

	if (value < (1u << HISTOGRAM_SUB_BITS))
		return (unsigned)value;
	shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
	return ((shift + 1) << HISTOGRAM_SUB_BITS) +
	       (unsigned)((value >> shift) & ((1u << HISTOGRAM_SUB_BITS) - 1));
}

static inline uint64_t histogram_value(unsigned index)
{
	unsigned shift = index >> HISTOGRAM_SUB_BITS;
	uint64_t sub = index & ((1u << HISTOGRAM_SUB_BITS) - 1);

	if (shift == 0)
		return sub;
	return (sub + (1u << HISTOGRAM_SUB_BITS)) << (shift - 1);
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	h->cell[histogram_index(value)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

/* The value below which `share` (0..1) of the entries lie; 0 when there is none. */
static inline uint64_t histogram_percentile(const struct histogram *h, double share)
{
	uint64_t wanted = (uint64_t)(share * (double)h->count);
	uint64_t seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_CELLS; i++) {
		seen += h->cell[i];
		if (seen > wanted)
			return histogram_value(i);
	}
	return h->max;
}

/* {"p50": .., "p99": .., "p99_9": .., "max": ..} in microseconds, from nanoseconds. */
static inline void histogram_print_us(const struct histogram *h)
{
	printf("{\"p50\": %.2f, \"p99\": %.2f, \"p99_9\": %.2f, \"max\": %.2f}",
	       (double)histogram_percentile(h, 0.5) / 1e3,
	       (double)histogram_percentile(h, 0.99) / 1e3,
	       (double)histogram_percentile(h, 0.999) / 1e3, (double)h->max / 1e3);
}

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Processor time of this process so far, softirqs that ran on its time included. */
static inline double cpu_seconds(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* The tools are commands: a failure is a sentence on stderr and exit status 1. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static inline uint64_t number(const char *option, const char *text, uint64_t max)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno != 0 || *text == '\0' || *text == '-' || *end != '\0' || value > max)
		fail("--%s: %s is not a number up to %llu", option, text, (unsigned long long)max);
	return value;
}

static volatile sig_atomic_t stopped;

static inline void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

/* SIGINT and SIGTERM end a run early; the report is printed all the same. */
static inline void stop_on_signals(void)
{
	struct sigaction action = {.sa_handler = stop};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* An address as a number, its first byte the highest. */
static inline uint64_t mac_parse(const char *option, const char *text)
{
	unsigned b[6];
	uint64_t mac = 0;
	char rest;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &rest) != 6)
		fail("--%s: %s is not a MAC address", option, text);
	for (unsigned i = 0; i < 6; i++)
		mac = mac << 8 | b[i];
	return mac;
}

static inline void mac_store(uint8_t *to, uint64_t mac)
{
	for (unsigned i = 0; i < 6; i++)
		to[i] = (uint8_t)(mac >> (40 - 8 * i));
}
