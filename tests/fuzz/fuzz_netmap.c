/*
 * Fuzz target: netmap rings that somebody else writes to at the worst moment. Compiled with
 * FUZZ_SHARED, every load of shared memory comes here and is answered with what is there or, when
 * the input says so, with bytes of the input; so are the state that attach gets and what sync
 * finds. Whatever happens, frames lie in the region, the report adds up and nothing else is
 * touched: the region stands between pages that nobody may look at.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "netmap_host.h"

enum {
	PAGE = 4096,
	REGION_BYTES = 128 * 1024,
	SLOTS = 16,
	BUFFER_BYTES = 1024,
	BUFFERS_AT = 4 * PAGE,
	IF_AT = 64,
	RX_AT = PAGE, /* and the host's, a KB further */
	TX_AT = 2 * PAGE,
	PAIR_BYTES = 1024,
	TURNS = 64
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t left;
static uint8_t *whole, *region; /* with and without the pages around it */
static int journal = -1;

static void need(bool good)
{
	if (!good)
		abort();
}

static uint8_t take(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

uint64_t fuzz_shared(const volatile void *address, size_t bytes)
{
	uint64_t value = 0;

	memcpy(&value, (const void *)address, bytes);
	if ((take() & 7) == 7) {
		for (size_t i = 0; i < bytes; i++)
			((uint8_t *)&value)[i] = take();
	}
	return value;
}

/* --- the device ------------------------------------------------------------------------------ */

static void ring_make(unsigned at, bool tx, uint32_t *buffer)
{
	struct netmap_ring *ring = (struct netmap_ring *)(region + at);

	*ring = (struct netmap_ring){.buf_ofs = BUFFERS_AT - (int64_t)at,
				     .num_slots = SLOTS,
				     .nr_buf_size = BUFFER_BYTES,
				     .dir = tx,
				     .tail = tx ? SLOTS - 1 : 0};
	for (unsigned i = 0; i < SLOTS; i++)
		ring->slot[i] = (struct netmap_slot){.buf_idx = (*buffer)++, .len = 60};
}

/* One NIC ring pair and one of the host. */
static void *fuzz_map(int fd, uint64_t bytes)
{
	struct netmap_if *nifp;
	uint32_t buffer = NETMAP_FIRST_BUFFER;

	(void)fd;
	if (bytes != REGION_BYTES)
		return NULL;
	whole = mmap(NULL, REGION_BYTES + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(whole != MAP_FAILED);
	region = whole + PAGE;
	need(mprotect(region, REGION_BYTES, PROT_READ | PROT_WRITE) == 0);
	nifp = (struct netmap_if *)(region + IF_AT);
	nifp->ni_tx_rings = nifp->ni_rx_rings = 1;
	nifp->ni_host_tx_rings = nifp->ni_host_rx_rings = 1;
	nifp->ring_ofs[0] = TX_AT - IF_AT;
	nifp->ring_ofs[1] = TX_AT + PAIR_BYTES - IF_AT;
	nifp->ring_ofs[2] = RX_AT - IF_AT;
	nifp->ring_ofs[3] = RX_AT + PAIR_BYTES - IF_AT;
	for (unsigned pair = 0; pair < 2; pair++) {
		ring_make(RX_AT + pair * PAIR_BYTES, false, &buffer);
		ring_make(TX_AT + pair * PAIR_BYTES, true, &buffer);
	}
	return region;
}

static int fuzz_sync(int fd, bool tx)
{
	struct netmap_ring *ring = (struct netmap_ring *)(region + (tx ? TX_AT : RX_AT));
	uint8_t what = take();

	(void)fd;
	ring->tail = (ring->head + what) % SLOTS;
	return what == 0xee ? -6 : 0;
}

static int fuzz_wait(int fd, uint64_t timeout_ns)
{
	(void)timeout_ns;
	return fuzz_sync(fd, true) ? -1 : take() & 1;
}

static bool fuzz_interface(int fd, uint32_t ifindex, struct port_status *status)
{
	(void)fd;
	(void)ifindex;
	status->mtu = take() & 1 ? 9000 : 1500;
	return true;
}

static const struct netmap_device device = {
    .map = fuzz_map,
    .sync = fuzz_sync,
    .wait = fuzz_wait,
    .interface_status = fuzz_interface,
};

/* --- the port -------------------------------------------------------------------------------- */

static void check_frame(const struct frame *frame)
{
	uint32_t bytes = 0;

	for (const struct frame *part = frame; part; part = part->next) {
		need(part->data >= region && part->len <= UINT16_MAX);
		need(part->data + part->len <= region + REGION_BYTES);
		bytes += part->len;
		for (uint32_t i = 0; i < part->len; i += 64)
			(void)*(volatile uint8_t *)(part->data + i); /* may be read */
	}
	need(bytes == frame->frame_len && bytes <= FRAME_LEN_MAX);
}

static void forward(struct port *port, unsigned from, unsigned to)
{
	static struct frame batch[FRAME_BATCH];
	struct tx_report report = {.source = &port->rxq[from]};
	struct frame *list[FRAME_BATCH];
	struct port_counters cell = {0};
	uint64_t sum;
	int count = port->ops->rx(&port->rxq[from], batch, FRAME_BATCH, &cell);

	if (count <= 0)
		return;
	for (int i = 0; i < count; i++) {
		check_frame(&batch[i]);
		batch[i].flags |= take() & FRAME_SHARED;
		list[i] = &batch[i];
	}
	port->ops->tx(&port->txq[to], list, (unsigned)count, &report);
	sum = report.sent + report.consumed;
	for (unsigned i = 0; i < DROP_REASONS; i++)
		sum += report.drops[i];
	need(sum == (unsigned)count);
	port->ops->rx_done(&port->rxq[from]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const states[] = {
	    "nic=1 tx=1 rx=1 mem=1 kb=128 o0=64",
	    "nic=1 host=1 tx=1 rx=1 htx=1 hrx=1 mem=1 kb=128 ifindex=1 o0=64 o1=64",
	    "host=1 tx=1 rx=1 htx=1 hrx=1 mem=1 kb=128 hdr=12 o0=64",
	    "nic=1 tx=1 rx=1 mem=1 kb=128 hdr=10 o0=64",
	};
	struct port_options options = {.port = "fuzz"};
	struct port port = {.name = "fuzz"};
	struct netmap_exchange exchange = {.from_buffer = NETMAP_FIRST_BUFFER};
	struct port_fds fds = {0};
	struct error err;
	unsigned which;

	if (journal < 0) {
		netmap_device_use(&device);
		journal = memfd_create("journal", 0);
		need(journal >= 0 &&
		     ftruncate(journal, PORT_QUEUES_MAX * sizeof(struct netmap_exchange)) == 0);
	}
	input = data;
	left = size;
	which = take() % 4;
	whole = NULL;
	memcpy(fds.state, states[which], strlen(states[which]));
	for (fds.count = 0; fds.count < (which == 1 ? 4 : 2); fds.count++)
		fds.fd[fds.count] = journal;
	exchange.to = take() * 64u;
	exchange.from = take() * 16u;
	exchange.to_buffer = take();
	need(pwrite(journal, &exchange, sizeof(exchange), 0) == sizeof(exchange));
	port.ops = port_type_find("netmap");
	if (port.ops->attach(&port, &options, &fds, &err) == 0) {
		for (unsigned i = 0; port.rx_queue_count && i < TURNS; i++)
			forward(&port, i % port.rx_queue_count, 0);
		port.ops->detach(&port);
	}
	if (whole)
		munmap(whole, REGION_BYTES + 2 * PAGE);
	return 0;
}
