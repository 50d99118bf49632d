/* Runs on: workers. */
#include "bridge.h"

enum {
	RESERVED_MASK = 0xf /* 01:80:c2:00:00:00 to 0f */
};
static const uint64_t RESERVED_MAC = 0x0180c2000000;

/* What one batch has in common. */
struct forward {
	const struct bridge_tables *tables;
	const struct bridge *bridge;
	const struct bridge_port *in;
	struct port_counters *cell;
	struct bridge_lists *lists;
	uint64_t copies;
	uint32_t tick;
	uint16_t in_port;
	bool learning;
};

/* What the second pass needs of a frame; dst_key 0: the frame is already dropped. */
struct pending {
	uint64_t dst_key;
	uint64_t src_key;
};

static inline void drop(struct forward *forward, enum drop_reason reason, uint64_t frames)
{
	counter_add(&forward->cell->rx_drops[reason], frames);
}

static inline uint64_t mac_key(uint64_t mac, uint16_t vid)
{
	return mac << 16 | (uint64_t)vid << 4 | 1;
}

static inline uint64_t key_mac(uint64_t key)
{
	return key >> 16;
}

static inline void list_add(struct bridge_lists *lists, uint16_t port, struct frame *frame)
{
	struct bridge_list *list = &lists->by_port[port];

	if (!list->count)
		lists->active[lists->active_count++] = port;
	list->frames[list->count++] = frame;
}

/* Is the frame fit to enter? Fills in the keys and asks for their FDB lines. */
static inline bool accept(struct forward *forward, struct frame *frame, struct pending *pending)
{
	const struct bridge *bridge = forward->bridge;
	struct l2 l2;

	frame->in_port = forward->in_port;
	if (__builtin_expect(!parse_l2(frame, &l2), 0)) {
		drop(forward, DROP_MALFORMED, 1);
		return false;
	}
	if (__builtin_expect((l2.src & MAC_GROUP) || !l2.src, 0)) {
		drop(forward, DROP_SOURCE_INVALID, 1);
		return false;
	}
	if (__builtin_expect((l2.dst & ~(uint64_t)RESERVED_MASK) == RESERVED_MAC, 0) &&
	    !bridge->reserved_forward) {
		drop(forward, DROP_RESERVED_MAC, 1);
		return false;
	}
	frame->vid = 0;
	frame->tag = VLAN_TAG_NONE;
	if (bridge->vlan_filtering && !vlan_in(&forward->in->vlan, frame, l2.tci)) {
		drop(forward, DROP_VLAN_INGRESS, 1);
		return false;
	}
	pending->src_key = mac_key(l2.src, frame->vid);
	pending->dst_key = mac_key(l2.dst, frame->vid);
	fdb_prefetch(bridge->fdb, pending->dst_key);
	if (forward->learning)
		fdb_prefetch(bridge->fdb, pending->src_key);
	return true;
}

static inline void learn(struct forward *forward, const struct frame *frame, uint64_t key)
{
	if (frame->flags & FRAME_NO_LEARN)
		return;
	switch (fdb_learn(forward->bridge->fdb, key, forward->in_port, forward->tick)) {
	case FDB_NEW:
		counter_add(&forward->cell->learned, 1);
		break;
	case FDB_MOVED:
		counter_add(&forward->cell->moved, 1);
		break;
	default:
		break;
	}
}

static inline bool isolated(const struct bridge_port *a, const struct bridge_port *b)
{
	return a->isolation_group && a->isolation_group == b->isolation_group;
}

