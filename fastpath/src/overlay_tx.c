/*
 * Overlay ports, out of the switch. A batch is sorted by source port and peer, keeping the order
 * of each; frames that follow each other there and have one length (the last may be shorter)
 * leave as one message, which the kernel cuts up again (UDP_SEGMENT): a tenth of the cost of a
 * message each for small frames, and what the segments of one TCP send are anyway. One sendmmsg a
 * source port. Headers lie beside the frames, as vectors: nothing is copied here.
 *
 * A flow has one source port, chosen by the hash of its addresses (RFC 7348, section 5), and its
 * frames keep their order. Two flows of one batch may change places.
 *
 * Frames that do not fit the underlay's MTU go one by one, and the kernel fragments them.
 *
 * Runs on: workers.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "parse.h"
#include "port_overlay.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { TX_WAIT_NS = 2000000 }; /* for a full send buffer, in all of one batch */

/* One call of overlay_tx. */
struct batch {
	struct overlay_tx *tx;
	struct frame *const *frames;
	struct tx_report *report;
	uint64_t deadline_ns; /* 0: has not waited yet */
};

/* --- who gets what ------------------------------------------------------------------------ */

static void entry_add(struct overlay_tx *tx, unsigned source, unsigned peer, unsigned frame)
{
	uint16_t number = (uint16_t)(tx->entry_count + 1);

	tx->entries[tx->entry_count++] = (struct overlay_entry){.frame = (uint16_t)frame};
	if (tx->head[source][peer]) {
		tx->entries[tx->tail[source][peer] - 1].next = number;
	} else {
		tx->head[source][peer] = number;
		tx->active[source][tx->active_count[source]++] = (uint8_t)peer;
	}
	tx->tail[source][peer] = number;
}

static unsigned source_of(const struct overlay *overlay, const struct frame *frame)
{
	struct flow_key key;

	if (overlay->source_count == 1)
		return 0;
	parse_flow(frame, &key);
	return flow_hash(&key) % overlay->source_count;
}

static void sort(struct batch *batch, unsigned count)
{
	struct overlay_tx *tx = batch->tx;
	const struct overlay *overlay = tx->overlay;
	uint8_t destination[6];
	int peer;

	tx->entry_count = 0;
	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = batch->frames[i];
		unsigned source = source_of(overlay, frame);

		tx->sent[i] = false;
		tx->reason[i] = DROP_TX_ERROR;
		overlay->kind->encode(tx->headers[i], overlay->config.vni, frame->frame_len);
		if (frame_peek(frame, destination, 6) < 6)
			continue;
		peer = destination[0] & 1 ? FDB_MISS
					  : fdb_lookup(overlay->fdb, fdb_key(destination, 0));
		if (peer >= 0 && peer < (int)overlay->config.peer_count) {
			entry_add(tx, source, (unsigned)peer, i);
			continue;
		}
		for (unsigned p = 0; p < overlay->config.peer_count; p++)
			entry_add(tx, source, p, i);
	}
}

/* --- messages ----------------------------------------------------------------------------- */

/* The vectors of a datagram; 0 when there is no room for them. */
static unsigned datagram_set(struct batch *batch, uint16_t number, struct iovec *vectors,
			     unsigned room)
{
	struct overlay_tx *tx = batch->tx;
	unsigned frame = tx->entries[number - 1].frame, n = 0;

	if (room < 2)
		return 0;
	vectors[n++] = (struct iovec){tx->headers[frame], OVERLAY_HEADER_LEN};
	for (const struct frame *part = batch->frames[frame]; part; part = part->next) {
		if (n == room)
			return 0;
		vectors[n++] = (struct iovec){part->data, part->len};
	}
	return n;
}

static uint32_t datagram_bytes(const struct batch *batch, uint16_t number)
{
	return OVERLAY_HEADER_LEN + batch->frames[batch->tx->entries[number - 1].frame]->frame_len;
}

