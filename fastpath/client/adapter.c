/*
 * Ports in a region, and seats: who has which of their rings. Rings are made for the first seat
 * that has them and go with the last, buffers with them. All of it under the region's lock.
 */
#include "core.h"

#include <errno.h>
#include <string.h>

static void *object_at(const struct region *region, uint64_t at)
{
	return region->base + at;
}

static int64_t object_take(struct region *region, enum region_pool_kind kind, uint64_t bytes)
{
	const struct region_pool *pool = &region->head->pools[kind];
	int64_t number = bytes <= pool->object_bytes ? region_take(region->head, kind) : -1;

	return number < 0 ? number : (int64_t)(pool->at + (uint64_t)number * pool->object_bytes);
}

static void object_give(struct region *region, enum region_pool_kind kind, uint64_t at)
{
	const struct region_pool *pool = &region->head->pools[kind];

	region_give(region->head, kind, (int64_t)((at - pool->at) / pool->object_bytes));
}

/* --- rings --- */

static void ring_drop(struct region *region, struct kring *kring)
{
	struct netmap_ring *ring = object_at(region, kring->ring_at);

	if (region->base)
		for (uint32_t i = 0; i < kring->num_slots; i++)
			region_give(region->head, POOL_BUFFER, ring->slot[i].buf_idx);
	object_give(region, POOL_RING, kring->ring_at);
	kring->ring_at = 0;
}

static int ring_make(struct region *region, struct kring *kring, enum ring_side side,
		     uint32_t number, uint32_t slots)
{
	uint64_t bytes = sizeof(struct netmap_ring) + (uint64_t)slots * sizeof(struct netmap_slot);
	int64_t at = object_take(region, POOL_RING, bytes);
	struct netmap_ring *ring;

	if (at < 0)
		return -ENOMEM;
	ring = object_at(region, (uint64_t)at);
	memset(ring, 0, bytes);
	*ring = (struct netmap_ring){
	    .buf_ofs = (int64_t)region->buffers_at - at,
	    .num_slots = slots,
	    .nr_buf_size = region->buffer_bytes,
	    .ringid = (uint16_t)number,
	    .dir = side == RING_TX,
	    .tail = side == RING_TX ? slots - 1 : 0,
	};
	kring->ring_at = (uint64_t)at;
	kring->num_slots = slots;
	kring->hwcur = 0;
	kring->hwtail = ring->tail;
	kring->offset_mask = kring->offset_max = 0;
	for (uint32_t i = 0; i < slots; i++) {
		int64_t buffer = region_take(region->head, POOL_BUFFER);

		if (buffer < 0) {
			ring_drop(region, kring);
			return -ENOMEM;
		}
		ring->slot[i].buf_idx = (uint32_t)buffer;
	}
	return 0;
}

/* --- adapters --- */

static void seat_free(struct region *region, struct seat *seat);

static void adapter_forget(struct region *region, struct adapter *adapter)
{
	struct region_head *head = region->head;
	uint32_t number = (uint32_t)(adapter - head->adapters);

	for (uint32_t i = 0; i < VSN_SEATS_MAX; i++)
		if (head->seats[i].session && head->seats[i].adapter == number)
			seat_free(region, &head->seats[i]);
}

struct adapter *adapter_get(struct region *region, const char *name, bool fresh,
			    const uint32_t rings[RING_SIDES], const uint32_t slots[RING_SIDES])
{
	struct region_head *head = region->head;
	struct adapter *adapter = NULL;

	for (uint32_t i = 0; i < VSN_ADAPTERS_MAX; i++) {
		struct adapter *candidate = &head->adapters[i];

		if (strncmp(candidate->name, name, sizeof(candidate->name)) == 0) {
			if (!fresh)
				return candidate;
			adapter_forget(region, candidate);
		}
		if (!adapter && !candidate->name[0])
			adapter = candidate;
	}
	if (!adapter)
		return NULL;
	for (unsigned side = 0; side < RING_SIDES; side++) {
		adapter->rings[side] = rings[side];
		adapter->slots[side] = slots[side];
		for (unsigned r = 0; r < VSN_RINGS_MAX && !adapter->locks; r++)
			region_lock_make(&adapter->krings[side][r].lock);
	}
	adapter->locks = true;
	adapter->seats = 0;
	memcpy(adapter->name, name, strnlen(name, sizeof(adapter->name) - 1) + 1);
	return adapter;
}

/* --- seats --- */

static void rings_leave(struct region *region, const struct seat *seat, const uint32_t to[])
{
	struct adapter *adapter = &region->head->adapters[seat->adapter];

	for (unsigned side = 0; side < RING_SIDES; side++)
		for (uint32_t r = seat->first[side]; r < to[side]; r++) {
			struct kring *kring = &adapter->krings[side][r];

			if (kring->users && --kring->users == 0 && kring->ring_at)
				ring_drop(region, kring);
		}
}

