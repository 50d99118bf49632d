/*
 * AF_XDP ports without a kernel: rings in this process's memory, of which the test is the other
 * side. What a successor makes of rings and journal at every point where a forwarder can have been
 * killed; and which frames are taken for unfinished.
 */
#include <arpa/inet.h>
#include <stdlib.h>

#include "af_xdp.h"
#include "check.h"
#include "offload.h"
#include "packets.h"

/* One queue's rings and memory. */
struct world {
	_Atomic uint32_t positions[8];
	struct xdp_desc received[XDP_RX_CHUNKS];
	uint64_t filled[XDP_RX_CHUNKS];
	struct xdp_desc sent[XDP_TX_CHUNKS];
	uint64_t completed[XDP_TX_CHUNKS];
	_Atomic uint64_t owner[XDP_TX_CHUNKS];
	struct xdp_journal journal;
	struct xdp_rx rx;
	struct xdp_tx tx;
	struct port port;
	struct port_queue queue;
	uint8_t chunks[(size_t)XDP_QUEUE_CHUNKS * XDP_CHUNK_BYTES];
};

static struct xdp_ring ring_over(struct world *world, unsigned at, void *entries, uint32_t count)
{
	return (struct xdp_ring){
	    .producer = &world->positions[2 * at],
	    .consumer = &world->positions[2 * at + 1],
	    .entries = entries,
	    .mask = count - 1,
	};
}

/* What attach does in a new process. */
static bool attach(struct world *world)
{
	struct xdp_rx *rx = &world->rx;
	struct xdp_tx *tx = &world->tx;

	memset(rx, 0, sizeof(*rx));
	memset(tx, 0, sizeof(*tx));
	rx->ring = ring_over(world, 0, world->received, XDP_RX_CHUNKS);
	rx->fill = ring_over(world, 1, world->filled, XDP_RX_CHUNKS);
	rx->chunks = world->chunks;
	rx->journal = &world->journal;
	tx->ring = ring_over(world, 2, world->sent, XDP_TX_CHUNKS);
	tx->completion = ring_over(world, 3, world->completed, XDP_TX_CHUNKS);
	tx->first = (uint64_t)XDP_RX_CHUNKS * XDP_CHUNK_BYTES;
	tx->chunks = world->chunks + tx->first;
	tx->owner = world->owner;
	world->queue = (struct port_queue){.port = &world->port, .priv = rx};
	return xdp_tx_recover(tx) && xdp_rx_recover(rx);
}

/* Positions begin shortly before they wrap. */
static struct world *world_make(uint32_t start)
{
	struct world *world = calloc(1, sizeof(*world));

	if (!world)
		abort();
	for (unsigned i = 0; i < 8; i++)
		world->positions[i] = start;
	world->journal.cursor = start;
	for (uint32_t i = 0; i < XDP_RX_CHUNKS; i++)
		world->filled[(start + i) % XDP_RX_CHUNKS] = i * (uint64_t)XDP_CHUNK_BYTES;
	world->positions[2] = start + XDP_RX_CHUNKS;
	return world;
}

/* The kernel receives a frame in so many pieces. */
static void arrive(struct world *world, unsigned pieces)
{
	for (unsigned i = 0; i < pieces; i++) {
		uint32_t at = world->positions[0], from = world->positions[3];

		CHECK(from != world->positions[2]);
		world->received[at % XDP_RX_CHUNKS] = (struct xdp_desc){
		    .addr = world->filled[from % XDP_RX_CHUNKS] + XDP_KERNEL_HEADROOM,
		    .len = 100 + i,
		    .options = i + 1 < pieces ? XDP_PKT_CONTD : 0,
		};
		world->positions[3] = from + 1;
		world->positions[0] = at + 1;
	}
}

/* Every receive chunk is in exactly one place. */
static void chunks_counted(struct world *world)
{
	uint8_t seen[XDP_RX_CHUNKS] = {0};

	for (uint32_t at = world->positions[3]; at != world->positions[2]; at++)
		seen[world->filled[at % XDP_RX_CHUNKS] / XDP_CHUNK_BYTES]++;
	for (uint32_t at = world->positions[1]; at != world->positions[0]; at++)
		seen[world->received[at % XDP_RX_CHUNKS].addr / XDP_CHUNK_BYTES]++;
	for (unsigned i = 0; i < XDP_RX_CHUNKS; i++)
		CHECK(seen[i] == 1);
}

static int receive(struct world *world, struct frame *batch)
{
	struct port_counters cell = {0};

	return xdp_rx(&world->queue, batch, FRAME_BATCH, &cell);
}

