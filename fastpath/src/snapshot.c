/* Runs on: control thread. */
#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void *zeroed(size_t count, size_t size)
{
	return calloc(count ? count : 1, size);
}

static int build_bridge(struct snapshot *snapshot, const struct snapshot_parts *parts,
			const struct bridge_config *config, struct error *err)
{
	struct bridge *bridge;

	if (config->id >= parts->bridges_max || !parts->fdbs[config->id])
		return error_set(err, EINVAL, "bridge %u does not exist", config->id);
	bridge = &snapshot->bridges[config->id];
	if (bridge->fdb)
		return error_set(err, EINVAL, "bridge %u is named twice", config->id);
	*bridge = (struct bridge){
	    .fdb = parts->fdbs[config->id],
	    .vlan_filtering = config->vlan_filtering,
	    .learning = config->learning,
	    .flood_unknown_unicast = config->flood_unknown_unicast,
	    .flood_multicast = config->flood_multicast,
	    .flood_broadcast = config->flood_broadcast,
	    .reserved_forward = config->reserved_forward,
	};
	snapshot->bridge_configs[config->id] = *config;
	return 0;
}

static int check_port(const struct snapshot *snapshot, const struct snapshot_parts *parts,
		      const struct port_config *config, struct error *err)
{
	const struct bridge *bridge = NULL;

	if (config->id >= parts->ports_max || !parts->ports[config->id])
		return error_set(err, EINVAL, "port %u does not exist", config->id);
	if (snapshot->bridge_ports[config->id].present)
		return error_set(err, EINVAL, "port %u is named twice", config->id);
	if (config->vlan_mode > VLAN_TUNNEL || config->offload_policy > OFFLOAD_REFUSE ||
	    config->polling > PORT_POLL_BUSY)
		return error_set(err, EINVAL,
				 "port %u: vlan mode, offload policy or polling is "
				 "unknown",
				 config->id);
	if (config->bridge == ENGINE_NO_BRIDGE)
		return 0;
	if (config->bridge < parts->bridges_max)
		bridge = &snapshot->bridges[config->bridge];
	if (!bridge || !bridge->fdb)
		return error_set(err, EINVAL, "port %u: bridge %u is not configured", config->id,
				 config->bridge);
	if (bridge->vlan_filtering && config->vlan_mode != VLAN_TRUNK &&
	    (config->pvid < 1 || config->pvid > VLAN_VID_MAX))
		return error_set(err, EINVAL, "port %u: pvid %u is not a VLAN id", config->id,
				 config->pvid);
	return 0;
}

static int build_port(struct snapshot *snapshot, const struct snapshot_parts *parts,
		      const struct port_config *config, struct error *err)
{
	int status = check_port(snapshot, parts, config, err);
	struct bridge_port *port;
	struct tx_port *to;

	if (status)
		return status;
	port = &snapshot->bridge_ports[config->id];
	*port = (struct bridge_port){
	    .present = true,
	    .admin_up = config->admin_up,
	    .learning = config->learning,
	    .flood = config->flood,
	    .bridge = config->bridge,
	    .isolation_group = config->isolation_group,
	    .vlan.mode = config->vlan_mode,
	    .vlan.pvid = config->pvid,
	};
	memcpy(port->vlan.tagged, config->tagged, sizeof(port->vlan.tagged));
	snapshot->configs[config->id] = *config;
	to = &snapshot->tx_ports[config->id];
	to->port = parts->ports[config->id];
	to->lock = parts->locks[config->id];
	to->offload_policy = config->offload_policy;
	if (config->bridge != ENGINE_NO_BRIDGE) {
		to->bridge_mtu = snapshot->bridge_configs[config->bridge].mtu;
		to->vlan_filtering = snapshot->bridges[config->bridge].vlan_filtering;
	}
	return 0;
}

