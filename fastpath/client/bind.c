/* A session and what it is bound to: the link to the switch, the region, its seat there. */
#include "core.h"

#include <string.h>

#include "fds.h"
#include "pipe.h"
#include "sys.h"

/* --- the link --- */

static void link_close(struct link *link)
{
	for (unsigned i = 0; i < VSN_RINGS_MAX; i++) {
		vsn_hidden_close(link->bells[i]);
		link->bells[i] = -1;
	}
	if (link->map.bytes)
		client_map_close(&link->map);
}

/*
 * fds: the memory and our ends of its bells, which `watch` has not. They are closed, or the link's,
 * when this returns.
 */
static int link_open(struct link *link, uint32_t side, bool watch, int fds[], unsigned n)
{
	int error = n ? client_map_open(fds[0], &link->map) : -EPROTO;
	unsigned bells;

	for (unsigned i = 0; i < VSN_RINGS_MAX; i++)
		link->bells[i] = -1;
	bells = watch || error ? 0 : client_bells(link->map.tx_rings, link->map.rx_rings);
	if (!error && (side > 1 || n != 1 + bells))
		error = -EPROTO;
	for (unsigned i = 0; i < bells && !error; i++) {
		link->bells[i] = vsn_hide(fds[1 + i]);
		fds[1 + i] = -1;
		error = link->bells[i] < 0 ? link->bells[i] : 0;
	}
	wire_close(fds, n);
	if (error) {
		link_close(link);
		return error;
	}
	link->side = side;
	if (watch) {
		link->rings[RING_TX] = 1;
		link->rings[RING_RX] = client_bells(link->map.tx_rings, link->map.rx_rings);
		return mprotect(link->map.memory, link->map.bytes, PROT_READ) ? -ENOMEM : 0;
	}
	link->rings[RING_TX] = side ? link->map.rx_rings : link->map.tx_rings;
	link->rings[RING_RX] = side ? link->map.tx_rings : link->map.rx_rings;
	return 0;
}

/* Where frames go, or come from, of our ring `number`: outboxes lead from side 0 to side 1. */
static void link_lane(const struct link *link, enum ring_side side, unsigned number,
		      struct ring_view *view)
{
	const struct client_map *map = &link->map;
	bool outbox = (side == RING_TX) == (link->side == 0);

	view->lane = outbox ? &map->memory->outbox[number] : &map->memory->inbox[number];
	view->data = outbox ? client_outbox(map, number) : client_inbox(map, number);
	view->lane_bytes = outbox ? map->outbox_bytes : map->inbox_bytes;
	view->bell = link->bells[number];
	view->stats = side == RING_TX ? &map->memory->tx[number] : &map->memory->rx[number];
}

/* --- rings --- */

/* Which rings a registration has, as the module reads mode and flags. */
static int rings_of(const struct bind_wish *wish, const uint32_t rings[RING_SIDES],
		    struct seat *seat)
{
	static const uint64_t without[] = {
	    [RING_TX] = NR_RX_RINGS_ONLY, [RING_RX] = NR_TX_RINGS_ONLY};

	for (unsigned side = 0; side < RING_SIDES; side++) {
		seat->first[side] = seat->last[side] = 0;
		if (wish->flags & without[side])
			continue;
		if (wish->mode == NR_REG_ALL_NIC || wish->mode == NR_REG_NULL) {
			seat->last[side] = rings[side];
		} else if (wish->mode == NR_REG_ONE_NIC) {
			if (wish->ring_id >= rings[RING_TX] && wish->ring_id >= rings[RING_RX])
				return -EINVAL;
			seat->first[side] = wish->ring_id < rings[side] ? wish->ring_id : 0;
			seat->last[side] = seat->first[side] + 1;
		} else {
			return -EINVAL; /* no host rings here */
		}
	}
	return 0;
}

static bool seat_sane(const struct seat *seat, const struct link *link)
{
	for (unsigned side = 0; side < RING_SIDES; side++)
		if (seat->last[side] > link->rings[side] || seat->first[side] > seat->last[side])
			return false;
	return seat->adapter < VSN_ADAPTERS_MAX;
}

