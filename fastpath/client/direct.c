/* Frames by pair lanes: the data path. direct.h says how, direct_peers.c with whom. */
#include "direct_set.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "real.h"
#include "sys.h"

enum {
	DRAIN_NS = 3000000,	 /* the outbox may take that long to be read */
	PATIENCE_NS = 100000000, /* and if it took longer, it is not waited for this soon again */
	NAP_NS = 20000,
	BELLS_AT_ONCE = 64
};

uint64_t direct_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- sending ------------------------------------------------------------------------------------
 */

static struct direct_use *tx_use(struct direct_tx *tx)
{
	return &tx->direct->use[0][tx->ring];
}

struct direct_tx *direct_begin(struct direct *direct, unsigned ring, struct lane_producer *outbox,
			       int bell)
{
	struct direct_tx *tx = &direct->tx[ring];
	uint32_t number = direct_number(direct);
	struct direct_set *set;

	if (!number)
		return NULL;
	set = atomic_load(&direct->set);
	if (!set || number != set->number || direct_news(direct))
		direct_learn(direct);
	set = direct_enter(direct, tx_use(tx));
	if (!set || !set->view || number != set->number) {
		direct_leave(tx_use(tx));
		return NULL;
	}
	if (set->serial != tx->routed) {
		memset(tx->routes, 0, sizeof(tx->routes));
		memset(tx->sources, 0, sizeof(tx->sources));
		tx->routed = set->serial;
	}
	tx->set = set;
	tx->outbox = outbox;
	tx->outbox_bell = bell;
	tx->changes = fdb_view_changes(set->view) + 1; /* 0 is in empty routes */
	tx->last = NULL;
	tx->opened_count = 0;
	tx->wanted = 0;
	return tx;
}

bool direct_publish(struct direct_tx *tx, struct direct_out *out)
{
	if (lane_publish(&out->lane))
		client_bell_ring(out->bell);
	if (direct_number(tx->direct) == tx->set->number)
		return true;
	tx->set = NULL; /* suspended: the rest of the sync goes by the outbox */
	tx->last = NULL;
	return false;
}

void direct_end(struct direct_tx *tx)
{
	for (unsigned i = 0; i < tx->opened_count; i++) {
		struct direct_out *out = tx->opened[i];

		if (lane_publish(&out->lane))
			client_bell_ring(out->bell);
		out->open = false;
	}
	tx->set = NULL;
	tx->outbox = NULL;
	direct_leave(tx_use(tx));
	if (tx->wanted)
		direct_meet(tx->direct, tx->wanted - 1);
}

/* The lane to a port, or NULL: there is no pair with it, which is noted. */
static struct direct_out *out_to(struct direct_tx *tx, int port)
{
	struct direct_set *set = tx->set;

	if (port < 0 || (uint32_t)port == set->own)
		return NULL;
	for (unsigned i = 0; i < set->places; i++) {
		const struct direct_peer *peer = set->peer[i];

		if (!peer || peer->number != (uint32_t)port)
			continue;
		if (peer->map.memory)
			return &tx->direct->out[tx->ring][i];
		if (direct_now_ns() / 1000000 - peer->refused_at < DIRECT_RETRY_MS)
			return NULL;
	}
	tx->wanted = (uint32_t)port + 1;
	return NULL;
}

/* Is it known at this port? Else the forwarder has to see it. */
static bool source_known(struct direct_tx *tx, uint64_t key)
{
	struct direct_source *source = &tx->sources[fdb_view_home(key, DIRECT_SOURCES)];

	if (source->key == key && source->changes == tx->changes)
		return true;
	if (fdb_view_find(tx->set->view, tx->set->buckets, key) != (int)tx->set->own)
		return false;
	*source = (struct direct_source){.key = key, .changes = tx->changes};
	return true;
}

static bool outbox_passed(struct direct_tx *tx, const struct direct_route *route)
{
	return (int64_t)(tx->outbox->head - route->outbox_at) >= 0;
}

