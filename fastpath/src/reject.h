/*
 * The frame that tells a sender that it was rejected: a TCP reset (RFC 9293, section 3.10.7), else
 * ICMP destination unreachable, administratively prohibited (RFC 792, RFC 1812 section 5.2.7.1,
 * code 13) or ICMPv6 destination unreachable, code 1 (RFC 4443, section 3.1).
 *
 * No answer goes to: a reset; an ICMP error; a later fragment; a group or broadcast destination or
 * source (link and IP); what is no IP; FLOW_BAD. The answer bears the offender's tags, its MAC and
 * IP addresses swapped, finished checksums, and at most 1280 bytes (IPv6) or 576 (IPv4).
 *
 * Whoever sends it limits how many there are of ICMP.
 *
 * Runs on: workers. Pure.
 */
#pragma once

#include <stdint.h>

#include "flow_key.h"
#include "frame.h"

enum { REJECT_BYTES_MAX = 1280 + 22 };

/* Bytes written to `to` (REJECT_BYTES_MAX); 0: nothing is to be said. */
uint32_t reject_build(const struct frame *frame, const struct flow_key *key, uint8_t *to);
