/*
 * The short way through a stage: frames whose way the flow cache knows, and whose rules do nothing
 * but count. Nearly all frames are such, and they need neither a key in memory nor their rules.
 *
 * Runs on: workers.
 */
#pragma once

#include <stdint.h>

struct frame;
struct rules_stage;
struct rules_work;

/*
 * Up to FRAME_BATCH frames that meet the stage, which uses no state; work->cache is there. What is
 * dropped is booked in drops[] and has its bit in *gone. Returns the bits of the frames that are
 * left to the long way: their questions are in work->masked and work->hashes; of the bits of
 * work->known among them the way is in work->paths.
 */
typedef uint64_t rules_hits(struct rules_work *work, const struct rules_stage *stage,
			    struct frame *const *frames, unsigned count, uint64_t *drops,
			    uint64_t *gone);
rules_hits rules_hits_portable;
#if defined(__x86_64__) && !defined(__clang__)
#define RULES_HITS_AVX512 1 /* made by a pragma that clang does not know */
rules_hits rules_hits_avx512;
#endif
/* What this machine does best. */
rules_hits *rules_hits_choose(void);
