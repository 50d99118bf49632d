/*
 * The syncs of a pipe's end. As in the module a pipe moves slots and not frames: one record of the
 * lane a slot, whatever its length, and a slot is the sender's again when the receiver's program
 * has given its own back. So the lane's head is where that program is, not where its sync has
 * copied to: a record lies in the lane until then, an end that is opened again finds what nobody
 * took, and the number of slots in flight is that of a ring less one. The tail is published behind
 * whole frames only.
 *
 * The sender's room, and how many of its slots are in flight, follow from the lane's head alone:
 * both sides count the records between where the head was and where it is. So there is nothing else
 * that a killed program could leave out of step.
 *
 * Before it writes, the sender says how far (lane->claimed), for monitors: watch.c.
 */
#include "pipe.h"

#include <string.h>

#include "user.h"

enum {
	PUBLISH_BYTES = 32 << 10,
	CLAIM_BYTES = 16 << 10,
	PREFETCH_SLOTS = 8,
	SLOT_BYTES_MAX = UINT16_MAX,
	PASSED_ON = NS_MOREFRAG | NS_REPORT | NS_FORWARD /* of a slot's flags */
};
static_assert((int)SLOT_BYTES_MAX <= (int)LANE_FRAME_MAX, "a slot is a record");

static uint32_t next_of(const struct ring_view *view, uint32_t slot)
{
	return slot + 1 == view->num_slots ? 0 : slot + 1;
}

/* The slot whose buffer is fetched while that of `slot` is copied. */
static const struct netmap_slot *ahead_of(const struct ring_view *view, uint32_t slot)
{
	uint32_t ahead = slot + PREFETCH_SLOTS;

	if (ahead >= view->num_slots)
		ahead -= view->num_slots;
	return &view->ring->slot[ahead < view->num_slots ? ahead : slot];
}

/* How many records there are from `from` to `to`, as far as they make sense. */
static uint32_t records_between(uint8_t *data, uint32_t bytes, uint64_t from, uint64_t to)
{
	struct lane_frame frame;
	uint32_t n = 0;

	if (to - from > bytes)
		return 0; /* the other side went backwards */
	while (lane_step(data, bytes, &from, to, &frame) == 1)
		n++;
	return n;
}

/* --- sending --- */

struct pipe_tx {
	const struct region *region;
	struct ring_view *view;
	struct lane_producer out;
	uint64_t complete; /* behind the last frame whose slots are all there */
	uint64_t claimed;
	uint64_t invalid;
	bool ring_bell;
};

/*
 * Slots that have come back. Before anything is written over their records, so whoever looks where
 * the consumer is does it here.
 */
static void reclaim(struct kring *kring, struct lane_producer *out)
{
	uint32_t back;

	lane_producer_look(out);
	back = records_between(out->data, out->bytes, kring->freed, out->head);
	if (out->head == out->tail || back > kring->in_flight)
		back = kring->in_flight;
	kring->in_flight -= back;
	kring->freed = out->head;
}

/* The last slot but one behind those that are in flight. */
static uint32_t tail_of(const struct kring *kring, uint32_t hwcur)
{
	uint32_t n = kring->num_slots;
	uint32_t away = kring->in_flight < n ? kring->in_flight : n - 1;

	return (hwcur + n - 1 - away) % n;
}

void pipe_tx_open(struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct lane_producer *out = &kring->out;

	lane_producer_open(out, view->lane, view->data, view->lane_bytes);
	lane_producer_look(out);
	kring->freed = out->head;
	kring->in_flight = records_between(out->data, out->bytes, out->head, out->tail);
	kring->hwtail = view->ring->tail = tail_of(kring, kring->hwcur);
}

static bool has_room(struct pipe_tx *work, uint32_t bytes)
{
	struct lane_producer *out = &work->out;

	if (out->bytes - (out->tail - out->head) >= lane_need(out, bytes))
		return true;
	reclaim(work->view->kring, out);
	return out->bytes - (out->tail - out->head) >= lane_need(out, bytes);
}

