#include "real.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's sigset_t. */
enum { MASK_BYTES = _NSIG / 8 };

static int raw_openat(int dir, const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = va_arg(more, unsigned);
	va_end(more);
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

static int raw_open(const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = va_arg(more, unsigned);
	va_end(more);
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static int raw_open_2(const char *path, int flags)
{
	return raw_open(path, flags, 0);
}

static int raw_openat_2(int dir, const char *path, int flags)
{
	return raw_openat(dir, path, flags, 0);
}

static int raw_close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static int raw_close_range(unsigned first, unsigned last, int flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

static int raw_dup(int fd)
{
	return (int)syscall(SYS_dup, fd);
}

static int raw_dup3(int fd, int copy, int flags)
{
	return (int)syscall(SYS_dup3, fd, copy, flags);
}

static int raw_dup2(int fd, int copy)
{
	/* dup3 refuses what dup2 takes for a question */
	if (fd == copy)
		return syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : copy;
	return raw_dup3(fd, copy, 0);
}

static int raw_fcntl(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *arg = va_arg(more, void *);
	va_end(more);
	return (int)syscall(SYS_fcntl, fd, command, arg);
}

static int raw_ioctl(int fd, unsigned long request, ...)
{
	va_list more;
	va_start(more, request);
	void *arg = va_arg(more, void *);
	va_end(more);
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static void *raw_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, bytes, prot, flags, fd, offset); /* NOLINT */
}

static ssize_t raw_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return syscall(SYS_sendmsg, fd, message, flags);
}

static int raw_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	return (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

static ssize_t raw_recvmsg(int fd, struct msghdr *message, int flags)
{
	return syscall(SYS_recvmsg, fd, message, flags);
}

static int raw_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
			struct timespec *timeout)
{
	return (int)syscall(SYS_recvmmsg, fd, messages, count, flags, timeout);
}

static int raw_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
		     const sigset_t *mask)
{
	/* the kernel writes into its timeout, the C library's callers keep theirs */
	struct timespec left = timeout ? *timeout : (struct timespec){0};
	return (int)syscall(SYS_ppoll, fds, count, timeout ? &left : NULL, mask, MASK_BYTES);
}

static int raw_munmap(void *addr, size_t bytes)
{
	return (int)syscall(SYS_munmap, addr, bytes);
}

static ssize_t raw_read(int fd, void *to, size_t bytes)
{
	return syscall(SYS_read, fd, to, bytes);
}

static ssize_t raw_read_chk(int fd, void *to, size_t bytes, size_t room)
{
	return raw_read(fd, to, bytes < room ? bytes : room);
}

static ssize_t raw_write(int fd, const void *from, size_t bytes)
{
	return syscall(SYS_write, fd, from, bytes);
}

static ssize_t raw_readv(int fd, const struct iovec *parts, int count)
{
	return syscall(SYS_readv, fd, parts, count);
}

static ssize_t raw_writev(int fd, const struct iovec *parts, int count)
{
	return syscall(SYS_writev, fd, parts, count);
}

static int raw_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
	return raw_ppoll(fds, count, timeout_ms < 0 ? NULL : &timeout, NULL);
}

static int raw_pselect(int count, fd_set *in, fd_set *out, fd_set *except,
		       const struct timespec *timeout, const sigset_t *mask)
{
	struct timespec left = timeout ? *timeout : (struct timespec){0};
	struct {
		const sigset_t *mask;
		size_t bytes;
	} both = {mask, MASK_BYTES};
	return (int)syscall(SYS_pselect6, count, in, out, except, timeout ? &left : NULL, &both);
}

static int raw_select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
	if (!timeout)
		return raw_pselect(count, in, out, except, NULL, NULL);
	struct timespec left = {timeout->tv_sec + timeout->tv_usec / 1000000,
				timeout->tv_usec % 1000000 * 1000};
	struct {
		const sigset_t *mask;
		size_t bytes;
	} none = {NULL, 0};
	int ready = (int)syscall(SYS_pselect6, count, in, out, except, &left, &none);
	*timeout = (struct timeval){left.tv_sec, left.tv_nsec / 1000};
	return ready;
}

