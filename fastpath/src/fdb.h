/*
 * Forwarding database of one bridge: (MAC, VLAN id) -> port.
 *
 * Why it looks like this
 * ======================
 * A switch learns what strangers write into source addresses, so this table is an attack surface
 * before it is a cache. Four things follow.
 *
 * Bounded. entries_max entries and not one more, memory given once and touched at once. When the
 * table is full somebody's entry goes; whose, is the question.
 *
 * Fair. The victim comes from the port that holds most learned entries, and is the one of it that
 * was not seen for longest. A port that learns a million addresses therefore pays with its own as
 * soon as it holds as much as any other: ports that hold less than it never lose an entry to it.
 * A port may also be given a hard limit, port_quota; beyond it the port replaces its own oldest.
 * "Oldest" is exact in tables of up to FDB_EVICT_SCAN slots; in larger ones it is the oldest of
 * FDB_EVICT_SAMPLE candidates, since an exact order would need list links in every entry and a
 * write to them for every frame. At most FDB_EVICT_SCAN slots are looked at for one frame; when
 * they hold no candidate the address is refused this time, and the next attempt goes on from there.
 *
 * Keyed. The slot of an address depends on 256 random bits. CRC32C with a seed, the usual choice,
 * is not keyed at all: it is linear, so the seed moves every slot by the same XOR, and addresses
 * that collide under one seed collide under all. Here the key is multiplied twice by secrets, each
 * time folding the 128-bit product. Once is not enough: with 1,000 sequential addresses in 2,048
 * slots and 20,000 seeds, one multiplication left 1.4 % of the tables with more than 10 probes a
 * lookup (worst 356), two left none with more than 1.8.
 *
 * Never wrong. A missed entry floods a frame; an entry with the wrong port delivers it to a
 * stranger. Readers therefore validate (below), and where they cannot they miss.
 *
 * Static entries are the administrator's: they never move, age or leave by flush or eviction, are
 * outside the per-port counts, and a frame from such an address at another port changes nothing.
 * A learned entry that is seen at another port moves there at once, and the move is counted.
 *
 * Time. The caller brings it: a tick is any unit of the monotonic clock (the engine uses seconds),
 * 32 bits wide; no clock is read here. An entry's tick is written only when it changes, so a busy
 * address costs one write a tick and not one a frame. It ages when more than `ageing` ticks have
 * passed since.
 *
 * Layout
 * ======
 * One flat block of memory, usually a memfd that the keeper holds, so that a new forwarder finds
 * what the killed one knew: a page with magic, shape and secrets, then a power of two of 16-byte
 * slots, at least twice entries_max. Linear probing; four slots share a cache line, so a lookup is
 * one line in nearly all cases (load at most 0.5: 1.5 probes on average for a hit, 2.5 for a miss).
 *
 *   key    63..16 MAC   15..4 VLAN id   0 in use          0: the slot is empty
 *   value  63..32 tick  31..16 port     15 static  14..0 moves, saturating
 *
 * Counts, the lock and the cursors are in struct fdb, private to the process: fdb_open derives
 * them from the slots. If the last writer died half way through a removal (`changes` is odd), it
 * builds the table again from what it finds. fdb_retain then drops the entries of ports that no
 * longer exist.
 *
 * Threads
 * =======
 * Readers (any number of workers) take no lock. Writers take a spin lock: fdb_learn only for a new
 * or moved address, and at most FDB_LOCK_SPINS rounds, since the holder may have been preempted;
 * then it answers FDB_REFUSED and the next frame of that address tries again. The control thread
 * (ageing, flush, static entries) holds it for one chunk of slots at a time.
 *
 * An entry is inserted value first, key last, into an empty slot. Refreshing and moving replace the
 * value, one 64-bit word; a move also adds 2 to `changes`, for those who remember what they learned
 * (fdb_changes). Only a removal changes which key a slot holds or pulls later entries back into the
 * gap; it makes `changes` odd, works, and makes it even again. A reader takes
 * `changes` before and after and retries if it was odd or differs: a pair of key and value that was
 * read between two equal even values belongs together, and an address that was not found was really
 * not there. After FDB_READ_TRIES it reports a miss.
 *
 * Runs on: workers (lookup, learn, prefetch) and the control thread (the rest). Knows no port.h.
 */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "error.h"
