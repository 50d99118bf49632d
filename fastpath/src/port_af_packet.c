/*
 * The af_packet port type: a network interface of this machine, through PACKET_MMAP.
 *
 * acquire (keeper, NET_ADMIN and NET_RAW; af_packet_open.c) makes rings, sockets and a journal;
 * attach (forwarder, no capability) maps them and goes on where the journal says. Layout and
 * recovery: af_packet.h.
 *
 * Runs on: the forwarder's control thread.
 */
#include "af_packet.h"

#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static const uint64_t JOURNAL_MAGIC = UINT64_C(0x325f6b6361705f66);

/* --- attach -------------------------------------------------------------------------------- */

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static struct af_geometry geometry_read(const struct port_fds *fds, const char *ring)
{
	char key[3][32];

	snprintf(key[0], sizeof(key[0]), "%s_block_bytes", ring);
	snprintf(key[1], sizeof(key[1]), "%s_blocks", ring);
	snprintf(key[2], sizeof(key[2]), "%s_frame_bytes", ring);
	return (struct af_geometry){
	    .block_bytes = port_state_u32(fds, key[0], 0),
	    .blocks = port_state_u32(fds, key[1], 0),
	    .frame_bytes = port_state_u32(fds, key[2], 0),
	};
}

/* Its addresses stay within the mapping: what cannot be is refused before it indexes memory. */
static bool geometry_sane(const struct af_geometry *geometry)
{
	return geometry->block_bytes && geometry->frame_bytes >= AF_V3_HEADER &&
	       geometry->frame_bytes <= geometry->block_bytes &&
	       af_geometry_bytes(geometry) <= AF_RING_BYTES_MAX &&
	       (uint64_t)(geometry->block_bytes / geometry->frame_bytes) * geometry->blocks <=
		   AF_SLOTS_MAX;
}

static int state_read(const struct port_fds *fds, struct af_port *af, struct error *err)
{
	af->ifindex = port_state_u32(fds, "ifindex", 0);
	af->version = port_state_u32(fds, "version", 0);
	af->queues = port_state_u32(fds, "queues", 0);
	af->rx_geometry = geometry_read(fds, "rx");
	af->tx_geometry = geometry_read(fds, "tx");
	af->rings =
	    (af->rx_geometry.blocks ? AF_RING_RX : 0u) | (af->tx_geometry.blocks ? AF_RING_TX : 0u);
	if (af->version < 1 || af->version > 3 || !af->ifindex || !af->queues ||
	    af->queues > PORT_QUEUES_MAX || fds->count != 1 + 2 * af->queues || !af->rings ||
	    ((af->rings & AF_RING_RX) && !geometry_sane(&af->rx_geometry)) ||
	    ((af->rings & AF_RING_TX) && !geometry_sane(&af->tx_geometry))) {
		af->queues = 0;
		return error_set(err, EPROTO, "af_packet: unusable state '%s' with %u fds",
				 fds->state, fds->count);
	}
	return 0;
}

