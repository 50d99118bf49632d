/* Lookup and commit on workers; dump, flush and ageing on the control thread: conntrack.h. */
#include "conntrack.h"

#include <errno.h>

#include "conntrack_table.h"
#include "rule.h"

/* --- what a frame is to a connection ------------------------------------------------------------
 */

/* entry NULL: there is none that lives. *tcp: its state behind the frame. */
static enum conntrack_step step_of(const struct conntrack *table,
				   const struct conntrack_entry *entry, bool reply, bool may_begin,
				   const struct flow_key *key, uint8_t *tcp)
{
	*tcp = CONNTRACK_TCP_NONE;
	if (key->ip_proto == CONNTRACK_TCP)
		return conntrack_tcp_step(entry, reply, key->tcp_flags,
					  atomic_load_explicit(&table->loose, memory_order_relaxed),
					  tcp);
	if (entry)
		return CONNTRACK_STEP_STAYS;
	return may_begin ? CONNTRACK_STEP_NEW : CONNTRACK_STEP_INVALID;
}

static enum flow_state state_of(enum conntrack_step step, const struct conntrack_entry *entry,
				bool reply)
{
	if (step == CONNTRACK_STEP_INVALID)
		return FLOW_INVALID;
	if (step == CONNTRACK_STEP_NEW)
		return FLOW_NEW;
	return reply || entry->answered ? FLOW_ESTABLISHED : FLOW_NEW;
}

/* Held. The connection that lives, or NULL; *index also when it has timed out. */
static struct conntrack_entry *living(const struct conntrack *table,
				      const struct conntrack_shard *shard, uint64_t hash,
				      const struct conntrack_tuple *tuple, uint32_t now,
				      uint32_t *index)
{
	struct conntrack_entry *entry;

	*index = conntrack_find(table, shard, hash, tuple);
	if (!*index)
		return NULL;
	entry = conntrack_at(table, *index);
	return conntrack_expired(table, entry, now) ? NULL : entry;
}

void conntrack_prefetch(const struct conntrack *table, const struct flow_key *keys, uint64_t which,
			uint16_t bridge, uint64_t *hashes)
{
	struct conntrack_view view;

	for (uint64_t left = which; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);

		hashes[i] = 0;
		if (!conntrack_is_plain(&keys[i]))
			continue;
		conntrack_view(&keys[i], NULL, bridge, &view);
		hashes[i] = conntrack_hash(table, &view.tuple);
		__builtin_prefetch(
		    conntrack_chain(table, conntrack_shard_of(table, hashes[i]), hashes[i]));
	}
	for (uint64_t left = which; left; left &= left - 1) {
		uint64_t hash = hashes[__builtin_ctzll(left)];
		uint32_t index;

		if (!hash)
			continue;
		index = atomic_load_explicit(
		    conntrack_chain(table, conntrack_shard_of(table, hash), hash),
		    memory_order_relaxed);
		if (index) {
			__builtin_prefetch(conntrack_at(table, index), 1);
			__builtin_prefetch(&conntrack_at(table, index)->frames, 1);
		}
	}
}

enum flow_state conntrack_lookup_hashed(struct conntrack *table, const struct flow_key *key,
					const struct frame *frame, uint16_t bridge, uint32_t now,
					uint64_t hash, struct conntrack_ref *ref)
{
	const struct conntrack_entry *entry;
	struct conntrack_shard *shard;
	struct conntrack_view view;
	enum conntrack_step step;
	uint32_t index;
	uint8_t tcp;

	*ref = (struct conntrack_ref){0};
	conntrack_view(key, frame, bridge, &view);
	if (view.sort == CONNTRACK_NOT_TRACKED)
		return 0;
	ref->state = FLOW_INVALID;
	if (view.sort == CONNTRACK_LATER)
		ref->state = (uint8_t)conntrack_fragment_find(table, key, frame, bridge, now, ref);
	if (view.sort != CONNTRACK_TRACKED && view.sort != CONNTRACK_ABOUT)
		return ref->state;
	ref->hash = hash ? hash : conntrack_hash(table, &view.tuple);
	shard = conntrack_shard_of(table, ref->hash);
	conntrack_lock(&shard->lock);
	entry = living(table, shard, ref->hash, &view.tuple, now, &index);
	if (view.sort == CONNTRACK_ABOUT) {
		ref->hash = 0;
		if (entry)
			ref->state = FLOW_RELATED;
	} else {
		ref->reply = entry && view.from != entry->origin;
		step = step_of(table, entry, ref->reply, view.may_begin, key, &tcp);
		ref->state = (uint8_t)state_of(step, entry, ref->reply);
		if (step == CONNTRACK_STEP_STAYS) {
			ref->entry = index;
			ref->stamp = conntrack_stamp(entry);
		}
	}
	conntrack_unlock(&shard->lock);
	return ref->state;
}

