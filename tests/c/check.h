/* What the C tests share: check() counts failures, main returns check_result(). */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static _Atomic unsigned check_failures;

static inline bool check(bool good, const char *what, const char *file, int line)
{
	if (!good && atomic_fetch_add(&check_failures, 1) < 20)
		fprintf(stderr, "%s:%d: %s\n", file, line, what);
	return good;
}
#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)

static inline int check_result(void)
{
	if (check_failures)
		fprintf(stderr, "%u checks failed\n", check_failures);
	return check_failures ? 1 : 0;
}

/* xorshift64*: the same numbers in every run. */
static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1d;
}

static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)((random_next(state) >> 32) * n >> 32);
}

static inline uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
