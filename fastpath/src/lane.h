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
 * Each side keeps its own index privately (struct lane_producer, struct lane_consumer) and only
 * publishes it; what the other side wrote is loaded once (load_shared, ring.h), checked, and only
 * then used. An index or a length that makes no sense resets the lane to empty, which is counted.
 * So the worst that a hostile producer does is to send nonsense, and a hostile consumer to lose
 * what was meant for it.
 *
 *     producer                                consumer
 *     lane_reserve, bytes, lane_add  (n x)    lane_next  (n x)
 *     lane_publish: true: ring                lane_commit, lane_release: true: ring
 *     lane_producer_waits: true: poll         lane_consumer_waits: true: poll
 *     lane_producer_awake                     lane_consumer_awake
 *
 * Sleep: the consumer sets consumer_waits, looks for more once again (both sequentially
 * consistent), then polls its bell; the producer publishes, then rings where consumer_waits is set,
 * clearing it. The same the other way round with producer_waits and room. A bell may ring without
 * need, and whoever woke takes all rings back before it looks (client_bell_take).
 *
 * Runs on: workers of the forwarder, threads of netmap programs. No system call here.
 */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ring.h"

enum {
	LANE_ALIGN = 8,
	LANE_AHEAD = 640,	    /* bytes that are fetched before they are needed */
	LANE_BYTES_MIN = 256 << 10, /* two of the largest frames */
	LANE_BYTES_MAX = 64 << 20,
	LANE_VNET_BYTES = 16,  /* struct frame_offload (frame.h), then zeros: frames stay aligned */
	LANE_FRAME_MAX = 65554 /* FRAME_LEN_MAX */
};

enum lane_flag {
	LANE_SKIP = 1 << 0,	/* no frame: the ring goes on at its beginning */
	LANE_VNET = 1 << 1,	/* `len` bytes begin with LANE_VNET_BYTES */
	LANE_NO_LEARN = 1 << 2, /* NS_NO_LEARN */
	LANE_TXMON = 1 << 3	/* NS_TXMON: a monitor's copy of a frame that was sent */
};

struct lane_record {
	uint32_t len;	     /* bytes that follow, LANE_VNET_BYTES included, padding not */
	uint16_t flags;	     /* enum lane_flag */
	uint16_t slot_flags; /* of pipes, whose records are slots: NS_*; 0 in all others */
};
static_assert(sizeof(struct lane_record) == 8, "one word");

struct lane {
	/* the producer's */
	_Alignas(128) uint64_t tail;
	uint32_t producer_waits; /* for room */
	uint32_t resets_by_producer;
	uint64_t frames; /* published, ever; frames and bytes without headers of ours */
	uint64_t bytes;
	uint64_t full;	  /* frames that found no room and were dropped (not: kept by the sender) */
	uint64_t claimed; /* of pipes, for their monitors: nothing is written behind it yet */
	/* the consumer's */
	_Alignas(128) uint64_t head;
	uint32_t consumer_waits; /* for frames */
	uint32_t resets_by_consumer;
	uint64_t
	    committed; /* as head, but right before its frames leave: where a successor begins */
};
static_assert(sizeof(struct lane) == 256, "two pairs of cache lines");

/* What runs for every frame: a caller's private copy of an index stays in a register. */
#define LANE_INLINE static inline __attribute__((always_inline))

/* --- indices ------------------------------------------------------------------------------------
 */

/* One side's index, for the other side; `ordered` before a look at whether that one waits. */
static inline void lane_store(uint64_t *index, uint64_t value)
{
	__atomic_store_n(index, value, __ATOMIC_RELEASE);
}

static inline void lane_store_ordered(uint64_t *index, uint64_t value)
{
	__atomic_store_n(index, value, __ATOMIC_SEQ_CST);
}

