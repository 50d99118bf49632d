/*
 * The af_packet port type: a network interface of this machine, through PACKET_MMAP.
 *
 * acquire (keeper, NET_ADMIN and NET_RAW) makes for each queue a receive socket with its ring and
 * a send socket, and a journal; attach (forwarder, no capability) maps them and goes on where the
 * journal says. Layout, geometry and recovery: af_packet.h.
 *
 * A receive socket is created with protocol 0 and set up completely before it is bound to the
 * interface: it never sees a frame of another one, nor one in another format.
 *
 * Runs on: the keeper (acquire), the forwarder's control thread (attach, detach, poll_status).
 */
#include "af_packet.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000 /* Linux 5.12 */
#endif

static const uint64_t JOURNAL_MAGIC = UINT64_C(0x315f6b6361705f66);

static const char *const option_names[] = {
    "ifname", "version", "optimize_for", "queues", "fanout", "qdisc_bypass", NULL,
};

static const struct {
	const char *name;
	uint16_t type;
} fanout_types[] = {
    {"hash", PACKET_FANOUT_HASH},	  {"lb", PACKET_FANOUT_LB},
    {"cpu", PACKET_FANOUT_CPU},		  {"rnd", PACKET_FANOUT_RND},
    {"rollover", PACKET_FANOUT_ROLLOVER}, {"qm", PACKET_FANOUT_QM},
};

/* What the options ask for. */
struct wanted {
	const char *ifname;
	uint32_t version; /* TPACKET_V2 or TPACKET_V3 */
	uint32_t queues;
	uint16_t fanout;
	bool qdisc_bypass;
};

/* What was found or chosen. */
struct opened {
	uint32_t ifindex;
	uint32_t mtu;
	uint32_t slots; /* V2: slots, V3: blocks */
	uint32_t slot_bytes;
	bool ignores_outgoing;
};

/* --- options ------------------------------------------------------------------------------- */

static bool ifname_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len >= IFNAMSIZ || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (; *name; name++) {
		if (!(*name >= 'a' && *name <= 'z') && !(*name >= 'A' && *name <= 'Z') &&
		    !(*name >= '0' && *name <= '9') && !strchr("_.-", *name))
			return false;
	}
	return true;
}

/* latency: V2, every frame at once. throughput: V3, a block at a time. */
static int version_read(const struct port_options *options, uint32_t *version, struct error *err)
{
	const char *goal = port_option_text(options, "optimize_for", "latency");
	bool throughput = !strcmp(goal, "throughput");
	uint32_t number;
	int rc;

	if (!throughput && strcmp(goal, "latency"))
		return error_set(err, EINVAL,
				 "af_packet: optimize_for is latency or throughput, not %s", goal);
	rc = port_option_u32(options, "version", throughput ? 3 : 2, 1, 3, &number, err);
	if (rc)
		return rc;
	if (number == 1)
		return error_named(err, EOPNOTSUPP, "UNSUPPORTED",
				   "af_packet: version 1 rings lose VLAN tags; use version 2 or 3");
	*version = number == 3 ? TPACKET_V3 : TPACKET_V2;
	return 0;
}

static int options_read(const struct port_options *options, struct wanted *wanted,
			struct error *err)
{
	const char *fanout = port_option_text(options, "fanout", "hash");
	size_t i = 0;
	int rc;

	wanted->ifname = port_option_text(options, "ifname", "");
	if (!ifname_valid(wanted->ifname))
		return error_set(err, EINVAL, "af_packet: ifname '%s' is no interface name",
				 wanted->ifname);
	while (i < sizeof(fanout_types) / sizeof(*fanout_types) &&
	       strcmp(fanout_types[i].name, fanout))
		i++;
	if (i == sizeof(fanout_types) / sizeof(*fanout_types))
		return error_set(err, EINVAL, "af_packet: there is no fanout %s", fanout);
	wanted->fanout = fanout_types[i].type;
	rc = version_read(options, &wanted->version, err);
	if (!rc)
		rc =
		    port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &wanted->queues, err);
	if (!rc)
		rc = port_option_bool(options, "qdisc_bypass", false, &wanted->qdisc_bypass, err);
	return rc;
}

/* --- acquire ------------------------------------------------------------------------------- */

