/* What it is and who runs it: flow_cache.h. */
#include "flow_cache.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	SETS = FLOW_CACHE_ENTRIES / FLOW_CACHE_WAYS,
	SET_BITS = 14,
	KEY_WORDS = sizeof(struct flow_key) / sizeof(uint64_t)
};
static_assert(SETS == 1 << SET_BITS, "a set is named by SET_BITS of a hash");

/* Tag 0: empty. `used`: the cache's clock when the entry last did something. */
struct flow_set {
	_Alignas(64) uint32_t tag[FLOW_CACHE_WAYS];
	uint32_t used[FLOW_CACHE_WAYS];
};
static_assert(sizeof(struct flow_set) == 64, "one cache line");

struct flow_entry {
	_Alignas(64) struct flow_key key;
	uint64_t generation;
	struct flow_path path;
};
static_assert(sizeof(struct flow_entry) == 128, "two cache lines");

struct flow_cache {
	uint64_t seed[KEY_WORDS + 1];
	uint64_t generation; /* of the last insertion */
	uint32_t clock;	     /* one insertion, one tick */
	uint32_t since;	     /* when the generation began: what was used before is of another one */
	_Alignas(64) struct flow_set sets[SETS];
	struct flow_entry entries[SETS][FLOW_CACHE_WAYS];
};

/* splitmix64: eight words of a seed from one. */
static uint64_t seed_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/*
 * Sparse: a worker pays for the flows it has seen, 17 MB at most. With pages of 4 KB nearly each
 * look would miss the TLB, too.
 */
