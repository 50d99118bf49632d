/*
 * What rules do to a frame at one stage: count, log, mirror, police, edit, answer.
 *
 * Runs on: workers.
 */
#pragma once

#include "rules_work.h"

/* A frame at a stage. */
struct action_frame {
	struct frame *frame; /* its flags may change, its bytes do not */
	struct flow_key *key;
	struct port_counters *cell; /* the port's that a drop is booked on */
	unsigned index;		    /* in the batch */
	uint16_t out_port;	    /* RULE_NONE at ingress */
	uint16_t redirect;	    /* of the verdict RULES_REDIRECT */
	struct rule_action set;	    /* what `set` rules want together: set_fields, and values */
};

static inline void rule_count(struct rule_counter *row, uint64_t now_s, uint32_t bytes)
{
	counter_add(&row->frames, 1);
	counter_add(&row->bytes, bytes);
	atomic_store_explicit((_Atomic uint64_t *)&row->last_s, now_s, memory_order_relaxed);
}

/* A rule that does nothing but what rule_count does, and decides or goes on. */
static inline bool action_counts_only(const struct rule_action *action)
{
	return !action->log && (action->type == RULE_ALLOW || action->type == RULE_DROP ||
				action->type == RULE_JUMP);
}

/* Does what a rule that is met says, but for set and redirect, which are left in `at`. False: a
 * policer's rate is exceeded. */
bool action_do(struct rules_work *work, struct action_frame *at, const struct classify_rule *rule);

/* Adds what a `set` rule wants to what those before it do; what a later one sets counts. */
void action_collect(struct rule_action *set, const struct rule_action *action);

/* Does a mirror's copy of a frame go to `port`? out_port: RULE_NONE at ingress. */
static inline bool action_mirrors(const struct bridge_tables *bridges, uint16_t port,
				  uint16_t in_port, uint16_t out_port)
{
	return port < bridges->ports_max && bridges->ports[port].present &&
	       bridges->ports[port].admin_up && port != in_port && port != out_port;
}

/* Tells the sender, once a frame. */
void action_answer(struct rules_work *work, const struct action_frame *at);

/*
 * Writes the frame's headers anew as `set` says: new descriptors in first and rest, bytes in
 * header[RULES_HEADER_MAX]. first may be the frame itself. VLAN as rule.h has it.
 */
void action_edit(const struct frame *frame, const struct flow_key *key,
		 const struct rule_action *set, bool filtering, struct frame *first,
		 struct frame *rest, uint8_t *header);