static int set_u32(int fd, int level, int option, const char *what, uint32_t value,
		   struct error *err)
{
	if (!setsockopt(fd, level, option, &value, sizeof(value)))
		return 0;
	return error_set(err, errno, "af_packet: %s: %s", what, strerror(errno));
}

static int socket_open(struct error *err)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0)
		return fd;
	if (errno == EPERM)
		return error_named(err, EPERM, "PRIVILEGE_MISSING",
				   "af_packet: opening a packet socket needs CAP_NET_RAW");
	return error_set(err, errno, "af_packet: socket: %s", strerror(errno));
}

static int socket_bind(int fd, uint32_t ifindex, uint16_t protocol, struct error *err)
{
	struct sockaddr_ll address = {
	    .sll_family = AF_PACKET,
	    .sll_protocol = htons(protocol),
	    .sll_ifindex = (int)ifindex,
	};

	if (!bind(fd, (struct sockaddr *)&address, sizeof(address)))
		return 0;
	return error_set(err, errno, "af_packet: bind to interface %u: %s", ifindex,
			 strerror(errno));
}

/* Index and MTU of an Ethernet interface. */
static int interface_find(const char *ifname, struct opened *opened, struct error *err)
{
	struct ifreq request = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc = 0;

	if (fd < 0)
		return error_set(err, errno, "af_packet: socket: %s", strerror(errno));
	memcpy(request.ifr_name, ifname, strlen(ifname));
	if (ioctl(fd, SIOCGIFINDEX, &request)) {
		rc = error_named(err, ENODEV, "IFACE_NOT_FOUND",
				 "af_packet: there is no interface %s", ifname);
		goto close_fd;
	}
	opened->ifindex = (uint32_t)request.ifr_ifindex;
	if (ioctl(fd, SIOCGIFHWADDR, &request) || request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
		rc = error_named(err, EINVAL, "NOT_ETHERNET",
				 "af_packet: %s is no Ethernet interface", ifname);
		goto close_fd;
	}
	opened->mtu = ioctl(fd, SIOCGIFMTU, &request) ? 1500 : (uint32_t)request.ifr_mtu;
close_fd:
	close(fd);
	return rc;
}

/* Slots take a frame of the interface's MTU with two tags, if that is not out of proportion. */
static void geometry_choose(const struct wanted *wanted, struct opened *opened)
{
	uint32_t before = (AF_V2_HEADER + 16 + 15) / 16 * 16 + AF_RESERVE_BYTES + AF_VNET_BYTES;
	uint32_t need = before + opened->mtu + 2 * 4;

	if (wanted->version == TPACKET_V3) {
		opened->slots = AF_BLOCKS;
		opened->slot_bytes = AF_BLOCK_BYTES;
		return;
	}
	opened->slot_bytes = AF_SLOT_BYTES_MIN;
	while (opened->slot_bytes < need && opened->slot_bytes < AF_SLOT_BYTES_MAX)
		opened->slot_bytes *= 2;
	if (opened->slot_bytes < need)
		opened->slot_bytes = AF_SLOT_BYTES_MIN;
	opened->slots = AF_SLOTS;
	while (opened->slots * opened->slot_bytes > AF_RING_BYTES_MAX)
		opened->slots /= 2;
}

/* Smaller rings where the kernel has no memory for the wanted one. */
static int ring_make(int fd, const struct wanted *wanted, struct opened *opened, struct error *err)
{
	bool v3 = wanted->version == TPACKET_V3;

	for (;; opened->slots /= 2) {
		uint32_t block = v3 ? opened->slot_bytes : AF_SLOT_BLOCK_BYTES;
		uint32_t frame = v3 ? AF_SLOT_BYTES_MIN : opened->slot_bytes;
		struct tpacket_req3 ring = {
		    .tp_block_size = block,
		    .tp_block_nr = (uint32_t)((uint64_t)opened->slots * opened->slot_bytes / block),
		    .tp_frame_size = frame,
		    .tp_frame_nr = (uint32_t)((uint64_t)opened->slots * opened->slot_bytes / frame),
		    .tp_retire_blk_tov = AF_RETIRE_MS,
		};

		if (!setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring,
				v3 ? sizeof(ring) : sizeof(struct tpacket_req)))
			return 0;
		if (errno != ENOMEM || opened->slots * opened->slot_bytes <= AF_RING_BYTES_MIN)
			return error_set(err, errno, "af_packet: ring of %u slots of %u bytes: %s",
					 opened->slots, opened->slot_bytes, strerror(errno));
	}
}

