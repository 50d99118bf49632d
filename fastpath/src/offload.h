/*
 * What a destination cannot take unfinished is finished here: checksums that a device was to
 * compute, and TCP or UDP payload that a device was to cut into packets (virtio 1.2, 5.1.6).
 *
 * A `cut` turns one frame into 1..n frames a given destination can take. It covers every case
 * with one loop: GSO becomes segments; a frame that only lacks its checksum, or whose bytes must
 * not be written (FRAME_SHARED), or that must become one piece, becomes one "segment".
 *
 *     struct offload_cut cut;
 *
 *     status = offload_cut_begin(&cut, frame, caps);       0 or a reason to drop the frame
 *     while ((used = offload_cut_chain(&cut, scratch, chain, room)) > 0)
 *             ... chain[0] is a frame; send it, then go on ...
 *
 * offload_cut_chain copies the headers only: {headers in scratch} -> {payload, still in the
 * original's buffers}, for ports that take chains. offload_cut_copy writes headers and payload
 * into one buffer, for those that do not. The original is never written, so it may be shared.
 *
 * Every length is found by parsing the frame's own headers; hdr_len is ignored. The headers are
 * copied once and only then judged, so memory that a foreign process writes cannot change
 * between the check and the use.
 *
 * Runs on: workers. Bytes in, bytes out: no port, no system call, no allocation. Scratch and
 * descriptors are the caller's and must live until the segments are sent.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"

enum {
	OFFLOAD_HEADER_MAX = 256, /* Ethernet, tags, IP with options or extensions, TCP */
	OFFLOAD_SCRATCH_BYTES = FRAME_HEADROOM + OFFLOAD_HEADER_MAX,
	OFFLOAD_SEGMENTS_MAX = 1366, /* 64 KB at 48 bytes, the smallest MSS Linux ever uses */
	OFFLOAD_CHAIN_MAX = 1 + FRAME_FRAGS_MAX /* descriptors one segment can need */
};

/* What a frame asks of its destination. Bits 0-4 have the values of enum port_cap. */
enum offload_need {
	OFFLOAD_NEED_CSUM = 1 << 0,
	OFFLOAD_NEED_TSO4 = 1 << 1,
	OFFLOAD_NEED_TSO6 = 1 << 2,
	OFFLOAD_NEED_USO = 1 << 3,
	OFFLOAD_NEED_FRAGS = 1 << 4,
	OFFLOAD_NEED_OTHER = 1 << 5 /* UFO or an unknown gso_type: cannot be completed here */
};
enum {
	OFFLOAD_NEED_GSO =
	    OFFLOAD_NEED_TSO4 | OFFLOAD_NEED_TSO6 | OFFLOAD_NEED_USO | OFFLOAD_NEED_OTHER,
	OFFLOAD_NEED_FINISH = OFFLOAD_NEED_CSUM | OFFLOAD_NEED_GSO /* what a policy refuses */
};

static inline uint32_t offload_needs(const struct frame *frame)
{
	uint32_t needs = frame->next ? OFFLOAD_NEED_FRAGS : 0;

	if (frame->offload.flags & FRAME_CSUM_NEEDED)
		needs |= OFFLOAD_NEED_CSUM;
	switch (frame->offload.gso_type & ~FRAME_GSO_ECN) {
	case FRAME_GSO_NONE:
		return needs;
	case FRAME_GSO_TCPV4:
		return needs | OFFLOAD_NEED_CSUM | OFFLOAD_NEED_TSO4;
	case FRAME_GSO_TCPV6:
		return needs | OFFLOAD_NEED_CSUM | OFFLOAD_NEED_TSO6;
	case FRAME_GSO_UDP_L4:
		return needs | OFFLOAD_NEED_CSUM | OFFLOAD_NEED_USO;
	default:
		return needs | OFFLOAD_NEED_CSUM | OFFLOAD_NEED_OTHER;
	}
}

