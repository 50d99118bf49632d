/*
 * tap: a kernel TAP device whose far end is a network interface of this host, of a container or
 * of a namespace. Frames cross with a virtio-net header, so checksums and segmentation that the
 * local stack left to its device travel on unfinished.
 *
 * Keeper (acquire): makes the device or joins a persistent one, opens one fd a queue, brings the
 * link up. fds: the queues in order, then a datagram socket, through which a forwarder that may
 * not make sockets asks for flags and MTU. state: "name=... queues=... caps=... ifindex=...".
 * A device that acquire makes is owned by the keeper's uid: without an owner anyone who can open
 * /dev/net/tun could join as a queue and take frames. A device that was there keeps its owner.
 *
 * The device goes with the last fd unless `persistent` was asked for or it was persistent before;
 * those stay (`ip link del`), hence no release.
 *
 * Forwarder (attach): reads and writes the queues' fds, nothing else. The kernel has no way to
 * look at a frame without taking it: a forwarder killed between read and write loses the frames
 * of the batch it holds (booked as `restart`), those still in the device's queue wait for the
 * next one.
 *
 * Names follow the netdev when it moves to another namespace: everything about it is asked of
 * the fds, only the MTU is unknown there (0).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

/* Newer than the headers this is built with; kernels that lack them say EINVAL. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum {
	NAME_BYTES = IFNAMSIZ,
	HEADER_BYTES = sizeof(struct frame_offload),
	MTU_MAX = 65521,
	SEND_BUFFER_BYTES = 8 << 20, /* about 120 GSO frames before a write waits for its reader */
	QUEUE_FRAMES = 4096,	     /* 20 ms at 200,000 frames/s: a restart fits */
	/*
	 * A receive ends early when it holds this much: 64 frames of 64 KB would be 4 MB, which no
	 * second-level cache holds until they are sent.
	 */
	BATCH_BYTES = 256 << 10,
	ARENA_BYTES = BATCH_BYTES + FRAME_HEADROOM + FRAME_LEN_MAX + 1 + 63,
	TX_WAIT_NS = 2000000 /* for a full send buffer, in all of one batch */
};
static_assert(sizeof(struct virtio_net_hdr) == HEADER_BYTES, "copied whole");

struct tap_queue {
	int fd;
	uint8_t *arena; /* ARENA_BYTES; a batch lies in it end to end */
};

struct tap {
	struct tap_queue queues[PORT_QUEUES_MAX];
	unsigned queue_count;
	int socket;
	uint32_t ifindex;
	atomic_bool
	    full; /* a send found no room: not writable need not mean that the link is down */
};

/* ---- keeper ---- */

/* Linux's rule for names (dev_valid_name), and at most one %d for the kernel to fill in. */
static bool name_valid(const char *name)
{
	const char *percent = strchr(name, '%');

	if (!*name || strlen(name) >= NAME_BYTES || strcmp(name, ".") == 0 ||
	    strcmp(name, "..") == 0)
		return false;
	for (const char *c = name; *c; c++) {
		if (*c == '/' || *c == ':' || *c <= ' ' || *c > '~')
			return false;
	}
	return !percent || (percent[1] == 'd' && !strchr(percent + 1, '%'));
}

static int queue_open(struct ifreq *ifr, int flags)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), status;

	if (fd < 0)
		return -errno;
	ifr->ifr_flags = (short)flags;
	if (ioctl(fd, TUNSETIFF, ifr) < 0) {
		status = -errno;
		close(fd);
		return status;
	}
	return fd;
}

/*
 * The first queue. *flags: with what the others join; *made: the device is new.
 */
static int device_open(const char *port, struct ifreq *ifr, unsigned queues, int *flags, bool *made,
		       struct error *err)
{
	const char *name = ifr->ifr_name;
	char wanted[NAME_BYTES];
	struct ifreq have;
	int fd;

