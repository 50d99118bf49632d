/*
 * pipe: two ports that are two ends of one memory, netmap's pipes between two bridges.
 *
 * One memfd a pipe: a header, a ring and its buffers for each end and queue. A ring is the
 * receive ring of its end, in netmap's layout: head..tail-1 hold frames for that end, the other
 * end fills slots from tail on. Crossing the pipe moves no byte: a slot changes its owner. Into
 * the pipe a frame is copied once. Every frame begins with struct frame_offload, so unfinished
 * checksums and segments pass as they are.
 *
 * What is in the pipe stays in it: the keeper holds the memfd, once for each end that exists, and
 * the rings' indices are in it. A batch is `committed` right before its frames leave; a
 * successor goes on behind it. The first end that is made makes the memory, the last one that
 * goes takes it along.
 *
 * Back-pressure: a full pipe makes the sender wait, for at most WAIT_MS, until the whole batch
 * has room; nothing is published or committed before, so a kill loses nothing of it. Two workers
 * that wait for each other through two pipes go on after that time and count what did not fit as
 * queue_full. Where the other end did not move at all in that time nobody waits again before it
 * does: one that stands still must not slow a worker that has other destinations. As in netmap,
 * a lone end keeps what fits for the end that comes; what does not fit is dropped as link_down,
 * without waiting. With `block` off the port is one of a VALE switch: a sender never waits, and
 * nothing is kept for nobody.
 *
 * Runs on: keeper (acquire), control thread (attach, detach, status), workers (rx, tx).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "port.h"
#include "port_bell.h"
#include "ring_frames.h"

enum {
	ENDS = 2, /* 0: master, 1: slave */
	BUFFER_BYTES = 2048 + 64,
	SLOTS = 1024,
	SLOTS_MIN = 64, /* the largest frame has 32 */
	SLOTS_MAX = 4096,
	HEADER_BYTES = 8192,
	PAGE = 4096,
	WAIT_MS = 1000,	  /* a loaded machine lets a worker wait for its turn, too */
	WAIT_YIELDS = 50, /* the processor is offered to the other end so often before a nap */
	WAIT_NAP_NS = 50000
};
#define PIPE_MAGIC 0x3170697077737600u

/* The beginning of the memory. Written when it is made; `committed` by the end that receives. */
struct pipe_header {
	uint64_t magic;
	uint32_t queues;
	uint32_t slots;
	struct {
		_Alignas(64) uint32_t index; /* of the first frame that was not handed on */
	} committed[ENDS * PORT_QUEUES_MAX];
};
static_assert(sizeof(struct pipe_header) <= HEADER_BYTES, "rings begin behind it");

/* A pipe as this process has it: one mapping, whichever ends are attached. */
struct pipe {
	struct pipe *next;
	dev_t device; /* of the memfd: who has the same is the same pipe */
	ino_t inode;
	unsigned users;
	uint32_t queues;
	uint32_t slots;
	uint8_t *base;
	_Atomic bool present[ENDS];
	struct {
		_Alignas(64) _Atomic uint32_t rung;
	} bells[ENDS][PORT_QUEUES_MAX];
};

struct pipe_rx {
	struct ring_rx in;
	uint32_t *committed;
	_Atomic uint32_t *rung;
	int bell;
};

struct pipe_tx {
	struct netmap_ring *ring;
	uint8_t *buffers;
	const _Atomic bool *peer; /* the other end is attached */
	_Atomic uint32_t *rung;
	int bell;
	uint32_t tail; /* what ring->tail is; our own copy */
	uint32_t slots;
	uint32_t stalled_at; /* ring->head that did not move while we waited; `slots`: none */
	struct ring_shape shape;
	bool block;
};

struct pipe_end {
	struct pipe_rx rx[PORT_QUEUES_MAX];
	struct pipe_tx tx[PORT_QUEUES_MAX];
	struct pipe *pipe;
	unsigned end;
	bool block;
};

static const char *const pipe_options[] = {"name", "end", "queues", "slots", "block", NULL};
static const char *const end_names[ENDS] = {"master", "slave"};

/* All pipes of this process; control threads only. */
static struct {
	pthread_mutex_t lock;
	struct pipe *first;
} pipes = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* --- layout -------------------------------------------------------------------------------------
 */

