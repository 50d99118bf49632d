/*
 * client: netmap programs, by lanes in a memory of each port's own (client_memory.h, lane.h).
 *
 *     outbox t (program -> switch)  receive queue t      inbox r (switch -> program)  tx queue r
 *
 * The program is not trusted. Of a received frame the first SNAPSHOT_BYTES are copied to memory of
 * the worker's, and it is the copy that is decided on and sent; what follows in a longer frame is
 * payload to the switch and stays in the outbox until the destinations have copied it. So a program
 * that rewrites its outbox meanwhile changes no header that rules have seen. An index or a record
 * that makes no sense empties the outbox and is booked as one malformed frame; what came before it
 * is forwarded.
 *
 * Towards the program a frame is copied once, into the inbox, in one piece whatever fragments it
 * had. A full inbox is queue_full, and bells are rung without waiting.
 *
 * Where a program's frames fill the inbox of another one that does read, the worker naps before it
 * takes more of them: the sender's outbox fills, the sender sleeps, and the reader gets the
 * processor that the two kept from it. Nobody holds anybody up that way: naps are NAP_NS and at
 * most half of the worker's time, they are for inboxes that were read within READ_LATELY_NS, and
 * only frames of the program that filled one wait.
 *
 * With a virtio-net header (client_set_header) the port carries offloads: frames that have any
 * begin with LANE_VNET. Without one the tx stage completes them before.
 *
 * A batch is `committed` right before its frames leave, and a successor of a killed forwarder
 * begins behind it. Where it begins to write is in the memory too; what was not published is
 * written over.
 *
 * Runs on: keeper (acquire), control thread (attach, detach, status, header), workers (rx, tx).
 */
#include "port_client.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client_memory.h"

enum {
	SNAPSHOT_BYTES = 256, /* headers, and the whole of short frames */
	SNAPSHOT_STRIDE = FRAME_HEADROOM + SNAPSHOT_BYTES,
	LINE = 64,
	NAP_NS = 50000,
	READ_LATELY_NS = 5000000 /* longer than a program waits for a processor */
};
static_assert((int)LANE_FRAME_MAX == (int)FRAME_LEN_MAX, "lane.h does not know frame.h");
static_assert(sizeof(struct frame_offload) <= LANE_VNET_BYTES, "the header of a record");
static_assert(1 + 2 * CLIENT_RINGS_MAX <= PORT_FDS_MAX, "the memory and two ends of each bell");

/* What a batch of a queue needs beside its descriptors. */
struct snapshot_room {
	_Alignas(LINE) uint8_t bytes[FRAME_BATCH][SNAPSHOT_STRIDE];
	struct frame rest[FRAME_BATCH];
};

struct client_rx {
	_Alignas(LINE) struct lane_consumer in;
	struct snapshot_room *room;
	int bell;	/* our end */
	int own_bell;	/* the program's end: by it we wake ourselves */
	bool sleeps;	/* consumer_waits is set, the bell may have rung */
	bool bell_shut; /* by the program, for good */
	uint64_t nap_next_ns;
};

struct client_tx {
	_Alignas(LINE) struct lane_producer out;
	int bell;
	uint64_t read_head, read_ns; /* where the reader was seen last, and since when */
};

/* What this worker sent since it took its batch filled an inbox that is being read. */
static _Thread_local bool reader_behind;

struct client_port {
	struct client_rx rx[CLIENT_RINGS_MAX];
	struct client_tx tx[CLIENT_RINGS_MAX];
	struct client_map map;
	_Atomic uint32_t hdr_len; /* of the program's frames: 0, 10, 12 */
};

/* name: netmap's, "vale0:p1", of a port that is called otherwise; for who binds programs to it. */
static const char *const client_options[] = {"tx_rings",    "rx_rings", "outbox_bytes",
					     "inbox_bytes", "name",	NULL};

/* --- keeper -------------------------------------------------------------------------------------
 */

static int client_acquire(const struct port_options *options, struct port_fds *fds,
			  struct error *err)
{
	uint32_t tx_rings, rx_rings, outbox_bytes, inbox_bytes;
	unsigned bells;
	int status;

