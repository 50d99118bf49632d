/*
 * Bytes of strangers through everything that reads them on a frame's way: parse, vlan, offload.
 * Input: 10 bytes of offload state, capabilities, a vlan port, where to cut, the frame. Each
 * fragment is an allocation of exactly its size, so that the sanitizer sees a read of one byte
 * too many. Beyond memory safety it checks what must hold for every input:
 *
 *   - a frame that parses has its header inside itself, and parses alike in one piece and in many
 *   - what a port lets in, it may let out; a header that vlan_header makes is 12 or 16 bytes
 *   - segments carry each payload byte once, as the count that was announced, within the maximum
 *   - the original's bytes never change
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "offload.h"
#include "parse.h"
#include "vlan.h"

enum { PIECES_MAX = 4, CONTROL_BYTES = 10 + 1 + 3 + PIECES_MAX };

struct input {
	struct frame_offload offload;
	uint32_t caps;
	struct vlan_port port;
	uint8_t cuts[PIECES_MAX];
	const uint8_t *bytes;
	uint32_t len;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void input_read(struct input *input, const uint8_t *data, size_t size)
{
	memset(input, 0, sizeof(*input));
	memcpy(&input->offload, data, sizeof(input->offload));
	input->caps = data[10] & 0x1f;
	input->port.mode = data[11] & 3;
	input->port.pvid = (uint16_t)(1 + data[12] % VLAN_VID_MAX);
	input->port.tagged[data[13] & 63] = ~(uint64_t)0;
	memcpy(input->cuts, data + 14, PIECES_MAX);
	input->bytes = data + CONTROL_BYTES;
	input->len = (uint32_t)(size - CONTROL_BYTES);
	if (input->len > FRAME_LEN_MAX)
		input->len = FRAME_LEN_MAX;
}

static uint8_t *exact_copy(const uint8_t *bytes, uint32_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	assert(copy);
	memcpy(copy, bytes, len);
	return copy;
}

/* A chain of up to PIECES_MAX fragments; returns how many. The first holds at least a byte. */
static unsigned chain_make(const struct input *input, struct frame *chain, bool cut)
{
	uint32_t at = 0;
	unsigned count = 0;

	while (at < input->len || count == 0) {
		uint32_t len = input->len - at;
		struct frame *piece = &chain[count];

		if (cut && count + 1 < PIECES_MAX && input->cuts[count] < len)
			len = input->cuts[count] ? input->cuts[count] : 1;
		memset(piece, 0, sizeof(*piece));
		piece->data = exact_copy(input->bytes + at, len);
		piece->len = len;
		if (count)
			chain[count - 1].next = piece;
		at += len;
		count++;
	}
	chain[0].frame_len = input->len;
	chain[0].offload = input->offload;
	return count;
}

static void chain_free(struct frame *chain, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		free(chain[i].data);
}

static void check_unchanged(const struct input *input, const struct frame *chain, unsigned count)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < count; i++) {
		assert(memcmp(chain[i].data, input->bytes + at, chain[i].len) == 0);
		at += chain[i].len;
	}
	assert(at == input->len);
}

static void check_vlan(const struct input *input, struct frame *frame, const struct l2 *l2)
{
	uint8_t old[VLAN_HEADER_MAX] = {0};
	uint8_t header[VLAN_HEADER_MAX + VLAN_TAG_BYTES];
	enum vlan_edit edit;
	unsigned consumed, len;

	if (!vlan_in(&input->port, frame, l2->tci))
		return;
	assert(frame->vid >= 1 && frame->vid <= VLAN_VID_MAX);
	assert(vlan_member(&input->port, frame->vid));
	edit = vlan_out(&input->port, frame);
	if (edit == VLAN_EDIT_NONE)
		return;
	frame_peek(frame, old, sizeof(old));
	len = vlan_header(edit, frame, old, header, &consumed);
	assert(len == 12 || len == 16);
	assert(consumed == 12 || consumed == 16);
	assert(consumed <= frame->frame_len);
}

static void check_parse(const struct input *input, struct frame *pieces, struct frame *whole)
{
	struct l2 first = {0}, second = {0};
	struct flow_key one, other;
	bool sound = parse_l2(pieces, &first);

	assert(sound == parse_l2(whole, &second));
	if (!sound)
		return;
	assert(first.dst == second.dst && first.src == second.src && first.tci == second.tci);
	assert(pieces->l3_offset <= pieces->frame_len && pieces->tags <= PARSE_TAGS_MAX);
	parse_flow(pieces, &one);
	parse_flow(whole, &other);
	assert(memcmp(&one, &other, sizeof(one)) == 0);
	assert(flow_hash(&one) != 0);
	check_vlan(input, pieces, &first);
}

/* Sums of bytes: a cheap witness that payload neither vanishes nor doubles. */
static void check_cut(const struct input *input, const struct frame *frame)
{
	static uint8_t buffer[FRAME_HEADROOM + FRAME_LEN_MAX + OFFLOAD_HEADER_MAX];
	struct offload_cut cut;
	struct frame segment;
	uint64_t payload_bytes = 0;
	uint32_t count = 0;
	int used;

	if (offload_cut_begin(&cut, frame, input->caps))
		return;
	assert(cut.count >= 1 && cut.count <= OFFLOAD_SEGMENTS_MAX);
	while ((used = offload_cut_copy(&cut, buffer, sizeof(buffer), &segment)) > 0) {
		assert(segment.frame_len == segment.len && segment.len <= cut.packet_max);
		assert(segment.len >= cut.header_len);
		assert(offload_missing(&segment, input->caps) == 0);
		payload_bytes += segment.len - cut.header_len;
		count++;
	}
	assert(used == 0 && count == cut.count);
	assert(payload_bytes + cut.header_len == frame->frame_len);
}

static void check_chain(const struct input *input, const struct frame *frame)
{
	static uint8_t scratch[OFFLOAD_SCRATCH_BYTES];
	struct frame chain[OFFLOAD_CHAIN_MAX];
	struct offload_cut cut;
	uint32_t count = 0;
	int used;

	if (offload_cut_begin(&cut, frame, input->caps))
		return;
	while ((used = offload_cut_chain(&cut, scratch, chain, OFFLOAD_CHAIN_MAX)) > 0) {
		uint32_t sum = 0;

		for (const struct frame *piece = chain; piece; piece = piece->next)
			sum += piece->len;
		assert(sum == chain[0].frame_len && sum <= cut.packet_max);
		count++;
	}
	assert(used == 0 && count == cut.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame pieces[PIECES_MAX], whole[PIECES_MAX];
	unsigned piece_count, whole_count;
	struct input input;

	if (size <= CONTROL_BYTES)
		return 0;
	input_read(&input, data, size);
	piece_count = chain_make(&input, pieces, true);
	whole_count = chain_make(&input, whole, false);
	check_parse(&input, pieces, whole);
	(void)offload_packet_max(pieces);
	check_cut(&input, pieces);
	check_chain(&input, pieces);
	check_unchanged(&input, pieces, piece_count);
	check_unchanged(&input, whole, whole_count);
	(void)offload_checksum(whole); /* the one that writes */
	chain_free(pieces, piece_count);
	chain_free(whole, whole_count);
	return 0;
}
