/*
 * Rules from a file in ClassBench's text form (rulesets.py writes it), and headers and frames drawn
 * from them: the same ones in every run. Whatever fails ends the program with a message.
 */
#pragma once

#include <stdint.h>

#include "rule.h"

enum { RULES_FRAME_BYTES = 60 };

/* Rule i has slot i and priority i. */
struct rule_set {
	struct rule_config *rules;
	struct rule_match *matches;
	uint32_t count;
};

void set_read(const char *path, struct rule_set *set);

uint64_t random_next(void);
uint32_t below(uint32_t n);

/* A header that the alternative matches. */
struct flow_key key_within(const struct rule_match *match);
/* One that differs from such a header in a bit. */
struct flow_key key_beside(const struct rule_match *match);
/* The shortest frame with that header. */
void frame_write(uint8_t *data, const struct flow_key *key, const uint8_t dst[6],
		 const uint8_t src[6]);
