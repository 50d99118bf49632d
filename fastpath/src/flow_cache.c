/* What it is and who runs it: flow_cache.h. */
#include "flow_cache.h"

#include <string.h>

#include "flow_cache_lines.h"
#include "huge.h"

/* splitmix64: eight words of a seed from one. */
static uint64_t seed_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* A worker pays for the flows it has seen, 17 MB at most. */
struct flow_cache *flow_cache_create(uint64_t seed)
{
	struct flow_cache *cache = huge_map(sizeof(*cache));

	for (unsigned i = 0; cache && i <= FLOW_WORDS; i++)
		cache->seed[i] = seed_next(&seed);
	return cache;
}

void flow_cache_destroy(struct flow_cache *cache)
{
	huge_unmap(cache, sizeof(*cache));
}

uint64_t flow_cache_prefetch(const struct flow_cache *cache, uint32_t stage,
			     const struct flow_key *masked)
{
	uint64_t hash = hash_key(cache, stage, masked);

	__builtin_prefetch(&cache->sets[set_first(hash)]);
	__builtin_prefetch(&cache->sets[set_second(hash)]);
	return hash;
}

static inline struct flow_entry *find_in(struct flow_cache *cache, unsigned s, uint64_t hash,
					 uint64_t stamp, const struct flow_key *masked)
{
	const struct flow_set *set = &cache->sets[s];

	for (unsigned ways = set_ways(set, tag_of(hash)); ways; ways &= ways - 1) {
		unsigned w = (unsigned)__builtin_ctz(ways);
		struct flow_entry *entry = &cache->entries[s][w];

		if (way_stale(cache, set, w))
			continue;
		if ((entry->stamp & ~STAMP_ACTS) == stamp && key_same(entry, masked))
			return entry;
	}
	return NULL;
}

struct flow_entry *flow_entry_find(struct flow_cache *cache, uint64_t hash, uint64_t generation,
				   uint32_t stage, const struct flow_key *masked)
{
	uint64_t stamp = stamp_of(generation, stage);
	struct flow_entry *entry;

	if (generation != cache->generation)
		return NULL; /* nothing was inserted yet */
	entry = find_in(cache, set_first(hash), hash, stamp, masked);

	return entry ? entry : find_in(cache, set_second(hash), hash, stamp, masked);
}

const struct flow_path *flow_cache_find(struct flow_cache *cache, uint64_t hash,
					uint64_t generation, uint32_t stage,
					const struct flow_key *masked)
{
	struct flow_entry *entry = flow_entry_find(cache, hash, generation, stage, masked);

	if (!entry)
		return NULL;
	if (entry->path.used != cache->clock)
		entry_touch(cache, entry);
	return &entry->path;
}

/*
 * The ways of a set that hold nothing, or something of another generation. The tags' line says it
 * all: the entries themselves would be two cache lines each.
 */
static inline unsigned set_free(const struct flow_set *set, uint32_t clock, uint32_t since)
{
	unsigned ways = 0;

#ifdef __SSE2__
	const __m128i *tags = (const __m128i *)(const void *)set->tag;
	const __m128i *used = (const __m128i *)(const void *)set->used;
	const __m128i sign = _mm_set1_epi32(INT32_MIN), now = _mm_set1_epi32((int)clock);
	__m128i oldest = _mm_xor_si128(_mm_set1_epi32((int)(clock - since)), sign);

	for (unsigned i = 0; i < 2; i++) {
		__m128i age = _mm_xor_si128(_mm_sub_epi32(now, _mm_load_si128(used + i)), sign);
		__m128i gone =
		    _mm_or_si128(_mm_cmpgt_epi32(age, oldest),
				 _mm_cmpeq_epi32(_mm_load_si128(tags + i), _mm_setzero_si128()));

		ways |= (unsigned)_mm_movemask_ps(_mm_castsi128_ps(gone)) << 4 * i;
	}
#else
	for (unsigned w = 0; w < FLOW_CACHE_WAYS; w++)
		ways |= (unsigned)(!set->tag[w] || clock - set->used[w] > clock - since) << w;
#endif
	return ways;
}

/* Bits of eight; a machine that has an instruction for it need not be this one. */
static inline unsigned ways_count(unsigned ways)
{
	ways -= ways >> 1 & 0x55;
	ways = (ways & 0x33) + (ways >> 2 & 0x33);
	return (ways + (ways >> 4)) & 15;
}

/* The way of a set that was not used for longest. */
static unsigned set_oldest(const struct flow_set *set, uint32_t clock, uint32_t *age)
{
	unsigned oldest = 0;

	*age = 0;
	for (unsigned w = 0; w < FLOW_CACHE_WAYS; w++)
		if (clock - set->used[w] >= *age) {
			*age = clock - set->used[w];
			oldest = w;
		}
	return oldest;
}

