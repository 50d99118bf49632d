/*
 * A region: the memory with netmap_ifs, rings and buffers that a program maps, behind a head that
 * it does not see. One memfd; all processes with a connection to one of its ports may map it.
 */
#include "core.h"
#include "sys.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define REGION_MAGIC 0x6e6f696765726e76ull

enum {
	REGION_VERSION = 2,
	PAGE = 4096,
	CLUSTER_MAX = 4 << 20, /* the module's pieces of a pool */
	OBJECT_ALIGN = 64,
	IF_BYTES = 1024, /* the module's defaults */
	RING_BYTES = 5 * PAGE,
	BUFFER_BYTES = 2048,
	PIPES = 2 /* that a port's region has room for */
};

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

static uint32_t larger(uint64_t a, uint64_t b)
{
	return (uint32_t)(a > b ? a : b);
}

/* A pool comes in clusters of whole pages; what is left of the last one becomes objects, too. */
static int pool_shape(struct region_shape *shape, enum region_pool_kind kind, uint64_t total,
		      uint32_t object_bytes)
{
	uint64_t in_cluster = 1;

	object_bytes = (object_bytes + OBJECT_ALIGN - 1) & ~(uint32_t)(OBJECT_ALIGN - 1);
	while (in_cluster * object_bytes % PAGE && in_cluster * object_bytes <= CLUSTER_MAX)
		in_cluster++;
	if (in_cluster * object_bytes > CLUSTER_MAX) { /* larger than any of the module's */
		object_bytes = (uint32_t)page_up(object_bytes);
		in_cluster = 1;
	}
	total = (total + in_cluster - 1) / in_cluster * in_cluster;
	if (total > UINT32_MAX / 2)
		return -ENOMEM;
	shape->pools[kind].total = (uint32_t)total;
	shape->pools[kind].object_bytes = object_bytes;
	shape->pools[kind].at = shape->memsize;
	shape->memsize += total * object_bytes;
	return 0;
}

int region_shape_private(struct region_shape *shape, uint32_t tx_rings, uint32_t tx_slots,
			 uint32_t rx_rings, uint32_t rx_slots, uint32_t extra_bufs)
{
	uint64_t tx = tx_rings + 1, rx = rx_rings + 1; /* with the host's, which are not there */
	uint32_t slots = larger(tx_slots, rx_slots);
	uint64_t buffers =
	    (4 * PIPES + rx) * rx_slots + (4 * PIPES + tx) * tx_slots + 2 + extra_bufs;
	int error;

	memset(shape, 0, sizeof(*shape));
	error =
	    pool_shape(shape, POOL_IF, 2 + 4 * PIPES,
		       larger(IF_BYTES, sizeof(struct netmap_if) + (tx + rx) * sizeof(int64_t)));
	if (!error)
		error = pool_shape(shape, POOL_RING, tx + rx + 8 * PIPES,
				   larger(RING_BYTES, sizeof(struct netmap_ring) +
							  slots * sizeof(struct netmap_slot)));
	if (!error)
		error = pool_shape(shape, POOL_BUFFER, larger(4098, buffers), BUFFER_BYTES);
	return error;
}

void region_shape_global(struct region_shape *shape)
{
	memset(shape, 0, sizeof(*shape));
	pool_shape(shape, POOL_IF, 100, IF_BYTES);
	pool_shape(shape, POOL_RING, 200, 9 * PAGE);
	pool_shape(shape, POOL_BUFFER, 163840, BUFFER_BYTES);
}

int region_memory(void)
{
	return (int)SYS_RESULT(memfd_create("netmap", MFD_CLOEXEC | MFD_ALLOW_SEALING));
}

void region_lock_make(pthread_mutex_t *lock)
{
	pthread_mutexattr_t kind;

	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(lock, &kind);
	pthread_mutexattr_destroy(&kind);
}

/* What a killed holder left behind is whole enough: at worst an object is taken by nobody. */
static bool shared_lock(pthread_mutex_t *lock)
{
	if (pthread_mutex_lock(lock) != EOWNERDEAD)
		return false;
	pthread_mutex_consistent(lock);
	return true;
}

void region_lock(struct region_head *head)
{
	shared_lock(&head->lock);
}

void region_unlock(struct region_head *head)
{
	pthread_mutex_unlock(&head->lock);
}

void kring_lock(struct kring *kring, bool *died)
{
	*died = shared_lock(&kring->lock);
}

static size_t bitmap_bytes(uint32_t total)
{
	return (total + 63) / 64 * sizeof(uint64_t);
}

static size_t head_bytes(const struct region_shape *shape)
{
	size_t bytes = sizeof(struct region_head);

	for (unsigned i = 0; i < POOLS; i++)
		bytes += bitmap_bytes(shape->pools[i].total);
	return page_up(bytes);
}

/* The first time. The memory is all zeros. */
static void lay_out(struct region_head *head, const struct region_shape *shape, uint32_t mem_id)
{
	size_t bitmap_at = sizeof(*head);

	head->version = REGION_VERSION;
	head->mem_id = mem_id;
	head->head_bytes = head_bytes(shape);
	head->memsize = shape->memsize;
	head->external = shape->external;
	for (unsigned i = 0; i < POOLS; i++) {
		head->pools[i] = (struct region_pool){.total = shape->pools[i].total,
						      .object_bytes = shape->pools[i].object_bytes,
						      .at = shape->pools[i].at,
						      .bitmap_at = bitmap_at};
		bitmap_at += bitmap_bytes(shape->pools[i].total);
	}
	region_lock_make(&head->lock);
	for (unsigned i = 0; i < NETMAP_FIRST_BUFFER; i++)
		region_take(head, POOL_BUFFER);
	__atomic_store_n(&head->magic, REGION_MAGIC, __ATOMIC_RELEASE);
}

