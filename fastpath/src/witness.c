/* Runs on: control thread. */
#include "witness.h"

#include <string.h>

#include "offload.h"
#include "parse.h"

enum { IPV4 = 0x0800, ARP = 0x0806, IPV6 = 0x86dd, LOCAL = 0x88b5 };
enum { ICMP = 1, TCP = 6, UDP = 17, FRAGMENT = 44, ICMPV6 = 58 };
enum { WHOLE, FIRST, LATER }; /* of a fragmented packet */

/* A match, the choice made for what it leaves open, and the bytes so far. */
struct draft {
	const struct rule_match *match;
	uint64_t random; /* 0: the usual */
	struct witness *to;
};

/* --- choices -------------------------------------------------------------------------------------
 */

static uint32_t choose(struct draft *draft, uint32_t usual)
{
	uint64_t x = draft->random;

	if (!x)
		return usual;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	draft->random = x;
	return (uint32_t)(x * 0x2545f4914f6cdd1d >> 32);
}

static uint8_t choose_byte(struct draft *draft, uint8_t value, uint8_t mask, uint8_t usual)
{
	return (uint8_t)(value | (choose(draft, usual) & (uint8_t)~mask));
}

static void choose_bytes(struct draft *draft, const uint8_t *value, const uint8_t *mask,
			 const uint8_t *usual, unsigned count, uint8_t *to)
{
	for (unsigned i = 0; i < count; i++)
		to[i] = choose_byte(draft, value[i], mask[i], usual[i]);
}

static uint16_t choose_port(struct draft *draft, uint16_t lo, uint16_t hi, uint16_t usual)
{
	uint32_t chosen = choose(draft, usual);

	if (!draft->random)
		return chosen >= lo && chosen <= hi ? (uint16_t)chosen : lo;
	return (uint16_t)(lo + chosen % (hi - lo + 1u));
}

/* --- bytes ---------------------------------------------------------------------------------------
 */

static uint8_t *put(struct draft *draft, uint32_t count)
{
	uint8_t *at = draft->to->bytes + draft->to->len;

	draft->to->len += count;
	return at;
}

