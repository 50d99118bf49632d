/* Runs on: see neighbor_table.h. */
#include "neighbor_table.h"

#include <stdatomic.h>

static struct neighbor_entry *set_of(struct neighbor_table *table, struct neighbor_addr addr)
{
	/* Two multiplications by what a stranger does not know, folded: as the FDB's. */
	uint64_t factor = (table->key * 0x9e3779b97f4a7c15) | 1;
	unsigned __int128 product = (unsigned __int128)(addr.high ^ table->key) * factor;
	uint64_t hash = (uint64_t)product ^ (uint64_t)(product >> 64) ^ addr.low;

	product = (unsigned __int128)(hash ^ table->key) * factor;
	hash = (uint64_t)product ^ (uint64_t)(product >> 64);
	return &table->entries[(hash >> 32) % NEIGHBOR_SETS * NEIGHBOR_WAYS];
}

struct neighbor_entry *neighbor_find(struct neighbor_table *table, struct neighbor_addr addr)
{
	struct neighbor_entry *set = set_of(table, addr);

	for (unsigned i = 0; i < NEIGHBOR_WAYS; i++) {
		if (set[i].state != NEIGHBOR_FREE && neighbor_same(set[i].addr, addr))
			return &set[i];
	}
	return NULL;
}

/* Whether a goes before b: free places, then questions, then answers, the oldest first. */
static bool goes_first(const struct neighbor_entry *a, const struct neighbor_entry *b)
{
	uint32_t a_s = a->state == NEIGHBOR_ASKED ? a->asked_s : a->told_s;
	uint32_t b_s = b->state == NEIGHBOR_ASKED ? b->asked_s : b->told_s;

	return a->state != b->state ? a->state < b->state : a_s < b_s;
}

struct neighbor_entry *neighbor_add(struct neighbor_table *table, struct neighbor_addr addr,
				    struct neighbor_entry *out)
{
	struct neighbor_entry *entry = neighbor_find(table, addr), *set;

	out->state = NEIGHBOR_FREE;
	if (entry)
		return entry;
	set = set_of(table, addr);
	entry = set;
	for (unsigned i = 1; i < NEIGHBOR_WAYS; i++) {
		if (goes_first(&set[i], entry))
			entry = &set[i];
	}
	*out = *entry;
	neighbor_forget(table, entry);
	entry->addr = addr;
	return entry;
}

void neighbor_told(struct neighbor_table *table, struct neighbor_entry *entry, uint64_t mac,
		   uint32_t now_s)
{
	if (entry->state != NEIGHBOR_KNOWN) {
		table->known++;
		entry->used_s = now_s;
	}
	if (entry->state != NEIGHBOR_KNOWN || entry->mac != mac)
		table->changes++;
	entry->mac = mac;
	entry->told_s = now_s;
	entry->tries = 0;
	atomic_signal_fence(memory_order_release); /* a process killed here leaves no half answer */
	entry->state = NEIGHBOR_KNOWN;
}

void neighbor_forget(struct neighbor_table *table, struct neighbor_entry *entry)
{
	if (entry->state == NEIGHBOR_KNOWN) {
		table->known--;
		table->changes++;
	}
	entry->state = NEIGHBOR_FREE;
	atomic_signal_fence(memory_order_release);
	*entry = (struct neighbor_entry){.first = NEIGHBOR_NOBODY, .last = NEIGHBOR_NOBODY};
}

void neighbor_table_recover(struct neighbor_table *table)
{
	table->known = 0;
	table->changes++;
	for (unsigned i = 0; i < NEIGHBOR_MAX; i++) {
		struct neighbor_entry *entry = &table->entries[i];
		struct neighbor_entry found = *entry;
		bool sound = found.state == NEIGHBOR_KNOWN && neighbor_is_unicast(found.addr) &&
			     !(found.mac & MAC_GROUP) && found.mac <= MAC_BROADCAST;

		*entry = (struct neighbor_entry){.first = NEIGHBOR_NOBODY, .last = NEIGHBOR_NOBODY};
		if (!sound || neighbor_find(table, found.addr))
			continue;
		entry->addr = found.addr;
		entry->mac = found.mac;
		entry->told_s = found.told_s;
		entry->used_s = found.used_s;
		entry->state = NEIGHBOR_KNOWN;
		table->known++;
	}
}

enum neighbor_due neighbor_age(struct neighbor_entry *entry, uint32_t now_s)
{
	uint32_t age_s = now_s - entry->told_s;

	if (entry->state == NEIGHBOR_FREE || entry->asked_s == now_s)
		return NEIGHBOR_REST;
	if (entry->state == NEIGHBOR_KNOWN) {
		bool used = (int32_t)(entry->used_s - entry->told_s) > 0;

		if (age_s >= NEIGHBOR_FORGET_S)
			return NEIGHBOR_GIVE_UP;
		if (age_s < NEIGHBOR_FRESH_S || !used)
			return NEIGHBOR_REST;
	}
	if (entry->tries >= NEIGHBOR_TRIES)
		return NEIGHBOR_GIVE_UP;
	entry->tries++;
	entry->asked_s = now_s;
	return NEIGHBOR_ASK_AGAIN;
}
