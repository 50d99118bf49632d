/*
 * Rules on a frame's way, through a whole engine of memory ports: every action at both stages, the
 * order of sets, and after each step books that balance.
 */
#include "rules.h"
#include "rules_test.h"
#include "rules_work.h"

static struct ruled ruled;
static struct sw *const sw = &ruled.sw;
static uint8_t bytes[SW_FRAME_MAX], got[SW_FRAME_MAX];

enum { ICMP = 1, TCP = 6, UDP = 17 };

static struct rule_action does(enum rule_action_type type)
{
	return (struct rule_action){.type = (uint8_t)type};
}

/* Puts n UDP frames from one station to another and waits until they are accounted. */
static uint32_t send_udp(uint8_t from, uint8_t to, unsigned n)
{
	uint32_t len = frame_ipv4(bytes, to, from, UDP, 1000, 2000, 64);

	for (unsigned i = 0; i < n; i++)
		CHECK(sw_put(sw, (uint16_t)(from - 1), bytes, len));
	CHECK(sw_settle(sw));
	return len;
}

static void begin(unsigned ports)
{
	ruled_open(&ruled);
	ruled_bridge(&ruled, ports);
}

/* --- verdicts ----------------------------------------------------------------------------------
 */

static void drop_and_allow(bool egress)
{
	uint32_t udp, rest;
	uint64_t dropped;

	begin(3);
	ruled_set(&ruled, 0, false);
	udp = ruled_rule(&ruled, 0, 10, match_proto(UDP), does(RULE_DROP));
	rest = ruled_rule(&ruled, 0, 20, match_all(), does(RULE_ALLOW));
	ruled_attach_port(&ruled, 0, egress ? 1 : 0, egress);
	ruled_publish(&ruled);
	send_udp(1, 2, 5);
	CHECK(sw_empty(sw, 1) == 0);
	CHECK(rule_frames(&ruled, udp) == 5 && rule_frames(&ruled, rest) == 0);
	dropped = egress ? tx_dropped(&ruled, 1, DROP_RULE) : rx_dropped(&ruled, 0, DROP_RULE);
	CHECK(dropped == 5);
	sw_put(sw, 0, bytes, frame_ipv4(bytes, 2, 1, TCP, 1, 2, 80));
	CHECK(sw_settle(sw));
	CHECK(sw_expect(sw, 1, bytes, 80));
	CHECK(rule_frames(&ruled, rest) == 1);
	send_udp(1, 3, 1); /* another port's egress, but the same ingress */
	CHECK(sw_empty(sw, 2) == egress);
	send_udp(2, 1, 1);
	CHECK(sw_empty(sw, 0) == 1);
	sw_close(sw);
}

static void default_drop(void)
{
	begin(2);
	ruled_set(&ruled, 0, true);
	ruled_rule(&ruled, 0, 1, match_proto(TCP), does(RULE_ALLOW));
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 3);
	CHECK(sw_empty(sw, 1) == 0);
	CHECK(rx_dropped(&ruled, 0, DROP_RULE_DEFAULT) == 3);
	ruled.config.attach_count = 0;
	ruled_publish(&ruled);
	send_udp(1, 2, 3);
	CHECK(sw_empty(sw, 1) == 3);
	sw_close(sw);
}

/* What is dropped at ingress is not learned. */
static void not_learned(void)
{
	struct fdb_row rows[16];
	uint32_t cursor = 0;

	begin(2);
	ruled_set(&ruled, 0, true);
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	frame_make(bytes, 2, 77, 64);
	sw_put(sw, 0, bytes, 64);
	CHECK(sw_settle(sw));
	CHECK(engine_fdb_dump(sw->engine, 0, &cursor, rows, 16) == 2);
	sw_close(sw);
}

