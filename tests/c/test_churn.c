/*
 * A thousand random changes of the configuration under traffic from several threads: ports and
 * bridges are added, changed and removed. At the end the books balance, and no descriptor, thread
 * or mapping is left. Most of its worth is in the sanitizer builds.
 */
#include <dirent.h>
#include <pthread.h>

#include "switch.h"

enum { CHANGES = 500, SENDERS = 2, PORTS = 12, BRIDGES = 4 };

static struct sw sw;
static _Atomic bool stop;
static pthread_mutex_t guard[PORTS]; /* the far end of a port may not outlive the port */
static _Atomic bool alive[PORTS];
static _Atomic uint64_t put_frames, took_frames;

static unsigned entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned count = 0;

	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count;
}

/* A joined thread may show for a moment longer. */
static bool eventually(const char *path, unsigned expected)
{
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;

	while (entries(path) != expected && now_ms() < deadline)
		sched_yield();
	return entries(path) == expected;
}

/* Sanitizers keep freed memory back on purpose; there the leak checker is the judge. */
static bool memory_counts(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return false;
#elif defined(__has_feature)
	return !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
	return true;
#endif
}

static unsigned mappings_in_mb(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long pages = 0, resident = 0;

	if (file) {
		if (fscanf(file, "%lu %lu", &pages, &resident) != 2)
			resident = 0;
		fclose(file);
	}
	return (unsigned)(resident / 256);
}

static void *far_end(void *arg)
{
	uint64_t state = 77 + (uint64_t)(uintptr_t)arg;
	uint8_t bytes[SW_FRAME_MAX / 10], room[SW_FRAME_MAX / 10];

	while (!atomic_load(&stop)) {
		uint16_t port = (uint16_t)random_below(&state, PORTS);
		uint32_t len = random_below(&state, 20) ? 64 : 1 + random_below(&state, 5000);

		pthread_mutex_lock(&guard[port]);
		for (unsigned n = 0; alive[port] && n < 20; n++) {
			frame_make(bytes, (uint8_t)random_below(&state, 40),
				   (uint8_t)random_below(&state, 40), len < 14 ? 14 : len);
			if (len > 60 && random_below(&state, 2))
				frame_tag(bytes, len - 4, 0x8100,
					  (uint16_t)random_below(&state, 8));
			if (engine_memory_put(sw.engine, port, 0, bytes, len) == 0)
				put_frames++;
			if (engine_memory_take(sw.engine, port, 0, room, sizeof(room)) >= 0)
				took_frames++;
		}
		pthread_mutex_unlock(&guard[port]);
	}
	return NULL;
}

/* --- changes ------------------------------------------------------------------------------------
 */

static struct port_config *port_at(uint16_t id)
{
	for (unsigned i = 0; i < sw.port_count; i++) {
		if (sw.ports[i].id == id)
			return &sw.ports[i];
	}
	return NULL;
}

static struct bridge_config *bridge_at(uint16_t id)
{
	for (unsigned i = 0; i < sw.bridge_count; i++) {
		if (sw.bridges[i].id == id)
			return &sw.bridges[i];
	}
	return NULL;
}

static uint16_t any_bridge(uint64_t *state)
{
	uint16_t id = (uint16_t)random_below(state, BRIDGES);

	return bridge_at(id) ? id : ENGINE_NO_BRIDGE;
}

static void port_vary(struct port_config *port, uint64_t *state)
{
	port->bridge = any_bridge(state);
	port->admin_up = random_below(state, 8) != 0;
	port->learning = random_below(state, 8) != 0;
	port->flood = random_below(state, 8) != 0;
	port->isolation_group = (uint16_t)(random_below(state, 4) ? 0 : 1);
	port->vlan_mode = (uint8_t)random_below(state, 4);
	port->pvid = (uint16_t)(1 + random_below(state, 6));
	port->tagged[0] = random_next(state) & 0xfe;
	port->offload_policy = (uint8_t)random_below(state, 3);
	port->polling = (uint8_t)random_below(state, 2);
	port->cpu_count = random_below(state, 6) ? 0 : 1;
}

