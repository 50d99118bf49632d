/*
 * monitor: many writers and a reader that all run, what a killed writer leaves, cut frames, marks
 * of sent ones, chains under a filter, and the doorbell.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine_tables.h"
#include "monitor.h"
#include "port_memory.h"
#include "ring.h"
#include "switch.h"

enum { WRITERS = 4, FRAMES_EACH = 40000, CELLS = 8, MONITOR_ID = 5, LEN_MAX = 9000 };

extern const struct port_ops port_monitor_ops;

/* A monitor port without an engine, and the cells of who reads and who writes. */
struct scene {
	struct port port;
	struct port_counters reader;
	struct port_counters writer[CELLS];
	struct frame batch[FRAME_BATCH];
};

static bool scene_open(struct scene *scene, int fd, const struct port_option *options,
		       unsigned count)
{
	struct port_options list = {.port = "m", .items = options, .count = count};
	struct port_fds fds = {.fd = {fd}, .count = fd >= 0};
	struct error err = {0};

	memset(scene, 0, sizeof(*scene));
	scene->port.ops = &port_monitor_ops;
	scene->port.id = MONITOR_ID;
	for (unsigned q = 0; q < PORT_QUEUES_MAX; q++)
		scene->port.rxq[q] = scene->port.txq[q] =
		    (struct port_queue){.port = &scene->port, .id = (uint16_t)q};
	if (CHECK(port_monitor_ops.attach(&scene->port, &list, &fds, &err) == 0))
		return true;
	fprintf(stderr, "  %s\n", err.message);
	return false;
}

static void scene_close(struct scene *scene)
{
	port_monitor_ops.detach(&scene->port);
}

static unsigned take(struct scene *scene)
{
	return (unsigned)port_monitor_ops.rx(&scene->port.rxq[0], scene->batch, FRAME_BATCH,
					     &scene->reader);
}

static void done(struct scene *scene)
{
	port_monitor_ops.rx_done(&scene->port.rxq[0]);
}

static void write_rx(struct scene *scene, const struct frame *frames, unsigned count)
{
	struct monitor *one = scene->port.monitor;
	struct monitor_list list = {.monitors = &one, .count = 1};

	monitor_rx(&list, frames, count, scene->writer);
}

static struct frame plain(uint8_t *bytes, uint32_t len)
{
	return (struct frame){.data = bytes, .len = len, .frame_len = len};
}

/* The bytes of a frame in one piece. */
static uint32_t gather(const struct frame *frame, uint8_t *to)
{
	uint32_t len = 0;

	for (; frame; frame = frame->next) {
		memcpy(to + len, frame->data, frame->len);
		len += frame->len;
	}
	return len;
}

static uint32_t content(uint8_t *to, uint32_t writer, uint32_t number)
{
	uint32_t len = 60 + (writer * 7919 + number * 104729) % (LEN_MAX - 60);

	if (number % 8)
		len = 60 + len % 200;
	memcpy(to, &writer, sizeof(writer));
	memcpy(to + 4, &number, sizeof(number));
	for (uint32_t i = 8; i < len; i++)
		to[i] = (uint8_t)(writer + number + i);
	return len;
}

/* --- many writers, one reader ------------------------------------------------------------------
 */

struct writer {
	struct scene *scene;
	uint32_t number;
	struct port_counters cells[CELLS];
};

static _Atomic unsigned writing;

static void *write_all(void *arg)
{
	struct writer *writer = arg;
	struct monitor *one = writer->scene->port.monitor;
	struct monitor_list list = {.monitors = &one, .count = 1};
	uint8_t bytes[4][LEN_MAX];

	for (uint32_t n = 0; n < FRAMES_EACH; n += 4) {
		struct frame batch[4], *frames[4];

		for (uint32_t i = 0; i < 4; i++) {
			batch[i] = plain(bytes[i], content(bytes[i], writer->number, n + i));
			frames[i] = &batch[i];
		}
		if (n % 8)
			monitor_rx(&list, batch, 4, writer->cells);
		else
			monitor_tx(&list, frames, 4, writer->cells);
		if (n % 64 == 0)
			sched_yield();
	}
	atomic_fetch_sub(&writing, 1);
	return NULL;
}

