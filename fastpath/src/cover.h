/*
 * What two rules have to do with each other: does one take all that the other could, do they meet?
 *
 * Runs on: control thread. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "classify.h"
#include "rule.h"

/* Every key that `inner` fits, `outer` fits too. */
bool match_covers(const struct rule_match *outer, const struct rule_match *inner);

/* The keys that fit both, as a match; false: there is none. */
bool match_meet(const struct rule_match *a, const struct rule_match *b, struct rule_match *both);

/*
 * Each alternative of `inner` is covered by one of `outer`; what several cover together is not
 * found. *steps: comparisons left; 0 afterwards: there were too many, and the answer is false.
 */
bool rule_covers(const struct classify_rule *outer, const struct classify_rule *inner,
		 uint32_t *steps);

/* Two actions that do the same to a frame; whether they log is left out. */
bool action_same(const struct rule_action *a, const struct rule_action *b);
