/* Runs on: workers. */
#include "reject.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#include "offload.h"
#include "parse.h"

enum {
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_ICMPV6 = 58,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	TCP_BYTES = 20,
	ICMP_BYTES = 8,
	IPV4_MAX = 576,	 /* RFC 1812, section 4.3.2.3 */
	IPV6_MAX = 1280, /* RFC 4443, section 2.4 (c) */
	TTL = 64,
	TOS_ERROR = 0xc0, /* internetwork control: RFC 1812, section 4.3.2.5 */
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
	ICMP_UNREACHABLE = 3,
	ICMP_PROHIBITED = 13,
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_PROHIBITED = 1,
	ICMPV6_INFORMATIONAL = 128,
	ICMPV6_REDIRECT = 137
};

/* As it stands in memory: offload_sum adds words as they lie there. */
static void store_checksum(uint8_t *at, uint64_t sum)
{
	uint16_t checksum = (uint16_t)~offload_fold(sum);

	memcpy(at, &checksum, sizeof(checksum));
}

/* --- is anything to be said? ------------------------------------------------------------------
 */

static bool zero(const uint8_t *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (bytes[i])
			return false;
	}
	return true;
}

/* 224.0.0.0/4, 240.0.0.0/4 with the broadcast address, 0.0.0.0/8; ff00::/8, :: */
static bool one_station(const uint8_t address[16], uint8_t version)
{
	if (version == 4)
		return address[12] && address[12] < 224;
	return address[0] != 0xff && !zero(address, 16);
}

/* RFC 1122, section 3.2.2; RFC 4443, section 2.4 (e). */
static bool icmp_error(const struct flow_key *key)
{
	if (key->ip_proto == PROTO_ICMP && key->ip_version == 4) {
		switch (key->l4_src) {
		case 3:	 /* unreachable */
		case 4:	 /* source quench */
		case 5:	 /* redirect */
		case 11: /* time exceeded */
		case 12: /* parameter problem */
			return true;
		default:
			return !(key->layers & FLOW_L4);
		}
	}
	return key->ip_proto == PROTO_ICMPV6 && key->ip_version == 6 &&
	       (!(key->layers & FLOW_L4) || key->l4_src < ICMPV6_INFORMATIONAL ||
		key->l4_src == ICMPV6_REDIRECT);
}

static bool answerable(const struct flow_key *key)
{
	if (!(key->layers & FLOW_IP) || (key->layers & (FLOW_BAD | FLOW_LATER)))
		return false;
	if ((key->eth_dst[0] & 1) || (key->eth_src[0] & 1))
		return false;
	return one_station(key->ip_src, key->ip_version) &&
	       one_station(key->ip_dst, key->ip_version) && !icmp_error(key);
}

/* --- the answer --------------------------------------------------------------------------------
 */

/* The offender's packet: from its IP header on. */
struct packet {
	uint8_t bytes[IPV6_MAX]; /* its first ones */
	uint32_t have;
	uint32_t len; /* by its own header */
	uint32_t l4;  /* where layer 4 begins */
};

/* The IPv6 header and its extensions, all of which parse_flow has found sound. */
static uint32_t ipv6_header_bytes(const struct packet *packet)
{
	uint8_t proto = packet->bytes[6];
	uint32_t at = IPV6_BYTES;

	for (unsigned n = 0; n < PARSE_EXTENSIONS_MAX && at + 8 <= packet->have; n++) {
		const uint8_t *header = packet->bytes + at;

		if (proto == PROTO_TCP)
			break;
		at += proto == 44 ? 8 : proto == 51 ? 4u * (header[1] + 2u) : 8u * (header[1] + 1u);
		proto = header[0];
	}
	return at;
}

static void packet_read(const struct frame *frame, const struct flow_key *key, uint8_t *head,
			uint32_t head_bytes, struct packet *packet)
{
	uint8_t bytes[IPV6_MAX + 22];
	uint32_t have = frame_peek(frame, bytes, sizeof(bytes));

	memset(packet, 0, sizeof(*packet));
	memcpy(head, bytes, head_bytes);
	packet->have = have > head_bytes ? have - head_bytes : 0;
	packet->have = packet->have < IPV6_MAX ? packet->have : IPV6_MAX;
	memcpy(packet->bytes, bytes + head_bytes, packet->have);
	packet->len = key->ip_version == 4 ? load_be16(packet->bytes + 2)
					   : IPV6_BYTES + load_be16(packet->bytes + 4);
	/* a packet yet to be segmented may not know its length */
	if (frame->offload.gso_type != FRAME_GSO_NONE ||
	    packet->len > frame->frame_len - head_bytes)
		packet->len = frame->frame_len - head_bytes;
	packet->have = packet->have < packet->len ? packet->have : packet->len;
	packet->l4 =
	    key->ip_version == 4 ? 4u * (packet->bytes[0] & 15) : ipv6_header_bytes(packet);
}

