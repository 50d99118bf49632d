/* The calls on a bound session: sync ioctls, poll, mmap. */
#include "core.h"

#include <errno.h>
#include <sys/mman.h>

#include "sys.h"

/* --- where the program is in a ring --- */

static bool place_sound(const struct kring *kring, uint32_t n, uint32_t head, uint32_t cur)
{
	uint32_t space = ring_space(kring->hwcur, kring->hwtail, n);

	return head < n && cur < n && ring_space(kring->hwcur, head, n) <= space &&
	       ring_space(head, cur, n) <= ring_space(head, kring->hwtail, n);
}

struct ring_place ring_enter(const struct region *region, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct netmap_ring *ring = view->ring;
	uint32_t n = view->num_slots;
	struct ring_place place = {.head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE),
				   .cur = load_shared(&ring->cur)};

	if (__builtin_expect(kring->hwcur >= n || kring->hwtail >= n, 0))
		kring->hwcur = kring->hwtail = 0; /* nobody of ours wrote that */
	place.valid = place_sound(kring, n, place.head, place.cur);
	if (__builtin_expect(place.valid, 1))
		return place;
	for (uint32_t i = 0; i < n; i++) {
		struct netmap_slot *slot = &ring->slot[i];

		if (slot->buf_idx < NETMAP_FIRST_BUFFER || slot->buf_idx >= region->buffers)
			slot->buf_idx = slot->len = 0;
		else if (slot->len > region->buffer_bytes)
			slot->len = 0;
	}
	view->stats->invalid++;
	place.head = place.cur = ring->head = ring->cur = kring->hwcur;
	ring->tail = kring->hwtail;
	return place;
}

/* --- poll --- */

static bool is_gone(struct vsn_session *session)
{
	return atomic_load_explicit(&session->gone, memory_order_relaxed) ||
	       load_shared(&session->binding.link.map.memory->gone);
}

/* All tx rings that have something to send; those without too, while nobody found room. */
static short poll_tx(struct binding *binding, short want)
{
	short revents = 0;

	for (uint32_t r = binding->first[RING_TX]; r < binding->last[RING_TX]; r++) {
		struct ring_view *view = &binding->views[RING_TX][r];
		struct sync_result result;

		if (!want && load_shared(&view->ring->head) == load_shared(&view->kring->hwcur))
			continue;
		result = txsync(binding, view);
		if (result.invalid)
			revents |= POLLERR;
		if (result.found) {
			revents |= want;
			want = 0;
		}
	}
	return revents;
}

static short poll_rx(struct binding *binding, short want)
{
	short revents = 0;

	for (uint32_t r = binding->first[RING_RX]; r < binding->last[RING_RX]; r++) {
		struct sync_result result = rxsync(binding, &binding->views[RING_RX][r]);

		if (result.invalid)
			revents |= POLLERR;
		if (result.found)
			revents |= want;
	}
	return revents;
}

static short poll_bound(struct vsn_session *session, short events)
{
	struct binding *binding = &session->binding;
	short want_tx = events & (POLLOUT | POLLWRNORM);
	short want_rx = events & (POLLIN | POLLRDNORM);
	short revents = 0;

	if (is_gone(session))
		return POLLERR;
	if (want_tx || !(binding->flags & NR_NO_TX_POLL))
		revents |= poll_tx(binding, want_tx);
	if (want_rx || binding->flags & NR_DO_RX_POLL)
		revents |= poll_rx(binding, want_rx);
	return revents;
}

short vsn_poll(struct vsn_session *session, short events)
{
	short revents = POLLERR;

	if (!session_enter(session))
		return POLLERR;
	if (atomic_load_explicit(&session->bound, memory_order_acquire))
		revents = poll_bound(session, events);
	session_leave(session);
	return revents;
}

/* --- ioctl --- */

enum { LOOKS_MAX = 256, LOOK_NS = 50000 };

