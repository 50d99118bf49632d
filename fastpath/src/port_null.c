/*
 * null: discards every frame it is given and counts it as sent. With generate_frames_per_s it
 * also makes frames, paced, source addresses in turn, so that a switch can be loaded without a
 * device. Needs no privilege.
 *
 * Runs on: control thread (attach, detach), workers (rx, tx).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "port.h"

enum {
	GENERATE_BYTES_MAX = 9018,
	GENERATE_ETHERTYPE = 0x88b5,	  /* IEEE 802: local experimental */
	GENERATE_UNPACED = 1000 * 1000000 /* frames/s from which nobody asks the clock */
};

struct generator {
	uint64_t per_s;
	uint64_t start_ns;
	uint64_t made; /* since start_ns */
	uint32_t bytes;
	uint32_t macs;
	uint32_t mac; /* next source address */
	uint32_t stride;
	uint8_t header[FRAME_LEN_MIN];
	uint8_t *buffers; /* FRAME_BATCH of stride bytes */
};

static const char *const null_options[] = {"generate_frames_per_s", "generate_bytes",
					   "generate_macs", "generate_dst", NULL};

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int null_options_read(struct generator *generator, const struct port_options *options,
			     uint8_t dst[6], struct error *err)
{
	const char *text = port_option_text(options, "generate_dst", "02:00:00:00:00:01");
	unsigned byte[6];
	uint32_t per_s;
	int status, end = 0;

	status = port_option_u32(options, "generate_frames_per_s", 0, 0, UINT32_MAX, &per_s, err);
	if (!status)
		status = port_option_u32(options, "generate_bytes", 60, FRAME_LEN_MIN,
					 GENERATE_BYTES_MAX, &generator->bytes, err);
	if (!status)
		status = port_option_u32(options, "generate_macs", 1, 1, 1u << 24, &generator->macs,
					 err);
	if (status)
		return status;
	generator->per_s = per_s;
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3],
		   &byte[4], &byte[5], &end) != 6 ||
	    text[end])
		return error_set(err, EINVAL, "%s: generate_dst \"%s\" is not an address",
				 options->port, text);
	for (unsigned i = 0; i < 6; i++)
		dst[i] = (uint8_t)byte[i];
	return 0;
}

static int null_attach(struct port *port, const struct port_options *options,
		       const struct port_fds *fds, struct error *err)
{
	struct generator *generator = calloc(1, sizeof(*generator));
	uint8_t dst[6];
	int status;

	(void)fds;
	if (!generator)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	status = null_options_read(generator, options, dst, err);
	if (status)
		goto bad_options;

	generator->stride = (generator->bytes + FRAME_HEADROOM + 63) & ~63u;
	generator->buffers = calloc(FRAME_BATCH, generator->stride);
	if (!generator->buffers) {
		status = error_set(err, ENOMEM, "%s: out of memory", port->name);
		goto no_buffers;
	}
	memcpy(generator->header, dst, 6);
	generator->header[6] = 0x02;
	generator->header[7] = 0x01;
	generator->header[8] = (uint8_t)port->id;
	generator->header[12] = GENERATE_ETHERTYPE >> 8;
	generator->header[13] = GENERATE_ETHERTYPE & 0xff;
	generator->start_ns = clock_ns();

	port->priv = generator;
	port->rx_queue_count = generator->per_s ? 1 : 0;
	port->rxq[0].priv = generator;
	port->tx_queue_count = PORT_QUEUES_MAX;
	port->pool = 0;
	port->caps = PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO | PORT_CAP_FRAGS;
	return 0;

no_buffers:
bad_options:
	free(generator);
	return status;
}

static void null_detach(struct port *port)
{
	struct generator *generator = port->priv;

	free(generator->buffers);
	free(generator);
	port->priv = NULL;
}

static void null_poll_status(struct port *port, struct port_status *status)
{
	const struct generator *generator = port->priv;

	status->link_up = true;
	status->caps = port->caps;
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	if (generator->per_s)
		snprintf(status->detail, sizeof(status->detail),
			 "discards; generates %llu frames/s of %u bytes from %u addresses",
			 (unsigned long long)generator->per_s, generator->bytes, generator->macs);
	else
		snprintf(status->detail, sizeof(status->detail), "discards");
}

/* How many frames are due. After a stall of more than a second the past is forgotten. */
static unsigned generator_due(struct generator *generator, unsigned max)
{
	uint64_t elapsed_ns, due;

	if (generator->per_s >= GENERATE_UNPACED)
		return max;
	elapsed_ns = clock_ns() - generator->start_ns;
	due = (uint64_t)((unsigned __int128)elapsed_ns * generator->per_s / 1000000000u);
	if (due < generator->made)
		return 0;
	if (due - generator->made > generator->per_s + FRAME_BATCH) {
		generator->start_ns += elapsed_ns;
		generator->made = 0;
		return 0;
	}
	due -= generator->made;
	return due < max ? (unsigned)due : max;
}

static int null_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		   struct port_counters *cell)
{
	struct generator *generator = queue->priv;
	unsigned count = generator_due(generator, max < FRAME_BATCH ? max : FRAME_BATCH);

	(void)cell;
	for (unsigned i = 0; i < count; i++) {
		uint8_t *data = generator->buffers + i * generator->stride + FRAME_HEADROOM;
		uint32_t mac = generator->mac;

		generator->mac = mac + 1 == generator->macs ? 0 : mac + 1;
		/* all of it each time: an edit in place may have moved the addresses */
		memcpy(data, generator->header, FRAME_LEN_MIN);
		data[9] = (uint8_t)(mac >> 16);
		data[10] = (uint8_t)(mac >> 8);
		data[11] = (uint8_t)mac;
		batch[i] = (struct frame){.data = data,
					  .len = generator->bytes,
					  .frame_len = generator->bytes,
					  .headroom = FRAME_HEADROOM};
	}
	generator->made += count;
	queue->plain_max = generator->bytes;
	queue->plain_bytes = (uint64_t)count * generator->bytes;
	return (int)count;
}

static void null_rx_done(struct port_queue *queue)
{
	(void)queue;
}

static void null_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	uint64_t bytes = 0;

	(void)queue;
	for (unsigned i = 0; i < count; i++)
		bytes += frames[i]->frame_len;
	report->sent += count;
	report->sent_bytes += bytes;
}

static int null_rx_fd(const struct port_queue *queue)
{
	(void)queue;
	return -1;
}

const struct port_ops port_null_ops = {
    .type = "null",
    .options = null_options,
    .attach = null_attach,
    .detach = null_detach,
    .poll_status = null_poll_status,
    .rx = null_rx,
    .rx_done = null_rx_done,
    .tx = null_tx,
    .rx_fd = null_rx_fd,
};