static void message_set(struct overlay_tx *tx, struct msghdr *message, unsigned peer,
			struct iovec *vectors, unsigned count)
{
	*message = (struct msghdr){
	    .msg_name = &tx->overlay->peers[peer],
	    .msg_namelen = tx->overlay->peer_bytes,
	    .msg_iov = vectors,
	    .msg_iovlen = count,
	};
}

static void message_segment(struct msghdr *message, uint8_t *control, uint32_t bytes)
{
	const struct cmsghdr head = {
	    .cmsg_len = CMSG_LEN(sizeof(uint16_t)),
	    .cmsg_level = IPPROTO_UDP,
	    .cmsg_type = UDP_SEGMENT,
	};
	const uint16_t size = (uint16_t)bytes;

	memcpy(control, &head, sizeof(head));
	memcpy(control + CMSG_LEN(0), &size, sizeof(size));
	message->msg_control = control;
	message->msg_controllen = CMSG_SPACE(sizeof(size));
}

/*
 * The next message to a peer: the entry *number and those behind it that may travel with it;
 * *number becomes the first that does not. false: there is no room for even one.
 */
static bool message_add(struct batch *batch, unsigned peer, uint16_t *number)
{
	struct overlay_tx *tx = batch->tx;
	struct iovec *vectors = &tx->vectors[tx->vector_count];
	uint32_t most = atomic_load_explicit(&tx->overlay->segment_max, memory_order_relaxed);
	uint32_t each = datagram_bytes(batch, *number), total = 0;
	struct overlay_run run = {.first = *number};
	unsigned used = 0;

	if (tx->message_count == OVERLAY_MESSAGES)
		return false;
	while (*number) {
		uint32_t bytes = datagram_bytes(batch, *number);
		unsigned more;

		if (run.count &&
		    (each > most || bytes > each || run.count == OVERLAY_SEGMENTS_MAX ||
		     total + bytes > OVERLAY_DATAGRAM_MAX))
			break;
		more = datagram_set(batch, *number, vectors + used,
				    OVERLAY_VECTORS - tx->vector_count - used);
		if (!more)
			break;
		used += more;
		total += bytes;
		run.count++;
		*number = tx->entries[*number - 1].next;
		if (bytes < each)
			break;
	}
	if (!run.count)
		return false;
	message_set(tx, &tx->messages[tx->message_count].msg_hdr, peer, vectors, used);
	if (run.count > 1)
		message_segment(&tx->messages[tx->message_count].msg_hdr,
				tx->control[tx->message_count], each);
	tx->runs[tx->message_count++] = run;
	tx->vector_count += used;
	return true;
}

/* --- sending ------------------------------------------------------------------------------ */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static bool room_wait(struct batch *batch, int fd)
{
	struct pollfd room = {.fd = fd, .events = POLLOUT};
	uint64_t now = now_ns();
	struct timespec left;

	if (!batch->deadline_ns)
		batch->deadline_ns = now + TX_WAIT_NS;
	if (now >= batch->deadline_ns)
		return false;
	left = (struct timespec){.tv_nsec = (long)(batch->deadline_ns - now)};
	return ppoll(&room, 1, &left, NULL) > 0 && (room.revents & POLLOUT);
}

static enum drop_reason reason_of(int error)
{
	switch (error) {
	case EAGAIN:
	case ENOBUFS:
	case ENOMEM:
		return DROP_QUEUE_FULL;
	case EMSGSIZE:
		return DROP_TOO_BIG;
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTUNREACH:
	case EADDRNOTAVAIL:
	case EINVAL: /* the local address is gone */
		return DROP_LINK_DOWN;
	default:
		return DROP_TX_ERROR;
	}
}

static void run_done(struct batch *batch, struct overlay_run run, int error)
{
	struct overlay_tx *tx = batch->tx;

	for (uint16_t number = run.first; run.count--; number = tx->entries[number - 1].next) {
		unsigned frame = tx->entries[number - 1].frame;

		if (error)
			tx->reason[frame] = (uint8_t)reason_of(error);
		else
			tx->sent[frame] = true;
	}
}

/* Of one message; 0 or the errno. */
static int send_one(struct batch *batch, int fd, const struct msghdr *message)
{
	while (sendmsg(fd, message, MSG_DONTWAIT) < 0) {
		if (errno == EINTR || (errno == EAGAIN && room_wait(batch, fd)))
			continue;
		return errno;
	}
	return 0;
}