static inline void lane_count(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static inline void lane_count_reset(uint32_t *counter)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

static inline uint64_t lane_aligned(uint64_t index)
{
	return index & ~(uint64_t)(LANE_ALIGN - 1);
}

/* May `tail` be where the producer is, when the consumer is at `head`? */
static inline bool lane_sound(uint64_t head, uint64_t tail, uint32_t bytes)
{
	return tail - head <= bytes && !((head | tail) & (LANE_ALIGN - 1));
}

/* Bytes of a record. */
static inline uint32_t lane_span(uint32_t len)
{
	return (uint32_t)(sizeof(struct lane_record) + LANE_ALIGN - 1 + len) &
	       ~(uint32_t)(LANE_ALIGN - 1);
}

/*
 * Both sides: says that this one sleeps; whoever looks afterwards and still finds nothing may.
 * Returning from sleep, or finding something, says so too.
 */
static inline void lane_waits_set(uint32_t *waits)
{
	__atomic_store_n(waits, 1, __ATOMIC_SEQ_CST);
}

static inline void lane_waits_clear(uint32_t *waits)
{
	__atomic_store_n(waits, 0, __ATOMIC_RELAXED);
}

/* After an ordered store of the index: does the other side want its bell rung? Only once a sleep.
 */
static inline bool lane_waits_answer(uint32_t *waits)
{
	return __builtin_expect(load_shared_ordered(waits) != 0, 0) &&
	       __atomic_exchange_n(waits, 0, __ATOMIC_SEQ_CST) != 0;
}

/*
 * Copies what a record holds; like memcpy, without a call for the short ones: moves that overlap.
 */
LANE_INLINE void lane_copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
	uint8_t last[16];

	if (__builtin_expect(bytes > 256 || bytes < 16, 0)) {
		memcpy(to, from, bytes);
		return;
	}
	for (uint32_t at = 0; at + 16 < bytes; at += 16)
		memcpy(to + at, from + at, 16);
	memcpy(last, from + bytes - 16, 16);
	memcpy(to + bytes - 16, last, 16);
}

/* --- the producer -------------------------------------------------------------------------------
 */

struct lane_producer {
	struct lane *lane;
	uint8_t *data;
	uint32_t bytes;	    /* of data, a power of two */
	uint32_t full;	    /* counted with the next lane_publish */
	uint64_t tail;	    /* behind what was added */
	uint64_t published; /* what lane->tail is */
	uint64_t head;	    /* where the consumer was seen last */
	uint64_t frames, frame_bytes, full_ever;
};

/* Goes on where whoever had this side before left off. */
static inline void lane_producer_open(struct lane_producer *p, struct lane *lane, uint8_t *data,
				      uint32_t bytes)
{
	uint64_t tail = lane_aligned(load_shared_acquire(&lane->tail));

	*p = (struct lane_producer){.lane = lane,
				    .data = data,
				    .bytes = bytes,
				    .tail = tail,
				    .published = tail,
				    .head = tail - bytes, /* looks before it writes */
				    .frames = load_shared(&lane->frames),
				    .frame_bytes = load_shared(&lane->bytes),
				    .full_ever = load_shared(&lane->full)};
}

/*
 * Where the consumer is now. One that cannot be there has lost its way: whatever it had not read is
 * written over, and it finds out by itself.
 */
LANE_INLINE void lane_producer_look(struct lane_producer *p)
{
	uint64_t head = load_shared_ordered(&p->lane->head);

	if (__builtin_expect(!lane_sound(head, p->tail, p->bytes), 0)) {
		lane_count_reset(&p->lane->resets_by_producer);
		head = p->tail;
	}
	p->head = head;
}

/* Bytes that the next record needs, with what has to be skipped before it. */
static inline uint32_t lane_need(const struct lane_producer *p, uint32_t len)
{
	uint32_t span = lane_span(len), to_end = p->bytes - ((uint32_t)p->tail & (p->bytes - 1));

	return span <= to_end ? span : to_end + span;
}

/*
 * Room for a record of `len` bytes (LANE_VNET_BYTES included; at most LANE_FRAME_MAX and those):
 * where they go. NULL: there is none.
 */
LANE_INLINE uint8_t *lane_reserve(struct lane_producer *p, uint32_t len)
{
	uint32_t need = lane_need(p, len), at = (uint32_t)p->tail & (p->bytes - 1);

	if (__builtin_expect(p->bytes - (p->tail - p->head) < need, 0)) {
		lane_producer_look(p);
		if (p->bytes - (p->tail - p->head) < need)
			return NULL;
	}
	if (__builtin_expect(p->bytes - at < lane_span(len), 0)) {
		const struct lane_record skip = {.len = 0, .flags = LANE_SKIP};
		uint64_t word;

		memcpy(&word, &skip, sizeof(word));
		lane_count((uint64_t *)(void *)(p->data + at), word);
		p->tail += p->bytes - at;
		at = 0;
	}
	__builtin_prefetch(p->data + ((at + LANE_AHEAD) & (p->bytes - 1)), 1);
	return p->data + at + sizeof(struct lane_record);
}

