/* Pipes and their monitors through the netmap client library: whose a slot is, and when. */
#include "netmap_program.h"

#include <pthread.h>

#include "../support/netmap_switch.h"
#include "lane.h"

enum { SLOTS = 64, BYTES = 200, INBOX_BYTES = 4 << 20 };

static struct netmap_switch *sw;
static struct program a, b, m; /* master's end, slave's, a monitor of one of them */

static void open_ends(uint32_t slots)
{
	struct nmreq_register reg = {.nr_tx_slots = slots, .nr_rx_slots = slots};

	CHECK(program_open(&a, "vale0:p{x", reg) == 0);
	CHECK(program_open(&b, "vale0:p}x", reg) == 0);
}

static void close_ends(void)
{
	program_close(&a);
	program_close(&b);
	CHECK(netmap_switch_settles(sw, 0));
}

static unsigned room_of(const struct program *p)
{
	const struct netmap_ring *ring = program_tx(p, 0);

	return ring_space(ring->head, ring->tail, ring->num_slots);
}

/* As many slots with numbers from `first` on as there is room for, at most `most`: how many. */
static unsigned send_some(struct program *p, unsigned first, unsigned most)
{
	uint8_t data[BYTES] = {0};
	unsigned n = 0;

	for (; n < most; n++) {
		data[0] = (uint8_t)(first + n);
		if (!program_put(program_tx(p, 0), data, sizeof(data), 0))
			break;
	}
	CHECK(program_sync(p, NIOCTXSYNC) == 0);
	return n;
}

/* Takes `n` slots whose numbers begin with `first`; they are given back with the next sync. */
static bool take_some(struct program *p, unsigned first, unsigned n)
{
	CHECK(program_sync(p, NIOCRXSYNC) == 0);
	for (unsigned i = 0; i < n; i++) {
		const struct netmap_slot *slot = program_get(program_rx(p, 0));

		if (!CHECK(slot && slot->len == BYTES))
			return false;
		CHECK(*(uint8_t *)ring_buffer(program_rx(p, 0), slot->buf_idx) ==
		      (uint8_t)(first + i));
	}
	return true;
}

static unsigned waiting(struct program *p)
{
	const struct netmap_ring *ring = program_rx(p, 0);

	CHECK(program_sync(p, NIOCRXSYNC) == 0);
	return ring_space(ring->head, ring->tail, ring->num_slots);
}

/* --- whose a slot is --- */

static void test_a_slot_comes_back_when_it_is_given_back(void)
{
	open_ends(SLOTS);
	CHECK(room_of(&a) == SLOTS - 1);
	CHECK(send_some(&a, 0, 10) == 10);
	CHECK(room_of(&a) == SLOTS - 1 - 10);
	take_some(&b, 0, 7);
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(room_of(&a) == SLOTS - 1 - 10); /* the other end has not said so */
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	CHECK(room_of(&a) == SLOTS - 1 - 10); /* and this one has not looked */
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(room_of(&a) == SLOTS - 1 - 3);
	take_some(&b, 7, 3);
	CHECK(waiting(&b) == 0);
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(room_of(&a) == SLOTS - 1);
	close_ends();
}

static void test_no_more_than_a_ring_is_in_flight(void)
{
	unsigned sent;

	open_ends(SLOTS);
	sent = send_some(&a, 0, 1000);
	CHECK(sent == SLOTS - 1 && send_some(&a, 0, 1000) == 0);
	CHECK(program_poll(&a, POLLOUT, 0) == 0);
	CHECK(waiting(&b) == sent);
	CHECK(program_poll(&a, POLLOUT, 0) == 0);
	for (unsigned i = 0; i < 1000; i++) { /* many times round the lane and both rings */
		take_some(&b, sent - (SLOTS - 1), 9);
		CHECK(program_sync(&b, NIOCRXSYNC) == 0);
		CHECK(program_poll(&a, POLLOUT, 1000) == POLLOUT);
		sent += send_some(&a, sent, 1000);
		if (!CHECK(sent == SLOTS - 1 + 9 * (i + 1)))
			break;
	}
	close_ends();
}

