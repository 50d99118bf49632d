/* Runs on: see neighbor.h. */
#include "neighbor.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "offload.h"

enum {
	ETHERNET = FRAME_LEN_MIN,
	ARP_BYTES = 28,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	ICMP = 1,
	ICMPV6 = 58,
	ND_BYTES = 24, /* solicitation or advertisement without options */
	ND_SOLICITATION = 135,
	ND_ADVERTISEMENT = 136,
	ND_OVERRIDE = 0x20,
	ND_SOLICITED = 0x40,
	ND_SOURCE_ADDRESS = 1,
	ND_TARGET_ADDRESS = 2,
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_TIME_EXCEEDED = 3,
	ICMPV6_ECHO = 128,
	ICMPV6_ECHO_REPLY = 129,
	ECHO_BYTES = 16 /* header and the 8 bytes of ours */
};

static const struct neighbor_addr all_nodes = {0xff02000000000000, 1};

static struct neighbor_addr addr_ipv4(uint32_t a)
{
	return (struct neighbor_addr){0, a ? (uint64_t)0xffff << 32 | a : 0};
}

static struct neighbor_addr addr_ipv6(const uint8_t *at)
{
	return (struct neighbor_addr){load_be64(at), load_be64(at + 8)};
}

static void store_be64(uint8_t *at, uint64_t value)
{
	store_be32(at, (uint32_t)(value >> 32));
	store_be32(at + 4, (uint32_t)value);
}

static void store_mac(uint8_t *at, uint64_t mac)
{
	store_be16(at, (uint32_t)(mac >> 32));
	store_be32(at + 2, (uint32_t)mac);
}

static void store_ipv6(uint8_t *at, struct neighbor_addr a)
{
	store_be64(at, a.high);
	store_be64(at + 8, a.low);
}

/* Six bytes; load_mac reads eight, which may be two too many at a message's end. */
static uint64_t mac_at(const uint8_t *at)
{
	return (uint64_t)load_be16(at) << 32 | load_be32(at + 2);
}

static bool mac_is_station(uint64_t mac)
{
	return mac && !(mac & MAC_GROUP);
}

bool neighbor_is_unicast(struct neighbor_addr a)
{
	uint32_t v4 = (uint32_t)a.low;

	if (neighbor_is_ipv4(a))
		return v4 >> 24 != 0 && v4 >> 24 != 127 && v4 >> 28 < 14;
	return a.high >> 56 != 0xff && (a.high || a.low > 1);
}

uint64_t neighbor_group_mac(struct neighbor_addr a)
{
	uint32_t v4 = (uint32_t)a.low;

	if (!neighbor_is_ipv4(a))
		return a.high >> 56 == 0xff ? 0x333300000000 | v4 : 0;
	if (v4 == UINT32_MAX)
		return MAC_BROADCAST;
	return v4 >> 28 == 14 ? 0x01005e000000 | (v4 & 0x7fffff) : 0;
}

static uint64_t mask64(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? UINT64_MAX : ~(UINT64_MAX >> bits);
}

bool neighbor_prefix_has(const struct neighbor_prefix *prefix, struct neighbor_addr addr)
{
	unsigned low_bits = prefix->bits > 64 ? prefix->bits - 64u : 0;

	return ((prefix->addr.high ^ addr.high) & mask64(prefix->bits)) == 0 &&
	       ((prefix->addr.low ^ addr.low) & mask64(low_bits)) == 0;
}

bool neighbor_prefix_parse(const char *text, struct neighbor_prefix *prefix)
{
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char addr[INET6_ADDRSTRLEN], *end = NULL;
	unsigned long bits, most;
	uint8_t bytes[16] = {0};
	bool v4;

	if (len >= sizeof(addr))
		return false;
	memcpy(addr, text, len);
	addr[len] = 0;
	v4 = inet_pton(AF_INET, addr, bytes) == 1;
	if (!v4 && inet_pton(AF_INET6, addr, bytes) != 1)
		return false;
	prefix->addr = addr_ipv6(bytes);
	if (v4)
		prefix->addr = (struct neighbor_addr){0, (uint64_t)0xffff << 32 | load_be32(bytes)};
	bits = most = v4 ? 32 : 128;
	if (slash) {
		if (slash[1] < '0' || slash[1] > '9')
			return false;
		bits = strtoul(slash + 1, &end, 10);
		if (*end || bits > most)
			return false;
	}
	prefix->bits = (uint8_t)(128 - most + bits);
	return (prefix->addr.high & ~mask64(prefix->bits)) == 0 &&
	       (prefix->addr.low & ~mask64(prefix->bits > 64 ? prefix->bits - 64u : 0)) == 0;
}

