/*
 * netmap: a port that the netmap module serves: rings of an interface, of its host stack, of a
 * pipe, of a VALE port, or a monitor of them, as its portspec says (portspec.h). How it works is in
 * netmap.h; here is what the forwarder's control thread does.
 *
 * All ports of a region share one mapping of it, so that a slot of one is the same address for
 * another and two slots can exchange their buffers.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "netmap.h"
#include "netmap_host.h"

struct netmap_region {
	struct netmap_region *next;
	uint8_t *base;
	uint64_t bytes;
	uint16_t id;
	unsigned ports;
};

static struct netmap_region *regions; /* control thread only */

/* --- the region ------------------------------------------------------------------------------ */

static struct netmap_region *region_get(uint16_t id, uint64_t bytes, int fd, bool file)
{
	struct netmap_region *region;

	for (region = regions; region; region = region->next) {
		if (id && region->id == id && region->bytes == bytes) {
			region->ports++;
			return region;
		}
	}
	region = calloc(1, sizeof(*region));
	if (!region)
		return NULL;
	region->base = file ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
			    : netmap_device->map(fd, bytes);
	if (!region->base || region->base == MAP_FAILED) {
		free(region);
		return NULL;
	}
	region->id = id;
	region->bytes = bytes;
	region->ports = 1;
	region->next = regions;
	regions = region;
	return region;
}

static void region_put(struct netmap_region *region)
{
	struct netmap_region **link = &regions;

	if (!region || --region->ports)
		return;
	while (*link != region)
		link = &(*link)->next;
	*link = region->next;
	munmap(region->base, region->bytes);
	free(region);
}

static bool inside(uint64_t at, uint64_t bytes, uint64_t whole)
{
	return at <= whole && bytes <= whole - at;
}

/* Checks a ring once and for all; `at`: where the kernel says it is in the region. */
static bool view_open(const struct netmap_region *region, uint64_t at, uint32_t vnet_bytes,
		      struct netmap_view *view)
{
	struct netmap_ring *ring;
	uint64_t buffers;
	int64_t buf_ofs;

	if (!inside(at, sizeof(*ring), region->bytes) || at % _Alignof(struct netmap_ring))
		return false;
	ring = (struct netmap_ring *)(region->base + at);
	*view = (struct netmap_view){.ring = ring,
				     .slots = load_shared(&ring->num_slots),
				     .buffer_bytes = load_shared(&ring->nr_buf_size),
				     .offset_mask = load_shared(&ring->offset_mask),
				     .vnet_bytes = vnet_bytes};
	buf_ofs = load_shared(&ring->buf_ofs);
	if (view->slots < 2 || view->slots > NETMAP_SLOTS_MAX ||
	    !inside(at + sizeof(*ring), view->slots * sizeof(struct netmap_slot), region->bytes))
		return false;
	if (view->buffer_bytes < FRAME_HEADROOM || view->buffer_bytes > UINT16_MAX)
		return false;
	if (buf_ofs < -(int64_t)at ||
	    !inside(at + (uint64_t)buf_ofs, view->buffer_bytes, region->bytes))
		return false;
	buffers = at + (uint64_t)buf_ofs;
	view->buffers = region->base + buffers;
	view->buffer_count = (uint32_t)((region->bytes - buffers) / view->buffer_bytes);
	return true;
}

/* --- attach ---------------------------------------------------------------------------------- */

/* What attach works with: the state that acquire left. */
struct attaching {
	struct port *port;
	struct netmap_port *netmap;
	const struct port_fds *fds;
	struct error *err;
	uint32_t vnet_bytes;
	uint32_t mtu; /* of the interface; 0: there is none */
};

/* How many rings of a kind this port's rings come from: those of the adapter. */
struct adapter {
	uint32_t tx, rx, host_tx, host_rx;
};

static int bad_state(const struct attaching *attaching, const char *what)
{
	return error_set(attaching->err, EPROTO, "%s: %s", attaching->port->name, what);
}

