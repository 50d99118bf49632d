/*
 * poll and select. Sets without a netmap fd go to the C library as they came.
 */
#include "preload.h"

#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/select.h>

#include "real.h"
#include "wait.h"

int __poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t bytes);
int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		const sigset_t *mask, size_t bytes);
int __select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout);

/* --- poll ------------------------------------------------------------------------------------- */

VSN_EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	if (!vsn_wait_ours(fds, count))
		return vsn_real.poll(fds, count, timeout_ms);
	struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
	return vsn_wait(fds, count, timeout_ms < 0 ? NULL : &timeout, NULL, NULL);
}

#ifdef VSN_PRELOAD
VSN_EXPORT int __poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	return poll(fds, count, timeout_ms);
}
#endif

VSN_EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		     const sigset_t *mask)
{
	if (!vsn_wait_ours(fds, count))
		return vsn_real.ppoll(fds, count, timeout, mask);
	return vsn_wait(fds, count, timeout, mask, NULL);
}

/* As in programs that are built with _FORTIFY_SOURCE: `bytes` is what the compiler knows of fds. */
VSN_EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t bytes)
{
	if (bytes / sizeof *fds < count)
		abort();
	return poll(fds, count, timeout_ms);
}

VSN_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
			   const sigset_t *mask, size_t bytes)
{
	if (bytes / sizeof *fds < count)
		abort();
	return ppoll(fds, count, timeout, mask);
}

/* --- select ----------------------------------------------------------------------------------- */

enum { SETS = 3, WORD_BITS = NFDBITS };

/* What makes an fd ready in each set (select(2), "Correspondence between select() and poll()"). */
static const short wanted[SETS] = {POLLIN | POLLRDNORM | POLLRDBAND,
				   POLLOUT | POLLWRNORM | POLLWRBAND, POLLPRI};
static const short fulfilled[SETS] = {POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
				      POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR, POLLPRI};

/* Sets may be larger than FD_SETSIZE: they are bits of longs, as many as `count` needs. */
static bool in_set(const fd_set *set, int fd)
{
	const unsigned long *words = (const void *)set;
	return words && words[fd / WORD_BITS] >> (fd % WORD_BITS) & 1;
}

static void clear_set(fd_set *set, int count)
{
	unsigned long *words = (void *)set;
	for (int i = 0; words && i < (count + WORD_BITS - 1) / WORD_BITS; i++)
		words[i] = 0;
}

static void add_to_set(fd_set *set, int fd)
{
	unsigned long *words = (void *)set;
	words[fd / WORD_BITS] |= 1UL << (fd % WORD_BITS);
}

static short events_of(fd_set *const sets[SETS], int fd)
{
	short events = 0;
	for (int i = 0; i < SETS; i++)
		events = (short)(events | (in_set(sets[i], fd) ? wanted[i] : 0));
	return events;
}

/* How many fds are in any set. */
static size_t members(fd_set *const sets[SETS], int count)
{
	size_t found = 0;
	for (int at = 0; at < count; at += WORD_BITS) {
		unsigned long any = 0;
		for (int i = 0; i < SETS; i++)
			any |= sets[i] ? ((unsigned long *)(void *)sets[i])[at / WORD_BITS] : 0;
		if (count - at < WORD_BITS)
			any &= (1UL << (count - at)) - 1;
		found += (size_t)__builtin_popcountl(any);
	}
	return found;
}

static bool has_ours(fd_set *const sets[SETS], int count)
{
	int end = count < vsn_noted_end() ? count : vsn_noted_end();
	for (int fd = 0; fd < end; fd++)
		if (events_of(sets, fd) && vsn_of(fd))
			return true;
	return false;
}

/* The answer of a wait in the sets: bits set, or -1: one of the fds was none. */
static int to_sets(fd_set *const sets[SETS], int count, const struct pollfd *fds, size_t used)
{
	int bits = 0;
	for (size_t i = 0; i < used; i++)
		if (fds[i].revents & POLLNVAL) {
			errno = EBADF;
			return -1;
		}
	for (int i = 0; i < SETS; i++)
		clear_set(sets[i], count);
	for (size_t at = 0; at < used; at++)
		for (int i = 0; i < SETS; i++)
			if (fds[at].events & wanted[i] && fds[at].revents & fulfilled[i]) {
				add_to_set(sets[i], fds[at].fd);
				bits++;
			}
	return bits;
}

static int select_ours(int count, fd_set *const sets[SETS], const struct timespec *timeout,
		       const sigset_t *mask, struct timespec *left)
{
	struct vsn_scratch scratch;
	struct pollfd *fds = vsn_scratch_take(&scratch, members(sets, count));
	if (!fds)
		return -1;
	size_t used = 0;
	for (int fd = 0; fd < count; fd++) {
		short events = events_of(sets, fd);
		if (events)
			fds[used++] = (struct pollfd){.fd = fd, .events = events};
	}
	int ready = vsn_wait(fds, used, timeout, mask, left);
	if (ready >= 0)
		ready = to_sets(sets, count, fds, used);
	vsn_scratch_drop(&scratch);
	return ready;
}

VSN_EXPORT int select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	fd_set *const sets[SETS] = {in, out, except};
	if (!has_ours(sets, count))
		return vsn_real.select(count, in, out, except, timeout);
	if (!timeout)
		return select_ours(count, sets, NULL, NULL, NULL);
	if (timeout->tv_sec < 0 || timeout->tv_usec < 0) {
		errno = EINVAL;
		return -1;
	}
	struct timespec given = {timeout->tv_sec + timeout->tv_usec / 1000000,
				 timeout->tv_usec % 1000000 * 1000};
	struct timespec left = given;
	int ready = select_ours(count, sets, &given, NULL, &left);
	*timeout = (struct timeval){left.tv_sec, left.tv_nsec / 1000}; /* as Linux does */
	return ready;
}

#ifdef VSN_PRELOAD
VSN_EXPORT int __select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	return select(count, in, out, except, timeout);
}
#endif

VSN_EXPORT int pselect(int count, fd_set *in, fd_set *out, fd_set *except,
		       const struct timespec *timeout, const sigset_t *mask)
{
	fd_set *const sets[SETS] = {in, out, except};
	if (!has_ours(sets, count))
		return vsn_real.pselect(count, in, out, except, timeout, mask);
	return select_ours(count, sets, timeout, mask, NULL);
}
