/*
 * monitor: receives copies of what another port receives and sends (monitor.h), and sends nothing.
 *
 * The engine finds the monitored port by its name each time a configuration is published, so the
 * monitor works whenever that port is there. Its frames are those of an ordinary port, with two
 * marks: nobody learns from them (their sources live elsewhere), and copies of sent frames bear
 * FRAME_SENT_COPY. They are never copied by another monitor, so no arrangement of monitors and
 * bridges makes a loop.
 *
 * Options: port, direction (rx, tx, both), filter (cbpf.h), snaplen, slots.
 *
 * Runs on: keeper (acquire), control thread (attach, detach), workers (rx, rx_done, tx).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "monitor.h"
#include "port.h"

enum { MONITOR_FRAGMENTS = FRAME_BATCH * (FRAME_LEN_MAX / MONITOR_SLOT_BYTES) };
static_assert(sizeof(((struct port *)0)->name) == MONITOR_NAME_MAX, "a monitor names a port");

struct monitor_port {
	struct monitor monitor;
	/* the reader's, its one worker's */
	uint64_t head;				   /* what memory->head is */
	uint64_t taken;				   /* where the next batch begins */
	bool rung;				   /* the doorbell may be */
	struct frame fragments[MONITOR_FRAGMENTS]; /* of the batch, without the first ones */
};

static const char *const monitor_options[] = {"port",	 "direction", "filter",
					      "snaplen", "slots",     NULL};

/* --- life ---------------------------------------------------------------------------------------
 */

static int slots_of(const struct port_options *options, uint32_t *slots, struct error *err)
{
	return port_option_u32(options, "slots", MONITOR_SLOTS, MONITOR_SLOTS_MIN,
			       MONITOR_SLOTS_MAX, slots, err);
}

static int monitor_acquire(const struct port_options *options, struct port_fds *fds,
			   struct error *err)
{
	uint32_t slots;
	int fd, status = slots_of(options, &slots, err);

	if (status)
		return status;
	fd = memfd_create("vswitch-monitor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return error_set(err, errno, "monitor: memfd: %s", strerror(errno));
	if (ftruncate(fd, (off_t)monitor_bytes(slots)) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		status = error_set(err, errno, "monitor: its memory: %s", strerror(errno));
		close(fd);
		return status;
	}
	fds->fd[0] = fd;
	fds->count = 1;
	return 0;
}

static int monitor_options_read(struct monitor *monitor, const struct port_options *options,
				struct error *err)
{
	const char *port = port_option_text(options, "port", "");
	const char *direction = port_option_text(options, "direction", "both");
	int status;

	if (!*port || strlen(port) >= sizeof(monitor->port))
		return error_set(err, EINVAL, "%s: port \"%s\" is no port's name", options->port,
				 port);
	strncpy(monitor->port, port, sizeof(monitor->port) - 1);
	if (strcmp(direction, "rx") == 0)
		monitor->directions = MONITOR_RX;
	else if (strcmp(direction, "tx") == 0)
		monitor->directions = MONITOR_TX;
	else if (strcmp(direction, "both") == 0)
		monitor->directions = MONITOR_RX | MONITOR_TX;
	else
		return error_set(err, EINVAL, "%s: direction \"%s\" is not rx, tx or both",
				 options->port, direction);
	status = port_option_u32(options, "snaplen", FRAME_LEN_MAX, FRAME_LEN_MIN, UINT32_MAX,
				 &monitor->snaplen, err);
	if (status)
		return status;
	return cbpf_parse(port_option_text(options, "filter", ""), &monitor->filter, err);
}

static int monitor_attach(struct port *port, const struct port_options *options,
			  const struct port_fds *fds, struct error *err)
{
	size_t bytes = (sizeof(struct monitor_port) + 63) & ~(size_t)63;
	struct monitor_port *own = aligned_alloc(64, bytes);
	uint32_t slots;
	int status;

	if (!own)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	memset(own, 0, bytes);
	own->monitor.port_id = port->id;
	status = monitor_options_read(&own->monitor, options, err);
	if (!status)
		status = slots_of(options, &slots, err);
	if (!status)
		status = monitor_open(&own->monitor, fds->count ? fds->fd[0] : -1, slots, err);
	if (status) {
		free(own);
		return status;
	}
	own->head = own->taken = atomic_load(&own->monitor.memory->head);
	port->priv = own;
	port->monitor = &own->monitor;
	port->rxq[0].priv = own;
	port->rx_queue_count = 1;
	port->tx_queue_count = PORT_QUEUES_MAX; /* without state: nobody waits for another */
	/* whatever it is given is dropped: nothing has to be finished for that */
	port->caps = PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO | PORT_CAP_FRAGS;
	return 0;
}

static void monitor_detach(struct port *port)
{
	struct monitor_port *own = port->priv;

	port->monitor = NULL;
	port->priv = NULL;
	monitor_close(&own->monitor);
	free(own);
}

static void monitor_poll_status(struct port *port, struct port_status *status)
{
	static const char *const directions[] = {
	    [MONITOR_RX] = "received by",
	    [MONITOR_TX] = "sent by",
	    [MONITOR_RX | MONITOR_TX] = "received and sent by",
	};
	const struct monitor_port *own = port->priv;
	const struct monitor *monitor = &own->monitor;
	char snaplen[32] = "";

	status->link_up = true;
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	if (monitor->snaplen < FRAME_LEN_MAX)
		snprintf(snaplen, sizeof(snaplen), ", %u bytes of each", monitor->snaplen);
	snprintf(status->detail, sizeof(status->detail), "%s %s%s%s",
		 directions[monitor->directions], monitor->port,
		 monitor->filter.count ? ", filtered" : "", snaplen);
}

/* --- rx -----------------------------------------------------------------------------------------
 */

/* Describes the copy at a position; its further slots become fragments. */
static void frame_at(const struct monitor *monitor, uint64_t at, struct frame *frame,
		     struct frame **fragment)
{
	const struct monitor_slot *slot = monitor_slot(monitor, at);
	struct frame *last = frame;
	uint32_t left = slot->frame_len;
	uint32_t part = left < MONITOR_SLOT_BYTES ? left : MONITOR_SLOT_BYTES;

