/*
 * The drop ledger: every frame is accounted, exactly once, and the books balance.
 *
 *   switch:  rx + copies + segments + originated = tx + drops + consumed + in flight
 *   port:    rx = to switch + rx drops           from switch = tx + tx drops
 *
 * copies: a frame flooded to n ports makes n - 1. segments: a GSO frame cut into n makes n - 1.
 * originated: frames the switch made itself. consumed: frames answered or kept by the switch.
 * In flight is 0 when the workers are quiet.
 *
 * Memory: one memfd that the keeper holds, so counters outlive a killed forwarder. A row belongs
 * to one worker, which alone writes it; a cell of a row belongs to one port. Sums are taken by
 * readers. Order of the writes of one frame: rx (and copies, segments) before tx and drops, so
 * that after a kill a row's deficit is what was in flight; stats_recover() books it as `restart`.
 *
 * Runs on: workers write their row, the control thread reads and recovers.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "error.h"

/* cffi: begin */
enum drop_reason {
	/* on the way in */
	DROP_MALFORMED,	       /* shorter than its headers say */
	DROP_TRUNCATED,	       /* the kernel gave fewer bytes than the frame has */
	DROP_PORT_DOWN,	       /* the receiving port is administratively down */
	DROP_NO_BRIDGE,	       /* the receiving port is in no bridge */
	DROP_SOURCE_INVALID,   /* group or zero source address */
	DROP_RESERVED_MAC,     /* 01:80:c2:00:00:00-0f, IEEE 802.1Q table 8-1 */
	DROP_VLAN_INGRESS,     /* the port is not a member of the frame's VLAN */
	DROP_SAME_PORT,	       /* the destination is on the port it came from */
	DROP_ISOLATED,	       /* both ports are in one isolation group */
	DROP_FLOOD_OFF,	       /* flooding of this class is switched off */
	DROP_NO_DESTINATION,   /* nobody else to flood to */
	DROP_DESTINATION_DOWN, /* the FDB names a port that is down or not a member */
	DROP_UNKNOWN_PEER,     /* a datagram from an address that is no peer's */
	DROP_OVERLAY_INVALID,  /* a datagram whose encapsulation header is wrong */
	DROP_UNKNOWN_VNI,      /* a datagram of another overlay network */
	DROP_RESTART,	       /* taken by a forwarder that was killed before it sent it */
	DROP_MONITOR_FULL,     /* a copy for a monitor whose ring was full */
	DROP_VLAN_UNSUPPORTED, /* tagged, and the receiving port cannot tell with what */
	/* on the way out */
	DROP_QUEUE_FULL,      /* the destination's ring or socket is full */
	DROP_TX_ERROR,	      /* the device refused the frame */
	DROP_LINK_DOWN,	      /* the device is down or gone */
	DROP_TOO_BIG,	      /* larger than the destination's MTU or slot */
	DROP_OFFLOAD_REFUSED, /* offload_policy refuse and unfinished checksum or segmentation */
	DROP_OFFLOAD_INVALID, /* offload state that contradicts the frame's bytes */
	DROP_NO_BUFFER,	      /* no scratch buffer for a copy or a segment */
	DROP_RECEIVE_ONLY,    /* the destination is a monitor */
	/* of ports that take IP packets only */
	DROP_L3_PORT,	    /* no IP packet, or tagged */
	DROP_NOT_ADDRESSED, /* flooded to a station whose address it does not bear */
	DROP_NO_NEIGHBOR,   /* on the way in: nobody on the bridge answers for the destination */
	/* by rules, on the way in or out */
	DROP_RULE,	       /* a rule says drop */
	DROP_RULE_DEFAULT,     /* no rule of a set matched, and its default is drop */
	DROP_REJECTED,	       /* a rule says reject; the sender was told where that is allowed */
	DROP_POLICED,	       /* beyond a policer's rate */
	DROP_CONNECTION_LIMIT, /* begins a connection that there is no room for */
	DROP_REASONS
};

/* A cell: what one worker did for one port. Frames, unless the name says bytes. */
struct port_counters {
	uint64_t rx_frames;
	uint64_t rx_bytes;
	uint64_t tx_frames;
	uint64_t tx_bytes;
	uint64_t copies;   /* booked on the receiving port */
	uint64_t segments; /* booked on the sending port */
	uint64_t originated;
	uint64_t consumed;
	uint64_t kernel_drops; /* lost in the kernel's own ring before we saw them: apart */
	uint64_t learned;      /* FDB entries this port made */
	uint64_t moved;	       /* FDB entries that moved to this port */
	uint64_t zero_copy;    /* of tx_frames: sent by exchanging buffers, without a copy */
	uint64_t reserved[4];
	uint64_t rx_drops[40]; /* by enum drop_reason; DROP_REASONS used */
	uint64_t tx_drops[40];
};

struct worker_counters {
	uint64_t batches; /* calls of ops->rx that returned frames */
	uint64_t empty;	  /* calls that returned none */
	uint64_t sleeps;  /* waits in poll */
	uint64_t busy_ns; /* spent on batches with frames */
	uint64_t owner;	  /* port << 16 | queue, + 1: who used the row last; 0: nobody yet */
	uint64_t reserved[11];
};

/* "malformed", "vlan_ingress", ...: the words of the API and of /metrics. */
const char *drop_reason_name(unsigned reason);
/* cffi: end */

_Static_assert(DROP_REASONS <= 40, "port_counters holds 40 reasons");
_Static_assert(sizeof(struct port_counters) % 64 == 0, "cells share no cache line");

struct stats; /* the mapped memfd */

enum { STATS_KEPT_BYTES = 128 << 10 };

/* Bytes the memfd needs. */
uint64_t stats_bytes(unsigned workers_max, unsigned ports_max);

/*
 * Maps fd (at least stats_bytes long). A zeroed region is initialised; one with a header of the
 * same shape is taken over as it is, any other is refused with EPROTO.
 */
int stats_map(int fd, unsigned workers_max, unsigned ports_max, struct stats **out,
	      struct error *err);
void stats_unmap(struct stats *stats);

/* NULL beyond the limits. From the first call on, sums take this worker and this port in. */
struct port_counters *stats_cell(struct stats *stats, unsigned worker, unsigned port);

/* The same of the row that the control thread writes: what it books for others (pair_books.h). */
struct port_counters *stats_control_cell(struct stats *stats, unsigned port);

/* STATS_KEPT_BYTES that the control thread keeps with its row, zeroed at first. */
void *stats_kept(struct stats *stats);

/* Cell 0 of a worker's row, for reaching cells that stats_cell has once named by their index. */
struct port_counters *stats_cells(struct stats *stats, unsigned worker);
struct worker_counters *stats_worker(struct stats *stats, unsigned worker);

/* Sum of a port over all workers. */
void stats_port_sum(const struct stats *stats, unsigned port, struct port_counters *sum);

/* Sum of everything, departed ports included: what the switch-wide equation is taken over. */
void stats_total(const struct stats *stats, struct port_counters *sum);

/* After a forwarder died: books every row's deficit as rx drop `restart`; returns the frames. */
uint64_t stats_recover(struct stats *stats);

/* A port's number is free again: folds its cells into the departed block. No worker uses it. */
void stats_port_retire(struct stats *stats, unsigned port);

/* Single writer: a plain load and store that other threads may watch. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
	_Atomic uint64_t *c = (_Atomic uint64_t *)counter;

	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline uint64_t counter_read(const uint64_t *counter)
{
	return atomic_load_explicit((const _Atomic uint64_t *)counter, memory_order_relaxed);
}