bool neighbor_packet_parse(const uint8_t *bytes, uint32_t len, struct neighbor_packet *packet)
{
	if (len >= IPV4_BYTES && bytes[0] >> 4 == 4) {
		packet->ethertype = NEIGHBOR_IPV4;
		packet->src = addr_ipv4(load_be32(bytes + 12));
		packet->dst = addr_ipv4(load_be32(bytes + 16));
		return true;
	}
	if (len >= IPV6_BYTES && bytes[0] >> 4 == 6) {
		packet->ethertype = NEIGHBOR_IPV6;
		packet->src = addr_ipv6(bytes + 8);
		packet->dst = addr_ipv6(bytes + 24);
		return true;
	}
	return false;
}

/* --- reading ------------------------------------------------------------------------------------
 */

static enum neighbor_kind arp_parse(const uint8_t *arp, uint32_t len,
				    struct neighbor_message *message)
{
	if (len < ARP_BYTES)
		return NEIGHBOR_BAD;
	if (load_be16(arp) != 1 || load_be16(arp + 2) != NEIGHBOR_IPV4 || arp[4] != 6 ||
	    arp[5] != 4)
		return NEIGHBOR_NONE;
	message->mac = mac_at(arp + 8);
	message->addr = addr_ipv4(load_be32(arp + 14));
	message->target = addr_ipv4(load_be32(arp + 24));
	message->override = true;
	if (!mac_is_station(message->mac) ||
	    (neighbor_specified(message->addr) && !neighbor_is_unicast(message->addr)))
		return NEIGHBOR_BAD;
	switch (load_be16(arp + 6)) {
	case ARP_REQUEST:
		return NEIGHBOR_ASK;
	case ARP_REPLY:
		return neighbor_specified(message->addr) ? NEIGHBOR_TELL : NEIGHBOR_BAD;
	default:
		return NEIGHBOR_NONE;
	}
}

/* What the field of len bytes of ICMPv6 lacks: the checksum itself while it is 0, 0 when it is
 * right. */
static uint16_t icmpv6_sum(const uint8_t *ip, uint32_t len)
{
	uint64_t sum = offload_sum(ip + 8, 32, (uint64_t)htons((uint16_t)len) + htons(ICMPV6));

	return (uint16_t)~offload_fold(offload_sum(ip + IPV6_BYTES, len, sum));
}

/* The link-layer address option of a kind; 0: none. False: an option breaks off. */
static bool nd_option(const uint8_t *at, uint32_t len, uint8_t kind, uint64_t *mac)
{
	*mac = 0;
	while (len) {
		uint32_t bytes = len < 2 ? 0 : at[1] * 8u;

		if (!bytes || bytes > len)
			return false;
		if (at[0] == kind && bytes == 8)
			*mac = mac_at(at + 2);
		at += bytes;
		len -= bytes;
	}
	return true;
}

/* RFC 4861, 7.1.1 and 7.1.2. */
static enum neighbor_kind nd_parse(const uint8_t *ip, uint32_t len, bool unfinished,
				   struct neighbor_message *message)
{
	const uint8_t *nd = ip + IPV6_BYTES;
	struct neighbor_addr src, dst, target;
	uint32_t nd_len;
	bool asks;

	if (len < IPV6_BYTES || ip[0] >> 4 != 6)
		return NEIGHBOR_BAD;
	nd_len = load_be16(ip + 4);
	if (ip[6] != ICMPV6 || len < IPV6_BYTES + 1 ||
	    (nd[0] != ND_SOLICITATION && nd[0] != ND_ADVERTISEMENT))
		return NEIGHBOR_NONE;
	asks = nd[0] == ND_SOLICITATION;
	if (ip[7] != 255 || nd_len < ND_BYTES || nd_len > len - IPV6_BYTES || nd[1] != 0)
		return NEIGHBOR_BAD;
	if (!unfinished && icmpv6_sum(ip, nd_len) != 0)
		return NEIGHBOR_BAD;
	src = addr_ipv6(ip + 8);
	dst = addr_ipv6(ip + 24);
	target = addr_ipv6(nd + 8);
	if (neighbor_is_ipv4(target) || !neighbor_is_unicast(target) ||
	    (neighbor_specified(src) && !neighbor_is_unicast(src)) || neighbor_is_ipv4(src) ||
	    !nd_option(nd + ND_BYTES, nd_len - ND_BYTES,
		       asks ? ND_SOURCE_ADDRESS : ND_TARGET_ADDRESS, &message->mac) ||
	    (message->mac && !mac_is_station(message->mac)))
		return NEIGHBOR_BAD;
	if (asks) {
		if (!neighbor_specified(src) && (message->mac || !neighbor_group_mac(dst)))
			return NEIGHBOR_BAD;
		message->addr = src;
		message->target = target;
		message->override = true;
		return NEIGHBOR_ASK;
	}
	if (neighbor_group_mac(dst) && (nd[4] & ND_SOLICITED))
		return NEIGHBOR_BAD;
	message->addr = target;
	message->override = nd[4] & ND_OVERRIDE;
	return NEIGHBOR_TELL;
}

