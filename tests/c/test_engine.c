/*
 * engine: the ledger after random traffic from several threads, snapshots that change under it,
 * workers as threads (names, sleep, counters), the generator, and a restart on the same counters.
 */
#include <dirent.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "switch.h"

enum { SENDERS = 4, FRAMES_EACH = 30000 };

struct traffic {
	struct sw *sw;
	unsigned number;
	uint64_t put;
	uint64_t took;
	_Atomic bool *stop;
};

/* One thread is the far end of one port: puts random frames, takes what comes. */
static void *far_end(void *arg)
{
	struct traffic *traffic = arg;
	static _Thread_local uint8_t bytes[SW_FRAME_MAX], room[SW_FRAME_MAX];
	uint64_t state = 1000 + traffic->number;
	uint16_t port = (uint16_t)traffic->number;

	for (unsigned n = 0; n < FRAMES_EACH; n++) {
		uint8_t dst = (uint8_t)random_below(&state, 24);
		uint8_t src = (uint8_t)(traffic->number + 4 * random_below(&state, 6));
		uint32_t len = random_below(&state, 50) ? 60 + random_below(&state, 200)
							: 1 + random_below(&state, 6000);

		frame_make(bytes, dst, src, len < 14 ? 14 : len);
		if (random_below(&state, 16) == 0)
			bytes[random_below(&state, 14)] = (uint8_t)random_next(&state);
		if (engine_memory_put(traffic->sw->engine, port, 0, bytes, len) == 0)
			traffic->put++;
		else
			sched_yield();
		while (random_below(&state, 3) &&
		       engine_memory_take(traffic->sw->engine, port, 0, room, sizeof(room)) >= 0)
			traffic->took++;
	}
	return NULL;
}

static void open_four(struct sw *sw)
{
	sw_open(sw);
	sw_bridge(sw, 0);
	sw_bridge(sw, 1)->vlan_filtering = true;
	for (uint16_t p = 0; p < SENDERS; p++)
		sw_port(sw, p, 0);
	sw_publish(sw);
}

static void test_ledger(bool swaps)
{
	struct traffic traffic[SENDERS] = {0};
	pthread_t threads[SENDERS];
	struct port_counters total, sum = {0};
	uint64_t took = 0;
	struct sw sw;

	open_four(&sw);
	for (unsigned i = 0; i < SENDERS; i++) {
		traffic[i] = (struct traffic){.sw = &sw, .number = i};
		pthread_create(&threads[i], NULL, far_end, &traffic[i]);
	}
	for (unsigned i = 0; swaps && i < 300; i++) {
		sw.ports[i % SENDERS].bridge = i % 3 == 0 ? 1 : 0;
		sw.ports[(i + 1) % SENDERS].admin_up = i % 5 != 0;
		sw.ports[(i + 2) % SENDERS].vlan_mode = (uint8_t)(i % 4);
		sw.ports[(i + 3) % SENDERS].polling = (uint8_t)(i % 2);
		sw_publish(&sw);
		engine_tick(sw.engine);
	}
	for (unsigned i = 0; i < SENDERS; i++) {
		pthread_join(threads[i], NULL);
		sw.put += traffic[i].put;
		took += traffic[i].took;
	}
	sw_settle(&sw);
	for (uint16_t p = 0; p < SENDERS; p++)
		took += sw_empty(&sw, p);
	engine_total_counters(sw.engine, &total);
	CHECK(total.rx_frames == sw.put && total.tx_frames == took);
	/* each port's own books, and their sum is the total */
	for (uint16_t p = 0; p < SENDERS; p++) {
		struct port_counters c;

		engine_port_counters(sw.engine, p, &c);
		CHECK(c.rx_frames >= sum40(c.rx_drops));
		sum.rx_frames += c.rx_frames;
		sum.tx_frames += c.tx_frames;
		sum.rx_bytes += c.rx_bytes;
		sum.copies += c.copies;
	}
	CHECK(sum.rx_frames == total.rx_frames && sum.tx_frames == total.tx_frames);
	CHECK(sum.rx_bytes == total.rx_bytes && sum.copies == total.copies);
	sw_close(&sw);
}

