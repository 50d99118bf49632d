/*
 * Rules of a set that never act as they stand, each shown by a frame.
 *
 *   shadowed       one earlier rule, whose action is final, takes every frame that this one
 *                  matches, and does something else
 *   redundant      ... and does the same
 *   contradictory  an earlier rule of the same priority, both final, matches some of the same
 *                  frames and does something else: their ids alone decide
 *   never_hit      its counter is 0
 *
 * A finding but never_hit has a witness: a frame that both match and that `by` takes, which a trace
 * of it from in_port shows. Where no port leads there (the set is attached nowhere, or a stage
 * before it drops all such frames) in_port is RULE_NONE and the set alone was asked.
 *
 * Not found: rules that several earlier ones cover together (of them or of their alternatives), and
 * what no frame can be made for. Passing actions (rule.h) cover nothing.
 *
 * A rule that could cover another one matches each of its frames, so those come from one lookup; a
 * contradiction is looked for among the rules of one priority, pair by pair.
 *
 * Runs on: control thread.
 */
#pragma once

#include <stdint.h>

#include "error.h"
#include "rule.h"

/* cffi: begin */
enum { ANALYSE_FINDINGS_MIN = 4, ANALYSE_FRAME_MAX = 160 };

enum analyse_kind { ANALYSE_SHADOWED, ANALYSE_REDUNDANT, ANALYSE_CONTRADICTORY, ANALYSE_NEVER_HIT };

struct analyse_finding {
	uint8_t kind;  /* enum analyse_kind */
	uint8_t state; /* of the witness: enum flow_state to assume, 0: none */
	uint16_t in_port;
	uint32_t frame_len;
	char rule[RULE_ID_MAX + 1];
	char by[RULE_ID_MAX + 1]; /* never_hit: "" */
	uint8_t frame[ANALYSE_FRAME_MAX];
};

struct engine;

/*
 * Of the set as it is in force, from its rule number *cursor on, which moves, and is 0 at the end.
 * Returns as soon as budget_ns have passed or `max` findings (at least ANALYSE_FINDINGS_MIN) have
 * no room for another rule's, with how many there are. *skipped: rules that had more alternatives
 * to compare than is reasonable. ENOENT: the set is not in force.
 */
int engine_analyse(struct engine *engine, uint16_t set, uint32_t *cursor, uint64_t budget_ns,
		   struct analyse_finding *findings, unsigned max, uint32_t *skipped,
		   struct error *err);
/* cffi: end */
