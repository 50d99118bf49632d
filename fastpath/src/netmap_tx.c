/*
 * netmap ports, sending. Where the frame lies in a buffer of the same region, the two slots
 * exchange their buffers; everything else is copied once, straight into the slots. Runs on:
 * workers.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "netmap_host.h"

/* What a call has put into the ring and not yet handed over. */
struct burst {
	struct netmap_tx *tx;
	struct tx_report *report;
	uint32_t at;
	uint32_t space; /* slots from `at` on */
	uint32_t frames;
	uint32_t exchanged; /* of the frames */
	uint64_t bytes;
	uint64_t deadline_ns; /* 0: nobody has waited yet */
	bool down;
	bool copy; /* exchange nothing */
};

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void burst_look(struct burst *burst)
{
	const struct netmap_view *view = &burst->tx->view;
	uint32_t tail = ring_index(&view->ring->tail, view->slots, burst->at);

	burst->space = ring_space(burst->at, tail, view->slots);
}

static void index_store(uint32_t *index, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)index, value, memory_order_release);
}

/* Hands over what is in the ring and looks how much room there is now. */
static void burst_send(struct burst *burst)
{
	struct netmap_tx *tx = burst->tx;

	if (burst->frames)
		port_commit(burst->report);
	/* the kernel takes head only where it is not ahead of cur */
	index_store(&tx->view.ring->cur, burst->at);
	index_store(&tx->view.ring->head, burst->at);
	tx->head = burst->at;
	if (netmap_device->sync(tx->fd, true))
		burst->down = true;
	if (burst->down) {
		burst->report->drops[DROP_LINK_DOWN] += burst->frames;
	} else {
		burst->report->sent += burst->frames;
		burst->report->zero_copy += burst->exchanged;
		burst->report->sent_bytes += burst->bytes;
	}
	burst->frames = burst->exchanged = 0;
	burst->bytes = 0;
	burst_look(burst);
}

/*
 * Waits for the ring to move, but all in all no longer than wait_ns a batch. Where it did not move
 * at all in that time nobody waits again before it does: a pipe without a reader stops no worker.
 */
static bool burst_wait(struct burst *burst)
{
	struct netmap_tx *tx = burst->tx;
	struct netmap_ring *ring = tx->view.ring;
	uint32_t tail = ring_index(&ring->tail, tx->view.slots, burst->at);
	uint64_t now = clock_ns();
	int ready;

	if (tail == tx->stalled_at)
		return false;
	if (!burst->deadline_ns)
		burst->deadline_ns = now + tx->wait_ns;
	if (now >= burst->deadline_ns)
		return false;
	/* whoever wants more than there is says so by its wake-up point */
	index_store(&ring->cur, tail);
	ready = netmap_device->wait(tx->fd, burst->deadline_ns - now);
	burst->down = ready < 0;
	burst_look(burst);
	tx->stalled_at = ready == 0 ? tail : tx->view.slots;
	return ready > 0;
}

static bool burst_room(struct burst *burst, uint32_t need)
{
	if (__builtin_expect(burst->space >= need, 1))
		return true;
	if (need < burst->tx->view.slots && !burst->down)
		burst_send(burst);
	while (burst->space < need) {
		if (need >= burst->tx->view.slots || burst->down || !burst_wait(burst))
			return false;
	}
	return true;
}

/* --- exchanging buffers ---------------------------------------------------------------------- */

static void slots_exchange(struct netmap_slot *to, uint32_t to_buffer, struct netmap_slot *from,
			   uint32_t from_buffer)
{
	to->buf_idx = from_buffer;
	from->buf_idx = to_buffer;
	to->flags = NS_BUF_CHANGED;
	from->flags |= NS_BUF_CHANGED;
}

/*
 * The frame lies alone in one buffer of this region, and the ring's slots can say where in it the
 * bytes begin (without offsets: at its beginning).
 */
static inline bool may_exchange(const struct netmap_tx *tx, const struct frame *frame)
{
	return tx->pool && frame->pool == tx->pool && !(frame->flags & FRAME_SHARED) &&
	       !frame->next && frame->headroom <= tx->view.offset_mask && !tx->view.vnet_bytes;
}

/* false: one of the two slots names no buffer of the region. */
static bool tx_exchange(struct netmap_tx *tx, uint32_t at, const struct frame *frame)
{
	struct netmap_slot *to = &tx->view.ring->slot[at], *from = frame->slot;
	uint32_t to_buffer = load_shared(&to->buf_idx), from_buffer = load_shared(&from->buf_idx);
	struct netmap_exchange *exchange = tx->exchange;

	if (!view_buffer_valid(&tx->view, to_buffer) || !view_buffer_valid(&tx->view, from_buffer))
		return false;
	/* only the order counts: a kill takes no store back */
	exchange->to_buffer = to_buffer;
	exchange->from_buffer = from_buffer;
	exchange->from = (uint64_t)((uint8_t *)from - tx->region);
	atomic_signal_fence(memory_order_seq_cst);
	exchange->to = (uint64_t)((uint8_t *)to - tx->region);
	atomic_signal_fence(memory_order_seq_cst);
	slots_exchange(to, to_buffer, from, from_buffer);
	if (tx->view.offset_mask)
		to->ptr = (to->ptr & ~tx->view.offset_mask) | frame->headroom;
	to->len = (uint16_t)frame->len;
	atomic_signal_fence(memory_order_seq_cst);
	exchange->to = 0;
	return true;
}

/* --- copying --------------------------------------------------------------------------------- */

/* Where bytes go to: a slot and its buffer. */
struct room {
	struct netmap_slot *slot;
	uint8_t *to;
	uint32_t used;
	uint16_t flags; /* that it keeps: a buffer the kernel has not heard of yet */
};