/* Is there a thread of this name in the process? */
static bool thread_named(const char *name)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	bool found = false;

	while (tasks && (entry = readdir(tasks))) {
		char path[300], comm[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(comm, sizeof(comm), file))
			comm[strcspn(comm, "\n")] = 0;
		found |= strcmp(comm, name) == 0;
		fclose(file);
	}
	if (tasks)
		closedir(tasks);
	return found;
}

static bool eventually_named(const char *name, bool there)
{
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;

	while (thread_named(name) != there && now_ms() < deadline)
		sched_yield();
	return thread_named(name) == there;
}

static void test_workers(void)
{
	struct worker_counters worker = {0};
	struct port_counters cell;
	uint8_t frame[60];
	uint64_t deadline;
	struct error err;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_port_of(&sw, 0, 0, "memory", "queues=3");
	sw_port(&sw, 1, 0);
	sw_publish(&sw);
	CHECK(eventually_named("vs-p0.2", true) && eventually_named("vs-p1.0", true));
	frame_make(frame, 9, 8, sizeof(frame));
	for (uint16_t q = 0; q < 3; q++) {
		CHECK(engine_memory_put(sw.engine, 0, q, frame, sizeof(frame)) == 0);
		sw.put++;
		sw_settle(&sw);
		CHECK(engine_queue_counters(sw.engine, 0, q, &cell, &worker) == 0);
		CHECK(cell.rx_frames == 1 && worker.batches == 1);
	}
	CHECK(engine_queue_counters(sw.engine, 0, 3, &cell, &worker) < 0);
	CHECK(sw_empty(&sw, 1) == 3);
	/* with nothing to do it goes to sleep, and a frame wakes it */
	deadline = now_ms() + SW_DEADLINE_MS;
	do {
		engine_queue_counters(sw.engine, 1, 0, &cell, &worker);
		sched_yield();
	} while (!worker.sleeps && now_ms() < deadline);
	CHECK(worker.sleeps > 0);
	for (unsigned i = 0; i < 200; i++) {
		CHECK(sw_put(&sw, 1, frame, sizeof(frame)));
		sw_settle(&sw);
	}
	sw.port_count = 1;
	sw_publish(&sw);
	CHECK(eventually_named("vs-p1.0", false));
	CHECK(engine_port_remove(sw.engine, 1, true, &err) == 0);
	sw_settle(&sw);
	sw_close(&sw);
	CHECK(eventually_named("vs-p0.0", false));
}

/* Waits until the worker has slept more than `sleeps` times, or looked in vain `empty` times. */
static struct worker_counters await_idle(struct sw *sw, uint16_t port, uint64_t sleeps,
					 uint64_t empty)
{
	struct worker_counters worker = {0};
	struct port_counters cell;
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;

	do {
		CHECK(engine_queue_counters(sw->engine, port, 0, &cell, &worker) == 0);
		sched_yield();
	} while (worker.sleeps <= sleeps && worker.empty < empty && now_ms() < deadline);
	return worker;
}

/* A worker that polls busily never sleeps; told otherwise, it does, and told again it wakes up. */
static void test_polling(void)
{
	static const enum port_polling idle[] = {PORT_POLL_ADAPTIVE, PORT_POLL_BLOCK};
	uint8_t frame[60];
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_port(&sw, 0, 0);
	sw_port(&sw, 1, 0);
	frame_make(frame, 9, 8, sizeof(frame));
	for (unsigned i = 0; i < 2; i++) {
		struct worker_counters before, after;

		sw.ports[0].polling = PORT_POLL_BUSY;
		sw_publish(&sw);
		before = await_idle(&sw, 0, UINT64_MAX, 1);
		after = await_idle(&sw, 0, before.sleeps, before.empty + 100000);
		CHECK(after.sleeps == before.sleeps && after.empty >= before.empty + 100000);
		sw.ports[0].polling = (uint8_t)idle[i];
		sw_publish(&sw);
		CHECK(sw_put(&sw, 0, frame, sizeof(frame)));
		sw_settle(&sw);
		CHECK(await_idle(&sw, 0, after.sleeps, UINT64_MAX).sleeps > after.sleeps);
	}
	sw_close(&sw);
}

