/* Runs on: see port_tundev.h. */
#include "port_tundev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

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

/* ---- keeper ---- */

static const char *const kind_words[] = {[TUNDEV_TAP] = "TAP", [TUNDEV_TUN] = "TUN"};

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
static int device_open(enum tundev_kind kind, const char *port, struct ifreq *ifr, unsigned queues,
		       int *flags, bool *made, struct error *err)
{
	const char *name = ifr->ifr_name, *word = kind_words[kind];
	char wanted[NAME_BYTES];
	struct ifreq have;
	int fd;

	snprintf(wanted, sizeof(wanted), "%s", name);
	*flags =
	    (kind == TUNDEV_TUN ? IFF_TUN : IFF_TAP) | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
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
				 "%s: %s exists and is not a %s device that takes %u queues", port,
				 wanted, word, queues);
	if (fd == -EBUSY)
		return error_named(err, EBUSY, "PORT_BUSY", "%s: %s is in use by another program",
				   port, wanted);
	if (fd < 0)
		return error_set(err, -fd, "%s: opening %s device %s: %s", port, word, wanted,
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

/* The queues behind the first, then the socket and the link. */
static int queues_open(const char *port, struct ifreq *ifr, uint32_t queues, int flags,
		       struct port_fds *fds, struct error *err)
{
	int fd;

	while (fds->count < queues) {
		fd = queue_open(ifr, flags);
		if (fd < 0)
			return error_set(err, -fd, "%s: queue %u of %s: %s", port, fds->count,
					 ifr->ifr_name, strerror(-fd));
		fds->fd[fds->count++] = fd;
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, errno, "%s: socket: %s", port, strerror(errno));
	fds->fd[fds->count++] = fd;
	return 0;
}

int tundev_acquire(enum tundev_kind kind, const struct port_options *options, struct port_fds *fds,
		   struct error *err)
{
	const char *name =
	    port_option_text(options, "name", kind == TUNDEV_TUN ? "tun%d" : "tap%d");
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
	status = device_open(kind, options->port, &ifr, queues, &flags, &made, err);
	if (status < 0)
		return status;
	fds->fd[fds->count++] = status;
	status = device_set_up(fds->fd[0], options->port, made, persistent, &caps, err);
	if (status < 0)
		goto fail;
	status = queues_open(options->port, &ifr, queues, flags, fds, err);
	if (status < 0)
		goto fail;
	status = link_set_up(fds->fd[queues], options->port, ifr.ifr_name, mtu, &ifindex, err);
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
 * device of the same name with another address (a TUN has none: another index) is another device.
 */
static bool device_here(const struct tundev *dev, const struct ifreq *device, struct ifreq *ifr)
{
	struct ifreq mac = *device;

	*ifr = *device;
	if (dev->link_header)
		return ioctl(dev->socket, SIOCGIFINDEX, ifr) == 0 &&
		       (uint32_t)ifr->ifr_ifindex == dev->ifindex;
	if (ioctl(dev->queues[0].fd, SIOCGIFHWADDR, &mac) < 0 ||
	    ioctl(dev->socket, SIOCGIFHWADDR, ifr) < 0)
		return false;
	return memcmp(mac.ifr_hwaddr.sa_data, ifr->ifr_hwaddr.sa_data, 6) == 0;
}

static uint32_t device_mtu(const struct tundev *dev, const struct ifreq *device)
{
	struct ifreq ifr;

	if (!device_here(dev, device, &ifr))
		return 0;
	ifr = *device;
	return ioctl(dev->socket, SIOCGIFMTU, &ifr) < 0 ? 0 : (uint32_t)ifr.ifr_mtu;
}

/* A queue can be written to exactly while its device is up and its send buffer has room. */
static bool link_is_up(struct tundev *dev)
{
	struct pollfd p = {.fd = dev->queues[0].fd, .events = POLLOUT};

	if (poll(&p, 1, 0) < 0 || (p.revents & (POLLERR | POLLNVAL)))
		return false;
	if (!(p.revents & POLLOUT))
		return atomic_load_explicit(&dev->full, memory_order_relaxed);
	atomic_store_explicit(&dev->full, false, memory_order_relaxed);
	return true;
}

void tundev_poll_status(struct tundev *dev, struct port *port, struct port_status *status)
{
	const char *word = kind_words[dev->link_header ? TUNDEV_TUN : TUNDEV_TAP];
	struct ifreq device = {0}, ifr;
	bool here;

	status->caps = atomic_load_explicit(&port->caps, memory_order_relaxed);
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	if (ioctl(dev->queues[0].fd, TUNGETIFF, &device) < 0) {
		status->lost = true;
		snprintf(status->detail, sizeof(status->detail), "the %s device is gone", word);
		return;
	}
	here = device_here(dev, &device, &ifr);
	status->link_up = link_is_up(dev);
	status->mtu = device_mtu(dev, &device);
	status->ifindex = here ? dev->ifindex : 0;
	ifr = device;
	if (!dev->link_header && ioctl(dev->queues[0].fd, SIOCGIFHWADDR, &ifr) == 0)
		memcpy(status->mac, ifr.ifr_hwaddr.sa_data, 6);
	atomic_store_explicit(&port->mtu, status->mtu, memory_order_relaxed);
	snprintf(status->detail, sizeof(status->detail), "%.15s, %u queue%s, virtio-net header%s%s",
		 device.ifr_name, dev->queue_count, dev->queue_count == 1 ? "" : "s",
		 status->caps & PORT_CAP_USO ? ", UDP segmentation" : "",
		 here ? "" : ", in another namespace");
}

void tundev_detach(struct tundev *dev)
{
	for (unsigned q = 0; q < dev->queue_count; q++) {
		if (dev->queues[q].arena)
			munmap(dev->queues[q].arena, ARENA_BYTES);
	}
}

int tundev_attach(struct tundev *dev, enum tundev_kind kind, struct port *port,
		  const struct port_options *options, const struct port_fds *fds, struct error *err)
{
	uint32_t queues = port_state_u32(fds, "queues", 0);
	struct ifreq device = {0};
	void *arena;

	if (queues < 1 || queues > PORT_QUEUES_MAX || fds->count < queues + 1)
		return error_set(err, EPROTO, "%s: %u fds for %u queues", options->port, fds->count,
				 queues);
	dev->link_header = kind == TUNDEV_TUN ? FRAME_LEN_MIN : 0;
	dev->queue_count = queues;
	dev->socket = fds->fd[queues];
	dev->ifindex = port_state_u32(fds, "ifindex", 0);
	for (unsigned q = 0; q < queues; q++) {
		arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (arena == MAP_FAILED) {
			tundev_detach(dev);
			return error_set(err, ENOMEM, "%s: no memory for queue %u", options->port,
					 q);
		}
		dev->queues[q] = (struct tundev_queue){.fd = fds->fd[q], .arena = arena};
		port->rxq[q] =
		    (struct port_queue){.port = port, .priv = &dev->queues[q], .id = (uint16_t)q};
		port->txq[q] = port->rxq[q];
	}
	port->pool = 0;
	port->rx_queue_count = port->tx_queue_count = (uint16_t)queues;
	atomic_store_explicit(&port->caps, port_state_u32(fds, "caps", PORT_CAP_FRAGS),
			      memory_order_relaxed);
	if (ioctl(fds->fd[0], TUNGETIFF, &device) == 0)
		atomic_store_explicit(&port->mtu, device_mtu(dev, &device), memory_order_relaxed);
	return 0;
}

/* ---- forwarder, workers ---- */

int tundev_rx(const struct tundev *dev, const struct tundev_queue *queue, struct frame *batch,
	      unsigned max, struct port_counters *cell)
{
	const ssize_t len_min = dev->link_header ? 1 : FRAME_LEN_MIN;
	const ssize_t len_max = FRAME_LEN_MAX - (ssize_t)dev->link_header;
	uint32_t at = FRAME_HEADROOM;
	unsigned count = 0;
	ssize_t n;

	while (count < max && at < BATCH_BYTES) {
		struct frame *frame = &batch[count];
		struct iovec parts[2] = {
		    {&frame->offload, HEADER_BYTES},
		    {queue->arena + at, FRAME_LEN_MAX + 1}, /* one more tells one cut short */
		};

		n = readv(queue->fd, parts, 2);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (count == 0 && (errno == EBADFD || errno == EFAULT))
				return -ENETDOWN;
			break;
		}
		n -= HEADER_BYTES;
		if (n < len_min)
			continue; /* the kernel sends none */
		if (n > len_max) {
			counter_add(&cell->rx_frames, 1);
			counter_add(&cell->rx_bytes, (uint64_t)n);
			counter_add(&cell->rx_drops[DROP_TRUNCATED], 1);
			continue;
		}
		frame->data = queue->arena + at;
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

enum drop_reason tundev_drop_reason(int error, const struct frame *frame)
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

/* The unit's bytes as parts behind the first; how many parts there are then, 0: too many. */
static int unit_parts(const struct tundev_unit *unit, struct iovec *parts, int room)
{
	const struct frame *fragment = unit->frame;
	uint32_t skip = unit->skip, left = unit->len;
	int count = 1;

	for (; fragment && left; fragment = fragment->next) {
		uint32_t len = fragment->len > skip ? fragment->len - skip : 0;

		if (len > left)
			len = left;
		if (len) {
			if (count == room)
				return 0;
			parts[count++] = (struct iovec){fragment->data + skip, len};
		}
		skip -= fragment->len < skip ? fragment->len : skip;
		left -= len;
	}
	return count;
}

int tundev_write(struct tundev *dev, const struct tundev_queue *queue,
		 const struct tundev_unit *unit, uint64_t *deadline_ns)
{
	struct frame_offload header = unit->offload;
	struct iovec parts[1 + FRAME_FRAGS_MAX + 1];
	int count = unit_parts(unit, parts, sizeof(parts) / sizeof(parts[0]));

	if (!count)
		return EMSGSIZE;
	if (header.hdr_len > unit->len)
		header.hdr_len = 0; /* a hint; the kernel would refuse the frame for it */
	parts[0] = (struct iovec){&header, HEADER_BYTES};
	while (writev(queue->fd, parts, count) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return errno;
		atomic_store_explicit(&dev->full, true, memory_order_relaxed);
		if (!room_wait(queue->fd, deadline_ns))
			return EAGAIN;
	}
	return 0;
}
