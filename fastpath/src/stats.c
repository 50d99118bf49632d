/*
 * The drop ledger's memory: a header, what the control thread keeps with it, then its own row and
 * one row a worker.
 *
 *   row:  worker_counters | retire journal | departed cell | shadow cell | one cell a port
 *
 * The departed cell keeps the sums of ports that are gone, row by row: a row must balance by
 * itself, or its deficit would not be what was in flight. Only the control thread writes it.
 *
 * Rows and cells behind the highest ones ever used are never read, so a memfd sized for the
 * limits costs memory only for what exists.
 */
#include "stats.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { STATS_VERSION = 2, CELL_WORDS = sizeof(struct port_counters) / sizeof(uint64_t) };

static const uint64_t stats_magic = 0x7673776c65646772;

struct stats_header {
	_Atomic uint64_t magic;
	uint32_t version;
	uint32_t workers_max;
	uint32_t ports_max;
	uint32_t cell_bytes;
	_Atomic uint32_t workers_high; /* rows below this may hold something */
	_Atomic uint32_t ports_high;   /* cells below this may hold something */
	uint8_t pad[4064];
};
_Static_assert(sizeof(struct stats_header) == 4096, "rows begin on a page");

struct stats_row {
	struct worker_counters worker;
	/* Port number + 1 while `shadow` is the departed cell with that port's cell folded in. */
	_Alignas(64) _Atomic uint32_t retiring;
	struct port_counters departed __attribute__((aligned(64)));
	struct port_counters shadow;
	struct port_counters cells[];
};
_Static_assert(offsetof(struct stats_row, cells) % 64 == 0, "cells share no cache line");

/* Private to the process. */
struct stats {
	uint8_t *memory;
	uint64_t bytes;
	uint64_t row_bytes;
	unsigned workers_max;
	unsigned ports_max;
};

static const char *const reason_names[] = {
    [DROP_MALFORMED] = "malformed",
    [DROP_TRUNCATED] = "truncated",
    [DROP_PORT_DOWN] = "port_down",
    [DROP_NO_BRIDGE] = "no_bridge",
    [DROP_SOURCE_INVALID] = "source_invalid",
    [DROP_RESERVED_MAC] = "reserved_mac",
    [DROP_VLAN_INGRESS] = "vlan_ingress",
    [DROP_SAME_PORT] = "same_port",
    [DROP_ISOLATED] = "isolated",
    [DROP_FLOOD_OFF] = "flood_off",
    [DROP_NO_DESTINATION] = "no_destination",
    [DROP_DESTINATION_DOWN] = "destination_down",
    [DROP_UNKNOWN_PEER] = "unknown_peer",
    [DROP_OVERLAY_INVALID] = "overlay_invalid",
    [DROP_UNKNOWN_VNI] = "unknown_vni",
    [DROP_RESTART] = "restart",
    [DROP_MONITOR_FULL] = "monitor_full",
    [DROP_QUEUE_FULL] = "queue_full",
    [DROP_TX_ERROR] = "tx_error",
    [DROP_LINK_DOWN] = "link_down",
    [DROP_TOO_BIG] = "too_big",
    [DROP_OFFLOAD_REFUSED] = "offload_refused",
    [DROP_OFFLOAD_INVALID] = "offload_invalid",
    [DROP_NO_BUFFER] = "no_buffer",
    [DROP_RECEIVE_ONLY] = "receive_only",
    [DROP_VLAN_UNSUPPORTED] = "vlan_unsupported",
    [DROP_L3_PORT] = "l3_port",
    [DROP_NOT_ADDRESSED] = "not_addressed",
    [DROP_NO_NEIGHBOR] = "no_neighbor",
    [DROP_RULE] = "rule",
    [DROP_RULE_DEFAULT] = "rule_default",
    [DROP_REJECTED] = "rejected",
    [DROP_POLICED] = "policed",
    [DROP_CONNECTION_LIMIT] = "connection_limit",
};
_Static_assert(sizeof(reason_names) / sizeof(reason_names[0]) == DROP_REASONS,
	       "every reason has a name");

const char *drop_reason_name(unsigned reason)
{
	return reason < DROP_REASONS ? reason_names[reason] : NULL;
}

static uint64_t row_bytes(unsigned ports_max)
{
	return sizeof(struct stats_row) + (uint64_t)ports_max * sizeof(struct port_counters);
}

uint64_t stats_bytes(unsigned workers_max, unsigned ports_max)
{
	uint64_t bytes = sizeof(struct stats_header) + STATS_KEPT_BYTES +
			 (workers_max + 1ull) * row_bytes(ports_max);

	return (bytes + 4095) / 4096 * 4096;
}

static struct stats_header *stats_header(const struct stats *stats)
{
	return (struct stats_header *)stats->memory;
}

