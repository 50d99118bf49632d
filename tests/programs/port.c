#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

void die(const char *format, ...)
{
	va_list more;
	va_start(more, format);
	vfprintf(stderr, format, more);
	va_end(more);
	fputc('\n', stderr);
	exit(1);
}

const char *word_option(char **argv, const char *name, const char *otherwise)
{
	for (; *argv; argv++)
		if (!strncmp(*argv, "--", 2) && !strcmp(*argv + 2, name) && argv[1])
			return argv[1];
	return otherwise;
}

long option(char **argv, const char *name, long otherwise)
{
	const char *word = word_option(argv, name, NULL);
	return word ? strtol(word, NULL, 0) : otherwise;
}

void ready(void)
{
	puts("ready");
	fflush(stdout);
}

void port_open(struct port *port, const char *name, char **argv)
{
	struct nmreq_header hdr = {.nr_version = NETMAP_API, .nr_reqtype = NETMAP_REQ_REGISTER};
	*port = (struct port){.fd = open(NETMAP_DEVICE, O_RDWR)};
	if (port->fd < 0)
		die("%s: %s", NETMAP_DEVICE, strerror(errno));
	snprintf(hdr.nr_name, sizeof hdr.nr_name, "%s", name);
	hdr.nr_body = (uintptr_t)&port->reg;
	port->reg.nr_mode = (uint32_t)option(argv, "mode", NR_REG_ALL_NIC);
	port->reg.nr_flags = (uint64_t)option(argv, "flags", 0);
	port->reg.nr_mem_id = (uint16_t)option(argv, "region", 0);
	port->reg.nr_tx_rings = port->reg.nr_rx_rings = (uint16_t)option(argv, "rings", 0);
	port->reg.nr_tx_slots = port->reg.nr_rx_slots = (uint32_t)option(argv, "slots", 0);
	if (ioctl(port->fd, NIOCCTRL, &hdr) < 0)
		die("%s: %s", name, strerror(errno));
	port_map(port);
}