/* Everything about a receive socket but its binding. */
static int rx_set_up(int fd, const struct wanted *wanted, struct opened *opened, struct error *err)
{
	struct packet_mreq promisc = {
	    .mr_ifindex = (int)opened->ifindex,
	    .mr_type = PACKET_MR_PROMISC,
	};
	uint32_t yes = 1;
	int rc = set_u32(fd, SOL_PACKET, PACKET_VERSION, "ring version", wanted->version, err);

	if (!rc)
		rc = set_u32(fd, SOL_PACKET, PACKET_VNET_HDR, "virtio-net header", 1, err);
	if (!rc)
		rc = set_u32(fd, SOL_PACKET, PACKET_RESERVE, "headroom", AF_RESERVE_BYTES, err);
	if (!rc && wanted->version == TPACKET_V2)
		rc = set_u32(fd, SOL_PACKET, PACKET_COPY_THRESH, "copy threshold", 1, err);
	if (!rc)
		rc =
		    set_u32(fd, SOL_SOCKET, SO_RCVBUFFORCE, "receive buffer", AF_RCVBUF_BYTES, err);
	if (!rc)
		rc = ring_make(fd, wanted, opened, err);
	if (rc)
		return rc;
	/* Since Linux 4.20; without it each frame's packet type is looked at. */
	opened->ignores_outgoing =
	    !setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes));
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof(promisc)))
		return error_set(err, errno, "af_packet: promiscuous mode of %s: %s",
				 wanted->ifname, strerror(errno));
	return 0;
}

/* A filter that takes nothing: between bind and fanout a socket would get every frame. */
static int rx_mute(int fd, struct error *err)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &nothing};

	if (!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		return 0;
	return error_set(err, errno, "af_packet: filter: %s", strerror(errno));
}

/* The first socket gets a group of its own from the kernel, the others join it. */
static int fanout_join(const int *rx, const struct wanted *wanted, const struct opened *opened,
		       struct error *err)
{
	uint32_t flags = opened->ignores_outgoing ? PACKET_FANOUT_FLAG_IGNORE_OUTGOING : 0;
	uint32_t group = 0;
	socklen_t len = sizeof(group);
	int rc;

	rc = set_u32(rx[0], SOL_PACKET, PACKET_FANOUT, "fanout group",
		     (wanted->fanout | flags | PACKET_FANOUT_FLAG_UNIQUEID) << 16, err);
	if (rc)
		return rc;
	if (getsockopt(rx[0], SOL_PACKET, PACKET_FANOUT, &group, &len))
		return error_set(err, errno, "af_packet: fanout group: %s", strerror(errno));
	group = (group & 0xffff) | (wanted->fanout | flags) << 16;
	for (uint32_t i = 1; i < wanted->queues && !rc; i++)
		rc = set_u32(rx[i], SOL_PACKET, PACKET_FANOUT, "fanout", group, err);
	for (uint32_t i = 0; i < wanted->queues && !rc; i++)
		rc = set_u32(rx[i], SOL_SOCKET, SO_DETACH_FILTER, "filter", 0, err);
	return rc;
}

static int rx_bind_all(const int *rx, const struct wanted *wanted, const struct opened *opened,
		       struct error *err)
{
	bool many = wanted->queues > 1;
	int rc = 0;

	for (uint32_t i = 0; i < wanted->queues && !rc; i++) {
		if (many)
			rc = rx_mute(rx[i], err);
		if (!rc)
			rc = socket_bind(rx[i], opened->ifindex, ETH_P_ALL, err);
	}
	if (!rc && many)
		rc = fanout_join(rx, wanted, opened, err);
	return rc;
}

