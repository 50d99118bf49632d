/*
 * Hits of each rule: frames, bytes and when last, by slot, one row a worker, so that no two workers
 * write one line. Rows are mapped sparse: only the pages of rules that were hit cost memory.
 *
 * Runs on: workers write their row, the control thread sums and clears.
 */
#pragma once

#include <stdint.h>

/* cffi: begin */
struct rule_counter {
	uint64_t frames;
	uint64_t bytes;
	uint64_t last_s; /* CLOCK_REALTIME, coarse; 0: never */
	uint64_t reserved;
};

/* One frame that a rule with `log` met. */
struct rule_log_record {
	uint64_t time_ns;    /* CLOCK_REALTIME */
	uint64_t generation; /* of the snapshot the frame met */
	uint64_t frame;	     /* number of the frame on its worker: the stages of one frame agree */
	uint32_t rule;	     /* slot */
	uint32_t frame_len;
	uint16_t in_port;
	uint16_t out_port; /* RULE_NONE at ingress */
	uint8_t action;	   /* enum rule_action_type */
	uint8_t head_len;
	uint8_t head[66]; /* the frame's first bytes */
};
/* cffi: end */
