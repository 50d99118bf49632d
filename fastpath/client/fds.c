#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "real.h"

/* A word an fd, in pages that come when they are needed. Beyond FDS_MAX an fd has no marks. */
enum { PAGE_FDS = 4096, PAGE_BYTES = PAGE_FDS * 4, PAGES = 256, FDS_MAX = PAGE_FDS * PAGES };
enum { HIDDEN = 1, STRANGE = 2, AGE = 4 /* and the bits above */ };
/* Where hidden fds begin, at best: loops over small numbers end before. */
enum { HIDE_FROM = 512, HIDE_ROOM = 4096 };

static _Atomic(_Atomic uint32_t *) pages[PAGES];
static atomic_int hidden_end; /* above every hidden fd there ever was */

static _Atomic uint32_t *mark_of(int fd, bool make)
{
	if (fd < 0 || fd >= FDS_MAX)
		return NULL;
	unsigned number = (unsigned)fd / PAGE_FDS;
	_Atomic uint32_t *page = atomic_load(&pages[number]);
	if (!page && make) {
		void *fresh = vsn_real.mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (fresh == MAP_FAILED)
			return NULL;
		if (atomic_compare_exchange_strong(&pages[number], &page, fresh))
			page = fresh;
		else
			munmap(fresh, PAGE_BYTES);
	}
	return page ? &page[fd % PAGE_FDS] : NULL;
}

static bool marked(int fd, uint32_t bit)
{
	_Atomic uint32_t *mark = mark_of(fd, false);
	return mark && (atomic_load_explicit(mark, memory_order_relaxed) & bit);
}

static bool set_mark(int fd, uint32_t bit, bool on)
{
	_Atomic uint32_t *mark = mark_of(fd, on);
	if (!mark)
		return !on;
	if (on)
		atomic_fetch_or(mark, bit);
	else
		atomic_fetch_and(mark, ~bit);
	return true;
}

/* Near the top of what the process may have, with room for many. */
static int hide_from(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return HIDE_FROM;
	rlim_t top = limit.rlim_cur < FDS_MAX ? limit.rlim_cur : FDS_MAX;
	if (top > 2 * HIDE_ROOM)
		return (int)(top - HIDE_ROOM);
	return (int)(top / 2);
}

int vsn_hide(int fd)
{
	int moved = vsn_real.fcntl(fd, F_DUPFD_CLOEXEC, hide_from());
	int error = moved < 0 ? errno : 0;
	vsn_real.close(fd);
	if (error)
		return -error;
	if (!set_mark(moved, HIDDEN, true)) {
		vsn_real.close(moved);
		return -ENOMEM;
	}
	int end = atomic_load(&hidden_end);
	while (end <= moved && !atomic_compare_exchange_weak(&hidden_end, &end, moved + 1))
		;
	return moved;
}

bool vsn_hidden(int fd)
{
	return marked(fd, HIDDEN);
}

void vsn_hidden_close(int fd)
{
	if (!vsn_hidden(fd))
		return;
	set_mark(fd, HIDDEN, false);
	vsn_real.close(fd);
}

int vsn_hidden_from(int first)
{
	int end = atomic_load(&hidden_end);
	for (int fd = first < 0 ? 0 : first; fd < end; fd++) {
		if (!atomic_load(&pages[(unsigned)fd / PAGE_FDS]))
			fd |= PAGE_FDS - 1; /* nothing in all of this page */
		else if (vsn_hidden(fd))
			return fd;
	}
	return -1;
}

void vsn_strange_set(int fd, bool strange)
{
	set_mark(fd, STRANGE, strange);
}

bool vsn_strange(int fd)
{
	return marked(fd, STRANGE);
}

unsigned vsn_age(int fd)
{
	_Atomic uint32_t *mark = mark_of(fd, false);
	return mark ? atomic_load(mark) / AGE : 0;
}

void vsn_ages(int fd)
{
	_Atomic uint32_t *mark = mark_of(fd, true);
	if (mark)
		atomic_fetch_add(mark, AGE);
}
