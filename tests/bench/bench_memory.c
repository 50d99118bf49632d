/*
 * What the switch costs beyond its rings and its FDB lookup, in memory, on one core.
 *
 * Two programs handle the same frames in the same rings with the same table, taking turns:
 *   switch  worker_batch: the whole way of a frame, with learning and the ledger
 *   bare    rings, lookups of destination and source, exchange of buffers; batches and prefetches,
 *           nothing else. A switch that learns has to find the source of each frame where it is, so
 *           its entry is read and its port compared.
 *   blind   the same without the source, which no switch that learns can leave out: how far away
 *           the least imaginable is
 * Only they are timed. Filling the rx rings and emptying the tx rings, the far end's work, is not.
 * The same again while the switch filters VLANs. Then between null ports: one generates, one
 * discards, and `bare` looks up in between.
 *
 * Prints JSON: per number of addresses the median nanoseconds a frame of each over BENCH_ROUNDS
 * turns, and the ratio of their rates (bare / switch). Every frame is accounted for, or the exit
 * status is 1.
 *
 *     bench_memory [addresses ...]       default 4 1000 100000 1000000
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench_far.h"
#include "port_memory.h"
#include "ring.h"

enum {
	PORTS = BENCH_PORTS,
	VID = 1,
	FILL = 960, /* frames a port and turn */
	BLIND_TURNS = 5,
	NULL_BATCHES = 256 /* between two looks at the clock */
};

struct bench {
	struct bench_engine engine;
	struct bench_far far;
	bool blind;
	uint64_t lost; /* by the bare loop: no room, no port or a source elsewhere */
};

static const uint16_t in_bridge[PORTS]; /* all of them in the first one */

static void open_ports(struct bench_engine *engine, const char *type,
		       const struct port_option *options, unsigned count)
{
	static const struct port_fds none;

	for (unsigned p = 0; p < PORTS; p++)
		bench_port(engine, p, type, options, count, &none);
}

/* --- the two programs ------------------------------------------------------------------------ */

/*
 * A turn serves the ports in rounds, a batch each, so that a tx ring gets what its peers send in
 * step and never overflows: FILL frames go to each ring on average, and emptying follows each turn.
 */
__attribute__((noinline)) static void run_switch(struct bench *bench)
{
	bool any = true;

	while (any) {
		any = false;
		for (unsigned p = 0; p < PORTS; p++)
			any |= worker_batch(bench->engine.workers[p], bench->engine.snapshot) > 0;
	}
}

struct bare_ring {
	struct netmap_ring *rx;
	struct netmap_ring *tx;
	uint32_t tx_at;
};

/*
 * One batch of one port: the least that moves frames by their destination and, unless it is blind,
 * knows their sources.
 */
__attribute__((always_inline)) static inline unsigned
bare_batch(struct bare_ring *rings, const struct fdb *fdb, unsigned p, bool blind, uint64_t *lost)
{
	struct netmap_ring *rx = rings[p].rx;
	uint64_t keys[FRAME_BATCH], homes[FRAME_BATCH];
	uint64_t src_keys[FRAME_BATCH], src_homes[FRAME_BATCH];
	struct netmap_slot *slots[FRAME_BATCH];
	unsigned count = 0;
	uint32_t at = rx->head, tail = __atomic_load_n(&rx->tail, __ATOMIC_ACQUIRE);

	for (; at != tail && count < FRAME_BATCH; at = ring_next(rx, at)) {
		slots[count] = &rx->slot[at];
		__builtin_prefetch(ring_buffer(rx, slots[count]->buf_idx));
		count++;
	}
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *data = ring_buffer(rx, slots[i]->buf_idx);

		keys[i] = fdb_key(data, 0);
		homes[i] = fdb_prefetch(fdb, keys[i]);
		if (blind)
			continue;
		src_keys[i] = fdb_key(data + 6, 0);
		src_homes[i] = fdb_prefetch(fdb, src_keys[i]);
	}
	for (unsigned i = 0; i < count; i++) {
		int port = fdb_lookup_at(fdb, homes[i], keys[i]);
		struct bare_ring *to;
		struct netmap_slot *slot;
		uint32_t buf_idx;

		if (port < 0 || rings[port].tx_at == rings[port].tx->tail ||
		    (!blind && fdb_lookup_at(fdb, src_homes[i], src_keys[i]) != (int)p)) {
			++*lost;
			continue;
		}
		to = &rings[port];
		slot = &to->tx->slot[to->tx_at];
		buf_idx = slot->buf_idx;
		slot->buf_idx = slots[i]->buf_idx;
		slot->len = slots[i]->len;
		slot->flags = NS_BUF_CHANGED;
		slots[i]->buf_idx = buf_idx;
		slots[i]->flags = NS_BUF_CHANGED;
		to->tx_at = ring_next(to->tx, to->tx_at);
	}
	for (unsigned i = 0; i < PORTS; i++)
		__atomic_store_n(&rings[i].tx->head, rings[i].tx_at, __ATOMIC_RELEASE);
	__atomic_store_n(&rx->head, at, __ATOMIC_RELEASE);
	return count;
}

