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
};

struct engine {
	struct engine_params params;
	struct stats *stats;
	struct conntrack *conntrack;
	struct snapshot_domain domain;
	struct snapshot *snapshot; /* the one in force */
	struct engine_port **engine_ports;
	struct engine_bridge *engine_bridges;
	struct worker **rows; /* worker of each row of the statistics */
	/* the same by id, as snapshot_build takes it */
	struct port **ports;
	pthread_spinlock_t **locks;
	struct fdb **fdbs;
};

/* What a snapshot is built from. */
struct snapshot_parts engine_parts(const struct engine *engine);
