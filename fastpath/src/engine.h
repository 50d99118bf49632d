/*
 * The engine as its control thread sees it: this header is what Python calls through cffi.
 *
 * One control thread calls all of this. Ids are small numbers the caller chooses (port and bridge
 * slots, kept stable while the object lives) and index fixed tables sized at creation. The order
 * of a change: engine_port_add / engine_bridge_add what is new, engine_publish the whole wanted
 * configuration, engine_port_remove / engine_bridge_remove what is gone. Workers see exactly one
 * configuration a batch; engine_publish returns when no worker uses the old one any more.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "conntrack.h"
#include "error.h"
#include "port.h"
#include "rule.h"
#include "rule_counters.h"
#include "stats.h"

/* cffi: begin */
struct engine;

struct engine_params {
	unsigned ports_max;    /* default 256 */
	unsigned bridges_max;  /* default 64 */
	unsigned workers_max;  /* default 320 */
	int stats_fd;	       /* memfd of engine_stats_bytes(); -1: private memory */
	uint32_t spin_us;      /* adaptive polling: spin this long before sleeping; default 200 */
	unsigned sets_max;     /* rule sets; default 256 */
	unsigned rules_max;    /* of all sets: slots; default 262144 */
	unsigned policers_max; /* default 256 */
	uint32_t connections_max; /* default 65536 */
	int conntrack_fd;	  /* memfd of engine_conntrack_bytes(); -1: private memory */
};

uint64_t engine_stats_bytes(unsigned workers_max, unsigned ports_max);
uint64_t engine_fdb_bytes(uint32_t entries_max);
uint64_t engine_conntrack_bytes(uint32_t connections_max);

/* The memories may be those of an engine that runs: nothing is read or written in them yet. */
int engine_create(const struct engine_params *params, struct engine **out, struct error *err);
/*
 * The memories were left by an engine that is dead: books what it had in flight, goes on with its
 * connections. Once, before bridges and ports are added. EPROTO: they do not hold that.
 */
int engine_take_over(struct engine *engine, struct error *err);
/* Stops the workers, detaches all ports, frees. Kernel queues keep what was not received. */
void engine_destroy(struct engine *engine);

/*
 * fdb_fd: memfd of engine_fdb_bytes(entries_max), taken over when it holds a table of that size
 * (entries whose port is not in the next published configuration vanish then); -1: private.
 */
int engine_bridge_add(struct engine *engine, uint16_t id, const char *name, uint32_t entries_max,
		      int fdb_fd, struct error *err);
int engine_bridge_remove(struct engine *engine, uint16_t id, struct error *err);

/* Attaches; frames flow once a published configuration names the port. Borrows the fds. */
int engine_port_add(struct engine *engine, uint16_t id, const char *name, const char *type,
		    const struct port_options *options, const struct port_fds *fds,
		    struct error *err);
/* EBUSY while the published configuration names it. Retires its counters unless keep_counters. */
int engine_port_remove(struct engine *engine, uint16_t id, bool keep_counters, struct error *err);

int engine_publish(struct engine *engine, const struct engine_config *config, struct error *err);

/*
 * Rules are changed aside, set by set, and seen all at once with the next engine_publish_rules (or
 * engine_publish, which leaves the last rules_config in force). A set comes into being with its
 * first update. EINVAL, ENOSPC, ENOMEM leave the set as it is.
 */
int engine_rules_update(struct engine *engine, uint16_t set, const uint32_t *removed,
			unsigned removed_count, const struct rule_config *added,
			unsigned added_count, struct error *err);
/* EBUSY while the published rules name it. */
int engine_rules_remove(struct engine *engine, uint16_t set, struct error *err);
/* Ports, bridges, sets and policers that are named have to be there. Policers keep their state. */
int engine_publish_rules(struct engine *engine, uint64_t generation,
			 const struct rules_config *config, struct error *err);

struct rules_set_size {
	uint32_t rules;
	uint32_t matches;
	uint32_t tables;
	uint64_t bytes;
};
int engine_rules_size(struct engine *engine, uint16_t set, struct rules_set_size *size);
/* Sums of `count` slots from the first on. */
void engine_rule_counters(struct engine *engine, uint32_t first, uint32_t count,
			  struct rule_counter *sums);
