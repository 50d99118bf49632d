/*
 * AF_PACKET, into the switch: what the ring versions share.
 *
 * The kernel takes the VLAN tag out of a frame (tp_vlan_tci, tp_vlan_tpid); here it is put back
 * where it was, in the headroom that PACKET_RESERVE makes. Truncation shows as tp_snaplen <
 * tp_len and nothing else: without PACKET_COPY_THRESH, or when the socket's queue is full, no
 * flag tells.
 *
 * Runs on: workers; the recover functions on the control thread before any worker knows the queue.
 * Memory: ring slots and copy buffers belong to their queue from rx to rx_done.
 */
#pragma once

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "af_packet.h"

enum {
	ETHERNET_MACS_BYTES = 12,
	VLAN_TAG_BYTES = 4,
};

/* What all ring versions say about a frame. */
struct packet {
	uint8_t *data; /* first byte of the frame; the virtio-net header is right before it */
	uint32_t len;
	uint16_t headroom;
	bool tagged;
	uint16_t tci;
	uint16_t tpid;
	uint32_t hash; /* the kernel's of the flow, or 0 */
};

static inline uint32_t load_acquire(const uint32_t *status)
{
	return atomic_load_explicit((const _Atomic uint32_t *)status, memory_order_acquire);
}

static inline void store_release(uint32_t *status, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)status, value, memory_order_release);
}

static inline bool offload_sane(const struct frame_offload *offload, uint32_t len)
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
static inline void tag_restore(struct packet *packet, struct frame_offload *offload)
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
static inline bool frame_set(struct frame *frame, struct packet *packet, struct port_counters *cell)
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
	frame->hash = packet->hash;
	return true;
}

/* Books a frame that is not there as a whole. */
static inline void drop_cut(struct port_counters *cell, uint32_t frame_len, enum drop_reason reason)
{
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame_len);
	counter_add(&cell->rx_drops[reason], 1);
}

static inline bool is_outgoing(const void *slot, size_t address_offset)
{
	const struct sockaddr_ll *from =
	    (const struct sockaddr_ll *)((const uint8_t *)slot + address_offset);

	return from->sll_pkttype == PACKET_OUTGOING;
}

/* all: the status bits of a batch. */
static inline void note_stamps(struct af_rx *rx, uint32_t all)
{
	uint32_t stamps = all & (TP_STATUS_TS_SOFTWARE | TP_STATUS_TS_RAW_HARDWARE);

	if (stamps != atomic_load_explicit(&rx->stamps, memory_order_relaxed))
		atomic_store_explicit(&rx->stamps, stamps, memory_order_relaxed);
}

/* Moves what is known of the kernel's drops into the worker's cell. */
static inline void book_kernel_drops(struct af_rx *rx, uint32_t fresh, struct port_counters *cell)
{
	uint64_t drops = fresh;

	if (atomic_load_explicit(&rx->journal->kernel_drops, memory_order_relaxed))
		drops +=
		    atomic_exchange_explicit(&rx->journal->kernel_drops, 0, memory_order_relaxed);
	if (drops)
		counter_add(&cell->kernel_drops, drops);
}

static inline void commit(struct af_rx *rx)
{
	if (rx->committed)
		return;
	rx->committed = true;
	atomic_store_explicit(&rx->journal->cursor, rx->cursor, memory_order_release);
}

/* A batch up to here. Putting back a tag changes the slot, so it cannot be taken again. */
static inline void advance(struct af_rx *rx, uint64_t cursor, bool tagged)
{
	rx->cursor = cursor;
	rx->committed = false;
	if (tagged)
		commit(rx);
}

/* Frames of at most max slots or packets that are ready; 0: none, or all of them dropped. */
unsigned af_slots_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		     struct port_counters *cell);
void af_slots_release(struct af_rx *rx);
/* Gives back what the last life had finished with. */
void af_slots_recover(struct af_rx *rx);

unsigned af_blocks_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		      struct port_counters *cell);
void af_blocks_release(struct af_rx *rx);
void af_blocks_recover(struct af_rx *rx);
