/* What it is and who runs it: classify.h. This is the workers' half. */
#include "classify.h"

#include <string.h>

#include "classify_tables.h"

static bool range_holds(const struct rule_match *match, const struct flow_key *key)
{
	return key->l4_src >= match->l4_src_lo && key->l4_src <= match->l4_src_hi &&
	       key->l4_dst >= match->l4_dst_lo && key->l4_dst <= match->l4_dst_hi;
}

static bool match_holds(const struct rule_match *match, const struct flow_key *key)
{
	uint64_t words[FLOW_WORDS], value[FLOW_WORDS], mask[FLOW_WORDS], differs = 0;

	memcpy(words, key, sizeof(words));
	memcpy(value, &match->value, sizeof(value));
	memcpy(mask, &match->mask, sizeof(mask));
	for (unsigned w = 0; w < FLOW_WORDS; w++)
		differs |= (words[w] & mask[w]) ^ value[w];
	return !differs && range_holds(match, key);
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

const struct classify_rule *classify(const struct classifier *classifier,
				     const struct flow_key *key, const struct classify_rule *after)
{
	for (uint32_t i = 0; i < classifier->count; i++) {
		const struct classify_rule *rule = &classifier->rules[i]->rule;

		if (after && rule_compare(rule, after) <= 0)
			continue;
		if (rule_matches(rule, key))
			return rule;
	}
	return NULL;
}

const struct flow_key *classifier_needs(const struct classifier *classifier)
{
	return &classifier->needs;
}

void classifier_size(const struct classifier *classifier, struct classify_size *size)
{
	*size = (struct classify_size){.rules = classifier->count};
	for (uint32_t i = 0; i < classifier->count; i++)
		size->matches += classifier->rules[i]->rule.match_count;
	size->bytes = classifier->count * sizeof(struct rule_node) +
		      size->matches * sizeof(struct rule_match);
}

const struct classify_rule *classifier_at(const struct classifier *classifier, uint32_t index)
{
	return index < classifier->count ? &classifier->rules[index]->rule : NULL;
}
