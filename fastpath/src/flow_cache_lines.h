/*
 * What a flow cache is made of, for those who ask it for many frames at once: flow_cache.c and
 * rules_hits.c. Everyone else: flow_cache.h.
 *
 * Runs on: one worker.
 */
#pragma once

#include <assert.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "flow_cache.h"

enum { SETS = FLOW_CACHE_ENTRIES / FLOW_CACHE_WAYS, SET_BITS = 14 };
static_assert(SETS == 1 << SET_BITS, "a set is named by SET_BITS of a hash");

/* Tag 0: empty. `used`: the cache's clock when the entry last did something. */
struct flow_set {
	_Alignas(64) uint32_t tag[FLOW_CACHE_WAYS];
	uint32_t used[FLOW_CACHE_WAYS];
};
static_assert(sizeof(struct flow_set) == 64, "one cache line");

struct flow_entry {
	_Alignas(64) struct flow_key key;
	uint64_t stamp;
	struct flow_path path;
};
static_assert(sizeof(struct flow_entry) == 128, "two cache lines");

struct flow_cache {
	_Alignas(64) uint64_t seed[FLOW_WORDS + 1];
	uint64_t generation; /* of the last insertion */
	uint32_t clock;	     /* one insertion, one tick */
	uint32_t since;	     /* when the generation began: what was used before is of another one */
	_Alignas(64) struct flow_set sets[SETS];
	struct flow_entry entries[SETS][FLOW_CACHE_WAYS];
};

/* What an entry is of, exactly; it has STAMP_ACTS besides where its rules do more than count. */
static const uint64_t STAMP_ACTS = 1;

static inline uint64_t stamp_of(uint64_t generation, uint32_t stage)
{
	return generation << 24 | (uint64_t)stage << 1;
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline bool key_same(const struct flow_key *a, const struct flow_key *b)
{
#ifdef __AVX512F__
	return !_mm512_cmpneq_epi64_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
#else
	uint64_t differs = 0;

#pragma GCC unroll 8
	for (unsigned i = 0; i < FLOW_WORDS; i++)
		differs |= flow_word(a, i) ^ flow_word(b, i);
	return !differs;
#endif
}

/* NH (Black and others, "UMAC", CRYPTO 1999): a product for each word, which a vector does at once.
 */
static inline uint64_t hash_sum(const uint64_t *seed, const struct flow_key *masked)
{
	uint64_t sum = 0;

#pragma GCC unroll 8
	for (unsigned i = 0; i < FLOW_WORDS; i++) {
		uint64_t word = flow_word(masked, i);
		uint32_t low = (uint32_t)word + (uint32_t)seed[i];
		uint32_t high = (uint32_t)(word >> 32) + (uint32_t)(seed[i] >> 32);

		sum += (uint64_t)low * high;
	}
	return sum;
}

/* What spreads a sum of a stage over all bits. */
static inline uint64_t hash_last(const struct flow_cache *cache)
{
	return cache->seed[FLOW_WORDS] | 1;
}

static inline uint64_t hash_key(const struct flow_cache *cache, uint32_t stage,
				const struct flow_key *masked)
{
	return fold(hash_sum(cache->seed, masked) ^ stage, hash_last(cache));
}

static inline unsigned set_first(uint64_t hash)
{
	return (unsigned)(hash >> (64 - SET_BITS));
}

static inline unsigned set_second(uint64_t hash)
{
	return (unsigned)(hash >> (64 - 2 * SET_BITS)) & (SETS - 1);
}

static inline uint32_t tag_of(uint64_t hash)
{
	return (uint32_t)hash | 1;
}

/* The ways of a set that carry the tag, a bit each. */
static inline unsigned set_ways(const struct flow_set *set, uint32_t tag)
{
#if defined(__AVX512VL__)
	return _mm256_cmpeq_epi32_mask(_mm256_load_si256((const __m256i *)(const void *)set->tag),
				       _mm256_set1_epi32((int)tag));
#elif defined(__SSE2__)
	const __m128i *tags = (const __m128i *)(const void *)set->tag;
	__m128i wanted = _mm_set1_epi32((int)tag);
	__m128i same = _mm_packs_epi32(_mm_cmpeq_epi32(_mm_load_si128(tags), wanted),
				       _mm_cmpeq_epi32(_mm_load_si128(tags + 1), wanted));

	return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(same, _mm_setzero_si128()));
#else
	unsigned ways = 0;

	for (unsigned w = 0; w < FLOW_CACHE_WAYS; w++)
		ways |= (unsigned)(set->tag[w] == tag) << w;
	return ways;
#endif
}
static_assert(FLOW_CACHE_WAYS == 8, "a set's tags are two registers");

/* The entry that most likely is the flow's; NULL: certainly none is. */
static inline struct flow_entry *entry_likely(struct flow_cache *cache, uint64_t hash)
{
	unsigned s = set_first(hash);
	unsigned ways = set_ways(&cache->sets[s], tag_of(hash));

	if (!ways) {
		s = set_second(hash);
		ways = set_ways(&cache->sets[s], tag_of(hash));
	}
	return ways ? &cache->entries[s][__builtin_ctz(ways)] : NULL;
}

/* The entry does something. */
static inline void entry_touch(struct flow_cache *cache, struct flow_entry *entry)
{
	size_t at = (size_t)(entry - cache->entries[0]);

	entry->path.used = cache->clock;
	cache->sets[at / FLOW_CACHE_WAYS].used[at % FLOW_CACHE_WAYS] = cache->clock;
}
