/* Runs on: control thread. What it tells: trace.h. */
#include "trace.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "action.h"
#include "bridge_decide.h"
#include "trace_way.h"
#include "tx.h"
#include "vlan.h"

/* --- steps ---------------------------------------------------------------------------------------
 */

struct trace_step *way_step(struct way *way, enum trace_stage stage, enum trace_result result,
			    uint16_t port)
{
	struct trace *trace = way->trace;
	struct trace_step *step;

	if (trace->step_count == TRACE_STEPS_MAX) {
		way->full = true;
		return NULL;
	}
	step = &trace->steps[trace->step_count++];
	*step = (struct trace_step){
	    .stage = (uint8_t)stage,
	    .result = (uint8_t)result,
	    .reason = DROP_REASONS,
	    .port = port,
	    .to = RULE_NONE,
	    .vid = way->frame.vid,
	    .default_of = RULE_NONE,
	};
	return step;
}

static void step_reason(struct way *way, enum trace_stage stage, enum trace_result result,
			uint16_t port, unsigned reason)
{
	struct trace_step *step = way_step(way, stage, result, port);

	if (step)
		step->reason = (uint8_t)reason;
}

static bool dropped(struct way *way, enum trace_stage stage, uint16_t port, unsigned reason)
{
	step_reason(way, stage, TRACE_DROP, port, reason);
	return false;
}

/* --- the way in ----------------------------------------------------------------------------------
 */

static bool way_parse(struct way *way)
{
	unsigned refusal = bridge_port_refusal(way->in);

	if (refusal != BRIDGE_PASSES)
		return dropped(way, TRACE_PARSE, way->in_port, refusal);
	way->bridge = &way->tables->bridges[way->in->bridge];
	if (!parse_l2(&way->frame, &way->l2))
		return dropped(way, TRACE_PARSE, way->in_port, DROP_MALFORMED);
	refusal = bridge_address_refusal(way->bridge, &way->l2);
	if (refusal != BRIDGE_PASSES)
		return dropped(way, TRACE_PARSE, way->in_port, refusal);
	way_step(way, TRACE_PARSE, way->key.layers & FLOW_BAD ? TRACE_BAD : TRACE_SOUND,
		 way->in_port);
	return true;
}

static bool way_vlan_in(struct way *way)
{
	if (way->bridge->vlan_filtering && !vlan_in(&way->in->vlan, &way->frame, way->l2.tci))
		return dropped(way, TRACE_VLAN_IN, way->in_port, DROP_VLAN_INGRESS);
	way_step(way, TRACE_VLAN_IN, TRACE_ASSIGNED, way->in_port);
	return true;
}

/* --- the way out ---------------------------------------------------------------------------------
 */

void way_tx(struct way *way, const struct frame *frame, uint16_t id, enum trace_result result,
	    bool as_is)
{
	const struct tx_port *to = &way->snapshot->tx_ports[id];
	struct trace_step *step = way_step(way, TRACE_TX, result, id);
	struct frame sent = *frame;

	if (!step)
		return;
	if (to->vlan_filtering && !as_is)
		step->edit = (uint8_t)vlan_out(&way->tables->ports[id].vlan, frame);
	vlan_book(&sent, step->edit);
	step->limit = tx_mtu(to);
	step->bytes = sent.frame_len;
	if (tx_too_big(step->limit, sent.frame_len, sent.l3_offset)) {
		step->result = TRACE_DROP;
		step->reason = DROP_TOO_BIG;
	} else if (to->port->monitor) {
		step->result = TRACE_DROP;
		step->reason = DROP_RECEIVE_ONLY;
	}
}

static void way_destination(struct way *way, const struct frame *frame, const struct flow_key *key,
			    uint16_t id, bool moved);

