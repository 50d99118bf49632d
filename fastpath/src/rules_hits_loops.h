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

enum { AHEAD = 8 }; /* frames whose memory is on its way while others are looked at */

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

/* IPv4 without options, no fragment, of the kind; of TCP, a header that is long enough. */
#define PLAIN_MASK [12] = 0xff, [13] = 0xff, [14] = 0xff, [20] = 0x3f, [21] = 0xff
#define PLAIN_VALUE [12] = 0x08, [14] = 0x45
enum { DATA_OFFSET_MIN = 0x50 };
static const _Alignas(64) uint8_t plain_mask[KINDS][64] = {
    [KIND_OTHER] = {PLAIN_MASK},
    [KIND_UDP] = {PLAIN_MASK, [23] = 0xff},
    [KIND_TCP] = {PLAIN_MASK, [23] = 0xff, [46] = 0xf0},
    [KIND_ICMP] = {PLAIN_MASK, [23] = 0xff},
};
static const _Alignas(64) uint8_t plain_value[KINDS][64] = {
    [KIND_OTHER] = {PLAIN_VALUE},
    [KIND_UDP] = {PLAIN_VALUE, [23] = PROTO_UDP},
    [KIND_TCP] = {PLAIN_VALUE, [23] = PROTO_TCP, [46] = DATA_OFFSET_MIN},
    [KIND_ICMP] = {PLAIN_VALUE, [23] = PROTO_ICMP},
};

/* Byte by byte the larger ones become what is enough. */
static inline __m512i plain_cap(void)
{
	return _mm512_mask_set1_epi8(_mm512_set1_epi8(-1), BYTES(46, 46), DATA_OFFSET_MIN);
}

static inline void keys_make(struct rules_work *work, const struct rules_stage *stage,
			     struct frame *const *frames, unsigned count)
{
	const __m512i needs = _mm512_loadu_si512(&stage->needs);
	const __m512i frame_mask = _mm512_load_si512(&from_frame), cap = plain_cap();