/* More bytes than the lane has: they wait in the ring, and all arrive. */
static void test_bytes_that_do_not_fit(void)
{
	static const uint8_t data[2048];
	unsigned sent = 0, got = 0;

	open_ends(1024);
	while (program_put(program_tx(&a, 0), data, sizeof(data), 0))
		sent++;
	CHECK(sent == 1023 && program_sync(&a, NIOCTXSYNC) == 0);
	while (got < sent && CHECK(program_poll(&b, POLLIN, 1000) == POLLIN)) {
		while (program_get(program_rx(&b, 0)))
			got++;
		CHECK(program_sync(&b, NIOCRXSYNC) == 0);
		CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	}
	CHECK(got == sent && room_of(&a) == 1023);
	close_ends();
}

static void test_an_end_goes_on_where_it_was(void)
{
	struct nmreq_register reg = {.nr_tx_slots = SLOTS, .nr_rx_slots = SLOTS};

	open_ends(SLOTS);
	CHECK(send_some(&a, 0, 30) == 30);
	take_some(&b, 0, 10);
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	program_close(&b);
	CHECK(program_open(&b, "vale0:p}x", reg) == 0);
	take_some(&b, 10, 5);
	program_close(&a);
	CHECK(program_open(&a, "vale0:p{x", reg) == 0);
	CHECK(room_of(&a) == SLOTS - 1 - 20);
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(room_of(&a) == SLOTS - 1 - 15);
	CHECK(send_some(&a, 30, 100) == SLOTS - 1 - 15);
	take_some(&b, 15, SLOTS - 1);
	close_ends();
}

static void *give_back(void *nothing)
{
	(void)nothing;
	usleep(20000);
	take_some(&b, 0, 1);
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	return NULL;
}

static void test_a_sender_is_woken(void)
{
	pthread_t receiver;

	open_ends(SLOTS);
	CHECK(send_some(&a, 0, 1000) == SLOTS - 1);
	CHECK(pthread_create(&receiver, NULL, give_back, NULL) == 0);
	CHECK(program_poll(&a, POLLOUT, 5000) == POLLOUT && room_of(&a) == 1);
	pthread_join(receiver, NULL);
	close_ends();
}

/* --- what a slot is --- */

static void test_slots_are_not_frames(void)
{
	static const struct {
		uint16_t len, flags, taken, seen;
	} slots[] = {{0, 0, 0, 0},
		     {1, 0, 1, 0},
		     {13, NS_REPORT | NS_BUF_CHANGED, 13, NS_REPORT},
		     {2049, 0, 2048, 0},
		     {2048, NS_MOREFRAG, 2048, NS_MOREFRAG},
		     {100, NS_MOREFRAG, 100, NS_MOREFRAG},
		     {0, 0, 0, 0}};
	enum { N = sizeof(slots) / sizeof(*slots) };
	struct netmap_ring *tx;

	open_ends(SLOTS);
	tx = program_tx(&a, 0);
	for (unsigned i = 0; i < N; i++) {
		tx->slot[tx->head].len = slots[i].len;
		tx->slot[tx->head].flags = slots[i].flags;
		tx->head = tx->cur = ring_next(tx, tx->head);
	}
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(waiting(&b) == N);
	for (unsigned i = 0; i < N; i++) {
		const struct netmap_slot *slot = program_get(program_rx(&b, 0));

		CHECK(slot && slot->len == slots[i].taken && slot->flags == slots[i].seen);
	}
	close_ends();
}

