/* What it is and who runs it: flow_cache.h. */
#include "flow_cache.h"

#include <string.h>
#include <sys/mman.h>

#include "flow_cache_lines.h"

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
	for (unsigned i = 0; i <= FLOW_WORDS; i++)
		cache->seed[i] = seed_next(&seed);
	return cache;
}

void flow_cache_destroy(struct flow_cache *cache)
{
	if (cache)
		munmap(cache, sizeof(*cache));
}

uint64_t flow_cache_prefetch(const struct flow_cache *cache, uint32_t stage,
			     const struct flow_key *masked)
{
	uint64_t hash = hash_key(cache, stage, masked);

	__builtin_prefetch(&cache->sets[set_first(hash)]);
	__builtin_prefetch(&cache->sets[set_second(hash)]);
	return hash;
}

void flow_cache_prefetch_entry(struct flow_cache *cache, uint64_t hash)
{
	const struct flow_entry *entry = entry_likely(cache, hash);

	if (entry) {
		__builtin_prefetch(entry);
		__builtin_prefetch(&entry->stamp);
	}
}

static inline struct flow_entry *find_in(struct flow_cache *cache, unsigned s, uint64_t hash,
					 uint64_t stamp, const struct flow_key *masked)
{
	for (unsigned ways = set_ways(&cache->sets[s], tag_of(hash)); ways; ways &= ways - 1) {
		struct flow_entry *entry = &cache->entries[s][__builtin_ctz(ways)];

		if ((entry->stamp & ~STAMP_ACTS) == stamp && key_same(&entry->key, masked))
			return entry;
	}
	return NULL;
}

static struct flow_entry *find(struct flow_cache *cache, uint64_t hash, uint64_t generation,
			       uint32_t stage, const struct flow_key *masked)
{
	uint64_t stamp = stamp_of(generation, stage);
	struct flow_entry *entry = find_in(cache, set_first(hash), hash, stamp, masked);

	return entry ? entry : find_in(cache, set_second(hash), hash, stamp, masked);
}

const struct flow_path *flow_cache_find(struct flow_cache *cache, uint64_t hash,
					uint64_t generation, uint32_t stage,
					const struct flow_key *masked)
{
	struct flow_entry *entry = find(cache, hash, generation, stage, masked);

	if (!entry)
		return NULL;
	if (entry->path.used != cache->clock)
		entry_touch(cache, entry);
	return &entry->path;
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

static void entry_fill(const struct flow_cache *cache, struct flow_entry *entry,
		       uint64_t generation, uint32_t stage, const struct flow_path *path)
{
	entry->stamp =
	    stamp_of(generation, stage) | (path->slots[0] == FLOW_PATH_ACTS ? STAMP_ACTS : 0);
	entry->path = *path;
	entry->path.used = cache->clock;
}

void flow_cache_insert(struct flow_cache *cache, uint64_t hash, uint64_t generation, uint32_t stage,
		       const struct flow_key *masked, const struct flow_path *path)
{
	unsigned s[2] = {set_first(hash), set_second(hash)}, ways[2], free_ways[2], at;
	uint32_t worth[2];
	struct flow_entry *entry;

	if (path->count > FLOW_PATH_MAX)
		return;
	entry = find(cache, hash, generation, stage, masked);
	if (entry) {
		entry_fill(cache, entry, generation, stage, path);
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
	entry_fill(cache, entry, generation, stage, path);
	cache->sets[s[at]].tag[ways[at]] = tag_of(hash);
	cache->sets[s[at]].used[ways[at]] = cache->clock;
}
