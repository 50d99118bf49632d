/*
 * A pipe whose memory somebody else writes at the worst moment: every load of an index or a slot
 * asks fuzz_shared, which gives what is there or the input's next bytes. Built with FUZZ_SHARED.
 * Input: one byte an operation (receive, commit, give back, send, take the end out and in again),
 * the bytes of shared memory in between. Beyond memory safety it checks that
 *
 *   - a frame that is received is whole: its fragments add up, and lie in the pipe's buffers
 *   - every frame sent is sent or dropped with a reason
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "port.h"
#include "ring.h"

enum {
	SLOTS = 64,
	QUEUES = 2,
	BUFFER_BYTES = 2048 + 64,
	HEADER_BYTES = 8192,
	RINGS = 4, /* two ends, two queues */
	RING_BYTES = 4096,
	BUFFERS_AT = HEADER_BYTES + RINGS * RING_BYTES,
	BUFFERS_BYTES = RINGS * SLOTS * BUFFER_BYTES,
	BATCH_MAX = 8
};

extern const struct port_ops port_pipe_ops;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t left;
static bool hostile; /* the peer writes */

static uint8_t next_byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

uint64_t fuzz_shared(const volatile void *address, size_t bytes)
{
	uint64_t value = 0;
	uint8_t kind;

	memcpy(&value, (const void *)address, bytes);
	if (!hostile || !left)
		return value;
	kind = next_byte();
	if (kind < 128)
		return value;
	if (kind < 192) /* near what is there */
		return value + kind - 160;
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)&value)[i] = next_byte();
	return value;
}

/* The only type there is here. */
const struct port_ops *port_type_find(const char *type)
{
	return strcmp(type, "pipe") == 0 ? &port_pipe_ops : NULL;
}

/* --- the pipe, made once ------------------------------------------------------------------------
 */

static struct port_fds fds;
static struct port ports[2];
static uint8_t *memory; /* a mapping of our own, to begin each input with empty rings */

static struct port_options end_options(struct port_option items[5], unsigned end)
{
	items[0] = (struct port_option){"name", "x"};
	items[1] = (struct port_option){"end", end ? "slave" : "master"};
	items[2] = (struct port_option){"slots", "64"};
	items[3] = (struct port_option){"queues", "2"};
	items[4] = (struct port_option){"block", "0"};
	return (struct port_options){.port = "fuzz", .items = items, .count = 5};
}

static void attach(unsigned end)
{
	struct port *port = &ports[end];
	struct port_option items[5];
	struct port_options options = end_options(items, end);
	struct error err;

	*port = (struct port){.ops = &port_pipe_ops, .id = (uint16_t)end};
	for (unsigned q = 0; q < QUEUES; q++)
		port->rxq[q].port = port->txq[q].port = port;
	if (port->ops->attach(port, &options, &fds, &err))
		abort();
}

static void make_once(void)
{
	struct port_option items[5];
	struct port_options options = end_options(items, 0);
	struct error err;

	if (memory)
		return;
	if (port_acquire("pipe", &options, &fds, &err))
		abort();
	memory = mmap(NULL, BUFFERS_AT, PROT_READ | PROT_WRITE, MAP_SHARED, fds.fd[0], 0);
	if (memory == MAP_FAILED)
		abort();
}

/* As new: only the magic and the geometry stay of the header. */
static void empty(void)
{
	memset(memory + 64, 0, HEADER_BYTES - 64);
	for (unsigned r = 0; r < RINGS; r++) {
		struct netmap_ring *ring =
		    (struct netmap_ring *)(memory + HEADER_BYTES + r * RING_BYTES);

		ring->head = ring->cur = ring->tail = 0;
		for (unsigned i = 0; i < SLOTS; i++)
			ring->slot[i] = (struct netmap_slot){.buf_idx = r * SLOTS + i};
	}
}

/* --- operations ---------------------------------------------------------------------------------
 */

/* Reads every byte: one outside of the mapping ends the process. */
static void frame_check(const struct frame *frame)
{
	static volatile uint8_t sum;
	uint32_t len = 0;
	unsigned count = 0;

	for (const struct frame *f = frame; f; f = f->next) {
		assert(f->len <= BUFFER_BYTES && ++count <= FRAME_FRAGS_MAX);
		len += f->len;
		for (uint32_t i = 0; i < f->len; i++)
			sum = (uint8_t)(sum + f->data[i]);
	}
	assert(len == frame->frame_len && len <= FRAME_LEN_MAX);
}

static void receive(struct port_queue *queue, unsigned max)
{
	struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	int count = port_pipe_ops.rx(queue, batch, max, &cell);

	assert(count <= (int)max);
	assert(cell.rx_frames == cell.rx_drops[DROP_MALFORMED]);
	for (int i = 0; i < count; i++)
		frame_check(&batch[i]);
}

static void send_batch(struct port_queue *queue, unsigned count)
{
	static uint8_t bytes[FRAME_LEN_MAX];
	struct frame frames[2 * BATCH_MAX];
	struct frame *list[BATCH_MAX];
	struct tx_report report = {0};
	uint32_t done;

	for (unsigned i = 0; i < count; i++) {
		struct frame *first = &frames[2 * i], *second = first + 1;
		uint32_t len = 14 + next_byte() * (i % 2 ? 256u : 1u), cut = len / 3;

		*first = (struct frame){.data = bytes, .len = cut, .frame_len = len};
		*second = (struct frame){.data = bytes + cut, .len = len - cut};
		first->next = second;
		list[i] = first;
	}
	port_pipe_ops.tx(queue, list, count, &report);
	done = report.sent + report.consumed;
	for (unsigned r = 0; r < DROP_REASONS; r++)
		done += report.drops[r];
	assert(done == count);
}

static void operate(uint8_t what)
{
	unsigned end = what & 1, queue = what >> 1 & 1;
	struct port *port = &ports[end];

	switch (what >> 2 & 7) {
	case 0:
	case 1:
		receive(&port->rxq[queue], 1 + next_byte() % FRAME_BATCH);
		break;
	case 2:
		port_pipe_ops.rx_commit(&port->rxq[queue]);
		break;
	case 3:
		port_pipe_ops.rx_done(&port->rxq[queue]);
		break;
	case 4:
		port_pipe_ops.detach(port);
		attach(end);
		break;
	default:
		send_batch(&port->txq[queue], 1 + next_byte() % BATCH_MAX);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	make_once();
	empty();
	attach(0);
	attach(1);
	input = data;
	left = size;
	hostile = true;
	while (left)
		operate(next_byte());
	hostile = false;
	port_pipe_ops.detach(&ports[0]);
	port_pipe_ops.detach(&ports[1]);
	return 0;
}
