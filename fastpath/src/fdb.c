/*
 * Forwarding database: the writers' half. fdb.h says how readers and writers meet.
 */
#include "fdb.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

enum {
	FDB_VERSION = 1,
	FDB_HEADER_BYTES = 4096,
	FDB_SLOTS_MIN = 16,
	FDB_CHUNK = 256 /* slots the control thread looks at for one hold of the lock */
};

static const uint64_t fdb_magic = 0x7673776663206462; /* any number that memory does not hold */

struct fdb_header {
	_Atomic uint64_t magic;
	uint32_t version;
	uint32_t entries_max;
	uint64_t slot_count;
	uint64_t seed[4];
	_Alignas(64) _Atomic uint64_t changes;
};
static_assert(sizeof(struct fdb_header) <= FDB_HEADER_BYTES, "the slots begin on the second page");

static const uint64_t key_used = 1;
static const uint64_t key_reserved = 0xe;     /* bits no key has */
static const uint64_t key_group = 1ull << 56; /* the MAC's group bit */
static const uint64_t value_static = 1ull << 15;

static uint64_t value_make(uint32_t tick, uint16_t port, bool is_static, uint32_t moves)
{
	return (uint64_t)tick << 32 | (uint64_t)port << 16 | (is_static ? value_static : 0) |
	       (moves > FDB_MOVES_MAX ? FDB_MOVES_MAX : moves);
}

static uint32_t value_moves(uint64_t value)
{
	return (uint32_t)value & FDB_MOVES_MAX;
}

/* Under the lock only removals and insertions of this thread write keys: plain loads will do. */
static uint64_t slot_key(const struct fdb *fdb, uint64_t i)
{
	return atomic_load_explicit(&fdb->slots[i].key, memory_order_relaxed);
}

static uint64_t slot_value(const struct fdb *fdb, uint64_t i)
{
	return atomic_load_explicit(&fdb->slots[i].value, memory_order_relaxed);
}

/* --- the lock ----------------------------------------------------------------------------------
 */

static bool lock_try(struct fdb *fdb, unsigned spins)
{
	for (unsigned n = 0; n < spins; n++) {
		uint32_t expected = 0;

		if (!atomic_load_explicit(&fdb->lock, memory_order_relaxed) &&
		    atomic_compare_exchange_weak_explicit(
			&fdb->lock, &expected, 1, memory_order_acquire, memory_order_relaxed))
			return true;
		fdb_pause();
	}
	return false;
}

/* The control thread has time; holders are workers, which never wait while they hold it. */
static void lock_take(struct fdb *fdb)
{
	while (!lock_try(fdb, FDB_LOCK_SPINS))
		;
}

static void lock_drop(struct fdb *fdb)
{
	atomic_store_explicit(&fdb->lock, 0, memory_order_release);
}

/* --- under the lock ----------------------------------------------------------------------------
 */

static void count_add(_Atomic uint32_t *count, int32_t n)
{
	uint32_t now = atomic_load_explicit(count, memory_order_relaxed);

	atomic_store_explicit(count, now + (uint32_t)n, memory_order_relaxed);
}

/* An entry with this value came (n = 1) or went (n = -1). */
static void count_entry(struct fdb *fdb, uint64_t value, int32_t n)
{
	uint16_t port = fdb_value_port(value);

	count_add(&fdb->count, n);
	if (fdb_value_static(value)) {
		count_add(&fdb->static_count, n);
		return;
	}
	count_add(&fdb->port_count[port], n);
	if (n > 0 && port >= fdb->port_high)
		fdb->port_high = port + 1u;
}

/* Who reads the view sees what became of a key: it is at a port, or (at FDB_ANY) nowhere. */
static void view_note(struct fdb *fdb, uint64_t key, uint16_t port)
{
	if (!fdb->view || key & 0xfff0)
		return;
	if (port < FDB_PORTS_MAX && fdb->view_ports[port / 64] >> (port % 64) & 1u)
		fdb_view_put(fdb->view, key & ~(uint64_t)0xffff, port);
	else
		fdb_view_drop(fdb->view, key & ~(uint64_t)0xffff);
}

