/* Runs on: control thread. Workers see none of this but the snapshot domain and the statistics. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_tables.h"
#include "port_client.h"
#include "port_memory.h"

enum {
	PORTS_DEFAULT = 256,
	BRIDGES_DEFAULT = 64,
	WORKERS_DEFAULT = 320,
	SPIN_DEFAULT_US = 200,
	SETS_DEFAULT = 256,
	RULES_DEFAULT = 262144,
	POLICERS_DEFAULT = 256
};

static uint32_t tick_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec;
}

uint64_t engine_stats_bytes(unsigned workers_max, unsigned ports_max)
{
	return stats_bytes(workers_max, ports_max);
}

uint64_t engine_fdb_bytes(uint32_t entries_max)
{
	return fdb_bytes(entries_max);
}

/* --- life ------------------------------------------------------------------------------------- */

static void engine_free(struct engine *engine)
{
	snapshot_free(engine->snapshot);
	engine_rules_close(engine);
	pair_books_close(engine->pairs);
	if (engine->stats)
		stats_unmap(engine->stats);
	conntrack_unmap(engine->conntrack);
	free(engine->engine_ports);
	free(engine->engine_bridges);
	free(engine->rows);
	free(engine->ports);
	free(engine->locks);
	free(engine->fdbs);
	free(engine);
}

static int engine_tables(struct engine *engine, struct error *err)
{
	unsigned ports = engine->params.ports_max, bridges = engine->params.bridges_max;

	engine->engine_ports = calloc(ports, sizeof(*engine->engine_ports));
	engine->ports = calloc(ports, sizeof(*engine->ports));
	engine->locks = calloc(ports, sizeof(*engine->locks));
	engine->engine_bridges = calloc(bridges, sizeof(*engine->engine_bridges));
	engine->fdbs = calloc(bridges, sizeof(*engine->fdbs));
	engine->rows = calloc(engine->params.workers_max, sizeof(*engine->rows));
	if (!engine->engine_ports || !engine->ports || !engine->locks || !engine->engine_bridges ||
	    !engine->fdbs || !engine->rows)
		return error_set(err, ENOMEM, "out of memory");
	return 0;
}

static void or_default(unsigned *value, unsigned otherwise)
{
	if (!*value)
		*value = otherwise;
}

static int engine_defaults(struct engine_params *params, struct error *err)
{
	or_default(&params->ports_max, PORTS_DEFAULT);
	or_default(&params->bridges_max, BRIDGES_DEFAULT);
	or_default(&params->workers_max, WORKERS_DEFAULT);
	or_default(&params->spin_us, SPIN_DEFAULT_US);
	or_default(&params->sets_max, SETS_DEFAULT);
	or_default(&params->rules_max, RULES_DEFAULT);
	or_default(&params->policers_max, POLICERS_DEFAULT);
	or_default(&params->connections_max, CONNTRACK_DEFAULT);
	if (params->ports_max > FDB_PORTS_MAX || params->bridges_max > FDB_PORTS_MAX)
		return error_set(err, EINVAL, "at most %u ports and bridges",
				 (unsigned)FDB_PORTS_MAX);
	if (params->sets_max > RULE_NONE || params->policers_max > RULE_NONE)
		return error_set(err, EINVAL, "at most %u rule sets and policers",
				 (unsigned)RULE_NONE);
	return 0;
}

int engine_create(const struct engine_params *params, struct engine **out, struct error *err)
{
	struct engine_config nothing = {0};
	struct snapshot_parts parts;
	struct engine *engine;
	int status;

	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return error_set(err, ENOMEM, "out of memory");
	engine->params = *params;
	status = engine_defaults(&engine->params, err);
	if (status)
		goto failed;
	status = engine_tables(engine, err);
	if (status)
		goto failed;
	status = engine_rules_open(engine, err);
	if (status)
		goto failed;
	status = stats_map(params->stats_fd, engine->params.workers_max, engine->params.ports_max,
			   &engine->stats, err);
	if (status)
		goto failed;
	status = pair_books_open(engine->stats, &engine->pairs, err);
	if (status)
		goto failed;
	status = conntrack_map(params->conntrack_fd, engine->params.connections_max,
			       &engine->conntrack, err);
	if (status)
		goto failed;
	parts = engine_parts(engine);
	status = snapshot_build(&nothing, &parts, &engine->snapshot, err);
	if (status)
		goto failed;
	snapshot_domain_init(&engine->domain, engine->snapshot);
	*out = engine;
	return 0;

failed:
	engine_free(engine);
	return status;
}

