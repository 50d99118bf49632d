/*
 * The loops of rules_hits.h, for whatever vectors the including file is compiled for.
 *
 * Runs on: workers.
 */
#pragma once

#include "action.h"
#include "flow_cache_lines.h"
#include "parse.h"
#include "parse_plain.h"
#include "rules_hits.h"

enum { AHEAD = 8 }; /* frames whose bytes are on their way while others are parsed */

/* For the others. */
__attribute__((noinline)) static void key_long(struct rules_work *work,
					       const struct rules_stage *stage,
					       const struct frame *frame, unsigned n)
{
	struct flow_key key;

	parse_flow(frame, &key);
	rules_mask(&key, &stage->needs, &work->masked[n]);
}

#ifdef __AVX512VBMI__
/* --- keys of IPv4 as parse_plain makes them, all bytes at once ---------------------------------
 */

enum { VECTOR_BYTES = 48 }; /* of a frame: Ethernet, IPv4 and TCP up to its flags */
enum { KIND_OTHER, KIND_UDP, KIND_TCP, KIND_ICMP, KINDS };

#define BYTES(from, to) ((UINT64_MAX >> (63 - (to))) & (UINT64_MAX << (from)))

/* Which bytes of a key come from the packet, by kind, and from where in it. */
#define KEY_COMMON (BYTES(0, 13) | BYTES(32, 35) | BYTES(48, 54))
static const uint64_t kind_bytes[KINDS] = {
    [KIND_OTHER] = KEY_COMMON,
    [KIND_UDP] = KEY_COMMON | BYTES(56, 59),
    [KIND_TCP] = KEY_COMMON | BYTES(56, 60),
    [KIND_ICMP] = KEY_COMMON | BYTES(56, 56) | BYTES(58, 58),
};
#define FROM_COMMON                                                                                \
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 12, [32] = 26, 27, 28, 29, [48] = 30, 31, 32,    \
						      33, 23, 15, 22, 0
static const _Alignas(64) uint8_t kind_from[KINDS][64] = {
    [KIND_OTHER] = {FROM_COMMON},
    [KIND_UDP] = {FROM_COMMON, 35, 34, 37, 36},
    [KIND_TCP] = {FROM_COMMON, 35, 34, 37, 36, 47},
    [KIND_ICMP] = {FROM_COMMON, 34, 0, 35},
};
/* The rest of it. */
static const _Alignas(64) struct flow_key kind_key[KINDS] = {
    [KIND_OTHER] = {.ip_version = 4, .layers = FLOW_L3 | FLOW_IP},
    [KIND_UDP] = {.ip_version = 4, .layers = FLOW_L3 | FLOW_IP | FLOW_L4 | FLOW_PORTS},
    [KIND_TCP] = {.ip_version = 4, .layers = FLOW_L3 | FLOW_IP | FLOW_L4 | FLOW_PORTS},
    [KIND_ICMP] = {.ip_version = 4, .layers = FLOW_L3 | FLOW_IP | FLOW_L4},
};
static const _Alignas(64) struct flow_key from_frame = {.vid = UINT16_MAX, .in_port = UINT16_MAX};
static_assert(offsetof(struct frame, vid) == offsetof(struct frame, in_port) + 2 &&
		  offsetof(struct flow_key, in_port) == offsetof(struct flow_key, vid) + 2,
	      "the upper half of a word of four bytes and the lower half of the next one");
static const uint8_t kind_least[KINDS] = {20, 28, 40, 24}; /* bytes of a packet */
static const uint8_t kind_of[256] = {
    [PROTO_ICMP] = KIND_ICMP, [PROTO_TCP] = KIND_TCP, [PROTO_UDP] = KIND_UDP};

/* IPv4 without options, no fragment; of TCP, a header that is long enough. */
static const _Alignas(64) uint8_t plain_mask[64] = {
    [12] = 0xff, [13] = 0xff, [14] = 0xff, [20] = 0x3f, [21] = 0xff};
