/*
 * stats: sums, departures, and recovery of what a killed forwarder had in flight, at every point
 * where it can die; readers beside a writer.
 */
#include "stats.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { WORKERS = 4, PORTS = 8 };

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static struct stats *map(int fd)
{
	struct stats *stats = NULL;
	struct error err = {0};

	CHECK(stats_map(fd, WORKERS, PORTS, &stats, &err) == 0);
	return stats;
}

static int64_t deficit(const struct stats *stats)
{
	struct port_counters sum;
	int64_t left;

	stats_total(stats, &sum);
	left = (int64_t)(sum.rx_frames + sum.copies + sum.segments + sum.originated);
	left -= (int64_t)(sum.tx_frames + sum.consumed);
	for (unsigned reason = 0; reason < DROP_REASONS; reason++)
		left -= (int64_t)(sum.rx_drops[reason] + sum.tx_drops[reason]);
	return left;
}

/* n frames come in at one port of a worker and leave, in every way there is. */
static void traffic(struct stats *stats, unsigned worker, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct port_counters *in = stats_cell(stats, worker, worker);
		struct port_counters *out =
		    stats_cell(stats, worker, (unsigned)(random_u64() >> 32) % PORTS);

		counter_add(&in->rx_frames, 1);
		counter_add(&in->rx_bytes, 60);
		switch (random_u64() >> 32 & 3) {
		case 0:
			counter_add(&in->rx_drops[DROP_ISOLATED], 1);
			break;
		case 1:
			counter_add(&in->copies, 1);
			counter_add(&out->tx_frames, 1);
			counter_add(&out->tx_drops[DROP_QUEUE_FULL], 1);
			break;
		case 2:
			counter_add(&out->segments, 2);
			counter_add(&out->tx_frames, 3);
			break;
		default:
			counter_add(&in->consumed, 1);
			counter_add(&out->originated, 1);
			counter_add(&out->tx_frames, 1);
		}
	}
}

