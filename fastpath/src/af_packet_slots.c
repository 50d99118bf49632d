/*
 * AF_PACKET, into the switch: TPACKET_V1 and V2 rings, a slot a frame.
 *
 * The two differ in the layout of the slot's header; `v1` is a constant wherever it is passed.
 *
 * Runs on: see af_packet_rx.h.
 */
#include "af_packet_rx.h"

/* The kernel writes tp_net whenever it fills a slot, and never 0. */
enum { NET_TAKEN = 0 };

/* A slot's header, loaded once. */
struct slot {
	uint32_t status;
	uint32_t len;
	uint32_t snaplen;
	uint16_t mac;
	uint16_t tci;
	uint16_t tpid;
};

static inline uint32_t slot_status(const uint8_t *at, bool v1)
{
	if (v1)
		return (uint32_t)atomic_load_explicit((const _Atomic unsigned long *)at,
						      memory_order_acquire);
	return load_acquire((const uint32_t *)at);
}

static inline void slot_give_back(uint8_t *at, bool v1)
{
	if (v1)
		atomic_store_explicit((_Atomic unsigned long *)at, TP_STATUS_KERNEL,
				      memory_order_release);
	else
		store_release((uint32_t *)at, TP_STATUS_KERNEL);
}

static inline uint16_t *slot_net(uint8_t *at, bool v1)
{
	return v1 ? &((struct tpacket_hdr *)at)->tp_net : &((struct tpacket2_hdr *)at)->tp_net;
}

static inline struct slot slot_load(const uint8_t *at, bool v1)
{
	const struct tpacket_hdr *one = (const struct tpacket_hdr *)at;
	const struct tpacket2_hdr *two = (const struct tpacket2_hdr *)at;

	if (v1)
		return (struct slot){.status = (uint32_t)one->tp_status,
				     .len = one->tp_len,
				     .snaplen = one->tp_snaplen,
				     .mac = one->tp_mac};
	return (struct slot){
	    .status = two->tp_status,
	    .len = two->tp_len,
	    .snaplen = two->tp_snaplen,
	    .mac = two->tp_mac,
	    .tci = two->tp_vlan_tci,
	    .tpid = two->tp_status & TP_STATUS_VLAN_TPID_VALID ? two->tp_vlan_tpid : ETH_P_8021Q,
	};
}

/* Counts the slots from the cursor on that are ready, at most max; all: their status bits. */
static inline unsigned slots_ready(const struct af_rx *rx, unsigned max, unsigned *copies,
				   uint32_t *all, bool v1)
{
	unsigned n = 0;

	if (max > rx->slots.count)
		max = rx->slots.count;
	while (n < max) {
		uint32_t status = slot_status(af_slot(&rx->slots, rx->cursor + n), v1);

		if (!(status & TP_STATUS_USER))
			break;
		if (status & TP_STATUS_COPY) {
			if (*copies == AF_COPY_FRAMES)
				break;
			++*copies;
		}
		*all |= status;
		__builtin_prefetch(af_slot(&rx->slots, rx->cursor + n + 1));
		n++;
	}
	return n;
}

/*
 * Fetches the batch's large frames. The message headers lie in the journal and the bytes behind
 * it, so that a forwarder killed after this finds both in the next life: the cursor has not
 * moved, copy_cursor names it, and msg_len says which messages the kernel delivered.
 */
static unsigned slots_fetch(struct af_rx *rx, unsigned copies)
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
static bool slot_copied(const struct af_rx *rx, unsigned index, unsigned have,
			const struct slot *slot, struct packet *packet)
{
	uint8_t *buffer = rx->copy + (size_t)index * AF_COPY_BYTES;

	if (index >= have || rx->journal->copies[index].msg_len != slot->len + AF_VNET_BYTES ||
	    slot->len > AF_COPY_BYTES - FRAME_HEADROOM - AF_VNET_BYTES)
		return false;
	packet->data = buffer + FRAME_HEADROOM + AF_VNET_BYTES;
	packet->headroom = FRAME_HEADROOM + AF_VNET_BYTES;
	packet->len = slot->len;
	return true;
}