static void check_frame(const struct frame *frame, uint32_t next[WRITERS])
{
	static uint8_t got[FRAME_LEN_MAX], expected[LEN_MAX];
	uint32_t len = gather(frame, got), writer, number;

	memcpy(&writer, got, sizeof(writer));
	memcpy(&number, got + 4, sizeof(number));
	if (!CHECK(len >= 8 && writer < WRITERS && number >= next[writer] && number < FRAMES_EACH))
		return;
	CHECK(len == content(expected, writer, number) && memcmp(got, expected, len) == 0);
	CHECK(frame->frame_len == len && (frame->flags & FRAME_NO_LEARN));
	CHECK(!(frame->flags & FRAME_SENT_COPY) == (number % 8 >= 4));
	next[writer] = number + 1;
}

/* Each writer's frames come in its order; what does not come was counted as monitor_full. */
static void test_writers(const char *slots)
{
	struct port_option options[] = {{"port", "p"}, {"slots", slots}};
	static struct scene scene;
	static struct writer writers[WRITERS];
	uint32_t next[WRITERS] = {0};
	pthread_t threads[WRITERS];
	uint64_t came = 0, full = 0;
	unsigned count;

	if (!scene_open(&scene, -1, options, 2))
		return;
	memset(writers, 0, sizeof(writers));
	atomic_store(&writing, WRITERS);
	for (uint32_t w = 0; w < WRITERS; w++) {
		writers[w].scene = &scene;
		writers[w].number = w;
		pthread_create(&threads[w], NULL, write_all, &writers[w]);
	}
	for (;;) {
		bool last = atomic_load(&writing) == 0;

		while ((count = take(&scene))) {
			for (unsigned i = 0; i < count; i++)
				check_frame(&scene.batch[i], next);
			done(&scene);
			came += count;
		}
		if (last)
			break;
		sched_yield();
	}
	for (unsigned w = 0; w < WRITERS; w++) {
		const struct port_counters *cell = &writers[w].cells[MONITOR_ID];

		pthread_join(threads[w], NULL);
		CHECK(cell->rx_frames == cell->rx_drops[DROP_MONITOR_FULL]);
		full += cell->rx_frames;
	}
	CHECK(came > 0);
	CHECK(came + full == (uint64_t)WRITERS * FRAMES_EACH);
	CHECK(scene.reader.rx_frames == 0);
	scene_close(&scene);
}

/* --- what a killed forwarder leaves ------------------------------------------------------------
 */

static int memory_make(uint32_t slots)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)monitor_bytes(slots)) == 0);
	return fd;
}

static void write_numbers(struct scene *scene, uint32_t first, uint32_t count)
{
	static uint8_t bytes[LEN_MAX];

	for (uint32_t n = first; n < first + count; n++) {
		struct frame frame = plain(bytes, content(bytes, 0, n));

		write_rx(scene, &frame, 1);
	}
}

/* The next batch holds exactly the numbers from first on. */
static void expect_numbers(struct scene *scene, uint32_t first, uint32_t count)
{
	static uint8_t got[FRAME_LEN_MAX], expected[LEN_MAX];

	if (!CHECK(take(scene) == count))
		return;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t len = gather(&scene->batch[i], got);

		CHECK(len == content(expected, 0, first + i) && memcmp(got, expected, len) == 0);
	}
}

/* A writer that was killed: it had reserved, and said how much of the frame, or not even that. */
static void write_half(struct scene *scene, uint32_t len, bool begun)
{
	struct monitor *monitor = scene->port.monitor;
	uint64_t at = atomic_fetch_add(&monitor->memory->tail, monitor_slots_of(len));

	if (!begun)
		return;
	monitor_slot(monitor, at)->frame_len = len;
	atomic_store(&monitor_slot(monitor, at)->begun, at + 1);
}

