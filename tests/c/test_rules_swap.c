/*
 * Rules are changed under traffic: one of many in a set, whole sets, what is attached, ports, all
 * while frames are matched, logged, mirrored, rejected, edited and redirected. Every frame meets
 * the rules of exactly one generation, at all its stages, and no frame is lost. Much of its worth
 * is in the sanitizer builds.
 */
#include <pthread.h>

#include "rules.h"
#include "rules_test.h"

enum { PORTS = 4, SWAPS = 600, MANY = 300, REMEMBERED = 256, PAIRS = 200 };

static struct ruled ruled;
static _Atomic bool stop;
static _Atomic uint64_t put_frames;
static uint64_t pairs, swaps;

/* A closed loop of frames between the ports, taken out where others put in. */
static void *traffic(void *arg)
{
	uint64_t state = 99 + (uint64_t)(uintptr_t)arg;
	uint8_t bytes[256];
	static const uint8_t protos[] = {6, 17, 17, 17, 1, 47};

	while (!atomic_load(&stop)) {
		uint8_t from = (uint8_t)(2 * (uintptr_t)arg + random_below(&state, 2));
		uint8_t to = (uint8_t)random_below(&state, PORTS);
		uint32_t len = frame_ipv4(
		    bytes, (uint8_t)(to + 1), (uint8_t)(from + 1), protos[random_below(&state, 6)],
		    (uint16_t)random_below(&state, MANY), (uint16_t)random_below(&state, MANY), 64);

		if (random_below(&state, 50) == 0)
			memset(bytes, 0xff, 6);
		if (engine_memory_put(ruled.sw.engine, from, 0, bytes, len) == 0)
			atomic_fetch_add(&put_frames, 1);
		else
			sched_yield();
		for (uint16_t p = (uint16_t)(2 * (uintptr_t)arg); p < 2 * (uintptr_t)arg + 2; p++)
			engine_memory_take(ruled.sw.engine, p, 0, bytes, sizeof(bytes));
	}
	return NULL;
}

/* --- what is swapped ---------------------------------------------------------------------------
 */

static struct rule_match match_dport(uint16_t port)
{
	struct rule_match match = match_proto(17);

	match.value.l4_dst = port;
	match.mask.l4_dst = 0xffff;
	match.l4_dst_lo = match.l4_dst_hi = port;
	return match;
}

static struct rule_action any_action(uint64_t *state)
{
	static const uint8_t types[] = {RULE_ALLOW,  RULE_DROP,	  RULE_REJECT, RULE_REDIRECT,
					RULE_MIRROR, RULE_POLICE, RULE_SET,    RULE_LOG};
	struct rule_action action = {.type = types[random_below(state, sizeof(types))],
				     .log = random_below(state, 4) == 0,
				     .set_fields = (uint8_t)random_below(state, 32),
				     .dscp = (uint8_t)random_below(state, 64),
				     .vid = (uint16_t)random_below(state, 10),
				     .eth_src = {2, 0, 0, 0, 0, 1},
				     .eth_dst = {2, 0, 0, 0, 0, 2},
				     .port = (uint16_t)random_below(state, PORTS + 1),
				     .snaplen = random_below(state, 100)};

	return action;
}

/* Slots 2 * MANY and up say which generation it is, at both stages. */
static void mark(uint16_t set, uint64_t generation)
{
	struct rule_match match = match_all();
	struct rule_config rule = {.slot = 2 * MANY + 2u * set + generation % 2,
				   .priority = -1,
				   .id = "mark",
				   .action = {.type = RULE_LOG},
				   .match_count = 1,
				   .matches = &match};
	uint32_t old = 2 * MANY + 2u * set + (generation + 1) % 2;
	struct error err = {0};

	if (!CHECK(engine_rules_update(ruled.sw.engine, set, &old, generation > 1, &rule, 1,
				       &err) == 0))
		fprintf(stderr, "  %s\n", err.message);
}