/* Index of a key, or of the empty slot where it belongs. */
static uint64_t slot_search(const struct fdb *fdb, uint64_t key)
{
	uint64_t i = fdb_home(fdb, key);

	while (slot_key(fdb, i) && slot_key(fdb, i) != key)
		i = (i + 1) & fdb->mask;
	return i;
}

static void slot_insert(struct fdb *fdb, uint64_t i, uint64_t key, uint64_t value)
{
	atomic_store_explicit(&fdb->slots[i].value, value, memory_order_relaxed);
	atomic_store_explicit(&fdb->slots[i].key, key, memory_order_release);
	count_entry(fdb, value, 1);
	view_note(fdb, key, fdb_value_port(value));
}

/*
 * Removes the entry of slot i and pulls back those behind it that would not be found across the
 * gap. Readers in the middle see `changes` odd or changed: every store below is a release after
 * it became odd, so whoever reads one of them and then `changes` knows.
 */
static void slot_remove(struct fdb *fdb, uint64_t i)
{
	uint64_t changes = atomic_load_explicit(fdb->changes, memory_order_relaxed);
	uint64_t gap = i;

	view_note(fdb, slot_key(fdb, i), FDB_ANY);
	count_entry(fdb, slot_value(fdb, i), -1);
	atomic_store_explicit(fdb->changes, changes + 1, memory_order_relaxed);
	for (uint64_t j = (gap + 1) & fdb->mask; slot_key(fdb, j); j = (j + 1) & fdb->mask) {
		uint64_t key = slot_key(fdb, j);
		uint64_t home = fdb_home(fdb, key);

		/* The entry at j may go to the gap unless its home lies between the two. */
		if (((j - home) & fdb->mask) < ((j - gap) & fdb->mask))
			continue;
		atomic_store_explicit(&fdb->slots[gap].value, slot_value(fdb, j),
				      memory_order_release);
		atomic_store_explicit(&fdb->slots[gap].key, key, memory_order_release);
		gap = j;
	}
	atomic_store_explicit(&fdb->slots[gap].key, 0, memory_order_release);
	/* A reader's late refresh compares the value: 0 is no entry's, so it cannot succeed. */
	atomic_store_explicit(&fdb->slots[gap].value, 0, memory_order_release);
	atomic_store_explicit(fdb->changes, changes + 2, memory_order_release);
}

/* Port that holds most learned entries; the given one among equals. */
static uint16_t port_largest(const struct fdb *fdb, uint16_t port)
{
	uint32_t most = fdb_port_count(fdb, port);

	for (uint32_t p = 0; p < fdb->port_high; p++) {
		uint32_t held = atomic_load_explicit(&fdb->port_count[p], memory_order_relaxed);

		if (held > most) {
			most = held;
			port = (uint16_t)p;
		}
	}
	return port;
}

/*
 * Removes the learned entry of a port that was not seen for longest (fdb.h says how exactly),
 * sparing the key that is about to move there. False when the search ended without a candidate.
 */
static bool evict(struct fdb *fdb, uint16_t port, uint32_t now, uint64_t spare)
{
	uint64_t slots = fdb->mask + 1;
	uint64_t scan = slots < FDB_EVICT_SCAN ? slots : FDB_EVICT_SCAN;
	unsigned wanted = slots <= FDB_EVICT_SCAN ? UINT32_MAX : FDB_EVICT_SAMPLE;
	unsigned seen = 0;
	uint64_t oldest = 0;
	uint32_t oldest_age = 0;
	uint64_t i = fdb->evict_hand;

	for (uint64_t n = 0; n < scan && seen < wanted; n++, i = (i + 1) & fdb->mask) {
		uint64_t key = slot_key(fdb, i);
		uint64_t value = slot_value(fdb, i);
		uint32_t age;

		if (!key || key == spare || fdb_value_static(value) ||
		    fdb_value_port(value) != port)
			continue;
		age = now - fdb_value_tick(value);
		if ((int32_t)age < 0) /* another worker's clock is a tick ahead */
			age = 0;
		if (!seen++ || age > oldest_age) {
			oldest = i;
			oldest_age = age;
		}
	}
	fdb->evict_hand = i;
	if (seen)
		slot_remove(fdb, oldest);
	return seen > 0;
}

