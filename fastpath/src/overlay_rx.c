/*
 * Overlay ports, into the switch: recvmmsg into memory that outlives the forwarder, then one frame
 * a datagram. With UDP_GRO the kernel hands over up to 64 datagrams of one sender as one message;
 * a batch may end in the middle of it.
 *
 * Everything in the shared memory was written by the kernel or by a forwarder that is dead: read
 * once, then judged.
 *
 * Runs on: workers; overlay_rx_init and overlay_rx_drops on the control thread.
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "overlay_inner.h"
#include "parse.h"
#include "port_overlay.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static const uint64_t MEMORY_MAGIC = 0x7673776f76723031; /* "vswovr01" */

/* --- the memory --------------------------------------------------------------------------- */

/* Ready for the kernel: addresses are this process's, lengths what there is room for. */
static void message_reset(struct overlay_memory *memory, unsigned i)
{
	struct overlay_slot *slot = &memory->slots[i];

	slot->parts[0] = (struct iovec){slot->header, OVERLAY_HEADER_LEN};
	slot->parts[1] = (struct iovec){memory->buffers[i] + FRAME_HEADROOM,
					OVERLAY_BUFFER_BYTES - FRAME_HEADROOM};
	memory->messages[i].msg_hdr = (struct msghdr){
	    .msg_name = &slot->from,
	    .msg_namelen = sizeof(slot->from),
	    .msg_iov = slot->parts,
	    .msg_iovlen = 2,
	    .msg_control = slot->control,
	    .msg_controllen = sizeof(slot->control),
	};
	memory->messages[i].msg_len = OVERLAY_EMPTY;
}

void overlay_rx_init(struct overlay_rx *rx, struct overlay *overlay, int fd,
		     struct overlay_memory *memory)
{
	uint64_t cursor = atomic_load(&memory->cursor);

	*rx = (struct overlay_rx){
	    .overlay = overlay, .memory = memory, .fd = fd, .peer = -1, .committed = true};
	if (memory->magic != MEMORY_MAGIC) {
		cursor = 0;
	} else {
		while (rx->count < OVERLAY_MESSAGES &&
		       memory->messages[rx->count].msg_len != OVERLAY_EMPTY)
			rx->count++;
	}
	/* Of those that are filled only lengths are read again; the addresses are a dead process's.
	 */
	for (unsigned i = rx->count; i < OVERLAY_MESSAGES; i++)
		message_reset(memory, i);
	memory->magic = MEMORY_MAGIC;
	rx->message = (uint32_t)(cursor >> 32);
	rx->offset = (uint32_t)cursor;
	if (rx->message > rx->count)
		rx->message = rx->count;
}

uint32_t overlay_rx_drops(struct overlay_rx *rx)
{
	uint32_t info[SK_MEMINFO_VARS] = {0};
	socklen_t len = sizeof(info);
	uint32_t fresh;

	if (getsockopt(rx->fd, SOL_SOCKET, SO_MEMINFO, info, &len) < 0)
		return 0;
	fresh = info[SK_MEMINFO_DROPS] - (uint32_t)rx->memory->drops_seen;
	rx->memory->drops_seen = info[SK_MEMINFO_DROPS];
	if (fresh)
		atomic_fetch_add_explicit(&rx->memory->drops, fresh, memory_order_relaxed);
	return fresh;
}

static void book_drops(struct overlay_rx *rx, struct port_counters *cell)
{
	if (atomic_load_explicit(&rx->memory->drops, memory_order_relaxed))
		counter_add(&cell->kernel_drops,
			    atomic_exchange_explicit(&rx->memory->drops, 0, memory_order_relaxed));
}

/* --- from datagrams to frames ------------------------------------------------------------- */

/* Takes new messages from the socket; the last ones are done with. */
static void receive(struct overlay_rx *rx)
{
	struct overlay_memory *memory = rx->memory;
	int got;

	for (unsigned i = 0; i < rx->count; i++)
		message_reset(memory, i);
	atomic_store_explicit(&memory->cursor, 0, memory_order_release);
	rx->message = rx->offset = rx->count = 0;
	do
		got = recvmmsg(rx->fd, memory->messages, OVERLAY_MESSAGES, MSG_DONTWAIT, NULL);
	while (got < 0 && errno == EINTR);
	if (got > 0)
		rx->count = (uint32_t)got;
}

/* Bytes of each datagram in a message, as UDP_GRO says; fallback where it says nothing. */
static uint32_t segment_bytes(const struct overlay_memory *memory, unsigned i, uint32_t fallback)
{
	struct cmsghdr head;
	int bytes;

	if (memory->messages[i].msg_hdr.msg_controllen < CMSG_LEN(sizeof(bytes)))
		return fallback;
	memcpy(&head, memory->slots[i].control, sizeof(head));
	memcpy(&bytes, memory->slots[i].control + CMSG_LEN(0), sizeof(bytes));
	if (head.cmsg_level != IPPROTO_UDP || head.cmsg_type != UDP_GRO || bytes <= 0)
		return fallback;
	return (uint32_t)bytes;
}

