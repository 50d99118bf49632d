/*
 * AF_XDP, into the switch. A batch is what lies in the receive ring from the cursor on; its chunks
 * go back to the fill ring in rx_done, and only then is the receive ring consumed: until that a
 * successor finds there which chunks they are.
 *
 * Runs on: workers; xdp_rx_recover and xdp_rx_kernel_drops on the control thread.
 */
#include <linux/if_ether.h>
#include <sys/socket.h>

#include "af_xdp.h"

static const uint64_t CHUNK_MASK = ~(uint64_t)(XDP_CHUNK_BYTES - 1);

/* --- frames -------------------------------------------------------------------------------- */

/* What a descriptor names, if it lies in one of the queue's receive chunks. */
static bool piece_set(const struct xdp_rx *rx, const struct xdp_desc *desc, struct frame *piece)
{
	uint64_t address = desc->addr, offset = address - rx->first;
	uint32_t within = (uint32_t)(address & ~CHUNK_MASK), len = desc->len;

	if (offset >= (uint64_t)XDP_RX_CHUNKS * XDP_CHUNK_BYTES || len > XDP_CHUNK_BYTES - within)
		return false;
	piece->data = rx->chunks + offset;
	piece->next = NULL;
	piece->len = len;
	piece->headroom = (uint16_t)within;
	return true;
}

static void frame_begin(struct frame *frame)
{
	frame->slot = NULL;
	frame->pool = 0;
	frame->flags = 0;
	frame->hash = 0;
	frame->offload = (struct frame_offload){0};
}

/* Descriptors of the frame that begins at `at`; 0: its end is not there yet. */
static uint32_t frame_pieces(const struct xdp_rx *rx, uint32_t at, uint32_t end)
{
	for (uint32_t n = 0; at + n != end; n++)
		if (!(xdp_ring_desc(&rx->ring, at + n)->options & XDP_PKT_CONTD))
			return n + 1;
	return 0;
}

/* false: the descriptors make no frame; frame_len is what they say there is. */
static bool frame_set(struct xdp_rx *rx, uint32_t at, uint32_t pieces, struct frame *frame)
{
	struct frame *last = frame;
	bool good = pieces <= FRAME_FRAGS_MAX;

	frame_begin(frame);
	frame->frame_len = 0;
	for (uint32_t i = 0; i < pieces; i++) {
		const struct xdp_desc desc = *xdp_ring_desc(&rx->ring, at + i);
		struct frame *piece = i ? &rx->more[rx->more_used] : frame;

		frame->frame_len += desc.len;
		good = good && piece_set(rx, &desc, piece);
		if (good && i) {
			rx->more_used++;
			last->next = piece;
			last = piece;
		}
	}
	return good && frame->len >= ETH_HLEN;
}

static void drop(const struct frame *frame, struct port_counters *cell)
{
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame->frame_len);
	counter_add(&cell->rx_drops[DROP_MALFORMED], 1);
}

static unsigned take(struct xdp_rx *rx, struct frame *batch, unsigned max, uint32_t mtu,
		     struct port_counters *cell)
{
	uint32_t end = atomic_load_explicit(rx->ring.producer, memory_order_acquire);
	unsigned n = 0;

	rx->more_used = 0;
	while (n < max && rx->cursor != end) {
		uint32_t pieces = frame_pieces(rx, rx->cursor, end);

		/* Fragments of a frame that is too long are not kept. */
		if (!pieces ||
		    (pieces <= FRAME_FRAGS_MAX && rx->more_used + pieces - 1 > XDP_MORE_FRAGMENTS))
			break;
		if (frame_set(rx, rx->cursor, pieces, &batch[n]))
			xdp_partial_mark(&batch[n++], mtu);
		else
			drop(&batch[n], cell);
		rx->cursor += pieces;
	}
	return n;
}

static void book_kernel_drops(struct xdp_rx *rx, struct port_counters *cell)
{
	_Atomic uint64_t *noted = &rx->journal->kernel_drops;

	if (atomic_load_explicit(noted, memory_order_relaxed))
		counter_add(&cell->kernel_drops,
			    atomic_exchange_explicit(noted, 0, memory_order_relaxed));
}

int xdp_rx(struct port_queue *queue, struct frame *batch, unsigned max, struct port_counters *cell)
{
	struct xdp_rx *rx = queue->priv;
	uint32_t before = rx->cursor;
	uint32_t mtu = atomic_load_explicit(&queue->port->mtu, memory_order_relaxed);
	unsigned n = take(rx, batch, max < FRAME_BATCH ? max : FRAME_BATCH, mtu, cell);

	rx->committed = rx->cursor == before;
	if (n)
		return (int)n;
	if (rx->cursor != before)
		xdp_rx_done(queue); /* all of them dropped: nobody else gives the chunks back */
	book_kernel_drops(rx, cell);
	if (rx->tx && atomic_load_explicit(&rx->tx->tail, memory_order_relaxed))
		xdp_tx_kick_tail(rx->tx);
	return 0;
}

