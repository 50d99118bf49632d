/*
 * tun: a kernel TUN device, whose side is IP packets, as a station of the bridge, whose side is
 * Ethernet. The port has an address of its own; it puts the Ethernet header in front of what
 * comes from the TUN and takes it off what goes there, finds out the next station by ARP and
 * Neighbor Discovery, and answers both for what is behind it (port_tun_neighbors.c says for what).
 *
 * It is a port, no router: the hop limit stays, nothing is fragmented, and every destination is
 * looked for on the bridge itself. A frame that is no IP packet, or carries a VLAN tag, cannot go
 * through: drop `l3_port`. Unicast frames for other stations, which the bridge floods, are
 * `not_addressed`.
 *
 * Keeper: as a TAP (port_tundev.c), one queue; state has "mac=" besides. The address is made of
 * machine, network namespace, port and device, so that it is the same after a restart.
 *
 * fds: the queue, the socket, then a memfd with what is known of neighbours.
 *
 * Forwarder: what is known is in the memfd, so that the next one asks nobody; packets that wait
 * for an answer die with it. The rest is as with a TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "port_tun.h"

enum { HEAD_BYTES = 64, ICMPV6 = 58, ND_SOLICITATION = 135, ND_ADVERTISEMENT = 136 };

/* ---- keeper ---- */

static uint64_t fnv1a(uint64_t hash, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ at[i]) * 0x100000001b3;
	return hash;
}

/* A locally administered address, the same for the same machine, namespace, port and device. */
static uint64_t mac_derive(const char *port, const char *device)
{
	uint64_t hash = 0xcbf29ce484222325;
	struct utsname host;
	struct stat netns;
	char id[64];
	size_t len = 0;
	FILE *file = fopen("/etc/machine-id", "re");

	if (file) {
		len = fread(id, 1, sizeof(id), file);
		fclose(file);
	}
	hash = fnv1a(hash, id, len);
	if (uname(&host) == 0)
		hash = fnv1a(hash, host.nodename, strlen(host.nodename));
	if (stat("/proc/thread-self/ns/net", &netns) == 0)
		hash = fnv1a(hash, &netns.st_ino, sizeof(netns.st_ino));
	hash = fnv1a(hash, port, strlen(port) + 1);
	hash = fnv1a(hash, device, strlen(device) + 1);
	hash ^= hash >> 33;
	return (hash & 0xffffffffff) | (uint64_t)2 << 40;
}

/* A memfd for struct tun_memory, whose size stays. */
static int memory_open(const char *port, struct error *err)
{
	int fd = memfd_create("vswitch-tun", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && ftruncate(fd, sizeof(struct tun_memory)) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	error_set(err, errno, "%s: memory for neighbours: %s", port, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -err->code;
}

static int tun_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	const char *address = port_option_text(options, "address", NULL);
	struct neighbor_prefix prefix;
	char device[32] = "";
	int memory, status;
	uint64_t mac;
	size_t used;

	if (address && !neighbor_prefix_parse(address, &prefix))
		return error_set(err, EINVAL,
				 "%s: address \"%s\" is neither an address nor a prefix",
				 options->port, address);
	memory = memory_open(options->port, err);
	if (memory < 0)
		return memory;
	status = tundev_acquire(TUNDEV_TUN, options, fds, err);
	if (status < 0) {
		close(memory);
		return status;
	}
	fds->fd[fds->count++] = memory;
	sscanf(fds->state, "name=%31s", device);
	mac = mac_derive(options->port, device);
	used = strlen(fds->state);
	snprintf(fds->state + used, sizeof(fds->state) - used, " mac_high=%u mac_low=%u",
		 (unsigned)(mac >> 32), (unsigned)mac);
	return 0;
}

/* ---- forwarder, control thread ---- */

static void tun_poll_status(struct port *port, struct port_status *status)
{
	struct tun *tun = port->priv;
	size_t used;

	tundev_poll_status(&tun->dev, port, status);
	for (unsigned i = 0; i < 6; i++)
		status->mac[i] = (uint8_t)(tun->mac >> (40 - 8 * i));
	used = strlen(status->detail);
	if (!status->lost)
		snprintf(status->detail + used, sizeof(status->detail) - used,
			 ", %u known, %u behind", (unsigned)atomic_load(&tun->known),
			 (unsigned)atomic_load(&tun->known_behind));
}

static void tun_detach(struct port *port)
{
	struct tun *tun = port->priv;
	const int own[] = {tun->poll_fd, tun->bell_fd, tun->timer_fd};

	tundev_detach(&tun->dev);
	if (tun->buffers)
		munmap(tun->buffers, (size_t)TUN_WAITING * TUN_BUFFER_BYTES);
	if (tun->memory)
		munmap(tun->memory, sizeof(*tun->memory));
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		if (own[i] >= 0)
			close(own[i]);
	}
	pthread_spin_destroy(&tun->lock);
	free(tun);
	port->priv = NULL;
}

