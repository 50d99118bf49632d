/*
 * The view of an FDB that programs read: the writer's half.
 */
#include "fdb_view.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* Entries fill half of the table at most. */
static uint32_t buckets_for(uint32_t entries)
{
	uint32_t buckets = 8;

	while ((uint64_t)buckets * FDB_VIEW_WAYS < 2ull * entries)
		buckets *= 2;
	return buckets;
}

int fdb_view_open(uint32_t entries, struct fdb_view **view, int *fd)
{
	uint32_t buckets = buckets_for(entries);
	uint64_t bytes = fdb_view_bytes(buckets);
	struct fdb_view *map;
	int file = memfd_create("vswitch-fdb-view", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int failed;

	if (file < 0)
		return -errno;
	if (ftruncate(file, (off_t)bytes) < 0)
		goto fail;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map == MAP_FAILED)
		goto fail;
	/* in this order: the mapping that is there stays writable, no other one ever is */
	if (fcntl(file, F_ADD_SEALS,
		  F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		failed = -errno;
		munmap(map, bytes);
		close(file);
		return failed;
	}
	map->version = FDB_VIEW_VERSION;
	map->buckets = buckets;
	map->magic = FDB_VIEW_MAGIC;
	*view = map;
	*fd = file;
	return 0;

fail:
	failed = -errno;
	close(file);
	return failed;
}

void fdb_view_close(struct fdb_view *view)
{
	munmap(view, fdb_view_bytes(view->buckets));
}

/* After the entries: who sees the new number sees them. */
static void changed(struct fdb_view *view)
{
	uint64_t changes = atomic_load_explicit(&view->changes, memory_order_relaxed);

	atomic_store_explicit(&view->changes, changes + 1, memory_order_release);
}

void fdb_view_clear(struct fdb_view *view)
{
	for (uint32_t b = 0; b < view->buckets; b++) {
		for (unsigned i = 0; i < FDB_VIEW_WAYS; i++)
			atomic_store_explicit(&view->bucket[b].entry[i], 0, memory_order_relaxed);
	}
	changed(view);
}

void fdb_view_put(struct fdb_view *view, uint64_t key, uint16_t port)
{
	struct fdb_view_bucket *bucket = &view->bucket[fdb_view_home(key, view->buckets)];
	/* where all are taken, the one that goes is not always the same */
	unsigned way = atomic_load_explicit(&view->changes, memory_order_relaxed) % FDB_VIEW_WAYS;

	for (unsigned i = FDB_VIEW_WAYS; i-- > 0;) {
		uint64_t entry = atomic_load_explicit(&bucket->entry[i], memory_order_relaxed);

		if (entry && entry >> 16 == key >> 16) {
			way = i;
			break;
		}
		if (!entry)
			way = i;
	}
	atomic_store_explicit(&bucket->entry[way], key | (port + 1u), memory_order_relaxed);
	changed(view);
}

void fdb_view_drop(struct fdb_view *view, uint64_t key)
{
	struct fdb_view_bucket *bucket = &view->bucket[fdb_view_home(key, view->buckets)];

	for (unsigned i = 0; i < FDB_VIEW_WAYS; i++) {
		uint64_t entry = atomic_load_explicit(&bucket->entry[i], memory_order_relaxed);

		if (!entry || entry >> 16 != key >> 16)
			continue;
		atomic_store_explicit(&bucket->entry[i], 0, memory_order_relaxed);
		changed(view);
	}
}
