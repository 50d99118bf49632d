/*
 * What a classifier is made of: shared by its two halves, classify.c (workers) and
 * classify_build.c (control thread).
 */
#pragma once

#include "classify.h"

enum { FLOW_WORDS = sizeof(struct flow_key) / sizeof(uint64_t) };

/* A rule and how many classifiers hold it. */
struct rule_node {
	struct classify_rule rule;
	uint32_t holders; /* control thread only */
	struct rule_match matches[];
};

struct classifier {
	struct flow_key needs;
	uint32_t count;
	struct rule_node *rules[]; /* in their order */
};
