/* netmap ports, receiving. Runs on: workers. */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "netmap_host.h"

/* Beside the flags of a slot. */
enum { SLOT_BAD = 1 << 16 };

/* What a slot of the ring holds, as a fragment; returns its flags. */
static inline unsigned rx_slot(const struct netmap_rx *rx, uint32_t at, struct frame *fragment)
{
	const struct netmap_view *view = &rx->view;
	struct netmap_slot *slot = &view->ring->slot[at];
	struct netmap_slot seen = slot_load(slot);
	uint64_t offset = view->offset_mask ? load_shared(&slot->ptr) & view->offset_mask : 0;
	unsigned flags = seen.flags & (NS_MOREFRAG | NS_NO_LEARN);

	if (!view_buffer_valid(view, seen.buf_idx) || offset > view->buffer_bytes ||
	    seen.len > view->buffer_bytes - offset) {
		seen.buf_idx = 0;
		seen.len = 0;
		offset = 0;
		flags |= SLOT_BAD;
	}
	*fragment = (struct frame){
	    .data = view_buffer(view, seen.buf_idx) + offset,
	    .slot = slot,
	    .len = seen.len,
	    .frame_len = seen.len,
	    .headroom = (uint16_t)offset,
	    .pool = rx->pool,
	};
	return flags;
}

/*
 * Collects the rest of the chain that begins in slot `at`. Returns the slot behind it; *sound turns
 * false for one with a bad slot, too many of them, or whose end is not there.
 */
static uint32_t rx_chain(const struct netmap_rx *rx, uint32_t at, uint32_t tail,
			 struct frame *first, struct frame **part, bool *sound)
{
	struct frame *last = first;
	unsigned flags = NS_MOREFRAG, count = 1;

	while (flags & NS_MOREFRAG) {
		at = view_next(&rx->view, at);
		if (at == tail || count++ == FRAME_FRAGS_MAX) {
			*sound = false;
			return at;
		}
		flags = rx_slot(rx, at, *part);
		*sound &= !(flags & SLOT_BAD);
		first->frame_len += (*part)->len;
		last->next = *part;
		last = (*part)++;
	}
	*sound &= first->frame_len <= FRAME_LEN_MAX;
	return view_next(&rx->view, at);
}

/* Takes the virtio-net header off. */
static bool rx_vnet(uint32_t vnet_bytes, struct frame *frame)
{
	if (frame->len < vnet_bytes)
		return false;
	memcpy(&frame->offload, frame->data, sizeof(frame->offload));
	frame->data += vnet_bytes;
	frame->headroom = (uint16_t)(frame->headroom + vnet_bytes);
	frame->len -= vnet_bytes;
	frame->frame_len -= vnet_bytes;
	return true;
}

/* Takes the frame that begins at *at, which moves behind it; false: it was a bad one, booked. */
static inline bool rx_frame(const struct netmap_rx *rx, uint32_t *at, uint32_t tail,
			    struct frame *frame, struct frame **part, struct port_counters *cell)
{
	unsigned flags = rx_slot(rx, *at, frame);
	bool sound = !(flags & SLOT_BAD);

	__builtin_prefetch(frame->data);
	if (flags & NS_NO_LEARN)
		frame->flags |= FRAME_NO_LEARN;
	if (__builtin_expect(flags & NS_MOREFRAG, 0))
		*at = rx_chain(rx, *at, tail, frame, part, &sound);
	else
		*at = view_next(&rx->view, *at);
	if (rx->view.vnet_bytes)
		sound = sound && rx_vnet(rx->view.vnet_bytes, frame);
	if (__builtin_expect(sound, 1))
		return true;
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame->frame_len);
	counter_add(&cell->rx_drops[DROP_MALFORMED], 1);
	return false;
}

/*
 * Asks the kernel for what has come, and gives it the slots that were released. It is asked when
 * there is nothing left, and early enough that the device does not run out of slots.
 */
static int rx_sync(struct netmap_rx *rx)
{
	int status = netmap_device->sync(rx->fd, false);

	rx->released = 0;
	return status ? -ENETDOWN : 0;
}

int netmap_rx(struct port_queue *queue, struct frame *batch, unsigned max,
	      struct port_counters *cell)
{
	struct netmap_rx *rx = queue->priv;
	uint32_t slots = rx->view.slots, at = rx->head;
	uint32_t tail = ring_index(&rx->view.ring->tail, slots, at);
	struct frame *part = rx->parts;
	unsigned count = 0;

	if (at == tail || rx->released >= slots / 4) {
		if (rx_sync(rx))
			return -ENETDOWN;
		tail = ring_index(&rx->view.ring->tail, slots, at);
	}
	while (at != tail && count < max)
		count += rx_frame(rx, &at, tail, &batch[count], &part, cell);
	rx->taken = at;
	if (rx->host)
		count = netmap_host_rx(rx, batch, count);
	if (!count && at != rx->head)
		netmap_rx_done(queue); /* nothing for the caller to give back */
	return (int)count;
}

void netmap_rx_commit(struct port_queue *queue)
{
	struct netmap_rx *rx = queue->priv;

	atomic_store_explicit((_Atomic uint32_t *)&rx->view.ring->cur, rx->taken,
			      memory_order_release);
}

void netmap_rx_done(struct port_queue *queue)
{
	struct netmap_rx *rx = queue->priv;

	rx->released += ring_space(rx->head, rx->taken, rx->view.slots);
	rx->head = rx->taken;
	netmap_rx_commit(queue);
	atomic_store_explicit((_Atomic uint32_t *)&rx->view.ring->head, rx->taken,
			      memory_order_release);
}

void netmap_rx_resume(struct netmap_rx *rx)
{
	uint32_t slots = rx->view.slots;
	uint32_t head = ring_index(&rx->view.ring->head, slots, 0);
	uint32_t cur = ring_index(&rx->view.ring->cur, slots, head);
	uint32_t tail = ring_index(&rx->view.ring->tail, slots, head);

	if (ring_space(head, cur, slots) > ring_space(head, tail, slots))
		cur = head;
	rx->head = rx->taken = cur;
	rx->released = ring_space(head, cur, slots);
	atomic_store_explicit((_Atomic uint32_t *)&rx->view.ring->head, cur, memory_order_release);
}
