/*
 * Rules are changed and take effect. Runs on: control thread.
 *
 * A set's rules stand in a classifier that the next update replaces by one that shares what did
 * not change. Workers see the classifiers of the snapshot; the ones they no longer see are freed
 * when the grace period is over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine_tables.h"

/* --- life --------------------------------------------------------------------------------------
 */

int engine_rules_open(struct engine *engine, struct error *err)
{
	struct engine_rules *rules = &engine->rules;
	unsigned sets = engine->params.sets_max;

	rules->classifiers = calloc(sets, sizeof(*rules->classifiers));
	rules->seen = calloc(sets, sizeof(*rules->seen));
	rules->refs = calloc(sets, sizeof(*rules->refs));
	rules->places = calloc(engine->params.rules_max, sizeof(*rules->places));
	rules->policers = calloc(engine->params.policers_max, sizeof(*rules->policers));
	rules->works = calloc(engine->params.workers_max, sizeof(*rules->works));
	if (!rules->classifiers || !rules->seen || !rules->refs || !rules->places ||
	    !rules->policers || !rules->works)
		return error_set(err, ENOMEM, "out of memory");
	return 0;
}

static void refs_free(struct rules_refs *refs)
{
	free(refs->jumps);
	free(refs->policers);
	*refs = (struct rules_refs){0};
}

static void config_free(struct rules_config *config)
{
	free((void *)config->sets);
	free((void *)config->attaches);
	*config = (struct rules_config){0};
}

void engine_rules_close(struct engine *engine)
{
	struct engine_rules *rules = &engine->rules;

	for (unsigned s = 0; rules->seen && rules->refs && s < engine->params.sets_max; s++) {
		if (rules->seen[s] != rules->classifiers[s])
			classifier_free(rules->seen[s]);
		classifier_free(rules->classifiers[s]);
		refs_free(&rules->refs[s]);
	}
	for (unsigned p = 0; rules->policers && p < engine->params.policers_max; p++)
		free(rules->policers[p]);
	for (unsigned w = 0; rules->works && w < engine->params.workers_max; w++)
		rules_work_destroy(rules->works[w]);
	config_free(&rules->config);
	free(rules->classifiers);
	free(rules->seen);
	free(rules->refs);
	free(rules->places);
	free(rules->policers);
	free(rules->works);
}

/* --- rules of a set ----------------------------------------------------------------------------
 */

static int action_check(const struct engine *engine, const struct rule_config *rule,
			struct error *err)
{
	const struct rule_action *action = &rule->action;

	if (action->type >= RULE_ACTIONS)
		return error_set(err, EINVAL, "rule %.31s: its action is unknown", rule->id);
	if (action->type == RULE_JUMP && action->set >= engine->params.sets_max)
		return error_set(err, EINVAL, "rule %.31s: rule set %u does not exist", rule->id,
				 action->set);
	if (action->type == RULE_POLICE && action->policer >= engine->params.policers_max)
		return error_set(err, EINVAL, "rule %.31s: policer %u does not exist", rule->id,
				 action->policer);
	if (action->type != RULE_SET)
		return 0;
	if (action->pcp > 7 || action->dscp > 63 || action->vid > VLAN_VID_MAX ||
	    (action->set_fields & RULE_SET_ETH_SRC && action->eth_src[0] & 1))
		return error_set(err, EINVAL, "rule %.31s: a value to set is out of range",
				 rule->id);
	return 0;
}

static int rule_check(const struct engine *engine, uint16_t set, const struct rule_config *rule,
		      struct error *err)
{
	const struct rule_place *place;

	if (rule->slot >= engine->params.rules_max)
		return error_set(err, ENOSPC, "at most %u rules in all", engine->params.rules_max);
	place = &engine->rules.places[rule->slot];
	if (place->set && place->set != set + 1u)
		return error_set(err, EINVAL, "rule %.31s: slot %u is another set's", rule->id,
				 rule->slot);
	return action_check(engine, rule, err);
}