	status = port_option_u32(options, "tx_rings", 1, 1, CLIENT_RINGS_MAX, &tx_rings, err);
	if (!status)
		status =
		    port_option_u32(options, "rx_rings", 1, 1, CLIENT_RINGS_MAX, &rx_rings, err);
	if (!status)
		status = port_option_u32(options, "outbox_bytes", CLIENT_OUTBOX_BYTES,
					 LANE_BYTES_MIN, LANE_BYTES_MAX, &outbox_bytes, err);
	if (!status)
		status = port_option_u32(options, "inbox_bytes", CLIENT_INBOX_BYTES, LANE_BYTES_MIN,
					 LANE_BYTES_MAX, &inbox_bytes, err);
	if (status)
		return status;
	if ((outbox_bytes & (outbox_bytes - 1)) || (inbox_bytes & (inbox_bytes - 1)))
		return error_set(err, EINVAL,
				 "%s: outbox_bytes and inbox_bytes have to be powers of two",
				 options->port);
	bells = client_bells(tx_rings, rx_rings);
	fds->fd[0] =
	    client_memory_make(options->port, tx_rings, rx_rings, outbox_bytes, inbox_bytes);
	if (fds->fd[0] < 0)
		return error_set(err, -fds->fd[0], "%s: no memory for a netmap program: %s",
				 options->port, strerror(-fds->fd[0]));
	status = client_bells_make(bells, &fds->fd[1], &fds->fd[1 + bells]);
	if (status) {
		close(fds->fd[0]);
		return error_set(err, -status, "%s: no descriptors for a netmap program: %s",
				 options->port, strerror(-status));
	}
	fds->count = 1 + 2 * bells;
	snprintf(fds->state, sizeof(fds->state), "tx_rings=%u rx_rings=%u", tx_rings, rx_rings);
	return 0;
}

/* --- attach and detach --------------------------------------------------------------------------
 */

static void client_detach(struct port *port)
{
	struct client_port *client = port->priv;

	for (unsigned i = 0; i < CLIENT_RINGS_MAX; i++)
		free(client->rx[i].room);
	client_map_close(&client->map);
	free(client);
	port->priv = NULL;
}

/* Whoever rang may have died before it was heard, or we: the first look is without a bell. */
static int queues_open(struct client_port *client, const struct port_fds *fds, unsigned bells)
{
	const struct client_map *map = &client->map;

	for (unsigned t = 0; t < map->tx_rings; t++) {
		struct client_rx *rx = &client->rx[t];

		client_outbox_consumer(map, t, &rx->in);
		rx->bell = fds->fd[1 + t];
		rx->own_bell = fds->fd[1 + bells + t];
		rx->sleeps = true;
		rx->room = aligned_alloc(LINE, sizeof(*rx->room));
		if (!rx->room)
			return -ENOMEM;
		memset(rx->room, 0, sizeof(*rx->room));
	}
	for (unsigned r = 0; r < map->rx_rings; r++) {
		client_inbox_producer(map, r, &client->tx[r].out);
		client->tx[r].bell = fds->fd[1 + r];
	}
	return 0;
}

static bool header_sound(uint32_t hdr_len)
{
	return hdr_len == 0 || hdr_len == 10 || hdr_len == 12;
}

/* The program's library looks for it in the memory, a successor too. */
static void header_use(struct port *port, uint32_t hdr_len)
{
	struct client_port *client = port->priv;
	uint32_t caps = PORT_CAP_FRAGS;

	if (hdr_len)
		caps |= PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO;
	atomic_store_explicit(&client->hdr_len, hdr_len, memory_order_relaxed);
	__atomic_store_n(&client->map.memory->hdr_len, hdr_len, __ATOMIC_RELAXED);
	atomic_store_explicit(&port->caps, caps, memory_order_relaxed);
}

int client_set_header(struct port *port, uint32_t hdr_len, struct error *err)
{
	if (!header_sound(hdr_len))
		return error_set(err, EINVAL,
				 "%s: a virtio-net header has 10 or 12 bytes, or is not there",
				 port->name);
	header_use(port, hdr_len);
	return 0;
}

static int client_attach(struct port *port, const struct port_options *options,
			 const struct port_fds *fds, struct error *err)
{
	struct client_port *client = aligned_alloc(LINE, sizeof(*client));
	uint32_t hdr_len;
	unsigned bells;
	int status;

	(void)options;
	if (!client)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	memset(client, 0, sizeof(*client));
	port->priv = client;
	status = fds->count ? client_map_open(fds->fd[0], &client->map) : -EINVAL;
	bells = client_bells(client->map.tx_rings, client->map.rx_rings);
	if (!status && fds->count != 1 + 2 * bells)
		status = -EINVAL;
	if (!status)
		status = queues_open(client, fds, bells);
	if (status) {
		client_detach(port);
		return error_set(err, -status,
				 "%s: the memory of a netmap program cannot be used: %s",
				 port->name, strerror(-status));
	}
	port->rx_queue_count = (uint16_t)client->map.tx_rings;
	port->tx_queue_count = (uint16_t)client->map.rx_rings;
	for (unsigned t = 0; t < port->rx_queue_count; t++)
		port->rxq[t].priv = &client->rx[t];
	for (unsigned r = 0; r < port->tx_queue_count; r++)
		port->txq[r].priv = &client->tx[r];
	hdr_len = load_shared(&client->map.memory->hdr_len);
	header_use(port, header_sound(hdr_len) ? hdr_len : 0);
	return 0;
}

