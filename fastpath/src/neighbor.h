/*
 * Neighbours of an L3 port: the messages by which IP addresses get Ethernet addresses, read and
 * made. ARP (RFC 826, address conflicts RFC 5227), Neighbor Solicitation and Advertisement
 * (RFC 4861, 7.1 and 7.2), the addresses of groups (RFC 1112, 6.4; RFC 2464, 7), and a knock: an
 * ICMP echo with a hop limit of 1, which only the stack right behind the port answers.
 *
 * Runs on: workers. Bytes in, bytes out: no port, no system call, no allocation, no state.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "parse.h"

enum {
	NEIGHBOR_ARP = 0x0806,
	NEIGHBOR_IPV4 = 0x0800,
	NEIGHBOR_IPV6 = 0x86dd,
	NEIGHBOR_PEEK = 512, /* bytes of a frame that neighbor_parse may need */
	NEIGHBOR_BYTES = 86  /* the longest message made here: Ethernet, IPv6, NS and its option */
};

/* An IPv6 address, or an IPv4 address as ::ffff:a.b.c.d; 0,0 is the unspecified one of both. */
struct neighbor_addr {
	uint64_t high;
	uint64_t low;
};

static inline bool neighbor_same(struct neighbor_addr a, struct neighbor_addr b)
{
	return a.high == b.high && a.low == b.low;
}

static inline bool neighbor_specified(struct neighbor_addr a)
{
	return a.high || a.low;
}

static inline bool neighbor_is_ipv4(struct neighbor_addr a)
{
	return a.high == 0 && a.low >> 32 == 0xffff;
}

/* What a station may have: neither unspecified nor loopback, group or broadcast. */
bool neighbor_is_unicast(struct neighbor_addr a);

/* The Ethernet address of a group or of everybody; 0: the address is one station's. */
uint64_t neighbor_group_mac(struct neighbor_addr a);

/* Addresses whose first `bits` (0..128, an IPv4 prefix counts from 96) are those of `addr`. */
struct neighbor_prefix {
	struct neighbor_addr addr;
	uint8_t bits;
};

/* "192.0.2.1", "192.0.2.0/28", "2001:db8::/64"; bits behind the prefix must be 0. */
bool neighbor_prefix_parse(const char *text, struct neighbor_prefix *prefix);
bool neighbor_prefix_has(const struct neighbor_prefix *prefix, struct neighbor_addr addr);

/* An IP packet without its Ethernet header. */
struct neighbor_packet {
	uint16_t ethertype;
	struct neighbor_addr src;
	struct neighbor_addr dst;
};

/* False: shorter than its header, or of no version that there is. */
bool neighbor_packet_parse(const uint8_t *bytes, uint32_t len, struct neighbor_packet *packet);

enum neighbor_kind {
	NEIGHBOR_NONE, /* not about neighbours: the stack's affair */
	NEIGHBOR_BAD,  /* breaks off or contradicts its RFC */
	NEIGHBOR_ASK,  /* who has target? */
	NEIGHBOR_TELL  /* addr is at mac */
};

struct neighbor_message {
	struct neighbor_addr addr;   /* what it says of its sender; unspecified: nothing */
	uint64_t mac;		     /* where addr is; 0: the message does not say */
	struct neighbor_addr target; /* NEIGHBOR_ASK only */
	bool override;		     /* may replace another address that is known */
};

/*
 * A frame's first bytes, NEIGHBOR_PEEK of them or all `frame_len`, whose network header is at
 * l3. `unfinished`: its checksum is left to a device, which is no reason to refuse it.
 */
enum neighbor_kind neighbor_parse(const uint8_t *bytes, uint32_t frame_len, uint32_t l3,
				  uint16_t ethertype, bool unfinished,
				  struct neighbor_message *message);

/*
 * Makes an ARP request or a solicitation for target, as if from `sender`, to one station (`to`)
 * or to all (0). Returns its bytes.
 */
unsigned neighbor_ask(uint8_t out[NEIGHBOR_BYTES], uint64_t self, struct neighbor_addr sender,
		      struct neighbor_addr target, uint64_t to);

/*
 * Makes the answer "target is at self" for the asker; an unspecified asker checks whether the
 * address is free (RFC 5227, RFC 4862), and everybody hears that it is not.
 */
unsigned neighbor_tell(uint8_t out[NEIGHBOR_BYTES], uint64_t self, struct neighbor_addr target,
		       struct neighbor_addr asker, uint64_t asker_mac);

enum { NEIGHBOR_KNOCK_BYTES = 56 /* IPv6, ICMPv6, 8 bytes by which the answer is known again */ };

/* An IP packet that asks whether target is right behind the port, as if from asker. */
unsigned neighbor_knock(uint8_t out[NEIGHBOR_KNOCK_BYTES], struct neighbor_addr asker,
			struct neighbor_addr target, uint64_t key);

enum neighbor_knock {
	NEIGHBOR_KNOCK_NONE,	 /* has nothing to do with a knock */
	NEIGHBOR_KNOCK_ANSWERED, /* the packet's source is behind the port */
	NEIGHBOR_KNOCK_REFUSED	 /* an error about a knock of ours */
};
enum neighbor_knock neighbor_knock_parse(const uint8_t *bytes, uint32_t len, uint64_t key);
