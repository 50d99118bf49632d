/*
 * Our own encapsulation: eight bytes in front of an Ethernet frame in a UDP datagram. All numbers
 * in network order.
 *
 *      0                   1                   2                   3
 *      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *     +---------------+-+-------------+-------------------------------+
 *     |  version (1)  |K|  reserved   |            length             |
 *     +---------------+-+-------------+---------------+---------------+
 *     |           network identifier (VNI)            |    key id     |
 *     +-----------------------------------------------+---------------+
 *
 *   version   1; another is refused, so that a later layout cannot be misread
 *   K         the datagram ends in an authentication tag made with the key of that id. No such tag
 *             is defined yet: set, the datagram is refused
 *   reserved  0; refused otherwise, as a later bit may change what the rest means
 *   length    bytes of the frame; the datagram ends exactly behind it
 *   VNI       1..16777215
 *   key id    0 without K; refused otherwise
 *
 * What VXLAN does not say (a version, where the frame ends) is said here, so that a datagram that
 * strayed from another program or was cut is known as such.
 *
 * Bytes in, bytes out: no port, no system call. Runs on: workers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
enum {
	OVERLAY_HEADER_BYTES = 8,
	OVERLAY_VERSION = 1,
	OVERLAY_FLAG_KEY = 0x80,
	OVERLAY_VNI_MAX = 0xffffff
};

/* Fills OVERLAY_HEADER_BYTES for a frame of length bytes (at most 65535). */
void overlay_encode(uint8_t *header, uint32_t vni, uint32_t length);

/*
 * The VNI of a datagram of len bytes, header and frame. false: something in its header is not as
 * above. Reads the header's bytes only, each once.
 */
bool overlay_decode(const uint8_t *header, uint32_t len, uint32_t *vni);
/* cffi: end */