	snprintf(wanted, sizeof(wanted), "%s", name);
	*flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
	fd = queue_open(ifr, *flags | IFF_TUN_EXCL);
	*made = fd >= 0;
	if (fd == -EBUSY)
		fd = queue_open(ifr, *flags);
	if (fd == -EINVAL && queues == 1) {
		*flags &= ~IFF_MULTI_QUEUE; /* made elsewhere, with one queue */
		fd = queue_open(ifr, *flags);
	}
	if (fd == -EINVAL)
		return error_set(err, EINVAL,
				 "%s: %s exists and is not a TAP device that takes %u queues", port,
				 wanted, queues);
	if (fd == -EBUSY)
		return error_named(err, EBUSY, "PORT_BUSY", "%s: %s is in use by another program",
				   port, wanted);
	if (fd < 0)
		return error_set(err, -fd, "%s: opening TAP device %s: %s", port, wanted,
				 strerror(-fd));
	memset(&have, 0, sizeof(have));
	if (!*made && (ioctl(fd, TUNGETIFF, &have) < 0 || !(have.ifr_flags & IFF_PERSIST))) {
		/* It lives by somebody's fd, and we are about to take that program's frames. */
		close(fd);
		return error_named(err, EBUSY, "PORT_BUSY", "%s: %s belongs to a running program",
				   port, wanted);
	}
	return fd;
}

/* What the kernel will give and take unfinished; asked for less and less until it agrees. */
static int offload_negotiate(int fd, uint32_t *caps)
{
	static const struct {
		unsigned tun;
		uint32_t caps;
	} steps[] = {
	    {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
	     PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO},
	    {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
	     PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6},
	    {TUN_F_CSUM, PORT_CAP_CSUM},
	    {0, 0},
	};

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (ioctl(fd, TUNSETOFFLOAD, steps[i].tun) == 0) {
			*caps = steps[i].caps | PORT_CAP_FRAGS;
			return 0;
		}
		if (errno != EINVAL)
			break;
	}
	return -errno;
}

/* Everything that is set once on the device, through its first queue. */
static int device_set_up(int fd, const char *port, bool made, bool persistent, uint32_t *caps,
			 struct error *err)
{
	int header = HEADER_BYTES, buffer = SEND_BUFFER_BYTES;
	const char *what = "TUNSETVNETHDRSZ";

	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		goto fail;
	what = "TUNSETSNDBUF";
	if (ioctl(fd, TUNSETSNDBUF, &buffer) < 0)
		goto fail;
	what = "TUNSETOFFLOAD";
	if (offload_negotiate(fd, caps) < 0)
		goto fail;
	what = "TUNSETOWNER";
	if (made && ioctl(fd, TUNSETOWNER, (unsigned long)geteuid()) < 0)
		goto fail;
	what = "TUNSETPERSIST";
	if (persistent && ioctl(fd, TUNSETPERSIST, 1ul) < 0)
		goto fail;
	return 0;
fail:
	return error_set(err, errno, "%s: %s: %s", port, what, strerror(errno));
}

/* Queue length, MTU (0: as it is) and the link, through the socket. */
static int link_set_up(int sock, const char *port, const char *name, uint32_t mtu,
		       uint32_t *ifindex, struct error *err)
{
	struct ifreq ifr = {0};
	const char *what = "queue length";

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(sock, SIOCGIFTXQLEN, &ifr) < 0)
		goto fail;
	if (ifr.ifr_qlen < QUEUE_FRAMES) {
		ifr.ifr_qlen = QUEUE_FRAMES;
		if (ioctl(sock, SIOCSIFTXQLEN, &ifr) < 0)
			goto fail;
	}
	what = "mtu";
	ifr.ifr_mtu = (int)mtu;
	if (mtu && ioctl(sock, SIOCSIFMTU, &ifr) < 0)
		goto fail;
	what = "flags";
	if (ioctl(sock, SIOCGIFFLAGS, &ifr) < 0)
		goto fail;
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &ifr) < 0)
		goto fail;
	what = "index";
	if (ioctl(sock, SIOCGIFINDEX, &ifr) < 0)
		goto fail;
	*ifindex = (uint32_t)ifr.ifr_ifindex;
	return 0;
