/*
 * The world of test_af_packet: a network namespace of its own (in a user namespace of its own
 * when not run by root) with two veth pairs.
 *
 *     h0 ======== p0  (af_packet ports)  p1 ======== h1
 *     packet socket                           packet socket
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "port.h"

enum { NET_WAIT_MS = 2000, NET_FRAME_MAX = 1 << 17 };

/* A frame as a host sent or got it, tags in line. */
struct net_frame {
	struct frame_offload offload;
	uint32_t len;
	uint8_t data[NET_FRAME_MAX];
};

__attribute__((format(printf, 1, 2))) static inline void net_run(const char *fmt, ...)
{
	char command[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	if (system(command)) {
		fprintf(stderr, "failed: %s\n", command);
		exit(1);
	}
}

static inline void net_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static inline void net_pair(const char *host, const char *port)
{
	net_run("ip link add %s mtu 1500 type veth peer name %s", host, port);
	net_run("ip link set %s up && ip link set %s up", host, port);
}

static inline void net_enter(void)
{
	char map[64];
	unsigned uid = geteuid(), gid = getegid();

	if (uid) {
		CHECK(!unshare(CLONE_NEWUSER));
		net_write("/proc/self/setgroups", "deny");
		snprintf(map, sizeof(map), "0 %u 1", uid);
		net_write("/proc/self/uid_map", map);
		snprintf(map, sizeof(map), "0 %u 1", gid);
		net_write("/proc/self/gid_map", map);
	}
	CHECK(!unshare(CLONE_NEWNET));
	/* An idle link is silent. */
	if (access("/proc/sys/net/ipv6", F_OK) == 0)
		net_write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	net_pair("h0", "p0");
	net_pair("h1", "p1");
}

/* A host's end: gets what the port sends, sends what the port shall get. */
static inline int host_open(const char *ifname)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	int yes = 1, bytes = 64 << 20;
	struct sockaddr_ll address = {
	    .sll_family = AF_PACKET,
	    .sll_protocol = htons(ETH_P_ALL),
	    .sll_ifindex = (int)if_nametoindex(ifname),
	};

	CHECK(fd >= 0);
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof(yes)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &yes, sizeof(yes)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes)));
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)));
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)));
	CHECK(!bind(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

static inline int host_send(int fd, const struct net_frame *frame)
{
	struct iovec iov[] = {
	    {.iov_base = (void *)(uintptr_t)&frame->offload, .iov_len = sizeof(frame->offload)},
	    {.iov_base = (void *)(uintptr_t)frame->data, .iov_len = frame->len},
	};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t sent = sendmsg(fd, &message, 0);

	return sent == (ssize_t)(sizeof(frame->offload) + frame->len) ? 0 : -errno;
}

/* Puts back the tag that the kernel took out. */
static inline void host_untake_tag(struct net_frame *frame, const struct msghdr *message)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c;
	     c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, c)) {
		struct tpacket_auxdata aux;
		uint16_t tag[2];

		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA)
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		if (!(aux.tp_status & TP_STATUS_VLAN_VALID))
			continue;
		tag[0] = htons(aux.tp_vlan_tpid);
		tag[1] = htons(aux.tp_vlan_tci);
		memmove(frame->data + 16, frame->data + 12, frame->len - 12);
		memcpy(frame->data + 12, tag, sizeof(tag));
		frame->len += 4;
		if (frame->offload.flags & FRAME_CSUM_NEEDED)
			frame->offload.csum_start = (uint16_t)(frame->offload.csum_start + 4);
	}
}

