/* The classifier against the definition: the first rule, in order, of which rule_matches says so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "classify.h"
#include "classify_tables.h"

enum { RULES_MAX = 600, KEYS = 300 };

static uint64_t state = 88172645463325252u;

static uint32_t below(uint32_t n)
{
	return random_below(&state, n);
}

/* A key of few values, so that rules meet it. */
static struct flow_key key_make(void)
{
	struct flow_key key = {.eth_type = 0x0800, .ip_version = 4, .ip_proto = 17};

	key.in_port = (uint16_t)below(3);
	key.ip_proto = below(2) ? 6 : 17;
	key.layers = FLOW_L3 | FLOW_L4 | FLOW_IP | FLOW_PORTS;
	for (unsigned i = 12; i < 16; i++) {
		key.ip_src[i] = (uint8_t)below(4);
		key.ip_dst[i] = (uint8_t)(below(4) << 6);
	}
	key.l4_src = (uint16_t)below(100);
	key.l4_dst = (uint16_t)below(100);
	key.eth_src[5] = (uint8_t)below(4);
	return key;
}

static void prefix_set(uint8_t *mask, unsigned bits)
{
	for (unsigned i = 0; i < bits; i++)
		mask[12 + i / 8] |= (uint8_t)(0x80 >> i % 8);
}

static void ports_set(uint16_t port, uint16_t *value, uint16_t *mask, uint16_t *lo, uint16_t *hi)
{
	*lo = 0;
	*hi = UINT16_MAX;
	switch (below(3)) {
	case 0:
		*value = *lo = *hi = port;
		*mask = UINT16_MAX;
		break;
	case 1:
		*lo = (uint16_t)below(port + 1u);
		*hi = (uint16_t)(port + below(50));
		break;
	}
}

static struct rule_match match_make(void)
{
	struct rule_match match = {.value = key_make()};
	uint8_t *value = (uint8_t *)&match.value, *mask = (uint8_t *)&match.mask;
	uint16_t src = match.value.l4_src, dst = match.value.l4_dst;

	match.value.l4_src = match.value.l4_dst = 0;
	prefix_set(match.mask.ip_src, below(33));
	prefix_set(match.mask.ip_dst, below(33));
	match.mask.ip_version = 0xff;
	if (below(2))
		match.mask.ip_proto = 0xff;
	if (!below(4))
		match.mask.in_port = UINT16_MAX;
	if (!below(4))
		match.mask.eth_src[5] = 0xff;
	ports_set(src, &match.value.l4_src, &match.mask.l4_src, &match.l4_src_lo, &match.l4_src_hi);
	ports_set(dst, &match.value.l4_dst, &match.mask.l4_dst, &match.l4_dst_lo, &match.l4_dst_hi);
	for (unsigned i = 0; i < sizeof(match.value); i++)
		value[i] &= mask[i];
	return match;
}

/* The matches are freed by the caller. */
static struct rule_config rule_make(uint32_t slot)
{
	struct rule_config config = {.slot = slot,
				     .priority = (int32_t)below(50) - 25,
				     .match_count = below(20) ? 1 + below(3) : 0};
	struct rule_match *matches = calloc(config.match_count + 1, sizeof(*matches));

	for (uint32_t i = 0; i < config.match_count; i++)
		matches[i] = match_make();
	config.matches = matches;
	snprintf(config.id, sizeof(config.id), "r%u", (unsigned)below(1u << 20));
	return config;
}

static const struct classify_rule *naive(const struct classifier *classifier,
					 const struct flow_key *key,
					 const struct classify_rule *after)
{
	const struct classify_rule *rule;

	for (uint32_t i = 0; (rule = classifier_at(classifier, i)); i++)
		if ((!after || rule_compare(rule, after) > 0) && rule_matches(rule, key))
			return rule;
	return NULL;
}

static void agree(const struct classifier *classifier)
{
	for (unsigned n = 0; n < KEYS; n++) {
		struct flow_key key = key_make();
		const struct classify_rule *rule = NULL;
		unsigned met = 0;

		do {
			const struct classify_rule *expected = naive(classifier, &key, rule);

			rule = classify(classifier, &key, rule);
			CHECK(rule == expected);
		} while (rule && met++ < 5);
	}
}

/* The portable probe finds what the one made for this machine does. */
static void agree_portably(struct classifier *classifier)
{
	classify_probe *own = classifier->probe;

	classifier->probe = classify_probe_portable;
	agree(classifier);
	classifier->probe = own;
}

