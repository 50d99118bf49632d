/* Runs on: control thread. Connections, for engine.h. */
#include <errno.h>
#include <time.h>

#include "engine_tables.h"

static uint32_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec;
}

uint64_t engine_conntrack_bytes(uint32_t connections_max)
{
	return conntrack_bytes(connections_max);
}

int engine_conntrack_dump(struct engine *engine, const struct conntrack_filter *filter,
			  uint32_t *cursor, struct conntrack_row *rows, unsigned max)
{
	return conntrack_dump(engine->conntrack, filter, seconds(), cursor, rows, max);
}

int engine_conntrack_flush(struct engine *engine, const struct conntrack_filter *filter)
{
	return conntrack_flush(engine->conntrack, filter);
}

uint32_t engine_conntrack_count(struct engine *engine)
{
	return conntrack_count(engine->conntrack);
}

void engine_conntrack_settings(struct engine *engine, const struct conntrack_settings *settings)
{
	conntrack_set(engine->conntrack, settings);
}
