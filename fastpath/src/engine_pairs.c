/* Runs on: control thread. What programs in direct mode need and leave, for engine.h. */
#include <errno.h>
#include <unistd.h>

#include "engine_tables.h"

void engine_view_close(struct engine_bridge *bridge)
{
	if (!bridge->view)
		return;
	fdb_show(bridge->fdb, NULL, NULL);
	fdb_view_close(bridge->view);
	close(bridge->view_fd);
	bridge->view = NULL;
}

int engine_fdb_show(struct engine *engine, uint16_t id, const uint16_t *ports, unsigned count,
		    struct error *err)
{
	uint64_t bitmap[FDB_PORTS_MAX / 64] = {0};
	struct engine_bridge *bridge;
	int status;

	if (id >= engine->params.bridges_max || !engine->fdbs[id])
		return error_set(err, ENOENT, "bridge %u does not exist", id);
	bridge = &engine->engine_bridges[id];
	for (unsigned i = 0; i < count; i++) {
		if (ports[i] < FDB_PORTS_MAX)
			bitmap[ports[i] / 64] |= 1ull << (ports[i] % 64);
	}
	if (!bridge->view) {
		status = fdb_view_open(bridge->entries_max, &bridge->view, &bridge->view_fd);
		if (status)
			return error_set(err, -status, "bridge %u: no memory for a view", id);
	}
	fdb_show(bridge->fdb, bridge->view, bitmap);
	return bridge->view_fd;
}

int engine_pair_add(struct engine *engine, uint16_t low, uint16_t high, int fd, struct error *err)
{
	if (low >= high || high >= engine->params.ports_max)
		return error_set(err, EINVAL, "ports %u and %u make no pair", low, high);
	return pair_books_add(engine->pairs, low, high, fd, err);
}

void engine_pair_remove(struct engine *engine, uint16_t low, uint16_t high)
{
	pair_books_remove(engine->pairs, low, high);
}

void engine_pairs_retain(struct engine *engine)
{
	pair_books_retain(engine->pairs);
}
