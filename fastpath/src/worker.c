/* Runs on: see worker.h. */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	WORKER_STACK_BYTES = 512 * 1024,
	WORKER_NAME_MAX = 16,	 /* of a thread, with the 0 */
	BUSY_BATCHES = 64,	 /* batches between two looks at the clock */
	SPINS_PER_LOOK = 32,	 /* empty calls between two looks at the clock */
	DOWN_WAIT_MS = 100,	 /* between two tries of a device that is down */
	NO_FD_WAIT_MS = 1,	 /* between two tries of a port without an fd, doubled */
	NO_FD_WAIT_MAX_MS = 8,	 /* up to this */
	POLL_ERROR_WAIT_MS = 10, /* the fd reports an error that rx does not */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint32_t clock_tick(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint32_t)now.tv_sec;
}

/* --- a batch ------------------------------------------------------------------------------------
 */

/* Frames that the driver made are no received ones. */
static void batch_book_originated(struct worker *worker, unsigned count, uint64_t bytes)
{
	unsigned originated = 0;

	for (unsigned i = 0; i < count; i++) {
		if (worker->batch[i].flags & FRAME_ORIGINATED) {
			originated++;
			bytes -= worker->batch[i].frame_len;
		}
	}
	counter_add(&worker->cell->originated, originated);
	counter_add(&worker->cell->rx_frames, count - originated);
	counter_add(&worker->cell->rx_bytes, bytes);
}

/* batch_book where the driver has not said what the frames are like. */
static void batch_examine(struct worker *worker, unsigned count)
{
	uint64_t bytes = 0;
	uintptr_t unusual = 0;
	uint32_t longest = 0;
	unsigned flags = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct frame *frame = &worker->batch[i];

		bytes += frame->frame_len;
		longest = frame->frame_len > longest ? frame->frame_len : longest;
		unusual |= (uintptr_t)frame->next | frame->offload.gso_type |
			   (frame->offload.flags & FRAME_CSUM_NEEDED);
		flags |= frame->flags;
	}
	worker->tx.plain_max = unusual ? 0 : longest;
	if (__builtin_expect(flags & FRAME_ORIGINATED, 0)) {
		batch_book_originated(worker, count, bytes);
		return;
	}
	counter_add(&worker->cell->rx_frames, count);
	counter_add(&worker->cell->rx_bytes, bytes);
}

/* Books the batch as received; tells the tx stage when there is nothing unusual in it. */
static inline void batch_book(struct worker *worker, unsigned count)
{
	const struct port_queue *queue = worker->queue;

	if (!queue->plain_max) {
		batch_examine(worker, count);
		return;
	}
	worker->tx.plain_max = queue->plain_max;
	counter_add(&worker->cell->rx_frames, count);
	counter_add(&worker->cell->rx_bytes, queue->plain_bytes);
}

/* Some port has rules. Frames of a port in no bridge go nowhere. */
static void batch_rules(struct worker *worker, const struct snapshot *snapshot, unsigned count)
{
	struct rules_work *rules = worker->rules;

	rules_begin(rules, &snapshot->rules, &snapshot->tables, snapshot->generation,
		    worker->port_id, worker->batch, count);
	worker->tx.rules = rules;
	if (snapshot->rules.ingress[worker->port_id])
		worker->work.rules = rules;
}

int worker_batch(struct worker *worker, const struct snapshot *snapshot)
{
	struct port_queue *queue = worker->queue;
	int count = worker->port->ops->rx(queue, worker->batch, FRAME_BATCH, worker->cell);

	if (count <= 0)
		return count;
	batch_book(worker, (unsigned)count);
	if (__builtin_expect(snapshot->monitored && !worker->tx.copies, 0))
		monitor_rx(&snapshot->monitored[worker->port_id].rx, worker->batch, (unsigned)count,
			   worker->tx.cells);
	if (__builtin_expect(snapshot->rules.any, 0))
		batch_rules(worker, snapshot, (unsigned)count);
	bridge_forward(&snapshot->tables, worker->port_id, worker->batch, (unsigned)count,
		       clock_tick(), worker->cell, &worker->work);
	worker->tx.untagged = worker->work.untagged;
	worker->tx.source = worker->port->ops->rx_commit ? queue : NULL;
	tx_flush(&worker->tx, snapshot->tx_ports, snapshot->bridge_ports, &worker->work.lists);
	worker->port->ops->rx_done(queue);
	worker->work.rules = worker->tx.rules = NULL;
	counter_add(&worker->counters->batches, 1);
	return count;
}

/* --- waiting ------------------------------------------------------------------------------------
 */

/* What a worker remembers between two looks at an empty queue. */
struct idle {
	uint64_t busy_since_ns; /* 0: not busy */
	uint64_t idle_since_ns;
	unsigned batches; /* since the clock was read */
	unsigned spins;
	int wait_ms; /* of a port without an fd */
	bool poll_error;
};

