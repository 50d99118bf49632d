/* The memory of a forwarding database, for fdb.h. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fdb.h"

int fdb_map(int fd, uint32_t entries_max, void **memory, struct error *err)
{
	uint64_t bytes = fdb_bytes(entries_max);
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	struct stat file;
	void *map;

	if (fd >= 0) {
		if (fstat(fd, &file) < 0)
			return error_set(err, errno, "fdb: the memory's file cannot be examined");
		if (file.st_size < 0 || (uint64_t)file.st_size < bytes)
			return error_set(
			    err, EINVAL,
			    "fdb: file of %lld bytes, a table of %u entries needs %llu",
			    (long long)file.st_size, entries_max, (unsigned long long)bytes);
	}
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return error_set(err, errno, "fdb: %llu bytes of memory cannot be mapped",
				 (unsigned long long)bytes);
	*memory = map;
	return 0;
}

void fdb_unmap(void *memory, uint32_t entries_max)
{
	munmap(memory, fdb_bytes(entries_max));
}
