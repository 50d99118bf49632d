/*
 * Connection tracking: what came before a frame between the same two ends.
 *
 * One table for all workers, for the two directions of a connection arrive on different ports. A
 * connection is found by its two ends, protocol and zone (bridge and VLAN), hashed with a secret.
 * The hash chooses one of a fixed number of shards; each has a short spin lock of its own, and
 * nobody holds two. Entries lie in one memory of fixed size (a memfd of the keeper: connections
 * survive the forwarder); everything that leads to them (chains, free slots, who may be evicted) is
 * private to the process and built anew from the entries, so nothing a killed forwarder left half
 * done is ever followed.
 *
 *   state of a frame  new: no answer seen yet, and it may begin one (TCP: SYN without ACK; UDP:
 * any; ICMP, ICMPv6: a request) · established: both sides have sent, this frame fits · related: an
 * ICMP or ICMPv6 error whose inner packet is of a known connection · invalid: everything else of
 * TCP, UDP, ICMP, ICMPv6 that is of no connection, contradicts its state (conntrack_tcp.c, RFC
 * 9293) or is FLOW_BAD · 0: other protocols, not tracked. Neighbour discovery (RFC 4861) and MLD
 * are not tracked either.
 *   later fragments   have the state of the first one of their packet when that was committed
 *                     within 30 s, else invalid
 *
 * Lookup changes nothing; only a frame that the rules allow is committed: makes an entry, moves the
 * TCP state on, refreshes the time, counts. A frame that is dropped therefore leaves no trace. The
 * frames of a batch are looked up and committed one after the other, in their order: a later
 * fragment that is looked up before its first one was committed is invalid.
 *
 * Sequence numbers are not followed: any RST or FIN of the right ends counts. Neither ends a
 * connection by itself, it only shortens the silence after which the connection is forgotten, so a
 * forged one does no harm while the real ends go on.
 *
 * Bounded: connections_max in all, a quota a port (whose received frame began the connection).
 * At either limit the oldest connection of that same port that never saw an answer goes, else the
 * new one is refused: no port takes from another.
 *
 * Runs on: workers (lookup, commit), control thread (the rest).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "flow_key.h"
#include "frame.h"

/* cffi: begin */
struct conntrack_settings {
	uint32_t port_quota; /* connections that a port may have begun; 0: connections_max */
	/* seconds of silence after which a connection is forgotten; at least 1 */
	uint32_t tcp_opening;	  /* until the handshake is complete */
	uint32_t tcp_established; /* RFC 5382 asks for 7440 at least */
	uint32_t tcp_closing;	  /* a FIN or RST was seen */
	uint32_t udp_new;
	uint32_t udp_established;
	uint32_t icmp;
	bool tcp_loose; /* a segment from the middle begins a connection, too */
};

/* A connection as it is shown. `src` is who began it. */
struct conntrack_row {
	uint8_t ip_version;
	uint8_t proto;
	uint8_t src[16]; /* IPv4: bytes 12..15 */
	uint8_t dst[16];
	uint16_t src_port; /* ICMP: identifier, in both */
	uint16_t dst_port;
	uint16_t vid;
	uint16_t bridge;
	uint16_t port;	   /* that it began on */
	uint8_t state;	   /* FLOW_NEW or FLOW_ESTABLISHED */
	uint8_t tcp_state; /* enum conntrack_tcp */
	uint32_t expires_s;
	uint64_t frames[2]; /* from src, from dst; a frame to be segmented is one */
	uint64_t bytes[2];
};

/* Which connections. */
struct conntrack_filter {
	uint16_t bridge;     /* RULE_NONE: any */
	uint16_t port;	     /* that it began on; RULE_NONE: any */
	uint8_t ip_version;  /* of the address; 0: any address */
	uint8_t address[16]; /* of either end */
	uint8_t proto;	     /* 0: any */
	uint8_t state;	     /* 0: any */
};

