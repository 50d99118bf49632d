#include "client_view.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client_memory.h"

/* NULL: errno says why. The memory is sealed by the keeper, which made it: it cannot shrink. */
static struct client_memory *header_map(int fd)
{
	struct client_memory *memory;
	struct stat file;

	if (fstat(fd, &file))
		return NULL;
	if (file.st_size < CLIENT_HEADER_BYTES) {
		errno = EINVAL;
		return NULL;
	}
	memory = mmap(NULL, CLIENT_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (load_shared(&memory->magic) != CLIENT_MAGIC) {
		munmap(memory, CLIENT_HEADER_BYTES);
		errno = EINVAL;
		return NULL;
	}
	return memory;
}

static void add(struct client_view *sum, const struct client_ring_stats *ring)
{
	sum->syncs += load_shared(&ring->syncs);
	sum->sleeps += load_shared(&ring->sleeps);
	sum->invalid += load_shared(&ring->invalid);
}

int client_view_read(int memory, struct client_view *out)
{
	struct client_memory *header = header_map(memory);

	*out = (struct client_view){0};
	if (!header)
		return -errno;
	for (unsigned ring = 0; ring < CLIENT_RINGS_MAX; ring++) {
		add(out, &header->tx[ring]);
		add(out, &header->rx[ring]);
		out->full += load_shared(&header->outbox[ring].full);
	}
	munmap(header, CLIENT_HEADER_BYTES);
	return 0;
}

int client_view_gone(int memory)
{
	struct client_memory *header = header_map(memory);

	if (!header)
		return -errno;
	__atomic_store_n(&header->gone, 1, __ATOMIC_RELEASE);
	munmap(header, CLIENT_HEADER_BYTES);
	return 0;
}