static void test_frames_come_whole(void)
{
	open_ends(SLOTS);
	for (unsigned i = 0; i < 3; i++)
		CHECK(program_put(program_tx(&a, 0), "frag", 4, NS_MOREFRAG));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(waiting(&b) == 0 && room_of(&a) == SLOTS - 1 - 3);
	CHECK(program_put(program_tx(&a, 0), "last", 4, 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(waiting(&b) == 4);
	close_ends();
}

/* --- monitors --- */

static void open_monitor(const char *name, uint64_t flags)
{
	CHECK(program_open(&m, name, (struct nmreq_register){.nr_flags = flags}) == 0);
	CHECK(m.reg.nr_tx_rings == 1 && m.reg.nr_rx_rings == 1);
	CHECK(program_sync(&m, NIOCTXSYNC) == 0);
}

/* What the end is to receive is seen before it takes it, and it has it all the same. */
static void test_a_monitor_of_what_is_received(void)
{
	open_ends(SLOTS);
	CHECK(send_some(&a, 0, 5) == 5);
	open_monitor("vale0:p}x", NR_MONITOR_RX);
	CHECK(waiting(&m) == 0); /* from now on */
	CHECK(send_some(&a, 5, 10) == 10 && send_some(&b, 0, 3) == 3);
	CHECK(take_some(&m, 5, 10) && waiting(&m) == 0);
	CHECK(take_some(&b, 0, 15) && take_some(&a, 0, 3));
	CHECK(room_of(&a) == SLOTS - 1 - 15); /* what a monitor takes is nobody's to give back */
	program_close(&m);
	close_ends();
}

static void test_a_monitor_of_what_is_sent(void)
{
	open_ends(SLOTS);
	open_monitor("vale0:p}x", NR_MONITOR_TX);
	CHECK(send_some(&a, 0, 10) == 10 && send_some(&b, 50, 3) == 3);
	CHECK(take_some(&m, 50, 3) && waiting(&m) == 0);
	CHECK(program_rx(&m, 0)->slot[0].flags == NS_TXMON);
	program_close(&m);
	close_ends();
}

static void test_a_monitor_without_copies(void)
{
	open_ends(SLOTS);
	CHECK(send_some(&a, 0, 5) == 5);
	open_monitor("vale0:p}x", NR_ZCOPY_MON);
	CHECK(send_some(&a, 5, 5) == 5 && send_some(&b, 50, 1) == 1);
	CHECK(waiting(&m) == 0);
	take_some(&b, 0, 7);
	CHECK(waiting(&m) == 0);
	CHECK(program_sync(&b, NIOCRXSYNC) == 0);
	CHECK(take_some(&m, 0, 7) && waiting(&m) == 0);
	CHECK(take_some(&a, 50, 1) && waiting(&m) == 0);
	CHECK(program_sync(&a, NIOCRXSYNC) == 0);
	CHECK(take_some(&m, 50, 1));
	program_close(&m);
	close_ends();
}

/* One that sleeps through more than the lane holds has lost it, and goes on with what is whole. */
static void test_a_slow_monitor(void)
{
	unsigned number = 0, rounds = 3 * INBOX_BYTES / (BYTES + 8) / (SLOTS - 1);

	open_ends(SLOTS);
	open_monitor("vale0:p}x", NR_MONITOR_RX);
	for (unsigned i = 0; i < rounds; i++) {
		CHECK(send_some(&a, number, SLOTS) == SLOTS - 1);
		take_some(&b, number, SLOTS - 1);
		CHECK(waiting(&b) == 0 && program_sync(&a, NIOCTXSYNC) == 0);
		number += SLOTS - 1;
	}
	CHECK(waiting(&m) == 0);
	CHECK(send_some(&a, 7, 3) == 3 && take_some(&m, 7, 3));
	program_close(&m);
	close_ends();
}

/* Nobody rings for it. */
static void test_a_monitor_wakes(void)
{
	open_ends(SLOTS);
	open_monitor("vale0:p{x", NR_MONITOR_RX);
	CHECK(program_poll(&m, POLLIN, 50) == 0);
	CHECK(send_some(&b, 0, 2) == 2);
	CHECK(program_poll(&m, POLLIN, 5000) == POLLIN && take_some(&m, 0, 2));
	program_close(&m);
	close_ends();
}

int main(void)
{
	sw = netmap_switch_start();
	test_a_slot_comes_back_when_it_is_given_back();
	test_no_more_than_a_ring_is_in_flight();
	test_bytes_that_do_not_fit();
	test_an_end_goes_on_where_it_was();
	test_a_sender_is_woken();
	test_slots_are_not_frames();
	test_frames_come_whole();
	test_a_monitor_of_what_is_received();
	test_a_monitor_of_what_is_sent();
	test_a_monitor_without_copies();
	test_a_slow_monitor();
	test_a_monitor_wakes();
	netmap_switch_stop(sw);
	return check_result();
}