/* Its size, which cannot change any more; negative errno. */
static int64_t sized(int fd, const struct region_shape *shape)
{
	struct stat memory;
	uint64_t bytes;

	if (fstat(fd, &memory) < 0)
		return -EBADF;
	if (memory.st_size == 0 && shape) {
		bytes = head_bytes(shape) + (shape->external ? 0 : shape->memsize);
		if (ftruncate(fd, (off_t)bytes) < 0)
			return -ENOMEM;
		(void)sys_fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
		return (int64_t)bytes;
	}
	if (!(sys_fcntl(fd, F_GET_SEALS, 0) & F_SEAL_SHRINK) ||
	    (size_t)memory.st_size < sizeof(struct region_head))
		return -EINVAL;
	return memory.st_size;
}

static bool head_sane(const struct region_head *head, const struct region *region)
{
	const struct region_pool *buffers = &head->pools[POOL_BUFFER];

	if (head->version != REGION_VERSION || region->head_bytes < sizeof(*head) ||
	    region->head_bytes > region->mapped_bytes)
		return false;
	for (unsigned i = 0; i < POOLS; i++)
		if (!head->pools[i].object_bytes || head->pools[i].at > head->memsize ||
		    head->pools[i].total >
			(head->memsize - head->pools[i].at) / head->pools[i].object_bytes ||
		    head->pools[i].bitmap_at + bitmap_bytes(head->pools[i].total) >
			region->head_bytes)
			return false;
	return buffers->total > NETMAP_FIRST_BUFFER &&
	       (head->external || region->mapped_bytes - region->head_bytes >= head->memsize);
}

static int open_locked(struct region *region, int fd, const struct region_shape *shape,
		       uint32_t mem_id, uint8_t *external)
{
	int64_t bytes = sized(fd, shape);
	struct region_head *head;

	if (bytes < 0)
		return (int)bytes;
	head = sys_map((size_t)bytes, MAP_SHARED, fd, 0);
	if (!head)
		return -ENOMEM;
	region->head = head;
	region->mapped_bytes = (size_t)bytes;
	if (__atomic_load_n(&head->magic, __ATOMIC_ACQUIRE) != REGION_MAGIC && shape)
		lay_out(head, shape, mem_id);
	region->head_bytes = head->head_bytes;
	if (head->magic != REGION_MAGIC || !head_sane(head, region)) {
		region_close(region);
		return -EINVAL;
	}
	/* a process that was given the fd does not have its maker's own memory: NULL */
	region->base = head->external ? external : (uint8_t *)head + region->head_bytes;
	region->memsize = head->memsize;
	region->buffers_at = head->pools[POOL_BUFFER].at;
	region->buffers = head->pools[POOL_BUFFER].total;
	region->buffer_bytes = head->pools[POOL_BUFFER].object_bytes;
	return 0;
}

int region_open(struct region *region, int fd, const struct region_shape *shape, uint32_t mem_id,
		uint8_t *external)
{
	/* two that register the same port at once lay it out once: a lock that ends with us */
	static struct own_lock opening;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int error;

	memset(region, 0, sizeof(*region));
	own_lock(&opening);
	while (sys_fcntl(fd, F_SETLKW, (unsigned long)&lock) == -EINTR)
		;
	error = open_locked(region, fd, shape, mem_id, external);
	lock.l_type = F_UNLCK;
	(void)sys_fcntl(fd, F_SETLK, (unsigned long)&lock);
	own_unlock(&opening);
	return error;
}

void region_close(struct region *region)
{
	sys_unmap(region->head, region->mapped_bytes);
	memset(region, 0, sizeof(*region));
}

static uint64_t *bitmap_of(struct region_head *head, enum region_pool_kind kind)
{
	return (uint64_t *)((uint8_t *)head + head->pools[kind].bitmap_at);
}

int64_t region_take(struct region_head *head, enum region_pool_kind kind)
{
	struct region_pool *pool = &head->pools[kind];
	uint64_t *bitmap = bitmap_of(head, kind);
	uint32_t words = (pool->total + 63) / 64;

	for (uint32_t i = pool->hint; i < words; i++) {
		int64_t number = (int64_t)i * 64;

		if (bitmap[i] == UINT64_MAX)
			continue;
		pool->hint = i;
		number += __builtin_ctzll(~bitmap[i]);
		if (number >= pool->total)
			break;
		bitmap[i] |= 1ull << (number % 64);
		pool->taken++;
		return number;
	}
	return -1;
}

void region_give(struct region_head *head, enum region_pool_kind kind, int64_t number)
{
	struct region_pool *pool = &head->pools[kind];
	uint64_t bit = 1ull << (number % 64);
	uint64_t *word;

	if (number < (kind == POOL_BUFFER ? NETMAP_FIRST_BUFFER : 0) || number >= pool->total)
		return;
	word = &bitmap_of(head, kind)[number / 64];
	if (!(*word & bit))
		return; /* given back twice, by whoever wrote a slot or a list of extra buffers */
	*word &= ~bit;
	pool->taken--;
	if (number / 64 < pool->hint)
		pool->hint = (uint32_t)(number / 64);
}
