#include "wait.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#include "preload.h"
#include "real.h"

enum { NS_PER_S = 1000000000 };

struct wait {
	struct pollfd *fds;
	nfds_t count;
	nfds_t ours;	      /* how many are of netmap */
	nfds_t told;	      /* those before this one have been told that we sleep */
	struct pollfd *sleep; /* the same without those, then bells */
	struct vsn_scratch scratch;
	const struct timespec *timeout;
	const sigset_t *mask; /* for the sleep */
	uint64_t deadline;    /* in ns, if there is a timeout */
	sigset_t before;      /* signals as the caller had them */
};

static uint64_t now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec;
}

static struct timespec as_timespec(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

/* No timeout is longer than the clock lasts. */
static uint64_t deadline_of(const struct timespec *timeout)
{
	if ((uint64_t)timeout->tv_sec >= UINT64_MAX / NS_PER_S / 2)
		return UINT64_MAX;
	return now() + (uint64_t)timeout->tv_sec * NS_PER_S + (uint64_t)timeout->tv_nsec;
}

static uint64_t remaining(const struct wait *wait)
{
	uint64_t at = now();
	return at < wait->deadline ? wait->deadline - at : 0;
}

struct pollfd *vsn_scratch_take(struct vsn_scratch *scratch, size_t count)
{
	scratch->mapped = 0;
	scratch->fds = scratch->few;
	if (count <= VSN_SCRATCH)
		return scratch->fds;
	size_t bytes = count * sizeof *scratch->fds;
	void *memory =
	    vsn_real.mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	scratch->mapped = bytes;
	scratch->fds = memory;
	return scratch->fds;
}

void vsn_scratch_drop(struct vsn_scratch *scratch)
{
	if (scratch->mapped)
		munmap(scratch->fds, scratch->mapped);
	scratch->mapped = 0;
}

bool vsn_wait_ours(struct pollfd *fds, nfds_t count)
{
	for (nfds_t i = 0; i < count; i++)
		if (vsn_of(fds[i].fd))
			return true;
	return false;
}

/* poll's events as netmap knows them, and back. */
static short asked(short events)
{
	return (short)((events & (POLLIN | POLLRDNORM) ? POLLIN : 0) |
		       (events & (POLLOUT | POLLWRNORM) ? POLLOUT : 0));
}

static short answered(short ready, short events)
{
	short always = POLLERR | POLLHUP | POLLNVAL;
	short wide =
	    (short)(ready | (ready & POLLIN ? POLLRDNORM : 0) | (ready & POLLOUT ? POLLWRNORM : 0));
	return (short)(wide & (events | always));
}

/* How many netmap fds are ready now; theirs are the revents that it writes. */
static int look(struct wait *wait)
{
	int ready = 0;
	for (nfds_t i = 0; i < wait->count; i++) {
		struct pollfd *fd = &wait->fds[i];
		struct vsn_session *session = vsn_of(fd->fd);
		if (!session)
			continue;
		fd->revents = answered(vsn_poll(session, asked(fd->events)), fd->events);
		ready += fd->revents != 0;
	}
	return ready;
}

/* The others as the kernel is to see them. */
static void lay_out(struct wait *wait)
{
	for (nfds_t i = 0; i < wait->count; i++) {
		wait->sleep[i] = wait->fds[i];
		wait->sleep[i].revents = 0;
		if (vsn_of(wait->fds[i].fd))
			wait->sleep[i].fd = -1;
	}
}

/* What the kernel said of the others, into the caller's array: how many are ready. */
static int merge(struct wait *wait)
{
	int ready = 0;
	for (nfds_t i = 0; i < wait->count; i++) {
		if (wait->fds[i].fd >= 0 && wait->sleep[i].fd < 0)
			continue; /* of netmap */
		wait->fds[i].revents = wait->sleep[i].revents;
		ready += wait->fds[i].revents != 0;
	}
	return ready;
}

/* The others, without waiting. Signals of `mask` may end it: -1. */
static int look_others(struct wait *wait, const sigset_t *mask)
{
	const struct timespec none = {0};
	if (wait->ours == wait->count && !mask)
		return 0;
	if (vsn_real.ppoll(wait->sleep, wait->count, &none, mask) < 0)
		return -1;
	return merge(wait);
}

/* Spins where every session would. Ready netmap fds, or 0. */
static int spin(struct wait *wait)
{
	uint64_t budget = UINT64_MAX;
	if (wait->ours != wait->count)
		return 0; /* looking at the others is a system call already */
	for (nfds_t i = 0; i < wait->count; i++) {
		struct vsn_session *session = vsn_of(wait->fds[i].fd);
		uint64_t ns = session ? vsn_spin_ns(session) : 0;
		budget = ns < budget ? ns : budget;
	}
	if (!budget)
		return 0;
	uint64_t end = now() + budget;
	if (wait->timeout && end > wait->deadline)
		end = wait->deadline;
	int ready = 0;
	do {
		__builtin_ia32_pause();
		ready = look(wait);
	} while (!ready && now() < end);
	return ready;
}

static void awake(struct wait *wait)
{
	for (nfds_t i = 0; i < wait->told; i++) {
		struct vsn_session *session = vsn_of(wait->fds[i].fd);
		if (session)
			vsn_awake(session);
	}
	wait->told = 0;
}

/* Bells of all sessions behind the others. How many fds to sleep on; 0: do not. */
static nfds_t asleep(struct wait *wait)
{
	nfds_t end = wait->count;
	nfds_t room = wait->count + wait->ours * VSN_BELLS_MAX;
	for (nfds_t i = 0; i < wait->count; i++) {
		struct vsn_session *session = vsn_of(wait->fds[i].fd);
		if (!session)
			continue;
		if (end + VSN_BELLS_MAX > room)
			return 0; /* another thread has made one more */
		wait->told = i + 1;
		int bells = vsn_asleep(session, asked(wait->fds[i].events), wait->sleep + end);
		if (bells <= 0)
			return 0;
		end += (nfds_t)bells;
	}
	return end;
}

/* One sleep: ready fds, 0: none yet, -1: an error of ppoll. */
static int sleep_once(struct wait *wait)
{
	nfds_t count = asleep(wait);
	int result = 0;
	if (count) {
		struct timespec left;
		if (wait->timeout)
			left = as_timespec(remaining(wait));
		result =
		    vsn_real.ppoll(wait->sleep, count, wait->timeout ? &left : NULL, wait->mask);
	}
	int error = errno;
	awake(wait);
	errno = error;
	if (result < 0)
		return -1;
	int ready = look(wait);
	/* without a sleep nobody has looked at the others */
	int others = count ? merge(wait) : look_others(wait, NULL);
	return others < 0 ? -1 : ready + others;
}

/* Faults of the program's own memory still end it while the rest waits. */
static void block_signals(sigset_t *before)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
	sigset_t all;
	sigfillset(&all);
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
		sigdelset(&all, faults[i]);
	pthread_sigmask(SIG_BLOCK, &all, before);
}

