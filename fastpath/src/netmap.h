/*
 * netmap ports: rings of a network interface, of its host stack, of a pipe or of a VALE port,
 * served by the netmap module.
 *
 *   port_netmap.c      attach, detach, status, the table of calls
 *   netmap_acquire.c   keeper: REGISTER, and what it needs of the interface
 *   netmap_rx.c        frames out of rx rings
 *   netmap_tx.c        frames into tx rings: buffers exchanged or bytes copied
 *   netmap_host.c      a port of NIC and host rings together (`*`)
 *   netmap_device.c    the calls into the kernel
 *
 * Every ring pair has an fd of its own, registered for that pair only, and one worker: no ring has
 * two owners. Fds, in this order: NIC rings, host rings, the interface's socket (if there is an
 * interface), the memory's file (with @extmem), the journal. The state says how many:
 *
 *   nic=N host=N first=RING tx=N rx=N htx=N hrx=N mem=ID kb=KILOBYTES hdr=BYTES ifindex=N ext=0|1
 *   pipe=0|1 flags=FLAGS oN=OFFSET...    (netmap_if of each fd in the region)
 *
 * The kernel touches head, cur and tail only in calls that the fd's owner makes. But a region may
 * be shared with other programs, so whatever is read from it is loaded once and checked, and what
 * never changes (where a ring is, its slots, its buffers) is checked once, when it is attached.
 *
 * After a kill. The rings live in the kernel and go on where they were:
 *   rx  cur tells how far a batch was committed, head how far its slots were given back; the next
 *       forwarder begins at cur.
 *   tx  head tells what was handed over. Two slots exchange their buffers by several stores; the
 *       journal holds the pair while they do, and the next forwarder completes it, so that no
 *       buffer is lost or in two slots.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "frame.h"
#include "netmap_device.h"
#include "port.h"
#include "portspec.h"
#include "ring.h"

enum {
	NETMAP_POOL = 0x8000,	     /* frame->pool of region N is this + N */
	NETMAP_TX_WAIT_NS = 2000000, /* for a full ring, in all of one batch */
	/* the same for a pipe, where the other end may have no processor just now */
	NETMAP_PIPE_WAIT_NS = 1000000000,
	NETMAP_SLOTS_MAX = 65536,   /* of a ring */
	NETMAP_VNET_BYTES_MAX = 12, /* of a virtio-net header */
	NETMAP_MONITOR = NR_MONITOR_TX | NR_MONITOR_RX | NR_ZCOPY_MON
};

/* One exchange of buffers that is going on, or none. One a transmit ring, in the journal. */
struct netmap_exchange {
	uint64_t to; /* where in the region the tx slot is; 0: none is going on */
	uint64_t from;
	uint32_t to_buffer; /* what the slots held before */
	uint32_t from_buffer;
	uint64_t reserved[5];
};
static_assert(sizeof(struct netmap_exchange) == 64, "a cache line each");

/* A ring, as it was checked when it was attached. */
struct netmap_view {
	struct netmap_ring *ring;
	uint8_t *buffers; /* buffer 0 */
	uint32_t buffer_count;
	uint32_t buffer_bytes;
	uint32_t slots;
	uint32_t vnet_bytes;
	uint64_t offset_mask; /* 0: frames begin where their buffers do */
};

struct netmap_rx {
	struct netmap_view view;
	int fd;
	uint16_t pool;
	uint32_t head;	     /* what ring->head is */
	uint32_t taken;	     /* what it becomes with rx_done */
	uint32_t released;   /* slots given back since the last sync */
	struct frame *parts; /* descriptors of what follows a first fragment: one a slot */
	struct netmap_host *host;
};

struct netmap_tx {
	struct netmap_view view;
	int fd;
	uint16_t pool;
	bool chains; /* NS_MOREFRAG: a frame may take several slots */
	uint32_t head;
	uint32_t wait_ns;
	uint32_t stalled_at; /* tail that did not move while we waited; `slots`: none */
	uint8_t *region;     /* its base */
	struct netmap_exchange *exchange;
	struct netmap_host *host;
};

struct netmap_region;
struct netmap_host; /* netmap_host.c; NULL unless NIC and host rings are one port */

struct netmap_port {
	unsigned rx_count, tx_count; /* NIC rings first, host rings behind them */
	unsigned nic_rx, nic_tx;
	struct netmap_rx rx[PORT_QUEUES_MAX];
	struct netmap_tx tx[PORT_QUEUES_MAX];
	struct netmap_host *host;
	struct netmap_region *region;
	struct netmap_exchange *journal; /* PORT_QUEUES_MAX of them */
	unsigned nic, host_rings;
	uint32_t flags;
	uint16_t mem_id;
	int interface; /* its socket, or -1 */
	uint32_t ifindex;
};

int netmap_acquire(const struct port_options *options, struct port_fds *fds, struct error *err);

int netmap_rx(struct port_queue *queue, struct frame *batch, unsigned max,
	      struct port_counters *cell);
void netmap_rx_commit(struct port_queue *queue);
void netmap_rx_done(struct port_queue *queue);
/* Begins where the last forwarder left off. */
void netmap_rx_resume(struct netmap_rx *rx);

void netmap_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	       struct tx_report *report);
/* Into this ring; `copy`: the frames stay where they are, somebody else gets them too. */
void netmap_send(struct netmap_tx *tx, struct frame *const *frames, unsigned count,
		 struct tx_report *report, bool copy);
/* Completes what the last forwarder began; `bytes` is the region's size. */
void netmap_tx_resume(struct netmap_tx *tx, uint64_t bytes);

/* The ring's index as the kernel left it; `fallback` where it is none. */
static inline uint32_t ring_index(const uint32_t *index, uint32_t slots, uint32_t fallback)
{
	uint32_t value = load_shared_acquire(index);

	return value < slots ? value : fallback;
}

static inline uint32_t view_next(const struct netmap_view *view, uint32_t at)
{
	return at + 1 == view->slots ? 0 : at + 1;
}

static inline bool view_buffer_valid(const struct netmap_view *view, uint32_t buffer)
{
	return buffer >= NETMAP_FIRST_BUFFER && buffer < view->buffer_count;
}

static inline uint8_t *view_buffer(const struct netmap_view *view, uint32_t buffer)
{
	return view->buffers + (size_t)buffer * view->buffer_bytes;
}
