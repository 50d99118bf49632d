/*
 * AF_XDP, acquire: memory, sockets of each queue, the program.
 *
 * Frames arrive from the moment when the sockets are in the program's map, and are kept while
 * nobody has attached yet.
 *
 * Runs on: the keeper (xdp_ring_map also in the forwarder).
 */
#include "af_xdp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "netdev.h"

enum {
	XDP_MTU_ONE_PIECE = XDP_CHUNK_BYTES - XDP_KERNEL_HEADROOM - 18,
	XDP_BIND_TRIES = 2000, /* a millisecond each */
};

struct wanted {
	const char *ifname;
	struct netdev netdev;
	uint32_t queues;
	uint32_t tx_queues;
	uint8_t *memory;
	bool multi;
	struct xdp_attached attached;
};

/* --- rings --------------------------------------------------------------------------------- */

static const struct xdp_ring_offset *offset_of(const struct xdp_mmap_offsets *offsets,
					       uint64_t which)
{
	switch (which) {
	case XDP_PGOFF_RX_RING:
		return &offsets->rx;
	case XDP_PGOFF_TX_RING:
		return &offsets->tx;
	case XDP_UMEM_PGOFF_FILL_RING:
		return &offsets->fr;
	default:
		return &offsets->cr;
	}
}

int xdp_ring_map(int fd, uint64_t which, uint32_t entries, size_t entry_bytes,
		 struct xdp_ring *ring, struct error *err)
{
	struct xdp_mmap_offsets offsets;
	const struct xdp_ring_offset *at = offset_of(&offsets, which);
	socklen_t length = sizeof(offsets);
	uint8_t *map;

	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length))
		return error_set(err, errno, "af_xdp: ring offsets: %s", strerror(errno));
	if (length != sizeof(offsets)) /* kernels before 5.4 have other rings */
		return error_set(err, EPROTO, "af_xdp: this kernel's rings are unknown");
	ring->map_bytes = at->desc + entries * entry_bytes;
	map = mmap(NULL, ring->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		   (off_t)which);
	if (map == MAP_FAILED)
		return error_set(err, errno, "af_xdp: ring: %s", strerror(errno));
	ring->map = map;
	ring->producer = (_Atomic uint32_t *)(map + at->producer);
	ring->consumer = (_Atomic uint32_t *)(map + at->consumer);
	ring->entries = map + at->desc;
	ring->mask = entries - 1;
	return 0;
}

void xdp_ring_unmap(struct xdp_ring *ring)
{
	if (ring->map)
		munmap(ring->map, ring->map_bytes);
	ring->map = NULL;
}

/* --- sockets ------------------------------------------------------------------------------- */

static int option_set(int fd, int option, const char *what, uint32_t value, struct error *err)
{
	if (!setsockopt(fd, SOL_XDP, option, &value, sizeof(value)))
		return 0;
	return error_set(err, errno, "af_xdp: %s: %s", what, strerror(errno));
}

static int socket_open(struct port_fds *fds, struct error *err)
{
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		fds->fd[fds->count++] = fd;
		return fd;
	}
	if (errno == EPERM)
		return error_named(err, EPERM, "PRIVILEGE_MISSING",
				   "af_xdp: opening a socket needs CAP_NET_RAW");
	return error_set(err, errno, "af_xdp: socket: %s", strerror(errno));
}

static int bind_failed(const struct wanted *wanted, uint32_t queue, struct error *err)
{
	if (errno == EBUSY)
		return error_named(err, EBUSY, "PORT_BUSY",
				   "af_xdp: queue %u of %s has a socket of another program", queue,
				   wanted->ifname);
	return error_set(err, errno, "af_xdp: bind to queue %u of %s: %s", queue, wanted->ifname,
			 strerror(errno));
}

/* With `shared` the memory is that of another socket, and so are its bind flags. */
static int socket_bind(int fd, const struct wanted *wanted, uint32_t queue, int shared,
		       struct error *err)
{
	struct sockaddr_xdp address = {
	    .sxdp_family = AF_XDP,
	    .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	    .sxdp_ifindex = wanted->netdev.ifindex,
	    .sxdp_queue_id = queue,
	};

	const struct timespec pause = {.tv_nsec = 1000000};

	if (wanted->multi)
		address.sxdp_flags |= XDP_USE_SG;
	if (shared >= 0) {
		address.sxdp_flags = XDP_SHARED_UMEM;
		address.sxdp_shared_umem_fd = (uint32_t)shared;
	}
	/* A port of this interface that was closed just now, the kernel gives up a little later. */
	for (int tries = 0; bind(fd, (struct sockaddr *)&address, sizeof(address)); tries++) {
		if (errno != EBUSY || tries == XDP_BIND_TRIES)
			return bind_failed(wanted, queue, err);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	return 0;
}

static int memory_register(int fd, const struct wanted *wanted, struct error *err)
{
	struct xdp_umem_reg umem = {
	    .addr = (uintptr_t)(wanted->memory + xdp_chunks_at(wanted->queues)),
	    .len = xdp_chunks_bytes(wanted->queues),
	    .chunk_size = XDP_CHUNK_BYTES,
	};

	if (!setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)))
		return 0;
	if (errno == ENOBUFS || errno == EPERM)
		return error_named(err, EPERM, "PRIVILEGE_MISSING",
				   "af_xdp: %llu KiB of locked memory need CAP_IPC_LOCK, or a "
				   "limit (memlock) that allows them",
				   (unsigned long long)umem.len >> 10);
	return error_set(err, errno, "af_xdp: memory: %s", strerror(errno));
}

