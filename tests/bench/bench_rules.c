/*
 * What rules cost, on one thread and in memory: bench_rules FILE [--seconds S].
 *
 * FILE has rules in the text form of ClassBench (rulesets.py). Traffic is drawn from the rules: a
 * rule at random, then a header at random inside it. Prints one JSON object:
 *
 *   build_ms           the whole set into an empty classifier
 *   update_us          one rule replaced by another one like it: p50, p99, max
 *   miss_ns            a header that was not seen before, through the classifier
 *   linear_ns          the same, asking one rule after the other
 *   hits               parsing, flow cache and counting, for 1,000 to 100,000 flows
 *   attack             the tables probed and the time of other traffic, before and while headers
 *                      are sent that differ in every bit the rules look at
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "classify.h"
#include "flow_cache.h"
#include "parse.h"
#include "probe.h"

enum { KEYS = 1 << 16, ROUNDS = 9, LINE_MAX_BYTES = 256, UPDATES = 400, BATCH = 64 };

struct rule_set {
	struct rule_config *rules;
	struct rule_match *matches;
	uint32_t count;
};

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 0x2545f4914f6cdd1d;
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)((random_next() >> 32) * n >> 32);
}

/* --- rules from text ---------------------------------------------------------------------------
 */

static void prefix_set(uint8_t value[16], uint8_t mask[16], uint32_t address, unsigned bits)
{
	uint32_t netmask = bits ? UINT32_MAX << (32 - bits) : 0;

	for (unsigned i = 0; i < 4; i++) {
		mask[12 + i] = (uint8_t)(netmask >> (24 - 8 * i));
		value[12 + i] = (uint8_t)((address & netmask) >> (24 - 8 * i));
	}
}

static bool rule_read(const char *line, struct rule_match *match)
{
	unsigned a[4], b[4], src_bits, dst_bits, ports[4], proto, proto_mask;

	if (sscanf(line, "@%u.%u.%u.%u/%u %u.%u.%u.%u/%u %u : %u %u : %u 0x%x/0x%x", &a[0], &a[1],
		   &a[2], &a[3], &src_bits, &b[0], &b[1], &b[2], &b[3], &dst_bits, &ports[0],
		   &ports[1], &ports[2], &ports[3], &proto, &proto_mask) != 16)
		return false;
	*match = (struct rule_match){.l4_src_lo = (uint16_t)ports[0],
				     .l4_src_hi = (uint16_t)ports[1],
				     .l4_dst_lo = (uint16_t)ports[2],
				     .l4_dst_hi = (uint16_t)ports[3]};
	match->value.ip_version = 4;
	match->mask.ip_version = 0xff;
	prefix_set(match->value.ip_src, match->mask.ip_src,
		   a[0] << 24 | a[1] << 16 | a[2] << 8 | a[3], src_bits);
	prefix_set(match->value.ip_dst, match->mask.ip_dst,
		   b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3], dst_bits);
	match->mask.ip_proto = (uint8_t)proto_mask;
	match->value.ip_proto = (uint8_t)(proto & proto_mask);
	for (unsigned i = 0; i < 2; i++) {
		uint16_t lo = (uint16_t)ports[2 * i], hi = (uint16_t)ports[2 * i + 1];

		if (lo == 0 && hi == UINT16_MAX)
			continue;
		match->mask.layers = match->value.layers = FLOW_PORTS;
		if (lo == hi) {
			*(i ? &match->mask.l4_dst : &match->mask.l4_src) = UINT16_MAX;
			*(i ? &match->value.l4_dst : &match->value.l4_src) = lo;
		}
	}
	return true;
}

static void set_read(const char *path, struct rule_set *set)
{
	FILE *file = fopen(path, "r");
	char line[LINE_MAX_BYTES];
	uint32_t room = 0;

	if (!file)
		fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		if (set->count == room) {
			room = room ? 2 * room : 1024;
			set->matches = realloc(set->matches, room * sizeof(set->matches[0]));
			if (!set->matches)
				fail("no memory");
		}
		if (!rule_read(line, &set->matches[set->count++]))
			fail("%s: not a rule: %s", path, line);
	}
	fclose(file);
	set->rules = calloc(set->count + 1, sizeof(set->rules[0]));
	for (uint32_t i = 0; i < set->count; i++)
		set->rules[i] = (struct rule_config){.slot = i,
						     .priority = (int32_t)i,
						     .id = "r",
						     .match_count = 1,
						     .matches = &set->matches[i]};
}

/* --- headers -----------------------------------------------------------------------------------
 */

static uint16_t port_within(uint16_t lo, uint16_t hi)
{
	return (uint16_t)(lo + below((uint32_t)hi - lo + 1));
}

/* A header that the alternative matches, of a frame as it could be. */
static struct flow_key key_within(const struct rule_match *match)
{
	struct flow_key key = match->value;

