/*
 * Runs on: control thread. Versions of a classifier: one from another and a change, and how long a
 * version lives. classify_tables.h says what is shared.
 *
 * A change puts each new alternative into a table that has room for it in a short bucket, or into a
 * new one. When so much has changed, or so many tables have come about, that the masks chosen once
 * fit no more, all tables are planned again; that costs what so many changes may cost.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "classify_tables.h"

enum { REPLAN_CHANGES_MIN = 64, TABLES_SPARE = 6 };

struct classifier *classifier_empty(void)
{
	struct classifier *classifier = calloc(1, sizeof(*classifier));

	if (!classifier)
		return NULL;
	classifier->probe = classify_probe_choose();
	if (getrandom(classifier->hash.seed, sizeof(classifier->hash.seed), 0) !=
		(ssize_t)sizeof(classifier->hash.seed) ||
	    rule_list_number(&classifier->list)) {
		free(classifier);
		return NULL;
	}
	return classifier;
}

static void tables_drop(struct table **tables, uint32_t count)
{
	for (uint32_t t = 0; t < count; t++)
		table_drop(tables[t]);
	free(tables);
}

void classifier_free(struct classifier *classifier)
{
	if (!classifier)
		return;
	tables_drop(classifier->tables, classifier->table_count);
	rule_list_free(&classifier->list);
	slot_map_free(&classifier->slots);
	free(classifier->groups);
	free(classifier);
}

/* --- a version like the other one --------------------------------------------------------------
 */

static struct classifier *version_of(const struct classifier *base)
{
	struct classifier *made = calloc(1, sizeof(*made));

	if (!made)
		return NULL;
	made->hash = base->hash;
	made->probe = base->probe;
	made->rules = base->rules;
	made->matches = base->matches;
	made->planned_tables = base->planned_tables;
	made->changes = base->changes;
	made->tables = calloc((size_t)base->table_count + 1, sizeof(made->tables[0]));
	for (uint32_t t = 0; made->tables && t < base->table_count; t++) {
		made->tables[t] = base->tables[t];
		made->tables[t]->holders++;
		made->table_count++;
	}
	if (!made->tables || rule_list_copy(&made->list, &base->list) ||
	    slot_map_copy(&made->slots, &base->slots)) {
		classifier_free(made);
		return NULL;
	}
	return made;
}

/* --- the tables change -------------------------------------------------------------------------
 */

static int match_remove(struct classifier *classifier, const struct rule_node *node,
			const struct rule_match *match)
{
	struct pattern pattern;
	uint32_t removed = 0;

	pattern_make(&pattern, match);
	for (uint32_t t = 0; t < classifier->table_count; t++) {
		struct table **table = &classifier->tables[t];
		uint64_t hash;

		if (!mask_within((*table)->mask, pattern.mask))
			continue;
		hash = hash_masked(classifier->hash.seed, pattern.value, (*table)->mask);
		if (table_remove(table, hash, &node->rule, &removed))
			return -ENOMEM;
	}
	return 0;
}

static int table_add(struct classifier *classifier, const struct pattern *pattern, bool exact)
{
	uint64_t mask[FLOW_WORDS];
	struct table **more = realloc(classifier->tables, ((size_t)classifier->table_count + 1) *
							      sizeof(classifier->tables[0]));

	if (!more)
		return -ENOMEM;
	classifier->tables = more;
	table_mask_for(pattern, exact, mask);
	more[classifier->table_count] = table_create(mask, 0);
	if (!more[classifier->table_count])
		return -ENOMEM;
	classifier->table_count++;
	return 0;
}

/*
 * The first table where the pattern's bucket has room: tables stay apart by their best rules, and a
 * search ends early. Else the one that hashes all of the pattern, whose bucket may become as long
 * as it must, since no mask can part it. table_count: none.
 */
static uint32_t table_for(const struct classifier *classifier, const struct pattern *pattern)
{
	uint32_t exact = classifier->table_count;

	for (uint32_t t = 0; t < classifier->table_count; t++) {
		const struct table *table = classifier->tables[t];

		if (!mask_within(table->mask, pattern->mask))
			continue;
		if (table_bucket(table, hash_masked(classifier->hash.seed, pattern->value,
						    table->mask)) < BUCKET_MAX)
			return t;
		if (mask_within(pattern->mask, table->mask))
			exact = t;
	}
	return exact;
}

