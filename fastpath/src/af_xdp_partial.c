/* Runs on: workers. */
#include <arpa/inet.h>
#include <string.h>

#include "af_xdp.h"
#include "offload.h"
#include "parse.h"
#include "parse_plain.h"

enum { TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, TCP_MIN = 20, UDP_MIN = 8 };

/* `l4` and `l4_len` as the IP header says; sum: of the addresses. */
static void l4_mark(struct frame *frame, uint32_t l4, uint32_t l4_len, uint8_t proto, uint64_t sum)
{
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
}

static void ipv4_mark(struct frame *frame, uint32_t l3)
{
	const uint8_t *ip = frame->data + l3;
	uint32_t head, total;

	if (frame->len < l3 + 20)
		return;
	head = (ip[0] & 15u) * 4;
	total = load_be16(ip + 2);
	if (ip[0] >> 4 != 4 || head < 20 || total < head || (load_be16(ip + 6) & 0x3fff))
		return; /* of a packet in fragments, the checksum is finished */
	l4_mark(frame, l3 + head, total - head, ip[9], offload_sum(ip + 12, 8, 0));
}

/* A stack leaves checksums to the device behind extension headers, too; we look at plain ones. */
static void ipv6_mark(struct frame *frame, uint32_t l3)
{
	const uint8_t *ip = frame->data + l3;

	if (frame->len < l3 + 40 || ip[0] >> 4 != 6)
		return;
	l4_mark(frame, l3 + 40, load_be16(ip + 4), ip[6], offload_sum(ip + 8, 32, 0));
}

void xdp_partial_mark(struct frame *frame)
{
	uint32_t l3 = FRAME_LEN_MIN;
	uint16_t type = load_be16(frame->data + 12);

	while (parse_is_tag(type) && l3 < FRAME_LEN_MIN + 8 && frame->len >= l3 + 4) {
		type = load_be16(frame->data + l3 + 2);
		l3 += 4;
	}
	if (type == ETHERTYPE_IPV4)
		ipv4_mark(frame, l3);
	else if (type == ETHERTYPE_IPV6)
		ipv6_mark(frame, l3);
}
