/*
 * tx: what reaches a port. A port of the test's own stands at the other end of tx_flush; it looks
 * at every frame and takes, drops or refuses as told.
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "tx.h"

enum { WORKERS = 2, PORT = 3, PORTS = 4, ROOM = 70000, SENT_MAX = 4096 };

/* --- a port that keeps what it gets ------------------------------------------------------------
 */

static struct sent {
	uint8_t *bytes;
	uint32_t len;
	struct frame_offload offload;
	bool chain;
} sent[SENT_MAX];
static unsigned sent_count, calls;
static enum drop_reason refuse_with = DROP_REASONS;

static void fake_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	CHECK(queue->port->id == PORT && count > 0 && count <= FRAME_BATCH);
	calls++;
	for (unsigned i = 0; i < count; i++) {
		struct sent *to = &sent[sent_count];

		if (refuse_with < DROP_REASONS) {
			report->drops[refuse_with]++;
			continue;
		}
		to->bytes = malloc(frames[i]->frame_len);
		to->len = frame_peek(frames[i], to->bytes, frames[i]->frame_len);
		CHECK(to->len == frames[i]->frame_len);
		to->offload = frames[i]->offload;
		to->chain = frames[i]->next;
		report->sent++;
		report->sent_bytes += to->len;
		sent_count++;
	}
}

static const struct port_ops fake_ops = {.type = "fake", .tx = fake_tx};

/* --- the stage under test
 * ------------------------------------------------------------------------- */

static struct port port;
static pthread_spinlock_t locks[PORT_QUEUES_MAX];
static struct tx_port tx_ports[PORTS];
static struct bridge_port bridge_ports[PORTS];
static uint16_t counts[PORTS];
static struct frame *frames[PORTS][FRAME_BATCH];
static uint16_t active[PORTS];
static struct bridge_lists lists = {.counts = counts, .frames = frames, .active = active};
static struct tx *tx;
static struct stats *stats;
static uint64_t given; /* frames put on the list */

static void reset(uint32_t caps, uint32_t mtu)
{
	for (unsigned i = 0; i < sent_count; i++)
		free(sent[i].bytes);
	sent_count = calls = 0;
	refuse_with = DROP_REASONS;
	port.ops = &fake_ops;
	port.id = PORT;
	port.tx_queue_count = 1;
	port.txq[0].port = &port;
	atomic_store(&port.caps, caps);
	atomic_store(&port.mtu, mtu);
	tx_ports[PORT] = (struct tx_port){.port = &port, .lock = locks};
	bridge_ports[PORT] = (struct bridge_port){.present = true, .admin_up = true};
}

static void send(struct frame *frame)
{
	if (!counts[PORT])
		lists.active[lists.active_count++] = PORT;
	frames[PORT][counts[PORT]++] = frame;
	given++;
}

/* The books of the destination: given + segments = sent + drops. */
static void flush(void)
{
	const struct port_counters *cell = stats_cell(stats, 1, PORT);
	uint64_t drops = 0;

	tx_flush(tx, tx_ports, bridge_ports, &lists);
	CHECK(lists.active_count == 0 && counts[PORT] == 0);
	for (unsigned i = 0; i < DROP_REASONS; i++)
		drops += cell->tx_drops[i];
	CHECK(given + cell->segments == cell->tx_frames + drops);
}

static uint64_t dropped(enum drop_reason reason)
{
	return stats_cell(stats, 1, PORT)->tx_drops[reason];
}

/* --- frames
 * ------------------------------------------------------------------------------------------ */

/* len bytes with `tags` tags, laid out as fragments: the first of `first` bytes (0: one piece). */
static struct frame *build(uint8_t *bytes, unsigned tags, uint32_t len, uint32_t first,
			   unsigned headroom)
{
	static struct frame pool[4 * FRAME_BATCH];
	static unsigned next;
	struct frame *frame = &pool[next++ % (4 * FRAME_BATCH)];
	unsigned at = 12;

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(i * 5 + 1);
	bytes[0] = 2;
	for (unsigned t = 0; t < tags; t++) {
		memcpy(bytes + at, "\x81\x00\xa0\x14", 4); /* VLAN 20, priority 5 */
		at += 4;
	}
	memcpy(bytes + at, "\x08\x00", 2);
	*frame = (struct frame){.data = bytes,
				.len = len,
				.frame_len = len,
				.headroom = (uint16_t)headroom,
				.tags = (uint8_t)tags,
				.l3_offset = (uint8_t)(at + 2)};
	if (first) {
		struct frame *rest = &pool[next++ % (4 * FRAME_BATCH)];

		*rest = (struct frame){.data = bytes + first, .len = len - first};
		frame->len = first;
		frame->next = rest;
	}
	return frame;
}

static void expect_last(const uint8_t *bytes, uint32_t len)
{
	if (!CHECK(sent_count > 0))
		return;
	CHECK(sent[sent_count - 1].len == len);
	CHECK(memcmp(sent[sent_count - 1].bytes, bytes, len) == 0);
}