static int rx_add(struct attaching *attaching, int fd, uint64_t at)
{
	struct netmap_port *netmap = attaching->netmap;
	struct netmap_rx *rx = &netmap->rx[netmap->rx_count];
	struct port_queue *queue = &attaching->port->rxq[netmap->rx_count];

	if (!view_open(netmap->region, at, attaching->vnet_bytes, &rx->view))
		return bad_state(attaching, "netmap's receive ring is not one");
	rx->parts = calloc(rx->view.slots, sizeof(*rx->parts));
	if (!rx->parts)
		return error_set(attaching->err, ENOMEM, "%s: no memory", attaching->port->name);
	rx->fd = fd;
	rx->pool = attaching->port->pool;
	rx->host = netmap->host;
	netmap_rx_resume(rx);
	*queue = (struct port_queue){
	    .port = attaching->port, .priv = rx, .id = (uint16_t)netmap->rx_count++};
	return 0;
}

/* Where a frame of the MTU needs several slots, the module would not have opened the interface. */
static bool takes_chains(const struct attaching *attaching, const struct netmap_tx *tx, bool host)
{
	if (attaching->netmap->interface < 0)
		return true;
	return !host && attaching->mtu + FRAME_LEN_MIN + 4 > tx->view.buffer_bytes;
}

static int tx_add(struct attaching *attaching, int fd, uint64_t at, bool host)
{
	struct netmap_port *netmap = attaching->netmap;
	struct netmap_tx *tx = &netmap->tx[netmap->tx_count];
	struct port_queue *queue = &attaching->port->txq[netmap->tx_count];

	if (!view_open(netmap->region, at, attaching->vnet_bytes, &tx->view))
		return bad_state(attaching, "netmap's transmit ring is not one");
	tx->fd = fd;
	tx->pool = attaching->port->pool;
	tx->chains = takes_chains(attaching, tx, host);
	tx->region = netmap->region->base;
	tx->exchange = &netmap->journal[netmap->tx_count];
	tx->host = netmap->host;
	tx->wait_ns =
	    port_state_u32(attaching->fds, "pipe", 0) ? NETMAP_PIPE_WAIT_NS : NETMAP_TX_WAIT_NS;
	tx->stalled_at = tx->view.slots;
	netmap_tx_resume(tx, netmap->region->bytes);
	netmap_device->sync(fd,
			    true); /* for what was handed over and not told; an error comes again */
	*queue = (struct port_queue){
	    .port = attaching->port, .priv = tx, .id = (uint16_t)netmap->tx_count++};
	return 0;
}

/* Where ring_ofs[index] of the netmap_if says; 0: not bound. */
static uint64_t ring_at(const struct netmap_region *region, uint64_t nifp, uint32_t index)
{
	uint64_t entry = nifp + sizeof(struct netmap_if) + (uint64_t)index * sizeof(int64_t);
	int64_t offset;

	if (!inside(entry, sizeof(int64_t), region->bytes))
		return 0;
	offset = load_shared((const int64_t *)(region->base + entry));
	return offset ? nifp + (uint64_t)offset : 0;
}

/* The ring pair of one fd: number `ring` of the NIC's or of the host's. */
static int pair_add(struct attaching *attaching, unsigned number, const struct adapter *adapter,
		    bool host, uint32_t ring)
{
	struct netmap_port *netmap = attaching->netmap;
	const struct netmap_region *region = netmap->region;
	uint32_t host_tx, tx = ring, rx = ring;
	const struct netmap_if *nifp;
	uint64_t at, where;
	char key[8];
	int status = 0;

	snprintf(key, sizeof(key), "o%u", number);
	at = port_state_u32(attaching->fds, key, 0);
	if (!inside(at, sizeof(*nifp), region->bytes) || at % _Alignof(uint64_t))
		return bad_state(attaching, "netmap's interface is outside its region");
	nifp = (const struct netmap_if *)(region->base + at);
	/* VALE ports have entries for host rings and say in the reply that they have none */
	host_tx = load_shared(&nifp->ni_host_tx_rings);
	if (host_tx > PORT_QUEUES_MAX * 16 || adapter->tx > 4096 || adapter->rx > 4096)
		return bad_state(attaching, "netmap names too many rings");
	if (host) {
		tx += adapter->tx;
		rx += adapter->rx;
	}
	rx += adapter->tx + host_tx;
	where = ring_at(region, at, rx);
	if (ring < (host ? adapter->host_rx : adapter->rx) && where)
		status = rx_add(attaching, attaching->fds->fd[number], where);
	where = ring_at(region, at, tx);
	if (!status && ring < (host ? adapter->host_tx : adapter->tx) && where &&
	    !(netmap->flags & NETMAP_MONITOR))
		status = tx_add(attaching, attaching->fds->fd[number], where, host);
	return status;
}

