/*
 * gen: sends probe frames on one interface and prints what it sent, as JSON.
 *
 *   gen --if IF [--bytes 60] [--macs 1] [--src 02:00:00:01:00:00] [--dst 02:00:00:02:00:00]
 *       [--rate FRAMES_PER_S] [--seconds 5] [--frames N] [--stream ID] [--cpu N]
 *
 * bytes is the frame without its FCS: 60 is the "64 B" of every benchmark. Frame n goes from
 * src + n % macs to dst + n % macs. Without --rate it sends as fast as the interface takes
 * frames; with it, frames are spread over time in steps of at least 100 µs. It ends after
 * --seconds or --frames, whichever is first, and never runs longer than a minute.
 *
 * {"sent", "refused", "seconds", "frames_per_s", "first_ns", "last_ns", "cpu_s"}: a sequence number
 * stands for a frame that the interface took; refused counts calls that took none (ENOBUFS).
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"

enum { BATCH = 64, SECONDS_MAX = 60, STEP_NS = 100000 };

struct gen {
	const char *ifname;
	uint64_t src;
	uint64_t dst;
	unsigned bytes;
	unsigned macs;
	uint64_t rate;
	uint64_t frames;
	double seconds;
	uint32_t stream;
	int fd;
	uint64_t sent;
	uint64_t refused;
	uint8_t buffer[BATCH][PROBE_FRAME_MAX];
	struct iovec iov[BATCH];
	struct mmsghdr messages[BATCH];
};

static void options_read(struct gen *gen, int argc, char **argv)
{
	static const struct option options[] = {
	    {"if", required_argument, NULL, 'i'},
	    {"bytes", required_argument, NULL, 'b'},
	    {"macs", required_argument, NULL, 'm'},
	    {"src", required_argument, NULL, 's'},
	    {"dst", required_argument, NULL, 'd'},
	    {"rate", required_argument, NULL, 'r'},
	    {"seconds", required_argument, NULL, 't'},
	    {"frames", required_argument, NULL, 'n'},
	    {"stream", required_argument, NULL, 'x'},
	    {"cpu", required_argument, NULL, 'c'},
	    {NULL, 0, NULL, 0},
	};
	cpu_set_t cpus;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'i')
			gen->ifname = optarg;
		else if (option == 'b')
			gen->bytes = (unsigned)number("bytes", optarg, PROBE_FRAME_MAX);
		else if (option == 'm')
			gen->macs = (unsigned)number("macs", optarg, 1u << 24);
		else if (option == 's')
			gen->src = mac_parse("src", optarg);
		else if (option == 'd')
			gen->dst = mac_parse("dst", optarg);
		else if (option == 'r')
			gen->rate = number("rate", optarg, 100000000);
		else if (option == 't')
			gen->seconds = atof(optarg);
		else if (option == 'n')
			gen->frames = number("frames", optarg, UINT64_MAX);
		else if (option == 'x')
			gen->stream = (uint32_t)number("stream", optarg, UINT32_MAX);
		else if (option == 'c') {
			CPU_ZERO(&cpus);
			CPU_SET(number("cpu", optarg, CPU_SETSIZE - 1), &cpus);
			if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
				fail("--cpu %s: %s", optarg, strerror(errno));
		} else {
			exit(2);
		}
	}
	if (gen->ifname == NULL || optind != argc)
		fail("usage: gen --if IF [--bytes N] [--macs N] [--rate N] [--seconds N] ...");
	if (gen->bytes < PROBE_FRAME_MIN)
		fail("--bytes: a probe frame has at least %d", PROBE_FRAME_MIN);
	if (gen->macs == 0 || gen->seconds <= 0 || gen->seconds > SECONDS_MAX)
		fail("--macs must not be 0 and --seconds must be up to %d", SECONDS_MAX);
}

static void socket_open(struct gen *gen)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET};
	int bytes = 8 << 20;

	address.sll_ifindex = (int)if_nametoindex(gen->ifname);
	if (address.sll_ifindex == 0)
		fail("%s: %s", gen->ifname, strerror(errno));
	/* Protocol 0: receives nothing. */
	gen->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (gen->fd < 0)
		fail("packet socket: %s", strerror(errno));
	if (bind(gen->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		fail("bind to %s: %s", gen->ifname, strerror(errno));
	setsockopt(gen->fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
}

static void frames_prepare(struct gen *gen)
{
	for (unsigned i = 0; i < BATCH; i++) {
		gen->buffer[i][12] = PROBE_ETHERTYPE >> 8;
		gen->buffer[i][13] = PROBE_ETHERTYPE & 0xff;
		gen->iov[i] = (struct iovec){.iov_base = gen->buffer[i], .iov_len = gen->bytes};
		gen->messages[i].msg_hdr =
		    (struct msghdr){.msg_iov = &gen->iov[i], .msg_iovlen = 1};
	}
}

/* Sends up to count frames, numbered from gen->sent on; returns how many were taken. */
static unsigned batch_send(struct gen *gen, unsigned count)
{
	struct probe probe = {.magic = PROBE_MAGIC, .stream = gen->stream};
	int n;

	for (unsigned i = 0; i < count; i++) {
		uint64_t seq = gen->sent + i;

		mac_store(gen->buffer[i], gen->dst + seq % gen->macs);
		mac_store(gen->buffer[i] + 6, gen->src + seq % gen->macs);
		probe.seq = seq;
		probe.sent_ns = clock_ns(CLOCK_REALTIME);
		memcpy(gen->buffer[i] + ETH_HLEN, &probe, sizeof(probe));
	}
	n = sendmmsg(gen->fd, gen->messages, count, 0);
	if (n >= 0) {
		gen->sent += (unsigned)n;
		return (unsigned)n;
	}
	if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
		fail("%s: %s", gen->ifname, strerror(errno));
	gen->refused++;
	return 0;
}

static void sleep_until(uint64_t at_ns)
{
	struct timespec at = {.tv_sec = (time_t)(at_ns / 1000000000u),
			      .tv_nsec = (long)(at_ns % 1000000000u)};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* The frame with number sent + 1 is due when rate * elapsed reaches it. */
static unsigned frames_due(const struct gen *gen, uint64_t elapsed_ns)
{
	uint64_t due =
	    gen->rate ? (uint64_t)((double)gen->rate * (double)elapsed_ns / 1e9) + 1 : UINT64_MAX;

	if (due > gen->frames)
		due = gen->frames;
	if (due <= gen->sent)
		return 0;
	return due - gen->sent < BATCH ? (unsigned)(due - gen->sent) : BATCH;
}

static void run(struct gen *gen)
{
	uint64_t end_ns = (uint64_t)(gen->seconds * 1e9);
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	uint64_t now = start;

	while (!stopped && gen->sent < gen->frames && now - start < end_ns) {
		unsigned count = frames_due(gen, now - start);

		if (count > 0)
			batch_send(gen, count);
		else
			sleep_until(now + STEP_NS);
		now = clock_ns(CLOCK_MONOTONIC);
	}
}

int main(int argc, char **argv)
{
	static struct gen gen = {
	    .src = 0x020000010000,
	    .dst = 0x020000020000,
	    .bytes = 60,
	    .macs = 1,
	    .frames = UINT64_MAX,
	    .seconds = 5,
	    .stream = 1,
	};
	uint64_t first, last;
	double seconds, cpu_before;

	options_read(&gen, argc, argv);
	stop_on_signals();
	prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
	socket_open(&gen);
	frames_prepare(&gen);
	cpu_before = cpu_seconds();
	first = clock_ns(CLOCK_REALTIME);
	run(&gen);
	last = clock_ns(CLOCK_REALTIME);
	seconds = (double)(last - first) / 1e9;
	printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f, \"frames_per_s\": %.0f, "
	       "\"first_ns\": %llu, \"last_ns\": %llu, \"cpu_s\": %.6f}\n",
	       (unsigned long long)gen.sent, (unsigned long long)gen.refused, seconds,
	       (double)gen.sent / seconds, (unsigned long long)first, (unsigned long long)last,
	       cpu_seconds() - cpu_before);
	close(gen.fd);
	return 0;
}