struct flow_cache *flow_cache_create(uint64_t seed)
{
	struct flow_cache *cache = mmap(NULL, sizeof(*cache), PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (cache == MAP_FAILED)
		return NULL;
	madvise(cache, sizeof(*cache), MADV_HUGEPAGE);
	for (unsigned i = 0; i <= KEY_WORDS; i++)
		cache->seed[i] = seed_next(&seed);
	return cache;
}

void flow_cache_destroy(struct flow_cache *cache)
{
	if (cache)
		munmap(cache, sizeof(*cache));
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t key_word(const struct flow_key *key, unsigned i)
{
	uint64_t word;

	memcpy(&word, (const uint8_t *)key + 8 * i, sizeof(word));
	return word;
}

static inline bool key_same(const struct flow_key *a, const struct flow_key *b)
{
	uint64_t differs = 0;

#pragma GCC unroll 8
	for (unsigned i = 0; i < KEY_WORDS; i++)
		differs |= key_word(a, i) ^ key_word(b, i);
	return !differs;
}

static inline uint64_t flow_cache_hash(const struct flow_cache *cache, uint32_t stage,
				       const struct flow_key *masked)
{
	const uint64_t *seed = cache->seed;
	uint64_t sum = 0;

#pragma GCC unroll 4
	for (unsigned i = 0; i < KEY_WORDS; i += 2)
		sum ^= fold(key_word(masked, i) ^ seed[i], key_word(masked, i + 1) ^ seed[i + 1]);
	return fold(sum ^ stage, seed[KEY_WORDS] | 1);
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
#ifdef __SSE2__
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

uint64_t flow_cache_prefetch(const struct flow_cache *cache, uint32_t stage,
			     const struct flow_key *masked)
{
	uint64_t hash = flow_cache_hash(cache, stage, masked);

	__builtin_prefetch(&cache->sets[set_first(hash)]);
	__builtin_prefetch(&cache->sets[set_second(hash)]);
	return hash;
}

/* The entry that most likely is the flow's; NULL: certainly none is. */
static inline const struct flow_entry *entry_likely(const struct flow_cache *cache, uint64_t hash)
{
	unsigned s = set_first(hash);
	unsigned ways = set_ways(&cache->sets[s], tag_of(hash));

	if (!ways) {
		s = set_second(hash);
		ways = set_ways(&cache->sets[s], tag_of(hash));
	}
	return ways ? &cache->entries[s][__builtin_ctz(ways)] : NULL;
}

void flow_cache_prefetch_entry(const struct flow_cache *cache, uint64_t hash)
{
	const struct flow_entry *entry = entry_likely(cache, hash);

	if (entry) {
		__builtin_prefetch(entry);
		__builtin_prefetch(&entry->generation);
	}
}

void flow_cache_prefetch_rule(const struct flow_cache *cache, uint64_t hash)
{
	const struct flow_entry *entry = entry_likely(cache, hash);
	const char *rule;

	if (!entry)
		return;
	/* perhaps of another flow, perhaps gone: a prefetch may go anywhere */
	rule = (const char *)entry->path.rules[0];
	__builtin_prefetch(rule);
	__builtin_prefetch(rule + 64);
}

static inline struct flow_path *find_in(struct flow_cache *cache, unsigned s, uint64_t hash,
					uint64_t generation, uint32_t stage,
					const struct flow_key *masked)
{
	struct flow_set *set = &cache->sets[s];

	for (unsigned ways = set_ways(set, tag_of(hash)); ways; ways &= ways - 1) {
		unsigned w = (unsigned)__builtin_ctz(ways);
		struct flow_entry *entry = &cache->entries[s][w];

		if (entry->generation != generation || entry->path.stage != stage ||
		    !key_same(&entry->key, masked))
			continue;
		if (set->used[w] != cache->clock)
			set->used[w] = cache->clock;
		return &entry->path;
	}
	return NULL;
}

const struct flow_path *flow_cache_find(struct flow_cache *cache, uint64_t hash,
					uint64_t generation, uint32_t stage,
					const struct flow_key *masked)
{
	struct flow_path *path = find_in(cache, set_first(hash), hash, generation, stage, masked);

	return path ? path : find_in(cache, set_second(hash), hash, generation, stage, masked);
}

/* How much an entry is worth keeping: 0 an empty one or of another generation, the older the less.
   The tags' line says it all: the entries themselves would be a cache line each. */
static uint32_t way_worth(const struct flow_cache *cache, const struct flow_set *set, unsigned w)
{
	uint32_t age = cache->clock - set->used[w];

	return set->tag[w] && age <= cache->clock - cache->since ? UINT32_MAX - age : 0;
}

/* The least worthy way of a set; *free_ways: how many hold nothing. */
static unsigned way_least(const struct flow_cache *cache, const struct flow_set *set,
			  unsigned *free_ways, uint32_t *worth)
{
	unsigned least = 0;

	*free_ways = 0;
	*worth = UINT32_MAX;
	for (unsigned w = 0; w < FLOW_CACHE_WAYS; w++) {
		uint32_t now = way_worth(cache, set, w);

		*free_ways += now == 0;
		if (now < *worth) {
			*worth = now;
			least = w;
		}
	}
	return least;
}

void flow_cache_insert(struct flow_cache *cache, uint64_t hash, uint64_t generation, uint32_t stage,
		       const struct flow_key *masked, const struct flow_path *path)
{
	unsigned s[2] = {set_first(hash), set_second(hash)}, ways[2], free_ways[2], at;
	uint32_t worth[2];
	struct flow_entry *entry;
	struct flow_path *known;

	if (path->count > FLOW_PATH_MAX)
		return;
	known = (struct flow_path *)flow_cache_find(cache, hash, generation, stage, masked);
	if (known) {
		*known = *path;
		known->stage = stage;
		return;
	}
	cache->clock++;
	if (generation != cache->generation) {
		cache->generation = generation;
		cache->since = cache->clock;
	}
	for (unsigned i = 0; i < 2; i++)
		ways[i] = way_least(cache, &cache->sets[s[i]], &free_ways[i], &worth[i]);
	if (free_ways[0] || free_ways[1])
		at = free_ways[1] > free_ways[0];
	else
		at = worth[1] < worth[0];
	entry = &cache->entries[s[at]][ways[at]];
	entry->key = *masked;
	entry->generation = generation;
	entry->path = *path;
	entry->path.stage = stage;
	cache->sets[s[at]].tag[ways[at]] = tag_of(hash);
	cache->sets[s[at]].used[ways[at]] = cache->clock;
}
