/* Slots, rings and buffers through the netmap client library: what a sync makes of their fields. */
#include "netmap_program.h"

#include <errno.h>
#include <stdlib.h>

#include "../support/netmap_switch.h"
#include "lane.h"

static struct netmap_switch *sw;
static struct program a, b;

static const uint8_t start[14] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0};

static void fill(uint8_t *data, unsigned bytes, unsigned seed)
{
	for (unsigned i = 0; i < bytes; i++)
		data[i] = (uint8_t)(i * 7 + seed);
	memcpy(data, start, bytes < sizeof(start) ? bytes : sizeof(start));
}

static void open_both(struct nmreq_register of_a, struct nmreq_register of_b)
{
	CHECK(program_open(&a, "vale0:a", of_a) == 0);
	CHECK(program_open(&b, "vale0:b", of_b) == 0);
}

static void close_both(void)
{
	program_close(&a);
	program_close(&b);
}

static const uint8_t *bytes_of(const struct netmap_slot *slot)
{
	return ring_buffer(program_rx(&b, 0), slot->buf_idx);
}

/* The next slot that b receives; NULL: none in time. */
static struct netmap_slot *receive(void)
{
	if (program_rx(&b, 0)->head == program_rx(&b, 0)->tail)
		program_poll(&b, POLLIN, 2000);
	return program_get(program_rx(&b, 0));
}

