/*
 * What a flow cache is made of, for those who ask it for many frames at once: flow_cache.c and
 * rules_hits.c. Everyone else: flow_cache.h.
 *
 * Runs on: one worker.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "flow_cache.h"

enum { SETS = FLOW_CACHE_ENTRIES / FLOW_CACHE_WAYS, SET_BITS = 14, WAY_BITS = 3 };
static_assert(SETS == 1 << SET_BITS && FLOW_CACHE_WAYS == 1 << WAY_BITS, "named by bits of a hash");

/* Tag 0: empty. `used`: the cache's clock when the entry last did something. */
struct flow_set {
	_Alignas(64) uint32_t tag[FLOW_CACHE_WAYS];
	uint32_t used[FLOW_CACHE_WAYS];
};
static_assert(sizeof(struct flow_set) == 64, "one cache line");

/*
 * A key's words by where an entry has them: near those of most stages (the ethertype, the VLAN, all
 * of IPv4 and the ports), far those of MAC addresses and the middle of IPv6 addresses.
 */
enum { NEAR_WORDS = 5, FAR_WORDS = FLOW_WORDS - NEAR_WORDS };
static const uint8_t near_word[NEAR_WORDS] = {1, 2, 4, 6, 7}, far_word[FAR_WORDS] = {0, 3, 5};

/* All that a hit of a stage without far words needs is in the first line. */
struct flow_entry {
	_Alignas(64) uint64_t near[NEAR_WORDS];
	uint64_t stamp;
	struct flow_path path;
	uint64_t far[FAR_WORDS];
};
static_assert(sizeof(struct flow_entry) == 128, "two cache lines");
static_assert(offsetof(struct flow_entry, path.rules) == 64, "what a hit needs comes first");

struct flow_cache {
	_Alignas(64) uint64_t seed[FLOW_WORDS + 1];
	uint64_t generation; /* of the last insertion */
	uint32_t clock;	     /* one insertion, one tick */
	uint32_t since;	     /* when the generation began: what was used before is of another one */
	bool scattered;	     /* of those asked for last, many were not at home */
	bool storm;	     /* of the last window's, nearly none was there */
	uint32_t asked;	     /* in this window */
	uint32_t missed;
	uint32_t turn; /* of a storm's batches */
	_Alignas(64) struct flow_set sets[SETS];
	struct flow_entry entries[SETS][FLOW_CACHE_WAYS];
};

/* What an entry is of, exactly; it has STAMP_ACTS besides where its rules do more than count. */
static const uint64_t STAMP_ACTS = 1;

static inline uint64_t stamp_of(uint64_t generation, uint32_t stage)
{
	return (generation + 1) << 24 | (uint64_t)stage << 1; /* that of an empty entry is 0 */
}

static inline bool near_same(const struct flow_entry *entry, const struct flow_key *masked)
{
	uint64_t differs = 0;

#pragma GCC unroll 5
	for (unsigned i = 0; i < NEAR_WORDS; i++)
		differs |= entry->near[i] ^ flow_word(masked, near_word[i]);
	return !differs;
}

static inline bool far_same(const struct flow_entry *entry, const struct flow_key *masked)
{
	uint64_t differs = 0;

#pragma GCC unroll 3
	for (unsigned i = 0; i < FAR_WORDS; i++)
		differs |= entry->far[i] ^ flow_word(masked, far_word[i]);
	return !differs;
}

static inline bool key_same(const struct flow_entry *entry, const struct flow_key *masked)
{
	return near_same(entry, masked) && far_same(entry, masked);
}

/* Does any key of a stage that needs these bits have far words but 0? */
static inline bool far_needed(const struct flow_key *needs)
{
	uint64_t far = 0;

	for (unsigned i = 0; i < FAR_WORDS; i++)
		far |= flow_word(needs, far_word[i]);
	return far != 0;
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

/* The sets are named by the product's highest bits, the tag is of all. */
static inline uint64_t hash_spread(uint64_t sum, uint64_t last)
{
	uint64_t product = (sum ^ sum >> 32) * last;

	return product ^ product >> 32;
}

static inline uint64_t hash_key(const struct flow_cache *cache, uint32_t stage,
				const struct flow_key *masked)
{
	return hash_spread(hash_sum(cache->seed, masked) ^ stage, hash_last(cache));
}

static inline unsigned set_first(uint64_t hash)
{
	return (unsigned)(hash >> (64 - SET_BITS));
}

/* The way of its first set that a flow gets if it is free. */
static inline unsigned way_home(uint64_t hash)
{
	return (unsigned)(hash >> (64 - SET_BITS - WAY_BITS)) % FLOW_CACHE_WAYS;
}

static inline unsigned set_second(uint64_t hash)
{
	return (unsigned)(hash >> (64 - 2 * SET_BITS - WAY_BITS)) % SETS;
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

/* Where a flow is while there is room enough; found without a look at tags. */
static inline struct flow_entry *entry_home(struct flow_cache *cache, uint64_t hash)
{
	return &cache->entries[set_first(hash)][way_home(hash)];
}

/* Is what the way holds of another generation? Told from the tags' line: entries are far away. */
static inline bool way_stale(const struct flow_cache *cache, const struct flow_set *set, unsigned w)
{
	return cache->clock - set->used[w] > cache->clock - cache->since;
}

/* The entry that most likely is the flow's; NULL: certainly none is. */
static inline struct flow_entry *entry_likely(struct flow_cache *cache, uint64_t hash)
{
	unsigned s = set_first(hash), w;
	unsigned ways = set_ways(&cache->sets[s], tag_of(hash));

	if (!ways) {
		s = set_second(hash);
		ways = set_ways(&cache->sets[s], tag_of(hash));
	}
	if (!ways)
		return NULL;
	w = (unsigned)__builtin_ctz(ways);
	return way_stale(cache, &cache->sets[s], w) ? NULL : &cache->entries[s][w];
}

/* The entry does something. */
static inline void entry_touch(struct flow_cache *cache, struct flow_entry *entry)
{
	size_t at = (size_t)(entry - cache->entries[0]);

	entry->path.used = cache->clock;
	cache->sets[at / FLOW_CACHE_WAYS].used[at % FLOW_CACHE_WAYS] = cache->clock;
}

/* The entry; NULL: there is none. */
struct flow_entry *flow_entry_find(struct flow_cache *cache, uint64_t hash, uint64_t generation,
				   uint32_t stage, const struct flow_key *masked);
