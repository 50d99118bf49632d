/*
 * Waiting for netmap fds and others together: ppoll, to the letter, over both. select and epoll are
 * made of it.
 *
 * What is ready is found without a system call where all fds are of netmap. Before it sleeps it
 * spins, if the session's sizes allow it; a sleep is one ppoll over the others and all bells.
 * Signals are blocked from where nothing was ready to the sleep, which lets them in: so one that
 * comes in between ends the wait, as in the kernel.
 *
 * Runs on: any thread, signal handlers too. No allocator.
 */
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

/* Is one of them of netmap? */
bool vsn_wait_ours(struct pollfd *fds, nfds_t count);

/* As ppoll. `left`, if not NULL and not after an error, is what remained of the timeout. */
int vsn_wait(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
	     struct timespec *left);

/* An array for a wait: on the stack while it is small. */
enum { VSN_SCRATCH = 512 };
struct vsn_scratch {
	struct pollfd *fds;
	size_t mapped;
	struct pollfd few[VSN_SCRATCH];
};
/* NULL: no memory, errno is set. */
struct pollfd *vsn_scratch_take(struct vsn_scratch *scratch, size_t count);
void vsn_scratch_drop(struct vsn_scratch *scratch);