/* What the worker sleeps on: the queue, the bell, a second. */
static int wait_set_make(struct tun *tun)
{
	const struct itimerspec every = {.it_interval = {.tv_sec = 1}, .it_value = {.tv_sec = 1}};
	struct epoll_event event = {.events = EPOLLIN};
	int watched[3];

	tun->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	tun->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	tun->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (tun->poll_fd < 0 || tun->bell_fd < 0 || tun->timer_fd < 0 ||
	    timerfd_settime(tun->timer_fd, 0, &every, NULL) < 0)
		return -errno;
	watched[0] = tun->dev.queues[0].fd;
	watched[1] = tun->bell_fd;
	watched[2] = tun->timer_fd;
	for (unsigned i = 0; i < 3; i++) {
		event.data.fd = watched[i];
		if (epoll_ctl(tun->poll_fd, EPOLL_CTL_ADD, watched[i], &event) < 0)
			return -errno;
	}
	return 0;
}

/* What is known, and buffers for packets that wait: those are populated where they are touched. */
static int memory_map(struct tun *tun, const struct port_fds *fds, const char *port,
		      struct error *err)
{
	const size_t buffers_bytes = (size_t)TUN_WAITING * TUN_BUFFER_BYTES;
	int fd = fds->fd[fds->count - 1];
	struct stat about;
	void *memory, *buffers;

