/*
 * AF_PACKET, acquire: for each queue a socket with its rings and a send socket, and a journal.
 *
 * A ring socket is created with protocol 0 and set up completely (filter, rings, what it ignores)
 * before it is bound to the interface: it never sees a frame of another one, nor one in another
 * format, nor one that the filter does not want.
 *
 * Runs on: the keeper.
 */
#include "af_packet.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "netdev.h"

int af_set_u32(int fd, int level, int option, const char *what, uint32_t value, struct error *err)
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
static int interface_find(const char *ifname, struct af_opened *opened, struct error *err)
{
	struct netdev found;
	int rc = netdev_find("af_packet", ifname, &found, err);

	opened->ifindex = found.ifindex;
	opened->mtu = found.mtu;
	return rc;
}

/* Smaller rings where the kernel has no memory for the wanted one, unless its size was given. */
static int ring_make(int fd, int option, const struct af_wanted *wanted,
		     struct af_geometry *geometry, struct error *err)
{
	bool receive = option == PACKET_RX_RING, v3 = wanted->version == 3;

	for (;; geometry->blocks /= 2) {
		struct tpacket_req3 ring = {
		    .tp_block_size = geometry->block_bytes,
		    .tp_block_nr = geometry->blocks,
		    .tp_frame_size = geometry->frame_bytes,
		    .tp_frame_nr = af_geometry_slots(geometry),
		};

		if (receive && v3) {
			ring.tp_retire_blk_tov =
			    wanted->retire_ms ? wanted->retire_ms : AF_RETIRE_MS;
			ring.tp_feature_req_word = wanted->rxhash ? TP_FT_REQ_FILL_RXHASH : 0;
		}
		if (!setsockopt(fd, SOL_PACKET, option, &ring,
				v3 ? sizeof(ring) : sizeof(struct tpacket_req)))
			return 0;
		if (errno != ENOMEM || wanted->geometry.blocks || geometry->blocks < 2 ||
		    af_geometry_bytes(geometry) <= AF_RING_BYTES_MIN)
			return error_set(err, errno, "af_packet: ring of %u blocks of %u bytes: %s",
					 geometry->blocks, geometry->block_bytes, strerror(errno));
	}
}

/* What a socket that receives needs besides its ring. */
static int receive_set_up(int fd, const struct af_wanted *wanted, struct af_opened *opened,
			  struct error *err)
{
	struct packet_mreq promisc = {
	    .mr_ifindex = (int)opened->ifindex,
	    .mr_type = PACKET_MR_PROMISC,
	};
	uint32_t yes = 1;
	int rc = 0;

	if (wanted->version < 3)
		rc = af_set_u32(fd, SOL_PACKET, PACKET_COPY_THRESH, "copy threshold", 1, err);
	if (!rc)
		rc = af_set_u32(fd, SOL_SOCKET, SO_RCVBUFFORCE, "receive buffer", AF_RCVBUF_BYTES,
				err);
	if (!rc && wanted->timestamp)
		rc = af_set_u32(fd, SOL_PACKET, PACKET_TIMESTAMP, "timestamp", wanted->timestamp,
				err);
	if (!rc)
		rc = ring_make(fd, PACKET_RX_RING, wanted, &opened->rx, err);
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

static int send_set_up(int fd, const struct af_wanted *wanted, struct error *err)
{
	int rc = af_set_u32(fd, SOL_SOCKET, SO_SNDBUFFORCE, "send buffer", AF_SNDBUF_BYTES, err);

	if (!rc && wanted->qdisc_bypass)
		rc = af_set_u32(fd, SOL_PACKET, PACKET_QDISC_BYPASS, "qdisc_bypass", 1, err);
	return rc;
}

/*
 * Everything about a ring socket but its binding. PACKET_LOSS stays off: with it, a frame that
 * the kernel cannot send looks the same as one that it sent.
 */
static int ring_set_up(int fd, const struct af_wanted *wanted, struct af_opened *opened,
		       struct error *err)
{
	int rc = af_set_u32(fd, SOL_PACKET, PACKET_VERSION, "version", wanted->version - 1, err);

