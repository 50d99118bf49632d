/*
 * What an L3 port knows of IP addresses: bounded, aged, the same on both of its sides. One table
 * holds the stations of the bridge (with their Ethernet addresses), another what is behind the
 * port. A place in it is found by a keyed hash, eight to a set; a set that is full gives up its
 * oldest question first, and only then its oldest answer.
 *
 * Times are seconds of the monotonic clock.
 *
 * Runs on: workers. No port, no system call, no allocation, no lock: the owner's lock guards it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "neighbor.h"

enum {
	NEIGHBOR_SETS = 64,
	NEIGHBOR_WAYS = 8,
	NEIGHBOR_MAX = NEIGHBOR_SETS * NEIGHBOR_WAYS,
	NEIGHBOR_TRIES = 3,    /* questions, a second apart: MAX_MULTICAST_SOLICIT */
	NEIGHBOR_FRESH_S = 60, /* an answer that is used is asked for again after this */
	NEIGHBOR_FORGET_S = 300,
	NEIGHBOR_QUEUE = 64, /* packets that wait for one answer */
	NEIGHBOR_NOBODY = 0xffff
};

enum neighbor_state {
	NEIGHBOR_FREE,
	NEIGHBOR_ASKED, /* no answer yet */
	NEIGHBOR_KNOWN
};

struct neighbor_entry {
	struct neighbor_addr addr;
	struct neighbor_addr asker; /* on whose behalf it was last asked for */
	uint64_t mac;		    /* KNOWN: the station's; of what is asked behind: the asker's */
	uint32_t told_s;	    /* last heard of */
	uint32_t used_s;	    /* last needed */
	uint32_t asked_s;
	uint8_t state; /* enum neighbor_state */
	uint8_t tries;
	uint16_t waiting; /* packets in the chain */
	uint16_t first;	  /* of the chain of waiting packets: numbers that are the owner's */
	uint16_t last;
};

struct neighbor_table {
	uint64_t key;
	uint64_t changes; /* counts what makes a copied answer wrong */
	unsigned known;
	struct neighbor_entry entries[NEIGHBOR_MAX];
};

/* Of a table that is all zero. */
static inline void neighbor_table_init(struct neighbor_table *table, uint64_t key)
{
	table->key = key;
}

/*
 * Of a table that another process may have left in the middle of a change: what is known stays,
 * as far as it makes sense; questions, and the packets that waited for their answers, are gone.
 */
void neighbor_table_recover(struct neighbor_table *table);

/* NULL: nothing is known, and nothing was asked. */
struct neighbor_entry *neighbor_find(struct neighbor_table *table, struct neighbor_addr addr);

/*
 * The entry of addr, made when there is none. One that is new is NEIGHBOR_FREE; what it pushed
 * out is copied to *out, whose state is NEIGHBOR_FREE when it pushed out nothing.
 */
struct neighbor_entry *neighbor_add(struct neighbor_table *table, struct neighbor_addr addr,
				    struct neighbor_entry *out);

/* Heard: addr is (still) at mac. */
void neighbor_told(struct neighbor_table *table, struct neighbor_entry *entry, uint64_t mac,
		   uint32_t now_s);
void neighbor_forget(struct neighbor_table *table, struct neighbor_entry *entry);

enum neighbor_due {
	NEIGHBOR_REST,
	NEIGHBOR_ASK_AGAIN, /* ask; tries and asked_s are counted */
	NEIGHBOR_GIVE_UP    /* no answer, or not used any more: forget it */
};

/* What to do about an entry now; called about once a second. */
enum neighbor_due neighbor_age(struct neighbor_entry *entry, uint32_t now_s);
