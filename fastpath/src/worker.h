/*
 * A worker: one thread that serves one receive queue of one port.
 *
 *     for ever:  snapshot -> ops->rx -> bridge_forward -> tx_flush -> ops->rx_done
 *
 * Between two batches it holds nothing: that is where a new snapshot, a stop or sleep gets in.
 * How it waits when there is nothing is the port's polling: block sleeps at once, adaptive spins
 * for spin_us first, busy never sleeps. Sleeping is poll on the queue's fd and on the worker's
 * own eventfd, by which the control thread wakes it.
 *
 * Life: worker_create (thread made, parked) -> worker_start -> worker_stop -> worker_destroy. A
 * parked worker touches no port, so it can be made before the configuration that needs it is
 * published and destroyed when publishing fails.
 *
 * Runs on: worker_batch on the worker (or a test that drives it by hand), the rest on the control
 * thread.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bridge.h"
#include "error.h"
#include "port.h"
#include "rules_work.h"
#include "snapshot.h"
#include "stats.h"
#include "tx.h"

enum worker_state { WORKER_PARKED, WORKER_RUNNING, WORKER_STOPPING };

struct worker {
	/* hot: the worker's */
	struct port *port;
	struct port_queue *queue;
	struct port_counters *cell; /* of its row and port */
	struct worker_counters *counters;
	struct snapshot_domain *domain;
	struct snapshot_reader reader;
	struct bridge_work work;
	struct frame batch[FRAME_BATCH];
	struct tx tx;
	struct rules_work *rules; /* there before the first snapshot with rules is */
	/* shared */
	_Atomic uint32_t state; /* enum worker_state */
	_Atomic bool link_down; /* the last rx said ENETDOWN */
	int wake_fd;
	/* cold: the control thread's */
	pthread_t thread;
	uint16_t port_id;
	uint16_t queue_id;
	unsigned row;
	int cpu;
	uint32_t spin_ns;
};

struct worker_params {
	struct port *port;
	uint16_t queue;
	unsigned row; /* of the counters; the ordinal for transmit queues */
	unsigned ports_max;
	int cpu; /* -1: not pinned */
	uint32_t spin_us;
	struct stats *stats;
	struct snapshot_domain *domain;
};

/* thread false: no thread is made; worker_batch is called by hand. */
int worker_create(const struct worker_params *params, bool thread, struct worker **out,
		  struct error *err);
void worker_start(struct worker *worker);
/* Returns when the thread has ended; also for a parked one. */
void worker_stop(struct worker *worker);
void worker_destroy(struct worker *worker);

/* Makes a sleeping worker look at its port's polling again. */
void worker_wake(struct worker *worker);
int worker_pin(struct worker *worker, int cpu, struct error *err);

/* One batch; returns the frames received, 0 or -ENETDOWN. */
int worker_batch(struct worker *worker, const struct snapshot *snapshot);
