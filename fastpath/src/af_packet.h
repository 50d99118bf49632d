/*
 * AF_PACKET ports: what the files of the type share. Nobody else includes this.
 *
 *   af_packet_options.c  (keeper)     what was asked for, and the geometry of the rings
 *   af_packet_open.c     (keeper)     sockets and rings: acquire
 *   af_packet_fanout.c   (keeper)     several sockets on one interface
 *   port_af_packet.c     (forwarder)  attach, detach, status
 *   af_packet_rx.c       (workers)    frames in: what all versions share, af_packet_rx.h
 *   af_packet_slots.c, af_packet_blocks.c        TPACKET_V1 and V2; V3
 *   af_packet_tx.c, af_packet_tx_ring.c          frames out: sendmmsg; a ring
 *
 * fds, in this order: the journal; a ring socket a queue; a send socket a queue. The keeper opens
 * and holds them. The kernel's rings live as long as the ring sockets, so frames go on arriving
 * while no forwarder runs, and the next one goes on where the journal says.
 *
 * Ring geometry. Two veth pairs, a bare loop from port to port, medians of five runs in turn on
 * two busy CPUs (kernel 6.18), kframes/s at 60 and 1514 bytes: Linux bridge 334 and 365; V2 with
 * 4,096 slots of 2 KB 463 and 445, 512 slots of 2 KB 432 and 381, 256 slots of 128 KB 386 and
 * 304; V3 as below 509 and 405. TCP of 64 KB segments does not tell them apart. So, where no
 * other geometry is asked for:
 *   V1 and V2   4,096 slots of 2 KB (8 MB): 0.4 s of 10 k frames/s may pile up while a forwarder
 *               is replaced. A frame that does not fit its slot (jumbo, 64 KB GSO) waits in the
 *               socket's queue (PACKET_COPY_THRESH) and is fetched by recvmmsg into a few hot
 *               buffers; its slot keeps its place in the order. Slots of 68 KB would cost 70 MB
 *               for a quarter of that depth.
 *   V3          128 blocks of 256 KB, retired after 1 ms: frames of every size are packed, one
 *               wake-up a block, and up to a millisecond of delay.
 *
 * V1 has no room for a VLAN tag, which the kernel always takes out of the frame (switching
 * rx-vlan-offload off does not stop it). The socket's filter therefore asks for one byte of a
 * tagged frame: its slot comes with tp_snaplen 1, and the frame is dropped as vlan_unsupported.
 */
#pragma once

#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "cbpf.h"
#include "port.h"

enum {
	AF_VNET_BYTES = sizeof(struct virtio_net_hdr),
	/* Bytes from a slot's beginning to the sender's address, and to what lies behind it:
	 * TPACKET_ALIGN and TPACKETn_HDRLEN without their sign conversion. */
	AF_V1_ADDRESS = (sizeof(struct tpacket_hdr) + 15) / 16 * 16,
	AF_V2_ADDRESS = (sizeof(struct tpacket2_hdr) + 15) / 16 * 16,
	AF_V3_ADDRESS = (sizeof(struct tpacket3_hdr) + 15) / 16 * 16,
	AF_V1_HEADER = AF_V1_ADDRESS + sizeof(struct sockaddr_ll),
	AF_V2_HEADER = AF_V2_ADDRESS + sizeof(struct sockaddr_ll),
	AF_V3_HEADER = AF_V3_ADDRESS + sizeof(struct sockaddr_ll),
	AF_BLOCK_HEADER = sizeof(struct tpacket_block_desc),
	AF_RESERVE_BYTES = 42, /* makes the headroom 66 bytes and IP headers 4-aligned */

	AF_SLOTS = 4096,
	AF_TX_SLOTS = 512,
	AF_SLOT_BYTES_MIN = 2048,
	AF_SLOT_BYTES_MAX = 16384, /* larger frames are fetched from the socket's queue */
	AF_SLOT_BLOCK_BYTES = 65536,
	AF_RING_BYTES_CHOSEN = 32 << 20,
	AF_RING_BYTES_MIN = 512 << 10,
	AF_RING_BYTES_MAX = 1 << 30, /* as asked for, of all queues */
	AF_SLOTS_MAX = 1 << 20,
	AF_BLOCKS = 128,
	AF_BLOCK_BYTES = 256 << 10,
	AF_RETIRE_MS = 1,
	AF_RETIRE_MS_MAX = 10000,

	AF_COPY_FRAMES = 16, /* large frames fetched at a time: 1 MB stays in the cache */
	AF_COPY_BYTES = 17 * 4096,
	AF_RCVBUF_BYTES = 32 << 20,
	AF_SNDBUF_BYTES = 8 << 20,

