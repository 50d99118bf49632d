/* Connection tracking as Python tests call it (tests/support/core.py). */
#include <stdlib.h>
#include <string.h>

#include "conntrack.h"
#include "parse.h"

/* cffi: begin */
struct conntrack *shim_conntrack_open(int fd, uint32_t connections_max);
void shim_conntrack_close(struct conntrack *table);
void shim_conntrack_set(struct conntrack *table, const struct conntrack_settings *settings);
/*
 * A frame's state; a frame that is let through is committed, and *status is what that said.
 * `ahead`: its hash was made for a batch.
 */
int shim_conntrack_pass(struct conntrack *table, const uint8_t *bytes, uint32_t len,
			uint16_t in_port, uint16_t bridge, uint32_t now, _Bool ahead, _Bool let,
			int *status);
int shim_conntrack_dump(struct conntrack *table, uint32_t now, uint32_t *cursor,
			struct conntrack_row *rows, unsigned max);
int shim_conntrack_flush(struct conntrack *table, const struct conntrack_filter *filter);
uint32_t shim_conntrack_count(struct conntrack *table);
uint64_t shim_conntrack_bytes(uint32_t connections_max);
void shim_conntrack_tick(struct conntrack *table, uint32_t now);
/* cffi: end */

struct conntrack *shim_conntrack_open(int fd, uint32_t connections_max)
{
	struct conntrack *table;
	struct error err;

	if (conntrack_map(fd, connections_max, &table, &err))
		return NULL;
	if (!conntrack_take_over(table, &err))
		return table;
	conntrack_unmap(table);
	return NULL;
}

void shim_conntrack_close(struct conntrack *table)
{
	conntrack_unmap(table);
}

void shim_conntrack_set(struct conntrack *table, const struct conntrack_settings *settings)
{
	conntrack_set(table, settings);
}

int shim_conntrack_pass(struct conntrack *table, const uint8_t *bytes, uint32_t len,
			uint16_t in_port, uint16_t bridge, uint32_t now, bool ahead, bool let,
			int *status)
{
	struct frame frame = {
	    .data = malloc(len), .len = len, .frame_len = len, .in_port = in_port};
	struct conntrack_ref ref;
	struct flow_key key;
	uint64_t hash = 0;
	int state;

	memcpy(frame.data, bytes, len); /* of its own, so that a sanitizer sees where it ends */
	parse_flow(&frame, &key);
	if (ahead)
		conntrack_prefetch(table, &key, 1, bridge, &hash);
	state = (int)conntrack_lookup_hashed(table, &key, &frame, bridge, now, hash, &ref);
	*status = let ? conntrack_commit(table, &key, &frame, bridge, now, &ref) : 0;
	free(frame.data);
	return state;
}

int shim_conntrack_dump(struct conntrack *table, uint32_t now, uint32_t *cursor,
			struct conntrack_row *rows, unsigned max)
{
	struct conntrack_filter all = {.bridge = 0xffff, .port = 0xffff};

	return conntrack_dump(table, &all, now, cursor, rows, max);
}

int shim_conntrack_flush(struct conntrack *table, const struct conntrack_filter *filter)
{
	return conntrack_flush(table, filter);
}

uint32_t shim_conntrack_count(struct conntrack *table)
{
	return conntrack_count(table);
}

uint64_t shim_conntrack_bytes(uint32_t connections_max)
{
	return conntrack_bytes(connections_max);
}

void shim_conntrack_tick(struct conntrack *table, uint32_t now)
{
	conntrack_tick(table, now);
}
