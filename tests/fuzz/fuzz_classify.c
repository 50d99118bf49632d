/*
 * Rules and frames against a list that is searched from its beginning. Input: changes of two sets
 * (rules come, are replaced, go; the first set jumps to the second one) and, between them, batches
 * of frames. After each change and for each frame every way to ask has to say what the list says:
 *
 *   - the classifier, one key and many at once, from the first rule on and behind one that was met
 *   - the way through the stage, whole and from a first rule that is known
 *   - the flow cache, filled by frames that agree in what the rules look at, and the short way
 *     through the stage with its books, in every form that this machine has
 *   - the version before the change, which a worker may still have
 *
 * What the list is made of is kept and compared here, not by the classifier.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"
#include "rules_hits.h"
#include "rules_work.h"

enum {
	SETS = 2,
	SLOTS = 48, /* of even numbers in the first set, of odd ones in the second */
	MATCHES = 3,
	CHANGES = 6, /* at once */
	BATCH = 16,
	FRAME = 96,
	PORTS = 4,
	STAGE = 3,
	KEYS_KEPT = 4,
	OPERATIONS_MAX = 200
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct listed {
	struct rule_config config;
	struct rule_match matches[MATCHES];
	bool there;
};

static const uint8_t *input;
static size_t left;
static struct listed list[SLOTS];
static struct classifier *classifiers[SETS];
static struct rules_set sets[SETS];
static struct rules_stage stage = {.number = STAGE, .count = 1};
static struct rules_tables tables = {.sets = sets};
static struct rules_work *work;
static uint8_t *room[BATCH]; /* a frame ends where its room does */
static struct flow_key kept[KEYS_KEPT];

static uint8_t next_byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

/* --- the list -----------------------------------------------------------------------------------
 */

static bool match_meets(const struct rule_match *match, const struct flow_key *key)
{
	const uint8_t *value = (const uint8_t *)&match->value,
		      *mask = (const uint8_t *)&match->mask;
	const uint8_t *bytes = (const uint8_t *)key;

	for (unsigned i = 0; i < sizeof(*key); i++) {
		if ((bytes[i] & mask[i]) != value[i])
			return false;
	}
	return key->l4_src >= match->l4_src_lo && key->l4_src <= match->l4_src_hi &&
	       key->l4_dst >= match->l4_dst_lo && key->l4_dst <= match->l4_dst_hi;
}

static bool rule_meets(const struct listed *rule, const struct flow_key *key)
{
	for (unsigned i = 0; i < rule->config.match_count; i++) {
		if (match_meets(&rule->matches[i], key))
			return true;
	}
	return false;
}

static bool before(const struct rule_config *a, const struct rule_config *b)
{
	if (a->priority != b->priority)
		return a->priority < b->priority;
	return memcmp(a->id, b->id, sizeof(a->id)) < 0;
}

/* The first rule of a set, behind `after`, that meets the key; NULL: none. */
static const struct listed *list_find(unsigned set, const struct flow_key *key,
				      const struct listed *after)
{
	const struct listed *best = NULL;

	for (unsigned slot = set; slot < SLOTS; slot += SETS) {
		const struct listed *rule = &list[slot];

		if (rule->there && (!after || before(&after->config, &rule->config)) &&
		    (!best || before(&rule->config, &best->config)) && rule_meets(rule, key))
			best = rule;
	}
	return best;
}

struct way {
	unsigned count;
	uint32_t slots[FLOW_PATH_MAX];
	uint8_t verdict;
	uint16_t default_of;
};

/* True: the way is at its end. */
static bool list_walk(unsigned set, const struct flow_key *key, struct way *way)
{
	const struct listed *rule = NULL;

	while ((rule = list_find(set, key, rule))) {
		if (way->count < FLOW_PATH_MAX)
			way->slots[way->count] = rule->config.slot;
		if (way->count++ == FLOW_PATH_MAX)
			return true;
		if (rule->config.action.type == RULE_JUMP) {
			if (list_walk(rule->config.action.set, key, way))
				return true;
		} else if (rule_action_is_final(&rule->config.action)) {
			way->verdict =
			    rule->config.action.type == RULE_DROP ? RULES_DROP : RULES_GO;
			return true;
		}
	}
	return false;
}

