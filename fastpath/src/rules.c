/* Runs on: workers. */
#include "rules.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "action.h"
#include "bridge_decide.h"
#include "parse.h"
#include "rules_hits.h"
#include "rules_work.h"

/* --- a frame at a stage ------------------------------------------------------------------------
 */

enum { GOES_ON = DROP_REASONS, GOES_ELSEWHERE }; /* beside the reasons why it does not */

/* A way too long to be kept: its rules act while they are found. */
static unsigned act_walking(struct rules_work *work, const struct rules_stage *stage,
			    struct action_frame *at, bool *in_rate)
{
	const struct classify_rule *rule;
	struct rules_walk walk;

	rules_walk_begin(&walk, work->tables, stage, at->key);
	while (*in_rate && (rule = rules_walk_next(&walk)))
		*in_rate = action_do(work, at, rule);
	return walk.verdict;
}

/* Does what the rules of the way say; returns why the frame is dropped, or where it goes. */
static unsigned act(struct rules_work *work, const struct rules_stage *stage,
		    const struct flow_path *path, struct action_frame *at)
{
	unsigned verdict = path->verdict;
	bool in_rate = true;

	if (__builtin_expect(path->count > FLOW_PATH_MAX, 0)) {
		verdict = act_walking(work, stage, at, &in_rate);
	} else {
		for (unsigned i = 0; i < path->count && in_rate; i++)
			in_rate = action_do(work, at, path->rules[i]);
	}
	if (__builtin_expect(!in_rate, 0))
		return DROP_POLICED;
	switch (verdict) {
	case RULES_GO:
		return GOES_ON;
	case RULES_DROP_DEFAULT:
		return DROP_RULE_DEFAULT;
	case RULES_REJECT:
		action_answer(work, at);
		return DROP_REJECTED;
	case RULES_REDIRECT:
		return GOES_ELSEWHERE;
	default:
		return DROP_RULE;
	}
}

/* --- keys and states ---------------------------------------------------------------------------
 */

static void key_parse(struct rules_work *work, const struct frame *frame, unsigned index)
{
	parse_flow(frame, &work->keys[index]);
	work->keyed |= (uint64_t)1 << index;
}

/* In the order of the batch: a frame's state may come from the one before it. */
static void state_find(struct rules_work *work, const struct action_frame *at, uint64_t hash)
{
	struct flow_key *key = &work->keys[at->index];
	uint64_t bit = (uint64_t)1 << at->index;

	if (!(work->tracked & bit)) {
		work->tracked |= bit;
		key->state = (uint8_t)conntrack_lookup_hashed(work->tables->conntrack, key,
							      at->frame, work->bridge, work->tick,
							      hash, &work->refs[at->index]);
	}
	at->key->state = key->state;
}

/* The frame is allowed. False: it begins a connection that there is no room for. */
static bool state_commit(struct rules_work *work, const struct frame *frame, unsigned index)
{
	uint64_t bit = (uint64_t)1 << index;

	if (work->committed & bit)
		return true;
	work->committed |= bit;
	return conntrack_commit(work->tables->conntrack, &work->keys[index], frame, work->bridge,
				work->tick, &work->refs[index]) != -ENOSPC;
}

/* The way of a key, which asks the flow cache as the n-th one, from the cache or found anew. */
static void way_find(struct rules_work *work, const struct rules_stage *stage,
		     const struct flow_key *key, unsigned n)
{
	uint64_t generation = work->tables->generation, hash = work->hashes[n];
	const struct flow_key *masked = &work->masked[n];
	struct flow_path *path = &work->paths[n];
	const struct flow_path *known;

	if (work->cache) {
		known = flow_cache_find(work->cache, hash, generation, stage->number, masked);
		if (known) {
			*path = *known;
			return;
		}
	}
	rules_resolve(work->tables, stage, key, path);
	if (work->cache)
		flow_cache_insert(work->cache, hash, generation, stage->number, masked, path);
}

/*
 * A frame, whose key is there and which asks the flow cache as the n-th one, through a stage. If
 * that uses the state, the hash is the connection's, or 0, and the question is put here; else its
 * way is there already.
 */
static unsigned pass(struct rules_work *work, const struct rules_stage *stage,
		     struct action_frame *at, unsigned n)
{
	unsigned fate;

	if (stage->uses_state) {
		state_find(work, at, work->hashes[n]);
		rules_mask(at->key, &stage->needs, &work->masked[n]);
		if (work->cache)
			work->hashes[n] =
			    flow_cache_prefetch(work->cache, stage->number, &work->masked[n]);
		way_find(work, stage, at->key, n);
	}
	fate = act(work, stage, &work->paths[n], at);
	if (stage->uses_state && fate >= GOES_ON && !state_commit(work, at->frame, at->index))
		return DROP_CONNECTION_LIMIT;
	return fate;
}