/* Several datagrams that the kernel would not cut: each by itself. */
static void run_single(struct batch *batch, int fd, struct msghdr *message, struct overlay_run run)
{
	struct overlay_tx *tx = batch->tx;
	uint16_t number = run.first;

	message->msg_control = NULL;
	message->msg_controllen = 0;
	while (run.count--) {
		struct overlay_run one = {number, 1};
		/* the vectors of the message are this run's own, one datagram behind the other */
		unsigned used =
		    datagram_set(batch, number, message->msg_iov, (unsigned)message->msg_iovlen);

		struct msghdr single = *message;

		single.msg_iovlen = used;
		run_done(batch, one, send_one(batch, fd, &single));
		number = tx->entries[number - 1].next;
	}
}

/* Does this error say that segmentation does not work here? */
static bool segments_refused(struct overlay *overlay, int error)
{
	switch (error) {
	case EIO: /* the device computes no checksums */
	case EOPNOTSUPP:
	case ENOPROTOOPT:
	case EINVAL: /* the kernel does not know it; or, up to 5.18, too long for the path */
		atomic_store_explicit(&overlay->no_segments, true, memory_order_relaxed);
		break;
	case EMSGSIZE: /* the path has become narrower; the control thread looks again */
		break;
	default:
		return false;
	}
	atomic_store_explicit(&overlay->segment_max, 0, memory_order_relaxed);
	return true;
}

static void messages_send(struct batch *batch, int fd)
{
	struct overlay_tx *tx = batch->tx;
	unsigned done = 0;

	if (tx->message_count)
		port_commit(batch->report);
	while (done < tx->message_count) {
		struct overlay_run run = tx->runs[done];
		int sent =
		    sendmmsg(fd, tx->messages + done, tx->message_count - done, MSG_DONTWAIT);
		int error = errno;

		if (sent > 0) {
			while (sent--)
				run_done(batch, tx->runs[done++], 0);
			continue;
		}
		if (error == EINTR || (error == EAGAIN && room_wait(batch, fd)))
			continue;
		if (run.count > 1 && segments_refused(tx->overlay, error))
			run_single(batch, fd, &tx->messages[done].msg_hdr, run);
		else
			run_done(batch, run, error);
		done++;
	}
	tx->message_count = tx->vector_count = 0;
}

static void source_send(struct batch *batch, unsigned source)
{
	struct overlay_tx *tx = batch->tx;
	int fd = tx->overlay->sources[source];

	for (unsigned i = 0; i < tx->active_count[source]; i++) {
		unsigned peer = tx->active[source][i];
		uint16_t number = tx->head[source][peer];

		tx->head[source][peer] = 0;
		while (number) {
			if (message_add(batch, peer, &number))
				continue;
			if (!tx->message_count) { /* more fragments than a message has vectors */
				run_done(batch, (struct overlay_run){number, 1}, EMSGSIZE);
				number = tx->entries[number - 1].next;
			}
			messages_send(batch, fd);
		}
	}
	tx->active_count[source] = 0;
	messages_send(batch, fd);
}

static void batch_send(struct batch *batch, unsigned count)
{
	struct overlay_tx *tx = batch->tx;

	sort(batch, count);
	for (unsigned source = 0; source < tx->overlay->source_count; source++) {
		if (tx->active_count[source])
			source_send(batch, source);
	}
	for (unsigned i = 0; i < count; i++) {
		if (tx->sent[i]) {
			batch->report->sent++;
			batch->report->sent_bytes += batch->frames[i]->frame_len;
		} else {
			batch->report->drops[tx->reason[i]]++;
		}
	}
}

void overlay_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		struct tx_report *report)
{
	struct batch batch = {.tx = queue->priv, .frames = frames, .report = report};

	while (count) {
		unsigned some = count < FRAME_BATCH ? count : FRAME_BATCH;

		batch_send(&batch, some);
		batch.frames += some;
		count -= some;
	}
}