static struct way list_way(const struct flow_key *key)
{
	struct way way = {.verdict = RULES_GO, .default_of = RULE_NONE};

	if (!list_walk(0, key, &way)) {
		way.default_of = 0;
		way.verdict = sets[0].default_drop ? RULES_DROP_DEFAULT : RULES_GO;
	}
	return way;
}

static void path_check(const struct flow_path *path, const struct flow_key *key)
{
	struct way way = list_way(key);

	assert(path->count == way.count);
	for (unsigned i = 0; i < way.count && i < FLOW_PATH_MAX; i++)
		assert(path->rules[i]->slot == way.slots[i]);
	if (way.count <= FLOW_PATH_MAX)
		assert(path->verdict == way.verdict && path->default_of == way.default_of);
}

/* --- rules from the input -----------------------------------------------------------------------
 */

static void bytes_mask(uint8_t *mask, unsigned bits)
{
	for (unsigned i = 0; i < bits; i++)
		mask[i / 8] |= (uint8_t)(0x80 >> i % 8);
}

/* Few values, so that frames meet them. */
static void key_values(struct flow_key *key)
{
	uint8_t a = next_byte(), b = next_byte(), c = next_byte();

	*key = (struct flow_key){.eth_type = a & 1 ? 0x86dd : 0x0800,
				 .ip_version = a & 1 ? 6 : 4,
				 .ip_proto = a & 2 ? 17 : 6,
				 .in_port = a >> 2 & 3,
				 .vid = a >> 4 & 3,
				 .ip_tos = b & 3,
				 .ip_ttl = b >> 2 & 3,
				 .layers = FLOW_L3 | FLOW_L4 | FLOW_IP | FLOW_PORTS,
				 .l4_src = b >> 4,
				 .l4_dst = c & 15,
				 .tcp_flags = c >> 4,
				 .state = (uint8_t)(1 << (c >> 4 & 3))};
	key->ip_src[15] = a >> 3;
	key->ip_dst[12] = b;
	key->ip_dst[15] = c;
	key->eth_src[5] = c & 7;
}

static void ports_make(uint8_t how, uint16_t port, uint16_t *value, uint16_t *mask, uint16_t *lo,
		       uint16_t *hi)
{
	*value = *mask = *lo = 0;
	*hi = UINT16_MAX;
	if (how == 1) {
		*value = *lo = *hi = port;
		*mask = UINT16_MAX;
	} else if (how == 2) {
		*lo = (uint16_t)(port - next_byte() % (port + 1u));
		*hi = (uint16_t)(port + next_byte() % 16);
	}
}

static void match_make(struct rule_match *match)
{
	uint8_t what = next_byte(), more = next_byte();
	uint8_t *value = (uint8_t *)&match->value, *mask = (uint8_t *)&match->mask;

	*match = (struct rule_match){0};
	key_values(&match->value);
	ports_make(what & 3, match->value.l4_src, &match->value.l4_src, &match->mask.l4_src,
		   &match->l4_src_lo, &match->l4_src_hi);
	ports_make(what >> 2 & 3, match->value.l4_dst, &match->value.l4_dst, &match->mask.l4_dst,
		   &match->l4_dst_lo, &match->l4_dst_hi);
	if (what & 16)
		bytes_mask(match->mask.ip_src, next_byte() % 129u);
	if (what & 32)
		bytes_mask(match->mask.ip_dst, next_byte() % 129u);
	match->mask.ip_proto = what & 64 ? 0xff : 0;
	match->mask.ip_version = what & 128 ? 0xff : 0;
	match->mask.in_port = more & 1 ? UINT16_MAX : 0;
	match->mask.vid = more & 2 ? 0xfff : 0;
	match->mask.tcp_flags = more & 4 ? next_byte() : 0;
	match->mask.eth_src[5] = more & 8 ? next_byte() : 0;
	match->mask.layers = more & 16 ? next_byte() : 0;
	match->mask.ip_ttl = more & 32 ? next_byte() : 0;
	match->mask.state = more & 64 ? next_byte() & 15 : 0;
	if (more & 128) { /* any bits of addresses and what stands between them */
		unsigned at = next_byte() % offsetof(struct flow_key, ip_proto);

		mask[at] = next_byte();
		value[at] = next_byte();
	}
	for (unsigned i = 0; i < sizeof(match->value); i++)
		value[i] &= mask[i];
}