/* --- stages ------------------------------------------------------------------------------------
 */

void rules_begin(struct rules_work *work, const struct rules_tables *tables,
		 const struct bridge_tables *bridges, uint64_t generation, uint16_t in_port,
		 const struct frame *batch, unsigned count)
{
	const struct bridge_port *in = &bridges->ports[in_port];
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	work->tick = (uint32_t)now.tv_sec;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	work->now_s = (uint64_t)now.tv_sec;
	work->now_ns = 0;
	work->tables = tables;
	work->bridges = bridges;
	work->generation = generation;
	work->in_port = in_port;
	work->bridge = in->bridge;
	work->filtering = in->bridge != BRIDGE_NONE && bridges->bridges[in->bridge].vlan_filtering;
	work->batch = batch;
	work->frame_number += work->batch_count;
	work->batch_count = count;
	work->edited = work->moving = false;
	work->keyed = work->tracked = work->committed = work->answered = 0;
	work->logged = work->unlogged = work->redirected = 0;
}

/* What `set` says, in the frame where it stands in the batch, and in its key. */
static void edit_batch_frame(struct rules_work *work, struct frame *frame, unsigned index,
			     const struct rule_action *set)
{
	uint8_t state = work->keys[index].state;

	action_edit(frame, &work->keys[index], set, work->filtering, frame, &work->rests[index],
		    work->headers[index]);
	work->edited = true;
	key_parse(work, frame, index);
	work->keys[index].state = state;
}

/* One frame at the ingress stage; false: it ends here. */
static bool enter(struct rules_work *work, const struct rules_stage *stage, struct action_frame *at,
		  unsigned n)
{
	unsigned fate = pass(work, stage, at, n);

	if (fate < GOES_ON) {
		counter_add(&at->cell->rx_drops[fate], 1);
		return false;
	}
	if (fate == GOES_ELSEWHERE) {
		work->redirected |= (uint64_t)1 << at->index;
		work->redirect[at->index] = at->redirect;
	}
	return true;
}

/* One of the batch, or one that an egress stage has edited? */
static bool of_batch(const struct rules_work *work, const struct frame *frame)
{
	return frame >= work->batch && frame < work->batch + FRAME_BATCH;
}

static struct rules_edit *edit_of(struct frame *frame)
{
	return (struct rules_edit *)(void *)frame; /* its first member */
}

/* The frame's key, parsed where it was not yet, and its number in the batch. */
static struct flow_key *key_of(struct rules_work *work, struct frame *frame, unsigned *index)
{
	if (__builtin_expect(!of_batch(work, frame), 0)) {
		*index = edit_of(frame)->index;
		return &edit_of(frame)->key;
	}
	*index = (unsigned)(frame - work->batch);
	if (!(work->keyed >> *index & 1))
		key_parse(work, frame, *index);
	return &work->keys[*index];
}

/* The frames that meet a stage, and by bit those of them that ... */
struct meeting {
	unsigned count;
	uint64_t left; /* the long way is for */
	uint64_t gone; /* are dropped already */
	struct frame *frames[FRAME_BATCH];
};

enum { MEETS_NONE = FRAME_AS_IS | FRAME_ORIGINATED }; /* copies, and what drivers made */

static bool meets_rules(const struct frame *frame)
{
	return !(frame->flags & MEETS_NONE);
}

/* Those whose connection is not known yet; hashes of the others are not asked for. */
static void connections_ahead(struct rules_work *work, const struct meeting *meeting)
{
	uint64_t hashes[FRAME_BATCH] = {0};
	uint64_t frames = 0;
	unsigned index[FRAME_BATCH];

	for (unsigned n = 0; n < meeting->count; n++) {
		key_of(work, meeting->frames[n], &index[n]);
		frames |= (uint64_t)1 << index[n];
	}
	conntrack_prefetch(work->tables->conntrack, work->keys, frames & ~work->tracked,
			   work->bridge, hashes);
	for (unsigned n = 0; n < meeting->count; n++)
		work->hashes[n] = hashes[index[n]];
}

/* Is it enough to count the rules of a way, whether it is kept or not? */
static bool way_counts_only(const struct flow_path *path)
{
	return path->count <= FLOW_PATH_MAX && path->slots[0] != FLOW_PATH_ACTS;
}