static void idle_note_frames(struct worker *worker, struct idle *idle)
{
	uint64_t now;

	if (idle->busy_since_ns && ++idle->batches < BUSY_BATCHES)
		return;
	now = clock_ns(CLOCK_MONOTONIC);
	if (idle->busy_since_ns)
		counter_add(&worker->counters->busy_ns, now - idle->busy_since_ns);
	*idle = (struct idle){.busy_since_ns = now, .wait_ms = NO_FD_WAIT_MS};
}

static void idle_note_empty(struct worker *worker, struct idle *idle)
{
	counter_add(&worker->counters->empty, 1);
	if (!idle->busy_since_ns && idle->idle_since_ns)
		return;
	idle->idle_since_ns = clock_ns(CLOCK_MONOTONIC);
	if (idle->busy_since_ns)
		counter_add(&worker->counters->busy_ns, idle->idle_since_ns - idle->busy_since_ns);
	idle->busy_since_ns = 0;
	idle->batches = 0;
	idle->spins = 0;
}

/*
 * Is it still time to spin? Always for busy, spin_ns long for adaptive, and adaptive lets others
 * have the processor in between: whoever sends to us or waits for what we sent may be among them.
 */
static bool idle_spin(const struct worker *worker, struct idle *idle, enum port_polling polling)
{
	if (polling == PORT_POLL_BLOCK)
		return false;
	fdb_pause();
	if (polling == PORT_POLL_ADAPTIVE)
		sched_yield();
	if (polling == PORT_POLL_BUSY || ++idle->spins % SPINS_PER_LOOK)
		return true;
	return clock_ns(CLOCK_MONOTONIC) - idle->idle_since_ns < worker->spin_ns;
}

/* Sleeps until the queue's fd (unless -1), the wake-up or the time says so. */
static void worker_sleep(struct worker *worker, struct idle *idle, int fd, int timeout_ms)
{
	struct pollfd fds[2] = {
	    {.fd = worker->wake_fd, .events = POLLIN},
	    {.fd = fd, .events = POLLIN},
	};
	uint64_t count;

	snapshot_sleep(&worker->reader);
	counter_add(&worker->counters->sleeps, 1);
	poll(fds, fd < 0 ? 1 : 2, timeout_ms);
	if (fds[0].revents && read(worker->wake_fd, &count, sizeof(count)) < 0)
		idle->poll_error = false; /* somebody else's wake-up: nothing to do */
	idle->poll_error = fd >= 0 && (fds[1].revents & ~POLLIN) && !(fds[1].revents & POLLIN);
	idle->idle_since_ns = 0; /* what comes now is spun for again */
}

static void worker_idle(struct worker *worker, struct idle *idle, enum port_polling polling)
{
	int fd;

	idle_note_empty(worker, idle);
	if (idle->poll_error) {
		worker_sleep(worker, idle, -1, POLL_ERROR_WAIT_MS);
		return;
	}
	if (idle_spin(worker, idle, polling))
		return;
	fd = worker->port->ops->rx_fd(worker->queue);
	if (fd >= 0) {
		worker_sleep(worker, idle, fd, -1);
		return;
	}
	worker_sleep(worker, idle, -1, idle->wait_ms);
	if (idle->wait_ms < NO_FD_WAIT_MAX_MS)
		idle->wait_ms *= 2;
}

/* --- the thread ---------------------------------------------------------------------------------
 */

static void worker_name(const struct worker *worker)
{
	char name[WORKER_NAME_MAX + 16];

	snprintf(name, sizeof(name), "vs-%.9s.%u", worker->port->name, worker->queue_id);
	name[WORKER_NAME_MAX - 1] = 0;
	pthread_setname_np(pthread_self(), name);
}

