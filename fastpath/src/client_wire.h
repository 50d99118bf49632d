/*
 * What a netmap program's library and the forwarder say to each other over netmap.sock
 * (SOCK_SEQPACKET, in the run directory). One packet a request, one the answer, in this order; fds
 * travel along. Numbers are in host order: both ends are on one machine.
 *
 * The connection is what the program takes for its fd of /dev/netmap: it can be duplicated,
 * inherited and passed on, and its end of file comes with the last close, which is when what it was
 * bound to goes. Whoever receives such an fd asks CLIENT_DESCRIBE what it is.
 *
 * A request that gets no answer within a second (the forwarder died in between) is sent again with
 * the same id, and answered as if it came for the first time: REGISTER of what the connection is
 * bound to already answers the same again.
 *
 * Errors are netmap's errno table: `error` is 0 or a positive errno.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

/* cffi: begin */
enum {
	CLIENT_WIRE_VERSION = 1,
	CLIENT_NAME_MAX = 64, /* NETMAP_REQ_IFNAMSIZ, with its 0 */
	CLIENT_PROGRAM_MAX = 32,
	CLIENT_FDS = 36 /* at most, in one packet */
};

enum client_request_type {
	/* Binds the connection to a port. fds along: the program's memory (a memfd that the switch
	 * keeps for others who get this connection, and never maps). */
	CLIENT_REGISTER = 1,
	/* What REGISTER answered, and the memory's fd, for a process that was given the fd.
	 * ENXIO: not bound. */
	CLIENT_DESCRIBE,
	CLIENT_INFO,	/* NETMAP_REQ_PORT_INFO_GET: rings and slots of `name` */
	CLIENT_LIST,	/* NETMAP_REQ_VALE_LIST: from `index`, the next port; ENOENT: none */
	CLIENT_HDR_SET, /* NETMAP_REQ_PORT_HDR_SET: `name`, `hdr_len` 0, 10 or 12 */
	CLIENT_HDR_GET,
	/* Direct mode. Ports are told by their number in the table of addresses.
	 * PEER: the pair with port `index`, made if need be; ENXIO: it takes no direct frames.
	 * NEWS: of the pairs there are, that with the lowest number from `index` on; ENOENT: none.
	 * FDB: the table (fdb_view.h), to read; ENXIO: the port has none, use its outbox. */
	CLIENT_PEER,
	CLIENT_NEWS,
	CLIENT_REGION, /* the memory of region `mem_id`, for another port in it; same user only */
	CLIENT_FDB,
	CLIENT_ALIVE /* does registration `index` of this user last? ENXIO: it ended */
};

struct client_request {
	uint32_t id;
	uint16_t version;	    /* CLIENT_WIRE_VERSION */
	uint16_t type;		    /* enum client_request_type */
	char name[CLIENT_NAME_MAX]; /* as nr_name: "vale0:p1", "vale0:p1{3", 0-terminated */
	char program[CLIENT_PROGRAM_MAX];
	uint32_t mode;	  /* enum netmap_mode */
	uint32_t ring_id; /* of NR_REG_ONE_NIC */
	uint64_t flags;	  /* NR_* */
	uint32_t tx_rings, rx_rings, tx_slots,
	    rx_slots;	 /* wanted; 0: the default, or what there is */
	uint32_t mem_id; /* wanted region, 0: a new one */
	uint32_t hdr_len;
	uint32_t index;
	uint32_t switch_index; /* CLIENT_LIST: nr_bridge_idx */
	uint8_t reserved[48];
};

/*
 * fds: REGISTER and DESCRIBE: the program's own memory (of REGISTER where `shared` is 1 only), then
 * those of the port or pipe (client_memory.h). PEER and NEWS: those of the pair. REGION: the
 * memory. FDB: the table.
 */
struct client_answer {
	uint32_t id;
	uint32_t error;
	uint32_t session;    /* number of the registration; 0: none */
	uint32_t port_index; /* the port's number on its switch */
	char name[CLIENT_NAME_MAX];
	uint32_t mode;
	uint32_t ring_id;
	uint64_t flags;
	uint32_t tx_rings, rx_rings, tx_slots, rx_slots;
	uint32_t mem_id; /* 2 and up */
	uint32_t shared; /* 1: the port was open before, its memory comes along */
	uint32_t hdr_len;
	uint32_t index; /* CLIENT_LIST: the port's; PEER, NEWS: the other port's; FDB: this one's */
	uint32_t switch_index;
	uint32_t more;	     /* NEWS: there are more */
	uint32_t side;	     /* of the memory that comes along: client_memory.h */
	uint32_t fdb_number; /* CLIENT_FDB: the table's, as `direct` says it */
	uint64_t fdb_bytes;
	uint8_t reserved[72];
};
/* cffi: end */
static_assert(sizeof(struct client_request) == 200, "no holes");
static_assert(sizeof(struct client_answer) == 224, "no holes");