/* Also when the thread is cancelled in its sleep. */
static void leave(void *wait_)
{
	struct wait *wait = wait_;
	awake(wait);
	vsn_scratch_drop(&wait->scratch);
	pthread_sigmask(SIG_SETMASK, &wait->before, NULL);
}

static int wait_long(struct wait *wait)
{
	int ready = 0;
	int error = 0;
	block_signals(&wait->before);
	if (!wait->mask)
		wait->mask = &wait->before;
	pthread_cleanup_push(leave, wait);
	ready = spin(wait);
	while (!ready) {
		ready = sleep_once(wait);
		if (!ready && wait->timeout && !remaining(wait))
			break;
	}
	error = errno;
	pthread_cleanup_pop(1);
	errno = error;
	return ready;
}

int vsn_wait(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
	     struct timespec *left)
{
	struct wait wait = {.fds = fds, .count = count, .timeout = timeout, .mask = mask};
	bool patient = !timeout || timeout->tv_sec || timeout->tv_nsec;
	if (timeout &&
	    (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= NS_PER_S)) {
		errno = EINVAL;
		return -1;
	}
	if (patient && timeout)
		wait.deadline = deadline_of(timeout);
	int ready = look(&wait);
	for (nfds_t i = 0; i < count; i++)
		wait.ours += vsn_of(fds[i].fd) != NULL;
	if (wait.ours < count || !ready) {
		wait.sleep = vsn_scratch_take(&wait.scratch, count + wait.ours * VSN_BELLS_MAX);
		if (!wait.sleep)
			return -1;
		lay_out(&wait);
		int others = look_others(&wait, patient || ready ? NULL : mask);
		if (others < 0 && !ready)
			ready = -1;
		else if (others > 0)
			ready += others;
		if (!ready && patient)
			ready = wait_long(&wait);
		vsn_scratch_drop(&wait.scratch);
	}
	if (left && timeout)
		*left = as_timespec(patient ? remaining(&wait) : 0);
	return ready;
}
