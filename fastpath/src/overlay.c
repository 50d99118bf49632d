/*
 * Overlay ports, control thread: attach, detach, and what a look at the underlay tells.
 *
 * The underlay is asked through the sockets themselves (interface ioctls) and, for IPv6, which has
 * no such call, through the list of addresses that the keeper opened: the forwarder may make no
 * socket and open no file.
 *
 * Runs on: the forwarder's control thread; overlay_peer_find on workers too.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "port_overlay.h"

enum {
	STATION_AGE_S = 300,
	IP4_BYTES = 20,
	IP6_BYTES = 40,
	UDP_BYTES = 8,
	ETHERNET_BYTES = 14,
	ADDRESS_LINES_BYTES = 64 << 10, /* of /proc/net/if_inet6: over 1,000 addresses */
};

int overlay_peer_find(const struct overlay_config *config, const struct overlay_endpoint *from)
{
	unsigned low = 0, high = config->peer_count;
	bool any_port = !config->compare_ports;

	while (low < high) {
		unsigned middle = (low + high) / 2;
		int order = memcmp(from, &config->peers[middle],
				   any_port ? sizeof(from->ip) : sizeof(*from));

		if (order == 0)
			return (int)middle;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return -1;
}

/* --- the underlay ------------------------------------------------------------------------- */

/* The interface that has the local IPv4 address; false: none has. */
static bool interface_of_ipv4(const struct overlay *overlay, char name[IFNAMSIZ])
{
	struct ifconf all = {0};
	bool found = false;
	int fd = overlay->rx[0].fd;

	if (ioctl(fd, SIOCGIFCONF, &all) < 0 || all.ifc_len <= 0)
		return false;
	all.ifc_len += 16 * (int)sizeof(struct ifreq); /* some may come meanwhile */
	all.ifc_req = calloc(1, (size_t)all.ifc_len);
	if (!all.ifc_req)
		return false;
	if (ioctl(fd, SIOCGIFCONF, &all) < 0)
		all.ifc_len = 0;
	for (unsigned i = 0; i < (unsigned)all.ifc_len / sizeof(struct ifreq) && !found; i++) {
		struct sockaddr_in address;

		memcpy(&address, &all.ifc_req[i].ifr_addr, sizeof(address));
		found = memcmp(&address.sin_addr, overlay->config.local.ip + 12, 4) == 0;
		if (found)
			memcpy(name, all.ifc_req[i].ifr_name, IFNAMSIZ);
	}
	free(all.ifc_req);
	return found;
}

/* Lines "32 hex digits, index, prefix length, scope, flags, name". */
static bool interface_of_ipv6(const struct overlay *overlay, char name[IFNAMSIZ])
{
	char wanted[33], *text = malloc(ADDRESS_LINES_BYTES);
	const char *line;
	ssize_t have = 0, got;

	if (!text)
		return false;
	do {
		got = pread(overlay->addresses, text + have,
			    (size_t)(ADDRESS_LINES_BYTES - 1 - have), have);
		have += got > 0 ? got : 0;
	} while (got > 0 && have < ADDRESS_LINES_BYTES - 1);
	text[have] = 0;
	for (unsigned i = 0; i < 16; i++)
		snprintf(wanted + 2 * i, 3, "%02x", overlay->config.local.ip[i]);
	line = strstr(text, wanted);
	name[0] = 0;
	if (line)
		sscanf(line, "%*s %*s %*s %*s %*s %15s", name);
	free(text);
	return name[0] != 0;
}

struct underlay {
	bool here; /* the local address is one of the host's */
	bool up;
	uint32_t ifindex;
	uint32_t mtu; /* 0: unknown */
};

static struct underlay underlay_look(const struct overlay *overlay)
{
	struct underlay found = {0};
	struct ifreq ifr = {0};
	int fd = overlay->rx[0].fd;

	found.here = overlay->config.ipv6 ? interface_of_ipv6(overlay, ifr.ifr_name)
					  : interface_of_ipv4(overlay, ifr.ifr_name);
	if (!found.here)
		return found;
	if (ioctl(fd, SIOCGIFINDEX, &ifr) == 0)
		found.ifindex = (uint32_t)ifr.ifr_ifindex;
	if (ioctl(fd, SIOCGIFMTU, &ifr) == 0)
		found.mtu = (uint32_t)ifr.ifr_mtu;
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) == 0) {
		found.up = (ifr.ifr_flags & IFF_UP) && (ifr.ifr_flags & IFF_RUNNING);
		if (ifr.ifr_flags & IFF_LOOPBACK) /* the frames leave by another interface */
			found.mtu = overlay->path_mtu;
	}
	return found;
}