/* Row 0 is the control thread's, a worker's is the one behind its number. */
static struct stats_row *stats_row(const struct stats *stats, unsigned row)
{
	return (struct stats_row *)(stats->memory + sizeof(struct stats_header) + STATS_KEPT_BYTES +
				    row * stats->row_bytes);
}

/* --- mapping -----------------------------------------------------------------------------------
 */

/* Takes a valid header over, writes one into zeroed memory, refuses anything else. */
static int header_open(struct stats *stats, struct error *err)
{
	struct stats_header *header = stats_header(stats);
	uint64_t magic = atomic_load_explicit(&header->magic, memory_order_acquire);

	if (!magic) {
		header->version = STATS_VERSION;
		header->workers_max = stats->workers_max;
		header->ports_max = stats->ports_max;
		header->cell_bytes = sizeof(struct port_counters);
		atomic_store_explicit(&header->magic, stats_magic, memory_order_release);
		return 0;
	}
	if (magic != stats_magic || header->version != STATS_VERSION ||
	    header->workers_max != stats->workers_max || header->ports_max != stats->ports_max ||
	    header->cell_bytes != sizeof(struct port_counters) ||
	    atomic_load_explicit(&header->workers_high, memory_order_relaxed) >
		stats->workers_max ||
	    atomic_load_explicit(&header->ports_high, memory_order_relaxed) > stats->ports_max)
		return error_set(err, EPROTO,
				 "stats: the memory holds counters of another shape or version");
	return 0;
}

int stats_map(int fd, unsigned workers_max, unsigned ports_max, struct stats **out,
	      struct error *err)
{
	uint64_t bytes = stats_bytes(workers_max, ports_max);
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
	struct stat file;
	struct stats *stats;
	int result;

	if (!workers_max || !ports_max)
		return error_set(err, EINVAL, "stats: no worker or no port to count for");
	if (fd >= 0) {
		if (fstat(fd, &file) < 0)
			return error_set(err, errno, "stats: the file cannot be examined");
		if (file.st_size < 0 || (uint64_t)file.st_size < bytes)
			return error_set(err, EINVAL, "stats: file of %lld bytes, %llu are needed",
					 (long long)file.st_size, (unsigned long long)bytes);
	}
	stats = calloc(1, sizeof(*stats));
	if (!stats)
		return error_set(err, ENOMEM, "stats: no memory");
	stats->bytes = bytes;
	stats->row_bytes = row_bytes(ports_max);
	stats->workers_max = workers_max;
	stats->ports_max = ports_max;
	stats->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (stats->memory == MAP_FAILED) {
		result = error_set(err, errno, "stats: %llu bytes cannot be mapped",
				   (unsigned long long)bytes);
		goto fail_map;
	}
	result = header_open(stats, err);
	if (result)
		goto fail_header;
	*out = stats;
	return 0;

fail_header:
	munmap(stats->memory, bytes);
fail_map:
	free(stats);
	return result;
}

void stats_unmap(struct stats *stats)
{
	munmap(stats->memory, stats->bytes);
	free(stats);
}

/* --- rows and cells ----------------------------------------------------------------------------
 */

static void high_raise(_Atomic uint32_t *high, unsigned index)
{
	if (atomic_load_explicit(high, memory_order_relaxed) <= index)
		atomic_store_explicit(high, index + 1, memory_order_relaxed);
}

/* Makes the page present, so that a worker's first frame does not pay for the fault. */
static void touch(uint64_t *word)
{
	atomic_fetch_add_explicit((_Atomic uint64_t *)word, 0, memory_order_relaxed);
}

struct worker_counters *stats_worker(struct stats *stats, unsigned worker)
{
	if (worker >= stats->workers_max)
		return NULL;
	high_raise(&stats_header(stats)->workers_high, worker);
	return &stats_row(stats, worker + 1)->worker;
}

static struct port_counters *row_cell(struct stats *stats, unsigned row, unsigned port)
{
	struct port_counters *cell = &stats_row(stats, row)->cells[port];

	high_raise(&stats_header(stats)->ports_high, port);
	touch(&cell->rx_frames);
	touch(&cell->tx_drops[39]);
	return cell;
}

struct port_counters *stats_cell(struct stats *stats, unsigned worker, unsigned port)
{
	if (worker >= stats->workers_max || port >= stats->ports_max)
		return NULL;
	high_raise(&stats_header(stats)->workers_high, worker);
	return row_cell(stats, worker + 1, port);
}

struct port_counters *stats_control_cell(struct stats *stats, unsigned port)
{
	return port < stats->ports_max ? row_cell(stats, 0, port) : NULL;
}

struct port_counters *stats_cells(struct stats *stats, unsigned worker)
{
	return stats_row(stats, worker + 1)->cells;
}

void *stats_kept(struct stats *stats)
{
	return stats->memory + sizeof(struct stats_header);
}

