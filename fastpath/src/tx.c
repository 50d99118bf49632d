/* Runs on: workers. */
#include "tx.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "rules_work.h"

enum {
	TX_LOCK_SPINS = 200,   /* tries before each nap: about 5 us */
	TX_LOCK_NAP_NS = 20000 /* an af_packet port may hold its queue for milliseconds */
};

/* One destination of the batch. */
struct way_out {
	struct tx *tx;
	const struct tx_port *to;
	const struct vlan_port *vlan;
	struct port_counters *cell;
	uint32_t caps; /* those the policy lets it use */
	uint32_t mtu;  /* 0: no limit */
	bool refuse;
};

static inline void drop(struct way_out *out, enum drop_reason reason)
{
	counter_add(&out->cell->tx_drops[reason], 1);
}

/* Bytes of the batch change now: a successor could not send them again as they came. */
static void tx_commit(struct tx *tx)
{
	struct tx_report report = {.source = tx->source};

	port_commit(&report);
	tx->source = NULL;
}

/* --- sending --------------------------------------------------------------------------------- */

/*
 * A spin lock costs one atomic exchange and a store, a mutex two exchanges, once a batch and
 * destination. Whoever has to wait sleeps after a while, for the holder may be waiting for room in
 * its device, or for our processor.
 */
static void tx_lock_slow(pthread_spinlock_t *lock)
{
	const struct timespec nap = {.tv_nsec = TX_LOCK_NAP_NS};

	for (unsigned tries = 1; pthread_spin_trylock(lock); tries++) {
		if (tries % TX_LOCK_SPINS == 0)
			nanosleep(&nap, NULL);
		else
			fdb_pause();
	}
}

static inline void tx_lock(pthread_spinlock_t *lock)
{
	if (__builtin_expect(pthread_spin_trylock(lock), 0))
		tx_lock_slow(lock);
}

/* Under the queue's lock where there is one: monitors see the order in which frames leave. */
static inline void queue_send(struct way_out *out, struct port_queue *queue,
			      struct frame *const *frames, unsigned count, struct tx_report *report)
{
	if (__builtin_expect(out->to->monitors && !out->tx->copies, 0))
		monitor_tx(out->to->monitors, frames, count, out->tx->cells);
	queue->port->ops->tx(queue, frames, count, report);
}

static void tx_send(struct way_out *out, struct frame *const *frames, unsigned count)
{
	struct port *port = out->to->port;
	unsigned id = out->tx->ordinal % port->tx_queue_count;
	struct tx_report report = {.source = out->tx->source};

	if (!port->ops->tx_commits)
		port_commit(&report);
	if (out->to->exclusive) {
		queue_send(out, &port->txq[id], frames, count, &report);
	} else {
		tx_lock(&out->to->lock[id]);
		queue_send(out, &port->txq[id], frames, count, &report);
		pthread_spin_unlock(&out->to->lock[id]);
	}
	out->tx->source = report.source;
	if (report.sent) {
		counter_add(&out->cell->tx_frames, report.sent);
		counter_add(&out->cell->tx_bytes, report.sent_bytes);
		if (report.zero_copy)
			counter_add(&out->cell->zero_copy, report.zero_copy);
	}
	if (report.sent == count)
		return;
	if (report.consumed)
		counter_add(&out->cell->consumed, report.consumed);
	for (unsigned reason = 0; reason < DROP_REASONS; reason++) {
		if (report.drops[reason])
			counter_add(&out->cell->tx_drops[reason], report.drops[reason]);
	}
}

/* Sends what is ready; the scratch it used is free again. */
static void tx_drain(struct way_out *out)
{
	struct tx *tx = out->tx;

	if (tx->ready_count)
		tx_send(out, tx->ready, tx->ready_count);
	tx->ready_count = 0;
	tx->chain_count = 0;
	tx->scratch_used = 0;
}

static inline void tx_ready(struct way_out *out, struct frame *frame)
{
	struct tx *tx = out->tx;

	if (tx->ready_count == FRAME_BATCH)
		tx_drain(out);
	tx->ready[tx->ready_count++] = frame;
}

/* --- vlan out -------------------------------------------------------------------------------- */

/* The frame is this destination's alone and its header is in one piece: moved where it stands. */
static void edit_in_place(struct frame *frame, enum vlan_edit edit)
{
	int delta = vlan_edit_bytes(edit);
	unsigned consumed;

	vlan_header(edit, frame, frame->data, frame->data - delta, &consumed);
	frame->data -= delta;
	frame->len = (uint32_t)((int)frame->len + delta);
	frame->headroom = (uint16_t)(frame->headroom - delta);
	vlan_book(frame, edit);
}

/* A new header in scratch, then the old frame behind its header. */
static struct frame *edit_aside(struct tx *tx, struct frame *frame, enum vlan_edit edit)
{
	struct frame *first = &tx->edit[2 * tx->edit_count];
	struct frame *rest = first + 1;
	uint8_t *header = tx->header[tx->edit_count++];
	const struct frame *at = frame;
	uint8_t old[VLAN_HEADER_MAX] = {0};
	unsigned consumed, header_bytes;

