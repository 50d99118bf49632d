/*
 * A lane: frames in one direction between two processes, packed one behind the other in a byte ring
 * of shared memory. One producer, one consumer.
 *
 *     struct lane   indices, a line for each side, in the memory's header
 *     data          a power of two of bytes; records, each contiguous:
 *                   struct lane_record, then `len` bytes, then padding to LANE_ALIGN
 *
 * A record that does not fit before the end of the data is preceded by one with LANE_SKIP, which
 * covers the rest. A frame is one record however many slots or fragments it had. Depth follows
 * bytes, not slots: 1 MiB holds 14,500 of the smallest frames.
 *
 * Indices count bytes for ever and are masked where they are used; head <= tail <= head + bytes.
 * Each side keeps its own index privately and only publishes it; what the other side wrote is
 * loaded once (load_shared, ring.h), checked, and only then used. An index or a length that makes
 * no sense resets the lane to empty, which is counted. So the worst that a hostile producer does is
 * to send nonsense, and a hostile consumer to lose what was meant for it.
 *
 * Sleep: the consumer sets consumer_waits, looks for more once again (both sequentially
 * consistent), then polls its bell; the producer publishes, then rings where consumer_waits is set,
 * clearing it. The same the other way round with producer_waits and room.
 *
 * Runs on: workers of the forwarder, threads of netmap programs. No system call here.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ring.h"

enum {
	LANE_ALIGN = 8,
	LANE_BYTES_MIN = 256 << 10, /* two of the largest frames */
	LANE_BYTES_MAX = 64 << 20,
	LANE_VNET_BYTES =
	    16 /* struct frame_offload (frame.h), then zeros: the frame stays aligned */
};

enum lane_flag {
	LANE_SKIP = 1 << 0,	/* no frame: the ring goes on at its beginning */
	LANE_VNET = 1 << 1,	/* `len` bytes begin with LANE_VNET_BYTES */
	LANE_NO_LEARN = 1 << 2, /* NS_NO_LEARN */
	LANE_TXMON = 1 << 3,	/* NS_TXMON: a monitor's copy of a frame that was sent */
	LANE_PORT = 1 << 4	/* `port` says where to, whatever the FDB says */
};

struct lane_record {
	uint32_t len;	/* bytes that follow, LANE_VNET_BYTES included, padding not */
	uint16_t flags; /* enum lane_flag */
	uint16_t port;	/* with LANE_PORT: port number as in NETMAP_REQ_VALE_LIST */
};
static_assert(sizeof(struct lane_record) == 8, "one word");

struct lane {
	/* the producer's */
	_Alignas(128) uint64_t tail;
	uint32_t producer_waits; /* for room */
	uint32_t resets_by_producer;
	uint64_t frames; /* published, ever; frames and bytes without headers of ours */
	uint64_t bytes;
	uint64_t full; /* frames that found no room and were dropped (not: kept by the sender) */
	/* the consumer's */
	_Alignas(128) uint64_t head;
	uint32_t consumer_waits; /* for frames */
	uint32_t resets_by_consumer;
	uint64_t
	    committed; /* as head, but right before its frames leave: where a successor begins */
};
static_assert(sizeof(struct lane) == 256, "two pairs of cache lines");