/* Stands in the lane before anything that it speaks of is written. */
static void claim(struct pipe_tx *work, uint32_t bytes)
{
	uint64_t end = work->out.tail + lane_need(&work->out, bytes);

	if (end <= work->claimed)
		return;
	work->claimed = end + CLAIM_BYTES;
	lane_count(&work->out.lane->claimed, work->claimed);
	fence();
}

static void publish(struct pipe_tx *work)
{
	struct lane_producer whole = work->out;

	whole.tail = work->complete;
	work->ring_bell |= lane_publish(&whole);
	work->out.published = whole.published;
}

/* One slot into the lane. False: there is no room. */
static bool send_slot(struct pipe_tx *work, struct netmap_slot *slot)
{
	const struct region *region = work->region;
	struct netmap_slot now = slot_load(slot);
	bool indirect = now.flags & NS_INDIRECT;
	uint32_t offset = indirect ? 0 : slot_offset(work->view->kring, slot);
	uint32_t bytes = now.len, most = region->buffer_bytes - offset;
	uint64_t word;
	uint8_t *to;

	if (bytes > most || now.buf_idx >= region->buffers) {
		work->invalid++;
		bytes = bytes > most ? most : bytes;
	}
	if (!has_room(work, bytes)) {
		work->view->kring->pending = lane_span(bytes);
		return false;
	}
	claim(work, bytes);
	to = lane_reserve(&work->out, bytes);
	if (!indirect) {
		copy_short(to, buffer_at(region, now.buf_idx) + offset, bytes);
	} else if (user_read(to, load_shared(&slot->ptr), bytes)) {
		work->invalid++;
		bytes = 0;
	}
	word = bytes | (uint64_t)(now.flags & PASSED_ON) << 48;
	lane_count((uint64_t *)(void *)(to - sizeof(word)), word);
	work->out.tail += lane_span(bytes);
	work->out.frame_bytes += bytes;
	work->view->kring->in_flight++;
	if (now.flags & NS_BUF_CHANGED)
		slot->flags = now.flags & (uint16_t)~NS_BUF_CHANGED;
	if (!(now.flags & NS_MOREFRAG)) {
		work->out.frames++;
		work->complete = work->out.tail;
	}
	return true;
}

static uint32_t send_all(struct pipe_tx *work, uint32_t at, uint32_t head)
{
	struct netmap_slot *slots = work->view->ring->slot;

	while (at != head) {
		__builtin_prefetch(
		    buffer_at(work->region, load_shared(&ahead_of(work->view, at)->buf_idx)));
		if (!send_slot(work, &slots[at]))
			break;
		at = next_of(work->view, at);
		if (work->complete - work->out.published >= PUBLISH_BYTES)
			publish(work);
	}
	publish(work);
	return at;
}

struct sync_result pipe_txsync(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct sync_result result = {0};
	struct ring_place place;
	struct pipe_tx work;
	bool died;

	kring_lock(kring, &died);
	if (died)
		pipe_tx_open(view);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	work = (struct pipe_tx){.region = &binding->region, .view = view, .out = kring->out};
	work.out.lane = view->lane;
	work.out.data = view->data;
	work.out.bytes = view->lane_bytes;
	work.complete = work.out.published;
	work.claimed = work.out.tail;
	reclaim(kring, &work.out);
	kring->pending = 0;
	result.sent = kring->hwcur != place.head;
	kring->hwcur = send_all(&work, kring->hwcur, place.head);
	kring->out = work.out;
	kring->hwtail = tail_of(kring, kring->hwcur);
	__atomic_store_n(&view->ring->tail, kring->hwtail, __ATOMIC_RELEASE);
	result.found = place.cur != kring->hwtail;
	view->stats->syncs++;
	view->stats->invalid += work.invalid;
	pthread_mutex_unlock(&kring->lock);
	if (work.ring_bell)
		client_bell_ring(view->bell);
	return result;
}

