/*
 * The configuration as workers see it: one immutable structure behind one pointer, read once a
 * batch, so that every frame meets exactly one generation.
 *
 * The control thread builds a snapshot aside (a build that fails changes nothing), publishes it,
 * waits for the grace period and frees the old one. Grace periods are by quiescent states: between
 * two batches a worker holds no snapshot and says so by copying the epoch; one that sleeps says
 * that it holds none until it wakes up. Plain C11 atomics, no fences: the sanitizers see all of it.
 *
 *   publisher  current = new;  epoch++;  until every reader: seen >= epoch or ASLEEP
 *   worker     if (seen != epoch) seen = epoch;  use current;  ...
 *   waking up  seen = epoch;  use current
 *
 * An awake worker that has seen the new epoch has also seen the new pointer (release, acquire).
 * Between waking up and publishing either the worker's store comes first and the publisher waits
 * for it, or the publisher's pointer comes first and the worker reads it (sequential consistency).
 *
 * Runs on: control thread (build, publish, wait, free), workers (the inline functions).
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "bridge.h"
#include "config.h"
#include "error.h"
#include "monitor.h"
#include "port.h"
#include "rules_tables.h"
#include "tx.h"

/* Who monitors a port. */
struct snapshot_monitored {
	struct monitor_list rx;
	struct monitor_list tx;
};

struct snapshot {
	uint64_t generation;
	struct snapshot_monitored *monitored; /* by port id; NULL: no port is monitored */
	struct bridge_tables tables;
	struct rules_tables rules;   /* empty until rules_tables_build */
	struct tx_port *tx_ports;    /* by port id */
	struct port_config *configs; /* by port id, present ones: polling, cpu */
	struct bridge *bridges;
	struct bridge_port *bridge_ports;
	struct bridge_config *bridge_configs; /* by bridge id */
	uint16_t *members;		      /* the bridges' port lists, one behind the other */
	struct monitor **monitors;	      /* the monitor lists, one behind the other */
	unsigned bridges_max;
};

/* What ids stand for while the snapshot is built: the engine's tables. */
struct snapshot_parts {
	unsigned ports_max;
	unsigned bridges_max;
	struct port *const *ports;	  /* NULL entries: no such port */
	pthread_spinlock_t *const *locks; /* by port id, one a transmit queue */
	struct fdb *const *fdbs;	  /* by bridge id */
	unsigned ordinals;		  /* all workers' ordinals are below this */
};

/* EINVAL with the object named when the configuration contradicts itself or the parts. */
int snapshot_build(const struct engine_config *config, const struct snapshot_parts *parts,
		   struct snapshot **out, struct error *err);
/* Recomputes which transmit queues need no lock, before the snapshot is published. */
void snapshot_set_ordinals(struct snapshot *snapshot, unsigned ordinals);
void snapshot_free(struct snapshot *snapshot);
/*
 * The same ports and bridges with other rules, whose tables are taken over: the parts of `old` are
 * the new one's from now on, and snapshot_free_shell is what `old` is freed with. NULL: no memory.
 */
struct snapshot *snapshot_with_rules(const struct snapshot *old, uint64_t generation,
				     const struct rules_tables *rules);
void snapshot_free_shell(struct snapshot *old);

/* --- grace periods -----------------------------------------------------------------------------
 */

static const uint64_t READER_ASLEEP = UINT64_MAX;

struct snapshot_reader {
	_Alignas(64) _Atomic uint64_t seen;
	struct snapshot_reader *next; /* control thread's list */
};

struct snapshot_domain {
	_Atomic(const struct snapshot *) current;
	_Atomic uint64_t epoch;		 /* starts at 1 */
	struct snapshot_reader *readers; /* control thread only */
};

void snapshot_domain_init(struct snapshot_domain *domain, const struct snapshot *first);

/* A reader joins asleep, leaves when its thread has ended. Control thread. */
void snapshot_reader_add(struct snapshot_domain *domain, struct snapshot_reader *reader);
void snapshot_reader_remove(struct snapshot_domain *domain, struct snapshot_reader *reader);

/* Returns when no reader holds anything it read before the call. */
void snapshot_wait(struct snapshot_domain *domain);

/* Publishes and waits; returns the snapshot that nobody uses any more. */
const struct snapshot *snapshot_publish(struct snapshot_domain *domain,
					const struct snapshot *snapshot);

/* Worker, holding no snapshot: the current one. */
static inline const struct snapshot *snapshot_read(struct snapshot_domain *domain,
						   struct snapshot_reader *reader)
{
	uint64_t epoch = atomic_load_explicit(&domain->epoch, memory_order_acquire);

	if (epoch != atomic_load_explicit(&reader->seen, memory_order_relaxed))
		atomic_store_explicit(&reader->seen, epoch, memory_order_seq_cst);
	return atomic_load_explicit(&domain->current, memory_order_seq_cst);
}

/* Worker, holding no snapshot: will not read until snapshot_read, which wakes it. */
static inline void snapshot_sleep(struct snapshot_reader *reader)
{
	atomic_store_explicit(&reader->seen, READER_ASLEEP, memory_order_release);
}