/* Makes room for one more entry of a port; `key` must survive. */
static bool room_make(struct fdb *fdb, uint16_t port, uint32_t now, uint64_t key, bool entry_new)
{
	if (fdb_port_count(fdb, port) >= fdb->port_quota)
		return evict(fdb, port, now, key);
	if (entry_new && fdb_count(fdb) >= fdb->entries_max)
		return evict(fdb, port_largest(fdb, port), now, key);
	return true;
}

/* --- workers -----------------------------------------------------------------------------------
 */

/* Under the lock, after an entry got another port: who remembers what it learned looks again. */
static void changes_note(struct fdb *fdb)
{
	uint64_t changes = atomic_load_explicit(fdb->changes, memory_order_relaxed);

	atomic_store_explicit(fdb->changes, changes + 2, memory_order_release);
}

static enum fdb_learned learn_locked(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick)
{
	uint64_t i = slot_search(fdb, key);
	bool known = slot_key(fdb, i) == key;
	uint64_t value;

	if (known) {
		value = slot_value(fdb, i);
		if (fdb_value_port(value) == port)
			return FDB_REFRESHED; /* another worker was quicker */
		if (fdb_value_static(value))
			return FDB_REFUSED;
	}
	if (!room_make(fdb, port, tick, key, !known))
		return FDB_REFUSED;
	i = slot_search(fdb, key); /* the eviction may have shifted it */
	if (!known) {
		slot_insert(fdb, i, key, value_make(tick, port, false, 0));
		return FDB_NEW;
	}
	value = slot_value(fdb, i);
	count_entry(fdb, value, -1);
	value = value_make(tick, port, false, value_moves(value) + 1);
	count_entry(fdb, value, 1);
	atomic_store_explicit(&fdb->slots[i].value, value, memory_order_release);
	changes_note(fdb);
	view_note(fdb, key, port);
	return FDB_MOVED;
}

bool fdb_find_slow(const struct fdb *fdb, uint64_t home, uint64_t key, struct fdb_slot **slot,
		   uint64_t *value)
{
	for (unsigned tries = 0; tries < FDB_READ_TRIES; tries++) {
		uint64_t before = atomic_load_explicit(fdb->changes, memory_order_acquire);
		bool found = false;

		for (uint64_t n = 0, i = home; n <= fdb->mask; n++, i = (i + 1) & fdb->mask) {
			uint64_t k = atomic_load_explicit(&fdb->slots[i].key, memory_order_acquire);

			if (k == key) {
				*slot = &fdb->slots[i];
				*value = atomic_load_explicit(&fdb->slots[i].value,
							      memory_order_acquire);
				found = true;
				break;
			}
			if (!k)
				break;
		}
		if (!(before & 1u) &&
		    atomic_load_explicit(fdb->changes, memory_order_relaxed) == before)
			return found;
		fdb_pause();
	}
	return false;
}

enum fdb_learned fdb_learn_slow(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick)
{
	struct fdb_slot *slot;
	uint64_t value;
	enum fdb_learned result;

	if (port >= FDB_PORTS_MAX || !(key & key_used))
		return FDB_REFUSED;
	if (fdb_find(fdb, key, &slot, &value) && fdb_value_port(value) == port) {
		/*
		 * Only the tick: no lock. If the slot has changed hands since, its value differs
		 * and the exchange fails, or it is the same and somebody else's entry of this port
		 * gets the tick it had a moment ago anyway. A refresh that fails comes again.
		 */
		atomic_compare_exchange_strong_explicit(&slot->value, &value,
							(value & UINT32_MAX) | (uint64_t)tick << 32,
							memory_order_release, memory_order_relaxed);
		return FDB_REFRESHED;
	}
	if (!lock_try(fdb, FDB_LOCK_SPINS))
		return FDB_REFUSED;
	result = learn_locked(fdb, key, port, tick);
	lock_drop(fdb);
	return result;
}

/* --- control thread ----------------------------------------------------------------------------
 */

/* What a sweep removes. */
struct sweep {
	enum { SWEEP_AGED, SWEEP_FLUSH, SWEEP_RETAIN } kind;
	uint32_t now;
	uint32_t ageing;
	uint16_t port;
	uint16_t vid;
	const uint64_t *keep;
};

