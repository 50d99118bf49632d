/* Rules on a traced frame's way. Runs on: control thread. */
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "action.h"
#include "bridge_decide.h"
#include "policer.h"
#include "reject.h"
#include "rules.h"
#include "trace_way.h"

/* --- the rules that are listed -----------------------------------------------------------------
 */

/* How many rules of the classifier come before this one (NULL: none) or are it. */
static uint32_t rank(const struct classifier *classifier, const struct classify_rule *rule)
{
	const struct classify_rule *at;
	uint32_t low = 0, high = 1;

	if (!rule)
		return 0;
	while ((at = classifier_at(classifier, high - 1)) && rule_compare(at, rule) < 0)
		high *= 2;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		at = classifier_at(classifier, middle);
		if (at && rule_compare(at, rule) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t count_of(const struct classifier *classifier)
{
	struct classify_size size;

	classifier_size(classifier, &size);
	return size.rules;
}

/* The alternative that comes closest: whose first difference is the latest. */
static enum trace_field closest(const struct classify_rule *rule, const struct flow_key *key,
				struct rule_match *match)
{
	enum trace_field best = TRACE_MATCHED;

	if (!rule->match_count)
		return TRACE_NOTHING;
	for (uint32_t i = 0; i < rule->match_count && i < TRACE_ALTERNATIVES_MAX; i++) {
		enum trace_field field = trace_differs(&rule->matches[i], key);

		if (i == 0 || field == TRACE_MATCHED || field > best) {
			*match = rule->matches[i];
			best = field;
		}
		if (field == TRACE_MATCHED)
			break;
	}
	return best;
}

static void list(struct way *way, struct trace_step *step, uint16_t set,
		 const struct classify_rule *rule, const struct flow_key *key, bool matches)
{
	struct trace *trace = way->trace;
	struct trace_rule *listed;

	if (!step)
		return;
	if (trace->rule_count == TRACE_RULES_MAX || (!matches && way->misses == TRACE_MISSES_MAX)) {
		step->left_out++;
		return;
	}
	way->misses += !matches;
	listed = &trace->rules[trace->rule_count++];
	*listed = (struct trace_rule){.slot = rule->slot, .set = set, .action = rule->action};
	memcpy(listed->id, rule->id, sizeof(listed->id));
	if (!matches)
		listed->field = (uint8_t)closest(rule, key, &listed->wants);
	step->rule_count++;
}

/* The rules of a set behind `after` and before `until` (NULL: to its end): none of them matches. */
static void list_misses(struct way *way, struct trace_step *step, uint16_t set,
			const struct classify_rule *after, const struct classify_rule *until,
			const struct flow_key *key)
{
	const struct classifier *classifier = way->snapshot->rules.sets[set].classifier;
	uint32_t end = until ? rank(classifier, until) - 1 : count_of(classifier);
	uint32_t i = rank(classifier, after);

	for (; i < end && way->misses < TRACE_MISSES_MAX; i++)
		list(way, step, set, classifier_at(classifier, i), key, false);
	if (step)
		step->left_out += end - i;
}

/* --- what rules do -------------------------------------------------------------------------------
 */

/* Rules of this policer that the frame has met, the last one included: each takes its share. */
static uint32_t shares(const struct trace *trace, uint16_t policer)
{
	uint32_t found = 0;

	for (uint32_t i = 0; i < trace->rule_count; i++) {
		const struct trace_rule *rule = &trace->rules[i];

		found += rule->field == TRACE_MATCHED && rule->action.type == RULE_POLICE &&
			 rule->action.policer == policer;
	}
	return found;
}

static bool in_rate(const struct way *way, const struct frame *frame, uint16_t id)
{
	uint32_t times = shares(way->trace, id);
	const struct policer *policer = way->snapshot->rules.policers[id];
	struct timespec now;

	if (!policer)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return policer_peek(policer, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
			    frame->frame_len, 1, times);
}

static void mirror(struct way *way, const struct way_stage *at, const struct rule_action *action)
{
	struct frame copy = *at->frame;

	if (!action_mirrors(way->tables, action->port, way->in_port, at->out_port))
		return;
	if (action->snaplen != RULE_SNAPLEN_ALL && action->snaplen < copy.frame_len)
		copy.frame_len = action->snaplen;
	way_tx(way, &copy, action->port, TRACE_COPIED, true);
}

static void answer(struct way *way, const struct way_stage *at)
{
	uint8_t bytes[REJECT_BYTES_MAX];
	struct frame frame = *at->frame;

	if (way->answered)
		return;
	way->answered = true;
	frame.frame_len = reject_build(at->frame, at->key, bytes);
	if (frame.frame_len)
		way_tx(way, &frame, way->in_port, TRACE_ANSWERED, true);
}

/* Does what a rule that matches says. False: a policer's rate is exceeded. */
static bool act(struct way *way, const struct way_stage *at, const struct rule_action *action,
		struct way_fate *fate)
{
	switch (action->type) {
	case RULE_MIRROR:
		mirror(way, at, action);
		return true;
	case RULE_POLICE:
		return in_rate(way, at->frame, action->policer);
	case RULE_SET:
		action_collect(&fate->set, action);
		return true;
	case RULE_REDIRECT:
		fate->redirect = action->port;
		return true;
	default:
		return true;
	}
}

/* --- a stage -------------------------------------------------------------------------------------
 */

/* Once for all stages of the frame, as a worker does. */
static void find_state(struct way *way, const struct way_stage *at)
{
	struct conntrack_ref ref;
	struct timespec now;

	if (!way->state_known) {
		clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
		way->state =
		    (uint8_t)conntrack_lookup(way->snapshot->rules.conntrack, &way->key, at->frame,
					      way->in->bridge, (uint32_t)now.tv_sec, &ref);
		way->state_known = true;
	}
	at->key->state = way->state;
}

static void settle(struct way_fate *fate, const struct rules_walk *walk)
{
	struct trace_step *step = fate->step;
	enum trace_result result = TRACE_DROP;

	switch (walk->verdict) {
	case RULES_GO:
		result = TRACE_ALLOW;
		break;
	case RULES_REDIRECT:
		result = TRACE_REDIRECT;
		break;
	case RULES_REJECT:
		result = TRACE_REJECT;
		fate->reason = DROP_REJECTED;
		break;
	case RULES_DROP_DEFAULT:
		fate->reason = DROP_RULE_DEFAULT;
		break;
	default:
		fate->reason = DROP_RULE;
	}
	if (!step)
		return;
	step->result = (uint8_t)result;
	step->to = fate->redirect;
	step->default_of = walk->default_of;
	step->reason = (uint8_t)fate->reason;
}

/* The frame ends at this step after all. */
static void refuse(struct way_fate *fate, unsigned reason)
{
	fate->reason = reason;
	if (fate->step) {
		fate->step->result = TRACE_DROP;
		fate->step->reason = (uint8_t)reason;
	}
}

struct way_fate way_rules(struct way *way, const struct way_stage *at)
{
	struct way_fate fate = {.reason = BRIDGE_PASSES, .redirect = RULE_NONE};
	struct rules_walk walk;

	fate.step = way_step(way, at->stage, TRACE_ALLOW,
			     at->out_port == RULE_NONE ? way->in_port : at->out_port);
	if (fate.step)
		fate.step->rules = way->trace->rule_count;
	if (at->rules->uses_state)
		find_state(way, at);
	rules_walk_begin(&walk, &way->snapshot->rules, at->rules, at->key);
	while (!walk.ended) {
		uint16_t set = walk.level[walk.depth].set;
		const struct classify_rule *after = walk.level[walk.depth].after;
		const struct classify_rule *rule = rules_walk_step(&walk);

		list_misses(way, fate.step, set, after, rule, at->key);
		if (!rule)
			continue;
		list(way, fate.step, set, rule, at->key, true);
		if (!act(way, at, &rule->action, &fate)) {
			refuse(&fate, DROP_POLICED);
			return fate;
		}
	}
	settle(&fate, &walk);
	if (fate.reason == DROP_REJECTED)
		answer(way, at);
	return fate;
}
