/*
 * What a classifier is made of: shared by its halves, classify.c (workers) and classify_build.c
 * with classify_list.c, classify_table.c, classify_plan.c and classify_steps.c (control thread).
 *
 *   classifier ─ groups of 8 tables, sorted by their best rule, probed together
 *              ─ tables ─ filter, shards ─ entries (one alternative each, compared in full)
 *              ─ rules by slot and in their order, in pages
 *
 * Tables, shards, pages and rules are counted by their holders. Holder 1 means: nobody else sees
 * it, so it may be changed in place while a classifier is being made; everything else is copied
 * before it is changed. Counts belong to the control thread, workers never touch them.
 */
#pragma once

#include <stddef.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "classify.h"

enum {
	GROUP_TABLES = 8, /* probed together: a vector register of 64-bit lanes */
	FILTER_WORDS = 4, /* of a shard */
	SHARD_ENTRIES = 8 /* a table with more on the average gets twice the shards */
};

/* A rule and how many pages hold it. */
struct rule_node {
	struct classify_rule rule;
	uint32_t holders;
	struct rule_match matches[];
};

/* What can be said of all entries of a shard, of a table. */
struct summary {
	uint64_t needs[FLOW_WORDS];
	const struct classify_rule *best; /* NULL: empty */
	const struct classify_rule *worst;
};

/* An alternative. Its words are those that its table's entries compare: value, mask, value, ... */
struct entry {
	const struct classify_rule *rule;
	int32_t priority;
	uint32_t hash_high; /* its shard is named by the highest bits */
	uint16_t src_lo, src_hi;
	uint16_t dst_lo, dst_hi;
	uint64_t words[];
};

/* Entries sorted by tag (low half of the hash), then by rule. Behind the tags: summary, entries. */
struct shard {
	uint32_t holders;
	uint32_t count;
	uint32_t capacity;
	uint32_t tags[];
};

struct table {
	uint64_t mask[FLOW_WORDS]; /* what is hashed */
	uint32_t holders;
	uint32_t entries;
	uint8_t shard_bits; /* 1 << shard_bits shards */
	uint8_t words;	    /* of the key that entries compare, and which */
	uint8_t word[FLOW_WORDS];
	bool stale; /* lost entries: the summary is too wide */
	struct summary summary;
	uint64_t *filter;	/* FILTER_WORDS of each shard: two bits for each entry's tag */
	struct shard *shards[]; /* NULL: empty */
};

/* Tables as they are probed, a lane each. Unused lanes have a filter that nothing passes. */
struct probe_group {
	_Alignas(64) uint64_t mask[FLOW_WORDS][GROUP_TABLES]; /* of the words in use */
	const uint64_t *filter[GROUP_TABLES];
	uint64_t shift[GROUP_TABLES]; /* of a hash, by one and by this, to its shard's number */
	const struct classify_rule *best_rule[GROUP_TABLES];
	const struct table *table[GROUP_TABLES];
	int32_t best[GROUP_TABLES]; /* its priority */
	uint32_t tables;
};

/* The hash: for each word (low + a) * (high + b) - a * b, so that a word masked out adds nothing;
   a and b are the halves of the word's seed. */
struct classify_hash {
	uint64_t seed[FLOW_WORDS];
	uint64_t base; /* what the words in use add too much */
	uint8_t words; /* that some table hashes, and which */
	uint8_t word[FLOW_WORDS];
};

/* Fills hash[]; returns a bit for each table that may hold a match. key: the words in use. */
typedef unsigned classify_probe(const struct probe_group *group, const struct classify_hash *hash,
				const uint64_t key[FLOW_WORDS], uint64_t out[GROUP_TABLES]);
classify_probe classify_probe_portable;
/* What this machine does best. */
classify_probe *classify_probe_choose(void);

enum { PAGE_RULES = 256 };

/* A piece of the list of all rules: in order of the rules, or by slot (then with gaps). */
struct rule_page {
	uint32_t holders;
	uint32_t count;
	struct rule_node *rules[PAGE_RULES];
};

struct rule_list {
	struct rule_page **pages; /* none empty */
	uint32_t *first;	  /* number of each page's first rule */
	uint32_t count;
};

/* The holder of the rules. */
struct slot_map {
	struct rule_page **pages; /* by slot / PAGE_RULES; NULL: empty */
	uint32_t count;
};

