/* Runs on: control thread. */
#include "rules_tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX, DIRECTIONS = 2 /* ingress, egress */ };

/* A set with those it jumps to. */
struct reach {
	struct flow_key needs;
	bool begun;
	bool done;
	unsigned height; /* jumps within jumps */
};

struct build {
	const struct rules_config *config;
	const struct rules_source *source;
	struct error *err;
	struct rules_set *sets;
	struct reach *reach; /* by set id */
	struct rules_stage *stages;
	unsigned stage_count;
	const struct rules_stage **by_port[DIRECTIONS];
	/* attachments by object: the first one, and the next one of each */
	uint32_t *next;
	uint32_t *of_bridge[DIRECTIONS];
	uint32_t *of_port[DIRECTIONS];
	const struct rules_stage **by_bridge[DIRECTIONS];
};

static void *zeroed(size_t count, size_t size)
{
	return calloc(count ? count : 1, size);
}

/* --- sets --------------------------------------------------------------------------------------
 */

static int build_sets(struct build *build)
{
	const struct rules_source *source = build->source;

	for (unsigned i = 0; i < build->config->set_count; i++) {
		const struct rules_set_config *config = &build->config->sets[i];

		if (config->id >= source->sets_max || !source->classifiers[config->id])
			return error_set(build->err, EINVAL, "rule set %u does not exist",
					 config->id);
		if (build->sets[config->id].classifier)
			return error_set(build->err, EINVAL, "rule set %u is named twice",
					 config->id);
		build->sets[config->id] =
		    (struct rules_set){.classifier = source->classifiers[config->id],
				       .default_drop = config->default_drop};
	}
	return 0;
}

static void key_or(struct flow_key *to, const struct flow_key *from)
{
	uint64_t a[sizeof(*to) / sizeof(uint64_t)], b[sizeof(*to) / sizeof(uint64_t)];

	memcpy(a, to, sizeof(a));
	memcpy(b, from, sizeof(b));
	for (unsigned i = 0; i < sizeof(a) / sizeof(a[0]); i++)
		a[i] |= b[i];
	memcpy(to, a, sizeof(a));
}

static int check_policers(const struct build *build, uint16_t set)
{
	const struct rules_source *source = build->source;
	const uint32_t *wanted = source->refs[set].policers;

	for (unsigned p = 0; wanted && p < source->policers_max; p++) {
		if (wanted[p] && !source->policers[p])
			return error_set(build->err, EINVAL,
					 "rule set %u names policer %u, which does not exist", set,
					 p);
	}
	return 0;
}

/* What the set and all sets behind its jumps look at. Depth: sets that jumps name one by one. */
static int reach_of(struct build *build, uint16_t set)
{
	const uint32_t *jumps = build->source->refs[set].jumps;
	struct reach *reach = &build->reach[set];
	int status;

	if (reach->done)
		return 0;
	if (!build->sets[set].classifier)
		return error_set(build->err, EINVAL, "rule set %u is jumped to and does not exist",
				 set);
	if (reach->begun)
		return error_set(build->err, EINVAL, "rule set %u jumps back to itself", set);
	reach->begun = true;
	reach->needs = *classifier_needs(build->sets[set].classifier);
	status = check_policers(build, set);
	for (unsigned to = 0; !status && jumps && to < build->source->sets_max; to++) {
		const struct reach *other = &build->reach[to];

		if (!jumps[to])
			continue;
		status = reach_of(build, (uint16_t)to);
		key_or(&reach->needs, &other->needs);
		reach->height =
		    other->height + 1 > reach->height ? other->height + 1 : reach->height;
	}
	if (!status && reach->height > RULES_JUMP_MAX)
		status = error_set(build->err, EINVAL,
				   "rule set %u: more than %u jumps within each other", set,
				   (unsigned)RULES_JUMP_MAX);
	reach->done = true;
	build->sets[set].uses_state = reach->needs.state && build->source->conntrack;
	return status;
}

static int build_reach(struct build *build)
{
	int status = 0;

	for (unsigned set = 0; !status && set < build->source->sets_max; set++) {
		if (build->sets[set].classifier)
			status = reach_of(build, (uint16_t)set);
	}
	return status;
}

/* --- stages ------------------------------------------------------------------------------------
 */

static int stage_add(struct build *build, struct rules_stage *stage, uint16_t set)
{
	const struct reach *reach = &build->reach[set];

	if (stage->count == RULES_CHAIN_MAX)
		return error_set(build->err, EINVAL, "more than %u rule sets at one stage",
				 (unsigned)RULES_CHAIN_MAX);
	stage->sets[stage->count++] = set;
	stage->uses_state |= build->sets[set].uses_state;
	key_or(&stage->needs, &reach->needs);
	return 0;
}

/* Both chains of attachments in one, by their places in the array. */
static int stage_build(struct build *build, uint32_t a, uint32_t b, const struct rules_stage **out)
{
	struct rules_stage *stage = &build->stages[build->stage_count];
	int status = 0;

	*out = NULL;
	if (a == NONE && b == NONE)
		return 0;
	stage->number = build->stage_count++;
	while (!status && (a != NONE || b != NONE)) {
		uint32_t *first = a < b ? &a : &b;

		status = stage_add(build, stage, build->config->attaches[*first].set);
		*first = build->next[*first];
	}
	*out = stage;
	return status;
}

