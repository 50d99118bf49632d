/*
 * What the rules of a stage decided for a flow, so that its next frame need not ask them again.
 *
 * An entry is found by the stage's number and the bits of the key that the stage looks at, all of
 * them compared: what is found is what the full lookup would say. It is valid for one generation of
 * the rules. The cache belongs to one worker: no atomics, no locks.
 *
 * The hash is keyed and names two sets, each a cache line of tags over FLOW_CACHE_WAYS entries, and
 * a way: the entry of that way in the first set is the flow's home, which is looked at without its
 * tags while most flows are at home. Others go where there is more room; where there is none, the
 * entry not used for longest goes, so what a hostile sender can do is to miss. A batch whose stage
 * uses no state is asked for by rules_hits.h, in loops over flow_cache_lines.h; others ask key by
 * key, prefetch and find.
 *
 * Runs on: one worker.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "flow_key.h"

struct classify_rule;

enum {
	FLOW_CACHE_ENTRIES = 131072, /* of a worker with rules; 100,000 flows fit */
	FLOW_CACHE_WAYS = 8,	     /* entries of a set */
	FLOW_CACHE_WINDOW = 1024,    /* flows asked for between two looks at how many were there */
	FLOW_CACHE_TURN = 8,	     /* of a storm's flows, one in so many is inserted */
	FLOW_PATH_MAX = 5,	     /* rules met on a way through a stage that can be kept */
	FLOW_PATH_COUNTED = 2	     /* of a way whose rules need not be looked at again */
};

/* The way of a frame through a stage: rules met in order; the last one decided, or `set` did. */
struct flow_path {
	/* of the rules, where they are that few and do nothing with a frame that goes on or is
	   dropped but to count it; else FLOW_PATH_ACTS in the first */
	uint32_t slots[FLOW_PATH_COUNTED];
	uint8_t count;	     /* of rules; longer ways are not kept */
	uint8_t verdict;     /* enum rules_verdict, rules.h */
	uint16_t default_of; /* the set whose default decided; RULE_NONE: a rule did */
	uint32_t used;	     /* the cache's: when it last did something */
	const struct classify_rule *rules[FLOW_PATH_MAX];
};
static const uint32_t FLOW_PATH_ACTS = UINT32_MAX;

struct flow_cache; /* of a fixed size; memory comes with the flows */

/* NULL when there is no memory: the worker goes on without. */
struct flow_cache *flow_cache_create(uint64_t seed);
void flow_cache_destroy(struct flow_cache *cache);

/* masked: key & needs, field by field. Returns the hash to give to the others. */
uint64_t flow_cache_prefetch(const struct flow_cache *cache, uint32_t stage,
			     const struct flow_key *masked);
/* NULL: not there. Valid until the next insert. */
const struct flow_path *flow_cache_find(struct flow_cache *cache, uint64_t hash,
					uint64_t generation, uint32_t stage,
					const struct flow_key *masked);
void flow_cache_insert(struct flow_cache *cache, uint64_t hash, uint64_t generation, uint32_t stage,
		       const struct flow_key *masked, const struct flow_path *path);

/*
 * insert in two steps, for a flow that is not there: its place, whose memory is asked for, and some
 * time later what stands there. Whatever was put there in between is lost.
 */
struct flow_place {
	uint32_t set;
	uint32_t way;
};
struct flow_place flow_cache_place(const struct flow_cache *cache, uint64_t hash,
				   uint64_t generation);
void flow_cache_put(struct flow_cache *cache, struct flow_place place, uint64_t hash,
		    uint64_t generation, uint32_t stage, const struct flow_key *masked,
		    const struct flow_path *path);

/*
 * A batch has asked for `asked` flows, at most 64, and `missed` of them are not there: which of
 * these are to be inserted, a bit each? All of them; but one in FLOW_CACHE_TURN while nearly none
 * is ever there, as in a scan or an attack: inserting would cost much, find none again, and push
 * out those that come again.
 */
uint64_t flow_cache_admit(struct flow_cache *cache, unsigned asked, unsigned missed);
