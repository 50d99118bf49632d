/*
 * parse: fields of a corpus, then every prefix of every frame in one piece and in fragments. Each
 * piece ends where a page without access begins, so an over-read dies even without a sanitizer.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "parse.h"

enum { FRAME_ROOM = 512, PAGE = 4096 };

struct sample {
	const char *name;
	uint8_t bytes[FRAME_ROOM];
	unsigned len;
	struct flow_key expected;
};

static uint8_t *guarded; /* FRAME_FRAGS_MAX pages, each followed by one without access */

static void put(struct sample *sample, const void *bytes, unsigned len)
{
	memcpy(sample->bytes + sample->len, bytes, len);
	sample->len += len;
}

static void put8(struct sample *sample, unsigned value)
{
	sample->bytes[sample->len++] = (uint8_t)value;
}

static void put16(struct sample *sample, unsigned value)
{
	put8(sample, value >> 8);
	put8(sample, value & 0xff);
}

static void put_zeros(struct sample *sample, unsigned len)
{
	while (len--)
		put8(sample, 0);
}

/* --- builders: bytes and the expected key side by side -------------------------------------- */

static void ethernet(struct sample *s, unsigned tags, unsigned type)
{
	static const uint8_t dst[] = {2, 0, 0, 0, 0, 9}, src[] = {2, 1, 2, 3, 4, 5};

	put(s, dst, 6);
	put(s, src, 6);
	memcpy(s->expected.eth_dst, dst, 6);
	memcpy(s->expected.eth_src, src, 6);
	if (tags == 2) {
		put16(s, 0x88a8);
		put16(s, 3u << 13 | 100);
	}
	if (tags) {
		put16(s, 0x8100);
		put16(s, 5u << 13 | 29);
	}
	put16(s, type);
	s->expected.eth_type = (uint16_t)type;
	if (tags) {
		s->expected.layers |= FLOW_TAGGED;
		s->expected.vlan_pcp = tags == 2 ? 3 : 5;
		s->expected.vid = tags == 2 ? 100 : 29;
	}
}

static void ipv4(struct sample *s, unsigned options, unsigned proto, unsigned payload,
		 unsigned fragment)
{
	static const uint8_t src[] = {10, 0, 0, 1}, dst[] = {192, 0, 2, 7};

	put8(s, 0x45 + options / 4);
	put8(s, 0xb8);
	put16(s, 20 + options + payload);
	put16(s, 0x1234);
	put16(s, fragment);
	put8(s, 63);
	put8(s, proto);
	put16(s, 0);
	put(s, src, 4);
	put(s, dst, 4);
	for (unsigned i = 0; i < options; i++)
		put8(s, 1);
	s->expected.ip_version = 4;
	s->expected.ip_tos = 0xb8;
	s->expected.ip_ttl = 63;
	s->expected.ip_proto = (uint8_t)proto;
	memcpy(s->expected.ip_src + 12, src, 4);
	memcpy(s->expected.ip_dst + 12, dst, 4);
	s->expected.layers |= FLOW_L3 | FLOW_IP;
}

static void ipv6(struct sample *s, unsigned next, unsigned payload)
{
	put8(s, 0x6b);
	put8(s, 0x80);
	put16(s, 0);
	put16(s, payload);
	put8(s, next);
	put8(s, 64);
	for (unsigned i = 0; i < 16; i++) {
		put8(s, 0x20 + i);
		s->expected.ip_src[i] = (uint8_t)(0x20 + i);
	}
	for (unsigned i = 0; i < 16; i++) {
		put8(s, 0x40 + i);
		s->expected.ip_dst[i] = (uint8_t)(0x40 + i);
	}
	s->expected.ip_version = 6;
	s->expected.ip_tos = 0xb8;
	s->expected.ip_ttl = 64;
	s->expected.ip_proto = (uint8_t)next;
	s->expected.layers |= FLOW_L3 | FLOW_IP;
}

