/*
 * netmap ports: buffers that change hands, and what a killed forwarder leaves behind. A million
 * random operations over three ports of one region and one of another; frames come out with the
 * bytes and in the order they went in, and at any time every buffer of a region is in one slot.
 */
#include <errno.h>
#include <sys/mman.h>

#include "netmap_ports.h"

enum { OPERATIONS = 1000000, AUDIT_EVERY = 20000, PORTS = 4, SLOTS = 128, FRAME_MAX = 9000 };

static const char *const names[PORTS] = {"eth0", "eth1", "eth0{x", "vale0:p1"};
static struct np ports[PORTS];
static uint8_t bytes[FRAME_MAX], got[FRAME_MAX];
static uint64_t state = 7;

static void adapters_open(void)
{
	fake_reset();
	for (unsigned p = 0; p < PORTS; p++) {
		struct fake_shape shape = {.rings = 1,
					   .host_rings = p < 2,
					   .slots = SLOTS,
					   .mem_id = p == 3 ? 5 : 1,
					   .mtu = 9000};
		char portspec[80];

		fake_adapter(names[p], &shape);
		snprintf(portspec, sizeof(portspec), "%s%s", p == 3 ? "" : "netmap:", names[p]);
		np_open(&ports[p], portspec);
	}
}

static void adapters_close(void)
{
	np_check_faults();
	for (unsigned p = 0; p < PORTS; p++)
		np_close(&ports[p]);
}

/* One frame from port a's network to port b's: where its bytes lay, before and after. */
static bool same_buffer(unsigned a, unsigned b, uint32_t len, uint8_t flags)
{
	struct tx_report report;
	uint64_t before;
	int count;

	np_frame(bytes, len, len);
	CHECK(fake_put(names[a], false, 0, bytes, len));
	before = fake_last_buffer();
	count = np_rx(&ports[a], 0);
	CHECK(count == 1);
	ports[a].batch[0].flags |= flags;
	report = np_tx(&ports[b], 0, &ports[a], 0, 1);
	CHECK(report.sent == 1);
	np_done(&ports[a], 0);
	CHECK(fake_take(names[b], false, 0, got, sizeof(got)) == (int)len);
	CHECK(memcmp(bytes, got, len) == 0);
	CHECK(report.zero_copy == (before == fake_last_buffer()));
	return report.zero_copy;
}

static void test_N4_zero_copy_within_a_region_only(void)
{
	adapters_open();
	CHECK(ports[0].port.pool && ports[0].port.pool == ports[1].port.pool);
	CHECK(ports[0].port.pool == ports[2].port.pool && ports[0].port.pool != ports[3].port.pool);
	for (unsigned round = 0; round < 3 * SLOTS; round++) {
		CHECK(same_buffer(0, 1, 60 + round, 0));
		CHECK(same_buffer(1, 0, 60 + round, 0));
		CHECK(same_buffer(0, 2, 60 + round, 0));
		CHECK(same_buffer(2, 1, 60 + round, 0));
		CHECK(!same_buffer(0, 3, 60 + round, 0)); /* another region */
		CHECK(!same_buffer(3, 0, 60 + round, 0));
		CHECK(!same_buffer(0, 1, 60 + round, FRAME_SHARED)); /* somebody else's too */
		CHECK(!same_buffer(0, 2, 4000 + round, 0));	     /* several slots */
	}
	adapters_close();
}

