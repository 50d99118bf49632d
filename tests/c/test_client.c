/*
 * Lanes and the port that is made of them. Frames cross between two threads that sleep whenever
 * there is nothing to do, and no wake-up is lost; what is in a lane stays in it whoever dies, and
 * is neither taken twice after it was handed on nor skipped; whatever the program writes into the
 * memory, the port says malformed and goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "client_memory.h"
#include "port.h"
#include "port_client.h"

enum {
	CROSSING = 300000,
	LOST_MS = 20000,   /* whoever sleeps this long was not woken */
	SLEEP_CHANCE = 20, /* one in so many batches is followed by a pause */
	BATCH = 16
};

/* --- frames -------------------------------------------------------------------------------------
 */

static uint32_t length_of(uint32_t number)
{
	uint64_t draw = number + 1;
	uint32_t kind = random_below(&draw, 64);

	if (kind == 0)
		return 14 + random_below(&draw, LANE_FRAME_MAX - 14);
	if (kind < 8)
		return 200 + random_below(&draw, 1400);
	return 14 + random_below(&draw, 80);
}

static void content(uint8_t *to, uint32_t number, uint32_t len)
{
	memcpy(to, &number, sizeof(number));
	for (uint32_t i = sizeof(number); i < len; i++)
		to[i] = (uint8_t)(number * 31 + i + (i >> 8));
}

static bool content_is(const uint8_t *bytes, uint32_t number, uint32_t len)
{
	static _Thread_local uint8_t wanted[LANE_FRAME_MAX];

	content(wanted, number, len);
	return len == length_of(number) && memcmp(bytes, wanted, len) == 0;
}

/* Adds frames from *next on until there is no room, at most `count`. */
static void produce(struct lane_producer *out, uint32_t *next, uint32_t count)
{
	while (count--) {
		uint32_t len = length_of(*next);
		uint8_t *to = lane_reserve(out, len);

		if (!to)
			return;
		content(to, *next, len);
		lane_add(out, len, 0);
		++*next;
	}
}

/* --- two threads --------------------------------------------------------------------------------
 */

struct crossing {
	struct client_map map;
	int ends[2]; /* side 1's, side 0's */
	uint32_t received;
	uint32_t slept;
};

static bool doze(int end)
{
	struct pollfd fd = {.fd = end, .events = POLLIN};

	if (!CHECK(poll(&fd, 1, LOST_MS) == 1))
		return false;
	return client_bell_take(end);
}

static void *consume(void *arg)
{
	struct crossing *test = arg;
	struct lane_consumer in;
	struct lane_frame frame;
	uint64_t state = 7;

	client_outbox_consumer(&test->map, 0, &in);
	while (test->received < CROSSING) {
		for (unsigned i = 0; i < BATCH && lane_ready(&in) && lane_next(&in, &frame); i++) {
			if (!CHECK(content_is(frame.data, test->received, frame.len)))
				return NULL;
			test->received++;
		}
		if (lane_release(&in))
			client_bell_ring(test->ends[0]);
		if (random_below(&state, SLEEP_CHANCE) == 0)
			usleep(random_below(&state, 100));
		if (test->received < CROSSING && !lane_ready(&in) && lane_consumer_waits(&in)) {
			test->slept++;
			if (!doze(test->ends[0]))
				return NULL;
			lane_consumer_awake(&in);
		}
	}
	CHECK(in.resets == 0);
	return NULL;
}

static void make_memory(struct client_map *map, int ends[2])
{
	int fd = client_memory_make("test", 1, 1, LANE_BYTES_MIN, LANE_BYTES_MIN);

	if (!CHECK(fd >= 0) || !CHECK(client_map_open(fd, map) == 0) ||
	    !CHECK(client_bells_make(1, &ends[0], &ends[1]) == 0))
		exit(1);
	close(fd);
}

static void drop_memory(struct client_map *map, int ends[2])
{
	client_map_close(map);
	close(ends[0]);
	close(ends[1]);
}