/* Attachments by object, in the array's order: from the last one to the first. */
static int sort_attaches(struct build *build)
{
	const struct rules_source *source = build->source;

	for (unsigned i = build->config->attach_count; i-- > 0;) {
		const struct rules_attach_config *attach = &build->config->attaches[i];
		uint32_t *head = NULL;

		if (attach->set >= source->sets_max || !build->sets[attach->set].classifier)
			return error_set(build->err, EINVAL,
					 "rule set %u is attached and does not exist", attach->set);
		if (attach->port != RULE_NONE && attach->port < source->ports_max)
			head = &build->of_port[attach->egress][attach->port];
		else if (attach->port == RULE_NONE && attach->bridge < source->bridges_max)
			head = &build->of_bridge[attach->egress][attach->bridge];
		if (!head)
			continue; /* of an object that cannot be there */
		build->next[i] = *head;
		*head = i;
	}
	return 0;
}

static int build_stages(struct build *build, unsigned direction)
{
	const struct rules_source *source = build->source;
	int status = 0;

	for (unsigned b = 0; !status && b < source->bridges_max; b++)
		status = stage_build(build, build->of_bridge[direction][b], NONE,
				     &build->by_bridge[direction][b]);
	for (unsigned p = 0; !status && p < source->ports_max; p++) {
		const struct bridge_port *port = &source->ports[p];
		uint32_t own = build->of_port[direction][p];

		if (!port->present || port->bridge == BRIDGE_NONE)
			continue;
		if (own == NONE)
			build->by_port[direction][p] = build->by_bridge[direction][port->bridge];
		else
			status = stage_build(build, build->of_bridge[direction][port->bridge], own,
					     &build->by_port[direction][p]);
	}
	return status;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static uint32_t *heads(unsigned count)
{
	uint32_t *list = malloc((count ? count : 1) * sizeof(*list));

	for (unsigned i = 0; list && i < count; i++)
		list[i] = NONE;
	return list;
}

static bool build_alloc(struct build *build)
{
	const struct rules_source *source = build->source;
	bool good;

	build->sets = zeroed(source->sets_max, sizeof(*build->sets));
	build->reach = zeroed(source->sets_max, sizeof(*build->reach));
	build->stages =
	    zeroed(DIRECTIONS * (source->ports_max + source->bridges_max), sizeof(*build->stages));
	build->next = heads(build->config->attach_count);
	good = build->sets && build->reach && build->stages && build->next;
	for (unsigned d = 0; d < DIRECTIONS; d++) {
		build->by_port[d] = zeroed(source->ports_max, sizeof(**build->by_port));
		build->by_bridge[d] = zeroed(source->bridges_max, sizeof(**build->by_bridge));
		build->of_port[d] = heads(source->ports_max);
		build->of_bridge[d] = heads(source->bridges_max);
		good = good && build->by_port[d] && build->by_bridge[d] && build->of_port[d] &&
		       build->of_bridge[d];
	}
	return good;
}

/* What only the build needed. */
static void build_free(struct build *build)
{
	free(build->reach);
	free(build->next);
	for (unsigned d = 0; d < DIRECTIONS; d++) {
		free(build->by_bridge[d]);
		free(build->of_port[d]);
		free(build->of_bridge[d]);
	}
}

static bool any_stage(const struct build *build)
{
	for (unsigned p = 0; p < build->source->ports_max; p++) {
		if (build->by_port[0][p] || build->by_port[1][p])
			return true;
	}
	return false;
}

int rules_tables_build(const struct rules_config *config, const struct rules_source *source,
		       struct rules_tables *out, struct error *err)
{
	struct build build = {.config = config, .source = source, .err = err};
	size_t policers =
	    (source->policers_max ? source->policers_max : 1) * sizeof(struct policer *);
	bool memory = build_alloc(&build);
	int status = 0;

	*out = (struct rules_tables){
	    .generation = source->generation,
	    .sets = build.sets,
	    .stages = build.stages,
	    .ingress = build.by_port[0],
	    .egress = build.by_port[1],
	    .policers = malloc(policers),
	    .conntrack = source->conntrack,
	};
	if (!memory || !out->policers)
		status = error_set(err, ENOMEM, "out of memory");
	else if (source->policers_max)
		memcpy((void *)out->policers, source->policers,
		       source->policers_max * sizeof(*source->policers));
	status = status ? status : build_sets(&build);
	status = status ? status : build_reach(&build);
	status = status ? status : sort_attaches(&build);
	for (unsigned d = 0; !status && d < DIRECTIONS; d++)
		status = build_stages(&build, d);
	if (!status)
		out->any = any_stage(&build);
	build_free(&build);
	if (status)
		rules_tables_free(out);
	return status;
}

void rules_tables_free(struct rules_tables *tables)
{
	free((void *)tables->sets);
	free((void *)tables->stages);
	free((void *)tables->ingress);
	free((void *)tables->egress);
	free((void *)tables->policers);
	*tables = (struct rules_tables){0};
}
