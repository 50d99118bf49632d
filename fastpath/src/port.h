/*
 * What a port driver is. One file a type (port_<type>.c), one line in port_types.c.
 *
 * A port has two halves in two processes:
 *   acquire  in the keeper, with NET_ADMIN and NET_RAW: opens devices, sizes and binds them and
 *            returns every fd the port needs (journal memfds too). The keeper holds them for the
 *            port's life, so that nothing is lost when the forwarder dies.
 *   attach   in the forwarder, without any capability: maps what the fds name. Called again with
 *            the same fds in each new forwarder; the port goes on where the last one stopped.
 *
 * Threads: acquire, attach, detach, poll_status run on the control thread of their process;
 * rx, rx_done and tx on workers. One worker at a time calls rx/rx_done of a receive queue. A
 * transmit queue is called by one worker at a time too: the tx stage gives each worker its own
 * or takes the queue's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "frame.h"
#include "stats.h"

/* cffi: begin */
enum {
	PORT_NAME_MAX = 32,
	PORT_QUEUES_MAX = 16,
	PORT_FDS_MAX = 40 /* two a queue, journal, and some to spare */
};

/* Options as they come from the API, as text: {"ifname", "veth-a"}, {"queues", "2"}. */
struct port_option {
	const char *name;
	const char *value;
};

struct port_options {
	const char *port; /* the port's own name, for messages */
	const struct port_option *items;
	unsigned count;
};

/*
 * What acquire leaves with the keeper. The order of fds is the driver's own affair: attach
 * gets them back in the same order. `state` is a short text that describes what was opened
 * (interface index, name given by the kernel, geometry) in the driver's own words: "k=v k=v".
 */
struct port_fds {
	int fd[PORT_FDS_MAX];
	unsigned count;
	char state[512];
};

/* What a device can take unfinished. A port that lacks one gets frames completed in software. */
enum port_cap {
	PORT_CAP_CSUM = 1 << 0, /* FRAME_CSUM_NEEDED */
	PORT_CAP_TSO4 = 1 << 1,
	PORT_CAP_TSO6 = 1 << 2,
	PORT_CAP_USO = 1 << 3,	/* FRAME_GSO_UDP_L4 */
	PORT_CAP_FRAGS = 1 << 4 /* takes chains; others get them as one piece */
};

struct port_status {
	bool link_up;
	bool lost;	     /* the device is gone; only a new acquire brings it back */
	bool tags_unseen;    /* a VLAN tag that the kernel keeps beside a frame is lost here */
	uint32_t mtu;	     /* bytes of payload behind the Ethernet header; 0: no limit known */
	uint32_t ifindex;    /* 0: no kernel interface */
	uint32_t mem_region; /* of netmap, in which buffers can change hands; 0: none */
	uint8_t mac[6];
	uint32_t caps; /* enum port_cap, what is in force now */
	uint32_t rx_queues;
	uint32_t tx_queues;
	uint32_t kernel_drops; /* just read, for the next rx to book: wake who may be asleep */
	char detail[256];      /* what serves the port: "TPACKET_V2, 256 slots of 68 KB" */
};

enum port_polling {
	PORT_POLL_BLOCK,    /* sleep in poll as soon as the queue is empty */
	PORT_POLL_ADAPTIVE, /* spin for a while, then sleep */
	PORT_POLL_BUSY	    /* never sleep */
};

enum offload_policy {
	OFFLOAD_CARRY,	  /* hand it on where the device can take it, complete it where not */
	OFFLOAD_COMPLETE, /* always complete in software before this port */
	OFFLOAD_REFUSE	  /* drop with a reason rather than touch the payload */
};
/* cffi: end */

struct port;

/*
 * A driver's own state hangs off priv. Hot: read for every batch.
 *
 * plain_max and plain_bytes: what rx may say about the batch that it returns, where it knows
 * without looking twice: every frame was received, is in one piece and unfinished in nothing, the
 * longest has plain_max bytes and all together plain_bytes. plain_max 0: the frames have to be
 * looked at.
 */
struct port_queue {
	struct port *port;
	void *priv;
	uint64_t plain_bytes;
	uint32_t plain_max;
	uint16_t id;
};

/* Filled by tx: sent + consumed + the sum of drops is exactly the number of frames given. */
struct tx_report {
	uint32_t sent;
	uint32_t consumed;   /* answered or used by the driver itself, such as an ARP request */
	uint32_t zero_copy;  /* of those sent: their buffers changed hands */
	uint64_t sent_bytes; /* frame bytes, no virtio-net header, tags included */
	uint32_t drops[DROP_REASONS];
	struct port_queue *source; /* whose batch is not committed yet, or NULL; see tx_commits */
};

struct port_ops {
	const char *type;	    /* the word of the API: "af_packet" */
	const char *const *options; /* names acquire and attach know, NULL at the end; NULL: any */

	/* Keeper, once, before it gives away all rights but those that acquire needs. May be NULL.
	 */
	void (*prepare)(void);

	/*
	 * Keeper. Opens everything; on failure leaves nothing open. NULL: the port needs no
	 * privilege, and attach is called with an empty fds.
	 */
	int (*acquire)(const struct port_options *options, struct port_fds *fds, struct error *err);

