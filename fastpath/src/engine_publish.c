/*
 * A configuration takes effect: snapshot, workers, FDB entries. Runs on: control thread.
 *
 * Order: build the snapshot and park the workers it needs (both may fail, and nothing has
 * changed), end the workers it does not name, publish and wait, start the parked ones.
 */
#include "engine_tables.h"

#include <errno.h>

struct snapshot_parts engine_parts(const struct engine *engine)
{
	return (struct snapshot_parts){
	    .ports_max = engine->params.ports_max,
	    .bridges_max = engine->params.bridges_max,
	    .ports = engine->ports,
	    .locks = engine->locks,
	    .fdbs = engine->fdbs,
	};
}

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
	return config->cpu_count ? config->cpus[queue % config->cpu_count] : -1;
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
	status = engine_rules_tables(engine, new->bridge_ports, &new->rules, err);
	if (status) {
		snapshot_free(new);
		return status;
	}
	status = workers_make(engine, new, err);
	if (!status && new->rules.any)
		status = engine_rules_works(engine, err);
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
	engine_rules_settle(engine);
	snapshot_free(old);
	return 0;
}

void engine_quiesce(struct engine *engine)
{
	snapshot_wait(&engine->domain);
}
