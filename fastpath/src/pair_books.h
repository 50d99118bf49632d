/*
 * Frames that programs in direct mode give each other without the forwarder, in its books.
 *
 * Each producer of a pair's lanes counts what it published and what found no room (lane.h). What
 * was added since the last look is booked on both ports at once, as if it had passed through here:
 *
 *     sender's port    rx_frames += frames + full     receiver's port   tx_frames += frames
 *                                                                       queue_full += full
 *
 * Two programs can write any number there. A sum that fell, or grew by more than could ever be
 * sent, is taken as the new beginning and nothing of it is booked; any other one is believed, for
 * it concerns their own two ports and leaves the equations of stats.h whole.
 *
 * What was booked of a pair is kept with the counters, by the numbers of its ports, and goes on in
 * the next forwarder. The step from one sum to the next is written down before it is done, with
 * what the counters will be, and done again by a successor: nothing is booked twice or half.
 *
 * Runs on: control thread.
 */
#pragma once

#include <stdint.h>

#include "error.h"
#include "stats.h"

enum { PAIRS_MAX = 1024 };

struct pair_books;

/* Touches nothing that is kept. -ENOMEM. */
int pair_books_open(struct stats *stats, struct pair_books **out, struct error *err);
/* Completes what a killed forwarder began; before stats_recover. */
void pair_books_recover(struct pair_books *books);
/* NULL: fine. The books stay with the counters. */
void pair_books_close(struct pair_books *books);

/*
 * Books the pair between two ports, low < high, from now on: goes on where it was left, or begins
 * at nothing. fd: its memory (client_memory.h), which stays the caller's. EEXIST, ENOSPC, EPROTO.
 */
int pair_books_add(struct pair_books *books, uint16_t low, uint16_t high, int fd,
		   struct error *err);
/* Looks a last time and forgets. */
void pair_books_remove(struct pair_books *books, uint16_t low, uint16_t high);
/* After a takeover: forgets what no memory was added for. */
void pair_books_retain(struct pair_books *books);
/* Books what was added since. */
void pair_books_fold(struct pair_books *books);