static void test_N4_both_slots_say_that_their_buffer_changed(void)
{
	struct netmap_ring *rx, *tx;
	uint32_t rx_buffer, tx_buffer, at;

	adapters_open();
	rx = fake_ring("eth0", false, 0, false);
	tx = fake_ring("eth1", false, 0, true);
	CHECK(fake_put("eth0", false, 0, bytes, np_frame(bytes, 1, 77)));
	CHECK(np_rx(&ports[0], 0) == 1);
	at = tx->head;
	rx_buffer = rx->slot[0].buf_idx;
	tx_buffer = tx->slot[at].buf_idx;
	CHECK(np_tx(&ports[1], 0, &ports[0], 0, 1).sent == 1);
	CHECK(rx->slot[0].buf_idx == tx_buffer && tx->slot[at].buf_idx == rx_buffer);
	CHECK(rx->slot[0].flags & NS_BUF_CHANGED);
	CHECK(fake_last_slot_flags() & NS_BUF_CHANGED); /* of the tx slot, as the kernel found it */
	CHECK(tx->slot[at].len == 77);
	np_done(&ports[0], 0);
	CHECK(fake_take("eth1", false, 0, got, sizeof(got)) == 77);
	adapters_close();
}

/* --- a million operations -------------------------------------------------------------------- */

/* Frames that wait in a port's transmit ring, in order. */
struct expected {
	uint32_t seed[2 * SLOTS], len[2 * SLOTS];
	unsigned first, count;
};

static struct expected expected[PORTS];
/* Frames put and not yet received, by port. */
static struct expected put[PORTS];
static uint64_t crossed;

static void push(struct expected *list, uint32_t seed, uint32_t len)
{
	unsigned at = (list->first + list->count++) % (2 * SLOTS);

	list->seed[at] = seed;
	list->len[at] = len;
}

static void pop(struct expected *list, uint32_t *seed, uint32_t *len)
{
	*seed = list->seed[list->first];
	*len = list->len[list->first];
	list->first = (list->first + 1) % (2 * SLOTS);
	list->count--;
}

static void random_put(unsigned p)
{
	uint32_t seed = (uint32_t)random_next(&state), len = 60 + random_below(&state, 1455);

	if (random_below(&state, 16) == 0)
		len = 2000 + random_below(&state, 6000);
	np_frame(bytes, seed, len);
	if (fake_put(names[p], false, 0, bytes, len))
		push(&put[p], seed, len);
}

/* Receives a batch and sends each frame to one port, or to two. */
static void random_forward(unsigned p)
{
	int count = np_rx(&ports[p], 0);

	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		unsigned to = random_below(&state, PORTS), copies = 1 + !random_below(&state, 8);
		uint32_t seed, len;

		pop(&put[p], &seed, &len);
		if (copies > 1)
			ports[p].batch[i].flags |= FRAME_SHARED;
		for (; copies; copies--, to = (to + 1) % PORTS) {
			/* room: a ring that is full has a test of its own, and waits */
			if (expected[to].count >= SLOTS / 8)
				continue;
			if (CHECK(np_tx(&ports[to], 0, &ports[p], (unsigned)i, 1).sent == 1))
				push(&expected[to], seed, len);
		}
	}
	if (count > 0)
		np_done(&ports[p], 0);
}

static void random_take(unsigned p)
{
	uint32_t seed, len;
	int size = fake_take(names[p], false, 0, got, sizeof(got));

	if (size < 0) {
		CHECK(expected[p].count == 0);
		return;
	}
	if (!CHECK(expected[p].count > 0))
		exit(1);
	pop(&expected[p], &seed, &len);
	np_frame(bytes, seed, len);
	CHECK((uint32_t)size == len && memcmp(bytes, got, len) == 0);
	crossed++;
}

static void test_N4_no_buffer_is_lost_or_doubled(void)
{
	adapters_open();
	for (unsigned i = 0; i < OPERATIONS; i++) {
		unsigned p = random_below(&state, PORTS);

		switch (random_below(&state, 8)) {
		case 0:
			random_forward(p);
			break;
		case 1:
		case 2:
		case 3:
			random_put(p);
			break;
		default:
			random_take(p);
		}
		if (i % AUDIT_EVERY == 0)
			np_check_faults();
	}
	CHECK(crossed > OPERATIONS / 16);
	adapters_close();
}