static int journal_map(struct af_port *af, int fd, struct error *err)
{
	struct af_journal *journal;

	af->journal_bytes = af_journal_bytes(af->queues);
	journal =
	    mmap(NULL, af->journal_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (journal == MAP_FAILED)
		return error_set(err, errno, "af_packet: journal: %s", strerror(errno));
	af->journal = (uint8_t *)journal;
	if (!journal->magic) {
		journal->version = af->version;
		journal->queues = af->queues;
		journal->magic = JOURNAL_MAGIC;
	}
	if (journal->magic == JOURNAL_MAGIC && journal->version == af->version &&
	    journal->queues == af->queues)
		return 0;
	return error_set(err, EPROTO, "af_packet: the journal is of another kind of port");
}

/* Slots of a geometry that is not all powers of two are found through a table. */
static int slots_lay(struct af_slots *slots, uint8_t *base, const struct af_geometry *geometry,
		     struct error *err)
{
	uint32_t in_block = geometry->block_bytes / geometry->frame_bytes;

	slots->base = base;
	slots->count = af_geometry_slots(geometry);
	slots->slot_bytes = geometry->frame_bytes;
	if (power_of_two(slots->count) && power_of_two(geometry->frame_bytes) &&
	    geometry->block_bytes % geometry->frame_bytes == 0) {
		slots->mask = slots->count - 1;
		slots->shift = (uint32_t)__builtin_ctz(geometry->frame_bytes);
		return 0;
	}
	slots->offsets = calloc(slots->count, sizeof(*slots->offsets));
	if (!slots->offsets)
		return error_set(err, ENOMEM, "af_packet: no memory");
	for (uint32_t i = 0; i < slots->count; i++)
		slots->offsets[i] =
		    i / in_block * geometry->block_bytes + i % in_block * geometry->frame_bytes;
	return 0;
}

static struct af_journal_queue *journal_of(const struct af_port *af, uint32_t queue)
{
	return (struct af_journal_queue *)(af->journal + (1 + queue) * (size_t)AF_JOURNAL_PAGE);
}

static int rx_attach(struct af_port *af, uint32_t queue, int fd, bool check_outgoing,
		     struct error *err)
{
	struct af_rx *rx = &af->rx[queue];
	int rc = 0;

	rx->fd = fd;
	rx->version = (uint8_t)af->version;
	rx->check_outgoing = check_outgoing;
	rx->journal = journal_of(af, queue);
	rx->copy = af->journal + (1 + af->queues) * (size_t)AF_JOURNAL_PAGE +
		   queue * (size_t)(AF_COPY_FRAMES * AF_COPY_BYTES);
	for (unsigned i = 0; i < AF_COPY_FRAMES; i++)
		rx->copy_iov[i] = (struct iovec){
		    .iov_base = rx->copy + i * (size_t)AF_COPY_BYTES + FRAME_HEADROOM,
		    .iov_len = AF_COPY_BYTES - FRAME_HEADROOM,
		};
	rx->ring = af->maps[queue];
	rx->blocks = af->rx_geometry.blocks;
	rx->block_bytes = af->rx_geometry.block_bytes;
	if (af->version < 3)
		rc = slots_lay(&rx->slots, af->maps[queue], &af->rx_geometry, err);
	if (rc)
		return rc;
	if (!af_rx_recover(rx))
		return error_set(err, EPROTO, "af_packet: the journal of queue %u makes no sense",
				 queue);
	return 0;
}

static int tx_attach(struct af_port *af, uint32_t queue, int ring_fd, int fd, struct error *err)
{
	static const uint32_t header[] = {0, AF_V1_ADDRESS, AF_V2_ADDRESS, AF_V3_ADDRESS};
	size_t rx_bytes = (af->rings & AF_RING_RX) ? af_geometry_bytes(&af->rx_geometry) : 0;
	struct af_tx *tx = &af->tx[queue];
	int rc;

	tx->fd = fd;
	if (!(af->rings & AF_RING_TX))
		return 0;
	tx->ring_fd = ring_fd;
	tx->version = (uint8_t)af->version;
	tx->journal = journal_of(af, queue);
	tx->room = af->tx_geometry.frame_bytes - header[af->version] - AF_VNET_BYTES;
	if (tx->room > UINT16_MAX)
		tx->room = UINT16_MAX; /* what hdr_len can say */
	rc = slots_lay(&tx->slots, af->maps[queue] + rx_bytes, &af->tx_geometry, err);
	if (rc)
		return rc;
	if (!af_tx_ring_recover(tx))
		return error_set(err, EPROTO, "af_packet: the journal of queue %u makes no sense",
				 queue);
	return 0;
}

/* The rings of a socket are one mapping, the receive ring first. */
static int ring_map(struct af_port *af, uint32_t queue, int fd, struct error *err)
{
	void *map = mmap(NULL, af->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return error_set(err, errno, "af_packet: ring: %s", strerror(errno));
	af->maps[queue] = map;
	return 0;
}

static void af_free(struct af_port *af)
{
	for (uint32_t i = 0; af->maps && i < af->queues; i++) {
		if (af->maps[i])
			munmap(af->maps[i], af->ring_bytes);
	}
	for (uint32_t i = 0; af->rx && af->tx && i < af->queues; i++) {
		free(af->rx[i].slots.offsets);
		free(af->tx[i].slots.offsets);
	}
	if (af->journal)
		munmap(af->journal, af->journal_bytes);
	free(af->maps);
	free(af->rx);
	free(af->tx);
	free(af);
}

static int queues_attach(struct af_port *af, const struct port_fds *fds, struct error *err)
{
	const int *rings = fds->fd + 1, *senders = rings + af->queues;
	int rc;

	af->maps = calloc(af->queues, sizeof(*af->maps));
	af->rx = calloc(af->queues, sizeof(*af->rx));
	af->tx = calloc(af->queues, sizeof(*af->tx));
	if (!af->maps || !af->rx || !af->tx)
		return error_set(err, ENOMEM, "af_packet: no memory");
	if (af->rings & AF_RING_RX)
		af->ring_bytes += af_geometry_bytes(&af->rx_geometry);
	if (af->rings & AF_RING_TX)
		af->ring_bytes += af_geometry_bytes(&af->tx_geometry);
	rc = journal_map(af, fds->fd[0], err);
	for (uint32_t i = 0; i < af->queues && !rc; i++) {
		rc = ring_map(af, i, rings[i], err);
		if (!rc && (af->rings & AF_RING_RX))
			rc = rx_attach(af, i, rings[i], port_state_u32(fds, "outgoing", 0), err);
		if (!rc)
			rc = tx_attach(af, i, rings[i], senders[i], err);
	}
	return rc;
}

static int af_packet_attach(struct port *port, const struct port_options *options,
			    const struct port_fds *fds, struct error *err)
{
	struct af_port *af = calloc(1, sizeof(*af));
	uint32_t caps = PORT_CAP_CSUM | PORT_CAP_FRAGS;
	int rc;

	(void)options;
	if (!af)
		return error_set(err, ENOMEM, "af_packet: no memory");
	rc = state_read(fds, af, err);
	if (!rc)
		rc = queues_attach(af, fds, err);
	if (rc) {
		af_free(af);
		return rc;
	}
	for (uint16_t i = 0; i < af->queues; i++) {
		port->rxq[i] = (struct port_queue){.port = port, .priv = &af->rx[i], .id = i};
		port->txq[i] = (struct port_queue){.port = port, .priv = &af->tx[i], .id = i};
	}
	port->priv = af;
	port->pool = 0;
	port->tx_queue_count = (uint16_t)af->queues;
	port->rx_queue_count = (af->rings & AF_RING_RX) ? (uint16_t)af->queues : 0;
	/* A frame that bypasses the qdisc is not segmented by the kernel but refused. */
	if (!port_state_u32(fds, "bypass", 0))
		caps |= PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO;
	atomic_store_explicit(&port->caps, caps, memory_order_relaxed);
	return 0;
}

static void af_packet_detach(struct port *port)
{
	af_free(port->priv);
	port->priv = NULL;
}

/* --- status -------------------------------------------------------------------------------- */

/* The socket forgets its interface when that is removed, even if another takes its number. */
static bool interface_gone(int fd)
{
	struct sockaddr_ll address;
	socklen_t len = sizeof(address);

	return getsockname(fd, (struct sockaddr *)&address, &len) || address.sll_ifindex <= 0;
}

static const char *stamps_word(uint32_t stamps)
{
	if (stamps & TP_STATUS_TS_RAW_HARDWARE)
		return "hardware";
	return stamps & TP_STATUS_TS_SOFTWARE ? "software" : "kernel";
}

/* Sum over the port's sockets; false: none of them counts it. */
static bool rollover_read(const struct af_port *af, struct tpacket_rollover_stats *sum)
{
	bool any = false;

	*sum = (struct tpacket_rollover_stats){0};
	for (uint32_t i = 0; i < af->queues; i++) {
		struct tpacket_rollover_stats one;
		socklen_t len = sizeof(one);

		if (getsockopt(af->rx[i].fd, SOL_PACKET, PACKET_ROLLOVER_STATS, &one, &len))
			continue;
		any = true;
		sum->tp_all += one.tp_all;
		sum->tp_huge += one.tp_huge;
		sum->tp_failed += one.tp_failed;
	}
	return any;
}

__attribute__((format(printf, 2, 3))) static void say(struct port_status *status,
						      const char *format, ...)
{
	size_t used = strlen(status->detail);
	va_list args;

	va_start(args, format);
	vsnprintf(status->detail + used, sizeof(status->detail) - used, format, args);
	va_end(args);
}

static void say_geometry(struct port_status *status, const char *ring, bool blocks,
			 const struct af_geometry *geometry)
{
	if (blocks)
		say(status, ", %s ring %u blocks of %u B", ring, geometry->blocks,
		    geometry->block_bytes);
	else
		say(status, ", %s ring %u slots of %u B", ring, af_geometry_slots(geometry),
		    geometry->frame_bytes);
}

static void say_all(const struct af_port *af, struct port_status *status)
{
	struct tpacket_rollover_stats rollover;
	uint32_t stamps = 0, freezes = 0;

	say(status, "TPACKET_V%u", af->version);
	if (af->rings & AF_RING_RX)
		say_geometry(status, "rx", af->version == 3, &af->rx_geometry);
	if (af->rings & AF_RING_TX)
		say_geometry(status, "tx", false, &af->tx_geometry);
	say(status, ", virtio-net header, tx_timestamps: unsupported");
	if (!(af->rings & AF_RING_RX))
		return;
	for (uint32_t i = 0; i < af->queues; i++) {
		stamps |= atomic_load_explicit(&af->rx[i].stamps, memory_order_relaxed);
		freezes += atomic_load_explicit(&af->rx[i].freezes, memory_order_relaxed);
	}
	say(status, ", rx_timestamps: %s", stamps_word(stamps));
	if (af->version == 3)
		say(status, ", freezes: %u", freezes);
	if (rollover_read(af, &rollover))
		say(status, ", rollover: %llu, huge %llu, failed %llu",
		    (unsigned long long)rollover.tp_all, (unsigned long long)rollover.tp_huge,
		    (unsigned long long)rollover.tp_failed);
}

static void af_packet_poll_status(struct port *port, struct port_status *status)
{
	struct af_port *af = port->priv;
	struct ifreq request = {.ifr_ifindex = (int)af->ifindex};
	int fd = af->tx[0].fd;

	*status = (struct port_status){
	    .ifindex = af->ifindex,
	    .caps = atomic_load_explicit(&port->caps, memory_order_relaxed),
	    .rx_queues = port->rx_queue_count,
	    .tx_queues = port->tx_queue_count,
	};
	for (uint32_t i = 0; i < port->rx_queue_count; i++) {
		uint32_t drops = af_rx_kernel_drops(&af->rx[i]);

		atomic_fetch_add_explicit(&af->rx[i].journal->kernel_drops, drops,
					  memory_order_relaxed);
		status->kernel_drops += drops;
	}
	say_all(af, status);
	/* By number, so that a renamed interface stays the port's. */
	if (interface_gone(fd) || ioctl(fd, SIOCGIFNAME, &request)) {
		status->lost = true;
		return;
	}
	if (!ioctl(fd, SIOCGIFFLAGS, &request))
		status->link_up = (request.ifr_flags & IFF_UP) && (request.ifr_flags & IFF_RUNNING);
	if (!ioctl(fd, SIOCGIFMTU, &request))
		status->mtu = (uint32_t)request.ifr_mtu;
	if (!ioctl(fd, SIOCGIFHWADDR, &request))
		memcpy(status->mac, request.ifr_hwaddr.sa_data, sizeof(status->mac));
	atomic_store_explicit(&port->mtu, status->mtu, memory_order_relaxed);
}

const struct port_ops port_af_packet_ops = {
    .type = "af_packet",
    .options = af_option_names,
    .prepare = af_packet_prepare,
    .acquire = af_packet_acquire,
    .attach = af_packet_attach,
    .detach = af_packet_detach,
    .poll_status = af_packet_poll_status,
    .rx = af_rx,
    .rx_commit = af_rx_commit,
    .rx_done = af_rx_done,
    .tx = af_tx,
    .tx_commits = true,
    .rx_fd = af_rx_fd,
};