fail:
	return error_set(err, errno, "%s: setting %s's %s: %s", port, name, what, strerror(errno));
}

static int tap_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	const char *name = port_option_text(options, "name", "tap%d");
	uint32_t queues, mtu, caps = 0, ifindex = 0;
	struct ifreq ifr = {0};
	bool persistent, made;
	int status, flags;

	fds->count = 0;
	if (!name_valid(name))
		return error_set(err, EINVAL, "%s: \"%s\" is not an interface name", options->port,
				 name);
	if (port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &queues, err) < 0 ||
	    port_option_u32(options, "mtu", 0, 68, MTU_MAX, &mtu, err) < 0 ||
	    port_option_bool(options, "persistent", false, &persistent, err) < 0)
		return -EINVAL;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	status = device_open(options->port, &ifr, queues, &flags, &made, err);
	if (status < 0)
		return status;
	fds->fd[fds->count++] = status;
	status = device_set_up(fds->fd[0], options->port, made, persistent, &caps, err);
	if (status < 0)
		goto fail;
	while (fds->count < queues) {
		status = queue_open(&ifr, flags);
		if (status < 0) {
			error_set(err, -status, "%s: queue %u of %s: %s", options->port, fds->count,
				  ifr.ifr_name, strerror(-status));
			goto fail;
		}
		fds->fd[fds->count++] = status;
	}
	status = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (status < 0) {
		status = error_set(err, errno, "%s: socket: %s", options->port, strerror(errno));
		goto fail;
	}
	fds->fd[fds->count++] = status;
	status = link_set_up(status, options->port, ifr.ifr_name, mtu, &ifindex, err);
	if (status < 0)
		goto fail;
	snprintf(fds->state, sizeof(fds->state), "name=%s queues=%u caps=%u ifindex=%u",
		 ifr.ifr_name, queues, caps, ifindex);
	return 0;
fail:
	if (made && persistent)
		ioctl(fds->fd[0], TUNSETPERSIST, 0ul);
	while (fds->count)
		close(fds->fd[--fds->count]);
	return status;
}

/* ---- forwarder, control thread ---- */

/*
 * Flags and MTU of the device named in ifr, if the socket's namespace is still the device's: a
 * device of the same name with another address is another device.
 */
static bool device_here(const struct tap *tap, const struct ifreq *device, struct ifreq *ifr)
{
	struct ifreq mac = *device;

	*ifr = *device;
	if (ioctl(tap->queues[0].fd, SIOCGIFHWADDR, &mac) < 0 ||
	    ioctl(tap->socket, SIOCGIFHWADDR, ifr) < 0)
		return false;
	return memcmp(mac.ifr_hwaddr.sa_data, ifr->ifr_hwaddr.sa_data, 6) == 0;
}

static uint32_t device_mtu(const struct tap *tap, const struct ifreq *device)
{
	struct ifreq ifr;

	if (!device_here(tap, device, &ifr) || ioctl(tap->socket, SIOCGIFMTU, &ifr) < 0)
		return 0;
	return (uint32_t)ifr.ifr_mtu;
}

/* A queue can be written to exactly while its device is up and its send buffer has room. */
static bool link_is_up(struct tap *tap)
{
	struct pollfd p = {.fd = tap->queues[0].fd, .events = POLLOUT};

	if (poll(&p, 1, 0) < 0 || (p.revents & (POLLERR | POLLNVAL)))
		return false;
	if (!(p.revents & POLLOUT))
		return atomic_load_explicit(&tap->full, memory_order_relaxed);
	atomic_store_explicit(&tap->full, false, memory_order_relaxed);
	return true;
}