/* Keys that agree in what rules look at meet the same rule. */
static void needs_suffice(const struct classifier *classifier)
{
	const uint8_t *needs = (const uint8_t *)classifier_needs(classifier);

	for (unsigned n = 0; n < KEYS; n++) {
		struct flow_key key = key_make();
		uint8_t *bytes = (uint8_t *)&key;
		const struct classify_rule *rule = classify(classifier, &key, NULL);

		for (unsigned i = 0; i < sizeof(key); i++)
			bytes[i] = (uint8_t)((bytes[i] & needs[i]) | (below(256) & ~needs[i]));
		CHECK(classify(classifier, &key, NULL) == rule);
	}
}

static void in_order(const struct classifier *classifier, uint32_t expected)
{
	const struct classify_rule *last = NULL, *rule;
	struct classify_size size;
	uint32_t count = 0, matches = 0;

	for (; (rule = classifier_at(classifier, count)); count++) {
		CHECK(!last || rule_compare(last, rule) < 0);
		matches += rule->match_count;
		last = rule;
	}
	classifier_size(classifier, &size);
	CHECK(count == expected && size.rules == expected && size.matches == matches);
}

static struct classifier *update(const struct classifier *base, const uint32_t *removed,
				 unsigned removed_count, const struct rule_config *added,
				 unsigned added_count)
{
	struct classifier *made = NULL;
	struct error err;

	CHECK(classifier_update(base, removed, removed_count, added, added_count, &made, &err) ==
	      0);
	return made;
}

static void configs_free(struct rule_config *added, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		free((void *)added[i].matches);
}

/* Grows to `rules` rules and shrinks to none, in steps of `step`; the older one stays right. */
static void churn(uint32_t rules, unsigned step, unsigned rounds)
{
	struct classifier *now = classifier_empty();
	bool there[RULES_MAX] = {false};
	uint32_t count = 0;

	for (unsigned round = 0; round < rounds; round++) {
		struct rule_config added[RULES_MAX];
		uint32_t removed[RULES_MAX];
		unsigned in = 0, out = 0;
		bool grow = round < rounds * 2 / 3;
		struct classifier *next;

		for (unsigned i = 0; i < step; i++) {
			uint32_t slot = below(rules);
			bool named = false;

			for (unsigned k = 0; k < in; k++)
				named |= added[k].slot == slot;
			for (unsigned k = 0; k < out; k++)
				named |= removed[k] == slot;
			if (named)
				continue;
			if (grow ? below(4) > 0 : below(4) == 0) {
				added[in++] = rule_make(slot); /* new, or instead of itself */
				count += !there[slot];
				there[slot] = true;
			} else if (there[slot]) {
				removed[out++] = slot;
				there[slot] = false;
				count--;
			}
		}
		next = update(now, removed, out, added, in);
		configs_free(added, in);
		agree(now);
		agree(next);
		agree_portably(next);
		needs_suffice(next);
		in_order(next, count);
		classifier_free(now);
		now = next;
	}
	classifier_free(now);
}

static void test_refused(void)
{
	struct classifier *empty = classifier_empty(), *made = NULL;
	struct error err = {0};
	uint32_t slot = 5;

	CHECK(classifier_update(empty, &slot, 1, NULL, 0, &made, &err) == -EINVAL);
	CHECK(err.code == EINVAL && !made);
	CHECK(!classify(empty, &(struct flow_key){0}, NULL));
	CHECK(!classifier_at(empty, 0));
	classifier_free(empty);
	classifier_free(NULL);
}

/* Equal priorities: the smaller id comes first, whatever came in first. */
static void test_ties(void)
{
	static const struct rule_match any = {.l4_src_hi = UINT16_MAX, .l4_dst_hi = UINT16_MAX};
	struct rule_config rules[] = {
	    {.slot = 0, .id = "b", .match_count = 1, .matches = &any},
	    {.slot = 1, .id = "a", .match_count = 1, .matches = &any},
	    {.slot = 2, .id = "aa", .match_count = 1, .matches = &any},
	    {.slot = 3, .id = "\xc3", .priority = -1, .match_count = 1, .matches = &any},
	};
	static const uint32_t order[] = {3, 1, 2, 0};
	struct classifier *empty = classifier_empty(), *made = update(empty, NULL, 0, rules, 4);
	const struct classify_rule *rule = NULL;

	for (unsigned i = 0; i < 4; i++) {
		rule = classify(made, &(struct flow_key){0}, rule);
		CHECK(rule && rule->slot == order[i]);
	}
	CHECK(!classify(made, &(struct flow_key){0}, rule));
	classifier_free(empty);
	classifier_free(made);
}

static struct rule_config *rules_like(struct rule_match (*make)(void), uint32_t count)
{
	struct rule_config *rules = calloc(count, sizeof(*rules));
	struct rule_match *matches = calloc(count, sizeof(*matches));