static void put_be16(struct draft *draft, uint16_t value)
{
	uint8_t *at = put(draft, 2);

	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static const uint8_t STATION_1[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t STATION_2[6] = {2, 0, 0, 0, 0, 2};
static const uint8_t NO_STATION[6];
/* RFC 5737, RFC 3849; IPv4 in the last bytes */
static const uint8_t HOST_1[16] = {0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1};
static const uint8_t HOST_2[16] = {0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2};

static void put_ethernet(struct draft *draft, enum witness_tag tag, uint16_t vid, uint16_t type)
{
	const struct flow_key *value = &draft->match->value, *mask = &draft->match->mask;
	uint8_t *at = put(draft, 12);

	choose_bytes(draft, value->eth_dst, mask->eth_dst, STATION_2, 6, at);
	choose_bytes(draft, value->eth_src, mask->eth_src, STATION_1, 6, at + 6);
	if (!mask->eth_dst[0])
		at[0] &= 0xfe; /* a station's, where that is open */
	if (!mask->eth_src[0])
		at[6] &= 0xfe;
	if (tag != WITNESS_UNTAGGED) {
		put_be16(draft, 0x8100);
		put_be16(draft, (uint16_t)((value->vlan_pcp & 7) << 13 |
					   (tag == WITNESS_PRIORITY ? 0 : vid)));
	}
	put_be16(draft, type);
}

/* A checksum over what begins at `from`, on top of `sum`. */
static void put_checksum(struct draft *draft, uint32_t from, uint32_t at, uint64_t sum)
{
	uint8_t *bytes = draft->to->bytes;
	uint16_t folded = offload_fold(offload_sum(bytes + from, draft->to->len - from, sum));

	/* the sum is in the byte order of the words summed */
	folded = (uint16_t)~folded;
	memcpy(bytes + at, &folded, sizeof(folded));
}

static void put_l4(struct draft *draft, uint8_t proto, uint64_t pseudo)
{
	const struct rule_match *match = draft->match;
	uint16_t src = choose_port(draft, match->l4_src_lo, match->l4_src_hi,
				   proto == ICMP     ? 8
				   : proto == ICMPV6 ? 128
						     : 49152);
	uint16_t dst = choose_port(draft, match->l4_dst_lo, match->l4_dst_hi,
				   proto == TCP || proto == UDP ? 80 : 0);
	uint32_t from = draft->to->len;
	uint8_t *at;

	switch (proto) {
	case TCP:
		at = memset(put(draft, 20), 0, 20);
		store_be16(at, src);
		store_be16(at + 2, dst);
		at[7] = 1; /* sequence number */
		at[12] = 5 << 4;
		at[13] = choose_byte(draft, match->value.tcp_flags, match->mask.tcp_flags, 2);
		at[14] = 0xff; /* window */
		put_checksum(draft, from, from + 16, pseudo);
		break;
	case UDP:
		at = memset(put(draft, 8), 0, 8);
		store_be16(at, src);
		store_be16(at + 2, dst);
		at[5] = 8;
		put_checksum(draft, from, from + 6, pseudo);
		break;
	case ICMP:
	case ICMPV6:
		at = memset(put(draft, 8), 0, 8);
		at[0] = (uint8_t)src;
		at[1] = (uint8_t)dst;
		put_checksum(draft, from, from + 2, proto == ICMP ? 0 : pseudo);
		break;
	default:
		memset(put(draft, 8), 0, 8);
	}
}

/* The pseudo-header, RFC 9293 section 3.1 and RFC 8200 section 8.1. */
static uint64_t pseudo_sum(const uint8_t *addresses, uint32_t bytes, uint8_t proto)
{
	uint8_t tail[4] = {0, proto, 0, proto == TCP ? 20 : 8};

	return offload_sum(tail, sizeof(tail), offload_sum(addresses, bytes, 0));
}

/* --- packets -------------------------------------------------------------------------------------
 */

static void put_ipv4(struct draft *draft, uint8_t proto, unsigned fragment)
{
	const struct flow_key *value = &draft->match->value, *mask = &draft->match->mask;
	uint32_t from = draft->to->len;
	uint8_t *at = memset(put(draft, 20), 0, 20);

	at[0] = 0x45;
	at[1] = choose_byte(draft, value->ip_tos, mask->ip_tos, 0);
	at[5] = 1; /* identification */
	at[6] = fragment == FIRST ? 0x20 : 0;
	at[7] = fragment == LATER ? 16 : 0;
	at[8] = choose_byte(draft, value->ip_ttl, mask->ip_ttl, 64);
	at[9] = proto;
	choose_bytes(draft, value->ip_src + 12, mask->ip_src + 12, HOST_1 + 12, 4, at + 12);
	choose_bytes(draft, value->ip_dst + 12, mask->ip_dst + 12, HOST_2 + 12, 4, at + 16);
	if (fragment == LATER)
		memset(put(draft, 24), 0, 24);
	else
		put_l4(draft, proto, pseudo_sum(at + 12, 8, proto));
	store_be16(at + 2, draft->to->len - from);
	{
		uint16_t sum = (uint16_t)~offload_fold(offload_sum(at, 20, 0));

		memcpy(at + 10, &sum, sizeof(sum));
	}
}

static void put_ipv6(struct draft *draft, uint8_t proto, unsigned fragment)
{
	const struct flow_key *value = &draft->match->value, *mask = &draft->match->mask;
	uint8_t tos = choose_byte(draft, value->ip_tos, mask->ip_tos, 0);
	uint8_t *at = memset(put(draft, 40), 0, 40);
	uint32_t from = draft->to->len;

	at[0] = (uint8_t)(0x60 | tos >> 4);
	at[1] = (uint8_t)(tos << 4);
	at[6] = fragment == WHOLE ? proto : FRAGMENT;
	at[7] = choose_byte(draft, value->ip_ttl, mask->ip_ttl, 64);
	choose_bytes(draft, value->ip_src, mask->ip_src, HOST_1, 16, at + 8);
	choose_bytes(draft, value->ip_dst, mask->ip_dst, HOST_2, 16, at + 24);
	if (fragment != WHOLE) {
		uint8_t *header = memset(put(draft, 8), 0, 8);

		header[0] = proto;
		header[3] = fragment == FIRST ? 1 : 16 << 3;
	}
	if (fragment == LATER)
		memset(put(draft, 24), 0, 24);
	else
		put_l4(draft, proto, pseudo_sum(at + 8, 32, proto));
	store_be16(at + 4, draft->to->len - from);
}

static void put_arp(struct draft *draft)
{
	static const uint8_t head[7] = {0, 1, 8, 0, 6, 4, 0};
	const struct flow_key *value = &draft->match->value, *mask = &draft->match->mask;
	uint8_t *at = memcpy(put(draft, 28), head, sizeof(head));

	at[7] = choose_byte(draft, value->ip_proto, mask->ip_proto, 1);
	choose_bytes(draft, value->ip_src, mask->ip_src, STATION_1, 6, at + 8);
	choose_bytes(draft, value->ip_src + 12, mask->ip_src + 12, HOST_1 + 12, 4, at + 14);
	choose_bytes(draft, value->ip_dst, mask->ip_dst, NO_STATION, 6, at + 18);
	choose_bytes(draft, value->ip_dst + 12, mask->ip_dst + 12, HOST_2 + 12, 4, at + 24);
}

/* The protocol of a shape, or the only one that the match takes. */
static uint8_t proto_of(const struct rule_match *match, uint8_t usual)
{
	return match->mask.ip_proto == 0xff ? match->value.ip_proto : usual;
}

bool witness_build(const struct rule_match *match, unsigned shape, unsigned variant,
		   enum witness_tag tag, uint16_t vid, struct witness *witness)
{
	static const uint8_t protos[2][3] = {{TCP, UDP, ICMP}, {TCP, UDP, ICMPV6}};
	struct draft draft = {
	    .match = match, .random = variant * (uint64_t)0x9e3779b97f4a7c15, .to = witness};
	unsigned version = shape / 9, proto = shape % 3, fragment = shape / 3 % 3;
	uint16_t type = version == 0 ? IPV4 : version == 1 ? IPV6 : shape == 18 ? ARP : LOCAL;

	witness->len = 0;
	if (shape >= WITNESS_SHAPES)
		return false;
	if (type == LOCAL)
		type = (uint16_t)(match->value.eth_type | (LOCAL & ~match->mask.eth_type));
	else if ((type & match->mask.eth_type) != match->value.eth_type)
		return false;
	put_ethernet(&draft, tag, vid, type);
	if (version == 0)
		put_ipv4(&draft, proto_of(match, protos[0][proto]), fragment);
	else if (version == 1)
		put_ipv6(&draft, proto_of(match, protos[1][proto]), fragment);
	else if (type == ARP)
		put_arp(&draft);
	while (witness->len < 60)
		*put(&draft, 1) = 0;
	return true;
}
