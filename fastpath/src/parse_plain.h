/*
 * Most frames: untagged, whole IPv4 packets without options or IPv6 packets without extension
 * headers, of TCP or UDP (IPv4 of all protocols), their headers in one piece.
 *
 * The key is made as words in registers, where whoever wants its hash needs them, and without a
 * branch that depends on what such a frame is, but for the IP version: a mix of protocols costs
 * nothing.
 *
 * Runs on: workers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "flow_key.h"
#include "frame.h"

enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_ARP = 0x0806, ETHERTYPE_IPV6 = 0x86dd };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58 };

enum { PLAIN_IPV4_MIN = FRAME_LEN_MIN + 20, PLAIN_IPV6_MIN = FRAME_LEN_MIN + 40 };

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static inline uint64_t plain_load(const uint8_t *at, unsigned bytes)
{
	uint64_t word = 0;

	memcpy(&word, at, bytes);
	return word;
}

/*
 * Layer 4 of a packet that has `bytes` of it, of which `room`, at least 8, lie at l4: TCP, UDP,
 * ICMP or, as if there were nothing in it, something else.
 */
static inline bool plain_l4(const uint8_t *l4, uint32_t room, uint32_t bytes, uint8_t proto,
			    uint64_t words[FLOW_WORDS])
{
	bool tcp = proto == PROTO_TCP, ports = tcp | (proto == PROTO_UDP),
	     icmp = proto == PROTO_ICMP;
	const uint8_t *offset = (tcp & (room >= 20)) ? l4 + 12 : l4; /* of the data; flags behind */
	uint32_t least = tcp ? 20 : ports ? 8 : icmp ? 4 : 0;
	uint32_t swapped = __builtin_bswap32((uint32_t)plain_load(l4, 4));
	uint64_t both = swapped << 16 | swapped >> 16;
	uint64_t layers =
	    FLOW_L3 | FLOW_IP | (ports ? FLOW_PORTS : 0) | ((ports | icmp) ? FLOW_L4 : 0);

	both |= tcp ? (uint64_t)offset[1] << 32 : 0;
	both = icmp ? (uint64_t)(l4[0] | l4[1] << 16) : both;
	words[6] |= (uint64_t)proto << 32 | layers << 56;
	words[7] = (ports | icmp) ? both : 0;
	return !((bytes < least) | (tcp & ((room < 20) | (offset[0] < 0x50))));
}

static inline bool plain_ipv4(const struct frame *frame, uint64_t words[FLOW_WORDS])
{
	const uint8_t *at = frame->data;
	uint32_t bytes = __builtin_bswap16((uint16_t)plain_load(at + 16, 2));
	uint8_t proto = at[23];
	bool fragment = plain_load(at + 20, 2) & 0xff3f;

	words[1] |= (uint64_t)ETHERTYPE_IPV4 << 32;
	words[2] |= (uint64_t)4 << 24;
	words[3] = words[5] = 0;
	words[4] = plain_load(at + 26, 4);
	words[6] = plain_load(at + 30, 4) | (uint64_t)at[15] << 40 | (uint64_t)at[22] << 48;
	return plain_l4(at + PLAIN_IPV4_MIN, frame->len - PLAIN_IPV4_MIN, bytes - 20, proto,
			words) &
	       !(fragment | (bytes < 20) | (bytes > frame->frame_len - FRAME_LEN_MIN));
}

static inline bool plain_ipv6(const struct frame *frame, uint64_t words[FLOW_WORDS])
{
	const uint8_t *at = frame->data;
	uint32_t bytes = __builtin_bswap16((uint16_t)plain_load(at + 18, 2));
	uint8_t proto = at[20];
	uint64_t tos = (uint8_t)(__builtin_bswap16((uint16_t)plain_load(at + 14, 2)) >> 4);

	words[1] |= (uint64_t)ETHERTYPE_IPV6 << 32;
	words[2] |= (uint64_t)6 << 24 | plain_load(at + 22, 4) << 32;
	words[3] = plain_load(at + 26, 8);
	words[4] = plain_load(at + 34, 8);
	words[5] = plain_load(at + 42, 8);
	words[6] = plain_load(at + 50, 4) | tos << 40 | (uint64_t)at[21] << 48;
	return plain_l4(at + PLAIN_IPV6_MIN, frame->len - PLAIN_IPV6_MIN, bytes, proto, words) &
	       (bytes <= frame->frame_len - PLAIN_IPV6_MIN) &
	       ((proto == PROTO_TCP) | (proto == PROTO_UDP));
}

/* The words of the key that parse_flow makes of the frame; false: it has to be asked. */
static inline bool parse_plain(const struct frame *frame, uint64_t words[FLOW_WORDS])
{
	const uint8_t *at = frame->data;
	uint32_t type; /* ethertype, and the first byte behind it */

	if (frame->len < PLAIN_IPV4_MIN + 8 || frame->offload.gso_type != FRAME_GSO_NONE)
		return false;
	type = (uint32_t)plain_load(at + 12, 4);
	words[0] = plain_load(at, 8);
	words[1] = plain_load(at + 8, 4) | (uint64_t)frame->vid << 48;
	words[2] = frame->in_port;
	if ((type & 0xffffff) == 0x450008)
		return plain_ipv4(frame, words);
	return (type & 0xf0ffff) == 0x60dd86 && frame->len >= PLAIN_IPV6_MIN + 8 &&
	       plain_ipv6(frame, words);
}
#else
static inline bool parse_plain(const struct frame *frame, uint64_t words[FLOW_WORDS])
{
	return false;
}
#endif