static size_t pages(size_t bytes)
{
	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static size_t ring_stride(uint32_t slots)
{
	return pages(sizeof(struct netmap_ring) + slots * sizeof(struct netmap_slot));
}

static size_t buffers_offset(uint32_t queues, uint32_t slots)
{
	return HEADER_BYTES + (size_t)ENDS * queues * ring_stride(slots);
}

static uint32_t buffers_count(uint32_t queues, uint32_t slots)
{
	return ENDS * queues * slots;
}

static size_t pipe_bytes(uint32_t queues, uint32_t slots)
{
	return buffers_offset(queues, slots) +
	       pages((size_t)buffers_count(queues, slots) * BUFFER_BYTES);
}

/* The ring that `end` receives from. */
static struct netmap_ring *ring_of(uint8_t *base, uint32_t queues, uint32_t slots, unsigned end,
				   unsigned queue)
{
	return (struct netmap_ring *)(base + HEADER_BYTES +
				      (end * queues + queue) * ring_stride(slots));
}

static unsigned bell_at(uint32_t queues, unsigned end, unsigned queue)
{
	return 1 + end * queues + queue;
}

/* --- keeper -------------------------------------------------------------------------------------
 */

static int option_end(const struct port_options *options, unsigned *end, struct error *err)
{
	const char *text = port_option_text(options, "end", "");

	for (*end = 0; *end < ENDS; ++*end) {
		if (strcmp(text, end_names[*end]) == 0)
			return 0;
	}
	return error_set(err, EINVAL, "%s: end \"%s\" is neither master nor slave", options->port,
			 text);
}

static void memory_fill(uint8_t *base, uint32_t queues, uint32_t slots)
{
	struct pipe_header *header = (struct pipe_header *)base;
	uint32_t buffer = 0;

	header->magic = PIPE_MAGIC;
	header->queues = queues;
	header->slots = slots;
	for (unsigned end = 0; end < ENDS; end++) {
		for (unsigned q = 0; q < queues; q++) {
			struct netmap_ring *ring = ring_of(base, queues, slots, end, q);

			ring->num_slots = slots;
			ring->nr_buf_size = BUFFER_BYTES;
			ring->ringid = (uint16_t)q;
			ring->buf_ofs = base + buffers_offset(queues, slots) - (uint8_t *)ring;
			for (uint32_t i = 0; i < slots; i++)
				ring->slot[i].buf_idx = buffer++;
		}
	}
}

/* All of it is there from the beginning: a worker that touches it must not find none left. */
static int memory_make(const char *name, uint32_t queues, uint32_t slots)
{
	size_t bytes = pipe_bytes(queues, slots);
	char title[64];
	void *base;
	int fd, status;

	snprintf(title, sizeof(title), "vswitch-pipe-%s", name);
	fd = memfd_create(title, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	status = posix_fallocate(fd, 0, (off_t)bytes);
	if (!status && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		status = errno;
	base = status ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED) {
		status = status ? status : errno;
		close(fd);
		return -status;
	}
	memory_fill(base, queues, slots);
	munmap(base, bytes);
	return fd;
}

/*
 * The first end of a pipe; the keeper gives the second one copies of the first one's fds.
 * fds: memfd, then a bell for each receive queue, the master's first.
 */
static int pipe_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	const char *name = port_option_text(options, "name", "");
	uint32_t queues, slots;
	unsigned end;
	int fd, status;

	status = option_end(options, &end, err);
	if (!status)
		status = port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &queues, err);
	if (!status)
		status =
		    port_option_u32(options, "slots", SLOTS, SLOTS_MIN, SLOTS_MAX, &slots, err);
	if (status)
		return status;
	fds->count = 0;
	fd = memory_make(name, queues, slots);
	while (fd >= 0) {
		fds->fd[fds->count++] = fd;
		if (fds->count == 1 + ENDS * queues)
			break;
		fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	if (fd < 0) {
		while (fds->count)
			close(fds->fd[--fds->count]);
		return error_set(err, -fd, "%s: no memory or descriptor for pipe %s: %s",
				 options->port, name, strerror(-fd));
	}
	snprintf(fds->state, sizeof(fds->state), "queues=%u slots=%u", queues, slots);
	return 0;
}

/* --- attach and detach --------------------------------------------------------------------------
 */

/*
 * Where the last forwarder was killed between handing a batch on and giving its slots back. An
 * index that is none: what is in the ring cannot be told, so nothing is.
 */
static void ring_recover(struct netmap_ring *ring, uint32_t *committed, uint32_t slots)
{
	uint32_t head = load_shared(&ring->head), tail = load_shared(&ring->tail);
	uint32_t done = load_shared(committed);

	if (head >= slots || tail >= slots || done >= slots)
		head = tail = done = 0;
	else if (ring_space(head, done, slots) <= ring_space(head, tail, slots))
		head = done;
	ring->head = ring->cur = *committed = head;
	ring->tail = tail;
}

static int pipe_map(int fd, const struct stat *file, uint32_t queues, uint32_t slots,
		    struct pipe **out)
{
	size_t bytes = pipe_bytes(queues, slots);
	struct pipe_header *header;
	struct pipe *pipe;
	void *base;

	if ((size_t)file->st_size != bytes)
		return -EINVAL;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	header = base;
	pipe = aligned_alloc(64, sizeof(*pipe));
	if (!pipe || header->magic != PIPE_MAGIC || header->queues != queues ||
	    header->slots != slots) {
		munmap(base, bytes);
		free(pipe);
		return pipe ? -EINVAL : -ENOMEM;
	}
	memset(pipe, 0, sizeof(*pipe));
	pipe->device = file->st_dev;
	pipe->inode = file->st_ino;
	pipe->queues = queues;
	pipe->slots = slots;
	pipe->base = base;
	for (unsigned i = 0; i < ENDS * queues; i++)
		ring_recover(ring_of(base, queues, slots, i / queues, i % queues),
			     &header->committed[i].index, slots);
	*out = pipe;
	return 0;
}

/* Bells that a killed forwarder rang; its successor looks into its rings before it sleeps. */
static void bells_silence(const struct port_fds *fds)
{
	uint64_t count;

	for (unsigned i = 1; i < fds->count; i++) {
		while (read(fds->fd[i], &count, sizeof(count)) < 0 && errno == EINTR)
			;
	}
}

/* This process's view of the pipe, made when there is none; the lock is held. */
static int pipe_enter(const struct port_fds *fds, uint32_t queues, uint32_t slots, unsigned end,
		      struct pipe **out)
{
	struct pipe *pipe = pipes.first;
	struct stat file;
	int status;

	if (fstat(fds->fd[0], &file) < 0)
		return -errno;
	while (pipe && (pipe->inode != file.st_ino || pipe->device != file.st_dev))
		pipe = pipe->next;
	if (!pipe) {
		status = pipe_map(fds->fd[0], &file, queues, slots, &pipe);
		if (status)
			return status;
		bells_silence(fds);
		pipe->next = pipes.first;
		pipes.first = pipe;
	} else if (pipe->queues != queues || pipe->slots != slots) {
		return -EINVAL;
	} else if (pipe->present[end]) {
		return -EBUSY;
	}
	pipe->users++;
	pipe->present[end] = true;
	*out = pipe;
	return 0;
}

static void pipe_leave(struct pipe *pipe, unsigned end)
{
	struct pipe **link = &pipes.first;

	pthread_mutex_lock(&pipes.lock);
	pipe->present[end] = false;
	if (--pipe->users == 0) {
		while (*link != pipe)
			link = &(*link)->next;
		*link = pipe->next;
		munmap(pipe->base, pipe_bytes(pipe->queues, pipe->slots));
		free(pipe);
	}
	pthread_mutex_unlock(&pipes.lock);
}

static int queue_open(struct pipe_end *self, unsigned queue, const struct port_fds *fds)
{
	struct pipe *pipe = self->pipe;
	struct pipe_header *header = (struct pipe_header *)pipe->base;
	struct pipe_rx *rx = &self->rx[queue];
	struct pipe_tx *tx = &self->tx[queue];
	unsigned end = self->end, peer = !self->end;
	uint8_t *buffers = pipe->base + buffers_offset(pipe->queues, pipe->slots);
	struct ring_shape shape = {.buffer_bytes = BUFFER_BYTES,
				   .buffers = buffers_count(pipe->queues, pipe->slots)};

	*rx = (struct pipe_rx){
	    .in = {.ring = ring_of(pipe->base, pipe->queues, pipe->slots, end, queue),
		   .buffers = buffers,
		   .slots = pipe->slots,
		   .vnet_bytes = RING_VNET_BYTES,
		   .fragments = calloc(pipe->slots, sizeof(struct frame)),
		   .shape = shape},
	    .committed = &header->committed[end * pipe->queues + queue].index,
	    .rung = &pipe->bells[end][queue].rung,
	    .bell = fds->fd[bell_at(pipe->queues, end, queue)],
	};
	if (!rx->in.fragments)
		return -ENOMEM;
	rx->in.head = rx->in.taken = load_shared(&rx->in.ring->head) % pipe->slots;
	*tx = (struct pipe_tx){
	    .ring = ring_of(pipe->base, pipe->queues, pipe->slots, peer, queue),
	    .buffers = buffers,
	    .peer = &pipe->present[peer],
	    .rung = &pipe->bells[peer][queue].rung,
	    .bell = fds->fd[bell_at(pipe->queues, peer, queue)],
	    .slots = pipe->slots,
	    .stalled_at = pipe->slots,
	    .shape = shape,
	    .block = self->block,
	};
	tx->tail = load_shared(&tx->ring->tail) % pipe->slots;
	return 0;
}

static void pipe_detach(struct port *port)
{
	struct pipe_end *self = port->priv;

	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		free(self->rx[i].in.fragments);
	pipe_leave(self->pipe, self->end);
	free(self);
	port->priv = NULL;
}

static int pipe_attach(struct port *port, const struct port_options *options,
		       const struct port_fds *fds, struct error *err)
{
	uint32_t queues = port_state_u32(fds, "queues", 0);
	uint32_t slots = port_state_u32(fds, "slots", 0);
	struct pipe_end *self;
	unsigned end;
	bool block;
	int status;

	status = option_end(options, &end, err);
	if (!status)
		status = port_option_bool(options, "block", true, &block, err);
	if (status)
		return status;
	if (queues < 1 || queues > PORT_QUEUES_MAX || slots < SLOTS_MIN || slots > SLOTS_MAX ||
	    fds->count != 1 + ENDS * queues)
		return error_set(err, EINVAL, "%s: the descriptors are not those of a pipe",
				 port->name);
	self = calloc(1, sizeof(*self));
	if (!self)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	self->end = end;
	self->block = block;
	pthread_mutex_lock(&pipes.lock);
	status = pipe_enter(fds, queues, slots, end, &self->pipe);
	pthread_mutex_unlock(&pipes.lock);
	if (status) {
		free(self);
		return error_named(err, -status, status == -EBUSY ? "PORT_BUSY" : "",
				   "%s: the %s end cannot be attached: %s", port->name,
				   end_names[end], strerror(-status));
	}
	port->priv = self;
	for (unsigned i = 0; i < queues; i++) {
		if (queue_open(self, i, fds)) {
			pipe_detach(port);
			return error_set(err, ENOMEM, "%s: out of memory", port->name);
		}
		port->rxq[i].priv = &self->rx[i];
		port->txq[i].priv = &self->tx[i];
	}
	port->rx_queue_count = port->tx_queue_count = (uint16_t)queues;
	port->caps = PORT_CAP_FRAGS | PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO;
	return 0;
}

static void pipe_poll_status(struct port *port, struct port_status *status)
{
	const struct pipe_end *self = port->priv;
	const struct pipe *pipe = self->pipe;

	status->link_up = pipe->present[!self->end];
	status->caps = port->caps;
	status->rx_queues = status->tx_queues = pipe->queues;
	snprintf(status->detail, sizeof(status->detail), "%s end, %u slots of %u bytes%s",
		 end_names[self->end], pipe->slots, (unsigned)BUFFER_BYTES,
		 status->link_up ? "" : "; the other end is not there");
}

/* --- rx: worker ------------------------------------------------------------------------------ */

static int pipe_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		   struct port_counters *cell)
{
	struct pipe_rx *rx = queue->priv;
	uint32_t tail = load_shared_ordered(&rx->in.ring->tail);
	int count;

	if (tail == rx->in.head && port_bell_take(rx->bell, rx->rung))
		tail = load_shared_ordered(&rx->in.ring->tail);
	if (tail >= rx->in.slots)
		return -ENETDOWN; /* whoever wrote that is no end of ours */
	count = ring_rx(&rx->in, rx->in.shape, tail, batch, max, cell);
	queue->plain_max = rx->in.plain_max;
	queue->plain_bytes = rx->in.plain_bytes;
	return count;
}

