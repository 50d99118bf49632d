/*
 * Runs on: control thread. Masks of tables: those of rules, cut down field by field to a few steps,
 * so that many rules fit few masks.
 */
#include "classify_tables.h"

enum { ADDRESS_STEPS = 7, MAC_STEPS = 3, PORT_STEPS = 3, REST_STEPS = 3 };

static void prefix_fill(uint8_t *bytes, unsigned from, unsigned bits)
{
	for (unsigned i = 0; i < bits; i++)
		bytes[(from + i) / 8] |= (uint8_t)(0x80 >> (from + i) % 8);
}

static bool bytes_within(const uint8_t *inner, const uint8_t *outer, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		if (inner[i] & ~outer[i])
			return false;
	return true;
}

/* The longest step of an address, a MAC, a port that lies within the mask. */
static unsigned address_mask(const uint8_t mask[16], unsigned step, uint8_t out[16])
{
	static const uint8_t v4[ADDRESS_STEPS] = {0, 8, 16, 20, 24, 28, 32};
	static const uint8_t v6[ADDRESS_STEPS] = {0, 16, 32, 48, 64, 96, 128};
	unsigned high = 0;

	for (unsigned i = 0; i < 12; i++)
		high |= mask[i];
	for (;; step--) {
		memset(out, 0, 16);
		if (high)
			prefix_fill(out, 0, v6[step]);
		else
			prefix_fill(out, 96, v4[step]);
		if (bytes_within(out, mask, 16))
			return step;
	}
}

static unsigned mac_mask(const uint8_t mask[6], unsigned step, uint8_t out[6])
{
	for (;; step--) {
		memset(out, 0, 6);
		prefix_fill(out, 0, 24 * step);
		if (bytes_within(out, mask, 6))
			return step;
	}
}

static unsigned port_mask(uint16_t mask, unsigned step, uint16_t *out)
{
	static const uint16_t steps[PORT_STEPS] = {0, 0xff00, 0xffff};

	while (steps[step] & ~mask)
		step--;
	*out = steps[step];
	return step;
}

/* Everything but addresses and ports: nothing, where a frame comes from, all. */
static unsigned rest_mask(const struct flow_key *mask, unsigned step, struct flow_key *out)
{
	if (step > 0) {
		out->eth_type = mask->eth_type;
		out->vid = mask->vid;
		out->in_port = mask->in_port;
		out->ip_version = mask->ip_version;
	}
	if (step > 1) {
		out->vlan_pcp = mask->vlan_pcp;
		out->ip_proto = mask->ip_proto;
		out->ip_tos = mask->ip_tos;
		out->ip_ttl = mask->ip_ttl;
		out->layers = mask->layers;
		out->tcp_flags = mask->tcp_flags;
		out->state = mask->state;
	}
	return step;
}

const uint8_t mask_steps_max[MASK_DIMENSIONS] = {
    ADDRESS_STEPS - 1, ADDRESS_STEPS - 1, MAC_STEPS - 1, MAC_STEPS - 1,
    PORT_STEPS - 1,    PORT_STEPS - 1,	  REST_STEPS - 1};

void mask_step(const uint64_t from[FLOW_WORDS], uint8_t steps[MASK_DIMENSIONS],
	       uint64_t out[FLOW_WORDS])
{
	struct flow_key mask, cut = {0};

	memcpy(&mask, from, sizeof(mask));
	steps[0] = (uint8_t)address_mask(mask.ip_src, steps[0], cut.ip_src);
	steps[1] = (uint8_t)address_mask(mask.ip_dst, steps[1], cut.ip_dst);
	steps[2] = (uint8_t)mac_mask(mask.eth_src, steps[2], cut.eth_src);
	steps[3] = (uint8_t)mac_mask(mask.eth_dst, steps[3], cut.eth_dst);
	steps[4] = (uint8_t)port_mask(mask.l4_src, steps[4], &cut.l4_src);
	steps[5] = (uint8_t)port_mask(mask.l4_dst, steps[5], &cut.l4_dst);
	steps[6] = (uint8_t)rest_mask(&mask, steps[6], &cut);
	memcpy(out, &cut, sizeof(cut));
}

bool mask_steps_next(uint8_t steps[MASK_DIMENSIONS], const uint8_t most[MASK_DIMENSIONS])
{
	for (unsigned d = 0; d < MASK_DIMENSIONS; d++) {
		if (steps[d] < most[d]) {
			steps[d]++;
			return true;
		}
		steps[d] = 0;
	}
	return false;
}

void table_mask_for(const struct pattern *pattern, bool exact, uint64_t mask[FLOW_WORDS])
{
	uint8_t steps[MASK_DIMENSIONS];

	memcpy(steps, mask_steps_max, sizeof(steps));
	if (exact)
		memcpy(mask, pattern->mask, sizeof(pattern->mask));
	else
		mask_step(pattern->mask, steps, mask);
}
