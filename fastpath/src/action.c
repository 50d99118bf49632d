/* Runs on: workers. */
#include "action.h"

#include <string.h>
#include <time.h>

#include "offload.h"
#include "parse.h"
#include "vlan.h"

enum { PROTO_TCP = 6 };

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- log -------------------------------------------------------------------------------------
 */

/* All stages of a frame are logged, or none: who reads the log can compare them. */
static bool log_admits(struct rules_work *work, unsigned index)
{
	uint64_t bit = (uint64_t)1 << index;

	if (work->logged & bit)
		return true;
	if ((work->unlogged & bit) || !rule_log_admit(work->log, work->now_s)) {
		work->unlogged |= bit;
		return false;
	}
	work->logged |= bit;
	return true;
}

static void log_frame(struct rules_work *work, const struct action_frame *at,
		      const struct classify_rule *rule)
{
	struct rule_log_record record = {
	    .generation = work->generation,
	    .frame = work->frame_number + at->index,
	    .rule = rule->slot,
	    .frame_len = at->frame->frame_len,
	    .in_port = work->in_port,
	    .out_port = at->out_port,
	    .action = rule->action.type,
	};

	if (!log_admits(work, at->index)) {
		rule_log_lose(work->log);
		return;
	}
	record.time_ns = clock_ns(CLOCK_REALTIME);
	record.head_len = (uint8_t)frame_peek(at->frame, record.head, sizeof(record.head));
	rule_log_put(work->log, &record);
}

/* --- mirror and answer -------------------------------------------------------------------------
 */

/* On a list of what is sent beside the batch; false: no room. */
static bool put_aside(struct rules_work *work, uint16_t port, struct frame *frame)
{
	struct bridge_lists *lists = &work->aside;
	unsigned listed = lists->counts[port];

	if (listed == FRAME_BATCH)
		return false;
	lists->frames[port][listed] = frame;
	lists->counts[port] = (uint16_t)(listed + 1);
	if (!listed)
		lists->active[lists->active_count++] = port;
	return true;
}

/* A chain of the frame's first `bytes`, in descriptors of the pool; NULL: there are too few. */
static struct frame *mirror_chain(struct rules_work *work, const struct frame *frame,
				  uint32_t bytes)
{
	struct frame *first = &work->mirrors[work->mirror_count];
	bool cut = bytes < frame->frame_len;
	uint32_t left = bytes;

	for (struct frame *copy = first;; copy++, frame = frame->next) {
		if (copy == work->mirrors + RULES_MIRRORS)
			return NULL;
		*copy = *frame;
		copy->pool = 0;
		copy->slot = NULL;
		copy->headroom = 0;
		copy->len = frame->len < left ? frame->len : left;
		left -= copy->len;
		work->mirror_count = (unsigned)(copy + 1 - work->mirrors);
		if (!cut)
			break; /* the rest of the chain is the frame's own */
		copy->next = left && frame->next ? copy + 1 : NULL;
		if (!copy->next)
			break;
	}
	first->flags = (uint8_t)(first->flags | FRAME_SHARED | FRAME_AS_IS);
	first->frame_len = bytes;
	if (cut)
		first->offload = (struct frame_offload){0};
	return first;
}

static void mirror(struct rules_work *work, const struct action_frame *at,
		   const struct rule_action *action)
{
	uint32_t bytes = at->frame->frame_len;
	unsigned mirrors = work->mirror_count;
	struct frame *copy;

	if (!action_mirrors(work->bridges, action->port, work->in_port, at->out_port))
		return;
	if (action->snaplen != RULE_SNAPLEN_ALL && action->snaplen < bytes)
		bytes = action->snaplen;
	counter_add(&work->cells[work->in_port].copies, 1);
	copy = mirror_chain(work, at->frame, bytes);
	if (!copy || !put_aside(work, action->port, copy)) {
		work->mirror_count = mirrors;
		counter_add(&work->cells[action->port].tx_drops[DROP_NO_BUFFER], 1);
		return;
	}
	/* its bytes have another reader now */
	at->frame->flags |= FRAME_SHARED;
}

static uint64_t now_ns(struct rules_work *work)
{
	if (!work->now_ns)
		work->now_ns = clock_ns(CLOCK_MONOTONIC);
	return work->now_ns;
}