/*
 * Where a flow goes that is not there: to its first set while that has hardly any, then to the
 * emptier one, and home if that is free; where both are full, in place of the one not used for
 * longest. A tag that is the flow's own, of another generation, goes first: two of them would take
 * turns at being asked. Of 100,000 flows two in a hundred thousand find both sets full, of 10,000
 * all but 4 % are at home.
 */
enum { FIRST_FLOWS = 2 };

static inline struct flow_place place_find(const struct flow_cache *cache, uint64_t hash,
					   uint32_t clock, uint32_t since)
{
	unsigned s[2] = {set_first(hash), set_second(hash)}, free_ways[2], way[2], at;
	uint32_t age[2];

	for (unsigned i = 0; i < 2; i++) {
		unsigned own;

		free_ways[i] = set_free(&cache->sets[s[i]], clock, since);
		own = free_ways[i] & set_ways(&cache->sets[s[i]], tag_of(hash));
		if (own)
			return (struct flow_place){s[i], (unsigned)__builtin_ctz(own)};
	}
	if (free_ways[0] | free_ways[1]) {
		unsigned room = ways_count(free_ways[0]);

		at = room < FLOW_CACHE_WAYS - FIRST_FLOWS && room < ways_count(free_ways[1]);
		if (free_ways[at] >> way_home(hash) & 1)
			return (struct flow_place){s[at], way_home(hash)};
		return (struct flow_place){s[at], (unsigned)__builtin_ctz(free_ways[at])};
	}
	for (unsigned i = 0; i < 2; i++)
		way[i] = set_oldest(&cache->sets[s[i]], clock, &age[i]);
	at = age[1] > age[0];
	return (struct flow_place){s[at], way[at]};
}

/* Of the generation of the last insertion everything is of another one. */
static inline uint32_t since_of(const struct flow_cache *cache, uint64_t generation, uint32_t clock)
{
	return generation == cache->generation ? cache->since : clock;
}

struct flow_place flow_cache_place(const struct flow_cache *cache, uint64_t hash,
				   uint64_t generation)
{
	uint32_t clock = cache->clock + 1;
	struct flow_place place =
	    place_find(cache, hash, clock, since_of(cache, generation, clock));
	const struct flow_entry *entry = &cache->entries[place.set][place.way];

	__builtin_prefetch(entry, 1);
	__builtin_prefetch(&entry->path.rules, 1);
	return place;
}

static void entry_fill(const struct flow_cache *cache, struct flow_entry *entry,
		       uint64_t generation, uint32_t stage, const struct flow_path *path)
{
	entry->stamp =
	    stamp_of(generation, stage) | (path->slots[0] == FLOW_PATH_ACTS ? STAMP_ACTS : 0);
	entry->path = *path;
	entry->path.used = cache->clock;
}

void flow_cache_put(struct flow_cache *cache, struct flow_place place, uint64_t hash,
		    uint64_t generation, uint32_t stage, const struct flow_key *masked,
		    const struct flow_path *path)
{
	struct flow_entry *entry = &cache->entries[place.set][place.way];
	struct flow_set *set = &cache->sets[place.set];

	if (path->count > FLOW_PATH_MAX)
		return;
	cache->clock++;
	cache->since = since_of(cache, generation, cache->clock);
	cache->generation = generation;
	for (unsigned i = 0; i < NEAR_WORDS; i++)
		entry->near[i] = flow_word(masked, near_word[i]);
	for (unsigned i = 0; i < FAR_WORDS; i++)
		entry->far[i] = flow_word(masked, far_word[i]);
	entry_fill(cache, entry, generation, stage, path);
	set->tag[place.way] = tag_of(hash);
	set->used[place.way] = cache->clock;
}

void flow_cache_insert(struct flow_cache *cache, uint64_t hash, uint64_t generation, uint32_t stage,
		       const struct flow_key *masked, const struct flow_path *path)
{
	struct flow_entry *entry = flow_entry_find(cache, hash, generation, stage, masked);

	if (!entry)
		flow_cache_put(cache, flow_cache_place(cache, hash, generation), hash, generation,
			       stage, masked, path);
	else if (path->count <= FLOW_PATH_MAX)
		entry_fill(cache, entry, generation, stage, path);
}

uint64_t flow_cache_admit(struct flow_cache *cache, unsigned asked, unsigned missed)
{
	static_assert(FLOW_CACHE_TURN == 8, "every eighth bit");

	cache->asked += asked;
	cache->missed += missed;
	if (cache->asked >= FLOW_CACHE_WINDOW) {
		cache->storm = cache->asked - cache->missed < cache->asked / 16;
		cache->asked = cache->missed = 0;
	}
	/* other places in each batch, so that no flow's frames are always at the wrong ones */
	return cache->storm ? 0x0101010101010101u << cache->turn++ % FLOW_CACHE_TURN : UINT64_MAX;
}
