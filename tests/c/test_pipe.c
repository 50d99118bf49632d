/*
 * Pipes: two ends of one memory. A million frames cross while the receiver pauses now and then,
 * and come in order with the bytes and the offload state they had; a full pipe makes its sender
 * wait, for a bounded time; what is in a pipe stays in it, whoever goes; indices that another
 * process could have written lead nowhere.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "port.h"
#include "ring.h"

enum {
	SLOTS = 128,
	BUFFER_BYTES = 2048 + 64,
	CROSSING = 1000000,
	WAIT_MS = 1000,	    /* what a sender waits at most */
	HEADER_BYTES = 8192 /* before the first ring: the slave's frames to the master */
};

static const char *const ends[] = {"master", "slave"};

/* --- ports by hand ------------------------------------------------------------------------------
 */

struct pipe_test {
	struct port_fds fds;
	struct port ports[2];
	const char *block;
};

static struct port_options end_options(struct port_option items[4], unsigned end, const char *block)
{
	items[0] = (struct port_option){"name", "x"};
	items[1] = (struct port_option){"end", ends[end]};
	items[2] = (struct port_option){"slots", "128"};
	items[3] = (struct port_option){"block", block};
	return (struct port_options){.port = ends[end], .items = items, .count = 4};
}

static int attach(struct pipe_test *test, unsigned end)
{
	struct port *port = &test->ports[end];
	struct port_option items[4];
	struct port_options options = end_options(items, end, test->block);
	struct error err = {0};

	*port = (struct port){.ops = port_type_find("pipe"), .id = (uint16_t)end};
	port->rxq[0].port = port->txq[0].port = port;
	return port->ops->attach(port, &options, &test->fds, &err);
}

static void detach(struct pipe_test *test, unsigned end)
{
	test->ports[end].ops->detach(&test->ports[end]);
}

static void open_pipe(struct pipe_test *test, const char *block)
{
	struct port_option items[4];
	struct port_options options = end_options(items, 0, block);
	struct error err = {0};

	memset(test, 0, sizeof(*test));
	test->block = block;
	if (!CHECK(port_acquire("pipe", &options, &test->fds, &err) == 0) ||
	    !CHECK(attach(test, 0) == 0) || !CHECK(attach(test, 1) == 0))
		exit(1);
}

static void close_fds(struct pipe_test *test)
{
	for (unsigned i = 0; i < test->fds.count; i++)
		close(test->fds.fd[i]);
}

static void close_pipe(struct pipe_test *test)
{
	detach(test, 0);
	detach(test, 1);
	close_fds(test);
}

/* --- frames -------------------------------------------------------------------------------------
 */

static uint32_t length_of(uint32_t number)
{
	uint64_t draw = number + 1;
	uint32_t kind = random_below(&draw, 64);

	if (kind == 0)
		return 14 + random_below(&draw, 20000);
	if (kind == 1)
		return BUFFER_BYTES - 20 + random_below(&draw, 40);
	return 60 + random_below(&draw, 200);
}

static void content(uint8_t *to, uint32_t number, uint32_t len)
{
	memcpy(to, &number, sizeof(number));
	for (uint32_t i = sizeof(number); i < len; i++)
		to[i] = (uint8_t)(number * 31 + i + (i >> 8));
}

static struct frame frame_of(uint8_t *bytes, uint32_t number, uint32_t len)
{
	struct frame frame = {.data = bytes, .len = len, .frame_len = len};

	content(bytes, number, len);
	frame.offload.flags = number & 1 ? FRAME_CSUM_NEEDED : 0;
	frame.offload.csum_start = (uint16_t)number;
	frame.offload.gso_size = (uint16_t)(number >> 3);
	return frame;
}

static bool frame_is(const struct frame *frame, uint32_t number)
{
	static _Thread_local uint8_t got[FRAME_LEN_MAX], wanted[FRAME_LEN_MAX];
	uint32_t len = length_of(number), at = 0;

	if (frame->frame_len != len ||
	    frame->offload.flags != (number & 1 ? FRAME_CSUM_NEEDED : 0) ||
	    frame->offload.csum_start != (uint16_t)number ||
	    frame->offload.gso_size != (uint16_t)(number >> 3))
		return false;
	for (const struct frame *f = frame; f; at += f->len, f = f->next)
		memcpy(got + at, f->data, f->len);
	content(wanted, number, len);
	return at == len && memcmp(got, wanted, len) == 0;
}

