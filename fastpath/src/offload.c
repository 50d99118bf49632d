/* What it is and who runs it: offload.h. */
#include "offload.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	TPID_8021Q = 0x8100,
	TPID_8021AD = 0x88a8,
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	TAGS_MAX = 3, /* two of the guests' and one that a tunnel port added */
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	IPV6_HOP_BY_HOP = 0,
	IPV6_ROUTING = 43,
	IPV6_DESTINATION = 60,
	TCP_CSUM_OFFSET = 16,
	UDP_CSUM_OFFSET = 6,
	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_CWR = 0x80
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value & 0xffff);
}

uint64_t offload_sum(const uint8_t *bytes, uint32_t len, uint64_t sum)
{
	uint64_t a = 0, b = 0, c = 0, d = 0, w[4];
	uint32_t half;
	uint16_t word;

	/* Halves of 32 bits in accumulators of 64: no carry to look after for 4 G words. */
	for (; len >= 32; len -= 32, bytes += 32) {
		memcpy(w, bytes, 32);
		a += (w[0] & 0xffffffff) + (w[0] >> 32);
		b += (w[1] & 0xffffffff) + (w[1] >> 32);
		c += (w[2] & 0xffffffff) + (w[2] >> 32);
		d += (w[3] & 0xffffffff) + (w[3] >> 32);
	}
	sum += a + b + c + d;
	for (; len >= 4; len -= 4, bytes += 4) {
		memcpy(&half, bytes, 4);
		sum += half;
	}
	if (len >= 2) {
		memcpy(&word, bytes, 2);
		sum += word;
		bytes += 2;
		len -= 2;
	}
	if (len) {
		word = 0;
		memcpy(&word, bytes, 1);
		sum += word;
	}
	return sum;
}

/* Adds bytes that begin at an odd offset where `odd`: their sum counts with its bytes swapped. */
static uint64_t sum_at(const uint8_t *bytes, uint32_t len, bool odd, uint64_t sum)
{
	uint16_t part;

	if (!odd)
		return offload_sum(bytes, len, sum);
	part = offload_fold(offload_sum(bytes, len, 0));
	return sum + (uint16_t)(part << 8 | part >> 8);
}

/* A length as the pseudo-header of IPv6 holds it: 32 bits, in the order of summed words. */
static uint32_t sum_length(uint32_t len)
{
	return (uint32_t)htons((uint16_t)(len >> 16)) + htons((uint16_t)len);
}

/*
 * Writes the finished checksum. UDP says "none" with 0, so its 0 is sent as ffff (RFC 768),
 * which is the same number; only UDP has its checksum 6 bytes into the header.
 */
static void put_checksum(uint8_t *field, uint64_t sum, bool udp)
{
	uint16_t check = (uint16_t)~offload_fold(sum);

	if (check == 0 && udp)
		check = 0xffff;
	memcpy(field, &check, 2);
}

static bool checksum_place_valid(const struct frame *frame)
{
	uint32_t end = (uint32_t)frame->offload.csum_start + frame->offload.csum_offset + 2;

	return frame->offload.csum_start >= FRAME_LEN_MIN && end <= frame->frame_len &&
	       end <= OFFLOAD_HEADER_MAX;
}

int offload_checksum(struct frame *frame)
{
	const struct frame_offload offload = frame->offload;
	uint32_t skip = offload.csum_start, at = 0;
	uint32_t field = (uint32_t)offload.csum_start + offload.csum_offset;
	struct frame *fragment;
	uint8_t check[2];
	uint64_t sum = 0;
	uint32_t i = 0;

	if (!checksum_place_valid(frame))
		return -EINVAL;
	for (fragment = frame; fragment; at += fragment->len, fragment = fragment->next) {
		if (at + fragment->len <= skip)
			continue;
		i = at < skip ? skip - at : 0;
		sum = sum_at(fragment->data + i, fragment->len - i, (at + i - skip) & 1, sum);
	}
	if (at != frame->frame_len)
		return -EINVAL;
	put_checksum(check, sum, offload.csum_offset == UDP_CSUM_OFFSET);
	for (i = 0, at = 0, fragment = frame; i < 2; fragment = fragment->next) {
		while (i < 2 && field + i - at < fragment->len) {
			fragment->data[field + i - at] = check[i];
			i++;
		}
		at += fragment->len;
	}
	frame->offload.flags &= (uint8_t)~FRAME_CSUM_NEEDED;
	return 0;
}