	if (fstat(fd, &about) < 0 || about.st_size != sizeof(*tun->memory))
		return error_set(err, EPROTO, "%s: memory of another shape", port);
	memory = mmap(NULL, sizeof(*tun->memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	buffers =
	    mmap(NULL, buffers_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	tun->memory = memory == MAP_FAILED ? NULL : memory;
	tun->buffers = buffers == MAP_FAILED ? NULL : buffers;
	if (!tun->memory || !tun->buffers)
		return error_set(err, ENOMEM, "%s: no memory for neighbours", port);
	return 0;
}

static int tun_attach(struct port *port, const struct port_options *options,
		      const struct port_fds *fds, struct error *err)
{
	const char *address = port_option_text(options, "address", NULL);
	struct tun *tun = calloc(1, sizeof(*tun));
	int status;

	if (!tun)
		return error_set(err, ENOMEM, "%s: no memory", options->port);
	status = tundev_attach(&tun->dev, TUNDEV_TUN, port, options, fds, err);
	if (status < 0) {
		free(tun);
		return status;
	}
	pthread_spin_init(&tun->lock, PTHREAD_PROCESS_PRIVATE);
	port->priv = tun;
	port->txq[0].priv = port->rxq[0].priv = tun;
	tun->poll_fd = tun->bell_fd = tun->timer_fd = -1;
	tun->mac = (uint64_t)port_state_u32(fds, "mac_high", 2 << 8) << 32 |
		   port_state_u32(fds, "mac_low", 1);
	tun->has_prefix = address && neighbor_prefix_parse(address, &tun->prefix);
	status = memory_map(tun, fds, options->port, err);
	if (status >= 0)
		status = tun_neighbors_init(tun, err);
	if (status >= 0) {
		status = wait_set_make(tun);
		if (status < 0)
			error_set(err, -status, "%s: epoll: %s", options->port, strerror(-status));
	}
	if (status < 0)
		tun_detach(port);
	return status;
}

/* ---- forwarder, workers ---- */

static uint32_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec + 1; /* never 0, which means never */
}

static int tun_rx_fd(const struct port_queue *queue)
{
	const struct tun *tun = queue->priv;

	return tun->poll_fd;
}

/* What has happened since the last call besides packets. */
static void tun_listen(struct tun *tun, uint32_t now)
{
	uint64_t ignored;

	if (atomic_exchange(&tun->rung, false) && read(tun->bell_fd, &ignored, sizeof(ignored)) < 0)
		ignored = 0; /* heard already */
	if (tun->tick_s == now)
		return;
	tun->tick_s = now;
	if (read(tun->timer_fd, &ignored, sizeof(ignored)) < 0)
		ignored = 0; /* our clock's second is not the timer's */
	tun_tick(tun, now);
}

static int tun_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		  struct port_counters *cell)
{
	struct tun *tun = queue->priv;
	uint32_t now = now_s();
	unsigned count, kept;
	int got;

	tun_listen(tun, now);
	count = kept = atomic_load(&tun->news) ? tun_release(tun, batch, max) : 0;
	got = tundev_rx(&tun->dev, &tun->dev.queues[0], batch + count, max - count, cell);
	for (int i = 0; i < got; i++) {
		struct frame frame = batch[count + (unsigned)i];
		enum drop_reason reason;
		enum tun_verdict verdict = tun_address(tun, &frame, now, &reason);

		if (verdict == TUN_SEND) {
			batch[kept++] = frame;
		} else if (verdict != TUN_WAIT) {
			counter_add(&cell->rx_frames, 1);
			counter_add(&cell->rx_bytes, frame.len + FRAME_LEN_MIN);
			counter_add(verdict == TUN_USED ? &cell->consumed : &cell->rx_drops[reason],
				    1);
		}
	}
	if (atomic_load(&tun->news)) {
		kept += tun_post(tun, batch + kept, max - kept);
		tun_bury(tun, cell);
	}
	return kept || got > 0 ? (int)kept : got;
}

static void tun_rx_done(struct port_queue *queue)
{
	tun_recycle(queue->priv);
}

/* Bytes of the IP packet behind the header; 0: the frame is shorter than it says. */
static uint32_t packet_len(const struct frame *frame, const uint8_t *ip)
{
	uint32_t len = frame->frame_len - frame->l3_offset, said;

	if (frame->ethertype == NEIGHBOR_IPV4) {
		if (len < 20 || ip[0] >> 4 != 4)
			return 0;
		said = load_be16(ip + 2);
	} else {
		if (len < 40 || ip[0] >> 4 != 6)
			return 0;
		said = load_be16(ip + 4) ? 40u + load_be16(ip + 4) : len;
	}
	if (frame->offload.gso_type != FRAME_GSO_NONE)
		return len;
	return said < 20 || said > len ? 0 : said;
}

/* ARP, solicitations and advertisements end here. Returns DROP_REASONS: consumed. */
static enum drop_reason tun_answer(struct tun *tun, const struct frame *frame, uint64_t source,
				   uint64_t *deadline_ns)
{
	uint8_t bytes[NEIGHBOR_PEEK] = {0}, knock[NEIGHBOR_KNOCK_BYTES];
	struct neighbor_message message;
	enum neighbor_kind kind;
	struct frame packet = {.data = knock};
	struct tundev_unit unit = {.frame = &packet};
	unsigned len;

	frame_peek(frame, bytes, sizeof(bytes));
	kind = neighbor_parse(bytes, frame->frame_len, frame->l3_offset, frame->ethertype,
			      frame->offload.flags & FRAME_CSUM_NEEDED, &message);
	if (kind == NEIGHBOR_BAD)
		return DROP_MALFORMED;
	if (kind == NEIGHBOR_NONE)
		return DROP_L3_PORT;
	if (!tun_hear(tun, kind, &message, source, now_s(), knock, &len))
		return DROP_QUEUE_FULL;
	packet.len = packet.frame_len = unit.len = len;
	/* An answer that does not come is none; so is a knock that is not heard. */
	if (len)
		tundev_write(&tun->dev, &tun->dev.queues[0], &unit, deadline_ns);
	return DROP_REASONS;
}

static bool is_message(const struct frame *frame, const uint8_t *ip)
{
	if (frame->ethertype == NEIGHBOR_ARP)
		return true;
	return frame->ethertype == NEIGHBOR_IPV6 && frame->frame_len > frame->l3_offset + 40u &&
	       ip[6] == ICMPV6 && (ip[40] == ND_SOLICITATION || ip[40] == ND_ADVERTISEMENT);
}

/* DROP_REASONS: consumed, or *unit is to be written. */
static enum drop_reason tun_frame(struct tun *tun, const struct frame *frame,
				  struct tundev_unit *unit, uint64_t *deadline_ns)
{
	uint8_t head[HEAD_BYTES] = {0};
	const uint8_t *ip = head + FRAME_LEN_MIN;
	uint64_t dst;