/* Sends frames first..first + count - 1 in one batch. */
static struct tx_report send_batch(struct port *port, uint32_t first, unsigned count)
{
	static _Thread_local uint8_t bytes[FRAME_BATCH][20064];
	struct frame frames[FRAME_BATCH];
	struct frame *list[FRAME_BATCH];
	struct tx_report report = {0};

	for (unsigned i = 0; i < count; i++) {
		frames[i] = frame_of(bytes[i], first + i, length_of(first + i));
		list[i] = &frames[i];
	}
	port->ops->tx(&port->txq[0], list, count, &report);
	return report;
}

/* Takes a batch that must begin with frame `next`; returns how many it had. */
static unsigned take_batch(struct port *port, uint32_t next)
{
	struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	int count = port->ops->rx(&port->rxq[0], batch, FRAME_BATCH, &cell);

	for (int i = 0; i < count; i++)
		CHECK(frame_is(&batch[i], next + (uint32_t)i));
	if (count > 0)
		port->ops->rx_done(&port->rxq[0]);
	CHECK(count >= 0 && cell.rx_frames == 0);
	return count > 0 ? (unsigned)count : 0;
}

static uint32_t take_all(struct port *port, uint32_t first)
{
	uint32_t next = first;
	unsigned count;

	while ((count = take_batch(port, next)))
		next += count;
	return next - first;
}

/* --- tests --------------------------------------------------------------------------------------
 */

static void *receiver(void *arg)
{
	struct port *port = arg;
	uint64_t state = 5, deadline = now_ms() + 120000;
	uint32_t next = 0;

	while (next < CROSSING && now_ms() < deadline) {
		next += take_batch(port, next);
		if (random_below(&state, 2000) == 0)
			usleep(random_below(&state, 3000));
	}
	return (void *)(uintptr_t)next;
}

/* N10 (docs/semantics.md): one thread sends as fast as it can, another receives with pauses. */
static void test_crossing(void)
{
	struct pipe_test test;
	uint64_t state = 3;
	uint32_t sent = 0;
	pthread_t thread;
	void *taken;

	open_pipe(&test, "1");
	if (!CHECK(pthread_create(&thread, NULL, receiver, &test.ports[1]) == 0))
		exit(1);
	while (sent < CROSSING) {
		uint32_t count = 1 + random_below(&state, FRAME_BATCH);
		struct tx_report report;

		if (count > CROSSING - sent)
			count = CROSSING - sent;
		report = send_batch(&test.ports[0], sent, count);
		if (!CHECK(report.sent == count))
			break;
		sent += count;
	}
	pthread_join(thread, &taken);
	CHECK((uintptr_t)taken == CROSSING);
	close_pipe(&test);
}

static uint32_t fill(struct port *port)
{
	uint32_t sent = 0;

	while (sent < 10000) {
		struct tx_report report = send_batch(port, sent, 1);

		if (!report.sent) {
			CHECK(report.drops[DROP_QUEUE_FULL] == 1);
			return sent;
		}
		sent++;
	}
	CHECK(false);
	return sent;
}

/* Nobody receives: the sender waits once, then not again until the other end moves. */
static void test_standstill(void)
{
	struct tx_report report;
	struct pipe_test test;
	uint64_t start;
	uint32_t sent;

	open_pipe(&test, "1");
	start = now_ms();
	sent = fill(&test.ports[0]);
	CHECK(now_ms() - start >= WAIT_MS - 10 && now_ms() - start < 20 * WAIT_MS);
	start = now_ms();
	for (unsigned i = 0; i < 100; i++)
		CHECK(send_batch(&test.ports[0], 0, 64).sent < 64);
	CHECK(now_ms() - start < 20 * WAIT_MS); /* not 100 times */
	CHECK(take_batch(&test.ports[1], 0) > 0);
	report = send_batch(&test.ports[0], sent, 1);
	CHECK(report.sent == 1);
	close_pipe(&test);
}

static void test_vale_never_waits(void)
{
	struct pipe_test test;
	uint64_t start, fastest = UINT64_MAX;
	uint32_t sent;

	open_pipe(&test, "0");
	for (unsigned i = 0; i < 5; i++) { /* a loaded machine may stop us meanwhile */
		start = now_ms();
		sent = fill(&test.ports[0]);
		fastest = now_ms() - start < fastest ? now_ms() - start : fastest;
		CHECK(take_all(&test.ports[1], 0) == sent);
	}
	CHECK(fastest < WAIT_MS);
	detach(&test, 1);
	CHECK(send_batch(&test.ports[0], 0, 10).drops[DROP_LINK_DOWN] == 10);
	CHECK(attach(&test, 1) == 0 && take_all(&test.ports[1], 0) == 0);
	close_pipe(&test);
}

