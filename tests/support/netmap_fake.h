/*
 * A netmap module for tests: struct netmap_device over regions in memfds, laid out as the module
 * lays out its own, with the kernel's side played here.
 *
 * It takes nothing on trust, as the module does not, and says what the driver did wrong: buffers
 * exchanged without NS_BUF_CHANGED, indices outside what is the driver's, a buffer in two slots,
 * two threads in one ring, a ring with two owners.
 *
 * A frame put into an adapter waits in a receive ring until the driver's rxsync; one that the
 * driver handed over with txsync waits in the transmit ring, which is how a ring fills up, until it
 * is taken. Every adapter has rings for its host too.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "netmap_device.h"

enum { FAKE_BUFFER_BYTES = 2048, FAKE_RINGS_MAX = 8 };

extern const struct netmap_device netmap_fake; /* the same as fake_device() */

/* cffi: begin */
const struct netmap_device *fake_device(void);

/* What an adapter is: "eth0" has an interface, "vale0:p1" and "eth0{x" have none. */
struct fake_shape {
	unsigned rings;	     /* pairs */
	unsigned host_rings; /* pairs; 0: none, as VALE ports */
	unsigned slots;
	unsigned mem_id;
	unsigned vnet_bytes;
	unsigned mtu;
};

void fake_reset(void); /* closes nothing of the driver's; all adapters and regions are gone */
void fake_adapter(const char *name, const struct fake_shape *shape);

/* What a test does to an adapter. `host`: its host's rings instead of the network's. */
bool fake_put(const char *name, bool host, unsigned ring, const uint8_t *bytes, uint32_t len);
/* Bytes of the next frame, -1: none. */
int fake_take(const char *name, bool host, unsigned ring, uint8_t *bytes, uint32_t room);
void fake_gone(const char *name); /* the interface is unplugged */
void fake_link(const char *name, bool up);
/* Where a frame's bytes were in the region when it was put or taken last. */
uint64_t fake_last_buffer(void);

/* The ring as the kernel sees it. */
struct netmap_ring *fake_ring(const char *name, bool host, unsigned ring, bool tx);
uint64_t fake_offset(const void *address); /* in its region */
uint16_t fake_last_slot_flags(void);	   /* of the slot that the last txsync ended with */
/* Owners of a ring: fds that are registered for it. */
unsigned fake_owners(const char *name, bool host, unsigned ring, bool tx);
bool fake_promiscuous(const char *name);
uint64_t fake_last_flags(void); /* of the last REGISTER */

/* 0: every buffer is in exactly one slot, and the driver did nothing wrong so far. */
unsigned fake_faults(void);
const char *fake_fault(void); /* the first one */
/* cffi: end */
