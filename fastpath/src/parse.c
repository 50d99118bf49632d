/* Runs on: workers. */
#include "parse.h"

#include "parse_plain.h"

enum {
	PROTO_HOPOPTS = 0,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_DSTOPTS = 60,
	PROTO_MOBILITY = 135,
	PROTO_HIP = 139,
	PROTO_SHIM6 = 140
};

void cursor_begin(struct cursor *cursor, const struct frame *frame)
{
	cursor->fragment = frame;
	cursor->offset = 0;
	cursor->left_bytes = frame->frame_len;
}

/* Steps over fragments that are used up, empty ones included. */
static void cursor_settle(struct cursor *cursor)
{
	while (cursor->fragment && cursor->offset >= cursor->fragment->len) {
		cursor->offset -= cursor->fragment->len;
		cursor->fragment = cursor->fragment->next;
	}
	if (!cursor->fragment)
		cursor->left_bytes = 0;
}

const uint8_t *cursor_need(struct cursor *cursor, uint32_t n)
{
	const struct frame *fragment;
	uint32_t offset, got = 0;

	cursor_settle(cursor);
	if (n > cursor->left_bytes || n > CURSOR_NEED_MAX)
		return NULL;
	if (n <= cursor->fragment->len - cursor->offset)
		return cursor->fragment->data + cursor->offset;

	offset = cursor->offset;
	for (fragment = cursor->fragment; fragment && got < n; fragment = fragment->next) {
		uint32_t part = fragment->len - offset;

		if (part > n - got)
			part = n - got;
		memcpy(cursor->scratch + got, fragment->data + offset, part);
		got += part;
		offset = 0;
	}
	return got == n ? cursor->scratch : NULL;
}

bool cursor_skip(struct cursor *cursor, uint32_t n)
{
	if (n > cursor->left_bytes) {
		cursor->fragment = NULL;
		cursor->left_bytes = 0;
		return false;
	}
	cursor->offset += n;
	cursor->left_bytes -= n;
	return true;
}

uint32_t frame_peek(const struct frame *frame, uint8_t *to, uint32_t n)
{
	uint32_t got = 0;

	for (; frame && got < n; frame = frame->next) {
		uint32_t part = frame->len < n - got ? frame->len : n - got;

		memcpy(to + got, frame->data, part);
		got += part;
	}
	return got;
}

bool parse_l2_tagged(struct frame *frame, struct l2 *l2)
{
	struct cursor cursor;
	const uint8_t *at;
	uint16_t type;
	uint8_t tags = 0;

	cursor_begin(&cursor, frame);
	at = cursor_need(&cursor, FRAME_LEN_MIN);
	if (!at)
		return false;
	l2->dst = load_mac(at);
	l2->src = load_mac(at + 6);
	l2->tci = 0;
	type = load_be16(at + 12);
	cursor_skip(&cursor, FRAME_LEN_MIN);
	while (parse_is_tag(type) && tags < PARSE_TAGS_MAX) {
		at = cursor_need(&cursor, 4);
		if (!at)
			return false;
		if (tags == 0)
			l2->tci = load_be16(at);
		type = load_be16(at + 2);
		cursor_skip(&cursor, 4);
		tags++;
	}
	frame->tags = tags;
	frame->l3_offset = (uint8_t)(FRAME_LEN_MIN + 4 * tags);
	frame->ethertype = type;
	return true;
}

static bool parse_tcp(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 20);

	if (!at)
		return false;
	key->l4_src = load_be16(at);
	key->l4_dst = load_be16(at + 2);
	key->tcp_flags = at[13];
	key->layers |= FLOW_L4 | FLOW_PORTS;
	return (at[12] >> 4) >= 5;
}

static bool parse_ports(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 8);

	if (!at)
		return false;
	key->l4_src = load_be16(at);
	key->l4_dst = load_be16(at + 2);
	key->layers |= FLOW_L4 | FLOW_PORTS;
	return true;
}

static bool parse_icmp(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 4);

	if (!at)
		return false;
	key->l4_src = at[0];
	key->l4_dst = at[1];
	key->layers |= FLOW_L4;
	return true;
}

static bool parse_l4(struct cursor *cursor, struct flow_key *key)
{
	if (key->layers & FLOW_LATER)
		return true;
	switch (key->ip_proto) {
	case PROTO_TCP:
		return parse_tcp(cursor, key);
	case PROTO_UDP:
		return parse_ports(cursor, key);
	case PROTO_ICMP:
		return key->ip_version != 4 || parse_icmp(cursor, key);
	case PROTO_ICMPV6:
		return key->ip_version != 6 || parse_icmp(cursor, key);
	default:
		return true;
	}
}

/* The rest of the packet as its own header counts it; Ethernet padding is not part of it. */
static bool parse_trim(struct cursor *cursor, const struct frame *frame, uint32_t bytes)
{
	if (bytes > cursor->left_bytes)
		return false;
	/* a packet yet to be segmented may not know its length */
	if (frame->offload.gso_type == FRAME_GSO_NONE)
		cursor->left_bytes = bytes;
	return true;
}