static bool mask_known(const struct classifier *classifier, const struct pattern *pattern)
{
	uint64_t mask[FLOW_WORDS];

	table_mask_for(pattern, false, mask);
	for (uint32_t t = 0; t < classifier->table_count; t++)
		if (!memcmp(classifier->tables[t]->mask, mask, sizeof(mask)))
			return true;
	return false;
}

static int match_insert(struct classifier *classifier, const struct rule_node *node,
			const struct rule_match *match)
{
	struct pattern pattern;
	struct table **table;
	uint32_t t;

	pattern_make(&pattern, match);
	t = table_for(classifier, &pattern);
	if (t == classifier->table_count &&
	    table_add(classifier, &pattern, mask_known(classifier, &pattern)))
		return -ENOMEM;
	table = &classifier->tables[t];
	return table_insert(
	    table, hash_masked(classifier->hash.seed, pattern.value, (*table)->mask), node, match);
}

/* --- rules come and go -------------------------------------------------------------------------
 */

/* `in_tables`: its entries, too. */
static int rule_leave(struct classifier *classifier, uint32_t slot, bool in_tables)
{
	struct rule_node *node = slot_map_get(&classifier->slots, slot);
	uint32_t count;

	if (!node)
		return -EINVAL; /* named twice */
	count = node->rule.match_count;
	if (rule_list_remove(&classifier->list, node))
		return -ENOMEM;
	for (uint32_t m = 0; in_tables && m < count; m++)
		if (match_remove(classifier, node, &node->matches[m]))
			return -ENOMEM;
	classifier->rules--;
	classifier->matches -= count;
	classifier->changes += count;
	return slot_map_set(&classifier->slots, slot, NULL);
}

static int rule_enter(struct classifier *classifier, const struct rule_config *config,
		      bool in_tables)
{
	struct rule_node *node = node_create(config);
	int status = node ? slot_map_set(&classifier->slots, config->slot, node) : -ENOMEM;

	if (!node)
		return -ENOMEM;
	if (!status) {
		status = rule_list_insert(&classifier->list, node);
		if (status) /* no entry is there yet */
			slot_map_set(&classifier->slots, config->slot, NULL);
	}
	for (uint32_t m = 0; !status && in_tables && m < config->match_count; m++)
		status = match_insert(classifier, node, &node->matches[m]);
	classifier->rules++;
	classifier->matches += config->match_count;
	classifier->changes += config->match_count;
	node_drop(node); /* the map holds it */
	return status;
}

/* --- the new version is finished ---------------------------------------------------------------
 */

static int table_compare(const void *a, const void *b)
{
	const struct table *const *x = a, *const *y = b;

	return rule_compare((*x)->summary.best, (*y)->summary.best);
}

/* Tables in the order of their best rules, none empty. */
static void tables_settle(struct classifier *classifier)
{
	uint64_t needs[FLOW_WORDS] = {0};
	uint32_t kept = 0;

	for (uint32_t t = 0; t < classifier->table_count; t++) {
		struct table *table = classifier->tables[t];

		if (!table->entries) {
			table_drop(table);
			continue;
		}
		table_summarize(table);
		for (unsigned w = 0; w < FLOW_WORDS; w++)
			needs[w] |= table->summary.needs[w];
		classifier->tables[kept++] = table;
	}
	classifier->table_count = kept;
	memcpy(&classifier->needs, needs, sizeof(needs));
	if (kept)
		qsort(classifier->tables, kept, sizeof(classifier->tables[0]), table_compare);
}

static void hash_settle(struct classifier *classifier)
{
	struct classify_hash *hash = &classifier->hash;

	hash->words = 0;
	hash->base = 0;
	for (unsigned w = 0; w < FLOW_WORDS; w++) {
		uint64_t used = 0;

		for (uint32_t t = 0; t < classifier->table_count; t++)
			used |= classifier->tables[t]->mask[w];
		if (!used)
			continue;
		hash->word[hash->words++] = (uint8_t)w;
		hash->base -= hash_word(0, hash->seed[w]);
	}
}

