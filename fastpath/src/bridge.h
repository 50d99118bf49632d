/*
 * The bridge: who gets a frame (IEEE 802.1D clause 7, 802.1Q clause 8).
 *
 * A batch comes from one port. First pass: parse, source check, reserved addresses, vlan in, FDB
 * lines asked for. Second pass: learn, look up, decide, and put the frame on the list of each
 * destination. Lists keep the order of the batch; tx.c empties them, so that every destination
 * is flushed once a batch.
 *
 * Every frame ends on at least one list or in exactly one rx drop of its port. A frame on several
 * lists is FRAME_SHARED; each list beyond the first is booked as a copy.
 *
 * Runs on: workers. struct bridge and struct bridge_port are parts of a snapshot, immutable while
 * a worker sees them; the FDB is shared by all workers; struct bridge_lists is the worker's own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fdb.h"
#include "frame.h"
#include "parse.h"
#include "stats.h"
#include "vlan.h"

enum {
	BRIDGE_NONE = 0xffff,
	BRIDGE_SEEN = 2048 /* sources a worker remembers */
};

struct rules_work;

struct bridge {
	struct fdb *fdb; /* NULL: no such bridge */
	bool vlan_filtering;
	bool learning;
	bool flood_unknown_unicast;
	bool flood_multicast;
	bool flood_broadcast;
	bool reserved_forward;
	uint16_t port_count;
	const uint16_t *ports; /* its ports that are up, ascending */
};

struct bridge_port {
	bool present; /* named by the configuration */
	bool admin_up;
	bool learning;
	bool flood;
	uint16_t bridge; /* BRIDGE_NONE: in none */
	uint16_t isolation_group;
	struct vlan_port vlan;
	/* bit p: unicast may go on to port p (up, of the same bridge, not isolated, another) */
	uint64_t reach[FDB_PORTS_MAX / 64];
};

struct bridge_tables {
	const struct bridge *bridges;
	const struct bridge_port *ports; /* by port id */
	unsigned ports_max;
	uint64_t generation;
};

/* Frames by destination. `active` lists the destinations whose count is not 0. */
struct bridge_lists {
	uint16_t *counts;		      /* by port id */
	struct frame *(*frames)[FRAME_BATCH]; /* by port id */
	uint16_t *active;
	unsigned active_count;
};

/*
 * Sources that the FDB is known to hold at this worker's port with the current tick, so that they
 * need not be learned again: by hash of their key, valid until the configuration, the tick or
 * fdb_changes is another. A miss costs nothing but the lookup it would have saved.
 */
struct bridge_seen {
	uint64_t generation;
	uint64_t changes;
	uint32_t tick;
	uint64_t keys[BRIDGE_SEEN];
};

/* What a worker keeps for the bridge from batch to batch. */
struct bridge_work {
	struct bridge_lists lists;
	struct bridge_seen seen;
	struct rules_work *rules; /* of this batch; NULL: the port's ingress has none */
	bool untagged;		  /* of this batch: no frame came with a tag in line */
};

/*
 * Distributes a batch from in_port, which is in the tables. `cell` is the worker's cell of that
 * port; the batch's rx is booked. tick: seconds of the monotonic clock.
 */
void bridge_forward(const struct bridge_tables *tables, uint16_t in_port, struct frame *batch,
		    unsigned count, uint32_t tick, struct port_counters *cell,
		    struct bridge_work *work);

/* Control thread: fills in `reach` of every port from the rest of the tables. */
void bridge_reach(struct bridge_port *ports, unsigned ports_max);