enum neighbor_kind neighbor_parse(const uint8_t *bytes, uint32_t frame_len, uint32_t l3,
				  uint16_t ethertype, bool unfinished,
				  struct neighbor_message *message)
{
	uint32_t len = frame_len < NEIGHBOR_PEEK ? frame_len : NEIGHBOR_PEEK;

	memset(message, 0, sizeof(*message));
	if (l3 > len)
		return NEIGHBOR_BAD;
	if (ethertype == NEIGHBOR_ARP)
		return arp_parse(bytes + l3, len - l3, message);
	if (ethertype == NEIGHBOR_IPV6)
		return nd_parse(bytes + l3, len - l3, unfinished, message);
	return NEIGHBOR_NONE;
}

/* --- making -------------------------------------------------------------------------------------
 */

static unsigned arp_make(uint8_t *out, uint16_t operation, uint64_t self,
			 struct neighbor_addr sender, uint64_t to, struct neighbor_addr target)
{
	uint8_t *arp = out + ETHERNET;

	store_mac(out, to ? to : MAC_BROADCAST);
	store_mac(out + 6, self);
	store_be16(out + 12, NEIGHBOR_ARP);
	store_be16(arp, 1);
	store_be16(arp + 2, NEIGHBOR_IPV4);
	arp[4] = 6;
	arp[5] = 4;
	store_be16(arp + 6, operation);
	store_mac(arp + 8, self);
	store_be32(arp + 14, (uint32_t)sender.low);
	store_mac(arp + 18, operation == ARP_REPLY ? to : 0);
	store_be32(arp + 24, (uint32_t)target.low);
	return ETHERNET + ARP_BYTES;
}

/* An IPv6 header for len bytes of ICMPv6 behind it, whose checksum is filled in. */
static void icmpv6_finish(uint8_t *ip, struct neighbor_addr src, struct neighbor_addr dst,
			  uint8_t hops, uint32_t len)
{
	uint16_t sum;

	store_be32(ip, 0x60000000);
	store_be16(ip + 4, len);
	ip[6] = ICMPV6;
	ip[7] = hops;
	store_ipv6(ip + 8, src);
	store_ipv6(ip + 24, dst);
	sum = icmpv6_sum(ip, len);
	memcpy(ip + IPV6_BYTES + 2, &sum, sizeof(sum));
}

static unsigned nd_make(uint8_t *out, uint8_t type, uint8_t flags, uint64_t self, uint64_t to,
			struct neighbor_addr src, struct neighbor_addr dst,
			struct neighbor_addr target)
{
	uint8_t *nd = out + ETHERNET + IPV6_BYTES;

	store_mac(out, to);
	store_mac(out + 6, self);
	store_be16(out + 12, NEIGHBOR_IPV6);
	memset(nd, 0, ND_BYTES);
	nd[0] = type;
	nd[4] = flags;
	store_ipv6(nd + 8, target);
	nd[24] = type == ND_SOLICITATION ? ND_SOURCE_ADDRESS : ND_TARGET_ADDRESS;
	nd[25] = 1;
	store_mac(nd + 26, self);
	icmpv6_finish(out + ETHERNET, src, dst, 255, ND_BYTES + 8);
	return ETHERNET + IPV6_BYTES + ND_BYTES + 8;
}

unsigned neighbor_ask(uint8_t out[NEIGHBOR_BYTES], uint64_t self, struct neighbor_addr sender,
		      struct neighbor_addr target, uint64_t to)
{
	struct neighbor_addr group = {0xff02000000000000, 0x1ff000000 | (target.low & 0xffffff)};

	if (neighbor_is_ipv4(target))
		return arp_make(out, ARP_REQUEST, self, sender, to, target);
	return nd_make(out, ND_SOLICITATION, 0, self, to ? to : neighbor_group_mac(group), sender,
		       to ? target : group, target);
}

unsigned neighbor_tell(uint8_t out[NEIGHBOR_BYTES], uint64_t self, struct neighbor_addr target,
		       struct neighbor_addr asker, uint64_t asker_mac)
{
	if (neighbor_is_ipv4(target))
		return arp_make(out, ARP_REPLY, self, target, asker_mac, asker);
	if (!neighbor_specified(asker))
		return nd_make(out, ND_ADVERTISEMENT, ND_OVERRIDE, self,
			       neighbor_group_mac(all_nodes), target, all_nodes, target);
	return nd_make(out, ND_ADVERTISEMENT, ND_SOLICITED | ND_OVERRIDE, self, asker_mac, target,
		       asker, target);
}

