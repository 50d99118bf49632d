/*
 * The classifier and the flow cache as Python tests call them (tests/support/core.py).
 */
#include <stdlib.h>
#include <string.h>

#include "classify.h"
#include "flow_cache.h"

/* cffi: begin */
enum { SHIM_MET = 3, SHIM_NONE = 0x7fffffff, SHIM_SPLIT = -1 };

struct classifier *shim_classifier_empty(void);
/* A new version; the old one stays. NULL: refused. */
struct classifier *shim_classifier_update(const struct classifier *base, const uint32_t *removed,
					  unsigned removed_count, const struct rule_config *added,
					  unsigned added_count);
void shim_classifier_free(struct classifier *classifier);

struct flow_cache *shim_cache_create(uint64_t seed);
void shim_cache_destroy(struct flow_cache *cache);

/* The slots of the first SHIM_MET rules that each key meets, in order, SHIM_NONE behind them.
   SHIM_SPLIT: one key alone and many at once are not told the same. */
void shim_classify(const struct classifier *classifier, const struct flow_key *keys, unsigned count,
		   int32_t *met);
/* The first one each, as the cache says; what it does not know it learns from the classifier. */
unsigned shim_classify_cached(const struct classifier *classifier, struct flow_cache *cache,
			      uint64_t generation, const struct flow_key *keys, unsigned count,
			      int32_t *met);
/* rules, alternatives, tables */
void shim_classifier_size(const struct classifier *classifier, uint32_t size[3]);
/* cffi: end */

struct classifier *shim_classifier_empty(void)
{
	return classifier_empty();
}

struct classifier *shim_classifier_update(const struct classifier *base, const uint32_t *removed,
					  unsigned removed_count, const struct rule_config *added,
					  unsigned added_count)
{
	struct classifier *made = NULL;
	struct error err;

	if (classifier_update(base, removed, removed_count, added, added_count, &made, &err))
		return NULL;
	return made;
}

void shim_classifier_free(struct classifier *classifier)
{
	classifier_free(classifier);
}

struct flow_cache *shim_cache_create(uint64_t seed)
{
	return flow_cache_create(seed);
}

void shim_cache_destroy(struct flow_cache *cache)
{
	flow_cache_destroy(cache);
}

static int32_t slot_of(const struct classify_rule *rule)
{
	return rule ? (int32_t)rule->slot : SHIM_NONE;
}

/* Of up to CLASSIFY_BATCH keys. */
static void classify_some(const struct classifier *classifier, const struct flow_key *keys,
			  unsigned count, int32_t *met)
{
	const struct classify_rule *first[CLASSIFY_BATCH];
	const struct flow_key *pointers[CLASSIFY_BATCH];

	for (unsigned i = 0; i < count; i++)
		pointers[i] = &keys[i];
	classify_batch(classifier, pointers, count, first);
	for (unsigned i = 0; i < count; i++, met += SHIM_MET) {
		const struct classify_rule *rule = classify(classifier, &keys[i], NULL);

		met[0] = rule == first[i] ? slot_of(rule) : SHIM_SPLIT;
		for (unsigned n = 1; n < SHIM_MET; n++) {
			rule = rule ? classify(classifier, &keys[i], rule) : NULL;
			met[n] = slot_of(rule);
		}
	}
}

void shim_classify(const struct classifier *classifier, const struct flow_key *keys, unsigned count,
		   int32_t *met)
{
	for (unsigned from = 0; from < count; from += CLASSIFY_BATCH)
		classify_some(classifier, keys + from,
			      count - from < CLASSIFY_BATCH ? count - from : CLASSIFY_BATCH,
			      met + from * SHIM_MET);
}

static void key_mask(const struct flow_key *key, const struct flow_key *needs,
		     struct flow_key *masked)
{
	const uint8_t *from = (const uint8_t *)key, *mask = (const uint8_t *)needs;
	uint8_t *to = (uint8_t *)masked;

	for (unsigned i = 0; i < sizeof(*key); i++)
		to[i] = from[i] & mask[i];
}

unsigned shim_classify_cached(const struct classifier *classifier, struct flow_cache *cache,
			      uint64_t generation, const struct flow_key *keys, unsigned count,
			      int32_t *met)
{
	unsigned hits = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct flow_path *found;
		struct flow_key masked;
		uint64_t hash;

		key_mask(&keys[i], classifier_needs(classifier), &masked);
		hash = flow_cache_prefetch(cache, 0, &masked);
		found = flow_cache_find(cache, hash, generation, 0, &masked);
		if (found) {
			hits++;
			met[i] = found->count ? (int32_t)found->rules[0]->slot : SHIM_NONE;
		} else {
			const struct classify_rule *rule = classify(classifier, &keys[i], NULL);
			struct flow_path path = {.count = rule != NULL, .rules = {rule}};

			if (i % 2)
				flow_cache_insert(cache, hash, generation, 0, &masked, &path);
			else
				flow_cache_put(cache, flow_cache_place(cache, hash, generation),
					       hash, generation, 0, &masked, &path);
			met[i] = slot_of(rule);
		}
	}
	return hits;
}

void shim_classifier_size(const struct classifier *classifier, uint32_t size[3])
{
	struct classify_size is;

	classifier_size(classifier, &is);
	size[0] = is.rules;
	size[1] = is.matches;
	size[2] = is.tables;
}
