/*
 * Ethernet frames in UDP datagrams between static peers: what the port types vxlan and udp share
 * (overlay.c: attach, status; overlay_open.c: options and sockets; overlay_rx.c, overlay_tx.c).
 * What differs between the two is a struct overlay_kind; port_vxlan.c and port_udp.c are that.
 *
 * The host's own stack is the underlay: sockets bound to one local address, never to all.
 *
 * In. A datagram from an address that is no peer's, with a header that is wrong or with another
 * network identifier is dropped and counted. The frame's source address is learned as being
 * behind its peer (fdb.h, port id = the peer's index), in memory that the keeper holds.
 *
 * Out. A frame for a learned address goes to that peer, any other to all of them (head-end
 * replication); it counts as sent once it went to one. A frame never goes back to a peer, because
 * the bridge never sends it to the port that it came from: a full mesh of such ports has no loop.
 *
 * fds, in this order: the receive sockets, one a queue (SO_REUSEPORT where there are several);
 * the send sockets (vxlan: one a source port; udp: none, peers expect the port that they send to);
 * the memory of the receive queues; the table of stations; for IPv6 the kernel's list of
 * addresses. state: "queues=... sources=... ipv6=... mtu=...".
 *
 * Receive memory. recvmmsg writes datagrams, their lengths and their senders into a memfd, so what
 * a killed forwarder had taken from the socket and not begun to send is found there by the next
 * one: an entry whose length is not OVERLAY_EMPTY, from the cursor on. The cursor moves when the
 * batch is committed (port.h, rx_commit).
 */
#pragma once

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "fdb.h"
#include "port.h"

enum {
	OVERLAY_HEADER_LEN = 8, /* of both encapsulations */
	OVERLAY_PEERS_MAX = 64,
	OVERLAY_SOURCES_MAX = 16,
	OVERLAY_TX_QUEUES = 4,
	OVERLAY_STATIONS_MAX = 8192,
	OVERLAY_DATAGRAM_MAX = 65507, /* payload of UDP over IPv4 */
	OVERLAY_SEGMENTS_MAX = 64,    /* UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT */
	OVERLAY_MESSAGES = 32,	      /* taken from a socket at a time */
	OVERLAY_VECTORS = 1024,	      /* UIO_MAXIOV */
	/* No multiple of a page, so that the frames' beginnings do not share cache sets. */
	OVERLAY_BUFFER_BYTES = 65536 + FRAME_HEADROOM + 64,
	OVERLAY_CONTROL_BYTES = 64,
};
static const uint32_t OVERLAY_EMPTY = UINT32_MAX;

/* An address and a port, comparable with memcmp: IPv4 is mapped (::ffff:a.b.c.d). */
struct overlay_endpoint {
	uint8_t ip[16];
	uint8_t port[2]; /* network order; 0 where any port will do */
};

struct overlay_kind {
	/* Fills the header of a frame of frame_len bytes. */
	void (*encode)(uint8_t *header, uint32_t vni, uint32_t frame_len);
	/* The VNI of a datagram of len bytes; false: the header is wrong. */
	bool (*decode)(const uint8_t *header, uint32_t len, uint32_t *vni);
	const char *peers_option;
	uint16_t default_port; /* 0: every address names its port */
	bool from_one_port;    /* a peer sends from the port that it receives at, and so do we */
};

extern const struct overlay_kind overlay_vxlan;
extern const struct overlay_kind overlay_udp;

struct overlay_config {
	uint32_t vni;
	uint32_t queues;
	uint32_t sources; /* send sockets; 0: the first receive socket sends */
	bool ipv6;
	bool compare_ports; /* a peer is known by its address and port, not by the address alone */
	struct overlay_endpoint local;
	unsigned peer_count;
	struct overlay_endpoint peers[OVERLAY_PEERS_MAX]; /* ascending, with their ports */
};

/* What the kernel fills in for one datagram, in the shared memory. */
struct overlay_slot {
	struct sockaddr_in6 from; /* or sockaddr_in */
	struct iovec parts[2];
	uint8_t header[OVERLAY_HEADER_LEN];
	_Alignas(8) uint8_t control[OVERLAY_CONTROL_BYTES];
};

struct overlay_memory {
	uint64_t magic;
	_Atomic uint64_t cursor; /* message << 32 | byte: where the next batch begins */
	uint64_t drops_seen;	 /* the socket's own count, when it was last read */
	_Atomic uint64_t drops;	 /* of these, not yet booked */
	struct mmsghdr messages[OVERLAY_MESSAGES];
	struct overlay_slot slots[OVERLAY_MESSAGES];
	_Alignas(64) uint8_t buffers[OVERLAY_MESSAGES][OVERLAY_BUFFER_BYTES];
};

