/*
 * What this process knows of its fd numbers beyond sessions: which are the library's own, and which
 * came from elsewhere and may be of netmap.
 *
 * fds of the library's own (bells, memories) lie in the program's table. They are moved up, out of
 * the way of programs that expect small numbers, and hidden: the program's close(), dup2(),
 * close_range() and loops that close everything do not reach them. A program that gets past us with
 * bare system calls can only harm itself.
 *
 * Runs on: any thread, signal handlers too. No locks, no allocator.
 */
#pragma once

#include <stdbool.h>

/*
 * Moves fd to a number of its own, close-on-exec, and hides it: the new number. On failure -errno,
 * and fd is closed.
 */
int vsn_hide(int fd);
bool vsn_hidden(int fd);
/* Closes a hidden fd and forgets it. Others (-1 among them) are left alone. */
void vsn_hidden_close(int fd);
/* Hidden fds below `first` do not count: the lowest hidden one from there on, or -1. */
int vsn_hidden_from(int first);

/* An fd that was inherited or received, and is a socket that /dev/netmap could be: it is asked
 * about (vsn_find with adopt) when it is used. */
void vsn_strange_set(int fd, bool strange);
bool vsn_strange(int fd);

/* What names a thing by its fd's number notes the age, too: another age is another thing. */
unsigned vsn_age(int fd);
void vsn_ages(int fd); /* it is about to be closed */