static void test_left_behind(void)
{
	struct port_option options[] = {{"port", "p"}, {"slots", "64"}};
	int fd = memory_make(64);
	static struct scene scene;

	if (!scene_open(&scene, fd, options, 2))
		return;
	/* go round, so that old stamps lie about */
	for (uint32_t n = 0; n < 200; n++) {
		write_numbers(&scene, n, 1);
		expect_numbers(&scene, n, 1);
		done(&scene);
	}
	write_numbers(&scene, 1, 6);
	expect_numbers(&scene, 1, 6); /* not committed: comes again */
	scene_close(&scene);

	scene_open(&scene, fd, options, 2);
	expect_numbers(&scene, 1, 6);
	port_monitor_ops.rx_commit(&scene.port.rxq[0]); /* and now it does not */
	write_numbers(&scene, 9, 2);
	write_half(&scene, 5000, true);
	write_numbers(&scene, 11, 1);
	write_half(&scene, 60, false);
	write_half(&scene, 60, true);
	write_numbers(&scene, 12, 1);
	write_half(&scene, 7000, true);
	scene_close(&scene);

	scene_open(&scene, fd, options, 2);
	expect_numbers(&scene, 9, 4);
	done(&scene);
	CHECK(take(&scene) == 0);
	CHECK(scene.reader.rx_frames == 4 && scene.reader.rx_drops[DROP_RESTART] == 4);
	CHECK(scene.reader.rx_bytes == 5000 + 60 + 7000);
	write_numbers(&scene, 1, 6);
	expect_numbers(&scene, 1, 6);
	done(&scene);
	CHECK(atomic_load(&scene.port.monitor->memory->head) ==
	      atomic_load(&scene.port.monitor->memory->tail));
	scene_close(&scene);
	close(fd);
}

/* Memory of another size, or with positions that cannot be, begins empty. */
static void test_nonsense(void)
{
	struct port_option options[] = {{"port", "p"}, {"slots", "64"}};
	int fd = memory_make(128);
	static struct scene scene;
	struct error err = {0};
	struct port_options list = {.port = "m", .items = options, .count = 2};
	struct port_fds fds = {.count = 1};
	uint64_t state = 3;

	for (unsigned round = 0; round < 200; round++) {
		uint64_t *words;

		if (!scene_open(&scene, fd, options, 2))
			return;
		while (take(&scene))
			done(&scene);
		write_numbers(&scene, 0, 3);
		words = (uint64_t *)scene.port.monitor->memory;
		for (unsigned i = 0; i < 4; i++)
			words[random_below(&state, (uint32_t)(sizeof(struct monitor_memory) +
							      64 * sizeof(struct monitor_slot)) /
						       8)] =
			    random_next(&state) >> random_below(&state, 64);
		scene_close(&scene);
	}
	fds.fd[0] = memory_make(64);
	CHECK(ftruncate(fds.fd[0], 4096) == 0);
	CHECK(port_monitor_ops.attach(&scene.port, &list, &fds, &err) == -EINVAL);
	close(fds.fd[0]);
	close(fd);
}

/* --- what is copied ----------------------------------------------------------------------------
 */

static const struct frame_offload unfinished = {
    .flags = FRAME_CSUM_NEEDED, .gso_type = FRAME_GSO_TCPV4, .gso_size = 1448, .csum_start = 34};

/* A whole copy carries what is unfinished; a cut one is plain bytes. */
static void test_snaplen(void)
{
	struct port_option options[] = {{"port", "p"}, {"snaplen", "4000"}};
	static uint8_t bytes[LEN_MAX], got[FRAME_LEN_MAX];
	static struct scene scene;
	struct frame frames[3];

	content(bytes, 1, 8);
	frames[0] = plain(bytes, 4000);
	frames[1] = plain(bytes, 4001);
	frames[2] = plain(bytes, 14);
	frames[0].offload = frames[1].offload = unfinished;
	if (!scene_open(&scene, -1, options, 2))
		return;
	write_rx(&scene, frames, 3);
	CHECK(take(&scene) == 3);
	CHECK(gather(&scene.batch[0], got) == 4000 && memcmp(got, bytes, 4000) == 0);
	CHECK(memcmp(&scene.batch[0].offload, &unfinished, sizeof(unfinished)) == 0);
	CHECK(gather(&scene.batch[1], got) == 4000 && scene.batch[1].frame_len == 4000);
	CHECK(!frame_has_offload(&scene.batch[1]));
	CHECK(gather(&scene.batch[2], got) == 14 && memcmp(got, bytes, 14) == 0);
	done(&scene);
	scene_close(&scene);
}