#include "fdb_view.h"

enum {
	FDB_PORTS_MAX = 4096,	   /* port ids are below this */
	FDB_ENTRIES_MAX = 1 << 20, /* largest entries_max */
	FDB_ANY = 0xffff,	   /* wildcard for port and vid in fdb_flush */
	FDB_MISS = -1,
	FDB_MOVES_MAX = 0x7fff, /* the counter of an entry stops here */
	FDB_EVICT_SCAN = 1024,	/* slots looked at for one eviction, at most */
	FDB_EVICT_SAMPLE = 8,	/* candidates compared in tables with more slots than that */
	FDB_LOCK_SPINS = 4096,
	FDB_READ_TRIES = 256
};

/* cffi: begin */
enum fdb_learned {
	FDB_REFRESHED, /* known at this port */
	FDB_NEW,       /* entered */
	FDB_MOVED,     /* was at another port */
	FDB_REFUSED    /* static at another port, no room that may be taken, or the lock was busy */
};
/* cffi: end */

struct fdb_slot {
	_Atomic uint64_t key;
	_Atomic uint64_t value;
};
static_assert(sizeof(struct fdb_slot) == 16, "four slots a cache line");

struct fdb_header; /* first page of the memory */

struct fdb {
	/* hot: read for every frame, never written after fdb_open */
	struct fdb_slot *slots;
	_Atomic uint64_t
	    *changes;  /* in the header: twice the removals and moves, odd during a removal */
	uint64_t mask; /* slots - 1 */
	uint64_t seed[4];
	struct fdb_header *header;
	uint32_t entries_max;
	uint32_t port_quota; /* learned entries a port may hold */
	bool taken_over;     /* the memory held a valid table */
	/* written under the lock; counts are read without it */
	_Alignas(64) _Atomic uint32_t lock;
	_Atomic uint32_t count; /* entries, static ones included */
	_Atomic uint32_t static_count;
	uint32_t port_high;    /* highest port id that ever had an entry, plus 1 */
	uint64_t evict_hand;   /* slot where the next search for a victim begins */
	uint64_t age_hand;     /* the same for ageing; control thread only */
	struct fdb_view *view; /* what programs see; NULL: nothing */
	uint64_t view_ports[FDB_PORTS_MAX / 64];    /* bit p: of port p */
	_Atomic uint32_t port_count[FDB_PORTS_MAX]; /* learned entries, without static ones */
};

struct fdb_params {
	void *memory;	      /* page-aligned; stays the caller's, outlives the fdb */
	uint64_t bytes;	      /* at least fdb_bytes(entries_max) */
	uint32_t entries_max; /* 1..FDB_ENTRIES_MAX */
	uint32_t port_quota;  /* 0: no limit but the table's */
	bool reset;	      /* start empty whatever the memory holds */
	const uint64_t *seed; /* four secrets for a new table; NULL: getrandom(2). For tests */
};

/* cffi: begin */
struct fdb_entry {
	uint8_t mac[6];
	uint16_t vid;
	uint16_t port;
	bool is_static;
	uint32_t tick; /* last seen */
	uint32_t moves;
};

/* Bytes of memory for a table of entries_max; a multiple of the page size. */
uint64_t fdb_bytes(uint32_t entries_max);
/* cffi: end */

/*
 * Maps fd shared and prefaulted (-1: private zeroed memory). EINVAL when the file is shorter than
 * fdb_bytes(entries_max). The fd stays the caller's and may be closed.
 */
