/*
 * What engine.c and engine_publish.c share: the engine's own tables. Control thread only; workers
 * see the snapshot domain and the statistics.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "conntrack.h"
#include "engine.h"
#include "fdb.h"
#include "pair_books.h"
#include "snapshot.h"
#include "worker.h"

struct engine_port {
	struct port port;
	pthread_spinlock_t lock[PORT_QUEUES_MAX]; /* of the transmit queues */
	struct worker *workers[PORT_QUEUES_MAX];
};

struct engine_bridge {
	struct fdb *fdb;
	void *memory;
	uint32_t entries_max;
	bool published; /* was part of a configuration: its FDB is in step with the members */
	struct fdb_view *view; /* what programs see of it; NULL: nothing */
	int view_fd;
};

/* What the rule of a slot names: 8 bytes of each slot there can be. */
struct rule_place {
	uint32_t set;	/* its set's id + 1; 0: no rule */
	uint16_t names; /* a jump's set, a police rule's policer */
	uint8_t type;	/* enum rule_action_type */
};

struct engine_rules {
	struct classifier **classifiers; /* by set id, as changed last; NULL: no such set */
	struct classifier **seen;	 /* by set id, as workers see it; NULL: not named */
	struct rules_refs *refs;	 /* by set id */
	struct rule_place *places;	 /* by slot */
	struct policer **policers;	 /* by id */
	struct rules_work **works;	 /* by row; as old as the engine, for what they counted */
	struct rules_config config;	 /* in force: sets and attachments, copied */
	uint64_t generation;		 /* of the tables */
	uint64_t log_lost;		 /* records, told already */
};

struct engine {
	struct engine_params params;
	struct stats *stats;
	struct pair_books *pairs;
	struct conntrack *conntrack;
	struct snapshot_domain domain;
	struct snapshot *snapshot; /* the one in force */
	struct engine_port **engine_ports;
	struct engine_bridge *engine_bridges;
	struct worker **rows; /* worker of each row of the statistics */
	struct engine_rules rules;
	/* the same by id, as snapshot_build takes it */
	struct port **ports;
	pthread_spinlock_t **locks;
	struct fdb **fdbs;
};

/* What a snapshot is built from. */
struct snapshot_parts engine_parts(const struct engine *engine);

int engine_rules_open(struct engine *engine, struct error *err);
/* Also of an engine whose open failed. The workers are gone. */
void engine_rules_close(struct engine *engine);
/* The tables of the rules in force for these ports. */
int engine_rules_tables(struct engine *engine, const struct bridge_port *ports,
			struct rules_tables *out, struct error *err);
/* Before a snapshot with rules is published: every worker can meet them. */
int engine_rules_works(struct engine *engine, struct error *err);
/* After it was, and the grace period. */
void engine_rules_settle(struct engine *engine);
/* Nobody sees the bridge's FDB from now on. */
void engine_view_close(struct engine_bridge *bridge);
