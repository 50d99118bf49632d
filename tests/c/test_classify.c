/* The classifier against the definition: the first rule, in order, of which rule_matches says so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "classify.h"

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

int main(void)
{
	test_refused();
	test_ties();
	churn(40, 3, 60);
	churn(300, 20, 60);
	churn(RULES_MAX, 200, 12);
	return check_result();
}
