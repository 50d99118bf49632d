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
 * dropped is booked as rule, rule_default, rejected, policed or connection_limit: on the receiving
 * port at ingress, on the sending one at egress.
 *
 * Redirect: as if the FDB named that port, with the refusals of that case (destination_down,
 * isolated, same_port). At egress a frame is redirected once; a second time is destination_down.
 * Mirror: no copy goes to a port that is not there or not up, nor to the one that the frame came
 * by or is just leaving by.
 * A frame that meets more than RULES_MET_MAX rules at one stage is dropped as `rule`.
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
	RULES_JUMP_MAX = 8,   /* jumps within jumps */
	RULES_MET_MAX = 1024  /* rules that a frame meets at one stage */
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
	struct flow_key needs;
	uint16_t sets[RULES_CHAIN_MAX];
};

struct rules_tables {
	uint64_t generation;		  /* of the rules: another one makes cached ways void */
	const struct rules_set *sets;	  /* by set id */
	const struct rules_stage *stages; /* all of them, by number */
	const struct rules_stage *const *ingress; /* by port id; NULL entries: no rules */
	const struct rules_stage *const *egress;
	struct policer *const *policers; /* by id */
	struct conntrack *conntrack;
	bool any; /* some port has a stage */
};

/*
 * The way of a key through a stage, rule by rule: those that match, in the order they act. The
 * walker knows nothing of rates; whoever finds a policer's exceeded ends the walk.
 */
struct rules_walk {
	const struct rules_tables *tables;
	const struct rules_stage *stage;
	const struct flow_key *key; /* `state` is filled in */
	uint16_t chain;		    /* of stage->sets */
	uint16_t depth;		    /* of jumps */
	uint16_t met;
	bool ended;
	bool known; /* what the first set says first; `first` is it */
	const struct classify_rule *first;
	/* behind the last rule */
	uint8_t verdict;     /* enum rules_verdict */
	uint16_t default_of; /* see struct flow_path */
	struct {
		uint16_t set;
		const struct classify_rule *after;
	} level[RULES_JUMP_MAX + 1];
};

void rules_walk_begin(struct rules_walk *walk, const struct rules_tables *tables,
		      const struct rules_stage *stage, const struct flow_key *key);
/* NULL: the walk is at its end, verdict and default_of are set. */
const struct classify_rule *rules_walk_next(struct rules_walk *walk);
/*
 * The same by the sets it goes through: the next rule of the set that is being asked, or NULL when
 * that one has none left, and the walk has gone back, on or to its end. Not at its end already.
 */
const struct classify_rule *rules_walk_step(struct rules_walk *walk);

/*
 * The full lookup: what the cache must agree with. `key.state` is filled in. A way of more than
 * FLOW_PATH_MAX rules has a count of FLOW_PATH_MAX + 1 and no verdict: it has to be walked.
 */
void rules_resolve(const struct rules_tables *tables, const struct rules_stage *stage,
		   const struct flow_key *key, struct flow_path *path);
/* The same where the stage's first set is known to answer with `first`. */
void rules_resolve_from(const struct rules_tables *tables, const struct rules_stage *stage,
			const struct flow_key *key, const struct classify_rule *first,
			struct flow_path *path);

static inline void rules_mask(const struct flow_key *key, const struct flow_key *needs,
			      struct flow_key *masked)
{
	const uint64_t *from = (const uint64_t *)(const void *)key;
	const uint64_t *mask = (const uint64_t *)(const void *)needs;
	uint64_t *to = (uint64_t *)(void *)masked;

	for (unsigned i = 0; i < sizeof(*key) / sizeof(*from); i++)
		to[i] = from[i] & mask[i];
}
