/*
 * A mapping keeps its port, as in the module, where it holds the file: whoever closes the last fd
 * of a session that is still mapped is left with one that it does not see, until the last munmap.
 * An exec or an exit ends both by themselves.
 *
 * Without locks, as the table of fds: a signal handler may close and unmap.
 */
#include "core.h"
#include "fds.h"
#include "sys.h"

enum { MAPPINGS_MAX = 1024 };

struct mapping {
	_Atomic(struct vsn_session *) session; /* NULL: free */
	_Atomic uintptr_t from, to;
};

static struct mapping mappings[MAPPINGS_MAX];
static _Atomic unsigned mappings_end; /* behind every one that was ever used */
static struct vsn_session claimed;    /* in an entry that is being filled in */

void vsn_mapped(struct vsn_session *session, void *at, size_t bytes)
{
	for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
		struct mapping *mapping = &mappings[i];
		struct vsn_session *nobody = NULL;
		unsigned end = atomic_load(&mappings_end);

		if (!atomic_compare_exchange_strong(&mapping->session, &nobody, &claimed))
			continue;
		atomic_store(&mapping->from, (uintptr_t)at);
		atomic_store(&mapping->to, (uintptr_t)at + bytes);
		atomic_store(&mapping->session, session);
		while (end <= i && !atomic_compare_exchange_weak(&mappings_end, &end, i + 1))
			;
		return;
	}
}

static bool is_mapped(const struct vsn_session *session)
{
	for (unsigned i = 0; i < atomic_load(&mappings_end); i++)
		if (atomic_load(&mappings[i].session) == session)
			return true;
	return false;
}

void mapped_forget(struct vsn_session *session)
{
	for (unsigned i = 0; i < atomic_load(&mappings_end); i++) {
		struct vsn_session *whose = session;

		atomic_compare_exchange_strong(&mappings[i].session, &whose, NULL);
	}
}

void vsn_keep_mapped(int fd)
{
	struct vsn_session *session = vsn_find(fd, false);
	int copy;

	if (!session || atomic_load(&session->fds) != 1 || !is_mapped(session))
		return;
	copy = sys_fcntl(fd, F_DUPFD_CLOEXEC, 0);
	copy = copy < 0 ? copy : vsn_hide(copy);
	if (copy < 0)
		return;
	vsn_copied(fd, copy);
	atomic_store(&session->kept, copy);
}

/* The mapping's part that is still there; false: none. What is cut out of its middle stays. */
static bool cut(struct mapping *mapping, uintptr_t from, uintptr_t to)
{
	uintptr_t first = atomic_load(&mapping->from), end = atomic_load(&mapping->to);

	if (from <= first && to > first)
		atomic_store(&mapping->from, first = to < end ? to : end);
	if (from < end && to >= end)
		atomic_store(&mapping->to, end = from > first ? from : first);
	return first < end;
}

void vsn_unmapped(void *at, size_t bytes)
{
	uintptr_t from = (uintptr_t)at, to = from + ((bytes + 4095) & ~(size_t)4095);

	for (unsigned i = 0; i < atomic_load(&mappings_end); i++) {
		struct vsn_session *session = atomic_load(&mappings[i].session);
		int kept;

		if (!session || session == &claimed || cut(&mappings[i], from, to) ||
		    !atomic_compare_exchange_strong(&mappings[i].session, &session, NULL) ||
		    is_mapped(session))
			continue;
		kept = atomic_exchange(&session->kept, -1);
		if (kept < 0)
			continue;
		vsn_closed(kept);
		vsn_hidden_close(kept);
	}
}
