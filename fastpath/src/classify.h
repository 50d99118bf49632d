/*
 * The classifier: the first rule of a set that matches a key.
 *
 * TupleMerge (Daly, Bruschi, Linguaglossa, Pontarelli, Rossi, Tollet, Torng, Yourtchenko:
 * "TupleMerge: Fast Software Packet Processing for Online Packet Classification", IEEE/ACM ToN
 * 2019): alternatives lie in hash tables by a mask that is part of their own; a bucket's entries
 * are compared in full. Tables are searched in the order of the best rule they hold and the search
 * ends when no better one can come.
 *
 * A classifier is immutable. A change makes a new one that shares every table and rule it does not
 * touch (counted by the control thread), so that one rule among 10,000 costs one table, and an old
 * one can be read until it is freed.
 *
 * Runs on: control thread (update, free, count, walk), workers (classify).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "flow_key.h"
#include "rule.h"

struct classifier;

enum { CLASSIFY_BATCH = 64 };

/* A rule inside a classifier: as given, with a copy of its alternatives. */
struct classify_rule {
	uint32_t slot;
	int32_t priority;
	struct rule_action action; /* in one cache line with what else workers read */
	char id[RULE_ID_MAX + 1];
	uint32_t match_count;
	const struct rule_match *matches;
};

struct classify_size {
	uint32_t rules;
	uint32_t matches; /* alternatives of all rules */
	uint32_t tables;
	uint64_t bytes;
};

/* NULL when there is no memory. */
struct classifier *classifier_empty(void);

/*
 * `base` without the rules of `removed` (by slot; EINVAL when one is not there, or twice) and with
 * those of `added`, which replace a rule of the same slot. ENOMEM. base stays as it is.
 */
int classifier_update(const struct classifier *base, const uint32_t *removed,
		      unsigned removed_count, const struct rule_config *added, unsigned added_count,
		      struct classifier **out, struct error *err);

/* No worker sees it any more. What other classifiers share stays. NULL is allowed. */
void classifier_free(struct classifier *classifier);

/*
 * The first rule behind `after` (NULL: of all) that matches. Bounded by the set: no memory is
 * allocated, nothing depends on frames that came before.
 */
const struct classify_rule *classify(const struct classifier *classifier,
				     const struct flow_key *key, const struct classify_rule *after);

/*
 * classify, from the first rule on, for up to CLASSIFY_BATCH keys: rules[] gets their rules. What
 * one search waits for is fetched while others go on; so are the rules that are found.
 */
void classify_batch(const struct classifier *classifier, const struct flow_key *const *keys,
		    unsigned count, const struct classify_rule **rules);

/* Which bits of a key any rule looks at: keys that agree in them match the same rules. */
const struct flow_key *classifier_needs(const struct classifier *classifier);

void classifier_size(const struct classifier *classifier, struct classify_size *size);

/* The rules in their order; index from 0. NULL behind the last. Control thread, O(log n) or less.
 */
const struct classify_rule *classifier_at(const struct classifier *classifier, uint32_t index);

/* Does one of the rule's alternatives match? The definition that everything else agrees with. */
bool rule_matches(const struct classify_rule *rule, const struct flow_key *key);

/* < 0: a comes before b. */
int rule_compare(const struct classify_rule *a, const struct classify_rule *b);
