/* Entries, their chains and lists, and the memory they lie in: conntrack_table.h. */
#include "conntrack_table.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

enum { CONNTRACK_VERSION = 1 };

static const uint64_t conntrack_magic = 0x767377636f6e6e31;

/* --- chains and free slots; the shard's lock is held --------------------------------------------
 */

static void chain_unlink(struct conntrack *table, struct conntrack_shard *shard, uint32_t index)
{
	const struct conntrack_entry *entry = conntrack_at(table, index);
	_Atomic uint32_t *chain = conntrack_chain(table, shard, entry->hash);
	uint32_t before = atomic_load_explicit(chain, memory_order_relaxed);

	if (before == index) {
		atomic_store_explicit(chain, entry->next, memory_order_relaxed);
		return;
	}
	while (conntrack_at(table, before)->next != index)
		before = conntrack_at(table, before)->next;
	conntrack_at(table, before)->next = entry->next;
}

uint32_t conntrack_slot(struct conntrack *table, struct conntrack_shard *shard)
{
	uint32_t number = (uint32_t)(shard - table->shards), index = shard->free;

	if (index) {
		shard->free = conntrack_at(table, index)->next;
		return index;
	}
	if (shard->high == table->shard_slots)
		return 0;
	index = number * table->shard_slots + ++shard->high;
	atomic_store_explicit(&table->header->high[number], shard->high, memory_order_release);
	return index;
}

/* --- a port's connections without an answer ------------------------------------------------------
 */

static void list_append(struct conntrack *table, struct conntrack_port *port, uint32_t index)
{
	struct conntrack_entry *entry = conntrack_at(table, index);

	entry->older = port->newest;
	entry->newer = 0;
	if (port->newest)
		conntrack_at(table, port->newest)->newer = index;
	else
		port->oldest = index;
	port->newest = index;
}

static void list_unlink(struct conntrack *table, struct conntrack_port *port, uint32_t index)
{
	const struct conntrack_entry *entry = conntrack_at(table, index);

	if (entry->older)
		conntrack_at(table, entry->older)->newer = entry->newer;
	else
		port->oldest = entry->newer;
	if (entry->newer)
		conntrack_at(table, entry->newer)->older = entry->older;
	else
		port->newest = entry->older;
}

void conntrack_list_move(struct conntrack *table, uint32_t index, bool answered)
{
	struct conntrack_port *port = &table->ports[conntrack_at(table, index)->in_port];

	conntrack_lock(&port->lock);
	list_unlink(table, port, index);
	if (!answered)
		list_append(table, port, index);
	conntrack_unlock(&port->lock);
}

/* --- entries ------------------------------------------------------------------------------------
 */

void conntrack_insert(struct conntrack *table, struct conntrack_shard *shard, uint32_t index)
{
	struct conntrack_entry *entry = conntrack_at(table, index);
	struct conntrack_port *port = &table->ports[entry->in_port];
	_Atomic uint32_t *chain = conntrack_chain(table, shard, entry->hash);

	entry->next = atomic_load_explicit(chain, memory_order_relaxed);
	atomic_store_explicit(chain, index, memory_order_relaxed);
	shard->count++;
	if (!entry->answered) {
		conntrack_lock(&port->lock);
		list_append(table, port, index);
		conntrack_unlock(&port->lock);
	}
	atomic_store_explicit(&entry->stamp, conntrack_stamp(entry) + 1, memory_order_release);
}