/* Has what was sent before left the outbox? Waits for it, a moment and not all the time. */
static bool outbox_wait(struct direct_tx *tx, const struct direct_route *route)
{
	uint64_t begin;

	if (outbox_passed(tx, route))
		return true;
	lane_producer_look(tx->outbox);
	if (outbox_passed(tx, route))
		return true;
	begin = direct_now_ns();
	if (begin < tx->patience_ns)
		return false;
	if (lane_publish(tx->outbox))
		client_bell_ring(tx->outbox_bell);
	while (direct_now_ns() - begin < DRAIN_NS) {
		const struct timespec nap = {.tv_nsec = NAP_NS};

		lane_producer_look(tx->outbox);
		if (outbox_passed(tx, route))
			return true;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
	}
	tx->patience_ns = direct_now_ns() + PATIENCE_NS;
	return false;
}

static void out_open(struct direct_tx *tx, struct direct_out *out)
{
	const struct direct_peer *peer = tx->set->peer[out - tx->direct->out[tx->ring]];

	if (peer->side)
		client_inbox_producer(&peer->map, tx->ring, &out->lane);
	else
		client_outbox_producer(&peer->map, tx->ring, &out->lane);
	out->bell = peer->bell[tx->ring];
	out->open = true;
	tx->opened[tx->opened_count++] = out;
}

static struct direct_route *route_of(struct direct_tx *tx, uint64_t key)
{
	struct direct_route *route = &tx->routes[fdb_view_home(key, DIRECT_ROUTES)];

	if (route->key != key) /* where the flow was is not known: all that is there may be of it */
		*route = (struct direct_route){.key = key, .outbox_at = tx->outbox->tail};
	if (route->changes != tx->changes) {
		int port = fdb_view_find(tx->set->view, tx->set->buckets, key);

		route->out = out_to(tx, port);
		route->changes = tx->changes;
	}
	return route;
}

struct lane_producer *direct_route_slow(struct direct_tx *tx, const uint8_t *frame, bool learn)
{
	uint64_t key = fdb_view_key(frame);
	struct direct_route *route;

	tx->last = NULL;
	if (frame[0] & 1 || !tx->set)
		return NULL;
	route = route_of(tx, key);
	if (!route->out || (learn && !source_known(tx, fdb_view_key(frame + 6))) ||
	    !outbox_wait(tx, route)) {
		route->outbox_at = tx->outbox->tail + 1; /* behind the frame that goes there now */
		return NULL;
	}
	if (!route->out->open)
		out_open(tx, route->out);
	else if (route->out->lane.tail - route->out->lane.published >= DIRECT_PUBLISH_BYTES &&
		 !direct_publish(tx, route->out))
		return NULL;
	if (learn) { /* what is remembered holds for frames that are to be learned */
		memcpy(&tx->last_head, frame, sizeof(tx->last_head));
		memcpy(&tx->last_tail, frame + sizeof(tx->last_head), sizeof(tx->last_tail));
		tx->last = route->out;
	}
	return &route->out->lane;
}

/* --- receiving ----------------------------------------------------------------------------------
 */

static struct direct_use *rx_use(struct direct_rx *rx)
{
	return &rx->direct->use[1][rx->ring];
}

/* Notes the lanes of a peer that have something for this ring. */
static void lanes_note(struct direct_rx *rx, const struct direct_peer *peer, unsigned rings)
{
	for (uint32_t t = rx->ring; t < peer->lanes_in && rx->count < DIRECT_RX_LANES; t += rings) {
		const struct lane *lane = direct_lane_in(peer, t);
		uint64_t tail = load_shared_acquire(&lane->tail);

		if (tail != load_shared(&lane->head))
			rx->item[rx->count++] =
			    (struct direct_rx_item){.peer = peer, .lane = t, .tail = tail};
	}
}

struct direct_rx *direct_rx_begin(struct direct *direct, unsigned ring)
{
	struct direct_rx *rx = &direct->rx[ring];
	struct direct_set *set;

