/*
 * A client port whose program writes its memory at the worst moment, and a program whose switch (or
 * the other end of its pipe) does: every load of an index, a record or the header asks fuzz_shared,
 * which gives what is there or the input's next bytes. Built with FUZZ_SHARED. Input: one byte an
 * operation (receive, commit, give back, sleep, send, headers, attach again; the program's: read,
 * write, open again), the bytes of shared memory in between. Mapping a memory costs more than all
 * the rest of a run, so the port stays and is made as new between runs, which is why the driver's
 * source is part of this one. Beyond memory safety it checks that
 *
 *   - a frame that is received is whole, in memory that is the port's, and its headers are not in
 *     the program's
 *   - nonsense is one malformed frame; every frame sent is sent or dropped with a reason
 *   - a program writes to its lane only
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "../../fastpath/src/port_client.c"

enum {
	QUEUES = 2,
	BATCH_MAX = 8,
	OPERATIONS_MAX = 400, /* one writes or reads at most a lane */
	ATTACHES_MAX = 1      /* of a run */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t left;
static bool hostile; /* the other side writes */
static unsigned attaches;

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
		return value + (uint64_t)(8 * (kind - 160));
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)&value)[i] = next_byte();
	return value;
}

/* The only type there is here. */
const struct port_ops *port_type_find(const char *type)
{
	return strcmp(type, "client") == 0 ? &port_client_ops : NULL;
}

/* --- the port and its program, made once --------------------------------------------------------
 */

static struct port_fds fds;
static struct port port;
static struct client_map map; /* the program's */
static struct lane_producer outbox[QUEUES];
static struct lane_consumer inbox[QUEUES];

static void make_once(void)
{
	static const struct port_option items[] = {{"tx_rings", "2"},
						   {"rx_rings", "2"},
						   {"outbox_bytes", "262144"},
						   {"inbox_bytes", "262144"}};
	const struct port_options options = {.port = "fuzz", .items = items, .count = 4};
	struct error err;

	if (port_acquire("client", &options, &fds, &err) || client_map_open(fds.fd[0], &map))
		abort();
}

/* A header that changes under it may be refused, but not be half believed. */
static void attach(void)
{
	const struct port_options none = {.port = "fuzz"};
	bool was_hostile = hostile;
	struct error err;

	for (;;) {
		port = (struct port){.ops = &port_client_ops};
		for (unsigned q = 0; q < QUEUES; q++)
			port.rxq[q].port = port.txq[q].port = &port;
		if (port.ops->attach(&port, &none, &fds, &err) == 0)
			break;
		assert(hostile && !port.priv);
		hostile = false;
	}
	hostile = was_hostile;
	assert(port.rx_queue_count == QUEUES && port.tx_queue_count == QUEUES);
}

static void open_lanes(void)
{
	for (unsigned q = 0; q < QUEUES; q++) {
		client_outbox_producer(&map, q, &outbox[q]);
		client_inbox_consumer(&map, q, &inbox[q]);
	}
}

/* As new, but for what the lanes' data holds. */
static void renew(void)
{
	struct client_port *client = port.priv;

	memset(map.memory->outbox, 0, sizeof(map.memory->outbox));
	memset(map.memory->inbox, 0, sizeof(map.memory->inbox));
	for (unsigned q = 0; q < QUEUES; q++) {
		client_outbox_consumer(&client->map, q, &client->rx[q].in);
		client_inbox_producer(&client->map, q, &client->tx[q].out);
		client->rx[q].sleeps = true;
	}
	header_use(&port, 0);
	open_lanes();
	attaches = 0;
}

/* --- the switch ---------------------------------------------------------------------------------
 */

static uint8_t bytes_read[FRAME_LEN_MAX];

/* Are they all there to be read? Beyond a mapping, or where a sanitizer knows better, nobody
   comes back. */
static void read_bytes(const uint8_t *from, uint32_t len)
{
	assert(len <= sizeof(bytes_read));
	memcpy(bytes_read, from, len);
}

static bool within(const uint8_t *at, uint32_t len, const void *from, size_t bytes)
{
	const uint8_t *begin = from;

	return at >= begin && len <= bytes && (size_t)(at - begin) <= bytes - len;
}

