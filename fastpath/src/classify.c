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
	uint32_t tag = (uint32_t)hash, i;

	if (!shard)
		return;
	for (i = shard_find(shard, tag); i < shard->count && shard->tags[i] == tag; i++) {
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

const struct classify_rule *classify(const struct classifier *classifier,
				     const struct flow_key *key, const struct classify_rule *after)
{
	const struct classify_hash *hash = &classifier->hash;
	struct search search = {.src = key->l4_src, .dst = key->l4_dst, .after = after};
	uint64_t used[FLOW_WORDS], hashes[GROUP_TABLES];

	memcpy(search.key, key, sizeof(search.key));
	for (unsigned w = 0; w < hash->words; w++)
		used[w] = search.key[hash->word[w]];
	for (uint32_t g = 0; g < classifier->group_count; g++) {
		const struct probe_group *group = &classifier->groups[g];
		unsigned found;

		if (!comes_first(&search, group->best[0], group->best_rule[0]))
			break;
		found = classifier->probe(group, hash, used, hashes);
		for (; found; found &= found - 1) {
			unsigned lane = (unsigned)__builtin_ctz(found);
			const struct table *table = group->table[lane];

			if (!comes_first(&search, group->best[lane], group->best_rule[lane]))
				return search.best;
			if (!table_passed(table, after))
				search_bucket(&search, table, hashes[lane]);
		}
	}
	return search.best;
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
