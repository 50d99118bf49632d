/*
 * Rings in shared memory, in netmap's layout (netmap_abi.h): one model for memory ports, pipes,
 * monitors and netmap itself. head..tail-1 belong to the user of the ring, tail..head-1 to the
 * other side; indices are slot numbers and wrap at num_slots.
 *
 * Memory that somebody else can write is loaded once, checked, and only then used: by
 * load_shared(address), which is one relaxed load of the type pointed to, and by slot_load for a
 * slot. An index that says what may be read is loaded by load_shared_acquire, one by
 * which two sides find out whether to wake the other by load_shared_ordered.
 *
 * Fuzz builds replace it: compiled with -DFUZZ_SHARED, every such load asks fuzz_shared, which the
 * fuzz target defines, for its bytes. It returns whatever it likes (the input's next bytes), so one
 * run plays a peer that writes at the worst moment. Whoever reads a ring through load_shared and
 * slot_load only, and does not read the same field twice, gets such a target for free:
 * tests/fuzz/fuzz_netmap.c shows how.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "netmap_abi.h"

#ifdef FUZZ_SHARED
uint64_t fuzz_shared(const volatile void *address, size_t bytes);
#define load_shared(address) ((__typeof__(*(address)))fuzz_shared((address), sizeof(*(address))))
#define load_shared_acquire(address) load_shared(address)
#define load_shared_ordered(address) load_shared(address)
#else
#define load_shared(address) __atomic_load_n((address), __ATOMIC_RELAXED)
#define load_shared_acquire(address) __atomic_load_n((address), __ATOMIC_ACQUIRE)
#define load_shared_ordered(address) __atomic_load_n((address), __ATOMIC_SEQ_CST)
#endif

/* A slot's buf_idx, len and flags in one load; ptr is not looked at. */
static inline struct netmap_slot slot_load(const struct netmap_slot *slot)
{
	uint64_t word = load_shared((const uint64_t *)slot);

	return (struct netmap_slot){.buf_idx = (uint32_t)word,
				    .len = (uint16_t)(word >> 32),
				    .flags = (uint16_t)(word >> 48)};
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the order of a slot's fields in a word");

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