static bool sweep_hits(const struct sweep *sweep, uint64_t key, uint64_t value)
{
	uint16_t port = fdb_value_port(value);
	int32_t age;

	if (!key)
		return false;
	if (sweep->kind == SWEEP_RETAIN)
		return !(sweep->keep[port / 64] >> (port % 64) & 1u);
	if (fdb_value_static(value))
		return false;
	if (sweep->kind == SWEEP_FLUSH)
		return (sweep->port == FDB_ANY || sweep->port == port) &&
		       (sweep->vid == FDB_ANY || sweep->vid == (key >> 4 & 0xfff));
	age = (int32_t)(sweep->now - fdb_value_tick(value));
	return age > 0 && (uint32_t)age > sweep->ageing;
}

/*
 * Goes over `slots` slots from *hand on, holding the lock for `chunk` of them at a time. A slot
 * that a removal refilled is looked at again; an entry that a worker's eviction pulls back across
 * the hand between two chunks is missed.
 */
static unsigned sweep_slots(struct fdb *fdb, const struct sweep *sweep, uint64_t *hand,
			    uint64_t slots, uint64_t chunk)
{
	unsigned removed = 0;

	for (uint64_t n = 0; n < slots;) {
		uint64_t stop = n + chunk < slots ? n + chunk : slots;

		lock_take(fdb);
		while (n < stop) {
			if (sweep_hits(sweep, slot_key(fdb, *hand), slot_value(fdb, *hand))) {
				slot_remove(fdb, *hand);
				removed++;
				continue;
			}
			*hand = (*hand + 1) & fdb->mask;
			n++;
		}
		lock_drop(fdb);
	}
	return removed;
}

/*
 * Removes every hit that was there at the call. A pass that no removal but its own disturbed has
 * seen them all: its own pull entries back to the hand, not across it. Workers that keep evicting
 * may disturb every pass, so the third holds the lock throughout.
 */
static unsigned sweep_all(struct fdb *fdb, const struct sweep *sweep)
{
	uint64_t slots = fdb->mask + 1;
	unsigned removed = 0;

	for (unsigned pass = 0; pass < 3; pass++) {
		uint64_t before = atomic_load_explicit(fdb->changes, memory_order_relaxed);
		uint64_t hand = 0;
		unsigned hits;

		hits = sweep_slots(fdb, sweep, &hand, slots, pass < 2 ? FDB_CHUNK : slots);
		removed += hits;
		if (atomic_load_explicit(fdb->changes, memory_order_relaxed) - before ==
		    2ull * hits)
			break;
	}
	return removed;
}

unsigned fdb_age(struct fdb *fdb, uint32_t now, uint32_t ageing, uint64_t slots)
{
	struct sweep sweep = {.kind = SWEEP_AGED, .now = now, .ageing = ageing};

	return sweep_slots(fdb, &sweep, &fdb->age_hand, slots, FDB_CHUNK);
}

unsigned fdb_flush(struct fdb *fdb, uint16_t port, uint16_t vid)
{
	struct sweep sweep = {.kind = SWEEP_FLUSH, .port = port, .vid = vid};

	return sweep_all(fdb, &sweep);
}

unsigned fdb_retain(struct fdb *fdb, const uint64_t *ports)
{
	struct sweep sweep = {.kind = SWEEP_RETAIN, .keep = ports};

	return sweep_all(fdb, &sweep);
}

int fdb_set_static(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick)
{
	int result = 0;
	uint64_t i, value;
	bool known;

	if (port >= FDB_PORTS_MAX || !(key & key_used) || key & key_group)
		return -EINVAL;
	lock_take(fdb);
	i = slot_search(fdb, key);
	known = slot_key(fdb, i) == key;
	if (known) {
		value = slot_value(fdb, i);
		count_entry(fdb, value, -1);
		value = value_make(tick, port, true, value_moves(value));
		count_entry(fdb, value, 1);
		atomic_store_explicit(&fdb->slots[i].value, value, memory_order_release);
		changes_note(fdb);
		view_note(fdb, key, port);
	} else if (atomic_load_explicit(&fdb->static_count, memory_order_relaxed) >=
		   fdb->entries_max) {
		result = -ENOSPC;
	} else {
		/* The administrator's entry does not depend on where the hand stands: go round. */
		for (uint64_t n = 0; fdb_count(fdb) >= fdb->entries_max && n <= fdb->mask;
		     n += FDB_EVICT_SCAN)
			evict(fdb, port_largest(fdb, port), tick, key);
		if (fdb_count(fdb) < fdb->entries_max)
			slot_insert(fdb, slot_search(fdb, key), key,
				    value_make(tick, port, true, 0));
		else
			result = -ENOSPC;
	}
	lock_drop(fdb);
	return result;
}