static void rule_make(struct listed *rule, unsigned slot)
{
	static const uint8_t actions[] = {RULE_ALLOW, RULE_DROP, RULE_ALLOW, RULE_DROP,
					  RULE_LOG,   RULE_JUMP, RULE_DROP,  RULE_LOG};
	uint8_t what = next_byte();

	*rule = (struct listed){.there = true};
	rule->config = (struct rule_config){.slot = slot,
					    .priority = (int32_t)(what >> 5) - 4,
					    .match_count = what & 3,
					    .matches = rule->matches};
	rule->config.action.type = actions[what >> 2 & 7];
	if (rule->config.action.type == RULE_JUMP && slot % SETS)
		rule->config.action.type = RULE_ALLOW;
	rule->config.action.set = 1;
	rule->config.id[0] = (char)('a' + next_byte() % 8);
	rule->config.id[1] = (char)('0' + slot); /* no two are the same */
	for (unsigned i = 0; i < rule->config.match_count; i++)
		match_make(&rule->matches[i]);
}

/* --- changes ------------------------------------------------------------------------------------
 */

static void stage_follow(unsigned set, struct classifier *made)
{
	uint8_t *needs = (uint8_t *)&stage.needs;

	classifier_free(classifiers[set]);
	classifiers[set] = made;
	sets[set].classifier = made;
	memset(needs, 0, sizeof(stage.needs));
	for (unsigned s = 0; s < SETS; s++) {
		const uint8_t *more = (const uint8_t *)classifier_needs(classifiers[s]);

		for (unsigned i = 0; i < sizeof(stage.needs); i++)
			needs[i] |= more[i];
	}
	tables.generation++;
}

static void order_check(unsigned set)
{
	const struct classify_rule *rule, *last = NULL;
	struct classify_size size;
	uint32_t count = 0;

	for (unsigned slot = set; slot < SLOTS; slot += SETS)
		count += list[slot].there;
	classifier_size(classifiers[set], &size);
	assert(size.rules == count && !classifier_at(classifiers[set], count));
	for (uint32_t i = 0; i < count; i++, last = rule) {
		rule = classifier_at(classifiers[set], i);
		assert(list[rule->slot].there);
		assert(!last || before(&list[last->slot].config, &list[rule->slot].config));
	}
}

/* Some rules of a set at once; now and then one goes that is not there, and nothing happens. */
static void rules_change(uint8_t what)
{
	const struct classify_rule *met[KEYS_KEPT];
	struct rule_config added[CHANGES];
	struct listed changed[SLOTS];
	struct classifier *made = NULL;
	uint32_t removed[CHANGES];
	unsigned set = what & 1, gone = 0, come = 0;
	bool refused = false;
	struct error err;

	memcpy(changed, list, sizeof(list));
	for (unsigned n = 1 + (what >> 1) % CHANGES; n--;) {
		unsigned how = next_byte(), slot = set + how / 4 % (SLOTS / SETS) * SETS;

		for (unsigned i = 0; i < come; i++) {
			if (added[i].slot == slot)
				return;
		}
		if (how & 3) {
			rule_make(&changed[slot], slot);
			added[come++] = changed[slot].config;
			added[come - 1].matches = changed[slot].matches;
		} else {
			refused |= !changed[slot].there;
			changed[slot].there = false;
			removed[gone++] = slot;
		}
	}
	for (unsigned i = 0; i < KEYS_KEPT; i++)
		met[i] = classify(classifiers[set], &kept[i], NULL);
	assert((classifier_update(classifiers[set], removed, gone, added, come, &made, &err) !=
		0) == refused);
	for (unsigned i = 0; i < KEYS_KEPT; i++)
		assert(classify(classifiers[set], &kept[i], NULL) == met[i]);
	if (refused)
		return;
	memcpy(list, changed, sizeof(list));
	for (unsigned slot = 0; slot < SLOTS; slot++)
		list[slot].config.matches = list[slot].matches;
	stage_follow(set, made);
	order_check(set);
}