/* What an MTU on the underlay leaves to the payload of an Ethernet frame, or 0. */
static uint32_t inner_mtu(const struct overlay *overlay, uint32_t mtu)
{
	uint32_t taken = (overlay->config.ipv6 ? IP6_BYTES : IP4_BYTES) + UDP_BYTES +
			 OVERLAY_HEADER_LEN + ETHERNET_BYTES;

	return mtu > taken ? mtu - taken : 0;
}

/* What workers go by. */
static void mtu_set(struct overlay *overlay, uint32_t mtu)
{
	uint32_t taken = (overlay->config.ipv6 ? IP6_BYTES : IP4_BYTES) + UDP_BYTES;
	uint32_t most = mtu > taken ? mtu - taken : 0;

	if (atomic_load_explicit(&overlay->no_segments, memory_order_relaxed))
		most = 0;
	atomic_store_explicit(&overlay->segment_max, most, memory_order_relaxed);
	atomic_store_explicit(&overlay->mtu, inner_mtu(overlay, mtu), memory_order_relaxed);
}

static void stations_age(struct overlay *overlay)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	fdb_age(overlay->fdb, (uint32_t)now.tv_sec, STATION_AGE_S, overlay->fdb->mask + 1);
}

void overlay_poll_status(struct port *port, struct port_status *status)
{
	struct overlay *overlay = port->priv;
	const struct overlay_config *config = &overlay->config;
	struct underlay underlay = underlay_look(overlay);

	stations_age(overlay);
	mtu_set(overlay, underlay.mtu);
	for (unsigned q = 0; q < port->rx_queue_count; q++)
		status->kernel_drops += overlay_rx_drops(&overlay->rx[q]);
	status->caps = PORT_CAP_FRAGS;
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	if (!underlay.here) {
		status->lost = true;
		snprintf(status->detail, sizeof(status->detail),
			 "the local address is gone from this host");
		return;
	}
	status->link_up = underlay.up;
	status->ifindex = underlay.ifindex;
	status->mtu = inner_mtu(overlay, underlay.mtu);
	snprintf(
	    status->detail, sizeof(status->detail), "VNI %u, %u peer%s, %u station%s behind them%s",
	    config->vni, config->peer_count, config->peer_count == 1 ? "" : "s",
	    fdb_count(overlay->fdb), fdb_count(overlay->fdb) == 1 ? "" : "s",
	    atomic_load_explicit(&overlay->segment_max, memory_order_relaxed) ? ", UDP segmentation"
									      : "");
}

/* --- life --------------------------------------------------------------------------------- */

void overlay_detach(struct port *port)
{
	struct overlay *overlay = port->priv;

	if (overlay->rx[0].memory)
		munmap(overlay->rx[0].memory, overlay_memory_bytes(overlay->config.queues));
	if (overlay->fdb)
		fdb_close(overlay->fdb);
	if (overlay->stations)
		fdb_unmap(overlay->stations, OVERLAY_STATIONS_MAX);
	free(overlay->tx);
	free(overlay);
	port->priv = NULL;
}

static int stations_open(struct overlay *overlay, int fd, struct error *err)
{
	struct fdb_params params = {
	    .bytes = fdb_bytes(OVERLAY_STATIONS_MAX),
	    .entries_max = OVERLAY_STATIONS_MAX,
	};
	int status = fdb_map(fd, OVERLAY_STATIONS_MAX, &overlay->stations, err);

	if (status)
		return status;
	params.memory = overlay->stations;
	return fdb_open(&params, &overlay->fdb, err);
}

