/*
 * memory: rings inside the process, in netmap's layout. Needs no privilege and no device.
 *
 * The switch is the user of both rings, as it is with a netmap port: in the rx ring head..tail-1
 * hold received frames, in the tx ring head..tail-1 are free for it. The far end (memory_put,
 * memory_take) is the other side: it moves the tails.
 *
 * All memory ports of a process share one pool of buffers, so a frame crosses the switch by
 * exchanging buf_idx of two slots, both marked NS_BUF_CHANGED; a frame that is shared, edited or
 * from elsewhere is copied once. A ring owns exactly one buffer a slot at any time, whichever.
 * Frames longer than a buffer are chains of slots with NS_MOREFRAG.
 *
 * With the option vnet_hdr every frame in a ring begins with the 10 bytes of struct frame_offload
 * (virtio's legacy header, as netmap has it), and the port carries every offload.
 *
 * Doorbell: the rx queue's eventfd. The far end rings it only when the switch had taken
 * everything; `rung` keeps it to one write a nap.
 *
 * Runs on: control thread (attach, detach), workers (rx, rx_done, tx), the far end's thread.
 */
#include "port_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "port_bell.h"
#include "ring_frames.h"

enum {
	MEMORY_BUFFER_BYTES = 2048 + 64,
	MEMORY_SLOTS = 1024,
	MEMORY_SLOTS_MIN = 64,
	MEMORY_SLOTS_MAX = 16384,
	MEMORY_POOL = 1,	      /* frame->pool of its buffers */
	MEMORY_BUFFERS_MAX = 4 << 20, /* 8 GB of addresses, touched as ports come */
};

static const struct ring_shape shape = {
    .buffer_bytes = MEMORY_BUFFER_BYTES, .buffers = MEMORY_BUFFERS_MAX, .pool = MEMORY_POOL};

struct memory_rx {
	struct ring_rx in; /* first: hot */
	int doorbell;
	_Alignas(64) _Atomic uint32_t rung;
};

struct memory_tx {
	struct netmap_ring *ring;
	uint8_t *buffers;
	uint32_t head;
	uint32_t slots;
	uint32_t vnet_bytes;
};

struct memory_port {
	struct memory_rx rx[PORT_QUEUES_MAX];
	struct memory_tx tx[PORT_QUEUES_MAX];
	unsigned queues;
	uint32_t slots;
	bool vnet_hdr;
};

static const char *const memory_options[] = {"queues", "slots", "vnet_hdr", NULL};

/* --- the pool: control thread only, under its lock ----------------------------------------- */

