/*
 * AF_XDP, out of the switch: each frame is copied into as many send chunks as it needs, a batch is
 * published at once, and the kernel takes it within sendto. It makes packets of its own of them;
 * a chunk comes back by the completion ring when its packet is gone, which is the back-pressure: no
 * free chunk means that nobody takes our packets.
 *
 * What sendto says (Linux 6.18, net/xdp/xsk.c): 0, the ring is empty; EAGAIN, there is more (its
 * budget is used up, or the device is full); EBUSY, the device threw away the packet it was given,
 * which is gone from the ring; ENETDOWN and ENXIO before it looks at the ring.
 *
 * Runs on: workers; xdp_tx_recover on the control thread.
 */
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "af_xdp.h"
#include "fdb.h"

static const struct timespec PAUSE = {.tv_nsec = 50000};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Pauses; false: the time of this batch is over. */
static bool pause_for_room(struct xdp_tx *tx, int64_t *deadline)
{
	int64_t now = now_ns();

	if (tx->stuck)
		return false;
	if (!*deadline)
		*deadline = now + XDP_TX_WAIT_NS;
	if (now >= *deadline) {
		tx->stuck = true;
		return false;
	}
	clock_nanosleep(CLOCK_MONOTONIC, 0, &PAUSE, NULL);
	return true;
}

/* --- chunks -------------------------------------------------------------------------------- */

static uint64_t owner_given(uint32_t position)
{
	return (uint64_t)XDP_OWNER_GIVEN << 32 | position;
}

static void chunk_free(struct xdp_tx *tx, uint32_t chunk)
{
	atomic_store_explicit(&tx->owner[chunk], XDP_OWNER_FREE, memory_order_relaxed);
	tx->free[tx->free_count++] = chunk;
}

/* Takes back what is completed. Whatever else the ring says, a chunk is freed once. */
static void chunks_reap(struct xdp_tx *tx)
{
	uint32_t at = atomic_load_explicit(tx->completion.consumer, memory_order_relaxed);
	uint32_t end = atomic_load_explicit(tx->completion.producer, memory_order_acquire);

	if (at == end || end - at > XDP_TX_CHUNKS)
		return;
	for (; at != end; at++) {
		uint64_t chunk =
		    (*xdp_ring_address(&tx->completion, at) - tx->first) / XDP_CHUNK_BYTES;

		if (chunk < XDP_TX_CHUNKS &&
		    atomic_load_explicit(&tx->owner[chunk], memory_order_relaxed))
			chunk_free(tx, (uint32_t)chunk);
	}
	atomic_store_explicit(tx->completion.consumer, end, memory_order_release);
	tx->stuck = false;
}

static uint32_t ring_room(const struct xdp_tx *tx, uint32_t end)
{
	return XDP_TX_CHUNKS -
	       (end - atomic_load_explicit(tx->ring.consumer, memory_order_acquire));
}

/* --- filling ------------------------------------------------------------------------------- */

/* Copies a chain into chunks and descriptors from *end on, which moves. There is room for it. */
static void frame_put(struct xdp_tx *tx, const struct frame *frame, uint32_t *end)
{
	const struct frame *part = frame;
	uint32_t left = frame->frame_len, offset = 0;

	while (left) {
		uint32_t chunk = tx->free[--tx->free_count];
		uint32_t room = left < XDP_CHUNK_BYTES ? left : XDP_CHUNK_BYTES, used = 0;
		uint8_t *to = tx->chunks + chunk * (size_t)XDP_CHUNK_BYTES;

		while (used < room) {
			uint32_t n = part->len - offset;

			if (n > room - used)
				n = room - used;
			memcpy(to + used, part->data + offset, n);
			used += n;
			offset += n;
			if (offset == part->len && part->next) {
				part = part->next;
				offset = 0;
			}
		}
		left -= room;
		atomic_store_explicit(&tx->owner[chunk], owner_given(*end), memory_order_relaxed);
		*xdp_ring_desc(&tx->ring, (*end)++) = (struct xdp_desc){
		    .addr = tx->first + chunk * (uint64_t)XDP_CHUNK_BYTES,
		    .len = room,
		    .options = left ? XDP_PKT_CONTD : 0,
		};
	}
}

