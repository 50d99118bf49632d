/*
 * Hits of each rule: frames, bytes and when last, by slot, one row a worker, so that no two workers
 * write one line. Rows are mapped sparse: only the pages of rules that were hit cost memory.
 *
 * Frames of rules that log go into a ring of the worker's, as many frames a second as it admits;
 * what there is no room or no rate for is counted.
 *
 * Runs on: workers write their row and their ring, the control thread sums, clears and drains.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
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

enum { RULE_LOG_RECORDS = 1024, RULE_LOG_FRAMES_S = 1000 };

struct rule_log {
	_Alignas(64) _Atomic uint64_t head; /* next to take */
	_Alignas(64) _Atomic uint64_t tail; /* next to write */
	_Atomic uint64_t lost;		    /* ever */
	uint64_t second;		    /* the worker's: frames admitted in it */
	uint32_t admitted;
	struct rule_log_record records[RULE_LOG_RECORDS];
};

/* NULL when there is no memory. */
struct rule_counter *rule_counters_map(uint32_t slots);
void rule_counters_unmap(struct rule_counter *row, uint32_t slots);
void rule_counter_clear(struct rule_counter *counter);

/* Worker: may one more frame be logged in this second? Counts it if so. */
bool rule_log_admit(struct rule_log *log, uint64_t second);
void rule_log_lose(struct rule_log *log);
void rule_log_put(struct rule_log *log, const struct rule_log_record *record);

/* Control thread: the oldest record; NULL: there is none. Stays until it is dropped. */
const struct rule_log_record *rule_log_peek(const struct rule_log *log);
void rule_log_drop(struct rule_log *log);
