/*
 * epoll. The kernel's set has the other fds, a table here has those of netmap: a wait is a poll of
 * the kernel's set and of them.
 *
 * A member is known by its fd's number and age (fds.h), so close() has nothing to do here, and is
 * as safe in a signal handler as the C library's. EPOLLET: POLLOUT is told again once the program
 * has put something in; POLLIN is told as long as there are frames, which is more often than it has
 * to be. A set that is itself watched, by poll or by another set, wakes for the others only.
 *
 * Runs on: any thread.
 */
#include "preload.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"
#include "fds.h"
#include "real.h"
#include "wait.h"

enum { SETS_MAX = 256, MEMBERS_FIRST = 128, NS_PER_MS = 1000000 };
/* Where a wait has what, in front of the members. */
enum { AT_KERNEL, AT_CHANGED, AT_MEMBERS };

struct member {
	int fd;
	unsigned age;
	uint32_t events;
	bool spent;   /* EPOLLONESHOT, and it has been told */
	bool told;    /* EPOLLET: POLLOUT has been told */
	uint32_t put; /* EPOLLET: what put_so_far said then */
	epoll_data_t data;
};

struct set {
	struct own_lock lock;
	_Atomic int epoll; /* 0: free, else the fd + 1 */
	unsigned age;
	unsigned count, room;
	struct member *members;
	unsigned turn;		  /* who is told first: netmap fds or the others */
	int changed;		  /* eventfd, hidden: wakes waiters */
	uint32_t edits;		  /* of the members */
	unsigned waiters, behind; /* in a wait; those of them that have not seen the last edit */
};

static struct set sets[SETS_MAX];
static atomic_int sets_end;
static struct own_lock sets_lock;

/* --- sets ------------------------------------------------------------------------------------- */

static struct set *set_of(int epoll)
{
	int end = atomic_load_explicit(&sets_end, memory_order_acquire);
	for (int i = 0; i < end; i++)
		if (atomic_load(&sets[i].epoll) == epoll + 1 && sets[i].age == vsn_age(epoll))
			return &sets[i];
	return NULL;
}

static bool set_dead(const struct set *set)
{
	int epoll = atomic_load(&set->epoll);
	return !epoll || set->age != vsn_age(epoll - 1);
}

/* A free one, or one whose epoll was closed and in which nobody waits. */
static struct set *set_vacant(void)
{
	int end = atomic_load(&sets_end);
	for (int i = 0; i < end; i++)
		if (set_dead(&sets[i]) && !sets[i].waiters)
			return &sets[i];
	return end < SETS_MAX ? &sets[end] : NULL;
}

