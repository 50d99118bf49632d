/*
 * What stands in front of the C library, shared by the files that do:
 *
 *     preload.c         open, ioctl, mmap
 *     preload_fds.c     close, dup, fcntl, close_range; fds that were inherited or received
 *     preload_poll.c    poll, select and their variants; wait.c does it
 *     preload_epoll.c   epoll
 *     preload_io.c      read and write, which netmap does not have
 *
 * Each is the C library's function for everything that is not ours, and costs a table look-up at
 * most; a process that never opened /dev/netmap does not even pay that.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>

#include "client.h"

/* The names that the shared library shows; it is built with all others hidden. */
#define VSN_EXPORT __attribute__((visibility("default")))

/* The session of an fd, or NULL; asks the switch about fds that may be of netmap. */
struct vsn_session *vsn_of(int fd);
/* This fd is of netmap, or may be: from now on vsn_of looks. */
void vsn_note(int fd);
/* Above every fd that vsn_note was told of. */
int vsn_noted_end(void);

/* What goes with an fd number that is about to name something else, or nothing. */
void vsn_forget(int fd);

/* 0 and up as they are, -errno as the C library says it. */
static inline int vsn_result(int result)
{
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}
