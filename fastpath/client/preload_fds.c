/*
 * fd numbers come and go: close, dup and their relatives, and fds that were inherited over exec or
 * received from another process.
 */
#include "preload.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fds.h"
#include "real.h"

int __close(int fd);
int __dup2(int fd, int copy);
int __fcntl(int fd, int command, ...);

enum { INHERITED_MAX = 1024 };

/* --- who is who ------------------------------------------------------------------------------- */

static atomic_int noted_end;

void vsn_note(int fd)
{
	int end = atomic_load_explicit(&noted_end, memory_order_relaxed);
	while (end <= fd && !atomic_compare_exchange_weak(&noted_end, &end, fd + 1))
		;
}

int vsn_noted_end(void)
{
	return atomic_load_explicit(&noted_end, memory_order_relaxed);
}

struct vsn_session *vsn_of(int fd)
{
	if (fd < 0 || fd >= vsn_noted_end())
		return NULL;
	bool strange = vsn_strange(fd);
	struct vsn_session *session = vsn_find(fd, strange);
	if (strange)
		vsn_strange_set(fd, false);
	return session;
}

/* A packet socket of the Unix domain from elsewhere: whose, is asked when it is used. */
static void look_at_stranger(int fd)
{
	int domain = 0;
	int type = 0;
	socklen_t bytes = sizeof domain;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) || domain != AF_UNIX)
		return;
	bytes = sizeof type;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) || type != SOCK_SEQPACKET)
		return;
	vsn_strange_set(fd, true);
	vsn_note(fd);
}

/* What exec left open. */
__attribute__((constructor(102))) static void look_at_inherited(void)
{
	static struct pollfd fds[INHERITED_MAX];
	long most = sysconf(_SC_OPEN_MAX);
	int count = most > 0 && most < INHERITED_MAX ? (int)most : INHERITED_MAX;
	int error = errno;
	for (int fd = 0; fd < count; fd++)
		fds[fd] = (struct pollfd){.fd = fd};
	if (vsn_real.poll(fds, (nfds_t)count, 0) >= 0)
		for (int fd = 0; fd < count; fd++)
			if (!(fds[fd].revents & POLLNVAL))
				look_at_stranger(fd);
	errno = error;
}

/*
 * The child of a vfork has fds of its own, and its parent's memory: what it closes is not closed
 * for the parent. Whose memory it is stands in a page that a fork clears, also one that asks the
 * kernel itself.
 */
static _Atomic pid_t *owner;

static void own_memory(void)
{
	if (owner)
		atomic_store(owner, getpid());
}

__attribute__((constructor(102))) static void watch_vforks(void)
{
	size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
	void *page =
	    vsn_real.mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || madvise(page, bytes, MADV_WIPEONFORK))
		return;
	owner = page;
	own_memory();
	pthread_atfork(NULL, NULL, own_memory);
}

static bool in_vfork(void)
{
	pid_t me = getpid();
	pid_t whose = 0;
	if (!owner || atomic_compare_exchange_strong(owner, &whose, me))
		return false;
	return whose != me;
}

void vsn_forget(int fd)
{
	if (fd < 0 || fd >= vsn_noted_end() || in_vfork())
		return;
	vsn_strange_set(fd, false);
	vsn_ages(fd);
	if (vsn_find(fd, false))
		vsn_closed(fd);
}

/* The same of one that the program closes itself: what it has mapped stays. */
static void forget_closed(int fd)
{
	if (fd >= 0 && fd < vsn_noted_end() && !in_vfork())
		vsn_keep_mapped(fd);
	vsn_forget(fd);
}

/* --- close ------------------------------------------------------------------------------------ */

VSN_EXPORT int close(int fd)
{
	if (vsn_hidden(fd)) {
		errno = EBADF;
		return -1;
	}
	forget_closed(fd);
	return vsn_real.close(fd);
}

#ifdef VSN_PRELOAD
VSN_EXPORT int __close(int fd)
{
	return close(fd);
}
#endif