/* Both sides sleep, one for frames and the other for room. */
static void test_crossing(void)
{
	struct crossing test = {0};
	struct lane_producer out;
	uint32_t sent = 0, slept = 0;
	uint64_t state = 3;
	pthread_t thread;

	make_memory(&test.map, test.ends);
	client_outbox_producer(&test.map, 0, &out);
	if (!CHECK(pthread_create(&thread, NULL, consume, &test) == 0))
		exit(1);
	while (sent < CROSSING) {
		uint32_t first = sent, count = 1 + random_below(&state, BATCH);

		produce(&out, &sent, count < CROSSING - sent ? count : CROSSING - sent);
		if (lane_publish(&out))
			client_bell_ring(test.ends[1]);
		if (random_below(&state, SLEEP_CHANCE) == 0)
			usleep(random_below(&state, 100));
		if (sent == first && lane_producer_waits(&out, length_of(sent))) {
			slept++;
			if (!doze(test.ends[1]))
				break;
			lane_producer_awake(&out);
		}
	}
	pthread_join(thread, NULL);
	CHECK(test.received == CROSSING && test.slept > 0 && slept > 0);
	CHECK(test.map.memory->outbox[0].frames == CROSSING);
	CHECK(test.map.memory->outbox[0].resets_by_producer == 0);
	CHECK(lane_drained(&out));
	drop_memory(&test.map, test.ends);
}

/* --- lanes that somebody else spoiled ----------------------------------------------------------
 */

static uint32_t count_left(struct lane_consumer *in)
{
	struct lane_frame frame;
	uint32_t count = 0;

	while (lane_ready(in) && lane_next(in, &frame))
		count++;
	return count;
}

/* A nonsensical index empties the lane; what is sent afterwards arrives. */
static void test_spoiled_indices(void)
{
	static const uint64_t wrong[] = {1, 3u << 20, 1ull << 63, 0 - (1ull << 20)};
	struct client_map map;
	int ends[2];

	make_memory(&map, ends);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct lane *lane = &map.memory->outbox[0];
		struct lane_producer out;
		struct lane_consumer in;
		uint32_t next = 0;

		memset(lane, 0, sizeof(*lane));
		client_outbox_producer(&map, 0, &out);
		client_outbox_consumer(&map, 0, &in);
		produce(&out, &next, 10);
		lane_publish(&out);
		lane->tail = wrong[i];
		CHECK(count_left(&in) == 0 && in.resets == 1);
		produce(&out, &next, 10);
		lane_publish(&out); /* it is itself again: the consumer finds back to it */
		count_left(&in);
		produce(&out, &next, 10);
		lane_publish(&out);
		CHECK(count_left(&in) == 10);
		lane_release(&in);

		lane->head = wrong[i];
		for (unsigned n = 0; n < 100; n++) {
			next = 0; /* no long ones */
			produce(&out, &next, 50);
			lane_publish(&out);
		}
		CHECK(lane->resets_by_producer > 0);
		count_left(&in); /* written over meanwhile */
		next = 0;
		produce(&out, &next, 10);
		lane_publish(&out);
		lane_release(&in);
		CHECK(count_left(&in) == 10);

		/* whoever comes anew */
		lane->head = wrong[i];
		lane->committed = wrong[i];
		client_outbox_consumer(&map, 0, &in);
		CHECK(count_left(&in) == 0 && lane->head == lane->tail);
		lane->tail = wrong[i];
		client_outbox_producer(&map, 0, &out);
		client_outbox_consumer(&map, 0, &in);
		next = 0;
		produce(&out, &next, 10);
		lane_publish(&out);
		CHECK(count_left(&in) == 10);
	}
	drop_memory(&map, ends);
}

