/*
 * Runs on: control thread. Chooses the masks of a classifier's tables from all its rules.
 *
 * A table costs a probe for every frame, an entry in a bucket a comparison for every frame that
 * comes to the bucket. So few tables are wanted that hold many rules each, in small buckets. The
 * candidates are the masks of the rules, cut down field by field to steps; again and again the one
 * is taken that would hold most of what is left, where an entry in a long bucket counts less
 * (greedy; a candidate is judged by a sample of the rules, and again only when its last judgement,
 * which can but fall, would make it the best).
 *
 * What is placed are units: all alternatives that no mask can part (the same pattern). They share a
 * bucket whatever its length.
 */
#include <errno.h>
#include <stdlib.h>

#include "classify_tables.h"

enum {
	TABLES_PLANNED_MAX = 96, /* then what is left goes wherever it fits */
	CANDIDATES_MAX = 2048,
	SAMPLE_UNITS = 1024,
	NONE = -1
};

/* How much less an entry is worth for each other one in its bucket. */
static const double bucket_penalty = 0.12;

struct kind {
	uint64_t mask[FLOW_WORDS];
};

/* Alternatives of one pattern. */
struct unit {
	uint32_t kind;
	uint32_t first, last; /* items, linked */
	bool placed;
};

struct item {
	const struct rule_node *node;
	const struct rule_match *match;
	int64_t next; /* of the unit; NONE */
};

struct candidate {
	uint64_t mask[FLOW_WORDS];
	double bound; /* it is worth no more than this many units */
};

struct sampled {
	uint64_t value[FLOW_WORDS];
	uint32_t unit;
	uint32_t kind;
};

/* Counts how often a number was met; the round saves clearing. */
struct tally {
	struct {
		uint64_t number;
		uint32_t round;
		uint32_t count;
	} * cells;
	uint64_t cell_mask;
	uint32_t round;
};

struct plan {
	const uint64_t *seed;
	struct item *items;
	uint32_t item_count;
	struct unit *units;
	uint32_t unit_count;
	uint32_t left; /* units not placed yet */
	struct kind *kinds;
	uint32_t kind_count;
	struct candidate *candidates;
	uint32_t candidate_count;
	struct sampled *sample;
	uint32_t sample_count;
	uint32_t sample_left;
	double scale; /* units that one of the sample stands for */
	double gains[SAMPLE_UNITS];
	struct tally small, large;
	struct table **tables;
	uint32_t table_count;
};

/* --- tallies -----------------------------------------------------------------------------------
 */

static int tally_open(struct tally *tally, uint64_t numbers)
{
	uint64_t cells = 64;

	while (cells < 2 * numbers)
		cells *= 2;
	tally->cells = calloc(cells, sizeof(tally->cells[0]));
	tally->cell_mask = cells - 1;
	tally->round = 0;
	return tally->cells ? 0 : -ENOMEM;
}

static void tally_clear(struct tally *tally)
{
	tally->round++;
}

/* The count of a number, 0 at first, to be changed by the caller. */
static uint32_t *tally_at(struct tally *tally, uint64_t number)
{
	uint64_t i = number & tally->cell_mask;

	while (tally->cells[i].round == tally->round && tally->cells[i].number != number)
		i = (i + 1) & tally->cell_mask;
	if (tally->cells[i].round != tally->round) {
		tally->cells[i].number = number;
		tally->cells[i].round = tally->round;
		tally->cells[i].count = 0;
	}
	return &tally->cells[i].count;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	return (a ^ b ^ b >> 29) * 0xbf58476d1ce4e5b9;
}

static uint64_t words_mix(const uint64_t words[FLOW_WORDS], uint64_t start)
{
	for (unsigned w = 0; w < FLOW_WORDS; w++)
		start = mix(start, words[w]) ^ start >> 31;
	return start ^ start >> 32;
}

/* --- candidates --------------------------------------------------------------------------------
 */

static void candidate_add(struct plan *plan, const uint64_t mask[FLOW_WORDS])
{
	struct candidate *candidate = &plan->candidates[plan->candidate_count];
	uint32_t *known;

	if (plan->candidate_count == CANDIDATES_MAX)
		return;
	known = tally_at(&plan->large, words_mix(mask, 1));
	if (*known)
		return;
	*known = 1;
	memcpy(candidate->mask, mask, sizeof(candidate->mask));
	candidate->bound = plan->unit_count;
	plan->candidate_count++;
}