static inline bool slot_inline(const struct af_rx *rx, uint8_t *at, const struct slot *slot,
			       struct packet *packet, bool v1)
{
	uint32_t header = v1 ? AF_V1_HEADER : AF_V2_HEADER;

	if (slot->snaplen < slot->len || slot->mac < header + AF_VNET_BYTES ||
	    slot->mac >= rx->slots.slot_bytes || slot->snaplen > rx->slots.slot_bytes - slot->mac)
		return false;
	packet->data = at + slot->mac;
	packet->headroom = (uint16_t)(slot->mac - header);
	packet->len = slot->snaplen;
	return true;
}

static inline unsigned slots_frames(const struct af_rx *rx, unsigned ready, unsigned have,
				    struct frame *batch, struct port_counters *cell, bool v1)
{
	unsigned copy = 0, n = 0;

	for (unsigned i = 0; i < ready; i++) {
		uint8_t *at = af_slot(&rx->slots, rx->released + i);
		struct slot slot = slot_load(at, v1);
		struct packet packet = {
		    .tagged = !v1 && (slot.status & TP_STATUS_VLAN_VALID),
		    .tci = slot.tci,
		    .tpid = slot.tpid,
		};
		bool whole = slot.status & TP_STATUS_COPY
				 ? slot_copied(rx, copy++, have, &slot, &packet)
				 : slot_inline(rx, at, &slot, &packet, v1);

		if (rx->check_outgoing && is_outgoing(at, v1 ? AF_V1_ADDRESS : AF_V2_ADDRESS))
			continue;
		if (whole)
			n += frame_set(&batch[n], &packet, cell);
		else if (v1 && slot.snaplen == AF_TAGGED_SNAPLEN)
			drop_cut(cell, slot.len + VLAN_TAG_BYTES, DROP_VLAN_UNSUPPORTED);
		else
			drop_cut(cell, slot.len, DROP_TRUNCATED);
	}
	return n;
}

static inline __attribute__((always_inline)) unsigned
slots_rx(struct af_rx *rx, struct frame *batch, unsigned max, struct port_counters *cell, bool v1)
{
	unsigned copies = 0, have = 0;
	uint32_t all = 0;
	unsigned ready = slots_ready(rx, max, &copies, &all, v1);

	if (!ready)
		return 0;
	note_stamps(rx, all);
	book_kernel_drops(rx, all & TP_STATUS_LOSING ? af_rx_kernel_drops(rx) : 0, cell);
	if (copies)
		have = slots_fetch(rx, copies);
	for (unsigned i = 0; i < ready; i++) /* "this life saw it" */
		*slot_net(af_slot(&rx->slots, rx->cursor + i), v1) = NET_TAKEN;
	advance(rx, rx->cursor + ready, !v1 && (all & TP_STATUS_VLAN_VALID));
	return slots_frames(rx, ready, have, batch, cell, v1);
}

unsigned af_slots_rx(struct af_rx *rx, struct frame *batch, unsigned max,
		     struct port_counters *cell)
{
	if (rx->version == 1)
		return slots_rx(rx, batch, max, cell, true);
	return slots_rx(rx, batch, max, cell, false);
}

void af_slots_release(struct af_rx *rx)
{
	bool v1 = rx->version == 1;

	for (; rx->released != rx->cursor; rx->released++)
		slot_give_back(af_slot(&rx->slots, rx->released), v1);
}

/* A slot without a mark is filled anew. */
void af_slots_recover(struct af_rx *rx)
{
	bool v1 = rx->version == 1;

	for (; rx->released != rx->cursor; rx->released++) {
		uint8_t *at = af_slot(&rx->slots, rx->released);

		if ((slot_status(at, v1) & TP_STATUS_USER) && *slot_net(at, v1) == NET_TAKEN)
			slot_give_back(at, v1);
	}
}