static int rings_add(struct attaching *attaching)
{
	const struct port_fds *fds = attaching->fds;
	struct netmap_port *netmap = attaching->netmap;
	const struct adapter adapter = {.tx = port_state_u32(fds, "tx", 0),
					.rx = port_state_u32(fds, "rx", 0),
					.host_tx = port_state_u32(fds, "htx", 0),
					.host_rx = port_state_u32(fds, "hrx", 0)};
	uint32_t first = port_state_u32(fds, "first", 0);
	int status = 0;

	for (unsigned i = 0; !status && i < netmap->nic; i++)
		status = pair_add(attaching, i, &adapter, false, first + i);
	netmap->nic_rx = netmap->rx_count;
	netmap->nic_tx = netmap->tx_count;
	for (unsigned i = 0; !status && i < netmap->host_rings; i++)
		status = pair_add(attaching, netmap->nic + i, &adapter, true, first + i);
	if (!status && !netmap->rx_count && !netmap->tx_count)
		status = bad_state(attaching, "netmap bound no ring");
	return status;
}

static int journal_map(struct attaching *attaching, int fd)
{
	size_t bytes = PORT_QUEUES_MAX * sizeof(struct netmap_exchange);
	struct stat st;
	void *journal;

	if (fstat(fd, &st) < 0 || (size_t)st.st_size < bytes)
		return bad_state(attaching, "the journal is too short");
	journal = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (journal == MAP_FAILED)
		return error_set(attaching->err, errno, "%s: mapping the journal: %s",
				 attaching->port->name, strerror(errno));
	attaching->netmap->journal = journal;
	return 0;
}

static void netmap_detach(struct port *port)
{
	struct netmap_port *netmap = port->priv;

	for (unsigned i = 0; i < netmap->rx_count; i++)
		free(netmap->rx[i].parts);
	netmap_host_free(netmap->host);
	if (netmap->journal)
		munmap(netmap->journal, PORT_QUEUES_MAX * sizeof(struct netmap_exchange));
	region_put(netmap->region);
	free(netmap);
	port->priv = NULL;
}

static uint32_t caps_of(const struct attaching *attaching)
{
	uint32_t caps = PORT_CAP_FRAGS;

	if (attaching->vnet_bytes)
		caps |= PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6;
	return caps;
}

/* Maps everything and adds the rings; the caller detaches on failure. */
static int attach_parts(struct attaching *attaching)
{
	const struct port_fds *fds = attaching->fds;
	struct netmap_port *netmap = attaching->netmap;
	unsigned rings = netmap->nic + netmap->host_rings, at = rings;
	bool interface = netmap->ifindex != 0, file = port_state_u32(fds, "ext", 0);
	uint64_t bytes = (uint64_t)port_state_u32(fds, "kb", 0) << 10;
	struct port_status status = {0};
	int rc;

	if (!rings || rings > PORT_QUEUES_MAX || fds->count != rings + interface + file + 1)
		return error_set(attaching->err, EPROTO, "%s: %u fds for %u ring pairs",
				 attaching->port->name, fds->count, rings);
	if (interface)
		netmap->interface = fds->fd[at++];
	netmap->region = region_get(netmap->mem_id, bytes, fds->fd[file ? at : 0], file);
	if (!netmap->region)
		return error_set(attaching->err, ENOMEM,
				 "%s: netmap's region of %llu MB cannot be mapped",
				 attaching->port->name, (unsigned long long)bytes >> 20);
	rc = journal_map(attaching, fds->fd[fds->count - 1]);
	if (rc)
		return rc;
	if (interface &&
	    netmap_device->interface_status(netmap->interface, netmap->ifindex, &status))
		attaching->mtu = status.mtu;
	atomic_store_explicit(&attaching->port->mtu, attaching->mtu, memory_order_relaxed);
	if (netmap->nic && netmap->host_rings) {
		netmap->host = netmap_host_new(netmap, status.mac);
		if (!netmap->host)
			return error_set(attaching->err, ENOMEM, "%s: no memory",
					 attaching->port->name);
	}
	return rings_add(attaching);
}

