/*
 * The way out: for each destination of a batch vlan out, MTU, offload policy, one call of
 * ops->tx, and the books.
 *
 * Bytes that more than one destination gets are never written: an edited header goes into scratch
 * memory and the payload follows as a second fragment. Ports without PORT_CAP_FRAGS get one
 * piece, copied into scratch: the one copy. What a destination cannot finish itself is finished
 * by offload.c, into scratch too. Scratch is bounded; when it is used up, what is ready is sent
 * and the rest goes on with empty scratch.
 *
 * Transmit queues: queue = worker's ordinal, without a lock where the port has a queue for every
 * worker, else ordinal modulo the number of queues under the queue's lock, once a batch.
 *
 * Runs on: workers. struct tx_port is part of a snapshot; struct tx is the worker's own.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bridge.h"
#include "frame.h"
#include "monitor.h"
#include "offload.h"
#include "port.h"
#include "stats.h"

struct tx_port {
	struct port *port;		     /* NULL: not there */
	pthread_spinlock_t *lock;	     /* one a transmit queue, as old as the port */
	const struct monitor_list *monitors; /* of what it sends; NULL: none */
	uint32_t bridge_mtu;		     /* 0: no limit */
	uint8_t offload_policy;
	bool vlan_filtering;
	bool exclusive; /* there are at least as many queues as workers */
};

enum {
	TX_CHAIN_FRAMES = 1024,	      /* descriptors of segments */
	TX_SCRATCH_BYTES = 256 * 1024 /* at least two frames of FRAME_LEN_MAX in one piece */
};

struct rules_work;

struct tx {
	struct rules_work *rules;    /* of this batch; NULL: no port has any */
	struct port_counters *cells; /* the worker's, by port id */
	unsigned ordinal;	     /* for the choice of a queue */
	struct port_queue *source;   /* whose batch is not committed yet, or NULL */
	bool copies;	    /* the worker's frames are a monitor's, and are not copied again */
	uint32_t plain_max; /* bytes of the longest frame of a batch in which each is in one piece
			     * and finished; 0: the frames have to be looked at */
	bool untagged; /* no frame of the batch came with a tag in line; false: nobody looked */
	/* for one destination: frames with another tag */
	unsigned edit_count;
	struct frame edit[2 * FRAME_BATCH]; /* {new header} -> {rest} each */
	uint8_t header[FRAME_BATCH][VLAN_HEADER_MAX + 2];
	/* for one call of ops->tx: frames finished by offload.c */
	unsigned ready_count;
	unsigned chain_count;
	uint32_t scratch_used;
	struct frame *ready[FRAME_BATCH];
	struct frame chain[TX_CHAIN_FRAMES];
	_Alignas(64) uint8_t scratch[TX_SCRATCH_BYTES];
};

/* Bytes behind the Ethernet header and tags that the port and its bridge take; 0: no limit. */
static inline uint32_t tx_mtu(const struct tx_port *to)
{
	uint32_t mtu = atomic_load_explicit(&to->port->mtu, memory_order_relaxed);

	if (!mtu || (to->bridge_mtu && to->bridge_mtu < mtu))
		mtu = to->bridge_mtu;
	return mtu;
}

static inline bool tx_too_big(uint32_t mtu, uint32_t bytes, uint8_t l3_offset)
{
	return mtu && bytes > mtu + l3_offset;
}

/* Sends what is on the lists and empties them. `ports` by id, as bridge_tables.ports. */
void tx_flush(struct tx *tx, const struct tx_port *ports, const struct bridge_port *bridge_ports,
	      struct bridge_lists *lists);
