/*
 * What a frame costs as a switch grows, in memory, on one core.
 *
 *     bench_growth PORTS BRIDGES ADDRESSES       of each bridge; PORTS of all of them
 *
 * Memory ports in bridges of PORTS / BRIDGES each; every frame goes from one port of a bridge to
 * another one, addresses at random. Only the switch's own work (worker_batch) is timed, not the far
 * end's. Prints JSON: nanoseconds a frame, the median of BENCH_ROUNDS turns. Every frame arrives,
 * or the exit status is 1.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench_far.h"

enum {
	SLOTS = 256, /* of each ring: with 256 ports 128 Ki frames' first lines */
	FILL = 64,   /* frames a port and turn: a batch */
	TURN_MS = 50
};

static void open_switch(struct bench_engine *engine, unsigned ports, unsigned bridges,
			unsigned addresses)
{
	static uint16_t bridge_of[BENCH_PORTS_MAX];
	struct port_option slots = {"slots", "256"};
	struct port_fds none = {0};
	uint32_t entries = addresses > 4096 ? 2 * addresses : 8192;

	for (unsigned p = 0; p < ports; p++) {
		bench_port(engine, p, "memory", &slots, 1, &none);
		bridge_of[p] = (uint16_t)(p / (ports / bridges));
	}
	bench_bridges(engine, bridge_of, entries > FDB_ENTRIES_MAX ? FDB_ENTRIES_MAX : entries);
}

static double turn(struct bench_engine *engine, struct bench_far *far)
{
	uint64_t spent = 0, frames = 0, start = bench_now_ns();

	while (bench_now_ns() - start < TURN_MS * 1000000ull) {
		uint64_t before;

		bench_far_fill(far);
		before = bench_now_ns();
		for (unsigned p = 0; p < engine->port_count; p++)
			worker_batch(engine->workers[p], engine->snapshot);
		spent += bench_now_ns() - before;
		frames += (uint64_t)engine->port_count * FILL;
		bench_far_empty(far);
	}
	return (double)spent / (double)frames;
}

static unsigned argument(const char *text, unsigned most)
{
	unsigned long value = strtoul(text, NULL, 10);

	return value > most ? most : (unsigned)value;
}

int main(int argc, char **argv)
{
	static struct bench_engine engine;
	static struct bench_far far;
	double ns[BENCH_ROUNDS];
	unsigned ports, bridges, addresses;

	if (argc != 4) {
		fprintf(stderr, "usage: bench_growth PORTS BRIDGES ADDRESSES\n");
		return 2;
	}
	ports = argument(argv[1], BENCH_PORTS_MAX);
	bridges = argument(argv[2], BENCH_BRIDGES_MAX);
	addresses = argument(argv[3], FDB_ENTRIES_MAX);
	if (bridges == 0 || ports % bridges || ports / bridges < 2) {
		fprintf(stderr, "bench_growth: at least two ports a bridge, as many in each\n");
		return 2;
	}
	open_switch(&engine, ports, bridges, addresses);
	bench_far_init(&far, &engine, ports / bridges, addresses, FILL);
	turn(&engine, &far);
	for (unsigned round = 0; round < BENCH_ROUNDS; round++)
		ns[round] = turn(&engine, &far);
	printf("{\"ports\": %u, \"bridges\": %u, \"addresses\": %u, \"ns\": %.2f, "
	       "\"balanced\": %s}\n",
	       ports, bridges, addresses, bench_median(ns, BENCH_ROUNDS),
	       far.took == far.sent ? "true" : "false");
	bench_close(&engine);
	return far.took == far.sent ? 0 : 1;
}