static void frames_and_pieces(void)
{
	struct world *world = world_make(UINT32_MAX - 100);
	struct frame batch[FRAME_BATCH];

	CHECK(attach(world));
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 30; i++)
			arrive(world, 1 + i % 7);
		CHECK(receive(world, batch) == 30);
		for (unsigned i = 0; i < 30; i++) {
			unsigned pieces = 0, bytes = 0;

			for (const struct frame *f = &batch[i]; f; f = f->next, pieces++)
				bytes += f->len;
			CHECK(pieces == 1 + i % 7 && bytes == batch[i].frame_len);
			CHECK(batch[i].headroom == XDP_KERNEL_HEADROOM);
		}
		xdp_rx_done(&world->queue);
		chunks_counted(world);
	}
	/* More pieces than a frame may have, and more than a batch keeps. */
	arrive(world, FRAME_FRAGS_MAX + 1);
	arrive(world, 2);
	CHECK(receive(world, batch) == 1 && batch[0].frame_len == 201);
	xdp_rx_done(&world->queue);
	for (unsigned i = 0; i < 30; i++)
		arrive(world, 40);
	for (int left = 30; left > 0;) {
		int n = receive(world, batch);

		CHECK(n > 0 && n < 30);
		left -= n > 0 ? n : left;
		xdp_rx_done(&world->queue);
	}
	chunks_counted(world);
	free(world);
}

/* A descriptor that names no receive chunk of the queue. */
static void foreign_places(void)
{
	static const uint64_t places[] = {
	    (uint64_t)XDP_RX_CHUNKS * XDP_CHUNK_BYTES, UINT64_MAX,
	    XDP_CHUNK_BYTES - 50, /* over the chunk's end */
	};
	struct world *world = world_make(0);
	struct frame batch[FRAME_BATCH];

	CHECK(attach(world));
	for (unsigned i = 0; i < 3; i++) {
		arrive(world, 1);
		world->received[i].addr = places[i];
	}
	arrive(world, 1);
	CHECK(receive(world, batch) == 1);
	CHECK(batch[0].data == world->chunks + 3 * XDP_CHUNK_BYTES + XDP_KERNEL_HEADROOM);
	xdp_rx_done(&world->queue);
	CHECK(world->positions[1] == 4);
	free(world);
}

/* Killed with a batch received, handed on, or in the middle of giving its chunks back. */
static void receiver_killed(uint32_t start)
{
	enum { RECEIVED, COMMITTED, NOTED, FILLED, DONE };

	for (unsigned when = RECEIVED; when <= DONE; when++) {
		struct world *world = world_make(start);
		struct frame batch[FRAME_BATCH];
		uint32_t consumed, fill;

		CHECK(attach(world));
		arrive(world, 3);
		CHECK(receive(world, batch) == 1);
		xdp_rx_done(&world->queue);
		for (unsigned i = 0; i < 5; i++)
			arrive(world, 2);
		consumed = world->positions[1];
		fill = world->positions[2];
		CHECK(receive(world, batch) == 5);
		if (when >= COMMITTED)
			xdp_rx_commit(&world->queue);
		if (when >= NOTED)
			xdp_rx_done(&world->queue);
		if (when == NOTED) /* not published */
			world->positions[2] = fill;
		if (when == NOTED || when == FILLED)
			world->positions[1] = consumed;
		arrive(world, 1);
		CHECK(attach(world));
		chunks_counted(world);
		CHECK(receive(world, batch) == (when == RECEIVED ? 6 : 1));
		xdp_rx_done(&world->queue);
		chunks_counted(world);
		CHECK(world->positions[1] == world->positions[0]);
		free(world);
	}
}

static void nonsense_is_refused(void)
{
	struct world *world = world_make(0);

	world->positions[0] = XDP_RX_CHUNKS + 1;
	CHECK(!attach(world));
	world->positions[0] = 10;
	world->journal.cursor = 11;
	CHECK(!attach(world));
	world->journal.cursor = 10;
	CHECK(attach(world));
	world->positions[4] = XDP_TX_CHUNKS + 1;
	CHECK(!attach(world));
	free(world);
}

/* Chunks that were filled and never published are free, published ones are not. */
static void sender_killed(uint32_t start)
{
	struct world *world = world_make(start);
	const uint64_t given = (uint64_t)XDP_OWNER_GIVEN << 32;

	for (uint32_t i = 0; i < 20; i++)
		world->owner[i] = given | (uint32_t)(start + i);
	world->positions[4] = start + 15; /* published */
	world->positions[5] = start + 10; /* taken by the kernel */
	for (uint32_t i = 0; i < 4; i++)  /* and done with */
		world->completed[(start + i) % XDP_TX_CHUNKS] =
		    (XDP_RX_CHUNKS + (uint64_t)i) * XDP_CHUNK_BYTES;
	world->positions[6] = start + 4;
	CHECK(attach(world));
	CHECK(world->tx.free_count == XDP_TX_CHUNKS - 11);
	CHECK(atomic_load(&world->tx.tail));
	CHECK(world->positions[7] == start + 4);
	for (uint32_t i = 0; i < 20; i++)
		CHECK((world->owner[i] != 0) == (i >= 4 && i < 15));
	/* Killed with the completion ring read and not consumed: nothing is free twice. */
	world->positions[7] = start;
	CHECK(attach(world));
	CHECK(world->tx.free_count == XDP_TX_CHUNKS - 11);
	free(world);
}

