/*
 * Overlay ports: options, and what the keeper opens. Addresses are numbers, never names.
 *
 * Runs on: overlay_config_parse in keeper and forwarder, the rest in the keeper.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "port_overlay.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef UDP_NO_CHECK6_RX
#define UDP_NO_CHECK6_RX 102
#endif

enum {
	PORT_MIN = 1024, /* what is below belongs to services of the host */
	SOURCES_DEFAULT = 8,
	BUFFER_BYTES = 4 << 20, /* of a socket: 20 ms of 400,000 small frames/s */
	/* RFC 7348 recommends the dynamic ports (RFC 6335) as source ports. */
	DYNAMIC_MIN = 49152,
	DYNAMIC_PORTS = 65536 - DYNAMIC_MIN,
	DYNAMIC_TRIES = 32,
	ENDPOINT_TEXT = 64,
};

/* --- options ------------------------------------------------------------------------------ */

/* "192.0.2.1", "192.0.2.1:6081", "2001:db8::1", "[2001:db8::1]:6081"; port 0 where none is said. */
static bool endpoint_parse(const char *text, struct overlay_endpoint *endpoint, unsigned *port)
{
	char host[INET6_ADDRSTRLEN];
	const char *end = text + strlen(text), *colon = strrchr(text, ':');
	struct overlay_endpoint found = {.ip = {[10] = 0xff, [11] = 0xff}};
	char *rest;

	*port = 0;
	if (*text == '[') {
		end = strchr(++text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		colon = end[1] ? end + 1 : NULL;
	} else if (colon && strchr(text, ':') != colon) {
		colon = NULL; /* IPv6 without a port */
	}
	if (colon) {
		unsigned long number = strtoul(colon + 1, &rest, 10);

		if (colon[1] < '1' || colon[1] > '9' || *rest || number > UINT16_MAX)
			return false;
		*port = (unsigned)number;
		end = end < colon ? end : colon;
	}
	if (end - text >= (ptrdiff_t)sizeof(host))
		return false;
	memcpy(host, text, (size_t)(end - text));
	host[end - text] = 0;
	if (inet_pton(AF_INET, host, found.ip + 12) != 1 &&
	    inet_pton(AF_INET6, host, found.ip) != 1)
		return false;
	*endpoint = found;
	return true;
}

static struct in6_addr endpoint_ip(const struct overlay_endpoint *endpoint)
{
	struct in6_addr ip;

	memcpy(&ip, endpoint->ip, sizeof(ip));
	return ip;
}

static bool endpoint_ipv6(const struct overlay_endpoint *endpoint)
{
	const struct in6_addr ip = endpoint_ip(endpoint);

	return !IN6_IS_ADDR_V4MAPPED(&ip);
}

/* A host's address that means the same on every link. */
static bool endpoint_usable(const struct overlay_endpoint *endpoint)
{
	const struct in6_addr ip = endpoint_ip(endpoint);

	if (endpoint_ipv6(endpoint))
		return !IN6_IS_ADDR_UNSPECIFIED(&ip) && !IN6_IS_ADDR_MULTICAST(&ip) &&
		       !IN6_IS_ADDR_LINKLOCAL(&ip);
	return endpoint->ip[12] != 0 && endpoint->ip[12] < 224;
}

static int endpoint_option(const struct overlay_kind *kind, const char *port_name, const char *text,
			   unsigned fallback_port, struct overlay_endpoint *endpoint,
			   struct error *err)
{
	unsigned port;

	if (!endpoint_parse(text, endpoint, &port) || (kind->default_port && port))
		return error_set(err, EINVAL, "%s: \"%.60s\" is not an IP address%s", port_name,
				 text, kind->default_port ? "" : " and port");
	if (!endpoint_usable(endpoint))
		return error_set(err, EINVAL, "%s: %.60s is not the global address of one host",
				 port_name, text);
	if (!port)
		port = fallback_port;
	if (port < PORT_MIN)
		return error_set(err, EINVAL, "%s: \"%.60s\" needs a UDP port of %u or above",
				 port_name, text, PORT_MIN);
	endpoint->port[0] = (uint8_t)(port >> 8);
	endpoint->port[1] = (uint8_t)port;
	return 0;
}

static int endpoint_compare(const void *one, const void *two)
{
	return memcmp(one, two, sizeof(struct overlay_endpoint));
}

static int peers_parse(const struct overlay_kind *kind, const struct port_options *options,
		       unsigned port, struct overlay_config *config, struct error *err)
{
	const char *at = port_option_text(options, kind->peers_option, "");
	struct overlay_endpoint *peers = config->peers;
	char text[ENDPOINT_TEXT];
	int status;

	config->peer_count = 0;
	while (*at) {
		size_t len = strcspn(at, ",");

		if (config->peer_count == OVERLAY_PEERS_MAX)
			return error_set(err, EINVAL, "%s: more than %u %s", options->port,
					 OVERLAY_PEERS_MAX, kind->peers_option);
		snprintf(text, sizeof(text), "%.*s", (int)(len < sizeof(text) ? len : 0), at);
		status = endpoint_option(kind, options->port, text, port,
					 &peers[config->peer_count], err);
		if (status)
			return status;
		if (endpoint_ipv6(&peers[config->peer_count]) != config->ipv6)
			return error_set(err, EINVAL, "%s: %s and local are not of one IP version",
					 options->port, text);
		config->peer_count++;
		at += len + (at[len] == ',');
	}
	if (!config->peer_count)
		return error_set(err, EINVAL, "%s: %s is missing", options->port,
				 kind->peers_option);
	qsort(peers, config->peer_count, sizeof(*peers), endpoint_compare);
	for (unsigned i = 0; i < config->peer_count; i++) {
		if (endpoint_compare(&peers[i], &config->local) == 0)
			return error_set(err, EINVAL, "%s: local is among the %s", options->port,
					 kind->peers_option);
		if (i && endpoint_compare(&peers[i - 1], &peers[i]) == 0)
			return error_set(err, EINVAL, "%s: one of the %s is named twice",
					 options->port, kind->peers_option);
	}
	return 0;
}

int overlay_config_parse(const struct overlay_kind *kind, const struct port_options *options,
			 struct overlay_config *config, struct error *err)
{
	uint32_t port = 0;
	int status;

	memset(config, 0, sizeof(*config));
	config->compare_ports = kind->from_one_port;
	if (port_option_u32(options, "vni", 0, 1, 0xffffff, &config->vni, err) < 0 ||
	    port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &config->queues, err) < 0)
		return -EINVAL;
	if (kind->default_port &&
	    port_option_u32(options, "port", kind->default_port, PORT_MIN, 65535, &port, err) < 0)
		return -EINVAL;
	if (!kind->from_one_port && port_option_u32(options, "source_ports", SOURCES_DEFAULT, 1,
						    OVERLAY_SOURCES_MAX, &config->sources, err) < 0)
		return -EINVAL;
	if (!config->vni)
		return error_set(err, EINVAL, "%s: vni is missing", options->port);
	status = endpoint_option(kind, options->port, port_option_text(options, "local", ""), port,
				 &config->local, err);
	if (status)
		return status;
	config->ipv6 = endpoint_ipv6(&config->local);
	return peers_parse(kind, options, port, config, err);
}

