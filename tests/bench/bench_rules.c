/*
 * What rules cost, on one worker and in memory: bench_rules FILE [VID], rules in the text form of
 * ClassBench (rulesets.py); with a VID the bridge filters VLANs and all ports are in that one.
 * Traffic is drawn from the rules: a rule at random, then a header at random inside it. Prints one
 * JSON object; times are medians, nanoseconds a frame where not said.
 *
 *   frame_ns     worker_batch between memory ports, without rules
 *   hit_ns       with the rules at the bridge's ingress, frames of 1,000 to 100,000 flows
 *   miss_ns      the same, every frame's flow unknown to the flow cache
 *   lookup_ns    the classifier alone; linear_ns: one rule asked after the other
 *   victim_ns    frames of 1,000 flows, between them ones of an attack on tuple spaces: headers one
 *                bit beside the rules (CVE-2019-25076); attack_ns: one of those
 *   build_ms     the whole set into an empty classifier
 *   update_us    one rule replaced by one like another: p50, p99, p99.9, max
 *   lookup_updated_ns, lookup_anew_ns: after these updates, and after a build of the same rules
 *
 * All kinds of frames take turns. The exit status is 1 when frames are missing, when the classifier
 * and the linear search disagree, or when an attack changed the number of tables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_engine.h"
#include "bench_ruleset.h"
#include "classify.h"
#include "port_memory.h"
#include "probe.h"
#include "ring.h"

enum {
	KEYS = 1 << 17,
	LOOKUPS = 1 << 16,
	FILL = 960,
	ROUND_MS = 40,
	UPDATES = 400,
	VERIFIED = 2000,
	LINEAR_MS = 200,
	ATTACK_EVERY = 16 /* fills of victims to one of the attack */
};

enum kind { PLAIN, HIT_1K, HIT_10K, HIT_100K, MISS, VICTIM, KINDS };
static const uint32_t flows_of[KINDS] = {1000, 1000, 10000, 100000, KEYS, 1000};

struct bench {
	struct bench_engine engine;
	struct rule_set set;
	struct classifier *classifier;
	struct rules_set rules_set;
	struct flow_key *keys;	 /* inside rules */
	struct flow_key *beside; /* of the attack */
	uint64_t sent, took;
	uint64_t attack_ns, attack_frames;
};

/* --- the switch --------------------------------------------------------------------------------
 */

static void mac_of(uint8_t mac[6], unsigned p)
{
	memset(mac, 0, 6);
	mac[0] = 2;
	mac[5] = (uint8_t)(p + 1);
}

/* Ports 0 to 3 in one bridge; whatever is sent to any of them is known. */
static void open_switch(struct bench *bench)
{
	static const uint16_t in_bridge[BENCH_PORTS];
	static const struct port_fds none;
	struct port_option slots = {"slots", "2048"};

	for (unsigned p = 0; p < BENCH_PORTS; p++)
		bench_port(&bench->engine, p, "memory", &slots, 1, &none);
	bench_bridges(&bench->engine, in_bridge, 1024);
	for (unsigned p = 0; p < BENCH_PORTS; p++) {
		uint8_t mac[6];

		mac_of(mac, p);
		fdb_learn(bench->engine.fdbs[0], fdb_key(mac, bench->engine.vid), (uint16_t)p, 1);
	}
}

/* The set at the bridge's ingress. */
static void attach_rules(struct bench *bench)
{
	static const struct rules_set_config set = {0};
	static const struct rules_attach_config attach = {.port = RULE_NONE};
	static uint32_t none[1];
	struct rules_config config = {
	    .sets = &set, .set_count = 1, .attaches = &attach, .attach_count = 1};
	const struct classifier *classifier = bench->classifier;
	struct rules_refs refs = {.jumps = none, .policers = none};
	struct rules_source source = {.generation = 1,
				      .ports_max = BENCH_PORTS,
				      .bridges_max = BENCH_BRIDGES_MAX,
				      .sets_max = 1,
				      .ports = bench->engine.snapshot->tables.ports,
				      .classifiers = &classifier,
				      .refs = &refs};
	struct error err;

	if (rules_tables_build(&config, &source, &bench->engine.snapshot->rules, &err))
		bench_die(&err);
	bench->engine.workers[0]->rules =
	    rules_work_create(BENCH_PORTS, bench->set.count, random_next());
	if (!bench->engine.workers[0]->rules)
		fail("no memory");
}

/* Frames into port 0: of one of the first `flows` headers each. */
static void fill(struct bench *bench, const struct flow_key *keys, uint32_t flows)
{
	struct netmap_ring *ring = memory_ring(&bench->engine.ports[0], 0, false);
	uint32_t at = ring->tail;
	uint8_t dst[6], src[6];

	mac_of(src, 0);
	for (unsigned i = 0; i < FILL; i++) {
		struct netmap_slot *slot = &ring->slot[at];

		mac_of(dst, 1 + i % (BENCH_PORTS - 1));
		frame_write(ring_buffer(ring, slot->buf_idx), &keys[below(flows)], dst, src);
		slot->len = RULES_FRAME_BYTES;
		slot->flags = 0;
		at = ring_next(ring, at);
	}
	ring->tail = at;
	bench->sent += FILL;
}