/* --- knocking -----------------------------------------------------------------------------------
 */

static uint64_t knock_mark(struct neighbor_addr asker, struct neighbor_addr target, uint64_t key)
{
	const uint64_t words[] = {asker.high, asker.low, target.high, target.low};
	unsigned __int128 product;
	uint64_t mark = key;

	for (unsigned i = 0; i < 4; i++) {
		product = (unsigned __int128)(words[i] ^ mark) * 0x9e3779b97f4a7c15;
		mark = (uint64_t)product ^ (uint64_t)(product >> 64) ^ key;
	}
	return mark;
}

static void echo_make(uint8_t *icmp, uint8_t type, uint64_t mark)
{
	memset(icmp, 0, 8);
	icmp[0] = type;
	store_be32(icmp + 4, (uint32_t)mark);
	store_be64(icmp + 8, mark);
}

unsigned neighbor_knock(uint8_t out[NEIGHBOR_KNOCK_BYTES], struct neighbor_addr asker,
			struct neighbor_addr target, uint64_t key)
{
	uint64_t mark = knock_mark(asker, target, key);
	uint16_t sum;

	if (!neighbor_is_ipv4(target)) {
		echo_make(out + IPV6_BYTES, ICMPV6_ECHO, mark);
		icmpv6_finish(out, asker, target, 1, ECHO_BYTES);
		return IPV6_BYTES + ECHO_BYTES;
	}
	memset(out, 0, IPV4_BYTES);
	out[0] = 0x45;
	store_be16(out + 2, IPV4_BYTES + ECHO_BYTES);
	out[8] = 1;
	out[9] = ICMP;
	store_be32(out + 12, (uint32_t)asker.low);
	store_be32(out + 16, (uint32_t)target.low);
	sum = (uint16_t)~offload_fold(offload_sum(out, IPV4_BYTES, 0));
	memcpy(out + 10, &sum, sizeof(sum));
	echo_make(out + IPV4_BYTES, ICMP_ECHO, mark);
	sum = (uint16_t)~offload_fold(offload_sum(out + IPV4_BYTES, ECHO_BYTES, 0));
	memcpy(out + IPV4_BYTES + 2, &sum, sizeof(sum));
	return IPV4_BYTES + ECHO_BYTES;
}

/* The ICMP message of a packet that is nothing else; NULL: it is no such packet. */
static const uint8_t *icmp_of(const uint8_t *bytes, uint32_t len, uint32_t *icmp_len)
{
	if (len >= IPV4_BYTES + 8 && bytes[0] == 0x45 && bytes[9] == ICMP) {
		*icmp_len = len - IPV4_BYTES;
		return bytes + IPV4_BYTES;
	}
	if (len >= IPV6_BYTES + 8 && bytes[0] >> 4 == 6 && bytes[6] == ICMPV6) {
		*icmp_len = len - IPV6_BYTES;
		return bytes + IPV6_BYTES;
	}
	return NULL;
}

enum neighbor_knock neighbor_knock_parse(const uint8_t *bytes, uint32_t len, uint64_t key)
{
	struct neighbor_packet packet;
	const uint8_t *icmp;
	uint32_t icmp_len;
	bool error, v4;

	icmp = icmp_of(bytes, len, &icmp_len);
	if (!icmp)
		return NEIGHBOR_KNOCK_NONE;
	v4 = bytes[0] >> 4 == 4;
	error = v4 ? icmp[0] == ICMP_UNREACHABLE || icmp[0] == ICMP_TIME_EXCEEDED
		   : icmp[0] == ICMPV6_UNREACHABLE || icmp[0] == ICMPV6_TIME_EXCEEDED;
	if (error) {
		bytes = icmp + 8;
		icmp = icmp_of(bytes, icmp_len - 8, &icmp_len);
		if (!icmp || icmp[0] != (bytes[0] >> 4 == 4 ? ICMP_ECHO : ICMPV6_ECHO))
			return NEIGHBOR_KNOCK_NONE;
		len = IPV6_BYTES; /* icmp_of has found a whole header */
	} else if (icmp[0] != (v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY)) {
		return NEIGHBOR_KNOCK_NONE;
	}
	if (icmp_len < ECHO_BYTES || !neighbor_packet_parse(bytes, len, &packet))
		return NEIGHBOR_KNOCK_NONE;
	if (load_be64(icmp + 8) != (error ? knock_mark(packet.src, packet.dst, key)
					  : knock_mark(packet.dst, packet.src, key)))
		return NEIGHBOR_KNOCK_NONE;
	return error ? NEIGHBOR_KNOCK_REFUSED : NEIGHBOR_KNOCK_ANSWERED;
}
