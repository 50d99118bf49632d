/* The memory of a forwarding database, for fdb.h. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fdb.h"
#include "huge.h"

int fdb_map(int fd, uint32_t entries_max, void **memory, struct error *err)
{
	uint64_t bytes = fdb_bytes(entries_max);
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
	/* lookups are all over the table: with small pages most of them would miss the TLB, too */
	map = fd < 0 ? huge_map(bytes) : huge_map_file(fd, bytes);
	if (!map)
		return error_set(err, errno, "fdb: %llu bytes of memory cannot be mapped",
				 (unsigned long long)bytes);
	/* pages that cannot be had now come when they are touched */
	madvise(map, bytes, MADV_POPULATE_WRITE);
	*memory = map;
	return 0;
}

void fdb_unmap(void *memory, uint32_t entries_max)
{
	huge_unmap(memory, fdb_bytes(entries_max));
}
