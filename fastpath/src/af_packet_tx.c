/*
 * AF_PACKET, out of the switch: sendmmsg on a socket of its own (protocol 0: it receives
 * nothing), each message a virtio-net header and the frame's fragments. Where the port has a send
 * ring, frames that fit its slots go through that (af_packet_tx_ring.c), the others as here.
 *
 * SO_SNDBUF is real back-pressure on veth and on NICs: EAGAIN means wait, up to AF_TX_WAIT_NS a
 * batch. A queue that did not move in that time is stuck and is not waited for again before it
 * moves, so that one dead receiver does not slow the others.
 *
 * Runs on: workers.
 */
#include "af_packet.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* false: the time is over. ENOBUFS comes from the device's queue, which POLLOUT knows nothing of.
 */
static bool wait_for_room(struct af_tx *tx, int error, int64_t *deadline)
{
	const struct timespec pause = {.tv_nsec = 50000};
	int64_t now = now_ns();

	if (tx->stuck)
		return false;
	if (!*deadline)
		*deadline = now + AF_TX_WAIT_NS;
	if (now >= *deadline) {
		tx->stuck = true;
		return false;
	}
	if (error == ENOBUFS) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	} else {
		struct pollfd room = {.fd = tx->fd, .events = POLLOUT};
		const struct timespec left = {.tv_nsec = *deadline - now};

		ppoll(&room, 1, &left, NULL);
	}
	return true;
}

static enum drop_reason drop_reason_of(int error, const struct frame *frame)
{
	switch (error) {
	case EMSGSIZE:
		return DROP_TOO_BIG;
	case ENETDOWN:
	case ENXIO:
	case ENODEV:
		return DROP_LINK_DOWN;
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return DROP_QUEUE_FULL;
	case EINVAL:
		return frame_has_offload(frame) ? DROP_OFFLOAD_INVALID : DROP_TX_ERROR;
	default:
		return DROP_TX_ERROR;
	}
}

/* Sends messages 0..count-1, which are frames[0..count-1]. */
static void send_messages(struct af_tx *tx, struct frame *const *frames, unsigned count,
			  int64_t *deadline, struct tx_report *report)
{
	unsigned done = 0;

	if (count)
		port_commit(report);
	while (done < count) {
		int sent = sendmmsg(tx->fd, tx->messages + done, count - done, MSG_DONTWAIT);
		int error = errno;

		if (sent > 0) {
			tx->stuck = false;
			for (int i = 0; i < sent; i++)
				report->sent_bytes += frames[done++]->frame_len;
			report->sent += (uint32_t)sent;
			continue;
		}
		if (error == EINTR)
			continue;
		if ((error == EAGAIN || error == ENOBUFS) && wait_for_room(tx, error, deadline))
			continue;
		enum drop_reason reason = drop_reason_of(error, frames[done]);
		/* A full queue or a dead link is so for all; anything else for this frame only. */
		bool all = reason == DROP_QUEUE_FULL || reason == DROP_LINK_DOWN;

		report->drops[reason] += all ? count - done : 1;
		done = all ? count : done + 1;
	}
}

/*
 * Fills one message; returns the vectors used, 0 when there is no room for them. Where there is
 * headroom the virtio-net header goes there: a message in one piece is cheaper than one in two.
 * (It is also where a receive slot has it, so a batch that is taken again reads the same.)
 */
static unsigned message_set(struct mmsghdr *message, struct iovec *iov, unsigned room,
			    struct frame *frame)
{
	struct frame_offload *offload = &frame->offload;
	const struct frame *part = frame;
	unsigned n = 0;

	/* The kernel makes this much of the frame linear and refuses more than there is. */
	if (offload->hdr_len > AF_LINEAR_BYTES_MAX)
		offload->hdr_len = AF_LINEAR_BYTES_MAX;
	if (offload->hdr_len > frame->frame_len)
		offload->hdr_len = 0;
	if (room < 2)
		return 0;
	if (frame->headroom >= AF_VNET_BYTES) {
		uint8_t *start = frame->data - AF_VNET_BYTES;

		memcpy(start, offload, AF_VNET_BYTES);
		iov[n++] = (struct iovec){.iov_base = start, .iov_len = frame->len + AF_VNET_BYTES};
		part = frame->next;
	} else {
		iov[n++] = (struct iovec){.iov_base = offload, .iov_len = AF_VNET_BYTES};
	}
	for (; part; part = part->next) {
		if (n == room)
			return 0;
		iov[n++] = (struct iovec){.iov_base = part->data, .iov_len = part->len};
	}
	*message = (struct mmsghdr){.msg_hdr = {.msg_iov = iov, .msg_iovlen = n}};
	return n;
}

static void send_batch(struct af_tx *tx, struct frame *const *frames, unsigned count,
		       int64_t *deadline, struct tx_report *report)
{
	unsigned first = 0, messages = 0, vectors = 0;

	for (unsigned i = 0; i < count; i++) {
		unsigned used = 0;

		if (messages < FRAME_BATCH)
			used = message_set(&tx->messages[messages], &tx->iov[vectors],
					   AF_IOVECS - vectors, frames[i]);
		if (!used) {
			send_messages(tx, frames + first, messages, deadline, report);
			first = i;
			messages = vectors = 0;
			used = message_set(&tx->messages[0], tx->iov, AF_IOVECS, frames[i]);
		}
		messages++;
		vectors += used;
	}
	send_messages(tx, frames + first, messages, deadline, report);
}

/* How many of the frames, from the first on, are alike in fitting a slot of the send ring. */
static unsigned run_length(const struct af_tx *tx, struct frame *const *frames, unsigned count,
			   bool fits)
{
	unsigned n = 1;

	while (n < count && (frames[n]->frame_len <= tx->room) == fits)
		n++;
	return n;
}

/* By ring and socket in turn, in order. */
static void send_mixed(struct af_tx *tx, struct frame *const *frames, unsigned count,
		       struct tx_report *report)
{
	const uint32_t *full = &report->drops[DROP_QUEUE_FULL];
	const uint32_t *down = &report->drops[DROP_LINK_DOWN];
	int64_t deadline = 0;
	unsigned done = 0;

	while (done < count) {
		bool fits = frames[done]->frame_len <= tx->room;
		unsigned n = run_length(tx, frames + done, count - done, fits);
		unsigned sent = fits ? af_tx_ring(tx, frames + done, n, report) : 0;
		uint32_t full_before = *full, down_before = *down;

		done += sent;
		if (sent == n)
			continue;
		n = fits ? 1 : n;
		send_batch(tx, frames + done, n, &deadline, report);
		done += n;
		/* It is so for all frames: do not try each. */
		if (*full != full_before || *down != down_before) {
			report->drops[*down != down_before ? DROP_LINK_DOWN : DROP_QUEUE_FULL] +=
			    count - done;
			return;
		}
	}
}

void af_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	   struct tx_report *report)
{
	struct af_tx *tx = queue->priv;
	int64_t deadline = 0;

	if (tx->room)
		send_mixed(tx, frames, count, report);
	else
		send_batch(tx, frames, count, &deadline, report);
}