static int rx_open(struct overlay *overlay, const int *sockets, int fd, const char *port,
		   struct error *err)
{
	struct overlay_memory *memory =
	    mmap(NULL, overlay_memory_bytes(overlay->config.queues), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_POPULATE, fd, 0);

	if (memory == MAP_FAILED)
		return error_set(err, errno, "%s: receive memory: %s", port, strerror(errno));
	for (uint32_t q = 0; q < overlay->config.queues; q++)
		overlay_rx_init(&overlay->rx[q], overlay, sockets[q], &memory[q]);
	return 0;
}

static int tx_open(struct overlay *overlay, const int *sockets, const char *port, struct error *err)
{
	const struct overlay_config *config = &overlay->config;

	overlay->tx = calloc(OVERLAY_TX_QUEUES, sizeof(*overlay->tx));
	if (!overlay->tx)
		return error_set(err, ENOMEM, "%s: no memory", port);
	for (unsigned q = 0; q < OVERLAY_TX_QUEUES; q++)
		overlay->tx[q].overlay = overlay;
	overlay->source_count = config->sources ? config->sources : 1;
	for (unsigned i = 0; i < overlay->source_count; i++)
		overlay->sources[i] = sockets[config->sources ? config->queues + i : 0];
	for (unsigned i = 0; i < config->peer_count; i++)
		overlay->peer_bytes =
		    overlay_sockaddr(&config->peers[i], config->ipv6, &overlay->peers[i]);
	return 0;
}

int overlay_attach(const struct overlay_kind *kind, struct port *port,
		   const struct port_options *options, const struct port_fds *fds,
		   struct error *err)
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	const struct overlay_config *config;
	unsigned sockets;
	int status;

	if (!overlay)
		return error_set(err, ENOMEM, "%s: no memory", options->port);
	port->priv = overlay;
	overlay->kind = kind;
	overlay->addresses = -1;
	config = &overlay->config;
	status = overlay_config_parse(kind, options, &overlay->config, err);
	if (status)
		goto failed;
	sockets = config->queues + config->sources;
	if (fds->count != sockets + 2 + config->ipv6) {
		status = error_set(err, EPROTO, "%s: %u fds for %u sockets", options->port,
				   fds->count, sockets);
		goto failed;
	}
	overlay->path_mtu = port_state_u32(fds, "mtu", 0);
	if (config->ipv6)
		overlay->addresses = fds->fd[sockets + 2];
	status = stations_open(overlay, fds->fd[sockets + 1], err);
	if (!status)
		status = rx_open(overlay, fds->fd, fds->fd[sockets], options->port, err);
	if (!status)
		status = tx_open(overlay, fds->fd, options->port, err);
	if (status)
		goto failed;
	port->pool = 0;
	port->rx_queue_count = (uint16_t)config->queues;
	port->tx_queue_count = OVERLAY_TX_QUEUES;
	for (uint16_t q = 0; q < port->rx_queue_count; q++)
		port->rxq[q] = (struct port_queue){.port = port, .priv = &overlay->rx[q], .id = q};
	for (uint16_t q = 0; q < port->tx_queue_count; q++)
		port->txq[q] = (struct port_queue){.port = port, .priv = &overlay->tx[q], .id = q};
	atomic_store_explicit(&port->caps, PORT_CAP_FRAGS, memory_order_relaxed);
	/* What is larger than the underlay's MTU is fragmented; only what UDP cannot hold is not.
	 */
	atomic_store_explicit(&port->mtu,
			      OVERLAY_DATAGRAM_MAX - OVERLAY_HEADER_LEN - ETHERNET_BYTES,
			      memory_order_relaxed);
	mtu_set(overlay, underlay_look(overlay).mtu);
	return 0;
failed:
	overlay_detach(port);
	return status;
}