/* Copies the first bytes of the chain; returns how many. */
static uint32_t gather(const struct frame *frame, uint8_t *to, uint32_t room)
{
	uint32_t have = 0, n;

	for (; frame && have < room; frame = frame->next) {
		n = frame->len < room - have ? frame->len : room - have;
		memcpy(to + have, frame->data, n);
		have += n;
	}
	return have;
}

static bool chain_consistent(const struct frame *frame)
{
	const struct frame *fragment;
	uint64_t bytes = 0;
	unsigned count = 0;

	for (fragment = frame; fragment && count <= FRAME_FRAGS_MAX; fragment = fragment->next) {
		bytes += fragment->len;
		count++;
	}
	return !fragment && count <= FRAME_FRAGS_MAX && bytes == frame->frame_len &&
	       bytes >= FRAME_LEN_MIN && bytes <= FRAME_LEN_MAX;
}

/* A length field of IP against the bytes there are; 0 stands for what 16 bits cannot say. */
static bool length_matches(uint16_t field, uint32_t bytes)
{
	return field == bytes || (field == 0 && bytes > 0xffff);
}

static bool parse_ipv4(struct offload_cut *cut, uint32_t have, uint32_t frame_len)
{
	const uint8_t *ip = cut->header + cut->l3;
	uint32_t ihl;

	if (have < cut->l3 + 20u || ip[0] >> 4 != 4)
		return false;
	ihl = (ip[0] & 15u) * 4;
	if (ihl < 20 || have < cut->l3 + ihl || !length_matches(get16(ip + 2), frame_len - cut->l3))
		return false;
	if (get16(ip + 6) & 0x3fff) /* a fragment has nothing to cut */
		return false;
	cut->version = 4;
	cut->protocol = ip[9];
	cut->ip_id = get16(ip + 4);
	cut->l4 = (uint16_t)(cut->l3 + ihl);
	cut->pseudo = offload_fold(offload_sum(ip + 12, 8, htons(cut->protocol)));
	return true;
}

/*
 * *routed: a routing header changes the address that the checksum covers, so that the sum cannot
 * be had from the addresses in the header.
 */
static bool parse_ipv6(struct offload_cut *cut, uint32_t have, uint32_t frame_len, bool *routed)
{
	const uint8_t *ip = cut->header + cut->l3;
	uint32_t at = cut->l3 + 40u;
	uint8_t next;

	if (have < at || ip[0] >> 4 != 6 || !length_matches(get16(ip + 4), frame_len - at))
		return false;
	next = ip[6];
	while (next == IPV6_HOP_BY_HOP || next == IPV6_ROUTING || next == IPV6_DESTINATION) {
		if (have < at + 8)
			return false;
		*routed |= next == IPV6_ROUTING;
		next = cut->header[at];
		at += (cut->header[at + 1] + 1u) * 8;
		if (at > have)
			return false;
	}
	cut->version = 6;
	cut->protocol = next;
	cut->l4 = (uint16_t)at;
	cut->pseudo = offload_fold(offload_sum(ip + 8, 32, htons(next)));
	return true;
}

static bool parse_tcp(struct offload_cut *cut, uint32_t have)
{
	const uint8_t *tcp = cut->header + cut->l4;
	uint32_t len;

	if (have < cut->l4 + 20u)
		return false;
	len = (tcp[12] >> 4) * 4u;
	if (len < 20 || have < cut->l4 + len)
		return false;
	cut->seq = get32(tcp + 4);
	cut->tcp_flags = tcp[13];
	cut->header_len = (uint16_t)(cut->l4 + len);
	return true;
}

static bool parse_udp(struct offload_cut *cut, uint32_t have, uint32_t frame_len)
{
	if (have < cut->l4 + 8u ||
	    !length_matches(get16(cut->header + cut->l4 + 4), frame_len - cut->l4))
		return false;
	cut->header_len = (uint16_t)(cut->l4 + 8);
	return true;
}