struct classifier {
	struct flow_key needs;
	struct classify_hash hash;
	classify_probe *probe;
	uint32_t table_count;
	uint32_t group_count;
	struct probe_group *groups;
	struct table **tables; /* in the order of their best rules */
	struct rule_list list;
	struct slot_map slots;
	uint32_t rules;
	uint32_t matches;
	uint32_t planned_tables; /* when the tables' masks were chosen from all rules at once */
	uint32_t changes;	 /* alternatives that came or went since */
};

static const uint64_t hash_final = 0x9e3779b97f4a7c15;

static inline uint64_t hash_word(uint64_t word, uint64_t seed)
{
	uint32_t low = (uint32_t)word + (uint32_t)seed;
	uint32_t high = (uint32_t)(word >> 32) + (uint32_t)(seed >> 32);

	return (uint64_t)low * high;
}

static inline uint64_t hash_finish(uint64_t sum)
{
	return (sum ^ sum >> 32) * hash_final;
}

/* The same number as the probes': over all words, of which most are 0 under the mask. */
static inline uint64_t hash_masked(const uint64_t seed[FLOW_WORDS],
				   const uint64_t value[FLOW_WORDS],
				   const uint64_t mask[FLOW_WORDS])
{
	uint64_t sum = 0;

	for (unsigned w = 0; w < FLOW_WORDS; w++)
		if (mask[w])
			sum += hash_word(value[w] & mask[w], seed[w]) - hash_word(0, seed[w]);
	return hash_finish(sum);
}

static inline uint32_t shard_index(uint32_t hash_high, unsigned shard_bits)
{
	return shard_bits ? hash_high >> (32 - shard_bits) : 0;
}

/* Of the hash's low half: which of its shard's filter words, and the bits there. */
static inline unsigned filter_word(uint32_t tag)
{
	return tag >> 30;
}

static inline uint64_t filter_bits(uint32_t tag)
{
	return (uint64_t)1 << (tag >> 16 & 63) | (uint64_t)1 << (tag >> 22 & 63);
}

static inline size_t shard_head(uint32_t capacity)
{
	return (offsetof(struct shard, tags) + sizeof(uint32_t) * capacity + 7) & ~(size_t)7;
}

static inline struct summary *shard_summary(const struct shard *shard)
{
	return (struct summary *)((char *)shard + shard_head(shard->capacity));
}

static inline size_t entry_bytes(unsigned words)
{
	return sizeof(struct entry) + 2 * sizeof(uint64_t) * words;
}

static inline struct entry *shard_entry(const struct shard *shard, unsigned words, uint32_t i)
{
	return (struct entry *)((char *)shard + shard_head(shard->capacity) +
				sizeof(struct summary) + entry_bytes(words) * i);
}

/* Where the entries of a tag begin, or would. */
static inline uint32_t shard_find(const struct shard *shard, uint32_t tag)
{
	uint32_t first = 0, count = shard->count;

	while (count > 0) {
		uint32_t half = count / 2;
		bool right = shard->tags[first + half] < tag;

		first = right ? first + half + 1 : first;
		count = right ? count - half - 1 : half;
	}
	return first;
}

enum { TAGS_AT_ONCE = 16 };

/* The bits of the first TAGS_AT_ONCE entries that have the tag. Without a branch on what is there:
   the summary behind the tags is long enough to be read with them. */
static inline uint32_t shard_tagged(const struct shard *shard, uint32_t tag)
{
	uint32_t known = shard->count < 31 ? ((uint32_t)1 << shard->count) - 1 : UINT32_MAX;
	uint32_t same = 0;

#ifdef __SSE2__
	const __m128i *tags = (const __m128i *)(const void *)shard->tags;
	__m128i wanted = _mm_set1_epi32((int)tag), pair[2];

	for (unsigned i = 0; i < 2; i++)
		pair[i] =
		    _mm_packs_epi32(_mm_cmpeq_epi32(_mm_loadu_si128(tags + 2 * i), wanted),
				    _mm_cmpeq_epi32(_mm_loadu_si128(tags + 2 * i + 1), wanted));
	same = (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(pair[0], pair[1]));
#else
	for (unsigned i = 0; i < TAGS_AT_ONCE; i++)
		same |= (uint32_t)(shard->tags[i] == tag) << i;
#endif
	return same & known;
}
static_assert(sizeof(struct summary) >= sizeof(uint32_t) * TAGS_AT_ONCE,
	      "what is read with the tags");

/* The entries that have the tag: from the first one to before the end. */
struct bucket {
	uint32_t first;
	uint32_t end;
};