static int view_make(struct binding *binding, enum ring_side side, unsigned number, bool open)
{
	struct region *region = &binding->region;
	const struct region_pool *pool = &region->head->pools[POOL_RING];
	struct kring *kring = &binding->adapter->krings[side][number];
	struct ring_view *view = &binding->views[side][number];
	uint64_t slots_bytes = (uint64_t)kring->num_slots * sizeof(struct netmap_slot);

	if (!kring->ring_at || kring->num_slots < 2 || kring->num_slots > VSN_SLOTS_MAX ||
	    kring->ring_at + sizeof(struct netmap_ring) + slots_bytes > region->memsize ||
	    sizeof(struct netmap_ring) + slots_bytes > pool->object_bytes)
		return -EINVAL;
	*view = (struct ring_view){.ring = (void *)(region->base + kring->ring_at),
				   .kring = kring,
				   .num_slots = kring->num_slots};
	if (binding->kind == BOUND_NULL) {
		nobodys_view(view);
		return 0;
	}
	if (binding->kind == BOUND_WATCH) {
		watch_view(binding, side, number, view, open && kring->users == 1);
		return 0;
	}
	link_lane(&binding->link, side, number, view);
	if (!open || kring->users != 1)
		return 0;
	/* the ring's first user in the region: on from where the lane is */
	if (side == RING_TX && binding->kind == BOUND_PIPE) {
		pipe_tx_open(view);
		return 0;
	}
	if (side == RING_TX) {
		lane_producer_open(&kring->out, view->lane, view->data, view->lane_bytes);
		return 0;
	}
	lane_consumer_open(&kring->in, view->lane, view->data, view->lane_bytes);
	if (binding->kind ==
	    BOUND_PORT) /* a declared port is there before its program: not for its eyes */
		lane_consumer_skip(&kring->in);
	return 0;
}

static int views_make(struct binding *binding, bool open)
{
	int error = 0;

	for (unsigned side = 0; side < RING_SIDES; side++)
		for (uint32_t r = binding->first[side]; r < binding->last[side] && !error; r++)
			error = view_make(binding, side, r, open);
	return error;
}

static uint32_t slots_wanted(const struct bind_wish *wish, enum ring_side side, uint32_t answered)
{
	uint32_t slots = answered ? answered : wish->slots[side];

	if (!slots)
		return VSN_SLOTS_DEFAULT;
	return slots > VSN_SLOTS_MAX ? VSN_SLOTS_MAX : slots < 2 ? 2 : slots;
}

/* NETMAP_REQ_OPT_OFFSETS: where in its buffer a frame begins, in bits of the slot's ptr. */
static int offsets_set(struct binding *binding, struct nmreq_opt_offsets *option)
{
	uint64_t bits = option->nro_offset_bits;
	uint64_t mask = bits == 0 || bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
	uint64_t max = option->nro_max_offset;

	if (bits > 64 || max > binding->region.buffer_bytes || (max & mask) != max ||
	    option->nro_initial_offset > max)
		return -EINVAL;
	for (unsigned side = 0; side < RING_SIDES; side++)
		for (uint32_t r = binding->first[side]; r < binding->last[side]; r++) {
			struct kring *kring = &binding->adapter->krings[side][r];
			struct netmap_ring *ring = binding->views[side][r].ring;

			if (kring->offset_mask &&
			    ((kring->offset_mask & mask) != mask || kring->offset_max < max))
				return -EBUSY;
			if (kring->offset_mask) {
				mask = kring->offset_mask;
				max = kring->offset_max;
				continue;
			}
			kring->offset_mask = ring->offset_mask = mask;
			kring->offset_max = max;
			for (uint32_t i = 0; option->nro_initial_offset && i < kring->num_slots;
			     i++)
				ring->slot[i].ptr = option->nro_initial_offset;
		}
	option->nro_max_offset = max;
	return 0;
}

/* --- a seat in the region --- */

static void adapter_name(char name[VSN_ADAPTER_NAME], const struct client_answer *answer)
{
	size_t length = strnlen(answer->name, CLIENT_NAME_MAX - 1);

	memset(name, 0, VSN_ADAPTER_NAME);
	memcpy(name, answer->name, length);
	/* a monitor is not the port that it looks at, and what has no port is nobody else's */
	if (answer->flags & (NR_MONITOR_TX | NR_MONITOR_RX) || answer->mode == NR_REG_NULL) {
		name[length] = '/';
		memcpy(name + length + 1, &answer->session, sizeof(answer->session));
	}
}

