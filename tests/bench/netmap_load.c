/*
 * A netmap program that measures: sends, receives, pings or answers pings on one port, by
 * /dev/netmap and nothing else, so that the module would serve it as well.
 *
 *     netmap_load -i PORT -f tx -a OWN -d DEST[,DEST...] [-l bytes] [-c] [-R frames/s] [-t s]
 *     netmap_load -i PORT -f rx -a OWN [-t s]         until a second without frames, or -t
 *     netmap_load -i PORT -f ping -a OWN -d DEST [-b] [-t s]
 *     netmap_load -i PORT -f pong -a OWN -d PEER [-b] [-t s]  as rx, a frame back for each
 *
 *     -a, -d  numbers of stations: address 02:00:00:00:02:NUMBER
 *     -c      cold buffers: goes round 32,768 of them, more than a cache holds
 *     -R      paced; what finds no room is sent later
 *     -b      does not sleep: syncs until there is something
 *
 * A receiver reads every byte of every frame. Once the port is there and its address is known to
 * the switch, "ready" is printed on a line; at the end one line of JSON: frames, when the first and
 * the last of them were there (CLOCK_MONOTONIC), processor seconds since "ready", and round trips
 * in microseconds.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "netmap_abi.h"
#include "probe.h"

enum {
	STATIONS_MAX = 16,
	COLD_BUFFERS = 32768,
	BURST = 512,
	QUIET_MS = 1000,
	PACE_NS = 50000,
	LOOKS = 64,	    /* without sleep, between two at the clock */
	LOST_NS = 100000000 /* a ping without an answer */
};

struct options {
	const char *port, *function;
	unsigned own, dest[STATIONS_MAX], dests;
	unsigned len;
	bool cold, busy;
	double rate, seconds;
};

struct program {
	struct options o;
	int fd;
	struct netmap_ring *tx, *rx;
	uint32_t *cold; /* numbers of extra buffers */
	uint32_t cold_count, cold_at;
	uint64_t frames, first_ns, last_ns, sum;
	struct histogram round_trips;
};

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static uint8_t *buffer(struct netmap_ring *ring, uint32_t index)
{
	return (uint8_t *)ring + ring->buf_ofs + (size_t)index * ring->nr_buf_size;
}

static uint32_t next(const struct netmap_ring *ring, uint32_t i)
{
	return i + 1 == ring->num_slots ? 0 : i + 1;
}

static void frame_make(uint8_t *at, unsigned dest, unsigned own)
{
	const uint8_t header[14] = {2,	  0,   0, 0, 2, (uint8_t)dest, 2, 0, 0, 0, 2, (uint8_t)own,
				    0x88, 0xb5};

	memcpy(at, header, sizeof(header));
}

static void fill(struct program *p, uint8_t *at, uint32_t n)
{
	memset(at, 0, p->tx->nr_buf_size);
	frame_make(at, p->o.dest[n % p->o.dests], p->o.own);
}

static void buffers_fill(struct program *p, struct netmap_if *nifp)
{
	uint32_t index = nifp->ni_bufs_head;

	for (uint32_t i = 0; i < p->tx->num_slots; i++)
		fill(p, buffer(p->tx, p->tx->slot[i].buf_idx), i);
	if (!p->o.cold)
		return;
	p->cold = calloc(COLD_BUFFERS, sizeof(*p->cold));
	while (p->cold && index && p->cold_count < COLD_BUFFERS) {
		uint8_t *at = buffer(p->tx, index);

		p->cold[p->cold_count] = index;
		memcpy(&index, at, sizeof(index));
		fill(p, at, p->cold_count++);
	}
	if (p->cold_count != COLD_BUFFERS)
		fail("%u extra buffers, not %u", p->cold_count, (unsigned)COLD_BUFFERS);
}

