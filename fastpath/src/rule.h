/*
 * A rule as the engine knows it: what it matches, what it does, its place among others.
 *
 * A rule is one or more alternatives (struct rule_match); it matches a frame when one of them does.
 * Whoever compiles rules (fastpath/rules.py) expands lists, groups and everything that is no mask
 * into alternatives; the only ranges left are those of the layer 4 ports.
 *
 * Order: ascending priority, then ascending id (bytes). The first rule that matches acts. What it
 * does is one of two sorts:
 *
 *   final        allow drop reject redirect: this set has decided
 *   passing      set mirror police log jump: done, then the search goes on behind the rule; a
 *                jump's set is searched first, and its `default` does not count there. police
 *                drops what exceeds the rate and is then final.
 *
 * All rules of one stage (the chain of sets at a port's ingress or egress) see the frame as it came
 * to the stage: what `set` changes is seen behind the stage.
 *
 * Runs on: plain data, made on the control thread, immutable while workers see it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "flow_key.h"

/* cffi: begin */
enum {
	RULE_ID_MAX = 31,     /* bytes of an id */
	RULE_NONE = 0xffff,   /* no port, set or policer */
	RULE_SNAPLEN_ALL = 0, /* a mirror's whole frames */
};

enum rule_action_type {
	RULE_ALLOW,
	RULE_DROP,
	RULE_REJECT,
	RULE_REDIRECT, /* port */
	RULE_MIRROR,   /* port, snaplen */
	RULE_POLICE,   /* policer */
	RULE_SET,      /* set_fields */
	RULE_LOG,
	RULE_JUMP, /* set */
	RULE_ACTIONS
};

enum rule_set_field {
	RULE_SET_VLAN =
	    1 << 0, /* vid: of the switch where it filters VLANs, else of the tag; 0 there: untag */
	RULE_SET_PCP = 1 << 1,
	RULE_SET_DSCP = 1 << 2,
	RULE_SET_ETH_SRC = 1 << 3,
	RULE_SET_ETH_DST = 1 << 4
};

struct rule_action {
	uint8_t type; /* enum rule_action_type */
	bool log;     /* besides what it does */
	uint8_t set_fields;
	uint8_t pcp;
	uint8_t dscp; /* 0..63 */
	uint8_t eth_src[6];
	uint8_t eth_dst[6];
	uint16_t vid;
	uint16_t port;
	uint16_t policer;
	uint16_t set;
	uint32_t snaplen;
};

/* (key & mask) == value and lo <= port <= hi, both of it always. value & ~mask is 0. */
struct rule_match {
	struct flow_key value;
	struct flow_key mask; /* of l4_src, l4_dst: 0 (any, or a range) or 0xffff */
	uint16_t l4_src_lo;
	uint16_t l4_src_hi; /* any: 0, 0xffff */
	uint16_t l4_dst_lo;
	uint16_t l4_dst_hi;
};

/* `slot` names the rule in counters, logs and traces: unique in the engine, below rules_max. */
struct rule_config {
	uint32_t slot;
	int32_t priority;
	char id[RULE_ID_MAX + 1]; /* filled up with 0 */
	struct rule_action action;
	uint32_t match_count; /* 0: matches nothing */
	const struct rule_match *matches;
};
/* cffi: end */

static inline bool rule_action_is_final(const struct rule_action *action)
{
	return action->type <= RULE_REDIRECT;
}