int fdb_map(int fd, uint32_t entries_max, void **memory, struct error *err);
void fdb_unmap(void *memory, uint32_t entries_max);

/*
 * Takes over the table that the memory holds when magic, version and shape agree (entries that
 * cannot be are dropped), else starts an empty one. One process at a time. EINVAL on parameters,
 * ENOMEM. The result is freed with fdb_close, which leaves the memory as it is.
 */
int fdb_open(const struct fdb_params *params, struct fdb **out, struct error *err);

/* --- workers ---------------------------------------------------------------------------------- */

/* vid 0 where VLANs are not filtered. Never 0, the key of an empty slot. */
static inline uint64_t fdb_key(const uint8_t mac[6], uint16_t vid)
{
	uint32_t high;
	uint16_t low;

	memcpy(&high, mac, sizeof(high));
	memcpy(&low, mac + 4, sizeof(low));
	return (uint64_t)__builtin_bswap32(high) << 32 | (uint64_t)__builtin_bswap16(low) << 16 |
	       (uint64_t)(vid & 0xfffu) << 4 | 1u;
}

static inline uint64_t fdb_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The slot where the search for a key begins. */
static inline uint64_t fdb_home(const struct fdb *fdb, uint64_t key)
{
	uint64_t x = fdb_fold(key ^ fdb->seed[0], fdb->seed[1]);

	return fdb_fold(x ^ fdb->seed[2], fdb->seed[3]) & fdb->mask;
}

/* Brings the line of a key that will be looked up a few frames later; returns its home. */
static inline uint64_t fdb_prefetch(const struct fdb *fdb, uint64_t key)
{
	uint64_t home = fdb_home(fdb, key);

	__builtin_prefetch(&fdb->slots[home]);
	return home;
}

static inline uint16_t fdb_value_port(uint64_t value)
{
	return (uint16_t)(value >> 16);
}

static inline uint32_t fdb_value_tick(uint64_t value)
{
	return (uint32_t)(value >> 32);
}

static inline bool fdb_value_static(uint64_t value)
{
	return value >> 15 & 1u;
}

static inline void fdb_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* The search from a key's home on, again while a removal comes in between. */
bool fdb_find_slow(const struct fdb *fdb, uint64_t home, uint64_t key, struct fdb_slot **slot,
		   uint64_t *value);

/* Finds the slot and the value of a key, both as they were at one moment. home: its fdb_home. */
static inline bool fdb_find_at(const struct fdb *fdb, uint64_t home, uint64_t key,
			       struct fdb_slot **slot, uint64_t *value)
{
	uint64_t before = atomic_load_explicit(fdb->changes, memory_order_acquire);
	struct fdb_slot *first = &fdb->slots[home], *slow_slot;
	uint64_t slow_value;

	/* nearly always: it is in its own slot and nobody removes anything */
	if (__builtin_expect(atomic_load_explicit(&first->key, memory_order_acquire) == key, 1)) {
		*slot = first;
		*value = atomic_load_explicit(&first->value, memory_order_acquire);
		if (__builtin_expect(!(before & 1u) &&
					 atomic_load_explicit(fdb->changes, memory_order_relaxed) ==
					     before,
				     1))
			return true;
	}
	/* variables of its own, so that the caller's stay in registers */
	if (!fdb_find_slow(fdb, home, key, &slow_slot, &slow_value))
		return false;
	*slot = slow_slot;
	*value = slow_value;
	return true;
}

static inline bool fdb_find(const struct fdb *fdb, uint64_t key, struct fdb_slot **slot,
			    uint64_t *value)
{
	return fdb_find_at(fdb, fdb_home(fdb, key), key, slot, value);
}

/* The port behind an address, or FDB_MISS. */
static inline int fdb_lookup_at(const struct fdb *fdb, uint64_t home, uint64_t key)
{
	struct fdb_slot *slot;
	uint64_t value;

	return fdb_find_at(fdb, home, key, &slot, &value) ? fdb_value_port(value) : FDB_MISS;
}

