/* Runs on: workers. */
#include "ring_frames.h"

#include <string.h>

static bool vnet_take(const struct ring_rx *rx, struct frame *frame)
{
	if (frame->len < rx->vnet_bytes)
		return false;
	memcpy(&frame->offload, frame->data, sizeof(frame->offload));
	frame->data += rx->vnet_bytes;
	frame->headroom = (uint16_t)rx->vnet_bytes;
	frame->len -= rx->vnet_bytes;
	frame->frame_len -= rx->vnet_bytes;
	return true;
}

/*
 * Collects the rest of a chain whose first slot is at. Returns the slot behind it; *sound turns
 * false for a chain with a bad slot, too many of them, or whose end is not there.
 */
static uint32_t rx_chain(struct ring_rx *rx, uint32_t at, uint32_t tail, struct frame *first,
			 struct frame *fragment, bool *sound)
{
	struct frame *last = first;
	unsigned odd = NS_MOREFRAG;
	unsigned count = 1;

	while (odd & NS_MOREFRAG) {
		at = ring_slot_next(at, rx->slots);
		if (at == tail || count == FRAME_FRAGS_MAX) {
			*sound = false;
			return at;
		}
		ring_rx_slot(rx->buffers, rx->shape, &rx->ring->slot[at], fragment, &odd);
		*sound &= !(odd & RING_SLOT_BAD);
		first->frame_len += fragment->len;
		last->next = fragment;
		last = fragment++;
		count++;
	}
	*sound &= first->frame_len <= FRAME_LEN_MAX + rx->vnet_bytes;
	return ring_slot_next(at, rx->slots);
}

bool ring_rx_odd(struct ring_rx *rx, uint32_t *at, uint32_t tail, struct frame *frame,
		 struct frame **fragment, unsigned odd, struct port_counters *cell)
{
	bool sound = !(odd & RING_SLOT_BAD);
	uint32_t next = ring_slot_next(*at, rx->slots);

	if (odd & NS_NO_LEARN)
		frame->flags |= FRAME_NO_LEARN;
	if (odd & NS_MOREFRAG) {
		next = rx_chain(rx, *at, tail, frame, *fragment, &sound);
		for (const struct frame *f = frame->next; f; f = f->next)
			++*fragment;
	}
	*at = next;
	if (sound && (!rx->vnet_bytes || vnet_take(rx, frame)))
		return true;
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame->frame_len);
	counter_add(&cell->rx_drops[DROP_MALFORMED], 1);
	return false;
}

/* Where a slot's bytes go; a number that is none names buffer 0, so that the region is not left. */
static uint8_t *slot_buffer(uint8_t *buffers, struct ring_shape shape,
			    const struct netmap_slot *slot)
{
	uint32_t buf_idx = load_shared(&slot->buf_idx);

	return buffers + (size_t)(buf_idx < shape.buffers ? buf_idx : 0) * shape.buffer_bytes;
}

uint32_t ring_copy_in(struct netmap_ring *ring, uint8_t *buffers, struct ring_shape shape,
		      uint32_t slots, uint32_t vnet_bytes, uint32_t at, const struct frame *frame)
{
	struct netmap_slot *slot = &ring->slot[at];
	uint8_t *to = slot_buffer(buffers, shape, slot);
	uint32_t used = vnet_bytes;
	uint16_t mark = frame->flags & FRAME_SENT_COPY ? NS_TXMON : 0;

	if (used)
		memcpy(to, &frame->offload, sizeof(frame->offload));
	for (; frame; frame = frame->next) {
		const uint8_t *from = frame->data;
		uint32_t left = frame->len;

		while (left) {
			uint32_t part = shape.buffer_bytes - used;

			if (!part) {
				slot->len = (uint16_t)shape.buffer_bytes;
				slot->flags = NS_MOREFRAG | mark;
				at = ring_slot_next(at, slots);
				slot = &ring->slot[at];
				to = slot_buffer(buffers, shape, slot);
				used = 0;
				continue;
			}
			if (part > left)
				part = left;
			memcpy(to + used, from, part);
			used += part;
			from += part;
			left -= part;
		}
	}
	slot->len = (uint16_t)used;
	slot->flags = mark;
	return ring_slot_next(at, slots);
}