	frame_peek(frame, old, sizeof(old));
	header_bytes = vlan_header(edit, frame, old, header, &consumed);
	while (at->next && consumed >= at->len) {
		consumed -= at->len;
		at = at->next;
	}
	*rest = *at;
	rest->data += consumed;
	rest->len -= consumed;
	*first = *frame;
	first->data = header;
	first->len = header_bytes;
	first->next = rest;
	first->headroom = 0;
	first->pool = 0;
	first->slot = NULL;
	vlan_book(first, edit);
	return first;
}

static struct frame *tx_edit(struct way_out *out, struct frame *frame)
{
	enum vlan_edit edit;

	if (frame->flags & FRAME_AS_IS)
		return frame;
	edit = vlan_out(out->vlan, frame);
	if (edit == VLAN_EDIT_NONE)
		return frame;
	if (!(frame->flags & FRAME_SHARED) && frame->len >= 16 &&
	    (edit != VLAN_EDIT_PUSH || frame->headroom >= VLAN_TAG_BYTES)) {
		tx_commit(out->tx);
		edit_in_place(frame, edit);
		return frame;
	}
	return edit_aside(out->tx, frame, edit);
}

/* --- MTU and offload ---------------------------------------------------------------------------
 */

static void tx_cut(struct way_out *out, struct frame *frame)
{
	struct tx *tx = out->tx;
	struct offload_cut cut;
	int status = offload_cut_begin(&cut, frame, out->caps);
	int used;

	if (status) {
		drop(out, status == -EOPNOTSUPP ? DROP_OFFLOAD_REFUSED : DROP_OFFLOAD_INVALID);
		return;
	}
	if (cut.count > 1)
		counter_add(&out->cell->segments, cut.count - 1);
	for (;;) {
		uint8_t *scratch = tx->scratch + tx->scratch_used;
		struct frame *chain = &tx->chain[tx->chain_count];
		uint32_t room = TX_SCRATCH_BYTES - tx->scratch_used;

		if (tx->ready_count == FRAME_BATCH || room < OFFLOAD_SCRATCH_BYTES ||
		    TX_CHAIN_FRAMES - tx->chain_count < OFFLOAD_CHAIN_MAX) {
			tx_drain(out);
			continue;
		}
		if (out->caps & PORT_CAP_FRAGS) {
			used = offload_cut_chain(&cut, scratch, chain,
						 TX_CHAIN_FRAMES - tx->chain_count);
			room = OFFLOAD_SCRATCH_BYTES;
		} else {
			used = offload_cut_copy(&cut, scratch, room, chain);
			room = FRAME_HEADROOM + (used > 0 ? chain->frame_len : 0);
		}
		if (used == -ENOBUFS && tx->scratch_used) {
			tx_drain(out);
			continue;
		}
		if (used <= 0)
			return;
		tx->chain_count += (unsigned)used;
		tx->scratch_used += (room + 63) & ~63u;
		tx->ready[tx->ready_count++] = chain;
	}
}

/* What the destination cannot finish is finished here, or refused. */
static void tx_finish(struct way_out *out, struct frame *frame, uint32_t missing)
{
	if (out->refuse && (missing & OFFLOAD_NEED_FINISH)) {
		drop(out, DROP_OFFLOAD_REFUSED);
	} else if (missing == OFFLOAD_NEED_CSUM && !(frame->flags & FRAME_SHARED)) {
		tx_commit(out->tx);
		if (offload_checksum(frame))
			drop(out, DROP_OFFLOAD_INVALID);
		else
			tx_ready(out, frame);
	} else {
		tx_cut(out, frame);
	}
}

static bool tx_fits(struct way_out *out, const struct frame *frame)
{
	uint32_t bytes = frame->frame_len;

	if (frame->offload.gso_type != FRAME_GSO_NONE) {
		bytes = offload_packet_max(frame);
		if (!bytes) {
			drop(out, offload_needs(frame) & OFFLOAD_NEED_OTHER ? DROP_OFFLOAD_REFUSED
									    : DROP_OFFLOAD_INVALID);
			return false;
		}
	}
	if (tx_too_big(out->mtu, bytes, frame->l3_offset)) {
		drop(out, DROP_TOO_BIG);
		return false;
	}
	return true;
}

/* --- a batch for one destination ---------------------------------------------------------------
 */

/* How many frames from the first on need nothing done to them: nearly always all. */
static unsigned tx_plain(const struct way_out *out, struct frame *const *frames, unsigned count)
{
	const struct vlan_port *vlan = out->vlan;
	uint32_t mtu = out->mtu ? out->mtu : UINT32_MAX - UINT8_MAX;

	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];

		if (frame->next || frame_has_offload(frame) ||
		    frame->frame_len > mtu + frame->l3_offset ||
		    (vlan && !(frame->flags & FRAME_AS_IS) &&
		     vlan_out(vlan, frame) != VLAN_EDIT_NONE))
			return i;
	}
	return count;
}