/* Every edit on every layout, shared or not, with and without headroom, for both kinds of port. */
static void test_edits(void)
{
	static const uint32_t firsts[] = {0, 1, 13, 15, 17, 30};
	static uint8_t memory[64 + 200], before[200], expected[204];

	for (unsigned n = 0; n < 6 * 2 * 2 * 2 * 2; n++) {
		bool pop = n & 1, shared = n & 2, room = n & 4, frags = n & 8;
		uint8_t *bytes = memory + 64;
		struct frame *frame;

		reset(frags ? PORT_CAP_FRAGS : 0, 0);
		tx_ports[PORT].vlan_filtering = true;
		bridge_ports[PORT].vlan.mode = pop ? VLAN_ACCESS : VLAN_TRUNK;
		bridge_ports[PORT].vlan.pvid = 20;
		bridge_ports[PORT].vlan.tagged[0] = 1 << 20;
		frame = build(bytes, pop, 100, firsts[n / 16], room ? 64 : 0);
		frame->vid = 20;
		frame->tag = pop ? VLAN_TAG_VID : VLAN_TAG_NONE;
		frame->flags = shared ? FRAME_SHARED : 0;
		memcpy(before, bytes, 100);
		memcpy(expected, before, 12);
		if (pop) {
			memcpy(expected + 12, before + 16, 84);
		} else {
			memcpy(expected + 12, "\x81\x00\x00\x14", 4);
			memcpy(expected + 16, before + 12, 88);
		}
		send(frame);
		flush();
		expect_last(expected, pop ? 96 : 104);
		CHECK(frags || !sent[0].chain);
		if (shared)
			CHECK(memcmp(bytes, before, 100) == 0);
	}
}

static void test_mtu(void)
{
	static uint8_t bytes[3000];

	reset(PORT_CAP_FRAGS, 1500);
	send(build(bytes, 0, 1514, 0, 0));
	flush();
	CHECK(sent_count == 1);
	send(build(bytes, 0, 1515, 0, 0));
	flush();
	CHECK(sent_count == 1 && dropped(DROP_TOO_BIG) == 1);
	send(build(bytes, 2, 1522, 100, 0));
	flush();
	CHECK(sent_count == 2);
	tx_ports[PORT].bridge_mtu = 1000;
	send(build(bytes, 0, 1015, 0, 0));
	flush();
	CHECK(sent_count == 2 && dropped(DROP_TOO_BIG) == 2);
}

/* What the worker says of the whole batch spares the look at each frame, never the MTU or a tag. */
static void test_plain_batch(void)
{
	static uint8_t bytes[2][3000];
	uint64_t too_big = dropped(DROP_TOO_BIG);

	reset(0, 1500);
	tx->plain_max = 1514;
	send(build(bytes[0], 0, 1514, 0, 0));
	flush();
	CHECK(sent_count == 1);
	tx->plain_max = 1522; /* by a frame with tags, which may be so long */
	send(build(bytes[0], 2, 1522, 0, 0));
	send(build(bytes[1], 0, 1515, 0, 0));
	flush();
	CHECK(sent_count == 2 && dropped(DROP_TOO_BIG) == too_big + 1);
	tx_ports[PORT].vlan_filtering = true;
	bridge_ports[PORT].vlan = (struct vlan_port){.mode = VLAN_ACCESS, .pvid = 20};
	tx->plain_max = 1504;
	send(build(bytes[0], 1, 104, 0, 0));
	frames[PORT][0]->vid = 20;
	frames[PORT][0]->tag = VLAN_TAG_VID;
	flush();
	CHECK(sent_count == 3 && sent[2].len == 100);
	tx->plain_max = 0;
}

static void test_reports(void)
{
	static uint8_t bytes[FRAME_BATCH][60];
	uint64_t down = dropped(DROP_LINK_DOWN), error = dropped(DROP_TX_ERROR);

	reset(0, 0);
	refuse_with = DROP_LINK_DOWN;
	for (unsigned i = 0; i < FRAME_BATCH; i++)
		send(build(bytes[i], 0, 60, 0, 0));
	flush();
	CHECK(calls == 1 && dropped(DROP_LINK_DOWN) == down + FRAME_BATCH);
	refuse_with = DROP_TX_ERROR;
	send(build(bytes[0], 0, 60, 0, 0));
	flush();
	CHECK(dropped(DROP_TX_ERROR) == error + 1);
}

/* --- offloads: the bytes are offload.c's affair, the policy and the books are ours
 * ----------------- */

/* A TCP segment of `payload` bytes over IPv4 whose checksum is left to the device. */
static struct frame *tcp(uint8_t *bytes, uint32_t payload, uint16_t gso_size)
{
	uint32_t len = 14 + 20 + 20 + payload;
	struct frame *frame = build(bytes, 0, len, 0, 0);

