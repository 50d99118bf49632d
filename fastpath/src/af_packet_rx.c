/*
 * AF_PACKET, into the switch: TPACKET_V2 and V3 rings, and how a queue goes on after a kill.
 *
 * The kernel takes the VLAN tag out of a frame (tp_vlan_tci, tp_vlan_tpid); here it is put back
 * where it was, in the headroom that PACKET_RESERVE makes. Truncation shows as tp_snaplen <
 * tp_len and nothing else: without PACKET_COPY_THRESH, or when the socket's queue is full, no
 * flag tells.
 *
 * Runs on: workers; af_rx_recover on the control thread before any worker knows the queue.
 * Memory: ring slots and copy buffers belong to this queue from rx to rx_done.
 */
#include "af_packet.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

enum {
	ETHERNET_MACS_BYTES = 12,
	VLAN_TAG_BYTES = 4,
	SLOT_TAKEN = 1,
};

/* What both ring versions say about a frame. */
struct packet {
	uint8_t *data; /* first byte of the frame; the virtio-net header is right before it */
	uint32_t len;
	uint16_t headroom;
	bool tagged;
	uint16_t tci;
	uint16_t tpid;
};

static uint32_t load_acquire(const uint32_t *status)
{
	return atomic_load_explicit((const _Atomic uint32_t *)status, memory_order_acquire);
}

static void store_release(uint32_t *status, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)status, value, memory_order_release);
}

static bool offload_sane(const struct frame_offload *offload, uint32_t len)
{
	if (offload->flags & FRAME_CSUM_NEEDED) {
		if (offload->csum_start < ETH_HLEN ||
		    offload->csum_start + offload->csum_offset + 2u > len)
			return false;
	}
	switch (offload->gso_type & ~FRAME_GSO_ECN) {
	case FRAME_GSO_NONE:
		return true;
	case FRAME_GSO_TCPV4:
	case FRAME_GSO_TCPV6:
	case FRAME_GSO_UDP:
	case FRAME_GSO_UDP_L4:
		return offload->gso_size > 0;
	default:
		return false;
	}
}

/* Puts the tag back between addresses and type, and moves what counts from the first byte. */
static void tag_restore(struct packet *packet, struct frame_offload *offload)
{
	uint16_t tag[2] = {htons(packet->tpid), htons(packet->tci)};

	packet->data -= VLAN_TAG_BYTES;
	packet->len += VLAN_TAG_BYTES;
	packet->headroom = (uint16_t)(packet->headroom - VLAN_TAG_BYTES);
	memmove(packet->data, packet->data + VLAN_TAG_BYTES, ETHERNET_MACS_BYTES);
	memcpy(packet->data + ETHERNET_MACS_BYTES, tag, sizeof(tag));
	if (offload->flags & FRAME_CSUM_NEEDED)
		offload->csum_start = (uint16_t)(offload->csum_start + VLAN_TAG_BYTES);
	if (offload->gso_type != FRAME_GSO_NONE)
		offload->hdr_len = (uint16_t)(offload->hdr_len + VLAN_TAG_BYTES);
}

/* Fills a descriptor; false: dropped and booked. */
static bool frame_set(struct frame *frame, struct packet *packet, struct port_counters *cell)
{
	struct frame_offload offload;

	memcpy(&offload, packet->data - AF_VNET_BYTES, sizeof(offload));
	if (packet->tagged)
		tag_restore(packet, &offload);
	if (packet->len < ETH_HLEN || !offload_sane(&offload, packet->len)) {
		counter_add(&cell->rx_frames, 1);
		counter_add(&cell->rx_bytes, packet->len);
		counter_add(
		    &cell->rx_drops[packet->len < ETH_HLEN ? DROP_MALFORMED : DROP_OFFLOAD_INVALID],
		    1);
		return false;
	}
	frame->data = packet->data;
	frame->next = NULL;
	frame->slot = NULL;
	frame->len = packet->len;
	frame->frame_len = packet->len;
	frame->headroom = packet->headroom;
	frame->pool = 0;
	frame->flags = 0;
	frame->offload = offload;
	return true;
}

static void drop_truncated(struct port_counters *cell, uint32_t frame_len)
{
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame_len);
	counter_add(&cell->rx_drops[DROP_TRUNCATED], 1);
}

static bool is_outgoing(const void *slot, size_t address_offset)
{
	const struct sockaddr_ll *from =
	    (const struct sockaddr_ll *)((const uint8_t *)slot + address_offset);

	return from->sll_pkttype == PACKET_OUTGOING;
}

uint32_t af_rx_kernel_drops(const struct af_rx *rx)
{
	union tpacket_stats_u stats = {0};
	socklen_t len = rx->v3 ? sizeof(stats.stats3) : sizeof(stats.stats1);

	if (getsockopt(rx->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len))
		return 0;
	return stats.stats1.tp_drops; /* the same place in both */
}