/* All receive chunks of the queue are the kernel's at first. */
static int fill_ring_fill(int fd, uint32_t queue, struct error *err)
{
	uint64_t first = (uint64_t)queue * XDP_QUEUE_CHUNKS * XDP_CHUNK_BYTES;
	struct xdp_ring fill = {0};
	int rc =
	    xdp_ring_map(fd, XDP_UMEM_PGOFF_FILL_RING, XDP_RX_CHUNKS, sizeof(uint64_t), &fill, err);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < XDP_RX_CHUNKS; i++)
		*xdp_ring_address(&fill, i) = first + i * (uint64_t)XDP_CHUNK_BYTES;
	atomic_store_explicit(fill.producer, XDP_RX_CHUNKS, memory_order_release);
	xdp_ring_unmap(&fill);
	return 0;
}

/* The first of all has the memory, the others share it. */
static int receive_set_up(int fd, const struct wanted *wanted, uint32_t queue, int first,
			  struct error *err)
{
	int rc = queue ? 0 : memory_register(fd, wanted, err);

	if (!rc)
		rc = option_set(fd, XDP_UMEM_FILL_RING, "fill ring", XDP_RX_CHUNKS, err);
	if (!rc)
		rc =
		    option_set(fd, XDP_UMEM_COMPLETION_RING, "completion ring", XDP_TX_CHUNKS, err);
	if (!rc)
		rc = option_set(fd, XDP_RX_RING, "receive ring", XDP_RX_CHUNKS, err);
	if (!rc)
		rc = fill_ring_fill(fd, queue, err);
	if (!rc)
		rc = socket_bind(fd, wanted, queue, queue ? first : -1, err);
	return rc;
}

static int send_set_up(int fd, const struct wanted *wanted, uint32_t queue, int receiver,
		       struct error *err)
{
	uint32_t budget = XDP_TX_BUDGET, bytes = XDP_SNDBUF_BYTES;
	int rc = option_set(fd, XDP_TX_RING, "send ring", XDP_TX_CHUNKS, err);

	if (!rc && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)))
		rc = error_set(err, errno, "af_xdp: send buffer: %s", strerror(errno));
	if (!rc)
		rc = socket_bind(fd, wanted, queue, receiver, err);
	if (!rc) /* since Linux 6.17; without it a batch takes more system calls */
		(void)setsockopt(fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof(budget));
	return rc;
}

/* Promiscuous as long as it lasts; and through it the forwarder asks for flags and MTU. */
static int packet_socket(const struct wanted *wanted, struct port_fds *fds, struct error *err)
{
	struct sockaddr_ll address = {
	    .sll_family = AF_PACKET,
	    .sll_ifindex = (int)wanted->netdev.ifindex,
	};
	struct packet_mreq promisc = {
	    .mr_ifindex = (int)wanted->netdev.ifindex,
	    .mr_type = PACKET_MR_PROMISC,
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(err, errno, "af_xdp: packet socket: %s", strerror(errno));
	fds->fd[XDP_FD_PACKET] = fd;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof(promisc)))
		return error_set(err, errno, "af_xdp: promiscuous mode of %s: %s", wanted->ifname,
				 strerror(errno));
	return 0;
}

/* --- memory -------------------------------------------------------------------------------- */