/* --- commit -------------------------------------------------------------------------------------
 */

/* Held. A frame of a connection that is known. */
static void entry_advance(struct conntrack *table, uint32_t index, bool reply, uint32_t now,
			  uint32_t frame_len)
{
	struct conntrack_entry *entry = conntrack_at(table, index);
	bool answers = reply && !entry->answered, later = (int32_t)(now - entry->seen) > 0;

	if (!entry->answered && (answers || later))
		conntrack_list_move(table, index, answers);
	entry->answered |= reply;
	if (later)
		entry->seen = now;
	entry->frames[reply]++;
	entry->bytes[reply] += frame_len;
}

/* Held. Writes the entry of a free slot and makes it one. */
static void entry_begin(struct conntrack *table, struct conntrack_shard *shard, uint32_t index,
			uint64_t hash, const struct conntrack_view *view, uint16_t in_port,
			uint8_t tcp, uint32_t now)
{
	struct conntrack_entry *entry = conntrack_at(table, index);

	entry->tuple = view->tuple;
	entry->seen = now;
	entry->in_port = in_port;
	entry->origin = view->from;
	entry->answered = 0;
	entry->tcp = tcp;
	memset(entry->frames, 0, sizeof(entry->frames));
	memset(entry->bytes, 0, sizeof(entry->bytes));
	entry->hash = (uint32_t)hash;
	conntrack_insert(table, shard, index);
}

/*
 * Held. What the frame does to the connection as it is now, which may be another one than lookup
 * saw: a second worker may have been quicker. `room`: one connection more is paid for. Returns
 * whether that is still to be done.
 */
static bool commit_locked(struct conntrack *table, struct conntrack_shard *shard,
			  const struct conntrack_view *view, const struct flow_key *key,
			  uint32_t frame_len, uint32_t now, bool *room, struct conntrack_ref *ref)
{
	uint32_t index;
	struct conntrack_entry *entry = living(table, shard, ref->hash, &view->tuple, now, &index);
	bool reply = entry && view->from != entry->origin;
	uint8_t tcp;
	enum conntrack_step step = step_of(table, entry, reply, view->may_begin, key, &tcp);

	if (step == CONNTRACK_STEP_INVALID)
		return false;
	if (step == CONNTRACK_STEP_NEW) {
		if (index)
			conntrack_remove(table, shard, index);
		if (!*room)
			return true;
		index = conntrack_slot(table, shard);
		if (!index)
			return true;
		*room = false;
		entry_begin(table, shard, index, ref->hash, view, key->in_port, tcp, now);
	}
	entry_advance(table, index, reply, now, frame_len);
	conntrack_at(table, index)->tcp = tcp;
	ref->entry = index;
	ref->stamp = conntrack_stamp(conntrack_at(table, index));
	return false;
}

static int commit_tracked(struct conntrack *table, const struct flow_key *key,
			  const struct frame *frame, uint16_t bridge, uint32_t now,
			  struct conntrack_ref *ref)
{
	struct conntrack_shard *shard = conntrack_shard_of(table, ref->hash);
	struct conntrack_view view;
	bool room = false, more;