static void test_memories(void)
{
	struct client_map map;
	struct client_memory *memory;
	int fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	CHECK(client_map_open(fd, &map) == -EINVAL && !map.memory);
	CHECK(ftruncate(fd, CLIENT_HEADER_BYTES) == 0);
	CHECK(client_map_open(fd, &map) == -EINVAL); /* could be cut short */
	close(fd);
	CHECK(client_memory_make("x", 0, 1, 1 << 20, 1 << 20) == -EINVAL);
	CHECK(client_memory_make("x", 1, 17, 1 << 20, 1 << 20) == -EINVAL);
	CHECK(client_memory_make("x", 1, 1, 3 << 18, 1 << 20) == -EINVAL);
	CHECK(client_memory_make("x", 1, 1, 1 << 20, 1u << 27) == -EINVAL);

	fd = client_memory_make("x", 2, 3, LANE_BYTES_MIN, 2 * LANE_BYTES_MIN);
	CHECK(fd >= 0 && ftruncate(fd, 4096) < 0 && errno == EPERM);
	CHECK(client_map_open(fd, &map) == 0);
	CHECK(map.tx_rings == 2 && map.rx_rings == 3 && map.outbox_bytes == LANE_BYTES_MIN);
	CHECK(client_inbox(&map, 2) + map.inbox_bytes == (uint8_t *)map.memory + map.bytes);
	memory = map.memory;
	memory->version = 7;
	CHECK(client_map_open(fd, &map) == -EPROTO);
	memory->version = CLIENT_VERSION;
	memory->tx_rings = 4;
	CHECK(client_map_open(fd, &map) == -EINVAL);
	memory->tx_rings = 2;
	memory->inbox_bytes = 1;
	CHECK(client_map_open(fd, &map) == -EINVAL);
	munmap(memory, client_memory_bytes(2, 3, LANE_BYTES_MIN, 2 * LANE_BYTES_MIN));
	close(fd);
}

/* A program can neither make whoever rings or listens wait, nor kill it. */
static void test_bells(void)
{
	char bytes[256];
	int ends[2];

	CHECK(client_bells_make(1, &ends[0], &ends[1]) == 0);
	CHECK(fcntl(ends[1], F_SETFL, 0) == 0); /* blocks from now on */
	CHECK(client_bell_take(ends[0]));
	for (unsigned i = 0; i < 100000; i++)
		client_bell_ring(ends[0]);
	CHECK(client_bell_take(ends[1]) && client_bell_take(ends[0]));
	CHECK(recv(ends[1], bytes, sizeof(bytes), MSG_DONTWAIT) != 0);
	CHECK(shutdown(ends[1], SHUT_RDWR) == 0);
	client_bell_ring(ends[0]);
	CHECK(!client_bell_take(ends[0]));
	close(ends[1]);
	client_bell_ring(ends[0]);
	close(ends[0]);
}

/* --- the port -----------------------------------------------------------------------------------
 */

struct port_test {
	struct port_fds fds;
	struct port port;
	struct client_map map; /* the program's */
	struct lane_producer out;
	struct lane_consumer in;
	struct port_counters cell;
	uint32_t next;	/* frame to send */
	uint32_t taken; /* frame to expect */
};

static void attach(struct port_test *test)
{
	struct port_options none = {.port = "test"};
	struct error err = {0};

	test->port = (struct port){.ops = port_type_find("client"), .name = "test"};
	test->port.rxq[0].port = test->port.txq[0].port = &test->port;
	if (!CHECK(test->port.ops->attach(&test->port, &none, &test->fds, &err) == 0))
		exit(1);
}

static void open_port(struct port_test *test)
{
	struct port_option items[] = {{"outbox_bytes", "262144"}, {"inbox_bytes", "262144"}};
	struct port_options options = {.port = "test", .items = items, .count = 2};
	struct error err = {0};

	memset(test, 0, sizeof(*test));
	if (!CHECK(port_acquire("client", &options, &test->fds, &err) == 0) ||
	    !CHECK(client_map_open(test->fds.fd[0], &test->map) == 0))
		exit(1);
	attach(test);
	client_outbox_producer(&test->map, 0, &test->out);
	client_inbox_consumer(&test->map, 0, &test->in);
}

static void detach(struct port_test *test)
{
	test->port.ops->detach(&test->port);
}

static void close_port(struct port_test *test)
{
	detach(test);
	client_map_close(&test->map);
	for (unsigned i = 0; i < test->fds.count; i++)
		close(test->fds.fd[i]);
}