/* A frame that is sent behind those under test: the next to arrive, if they were dropped. */
static void send_mark(void)
{
	uint8_t mark[64];

	fill(mark, sizeof(mark), 1);
	mark[20] = 0xee;
	CHECK(program_put(program_tx(&a, 0), mark, sizeof(mark), 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
}

static bool next_is_mark(void)
{
	struct netmap_slot *slot = receive();

	return slot && slot->len == 64 && bytes_of(slot)[20] == 0xee;
}

/* --- sending --- */

static void test_lengths(void)
{
	uint8_t data[2048];

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	for (unsigned len = 14; len <= 2048; len += len < 300 ? 1 : 97) {
		struct netmap_slot *slot;

		fill(data, len, len);
		CHECK(program_put(program_tx(&a, 0), data, (uint16_t)len, 0));
		CHECK(program_sync(&a, NIOCTXSYNC) == 0);
		slot = receive();
		if (CHECK(slot != NULL))
			CHECK(slot->len == len && slot->flags == 256 &&
			      memcmp(bytes_of(slot), data, len) == 0);
	}
	close_both();
}

static void test_dropped(void)
{
	struct netmap_ring *tx;
	uint8_t data[64];

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	tx = program_tx(&a, 0);
	fill(data, sizeof(data), 0);
	CHECK(program_put(tx, data, 13, 0));
	CHECK(program_put(tx, data, 0, 0));
	CHECK(program_put(tx, data, 64, 0));
	tx->slot[2].len = 2049;
	send_mark();
	CHECK(tx->tail == 3);
	CHECK(next_is_mark());
	/* no such buffer: what buffer 0 has is sent, and it is the module's own */
	CHECK(program_put(tx, data, 64, 0));
	tx->slot[4].buf_idx = 0xffffffff;
	send_mark();
	CHECK(receive() != NULL);
	CHECK(next_is_mark());
	tx->slot[4].buf_idx = 2 + 1024 + 4;
	close_both();
}

static void test_chains(void)
{
	uint8_t data[6000], got[6000];
	struct netmap_slot *slot;
	unsigned n = 0, bytes = 0;

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	fill(data, sizeof(data), 3);
	for (unsigned i = 0; i < 5; i++)
		CHECK(
		    program_put(program_tx(&a, 0), data + i * 1000, 1000, i < 4 ? NS_MOREFRAG : 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	do {
		slot = receive();
		if (!CHECK(slot != NULL))
			break;
		CHECK(slot->flags >> 8 == 3);
		memcpy(got + bytes, bytes_of(slot), slot->len);
		bytes += slot->len;
		n++;
	} while (slot->flags & NS_MOREFRAG);
	CHECK(n == 3 && bytes == 5000 && memcmp(got, data, bytes) == 0);
	/* more slots than a frame may have, then a chain that ends at head */
	for (unsigned i = 0; i < 70; i++)
		CHECK(program_put(program_tx(&a, 0), data, 60, i < 69 ? NS_MOREFRAG : 0));
	send_mark();
	CHECK(next_is_mark());
	CHECK(program_put(program_tx(&a, 0), data, 60, NS_MOREFRAG));
	CHECK(program_put(program_tx(&a, 0), data, 60, NS_MOREFRAG));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	slot = receive();
	CHECK(slot && slot->len == 120 && slot->flags == 256);
	close_both();
}

static void test_indirect(void)
{
	static uint8_t elsewhere[1500];
	struct netmap_ring *tx;
	struct netmap_slot *slot;

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	tx = program_tx(&a, 0);
	fill(elsewhere, sizeof(elsewhere), 9);
	CHECK(program_put(tx, start, 14, NS_INDIRECT));
	tx->slot[0].len = sizeof(elsewhere);
	tx->slot[0].ptr = (uintptr_t)elsewhere;
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	slot = receive();
	CHECK(slot && slot->len == 1500 && memcmp(bytes_of(slot), elsewhere, 1500) == 0);
	CHECK(program_put(tx, start, 14, NS_INDIRECT));
	tx->slot[1].ptr = 4096;
	CHECK(program_put(tx, start, 14, NS_INDIRECT));
	tx->slot[2].ptr = 0;
	send_mark();
	CHECK(next_is_mark());
	close_both();
}

static void test_flags(void)
{
	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	CHECK(program_put(program_tx(&a, 0), start, 14, NS_NO_LEARN | NS_BUF_CHANGED));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(receive() != NULL);
	CHECK(netmap_switch_flags(sw) == LANE_NO_LEARN);
	CHECK(!(program_tx(&a, 0)->slot[0].flags & NS_BUF_CHANGED));
	close_both();
}

static void test_vnet(void)
{
	/* header with a checksum to fill in, 12 bytes */
	uint8_t data[100] = {1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0};
	struct nmreq_port_hdr hdr = {.nr_hdr_len = 12};
	struct netmap_slot *slot;

	open_both((struct nmreq_register){.nr_flags = NR_ACCEPT_VNET_HDR},
		  (struct nmreq_register){.nr_flags = NR_ACCEPT_VNET_HDR});
	CHECK(program_ask(&a, NETMAP_REQ_PORT_HDR_SET, "vale0:a", &hdr, NULL) == 0);
	CHECK(program_ask(&b, NETMAP_REQ_PORT_HDR_SET, "vale0:b", &hdr, NULL) == 0);
	fill(data + 12, 88, 5);
	CHECK(program_put(program_tx(&a, 0), data, 100, 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	slot = receive();
	CHECK(slot && slot->len == 100 && memcmp(bytes_of(slot), data, 100) == 0);
	CHECK(netmap_switch_flags(sw) == LANE_VNET);
	/* nothing to do: no header on the way, zeros at the end; the header in a slot of its own */
	memset(data, 0, 12);
	CHECK(program_put(program_tx(&a, 0), data, 12, NS_MOREFRAG));
	CHECK(program_put(program_tx(&a, 0), data + 12, 88, 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	slot = receive();
	CHECK(slot && slot->len == 100 && memcmp(bytes_of(slot), data, 100) == 0);
	CHECK(netmap_switch_flags(sw) == 0);
	close_both();
}

static void test_offsets(void)
{
	struct nmreq_opt_offsets option = {.nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_OFFSETS},
					   .nro_max_offset = 256,
					   .nro_initial_offset = 100};
	uint8_t data[2000];
	struct netmap_slot *slot;
	struct program c = {.fd = vsn_open(true)};

	c.session = vsn_find(c.fd, false);
	CHECK(program_register(&c, "vale0:c", &option) == 0);
	fill(data, sizeof(data), 4);
	netmap_switch_send(sw, data, sizeof(data), 0);
	CHECK(program_poll(&c, POLLIN, 2000) == POLLIN);
	slot = program_get(program_rx(&c, 0));
	CHECK(slot && slot->len == 2048 - 100 && slot->flags == (2 << 8 | NS_MOREFRAG));
	CHECK(slot->ptr == 100 &&
	      memcmp(ring_buffer(program_rx(&c, 0), slot->buf_idx) + 100, data, slot->len) == 0);
	slot = program_get(program_rx(&c, 0));
	CHECK(slot && slot->len == 52 && slot->flags == 2 << 8);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	slot = &program_tx(&c, 0)->slot[0];
	slot->len = 64;
	slot->ptr = 200;
	memcpy(ring_buffer(program_tx(&c, 0), slot->buf_idx) + 200, data, 64);
	program_tx(&c, 0)->head = program_tx(&c, 0)->cur = 1;
	CHECK(program_sync(&c, NIOCTXSYNC) == 0);
	slot = receive();
	CHECK(slot && slot->len == 64 && memcmp(bytes_of(slot), data, 64) == 0);
	program_close(&b);
	program_close(&c);
}

/* --- rings --- */

static void test_bad_indices(void)
{
	static const struct {
		uint32_t head, cur;
	} bad[] = {{5000, 5000}, {0, 5000}, {10, 5}, {UINT32_MAX, 0}, {1023, 0}, {0, 1024}};

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		for (unsigned side = 0; side < 2; side++) {
			struct netmap_ring *ring = side ? program_rx(&a, 0) : program_tx(&a, 0);

			ring->head = bad[i].head;
			ring->cur = bad[i].cur;
			CHECK(program_sync(&a, side ? NIOCRXSYNC : NIOCTXSYNC) == 0);
			CHECK(ring->head == 0 && ring->cur == 0);
			CHECK(ring->tail == (side ? 0 : 1023));
		}
	program_tx(&a, 0)->head = 5000;
	CHECK(vsn_poll(a.session, POLLOUT) & POLLERR);
	send_mark();
	CHECK(next_is_mark());
	close_both();
}

/* Nothing is lost when the outbox is full: it stays in the ring, and room wakes who waits for it.
 */
static void test_full_outbox(void)
{
	unsigned sent = 0, got = 0;
	uint8_t data[1500];
	struct netmap_ring *tx;

	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	tx = program_tx(&a, 0);
	netmap_switch_pause(sw, true);
	fill(data, sizeof(data), 0);
	for (unsigned round = 0; round < 20; round++) {
		while (program_put(tx, data, sizeof(data), 0))
			sent++;
		CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	}
	CHECK(sent > 1023 && sent < 1023 * 2 && tx->head == tx->tail);
	CHECK(program_poll(&a, POLLOUT, 50) == 0);
	netmap_switch_pause(sw, false);
	CHECK(program_poll(&a, POLLOUT, 5000) == POLLOUT);
	while (got < sent && CHECK(program_poll(&b, POLLIN, 2000) == POLLIN)) {
		while (program_get(program_rx(&b, 0)))
			got++;
		program_poll(&a, POLLOUT, 0);
	}
	CHECK(got == sent);
	close_both();
}

static void test_own_sync_only(void)
{
	open_both((struct nmreq_register){0}, (struct nmreq_register){0});
	send_mark();
	usleep(20000);
	CHECK(program_rx(&b, 0)->tail == 0);
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	CHECK(program_rx(&b, 0)->tail == 1 && program_rx(&b, 0)->ts.tv_sec > 0);
	/* not released: it stays, and poll says so again and again */
	CHECK(vsn_poll(b.session, POLLIN) == POLLIN);
	CHECK(vsn_poll(b.session, POLLIN) == POLLIN);
	CHECK(next_is_mark());
	CHECK(vsn_poll(b.session, POLLIN) == 0);
	close_both();
}

/* poll(POLLIN) flushes what is to send, unless the program asked for it not to. */
static void test_poll_flags(void)
{
	open_both((struct nmreq_register){0}, (struct nmreq_register){.nr_flags = NR_NO_TX_POLL});
	CHECK(program_put(program_tx(&a, 0), start, 14, 0));
	CHECK(vsn_poll(a.session, POLLIN) == 0);
	CHECK(receive() != NULL);
	CHECK(program_put(program_tx(&b, 0), start, 14, 0));
	CHECK(vsn_poll(b.session, POLLIN) == 0);
	CHECK(program_poll(&a, POLLIN, 50) == 0);
	CHECK(vsn_poll(b.session, POLLOUT) == POLLOUT);
	CHECK(program_poll(&a, POLLIN, 2000) == POLLIN);
	close_both();
}

static void test_several_rings(void)
{
	struct program one;

	open_both((struct nmreq_register){.nr_tx_rings = 4, .nr_rx_rings = 2, .nr_tx_slots = 64},
		  (struct nmreq_register){0});
	CHECK(a.nifp->ni_tx_rings == 4 && a.nifp->ni_rx_rings == 2);
	CHECK(a.reg.nr_tx_slots == 64 && program_tx(&a, 3)->num_slots == 64);
	CHECK(program_tx(&a, 3)->ringid == 3);
	CHECK(program_put(program_tx(&a, 3), start, 14, 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(receive() != NULL);
	/* a second program on one of the rings: the same region, a netmap_if of its own */
	CHECK(program_open(&one, "vale0:a",
			   (struct nmreq_register){.nr_mode = NR_REG_ONE_NIC, .nr_ringid = 2}) ==
	      0);
	CHECK(one.reg.nr_mem_id == a.reg.nr_mem_id && one.reg.nr_offset != a.reg.nr_offset);
	CHECK(one.nifp->ring_ofs[2] && !one.nifp->ring_ofs[0] && !one.nifp->ring_ofs[3]);
	CHECK(one.nifp->ring_ofs[4 + 1] && !one.nifp->ring_ofs[4 + 1 + 1]);
	CHECK(program_put(program_tx(&one, 2), start, 14, 0));
	CHECK(program_tx(&a, 2)->head == 1); /* one ring, seen twice */
	CHECK(program_sync(&one, NIOCTXSYNC) == 0);
	CHECK(receive() != NULL);
	program_close(&one);
	close_both();
	CHECK(program_open(&one, "vale0:t",
			   (struct nmreq_register){.nr_flags = NR_TX_RINGS_ONLY}) == 0);
	CHECK(one.nifp->ring_ofs[0] && !one.nifp->ring_ofs[2]);
	CHECK(program_poll(&one, POLLIN, 0) == 0);
	program_close(&one);
}

/* --- regions --- */

static unsigned extra_count(const struct program *p)
{
	struct netmap_ring *ring = program_tx(p, 0);
	unsigned n = 0;

	for (uint32_t i = p->nifp->ni_bufs_head; i; n++)
		memcpy(&i, ring_buffer(ring, i), sizeof(i));
	return n;
}

static void test_regions(void)
{
	struct program c;
	unsigned all;

	open_both((struct nmreq_register){.nr_extra_bufs = 100}, (struct nmreq_register){0});
	CHECK(a.reg.nr_extra_bufs == 100 && extra_count(&a) == 100);
	CHECK(a.reg.nr_memsize == 42369024 + 100 * 2048);
	CHECK(b.reg.nr_mem_id != a.reg.nr_mem_id && b.nifp->ni_bufs_head == 0);
	/* a pipe in the region of a; as many extra buffers as there are left */
	for (unsigned round = 0; round < 20; round++) {
		CHECK(program_open(&c, "vale0:a{1",
				   (struct nmreq_register){.nr_mem_id = a.reg.nr_mem_id,
							   .nr_extra_bufs = 1000000}) == 0);
		CHECK(c.reg.nr_mem_id == a.reg.nr_mem_id && c.reg.nr_memsize == a.reg.nr_memsize);
		all = extra_count(&c);
		CHECK(all == c.reg.nr_extra_bufs && all == 20482 + 100 - 2 - 100 - 2 * 2048);
		CHECK(c.nifp->ring_ofs[0] > 0);
		program_close(&c);
	}
	close_both();
}

static void test_global_region(void)
{
	open_both((struct nmreq_register){.nr_mem_id = 1}, (struct nmreq_register){.nr_mem_id = 1});
	CHECK(a.reg.nr_mem_id == 1 && b.reg.nr_mem_id == 1 && a.reg.nr_memsize == 343019520);
	CHECK(a.reg.nr_offset != b.reg.nr_offset);
	CHECK(program_tx(&a, 0)->slot[0].buf_idx != program_tx(&b, 0)->slot[0].buf_idx);
	send_mark();
	CHECK(next_is_mark());
	close_both();
}

static void test_large_rings(void)
{
	open_both((struct nmreq_register){.nr_tx_slots = 65536, .nr_rx_slots = 2},
		  (struct nmreq_register){.nr_tx_slots = 1u << 31});
	CHECK(a.reg.nr_tx_slots == 65536 && a.reg.nr_rx_slots == 2);
	CHECK(b.reg.nr_tx_slots == 65536);
	CHECK(program_tx(&a, 0)->tail == 65535);
	send_mark();
	CHECK(next_is_mark());
	close_both();
}

int main(void)
{
	sw = netmap_switch_start();
	test_lengths();
	test_dropped();
	test_chains();
	test_indirect();
	test_flags();
	test_vnet();
	test_offsets();
	test_bad_indices();
	test_full_outbox();
	test_own_sync_only();
	test_poll_flags();
	test_several_rings();
	test_regions();
	test_global_region();
	test_large_rings();
	netmap_switch_stop(sw);
	return check_result();
}