/* --- giving back --------------------------------------------------------------------------- */

static void commit(struct xdp_rx *rx)
{
	if (rx->committed)
		return;
	rx->committed = true;
	atomic_store_explicit(&rx->journal->cursor, rx->cursor, memory_order_release);
}

/* Chunks of the receive ring from its consumer to `to`. The fill ring has room for all there are.
 */
static void give_back(struct xdp_rx *rx, uint32_t to)
{
	struct xdp_journal *journal = rx->journal;
	uint32_t fill = atomic_load_explicit(rx->fill.producer, memory_order_relaxed);
	uint32_t at = fill;

	for (uint32_t i = rx->released; i != to; i++) {
		uint64_t address = xdp_ring_desc(&rx->ring, i)->addr;

		if (address - rx->first < (uint64_t)XDP_RX_CHUNKS * XDP_CHUNK_BYTES)
			*xdp_ring_address(&rx->fill, at++) = address & CHUNK_MASK;
	}
	/* Last what makes the others count: half a note says nothing. */
	atomic_store_explicit(&journal->give_count, 0, memory_order_release);
	atomic_store_explicit(&journal->give_end, to, memory_order_release);
	atomic_store_explicit(&journal->give_fill, fill, memory_order_release);
	atomic_store_explicit(&journal->give_count, at - fill, memory_order_release);
	atomic_store_explicit(rx->fill.producer, at, memory_order_release);
	atomic_store_explicit(rx->ring.consumer, to, memory_order_release);
	rx->released = to;
}

void xdp_rx_commit(struct port_queue *queue)
{
	commit(queue->priv);
}

void xdp_rx_done(struct port_queue *queue)
{
	struct xdp_rx *rx = queue->priv;

	commit(rx);
	give_back(rx, rx->cursor);
}

int xdp_rx_fd(const struct port_queue *queue)
{
	const struct xdp_rx *rx = queue->priv;

	/* Nothing wakes us when there is room again for what could not be sent. */
	if (rx->tx && atomic_load_explicit(&rx->tx->tail, memory_order_relaxed))
		return -1;
	return rx->fd;
}

/* --- going on ------------------------------------------------------------------------------ */

bool xdp_rx_recover(struct xdp_rx *rx)
{
	const struct xdp_journal *journal = rx->journal;
	uint32_t end = atomic_load_explicit(rx->ring.producer, memory_order_acquire);
	uint32_t consumed = atomic_load_explicit(rx->ring.consumer, memory_order_relaxed);
	uint32_t fill = atomic_load_explicit(rx->fill.producer, memory_order_relaxed);
	uint32_t cursor = atomic_load_explicit(&journal->cursor, memory_order_acquire);
	uint32_t count = atomic_load_explicit(&journal->give_count, memory_order_relaxed);
	uint32_t give_end = atomic_load_explicit(&journal->give_end, memory_order_relaxed);
	uint32_t give_fill = atomic_load_explicit(&journal->give_fill, memory_order_relaxed);

	if (end - consumed > XDP_RX_CHUNKS || cursor - consumed > end - consumed)
		return false;
	/* Given back, and only not consumed: the place before the cursor says so. */
	if (count && give_end == cursor && give_end != consumed && fill == give_fill + count) {
		atomic_store_explicit(rx->ring.consumer, give_end, memory_order_release);
		consumed = give_end;
	}
	rx->released = consumed;
	rx->cursor = cursor;
	rx->committed = true;
	if (cursor != consumed)
		give_back(rx, cursor);
	return true;
}

uint32_t xdp_rx_kernel_drops(struct xdp_rx *rx)
{
	struct xdp_statistics now = {0};
	socklen_t length = sizeof(now);
	uint64_t lost, fresh;

	if (getsockopt(rx->fd, SOL_XDP, XDP_STATISTICS, &now, &length))
		return 0;
	lost = now.rx_dropped + now.rx_ring_full;
	fresh = lost - atomic_load_explicit(&rx->journal->drops_seen, memory_order_relaxed);
	atomic_fetch_add_explicit(&rx->journal->kernel_drops, fresh, memory_order_relaxed);
	atomic_store_explicit(&rx->journal->drops_seen, lost, memory_order_relaxed);
	return (uint32_t)fresh;
}
