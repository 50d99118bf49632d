/*
 * AF_PACKET, into the switch: the port's operations, and how a queue goes on after a kill.
 *
 * Runs on: see af_packet_rx.h.
 */
#include "af_packet_rx.h"

uint32_t af_rx_kernel_drops(struct af_rx *rx)
{
	union tpacket_stats_u stats = {0};
	socklen_t len = rx->version == 3 ? sizeof(stats.stats3) : sizeof(stats.stats1);

	if (getsockopt(rx->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len))
		return 0;
	if (rx->version == 3)
		atomic_fetch_add_explicit(&rx->freezes, stats.stats3.tp_freeze_q_cnt,
					  memory_order_relaxed);
	return stats.stats1.tp_drops; /* the same place in both */
}

bool af_rx_recover(struct af_rx *rx)
{
	bool v3 = rx->version == 3;
	uint64_t done, span;

	rx->committed = true;
	rx->cursor = atomic_load_explicit(&rx->journal->cursor, memory_order_acquire);
	rx->released = atomic_load_explicit(&rx->journal->released, memory_order_relaxed);
	done = v3 ? rx->cursor >> AF_PACKET_BITS : rx->cursor;
	span = v3 ? rx->blocks : rx->slots.count;
	if (done - rx->released > span)
		return false;
	if (v3)
		af_blocks_recover(rx);
	else
		af_slots_recover(rx);
	atomic_store_explicit(&rx->journal->released, rx->released, memory_order_release);
	return true;
}

int af_rx(struct port_queue *queue, struct frame *batch, unsigned max, struct port_counters *cell)
{
	struct af_rx *rx = queue->priv;
	uint64_t before = rx->cursor;
	unsigned n;

	if (max > FRAME_BATCH)
		max = FRAME_BATCH;
	n = rx->version == 3 ? af_blocks_rx(rx, batch, max, cell)
			     : af_slots_rx(rx, batch, max, cell);
	if (n)
		return (int)n;
	if (rx->cursor == before)
		book_kernel_drops(rx, 0, cell);
	else
		af_rx_done(queue); /* all of them dropped: nobody else gives the slots back */
	return 0;
}

void af_rx_commit(struct port_queue *queue)
{
	commit(queue->priv);
}

void af_rx_done(struct port_queue *queue)
{
	struct af_rx *rx = queue->priv;

	commit(rx);
	if (rx->version == 3)
		af_blocks_release(rx);
	else
		af_slots_release(rx);
	atomic_store_explicit(&rx->journal->released, rx->released, memory_order_release);
}

/*
 * An interface that goes down leaves an error on the socket, which would wake poll until somebody
 * fetched it. Frames come again by themselves when it is up, so nobody has to try now and then.
 */
int af_rx_fd(const struct port_queue *queue)
{
	const struct af_rx *rx = queue->priv;
	int error;
	socklen_t len = sizeof(error);

	getsockopt(rx->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return rx->fd;
}
