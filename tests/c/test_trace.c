/*
 * trace, witness: hostile bytes, bounds, and that a trace leaves no mark. That what it tells is
 * what happens is shown in tests/property/test_trace.py.
 */
#include <errno.h>

#include "offload.h"
#include "parse.h"
#include "rules_test.h"
#include "trace.h"
#include "witness.h"

enum { PORTS = 4, ROUNDS = 20000 };

static struct trace trace;
static uint8_t bytes[TRACE_FRAME_MAX + 1];

/* A switch whose rules do everything that rules can do. */
static void open_ruled(struct ruled *ruled)
{
	static const struct rule_action actions[] = {
	    {.type = RULE_MIRROR, .port = 2, .snaplen = 20, .log = true},
	    {.type = RULE_POLICE, .policer = 0},
	    {.type = RULE_SET, .set_fields = RULE_SET_DSCP | RULE_SET_ETH_DST, .eth_dst = {2}},
	    {.type = RULE_REJECT},
	};
	struct rule_match match = match_proto(6);

	ruled_open(ruled);
	ruled_bridge(ruled, PORTS);
	ruled_set(ruled, 0, false);
	ruled_set(ruled, 1, true);
	ruled->policers[ruled->config.policer_count++] =
	    (struct policer_config){.frames = true, .rate = 1, .burst = 1000};
	for (unsigned i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		ruled_rule(ruled, 0, (int32_t)i, i == 3 ? match : match_all(), actions[i]);
	ruled_rule(ruled, 1, 0, match_state(FLOW_NEW), (struct rule_action){.type = RULE_ALLOW});
	ruled_attach_bridge(ruled, 0, 0, false);
	ruled_attach_bridge(ruled, 1, 0, true);
	ruled_publish(ruled);
}

static int traced(struct ruled *ruled, uint16_t port, uint32_t len, uint8_t state)
{
	struct error err = {0};

	return engine_trace(ruled->sw.engine, port, bytes, len, state, &trace, &err);
}

static void check_bounds(void)
{
	CHECK(trace.step_count >= 1 && trace.step_count <= TRACE_STEPS_MAX);
	CHECK(trace.rule_count <= TRACE_RULES_MAX);
	for (uint32_t i = 0; i < trace.step_count; i++) {
		const struct trace_step *step = &trace.steps[i];

		CHECK(step->reason <= DROP_REASONS);
		CHECK((step->result == TRACE_DROP) <= (step->reason < DROP_REASONS));
		CHECK(step->rules + step->rule_count <= trace.rule_count || !step->rule_count);
	}
}

/* Noise, and sound frames with a byte changed, of every length. */
static void test_hostile_bytes(void)
{
	uint64_t random = 7;
	struct ruled ruled;

	open_ruled(&ruled);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint32_t len = 1 + random_below(&random, 120);

		for (uint32_t b = 0; b < len; b++)
			bytes[b] = (uint8_t)random_next(&random);
		if (i % 4) {
			frame_ipv4(bytes, (uint8_t)random_below(&random, 6), 1, i % 2 ? 6 : 17, 1,
				   80, 120);
			bytes[random_below(&random, 60)] = (uint8_t)random_next(&random);
		}
		CHECK(traced(&ruled, (uint16_t)(i % PORTS), len, 0) == 0);
		check_bounds();
	}
	sw_close(&ruled.sw);
}

static void test_refusals(void)
{
	struct ruled ruled;

	open_ruled(&ruled);
	frame_ipv4(bytes, 2, 1, 17, 1, 80, 60);
	CHECK(traced(&ruled, 0, 0, 0) == -EINVAL);
	CHECK(traced(&ruled, 0, TRACE_FRAME_MAX + 1, 0) == -EINVAL);
	CHECK(traced(&ruled, 0, TRACE_FRAME_MAX, 0) == 0);
	CHECK(traced(&ruled, PORTS, 60, 0) == -ENOENT);
	CHECK(traced(&ruled, 0xffff, 60, 0) == -ENOENT);
	CHECK(traced(&ruled, 0, 1, 0) == 0 && trace.steps[0].reason == DROP_MALFORMED);
	ruled.sw.ports[0].admin_up = false;
	sw_publish(&ruled.sw);
	CHECK(traced(&ruled, 0, 60, 0) == 0 && trace.steps[0].reason == DROP_PORT_DOWN);
	sw_close(&ruled.sw);
}

/* Counters, books, FDB, connections and policers are as before. */
static void test_leaves_no_mark(void)
{
	struct port_counters before, after;
	uint64_t passed, dropped;
	struct ruled ruled;

	open_ruled(&ruled);
	frame_ipv4(bytes, 2, 77, 17, 1, 80, 60);
	engine_total_counters(ruled.sw.engine, &before);
	for (unsigned i = 0; i < 2000; i++)
		CHECK(traced(&ruled, 0, 60, 0) == 0);
	engine_total_counters(ruled.sw.engine, &after);
	CHECK(memcmp(&before, &after, sizeof(before)) == 0);
	CHECK(engine_fdb_count(ruled.sw.engine, 0) == PORTS);
	CHECK(engine_conntrack_count(ruled.sw.engine) == 0);
	for (uint32_t slot = 0; slot < ruled.next_slot; slot++)
		CHECK(rule_frames(&ruled, slot) == 0);
	engine_policer_counters(ruled.sw.engine, 0, &passed, &dropped);
	CHECK(passed == 0 && dropped == 0);
	sw_close(&ruled.sw);
}

/* Every shape is a frame whose headers are whole and whose IPv4 checksum is right. */
static void test_witnesses(void)
{
	struct rule_match any = match_all();
	struct witness witness;
	struct flow_key key;

	for (unsigned variant = 0; variant < 50; variant++) {
		for (unsigned shape = 0; shape < WITNESS_SHAPES; shape++) {
			struct frame frame = {.data = witness.bytes};

			CHECK(witness_build(&any, shape, variant, WITNESS_UNTAGGED, 0, &witness));
			frame.len = frame.frame_len = witness.len;
			CHECK(witness.len >= 60 && witness.len <= WITNESS_BYTES);
			parse_flow(&frame, &key);
			CHECK(!(key.layers & FLOW_BAD));
			if (key.ip_version == 4)
				CHECK(offload_fold(offload_sum(witness.bytes + 14, 20, 0)) ==
				      0xffff);
		}
	}
	CHECK(!witness_build(&any, WITNESS_SHAPES, 0, WITNESS_UNTAGGED, 0, &witness));
}

int main(void)
{
	test_hostile_bytes();
	test_refusals();
	test_leaves_no_mark();
	test_witnesses();
	return check_result();
}