/* Sets of one stage: allow ends a set, not the stage; jumps come back unless something decides. */
static void chains_and_jumps(void)
{
	struct rule_action jump = {.type = RULE_JUMP, .set = 2};
	uint32_t jumped, second;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_set(&ruled, 1, false);
	ruled_set(&ruled, 2, true); /* its default does not count when jumped to */
	jumped = ruled_rule(&ruled, 0, 1, match_all(), jump);
	ruled_rule(&ruled, 2, 1, match_proto(TCP), does(RULE_DROP));
	ruled_rule(&ruled, 0, 2, match_all(), does(RULE_ALLOW));
	second = ruled_rule(&ruled, 1, 1, match_proto(UDP), does(RULE_DROP));
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_attach_port(&ruled, 1, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 2); /* allowed by set 0, dropped by set 1 */
	CHECK(rx_dropped(&ruled, 0, DROP_RULE) == 2 && rule_frames(&ruled, second) == 2);
	send_udp(2, 1, 2); /* port 1 has set 0 only */
	CHECK(sw_empty(sw, 0) == 2);
	CHECK(rule_frames(&ruled, jumped) == 4);
	sw_put(sw, 1, bytes, frame_ipv4(bytes, 1, 2, TCP, 1, 2, 64));
	CHECK(sw_settle(sw));
	CHECK(sw_empty(sw, 0) == 0 && rx_dropped(&ruled, 1, DROP_RULE) == 1);
	sw_close(sw);
}

/* More rules on a frame's way than a cached way holds. */
static void long_way(void)
{
	uint32_t slots[20];

	begin(2);
	ruled_set(&ruled, 0, false);
	for (int32_t i = 0; i < 20; i++)
		slots[i] = ruled_rule(&ruled, 0, i, match_all(), does(RULE_LOG));
	ruled_rule(&ruled, 0, 99, match_proto(UDP), does(RULE_DROP));
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 3);
	for (unsigned i = 0; i < 20; i++)
		CHECK(rule_frames(&ruled, slots[i]) == 3);
	CHECK(rx_dropped(&ruled, 0, DROP_RULE) == 3);
	sw_close(sw);
}

/* --- actions -----------------------------------------------------------------------------------
 */

static void redirects(bool egress)
{
	struct rule_action to_3 = {.type = RULE_REDIRECT, .port = 2};
	struct rule_action nowhere = {.type = RULE_REDIRECT, .port = 20};
	uint32_t len;

	begin(4);
	ruled_set(&ruled, 0, false);
	ruled_set(&ruled, 1, false);
	ruled_rule(&ruled, 0, 1, match_proto(UDP), to_3);
	ruled_rule(&ruled, 0, 2, match_all(), nowhere);
	ruled_rule(&ruled, 1, 1, match_all(), does(RULE_ALLOW));
	ruled_attach_port(&ruled, 0, egress ? 1 : 0, egress);
	ruled_attach_port(&ruled, 1, 2, true); /* the new destination's egress */
	ruled_publish(&ruled);
	len = send_udp(1, 2, 2);
	CHECK(sw_empty(sw, 1) == 0 && rule_frames(&ruled, 2) == 2);
	CHECK(sw_expect(sw, 2, bytes, len) && sw_empty(sw, 2) == 1);
	sw_put(sw, 0, bytes, frame_ipv4(bytes, 2, 1, TCP, 1, 2, 64));
	CHECK(sw_settle(sw));
	CHECK((egress ? tx_dropped(&ruled, 1, DROP_DESTINATION_DOWN)
		      : rx_dropped(&ruled, 0, DROP_DESTINATION_DOWN)) == 1);
	/* to all others: every one but the redirected ones by flooding */
	len = frame_ipv4(bytes, 0xff, 1, UDP, 1, 2, 64);
	for (unsigned i = 0; i < 100; i++)
		CHECK(sw_put(sw, 0, bytes, len));
	CHECK(sw_settle(sw));
	CHECK(sw_empty(sw, 1) == 0 && sw_empty(sw, 3) == (egress ? 100 : 0));
	CHECK(sw_empty(sw, 2) == (egress ? 200 : 100));
	sw_close(sw);
}

/* Two ports' egress send a frame to each other: it is not sent for ever. */
static void redirect_circle(void)
{
	struct rule_action to[2] = {{.type = RULE_REDIRECT, .port = 2},
				    {.type = RULE_REDIRECT, .port = 1}};

	begin(3);
	for (uint16_t s = 0; s < 2; s++) {
		ruled_set(&ruled, s, false);
		ruled_rule(&ruled, s, 1, match_all(), to[s]);
		ruled_attach_port(&ruled, s, (uint16_t)(s + 1), true);
	}
	ruled_publish(&ruled);
	send_udp(1, 2, 100);
	CHECK(tx_dropped(&ruled, 2, DROP_DESTINATION_DOWN) == 100);
	sw_close(sw);
}