int engine_take_over(struct engine *engine, struct error *err)
{
	pair_books_recover(engine->pairs);
	stats_recover(engine->stats);
	return conntrack_take_over(engine->conntrack, err);
}

static void port_free(struct engine *engine, uint16_t id)
{
	struct engine_port *port = engine->engine_ports[id];

	port->port.ops->detach(&port->port);
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_spin_destroy(&port->lock[i]);
	free(port);
	engine->engine_ports[id] = NULL;
	engine->ports[id] = NULL;
	engine->locks[id] = NULL;
}

static void bridge_free(struct engine *engine, uint16_t id)
{
	struct engine_bridge *bridge = &engine->engine_bridges[id];

	engine_view_close(bridge);
	fdb_close(bridge->fdb);
	fdb_unmap(bridge->memory, bridge->entries_max);
	*bridge = (struct engine_bridge){0};
	engine->fdbs[id] = NULL;
}

void engine_destroy(struct engine *engine)
{
	if (!engine)
		return;
	for (unsigned i = 0; i < engine->params.workers_max; i++) {
		if (engine->rows[i])
			worker_destroy(engine->rows[i]);
	}
	for (unsigned i = 0; i < engine->params.ports_max; i++) {
		if (engine->engine_ports[i])
			port_free(engine, (uint16_t)i);
	}
	for (unsigned i = 0; i < engine->params.bridges_max; i++) {
		if (engine->fdbs[i])
			bridge_free(engine, (uint16_t)i);
	}
	engine_free(engine);
}

/* --- bridges and ports ------------------------------------------------------------------------ */

int engine_bridge_add(struct engine *engine, uint16_t id, const char *name, uint32_t entries_max,
		      int fdb_fd, struct error *err)
{
	struct fdb_params params = {.entries_max = entries_max};
	struct engine_bridge *bridge;
	int status;

	if (id >= engine->params.bridges_max)
		return error_set(err, ENOSPC, "%s: at most %u bridges", name,
				 engine->params.bridges_max);
	bridge = &engine->engine_bridges[id];
	if (bridge->fdb)
		return error_set(err, EEXIST, "%s: bridge number %u is taken", name, id);
	if (entries_max < 1 || entries_max > FDB_ENTRIES_MAX)
		return error_set(err, EINVAL, "%s: FDB entries %u is not between 1 and %u", name,
				 entries_max, (unsigned)FDB_ENTRIES_MAX);
	status = fdb_map(fdb_fd, entries_max, &params.memory, err);
	if (status)
		return status;
	params.bytes = fdb_bytes(entries_max);
	status = fdb_open(&params, &bridge->fdb, err);
	if (status) {
		fdb_unmap(params.memory, entries_max);
		return status;
	}
	bridge->memory = params.memory;
	bridge->entries_max = entries_max;
	bridge->published = false;
	engine->fdbs[id] = bridge->fdb;
	return 0;
}

int engine_bridge_remove(struct engine *engine, uint16_t id, struct error *err)
{
	if (id >= engine->params.bridges_max || !engine->fdbs[id])
		return error_set(err, ENOENT, "bridge %u does not exist", id);
	if (engine->snapshot->bridges[id].fdb)
		return error_set(err, EBUSY, "bridge %u is in use", id);
	bridge_free(engine, id);
	return 0;
}

int engine_port_add(struct engine *engine, uint16_t id, const char *name, const char *type,
		    const struct port_options *options, const struct port_fds *fds,
		    struct error *err)
{
	const struct port_ops *ops = port_type_find(type);
	struct engine_port *port;
	int status;

