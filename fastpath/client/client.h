/*
 * netmap without its module, the inside: what a program that opened /dev/netmap has, by calls that
 * intercept nothing. preload.c puts them behind the C library's names, nmport.c behind libnetmap's.
 *
 *     core.h      what these share
 *     session.c   the table of fds, who is who after fork, dup, exec
 *     wire.c      connections, requests to the switch
 *     bind.c      from the switch's answer to what a sync needs
 *     region.c    the memory that the program maps;  adapter.c: ports in it, netmap_if, rings,
 *                 extra buffers, and who has them
 *     request.c   NIOCCTRL: requests, options, errors;  legacy.c: NIOCREGIF and NIOCGINFO
 *     user.c      the program's memory, by addresses that may be wrong;  request_copy.c
 *     sync.c      ioctls, poll, mmap;  sync_tx.c, sync_rx.c: rings <-> lanes;  sleep.c
 *     pipe.c      the same of pipes, which move slots; watch.c: monitors of pipes
 *     mapped.c    what a program has mapped keeps its port
 *     direct.c    pair lanes between programs that trust each other
 *     real.c      the C library's functions, past those of ours with their names: all of the above
 *                 call open, close, mmap, poll, recvmsg, ... as vsn_real.close(fd)
 *     fds.c       hides the fds that the library has for itself: vsn_hide, vsn_hidden_close
 *
 * A session is an open file description of /dev/netmap: the connection to the switch
 * (client_wire.h), whose fd is what the program holds. Its state that more than one process may
 * need (after fork, or when the fd was passed on) lies in the region's head, which the program does
 * not see; locks there are robust, so that a killed holder does no harm.
 *
 * Functions return 0 or a number >= 0, or a negative errno. They neither print nor exit, and leave
 * signals and the program's memory allocator alone (memory comes from mmap).
 *
 * Runs on: any thread of a netmap program. Rings are synced by one thread at a time, as in netmap;
 * two that try get one after the other.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct vsn_session;

/* Connects to the switch of VSWITCH_RUN_DIR: the fd, O_CLOEXEC if asked for. -ENOENT: no switch. */
int vsn_open(bool cloexec);

/*
 * The session of an fd; NULL: it is none. An fd that this process did not open itself (inherited by
 * exec, received) is recognised by its peer's name and described by the switch if `adopt`.
 */
struct vsn_session *vsn_find(int fd, bool adopt);
void vsn_copied(int fd, int copy); /* dup and its relatives: now both name it */
void vsn_closed(int fd);	   /* called before the fd is closed */
/* Another process is about to have it: what it is bound to outlives this one's last close. */
void vsn_passed(struct vsn_session *session);

/* NIOCCTRL, NIOCTXSYNC, NIOCRXSYNC, NIOCREGIF, NIOCGINFO, NIOCCONFIG; -EOPNOTSUPP: others. */
int vsn_ioctl(struct vsn_session *session, unsigned long request, void *arg);
/* mmap's arguments without the fd. */
int vsn_mmap(struct vsn_session *session, void *addr, size_t bytes, int prot, int flags,
	     off_t offset, void **out);

/*
 * A mapping keeps the session: the program has one now; it is about to close fd, the last perhaps;
 * it has unmapped these bytes, of whatever they were.
 */
void vsn_mapped(struct vsn_session *session, void *at, size_t bytes);
void vsn_keep_mapped(int fd);
void vsn_unmapped(void *at, size_t bytes);

/*
 * What poll would answer now; syncs as netmap does: POLLOUT flushes and POLLIN syncs rx rings (and
 * flushes, unless NR_NO_TX_POLL). POLLERR: not registered, or the port is gone.
 */
short vsn_poll(struct vsn_session *session, short events);

enum { VSN_BELLS_MAX = 33 };
/*
 * Before sleeping for `events`: tells the other sides to ring, looks once more, and fills `fds`
 * with what to poll (bells, and the connection for news). Returns how many; 0: something is ready
 * now. vsn_awake once afterwards, also after 0: answers bells. No sleep in between is longer than
 * the caller likes.
 */
int vsn_asleep(struct vsn_session *session, short events, struct pollfd fds[VSN_BELLS_MAX]);
void vsn_awake(struct vsn_session *session);

/* ns to spin for before sleeping: 0 where there are no cores to spare. */
unsigned vsn_spin_ns(const struct vsn_session *session);
