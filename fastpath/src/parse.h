/*
 * From bytes to fields, never past the end: the only code that reads headers on the way in.
 *
 * Two depths. parse_l2 reads what the bridge needs (addresses, tags, ethertype) and is on every
 * frame's way. parse_flow reads up to layer 4 and is called where something asks for it: rules,
 * spreading over queues, traces.
 *
 * Both read through a cursor over the frame's fragments: cursor_need(n) gives n bytes in one
 * piece or NULL. A header split over fragments, of which the first may hold a single byte, is put
 * together in the cursor's scratch. Every byte is read once per parse, so memory that somebody
 * else writes meanwhile cannot change between a check and its use.
 *
 * Runs on: workers. No port, no system call, no allocation.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "flow_key.h"
#include "frame.h"

enum {
	CURSOR_NEED_MAX = 64,	 /* the longest piece one may ask for */
	PARSE_TAGS_MAX = 2,	 /* further tags count as payload */
	PARSE_EXTENSIONS_MAX = 8 /* IPv6 extension headers followed */
};

struct cursor {
	const struct frame *fragment; /* NULL: at the end */
	uint32_t offset;	      /* in fragment */
	uint32_t left_bytes;	      /* in the whole frame */
	uint8_t scratch[CURSOR_NEED_MAX];
};

void cursor_begin(struct cursor *cursor, const struct frame *frame);

/* The next n bytes in one piece (n <= CURSOR_NEED_MAX), valid until the next call; NULL: none. */
const uint8_t *cursor_need(struct cursor *cursor, uint32_t n);

/* Moves on by n bytes; false, and at the end, when there are fewer. */
bool cursor_skip(struct cursor *cursor, uint32_t n);

/* Copies the first n bytes of a chain; returns how many there were. */
uint32_t frame_peek(const struct frame *frame, uint8_t *to, uint32_t n);

/*
 * An Ethernet address as a number, as it is written: byte 0 in bits 47..40, so that the group bit
 * is bit 40. One load makes it.
 */
static const uint64_t MAC_BROADCAST = 0xffffffffffff;
static const uint64_t MAC_GROUP = (uint64_t)1 << 40;

struct l2 {
	uint64_t dst;
	uint64_t src;
	uint16_t tci; /* of the first tag; 0 without one */
};

static inline uint64_t load_be64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(value) : value;
}

/* Reads 8 bytes, of which 6 are the address. */
static inline uint64_t load_mac(const uint8_t *at)
{
	return load_be64(at) >> 16;
}

static inline uint16_t load_be16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t load_be32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void store_be16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline void store_be32(uint8_t *at, uint32_t value)
{
	store_be16(at, value >> 16);
	store_be16(at + 2, value);
}

static inline bool parse_is_tag(uint16_t ethertype)
{
	return ethertype == 0x8100 || ethertype == 0x88a8;
}

/* The long way of parse_l2: tags, or a first fragment too short to hold them. */
bool parse_l2_tagged(struct frame *frame, struct l2 *l2);

/*
 * Addresses, tags and ethertype; sets the frame's tags, l3_offset and ethertype.
 * False: the frame ends inside its own header.
 */
static inline bool parse_l2(struct frame *frame, struct l2 *l2)
{
	const uint8_t *at = frame->data;
	uint16_t type = 0;

	if (__builtin_expect(frame->len < FRAME_LEN_MIN || parse_is_tag(type = load_be16(at + 12)),
			     0)) {
		struct l2 found = {0}; /* l2 itself stays in registers: its address goes nowhere */
		bool whole = parse_l2_tagged(frame, &found);

		*l2 = found;
		return whole;
	}
	l2->dst = load_mac(at);
	l2->src = load_mac(at + 6);
	l2->tci = 0;
	frame->tags = 0;
	frame->l3_offset = FRAME_LEN_MIN;
	frame->ethertype = type;
	return true;
}

/*
 * Everything up to layer 4. frame->vid and in_port are taken over. A frame that breaks off or
 * contradicts itself gives what came before that point and FLOW_BAD.
 */
void parse_flow(const struct frame *frame, struct flow_key *key);

/*
 * The same for whoever has to read on: the cursor is left at the layer 4 header where there is one
 * (key->layers says so). *fragment_id: the identification of a fragment's packet, else 0.
 */
void parse_flow_at(const struct frame *frame, struct flow_key *key, struct cursor *cursor,
		   uint32_t *fragment_id);

/*
 * A packet quoted in an ICMP error, where fewer bytes may be than its headers say: addresses,
 * protocol, and ports or ICMP type and code from the first 8 bytes of layer 4, at which the cursor
 * is left. False: not even these are there, or it is a later fragment.
 */
bool parse_quoted(struct cursor *cursor, struct flow_key *key);

/* Spreads flows: the same for both directions of a connection; never 0. */
uint32_t flow_hash(const struct flow_key *key);
