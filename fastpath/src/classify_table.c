/*
 * Runs on: control thread. One table: shards of entries behind a filter; a change copies one shard,
 * the filter and the array of shards.
 */
#include <errno.h>
#include <stdlib.h>

#include "classify_tables.h"

/* --- patterns ----------------------------------------------------------------------------------
 */

/* The leading bits that all numbers from lo to hi share. */
static uint16_t range_mask(uint16_t lo, uint16_t hi)
{
	unsigned differ = lo ^ hi, shared = differ ? (unsigned)__builtin_clz(differ) - 16 : 16;

	return (uint16_t) ~(UINT16_MAX >> shared);
}

static void range_add(uint16_t *value, uint16_t *mask, uint16_t lo, uint16_t hi)
{
	if (*mask != UINT16_MAX && lo <= hi) {
		*mask = range_mask(lo, hi);
		*value = lo & *mask;
	}
}

void pattern_make(struct pattern *pattern, const struct rule_match *match)
{
	struct flow_key value = match->value, mask = match->mask;

	range_add(&value.l4_src, &mask.l4_src, match->l4_src_lo, match->l4_src_hi);
	range_add(&value.l4_dst, &mask.l4_dst, match->l4_dst_lo, match->l4_dst_hi);
	memcpy(pattern->value, &value, sizeof(pattern->value));
	memcpy(pattern->mask, &mask, sizeof(pattern->mask));
}

/* --- summaries ---------------------------------------------------------------------------------
 */

static void summary_add(struct summary *to, const uint64_t needs[FLOW_WORDS],
			const struct classify_rule *best, const struct classify_rule *worst)
{
	for (unsigned w = 0; w < FLOW_WORDS; w++)
		to->needs[w] |= needs[w];
	if (!to->best || rule_compare(best, to->best) < 0)
		to->best = best;
	if (!to->worst || rule_compare(worst, to->worst) > 0)
		to->worst = worst;
}

/* The bits of a key that the entry looks at. */
static void entry_needs(const struct table *table, const struct entry *entry,
			uint64_t needs[FLOW_WORDS])
{
	struct flow_key mask;

	memset(needs, 0, FLOW_WORDS * sizeof(needs[0]));
	for (unsigned i = 0; i < table->words; i++)
		needs[table->word[i]] = entry->words[2 * i + 1];
	memcpy(&mask, needs, sizeof(mask));
	if (entry->src_lo > 0 || entry->src_hi < UINT16_MAX)
		mask.l4_src = UINT16_MAX;
	if (entry->dst_lo > 0 || entry->dst_hi < UINT16_MAX)
		mask.l4_dst = UINT16_MAX;
	memcpy(needs, &mask, sizeof(mask));
}

static void shard_summarize(const struct table *table, struct shard *shard)
{
	struct summary *summary = shard_summary(shard);
	uint64_t needs[FLOW_WORDS];

	memset(summary, 0, sizeof(*summary));
	for (uint32_t i = 0; i < shard->count; i++) {
		const struct entry *entry = shard_entry(shard, table->words, i);

		entry_needs(table, entry, needs);
		summary_add(summary, needs, entry->rule, entry->rule);
	}
}

static uint32_t table_shards(const struct table *table)
{
	return (uint32_t)1 << table->shard_bits;
}

void table_summarize(struct table *table)
{
	if (!table->stale)
		return;
	memset(&table->summary, 0, sizeof(table->summary));
	for (uint32_t s = 0; s < table_shards(table); s++) {
		const struct summary *summary;

		if (!table->shards[s])
			continue;
		summary = shard_summary(table->shards[s]);
		summary_add(&table->summary, summary->needs, summary->best, summary->worst);
	}
	table->stale = false;
}

/* --- shards ------------------------------------------------------------------------------------
 */

static size_t shard_bytes(uint32_t capacity, unsigned words)
{
	return shard_head(capacity) + sizeof(struct summary) + entry_bytes(words) * capacity;
}

/* A copy with that capacity; from NULL: an empty one. */
static struct shard *shard_copy(const struct shard *from, uint32_t capacity, unsigned words)
{
	struct shard *shard = malloc(shard_bytes(capacity, words));