/* What counts who names whom is there before it is needed. */
static int refs_make(struct engine *engine, uint16_t set, struct error *err)
{
	struct rules_refs *refs = &engine->rules.refs[set];

	if (!refs->jumps)
		refs->jumps = calloc(engine->params.sets_max, sizeof(*refs->jumps));
	if (!refs->policers)
		refs->policers = calloc(engine->params.policers_max, sizeof(*refs->policers));
	return refs->jumps && refs->policers ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* Takes a rule's place into the set's counts, or (-1) out of them. */
static void place_count(struct engine *engine, const struct rule_place *place, int by)
{
	struct rules_refs *refs;

	if (!place->set)
		return;
	refs = &engine->rules.refs[place->set - 1];
	if (place->type == RULE_JUMP)
		refs->jumps[place->names] += (uint32_t)by;
	if (place->type == RULE_POLICE)
		refs->policers[place->names] += (uint32_t)by;
}

static void place_set(struct engine *engine, uint32_t slot, const struct rule_place *place)
{
	struct rule_place *at = &engine->rules.places[slot];

	place_count(engine, at, -1);
	*at = *place;
	place_count(engine, at, 1);
}

static struct rule_place place_of(uint16_t set, const struct rule_action *action)
{
	return (struct rule_place){
	    .set = set + 1u,
	    .names = action->type == RULE_JUMP ? action->set : action->policer,
	    .type = action->type,
	};
}

/* Workers do not see `old` unless a snapshot has it. */
static void classifier_replace(struct engine *engine, uint16_t set, struct classifier *next)
{
	struct classifier *old = engine->rules.classifiers[set];

	if (old != engine->rules.seen[set])
		classifier_free(old);
	engine->rules.classifiers[set] = next;
}

static int set_make(struct engine *engine, uint16_t set, struct error *err)
{
	if (set >= engine->params.sets_max)
		return error_set(err, ENOSPC, "at most %u rule sets", engine->params.sets_max);
	if (!engine->rules.classifiers[set])
		engine->rules.classifiers[set] = classifier_empty();
	if (!engine->rules.classifiers[set])
		return error_set(err, ENOMEM, "out of memory");
	return refs_make(engine, set, err);
}

int engine_rules_update(struct engine *engine, uint16_t set, const uint32_t *removed,
			unsigned removed_count, const struct rule_config *added,
			unsigned added_count, struct error *err)
{
	const struct rule_place nothing = {0};
	struct classifier *next;
	int status = set_make(engine, set, err);

	for (unsigned i = 0; !status && i < removed_count; i++) {
		if (removed[i] >= engine->params.rules_max ||
		    engine->rules.places[removed[i]].set != set + 1u)
			status =
			    error_set(err, EINVAL, "rule set %u has no slot %u", set, removed[i]);
	}
	for (unsigned i = 0; !status && i < added_count; i++)
		status = rule_check(engine, set, &added[i], err);
	if (status)
		return status;
	status = classifier_update(engine->rules.classifiers[set], removed, removed_count, added,
				   added_count, &next, err);
	if (status)
		return status;
	for (unsigned i = 0; i < removed_count; i++)
		place_set(engine, removed[i], &nothing);
	for (unsigned i = 0; i < added_count; i++) {
		struct rule_place place = place_of(set, &added[i].action);

		place_set(engine, added[i].slot, &place);
	}
	classifier_replace(engine, set, next);
	return 0;
}

int engine_rules_remove(struct engine *engine, uint16_t set, struct error *err)
{
	const struct rule_place nothing = {0};
	const struct classify_rule *rule;
	struct classifier *old;

	if (set >= engine->params.sets_max || !engine->rules.classifiers[set])
		return error_set(err, ENOENT, "rule set %u does not exist", set);
	if (engine->rules.seen[set])
		return error_set(err, EBUSY, "rule set %u is in use", set);
	old = engine->rules.classifiers[set];
	for (uint32_t i = 0; (rule = classifier_at(old, i)); i++)
		place_set(engine, rule->slot, &nothing);
	classifier_replace(engine, set, NULL);
	refs_free(&engine->rules.refs[set]);
	return 0;
}

int engine_rules_size(struct engine *engine, uint16_t set, struct rules_set_size *size)
{
	struct classify_size found;

	memset(size, 0, sizeof(*size));
	if (set >= engine->params.sets_max || !engine->rules.classifiers[set])
		return -ENOENT;
	classifier_size(engine->rules.classifiers[set], &found);
	*size = (struct rules_set_size){.rules = found.rules,
					.matches = found.matches,
					.tables = found.tables,
					.bytes = found.bytes};
	return 0;
}

/* --- policers ----------------------------------------------------------------------------------
 */

static int policer_check(const struct engine *engine, const struct policer_config *config,
			 struct policer *const *made, struct error *err)
{
	if (config->id >= engine->params.policers_max)
		return error_set(err, ENOSPC, "at most %u policers", engine->params.policers_max);
	if (made[config->id])
		return error_set(err, EINVAL, "policer %u is named twice", config->id);
	if (!config->rate || !config->burst)
		return error_set(err, EINVAL, "policer %u: rate and burst are at least 1",
				 config->id);
	return 0;
}

static bool policer_same(const struct policer_config *a, const struct policer_config *b)
{
	return a->frames == b->frames && a->rate == b->rate && a->burst == b->burst;
}

/* The policer there is, unless its configuration is another; a new one begins where it stands. */
static struct policer *policer_make(struct policer *old, const struct policer_config *config)
{
	struct policer *policer;

	if (old && policer_same(&old->config, config))
		return old;
	policer = malloc(sizeof(*policer));
	if (!policer)
		return NULL;
	policer_init(policer, config);
	if (old)
		atomic_store(&policer->empty, atomic_load(&old->empty));
	return policer;
}

/* Frees those of `list` that `other` does not have. */
static void policers_free(const struct engine *engine, struct policer **list,
			  struct policer *const *other)
{
	for (unsigned p = 0; list && p < engine->params.policers_max; p++) {
		if (list[p] != other[p])
			free(list[p]);
	}
	free(list);
}

static int policers_make(struct engine *engine, const struct rules_config *config,
			 struct policer ***out, struct error *err)
{
	struct policer **old = engine->rules.policers;
	struct policer **next = calloc(engine->params.policers_max, sizeof(struct policer *));
	int status = next ? 0 : error_set(err, ENOMEM, "out of memory");

	for (unsigned i = 0; !status && i < config->policer_count; i++) {
		const struct policer_config *wanted = &config->policers[i];

		status = policer_check(engine, wanted, next, err);
		if (status)
			break;
		next[wanted->id] = policer_make(old[wanted->id], wanted);
		if (!next[wanted->id])
			status = error_set(err, ENOMEM, "out of memory");
	}
	if (status)
		policers_free(engine, next, old);
	else
		*out = next;
	return status;
}

/* No worker uses the old ones any more: what they counted goes on in the new ones. */
static void policers_settle(struct engine *engine, struct policer **next)
{
	struct policer **old = engine->rules.policers;

	for (unsigned p = 0; p < engine->params.policers_max; p++) {
		if (old[p] && next[p] && old[p] != next[p]) {
			atomic_fetch_add(&next[p]->passed, atomic_load(&old[p]->passed));
			atomic_fetch_add(&next[p]->dropped, atomic_load(&old[p]->dropped));
		}
	}
	engine->rules.policers = next;
	policers_free(engine, old, next);
}

/* --- taking effect -----------------------------------------------------------------------------
 */

static void *copy_of(const void *from, size_t bytes)
{
	void *copy = malloc(bytes ? bytes : 1);

	if (copy && bytes)
		memcpy(copy, from, bytes);
	return copy;
}

static int config_copy(const struct rules_config *config, struct rules_config *out,
		       struct error *err)
{
	*out = (struct rules_config){
	    .sets = copy_of(config->sets, config->set_count * sizeof(*config->sets)),
	    .set_count = config->set_count,
	    .attaches = copy_of(config->attaches, config->attach_count * sizeof(*config->attaches)),
	    .attach_count = config->attach_count,
	};
	if (out->sets && out->attaches)
		return 0;
	config_free(out);
	return error_set(err, ENOMEM, "out of memory");
}

static int tables_build(struct engine *engine, const struct rules_config *config,
			struct policer *const *policers, const struct bridge_port *ports,
			struct rules_tables *out, struct error *err)
{
	struct rules_source source = {
	    .generation = ++engine->rules.generation,
	    .ports_max = engine->params.ports_max,
	    .bridges_max = engine->params.bridges_max,
	    .sets_max = engine->params.sets_max,
	    .policers_max = engine->params.policers_max,
	    .ports = ports,
	    .classifiers = (const struct classifier *const *)engine->rules.classifiers,
	    .refs = engine->rules.refs,
	    .policers = policers,
	    .conntrack = engine->conntrack,
	};

	return rules_tables_build(config, &source, out, err);
}

int engine_rules_tables(struct engine *engine, const struct bridge_port *ports,
			struct rules_tables *out, struct error *err)
{
	return tables_build(engine, &engine->rules.config, engine->rules.policers, ports, out, err);
}

int engine_rules_works(struct engine *engine, struct error *err)
{
	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		struct rules_work **work = &engine->rules.works[row];
		struct worker *worker = engine->rows[row];
		uint64_t seed;

		if (!worker || worker->rules)
			continue;
		if (!*work) {
			if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
				return error_set(err, EIO, "the kernel gave no random seed");
			*work = rules_work_create(engine->params.ports_max,
						  engine->params.rules_max, seed);
		}
		if (!*work)
			return error_set(err, ENOMEM, "out of memory");
		(*work)->cells = stats_cells(engine->stats, row);
		worker->rules = *work;
	}
	return 0;
}