static void candidates_make(struct plan *plan)
{
	static const uint64_t nothing[FLOW_WORDS] = {0};

	tally_clear(&plan->large);
	candidate_add(plan, nothing);
	for (uint32_t k = 0; k < plan->kind_count; k++) {
		uint8_t most[MASK_DIMENSIONS], steps[MASK_DIMENSIONS] = {0};
		uint64_t mask[FLOW_WORDS];
		uint32_t *known;

		memcpy(most, mask_steps_max, sizeof(most));
		mask_step(plan->kinds[k].mask, most, mask);
		known = tally_at(&plan->large, words_mix(mask, 2));
		if (*known)
			continue;
		*known = 1;
		do {
			uint8_t taken[MASK_DIMENSIONS];

			memcpy(taken, steps, sizeof(taken));
			mask_step(plan->kinds[k].mask, taken, mask);
			candidate_add(plan, mask);
		} while (plan->candidate_count < CANDIDATES_MAX && mask_steps_next(steps, most));
	}
	for (uint32_t k = 0; k < plan->kind_count; k++)
		candidate_add(plan, plan->kinds[k].mask);
}

/* --- judging -----------------------------------------------------------------------------------
 */

/* What a bucket is worth of which the sample met `met` units, each for `scale` of them. */
static double bucket_worth(double met, double scale)
{
	double length = 1 + (met - 1) * scale, kept = length < BUCKET_MAX ? length : BUCKET_MAX;

	return met * scale * (kept / length) * (1 - bucket_penalty * (kept - 1));
}

/* gains[n]: what the unit adds that comes to a bucket of n. */
static void gains_make(struct plan *plan)
{
	double before = 0;

	for (uint32_t n = 0; n < SAMPLE_UNITS; n++) {
		double worth = bucket_worth(n + 1, plan->scale);

		plan->gains[n] = worth - before;
		before = worth;
	}
}

/* Units of one kind together: whether a candidate may hold them is asked once. */
static int sampled_compare(const void *a, const void *b)
{
	const struct sampled *x = a, *y = b;

	return (x->kind > y->kind) - (x->kind < y->kind);
}

static void sample_draw(struct plan *plan)
{
	uint32_t step = plan->left / SAMPLE_UNITS + 1, seen = 0;

	/* The last sample may have missed a few of what a candidate would hold. */
	for (uint32_t i = 0; plan->sample_count && i < plan->candidate_count; i++)
		plan->candidates[i].bound = plan->candidates[i].bound * 1.2 + 3 * plan->scale;
	plan->sample_count = 0;
	for (uint32_t u = 0; u < plan->unit_count; u++) {
		struct sampled *sampled = &plan->sample[plan->sample_count];
		struct pattern pattern;

		if (plan->units[u].placed || seen++ % step)
			continue;
		pattern_make(&pattern, plan->items[plan->units[u].first].match);
		memcpy(sampled->value, pattern.value, sizeof(sampled->value));
		sampled->unit = u;
		sampled->kind = plan->units[u].kind;
		plan->sample_count++;
	}
	qsort(plan->sample, plan->sample_count, sizeof(plan->sample[0]), sampled_compare);
	plan->sample_left = plan->sample_count;
	plan->scale = plan->sample_count ? (double)plan->left / plan->sample_count : 1;
	gains_make(plan);
}

static double judge(struct plan *plan, const struct candidate *candidate)
{
	uint32_t kind = UINT32_MAX;
	bool within = false;
	double worth = 0;

	tally_clear(&plan->small);
	for (uint32_t i = 0; i < plan->sample_count; i++) {
		const struct sampled *sampled = &plan->sample[i];

		if (sampled->kind != kind) {
			kind = sampled->kind;
			within = mask_within(candidate->mask, plan->kinds[kind].mask);
		}
		if (within && !plan->units[sampled->unit].placed)
			worth += plan->gains[(
			    *tally_at(&plan->small,
				      hash_masked(plan->seed, sampled->value, candidate->mask)))++];
	}
	return worth;
}

