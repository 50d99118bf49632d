/*
 * A kernel interface by its name, as drivers look it up before they bind to it.
 *
 * Runs on: the keeper.
 */
#pragma once

#include <stdint.h>

#include "error.h"

struct netdev {
	uint32_t ifindex;
	uint32_t mtu;
	uint32_t rx_queues; /* those in use; 1 where the driver does not say */
	uint32_t tx_queues;
};

/* `type` is the port type, for messages. IFACE_NOT_FOUND, NOT_ETHERNET. */
int netdev_find(const char *type, const char *ifname, struct netdev *found, struct error *err);
