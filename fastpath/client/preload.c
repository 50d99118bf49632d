/*
 * open, ioctl and mmap of /dev/netmap. Where the kernel has a netmap of its own, it is asked about
 * every name that is not of a VALE switch: its interfaces are reached as before.
 */
#include "preload.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "netmap_abi.h"
#include "real.h"

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);
int ioctl(int fd, unsigned long request, ...);

/* --- open ------------------------------------------------------------------------------------- */

/* Has a parameter of its own, for the C library promises that theirs are not NULL. */
__attribute__((noinline)) static bool is_netmap(const char *path)
{
	return path && !strcmp(path, NETMAP_DEVICE);
}

static bool kernel_has_netmap(void)
{
	int error = errno;
	bool has = access(NETMAP_DEVICE, F_OK) == 0;
	errno = error;
	return has;
}

static int open_netmap(int flags)
{
	int fd = vsn_open((flags & O_CLOEXEC) != 0);
	if (fd < 0) {
		/* no switch of ours: perhaps there is the kernel's */
		return kernel_has_netmap() ? vsn_real.open(NETMAP_DEVICE, flags) : vsn_result(fd);
	}
	vsn_note(fd);
	return fd;
}

static int open_at(int dir, const char *path, int flags, unsigned mode)
{
	return is_netmap(path) ? open_netmap(flags) : vsn_real.openat(dir, path, flags, mode);
}

static unsigned mode_of(int flags, va_list more)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, unsigned) : 0;
}

VSN_EXPORT int open(const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = mode_of(flags, more);
	va_end(more);
	return is_netmap(path) ? open_netmap(flags) : vsn_real.open(path, flags, mode);
}

VSN_EXPORT int openat(int dir, const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = mode_of(flags, more);
	va_end(more);
	return open_at(dir, path, flags, mode);
}

/* off_t has 64 bits here: these are the same. */
VSN_EXPORT int open64(const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = mode_of(flags, more);
	va_end(more);
	return is_netmap(path) ? open_netmap(flags) : vsn_real.open(path, flags, mode);
}

VSN_EXPORT int openat64(int dir, const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	unsigned mode = mode_of(flags, more);
	va_end(more);
	return open_at(dir, path, flags, mode);
}

/* What open becomes in programs that are built with _FORTIFY_SOURCE. */
VSN_EXPORT int __open_2(const char *path, int flags)
{
	return is_netmap(path) ? open_netmap(flags) : vsn_real.open_2(path, flags);
}

VSN_EXPORT int __open64_2(const char *path, int flags)
{
	return __open_2(path, flags);
}

VSN_EXPORT int __openat_2(int dir, const char *path, int flags)
{
	return is_netmap(path) ? open_netmap(flags) : vsn_real.openat_2(dir, path, flags);
}

VSN_EXPORT int __openat64_2(int dir, const char *path, int flags)
{
	return __openat_2(dir, path, flags);
}

/* --- ioctl ------------------------------------------------------------------------------------ */

enum { NETMAP_IOC = 'i', TERMINAL_IOC = 'T' }; /* FIONBIO, FIOCLEX and their like are 'T' */

static bool is_netmap_request(uint32_t request)
{
	unsigned number = request & 0xff;
	return (request >> 8 & 0xff) == NETMAP_IOC && number >= 145 && number <= 151;
}

/* The name that a request is about; NULL: it has none. */
static const char *name_in(uint32_t request, const void *arg)
{
	if (!arg)
		return NULL;
	if (request == NIOCCTRL)
		return ((const struct nmreq_header *)arg)->nr_name;
	if (request == NIOCREGIF || request == NIOCGINFO)
		return ((const struct nmreq *)arg)->nr_name;
	return NULL;
}

static bool binds(uint32_t request, const void *arg)
{
	if (request == NIOCCTRL)
		return ((const struct nmreq_header *)arg)->nr_reqtype == NETMAP_REQ_REGISTER;
	return request == NIOCREGIF && ((const struct nmreq *)arg)->nr_cmd == 0;
}

/*
 * The kernel's answer. When it bound a port, fd becomes the kernel's device, and everything that
 * follows passes us by. -1 without errno's change of meaning: the kernel has refused.
 */
static int ask_kernel(int fd, unsigned long request, void *arg)
{
	int kernel = vsn_real.open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);
	if (kernel < 0)
		return -1;
	int result = vsn_real.ioctl(kernel, request, arg);
	int error = errno;
	if (result >= 0 && binds((uint32_t)request, arg)) {
		int flags = vsn_real.fcntl(fd, F_GETFD);
		vsn_forget(fd);
		if (vsn_real.dup3(kernel, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
			result = -1;
	}
	vsn_real.close(kernel);
	errno = error;
	return result;
}

VSN_EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list more;
	va_start(more, request);
	void *arg = va_arg(more, void *);
	va_end(more);
	/* some hand it over as an int, which has a sign */
	uint32_t number = (uint32_t)request;
	struct vsn_session *session = is_netmap_request(number) ? vsn_find(fd, true) : vsn_of(fd);
	if (!session || (number >> 8 & 0xff) == TERMINAL_IOC)
		return vsn_real.ioctl(fd, request, arg);
	vsn_note(fd);
	const char *name = name_in(number, arg);
	if (name && *name && strncmp(name, "vale", 4) && kernel_has_netmap())
		return ask_kernel(fd, request, arg);
	return vsn_result(vsn_ioctl(session, number, arg));
}

/* --- mmap ------------------------------------------------------------------------------------- */

static void *map_netmap(struct vsn_session *session, void *addr, size_t bytes, int prot, int flags,
			off_t offset)
{
	void *memory = MAP_FAILED;
	int result = vsn_mmap(session, addr, bytes, prot, flags, offset, &memory);
	if (!result) {
		vsn_mapped(session, memory, bytes);
		return memory;
	}
	errno = -result;
	return MAP_FAILED;
}

VSN_EXPORT void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	if (fd < 0 || flags & MAP_ANONYMOUS)
		return vsn_real.mmap(addr, bytes, prot, flags, fd, offset);
	struct vsn_session *session = vsn_of(fd);
	if (session)
		return map_netmap(session, addr, bytes, prot, flags, offset);
	void *memory = vsn_real.mmap(addr, bytes, prot, flags, fd, offset);
	/* sockets cannot be mapped; one that nobody has told us of may be of netmap */
	if (memory != MAP_FAILED || errno != ENODEV)
		return memory;
	session = vsn_find(fd, true);
	if (!session) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	vsn_note(fd);
	return map_netmap(session, addr, bytes, prot, flags, offset);
}

VSN_EXPORT void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return mmap(addr, bytes, prot, flags, fd, offset);
}

VSN_EXPORT int munmap(void *addr, size_t bytes)
{
	int result = vsn_real.munmap(addr, bytes);
	if (!result)
		vsn_unmapped(addr, bytes);
	return result;
}
