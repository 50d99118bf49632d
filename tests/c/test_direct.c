/*
 * What direct mode stands on in the forwarder: the view of an FDB that programs read, and the books
 * of frames that pass by. The view shows what the FDB says and nobody else can write it; the books
 * balance whatever two programs write into their pair, and go on after a kill at any step.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "client_memory.h"
#include "fdb.h"
#include "pair_books.h"

enum {
	PORTS = 8,
	ADDRESSES = 300,
	STEPS = 200000,
	KEPT_AT = 4096, /* in the memory of the counters */
	STEP_BYTES = 128
};

static uint64_t state = 7;

static uint64_t key_of(uint32_t number)
{
	uint8_t mac[6] = {0x02, 0, 0, 0, (uint8_t)(number >> 8), (uint8_t)number};

	return fdb_key(mac, 0);
}

static uint64_t view_key_of(uint32_t number)
{
	uint8_t mac[6] = {0x02, 0, 0, 0, (uint8_t)(number >> 8), (uint8_t)number};

	return fdb_view_key(mac);
}

/* Every address that the view has is where the FDB has it, and at a port that is shown. */
static unsigned view_compare(const struct fdb *fdb, const struct fdb_view *view, uint64_t shown)
{
	unsigned found = 0, there = 0;

	for (uint32_t n = 0; n < ADDRESSES; n++) {
		int at = fdb_view_find(view, view->buckets, view_key_of(n));
		int port = fdb_lookup(fdb, key_of(n));

		if (port >= 0 && shown >> port & 1)
			there++;
		if (at < 0)
			continue;
		CHECK(at == port && shown >> port & 1);
		found++;
	}
	CHECK(found <= there && found + 8 >= there); /* a full bucket loses one now and then */
	return found;
}

static void test_view_follows(void)
{
	struct fdb_params params = {.bytes = fdb_bytes(ADDRESSES), .entries_max = ADDRESSES};
	uint64_t shown[FDB_PORTS_MAX / 64] = {0};
	struct fdb_view *view;
	struct error err = {0};
	struct fdb *fdb;
	unsigned most = 0;
	int fd;

	CHECK(fdb_map(-1, ADDRESSES, &params.memory, &err) == 0);
	CHECK(fdb_open(&params, &fdb, &err) == 0);
	CHECK(fdb_view_open(ADDRESSES, &view, &fd) == 0);
	for (uint32_t i = 0; i < STEPS; i++) {
		uint32_t n = random_below(&state, ADDRESSES);
		uint16_t port = (uint16_t)random_below(&state, PORTS);

		switch (random_below(&state, 200)) {
		case 0:
			fdb_flush(fdb, port, FDB_ANY);
			break;
		case 1:
			fdb_set_static(fdb, key_of(n), port, i);
			break;
		case 2:
			fdb_clear_static(fdb, key_of(n));
			break;
		case 3:
			fdb_age(fdb, i, 1000, 64);
			break;
		case 4:
			shown[0] = random_next(&state) & 0xff;
			fdb_show(fdb, view, shown);
			break;
		default:
			fdb_learn(fdb, key_of(n), port, i);
		}
		if (i % 500 == 499) {
			unsigned found = view_compare(fdb, view, shown[0]);

			most = found > most ? found : most;
		}
	}
	CHECK(most > ADDRESSES / 4);
	fdb_show(fdb, NULL, NULL);
	fdb_learn(fdb, key_of(1), 1, STEPS);
	fdb_close(fdb);
	fdb_unmap(params.memory, ADDRESSES);
	fdb_view_close(view);
	close(fd);
}

/* Only what is in no VLAN: direct mode and VLAN filtering exclude each other. */
static void test_view_shows_no_vlan(void)
{
	struct fdb_params params = {.bytes = fdb_bytes(16), .entries_max = 16};
	uint64_t shown[FDB_PORTS_MAX / 64] = {UINT64_MAX};
	uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
	struct fdb_view *view;
	struct error err = {0};
	struct fdb *fdb;
	int fd;

	CHECK(fdb_map(-1, 16, &params.memory, &err) == 0);
	CHECK(fdb_open(&params, &fdb, &err) == 0);
	CHECK(fdb_view_open(16, &view, &fd) == 0);
	fdb_show(fdb, view, shown);
	fdb_learn(fdb, fdb_key(mac, 5), 3, 1);
	CHECK(fdb_view_find(view, view->buckets, fdb_view_key(mac)) == -1);
	fdb_learn(fdb, fdb_key(mac, 0), 4, 1);
	CHECK(fdb_view_find(view, view->buckets, fdb_view_key(mac)) == 4);
	fdb_close(fdb);
	fdb_unmap(params.memory, 16);
	fdb_view_close(view);
	close(fd);
}

