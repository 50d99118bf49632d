/* What every C test has: CHECK counts failures and says where, check_result is main's answer. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

static unsigned check_failures;

static inline void check(bool good, const char *what, const char *file, int line)
{
	if (good)
		return;
	if (check_failures++ < 20)
		fprintf(stderr, "%s:%d: %s\n", file, line, what);
}
#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)

static inline int check_result(void)
{
	if (check_failures)
		fprintf(stderr, "%u checks failed\n", check_failures);
	return check_failures ? 1 : 0;
}