/*
 * What a destination with these capabilities (enum port_cap) lacks for the frame; 0: send it as
 * it is. A device that cannot finish a checksum cannot cut segments either.
 */
static inline uint32_t offload_missing(const struct frame *frame, uint32_t caps)
{
	if (!(caps & OFFLOAD_NEED_CSUM))
		caps &= ~(uint32_t)OFFLOAD_NEED_GSO;
	return offload_needs(frame) & ~caps;
}

/*
 * Finishes the checksum in place and clears the offload state's flag: for a frame that is not
 * shared and lacks nothing else. -EINVAL: csum_start or csum_offset contradict the frame, or
 * name a place behind its first OFFLOAD_HEADER_MAX bytes.
 */
int offload_checksum(struct frame *frame);

/*
 * Bytes of the largest packet this frame becomes on a wire, Ethernet header and tags included:
 * what an MTU is compared with. frame_len where there is no GSO; 0 where the GSO state is invalid
 * or of a kind that cannot be completed (ask offload_missing first).
 */
uint32_t offload_packet_max(const struct frame *frame);

struct offload_cut {
	/* for the caller to read after begin */
	uint32_t count;	     /* segments in all: book count - 1 as `segments` */
	uint32_t packet_max; /* bytes of the largest segment */
	/* the rest is private */
	uint32_t index; /* segments made so far */
	uint32_t missing;
	const struct frame *frame;
	const struct frame *at; /* fragment in which the next segment's payload begins */
	uint32_t at_offset;
	uint32_t left_bytes; /* payload not yet in a segment */
	uint32_t mss;
	uint32_t pseudo; /* sum of the pseudo-header without the length, not folded */
	uint16_t l3;
	uint16_t l4;
	uint16_t header_len;
	uint8_t protocol; /* 6 or 17; 0: not segmented */
	uint8_t version;  /* of IP: 4 or 6 */
	uint32_t seq;
	uint16_t ip_id;
	uint8_t tcp_flags;
	uint8_t header[OFFLOAD_HEADER_MAX];
};

/*
 * Prepares the frame for a destination with `caps`. 0; -EINVAL: the offload state contradicts
 * the frame's bytes or asks for more than OFFLOAD_SEGMENTS_MAX segments (DROP_OFFLOAD_INVALID);
 * -EOPNOTSUPP: cannot be completed in software (DROP_OFFLOAD_REFUSED). The frame must stay as it
 * is until the last segment is made.
 */
int offload_cut_begin(struct offload_cut *cut, const struct frame *frame, uint32_t caps);

/*
 * Makes the next segment: headers at scratch + FRAME_HEADROOM (scratch has OFFLOAD_SCRATCH_BYTES),
 * descriptors in chain[0..room). Returns the descriptors used; 0 after the last segment;
 * -ENOBUFS when room is too small (OFFLOAD_CHAIN_MAX always suffices): nothing was made, call
 * again. The descriptors inherit in_port, vid, flags and parse results; pool is 0; offload says
 * what is left for the device.
 */
int offload_cut_chain(struct offload_cut *cut, uint8_t *scratch, struct frame *chain,
		      unsigned room);

/*
 * The same as one piece at buffer + FRAME_HEADROOM, described by *segment. Returns 1; 0 after the
 * last; -ENOBUFS when buffer_bytes is smaller than FRAME_HEADROOM and the segment.
 */
int offload_cut_copy(struct offload_cut *cut, uint8_t *buffer, uint32_t buffer_bytes,
		     struct frame *segment);

/*
 * One's complement sum (RFC 1071) of bytes added to sum, as if the bytes began at an even
 * offset; not folded, not inverted. Sums of at most FRAME_LEN_MAX bytes never overflow.
 */
uint64_t offload_sum(const uint8_t *bytes, uint32_t len, uint64_t sum);

/* Folds to 16 bits, in the byte order of the summed words. */
static inline uint16_t offload_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}