static const _Alignas(64) uint8_t plain_value[64] = {[12] = 0x08, [14] = 0x45};
static const uint64_t kind_data_offset[KINDS] = {[KIND_TCP] = BYTES(46, 46)};

/* Byte 23, from what was loaded: in memory it may be another one by now. */
static inline uint8_t vector_proto(__m512i packet)
{
	__m128i second = _mm256_extracti128_si256(_mm512_castsi512_si256(packet), 1);

	return (uint8_t)_mm_extract_epi8(second, 23 - 16);
}

static inline void keys_make(struct rules_work *work, const struct rules_stage *stage,
			     struct frame *const *frames, unsigned count)
{
	const __m512i needs = _mm512_loadu_si512(&stage->needs);
	const __m512i frame_mask = _mm512_load_si512(&from_frame);
	const __m512i mask = _mm512_load_si512(plain_mask), value = _mm512_load_si512(plain_value);
	const __m512i least_offset = _mm512_set1_epi8(0x50);

	for (unsigned n = 0; n < count; n++) {
		const struct frame *frame = frames[n];
		const uint8_t *at = frame->data;
		uint32_t bytes, whole = frame->frame_len - FRAME_LEN_MIN;
		__m512i packet, key, id;
		uint64_t bad;
		unsigned kind;

		__builtin_prefetch(frames[n + AHEAD < count ? n + AHEAD : n]->data);
		if (__builtin_expect(frame->len < VECTOR_BYTES ||
					 frame->offload.gso_type != FRAME_GSO_NONE,
				     0)) {
			key_long(work, stage, frame, n);
			continue;
		}
		packet = _mm512_maskz_loadu_epi8(BYTES(0, VECTOR_BYTES - 1), at);
		bytes = __builtin_bswap16((uint16_t)plain_load(at + 16, 2));
		kind = kind_of[vector_proto(packet)];
		bad = _mm512_cmpneq_epi8_mask(_mm512_and_si512(packet, mask), value) |
		      _mm512_mask_cmplt_epu8_mask(kind_data_offset[kind], packet, least_offset);
		if (__builtin_expect(bad || bytes < kind_least[kind] || bytes > whole, 0)) {
			key_long(work, stage, frame, n);
			continue;
		}
		id = _mm512_set1_epi32((int)plain_load((const uint8_t *)&frame->in_port, 4));
		key = _mm512_maskz_permutexvar_epi8(kind_bytes[kind],
						    _mm512_load_si512(kind_from[kind]), packet);
		key = _mm512_ternarylogic_epi64(key, id, frame_mask, 0xf8); /* a | (b & c) */
		key = _mm512_ternarylogic_epi64(key, _mm512_load_si512(&kind_key[kind]), needs,
						0xa8); /* (a | b) & c */
		_mm512_store_si512(&work->masked[n], key);
	}
}