/* From one destination's rules to another one; `key` is that of the frame as it is now. */
static void way_moved(struct way *way, const struct frame *frame, const struct flow_key *key,
		      uint16_t from, uint16_t to, bool moved)
{
	unsigned reason = DROP_DESTINATION_DOWN;

	if (!moved) {
		if (to < way->tables->ports_max &&
		    bridge_reaches(way->tables, way->in->reach, to, way->bridge->vlan_filtering,
				   frame->vid)) {
			way_destination(way, frame, key, to, true);
			return;
		}
		reason = bridge_unicast_refusal(way->tables, way->in_port, to);
	}
	dropped(way, TRACE_RULES_EGRESS, from, reason);
}

/* A destination: its rules, then out. moved: rules of another one have sent the frame here. */
static void way_destination(struct way *way, const struct frame *frame, const struct flow_key *key,
			    uint16_t id, bool moved)
{
	const struct rules_tables *rules = &way->snapshot->rules;
	struct flow_key own = *key;
	struct way_stage at = {
	    .stage = TRACE_RULES_EGRESS, .out_port = id, .frame = frame, .key = &own};
	struct frame edited, rest;
	uint8_t header[RULES_HEADER_MAX];
	struct way_fate fate;

	at.rules = rules->any ? rules->egress[id] : NULL;
	if (!at.rules) {
		way_tx(way, frame, id, TRACE_SENT, false);
		return;
	}
	fate = way_rules(way, &at);
	if (fate.reason != BRIDGE_PASSES)
		return;
	if (fate.set.set_fields) {
		action_edit(frame, &own, &fate.set, way->bridge->vlan_filtering, &edited, &rest,
			    header);
		parse_flow(&edited, &own);
		own.state = way->state;
		frame = &edited;
	}
	if (fate.redirect != RULE_NONE && fate.redirect != id)
		way_moved(way, frame, &own, id, fate.redirect, moved);
	else
		way_tx(way, frame, id, TRACE_SENT, false);
}

/* --- who gets it ---------------------------------------------------------------------------------
 */

static void way_flood(struct way *way)
{
	const struct bridge *bridge = way->bridge;
	unsigned reason = DROP_NO_DESTINATION, copies = 0;
	struct trace_step *step;

	if (!bridge_floods(bridge, way->l2.dst)) {
		dropped(way, TRACE_FLOOD, RULE_NONE, DROP_FLOOD_OFF);
		return;
	}
	step = way_step(way, TRACE_FLOOD, TRACE_FLOODED, RULE_NONE);
	for (unsigned i = 0; i < bridge->port_count; i++) {
		uint16_t id = bridge->ports[i];
		unsigned refusal =
		    bridge_flood_refusal(way->tables, bridge, way->in_port, id, way->frame.vid);

		if (refusal == BRIDGE_PASSES)
			copies++;
		else if (id != way->in_port)
			step_reason(way, TRACE_FLOOD, TRACE_LEFT_OUT, id, refusal);
		reason = refusal < reason ? refusal : reason;
	}
	if (!step)
		return;
	step->bytes = copies;
	if (!copies) {
		step->result = TRACE_DROP;
		step->reason = (uint8_t)reason;
		return;
	}
	for (unsigned i = 0; i < bridge->port_count; i++) {
		uint16_t id = bridge->ports[i];

		if (bridge_flood_refusal(way->tables, bridge, way->in_port, id, way->frame.vid) ==
		    BRIDGE_PASSES)
			way_destination(way, &way->frame, &way->key, id, false);
	}
}

/*
 * What the FDB says once the frame's source is learned. Of all addresses that could change only
 * the frame's own answer: when it is addressed to its own sender.
 */
static int way_lookup(const struct way *way, uint16_t vid)
{
	uint64_t key = bridge_key(way->l2.dst, vid);
	struct fdb_slot *slot;
	uint64_t value;

	if (fdb_find(way->bridge->fdb, key, &slot, &value)) {
		bool learns = way->in->learning && way->bridge->learning &&
			      way->l2.src == way->l2.dst && !fdb_value_static(value);

		return learns ? way->in_port : fdb_value_port(value);
	}
	if (way->in->learning && way->bridge->learning && way->l2.src == way->l2.dst &&
	    bridge_is_station(way->l2.src))
		return way->in_port;
	return FDB_MISS;
}