/* --- keys ---------------------------------------------------------------------------------------
 */

static uint32_t slot_or_none(const struct listed *rule)
{
	return rule ? rule->config.slot : RULE_NONE;
}

static void keys_check(const struct flow_key *keys, unsigned count)
{
	const struct classify_rule *first[BATCH];
	const struct flow_key *pointers[BATCH];

	for (unsigned i = 0; i < count; i++)
		pointers[i] = &keys[i];
	for (unsigned set = 0; set < SETS; set++) {
		classify_batch(classifiers[set], pointers, count, first);
		for (unsigned i = 0; i < count; i++) {
			const struct classify_rule *rule = NULL;
			const struct listed *listed = NULL;

			do {
				rule = classify(classifiers[set], &keys[i], rule);
				listed = list_find(set, &keys[i], listed);
				assert((rule ? rule->slot : RULE_NONE) == slot_or_none(listed));
				assert(!first[i] || rule != NULL || listed == NULL);
			} while (rule);
			assert((first[i] ? first[i]->slot : RULE_NONE) ==
			       slot_or_none(list_find(set, &keys[i], NULL)));
			kept[i % KEYS_KEPT] = keys[i];
		}
	}
}

static void keys_ask(uint8_t what)
{
	struct flow_key keys[BATCH];
	unsigned count = 1 + what % BATCH;

	for (unsigned i = 0; i < count; i++) {
		struct flow_path path;

		key_values(&keys[i]);
		rules_resolve(&tables, &stage, &keys[i], &path);
		path_check(&path, &keys[i]);
	}
	keys_check(keys, count);
}

/* --- frames -------------------------------------------------------------------------------------
 */

static void frame_make(struct frame *frame, unsigned n)
{
	uint8_t bytes[FRAME] = {0}, what = next_byte();
	bool six = what & 1;
	unsigned l4 = six ? 54 : 34, len = what & 128 ? FRAME : 14 + next_byte() % (FRAME - 14);

	bytes[11] = next_byte() & 7;
	store_be16(bytes + 12, six ? 0x86dd : 0x0800);
	if (six) {
		bytes[14] = 0x60;
		store_be16(bytes + 18, FRAME - 54);
		bytes[20] = what & 2 ? 17 : 6;
		bytes[21] = what >> 2 & 3;
		bytes[22 + 15] = next_byte() & 31;
		bytes[38 + 12] = next_byte();
		bytes[38 + 15] = next_byte();
	} else {
		bytes[14] = 0x45;
		store_be16(bytes + 16, FRAME - 14);
		bytes[22] = what >> 2 & 3;
		bytes[23] = what & 2 ? 17 : 6;
		bytes[29] = next_byte() & 31;
		bytes[30] = next_byte();
		bytes[33] = next_byte();
	}
	bytes[l4 + 1] = next_byte() & 15;
	bytes[l4 + 3] = next_byte() & 15;
	bytes[l4 + 12] = 0x50;
	bytes[l4 + 13] = next_byte() & 15;
	if (!(what & 112))
		bytes[next_byte() % FRAME] = next_byte();
	*frame = (struct frame){.data = room[n] + FRAME - len,
				.len = len,
				.frame_len = len,
				.in_port = what >> 4 & 3,
				.vid = what >> 2 & 3};
	memcpy(frame->data, bytes, len);
}

/* The cache learns the way, by its one call or in two steps. */
static void way_learn(unsigned n, const struct flow_path *path)
{
	uint64_t hash = work->hashes[n];

	if (path->count > FLOW_PATH_MAX)
		return;
	if (n % 2)
		flow_cache_insert(work->cache, hash, tables.generation, STAGE, &work->masked[n],
				  path);
	else
		flow_cache_put(work->cache, flow_cache_place(work->cache, hash, tables.generation),
			       hash, tables.generation, STAGE, &work->masked[n], path);
}

