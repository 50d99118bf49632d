/*
 * The memory between two sides that exchange frames: a header with the lanes' indices (lane.h),
 * then the lanes' data. One sealed memfd, mapped by those two sides only.
 *
 *     kind          side 0               side 1             outbox t (0 -> 1)   inbox r (1 -> 0)
 *     client port   netmap program       forwarder          one a tx ring       one an rx ring
 *     pipe          master's program     slave's program    one a ring          one a ring
 *     pair          program of the port  program of the     one                 one
 *                   with the lower       other one, both in
 *                   number               direct mode
 *
 * An outbox of a client port is a receive queue of the port, an inbox a transmit queue.
 *
 * Netmap's own rings and buffers are not in here: they lie in a memory of the program's, which the
 * forwarder never maps and no other user's program gets. A sync copies between the two.
 *
 * Bells are eventfds, non-blocking. fds that go with a memory:
 *
 *     memory, bell of outbox 0.. (wakes side 1), bell of ring pair 0.. (wakes side 0; as many as
 *     the greater number of rings)
 *
 * The bells of a pair are those by which the two ports' programs sleep anyway.
 *
 * Both sides may write all of it: see lane.h on what that can do.
 */
#pragma once

#include "lane.h"

#define CLIENT_MAGIC 0x316e6c6377737600u

enum {
	CLIENT_VERSION = 1,
	CLIENT_RINGS_MAX = 16, /* PORT_QUEUES_MAX */
	CLIENT_OUTBOX_BYTES = 1 << 20,
	CLIENT_INBOX_BYTES = 4 << 20,
	CLIENT_HEADER_BYTES = 16384
};

/* What a program counts itself, for those who look at it over REST. Not trusted. */
struct client_ring_stats {
	_Alignas(64) uint64_t syncs;
	uint64_t sleeps;
	uint64_t invalid; /* slots with a length or buffer that makes no sense */
};

struct client_memory {
	uint64_t magic;
	uint32_t version;
	uint32_t tx_rings, rx_rings;
	uint32_t outbox_bytes, inbox_bytes; /* of each; powers of two */
	/* the switch's (0 in pipes and pairs): looked at in every sync */
	_Alignas(128) uint32_t news; /* another number: ask for what is new (CLIENT_NEWS) */
	uint32_t direct; /* 1: pair lanes may be used now; 0: everything by the outbox */
	uint32_t gone;	 /* 1: evicted, or the bridge is gone: ENXIO from now on */
	_Alignas(128) struct client_ring_stats tx[CLIENT_RINGS_MAX];
	struct client_ring_stats rx[CLIENT_RINGS_MAX];
	struct lane outbox[CLIENT_RINGS_MAX];
	struct lane inbox[CLIENT_RINGS_MAX];
};
static_assert(sizeof(struct client_memory) <= CLIENT_HEADER_BYTES, "lanes' data begins behind it");

static inline size_t client_outbox_at(const struct client_memory *memory, unsigned ring)
{
	return CLIENT_HEADER_BYTES + (size_t)ring * memory->outbox_bytes;
}

static inline size_t client_inbox_at(const struct client_memory *memory, unsigned ring)
{
	return CLIENT_HEADER_BYTES + (size_t)memory->tx_rings * memory->outbox_bytes +
	       (size_t)ring * memory->inbox_bytes;
}

static inline size_t client_memory_bytes(uint32_t tx_rings, uint32_t rx_rings,
					 uint32_t outbox_bytes, uint32_t inbox_bytes)
{
	return CLIENT_HEADER_BYTES + (size_t)tx_rings * outbox_bytes +
	       (size_t)rx_rings * inbox_bytes;
}
