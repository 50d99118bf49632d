/*
 * A switch without threads, for programs that measure what the engine costs: ports in bridges, a
 * worker for each port that receives, driven by hand with worker_batch.
 *
 * Whatever fails ends the program with a message.
 */
#pragma once

#include <stdint.h>

#include "fdb.h"
#include "snapshot.h"
#include "worker.h"

enum {
	BENCH_PORTS = 4, /* of most programs */
	BENCH_PORTS_MAX = 256,
	BENCH_BRIDGES_MAX = 64,
	BENCH_ROUNDS = 9,
	BENCH_ROUND_MS = 150 /* about the length of one measurement */
};

struct bench_engine {
	unsigned port_count; /* attached */
	struct port ports[BENCH_PORTS_MAX];
	struct port *port_table[BENCH_PORTS_MAX];
	pthread_spinlock_t locks[BENCH_PORTS_MAX][PORT_QUEUES_MAX];
	pthread_spinlock_t *lock_table[BENCH_PORTS_MAX];
	uint32_t entries_max; /* of each FDB */
	uint16_t vid; /* bridges filter VLANs, all ports are untagged in this one; 0: they don't */
	unsigned bridge_count;
	void *fdb_memory[BENCH_BRIDGES_MAX];
	struct fdb *fdbs[BENCH_BRIDGES_MAX];
	struct stats *stats;
	struct snapshot *snapshot;
	struct snapshot_domain domain;
	struct worker *workers[BENCH_PORTS_MAX];
};

/* Attaches port `p`, the next one; all of them come before bench_bridges. */
void bench_port(struct bench_engine *engine, unsigned p, const char *type,
		const struct port_option *options, unsigned count, const struct port_fds *fds);
/* Port p joins bridge bridge_of[p]; bridges are numbered from 0. */
void bench_bridges(struct bench_engine *engine, const uint16_t *bridge_of, uint32_t entries_max);
void bench_close(struct bench_engine *engine);

/*
 * Of BENCH_PORTS ports: what has to be done for one batch and nothing else: receive at port `p`,
 * look up the destination in the bridge's FDB, send. No learning, no flooding, no ledger. Returns
 * the frames sent.
 */
uint64_t bench_bare_batch(struct bench_engine *engine, unsigned p, unsigned bridge,
			  struct frame batch[FRAME_BATCH]);

/* What both sides of a comparison took, in nanoseconds a frame: medians over BENCH_ROUNDS. */
struct bench_medians {
	double bare;
	double through; /* the switch */
};

/* Sorts them. */
double bench_median(double *values, unsigned count);

/* One turn of about BENCH_ROUND_MS on a program's own bench: nanoseconds a frame. */
typedef double bench_turn(void *bench, bool bare);

/* A turn of each that is not counted, then turn by turn. */
struct bench_medians bench_compare(bench_turn *turn, void *bare, void *through);
/* One element of "results". `more`: further fields, each behind a comma, or "". */
void bench_print(const char *port, unsigned addresses, const struct bench_medians *ns,
		 uint64_t frames, const char *more, bool balanced, bool last);

void bench_die(const struct error *err);
/* Processor time of this thread. */
uint64_t bench_now_ns(void);