static void way_fdb(struct way *way)
{
	uint16_t vid = way->bridge->vlan_filtering ? way->frame.vid : 0;
	struct trace_step *step;
	int found = FDB_MISS;

	if (!(way->l2.dst & MAC_GROUP))
		found = way_lookup(way, vid);
	if (found == FDB_MISS) {
		way_step(way, TRACE_FDB, TRACE_MISS, RULE_NONE);
		way_flood(way);
		return;
	}
	step = way_step(way, TRACE_FDB, TRACE_FOUND, RULE_NONE);
	if (!step)
		return;
	step->to = (uint16_t)found;
	if (bridge_reaches(way->tables, way->in->reach, (unsigned)found,
			   way->bridge->vlan_filtering, way->frame.vid)) {
		way_destination(way, &way->frame, &way->key, (uint16_t)found, false);
		return;
	}
	step->result = TRACE_DROP;
	step->reason = (uint8_t)bridge_unicast_refusal(way->tables, way->in_port, (uint16_t)found);
}

/* --- rules of ingress ----------------------------------------------------------------------------
 */

/* What `set` says, in the frame and in what was read of it. */
static void way_edit(struct way *way, const struct rule_action *set, struct flow_key *key)
{
	action_edit(&way->frame, key, set, way->bridge->vlan_filtering, &way->frame, &way->rest,
		    way->header);
	parse_l2(&way->frame, &way->l2);
	parse_flow(&way->frame, key);
	key->state = way->state;
}

static void way_redirected(struct way *way, uint16_t to, struct trace_step *step)
{
	if (to < way->tables->ports_max &&
	    bridge_reaches(way->tables, way->in->reach, to, way->bridge->vlan_filtering,
			   way->frame.vid)) {
		way_destination(way, &way->frame, &way->key, to, false);
	} else if (step) {
		step->result = TRACE_DROP;
		step->reason = (uint8_t)bridge_unicast_refusal(way->tables, way->in_port, to);
	}
}

/* Behind vlan in: the rules of ingress, and where the frame goes. */
static void way_forward(struct way *way)
{
	const struct rules_tables *rules = &way->snapshot->rules;
	struct way_stage at = {.stage = TRACE_RULES_INGRESS,
			       .out_port = RULE_NONE,
			       .frame = &way->frame,
			       .key = &way->key};
	struct way_fate fate;

	at.rules = rules->any ? rules->ingress[way->in_port] : NULL;
	if (!at.rules) {
		way_fdb(way);
		return;
	}
	fate = way_rules(way, &at);
	way->trace->key = way->key;
	if (fate.reason != BRIDGE_PASSES)
		return;
	if (fate.set.set_fields)
		way_edit(way, &fate.set, &way->key);
	if (fate.redirect != RULE_NONE)
		way_redirected(way, fate.redirect, fate.step);
	else
		way_fdb(way);
}

/* --- the whole ---------------------------------------------------------------------------------
 */

int engine_trace(struct engine *engine, uint16_t in_port, const uint8_t *bytes, uint32_t len,
		 uint8_t state, struct trace *trace, struct error *err)
{
	const struct snapshot *snapshot = engine->snapshot;
	struct way way = {
	    .snapshot = snapshot,
	    .tables = &snapshot->tables,
	    .trace = trace,
	    .in_port = in_port,
	    .state = state,
	    .state_known = state != 0,
	    /* nothing here writes to a frame's bytes */
	    .frame = {.data = (uint8_t *)(uintptr_t)bytes,
		      .len = len,
		      .frame_len = len,
		      .in_port = in_port},
	};

	if (!len || len > TRACE_FRAME_MAX)
		return error_set(err, EINVAL, "a frame has 1 to %u bytes, not %u",
				 (unsigned)TRACE_FRAME_MAX, len);
	if (in_port >= snapshot->tables.ports_max || !snapshot->bridge_ports[in_port].present)
		return error_set(err, ENOENT, "port %u is not in force", in_port);
	way.in = &snapshot->bridge_ports[in_port];
	trace->generation = snapshot->generation;
	trace->step_count = 0;
	trace->rule_count = 0;
	parse_flow(&way.frame, &way.key);
	if (way_parse(&way) && way_vlan_in(&way)) {
		parse_flow(&way.frame, &way.key); /* now with its VLAN */
		way.key.state = state;
		trace->key = way.key;
		way_forward(&way);
	} else {
		trace->key = way.key;
	}
	if (way.full)
		return error_set(err, E2BIG, "the frame has more than %u steps to tell",
				 (unsigned)TRACE_STEPS_MAX);
	return 0;
}

