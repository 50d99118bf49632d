/*
 * What the control thread does to the memory of a netmap program's port (client_memory.h): reads
 * what the program counts, and says that the port is gone.
 *
 * The memory is told by its fd and mapped for the call only; what is in it may be written by the
 * program at any time and is not trusted. 0 or a negative errno; EINVAL: it is no such memory.
 *
 * Runs on: control thread.
 */
#pragma once

#include <stdint.h>

/* cffi: begin */
struct client_view {
	uint64_t syncs;
	uint64_t sleeps;
	uint64_t invalid; /* slots with a length or buffer that makes no sense */
	uint64_t full;	  /* frames of the program that its outboxes had no room for */
};

/* Sums over the rings. */
int client_view_read(int memory, struct client_view *out);
/* The program's next look at the port tells it ENXIO. */
int client_view_gone(int memory);
/* cffi: end */
