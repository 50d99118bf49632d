/*
 * Rings in shared memory, in netmap's layout (net/netmap.h, API 14): one model for memory ports,
 * pipes, monitors and netmap itself. head..tail-1 belong to the user of the ring, tail..head-1 to
 * the other side; indices are slot numbers and wrap at num_slots.
 *
 * Memory that somebody else can write is loaded once, checked, and only then used.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum {
	NS_BUF_CHANGED = 0x01, /* buf_idx is not the one the slot had */
	NS_NO_LEARN = 0x08,
	NS_MOREFRAG = 0x20 /* the frame goes on in the next slot */
};

struct netmap_slot {
	uint32_t buf_idx;
	uint16_t len;
	uint16_t flags;
	uint64_t ptr;
};
static_assert(sizeof(struct netmap_slot) == 16, "netmap ABI");

struct netmap_ring {
	int64_t buf_ofs; /* from the ring to buffer 0 of its region, bytes */
	uint32_t num_slots;
	uint32_t nr_buf_size; /* bytes */
	uint16_t ringid;
	uint16_t dir;  /* 1 tx, 0 rx: opposite to what the header's comment says */
	uint32_t head; /* first slot the user owns */
	uint32_t cur;  /* wake-up point */
	uint32_t tail; /* first slot the other side owns */
	uint32_t flags;
	int64_t ts_sec, ts_usec;
	uint8_t pad[72];
	uint8_t sem[128] __attribute__((aligned(128)));
	struct netmap_slot slot[];
};
static_assert(offsetof(struct netmap_ring, head) == 20, "netmap ABI");
static_assert(offsetof(struct netmap_ring, tail) == 28, "netmap ABI");
static_assert(offsetof(struct netmap_ring, slot) == 256, "netmap ABI");

static inline uint32_t ring_next(const struct netmap_ring *ring, uint32_t i)
{
	return i + 1 == ring->num_slots ? 0 : i + 1;
}

/* Slots between head and tail: those the user of the ring may use. */
static inline uint32_t ring_space(uint32_t head, uint32_t tail, uint32_t num_slots)
{
	return tail >= head ? tail - head : tail + num_slots - head;
}

static inline uint8_t *ring_buffer(struct netmap_ring *ring, uint32_t buf_idx)
{
	return (uint8_t *)ring + ring->buf_ofs + (size_t)buf_idx * ring->nr_buf_size;
}