	if (!shard)
		return NULL;
	*shard = (struct shard){.holders = 1, .capacity = capacity};
	memset(shard_summary(shard), 0, sizeof(struct summary));
	if (!from)
		return shard;
	shard->count = from->count;
	memcpy(shard->tags, from->tags, from->count * sizeof(from->tags[0]));
	*shard_summary(shard) = *shard_summary(from);
	memcpy(shard_entry(shard, words, 0), shard_entry(from, words, 0),
	       entry_bytes(words) * from->count);
	return shard;
}

static void shard_drop(struct shard *shard)
{
	if (shard && !--shard->holders)
		free(shard);
}

/* Makes the shard one that may be changed and has room for `more` entries. */
static int shard_own(struct shard **at, uint32_t more, unsigned words)
{
	struct shard *shard = *at;
	uint32_t needed = (shard ? shard->count : 0) + more;
	uint32_t capacity = shard ? shard->capacity : 4;

	if (shard && shard->holders == 1 && needed <= capacity)
		return 0;
	while (capacity < needed)
		capacity += capacity / 2;
	shard = shard_copy(*at, capacity, words);
	if (!shard)
		return -ENOMEM;
	shard_drop(*at);
	*at = shard;
	return 0;
}

static uint32_t shard_place(const struct shard *shard, unsigned words, uint32_t tag,
			    const struct classify_rule *rule)
{
	uint32_t first = shard_find(shard, tag), last = first, count;

	/* Behind the last of a long bucket, most likely: rules are inserted in their order. */
	for (count = shard->count - first; count > 0;) {
		uint32_t half = count / 2;

		if (shard->tags[last + half] == tag) {
			last += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	for (count = last - first; count > 0;) {
		uint32_t half = count / 2;

		if (rule_compare(shard_entry(shard, words, first + half)->rule, rule) <= 0) {
			first += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	return first;
}

/* Room at place `at`. */
static struct entry *shard_open(struct shard *shard, unsigned words, uint32_t at, uint32_t tag)
{
	uint32_t behind = shard->count - at;
	struct entry *entry = shard_entry(shard, words, at);

	memmove(&shard->tags[at + 1], &shard->tags[at], behind * sizeof(shard->tags[0]));
	memmove(shard_entry(shard, words, at + 1), entry, entry_bytes(words) * behind);
	shard->tags[at] = tag;
	shard->count++;
	return entry;
}

static void shard_close(struct shard *shard, unsigned words, uint32_t at)
{
	uint32_t behind = --shard->count - at;

	memmove(&shard->tags[at], &shard->tags[at + 1], behind * sizeof(shard->tags[0]));
	memmove(shard_entry(shard, words, at), shard_entry(shard, words, at + 1),
		entry_bytes(words) * behind);
}

/* --- tables ------------------------------------------------------------------------------------
 */

static struct table *table_alloc(const uint64_t mask[FLOW_WORDS], unsigned shard_bits)
{
	uint32_t shards = (uint32_t)1 << shard_bits;
	struct table *table = calloc(1, sizeof(*table) + shards * sizeof(table->shards[0]));

	if (!table)
		return NULL;
	table->filter = calloc((size_t)shards * FILTER_WORDS, sizeof(table->filter[0]));
	if (!table->filter) {
		free(table);
		return NULL;
	}
	memcpy(table->mask, mask, sizeof(table->mask));
	table->holders = 1;
	table->shard_bits = (uint8_t)shard_bits;
	return table;
}

struct table *table_create(const uint64_t mask[FLOW_WORDS], uint32_t expected)
{
	unsigned bits = 0;

	while (bits < 24 && expected > (uint32_t)SHARD_ENTRIES << bits)
		bits++;
	return table_alloc(mask, bits);
}

void table_drop(struct table *table)
{
	if (!table || --table->holders)
		return;
	for (uint32_t s = 0; s < table_shards(table); s++)
		shard_drop(table->shards[s]);
	free(table->filter);
	free(table);
}

static int table_own(struct table **at)
{
	const struct table *from = *at;
	struct table *table;

	if (from->holders == 1)
		return 0;
	table = table_alloc(from->mask, from->shard_bits);
	if (!table)
		return -ENOMEM;
	table->entries = from->entries;
	table->words = from->words;
	memcpy(table->word, from->word, sizeof(table->word));
	table->stale = from->stale;
	table->summary = from->summary;
	memcpy(table->filter, from->filter,
	       table_shards(from) * FILTER_WORDS * sizeof(from->filter[0]));
	for (uint32_t s = 0; s < table_shards(from); s++) {
		table->shards[s] = from->shards[s];
		if (table->shards[s])
			table->shards[s]->holders++;
	}
	table_drop(*at);
	*at = table;
	return 0;
}

static struct shard **table_shard(struct table *table, uint32_t hash_high)
{
	return &table->shards[shard_index(hash_high, table->shard_bits)];
}

static void filter_add(struct table *table, uint32_t hash_high, uint32_t tag)
{
	size_t first = (size_t)shard_index(hash_high, table->shard_bits) * FILTER_WORDS;

	table->filter[first + filter_word(tag)] |= filter_bits(tag);
}

static void filter_renew(struct table *table, uint32_t hash_high)
{
	const struct shard *shard = *table_shard(table, hash_high);
	size_t first = (size_t)shard_index(hash_high, table->shard_bits) * FILTER_WORDS;

	memset(&table->filter[first], 0, FILTER_WORDS * sizeof(table->filter[0]));
	for (uint32_t i = 0; shard && i < shard->count; i++)
		filter_add(table, hash_high, shard->tags[i]);
}

uint32_t table_bucket(const struct table *table, uint64_t hash)
{
	const struct shard *shard =
	    table->shards[shard_index((uint32_t)(hash >> 32), table->shard_bits)];
	uint32_t first, count = 0;

	if (!shard)
		return 0;
	first = shard_find(shard, (uint32_t)hash);
	while (first + count < shard->count && shard->tags[first + count] == (uint32_t)hash)
		count++;
	return count;
}

/* An entry of another table, with these words or some of them, under the same hash. */
static int entry_move(struct table *to, const struct table *from, const struct entry *entry,
		      uint32_t tag)
{
	struct shard **shard = table_shard(to, entry->hash_high);
	uint64_t needs[FLOW_WORDS];
	struct entry *copy;
	int status = shard_own(shard, 1, to->words);

	if (status)
		return status;
	copy = shard_open(*shard, to->words, shard_place(*shard, to->words, tag, entry->rule), tag);
	memcpy(copy, entry, sizeof(*entry));
	for (unsigned i = 0, k = 0; i < to->words; i++) {
		bool known = k < from->words && from->word[k] == to->word[i];

		copy->words[2 * i] = known ? entry->words[2 * k] : 0;
		copy->words[2 * i + 1] = known ? entry->words[2 * k + 1] : 0;
		k += known;
	}
	entry_needs(to, copy, needs);
	summary_add(shard_summary(*shard), needs, entry->rule, entry->rule);
	summary_add(&to->summary, needs, entry->rule, entry->rule);
	filter_add(to, entry->hash_high, tag);
	to->entries++;
	return 0;
}

/* The same entries in other shards, or with room for further words (ascending). */
static int table_remake(struct table **at, unsigned shard_bits, const uint8_t *word, unsigned words)
{
	const struct table *from = *at;
	struct table *table = table_alloc(from->mask, shard_bits);

	if (!table)
		return -ENOMEM;
	memcpy(table->word, word, words);
	table->words = (uint8_t)words;
	for (uint32_t s = 0; s < table_shards(from); s++) {
		const struct shard *shard = from->shards[s];

		for (uint32_t i = 0; shard && i < shard->count; i++)
			if (entry_move(table, from, shard_entry(shard, from->words, i),
				       shard->tags[i])) {
				table_drop(table);
				return -ENOMEM;
			}
	}
	table_drop(*at);
	*at = table;
	return 0;
}

/* Entries have room for all words of this mask, and shards are neither too large nor too many. */
static int table_prepare(struct table **at, const uint64_t mask[FLOW_WORDS])
{
	const struct table *table = *at;
	unsigned bits = table->shard_bits, words = 0;
	uint8_t word[FLOW_WORDS];

	for (unsigned w = 0, k = 0; w < FLOW_WORDS; w++) {
		bool known = k < table->words && table->word[k] == w;

		if (known || mask[w])
			word[words++] = (uint8_t)w;
		k += known;
	}
	if (bits < 24 && table->entries >= (uint32_t)SHARD_ENTRIES << bits)
		bits++;
	else if (bits && table->entries < (uint32_t)SHARD_ENTRIES / 8 << bits)
		bits--;
	if (bits == table->shard_bits && words == table->words)
		return table_own(at);
	return table_remake(at, bits, word, words);
}

int table_insert(struct table **at, uint64_t hash, const struct rule_node *node,
		 const struct rule_match *match)
{
	uint64_t value[FLOW_WORDS], mask[FLOW_WORDS], needs[FLOW_WORDS];
	uint32_t tag = (uint32_t)hash, high = (uint32_t)(hash >> 32);
	const struct classify_rule *rule = &node->rule;
	struct shard **shard;
	struct entry *entry;

	memcpy(value, &match->value, sizeof(value));
	memcpy(mask, &match->mask, sizeof(mask));
	if (table_prepare(at, mask))
		return -ENOMEM;
	shard = table_shard(*at, high);
	if (shard_own(shard, 1, (*at)->words))
		return -ENOMEM;
	entry = shard_open(*shard, (*at)->words, shard_place(*shard, (*at)->words, tag, rule), tag);
	*entry = (struct entry){.rule = rule,
				.priority = rule->priority,
				.hash_high = high,
				.src_lo = match->l4_src_lo,
				.src_hi = match->l4_src_hi,
				.dst_lo = match->l4_dst_lo,
				.dst_hi = match->l4_dst_hi};
	for (unsigned i = 0; i < (*at)->words; i++) {
		entry->words[2 * i] = value[(*at)->word[i]];
		entry->words[2 * i + 1] = mask[(*at)->word[i]];
	}
	entry_needs(*at, entry, needs);
	summary_add(shard_summary(*shard), needs, rule, rule);
	if (!(*at)->stale) /* else its rules may be gone; it is made anew later */
		summary_add(&(*at)->summary, needs, rule, rule);
	filter_add(*at, high, tag);
	(*at)->entries++;
	return 0;
}

/* Is one of the entries with this tag the rule's? */
static bool shard_has(const struct shard *shard, unsigned words, uint32_t tag,
		      const struct classify_rule *rule)
{
	for (uint32_t i = shard_find(shard, tag); i < shard->count && shard->tags[i] == tag; i++)
		if (shard_entry(shard, words, i)->rule == rule)
			return true;
	return false;
}

int table_remove(struct table **at, uint64_t hash, const struct classify_rule *rule,
		 uint32_t *removed)
{
	uint32_t tag = (uint32_t)hash, high = (uint32_t)(hash >> 32);
	struct table *table = *at;
	struct shard **shard = table_shard(table, high);

	if (!*shard || !shard_has(*shard, table->words, tag, rule))
		return 0;
	if (table_own(at))
		return -ENOMEM;
	table = *at;
	shard = table_shard(table, high);
	if (shard_own(shard, 0, table->words))
		return -ENOMEM;
	for (uint32_t i = shard_find(*shard, tag); i < (*shard)->count && (*shard)->tags[i] == tag;)
		if (shard_entry(*shard, table->words, i)->rule == rule) {
			shard_close(*shard, table->words, i);
			table->entries--;
			++*removed;
		} else {
			i++;
		}
	if ((*shard)->count) {
		shard_summarize(table, *shard);
	} else {
		shard_drop(*shard);
		*shard = NULL;
	}
	filter_renew(table, high);
	table->stale = true;
	return 0;
}

uint64_t table_bytes(const struct table *table)
{
	uint64_t bytes = sizeof(*table) + table_shards(table) * sizeof(table->shards[0]) +
			 table_shards(table) * FILTER_WORDS * sizeof(table->filter[0]);

	for (uint32_t s = 0; s < table_shards(table); s++)
		if (table->shards[s])
			bytes += shard_bytes(table->shards[s]->capacity, table->words);
	return bytes;
}
