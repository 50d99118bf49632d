/*
 * Frames between netmap programs by way of the switch, without the programs: threads play what a
 * program's syncs do, on the lanes of client ports of a real engine.
 *
 *     sender: buffers ── copy ── outbox ── worker, bridge ── inbox ── copy ── buffers: receiver
 *
 * Buffers are 2 KB apart, as in a netmap region. A cold sender goes round more of them than any
 * cache holds; the receiver reads every byte of what it got. Everybody sleeps when there is
 * nothing to do, by the bells that programs have.
 *
 * Prints one line of JSON: frames sent and received in the time that was measured, what the switch
 * dropped, and nanoseconds of processor time a frame of each side.
 * Exit status 1: frames that nobody accounts for.
 *
 *     bench_client [-s senders] [-r receivers] [-l bytes] [-c] [-t seconds] [-R frames a second]
 *                  [-S us] [-o bytes] [-i bytes]
 *
 *     -c cold buffers   -R paced, each sender its share; receivers sleep at once
 *     -S how long senders and receivers spin before they sleep (default 0)
 *     -o, -i outboxes and inboxes of another size than usual
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "client_memory.h"
#include "engine.h"

enum {
	SIDES_MAX = 16,
	BUFFER_BYTES = 2048,
	WARM_BUFFERS = 1024,
	COLD_BUFFERS = 65536,
	BATCH = 256, /* frames a sync */
	AHEAD = 8,   /* buffers that a sync asks for before it needs them */
	PACE_NS = 50000,
	DRAIN_MS = 500
};

struct options {
	unsigned senders, receivers, len, spin_us;
	bool cold;
	double seconds, rate;
	const char *outbox, *inbox; /* bytes */
};

struct program {
	const struct options *options;
	struct port_fds fds;
	struct client_map map;
	int bell;
	unsigned number;
	pthread_t thread;
	uint8_t *buffers;
	unsigned buffer_count;
	_Alignas(128) _Atomic uint64_t frames; /* taken or sent */
	_Atomic uint64_t sleeps;
	uint64_t cpu_ns;
	uint64_t sum; /* of what was read, so that it has to be */
};

static struct engine *engine;
static struct program programs[2 * SIDES_MAX];
static uint64_t setup_ns;
static _Atomic bool stop_sending, stop_receiving;

