/*
 * What the switch costs beyond its rings and its FDB lookup, in memory, on one core.
 *
 * Two programs handle the same frames in the same rings with the same table, taking turns:
 *   switch  worker_batch: the whole way of a frame, with learning and the ledger
 *   bare    rings, destination lookup, exchange of buffers; batches and prefetches, nothing else
 * Only they are timed. Filling the rx rings and emptying the tx rings, the far end's work, is not.
 * Then the same between null ports: one generates, one discards, and `bare` looks up in between.
 *
 * Prints JSON: per number of addresses the median nanoseconds a frame of each over ROUNDS turns,
 * and the ratio of their rates (bare / switch). Every frame is accounted for, or the exit status
 * is 1.
 *
 *     bench_memory [addresses ...]       default 4 1000 100000
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fdb.h"
#include "parse.h"
#include "port_memory.h"
#include "ring.h"
#include "snapshot.h"
#include "worker.h"

enum {
	PORTS = 4,
	ROUNDS = 9,
	ROUND_MS = 150,
	SLOTS = 1024,
	FILL = 960, /* frames a port and turn */
	FRAME_BYTES = 60,
	NULL_BATCHES = 256 /* between two looks at the clock */
};

struct bench {
	struct port ports[PORTS];
	struct port *port_table[PORTS];
	pthread_spinlock_t locks[PORTS][PORT_QUEUES_MAX];
	pthread_spinlock_t *lock_table[PORTS];
	void *fdb_memory;
	struct fdb *fdb;
	struct stats *stats;
	struct snapshot *snapshot;
	struct snapshot_domain domain;
	struct worker *workers[PORTS];
	unsigned addresses;
	uint64_t random;
	uint64_t sent; /* frames filled in */
	uint64_t took; /* frames emptied */
};