int fdb_clear_static(struct fdb *fdb, uint64_t key)
{
	int result = -ENOENT;
	uint64_t i;

	lock_take(fdb);
	i = slot_search(fdb, key);
	if (slot_key(fdb, i) == key && fdb_value_static(slot_value(fdb, i))) {
		slot_remove(fdb, i);
		result = 0;
	}
	lock_drop(fdb);
	return result;
}

void fdb_show(struct fdb *fdb, struct fdb_view *view, const uint64_t *ports)
{
	lock_take(fdb);
	fdb->view = view;
	if (view) {
		memcpy(fdb->view_ports, ports, sizeof(fdb->view_ports));
		fdb_view_clear(view);
		for (uint64_t i = 0; i <= fdb->mask; i++) {
			if (slot_key(fdb, i))
				view_note(fdb, slot_key(fdb, i),
					  fdb_value_port(slot_value(fdb, i)));
		}
	}
	lock_drop(fdb);
}

static void entry_show(uint64_t key, uint64_t value, struct fdb_entry *entry)
{
	for (unsigned n = 0; n < 6; n++)
		entry->mac[n] = (uint8_t)(key >> (56 - 8 * n));
	entry->vid = key >> 4 & 0xfff;
	entry->port = fdb_value_port(value);
	entry->is_static = fdb_value_static(value);
	entry->tick = fdb_value_tick(value);
	entry->moves = value_moves(value);
}

unsigned fdb_dump(const struct fdb *fdb, uint64_t *cursor, struct fdb_entry *entries, unsigned max)
{
	unsigned count = 0;
	uint64_t i = *cursor;

	for (; i <= fdb->mask && count < max; i++) {
		uint64_t key = atomic_load_explicit(&fdb->slots[i].key, memory_order_acquire);
		struct fdb_slot *slot;
		uint64_t value;

		/* Asking for the key again gives a value that belongs to it. */
		if (key && fdb_find(fdb, key, &slot, &value))
			entry_show(key, value, &entries[count++]);
	}
	*cursor = i > fdb->mask ? 0 : i;
	return count;
}

/* --- opening -----------------------------------------------------------------------------------
 */

static uint64_t slot_count(uint32_t entries_max)
{
	uint64_t slots = FDB_SLOTS_MIN;

	while (slots < 2ull * entries_max)
		slots *= 2;
	return slots;
}

uint64_t fdb_bytes(uint32_t entries_max)
{
	uint64_t bytes = FDB_HEADER_BYTES + slot_count(entries_max) * sizeof(struct fdb_slot);

	return (bytes + 4095) / 4096 * 4096;
}

static bool header_valid(const struct fdb *fdb)
{
	const struct fdb_header *header = fdb->header;

	return atomic_load_explicit(&header->magic, memory_order_acquire) == fdb_magic &&
	       header->version == FDB_VERSION && header->entries_max == fdb->entries_max &&
	       header->slot_count == fdb->mask + 1;
}

static int table_init(struct fdb *fdb, const uint64_t *seed, struct error *err)
{
	struct fdb_header *header = fdb->header;

	/* Not valid until it is complete. */
	atomic_store_explicit(&header->magic, 0, memory_order_release);
	memset(fdb->slots, 0, (fdb->mask + 1) * sizeof(struct fdb_slot));
	if (seed)
		memcpy(header->seed, seed, sizeof(header->seed));
	else if (getrandom(header->seed, sizeof(header->seed), 0) != sizeof(header->seed))
		return error_set(err, EIO, "fdb: the kernel gave no random seed");
	header->seed[1] |= 1; /* factors: a 0 would put every address into one slot */
	header->seed[3] |= 1;
	header->version = FDB_VERSION;
	header->entries_max = fdb->entries_max;
	header->slot_count = fdb->mask + 1;
	atomic_store_explicit(&header->changes, 0, memory_order_relaxed);
	atomic_store_explicit(&header->magic, fdb_magic, memory_order_release);
	return 0;
}