static void empty(struct bench *bench)
{
	for (unsigned p = 0; p < BENCH_PORTS; p++) {
		struct netmap_ring *ring = memory_ring(&bench->engine.ports[p], 0, true);
		uint32_t last = (ring->head ? ring->head : ring->num_slots) - 1;

		bench->took +=
		    ring->num_slots - 1 - ring_space(ring->head, ring->tail, ring->num_slots);
		ring->tail = last;
	}
}

/* --- turns -------------------------------------------------------------------------------------
 */

/* What one fill takes the worker. */
static uint64_t serve(struct bench *bench, const struct flow_key *keys, uint32_t flows)
{
	uint64_t begin;

	fill(bench, keys, flows);
	begin = bench_now_ns();
	while (worker_batch(bench->engine.workers[0], bench->engine.snapshot))
		;
	begin = bench_now_ns() - begin;
	empty(bench);
	return begin;
}

static double turn(struct bench *bench, enum kind kind)
{
	struct rules_tables *rules = &bench->engine.snapshot->rules;
	uint64_t start = bench_now_ns(), spent = 0, fills = 0;

	rules->any = kind != PLAIN;
	while (bench_now_ns() - start < ROUND_MS * 1000000ull) {
		if (kind == MISS)
			rules->generation++; /* nothing that is cached holds any more */
		spent += serve(bench, bench->keys, flows_of[kind]);
		if (kind == VICTIM && fills % ATTACK_EVERY == 0) {
			bench->attack_ns += serve(bench, bench->beside, KEYS);
			bench->attack_frames += FILL;
		}
		fills++;
	}
	return (double)spent / ((double)fills * FILL);
}

/* The flow cache gets to know the flows of the following turn. */
static void warm(struct bench *bench, enum kind kind)
{
	uint32_t flows = flows_of[kind];

	bench->engine.snapshot->rules.any = true;
	for (uint32_t i = 0; i < 4 * flows; i += FILL)
		serve(bench, bench->keys, flows);
}

static void turns(struct bench *bench, double ns[KINDS][BENCH_ROUNDS])
{
	for (unsigned round = 0; round < BENCH_ROUNDS; round++)
		for (unsigned kind = 0; kind < KINDS; kind++) {
			if (kind == HIT_1K || kind == HIT_10K || kind == HIT_100K || kind == VICTIM)
				warm(bench, kind);
			ns[kind][round] = turn(bench, kind);
		}
}

/* --- the classifier alone ----------------------------------------------------------------------
 */

static struct classifier *built(const struct rule_set *set)
{
	struct classifier *none = classifier_empty(), *made;
	struct error err;

	if (!none || classifier_update(none, NULL, 0, set->rules, set->count, &made, &err))
		fail("no memory");
	classifier_free(none);
	return made;
}

static double build_ms(const struct rule_set *set)
{
	double ms[BENCH_ROUNDS];

	for (unsigned round = 0; round < BENCH_ROUNDS; round++) {
		uint64_t begin = bench_now_ns();
		struct classifier *made = built(set);

		ms[round] = (double)(bench_now_ns() - begin) / 1e6;
		classifier_free(made);
	}
	return bench_median(ms, BENCH_ROUNDS);
}

static volatile uint64_t sink; /* so that nothing that is measured is left out */

static double lookup_ns(const struct classifier *classifier, const struct flow_key *keys)
{
	double ns[BENCH_ROUNDS];

	for (unsigned round = 0; round < BENCH_ROUNDS; round++) {
		uint64_t begin = bench_now_ns(), sum = 0;

		for (unsigned i = 0; i < LOOKUPS; i++) {
			const struct classify_rule *rule = classify(classifier, &keys[i], NULL);

			sum += rule ? rule->slot : 0;
		}
		sink += sum;
		ns[round] = (double)(bench_now_ns() - begin) / LOOKUPS;
	}
	return bench_median(ns, BENCH_ROUNDS);
}

static uint32_t linear(const struct rule_set *set, const struct flow_key *key)
{
	for (uint32_t i = 0; i < set->count; i++) {
		struct classify_rule rule = {.match_count = 1, .matches = &set->matches[i]};

		if (rule_matches(&rule, key))
			return i;
	}
	return UINT32_MAX;
}

static double linear_ns(const struct rule_set *set, const struct flow_key *keys)
{
	uint64_t begin = bench_now_ns(), sum = 0;
	unsigned done = 0;

	do
		sum += linear(set, &keys[done++]);
	while (bench_now_ns() - begin < LINEAR_MS * 1000000ull && done < KEYS);
	sink += sum;
	return (double)(bench_now_ns() - begin) / done;
}