static void die(const struct error *err)
{
	fprintf(stderr, "bench_memory: %s\n", err->message);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t random_below(struct bench *bench, uint32_t n)
{
	bench->random ^= bench->random << 13;
	bench->random ^= bench->random >> 7;
	bench->random ^= bench->random << 17;
	return (uint32_t)((bench->random >> 32) * n >> 32);
}

/* --- a switch without threads -------------------------------------------------------------------
 */

static void open_ports(struct bench *bench, const char *type, const struct port_option *options,
		       unsigned count)
{
	struct port_options list = {.port = "bench", .items = options, .count = count};
	struct port_fds fds = {0};
	struct error err;

	for (unsigned p = 0; p < PORTS; p++) {
		struct port *port = &bench->ports[p];

		port->ops = port_type_find(type);
		port->id = (uint16_t)p;
		for (unsigned q = 0; q < PORT_QUEUES_MAX; q++) {
			port->rxq[q] = (struct port_queue){.port = port, .id = (uint16_t)q};
			port->txq[q] = (struct port_queue){.port = port, .id = (uint16_t)q};
			pthread_spin_init(&bench->locks[p][q], PTHREAD_PROCESS_PRIVATE);
		}
		if (port->ops->attach(port, &list, &fds, &err))
			die(&err);
		bench->port_table[p] = port;
		bench->lock_table[p] = bench->locks[p];
	}
}

static void open_bridge(struct bench *bench, uint32_t entries_max)
{
	struct fdb_params params = {.entries_max = entries_max};
	struct bridge_config bridge = {.learning = true,
				       .flood_unknown_unicast = true,
				       .flood_multicast = true,
				       .flood_broadcast = true};
	struct port_config ports[PORTS];
	struct engine_config config = {
	    .bridges = &bridge, .bridge_count = 1, .ports = ports, .port_count = PORTS};
	struct snapshot_parts parts = {.ports_max = PORTS,
				       .bridges_max = 1,
				       .ports = bench->port_table,
				       .locks = bench->lock_table,
				       .fdbs = &bench->fdb,
				       .ordinals = PORTS};
	struct error err;

	if (fdb_map(-1, entries_max, &params.memory, &err))
		die(&err);
	params.bytes = fdb_bytes(entries_max);
	if (fdb_open(&params, &bench->fdb, &err))
		die(&err);
	bench->fdb_memory = params.memory;
	for (unsigned p = 0; p < PORTS; p++)
		ports[p] = (struct port_config){
		    .id = (uint16_t)p, .admin_up = true, .learning = true, .flood = true};
	if (stats_map(-1, PORTS, PORTS, &bench->stats, &err) ||
	    snapshot_build(&config, &parts, &bench->snapshot, &err))
		die(&err);
	snapshot_domain_init(&bench->domain, bench->snapshot);
	for (unsigned p = 0; p < PORTS; p++) {
		struct worker_params worker = {.port = &bench->ports[p],
					       .row = p,
					       .ports_max = PORTS,
					       .stats = bench->stats,
					       .domain = &bench->domain};

		if (worker_create(&worker, false, &bench->workers[p], &err))
			die(&err);
	}
}

static void close_all(struct bench *bench, uint32_t entries_max)
{
	for (unsigned p = 0; p < PORTS; p++)
		worker_destroy(bench->workers[p]);
	snapshot_free(bench->snapshot);
	stats_unmap(bench->stats);
	fdb_close(bench->fdb);
	fdb_unmap(bench->fdb_memory, entries_max);
	for (unsigned p = 0; p < PORTS; p++)
		bench->ports[p].ops->detach(&bench->ports[p]);
}

/* --- the far end ---------------------------------------------------------------------------------
 */

/* Address n lives at port n % PORTS. */
static void address(uint8_t *at, uint32_t n)
{
	at[0] = 2;
	at[1] = 0;
	at[2] = (uint8_t)(n >> 24);
	at[3] = (uint8_t)(n >> 16);
	at[4] = (uint8_t)(n >> 8);
	at[5] = (uint8_t)n;
}

static void learn_all(struct bench *bench)
{
	uint8_t mac[6];

	for (uint32_t n = 0; n < bench->addresses; n++) {
		address(mac, n);
		fdb_learn(bench->fdb, fdb_key(mac, 0), (uint16_t)(n % PORTS), 1);
	}
}

static void fill(struct bench *bench)
{
	uint32_t each = bench->addresses / PORTS;

	for (unsigned p = 0; p < PORTS; p++) {
		struct netmap_ring *ring = memory_ring(&bench->ports[p], 0, false);
		uint32_t at = ring->tail;

		for (unsigned i = 0; i < FILL; i++) {
			struct netmap_slot *slot = &ring->slot[at];
			uint8_t *data = ring_buffer(ring, slot->buf_idx);
			uint32_t to = (p + 1 + random_below(bench, PORTS - 1)) % PORTS;

			address(data, random_below(bench, each) * PORTS + to);
			address(data + 6, random_below(bench, each) * PORTS + p);
			data[12] = 0x08;
			data[13] = 0x00;
			slot->len = FRAME_BYTES;
			slot->flags = 0;
			at = ring_next(ring, at);
		}
		ring->tail = at;
		bench->sent += FILL;
	}
}

static void empty(struct bench *bench)
{
	for (unsigned p = 0; p < PORTS; p++) {
		struct netmap_ring *ring = memory_ring(&bench->ports[p], 0, true);
		uint32_t last = (ring->head ? ring->head : ring->num_slots) - 1;

		bench->took +=
		    ring->num_slots - 1 - ring_space(ring->head, ring->tail, ring->num_slots);
		ring->tail = last;
	}
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
			any |= worker_batch(bench->workers[p], bench->snapshot) > 0;
	}
}

struct bare_ring {
	struct netmap_ring *rx;
	struct netmap_ring *tx;
	uint32_t tx_at;
};