static int raw_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
	return (int)syscall(SYS_epoll_ctl, epoll, op, fd, event);
}

static int raw_epoll_pwait(int epoll, struct epoll_event *events, int count, int timeout_ms,
			   const sigset_t *mask)
{
	return (int)syscall(SYS_epoll_pwait, epoll, events, count, timeout_ms, mask, MASK_BYTES);
}

static int raw_epoll_wait(int epoll, struct epoll_event *events, int count, int timeout_ms)
{
	return raw_epoll_pwait(epoll, events, count, timeout_ms, NULL);
}

static int raw_epoll_pwait2(int epoll, struct epoll_event *events, int count,
			    const struct timespec *timeout, const sigset_t *mask)
{
	return (int)syscall(SYS_epoll_pwait2, epoll, events, count, timeout, mask, MASK_BYTES);
}

struct vsn_real vsn_real = {
    .open = raw_open,
    .openat = raw_openat,
    .open_2 = raw_open_2,
    .openat_2 = raw_openat_2,
    .close = raw_close,
    .close_range = raw_close_range,
    .dup = raw_dup,
    .dup2 = raw_dup2,
    .dup3 = raw_dup3,
    .fcntl = raw_fcntl,
    .ioctl = raw_ioctl,
    .mmap = raw_mmap,
    .munmap = raw_munmap,
    .read = raw_read,
    .read_chk = raw_read_chk,
    .write = raw_write,
    .readv = raw_readv,
    .writev = raw_writev,
    .sendmsg = raw_sendmsg,
    .sendmmsg = raw_sendmmsg,
    .recvmsg = raw_recvmsg,
    .recvmmsg = raw_recvmmsg,
    .poll = raw_poll,
    .ppoll = raw_ppoll,
    .select = raw_select,
    .pselect = raw_pselect,
    .epoll_ctl = raw_epoll_ctl,
    .epoll_wait = raw_epoll_wait,
    .epoll_pwait = raw_epoll_pwait,
    .epoll_pwait2 = raw_epoll_pwait2,
};

#ifdef VSN_PRELOAD
/*
 * Into variables first: dlsym may call what we stand before, and then a table that is half the one
 * and half the other is still whole. A C library without one of them leaves the system call.
 */
#define NEXT(name) NEXT_AS(name, name)
#define NEXT_AS(field, name)                                                                       \
	do {                                                                                       \
		void *next = dlsym(RTLD_NEXT, #name);                                              \
		if (next)                                                                          \
			__atomic_store_n((void **)(void *)&vsn_real.field, next,                   \
					 __ATOMIC_RELEASE);                                        \
	} while (0)

__attribute__((constructor(101))) static void find_real(void)
{
	NEXT(open);
	NEXT(openat);
	NEXT_AS(open_2, __open_2);
	NEXT_AS(openat_2, __openat_2);
	NEXT(close);
	NEXT(close_range);
	NEXT(dup);
	NEXT(dup2);
	NEXT(dup3);
	NEXT(fcntl);
	NEXT(ioctl);
	NEXT(mmap);
	NEXT(munmap);
	NEXT(read);
	NEXT_AS(read_chk, __read_chk);
	NEXT(write);
	NEXT(readv);
	NEXT(writev);
	NEXT(sendmsg);
	NEXT(sendmmsg);
	NEXT(recvmsg);
	NEXT(recvmmsg);
	NEXT(poll);
	NEXT(ppoll);
	NEXT(select);
	NEXT(pselect);
	NEXT(epoll_ctl);
	NEXT(epoll_wait);
	NEXT(epoll_pwait);
	NEXT(epoll_pwait2);
}
#endif