/* Moves what is known of the kernel's drops into the worker's cell. */
static void book_kernel_drops(struct af_rx *rx, uint32_t fresh, struct port_counters *cell)
{
	uint64_t drops = fresh;

	if (atomic_load_explicit(&rx->journal->kernel_drops, memory_order_relaxed))
		drops +=
		    atomic_exchange_explicit(&rx->journal->kernel_drops, 0, memory_order_relaxed);
	if (drops)
		counter_add(&cell->kernel_drops, drops);
}

static void commit(struct af_rx *rx)
{
	if (rx->committed)
		return;
	rx->committed = true;
	atomic_store_explicit(&rx->journal->cursor, rx->cursor, memory_order_release);
}

/* A batch up to here. Putting back a tag changes the slot, so it cannot be taken again. */
static void advance(struct af_rx *rx, uint64_t cursor, bool tagged)
{
	rx->cursor = cursor;
	rx->committed = false;
	if (tagged)
		commit(rx);
}

/* --- TPACKET_V2 --------------------------------------------------------------------------- */

static struct tpacket2_hdr *v2_slot(const struct af_rx *rx, uint64_t position)
{
	return (struct tpacket2_hdr *)(rx->ring + ((position & rx->slot_mask) << rx->slot_shift));
}

/* Counts the slots from the cursor on that are ready, at most max; all: their status bits. */
static unsigned v2_ready(const struct af_rx *rx, unsigned max, unsigned *copies, uint32_t *all)
{
	unsigned n = 0;

	while (n < max) {
		const struct tpacket2_hdr *slot = v2_slot(rx, rx->cursor + n);
		uint32_t status = load_acquire(&slot->tp_status);

		if (!(status & TP_STATUS_USER))
			break;
		if (status & TP_STATUS_COPY) {
			if (*copies == AF_COPY_FRAMES)
				break;
			++*copies;
		}
		*all |= status;
		__builtin_prefetch(v2_slot(rx, rx->cursor + n + 1));
		n++;
	}
	return n;
}

/*
 * Fetches the batch's large frames. The message headers lie in the journal and the bytes behind
 * it, so that a forwarder killed after this finds both in the next life: the cursor has not
 * moved, copy_cursor names it, and msg_len says which messages the kernel delivered.
 */
static unsigned v2_fetch(struct af_rx *rx, unsigned copies)
{
	struct af_journal_queue *journal = rx->journal;
	unsigned have = 0;

	if (atomic_load_explicit(&journal->copy_cursor, memory_order_relaxed) == rx->cursor) {
		while (have < AF_COPY_FRAMES && journal->copies[have].msg_len)
			have++;
	} else {
		for (unsigned i = 0; i < AF_COPY_FRAMES; i++)
			journal->copies[i].msg_len = 0;
		atomic_store_explicit(&journal->copy_cursor, rx->cursor, memory_order_release);
	}
	/* Twice: the first call may only return an error that was waiting on the socket. */
	for (unsigned tries = 0; have < copies && tries < 2; tries++) {
		int got;

		for (unsigned i = have; i < copies; i++)
			journal->copies[i].msg_hdr =
			    (struct msghdr){.msg_iov = &rx->copy_iov[i], .msg_iovlen = 1};
		got = recvmmsg(rx->fd, journal->copies + have, copies - have,
			       MSG_DONTWAIT | MSG_TRUNC, NULL);
		if (got > 0)
			have += (unsigned)got;
	}
	return have;
}

/* The bytes of a frame that did not fit its slot; false: they are not there as a whole. */
static bool v2_copied(const struct af_rx *rx, unsigned index, unsigned have,
		      const struct tpacket2_hdr *slot, struct packet *packet)
{
	uint8_t *buffer = rx->copy + (size_t)index * AF_COPY_BYTES;

	if (index >= have || rx->journal->copies[index].msg_len != slot->tp_len + AF_VNET_BYTES ||
	    slot->tp_len > AF_COPY_BYTES - FRAME_HEADROOM - AF_VNET_BYTES)
		return false;
	packet->data = buffer + FRAME_HEADROOM + AF_VNET_BYTES;
	packet->headroom = FRAME_HEADROOM + AF_VNET_BYTES;
	packet->len = slot->tp_len;
	return true;
}

static bool v2_inline(const struct af_rx *rx, struct tpacket2_hdr *slot, struct packet *packet)
{
	uint32_t room = (UINT32_C(1) << rx->slot_shift) - slot->tp_mac;

	if (slot->tp_snaplen < slot->tp_len || slot->tp_mac < AF_V2_HEADER + AF_VNET_BYTES ||
	    slot->tp_mac >> rx->slot_shift || slot->tp_snaplen > room)
		return false;
	packet->data = (uint8_t *)slot + slot->tp_mac;
	packet->headroom = (uint16_t)(slot->tp_mac - AF_V2_HEADER);
	packet->len = slot->tp_snaplen;
	return true;
}

static unsigned v2_frames(const struct af_rx *rx, unsigned ready, unsigned have,
			  struct frame *batch, struct port_counters *cell)
{
	unsigned copy = 0, n = 0;