	AF_TX_WAIT_NS = 4000000, /* for room in the send buffer, a batch */
	AF_IOVECS = 1024,
	AF_LINEAR_BYTES_MAX = 192, /* Ethernet, two tags, IPv6 with extensions, TCP with options */

	AF_TAGGED_SNAPLEN = 1, /* V1: what the filter leaves of a tagged frame */

	AF_PACKET_BITS = 24 /* of a V3 cursor: packet within its block */
};
static_assert(AF_VNET_BYTES == sizeof(struct frame_offload), "offload goes to the kernel as is");
static_assert(AF_COPY_BYTES >= FRAME_HEADROOM + AF_VNET_BYTES + FRAME_LEN_MAX, "GSO frames fit");

/* Which rings a port's ring sockets have: one mapping, the receive ring first. */
enum af_rings {
	AF_RING_RX = 1 << 0,
	AF_RING_TX = 1 << 1,
};

/*
 * A ring as PACKET_RX_RING and PACKET_TX_RING take it: `blocks` of `block_bytes`, in each of them
 * as many slots of `frame_bytes` as fit. What is left at a block's end is a gap. V3 receive rings
 * are blocks of packed frames; frame_bytes is then only what the kernel wants to see.
 */
struct af_geometry {
	uint32_t block_bytes;
	uint32_t blocks;
	uint32_t frame_bytes;
};

/* What the options ask for; 0 in `geometry` and retire_ms: chosen. */
struct af_wanted {
	const char *ifname;
	uint32_t version; /* 1 to 3 */
	uint32_t queues;
	uint32_t rings; /* enum af_rings */
	struct af_geometry geometry;
	uint32_t retire_ms; /* V3: an unfilled block is handed over after this */
	bool rxhash;	    /* V3: the kernel's flow hash comes with each frame */
	bool qdisc_bypass;
	uint32_t timestamp; /* SOF_TIMESTAMPING_*, 0: the kernel's clock as it fills the slot */
	uint16_t fanout;    /* PACKET_FANOUT_* */
	uint16_t fanout_flags;
	uint32_t fanout_group; /* AF_GROUP_OWN: one of its own */
	struct cbpf *filter;   /* allocated */
	struct cbpf *fanout_program;
};

enum { AF_GROUP_OWN = 1 << 16 };

/* What was found or chosen. */
struct af_opened {
	uint32_t ifindex;
	uint32_t mtu;
	struct af_geometry rx; /* blocks 0: there is no such ring */
	struct af_geometry tx;
	bool ignores_outgoing;
};

/*
 * What survives a killed forwarder, one page a receive queue. One writer: the worker that serves
 * the queue (kernel_drops: also the control thread; tx_*: the worker that sends). Positions only
 * grow; a ring index is the position modulo the ring's size.
 *
 * Order within a batch: copies received, marks, cursor, frames sent, slots given back, released.
 * A forwarder that dies before the cursor moves has its successor take the batch again; one that
 * dies behind it has it left out. The cursor moves right before the system call that sends, which
 * a kill does not interrupt: what a kill can lose is a batch that was in between.
 *
 * Order within a batch of a send ring: slots filled, (the source's cursor,) tx_end, slots marked,
 * tx_kicked, send, tx_first. So a successor knows whether the kernel may have looked at the slots
 * from tx_first to tx_end, and finishes what was begun (af_tx_ring_recover).
 */
struct af_journal_queue {
	_Atomic uint64_t cursor;       /* V1, V2: next slot. V3: block << AF_PACKET_BITS | packet */
	_Atomic uint64_t released;     /* V1, V2: slots, V3: blocks given back to the kernel */
	_Atomic uint64_t copy_cursor;  /* copies[] belongs to the batch that begins here */
	_Atomic uint64_t kernel_drops; /* read from the kernel, in no counter cell yet */
	struct mmsghdr copies[AF_COPY_FRAMES]; /* the kernel writes msg_len as it delivers */
	_Atomic uint64_t tx_first; /* of the batch under way; == tx_end: there is none */
	_Atomic uint64_t tx_end;
	_Atomic uint64_t tx_kicked; /* == tx_end: the kernel was or is about to be told */
};

struct af_journal {
	uint64_t magic;
	uint32_t version; /* 1 to 3 */
	uint32_t queues;
};

enum { AF_JOURNAL_PAGE = 4096 };
static_assert(sizeof(struct af_journal_queue) <= AF_JOURNAL_PAGE, "a page a queue");

static inline size_t af_journal_bytes(unsigned queues)
{
	return AF_JOURNAL_PAGE +
	       queues * (size_t)(AF_JOURNAL_PAGE + AF_COPY_FRAMES * AF_COPY_BYTES);
}

/* Where the slots of a ring are. */
struct af_slots {
	uint8_t *base;
	uint32_t count;
	uint32_t mask; /* where count and slot size are powers of two without gaps: no division */
	uint32_t shift;
	uint32_t slot_bytes;
	uint32_t *offsets; /* else: of each slot from base, allocated */
};