socklen_t overlay_sockaddr(const struct overlay_endpoint *endpoint, bool ipv6,
			   struct sockaddr_in6 *address)
{
	memset(address, 0, sizeof(*address));
	if (ipv6) {
		address->sin6_family = AF_INET6;
		memcpy(&address->sin6_addr, endpoint->ip, sizeof(endpoint->ip));
		memcpy(&address->sin6_port, endpoint->port, sizeof(endpoint->port));
		return sizeof(*address);
	}
	struct sockaddr_in v4 = {.sin_family = AF_INET};

	memcpy(&v4.sin_addr, endpoint->ip + 12, 4);
	memcpy(&v4.sin_port, endpoint->port, sizeof(endpoint->port));
	memcpy(address, &v4, sizeof(v4));
	return sizeof(v4);
}

/* --- sockets ------------------------------------------------------------------------------ */

static int option_set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

/* As large as may be: beyond the system's limit with NET_ADMIN, up to it without. */
static void buffer_set(int fd, int forced, int plain)
{
	if (option_set(fd, SOL_SOCKET, forced, BUFFER_BYTES) < 0)
		(void)option_set(fd, SOL_SOCKET, plain, BUFFER_BYTES);
}

static int socket_open(const struct overlay_config *config)
{
	int family = config->ipv6 ? AF_INET6 : AF_INET;
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP);

	if (fd < 0)
		return -1;
	buffer_set(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	/* Too large is fragmented, here or on the way: no DF bit. */
	if (config->ipv6) {
		(void)option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
		(void)option_set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
	} else {
		(void)option_set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
	}
	return fd;
}

static int socket_bind(int fd, const struct overlay_config *config, unsigned port)
{
	struct overlay_endpoint local = config->local;
	struct sockaddr_in6 address;
	socklen_t bytes;

	if (port) {
		local.port[0] = (uint8_t)(port >> 8);
		local.port[1] = (uint8_t)port;
	}
	bytes = overlay_sockaddr(&local, config->ipv6, &address);
	return bind(fd, (struct sockaddr *)&address, bytes);
}

