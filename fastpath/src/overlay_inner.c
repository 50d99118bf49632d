/* Runs on: workers. See overlay_inner.h. */
#include "overlay_inner.h"

#include <stdbool.h>

#include "offload.h"
#include "parse.h"

enum {
	TYPE_IPV4 = 0x0800,
	TYPE_IPV6 = 0x86dd,
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	TCP_BYTES = 20,
	UDP_BYTES = 8,
	TCP_CHECKSUM = 16,
	UDP_CHECKSUM = 6,
	FRAGMENT_MASK = 0x3fff, /* more to come, or not the first */
};

struct inner {
	uint32_t l3;
	uint32_t l4;
	uint32_t l4_bytes; /* as the IP header says, within the frame */
	uint8_t protocol;
	bool ipv6;
	uint64_t addresses; /* sum of their 16-bit words */
};

static uint64_t words_sum(const uint8_t *at, unsigned bytes)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < bytes; i += 2)
		sum += load_be16(at + i);
	return sum;
}

static bool ipv4_find(const uint8_t *ip, uint32_t left, struct inner *inner)
{
	uint32_t head, total;

	if (left < IPV4_BYTES || ip[0] >> 4 != 4)
		return false;
	head = (ip[0] & 15u) * 4;
	total = load_be16(ip + 2);
	if (head < IPV4_BYTES || total < head || total > left ||
	    (load_be16(ip + 6) & FRAGMENT_MASK))
		return false;
	inner->protocol = ip[9];
	inner->l4 = inner->l3 + head;
	inner->l4_bytes = total - head;
	inner->addresses = words_sum(ip + 12, 8);
	return true;
}

static bool ipv6_find(const uint8_t *ip, uint32_t left, struct inner *inner)
{
	if (left < IPV6_BYTES || ip[0] >> 4 != 6 || load_be16(ip + 4) > left - IPV6_BYTES)
		return false;
	inner->ipv6 = true;
	inner->protocol = ip[6];
	inner->l4 = inner->l3 + IPV6_BYTES;
	inner->l4_bytes = load_be16(ip + 4);
	inner->addresses = words_sum(ip + 8, 32);
	return true;
}

static bool inner_find(const struct frame *frame, struct inner *inner)
{
	uint32_t at = 12;

	for (unsigned tags = 0; tags < PARSE_TAGS_MAX && at + 6 <= frame->len; tags++) {
		if (!parse_is_tag(load_be16(frame->data + at)))
			break;
		at += 4;
	}
	if (at + 2 > frame->len)
		return false;
	inner->l3 = at + 2;
	switch (load_be16(frame->data + at)) {
	case TYPE_IPV4:
		return ipv4_find(frame->data + inner->l3, frame->len - inner->l3, inner);
	case TYPE_IPV6:
		return ipv6_find(frame->data + inner->l3, frame->len - inner->l3, inner);
	default:
		return false;
	}
}

void overlay_inner(struct frame *frame, uint32_t mtu)
{
	struct inner inner = {0};
	uint32_t field, head;
	bool tcp;

	if (!inner_find(frame, &inner))
		return;
	tcp = inner.protocol == PROTOCOL_TCP;
	if ((!tcp && inner.protocol != PROTOCOL_UDP) ||
	    inner.l4_bytes < (tcp ? TCP_BYTES : UDP_BYTES))
		return;
	field = inner.l4 + (tcp ? TCP_CHECKSUM : UDP_CHECKSUM);
	if (load_be16(frame->data + field) !=
	    offload_fold(inner.addresses + inner.protocol + inner.l4_bytes))
		return;
	frame->offload.flags = FRAME_CSUM_NEEDED;
	frame->offload.csum_start = (uint16_t)inner.l4;
	frame->offload.csum_offset = (uint16_t)(field - inner.l4);
	head = inner.l4 - inner.l3 + (tcp ? (frame->data[inner.l4 + 12] >> 4) * 4u : 0);
	if (!tcp || mtu <= head || inner.l4 - inner.l3 + inner.l4_bytes <= mtu)
		return;
	frame->offload.gso_type = inner.ipv6 ? FRAME_GSO_TCPV6 : FRAME_GSO_TCPV4;
	frame->offload.gso_size = (uint16_t)(mtu - head);
	frame->offload.hdr_len = (uint16_t)(inner.l3 + head);
}