static int groups_make(struct classifier *classifier)
{
	static const uint64_t nothing[FILTER_WORDS]; /* a filter that nothing passes */
	const struct classify_hash *hash = &classifier->hash;
	uint32_t groups = (classifier->table_count + GROUP_TABLES - 1) / GROUP_TABLES;

	hash_settle(classifier);
	classifier->group_count = groups;
	if (!groups)
		return 0;
	classifier->groups = aligned_alloc(64, groups * sizeof(classifier->groups[0]));
	if (!classifier->groups)
		return -ENOMEM;
	memset(classifier->groups, 0, groups * sizeof(classifier->groups[0]));
	for (uint32_t t = 0; t < groups * GROUP_TABLES; t++) {
		struct probe_group *group = &classifier->groups[t / GROUP_TABLES];
		const struct table *table =
		    t < classifier->table_count ? classifier->tables[t] : NULL;
		unsigned lane = t % GROUP_TABLES;

		group->table[lane] = table;
		group->filter[lane] = table ? table->filter : nothing;
		group->shift[lane] = 63u - (table ? table->shard_bits : 0u);
		group->best_rule[lane] = table ? table->summary.best : NULL;
		group->best[lane] = table ? table->summary.best->priority : INT32_MAX;
		group->tables += table != NULL;
		for (unsigned w = 0; table && w < hash->words; w++)
			group->mask[w][lane] = table->mask[hash->word[w]];
	}
	return 0;
}

/* The list anew, its pages filled well, and the tables from it. */
static int replan(struct classifier *classifier)
{
	tables_drop(classifier->tables, classifier->table_count);
	classifier->tables = NULL;
	classifier->table_count = 0;
	if (tables_plan(&classifier->list, classifier->matches, classifier->hash.seed,
			&classifier->tables, &classifier->table_count))
		return -ENOMEM;
	classifier->planned_tables = classifier->table_count;
	classifier->changes = 0;
	return 0;
}

static bool plan_outlived(const struct classifier *classifier)
{
	if (classifier->changes < REPLAN_CHANGES_MIN)
		return false;
	if (classifier->changes > classifier->matches / 2)
		return true;
	return classifier->table_count > 2 * classifier->planned_tables + TABLES_SPARE &&
	       classifier->changes > classifier->matches / 16;
}

static int finish(struct classifier *classifier, bool planned)
{
	int status = 0;

	if (!planned)
		status = replan(classifier);
	tables_settle(classifier);
	if (!status && planned && plan_outlived(classifier)) {
		status = replan(classifier);
		tables_settle(classifier);
	}
	if (!status)
		status = rule_list_number(&classifier->list);
	return status ? status : groups_make(classifier);
}

/* --- a change ----------------------------------------------------------------------------------
 */

struct change {
	const uint32_t *removed;
	unsigned removed_count;
	const struct rule_config *added;
	unsigned added_count;
};

static uint64_t change_matches(const struct classifier *base, const struct change *change)
{
	uint64_t matches = 0;

	for (unsigned i = 0; i < change->removed_count; i++)
		matches += slot_map_get(&base->slots, change->removed[i])->rule.match_count;
	for (unsigned i = 0; i < change->added_count; i++) {
		const struct rule_node *node = slot_map_get(&base->slots, change->added[i].slot);

		matches += change->added[i].match_count + (node ? node->rule.match_count : 0);
	}
	return matches;
}

static int change_apply(struct classifier *classifier, const struct change *change, bool in_tables)
{
	int status = 0;

	for (unsigned i = 0; i < change->removed_count && !status; i++)
		status = rule_leave(classifier, change->removed[i], in_tables);
	for (unsigned i = 0; i < change->added_count && !status; i++) {
		const struct rule_config *config = &change->added[i];

		if (slot_map_get(&classifier->slots, config->slot))
			status = rule_leave(classifier, config->slot, in_tables);
		if (!status)
			status = rule_enter(classifier, config, in_tables);
	}
	return status;
}

int classifier_update(const struct classifier *base, const uint32_t *removed,
		      unsigned removed_count, const struct rule_config *added, unsigned added_count,
		      struct classifier **out, struct error *err)
{
	struct change change = {removed, removed_count, added, added_count};
	struct classifier *made;
	bool in_tables;
	int status;

	for (unsigned i = 0; i < removed_count; i++)
		if (!slot_map_get(&base->slots, removed[i]))
			return error_set(err, EINVAL, "rules: slot %u is not in the set",
					 removed[i]);
	/* A change as large as what was there: planning is cheaper than so many steps. */
	in_tables = change_matches(base, &change) <= REPLAN_CHANGES_MIN + base->matches / 4;
	made = version_of(base);
	status = made ? change_apply(made, &change, in_tables) : -ENOMEM;
	if (!status)
		status = finish(made, in_tables);
	if (status) {
		classifier_free(made);
		return status == -EINVAL ? error_set(err, EINVAL, "rules: a slot goes twice")
					 : error_set(err, ENOMEM, "rules: no memory");
	}
	*out = made;
	return 0;
}