static int memory_open(struct wanted *wanted, struct port_fds *fds, struct error *err)
{
	size_t bytes = xdp_chunks_at(wanted->queues) + xdp_chunks_bytes(wanted->queues);
	int fd = memfd_create("vswitch-af_xdp", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_set(err, errno, "af_xdp: memfd: %s", strerror(errno));
	fds->fd[XDP_FD_MEMORY] = fd;
	if (ftruncate(fd, (off_t)bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return error_set(err, errno, "af_xdp: memfd: %s", strerror(errno));
	wanted->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (wanted->memory != MAP_FAILED)
		return 0;
	wanted->memory = NULL;
	return error_set(err, errno, "af_xdp: memory: %s", strerror(errno));
}

static void memory_close(struct wanted *wanted)
{
	if (wanted->memory)
		munmap(wanted->memory,
		       xdp_chunks_at(wanted->queues) + xdp_chunks_bytes(wanted->queues));
}

/* --- acquire ------------------------------------------------------------------------------- */

static int sockets_open(const struct wanted *wanted, struct port_fds *fds, struct error *err)
{
	int receivers[PORT_QUEUES_MAX];
	int rc = 0;

	for (uint32_t i = 0; i < wanted->queues && !rc; i++) {
		receivers[i] = socket_open(fds, err);
		rc = receivers[i] < 0 ? receivers[i]
				      : receive_set_up(receivers[i], wanted, i, receivers[0], err);
	}
	for (uint32_t i = 0; i < wanted->tx_queues && !rc; i++) {
		int fd = socket_open(fds, err);

		rc = fd < 0 ? fd : send_set_up(fd, wanted, i, receivers[i], err);
	}
	return rc;
}

static void sockets_close(struct port_fds *fds)
{
	while (fds->count > XDP_FD_SOCKETS)
		close(fds->fd[--fds->count]);
}

/* Kernels before 6.6 know no packets of several pieces: then one has to be enough. */
static int sockets_open_any(struct wanted *wanted, struct port_fds *fds, struct error *err)
{
	int rc;

	wanted->multi = true;
	rc = sockets_open(wanted, fds, err);
	if (rc != -EINVAL)
		return rc;
	sockets_close(fds);
	if (wanted->netdev.mtu > XDP_MTU_ONE_PIECE)
		return error_set(err, EOPNOTSUPP,
				 "af_xdp: this kernel takes frames of at most %d bytes over "
				 "AF_XDP; %s has an MTU of %u",
				 XDP_MTU_ONE_PIECE, wanted->ifname, wanted->netdev.mtu);
	wanted->multi = false;
	return sockets_open(wanted, fds, err);
}

/*
 * First the program, which finds no socket and lets all frames pass: it shows whether the
 * interface is somebody else's. With the sockets in the map it is the port's.
 */
static int all_open(struct wanted *wanted, struct port_fds *fds, struct error *err)
{
	int rc = xdp_map_make(wanted->queues, err);

	if (rc < 0)
		return rc;
	fds->fd[XDP_FD_MAP] = rc;
	rc = xdp_program_attach(rc, wanted->netdev.ifindex, wanted->ifname, &wanted->attached, err);
	if (rc < 0)
		return rc;
	fds->fd[XDP_FD_LINK] = rc;
	rc = memory_open(wanted, fds, err);
	if (!rc)
		rc = packet_socket(wanted, fds, err);
	if (!rc)
		rc = sockets_open_any(wanted, fds, err);
	if (!rc)
		rc = xdp_map_fill(fds->fd[XDP_FD_MAP], fds->fd + XDP_FD_SOCKETS, wanted->queues,
				  err);
	return rc;
}

static void all_close(struct port_fds *fds)
{
	sockets_close(fds);
	while (fds->count--)
		if (fds->fd[fds->count] >= 0)
			close(fds->fd[fds->count]);
	fds->count = 0;
}

static int wanted_read(const struct port_options *options, struct wanted *wanted, struct error *err)
{
	uint32_t most;
	int rc;

	wanted->ifname = port_option_text(options, "ifname", "");
	rc = netdev_find("af_xdp", wanted->ifname, &wanted->netdev, err);
	if (rc)
		return rc;
	most = wanted->netdev.rx_queues;
	rc = port_option_u32(options, "queues", most < PORT_QUEUES_MAX ? most : PORT_QUEUES_MAX, 1,
			     PORT_QUEUES_MAX, &wanted->queues, err);
	if (rc)
		return rc;
	if (wanted->queues > most)
		return error_set(err, EINVAL, "af_xdp: %s has %u receive queues, not %u",
				 wanted->ifname, most, wanted->queues);
	wanted->tx_queues =
	    wanted->netdev.tx_queues < wanted->queues ? wanted->netdev.tx_queues : wanted->queues;
	return 0;
}

int xdp_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	struct error unheard;
	struct wanted wanted = {0};
	int rc;

	if (!err)
		err = &unheard;
	rc = wanted_read(options, &wanted, err);
	if (rc)
		return rc;
	for (fds->count = 0; fds->count < XDP_FD_SOCKETS; fds->count++)
		fds->fd[fds->count] = -1;
	rc = all_open(&wanted, fds, err);
	memory_close(&wanted);
	if (rc) {
		all_close(fds);
		return rc;
	}
	snprintf(fds->state, sizeof(fds->state),
		 "ifindex=%u queues=%u tx_queues=%u device_queues=%u native=%d tags=%d multi=%d",
		 wanted.netdev.ifindex, wanted.queues, wanted.tx_queues, wanted.netdev.rx_queues,
		 wanted.attached.native, wanted.attached.tags, wanted.multi);
	return 0;
}

/* At once: the forwarder may hold its copy of the link a little longer. */
void xdp_release(const struct port_options *options, const struct port_fds *fds)
{
	(void)options;
	if (fds->count > XDP_FD_LINK)
		xdp_program_detach(fds->fd[XDP_FD_LINK]);
}
