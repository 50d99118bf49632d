/* Runs on: see rule_counters.h. */
#include "rule_counters.h"

#include <stddef.h>

#include "huge.h"

struct rule_counter *rule_counters_map(uint32_t slots)
{
	return huge_map((size_t)slots * sizeof(struct rule_counter));
}

void rule_counters_unmap(struct rule_counter *row, uint32_t slots)
{
	huge_unmap(row, (size_t)slots * sizeof(*row));
}

static void store(uint64_t *counter, uint64_t value)
{
	atomic_store_explicit((_Atomic uint64_t *)counter, value, memory_order_relaxed);
}

void rule_counter_clear(struct rule_counter *counter)
{
	store(&counter->frames, 0);
	store(&counter->bytes, 0);
	store(&counter->last_s, 0);
}

bool rule_log_admit(struct rule_log *log, uint64_t second)
{
	if (log->second != second) {
		log->second = second;
		log->admitted = 0;
	}
	return log->admitted++ < RULE_LOG_FRAMES_S;
}

void rule_log_lose(struct rule_log *log)
{
	atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed);
}

void rule_log_put(struct rule_log *log, const struct rule_log_record *record)
{
	uint64_t tail = atomic_load_explicit(&log->tail, memory_order_relaxed);

	if (tail - atomic_load_explicit(&log->head, memory_order_acquire) == RULE_LOG_RECORDS) {
		rule_log_lose(log);
		return;
	}
	log->records[tail % RULE_LOG_RECORDS] = *record;
	atomic_store_explicit(&log->tail, tail + 1, memory_order_release);
}

const struct rule_log_record *rule_log_peek(const struct rule_log *log)
{
	uint64_t head = atomic_load_explicit(&log->head, memory_order_relaxed);

	if (head == atomic_load_explicit(&log->tail, memory_order_acquire))
		return NULL;
	return &log->records[head % RULE_LOG_RECORDS];
}

void rule_log_drop(struct rule_log *log)
{
	uint64_t head = atomic_load_explicit(&log->head, memory_order_relaxed);

	atomic_store_explicit(&log->head, head + 1, memory_order_release);
}