/* Does what such ways say, which are those of some of the frames by number. */
static void ways_settle(struct rules_work *work, struct meeting *meeting, uint64_t frames,
			uint64_t *drops)
{
	for (uint64_t left = frames; left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);
		const struct flow_path *path = &work->paths[n];

		for (unsigned i = 0; i < path->count; i++)
			rule_count(&work->counters[path->slots[i]], work->now_s,
				   meeting->frames[n]->frame_len);
		if (path->verdict != RULES_GO) {
			meeting->gone |= (uint64_t)1 << n;
			counter_add(
			    &drops[path->verdict == RULES_DROP ? DROP_RULE : DROP_RULE_DEFAULT], 1);
		}
	}
	meeting->left &= ~frames;
}

/*
 * The ways of those that the cache does not know, step by step for all: rules of one key and the
 * cache's room for it are fetched while others are looked at. What is classified is the question
 * itself, which has all bits that any rule looks at: what is inserted is of no other key, whoever
 * writes the frame's bytes meanwhile.
 */
static void ways_ahead(struct rules_work *work, const struct rules_stage *stage,
		       struct meeting *meeting, uint64_t unknown, uint64_t *drops)
{
	const struct classifier *classifier = work->tables->sets[stage->sets[0]].classifier;
	const struct flow_key *keys[FRAME_BATCH] = {NULL};
	const struct classify_rule *first[FRAME_BATCH];
	uint64_t generation = work->tables->generation;
	struct flow_cache *cache = work->cache;
	struct flow_place places[FRAME_BATCH];
	uint8_t numbers[FRAME_BATCH]; /* of the frames */
	uint64_t admitted = 0, settled = 0;
	unsigned count = 0;

	for (uint64_t left = unknown; left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);

		keys[count] = &work->masked[n];
		numbers[count++] = (uint8_t)n;
	}
	if (cache)
		admitted = flow_cache_admit(cache, meeting->count, count) & bits_below(count);
	for (uint64_t left = admitted; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);

		places[i] = flow_cache_place(cache, work->hashes[numbers[i]], generation);
	}
	classify_batch(classifier, keys, count, first);
	for (unsigned i = 0; i < count; i++) {
		unsigned n = numbers[i];
		struct flow_path *path = &work->paths[n];

		rules_resolve_from(work->tables, stage, keys[i], first[i], path);
		if (admitted >> i & 1)
			flow_cache_put(cache, places[i], work->hashes[n], generation, stage->number,
				       keys[i], path);
		if (way_counts_only(path)) {
			settled |= (uint64_t)1 << n;
			__builtin_prefetch(&work->counters[path->slots[0]], 1);
		}
	}
	ways_settle(work, meeting, settled, drops);
}

/* What the short way would ask, without a cache. */
static void questions_make(struct rules_work *work, const struct rules_stage *stage,
			   const struct meeting *meeting)
{
	for (unsigned n = 0; n < meeting->count; n++) {
		unsigned index;

		rules_mask(key_of(work, meeting->frames[n], &index), &stage->needs,
			   &work->masked[n]);
	}
}

/* Takes all that it can the short way; what that one drops is booked in drops[]. */
static void meet(struct rules_work *work, const struct rules_stage *stage, struct meeting *meeting,
		 uint64_t *drops)
{
	meeting->left = bits_below(meeting->count);
	meeting->gone = 0;
	if (stage->uses_state) {
		connections_ahead(work, meeting);
		return;
	}
	work->known = 0;
	if (work->cache)
		meeting->left =
		    work->hits(work, stage, meeting->frames, meeting->count, drops, &meeting->gone);
	else
		questions_make(work, stage, meeting);
	if (meeting->left & ~work->known)
		ways_ahead(work, stage, meeting, meeting->left & ~work->known, drops);
	else if (work->cache)
		flow_cache_admit(work->cache, meeting->count, 0);
}

static void arrive(struct rules_work *work, struct frame *frame, uint16_t port, uint16_t out_port,
		   struct action_frame *at)
{
	at->frame = frame;
	at->key = key_of(work, frame, &at->index);
	at->cell = &work->cells[port];
	at->out_port = out_port;
	at->set.set_fields = 0; /* the rest counts where its bit is set */
}

/* Those of the batch that meet the ingress stage. */
static unsigned meeting_fill(struct meeting *meeting, struct frame *batch, unsigned batch_count,
			     uint64_t accepted)
{
	unsigned flags = 0, count = 0;

	for (unsigned i = 0; i < batch_count; i++) {
		meeting->frames[i] = &batch[i];
		flags |= batch[i].flags;
	}
	if (__builtin_expect(accepted == bits_below(batch_count) && !(flags & MEETS_NONE), 1))
		return batch_count;
	for (unsigned i = 0; i < batch_count; i++) {
		meeting->frames[count] = &batch[i];
		count += (accepted >> i & 1) && meets_rules(&batch[i]);
	}
	return count;
}