	/*
	 * Keeper. Undoes what closing the fds does not. May be NULL. The keeper closes the fds.
	 */
	void (*release)(const struct port_options *options, const struct port_fds *fds);

	/*
	 * Forwarder. Sets port->rx_queue_count, tx_queue_count, each queue's priv, caps, pool.
	 * Borrows the fds: the forwarder keeps them for handing them back and closes them after
	 * detach. On failure leaves nothing mapped.
	 */
	int (*attach)(struct port *port, const struct port_options *options,
		      const struct port_fds *fds, struct error *err);
	void (*detach)(struct port *port); /* no worker knows the port any more */

	/* Control thread, about once a second and on link events. Folds kernel statistics in. */
	void (*poll_status)(struct port *port, struct port_status *status);

	/*
	 * Takes at most max frames (chains count once) into batch and returns how many; 0 when
	 * there is none, -ENETDOWN when the device is down or gone. `batch` has room for
	 * FRAME_BATCH first fragments; a driver with chains keeps the further fragments itself.
	 * Sets data, next, len, frame_len, headroom, pool, slot, offload and flags of each; the
	 * rest is the caller's. Frames the port must not deliver (outgoing ones, truncated ones)
	 * do not appear; truncated ones are booked in `cell` as rx and rx drop, those that it
	 * uses itself as rx and consumed. Frames that the driver made itself come with
	 * FRAME_ORIGINATED: booked as originated instead of received.
	 */
	int (*rx)(struct port_queue *queue, struct frame *batch, unsigned max,
		  struct port_counters *cell);

	/*
	 * The batch is about to leave, or bytes of it to change: if the forwarder dies from here
	 * on, its successor must not take it again. Called at the last moment before that, at
	 * most once a batch; rx_done implies it. NULL: the driver cannot take a batch twice.
	 */
	void (*rx_commit)(struct port_queue *queue);

	/* Gives back everything the last rx returned: no destination needs the bytes any more. */
	void (*rx_done)(struct port_queue *queue);

	/*
	 * Sends count frames in order; every frame is sent or dropped with a reason in `report`
	 * when it returns, and none of its bytes is needed again. The port decides how long it
	 * waits for room (bounded). Where frame->pool is the port's own and the frame is not
	 * FRAME_SHARED it may swap buffers with frame->slot instead of copying, marking both
	 * slots NS_BUF_CHANGED.
	 */
	void (*tx)(struct port_queue *queue, struct frame *const *frames, unsigned count,
		   struct tx_report *report);

	/*
	 * tx calls port_commit(report) itself, right before the system call that sends: the less
	 * there is between the two, the less a kill can lose. false: the caller does, before tx.
	 */
	bool tx_commits;

	/* fd to poll for POLLIN before rx, or -1: has none, is asked again after a short sleep. */
	int (*rx_fd)(const struct port_queue *queue);
};

struct port {
	/* hot: read by workers */
	const struct port_ops *ops;
	void *priv;		 /* the driver's */
	struct monitor *monitor; /* its frames are copies for it (monitor.h); NULL: real ones */
	uint16_t id;
	uint16_t pool; /* memory region for swapping, 0: none */
	uint16_t rx_queue_count;
	uint16_t tx_queue_count;
	_Atomic uint32_t caps; /* enum port_cap */
	_Atomic uint32_t mtu;  /* 0: no limit */
	struct port_queue rxq[PORT_QUEUES_MAX];
	struct port_queue txq[PORT_QUEUES_MAX];
	/* cold: control thread */
	char name[PORT_NAME_MAX];
};

/* Commits the batch that a transmission takes its frames from, once. */
static inline void port_commit(struct tx_report *report)
{
	struct port_queue *source = report->source;

	if (!source)
		return;
	report->source = NULL;
	source->port->ops->rx_commit(source);
}

/* The table of types; NULL when there is none of that name. */
const struct port_ops *port_type_find(const char *type);

/* cffi: begin */
/* Names of all types, NULL at the end. */
const char *const *port_type_names(void);

/* What the keeper calls: at its start; then these, which find the type and check option names. */
void port_prepare(void);
int port_acquire(const char *type, const struct port_options *options, struct port_fds *fds,
		 struct error *err);
void port_release(const char *type, const struct port_options *options, const struct port_fds *fds);
/* cffi: end */

/* Refuses option names the type does not know; acquire and engine_port_add have called it. */
int port_options_check(const struct port_ops *ops, const struct port_options *options,
		       struct error *err);

/* Option readers: absent gives the fallback, nonsense -EINVAL with the option named. */
const char *port_option_text(const struct port_options *options, const char *name,
			     const char *fallback);
int port_option_u32(const struct port_options *options, const char *name, uint32_t fallback,
		    uint32_t min, uint32_t max, uint32_t *out, struct error *err);
int port_option_bool(const struct port_options *options, const char *name, bool fallback, bool *out,
		     struct error *err);

/* One "k=v" of fds->state as a number, or fallback. */
uint32_t port_state_u32(const struct port_fds *fds, const char *key, uint32_t fallback);