/* What a program may try with the fd it gets. We are root here more often than not. */
static void test_view_is_read_only(void)
{
	struct fdb_view *view;
	char path[64];
	size_t bytes;
	void *map;
	int fd, again;

	CHECK(fdb_view_open(1000, &view, &fd) == 0);
	bytes = fdb_view_bytes(view->buckets);
	map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	CHECK(mprotect(map, bytes, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again >= 0) {
		CHECK(mmap(NULL, bytes, PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
		CHECK(pwrite(again, "x", 1, 0) == -1 && errno == EPERM);
		CHECK(ftruncate(again, 0) == -1 && errno == EPERM);
		CHECK(fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == -1);
		CHECK(fcntl(again, F_ADD_SEALS, F_SEAL_WRITE) == -1);
		close(again);
	}
	CHECK(pwrite(fd, "x", 1, 0) == -1 && errno == EPERM);
	/* ours goes on */
	fdb_view_put(view, view_key_of(1), 3);
	CHECK(fdb_view_find(map, view->buckets, view_key_of(1)) == 3);
	munmap(map, bytes);
	fdb_view_close(view);
	close(fd);
}

/* Frames of a bucket's worth of addresses more than it holds: some are missed, none is wrong. */
static void test_view_bucket_full(void)
{
	struct fdb_view *view;
	unsigned found = 0, put = 0;
	int fd;

	CHECK(fdb_view_open(16, &view, &fd) == 0);
	for (uint32_t n = 0; n < 65536 && put < 3 * FDB_VIEW_WAYS; n++) {
		if (fdb_view_home(view_key_of(n), view->buckets))
			continue;
		fdb_view_put(view, view_key_of(n), (uint16_t)(n % PORTS));
		put++;
	}
	for (uint32_t n = 0; n < 65536; n++) {
		int at = fdb_view_find(view, view->buckets, view_key_of(n));

		CHECK(at == -1 || at == (int)(n % PORTS));
		found += at >= 0;
	}
	CHECK(found == FDB_VIEW_WAYS);
	fdb_view_close(view);
	close(fd);
}

/* --- books -------------------------------------------------------------------------------------
 */

struct setting {
	struct stats *stats;
	struct pair_books *books;
	struct client_map pair;
	int stats_fd, pair_fd;
};

static void books_begin(struct setting *s)
{
	struct error err = {0};

	CHECK(stats_map(s->stats_fd, 2, PORTS, &s->stats, &err) == 0);
	CHECK(pair_books_open(s->stats, &s->books, &err) == 0);
	pair_books_recover(s->books);
	CHECK(stats_recover(s->stats) == 0);
}

static void books_end(struct setting *s)
{
	pair_books_close(s->books);
	stats_unmap(s->stats);
}

static struct setting setting_new(void)
{
	struct setting s = {.stats_fd = memfd_create("stats", MFD_CLOEXEC)};

	CHECK(ftruncate(s.stats_fd, (off_t)stats_bytes(2, PORTS)) == 0);
	s.pair_fd = client_memory_make("pair", 2, 1, LANE_BYTES_MIN, LANE_BYTES_MIN);
	CHECK(s.pair_fd >= 0 && client_map_open(s.pair_fd, &s.pair) == 0);
	books_begin(&s);
	return s;
}

static void setting_free(struct setting *s)
{
	books_end(s);
	client_map_close(&s->pair);
	close(s->pair_fd);
	close(s->stats_fd);
}

static struct port_counters port_sum(const struct setting *s, unsigned port)
{
	struct port_counters sum;

	stats_port_sum(s->stats, port, &sum);
	return sum;
}

static void balanced(const struct setting *s)
{
	struct port_counters sum;
	uint64_t out;

	stats_total(s->stats, &sum);
	out = sum.tx_frames;
	for (unsigned reason = 0; reason < DROP_REASONS; reason++)
		out += sum.tx_drops[reason] + sum.rx_drops[reason];
	CHECK(sum.rx_frames == out);
}

/* Publishes as many frames of `len` bytes, or drops where there is no room. */
static void lane_send(struct lane_producer *p, unsigned frames, uint32_t len)
{
	while (frames--) {
		uint8_t *to = lane_reserve(p, len);

		if (to) {
			memset(to, 7, len);
			lane_add(p, len, 0);
		} else {
			lane_full(p);
		}
	}
	lane_publish(p);
}

static void test_books_follow(void)
{
	struct setting s = setting_new();
	struct lane_producer out, out1, in;
	struct port_counters low, high;
	struct error err = {0};

	CHECK(pair_books_add(s.books, 2, 5, s.pair_fd, &err) == 0);
	CHECK(pair_books_add(s.books, 2, 5, s.pair_fd, &err) == -EEXIST);
	client_outbox_producer(&s.pair, 0, &out);
	client_outbox_producer(&s.pair, 1, &out1);
	client_inbox_producer(&s.pair, 0, &in);
	lane_send(&out, 100, 60);
	lane_send(&out1, 10, 1000);
	lane_send(&in, 200, 1500); /* 256 KiB hold 173 */
	pair_books_fold(s.books);
	pair_books_fold(s.books);
	low = port_sum(&s, 2);
	high = port_sum(&s, 5);
	CHECK(low.rx_frames == 110 && low.rx_bytes == 16000 && high.tx_frames == 110);
	CHECK(high.tx_bytes == 16000 && high.rx_frames == 200 && low.tx_frames == 173);
	CHECK(low.tx_drops[DROP_QUEUE_FULL] == 27 && high.tx_drops[DROP_QUEUE_FULL] == 0);
	balanced(&s);
	/* the next forwarder goes on */
	lane_send(&out, 5, 60);
	books_end(&s);
	books_begin(&s);
	CHECK(pair_books_add(s.books, 2, 5, s.pair_fd, &err) == 0);
	pair_books_retain(s.books);
	pair_books_fold(s.books);
	CHECK(port_sum(&s, 5).tx_frames == 115);
	/* a last look, and the numbers are free for another pair */
	lane_send(&out, 3, 60);
	pair_books_remove(s.books, 2, 5);
	CHECK(port_sum(&s, 5).tx_frames == 118);
	CHECK(pair_books_add(s.books, 2, 5, s.pair_fd, &err) == 0);
	balanced(&s);
	setting_free(&s);
}

/* Any bytes in the header: what is booked on one port is booked on the other. */
static void test_books_of_hostile(void)
{
	struct setting s = setting_new();
	struct error err = {0};

	CHECK(pair_books_add(s.books, 0, 1, s.pair_fd, &err) == 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct lane *lane = i & 1 ? s.pair.memory->outbox : s.pair.memory->inbox;
		uint64_t *fields[] = {&lane->frames, &lane->bytes, &lane->full};
		unsigned shift = random_below(&state, 64);

		*fields[random_below(&state, 3)] = random_next(&state) >> shift;
		pair_books_fold(s.books);
		balanced(&s);
	}
	CHECK(port_sum(&s, 0).rx_frames <= 20000ull << 36);
	setting_free(&s);
}

/* A forwarder that died between any two stores of a step: its successor ends where it would have.
 */
static void test_books_after_kill(void)
{
	struct setting s = setting_new();
	size_t bytes = (size_t)stats_bytes(2, PORTS);
	uint8_t *before = malloc(bytes), *after = malloc(bytes), *cut = malloc(bytes);
	struct lane_producer out;
	struct error err = {0};

	CHECK(pair_books_add(s.books, 3, 4, s.pair_fd, &err) == 0);
	client_outbox_producer(&s.pair, 0, &out);
	lane_send(&out, 40, 60);
	pair_books_fold(s.books);
	CHECK(pread(s.stats_fd, before, bytes, 0) == (ssize_t)bytes);
	lane_send(&out, 2, 60);
	pair_books_fold(s.books);
	CHECK(pread(s.stats_fd, after, bytes, 0) == (ssize_t)bytes);
	books_end(&s);
	for (unsigned kill = 0; kill < 64; kill++) {
		/* the step is written down (its first word says so), and some of it is done */
		memcpy(cut, before, bytes);
		memcpy(cut + KEPT_AT, after + KEPT_AT, STEP_BYTES);
		cut[KEPT_AT] = 1;
		for (size_t at = KEPT_AT + STEP_BYTES; at < bytes; at += 8) {
			if (memcmp(cut + at, after + at, 8) && random_below(&state, 2))
				memcpy(cut + at, after + at, 8);
		}
		CHECK(pwrite(s.stats_fd, cut, bytes, 0) == (ssize_t)bytes);
		books_begin(&s);
		CHECK(pair_books_add(s.books, 3, 4, s.pair_fd, &err) == 0);
		pair_books_fold(s.books);
		CHECK(port_sum(&s, 3).rx_frames == 42 && port_sum(&s, 4).tx_frames == 42);
		balanced(&s);
		CHECK(*(const uint32_t *)stats_kept(s.stats) == 0);
		books_end(&s);
	}
	books_begin(&s);
	free(before);
	free(after);
	free(cut);
	setting_free(&s);
}

int main(void)
{
	test_view_follows();
	test_view_shows_no_vlan();
	test_view_is_read_only();
	test_view_bucket_full();
	test_books_follow();
	test_books_of_hostile();
	test_books_after_kill();
	return check_result();
}