enum conntrack_tcp {
	CONNTRACK_TCP_NONE, /* no TCP */
	CONNTRACK_TCP_SYN_SENT,
	CONNTRACK_TCP_SIMULTANEOUS, /* both have sent a SYN */
	CONNTRACK_TCP_SYN_RECEIVED,
	CONNTRACK_TCP_ESTABLISHED,
	CONNTRACK_TCP_FIN_WAIT,	  /* src has closed its side */
	CONNTRACK_TCP_CLOSE_WAIT, /* dst has */
	CONNTRACK_TCP_CLOSING,	  /* both have */
	CONNTRACK_TCP_CLOSED,	  /* somebody sent a RST */
	CONNTRACK_TCP_STATES
};

enum {
	CONNTRACK_DEFAULT = 65536, /* connections_max */
	CONNTRACK_MAX = 1 << 22
};
/* cffi: end */

struct conntrack;

/* What lookup found, for commit. */
struct conntrack_ref {
	uint32_t entry; /* index + 1; 0: none */
	uint32_t stamp; /* of that entry when it was found */
	uint64_t hash;	/* of the connection, 0 where there is none to be made */
	uint8_t state;	/* enum flow_state: what lookup returned */
	bool reply;	/* from the side that did not begin */
};

uint64_t conntrack_bytes(uint32_t connections_max);
/*
 * A zeroed region is initialised; one of the same shape may be another process's still, and is not
 * looked into before conntrack_take_over; EPROTO for another. fd -1: private memory. EINVAL: the
 * limit is not 1..CONNTRACK_MAX or the file is too short. Settings are conntrack_defaults.
 */
int conntrack_map(int fd, uint32_t connections_max, struct conntrack **out, struct error *err);
/*
 * Goes on with the connections of a process that is dead; entries that make no sense are left out.
 * Once, before the table is used. EPROTO: the memory holds no table.
 */
int conntrack_take_over(struct conntrack *table, struct error *err);
void conntrack_unmap(struct conntrack *table);

/* The quota is a quarter of the table. */
struct conntrack_settings conntrack_defaults(uint32_t connections_max);
/* Also while workers use the table. */
void conntrack_set(struct conntrack *table, const struct conntrack_settings *settings);

/*
 * For a batch: hashes the frames in `which` and brings what lookup needs of them, while others are
 * on their way. hashes[i] is for lookup of frame i, before its key changes; 0: none, which is what
 * every other frame has.
 */
void conntrack_prefetch(const struct conntrack *table, const struct flow_key *keys, uint64_t which,
			uint16_t bridge, uint64_t *hashes);
/* now: seconds of CLOCK_MONOTONIC (the boot's, so that it goes on in a successor). */
enum flow_state conntrack_lookup_hashed(struct conntrack *table, const struct flow_key *key,
					const struct frame *frame, uint16_t bridge, uint32_t now,
					uint64_t hash, struct conntrack_ref *ref);

static inline enum flow_state conntrack_lookup(struct conntrack *table, const struct flow_key *key,
					       const struct frame *frame, uint16_t bridge,
					       uint32_t now, struct conntrack_ref *ref)
{
	return conntrack_lookup_hashed(table, key, frame, bridge, now, 0, ref);
}

/* -ENOSPC: table or quota is full of connections that live; the frame is to be dropped. */
int conntrack_commit(struct conntrack *table, const struct flow_key *key, const struct frame *frame,
		     uint16_t bridge, uint32_t now, const struct conntrack_ref *ref);

/* At most max rows from *cursor on, which moves; 0 at the end. */
int conntrack_dump(struct conntrack *table, const struct conntrack_filter *filter, uint32_t now,
		   uint32_t *cursor, struct conntrack_row *rows, unsigned max);
/* Returns the connections removed. */
int conntrack_flush(struct conntrack *table, const struct conntrack_filter *filter);
uint32_t conntrack_count(const struct conntrack *table);
uint32_t conntrack_max(const struct conntrack *table);
/* Removes what has timed out; about once a second. */
void conntrack_tick(struct conntrack *table, uint32_t now);
