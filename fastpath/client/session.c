/*
 * The table of fds and the sessions that they name. Lock-free, because a signal handler may close
 * an fd while its thread opens one: a session is claimed and given back by one atomic operation,
 * and so is an entry of the table.
 */
#include "core.h"
#include "sys.h"

#include <string.h>
#include <sys/un.h>

enum { CHUNK = 1024, CHUNKS = VSN_FDS_MAX / CHUNK, SESSIONS_MAX = 4096 };

/* fd -> session, in chunks that are made when first needed and never go */
static _Atomic(_Atomic(struct vsn_session *) *) chunks[CHUNKS];
static _Atomic(struct vsn_session *) sessions;
static _Atomic unsigned sessions_end; /* behind every one that was ever used */

bool own_trylock(struct own_lock *lock)
{
	uint32_t me = (uint32_t)getpid(), holder = 0;

	/* a holder that is another process: a copy of a lock that a thread of our parent held */
	return atomic_compare_exchange_strong(&lock->holder, &holder, me) ||
	       (holder != me && atomic_compare_exchange_strong(&lock->holder, &holder, me));
}

void own_lock(struct own_lock *lock)
{
	while (!own_trylock(lock))
		(void)sys_poll(NULL, 0, 1);
}

void own_unlock(struct own_lock *lock)
{
	atomic_store(&lock->holder, 0);
}

/* NULL: fd is out of range, or `make` is false and nothing was there ever. */
static _Atomic(struct vsn_session *) *entry_of(int fd, bool make)
{
	_Atomic(struct vsn_session *) *chunk;
	_Atomic(struct vsn_session *) *none = NULL;
	size_t bytes = CHUNK * sizeof(*chunk);

	if (fd < 0 || fd >= VSN_FDS_MAX)
		return NULL;
	chunk = atomic_load_explicit(&chunks[fd / CHUNK], memory_order_acquire);
	if (!chunk) {
		if (!make)
			return NULL;
		chunk = sys_map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!chunk)
			return NULL;
		if (!atomic_compare_exchange_strong(&chunks[fd / CHUNK], &none, chunk)) {
			sys_unmap(chunk, bytes);
			chunk = none;
		}
	}
	return &chunk[fd % CHUNK];
}

static struct vsn_session *sessions_all(void)
{
	size_t bytes = SESSIONS_MAX * sizeof(struct vsn_session);
	struct vsn_session *all = atomic_load(&sessions);
	struct vsn_session *none = NULL;

	if (all)
		return all;
	all = sys_map(bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all && !atomic_compare_exchange_strong(&sessions, &none, all)) {
		sys_unmap(all, bytes);
		all = none;
	}
	return all;
}

static void raise_end(unsigned end)
{
	unsigned was = atomic_load(&sessions_end);

	while (was < end && !atomic_compare_exchange_weak(&sessions_end, &was, end))
		;
}

/* A new session, named by fd. */
static struct vsn_session *session_new(int fd)
{
	_Atomic(struct vsn_session *) *entry = entry_of(fd, true);
	struct vsn_session *all = sessions_all();

	if (!entry || !all)
		return NULL;
	for (unsigned i = 0; i < SESSIONS_MAX; i++) {
		struct vsn_session *session = &all[i];
		uint32_t unused = 0;

		if (!atomic_compare_exchange_strong(&session->used, &unused, 1))
			continue;
		raise_end(i + 1);
		atomic_store(&session->fd, fd);
		atomic_store(&session->kept, -1);
		atomic_store(&session->lock.holder, 0);
		atomic_store(&session->binding_lock.holder, 0);
		atomic_store(&session->bound, false);
		atomic_store(&session->gone, false);
		atomic_store(&session->asleep, 0);
		atomic_store(&session->late, 0);
		atomic_store(&session->calls, 1); /* of the fds */
		atomic_store(&session->fds, 1);
		atomic_store(entry, session);
		return session;
	}
	return NULL;
}

/* Whoever brings `calls` to 0, the last close or the last call, ends it. */
void session_leave(struct vsn_session *session)
{
	if (atomic_fetch_sub(&session->calls, 1) != 1)
		return;
	bind_end(session);
	mapped_forget(session);
	atomic_store(&session->used, 0);
}