/* Of this thread: NIOCRXSYNCs since it found or sent something. */
static _Thread_local uint32_t looks_in_vain;

static int sync_side(struct vsn_session *session, enum ring_side side)
{
	struct binding *binding = &session->binding;

	if (!atomic_load_explicit(&session->bound, memory_order_acquire) || is_gone(session))
		return -ENXIO;
	looks_in_vain += side == RING_RX;
	for (uint32_t r = binding->first[side]; r < binding->last[side]; r++) {
		struct ring_view *view = &binding->views[side][r];

		if (side == RING_RX ? rxsync(binding, view).found : txsync(binding, view).sent)
			looks_in_vain = 0;
	}
	return 0;
}

static int ioctl_entered(struct vsn_session *session, unsigned long request, void *arg)
{
	switch (request & UINT32_MAX) {
	case NIOCTXSYNC:
		return sync_side(session, RING_TX);
	case NIOCRXSYNC:
		return sync_side(session, RING_RX);
	case NIOCCTRL:
		return request_control(session, arg);
	case NIOCREGIF:
	case NIOCGINFO:
	case NIOCCONFIG:
		return request_legacy(session, request & UINT32_MAX, arg);
	default:
		return -EOPNOTSUPP;
	}
}

static int ioctl_once(struct vsn_session *session, unsigned long request, void *arg)
{
	int error;

	if (!session_enter(session))
		return -EBADF;
	error = ioctl_entered(session, request, arg);
	session_leave(session);
	return error;
}

/*
 * A program that looks in a loop keeps a processor from whoever is to send what it looks for, where
 * there are not enough of them. It is held until the bell, or for a moment.
 */
static int look_patiently(struct vsn_session *session)
{
	const struct timespec moment = {.tv_nsec = LOOK_NS};
	struct pollfd fds[VSN_BELLS_MAX];
	int n = vsn_asleep(session, POLLIN, fds);

	if (n > 0)
		(void)SYS_RESULT(vsn_real.ppoll(fds, (nfds_t)n, &moment, NULL));
	vsn_awake(session);
	return ioctl_once(session, NIOCRXSYNC, NULL);
}

int vsn_ioctl(struct vsn_session *session, unsigned long request, void *arg)
{
	int error = ioctl_once(session, request, arg);

	if (!error && (request & UINT32_MAX) == NIOCRXSYNC &&
	    __builtin_expect(looks_in_vain >= LOOKS_MAX, 0) && !vsn_spin_ns(session))
		error = look_patiently(session);
	return error;
}

/* --- mmap --- */

/*
 * A second mapping of what the library has mapped itself: mremap of nothing makes one of a shared
 * mapping, so no fd of the region has to be kept among the program's.
 */
static int map_again(const struct region *region, void *addr, size_t bytes, int prot, int flags,
		     uint64_t offset, void **out)
{
	int how = MREMAP_MAYMOVE | (flags & MAP_FIXED ? MREMAP_FIXED : 0);
	void *at;

	if (!bytes || offset % 4096 || offset > region->memsize ||
	    bytes > region->memsize - offset || region->head->external)
		return -EINVAL;
	at = mremap(region->base + offset, 0, bytes, how, flags & MAP_FIXED ? addr : NULL);
	if (at == MAP_FAILED)
		return -errno;
	if (prot != (PROT_READ | PROT_WRITE) && mprotect(at, bytes, prot)) {
		sys_unmap(at, bytes);
		return -EACCES;
	}
	*out = at;
	return 0;
}

int vsn_mmap(struct vsn_session *session, void *addr, size_t bytes, int prot, int flags,
	     off_t offset, void **out)
{
	int error = -EINVAL;

	if (!session_enter(session))
		return -EBADF;
	if (offset >= 0 && atomic_load_explicit(&session->bound, memory_order_acquire))
		error = map_again(&session->binding.region, addr, bytes, prot, flags,
				  (uint64_t)offset, out);
	session_leave(session);
	return error;
}
