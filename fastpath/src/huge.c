/* Runs on: see huge.h. */
#include "huge.h"

#include <stdint.h>
#include <sys/mman.h>

static const size_t HUGE_BYTES = (size_t)2 << 20;

static size_t whole(size_t bytes)
{
	return (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
}

/* The kernel aligns to small pages: one huge page more is mapped, and what is beside goes. */
void *huge_map(size_t bytes)
{
	size_t wanted = whole(bytes), before;
	char *memory = mmap(NULL, wanted + HUGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	before = whole((uintptr_t)memory) - (uintptr_t)memory;
	if (before)
		munmap(memory, before);
	if (before < HUGE_BYTES)
		munmap(memory + before + wanted, HUGE_BYTES - before);
	madvise(memory + before, wanted, MADV_HUGEPAGE);
	return memory + before;
}

void huge_unmap(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, whole(bytes));
}
