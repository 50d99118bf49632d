/*
 * The af_xdp port type: a network interface of this machine, through AF_XDP sockets.
 *
 * acquire (keeper, with BPF and IPC_LOCK besides NET_ADMIN and NET_RAW; af_xdp_open.c) makes
 * memory, sockets and program; attach (forwarder, no capability) maps them and goes on where the
 * rings and the journal say. Layout and recovery: af_xdp.h.
 *
 * Runs on: the forwarder's control thread.
 */
#include <errno.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "af_xdp.h"

static const uint64_t MEMORY_MAGIC = UINT64_C(0x315f7064785f6661);

static const char *const option_names[] = {"ifname", "queues", NULL};

/* --- attach -------------------------------------------------------------------------------- */

static int state_read(const struct port_fds *fds, struct xdp_port *xdp, struct error *err)
{
	uint32_t queues = port_state_u32(fds, "queues", 0);
	uint32_t tx_queues = port_state_u32(fds, "tx_queues", 0);

	xdp->ifindex = port_state_u32(fds, "ifindex", 0);
	xdp->native = port_state_u32(fds, "native", 0);
	xdp->tags = port_state_u32(fds, "tags", 0);
	xdp->multi = port_state_u32(fds, "multi", 0);
	if (!xdp->ifindex || !queues || queues > PORT_QUEUES_MAX || !tx_queues ||
	    tx_queues > queues || fds->count != XDP_FD_SOCKETS + queues + tx_queues)
		return error_set(err, EPROTO, "af_xdp: unusable state '%s' with %u fds", fds->state,
				 fds->count);
	xdp->queues = queues;
	xdp->tx_queues = tx_queues;
	xdp->packet_fd = fds->fd[XDP_FD_PACKET];
	return 0;
}