/* The slot's rule is gone or another; no worker uses it. */
void engine_rule_counters_clear(struct engine *engine, uint32_t slot);
void engine_policer_counters(struct engine *engine, uint16_t id, uint64_t *passed,
			     uint64_t *dropped);
/* Takes at most max records out, oldest first; *lost: records there was no room for since. */
unsigned engine_rule_log(struct engine *engine, struct rule_log_record *records, unsigned max,
			 uint64_t *lost);

int engine_conntrack_dump(struct engine *engine, const struct conntrack_filter *filter,
			  uint32_t *cursor, struct conntrack_row *rows, unsigned max);
int engine_conntrack_flush(struct engine *engine, const struct conntrack_filter *filter);
uint32_t engine_conntrack_count(struct engine *engine);
void engine_conntrack_settings(struct engine *engine, const struct conntrack_settings *settings);

/* Returns when every frame received before the call has left the workers. */
void engine_quiesce(struct engine *engine);

int engine_port_status(struct engine *engine, uint16_t id, struct port_status *status);
void engine_port_counters(struct engine *engine, uint16_t id, struct port_counters *sum);
/* rx queue q of the port: counters of the worker that serves it. */
int engine_queue_counters(struct engine *engine, uint16_t id, uint16_t queue,
			  struct port_counters *cell, struct worker_counters *worker);
void engine_total_counters(struct engine *engine, struct port_counters *sum);

struct fdb_row {
	uint8_t mac[6];
	uint16_t vid;
	uint16_t port;
	bool is_static;
	uint32_t age_s; /* since last seen */
	uint32_t moves;
};
/* Copies at most max rows beginning with the table position *cursor, which it moves; 0 at the end.
 */
int engine_fdb_dump(struct engine *engine, uint16_t bridge, uint32_t *cursor, struct fdb_row *rows,
		    unsigned max);
/* port 0xffff: any; vid 0xffff: any. Static entries stay. Returns the entries removed. */
int engine_fdb_flush(struct engine *engine, uint16_t bridge, uint16_t port, uint16_t vid);
/* ENOSPC at the table's limit. */
int engine_fdb_set_static(struct engine *engine, uint16_t bridge, const uint8_t mac[6],
			  uint16_t vid, uint16_t port, struct error *err);
int engine_fdb_clear_static(struct engine *engine, uint16_t bridge, const uint8_t mac[6],
			    uint16_t vid, struct error *err);
/* Entries in use, static ones included. */
unsigned engine_fdb_count(struct engine *engine, uint16_t bridge);

/*
 * Programs in direct mode (client_memory.h). The addresses at these ports of the bridge can be seen
 * from now on, by whoever has the fd that this answers; it stays the engine's, is the same while
 * the bridge lives, and nobody can write through it.
 */
int engine_fdb_show(struct engine *engine, uint16_t bridge, const uint16_t *ports, unsigned count,
		    struct error *err);
/*
 * What the programs of two ports, low < high, send each other through the pair's memory is booked
 * from now on (pair_books.h); the fd may be closed. ENOSPC, EEXIST.
 */
int engine_pair_add(struct engine *engine, uint16_t low, uint16_t high, int fd, struct error *err);
void engine_pair_remove(struct engine *engine, uint16_t low, uint16_t high);
/* After a takeover, when all pairs that live on were added. */
void engine_pairs_retain(struct engine *engine);

/* Removes what has aged; call about once a second. */
void engine_tick(struct engine *engine);

/*
 * The far end of a memory port, for tests and benchmarks: puts one frame into the ring that the
 * switch receives from, takes one from the ring it sends to. Frame bytes only. -EAGAIN: full or
 * empty; -EMSGSIZE: does not fit. One caller at a time a queue.
 */
int engine_memory_put(struct engine *engine, uint16_t port, uint16_t queue, const uint8_t *bytes,
		      uint32_t len);
int engine_memory_take(struct engine *engine, uint16_t port, uint16_t queue, uint8_t *bytes,
		       uint32_t room);

/*
 * The virtio-net header of a client port's program: hdr_len 0 (none, offloads are completed before
 * the port), 10 or 12. At any time; it is in the port's memory, so the next forwarder goes on with
 * it. EINVAL: another length, or no client port.
 */
int engine_client_header(struct engine *engine, uint16_t port, uint32_t hdr_len, struct error *err);
/* cffi: end */
