/*
 * What has no other end: a registration by NR_REG_NULL, whose rings and extra buffers are in a
 * region for other ports' programs to swap buffers with. Its syncs move nothing, as in the module.
 */
#include "pipe.h"

void nobodys_view(struct ring_view *view)
{
	static struct lane lane;
	static struct client_ring_stats stats;

	view->lane = &lane;
	view->stats = &stats;
	view->bell = -1;
}

static uint32_t most(uint32_t rings)
{
	return rings < VSN_RINGS_MAX ? rings : VSN_RINGS_MAX;
}

void nobodys_link(struct link *link, const struct client_answer *answer)
{
	static struct client_memory memory;

	*link = (struct link){.map.memory = &memory};
	link->rings[RING_TX] = most(answer->tx_rings);
	link->rings[RING_RX] = most(answer->rx_rings);
	for (unsigned i = 0; i < VSN_RINGS_MAX; i++)
		link->bells[i] = -1;
}

static struct sync_result null_sync(struct binding *binding, struct ring_view *view)
{
	struct sync_result result = {0};
	struct ring_place place;
	bool died;

	kring_lock(view->kring, &died);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	result.found = place.cur != view->kring->hwtail;
	pthread_mutex_unlock(&view->kring->lock);
	return result;
}

struct sync_result other_txsync(struct binding *binding, struct ring_view *view)
{
	switch (binding->kind) {
	case BOUND_PIPE:
		return pipe_txsync(binding, view);
	case BOUND_NULL:
		return null_sync(binding, view);
	default: /* a monitor sends nothing */
		return (struct sync_result){0};
	}
}

struct sync_result other_rxsync(struct binding *binding, struct ring_view *view)
{
	switch (binding->kind) {
	case BOUND_PIPE:
		return pipe_rxsync(binding, view);
	case BOUND_NULL:
		return null_sync(binding, view);
	default:
		return watch_rxsync(binding, view);
	}
}