static uint32_t pieces_of(const struct frame *frame)
{
	return (frame->frame_len + XDP_CHUNK_BYTES - 1) / XDP_CHUNK_BYTES;
}

/* A frame that is never sent. */
static bool too_big(const struct xdp_tx *tx, const struct frame *frame)
{
	return pieces_of(frame) > (tx->multi ? XDP_TX_PIECES : 1);
}

/* What was put into the ring and is not published yet. */
struct load {
	uint32_t end; /* of the ring with it */
	unsigned frames;
	uint64_t bytes;
};

/* Frames from the first on for which there is room; returns how many were looked at. */
static unsigned frames_put(struct xdp_tx *tx, struct frame *const *frames, unsigned count,
			   struct load *load, struct tx_report *report)
{
	unsigned n = 0;

	for (; n < count; n++) {
		uint32_t pieces = pieces_of(frames[n]);

		if (too_big(tx, frames[n])) {
			report->drops[DROP_TOO_BIG]++;
			continue;
		}
		if (pieces > tx->free_count || pieces > ring_room(tx, load->end))
			break;
		frame_put(tx, frames[n], &load->end);
		load->bytes += frames[n]->frame_len;
		load->frames++;
	}
	return n;
}

/* Takes the descriptors behind `end` out again: no call of the kernel has looked at them. */
static void frames_take_back(struct xdp_tx *tx, uint32_t end)
{
	atomic_store_explicit(tx->ring.producer, end, memory_order_release);
	for (uint32_t at = end; at != tx->end; at++) {
		uint64_t address = xdp_ring_desc(&tx->ring, at)->addr;

		chunk_free(tx, (uint32_t)((address - tx->first) / XDP_CHUNK_BYTES));
	}
	tx->end = end;
}

/* --- sending ------------------------------------------------------------------------------- */

struct push {
	uint32_t lost;	     /* packets that the device threw away */
	uint64_t lost_bytes; /* theirs */
	int error;	     /* of the first call, when that did not look at the ring */
};

/* Of the packet before the ring's consumer: the last that the kernel took. */
static uint32_t last_taken_bytes(const struct xdp_tx *tx)
{
	uint32_t at = atomic_load_explicit(tx->ring.consumer, memory_order_acquire) - 1;
	uint32_t bytes = xdp_ring_desc(&tx->ring, at)->len;

	while (xdp_ring_desc(&tx->ring, at - 1)->options & XDP_PKT_CONTD &&
	       bytes < XDP_TX_PIECES * XDP_CHUNK_BYTES)
		bytes += xdp_ring_desc(&tx->ring, --at)->len;
	return bytes;
}

