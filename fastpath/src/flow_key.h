/*
 * What rules can match on: one fixed-size key extracted from a frame's headers.
 *
 * A field is found by name and offset (cffi gives both), compared as (key & mask) == value; no
 * code but parse.c knows what a field means. Numbers are in host order, addresses in wire order.
 * Fields of layers that a frame does not have are 0; `layers` says which it has, so that a rule
 * on a port number never matches a fragment without one.
 *
 * Runs on: workers; plain data.
 */
#pragma once

#include <assert.h>
#include <stdint.h>
#include <string.h>

/* cffi: begin */
enum flow_layer {
	FLOW_L3 = 1 << 0,	/* IPv4, IPv6 or ARP header found and sound */
	FLOW_L4 = 1 << 1,	/* TCP, UDP, ICMP or ICMPv6: ports, or type and code, are set */
	FLOW_FRAGMENT = 1 << 2, /* part of a fragmented IP packet */
	FLOW_LATER = 1 << 3,	/* and not its first: has no layer 4 header */
	FLOW_BAD = 1 << 4,	/* a header contradicts itself or the frame ends inside it */
	FLOW_TAGGED = 1 << 5,	/* came with a VLAN tag, priority tags included */
	FLOW_IP = 1 << 6,	/* FLOW_L3 of IPv4 or IPv6, not of ARP */
	FLOW_PORTS = 1 << 7	/* FLOW_L4 of TCP or UDP: l4_src and l4_dst are ports */
};

/* What connection tracking says of a frame: one bit at most; 0: it was not asked. */
enum flow_state {
	FLOW_NEW = 1 << 0,	   /* begins a connection, or no answer was seen yet */
	FLOW_ESTABLISHED = 1 << 1, /* of a connection both sides have sent in */
	FLOW_RELATED = 1 << 2,	   /* an ICMP error about a connection that is known */
	FLOW_INVALID = 1 << 3	   /* of no connection, and cannot begin one */
};

struct flow_key {
	uint8_t eth_dst[6];
	uint8_t eth_src[6];
	uint16_t eth_type; /* behind the tags */
	uint16_t
	    vid; /* VLAN assigned by the switch; where it filters none the first tag's; 0: none */
	uint16_t in_port;
	uint8_t vlan_pcp;   /* of the first tag */
	uint8_t ip_version; /* 4, 6 or 0 */
	uint8_t ip_src[16]; /* IPv4 and ARP's sender: bytes 12..15; ARP's sender MAC: 0..5 */
	uint8_t ip_dst[16]; /* IPv4 and ARP's target: bytes 12..15; ARP's target MAC: 0..5 */
	uint8_t ip_proto;   /* behind extension headers; low byte of ARP's operation */
	uint8_t ip_tos;	    /* DSCP and ECN; IPv6 traffic class */
	uint8_t ip_ttl;	    /* IPv6 hop limit */
	uint8_t layers;	    /* enum flow_layer */
	uint16_t l4_src;    /* port; ICMP type */
	uint16_t l4_dst;    /* port; ICMP code */
	uint8_t tcp_flags;  /* CWR ECE URG ACK PSH RST SYN FIN */
	uint8_t state;	    /* enum flow_state; parse leaves it 0 */
	uint8_t zero[2];    /* padding that is compared: always 0 */
};
/* cffi: end */
static_assert(sizeof(struct flow_key) == 64, "one cache line, no holes");

enum { FLOW_WORDS = sizeof(struct flow_key) / sizeof(uint64_t) };

static inline uint64_t flow_word(const struct flow_key *key, unsigned i)
{
	uint64_t word;

	memcpy(&word, (const uint8_t *)key + 8 * i, sizeof(word));
	return word;
}
