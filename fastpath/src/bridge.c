/* Runs on: workers. */
#include "bridge.h"

#include <string.h>

#include "bridge_decide.h"
#include "rules_work.h"

enum {
	NOWHERE = FDB_PORTS_MAX,
	LOOKAHEAD = 16 /* frames: lines of the FDB on their way while others are decided on */
};

/* What one batch has in common. */
struct forward {
	const struct bridge_tables *tables;
	const struct bridge *bridge;
	const struct bridge_port *in;
	struct fdb *fdb;
	struct port_counters *cell;
	struct bridge_lists *lists;
	struct bridge_seen *seen;
	struct rules_work *rules; /* NULL: no rules at ingress */
	uint64_t copies;
	uint32_t tick;
	uint16_t in_port;
	uint8_t tags; /* of any frame */
};

/* What the second pass needs of a frame; dst_key 0: the frame is already dropped. */
struct pending {
	uint64_t dst_key;
	uint64_t dst_home;
	uint64_t src_key; /* 0: nothing to learn */
	uint64_t src_home;
};

static void drop(const struct forward *forward, unsigned reason, uint64_t frames)
{
	counter_add(&forward->cell->rx_drops[reason], frames);
}

static inline uint64_t key_mac(uint64_t key)
{
	return key >> 16;
}

static void list_add(struct bridge_lists *lists, uint16_t port, struct frame *frame)
{
	unsigned count = lists->counts[port];

	lists->frames[port][count] = frame;
	lists->counts[port] = (uint16_t)(count + 1);
	if (__builtin_expect(!count, 0))
		lists->active[lists->active_count++] = port;
}

/* --- first pass: is the frame fit to enter? ----------------------------------------------------
 */

/* Addresses differ in their low bits, 16 and up, VLANs in theirs, 4 and up. */
static inline uint64_t *seen_at(struct bridge_seen *seen, uint64_t key)
{
	return &seen->keys[(key >> 16 ^ key >> 25 ^ key >> 4) & (BRIDGE_SEEN - 1)];
}

/* The keys in the FDB; asks for the line of the one to learn. */
__attribute__((always_inline)) static inline void
pending_fill(struct forward *forward, const struct frame *frame, struct pending *pending,
	     const struct l2 *l2, uint16_t vid, bool learning)
{
	pending->dst_key = bridge_key(l2->dst, vid);
	if (learning) {
		uint64_t key = bridge_key(l2->src, vid);

		pending->src_key = 0;
		if (*seen_at(forward->seen, key) != key && !(frame->flags & FRAME_NO_LEARN) &&
		    bridge_is_station(l2->src)) {
			pending->src_key = key;
			pending->src_home = fdb_prefetch(forward->fdb, key);
		}
	}
}

/* Fills in the keys and asks for their FDB lines. False: dropped. */
__attribute__((always_inline)) static inline bool accept(struct forward *forward,
							 struct frame *frame,
							 struct pending *pending, bool filtering,
							 bool learning)
{
	struct l2 l2;
	unsigned refusal;
	uint16_t vid;

	frame->in_port = forward->in_port;
	frame->vid = 0;
	frame->tag = VLAN_TAG_NONE;
	if (__builtin_expect(!parse_l2(frame, &l2), 0)) {
		drop(forward, DROP_MALFORMED, 1);
		return false;
	}
	refusal = bridge_address_refusal(forward->bridge, &l2);
	if (__builtin_expect(refusal != BRIDGE_PASSES, 0)) {
		drop(forward, refusal, 1);
		return false;
	}
	if (filtering)
		forward->tags |= frame->tags;
	if (filtering && !vlan_in(&forward->in->vlan, frame, l2.tci)) {
		drop(forward, DROP_VLAN_INGRESS, 1);
		return false;
	}
	vid = filtering ? frame->vid : 0;
	pending_fill(forward, frame, pending, &l2, vid, learning);
	return true;
}

/* --- second pass: learn and decide ---------------------------------------------------------------
 */

static void learn(struct forward *forward, const struct pending *pending)
{
	switch (fdb_learn_at(forward->fdb, pending->src_home, pending->src_key, forward->in_port,
			     forward->tick)) {
	case FDB_NEW:
		counter_add(&forward->cell->learned, 1);
		break;
	case FDB_MOVED:
		counter_add(&forward->cell->moved, 1);
		break;
	case FDB_REFRESHED:
		break;
	case FDB_REFUSED:
		return; /* static elsewhere, no room, or busy: nothing to remember */
	}
	*seen_at(forward->seen, pending->src_key) = pending->src_key;
}

