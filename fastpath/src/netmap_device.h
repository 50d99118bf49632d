/*
 * The module as the driver sees it: every call that reaches /dev/netmap or the interface behind a
 * port goes through here. A test puts a device of its own in place, whose region is a memfd laid
 * out as the module does it and whose kernel side the test plays.
 *
 * Runs on: keeper (open, control, interface_open), forwarder's control thread (map,
 * interface_status) and workers (sync, wait).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "netmap_abi.h"
#include "port.h"

/* Every call returns 0 (or what it says) or -errno. */
struct netmap_device {
	int (*open)(void); /* an fd */
	int (*control)(int fd, struct nmreq_header *header);
	void *(*map)(int fd, uint64_t bytes); /* NULL: no */
	int (*sync)(int fd, bool tx);	      /* NIOCTXSYNC, NIOCRXSYNC of the fd's rings */
	/* Until the fd's tx ring has moved, or the time is over: > 0, 0. Syncs it. */
	int (*wait)(int fd, uint64_t timeout_ns);
	/*
	 * Brings the interface up, makes it promiscuous for as long as the fd that it returns is
	 * open, and sets *ifindex.
	 */
	int (*interface_open)(const char *ifname, bool promiscuous, uint32_t *ifindex);
	/* link_up, mtu, mac; false: the interface is gone. */
	bool (*interface_status)(int fd, uint32_t ifindex, struct port_status *status);
};

/* The one in use: the kernel's. */
extern const struct netmap_device *netmap_device;

/* cffi: begin */
struct netmap_device;

/* For tests, before any port is opened: another device, or NULL for the kernel's again. */
void netmap_device_use(const struct netmap_device *device);
/* cffi: end */
