/*
 * What the forwarder itself makes for netmap programs: memories between two of them (pipes, pairs;
 * client_memory.h), and what it tells a port's program about direct mode.
 *
 * Runs on: control thread.
 */
#pragma once

#include <stdint.h>

/* cffi: begin */
enum {
	CLIENT_LINK_FDS = 33, /* of a memory and 16 bells, at most */
	CLIENT_LINK_LANE_BYTES_MIN = 256 << 10
};

/*
 * A memory and its bells, fds[0..n) in the order of client_memory.h; returns n, or a negative
 * errno as client_memory_make and client_bells_make.
 */
int client_link_make(const char *name, uint32_t tx_rings, uint32_t rx_rings, uint32_t outbox_bytes,
		     uint32_t inbox_bytes, int fds[]);

/*
 * Tells the program of a port, by the fd of the port's memory: `direct` as in client_memory.h, and
 * if `news` is set that there is something to ask for. 0 or a negative errno.
 */
int client_link_tell(int memory, uint32_t direct, int news);

struct client_link_count {
	uint64_t frames;
	uint64_t bytes;
};
/*
 * What the lanes of a memory have carried, by what their producers say: counts[0] from side 0 to
 * side 1, counts[1] the other way. 0 or a negative errno.
 */
int client_link_counts(int memory, struct client_link_count counts[2]);
/* cffi: end */