/* One batch of one port: the least that moves frames by their destination. */
static inline unsigned bare_batch(struct bare_ring *rings, const struct fdb *fdb, unsigned p,
				  uint64_t *lost)
{
	struct netmap_ring *rx = rings[p].rx;
	uint64_t keys[FRAME_BATCH], homes[FRAME_BATCH];
	struct netmap_slot *slots[FRAME_BATCH];
	unsigned count = 0;
	uint32_t at = rx->head, tail = __atomic_load_n(&rx->tail, __ATOMIC_ACQUIRE);

	for (; at != tail && count < FRAME_BATCH; at = ring_next(rx, at)) {
		slots[count] = &rx->slot[at];
		__builtin_prefetch(ring_buffer(rx, slots[count]->buf_idx));
		count++;
	}
	for (unsigned i = 0; i < count; i++) {
		keys[i] = fdb_key(ring_buffer(rx, slots[i]->buf_idx), 0);
		homes[i] = fdb_prefetch(fdb, keys[i]);
	}
	for (unsigned i = 0; i < count; i++) {
		int port = fdb_lookup_at(fdb, homes[i], keys[i]);
		struct bare_ring *to;
		struct netmap_slot *slot;
		uint32_t buf_idx;

		if (port < 0 || rings[port].tx_at == rings[port].tx->tail) {
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

__attribute__((noinline)) static uint64_t run_bare(struct bench *bench)
{
	struct bare_ring rings[PORTS];
	uint64_t lost = 0;
	bool any = true;

	for (unsigned p = 0; p < PORTS; p++) {
		rings[p].rx = memory_ring(&bench->ports[p], 0, false);
		rings[p].tx = memory_ring(&bench->ports[p], 0, true);
		rings[p].tx_at = rings[p].tx->head;
	}
	while (any) {
		any = false;
		for (unsigned p = 0; p < PORTS; p++)
			any |= bare_batch(rings, bench->fdb, p, &lost) > 0;
	}
	return lost;
}

/* --- turns ----------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

/* Nanoseconds a frame over one turn of about ROUND_MS. */
static double turn(struct bench *bench, bool bare, uint64_t *lost)
{
	uint64_t spent = 0, frames = 0, start = now_ns();

	/* each keeps its own position in the rings; here they meet */
	while (now_ns() - start < ROUND_MS * 1000000ull) {
		uint64_t t0;

		fill(bench);
		t0 = now_ns();
		if (bare)
			*lost += run_bare(bench);
		else
			run_switch(bench);
		spent += now_ns() - t0;
		frames += (uint64_t)PORTS * FILL;
		empty(bench);
	}
	return (double)spent / (double)frames;
}

/* The ports of the switch and of the bare loop have the same rings, so each has its own bench. */
static bool measure(unsigned addresses, bool last)
{
	uint32_t entries_max = addresses > 4096 ? 2 * addresses : 8192;
	struct port_option slots = {"slots", "2048"};
	struct bench *both[2];
	struct port_counters total;
	double ns[2][ROUNDS];
	uint64_t lost = 0, drops = 0;
	double bare_ns, switch_ns;
	bool balanced;

	for (unsigned b = 0; b < 2; b++) {
		both[b] = calloc(1, sizeof(*both[b]));
		if (!both[b])
			abort();
		both[b]->addresses = addresses;
		both[b]->random = 88172645463325252u;
		open_ports(both[b], "memory", &slots, 1);
		open_bridge(both[b], entries_max);
		learn_all(both[b]);
		turn(both[b], b == 0, &lost); /* warm */
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned b = 0; b < 2; b++)
			ns[b][round] = turn(both[b], b == 0, &lost);
	}
	stats_total(both[1]->stats, &total);
	for (unsigned i = 0; i < DROP_REASONS; i++)
		drops += total.rx_drops[i] + total.tx_drops[i];
	balanced = total.rx_frames == both[1]->sent && total.tx_frames == both[1]->took &&
		   total.rx_frames + total.copies == total.tx_frames + drops &&
		   both[0]->took + lost == both[0]->sent;
	bare_ns = median(ns[0], ROUNDS);
	switch_ns = median(ns[1], ROUNDS);
	printf("    {\"port\": \"memory\", \"macs\": %u, \"bare_ns\": %.2f, \"switch_ns\": %.2f, "
	       "\"ratio\": %.3f, "
	       "\"switch_frames\": %llu, \"bare_lost\": %llu, \"switch_drops\": %llu, "
	       "\"balanced\": %s}%s\n",
	       addresses, bare_ns, switch_ns, bare_ns / switch_ns,
	       (unsigned long long)both[1]->sent, (unsigned long long)lost,
	       (unsigned long long)drops, balanced ? "true" : "false", last ? "" : ",");
	fflush(stdout);
	for (unsigned b = 0; b < 2; b++) {
		close_all(both[b], entries_max);
		free(both[b]);
	}
	return balanced;
}

/* --- null ports --------------------------------------------------------------------------------
 */

/* From the generator to the one port that the lookup names. */
static void bare_null_batch(struct bench *bench, struct frame *batch)
{
	struct port *in = &bench->ports[0];
	struct frame *out[PORTS][FRAME_BATCH];
	unsigned counts[PORTS] = {0};
	uint64_t keys[FRAME_BATCH], homes[FRAME_BATCH];
	struct port_counters *cell = stats_cell(bench->stats, 0, 0);
	int count = in->ops->rx(&in->rxq[0], batch, FRAME_BATCH, cell);

	for (int i = 0; i < count; i++) {
		keys[i] = fdb_key(batch[i].data, 0);
		homes[i] = fdb_prefetch(bench->fdb, keys[i]);
	}
	for (int i = 0; i < count; i++) {
		int to = fdb_lookup_at(bench->fdb, homes[i], keys[i]);

		if (to >= 0)
			out[to][counts[to]++] = &batch[i];
	}
	for (unsigned p = 0; p < PORTS; p++) {
		struct tx_report report = {0};

		if (!counts[p])
			continue;
		in->ops->tx(&bench->ports[p].txq[0], out[p], counts[p], &report);
		bench->took += report.sent;
	}
	in->ops->rx_done(&in->rxq[0]);
}

static double turn_null(struct bench *bench, bool bare)
{
	static struct frame batch[FRAME_BATCH];
	uint64_t batches = 0, start = now_ns();

	while (now_ns() - start < ROUND_MS * 1000000ull) {
		for (unsigned i = 0; i < NULL_BATCHES; i++) {
			if (bare)
				bare_null_batch(bench, batch);
			else
				worker_batch(bench->workers[0], bench->snapshot);
		}
		batches += NULL_BATCHES;
	}
	bench->sent += batches * FRAME_BATCH;
	return (double)(now_ns() - start) / (double)(batches * FRAME_BATCH);
}

static bool measure_null(unsigned addresses, bool last)
{
	static const uint8_t destination[6] = {2, 0, 0, 0, 0, 1};
	char macs[16];
	struct port_option options[] = {{"generate_frames_per_s", "4294967295"},
					{"generate_macs", macs}};
	struct bench *both[2];
	struct port_counters total;
	double ns[2][ROUNDS];
	double bare_ns, switch_ns;
	bool balanced;

	snprintf(macs, sizeof(macs), "%u", addresses);
	for (unsigned b = 0; b < 2; b++) {
		both[b] = calloc(1, sizeof(*both[b]));
		if (!both[b])
			abort();
		open_ports(both[b], "null", options, 2);
		open_bridge(both[b], 2 * addresses + 64);
		fdb_learn(both[b]->fdb, fdb_key(destination, 0), 1, 1);
		turn_null(both[b], b == 0); /* warm; the switch learns the sources */
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned b = 0; b < 2; b++)
			ns[b][round] = turn_null(both[b], b == 0);
	}
	stats_total(both[1]->stats, &total);
	balanced = total.rx_frames == both[1]->sent && total.tx_frames == both[1]->sent &&
		   both[0]->took == both[0]->sent;
	bare_ns = median(ns[0], ROUNDS);
	switch_ns = median(ns[1], ROUNDS);
	printf("    {\"port\": \"null\", \"macs\": %u, \"bare_ns\": %.2f, \"switch_ns\": %.2f, "
	       "\"ratio\": %.3f, \"switch_frames\": %llu, \"balanced\": %s}%s\n",
	       addresses, bare_ns, switch_ns, bare_ns / switch_ns,
	       (unsigned long long)both[1]->sent, balanced ? "true" : "false", last ? "" : ",");
	for (unsigned b = 0; b < 2; b++) {
		close_all(both[b], 2 * addresses + 64);
		free(both[b]);
	}
	return balanced;
}

int main(int argc, char **argv)
{
	static const unsigned defaults[] = {4, 1000, 100000};
	unsigned count = argc > 1 ? (unsigned)argc - 1 : 3;
	bool balanced = true;

	printf("{\"bench\": \"memory\", \"ports\": %u, \"frame_bytes\": %u, \"rounds\": %u, "
	       "\"results\": [\n",
	       (unsigned)PORTS, (unsigned)FRAME_BYTES, (unsigned)ROUNDS);
	for (unsigned i = 0; i < 2 * count; i++) {
		unsigned n = i % count;
		unsigned addresses =
		    argc > 1 ? (unsigned)strtoul(argv[n + 1], NULL, 10) : defaults[n];

		if (addresses < PORTS)
			addresses = PORTS;
		balanced &= i < count ? measure(addresses, false)
				      : measure_null(addresses, i + 1 == 2 * count);
	}
	printf("]}\n");
	return balanced ? 0 : 1;
}