void engine_rules_settle(struct engine *engine)
{
	struct engine_rules *rules = &engine->rules;

	for (unsigned s = 0; s < engine->params.sets_max; s++) {
		const struct classifier *now = engine->snapshot->rules.sets[s].classifier;

		if (rules->seen[s] != now && rules->seen[s] != rules->classifiers[s])
			classifier_free(rules->seen[s]);
		rules->seen[s] = now ? rules->classifiers[s] : NULL;
	}
}

/* The snapshot in force with other rules. */
static int rules_publish(struct engine *engine, uint64_t generation,
			 const struct rules_config *config, struct policer *const *policers,
			 struct error *err)
{
	struct snapshot *old = engine->snapshot, *new;
	struct rules_tables tables;
	int status = tables_build(engine, config, policers, old->bridge_ports, &tables, err);

	if (status)
		return status;
	if (tables.any)
		status = engine_rules_works(engine, err);
	new = status ? NULL : snapshot_with_rules(old, generation, &tables);
	if (!new) {
		rules_tables_free(&tables);
		return status ? status : error_set(err, ENOMEM, "out of memory");
	}
	snapshot_publish(&engine->domain, new);
	engine->snapshot = new;
	snapshot_free_shell(old);
	engine_rules_settle(engine);
	return 0;
}

int engine_publish_rules(struct engine *engine, uint64_t generation,
			 const struct rules_config *config, struct error *err)
{
	struct rules_config copy = {0};
	struct policer **policers = NULL;
	int status = config_copy(config, &copy, err);

	for (unsigned i = 0; !status && i < config->set_count; i++)
		status = set_make(engine, config->sets[i].id, err);
	if (!status)
		status = policers_make(engine, config, &policers, err);
	if (!status)
		status = rules_publish(engine, generation, &copy, policers, err);
	if (status) {
		policers_free(engine, policers, engine->rules.policers);
		config_free(&copy);
		return status;
	}
	policers_settle(engine, policers);
	config_free(&engine->rules.config);
	engine->rules.config = copy;
	return 0;
}