static void ports(struct sample *s, uint16_t src, uint16_t dst)
{
	put16(s, src);
	put16(s, dst);
	s->expected.l4_src = src;
	s->expected.l4_dst = dst;
	s->expected.layers |= FLOW_L4 | FLOW_PORTS;
}

static void udp(struct sample *s)
{
	ports(s, 4789, 53);
	put16(s, 8);
	put16(s, 0);
}

static void tcp(struct sample *s, unsigned flags)
{
	ports(s, 40000, 443);
	put_zeros(s, 8);
	put8(s, 0x50);
	put8(s, flags);
	put_zeros(s, 6);
	s->expected.tcp_flags = (uint8_t)flags;
}

static void icmp(struct sample *s)
{
	put8(s, 8);
	put8(s, 3);
	put_zeros(s, 6);
	s->expected.l4_src = 8;
	s->expected.l4_dst = 3;
	s->expected.layers |= FLOW_L4;
}

static void extension(struct sample *s, unsigned next, unsigned length)
{
	put8(s, next);
	put8(s, length);
	put_zeros(s, 8 * length + 6);
	s->expected.ip_proto = (uint8_t)next;
}

/* --- the corpus ------------------------------------------------------------------------------ */

static struct sample samples[32];
static unsigned sample_count;

static struct sample *sample(const char *name)
{
	samples[sample_count].name = name;
	return &samples[sample_count++];
}

static void corpus_ipv4(void)
{
	struct sample *s;

	s = sample("udp");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 8, 0x4000);
	udp(s);
	s = sample("udp, padded to 60 bytes");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 8, 0);
	udp(s);
	put_zeros(s, 60 - s->len);
	s = sample("tcp in one tag, options");
	ethernet(s, 1, 0x0800);
	ipv4(s, 40, 6, 20, 0);
	tcp(s, 0x12);
	s = sample("icmp in two tags");
	ethernet(s, 2, 0x0800);
	ipv4(s, 4, 1, 8, 0);
	icmp(s);
	s = sample("first fragment");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 8, 0x2000);
	udp(s);
	s->expected.layers |= FLOW_FRAGMENT;
	s = sample("later fragment");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 8, 0x0040);
	put_zeros(s, 8);
	s->expected.layers |= FLOW_FRAGMENT | FLOW_LATER;
	s = sample("gre");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 47, 4, 0);
	put_zeros(s, 4);
	s = sample("udp whose length cuts the ports off, padded");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 2, 0);
	put_zeros(s, 26);
	s->expected.layers |= FLOW_BAD;
}

static void corpus_ipv6(void)
{
	struct sample *s;

	s = sample("tcp6");
	ethernet(s, 0, 0x86dd);
	ipv6(s, 6, 20);
	tcp(s, 0x02);
	s = sample("udp6 behind hop-by-hop, routing and destination options");
	ethernet(s, 1, 0x86dd);
	ipv6(s, 0, 8 + 24 + 16 + 8);
	extension(s, 43, 0);
	extension(s, 60, 2);
	extension(s, 17, 1);
	udp(s);
	s = sample("icmp6 behind AH");
	ethernet(s, 0, 0x86dd);
	ipv6(s, 51, 24 + 8);
	put8(s, 58);
	put8(s, 4);
	put_zeros(s, 22);
	icmp(s);
	s->expected.ip_proto = 58;
	s = sample("later fragment 6");
	ethernet(s, 0, 0x86dd);
	ipv6(s, 44, 8 + 8);
	put8(s, 6);
	put8(s, 0);
	put16(s, 0x0100);
	put_zeros(s, 4 + 8);
	s->expected.ip_proto = 6;
	s->expected.layers |= FLOW_FRAGMENT | FLOW_LATER;
	s = sample("more extension headers than are followed");
	ethernet(s, 0, 0x86dd);
	ipv6(s, 60, 8 * 9 + 8);
	for (unsigned i = 0; i < 9; i++)
		extension(s, i < 8 ? 60 : 17, 0);
	put_zeros(s, 8);
	s->expected.ip_proto = 60;
	s->expected.layers |= FLOW_BAD;
}