void conntrack_remove(struct conntrack *table, struct conntrack_shard *shard, uint32_t index)
{
	struct conntrack_entry *entry = conntrack_at(table, index);
	struct conntrack_port *port = &table->ports[entry->in_port];

	if (!entry->answered) {
		conntrack_lock(&port->lock);
		list_unlink(table, port, index);
		conntrack_unlock(&port->lock);
	}
	atomic_store_explicit(&entry->stamp, conntrack_stamp(entry) + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	chain_unlink(table, shard, index);
	entry->next = shard->free;
	shard->free = index;
	shard->count--;
	conntrack_unreserve(table, entry->in_port);
}

/* --- limits -------------------------------------------------------------------------------------
 */

static bool count_take(_Atomic uint32_t *count, uint32_t most)
{
	if (atomic_fetch_add_explicit(count, 1, memory_order_relaxed) < most)
		return true;
	atomic_fetch_sub_explicit(count, 1, memory_order_relaxed);
	return false;
}

static bool counts_take(struct conntrack *table, struct conntrack_port *port)
{
	uint32_t quota = atomic_load_explicit(&table->quota, memory_order_relaxed);

	if (!count_take(&port->count, quota))
		return false;
	if (count_take(&table->count, table->connections_max))
		return true;
	atomic_fetch_sub_explicit(&port->count, 1, memory_order_relaxed);
	return false;
}

/* False: every connection of the port has been answered. */
static bool evict(struct conntrack *table, struct conntrack_port *port)
{
	struct conntrack_shard *shard;
	uint32_t index, stamp = 0;

	conntrack_lock(&port->lock);
	index = port->oldest;
	if (index)
		stamp = conntrack_stamp(conntrack_at(table, index));
	conntrack_unlock(&port->lock);
	if (!index)
		return false;
	shard = conntrack_shard_at(table, index);
	conntrack_lock(&shard->lock);
	/* meanwhile it may have been answered, or made room for another one */
	if (conntrack_stamp(conntrack_at(table, index)) == stamp && (stamp & 1) &&
	    !conntrack_at(table, index)->answered)
		conntrack_remove(table, shard, index);
	conntrack_unlock(&shard->lock);
	return true;
}

bool conntrack_reserve(struct conntrack *table, uint16_t port_id)
{
	struct conntrack_port *port;

	if (port_id >= CONNTRACK_PORTS_MAX)
		return false;
	port = &table->ports[port_id];
	for (unsigned tries = 0; tries < 4; tries++) { /* others may be quicker to take the room */
		if (counts_take(table, port))
			return true;
		if (!evict(table, port))
			return false;
	}
	return false;
}

void conntrack_unreserve(struct conntrack *table, uint16_t port)
{
	atomic_fetch_sub_explicit(&table->ports[port].count, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&table->count, 1, memory_order_relaxed);
}

uint32_t conntrack_count(const struct conntrack *table)
{
	return atomic_load_explicit(&table->count, memory_order_relaxed);
}

uint32_t conntrack_max(const struct conntrack *table)
{
	return table->connections_max;
}

/* --- settings -----------------------------------------------------------------------------------
 */

struct conntrack_settings conntrack_defaults(uint32_t connections_max)
{
	return (struct conntrack_settings){
	    .port_quota = (connections_max + 3) / 4,
	    .tcp_opening = 60,
	    .tcp_established = 7440,
	    .tcp_closing = 120,
	    .udp_new = 30,
	    .udp_established = 180,
	    .icmp = 30,
	};
}

void conntrack_set(struct conntrack *table, const struct conntrack_settings *settings)
{
	uint32_t quota = settings->port_quota ? settings->port_quota : table->connections_max;

	for (unsigned state = 0; state < CONNTRACK_TCP_STATES; state++)
		atomic_store(&table->tcp_timeouts[state], state < CONNTRACK_TCP_ESTABLISHED
							      ? settings->tcp_opening
							      : settings->tcp_closing);
	atomic_store(&table->tcp_timeouts[CONNTRACK_TCP_ESTABLISHED], settings->tcp_established);
	atomic_store(&table->udp_new, settings->udp_new);
	atomic_store(&table->udp_established, settings->udp_established);
	atomic_store(&table->icmp, settings->icmp);
	atomic_store(&table->loose, settings->tcp_loose);
	atomic_store(&table->quota, quota);
}

/* --- shape --------------------------------------------------------------------------------------
 */

/*
 * Hashes do not spread evenly: a quarter more slots than connections, and some, keep a shard from
 * being full before the table is. (1,024 a shard on average: 256 are eight standard deviations.)
 */
static void shape(uint32_t connections_max, uint32_t *shards, uint32_t *slots)
{
	bool one = connections_max < CONNTRACK_SHARD_MIN * CONNTRACK_SHARDS_MAX;
	uint32_t average = connections_max / CONNTRACK_SHARDS_MAX;

	*shards = one ? 1 : CONNTRACK_SHARDS_MAX;
	*slots = one ? connections_max : average + average / 4 + 64;
}

static uint32_t power_of_two(uint32_t least)
{
	uint32_t power = 1;

	while (power < least)
		power *= 2;
	return power;
}

uint64_t conntrack_bytes(uint32_t connections_max)
{
	uint32_t shards, slots;
	uint64_t bytes;

	shape(connections_max, &shards, &slots);
	bytes = sizeof(struct conntrack_header) +
		(uint64_t)shards * slots * sizeof(struct conntrack_entry);
	return (bytes + 4095) / 4096 * 4096;
}

/* --- taking over --------------------------------------------------------------------------------
 */

static bool tuple_sound(const struct conntrack_tuple *tuple)
{
	static const uint8_t zero[12];
	bool ipv4 = tuple->ip_version == 4;

	if (!ipv4 && tuple->ip_version != 6)
		return false;
	if (ipv4 && (memcmp(tuple->address[0], zero, 12) || memcmp(tuple->address[1], zero, 12)))
		return false;
	return tuple->proto == CONNTRACK_TCP || tuple->proto == CONNTRACK_UDP ||
	       tuple->proto == (ipv4 ? CONNTRACK_ICMP : CONNTRACK_ICMPV6);
}

static bool entry_sound(const struct conntrack_entry *entry)
{
	bool tcp = entry->tuple.proto == CONNTRACK_TCP;

	return tuple_sound(&entry->tuple) && entry->origin < 2 && entry->answered < 2 &&
	       entry->in_port < CONNTRACK_PORTS_MAX && entry->tcp < CONNTRACK_TCP_STATES &&
	       (entry->tcp != CONNTRACK_TCP_NONE) == tcp;
}

/* Enters what is left of the entry, or makes its slot free. Nobody else runs. */
static void slot_take_over(struct conntrack *table, struct conntrack_shard *shard, uint32_t index)
{
	struct conntrack_entry *entry = conntrack_at(table, index);
	uint32_t stamp = conntrack_stamp(entry);
	uint64_t hash = conntrack_hash(table, &entry->tuple);

	if ((stamp & 1) && entry_sound(entry) && conntrack_shard_of(table, hash) == shard &&
	    !conntrack_find(table, shard, hash, &entry->tuple)) {
		entry->hash = (uint32_t)hash;
		atomic_store(&entry->stamp, stamp + 1); /* insert makes it odd again */
		atomic_fetch_add(&table->count, 1);
		atomic_fetch_add(&table->ports[entry->in_port].count, 1);
		conntrack_insert(table, shard, index);
		return;
	}
	atomic_store(&entry->stamp, stamp + (stamp & 1));
	entry->next = shard->free;
	shard->free = index;
}

int conntrack_take_over(struct conntrack *table, struct error *err)
{
	for (uint32_t s = 0; s < table->shard_count; s++) {
		struct conntrack_shard *shard = &table->shards[s];
		uint32_t high = atomic_load_explicit(&table->header->high[s], memory_order_acquire);

		if (high > table->shard_slots)
			return error_set(err, EPROTO, "connections: the memory holds no table");
		shard->high = high;
		for (uint32_t slot = high; slot > 0; slot--)
			slot_take_over(table, shard, s * table->shard_slots + slot);
	}
	return 0;
}

/* Takes a valid header over, writes one into zeroed memory, refuses anything else. */
static int header_open(struct conntrack *table, struct error *err)
{
	struct conntrack_header *header = table->header;
	uint64_t magic = atomic_load_explicit(&header->magic, memory_order_acquire);

	if (!magic) {
		if (getrandom(header->secret, sizeof(header->secret), 0) != sizeof(header->secret))
			return error_set(err, EIO, "connections: no random numbers for the hash");
		header->version = CONNTRACK_VERSION;
		header->connections_max = table->connections_max;
		header->shard_count = table->shard_count;
		header->shard_slots = table->shard_slots;
		atomic_store_explicit(&header->magic, conntrack_magic, memory_order_release);
	} else if (magic != conntrack_magic || header->version != CONNTRACK_VERSION ||
		   header->connections_max != table->connections_max ||
		   header->shard_count != table->shard_count ||
		   header->shard_slots != table->shard_slots) {
		return error_set(err, EPROTO,
				 "connections: the memory holds a table of another shape or "
				 "version");
	}
	memcpy(table->secret, header->secret, sizeof(table->secret));
	return 0;
}

/* --- mapping ------------------------------------------------------------------------------------
 */

static void *zeroed(size_t count, size_t bytes)
{
	size_t all = (count * bytes + 63) / 64 * 64;
	void *memory = aligned_alloc(64, all);

	if (memory)
		memset(memory, 0, all);
	return memory;
}

static int private_make(struct conntrack *table, struct error *err)
{
	uint32_t chains = power_of_two(table->shard_slots), shards = table->shard_count;

	table->chain_mask = chains - 1;
	table->shards = zeroed(shards, sizeof(*table->shards));
	table->chains = zeroed(shards, chains * sizeof(*table->chains));
	table->fragments = zeroed(shards, CONNTRACK_FRAGMENTS * sizeof(*table->fragments));
	table->ports = zeroed(CONNTRACK_PORTS_MAX, sizeof(*table->ports));
	if (!table->shards || !table->chains || !table->fragments || !table->ports)
		return error_set(err, ENOMEM, "connections: out of memory");
	for (uint32_t s = 0; s < shards; s++) {
		table->shards[s].chains = table->chains + (size_t)s * chains;
		table->shards[s].fragments = table->fragments + (size_t)s * CONNTRACK_FRAGMENTS;
	}
	return 0;
}

static int memory_map(struct conntrack *table, int fd, struct error *err)
{
	uint64_t bytes = conntrack_bytes(table->connections_max);
	int flags =
	    fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED | MAP_POPULATE;
	struct stat file;
	void *memory;

	if (fd >= 0 && fstat(fd, &file) < 0)
		return error_set(err, errno, "connections: the file cannot be examined");
	if (fd >= 0 && (file.st_size < 0 || (uint64_t)file.st_size < bytes))
		return error_set(err, EINVAL, "connections: file of %lld bytes, %llu are needed",
				 (long long)file.st_size, (unsigned long long)bytes);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED)
		return error_set(err, errno, "connections: %llu bytes cannot be mapped",
				 (unsigned long long)bytes);
	table->header = memory;
	table->entries = (struct conntrack_entry *)(table->header + 1);
	return 0;
}

int conntrack_map(int fd, uint32_t connections_max, struct conntrack **out, struct error *err)
{
	struct conntrack_settings settings = conntrack_defaults(connections_max);
	struct conntrack *table;
	int status;

	if (connections_max < 1 || connections_max > CONNTRACK_MAX)
		return error_set(err, EINVAL, "connections: %u is not between 1 and %u",
				 connections_max, (unsigned)CONNTRACK_MAX);
	table = zeroed(1, sizeof(*table));
	if (!table)
		return error_set(err, ENOMEM, "connections: out of memory");
	table->connections_max = connections_max;
	shape(connections_max, &table->shard_count, &table->shard_slots);
	status = memory_map(table, fd, err);
	if (!status)
		status = header_open(table, err);
	if (!status)
		status = private_make(table, err);
	if (status) {
		conntrack_unmap(table);
		return status;
	}
	conntrack_set(table, &settings);
	*out = table;
	return 0;
}

void conntrack_unmap(struct conntrack *table)
{
	if (!table)
		return;
	if (table->header)
		munmap(table->header, conntrack_bytes(table->connections_max));
	free(table->shards);
	free(table->chains);
	free(table->fragments);
	free(table->ports);
	free(table);
}