static inline struct bucket shard_bucket(const struct shard *shard, uint32_t tag)
{
	struct bucket bucket;
	uint32_t same;

	if (__builtin_expect(shard->count > TAGS_AT_ONCE, 0)) {
		bucket.first = bucket.end = shard_find(shard, tag);
		while (bucket.end < shard->count && shard->tags[bucket.end] == tag)
			bucket.end++;
		return bucket;
	}
	same = shard_tagged(shard, tag);
	bucket.first = (uint32_t)__builtin_ctz(same | (uint32_t)1 << TAGS_AT_ONCE);
	/* they stand side by side */
	bucket.end =
	    same ? (uint32_t)__builtin_ctz(same + ((uint32_t)1 << bucket.first)) : bucket.first;
	return bucket;
}

/* --- classify_list.c ---------------------------------------------------------------------------
 */

struct rule_node *node_create(const struct rule_config *config); /* one holder: the caller */
void node_drop(struct rule_node *node);

int slot_map_copy(struct slot_map *to, const struct slot_map *from);
void slot_map_free(struct slot_map *map);
struct rule_node *slot_map_get(const struct slot_map *map, uint32_t slot);
/* node NULL: takes what is there out. The map becomes a holder of the one and drops the other. */
int slot_map_set(struct slot_map *map, uint32_t slot, struct rule_node *node);

int rule_list_copy(struct rule_list *to, const struct rule_list *from);
void rule_list_free(struct rule_list *list);
int rule_list_insert(struct rule_list *list, struct rule_node *node);
int rule_list_remove(struct rule_list *list, const struct rule_node *node);
/* `nodes` in their order, into an empty list. */
int rule_list_fill(struct rule_list *list, struct rule_node *const *nodes, uint32_t count);
struct rule_node *rule_list_at(const struct rule_list *list, uint32_t index);
/* Last: afterwards rule_list_at works. */
int rule_list_number(struct rule_list *list);

/* --- classify_table.c --------------------------------------------------------------------------
 */

/* An alternative as tables hash it: of a range of ports, the bits that all of it share. */
struct pattern {
	uint64_t value[FLOW_WORDS];
	uint64_t mask[FLOW_WORDS];
};

void pattern_make(struct pattern *pattern, const struct rule_match *match);

static inline bool mask_within(const uint64_t inner[FLOW_WORDS], const uint64_t outer[FLOW_WORDS])
{
	uint64_t more = 0;

	for (unsigned w = 0; w < FLOW_WORDS; w++)
		more |= inner[w] & ~outer[w];
	return !more;
}

/* Room for about `expected` entries. NULL: no memory. */
struct table *table_create(const uint64_t mask[FLOW_WORDS], uint32_t expected);
void table_drop(struct table *table);
/* How many entries share the hash. */
uint32_t table_bucket(const struct table *table, uint64_t hash);
/* *table: replaced by a copy if others hold it. -ENOMEM leaves it whole. */
int table_insert(struct table **table, uint64_t hash, const struct rule_node *node,
		 const struct rule_match *match);
/* Takes out the rule's entries of this hash, adds to *removed. */
int table_remove(struct table **table, uint64_t hash, const struct classify_rule *rule,
		 uint32_t *removed);
void table_summarize(struct table *table);
uint64_t table_bytes(const struct table *table);

/* --- classify_steps.c --------------------------------------------------------------------------
 */

/* Source, destination, their MACs, their ports, everything else; a step of each. */
enum { MASK_DIMENSIONS = 7 };
extern const uint8_t mask_steps_max[MASK_DIMENSIONS];

/* A mask cut down to these steps, which become those that it has. */
void mask_step(const uint64_t from[FLOW_WORDS], uint8_t steps[MASK_DIMENSIONS],
	       uint64_t out[FLOW_WORDS]);
/* The next combination of steps, none above `most`; false behind the last. */
bool mask_steps_next(uint8_t steps[MASK_DIMENSIONS], const uint8_t most[MASK_DIMENSIONS]);
/* Mask of a table for alternatives like this one where no table has room; `exact`: all of it. */
void table_mask_for(const struct pattern *pattern, bool exact, uint64_t mask[FLOW_WORDS]);

/* --- classify_plan.c ---------------------------------------------------------------------------
 */

/* Puts all rules of the list into tables, made anew. *tables is the caller's, on errors too. */
int tables_plan(const struct rule_list *list, uint32_t matches, const uint64_t seed[FLOW_WORDS],
		struct table ***tables, uint32_t *count);

enum { BUCKET_MAX = 8 }; /* entries of one hash, where a finer mask could part them */