static void test_generator(void)
{
	struct port_counters from, to;
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;
	struct port_status status;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_port_of(&sw, 0, 0, "null",
		   "generate_frames_per_s=20000 generate_bytes=100 generate_macs=50");
	sw_port_of(&sw, 1, 0, "null", "");
	sw_publish(&sw);
	do {
		engine_port_counters(sw.engine, 0, &from);
		sched_yield();
	} while (from.rx_frames < 2000 && now_ms() < deadline);
	CHECK(from.rx_frames >= 2000);
	CHECK(engine_fdb_count(sw.engine, 0) == 50);
	CHECK(engine_port_status(sw.engine, 0, &status) == 0 && status.rx_queues == 1);
	sw.ports[0].admin_up = false;
	sw_publish(&sw);
	sw.port_count = 0;
	sw_publish(&sw);
	engine_port_counters(sw.engine, 0, &from);
	engine_port_counters(sw.engine, 1, &to);
	CHECK(from.rx_bytes == 100 * from.rx_frames);
	CHECK(from.rx_frames == to.tx_frames + sum40(from.rx_drops) && to.tx_frames >= 2000);
	CHECK(engine_queue_counters(sw.engine, 1, 0, &from, &(struct worker_counters){0}) < 0);
	sw_close(&sw);
}

/* A second engine on the first one's memory goes on counting and knows the addresses. */
static void test_takeover(void)
{
	struct engine_params params = {.ports_max = SW_PORTS, .workers_max = 8, .conntrack_fd = -1};
	struct engine_config config = {.generation = 1, .bridge_count = 1, .port_count = 2};
	struct port_options none = {.port = "p"};
	struct port_fds fds = {0};
	struct port_counters total;
	struct worker_counters worker;
	struct engine *engine;
	struct error err = {0};
	uint8_t frame[60];
	struct sw model;
	int fdb_fd = memfd_create("fdb", 0);

	/* the configuration of two ports in a bridge */
	sw_open(&model);
	sw_bridge(&model, 0);
	sw_port(&model, 0, 0);
	sw_port(&model, 1, 0);
	config.bridges = model.bridges;
	config.ports = model.ports;
	params.stats_fd = memfd_create("stats", 0);
	CHECK(ftruncate(params.stats_fd, (off_t)engine_stats_bytes(8, SW_PORTS)) == 0);
	CHECK(ftruncate(fdb_fd, (off_t)engine_fdb_bytes(1024)) == 0);
	for (unsigned life = 1; life <= 3; life++) {
		uint64_t deadline = now_ms() + SW_DEADLINE_MS;

		CHECK(engine_create(&params, &engine, &err) == 0);
		if (life > 1)
			CHECK(engine_take_over(engine, &err) == 0);
		CHECK(engine_bridge_add(engine, 0, "br", 1024, fdb_fd, &err) == 0);
		for (uint16_t p = 0; p < 2; p++)
			CHECK(engine_port_add(engine, p, "p", "memory", &none, &fds, &err) == 0);
		CHECK(engine_fdb_count(engine, 0) == life - 1);
		CHECK(engine_publish(engine, &config, &err) == 0);
		CHECK(engine_fdb_count(engine, 0) == life - 1);
		frame_make(frame, 99, (uint8_t)life, sizeof(frame));
		CHECK(engine_memory_put(engine, 0, 0, frame, sizeof(frame)) == 0);
		do {
			engine_quiesce(engine);
			engine_total_counters(engine, &total);
		} while (total.rx_frames < life && now_ms() < deadline);
		engine_quiesce(engine);
		engine_total_counters(engine, &total);
		CHECK(total.rx_frames == life && ledger_in_flight(&total) == 0);
		CHECK(engine_queue_counters(engine, 0, 0, &total, &worker) == 0);
		CHECK(total.rx_frames == life && worker.batches == life);
		engine_destroy(engine);
	}
	close(fdb_fd);
	close(params.stats_fd);
	sw_close(&model);
}

int main(void)
{
	test_workers();
	test_polling();
	test_ledger(false);
	test_ledger(true);
	test_generator();
	test_takeover();
	return check_result();
}
