/*
 * Frames out of rings and into them: what the ports whose rings lie in memory have in common.
 *
 * A ring is netmap's (ring.h); its slots name buffers of one region, all of one size. A frame
 * longer than a buffer is a chain of slots with NS_MOREFRAG. Where vnet_bytes is not 0 each frame
 * begins with struct frame_offload (virtio's legacy header), and nothing unfinished is lost.
 *
 * Whoever writes the other side of the ring is not trusted: indices, lengths and buffer numbers
 * are loaded once and checked; what makes no sense is booked as malformed or lands in buffer 0.
 * Nothing here makes a system call; bells are the ports' own affair.
 *
 * Runs on: the worker that serves the queue.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "ring.h"
#include "stats.h"

enum {
	RING_VNET_BYTES = sizeof(struct frame_offload),
	/* beside the flags of a slot: why a frame is not one plain slot */
	RING_SLOT_BAD = 1 << 16,
	RING_SLOT_VNET = 1 << 17
};

/* What does not change while the ring lives. A constant where the driver has one region only. */
struct ring_shape {
	uint32_t buffer_bytes;
	uint32_t buffers; /* in the region: buf_idx is below this */
	uint16_t pool;	  /* frame->pool of its buffers; 0: they never change hands */
};

/* The switch takes frames: head..tail-1 are there. */
struct ring_rx {
	struct netmap_ring *ring;
	uint8_t *buffers; /* buffer 0 */
	uint32_t head;	  /* what ring->head is; the switch's own copy */
	uint32_t taken;	  /* what it becomes with ring_rx_done */
	uint32_t slots;
	uint32_t vnet_bytes;	 /* 0 or RING_VNET_BYTES */
	struct frame *fragments; /* `slots` descriptors for what follows a first fragment */
	/* of the last batch, as port_queue has them */
	uint32_t plain_max;
	uint64_t plain_bytes;
	struct ring_shape shape;
};

/* An index that the other side may change at any time. */
static inline _Atomic uint32_t *ring_shared(uint32_t *word)
{
	return (_Atomic uint32_t *)word;
}

static inline uint32_t ring_slot_next(uint32_t at, uint32_t slots)
{
	return at + 1 == slots ? 0 : at + 1;
}

/* The switch's view of one slot, loaded once. `odd`: not one plain frame in a sound slot. */
static inline void ring_rx_slot(uint8_t *buffers, struct ring_shape shape, struct netmap_slot *slot,
				struct frame *frame, unsigned *odd)
{
	/* not by slot_load: fields that were just stored apart cannot be loaded as one at once */
	uint32_t buf_idx = load_shared(&slot->buf_idx);
	uint16_t len = load_shared(&slot->len);

	*odd = load_shared(&slot->flags) & (NS_MOREFRAG | NS_NO_LEARN);
	if (__builtin_expect(buf_idx >= shape.buffers || len > shape.buffer_bytes, 0)) {
		*odd |= RING_SLOT_BAD;
		buf_idx = 0;
		len = 0;
	}
	*frame = (struct frame){
	    .data = buffers + (size_t)buf_idx * shape.buffer_bytes,
	    .slot = slot,
	    .len = len,
	    .frame_len = len,
	    .pool = shape.pool,
	};
}

/*
 * The long way of a frame that is not one plain slot: a chain, one with a virtio-net header, or a
 * bad one, which is booked and returned as false. *at moves behind it, *fragment behind the
 * descriptors that it took.
 */
bool ring_rx_odd(struct ring_rx *rx, uint32_t *at, uint32_t tail, struct frame *frame,
		 struct frame **fragment, unsigned odd, struct port_counters *cell);

/* Everything the last ring_rx returned is the other side's again. */
static inline void ring_rx_done(struct ring_rx *rx)
{
	rx->head = rx->taken;
	rx->ring->cur = rx->taken;
	/* orders with the other side's look at head: it rings, or the next rx sees the new tail */
	atomic_store(ring_shared(&rx->ring->head), rx->taken);
}

/* At most max frames before `tail` into batch; as ops->rx. tail is below the ring's slots. */
static inline int ring_rx(struct ring_rx *rx, struct ring_shape shape, uint32_t tail,
			  struct frame *batch, unsigned max, struct port_counters *cell)
{
	uint32_t at = rx->head;
	uint32_t slots = rx->slots;
	unsigned always_odd = rx->vnet_bytes ? RING_SLOT_VNET : 0;
	struct frame *fragment = rx->fragments, *frame = batch, *end = batch + max;
	uint64_t bytes = 0;
	uint32_t longest = 0;
	bool plain = true;
	struct netmap_slot *slot = rx->ring->slot;
	uint8_t *buffers = rx->buffers;

	while (at != tail && frame != end) {
		unsigned odd;

		ring_rx_slot(buffers, shape, &slot[at], frame, &odd);
		__builtin_prefetch(frame->data);
		odd |= always_odd;
		if (__builtin_expect(!odd, 1)) {
			at = ring_slot_next(at, slots);
			bytes += frame->len;
			longest = frame->len > longest ? frame->len : longest;
			frame++;
		} else {
			uint32_t next = at; /* `at` stays in its register */

			plain = false;

			frame += ring_rx_odd(rx, &next, tail, frame, &fragment, odd, cell);
			at = next;
		}
	}
	rx->taken = at;
	rx->plain_max = plain ? longest : 0;
	rx->plain_bytes = bytes;
	if (frame == batch && at != rx->head)
		ring_rx_done(rx); /* nothing for the caller to give back */
	return (int)(frame - batch);
}

/* Slots that a frame takes. */
static inline uint32_t ring_slots_needed(uint32_t buffer_bytes, uint32_t vnet_bytes,
					 const struct frame *frame)
{
	return (frame->frame_len + vnet_bytes + buffer_bytes - 1) / buffer_bytes;
}

/*
 * Copies header and fragments into the slots from `at` on, whose number the caller has checked;
 * returns the slot behind the frame.
 */
uint32_t ring_copy_in(struct netmap_ring *ring, uint8_t *buffers, struct ring_shape shape,
		      uint32_t slots, uint32_t vnet_bytes, uint32_t at, const struct frame *frame);
