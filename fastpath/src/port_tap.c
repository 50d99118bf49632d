/*
 * tap: a kernel TAP device whose far end is a network interface of this host, of a container or
 * of a namespace. Frames cross with a virtio-net header, so checksums and segmentation that the
 * local stack left to its device travel on unfinished. The device is port_tundev.c's affair.
 *
 * Forwarder: reads and writes the queues' fds, nothing else. The kernel has no way to look at a
 * frame without taking it: a forwarder killed between read and write loses the frames of the
 * batch it holds (booked as `restart`), those still in the device's queue wait for the next one.
 */
#include <errno.h>
#include <stdlib.h>

#include "port.h"
#include "port_tundev.h"

static int tap_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	return tundev_acquire(TUNDEV_TAP, options, fds, err);
}

static void tap_poll_status(struct port *port, struct port_status *status)
{
	tundev_poll_status(port->priv, port, status);
}

static void tap_detach(struct port *port)
{
	tundev_detach(port->priv);
	free(port->priv);
	port->priv = NULL;
}

static int tap_attach(struct port *port, const struct port_options *options,
		      const struct port_fds *fds, struct error *err)
{
	struct tundev *dev = calloc(1, sizeof(*dev));
	int status;

	if (!dev)
		return error_set(err, ENOMEM, "%s: no memory", options->port);
	status = tundev_attach(dev, TUNDEV_TAP, port, options, fds, err);
	if (status < 0) {
		free(dev);
		return status;
	}
	port->priv = dev;
	return 0;
}

static int tap_rx_fd(const struct port_queue *queue)
{
	const struct tundev_queue *tq = queue->priv;

	return tq->fd;
}

static int tap_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		  struct port_counters *cell)
{
	return tundev_rx(queue->port->priv, queue->priv, batch, max, cell);
}

static void tap_rx_done(struct port_queue *queue)
{
	(void)queue; /* the next rx begins the arena anew */
}

static void tap_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		   struct tx_report *report)
{
	uint64_t deadline_ns = 0;

	port_commit(report);
	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];
		struct tundev_unit unit = {frame, frame->offload, 0, frame->frame_len};
		int error = EINVAL;

		if (frame->frame_len >= FRAME_LEN_MIN)
			error = tundev_write(queue->port->priv, queue->priv, &unit, &deadline_ns);
		if (error) {
			report->drops[tundev_drop_reason(error, frame)]++;
			continue;
		}
		report->sent++;
		report->sent_bytes += frame->frame_len;
	}
}

extern const struct port_ops port_tap_ops;

static const char *const tap_options[] = {"name", "queues", "persistent", "mtu", NULL};

const struct port_ops port_tap_ops = {
    .type = "tap",
    .options = tap_options,
    .acquire = tap_acquire,
    .attach = tap_attach,
    .detach = tap_detach,
    .poll_status = tap_poll_status,
    .rx = tap_rx,
    .rx_done = tap_rx_done,
    .tx_commits = true,
    .tx = tap_tx,
    .rx_fd = tap_rx_fd,
};