static void pipe_rx_commit(struct port_queue *queue)
{
	struct pipe_rx *rx = queue->priv;

	atomic_store_explicit(ring_shared(rx->committed), rx->in.taken, memory_order_release);
}

static void pipe_rx_done(struct port_queue *queue)
{
	struct pipe_rx *rx = queue->priv;

	pipe_rx_commit(queue);
	ring_rx_done(&rx->in);
}

static int pipe_rx_fd(const struct port_queue *queue)
{
	const struct pipe_rx *rx = queue->priv;

	return rx->bell;
}

/* --- tx: worker ------------------------------------------------------------------------------ */

/* Free slots; none where the other end wrote an index that is none. */
static uint32_t tx_space(const struct pipe_tx *tx, uint32_t *head)
{
	*head = load_shared_ordered(&tx->ring->head);
	return *head < tx->slots ? tx->slots - 1 - ring_space(*head, tx->tail, tx->slots) : 0;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/*
 * Waits until `want` slots are free; returns how many are. *deadline, 0 in the beginning, bounds
 * all waits of a batch together.
 */
static uint32_t tx_wait(struct pipe_tx *tx, uint32_t want, uint64_t *deadline)
{
	const struct timespec nap = {.tv_nsec = WAIT_NAP_NS};
	uint32_t first, head;
	uint32_t space = tx_space(tx, &first);

	if (!tx->block || first == tx->stalled_at)
		return space;
	if (!*deadline)
		*deadline = now_ns() + WAIT_MS * 1000000ull;
	head = first;
	for (unsigned tries = 0; space < want && atomic_load(tx->peer); tries++) {
		if (now_ns() >= *deadline) {
			tx->stalled_at = head == first ? head : tx->slots;
			return space;
		}
		if (tries < WAIT_YIELDS)
			sched_yield();
		else
			nanosleep(&nap, NULL);
		space = tx_space(tx, &head);
	}
	tx->stalled_at = tx->slots;
	return space;
}

/* What was written up to `at` is the other end's. */
static void tx_publish(struct pipe_tx *tx, uint32_t at, struct tx_report *report)
{
	uint32_t first = tx->tail;

	if (at == first)
		return;
	tx->tail = at;
	port_commit(report);
	atomic_store(ring_shared(&tx->ring->tail), at);
	if (load_shared_ordered(&tx->ring->head) == first)
		port_bell_ring(tx->bell, tx->rung);
}

static uint32_t batch_slots(struct frame *const *frames, unsigned count)
{
	uint32_t need = 0;

	for (unsigned i = 0; i < count; i++)
		need += ring_slots_needed(BUFFER_BYTES, RING_VNET_BYTES, frames[i]);
	return need;
}

static void pipe_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	struct pipe_tx *tx = queue->priv;
	uint64_t deadline = 0;
	uint32_t left = batch_slots(frames, count); /* slots for the frames from i on */
	uint32_t at = tx->tail, head, space = tx_space(tx, &head), most = tx->slots - 1;

	if (!tx->block && !atomic_load(tx->peer)) {
		report->drops[DROP_LINK_DOWN] += count;
		return;
	}
	if (space < left)
		space = tx_wait(tx, left < most ? left : most, &deadline);
	for (unsigned i = 0; i < count; i++) {
		uint32_t need = ring_slots_needed(BUFFER_BYTES, RING_VNET_BYTES, frames[i]);

		if (need > space) { /* a batch larger than the ring, or waiting was in vain */
			tx_publish(tx, at, report);
			space = tx_wait(tx, left < most ? left : most, &deadline);
		}
		left -= need;
		if (need > space) {
			report->drops[atomic_load(tx->peer) ? DROP_QUEUE_FULL : DROP_LINK_DOWN]++;
			continue;
		}
		at = ring_copy_in(tx->ring, tx->buffers, tx->shape, tx->slots, RING_VNET_BYTES, at,
				  frames[i]);
		space -= need;
		report->sent++;
		report->sent_bytes += frames[i]->frame_len;
	}
	tx_publish(tx, at, report);
}

const struct port_ops port_pipe_ops = {
    .type = "pipe",
    .options = pipe_options,
    .acquire = pipe_acquire,
    .attach = pipe_attach,
    .detach = pipe_detach,
    .poll_status = pipe_poll_status,
    .rx = pipe_rx,
    .rx_commit = pipe_rx_commit,
    .rx_done = pipe_rx_done,
    .tx = pipe_tx,
    .tx_commits = true,
    .rx_fd = pipe_rx_fd,
};