/* false: nothing within the time. */
static inline bool host_receive(int fd, struct net_frame *frame, int wait_ms)
{
	char control[64];
	struct iovec iov[] = {
	    {.iov_base = &frame->offload, .iov_len = sizeof(frame->offload)},
	    {.iov_base = frame->data, .iov_len = sizeof(frame->data) - 4},
	};
	struct msghdr message = {.msg_iov = iov,
				 .msg_iovlen = 2,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	ssize_t got;

	if (poll(&ready, 1, wait_ms) <= 0)
		return false;
	got = recvmsg(fd, &message, MSG_DONTWAIT);
	if (got < (ssize_t)sizeof(frame->offload))
		return false;
	frame->len = (uint32_t)((size_t)got - sizeof(frame->offload));
	host_untake_tag(frame, &message);
	return true;
}

/* --- ports ---------------------------------------------------------------------------- */

/* A port under test: what the keeper holds and what a forwarder has of it. */
struct end {
	struct port_option items[8];
	struct port_options options;
	struct port_fds fds;
	struct port port;
	struct port_counters cell;
	struct tx_report report;
};

/* Options behind the version: names and values in turn, NULL at the end. */
static inline void end_open_with(struct end *end, const char *ifname, const char *version, ...)
{
	struct error err = {0};
	unsigned count = 2;
	va_list args;

	memset(end, 0, sizeof(*end));
	end->items[0] = (struct port_option){"ifname", ifname};
	end->items[1] = (struct port_option){"version", version};
	va_start(args, version);
	for (const char *name; (name = va_arg(args, const char *));)
		end->items[count++] = (struct port_option){name, va_arg(args, const char *)};
	va_end(args);
	end->options = (struct port_options){.port = ifname, .items = end->items, .count = count};
	if (!CHECK(!port_acquire("af_packet", &end->options, &end->fds, &err)))
		fprintf(stderr, "%s\n", err.message);
}

static inline void end_open(struct end *end, const char *ifname, const char *version)
{
	end_open_with(end, ifname, version, (const char *)NULL);
}

static inline void end_attach(struct end *end)
{
	struct error err = {0};

	end->port.ops = port_type_find("af_packet");
	CHECK(!end->port.ops->attach(&end->port, &end->options, &end->fds, &err));
}

static inline void end_close(struct end *end)
{
	if (end->port.priv)
		end->port.ops->detach(&end->port);
	for (unsigned i = 0; i < end->fds.count; i++)
		close(end->fds.fd[i]);
}

/* The next batch, waiting for it; 0: nothing within the time. */
static inline unsigned end_receive_queue(struct end *end, unsigned id, struct frame *batch,
					 unsigned max, int wait_ms)
{
	struct port_queue *queue = &end->port.rxq[id];
	struct pollfd ready = {.fd = end->port.ops->rx_fd(queue), .events = POLLIN};
	int n;

	while (!(n = end->port.ops->rx(queue, batch, max, &end->cell))) {
		if (poll(&ready, 1, wait_ms) <= 0)
			return 0;
	}
	return n > 0 ? (unsigned)n : 0;
}

static inline unsigned end_receive(struct end *end, struct frame *batch, unsigned max, int wait_ms)
{
	return end_receive_queue(end, 0, batch, max, wait_ms);
}

static inline void end_send(struct end *end, struct frame *batch, unsigned count)
{
	struct frame *frames[FRAME_BATCH];

	for (unsigned i = 0; i < count; i++)
		frames[i] = &batch[i];
	end->report = (struct tx_report){0};
	end->port.ops->tx(&end->port.txq[0], frames, count, &end->report);
}

static inline void end_done(struct end *end)
{
	end->port.ops->rx_done(&end->port.rxq[0]);
}

/* Addresses, tags, an experimental EtherType, a number, and bytes that depend on both. */
static inline void frame_make(struct net_frame *frame, uint32_t number, uint32_t len,
			      const char *tags)
{
	static const uint8_t addresses[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
	uint32_t at = sizeof(addresses);

	frame->offload = (struct frame_offload){0};
	frame->len = len;
	for (uint32_t i = 0; i < len; i++)
		frame->data[i] = (uint8_t)(i * 7 + number);
	memcpy(frame->data, addresses, sizeof(addresses));
	for (unsigned byte; sscanf(tags, "%2x", &byte) == 1; tags += 2)
		frame->data[at++] = (uint8_t)byte;
	frame->data[at++] = 0x88;
	frame->data[at++] = 0xb5;
	if (at + sizeof(number) <= len)
		memcpy(frame->data + at, &number, sizeof(number));
}

static inline uint32_t frame_number(const uint8_t *data)
{
	uint32_t number;

	memcpy(&number, data + ETH_HLEN, sizeof(number));
	return number;
}
