/* Runs on: control thread. What rules and policers have counted and logged, for engine.h. */
#include <string.h>

#include "engine_tables.h"

static void counter_sum(struct rule_counter *sum, const struct rule_counter *row)
{
	uint64_t last_s = counter_read(&row->last_s);

	sum->frames += counter_read(&row->frames);
	sum->bytes += counter_read(&row->bytes);
	sum->last_s = last_s > sum->last_s ? last_s : sum->last_s;
}

void engine_rule_counters(struct engine *engine, uint32_t first, uint32_t count,
			  struct rule_counter *sums)
{
	uint32_t end = engine->params.rules_max;

	memset(sums, 0, count * sizeof(*sums));
	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		const struct rules_work *work = engine->rules.works[row];

		for (uint32_t i = 0; work && i < count && first + i < end; i++)
			counter_sum(&sums[i], &work->counters[first + i]);
	}
}

void engine_rule_counters_clear(struct engine *engine, uint32_t slot)
{
	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		struct rules_work *work = engine->rules.works[row];

		if (work && slot < engine->params.rules_max)
			rule_counter_clear(&work->counters[slot]);
	}
}

void engine_policer_counters(struct engine *engine, uint16_t id, uint64_t *passed,
			     uint64_t *dropped)
{
	const struct policer *policer = NULL;

	if (id < engine->params.policers_max)
		policer = engine->rules.policers[id];
	*passed = policer ? atomic_load(&policer->passed) : 0;
	*dropped = policer ? atomic_load(&policer->dropped) : 0;
}

/* Of all workers' rings the one whose first record is the oldest; NULL: all are empty. */
static struct rule_log *oldest(struct engine *engine)
{
	struct rule_log *found = NULL;
	uint64_t time_ns = UINT64_MAX;

	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		struct rules_work *work = engine->rules.works[row];
		const struct rule_log_record *record = work ? rule_log_peek(work->log) : NULL;

		if (record && record->time_ns < time_ns) {
			time_ns = record->time_ns;
			found = work->log;
		}
	}
	return found;
}

unsigned engine_rule_log(struct engine *engine, struct rule_log_record *records, unsigned max,
			 uint64_t *lost)
{
	uint64_t ever = 0;
	unsigned count = 0;

	while (count < max) {
		struct rule_log *log = oldest(engine);

		if (!log)
			break;
		records[count++] = *rule_log_peek(log);
		rule_log_drop(log);
	}
	for (unsigned row = 0; row < engine->params.workers_max; row++) {
		if (engine->rules.works[row])
			ever += atomic_load(&engine->rules.works[row]->log->lost);
	}
	*lost = ever - engine->rules.log_lost;
	engine->rules.log_lost = ever;
	return count;
}