/* What the short way left over. */
static void long_way(unsigned n, const struct flow_key *key)
{
	struct flow_path path;
	struct flow_key masked;

	rules_mask(key, &stage.needs, &masked);
	assert(!memcmp(&masked, &work->masked[n], sizeof(masked)));
	assert(work->hashes[n] == flow_cache_prefetch(work->cache, STAGE, &masked));
	if (work->known >> n & 1) {
		path_check(&work->paths[n], key);
		return;
	}
	rules_resolve_from(&tables, &stage, key, classify(classifiers[0], key, NULL), &path);
	path_check(&path, key);
	way_learn(n, &path);
}

/* What the short way did: nothing but count, and drop. */
static void short_way(const struct flow_key *key, bool dropped, const struct frame *frame,
		      struct rule_counter *counters)
{
	struct way way = list_way(key);

	assert(way.count <= FLOW_PATH_COUNTED);
	assert(dropped == (way.verdict != RULES_GO));
	for (unsigned i = 0; i < way.count; i++) {
		assert(list[way.slots[i]].config.action.type <= RULE_DROP ||
		       list[way.slots[i]].config.action.type == RULE_JUMP);
		counters[way.slots[i]].frames++;
		counters[way.slots[i]].bytes += frame->frame_len;
	}
}

static void frames_ask(uint8_t what)
{
	struct frame frames[BATCH], *pointers[BATCH];
	struct rule_counter counters[SLOTS];
	uint64_t drops[DROP_REASONS] = {0}, gone = 0, over;
	struct flow_key keys[BATCH];
	unsigned count = 1 + what % BATCH;

	for (unsigned n = 0; n < count; n++) {
		frame_make(&frames[n], n);
		pointers[n] = &frames[n];
		parse_flow(&frames[n], &keys[n]);
	}
	keys_check(keys, count);
	memcpy(counters, work->counters, sizeof(counters));
	over = (what & 128 ? rules_hits_portable : work->hits)(work, &stage, pointers, count, drops,
							       &gone);
	for (unsigned n = 0; n < count; n++) {
		if (!(over >> n & 1))
			short_way(&keys[n], gone >> n & 1, &frames[n], counters);
	}
	for (unsigned slot = 0; slot < SLOTS; slot++)
		assert(work->counters[slot].frames == counters[slot].frames &&
		       work->counters[slot].bytes == counters[slot].bytes);
	assert(drops[DROP_RULE] + drops[DROP_RULE_DEFAULT] ==
	       (uint64_t)__builtin_popcountll(gone & ~over));
	for (unsigned n = 0; n < count; n++) {
		if (over >> n & 1)
			long_way(n, &keys[n]);
	}
}

/* --- runs ---------------------------------------------------------------------------------------
 */

static void begin(void)
{
	if (!work) {
		work = rules_work_create(PORTS, SLOTS, 7);
		assert(work && work->cache);
		work->tables = &tables;
		for (unsigned n = 0; n < BATCH; n++) {
			room[n] = malloc(FRAME);
			assert(room[n]);
		}
	}
	memset(list, 0, sizeof(list));
	memset(kept, 0, sizeof(kept));
	for (unsigned set = 0; set < SETS; set++) {
		classifiers[set] = classifier_empty();
		assert(classifiers[set]);
	}
	for (unsigned set = 0; set < SETS; set++)
		sets[set] = (struct rules_set){.classifier = classifiers[set]};
	tables.generation++;
	memset(&stage.needs, 0, sizeof(stage.needs));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	begin();
	input = data;
	left = size;
	sets[0].default_drop = next_byte() & 1;
	for (unsigned i = 0; left && i < OPERATIONS_MAX; i++) {
		uint8_t what = next_byte();

		if (what % 4 == 0)
			rules_change(next_byte());
		else if (what % 4 == 1)
			keys_ask(next_byte());
		else
			frames_ask(next_byte());
	}
	for (unsigned set = 0; set < SETS; set++) {
		classifier_free(classifiers[set]);
		classifiers[set] = NULL;
	}
	return 0;
}
