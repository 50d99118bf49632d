/* Rules from ClassBench's text form, and headers drawn from them: bench_ruleset.h. */
#include "bench_ruleset.h"

#include "probe.h"

enum { LINE_BYTES = 256 };

static uint64_t random_state = 88172645463325252u;

uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 0x2545f4914f6cdd1d;
}

uint32_t below(uint32_t n)
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

void set_read(const char *path, struct rule_set *set)
{
	FILE *file = fopen(path, "r");
	char line[LINE_BYTES];
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

struct flow_key key_within(const struct rule_match *match)
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

/* One bit beside it: it comes to other buckets, of every table that looks at the bit. */
struct flow_key key_beside(const struct rule_match *match)
{
	struct flow_key key = key_within(match);
	uint32_t bit = below(32);

	switch (below(3)) {
	case 0:
		key.ip_src[12 + bit / 8] ^= (uint8_t)(1u << bit % 8);
		break;
	case 1:
		key.ip_dst[12 + bit / 8] ^= (uint8_t)(1u << bit % 8);
		break;
	default:
		key.l4_dst ^= (uint16_t)(1u << bit % 16);
		break;
	}
	return key;
}

void frame_write(uint8_t *data, const struct flow_key *key, const uint8_t dst[6],
		 const uint8_t src[6])
{
	memset(data, 0, RULES_FRAME_BYTES);
	memcpy(data, dst, 6);
	memcpy(data + 6, src, 6);
	data[12] = 0x08;
	data[14] = 0x45;
	data[17] = RULES_FRAME_BYTES - 14;
	data[22] = key->ip_ttl;
	data[23] = key->ip_proto;
	memcpy(data + 26, &key->ip_src[12], 4);
	memcpy(data + 30, &key->ip_dst[12], 4);
	data[34] = (uint8_t)(key->l4_src >> 8);
	data[35] = (uint8_t)key->l4_src;
	data[36] = (uint8_t)(key->l4_dst >> 8);
	data[37] = (uint8_t)key->l4_dst;
	data[46] = 0x50; /* TCP's header length; of other protocols: payload */
}
