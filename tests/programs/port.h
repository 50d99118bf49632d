/*
 * What the netmap programs of the tests have in common. They are written as netmap programs are:
 * against the ABI, with open, ioctl, mmap and poll, and know nothing of who answers.
 *
 * Frames carry a number and a pattern, which receivers check byte by byte:
 *
 *     0  destination   02:00:00:00:00:xx     12  0x88b5     14  number (8 bytes, host order)
 *     6  source        02:00:00:00:00:yy     22  (number + position) & 0xff, to the end
 *
 * Everything that fails ends the program with a sentence on stderr and exit status 1. Times are
 * bounded: SECONDS after its start a program is ended by SIGALRM.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "netmap_abi.h"
#include "ring.h"

enum { SECONDS = 60, FRAME_HEAD = 22, FRAME_MAX = 9216, BROADCAST = 0xff };

struct port {
	int fd;
	size_t bytes;
	char *memory;
	struct netmap_if *nifp;
	struct nmreq_register reg;
};

__attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...);
/* The value after --name in argv, or otherwise. */
const char *word_option(char **argv, const char *name, const char *otherwise);
long option(char **argv, const char *name, long otherwise);

/* Opens, registers and maps; tells "ready" on stdout if asked to. */
void port_open(struct port *port, const char *name, char **argv);
/* Maps what is registered on an fd that somebody else opened. */
void port_map(struct port *port);
void port_close(struct port *port);
void ready(void);

struct netmap_ring *tx_ring(const struct port *port, unsigned i);
struct netmap_ring *rx_ring(const struct port *port, unsigned i);

void frame_fill(uint8_t *frame, size_t bytes, unsigned from, unsigned to, uint64_t number);
/* Its number; -1: it is not as it was sent, or not one of ours. */
int64_t frame_number(const uint8_t *frame, size_t bytes);

/* What receives counts, and prints as JSON. */
struct tally {
	uint64_t frames, bytes, bad, foreign;
	uint64_t last;	/* number */
	uint64_t order; /* frames whose number was not above the one before */
};
/* Takes all that is in the rx rings. */
void take_all(const struct port *port, struct tally *tally);
void tally_print(const struct tally *tally);

/* Waits until the port may receive, in one of the ways there are (wait.c); false: ms have passed.
 */
bool wait_rx(const struct port *port, const char *how, int ms);

/* Sends frames [first, first + count) and returns when the tx rings are empty. */
void send_frames(const struct port *port, char **argv, uint64_t first, uint64_t count);
/* Receives until there were `count`, or nothing came for --idle ms (10 s). */
void receive_frames(const struct port *port, char **argv, uint64_t count, struct tally *tally);