static void program_sends(struct port_test *test, uint32_t count)
{
	uint32_t first = test->next;

	produce(&test->out, &test->next, count);
	CHECK(test->next - first == count);
	lane_publish(&test->out);
}

static uint32_t flat(const struct frame *frame, uint8_t *to)
{
	uint32_t at = 0;

	for (; frame; at += frame->len, frame = frame->next)
		memcpy(to + at, frame->data, frame->len);
	return at;
}

/* One batch, checked; the caller commits it or gives it back. */
static unsigned port_takes(struct port_test *test, unsigned max)
{
	static uint8_t bytes[LANE_FRAME_MAX];
	struct frame batch[FRAME_BATCH];
	int count = test->port.ops->rx(&test->port.rxq[0], batch, max, &test->cell);

	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		uint32_t len = flat(&batch[i], bytes);

		CHECK(len == batch[i].frame_len &&
		      content_is(bytes, test->taken + (uint32_t)i, len));
	}
	return count > 0 ? (unsigned)count : 0;
}

static int port_takes_any(struct port_test *test)
{
	struct frame batch[FRAME_BATCH];
	int count = test->port.ops->rx(&test->port.rxq[0], batch, FRAME_BATCH, &test->cell);

	test->port.ops->rx_done(&test->port.rxq[0]);
	return count;
}

static void test_killed(void)
{
	struct port_test test;

	open_port(&test);
	for (unsigned round = 0; round < 500; round++) {
		test.next = test.taken = round % 50 * 20;
		program_sends(&test, 20);
		/* taken and not handed on: it is there for the next one */
		CHECK(port_takes(&test, 7) == 7);
		detach(&test);
		attach(&test);
		CHECK(port_takes(&test, 7) == 7);
		/* handed on and not given back: not again */
		test.port.ops->rx_commit(&test.port.rxq[0]);
		detach(&test);
		attach(&test);
		test.taken += 7;
		CHECK(port_takes(&test, 64) == 13);
		test.port.ops->rx_done(&test.port.rxq[0]);
		/* a program that comes anew on the same memory goes on as well */
		client_outbox_producer(&test.map, 0, &test.out);
	}
	CHECK(test.cell.rx_frames == 0);
	close_port(&test);
}

static struct frame frame_of(uint8_t *bytes, uint32_t number)
{
	uint32_t len = length_of(number);

	content(bytes, number, len);
	return (struct frame){.data = bytes, .len = len, .frame_len = len};
}

static struct tx_report port_sends(struct port_test *test, struct frame *frame)
{
	struct tx_report report = {0};

	test->port.ops->tx(&test->port.txq[0], &frame, 1, &report);
	return report;
}

/* A full inbox: what does not fit is dropped, and a successor goes on behind what is there. */
static void test_full(void)
{
	static uint8_t bytes[LANE_FRAME_MAX];
	struct port_test test;
	struct lane_frame in = {0};
	struct frame frame;
	uint32_t sent = 0, taken = 0;

	open_port(&test);
	for (;; sent++) {
		struct tx_report report;

		frame = frame_of(bytes, sent);
		report = port_sends(&test, &frame);
		if (!report.sent) {
			CHECK(report.drops[DROP_QUEUE_FULL] == 1);
			break;
		}
		if (sent % 10 == 0) {
			detach(&test);
			attach(&test);
		}
	}
	CHECK(test.map.memory->inbox[0].full == 1);
	while (lane_ready(&test.in) && lane_next(&test.in, &in)) {
		CHECK(content_is(in.data, taken, in.len));
		taken++;
	}
	CHECK(taken == sent && sent > 10);
	close_port(&test);
}

/* How often this thread has gone to sleep. */
static long sleeps_so_far(void)
{
	struct rusage used;

	getrusage(RUSAGE_THREAD, &used);
	return used.ru_nvcsw;
}

