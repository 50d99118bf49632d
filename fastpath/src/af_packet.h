/*
 * AF_PACKET ports: what port_af_packet.c (acquire, attach, status), af_packet_rx.c and
 * af_packet_tx.c share. Nobody else includes this.
 *
 * fds, in this order: the journal; a receive socket a queue; a send socket a queue. The keeper
 * opens and holds them. The kernel's rings live as long as the receive sockets, so frames go on
 * arriving while no forwarder runs, and the next one goes on where the journal says.
 *
 * Ring geometry. Two veth pairs, a bare loop from port to port, medians of five runs in turn on
 * two busy CPUs (kernel 6.18), kframes/s at 60 and 1514 bytes: Linux bridge 334 and 365; V2 with
 * 4,096 slots of 2 KB 463 and 445, 512 slots of 2 KB 432 and 381, 256 slots of 128 KB 386 and
 * 304; V3 as below 509 and 405. TCP of 64 KB segments does not tell them apart. So:
 *   TPACKET_V2  4,096 slots of 2 KB (8 MB): 0.4 s of 10 k frames/s may pile up while a forwarder
 *               is replaced. A frame that does not fit its slot (jumbo, 64 KB GSO) waits in the
 *               socket's queue (PACKET_COPY_THRESH) and is fetched by recvmmsg into a few hot
 *               buffers; its slot keeps its place in the order. Slots of 68 KB would cost 70 MB
 *               for a quarter of that depth.
 *   TPACKET_V3  128 blocks of 256 KB, retired after 1 ms: frames of every size are packed, one
 *               wake-up a block, and up to a millisecond of delay.
 */
#pragma once

#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "port.h"

enum {
	AF_VNET_BYTES = sizeof(struct virtio_net_hdr),
	/* Bytes from a slot's beginning to the sender's address, and to what lies behind it:
	 * TPACKET_ALIGN and TPACKETn_HDRLEN without their sign conversion. */
	AF_V2_ADDRESS = (sizeof(struct tpacket2_hdr) + 15) / 16 * 16,
	AF_V3_ADDRESS = (sizeof(struct tpacket3_hdr) + 15) / 16 * 16,
	AF_V2_HEADER = AF_V2_ADDRESS + sizeof(struct sockaddr_ll),
	AF_V3_HEADER = AF_V3_ADDRESS + sizeof(struct sockaddr_ll),
	AF_RESERVE_BYTES = 42, /* makes the headroom 66 bytes and IP headers 4-aligned */

	AF_SLOTS = 4096,
	AF_SLOT_BYTES_MIN = 2048,
	AF_SLOT_BYTES_MAX = 16384, /* larger frames are fetched from the socket's queue */
	AF_SLOT_BLOCK_BYTES = 65536,
	AF_RING_BYTES_MAX = 32 << 20,
	AF_RING_BYTES_MIN = 512 << 10,
	AF_BLOCKS = 128,
	AF_BLOCK_BYTES = 256 << 10,
	AF_RETIRE_MS = 1,

	AF_COPY_FRAMES = 16, /* large frames fetched at a time: 1 MB stays in the cache */
	AF_COPY_BYTES = 17 * 4096,
	AF_RCVBUF_BYTES = 32 << 20,
	AF_SNDBUF_BYTES = 8 << 20,

	AF_TX_WAIT_NS = 4000000, /* for room in the send buffer, a batch */
	AF_IOVECS = 1024,
	AF_LINEAR_BYTES_MAX = 192, /* Ethernet, two tags, IPv6 with extensions, TCP with options */

	AF_PACKET_BITS = 24 /* of a V3 cursor: packet within its block */
};
static_assert(AF_VNET_BYTES == sizeof(struct frame_offload), "offload goes to the kernel as is");
static_assert(AF_COPY_BYTES >= FRAME_HEADROOM + AF_VNET_BYTES + FRAME_LEN_MAX, "GSO frames fit");

/*
 * What survives a killed forwarder, one page a receive queue. One writer: the worker that serves
 * the queue (kernel_drops: also the control thread). Positions only grow; a ring index is the
 * position modulo the ring's size.
 *
 * Order within a batch: copies received, marks, cursor, frames sent, slots given back, released.
 * A forwarder that dies before the cursor moves has its successor take the batch again; one that
 * dies behind it has it left out. The cursor moves right before the system call that sends, which
 * a kill does not interrupt: what a kill can lose is a batch that was in between.
 */
struct af_journal_queue {
	_Atomic uint64_t cursor;       /* V2: next slot. V3: block << AF_PACKET_BITS | packet */
	_Atomic uint64_t released;     /* V2: slots, V3: blocks given back to the kernel */
	_Atomic uint64_t copy_cursor;  /* copies[] belongs to the batch that begins here */
	_Atomic uint64_t kernel_drops; /* read from the kernel, in no counter cell yet */
	struct mmsghdr copies[AF_COPY_FRAMES]; /* the kernel writes msg_len as it delivers */
};

struct af_journal {
	uint64_t magic;
	uint32_t version; /* TPACKET_V2 or V3 */
	uint32_t queues;
};

enum { AF_JOURNAL_PAGE = 4096 };
static_assert(sizeof(struct af_journal_queue) <= AF_JOURNAL_PAGE, "a page a queue");

static inline size_t af_journal_bytes(unsigned queues)
{
	return AF_JOURNAL_PAGE +
	       queues * (size_t)(AF_JOURNAL_PAGE + AF_COPY_FRAMES * AF_COPY_BYTES);
}

struct af_rx {
	/* hot: the worker's */
	int fd;
	bool v3;
	bool check_outgoing; /* the kernel does not filter our own frames: look at each */
	uint8_t *ring;
	struct af_journal_queue *journal;
	uint64_t cursor;   /* where the next batch begins; the journal's once it is committed */
	uint64_t released; /* of the journal: rx_done gives back from here to the cursor */
	bool committed;
	uint32_t slot_mask;
	uint32_t slot_shift;
	uint32_t block_mask;
	uint32_t block_bytes;
	uint32_t v3_offset; /* of the next packet in the current block; 0: at its beginning */
	uint8_t *copy;	    /* AF_COPY_FRAMES buffers of AF_COPY_BYTES */
	struct iovec copy_iov[AF_COPY_FRAMES];
	size_t ring_bytes;
};

struct af_tx {
	int fd;
	bool stuck; /* the last wait was in vain: do not wait again before something was sent */
	struct mmsghdr messages[FRAME_BATCH];
	struct iovec iov[AF_IOVECS];
};

struct af_port {
	uint32_t ifindex;
	uint32_t version;
	uint32_t queues;
	uint32_t slots;
	uint32_t slot_bytes;
	uint8_t *journal;
	size_t journal_bytes;
	struct af_rx *rx;
	struct af_tx *tx;
};

/* af_packet_rx.c: the ops, and what attach calls to go on where the journal says. */
bool af_rx_recover(struct af_rx *rx); /* false: the journal makes no sense */
int af_rx(struct port_queue *queue, struct frame *batch, unsigned max, struct port_counters *cell);
void af_rx_commit(struct port_queue *queue);
void af_rx_done(struct port_queue *queue);
int af_rx_fd(const struct port_queue *queue);
/* Reads PACKET_STATISTICS, which resets it; returns the frames the kernel's ring had no room for.
 */
uint32_t af_rx_kernel_drops(const struct af_rx *rx);

/* af_packet_tx.c */
void af_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	   struct tx_report *report);

extern const struct port_ops port_af_packet_ops;