static struct set *set_make(int epoll)
{
	own_lock(&sets_lock);
	struct set *set = set_of(epoll);
	if (set)
		goto out;
	set = set_vacant();
	if (!set)
		goto out;
	if (set->members)
		vsn_hidden_close(set->changed);
	atomic_store(&set->epoll, 0);
	set->count = set->waiters = set->behind = 0;
	int changed = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	set->changed = changed < 0 ? changed : vsn_hide(changed);
	if (!set->members) {
		void *fresh =
		    vsn_real.mmap(NULL, MEMBERS_FIRST * sizeof *set->members,
				  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		set->members = fresh == MAP_FAILED ? NULL : fresh;
		set->room = set->members ? MEMBERS_FIRST : 0;
	}
	if (set->changed < 0 || !set->members) {
		set = NULL;
		goto out;
	}
	vsn_note(epoll);
	set->age = vsn_age(epoll);
	atomic_store(&set->epoll, epoll + 1);
	if (set == &sets[atomic_load(&sets_end)])
		atomic_fetch_add(&sets_end, 1);
out:
	own_unlock(&sets_lock);
	return set;
}

/* --- members; under the set's lock ------------------------------------------------------------ */

static bool member_live(const struct member *member)
{
	return member->age == vsn_age(member->fd);
}

static struct member *member_of(struct set *set, int fd)
{
	for (unsigned i = 0; i < set->count; i++)
		if (set->members[i].fd == fd && member_live(&set->members[i]))
			return &set->members[i];
	return NULL;
}

static void drop_dead(struct set *set)
{
	for (unsigned i = 0; i < set->count;) {
		if (member_live(&set->members[i]))
			i++;
		else
			set->members[i] = set->members[--set->count];
	}
}

static struct member *member_room(struct set *set)
{
	drop_dead(set);
	if (set->count == set->room) {
		size_t bytes = set->room * sizeof *set->members;
		void *more = mremap(set->members, bytes, bytes * 2, MREMAP_MAYMOVE);
		if (more == MAP_FAILED)
			return NULL;
		set->members = more;
		set->room *= 2;
	}
	return &set->members[set->count];
}

static void wake_waiters(struct set *set)
{
	set->edits++;
	set->behind = set->waiters;
	if (set->waiters) {
		uint64_t one = 1;
		(void)!write(set->changed, &one, sizeof one);
	}
}

/* This waiter has seen all edits up to now: the last one makes it quiet again. */
static void waiter_saw(struct set *set, uint32_t *edits)
{
	if (*edits == set->edits)
		return;
	*edits = set->edits;
	if (set->behind && --set->behind == 0) {
		uint64_t count;
		(void)!read(set->changed, &count, sizeof count);
	}
}

/* --- epoll_ctl -------------------------------------------------------------------------------- */

static int set_add(struct set *set, int fd, const struct epoll_event *event)
{
	if (member_of(set, fd))
		return -EEXIST;
	struct member *member = member_room(set);
	if (!member)
		return -ENOMEM;
	*member = (struct member){
	    .fd = fd, .age = vsn_age(fd), .events = event->events, .data = event->data};
	set->count++;
	return 0;
}

static int set_edit(struct set *set, int op, int fd, const struct epoll_event *event)
{
	if (op == EPOLL_CTL_ADD)
		return set_add(set, fd, event);
	struct member *member = member_of(set, fd);
	if (!member)
		return -ENOENT;
	if (op == EPOLL_CTL_DEL) {
		*member = set->members[--set->count];
		return 0;
	}
	*member = (struct member){
	    .fd = fd, .age = member->age, .events = event->events, .data = event->data};
	return 0;
}

VSN_EXPORT int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	if (!vsn_of(fd))
		return vsn_real.epoll_ctl(epoll, op, fd, event);
	if (op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD && op != EPOLL_CTL_DEL)
		return vsn_result(-EINVAL);
	/* Is it a set at all? Then it says that this fd is not in it. */
	struct epoll_event none = {0};
	if (vsn_real.epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &none) < 0 && errno != ENOENT)
		return -1;
	if (op != EPOLL_CTL_DEL && !event)
		return vsn_result(-EFAULT);
	struct set *set = op == EPOLL_CTL_ADD ? set_make(epoll) : set_of(epoll);
	if (!set)
		return vsn_result(op == EPOLL_CTL_ADD ? -ENOSPC : -ENOENT);
	own_lock(&set->lock);
	int result = set_edit(set, op, fd, event);
	if (!result)
		wake_waiters(set);
	own_unlock(&set->lock);
	return vsn_result(result);
}

/* Another number once the program has put more into its tx rings. */
static uint32_t put_so_far(struct vsn_session *session)
{
	uint32_t sum = 0;
	if (!session_enter(session))
		return 0;
	if (atomic_load(&session->bound))
		for (unsigned i = 0; i < VSN_RINGS_MAX; i++) {
			const struct netmap_ring *ring = session->binding.views[RING_TX][i].ring;
			sum = sum * 31 + (ring ? ring->head : 0);
		}
	session_leave(session);
	return sum;
}

/* --- epoll_wait ------------------------------------------------------------------------------- */

/* EPOLLIN and its like are POLLIN and its like. */
static short events_for(struct member *member)
{
	short events = (short)(member->events & (EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM));
	if (!(member->events & EPOLLET) || !member->told)
		return events;
	struct vsn_session *session = vsn_of(member->fd);
	if (session && put_so_far(session) == member->put)
		events = (short)(events & ~(POLLOUT | POLLWRNORM));
	return events;
}

/* What to wait for, into `fds` of `room`: how many. */
static size_t to_wait_for(struct set *set, int epoll, struct pollfd *fds, size_t room)
{
	size_t used = AT_MEMBERS;
	fds[AT_KERNEL] = (struct pollfd){.fd = epoll, .events = POLLIN};
	fds[AT_CHANGED] = (struct pollfd){.fd = set->changed, .events = POLLIN};
	for (unsigned i = 0; i < set->count && used < room; i++) {
		struct member *member = &set->members[i];
		if (!member->spent && member_live(member))
			fds[used++] =
			    (struct pollfd){.fd = member->fd, .events = events_for(member)};
	}
	return used;
}

