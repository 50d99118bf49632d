/*
 * The tables of a snapshot's rules, from what is attached where.
 *
 * Only what workers follow pointers through is made anew: stages, and arrays of pointers. The
 * classifiers, policers and connections are the engine's and shared by all snapshots. Ports of one
 * bridge that have no sets of their own share the bridge's stage.
 *
 * Runs on: control thread.
 */
#pragma once

#include "bridge.h"
#include "config.h"
#include "error.h"
#include "rules.h"

/* How many rules of a set do something with other objects. */
struct rules_refs {
	uint32_t *jumps;    /* by set id */
	uint32_t *policers; /* by policer id */
};

/* What ids stand for. */
struct rules_source {
	uint64_t generation; /* another for each build */
	unsigned ports_max;
	unsigned bridges_max;
	unsigned sets_max;
	unsigned policers_max;
	const struct bridge_port *ports;	     /* by port id */
	const struct classifier *const *classifiers; /* by set id */
	const struct rules_refs *refs;		     /* by set id */
	struct policer *const *policers;	     /* by policer id */
	struct conntrack *conntrack;
};

/*
 * EINVAL, with what contradicts itself: a set, jump or policer that is not there, a circle of
 * jumps, more than RULES_JUMP_MAX of them within each other, more than RULES_CHAIN_MAX sets at one
 * stage. Attachments to a port or bridge that is not there wait for it.
 */
int rules_tables_build(const struct rules_config *config, const struct rules_source *source,
		       struct rules_tables *out, struct error *err);
void rules_tables_free(struct rules_tables *tables);
