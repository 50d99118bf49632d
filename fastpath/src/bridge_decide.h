/*
 * The bridge's decisions by themselves: what the tables say about a frame, with nothing carried
 * out or booked. bridge.c acts on them, trace.c tells them; there is no second opinion.
 *
 * A refusal is the drop reason, or BRIDGE_PASSES.
 *
 * Runs on: workers, control thread. Pure.
 */
#pragma once

#include "bridge.h"

enum {
	BRIDGE_PASSES = DROP_REASONS,
	BRIDGE_RESERVED_BITS = 4 /* 01:80:c2:00:00:00 to 0f */
};
static const uint64_t BRIDGE_RESERVED_MAC = 0x0180c2000000;

/* What an address is called in the FDB; as fdb_key, from a number. */
static inline uint64_t bridge_key(uint64_t mac, uint16_t vid)
{
	return mac << 16 | (uint64_t)vid << 4 | 1;
}

static inline bool bridge_isolated(const struct bridge_port *a, const struct bridge_port *b)
{
	return a->isolation_group && a->isolation_group == b->isolation_group;
}

/* May anything enter by this port? */
static inline unsigned bridge_port_refusal(const struct bridge_port *in)
{
	if (__builtin_expect(!in->admin_up, 0))
		return DROP_PORT_DOWN;
	return in->bridge == BRIDGE_NONE ? DROP_NO_BRIDGE : BRIDGE_PASSES;
}

/* May it be learned? */
static inline bool bridge_is_station(uint64_t src)
{
	return src && !(src & MAC_GROUP);
}

/*
 * May a frame with these addresses enter at all? Where reserved addresses are forwarded, as VALE
 * does, senders that are no stations are, too: netmap programs have no address unless they are
 * given one, and those that answer them turn a broadcast's addresses round.
 */
static inline unsigned bridge_address_refusal(const struct bridge *bridge, const struct l2 *l2)
{
	if (__builtin_expect(!bridge_is_station(l2->src), 0) && !bridge->reserved_forward)
		return DROP_SOURCE_INVALID;
	if (__builtin_expect(l2->dst >> BRIDGE_RESERVED_BITS ==
				 BRIDGE_RESERVED_MAC >> BRIDGE_RESERVED_BITS,
			     0) &&
	    !bridge->reserved_forward)
		return DROP_RESERVED_MAC;
	return BRIDGE_PASSES;
}

/* Are frames to this address, which the FDB does not know or which is a group's, flooded? */
static inline bool bridge_floods(const struct bridge *bridge, uint64_t dst)
{
	if (!(dst & MAC_GROUP))
		return bridge->flood_unknown_unicast;
	return dst == MAC_BROADCAST ? bridge->flood_broadcast : bridge->flood_multicast;
}

/*
 * Does a member get a flooded frame? DROP_NO_DESTINATION: it is none of those that could (the
 * frame's own port, not in its VLAN). When nobody gets it, the frame's reason is the smallest of
 * all: isolated before flood_off before no_destination.
 */
static inline unsigned bridge_flood_refusal(const struct bridge_tables *tables,
					    const struct bridge *bridge, uint16_t in_port,
					    uint16_t id, uint16_t vid)
{
	const struct bridge_port *port = &tables->ports[id];

	if (id == in_port || (bridge->vlan_filtering && !vlan_member(&port->vlan, vid)))
		return DROP_NO_DESTINATION;
	if (bridge_isolated(&tables->ports[in_port], port))
		return DROP_ISOLATED;
	return port->flood ? BRIDGE_PASSES : DROP_FLOOD_OFF;
}
_Static_assert(DROP_ISOLATED < DROP_FLOOD_OFF && DROP_FLOOD_OFF < DROP_NO_DESTINATION,
	       "the smallest reason is the one that is told");

/* May a frame of one port go on to another, which the FDB names? `reach` is the first one's. */
static inline bool bridge_reaches(const struct bridge_tables *tables, const uint64_t *reach,
				  unsigned id, bool filtering, uint16_t vid)
{
	return (reach[id / 64] >> (id % 64) & 1) &&
	       (!filtering || vlan_member(&tables->ports[id].vlan, vid));
}

/* The FDB names a port that the frame may not go on to: why? */
static inline unsigned bridge_unicast_refusal(const struct bridge_tables *tables, uint16_t in_port,
					      uint16_t id)
{
	const struct bridge_port *in = &tables->ports[in_port];
	const struct bridge_port *port = &tables->ports[id];

	if (id == in_port)
		return DROP_SAME_PORT;
	if (id < tables->ports_max && port->bridge == in->bridge && port->admin_up &&
	    bridge_isolated(in, port))
		return DROP_ISOLATED;
	return DROP_DESTINATION_DOWN;
}
