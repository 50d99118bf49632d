/* Runs on: control thread. Workers see none of this but the snapshot domain and the statistics. */
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fdb.h"
#include "port_memory.h"
#include "snapshot.h"
#include "worker.h"

enum { PORTS_DEFAULT = 256, BRIDGES_DEFAULT = 64, WORKERS_DEFAULT = 320, SPIN_DEFAULT_US = 200 };

struct engine_port {
	struct port port;
	pthread_mutex_t lock[PORT_QUEUES_MAX]; /* of the transmit queues */
	struct worker *workers[PORT_QUEUES_MAX];
};

struct engine_bridge {
	struct fdb *fdb;
	void *memory;
	uint32_t entries_max;
	bool published; /* was part of a configuration: its FDB is in step with the members */
};

struct engine {
	struct engine_params params;
	struct stats *stats;
	struct snapshot_domain domain;
	struct snapshot *snapshot; /* the one in force */
	struct engine_port **engine_ports;
	struct engine_bridge *engine_bridges;
	struct worker **rows; /* worker of each row of the statistics */
	/* the same by id, as snapshot_build takes it */
	struct port **ports;
	pthread_mutex_t **locks;
	struct fdb **fdbs;
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

static struct snapshot_parts engine_parts(const struct engine *engine)
{
	return (struct snapshot_parts){
	    .ports_max = engine->params.ports_max,
	    .bridges_max = engine->params.bridges_max,
	    .ports = engine->ports,
	    .locks = engine->locks,
	    .fdbs = engine->fdbs,
	};
}

static void engine_free(struct engine *engine)
{
	snapshot_free(engine->snapshot);
	if (engine->stats)
		stats_unmap(engine->stats);
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
	if (!engine->params.ports_max)
		engine->params.ports_max = PORTS_DEFAULT;
	if (!engine->params.bridges_max)
		engine->params.bridges_max = BRIDGES_DEFAULT;
	if (!engine->params.workers_max)
		engine->params.workers_max = WORKERS_DEFAULT;
	if (!engine->params.spin_us)
		engine->params.spin_us = SPIN_DEFAULT_US;
	if (engine->params.ports_max > FDB_PORTS_MAX ||
	    engine->params.bridges_max > FDB_PORTS_MAX) {
		status =
		    error_set(err, EINVAL, "at most %u ports and bridges", (unsigned)FDB_PORTS_MAX);
		goto failed;
	}
	status = engine_tables(engine, err);
	if (status)
		goto failed;
	status = stats_map(params->stats_fd, engine->params.workers_max, engine->params.ports_max,
			   &engine->stats, err);
	if (status)
		goto failed;
	if (params->recover)
		stats_recover(engine->stats);
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

static void port_free(struct engine *engine, uint16_t id)
{
	struct engine_port *port = engine->engine_ports[id];

	port->port.ops->detach(&port->port);
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_mutex_destroy(&port->lock[i]);
	free(port);
	engine->engine_ports[id] = NULL;
	engine->ports[id] = NULL;
	engine->locks[id] = NULL;
}

static void bridge_free(struct engine *engine, uint16_t id)
{
	struct engine_bridge *bridge = &engine->engine_bridges[id];

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
	pthread_mutexattr_t attr;
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
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_mutex_init(&port->lock[i], &attr);
	pthread_mutexattr_destroy(&attr);
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
	if (!keep_counters)
		stats_port_retire(engine->stats, id);
	return 0;
}

/* --- publishing --------------------------------------------------------------------------------
 */

/* Who used a row is remembered in it, so that a queue finds its counters again. */
static uint64_t row_owner(uint16_t port, uint16_t queue)
{
	return ((uint64_t)port << 16 | queue) + 1;
}

/* The queue's old row, else one nobody had, else any free one; workers_max: none. */
static unsigned row_choose(const struct engine *engine, uint64_t owner)
{
	unsigned fresh = engine->params.workers_max, any = engine->params.workers_max;

	for (unsigned i = engine->params.workers_max; i-- > 0;) {
		uint64_t last = counter_read(&stats_worker(engine->stats, i)->owner);

		if (engine->rows[i])
			continue;
		if (last == owner)
			return i;
		if (!last)
			fresh = i;
		any = i;
	}
	return fresh < engine->params.workers_max ? fresh : any;
}

static int worker_add(struct engine *engine, struct engine_port *port, uint16_t queue, int cpu,
		      struct error *err)
{
	uint64_t owner = row_owner(port->port.id, queue);
	struct worker_params params = {
	    .port = &port->port,
	    .queue = queue,
	    .row = row_choose(engine, owner),
	    .ports_max = engine->params.ports_max,
	    .cpu = cpu,
	    .spin_us = engine->params.spin_us,
	    .stats = engine->stats,
	    .domain = &engine->domain,
	};
	int status;

	if (params.row == engine->params.workers_max)
		return error_set(err, ENOSPC, "%s: at most %u receive queues in all",
				 port->port.name, engine->params.workers_max);
	status = worker_create(&params, true, &port->workers[queue], err);
	if (status)
		return status;
	counter_add(&stats_worker(engine->stats, params.row)->owner,
		    owner - counter_read(&stats_worker(engine->stats, params.row)->owner));
	engine->rows[params.row] = port->workers[queue];
	return 0;
}

static void worker_remove(struct engine *engine, struct engine_port *port, unsigned queue)
{
	struct worker *worker = port->workers[queue];

	engine->rows[worker->row] = NULL;
	port->workers[queue] = NULL;
	worker_destroy(worker);
}

static int cpu_of(const struct port_config *config, unsigned queue)
{
	return config->cpu < 0 ? -1 : config->cpu + (int)queue;
}

/* Ends the workers of ports that `snapshot` does not name. */
static void workers_end(struct engine *engine, const struct snapshot *snapshot)
{
	for (unsigned id = 0; id < engine->params.ports_max; id++) {
		struct engine_port *port = engine->engine_ports[id];

		if (!port || snapshot->bridge_ports[id].present)
			continue;
		for (unsigned q = 0; q < PORT_QUEUES_MAX; q++) {
			if (port->workers[q])
				worker_remove(engine, port, q);
		}
	}
}

/* Makes the workers that `snapshot` needs and that are not there, parked. */
static int workers_make(struct engine *engine, const struct snapshot *snapshot, struct error *err)
{
	int status = 0;

	for (unsigned id = 0; id < engine->params.ports_max; id++) {
		struct engine_port *port = engine->engine_ports[id];

		if (!snapshot->bridge_ports[id].present)
			continue;
		for (uint16_t q = 0; q < port->port.rx_queue_count; q++) {
			int cpu = cpu_of(&snapshot->configs[id], q);

			if (port->workers[q])
				status = worker_pin(port->workers[q], cpu, err);
			else
				status = worker_add(engine, port, q, cpu, err);
			if (status)
				return status;
		}
	}
	return 0;
}

/* Starts who is parked; wakes who may sleep by a rule that changed. */
static void workers_start(struct engine *engine, const struct snapshot *old)
{
	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		struct worker *worker = engine->rows[row];

		if (!worker)
			continue;
		if (atomic_load(&worker->state) == WORKER_PARKED)
			worker_start(worker);
		else if (old->configs[worker->port_id].polling !=
			 engine->snapshot->configs[worker->port_id].polling)
			worker_wake(worker);
	}
}

static unsigned ordinals_used(const struct engine *engine)
{
	unsigned used = 0;

	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		if (engine->rows[row])
			used = row + 1;
	}
	return used;
}

