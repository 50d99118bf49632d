/* What it is and who runs it: classify.h. This is the workers' half. */
#include "classify.h"

#include "classify_tables.h"

/* --- the definition ----------------------------------------------------------------------------
 */

static bool match_holds(const struct rule_match *match, const struct flow_key *key)
{
	uint64_t words[FLOW_WORDS], value[FLOW_WORDS], mask[FLOW_WORDS], differs = 0;

	memcpy(words, key, sizeof(words));
	memcpy(value, &match->value, sizeof(value));
	memcpy(mask, &match->mask, sizeof(mask));
	for (unsigned w = 0; w < FLOW_WORDS; w++)
		differs |= (words[w] & mask[w]) ^ value[w];
	return !differs && key->l4_src >= match->l4_src_lo && key->l4_src <= match->l4_src_hi &&
	       key->l4_dst >= match->l4_dst_lo && key->l4_dst <= match->l4_dst_hi;
}

bool rule_matches(const struct classify_rule *rule, const struct flow_key *key)
{
	for (uint32_t i = 0; i < rule->match_count; i++)
		if (match_holds(&rule->matches[i], key))
			return true;
	return false;
}

int rule_compare(const struct classify_rule *a, const struct classify_rule *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority ? -1 : 1;
	return memcmp(a->id, b->id, sizeof(a->id));
}

/* --- looking up --------------------------------------------------------------------------------
 */

static inline bool entry_matches(const struct entry *entry, const uint8_t *word, unsigned words,
				 const uint64_t key[FLOW_WORDS], uint16_t src, uint16_t dst)
{
	uint64_t differs = 0;

	for (unsigned i = 0; i < words; i++)
		differs |= (key[word[i]] & entry->words[2 * i + 1]) ^ entry->words[2 * i];
	return !differs && src >= entry->src_lo && src <= entry->src_hi && dst >= entry->dst_lo &&
	       dst <= entry->dst_hi;
}

struct search {
	uint64_t key[FLOW_WORDS];
	uint16_t src, dst;
	int32_t best_priority;		   /* so that the rule's memory is not asked for it */
	const struct classify_rule *best;  /* so far; NULL: none */
	const struct classify_rule *after; /* NULL: from the first */
};

/* Can a rule of this priority be better than what was found? Equal priorities: the rules decide. */
static inline bool comes_first(const struct search *search, int32_t priority,
			       const struct classify_rule *rule)
{
	if (!search->best)
		return true;
	if (priority != search->best_priority)
		return priority < search->best_priority;
	return rule_compare(rule, search->best) < 0;
}

static void search_bucket(struct search *search, const struct table *table, uint64_t hash)
{
	const struct shard *shard =
	    table->shards[shard_index((uint32_t)(hash >> 32), table->shard_bits)];
	struct bucket bucket;

	if (!shard)
		return;
	bucket = shard_bucket(shard, (uint32_t)hash);
	for (uint32_t i = bucket.first; i < bucket.end; i++) {
		const struct entry *entry = shard_entry(shard, table->words, i);

		if (!comes_first(search, entry->priority, entry->rule))
			return;
		if (!entry_matches(entry, table->word, table->words, search->key, search->src,
				   search->dst))
			continue;
		if (search->after && rule_compare(entry->rule, search->after) <= 0)
			continue;
		search->best = entry->rule;
		search->best_priority = entry->priority;
		return;
	}
}

/* Nothing in the table comes behind `after`. */
static inline bool table_passed(const struct table *table, const struct classify_rule *after)
{
	return after && rule_compare(table->summary.worst, after) <= 0;
}

/* The words of a key that some table hashes. */
static inline void key_used(const struct classify_hash *hash, const uint64_t key[FLOW_WORDS],
			    uint64_t used[FLOW_WORDS])
{
	for (unsigned w = 0; w < hash->words; w++)
		used[w] = key[hash->word[w]];
}

/* The tables of a group that may hold a match. False: nothing better comes behind. */
static inline bool search_group(struct search *search, const struct probe_group *group,
				unsigned found, const uint64_t hashes[GROUP_TABLES])
{
	for (; found; found &= found - 1) {
		unsigned lane = (unsigned)__builtin_ctz(found);
		const struct table *table = group->table[lane];

		if (!comes_first(search, group->best[lane], group->best_rule[lane]))
			return false;
		if (!table_passed(table, search->after))
			search_bucket(search, table, hashes[lane]);
	}
	return true;
}

/* The groups from number g on. */
static void search_groups(struct search *search, const struct classifier *classifier, uint32_t g)
{
	const struct classify_hash *hash = &classifier->hash;
	uint64_t used[FLOW_WORDS], hashes[GROUP_TABLES];

	key_used(hash, search->key, used);
	for (; g < classifier->group_count; g++) {
		const struct probe_group *group = &classifier->groups[g];

		if (!comes_first(search, group->best[0], group->best_rule[0]) ||
		    !search_group(search, group, classifier->probe(group, hash, used, hashes),
				  hashes))
			return;
	}
}

const struct classify_rule *classify(const struct classifier *classifier,
				     const struct flow_key *key, const struct classify_rule *after)
{
	struct search search = {.src = key->l4_src, .dst = key->l4_dst, .after = after};

	memcpy(search.key, key, sizeof(search.key));
	search_groups(&search, classifier, 0);
	return search.best;
}

