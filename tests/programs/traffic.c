/* send, receive, ping, pong, bridge. */
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "port.h"
#include "programs.h"

int send_main(char **argv)
{
	struct port port;
	port_open(&port, argv[0], argv);
	ready();
	uint64_t count = (uint64_t)option(argv, "frames", 1000);
	send_frames(&port, argv, (uint64_t)option(argv, "first", 0), count);
	printf("{\"sent\": %ju}\n", (uintmax_t)count);
	fflush(stdout);
	/* what is closed at once takes along what the switch has not fetched yet */
	usleep((useconds_t)option(argv, "linger-ms", 200) * 1000);
	port_close(&port);
	return 0;
}

int receive_main(char **argv)
{
	struct port port;
	struct tally tally = {0};
	port_open(&port, argv[0], argv);
	ready();
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	tally_print(&tally);
	port_close(&port);
	return 0;
}

/* --- one at a time ---------------------------------------------------------------------------- */

static void put_one(struct port *port, const uint8_t *frame, size_t bytes)
{
	struct netmap_ring *ring = tx_ring(port, 0);
	while (ring->head == ring->tail)
		if (ioctl(port->fd, NIOCTXSYNC, NULL) < 0)
			die("NIOCTXSYNC: %s", strerror(errno));
	struct netmap_slot *slot = &ring->slot[ring->head];
	memcpy(ring_buffer(ring, slot->buf_idx), frame, bytes);
	slot->len = (uint16_t)bytes;
	slot->flags = 0;
	ring->head = ring->cur = ring_next(ring, ring->head);
	if (ioctl(port->fd, NIOCTXSYNC, NULL) < 0)
		die("NIOCTXSYNC: %s", strerror(errno));
}

static uint64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

int ping_main(char **argv)
{
	struct port port;
	uint64_t count = (uint64_t)option(argv, "frames", 1000), answered = 0;
	uint8_t frame[60];
	port_open(&port, argv[0], argv);
	ready();
	uint64_t before = now_ns();
	for (uint64_t number = 0; number < count; number++) {
		struct tally tally = {0};
		frame_fill(frame, sizeof frame, 1, 2, number);
		put_one(&port, frame, sizeof frame);
		while ((!tally.frames || tally.last != number) && wait_rx(&port, "poll", 1000))
			take_all(&port, &tally);
		answered += tally.frames && tally.last == number;
	}
	printf("{\"answered\": %ju, \"ns\": %ju}\n", (uintmax_t)answered,
	       (uintmax_t)((now_ns() - before) / (count ? count : 1)));
	port_close(&port);
	return 0;
}

/* The sender's address where the receiver's was, and the other way round. */
static void turn_round(uint8_t *frame)
{
	for (unsigned i = 0; i < 6; i++) {
		uint8_t byte = frame[i];
		frame[i] = frame[6 + i];
		frame[6 + i] = byte;
	}
}

int pong_main(char **argv)
{
	struct port port;
	port_open(&port, argv[0], argv);
	ready();
	struct netmap_ring *ring = rx_ring(&port, 0);
	while (wait_rx(&port, "poll", (int)option(argv, "idle", 3000)))
		for (; ring->head != ring->tail;
		     ring->head = ring->cur = ring_next(ring, ring->head)) {
			const struct netmap_slot *slot = &ring->slot[ring->head];
			const uint8_t *frame = ring_buffer(ring, slot->buf_idx);
			uint8_t answer[FRAME_MAX];
			if (slot->len < FRAME_HEAD)
				continue;
			memcpy(answer, frame, slot->len);
			turn_round(answer);
			put_one(&port, answer, slot->len);
		}
	port_close(&port);
	return 0;
}

/* --- bridge ----------------------------------------------------------------------------------- */

/* All that came on one port into the other one's tx ring, as far as there is room. */
static bool move(struct port *from, struct port *to, bool swap)
{
	struct netmap_ring *rx = rx_ring(from, 0), *tx = tx_ring(to, 0);
	bool moved = false;
	for (; rx->head != rx->tail && tx->head != tx->tail; moved = true) {
		struct netmap_slot *in = &rx->slot[rx->head], *out = &tx->slot[tx->head];
		out->len = in->len;
		if (swap) {
			uint32_t buffer = out->buf_idx;
			out->buf_idx = in->buf_idx;
			in->buf_idx = buffer;
			out->flags = in->flags = NS_BUF_CHANGED;
		} else {
			out->flags = 0;
			memcpy(ring_buffer(tx, out->buf_idx), ring_buffer(rx, in->buf_idx),
			       in->len);
		}
		rx->head = rx->cur = ring_next(rx, rx->head);
		tx->head = tx->cur = ring_next(tx, tx->head);
	}
	return moved;
}

int bridge_main(char **argv)
{
	struct port a, b;
	port_open(&a, argv[0], argv + 2);
	port_open(&b, argv[1], argv + 2);
	bool same = a.reg.nr_mem_id == b.reg.nr_mem_id;
	if (same) { /* one mapping, so that an index means the same buffer */
		b.memory = a.memory;
		b.nifp = (void *)(b.memory + b.reg.nr_offset);
	}
	ready();
	struct pollfd fds[2] = {{.fd = a.fd, .events = POLLIN}, {.fd = b.fd, .events = POLLIN}};
	while (poll(fds, 2, (int)option(argv, "idle", 3000)) > 0) {
		if ((fds[0].revents | fds[1].revents) & POLLERR)
			die("POLLERR");
		if (move(&a, &b, same) && ioctl(b.fd, NIOCTXSYNC, NULL) < 0)
			die("NIOCTXSYNC: %s", strerror(errno));
		if (move(&b, &a, same) && ioctl(a.fd, NIOCTXSYNC, NULL) < 0)
			die("NIOCTXSYNC: %s", strerror(errno));
	}
	printf("{\"swapped\": %s}\n", same ? "true" : "false");
	return 0;
}
