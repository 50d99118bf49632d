/*
 * /dev/net/tun, as TAP and TUN ports share it: opening a device and its queues in the keeper,
 * reading and writing them in the forwarder. What differs is the unit: a TAP's is an Ethernet
 * frame, a TUN's an IP packet, to whose driver `link_header` bytes are missing in front.
 *
 * A device that acquire makes is owned by the keeper's uid: without an owner anyone who can open
 * /dev/net/tun could join as a queue and take frames. A device that was there keeps its owner. It
 * goes with the last fd unless `persistent` was asked for or it was persistent before; those stay
 * (`ip link del`), hence no release.
 *
 * Names follow the netdev when it moves to another namespace: everything about it is asked of
 * the fds, only the MTU is unknown there (0).
 *
 * Runs on: keeper (tundev_acquire), control thread (attach, detach, poll_status), workers (the
 * rest).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "port.h"

struct tundev_queue {
	int fd;
	uint8_t *arena; /* a batch lies in it end to end, each frame behind FRAME_HEADROOM */
};

struct tundev {
	struct tundev_queue queues[PORT_QUEUES_MAX];
	unsigned queue_count;
	unsigned link_header; /* bytes of Ethernet header that the kernel's side lacks: 0 or 14 */
	int socket;
	uint32_t ifindex;
	atomic_bool full; /* a send found no room: not writable need not mean link down */
};

enum tundev_kind { TUNDEV_TAP, TUNDEV_TUN };

/*
 * Makes the device (options name, queues, persistent, mtu) or joins a persistent one, and brings
 * the link up. fds: the queues in order, then a datagram socket, through which a forwarder that
 * may not make sockets asks for flags and MTU. state: "name=... queues=... caps=... ifindex=...".
 */
int tundev_acquire(enum tundev_kind kind, const struct port_options *options, struct port_fds *fds,
		   struct error *err);

/*
 * Of the fds the first ones, as acquire left them. Maps the arenas, sets the port's queues (whose
 * priv is a tundev_queue), caps and MTU. Borrows the fds. On failure leaves nothing mapped.
 */
int tundev_attach(struct tundev *dev, enum tundev_kind kind, struct port *port,
		  const struct port_options *options, const struct port_fds *fds,
		  struct error *err);
void tundev_detach(struct tundev *dev);

/* Everything but the detail; a TUN has no address of its own, so mac stays. */
void tundev_poll_status(struct tundev *dev, struct port *port, struct port_status *status);

/*
 * At most max units of one queue, with what the kernel says of their offload state; 0 or -ENETDOWN.
 * Bytes of a unit begin at data, FRAME_HEADROOM bytes before it are free.
 */
int tundev_rx(const struct tundev *dev, const struct tundev_queue *queue, struct frame *batch,
	      unsigned max, struct port_counters *cell);

/* A part of a frame as the kernel shall get it. */
struct tundev_unit {
	const struct frame *frame;
	struct frame_offload offload; /* offsets count from the first byte written */
	uint32_t skip;		      /* bytes of the frame left out in front */
	uint32_t len;		      /* bytes written behind them */
};

/*
 * Writes one unit; 0 or the errno of the write. *deadline_ns bounds the waiting for room in all
 * of one batch: 0 before the first call, kept by the caller.
 */
int tundev_write(struct tundev *dev, const struct tundev_queue *queue,
		 const struct tundev_unit *unit, uint64_t *deadline_ns);

/* What a failed write means for its frame. */
enum drop_reason tundev_drop_reason(int error, const struct frame *frame);
