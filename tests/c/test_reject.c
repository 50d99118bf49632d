/*
 * Answers of reject: who gets one, what is in it. What scapy thinks of them is asked in
 * tests/property/test_actions.py.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "parse.h"
#include "reject.h"

enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58, SYN = 2, RST = 4, ACK = 16, FIN = 1 };

static uint8_t bytes[70000], answer[REJECT_BYTES_MAX];

static uint32_t ethernet(unsigned tags, uint16_t type)
{
	uint32_t at = 12;

	memcpy(bytes, "\x02\x00\x00\x00\x00\x0b\x02\x00\x00\x00\x00\x0a", 12);
	for (unsigned t = 0; t < tags; t++, at += 4)
		memcpy(bytes + at, t ? "\x81\x00\x00\x07" : "\x88\xa8\xa0\x05", 4);
	bytes[at] = (uint8_t)(type >> 8);
	bytes[at + 1] = (uint8_t)type;
	return at + 2;
}

/* payload: bytes behind the IP header. Returns where they begin. */
static uint32_t ipv4(uint32_t at, uint8_t proto, uint32_t payload)
{
	static const uint8_t header[20] = {0x45, 0, 0,	0, 0x12, 0x34, 0,  0, 64, 0,
					   0,	 0, 10, 0, 0,	 1,    10, 0, 0,  2};

	memcpy(bytes + at, header, sizeof(header));
	bytes[at + 2] = (uint8_t)((20 + payload) >> 8);
	bytes[at + 3] = (uint8_t)(20 + payload);
	bytes[at + 9] = proto;
	return at + 20;
}

static uint32_t ipv6(uint32_t at, uint8_t proto, uint32_t payload)
{
	memset(bytes + at, 0, 40);
	bytes[at] = 0x60;
	bytes[at + 4] = (uint8_t)(payload >> 8);
	bytes[at + 5] = (uint8_t)payload;
	bytes[at + 6] = proto;
	bytes[at + 7] = 64;
	memcpy(bytes + at + 8, "\x20\x01\x0d\xb8", 4);
	memcpy(bytes + at + 24, "\x20\x01\x0d\xb8", 4);
	bytes[at + 23] = 1;
	bytes[at + 39] = 2;
	return at + 40;
}

static void tcp(uint32_t at, uint8_t flags)
{
	static const uint8_t header[20] = {0x9c, 0x40, 0, 80, 0xff, 0xff, 0xff, 0xfe,
					   0,	 0,    1, 2,  0x50, 0,	  0x20, 0};

	memcpy(bytes + at, header, sizeof(header));
	bytes[at + 13] = flags;
}

/* Fragments of `first` bytes and the rest, when first is not 0. */
static uint32_t reject(uint32_t len, uint32_t first)
{
	struct frame rest = {.data = bytes + first, .len = len - first};
	struct frame frame = {.data = bytes, .len = len, .frame_len = len};
	struct flow_key key;
	struct l2 l2;

	if (first) {
		frame.len = first;
		frame.next = &rest;
	}
	CHECK(parse_l2(&frame, &l2));
	parse_flow(&frame, &key);
	memset(answer, 0xee, sizeof(answer));
	return reject_build(&frame, &key, answer);
}