static int tx_open(const struct wanted *wanted, const struct opened *opened, struct error *err)
{
	int fd = socket_open(err);
	int rc;

	if (fd < 0)
		return fd;
	rc = set_u32(fd, SOL_PACKET, PACKET_VNET_HDR, "virtio-net header", 1, err);
	if (!rc)
		rc = set_u32(fd, SOL_SOCKET, SO_SNDBUFFORCE, "send buffer", AF_SNDBUF_BYTES, err);
	if (!rc && wanted->qdisc_bypass)
		rc = set_u32(fd, SOL_PACKET, PACKET_QDISC_BYPASS, "qdisc bypass", 1, err);
	if (!rc)
		rc = socket_bind(fd, opened->ifindex, 0, err);
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static int journal_open(uint32_t queues, struct error *err)
{
	int fd = memfd_create("vswitch-af_packet", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_set(err, errno, "af_packet: memfd: %s", strerror(errno));
	if (!ftruncate(fd, (off_t)af_journal_bytes(queues)) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return fd;
	error_set(err, errno, "af_packet: journal: %s", strerror(errno));
	close(fd);
	return -err->code;
}

static int af_packet_acquire(const struct port_options *options, struct port_fds *fds,
			     struct error *err)
{
	struct error unheard;
	struct wanted wanted = {0};
	struct opened opened = {0};
	int rc;

	if (!err)
		err = &unheard;
	fds->count = 0;
	rc = options_read(options, &wanted, err);
	if (!rc)
		rc = interface_find(wanted.ifname, &opened, err);
	if (rc)
		return rc;
	geometry_choose(&wanted, &opened);
	rc = journal_open(wanted.queues, err);
	if (rc < 0)
		return rc;
	fds->fd[fds->count++] = rc;
	for (uint32_t i = 0; i < wanted.queues; i++) {
		rc = socket_open(err);
		if (rc < 0)
			goto close_all;
		fds->fd[fds->count++] = rc;
		rc = rx_set_up(rc, &wanted, &opened, err);
		if (rc)
			goto close_all;
	}
	for (uint32_t i = 0; i < wanted.queues; i++) {
		rc = tx_open(&wanted, &opened, err);
		if (rc < 0)
			goto close_all;
		fds->fd[fds->count++] = rc;
	}
	rc = rx_bind_all(fds->fd + 1, &wanted, &opened, err);
	if (rc)
		goto close_all;
	snprintf(fds->state, sizeof(fds->state),
		 "ifindex=%u version=%u queues=%u slots=%u slot_bytes=%u outgoing=%d bypass=%d",
		 opened.ifindex, wanted.version == TPACKET_V3 ? 3 : 2, wanted.queues, opened.slots,
		 opened.slot_bytes, !opened.ignores_outgoing, wanted.qdisc_bypass);
	return 0;
close_all:
	while (fds->count)
		close(fds->fd[--fds->count]);
	return rc;
}

/* --- attach -------------------------------------------------------------------------------- */

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

/* The geometry as acquire left it; what cannot be is refused before it indexes memory. */
static int state_read(const struct port_fds *fds, struct af_port *af, struct error *err)
{
	uint32_t version = port_state_u32(fds, "version", 0);

	af->ifindex = port_state_u32(fds, "ifindex", 0);
	af->version = version == 3 ? TPACKET_V3 : TPACKET_V2;
	af->queues = port_state_u32(fds, "queues", 0);
	af->slots = port_state_u32(fds, "slots", 0);
	af->slot_bytes = port_state_u32(fds, "slot_bytes", 0);
	if ((version != 2 && version != 3) || !af->ifindex || !af->queues ||
	    af->queues > PORT_QUEUES_MAX || fds->count != 1 + 2 * af->queues)
		return error_set(err, EPROTO, "af_packet: unusable state '%s' with %u fds",
				 fds->state, fds->count);
	if (!power_of_two(af->slots) || !power_of_two(af->slot_bytes) || af->slots < FRAME_BATCH ||
	    af->slots > AF_SLOTS || af->slot_bytes < 2048 || af->slot_bytes > AF_BLOCK_BYTES)
		return error_set(err, EPROTO, "af_packet: %u slots of %u bytes cannot be",
				 af->slots, af->slot_bytes);
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

static int rx_attach(struct af_port *af, uint32_t queue, int fd, bool check_outgoing,
		     struct error *err)
{
	struct af_rx *rx = &af->rx[queue];
	uint8_t *pages = af->journal + AF_JOURNAL_PAGE;

	rx->fd = fd;
	rx->v3 = af->version == TPACKET_V3;
	rx->check_outgoing = check_outgoing;
	rx->journal = (struct af_journal_queue *)(pages + queue * (size_t)AF_JOURNAL_PAGE);
	rx->copy = pages + af->queues * (size_t)AF_JOURNAL_PAGE +
		   queue * (size_t)(AF_COPY_FRAMES * AF_COPY_BYTES);
	for (unsigned i = 0; i < AF_COPY_FRAMES; i++)
		rx->copy_iov[i] = (struct iovec){
		    .iov_base = rx->copy + i * (size_t)AF_COPY_BYTES + FRAME_HEADROOM,
		    .iov_len = AF_COPY_BYTES - FRAME_HEADROOM,
		};
	rx->slot_mask = rx->block_mask = af->slots - 1;
	rx->slot_shift = (uint32_t)__builtin_ctz(af->slot_bytes);
	rx->block_bytes = af->slot_bytes;
	rx->ring_bytes = (size_t)af->slots * af->slot_bytes;
	rx->ring = mmap(NULL, rx->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rx->ring == MAP_FAILED) {
		rx->ring = NULL;
		return error_set(err, errno, "af_packet: ring: %s", strerror(errno));
	}
	if (!af_rx_recover(rx))
		return error_set(err, EPROTO, "af_packet: the journal of queue %u makes no sense",
				 queue);
	return 0;
}

static void af_free(struct af_port *af)
{
	for (uint32_t i = 0; af->rx && i < af->queues; i++) {
		if (af->rx[i].ring)
			munmap(af->rx[i].ring, af->rx[i].ring_bytes);
	}
	if (af->journal)
		munmap(af->journal, af->journal_bytes);
	free(af->rx);
	free(af->tx);
	free(af);
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
	if (rc)
		goto free_all;
	af->rx = calloc(af->queues, sizeof(*af->rx));
	af->tx = calloc(af->queues, sizeof(*af->tx));
	if (!af->rx || !af->tx) {
		rc = error_set(err, ENOMEM, "af_packet: no memory");
		goto free_all;
	}
	rc = journal_map(af, fds->fd[0], err);
	for (uint32_t i = 0; i < af->queues && !rc; i++)
		rc = rx_attach(af, i, fds->fd[1 + i], port_state_u32(fds, "outgoing", 0), err);
	if (rc)
		goto free_all;
	for (uint16_t i = 0; i < af->queues; i++) {
		af->tx[i].fd = fds->fd[1 + af->queues + i];
		port->rxq[i] = (struct port_queue){.port = port, .priv = &af->rx[i], .id = i};
		port->txq[i] = (struct port_queue){.port = port, .priv = &af->tx[i], .id = i};
	}
	port->priv = af;
	port->pool = 0;
	port->rx_queue_count = port->tx_queue_count = (uint16_t)af->queues;
	/* A frame that bypasses the qdisc is not segmented by the kernel but refused. */
	if (!port_state_u32(fds, "bypass", 0))
		caps |= PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO;
	atomic_store_explicit(&port->caps, caps, memory_order_relaxed);
	return 0;
free_all:
	af_free(af);
	return rc;
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

static void af_packet_poll_status(struct port *port, struct port_status *status)
{
	struct af_port *af = port->priv;
	struct ifreq request = {.ifr_ifindex = (int)af->ifindex};
	int fd = af->rx[0].fd;

	*status = (struct port_status){
	    .ifindex = af->ifindex,
	    .caps = atomic_load_explicit(&port->caps, memory_order_relaxed),
	    .rx_queues = af->queues,
	    .tx_queues = af->queues,
	};
	for (uint32_t i = 0; i < af->queues; i++) {
		uint32_t drops = af_rx_kernel_drops(&af->rx[i]);

		atomic_fetch_add_explicit(&af->rx[i].journal->kernel_drops, drops,
					  memory_order_relaxed);
		status->kernel_drops += drops;
	}
	snprintf(status->detail, sizeof(status->detail), "TPACKET_V%u, %u %s of %u KB, %s",
		 af->version == TPACKET_V3 ? 3 : 2, af->slots,
		 af->version == TPACKET_V3 ? "blocks" : "slots", af->slot_bytes >> 10,
		 "virtio-net header");
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
    .options = option_names,
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