/* --- why a rule does not match -------------------------------------------------------------------
 */

/* Where a field of the key is; layers stands for more than one. */
static const struct {
	uint8_t field;
	uint8_t offset;
	uint8_t bytes;
	uint8_t bits; /* of a field of one byte */
} FIELDS[] = {
#define FIELD(name, member, bits)                                                                  \
	{                                                                                          \
		name, offsetof(struct flow_key, member), sizeof(((struct flow_key *)0)->member),   \
		    bits                                                                           \
	}
    FIELD(TRACE_IN_PORT, in_port, 0xff),
    FIELD(TRACE_ETH_DST, eth_dst, 0xff),
    FIELD(TRACE_ETH_SRC, eth_src, 0xff),
    FIELD(TRACE_ETH_TYPE, eth_type, 0xff),
    FIELD(TRACE_TAGGED, layers, FLOW_TAGGED),
    FIELD(TRACE_VID, vid, 0xff),
    FIELD(TRACE_PCP, vlan_pcp, 0xff),
    FIELD(TRACE_IP_VERSION, ip_version, 0xff),
    FIELD(TRACE_SOUNDNESS, layers, FLOW_L3 | FLOW_IP | FLOW_BAD),
    FIELD(TRACE_FRAGMENT, layers, FLOW_FRAGMENT | FLOW_LATER),
    FIELD(TRACE_IP_PROTO, ip_proto, 0xff),
    FIELD(TRACE_IP_SRC, ip_src, 0xff),
    FIELD(TRACE_IP_DST, ip_dst, 0xff),
    FIELD(TRACE_IP_DSCP, ip_tos, 0xff),
    FIELD(TRACE_IP_TTL, ip_ttl, 0xff),
    FIELD(TRACE_L4, layers, FLOW_L4 | FLOW_PORTS),
    FIELD(TRACE_L4_SRC, l4_src, 0xff),
    FIELD(TRACE_L4_DST, l4_dst, 0xff),
    FIELD(TRACE_TCP_FLAGS, tcp_flags, 0xff),
    FIELD(TRACE_STATE, state, 0xff),
#undef FIELD
};

static bool in_range(enum trace_field field, const struct rule_match *match,
		     const struct flow_key *key)
{
	if (field == TRACE_L4_SRC)
		return key->l4_src >= match->l4_src_lo && key->l4_src <= match->l4_src_hi;
	if (field == TRACE_L4_DST)
		return key->l4_dst >= match->l4_dst_lo && key->l4_dst <= match->l4_dst_hi;
	return true;
}

enum trace_field trace_differs(const struct rule_match *match, const struct flow_key *key)
{
	const uint8_t *has = (const uint8_t *)key;
	const uint8_t *value = (const uint8_t *)&match->value;
	const uint8_t *mask = (const uint8_t *)&match->mask;

	for (unsigned f = 0; f < sizeof(FIELDS) / sizeof(FIELDS[0]); f++) {
		uint8_t differs = 0;

		for (unsigned i = 0; i < FIELDS[f].bytes; i++) {
			unsigned at = FIELDS[f].offset + i;

			differs |= (uint8_t)((has[at] & mask[at]) ^ value[at]);
		}
		if ((differs & FIELDS[f].bits) || !in_range(FIELDS[f].field, match, key))
			return FIELDS[f].field;
	}
	return TRACE_MATCHED;
}
