/*
 * What a sender left unfinished in a frame that then travelled inside a datagram.
 *
 * A kernel that wraps a frame leaves the inner checksum, and the cutting of TCP payload, to the
 * device that the datagram leaves by. A real device does both. veth, and a virtual machine's
 * interface, do neither: the datagram arrives as it is, and a UDP socket, unlike a packet socket,
 * says nothing about it. But such a checksum field holds the sum of the pseudo-header, nothing
 * else, and that is easily compared. A finished checksum has that value once in 65,536 frames;
 * finishing it again does not change it.
 *
 * TCP payload that was to be cut is more than fits the path, by a path MTU that only we know: it
 * is cut to that. UDP payload is not: where its datagrams ended is not known.
 *
 * Bytes in, bytes out: no port, no system call. Runs on: workers.
 */
#pragma once

#include <stdint.h>

#include "frame.h"

/*
 * Sets the offload state of a frame in one piece that has none. mtu: bytes of payload behind the
 * Ethernet header that a peer would send finished; 0: unknown, nothing is cut.
 */
void overlay_inner(struct frame *frame, uint32_t mtu);
