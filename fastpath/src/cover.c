/* Runs on: control thread. */
#include "cover.h"

#include <string.h>

enum { WORDS = sizeof(struct flow_key) / sizeof(uint64_t) };

/* A match in words, its ports as ranges alone. */
struct plain {
	uint64_t value[WORDS];
	uint64_t mask[WORDS];
	uint16_t src_lo, src_hi, dst_lo, dst_hi;
};

static void port_range(uint16_t value, uint16_t mask, uint16_t *lo, uint16_t *hi)
{
	if (mask != 0xffff)
		return;
	*lo = value > *lo ? value : *lo;
	*hi = value < *hi ? value : *hi;
}

static void make_plain(const struct rule_match *match, struct plain *plain)
{
	struct flow_key value = match->value, mask = match->mask;

	plain->src_lo = match->l4_src_lo;
	plain->src_hi = match->l4_src_hi;
	plain->dst_lo = match->l4_dst_lo;
	plain->dst_hi = match->l4_dst_hi;
	port_range(value.l4_src, mask.l4_src, &plain->src_lo, &plain->src_hi);
	port_range(value.l4_dst, mask.l4_dst, &plain->dst_lo, &plain->dst_hi);
	value.l4_src = value.l4_dst = mask.l4_src = mask.l4_dst = 0;
	memcpy(plain->value, &value, sizeof(plain->value));
	memcpy(plain->mask, &mask, sizeof(plain->mask));
}

bool match_covers(const struct rule_match *outer, const struct rule_match *inner)
{
	struct plain out, in;

	make_plain(outer, &out);
	make_plain(inner, &in);
	for (unsigned w = 0; w < WORDS; w++) {
		if ((out.mask[w] & ~in.mask[w]) || (in.value[w] & out.mask[w]) != out.value[w])
			return false;
	}
	return out.src_lo <= in.src_lo && out.src_hi >= in.src_hi && out.dst_lo <= in.dst_lo &&
	       out.dst_hi >= in.dst_hi;
}

static uint16_t larger(uint16_t a, uint16_t b)
{
	return a > b ? a : b;
}

static uint16_t smaller(uint16_t a, uint16_t b)
{
	return a < b ? a : b;
}

/* The usual case by far, without taking anything apart: a bit that both look at differs. */
static bool apart(const struct rule_match *a, const struct rule_match *b)
{
	const uint8_t *a_value = (const uint8_t *)&a->value, *a_mask = (const uint8_t *)&a->mask;
	const uint8_t *b_value = (const uint8_t *)&b->value, *b_mask = (const uint8_t *)&b->mask;

	for (unsigned w = 0; w < WORDS; w++) {
		uint64_t words[4];

		memcpy(&words[0], a_value + 8 * w, 8);
		memcpy(&words[1], b_value + 8 * w, 8);
		memcpy(&words[2], a_mask + 8 * w, 8);
		memcpy(&words[3], b_mask + 8 * w, 8);
		if ((words[0] ^ words[1]) & words[2] & words[3])
			return true;
	}
	return a->l4_src_lo > b->l4_src_hi || b->l4_src_lo > a->l4_src_hi ||
	       a->l4_dst_lo > b->l4_dst_hi || b->l4_dst_lo > a->l4_dst_hi;
}

bool match_meet(const struct rule_match *a, const struct rule_match *b, struct rule_match *both)
{
	struct plain one, two;

	if (apart(a, b))
		return false;
	make_plain(a, &one);
	make_plain(b, &two);
	for (unsigned w = 0; w < WORDS; w++) {
		one.value[w] |= two.value[w];
		one.mask[w] |= two.mask[w];
	}
	memcpy(&both->value, one.value, sizeof(both->value));
	memcpy(&both->mask, one.mask, sizeof(both->mask));
	both->l4_src_lo = larger(one.src_lo, two.src_lo);
	both->l4_src_hi = smaller(one.src_hi, two.src_hi);
	both->l4_dst_lo = larger(one.dst_lo, two.dst_lo);
	both->l4_dst_hi = smaller(one.dst_hi, two.dst_hi);
	return both->l4_src_lo <= both->l4_src_hi && both->l4_dst_lo <= both->l4_dst_hi;
}

static bool some_covers(const struct classify_rule *outer, const struct rule_match *inner,
			uint32_t *steps)
{
	for (uint32_t i = 0; i < outer->match_count && *steps; i++, --*steps) {
		if (match_covers(&outer->matches[i], inner))
			return true;
	}
	return false;
}

bool rule_covers(const struct classify_rule *outer, const struct classify_rule *inner,
		 uint32_t *steps)
{
	for (uint32_t i = 0; i < inner->match_count; i++) {
		if (!some_covers(outer, &inner->matches[i], steps))
			return false;
	}
	return inner->match_count > 0;
}

static bool same_set(const struct rule_action *a, const struct rule_action *b)
{
	uint8_t fields = a->set_fields;

	return fields == b->set_fields && (!(fields & RULE_SET_VLAN) || a->vid == b->vid) &&
	       (!(fields & RULE_SET_PCP) || a->pcp == b->pcp) &&
	       (!(fields & RULE_SET_DSCP) || a->dscp == b->dscp) &&
	       (!(fields & RULE_SET_ETH_SRC) || !memcmp(a->eth_src, b->eth_src, 6)) &&
	       (!(fields & RULE_SET_ETH_DST) || !memcmp(a->eth_dst, b->eth_dst, 6));
}

bool action_same(const struct rule_action *a, const struct rule_action *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case RULE_REDIRECT:
		return a->port == b->port;
	case RULE_MIRROR:
		return a->port == b->port && a->snaplen == b->snaplen;
	case RULE_POLICE:
		return a->policer == b->policer;
	case RULE_JUMP:
		return a->set == b->set;
	case RULE_SET:
		return same_set(a, b);
	default:
		return true;
	}
}