	if (!ops)
		return error_named(err, EOPNOTSUPP, "PORT_TYPE_UNKNOWN",
				   "%s: there is no port type \"%s\"", name, type);
	if (id >= engine->params.ports_max)
		return error_set(err, ENOSPC, "%s: at most %u ports", name,
				 engine->params.ports_max);
	if (engine->ports[id])
		return error_set(err, EEXIST, "%s: port number %u is taken", name, id);
	status = port_options_check(ops, options, err);
	if (status)
		return status;
	port = calloc(1, sizeof(*port));
	if (!port)
		return error_set(err, ENOMEM, "%s: out of memory", name);
	port->port.ops = ops;
	port->port.id = id;
	strncpy(port->port.name, name, sizeof(port->port.name) - 1);
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++) {
		port->port.rxq[i] = (struct port_queue){.port = &port->port, .id = (uint16_t)i};
		port->port.txq[i] = (struct port_queue){.port = &port->port, .id = (uint16_t)i};
	}
	status = ops->attach(&port->port, options, fds, err);
	if (status) {
		free(port);
		return status;
	}
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_spin_init(&port->lock[i], PTHREAD_PROCESS_PRIVATE);
	stats_cell(engine->stats, 0, id); /* it may send without ever receiving */
	engine->engine_ports[id] = port;
	engine->ports[id] = &port->port;
	engine->locks[id] = port->lock;
	return 0;
}

int engine_port_remove(struct engine *engine, uint16_t id, bool keep_counters, struct error *err)
{
	if (id >= engine->params.ports_max || !engine->ports[id])
		return error_set(err, ENOENT, "port %u does not exist", id);
	if (engine->snapshot->bridge_ports[id].present)
		return error_set(err, EBUSY, "port %u is in use", id);
	port_free(engine, id);
	if (!keep_counters) { /* the number will be another port's */
		struct conntrack_filter begun = {.bridge = RULE_NONE, .port = id};

		stats_port_retire(engine->stats, id);
		conntrack_flush(engine->conntrack, &begun);
	}
	return 0;
}

/* --- status and counters ------------------------------------------------------------------------
 */

int engine_port_status(struct engine *engine, uint16_t id, struct port_status *status)
{
	struct engine_port *port;

	memset(status, 0, sizeof(*status));
	if (id >= engine->params.ports_max || !engine->engine_ports[id])
		return -ENOENT;
	port = engine->engine_ports[id];
	port->port.ops->poll_status(&port->port, status);
	for (unsigned q = 0; q < PORT_QUEUES_MAX; q++) {
		if (!port->workers[q])
			continue;
		if (atomic_load(&port->workers[q]->link_down))
			status->link_up = false;
		if (status->kernel_drops)
			worker_wake(port->workers[q]);
	}
	return 0;
}

void engine_port_counters(struct engine *engine, uint16_t id, struct port_counters *sum)
{
	memset(sum, 0, sizeof(*sum));
	pair_books_fold(engine->pairs);
	if (id < engine->params.ports_max)
		stats_port_sum(engine->stats, id, sum);
}

static void counters_copy(void *to, const void *from, size_t bytes)
{
	uint64_t *out = to;
	const uint64_t *in = from;

	for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
		out[i] = counter_read(&in[i]);
}

int engine_queue_counters(struct engine *engine, uint16_t id, uint16_t queue,
			  struct port_counters *cell, struct worker_counters *worker)
{
	const struct worker *serving;

	if (id >= engine->params.ports_max || !engine->engine_ports[id] ||
	    queue >= PORT_QUEUES_MAX || !engine->engine_ports[id]->workers[queue])
		return -ENOENT;
	serving = engine->engine_ports[id]->workers[queue];
	counters_copy(cell, serving->cell, sizeof(*cell));
	counters_copy(worker, serving->counters, sizeof(*worker));
	return 0;
}

void engine_total_counters(struct engine *engine, struct port_counters *sum)
{
	pair_books_fold(engine->pairs);
	stats_total(engine->stats, sum);
}

/* --- forwarding database ------------------------------------------------------------------------
 */

static struct fdb *fdb_of(const struct engine *engine, uint16_t bridge)
{
	return bridge < engine->params.bridges_max ? engine->fdbs[bridge] : NULL;
}

