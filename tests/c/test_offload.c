/*
 * offload: checksums against a byte-wise sum, segments against the rules of RFC 791, 768, 9293
 * and 3168, and states that contradict their frame. The comparison with scapy and with the
 * kernel's own segmentation is in tests/property/test_offload.py and tests/ports/test_tap.py.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "offload.h"

static unsigned failures;

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	if (failures++ < 20)
		fprintf(stderr, "line %d: %s\n", line, what);
}
#define CHECK(condition) check(condition, #condition, __LINE__)

enum { ROOM = 70000, CAPS_NONE = 0, CAPS_CSUM = OFFLOAD_NEED_CSUM | OFFLOAD_NEED_FRAGS };

static uint32_t random_state = 1;

static uint32_t random_u32(void)
{
	random_state = random_state * 1664525 + 1013904223;
	return random_state >> 8;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* The sum by RFC 1071's definition, big-endian words, one byte at a time. */
static uint32_t plain_sum(const uint8_t *bytes, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i < len; i++) {
		sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

struct sample {
	uint8_t bytes[ROOM];
	struct frame frame;
	uint32_t l3, l4, header_len;
	uint8_t version, protocol;
};

static struct sample sample;

/* A frame with unfinished checksum as a Linux stack hands it to a device. */
static void sample_make(uint8_t version, uint8_t protocol, uint32_t payload, uint16_t mss,
			unsigned tags, unsigned extension)
{
	uint8_t *b = sample.bytes;
	uint32_t at = 12, l4_len, sum;

	for (uint32_t i = 0; i < ROOM; i++)
		b[i] = (uint8_t)random_u32();
	b[0] = 2;
	for (unsigned i = 0; i < tags; i++, at += 4)
		put16(b + at, i == 0 && tags == 2 ? 0x88a8 : 0x8100);
	put16(b + at, version == 4 ? 0x0800 : 0x86dd);
	sample.l3 = at + 2;
	l4_len = payload + (protocol == 6 ? 32 : 8);
	at = sample.l3;
	if (version == 4) {
		b[at] = (uint8_t)(0x45 + extension / 4);
		put16(b + at + 2, 20 + extension + l4_len);
		put16(b + at + 6, 0x4000);
		b[at + 9] = protocol;
		sum = plain_sum(b + at + 12, 8, protocol);
		sample.l4 = at + 20 + extension;
	} else {
		b[at] = 0x60;
		put16(b + at + 4, extension + l4_len);
		b[at + 6] = extension ? 60 : protocol;
		sum = plain_sum(b + at + 8, 32, protocol);
		at += 40;
		if (extension) {
			b[at] = protocol;
			b[at + 1] = (uint8_t)(extension / 8 - 1);
		}
		sample.l4 = at + extension;
	}
	sum = (sum & 0xffff) + (sum >> 16) + l4_len;
	sum = (sum & 0xffff) + (sum >> 16);
	if (protocol == 6) {
		b[sample.l4 + 12] = 0x80;
		b[sample.l4 + 13] = 0x99; /* CWR ACK PSH FIN */
		put16(b + sample.l4 + 16, sum);
	} else {
		put16(b + sample.l4 + 4, l4_len);
		put16(b + sample.l4 + 6, sum);
	}
	sample.version = version;
	sample.protocol = protocol;
	sample.header_len = sample.l4 + (protocol == 6 ? 32 : 8);
	sample.frame = (struct frame){
	    .data = b,
	    .len = sample.l4 + l4_len,
	    .frame_len = sample.l4 + l4_len,
	    .in_port = 7,
	    .vid = 9,
	    .flags = FRAME_SHARED,
	    .offload = {.flags = FRAME_CSUM_NEEDED,
			.gso_type = protocol == 17 ? FRAME_GSO_UDP_L4
				    : version == 4 ? FRAME_GSO_TCPV4
						   : FRAME_GSO_TCPV6,
			.gso_size = mss,
			.csum_start = (uint16_t)sample.l4,
			.csum_offset = protocol == 6 ? 16 : 6},
	};
}

static void sample_plain(void)
{
	sample.frame.offload.gso_type = FRAME_GSO_NONE;
	sample.frame.offload.gso_size = 0;
}

/* Splits the frame into fragments at random places, some of them empty. */
static void sample_split(struct frame *fragments, unsigned count)
{
	uint32_t at = 0, left = sample.frame.frame_len;

	for (unsigned i = 0; i < count; i++) {
		uint32_t n = i + 1 == count ? left : random_u32() % (left + 1);

		fragments[i] = (struct frame){.data = sample.bytes + at, .len = n};
		fragments[i].next = i + 1 < count ? &fragments[i + 1] : NULL;
		at += n;
		left -= n;
	}
	sample.frame.len = fragments[0].len;
	sample.frame.next = fragments[0].next;
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

static bool ip_checksum_right(const uint8_t *bytes)
{
	const uint8_t *ip = bytes + sample.l3;

	return sample.version == 6 || plain_sum(ip, (ip[0] & 15u) * 4, 0) == 0xffff;
}

static bool l4_checksum_right(const uint8_t *bytes, uint32_t len)
{
	const uint8_t *ip = bytes + sample.l3;
	uint32_t sum = sample.version == 4 ? plain_sum(ip + 12, 8, sample.protocol)
					   : plain_sum(ip + 8, 32, sample.protocol);
	uint32_t l4_len = len - sample.l4;

	sum += l4_len;
	sum = (sum & 0xffff) + (sum >> 16);
	return plain_sum(bytes + sample.l4, l4_len, sum) == 0xffff;
}

/* One segment against the sample: everything but the checksum. */
static void check_segment(const uint8_t *b, uint32_t len, unsigned index, bool last)
{
	const uint8_t *whole = sample.bytes, *l4 = b + sample.l4;
	uint32_t mss = sample.frame.offload.gso_size;
	uint32_t payload = len - sample.header_len;

	CHECK(memcmp(b, whole, sample.l3 + 2) == 0);
	CHECK(memcmp(b + sample.header_len, whole + sample.header_len + index * mss, payload) == 0);
	CHECK(last ? payload <= mss : payload == mss);
	if (sample.version == 4) {
		CHECK(get16(b + sample.l3 + 2) == len - sample.l3);
		CHECK(get16(b + sample.l3 + 4) == (uint16_t)(get16(whole + sample.l3 + 4) + index));
		CHECK(memcmp(b + sample.l3 + 12, whole + sample.l3 + 12,
			     sample.l4 - sample.l3 - 12) == 0);
	} else {
		CHECK(get16(b + sample.l3 + 4) == len - sample.l3 - 40);
		CHECK(memcmp(b + sample.l3 + 6, whole + sample.l3 + 6, sample.l4 - sample.l3 - 6) ==
		      0);
	}
	CHECK(ip_checksum_right(b));
	if (sample.protocol == 6) {
		CHECK(get32(l4 + 4) == get32(whole + sample.l4 + 4) + index * mss);
		CHECK(l4[13] == (0x10 | (index == 0 ? 0x80 : 0) | (last ? 0x09 : 0)));
		CHECK(memcmp(l4 + 18, whole + sample.l4 + 18, 14) == 0);
	} else {
		CHECK(get16(l4 + 4) == len - sample.l4);
	}
}

/* Cuts the sample as chains and as copies; both must be the same bytes, and the right ones. */
static void check_cut(uint32_t caps)
{
	static uint8_t scratch[OFFLOAD_SCRATCH_BYTES], copy[ROOM], flat[ROOM], before[ROOM];
	struct frame chain[OFFLOAD_CHAIN_MAX], segment;
	struct offload_cut by_chain, by_copy;
	uint32_t payload = sample.frame.frame_len - sample.header_len, done = 0, len;
	unsigned index = 0;
	int used;

	memcpy(before, sample.bytes, ROOM);
	CHECK(offload_cut_begin(&by_chain, &sample.frame, caps) == 0);
	CHECK(offload_cut_begin(&by_copy, &sample.frame, caps) == 0);
	CHECK(by_chain.packet_max == offload_packet_max(&sample.frame));
	while ((used = offload_cut_chain(&by_chain, scratch, chain, OFFLOAD_CHAIN_MAX)) > 0) {
		bool last = index + 1 == by_chain.count;

		CHECK(offload_cut_copy(&by_copy, copy, sizeof(copy), &segment) == 1);
		len = flatten(chain, flat);
		CHECK(len == chain[0].frame_len && len == segment.frame_len && len == segment.len);
		CHECK(len <= by_chain.packet_max);
		CHECK(memcmp(flat, segment.data, len) == 0);
		CHECK(segment.in_port == 7 && segment.vid == 9 && !(segment.flags & FRAME_SHARED));
		check_segment(flat, len, index, last);
		if (caps & OFFLOAD_NEED_CSUM) {
			CHECK(chain[0].offload.flags == FRAME_CSUM_NEEDED);
			CHECK(segment.offload.flags == FRAME_CSUM_NEEDED);
			CHECK(offload_checksum(&segment) == 0);
			CHECK(l4_checksum_right(segment.data, len));
		} else {
			CHECK(!frame_has_offload(&segment) && !frame_has_offload(chain));
			CHECK(l4_checksum_right(flat, len));
		}
		done += len - sample.header_len;
		index++;
	}
	CHECK(used == 0 && offload_cut_copy(&by_copy, copy, sizeof(copy), &segment) == 0);
	CHECK(index == by_chain.count && done == payload);
	CHECK(memcmp(before, sample.bytes, ROOM) == 0);
}

static void test_segments(void)
{
	static const uint32_t payloads[] = {0, 1, 1448, 1449, 2896, 14480, 65000};
	struct frame fragments[FRAME_FRAGS_MAX];

	for (unsigned kind = 0; kind < 4 * 3 * 2; kind++) {
		uint8_t version = kind & 1 ? 6 : 4, protocol = kind & 2 ? 17 : 6;
		unsigned tags = kind / 4 % 3, extension = kind / 12 ? 24 : 0;

		for (unsigned i = 0; i < sizeof(payloads) / sizeof(*payloads); i++) {
			sample_make(version, protocol, payloads[i], 1448, tags, extension);
			check_cut(CAPS_NONE);
			check_cut(CAPS_CSUM);
			sample_split(fragments, 1 + random_u32() % FRAME_FRAGS_MAX);
			check_cut(CAPS_NONE);
			check_cut(CAPS_CSUM);
		}
		sample_make(version, protocol, 60001, 61, tags, extension);
		check_cut(CAPS_NONE);
	}
	/* A frame that says where its checksum stands need not say so to be cut. */
	sample_make(4, 6, 5000, 1000, 0, 0);
	sample.frame.offload.flags = 0;
	check_cut(CAPS_NONE);
}

static void test_checksum(void)
{
	struct frame fragments[FRAME_FRAGS_MAX], segment;
	static uint8_t copy[ROOM];
	struct offload_cut cut;

	for (unsigned round = 0; round < 400; round++) {
		sample_make(round & 1 ? 6 : 4, round & 2 ? 17 : 6, random_u32() % 3000, 0,
			    round % 3, round & 8 ? 16 : 0);
		sample_plain();
		if (round & 4)
			sample_split(fragments, 1 + random_u32() % FRAME_FRAGS_MAX);
		CHECK(offload_cut_begin(&cut, &sample.frame, CAPS_NONE) == 0 && cut.count == 1);
		CHECK(offload_cut_copy(&cut, copy, sizeof(copy), &segment) == 1);
		CHECK(l4_checksum_right(segment.data, segment.len));
		CHECK(!frame_has_offload(&segment));
		CHECK(offload_checksum(&sample.frame) == 0);
		CHECK(l4_checksum_right(sample.bytes, sample.frame.frame_len));
		CHECK(memcmp(segment.data, sample.bytes, segment.len) == 0);
		CHECK(offload_cut_copy(&cut, copy, sizeof(copy), &segment) == 0);
	}
	/* No protocol has its checksum at an odd place, but all three ways agree on what it is. */
	for (unsigned round = 0; round < 100; round++) {
		static uint8_t scratch[OFFLOAD_SCRATCH_BYTES], flat[ROOM];
		struct frame chain[OFFLOAD_CHAIN_MAX];

		sample_make(4, 17, random_u32() % 300, 0, 0, 0);
		sample_plain();
		sample.frame.offload.csum_start = (uint16_t)(14 + random_u32() % 20);
		sample.frame.offload.csum_offset = (uint16_t)(random_u32() % 8);
		CHECK(offload_cut_begin(&cut, &sample.frame, CAPS_NONE) == 0);
		CHECK(offload_cut_copy(&cut, copy, sizeof(copy), &segment) == 1);
		CHECK(offload_cut_begin(&cut, &sample.frame, CAPS_NONE) == 0);
		CHECK(offload_cut_chain(&cut, scratch, chain, OFFLOAD_CHAIN_MAX) > 0);
		CHECK(flatten(chain, flat) == segment.len);
		CHECK(memcmp(flat, segment.data, segment.len) == 0);
		CHECK(offload_checksum(&sample.frame) == 0);
		CHECK(memcmp(sample.bytes, segment.data, segment.len) == 0);
	}
	/* UDP: a sum of 0 is written as ffff. 24 bytes of zero whose pseudo sum is ffff. */
	memset(sample.bytes, 0, ROOM);
	sample.frame = (struct frame){.data = sample.bytes, .len = 58, .frame_len = 58};
	sample.frame.offload =
	    (struct frame_offload){.flags = FRAME_CSUM_NEEDED, .csum_start = 34, .csum_offset = 6};
	put16(sample.bytes + 40, 0xffff);
	CHECK(offload_checksum(&sample.frame) == 0 && get16(sample.bytes + 40) == 0xffff);
	sample.frame.offload.flags = FRAME_CSUM_NEEDED;
	sample.frame.offload.csum_offset = 16;
	put16(sample.bytes + 40, 0);
	put16(sample.bytes + 50, 0xffff);
	CHECK(offload_checksum(&sample.frame) == 0 && get16(sample.bytes + 50) == 0);
}

static void test_sum(void)
{
	static uint8_t bytes[4096];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)random_u32();
	for (unsigned round = 0; round < 4000; round++) {
		uint32_t at = random_u32() % 64, len = random_u32() % 600;
		uint16_t sum = offload_fold(offload_sum(bytes + at, len, 0));

		CHECK(get16((uint8_t *)&sum) == plain_sum(bytes + at, len, 0));
	}
	memset(bytes, 0xff, sizeof(bytes));
	CHECK(offload_fold(offload_sum(bytes, sizeof(bytes), 0)) == 0xffff);
}

static int begin(uint32_t caps)
{
	struct offload_cut cut;

	return offload_cut_begin(&cut, &sample.frame, caps);
}

/* Each line spoils one thing of a good frame. */
#define SPOILED(status, spoil)                                                                     \
	do {                                                                                       \
		sample_make(4, 6, 5000, 1000, 1, 0);                                               \
		CHECK(begin(CAPS_NONE) == 0);                                                      \
		spoil;                                                                             \
		CHECK(begin(CAPS_NONE) == (status));                                               \
	} while (0)

static void test_invalid(void)
{
	struct frame_offload *offload = &sample.frame.offload;
	uint8_t *b = sample.bytes;

	SPOILED(-EINVAL, offload->gso_size = 0);
	SPOILED(-EINVAL, offload->gso_size = 3); /* 1,667 segments */
	SPOILED(0, offload->gso_size = 65535);	 /* fits one packet */
	SPOILED(-EINVAL, offload->gso_type = FRAME_GSO_TCPV6);
	SPOILED(-EINVAL, offload->gso_type = FRAME_GSO_UDP_L4);
	SPOILED(-EOPNOTSUPP, offload->gso_type = FRAME_GSO_UDP);
	SPOILED(-EOPNOTSUPP, offload->gso_type = 0x7f);
	SPOILED(0, offload->gso_type |= FRAME_GSO_ECN);
	SPOILED(-EINVAL, offload->csum_start++);
	SPOILED(-EINVAL, offload->csum_offset = 6);
	SPOILED(0, offload->hdr_len = 1); /* a hint */
	SPOILED(-EINVAL, b[sample.l3] = 0x44);
	SPOILED(-EINVAL, b[sample.l3] = 0x65);
	SPOILED(-EINVAL, b[sample.l3 + 3]++);
	SPOILED(-EINVAL, b[sample.l3 + 6] = 0x20); /* a fragment */
	SPOILED(-EINVAL, b[sample.l3 + 7] = 1);
	SPOILED(-EINVAL, b[sample.l3 + 9] = 17);
	SPOILED(-EINVAL, b[sample.l4 + 12] = 0x40);
	SPOILED(-EINVAL, b[16] = 0x86);
	SPOILED(-EINVAL, sample.frame.len--);
	SPOILED(-EINVAL, sample.frame.len = sample.frame.frame_len = sample.l4 + 19);
	SPOILED(-EINVAL, sample.frame.len = sample.frame.frame_len = 13);
	sample_make(6, 17, 5000, 1000, 0, 16);
	CHECK(begin(CAPS_NONE) == 0);
	b[sample.l3 + 41] = 255; /* the extension ends behind what a header may have */
	CHECK(begin(CAPS_NONE) == -EINVAL);
	sample_make(6, 17, 5000, 1000, 0, 0);
	b[sample.l4 + 5]++;
	CHECK(begin(CAPS_NONE) == -EINVAL);

	sample_make(4, 6, 100, 0, 0, 0);
	sample_plain();
	offload->csum_start = (uint16_t)(sample.frame.frame_len - 17);
	CHECK(begin(CAPS_NONE) == -EINVAL && offload_checksum(&sample.frame) == -EINVAL);
	offload->csum_start = 13;
	CHECK(begin(CAPS_NONE) == -EINVAL && offload_checksum(&sample.frame) == -EINVAL);
	offload->csum_start = offload->csum_offset = 65535;
	CHECK(begin(CAPS_NONE) == -EINVAL && offload_checksum(&sample.frame) == -EINVAL);
}

static void test_missing(void)
{
	uint32_t pieces = OFFLOAD_NEED_CSUM | OFFLOAD_NEED_TSO4, all = pieces | OFFLOAD_NEED_FRAGS;
	struct frame fragments[3], segment;
	static uint8_t copy[ROOM];
	struct offload_cut cut;

	sample_make(4, 6, 5000, 1000, 0, 0);
	CHECK(offload_missing(&sample.frame, all) == 0);
	CHECK(offload_missing(&sample.frame, CAPS_CSUM) == OFFLOAD_NEED_TSO4);
	CHECK(offload_missing(&sample.frame, OFFLOAD_NEED_TSO4) ==
	      (OFFLOAD_NEED_TSO4 | OFFLOAD_NEED_CSUM));
	CHECK(offload_packet_max(&sample.frame) == sample.header_len + 1000);
	sample.frame.offload.gso_type = FRAME_GSO_UDP;
	CHECK(offload_missing(&sample.frame, 0x1f) & OFFLOAD_NEED_OTHER);
	/* Only the chain is in the way: the offload state stays. */
	sample.frame.offload.gso_type = FRAME_GSO_TCPV4;
	sample_split(fragments, 3);
	CHECK(offload_missing(&sample.frame, pieces) == OFFLOAD_NEED_FRAGS);
	CHECK(offload_cut_begin(&cut, &sample.frame, pieces) == 0);
	CHECK(cut.count == 1);
	CHECK(offload_cut_copy(&cut, copy, 1000, &segment) == -ENOBUFS);
	CHECK(offload_cut_copy(&cut, copy, sizeof(copy), &segment) == 1 && !segment.next);
	CHECK(memcmp(segment.data, sample.bytes, segment.len) == 0);
	CHECK(memcmp(&segment.offload, &sample.frame.offload, sizeof(segment.offload)) == 0);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void speed(void)
{
	static uint8_t buffers[64][FRAME_HEADROOM + 1600], scratch[64][OFFLOAD_SCRATCH_BYTES];
	struct frame chain[OFFLOAD_CHAIN_MAX], segment;
	struct offload_cut cut;
	volatile uint16_t sink;
	unsigned rounds = 4000, i;
	double start, gb;

	sample_make(4, 6, 64000, 1448, 0, 0);
	gb = rounds * (double)sample.frame.frame_len / 1e9;
	start = now_s();
	for (i = 0; i < rounds; i++)
		sink = offload_fold(offload_sum(sample.bytes, sample.frame.frame_len, i));
	(void)sink;
	printf("checksum %.1f GB/s", gb / (now_s() - start));
	start = now_s();
	for (i = 0; i < rounds; i++) {
		offload_cut_begin(&cut, &sample.frame, CAPS_NONE);
		while (offload_cut_chain(&cut, scratch[cut.index & 63], chain, 8) > 0)
			;
	}
	printf(", segments by reference %.1f GB/s", gb / (now_s() - start));
	start = now_s();
	for (i = 0; i < rounds; i++) {
		offload_cut_begin(&cut, &sample.frame, CAPS_NONE);
		while (offload_cut_copy(&cut, buffers[cut.index & 63], sizeof(buffers[0]),
					&segment) > 0)
			;
	}
	printf(", by copy %.1f GB/s\n", gb / (now_s() - start));
}

int main(int argc, char **argv)
{
	test_sum();
	test_checksum();
	test_segments();
	test_invalid();
	test_missing();
	if (argc > 1 && strcmp(argv[1], "--speed") == 0)
		speed();
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