/* FDB entries of ports that are no longer members go, from a table taken over as well. */
static void fdbs_settle(struct engine *engine, const struct snapshot *old)
{
	const struct snapshot *new = engine->snapshot;

	for (unsigned b = 0; b < engine->params.bridges_max; b++) {
		struct engine_bridge *bridge = &engine->engine_bridges[b];
		uint64_t members[FDB_PORTS_MAX / 64] = {0};
		bool left = !bridge->published;

		if (!new->bridges[b].fdb)
			continue;
		for (unsigned p = 0; p < engine->params.ports_max; p++) {
			if (new->bridge_ports[p].bridge == b)
				members[p / 64] |= (uint64_t)1 << (p % 64);
			else if (old->bridge_ports[p].bridge == b)
				left = true;
		}
		if (left)
			fdb_retain(bridge->fdb, members);
		bridge->published = true;
	}
}

int engine_publish(struct engine *engine, const struct engine_config *config, struct error *err)
{
	struct snapshot_parts parts = engine_parts(engine);
	struct snapshot *old = engine->snapshot;
	struct snapshot *new;
	int status;

	status = snapshot_build(config, &parts, &new, err);
	if (status)
		return status;
	status = workers_make(engine, new, err);
	if (status) {
		workers_end(engine, old); /* the parked ones */
		snapshot_free(new);
		return status;
	}
	/* new workers start and old ones have ended only later: the union shares the queues */
	snapshot_set_ordinals(new, ordinals_used(engine));
	workers_end(engine, new);
	snapshot_publish(&engine->domain, new);
	engine->snapshot = new;
	workers_start(engine, old);
	fdbs_settle(engine, old);
	snapshot_free(old);
	return 0;
}

void engine_quiesce(struct engine *engine)
{
	snapshot_wait(&engine->domain);
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
