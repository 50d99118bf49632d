/*
 * What would become of this frame? The way of a frame through the configuration in force, told
 * step by step and not taken: nothing is sent, counted, learned or made.
 *
 * A trace asks the tables that workers use (engine_tables.h: the snapshot in force) with the
 * functions that they decide with: parse_flow, vlan_in, the stages' lookup, the FDB,
 * bridge_decide.h, vlan_out, tx_mtu. It ends where the destination's driver takes over; what that
 * does (a full queue, a device that is down, a TUN port that answers itself) is not told.
 *
 * Steps come in the frame's order: parse, vlan_in, rules_ingress, fdb, flood, and for each
 * destination rules_egress and tx. A stage that the frame does not get to has no step, nor has one
 * without rules. A step that drops says why; the frame's own verdict follows from all of them: it
 * is forwarded when a step of tx sends it.
 *
 * Runs on: control thread, which alone replaces the snapshot.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "flow_key.h"
#include "rule.h"
#include "stats.h"
#include "vlan.h"

/* cffi: begin */
enum {
	TRACE_FRAME_MAX = 65554, /* bytes: FRAME_LEN_MAX */
	TRACE_STEPS_MAX = 16384, /* a frame flooded to as many ports as there may be, and more */
	TRACE_RULES_MAX = 1024,	 /* rules listed in a trace */
	TRACE_MISSES_MAX = 100,	 /* of them such that do not match */
	TRACE_ALTERNATIVES_MAX = 4096 /* of a rule, looked at for what comes closest */
};

enum trace_stage {
	TRACE_PARSE,
	TRACE_VLAN_IN,
	TRACE_RULES_INGRESS,
	TRACE_FDB,
	TRACE_FLOOD,
	TRACE_RULES_EGRESS, /* port: the destination */
	TRACE_TX	    /* port: the destination */
};

enum trace_result {
	TRACE_DROP,  /* reason */
	TRACE_SOUND, /* parse: the headers are whole */
	TRACE_BAD,   /* parse: they contradict themselves or break off; it goes on all the same */
	TRACE_ASSIGNED, /* vlan_in: vid; 0: the bridge filters no VLANs */
	TRACE_ALLOW,	/* rules_*: it goes on */
	TRACE_REJECT,	/* rules_*: dropped, and the sender is told where that is allowed */
	TRACE_REDIRECT, /* rules_ingress: straight to `to` */
	TRACE_FOUND,	/* fdb: at `to` */
	TRACE_MISS,	/* fdb: not known, or the address of a group */
	TRACE_FLOODED,	/* flood: by `bytes` ports, before their rules */
	TRACE_LEFT_OUT, /* flood: `port` does not get it; reason */
	TRACE_SENT,	/* tx: handed to the port's driver */
	TRACE_COPIED,	/* tx: a mirror's copy is */
	TRACE_ANSWERED	/* tx: what the sender of a rejected frame is told is */
};

/* What of a key an alternative of a rule does not agree with; in this order. */
enum trace_field {
	TRACE_MATCHED, /* all agrees */
	TRACE_NOTHING, /* the rule has no alternative: one of its groups is empty */
	TRACE_IN_PORT,
	TRACE_ETH_DST,
	TRACE_ETH_SRC,
	TRACE_ETH_TYPE,
	TRACE_TAGGED, /* layers: FLOW_TAGGED */
	TRACE_VID,
	TRACE_PCP,
	TRACE_IP_VERSION,
	TRACE_SOUNDNESS, /* layers: FLOW_L3, FLOW_IP, FLOW_BAD */
	TRACE_FRAGMENT,	 /* layers: FLOW_FRAGMENT, FLOW_LATER */
	TRACE_IP_PROTO,
	TRACE_IP_SRC,
	TRACE_IP_DST,
	TRACE_IP_DSCP,
	TRACE_IP_TTL,
	TRACE_L4, /* layers: FLOW_L4, FLOW_PORTS */
	TRACE_L4_SRC,
	TRACE_L4_DST,
	TRACE_TCP_FLAGS,
	TRACE_STATE
};

struct trace_step {
	uint8_t stage;	/* enum trace_stage */
	uint8_t result; /* enum trace_result */
	uint8_t reason; /* enum drop_reason; DROP_REASONS: none */
	uint8_t edit;	/* tx: enum vlan_edit */
	uint16_t port;	/* that the step is about; RULE_NONE: none */
	uint16_t to;	/* fdb, redirect: the port named; RULE_NONE */
	uint16_t vid;
	uint16_t default_of; /* rules_*: the set whose default decided; RULE_NONE */
	uint32_t bytes;	     /* tx: of the frame there; flood: ports */
	uint32_t limit;	     /* tx: MTU, 0: none */
	uint32_t rules;	     /* rules_*: the first of `rule_count` rules met, in the trace's list */
	uint32_t rule_count;
	uint32_t left_out; /* rules_*: rules beyond those listed */
};

/* A rule that was looked at. */
struct trace_rule {
	uint32_t slot;
	uint16_t set;
	uint8_t field;		 /* enum trace_field: the first that differs */
	struct rule_match wants; /* the alternative that comes closest; of a match: the one */
	struct rule_action action;
	char id[RULE_ID_MAX + 1];
};

struct trace {
	uint64_t generation;
	struct flow_key key; /* as the rules of ingress see it */
	uint32_t step_count;
	uint32_t rule_count;
	struct trace_step steps[TRACE_STEPS_MAX];
	struct trace_rule rules[TRACE_RULES_MAX];
};

struct engine;

/*
 * state: enum flow_state to assume; 0: what the table of connections says. EINVAL: no frame has
 * that length; ENOENT: the configuration in force has no such port; E2BIG: there is more to tell
 * than TRACE_STEPS_MAX steps.
 */
int engine_trace(struct engine *engine, uint16_t in_port, const uint8_t *bytes, uint32_t len,
		 uint8_t state, struct trace *trace, struct error *err);
/* cffi: end */

/* The first field of the key that the alternative does not agree with. */
enum trace_field trace_differs(const struct rule_match *match, const struct flow_key *key);