void port_map(struct port *port)
{
	port->bytes = port->reg.nr_memsize;
	port->memory = mmap(NULL, port->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, port->fd, 0);
	if (port->memory == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	port->nifp = (void *)(port->memory + port->reg.nr_offset);
}

void port_close(struct port *port)
{
	munmap(port->memory, port->bytes);
	close(port->fd);
}

static struct netmap_ring *ring_at(const struct port *port, unsigned i)
{
	int64_t at = port->nifp->ring_ofs[i];
	return at ? (void *)((char *)port->nifp + at) : NULL;
}

struct netmap_ring *tx_ring(const struct port *port, unsigned i)
{
	return i < port->nifp->ni_tx_rings ? ring_at(port, i) : NULL;
}

struct netmap_ring *rx_ring(const struct port *port, unsigned i)
{
	unsigned first = port->nifp->ni_tx_rings + port->nifp->ni_host_tx_rings;
	return i < port->nifp->ni_rx_rings ? ring_at(port, first + i) : NULL;
}

/* --- frames ----------------------------------------------------------------------------------- */

static void address(uint8_t *at, unsigned last)
{
	static const uint8_t local[6] = {2};
	memcpy(at, local, 6);
	at[5] = (uint8_t)last;
	if (last == BROADCAST)
		memset(at, 0xff, 6);
}

void frame_fill(uint8_t *frame, size_t bytes, unsigned from, unsigned to, uint64_t number)
{
	address(frame, to);
	address(frame + 6, from);
	frame[12] = 0x88;
	frame[13] = 0xb5;
	memcpy(frame + 14, &number, sizeof number);
	for (size_t i = FRAME_HEAD; i < bytes; i++)
		frame[i] = (uint8_t)(number + i);
}

int64_t frame_number(const uint8_t *frame, size_t bytes)
{
	uint64_t number;
	if (bytes < FRAME_HEAD || frame[12] != 0x88 || frame[13] != 0xb5)
		return -1;
	memcpy(&number, frame + 14, sizeof number);
	for (size_t i = FRAME_HEAD; i < bytes; i++)
		if (frame[i] != (uint8_t)(number + i))
			return -1;
	return (int64_t)number;
}

/* --- sending ---------------------------------------------------------------------------------- */

static bool tx_pending(const struct port *port)
{
	for (unsigned i = 0; i < port->nifp->ni_tx_rings; i++) {
		const struct netmap_ring *ring = tx_ring(port, i);
		if (ring &&
		    ring_space(ring->head, ring->tail, ring->num_slots) != ring->num_slots - 1)
			return true;
	}
	return false;
}

/* As many frames as fit into the ring's next slots, from `number` up to `end`. */
static uint64_t put(struct netmap_ring *ring, char **argv, uint64_t number, uint64_t end)
{
	size_t bytes = (size_t)option(argv, "bytes", 60);
	unsigned from = (unsigned)option(argv, "from", 1), to = (unsigned)option(argv, "to", 2);
	uint16_t flags = (uint16_t)option(argv, "slot-flags", 0);
	uint8_t frame[FRAME_MAX];
	uint32_t size = ring->nr_buf_size;
	uint32_t need = (uint32_t)((bytes + size - 1) / size);
	while (number < end && ring_space(ring->head, ring->tail, ring->num_slots) >= need) {
		frame_fill(frame, bytes, from, to, number++);
		for (size_t at = 0; at < bytes; at += size) {
			struct netmap_slot *slot = &ring->slot[ring->head];
			slot->len = (uint16_t)(bytes - at < size ? bytes - at : size);
			slot->flags = (uint16_t)(flags | (at + size < bytes ? NS_MOREFRAG : 0));
			memcpy(ring_buffer(ring, slot->buf_idx), frame + at, slot->len);
			ring->head = ring->cur = ring_next(ring, ring->head);
		}
	}
	return number;
}

void send_frames(const struct port *port, char **argv, uint64_t first, uint64_t count)
{
	uint64_t burst = (uint64_t)option(argv, "burst", 64);
	useconds_t pause_us = (useconds_t)option(argv, "pause-us", 0);
	bool by_ioctl = !strcmp(word_option(argv, "wait", "poll"), "ioctl");
	struct pollfd fd = {.fd = port->fd, .events = POLLOUT};
	for (uint64_t number = first; number < first + count;) {
		uint64_t end = number + burst < first + count ? number + burst : first + count;
		for (unsigned i = 0; i < port->nifp->ni_tx_rings; i++)
			if (tx_ring(port, i))
				number = put(tx_ring(port, i), argv, number, end);
		int result = by_ioctl ? ioctl(port->fd, NIOCTXSYNC, NULL) : poll(&fd, 1, 1000);
		if (result < 0 || (!by_ioctl && fd.revents & POLLERR))
			die("sync: %s", result < 0 ? strerror(errno) : "POLLERR");
		if (pause_us)
			usleep(pause_us);
	}
	while (tx_pending(port)) {
		if (ioctl(port->fd, NIOCTXSYNC, NULL) < 0)
			die("NIOCTXSYNC: %s", strerror(errno));
		usleep(50);
	}
}

/* --- receiving -------------------------------------------------------------------------------- */

static void count_frame(struct tally *tally, const uint8_t *frame, size_t bytes)
{
	if (bytes < 14 || frame[12] != 0x88 || frame[13] != 0xb5) {
		tally->foreign++; /* a host's ARP and the like */
		return;
	}
	int64_t number = frame_number(frame, bytes);
	if (number < 0) {
		tally->bad++;
		return;
	}
	if (tally->frames && (uint64_t)number <= tally->last)
		tally->order++;
	tally->last = (uint64_t)number;
	tally->frames++;
	tally->bytes += bytes;
}

static void take(struct netmap_ring *ring, struct tally *tally)
{
	static uint8_t frame[64 * FRAME_MAX];
	size_t bytes = 0;
	while (ring->head != ring->tail) {
		struct netmap_slot *slot = &ring->slot[ring->head];
		if (slot->len > ring->nr_buf_size || bytes + slot->len > sizeof frame)
			die("slot %u has %u bytes", ring->head, slot->len);
		memcpy(frame + bytes, ring_buffer(ring, slot->buf_idx), slot->len);
		bytes += slot->len;
		ring->head = ring->cur = ring_next(ring, ring->head);
		if (slot->flags & NS_MOREFRAG)
			continue;
		count_frame(tally, frame, bytes);
		bytes = 0;
	}
}

void take_all(const struct port *port, struct tally *tally)
{
	for (unsigned i = 0; i < port->nifp->ni_rx_rings; i++)
		if (rx_ring(port, i))
			take(rx_ring(port, i), tally);
}

void receive_frames(const struct port *port, char **argv, uint64_t count, struct tally *tally)
{
	const char *how = word_option(argv, "wait", "poll");
	int idle_ms = (int)option(argv, "idle", 10000);
	while (tally->frames < count && wait_rx(port, how, idle_ms))
		take_all(port, tally);
	/* what came by a pipe is the sender's again */
	if (ioctl(port->fd, NIOCRXSYNC, NULL) < 0)
		die("NIOCRXSYNC: %s", strerror(errno));
}

void tally_print(const struct tally *tally)
{
	printf("{\"frames\": %ju, \"bytes\": %ju, \"bad\": %ju, \"foreign\": %ju, \"last\": %ju, "
	       "\"order\": %ju}\n",
	       (uintmax_t)tally->frames, (uintmax_t)tally->bytes, (uintmax_t)tally->bad,
	       (uintmax_t)tally->foreign, (uintmax_t)tally->last, (uintmax_t)tally->order);
	fflush(stdout);
}