/* The bytes are where lane_reserve said: a record of `len` bytes. */
LANE_INLINE void lane_add(struct lane_producer *p, uint32_t len, uint16_t flags)
{
	uint8_t *record = p->data + ((uint32_t)p->tail & (p->bytes - 1));

	lane_count((uint64_t *)(void *)record, len | (uint64_t)flags << 32);
	p->tail += lane_span(len);
	p->frames++;
	p->frame_bytes += len - (flags & LANE_VNET ? (uint32_t)LANE_VNET_BYTES : 0);
}

/* A frame found no room and is dropped. */
static inline void lane_full(struct lane_producer *p)
{
	p->full++;
}

/* All that was added is the consumer's. True: ring its bell. */
static inline bool lane_publish(struct lane_producer *p)
{
	struct lane *lane = p->lane;

	if (__builtin_expect(p->full, 0)) {
		p->full_ever += p->full;
		p->full = 0;
		lane_count(&lane->full, p->full_ever);
	}
	if (p->tail == p->published)
		return false;
	lane_count(&lane->frames, p->frames);
	lane_count(&lane->bytes, p->frame_bytes);
	p->published = p->tail;
	lane_store_ordered(&lane->tail, p->tail);
	return lane_waits_answer(&lane->consumer_waits);
}

/* Is everything read that was published? */
static inline bool lane_drained(struct lane_producer *p)
{
	lane_producer_look(p);
	return p->head == p->tail;
}

/* Before sleeping for room for `len` bytes. False: there is some, do not sleep. */
static inline bool lane_producer_waits(struct lane_producer *p, uint32_t len)
{
	lane_waits_set(&p->lane->producer_waits);
	lane_producer_look(p);
	if (p->bytes - (p->tail - p->head) < lane_need(p, len))
		return true;
	lane_waits_clear(&p->lane->producer_waits);
	return false;
}

static inline void lane_producer_awake(struct lane_producer *p)
{
	lane_waits_clear(&p->lane->producer_waits);
}

/* --- the consumer -------------------------------------------------------------------------------
 */

struct lane_consumer {
	struct lane *lane;
	uint8_t *data;
	uint32_t bytes;	    /* of data, a power of two */
	uint32_t resets;    /* of this side, since it was opened */
	uint64_t head;	    /* behind what was read */
	uint64_t published; /* what lane->head is */
	uint64_t tail;	    /* where the producer was seen last */
	uint64_t refused;   /* what lane->tail was when it made no sense: counted once */
};

struct lane_frame {
	uint8_t *data;	     /* the frame's first byte */
	const uint8_t *vnet; /* with LANE_VNET: its header, struct frame_offload; or NULL */
	uint32_t len;	     /* of the frame */
	uint16_t flags;
};

/* Everything that is there is gone, nonsense as it was. */
static inline void lane_consumer_reset(struct lane_consumer *c)
{
	c->resets++;
	lane_count_reset(&c->lane->resets_by_consumer);
	c->refused = load_shared_acquire(&c->lane->tail);
	c->head = c->tail = c->published = lane_aligned(c->refused);
	lane_store(&c->lane->committed, c->head);
	lane_store_ordered(&c->lane->head, c->head);
}

/* Goes on where whoever had this side before left off: behind what it committed. */
static inline void lane_consumer_open(struct lane_consumer *c, struct lane *lane, uint8_t *data,
				      uint32_t bytes)
{
	uint64_t tail = load_shared_acquire(&lane->tail), head = load_shared(&lane->head);
	uint64_t committed = load_shared(&lane->committed);

	*c = (struct lane_consumer){
	    .lane = lane, .data = data, .bytes = bytes, .refused = UINT64_MAX};
	if (!lane_sound(head, tail, bytes)) {
		lane_consumer_reset(c);
		return;
	}
	if (committed - head <= tail - head && !(committed & (LANE_ALIGN - 1)))
		head = committed;
	c->head = c->published = head;
	c->tail = tail;
	lane_store(&lane->committed, head);
	lane_store_ordered(&lane->head, head);
}