/* The candidates are a heap: none has a greater bound than the one at (i - 1) / 2. */
static void candidate_sink(struct plan *plan)
{
	struct candidate *heap = plan->candidates, moved = heap[0];
	uint32_t i = 0;

	for (;;) {
		uint32_t below = 2 * i + 1;

		if (below + 1 < plan->candidate_count && heap[below + 1].bound > heap[below].bound)
			below++;
		if (below >= plan->candidate_count || heap[below].bound <= moved.bound)
			break;
		heap[i] = heap[below];
		i = below;
	}
	heap[i] = moved;
}

/* The candidate that would hold most; false: none holds anything of the sample. */
static bool candidate_best(struct plan *plan, struct candidate *best)
{
	static const double near = 0.97; /* a second one this near is not worth another look */

	while (plan->candidates[0].bound > 0) {
		*best = plan->candidates[0];
		best->bound = judge(plan, best);
		plan->candidates[0].bound = best->bound;
		candidate_sink(plan);
		if (best->bound > 0 && best->bound >= near * plan->candidates[0].bound)
			return true;
	}
	return false;
}

/* --- placing -----------------------------------------------------------------------------------
 */

static int unit_insert(struct plan *plan, struct unit *unit, struct table **table, uint64_t hash)
{
	for (int64_t i = unit->first; i != NONE; i = plan->items[i].next)
		if (table_insert(table, hash, plan->items[i].node, plan->items[i].match))
			return -ENOMEM;
	unit->placed = true;
	plan->left--;
	return 0;
}

static struct table *plan_table(struct plan *plan, const uint64_t mask[FLOW_WORDS],
				uint32_t expected)
{
	struct table **more =
	    realloc(plan->tables, (plan->table_count + 1) * sizeof(plan->tables[0]));
	struct table *table = more ? table_create(mask, expected) : NULL;

	if (more)
		plan->tables = more;
	if (table)
		plan->tables[plan->table_count++] = table;
	return table;
}

/* Puts what fits under the mask into a table of its own; buckets hold at most BUCKET_MAX units. */
static int candidate_place(struct plan *plan, const struct candidate *candidate)
{
	struct table **table;

	if (!plan_table(plan, candidate->mask, (uint32_t)candidate->bound))
		return -ENOMEM;
	table = &plan->tables[plan->table_count - 1];
	tally_clear(&plan->large);
	for (uint32_t u = 0; u < plan->unit_count; u++) {
		struct unit *unit = &plan->units[u];
		struct pattern pattern;
		uint64_t hash;
		uint32_t *met;

		if (unit->placed || !mask_within(candidate->mask, plan->kinds[unit->kind].mask))
			continue;
		pattern_make(&pattern, plan->items[unit->first].match);
		hash = hash_masked(plan->seed, pattern.value, candidate->mask);
		met = tally_at(&plan->large, hash);
		if (*met == BUCKET_MAX)
			continue;
		++*met;
		if (unit_insert(plan, unit, table, hash))
			return -ENOMEM;
	}
	return 0;
}

/* Where everything else has failed: each unit to the table with the shortest bucket for it. */
static int rest_place(struct plan *plan)
{
	static const uint64_t nothing[FLOW_WORDS] = {0};

	if (!plan->left)
		return 0;
	if (!plan_table(plan, nothing, 0))
		return -ENOMEM;
	for (uint32_t u = 0; u < plan->unit_count; u++) {
		struct unit *unit = &plan->units[u];
		uint32_t least = UINT32_MAX, best = plan->table_count - 1;
		struct pattern pattern;
		uint64_t hash;

		if (unit->placed)
			continue;
		pattern_make(&pattern, plan->items[unit->first].match);
		for (uint32_t t = 0; t < plan->table_count && least; t++) {
			const struct table *table = plan->tables[t];
			uint32_t length;

			if (!mask_within(table->mask, pattern.mask))
				continue;
			hash = hash_masked(plan->seed, pattern.value, table->mask);
			length = table_bucket(table, hash);
			if (length < least) {
				least = length;
				best = t;
			}
		}
		hash = hash_masked(plan->seed, pattern.value, plan->tables[best]->mask);
		if (unit_insert(plan, unit, &plan->tables[best], hash))
			return -ENOMEM;
	}
	return 0;
}

/* --- gathering ---------------------------------------------------------------------------------
 */