	for (uint32_t i = 0; i < count; i++) {
		matches[i] = make();
		rules[i] = (struct rule_config){.slot = i,
						.priority = (int32_t)below(count),
						.match_count = 1,
						.matches = &matches[i]};
		snprintf(rules[i].id, sizeof(rules[i].id), "r%u", i);
	}
	return rules;
}

static void rules_free(struct rule_config *rules)
{
	free((void *)rules[0].matches);
	free(rules);
}

static struct classifier *built(const struct rule_config *rules, uint32_t count)
{
	struct classifier *empty = classifier_empty(), *made = update(empty, NULL, 0, rules, count);

	classifier_free(empty);
	return made;
}

static uint32_t tables_of(const struct classifier *classifier)
{
	struct classify_size size;

	classifier_size(classifier, &size);
	return size.tables;
}

/* Any host to any host, as a set that is easy to hash. */
static struct rule_match match_hosts(void)
{
	struct rule_match match = {.l4_src_hi = UINT16_MAX, .l4_dst_hi = UINT16_MAX};

	prefix_set(match.mask.ip_src, 24 + below(9));
	prefix_set(match.mask.ip_dst, 24 + below(9));
	for (unsigned i = 12; i < 16; i++) {
		match.value.ip_src[i] = (uint8_t)(random_next(&state) & match.mask.ip_src[i]);
		match.value.ip_dst[i] = (uint8_t)(random_next(&state) & match.mask.ip_dst[i]);
	}
	return match;
}

/* The same everywhere but for a range of ports that no mask can tell from another. */
static struct rule_match match_range(void)
{
	return (struct rule_match){.l4_src_hi = UINT16_MAX,
				   .l4_dst_lo = (uint16_t)(1 + below(32767)),
				   .l4_dst_hi = (uint16_t)(32768 + below(32768))};
}

/*
 * Thousands of changes, one at a time, in a set that keeps its size: as many tables as if it were
 * made anew, or not many more.
 */
static void test_changes_leave_it_good(void)
{
	enum { RULES = 2000, CHANGES = 5000 };
	struct rule_config *rules = rules_like(match_hosts, RULES);
	struct classifier *now = built(rules, RULES), *anew;

	for (unsigned n = 0; n < CHANGES; n++) {
		uint32_t slot = below(RULES);
		struct classifier *next;

		*(struct rule_match *)rules[slot].matches = match_hosts();
		next = update(now, NULL, 0, &rules[slot], 1);
		classifier_free(now);
		now = next;
	}
	agree(now);
	in_order(now, RULES);
	anew = built(rules, RULES);
	CHECK(tables_of(now) <= 2 * tables_of(anew) + 8);
	classifier_free(anew);
	classifier_free(now);
	rules_free(rules);
}

/* Rules that no hash can part are still found, in a single bucket, built in bounded time. */
static void test_ranges_alike(void)
{
	enum { RULES = 3000 };
	struct rule_config *rules = rules_like(match_range, RULES);
	struct classifier *made = built(rules, RULES);

	agree(made);
	CHECK(tables_of(made) <= 2);
	classifier_free(made);
	rules_free(rules);
}

/*
 * CVE-2019-25076: headers made to come from every mask's own tuple, which blew up a table of masks
 * that traffic made. Here tables come from rules: no header changes what there is, nor how many
 * tables a lookup may ask.
 */
static void test_attack_on_tuple_spaces(void)
{
	enum { RULES = 1000, HEADERS = 200000 };
	struct rule_config *rules = rules_like(match_hosts, RULES);
	struct classifier *made = built(rules, RULES);
	struct classify_size before, after;
	uint32_t groups = made->group_count;

	classifier_size(made, &before);
	for (unsigned n = 0; n < HEADERS; n++) {
		const struct rule_match *match = rules[below(RULES)].matches;
		struct flow_key key = match->value;
		uint8_t *bytes = (uint8_t *)&key;
		unsigned bit = below(8 * sizeof(key));

		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (n % 100)
			classify(made, &key, NULL);
		else
			CHECK(classify(made, &key, NULL) == naive(made, &key, NULL));
	}
	classifier_size(made, &after);
	CHECK(before.rules == after.rules && before.matches == after.matches &&
	      before.tables == after.tables && before.bytes == after.bytes);
	CHECK(made->group_count == groups && groups * GROUP_TABLES >= before.tables &&
	      (groups - 1) * GROUP_TABLES < before.tables);
	classifier_free(made);
	rules_free(rules);
}

int main(void)
{
	test_refused();
	test_ties();
	test_attack_on_tuple_spaces();
	test_ranges_alike();
	test_changes_leave_it_good();
	churn(40, 3, 60);
	churn(300, 20, 60);
	churn(RULES_MAX, 200, 12);
	return check_result();
}