static bool entry_possible(uint64_t key, uint64_t value)
{
	return key & key_used && !(key & (key_reserved | key_group)) &&
	       fdb_value_port(value) < FDB_PORTS_MAX;
}

/*
 * Counts what a previous process left. False when it is not a table as fdb_learn leaves it: a
 * writer died in the middle, or memory is damaged.
 */
static bool table_count(struct fdb *fdb)
{
	if (atomic_load_explicit(fdb->changes, memory_order_relaxed) & 1u)
		return false;
	for (uint64_t i = 0; i <= fdb->mask; i++) {
		uint64_t key = slot_key(fdb, i);

		if (!key)
			continue;
		if (!entry_possible(key, slot_value(fdb, i)) || fdb_count(fdb) >= fdb->entries_max)
			return false;
		count_entry(fdb, slot_value(fdb, i), 1);
	}
	return true;
}

/* Enters everything once more, through a copy: what can be is kept, duplicates are not. */
static int table_rebuild(struct fdb *fdb, struct error *err)
{
	size_t bytes = (fdb->mask + 1) * sizeof(struct fdb_slot);
	struct fdb_slot *copy = malloc(bytes);

	if (!copy)
		return error_set(err, ENOMEM, "fdb: no memory to repair a table of %u entries",
				 fdb->entries_max);
	memcpy(copy, fdb->slots, bytes);
	memset(fdb->slots, 0, bytes);
	fdb->port_high = 0;
	atomic_store_explicit(&fdb->count, 0, memory_order_relaxed);
	atomic_store_explicit(&fdb->static_count, 0, memory_order_relaxed);
	memset(fdb->port_count, 0, sizeof(fdb->port_count));
	atomic_store_explicit(fdb->changes, 0, memory_order_relaxed);
	for (uint64_t i = 0; i <= fdb->mask; i++) {
		uint64_t key = atomic_load_explicit(&copy[i].key, memory_order_relaxed);
		uint64_t value = atomic_load_explicit(&copy[i].value, memory_order_relaxed);
		uint64_t at;

		if (!entry_possible(key, value) || fdb_count(fdb) >= fdb->entries_max)
			continue;
		at = slot_search(fdb, key);
		if (!slot_key(fdb, at))
			slot_insert(fdb, at, key, value);
	}
	free(copy);
	return 0;
}

int fdb_open(const struct fdb_params *params, struct fdb **out, struct error *err)
{
	struct fdb *fdb;
	int result = 0;

	if (!params->entries_max || params->entries_max > FDB_ENTRIES_MAX)
		return error_set(err, EINVAL, "fdb: %u entries, 1 to %u are possible",
				 params->entries_max, FDB_ENTRIES_MAX);
	if (params->bytes < fdb_bytes(params->entries_max) || (uintptr_t)params->memory % 64)
		return error_set(
		    err, EINVAL,
		    "fdb: %llu bytes of memory, %llu aligned to a cache line are needed",
		    (unsigned long long)params->bytes,
		    (unsigned long long)fdb_bytes(params->entries_max));
	fdb = aligned_alloc(64, sizeof(*fdb));
	if (!fdb)
		return error_set(err, ENOMEM, "fdb: no memory");
	memset(fdb, 0, sizeof(*fdb));
	fdb->header = params->memory;
	fdb->slots = (struct fdb_slot *)((uint8_t *)params->memory + FDB_HEADER_BYTES);
	fdb->changes = &fdb->header->changes;
	fdb->mask = slot_count(params->entries_max) - 1;
	fdb->entries_max = params->entries_max;
	fdb->port_quota = params->port_quota ? params->port_quota : UINT32_MAX;
	fdb->taken_over = !params->reset && header_valid(fdb);
	if (!fdb->taken_over)
		result = table_init(fdb, params->seed, err);
	memcpy(fdb->seed, fdb->header->seed, sizeof(fdb->seed));
	if (fdb->taken_over && !table_count(fdb))
		result = table_rebuild(fdb, err);
	if (result) {
		free(fdb);
		return result;
	}
	*out = fdb;
	return 0;
}

void fdb_close(struct fdb *fdb)
{
	free(fdb);
}