static void tap_poll_status(struct port *port, struct port_status *status)
{
	struct tap *tap = port->priv;
	struct ifreq device = {0}, ifr;
	bool here;

	status->caps = atomic_load_explicit(&port->caps, memory_order_relaxed);
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	if (ioctl(tap->queues[0].fd, TUNGETIFF, &device) < 0) {
		status->lost = true;
		snprintf(status->detail, sizeof(status->detail), "the TAP device is gone");
		return;
	}
	here = device_here(tap, &device, &ifr);
	status->link_up = link_is_up(tap);
	status->mtu = device_mtu(tap, &device);
	status->ifindex = here ? tap->ifindex : 0;
	ifr = device;
	if (ioctl(tap->queues[0].fd, SIOCGIFHWADDR, &ifr) == 0)
		memcpy(status->mac, ifr.ifr_hwaddr.sa_data, 6);
	atomic_store_explicit(&port->mtu, status->mtu, memory_order_relaxed);
	snprintf(status->detail, sizeof(status->detail), "%.15s, %u queue%s, virtio-net header%s%s",
		 device.ifr_name, tap->queue_count, tap->queue_count == 1 ? "" : "s",
		 status->caps & PORT_CAP_USO ? ", UDP segmentation" : "",
		 here ? "" : ", in another namespace");
}

static void tap_detach(struct port *port)
{
	struct tap *tap = port->priv;

	for (unsigned q = 0; q < tap->queue_count; q++) {
		if (tap->queues[q].arena)
			munmap(tap->queues[q].arena, ARENA_BYTES);
	}
	free(tap);
	port->priv = NULL;
}

static int tap_attach(struct port *port, const struct port_options *options,
		      const struct port_fds *fds, struct error *err)
{
	uint32_t queues = port_state_u32(fds, "queues", 0);
	struct ifreq device = {0};
	struct tap *tap;
	void *arena;

	if (queues < 1 || queues > PORT_QUEUES_MAX || fds->count != queues + 1)
		return error_set(err, EPROTO, "%s: %u fds for %u queues", options->port, fds->count,
				 queues);
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return error_set(err, ENOMEM, "%s: no memory", options->port);
	port->priv = tap;
	tap->queue_count = queues;
	tap->socket = fds->fd[queues];
	tap->ifindex = port_state_u32(fds, "ifindex", 0);
	for (unsigned q = 0; q < queues; q++) {
		arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (arena == MAP_FAILED) {
			tap_detach(port);
			return error_set(err, ENOMEM, "%s: no memory for queue %u", options->port,
					 q);
		}
		tap->queues[q] = (struct tap_queue){.fd = fds->fd[q], .arena = arena};
		port->rxq[q] = (struct port_queue){port, &tap->queues[q], (uint16_t)q};
		port->txq[q] = port->rxq[q];
	}
	port->pool = 0;
	port->rx_queue_count = port->tx_queue_count = (uint16_t)queues;
	atomic_store_explicit(&port->caps, port_state_u32(fds, "caps", PORT_CAP_FRAGS),
			      memory_order_relaxed);
	if (ioctl(fds->fd[0], TUNGETIFF, &device) == 0)
		atomic_store_explicit(&port->mtu, device_mtu(tap, &device), memory_order_relaxed);
	return 0;
}

/* ---- forwarder, workers ---- */

static int tap_rx_fd(const struct port_queue *queue)
{
	const struct tap_queue *tq = queue->priv;

	return tq->fd;
}

static int tap_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		  struct port_counters *cell)
{
	struct tap_queue *tq = queue->priv;
	uint32_t at = FRAME_HEADROOM;
	unsigned count = 0;
	ssize_t n;

	while (count < max && at < BATCH_BYTES) {
		struct frame *frame = &batch[count];
		struct iovec parts[2] = {
		    {&frame->offload, HEADER_BYTES},
		    {tq->arena + at, FRAME_LEN_MAX + 1}, /* one more tells a frame cut short */
		};

		n = readv(tq->fd, parts, 2);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (count == 0 && (errno == EBADFD || errno == EFAULT))
				return -ENETDOWN;
			break;
		}
		if (n < HEADER_BYTES + FRAME_LEN_MIN)
			continue; /* the kernel sends none */
		n -= HEADER_BYTES;
		if (n > FRAME_LEN_MAX) {
			counter_add(&cell->rx_frames, 1);
			counter_add(&cell->rx_bytes, (uint64_t)n);
			counter_add(&cell->rx_drops[DROP_TRUNCATED], 1);
			continue;
		}
		frame->data = tq->arena + at;
		frame->next = NULL;
		frame->slot = NULL;
		frame->len = frame->frame_len = (uint32_t)n;
		frame->headroom = FRAME_HEADROOM;
		frame->pool = 0;
		frame->flags = 0;
		at += ((uint32_t)n + FRAME_HEADROOM + 63) & ~63u;
		count++;
	}
	return (int)count;
}