__attribute__((always_inline)) static inline uint64_t run_rings(struct bench *bench, bool blind)
{
	struct bare_ring rings[PORTS];
	uint64_t lost = 0;
	bool any = true;

	for (unsigned p = 0; p < PORTS; p++) {
		rings[p].rx = memory_ring(&bench->engine.ports[p], 0, false);
		rings[p].tx = memory_ring(&bench->engine.ports[p], 0, true);
		rings[p].tx_at = rings[p].tx->head;
	}
	while (any) {
		any = false;
		for (unsigned p = 0; p < PORTS; p++)
			any |= bare_batch(rings, bench->engine.fdbs[0], p, blind, &lost) > 0;
	}
	return lost;
}

__attribute__((noinline)) static uint64_t run_bare(struct bench *bench)
{
	return run_rings(bench, false);
}

__attribute__((noinline)) static uint64_t run_blind(struct bench *bench)
{
	return run_rings(bench, true);
}

/* --- turns ----------------------------------------------------------------------------------- */

/* Nanoseconds a frame over one turn of about BENCH_ROUND_MS. */
static double turn(void *context, bool bare)
{
	struct bench *bench = context;
	uint64_t spent = 0, frames = 0, start = bench_now_ns();

	/* each keeps its own position in the rings; here they meet */
	while (bench_now_ns() - start < BENCH_ROUND_MS * 1000000ull) {
		uint64_t t0;

		bench_far_fill(&bench->far);
		t0 = bench_now_ns();
		if (bare)
			bench->lost += bench->blind ? run_blind(bench) : run_bare(bench);
		else
			run_switch(bench);
		spent += bench_now_ns() - t0;
		frames += (uint64_t)PORTS * FILL;
		bench_far_empty(&bench->far);
	}
	return (double)spent / (double)frames;
}

static bool balanced(const struct bench *bare, const struct bench *through, uint64_t *drops)
{
	struct port_counters total;

	stats_total(through->engine.stats, &total);
	*drops = 0;
	for (unsigned i = 0; i < DROP_REASONS; i++)
		*drops += total.rx_drops[i] + total.tx_drops[i];
	return total.rx_frames == through->far.sent && total.tx_frames == through->far.took &&
	       total.rx_frames + total.copies == total.tx_frames + *drops &&
	       bare->far.took + bare->lost == bare->far.sent;
}

/*
 * The ports of the switch and of the bare loop have the same rings, so each has its own bench. With
 * a vid the switch filters VLANs; the bare loop knows none.
 */
static bool measure(unsigned addresses, uint16_t vid)
{
	uint32_t entries_max = addresses > 4096 ? 2 * addresses : 8192;
	struct port_option slots = {"slots", "2048"};
	struct bench *both[2];
	struct bench_medians ns;
	double blind_ns[BLIND_TURNS];
	uint64_t drops;
	char more[128];
	bool whole;

	if (entries_max > FDB_ENTRIES_MAX)
		entries_max = FDB_ENTRIES_MAX;
	for (unsigned b = 0; b < 2; b++) {
		both[b] = calloc(1, sizeof(*both[b]));
		if (!both[b])
			abort();
		open_ports(&both[b]->engine, "memory", &slots, 1);
		both[b]->engine.vid = b ? vid : 0;
		bench_bridges(&both[b]->engine, in_bridge, entries_max);
		bench_far_init(&both[b]->far, &both[b]->engine, PORTS, addresses, FILL);
	}
	ns = bench_compare(turn, both[0], both[1]);
	for (unsigned i = 0; i < BLIND_TURNS; i++) {
		both[0]->blind = true;
		blind_ns[i] = turn(both[0], true);
	}
	whole = balanced(both[0], both[1], &drops);
	snprintf(more, sizeof(more),
		 ", \"bare_lost\": %llu, \"switch_drops\": %llu, \"blind_ns\": %.2f",
		 (unsigned long long)both[0]->lost, (unsigned long long)drops,
		 bench_median(blind_ns, BLIND_TURNS));
	bench_print(vid ? "memory_vlan" : "memory", addresses, &ns, both[1]->far.sent, more, whole,
		    false);
	for (unsigned b = 0; b < 2; b++) {
		bench_close(&both[b]->engine);
		free(both[b]);
	}
	return whole;
}

