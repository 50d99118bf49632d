/*
 * rxsync: takes back the slots that the program released, and fills free ones from the inbox. A
 * frame that is longer than a buffer goes on in the next slots (NS_MOREFRAG); the number of its
 * slots is in the flags' high byte.
 */
#include "pipe.h"

enum { PREFETCH_SLOTS = 8, VNET_USED = 10, VNET_BYTES = 12 };

struct rx_work {
	const struct region *region;
	struct ring_view *view;
	struct netmap_slot *slots;
	struct lane_consumer in;
	uint32_t at, space, hdr_len;
	uint64_t invalid;
};

static inline uint32_t next_slot(const struct rx_work *work)
{
	return work->at + 1 == work->view->num_slots ? 0 : work->at + 1;
}

/* --- any frame: several slots, a virtio-net header in front --- */

/* Offsets are the program's, and may be others when they are looked at again. */
static uint32_t room_in(const struct rx_work *work, uint32_t at)
{
	return work->region->buffer_bytes - slot_offset(work->view->kring, &work->slots[at]);
}

/* How many slots from work->at on hold `bytes`; more than there are: they do not. */
static uint32_t slots_for(const struct rx_work *work, uint32_t bytes)
{
	uint32_t at = work->at, n = 0;

	while (n <= work->space) {
		uint32_t room = room_in(work, at);

		n++;
		if (bytes <= room)
			return n;
		bytes -= room;
		at = at + 1 == work->view->num_slots ? 0 : at + 1;
	}
	return n;
}

/*
 * The frame, behind its header if there is one, over n slots. Where they hold less by now than they
 * did, it is cut.
 */
static void spread(struct rx_work *work, const struct lane_frame *frame, uint32_t n)
{
	uint32_t left = frame->len, header = work->hdr_len;
	const uint8_t *from = frame->data;
	uint16_t txmon = frame->flags & LANE_TXMON ? NS_TXMON : 0;

	for (uint32_t i = 0; i < n; i++) {
		struct netmap_slot *slot = &work->slots[work->at];
		uint32_t buf_idx = load_shared(&slot->buf_idx);
		uint32_t offset = slot_offset(work->view->kring, slot);
		uint32_t room = work->region->buffer_bytes - offset, bytes;
		uint8_t *to = buffer_at(work->region, buf_idx) + offset;

		if (__builtin_expect(header > room, 0))
			header = 0;
		bytes = left < room - header ? left : room - header;

		if (header) {
			uint8_t vnet[VNET_BYTES] = {0};

			if (frame->vnet)
				memcpy(vnet, frame->vnet, VNET_USED);
			memcpy(to, vnet, header);
		}
		memcpy(to + header, from, bytes);
		slot_fill(slot, buf_idx, bytes + header,
			  n << 8 | (i + 1 < n ? NS_MOREFRAG : 0u) | txmon);
		from += bytes;
		left -= bytes;
		header = 0;
		work->at = next_slot(work);
	}
	work->space -= n;
	work->invalid += left != 0;
}

/* False: there are not enough slots now. */
static bool receive_any(struct rx_work *work, const struct lane_frame *frame)
{
	uint32_t n;

	if (room_in(work, work->at) < work->hdr_len) {
		work->invalid++;
		return true;
	}
	n = slots_for(work, frame->len + work->hdr_len);
	if (n > work->space) {
		/* one that no ring of this size can ever hold must not stop those behind it */
		if (work->space < work->view->num_slots - 1)
			return false;
		work->invalid++;
		return true;
	}
	spread(work, frame, n);
	return true;
}

/* --- the frames there are most of --- */

/*
 * Frames that fill one buffer each, as long as they come and there are slots; all that a frame
 * needs stays in registers. Ends before the first that is not like that.
 */
