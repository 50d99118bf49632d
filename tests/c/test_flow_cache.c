/* The flow cache: what is found is what was put there, for this generation and stage only. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "flow_cache.h"
#include "flow_cache_lines.h"

enum { GENERATION = 7, STAGE = 3 };

static struct flow_key key_of(uint32_t n)
{
	struct flow_key key = {.eth_type = 0x0800, .ip_version = 4, .ip_proto = 6};

	memcpy(&key.ip_src[12], &n, sizeof(n));
	return key;
}

static struct flow_path path_of(uint32_t n)
{
	return (struct flow_path){.count = (uint8_t)(n % FLOW_PATH_MAX),
				  .verdict = (uint8_t)(n >> 8),
				  .default_of = (uint16_t)n};
}

static void insert(struct flow_cache *cache, uint64_t generation, uint32_t stage, uint32_t n)
{
	struct flow_key key = key_of(n);
	struct flow_path path = path_of(n);
	uint64_t hash = flow_cache_prefetch(cache, stage, &key);

	flow_cache_insert(cache, hash, generation, stage, &key, &path);
}

static bool holds(struct flow_cache *cache, uint64_t generation, uint32_t stage, uint32_t n)
{
	struct flow_key key = key_of(n);
	struct flow_path expected = path_of(n);
	uint64_t hash = flow_cache_prefetch(cache, stage, &key);
	const struct flow_path *path;

	path = flow_cache_find(cache, hash, generation, stage, &key);
	if (path)
		CHECK(path->count == expected.count && path->verdict == expected.verdict &&
		      path->default_of == expected.default_of);
	return path != NULL;
}

static unsigned held(struct flow_cache *cache, uint32_t from, uint32_t to)
{
	unsigned count = 0;

	for (uint32_t n = from; n < to; n++)
		count += holds(cache, GENERATION, STAGE, n);
	return count;
}

static void test_exact(struct flow_cache *cache)
{
	CHECK(!holds(cache, GENERATION, STAGE, 1));
	insert(cache, GENERATION, STAGE, 1);
	CHECK(holds(cache, GENERATION, STAGE, 1));
	CHECK(!holds(cache, GENERATION + 1, STAGE, 1));
	CHECK(!holds(cache, GENERATION, STAGE + 1, 1));
	CHECK(!holds(cache, GENERATION, STAGE, 2));
}

/* Every bit of a key counts: no flow gets the way of one that differs in a single bit. */
static void test_bits(struct flow_cache *cache)
{
	struct flow_key key = key_of(1);
	uint8_t *bytes = (uint8_t *)&key;

	for (unsigned bit = 0; bit < 8 * sizeof(key); bit++) {
		uint64_t hash;

		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		hash = flow_cache_prefetch(cache, STAGE, &key);
		CHECK(!flow_cache_find(cache, hash, GENERATION, STAGE, &key));
		/* nor with a hash that collides in full */
		hash = flow_cache_prefetch(cache, STAGE, &(struct flow_key){0});
		CHECK(!flow_cache_find(cache, hash, GENERATION, STAGE, &key));
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* An empty entry is nobody's, not even the first generation's of a key without a bit. */
static void test_empty(struct flow_cache *cache)
{
	CHECK(stamp_of(0, 0) != 0);
	CHECK(!flow_cache_find(cache, 0, 0, 0, &(struct flow_key){0}));
}

static void test_replaced(struct flow_cache *cache)
{
	struct flow_key key = key_of(1);
	struct flow_path path = {.count = 2, .verdict = 9, .default_of = 11};
	uint64_t hash = flow_cache_prefetch(cache, STAGE, &key);
	const struct flow_path *found;

	flow_cache_insert(cache, hash, GENERATION, STAGE, &key, &path);
	found = flow_cache_find(cache, hash, GENERATION, STAGE, &key);
	CHECK(found && found->verdict == 9 && found->default_of == 11);
	path.count = FLOW_PATH_MAX + 1; /* too long a way is not kept */
	path.verdict = 1;
	flow_cache_insert(cache, hash, GENERATION, STAGE, &key, &path);
	found = flow_cache_find(cache, hash, GENERATION, STAGE, &key);
	CHECK(found && found->verdict == 9);
}

/* 100,000 flows fit nearly all; whoever is used while ten times as many pass by stays. */
static void test_room(struct flow_cache *cache)
{
	enum { FLOWS = 100000, FAVOURITES = 100 };
	unsigned kept = 0;

	for (uint32_t n = 0; n < FLOWS; n++)
		insert(cache, GENERATION, STAGE, n);
	CHECK(held(cache, 0, FLOWS) >= FLOWS / 1000 * 999);
	for (uint32_t n = 0; n < 10 * FLOWS; n++) {
		insert(cache, GENERATION, STAGE, FLOWS + n);
		if (n % 100 == 0)
			kept += held(cache, 0, FAVOURITES);
	}
	CHECK(kept >= 10 * FLOWS / 100 * FAVOURITES / 1000 * 999);
}

/* What an older generation left is the first to go. */
static void test_generations(struct flow_cache *cache)
{
	enum { FLOWS = 100000 };
	unsigned found = 0;

	for (uint32_t n = 0; n < FLOWS; n++)
		insert(cache, GENERATION + 1, STAGE, n);
	for (uint32_t n = 0; n < FLOWS; n++)
		found += holds(cache, GENERATION + 1, STAGE, n);
	CHECK(found >= FLOWS / 1000 * 999);
	CHECK(held(cache, 0, FLOWS) == 0);
}

static unsigned bits_of(uint64_t word)
{
	return (unsigned)__builtin_popcountll(word);
}

/* While nearly no flow is there, few of the new ones are let in, at other places each time; with
   some that come again all are. */
static void test_storm(struct flow_cache *cache)
{
	enum { BATCH = 64, BATCHES = 2 * FLOW_CACHE_WINDOW / BATCH };
	uint64_t places = 0;

	CHECK(flow_cache_admit(cache, BATCH, BATCH) == UINT64_MAX);
	for (unsigned i = 0; i < BATCHES; i++)
		flow_cache_admit(cache, BATCH, BATCH);
	for (unsigned i = 0; i < FLOW_CACHE_TURN; i++) {
		uint64_t admitted = flow_cache_admit(cache, BATCH, BATCH);

		CHECK(bits_of(admitted) == BATCH / FLOW_CACHE_TURN && !(admitted & places));
		places |= admitted;
	}
	CHECK(places == UINT64_MAX);
	for (unsigned i = 0; i < BATCHES; i++)
		flow_cache_admit(cache, BATCH, BATCH - BATCH / 8);
	CHECK(flow_cache_admit(cache, BATCH, BATCH) == UINT64_MAX);
}

int main(void)
{
	struct flow_cache *cache = flow_cache_create(42);

	if (!CHECK(cache != NULL))
		return check_result();
	test_empty(cache);
	test_exact(cache);
	test_bits(cache);
	test_replaced(cache);
	test_room(cache);
	test_generations(cache);
	test_storm(cache);
	flow_cache_destroy(cache);
	return check_result();
}
