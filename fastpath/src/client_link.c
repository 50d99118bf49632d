#include "client_link.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client_memory.h"

static_assert((int)CLIENT_LINK_FDS == 1 + 2 * CLIENT_RINGS_MAX, "the most there can be");
static_assert((int)CLIENT_LINK_LANE_BYTES_MIN == (int)LANE_BYTES_MIN, "lane.h is not for Python");

int client_link_make(const char *name, uint32_t tx_rings, uint32_t rx_rings, uint32_t outbox_bytes,
		     uint32_t inbox_bytes, int fds[])
{
	unsigned bells = client_bells(tx_rings, rx_rings);
	int status;

	fds[0] = client_memory_make(name, tx_rings, rx_rings, outbox_bytes, inbox_bytes);
	if (fds[0] < 0)
		return fds[0];
	status = client_bells_make(bells, &fds[1], &fds[1 + bells]);
	if (status) {
		close(fds[0]);
		return status;
	}
	return (int)(1 + 2 * bells);
}

static struct client_memory *header_map(int memory)
{
	void *header;
	struct stat file;

	if (fstat(memory, &file) < 0)
		return NULL;
	if (file.st_size < CLIENT_HEADER_BYTES) {
		errno = EINVAL;
		return NULL;
	}
	header = mmap(NULL, CLIENT_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	return header == MAP_FAILED ? NULL : header;
}

int client_link_tell(int memory, uint32_t direct, int news)
{
	struct client_memory *header = header_map(memory);

	if (!header)
		return -errno;
	__atomic_store_n(&header->direct, direct, __ATOMIC_SEQ_CST);
	if (news)
		__atomic_fetch_add(&header->news, 1, __ATOMIC_SEQ_CST);
	munmap(header, CLIENT_HEADER_BYTES);
	return 0;
}

int client_link_counts(int memory, struct client_link_count counts[2])
{
	struct client_memory *header = header_map(memory);

	counts[0] = counts[1] = (struct client_link_count){0};
	if (!header)
		return -errno;
	for (unsigned ring = 0; ring < CLIENT_RINGS_MAX; ring++) {
		counts[0].frames += load_shared(&header->outbox[ring].frames);
		counts[0].bytes += load_shared(&header->outbox[ring].bytes);
		counts[1].frames += load_shared(&header->inbox[ring].frames);
		counts[1].bytes += load_shared(&header->inbox[ring].bytes);
	}
	munmap(header, CLIENT_HEADER_BYTES);
	return 0;
}