static void port_change(uint16_t id, uint64_t *state)
{
	struct port_config *port = port_at(id);
	struct error err;

	if (!port) {
		port_vary(sw_port_of(&sw, id, ENGINE_NO_BRIDGE, "memory",
				     random_below(state, 2) ? "slots=64" : "queues=2 slots=128"),
			  state);
		sw_publish(&sw);
		atomic_store(&alive[id], true);
	} else if (random_below(state, 3)) {
		port_vary(port, state);
		sw_publish(&sw);
	} else {
		pthread_mutex_lock(&guard[id]);
		alive[id] = false;
		*port = sw.ports[--sw.port_count];
		sw_publish(&sw);
		CHECK(engine_port_remove(sw.engine, id, random_below(state, 2), &err) == 0);
		pthread_mutex_unlock(&guard[id]);
	}
}

static void bridge_change(uint16_t id, uint64_t *state)
{
	struct bridge_config *bridge = bridge_at(id);
	struct error err;

	if (!bridge) {
		bridge = sw_bridge(&sw, id);
	} else if (!random_below(state, 3)) {
		for (unsigned i = 0; i < sw.port_count; i++) {
			if (sw.ports[i].bridge == id)
				sw.ports[i].bridge = ENGINE_NO_BRIDGE;
		}
		*bridge = sw.bridges[--sw.bridge_count];
		sw_publish(&sw);
		CHECK(engine_bridge_remove(sw.engine, id, &err) == 0);
		return;
	}
	bridge->vlan_filtering = random_below(state, 2);
	bridge->learning = random_below(state, 4) != 0;
	bridge->mtu = random_below(state, 4) ? 0 : 1000;
	sw_publish(&sw);
}

static void look(uint64_t *state)
{
	uint16_t bridge = (uint16_t)random_below(state, BRIDGES);
	struct port_status status;
	struct port_counters counters;
	struct fdb_row rows[16];
	uint32_t cursor = 0;

	engine_port_status(sw.engine, (uint16_t)random_below(state, PORTS), &status);
	engine_total_counters(sw.engine, &counters);
	while (engine_fdb_dump(sw.engine, bridge, &cursor, rows, 16) > 0 && cursor)
		;
	if (random_below(state, 8) == 0)
		engine_fdb_flush(sw.engine, bridge, 0xffff, 0xffff);
	engine_tick(sw.engine);
}

static void churn(uint64_t *state)
{
	for (unsigned n = 0; n < CHANGES; n++) {
		if (random_below(state, 5))
			port_change((uint16_t)random_below(state, PORTS), state);
		else
			bridge_change((uint16_t)random_below(state, BRIDGES), state);
		look(state);
	}
}

static void all_away(void)
{
	struct error err;

	sw.port_count = 0;
	sw_publish(&sw);
	sw.bridge_count = 0;
	sw_publish(&sw);
	for (uint16_t p = 0; p < PORTS; p++)
		engine_port_remove(sw.engine, p, false, &err);
	for (uint16_t b = 0; b < BRIDGES; b++)
		engine_bridge_remove(sw.engine, b, &err);
}

static void *nothing(void *arg)
{
	return arg;
}

int main(void)
{
	unsigned fds, threads, megabytes;
	pthread_t senders[SENDERS];
	struct port_counters total;
	uint64_t state = 4242;

	for (unsigned p = 0; p < PORTS; p++)
		pthread_mutex_init(&guard[p], NULL);
	sw_open(&sw);
	/* the thread sanitizer brings a thread of its own with the first one */
	pthread_create(&senders[0], NULL, nothing, NULL);
	pthread_join(senders[0], NULL);
	fds = entries("/proc/self/fd");
	threads = entries("/proc/self/task");
	for (uintptr_t i = 0; i < SENDERS; i++)
		pthread_create(&senders[i], NULL, far_end, (void *)i);
	churn(&state);
	megabytes = mappings_in_mb();
	churn(&state);
	CHECK(!memory_counts() || mappings_in_mb() < megabytes + 64);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(senders[i], NULL);
	all_away();
	engine_total_counters(sw.engine, &total);
	CHECK(ledger_in_flight(&total) == 0);
	CHECK(total.rx_frames > 0 && total.rx_frames <= put_frames &&
	      total.tx_frames >= took_frames);
	CHECK(entries("/proc/self/fd") == fds);
	CHECK(eventually("/proc/self/task", threads));
	fprintf(stderr, "churn: %u changes, %llu frames in, %llu out\n", 2 * CHANGES,
		(unsigned long long)total.rx_frames, (unsigned long long)total.tx_frames);
	sw_close(&sw);
	return check_result();
}
