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

#include "ring.h"

enum {
	MEMORY_BUFFER_BYTES = 2048 + 64,
	MEMORY_SLOTS = 1024,
	MEMORY_SLOTS_MIN = 64,
	MEMORY_SLOTS_MAX = 16384,
	MEMORY_POOL = 1,	      /* frame->pool of its buffers */
	MEMORY_BUFFERS_MAX = 4 << 20, /* 8 GB of addresses, touched as ports come */
	MEMORY_VNET_BYTES = sizeof(struct frame_offload),
	RX_SLOT_BAD = 1 << 16, /* beside the flags of a slot */
	RX_VNET = 1 << 17
};

struct memory_rx {
	struct netmap_ring *ring;
	uint8_t *buffers; /* buffer 0 */
	uint32_t head;	  /* what ring->head is; the switch's own copy */
	uint32_t taken;	  /* what it becomes with rx_done */
	uint32_t slots;
	uint32_t vnet_bytes;
	int doorbell;
	struct frame *fragments; /* `slots` descriptors for what follows a first fragment */
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

	rx->slots = tx->slots = memory->slots;
	rx->vnet_bytes = tx->vnet_bytes = memory->vnet_hdr ? MEMORY_VNET_BYTES : 0;
	rx->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rx->fragments = calloc(memory->slots, sizeof(struct frame));
	rx->ring = ring_new(memory->slots, (uint16_t)queue, false);
	tx->ring = ring_new(memory->slots, (uint16_t)queue, true);
	if (rx->doorbell < 0)
		return -errno;
	if (!rx->fragments || !rx->ring || !tx->ring)
		return -ENOMEM;
	rx->buffers = ring_buffer(rx->ring, 0);
	tx->buffers = ring_buffer(tx->ring, 0);
	return 0;
}