	conntrack_view(key, frame, bridge, &view);
	/* the bytes of a frame in somebody else's memory may have changed */
	if (view.sort != CONNTRACK_TRACKED || conntrack_hash(table, &view.tuple) != ref->hash)
		return 0;
	conntrack_lock(&shard->lock);
	more = commit_locked(table, shard, &view, key, frame->frame_len, now, &room, ref);
	conntrack_unlock(&shard->lock);
	if (!more)
		return 0;
	if (!conntrack_reserve(table, key->in_port))
		return -ENOSPC;
	room = true;
	conntrack_lock(&shard->lock);
	more = commit_locked(table, shard, &view, key, frame->frame_len, now, &room, ref);
	conntrack_unlock(&shard->lock);
	if (room)
		conntrack_unreserve(table, key->in_port);
	return more ? -ENOSPC : 0;
}

/* Most frames: of a connection that lookup found and that is still the same one. */
static bool commit_known(struct conntrack *table, struct conntrack_shard *shard,
			 const struct flow_key *key, uint32_t frame_len, uint32_t now,
			 const struct conntrack_ref *ref)
{
	struct conntrack_entry *entry = conntrack_at(table, ref->entry);
	bool same;
	uint8_t tcp;

	conntrack_lock(&shard->lock);
	same = conntrack_stamp(entry) == ref->stamp && !conntrack_expired(table, entry, now) &&
	       step_of(table, entry, ref->reply, false, key, &tcp) == CONNTRACK_STEP_STAYS;
	if (same) {
		entry_advance(table, ref->entry, ref->reply, now, frame_len);
		entry->tcp = tcp;
	}
	conntrack_unlock(&shard->lock);
	return same;
}

/* A later fragment counts for the connection of its first one, and changes nothing else. */
static void commit_later(struct conntrack *table, uint32_t frame_len, uint32_t now,
			 const struct conntrack_ref *ref)
{
	struct conntrack_shard *shard = conntrack_shard_at(table, ref->entry);

	conntrack_lock(&shard->lock);
	if (conntrack_stamp(conntrack_at(table, ref->entry)) == ref->stamp)
		entry_advance(table, ref->entry, ref->reply, now, frame_len);
	conntrack_unlock(&shard->lock);
}

int conntrack_commit(struct conntrack *table, const struct flow_key *key, const struct frame *frame,
		     uint16_t bridge, uint32_t now, const struct conntrack_ref *ref)
{
	struct conntrack_ref found = *ref;
	int status = 0;

	if (!ref->state || ref->state == FLOW_INVALID)
		return 0;
	if (key->layers & FLOW_LATER) {
		if (ref->entry)
			commit_later(table, frame->frame_len, now, ref);
		return 0;
	}
	if (ref->hash && !(ref->entry && commit_known(table, conntrack_shard_of(table, ref->hash),
						      key, frame->frame_len, now, ref)))
		status = commit_tracked(table, key, frame, bridge, now, &found);
	if (!status && (key->layers & FLOW_FRAGMENT))
		conntrack_fragment_note(table, key, frame, bridge, now, &found);
	return status;
}

/* --- control thread: a lock is held for a few slots at a time ------------------------------------
 */

static void row_fill(const struct conntrack *table, const struct conntrack_entry *entry,
		     uint32_t now, struct conntrack_row *row)
{
	const struct conntrack_tuple *tuple = &entry->tuple;
	uint8_t from = entry->origin;
	bool ports = tuple->proto == CONNTRACK_TCP || tuple->proto == CONNTRACK_UDP;

	memset(row, 0, sizeof(*row));
	row->ip_version = tuple->ip_version;
	row->proto = tuple->proto;
	memcpy(row->src, tuple->address[from], 16);
	memcpy(row->dst, tuple->address[1 - from], 16);
	row->src_port = tuple->port[ports ? from : 0];
	row->dst_port = tuple->port[ports ? 1 - from : 0];
	row->vid = tuple->vid;
	row->bridge = tuple->bridge;
	row->port = entry->in_port;
	row->state = entry->answered ? FLOW_ESTABLISHED : FLOW_NEW;
	row->tcp_state = entry->tcp;
	row->expires_s = conntrack_timeout(table, entry) - conntrack_silence(entry, now);
	memcpy(row->frames, entry->frames, sizeof(row->frames));
	memcpy(row->bytes, entry->bytes, sizeof(row->bytes));
}