static void mirrors(bool egress)
{
	struct rule_action mirror = {.type = RULE_MIRROR, .port = 2, .snaplen = 40};
	struct rule_action whole = {.type = RULE_MIRROR, .port = 3};
	struct rule_action gone = {.type = RULE_MIRROR, .port = 20};
	struct port_counters total;
	uint32_t len;

	begin(4);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), mirror);
	ruled_rule(&ruled, 0, 2, match_all(), gone);
	ruled_rule(&ruled, 0, 3, match_all(), whole);
	ruled_attach_port(&ruled, 0, egress ? 1 : 0, egress);
	ruled_publish(&ruled);
	len = send_udp(1, 2, 3);
	CHECK(sw_expect(sw, 1, bytes, len) && sw_empty(sw, 1) == 2);
	CHECK(sw_expect(sw, 2, bytes, 40) && sw_empty(sw, 2) == 2);
	CHECK(sw_expect(sw, 3, bytes, len) && sw_empty(sw, 3) == 2);
	engine_total_counters(sw->engine, &total);
	CHECK(total.copies == 6);
	/* a chain, cut within its second fragment */
	len = frame_make(bytes, 2, 1, 5000);
	CHECK(sw_put(sw, 0, bytes, len));
	CHECK(sw_settle(sw));
	CHECK(sw_expect(sw, 1, bytes, len) && sw_expect(sw, 3, bytes, len));
	CHECK(sw_expect(sw, 2, bytes, 40));
	sw_close(sw);
}

static void sets_fields(bool egress)
{
	struct rule_action set = {.type = RULE_SET,
				  .set_fields = RULE_SET_DSCP | RULE_SET_ETH_SRC | RULE_SET_VLAN |
						RULE_SET_PCP,
				  .dscp = 46,
				  .vid = 7,
				  .pcp = 5,
				  .eth_src = {2, 9, 9, 9, 9, 9}};
	uint32_t sum = 0;
	int len;

	begin(3);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_proto(UDP), set);
	ruled_attach_port(&ruled, 0, egress ? 1 : 0, egress);
	ruled_publish(&ruled);
	send_udp(1, 2, 1);
	len = engine_memory_take(sw->engine, 1, 0, got, sizeof(got));
	CHECK(len == 68);
	CHECK(memcmp(got, bytes, 6) == 0 && memcmp(got + 6, set.eth_src, 6) == 0);
	CHECK(memcmp(got + 12, "\x81\x00\xa0\x07\x08\x00\x45\xb8", 8) == 0);
	for (unsigned i = 18; i < 38; i += 2)
		sum += (uint32_t)got[i] << 8 | got[i + 1];
	CHECK((sum & 0xffff) + (sum >> 16) == 0xffff);
	CHECK(memcmp(got + 30, bytes + 26, 64 - 26) == 0);
	/* a flooded frame is another one at one of its ports, if it is egress that says so */
	len = (int)frame_ipv4(bytes, 0xff, 1, UDP, 1, 2, 64);
	CHECK(sw_put(sw, 0, bytes, (uint32_t)len) && sw_settle(sw));
	CHECK(engine_memory_take(sw->engine, 1, 0, got, sizeof(got)) == 68);
	CHECK(engine_memory_take(sw->engine, 2, 0, got, sizeof(got)) == (egress ? 64 : 68));
	sw_close(sw);
}