	for (unsigned n = 0; n < count; n++) {
		const struct frame *frame = frames[n];
		const uint8_t *at = frame->data;
		__m512i packet, plain, key, id;
		uint32_t bytes, whole;
		uint64_t word;
		unsigned kind;

		if (__builtin_expect(frame->len < VECTOR_BYTES ||
					 frame->offload.gso_type != FRAME_GSO_NONE,
				     0)) {
			key_long(work, stage, frame, n);
			continue;
		}
		packet = _mm512_maskz_loadu_epi8(BYTES(0, VECTOR_BYTES - 1), at);
		word = plain_load(at + 16, 8); /* may be another by now: only believed if not */
		bytes = __builtin_bswap16((uint16_t)word);
		whole = frame->frame_len - FRAME_LEN_MIN;
		kind = kind_of[word >> 56];
		plain = _mm512_and_si512(packet, _mm512_load_si512(plain_mask[kind]));
		plain = _mm512_min_epu8(plain, cap);
		if (__builtin_expect(
			_mm512_cmpneq_epi64_mask(plain, _mm512_load_si512(plain_value[kind])) ||
			    bytes < kind_least[kind] || bytes > whole,
			0)) {
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

/* --- hashes of eight keys at once --------------------------------------------------------------
 */

enum { HASHED_AT_ONCE = 8 };

/* What hash_sum adds up, a product in each lane. */
static inline __m512i key_products(const struct flow_key *masked, __m512i seed)
{
	__m512i sums = _mm512_add_epi32(_mm512_load_si512(masked), seed);

	return _mm512_mul_epu32(sums, _mm512_srli_epi64(sums, 32));
}

/* Sums of neighbouring lanes: of a in the even ones, of b in the odd ones. */
static inline __m512i lanes_add(__m512i a, __m512i b)
{
	return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* The same of neighbouring pairs of lanes: of a in the lower half, of b in the upper one. */
static inline __m512i pairs_add(__m512i a, __m512i b)
{
	return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

static inline void hashes_some(struct rules_work *work, const struct rules_stage *stage, unsigned n)
{
	const __m512i seed = _mm512_load_si512(work->cache->seed);
	const __m512i last = _mm512_set1_epi64((int64_t)hash_last(work->cache));
	const struct flow_key *keys = &work->masked[n];
	__m512i two[4], hash;

#pragma GCC unroll 4
	for (unsigned i = 0; i < 4; i++)
		two[i] = lanes_add(key_products(&keys[2 * i], seed),
				   key_products(&keys[2 * i + 1], seed));
	hash = pairs_add(pairs_add(two[0], two[1]), pairs_add(two[2], two[3]));
	hash = _mm512_xor_si512(hash, _mm512_set1_epi64(stage->number));
	hash = _mm512_xor_si512(hash, _mm512_srli_epi64(hash, 32));
	hash = _mm512_mullo_epi64(hash, last);
	hash = _mm512_xor_si512(hash, _mm512_srli_epi64(hash, 32));
	_mm512_storeu_si512(&work->hashes[n], hash);
}

/* --- what a hit is -----------------------------------------------------------------------------
 */

/* The near words and the stamp, as they stand in an entry. */
static inline bool entry_near(const struct flow_entry *entry, const struct flow_key *masked,
			      uint64_t stamp)
{
	const __m512i from = _mm512_setr_epi64(1, 2, 4, 6, 7, 0, 0, 0); /* near_word */
	__m512i asked = _mm512_mask_permutexvar_epi64(_mm512_set1_epi64((int64_t)stamp), 0x1f, from,
						      _mm512_load_si512(masked));

	return !_mm512_mask_cmpneq_epi64_mask(0x3f, asked, _mm512_load_si512(entry));
}
static_assert(NEAR_WORDS == 5 && offsetof(struct flow_entry, stamp) == 5 * sizeof(uint64_t),
	      "lanes 0 to 4, and 5");
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

enum { HASHED_AT_ONCE = 1 };

static inline void hashes_some(struct rules_work *work, const struct rules_stage *stage, unsigned n)
{
	work->hashes[n] = hash_key(work->cache, stage->number, &work->masked[n]);
}

static inline bool entry_near(const struct flow_entry *entry, const struct flow_key *masked,
			      uint64_t stamp)
{
	return entry->stamp == stamp && near_same(entry, masked);
}
#endif

/* --- loops, each over all frames ----------------------------------------------------------------
 */

static inline void hashes_make(struct rules_work *work, const struct rules_stage *stage,
			       unsigned count)
{
	for (unsigned n = 0; n < count; n += HASHED_AT_ONCE)
		hashes_some(work, stage, n);
}
static_assert(FRAME_BATCH % 8 == 0, "keys behind the last one of a batch are hashed with it");

static inline void entry_ask(const struct flow_entry *entry, bool far)
{
	__builtin_prefetch(entry);
	if (far)
		__builtin_prefetch(&entry->path.rules);
}

/* The entries that answer where flows are at home. */
static inline void look_home(struct rules_work *work, unsigned count, bool far,
			     struct flow_entry **likely)
{
	for (unsigned n = 0; n < count; n++) {
		likely[n] = entry_home(work->cache, work->hashes[n]);
		entry_ask(likely[n], far);
	}
}

static struct flow_entry nobodys = {.stamp = UINT64_MAX}; /* and never written */

/* The entries that answer, most likely; nobodys: certainly none does. Returns how many are not at
   home. */
static inline unsigned look(struct rules_work *work, unsigned count, bool far,
			    struct flow_entry **likely)
{
	struct flow_cache *cache = work->cache;
	unsigned away = 0;

	for (unsigned n = 0; n < count; n++) {
		__builtin_prefetch(&cache->sets[set_first(work->hashes[n])]);
		__builtin_prefetch(&cache->sets[set_second(work->hashes[n])]);
	}
	for (unsigned n = 0; n < count; n++) {
		struct flow_entry *entry = entry_likely(cache, work->hashes[n]);

		likely[n] = entry ? entry : &nobodys;
		away += entry != entry_home(cache, work->hashes[n]);
		entry_ask(likely[n], far);
	}
	return away;
}

/* Of a way whose rules act: is it the frame's entry? Then it is kept in work->paths. */
static inline bool way_known(struct rules_work *work, struct flow_entry *entry, uint64_t stamp,
			     unsigned n)
{
	if (entry->stamp != (stamp | STAMP_ACTS) || !key_same(entry, &work->masked[n]))
		return false;
	entry_touch(work->cache, entry);
	work->paths[n] = entry->path;
	return true;
}

/* Of a way, what stands behind its slots. */
static inline uint64_t path_gist(const struct flow_path *path)
{
	uint64_t gist;

	static_assert(offsetof(struct flow_path, rules) - offsetof(struct flow_path, count) ==
			  sizeof(gist),
		      "count, verdict, default_of and used");
	memcpy(&gist, &path->count, sizeof(gist));
	return gist;
}

/* What the frames of a batch come to. */
struct tally {
	uint64_t left;
	uint64_t known;
	uint64_t gone;
	unsigned strays; /* whose entry is not the likely one, or nowhere */
	unsigned by_rule, by_default;
};

/*
 * The likely entry is not one that is enough. Returns the one that is; NULL: the frame is left to
 * the long way.
 */
__attribute__((noinline)) static struct flow_entry *entry_other(struct rules_work *work,
								const struct rules_stage *stage,
								struct flow_entry *likely,
								unsigned n, struct tally *tally)
{
	uint64_t generation = work->tables->generation, bit = (uint64_t)1 << n;
	uint64_t stamp = stamp_of(generation, stage->number);
	struct flow_entry *entry = NULL;

	if (way_known(work, likely, stamp, n)) {
		tally->known |= bit;
	} else {
		tally->strays++;
		if (likely != &nobodys)
			entry = flow_entry_find(work->cache, work->hashes[n], generation,
						stage->number, &work->masked[n]);
		if (entry && way_known(work, entry, stamp, n)) {
			tally->known |= bit;
			entry = NULL;
		}
	}
	if (!entry)
		tally->left |= bit;
	return entry;
}

/* A hit that is not the usual one. */
static inline void hit_unusual(struct rules_work *work, struct flow_entry *entry,
			       const struct frame *frame, unsigned n, struct tally *tally)
{
	const struct flow_path *path = &entry->path;

	if (path->used != work->cache->clock)
		entry_touch(work->cache, entry);
	for (unsigned i = 0; i < path->count; i++)
		rule_count(&work->counters[path->slots[i]], work->now_s, frame->frame_len);
	if (path->verdict != RULES_GO) {
		tally->gone |= (uint64_t)1 << n;
		tally->by_rule += path->verdict == RULES_DROP;
		tally->by_default += path->verdict == RULES_DROP_DEFAULT;
	}
}

static inline void answer(struct rules_work *work, const struct rules_stage *stage,
			  struct frame *const *frames, unsigned count, bool far,
			  struct flow_entry **likely, struct tally *tally)
{
	/* nearly all: one rule, which allows, and not the first hit since something was inserted */
	const struct flow_path usual_mask = {.count = 0xff, .verdict = 0xff, .used = UINT32_MAX};
	const struct flow_path usual = {
	    .count = 1, .verdict = RULES_GO, .used = work->cache->clock};
	const uint64_t gist_mask = path_gist(&usual_mask), gist = path_gist(&usual);
	const uint64_t stamp = stamp_of(work->tables->generation, stage->number);
	struct rule_counter *counters = work->counters;
	uint64_t now_s = work->now_s;

	for (unsigned n = 0; n < count; n++) {
		struct flow_entry *entry = likely[n];

		__builtin_prefetch(&counters[likely[n + AHEAD]->path.slots[0]], 1);
		if (__builtin_expect(!entry_near(entry, &work->masked[n], stamp) ||
					 (far && !far_same(entry, &work->masked[n])),
				     0)) {
			entry = entry_other(work, stage, entry, n, tally);
			if (!entry)
				continue;
		}
		if (__builtin_expect((path_gist(&entry->path) & gist_mask) == gist, 1))
			rule_count(&counters[entry->path.slots[0]], now_s, frames[n]->frame_len);
		else
			hit_unusual(work, entry, frames[n], n, tally);
	}
}

/* With more than one of so many elsewhere it is better to look at the tags first. */
enum { HOME_SHARE = 16 };

static inline uint64_t hits(struct rules_work *work, const struct rules_stage *stage,
			    struct frame *const *frames, unsigned count, uint64_t *drops,
			    uint64_t *gone)
{
	struct flow_entry *likely[FRAME_BATCH + AHEAD];
	bool far = far_needed(&stage->needs);
	struct tally tally = {0};
	unsigned away = 0;

	keys_make(work, stage, frames, count);
	hashes_make(work, stage, count);
	if (work->cache->scattered)
		away = look(work, count, far, likely);
	else
		look_home(work, count, far, likely);
	for (unsigned n = count; n < count + AHEAD; n++)
		likely[n] = &nobodys;
	answer(work, stage, frames, count, far, likely, &tally);
	work->cache->scattered = HOME_SHARE * (away + tally.strays) > count;
	if (tally.gone) {
		counter_add(&drops[DROP_RULE], tally.by_rule);
		counter_add(&drops[DROP_RULE_DEFAULT], tally.by_default);
	}
	work->known = tally.known;
	*gone = tally.gone;
	return tally.left;
}
