/*
 * What a bridge lets programs in direct mode see of its FDB: the addresses at their own ports, to
 * read and never to write.
 *
 * A table of its own, not the FDB itself: that one is written by every new forwarder and holds the
 * secrets that keep its slots unpredictable. This one is a memfd of the forwarder that lives, which
 * maps it and then seals it with F_SEAL_FUTURE_WRITE: its own mapping goes on, and nobody who gets
 * the fd, not even root by way of /proc/self/fd, can map it writable, write to it or punch a hole
 * into it. A successor makes another one, and `direct` in client_memory.h tells.
 *
 * An entry is one 64-bit word, so a reader needs no lock and cannot see half of one:
 *
 *     63..16 MAC   15..0 port number + 1        0: nothing
 *
 * Buckets of a cache line. A bucket that is full loses an entry to the next: a miss sends a frame
 * by the forwarder, which is slower and never wrong. So the hash needs no secret, and what a writer
 * does has a bound whatever addresses it is made to learn.
 *
 * Runs on: whoever holds the FDB's lock (put, drop), the control thread (open, close), programs
 * (find). Knows nothing but memory.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	FDB_VIEW_VERSION = 1,
	FDB_VIEW_WAYS = 8, /* entries of a bucket */
	FDB_VIEW_HEADER_BYTES = 4096
};

#define FDB_VIEW_MAGIC 0x7765697662646676u

struct fdb_view_bucket {
	_Alignas(64) _Atomic uint64_t entry[FDB_VIEW_WAYS];
};

struct fdb_view {
	uint64_t magic;
	uint32_t version;
	uint32_t buckets;		       /* a power of two */
	_Alignas(64) _Atomic uint64_t changes; /* another number: what was found may not hold */
	_Alignas(FDB_VIEW_HEADER_BYTES) struct fdb_view_bucket bucket[];
};

/* As the first six bytes of a frame, in the upper 48 bits: what entries are compared by. */
static inline uint64_t fdb_view_key(const uint8_t mac[6])
{
	uint32_t high;
	uint16_t low;

	memcpy(&high, mac, sizeof(high));
	memcpy(&low, mac + 4, sizeof(low));
	return (uint64_t)__builtin_bswap32(high) << 32 | (uint64_t)__builtin_bswap16(low) << 16;
}

static inline uint64_t fdb_view_home(uint64_t key, uint32_t buckets)
{
	return (key * 0x9e3779b97f4a7c15u) >> 32 & (buckets - 1);
}

/* The port behind an address, -1: not here. `buckets`: as checked when the memory was mapped. */
static inline int fdb_view_find(const struct fdb_view *view, uint32_t buckets, uint64_t key)
{
	const struct fdb_view_bucket *bucket = &view->bucket[fdb_view_home(key, buckets)];

	for (unsigned i = 0; i < FDB_VIEW_WAYS; i++) {
		uint64_t entry = atomic_load_explicit(&bucket->entry[i], memory_order_relaxed);

		if (entry >> 16 == key >> 16 && entry)
			return (int)(entry & 0xffff) - 1;
	}
	return -1;
}

static inline uint64_t fdb_view_changes(const struct fdb_view *view)
{
	return atomic_load_explicit(&view->changes, memory_order_acquire);
}

static inline uint64_t fdb_view_bytes(uint32_t buckets)
{
	return FDB_VIEW_HEADER_BYTES + (uint64_t)buckets * sizeof(struct fdb_view_bucket);
}

/*
 * A table with room for `entries`, mapped at *view, and the sealed fd to hand out; the caller
 * closes both. A negative errno.
 */
int fdb_view_open(uint32_t entries, struct fdb_view **view, int *fd);
void fdb_view_close(struct fdb_view *view);

/* One writer at a time. */
void fdb_view_clear(struct fdb_view *view);
void fdb_view_put(struct fdb_view *view, uint64_t key, uint16_t port);
void fdb_view_drop(struct fdb_view *view, uint64_t key);