/* What ingress has set is what the FDB is asked for, and what egress rules see. */
static void set_is_seen_behind(void)
{
	struct rule_action set = {
	    .type = RULE_SET, .set_fields = RULE_SET_ETH_DST, .eth_dst = {2, 0, 0, 0, 0, 3}};
	struct rule_match to_3 = match_all();
	uint32_t seen;

	memcpy(to_3.value.eth_dst, set.eth_dst, 6);
	memset(to_3.mask.eth_dst, 0xff, 6);
	begin(3);
	ruled_set(&ruled, 0, false);
	ruled_set(&ruled, 1, true);
	ruled_rule(&ruled, 0, 1, match_all(), set);
	seen = ruled_rule(&ruled, 1, 1, to_3, does(RULE_ALLOW));
	ruled_attach_port(&ruled, 0, 0, false);
	ruled_attach_bridge(&ruled, 1, 0, true);
	ruled_publish(&ruled);
	send_udp(1, 2, 4);
	CHECK(sw_empty(sw, 1) == 0 && sw_empty(sw, 2) == 4 && rule_frames(&ruled, seen) == 4);
	sw_close(sw);
}

static void rejects(bool egress)
{
	struct port_counters in;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), does(RULE_REJECT));
	ruled_attach_port(&ruled, 0, egress ? 1 : 0, egress);
	ruled_publish(&ruled);
	send_udp(1, 2, 100);
	CHECK(sw_empty(sw, 1) == 0);
	engine_port_counters(sw->engine, 0, &in);
	CHECK(in.originated == 100 && in.tx_frames == 100);
	CHECK(engine_memory_take(sw->engine, 0, 0, got, sizeof(got)) == 14 + 20 + 8 + 50);
	CHECK(memcmp(got, bytes + 6, 6) == 0 && memcmp(got + 6, bytes, 6) == 0);
	CHECK(got[34] == 3 && got[35] == 13 && memcmp(got + 42, bytes + 14, 50) == 0);
	CHECK(sw_empty(sw, 0) == 99);
	CHECK((egress ? tx_dropped(&ruled, 1, DROP_REJECTED)
		      : rx_dropped(&ruled, 0, DROP_REJECTED)) == 100);
	sw_close(sw);
}

/* Errors of ICMP are no way to make one sender's frames another one's load. */
static void rejects_limited(void)
{
	uint64_t begun = now_ms(), most;
	struct port_counters in;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), does(RULE_REJECT));
	ruled_attach_port(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	for (unsigned i = 0; i < 40; i++) {
		send_udp(1, 2, 100);
		sw_empty(sw, 0);
	}
	engine_port_counters(sw->engine, 0, &in);
	most = RULES_ICMP_ERRORS_S + (now_ms() - begun + 1) * RULES_ICMP_ERRORS_S / 1000;
	CHECK(in.originated >= RULES_ICMP_ERRORS_S && in.originated <= most);
	CHECK(in.rx_drops[DROP_REJECTED] == 4000);
	sw_close(sw);
}

static void polices(void)
{
	struct rule_action police = {.type = RULE_POLICE, .policer = 3};
	uint64_t passed, dropped;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), police);
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled.policers[0] =
	    (struct policer_config){.id = 3, .frames = true, .rate = 1, .burst = 10};
	ruled.config.policer_count = 1;
	ruled_publish(&ruled);
	send_udp(1, 2, 100);
	CHECK(sw_empty(sw, 1) >= 10);
	engine_policer_counters(sw->engine, 3, &passed, &dropped);
	CHECK(passed + dropped == 100 && passed >= 10 && passed < 40);
	CHECK(rx_dropped(&ruled, 0, DROP_POLICED) == dropped);
	/* another rate: what was counted stays */
	ruled.policers[0].rate = 1000000;
	ruled_publish(&ruled);
	engine_policer_counters(sw->engine, 3, &passed, &dropped);
	CHECK(passed + dropped == 100);
	sw_close(sw);
}

static void tracks(void)
{
	begin(2);
	ruled_set(&ruled, 0, true);
	ruled_rule(&ruled, 0, 1, match_state(FLOW_ESTABLISHED), does(RULE_ALLOW));
	ruled_set(&ruled, 1, true);
	ruled_rule(&ruled, 1, 1, match_state(FLOW_NEW), does(RULE_ALLOW));
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 2);
	CHECK(sw_empty(sw, 1) == 0 && engine_conntrack_count(sw->engine) == 0);
	ruled.attaches[0] = (struct rules_attach_config){.set = 0, .bridge = RULE_NONE, .port = 1};
	ruled_attach_port(&ruled, 1, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 2);
	CHECK(sw_empty(sw, 1) == 2 && engine_conntrack_count(sw->engine) == 1);
	sw_put(sw, 1, bytes, frame_ipv4(bytes, 1, 2, UDP, 2000, 1000, 64));
	CHECK(sw_settle(sw));
	CHECK(sw_empty(sw, 0) == 1);
	sw_close(sw);
}