/* "ip proto 17 at byte 3000" over a chain, and a program that itself cuts. */
static void test_chain(void)
{
	struct port_option options[] = {{"port", "p"},
					{"filter", "4,48 0 0 3000,21 0 1 77,6 0 0 3500,6 0 0 0"}};
	static uint8_t bytes[LEN_MAX], got[FRAME_LEN_MAX];
	static struct scene scene;
	struct frame chain[3];

	content(bytes, 1, 8);
	bytes[3000] = 77;
	for (unsigned i = 0; i < 3; i++)
		chain[i] = (struct frame){.data = bytes + 1500 * i, .len = i == 2 ? 1000 : 1500};
	chain[0].next = &chain[1];
	chain[1].next = &chain[2];
	chain[0].frame_len = 4000;
	if (!scene_open(&scene, -1, options, 2))
		return;
	write_rx(&scene, chain, 1);
	bytes[3000] = 78;
	write_rx(&scene, chain, 1);
	chain[0].frame_len = 3000; /* what the program asks for is not there */
	chain[1].next = NULL;
	write_rx(&scene, chain, 1);
	bytes[3000] = 77;
	CHECK(take(&scene) == 1);
	CHECK(gather(&scene.batch[0], got) == 3500);
	CHECK(memcmp(got, bytes, 3500) == 0);
	done(&scene);
	scene_close(&scene);
}

static void test_longest(void)
{
	struct port_option options[] = {{"port", "p"}, {"slots", "64"}};
	static uint8_t bytes[FRAME_LEN_MAX], got[FRAME_LEN_MAX];
	static struct scene scene;
	struct frame frame = plain(bytes, FRAME_LEN_MAX);

	for (unsigned i = 0; i < FRAME_LEN_MAX; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 256);
	if (!scene_open(&scene, -1, options, 2))
		return;
	for (unsigned n = 0; n < 5; n++) {
		write_rx(&scene, &frame, 1);
		write_rx(&scene, &frame, 1); /* 33 slots each: does not fit */
		CHECK(take(&scene) == 1);
		CHECK(gather(&scene.batch[0], got) == FRAME_LEN_MAX);
		CHECK(memcmp(got, bytes, FRAME_LEN_MAX) == 0);
		done(&scene);
	}
	CHECK(scene.writer[MONITOR_ID].rx_drops[DROP_MONITOR_FULL] == 5);
	CHECK(scene.writer[MONITOR_ID].rx_bytes == 5 * FRAME_LEN_MAX);
	scene_close(&scene);
}

/* --- sleeping ----------------------------------------------------------------------------------
 */

static bool rings(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) == 1;
}

static void test_doorbell(void)
{
	struct port_option options[] = {{"port", "p"}};
	static struct scene scene;
	int fd;

	if (!scene_open(&scene, -1, options, 1))
		return;
	write_numbers(&scene, 1, 1);
	fd = port_monitor_ops.rx_fd(&scene.port.rxq[0]);
	CHECK(rings(fd)); /* something is there already */
	expect_numbers(&scene, 1, 1);
	done(&scene);
	CHECK(!rings(fd));
	write_numbers(&scene, 2, 1);
	CHECK(!rings(fd)); /* nobody waits */
	expect_numbers(&scene, 2, 1);
	done(&scene);
	CHECK(take(&scene) == 0);
	port_monitor_ops.rx_fd(&scene.port.rxq[0]);
	CHECK(!rings(fd));
	write_numbers(&scene, 3, 2);
	CHECK(rings(fd));
	expect_numbers(&scene, 3, 2);
	done(&scene);
	scene_close(&scene);
}

/* --- in a switch -------------------------------------------------------------------------------
 */