/* --- unfinished checksums ----------------------------------------------------------------------
 */

static uint8_t *field_of(struct packet_frame *made, const struct packet *packet)
{
	uint32_t l4 = 14 + (packet->tag ? 4u : 0) + (packet->ipv6 ? 40u : 20u);

	return made->bytes + (made->frame.data - made->bytes) + l4 +
	       (packet->proto == P_TCP ? 16 : 6);
}

/* The sum of the pseudo-header, as a stack leaves it in the field. */
static uint16_t pseudo_of(const struct packet *packet, const uint8_t *l4, uint32_t l4_len)
{
	const uint8_t *addresses = l4 - (packet->ipv6 ? 32 : 8);
	uint64_t sum = offload_sum(addresses, packet->ipv6 ? 32 : 8, 0);

	return offload_fold(sum + htons(packet->proto) + htons((uint16_t)l4_len));
}

static void marked(const struct packet *packet, bool expected)
{
	struct packet_frame made;
	uint32_t l4_len = packet->proto == P_TCP ? 20 : 8;
	uint8_t *field, *l4;
	uint16_t pseudo, finished;

	packet_make(packet, &made);
	field = field_of(&made, packet);
	l4 = field - (packet->proto == P_TCP ? 16 : 6);
	pseudo = pseudo_of(packet, l4, l4_len);
	xdp_partial_mark(&made.frame, 1500);
	CHECK(!frame_has_offload(&made.frame)); /* 0 is no sum */
	memcpy(field, &pseudo, 2);
	xdp_partial_mark(&made.frame, 1500);
	CHECK(frame_has_offload(&made.frame) == expected);
	if (!expected)
		return;
	CHECK(made.frame.offload.csum_start == l4 - made.frame.data);
	CHECK(!offload_checksum(&made.frame));
	/* Finished it is right: all words, its own among them, and the pseudo-header sum to ffff.
	 */
	CHECK(offload_fold(offload_sum(l4, l4_len, pseudo)) == 0xffff);
	memcpy(&finished, field, 2);
	CHECK(finished != pseudo);
	xdp_partial_mark(&made.frame, 1500);
	CHECK(!frame_has_offload(&made.frame));
}

static void unfinished_checksums(void)
{
	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		for (unsigned tag = 0; tag < 2; tag++) {
			struct packet packet = {
			    .src = 1,
			    .dst = 2,
			    .ipv6 = ipv6,
			    .tag = (uint16_t)(tag * 5),
			    .proto = P_TCP,
			    .sport = 1000,
			    .dport = 80,
			    .flags = F_SYN,
			};

			marked(&packet, true);
			packet.proto = P_UDP;
			marked(&packet, true);
		}
	}
	/* The checksum of a packet in fragments is finished before it is cut. */
	marked(&(struct packet){.src = 1, .dst = 2, .proto = P_UDP, .fragment = true, .more = true},
	       false);
	/* Fewer bytes than the headers say. */
	marked(&(struct packet){.src = 1, .dst = 2, .proto = P_UDP, .cut = 1}, false);
}

/* A frame longer than the MTU: as many as fit. */
static void uncut_segments(void)
{
	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		struct packet packet = {
		    .src = 1, .dst = 2, .ipv6 = ipv6, .proto = P_TCP, .flags = F_ACK};
		uint32_t l4 = ipv6 ? 54 : 34, total = 4000;
		struct packet_frame made;
		struct frame rest;
		uint16_t pseudo;
		static uint8_t payload[4000];

		packet_make(&packet, &made);
		put16(made.bytes + (ipv6 ? 18 : 16), total - (ipv6 ? 54 : 14));
		pseudo = pseudo_of(&packet, made.bytes + l4, total - l4);
		memcpy(made.bytes + l4 + 16, &pseudo, 2);
		rest = (struct frame){.data = payload, .len = total - made.frame.len};
		made.frame.next = &rest;
		made.frame.frame_len = total;
		xdp_partial_mark(&made.frame, 4000 - 14);
		CHECK(made.frame.offload.flags && !made.frame.offload.gso_type);
		xdp_partial_mark(&made.frame, 1500);
		CHECK(made.frame.offload.gso_type == (ipv6 ? FRAME_GSO_TCPV6 : FRAME_GSO_TCPV4));
		CHECK(offload_packet_max(&made.frame) == 1514);
	}
}

int main(void)
{
	frames_and_pieces();
	foreign_places();
	receiver_killed(0);
	receiver_killed(UINT32_MAX - 5);
	nonsense_is_refused();
	sender_killed(0);
	sender_killed(UINT32_MAX - 12);
	unfinished_checksums();
	uncut_segments();
	return check_result();
}
