/* Runs on: control thread. */
#include "analyse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cover.h"
#include "engine_tables.h"
#include "parse.h"
#include "rules.h"
#include "trace.h"
#include "witness.h"

enum {
	STEPS_MAX = 1 << 21, /* comparisons for one rule: about 20 ms */
	VARIANTS = 12,	     /* tries to find a frame that no earlier rule takes */
	MEETINGS_MAX = 8,    /* pairs of alternatives a witness is looked for in */
	TRIES_MAX = 64,	     /* pairs of rules a contradiction's witness is looked for in */
	PORTS_MAX = 8	     /* in ports tried */
};
_Static_assert((unsigned)ANALYSE_FRAME_MAX == (unsigned)WITNESS_BYTES, "a witness fits");

struct analysis {
	struct engine *engine;
	const struct rules_tables *tables;
	const struct classifier *classifier;
	const struct classify_rule **rules; /* in their order, NULL at the end */
	struct rules_stage alone;	    /* the set by itself */
	uint16_t set;
	struct trace *trace;
	struct analyse_finding *findings;
	unsigned count;
};

/* --- witnesses -----------------------------------------------------------------------------------
 */

/* Is `by` the rule that decides about the key in this set? */
static bool decides(const struct analysis *analysis, const struct flow_key *key,
		    const struct classify_rule *by)
{
	const struct classify_rule *rule;
	struct rules_walk walk;

	rules_walk_begin(&walk, analysis->tables, &analysis->alone, key);
	while ((rule = rules_walk_next(&walk))) {
		if (rule == by)
			return true;
	}
	return false;
}

static void key_of(const struct rule_match *match, struct witness *witness, struct flow_key *key)
{
	struct frame frame = {.data = witness->bytes,
			      .len = witness->len,
			      .frame_len = witness->len,
			      .in_port = match->value.in_port,
			      .vid = match->value.vid};

	parse_flow(&frame, key);
}

static enum witness_tag tag_of(const struct rule_match *match)
{
	if (!(match->value.layers & FLOW_TAGGED))
		return WITNESS_UNTAGGED;
	return match->value.vid ? WITNESS_TAGGED : WITNESS_PRIORITY;
}

/* What a frame was made of, so that it can be made with another tag. */
struct recipe {
	struct rule_match match;
	unsigned shape;
	unsigned variant;
	uint8_t state; /* enum flow_state; 0: nobody asks */
};

/* A state that the match allows; where it says nothing, each in its turn. */
static uint8_t state_of(const struct analysis *analysis, const struct rule_match *match,
			unsigned variant)
{
	if (match->mask.state || !analysis->tables->sets[analysis->set].uses_state)
		return match->value.state;
	return (uint8_t)(FLOW_NEW << variant % 4);
}

/* A frame within the match that `by` takes in its set. */
static bool find_frame(const struct analysis *analysis, const struct classify_rule *by,
		       struct recipe *recipe, struct witness *witness, unsigned variants)
{
	const struct rule_match *match = &recipe->match;
	struct flow_key key;

	if (match->value.state & (match->value.state - 1))
		return false; /* no connection is in two states */
	for (recipe->variant = 0; recipe->variant < variants; recipe->variant++) {
		for (recipe->shape = 0; recipe->shape < WITNESS_SHAPES; recipe->shape++) {
			if (!witness_build(match, recipe->shape, recipe->variant, tag_of(match),
					   match->value.vid, witness))
				continue;
			key_of(match, witness, &key);
			recipe->state = state_of(analysis, match, recipe->variant);
			/* what is neither TCP, UDP nor ICMP has no state of its own */
			if (!match->mask.state && !(key.layers & (FLOW_L4 | FLOW_FRAGMENT)))
				recipe->state = 0;
			key.state = recipe->state;
			if (trace_differs(match, &key) == TRACE_MATCHED &&
			    (!by || decides(analysis, &key, by)))
				return true;
		}
	}
	return false;
}

static bool asks(const struct rules_stage *stage, uint16_t set)
{
	for (unsigned i = 0; stage && i < stage->count; i++) {
		if (stage->sets[i] == set)
			return true;
	}
	return false;
}

/* Can the set be met by what comes in here: at its ingress, or at the egress of a neighbour? */
static bool leads_there(const struct analysis *analysis, uint16_t port)
{
	const struct snapshot *snapshot = analysis->engine->snapshot;
	const struct bridge_port *ports = snapshot->bridge_ports;

	if (!ports[port].present || !ports[port].admin_up || ports[port].bridge == BRIDGE_NONE)
		return false;
	if (asks(analysis->tables->ingress[port], analysis->set))
		return true;
	for (unsigned p = 0; p < snapshot->tables.ports_max; p++) {
		if (p != port && ports[p].bridge == ports[port].bridge &&
		    asks(analysis->tables->egress[p], analysis->set))
			return true;
	}
	return false;
}