static struct {
	pthread_mutex_t lock;
	uint8_t *base;	/* NULL while no port is there */
	uint32_t *free; /* a stack of buffer numbers */
	uint32_t free_count;
	uint32_t made; /* buffers 0..made-1 were handed out at least once */
	uint32_t rings;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static size_t pool_bytes(void)
{
	return (size_t)MEMORY_BUFFERS_MAX * MEMORY_BUFFER_BYTES;
}

static int pool_open(void)
{
	void *base, *free_list;

	base = mmap(NULL, pool_bytes(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	/* a frame touches a page of its own: with 4 KB pages that is a TLB miss each */
	madvise(base, pool_bytes(), MADV_HUGEPAGE);
	free_list = mmap(NULL, MEMORY_BUFFERS_MAX * sizeof(uint32_t), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (free_list == MAP_FAILED) {
		munmap(base, pool_bytes());
		return -ENOMEM;
	}
	pool.base = base;
	pool.free = free_list;
	pool.free_count = 0;
	pool.made = 0;
	return 0;
}

static void pool_close(void)
{
	munmap(pool.base, pool_bytes());
	munmap(pool.free, MEMORY_BUFFERS_MAX * sizeof(uint32_t));
	pool.base = NULL;
}

/* Gives the ring a buffer for each slot and touches them, so that no frame has to. */
static int pool_take(struct netmap_ring *ring)
{
	int status = 0;

	pthread_mutex_lock(&pool.lock);
	if (!pool.base)
		status = pool_open();
	if (!status && pool.free_count + (MEMORY_BUFFERS_MAX - pool.made) < ring->num_slots)
		status = -ENOMEM;
	if (!status) {
		for (uint32_t i = 0; i < ring->num_slots; i++) {
			uint32_t buffer =
			    pool.free_count ? pool.free[--pool.free_count] : pool.made++;

			ring->slot[i].buf_idx = buffer;
			memset(pool.base + (size_t)buffer * MEMORY_BUFFER_BYTES, 0,
			       MEMORY_BUFFER_BYTES);
		}
		ring->buf_ofs = pool.base - (uint8_t *)ring;
		pool.rings++;
	} else if (pool.base && !pool.rings) {
		pool_close();
	}
	pthread_mutex_unlock(&pool.lock);
	return status;
}

static void pool_give(const struct netmap_ring *ring)
{
	pthread_mutex_lock(&pool.lock);
	for (uint32_t i = 0; i < ring->num_slots; i++)
		pool.free[pool.free_count++] = ring->slot[i].buf_idx;
	if (--pool.rings == 0)
		pool_close();
	pthread_mutex_unlock(&pool.lock);
}

/* --- attach and detach ---------------------------------------------------------------------- */

static size_t ring_bytes(uint32_t slots)
{
	return sizeof(struct netmap_ring) + slots * sizeof(struct netmap_slot);
}

static struct netmap_ring *ring_new(uint32_t slots, uint16_t queue, bool tx)
{
	struct netmap_ring *ring = aligned_alloc(128, (ring_bytes(slots) + 127) & ~(size_t)127);

	if (!ring)
		return NULL;
	memset(ring, 0, ring_bytes(slots));
	ring->num_slots = slots;
	ring->nr_buf_size = MEMORY_BUFFER_BYTES;
	ring->ringid = queue;
	ring->dir = tx;
	ring->tail = tx ? slots - 1 : 0;
	if (pool_take(ring)) {
		free(ring);
		return NULL;
	}
	return ring;
}

static void ring_free(struct netmap_ring *ring)
{
	if (!ring)
		return;
	pool_give(ring);
	free(ring);
}

static int queue_open(struct memory_port *memory, unsigned queue)
{
	struct memory_rx *rx = &memory->rx[queue];
	struct memory_tx *tx = &memory->tx[queue];

	rx->in.shape = shape;
	rx->in.slots = tx->slots = memory->slots;
	rx->in.vnet_bytes = tx->vnet_bytes = memory->vnet_hdr ? RING_VNET_BYTES : 0;
	rx->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rx->in.fragments = calloc(memory->slots, sizeof(struct frame));
	rx->in.ring = ring_new(memory->slots, (uint16_t)queue, false);
	tx->ring = ring_new(memory->slots, (uint16_t)queue, true);
	if (rx->doorbell < 0)
		return -errno;
	if (!rx->in.fragments || !rx->in.ring || !tx->ring)
		return -ENOMEM;
	rx->in.buffers = ring_buffer(rx->in.ring, 0);
	tx->buffers = ring_buffer(tx->ring, 0);
	return 0;
}

static void queue_close(struct memory_port *memory, unsigned queue)
{
	struct memory_rx *rx = &memory->rx[queue];

	if (rx->doorbell >= 0)
		close(rx->doorbell);
	free(rx->in.fragments);
	ring_free(rx->in.ring);
	ring_free(memory->tx[queue].ring);
}

static void memory_detach(struct port *port)
{
	struct memory_port *memory = port->priv;

	for (unsigned i = 0; i < memory->queues; i++)
		queue_close(memory, i);
	free(memory);
	port->priv = NULL;
}

static int memory_attach(struct port *port, const struct port_options *options,
			 const struct port_fds *fds, struct error *err)
{
	struct memory_port *memory;
	uint32_t queues, slots;
	bool vnet_hdr;
	int status;

	(void)fds;
	status = port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &queues, err);
	if (!status)
		status = port_option_u32(options, "slots", MEMORY_SLOTS, MEMORY_SLOTS_MIN,
					 MEMORY_SLOTS_MAX, &slots, err);
	if (!status)
		status = port_option_bool(options, "vnet_hdr", false, &vnet_hdr, err);
	if (status)
		return status;

	memory = aligned_alloc(64, sizeof(*memory));
	if (!memory)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	memset(memory, 0, sizeof(*memory));
	memory->slots = slots;
	memory->vnet_hdr = vnet_hdr;
	port->priv = memory;
	while (memory->queues < queues) {
		status = queue_open(memory, memory->queues++);
		if (status) {
			memory_detach(port);
			return error_set(err, -status, "%s: no memory or descriptor for queue %u",
					 port->name, memory->queues - 1);
		}
	}
	for (unsigned i = 0; i < queues; i++) {
		port->rxq[i].priv = &memory->rx[i];
		port->txq[i].priv = &memory->tx[i];
	}
	port->rx_queue_count = port->tx_queue_count = (uint16_t)queues;
	port->pool = MEMORY_POOL;
	port->caps = PORT_CAP_FRAGS;
	if (vnet_hdr)
		port->caps |= PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO;
	return 0;
}

static void memory_poll_status(struct port *port, struct port_status *status)
{
	const struct memory_port *memory = port->priv;

	status->link_up = true;
	status->caps = port->caps;
	status->rx_queues = status->tx_queues = memory->queues;
	snprintf(status->detail, sizeof(status->detail), "%u slots of %u bytes%s", memory->slots,
		 (unsigned)MEMORY_BUFFER_BYTES, memory->vnet_hdr ? ", virtio-net header" : "");
}

/* --- rx: worker ------------------------------------------------------------------------------ */

static int memory_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		     struct port_counters *cell)
{
	struct memory_rx *rx = queue->priv;
	uint32_t tail = atomic_load(ring_shared(&rx->in.ring->tail));
	int count;

	if (tail == rx->in.head && port_bell_take(rx->doorbell, &rx->rung))
		tail = atomic_load(ring_shared(&rx->in.ring->tail));
	count = ring_rx(&rx->in, shape, tail, batch, max, cell);
	queue->plain_max = rx->in.plain_max;
	queue->plain_bytes = rx->in.plain_bytes;
	return count;
}

static void memory_rx_done(struct port_queue *queue)
{
	struct memory_rx *rx = queue->priv;

	ring_rx_done(&rx->in);
}

static int memory_rx_fd(const struct port_queue *queue)
{
	const struct memory_rx *rx = queue->priv;

	return rx->doorbell;
}

/* --- tx: worker ------------------------------------------------------------------------------ */

/* Exchanges the buffers of two slots. No buffer is lost or doubled. */
static inline void slot_swap(struct netmap_slot *to, struct netmap_slot *from)
{
	uint32_t buf_idx = to->buf_idx;

	to->buf_idx = from->buf_idx;
	from->buf_idx = buf_idx;
	to->flags = NS_BUF_CHANGED;
	from->flags |= NS_BUF_CHANGED;
}

/*
 * May this frame's buffer change hands as it is? Only a whole, unshared one that still begins
 * where its buffer begins: an edit in place would have left it headroom.
 */
static inline bool tx_may_swap(const struct frame *frame)
{
	return frame->pool == MEMORY_POOL && !frame->headroom && !(frame->flags & FRAME_SHARED) &&
	       !frame->next;
}

static void memory_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		      struct tx_report *report)
{
	struct memory_tx *tx = queue->priv;
	uint32_t at = tx->head;
	uint32_t tail = atomic_load_explicit(ring_shared(&tx->ring->tail), memory_order_acquire);
	uint32_t slots = tx->slots, vnet_bytes = tx->vnet_bytes;
	uint32_t space = ring_space(at, tail, slots);
	uint32_t refused = 0, copied = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];

