/*
 * Fragments behind the first one have no ports: they are what the first one was. A few packets are
 * remembered a shard, in sets of CONNTRACK_FRAGMENT_WAYS. Whoever sends many first fragments pushes
 * out its own before anybody else's. Runs on: workers.
 */
#include "conntrack_table.h"

/* The packet's name, as words for the hash: IPv4 and IPv6 differ in their addresses. */
static struct conntrack_fragment fragment_of(const struct flow_key *key, const struct frame *frame,
					     uint16_t bridge)
{
	struct conntrack_fragment fragment = {.vid = key->vid,
					      .bridge = bridge,
					      .ip_version = key->ip_version,
					      .in_port = key->in_port};
	struct flow_key again;
	struct cursor cursor;

	parse_flow_at(frame, &again, &cursor, &fragment.id);
	memcpy(fragment.src, key->ip_src, 16);
	memcpy(fragment.dst, key->ip_dst, 16);
	fragment.proto = key->ip_version == 4 ? key->ip_proto : 0;
	return fragment;
}

static bool fragment_same(const struct conntrack_fragment *a, const struct conntrack_fragment *b)
{
	return a->id == b->id && a->vid == b->vid && a->bridge == b->bridge &&
	       a->proto == b->proto && a->ip_version == b->ip_version &&
	       memcmp(a->src, b->src, 16) == 0 && memcmp(a->dst, b->dst, 16) == 0;
}

static bool fragment_lives(const struct conntrack_fragment *fragment, uint32_t now)
{
	return fragment->state && (int32_t)(now - fragment->seen) < CONNTRACK_FRAGMENT_S;
}

/* The set that the packet may be in; its shard. */
static struct conntrack_fragment *fragment_set(struct conntrack *table,
					       const struct conntrack_fragment *fragment,
					       struct conntrack_shard **shard)
{
	struct {
		uint8_t src[16];
		uint8_t dst[16];
		uint32_t id;
		uint16_t vid;
		uint16_t bridge;
		uint64_t proto;
	} words = {.id = fragment->id,
		   .vid = fragment->vid,
		   .bridge = fragment->bridge,
		   .proto = fragment->proto};
	uint64_t hash;

	static_assert(sizeof(words) == 48, "what conntrack_hash takes");
	memcpy(words.src, fragment->src, 16);
	memcpy(words.dst, fragment->dst, 16);
	hash = conntrack_hash(table, &words);
	*shard = conntrack_shard_of(table, hash);
	return (*shard)->fragments +
	       hash % (CONNTRACK_FRAGMENTS / CONNTRACK_FRAGMENT_WAYS) * CONNTRACK_FRAGMENT_WAYS;
}

enum flow_state conntrack_fragment_find(struct conntrack *table, const struct flow_key *key,
					const struct frame *frame, uint16_t bridge, uint32_t now,
					struct conntrack_ref *ref)
{
	struct conntrack_fragment wanted = fragment_of(key, frame, bridge);
	enum flow_state state = FLOW_INVALID;
	struct conntrack_shard *shard;
	const struct conntrack_fragment *set = fragment_set(table, &wanted, &shard);

	conntrack_lock(&shard->lock);
	for (unsigned way = 0; way < CONNTRACK_FRAGMENT_WAYS; way++) {
		if (!fragment_lives(&set[way], now) || !fragment_same(&set[way], &wanted))
			continue;
		state = set[way].state;
		ref->entry = set[way].entry;
		ref->stamp = set[way].stamp;
		ref->reply = set[way].reply;
	}
	conntrack_unlock(&shard->lock);
	return state;
}

/* The same packet's place, else a free one, else the oldest of that port, else the oldest. */
static struct conntrack_fragment *fragment_place(struct conntrack_fragment *set,
						 const struct conntrack_fragment *wanted,
						 uint32_t now)
{
	struct conntrack_fragment *oldest = NULL, *own = NULL, *unused = NULL;

	for (unsigned way = 0; way < CONNTRACK_FRAGMENT_WAYS; way++) {
		struct conntrack_fragment *at = &set[way];

		if (at->state && fragment_same(at, wanted))
			return at;
		if (!fragment_lives(at, now))
			unused = at;
		if (!oldest || (int32_t)(at->seen - oldest->seen) < 0)
			oldest = at;
		if (at->in_port == wanted->in_port && (!own || (int32_t)(at->seen - own->seen) < 0))
			own = at;
	}
	if (unused)
		return unused;
	return own ? own : oldest;
}

void conntrack_fragment_note(struct conntrack *table, const struct flow_key *key,
			     const struct frame *frame, uint16_t bridge, uint32_t now,
			     const struct conntrack_ref *ref)
{
	struct conntrack_fragment fragment = fragment_of(key, frame, bridge);
	struct conntrack_shard *shard;
	struct conntrack_fragment *set = fragment_set(table, &fragment, &shard);

	fragment.state = ref->state;
	fragment.reply = ref->reply;
	fragment.entry = ref->entry;
	fragment.stamp = ref->stamp;
	fragment.seen = now;
	conntrack_lock(&shard->lock);
	*fragment_place(set, &fragment, now) = fragment;
	conntrack_unlock(&shard->lock);
}