/* Of a shard: the number of the slot behind the last one that was ever used. */
static uint32_t shard_high(struct conntrack_shard *shard)
{
	uint32_t high;

	conntrack_lock(&shard->lock);
	high = shard->count ? shard->high : 0;
	conntrack_unlock(&shard->lock);
	return high;
}

static bool passes(const struct conntrack_entry *entry, const struct conntrack_filter *filter)
{
	const struct conntrack_tuple *tuple = &entry->tuple;

	if (filter->bridge != RULE_NONE && tuple->bridge != filter->bridge)
		return false;
	if (filter->port != RULE_NONE && entry->in_port != filter->port)
		return false;
	if (filter->proto && tuple->proto != filter->proto)
		return false;
	if (filter->state && filter->state != (entry->answered ? FLOW_ESTABLISHED : FLOW_NEW))
		return false;
	return !filter->ip_version || (tuple->ip_version == filter->ip_version &&
				       (!memcmp(tuple->address[0], filter->address, 16) ||
					!memcmp(tuple->address[1], filter->address, 16)));
}

int conntrack_dump(struct conntrack *table, const struct conntrack_filter *filter, uint32_t now,
		   uint32_t *cursor, struct conntrack_row *rows, unsigned max)
{
	uint32_t slots = table->shard_slots, at = *cursor;
	unsigned count = 0;

	while (at < slots * table->shard_count && count < max) {
		struct conntrack_shard *shard = &table->shards[at / slots];
		uint32_t begin = at / slots * slots, high = begin + shard_high(shard);
		uint32_t end = at + CONNTRACK_CHUNK < high ? at + CONNTRACK_CHUNK : high;

		if (at >= high) {
			at = begin + slots;
			continue;
		}
		conntrack_lock(&shard->lock);
		for (; at < end && count < max; at++) {
			const struct conntrack_entry *entry = conntrack_at(table, at + 1);

			if ((conntrack_stamp(entry) & 1) && passes(entry, filter) &&
			    !conntrack_expired(table, entry, now))
				row_fill(table, entry, now, &rows[count++]);
		}
		conntrack_unlock(&shard->lock);
	}
	*cursor = at < slots * table->shard_count ? at : 0;
	return (int)count;
}

/* Removes those that pass the filter or, without one, those that have timed out. */
static int remove_some(struct conntrack *table, const struct conntrack_filter *filter, uint32_t now)
{
	int removed = 0;

	for (uint32_t s = 0; s < table->shard_count; s++) {
		struct conntrack_shard *shard = &table->shards[s];
		uint32_t high = shard_high(shard);

		for (uint32_t at = 0; at < high;) {
			uint32_t end = at + CONNTRACK_CHUNK < high ? at + CONNTRACK_CHUNK : high;

			conntrack_lock(&shard->lock);
			for (; at < end; at++) {
				uint32_t index = s * table->shard_slots + at + 1;
				const struct conntrack_entry *entry = conntrack_at(table, index);

				if (!(conntrack_stamp(entry) & 1) ||
				    !(filter ? passes(entry, filter)
					     : conntrack_expired(table, entry, now)))
					continue;
				conntrack_remove(table, shard, index);
				removed++;
			}
			conntrack_unlock(&shard->lock);
		}
	}
	return removed;
}

int conntrack_flush(struct conntrack *table, const struct conntrack_filter *filter)
{
	return remove_some(table, filter, 0);
}

void conntrack_tick(struct conntrack *table, uint32_t now)
{
	remove_some(table, NULL, now);
}
