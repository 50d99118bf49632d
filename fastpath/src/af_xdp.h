/*
 * AF_XDP ports: what the files of the type share. Nobody else includes this.
 *
 *   af_xdp_open.c     (keeper)     sockets, memory: acquire, release
 *   af_xdp_program.c, af_xdp_btf.c  (keeper)  the XDP program that brings frames to the sockets
 *   port_af_xdp.c     (forwarder)  attach, detach, status
 *   af_xdp_rx.c       (workers)    frames in
 *   af_xdp_tx.c       (workers)    frames out
 *   af_xdp_partial.c  (workers)    checksums that a local sender left unfinished
 *
 * fds, in this order: memory; the link that holds the program at the interface; the map of
 * sockets; a packet socket (promiscuous mode, flags and MTU); a receive socket a queue; a send
 * socket a send queue. The program is taken off when the last holder of the link is gone, however
 * it ends, and what arrives from then on goes to the host's stack as before.
 *
 * One memory (UMEM) for all of a port, a memfd, so that the next forwarder maps the same. Each
 * queue has a share: chunks that frames come in, and chunks that they leave in. A chunk keeps its
 * side and its queue, hence its place tells whose it is.
 *
 *     page                 a queue                                       a queue
 *     [struct xdp_memory]  [struct xdp_journal | owner of send chunks] ... [receive | send chunks]
 * ...
 *
 * Receive chunks are in the fill ring, with the kernel, or named by the receive ring from its
 * consumer on; so who may have them follows from the rings. Send chunks are free, in the send
 * ring, in a packet on its way, or in the completion ring; `owner` tells a free one from one on
 * its way.
 *
 * Receive and send sockets are two because poll of a socket that has a send ring sends: a worker
 * that waits for frames would do so beside the one that holds the send queue.
 *
 * Copy mode: the kernel copies between its packets and the chunks, on sendto and in the softirq.
 * It looks at a send ring only within our system calls, on which tx relies where it takes back
 * what a dead link did not take.
 *
 * Sources: kernel Documentation/networking/af_xdp.rst; include/uapi/linux/if_xdp.h.
 */
#pragma once

#include <linux/if_xdp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "port.h"

/* Newer than the headers of Debian 12. */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif
#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

enum {
	XDP_CHUNK_BYTES = 2048,
	XDP_RX_CHUNKS = 4096, /* 0.4 s of 10 k frames/s while a forwarder is replaced */
	XDP_TX_CHUNKS = 2048,
	XDP_QUEUE_CHUNKS = XDP_RX_CHUNKS + XDP_TX_CHUNKS,
	XDP_KERNEL_HEADROOM = 256,   /* XDP_PACKET_HEADROOM, in front of each received piece */
	XDP_TX_PIECES = 16,	     /* a packet's: MAX_SKB_FRAGS is 17 */
	XDP_TX_BUDGET = 128,	     /* packets a system call */
	XDP_SNDBUF_BYTES = 16 << 20, /* above all send chunks: those are the limit */
	XDP_TX_WAIT_NS = 4000000,    /* for room, a batch */
	XDP_MORE_FRAGMENTS = 4 * FRAME_BATCH,
	XDP_PAGE = 4096,
};
static_assert((int)XDP_MORE_FRAGMENTS >= (int)FRAME_FRAGS_MAX, "the longest chain fits");

enum xdp_fd { XDP_FD_MEMORY, XDP_FD_LINK, XDP_FD_MAP, XDP_FD_PACKET, XDP_FD_SOCKETS };
static_assert((int)XDP_FD_SOCKETS + 2 * (int)PORT_QUEUES_MAX <= (int)PORT_FDS_MAX,
	      "fds of all queues fit");

/*
 * What survives a killed forwarder. Positions are those of the kernel's rings: 32 bits, only
 * growing, wrapping. One writer: the worker that serves the queue (kernel_drops: the control
 * thread adds, the worker takes).
 *
 * Receiving, order within a batch: cursor, frames sent, give_*, fill ring published, receive ring
 * consumed. A successor that finds the fill ring published and the receive ring not consumed does
 * the latter; one that finds neither gives back what lies before the cursor, and takes the rest
 * again.
 *
 * Sending: owner, (the source's cursor,) send ring published; back: owner, completion ring
 * consumed. An owner at or behind the published end was never given.
 */
struct xdp_journal {
	_Atomic uint32_t cursor;     /* of the receive ring: up to here frames were handed on */
	_Atomic uint32_t give_fill;  /* the fill ring's producer before giving back... */
	_Atomic uint32_t give_count; /* ...so many chunks; 0: no note */
	_Atomic uint32_t give_end;   /* ...after which the receive ring is consumed to here */
	_Atomic uint64_t kernel_drops;
	_Atomic uint64_t drops_seen; /* of the kernel's counters, which only grow */
};

enum { XDP_OWNER_FREE = 0, XDP_OWNER_GIVEN = 1 };

struct xdp_memory {
	uint64_t magic;
	uint32_t queues;
	uint32_t chunk_bytes;
};

enum { XDP_JOURNAL_BYTES = XDP_PAGE + XDP_TX_CHUNKS * sizeof(uint64_t) };

static inline size_t xdp_chunks_at(unsigned queues)
{
	return XDP_PAGE + queues * (size_t)XDP_JOURNAL_BYTES;
}

static inline size_t xdp_chunks_bytes(unsigned queues)
{
	return queues * (size_t)XDP_QUEUE_CHUNKS * XDP_CHUNK_BYTES;
}

