/*
 * The memory between two sides that exchange frames: a header with the lanes' indices (lane.h),
 * then the lanes' data. One sealed memfd, mapped by those two sides only.
 *
 *     kind          side 0               side 1             outbox t (0 -> 1)   inbox r (1 -> 0)
 *     client port   netmap program       forwarder          one a tx ring       one an rx ring
 *     pipe          master's program     slave's program    one a ring          one a ring
 *     pair          program of the port  program of the     one a tx ring of    one a tx ring of
 *                   with the lower       other one, both in the lower's port    the other's port
 *                   number               direct mode
 *
 * An outbox of a client port is a receive queue of the port, an inbox a transmit queue.
 *
 * Netmap's own rings and buffers are not in here: they lie in a memory of the program's, which the
 * forwarder never maps and no other user's program gets. A sync copies between the two.
 *
 * Bells are pairs of connected stream sockets, one a ring pair (as many as the greater number of
 * rings): an end for each side, which rings the other one by sending a byte and sleeps by polling
 * its own. Not eventfds: two processes share an eventfd's file flags, so that one of them can make
 * the other's reads and writes block. Bell t wakes side 1 for outbox t, and side 0 for room in
 * outbox t and for inbox t. fds that go with a memory, in this order:
 *
 *     memory, side 1's ends of bell 0.., side 0's ends of bell 0..
 *
 * A side gets the memory and its own ends only. A pair has bells of its own: one that several peers
 * could take rings back from would let one of them keep others' from waking their receiver.
 *
 * Both sides may write all of the memory: see lane.h on what that can do. What its header says of
 * the geometry is checked once, by client_map_open, and never read again.
 *
 * Runs on: whoever makes or maps one; lanes on workers and in netmap programs.
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
	uint32_t
	    direct;    /* 0: everything by the outbox; else pair lanes may be used now, and this is
			  the number of the table of addresses: another one, ask (CLIENT_FDB) */
	uint32_t gone; /* 1: evicted, or the bridge is gone: ENXIO from now on */
	uint32_t hdr_len; /* bytes of virtio-net header of the program's frames: 0, 10, 12 */
	_Alignas(128) struct client_ring_stats tx[CLIENT_RINGS_MAX];
	struct client_ring_stats rx[CLIENT_RINGS_MAX];
	struct lane outbox[CLIENT_RINGS_MAX];
	struct lane inbox[CLIENT_RINGS_MAX];
};
static_assert(sizeof(struct client_memory) <= CLIENT_HEADER_BYTES, "lanes' data begins behind it");

static inline size_t client_memory_bytes(uint32_t tx_rings, uint32_t rx_rings,
					 uint32_t outbox_bytes, uint32_t inbox_bytes)
{
	return CLIENT_HEADER_BYTES + (size_t)tx_rings * outbox_bytes +
	       (size_t)rx_rings * inbox_bytes;
}

/* A process's mapping, with its own copy of the geometry. */
struct client_map {
	struct client_memory *memory; /* NULL: not mapped */
	size_t bytes;
	uint32_t tx_rings, rx_rings;
	uint32_t outbox_bytes, inbox_bytes;
};

static inline uint8_t *client_outbox(const struct client_map *map, unsigned ring)
{
	return (uint8_t *)map->memory + CLIENT_HEADER_BYTES + (size_t)ring * map->outbox_bytes;
}

static inline uint8_t *client_inbox(const struct client_map *map, unsigned ring)
{
	return (uint8_t *)map->memory + CLIENT_HEADER_BYTES +
	       (size_t)map->tx_rings * map->outbox_bytes + (size_t)ring * map->inbox_bytes;
}

static inline unsigned client_bells(uint32_t tx_rings, uint32_t rx_rings)
{
	return tx_rings > rx_rings ? tx_rings : rx_rings;
}

/*
 * A sealed memfd, filled in, all of its pages there. Returns the fd or a negative errno; EINVAL: a
 * number of rings that is not 1..CLIENT_RINGS_MAX, bytes that are no power of two or not
 * LANE_BYTES_MIN..LANE_BYTES_MAX.
 */
int client_memory_make(const char *name, uint32_t tx_rings, uint32_t rx_rings,
		       uint32_t outbox_bytes, uint32_t inbox_bytes);

/* Maps what client_memory_make made; EINVAL: it is none, EPROTO: of another version. */
int client_map_open(int fd, struct client_map *map);
void client_map_close(struct client_map *map);

/* The two ends of `count` bells. On failure (a negative errno) none is open. */
int client_bells_make(unsigned count, int *side1, int *side0);

/* Wakes the other side. Never waits; a bell that nobody takes back rings anyway. */
void client_bell_ring(int end);
/* Takes back all rings. False: the other end was shut, poll no more. Never waits. */
bool client_bell_take(int end);

/* The four sides of lanes, from the map. */
static inline void client_outbox_producer(const struct client_map *map, unsigned ring,
					  struct lane_producer *p)
{
	lane_producer_open(p, &map->memory->outbox[ring], client_outbox(map, ring),
			   map->outbox_bytes);
}

static inline void client_outbox_consumer(const struct client_map *map, unsigned ring,
					  struct lane_consumer *c)
{
	lane_consumer_open(c, &map->memory->outbox[ring], client_outbox(map, ring),
			   map->outbox_bytes);
}

static inline void client_inbox_producer(const struct client_map *map, unsigned ring,
					 struct lane_producer *p)
{
	lane_producer_open(p, &map->memory->inbox[ring], client_inbox(map, ring), map->inbox_bytes);
}

static inline void client_inbox_consumer(const struct client_map *map, unsigned ring,
					 struct lane_consumer *c)
{
	lane_consumer_open(c, &map->memory->inbox[ring], client_inbox(map, ring), map->inbox_bytes);
}