static bool type_matches(uint8_t gso_type, uint8_t version, uint8_t protocol)
{
	switch (gso_type & ~FRAME_GSO_ECN) {
	case FRAME_GSO_TCPV4:
		return version == 4 && protocol == PROTOCOL_TCP;
	case FRAME_GSO_TCPV6:
		return version == 6 && protocol == PROTOCOL_TCP;
	case FRAME_GSO_UDP_L4:
		return protocol == PROTOCOL_UDP;
	default:
		return false;
	}
}

static unsigned csum_offset_of(uint8_t protocol)
{
	return protocol == PROTOCOL_TCP ? TCP_CSUM_OFFSET : UDP_CSUM_OFFSET;
}

/* Finds the headers that each segment repeats, in cut->header. */
static bool parse_gso(struct offload_cut *cut, const struct frame *frame, uint32_t have)
{
	const struct frame_offload *offload = &frame->offload;
	unsigned tags = 0, csum_offset;
	uint16_t type, field;
	bool routed = false;
	uint32_t at = 12;

	if (have < at + 2)
		return false;
	type = get16(cut->header + at);
	while ((type == TPID_8021Q || type == TPID_8021AD) && tags++ < TAGS_MAX) {
		at += 4;
		if (have < at + 2)
			return false;
		type = get16(cut->header + at);
	}
	cut->l3 = (uint16_t)(at + 2);
	if (type == ETHERTYPE_IPV4
		? !parse_ipv4(cut, have, frame->frame_len)
		: type != ETHERTYPE_IPV6 || !parse_ipv6(cut, have, frame->frame_len, &routed))
		return false;
	if (!type_matches(offload->gso_type, cut->version, cut->protocol))
		return false;
	if (cut->protocol == PROTOCOL_TCP ? !parse_tcp(cut, have)
					  : !parse_udp(cut, have, frame->frame_len))
		return false;
	csum_offset = csum_offset_of(cut->protocol);
	if (offload->flags & FRAME_CSUM_NEEDED) {
		if (offload->csum_start != cut->l4 || offload->csum_offset != csum_offset)
			return false;
		if (routed) {
			/* What the sender summed, without its length. */
			memcpy(&field, cut->header + cut->l4 + csum_offset, 2);
			cut->pseudo = field + (uint32_t)(uint16_t)~offload_fold(
						  sum_length(frame->frame_len - cut->l4));
		}
	} else if (routed) {
		return false;
	}
	return true;
}

/* Payload and its segments, once header_len is known. */
static int plan_segments(struct offload_cut *cut, const struct frame *frame)
{
	uint32_t payload = frame->frame_len - cut->header_len;
	uint64_t count;

	if (frame->offload.gso_size == 0)
		return -EINVAL;
	cut->mss = frame->offload.gso_size;
	count = payload ? (payload + cut->mss - 1) / cut->mss : 1;
	if (count > OFFLOAD_SEGMENTS_MAX)
		return -EINVAL;
	cut->count = (uint32_t)count;
	cut->left_bytes = payload;
	cut->packet_max = cut->header_len + (payload < cut->mss ? payload : cut->mss);
	return 0;
}

uint32_t offload_packet_max(const struct frame *frame)
{
	struct offload_cut cut;
	uint32_t have;

	if (frame->offload.gso_type == FRAME_GSO_NONE)
		return frame->frame_len;
	have = gather(frame, cut.header, OFFLOAD_HEADER_MAX);
	return parse_gso(&cut, frame, have) && plan_segments(&cut, frame) == 0 ? cut.packet_max : 0;
}