static void corpus_other(void)
{
	struct sample *s = sample("arp");

	ethernet(s, 0, 0x0806);
	put16(s, 1);
	put16(s, 0x0800);
	put8(s, 6);
	put8(s, 4);
	put16(s, 2);
	put_zeros(s, 6);
	put(s, "\x0a\x00\x00\x01", 4);
	put_zeros(s, 6);
	put(s, "\x0a\x00\x00\x02", 4);
	memcpy(s->expected.ip_src + 12, "\x0a\x00\x00\x01", 4);
	memcpy(s->expected.ip_dst + 12, "\x0a\x00\x00\x02", 4);
	s->expected.ip_proto = 2;
	s->expected.layers = FLOW_L3;
	s = sample("lldp");
	ethernet(s, 0, 0x88cc);
	put_zeros(s, 46);
	s = sample("a third tag is payload");
	ethernet(s, 2, 0x8100);
	put_zeros(s, 46);
	s = sample("ipv4 that says it is version 6");
	ethernet(s, 0, 0x0800);
	put8(s, 0x65);
	put_zeros(s, 45);
	s->expected.layers = FLOW_BAD;
	s = sample("ipv4 longer than the frame");
	ethernet(s, 0, 0x0800);
	ipv4(s, 0, 17, 100, 0);
	udp(s);
	s->expected.layers = FLOW_BAD;
	s->expected.ip_version = 0;
	s->expected.l4_src = s->expected.l4_dst = 0;
}

/* --- laying frames out -------------------------------------------------------------------------
 */

/* The first len bytes as fragments of the sizes given (the last size repeats), each before a gap.
 */
static struct frame *lay(const uint8_t *bytes, unsigned len, const unsigned *sizes, unsigned count)
{
	static struct frame chain[FRAME_FRAGS_MAX];
	unsigned used = 0, n = 0;

	do {
		unsigned part = sizes[n < count ? n : count - 1];
		uint8_t *end = guarded + (2 * n + 1) * PAGE;

		if (part > len - used || n == FRAME_FRAGS_MAX - 1)
			part = len - used;
		memcpy(end - part, bytes + used, part);
		chain[n] = (struct frame){.data = end - part, .len = part, .frame_len = part};
		if (n)
			chain[n - 1].next = &chain[n];
		used += part;
		n++;
	} while (used < len);
	chain[0].frame_len = len;
	return chain;
}

static void check_key(const struct sample *s, const struct flow_key *key)
{
	if (!CHECK(memcmp(key, &s->expected, sizeof(*key)) == 0))
		fprintf(stderr, "  %s: layers %x/%x proto %u/%u l4 %u,%u/%u,%u\n", s->name,
			key->layers, s->expected.layers, key->ip_proto, s->expected.ip_proto,
			key->l4_src, key->l4_dst, s->expected.l4_src, s->expected.l4_dst);
}

static void test_fields(void)
{
	static const unsigned whole[] = {FRAME_ROOM}, split[] = {1, 1, 13, 2, 7, 64};

	for (unsigned i = 0; i < sample_count; i++) {
		struct flow_key key;

		parse_flow(lay(samples[i].bytes, samples[i].len, whole, 1), &key);
		check_key(&samples[i], &key);
		parse_flow(lay(samples[i].bytes, samples[i].len, split, 6), &key);
		check_key(&samples[i], &key);
	}
}