/* --- log ---------------------------------------------------------------------------------------
 */

static void logs(void)
{
	static struct rule_log_record records[64];
	struct rule_action log = {.type = RULE_ALLOW, .log = true};
	uint64_t lost;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), log);
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_attach_bridge(&ruled, 0, 0, true);
	ruled_publish(&ruled);
	send_udp(1, 2, 10);
	CHECK(engine_rule_log(sw->engine, records, 64, &lost) == 20 && lost == 0);
	CHECK(records[0].out_port == RULE_NONE && records[0].head_len == 64);
	CHECK(memcmp(records[0].head, bytes, 64) == 0 && records[0].rule == 0);
	for (unsigned i = 0; i < 20; i++)
		CHECK(records[i].generation == sw->generation && records[i].in_port == 0);
	CHECK(engine_rule_log(sw->engine, records, 64, &lost) == 0);
	sw_close(sw);
}

/* Every frame is logged at both stages or at none, and what is not is counted. */
static void log_is_capped(void)
{
	static struct rule_log_record records[4096];
	struct rule_action log = {.type = RULE_LOG};
	uint64_t lost;
	unsigned taken;

	begin(2);
	ruled_set(&ruled, 0, false);
	ruled_rule(&ruled, 0, 1, match_all(), log);
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_attach_bridge(&ruled, 0, 0, true);
	ruled_publish(&ruled);
	for (unsigned i = 0; i < 100; i++) {
		send_udp(1, 2, 100);
		sw_empty(sw, 1);
	}
	taken = engine_rule_log(sw->engine, records, 4096, &lost);
	CHECK(taken > 0 && taken + lost == 20000);
	sw_close(sw);
}

/* --- configurations ----------------------------------------------------------------------------
 */

/* One that is refused leaves the one before in force. */
static void refused(const char *what)
{
	struct error err = {0};

	CHECK(ruled_try_publish(&ruled, &err) == -EINVAL);
	if (!CHECK(strstr(err.message, what)))
		fprintf(stderr, "  %s\n", err.message);
	send_udp(1, 2, 1);
	CHECK(sw_empty(sw, 1) == 0);
}

static void refusals(void)
{
	struct rule_action jump = {.type = RULE_JUMP, .set = 2};
	struct rule_action police = {.type = RULE_POLICE, .policer = 9};
	struct rule_config other = {.slot = 0, .id = "other"};
	struct error err;
	uint32_t slot = 0;

	begin(2);
	ruled_set(&ruled, 0, true);
	ruled_attach_bridge(&ruled, 0, 0, false);
	slot = ruled_rule(&ruled, 0, 1, match_proto(TCP), does(RULE_ALLOW));
	ruled_publish(&ruled);
	ruled_rule(&ruled, 1, 1, match_all(), jump);
	ruled_set(&ruled, 1, false);
	refused("does not exist");
	jump.set = 1;
	ruled_rule(&ruled, 2, 1, match_all(), jump);
	ruled_set(&ruled, 2, false);
	refused("back to itself");
	ruled.config.set_count = 1;
	ruled_publish(&ruled);
	ruled_rule(&ruled, 3, 1, match_all(), police);
	ruled_set(&ruled, 3, false);
	refused("policer 9");
	ruled.config.set_count = 1;
	ruled_attach_port(&ruled, 7, 0, true);
	refused("attached and does not exist");
	ruled.config.attach_count = 1;
	/* slots are one set's */
	other.slot = slot;
	CHECK(engine_rules_update(sw->engine, 5, NULL, 0, &other, 1, &err) == -EINVAL);
	other.slot = 1u << 30;
	CHECK(engine_rules_update(sw->engine, 5, NULL, 0, &other, 1, &err) == -ENOSPC);
	CHECK(engine_rules_update(sw->engine, 5000, NULL, 0, &other, 1, &err) == -ENOSPC);
	other.slot = 40;
	CHECK(engine_rules_update(sw->engine, 0, &other.slot, 1, NULL, 0, &err) == -EINVAL);
	CHECK(engine_rules_remove(sw->engine, 0, &err) == -EBUSY);
	CHECK(engine_rules_remove(sw->engine, 1, &err) == 0);
	CHECK(engine_rules_remove(sw->engine, 1, &err) == -ENOENT);
	send_udp(1, 2, 1);
	CHECK(sw_empty(sw, 1) == 0);
	sw_close(sw);
}

