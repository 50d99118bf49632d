/*
 * Connection tracking: what came before a frame between the same two ends.
 *
 * One table for all workers, for the two directions of a connection arrive on different ports. It
 * consists of shards with a short spin lock each; an entry is found by the connection's two ends,
 * smaller one first, protocol and zone (bridge and VLAN), hashed with a key. The table is one
 * memory of fixed size (a memfd of the keeper: connections survive the forwarder). A port's quota
 * bounds the entries that frames received on it have made; a full shard or quota evicts the oldest
 * entry of that port that never saw an answer, else the new connection is refused.
 *
 *   state of a frame  new: no answer seen yet, and it may begin one (TCP: SYN without ACK; UDP:
 * any; ICMP, ICMPv6: a request) · established: both sides have sent, this frame fits · related: an
 * ICMP or ICMPv6 error whose inner packet is of a known connection · invalid: everything else of
 * TCP, UDP, ICMP, ICMPv6 that is of no connection, contradicts its state (RFC 9293) or is FLOW_BAD
 * · 0: other protocols, not tracked. Neighbour discovery (RFC 4861) and MLD are not tracked either.
 *   later fragments   have the state of the first one of their packet when that came within 30 s,
 *                     else invalid
 *
 * Lookup changes nothing; only a frame that the rules allow is committed: makes an entry, moves the
 * TCP state on, refreshes the time.
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
struct conntrack_timeouts { /* seconds of silence */
	uint32_t tcp_opening;
	uint32_t tcp_established;
	uint32_t tcp_closing;
	uint32_t udp_new;
	uint32_t udp_established;
	uint32_t icmp;
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
	uint64_t frames[2]; /* from src, from dst */
	uint64_t bytes[2];
};

enum conntrack_tcp {
	CONNTRACK_TCP_NONE,
	CONNTRACK_TCP_SYN_SENT,
	CONNTRACK_TCP_SYN_RECEIVED,
	CONNTRACK_TCP_ESTABLISHED,
	CONNTRACK_TCP_FIN_WAIT,
	CONNTRACK_TCP_CLOSING,
	CONNTRACK_TCP_CLOSED
};
/* cffi: end */

struct conntrack;

/* What lookup found, for commit. */
struct conntrack_ref {
	uint32_t entry; /* index + 1; 0: none */
	uint32_t stamp; /* of that entry when it was found */
	uint64_t hash;
	bool reply; /* from the side that did not begin */
};

uint64_t conntrack_bytes(uint32_t connections_max);
/* A zeroed region is initialised; one of the same shape is taken over; EPROTO for another. */
int conntrack_map(int fd, uint32_t connections_max, struct conntrack **out, struct error *err);
void conntrack_unmap(struct conntrack *table);

/* Of one port; 0: no quota but the table. Default: a quarter of the table. */
void conntrack_set_quota(struct conntrack *table, uint32_t connections);
void conntrack_set_timeouts(struct conntrack *table, const struct conntrack_timeouts *timeouts);

/* now: seconds of CLOCK_MONOTONIC (the boot's, so that it goes on in a successor). */
enum flow_state conntrack_lookup(struct conntrack *table, const struct flow_key *key,
				 const struct frame *frame, uint16_t bridge, uint32_t now,
				 struct conntrack_ref *ref);
/* -ENOSPC: table or quota is full of connections that live; the frame is to be dropped. */
int conntrack_commit(struct conntrack *table, const struct flow_key *key, const struct frame *frame,
		     uint16_t bridge, uint32_t now, const struct conntrack_ref *ref);

/* At most max rows from *cursor on, which moves; 0 at the end. */
int conntrack_dump(struct conntrack *table, uint32_t now, uint32_t *cursor,
		   struct conntrack_row *rows, unsigned max);
/* bridge, port RULE_NONE: any; address NULL: any. Returns the connections removed. */
int conntrack_flush(struct conntrack *table, uint16_t bridge, uint16_t port, uint8_t ip_version,
		    const uint8_t address[16]);
uint32_t conntrack_count(const struct conntrack *table);
/* Removes what has timed out; about once a second. */
void conntrack_tick(struct conntrack *table, uint32_t now);