bool pipe_tx_waits(struct ring_view *view, bool want)
{
	const struct kring *kring = view->kring;
	struct lane *lane = view->lane;

	/* nothing that could come back is wanted back */
	if (!kring->in_flight || (!want && !kring->pending))
		return true;
	lane_waits_set(&lane->producer_waits);
	if (load_shared_ordered(&lane->head) == kring->out.head)
		return true;
	lane_waits_clear(&lane->producer_waits);
	return false;
}

/* --- receiving --- */

/* Where the record is whose slot the program has not given back yet, `back` slots further on. */
static uint64_t release_to(struct lane_consumer *in, uint32_t back)
{
	uint64_t at = in->published;
	struct lane_frame frame;

	while (back-- && lane_step(in->data, in->bytes, &at, in->head, &frame) == 1)
		;
	return at;
}

/* A slot of the sender's into one of ours. */
static bool receive_slot(const struct region *region, const struct ring_view *view,
			 const struct lane_frame *frame, uint32_t at)
{
	struct netmap_slot *slot = &view->ring->slot[at];
	uint32_t buf_idx = load_shared(&slot->buf_idx);
	uint32_t offset = slot_offset(view->kring, slot), room = region->buffer_bytes - offset;
	uint32_t bytes = frame->len < room ? frame->len : room;
	uint32_t flags = pipe_slot_flags(frame);

	__builtin_prefetch(buffer_at(region, load_shared(&ahead_of(view, at)->buf_idx)), 1);
	copy_short(buffer_at(region, buf_idx) + offset, frame->data, bytes);
	slot_fill(slot, buf_idx, bytes, flags);
	return bytes == frame->len;
}

uint32_t pipe_slot_flags(const struct lane_frame *frame)
{
	const uint8_t *record = frame->data - sizeof(struct lane_record);
	uint64_t word = load_shared((const uint64_t *)(const void *)record);

	return word >> 48 & PASSED_ON;
}

/* As far as there are slots and records; the program's slots are `at` and on. */
static uint32_t receive_all(const struct region *region, struct ring_view *view,
			    struct lane_consumer *in, uint32_t at)
{
	uint32_t space = view->num_slots - 1 -
			 ring_space(view->kring->hwcur, view->kring->hwtail, view->num_slots);
	struct lane_frame frame;

	for (; space && lane_ready(in) && lane_next(in, &frame); space--) {
		view->stats->invalid += !receive_slot(region, view, &frame, at);
		at = next_of(view, at);
	}
	return at;
}

struct sync_result pipe_rxsync(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct sync_result result = {0};
	struct lane_consumer in;
	struct ring_place place;
	uint64_t released;
	uint32_t back;
	bool died, ring_bell = false;

	kring_lock(kring, &died);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	in = kring->in;
	in.lane = view->lane;
	in.data = view->data;
	in.bytes = view->lane_bytes;
	back = ring_space(kring->hwcur, place.head, view->num_slots);
	released = release_to(&in, back);
	kring->hwcur = place.head;
	kring->hwtail = receive_all(&binding->region, view, &in, kring->hwtail);
	__atomic_store_n(&view->ring->tail, kring->hwtail, __ATOMIC_RELEASE);
	if (in.resets == kring->in.resets && released != in.published) {
		in.published = released;
		lane_store(&view->lane->committed, released);
		lane_store_ordered(&view->lane->head, released);
		ring_bell = lane_waits_answer(&view->lane->producer_waits);
	}
	kring->in = in;
	ring_stamp(view->ring);
	result.found = place.cur != kring->hwtail;
	view->stats->syncs++;
	pthread_mutex_unlock(&kring->lock);
	if (ring_bell)
		client_bell_ring(view->bell);
	return result;
}