int offload_cut_begin(struct offload_cut *cut, const struct frame *frame, uint32_t caps)
{
	uint32_t have, skip;
	int status;

	memset(cut, 0, offsetof(struct offload_cut, header));
	cut->frame = frame;
	cut->missing = offload_missing(frame, caps);
	if (!chain_consistent(frame))
		return -EINVAL;
	have = gather(frame, cut->header, OFFLOAD_HEADER_MAX);
	if (cut->missing & OFFLOAD_NEED_OTHER)
		return -EOPNOTSUPP;
	if (cut->missing & OFFLOAD_NEED_GSO) {
		if (!parse_gso(cut, frame, have))
			return -EINVAL;
		status = plan_segments(cut, frame);
		if (status)
			return status;
	} else {
		cut->header_len = FRAME_LEN_MIN;
		if (cut->missing & OFFLOAD_NEED_CSUM) {
			if (!checksum_place_valid(frame))
				return -EINVAL;
			if (frame->offload.csum_start + frame->offload.csum_offset + 2u >
			    cut->header_len)
				cut->header_len = (uint16_t)(frame->offload.csum_start +
							     frame->offload.csum_offset + 2);
		}
		cut->count = 1;
		cut->left_bytes = frame->frame_len - cut->header_len;
		cut->mss = cut->left_bytes;
		cut->packet_max = frame->frame_len;
	}
	cut->at = frame;
	for (skip = cut->header_len; cut->at && skip >= cut->at->len; cut->at = cut->at->next)
		skip -= cut->at->len;
	cut->at_offset = skip;
	return 0;
}

/* The next run of payload, at most max bytes, moving on behind it. max is at most left_bytes. */
static const uint8_t *payload_run(struct offload_cut *cut, uint32_t max, uint32_t *len)
{
	const uint8_t *run;

	while (cut->at_offset == cut->at->len) {
		cut->at = cut->at->next;
		cut->at_offset = 0;
	}
	run = cut->at->data + cut->at_offset;
	*len = cut->at->len - cut->at_offset;
	if (*len > max)
		*len = max;
	cut->at_offset += *len;
	cut->left_bytes -= *len;
	return run;
}

static unsigned payload_runs(const struct offload_cut *cut, uint32_t bytes)
{
	const struct frame *at = cut->at;
	uint32_t offset = cut->at_offset, n;
	unsigned runs = 0;

	for (; bytes; at = at->next, offset = 0) {
		n = at->len - offset;
		if (n > bytes)
			n = bytes;
		bytes -= n;
		runs += n > 0;
	}
	return runs;
}

static uint32_t segment_payload(const struct offload_cut *cut)
{
	return cut->left_bytes < cut->mss ? cut->left_bytes : cut->mss;
}

/*
 * Writes the segment's headers; *sum becomes what the checksum has so far, its field counted as
 * 0. Called before the payload is taken.
 */
static void segment_header(const struct offload_cut *cut, uint8_t *to, uint32_t payload,
			   uint64_t *sum)
{
	uint8_t *ip = to + cut->l3, *l4 = to + cut->l4;
	uint32_t l4_len = cut->header_len - cut->l4 + payload;
	uint32_t pseudo = cut->pseudo + sum_length(l4_len);
	uint16_t field;
	uint8_t flags;

	memcpy(to, cut->header, cut->header_len);
	if (cut->version == 4) {
		put16(ip + 2, cut->l4 - cut->l3 + l4_len);
		put16(ip + 4, cut->ip_id + cut->index);
		put16(ip + 10, 0);
		put_checksum(ip + 10, offload_sum(ip, cut->l4 - cut->l3, 0), false);
	} else {
		put16(ip + 4, cut->l4 - cut->l3 - 40u + l4_len);
	}
	if (cut->protocol == PROTOCOL_TCP) {
		flags = cut->tcp_flags;
		if (cut->index > 0)
			flags &= (uint8_t)~TCP_CWR;
		if (payload < cut->left_bytes)
			flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		l4[13] = flags;
		put32(l4 + 4, cut->seq + cut->index * cut->mss);
	} else {
		put16(l4 + 4, l4_len);
	}
	/* The pseudo-header's sum stands in the field, whoever finishes the checksum. */
	field = offload_fold(pseudo);
	memcpy(l4 + csum_offset_of(cut->protocol), &field, 2);
	*sum = offload_sum(l4, cut->header_len - cut->l4, 0);
}