static unsigned rows_used(const struct stats *stats)
{
	return 1 + atomic_load_explicit(&stats_header(stats)->workers_high, memory_order_relaxed);
}

static unsigned cells_used(const struct stats *stats)
{
	return atomic_load_explicit(&stats_header(stats)->ports_high, memory_order_relaxed);
}

/* --- sums --------------------------------------------------------------------------------------
 */

static void cell_fold(struct port_counters *sum, const struct port_counters *cell)
{
	uint64_t *to = (uint64_t *)sum;
	const uint64_t *from = (const uint64_t *)cell;

	for (unsigned n = 0; n < CELL_WORDS; n++)
		to[n] += counter_read(&from[n]);
}

static void row_fold(const struct stats *stats, unsigned number, struct port_counters *sum)
{
	const struct stats_row *row = stats_row(stats, number);
	unsigned cells = cells_used(stats);

	cell_fold(sum, &row->departed);
	for (unsigned port = 0; port < cells; port++)
		cell_fold(sum, &row->cells[port]);
}

void stats_port_sum(const struct stats *stats, unsigned port, struct port_counters *sum)
{
	unsigned rows = rows_used(stats);

	memset(sum, 0, sizeof(*sum));
	if (port >= cells_used(stats))
		return;
	for (unsigned row = 0; row < rows; row++)
		cell_fold(sum, &stats_row(stats, row)->cells[port]);
}

void stats_total(const struct stats *stats, struct port_counters *sum)
{
	unsigned rows = rows_used(stats);

	memset(sum, 0, sizeof(*sum));
	for (unsigned row = 0; row < rows; row++)
		row_fold(stats, row, sum);
}

/* --- recovery and departure --------------------------------------------------------------------
 */

static void cell_clear(struct port_counters *cell)
{
	uint64_t *words = (uint64_t *)cell;

	for (unsigned n = 0; n < CELL_WORDS; n++)
		atomic_store_explicit((_Atomic uint64_t *)&words[n], 0, memory_order_relaxed);
}

/* The second half of a retirement; may be done twice. */
static void retire_finish(struct stats *stats, struct stats_row *row)
{
	uint32_t port = atomic_load_explicit(&row->retiring, memory_order_acquire) - 1;

	if (port < stats->ports_max) {
		row->departed = row->shadow;
		cell_clear(&row->cells[port]);
	}
	atomic_store_explicit(&row->retiring, 0, memory_order_release);
}

void stats_port_retire(struct stats *stats, unsigned port)
{
	unsigned rows = rows_used(stats);

	if (port >= cells_used(stats))
		return;
	for (unsigned number = 0; number < rows; number++) {
		struct stats_row *row = stats_row(stats, number);

		/* A kill before `retiring` is set leaves all as it was, one after it is redone. */
		row->shadow = row->departed;
		cell_fold(&row->shadow, &row->cells[port]);
		atomic_store_explicit(&row->retiring, port + 1, memory_order_release);
		retire_finish(stats, row);
	}
}

/* Frames that came into the row and did not leave it. Negative: the books are wrong. */
static int64_t ledger_deficit(const struct port_counters *sum)
{
	uint64_t in = sum->rx_frames + sum->copies + sum->segments + sum->originated;
	uint64_t out = sum->tx_frames + sum->consumed;

	for (unsigned reason = 0; reason < DROP_REASONS; reason++)
		out += sum->rx_drops[reason] + sum->tx_drops[reason];
	return (int64_t)(in - out);
}

/*
 * The port that the row's worker served: what was in flight came from there. Where that is not
 * known, the one that received most stands for the row.
 */
static struct port_counters *row_receiver(const struct stats *stats, struct stats_row *row)
{
	struct port_counters *most = &row->departed;
	unsigned cells = cells_used(stats);
	uint64_t owner = counter_read(&row->worker.owner);

	if (owner && (owner - 1) >> 16 < cells && row->cells[(owner - 1) >> 16].rx_frames)
		return &row->cells[(owner - 1) >> 16];
	for (unsigned port = 0; port < cells; port++) {
		struct port_counters *cell = &row->cells[port];

		if (cell->rx_frames &&
		    (most == &row->departed || cell->rx_frames > most->rx_frames))
			most = cell;
	}
	return most;
}

uint64_t stats_recover(struct stats *stats)
{
	unsigned rows = rows_used(stats);
	uint64_t lost = 0;

	for (unsigned number = 0; number < rows; number++) {
		struct stats_row *row = stats_row(stats, number);
		struct port_counters sum = {0};
		int64_t deficit;

		retire_finish(stats, row);
		row_fold(stats, number, &sum);
		deficit = ledger_deficit(&sum);
		if (deficit <= 0)
			continue;
		counter_add(&row_receiver(stats, row)->rx_drops[DROP_RESTART], (uint64_t)deficit);
		lost += (uint64_t)deficit;
	}
	return lost;
}
