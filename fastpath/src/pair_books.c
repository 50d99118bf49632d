#include "pair_books.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client_memory.h"

/* No lane moves that many frames between two looks. */
static const uint64_t frames_possible = 1ull << 36;
static const uint64_t frame_bytes_max = 1 << 17;

/* Of all lanes of one direction. */
struct pair_sum {
	uint64_t frames;
	uint64_t bytes;
	uint64_t full;
};

/* One a pair, in the memory of the counters. */
struct pair_book {
	uint32_t low, high;	   /* ports, + 1; 0: free */
	struct pair_sum booked[2]; /* from low to high, from high to low */
};
static_assert(sizeof(struct pair_book) == 56, "no holes");

/* What the step that is being done ends with. */
struct pair_step {
	_Atomic uint32_t active;
	uint32_t slot, direction;
	uint32_t from, to;
	uint64_t rx_frames, rx_bytes;		  /* the control row's, of `from` */
	uint64_t tx_frames, tx_bytes, queue_full; /* of `to` */
	struct pair_sum booked;
};

struct pair_kept {
	struct pair_step step;
	_Alignas(64) struct pair_book book[PAIRS_MAX];
};
static_assert(sizeof(struct pair_kept) <= STATS_KEPT_BYTES, "kept with the counters");

struct pair_books {
	struct stats *stats;
	struct pair_kept *kept;
	const struct client_memory *memory[PAIRS_MAX];
	unsigned high; /* slots from here on have no memory */
};

/* --- steps -------------------------------------------------------------------------------------
 */

static void counter_set(uint64_t *counter, uint64_t value)
{
	atomic_store_explicit((_Atomic uint64_t *)counter, value, memory_order_relaxed);
}

/* Any number of times: it adds nothing, it says what is. */
static void step_do(struct pair_books *books)
{
	const struct pair_step *step = &books->kept->step;
	struct port_counters *from = stats_control_cell(books->stats, step->from);
	struct port_counters *to = stats_control_cell(books->stats, step->to);

	if (!from || !to || step->slot >= PAIRS_MAX || step->direction > 1)
		return;
	counter_set(&from->rx_frames, step->rx_frames);
	counter_set(&from->rx_bytes, step->rx_bytes);
	counter_set(&to->tx_frames, step->tx_frames);
	counter_set(&to->tx_bytes, step->tx_bytes);
	counter_set(&to->tx_drops[DROP_QUEUE_FULL], step->queue_full);
	books->kept->book[step->slot].booked[step->direction] = step->booked;
}

static void step_end(struct pair_books *books)
{
	struct pair_step *step = &books->kept->step;

	if (atomic_load_explicit(&step->active, memory_order_acquire))
		step_do(books);
	atomic_store_explicit(&step->active, 0, memory_order_release);
}

static void step_take(struct pair_books *books, unsigned slot, unsigned direction,
		      const struct pair_sum *sum, const struct pair_sum *added)
{
	const struct pair_book *book = &books->kept->book[slot];
	uint32_t from = (direction ? book->high : book->low) - 1;
	uint32_t to = (direction ? book->low : book->high) - 1;
	const struct port_counters *in = stats_control_cell(books->stats, from);
	const struct port_counters *out = stats_control_cell(books->stats, to);
	struct pair_step *step = &books->kept->step;

	step->slot = slot;
	step->direction = direction;
	step->from = from;
	step->to = to;
	step->rx_frames = in->rx_frames + added->frames + added->full;
	step->rx_bytes = in->rx_bytes + added->bytes;
	step->tx_frames = out->tx_frames + added->frames;
	step->tx_bytes = out->tx_bytes + added->bytes;
	step->queue_full = out->tx_drops[DROP_QUEUE_FULL] + added->full;
	step->booked = *sum;
	atomic_store_explicit(&step->active, 1, memory_order_release);
	step_end(books);
}

/* --- looking -----------------------------------------------------------------------------------
 */

static struct pair_sum lanes_sum(const struct lane *lanes, uint32_t count)
{
	struct pair_sum sum = {0};

	for (uint32_t i = 0; i < count && i < CLIENT_RINGS_MAX; i++) {
		sum.frames += load_shared(&lanes[i].frames);
		sum.bytes += load_shared(&lanes[i].bytes);
		sum.full += load_shared(&lanes[i].full);
	}
	return sum;
}

