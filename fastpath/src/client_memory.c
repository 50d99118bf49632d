/* Runs on: keeper, control thread, netmap programs; bells on workers too. */
#include "client_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, NAME_MAX_BYTES = 64, TAKES_MAX = 4 };

static bool lane_bytes_sound(uint32_t bytes)
{
	return bytes >= LANE_BYTES_MIN && bytes <= LANE_BYTES_MAX && !(bytes & (bytes - 1));
}

static bool geometry_sound(uint32_t tx_rings, uint32_t rx_rings, uint32_t outbox_bytes,
			   uint32_t inbox_bytes)
{
	return tx_rings >= 1 && tx_rings <= CLIENT_RINGS_MAX && rx_rings >= 1 &&
	       rx_rings <= CLIENT_RINGS_MAX && lane_bytes_sound(outbox_bytes) &&
	       lane_bytes_sound(inbox_bytes);
}

/* All of it is there from the beginning: a worker that touches it must not find none left. */
static int memory_file(const char *name, size_t bytes)
{
	char title[NAME_MAX_BYTES];
	int fd, status;

	snprintf(title, sizeof(title), "vswitch-client-%s", name);
	fd = memfd_create(title, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	status = posix_fallocate(fd, 0, (off_t)bytes);
	if (!status && fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		status = errno;
	if (status) {
		close(fd);
		return -status;
	}
	return fd;
}

int client_memory_make(const char *name, uint32_t tx_rings, uint32_t rx_rings,
		       uint32_t outbox_bytes, uint32_t inbox_bytes)
{
	struct client_memory *memory;
	int fd;

	if (!geometry_sound(tx_rings, rx_rings, outbox_bytes, inbox_bytes))
		return -EINVAL;
	fd = memory_file(name, client_memory_bytes(tx_rings, rx_rings, outbox_bytes, inbox_bytes));
	if (fd < 0)
		return fd;
	memory = mmap(NULL, CLIENT_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		int status = -errno;

		close(fd);
		return status;
	}
	memory->magic = CLIENT_MAGIC;
	memory->version = CLIENT_VERSION;
	memory->tx_rings = tx_rings;
	memory->rx_rings = rx_rings;
	memory->outbox_bytes = outbox_bytes;
	memory->inbox_bytes = inbox_bytes;
	munmap(memory, CLIENT_HEADER_BYTES);
	return fd;
}

/* Nobody can cut it short under a mapping: that would end the process that touches it. */
static int file_size(int fd, size_t *bytes)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat file;

	if (fstat(fd, &file) < 0)
		return -errno;
	if (seals < 0 || (seals & SEALS) != SEALS || file.st_size < CLIENT_HEADER_BYTES)
		return -EINVAL;
	*bytes = (size_t)file.st_size;
	return 0;
}

/* Loads each field once. */
static int geometry_read(const struct client_memory *memory, size_t bytes, struct client_map *map)
{
	if (load_shared(&memory->magic) != CLIENT_MAGIC)
		return -EINVAL;
	if (load_shared(&memory->version) != CLIENT_VERSION)
		return -EPROTO;
	map->tx_rings = load_shared(&memory->tx_rings);
	map->rx_rings = load_shared(&memory->rx_rings);
	map->outbox_bytes = load_shared(&memory->outbox_bytes);
	map->inbox_bytes = load_shared(&memory->inbox_bytes);
	if (!geometry_sound(map->tx_rings, map->rx_rings, map->outbox_bytes, map->inbox_bytes) ||
	    bytes != client_memory_bytes(map->tx_rings, map->rx_rings, map->outbox_bytes,
					 map->inbox_bytes))
		return -EINVAL;
	return 0;
}

int client_map_open(int fd, struct client_map *map)
{
	void *base;
	int status;

	*map = (struct client_map){0};
	status = file_size(fd, &map->bytes);
	if (status)
		return status;
	base = mmap(NULL, map->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	status = geometry_read(base, map->bytes, map);
	if (status) {
		munmap(base, map->bytes);
		*map = (struct client_map){0};
		return status;
	}
	map->memory = base;
	return 0;
}

void client_map_close(struct client_map *map)
{
	if (map->memory)
		munmap(map->memory, map->bytes);
	*map = (struct client_map){0};
}

/* --- bells --------------------------------------------------------------------------------------
 */

/*
 * Where the kernel can say so (Linux 6.16), no fd travels by a bell: one that lies in it would keep
 * what it names for as long as nobody takes the ring back.
 */
static void bell_carries_nothing(int end)
{
	int off = 0;

	(void)setsockopt(end, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
}

int client_bells_make(unsigned count, int *side1, int *side0)
{
	for (unsigned i = 0; i < count; i++) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0) {
			int status = -errno;

			while (i--) {
				close(side1[i]);
				close(side0[i]);
			}
			return status;
		}
		bell_carries_nothing(ends[0]);
		bell_carries_nothing(ends[1]);
		side1[i] = ends[0];
		side0[i] = ends[1];
	}
	return 0;
}

void client_bell_ring(int end)
{
	while (send(end, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

bool client_bell_take(int end)
{
	char rings[64];
	ssize_t got = sizeof(rings);

	/* whoever rings faster than this means no good, and wakes nobody but itself */
	for (unsigned i = 0; i < TAKES_MAX && got == (ssize_t)sizeof(rings); i++)
		got = recv(end, rings, sizeof(rings), MSG_DONTWAIT);
	return got != 0;
}
