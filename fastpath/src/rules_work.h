/*
 * What a worker keeps for rules: of a batch keys, connection states, edited headers, copies and
 * answers; from batch to batch the flow cache, its row of counters and its log.
 *
 * Nothing here is allocated on a frame's way, and every list and pool is bounded: what does not fit
 * is dropped as no_buffer. Bytes of received frames are never written; an edited header stands in
 * scratch and the payload follows as a further fragment.
 *
 * Runs on: workers; the control thread makes it before the first snapshot with rules, and frees it
 * with the engine.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "bridge.h"
#include "flow_cache.h"
#include "frame.h"
#include "reject.h"
#include "rule_counters.h"
#include "rules.h"
#include "rules_hits.h"

enum {
	RULES_HEADER_MAX = 64,	       /* addresses, tags and what set changes of IP */
	RULES_EDITS = 2 * FRAME_BATCH, /* of one destination and of one that it redirects to */
	RULES_MIRRORS = 4 * FRAME_BATCH,
	RULES_ICMP_ERRORS_S = 1000 /* of a worker */
};
_Static_assert(FRAME_BATCH <= 64, "sets of a batch's frames are words");

static inline uint64_t bits_below(unsigned count)
{
	return count < 64 ? ((uint64_t)1 << count) - 1 : UINT64_MAX;
}

/* A frame with a header of its own. */
struct rules_edit {
	struct frame first;
	struct frame rest;
	uint8_t header[RULES_HEADER_MAX];
	struct flow_key key; /* of the frame as edited, where it meets another stage */
	unsigned index;	     /* of the frame in the batch */
};

struct rules_work {
	struct flow_cache *cache;      /* NULL: there was no memory */
	struct rule_counter *counters; /* by slot */
	struct rule_log *log;
	rules_hits *hits;	    /* the short way as this machine does it */
	struct policer icmp_errors; /* answers of ICMP: RULES_ICMP_ERRORS_S, and as many at once */
	uint32_t rules_max;
	/* the batch */
	const struct rules_tables *tables;
	const struct bridge_tables *bridges;
	const struct frame *batch;
	struct port_counters *cells; /* the worker's, by port id */
	uint64_t generation;	     /* of the snapshot */
	uint64_t frame_number;	     /* of batch[0]; every frame of the worker has another */
	unsigned batch_count;
	uint64_t now_ns; /* 0: not asked yet */
	uint64_t now_s;	 /* CLOCK_REALTIME */
	uint32_t tick;	 /* seconds, CLOCK_MONOTONIC */
	uint16_t in_port;
	uint16_t bridge;
	bool filtering; /* the bridge filters VLANs */
	bool edited;	/* some frame is no longer as plain as it came */
	bool moving;	/* `moved` is being sent: no frame is redirected again */
	/* frames of the batch, by bit */
	uint64_t keyed;	    /* the key is there */
	uint64_t tracked;   /* and the state in it */
	uint64_t committed; /* to connection tracking */
	uint64_t answered;
	uint64_t logged;
	uint64_t unlogged; /* beyond the log's rate: at its later stages too */
	uint64_t redirected;
	uint16_t redirect[FRAME_BATCH]; /* of those redirected at ingress */
	struct flow_key keys[FRAME_BATCH];
	struct conntrack_ref refs[FRAME_BATCH];
	/* what the frames that meet the stage in turn ask the flow cache, in their order */
	_Alignas(64) struct flow_key masked[FRAME_BATCH];
	uint64_t hashes[FRAME_BATCH];
	struct flow_path paths[FRAME_BATCH]; /* of those that the short way is not for */
	uint64_t known;			     /* of these the cache has it */
	struct bridge_lists aside;	     /* mirrored frames, answers: as they are */
	struct bridge_lists moved;	     /* redirected at egress */
	/* scratch of ingress lives as long as the batch, that of egress until it is sent */
	struct frame rests[FRAME_BATCH];
	uint8_t headers[FRAME_BATCH][RULES_HEADER_MAX];
	unsigned edit_count;
	unsigned mirror_count;
	struct rules_edit edits[RULES_EDITS];
	struct frame mirrors[RULES_MIRRORS];
	struct frame answers[FRAME_BATCH];
	uint8_t answer_bytes[FRAME_BATCH][REJECT_BYTES_MAX];
};

/* Slots of all rules are below rules_max. NULL: no memory. */
struct rules_work *rules_work_create(unsigned ports_max, uint32_t rules_max, uint64_t seed);
void rules_work_destroy(struct rules_work *work);

/* Before the batch goes to the bridge. */
void rules_begin(struct rules_work *work, const struct rules_tables *tables,
		 const struct bridge_tables *bridges, uint64_t generation, uint16_t in_port,
		 const struct frame *batch, unsigned count);

/*
 * The ingress stage for those frames of the batch whose bit is set in `accepted`. Returns the bits
 * of those that go on; what does not is booked in the in port's cell. Bits of `edited`: addresses,
 * VLAN or tag are others now; of work->redirected: go to work->redirect[] instead.
 */
uint64_t rules_ingress(struct rules_work *work, const struct rules_stage *stage,
		       struct frame *batch, uint64_t accepted, uint64_t *edited);

/*
 * The egress stage of a destination: leaves in frames[] those that go on, edited ones replaced, in
 * their order; returns how many. What does not is booked in the port's cell, or is in work->moved.
 */
unsigned rules_egress(struct rules_work *work, const struct rules_stage *stage, uint16_t out_port,
		      struct frame **frames, unsigned count);

/* Nothing that egress stages put into scratch is needed any more. */
static inline void rules_sent(struct rules_work *work)
{
	work->edit_count = 0;
	work->mirror_count = 0;
}
