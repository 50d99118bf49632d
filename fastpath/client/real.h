/*
 * The C library's functions, past those of ours that carry their names: whatever the client library
 * itself wants of them it calls as vsn_real.close(fd). (A plain close() would come back to us, and
 * fail for fds that we hide.)
 *
 * In libvswitch-netmap.so they are the next ones in the order of symbols, so that other preloaded
 * libraries see what passes. In the archive, and until the loader has run our constructor, they are
 * bare system calls.
 *
 * Runs on: any thread, signal handlers too.
 */
#pragma once

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

struct vsn_real {
	int (*open)(const char *path, int flags, ...);
	int (*openat)(int dir, const char *path, int flags, ...);
	int (*open_2)(const char *path, int flags);
	int (*openat_2)(int dir, const char *path, int flags);
	int (*close)(int fd);
	int (*close_range)(unsigned first, unsigned last, int flags);
	int (*dup)(int fd);
	int (*dup2)(int fd, int copy);
	int (*dup3)(int fd, int copy, int flags);
	int (*fcntl)(int fd, int command, ...);
	int (*ioctl)(int fd, unsigned long request, ...);
	void *(*mmap)(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
	int (*munmap)(void *addr, size_t bytes);
	ssize_t (*read)(int fd, void *to, size_t bytes);
	ssize_t (*read_chk)(int fd, void *to, size_t bytes, size_t room);
	ssize_t (*write)(int fd, const void *from, size_t bytes);
	ssize_t (*readv)(int fd, const struct iovec *parts, int count);
	ssize_t (*writev)(int fd, const struct iovec *parts, int count);
	ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
	int (*sendmmsg)(int fd, struct mmsghdr *messages, unsigned count, int flags);
	ssize_t (*recvmsg)(int fd, struct msghdr *message, int flags);
	int (*recvmmsg)(int fd, struct mmsghdr *messages, unsigned count, int flags,
			struct timespec *timeout);
	int (*poll)(struct pollfd *fds, nfds_t count, int timeout_ms);
	int (*ppoll)(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		     const sigset_t *mask);
	int (*select)(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout);
	int (*pselect)(int count, fd_set *in, fd_set *out, fd_set *except,
		       const struct timespec *timeout, const sigset_t *mask);
	int (*epoll_ctl)(int epoll, int op, int fd, struct epoll_event *event);
	int (*epoll_wait)(int epoll, struct epoll_event *events, int count, int timeout_ms);
	int (*epoll_pwait)(int epoll, struct epoll_event *events, int count, int timeout_ms,
			   const sigset_t *mask);
	int (*epoll_pwait2)(int epoll, struct epoll_event *events, int count,
			    const struct timespec *timeout, const sigset_t *mask);
};
extern struct vsn_real vsn_real;
