/*
 * What trace.c and trace_rules.c share: a frame on its imagined way. Runs on: control thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine_tables.h"
#include "parse.h"
#include "rules_work.h"
#include "trace.h"

struct way {
	const struct snapshot *snapshot;
	const struct bridge_tables *tables;
	const struct bridge *bridge;
	const struct bridge_port *in;
	struct trace *trace;
	struct frame frame;
	struct l2 l2;
	struct flow_key key; /* of the frame as it is now */
	uint16_t in_port;
	uint8_t state; /* enum flow_state, as assumed or as found */
	bool state_known;
	bool answered;	 /* a reject has told the sender */
	bool full;	 /* there was no room for a step */
	uint32_t misses; /* rules listed that do not match */
	/* where ingress rules have edited the frame */
	struct frame rest;
	uint8_t header[RULES_HEADER_MAX];
};

/* A stage with rules, for one frame. */
struct way_stage {
	enum trace_stage stage;
	uint16_t out_port; /* RULE_NONE at ingress */
	const struct rules_stage *rules;
	const struct frame *frame;
	struct flow_key *key; /* gets its state */
};

/* What the rules of a stage say. reason: BRIDGE_PASSES, or why the frame ends here. */
struct way_fate {
	unsigned reason;
	uint16_t redirect;	/* RULE_NONE: nowhere else */
	struct rule_action set; /* set_fields 0: nothing */
	struct trace_step *step;
};

/* NULL: no room, which way->full remembers. */
struct trace_step *way_step(struct way *way, enum trace_stage stage, enum trace_result result,
			    uint16_t port);

/* Asks the rules of a stage; mirrors and answers have steps of their own behind it. */
struct way_fate way_rules(struct way *way, const struct way_stage *at);

/* The last step: as `frame` stands, or (as_is) without an edit of its tag. */
void way_tx(struct way *way, const struct frame *frame, uint16_t id, enum trace_result result,
	    bool as_is);
