/*
 * System calls as the library wants them: past our own functions of the same names (real.h), and
 * results that are >= 0 or a negative errno, with errno left as it was.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "real.h"

#define SYS_RESULT(call)                                                                           \
	({                                                                                         \
		int saved_errno_ = errno;                                                          \
		long result_ = (long)(call);                                                       \
		if (result_ == -1)                                                                 \
			result_ = -errno;                                                          \
		errno = saved_errno_;                                                              \
		result_;                                                                           \
	})

static inline void sys_close(int fd)
{
	(void)SYS_RESULT(vsn_real.close(fd));
}

static inline int sys_fcntl(int fd, int command, unsigned long argument)
{
	return (int)SYS_RESULT(vsn_real.fcntl(fd, command, argument));
}

/* timeout in ms; negative: none */
static inline int sys_poll(struct pollfd *fds, unsigned n, int timeout_ms)
{
	return (int)SYS_RESULT(vsn_real.poll(fds, n, timeout_ms));
}

/* NULL: it failed */
static inline void *sys_map(size_t bytes, int flags, int fd, off_t offset)
{
	int saved_errno = errno;
	void *at = vsn_real.mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, offset);

	errno = saved_errno;
	return at == MAP_FAILED ? NULL : at;
}

static inline void sys_unmap(void *at, size_t bytes)
{
	if (!at)
		return;
#ifdef __SANITIZE_THREAD__ /* by the C library, or what is mapped there next would be the same */
	(void)SYS_RESULT(munmap(at, bytes));
#else
	(void)SYS_RESULT(vsn_real.munmap(at, bytes));
#endif
}