/* Does a trace of the frame come to `by`? */
static bool shown(const struct analysis *analysis, uint16_t port, const struct witness *witness,
		  uint8_t state, const struct classify_rule *by)
{
	struct trace *trace = analysis->trace;
	struct error err;

	if (engine_trace(analysis->engine, port, witness->bytes, witness->len, state, trace, &err))
		return false;
	for (uint32_t i = 0; i < trace->rule_count; i++) {
		if (trace->rules[i].slot == by->slot && trace->rules[i].field == TRACE_MATCHED)
			return true;
	}
	return false;
}

/* The port that a trace is to begin at, and the tag that the frame needs there. */
static uint16_t find_port(const struct analysis *analysis, const struct recipe *recipe,
			  struct witness *witness, const struct classify_rule *by)
{
	const struct snapshot *snapshot = analysis->engine->snapshot;
	const struct flow_key *value = &recipe->match.value, *mask = &recipe->match.mask;
	uint16_t vid = value->vid ? value->vid : 1;
	unsigned tried = 0;

	for (unsigned p = 0; p < snapshot->tables.ports_max && tried < PORTS_MAX; p++) {
		if ((mask->in_port && value->in_port != p) || !analysis->tables->any ||
		    !leads_there(analysis, (uint16_t)p))
			continue;
		tried++;
		for (enum witness_tag tag = WITNESS_UNTAGGED; tag <= WITNESS_PRIORITY; tag++) {
			if (witness_build(&recipe->match, recipe->shape, recipe->variant, tag, vid,
					  witness) &&
			    shown(analysis, (uint16_t)p, witness, recipe->state, by))
				return (uint16_t)p;
		}
	}
	witness_build(&recipe->match, recipe->shape, recipe->variant, tag_of(&recipe->match),
		      value->vid, witness);
	return RULE_NONE;
}

/* Reports that `by` takes a frame of the match; false: there is no such frame. */
static bool report(struct analysis *analysis, enum analyse_kind kind,
		   const struct classify_rule *rule, const struct classify_rule *by,
		   const struct rule_match *match)
{
	struct analyse_finding *finding = &analysis->findings[analysis->count];
	struct recipe recipe = {.match = *match};
	struct witness witness;

	if (!find_frame(analysis, by, &recipe, &witness, VARIANTS))
		return false;
	*finding = (struct analyse_finding){.kind = (uint8_t)kind, .state = recipe.state};
	finding->in_port = find_port(analysis, &recipe, &witness, by);
	finding->frame_len = witness.len;
	memcpy(finding->frame, witness.bytes, witness.len);
	memcpy(finding->rule, rule->id, sizeof(finding->rule));
	memcpy(finding->by, by->id, sizeof(finding->by));
	analysis->count++;
	return true;
}

/* --- findings ------------------------------------------------------------------------------------
 */

/* Where both rules match: reported in the first meeting of two alternatives with a witness. */
static bool report_meeting(struct analysis *analysis, enum analyse_kind kind,
			   const struct classify_rule *rule, const struct classify_rule *by,
			   uint32_t *steps)
{
	unsigned meetings = 0;

	for (uint32_t i = 0; i < rule->match_count && *steps; i++) {
		for (uint32_t j = 0; j < by->match_count && *steps; j++, --*steps) {
			struct rule_match both;

			if (!match_meet(&rule->matches[i], &by->matches[j], &both))
				continue;
			if (report(analysis, kind, rule, by, &both))
				return true;
			if (++meetings == MEETINGS_MAX)
				return false;
		}
	}
	return false;
}

/* A key of a real frame that the rule matches. */
static bool sample(const struct analysis *analysis, const struct classify_rule *rule,
		   struct flow_key *key)
{
	struct witness witness;

	for (uint32_t i = 0; i < rule->match_count && i < MEETINGS_MAX; i++) {
		struct recipe recipe = {.match = rule->matches[i]};

		if (find_frame(analysis, NULL, &recipe, &witness, 1)) {
			key_of(&recipe.match, &witness, key);
			key->state = recipe.state;
			return true;
		}
	}
	return false;
}