static int receive_socket(const struct overlay_config *config)
{
	int fd = socket_open(config);

	if (fd < 0)
		return -1;
	buffer_set(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	(void)option_set(fd, IPPROTO_UDP, UDP_GRO, 1); /* kernels before 5.0 lack it */
	if (config->ipv6) /* other VTEPs send checksum 0 over IPv6 too (RFC 6935) */
		(void)option_set(fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1);
	if ((config->queues > 1 && option_set(fd, SOL_SOCKET, SO_REUSEPORT, 1) < 0) ||
	    socket_bind(fd, config, 0) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/* Sends from a port of its own; what is sent to that port is not for us. */
static int send_socket(const struct overlay_config *config)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog filter = {.len = 1, .filter = &nothing};
	uint16_t random = 0;
	int fd = socket_open(config);

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0 ||
	    option_set(fd, SOL_SOCKET, SO_LOCK_FILTER, 1) < 0)
		goto failed;
	for (unsigned tries = 0; tries < DYNAMIC_TRIES; tries++) {
		if (getrandom(&random, sizeof(random), 0) < 0)
			goto failed;
		if (socket_bind(fd, config, DYNAMIC_MIN + random % DYNAMIC_PORTS) == 0)
			return fd;
		if (errno != EADDRINUSE)
			break;
	}
failed:
	close(fd);
	return -1;
}

static int shared_memory(const char *name, uint64_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

uint64_t overlay_memory_bytes(uint32_t queues)
{
	return (queues * sizeof(struct overlay_memory) + 4095) & ~(uint64_t)4095;
}

/* The narrowest way to a peer, as far as routes tell now; 0: there is none. */
static uint32_t path_mtu(const struct overlay_config *config)
{
	uint32_t least = 0;

	for (unsigned i = 0; i < config->peer_count; i++) {
		struct sockaddr_in6 peer;
		socklen_t bytes = overlay_sockaddr(&config->peers[i], config->ipv6, &peer);
		int fd = socket_open(config), mtu = 0;
		socklen_t len = sizeof(mtu);

		if (fd < 0)
			break;
		if (connect(fd, (struct sockaddr *)&peer, bytes) == 0 &&
		    getsockopt(fd, config->ipv6 ? IPPROTO_IPV6 : IPPROTO_IP,
			       config->ipv6 ? IPV6_MTU : IP_MTU, &mtu, &len) == 0 &&
		    mtu > 0 && (!least || (uint32_t)mtu < least))
			least = (uint32_t)mtu;
		close(fd);
	}
	return least;
}

static int open_failed(const char *port, const char *local, const char *what, struct error *err)
{
	if (errno == EADDRNOTAVAIL)
		return error_named(err, EADDRNOTAVAIL, "ADDRESS_NOT_LOCAL",
				   "%s: %.60s is not an address of this host", port, local);
	if (errno == EADDRINUSE)
		return error_named(err, EADDRINUSE, "PORT_BUSY",
				   "%s: another socket has the UDP port of %.60s", port, local);
	return error_set(err, errno, "%s: %s: %s", port, what, strerror(errno));
}

/* Every fd, in the order of port_overlay.h; what could not be opened, or NULL. */
static const char *open_all(const struct overlay_config *config, struct port_fds *fds)
{
	for (uint32_t i = 0; i < config->queues + config->sources; i++) {
		int fd = i < config->queues ? receive_socket(config) : send_socket(config);

		if (fd < 0)
			return "UDP socket";
		fds->fd[fds->count++] = fd;
	}
	fds->fd[fds->count] = shared_memory("overlay-rx", overlay_memory_bytes(config->queues));
	if (fds->fd[fds->count] < 0)
		return "receive memory";
	fds->count++;
	fds->fd[fds->count] = shared_memory("overlay-fdb", fdb_bytes(OVERLAY_STATIONS_MAX));
	if (fds->fd[fds->count] < 0)
		return "memory for stations";
	fds->count++;
	if (!config->ipv6)
		return NULL;
	fds->fd[fds->count] = open("/proc/thread-self/net/if_inet6", O_RDONLY | O_CLOEXEC);
	if (fds->fd[fds->count] < 0)
		return "/proc/net/if_inet6";
	fds->count++;
	return NULL;
}

int overlay_acquire(const struct overlay_kind *kind, const struct port_options *options,
		    struct port_fds *fds, struct error *err)
{
	struct overlay_config config;
	const char *what;
	int status = overlay_config_parse(kind, options, &config, err);

	fds->count = 0;
	if (status)
		return status;
	what = open_all(&config, fds);
	if (what) {
		status =
		    open_failed(options->port, port_option_text(options, "local", ""), what, err);
		while (fds->count)
			close(fds->fd[--fds->count]);
		return status;
	}
	snprintf(fds->state, sizeof(fds->state), "queues=%u sources=%u ipv6=%u mtu=%u",
		 config.queues, config.sources, config.ipv6, path_mtu(&config));
	return 0;
}