	if (direct_news(direct))
		direct_learn(direct);
	if (!atomic_load_explicit(&direct->set, memory_order_relaxed))
		return NULL;
	set = direct_enter(direct, rx_use(rx));
	rx->count = rx->at = 0;
	rx->open = false;
	rx->turn = rx->turn + 1 < set->places ? rx->turn + 1 : 0;
	for (unsigned i = 0, place = rx->turn; i < set->places; i++) {
		const struct direct_peer *peer = set->peer[place];

		if (peer && peer->map.memory)
			lanes_note(rx, peer, direct->home.map->rx_rings);
		place = place + 1 < set->places ? place + 1 : 0;
	}
	if (rx->count)
		return rx;
	direct_leave(rx_use(rx));
	return NULL;
}

bool direct_rx_first(const struct direct_rx *rx)
{
	return !direct_number(rx->direct);
}

static void lane_end(struct direct_rx *rx)
{
	const struct direct_rx_item *item;

	if (!rx->open)
		return;
	item = &rx->item[rx->at - 1];
	rx->open = false;
	if (lane_release(&rx->lane))
		client_bell_ring(item->peer->bell[item->lane]);
}

struct lane_consumer *direct_rx_lane(struct direct_rx *rx)
{
	const struct direct_rx_item *item;
	struct lane_consumer *lane = &rx->lane;

	lane_end(rx);
	if (rx->at == rx->count)
		return NULL;
	item = &rx->item[rx->at++];
	if (item->peer->side)
		client_outbox_consumer(&item->peer->map, item->lane, lane);
	else
		client_inbox_consumer(&item->peer->map, item->lane, lane);
	if (item->tail - lane->head <= lane->tail - lane->head)
		lane->tail = item->tail; /* no further than it reached before the inbox was read */
	rx->open = true;
	return lane;
}

void direct_rx_end(struct direct_rx *rx)
{
	lane_end(rx);
	direct_leave(rx_use(rx));
}

/* --- sleeping -----------------------------------------------------------------------------------
 */

/* Tells a peer to ring. False: there is something. */
static bool peer_asleep(const struct direct *direct, const struct direct_peer *peer, unsigned first,
			unsigned last)
{
	unsigned rings = direct->home.map->rx_rings;

	for (uint32_t t = 0; t < peer->lanes_in; t++) {
		struct lane *lane = direct_lane_in(peer, t);

		if (t % rings < first || t % rings >= last)
			continue;
		lane_waits_set(&lane->consumer_waits);
		if (load_shared_ordered(&lane->tail) != load_shared(&lane->head))
			return false;
	}
	return true;
}

int direct_asleep(struct direct *direct, unsigned first, unsigned last, struct pollfd *fd)
{
	struct direct_use *use = &direct->use[1][first];
	struct direct_set *set;
	int answer = 0;

	if (direct_news(direct) && direct_now_ns() / 1000000 >= direct->retry_ms)
		return -1;
	set = direct_enter(direct, use);
	for (unsigned i = 0; set && answer >= 0 && i < set->places; i++) {
		const struct direct_peer *peer = set->peer[i];

		if (!peer || !peer->map.memory)
			continue;
		answer = peer_asleep(direct, peer, first, last) ? 1 : -1;
	}
	direct_leave(use);
	if (answer > 0)
		*fd = (struct pollfd){.fd = direct->epoll, .events = POLLIN};
	return answer;
}

void direct_awake(struct direct *direct)
{
	struct epoll_event events[BELLS_AT_ONCE];
	int count;

	if (direct->epoll < 0)
		return;
	count = (int)SYS_RESULT(vsn_real.epoll_wait(direct->epoll, events, BELLS_AT_ONCE, 0));
	for (int i = 0; i < count; i++) {
		/* a bell that its peer shut would be ready for ever */
		if (!client_bell_take(events[i].data.fd))
			(void)SYS_RESULT(vsn_real.epoll_ctl(direct->epoll, EPOLL_CTL_DEL,
							    events[i].data.fd, NULL));
	}
}