void action_answer(struct rules_work *work, const struct action_frame *at)
{
	uint8_t *bytes = work->answer_bytes[at->index];
	uint64_t bit = (uint64_t)1 << at->index;
	uint32_t len;

	if (work->answered & bit)
		return;
	work->answered |= bit;
	len = reject_build(at->frame, at->key, bytes);
	/* errors of ICMP have to be limited (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f) */
	if (!len || (at->key->ip_proto != PROTO_TCP &&
		     !policer_take(&work->icmp_errors, now_ns(work), 0, 1)))
		return;
	work->answers[at->index] = (struct frame){
	    .data = bytes,
	    .len = len,
	    .frame_len = len,
	    .in_port = work->in_port,
	    .vid = at->frame->vid,
	    .flags = FRAME_ORIGINATED | FRAME_AS_IS | FRAME_NO_LEARN,
	    .tags = at->frame->tags,
	    .l3_offset = at->frame->l3_offset,
	    .ethertype = at->frame->ethertype,
	};
	counter_add(&work->cells[work->in_port].originated, 1);
	work->edited = true; /* may be longer than any frame of the batch */
	if (!put_aside(work, work->in_port, &work->answers[at->index]))
		counter_add(&work->cells[work->in_port].tx_drops[DROP_NO_BUFFER], 1);
}

/* --- rules -------------------------------------------------------------------------------------
 */

static uint32_t segments(const struct frame *frame)
{
	struct offload_cut cut;

	if (frame->offload.gso_type == FRAME_GSO_NONE || offload_cut_begin(&cut, frame, 0))
		return 1;
	return cut.count;
}

static bool police(struct rules_work *work, const struct action_frame *at, uint16_t id)
{
	struct policer *policer = work->tables->policers[id];

	if (!policer)
		return true;
	return policer_take(policer, now_ns(work), at->frame->frame_len,
			    policer->config.frames ? segments(at->frame) : 1);
}

void action_collect(struct rule_action *set, const struct rule_action *action)
{
	set->set_fields |= action->set_fields;
	if (action->set_fields & RULE_SET_VLAN)
		set->vid = action->vid;
	if (action->set_fields & RULE_SET_PCP)
		set->pcp = action->pcp;
	if (action->set_fields & RULE_SET_DSCP)
		set->dscp = action->dscp;
	if (action->set_fields & RULE_SET_ETH_SRC)
		memcpy(set->eth_src, action->eth_src, sizeof(set->eth_src));
	if (action->set_fields & RULE_SET_ETH_DST)
		memcpy(set->eth_dst, action->eth_dst, sizeof(set->eth_dst));
}

bool action_do(struct rules_work *work, struct action_frame *at, const struct classify_rule *rule)
{
	const struct rule_action *action = &rule->action;

	rule_count(&work->counters[rule->slot], work->now_s, at->frame->frame_len);
	if (__builtin_expect(action->log || action->type == RULE_LOG, 0))
		log_frame(work, at, rule);
	switch (action->type) {
	case RULE_MIRROR:
		mirror(work, at, action);
		return true;
	case RULE_POLICE:
		return police(work, at, action->policer);
	case RULE_SET:
		action_collect(&at->set, action);
		return true;
	case RULE_REDIRECT:
		at->redirect = action->port;
		return true;
	default:
		return true;
	}
}

/* --- set ---------------------------------------------------------------------------------------
 */

/* The sum's complement after one of its words has changed (RFC 1624, equation 3). */
static uint16_t checksum_update(uint16_t sum, uint16_t old, uint16_t new)
{
	uint32_t update = (uint16_t)~sum + (uint32_t)(uint16_t)~old + new;

	update = (update & 0xffff) + (update >> 16);
	update = (update & 0xffff) + (update >> 16);
	return (uint16_t)~update;
}

/* ip: the first 12 bytes of IPv4, the first two of IPv6. */
static void edit_dscp(uint8_t *ip, uint8_t version, uint8_t dscp)
{
	uint16_t old = load_be16(ip);

	if (version == 4) {
		uint16_t new = (uint16_t)((old & 0xff03) | dscp << 2);

		store_be16(ip, new);
		store_be16(ip + 10, checksum_update(load_be16(ip + 10), old, new));
	} else {
		store_be16(ip, (uint16_t)((old & 0xf03f) | dscp << 6));
	}
}

