/*
 * What direct.c and direct_peers.c share.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>

#include "direct.h"
#include "fdb_view.h"

enum { DIRECT_RX_LANES = 512, DIRECT_RETRY_MS = 1000 };

struct direct_peer {
	uint32_t number;     /* of its port */
	uint64_t inode;	     /* of the pair's memory */
	uint64_t refused_at; /* ms; there is no pair: the switch said so then */
	struct client_map map;
	uint32_t side; /* ours */
	uint32_t lanes_in, bells;
	int bell[CLIENT_RINGS_MAX];
};

/* Immutable once published. Peers keep their place as long as they are there. */
struct direct_set {
	uint64_t serial;	     /* from 1; an address may be that of one before */
	const struct fdb_view *view; /* NULL: none */
	size_t view_bytes;
	uint32_t buckets;
	uint32_t number; /* of the table, as client_memory.direct has it */
	uint32_t own;	 /* this port's number in it */
	struct direct_peer *peer[DIRECT_PEERS_MAX];
	unsigned places; /* of `peer`, none is used behind */
	/* when it is replaced */
	struct direct_set *older;
	uint64_t retired_at;
	bool view_ends;
	struct direct_peer *ends[DIRECT_PEERS_MAX];
	unsigned end_count;
};

struct direct_rx_item {
	const struct direct_peer *peer;
	uint32_t lane;
	uint64_t tail;
};

struct direct_rx {
	struct direct *direct;
	unsigned ring;
	unsigned turn; /* who is first changes from sync to sync */
	unsigned count, at;
	bool open;
	struct lane_consumer lane;
	struct direct_rx_item item[DIRECT_RX_LANES];
};

/* A ring's use of the set: 0, or the version when it began. */
struct direct_use {
	_Alignas(64) _Atomic uint64_t since;
};

struct direct {
	struct direct_home home;
	_Atomic(struct direct_set *) set; /* NULL until there is one */
	_Atomic uint64_t version;	  /* counts sets */
	_Atomic uint32_t learning;	  /* pid of who changes what follows; 0: nobody */
	_Atomic uint32_t news;		  /* that was asked for */
	uint64_t retry_ms;		  /* no request before */
	uint64_t last_serial;
	struct direct_set *retired;
	int epoll;				    /* of bells that peers ring; -1: none yet */
	struct direct_use use[2][CLIENT_RINGS_MAX]; /* by tx rings, by rx rings */
	struct direct_tx tx[CLIENT_RINGS_MAX];
	struct direct_rx rx[CLIENT_RINGS_MAX];
	struct direct_out out[CLIENT_RINGS_MAX][DIRECT_PEERS_MAX];
};

uint64_t direct_now_ns(void);

/* Asks the switch what is new, if nobody else is at it and the last failure is a while ago. */
void direct_learn(struct direct *direct);
/* Asks for the pair with a port. */
void direct_meet(struct direct *direct, uint32_t number);
/* Everything that is mapped and open. */
void direct_forget(struct direct *direct);

static inline uint32_t direct_number(const struct direct *direct)
{
	return load_shared_acquire(&direct->home.map->memory->direct);
}

static inline bool direct_news(const struct direct *direct)
{
	return load_shared_acquire(&direct->home.map->memory->news) !=
	       atomic_load_explicit(&direct->news, memory_order_relaxed);
}

/* The set, to be used until direct_leave. */
static inline struct direct_set *direct_enter(struct direct *direct, struct direct_use *use)
{
	atomic_store(&use->since, atomic_load(&direct->version));
	return atomic_load(&direct->set);
}

static inline void direct_leave(struct direct_use *use)
{
	atomic_store_explicit(&use->since, 0, memory_order_release);
}

/* Lane t that we write, and that we read. */
static inline struct lane *direct_lane_out(const struct direct_peer *peer, unsigned t)
{
	struct client_memory *memory = peer->map.memory;

	return peer->side ? &memory->inbox[t] : &memory->outbox[t];
}

static inline struct lane *direct_lane_in(const struct direct_peer *peer, unsigned t)
{
	struct client_memory *memory = peer->map.memory;

	return peer->side ? &memory->outbox[t] : &memory->inbox[t];
}
