/*
 * read and write, which netmap's device does not have: EINVAL. Our fd is a socket, that would wait
 * for the switch to say something, or tell it nonsense.
 */
#include "preload.h"

#include <sys/uio.h>
#include <unistd.h>

#include "real.h"

ssize_t __read_chk(int fd, void *to, size_t bytes, size_t room);

VSN_EXPORT ssize_t read(int fd, void *to, size_t bytes)
{
	return vsn_of(fd) ? vsn_result(-EINVAL) : vsn_real.read(fd, to, bytes);
}

/* What read becomes in programs that are built with _FORTIFY_SOURCE. */
VSN_EXPORT ssize_t __read_chk(int fd, void *to, size_t bytes, size_t room)
{
	return vsn_of(fd) ? vsn_result(-EINVAL) : vsn_real.read_chk(fd, to, bytes, room);
}

VSN_EXPORT ssize_t write(int fd, const void *from, size_t bytes)
{
	return vsn_of(fd) ? vsn_result(-EINVAL) : vsn_real.write(fd, from, bytes);
}

VSN_EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
{
	return vsn_of(fd) ? vsn_result(-EINVAL) : vsn_real.readv(fd, parts, count);
}

VSN_EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
	return vsn_of(fd) ? vsn_result(-EINVAL) : vsn_real.writev(fd, parts, count);
}
