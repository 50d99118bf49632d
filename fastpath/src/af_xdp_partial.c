/* Runs on: workers. */
#include <arpa/inet.h>
#include <string.h>

#include "af_xdp.h"
#include "offload.h"
#include "parse.h"
#include "parse_plain.h"

enum { TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, TCP_MIN = 20, UDP_MIN = 8 };

/* What is wanted of the layers of a frame. */
struct layers {
	uint32_t l3;
	uint32_t l4;
	uint32_t l4_len; /* as the IP header says */
	uint32_t mtu;	 /* 0: no limit known */
	uint8_t proto;
	uint8_t gso; /* enum frame_gso of TCP in this IP */
};

/* A TCP frame that no wire of this interface can have carried is many. */
static void segments_mark(struct frame *frame, const struct layers *at)
{
	uint32_t head = (frame->data[at->l4 + 12] >> 4) * 4u;

	if (at->proto != PROTO_TCP || !at->mtu || frame->frame_len <= at->l3 + at->mtu ||
	    head < TCP_MIN || at->l4 - at->l3 + head >= at->mtu)
		return;
	frame->offload.gso_type = at->gso;
	frame->offload.gso_size = (uint16_t)(at->mtu - (at->l4 - at->l3) - head);
	frame->offload.hdr_len = (uint16_t)(at->l4 + head);
}

/* sum: of the addresses. */
static void l4_mark(struct frame *frame, const struct layers *layers, uint64_t sum)
{
	uint32_t l4 = layers->l4, l4_len = layers->l4_len;
	uint8_t proto = layers->proto;
	uint16_t at = proto == PROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM, field;
	uint32_t least = proto == PROTO_TCP ? TCP_MIN : UDP_MIN;

	if ((proto != PROTO_TCP && proto != PROTO_UDP) || l4_len < least ||
	    l4 + l4_len > frame->frame_len || l4 + least > frame->len)
		return;
	memcpy(&field, frame->data + l4 + at, sizeof(field));
	sum += htons(proto);
	sum += htons((uint16_t)l4_len);
	if (field != offload_fold(sum))
		return;
	frame->offload = (struct frame_offload){
	    .flags = FRAME_CSUM_NEEDED,
	    .csum_start = (uint16_t)l4,
	    .csum_offset = at,
	};
	segments_mark(frame, layers);
}

static void ipv4_mark(struct frame *frame, struct layers *at)
{
	const uint8_t *ip = frame->data + at->l3;
	uint32_t head, total;

	if (frame->len < at->l3 + 20)
		return;
	head = (ip[0] & 15u) * 4;
	total = load_be16(ip + 2);
	if (ip[0] >> 4 != 4 || head < 20 || total < head || (load_be16(ip + 6) & 0x3fff))
		return; /* of a packet in fragments, the checksum is finished */
	at->l4 = at->l3 + head;
	at->l4_len = total - head;
	at->proto = ip[9];
	at->gso = FRAME_GSO_TCPV4;
	l4_mark(frame, at, offload_sum(ip + 12, 8, 0));
}

/* A stack leaves checksums to the device behind extension headers, too; we look at plain ones. */
static void ipv6_mark(struct frame *frame, struct layers *at)
{
	const uint8_t *ip = frame->data + at->l3;

	if (frame->len < at->l3 + 40 || ip[0] >> 4 != 6)
		return;
	at->l4 = at->l3 + 40;
	at->l4_len = load_be16(ip + 4);
	at->proto = ip[6];
	at->gso = FRAME_GSO_TCPV6;
	l4_mark(frame, at, offload_sum(ip + 8, 32, 0));
}

void xdp_partial_mark(struct frame *frame, uint32_t mtu)
{
	struct layers at = {.l3 = FRAME_LEN_MIN, .mtu = mtu};
	uint16_t type = load_be16(frame->data + 12);

	while (parse_is_tag(type) && at.l3 < FRAME_LEN_MIN + 8 && frame->len >= at.l3 + 4) {
		type = load_be16(frame->data + at.l3 + 2);
		at.l3 += 4;
	}
	if (type == ETHERTYPE_IPV4)
		ipv4_mark(frame, &at);
	else if (type == ETHERTYPE_IPV6)
		ipv6_mark(frame, &at);
}