static bool parse_ipv4(struct cursor *cursor, const struct frame *frame, struct flow_key *key,
		       uint32_t *fragment_id)
{
	const uint8_t *at = cursor_need(cursor, 20);
	uint32_t header_bytes, total_bytes;
	uint16_t fragment, identification;

	if (!at)
		return false;
	header_bytes = 4u * (at[0] & 15);
	total_bytes = load_be16(at + 2);
	identification = load_be16(at + 4);
	fragment = load_be16(at + 6);
	if (at[0] >> 4 != 4 || header_bytes < 20)
		return false;
	key->ip_tos = at[1];
	key->ip_ttl = at[8];
	key->ip_proto = at[9];
	memcpy(key->ip_src + 12, at + 12, 4);
	memcpy(key->ip_dst + 12, at + 16, 4);
	if (frame->offload.gso_type == FRAME_GSO_NONE && total_bytes < header_bytes)
		return false;
	if (!parse_trim(cursor, frame, total_bytes) || !cursor_skip(cursor, header_bytes))
		return false;
	key->ip_version = 4;
	key->layers |= FLOW_L3 | FLOW_IP;
	if (fragment & 0x3fff) {
		key->layers |= FLOW_FRAGMENT;
		*fragment_id = identification;
	}
	if (fragment & 0x1fff)
		key->layers |= FLOW_LATER;
	return parse_l4(cursor, key);
}

static bool parse_is_extension(uint8_t proto)
{
	switch (proto) {
	case PROTO_HOPOPTS:
	case PROTO_ROUTING:
	case PROTO_DSTOPTS:
	case PROTO_MOBILITY:
	case PROTO_HIP:
	case PROTO_SHIM6:
	case PROTO_FRAGMENT:
	case PROTO_AH:
		return true;
	default:
		return false;
	}
}

/* Steps over one extension header; false: not sound. */
static bool parse_extension(struct cursor *cursor, struct flow_key *key, uint32_t *fragment_id)
{
	const uint8_t *at = cursor_need(cursor, 8);
	uint32_t bytes;

	if (!at)
		return false;
	if (key->ip_proto == PROTO_FRAGMENT) {
		bytes = 8;
		if (load_be16(at + 2) & 0xfff9) {
			key->layers |= FLOW_FRAGMENT;
			*fragment_id = load_be32(at + 4);
		}
		if (load_be16(at + 2) & 0xfff8)
			key->layers |= FLOW_LATER;
	} else if (key->ip_proto == PROTO_AH) {
		bytes = 4u * (at[1] + 2u);
	} else {
		bytes = 8u * (at[1] + 1u);
	}
	key->ip_proto = at[0];
	return cursor_skip(cursor, bytes);
}

/* Behind a later fragment's header there is payload, whatever next header says. */
static bool parse_extensions(struct cursor *cursor, struct flow_key *key, uint32_t *fragment_id)
{
	unsigned followed = 0;

	while (parse_is_extension(key->ip_proto) && !(key->layers & FLOW_LATER)) {
		if (followed++ == PARSE_EXTENSIONS_MAX ||
		    !parse_extension(cursor, key, fragment_id))
			return false;
	}
	return true;
}

static bool parse_ipv6(struct cursor *cursor, const struct frame *frame, struct flow_key *key,
		       uint32_t *fragment_id)
{
	const uint8_t *at = cursor_need(cursor, 40);
	uint32_t payload_bytes;

	if (!at || at[0] >> 4 != 6)
		return false;
	key->ip_tos = (uint8_t)(load_be16(at) >> 4);
	payload_bytes = load_be16(at + 4);
	key->ip_proto = at[6];
	key->ip_ttl = at[7];
	memcpy(key->ip_src, at + 8, 16);
	memcpy(key->ip_dst, at + 24, 16);
	cursor_skip(cursor, 40);
	if (!parse_trim(cursor, frame, payload_bytes))
		return false;
	key->ip_version = 6;
	key->layers |= FLOW_L3 | FLOW_IP;
	return parse_extensions(cursor, key, fragment_id) && parse_l4(cursor, key);
}

static bool parse_arp(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 28);

	/* Ethernet and IPv4 only, RFC 826 */
	if (!at || load_be16(at) != 1 || load_be16(at + 2) != ETHERTYPE_IPV4 || at[4] != 6 ||
	    at[5] != 4)
		return false;
	key->ip_proto = at[7];
	memcpy(key->ip_src, at + 8, 6);
	memcpy(key->ip_src + 12, at + 14, 4);
	memcpy(key->ip_dst, at + 18, 6);
	memcpy(key->ip_dst + 12, at + 24, 4);
	key->layers |= FLOW_L3;
	return true;
}