/* A worker's round: a frame of the program's comes, `count` of 1,000 bytes go to it. Did it nap? */
static bool round_naps(struct port_test *test, unsigned count)
{
	static uint8_t bytes[1000];
	struct frame frame = {.data = bytes, .len = sizeof(bytes), .frame_len = sizeof(bytes)};
	struct frame batch[FRAME_BATCH];
	long before = sleeps_so_far();

	program_sends(test, 1);
	CHECK(test->port.ops->rx(&test->port.rxq[0], batch, FRAME_BATCH, &test->cell) == 1);
	while (count--)
		port_sends(test, &frame);
	CHECK(sleeps_so_far() == before); /* not while it holds frames of others */
	test->port.ops->rx_done(&test->port.rxq[0]);
	return sleeps_so_far() != before;
}

static void program_reads(struct port_test *test, unsigned count)
{
	struct lane_frame in;

	while (count-- && lane_ready(&test->in) && lane_next(&test->in, &in))
		;
	lane_release(&test->in);
}

/* A worker naps for who reads and does not come after, and for nobody else. */
static void test_behind(void)
{
	enum { QUARTER = 65 }; /* of the inbox, in frames */
	struct port_test test;

	open_port(&test);
	for (unsigned round = 0; round < 10; round++) /* nobody reads: full, and no nap */
		CHECK(!round_naps(&test, QUARTER));
	CHECK(test.map.memory->inbox[0].full > 0);
	program_reads(&test, 1);
	CHECK(round_naps(&test, 1));
	CHECK(!round_naps(&test, 0)); /* whose frames go elsewhere does not wait */
	program_reads(&test, 3 * QUARTER);
	CHECK(!round_naps(&test, 1)); /* there is room again */
	close_port(&test);
}

/* In pieces, with an offload, with and without a header for it. */
static void test_offload(void)
{
	static uint8_t bytes[LANE_FRAME_MAX];
	struct port_test test;
	struct lane_frame in = {0};
	struct frame frame, rest;
	struct error err;

	open_port(&test);
	CHECK(client_set_header(&test.port, 11, &err) == -EINVAL);
	CHECK(!(test.port.caps & PORT_CAP_TSO4));
	for (unsigned hdr_len = 0; hdr_len <= 12; hdr_len += hdr_len ? 2 : 10) {
		CHECK(client_set_header(&test.port, hdr_len, &err) == 0);
		detach(&test);
		attach(&test); /* another forwarder */
		CHECK(!(test.port.caps & PORT_CAP_TSO4) == !hdr_len);
		frame = frame_of(bytes, 5);
		rest = (struct frame){.data = bytes + 10, .len = frame.len - 10};
		frame.len = 10;
		frame.next = &rest;
		frame.offload.flags = FRAME_CSUM_NEEDED;
		frame.offload.csum_start = 77;
		frame.flags = FRAME_SENT_COPY;
		CHECK(port_sends(&test, &frame).sent == 1);
		CHECK(lane_ready(&test.in) && lane_next(&test.in, &in));
		CHECK(content_is(in.data, 5, in.len) && !in.vnet == !hdr_len);
		CHECK(in.flags & LANE_TXMON);
		if (in.vnet)
			CHECK(memcmp(in.vnet, &frame.offload, sizeof(frame.offload)) == 0);
	}
	close_port(&test);
}

static void put_record(struct port_test *test, uint32_t len, uint16_t flags)
{
	uint8_t *to = lane_reserve(&test->out, 100);
	struct lane_record record = {.len = len, .flags = flags};

	memset(to, 0, 100);
	lane_add(&test->out, 100, 0);
	memcpy(to - sizeof(record), &record, sizeof(record));
}

/* Frames before the nonsense are kept, it is one malformed frame, those sent later arrive. */
static void test_nonsense(void)
{
	static const struct {
		uint32_t len;
		uint16_t flags;
	} wrong[] = {{0xffffffff, 0},	     {LANE_FRAME_MAX + 1, 0}, {60000, 0},
		     {15, LANE_VNET},	     {0, LANE_SKIP},	      {0xfffffff8, LANE_VNET},
		     {100000, LANE_NO_LEARN}};
	struct port_test test;

	open_port(&test);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		test.next = test.taken = 1000;
		program_sends(&test, 5);
		put_record(&test, wrong[i].len, wrong[i].flags);
		program_sends(&test, 5);
		CHECK(port_takes(&test, 64) == 5);
		test.port.ops->rx_done(&test.port.rxq[0]);
		CHECK(test.cell.rx_drops[DROP_MALFORMED] == i + 1);
		CHECK(test.cell.rx_frames == i + 1);
		test.taken = test.next;
		program_sends(&test, 5);
		CHECK(port_takes(&test, 64) == 5);
		test.port.ops->rx_done(&test.port.rxq[0]);
	}
	close_port(&test);
}