static void die(const char *what, const struct error *err)
{
	fprintf(stderr, "bench_client: %s%s%s\n", what, err ? ": " : "", err ? err->message : "");
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Processor time of this thread. */
static uint64_t cpu_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void mac_of(uint8_t *to, unsigned number)
{
	const uint8_t mac[6] = {2, 0, 0, 0, 1, (uint8_t)number};

	memcpy(to, mac, sizeof(mac));
}

/* --- a program's sleep --------------------------------------------------------------------------
 */

static void nap(struct program *self)
{
	struct pollfd fd = {.fd = self->bell, .events = POLLIN};

	atomic_fetch_add_explicit(&self->sleeps, 1, memory_order_relaxed);
	poll(&fd, 1, 100);
	client_bell_take(self->bell);
}

static bool spin(const struct program *self, uint64_t *since)
{
	if (!self->options->spin_us)
		return false;
	if (!*since)
		*since = now_ns();
	for (unsigned i = 0; i < 50; i++)
		__builtin_ia32_pause();
	return now_ns() - *since < self->options->spin_us * 1000u;
}

/* --- senders ------------------------------------------------------------------------------------
 */

/* One sync: at most `count` frames; how many there was room for. */
static unsigned send_sync(struct program *self, struct lane_producer *out, unsigned *at,
			  unsigned count)
{
	unsigned len = self->options->len, mask = self->buffer_count - 1, done;

	for (done = 0; done < count; done++) {
		const uint8_t *from = self->buffers + (size_t)(*at & mask) * BUFFER_BYTES;
		uint8_t *to = lane_reserve(out, len);

		if (!to)
			break;
		for (unsigned line = 0; self->options->cold && line < len; line += 64)
			__builtin_prefetch(self->buffers +
					   (size_t)((*at + AHEAD) & mask) * BUFFER_BYTES + line);
		lane_copy(to, from, len);
		lane_add(out, len, 0);
		++*at;
	}
	if (lane_publish(out))
		client_bell_ring(self->bell);
	return done;
}

static void send_flat_out(struct program *self, struct lane_producer *out)
{
	uint64_t since = 0;
	unsigned at = 0;

	while (!atomic_load_explicit(&stop_sending, memory_order_relaxed)) {
		unsigned done = send_sync(self, out, &at, BATCH);

		atomic_store_explicit(&self->frames, at, memory_order_relaxed);
		if (done == BATCH) {
			since = 0;
			continue;
		}
		if (spin(self, &since))
			continue;
		if (lane_producer_waits(out, self->options->len)) {
			nap(self);
			lane_producer_awake(out);
		}
	}
}

/* What there is no room for yet is sent later: a netmap sender keeps it in its ring. */
static void send_paced(struct program *self, struct lane_producer *out)
{
	double rate = self->options->rate / self->options->senders;
	const struct timespec pause = {.tv_nsec = PACE_NS};
	uint64_t start = now_ns(), sent = 0;
	unsigned at = 0;

	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	while (!atomic_load_explicit(&stop_sending, memory_order_relaxed)) {
		uint64_t due = (uint64_t)((double)(now_ns() - start) * 1e-9 * rate);
		unsigned want, done;

		do {
			want = due - sent < BATCH ? (unsigned)(due - sent) : BATCH;
			done = send_sync(self, out, &at, want);
			sent += done;
		} while (done && done == want);
		atomic_store_explicit(&self->frames, sent, memory_order_relaxed);
		nanosleep(&pause, NULL);
	}
}

static void *sender(void *arg)
{
	struct program *self = arg;
	struct lane_producer out;

	client_outbox_producer(&self->map, 0, &out);
	if (self->options->rate > 0)
		send_paced(self, &out);
	else
		send_flat_out(self, &out);
	self->cpu_ns = cpu_now_ns();
	return NULL;
}

/* --- receivers ----------------------------------------------------------------------------------
 */

static uint64_t read_all(const uint8_t *from, uint32_t len)
{
	uint64_t sums[8] = {0}, words[8], sum = 0;
	uint32_t i = 0;

	for (; i + sizeof(words) <= len; i += sizeof(words)) {
		memcpy(words, from + i, sizeof(words));
		for (unsigned n = 0; n < 8; n++)
			sums[n] += words[n];
	}
	for (; i + sizeof(words[0]) <= len; i += sizeof(words[0])) {
		memcpy(words, from + i, sizeof(words[0]));
		sum += words[0];
	}
	for (; i < len; i++)
		sum += from[i];
	for (unsigned n = 0; n < 8; n++)
		sum += sums[n];
	return sum;
}

static void *receiver(void *arg)
{
	struct program *self = arg;
	struct lane_consumer in;
	struct lane_frame frame;
	uint64_t since = 0, taken = 0, sum = 0;
	unsigned slot = 0;

	client_inbox_consumer(&self->map, 0, &in);
	while (!atomic_load_explicit(&stop_receiving, memory_order_relaxed)) {
		unsigned first = slot;

		for (unsigned i = 0; i < BATCH && lane_ready(&in) && lane_next(&in, &frame); i++) {
			uint8_t *to =
			    self->buffers + (size_t)(slot++ % WARM_BUFFERS) * BUFFER_BYTES;

			lane_copy(to, frame.data, frame.len);
		}
		if (lane_release(&in))
			client_bell_ring(self->bell);
		taken += slot - first;
		for (; first != slot; first++)
			sum +=
			    read_all(self->buffers + (size_t)(first % WARM_BUFFERS) * BUFFER_BYTES,
				     self->options->len);
		atomic_store_explicit(&self->frames, taken, memory_order_relaxed);
		if (lane_ready(&in)) {
			since = 0;
			continue;
		}
		if (spin(self, &since))
			continue;
		since = 0;
		if (lane_consumer_waits(&in)) {
			nap(self);
			lane_consumer_awake(&in);
		}
	}
	self->sum = sum;
	self->cpu_ns = cpu_now_ns();
	return NULL;
}

/* --- the switch ---------------------------------------------------------------------------------
 */

static void program_open(const struct options *options, unsigned number)
{
	struct port_option items[] = {{"outbox_bytes", options->outbox},
				      {"inbox_bytes", options->inbox}};
	struct port_options wanted = {.port = "bench", .items = items, .count = 2};
	struct program *self = &programs[number];
	char name[16];
	struct error err;

	snprintf(name, sizeof(name), "p%u", number);
	self->options = options;
	self->number = number;
	if (port_acquire("client", &wanted, &self->fds, &err) ||
	    engine_port_add(engine, (uint16_t)number, name, "client", &wanted, &self->fds, &err))
		die("no port", &err);
	if (client_map_open(self->fds.fd[0], &self->map))
		die("no memory", NULL);
	self->bell = self->fds.fd[2];
}

static void buffers_open(struct program *self, unsigned receivers, unsigned senders)
{
	bool sends = self->number < senders;
	size_t bytes;

	self->buffer_count = sends && self->options->cold ? COLD_BUFFERS : WARM_BUFFERS;
	bytes = (size_t)self->buffer_count * BUFFER_BYTES;
	self->buffers = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (self->buffers == MAP_FAILED)
		die("no buffers", NULL);
	for (unsigned i = 0; i < self->buffer_count; i++) {
		uint8_t *at = self->buffers + (size_t)i * BUFFER_BYTES;

		mac_of(at, senders + i % receivers);
		mac_of(at + 6, self->number);
		at[12] = 0x88;
		at[13] = 0xb5;
	}
}

static void switch_open(const struct options *options)
{
	unsigned count = options->senders + options->receivers;
	struct engine_params params = {.stats_fd = -1, .conntrack_fd = -1};
	struct bridge_config bridge = {.learning = true,
				       .flood_unknown_unicast = true,
				       .flood_multicast = true,
				       .flood_broadcast = true};
	struct port_config ports[2 * SIDES_MAX];
	struct engine_config config = {.generation = 1,
				       .bridges = &bridge,
				       .bridge_count = 1,
				       .ports = ports,
				       .port_count = count};
	struct error err;

	if (engine_create(&params, &engine, &err) ||
	    engine_bridge_add(engine, 0, "br", 1024, -1, &err))
		die("no switch", &err);
	for (unsigned p = 0; p < count; p++) {
		uint8_t mac[6];

		program_open(options, p);
		ports[p] = (struct port_config){.id = (uint16_t)p,
						.admin_up = true,
						.learning = true,
						.flood = true,
						.polling = PORT_POLL_ADAPTIVE};
		mac_of(mac, p);
		buffers_open(&programs[p], options->receivers, options->senders);
	}
	if (engine_publish(engine, &config, &err))
		die("not published", &err);
	for (unsigned p = options->senders; p < count; p++) {
		uint8_t mac[6];

		mac_of(mac, p);
		if (engine_fdb_set_static(engine, 0, mac, 0, (uint16_t)p, &err))
			die("no address", &err);
	}
}

/* --- measuring ----------------------------------------------------------------------------------
 */

struct sums {
	uint64_t sent, received, sleeps, ns;
};

static struct sums sums_now(const struct options *options)
{
	struct sums sums = {.ns = now_ns()};

	for (unsigned p = 0; p < options->senders + options->receivers; p++) {
		const struct program *self = &programs[p];

		*(p < options->senders ? &sums.sent : &sums.received) += self->frames;
		sums.sleeps += self->sleeps;
	}
	return sums;
}

static void pause_s(double seconds)
{
	struct timespec time = {.tv_sec = (time_t)seconds,
				.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	nanosleep(&time, NULL);
}

static void threads_start(const struct options *options)
{
	for (unsigned p = 0; p < options->senders + options->receivers; p++) {
		if (pthread_create(&programs[p].thread, NULL,
				   p < options->senders ? sender : receiver, &programs[p]))
			die("no thread", NULL);
	}
}

static void threads_join(unsigned from, unsigned to)
{
	for (unsigned p = from; p < to; p++)
		pthread_join(programs[p].thread, NULL);
}

/* Nanoseconds of processor time a frame, of all senders, all receivers, and the rest: workers. */
static void print_cpu(const struct options *options, uint64_t frames)
{
	uint64_t sides[2] = {0, 0}, all;
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	all = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - setup_ns;
	for (unsigned p = 0; p < options->senders + options->receivers; p++)
		sides[p >= options->senders] += programs[p].cpu_ns;
	printf("\"sender_ns\": %.1f, \"receiver_ns\": %.1f, \"switch_ns\": %.1f}\n",
	       (double)sides[0] / (double)frames, (double)sides[1] / (double)frames,
	       (double)(all - sides[0] - sides[1]) / (double)frames);
}

static void print(const struct options *options, const struct sums *first, const struct sums *last,
		  const struct sums *end, uint64_t dropped)
{
	double seconds = (double)(last->ns - first->ns) * 1e-9;

	printf("{\"senders\": %u, \"receivers\": %u, \"bytes\": %u, \"cold\": %s, "
	       "\"sent_per_s\": %.0f, \"received_per_s\": %.0f, \"offered\": %llu, "
	       "\"received\": %llu, \"dropped\": %llu, \"sleeps\": %llu, ",
	       options->senders, options->receivers, options->len, options->cold ? "true" : "false",
	       (double)(last->sent - first->sent) / seconds,
	       (double)(last->received - first->received) / seconds, (unsigned long long)end->sent,
	       (unsigned long long)end->received, (unsigned long long)dropped,
	       (unsigned long long)(last->sleeps - first->sleeps));
	print_cpu(options, end->sent ? end->sent : 1);
}

static int run(const struct options *options)
{
	unsigned count = options->senders + options->receivers;
	struct port_counters total;
	struct sums first, last, end;
	uint64_t dropped;

	switch_open(options);
	setup_ns = cpu_now_ns(); /* there was no other thread with work before */
	threads_start(options);
	pause_s(0.3);
	first = sums_now(options);
	pause_s(options->seconds);
	last = sums_now(options);
	atomic_store(&stop_sending, true);
	threads_join(0, options->senders);
	pause_s(DRAIN_MS * 1e-3);
	engine_quiesce(engine);
	atomic_store(&stop_receiving, true);
	threads_join(options->senders, count);
	end = sums_now(options);
	engine_total_counters(engine, &total);
	dropped = total.tx_drops[DROP_QUEUE_FULL];
	print(options, &first, &last, &end, dropped);
	if (total.rx_frames != end.sent || end.received + dropped != end.sent) {
		fprintf(stderr, "bench_client: the switch received %llu and dropped %llu\n",
			(unsigned long long)total.rx_frames, (unsigned long long)dropped);
		return 1;
	}
	engine_destroy(engine);
	return 0;
}

int main(int argc, char **argv)
{
	struct options options = {.senders = 1, .receivers = 1, .len = 60, .seconds = 2};
	char outbox[16], inbox[16];
	int option;

	snprintf(outbox, sizeof(outbox), "%d", CLIENT_OUTBOX_BYTES);
	snprintf(inbox, sizeof(inbox), "%d", CLIENT_INBOX_BYTES);
	options.outbox = outbox;
	options.inbox = inbox;
	while ((option = getopt(argc, argv, "s:r:l:ct:R:S:o:i:")) != -1) {
		switch (option) {
		case 's':
			options.senders = (unsigned)atoi(optarg);
			break;
		case 'r':
			options.receivers = (unsigned)atoi(optarg);
			break;
		case 'l':
			options.len = (unsigned)atoi(optarg);
			break;
		case 'c':
			options.cold = true;
			break;
		case 't':
			options.seconds = atof(optarg);
			break;
		case 'R':
			options.rate = atof(optarg);
			break;
		case 'S':
			options.spin_us = (unsigned)atoi(optarg);
			break;
		case 'o':
			options.outbox = optarg;
			break;
		case 'i':
			options.inbox = optarg;
			break;
		default:
			return 2;
		}
	}
	if (!options.senders || options.senders > SIDES_MAX || !options.receivers ||
	    options.receivers > SIDES_MAX || options.len < 14 || options.len > BUFFER_BYTES ||
	    options.seconds <= 0)
		return 2;
	return run(&options);
}
