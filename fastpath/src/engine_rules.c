/* Runs on: control thread. Rules and what they counted, for engine.h. */
#include <errno.h>
#include <string.h>

#include "engine.h"

static int absent(struct error *err)
{
	return error_set(err, ENOSYS, "rules are not there yet");
}

int engine_rules_update(struct engine *engine, uint16_t set, const uint32_t *removed,
			unsigned removed_count, const struct rule_config *added,
			unsigned added_count, struct error *err)
{
	(void)engine, (void)set, (void)removed, (void)removed_count, (void)added, (void)added_count;
	return absent(err);
}

int engine_rules_remove(struct engine *engine, uint16_t set, struct error *err)
{
	(void)engine, (void)set;
	return absent(err);
}

int engine_publish_rules(struct engine *engine, uint64_t generation,
			 const struct rules_config *config, struct error *err)
{
	(void)engine, (void)generation, (void)config;
	return absent(err);
}

int engine_rules_size(struct engine *engine, uint16_t set, struct rules_set_size *size)
{
	(void)engine, (void)set;
	memset(size, 0, sizeof(*size));
	return -ENOSYS;
}

void engine_rule_counters(struct engine *engine, uint32_t first, uint32_t count,
			  struct rule_counter *sums)
{
	(void)engine, (void)first;
	memset(sums, 0, count * sizeof(*sums));
}

void engine_rule_counters_clear(struct engine *engine, uint32_t slot)
{
	(void)engine, (void)slot;
}

void engine_policer_counters(struct engine *engine, uint16_t id, uint64_t *passed,
			     uint64_t *dropped)
{
	(void)engine, (void)id;
	*passed = *dropped = 0;
}

unsigned engine_rule_log(struct engine *engine, struct rule_log_record *records, unsigned max,
			 uint64_t *lost)
{
	(void)engine, (void)records, (void)max;
	*lost = 0;
	return 0;
}
