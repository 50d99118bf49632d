/*
 * A port of NIC and host rings together (`netmap:IF*`): netmap has parted the interface from the
 * host's stack, and the port joins the three of them again, the network, the host and the switch.
 *
 *   from the network  to the host's address: to the host only; group addresses: host and switch;
 *                     everything else: to the switch
 *   from the host     to the network and to the switch
 *   from the switch   to the host's address: to the host only; group addresses: host and network;
 *                     everything else: to the network
 *
 * What goes on to the switch may lie in two places for a moment: it is copied for the other one.
 * A copy that finds its ring full is lost and counted (netmap_host_lost); the frame itself goes on.
 * Rings that several workers write to have a lock each.
 *
 * Runs on: workers (rx, tx), control thread (the rest).
 */
#pragma once

#include "netmap.h"

struct netmap_host *netmap_host_new(struct netmap_port *netmap, const uint8_t mac[6]);
void netmap_host_free(struct netmap_host *host); /* NULL is none */
void netmap_host_set_mac(struct netmap_host *host, const uint8_t mac[6]);
uint64_t netmap_host_lost(const struct netmap_host *host);

/* Gives others what is theirs; returns how many frames, moved together, are for the switch. */
unsigned netmap_host_rx(struct netmap_rx *rx, struct frame *batch, unsigned count);

void netmap_host_tx(struct netmap_tx *tx, struct frame *const *frames, unsigned count,
		    struct tx_report *report);
