/*
 * Sleeping: who has nothing to do tells the other side to ring, looks once more, and polls its
 * bells. The lanes' rule (lane.h) is that whoever published looks afterwards whether the other one
 * waits.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>

#include "pipe.h"
#include "sys.h"

enum { SPIN_NS = 20000, LOOK_AGAIN_MS = 20, LATE_MAX = 1000 };

/* True: nothing there, the other side rings. */
static bool rx_waits(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	bool died, waits;

	kring_lock(kring, &died);
	if (binding->kind == BOUND_WATCH) {
		waits = watch_waits(binding, view);
	} else if (binding->kind == BOUND_NULL) {
		waits = true;
	} else {
		kring->in.lane = view->lane;
		kring->in.data = view->data;
		waits = lane_consumer_waits(&kring->in);
	}
	view->stats->sleeps += waits;
	pthread_mutex_unlock(&kring->lock);
	return waits;
}

/* `want`: for free slots, too. */
static bool tx_waits(const struct binding *binding, struct ring_view *view, bool want)
{
	struct kring *kring = view->kring;
	bool died, waits;

	kring_lock(kring, &died);
	if (binding->kind != BOUND_PORT) {
		waits = binding->kind != BOUND_PIPE || pipe_tx_waits(view, want);
	} else {
		kring->out.lane = view->lane;
		kring->out.data = view->data;
		waits = !kring->pending || lane_producer_waits(&kring->out, kring->pending);
	}
	pthread_mutex_unlock(&kring->lock);
	return waits;
}

static bool all_wait(struct binding *binding, short events)
{
	bool want_rx = events & (POLLIN | POLLRDNORM);
	bool want_tx = events & (POLLOUT | POLLWRNORM);

	for (uint32_t r = binding->first[RING_TX]; r < binding->last[RING_TX]; r++)
		if (!tx_waits(binding, &binding->views[RING_TX][r], want_tx))
			return false;
	for (uint32_t r = binding->first[RING_RX]; r < binding->last[RING_RX] && want_rx; r++)
		if (!rx_waits(binding, &binding->views[RING_RX][r]))
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

	atomic_fetch_add(&session->asleep, 1);
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

	for (uint32_t r = binding->first[RING_RX]; r < binding->last[RING_RX]; r++)
		lane_waits_clear(&binding->views[RING_RX][r].lane->consumer_waits);
	for (uint32_t r = binding->first[RING_TX]; r < binding->last[RING_TX]; r++)
		lane_waits_clear(&binding->views[RING_TX][r].lane->producer_waits);
	for (uint32_t r = 0; r < VSN_RINGS_MAX; r++)
		if (binding->link.bells[r] >= 0 && !client_bell_take(binding->link.bells[r]))
			binding->link.shut[r] = true;
	if (binding->direct)
		direct_awake(binding->direct);
}

/*
 * Of several threads that sleep the last to wake takes the rings back, and what was said for all of
 * them: a ring that the first one took would not wake the others. Until then sleeps are short. One
 * that left its sleep by a jump is counted for ever: after LATE_MAX wakes nobody is waited for.
 */
static bool is_last_awake(struct vsn_session *session)
{
	if (atomic_fetch_sub(&session->asleep, 1) > 1 &&
	    atomic_fetch_add(&session->late, 1) < LATE_MAX)
		return false;
	atomic_store(&session->late, 0);
	return true;
}

void vsn_awake(struct vsn_session *session)
{
	struct pollfd connection = {.fd = atomic_load(&session->fd)};
	bool last = is_last_awake(session);

	if (!session_enter(session))
		return;
	if (atomic_load_explicit(&session->bound, memory_order_acquire)) {
		if (last)
			awake_bound(session);
		if (sys_poll(&connection, 1, 0) > 0 && connection.revents & (POLLHUP | POLLERR))
			atomic_store(&session->gone, true);
	}
	session_leave(session);
}

/* How many run or could run now: the fourth number of the load, before its stroke. 0: unknown. */
static int running_now(void)
{
	char text[64];
	int fd = (int)SYS_RESULT(vsn_real.open("/proc/loadavg", O_RDONLY | O_CLOEXEC));
	ssize_t n = fd < 0 ? 0 : SYS_RESULT(read(fd, text, sizeof(text) - 1));
	int running = 0;

	if (fd >= 0)
		sys_close(fd);
	text[n > 0 ? n : 0] = 0;
	return n > 0 && sscanf(text, "%*s %*s %*s %d", &running) == 1 ? running : 0;
}

static uint64_t coarse_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Whether there are more cores than programs that want one; looked at now and then. */
static bool cores_to_spare(void)
{
	static _Atomic uint64_t looked; /* ms, and in the lowest bit what was seen */
	uint64_t was = atomic_load_explicit(&looked, memory_order_relaxed);
	uint64_t now = coarse_ms();
	cpu_set_t set;
	bool spare;

	if (was && now - (was >> 1) < LOOK_AGAIN_MS)
		return was & 1;
	spare = sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 1 &&
		running_now() <= CPU_COUNT(&set);
	atomic_store_explicit(&looked, now << 1 | spare, memory_order_relaxed);
	return spare;
}

unsigned vsn_spin_ns(const struct vsn_session *session)
{
	(void)session;
	return cores_to_spare() ? SPIN_NS : 0;
}
