/*
 * Policers: a rate and a burst that all rules naming it share, on all workers.
 *
 * The generic cell rate algorithm (ITU-T I.371; ATM Forum TM 4.0) with one atomic word: the time at
 * which the bucket is empty again. A frame of GSO counts as its segments where frames are counted.
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
	_Atomic uint64_t full_ns; /* CLOCK_MONOTONIC */
	struct policer_config config;
	_Atomic uint64_t passed; /* frames */
	_Atomic uint64_t dropped;
};

/* Within the rate? Takes its share if so. */
bool policer_take(struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames);
/* Would it be? */
bool policer_peek(const struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames);