/* Headers of whatever is made next; *start: where its checksum begins, 0: it has none to finish. */
static void next_header(const struct offload_cut *cut, uint8_t *to, uint32_t payload, uint64_t *sum,
			uint32_t *start, uint32_t *offset)
{
	const struct frame_offload *offload = &cut->frame->offload;

	*start = 0;
	if (cut->protocol) {
		segment_header(cut, to, payload, sum);
		*start = cut->l4;
		*offset = csum_offset_of(cut->protocol);
		return;
	}
	memcpy(to, cut->header, cut->header_len);
	if (cut->missing & OFFLOAD_NEED_CSUM) {
		*start = offload->csum_start;
		*offset = offload->csum_offset;
		*sum = offload_sum(to + *start, cut->header_len - *start, 0);
	}
}

/* What the device still has to do with the segment. */
static struct frame_offload next_offload(const struct offload_cut *cut)
{
	struct frame_offload offload = cut->frame->offload;

	if (cut->protocol) {
		offload = (struct frame_offload){.hdr_len = cut->header_len};
		if (!(cut->missing & OFFLOAD_NEED_CSUM)) {
			offload.flags = FRAME_CSUM_NEEDED;
			offload.csum_start = cut->l4;
			offload.csum_offset = (uint16_t)csum_offset_of(cut->protocol);
		}
	} else if (cut->missing & OFFLOAD_NEED_CSUM) {
		offload.flags &= (uint8_t)~FRAME_CSUM_NEEDED;
	}
	return offload;
}

static void describe(const struct offload_cut *cut, struct frame *segment, uint8_t *data,
		     uint32_t len, uint32_t frame_len)
{
	*segment = *cut->frame;
	segment->data = data;
	segment->next = NULL;
	segment->slot = NULL;
	segment->pool = 0;
	segment->len = len;
	segment->frame_len = frame_len;
	segment->headroom = FRAME_HEADROOM;
	segment->offload = next_offload(cut);
}

int offload_cut_chain(struct offload_cut *cut, uint8_t *scratch, struct frame *chain, unsigned room)
{
	uint8_t *header = scratch + FRAME_HEADROOM;
	uint32_t payload, start, offset, len, done;
	uint64_t sum = 0;
	unsigned used = 1;
	bool finish;

	if (cut->index == cut->count)
		return 0;
	payload = segment_payload(cut);
	if (room < 1 + payload_runs(cut, payload))
		return -ENOBUFS;
	next_header(cut, header, payload, &sum, &start, &offset);
	finish = start && (cut->missing & OFFLOAD_NEED_CSUM);
	describe(cut, &chain[0], header, cut->header_len, cut->header_len + payload);
	for (done = 0; done < payload; done += len) {
		const uint8_t *run = payload_run(cut, payload - done, &len);

		if (finish)
			sum = sum_at(run, len, (cut->header_len - start + done) & 1, sum);
		chain[used - 1].next = &chain[used];
		chain[used] = (struct frame){.data = (uint8_t *)(uintptr_t)run, .len = len};
		used++;
	}
	if (finish)
		put_checksum(header + start + offset, sum, offset == UDP_CSUM_OFFSET);
	cut->index++;
	return (int)used;
}

int offload_cut_copy(struct offload_cut *cut, uint8_t *buffer, uint32_t buffer_bytes,
		     struct frame *segment)
{
	uint8_t *data = buffer + FRAME_HEADROOM;
	uint32_t payload, start, offset, len, done;
	uint64_t sum = 0;

	if (cut->index == cut->count)
		return 0;
	payload = segment_payload(cut);
	if (buffer_bytes < FRAME_HEADROOM + cut->header_len + payload)
		return -ENOBUFS;
	next_header(cut, data, payload, &sum, &start, &offset);
	for (done = 0; done < payload; done += len) {
		const uint8_t *run = payload_run(cut, payload - done, &len);

		memcpy(data + cut->header_len + done, run, len);
	}
	if (start && (cut->missing & OFFLOAD_NEED_CSUM)) {
		/* Summed from our copy, which nobody else writes and the cache still holds. */
		sum = sum_at(data + cut->header_len, payload, (cut->header_len - start) & 1, sum);
		put_checksum(data + start + offset, sum, offset == UDP_CSUM_OFFSET);
	}
	describe(cut, segment, data, cut->header_len + payload, cut->header_len + payload);
	segment->flags &= (uint8_t)~FRAME_SHARED;
	cut->index++;
	return 1;
}
