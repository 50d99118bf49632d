/*
 * Inside connection tracking: the table's memory, and what its files share. conntrack.h says what
 * it is for.
 *
 * Shared memory: a page with magic, shape and secrets, then the entries, shard after shard. All
 * else is private and made anew, by conntrack_map and conntrack_take_over.
 *
 * Locks: a shard's lock guards its entries, chains, free slots and fragments; a port's lock guards
 * its list of connections without an answer. A port's lock is taken while a shard's is held, never
 * the other way round, and two of a kind never.
 *
 * An entry is written whole before its stamp becomes odd, and its stamp becomes even before it is
 * taken apart: what has an odd stamp is complete, whenever the writer was killed.
 */
#pragma once

#include <assert.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "conntrack.h"
#include "parse.h"

enum {
	CONNTRACK_PORTS_MAX = 4096, /* port ids are below this */
	CONNTRACK_SHARDS_MAX = 64,  /* a power of two */
	CONNTRACK_SHARD_MIN = 32,   /* connections on average, or there is only one shard */
	CONNTRACK_CHUNK = 64,	    /* slots the control thread looks at for one hold of a lock */
	CONNTRACK_SPINS = 256,	    /* before a waiting thread lets another one run */
	CONNTRACK_FRAGMENTS = 64,   /* packets remembered a shard */
	CONNTRACK_FRAGMENT_WAYS = 4,
	CONNTRACK_FRAGMENT_S = 30 /* RFC 791 asks for 15 or more, RFC 8200 for 60 at most */
};

enum { CONNTRACK_ICMP = 1, CONNTRACK_TCP = 6, CONNTRACK_UDP = 17, CONNTRACK_ICMPV6 = 58 };

/*
 * Two ends and where they talk. The smaller end comes first, so that both directions have the same;
 * of ICMP the side that asks comes first, for a request never answers another one.
 */
struct conntrack_tuple {
	uint8_t address[2][16];
	uint16_t port[2]; /* ICMP: identifier, type of the request */
	uint16_t vid;
	uint16_t bridge;
	uint8_t proto;
	uint8_t ip_version;
	uint8_t zero[6];
};
static_assert(sizeof(struct conntrack_tuple) == 48, "six words, no holes");

struct conntrack_entry {
	struct conntrack_tuple tuple;
	_Atomic uint32_t stamp; /* odd: in use; changes when it becomes another connection's */
	uint32_t seen;		/* last frame */
	uint16_t in_port;
	uint8_t origin;	  /* index of the end that began */
	uint8_t answered; /* the other end has sent */
	uint8_t tcp;	  /* enum conntrack_tcp */
	uint8_t pad[3];
	uint64_t frames[2]; /* from who began, from the other one */
	uint64_t bytes[2];
	uint32_t hash; /* low half: where its chain begins */
	/* indices + 1, 0: none; mean nothing to the next process */
	uint32_t next;	/* in the chain or of free slots */
	uint32_t older; /* on its port's list of connections without an answer */
	uint32_t newer;
	uint8_t room[16];
};
static_assert(sizeof(struct conntrack_entry) == 128, "two cache lines: the first one is searched");

struct conntrack_header {
	_Atomic uint64_t magic;
	uint32_t version;
	uint32_t connections_max;
	uint32_t shard_count;
	uint32_t shard_slots;
	uint64_t secret[8];
	_Atomic uint32_t high[CONNTRACK_SHARDS_MAX]; /* slots from here on were never used */
	uint8_t pad[4096 - 24 - 64 - 4 * CONNTRACK_SHARDS_MAX];
};
static_assert(sizeof(struct conntrack_header) == 4096, "entries begin on a page");

/* The first fragment of a packet, for those that follow. */
struct conntrack_fragment {
	uint8_t src[16];
	uint8_t dst[16];
	uint32_t id;
	uint16_t vid;
	uint16_t bridge;
	uint8_t proto; /* IPv6: 0, the identification is enough (RFC 8200, section 4.5) */
	uint8_t ip_version;
	uint8_t state; /* enum flow_state; 0: free */
	bool reply;
	uint16_t in_port;
	uint32_t seen;
	uint32_t entry; /* as in struct conntrack_ref */
	uint32_t stamp;
};

struct conntrack_shard {
	_Alignas(64) _Atomic uint32_t lock;
	uint32_t count;
	uint32_t free;		  /* index + 1 of a slot */
	uint32_t high;		  /* as in the header */
	_Atomic uint32_t *chains; /* of others than the holder only for a hint */
	struct conntrack_fragment *fragments;
};

