/*
 * Copies of a port's frames for a monitor port: what is copied, and the ring the copies wait in.
 *
 * Whoever moves a frame of the monitored port copies it: the worker that received it (before the
 * switch decides anything) or that sends it (as the driver is given it). A copy goes through the
 * filter, is cut to snaplen, and is put into the monitor's ring; where there is no room it is
 * counted and forgotten. Nobody ever waits for a monitor.
 *
 * The ring is one memory of many writers and one reader, the monitor port's worker. It consists of
 * slots of 2 KB; a frame takes as many as it needs, one behind the other. Positions count slots
 * from the beginning of time and never wrap; position p lies in slot p modulo the number of slots.
 *
 *     writer  reserves [p, p + n) by moving tail, writes, then sets done of slot p to p + 1
 *     reader  goes on at p while done of slot p is p + 1; moves head when nobody needs the bytes
 *
 * `done` lies apart from the bytes, so that no frame can forge it, and a stamp of an earlier round
 * is never that of a later one. The memory is a memfd of the keeper: copies that wait survive the
 * forwarder. What a killed writer had begun is a hole that the next reader books as `restart`.
 *
 * Runs on: control thread (open, close), workers (monitor_rx, monitor_tx: any; the rest: one).
 */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cbpf.h"
#include "error.h"
#include "frame.h"
#include "stats.h"

enum {
	MONITOR_SLOT_BYTES = 2048, /* of a frame; FRAME_HEADROOM lies before them */
	MONITOR_SLOTS = 4096,
	MONITOR_SLOTS_MIN = 64, /* more than the longest frame takes */
	MONITOR_SLOTS_MAX = 65536,
	MONITOR_NAME_MAX = 32
};
static_assert(MONITOR_SLOTS_MIN * MONITOR_SLOT_BYTES > FRAME_LEN_MAX, "a frame fits");
static_assert(FRAME_LEN_MAX / MONITOR_SLOT_BYTES < FRAME_FRAGS_MAX, "a frame is a chain");

enum monitor_direction { MONITOR_RX = 1, MONITOR_TX = 2 };

/* Of the first slot of a frame; those of its further slots mean nothing. */
struct monitor_slot {
	_Atomic uint64_t done;	/* position + 1: the frame is here, or a hole */
	_Atomic uint64_t begun; /* position + 1: frame_len is that of the frame being written */
	uint32_t frame_len;
	uint8_t sent; /* copied on its way out */
	uint8_t hole; /* begun by a writer that was killed */
	struct frame_offload offload;
	uint8_t pad[28];
};
static_assert(sizeof(struct monitor_slot) == 64, "slots share no cache line");

/* The memfd: this, the buffers behind the slots. */
struct monitor_memory {
	uint64_t magic;
	uint64_t slots;
	_Alignas(64) _Atomic uint64_t tail; /* where the next writer begins */
	_Alignas(64) _Atomic uint64_t head; /* what is before it is free again */
	_Atomic uint64_t taken;		    /* what is before it must not be read again */
	_Alignas(64) struct monitor_slot slot[];
};

struct monitor {
	/* What is copied: set once, before a snapshot names the monitor. */
	char port[MONITOR_NAME_MAX]; /* name of the monitored one */
	uint32_t snaplen;	     /* bytes of a frame that are copied */
	uint16_t port_id;	     /* the monitor port's own, whose cells are booked */
	uint8_t directions;	     /* enum monitor_direction */
	struct cbpf filter;
	/* The ring. */
	struct monitor_memory *memory;
	uint8_t *buffers;
	uint64_t slots;
	int doorbell; /* eventfd, rung for a reader that waits */
	_Alignas(64) _Atomic bool waiting;
};

/* The monitors of one port and one direction, as workers find them in the snapshot. */
struct monitor_list {
	struct monitor *const *monitors;
	unsigned count;
};

/* Bytes of the memfd. */
uint64_t monitor_bytes(uint32_t slots);

/*
 * Maps fd (monitor_bytes long; -1: private memory) and makes the doorbell. Copies that a
 * predecessor left are found again; memory that makes no sense begins empty.
 */
int monitor_open(struct monitor *monitor, int fd, uint32_t slots, struct error *err);
void monitor_close(struct monitor *monitor);

/*
 * Copies what the list's monitors want of a batch. `cells` are the worker's, by port id: copies
 * without room are booked there as received by the monitor and dropped as monitor_full.
 */
void monitor_rx(const struct monitor_list *list, const struct frame *batch, unsigned count,
		struct port_counters *cells);
void monitor_tx(const struct monitor_list *list, struct frame *const *frames, unsigned count,
		struct port_counters *cells);

static inline struct monitor_slot *monitor_slot(const struct monitor *monitor, uint64_t position)
{
	return &monitor->memory->slot[position % monitor->slots];
}

static inline uint8_t *monitor_buffer(const struct monitor *monitor, uint64_t position)
{
	return monitor->buffers +
	       position % monitor->slots * (FRAME_HEADROOM + MONITOR_SLOT_BYTES) + FRAME_HEADROOM;
}

static inline uint32_t monitor_slots_of(uint32_t frame_len)
{
	return frame_len ? (frame_len + MONITOR_SLOT_BYTES - 1) / MONITOR_SLOT_BYTES : 1;
}

/* Reader: a frame or a hole is at the position. */
static inline bool monitor_ready(const struct monitor *monitor, uint64_t position)
{
	return atomic_load_explicit(&monitor_slot(monitor, position)->done, memory_order_acquire) ==
	       position + 1;
}
