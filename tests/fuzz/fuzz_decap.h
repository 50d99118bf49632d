/*
 * The way of a datagram into the switch, for the fuzz targets of both encapsulations: as if a dead
 * forwarder had left the receive memory like this.
 *
 * Input: a byte for the sender and for whether headers are right, two for what UDP_GRO says, two
 * for the cursor, one for the batch; then messages, each two bytes of length and as many bytes.
 * What must hold for every input:
 *
 *   - each byte of a message is in one frame, in one header, or in what was dropped
 *   - a frame lies inside its message, and its bytes are the message's
 *   - what overlay_inner says of a frame it says of an allocation of exactly its size, and
 *     offload.c can complete it or refuses it
 */
#pragma once

#include <assert.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "offload.h"
#include "overlay_inner.h"
#include "port_overlay.h"

enum { DECAP_HEAD_BYTES = 6, DECAP_VNI = 10, DECAP_MTU = 1450 };

static void decap_open(struct overlay *overlay, const struct overlay_kind *kind)
{
	static const uint64_t seed[4] = {1, 3, 5, 7};
	static void *stations;
	static struct fdb *fdb;

	if (!fdb) {
		struct fdb_params params = {
		    .bytes = fdb_bytes(64), .entries_max = 64, .seed = seed};

		assert(fdb_map(-1, 64, &stations, NULL) == 0);
		params.memory = stations;
		assert(fdb_open(&params, &fdb, NULL) == 0);
	}
	*overlay = (struct overlay){.kind = kind, .fdb = fdb, .mtu = DECAP_MTU};
	overlay->config.vni = DECAP_VNI;
	overlay->config.peer_count = 1;
	overlay->config.compare_ports = kind->from_one_port;
	overlay->config.peers[0] = (struct overlay_endpoint){
	    .ip = {[10] = 0xff, [11] = 0xff, 192, 0, 2, 2}, .port = {0x17, 0xc1}};
}

/* Returns the bytes of all messages. */
static uint64_t decap_fill(struct overlay_memory *memory, const struct overlay_kind *kind,
			   const uint8_t *data, size_t size)
{
	const uint16_t segment = (uint16_t)(data[1] << 8 | data[2]);
	const int bytes = segment;
	const struct cmsghdr head = {CMSG_LEN(sizeof(bytes)), IPPROTO_UDP, UDP_GRO};
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(0x17c1)};
	uint64_t total = 0;
	size_t at = DECAP_HEAD_BYTES;

	from.sin_addr.s_addr = htonl(0xc0000202 + (data[0] == 0xff));
	for (unsigned i = 0; i < OVERLAY_MESSAGES && size - at >= 2; i++) {
		struct overlay_slot *slot = &memory->slots[i];
		size_t len = (size_t)(data[at] << 8 | data[at + 1]);
		size_t first;

		at += 2;
		len = len < size - at ? len : size - at;
		first = len < OVERLAY_HEADER_LEN ? len : OVERLAY_HEADER_LEN;
		memcpy(&slot->from, &from, sizeof(from));
		memcpy(slot->header, data + at, first);
		if ((data[0] & 1) && len > OVERLAY_HEADER_LEN)
			kind->encode(slot->header, DECAP_VNI, (uint32_t)len - OVERLAY_HEADER_LEN);
		memcpy(memory->buffers[i] + FRAME_HEADROOM, data + at + first, len - first);
		memcpy(slot->control, &head, sizeof(head));
		memcpy(slot->control + CMSG_LEN(0), &bytes, sizeof(bytes));
		memory->messages[i].msg_hdr.msg_controllen =
		    segment ? CMSG_SPACE(sizeof(bytes)) : 0;
		memory->messages[i].msg_len = (unsigned)len;
		at += len;
		total += len;
	}
	return total;
}

static void decap_frame(const struct overlay_memory *memory, const struct frame *frame)
{
	struct offload_cut cut;
	static struct frame chain[OFFLOAD_CHAIN_MAX];
	static uint8_t scratch[OFFLOAD_SCRATCH_BYTES];
	struct frame copy = *frame;
	uintptr_t at = (uintptr_t)frame->data - (uintptr_t)memory->buffers[0];
	int used;

	assert(frame->len >= FRAME_LEN_MIN && frame->len == frame->frame_len && !frame->next);
	assert(at % OVERLAY_BUFFER_BYTES + frame->len <= OVERLAY_BUFFER_BYTES);
	assert(at % OVERLAY_BUFFER_BYTES >= frame->headroom);
	copy.data = malloc(frame->len);
	assert(copy.data);
	memcpy(copy.data, frame->data, frame->len);
	memset(&copy.offload, 0, sizeof(copy.offload));
	overlay_inner(&copy, DECAP_MTU);
	assert(memcmp(&copy.offload, &frame->offload, sizeof(copy.offload)) == 0);
	if (frame_has_offload(&copy) && offload_cut_begin(&cut, &copy, PORT_CAP_FRAGS) == 0) {
		while ((used = offload_cut_chain(&cut, scratch, chain, OFFLOAD_CHAIN_MAX)) > 0)
			assert(chain[0].frame_len <= frame->frame_len);
		assert(used == 0);
	}
	free(copy.data);
}

static int decap_input(const struct overlay_kind *kind, const uint8_t *data, size_t size)
{
	static struct overlay_memory memory;
	static struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	struct overlay overlay;
	struct overlay_rx rx;
	struct port_queue queue = {.priv = &rx};
	uint64_t total, seen = 0;
	unsigned max;
	int count;

	if (size < DECAP_HEAD_BYTES)
		return 0;
	decap_open(&overlay, kind);
	overlay_rx_init(&rx, &overlay, -1, &memory); /* the first time: it is fresh memory */
	for (unsigned i = 0; i < OVERLAY_MESSAGES; i++)
		memory.messages[i].msg_len = OVERLAY_EMPTY;
	total = decap_fill(&memory, kind, data, size);
	atomic_store(&memory.cursor, (uint64_t)data[3] << 32 | data[4]);
	overlay_rx_init(&rx, &overlay, -1, &memory);
	max = 1 + data[5] % FRAME_BATCH;
	while (rx.message < rx.count) {
		count = overlay_rx(&queue, batch, max, &cell);
		assert(count >= 0 && (unsigned)count <= max);
		for (int i = 0; i < count; i++) {
			seen += batch[i].len + OVERLAY_HEADER_LEN;
			decap_frame(&memory, &batch[i]);
		}
		overlay_rx_commit(&queue);
	}
	seen += cell.rx_bytes; /* of what was dropped */
	assert(seen <= total);
	if (!data[3] && !data[4])
		assert(seen == total);
	return 0;
}