/* What connections of a port are there, the oldest without an answer first. */
struct conntrack_port {
	_Atomic uint32_t lock;
	_Atomic uint32_t count; /* all that it began */
	uint32_t oldest;
	uint32_t newest;
};

struct conntrack {
	/* hot: never written after conntrack_map */
	struct conntrack_entry *entries;
	struct conntrack_shard *shards;
	uint64_t secret[8];
	uint32_t chain_mask;
	uint32_t shard_slots;
	uint32_t shard_count;
	uint32_t connections_max;
	struct conntrack_port *ports;
	struct conntrack_header *header;
	_Atomic uint32_t *chains;
	struct conntrack_fragment *fragments;
	/* settings: numbers that stand alone */
	_Atomic uint32_t quota;
	_Atomic uint32_t tcp_timeouts[CONNTRACK_TCP_STATES];
	_Atomic uint32_t udp_new;
	_Atomic uint32_t udp_established;
	_Atomic uint32_t icmp;
	_Atomic bool loose;
	_Alignas(64) _Atomic uint32_t count;
};

/* --- locks: whoever holds one is a few instructions from giving it back ------------------------
 */

static inline void conntrack_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static inline void conntrack_lock(_Atomic uint32_t *lock)
{
	unsigned spins = 0;

	while (__builtin_expect(atomic_exchange_explicit(lock, 1, memory_order_acquire), 0)) {
		while (atomic_load_explicit(lock, memory_order_relaxed)) {
			if (++spins % CONNTRACK_SPINS)
				conntrack_pause();
			else
				sched_yield(); /* its holder may wait for this processor */
		}
	}
}

static inline void conntrack_unlock(_Atomic uint32_t *lock)
{
	atomic_store_explicit(lock, 0, memory_order_release);
}

/* --- hash: products of secret sums, folded ------------------------------------------------------
 */

static inline uint64_t conntrack_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t conntrack_hash(const struct conntrack *table, const void *words48)
{
	const uint64_t *secret = table->secret;
	uint64_t w[6];

	memcpy(w, words48, sizeof(w));
	w[0] = conntrack_fold(w[0] ^ secret[0], w[1] ^ secret[1]);
	w[2] = conntrack_fold(w[2] ^ secret[2], w[3] ^ secret[3]);
	w[4] = conntrack_fold(w[4] ^ secret[4], w[5] ^ secret[5]);
	w[0] = conntrack_fold(w[0] + w[2] + w[4] + secret[6], secret[7]);
	return w[0] ? w[0] : 1;
}

/* Where a chain begins. */
static inline _Atomic uint32_t *conntrack_chain(const struct conntrack *table,
						const struct conntrack_shard *shard, uint64_t hash)
{
	return &shard->chains[hash & table->chain_mask];
}

static inline struct conntrack_shard *conntrack_shard_of(const struct conntrack *table,
							 uint64_t hash)
{
	return &table->shards[(hash >> 32) & (table->shard_count - 1)];
}

/* --- what is looked at in a frame: conntrack_tuple.c --------------------------------------------
 */

enum conntrack_sort {
	CONNTRACK_NOT_TRACKED,
	CONNTRACK_INVALID, /* of a tracked protocol, but of no connection whatever is known */
	CONNTRACK_TRACKED, /* may belong to one */
	CONNTRACK_LATER,   /* a fragment that is not its packet's first */
	CONNTRACK_ABOUT	   /* an ICMP error; the tuple is its inner packet's */
};

struct conntrack_view {
	enum conntrack_sort sort;
	struct conntrack_tuple tuple;
	uint8_t from;	/* index of the end that the frame came from */
	bool may_begin; /* of ICMP: it is a request */
};

/* A frame of TCP or UDP that is no later fragment: its key says all about it. */
static inline bool conntrack_is_plain(const struct flow_key *key)
{
	return (key->layers & (FLOW_PORTS | FLOW_BAD)) == FLOW_PORTS;
}

void conntrack_view(const struct flow_key *key, const struct frame *frame, uint16_t bridge,
		    struct conntrack_view *view);

/* --- TCP: conntrack_tcp.c ------------------------------------------------------------------------
 */

enum conntrack_step {
	CONNTRACK_STEP_INVALID,
	CONNTRACK_STEP_NEW,  /* begins a connection, in place of this one if there is one */
	CONNTRACK_STEP_STAYS /* belongs to the connection */
};

