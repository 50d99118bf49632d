/*
 * offload.c under libFuzzer: any bytes with any offload state, as one piece and as a chain, for a
 * destination with any capabilities. Nothing is read or written out of bounds, and what comes
 * out is the input: the segments' payloads, put together, are the original's; every IPv4 header
 * sums up; both ways of cutting make the same bytes; a checksum that was finished is right.
 *
 * Input: 10 bytes of struct frame_offload, 1 of capabilities and REPAIR, 1 of fragment length, 1
 * of frame length, the frame. Lengths from 0xf0 on make large frames out of short inputs. REPAIR
 * writes the lengths that a frame's headers must have, which mutation alone rarely finds.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "offload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PREFIX = 13, REPAIR = 0x80, ROOM = FRAME_LEN_MAX + FRAME_HEADROOM };

static void require(bool good)
{
	if (!good)
		abort();
}

/* A copy of its own for each fragment, so that the sanitizer sees its ends. */
static void chain_make(struct frame *chain, const uint8_t *bytes, uint32_t len, unsigned step)
{
	unsigned count = 0;

	memset(chain, 0, FRAME_FRAGS_MAX * sizeof(*chain));
	chain[0].frame_len = len;
	do {
		uint32_t n = step && step < len && count + 1 < FRAME_FRAGS_MAX ? step : len;

		chain[count].data = malloc(n ? n : 1);
		require(chain[count].data);
		memcpy(chain[count].data, bytes, n);
		chain[count].len = n;
		if (count)
			chain[count - 1].next = &chain[count];
		count++;
		bytes += n;
		len -= n;
	} while (len);
}

static void chain_free(struct frame *chain)
{
	for (struct frame *f = chain; f; f = f->next)
		free(f->data);
}

static uint32_t flatten(const struct frame *frame, uint8_t *to)
{
	uint32_t len = 0;

	for (; frame; frame = frame->next) {
		memcpy(to + len, frame->data, frame->len);
		len += frame->len;
	}
	return len;
}

