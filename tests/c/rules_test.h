/* A switch with rules for tests: rules by one call each, frames of IP, and the ledger by reason. */
#pragma once

#include <errno.h>

#include "switch.h"

enum { RULES_PER_TEST = 64, SETS_PER_TEST = 16 };

/* Sets, attachments and policers that the next rules_publish brings into force. */
struct ruled {
	struct sw sw;
	struct rules_set_config sets[SETS_PER_TEST];
	struct rules_attach_config attaches[SETS_PER_TEST * 4];
	struct policer_config policers[SETS_PER_TEST];
	struct rules_config config;
	uint32_t next_slot;
};

static inline void ruled_open(struct ruled *ruled)
{
	memset(ruled, 0, sizeof(*ruled));
	sw_open(&ruled->sw);
	ruled->config = (struct rules_config){
	    .sets = ruled->sets, .attaches = ruled->attaches, .policers = ruled->policers};
}

/* A bridge 0 with ports 0..ports-1, all known to the FDB by their addresses 02::1, 02::2, ... */
static inline void ruled_bridge(struct ruled *ruled, unsigned ports)
{
	uint8_t mac[6] = {2};
	struct error err;

	sw_bridge(&ruled->sw, 0);
	for (uint16_t p = 0; p < ports; p++)
		sw_port(&ruled->sw, p, 0);
	sw_publish(&ruled->sw);
	for (uint16_t p = 0; p < ports; p++) {
		mac[5] = (uint8_t)(p + 1);
		CHECK(engine_fdb_set_static(ruled->sw.engine, 0, mac, 0, p, &err) == 0);
	}
}

static inline void ruled_set(struct ruled *ruled, uint16_t id, bool default_drop)
{
	ruled->sets[ruled->config.set_count++] =
	    (struct rules_set_config){.id = id, .default_drop = default_drop};
}

static inline void ruled_attach_port(struct ruled *ruled, uint16_t set, uint16_t port, bool egress)
{
	ruled->attaches[ruled->config.attach_count++] = (struct rules_attach_config){
	    .set = set, .bridge = RULE_NONE, .port = port, .egress = egress};
}

static inline void ruled_attach_bridge(struct ruled *ruled, uint16_t set, uint16_t bridge,
				       bool egress)
{
	ruled->attaches[ruled->config.attach_count++] = (struct rules_attach_config){
	    .set = set, .bridge = bridge, .port = RULE_NONE, .egress = egress};
}

/* Matches everything. */
static inline struct rule_match match_all(void)
{
	return (struct rule_match){.l4_src_hi = 0xffff, .l4_dst_hi = 0xffff};
}

static inline struct rule_match match_proto(uint8_t proto)
{
	struct rule_match match = match_all();

	match.value.ip_proto = proto;
	match.mask.ip_proto = 0xff;
	match.value.layers = match.mask.layers = FLOW_IP;
	return match;
}

static inline struct rule_match match_state(uint8_t state)
{
	struct rule_match match = match_all();

	match.value.state = match.mask.state = state;
	return match;
}

/* One alternative; returns the rule's slot. */
static inline uint32_t ruled_rule(struct ruled *ruled, uint16_t set, int32_t priority,
				  struct rule_match match, struct rule_action action)
{
	struct rule_config rule = {.slot = ruled->next_slot++,
				   .priority = priority,
				   .action = action,
				   .match_count = 1,
				   .matches = &match};
	struct error err = {0};

	snprintf(rule.id, sizeof(rule.id), "r%u", rule.slot);
	if (!CHECK(engine_rules_update(ruled->sw.engine, set, NULL, 0, &rule, 1, &err) == 0))
		fprintf(stderr, "  %s\n", err.message);
	return rule.slot;
}

static inline int ruled_try_publish(struct ruled *ruled, struct error *err)
{
	return engine_publish_rules(ruled->sw.engine, ++ruled->sw.generation, &ruled->config, err);
}

static inline void ruled_publish(struct ruled *ruled)
{
	struct error err = {0};

	if (!CHECK(ruled_try_publish(ruled, &err) == 0))
		fprintf(stderr, "  %s\n", err.message);
}

static inline uint64_t rule_frames(struct ruled *ruled, uint32_t slot)
{
	struct rule_counter counter;

	engine_rule_counters(ruled->sw.engine, slot, 1, &counter);
	return counter.frames;
}

static inline uint64_t rx_dropped(struct ruled *ruled, uint16_t port, enum drop_reason reason)
{
	struct port_counters counters;

	engine_port_counters(ruled->sw.engine, port, &counters);
	return counters.rx_drops[reason];
}

static inline uint64_t tx_dropped(struct ruled *ruled, uint16_t port, enum drop_reason reason)
{
	struct port_counters counters;

	engine_port_counters(ruled->sw.engine, port, &counters);
	return counters.tx_drops[reason];
}

/* IPv4 in Ethernet from station src to station dst (10.0.0.src, 10.0.0.dst); checksums sound. */
static inline uint32_t frame_ipv4(uint8_t *bytes, uint8_t dst, uint8_t src, uint8_t proto,
				  uint16_t sport, uint16_t dport, uint32_t len)
{
	uint32_t sum = 0;

	frame_make(bytes, dst, src, len);
	memcpy(bytes + 12, "\x08\x00\x45\x00", 4);
	bytes[16] = (uint8_t)((len - 14) >> 8);
	bytes[17] = (uint8_t)(len - 14);
	memset(bytes + 18, 0, 4);
	bytes[22] = 64;
	bytes[23] = proto;
	memcpy(bytes + 24, (uint8_t[]){0, 0, 10, 0, 0, src, 10, 0, 0, dst}, 10);
	for (unsigned i = 14; i < 34; i += 2)
		sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~((sum & 0xffff) + (sum >> 16));
	bytes[24] = (uint8_t)(sum >> 8);
	bytes[25] = (uint8_t)sum;
	bytes[34] = (uint8_t)(sport >> 8);
	bytes[35] = (uint8_t)sport;
	bytes[36] = (uint8_t)(dport >> 8);
	bytes[37] = (uint8_t)dport;
	if (proto == 6) {
		memset(bytes + 38, 0, 16);
		bytes[46] = 5 << 4;
		bytes[47] = 2; /* SYN */
	}
	return len;
}
