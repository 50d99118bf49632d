#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bench_engine.h"

void bench_die(const struct error *err)
{
	fprintf(stderr, "bench: %s\n", err->message);
	exit(1);
}

uint64_t bench_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

struct bench_medians bench_compare(bench_turn *turn, void *bare, void *through)
{
	double ns[2][BENCH_ROUNDS];

	turn(bare, true);
	turn(through, false);
	for (unsigned round = 0; round < BENCH_ROUNDS; round++) {
		ns[0][round] = turn(bare, true);
		ns[1][round] = turn(through, false);
	}
	return (struct bench_medians){.bare = bench_median(ns[0], BENCH_ROUNDS),
				      .through = bench_median(ns[1], BENCH_ROUNDS)};
}

void bench_print(const char *port, unsigned addresses, const struct bench_medians *ns,
		 uint64_t frames, const char *more, bool balanced, bool last)
{
	printf("    {\"port\": \"%s\", \"macs\": %u, \"bare_ns\": %.2f, \"switch_ns\": %.2f, "
	       "\"ratio\": %.3f, \"switch_frames\": %llu%s, \"balanced\": %s}%s\n",
	       port, addresses, ns->bare, ns->through, ns->bare / ns->through,
	       (unsigned long long)frames, more, balanced ? "true" : "false", last ? "" : ",");
	fflush(stdout);
}

void bench_port(struct bench_engine *engine, unsigned p, const char *type,
		const struct port_option *options, unsigned count, const struct port_fds *fds)
{
	struct port_options list = {.port = "bench", .items = options, .count = count};
	struct port *port = &engine->ports[p];
	struct error err;

	port->ops = port_type_find(type);
	port->id = (uint16_t)p;
	for (unsigned q = 0; q < PORT_QUEUES_MAX; q++) {
		port->rxq[q] = (struct port_queue){.port = port, .id = (uint16_t)q};
		port->txq[q] = (struct port_queue){.port = port, .id = (uint16_t)q};
		pthread_spin_init(&engine->locks[p][q], PTHREAD_PROCESS_PRIVATE);
	}
	if (port->ops->attach(port, &list, fds, &err))
		bench_die(&err);
	engine->port_table[p] = port;
	engine->lock_table[p] = engine->locks[p];
	engine->port_count = p + 1;
}

static void open_fdbs(struct bench_engine *engine)
{
	struct error err;

	for (unsigned b = 0; b < engine->bridge_count; b++) {
		struct fdb_params params = {.entries_max = engine->entries_max};

		if (fdb_map(-1, params.entries_max, &params.memory, &err))
			bench_die(&err);
		params.bytes = fdb_bytes(params.entries_max);
		if (fdb_open(&params, &engine->fdbs[b], &err))
			bench_die(&err);
		engine->fdb_memory[b] = params.memory;
	}
}

static void create_workers(struct bench_engine *engine)
{
	struct error err;

	for (unsigned p = 0; p < engine->port_count; p++) {
		struct worker_params params = {.port = &engine->ports[p],
					       .row = p,
					       .ports_max = engine->port_count,
					       .stats = engine->stats,
					       .domain = &engine->domain};

		if (worker_create(&params, false, &engine->workers[p], &err))
			bench_die(&err);
	}
}

void bench_bridges(struct bench_engine *engine, const uint16_t *bridge_of, uint32_t entries_max)
{
	struct bridge_config bridges[BENCH_BRIDGES_MAX];
	struct port_config ports[BENCH_PORTS_MAX];
	struct engine_config config = {
	    .bridges = bridges, .ports = ports, .port_count = engine->port_count};
	struct snapshot_parts parts = {.ports_max = engine->port_count,
				       .bridges_max = BENCH_BRIDGES_MAX,
				       .ports = engine->port_table,
				       .locks = engine->lock_table,
				       .fdbs = engine->fdbs,
				       .ordinals = engine->port_count};
	struct error err;

	for (unsigned p = 0; p < engine->port_count; p++) {
		ports[p] = (struct port_config){.id = (uint16_t)p,
						.bridge = bridge_of[p],
						.admin_up = true,
						.learning = true,
						.flood = true,
						.vlan_mode = VLAN_ACCESS,
						.pvid = engine->vid};
		if (bridge_of[p] >= config.bridge_count)
			config.bridge_count = bridge_of[p] + 1u;
	}
	for (unsigned b = 0; b < config.bridge_count; b++)
		bridges[b] = (struct bridge_config){.id = (uint16_t)b,
						    .vlan_filtering = engine->vid != 0,
						    .learning = true,
						    .flood_unknown_unicast = true,
						    .flood_multicast = true,
						    .flood_broadcast = true};
	engine->bridge_count = config.bridge_count;
	engine->entries_max = entries_max;
	open_fdbs(engine);
	if (stats_map(-1, engine->port_count, engine->port_count, &engine->stats, &err) ||
	    snapshot_build(&config, &parts, &engine->snapshot, &err))
		bench_die(&err);
	snapshot_domain_init(&engine->domain, engine->snapshot);
	create_workers(engine);
}

void bench_close(struct bench_engine *engine)
{
	for (unsigned p = 0; p < engine->port_count; p++)
		worker_destroy(engine->workers[p]);
	snapshot_free(engine->snapshot);
	stats_unmap(engine->stats);
	for (unsigned b = 0; b < engine->bridge_count; b++) {
		fdb_close(engine->fdbs[b]);
		fdb_unmap(engine->fdb_memory[b], engine->entries_max);
	}
	for (unsigned p = 0; p < engine->port_count; p++)
		engine->ports[p].ops->detach(&engine->ports[p]);
}

uint64_t bench_bare_batch(struct bench_engine *engine, unsigned p, unsigned bridge,
			  struct frame batch[FRAME_BATCH])
{
	const struct fdb *fdb = engine->fdbs[bridge];
	struct port *in = &engine->ports[p];
	struct frame *out[BENCH_PORTS][FRAME_BATCH];
	unsigned counts[BENCH_PORTS] = {0};
	uint64_t keys[FRAME_BATCH], homes[FRAME_BATCH], sent = 0;
	struct port_counters *cell = stats_cell(engine->stats, p, p);
	int count = in->ops->rx(&in->rxq[0], batch, FRAME_BATCH, cell);

	for (int i = 0; i < count; i++) {
		keys[i] = fdb_key(batch[i].data, 0);
		homes[i] = fdb_prefetch(fdb, keys[i]);
	}
	for (int i = 0; i < count; i++) {
		int to = fdb_lookup_at(fdb, homes[i], keys[i]);

		if (to >= 0)
			out[to][counts[to]++] = &batch[i];
	}
	for (unsigned to = 0; to < BENCH_PORTS; to++) {
		struct port *port = &engine->ports[to];
		struct tx_report report = {0};

		if (!counts[to])
			continue;
		port->ops->tx(&port->txq[0], out[to], counts[to], &report);
		sent += report.sent;
	}
	in->ops->rx_done(&in->rxq[0]);
	return sent;
}