	*unit = (struct tundev_unit){.frame = frame, .skip = FRAME_LEN_MIN};
	frame_peek(frame, head, sizeof(head));
	dst = load_mac(head);
	if (!(dst & MAC_GROUP) && dst != tun->mac)
		return DROP_NOT_ADDRESSED;
	if (frame->tags || frame->l3_offset != FRAME_LEN_MIN || frame->frame_len < FRAME_LEN_MIN)
		return DROP_L3_PORT;
	if (is_message(frame, ip))
		return tun_answer(tun, frame, load_mac(head + 6), deadline_ns);
	if (frame->ethertype != NEIGHBOR_IPV4 && frame->ethertype != NEIGHBOR_IPV6)
		return DROP_L3_PORT;
	unit->len = packet_len(frame, ip);
	if (!unit->len)
		return DROP_MALFORMED;
	if (frame_has_offload(frame)) {
		unit->offload = frame->offload;
		if (frame->offload.csum_start < FRAME_LEN_MIN)
			return DROP_OFFLOAD_INVALID;
		unit->offload.csum_start -= FRAME_LEN_MIN;
		unit->offload.hdr_len -=
		    frame->offload.hdr_len < FRAME_LEN_MIN ? frame->offload.hdr_len : FRAME_LEN_MIN;
	}
	return DROP_REASONS;
}

static void tun_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		   struct tx_report *report)
{
	struct tun *tun = queue->priv;
	uint64_t deadline_ns = 0;

	port_commit(report);
	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];
		struct tundev_unit unit;
		enum drop_reason reason = tun_frame(tun, frame, &unit, &deadline_ns);
		int error;

		if (reason != DROP_REASONS) {
			report->drops[reason]++;
			continue;
		}
		if (!unit.len) {
			report->consumed++;
			continue;
		}
		error = tundev_write(&tun->dev, &tun->dev.queues[0], &unit, &deadline_ns);
		if (error) {
			report->drops[tundev_drop_reason(error, frame)]++;
			continue;
		}
		report->sent++;
		report->sent_bytes += frame->frame_len;
	}
}

extern const struct port_ops port_tun_ops;

static const char *const tun_options[] = {"name", "persistent", "mtu", "address", NULL};

const struct port_ops port_tun_ops = {
    .type = "tun",
    .options = tun_options,
    .acquire = tun_acquire,
    .attach = tun_attach,
    .detach = tun_detach,
    .poll_status = tun_poll_status,
    .rx = tun_rx,
    .rx_done = tun_rx_done,
    .tx_commits = true,
    .tx = tun_tx,
    .rx_fd = tun_rx_fd,
};
