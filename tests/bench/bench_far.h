/*
 * The far end of memory ports: fills their receive rings with frames between addresses that the
 * switch has learned, and empties what it sent.
 *
 * Ports are in bridges of `group` each, port p in bridge p / group. Address n of a bridge lives at
 * its port n % group; every frame goes from one port of a bridge to another one.
 */
#pragma once

#include "bench_engine.h"

enum { BENCH_FAR_BYTES = 60 };

struct bench_far {
	struct bench_engine *engine;
	unsigned group;
	unsigned addresses; /* of a bridge; at least `group` */
	unsigned fill;	    /* frames a port and turn */
	uint64_t random;
	uint64_t sent; /* frames filled in */
	uint64_t took; /* frames emptied */
};

/* Called once: every bridge learns all its addresses. */
void bench_far_init(struct bench_far *far, struct bench_engine *engine, unsigned group,
		    unsigned addresses, unsigned fill);
void bench_far_fill(struct bench_far *far);
void bench_far_empty(struct bench_far *far);