/* false: the slot names no buffer of the region. */
static bool room_open(const struct netmap_view *view, uint32_t at, struct room *room)
{
	struct netmap_slot *slot = &view->ring->slot[at];
	struct netmap_slot seen = slot_load(slot);

	if (!view_buffer_valid(view, seen.buf_idx))
		return false;
	if (view->offset_mask)
		slot->ptr &= ~view->offset_mask;
	*room = (struct room){.slot = slot,
			      .to = view_buffer(view, seen.buf_idx),
			      .flags = seen.flags & NS_BUF_CHANGED};
	return true;
}

static void room_close(struct room *room, uint16_t flags)
{
	room->slot->len = (uint16_t)room->used;
	room->slot->flags = room->flags | flags;
}

/*
 * Copies header and fragments into slots from *at on, which moves behind them. There are enough:
 * slots_needed. false: one of them names no buffer; *at is where it was.
 */
static bool tx_copy(const struct netmap_view *view, uint32_t *at, const struct frame *frame)
{
	uint32_t next = *at;
	struct room room;

	if (!room_open(view, next, &room))
		return false;
	if (view->vnet_bytes) {
		memset(room.to, 0, view->vnet_bytes);
		memcpy(room.to, &frame->offload, sizeof(frame->offload));
		room.used = view->vnet_bytes;
	}
	for (; frame; frame = frame->next) {
		const uint8_t *from = frame->data;
		uint32_t left = frame->len;

		while (left) {
			uint32_t part = view->buffer_bytes - room.used;

			if (!part) {
				room_close(&room, NS_MOREFRAG);
				next = view_next(view, next);
				if (!room_open(view, next, &room))
					return false;
				continue;
			}
			part = part < left ? part : left;
			/* somebody else may have named one buffer in both slots */
			memmove(room.to + room.used, from, part);
			room.used += part;
			from += part;
			left -= part;
		}
	}
	room_close(&room, 0);
	*at = view_next(view, next);
	return true;
}

static uint32_t slots_needed(const struct netmap_view *view, const struct frame *frame)
{
	uint32_t bytes = frame->frame_len + view->vnet_bytes;

	return bytes ? (bytes + view->buffer_bytes - 1) / view->buffer_bytes : 1;
}

/* --- a batch --------------------------------------------------------------------------------- */

static void burst_frame(struct burst *burst, const struct frame *frame)
{
	struct netmap_tx *tx = burst->tx;
	bool exchange = !burst->copy && may_exchange(tx, frame), done;
	uint32_t need = exchange ? 1 : slots_needed(&tx->view, frame);
	uint32_t at = burst->at;

	if (need > 1 && (!tx->chains || need > FRAME_FRAGS_MAX || need >= tx->view.slots)) {
		burst->report->drops[DROP_TOO_BIG]++;
		return;
	}
	if (!burst_room(burst, need)) {
		burst->report->drops[burst->down ? DROP_LINK_DOWN : DROP_QUEUE_FULL]++;
		return;
	}
	if (exchange) {
		/* from here on the rx slot does not hold the frame any more */
		port_commit(burst->report);
		done = tx_exchange(tx, at, frame);
		at = view_next(&tx->view, at);
	} else {
		done = tx_copy(&tx->view, &at, frame);
	}
	if (!done) {
		burst->report->drops[DROP_TX_ERROR]++;
		return;
	}
	burst->space -= ring_space(burst->at, at, tx->view.slots);
	burst->at = at;
	burst->frames++;
	burst->exchanged += exchange;
	burst->bytes += frame->frame_len;
}

void netmap_send(struct netmap_tx *tx, struct frame *const *frames, unsigned count,
		 struct tx_report *report, bool copy)
{
	struct burst burst = {.tx = tx, .report = report, .at = tx->head, .copy = copy};

	burst_look(&burst);
	for (unsigned i = 0; i < count; i++)
		burst_frame(&burst, frames[i]);
	if (burst.frames)
		burst_send(&burst);
}

void netmap_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	       struct tx_report *report)
{
	struct netmap_tx *tx = queue->priv;

	if (!tx) /* a monitor, or rx rings only */
		report->drops[DROP_RECEIVE_ONLY] += count;
	else if (tx->host)
		netmap_host_tx(tx, frames, count, report);
	else
		netmap_send(tx, frames, count, report, false);
}

/* --- after a kill ---------------------------------------------------------------------------- */

static struct netmap_slot *slot_at(const struct netmap_tx *tx, uint64_t offset, uint64_t bytes)
{
	if (offset % sizeof(struct netmap_slot) || offset > bytes - sizeof(struct netmap_slot))
		return NULL;
	return (struct netmap_slot *)(tx->region + offset);
}

void netmap_tx_resume(struct netmap_tx *tx, uint64_t bytes)
{
	struct netmap_exchange exchange = *tx->exchange;
	uint32_t slots = tx->view.slots;
	uint32_t tail = ring_index(&tx->view.ring->tail, slots, 0);
	struct netmap_slot *to, *from;

	tx->head = ring_index(&tx->view.ring->head, slots, tail);
	tx->exchange->to = 0;
	if (!exchange.to)
		return;
	to = slot_at(tx, exchange.to, bytes);
	from = slot_at(tx, exchange.from, bytes);
	/* written by a process that parses the bytes of strangers */
	if (to && from && to >= tx->view.ring->slot && to < tx->view.ring->slot + slots &&
	    view_buffer_valid(&tx->view, exchange.to_buffer) &&
	    view_buffer_valid(&tx->view, exchange.from_buffer))
		slots_exchange(to, exchange.to_buffer, from, exchange.from_buffer);
}
