/*
 * Policers: a rate and a burst that all rules naming it share, on all workers.
 *
 * The generic cell rate algorithm (ITU-T I.371; ATM Forum TM 4.0) with one atomic word: the time at
 * which the bucket is empty again. A frame of GSO counts as its segments where frames are counted.
 * A frame larger than the burst passes when the bucket is empty, so that a burst below a GSO frame
 * is no wall; what it took too much of is waited for before the next one.
 *
 * Runs on: workers (take, peek), control thread (the rest).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
struct policer_config {
	uint16_t id;
	bool frames;	/* rate and burst count frames, else bits and bytes */
	uint64_t rate;	/* frames/s or bit/s, > 0 */
	uint64_t burst; /* frames or bytes, > 0 */
};
/* cffi: end */

struct policer {
	_Atomic uint64_t empty; /* when the bucket is empty again, CLOCK_MONOTONIC in 1/32 ns */
	struct policer_config config;
	uint64_t burst_time; /* what a whole bucket takes at the rate, 1/32 ns */
	uint64_t unit;	     /* what one bit/s or frame/s needs for a byte or a frame, 1/32 ns */
	_Atomic uint64_t passed; /* frames */
	_Atomic uint64_t dropped;
};

void policer_init(struct policer *policer, const struct policer_config *config);

/* Within the rate? Takes its share if so. */
bool policer_take(struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames);
/* Would it be, each of so many times? (A flooded frame may ask once for each destination.) */
bool policer_peek(const struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames,
		  uint32_t times);