static int seat_new(struct binding *binding, const struct bind_wish *wish)
{
	struct region *region = &binding->region;
	const struct client_answer *answer = &binding->answer;
	const uint32_t slots[] = {
	    [RING_TX] = slots_wanted(wish, RING_TX, answer->tx_slots),
	    [RING_RX] = slots_wanted(wish, RING_RX, answer->rx_slots),
	};
	struct seat seat = {
	    .session = answer->session, .extra_bufs = wish->extra_bufs, .flags = wish->flags};
	char name[VSN_ADAPTER_NAME];
	int number = rings_of(wish, binding->link.rings, &seat);

	if (number)
		return number;
	adapter_name(name, answer);
	binding->adapter = adapter_get(region, name, !answer->shared, binding->link.rings, slots);
	if (!binding->adapter)
		return -ENOMEM;
	seat.adapter = (uint32_t)(binding->adapter - region->head->adapters);
	number = seat_make(region, &seat, answer->name);
	if (number < 0)
		return number;
	binding->seat = (uint32_t)number;
	memcpy(binding->first, seat.first, sizeof(seat.first));
	memcpy(binding->last, seat.last, sizeof(seat.last));
	return 0;
}

static int seat_join(struct binding *binding)
{
	struct region_head *head = binding->region.head;
	int number = seat_find(&binding->region, binding->answer.session);
	struct seat *seat;

	if (number < 0)
		return number;
	seat = &head->seats[number];
	if (!binding->region.base || !seat_sane(seat, &binding->link))
		return -EINVAL;
	/* whoever handed the fd over, or was this process before exec, has counted us */
	binding->seat = (uint32_t)number;
	binding->adapter = &head->adapters[seat->adapter];
	memcpy(binding->first, seat->first, sizeof(seat->first));
	memcpy(binding->last, seat->last, sizeof(seat->last));
	return 0;
}

static int seat_take(struct binding *binding, const struct bind_wish *wish)
{
	int error;

	region_lock(binding->region.head);
	error = wish ? seat_new(binding, wish) : seat_join(binding);
	if (!error) {
		error = views_make(binding, wish != NULL);
		if (!error && wish && wish->offsets)
			error = offsets_set(binding, wish->offsets);
		if (error && wish)
			seat_leave(&binding->region, binding->seat);
	}
	region_unlock(binding->region.head);
	return error;
}

/* What killed programs have left in a region that lives on is free again. */
static void region_sweep(struct vsn_session *session)
{
	struct region *region = &session->binding.region;

	for (uint32_t i = 0; i < VSN_SEATS_MAX; i++) {
		uint32_t number = load_shared(&region->head->seats[i].session);
		struct client_request request = {.type = CLIENT_ALIVE, .index = number};
		struct client_answer answer;
		int fds[CLIENT_FDS];
		unsigned n;

		if (!number || wire_request(session, &request, &answer, fds, 0, &n) != -ENXIO)
			continue;
		region_lock(region->head);
		seat_ended(region, number);
		region_unlock(region->head);
	}
}

static int region_of(struct binding *binding, int region_fd, const struct bind_wish *wish)
{
	const struct client_answer *answer = &binding->answer;
	struct region_shape shape;
	int error;

	if (!wish)
		return region_open(&binding->region, region_fd, NULL, 0, NULL);
	if (wish->external_shape && !answer->shared)
		return region_open(&binding->region, region_fd, wish->external_shape,
				   answer->mem_id, wish->external);
	if (answer->mem_id == VSN_MEM_ID_GLOBAL) {
		region_shape_global(&shape);
		return region_open(&binding->region, region_fd, &shape, answer->mem_id, NULL);
	}
	error = region_shape_private(
	    &shape, binding->link.rings[RING_TX], slots_wanted(wish, RING_TX, answer->tx_slots),
	    binding->link.rings[RING_RX], slots_wanted(wish, RING_RX, answer->rx_slots),
	    wish->extra_bufs);
	return error ? error
		     : region_open(&binding->region, region_fd, &shape, answer->mem_id, NULL);
}

/* --- direct mode --- */