static void queue_close(struct memory_port *memory, unsigned queue)
{
	struct memory_rx *rx = &memory->rx[queue];

	if (rx->doorbell >= 0)
		close(rx->doorbell);
	free(rx->fragments);
	ring_free(rx->ring);
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

static inline _Atomic uint32_t *shared(uint32_t *word)
{
	return (_Atomic uint32_t *)word;
}

/* Nothing is there: takes the doorbell back, so that poll sleeps until the next ring. */
static uint32_t rx_tail_when_empty(struct memory_rx *rx)
{
	uint64_t count;

	if (!atomic_load_explicit(&rx->rung, memory_order_relaxed))
		return rx->head;
	/* not written yet: poll will return at once and we come again */
	if (read(rx->doorbell, &count, sizeof(count)) == (ssize_t)sizeof(count))
		atomic_store(&rx->rung, 0);
	return atomic_load(shared(&rx->ring->tail));
}

static inline uint8_t *buffer_at(uint8_t *buffers, uint32_t buf_idx)
{
	return buffers + (size_t)buf_idx * MEMORY_BUFFER_BYTES;
}

/* The switch's view of one slot, loaded once. `odd`: not one plain frame in a sound slot. */
static inline void rx_slot(struct memory_rx *rx, struct netmap_slot *slot, struct frame *frame,
			   unsigned *odd)
{
	uint32_t buf_idx = slot->buf_idx;
	uint16_t len = slot->len;

	*odd = slot->flags & (NS_MOREFRAG | NS_NO_LEARN);
	if (__builtin_expect(buf_idx >= MEMORY_BUFFERS_MAX || len > MEMORY_BUFFER_BYTES, 0)) {
		*odd |= RX_SLOT_BAD;
		buf_idx = 0;
		len = 0;
	}
	*frame = (struct frame){
	    .data = buffer_at(rx->buffers, buf_idx),
	    .slot = slot,
	    .len = len,
	    .frame_len = len,
	    .pool = MEMORY_POOL,
	};
}

static inline uint32_t slot_next(uint32_t at, uint32_t slots)
{
	return at + 1 == slots ? 0 : at + 1;
}

static bool rx_vnet(struct memory_rx *rx, struct frame *frame)
{
	if (frame->len < rx->vnet_bytes)
		return false;
	memcpy(&frame->offload, frame->data, sizeof(frame->offload));
	frame->data += rx->vnet_bytes;
	frame->headroom = (uint16_t)rx->vnet_bytes;
	frame->len -= rx->vnet_bytes;
	frame->frame_len -= rx->vnet_bytes;
	return true;
}

/*
 * Collects the rest of a chain whose first slot is at. Returns the slot behind it; *sound turns
 * false for a chain with a bad slot, too many of them, or whose end is not there.
 */
static uint32_t rx_chain(struct memory_rx *rx, uint32_t at, uint32_t tail, struct frame *first,
			 struct frame *fragment, bool *sound)
{
	struct frame *last = first;
	unsigned odd = NS_MOREFRAG;
	unsigned count = 1;

	while (odd & NS_MOREFRAG) {
		at = ring_next(rx->ring, at);
		if (at == tail || count == FRAME_FRAGS_MAX) {
			*sound = false;
			return at;
		}
		rx_slot(rx, &rx->ring->slot[at], fragment, &odd);
		*sound &= !(odd & RX_SLOT_BAD);
		first->frame_len += fragment->len;
		last->next = fragment;
		last = fragment++;
		count++;
	}
	*sound &= first->frame_len <= FRAME_LEN_MAX;
	return ring_next(rx->ring, at);
}

static void memory_rx_done(struct port_queue *queue)
{
	struct memory_rx *rx = queue->priv;

	rx->head = rx->taken;
	rx->ring->cur = rx->taken;
	/* orders with the far end's look at head: it rings, or the next rx sees the new tail */
	atomic_store(shared(&rx->ring->head), rx->taken);
}

/*
 * The long way of a frame that is not one plain slot: a chain, one with a virtio-net header, or a
 * bad one, which is booked and returned as false. *at moves behind it.
 */
static bool rx_odd(struct memory_rx *rx, uint32_t *at, uint32_t tail, struct frame *frame,
		   struct frame **fragment, unsigned odd, struct port_counters *cell)
{
	bool sound = !(odd & RX_SLOT_BAD);
	uint32_t next = slot_next(*at, rx->slots);

	if (odd & NS_NO_LEARN)
		frame->flags |= FRAME_NO_LEARN;
	if (odd & NS_MOREFRAG) {
		next = rx_chain(rx, *at, tail, frame, *fragment, &sound);
		for (const struct frame *f = frame->next; f; f = f->next)
			++*fragment;
	}
	*at = next;
	if (sound && (!rx->vnet_bytes || rx_vnet(rx, frame)))
		return true;
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, frame->frame_len);
	counter_add(&cell->rx_drops[DROP_MALFORMED], 1);
	return false;
}

