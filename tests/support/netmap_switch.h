/*
 * A switch for tests of the netmap client library: netmap.sock and what answers there, by the
 * contract (client_wire.h) and without a forwarder. It runs in a thread, floods what its ports send
 * to all other ports, and joins the ends of pipes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct netmap_switch;

/* Makes a run directory and points VSWITCH_RUN_DIR to it. */
struct netmap_switch *netmap_switch_start(void);
void netmap_switch_stop(struct netmap_switch *sw);

/* Ports and pipes that are open. */
unsigned netmap_switch_ports(struct netmap_switch *sw);
/* Are there `n` soon? It learns of a close in its own time. */
bool netmap_switch_settles(struct netmap_switch *sw, unsigned n);
/* From now on nothing is taken from outboxes. */
void netmap_switch_pause(struct netmap_switch *sw, bool paused);
/* The next `n` requests get no answer. */
void netmap_switch_deaf(struct netmap_switch *sw, unsigned n);
/* Rings of ports that do not ask for a number. */
void netmap_switch_rings(struct netmap_switch *sw, unsigned tx, unsigned rx);
/* Shuts all connections that are not registered, as when a forwarder dies. */
void netmap_switch_forget(struct netmap_switch *sw);
/* Says in the port's memory that it has been evicted. */
void netmap_switch_evict(struct netmap_switch *sw, const char *port);
/* The last request of each kind that it got, for a look at its fields. */
struct client_request;
struct client_request netmap_switch_last(struct netmap_switch *sw, unsigned type);
/* A frame for all ports. */
void netmap_switch_send(struct netmap_switch *sw, const void *data, uint32_t len, uint16_t flags);
/* Flags of the records that were forwarded last. */
uint16_t netmap_switch_flags(struct netmap_switch *sw);