static inline uint64_t key_sum(const uint64_t *seed, const struct flow_key *masked)
{
	__m512i sum = _mm512_add_epi32(_mm512_load_si512(masked), _mm512_load_si512(seed));
	__m256i four;
	__m128i two;

	sum = _mm512_mul_epu32(sum, _mm512_srli_epi64(sum, 32));
	/* not _mm512_reduce_add_epi64: the compiler's own adds the last two as signed numbers */
	four = _mm256_add_epi64(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
	two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
	return (uint64_t)_mm_cvtsi128_si64(two) + (uint64_t)_mm_extract_epi64(two, 1);
}
#else
static inline void keys_make(struct rules_work *work, const struct rules_stage *stage,
			     struct frame *const *frames, unsigned count)
{
	const uint64_t *needs = (const uint64_t *)(const void *)&stage->needs;

	for (unsigned n = 0; n < count; n++) {
		uint64_t *to = (uint64_t *)(void *)&work->masked[n];
		uint64_t words[FLOW_WORDS];

		__builtin_prefetch(frames[n + AHEAD < count ? n + AHEAD : n]->data);
		if (__builtin_expect(!parse_plain(frames[n], words), 0)) {
			key_long(work, stage, frames[n], n);
			continue;
		}
#pragma GCC unroll 8
		for (unsigned w = 0; w < FLOW_WORDS; w++)
			to[w] = words[w] & needs[w];
	}
}

static inline uint64_t key_sum(const uint64_t *seed, const struct flow_key *masked)
{
	return hash_sum(seed, masked);
}
#endif

/* --- loops, each over all frames ----------------------------------------------------------------
 */

/* The cache's lines of tags are asked for. */
static inline void hashes_make(struct rules_work *work, const struct rules_stage *stage,
			       unsigned count)
{
	const struct flow_cache *cache = work->cache;
	const struct flow_set *sets = cache->sets;
	uint64_t last = hash_last(cache);

	for (unsigned n = 0; n < count; n++) {
		uint64_t hash = fold(key_sum(cache->seed, &work->masked[n]) ^ stage->number, last);

		work->hashes[n] = hash;
		__builtin_prefetch(&sets[set_first(hash)]);
		__builtin_prefetch(&sets[set_second(hash)]);
	}
}

/* The entries that answer, most likely; they are asked for. */
static inline void look(struct rules_work *work, unsigned count, struct flow_entry **likely)
{
	static struct flow_entry none = {.stamp = UINT64_MAX}; /* nobody's, and never written */
	struct flow_cache *cache = work->cache;

	for (unsigned n = 0; n < count; n++) {
		struct flow_entry *entry = entry_likely(cache, work->hashes[n]);

		likely[n] = entry ? entry : &none;
		__builtin_prefetch(likely[n]);
		__builtin_prefetch(&likely[n]->stamp);
	}
}

/* Is it the frame's entry, of a way whose rules act? Then it is kept in work->paths. */
static inline bool way_known(struct rules_work *work, struct flow_entry *entry, uint64_t stamp,
			     unsigned n)
{
	if (entry->stamp != (stamp | STAMP_ACTS) || !key_same(&entry->key, &work->masked[n]))
		return false;
	entry_touch(work->cache, entry);
	work->paths[n] = entry->path;
	return true;
}

static inline uint64_t hits(struct rules_work *work, const struct rules_stage *stage,
			    struct frame *const *frames, unsigned count, uint64_t *drops,
			    uint64_t *gone)
{
	uint64_t stamp = stamp_of(work->tables->generation, stage->number), left = 0, ended = 0;
	uint64_t known = 0;
	unsigned by_rule = 0, by_default = 0;
	struct flow_entry *likely[FRAME_BATCH];
	struct rule_counter *counters = work->counters;
	struct flow_cache *cache = work->cache;
	uint32_t clock = cache->clock;
	uint64_t now_s = work->now_s;

	keys_make(work, stage, frames, count);
	hashes_make(work, stage, count);
	look(work, count, likely);
	for (unsigned n = 0; n < count; n++) {
		struct flow_entry *entry = likely[n];
		const struct flow_path *path = &entry->path;

		__builtin_prefetch(
		    &counters[likely[n + AHEAD < count ? n + AHEAD : n]->path.slots[0]], 1);
		if (__builtin_expect(
			entry->stamp != stamp || !key_same(&entry->key, &work->masked[n]), 0)) {
			left |= (uint64_t)1 << n;
			known |= (uint64_t)way_known(work, entry, stamp, n) << n;
			continue;
		}
		if (entry->path.used != clock)
			entry_touch(cache, entry);
		if (path->count > 0)
			rule_count(&counters[path->slots[0]], now_s, frames[n]->frame_len);
		if (path->count > 1)
			rule_count(&counters[path->slots[1]], now_s, frames[n]->frame_len);
		if (path->verdict != RULES_GO) {
			ended |= (uint64_t)1 << n;
			by_rule += path->verdict == RULES_DROP;
			by_default += path->verdict == RULES_DROP_DEFAULT;
		}
	}
	if (ended) {
		counter_add(&drops[DROP_RULE], by_rule);
		counter_add(&drops[DROP_RULE_DEFAULT], by_default);
	}
	work->known = known;
	*gone = ended;
	return left;
}