/* Sum of n bytes, from a pseudo-header's sum on, is that of a sound checksum. */
static bool sound(const uint8_t *at, uint32_t n, uint32_t sum)
{
	for (uint32_t i = 0; i + 1 < n; i += 2)
		sum += load_be16(at + i);
	if (n & 1)
		sum += (uint32_t)at[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static bool sound_l4(const uint8_t *ip, uint32_t len)
{
	uint32_t sum = 0;

	if (ip[0] >> 4 == 4) {
		if (ip[9] != ICMP) {
			for (unsigned i = 12; i < 20; i += 2)
				sum += load_be16(ip + i);
			sum += ip[9] + len - 20;
		}
		return sound(ip, 20, 0) && load_be16(ip + 2) == len &&
		       sound(ip + 20, len - 20, sum);
	}
	for (unsigned i = 8; i < 40; i += 2)
		sum += load_be16(ip + i);
	sum += ip[6] + len - 40;
	return load_be16(ip + 4) == len - 40 && sound(ip + 40, len - 40, sum);
}

static void swapped(uint32_t head)
{
	CHECK(memcmp(answer, bytes + 6, 6) == 0 && memcmp(answer + 6, bytes, 6) == 0);
	CHECK(memcmp(answer + 12, bytes + 12, head - 12) == 0);
}

/* RFC 9293, section 3.10.7.1: the reset's numbers come from the segment's. */
static void resets(unsigned tags)
{
	static const struct {
		uint8_t flags;
		uint32_t payload;
	} cases[] = {{SYN, 0}, {SYN, 10}, {SYN | FIN, 0}, {FIN, 7},
		     {0, 100}, {ACK, 9},  {ACK | SYN, 0}};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t head = ethernet(tags, 0x0800);
		uint32_t at = ipv4(head, TCP, 20 + cases[i].payload);
		uint32_t segment =
		    cases[i].payload + !!(cases[i].flags & SYN) + !!(cases[i].flags & FIN);
		const uint8_t *to = answer + at;

		tcp(at, cases[i].flags);
		/* as it comes over Ethernet: padded */
		CHECK(reject(at + 120, i % 2 ? head + 3 : 0) == at + 20);
		swapped(head);
		CHECK(sound_l4(answer + head, 40));
		CHECK(load_be16(to) == 80 && load_be16(to + 2) == 40000 && to[12] == 0x50);
		if (cases[i].flags & ACK) {
			CHECK(to[13] == RST && load_be32(to + 4) == 0x0102);
		} else {
			CHECK(to[13] == (RST | ACK) && load_be32(to + 4) == 0);
			CHECK(load_be32(to + 8) == 0xfffffffe + segment);
		}
	}
}

static void resets_ipv6(void)
{
	uint32_t head = ethernet(0, 0x86dd);
	uint32_t at = ipv6(head, 0, 8 + 20 + 5); /* a hop-by-hop header in between */

	memcpy(bytes + at, "\x06\x00\x01\x04\x00\x00\x00\x00", 8);
	tcp(at + 8, SYN);
	CHECK(reject(at + 33, 0) == head + 60);
	swapped(head);
	CHECK(sound_l4(answer + head, 60) && answer[head + 6] == TCP);
	CHECK(load_be32(answer + head + 48) == 0xfffffffe + 6);
	CHECK(answer[head + 23] == 2 && answer[head + 39] == 1);
}

static void unreachables(void)
{
	for (uint32_t payload = 8; payload < 3000; payload += 331) {
		uint32_t head = ethernet(1, 0x0800), quoted = 20 + payload, len;

		len = ipv4(head, UDP, payload) + payload;
		quoted = quoted < 548 ? quoted : 548;
		CHECK(reject(len, payload % 2 ? 20 : 0) == head + 28 + quoted);
		swapped(head);
		CHECK(answer[head + 20] == 3 && answer[head + 21] == 13);
		CHECK(sound_l4(answer + head, 28 + quoted));
		CHECK(memcmp(answer + head + 28, bytes + head, quoted) == 0);

		head = ethernet(2, 0x86dd);
		quoted = 40 + payload;
		len = ipv6(head, UDP, payload) + payload;
		quoted = quoted < 1232 ? quoted : 1232;
		CHECK(reject(len, 0) == head + 48 + quoted);
		swapped(head);
		CHECK(answer[head + 40] == 1 && answer[head + 41] == 1);
		CHECK(sound_l4(answer + head, 48 + quoted));
		CHECK(memcmp(answer + head + 48, bytes + head, quoted) == 0);
	}
}

/* --- nothing is said ---------------------------------------------------------------------------
 */

/* A UDP packet over `version`, with one byte of the frame changed. */
static uint32_t changed(uint8_t version, uint32_t offset, uint8_t value)
{
	uint32_t head = ethernet(0, version == 4 ? 0x0800 : 0x86dd);
	uint32_t at = version == 4 ? ipv4(head, UDP, 60) : ipv6(head, UDP, 60);

	memset(bytes + at, 0, 60);
	bytes[offset] = value;
	return reject(at + 60, 0);
}

static uint32_t icmp(uint8_t version, uint8_t type)
{
	uint32_t head = ethernet(0, version == 4 ? 0x0800 : 0x86dd);
	uint32_t at = version == 4 ? ipv4(head, ICMP, 60) : ipv6(head, ICMPV6, 60);

	memset(bytes + at, 0, 60);
	bytes[at] = type;
	return reject(at + 60, 0);
}

static void silences(void)
{
	uint32_t at;

	CHECK(changed(4, 14, 0x45) && changed(6, 14, 0x60));
	CHECK(!changed(4, 0, 0x01) && !changed(4, 0, 0xff) && !changed(4, 6, 0x03));
	CHECK(!changed(4, 30, 224) && !changed(4, 30, 255) && !changed(4, 26, 0) &&
	      !changed(4, 26, 239));
	CHECK(!changed(6, 38, 0xff) && !changed(6, 22, 0xff));
	CHECK(!changed(4, 21, 1));    /* a later fragment */
	CHECK(changed(4, 20, 0x20));  /* the first one */
	CHECK(!changed(4, 16, 0xff)); /* longer than the frame */
	CHECK(!changed(4, 12, 0x09)); /* no IP */
	CHECK(icmp(4, 8) && icmp(4, 0) && icmp(4, 13));
	CHECK(!icmp(4, 3) && !icmp(4, 4) && !icmp(4, 5) && !icmp(4, 11) && !icmp(4, 12));
	CHECK(icmp(6, 128) && icmp(6, 129) && !icmp(6, 1) && !icmp(6, 4) && !icmp(6, 127) &&
	      !icmp(6, 137));
	/* from nobody */
	at = ipv6(ethernet(0, 0x86dd), UDP, 60);
	memset(bytes + 22, 0, 16);
	CHECK(!reject(at + 60, 0));
	/* a reset, and a header that is longer than its segment */
	at = ipv4(ethernet(0, 0x0800), TCP, 20);
	tcp(at, RST | ACK);
	CHECK(!reject(at + 20, 0));
	tcp(at, ACK);
	CHECK(reject(at + 20, 0));
	bytes[at + 12] = 0xf0;
	CHECK(!reject(at + 20, 0));
}

/* Bytes of no sort make it read or write beyond its bounds: for the sanitizers. */
static void hostile(void)
{
	uint64_t state = 5;

	for (unsigned n = 0; n < 200000; n++) {
		uint32_t head = ethernet(random_below(&state, 3), n % 2 ? 0x0800 : 0x86dd);
		uint32_t len, at;

		at = n % 2 ? ipv4(head, TCP, 40) : ipv6(head, n % 3 ? TCP : 0, 60);
		tcp(at, (uint8_t)random_next(&state));
		len = 14 + random_below(&state, at + 60);
		for (unsigned i = 0; i < 4; i++)
			bytes[12 + random_below(&state, len)] = (uint8_t)random_next(&state);
		len = reject(len < head ? head : len, n % 5 ? 0 : 1 + random_below(&state, 13));
		CHECK(len <= REJECT_BYTES_MAX);
	}
}

int main(void)
{
	for (unsigned tags = 0; tags < 3; tags++)
		resets(tags);
	resets_ipv6();
	unreachables();
	silences();
	hostile();
	return check_result();
}
