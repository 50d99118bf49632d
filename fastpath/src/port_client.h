/*
 * client: a port whose far side is a netmap program, or any process that maps its memory
 * (client_memory.h). Engine calls that change one while it runs; the driver is port_client.c.
 *
 * Runs on: control thread.
 */
#pragma once

#include "port.h"

bool port_is_client(const struct port *port);

/* See engine_client_header; port_is_client(port). */
int client_set_header(struct port *port, uint32_t hdr_len, struct error *err);