static void client_poll_status(struct port *port, struct port_status *status)
{
	const struct client_port *client = port->priv;
	const struct client_map *map = &client->map;
	uint32_t hdr_len = atomic_load_explicit(&client->hdr_len, memory_order_relaxed);
	char header[48] = "";

	status->link_up = true;
	status->caps = atomic_load_explicit(&port->caps, memory_order_relaxed);
	status->rx_queues = map->tx_rings;
	status->tx_queues = map->rx_rings;
	if (hdr_len)
		snprintf(header, sizeof(header), ", virtio-net header of %u bytes", hdr_len);
	snprintf(status->detail, sizeof(status->detail), "outboxes of %u KiB, inboxes of %u KiB%s",
		 map->outbox_bytes >> 10, map->inbox_bytes >> 10, header);
}

/* --- rx: worker ------------------------------------------------------------------------------ */

/* After a sleep: nobody has to ring any more, and what rang is taken back. */
static void rx_wake(struct client_rx *rx)
{
	rx->sleeps = false;
	lane_consumer_awake(&rx->in);
	if (!client_bell_take(rx->bell))
		rx->bell_shut = true;
}

/* More than a plain short frame: its rest stays where it is. */
static void rx_odd(struct frame *rest, const struct lane_frame *in, struct frame *frame)
{
	if (in->len > SNAPSHOT_BYTES) {
		*rest = (struct frame){
		    .data = in->data + SNAPSHOT_BYTES,
		    .len = in->len - SNAPSHOT_BYTES,
		};
		frame->len = SNAPSHOT_BYTES;
		frame->next = rest;
	}
	if (in->flags & LANE_NO_LEARN)
		frame->flags = FRAME_NO_LEARN;
	if (in->vnet)
		memcpy(&frame->offload, in->vnet, sizeof(frame->offload));
}

static void client_rx_commit(struct port_queue *queue)
{
	struct client_rx *rx = queue->priv;

	lane_commit(&rx->in);
}

static uint64_t clock_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Lets a reader come after; its sender waits meanwhile. */
static void rx_nap(struct client_rx *rx)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};

	reader_behind = false;
	if (clock_now_ns() < rx->nap_next_ns)
		return;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
	rx->nap_next_ns = clock_now_ns() + NAP_NS;
}

/*
 * A program that waits for room is woken when half of it is there: everything is read in the end,
 * and a wake-up each batch would cost more than the batch.
 */
static void client_rx_done(struct port_queue *queue)
{
	struct client_rx *rx = queue->priv;

	if (lane_release_lazily(&rx->in, rx->in.bytes / 2))
		client_bell_ring(rx->bell);
	if (__builtin_expect(reader_behind, 0))
		rx_nap(rx);
}

static int client_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		     struct port_counters *cell)
{
	struct client_rx *rx = queue->priv;
	struct snapshot_room *room = rx->room;
	uint8_t *data = rx->in.data;
	uint32_t bytes = rx->in.bytes, resets = rx->in.resets;
	uint64_t head, tail;
	struct lane_frame in;
	unsigned count = 0;
	int found = 0;

	reader_behind = false;
	if (__builtin_expect(rx->sleeps, 0))
		rx_wake(rx);
	if (lane_ready(&rx->in)) {
		head = rx->in.head;
		tail = rx->in.tail;
		while (count < max && (found = lane_step(data, bytes, &head, tail, &in)) > 0) {
			uint8_t *copy = room->bytes[count] + FRAME_HEADROOM;
			struct frame *frame = &batch[count];

			lane_copy(copy, in.data, in.len < SNAPSHOT_BYTES ? in.len : SNAPSHOT_BYTES);
			*frame = (struct frame){
			    .data = copy,
			    .len = in.len,
			    .frame_len = in.len,
			    .headroom = FRAME_HEADROOM,
			};
			if (__builtin_expect(in.flags || in.len > SNAPSHOT_BYTES, 0))
				rx_odd(&room->rest[count], &in, frame);
			count++;
		}
		rx->in.head = head;
		if (__builtin_expect(found < 0, 0))
			lane_consumer_reset(&rx->in);
	}
	if (__builtin_expect(rx->in.resets != resets, 0)) {
		counter_add(&cell->rx_frames, 1);
		counter_add(&cell->rx_drops[DROP_MALFORMED], 1);
	}
	if (!count)
		client_rx_done(queue); /* bytes that were skipped: nobody else gives them back */
	return (int)count;
}