static void too_deep(void)
{
	struct error err = {0};

	begin(2);
	for (uint16_t s = 0; s < RULES_JUMP_MAX + 2; s++) {
		struct rule_action jump = {.type = RULE_JUMP, .set = (uint16_t)(s + 1)};

		ruled_set(&ruled, s, false);
		ruled_rule(&ruled, s, 1, match_all(),
			   s == RULES_JUMP_MAX + 1 ? does(RULE_DROP) : jump);
	}
	ruled_attach_bridge(&ruled, 1, 0, false);
	CHECK(ruled_try_publish(&ruled, &err) == -EINVAL && strstr(err.message, "jumps within"));
	/* one less is as deep as it may be */
	CHECK(engine_rules_update(sw->engine, 0, (uint32_t[]){0}, 1, NULL, 0, &err) == 0);
	ruled_publish(&ruled);
	send_udp(1, 2, 1);
	CHECK(rx_dropped(&ruled, 0, DROP_RULE) == 1);
	sw_close(sw);
}

/* Attached to what is not there any more, or not yet. */
static void attached_to_nothing(void)
{
	struct error err;

	begin(3);
	ruled_set(&ruled, 0, true);
	ruled_attach_port(&ruled, 0, 2, false);
	ruled_attach_port(&ruled, 0, 9, false);
	ruled_publish(&ruled);
	send_udp(3, 1, 1);
	CHECK(sw_empty(sw, 0) == 0);
	sw->port_count = 2;
	sw_publish(sw);
	CHECK(engine_port_remove(sw->engine, 2, false, &err) == 0);
	ruled_publish(&ruled);
	send_udp(1, 2, 1);
	CHECK(sw_empty(sw, 1) == 1);
	sw_port(sw, 9, 0);
	sw_publish(sw);
	sw_put(sw, 9, bytes, frame_ipv4(bytes, 1, 10, UDP, 1, 2, 64));
	CHECK(sw_settle(sw));
	CHECK(sw_empty(sw, 0) == 0 && rx_dropped(&ruled, 9, DROP_RULE_DEFAULT) == 1);
	sw_close(sw);
}

/* A worker that was gone comes back to its counters. */
static void counters_stay(void)
{
	struct rule_counter counter;
	uint32_t slot;

	begin(2);
	ruled_set(&ruled, 0, false);
	slot = ruled_rule(&ruled, 0, 1, match_all(), does(RULE_ALLOW));
	ruled_attach_bridge(&ruled, 0, 0, false);
	ruled_publish(&ruled);
	send_udp(1, 2, 3);
	sw->port_count = 0;
	sw_publish(sw);
	sw->port_count = 2;
	sw_publish(sw);
	send_udp(1, 2, 3);
	engine_rule_counters(sw->engine, slot, 1, &counter);
	CHECK(counter.frames == 6 && counter.bytes == 6 * 64 && counter.last_s > 1600000000);
	engine_rule_counters_clear(sw->engine, slot);
	CHECK(rule_frames(&ruled, slot) == 0);
	sw_close(sw);
}

int main(void)
{
	for (int egress = 0; egress < 2; egress++) {
		drop_and_allow(egress);
		redirects(egress);
		mirrors(egress);
		sets_fields(egress);
		rejects(egress);
	}
	default_drop();
	not_learned();
	chains_and_jumps();
	long_way();
	redirect_circle();
	set_is_seen_behind();
	rejects_limited();
	polices();
	tracks();
	logs();
	log_is_capped();
	refusals();
	too_deep();
	attached_to_nothing();
	counters_stay();
	return check_result();
}
