/*
 * Frames that show something: real ones that an alternative of a rule matches.
 *
 * A match says what some bits of a key are; a witness is a frame whose key has them, the rest
 * filled in. Not every match has one: a frame of ICMP has no ports.
 *
 * Runs on: control thread. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "flow_key.h"
#include "rule.h"

enum { WITNESS_BYTES = 160, WITNESS_SHAPES = 20 };

/* How a frame is tagged, beside what the match says of it. */
enum witness_tag { WITNESS_UNTAGGED, WITNESS_TAGGED, WITNESS_PRIORITY };

struct witness {
	uint32_t len;
	uint8_t bytes[WITNESS_BYTES];
};

/*
 * A frame of one shape (below WITNESS_SHAPES: IPv4, IPv6 or ARP or neither, a protocol, a fragment
 * or none) with what the match wants; variant 0 fills in the usual, others something else each.
 * vid: in the tag. Whether the match takes the frame is to be tried: false only says that this
 * shape cannot be.
 */
bool witness_build(const struct rule_match *match, unsigned shape, unsigned variant,
		   enum witness_tag tag, uint16_t vid, struct witness *witness);
