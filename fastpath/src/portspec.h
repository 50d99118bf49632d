/*
 * Portspecs: netmap's names for ports and for the part of a port that is meant.
 *
 *     netmap:IF            the rings of a network interface
 *     vale[ID]:PORT        a port of a VALE switch; the whole text is its name
 *     ...{ID   ...}ID      a pipe beside it in the same memory: master, slave end
 *
 *     (nothing)  all NIC rings     -k  NIC ring pair k     *  NIC and host rings
 *     ^          all host rings    ^k  host ring pair k
 *     /FLAGS     x exclusive; t, r monitor what is sent, received; z monitor without a copy;
 *                R, T receive, transmit rings only
 *     @N         memory region N
 *     @share=PORTSPEC        the region of that port         (also @share:port=PORTSPEC)
 *     @conf:KEY=N,...        [host-][tx-|rx-]rings, [tx-|rx-]slots
 *     @extmem=FILE           memory of a file                (also @extmem:file=FILE,KEY=N,...,
 *                            if-num if-size ring-num ring-size buf-num buf-size)
 *     @offset=N              where in its buffer a frame begins (also @offset:initial=N,bits=N)
 *
 * in this order, the last four in any. What is taken and refused is what netmap's own library takes
 * and refuses, with these exceptions, all of them towards refusing: a second memory region is one
 * too many even when it is the same (as in netmap_user.h); numbers are numbers and in range; names
 * are names that the kernel takes (an interface has at most 15 bytes, a VALE port too; neither
 * they nor a pipe are empty).
 *
 * Pure: nothing is opened, no module is needed.
 *
 * Runs on: anywhere.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "netmap_abi.h"

/* cffi: begin */
enum {
	PORTSPEC_MAX = 512, /* bytes of a portspec, with its 0 */
	PORTSPEC_NAME_MAX = 64,
	PORTSPEC_FILE_MAX = 256,
	PORTSPEC_RING_MAX = 4094,
};

/* What is named: "eth0", "eth0{x", "vale0:p1". */
struct portspec_name {
	char name[PORTSPEC_NAME_MAX]; /* nr_name of requests */
	char ifname[16];	      /* the interface, also a pipe's; "" for VALE */
	char pipe;		      /* '{', '}' or 0 */
};

struct portspec {
	struct portspec_name port;
	uint32_t mode;	 /* enum netmap_mode */
	uint32_t flags;	 /* enum netmap_flag */
	uint16_t ringid; /* of ONE_NIC and ONE_SW */
	uint16_t mem_id; /* 0: not said */
	struct portspec_name share;
	/* @conf; 0: not said */
	uint32_t tx_slots;
	uint32_t rx_slots;
	uint16_t tx_rings;
	uint16_t rx_rings;
	uint16_t host_tx_rings;
	uint16_t host_rx_rings;
	/* @extmem; file "": not said */
	char file[PORTSPEC_FILE_MAX];
	uint32_t if_num;
	uint32_t if_size;
	uint32_t ring_num;
	uint32_t ring_size;
	uint32_t buf_num;
	uint32_t buf_size;
	/* @offset */
	bool has_offset;
	uint32_t offset_initial;
	uint32_t offset_bits; /* 0: all */
};

/* 0, or -EINVAL with "character N: what is wrong", N from 1 on, and `out` undefined. */
int portspec_parse(const char *text, struct portspec *out, struct error *err);
/* cffi: end */