/* RFC 9293, section 3.10.7.1; 0: the segment is no whole one. */
static uint32_t tcp_reset(const struct packet *packet, uint8_t *tcp)
{
	const uint8_t *old = packet->bytes + packet->l4;
	uint32_t header_bytes, payload;

	if (packet->l4 + TCP_BYTES > packet->have)
		return 0;
	header_bytes = 4u * (old[12] >> 4);
	if (packet->l4 + header_bytes > packet->len)
		return 0;
	payload = packet->len - packet->l4 - header_bytes;
	memset(tcp, 0, TCP_BYTES);
	memcpy(tcp, old + 2, 2);
	memcpy(tcp + 2, old, 2);
	tcp[12] = TCP_BYTES / 4 << 4;
	tcp[13] = TCP_RST;
	if (old[13] & TCP_ACK) {
		memcpy(tcp + 4, old + 8, 4);
	} else {
		payload += (old[13] & TCP_SYN) != 0;
		payload += (old[13] & TCP_FIN) != 0;
		store_be32(tcp + 8, load_be32(old + 4) + payload);
		tcp[13] |= TCP_ACK;
	}
	return TCP_BYTES;
}

/* What is quoted is as much of the packet as fits. */
static uint32_t icmp_unreachable(const struct packet *packet, uint8_t version, uint8_t *icmp)
{
	uint32_t room = version == 4 ? IPV4_MAX - IPV4_BYTES : IPV6_MAX - IPV6_BYTES;
	uint32_t quoted = room - ICMP_BYTES;

	quoted = packet->have < quoted ? packet->have : quoted;
	memset(icmp, 0, ICMP_BYTES);
	icmp[0] = version == 4 ? ICMP_UNREACHABLE : ICMPV6_UNREACHABLE;
	icmp[1] = version == 4 ? ICMP_PROHIBITED : ICMPV6_PROHIBITED;
	memcpy(icmp + ICMP_BYTES, packet->bytes, quoted);
	return ICMP_BYTES + quoted;
}

/* Back to who sent it; returns the sum of the pseudo-header. */
static uint64_t ip_header(const struct flow_key *key, uint8_t proto, uint32_t payload, uint8_t *ip)
{
	if (key->ip_version == 4) {
		memset(ip, 0, IPV4_BYTES);
		ip[0] = 0x45;
		ip[1] = proto == PROTO_TCP ? 0 : TOS_ERROR;
		store_be16(ip + 2, IPV4_BYTES + payload);
		ip[6] = 0x40; /* not to be fragmented: the identification is free (RFC 6864) */
		ip[8] = TTL;
		ip[9] = proto;
		memcpy(ip + 12, key->ip_dst + 12, 4);
		memcpy(ip + 16, key->ip_src + 12, 4);
		store_checksum(ip + 10, offload_sum(ip, IPV4_BYTES, 0));
		return offload_sum(ip + 12, 8, htonl(proto + payload));
	}
	memset(ip, 0, IPV6_BYTES);
	ip[0] = 0x60;
	store_be16(ip + 4, payload);
	ip[6] = proto;
	ip[7] = TTL;
	memcpy(ip + 8, key->ip_dst, 16);
	memcpy(ip + 24, key->ip_src, 16);
	return offload_sum(ip + 8, 32, htonl(proto + payload));
}

static bool is_reset(const struct flow_key *key)
{
	return key->ip_proto == PROTO_TCP && (key->tcp_flags & TCP_RST);
}

uint32_t reject_build(const struct frame *frame, const struct flow_key *key, uint8_t *to)
{
	uint32_t head = frame->l3_offset;
	uint32_t payload, ip_bytes;
	uint64_t pseudo;
	uint8_t proto = key->ip_proto, header[22];
	struct packet packet;
	uint8_t *l4;

	if (!answerable(key) || is_reset(key) || head > sizeof(header) ||
	    (proto == PROTO_TCP && !(key->layers & FLOW_PORTS)))
		return 0;
	packet_read(frame, key, header, head, &packet);
	memcpy(to, header + 6, 6);
	memcpy(to + 6, header, 6);
	memcpy(to + 12, header + 12, head - 12);
	ip_bytes = key->ip_version == 4 ? IPV4_BYTES : IPV6_BYTES;
	l4 = to + head + ip_bytes;
	if (proto == PROTO_TCP) {
		payload = tcp_reset(&packet, l4);
	} else {
		payload = icmp_unreachable(&packet, key->ip_version, l4);
		proto = key->ip_version == 4 ? PROTO_ICMP : PROTO_ICMPV6;
	}
	if (!payload)
		return 0;
	pseudo = ip_header(key, proto, payload, to + head);
	store_checksum(l4 + (proto == PROTO_TCP ? 16 : 2),
		       offload_sum(l4, payload, proto == PROTO_ICMP ? 0 : pseudo));
	return head + ip_bytes + payload;
}