/* --- kills ----------------------------------------------------------------------------------- */

/* The forwarder is gone, the keeper's fds are not: another one attaches. */
static void killed(unsigned p)
{
	struct error err;

	np_detach(&ports[p]);
	CHECK(np_attach(&ports[p], &err) == 0);
}

static void test_a_committed_batch_is_not_taken_again(void)
{
	uint32_t len = np_frame(bytes, 3, 100);

	adapters_open();
	for (unsigned i = 0; i < 3; i++)
		CHECK(fake_put("eth0", false, 0, bytes, len));
	CHECK(np_rx(&ports[0], 0) == 3);
	killed(0); /* nothing of it was sent */
	CHECK(np_rx(&ports[0], 0) == 3);
	ports[0].port.ops->rx_commit(&ports[0].port.rxq[0]);
	killed(0);
	CHECK(np_rx(&ports[0], 0) == 0);
	CHECK(fake_put("eth0", false, 0, bytes, len));
	CHECK(np_rx(&ports[0], 0) == 1);
	np_done(&ports[0], 0);
	adapters_close();
}

/* What was handed over goes out, also when the kill came before the kernel was told. */
static void test_what_was_handed_over_is_sent(void)
{
	struct netmap_ring *tx;

	adapters_open();
	tx = fake_ring("eth0", false, 0, true);
	memcpy(ring_buffer(tx, tx->slot[0].buf_idx), bytes, np_frame(bytes, 4, 100));
	tx->slot[0].len = 100;
	tx->cur = tx->head = 1;
	killed(0);
	CHECK(fake_take("eth0", false, 0, got, sizeof(got)) == 100);
	CHECK(memcmp(bytes, got, 100) == 0);
	adapters_close();
}

/* A kill after each store of an exchange; the journal is what it would be there. */
static void test_N4_an_exchange_is_completed_after_a_kill(void)
{
	for (unsigned stores = 0; stores < 3; stores++) {
		struct netmap_exchange *journal;
		struct netmap_slot *from, *to;
		uint32_t a, b;

		adapters_open();
		journal = mmap(NULL, sizeof(*journal), PROT_READ | PROT_WRITE, MAP_SHARED,
			       ports[1].fds.fd[ports[1].fds.count - 1], 0);
		if (!CHECK(journal != MAP_FAILED))
			exit(1);
		from = &fake_ring("eth0", false, 0, false)->slot[0];
		to = &fake_ring("eth1", false, 0, true)->slot[0];
		a = from->buf_idx;
		b = to->buf_idx;
		journal->to_buffer = b;
		journal->from_buffer = a;
		journal->from = fake_offset(from);
		journal->to = fake_offset(to);
		if (stores > 0)
			to->buf_idx = a;
		if (stores > 1)
			from->buf_idx = b;
		killed(1);
		CHECK(to->buf_idx == a && from->buf_idx == b);
		CHECK((to->flags & NS_BUF_CHANGED) && (from->flags & NS_BUF_CHANGED));
		CHECK(journal->to == 0);
		/* the slot is used for a copy: the kernel still has to hear of its buffer */
		CHECK(np_send(&ports[1], 0, bytes, np_frame(bytes, 1, 60)).sent == 1);
		/* nonsense in the journal leads nowhere */
		journal->to = UINT64_MAX - 15;
		killed(1);
		journal->from = 1 << 30;
		journal->to = 16;
		killed(1);
		munmap(journal, sizeof(*journal));
		adapters_close();
	}
}

int main(void)
{
	netmap_device_use(&netmap_fake);
	test_N4_zero_copy_within_a_region_only();
	test_N4_both_slots_say_that_their_buffer_changed();
	test_N4_no_buffer_is_lost_or_doubled();
	test_a_committed_batch_is_not_taken_again();
	test_what_was_handed_over_is_sent();
	test_N4_an_exchange_is_completed_after_a_kill();
	return check_result();
}