static int rings_join(struct region *region, const struct seat *seat)
{
	static const enum ring_side order[] = {RING_RX, RING_TX}; /* as buffers are numbered */
	struct adapter *adapter = &region->head->adapters[seat->adapter];
	uint32_t to[RING_SIDES] = {seat->first[RING_TX], seat->first[RING_RX]};

	for (unsigned i = 0; i < RING_SIDES; i++)
		for (enum ring_side side = order[i]; to[side] < seat->last[side]; to[side]++) {
			struct kring *kring = &adapter->krings[side][to[side]];

			if (!kring->ring_at &&
			    ring_make(region, kring, side, to[side], adapter->slots[side])) {
				rings_leave(region, seat, to);
				return -ENOMEM;
			}
			kring->users++;
		}
	return 0;
}

static uint32_t *extra_link(const struct region *region, uint64_t number)
{
	return object_at(region, region->buffers_at + number * region->buffer_bytes);
}

static void extra_give(struct region *region, uint32_t number)
{
	/* the list is the program's: it ends at what is none of its buffers, and in time */
	for (uint32_t i = 0; i < region->buffers; i++) {
		uint32_t *link;

		if (number < NETMAP_FIRST_BUFFER || number >= region->buffers)
			return;
		link = extra_link(region, number);
		region_give(region->head, POOL_BUFFER, number);
		number = *link;
		*link = 0;
	}
}

static uint32_t extra_take(struct region *region, uint32_t wanted, uint32_t *head)
{
	uint32_t n = 0;

	*head = 0;
	for (; n < wanted; n++) {
		int64_t number = region_take(region->head, POOL_BUFFER);

		if (number < 0)
			break;
		*extra_link(region, (uint64_t)number) = *head;
		*head = (uint32_t)number;
	}
	return n;
}

static int if_make(struct region *region, struct seat *seat, const char *if_name)
{
	const struct adapter *adapter = &region->head->adapters[seat->adapter];
	const uint32_t *rings = adapter->rings;
	/* each side has a host ring that is never there */
	uint64_t bytes =
	    sizeof(struct netmap_if) + (rings[RING_TX] + rings[RING_RX] + 2) * sizeof(int64_t);
	int64_t at = object_take(region, POOL_IF, bytes);
	struct netmap_if *nifp;

	if (at < 0)
		return -ENOMEM;
	nifp = object_at(region, (uint64_t)at);
	memset(nifp, 0, bytes);
	nifp->ni_flags = NI_PRIV_MEM;
	nifp->ni_tx_rings = rings[RING_TX];
	nifp->ni_rx_rings = rings[RING_RX];
	nifp->ni_host_tx_rings = nifp->ni_host_rx_rings = 1;
	memcpy(nifp->ni_name, if_name, strnlen(if_name, sizeof(nifp->ni_name) - 1));
	for (unsigned side = 0; side < RING_SIDES; side++) {
		uint32_t from = side == RING_TX ? 0 : rings[RING_TX] + 1;

		for (uint32_t r = seat->first[side]; r < seat->last[side]; r++)
			nifp->ring_ofs[from + r] = (int64_t)adapter->krings[side][r].ring_at - at;
	}
	seat->if_at = (uint64_t)at;
	seat->extra_bufs = extra_take(region, seat->extra_bufs, &nifp->ni_bufs_head);
	return 0;
}

int seat_make(struct region *region, const struct seat *wanted, const char *if_name)
{
	struct region_head *head = region->head;
	struct seat made = *wanted;
	uint32_t number = 0;

	while (number < VSN_SEATS_MAX && head->seats[number].session)
		number++;
	if (number == VSN_SEATS_MAX)
		return -ENOMEM;
	if (rings_join(region, &made))
		return -ENOMEM;
	if (if_make(region, &made, if_name)) {
		rings_leave(region, &made, made.last);
		return -ENOMEM;
	}
	made.processes = 1;
	head->seats[number] = made;
	head->adapters[made.adapter].seats++;
	return (int)number;
}

int seat_find(const struct region *region, uint32_t session)
{
	for (uint32_t i = 0; i < VSN_SEATS_MAX; i++)
		if (region->head->seats[i].session == session)
			return (int)i;
	return -ENXIO;
}

static void seat_free(struct region *region, struct seat *seat)
{
	struct adapter *adapter = &region->head->adapters[seat->adapter];

	if (region->base) {
		struct netmap_if *nifp = object_at(region, seat->if_at);

		if (seat->extra_bufs)
			extra_give(region, nifp->ni_bufs_head);
	}
	object_give(region, POOL_IF, seat->if_at);
	rings_leave(region, seat, seat->last);
	seat->session = 0;
	if (adapter->seats && --adapter->seats == 0)
		adapter->name[0] = 0;
}

void seat_ended(struct region *region, uint32_t session)
{
	int number = seat_find(region, session);

	if (number >= 0)
		seat_free(region, &region->head->seats[number]);
}

void seat_leave(struct region *region, uint32_t number)
{
	struct seat *seat = &region->head->seats[number];

	if (seat->session && __atomic_fetch_sub(&seat->processes, 1, __ATOMIC_RELAXED) <= 1)
		seat_free(region, seat);
}
