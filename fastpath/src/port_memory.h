/* The far end of a memory port, for engine_memory_put and engine_memory_take. */
#pragma once

#include "port.h"

bool port_is_memory(const struct port *port);

/* See engine_memory_put and engine_memory_take; port_is_memory(port). */
int memory_put(struct port *port, uint16_t queue, const uint8_t *bytes, uint32_t len);
int memory_take(struct port *port, uint16_t queue, uint8_t *bytes, uint32_t room);

/*
 * One queue's rings and where buffer 0 is, for tests and benchmarks that drive the far end by
 * themselves: rx the switch receives from, tx it sends to.
 */
struct netmap_ring *memory_ring(struct port *port, uint16_t queue, bool tx);