static void open_port(struct program *p)
{
	struct nmreq_register reg = {.nr_mode = NR_REG_ALL_NIC,
				     .nr_extra_bufs = p->o.cold ? COLD_BUFFERS : 0};
	struct nmreq_header header = {.nr_version = NETMAP_API,
				      .nr_reqtype = NETMAP_REQ_REGISTER,
				      .nr_body = (uintptr_t)&reg};
	struct netmap_if *nifp;
	uint8_t *memory;

	snprintf(header.nr_name, sizeof(header.nr_name), "%s", p->o.port);
	p->fd = open("/dev/netmap", O_RDWR);
	if (p->fd < 0 || ioctl(p->fd, NIOCCTRL, &header))
		fail("%s: %s", p->o.port, strerror(errno));
	memory = mmap(NULL, reg.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (memory == MAP_FAILED)
		fail("%s: mmap: %s", p->o.port, strerror(errno));
	nifp = (void *)(memory + reg.nr_offset);
	p->tx = (void *)((uint8_t *)nifp + nifp->ring_ofs[0]);
	p->rx =
	    (void *)((uint8_t *)nifp + nifp->ring_ofs[nifp->ni_tx_rings + nifp->ni_host_tx_rings]);
	if (p->o.dests)
		buffers_fill(p, nifp);
}

/* A frame to itself: it goes nowhere, and the switch knows the address. */
static void learn(struct program *p)
{
	struct netmap_slot *slot = &p->tx->slot[p->tx->head];
	uint8_t *at = buffer(p->tx, slot->buf_idx);
	uint8_t saved[14];

	memcpy(saved, at, sizeof(saved));
	frame_make(at, p->o.own, p->o.own);
	slot->len = 60;
	p->tx->head = p->tx->cur = next(p->tx, p->tx->head);
	ioctl(p->fd, NIOCTXSYNC, NULL);
	memcpy(at, saved, sizeof(saved));
	puts("ready");
	fflush(stdout);
}

static bool wait_for(struct program *p, short events, int ms)
{
	struct pollfd fd = {.fd = p->fd, .events = events};

	return poll(&fd, 1, ms) > 0 && fd.revents & events;
}

static void note_frames(struct program *p, uint32_t count)
{
	uint64_t now = now_ns();

	if (!p->frames)
		p->first_ns = now;
	p->last_ns = now;
	p->frames += count;
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* Puts at most `want` frames into the ring and syncs; how many there was room for. */
static uint32_t send_some(struct program *p, uint32_t want)
{
	struct netmap_ring *ring = p->tx;
	uint32_t at = ring->head, tail = ring->tail, cold_at = p->cold_at, done = 0;
	uint16_t len = (uint16_t)p->o.len;

	for (; done < want && at != tail; done++) {
		struct netmap_slot *slot = &ring->slot[at];

		slot->len = len;
		if (p->cold) {
			slot->buf_idx = p->cold[cold_at];
			slot->flags = NS_BUF_CHANGED;
			cold_at = cold_at + 1 == COLD_BUFFERS ? 0 : cold_at + 1;
		}
		at = next(ring, at);
	}
	p->cold_at = cold_at;
	ring->head = ring->cur = at;
	ioctl(p->fd, NIOCTXSYNC, NULL);
	return done;
}

static void run_tx(struct program *p)
{
	uint64_t end = now_ns() + (uint64_t)(p->o.seconds * 1e9);

	while (now_ns() < end) {
		uint32_t done = send_some(p, BURST);

		if (done)
			note_frames(p, done);
		else
			wait_for(p, POLLOUT, 100);
	}
}

static void run_tx_paced(struct program *p)
{
	const struct timespec pause = {.tv_nsec = PACE_NS};
	uint64_t start = now_ns(), now = start, sent = 0;

	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	for (; (double)(now - start) < p->o.seconds * 1e9; now = now_ns()) {
		uint64_t due = (uint64_t)((double)(now - start) * 1e-9 * p->o.rate);

		while (sent < due) {
			uint32_t want = due - sent < BURST ? (uint32_t)(due - sent) : BURST;
			uint32_t done = send_some(p, want);

			sent += done;
			if (done)
				note_frames(p, done);
			if (done < want)
				break;
		}
		nanosleep(&pause, NULL);
	}
}

/* --- receiving ----------------------------------------------------------------------------------
 */

static uint64_t word_at(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

/* The last words overlap; frames have 14 bytes at least. */
static uint64_t read_all(const uint8_t *at, uint32_t len)
{
	uint64_t sums[8] = {0}, sum = 0;
	uint32_t i = 0;

	for (; i + sizeof(sums) <= len; i += sizeof(sums)) {
		for (unsigned n = 0; n < 8; n++)
			sums[n] += word_at(at + i + n * sizeof(sum));
	}
	for (; i + sizeof(sum) < len; i += sizeof(sum))
		sum += word_at(at + i);
	sum += word_at(at + len - sizeof(sum));
	for (unsigned n = 0; n < 8; n++)
		sum += sums[n];
	return sum;
}

/* Frames for this station are counted; it was flooded the others before the switch knew better. */
static uint32_t receive(struct program *p)
{
	struct netmap_ring *ring = p->rx;
	uint32_t count = 0, at = ring->head, end = ring->tail, own = p->o.own;
	uint64_t sum = 0;

	for (; at != end; at = next(ring, at)) {
		const struct netmap_slot slot = ring->slot[at];
		const uint8_t *frame = buffer(ring, slot.buf_idx);

		if (slot.len < 14)
			continue;
		sum += read_all(frame, slot.len);
		count += frame[5] == own && frame[4] == 2;
	}
	ring->head = ring->cur = end;
	p->sum += sum;
	if (count)
		note_frames(p, count);
	return count;
}

static bool goes_on(const struct program *p, uint64_t start)
{
	uint64_t now = now_ns();

	return now - start < (uint64_t)(p->o.seconds * 1e9) &&
	       (!p->frames || now - p->last_ns < QUIET_MS * 1000000ull);
}

/* Who looks without sleeping reads the clock now and then: reading it takes longer than looking. */
static bool clock_due(const struct program *p, uint32_t *looks)
{
	return !p->o.busy || ++*looks % LOOKS == 0;
}

static void run_rx(struct program *p)
{
	uint64_t start = now_ns();

	while (goes_on(p, start)) {
		if (wait_for(p, POLLIN, 100))
			receive(p);
	}
}

/* --- round trips --------------------------------------------------------------------------------
 */

static bool look(struct program *p, int ms)
{
	if (!p->o.busy)
		return wait_for(p, POLLIN, ms);
	ioctl(p->fd, NIOCRXSYNC, NULL);
	return p->rx->head != p->rx->tail;
}

/* From an answer to the next one: the clock is read once. */
static void run_ping(struct program *p)
{
	uint64_t sent = now_ns(), end = sent + (uint64_t)(p->o.seconds * 1e9);
	uint32_t looks = 0;

	while (sent < end) {
		uint64_t frames = p->frames, now = sent;

		send_some(p, 1);
		while (p->frames == frames && now - sent < LOST_NS) {
			if (look(p, 100))
				receive(p);
			else if (clock_due(p, &looks))
				now = now_ns();
		}
		if (p->frames != frames) {
			now = p->last_ns;
			histogram_add(&p->round_trips, now - sent);
		}
		sent = now;
	}
}

/* A frame to the peer for every frame. */
static void run_pong(struct program *p)
{
	uint64_t start = now_ns();
	uint32_t looks = 0;
	bool on = true;

	while (on) {
		uint32_t count = look(p, 100) ? receive(p) : 0;

		if (count)
			send_some(p, count);
		if (clock_due(p, &looks))
			on = goes_on(p, start);
	}
}

/* --- the command --------------------------------------------------------------------------------
 */

static void run(struct program *p)
{
	const char *function = p->o.function;

	if (!strcmp(function, "rx"))
		run_rx(p);
	else if (!strcmp(function, "ping"))
		run_ping(p);
	else if (!strcmp(function, "pong"))
		run_pong(p);
	else if (strcmp(function, "tx") != 0)
		fail("-f: tx, rx, ping or pong");
	else if (p->o.rate > 0)
		run_tx_paced(p);
	else
		run_tx(p);
}

static void stations(struct options *o, char *text)
{
	for (char *at = strtok(text, ","); at && o->dests < STATIONS_MAX; at = strtok(NULL, ","))
		o->dest[o->dests++] = (unsigned)number("d", at, 255);
}

static void parse(struct options *o, int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "i:f:a:d:l:cbR:t:")) != -1) {
		switch (option) {
		case 'i':
			o->port = optarg;
			break;
		case 'f':
			o->function = optarg;
			break;
		case 'a':
			o->own = (unsigned)number("a", optarg, 255);
			break;
		case 'd':
			stations(o, optarg);
			break;
		case 'l':
			o->len = (unsigned)number("l", optarg, 2048);
			break;
		case 'c':
			o->cold = true;
			break;
		case 'b':
			o->busy = true;
			break;
		case 'R':
			o->rate = (double)number("R", optarg, 1000000000);
			break;
		case 't':
			o->seconds = strtod(optarg, NULL);
			break;
		default:
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	static struct program program = {.o = {.len = 60, .seconds = 10, .function = "rx"}};
	struct program *p = &program;
	double cpu_s;

	parse(&p->o, argc, argv);
	if (!p->o.port || p->o.len < 14)
		fail("-i is missing, or -l below 14");
	if (strcmp(p->o.function, "rx") != 0 && !p->o.dests)
		fail("-d is missing");
	open_port(p);
	learn(p);
	cpu_s = cpu_seconds();
	run(p);
	printf("{\"frames\": %llu, \"first_ns\": %llu, \"last_ns\": %llu, \"cpu_s\": %.3f, "
	       "\"round_trip_us\": ",
	       (unsigned long long)p->frames, (unsigned long long)p->first_ns,
	       (unsigned long long)p->last_ns, cpu_seconds() - cpu_s);
	histogram_print_us(&p->round_trips);
	printf("}\n");
	close(p->fd);
	return p->sum == UINT64_MAX; /* the bytes were read for something */
}
