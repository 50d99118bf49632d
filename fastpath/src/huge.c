/* Runs on: see huge.h. */
#include "huge.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

static const size_t HUGE_BYTES = (size_t)2 << 20;

static size_t whole(size_t bytes)
{
	return (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
}

/* The kernel aligns to small pages: one huge page more is mapped, and what is beside goes. */
static void *map_aligned(size_t bytes, int protection)
{
	char *memory = mmap(NULL, bytes + HUGE_BYTES, protection,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (memory == MAP_FAILED)
		return NULL;
	before = whole((uintptr_t)memory) - (uintptr_t)memory;
	if (before)
		munmap(memory, before);
	if (before < HUGE_BYTES)
		munmap(memory + before + bytes, HUGE_BYTES - before);
	return memory + before;
}

void *huge_map(size_t bytes)
{
	void *memory = map_aligned(whole(bytes), PROT_READ | PROT_WRITE);

	if (memory)
		madvise(memory, whole(bytes), MADV_HUGEPAGE);
	return memory;
}

void *huge_map_file(int fd, size_t bytes)
{
	void *at = map_aligned(whole(bytes), PROT_NONE), *memory;
	int reason;

	if (!at)
		return NULL;
	memory = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (memory == MAP_FAILED) {
		reason = errno;
		huge_unmap(at, bytes);
		errno = reason;
		return NULL;
	}
	madvise(memory, bytes, MADV_HUGEPAGE);
	return memory;
}

void huge_unmap(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, whole(bytes));
}
