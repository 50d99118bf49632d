/*
 * Pipes, their monitors, and what has no other end: what differs from a switch's ports in a sync.
 *
 * Runs on: threads of netmap programs. Under the kring's lock, but for the syncs, which take it.
 */
#pragma once

#include "core.h"

/* Of whatever is no port. */
struct sync_result other_txsync(struct binding *binding, struct ring_view *view);
struct sync_result other_rxsync(struct binding *binding, struct ring_view *view);
/* null.c: stands in for a lane that a ring does not have, or must not touch: nobody reads it. */
void nobodys_view(struct ring_view *view);
/* The link of what has no other end. */
void nobodys_link(struct link *link, const struct client_answer *answer);

struct sync_result pipe_txsync(struct binding *binding, struct ring_view *view);
struct sync_result pipe_rxsync(struct binding *binding, struct ring_view *view);
/* The ring's first user in the region: what was sent before and not taken is in flight still. */
void pipe_tx_open(struct ring_view *view);
/*
 * Before sleeping for slots; `want`: for free ones, not only for the room of those that wait.
 * False: some have come back, do not sleep.
 */
bool pipe_tx_waits(struct ring_view *view, bool want);
/* What the other end's program wrote into its slot, as far as it is passed on: NS_*. */
uint32_t pipe_slot_flags(const struct lane_frame *frame);

/*
 * watch.c: monitors of pipes read the pipe's memory, and write nothing there: the pipe's programs
 * are not slowed, and do not know.
 */
struct sync_result watch_rxsync(struct binding *binding, struct ring_view *view);
/* A monitor's ring, `first`: its first user in the region. */
void watch_view(struct binding *binding, enum ring_side side, unsigned number,
		struct ring_view *view, bool first);
/* The bell that ends a monitor's sleep: its own clock. A negative errno: none. */
int watch_bell(void);
/* Before sleeping for frames. False: there are some. */
bool watch_waits(struct binding *binding, struct ring_view *view);