/* What came before there was a reader is nobody's: begins with what comes from now on. */
static inline void lane_consumer_skip(struct lane_consumer *c)
{
	uint64_t tail = load_shared_acquire(&c->lane->tail);

	if (!lane_sound(c->head, tail, c->bytes))
		return; /* lane_ready says so */
	c->head = c->tail = c->published = tail;
	lane_store(&c->lane->committed, tail);
	lane_store_ordered(&c->lane->head, tail);
}

/* Is there anything? Looks at the producer's index only where what was seen last is used up. */
static inline bool lane_ready(struct lane_consumer *c)
{
	uint64_t tail;

	if (c->head != c->tail)
		return true;
	tail = load_shared_ordered(&c->lane->tail);
	if (tail == c->head)
		return false;
	if (__builtin_expect(!lane_sound(c->head, tail, c->bytes), 0)) {
		if (tail != c->refused)
			lane_consumer_reset(c);
		return false;
	}
	c->tail = tail;
	return true;
}

/* The same, without looking again at what has come since: a bound for a reader's round. */
static inline bool lane_left(const struct lane_consumer *c)
{
	return c->head != c->tail;
}

/*
 * One step of a reader that keeps its indices in registers: as lane_next, from *head on, which it
 * moves. 1: a frame; 0: there is none before `tail`; -1: nonsense, lane_consumer_reset comes next.
 */
LANE_INLINE int lane_step(uint8_t *data, uint32_t bytes, uint64_t *head, uint64_t tail,
			  struct lane_frame *frame)
{
	uint32_t at, span, vnet;
	uint64_t word, left;

	for (;;) {
		if (*head == tail)
			return 0;
		at = (uint32_t)*head & (bytes - 1);
		left = tail - *head;
		word = load_shared((const uint64_t *)(const void *)(data + at));
		if (__builtin_expect(!(word >> 32 & LANE_SKIP), 1))
			break;
		if (bytes - at > left)
			return -1;
		*head += bytes - at;
	}
	__builtin_prefetch(data + ((at + LANE_AHEAD) & (bytes - 1)));
	frame->len = (uint32_t)word;
	frame->flags = (uint16_t)(word >> 32);
	vnet = frame->flags & LANE_VNET ? (uint32_t)LANE_VNET_BYTES : 0;
	if (__builtin_expect(frame->len < vnet || frame->len > LANE_FRAME_MAX + vnet, 0))
		return -1;
	span = lane_span(frame->len);
	if (__builtin_expect(span > left || span > bytes - at, 0))
		return -1;
	frame->data = data + at + sizeof(struct lane_record) + vnet;
	frame->vnet = vnet ? frame->data - vnet : NULL;
	frame->len -= vnet;
	*head += span;
	return 1;
}

/*
 * The next frame, where it lies: it stays until lane_release, and the producer may still write it.
 * False: there is none (lane_ready looks for more), or what was there made no sense (c->resets).
 */
static inline bool lane_next(struct lane_consumer *c, struct lane_frame *frame)
{
	uint64_t head = c->head;
	int found = lane_step(c->data, c->bytes, &head, c->tail, frame);

	c->head = head;
	if (__builtin_expect(found < 0, 0))
		lane_consumer_reset(c);
	return found > 0;
}

/* What was read is about to leave: a successor does not take it again. */
static inline void lane_commit(struct lane_consumer *c)
{
	lane_store(&c->lane->committed, c->head);
}

/*
 * What was read is the producer's room again. True: ring its bell, for it waits and no more than
 * `left` bytes are left to read, as far as is known. Only for a consumer that goes on until there
 * is nothing.
 */
static inline bool lane_release_lazily(struct lane_consumer *c, uint64_t left)
{
	if (c->head == c->published)
		return false;
	lane_commit(c);
	c->published = c->head;
	lane_store_ordered(&c->lane->head, c->head);
	return c->tail - c->head <= left && lane_waits_answer(&c->lane->producer_waits);
}

/* The same, and a producer that waits is always woken. */
static inline bool lane_release(struct lane_consumer *c)
{
	return lane_release_lazily(c, UINT64_MAX);
}

/* Before sleeping for frames. False: there are some, do not sleep. */
static inline bool lane_consumer_waits(struct lane_consumer *c)
{
	lane_waits_set(&c->lane->consumer_waits);
	if (!lane_ready(c))
		return true;
	lane_waits_clear(&c->lane->consumer_waits);
	return false;
}

static inline void lane_consumer_awake(struct lane_consumer *c)
{
	lane_waits_clear(&c->lane->consumer_waits);
}