static void tap_rx_done(struct port_queue *queue)
{
	(void)queue; /* the next rx begins the arena anew */
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Waits for room until *deadline_ns, which the first wait of a batch sets. */
static bool room_wait(int fd, uint64_t *deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	uint64_t now = now_ns();
	struct timespec left;

	if (!*deadline_ns)
		*deadline_ns = now + TX_WAIT_NS;
	if (now >= *deadline_ns)
		return false;
	left = (struct timespec){.tv_nsec = (long)(*deadline_ns - now)};
	return ppoll(&p, 1, &left, NULL) > 0 && (p.revents & POLLOUT);
}

static enum drop_reason reason_of(int error, const struct frame *frame)
{
	switch (error) {
	case EAGAIN:
		return DROP_QUEUE_FULL;
	case EIO:
	case EBADFD:
		return DROP_LINK_DOWN;
	case EINVAL: /* of the kernel's checks only those of the virtio-net header are left */
		return frame_has_offload(frame) ? DROP_OFFLOAD_INVALID : DROP_TX_ERROR;
	default:
		return DROP_TX_ERROR;
	}
}

/* 0 or the errno of the write. */
static int frame_write(struct tap *tap, int fd, const struct frame *frame, uint64_t *deadline_ns)
{
	struct frame_offload header = frame->offload;
	struct iovec parts[1 + FRAME_FRAGS_MAX + 1];
	const struct frame *fragment;
	int count = 0;

	if (frame->frame_len < FRAME_LEN_MIN)
		return EINVAL;
	if (header.hdr_len > frame->frame_len)
		header.hdr_len = 0; /* a hint; the kernel would refuse the frame for it */
	parts[count++] = (struct iovec){&header, HEADER_BYTES};
	for (fragment = frame; fragment; fragment = fragment->next) {
		if (count == (int)(sizeof(parts) / sizeof(parts[0])))
			return EMSGSIZE;
		parts[count++] = (struct iovec){fragment->data, fragment->len};
	}
	while (writev(fd, parts, count) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return errno;
		atomic_store_explicit(&tap->full, true, memory_order_relaxed);
		if (!room_wait(fd, deadline_ns))
			return EAGAIN;
	}
	return 0;
}

static void tap_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		   struct tx_report *report)
{
	struct tap_queue *tq = queue->priv;
	struct tap *tap = queue->port->priv;
	uint64_t deadline_ns = 0;
	int error;

	port_commit(report);
	for (unsigned i = 0; i < count; i++) {
		error = frame_write(tap, tq->fd, frames[i], &deadline_ns);
		if (error) {
			report->drops[reason_of(error, frames[i])]++;
			continue;
		}
		report->sent++;
		report->sent_bytes += frames[i]->frame_len;
	}
}

extern const struct port_ops port_tap_ops;

static const char *const tap_options[] = {"name", "queues", "persistent", "mtu", NULL};

const struct port_ops port_tap_ops = {
    .type = "tap",
    .options = tap_options,
    .acquire = tap_acquire,
    .attach = tap_attach,
    .detach = tap_detach,
    .poll_status = tap_poll_status,
    .rx = tap_rx,
    .rx_done = tap_rx_done,
    .tx_commits = true,
    .tx = tap_tx,
    .rx_fd = tap_rx_fd,
};