/* Shadowed or redundant: by one of the rules that match a frame of this one before it does. */
static void find_cover(struct analysis *analysis, const struct classify_rule *rule, uint32_t *steps)
{
	const struct classify_rule *by = NULL;
	struct flow_key key;

	if (!sample(analysis, rule, &key))
		return;
	while ((by = classify(analysis->classifier, &key, by)) && rule_compare(by, rule) < 0) {
		bool same = action_same(&by->action, &rule->action);

		if (!*steps)
			return;
		--*steps;
		if (rule_action_is_final(&by->action) && rule_covers(by, rule, steps) &&
		    report_meeting(analysis, same ? ANALYSE_REDUNDANT : ANALYSE_SHADOWED, rule, by,
				   steps))
			return;
	}
}

static bool meet(const struct classify_rule *a, const struct classify_rule *b, uint32_t *steps)
{
	struct rule_match both;

	for (uint32_t i = 0; i < a->match_count; i++) {
		for (uint32_t j = 0; j < b->match_count && *steps; j++, --*steps) {
			if (match_meet(&a->matches[i], &b->matches[j], &both))
				return true;
		}
	}
	return false;
}

/* The rule at `index` against those of its priority before it, the next one first. */
static void find_contradiction(struct analysis *analysis, const struct classify_rule *rule,
			       uint32_t index, uint32_t *steps)
{
	unsigned tries = 0;

	if (!rule_action_is_final(&rule->action))
		return;
	while (index-- && *steps && tries < TRIES_MAX) {
		const struct classify_rule *by = analysis->rules[index];

		if (by->priority != rule->priority)
			return;
		if (!rule_action_is_final(&by->action) || action_same(&by->action, &rule->action) ||
		    !meet(rule, by, steps))
			continue;
		if (report_meeting(analysis, ANALYSE_CONTRADICTORY, rule, by, steps))
			return;
		tries++;
	}
}

static void find_idle(struct analysis *analysis, const struct classify_rule *rule)
{
	struct analyse_finding *finding = &analysis->findings[analysis->count];
	struct rule_counter counter;

	engine_rule_counters(analysis->engine, rule->slot, 1, &counter);
	if (counter.frames)
		return;
	*finding = (struct analyse_finding){.kind = ANALYSE_NEVER_HIT, .in_port = RULE_NONE};
	memcpy(finding->rule, rule->id, sizeof(finding->rule));
	analysis->count++;
}

/* --- a portion -----------------------------------------------------------------------------------
 */

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void analyse(struct analysis *analysis, uint32_t *cursor, uint64_t budget_ns, unsigned max,
		    uint32_t *skipped)
{
	uint64_t end = clock_ns() + budget_ns;
	const struct classify_rule *rule;

	while ((rule = analysis->rules[*cursor])) {
		uint32_t steps = STEPS_MAX;

		if (max - analysis->count < ANALYSE_FINDINGS_MIN)
			return;
		find_cover(analysis, rule, &steps);
		find_contradiction(analysis, rule, *cursor, &steps);
		find_idle(analysis, rule);
		*skipped += !steps;
		++*cursor;
		if (clock_ns() >= end && analysis->rules[*cursor])
			return;
	}
	*cursor = 0;
}

/* A cursor behind the end, of a set that has become smaller, is at it. */
static const struct classify_rule **rules_of(const struct classifier *classifier, uint32_t *cursor)
{
	const struct classify_rule **rules;
	struct classify_size size;

	classifier_size(classifier, &size);
	*cursor = *cursor < size.rules ? *cursor : size.rules;
	rules = calloc(size.rules + 1u, sizeof(const struct classify_rule *));
	for (uint32_t i = 0; rules && i < size.rules; i++)
		rules[i] = classifier_at(classifier, i);
	return rules;
}

int engine_analyse(struct engine *engine, uint16_t set, uint32_t *cursor, uint64_t budget_ns,
		   struct analyse_finding *findings, unsigned max, uint32_t *skipped,
		   struct error *err)
{
	struct analysis analysis = {.engine = engine,
				    .tables = &engine->snapshot->rules,
				    .alone = {.count = 1, .sets = {set}},
				    .set = set,
				    .findings = findings};
	int status = 0;

	*skipped = 0;
	if (max < ANALYSE_FINDINGS_MIN)
		return error_set(err, EINVAL, "room for %u findings is not enough", max);
	if (set >= engine->params.sets_max || !analysis.tables->sets ||
	    !analysis.tables->sets[set].classifier)
		return error_set(err, ENOENT, "rule set %u is not in force", set);
	analysis.classifier = analysis.tables->sets[set].classifier;
	analysis.trace = malloc(sizeof(*analysis.trace));
	analysis.rules = rules_of(analysis.classifier, cursor);
	if (analysis.trace && analysis.rules)
		analyse(&analysis, cursor, budget_ns, max, skipped);
	else
		status = error_set(err, ENOMEM, "out of memory");
	free(analysis.trace);
	free(analysis.rules);
	return status ? status : (int)analysis.count;
}
