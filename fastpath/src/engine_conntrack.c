/* Runs on: control thread. Connections, for engine.h. */
#include "engine.h"

uint64_t engine_conntrack_bytes(uint32_t connections_max)
{
	return (uint64_t)connections_max * 128;
}

int engine_conntrack_dump(struct engine *engine, uint32_t *cursor, struct conntrack_row *rows,
			  unsigned max)
{
	(void)engine, (void)rows, (void)max;
	*cursor = 0;
	return 0;
}

int engine_conntrack_flush(struct engine *engine, uint16_t bridge, uint16_t port,
			   uint8_t ip_version, const uint8_t *address)
{
	(void)engine, (void)bridge, (void)port, (void)ip_version, (void)address;
	return 0;
}

uint32_t engine_conntrack_count(struct engine *engine)
{
	(void)engine;
	return 0;
}

void engine_conntrack_settings(struct engine *engine, uint32_t port_quota,
			       const struct conntrack_timeouts *timeouts)
{
	(void)engine, (void)port_quota, (void)timeouts;
}