static int direct_ask(void *context, struct client_request *request, struct client_answer *answer,
		      int fds[CLIENT_FDS], unsigned *count)
{
	return wire_try(context, request, answer, fds, count);
}

/* Ports only: what the other end of a pipe writes into their memory says nothing about a switch. */
static void direct_bind(struct vsn_session *session)
{
	struct binding *binding = &session->binding;
	const struct direct_home home = {
	    .map = &binding->link.map, .ask = direct_ask, .context = session};

	if (binding->kind == BOUND_PORT)
		binding->direct = direct_open(&home);
}

/* --- sessions --- */

/*
 * One process more for each seat, before there are two. (The child of a fork that fails, or that
 * only calls exec, is never counted off: its seats stay taken as long as the region is.)
 */
static void seat_shared(struct vsn_session *session)
{
	struct binding *binding = &session->binding;

	if (atomic_load(&session->bound))
		__atomic_fetch_add(&binding->region.head->seats[binding->seat].processes, 1,
				   __ATOMIC_RELAXED);
}

static void before_fork(void)
{
	session_all(seat_shared);
}

/* Of the threads that slept, none is here. */
static void forget_sleepers(struct vsn_session *session)
{
	atomic_store(&session->asleep, 0);
	atomic_store(&session->late, 0);
}

static void after_fork(void)
{
	session_all(forget_sleepers);
}

static void count_forks(void)
{
	static atomic_flag counted = ATOMIC_FLAG_INIT;

	if (!atomic_flag_test_and_set(&counted))
		pthread_atfork(before_fork, NULL, after_fork);
}

static enum bound kind_of(const struct client_answer *answer)
{
	bool pipe = strpbrk(answer->name, "{}") != NULL;

	if (answer->mode == NR_REG_NULL)
		return BOUND_NULL;
	if (pipe)
		return answer->flags & (NR_MONITOR_TX | NR_MONITOR_RX) ? BOUND_WATCH : BOUND_PIPE;
	return BOUND_PORT;
}

int bind_answer(struct vsn_session *session, const struct client_answer *answer, int fds[],
		unsigned n, const struct bind_wish *wish)
{
	struct binding *binding = &session->binding;
	bool given = (!wish || answer->shared) && n;
	int region_fd = given ? fds[0] : wish ? wish->region_fd : -1;
	int error = 0;

	memset(binding, 0, sizeof(*binding));
	binding->answer = *answer;
	binding->answer.name[CLIENT_NAME_MAX - 1] = 0;
	binding->flags = answer->flags;
	binding->number = answer->session;
	binding->kind = kind_of(&binding->answer);
	if (binding->kind == BOUND_NULL)
		nobodys_link(&binding->link, answer);
	else
		error = link_open(&binding->link, answer->side, binding->kind == BOUND_WATCH,
				  fds + given, n - given);
	if (!error)
		error = region_of(binding, region_fd, wish);
	if (given)
		sys_close(region_fd);
	if (!error) {
		if (wish)
			region_sweep(session);
		error = seat_take(binding, wish);
		if (!error && binding->kind == BOUND_WATCH)
			binding->link.bells[binding->first[RING_RX]] = watch_bell();
		if (error)
			region_close(&binding->region);
	}
	if (error) {
		link_close(&binding->link);
		return error;
	}
	direct_bind(session);
	count_forks();
	atomic_store(&session->gone, false);
	atomic_store_explicit(&session->bound, true, memory_order_release);
	return 0;
}

int bind_described(struct vsn_session *session)
{
	struct client_request request = {.type = CLIENT_DESCRIBE};
	struct client_answer answer;
	int fds[CLIENT_FDS];
	unsigned n;
	int error = wire_request(session, &request, &answer, fds, 0, &n);

	return error ? error : bind_answer(session, &answer, fds, n, NULL);
}

void bind_end(struct vsn_session *session)
{
	struct binding *binding = &session->binding;

	if (!atomic_exchange(&session->bound, false))
		return;
	region_lock(binding->region.head);
	seat_leave(&binding->region, binding->seat);
	region_unlock(binding->region.head);
	region_close(&binding->region);
	direct_close(binding->direct);
	link_close(&binding->link);
}

void vsn_passed(struct vsn_session *session)
{
	if (!session_enter(session))
		return;
	seat_shared(session);
	session_leave(session);
}