/* --- looking up many ---------------------------------------------------------------------------
 */

enum { AHEAD_TABLES = 2 }; /* of a search, whose shards are fetched before it begins */

/* What the first group says of a key, and where its search will look. */
struct ahead {
	uint64_t hashes[GROUP_TABLES];
	unsigned found;
	uint8_t lane[AHEAD_TABLES]; /* the first tables that may hold a match, or any */
};

static inline struct shard *const *ahead_shard(const struct probe_group *group,
					       const struct ahead *ahead, unsigned i)
{
	const struct table *table = group->table[ahead->lane[i]];

	return &table->shards[shard_index((uint32_t)(ahead->hashes[ahead->lane[i]] >> 32),
					  table->shard_bits)];
}

static void probe_ahead(const struct classifier *classifier, const struct flow_key *const *keys,
			unsigned count, struct ahead *aheads)
{
	const struct probe_group *group = &classifier->groups[0];
	const struct classify_hash *hash = &classifier->hash;

	for (unsigned n = 0; n < count; n++) {
		uint64_t key[FLOW_WORDS], used[FLOW_WORDS];
		struct ahead *ahead = &aheads[n];
		unsigned first, second;

		memcpy(key, keys[n], sizeof(key));
		key_used(hash, key, used);
		ahead->found = classifier->probe(group, hash, used, ahead->hashes);
		first = ahead->found ? ahead->found : 1;
		second = first & (first - 1);
		second = second ? second : first;
		ahead->lane[0] = (uint8_t)__builtin_ctz(first);
		ahead->lane[1] = (uint8_t)__builtin_ctz(second);
		__builtin_prefetch(ahead_shard(group, ahead, 0));
		__builtin_prefetch(ahead_shard(group, ahead, 1));
	}
}

/* Their heads, with the tags. Inline: a function that does nothing but this has no effect to gcc.
 */
__attribute__((always_inline)) static inline void
shards_ahead(const struct classifier *classifier, unsigned count, const struct ahead *aheads)
{
	for (unsigned n = 0; n < count; n++)
		for (unsigned i = 0; i < AHEAD_TABLES; i++) {
			const char *shard =
			    (const char *)*ahead_shard(&classifier->groups[0], &aheads[n], i);

			__builtin_prefetch(shard);
			__builtin_prefetch(shard + 64);
		}
}

/* The entries that are compared first. */
__attribute__((always_inline)) static inline void
entries_ahead(const struct classifier *classifier, unsigned count, const struct ahead *aheads)
{
	const struct probe_group *group = &classifier->groups[0];

	for (unsigned n = 0; n < count; n++)
		for (unsigned i = 0; i < AHEAD_TABLES; i++) {
			unsigned lane = aheads[n].lane[i];
			const struct shard *shard = *ahead_shard(group, &aheads[n], i);
			const char *entry;

			if (__builtin_expect(!shard, 0))
				continue;
			entry = (const char *)shard_entry(
			    shard, group->table[lane]->words,
			    shard_bucket(shard, (uint32_t)aheads[n].hashes[lane]).first);
			__builtin_prefetch(entry);
			__builtin_prefetch(entry + 64);
			__builtin_prefetch(entry + 128);
		}
}

void classify_batch(const struct classifier *classifier, const struct flow_key *const *keys,
		    unsigned count, const struct classify_rule **rules)
{
	struct ahead aheads[CLASSIFY_BATCH];

	if (!classifier->group_count || !count) {
		memset(rules, 0, count * sizeof(rules[0]));
		return;
	}
	probe_ahead(classifier, keys, count, aheads);
	shards_ahead(classifier, count, aheads);
	entries_ahead(classifier, count, aheads);
	for (unsigned n = 0; n < count; n++) {
		struct search search = {.src = keys[n]->l4_src, .dst = keys[n]->l4_dst};

		memcpy(search.key, keys[n], sizeof(search.key));
		if (search_group(&search, &classifier->groups[0], aheads[n].found,
				 aheads[n].hashes) &&
		    classifier->group_count > 1)
			search_groups(&search, classifier, 1);
		rules[n] = search.best;
		__builtin_prefetch(search.best);
		__builtin_prefetch(
		    (const void *)((uintptr_t)search.best + offsetof(struct classify_rule, id)));
	}
}

/* --- asking about it ---------------------------------------------------------------------------
 */

const struct flow_key *classifier_needs(const struct classifier *classifier)
{
	return &classifier->needs;
}

void classifier_size(const struct classifier *classifier, struct classify_size *size)
{
	*size = (struct classify_size){
	    .rules = classifier->rules,
	    .matches = classifier->matches,
	    .tables = classifier->table_count,
	    .bytes = sizeof(*classifier) + classifier->group_count * sizeof(classifier->groups[0]) +
		     classifier->rules * sizeof(struct rule_node) +
		     classifier->matches * sizeof(struct rule_match) +
		     (classifier->list.count + classifier->slots.count) * sizeof(struct rule_page)};
	for (uint32_t t = 0; t < classifier->table_count; t++)
		size->bytes += table_bytes(classifier->tables[t]);
}

const struct classify_rule *classifier_at(const struct classifier *classifier, uint32_t index)
{
	const struct rule_node *node = rule_list_at(&classifier->list, index);

	return node ? &node->rule : NULL;
}
