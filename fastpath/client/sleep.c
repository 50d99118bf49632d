/*
 * Sleeping: who has nothing to do tells the other side to ring, looks once more, and polls its
 * bells. The lanes' rule (lane.h) is that whoever published looks afterwards whether the other one
 * waits.
 */
#include "core.h"

#include <errno.h>
#include <sched.h>

#include "sys.h"

enum { SPIN_NS = 20000, LOOK_AGAIN_MS = 100 };

/* True: nothing there, the other side rings. */
static bool rx_waits(struct ring_view *view)
{
	struct kring *kring = view->kring;
	bool died, waits;

	kring_lock(kring, &died);
	kring->in.lane = view->lane;
	kring->in.data = view->data;
	waits = lane_consumer_waits(&kring->in);
	view->stats->sleeps += waits;
	pthread_mutex_unlock(&kring->lock);
	return waits;
}

static bool tx_waits(struct ring_view *view)
{
	struct kring *kring = view->kring;
	bool died, waits;

	kring_lock(kring, &died);
	kring->out.lane = view->lane;
	kring->out.data = view->data;
	waits = !kring->pending || lane_producer_waits(&kring->out, kring->pending);
	pthread_mutex_unlock(&kring->lock);
	return waits;
}

static bool all_wait(struct binding *binding, short events)
{
	bool want_rx = events & (POLLIN | POLLRDNORM);

	for (uint32_t r = binding->first[RING_TX]; r < binding->last[RING_TX]; r++)
		if (!tx_waits(&binding->views[RING_TX][r]))
			return false;
	for (uint32_t r = binding->first[RING_RX]; r < binding->last[RING_RX] && want_rx; r++)
		if (!rx_waits(&binding->views[RING_RX][r]))
			return false;
	return true;
}

/* -1: do not sleep; else how many fds. */
static int pairs_wait(const struct binding *binding, short events, struct pollfd *fd)
{
	if (!binding->direct || !(events & (POLLIN | POLLRDNORM)) ||
	    binding->first[RING_RX] == binding->last[RING_RX])
		return 0;
	return direct_asleep(binding->direct, binding->first[RING_RX], binding->last[RING_RX], fd);
}

static int fds_of(struct vsn_session *session, struct pollfd fds[VSN_BELLS_MAX])
{
	const struct link *link = &session->binding.link;
	const struct binding *binding = &session->binding;
	int n = 0;

	for (uint32_t r = 0; r < VSN_RINGS_MAX; r++) {
		bool bound = (r >= binding->first[RING_TX] && r < binding->last[RING_TX]) ||
			     (r >= binding->first[RING_RX] && r < binding->last[RING_RX]);

		if (bound && link->bells[r] >= 0 && !link->shut[r])
			fds[n++] = (struct pollfd){.fd = link->bells[r], .events = POLLIN};
	}
	/* only to learn that the switch has gone */
	fds[n++] = (struct pollfd){.fd = atomic_load(&session->fd)};
	return n;
}

int vsn_asleep(struct vsn_session *session, short events, struct pollfd fds[VSN_BELLS_MAX])
{
	struct binding *binding = &session->binding;
	int n = 0, pairs;

	if (!session_enter(session))
		return 0;
	if (atomic_load_explicit(&session->bound, memory_order_acquire) &&
	    all_wait(binding, events)) {
		pairs = pairs_wait(binding, events, fds);
		if (pairs >= 0)
			n = pairs + fds_of(session, fds + pairs);
	}
	session_leave(session);
	return n;
}

static void awake_bound(struct vsn_session *session)
{
	struct binding *binding = &session->binding;
	struct pollfd connection = {.fd = atomic_load(&session->fd)};

	for (uint32_t r = binding->first[RING_RX]; r < binding->last[RING_RX]; r++)
		lane_waits_clear(&binding->views[RING_RX][r].lane->consumer_waits);
	for (uint32_t r = binding->first[RING_TX]; r < binding->last[RING_TX]; r++)
		lane_waits_clear(&binding->views[RING_TX][r].lane->producer_waits);
	for (uint32_t r = 0; r < VSN_RINGS_MAX; r++)
		if (binding->link.bells[r] >= 0 && !client_bell_take(binding->link.bells[r]))
			binding->link.shut[r] = true;
	if (binding->direct)
		direct_awake(binding->direct);
	if (sys_poll(&connection, 1, 0) > 0 && connection.revents & (POLLHUP | POLLERR))
		atomic_store(&session->gone, true);
}

void vsn_awake(struct vsn_session *session)
{
	if (!session_enter(session))
		return;
	if (atomic_load_explicit(&session->bound, memory_order_acquire))
		awake_bound(session);
	session_leave(session);
}

unsigned vsn_spin_ns(const struct vsn_session *session)
{
	static _Atomic int cores; /* 0: not counted yet */
	int n = atomic_load_explicit(&cores, memory_order_relaxed);

	(void)session;
	if (!n) {
		cpu_set_t set;

		n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
		atomic_store_explicit(&cores, n, memory_order_relaxed);
	}
	return n > 1 ? SPIN_NS : 0;
}