/* Not one frame of the whole batch can need anything here. */
static bool tx_all_plain(const struct way_out *out)
{
	uint32_t longest = out->tx->plain_max;

	return longest && (!out->vlan || (out->tx->untagged && vlan_out_bare(out->vlan))) &&
	       (!out->mtu || longest <= out->mtu + FRAME_LEN_MIN);
}

static void tx_destination(struct way_out *out, struct frame *const *frames, unsigned count)
{
	if (tx_all_plain(out) || tx_plain(out, frames, count) == count) {
		tx_send(out, frames, count);
		return;
	}
	out->tx->edit_count = 0;
	for (unsigned i = 0; i < count; i++) {
		struct frame *frame = frames[i];
		uint32_t missing;

		if (out->vlan)
			frame = tx_edit(out, frame);
		if (!tx_fits(out, frame))
			continue;
		missing = offload_missing(frame, out->caps);
		if (missing)
			tx_finish(out, frame, missing);
		else
			tx_ready(out, frame);
	}
	tx_drain(out);
}

static void flush_port(struct tx *tx, const struct tx_port *ports,
		       const struct bridge_port *bridge_ports, uint16_t id,
		       struct frame *const *frames, unsigned count)
{
	const struct tx_port *to = &ports[id];
	struct way_out out = {
	    .tx = tx,
	    .to = to,
	    .vlan = to->vlan_filtering ? &bridge_ports[id].vlan : NULL,
	    .cell = &tx->cells[id],
	    .caps = atomic_load_explicit(&to->port->caps, memory_order_relaxed),
	    .mtu = tx_mtu(to),
	    .refuse = to->offload_policy == OFFLOAD_REFUSE,
	};

	if (to->offload_policy == OFFLOAD_COMPLETE)
		out.caps &= PORT_CAP_FRAGS;
	tx_destination(&out, frames, count);
}

/* --- rules at egress ---------------------------------------------------------------------------
 */

/* A destination's list: what its rules let through is sent. */
static void flush_ruled(struct tx *tx, const struct tx_port *ports,
			const struct bridge_port *bridge_ports, struct bridge_lists *lists,
			uint16_t id)
{
	const struct rules_stage *stage = tx->rules->tables->egress[id];
	unsigned count = lists->counts[id];

	if (stage)
		count = rules_egress(tx->rules, stage, id, lists->frames[id], count);
	if (tx->rules->edited)
		tx->plain_max = 0;
	if (count)
		flush_port(tx, ports, bridge_ports, id, lists->frames[id], count);
	lists->counts[id] = 0;
}

static void flush_ruled_all(struct tx *tx, const struct tx_port *ports,
			    const struct bridge_port *bridge_ports, struct bridge_lists *lists)
{
	for (unsigned i = 0; i < lists->active_count; i++)
		flush_ruled(tx, ports, bridge_ports, lists, lists->active[i]);
	lists->active_count = 0;
}

/*
 * What a destination's rules put beside goes before the next destination's do, so that neither the
 * lists nor scratch hold more than one destination's: copies and answers, which meet no rules, and
 * frames that are redirected, whose new destination has rules of its own, and copies of theirs.
 */
static void flush_beside(struct tx *tx, const struct tx_port *ports,
			 const struct bridge_port *bridge_ports)
{
	struct rules_work *rules = tx->rules;

	flush_ruled_all(tx, ports, bridge_ports, &rules->aside);
	if (rules->moved.active_count) {
		rules->moving = true;
		flush_ruled_all(tx, ports, bridge_ports, &rules->moved);
		rules->moving = false;
		flush_ruled_all(tx, ports, bridge_ports, &rules->aside);
	}
	rules_sent(rules);
}

static void flush_with_rules(struct tx *tx, const struct tx_port *ports,
			     const struct bridge_port *bridge_ports, struct bridge_lists *lists)
{
	flush_beside(tx, ports, bridge_ports); /* of ingress */
	for (unsigned i = 0; i < lists->active_count; i++) {
		flush_ruled(tx, ports, bridge_ports, lists, lists->active[i]);
		flush_beside(tx, ports, bridge_ports);
	}
	lists->active_count = 0;
}

void tx_flush(struct tx *tx, const struct tx_port *ports, const struct bridge_port *bridge_ports,
	      struct bridge_lists *lists)
{
	if (__builtin_expect(tx->rules != NULL, 0)) {
		flush_with_rules(tx, ports, bridge_ports, lists);
		return;
	}
	for (unsigned i = 0; i < lists->active_count; i++) {
		uint16_t id = lists->active[i];

		flush_port(tx, ports, bridge_ports, id, lists->frames[id], lists->counts[id]);
		lists->counts[id] = 0;
	}
	lists->active_count = 0;
}
