/*
 * Rules on a frame's way: the stages at which sets are asked, and what their actions do.
 *
 * A stage is the chain of sets attached to a port's ingress or egress, directly or by its bridge,
 * in the order of `order`, then bridge before port, then name. Each set decides for itself: drop,
 * reject, redirect and an exceeded rate end the stage; allow (a rule's or the set's default) ends
 * the set and the next one is asked; behind the last one the frame goes on.
 *
 *   ingress  rules_ingress, between the bridge's two passes: behind vlan in, before learning
 *   egress   rules_egress, before vlan out: each destination on its own
 *
 * The worker keeps for each batch: keys and connection states (parsed once, used by both stages),
 * copies for mirrors, answers for rejects. Mirrored and originated frames meet no rules. What is
 * dropped is booked as rule, rule_default, rejected, policed, connection_limit or connection
 * refused redirect (destination_down): on the receiving port at ingress, on the sending at egress.
 *
 * Runs on: workers; struct rules_tables is part of a snapshot.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "classify.h"
#include "conntrack.h"
#include "flow_cache.h"
#include "frame.h"
#include "policer.h"
#include "rule.h"
#include "rule_counters.h"
#include "stats.h"

enum {
	RULES_CHAIN_MAX = 16, /* sets at one stage */
	RULES_JUMP_MAX = 8    /* jumps within jumps */
};

enum rules_verdict { RULES_GO, RULES_DROP, RULES_DROP_DEFAULT, RULES_REJECT, RULES_REDIRECT };

struct rules_set {
	const struct classifier *classifier; /* NULL: no such set */
	bool default_drop;
	bool
	    uses_state; /* a rule of it, or of a set it jumps to, asks for the connection's state */
};

struct rules_stage {
	uint32_t number; /* unique in the snapshot, for the flow cache */
	uint16_t count;
	bool uses_state;
	bool has_actions; /* some rule does more than allow and drop */
	struct flow_key needs;
	uint16_t sets[RULES_CHAIN_MAX];
};

struct rules_tables {
	uint64_t generation;	      /* of the rules: another one makes cached ways void */
	const struct rules_set *sets; /* by set id */
	const struct rules_stage *const *ingress; /* by port id; NULL entries: no rules */
	const struct rules_stage *const *egress;
	struct policer *const *policers; /* by id */
	struct conntrack *conntrack;
	bool any; /* some port has a stage */
};

/* The full lookup: what the cache must agree with. `key.state` is filled in. */
void rules_resolve(const struct rules_tables *tables, const struct rules_stage *stage,
		   const struct flow_key *key, struct flow_path *path);