static bool worker_parked(struct worker *worker)
{
	struct pollfd fd = {.fd = worker->wake_fd, .events = POLLIN};

	while (atomic_load(&worker->state) == WORKER_PARKED)
		poll(&fd, 1, -1);
	return atomic_load(&worker->state) == WORKER_RUNNING;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct idle idle = {.wait_ms = NO_FD_WAIT_MS};

	worker_name(worker);
	if (!worker_parked(worker))
		return NULL;
	while (atomic_load_explicit(&worker->state, memory_order_acquire) == WORKER_RUNNING) {
		const struct snapshot *snapshot = snapshot_read(worker->domain, &worker->reader);
		enum port_polling polling = snapshot->configs[worker->port_id].polling;
		int count = worker_batch(worker, snapshot);

		if (count > 0) {
			idle_note_frames(worker, &idle);
		} else if (count == 0) {
			worker_idle(worker, &idle, polling);
		} else {
			atomic_store_explicit(&worker->link_down, true, memory_order_relaxed);
			idle_note_empty(worker, &idle);
			worker_sleep(worker, &idle, -1, DOWN_WAIT_MS);
			continue;
		}
		if (atomic_load_explicit(&worker->link_down, memory_order_relaxed))
			atomic_store_explicit(&worker->link_down, false, memory_order_relaxed);
	}
	snapshot_sleep(&worker->reader);
	return NULL;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static size_t worker_bytes(void)
{
	return (sizeof(struct worker) + 63) & ~(size_t)63;
}

static int thread_create(struct worker *worker, struct error *err)
{
	pthread_attr_t attr;
	cpu_set_t cpus;
	int status;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK_BYTES);
	if (worker->cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((unsigned)worker->cpu, &cpus);
		pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	}
	status = pthread_create(&worker->thread, &attr, worker_main, worker);
	pthread_attr_destroy(&attr);
	if (status)
		return error_set(err, status, "%s: no thread for queue %u (cpu %d): %s",
				 worker->port->name, worker->queue_id, worker->cpu,
				 strerror(status));
	return 0;
}

int worker_create(const struct worker_params *params, bool thread, struct worker **out,
		  struct error *err)
{
	struct worker *worker = aligned_alloc(64, worker_bytes());
	int status = ENOMEM;

	if (!worker)
		return error_set(err, ENOMEM, "out of memory");
	memset(worker, 0, worker_bytes());
	worker->port = params->port;
	worker->port_id = params->port->id;
	worker->queue_id = params->queue;
	worker->queue = &params->port->rxq[params->queue];
	worker->row = params->row;
	worker->cpu = params->cpu;
	worker->spin_ns = params->spin_us * 1000;
	worker->domain = params->domain;
	worker->cell = stats_cell(params->stats, params->row, params->port->id);
	worker->counters = stats_worker(params->stats, params->row);
	worker->tx.cells = stats_cells(params->stats, params->row);
	worker->tx.ordinal = params->row;
	worker->tx.copies = params->port->monitor != NULL;
	worker->work.lists.counts = calloc(params->ports_max, sizeof(*worker->work.lists.counts));
	worker->work.lists.frames = calloc(params->ports_max, sizeof(*worker->work.lists.frames));
	worker->work.lists.active = calloc(params->ports_max, sizeof(*worker->work.lists.active));
	worker->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (worker->wake_fd < 0)
		status = errno;
	if (!worker->work.lists.counts || !worker->work.lists.frames ||
	    !worker->work.lists.active || worker->wake_fd < 0) {
		error_set(err, status, "%s: no memory or descriptor for a worker",
			  params->port->name);
		goto failed;
	}
	snapshot_reader_add(params->domain, &worker->reader);
	if (thread) {
		status = -thread_create(worker, err);
		if (status)
			goto no_thread;
	} else {
		atomic_store(&worker->state, WORKER_STOPPING);
	}
	*out = worker;
	return 0;

no_thread:
	snapshot_reader_remove(params->domain, &worker->reader);
failed:
	if (worker->wake_fd >= 0)
		close(worker->wake_fd);
	free(worker->work.lists.counts);
	free(worker->work.lists.frames);
	free(worker->work.lists.active);
	free(worker);
	return -status;
}

void worker_wake(struct worker *worker)
{
	uint64_t one = 1;

	while (write(worker->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void worker_start(struct worker *worker)
{
	atomic_store(&worker->state, WORKER_RUNNING);
	worker_wake(worker);
}

void worker_stop(struct worker *worker)
{
	/* without a thread it was never anything else */
	if (atomic_exchange(&worker->state, WORKER_STOPPING) == WORKER_STOPPING)
		return;
	worker_wake(worker);
	pthread_join(worker->thread, NULL);
}

void worker_destroy(struct worker *worker)
{
	worker_stop(worker);
	snapshot_reader_remove(worker->domain, &worker->reader);
	close(worker->wake_fd);
	free(worker->work.lists.counts);
	free(worker->work.lists.frames);
	free(worker->work.lists.active);
	free(worker);
}

int worker_pin(struct worker *worker, int cpu, struct error *err)
{
	cpu_set_t cpus;
	int status;

	if (cpu == worker->cpu)
		return 0;
	CPU_ZERO(&cpus);
	if (cpu >= 0) {
		CPU_SET((unsigned)cpu, &cpus);
	} else {
		for (unsigned i = 0; i < CPU_SETSIZE; i++)
			CPU_SET(i, &cpus);
	}
	status = pthread_setaffinity_np(worker->thread, sizeof(cpus), &cpus);
	if (status)
		return error_set(err, status, "%s: cannot pin queue %u to cpu %d: %s",
				 worker->port->name, worker->queue_id, cpu, strerror(status));
	worker->cpu = cpu;
	return 0;
}
