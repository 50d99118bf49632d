/*
 * A bell between two threads: the one that fills a ring wakes the one that sleeps in poll.
 *
 * An eventfd that is polled, and a word that keeps it to one write a nap. The sender publishes
 * its index, then looks whether the receiver had taken everything, and only then rings; the
 * receiver publishes its index, then looks for more before it sleeps. All four are sequentially
 * consistent, so that one of the two sees the other.
 *
 * Runs on: workers, and the far end's thread of a memory port.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* Wakes who polls fd; nothing to do when it was rung and not answered yet. */
static inline void port_bell_ring(int fd, _Atomic uint32_t *rung)
{
	uint64_t one = 1;

	if (atomic_exchange(rung, 1))
		return;
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/*
 * Takes the bell back, so that poll sleeps until the next ring. False: nobody rang. Whoever found
 * its ring empty looks at it again after true.
 */
static inline bool port_bell_take(int fd, _Atomic uint32_t *rung)
{
	uint64_t count;

	if (!atomic_load_explicit(rung, memory_order_relaxed))
		return false;
	/* not written yet: poll will return at once and we come again */
	if (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		atomic_store(rung, 0);
	return true;
}
