/* Runs on: control thread. */
#include "rules_work.h"

#include <stdlib.h>
#include <string.h>

static bool lists_create(struct bridge_lists *lists, unsigned ports_max)
{
	lists->counts = calloc(ports_max, sizeof(*lists->counts));
	lists->frames = calloc(ports_max, sizeof(*lists->frames));
	lists->active = calloc(ports_max, sizeof(*lists->active));
	return lists->counts && lists->frames && lists->active;
}

static void lists_destroy(struct bridge_lists *lists)
{
	free(lists->counts);
	free(lists->frames);
	free(lists->active);
}

static void *lines(size_t bytes)
{
	size_t whole = (bytes + 63) & ~(size_t)63;
	void *memory = aligned_alloc(64, whole);

	if (memory)
		memset(memory, 0, whole);
	return memory;
}

struct rules_work *rules_work_create(unsigned ports_max, uint32_t rules_max, uint64_t seed)
{
	const struct policer_config icmp_errors = {
	    .frames = true, .rate = RULES_ICMP_ERRORS_S, .burst = RULES_ICMP_ERRORS_S};
	struct rules_work *work = lines(sizeof(*work));

	if (!work)
		return NULL;
	policer_init(&work->icmp_errors, &icmp_errors);
	work->rules_max = rules_max;
	work->hits = rules_hits_choose();
	work->cache = flow_cache_create(seed);
	work->counters = rule_counters_map(rules_max);
	work->log = lines(sizeof(*work->log));
	if (!lists_create(&work->aside, ports_max) || !lists_create(&work->moved, ports_max) ||
	    !work->counters || !work->log) {
		rules_work_destroy(work);
		return NULL;
	}
	return work;
}

void rules_work_destroy(struct rules_work *work)
{
	if (!work)
		return;
	flow_cache_destroy(work->cache);
	rule_counters_unmap(work->counters, work->rules_max);
	free(work->log);
	lists_destroy(&work->aside);
	lists_destroy(&work->moved);
	free(work);
}