uint64_t rules_ingress(struct rules_work *work, const struct rules_stage *stage,
		       struct frame *batch, uint64_t accepted, uint64_t *edited)
{
	struct meeting meeting;
	uint64_t on = accepted;

	*edited = 0;
	meeting.count = meeting_fill(&meeting, batch, work->batch_count, accepted);
	meet(work, stage, &meeting, work->cells[work->in_port].rx_drops);
	for (uint64_t gone = meeting.gone; gone; gone &= gone - 1)
		on &= ~((uint64_t)1 << (meeting.frames[__builtin_ctzll(gone)] - batch));
	for (uint64_t left = meeting.left; left; left &= left - 1) {
		unsigned n = (unsigned)__builtin_ctzll(left);
		struct action_frame at;
		uint64_t bit;

		arrive(work, meeting.frames[n], work->in_port, RULE_NONE, &at);
		bit = (uint64_t)1 << at.index;
		if (!enter(work, stage, &at, n)) {
			on &= ~bit;
		} else if (at.set.set_fields) {
			edit_batch_frame(work, at.frame, at.index, &at.set);
			*edited |= bit;
		}
	}
	return on;
}

/* The frame with what `set` says for this destination; NULL: no room. */
static struct frame *edit_for_port(struct rules_work *work, const struct action_frame *at)
{
	struct rules_edit *edit = &work->edits[work->edit_count];

	if (work->edit_count == RULES_EDITS)
		return NULL;
	work->edit_count++;
	edit->index = at->index;
	action_edit(at->frame, at->key, &at->set, work->filtering, &edit->first, &edit->rest,
		    edit->header);
	parse_flow(&edit->first, &edit->key);
	edit->key.state = at->key->state;
	work->edited = true;
	return &edit->first;
}

/* The frame leaves by another port; its rules are asked when what is here has been sent. */
static void redirect(struct rules_work *work, const struct action_frame *at, struct frame *frame)
{
	const struct bridge_tables *bridges = work->bridges;
	const uint64_t *reach = bridges->ports[work->in_port].reach;
	struct bridge_lists *moved = &work->moved;
	uint16_t to = at->redirect;
	unsigned listed;

	if (work->moving || to >= bridges->ports_max ||
	    !bridge_reaches(bridges, reach, to, work->filtering, frame->vid)) {
		unsigned reason = work->moving ? (unsigned)DROP_DESTINATION_DOWN
					       : bridge_unicast_refusal(bridges, work->in_port, to);

		counter_add(&at->cell->tx_drops[reason], 1);
		return;
	}
	listed = moved->counts[to];
	moved->frames[to][listed] = frame;
	moved->counts[to] = (uint16_t)(listed + 1);
	if (!listed)
		moved->active[moved->active_count++] = to;
}

/* One frame at a destination; NULL: it does not leave here. */
static struct frame *leave(struct rules_work *work, const struct rules_stage *stage,
			   struct action_frame *at, unsigned n)
{
	struct frame *frame = at->frame;
	unsigned fate = pass(work, stage, at, n);

	if (fate < GOES_ON) {
		counter_add(&at->cell->tx_drops[fate], 1);
		return NULL;
	}
	if (at->set.set_fields) {
		frame = edit_for_port(work, at);
		if (!frame) {
			counter_add(&at->cell->tx_drops[DROP_NO_BUFFER], 1);
			return NULL;
		}
	}
	if (fate == GOES_ELSEWHERE && at->redirect != at->out_port) {
		redirect(work, at, frame);
		return NULL;
	}
	return frame;
}

unsigned rules_egress(struct rules_work *work, const struct rules_stage *stage, uint16_t out_port,
		      struct frame **frames, unsigned count)
{
	struct meeting meeting;
	unsigned kept = 0, met = 0;

	meeting.count = 0;
	for (unsigned n = 0; n < count; n++) {
		meeting.frames[meeting.count] = frames[n];
		meeting.count += meets_rules(frames[n]);
	}
	meet(work, stage, &meeting, work->cells[out_port].tx_drops);
	for (unsigned n = 0; n < count; n++) {
		struct frame *frame = frames[n];

		if (meets_rules(frame)) {
			if (meeting.left >> met & 1) {
				struct action_frame at;

				arrive(work, frame, out_port, out_port, &at);
				frame = leave(work, stage, &at, met);
			} else if (meeting.gone >> met & 1) {
				frame = NULL;
			}
			met++;
		}
		if (frame)
			frames[kept++] = frame;
	}
	return kept;
}
