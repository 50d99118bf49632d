/*
 * Monitors of a pipe's end: a third reader of the pipe's lanes, with indices of its own, that
 * writes nothing there and rings nobody. Its mapping is read-only. So a monitor costs the pipe
 * nothing, and one that is slow, or stopped, holds up nobody: it has lost what was written over
 * meanwhile, and goes on with what comes next.
 *
 *     copies (NR_MONITOR_RX, _TX)   what the end is to receive, has sent: up to the lane's tail
 *     no copies (NR_ZCOPY_MON)      what the receiver's program has given back: up to the head
 *
 * A record may be written over while it is read: it counts only when the sender had not claimed its
 * bytes by then (lane->claimed). Nobody rings for a monitor; it wakes by a clock of its own, soon
 * after there was something, and seldom while there is nothing.
 */
#include <errno.h>
#include <sys/timerfd.h>

#include "fds.h"
#include "pipe.h"
#include "sys.h"

enum { NAP_LEAST_US = 250, NAP_MOST_US = 8000, NS_PER_US = 1000 };

/* A lane of the pipe's, as the monitor reads it. */
struct watched {
	const struct lane *lane;
	uint8_t *data;
	uint32_t bytes;
};

/* The lane by which ring `number` of the monitored end receives, or sends. False: there is none. */
static bool watched_lane(const struct binding *binding, enum ring_side side, unsigned number,
			 struct watched *watched)
{
	const struct client_map *map = &binding->link.map;
	bool outbox = (side == RING_TX) == (binding->link.side == 0);

	if (!(binding->flags & (side == RING_TX ? NR_MONITOR_TX : NR_MONITOR_RX)) ||
	    number >= (outbox ? map->tx_rings : map->rx_rings))
		return false;
	watched->lane = outbox ? &map->memory->outbox[number] : &map->memory->inbox[number];
	watched->data = outbox ? client_outbox(map, number) : client_inbox(map, number);
	watched->bytes = outbox ? map->outbox_bytes : map->inbox_bytes;
	return true;
}

/* How far it may read now. */
static uint64_t watched_end(const struct binding *binding, const struct watched *watched)
{
	const struct lane *lane = watched->lane;

	return lane_aligned(
	    load_shared_acquire(binding->flags & NR_ZCOPY_MON ? &lane->head : &lane->tail));
}

void watch_view(struct binding *binding, enum ring_side side, unsigned number,
		struct ring_view *view, bool first)
{
	struct watched watched;

	nobodys_view(view);
	for (unsigned from = 0; from < RING_SIDES && side == RING_RX && first; from++)
		if (watched_lane(binding, from, number, &watched))
			view->kring->seen[from] = watched_end(binding, &watched);
}

/* One slot's frame, or part of one. False: it was written over, or there is no room. */
static bool take(struct binding *binding, struct ring_view *view, const struct watched *watched,
		 uint64_t at, const struct lane_frame *frame, uint32_t slot_at, uint32_t more_flags)
{
	const struct region *region = &binding->region;
	struct netmap_slot *slot = &view->ring->slot[slot_at];
	uint32_t buf_idx = load_shared(&slot->buf_idx);
	uint32_t offset = slot_offset(view->kring, slot), room = region->buffer_bytes - offset;
	uint32_t bytes = frame->len < room ? frame->len : room;
	uint32_t flags = pipe_slot_flags(frame) | more_flags;

	copy_short(buffer_at(region, buf_idx) + offset, frame->data, bytes);
	fence();
	if (load_shared(&watched->lane->claimed) - at > watched->bytes)
		return false;
	slot_fill(slot, buf_idx, bytes, flags);
	return true;
}

/* All that one lane has for a ring, from slot `at` on: where the next one goes. */
static uint32_t watch_lane(struct binding *binding, struct ring_view *view, enum ring_side from,
			   uint32_t at)
{
	uint32_t n = view->num_slots;
	uint64_t *seen = &view->kring->seen[from], end, next;
	struct watched watched;
	struct lane_frame frame;

	if (!watched_lane(binding, from, ring_number(binding, RING_RX, view), &watched))
		return at;
	end = watched_end(binding, &watched);
	while (*seen != end && ring_space(view->kring->hwcur, at, n) < n - 1) {
		next = *seen;
		if (end - *seen > watched.bytes ||
		    lane_step(watched.data, watched.bytes, &next, end, &frame) != 1 ||
		    !take(binding, view, &watched, *seen, &frame, at,
			  from == RING_TX ? NS_TXMON : 0)) {
			*seen = watched_end(binding, &watched);
			break;
		}
		*seen = next;
		at = at + 1 == n ? 0 : at + 1;
	}
	return at;
}

struct sync_result watch_rxsync(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct sync_result result = {0};
	struct ring_place place;
	bool died;

	kring_lock(kring, &died);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	kring->hwcur = place.head;
	for (unsigned from = RING_SIDES; from--;)
		kring->hwtail = watch_lane(binding, view, from, kring->hwtail);
	__atomic_store_n(&view->ring->tail, kring->hwtail, __ATOMIC_RELEASE);
	ring_stamp(view->ring);
	result.found = place.cur != kring->hwtail;
	if (result.found)
		binding->link.nap_us = 0;
	pthread_mutex_unlock(&kring->lock);
	return result;
}

/* --- sleeping --- */

int watch_bell(void)
{
	int clock = (int)SYS_RESULT(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));

	return clock < 0 ? clock : vsn_hide(clock);
}

bool watch_waits(struct binding *binding, struct ring_view *view)
{
	struct link *link = &binding->link;
	struct itimerspec nap = {0};
	struct watched watched;
	unsigned ring = ring_number(binding, RING_RX, view);

	for (unsigned from = 0; from < RING_SIDES; from++)
		if (watched_lane(binding, from, ring, &watched) &&
		    view->kring->seen[from] != watched_end(binding, &watched))
			return false;
	if (ring != binding->first[RING_RX])
		return true; /* the first ring's clock is everybody's */
	link->nap_us = link->nap_us ? 2 * link->nap_us : NAP_LEAST_US;
	if (link->nap_us > NAP_MOST_US)
		link->nap_us = NAP_MOST_US;
	nap.it_value.tv_nsec = (long)link->nap_us * NS_PER_US;
	(void)SYS_RESULT(timerfd_settime(link->bells[ring], 0, &nap, NULL));
	return true;
}
