/*
 * What a machine allows two programs that exchange frames by copies: two threads with a byte ring
 * between them, and the same two copies as from a netmap program to another one, from buffer to
 * ring and from ring to buffer. No slots, no headers, no addresses, nothing that can fail.
 *
 *     copies [-l bytes] [-c] [-t seconds]
 *
 *     -c      cold: the sender goes round 32,768 buffers, as netmap_load does, else 1,024
 *
 * Buffers are 2 KB apart, the ring has 1 MiB, the receiver has 1,024 buffers and reads every byte
 * of each. Both fetch long frames before they need them. Memory comes in the pages that shared
 * memory has. {"frames": received, "seconds": from the first to the last}
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lane.h"
#include "probe.h"

enum {
	BUFFER_BYTES = 2048,
	WARM_BUFFERS = 1024,
	COLD_BUFFERS = 32768,
	RING_BYTES = 1 << 20,
	LINE = 64,
	BATCH = 64,
	AHEAD = 4, /* frames that are fetched before they are needed */
	LONG = 256 /* frames of which the processor does not guess by itself what comes next */
};

static struct {
	_Alignas(128) _Atomic uint64_t tail; /* in frames */
	_Alignas(128) _Atomic uint64_t head;
	_Alignas(128) atomic_bool over;
} at;

static uint32_t len = 60, stride, places, source_buffers = WARM_BUFFERS;
static uint8_t *ring, *source, *target;
static double seconds = 1;

static void fetch(const uint8_t *from)
{
	for (uint32_t i = 0; len > LONG && i < len; i += LINE)
		__builtin_prefetch(from + i, 0, 2);
}

static uint64_t read_all(const uint8_t *from)
{
	uint64_t sum = 0, word;
	uint32_t i = 0;

	for (; i + sizeof(word) < len; i += sizeof(word)) {
		memcpy(&word, from + i, sizeof(word));
		sum += word;
	}
	memcpy(&word, from + len - sizeof(word), sizeof(word));
	return sum + word;
}

static void *send_all(void *unused)
{
	uint64_t tail = 0, head = 0;
	uint32_t place = 0, buffer = 0;

	(void)unused;
	while (!atomic_load_explicit(&at.over, memory_order_relaxed)) {
		head = atomic_load_explicit(&at.head, memory_order_acquire);
		if (tail + BATCH - head > places) {
			__builtin_ia32_pause();
			continue;
		}
		for (unsigned n = 0; n < BATCH; n++) {
			fetch(source + (size_t)((buffer + AHEAD) % source_buffers) * BUFFER_BYTES);
			lane_copy(ring + (size_t)place * stride,
				  source + (size_t)buffer * BUFFER_BYTES, len);
			buffer = buffer + 1 == source_buffers ? 0 : buffer + 1;
			place = place + 1 == places ? 0 : place + 1;
		}
		tail += BATCH;
		atomic_store_explicit(&at.tail, tail, memory_order_release);
	}
	return NULL;
}

/* For so long from the first frame on; how many there were. */
static uint64_t receive_all(uint64_t *sum, double *took)
{
	uint64_t head = 0, tail, begin = 0, now = 0;
	uint32_t place = 0;

	do {
		tail = atomic_load_explicit(&at.tail, memory_order_acquire);
		begin = begin || !tail ? begin : clock_ns(CLOCK_MONOTONIC);
		for (; head != tail; head++) {
			uint8_t *to = target + head % WARM_BUFFERS * BUFFER_BYTES;

			fetch(ring + (size_t)((place + AHEAD) % places) * stride);
			lane_copy(to, ring + (size_t)place * stride, len);
			*sum += read_all(to);
			place = place + 1 == places ? 0 : place + 1;
			if (head % BATCH == BATCH - 1)
				atomic_store_explicit(&at.head, head + 1, memory_order_release);
		}
		now = clock_ns(CLOCK_MONOTONIC);
	} while (!begin || (double)(now - begin) < seconds * 1e9);
	*took = (double)(now - begin) / 1e9;
	return head;
}

static void parse(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "l:ct:")) != -1) {
		switch (option) {
		case 'l':
			len = (uint32_t)number("l", optarg, BUFFER_BYTES);
			break;
		case 'c':
			source_buffers = COLD_BUFFERS;
			break;
		case 't':
			seconds = strtod(optarg, NULL);
			break;
		default:
			exit(2);
		}
	}
	if (len < 16)
		fail("-l: at least 16");
}

static uint8_t *memory_make(size_t bytes)
{
	uint8_t *memory =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("no memory: %s", strerror(errno));
	memset(memory, 1, bytes);
	return memory;
}

int main(int argc, char **argv)
{
	uint64_t frames, sum = 0;
	pthread_t sender;
	double took;

	parse(argc, argv);
	stride = (len + LANE_ALIGN - 1) & ~(uint32_t)(LANE_ALIGN - 1);
	places = RING_BYTES / stride;
	ring = memory_make(RING_BYTES);
	source = memory_make((size_t)source_buffers * BUFFER_BYTES);
	target = memory_make((size_t)WARM_BUFFERS * BUFFER_BYTES);
	if (pthread_create(&sender, NULL, send_all, NULL))
		fail("no thread");
	frames = receive_all(&sum, &took);
	atomic_store(&at.over, true);
	pthread_join(sender, NULL);
	printf("{\"frames\": %llu, \"seconds\": %.6f}\n", (unsigned long long)frames, took);
	return sum == UINT64_MAX; /* the bytes were read for something */
}