/* Equal hashes are compared: whoever collides gets a number of its own. */
static uint32_t kind_of(struct plan *plan, const uint64_t mask[FLOW_WORDS])
{
	uint32_t *known = tally_at(&plan->large, words_mix(mask, 3));

	if (*known && !memcmp(plan->kinds[*known - 1].mask, mask, sizeof(plan->kinds[0].mask)))
		return *known - 1;
	memcpy(plan->kinds[plan->kind_count].mask, mask, sizeof(plan->kinds[0].mask));
	*known = ++plan->kind_count;
	return *known - 1;
}

static bool unit_is(const struct plan *plan, const struct unit *unit, const struct pattern *pattern)
{
	struct pattern first;

	pattern_make(&first, plan->items[unit->first].match);
	return !memcmp(&first, pattern, sizeof(first));
}

static void item_add(struct plan *plan, const struct rule_node *node,
		     const struct rule_match *match)
{
	uint32_t number = plan->item_count++, *known;
	struct pattern pattern;

	plan->items[number] = (struct item){.node = node, .match = match, .next = NONE};
	pattern_make(&pattern, match);
	known = tally_at(&plan->large, words_mix(pattern.mask, words_mix(pattern.value, 4)));
	if (*known && unit_is(plan, &plan->units[*known - 1], &pattern)) {
		struct unit *unit = &plan->units[*known - 1];

		plan->items[unit->last].next = number;
		unit->last = number;
		return;
	}
	*known = plan->unit_count + 1;
	plan->units[plan->unit_count++] =
	    (struct unit){.kind = kind_of(plan, pattern.mask), .first = number, .last = number};
}

static void gather(struct plan *plan, const struct rule_list *list)
{
	tally_clear(&plan->large);
	for (uint32_t p = 0; p < list->count; p++)
		for (uint32_t r = 0; r < list->pages[p]->count; r++) {
			const struct rule_node *node = list->pages[p]->rules[r];

			for (uint32_t m = 0; m < node->rule.match_count; m++)
				item_add(plan, node, &node->matches[m]);
		}
	plan->left = plan->unit_count;
}

static int plan_open(struct plan *plan, uint32_t matches)
{
	plan->items = calloc((size_t)matches + 1, sizeof(plan->items[0]));
	plan->units = calloc((size_t)matches + 1, sizeof(plan->units[0]));
	plan->kinds = calloc((size_t)matches + 1, sizeof(plan->kinds[0]));
	plan->candidates = calloc(CANDIDATES_MAX + 1, sizeof(plan->candidates[0]));
	plan->sample = calloc(SAMPLE_UNITS + 1, sizeof(plan->sample[0]));
	if (!plan->items || !plan->units || !plan->kinds || !plan->candidates || !plan->sample ||
	    tally_open(&plan->small, SAMPLE_UNITS) ||
	    tally_open(&plan->large, 2 * (uint64_t)matches + CANDIDATES_MAX))
		return -ENOMEM;
	return 0;
}

static void plan_close(struct plan *plan)
{
	free(plan->items);
	free(plan->units);
	free(plan->kinds);
	free(plan->candidates);
	free(plan->sample);
	free(plan->small.cells);
	free(plan->large.cells);
}

static int plan_run(struct plan *plan, const struct rule_list *list)
{
	gather(plan, list);
	candidates_make(plan);
	while (plan->left && plan->table_count < TABLES_PLANNED_MAX) {
		struct candidate candidate;

		if (plan->sample_left <= plan->sample_count / 2)
			sample_draw(plan);
		if (!candidate_best(plan, &candidate))
			break;
		if (candidate_place(plan, &candidate))
			return -ENOMEM;
		plan->sample_left = 0;
		for (uint32_t i = 0; i < plan->sample_count; i++)
			plan->sample_left += !plan->units[plan->sample[i].unit].placed;
	}
	return rest_place(plan);
}

int tables_plan(const struct rule_list *list, uint32_t matches, const uint64_t seed[FLOW_WORDS],
		struct table ***tables, uint32_t *count)
{
	struct plan plan = {.seed = seed};
	int status = plan_open(&plan, matches);

	if (!status)
		status = plan_run(&plan, list);
	plan_close(&plan);
	*tables = plan.tables;
	*count = plan.table_count;
	return status;
}