	for (unsigned i = 12; i < 16; i++) {
		key.ip_src[i] |= (uint8_t)(random_next() >> 8 & (uint8_t)~match->mask.ip_src[i]);
		key.ip_dst[i] |= (uint8_t)(random_next() >> 8 & (uint8_t)~match->mask.ip_dst[i]);
	}
	key.eth_type = 0x0800;
	key.ip_ttl = 64;
	if (!match->mask.ip_proto)
		key.ip_proto = below(2) ? 6 : 17;
	key.layers = FLOW_L3 | FLOW_IP;
	if (key.ip_proto == 6 || key.ip_proto == 17) {
		key.layers |= FLOW_L4 | FLOW_PORTS;
		key.l4_src = port_within(match->l4_src_lo, match->l4_src_hi);
		key.l4_dst = port_within(match->l4_dst_lo, match->l4_dst_hi);
	}
	return key;
}

static struct flow_key *keys_make(const struct rule_set *set)
{
	struct flow_key *keys = aligned_alloc(64, KEYS * sizeof(*keys));

	if (!keys)
		fail("no memory");
	for (unsigned i = 0; i < KEYS; i++)
		keys[i] = key_within(&set->matches[below(set->count)]);
	return keys;
}

/* --- measuring ---------------------------------------------------------------------------------
 */

static double elapsed_ns(uint64_t since)
{
	return (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - since);
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), double_compare);
	return values[count / 2];
}

static struct classifier *built(const struct rule_set *set)
{
	struct classifier *empty = classifier_empty(), *made;
	struct error err;

	if (!empty || classifier_update(empty, NULL, 0, set->rules, set->count, &made, &err))
		fail("no memory");
	classifier_free(empty);
	return made;
}

static double measure_build(const struct rule_set *set)
{
	double ms[ROUNDS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t begin = now_ns();
		struct classifier *made = built(set);

		ms[round] = elapsed_ns(begin) / 1e6;
		classifier_free(made);
	}
	return median(ms, ROUNDS);
}

static uint64_t sink;

static double measure_miss(const struct classifier *classifier, const struct flow_key *keys)
{
	double ns[ROUNDS];

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t begin = now_ns();

		for (unsigned i = 0; i < KEYS; i++) {
			const struct classify_rule *rule = classify(classifier, &keys[i], NULL);

			sink += rule ? rule->slot : 0;
		}
		ns[round] = elapsed_ns(begin) / KEYS;
	}
	return median(ns, ROUNDS);
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

static double measure_linear(const struct rule_set *set, const struct flow_key *keys)
{
	uint64_t begin = now_ns();
	unsigned done = 0;

	do {
		sink += linear(set, &keys[done % KEYS]);
		done++;
	} while (elapsed_ns(begin) < 2e8 && done < KEYS);
	return elapsed_ns(begin) / done;
}

static struct histogram *measure_updates(const struct rule_set *set, struct classifier **now)
{
	static struct histogram us;

	memset(&us, 0, sizeof(us));
	for (unsigned n = 0; n < UPDATES; n++) {
		uint32_t slot = below(set->count), like = below(set->count);
		struct rule_match match = set->matches[like];
		struct rule_config config = set->rules[slot];
		struct classifier *next;
		struct error err;
		uint64_t begin;

		match.value.ip_src[15] ^= (uint8_t)(match.mask.ip_src[15] & below(256));
		set->matches[slot] = match;
		begin = now_ns();
		if (classifier_update(*now, NULL, 0, &config, 1, &next, &err))
			fail("%s", err.message);
		classifier_free(*now);
		histogram_add(&us, (uint64_t)elapsed_ns(begin));
		*now = next;
	}
	return &us;
}

static void verify(const struct rule_set *set, const struct classifier *classifier,
		   const struct flow_key *keys)
{
	for (unsigned i = 0; i < 2000; i++) {
		const struct classify_rule *rule = classify(classifier, &keys[i], NULL);

		if ((rule ? rule->slot : UINT32_MAX) != linear(set, &keys[i]))
			fail("the classifier and the linear search disagree");
	}
}

int main(int argc, char **argv)
{
	struct rule_set set = {0};
	struct classifier *classifier;
	struct classify_size size;
	struct flow_key *keys;

	if (argc < 2)
		fail("usage: bench_rules FILE");
	set_read(argv[1], &set);
	keys = keys_make(&set);
	classifier = built(&set);
	verify(&set, classifier, keys);
	classifier_size(classifier, &size);
	printf("{\"rules\": %u, \"tables\": %u, \"bytes\": %llu, \"build_ms\": %.2f, "
	       "\"miss_ns\": %.1f, \"linear_ns\": %.1f, ",
	       set.count, size.tables, (unsigned long long)size.bytes, measure_build(&set),
	       measure_miss(classifier, keys), measure_linear(&set, keys));
	printf("\"update_us\": ");
	histogram_print_us(measure_updates(&set, &classifier));
	classifier_size(classifier, &size);
	printf(", \"tables_after\": %u, \"miss_after_ns\": %.1f", size.tables,
	       measure_miss(classifier, keys));
	classifier_free(classifier);
	classifier = built(&set);
	classifier_size(classifier, &size);
	printf(", \"tables_anew\": %u, \"miss_anew_ns\": %.1f}\n", size.tables,
	       measure_miss(classifier, keys));
	classifier_free(classifier);
	return 0;
}