static inline uint8_t *af_slot(const struct af_slots *slots, uint64_t position)
{
	if (__builtin_expect(!slots->offsets, 1))
		return slots->base + ((size_t)(position & slots->mask) << slots->shift);
	return slots->base + slots->offsets[position % slots->count];
}

struct af_rx {
	/* hot: the worker's */
	int fd;
	uint8_t version;
	bool check_outgoing; /* the kernel does not filter our own frames: look at each */
	bool committed;
	struct af_journal_queue *journal;
	uint64_t cursor;       /* where the next batch begins; the journal's once it is committed */
	uint64_t released;     /* of the journal: rx_done gives back from here to the cursor */
	struct af_slots slots; /* V1, V2 */
	uint8_t *ring;	       /* V3 */
	uint32_t blocks;
	uint32_t block_bytes;
	uint32_t v3_offset; /* of the next packet in the current block; 0: at its beginning */
	uint8_t *copy;	    /* AF_COPY_FRAMES buffers of AF_COPY_BYTES */
	struct iovec copy_iov[AF_COPY_FRAMES];
	_Atomic uint32_t stamps;  /* TP_STATUS_TS_* bits seen */
	_Atomic uint32_t freezes; /* V3: how often the kernel found all blocks taken */
};

struct af_tx {
	int fd;
	bool stuck; /* the last wait was in vain: do not wait again before something was sent */
	int ring_fd;
	uint8_t version;
	uint32_t room;	       /* bytes of a frame that a slot of the ring takes; 0: no ring */
	struct af_slots slots; /* the send ring */
	uint64_t head;	       /* position of the next slot, for the kernel too */
	struct af_journal_queue *journal;
	struct mmsghdr messages[FRAME_BATCH];
	struct iovec iov[AF_IOVECS];
};

struct af_port {
	uint32_t ifindex;
	uint32_t version;
	uint32_t queues;
	uint32_t rings;
	struct af_geometry rx_geometry;
	struct af_geometry tx_geometry;
	size_t ring_bytes; /* of a queue's mapping */
	uint8_t **maps;	   /* one a queue */
	uint8_t *journal;
	size_t journal_bytes;
	struct af_rx *rx;
	struct af_tx *tx;
};

/* af_packet_options.c */
extern const char *const af_option_names[];
/* Undone by af_options_free, whatever it returns. */
int af_options_read(const struct port_options *options, struct af_wanted *wanted,
		    struct error *err);
void af_options_free(struct af_wanted *wanted);
/* The geometry asked for, completed; -EINVAL names the option that breaks a rule of the kernel. */
int af_geometry_choose(const struct af_wanted *wanted, struct af_opened *opened, struct error *err);
static inline uint32_t af_geometry_slots(const struct af_geometry *geometry)
{
	return geometry->block_bytes / geometry->frame_bytes * geometry->blocks;
}
static inline size_t af_geometry_bytes(const struct af_geometry *geometry)
{
	return (size_t)geometry->block_bytes * geometry->blocks;
}

/* af_packet_open.c */
int af_packet_acquire(const struct port_options *options, struct port_fds *fds, struct error *err);
int af_set_u32(int fd, int level, int option, const char *what, uint32_t value, struct error *err);

/* af_packet_fanout.c: the socket's filter; then, with all sockets bound, their group. */
int af_filter_attach(int fd, const struct af_wanted *wanted, struct error *err);
int af_filter_mute(int fd, struct error *err);
void af_packet_prepare(void);
int af_fanout_join(const int *rx, const struct af_wanted *wanted, const struct af_opened *opened,
		   struct error *err);

/* af_packet_rx.c: the ops, and what attach calls to go on where the journal says. */
bool af_rx_recover(struct af_rx *rx); /* false: the journal makes no sense */
int af_rx(struct port_queue *queue, struct frame *batch, unsigned max, struct port_counters *cell);
void af_rx_commit(struct port_queue *queue);
void af_rx_done(struct port_queue *queue);
int af_rx_fd(const struct port_queue *queue);
/* Reads PACKET_STATISTICS, which resets it; returns the frames the kernel's ring had no room for.
 */
uint32_t af_rx_kernel_drops(struct af_rx *rx);

/* af_packet_tx.c */
void af_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	   struct tx_report *report);

/* af_packet_tx_ring.c: of frames that fit, sends as many as the kernel takes; returns how many. */
unsigned af_tx_ring(struct af_tx *tx, struct frame *const *frames, unsigned count,
		    struct tx_report *report);
bool af_tx_ring_recover(struct af_tx *tx); /* false: the journal makes no sense */

extern const struct port_ops port_af_packet_ops;
