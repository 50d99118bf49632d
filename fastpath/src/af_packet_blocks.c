/*
 * AF_PACKET, into the switch: TPACKET_V3 rings, blocks of packed frames.
 *
 * A block is the reader's from the first look at its status to the store that gives it back; in
 * between its packets are walked by tp_next_offset, num_pkts of them.
 *
 * Runs on: see af_packet_rx.h.
 */
#include "af_packet_rx.h"

static struct tpacket_block_desc *v3_block(const struct af_rx *rx, uint64_t block)
{
	return (struct tpacket_block_desc *)(rx->ring +
					     (block % rx->blocks) * (size_t)rx->block_bytes);
}

static struct tpacket3_hdr *v3_packet(struct tpacket_block_desc *block, uint32_t offset)
{
	return (struct tpacket3_hdr *)((uint8_t *)block + offset);
}

/* Collects at most max packets from the cursor on, over as many blocks as are ready. */
static unsigned v3_ready(struct af_rx *rx, struct tpacket3_hdr **packets, unsigned max,
			 uint64_t *cursor, uint32_t *all)
{
	uint64_t block = rx->cursor >> AF_PACKET_BITS;
	uint32_t index = rx->cursor & ((1u << AF_PACKET_BITS) - 1);
	unsigned n = 0;

	while (n < max && block - rx->released < rx->blocks) {
		struct tpacket_block_desc *desc = v3_block(rx, block);
		struct tpacket_hdr_v1 *head = &desc->hdr.bh1;
		uint32_t status = load_acquire(&head->block_status);

		if (!(status & TP_STATUS_USER))
			break;
		*all |= status & TP_STATUS_LOSING;
		if (!index)
			rx->v3_offset = head->offset_to_first_pkt;
		for (; index < head->num_pkts && n < max; index++) {
			packets[n] = v3_packet(desc, rx->v3_offset);
			*all |= packets[n]->tp_status;
			rx->v3_offset += packets[n++]->tp_next_offset;
			__builtin_prefetch(v3_packet(desc, rx->v3_offset));
		}
		if (index < head->num_pkts)
			break;
		block++;
		index = 0;
	}
	*cursor = block << AF_PACKET_BITS | index;
	return n;
}

static unsigned v3_frames(const struct af_rx *rx, struct tpacket3_hdr *const *packets,
			  unsigned ready, struct frame *batch, struct port_counters *cell)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ready; i++) {
		struct tpacket3_hdr *head = packets[i];
		uint32_t status = head->tp_status;
		struct packet packet = {
		    .data = (uint8_t *)head + head->tp_mac,
		    .len = head->tp_snaplen,
		    .headroom = (uint16_t)(head->tp_mac - AF_V3_HEADER),
		    .tagged = status & TP_STATUS_VLAN_VALID,
		    .tci = (uint16_t)head->hv1.tp_vlan_tci,
		    .tpid =
			status & TP_STATUS_VLAN_TPID_VALID ? head->hv1.tp_vlan_tpid : ETH_P_8021Q,
		    .hash = head->hv1.tp_rxhash,
		};

		if (rx->check_outgoing && is_outgoing(head, AF_V3_ADDRESS))
			continue;
		if (head->tp_snaplen == head->tp_len)
			n += frame_set(&batch[n], &packet, cell);
		else
			drop_cut(cell, head->tp_len, DROP_TRUNCATED);
	}
	return n;
}

unsigned af_blocks_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		      struct port_counters *cell)
{
	struct tpacket3_hdr *packets[FRAME_BATCH];
	uint64_t cursor;
	uint32_t all = 0;
	unsigned ready = v3_ready(rx, packets, max, &cursor, &all);

	if (!ready)
		return 0;
	note_stamps(rx, all);
	book_kernel_drops(rx, all & TP_STATUS_LOSING ? af_rx_kernel_drops(rx) : 0, cell);
	advance(rx, cursor, all & TP_STATUS_VLAN_VALID);
	return v3_frames(rx, packets, ready, batch, cell);
}

void af_blocks_release(struct af_rx *rx)
{
	for (; rx->released != rx->cursor >> AF_PACKET_BITS; rx->released++)
		store_release(&v3_block(rx, rx->released)->hdr.bh1.block_status, TP_STATUS_KERNEL);
}

/*
 * Gives back what the last life had finished with, and finds the packet to go on with. The
 * kernel numbers the blocks it opens from 1: another number is another filling.
 */
void af_blocks_recover(struct af_rx *rx)
{
	uint64_t block = rx->cursor >> AF_PACKET_BITS;
	uint32_t index = rx->cursor & ((1u << AF_PACKET_BITS) - 1);
	struct tpacket_block_desc *desc = v3_block(rx, block);

	for (; rx->released != block; rx->released++) {
		struct tpacket_hdr_v1 *head = &v3_block(rx, rx->released)->hdr.bh1;

		if ((load_acquire(&head->block_status) & TP_STATUS_USER) &&
		    head->seq_num == rx->released + 1)
			store_release(&head->block_status, TP_STATUS_KERNEL);
	}
	rx->v3_offset = index ? desc->hdr.bh1.offset_to_first_pkt : 0;
	for (uint32_t i = 0; i < index; i++)
		rx->v3_offset += v3_packet(desc, rx->v3_offset)->tp_next_offset;
}