void parse_flow_at(const struct frame *frame, struct flow_key *key, struct cursor *cursor,
		   uint32_t *fragment_id)
{
	struct frame first = *frame;
	struct l2 l2;
	bool sound;

	memset(key, 0, sizeof(*key));
	*fragment_id = 0;
	cursor_begin(cursor, frame);
	key->vid = frame->vid;
	key->in_port = frame->in_port;
	if (!parse_l2(&first, &l2)) {
		key->layers = FLOW_BAD;
		return;
	}
	for (unsigned i = 0; i < 6; i++) {
		key->eth_dst[i] = (uint8_t)(l2.dst >> (40 - 8 * i));
		key->eth_src[i] = (uint8_t)(l2.src >> (40 - 8 * i));
	}
	key->vlan_pcp = (uint8_t)(l2.tci >> 13);
	if (first.tags) {
		key->layers |= FLOW_TAGGED;
		/* a frame of a switch that filters VLANs has a VLAN already */
		key->vid = key->vid ? key->vid : l2.tci & 0xfff;
	}
	key->eth_type = first.ethertype;
	cursor_skip(cursor, first.l3_offset);
	switch (first.ethertype) {
	case ETHERTYPE_IPV4:
		sound = parse_ipv4(cursor, frame, key, fragment_id);
		break;
	case ETHERTYPE_IPV6:
		sound = parse_ipv6(cursor, frame, key, fragment_id);
		break;
	case ETHERTYPE_ARP:
		sound = parse_arp(cursor, key);
		break;
	default:
		sound = true;
	}
	if (!sound)
		key->layers |= FLOW_BAD;
}

void parse_flow(const struct frame *frame, struct flow_key *key)
{
	uint64_t words[FLOW_WORDS];
	struct cursor cursor;
	uint32_t fragment_id;

	if (parse_plain(frame, words))
		memcpy(key, words, sizeof(*key));
	else
		parse_flow_at(frame, key, &cursor, &fragment_id);
}

/* --- a packet inside of an ICMP error ------------------------------------------------------------
 */

static bool quoted_ipv4(struct cursor *cursor, const uint8_t *at, struct flow_key *key)
{
	uint32_t header_bytes = 4u * (at[0] & 15);

	key->ip_version = 4;
	key->ip_proto = at[9];
	memcpy(key->ip_src + 12, at + 12, 4);
	memcpy(key->ip_dst + 12, at + 16, 4);
	if (load_be16(at + 6) & 0x1fff)
		key->layers |= FLOW_LATER;
	return header_bytes >= 20 && cursor_skip(cursor, header_bytes);
}

static bool quoted_ipv6(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 40);
	uint32_t fragment_id;

	if (!at)
		return false;
	key->ip_version = 6;
	key->ip_proto = at[6];
	memcpy(key->ip_src, at + 8, 16);
	memcpy(key->ip_dst, at + 24, 16);
	cursor_skip(cursor, 40);
	return parse_extensions(cursor, key, &fragment_id);
}

bool parse_quoted(struct cursor *cursor, struct flow_key *key)
{
	const uint8_t *at = cursor_need(cursor, 20);

	memset(key, 0, sizeof(*key));
	if (!at)
		return false;
	if (!(at[0] >> 4 == 4 ? quoted_ipv4(cursor, at, key)
			      : at[0] >> 4 == 6 && quoted_ipv6(cursor, key)))
		return false;
	at = cursor_need(cursor, 8);
	if (!at || (key->layers & FLOW_LATER))
		return false;
	key->layers |= FLOW_L3 | FLOW_IP;
	switch (key->ip_proto) {
	case PROTO_TCP:
	case PROTO_UDP:
		return parse_ports(cursor, key);
	case PROTO_ICMP:
		return key->ip_version == 4 && parse_icmp(cursor, key);
	case PROTO_ICMPV6:
		return key->ip_version == 6 && parse_icmp(cursor, key);
	default:
		return true;
	}
}

static uint32_t mix32(uint32_t x)
{
	x = (x ^ (x >> 16)) * 0x7feb352du;
	x = (x ^ (x >> 15)) * 0x846ca68bu;
	return x ^ (x >> 16);
}

uint32_t flow_hash(const struct flow_key *key)
{
	uint32_t sum = key->ip_proto + ((uint32_t)key->eth_type << 8);

	/* sums do not care about the order: both directions get the same */
	for (unsigned i = 0; i < 16; i += 4)
		sum +=
		    mix32(load_be32(key->ip_src + i) + i) + mix32(load_be32(key->ip_dst + i) + i);
	if (!(key->layers & FLOW_FRAGMENT))
		sum += mix32(key->l4_src + 0x10000u) + mix32(key->l4_dst + 0x10000u);
	if (!key->ip_version)
		sum += mix32(load_be32(key->eth_src + 2)) + mix32(load_be32(key->eth_dst + 2));
	sum = mix32(sum);
	return sum ? sum : 1;
}