static void frame_check(const struct client_rx *rx, const struct frame *frame)
{
	uint32_t len = frame->len;

	assert(frame->headroom == FRAME_HEADROOM);
	assert(within(frame->data - FRAME_HEADROOM, FRAME_HEADROOM + frame->len, rx->room->bytes,
		      sizeof(rx->room->bytes)));
	read_bytes(frame->data, frame->len);
	if (frame->next) {
		assert(frame->len >= 128 && !frame->next->next);
		assert(within(frame->next->data, frame->next->len, rx->in.data, rx->in.bytes));
		read_bytes(frame->next->data, frame->next->len);
		len += frame->next->len;
	}
	assert(len == frame->frame_len && len <= FRAME_LEN_MAX);
}

static void receive(struct port_queue *queue, unsigned max)
{
	struct frame batch[FRAME_BATCH];
	struct port_counters cell = {0};
	int count = port_client_ops.rx(queue, batch, max, &cell);

	assert(count >= 0 && count <= (int)max);
	assert(cell.rx_frames == cell.rx_drops[DROP_MALFORMED] && cell.rx_frames <= 1);
	for (int i = 0; i < count; i++)
		frame_check(queue->priv, &batch[i]);
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

		*first = (struct frame){.data = bytes,
					.len = cut,
					.frame_len = len,
					.offload.gso_type = next_byte() & 1,
					.flags = next_byte() & FRAME_SENT_COPY};
		*second = (struct frame){.data = bytes + cut, .len = len - cut};
		first->next = second;
		list[i] = first;
	}
	port_client_ops.tx(queue, list, count, &report);
	done = report.sent + report.consumed;
	for (unsigned r = 0; r < DROP_REASONS; r++)
		done += report.drops[r];
	assert(done == count);
}

/* --- the program --------------------------------------------------------------------------------
 */

static void program_reads(struct lane_consumer *in, unsigned max)
{
	struct lane_frame frame;

	while (max-- && lane_ready(in) && lane_next(in, &frame)) {
		assert(within(frame.data, frame.len, in->data, in->bytes));
		assert(!frame.vnet || within(frame.vnet, LANE_VNET_BYTES, in->data, in->bytes));
		read_bytes(frame.data, frame.len);
	}
	lane_release(in);
	assert(in->tail - in->head <= in->bytes);
}

static void program_writes(struct lane_producer *out, unsigned count)
{
	while (count--) {
		uint32_t len = next_byte() * (count % 4 ? 1u : 257u);
		uint8_t *to = lane_reserve(out, len);

		if (!to) {
			lane_producer_waits(out, len);
			lane_producer_awake(out);
			break;
		}
		assert(within(to, len, out->data, out->bytes));
		memset(to, next_byte(), len);
		lane_add(out, len, next_byte() & 0xfe);
	}
	lane_publish(out);
	assert(out->tail - out->head <= out->bytes);
}

/* Another virtio-net header; or a successor. */
static void change(uint8_t what)
{
	static const uint32_t lengths[] = {0, 10, 12, 11};
	struct error err;

	if (what < 250) {
		assert((client_set_header(&port, lengths[what % 4], &err) == 0) == (what % 4 != 3));
	} else if (attaches++ < ATTACHES_MAX) {
		port_client_ops.detach(&port);
		attach();
	}
}

static void operate(uint8_t what)
{
	unsigned q = what & 1;

	switch (what >> 1 & 15) {
	case 0:
	case 1:
	case 2:
		receive(&port.rxq[q], 1 + next_byte() % FRAME_BATCH);
		break;
	case 3:
		port_client_ops.rx_commit(&port.rxq[q]);
		break;
	case 4:
		port_client_ops.rx_done(&port.rxq[q]);
		break;
	case 5:
		port_client_ops.rx_fd(&port.rxq[q]);
		break;
	case 6:
		change(next_byte());
		break;
	case 7:
	case 8:
	case 9:
		send_batch(&port.txq[q], 1 + next_byte() % BATCH_MAX);
		break;
	case 10:
		open_lanes();
		break;
	case 11:
		if (!lane_consumer_waits(&inbox[q]))
			lane_consumer_awake(&inbox[q]);
		break;
	case 12:
	case 13:
		program_reads(&inbox[q], next_byte());
		break;
	default:
		program_writes(&outbox[q], 1 + next_byte() % BATCH_MAX);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	hostile = false;
	if (!port.priv) {
		make_once();
		attach();
	}
	renew();
	input = data;
	left = size;
	hostile = true;
	for (unsigned i = 0; left && i < OPERATIONS_MAX; i++)
		operate(next_byte());
	return 0;
}
