/*
 * Direct mode: frames from one netmap program to another without the forwarder, by the lane that
 * the two ports share (a pair, client_memory.h).
 *
 * A sync of a tx ring asks for each frame whose lane it goes into. That is a pair's where
 *
 *     - the switch says that pair lanes may be used now (client_memory.direct),
 *     - the destination is in the table of addresses, at a port that there is a pair with,
 *     - the source is in it at this port (else the forwarder has to learn it),
 *     - nothing of the flow is still on its way through the forwarder,
 *
 * and the outbox in every other case: groups, unknown stations, floods. A pair lane that is full
 * drops the frame there, as the forwarder would. No lock is shared with another program and nobody
 * is waited for but the switch, for the drain of the outbox and for the answer to a request, both a
 * bounded time: a peer that stands still loses its own frames, one that writes nonsense too.
 *
 * A sync of an rx ring notes how far pair lanes reach, empties its inbox, and then reads the lanes
 * up to there: so frames of a flow that changed from the outbox to a pair lane stay in order. Lane
 * t of a pair carries what the sender's tx ring t sent and is read by rx ring t modulo the
 * receiver's rings, as in netmap.
 *
 * Peers and the table are replaced as a whole, by one pointer; what is replaced is unmapped when no
 * ring uses it. Different rings may be synced by different threads. A process that inherited the
 * session, or was given it, has a struct direct of its own and goes on in the lanes where they say
 * that the last one stopped.
 *
 * Runs on: threads of netmap programs.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "client_memory.h"
#include "client_wire.h"

struct direct;
struct direct_set; /* peers and table */
struct direct_out; /* a ring's lane to a peer */

/* What a port has that is in direct mode, or may be. */
struct direct_home {
	const struct client_map *map; /* of the port; side 0 is ours */
	/* Sends a request to the switch; fds that come are the caller's. A negative errno. Never
	 * waits for long. */
	int (*ask)(void *context, struct client_request *request, struct client_answer *answer,
		   int fds[CLIENT_FDS], unsigned *count);
	void *context;
};

/* NULL: no memory. Asks nothing yet. */
struct direct *direct_open(const struct direct_home *home);
/* No thread uses it. NULL: fine. */
void direct_close(struct direct *direct);

/* --- sending ------------------------------------------------------------------------------------
 */

enum {
	DIRECT_ROUTES = 256,
	DIRECT_SOURCES = 64,
	DIRECT_PEERS_MAX = 255,
	DIRECT_PUBLISH_BYTES = 8192 /* of a lane, added and not published yet */
};

struct direct_route {
	uint64_t key;		/* fdb_view_key of the destination; 0: none */
	uint64_t changes;	/* of the table, when `out` was found */
	uint64_t outbox_at;	/* the flow's frames are out of the outbox when its head is here */
	struct direct_out *out; /* NULL: the outbox */
};

struct direct_source {
	uint64_t key;
	uint64_t changes;
};

/* A tx ring's state, between syncs too. */
struct direct_tx {
	struct direct *direct;
	unsigned ring;
	/* of this sync */
	struct direct_set *set;
	struct lane_producer *outbox;
	int outbox_bell;
	uint64_t changes;
	uint64_t last_head;	 /* of the frame before: destination and two bytes of the source, */
	uint32_t last_tail;	 /* the rest of it; */
	struct direct_out *last; /* NULL: look */
	unsigned opened_count;
	uint32_t wanted; /* port number, + 1, that there is no pair with yet */
	/* kept */
	uint64_t routed;      /* serial of the set that `routes` were found in; 0: of none */
	uint64_t patience_ns; /* when the outbox may be waited for again */
	struct direct_route routes[DIRECT_ROUTES];
	struct direct_source sources[DIRECT_SOURCES];
	struct direct_out *opened[DIRECT_PEERS_MAX];
};

struct direct_out {
	struct lane_producer lane;
	int bell;
	bool open;
};

/*
 * Begins the sync of a tx ring: `outbox` is its lane to the forwarder and `bell` what rings there.
 * NULL: everything goes into the outbox. Else direct_end has to follow.
 */
struct direct_tx *direct_begin(struct direct *direct, unsigned ring, struct lane_producer *outbox,
			       int bell);
/* Publishes, rings, and asks for what was missing. */
void direct_end(struct direct_tx *tx);

/* The part of direct_route that looks. */
struct lane_producer *direct_route_slow(struct direct_tx *tx, const uint8_t *frame, bool learn);
/* The part of it that publishes; false: direct mode was suspended meanwhile. */
bool direct_publish(struct direct_tx *tx, struct direct_out *out);

/*
 * The lane for a frame of at least 14 bytes whose headers are finished (no offload asked for),
 * NULL: the outbox. `learn`: its source is to be learned (no NS_NO_LEARN). Where the lane has no
 * room the frame is dropped: lane_full.
 */
static inline struct lane_producer *direct_route(struct direct_tx *tx, const uint8_t *frame,
						 bool learn)
{
	struct direct_out *out = tx->last;
	uint64_t head;
	uint32_t tail;

	memcpy(&head, frame, sizeof(head));
	memcpy(&tail, frame + sizeof(head), sizeof(tail));
	if (__builtin_expect(!out || head != tx->last_head || tail != tx->last_tail, 0))
		return direct_route_slow(tx, frame, learn);
	if (__builtin_expect(out->lane.tail - out->lane.published >= DIRECT_PUBLISH_BYTES, 0) &&
	    !direct_publish(tx, out))
		return direct_route_slow(tx, frame, learn);
	return &out->lane;
}

/* The lane of the frame before; NULL: look. */
static inline struct lane_producer *direct_last(const struct direct_tx *tx)
{
	return tx->last ? &tx->last->lane : NULL;
}

/*
 * Does a frame that is to be learned go where the one before went? `lane`: direct_last, or a copy
 * of it that frames were added to. False: direct_route says where, and publishes what is due.
 */
static inline bool direct_same(const struct direct_tx *tx, const struct lane_producer *lane,
			       const uint8_t *frame)
{
	uint64_t head;
	uint32_t tail;

	memcpy(&head, frame, sizeof(head));
	memcpy(&tail, frame + sizeof(head), sizeof(tail));
	return head == tx->last_head && tail == tx->last_tail &&
	       lane->tail - lane->published < DIRECT_PUBLISH_BYTES;
}

/* --- receiving ----------------------------------------------------------------------------------
 */

struct direct_rx;

/*
 * Begins the sync of an rx ring, before its inbox is read: notes how far the pair lanes reach.
 * NULL: there is nothing in them. Else direct_rx_end has to follow.
 */
struct direct_rx *direct_rx_begin(struct direct *direct, unsigned ring);
/* Are they to be read before the inbox? What was sent last came by that: direct mode is suspended.
 */
bool direct_rx_first(const struct direct_rx *rx);
/* The next lane to read, with lane_next only, and then no other one before this; NULL: no more. */
struct lane_consumer *direct_rx_lane(struct direct_rx *rx);
/* Gives back what was read. */
void direct_rx_end(struct direct_rx *rx);

/*
 * Before sleeping for frames of rx rings [first, last): peers ring from now on. -1: there is
 * something to read or to ask for, do not sleep; 0: nobody to wait for; 1: *fd is to be polled,
 * too. direct_awake afterwards.
 */
int direct_asleep(struct direct *direct, unsigned first, unsigned last, struct pollfd *fd);
void direct_awake(struct direct *direct);