	memset(bytes + 14, 0, 40);
	bytes[14] = 0x45;
	bytes[16] = (uint8_t)((len - 14) >> 8);
	bytes[17] = (uint8_t)(len - 14);
	bytes[22] = 64;
	bytes[23] = 6;
	memcpy(bytes + 26, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
	bytes[46] = 0x50;
	bytes[47] = 0x10;
	frame->offload = (struct frame_offload){
	    .flags = FRAME_CSUM_NEEDED,
	    .gso_type = gso_size ? FRAME_GSO_TCPV4 : FRAME_GSO_NONE,
	    .hdr_len = 54,
	    .gso_size = gso_size,
	    .csum_start = 34,
	    .csum_offset = 16,
	};
	return frame;
}

static void test_policies(void)
{
	static uint8_t bytes[ROOM], other[ROOM];
	uint64_t refused = dropped(DROP_OFFLOAD_REFUSED);

	reset(PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_FRAGS, 1500);
	send(tcp(bytes, 60000, 1460));
	flush();
	CHECK(sent_count == 1 && sent[0].offload.gso_size == 1460); /* carried */

	reset(PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_FRAGS, 1500);
	tx_ports[PORT].offload_policy = OFFLOAD_COMPLETE;
	send(tcp(bytes, 60000, 1460));
	flush();
	CHECK(sent_count == 42 && sent[0].chain);
	for (unsigned i = 0; i < sent_count; i++)
		CHECK(!sent[i].offload.flags && !sent[i].offload.gso_type && sent[i].len <= 1514);

	reset(0, 1500);
	send(tcp(bytes, 60000, 100));
	flush();
	CHECK(sent_count == 600 && calls > 600 / FRAME_BATCH && !sent[599].chain);

	reset(0, 1500);
	tx_ports[PORT].offload_policy = OFFLOAD_REFUSE;
	send(tcp(bytes, 60000, 1460));
	send(tcp(other, 100, 0));
	flush();
	CHECK(sent_count == 0 && dropped(DROP_OFFLOAD_REFUSED) == refused + 2);
	send(build(bytes, 0, 100, 20, 0)); /* a chain is no offload: made one piece */
	flush();
	CHECK(sent_count == 1 && !sent[0].chain);
}

/* A batch of the largest frames there are uses the scratch many times over. */
static void test_scratch(void)
{
	static uint8_t bytes[8][ROOM];

	reset(0, 1500);
	for (unsigned i = 0; i < 8; i++) {
		struct frame *frame = tcp(bytes[i], 65000, 1400);

		frame->flags = FRAME_SHARED;
		send(frame);
	}
	flush();
	CHECK(sent_count == 8 * 47);
}

static void test_checksum(void)
{
	static uint8_t bytes[2000], copy[2000];
	struct frame *frame = tcp(bytes, 100, 0);
	uint64_t invalid = dropped(DROP_OFFLOAD_INVALID);

	memcpy(copy, bytes, 154);
	reset(0, 1500);
	frame->flags = FRAME_SHARED;
	send(frame);
	flush();
	CHECK(memcmp(copy, bytes, 154) == 0); /* not in the shared bytes */
	frame = tcp(bytes, 100, 0);
	send(frame);
	flush();
	CHECK(sent_count == 2 && memcmp(sent[0].bytes, sent[1].bytes, 154) == 0);
	CHECK(memcmp(sent[0].bytes + 50, copy + 50, 2) != 0);
	frame = tcp(bytes, 100, 0);
	frame->offload.csum_start = 1000;
	send(frame);
	flush();
	frame = tcp(bytes, 3000 - 2000, 0);
	frame->offload.gso_type = FRAME_GSO_TCPV6;
	frame->offload.gso_size = 100;
	send(frame);
	flush();
	CHECK(sent_count == 2 && dropped(DROP_OFFLOAD_INVALID) == invalid + 2);
}

/* A tag that is pushed moves the offsets of what is unfinished. */
static void test_offsets(void)
{
	static uint8_t bytes[2000];
	struct frame *frame = tcp(bytes, 100, 0);

	reset(PORT_CAP_CSUM | PORT_CAP_FRAGS, 1500);
	tx_ports[PORT].vlan_filtering = true;
	bridge_ports[PORT].vlan.mode = VLAN_TRUNK;
	frame->vid = 20;
	frame->flags = FRAME_SHARED;
	send(frame);
	flush();
	CHECK(sent_count == 1 && sent[0].offload.csum_start == 38 && sent[0].len == 158);
	CHECK(frame->offload.csum_start == 34);
}

int main(void)
{
	struct error err;

	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_spin_init(&locks[i], PTHREAD_PROCESS_PRIVATE);
	tx = aligned_alloc(64, (sizeof(*tx) + 63) & ~(size_t)63);
	if (!CHECK(tx) || !CHECK(stats_map(-1, WORKERS, PORTS, &stats, &err) == 0))
		return 1;
	memset(tx, 0, sizeof(*tx));
	tx->cells = stats_cells(stats, 1);
	tx->ordinal = 1;
	test_edits();
	test_mtu();
	test_plain_batch();
	test_reports();
	test_policies();
	test_scratch();
	test_checksum();
	test_offsets();
	reset(0, 0);
	stats_unmap(stats);
	free(tx);
	return check_result();
}