	if (!rc)
		rc = af_set_u32(fd, SOL_PACKET, PACKET_VNET_HDR, "virtio-net header", 1, err);
	if (!rc)
		rc = af_set_u32(fd, SOL_PACKET, PACKET_RESERVE, "headroom", AF_RESERVE_BYTES, err);
	if (!rc && (wanted->rings & AF_RING_RX))
		rc = receive_set_up(fd, wanted, opened, err);
	if (!rc && (wanted->rings & AF_RING_TX)) {
		rc = send_set_up(fd, wanted, err);
		if (!rc)
			rc = ring_make(fd, PACKET_TX_RING, wanted, &opened->tx, err);
	}
	return rc;
}

/* Several sockets are mute until they are a group. Protocol 0 receives nothing. */
static int ring_bind_all(const int *rings, const struct af_wanted *wanted,
			 const struct af_opened *opened, struct error *err)
{
	bool receives = wanted->rings & AF_RING_RX;
	bool group = receives && (wanted->queues > 1 || wanted->fanout_group != AF_GROUP_OWN);
	int rc = 0;

	for (uint32_t i = 0; i < wanted->queues && !rc; i++) {
		if (receives)
			rc = group ? af_filter_mute(rings[i], err)
				   : af_filter_attach(rings[i], wanted, err);
		if (!rc)
			rc = socket_bind(rings[i], opened->ifindex, receives ? ETH_P_ALL : 0, err);
	}
	if (!rc && group)
		rc = af_fanout_join(rings, wanted, opened, err);
	return rc;
}

static int tx_open(const struct af_wanted *wanted, const struct af_opened *opened,
		   struct error *err)
{
	int fd = socket_open(err);
	int rc;

	if (fd < 0)
		return fd;
	rc = af_set_u32(fd, SOL_PACKET, PACKET_VNET_HDR, "virtio-net header", 1, err);
	if (!rc)
		rc = send_set_up(fd, wanted, err);
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

static int sockets_open(const struct af_wanted *wanted, struct af_opened *opened,
			struct port_fds *fds, struct error *err)
{
	int rc;

	rc = journal_open(wanted->queues, err);
	if (rc < 0)
		return rc;
	fds->fd[fds->count++] = rc;
	for (uint32_t i = 0; i < wanted->queues; i++) {
		rc = socket_open(err);
		if (rc < 0)
			return rc;
		fds->fd[fds->count++] = rc;
		rc = ring_set_up(rc, wanted, opened, err);
		if (rc)
			return rc;
	}
	for (uint32_t i = 0; i < wanted->queues; i++) {
		rc = tx_open(wanted, opened, err);
		if (rc < 0)
			return rc;
		fds->fd[fds->count++] = rc;
	}
	return ring_bind_all(fds->fd + 1, wanted, opened, err);
}

int af_packet_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	struct error unheard;
	struct af_wanted wanted = {0};
	struct af_opened opened = {0};
	int rc;

	if (!err)
		err = &unheard;
	fds->count = 0;
	rc = af_options_read(options, &wanted, err);
	if (!rc)
		rc = interface_find(wanted.ifname, &opened, err);
	if (!rc)
		rc = af_geometry_choose(&wanted, &opened, err);
	if (!rc)
		rc = sockets_open(&wanted, &opened, fds, err);
	while (rc && fds->count)
		close(fds->fd[--fds->count]);
	if (!rc)
		snprintf(fds->state, sizeof(fds->state),
			 "ifindex=%u version=%u queues=%u rx_block_bytes=%u rx_blocks=%u "
			 "rx_frame_bytes=%u tx_block_bytes=%u tx_blocks=%u tx_frame_bytes=%u "
			 "outgoing=%d bypass=%d",
			 opened.ifindex, wanted.version, wanted.queues, opened.rx.block_bytes,
			 opened.rx.blocks, opened.rx.frame_bytes, opened.tx.block_bytes,
			 opened.tx.blocks, opened.tx.frame_bytes, !opened.ignores_outgoing,
			 wanted.qdisc_bypass);
	af_options_free(&wanted);
	return rc;
}