static int client_rx_fd(const struct port_queue *queue)
{
	struct client_rx *rx = queue->priv;

	if (rx->bell_shut)
		return -1;
	rx->sleeps = true;
	if (!lane_consumer_waits(&rx->in))
		client_bell_ring(rx->own_bell);
	return rx->bell;
}

/* --- tx: worker ------------------------------------------------------------------------------ */

/* In pieces, with an offload, or a monitor's copy. False: there is no room. */
static bool tx_odd(struct lane_producer *out, const struct frame *frame, bool header)
{
	uint32_t vnet = header && (frame->offload.flags || frame->offload.gso_type)
			    ? (uint32_t)LANE_VNET_BYTES
			    : 0;
	uint32_t len = frame->frame_len + vnet;
	uint16_t flags = frame->flags & FRAME_SENT_COPY ? LANE_TXMON : 0;
	uint8_t *to = lane_reserve(out, len);

	if (!to)
		return false;
	if (vnet) {
		memset(to, 0, vnet);
		memcpy(to, &frame->offload, sizeof(frame->offload));
		flags |= LANE_VNET;
		to += vnet;
	}
	for (; frame; frame = frame->next) {
		lane_copy(to, frame->data, frame->len);
		to += frame->len;
	}
	lane_add(out, len, flags);
	return true;
}

static inline bool tx_plain(const struct frame *frame)
{
	return !frame->next && !frame->offload.flags && !frame->offload.gso_type &&
	       !(frame->flags & FRAME_SENT_COPY);
}

/* False: there is no room. */
static inline bool tx_frame(struct lane_producer *out, const struct frame *frame, bool header)
{
	uint8_t *to;

	if (__builtin_expect(!tx_plain(frame), 0)) {
		struct lane_producer at = *out; /* whose address is not known outside stays fast */
		bool fits = tx_odd(&at, frame, header);

		*out = at;
		return fits;
	}
	to = lane_reserve(out, frame->len);
	if (!to)
		return false;
	lane_copy(to, frame->data, frame->len);
	lane_add(out, frame->len, 0);
	return true;
}

/* Less than a quarter of the inbox is free, as far as is known: is it, and was it read lately? */
static void tx_look(struct client_tx *tx)
{
	struct lane_producer *out = &tx->out;
	uint64_t now;

	lane_producer_look(out);
	if (out->bytes - (out->tail - out->head) >= out->bytes / 4)
		return;
	now = clock_now_ns();
	if (out->head != tx->read_head) {
		tx->read_head = out->head;
		tx->read_ns = now;
	}
	reader_behind |= now - tx->read_ns < READ_LATELY_NS;
}

static void client_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		      struct tx_report *report)
{
	struct client_tx *tx = queue->priv;
	const struct client_port *client = queue->port->priv;
	bool header = atomic_load_explicit(&client->hdr_len, memory_order_relaxed) != 0;
	struct lane_producer out = tx->out;
	uint32_t too_big = 0, full = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];

		if (__builtin_expect(frame->frame_len > LANE_FRAME_MAX, 0))
			too_big++;
		else if (__builtin_expect(!tx_frame(&out, frame, header), 0))
			full++;
		else
			bytes += frame->frame_len;
	}
	out.full = full;
	tx->out = out;
	report->sent += count - too_big - full;
	report->sent_bytes += bytes;
	report->drops[DROP_TOO_BIG] += too_big;
	report->drops[DROP_QUEUE_FULL] += full;
	if (too_big + full < count)
		port_commit(report);
	if (lane_publish(&tx->out))
		client_bell_ring(tx->bell);
	if (__builtin_expect(out.bytes - (out.tail - out.head) < out.bytes / 4, 0))
		tx_look(tx);
}

const struct port_ops port_client_ops = {
    .type = "client",
    .options = client_options,
    .acquire = client_acquire,
    .attach = client_attach,
    .detach = client_detach,
    .poll_status = client_poll_status,
    .rx = client_rx,
    .rx_commit = client_rx_commit,
    .rx_done = client_rx_done,
    .tx = client_tx,
    .tx_commits = true,
    .rx_fd = client_rx_fd,
};

bool port_is_client(const struct port *port)
{
	return port->ops == &port_client_ops;
}