/* A producer that skips the end of its lane and then has nothing to say is drained all the same. */
static void test_skipped(void)
{
	struct port_test test;
	unsigned len = 1000;

	open_port(&test);
	while (lane_need(&test.out, len) == lane_span(len)) {
		uint8_t *to = lane_reserve(&test.out, len);

		if (!to) {
			lane_publish(&test.out);
			while (port_takes_any(&test))
				;
			continue;
		}
		memset(to, 0, len);
		lane_add(&test.out, len, 0);
	}
	lane_publish(&test.out);
	while (port_takes_any(&test))
		;
	CHECK(lane_reserve(&test.out, len) != NULL);
	lane_publish(&test.out);
	CHECK(!lane_drained(&test.out) && port_takes_any(&test) == 0);
	CHECK(lane_drained(&test.out) && test.cell.rx_frames == 0);
	close_port(&test);
}

/* What is decided on and sent is not what the program writes afterwards. */
static void test_rewritten(void)
{
	struct frame batch[FRAME_BATCH];
	struct port_test test;
	uint8_t *outbox;
	uint32_t len = length_of(3);

	open_port(&test);
	outbox = client_outbox(&test.map, 0);
	test.next = 3;
	program_sends(&test, 1);
	CHECK(test.port.ops->rx(&test.port.rxq[0], batch, 1, &test.cell) == 1);
	memset(outbox, 0xff, 4096);
	CHECK(len < 256 && !batch[0].next && content_is(batch[0].data, 3, batch[0].len));
	test.map.memory->hdr_len = 11; /* nor a header that is none */
	detach(&test);
	attach(&test);
	CHECK(!(test.port.caps & PORT_CAP_TSO4));
	close_port(&test);
}

/* The worker's sleep: woken by the program, and by what came before it slept. */
static void test_sleep(void)
{
	struct port_test test;
	struct pollfd fd = {.events = POLLIN};
	const struct port_ops *ops;

	open_port(&test);
	ops = test.port.ops;
	CHECK(port_takes(&test, 1) == 0);
	fd.fd = ops->rx_fd(&test.port.rxq[0]);
	CHECK(poll(&fd, 1, 0) == 0);
	produce(&test.out, &test.next, 1);
	CHECK(lane_publish(&test.out));
	client_bell_ring(test.fds.fd[2]);
	CHECK(poll(&fd, 1, 0) == 1);
	CHECK(port_takes(&test, 1) == 1);
	ops->rx_done(&test.port.rxq[0]);
	CHECK(poll(&fd, 1, 0) == 0);
	produce(&test.out, &test.next, 1);
	CHECK(!lane_publish(&test.out)); /* nobody sleeps */
	fd.fd = ops->rx_fd(&test.port.rxq[0]);
	CHECK(poll(&fd, 1, 0) == 1);
	test.taken++;
	CHECK(port_takes(&test, 1) == 1 && port_takes(&test, 1) == 0);
	/* a program that shuts the bell only makes its own port slower */
	CHECK(shutdown(test.fds.fd[2], SHUT_RDWR) == 0);
	fd.fd = ops->rx_fd(&test.port.rxq[0]);
	CHECK(port_takes(&test, 1) == 0 && ops->rx_fd(&test.port.rxq[0]) == -1);
	close_port(&test);
}

int main(void)
{
	test_memories();
	test_bells();
	test_spoiled_indices();
	test_killed();
	test_full();
	test_behind();
	test_offload();
	test_nonsense();
	test_skipped();
	test_rewritten();
	test_sleep();
	test_crossing();
	return check_result();
}