/* What becomes of the frame's tag. */
static enum vlan_edit edit_tag(const struct frame *frame, const struct rule_action *set,
			       bool filtering)
{
	bool pcp = set->set_fields & RULE_SET_PCP;
	bool vlan = set->set_fields & RULE_SET_VLAN;

	if (frame->tags) {
		if (vlan && !filtering && !set->vid)
			return VLAN_EDIT_POP;
		if (pcp || (vlan && (!filtering || frame->tag == VLAN_TAG_VID)))
			return VLAN_EDIT_SET;
		return VLAN_EDIT_NONE;
	}
	if (filtering)
		return pcp && frame->tag == VLAN_TAG_NONE ? VLAN_EDIT_PUSH : VLAN_EDIT_NONE;
	return pcp || (vlan && set->vid) ? VLAN_EDIT_PUSH : VLAN_EDIT_NONE;
}

/* The tag's TCI as it shall be, from the one it is (0 without a tag). */
static uint16_t edit_tci(const struct frame *frame, const struct rule_action *set, bool filtering,
			 uint16_t tci)
{
	if (set->set_fields & RULE_SET_PCP)
		tci = (uint16_t)((tci & 0x1fff) | set->pcp << 13);
	if ((set->set_fields & RULE_SET_VLAN) && (!filtering || frame->tag == VLAN_TAG_VID))
		tci = (uint16_t)((tci & 0xf000) | set->vid);
	return tci;
}

/* `first` is the edited header of header_bytes; behind it stands `frame` without `consumed`. */
static void edit_chain(const struct frame *frame, uint32_t consumed, struct frame *first,
		       struct frame *rest, uint8_t *header, uint32_t header_bytes)
{
	const struct frame *at = frame;

	while (at->next && consumed >= at->len) {
		consumed -= at->len;
		at = at->next;
	}
	*rest = *at;
	rest->data += consumed;
	rest->len -= consumed;
	rest->headroom = 0;
	rest->pool = 0;
	rest->slot = NULL;
	if (first != frame)
		*first = *frame;
	first->next = rest->len || rest->next ? rest : NULL;
	first->data = header;
	first->len = header_bytes;
	first->headroom = 0;
	first->pool = 0;
	first->slot = NULL;
}

void action_edit(const struct frame *frame, const struct flow_key *key,
		 const struct rule_action *set, bool filtering, struct frame *first,
		 struct frame *rest, uint8_t *header)
{
	enum vlan_edit tag = edit_tag(frame, set, filtering);
	bool dscp = (set->set_fields & RULE_SET_DSCP) && (key->layers & FLOW_IP);
	unsigned ip_bytes = !dscp ? 0 : key->ip_version == 4 ? 12 : 2;
	unsigned behind = 12, at = 12; /* the addresses in the old and in the new header */
	uint8_t old[RULES_HEADER_MAX] = {0};
	uint32_t have;

	if (tag == VLAN_EDIT_NONE && set->set_fields == RULE_SET_VLAN) {
		*first = *frame; /* a name the switch has for it, no byte */
		first->vid = filtering ? set->vid : 0;
		return;
	}
	have = frame_peek(frame, old, frame->l3_offset + ip_bytes);
	if (dscp && have == frame->l3_offset + ip_bytes)
		edit_dscp(old + frame->l3_offset, key->ip_version, set->dscp);
	memcpy(header, set->set_fields & RULE_SET_ETH_DST ? set->eth_dst : old, 6);
	memcpy(header + 6, set->set_fields & RULE_SET_ETH_SRC ? set->eth_src : old + 6, 6);
	if (tag != VLAN_EDIT_NONE && tag != VLAN_EDIT_PUSH)
		behind += VLAN_TAG_BYTES;
	if (tag == VLAN_EDIT_SET || tag == VLAN_EDIT_PUSH) {
		bool push = tag == VLAN_EDIT_PUSH;

		store_be16(header + 12, push ? VLAN_TPID_C : load_be16(old + 12));
		store_be16(header + 14,
			   edit_tci(frame, set, filtering, push ? 0 : load_be16(old + 14)));
		at += VLAN_TAG_BYTES;
	}
	memcpy(header + at, old + behind, have - behind);
	edit_chain(frame, have, first, rest, header, at + have - behind);
	if ((set->set_fields & RULE_SET_VLAN) && filtering && set->vid)
		first->vid = set->vid;
	if (tag == VLAN_EDIT_PUSH && filtering)
		first->tag = VLAN_TAG_PRIORITY;
	vlan_book(first, tag);
}