static void receive_run(struct rx_work *work, struct lane_consumer *in)
{
	const struct region region = *work->region;
	struct netmap_slot *slots = work->slots;
	uint32_t at = work->at, n = work->view->num_slots, bytes = in->bytes;
	uint32_t space = work->space;
	uint64_t head = in->head, next = head, tail = in->tail;
	uint8_t *data = in->data;
	struct lane_frame frame;

	for (; space && lane_step(data, bytes, &next, tail, &frame) > 0; space--) {
		uint32_t ahead = at + PREFETCH_SLOTS < n ? at + PREFETCH_SLOTS : at;
		uint32_t buf_idx = load_shared(&slots[at].buf_idx);

		if (frame.len > region.buffer_bytes || frame.flags)
			break;
		__builtin_prefetch(buffer_at(&region, load_shared(&slots[ahead].buf_idx)), 1);
		copy_short(buffer_at(&region, buf_idx), frame.data, frame.len);
		slot_fill(&slots[at], buf_idx, frame.len, 1 << 8);
		at = at + 1 == n ? 0 : at + 1;
		head = next;
	}
	in->head = head;
	work->at = at;
	work->space = space;
}

/* As long as there are frames in sight and slots. False: there are no more slots. */
static bool receive_from(struct rx_work *work, struct lane_consumer *in)
{
	bool plain = !work->hdr_len && !work->view->kring->offset_mask;
	struct lane_frame frame;

	while (work->space) {
		uint64_t before;

		if (plain)
			receive_run(work, in);
		before = in->head;
		if (!work->space)
			break;
		if (!lane_next(in, &frame))
			return true;
		if (!receive_any(work, &frame)) {
			in->head = before;
			break;
		}
	}
	return false;
}

static void receive_pairs(struct rx_work *work, struct direct_rx *pairs)
{
	struct lane_consumer *lane;

	while (work->space && (lane = direct_rx_lane(pairs)) && receive_from(work, lane))
		;
	direct_rx_end(pairs);
}

/*
 * What came by pair lanes was sent after what came by the inbox, where the two are of one flow; the
 * other way round when direct mode was suspended.
 */
static void receive_all(struct rx_work *work, struct direct_rx *pairs)
{
	bool left = true;

	if (pairs && direct_rx_first(pairs)) {
		lane_ready(&work->in);
		receive_pairs(work, pairs);
		pairs = NULL;
	}
	while (left && work->space && lane_ready(&work->in)) {
		left = receive_from(work, &work->in) && pairs;
	}
	if (pairs)
		receive_pairs(work, pairs);
}

struct sync_result rxsync(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct netmap_ring *ring = view->ring;
	struct sync_result result = {0};
	struct ring_place place;
	struct direct_rx *pairs = NULL;
	struct rx_work work;
	bool died, ring_bell;

	if (binding->kind != BOUND_PORT)
		return other_rxsync(binding, view);
	kring_lock(kring, &died);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	kring->hwcur = place.head;
	work = (struct rx_work){.region = &binding->region,
				.view = view,
				.slots = ring->slot,
				.in = kring->in,
				.at = kring->hwtail,
				.space = view->num_slots - 1 -
					 ring_space(kring->hwcur, kring->hwtail, view->num_slots),
				.hdr_len = header_bytes(binding)};
	work.in.lane = view->lane;
	work.in.data = view->data;
	work.in.bytes = view->lane_bytes;
	if (binding->direct && work.space)
		pairs = direct_rx_begin(binding->direct, ring_number(binding, RING_RX, view));
	receive_all(&work, pairs);
	/* first what we have, then that the other side may write over it */
	kring->hwtail = work.at;
	kring->in = work.in;
	__atomic_store_n(&ring->tail, work.at, __ATOMIC_RELEASE);
	ring_bell = lane_release(&kring->in);
	ring_stamp(ring);
	result.found = place.cur != work.at;
	view->stats->syncs++;
	view->stats->invalid += work.invalid;
	pthread_mutex_unlock(&kring->lock);
	if (ring_bell)
		client_bell_ring(view->bell);
	return result;
}