VSN_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	bool closes = !((unsigned)flags & CLOSE_RANGE_CLOEXEC);
	if (first > last) {
		errno = EINVAL;
		return -1;
	}
	for (unsigned fd = first; closes && fd <= last && fd < (unsigned)vsn_noted_end(); fd++)
		forget_closed((int)fd);
	while (first <= last) {
		int hidden = first <= INT32_MAX ? vsn_hidden_from((int)first) : -1;
		if (hidden < 0 || (unsigned)hidden > last)
			return vsn_real.close_range(first, last, flags);
		if ((unsigned)hidden > first &&
		    vsn_real.close_range(first, (unsigned)hidden - 1, flags) < 0)
			return -1;
		first = (unsigned)hidden + 1;
	}
	return 0;
}

VSN_EXPORT void closefrom(int first)
{
	if (close_range((unsigned)(first < 0 ? 0 : first), ~0U, 0) == 0)
		return;
	long most = sysconf(_SC_OPEN_MAX);
	for (int fd = first < 0 ? 0 : first; fd < (int)most; fd++)
		close(fd);
}

/* --- dup -------------------------------------------------------------------------------------- */

static int copied(int fd, int copy)
{
	if (copy < 0 || fd == copy || !vsn_of(fd))
		return copy;
	vsn_note(copy);
	vsn_copied(fd, copy);
	return copy;
}

/* May the program have `copy` name what fd names? What it named is forgotten then. */
static bool makes_room(int fd, int copy)
{
	if (vsn_hidden(fd) || vsn_hidden(copy)) {
		errno = EBADF;
		return false;
	}
	if (fd != copy && copy < vsn_noted_end() && vsn_real.fcntl(fd, F_GETFD) >= 0)
		vsn_forget(copy);
	return true;
}

VSN_EXPORT int dup(int fd)
{
	return copied(fd, vsn_real.dup(fd));
}

VSN_EXPORT int dup2(int fd, int copy)
{
	return makes_room(fd, copy) ? copied(fd, vsn_real.dup2(fd, copy)) : -1;
}

#ifdef VSN_PRELOAD
VSN_EXPORT int __dup2(int fd, int copy)
{
	return dup2(fd, copy);
}
#endif

VSN_EXPORT int dup3(int fd, int copy, int flags)
{
	return makes_room(fd, copy) ? copied(fd, vsn_real.dup3(fd, copy, flags)) : -1;
}

/* `arg` is a number or an address, as large as a register either way. */
static int control(int fd, int command, void *arg)
{
	int result = vsn_real.fcntl(fd, command, arg);
	return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}

VSN_EXPORT int fcntl(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *arg = va_arg(more, void *);
	va_end(more);
	return control(fd, command, arg);
}

VSN_EXPORT int fcntl64(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *arg = va_arg(more, void *);
	va_end(more);
	return control(fd, command, arg);
}

#ifdef VSN_PRELOAD
VSN_EXPORT int __fcntl(int fd, int command, ...)
{
	va_list more;
	va_start(more, command);
	void *arg = va_arg(more, void *);
	va_end(more);
	return control(fd, command, arg);
}
#endif

/* --- to and from other processes -------------------------------------------------------------- */

static void every_fd(const struct msghdr *message_, void (*visit)(int fd))
{
	/* the macros only read */
	struct msghdr *message = (struct msghdr *)(uintptr_t)message_;
	int error = errno;
	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part;
	     part = CMSG_NXTHDR(message, part)) {
		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
			visit(fd);
		}
	}
	errno = error;
}

static void is_passed(int fd)
{
	struct vsn_session *session = vsn_of(fd);
	if (session)
		vsn_passed(session);
}

VSN_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	if (message && message->msg_controllen)
		every_fd(message, is_passed);
	return vsn_real.sendmsg(fd, message, flags);
}

VSN_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	for (unsigned i = 0; messages && i < count; i++)
		if (messages[i].msg_hdr.msg_controllen)
			every_fd(&messages[i].msg_hdr, is_passed);
	return vsn_real.sendmmsg(fd, messages, count, flags);
}

VSN_EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t bytes = vsn_real.recvmsg(fd, message, flags);
	if (bytes >= 0 && message->msg_controllen)
		every_fd(message, look_at_stranger);
	return bytes;
}

VSN_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags,
			struct timespec *timeout)
{
	int received = vsn_real.recvmmsg(fd, messages, count, flags, timeout);
	for (int i = 0; i < received; i++)
		if (messages[i].msg_hdr.msg_controllen)
			every_fd(&messages[i].msg_hdr, look_at_stranger);
	return received;
}