/* The far end of a memory port sees which copies are of sent frames, on each of their slots. */
static void test_marks(void)
{
	static uint8_t bytes[5000];
	const uint16_t expected[] = {NS_TXMON, NS_TXMON | NS_MOREFRAG, NS_TXMON | NS_MOREFRAG,
				     NS_TXMON};
	const struct netmap_ring *ring;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_bridge(&sw, 1);
	sw_port(&sw, 0, 0);
	sw_port(&sw, 1, 0);
	sw_port_of(&sw, 2, 1, "monitor", "port=p1 direction=both");
	sw_port(&sw, 3, 1);
	sw_publish(&sw);
	sw_put(&sw, 0, bytes, frame_make(bytes, 9, 1, 60));
	sw_put(&sw, 0, bytes, frame_make(bytes, 9, 1, 5000));
	sw.put += 2; /* their copies */
	sw_settle(&sw);
	sw_put(&sw, 1, bytes, frame_make(bytes, 1, 9, 60));
	sw.put++;
	sw_settle(&sw);
	ring = memory_ring(sw.engine->ports[3], 0, true);
	for (unsigned i = 0; i < 4; i++)
		CHECK(ring->slot[i].flags == expected[i]);
	CHECK(ring->slot[4].flags == 0 && ring->head == 5);
	sw_close(&sw);
}

/* Feeds p0, empties p1 and the collector, until told to stop. */
static _Atomic bool feeding;

static void *feed(void *arg)
{
	struct sw *sw = arg;
	uint8_t bytes[3000];
	uint64_t state = 4;

	while (atomic_load(&feeding)) {
		uint32_t len = random_below(&state, 8) ? 60 : 60 + random_below(&state, 2900);

		sw_put(sw, 0, bytes, frame_make(bytes, 9, 1, len));
		sw_empty(sw, 1);
		sw_empty(sw, 2);
	}
	return NULL;
}

/* One of three monitors comes or goes; for the last of them nobody takes the copies. */
static void change(struct sw *sw, bool there[3], uint64_t *state)
{
	static const char *const options[] = {"port=p0 direction=both slots=64",
					      "port=p1 direction=tx",
					      "port=p1 direction=both snaplen=100"};
	uint16_t which = (uint16_t)random_below(state, 3), id = (uint16_t)(3 + which);
	struct error err;

	if (!there[which]) {
		sw_port_of(sw, id, which == 2 ? ENGINE_NO_BRIDGE : 1, "monitor", options[which]);
		sw_publish(sw);
	} else {
		for (unsigned i = 0; i < sw->port_count; i++) {
			if (sw->ports[i].id == id)
				sw->ports[i] = sw->ports[--sw->port_count];
		}
		sw_publish(sw);
		CHECK(engine_port_remove(sw->engine, id, false, &err) == 0);
	}
	there[which] = !there[which];
}

/* Monitors come and go under traffic: nobody copies for one that is gone, the books balance. */
static void test_come_and_go(void)
{
	bool there[3] = {false};
	struct port_counters total;
	uint64_t state = 8;
	pthread_t feeder;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_bridge(&sw, 1);
	sw_port(&sw, 0, 0);
	sw_port(&sw, 1, 0);
	sw_port(&sw, 2, 1);
	sw_publish(&sw);
	atomic_store(&feeding, true);
	pthread_create(&feeder, NULL, feed, &sw);
	for (unsigned n = 0; n < 300; n++) {
		change(&sw, there, &state);
		if (n % 16 == 0)
			sched_yield();
	}
	atomic_store(&feeding, false);
	pthread_join(feeder, NULL);
	for (uint64_t deadline = now_ms() + SW_DEADLINE_MS; now_ms() < deadline;) {
		engine_quiesce(sw.engine);
		engine_total_counters(sw.engine, &total);
		if (ledger_in_flight(&total) == 0)
			break;
	}
	CHECK(ledger_in_flight(&total) == 0);
	CHECK(total.rx_frames > sw.put);
	sw_close(&sw);
}

int main(void)
{
	test_writers("64");
	test_writers("4096");
	test_left_behind();
	test_nonsense();
	test_snaplen();
	test_chain();
	test_longest();
	test_doorbell();
	test_marks();
	test_come_and_go();
	return check_result();
}
