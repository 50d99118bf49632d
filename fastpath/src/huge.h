/*
 * Zeroed memory of which little is used at a time, all over it: sparse, in huge pages where the
 * kernel has them (transparent_hugepage: madvise or always), so that looks do not wait for the TLB.
 *
 * Runs on: control thread.
 */
#pragma once

#include <stddef.h>

/* Aligned to a huge page. NULL: no memory. */
void *huge_map(size_t bytes);
/* The first bytes of a file, shared, aligned as well. NULL: errno. */
void *huge_map_file(int fd, size_t bytes);
/* As many bytes as were mapped, of either. NULL is allowed. */
void huge_unmap(void *memory, size_t bytes);