/* To every port of the bridge that may have it; says why when there is none. */
static void flood(struct forward *forward, struct frame *frame)
{
	const struct bridge *bridge = forward->bridge;
	unsigned reason = DROP_NO_DESTINATION;
	unsigned copies = 0;

	for (unsigned i = 0; i < bridge->port_count; i++) {
		uint16_t id = bridge->ports[i];
		unsigned refusal =
		    bridge_flood_refusal(forward->tables, bridge, forward->in_port, id, frame->vid);

		if (refusal != BRIDGE_PASSES) {
			reason = refusal < reason ? refusal : reason;
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

static void flood_or_drop(struct forward *forward, struct frame *frame, uint64_t dst)
{
	if (bridge_floods(forward->bridge, dst))
		flood(forward, frame);
	else
		drop(forward, DROP_FLOOD_OFF, 1);
}

/* The one port that gets the frame, or NOWHERE: it is flooded or dropped already. */
__attribute__((always_inline)) static inline unsigned
decide(struct forward *forward, struct frame *frame, const struct pending *pending,
       const uint64_t *reach, bool filtering, bool learning)
{
	int found;
	unsigned id;

	if (learning && pending->src_key)
		learn(forward, pending);
	if (__builtin_expect(!!(pending->dst_key & MAC_GROUP << 16), 0)) {
		flood_or_drop(forward, frame, key_mac(pending->dst_key));
		return NOWHERE;
	}
	found = fdb_lookup_at(forward->fdb, pending->dst_home, pending->dst_key);
	if (__builtin_expect(found == FDB_MISS, 0)) {
		flood_or_drop(forward, frame, key_mac(pending->dst_key));
		return NOWHERE;
	}
	id = (unsigned)found & (FDB_PORTS_MAX - 1);
	if (__builtin_expect(!bridge_reaches(forward->tables, reach, id, filtering, frame->vid),
			     0)) {
		drop(forward,
		     bridge_unicast_refusal(forward->tables, forward->in_port, (uint16_t)id), 1);
		return NOWHERE;
	}
	return id;
}

/* --- rules -------------------------------------------------------------------------------------
 */

/* Between the passes: frames may end here, become others, or know already where they go. */
__attribute__((noinline)) static void forward_rules(struct forward *forward, struct frame *batch,
						    struct pending *pending, uint64_t accepted,
						    bool filtering, bool learning)
{
	struct rules_work *rules = forward->rules;
	uint64_t edited, on;

	on = rules_ingress(rules, rules->tables->ingress[forward->in_port], batch, accepted,
			   &edited);
	for (uint64_t left = accepted & ~on; left; left &= left - 1)
		pending[__builtin_ctzll(left)].dst_key = 0;
	for (uint64_t left = edited; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);
		struct l2 l2;

		if (parse_l2(&batch[i], &l2))
			pending_fill(forward, &batch[i], &pending[i], &l2,
				     filtering ? batch[i].vid : 0, learning);
	}
}

/* The port that rules have named, as if the FDB had; NOWHERE: it must not get the frame. */
__attribute__((noinline)) static unsigned redirected_to(struct forward *forward, unsigned i,
							const struct frame *frame,
							const struct pending *pending,
							bool filtering, bool learning)
{
	uint16_t id = forward->rules->redirect[i];

	if (learning && pending->src_key)
		learn(forward, pending);
	if (id < forward->tables->ports_max &&
	    bridge_reaches(forward->tables, forward->in->reach, id, filtering, frame->vid))
		return id;
	drop(forward, bridge_unicast_refusal(forward->tables, forward->in_port, id), 1);
	return NOWHERE;
}

/* --- a batch ------------------------------------------------------------ */

/* filtering and learning are constants where this is called: four loops without their branches. */
__attribute__((always_inline)) static inline void forward_all(struct forward *forward,
							      struct frame *batch, unsigned count,
							      bool filtering, bool learning)
{
	struct pending pending[FRAME_BATCH];
	const uint64_t *reach = forward->in->reach;
	struct bridge_lists lists = *forward->lists;
	uint64_t redirected = 0, refused = 0;

	for (unsigned i = 0; i < count; i++) {
		if (__builtin_expect(!accept(forward, &batch[i], &pending[i], filtering, learning),
				     0)) {
			pending[i].dst_key = 0;
			refused |= (uint64_t)1 << i;
		}
	}
	if (__builtin_expect(forward->rules != NULL, 0)) {
		forward_rules(forward, batch, pending, bits_below(count) & ~refused, filtering,
			      learning);
		redirected = forward->rules->redirected;
	}
	for (unsigned i = 0; i < count && i < LOOKAHEAD; i++)
		pending[i].dst_home = fdb_prefetch(forward->fdb, pending[i].dst_key);
	for (unsigned i = 0; i < count; i++) {
		unsigned ahead = i + LOOKAHEAD, id, before;

		if (ahead < count)
			pending[ahead].dst_home =
			    fdb_prefetch(forward->fdb, pending[ahead].dst_key);
		if (__builtin_expect(!pending[i].dst_key, 0))
			continue;
		if (__builtin_expect(redirected >> i & 1, 0))
			id = redirected_to(forward, i, &batch[i], &pending[i], filtering, learning);
		else
			id = decide(forward, &batch[i], &pending[i], reach, filtering, learning);
		if (__builtin_expect(id == NOWHERE, 0))
			continue;
		/* list_add with its pointers at hand */
		before = lists.counts[id]++;
		lists.frames[id][before] = &batch[i];
		if (__builtin_expect(!before, 0))
			lists.active[forward->lists->active_count++] = (uint16_t)id;
	}
}

/* Forgets what may no longer be so. */
static void seen_settle(const struct forward *forward)
{
	struct bridge_seen *seen = forward->seen;
	uint64_t changes = fdb_changes(forward->fdb);

	if (__builtin_expect(seen->changes == changes && seen->tick == forward->tick &&
				 seen->generation == forward->tables->generation,
			     1))
		return;
	memset(seen->keys, 0, sizeof(seen->keys));
	seen->changes = changes;
	seen->tick = forward->tick;
	seen->generation = forward->tables->generation;
}

void bridge_forward(const struct bridge_tables *tables, uint16_t in_port, struct frame *batch,
		    unsigned count, uint32_t tick, struct port_counters *cell,
		    struct bridge_work *work)
{
	const struct bridge_port *in = &tables->ports[in_port];
	struct forward forward = {
	    .tables = tables,
	    .in = in,
	    .cell = cell,
	    .lists = &work->lists,
	    .seen = &work->seen,
	    .rules = work->rules,
	    .tick = tick,
	    .in_port = in_port,
	};
	unsigned refusal = bridge_port_refusal(in);
	bool learning;

	work->untagged = false;
	if (refusal != BRIDGE_PASSES) {
		drop(&forward, refusal, count);
		return;
	}
	forward.bridge = &tables->bridges[in->bridge];
	forward.fdb = forward.bridge->fdb;
	learning = in->learning && forward.bridge->learning;
	if (learning)
		seen_settle(&forward);
	if (forward.bridge->vlan_filtering && learning)
		forward_all(&forward, batch, count, true, true);
	else if (forward.bridge->vlan_filtering)
		forward_all(&forward, batch, count, true, false);
	else if (learning)
		forward_all(&forward, batch, count, false, true);
	else
		forward_all(&forward, batch, count, false, false);
	work->untagged = forward.bridge->vlan_filtering && !forward.tags;
	/* before any of them is sent: see stats.h on the order */
	if (forward.copies)
		counter_add(&cell->copies, forward.copies);
}

void bridge_reach(struct bridge_port *ports, unsigned ports_max)
{
	for (unsigned from = 0; from < ports_max; from++) {
		struct bridge_port *in = &ports[from];

		memset(in->reach, 0, sizeof(in->reach));
		if (!in->present || in->bridge == BRIDGE_NONE)
			continue;
		for (unsigned to = 0; to < ports_max; to++) {
			const struct bridge_port *port = &ports[to];

			if (to != from && port->present && port->admin_up &&
			    port->bridge == in->bridge && !bridge_isolated(in, port))
				in->reach[to / 64] |= (uint64_t)1 << (to % 64);
		}
	}
}
