/* Runs on: workers, control thread. The way of a key through a stage: rules.h. */
#include "action.h"
#include "rules.h"

void rules_walk_begin(struct rules_walk *walk, const struct rules_tables *tables,
		      const struct rules_stage *stage, const struct flow_key *key)
{
	walk->tables = tables;
	walk->stage = stage;
	walk->key = key;
	walk->chain = walk->depth = walk->met = 0;
	walk->ended = walk->known = false;
	walk->verdict = RULES_GO;
	walk->default_of = RULE_NONE;
	walk->level[0].set = stage->sets[0];
	walk->level[0].after = NULL;
}

/* This set has decided that the frame goes on: the next one is asked. */
static void walk_next_set(struct rules_walk *walk)
{
	walk->depth = 0;
	if (++walk->chain == walk->stage->count) {
		walk->ended = true;
		return;
	}
	walk->level[0].set = walk->stage->sets[walk->chain];
	walk->level[0].after = NULL;
}

static void walk_end(struct rules_walk *walk, enum rules_verdict verdict, uint16_t default_of)
{
	walk->verdict = (uint8_t)verdict;
	walk->default_of = default_of;
	walk->ended = true;
}

/* What a rule does to the walk. */
static void walk_follow(struct rules_walk *walk, const struct rule_action *action)
{
	switch (action->type) {
	case RULE_ALLOW:
		walk->default_of = RULE_NONE;
		walk_next_set(walk);
		break;
	case RULE_DROP:
		walk_end(walk, RULES_DROP, RULE_NONE);
		break;
	case RULE_REJECT:
		walk_end(walk, RULES_REJECT, RULE_NONE);
		break;
	case RULE_REDIRECT:
		walk_end(walk, RULES_REDIRECT, RULE_NONE);
		break;
	case RULE_JUMP:
		/* built so that it cannot go deeper */
		if (walk->depth < RULES_JUMP_MAX) {
			walk->depth++;
			walk->level[walk->depth].set = action->set;
			walk->level[walk->depth].after = NULL;
		}
		break;
	default:
		break;
	}
}

const struct classify_rule *rules_walk_step(struct rules_walk *walk)
{
	uint16_t set = walk->level[walk->depth].set;
	const struct classify_rule *rule;

	if (walk->known)
		rule = walk->first;
	else
		rule = classify(walk->tables->sets[set].classifier, walk->key,
				walk->level[walk->depth].after);
	walk->known = false;
	if (rule) {
		if (walk->met++ == RULES_MET_MAX) {
			walk_end(walk, RULES_DROP, RULE_NONE);
			return NULL;
		}
		walk->level[walk->depth].after = rule;
		walk_follow(walk, &rule->action);
		return rule;
	}
	if (walk->depth) {
		walk->depth--;
	} else if (walk->tables->sets[set].default_drop) {
		walk_end(walk, RULES_DROP_DEFAULT, set);
	} else {
		walk->default_of = set;
		walk_next_set(walk);
	}
	return NULL;
}

const struct classify_rule *rules_walk_next(struct rules_walk *walk)
{
	const struct classify_rule *rule = NULL;

	while (!rule && !walk->ended)
		rule = rules_walk_step(walk);
	return rule;
}

/* Is it enough to count the rules of the way? */
static void path_slots(struct flow_path *path)
{
	bool counted = path->count <= FLOW_PATH_COUNTED;

	path->slots[0] = 0; /* of a way without rules */
	for (unsigned i = 0; counted && i < path->count; i++) {
		counted = action_counts_only(&path->rules[i]->action);
		path->slots[i] = path->rules[i]->slot;
	}
	if (!counted)
		path->slots[0] = FLOW_PATH_ACTS;
}

static void resolve(struct rules_walk *walk, struct flow_path *path)
{
	const struct classify_rule *rule;

	path->count = 0;
	while ((rule = rules_walk_next(walk))) {
		if (path->count == FLOW_PATH_MAX) {
			path->count++;
			return;
		}
		path->rules[path->count++] = rule;
	}
	path->verdict = walk->verdict;
	path->default_of = walk->default_of;
	path_slots(path);
}

void rules_resolve(const struct rules_tables *tables, const struct rules_stage *stage,
		   const struct flow_key *key, struct flow_path *path)
{
	struct rules_walk walk;

	rules_walk_begin(&walk, tables, stage, key);
	resolve(&walk, path);
}

void rules_resolve_from(const struct rules_tables *tables, const struct rules_stage *stage,
			const struct flow_key *key, const struct classify_rule *first,
			struct flow_path *path)
{
	struct rules_walk walk;

	rules_walk_begin(&walk, tables, stage, key);
	walk.known = true;
	walk.first = first;
	resolve(&walk, path);
}