/* The ports of each bridge that are up, in the order of their ids. */
static void build_members(struct snapshot *snapshot)
{
	uint16_t *next = snapshot->members;

	for (unsigned b = 0; b < snapshot->bridges_max; b++) {
		struct bridge *bridge = &snapshot->bridges[b];

		if (!bridge->fdb)
			continue;
		bridge->ports = next;
		for (unsigned p = 0; p < snapshot->tables.ports_max; p++) {
			const struct bridge_port *port = &snapshot->bridge_ports[p];

			if (port->present && port->admin_up && port->bridge == b) {
				*next++ = (uint16_t)p;
				bridge->port_count++;
			}
		}
	}
}

/* --- monitors ----------------------------------------------------------------------------------
 */

/* The port that a monitor names, the first of that name; ports_max: it is not configured. */
static unsigned monitored_port(const struct snapshot *snapshot, const struct monitor *monitor)
{
	unsigned p = 0;

	while (p < snapshot->tables.ports_max) {
		const struct port *port = snapshot->tx_ports[p].port;

		/* monitors are not monitored */
		if (port && !port->monitor && strcmp(port->name, monitor->port) == 0)
			break;
		p++;
	}
	return p;
}

/* Those of `active` that want frames of port id, at *next, which moves behind them. */
static struct monitor_list monitors_of(unsigned id, enum monitor_direction direction,
				       struct monitor *const *active, const unsigned *ports,
				       unsigned count, struct monitor ***next)
{
	struct monitor_list list = {.monitors = *next};

	for (unsigned i = 0; i < count; i++) {
		if ((active[i]->directions & direction) && ports[i] == id)
			(*next)[list.count++] = active[i];
	}
	*next += list.count;
	return list;
}

/*
 * The monitors that are up, each for the port it names. One whose port is not configured waits for
 * it: the next snapshot is built anew.
 */
static int build_monitors(struct snapshot *snapshot)
{
	unsigned ports_max = snapshot->tables.ports_max, count = 0;
	struct monitor *active[FDB_PORTS_MAX];
	unsigned ports[FDB_PORTS_MAX];
	struct monitor **next;

	for (unsigned p = 0; p < ports_max; p++) {
		const struct port *port = snapshot->tx_ports[p].port;

		if (!port || !port->monitor || !snapshot->configs[p].admin_up)
			continue;
		active[count] = port->monitor;
		ports[count++] = monitored_port(snapshot, port->monitor);
	}
	if (!count)
		return 0;
	snapshot->monitors = zeroed(2 * count, sizeof(struct monitor *)); /* rx, tx */
	snapshot->monitored = zeroed(ports_max, sizeof(*snapshot->monitored));
	if (!snapshot->monitors || !snapshot->monitored)
		return -ENOMEM;
	next = snapshot->monitors;
	for (unsigned p = 0; p < ports_max; p++) {
		struct snapshot_monitored *by = &snapshot->monitored[p];

		by->rx = monitors_of(p, MONITOR_RX, active, ports, count, &next);
		by->tx = monitors_of(p, MONITOR_TX, active, ports, count, &next);
		if (by->tx.count)
			snapshot->tx_ports[p].monitors = &by->tx;
	}
	return 0;
}

int snapshot_build(const struct engine_config *config, const struct snapshot_parts *parts,
		   struct snapshot **out, struct error *err)
{
	struct snapshot *snapshot = zeroed(1, sizeof(*snapshot));
	int status = 0;