/* However a prefix is cut up, it parses the same; and it has no layer that the whole lacks. */
static void test_prefixes(void)
{
	static const unsigned cuts[][4] = {
	    {1, 1, 1, 64}, {13, 1, 3, 64}, {14, 64, 64, 64}, {15, 2, 9, 33}, {18, 20, 8, 64}};
	static const unsigned whole[] = {FRAME_ROOM};

	for (unsigned i = 0; i < sample_count; i++) {
		for (unsigned len = 0; len <= samples[i].len; len++) {
			struct flow_key key, again;

			parse_flow(lay(samples[i].bytes, len, whole, 1), &key);
			for (unsigned c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++) {
				parse_flow(lay(samples[i].bytes, len, cuts[c], 4), &again);
				CHECK(memcmp(&key, &again, sizeof(key)) == 0);
			}
			CHECK(!(key.layers & ~samples[i].expected.layers & ~FLOW_BAD));
			CHECK(len >= 14 || key.layers == FLOW_BAD);
		}
	}
}

static void test_l2(void)
{
	static const unsigned whole[] = {FRAME_ROOM}, split[] = {1, 5, 6, 2, 64};

	for (unsigned i = 0; i < sample_count; i++) {
		const struct sample *s = &samples[i];
		unsigned tags = s->expected.vlan_pcp == 5 ? 1 : s->expected.vlan_pcp == 3 ? 2 : 0;

		for (unsigned len = 0; len <= s->len; len++) {
			for (unsigned c = 0; c < 2; c++) {
				struct frame *frame =
				    lay(s->bytes, len, c ? split : whole, c ? 5 : 1);
				struct l2 l2;
				bool good = parse_l2(frame, &l2);

				if (!CHECK(good == (len >= 14 + 4 * tags)) || !good)
					continue;
				CHECK(l2.dst == 0x020000000009 && l2.src == 0x020102030405);
				CHECK(frame->tags == tags && frame->l3_offset == 14 + 4 * tags);
				CHECK(frame->ethertype == s->expected.eth_type);
				CHECK(l2.tci == (tags == 2   ? 3u << 13 | 100
						 : tags == 1 ? 5u << 13 | 29
							     : 0));
			}
		}
	}
}

static void test_noise(void)
{
	static const unsigned whole[] = {FRAME_ROOM}, split[] = {3, 30, 1, 64};
	uint64_t state = 7;

	for (unsigned round = 0; round < 200000; round++) {
		const struct sample *s = &samples[random_below(&state, sample_count)];
		struct flow_key key, again;
		uint8_t bytes[FRAME_ROOM];
		unsigned len = random_below(&state, s->len + 1);

		memcpy(bytes, s->bytes, sizeof(bytes));
		for (unsigned n = random_below(&state, 4) + 1; n--;)
			bytes[random_below(&state, s->len)] = (uint8_t)random_next(&state);
		parse_flow(lay(bytes, len, whole, 1), &key);
		parse_flow(lay(bytes, len, split, 4), &again);
		CHECK(memcmp(&key, &again, sizeof(key)) == 0);
	}
}

static void test_hash(void)
{
	struct flow_key there = samples[0].expected, back = there, other = there;

	memcpy(back.ip_src, there.ip_dst, 16);
	memcpy(back.ip_dst, there.ip_src, 16);
	back.l4_src = there.l4_dst;
	back.l4_dst = there.l4_src;
	other.l4_src++;
	CHECK(flow_hash(&there) == flow_hash(&back));
	CHECK(flow_hash(&there) != flow_hash(&other));
}

int main(void)
{
	guarded = mmap(NULL, 2ul * FRAME_FRAGS_MAX * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!CHECK(guarded != MAP_FAILED))
		return 1;
	for (unsigned i = 0; i < FRAME_FRAGS_MAX; i++)
		CHECK(mprotect(guarded + (2 * i + 1) * PAGE, PAGE, PROT_NONE) == 0);
	corpus_ipv4();
	corpus_ipv6();
	corpus_other();
	test_fields();
	test_l2();
	test_prefixes();
	test_noise();
	test_hash();
	return check_result();
}
