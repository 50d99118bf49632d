/* What it is and who runs it: classify.h. This is the control thread's half. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "classify_tables.h"

static struct rule_node *node_create(const struct rule_config *config)
{
	size_t bytes = config->match_count * sizeof(struct rule_match);
	struct rule_node *node = malloc(sizeof(*node) + bytes);

	if (!node)
		return NULL;
	if (bytes)
		memcpy(node->matches, config->matches, bytes);
	node->holders = 1;
	node->rule = (struct classify_rule){.slot = config->slot,
					    .priority = config->priority,
					    .action = config->action,
					    .match_count = config->match_count,
					    .matches = node->matches};
	memcpy(node->rule.id, config->id, sizeof(node->rule.id));
	return node;
}

static void node_drop(struct rule_node *node)
{
	if (!--node->holders)
		free(node);
}

static int slot_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int node_compare(const void *a, const void *b)
{
	const struct rule_node *const *x = a, *const *y = b;

	return rule_compare(&(*x)->rule, &(*y)->rule);
}

static void needs_add(struct flow_key *needs, const struct rule_match *match)
{
	const uint8_t *mask = (const uint8_t *)&match->mask;
	uint8_t *bits = (uint8_t *)needs;

	for (unsigned i = 0; i < sizeof(*needs); i++)
		bits[i] |= mask[i];
	if (match->l4_src_lo > 0 || match->l4_src_hi < UINT16_MAX)
		needs->l4_src = UINT16_MAX;
	if (match->l4_dst_lo > 0 || match->l4_dst_hi < UINT16_MAX)
		needs->l4_dst = UINT16_MAX;
}

/* Slots that leave `base`: those removed and those replaced, sorted. */
static uint32_t *slots_leaving(const uint32_t *removed, unsigned removed_count,
			       const struct rule_config *added, unsigned added_count)
{
	uint32_t *slots = calloc((size_t)removed_count + added_count + 1, sizeof(*slots));

	if (!slots)
		return NULL;
	for (unsigned i = 0; i < removed_count; i++)
		slots[i] = removed[i];
	for (unsigned i = 0; i < added_count; i++)
		slots[removed_count + i] = added[i].slot;
	qsort(slots, (size_t)removed_count + added_count, sizeof(*slots), slot_compare);
	return slots;
}

static bool slot_known(const struct classifier *base, uint32_t slot)
{
	for (uint32_t i = 0; i < base->count; i++)
		if (base->rules[i]->rule.slot == slot)
			return true;
	return false;
}

static void nodes_needs(struct classifier *classifier)
{
	for (uint32_t i = 0; i < classifier->count; i++)
		for (uint32_t m = 0; m < classifier->rules[i]->rule.match_count; m++)
			needs_add(&classifier->needs, &classifier->rules[i]->matches[m]);
}

struct classifier *classifier_empty(void)
{
	return calloc(1, sizeof(struct classifier));
}

int classifier_update(const struct classifier *base, const uint32_t *removed,
		      unsigned removed_count, const struct rule_config *added, unsigned added_count,
		      struct classifier **out, struct error *err)
{
	uint32_t *slots = slots_leaving(removed, removed_count, added, added_count);
	struct classifier *made =
	    calloc(1, sizeof(*made) + ((size_t)base->count + added_count) * sizeof(void *));
	int status = slots && made ? 0 : -ENOMEM;

	for (unsigned i = 0; i < removed_count && !status; i++)
		if (!slot_known(base, removed[i]))
			status =
			    error_set(err, EINVAL, "rules: slot %u is not in the set", removed[i]);
	for (uint32_t i = 0; i < base->count && !status; i++) {
		struct rule_node *node = base->rules[i];

		if (bsearch(&node->rule.slot, slots, (size_t)removed_count + added_count,
			    sizeof(*slots), slot_compare))
			continue;
		node->holders++;
		made->rules[made->count++] = node;
	}
	for (unsigned i = 0; i < added_count && !status; i++) {
		struct rule_node *node = node_create(&added[i]);

		if (!node)
			status = -ENOMEM;
		else
			made->rules[made->count++] = node;
	}
	free(slots);
	if (status) {
		classifier_free(made);
		return status == -ENOMEM ? error_set(err, ENOMEM, "rules: no memory") : status;
	}
	qsort(made->rules, made->count, sizeof(made->rules[0]), node_compare);
	nodes_needs(made);
	*out = made;
	return 0;
}

void classifier_free(struct classifier *classifier)
{
	if (!classifier)
		return;
	for (uint32_t i = 0; i < classifier->count; i++)
		node_drop(classifier->rules[i]);
	free(classifier);
}