/* A lone end keeps what fits for the end that comes, and says why it dropped the rest. */
static void test_lone_end(void)
{
	struct port_status status = {0};
	struct tx_report report;
	struct pipe_test test, second;

	open_pipe(&test, "1");
	test.ports[0].ops->poll_status(&test.ports[0], &status);
	CHECK(status.link_up);
	detach(&test, 1);
	test.ports[0].ops->poll_status(&test.ports[0], &status);
	CHECK(!status.link_up);
	report = send_batch(&test.ports[0], 100, 64);
	CHECK(report.sent == 64);
	report = send_batch(&test.ports[0], 200, 64);
	report = send_batch(&test.ports[0], 300, 64);
	CHECK(report.drops[DROP_LINK_DOWN] > 0 && report.drops[DROP_QUEUE_FULL] == 0);
	CHECK(report.sent + report.drops[DROP_LINK_DOWN] == 64);
	CHECK(attach(&test, 1) == 0);
	CHECK(take_batch(&test.ports[1], 100) == 64);
	second = test; /* its ports are other ones on the same memory */
	CHECK(attach(&second, 1) == -EBUSY);
	close_pipe(&test);
}

/* What a killed forwarder leaves: both ends gone without a word, then attached anew. */
static void reattach(struct pipe_test *test)
{
	for (unsigned end = 0; end < 2; end++)
		detach(test, end);
	for (unsigned end = 0; end < 2; end++)
		CHECK(attach(test, end) == 0);
}

static void test_killed(void)
{
	struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	struct pipe_test test;
	struct port *slave = &test.ports[1];

	open_pipe(&test, "1");
	for (uint32_t round = 0; round < 500; round++) {
		CHECK(send_batch(&test.ports[0], round * 20, 20).sent == 20);
		/* taken and not handed on: it is there for the next one */
		CHECK(slave->ops->rx(&slave->rxq[0], batch, 7, &cell) == 7);
		reattach(&test);
		CHECK(slave->ops->rx(&slave->rxq[0], batch, 7, &cell) == 7);
		CHECK(frame_is(&batch[0], round * 20));
		/* handed on and not given back: not again */
		slave->ops->rx_commit(&slave->rxq[0]);
		reattach(&test);
		CHECK(take_all(slave, round * 20 + 7) == 13);
	}
	close_pipe(&test);
}

/* The first ring and its indices, through a mapping of a stranger's. */
static void test_hostile_indices(void)
{
	static const uint32_t wrong[] = {SLOTS, SLOTS + 1, 1u << 31, UINT32_MAX};
	struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	struct pipe_test test;
	struct netmap_ring *ring;
	uint8_t *base;

	open_pipe(&test, "1");
	base =
	    mmap(NULL, HEADER_BYTES + 65536, PROT_READ | PROT_WRITE, MAP_SHARED, test.fds.fd[0], 0);
	if (!CHECK(base != MAP_FAILED))
		exit(1);
	ring = (struct netmap_ring *)(base + HEADER_BYTES);
	CHECK(ring->num_slots == SLOTS && ring->nr_buf_size == BUFFER_BYTES);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct port *master = &test.ports[0], *slave = &test.ports[1];

		ring->tail = wrong[i];
		CHECK(master->ops->rx(&master->rxq[0], batch, FRAME_BATCH, &cell) == -ENETDOWN);
		ring->tail = 0;
		ring->head = wrong[i];
		CHECK(send_batch(slave, 0, 1).drops[DROP_QUEUE_FULL] == 1);
		ring->head = 0;
		CHECK(send_batch(slave, 0, 1).sent == 1);
		ring->slot[0].buf_idx = 2 * SLOTS + i;
		CHECK(master->ops->rx(&master->rxq[0], batch, FRAME_BATCH, &cell) == 0);
		ring->slot[0].buf_idx = 0;
		ring->head = wrong[i];
		reattach(&test);
		CHECK(ring->head == 0 && ring->tail == 0);
	}
	CHECK(cell.rx_drops[DROP_MALFORMED] == sizeof(wrong) / sizeof(wrong[0]));
	munmap(base, HEADER_BYTES + 65536);
	close_pipe(&test);
}

int main(void)
{
	test_killed();
	test_lone_end();
	test_standstill();
	test_vale_never_waits();
	test_hostile_indices();
	test_crossing();
	return check_result();
}
