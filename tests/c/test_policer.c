/*
 * Policers: the rate that gets through over time, the burst, frames and bytes, many threads on one,
 * and numbers at their ends. Time is the test's own.
 */
#include <pthread.h>

#include "check.h"
#include "policer.h"

enum { SECOND = 1000000000, THREADS = 4, TRIES = 200000 };

static struct policer policer;

static void make(bool frames, uint64_t rate, uint64_t burst)
{
	struct policer_config config = {.frames = frames, .rate = rate, .burst = burst};

	policer_init(&policer, &config);
}

/* Offers a frame every gap_ns for a while; returns how many passed. */
static uint64_t offer(uint64_t from_ns, uint64_t gap_ns, unsigned count, uint32_t bytes,
		      uint32_t frames)
{
	uint64_t passed = 0;

	for (unsigned i = 0; i < count; i++) {
		uint64_t now = from_ns + i * gap_ns;
		bool would = policer_peek(&policer, now, bytes, frames, 1);
		bool does = policer_take(&policer, now, bytes, frames);

		CHECK(would == does);
		passed += does;
	}
	return passed;
}

static void bursts(void)
{
	make(true, 100, 10);
	CHECK(offer(SECOND, 0, 1000, 64, 1) == 10);
	/* a hundredth of a second each */
	CHECK(offer(SECOND + SECOND / 100, 0, 1000, 64, 1) == 1);
	CHECK(offer(2ull * SECOND, 0, 1000, 64, 1) == 10);
	CHECK(atomic_load(&policer.passed) == 21 && atomic_load(&policer.dropped) == 2979);
	/* a frame of GSO is its segments */
	make(true, 100, 40);
	CHECK(offer(SECOND, 0, 10, 60000, 20) == 2);
}

static void rates(void)
{
	/* twice the rate offered for ten seconds: half of it passes, and the burst */
	make(true, 1000, 50);
	CHECK(offer(SECOND, SECOND / 2000, 20000, 64, 1) - 10000 <= 50);
	make(false, 8000000, 3000); /* a megabyte/s, 1,000 bytes each */
	CHECK(offer(SECOND, SECOND / 2000, 20000, 1000, 1) - 10000 <= 3);
	/* half of the rate: all of it */
	make(false, 8000000, 3000);
	CHECK(offer(SECOND, SECOND / 500, 5000, 1000, 1) == 5000);
}

/* Asked for several at once: as many as take would give. */
static void peeks(void)
{
	make(true, 100, 10);
	CHECK(policer_peek(&policer, SECOND, 64, 1, 10) &&
	      !policer_peek(&policer, SECOND, 64, 1, 11));
	CHECK(offer(SECOND, 0, 4, 64, 1) == 4);
	CHECK(policer_peek(&policer, SECOND, 64, 1, 6) &&
	      !policer_peek(&policer, SECOND, 64, 1, 7));
}

/* What is larger than the burst passes an empty bucket, and is paid for. */
static void larger_than_the_burst(void)
{
	make(false, 8000000, 1500);
	CHECK(offer(SECOND, SECOND / 1000, 1000, 50000, 1) == 20);
}

static void ends(void)
{
	uint64_t many;

	make(false, UINT64_MAX, UINT64_MAX);
	CHECK(offer(SECOND, 0, 1000, 65554, 1366) == 1000);
	make(false, 1, 1);
	CHECK(offer(SECOND, 0, 1000, 65554, 1366) == 1);
	make(true, 1, UINT64_MAX);
	many = offer(1ull << 57, 0, 1000, 65554, 1366);
	CHECK(many == 1000);
	/* 400 Gbit/s of the smallest frames: within 0.3 % */
	make(false, 400000000000, 6400);
	many = offer(SECOND, 1, 1000000, 64, 1);
	CHECK(many > 779000 && many < 783000);
}

static void *take(void *passed)
{
	for (unsigned i = 0; i < TRIES; i++)
		*(uint64_t *)passed += policer_take(&policer, SECOND + i * 1000ull, 64, 1);
	return NULL;
}

/* All threads together get what one would. */
static void shared(void)
{
	uint64_t passed[THREADS] = {0}, sum = 0;
	pthread_t threads[THREADS];

	make(true, 100000, 10); /* 0.2 s: 20,000, and the burst */
	for (unsigned t = 0; t < THREADS; t++)
		pthread_create(&threads[t], NULL, take, &passed[t]);
	for (unsigned t = 0; t < THREADS; t++) {
		pthread_join(threads[t], NULL);
		sum += passed[t];
	}
	CHECK(sum == atomic_load(&policer.passed));
	CHECK(sum + atomic_load(&policer.dropped) == (uint64_t)THREADS * TRIES);
	CHECK(sum >= 19990 && sum <= 20010);
}

int main(void)
{
	bursts();
	rates();
	peeks();
	larger_than_the_burst();
	ends();
	shared();
	return check_result();
}