/* entry NULL: none. *next: the state behind the frame. */
enum conntrack_step conntrack_tcp_step(const struct conntrack_entry *entry, bool reply,
				       uint8_t flags, bool loose, uint8_t *next);

/* --- fragments: conntrack_fragments.c ------------------------------------------------------------
 */

/* The state of the packet's first fragment and what it belonged to; invalid: none is known. */
enum flow_state conntrack_fragment_find(struct conntrack *table, const struct flow_key *key,
					const struct frame *frame, uint16_t bridge, uint32_t now,
					struct conntrack_ref *ref);
/* A first fragment was let through. */
void conntrack_fragment_note(struct conntrack *table, const struct flow_key *key,
			     const struct frame *frame, uint16_t bridge, uint32_t now,
			     const struct conntrack_ref *ref);

/* --- entries: conntrack_table.c; the shard's lock is held where it says so
 * ------------------------ */

/* Held. Takes the entry out and makes its slot free; counts it off. */
void conntrack_remove(struct conntrack *table, struct conntrack_shard *shard, uint32_t index);
/* Held. A free slot, its stamp even; 0: there is none. */
uint32_t conntrack_slot(struct conntrack *table, struct conntrack_shard *shard);
/* Held. The slot's entry is written: makes it findable and evictable. */
void conntrack_insert(struct conntrack *table, struct conntrack_shard *shard, uint32_t index);
/* Held. It was seen again or answered: its place among those that may be evicted. */
void conntrack_list_move(struct conntrack *table, uint32_t index, bool answered);
/* Not held. Counts one more connection of the port, evicting where that is needed. */
bool conntrack_reserve(struct conntrack *table, uint16_t port);
void conntrack_unreserve(struct conntrack *table, uint16_t port);

/* Index + 1 to entry, and to the shard it lies in. */
static inline struct conntrack_entry *conntrack_at(const struct conntrack *table, uint32_t index)
{
	return &table->entries[index - 1];
}

static inline struct conntrack_shard *conntrack_shard_at(const struct conntrack *table,
							 uint32_t index)
{
	return &table->shards[(index - 1) / table->shard_slots];
}

static inline bool conntrack_same(const struct conntrack_tuple *a, const struct conntrack_tuple *b)
{
	uint64_t x[6], y[6];

	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]) |
		 (x[5] ^ y[5]));
}

/* Held. Index + 1, or 0. */
static inline uint32_t conntrack_find(const struct conntrack *table,
				      const struct conntrack_shard *shard, uint64_t hash,
				      const struct conntrack_tuple *tuple)
{
	uint32_t index =
	    atomic_load_explicit(conntrack_chain(table, shard, hash), memory_order_relaxed);

	while (index && !conntrack_same(&conntrack_at(table, index)->tuple, tuple))
		index = conntrack_at(table, index)->next;
	return index;
}

static inline uint32_t conntrack_stamp(const struct conntrack_entry *entry)
{
	return atomic_load_explicit(&entry->stamp, memory_order_relaxed);
}

/* Seconds of silence until the entry is forgotten. */
static inline uint32_t conntrack_timeout(const struct conntrack *table,
					 const struct conntrack_entry *entry)
{
	const _Atomic uint32_t *at = &table->icmp;

	if (entry->tuple.proto == CONNTRACK_TCP && entry->answered)
		at = &table->tcp_timeouts[entry->tcp];
	else if (entry->tuple.proto == CONNTRACK_TCP)
		at =
		    &table
			 ->tcp_timeouts[entry->tcp < CONNTRACK_TCP_FIN_WAIT ? CONNTRACK_TCP_SYN_SENT
									    : CONNTRACK_TCP_CLOSED];
	else if (entry->tuple.proto == CONNTRACK_UDP)
		at = entry->answered ? &table->udp_established : &table->udp_new;
	return atomic_load_explicit(at, memory_order_relaxed);
}

/* Workers' clocks may be a second apart. */
static inline uint32_t conntrack_silence(const struct conntrack_entry *entry, uint32_t now)
{
	return (int32_t)(now - entry->seen) > 0 ? now - entry->seen : 0;
}

static inline bool conntrack_expired(const struct conntrack *table,
				     const struct conntrack_entry *entry, uint32_t now)
{
	return conntrack_silence(entry, now) >= conntrack_timeout(table, entry);
}