		if (__builtin_expect(tx_may_swap(frame) && space && !vnet_bytes, 1)) {
			struct netmap_slot *slot = &tx->ring->slot[at];

			slot_swap(slot, frame->slot);
			slot->len = (uint16_t)frame->len;
			at = ring_slot_next(at, slots);
			space--;
		} else {
			uint32_t need = ring_slots_needed(MEMORY_BUFFER_BYTES, vnet_bytes, frame);

			if (need > space) {
				report->drops[need >= slots ? DROP_TOO_BIG : DROP_QUEUE_FULL]++;
				refused++;
				continue;
			}
			at = ring_copy_in(tx->ring, tx->buffers, shape, slots, vnet_bytes, at,
					  frame);
			space -= need;
			copied++;
		}
		bytes += frame->frame_len;
	}
	tx->head = at;
	tx->ring->cur = at;
	atomic_store_explicit(ring_shared(&tx->ring->head), at, memory_order_release);
	report->sent += count - refused;
	report->zero_copy += count - refused - copied;
	report->sent_bytes += bytes;
}

/* --- the far end ----------------------------------------------------------------------------- */

int memory_put(struct port *port, uint16_t queue, const uint8_t *bytes, uint32_t len)
{
	struct memory_port *memory = port->priv;
	struct memory_rx *rx;
	struct netmap_ring *ring;
	uint32_t tail, first, head, need;

	if (queue >= memory->queues)
		return -EINVAL;
	rx = &memory->rx[queue];
	ring = rx->in.ring;
	need = (len + MEMORY_BUFFER_BYTES - 1) / MEMORY_BUFFER_BYTES;
	if (!len || need >= rx->in.slots || need > FRAME_FRAGS_MAX ||
	    len > FRAME_LEN_MAX + rx->in.vnet_bytes)
		return -EMSGSIZE;
	first = tail = atomic_load_explicit(ring_shared(&ring->tail), memory_order_relaxed);
	head = atomic_load_explicit(ring_shared(&ring->head), memory_order_acquire);
	if (rx->in.slots - 1 - ring_space(head, tail, rx->in.slots) < need)
		return -EAGAIN;
	while (len) {
		struct netmap_slot *slot = &ring->slot[tail];
		uint32_t part = len < MEMORY_BUFFER_BYTES ? len : MEMORY_BUFFER_BYTES;

		memcpy(ring_buffer(ring, slot->buf_idx), bytes, part);
		slot->len = (uint16_t)part;
		slot->flags = len > part ? NS_MOREFRAG : 0;
		bytes += part;
		len -= part;
		tail = ring_next(ring, tail);
	}
	atomic_store(ring_shared(&ring->tail), tail);
	if (atomic_load(ring_shared(&ring->head)) == first)
		port_bell_ring(rx->doorbell, &rx->rung);
	return 0;
}