int engine_fdb_dump(struct engine *engine, uint16_t bridge, uint32_t *cursor, struct fdb_row *rows,
		    unsigned max)
{
	const struct fdb *fdb = fdb_of(engine, bridge);
	uint32_t now = tick_now();
	uint64_t at = *cursor;
	unsigned count = 0;

	if (!fdb)
		return -ENOENT;
	do {
		struct fdb_entry entry;

		if (!fdb_dump(fdb, &at, &entry, 1))
			continue;
		memcpy(rows[count].mac, entry.mac, sizeof(entry.mac));
		rows[count].vid = entry.vid;
		rows[count].port = entry.port;
		rows[count].is_static = entry.is_static;
		rows[count].age_s = (int32_t)(now - entry.tick) > 0 ? now - entry.tick : 0;
		rows[count].moves = entry.moves;
		count++;
	} while (at && count < max);
	*cursor = (uint32_t)at;
	return (int)count;
}

int engine_fdb_flush(struct engine *engine, uint16_t bridge, uint16_t port, uint16_t vid)
{
	struct fdb *fdb = fdb_of(engine, bridge);

	return fdb ? (int)fdb_flush(fdb, port, vid) : -ENOENT;
}

int engine_fdb_set_static(struct engine *engine, uint16_t bridge, const uint8_t mac[6],
			  uint16_t vid, uint16_t port, struct error *err)
{
	struct fdb *fdb = fdb_of(engine, bridge);
	int status;

	if (!fdb)
		return error_set(err, ENOENT, "bridge %u does not exist", bridge);
	if (mac[0] & 1)
		return error_set(err, EINVAL, "a group address has no single port");
	if (port >= engine->params.ports_max || !engine->ports[port])
		return error_set(err, ENOENT, "port %u does not exist", port);
	status = fdb_set_static(fdb, fdb_key(mac, vid), port, tick_now());
	if (status == -ENOSPC)
		return error_set(err, ENOSPC, "all %u FDB entries of the bridge are static",
				 engine->engine_bridges[bridge].entries_max);
	return status ? error_set(err, -status, "static entry refused: %s", strerror(-status)) : 0;
}

int engine_fdb_clear_static(struct engine *engine, uint16_t bridge, const uint8_t mac[6],
			    uint16_t vid, struct error *err)
{
	struct fdb *fdb = fdb_of(engine, bridge);

	if (!fdb)
		return error_set(err, ENOENT, "bridge %u does not exist", bridge);
	if (fdb_clear_static(fdb, fdb_key(mac, vid)))
		return error_set(err, ENOENT, "there is no such static entry");
	return 0;
}

unsigned engine_fdb_count(struct engine *engine, uint16_t bridge)
{
	const struct fdb *fdb = fdb_of(engine, bridge);

	return fdb ? fdb_count(fdb) : 0;
}

void engine_tick(struct engine *engine)
{
	uint32_t now = tick_now();

	conntrack_tick(engine->conntrack, now);
	for (unsigned b = 0; b < engine->params.bridges_max; b++) {
		struct fdb *fdb = engine->fdbs[b];
		uint32_t ageing = engine->snapshot->bridge_configs[b].ageing_s;

		if (fdb && ageing)
			fdb_age(fdb, now, ageing, fdb->mask + 1);
	}
}

/* --- far end of memory ports ------------------------------------------------------------ */

static struct port *memory_port(struct engine *engine, uint16_t id)
{
	if (id >= engine->params.ports_max || !engine->ports[id])
		return NULL;
	return port_is_memory(engine->ports[id]) ? engine->ports[id] : NULL;
}

int engine_memory_put(struct engine *engine, uint16_t port, uint16_t queue, const uint8_t *bytes,
		      uint32_t len)
{
	struct port *memory = memory_port(engine, port);

	return memory ? memory_put(memory, queue, bytes, len) : -ENOENT;
}

int engine_memory_take(struct engine *engine, uint16_t port, uint16_t queue, uint8_t *bytes,
		       uint32_t room)
{
	struct port *memory = memory_port(engine, port);

	return memory ? memory_take(memory, queue, bytes, room) : -ENOENT;
}

int engine_client_header(struct engine *engine, uint16_t port, uint32_t hdr_len, struct error *err)
{
	if (port >= engine->params.ports_max || !engine->ports[port] ||
	    !port_is_client(engine->ports[port]))
		return error_set(err, EINVAL, "there is no client port with the number %u", port);
	return client_set_header(engine->ports[port], hdr_len, err);
}