static int memory_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		     struct port_counters *cell)
{
	struct memory_rx *rx = queue->priv;
	uint32_t at = rx->head;
	uint32_t tail = atomic_load(shared(&rx->ring->tail));
	uint32_t slots = rx->slots;
	unsigned always_odd = rx->vnet_bytes ? RX_VNET : 0;
	struct frame *fragment = rx->fragments, *frame = batch, *end = batch + max;

	if (at == tail)
		tail = rx_tail_when_empty(rx);
	while (at != tail && frame != end) {
		unsigned odd;

		rx_slot(rx, &rx->ring->slot[at], frame, &odd);
		__builtin_prefetch(frame->data);
		odd |= always_odd;
		if (__builtin_expect(!odd, 1)) {
			at = slot_next(at, slots);
			frame++;
		} else {
			frame += rx_odd(rx, &at, tail, frame, &fragment, odd, cell);
		}
	}
	rx->taken = at;
	if (frame == batch && at != rx->head)
		memory_rx_done(queue); /* nothing for the caller to give back */
	return (int)(frame - batch);
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

/* Copies header and fragments into slots from `at` on; returns the slot behind the frame. */
static uint32_t tx_copy(struct memory_tx *tx, uint32_t at, const struct frame *frame)
{
	struct netmap_slot *slot = &tx->ring->slot[at];
	uint8_t *to = ring_buffer(tx->ring, slot->buf_idx);
	uint32_t used = tx->vnet_bytes;

	if (used)
		memcpy(to, &frame->offload, sizeof(frame->offload));
	for (; frame; frame = frame->next) {
		const uint8_t *from = frame->data;
		uint32_t left = frame->len;

		while (left) {
			uint32_t part = MEMORY_BUFFER_BYTES - used;

			if (!part) {
				slot->len = MEMORY_BUFFER_BYTES;
				slot->flags = NS_MOREFRAG;
				at = ring_next(tx->ring, at);
				slot = &tx->ring->slot[at];
				to = ring_buffer(tx->ring, slot->buf_idx);
				used = 0;
				continue;
			}
			if (part > left)
				part = left;
			memcpy(to + used, from, part);
			used += part;
			from += part;
			left -= part;
		}
	}
	slot->len = (uint16_t)used;
	slot->flags = 0;
	return ring_next(tx->ring, at);
}

static uint32_t slots_needed(const struct memory_tx *tx, const struct frame *frame)
{
	return (frame->frame_len + tx->vnet_bytes + MEMORY_BUFFER_BYTES - 1) / MEMORY_BUFFER_BYTES;
}

static void memory_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		      struct tx_report *report)
{
	struct memory_tx *tx = queue->priv;
	uint32_t at = tx->head;
	uint32_t tail = atomic_load_explicit(shared(&tx->ring->tail), memory_order_acquire);
	uint32_t slots = tx->slots, vnet_bytes = tx->vnet_bytes;
	uint32_t space = ring_space(at, tail, slots);
	uint32_t refused = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = frames[i];

		if (__builtin_expect(tx_may_swap(frame) && space && !vnet_bytes, 1)) {
			struct netmap_slot *slot = &tx->ring->slot[at];

			slot_swap(slot, frame->slot);
			slot->len = (uint16_t)frame->len;
			at = slot_next(at, slots);
			space--;
		} else {
			uint32_t need = slots_needed(tx, frame);

			if (need > space) {
				report->drops[need >= slots ? DROP_TOO_BIG : DROP_QUEUE_FULL]++;
				refused++;
				continue;
			}
			at = tx_copy(tx, at, frame);
			space -= need;
		}
		bytes += frame->frame_len;
	}
	tx->head = at;
	tx->ring->cur = at;
	atomic_store_explicit(shared(&tx->ring->head), at, memory_order_release);
	report->sent += count - refused;
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
	ring = rx->ring;
	need = (len + MEMORY_BUFFER_BYTES - 1) / MEMORY_BUFFER_BYTES;
	if (!len || need >= rx->slots || need > FRAME_FRAGS_MAX ||
	    len > FRAME_LEN_MAX + rx->vnet_bytes)
		return -EMSGSIZE;
	first = tail = atomic_load_explicit(shared(&ring->tail), memory_order_relaxed);
	head = atomic_load_explicit(shared(&ring->head), memory_order_acquire);
	if (rx->slots - 1 - ring_space(head, tail, rx->slots) < need)
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
	atomic_store(shared(&ring->tail), tail);
	if (atomic_load(shared(&ring->head)) == first && !atomic_exchange(&rx->rung, 1)) {
		uint64_t one = 1;

		while (write(rx->doorbell, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	}
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
	head = atomic_load_explicit(shared(&ring->head), memory_order_acquire);
	first = ring_next(ring, atomic_load_explicit(shared(&ring->tail), memory_order_relaxed));
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
	atomic_store_explicit(shared(&ring->tail), (at ? at : ring->num_slots) - 1,
			      memory_order_release);
	return (int)len;
}

struct netmap_ring *memory_ring(struct port *port, uint16_t queue, bool tx)
{
	struct memory_port *memory = port->priv;

	if (queue >= memory->queues)
		return NULL;
	return tx ? memory->tx[queue].ring : memory->rx[queue].ring;
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
