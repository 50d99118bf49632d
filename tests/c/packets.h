/* Frames for tests: Ethernet, up to two tags, IPv4 or IPv6, and what is in it. No checksums. */
#pragma once

#include <string.h>

#include "frame.h"
#include "parse.h"

enum { P_ICMP = 1, P_TCP = 6, P_UDP = 17, P_FRAGMENT = 44, P_ICMPV6 = 58 };
enum { F_FIN = 1, F_SYN = 2, F_RST = 4, F_PSH = 8, F_ACK = 16 };

/* One byte says who: 10.0.0.N, or 2001:db8::N. */
struct packet {
	uint8_t src, dst;
	bool ipv6;
	uint8_t proto;
	uint16_t sport, dport; /* ICMP: type and code, identifier */
	uint8_t flags;	       /* TCP */
	uint16_t tag;	       /* VLAN id; 0: none */
	uint16_t port;	       /* that receives it */
	bool fragment, more;
	uint16_t offset; /* of the fragment, in 8 bytes */
	uint16_t id;	 /* of the fragment's packet */
	const struct packet *inner;
	uint8_t inner_bytes; /* of the inner packet's layer 4; 0: 8 */
	uint8_t cut;	     /* bytes that the frame is too short by */
};

struct packet_frame {
	struct frame frame;
	struct flow_key key;
	uint8_t bytes[256];
};

static inline uint8_t *put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
	return at + 2;
}

static inline uint8_t *packet_put_ip(const struct packet *p, uint8_t *at, uint8_t bytes);

static inline uint8_t *packet_put_l4(const struct packet *p, uint8_t *at)
{
	uint8_t *begin = at;

	memset(at, 0, 20);
	switch (p->proto) {
	case P_TCP:
		put16(put16(at, p->sport), p->dport);
		at[12] = 0x50;
		at[13] = p->flags;
		return begin + 20;
	case P_ICMP:
	case P_ICMPV6:
		at[0] = (uint8_t)(p->sport >> 8);
		at[1] = (uint8_t)p->sport;
		put16(at + 4, p->dport);
		return p->inner ? packet_put_ip(p->inner, begin + 8,
						p->inner->inner_bytes ? p->inner->inner_bytes : 8)
				: begin + 8;
	default:
		put16(put16(put16(at, p->sport), p->dport), 8);
		return begin + 8;
	}
}

/* bytes: that are kept of layer 4; 0: all. */
static inline uint8_t *packet_put_ip(const struct packet *p, uint8_t *at, uint8_t bytes)
{
	uint8_t *ip = at, *l4 = ip + (p->ipv6 ? 40 + (p->fragment ? 8 : 0) : 20), *end;

	memset(ip, 0, 48);
	end = packet_put_l4(p, l4);
	if (p->ipv6) {
		ip[0] = 0x60;
		put16(ip + 4, (unsigned)(end - ip) - 40);
		ip[6] = p->fragment ? P_FRAGMENT : p->proto;
		ip[7] = 64;
		memcpy(ip + 8, "\x20\x01\x0d\xb8", 4);
		memcpy(ip + 24, "\x20\x01\x0d\xb8", 4);
		ip[23] = p->src;
		ip[39] = p->dst;
		if (p->fragment) {
			ip[40] = p->proto;
			put16(ip + 42, (unsigned)p->offset << 3 | p->more);
			put16(ip + 46, p->id);
		}
	} else {
		ip[0] = 0x45;
		put16(ip + 2, (unsigned)(end - ip));
		put16(ip + 4, p->id);
		if (p->fragment)
			put16(ip + 6, p->offset | (p->more ? 0x2000u : 0));
		ip[8] = 64;
		ip[9] = p->proto;
		memcpy(ip + 12, (uint8_t[]){10, 0, 0, p->src, 10, 0, 0, p->dst}, 8);
	}
	return bytes ? l4 + bytes : end;
}

/* The frame lies in memory of its own, so that a sanitizer sees where it ends only by `cut`. */
static inline void packet_make(const struct packet *p, struct packet_frame *out)
{
	uint8_t *at = out->bytes;

	memset(out, 0, sizeof(*out));
	memcpy(at, (uint8_t[]){2, 0, 0, 0, 0, p->dst, 2, 0, 0, 0, 0, p->src}, 12);
	at += 12;
	if (p->tag)
		at = put16(put16(at, 0x8100), p->tag);
	at = put16(at, p->ipv6 ? 0x86dd : 0x0800);
	at = packet_put_ip(p, at, 0);
	out->frame.data = out->bytes;
	out->frame.len = out->frame.frame_len = (uint32_t)(at - out->bytes) - p->cut;
	out->frame.in_port = p->port;
	parse_flow(&out->frame, &out->key);
}

/* The same packet from the other side, received on another port. */
static inline struct packet packet_reply(struct packet p, uint8_t flags, uint16_t port)
{
	struct packet reply = p;

	reply.src = p.dst;
	reply.dst = p.src;
	if (p.proto == P_TCP || p.proto == P_UDP) {
		reply.sport = p.dport;
		reply.dport = p.sport;
	}
	reply.flags = flags;
	reply.port = port;
	return reply;
}
