/*
 * AF_PACKET, out of the switch through PACKET_TX_RING: frames are copied into slots, marked, and
 * one send() tells the kernel, which takes them one after the other as long as it can.
 *
 * Whose bytes. By itself the kernel copies the headers of a frame and puts the ring's pages under
 * the rest. It gives the slot back when the socket buffer is orphaned, which a receiver behind a
 * veth pair does long before it reads the payload. Before Linux 5.0 the next frame in that slot
 * was then read as the last one; later ones copy the pages first. So hdr_len says that all of the
 * frame is headers: the kernel copies all of it, once, into one piece.
 *
 * send() returns when the kernel has taken all it could. A slot that it cannot send (malformed:
 * TP_STATUS_WRONG_FORMAT; no room; link down) stops it there, the first for good. That slot and
 * those behind it are taken back; its frame goes out by sendmmsg on the other socket, in its
 * place in the order, which waits if there is something to wait for and says what is wrong. So
 * does a frame that does not fit a slot, or finds none free.
 *
 * Runs on: workers; af_tx_ring_recover on the control thread before any worker knows the queue.
 */
#include "af_packet.h"

#include <errno.h>
#include <string.h>

/* The kernel may OR a timestamp's bits into a status; only these say whose the slot is. */
enum { KERNELS = TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING };
enum { UNSENT = TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT };

static uint32_t status_load(const struct af_tx *tx, uint64_t position)
{
	uint8_t *slot = af_slot(&tx->slots, position);

	if (tx->version == 1)
		return (uint32_t)atomic_load_explicit((_Atomic unsigned long *)slot,
						      memory_order_acquire);
	if (tx->version == 2)
		return atomic_load_explicit((_Atomic uint32_t *)slot, memory_order_acquire);
	return atomic_load_explicit((_Atomic uint32_t *)&((struct tpacket3_hdr *)slot)->tp_status,
				    memory_order_acquire);
}

static void status_store(const struct af_tx *tx, uint64_t position, uint32_t status)
{
	uint8_t *slot = af_slot(&tx->slots, position);

	if (tx->version == 1)
		atomic_store_explicit((_Atomic unsigned long *)slot, status, memory_order_release);
	else if (tx->version == 2)
		atomic_store_explicit((_Atomic uint32_t *)slot, status, memory_order_release);
	else
		atomic_store_explicit((_Atomic uint32_t *)&((struct tpacket3_hdr *)slot)->tp_status,
				      status, memory_order_release);
}

/* The slot's data area, its length announced. */
static uint8_t *slot_open(const struct af_tx *tx, uint64_t position, uint32_t len)
{
	uint8_t *slot = af_slot(&tx->slots, position);

	switch (tx->version) {
	case 1:
		((struct tpacket_hdr *)slot)->tp_len = len;
		return slot + AF_V1_ADDRESS;
	case 2:
		((struct tpacket2_hdr *)slot)->tp_len = len;
		return slot + AF_V2_ADDRESS;
	default:
		((struct tpacket3_hdr *)slot)->tp_len = len;
		((struct tpacket3_hdr *)slot)->tp_next_offset = 0; /* nothing else is defined */
		return slot + AF_V3_ADDRESS;
	}
}

static void slot_fill(const struct af_tx *tx, uint64_t position, const struct frame *frame)
{
	struct frame_offload offload = frame->offload;
	uint8_t *to = slot_open(tx, position, AF_VNET_BYTES + frame->frame_len);

	offload.hdr_len = (uint16_t)frame->frame_len; /* see above */
	memcpy(to, &offload, AF_VNET_BYTES);
	to += AF_VNET_BYTES;
	for (const struct frame *part = frame; part; part = part->next) {
		memcpy(to, part->data, part->len);
		to += part->len;
	}
}

/* Fills as many slots as there are frames and room. */
static unsigned slots_fill(const struct af_tx *tx, struct frame *const *frames, unsigned count)
{
	unsigned n = 0;

	for (; n < count && n < tx->slots.count; n++) {
		if (status_load(tx, tx->head + n) & KERNELS)
			break;
		slot_fill(tx, tx->head + n, frames[n]);
	}
	return n;
}

static void slots_mark(struct af_tx *tx, uint64_t first, uint64_t end)
{
	for (uint64_t at = first; at != end; at++)
		status_store(tx, at, TP_STATUS_SEND_REQUEST);
	atomic_store_explicit(&tx->journal->tx_kicked, end, memory_order_release);
}

/* The kernel takes what it can. Why it stopped, the other socket finds out. */
static void kick(const struct af_tx *tx)
{
	while (send(tx->ring_fd, NULL, 0, MSG_DONTWAIT) < 0 && errno == EINTR)
		;
}

/* Where the kernel stands: the first slot of the batch that it did not take. */
static uint64_t kernel_head(const struct af_tx *tx, uint64_t first, uint64_t end)
{
	while (first != end && !(status_load(tx, first) & UNSENT))
		first++;
	return first;
}

/*
 * Takes back the slots from `first` on, the last one first: as long as the kernel's next one is
 * marked, a successor finds it. Then nothing is under way.
 */
static void withdraw(struct af_tx *tx, uint64_t first, uint64_t end)
{
	struct af_journal_queue *journal = tx->journal;

	atomic_store_explicit(&journal->tx_first, first, memory_order_release);
	while (end != first && --end != first)
		status_store(tx, end, TP_STATUS_AVAILABLE);
	atomic_store_explicit(&journal->tx_end, first, memory_order_release);
	atomic_store_explicit(&journal->tx_kicked, first, memory_order_release);
	if (status_load(tx, first) & UNSENT)
		status_store(tx, first, TP_STATUS_AVAILABLE);
	tx->head = first;
}

/* Sends n filled slots; returns how many the kernel took. */
static unsigned slots_send(struct af_tx *tx, unsigned n, struct tx_report *report)
{
	uint64_t first = tx->head, end = first + n;

	port_commit(report);
	atomic_store_explicit(&tx->journal->tx_end, end, memory_order_release);
	slots_mark(tx, first, end);
	kick(tx);
	withdraw(tx, kernel_head(tx, first, end), end);
	return (unsigned)(tx->head - first);
}

unsigned af_tx_ring(struct af_tx *tx, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	unsigned done = 0;

	while (done < count) {
		unsigned n = slots_fill(tx, frames + done, count - done);
		unsigned sent = n ? slots_send(tx, n, report) : 0;

		for (unsigned end = done + sent; done < end; done++)
			report->sent_bytes += frames[done]->frame_len;
		report->sent += sent;
		if (!n || sent < n)
			break;
	}
	return done;
}

/* --- after a kill -------------------------------------------------------------------------- */

bool af_tx_ring_recover(struct af_tx *tx)
{
	struct af_journal_queue *journal = tx->journal;
	uint64_t first = atomic_load_explicit(&journal->tx_first, memory_order_acquire);
	uint64_t end = atomic_load_explicit(&journal->tx_end, memory_order_acquire);
	uint64_t kicked = atomic_load_explicit(&journal->tx_kicked, memory_order_acquire);

	if (end - first > tx->slots.count)
		return false;
	/* The kernel has not looked yet: all slots are filled, some may be marked. */
	if (kicked != end)
		slots_mark(tx, first, end);
	if (first != end)
		kick(tx);
	/* What it still did not take is lost, and booked with the rest of the last life. */
	withdraw(tx, kernel_head(tx, first, end), end);
	return true;
}
