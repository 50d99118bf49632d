/*
 * noise: how quiet the machine is.
 *
 *   noise [MILLISECONDS]        of each of the two measurements; 40, at most 1000
 *
 * First two threads on the first and the last processor hand a cache line to and fro; then a thread
 * on every processor reads the clock again and again, and what lies between two readings that are
 * more than AWAY_NS apart it was not running (other work, interrupts, the machine below).
 *
 * {"core_to_core_ns": one way, median of rounds (0 with one processor), "away_percent": of the time
 * of all processors}
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "probe.h"

enum { ROUNDS = 101, HANDS = 200, AWAY_NS = 5000, CPUS_MAX = 64 };

static _Alignas(128) atomic_uint line;
static atomic_bool over;
static unsigned first_cpu, last_cpu, cpu_count;
static unsigned cpus[CPUS_MAX];

static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fail("processor %u: %s", cpu, strerror(errno));
}

static void cpus_find(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		fail("sched_getaffinity: %s", strerror(errno));
	for (unsigned cpu = 0; cpu < CPU_SETSIZE && cpu_count < CPUS_MAX; cpu++)
		if (CPU_ISSET(cpu, &set))
			cpus[cpu_count++] = cpu;
	first_cpu = cpus[0];
	last_cpu = cpus[cpu_count - 1];
}

/* Answers every odd number with the next one. */
static void *answer(void *unused)
{
	(void)unused;
	pin(last_cpu);
	while (!atomic_load_explicit(&over, memory_order_relaxed)) {
		unsigned seen = atomic_load_explicit(&line, memory_order_acquire);

		if (seen & 1)
			atomic_store_explicit(&line, seen + 1, memory_order_release);
	}
	return NULL;
}

static double one_way_ns(void)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);

	for (unsigned i = 0; i < HANDS; i++) {
		unsigned mine = atomic_load_explicit(&line, memory_order_relaxed) + 1;

		atomic_store_explicit(&line, mine, memory_order_release);
		while (atomic_load_explicit(&line, memory_order_acquire) == mine)
			;
	}
	return (double)(clock_ns(CLOCK_MONOTONIC) - start) / (2.0 * HANDS);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double core_to_core_ns(uint64_t for_ns)
{
	double ns[ROUNDS];
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + for_ns;
	unsigned rounds = 0;
	pthread_t thread;

	if (cpu_count < 2)
		return 0;
	pin(first_cpu);
	if (pthread_create(&thread, NULL, answer, NULL))
		fail("no thread");
	one_way_ns(); /* until the other one runs */
	do {
		ns[rounds++] = one_way_ns();
	} while (rounds < ROUNDS && clock_ns(CLOCK_MONOTONIC) < end);
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	qsort(ns, rounds, sizeof(ns[0]), compare);
	return ns[rounds / 2];
}

struct watch {
	unsigned cpu;
	uint64_t for_ns, away_ns, ns;
};

static void *away_watch(void *context)
{
	struct watch *watch = context;
	uint64_t start, now, last;

	pin(watch->cpu);
	start = last = clock_ns(CLOCK_MONOTONIC);
	do {
		now = clock_ns(CLOCK_MONOTONIC);
		if (now - last > AWAY_NS)
			watch->away_ns += now - last;
		last = now;
	} while (now - start < watch->for_ns);
	watch->ns = now - start;
	return NULL;
}

static double away_percent(uint64_t for_ns)
{
	struct watch watches[CPUS_MAX];
	pthread_t threads[CPUS_MAX];
	uint64_t away = 0, all = 0;

	for (unsigned i = 0; i < cpu_count; i++) {
		watches[i] = (struct watch){.cpu = cpus[i], .for_ns = for_ns};
		if (pthread_create(&threads[i], NULL, away_watch, &watches[i]))
			fail("no thread");
	}
	for (unsigned i = 0; i < cpu_count; i++) {
		pthread_join(threads[i], NULL);
		away += watches[i].away_ns;
		all += watches[i].ns;
	}
	return 100.0 * (double)away / (double)all;
}

int main(int argc, char **argv)
{
	uint64_t for_ns = 1000000u * (argc > 1 ? number("milliseconds", argv[1], 1000) : 40);
	double core, away;

	cpus_find();
	core = core_to_core_ns(for_ns);
	away = away_percent(for_ns);
	printf("{\"core_to_core_ns\": %.1f, \"away_percent\": %.2f}\n", core, away);
	return 0;
}
