/* Runs on: see monitor.h. */
#include "monitor.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "parse.h"

static const uint64_t monitor_magic = 0x7673776d6f6e3031;

/* --- memory ------------------------------------------------------------------------------------
 */

static uint64_t buffers_offset(uint64_t slots)
{
	uint64_t bytes = sizeof(struct monitor_memory) + slots * sizeof(struct monitor_slot);

	return (bytes + 4095) / 4096 * 4096;
}

uint64_t monitor_bytes(uint32_t slots)
{
	return buffers_offset(slots) + (uint64_t)slots * (FRAME_HEADROOM + MONITOR_SLOT_BYTES);
}

/* A copy that a killed writer had begun: as long as it said, or one slot where it had not. */
static uint64_t hole_make(const struct monitor *monitor, uint64_t at, uint64_t tail)
{
	struct monitor_slot *slot = monitor_slot(monitor, at);
	uint64_t slots = 1;

	if (atomic_load(&slot->begun) == at + 1 && slot->frame_len <= FRAME_LEN_MAX)
		slots = monitor_slots_of(slot->frame_len);
	else
		slot->frame_len = 0;
	if (slots > tail - at) {
		slots = tail - at;
		slot->frame_len = (uint32_t)(slots * MONITOR_SLOT_BYTES);
	}
	slot->hole = 1;
	atomic_store(&slot->done, at + 1);
	return slots;
}

/* Makes what a predecessor left a ring again; new memory is empty. */
static void memory_settle(struct monitor *monitor)
{
	struct monitor_memory *memory = monitor->memory;
	uint64_t head = atomic_load(&memory->head), taken = atomic_load(&memory->taken);
	uint64_t tail = atomic_load(&memory->tail);

	if (taken > head)
		head = taken;
	if (memory->magic != monitor_magic || memory->slots != monitor->slots || tail < head ||
	    tail - head > monitor->slots) {
		memset(memory, 0, sizeof(*memory) + monitor->slots * sizeof(memory->slot[0]));
		memory->slots = monitor->slots;
		memory->magic = monitor_magic;
		return;
	}
	atomic_store(&memory->head, head);
	for (uint64_t at = head; at < tail;) {
		struct monitor_slot *slot = monitor_slot(monitor, at);

		if (monitor_ready(monitor, at) && slot->frame_len <= FRAME_LEN_MAX &&
		    monitor_slots_of(slot->frame_len) <= tail - at)
			at += monitor_slots_of(slot->frame_len);
		else
			at += hole_make(monitor, at, tail);
	}
	for (uint64_t at = tail; at < head + monitor->slots; at++)
		atomic_store(&monitor_slot(monitor, at)->done, 0);
}

int monitor_open(struct monitor *monitor, int fd, uint32_t slots, struct error *err)
{
	uint64_t bytes = monitor_bytes(slots);
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
	struct stat file;
	void *memory;

	if (fd >= 0 && (fstat(fd, &file) < 0 || file.st_size < 0 || (uint64_t)file.st_size < bytes))
		return error_set(err, EINVAL, "monitor: its memory is not of %llu bytes",
				 (unsigned long long)bytes);
	monitor->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (monitor->doorbell < 0)
		return error_set(err, errno, "monitor: no descriptor for its doorbell");
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED) {
		int status = errno;

		close(monitor->doorbell);
		return error_set(err, status, "monitor: %llu bytes cannot be mapped",
				 (unsigned long long)bytes);
	}
	monitor->memory = memory;
	monitor->slots = slots;
	monitor->buffers = (uint8_t *)memory + buffers_offset(slots);
	atomic_store(&monitor->waiting, false);
	memory_settle(monitor);
	return 0;
}

void monitor_close(struct monitor *monitor)
{
	munmap(monitor->memory, monitor_bytes((uint32_t)monitor->slots));
	close(monitor->doorbell);
}

/* --- what is wanted ----------------------------------------------------------------------------
 */

/* A filter reads bytes in one piece. */
__attribute__((noinline)) static uint32_t filter_chain(const struct cbpf *filter,
						       const struct frame *frame)
{
	uint8_t bytes[FRAME_LEN_MAX];
	uint32_t have = frame_peek(frame, bytes, sizeof(bytes));

	return cbpf_run(filter, bytes, have, frame->frame_len);
}