	for (unsigned i = 0; i < ready; i++) {
		struct tpacket2_hdr *slot = v2_slot(rx, rx->released + i);
		uint32_t status = slot->tp_status;
		struct packet packet = {
		    .tagged = status & TP_STATUS_VLAN_VALID,
		    .tci = slot->tp_vlan_tci,
		    .tpid = status & TP_STATUS_VLAN_TPID_VALID ? slot->tp_vlan_tpid : ETH_P_8021Q,
		};
		bool whole = status & TP_STATUS_COPY ? v2_copied(rx, copy++, have, slot, &packet)
						     : v2_inline(rx, slot, &packet);

		if (rx->check_outgoing && is_outgoing(slot, AF_V2_ADDRESS))
			continue;
		if (whole)
			n += frame_set(&batch[n], &packet, cell);
		else
			drop_truncated(cell, slot->tp_len);
	}
	return n;
}

static unsigned v2_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		      struct port_counters *cell)
{
	unsigned copies = 0, have = 0;
	uint32_t all = 0;
	unsigned ready = v2_ready(rx, max, &copies, &all);

	if (!ready)
		return 0;
	book_kernel_drops(rx, all & TP_STATUS_LOSING ? af_rx_kernel_drops(rx) : 0, cell);
	if (copies)
		have = v2_fetch(rx, copies);
	/* The kernel zeroes the padding as it fills a slot: a mark says "this life saw it". */
	for (unsigned i = 0; i < ready; i++)
		v2_slot(rx, rx->cursor + i)->tp_padding[0] = SLOT_TAKEN;
	advance(rx, rx->cursor + ready, all & TP_STATUS_VLAN_VALID);
	return v2_frames(rx, ready, have, batch, cell);
}

static void v2_release(struct af_rx *rx)
{
	for (; rx->released != rx->cursor; rx->released++)
		store_release(&v2_slot(rx, rx->released)->tp_status, TP_STATUS_KERNEL);
}

/* Gives back what the last life had finished with. A slot without a mark is filled anew. */
static void v2_recover(struct af_rx *rx)
{
	for (; rx->released != rx->cursor; rx->released++) {
		struct tpacket2_hdr *slot = v2_slot(rx, rx->released);

		if ((load_acquire(&slot->tp_status) & TP_STATUS_USER) &&
		    slot->tp_padding[0] == SLOT_TAKEN)
			store_release(&slot->tp_status, TP_STATUS_KERNEL);
	}
}

/* --- TPACKET_V3 --------------------------------------------------------------------------- */

static struct tpacket_block_desc *v3_block(const struct af_rx *rx, uint64_t block)
{
	return (struct tpacket_block_desc *)(rx->ring +
					     (block & rx->block_mask) * (size_t)rx->block_bytes);
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

	while (n < max && block - rx->released <= rx->block_mask) {
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
			*all |= packets[n]->tp_status & TP_STATUS_VLAN_VALID;
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
		};

		if (rx->check_outgoing && is_outgoing(head, AF_V3_ADDRESS))
			continue;
		if (head->tp_snaplen == head->tp_len)
			n += frame_set(&batch[n], &packet, cell);
		else
			drop_truncated(cell, head->tp_len);
	}
	return n;
}

static unsigned v3_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		      struct port_counters *cell)
{
	struct tpacket3_hdr *packets[FRAME_BATCH];
	uint64_t cursor;
	uint32_t all = 0;
	unsigned ready = v3_ready(rx, packets, max, &cursor, &all);

	if (!ready)
		return 0;
	book_kernel_drops(rx, all & TP_STATUS_LOSING ? af_rx_kernel_drops(rx) : 0, cell);
	advance(rx, cursor, all & TP_STATUS_VLAN_VALID);
	return v3_frames(rx, packets, ready, batch, cell);
}

static void v3_release(struct af_rx *rx)
{
	for (; rx->released != rx->cursor >> AF_PACKET_BITS; rx->released++)
		store_release(&v3_block(rx, rx->released)->hdr.bh1.block_status, TP_STATUS_KERNEL);
}

/*
 * Gives back what the last life had finished with, and finds the packet to go on with. The
 * kernel numbers the blocks it opens from 1: another number is another filling.
 */
static void v3_recover(struct af_rx *rx)
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

/* --- the ops ------------------------------------------------------------------------------- */

bool af_rx_recover(struct af_rx *rx)
{
	uint64_t done, span;

	rx->committed = true;
	rx->cursor = atomic_load_explicit(&rx->journal->cursor, memory_order_acquire);
	rx->released = atomic_load_explicit(&rx->journal->released, memory_order_relaxed);
	done = rx->v3 ? rx->cursor >> AF_PACKET_BITS : rx->cursor;
	span = rx->v3 ? rx->block_mask : rx->slot_mask;
	if (done - rx->released > span)
		return false;
	if (rx->v3)
		v3_recover(rx);
	else
		v2_recover(rx);
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
	n = rx->v3 ? v3_rx(rx, batch, max, cell) : v2_rx(rx, batch, max, cell);
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
	if (rx->v3)
		v3_release(rx);
	else
		v2_release(rx);
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