	if (!snapshot)
		return error_set(err, ENOMEM, "out of memory");
	snapshot->generation = config->generation;
	snapshot->bridges_max = parts->bridges_max;
	snapshot->bridges = zeroed(parts->bridges_max, sizeof(*snapshot->bridges));
	snapshot->bridge_configs = zeroed(parts->bridges_max, sizeof(*snapshot->bridge_configs));
	snapshot->bridge_ports = zeroed(parts->ports_max, sizeof(*snapshot->bridge_ports));
	snapshot->tx_ports = zeroed(parts->ports_max, sizeof(*snapshot->tx_ports));
	snapshot->configs = zeroed(parts->ports_max, sizeof(*snapshot->configs));
	snapshot->members = zeroed(parts->ports_max, sizeof(*snapshot->members));
	if (!snapshot->bridges || !snapshot->bridge_configs || !snapshot->bridge_ports ||
	    !snapshot->tx_ports || !snapshot->configs || !snapshot->members) {
		status = error_set(err, ENOMEM, "out of memory");
		goto failed;
	}
	for (unsigned p = 0; p < parts->ports_max; p++)
		snapshot->bridge_ports[p].bridge = BRIDGE_NONE;
	for (unsigned i = 0; !status && i < config->bridge_count; i++)
		status = build_bridge(snapshot, parts, &config->bridges[i], err);
	for (unsigned i = 0; !status && i < config->port_count; i++)
		status = build_port(snapshot, parts, &config->ports[i], err);
	if (status)
		goto failed;
	snapshot->tables = (struct bridge_tables){
	    .bridges = snapshot->bridges,
	    .ports = snapshot->bridge_ports,
	    .ports_max = parts->ports_max,
	    .generation = config->generation,
	};
	if (build_monitors(snapshot)) {
		status = error_set(err, ENOMEM, "out of memory");
		goto failed;
	}
	build_members(snapshot);
	bridge_reach(snapshot->bridge_ports, parts->ports_max);
	snapshot_set_ordinals(snapshot, parts->ordinals);
	*out = snapshot;
	return 0;

failed:
	snapshot_free(snapshot);
	return status;
}

void snapshot_set_ordinals(struct snapshot *snapshot, unsigned ordinals)
{
	for (unsigned p = 0; p < snapshot->tables.ports_max; p++) {
		struct tx_port *to = &snapshot->tx_ports[p];

		if (to->port)
			to->exclusive = ordinals <= to->port->tx_queue_count;
	}
}

void snapshot_free(struct snapshot *snapshot)
{
	if (!snapshot)
		return;
	free(snapshot->bridges);
	free(snapshot->bridge_configs);
	free(snapshot->bridge_ports);
	free(snapshot->tx_ports);
	free(snapshot->configs);
	free(snapshot->members);
	free(snapshot->monitors);
	free(snapshot->monitored);
	snapshot_free_shell(snapshot);
}

struct snapshot *snapshot_with_rules(const struct snapshot *old, uint64_t generation,
				     const struct rules_tables *rules)
{
	struct snapshot *snapshot = malloc(sizeof(*snapshot));

	if (!snapshot)
		return NULL;
	*snapshot = *old;
	snapshot->generation = generation;
	snapshot->rules = *rules;
	return snapshot;
}

void snapshot_free_shell(struct snapshot *old)
{
	rules_tables_free(&old->rules);
	free(old);
}

/* --- grace periods -----------------------------------------------------------------------------
 */

void snapshot_domain_init(struct snapshot_domain *domain, const struct snapshot *first)
{
	atomic_init(&domain->current, first);
	atomic_init(&domain->epoch, 1);
	domain->readers = NULL;
}

void snapshot_reader_add(struct snapshot_domain *domain, struct snapshot_reader *reader)
{
	atomic_init(&reader->seen, READER_ASLEEP);
	reader->next = domain->readers;
	domain->readers = reader;
}

void snapshot_reader_remove(struct snapshot_domain *domain, struct snapshot_reader *reader)
{
	struct snapshot_reader **at = &domain->readers;

	while (*at && *at != reader)
		at = &(*at)->next;
	if (*at)
		*at = reader->next;
}

/* A batch takes microseconds; a driver that waits for room takes milliseconds. */
static void wait_for(const struct snapshot_reader *reader, uint64_t epoch)
{
	struct timespec pause = {.tv_nsec = 20000};

	while (atomic_load(&reader->seen) < epoch)
		nanosleep(&pause, NULL);
}

void snapshot_wait(struct snapshot_domain *domain)
{
	uint64_t epoch = atomic_fetch_add(&domain->epoch, 1) + 1;

	for (const struct snapshot_reader *r = domain->readers; r; r = r->next)
		wait_for(r, epoch);
}

const struct snapshot *snapshot_publish(struct snapshot_domain *domain,
					const struct snapshot *snapshot)
{
	const struct snapshot *old = atomic_exchange(&domain->current, snapshot);

	snapshot_wait(domain);
	return old;
}
