/*
 * The VXLAN header (RFC 7348, section 5), in front of an Ethernet frame in a UDP datagram:
 *
 *      0                   1                   2                   3
 *      0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *     +-+-+-+-+-+-+-+-+-----------------------------------------------+
 *     |R|R|R|R|I|R|R|R|                   reserved                    |
 *     +-+-+-+-+-+-+-+-+-------------------------------+---------------+
 *     |        VXLAN network identifier (VNI)         |   reserved    |
 *     +-----------------------------------------------+---------------+
 *
 * I says that the VNI is valid. Reserved bits are sent as 0 and not looked at when received.
 *
 * Bytes in, bytes out: no port, no system call. Runs on: workers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* cffi: begin */
enum { VXLAN_HEADER_BYTES = 8, VXLAN_PORT = 4789, VXLAN_VNI_MAX = 0xffffff };

/* Fills VXLAN_HEADER_BYTES; vni is at most VXLAN_VNI_MAX. */
void vxlan_encode(uint8_t *header, uint32_t vni);

/*
 * The VNI of a datagram of len bytes, header and frame. false: it is shorter than a header, or
 * its I flag is not set. Reads the header's bytes only.
 */
bool vxlan_decode(const uint8_t *header, uint32_t len, uint32_t *vni);
/* cffi: end */
