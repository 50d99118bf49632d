/*
 * What the switch costs beyond a pipe's rings and its FDB lookups, in memory, on one core.
 *
 *     null port, generates ── bridge ── pipe ── bridge ── null port, discards
 *
 * Two programs carry the same frames through pipes of their own, taking turns, a batch into the
 * pipe and a batch out of it:
 *   switch  worker_batch of the generator and of the pipe's far end: learning, ledger and all
 *   bare    the same drivers and an FDB lookup in each bridge, and nothing else
 *
 * Prints JSON as bench_memory does, "port": "pipe"; a frame's nanoseconds are those of its whole
 * way. Every frame is accounted for, or the exit status is 1.
 *
 *     bench_pipe [addresses ...]       default 1000
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench_engine.h"

enum { GENERATOR, MASTER, SLAVE, DISCARD, PORTS };
enum { BATCHES = 256 /* between two looks at the clock */ };
static_assert((int)PORTS == (int)BENCH_PORTS, "the chain has as many ports as a bench");

static const uint8_t destination[6] = {2, 0, 0, 0, 0, 1};

struct bench {
	struct bench_engine engine;
	struct port_fds fds; /* of the pipe, for both ends */
	uint64_t sent;
	uint64_t took;
};

static void open_chain(struct bench *bench, unsigned addresses)
{
	static const uint16_t bridge_of[PORTS] = {0, 0, 1, 1};
	static const struct port_fds none;
	char macs[16];
	struct port_option generate[] = {{"generate_frames_per_s", "4294967295"},
					 {"generate_macs", macs}};
	struct port_option master[] = {{"name", "x"}, {"end", "master"}};
	struct port_option slave[] = {{"name", "x"}, {"end", "slave"}};
	struct port_options acquired = {.port = "bench", .items = master, .count = 2};
	struct bench_engine *engine = &bench->engine;
	struct error err;

	snprintf(macs, sizeof(macs), "%u", addresses);
	if (port_acquire("pipe", &acquired, &bench->fds, &err))
		bench_die(&err);
	bench_port(engine, GENERATOR, "null", generate, 2, &none);
	bench_port(engine, MASTER, "pipe", master, 2, &bench->fds);
	bench_port(engine, SLAVE, "pipe", slave, 2, &bench->fds);
	bench_port(engine, DISCARD, "null", NULL, 0, &none);
	bench_bridges(engine, bridge_of, 2 * addresses + 64);
	fdb_learn(engine->fdbs[0], fdb_key(destination, 0), MASTER, 1);
	fdb_learn(engine->fdbs[1], fdb_key(destination, 0), DISCARD, 1);
}

static void close_chain(struct bench *bench)
{
	bench_close(&bench->engine);
	for (unsigned i = 0; i < bench->fds.count; i++)
		close(bench->fds.fd[i]);
}

/* Nanoseconds a frame over one turn. */
static double turn(void *context, bool bare)
{
	static struct frame batch[FRAME_BATCH];
	struct bench *bench = context;
	struct bench_engine *engine = &bench->engine;
	uint64_t batches = 0, start = bench_now_ns();

	while (bench_now_ns() - start < BENCH_ROUND_MS * 1000000ull) {
		for (unsigned i = 0; i < BATCHES; i++) {
			if (bare) {
				bench_bare_batch(engine, GENERATOR, 0, batch);
				bench->took += bench_bare_batch(engine, SLAVE, 1, batch);
			} else {
				worker_batch(engine->workers[GENERATOR], engine->snapshot);
				worker_batch(engine->workers[SLAVE], engine->snapshot);
			}
		}
		batches += BATCHES;
	}
	bench->sent += batches * FRAME_BATCH;
	return (double)(bench_now_ns() - start) / (double)(batches * FRAME_BATCH);
}

static bool balanced(struct bench *bare, struct bench *through)
{
	struct port_counters total;

	stats_total(through->engine.stats, &total);
	return total.rx_frames == 2 * through->sent && total.tx_frames == 2 * through->sent &&
	       bare->took == bare->sent;
}

static bool measure(unsigned addresses, bool last)
{
	struct bench *both[2];
	struct bench_medians ns;
	bool whole;

	for (unsigned b = 0; b < 2; b++) {
		both[b] = calloc(1, sizeof(*both[b]));
		if (!both[b])
			abort();
		open_chain(both[b], addresses);
	}
	ns = bench_compare(turn, both[0], both[1]);
	whole = balanced(both[0], both[1]);
	bench_print("pipe", addresses, &ns, both[1]->sent, "", whole, last);
	for (unsigned b = 0; b < 2; b++) {
		close_chain(both[b]);
		free(both[b]);
	}
	return whole;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? argc - 1 : 1;
	bool whole = true;

	printf("{\"bench\": \"pipe\", \"frame_bytes\": 60, \"rounds\": %u, \"results\": [\n",
	       (unsigned)BENCH_ROUNDS);
	for (int i = 0; i < count; i++) {
		unsigned addresses = argc > 1 ? (unsigned)strtoul(argv[i + 1], NULL, 10) : 1000;

		whole &= measure(addresses ? addresses : 1, i + 1 == count);
	}
	printf("]}\n");
	return whole ? 0 : 1;
}