static int tell_members(struct set *set, const struct pollfd *fds, size_t used,
			struct epoll_event *events, int room)
{
	int told = 0;
	size_t members = used - AT_MEMBERS;
	for (size_t i = 0; i < members && told < room; i++) {
		/* not always the same one first */
		const struct pollfd *fd = &fds[AT_MEMBERS + (i + set->turn / 2) % members];
		struct member *member = fd->revents ? member_of(set, fd->fd) : NULL;
		if (!member || member->spent)
			continue;
		events[told++] =
		    (struct epoll_event){.events = (uint32_t)fd->revents, .data = member->data};
		member->spent = (member->events & EPOLLONESHOT) != 0;
		if (fd->revents & POLLOUT) {
			struct vsn_session *session = vsn_of(member->fd);
			member->told = true;
			member->put = session ? put_so_far(session) : 0;
		}
	}
	return told;
}

/* Both kinds in turns, so that neither keeps the other from being told. */
static int tell(struct set *set, int epoll, const struct pollfd *fds, size_t used,
		struct epoll_event *events, int room)
{
	int told = 0;
	bool others = fds[AT_KERNEL].revents != 0;
	own_lock(&set->lock);
	bool others_first = set->turn++ & 1;
	own_unlock(&set->lock);
	if (others && others_first)
		told = vsn_real.epoll_wait(epoll, events, room, 0);
	if (told < 0)
		return told;
	own_lock(&set->lock);
	told += tell_members(set, fds, used, events + told, room - told);
	own_unlock(&set->lock);
	if (others && !others_first && told < room) {
		int more = vsn_real.epoll_wait(epoll, events + told, room - told, 0);
		told = more >= 0 ? told + more : told ? told : -1;
	}
	return told;
}

static int wait_once(struct set *set, int epoll, struct epoll_event *events, int room,
		     struct timespec *timeout, const sigset_t *mask, uint32_t *edits)
{
	struct vsn_scratch scratch;
	own_lock(&set->lock);
	size_t most = AT_MEMBERS + set->count;
	own_unlock(&set->lock);
	struct pollfd *fds = vsn_scratch_take(&scratch, most);
	if (!fds)
		return -1;
	own_lock(&set->lock);
	waiter_saw(set, edits);
	size_t used = to_wait_for(set, epoll, fds, most);
	own_unlock(&set->lock);
	int told = vsn_wait(fds, used, timeout, mask, timeout);
	if (told > 0)
		told = tell(set, epoll, fds, used, events, room);
	vsn_scratch_drop(&scratch);
	return told;
}

/* NULL timeout: for ever. */
static int wait_set(struct set *set, int epoll, struct epoll_event *events, int room,
		    const struct timespec *timeout, const sigset_t *mask)
{
	struct timespec left = timeout ? *timeout : (struct timespec){0};
	int told;
	own_lock(&set->lock);
	set->waiters++;
	uint32_t edits = set->edits;
	own_unlock(&set->lock);
	do {
		told = wait_once(set, epoll, events, room, timeout ? &left : NULL, mask, &edits);
	} while (!told && !set_dead(set) && (!timeout || left.tv_sec || left.tv_nsec));
	int error = errno;
	own_lock(&set->lock);
	waiter_saw(set, &edits);
	set->waiters--;
	own_unlock(&set->lock);
	errno = error;
	return told;
}

/* The set, if this wait is about netmap fds and may begin. */
static struct set *set_to_wait(int epoll, const struct epoll_event *events, int room)
{
	struct set *set = epoll < vsn_noted_end() ? set_of(epoll) : NULL;
	return set && set->count && room > 0 && events ? set : NULL;
}

VSN_EXPORT int epoll_pwait2(int epoll, struct epoll_event *events, int room,
			    const struct timespec *timeout, const sigset_t *mask)
{
	struct set *set = set_to_wait(epoll, events, room);
	if (!set)
		return vsn_real.epoll_pwait2(epoll, events, room, timeout, mask);
	return wait_set(set, epoll, events, room, timeout, mask);
}

VSN_EXPORT int epoll_pwait(int epoll, struct epoll_event *events, int room, int timeout_ms,
			   const sigset_t *mask)
{
	struct set *set = set_to_wait(epoll, events, room);
	if (!set)
		return vsn_real.epoll_pwait(epoll, events, room, timeout_ms, mask);
	struct timespec timeout = {timeout_ms / 1000, (long)(timeout_ms % 1000) * NS_PER_MS};
	return wait_set(set, epoll, events, room, timeout_ms < 0 ? NULL : &timeout, mask);
}

VSN_EXPORT int epoll_wait(int epoll, struct epoll_event *events, int room, int timeout_ms)
{
	struct set *set = set_to_wait(epoll, events, room);
	if (!set)
		return vsn_real.epoll_wait(epoll, events, room, timeout_ms);
	return epoll_pwait(epoll, events, room, timeout_ms, NULL);
}