	*frame = (struct frame){
	    .data = monitor_buffer(monitor, at),
	    .len = part,
	    .frame_len = left,
	    .headroom = FRAME_HEADROOM,
	    .flags = (uint8_t)(FRAME_NO_LEARN | (slot->sent ? FRAME_SENT_COPY : 0)),
	    .offload = slot->offload,
	};
	for (left -= part; left; left -= part) {
		part = left < MONITOR_SLOT_BYTES ? left : MONITOR_SLOT_BYTES;
		last->next = (*fragment)++;
		last = last->next;
		*last = (struct frame){
		    .data = monitor_buffer(monitor, ++at), .len = part, .headroom = FRAME_HEADROOM};
	}
}

/* Awake again: what rang is taken back, so that poll sleeps next time. */
static void doorbell_answer(struct monitor_port *own)
{
	uint64_t count;

	own->rung = false;
	atomic_store_explicit(&own->monitor.waiting, false, memory_order_relaxed);
	if (read(own->monitor.doorbell, &count, sizeof(count)) < 0)
		return; /* woken for another reason */
}

static void monitor_rx_commit(struct port_queue *queue)
{
	struct monitor_port *own = queue->priv;

	atomic_store_explicit(&own->monitor.memory->taken, own->taken, memory_order_relaxed);
}

static void monitor_rx_done(struct port_queue *queue)
{
	struct monitor_port *own = queue->priv;

	monitor_rx_commit(queue);
	own->head = own->taken;
	atomic_store_explicit(&own->monitor.memory->head, own->head, memory_order_release);
}

static int monitor_rx_batch(struct port_queue *queue, struct frame *batch, unsigned max,
			    struct port_counters *cell)
{
	struct monitor_port *own = queue->priv;
	const struct monitor *monitor = &own->monitor;
	struct frame *fragment = own->fragments;
	unsigned count = 0;
	uint64_t at = own->head;

	if (own->rung)
		doorbell_answer(own);
	while (count < max && monitor_ready(monitor, at)) {
		const struct monitor_slot *slot = monitor_slot(monitor, at);

		if (slot->hole) {
			counter_add(&cell->rx_frames, 1);
			counter_add(&cell->rx_bytes, slot->frame_len);
			counter_add(&cell->rx_drops[DROP_RESTART], 1);
		} else {
			frame_at(monitor, at, &batch[count++], &fragment);
		}
		at += monitor_slots_of(slot->frame_len);
	}
	own->taken = at;
	if (!count && at != own->head)
		monitor_rx_done(queue); /* holes only: nothing for the caller to give back */
	return (int)count;
}

/* Asked for right before the worker sleeps: from here on writers ring. */
static int monitor_rx_fd(const struct port_queue *queue)
{
	struct monitor_port *own = queue->priv;
	uint64_t one = 1;

	own->rung = true;
	atomic_exchange_explicit(&own->monitor.waiting, true, memory_order_acq_rel);
	if (monitor_ready(&own->monitor, own->head) &&
	    write(own->monitor.doorbell, &one, sizeof(one)) < 0)
		return -1; /* asked again after a short sleep */
	return own->monitor.doorbell;
}

/* --- tx -----------------------------------------------------------------------------------------
 */

static void monitor_tx_refuse(struct port_queue *queue, struct frame *const *frames, unsigned count,
			      struct tx_report *report)
{
	(void)queue;
	(void)frames;
	report->drops[DROP_RECEIVE_ONLY] += count;
}

const struct port_ops port_monitor_ops = {
    .type = "monitor",
    .options = monitor_options,
    .acquire = monitor_acquire,
    .attach = monitor_attach,
    .detach = monitor_detach,
    .poll_status = monitor_poll_status,
    .rx = monitor_rx_batch,
    .rx_commit = monitor_rx_commit,
    .rx_done = monitor_rx_done,
    .tx = monitor_tx_refuse,
    .rx_fd = monitor_rx_fd,
};
