/*
 * memory ports: a million random operations on three ports. Frames come out of the switch's side
 * in the order and with the bytes they were put in, whether their buffers were exchanged or
 * copied, and at any time the rings together hold each buffer of the pool exactly once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "port_memory.h"
#include "ring.h"

enum {
	PORTS = 3,
	SLOTS = 128,
	OPERATIONS = 1000000,
	AUDIT_EVERY = 5000,
	FRAME_MAX = 20000,
	QUEUED_MAX = 3 * SLOTS
};

/* What was put and is on its way, per port: into the switch, and out of it. */
struct way {
	uint32_t seed[QUEUED_MAX], len[QUEUED_MAX];
	unsigned first, count;
};

static struct port ports[PORTS];
static struct way into[PORTS], out_of[PORTS];
static uint64_t state = 99;
static uint8_t bytes[FRAME_MAX], expected[FRAME_MAX];

static void way_push(struct way *way, uint32_t seed, uint32_t len)
{
	unsigned at = (way->first + way->count++) % QUEUED_MAX;

	if (!CHECK(way->count <= QUEUED_MAX))
		exit(1);
	way->seed[at] = seed;
	way->len[at] = len;
}

static void way_pop(struct way *way, uint32_t *seed, uint32_t *len)
{
	if (!CHECK(way->count > 0))
		exit(1);
	*seed = way->seed[way->first];
	*len = way->len[way->first];
	way->first = (way->first + 1) % QUEUED_MAX;
	way->count--;
}

static void content(uint8_t *to, uint32_t seed, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		to[i] = (uint8_t)(seed + i * 31 + (i >> 8));
}

static uint32_t random_len(void)
{
	switch (random_below(&state, 32)) {
	case 0:
		return 1 + random_below(&state, 20);
	case 1:
		return 2000 + random_below(&state, 300);
	case 2:
		return 1 + random_below(&state, FRAME_MAX);
	default:
		return 60 + random_below(&state, 1455);
	}
}

static void open_ports(void)
{
	struct port_option slots = {"slots", "128"};
	struct port_options options = {.port = "m", .items = &slots, .count = 1};
	struct port_fds fds = {0};
	struct error err = {0};

	for (unsigned p = 0; p < PORTS; p++) {
		ports[p].ops = port_type_find("memory");
		ports[p].id = (uint16_t)p;
		ports[p].rxq[0].port = ports[p].txq[0].port = &ports[p];
		if (!CHECK(ports[p].ops->attach(&ports[p], &options, &fds, &err) == 0))
			exit(1);
	}
}

/* Each buffer in exactly one slot of one ring. */
static void audit(void)
{
	static uint8_t held[PORTS * 2 * SLOTS];
	unsigned count = 0;

	memset(held, 0, sizeof(held));
	for (unsigned p = 0; p < PORTS; p++) {
		for (unsigned tx = 0; tx < 2; tx++) {
			const struct netmap_ring *ring = memory_ring(&ports[p], 0, tx);

			CHECK(ring->num_slots == SLOTS);
			for (uint32_t i = 0; i < SLOTS; i++) {
				uint32_t buffer = ring->slot[i].buf_idx;

				if (CHECK(buffer < sizeof(held)) && CHECK(!held[buffer]++))
					count++;
			}
		}
	}
	CHECK(count == PORTS * 2 * SLOTS);
}

static void put_one(unsigned p)
{
	uint32_t seed = (uint32_t)random_next(&state), len = random_len();
	int status;

	content(bytes, seed, len);
	status = memory_put(&ports[p], 0, bytes, len);
	if (status == 0)
		way_push(&into[p], seed, len);
	else
		CHECK(status == -EAGAIN);
}

static void take_one(unsigned p)
{
	int got = memory_take(&ports[p], 0, bytes, sizeof(bytes));
	uint32_t seed, len;

	if (got < 0) {
		CHECK(got == -EAGAIN && !out_of[p].count);
		return;
	}
	way_pop(&out_of[p], &seed, &len);
	content(expected, seed, len);
	CHECK((uint32_t)got == len && memcmp(bytes, expected, len) == 0);
}

static void send_to(unsigned to, struct frame *const *frames, const unsigned *which, unsigned count,
		    const uint32_t *seeds, const uint32_t *lens)
{
	for (unsigned i = 0; i < count; i++) {
		struct tx_report report = {0};

		/* one by one, so that the model knows which were sent */
		ports[to].ops->tx(&ports[to].txq[0], &frames[i], 1, &report);
		if (report.sent) {
			CHECK(report.sent == 1 && report.sent_bytes == lens[which[i]]);
			way_push(&out_of[to], seeds[which[i]], lens[which[i]]);
		} else {
			CHECK(report.drops[DROP_QUEUE_FULL] + report.drops[DROP_TOO_BIG] == 1);
		}
	}
}

/* What a worker does: a batch in, each frame to one port or, shared, to all others. */
static void switch_batch(unsigned p)
{
	struct frame batch[FRAME_BATCH];
	static struct port_counters cell;
	uint32_t seeds[FRAME_BATCH], lens[FRAME_BATCH];
	int count =
	    ports[p].ops->rx(&ports[p].rxq[0], batch, 1 + random_below(&state, FRAME_BATCH), &cell);

	for (int i = 0; i < count; i++) {
		way_pop(&into[p], &seeds[i], &lens[i]);
		CHECK(batch[i].frame_len == lens[i]);
	}
	for (int i = 0; i < count; i++) {
		struct frame *frame = &batch[i];
		unsigned which = (unsigned)i;

		if (random_below(&state, 4)) {
			send_to((p + 1 + random_below(&state, PORTS - 1)) % PORTS, &frame, &which,
				1, seeds, lens);
			continue;
		}
		frame->flags |= FRAME_SHARED;
		for (unsigned to = 0; to < PORTS; to++) {
			if (to != p)
				send_to(to, &frame, &which, 1, seeds, lens);
		}
	}
	if (count)
		ports[p].ops->rx_done(&ports[p].rxq[0]);
	CHECK(cell.rx_frames == 0);
}

int main(void)
{
	open_ports();
	for (unsigned n = 0; n < OPERATIONS; n++) {
		unsigned p = random_below(&state, PORTS);

		switch (random_below(&state, 16)) {
		case 0:
			switch_batch(p);
			break;
		case 1:
			while (out_of[p].count)
				take_one(p);
			break;
		case 2:
		case 3:
		case 4:
			take_one(p);
			break;
		default:
			put_one(p);
		}
		if (n % AUDIT_EVERY == 0)
			audit();
	}
	for (unsigned p = 0; p < PORTS; p++) {
		for (unsigned n = 0; into[p].count && n < OPERATIONS; n++) {
			switch_batch(p);
			for (unsigned to = 0; to < PORTS; to++)
				take_one(to);
		}
	}
	for (unsigned p = 0; p < PORTS; p++) {
		while (out_of[p].count)
			take_one(p);
		CHECK(memory_take(&ports[p], 0, bytes, sizeof(bytes)) == -EAGAIN);
	}
	audit();
	for (unsigned p = 0; p < PORTS; p++)
		ports[p].ops->detach(&ports[p]);
	return check_result();
}