static int memory_map(struct xdp_port *xdp, int fd, struct error *err)
{
	struct xdp_memory *memory;

	xdp->memory_bytes = xdp_chunks_at(xdp->queues) + xdp_chunks_bytes(xdp->queues);
	memory =
	    mmap(NULL, xdp->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (memory == MAP_FAILED)
		return error_set(err, errno, "af_xdp: memory: %s", strerror(errno));
	xdp->memory = (uint8_t *)memory;
	if (!memory->magic) {
		memory->queues = xdp->queues;
		memory->chunk_bytes = XDP_CHUNK_BYTES;
		memory->magic = MEMORY_MAGIC;
	}
	if (memory->magic == MEMORY_MAGIC && memory->queues == xdp->queues &&
	    memory->chunk_bytes == XDP_CHUNK_BYTES)
		return 0;
	return error_set(err, EPROTO, "af_xdp: the memory is of another kind of port");
}

static struct xdp_journal *journal_of(const struct xdp_port *xdp, uint32_t queue)
{
	return (struct xdp_journal *)(xdp->memory + XDP_PAGE + queue * (size_t)XDP_JOURNAL_BYTES);
}

static int rx_attach(struct xdp_port *xdp, uint32_t queue, int fd, struct error *err)
{
	struct xdp_rx *rx = &xdp->rx[queue];
	int rc;

	rx->fd = fd;
	rx->journal = journal_of(xdp, queue);
	rx->first = (uint64_t)queue * XDP_QUEUE_CHUNKS * XDP_CHUNK_BYTES;
	rx->chunks = xdp->memory + xdp_chunks_at(xdp->queues) + rx->first;
	rx->tx = queue < xdp->tx_queues ? &xdp->tx[queue] : NULL;
	rc = xdp_ring_map(fd, XDP_PGOFF_RX_RING, XDP_RX_CHUNKS, sizeof(struct xdp_desc), &rx->ring,
			  err);
	if (!rc)
		rc = xdp_ring_map(fd, XDP_UMEM_PGOFF_FILL_RING, XDP_RX_CHUNKS, sizeof(uint64_t),
				  &rx->fill, err);
	if (!rc && !xdp_rx_recover(rx))
		rc = error_set(err, EPROTO, "af_xdp: the rings of queue %u make no sense", queue);
	return rc;
}

/* The completion ring is that of the receive socket, with which this one shares its memory. */
static int tx_attach(struct xdp_port *xdp, uint32_t queue, int receiver, int fd, struct error *err)
{
	struct xdp_tx *tx = &xdp->tx[queue];
	size_t before =
	    ((size_t)queue * XDP_QUEUE_CHUNKS + XDP_RX_CHUNKS) * (size_t)XDP_CHUNK_BYTES;
	int rc;

	tx->fd = fd;
	tx->packet_fd = xdp->packet_fd;
	tx->ifindex = xdp->ifindex;
	tx->multi = xdp->multi;
	tx->first = before;
	tx->chunks = xdp->memory + xdp_chunks_at(xdp->queues) + before;
	tx->owner = (_Atomic uint64_t *)((uint8_t *)journal_of(xdp, queue) + XDP_PAGE);
	atomic_flag_clear(&tx->taken);
	rc = xdp_ring_map(fd, XDP_PGOFF_TX_RING, XDP_TX_CHUNKS, sizeof(struct xdp_desc), &tx->ring,
			  err);
	if (!rc)
		rc = xdp_ring_map(receiver, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_TX_CHUNKS,
				  sizeof(uint64_t), &tx->completion, err);
	if (!rc && !xdp_tx_recover(tx))
		rc = error_set(err, EPROTO, "af_xdp: the send ring of queue %u makes no sense",
			       queue);
	return rc;
}

static int queues_attach(struct xdp_port *xdp, const struct port_fds *fds, struct error *err)
{
	const int *receivers = fds->fd + XDP_FD_SOCKETS, *senders = receivers + xdp->queues;
	int rc;

	xdp->rx = calloc(xdp->queues, sizeof(*xdp->rx));
	xdp->tx = calloc(xdp->tx_queues, sizeof(*xdp->tx));
	if (!xdp->rx || !xdp->tx)
		return error_set(err, ENOMEM, "af_xdp: no memory");
	rc = memory_map(xdp, fds->fd[XDP_FD_MEMORY], err);
	for (uint32_t i = 0; i < xdp->tx_queues && !rc; i++)
		rc = tx_attach(xdp, i, receivers[i], senders[i], err);
	for (uint32_t i = 0; i < xdp->queues && !rc; i++)
		rc = rx_attach(xdp, i, receivers[i], err);
	return rc;
}

static void xdp_free(struct xdp_port *xdp)
{
	for (uint32_t i = 0; xdp->rx && i < xdp->queues; i++) {
		xdp_ring_unmap(&xdp->rx[i].ring);
		xdp_ring_unmap(&xdp->rx[i].fill);
	}
	for (uint32_t i = 0; xdp->tx && i < xdp->tx_queues; i++) {
		xdp_ring_unmap(&xdp->tx[i].ring);
		xdp_ring_unmap(&xdp->tx[i].completion);
	}
	if (xdp->memory)
		munmap(xdp->memory, xdp->memory_bytes);
	free(xdp->rx);
	free(xdp->tx);
	free(xdp);
}

static int af_xdp_attach(struct port *port, const struct port_options *options,
			 const struct port_fds *fds, struct error *err)
{
	struct xdp_port *xdp = calloc(1, sizeof(*xdp));
	int rc;

	(void)options;
	if (!xdp)
		return error_set(err, ENOMEM, "af_xdp: no memory");
	rc = state_read(fds, xdp, err);
	if (!rc)
		rc = queues_attach(xdp, fds, err);
	if (rc) {
		xdp_free(xdp);
		return rc;
	}
	for (uint16_t i = 0; i < xdp->queues; i++)
		port->rxq[i] = (struct port_queue){.port = port, .priv = &xdp->rx[i], .id = i};
	for (uint16_t i = 0; i < xdp->tx_queues; i++)
		port->txq[i] = (struct port_queue){.port = port, .priv = &xdp->tx[i], .id = i};
	port->priv = xdp;
	port->pool = 0;
	port->rx_queue_count = (uint16_t)xdp->queues;
	port->tx_queue_count = (uint16_t)xdp->tx_queues;
	/* Chains are copied as they are; there is no word for unfinished work. */
	atomic_store_explicit(&port->caps, PORT_CAP_FRAGS, memory_order_relaxed);
	return 0;
}

static void af_xdp_detach(struct port *port)
{
	xdp_free(port->priv);
	port->priv = NULL;
}

/* --- status -------------------------------------------------------------------------------- */

bool xdp_link_up(int packet_fd, uint32_t ifindex, struct ifreq *request)
{
	*request = (struct ifreq){.ifr_ifindex = (int)ifindex};
	return !ioctl(packet_fd, SIOCGIFNAME, request) &&
	       !ioctl(packet_fd, SIOCGIFFLAGS, request) && (request->ifr_flags & IFF_UP) &&
	       (request->ifr_flags & IFF_RUNNING);
}

/* The socket forgets its interface when that is removed, even if another takes its number. */
static bool interface_gone(int fd)
{
	struct sockaddr_ll address;
	socklen_t length = sizeof(address);

	return getsockname(fd, (struct sockaddr *)&address, &length) || address.sll_ifindex <= 0;
}

static void af_xdp_poll_status(struct port *port, struct port_status *status)
{
	struct xdp_port *xdp = port->priv;
	struct ifreq request;

	*status = (struct port_status){
	    .ifindex = xdp->ifindex,
	    .caps = atomic_load_explicit(&port->caps, memory_order_relaxed),
	    .rx_queues = port->rx_queue_count,
	    .tx_queues = port->tx_queue_count,
	    .tags_unseen = !xdp->tags,
	};
	for (uint32_t i = 0; i < xdp->queues; i++)
		status->kernel_drops += xdp_rx_kernel_drops(&xdp->rx[i]);
	snprintf(status->detail, sizeof(status->detail),
		 "AF_XDP, %s, copy, %u chunks of %u KB a queue%s, vlan_tags: %s",
		 xdp->native ? "in the driver" : "generic", XDP_QUEUE_CHUNKS, XDP_CHUNK_BYTES >> 10,
		 xdp->multi ? ", packets of several" : "", xdp->tags ? "in line" : "unseen");
	if (interface_gone(xdp->packet_fd)) {
		status->lost = true;
		return;
	}
	status->link_up = xdp_link_up(xdp->packet_fd, xdp->ifindex, &request);
	if (!ioctl(xdp->packet_fd, SIOCGIFMTU, &request))
		status->mtu = (uint32_t)request.ifr_mtu;
	if (!ioctl(xdp->packet_fd, SIOCGIFHWADDR, &request))
		memcpy(status->mac, request.ifr_hwaddr.sa_data, sizeof(status->mac));
	atomic_store_explicit(&port->mtu, status->mtu, memory_order_relaxed);
}

const struct port_ops port_af_xdp_ops = {
    .type = "af_xdp",
    .options = option_names,
    .acquire = xdp_acquire,
    .release = xdp_release,
    .attach = af_xdp_attach,
    .detach = af_xdp_detach,
    .poll_status = af_xdp_poll_status,
    .rx = xdp_rx,
    .rx_commit = xdp_rx_commit,
    .rx_done = xdp_rx_done,
    .tx = xdp_tx,
    .tx_commits = true,
    .rx_fd = xdp_rx_fd,
};