static int sender_peer(const struct overlay *overlay, const struct sockaddr_in6 *from)
{
	struct overlay_endpoint sender = {.ip = {[10] = 0xff, [11] = 0xff}};

	if (overlay->config.ipv6)
		memcpy(sender.ip, &from->sin6_addr, sizeof(sender.ip));
	else
		memcpy(sender.ip + 12,
		       (const uint8_t *)from + offsetof(struct sockaddr_in, sin_addr), 4);
	memcpy(sender.port, &from->sin6_port, sizeof(sender.port)); /* at the same place in both */
	return overlay_peer_find(&overlay->config, &sender);
}

static void learn(const struct overlay *overlay, const uint8_t *frame, int peer, uint32_t tick)
{
	const uint8_t *source = frame + 6;
	uint64_t key = fdb_key(source, 0);

	if (!(source[0] & 1) && key != fdb_key((const uint8_t[6]){0}, 0))
		fdb_learn(overlay->fdb, key, (uint16_t)peer, tick);
}

/* 0, or what is wrong with a datagram of `bytes`: DROP_... plus 1. */
static unsigned datagram_fault(const struct overlay_rx *rx, const uint8_t *header, uint32_t bytes)
{
	const struct overlay *overlay = rx->overlay;
	uint32_t vni;

	if (rx->peer < 0)
		return DROP_UNKNOWN_PEER + 1;
	if (!overlay->kind->decode(header, bytes, &vni))
		return DROP_OVERLAY_INVALID + 1;
	if (vni != overlay->config.vni)
		return DROP_UNKNOWN_VNI + 1;
	return bytes < OVERLAY_HEADER_LEN + FRAME_LEN_MIN ? DROP_MALFORMED + 1 : 0;
}

/* The next datagram of the message that rx is in, of `length` bytes; false: dropped and booked. */
static bool datagram(struct overlay_rx *rx, uint32_t length, uint32_t tick, struct frame *frame,
		     struct port_counters *cell)
{
	struct overlay_memory *memory = rx->memory;
	uint8_t *payload = memory->buffers[rx->message] + FRAME_HEADROOM;
	uint32_t at = rx->offset, bytes = length - at < rx->segment ? length - at : rx->segment;
	/* A datagram too short for a header is refused by its length, before a byte is read. */
	const uint8_t *header = at < OVERLAY_HEADER_LEN ? memory->slots[rx->message].header
							: payload + at - OVERLAY_HEADER_LEN;
	unsigned fault = datagram_fault(rx, header, bytes);

	rx->offset += bytes;
	if (fault) {
		counter_add(&cell->rx_frames, 1);
		counter_add(&cell->rx_bytes, bytes);
		counter_add(&cell->rx_drops[fault - 1], 1);
		return false;
	}
	*frame = (struct frame){
	    .data = payload + at,
	    .len = bytes - OVERLAY_HEADER_LEN,
	    .frame_len = bytes - OVERLAY_HEADER_LEN,
	    /* before the others lie headers that a successor may have to read again */
	    .headroom = at ? 0 : FRAME_HEADROOM,
	};
	overlay_inner(frame, atomic_load_explicit(&rx->overlay->mtu, memory_order_relaxed));
	learn(rx->overlay, frame->data, rx->peer, tick);
	return true;
}

/* A message from its beginning or from where the last batch ended in it. */
static uint32_t message_begin(struct overlay_rx *rx)
{
	const struct overlay_memory *memory = rx->memory;
	uint32_t length = memory->messages[rx->message].msg_len;

	if (length > OVERLAY_BUFFER_BYTES - FRAME_HEADROOM)
		length = 0; /* not the kernel's word */
	if (rx->offset > length)
		rx->offset = length;
	rx->segment = segment_bytes(memory, rx->message, length);
	rx->peer = sender_peer(rx->overlay, &memory->slots[rx->message].from);
	return length;
}

static uint32_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec;
}

int overlay_rx(struct port_queue *queue, struct frame *batch, unsigned max,
	       struct port_counters *cell)
{
	struct overlay_rx *rx = queue->priv;
	uint32_t tick = now_s();
	unsigned count = 0;

	book_drops(rx, cell);
	if (rx->message == rx->count)
		receive(rx);
	while (rx->message < rx->count && count < max) {
		uint32_t length = message_begin(rx);

		do
			count += datagram(rx, length, tick, &batch[count], cell);
		while (rx->offset < length && count < max);
		if (rx->offset >= length) {
			rx->message++;
			rx->offset = 0;
		}
	}
	rx->committed = false;
	return (int)count;
}

void overlay_rx_commit(struct port_queue *queue)
{
	struct overlay_rx *rx = queue->priv;

	if (rx->committed)
		return;
	rx->committed = true;
	atomic_store_explicit(&rx->memory->cursor, (uint64_t)rx->message << 32 | rx->offset,
			      memory_order_release);
}

int overlay_rx_fd(const struct port_queue *queue)
{
	const struct overlay_rx *rx = queue->priv;

	return rx->fd;
}