/* Until the kernel has taken everything, or as much as it will. */
static void ring_push(struct xdp_tx *tx, int64_t *deadline, struct push *push)
{
	uint32_t before = atomic_load_explicit(tx->ring.consumer, memory_order_relaxed);
	bool looked = false, all = false;

	while (!all) {
		int error = sendto(tx->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
		uint32_t consumed = atomic_load_explicit(tx->ring.consumer, memory_order_acquire);
		bool moved = consumed != before;

		before = consumed;
		if (moved)
			tx->stuck = false;
		if (!error) {
			all = true;
		} else if (error == EBUSY) {
			push->lost++;
			push->lost_bytes += last_taken_bytes(tx);
		} else if (error == EAGAIN || error == ENOBUFS || error == ENOMEM) {
			if (!moved && !pause_for_room(tx, deadline))
				break;
		} else if (error != EINTR) {
			push->error = looked ? 0 : error;
			break;
		}
		looked |= error != EINTR;
	}
	if (!push->error)
		atomic_store_explicit(&tx->tail, !all, memory_order_relaxed);
}

/* Why a device throws packets away: its other end is down, or has no room. */
static enum drop_reason lost_reason(const struct xdp_tx *tx)
{
	struct ifreq request;

	return xdp_link_up(tx->packet_fd, tx->ifindex, &request) ? DROP_QUEUE_FULL : DROP_LINK_DOWN;
}

static void publish(struct xdp_tx *tx, const struct load *load, int64_t *deadline,
		    struct tx_report *report)
{
	struct push push = {0};
	uint32_t begin = tx->end;

	port_commit(report);
	atomic_store_explicit(tx->ring.producer, load->end, memory_order_release);
	tx->end = load->end;
	ring_push(tx, deadline, &push);
	if (push.error) {
		bool down = push.error == ENETDOWN || push.error == ENXIO;

		frames_take_back(tx, begin);
		report->drops[down ? DROP_LINK_DOWN : DROP_TX_ERROR] += load->frames;
		return;
	}
	if (push.lost) {
		/* What was in the ring before is in the books already. */
		if (push.lost > load->frames)
			push.lost = load->frames;
		if (push.lost_bytes > load->bytes || push.lost == load->frames)
			push.lost_bytes = load->bytes;
		report->drops[lost_reason(tx)] += push.lost;
	}
	report->sent += load->frames - push.lost;
	report->sent_bytes += load->bytes - push.lost_bytes;
}

/* Whatever is in the ring goes first; false: nobody takes it, and the time is over. */
static bool make_room(struct xdp_tx *tx, uint32_t pieces, int64_t *deadline)
{
	do {
		struct push push = {0};

		chunks_reap(tx);
		if (ring_room(tx, tx->end) < XDP_TX_CHUNKS)
			ring_push(tx, deadline, &push);
		if (pieces <= tx->free_count && pieces <= ring_room(tx, tx->end))
			return true;
	} while (pause_for_room(tx, deadline));
	return false;
}

static void send_all(struct xdp_tx *tx, struct frame *const *frames, unsigned count,
		     struct tx_report *report)
{
	int64_t deadline = 0;
	unsigned done = 0;

	while (done < count) {
		struct load load = {.end = tx->end};

		if (tx->free_count < XDP_TX_CHUNKS / 2)
			chunks_reap(tx);
		done += frames_put(tx, frames + done, count - done, &load, report);
		if (load.frames)
			publish(tx, &load, &deadline, report);
		else if (done < count && !make_room(tx, pieces_of(frames[done]), &deadline)) {
			report->drops[DROP_QUEUE_FULL] += count - done;
			return;
		}
	}
}

void xdp_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
	    struct tx_report *report)
{
	struct xdp_tx *tx = queue->priv;

	/* The other one is within a system call that only pushes. */
	while (atomic_flag_test_and_set_explicit(&tx->taken, memory_order_acquire))
		fdb_pause();
	send_all(tx, frames, count, report);
	atomic_flag_clear_explicit(&tx->taken, memory_order_release);
}

void xdp_tx_kick_tail(struct xdp_tx *tx)
{
	struct push push = {0};
	int64_t over = 1;

	if (atomic_flag_test_and_set_explicit(&tx->taken, memory_order_acquire))
		return;
	ring_push(tx, &over, &push);
	atomic_flag_clear_explicit(&tx->taken, memory_order_release);
}

/* --- going on ------------------------------------------------------------------------------ */

bool xdp_tx_recover(struct xdp_tx *tx)
{
	uint32_t consumed = atomic_load_explicit(tx->ring.consumer, memory_order_relaxed);

	tx->end = atomic_load_explicit(tx->ring.producer, memory_order_acquire);
	if (tx->end - consumed > XDP_TX_CHUNKS)
		return false;
	tx->free_count = 0;
	for (uint32_t chunk = 0; chunk < XDP_TX_CHUNKS; chunk++) {
		uint64_t owner = atomic_load_explicit(&tx->owner[chunk], memory_order_relaxed);

		/* Filled, and never published. */
		if (owner && (int32_t)((uint32_t)owner - tx->end) >= 0)
			owner = XDP_OWNER_FREE;
		if (!owner)
			chunk_free(tx, chunk);
	}
	chunks_reap(tx);
	atomic_store_explicit(&tx->tail, tx->end != consumed, memory_order_relaxed);
	return true;
}