static uint32_t plain_sum(const uint8_t *bytes, uint32_t len)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < len; i++) {
		sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

/* One segment of a cut that was segmented; returns its payload bytes. */
static uint32_t segment_check(const struct offload_cut *cut, const uint8_t *segment, uint32_t len,
			      const uint8_t *whole, uint32_t done)
{
	uint32_t payload = len - cut->header_len;

	require(len >= cut->header_len && payload <= cut->mss);
	require(memcmp(segment, whole, cut->l3) == 0);
	require(memcmp(segment + cut->header_len, whole + cut->header_len + done, payload) == 0);
	if (cut->version == 4)
		require(plain_sum(segment + cut->l3, (uint32_t)cut->l4 - cut->l3) == 0xffff);
	return payload;
}

static void cut_check(const struct frame *frame, const uint8_t *whole, uint32_t caps)
{
	static uint8_t copy[ROOM], scratch[OFFLOAD_SCRATCH_BYTES], flat[ROOM];
	struct frame chain[OFFLOAD_CHAIN_MAX], segment;
	struct offload_cut by_chain, by_copy;
	uint32_t done = 0, len;
	unsigned count = 0;
	int status, used;

	status = offload_cut_begin(&by_chain, frame, caps);
	require(status == 0 || status == -EINVAL || status == -EOPNOTSUPP);
	require(offload_cut_begin(&by_copy, frame, caps) == status);
	if (status)
		return;
	require(by_chain.count >= 1 && by_chain.count <= OFFLOAD_SEGMENTS_MAX);
	if (by_chain.count > 40 && whole[0] & 15)
		return; /* a hundred times as long as others, and seldom news */
	while ((used = offload_cut_chain(&by_chain, scratch, chain, OFFLOAD_CHAIN_MAX)) > 0) {
		require(offload_cut_copy(&by_copy, copy, sizeof(copy), &segment) == 1);
		len = flatten(chain, flat);
		require(len == chain[0].frame_len && len == segment.len);
		require(len <= by_chain.packet_max);
		require(memcmp(flat, segment.data, len) == 0);
		if (by_chain.protocol) {
			done += segment_check(&by_chain, flat, len, whole, done);
		} else if (!(by_chain.missing & OFFLOAD_NEED_CSUM)) {
			require(memcmp(flat, whole, len) == 0);
			done = len - by_chain.header_len;
		} else {
			/* With the field's old value in it, the old sum came out. */
			uint32_t start = frame->offload.csum_start;
			uint32_t field = start + frame->offload.csum_offset;

			require(memcmp(flat, whole, field) == 0);
			require(memcmp(flat + field + 2, whole + field + 2, len - field - 2) == 0);
			done = len - by_chain.header_len;
		}
		count++;
	}
	require(used == 0 && count == by_chain.count);
	require(offload_cut_copy(&by_copy, copy, sizeof(copy), &segment) == 0);
	require(done == frame->frame_len - by_chain.header_len);
	require(!(offload_missing(&segment, caps) & (OFFLOAD_NEED_FINISH | OFFLOAD_NEED_FRAGS)));
}

/* In place and aside must come to the same checksum. */
static void checksum_check(struct frame *frame)
{
	static uint8_t copy[ROOM], flat[ROOM];
	struct offload_cut cut;
	struct frame segment;

	frame->offload.gso_type = FRAME_GSO_NONE;
	frame->offload.flags |= FRAME_CSUM_NEEDED;
	if (frame->frame_len < FRAME_LEN_MIN || offload_cut_begin(&cut, frame, 0)) {
		require(frame->frame_len < FRAME_LEN_MIN || offload_checksum(frame) == -EINVAL);
		return;
	}
	require(offload_cut_copy(&cut, copy, sizeof(copy), &segment) == 1);
	require(offload_checksum(frame) == 0);
	require(flatten(frame, flat) == segment.len);
	require(memcmp(flat, segment.data, segment.len) == 0);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* The lengths of IP and UDP, and where the checksum is, for frames without extension headers. */
static void repair(uint8_t *frame, uint32_t len, struct frame_offload *offload)
{
	uint32_t l3 = 14, l4;
	uint8_t protocol;

	while (l3 + 60 < len && (frame[l3 - 2] == 0x81 || frame[l3 - 2] == 0x88) && l3 < 26)
		l3 += 4;
	if (l3 + 60 >= len)
		return;
	if (frame[l3 - 2] == 0x08) {
		put16(frame + l3 + 2, len - l3);
		l4 = l3 + (frame[l3] & 15u) * 4;
		protocol = frame[l3 + 9];
	} else {
		put16(frame + l3 + 4, len - l3 - 40);
		l4 = l3 + 40;
		protocol = frame[l3 + 6];
	}
	if (protocol == 17)
		put16(frame + l4 + 4, len - l4);
	offload->csum_start = (uint16_t)l4;
	offload->csum_offset = protocol == 17 ? 6 : 16;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t whole[FRAME_LEN_MAX];
	struct frame chain[FRAME_FRAGS_MAX];
	struct frame_offload offload;
	uint32_t len;

	if (size <= PREFIX)
		return 0;
	len = (uint32_t)(size - PREFIX);
	if (len > FRAME_LEN_MAX)
		len = FRAME_LEN_MAX;
	memcpy(whole, data + PREFIX, len);
	if (data[12] >= 0xf0) {
		uint32_t large = (data[12] & 15u) * 100;

		if (data[12] == 0xff && data[11] == 0xff)
			large = 65000; /* rarely: a run takes a hundred times as long */
		for (; len < large; len++)
			whole[len] = (uint8_t)len;
	}
	memcpy(&offload, data, sizeof(offload));
	if (data[10] & REPAIR)
		repair(whole, len, &offload);
	chain_make(chain, whole, len, data[11]);
	chain[0].offload = offload;
	cut_check(chain, whole, data[10] & 31);
	require(offload_packet_max(chain) <= len);
	checksum_check(chain);
	chain_free(chain);
	return 0;
}