static void direction_fold(struct pair_books *books, unsigned slot, unsigned direction)
{
	const struct client_memory *memory = books->memory[slot];
	struct pair_sum *booked = &books->kept->book[slot].booked[direction];
	struct pair_sum sum = lanes_sum(direction ? memory->inbox : memory->outbox,
					CLIENT_RINGS_MAX); /* unused ones hold nothing */
	struct pair_sum added = {.frames = sum.frames - booked->frames,
				 .bytes = sum.bytes - booked->bytes,
				 .full = sum.full - booked->full};

	if (!added.frames && !added.full)
		return; /* bytes come with the frames they are of */
	if (added.frames > frames_possible || added.full > frames_possible ||
	    added.bytes > added.frames * frame_bytes_max)
		added = (struct pair_sum){0};
	step_take(books, slot, direction, &sum, &added);
}

void pair_books_fold(struct pair_books *books)
{
	for (unsigned slot = 0; slot < books->high; slot++) {
		if (!books->memory[slot])
			continue;
		direction_fold(books, slot, 0);
		direction_fold(books, slot, 1);
	}
}

/* --- pairs -------------------------------------------------------------------------------------
 */

/* The slot of a pair, or PAIRS_MAX. */
static unsigned slot_of(const struct pair_books *books, uint32_t low, uint32_t high)
{
	for (unsigned slot = 0; slot < PAIRS_MAX; slot++) {
		if (books->kept->book[slot].low == low && books->kept->book[slot].high == high)
			return slot;
	}
	return PAIRS_MAX;
}

static int header_map(int fd, const struct client_memory **out, struct error *err)
{
	struct stat file;
	void *map;

	if (fstat(fd, &file) < 0 || file.st_size < CLIENT_HEADER_BYTES)
		return error_set(err, EPROTO, "pair: its memory is shorter than its header");
	map = mmap(NULL, CLIENT_HEADER_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return error_set(err, errno, "pair: its memory cannot be mapped");
	*out = map;
	return 0;
}

int pair_books_add(struct pair_books *books, uint16_t low, uint16_t high, int fd, struct error *err)
{
	unsigned slot = slot_of(books, low + 1u, high + 1u);
	struct pair_book *book;
	int status;

	if (slot < PAIRS_MAX && books->memory[slot])
		return error_set(err, EEXIST, "pair: ports %u and %u have one", low, high);
	if (!stats_control_cell(books->stats, low) || !stats_control_cell(books->stats, high))
		return error_set(err, EINVAL, "pair: ports %u and %u are beyond the limit", low,
				 high);
	if (slot == PAIRS_MAX) {
		slot = slot_of(books, 0, 0);
		if (slot == PAIRS_MAX)
			return error_set(err, ENOSPC, "pair: %u are the limit",
					 (unsigned)PAIRS_MAX);
	}
	status = header_map(fd, &books->memory[slot], err);
	if (status)
		return status;
	book = &books->kept->book[slot];
	if (!book->low) {
		memset(book->booked, 0, sizeof(book->booked));
		book->high = high + 1u;
		book->low = low + 1u;
	}
	if (slot >= books->high)
		books->high = slot + 1;
	return 0;
}

static void slot_free(struct pair_books *books, unsigned slot)
{
	books->kept->book[slot].low = 0;
	books->kept->book[slot].high = 0;
}

static void slot_unmap(struct pair_books *books, unsigned slot)
{
	munmap((void *)(uintptr_t)books->memory[slot], CLIENT_HEADER_BYTES);
	books->memory[slot] = NULL;
}

void pair_books_remove(struct pair_books *books, uint16_t low, uint16_t high)
{
	unsigned slot = slot_of(books, low + 1u, high + 1u);

	if (slot == PAIRS_MAX || !books->memory[slot])
		return;
	direction_fold(books, slot, 0);
	direction_fold(books, slot, 1);
	slot_unmap(books, slot);
	slot_free(books, slot);
}

void pair_books_retain(struct pair_books *books)
{
	for (unsigned slot = 0; slot < PAIRS_MAX; slot++) {
		if (!books->memory[slot])
			slot_free(books, slot);
	}
}

int pair_books_open(struct stats *stats, struct pair_books **out, struct error *err)
{
	struct pair_books *books = calloc(1, sizeof(*books));

	if (!books)
		return error_set(err, ENOMEM, "out of memory");
	books->stats = stats;
	books->kept = stats_kept(stats);
	*out = books;
	return 0;
}

void pair_books_recover(struct pair_books *books)
{
	step_end(books);
}

void pair_books_close(struct pair_books *books)
{
	if (!books)
		return;
	for (unsigned slot = 0; slot < books->high; slot++) {
		if (books->memory[slot])
			slot_unmap(books, slot);
	}
	free(books);
}