static void change_rule(uint64_t *state)
{
	uint16_t set = (uint16_t)random_below(state, 2);
	uint32_t n = random_below(state, MANY);
	struct rule_match match = match_dport((uint16_t)n);
	struct rule_config rule = {.slot = set * MANY + n,
				   .priority = (int32_t)random_below(state, 100),
				   .action = any_action(state),
				   .match_count = 1,
				   .matches = &match};
	struct error err = {0};

	snprintf(rule.id, sizeof(rule.id), "%u", n);
	CHECK(engine_rules_update(ruled.sw.engine, set, NULL, 0, &rule, 1, &err) == 0);
}

static void fill(uint16_t set)
{
	static struct rule_match matches[MANY];
	static struct rule_config rules[MANY];
	struct error err = {0};

	for (uint32_t n = 0; n < MANY; n++) {
		matches[n] = match_dport((uint16_t)n);
		rules[n] = (struct rule_config){.slot = set * MANY + n,
						.priority = 50,
						.action = {.type = RULE_ALLOW},
						.match_count = 1,
						.matches = &matches[n]};
		snprintf(rules[n].id, sizeof(rules[n].id), "%u", n);
	}
	CHECK(engine_rules_update(ruled.sw.engine, set, NULL, 0, rules, MANY, &err) == 0);
}

/* --- what the log says -------------------------------------------------------------------------
 */

/* The stages of a batch follow each other, those of a frame do not. */
static struct rule_log_record seen[PORTS][REMEMBERED];

static void look_at(const struct rule_log_record *record)
{
	struct rule_log_record *before = &seen[record->in_port][record->frame % REMEMBERED];

	if (record->rule < 2 * MANY)
		return;
	CHECK(record->rule % 2 == record->generation % 2);
	if (before->frame == record->frame && before->time_ns) {
		CHECK(before->generation == record->generation);
		pairs++;
	}
	*before = *record;
}

static void look_at_log(void)
{
	static struct rule_log_record records[512];
	uint64_t lost;
	unsigned count;

	while ((count = engine_rule_log(ruled.sw.engine, records, 512, &lost))) {
		for (unsigned i = 0; i < count; i++)
			look_at(&records[i]);
	}
}

static void swap(uint64_t *state)
{
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;

	while (swaps++ < SWAPS || (pairs < PAIRS && now_ms() < deadline)) {
		if (random_below(state, 10) == 0) {
			ruled.sw.ports[3].flood ^= true;
			/* a configuration of ports takes the changed rules along, too */
			mark(0, ruled.sw.generation + 1);
			mark(1, ruled.sw.generation + 1);
			sw_publish(&ruled.sw);
		} else {
			for (unsigned i = 0; i < 3; i++)
				change_rule(state);
			ruled.policers[0].rate = 1000 + random_below(state, 3);
			mark(0, ruled.sw.generation + 1);
			mark(1, ruled.sw.generation + 1);
			ruled_publish(&ruled);
		}
		if (random_below(state, 50) == 0)
			fill((uint16_t)random_below(state, 2));
		look_at_log();
	}
}

int main(void)
{
	struct port_counters total;
	pthread_t threads[2];
	uint64_t state = 7;

	ruled_open(&ruled);
	ruled_bridge(&ruled, PORTS);
	ruled.sw.generation = 0; /* of the rules; that of the ports is seen by nobody yet */
	for (uint16_t set = 0; set < 2; set++) {
		fill(set);
		ruled_set(&ruled, set, false);
		ruled_attach_bridge(&ruled, set, 0, set == 1);
		mark(set, 1);
	}
	ruled.policers[0] =
	    (struct policer_config){.id = 0, .frames = true, .rate = 1000, .burst = 100};
	ruled.config.policer_count = 1;
	ruled_publish(&ruled);
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, traffic, (void *)i);
	swap(&state);
	while (atomic_load(&put_frames) < 1000)
		sched_yield();
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ruled.sw.put = put_frames;
	CHECK(sw_settle(&ruled.sw));
	look_at_log();
	engine_total_counters(ruled.sw.engine, &total);
	CHECK(pairs >= PAIRS);
	fprintf(stderr, "swaps: %llu under %llu frames; both stages of %llu compared\n",
		(unsigned long long)swaps, (unsigned long long)total.rx_frames,
		(unsigned long long)pairs);
	sw_close(&ruled.sw);
	return check_result();
}