static int netmap_attach(struct port *port, const struct port_options *options,
			 const struct port_fds *fds, struct error *err)
{
	struct attaching attaching = {.port = port, .fds = fds, .err = err};
	struct netmap_port *netmap = calloc(1, sizeof(*netmap));
	int status;

	(void)options;
	if (!netmap)
		return error_set(err, ENOMEM, "%s: no memory", port->name);
	port->priv = attaching.netmap = netmap;
	netmap->interface = -1;
	netmap->nic = port_state_u32(fds, "nic", 0);
	netmap->host_rings = port_state_u32(fds, "host", 0);
	netmap->flags = port_state_u32(fds, "flags", 0);
	netmap->mem_id = (uint16_t)port_state_u32(fds, "mem", 0);
	netmap->ifindex = port_state_u32(fds, "ifindex", 0);
	attaching.vnet_bytes = port_state_u32(fds, "hdr", 0);
	port->pool = netmap->mem_id && netmap->mem_id < NETMAP_POOL
			 ? (uint16_t)(NETMAP_POOL + netmap->mem_id)
			 : 0;
	if (attaching.vnet_bytes && attaching.vnet_bytes != sizeof(struct frame_offload) &&
	    attaching.vnet_bytes != NETMAP_VNET_BYTES_MAX)
		status = bad_state(&attaching, "netmap's header is not virtio-net's");
	else
		status = attach_parts(&attaching);
	if (status) {
		netmap_detach(port);
		return status;
	}
	port->rx_queue_count = (uint16_t)netmap->rx_count;
	/* the host's rings beside the NIC's are served from the inside */
	port->tx_queue_count = (uint16_t)(netmap->host ? netmap->nic_tx : netmap->tx_count);
	if (!port->tx_queue_count) {
		port->txq[0] = (struct port_queue){.port = port};
		port->tx_queue_count = 1;
	}
	atomic_store_explicit(&port->caps, caps_of(&attaching), memory_order_relaxed);
	return 0;
}

/* --- status ---------------------------------------------------------------------------------- */

static void netmap_poll_status(struct port *port, struct port_status *status)
{
	struct netmap_port *netmap = port->priv;
	const struct netmap_view *view =
	    netmap->rx_count ? &netmap->rx[0].view : &netmap->tx[0].view;
	int used;

	status->caps = atomic_load_explicit(&port->caps, memory_order_relaxed);
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = netmap->tx_count ? port->tx_queue_count : 0;
	status->ifindex = netmap->ifindex;
	status->mem_region = netmap->mem_id;
	status->link_up = netmap->interface < 0;
	if (netmap->interface >= 0) {
		status->lost =
		    !netmap_device->interface_status(netmap->interface, netmap->ifindex, status);
		atomic_store_explicit(&port->mtu, status->mtu, memory_order_relaxed);
	}
	if (netmap->host && !status->lost)
		netmap_host_set_mac(netmap->host, status->mac);
	if (status->lost) {
		snprintf(status->detail, sizeof(status->detail), "the interface is gone");
		return;
	}
	used =
	    snprintf(status->detail, sizeof(status->detail), "%s, region %u, %u slots of %u bytes",
		     netmap->flags & NETMAP_MONITOR ? "monitor" : "netmap", netmap->mem_id,
		     view->slots, view->buffer_bytes);
	if (netmap->nic)
		used += snprintf(status->detail + used, sizeof(status->detail) - (size_t)used,
				 ", %u ring pair%s", netmap->nic, netmap->nic == 1 ? "" : "s");
	if (netmap->host_rings)
		used += snprintf(status->detail + used, sizeof(status->detail) - (size_t)used,
				 ", %u host's", netmap->host_rings);
	if (netmap->host && netmap_host_lost(netmap->host))
		snprintf(status->detail + used, sizeof(status->detail) - (size_t)used,
			 ", %llu copies lost", (unsigned long long)netmap_host_lost(netmap->host));
}

static int netmap_rx_fd(const struct port_queue *queue)
{
	const struct netmap_rx *rx = queue->priv;

	return rx->fd;
}

extern const struct port_ops port_netmap_ops;

static const char *const netmap_options[] = {"portspec", "directory", NULL};

const struct port_ops port_netmap_ops = {
    .type = "netmap",
    .options = netmap_options,
    .acquire = netmap_acquire,
    .attach = netmap_attach,
    .detach = netmap_detach,
    .poll_status = netmap_poll_status,
    .rx = netmap_rx,
    .rx_commit = netmap_rx_commit,
    .rx_done = netmap_rx_done,
    .tx_commits = true,
    .tx = netmap_tx,
    .rx_fd = netmap_rx_fd,
};