/* A ring that the kernel shares. The kernel is its other side. */
struct xdp_ring {
	_Atomic uint32_t *producer;
	_Atomic uint32_t *consumer;
	void *entries; /* struct xdp_desc or uint64_t, a chunk's address */
	uint32_t mask;
	void *map;
	size_t map_bytes;
};

static inline uint64_t *xdp_ring_address(const struct xdp_ring *ring, uint32_t position)
{
	return (uint64_t *)ring->entries + (position & ring->mask);
}

static inline struct xdp_desc *xdp_ring_desc(const struct xdp_ring *ring, uint32_t position)
{
	return (struct xdp_desc *)ring->entries + (position & ring->mask);
}

struct xdp_tx;

struct xdp_rx {
	/* hot: the worker's */
	int fd;
	bool committed;
	uint32_t cursor;   /* where the next batch begins */
	uint32_t released; /* the receive ring's consumer */
	struct xdp_ring ring;
	struct xdp_ring fill;
	uint8_t *chunks; /* the first receive chunk, at umem address first */
	uint64_t first;
	struct xdp_journal *journal;
	struct xdp_tx *tx; /* of the same queue, or NULL: what it could not send is tried again */
	unsigned more_used;
	struct frame more[XDP_MORE_FRAGMENTS];
};

struct xdp_tx {
	int fd;
	int packet_fd;
	uint32_t ifindex;
	bool multi;	   /* packets of several pieces */
	bool stuck;	   /* the last wait was in vain: do not wait before something moved */
	atomic_bool tail;  /* published and not looked at by the kernel: to be kicked again */
	atomic_flag taken; /* by the sender, or by who kicks the tail */
	struct xdp_ring ring;
	struct xdp_ring completion;
	uint32_t end;	 /* the ring's producer */
	uint8_t *chunks; /* the first send chunk, at umem address first */
	uint64_t first;
	_Atomic uint64_t *owner; /* a send chunk: state << 32 | position in the ring */
	uint32_t free_count;
	uint32_t free[XDP_TX_CHUNKS];
};

struct xdp_port {
	uint32_t ifindex;
	uint32_t queues;
	uint32_t tx_queues;
	bool native;
	bool tags;
	bool multi;
	int packet_fd;
	uint8_t *memory;
	size_t memory_bytes;
	struct xdp_rx *rx;
	struct xdp_tx *tx;
};

/* af_xdp_open.c */
int xdp_acquire(const struct port_options *options, struct port_fds *fds, struct error *err);
void xdp_release(const struct port_options *options, const struct port_fds *fds);

/*
 * Maps one ring of a socket; entry_bytes is that of its entries. 0 or -errno.
 * `which` is the offset that names it: XDP_PGOFF_RX_RING and its like.
 */
int xdp_ring_map(int fd, uint64_t which, uint32_t entries, size_t entry_bytes,
		 struct xdp_ring *ring, struct error *err);
void xdp_ring_unmap(struct xdp_ring *ring);

/*
 * af_xdp_program.c: a map of sockets by queue, and the program that sends the frames of each queue
 * to its socket, those of other queues on to the host's stack.
 */
int xdp_map_make(unsigned queues, struct error *err);
int xdp_map_fill(int map, const int *sockets, unsigned queues, struct error *err);
struct xdp_attached {
	bool native; /* in the driver, else where the stack begins */
	bool tags;   /* a VLAN tag that the kernel keeps beside the frame is put back in line */
};
/* Loads the program and attaches it: the fd of the link. */
int xdp_program_attach(int map, uint32_t ifindex, const char *ifname, struct xdp_attached *how,
		       struct error *err);
void xdp_program_detach(int link);

/* af_xdp_btf.c: what a program calls a function of the kernel by; 0: there is none. */
uint32_t xdp_kernel_function(const char *name);

/* Up and with a carrier, as a packet socket tells; `request` then has the interface's name. */
struct ifreq;
bool xdp_link_up(int packet_fd, uint32_t ifindex, struct ifreq *request);

/* af_xdp_rx.c: the ops, and what attach calls to go on where the last forwarder stopped. */
bool xdp_rx_recover(struct xdp_rx *rx); /* false: rings and journal make no sense */
int xdp_rx(struct port_queue *queue, struct frame *batch, unsigned max, struct port_counters *cell);
void xdp_rx_commit(struct port_queue *queue);
void xdp_rx_done(struct port_queue *queue);
int xdp_rx_fd(const struct port_queue *queue);
/* Asks the kernel what it lost since the last call, and notes it for the worker to book. */
uint32_t xdp_rx_kernel_drops(struct xdp_rx *rx);

/* af_xdp_tx.c */
bool xdp_tx_recover(struct xdp_tx *tx);
void xdp_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	    struct tx_report *report);
/* What is still in the send ring is tried again, unless somebody is sending anyway. */
void xdp_tx_kick_tail(struct xdp_tx *tx);

/*
 * af_xdp_partial.c: a stack that leaves the checksum to its device writes the pseudo-header's sum
 * into the field (CHECKSUM_PARTIAL), and AF_XDP has no word for it. A frame whose field is exactly
 * that is marked as unfinished. A finished checksum that equals it by chance stays the same when
 * it is finished again.
 *
 * So is a TCP frame longer than the interface's MTU, which a sender left to be cut or the kernel
 * has put together from several: the program in the driver switches both off on veth, the generic
 * one does not. It is cut to the MTU where it leaves.
 */
void xdp_partial_mark(struct frame *frame, uint32_t mtu);