/* To every port of the bridge that may have it; says why when there is none. */
static void flood(struct forward *forward, struct frame *frame)
{
	const struct bridge *bridge = forward->bridge;
	enum drop_reason reason = DROP_NO_DESTINATION;
	unsigned copies = 0;

	for (unsigned i = 0; i < bridge->port_count; i++) {
		uint16_t id = bridge->ports[i];
		const struct bridge_port *port = &forward->tables->ports[id];

		if (id == forward->in_port)
			continue;
		if (bridge->vlan_filtering && !vlan_member(&port->vlan, frame->vid))
			continue;
		if (isolated(forward->in, port)) {
			reason = DROP_ISOLATED;
			continue;
		}
		if (!port->flood) {
			if (reason != DROP_ISOLATED)
				reason = DROP_FLOOD_OFF;
			continue;
		}
		list_add(forward->lists, id, frame);
		copies++;
	}
	if (!copies) {
		drop(forward, reason, 1);
		return;
	}
	if (copies > 1)
		frame->flags |= FRAME_SHARED;
	forward->copies += copies - 1;
}

static bool flood_allowed(const struct bridge *bridge, uint64_t dst)
{
	if (!(dst & MAC_GROUP))
		return bridge->flood_unknown_unicast;
	return dst == MAC_BROADCAST ? bridge->flood_broadcast : bridge->flood_multicast;
}

static void flood_or_drop(struct forward *forward, struct frame *frame, uint64_t dst)
{
	if (flood_allowed(forward->bridge, dst))
		flood(forward, frame);
	else
		drop(forward, DROP_FLOOD_OFF, 1);
}

/* To the one port the FDB names. */
static inline void unicast(struct forward *forward, struct frame *frame, uint16_t id)
{
	const struct bridge_tables *tables = forward->tables;
	const struct bridge_port *port = &tables->ports[id];

	if (__builtin_expect(id == forward->in_port, 0)) {
		drop(forward, DROP_SAME_PORT, 1);
		return;
	}
	if (__builtin_expect(id >= tables->ports_max || port->bridge != forward->in->bridge ||
				 !port->admin_up,
			     0)) {
		drop(forward, DROP_DESTINATION_DOWN, 1);
		return;
	}
	if (forward->bridge->vlan_filtering && !vlan_member(&port->vlan, frame->vid)) {
		drop(forward, DROP_DESTINATION_DOWN, 1);
		return;
	}
	if (__builtin_expect(isolated(forward->in, port), 0)) {
		drop(forward, DROP_ISOLATED, 1);
		return;
	}
	list_add(forward->lists, id, frame);
}

static inline void decide(struct forward *forward, struct frame *frame,
			  const struct pending *pending)
{
	uint64_t dst = key_mac(pending->dst_key);
	int port;

	if (forward->learning)
		learn(forward, frame, pending->src_key);
	if (__builtin_expect(dst & MAC_GROUP, 0)) {
		flood_or_drop(forward, frame, dst);
		return;
	}
	port = fdb_lookup(forward->bridge->fdb, pending->dst_key);
	if (__builtin_expect(port == FDB_MISS, 0))
		flood_or_drop(forward, frame, dst);
	else
		unicast(forward, frame, (uint16_t)port);
}

void bridge_forward(const struct bridge_tables *tables, uint16_t in_port, struct frame *batch,
		    unsigned count, uint32_t tick, struct port_counters *cell,
		    struct bridge_lists *lists)
{
	const struct bridge_port *in = &tables->ports[in_port];
	struct forward forward = {
	    .tables = tables,
	    .in = in,
	    .cell = cell,
	    .lists = lists,
	    .tick = tick,
	    .in_port = in_port,
	};
	struct pending pending[FRAME_BATCH];

	if (!in->admin_up || in->bridge == BRIDGE_NONE) {
		drop(&forward, in->admin_up ? DROP_NO_BRIDGE : DROP_PORT_DOWN, count);
		return;
	}
	forward.bridge = &tables->bridges[in->bridge];
	forward.learning = in->learning && forward.bridge->learning;
	for (unsigned i = 0; i < count; i++) {
		if (!accept(&forward, &batch[i], &pending[i]))
			pending[i].dst_key = 0;
	}
	for (unsigned i = 0; i < count; i++) {
		if (pending[i].dst_key)
			decide(&forward, &batch[i], &pending[i]);
	}
	/* before any of them is sent: see stats.h on the order */
	if (forward.copies)
		counter_add(&cell->copies, forward.copies);
}