/* --- null ports --------------------------------------------------------------------------------
 */

static double turn_null(void *context, bool bare)
{
	static struct frame batch[FRAME_BATCH];
	struct bench *bench = context;
	uint64_t batches = 0, start = bench_now_ns();

	while (bench_now_ns() - start < BENCH_ROUND_MS * 1000000ull) {
		for (unsigned i = 0; i < NULL_BATCHES; i++) {
			if (bare)
				bench->far.took += bench_bare_batch(&bench->engine, 0, 0, batch);
			else
				worker_batch(bench->engine.workers[0], bench->engine.snapshot);
		}
		batches += NULL_BATCHES;
	}
	bench->far.sent += batches * FRAME_BATCH;
	return (double)(bench_now_ns() - start) / (double)(batches * FRAME_BATCH);
}

static bool measure_null(unsigned addresses, bool last)
{
	static const uint8_t destination[6] = {2, 0, 0, 0, 0, 1};
	uint32_t entries_max = 2 * addresses + 64;
	char macs[16];
	struct port_option options[] = {{"generate_frames_per_s", "4294967295"},
					{"generate_macs", macs}};
	struct bench *both[2];
	struct bench_medians ns;
	uint64_t drops;
	bool whole;

	if (entries_max > FDB_ENTRIES_MAX)
		entries_max = FDB_ENTRIES_MAX;
	snprintf(macs, sizeof(macs), "%u", addresses);
	for (unsigned b = 0; b < 2; b++) {
		both[b] = calloc(1, sizeof(*both[b]));
		if (!both[b])
			abort();
		open_ports(&both[b]->engine, "null", options, 2);
		bench_bridges(&both[b]->engine, in_bridge, entries_max);
		fdb_learn(both[b]->engine.fdbs[0], fdb_key(destination, 0), 1, 1);
	}
	ns = bench_compare(turn_null, both[0], both[1]); /* the switch learns the sources first */
	both[1]->far.took = both[1]->far.sent;		 /* null ports take everything */
	whole = balanced(both[0], both[1], &drops) && drops == 0;
	bench_print("null", addresses, &ns, both[1]->far.sent, "", whole, last);
	for (unsigned b = 0; b < 2; b++) {
		bench_close(&both[b]->engine);
		free(both[b]);
	}
	return whole;
}

int main(int argc, char **argv)
{
	static const unsigned defaults[] = {4, 1000, 100000, 1000000};
	unsigned count = argc > 1 ? (unsigned)argc - 1 : 4;
	bool balanced = true;

	printf("{\"bench\": \"memory\", \"ports\": %u, \"frame_bytes\": %u, \"rounds\": %u, "
	       "\"results\": [\n",
	       (unsigned)PORTS, (unsigned)BENCH_FAR_BYTES, (unsigned)BENCH_ROUNDS);
	for (unsigned i = 0; i < count; i++) {
		unsigned addresses =
		    argc > 1 ? (unsigned)strtoul(argv[i + 1], NULL, 10) : defaults[i];

		if (addresses < PORTS)
			addresses = PORTS;
		if (addresses > FDB_ENTRIES_MAX)
			addresses = FDB_ENTRIES_MAX;
		balanced &= measure(addresses, 0);
		balanced &= measure(addresses, VID);
		balanced &= measure_null(addresses, i + 1 == count);
	}
	printf("]}\n");
	return balanced ? 0 : 1;
}