struct overlay;

struct overlay_rx {
	struct overlay *overlay;
	struct overlay_memory *memory;
	int fd;
	uint32_t count;	  /* messages received */
	uint32_t message; /* of these, the next to look at */
	uint32_t offset;  /* in it */
	uint32_t segment; /* bytes of a datagram in it (UDP_GRO), or all of it */
	int peer;	  /* that sent it; -1: nobody's */
	bool committed;
};

struct overlay_entry {
	uint16_t next; /* of the same source and peer, plus 1 */
	uint16_t frame;
};

struct overlay_run {
	uint16_t first; /* entry */
	uint16_t count;
};

/* A transmit queue's room. */
struct overlay_tx {
	struct overlay *overlay;
	struct overlay_entry entries[FRAME_BATCH * OVERLAY_PEERS_MAX];
	uint16_t head[OVERLAY_SOURCES_MAX][OVERLAY_PEERS_MAX]; /* entry plus 1; 0: none */
	uint16_t tail[OVERLAY_SOURCES_MAX][OVERLAY_PEERS_MAX];
	uint8_t active[OVERLAY_SOURCES_MAX][OVERLAY_PEERS_MAX]; /* peers with entries */
	uint8_t active_count[OVERLAY_SOURCES_MAX];
	unsigned entry_count;
	/* by frame */
	uint8_t headers[FRAME_BATCH][OVERLAY_HEADER_LEN];
	bool sent[FRAME_BATCH];
	uint8_t reason[FRAME_BATCH];
	/* what sendmmsg is given */
	unsigned message_count;
	unsigned vector_count;
	struct mmsghdr messages[OVERLAY_MESSAGES];
	struct overlay_run runs[OVERLAY_MESSAGES];
	struct iovec vectors[OVERLAY_VECTORS];
	_Alignas(8) uint8_t control[OVERLAY_MESSAGES][OVERLAY_CONTROL_BYTES];
};

struct overlay {
	const struct overlay_kind *kind;
	struct overlay_config config;
	struct fdb *fdb;
	_Atomic uint32_t
	    segment_max; /* bytes of a datagram that UDP_SEGMENT may cut; 0: it cannot */
	_Atomic uint32_t
	    mtu; /* payload of a frame that the underlay carries in one piece; 0: unknown */
	_Atomic bool no_segments; /* the kernel or the device refused */
	unsigned source_count;
	int sources[OVERLAY_SOURCES_MAX];
	struct sockaddr_in6 peers[OVERLAY_PEERS_MAX]; /* or sockaddr_in */
	socklen_t peer_bytes;
	struct overlay_rx rx[PORT_QUEUES_MAX];
	struct overlay_tx *tx; /* OVERLAY_TX_QUEUES */
	/* control thread */
	void *stations;	   /* the table's memory */
	int addresses;	   /* the kernel's list of IPv6 addresses, or -1 */
	uint32_t path_mtu; /* when it was opened: for an address that is on no wire itself */
};

/* The index of an endpoint among the peers, or -1. */
int overlay_peer_find(const struct overlay_config *config, const struct overlay_endpoint *from);

/* overlay_open.c */
int overlay_config_parse(const struct overlay_kind *kind, const struct port_options *options,
			 struct overlay_config *config, struct error *err);
socklen_t overlay_sockaddr(const struct overlay_endpoint *endpoint, bool ipv6,
			   struct sockaddr_in6 *address);
uint64_t overlay_memory_bytes(uint32_t queues);
int overlay_acquire(const struct overlay_kind *kind, const struct port_options *options,
		    struct port_fds *fds, struct error *err);

/* overlay.c; the rest of port_ops is the same for every kind */
int overlay_attach(const struct overlay_kind *kind, struct port *port,
		   const struct port_options *options, const struct port_fds *fds,
		   struct error *err);
void overlay_detach(struct port *port);
void overlay_poll_status(struct port *port, struct port_status *status);

/* overlay_rx.c */
void overlay_rx_init(struct overlay_rx *rx, struct overlay *overlay, int fd,
		     struct overlay_memory *memory);
int overlay_rx(struct port_queue *queue, struct frame *batch, unsigned max,
	       struct port_counters *cell);
void overlay_rx_commit(struct port_queue *queue);
int overlay_rx_fd(const struct port_queue *queue);
/* Control thread: datagrams the socket had no room for, since the last look. */
uint32_t overlay_rx_drops(struct overlay_rx *rx);

/* overlay_tx.c */
void overlay_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		struct tx_report *report);