bool session_enter(struct vsn_session *session)
{
	uint32_t calls = atomic_load_explicit(&session->calls, memory_order_relaxed);

	while (calls)
		if (atomic_compare_exchange_weak(&session->calls, &calls, calls + 1))
			return true;
	return false;
}

void session_all(void (*visit)(struct vsn_session *session))
{
	struct vsn_session *all = atomic_load(&sessions);

	for (unsigned i = 0; i < atomic_load(&sessions_end); i++)
		if (session_enter(&all[i])) {
			visit(&all[i]);
			session_leave(&all[i]);
		}
}

int vsn_open(bool cloexec)
{
	int fd = wire_connect();

	if (fd < 0)
		return fd;
	if (!cloexec)
		(void)sys_fcntl(fd, F_SETFD, 0);
	vsn_closed(fd); /* an entry of an fd that was closed behind our back */
	if (!session_new(fd)) {
		sys_close(fd);
		return -EMFILE;
	}
	return fd;
}

/* Whether fd is connected to a socket of a switch. */
static bool is_connection(int fd)
{
	static const char name[] = "/" WIRE_SOCKET;
	struct sockaddr_un peer;
	socklen_t bytes = sizeof(peer);
	size_t length;

	memset(&peer, 0, sizeof(peer));
	if (SYS_RESULT(getpeername(fd, (struct sockaddr *)&peer, &bytes)) < 0 ||
	    peer.sun_family != AF_UNIX)
		return false;
	length = strnlen(peer.sun_path, sizeof(peer.sun_path));
	return length >= sizeof(name) - 1 &&
	       memcmp(peer.sun_path + length - (sizeof(name) - 1), name, sizeof(name) - 1) == 0;
}

static struct vsn_session *adopt_fd(int fd)
{
	static struct own_lock adopting;
	struct vsn_session *session = NULL;

	if (!is_connection(fd))
		return NULL;
	own_lock(&adopting);
	session = vsn_find(fd, false);
	if (!session)
		session = session_new(fd);
	own_unlock(&adopting);
	if (session && !atomic_load(&session->bound))
		bind_described(session); /* not bound, or not our user's: a session all the same */
	return session;
}

struct vsn_session *vsn_find(int fd, bool adopt)
{
	_Atomic(struct vsn_session *) *entry = entry_of(fd, false);
	struct vsn_session *session =
	    entry ? atomic_load_explicit(entry, memory_order_acquire) : NULL;

	return session || !adopt ? session : adopt_fd(fd);
}

void vsn_copied(int fd, int copy)
{
	struct vsn_session *session = vsn_find(fd, false);
	_Atomic(struct vsn_session *) *entry;

	if (fd == copy)
		return;
	vsn_closed(copy);
	entry = session ? entry_of(copy, true) : NULL;
	if (!entry)
		return;
	atomic_fetch_add(&session->fds, 1);
	atomic_store(entry, session);
}

/* Calls visit(fd) for every fd of the session until it returns true. */
void session_visit(struct vsn_session *session, bool (*visit)(int fd, void *data), void *data)
{
	for (int chunk = 0; chunk < CHUNKS; chunk++) {
		_Atomic(struct vsn_session *) *entries = atomic_load(&chunks[chunk]);

		for (int i = 0; entries && i < CHUNK; i++)
			if (atomic_load(&entries[i]) == session && visit(chunk * CHUNK + i, data))
				return;
	}
}

static bool take_fd(int fd, void *session)
{
	atomic_store(&((struct vsn_session *)session)->fd, fd);
	return true;
}

void vsn_closed(int fd)
{
	_Atomic(struct vsn_session *) *entry = entry_of(fd, false);
	struct vsn_session *session = entry ? atomic_exchange(entry, NULL) : NULL;

	if (!session)
		return;
	if (atomic_fetch_sub(&session->fds, 1) == 1)
		session_leave(session);
	else if (atomic_load(&session->fd) == fd)
		session_visit(session, take_fd, session);
}
