/*
 * Inside of the TUN driver. What lies behind the port and who is on the bridge is
 * port_tun_neighbors.c's; port_tun.c moves packets and frames.
 *
 * Two threads meet here: the worker that receives from the TUN, and whoever sends to it (one at a
 * time, the tx stage sees to that). The lock guards both tables, the mail and the waiting
 * packets; under it nothing waits, and the longest thing done is one look at each entry, once a
 * second.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "neighbor.h"
#include "neighbor_table.h"
#include "port.h"
#include "port_tundev.h"

enum {
	TUN_ROUTES = 64, /* answers the receiving worker remembers; a power of two */
	TUN_SOURCES = 16,
	TUN_MAIL = 64,	      /* messages of ours that wait for the receiving worker */
	TUN_WAITING = 256,    /* packets that wait for a neighbour, all together */
	TUN_KNOCKS_A_S = 100, /* questions to the stack behind the port */
	TUN_BUFFER_BYTES = FRAME_HEADROOM + FRAME_LEN_MAX + 1
};

struct tun_message {
	uint8_t room[FRAME_HEADROOM];
	uint8_t bytes[NEIGHBOR_BYTES + 2];
	unsigned len;
};

/* A packet that waits; its buffer has the same number. */
struct tun_waiting {
	uint32_t len;
	uint16_t next;
	uint16_t ethertype;
	uint64_t mac; /* once it is known */
	struct frame_offload offload;
};

/* What a port knows, in memory that outlives a killed forwarder. */
struct tun_memory {
	uint64_t magic;			/* 0: new */
	struct neighbor_table stations; /* on the bridge */
	struct neighbor_table behind;
};

struct tun_chain {
	uint16_t first;
	uint16_t last;
};

struct tun_route {
	struct neighbor_addr addr;
	uint64_t mac; /* 0: of no meaning */
	uint64_t changes;
	uint32_t now_s;
};

struct tun {
	struct tundev dev;
	uint64_t mac; /* the port's */
	uint64_t key; /* of knocks */
	struct neighbor_prefix prefix;
	bool has_prefix;
	int poll_fd;  /* the queue, the bell and the timer in one */
	int bell_fd;  /* an eventfd: there is mail, or a neighbour has been found */
	int timer_fd; /* once a second */
	atomic_bool rung;
	atomic_bool news;	  /* mail, or packets that are ready or dead */
	_Atomic uint64_t changes; /* of both tables */
	_Atomic uint32_t known;	  /* stations on the bridge, for the status */
	_Atomic uint32_t known_behind;

	pthread_spinlock_t lock;
	struct tun_memory *memory;
	struct tun_message mail[TUN_MAIL];
	unsigned mail_first, mail_count;
	struct tun_waiting waiting[TUN_WAITING];
	struct tun_chain unused, ready, dead;
	uint32_t knock_s;
	unsigned knocks; /* in that second */

	/* the receiving worker's */
	uint32_t tick_s;
	uint8_t *buffers; /* TUN_WAITING of TUN_BUFFER_BYTES */
	struct tun_message out[FRAME_BATCH];
	uint16_t leaving[FRAME_BATCH]; /* buffers of this batch */
	unsigned leaving_count;
	struct tun_route routes[TUN_ROUTES];
	struct tun_route sources[TUN_SOURCES]; /* known to be behind */
};

void tun_lock(struct tun *tun);
/* Whoever has to know is woken. */
void tun_unlock(struct tun *tun);

/* The memory is mapped: begins it, or goes on with what it holds. */
int tun_neighbors_init(struct tun *tun, struct error *err);

/* --- the receiving worker --- */

enum tun_verdict {
	TUN_SEND, /* the frame has its Ethernet header */
	TUN_WAIT, /* copied; it comes back by tun_release or as a drop */
	TUN_USED, /* the answer to a question of the port's */
	TUN_DROP
};

/* Gives the packet its Ethernet header. TUN_DROP: *reason says why. */
enum tun_verdict tun_address(struct tun *tun, struct frame *frame, uint32_t now_s,
			     enum drop_reason *reason);

/* Packets whose neighbour has been found, then messages of the port's own, into batch. */
unsigned tun_release(struct tun *tun, struct frame *batch, unsigned max);
unsigned tun_post(struct tun *tun, struct frame *batch, unsigned max);
/* The last batch is done: its buffers may be used again. */
void tun_recycle(struct tun *tun);
/* Asks again, gives up, forgets. */
void tun_tick(struct tun *tun, uint32_t now_s);
/* Books the packets for which nobody answered. */
void tun_bury(struct tun *tun, struct port_counters *cell);

/* --- whoever sends to the port --- */

/*
 * A message about neighbours from the bridge. False: there is no room for the answer. *knock_len
 * bytes of knock shall be written to the TUN.
 */
bool tun_hear(struct tun *tun, enum neighbor_kind kind, const struct neighbor_message *message,
	      uint64_t source, uint32_t now_s, uint8_t knock[NEIGHBOR_KNOCK_BYTES],
	      unsigned *knock_len);