static void test_names(void)
{
	for (unsigned reason = 0; reason < DROP_REASONS; reason++) {
		const char *name = drop_reason_name(reason);

		CHECK(name && name[0] &&
		      strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") == strlen(name));
		for (unsigned other = 0; other < reason; other++)
			CHECK(strcmp(name, drop_reason_name(other)));
	}
	CHECK(!drop_reason_name(DROP_REASONS));
	CHECK(!strcmp(drop_reason_name(DROP_RESTART), "restart"));
	CHECK(!strcmp(drop_reason_name(DROP_NO_BUFFER), "no_buffer"));
}

static void test_map(void)
{
	int fd = memfd_create("stats", MFD_CLOEXEC);
	struct stats *stats = NULL, *again;
	struct port_counters sum;
	struct error err = {0};

	CHECK(stats_map(fd, WORKERS, PORTS, &stats, &err) == -EINVAL && err.message[0]);
	CHECK(ftruncate(fd, (off_t)stats_bytes(WORKERS, PORTS)) == 0);
	stats = map(fd);
	CHECK(!stats_cell(stats, WORKERS, 0) && !stats_cell(stats, 0, PORTS));
	CHECK(!stats_worker(stats, WORKERS));
	for (unsigned worker = 0; worker < WORKERS; worker++)
		for (unsigned port = 0; port < PORTS; port++)
			counter_add(&stats_cell(stats, worker, port)->rx_bytes,
				    1ull << (8 * worker) << port);
	stats_worker(stats, 3)->sleeps = 9;
	stats_unmap(stats);

	again = map(fd);
	for (unsigned port = 0; port < PORTS; port++) {
		stats_port_sum(again, port, &sum);
		CHECK(sum.rx_bytes == 0x01010101ull << port);
	}
	CHECK(stats_worker(again, 3)->sleeps == 9);
	stats_port_sum(again, PORTS, &sum);
	CHECK(sum.rx_bytes == 0);
	stats_unmap(again);

	CHECK(stats_map(fd, WORKERS, PORTS - 1, &stats, &err) == -EPROTO);
	CHECK(stats_map(fd, WORKERS - 1, PORTS, &stats, &err) == -EPROTO);
	CHECK(stats_map(fd, 0, PORTS, &stats, &err) == -EINVAL);
	CHECK(pwrite(fd, "garbage", 7, 0) == 7);
	CHECK(stats_map(fd, WORKERS, PORTS, &stats, &err) == -EPROTO);
	close(fd);
}

/* Memory sized for the limits costs only what is used. */
static void test_sparse(void)
{
	int fd = memfd_create("stats", MFD_CLOEXEC);
	struct stats *stats = NULL;
	struct port_counters sum;
	struct error err = {0};

	CHECK(ftruncate(fd, (off_t)stats_bytes(320, 256)) == 0);
	CHECK(stats_map(fd, 320, 256, &stats, &err) == 0);
	for (unsigned n = 0; n < 4; n++)
		counter_add(&stats_cell(stats, n, n)->rx_frames, 1);
	stats_total(stats, &sum);
	CHECK(sum.rx_frames == 4);
	stats_unmap(stats);
	CHECK(lseek(fd, 1 << 20, SEEK_DATA) < 0 && errno == ENXIO);
	close(fd);
}

static void test_retire(void)
{
	struct stats *stats = map(-1);
	struct port_counters before, after, port;

	for (unsigned worker = 0; worker < WORKERS; worker++)
		traffic(stats, worker, 1000);
	CHECK(deficit(stats) == 0);
	stats_total(stats, &before);
	for (unsigned p = 0; p < PORTS; p += 2) {
		stats_port_retire(stats, p);
		stats_port_sum(stats, p, &port);
		for (unsigned n = 0; n < sizeof(port) / 8; n++)
			CHECK(((uint64_t *)&port)[n] == 0);
		stats_total(stats, &after);
		CHECK(!memcmp(&before, &after, sizeof(before)));
	}
	/* Each row balances by itself: there is nothing to recover. */
	CHECK(stats_recover(stats) == 0);
	traffic(stats, 1, 100);
	stats_port_retire(stats, 2);
	CHECK(stats_recover(stats) == 0 && deficit(stats) == 0);
	stats_unmap(stats);
}

static void test_recover(void)
{
	struct stats *stats = map(-1);
	struct port_counters port;

	for (unsigned worker = 0; worker < WORKERS; worker++)
		traffic(stats, worker, 100);
	counter_add(&stats_cell(stats, 1, 1)->rx_frames, 17); /* taken, then killed */
	counter_add(&stats_cell(stats, 2, 2)->rx_frames, 1);
	counter_add(&stats_cell(stats, 2, 2)->copies, 4);
	CHECK(deficit(stats) == 22);
	CHECK(stats_recover(stats) == 22);
	CHECK(deficit(stats) == 0);
	stats_port_sum(stats, 1, &port);
	CHECK(port.rx_drops[DROP_RESTART] == 17);
	stats_port_sum(stats, 2, &port);
	CHECK(port.rx_drops[DROP_RESTART] == 5);
	CHECK(stats_recover(stats) == 0);
	stats_unmap(stats);
}

/*
 * A process dies anywhere in a retirement: whatever prefix of its stores reached the memory, the
 * total is the same after recovery. The prefixes are found by watching the bytes: a retirement is
 * run on one copy, and its differences are applied to another up to the n-th changed word, in the
 * order in which the function writes (shadow, journal, departed, cell, journal).
 */
static void test_retire_death(void)
{
	uint64_t bytes = stats_bytes(1, 1);
	uint64_t cell = sizeof(struct port_counters) / 8;
	int fd = memfd_create("stats", MFD_CLOEXEC);
	struct stats *stats = NULL;
	struct error err = {0};
	struct port_counters before, after;
	static uint64_t saved[1 << 15];
	uint64_t *words, rows = (4096 + STATS_KEPT_BYTES) / 8;
	uint64_t worker = sizeof(struct worker_counters) / 8;
	/* behind the control thread's row: its journal (a line), two cells and one a port */
	uint64_t row = rows + worker + 8 + 3 * cell + worker;

	CHECK(ftruncate(fd, (off_t)bytes) == 0 && bytes <= sizeof(saved));
	words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(words != MAP_FAILED);
	CHECK(stats_map(fd, 1, 1, &stats, &err) == 0);
	for (unsigned n = 0; n < cell; n++) /* as if an earlier port had left something too */
		words[row + 8 + n] = n;
	for (unsigned n = 0; n < cell; n++)
		((uint64_t *)stats_cell(stats, 0, 0))[n] = 1000 + n;
	memcpy(saved, words, bytes);
	stats_total(stats, &before);

	for (uint64_t step = 0; step <= 3 * cell + 1; step++) {
		uint64_t *departed = words + row + 8, *shadow = departed + cell;
		uint64_t *port = shadow + cell, left = step;

		memcpy(words, saved, bytes);
		for (uint64_t n = 0; n < cell && left; n++, left--)
			shadow[n] = departed[n] + port[n];
		if (left) {
			words[row] = 1;
			left--;
		}
		for (uint64_t n = 0; n < cell && left; n++, left--)
			departed[n] = shadow[n];
		for (uint64_t n = 0; n < cell && left; n++, left--)
			port[n] = 0;
		stats_recover(stats);
		stats_total(stats, &after);
		after.rx_drops[DROP_RESTART] = before.rx_drops[DROP_RESTART];
		CHECK(!memcmp(&before, &after, sizeof(before)));
	}
	stats_unmap(stats);
	munmap(words, bytes);
	close(fd);
}

struct watch {
	struct stats *stats;
	_Atomic bool done;
};

static void *writer(void *arg)
{
	struct watch *watch = arg;

	traffic(watch->stats, 0, 200000);
	atomic_store(&watch->done, true);
	return NULL;
}

static void test_watch(void)
{
	struct watch watch = {.stats = map(-1)};
	struct port_counters sum;
	pthread_t thread;
	uint64_t last = 0;
	bool done;

	CHECK(pthread_create(&thread, NULL, writer, &watch) == 0);
	do {
		done = atomic_load(&watch.done);
		stats_total(watch.stats, &sum);
		CHECK(sum.rx_frames >= last && sum.rx_bytes + 60 >= 60 * last);
		last = sum.rx_frames;
	} while (!done);
	pthread_join(thread, NULL);
	CHECK(last == 200000 && deficit(watch.stats) == 0);
	stats_unmap(watch.stats);
}

int main(void)
{
	test_names();
	test_map();
	test_sparse();
	test_retire();
	test_recover();
	test_retire_death();
	test_watch();
	return check_result();
}