static inline int fdb_lookup(const struct fdb *fdb, uint64_t key)
{
	return fdb_lookup_at(fdb, fdb_home(fdb, key), key);
}

/*
 * While this number and the tick stay what they were, an address that was learned at a port is
 * known there and refreshed: learning it again would change nothing.
 */
static inline uint64_t fdb_changes(const struct fdb *fdb)
{
	return atomic_load_explicit(fdb->changes, memory_order_acquire);
}

/* The part of fdb_learn that writes. */
enum fdb_learned fdb_learn_slow(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick);

/*
 * An address was seen as a source at a port. The caller has refused group and zero addresses and
 * looks at the learning switches of bridge and port itself.
 */
static inline enum fdb_learned fdb_learn_at(struct fdb *fdb, uint64_t home, uint64_t key,
					    uint16_t port, uint32_t tick)
{
	struct fdb_slot *slot;
	uint64_t value;

	if (fdb_find_at(fdb, home, key, &slot, &value) && fdb_value_port(value) == port &&
	    (fdb_value_static(value) || (int32_t)(tick - fdb_value_tick(value)) <= 0))
		return FDB_REFRESHED;
	return fdb_learn_slow(fdb, key, port, tick);
}

static inline enum fdb_learned fdb_learn(struct fdb *fdb, uint64_t key, uint16_t port,
					 uint32_t tick)
{
	return fdb_learn_at(fdb, fdb_home(fdb, key), key, port, tick);
}

/* --- control thread --------------------------------------------------------------------------- */

/* cffi: begin */
/*
 * Looks at up to `slots` slots, going on where the last call stopped, and removes learned entries
 * not seen for more than `ageing` ticks. Returns how many. fdb->mask + 1 slots are one round.
 */
unsigned fdb_age(struct fdb *fdb, uint32_t now, uint32_t ageing, uint64_t slots);

/* Removes the learned entries of a port and a VLAN (FDB_ANY: of any). Returns how many. */
unsigned fdb_flush(struct fdb *fdb, uint16_t port, uint16_t vid);

/*
 * After a takeover: removes every entry, static ones included, whose port is not in the bitmap
 * (bit p % 64 of ports[p / 64], FDB_PORTS_MAX bits). Returns how many.
 */
unsigned fdb_retain(struct fdb *fdb, const uint64_t *ports);

/* Enters or replaces. 0, -ENOSPC when all entries are static, -EINVAL on a port id too large. */
int fdb_set_static(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick);

/* 0, or -ENOENT when there is no such static entry. */
int fdb_clear_static(struct fdb *fdb, uint64_t key);

/*
 * Copies at most max entries from slot *cursor on and moves the cursor; returns how many. It was
 * the end when the cursor is 0 again. An entry that a removal shifts while the dump goes on may
 * come twice or not at all; every entry shown was true at that moment.
 */
unsigned fdb_dump(const struct fdb *fdb, uint64_t *cursor, struct fdb_entry *entries, unsigned max);

/*
 * From now on `view` (the caller's, as long as this says so; NULL: none any more) shows the
 * addresses at these ports (bitmap as in fdb_retain) that are in no VLAN.
 */
void fdb_show(struct fdb *fdb, struct fdb_view *view, const uint64_t *ports);

/* Frees it; the memory stays as it is. */
void fdb_close(struct fdb *fdb);
/* cffi: end */

static inline uint32_t fdb_count(const struct fdb *fdb)
{
	return atomic_load_explicit(&fdb->count, memory_order_relaxed);
}

/* Learned entries of a port. */
static inline uint32_t fdb_port_count(const struct fdb *fdb, uint16_t port)
{
	return port < FDB_PORTS_MAX
		   ? atomic_load_explicit(&fdb->port_count[port], memory_order_relaxed)
		   : 0;
}