/* Bytes of the frame that the monitor wants; 0: none. */
static uint32_t wanted(const struct monitor *monitor, const struct frame *frame)
{
	uint32_t most = monitor->snaplen;

	if (monitor->filter.count) {
		uint32_t by_filter = frame->next ? filter_chain(&monitor->filter, frame)
						 : cbpf_run(&monitor->filter, frame->data,
							    frame->len, frame->frame_len);

		most = by_filter < most ? by_filter : most;
	}
	return most < frame->frame_len ? most : frame->frame_len;
}

/* --- writing -----------------------------------------------------------------------------------
 */

/* The first of `slots` positions that are the caller's from now on; false: there is no room. */
static bool reserve(struct monitor *monitor, uint64_t slots, uint64_t *position)
{
	struct monitor_memory *memory = monitor->memory;
	uint64_t tail = atomic_load_explicit(&memory->tail, memory_order_relaxed);

	do {
		uint64_t head = atomic_load_explicit(&memory->head, memory_order_acquire);

		/* signed: others may have moved both since we read tail, and then we read again */
		if ((int64_t)(tail + slots - head) > (int64_t)monitor->slots)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
	    &memory->tail, &tail, tail + slots, memory_order_relaxed, memory_order_relaxed));
	*position = tail;
	return true;
}

static void copy_bytes(struct monitor *monitor, uint64_t at, const struct frame *fragment,
		       uint32_t len)
{
	uint8_t *to = monitor_buffer(monitor, at);
	uint32_t room = MONITOR_SLOT_BYTES;

	for (; len; fragment = fragment->next) {
		const uint8_t *from = fragment->data;
		uint32_t left = fragment->len < len ? fragment->len : len;

		len -= left;
		while (left) {
			uint32_t part = left < room ? left : room;

			if (!part) {
				to = monitor_buffer(monitor, ++at);
				room = MONITOR_SLOT_BYTES;
				continue;
			}
			memcpy(to, from, part);
			to += part;
			from += part;
			room -= part;
			left -= part;
		}
	}
}

static bool copy(struct monitor *monitor, const struct frame *frame, bool sent,
		 struct port_counters *cells)
{
	struct port_counters *cell = &cells[monitor->port_id];
	uint32_t len = wanted(monitor, frame);
	struct monitor_slot *slot;
	uint64_t at;

	if (!len)
		return false;
	if (!reserve(monitor, monitor_slots_of(len), &at)) {
		counter_add(&cell->rx_frames, 1);
		counter_add(&cell->rx_bytes, len);
		counter_add(&cell->rx_drops[DROP_MONITOR_FULL], 1);
		return false;
	}
	slot = monitor_slot(monitor, at);
	slot->frame_len = len;
	atomic_store_explicit(&slot->begun, at + 1, memory_order_release);
	slot->sent = sent;
	slot->hole = 0;
	/* what is unfinished can be finished where all of the frame is there; else it is bytes */
	slot->offload = len == frame->frame_len ? frame->offload : (struct frame_offload){0};
	copy_bytes(monitor, at, frame, len);
	atomic_store_explicit(&slot->done, at + 1, memory_order_release);
	return true;
}

/* The exchange orders with the reader's: it sees what was written, or we see that it waits. */
static void wake(struct monitor *monitor)
{
	uint64_t one = 1;

	if (!atomic_exchange_explicit(&monitor->waiting, false, memory_order_acq_rel))
		return;
	while (write(monitor->doorbell, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void monitor_rx(const struct monitor_list *list, const struct frame *batch, unsigned count,
		struct port_counters *cells)
{
	for (unsigned m = 0; m < list->count; m++) {
		bool any = false;

		for (unsigned i = 0; i < count; i++)
			any |= copy(list->monitors[m], &batch[i], false, cells);
		if (any)
			wake(list->monitors[m]);
	}
}

void monitor_tx(const struct monitor_list *list, struct frame *const *frames, unsigned count,
		struct port_counters *cells)
{
	for (unsigned m = 0; m < list->count; m++) {
		bool any = false;

		for (unsigned i = 0; i < count; i++)
			any |= copy(list->monitors[m], frames[i], true, cells);
		if (any)
			wake(list->monitors[m]);
	}
}
