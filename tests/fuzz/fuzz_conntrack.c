/*
 * Frames of strangers through connection tracking, on a table so small that it is always full, with
 * time, flushes and successors in between; a successor may find memory that was written to at
 * random. Input: records of an operation, an argument, a length and a frame's bytes, which are an
 * allocation of exactly their size. Beyond memory safety:
 *
 *   - a look leaves no trace: the same frame is the same again, with and without a hash made ahead
 *   - a frame has one state, and none that no documentation knows; what is invalid makes nothing
 *   - limit and quota hold, and the table counts what it shows
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conntrack.h"
#include "parse.h"
#include "rule.h"

enum { CONNECTIONS = 6, QUOTA = 3, BRIDGE = 1, RECORDS = 200 };
enum op { OP_PASS, OP_PASS_TOO, OP_LOOK, OP_WAIT, OP_TICK, OP_FLUSH, OP_SUCCESSOR, OP_SPOIL, OPS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int memory = -1;
static uint32_t now;

static struct conntrack *table_open(void)
{
	struct conntrack_settings settings = conntrack_defaults(CONNECTIONS);
	struct conntrack *table;
	struct error err;

	if (conntrack_map(memory, CONNECTIONS, &table, &err))
		return NULL;
	if (conntrack_take_over(table, &err)) {
		conntrack_unmap(table);
		return NULL;
	}
	settings.port_quota = QUOTA;
	settings.tcp_loose = now & 1;
	conntrack_set(table, &settings);
	return table;
}

/* As at the first start: nothing in it. */
static struct conntrack *table_new(void)
{
	off_t bytes = (off_t)conntrack_bytes(CONNECTIONS);

	if (memory < 0)
		memory = memfd_create("conntrack", 0);
	assert(ftruncate(memory, 0) == 0 && ftruncate(memory, bytes) == 0);
	return table_open();
}

static unsigned rows(struct conntrack *table, const struct conntrack_filter *filter)
{
	struct conntrack_row found[2];
	uint32_t cursor = 0;
	unsigned all = 0;

	do {
		int count = conntrack_dump(table, filter, now, &cursor, found, 2);

		for (int i = 0; i < count; i++) {
			assert(found[i].state == FLOW_NEW || found[i].state == FLOW_ESTABLISHED);
			assert(found[i].tcp_state < CONNTRACK_TCP_STATES);
			assert(found[i].expires_s > 0);
		}
		all += (unsigned)count;
	} while (cursor);
	return all;
}

static void check_limits(struct conntrack *table)
{
	struct conntrack_filter filter = {.bridge = RULE_NONE, .port = RULE_NONE};

	assert(conntrack_count(table) <= CONNECTIONS);
	assert(rows(table, &filter) <= conntrack_count(table));
	for (filter.port = 0; filter.port < 4; filter.port++)
		assert(rows(table, &filter) <= QUOTA);
}

static void frame(struct conntrack *table, uint8_t port, const uint8_t *bytes, uint32_t len,
		  bool let)
{
	struct frame frame = {
	    .data = malloc(len ? len : 1), .len = len, .frame_len = len, .in_port = port & 3};
	uint32_t before = conntrack_count(table);
	struct conntrack_ref ref, again;
	enum flow_state state;
	struct flow_key key;
	uint64_t hash;
	int status;

	memcpy(frame.data, bytes, len);
	parse_flow(&frame, &key);
	conntrack_prefetch(table, &key, 1, BRIDGE, &hash);
	state = conntrack_lookup(table, &key, &frame, BRIDGE, now, &ref);
	assert(state == conntrack_lookup_hashed(table, &key, &frame, BRIDGE, now, hash, &again));
	assert(ref.hash == again.hash && ref.entry == again.entry && ref.stamp == again.stamp);
	assert(state == ref.state && !(state & (state - 1)) && state <= FLOW_INVALID);
	assert(conntrack_count(table) == before);
	if (let) {
		status = conntrack_commit(table, &key, &frame, BRIDGE, now, &ref);
		assert(!status || (status == -ENOSPC && state == FLOW_NEW));
		if (state == 0 || state >= FLOW_RELATED)
			assert(conntrack_count(table) == before);
		check_limits(table);
	}
	free(frame.data);
}

/* Somebody's bytes are written over the table while nobody has it. */
static struct conntrack *successor(struct conntrack *table, const uint8_t *bytes, uint32_t len,
				   uint8_t at)
{
	uint32_t before = conntrack_count(table);
	off_t where = 4096 + (off_t)at * 3;
	struct conntrack *next;

	conntrack_unmap(table);
	if (len > 300)
		len = 300;
	if (len && where + (off_t)len < (off_t)conntrack_bytes(CONNECTIONS))
		assert(pwrite(memory, bytes, len, where) == (ssize_t)len);
	next = table_open();
	assert(next);
	assert(len || conntrack_count(next) == before);
	return next;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct conntrack *table;
	struct conntrack_filter filter = {.bridge = RULE_NONE};

	now = 0xffffff00;
	table = table_new();
	assert(table);
	for (unsigned records = 0; size > 4 && records < RECORDS; records++) {
		uint32_t len = (uint32_t)data[2] << 8 | data[3];
		uint8_t op = data[0] % OPS, argument = data[1];

		data += 4;
		size -= 4;
		if (len > size)
			len = (uint32_t)size;
		switch (op) {
		case OP_PASS:
		case OP_PASS_TOO:
		case OP_LOOK:
			frame(table, argument, data, len, op != OP_LOOK);
			break;
		case OP_WAIT:
			now += argument;
			break;
		case OP_TICK:
			conntrack_tick(table, now);
			filter.port = RULE_NONE;
			assert(rows(table, &filter) == conntrack_count(table));
			break;
		case OP_FLUSH:
			filter.port = argument & 3;
			conntrack_flush(table, &filter);
			assert(rows(table, &filter) == 0);
			break;
		default:
			table = successor(table, data, op == OP_SPOIL ? len : 0, argument);
			if (op == OP_SPOIL) { /* times and ports may be anything now */
				filter.port = RULE_NONE;
				conntrack_flush(table, &filter);
			}
		}
		data += len;
		size -= len;
	}
	conntrack_unmap(table);
	return 0;
}
