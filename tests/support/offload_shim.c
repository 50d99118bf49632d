/* What tests/support/offload.py calls: bytes in, segments out, for fastpath/src/offload.c. */
#include <errno.h>
#include <string.h>

#include "offload.h"

struct shim_segment {
	uint32_t len;
	struct frame_offload left; /* what is left for the device */
};

int shim_cut(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
	     const struct frame_offload *offload, uint32_t caps, int by_copy, uint8_t *out,
	     uint32_t out_bytes, struct shim_segment *segments, unsigned segments_max);
int shim_checksum(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
		  const struct frame_offload *offload);
uint32_t shim_packet_max(uint8_t *bytes, uint32_t len, const struct frame_offload *offload);

/* Lays the fragments over the bytes; lengths add up to len. */
static void chain_make(struct frame *chain, uint8_t *bytes, uint32_t len, const uint32_t *lengths,
		       unsigned fragments, const struct frame_offload *offload)
{
	memset(chain, 0, fragments * sizeof(*chain));
	for (unsigned i = 0; i < fragments; i++) {
		chain[i].data = bytes;
		chain[i].len = lengths[i];
		chain[i].next = i + 1 < fragments ? &chain[i + 1] : NULL;
		bytes += lengths[i];
	}
	chain[0].frame_len = len;
	chain[0].flags = FRAME_SHARED;
	chain[0].offload = *offload;
}

/* Returns the segments made, back to back in out, or -errno. */
int shim_cut(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
	     const struct frame_offload *offload, uint32_t caps, int by_copy, uint8_t *out,
	     uint32_t out_bytes, struct shim_segment *segments, unsigned segments_max)
{
	static uint8_t buffer[FRAME_HEADROOM + FRAME_LEN_MAX];
	struct frame chain[FRAME_FRAGS_MAX], made[OFFLOAD_CHAIN_MAX];
	struct offload_cut cut;
	unsigned count = 0;
	uint32_t at = 0;
	int status;

	chain_make(chain, bytes, len, lengths, fragments, offload);
	status = offload_cut_begin(&cut, chain, caps);
	if (status)
		return status;
	for (;;) {
		if (by_copy)
			status = offload_cut_copy(&cut, buffer, sizeof(buffer), made);
		else
			status = offload_cut_chain(&cut, buffer, made, OFFLOAD_CHAIN_MAX);
		if (status <= 0)
			break;
		if (count == segments_max || at + made->frame_len > out_bytes)
			return -ENOSPC;
		segments[count].len = made->frame_len;
		segments[count++].left = made->offload;
		for (const struct frame *part = made; part; part = part->next) {
			memcpy(out + at, part->data, part->len);
			at += part->len;
		}
	}
	return status ? status : count == cut.count ? (int)count : -EPROTO;
}

/* Finishes the checksum in place. */
int shim_checksum(uint8_t *bytes, uint32_t len, const uint32_t *lengths, unsigned fragments,
		  const struct frame_offload *offload)
{
	struct frame chain[FRAME_FRAGS_MAX];

	chain_make(chain, bytes, len, lengths, fragments, offload);
	chain[0].flags = 0;
	return offload_checksum(chain);
}

uint32_t shim_packet_max(uint8_t *bytes, uint32_t len, const struct frame_offload *offload)
{
	struct frame frame;

	chain_make(&frame, bytes, len, &len, 1, offload);
	return offload_packet_max(&frame);
}