static void verify(const struct rule_set *set, const struct classifier *classifier,
		   const struct flow_key *keys)
{
	for (unsigned i = 0; i < VERIFIED; i++) {
		const struct classify_rule *rule = classify(classifier, &keys[i], NULL);

		if ((rule ? rule->slot : UINT32_MAX) != linear(set, &keys[i]))
			fail("the classifier and the linear search disagree");
	}
}

/* Rules become like others of the set; nanoseconds of each into *took. */
static struct classifier *updated(struct rule_set *set, struct histogram *took)
{
	struct classifier *now = built(set), *next;

	for (unsigned n = 0; n < UPDATES; n++) {
		uint32_t slot = below(set->count);
		struct rule_match *match = &set->matches[slot];
		struct error err;
		uint64_t begin;

		*match = set->matches[below(set->count)];
		match->value.ip_src[15] ^= (uint8_t)(match->mask.ip_src[15] & below(256));
		begin = bench_now_ns();
		if (classifier_update(now, NULL, 0, &set->rules[slot], 1, &next, &err))
			bench_die(&err);
		classifier_free(now);
		histogram_add(took, bench_now_ns() - begin);
		now = next;
	}
	return now;
}

/* --- the report --------------------------------------------------------------------------------
 */

static void print_size(const struct rule_set *set, const struct classifier *classifier)
{
	struct classify_size size;

	classifier_size(classifier, &size);
	printf("{\"rules\": %u, \"tables\": %u, \"bytes\": %llu, \"build_ms\": %.3f", set->count,
	       size.tables, (unsigned long long)size.bytes, build_ms(set));
}

static void print_turns(struct bench *bench)
{
	static double ns[KINDS][BENCH_ROUNDS];
	double median[KINDS];

	turns(bench, ns);
	for (unsigned kind = 0; kind < KINDS; kind++)
		median[kind] = bench_median(ns[kind], BENCH_ROUNDS);
	printf(", \"frame_ns\": %.2f, \"hit_ns\": {\"1000\": %.2f, \"10000\": %.2f, \"100000\": "
	       "%.2f}, \"miss_ns\": %.2f, \"victim_ns\": %.2f, \"attack_ns\": %.2f",
	       median[PLAIN], median[HIT_1K], median[HIT_10K], median[HIT_100K], median[MISS],
	       median[VICTIM], (double)bench->attack_ns / (double)bench->attack_frames);
}

/* The rules are others afterwards. */
static void print_updates(struct bench *bench)
{
	static struct histogram took;
	struct classifier *classifier = updated(&bench->set, &took), *anew = built(&bench->set);

	verify(&bench->set, classifier, bench->keys);
	printf(", \"update_us\": ");
	histogram_print_us(&took);
	printf(", \"lookup_updated_ns\": %.2f, \"lookup_anew_ns\": %.2f}\n",
	       lookup_ns(classifier, bench->keys), lookup_ns(anew, bench->keys));
	classifier_free(classifier);
	classifier_free(anew);
}

static struct flow_key *keys_make(const struct rule_set *set,
				  struct flow_key (*make)(const struct rule_match *))
{
	struct flow_key *keys = aligned_alloc(64, KEYS * sizeof(*keys));

	if (!keys)
		fail("no memory");
	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = make(&set->matches[below(set->count)]);
	return keys;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	struct port_counters total;

	if (argc != 2 && argc != 3)
		fail("usage: bench_rules FILE [VID]");
	if (argc == 3)
		bench.engine.vid = (uint16_t)number("VID", argv[2], VLAN_VID_MAX);
	set_read(argv[1], &bench.set);
	bench.keys = keys_make(&bench.set, key_within);
	bench.beside = keys_make(&bench.set, key_beside);
	bench.classifier = built(&bench.set);
	verify(&bench.set, bench.classifier, bench.keys);
	verify(&bench.set, bench.classifier, bench.beside);
	open_switch(&bench);
	attach_rules(&bench);
	print_size(&bench.set, bench.classifier);
	print_turns(&bench);
	printf(", \"lookup_ns\": %.2f, \"linear_ns\": %.2f",
	       lookup_ns(bench.classifier, bench.keys), linear_ns(&bench.set, bench.keys));
	print_updates(&bench);
	stats_total(bench.engine.stats, &total);
	if (total.rx_frames != bench.sent || total.tx_frames != bench.took ||
	    bench.took != bench.sent)
		fail("frames are missing: %llu sent, %llu taken", (unsigned long long)bench.sent,
		     (unsigned long long)bench.took);
	rules_work_destroy(bench.engine.workers[0]->rules);
	bench_close(&bench.engine);
	classifier_free(bench.classifier);
	return 0;
}