int memory_take(struct port *port, uint16_t queue, uint8_t *bytes, uint32_t room)
{
	struct memory_port *memory = port->priv;
	struct netmap_ring *ring;
	uint32_t head, at, first, len = 0;
	bool more = true;

	if (queue >= memory->queues)
		return -EINVAL;
	ring = memory->tx[queue].ring;
	head = atomic_load_explicit(ring_shared(&ring->head), memory_order_acquire);
	first =
	    ring_next(ring, atomic_load_explicit(ring_shared(&ring->tail), memory_order_relaxed));
	if (first == head)
		return -EAGAIN;
	for (at = first; more; at = ring_next(ring, at)) {
		more = ring->slot[at].flags & NS_MOREFRAG;
		len += ring->slot[at].len;
	}
	if (len > room)
		return -EMSGSIZE;
	more = true;
	for (at = first; more; at = ring_next(ring, at)) {
		memcpy(bytes, ring_buffer(ring, ring->slot[at].buf_idx), ring->slot[at].len);
		bytes += ring->slot[at].len;
		more = ring->slot[at].flags & NS_MOREFRAG;
	}
	/* tail is the last slot the far end is done with */
	atomic_store_explicit(ring_shared(&ring->tail), (at ? at : ring->num_slots) - 1,
			      memory_order_release);
	return (int)len;
}

struct netmap_ring *memory_ring(struct port *port, uint16_t queue, bool tx)
{
	struct memory_port *memory = port->priv;

	if (queue >= memory->queues)
		return NULL;
	return tx ? memory->tx[queue].ring : memory->rx[queue].in.ring;
}

const struct port_ops port_memory_ops = {
    .type = "memory",
    .options = memory_options,
    .attach = memory_attach,
    .detach = memory_detach,
    .poll_status = memory_poll_status,
    .rx = memory_rx,
    .rx_done = memory_rx_done,
    .tx = memory_tx,
    .rx_fd = memory_rx_fd,
};

bool port_is_memory(const struct port *port)
{
	return port->ops == &port_memory_ops;
}
