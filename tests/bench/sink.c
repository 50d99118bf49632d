/*
 * sink: takes the probe frames of one stream from an interface and prints what arrived, as JSON.
 *
 *   sink --if IF [--stream 1] [--expect N] [--idle-ms 1000] [--seconds 30] [--gap-ms 5] [--cpu N]
 *
 * Prints {"ready": true} once it receives, so that the generator can be started, and the report
 * when --expect different frames have arrived, when nothing came for --idle-ms after the first
 * frame, after --seconds, or on SIGINT or SIGTERM.
 *
 * received counts every frame of the stream, unique each sequence number once, duplicates the
 * rest; missing are the numbers below the highest that never came (what was lost at the end is
 * known to the generator only); reordered frames came after a higher number. gaps lists pauses
 * between two arrivals of more than --gap-ms, gap_max_ms is the longest of all. Latency is from
 * the generator's call to the kernel's arrival stamp: this program's own wake-up is not in it.
 * ring_drops are frames that this program itself was too slow for; cpu_s is what it used.
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"

enum {
	BLOCK_BYTES = 1 << 19,
	BLOCKS = 64, /* 150,000 frames: a receiver may have to wait for its processor */
	BLOCK_TIMEOUT_MS = 2,
	SNAP_BYTES = ETH_HLEN + sizeof(struct probe),
	ADDRESS_OFFSET = (sizeof(struct tpacket3_hdr) + 15) & ~15ul, /* TPACKET_ALIGN */
	GAPS_MAX = 1024
};
static const uint64_t SEQ_MAX = 1ull << 30; /* a minute at 17 M frames/s */

struct gap {
	uint64_t at_ns;
	uint64_t ns;
};

struct sink {
	const char *ifname;
	uint32_t stream;
	uint64_t expect;
	uint64_t idle_ns;
	uint64_t gap_ns;
	double seconds;
	double cpu_before;
	int fd;
	uint8_t *ring;
	uint64_t *seen; /* one bit a sequence number */
	uint64_t received, unique, duplicates, reordered, highest, other, bytes;
	uint64_t first_ns, last_ns;
	uint64_t gap_max_ns;
	unsigned gap_count;
	struct gap gaps[GAPS_MAX];
	struct histogram latency;
};

static void options_read(struct sink *sink, int argc, char **argv)
{
	static const struct option options[] = {
	    {"if", required_argument, NULL, 'i'},      {"stream", required_argument, NULL, 'x'},
	    {"expect", required_argument, NULL, 'n'},  {"idle-ms", required_argument, NULL, 'w'},
	    {"seconds", required_argument, NULL, 't'}, {"gap-ms", required_argument, NULL, 'g'},
	    {"cpu", required_argument, NULL, 'c'},     {NULL, 0, NULL, 0},
	};
	cpu_set_t cpus;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'i')
			sink->ifname = optarg;
		else if (option == 'x')
			sink->stream = (uint32_t)number("stream", optarg, UINT32_MAX);
		else if (option == 'n')
			sink->expect = number("expect", optarg, UINT64_MAX);
		else if (option == 'w')
			sink->idle_ns = number("idle-ms", optarg, 60000) * 1000000u;
		else if (option == 'g')
			sink->gap_ns = number("gap-ms", optarg, 60000) * 1000000u;
		else if (option == 't')
			sink->seconds = atof(optarg);
		else if (option == 'c') {
			CPU_ZERO(&cpus);
			CPU_SET(number("cpu", optarg, CPU_SETSIZE - 1), &cpus);
			if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
				fail("--cpu %s: %s", optarg, strerror(errno));
		} else {
			exit(2);
		}
	}
	if (sink->ifname == NULL || optind != argc)
		fail("usage: sink --if IF [--stream N] [--expect N] [--idle-ms N] ...");
}

/* Keeps the copy into the ring short: only header and probe are looked at. */
static void snap(int fd)
{
	struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SNAP_BYTES)};
	struct sock_fprog program = {.len = 1, .filter = code};

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		fail("SO_ATTACH_FILTER: %s", strerror(errno));
}

static void ring_open(struct sink *sink)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
				      .sll_protocol = htons(PROBE_ETHERTYPE)};
	struct tpacket_req3 request = {
	    .tp_block_size = BLOCK_BYTES,
	    .tp_block_nr = BLOCKS,
	    .tp_frame_size = 2048,
	    .tp_frame_nr = BLOCK_BYTES / 2048 * BLOCKS,
	    .tp_retire_blk_tov = BLOCK_TIMEOUT_MS,
	};
	struct packet_mreq promiscuous = {.mr_type = PACKET_MR_PROMISC};
	int version = TPACKET_V3;

	address.sll_ifindex = (int)if_nametoindex(sink->ifname);
	if (address.sll_ifindex == 0)
		fail("%s: %s", sink->ifname, strerror(errno));
	sink->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (sink->fd < 0)
		fail("packet socket: %s", strerror(errno));
	snap(sink->fd);
	if (setsockopt(sink->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0 ||
	    setsockopt(sink->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) < 0)
		fail("PACKET_RX_RING: %s", strerror(errno));
	sink->ring = mmap(NULL, (size_t)BLOCK_BYTES * BLOCKS, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, sink->fd, 0);
	if (sink->ring == MAP_FAILED)
		fail("mmap of the ring: %s", strerror(errno));
	/* Otherwise frames to other addresses than the interface's are marked and may be shed. */
	promiscuous.mr_ifindex = address.sll_ifindex;
	setsockopt(sink->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous));
	if (bind(sink->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		fail("bind to %s: %s", sink->ifname, strerror(errno));
}

static void arrival(struct sink *sink, uint64_t at_ns)
{
	if (sink->first_ns == 0) {
		sink->first_ns = at_ns;
	} else if (at_ns > sink->last_ns) {
		uint64_t gap = at_ns - sink->last_ns;

		if (gap > sink->gap_max_ns)
			sink->gap_max_ns = gap;
		if (gap > sink->gap_ns && sink->gap_count < GAPS_MAX)
			sink->gaps[sink->gap_count++] =
			    (struct gap){.at_ns = sink->last_ns, .ns = gap};
	}
	if (at_ns > sink->last_ns)
		sink->last_ns = at_ns;
}

static void take(struct sink *sink, const struct tpacket3_hdr *header)
{
	const struct sockaddr_ll *from = (const void *)((const uint8_t *)header + ADDRESS_OFFSET);
	uint64_t at_ns = header->tp_sec * 1000000000ull + header->tp_nsec;
	struct probe probe;

	if (from->sll_pkttype == PACKET_OUTGOING || header->tp_snaplen < SNAP_BYTES)
		return;
	memcpy(&probe, (const uint8_t *)header + header->tp_mac + ETH_HLEN, sizeof(probe));
	if (probe.magic != PROBE_MAGIC || probe.stream != sink->stream || probe.seq >= SEQ_MAX) {
		sink->other++;
		return;
	}
	sink->received++;
	sink->bytes += header->tp_len;
	arrival(sink, at_ns);
	if (at_ns > probe.sent_ns)
		histogram_add(&sink->latency, at_ns - probe.sent_ns);
	if (sink->seen[probe.seq / 64] & 1ull << probe.seq % 64) {
		sink->duplicates++;
		return;
	}
	sink->seen[probe.seq / 64] |= 1ull << probe.seq % 64;
	if (sink->unique > 0 && probe.seq < sink->highest)
		sink->reordered++;
	else
		sink->highest = probe.seq;
	sink->unique++;
}

static void block_walk(struct sink *sink, const struct tpacket_block_desc *block)
{
	const uint8_t *at = (const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;

	for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
		const struct tpacket3_hdr *header = (const void *)at;

		take(sink, header);
		at += header->tp_next_offset;
	}
}

static void run(struct sink *sink)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	uint64_t quiet_since = start;
	unsigned at = 0;

	while (!stopped && sink->unique < sink->expect) {
		struct tpacket_block_desc *block = (void *)(sink->ring + (size_t)at * BLOCK_BYTES);
		struct pollfd wait = {.fd = sink->fd, .events = POLLIN};
		uint64_t now;

		if (__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
		    TP_STATUS_USER) {
			uint64_t before = sink->received;

			block_walk(sink, block);
			__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL,
					 __ATOMIC_RELEASE);
			at = (at + 1) % BLOCKS;
			if (sink->received != before)
				quiet_since = clock_ns(CLOCK_MONOTONIC);
			continue;
		}
		now = clock_ns(CLOCK_MONOTONIC);
		if (sink->received > 0 && now - quiet_since > sink->idle_ns)
			return;
		if ((double)(now - start) > sink->seconds * 1e9)
			return;
		poll(&wait, 1, 20);
	}
}

static void report(const struct sink *sink)
{
	struct tpacket_stats_v3 stats = {0};
	socklen_t length = sizeof(stats);
	double seconds = (double)(sink->last_ns - sink->first_ns) / 1e9;

	getsockopt(sink->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length);
	printf("{\"received\": %llu, \"unique\": %llu, \"duplicates\": %llu, \"reordered\": %llu, "
	       "\"missing\": %llu, \"highest\": %llu, \"other\": %llu, \"bytes\": %llu, "
	       "\"ring_drops\": %u, \"seconds\": %.6f, \"frames_per_s\": %.0f, "
	       "\"first_ns\": %llu, \"last_ns\": %llu, \"gap_max_ms\": %.3f, \"gaps\": [",
	       (unsigned long long)sink->received, (unsigned long long)sink->unique,
	       (unsigned long long)sink->duplicates, (unsigned long long)sink->reordered,
	       (unsigned long long)(sink->unique ? sink->highest + 1 - sink->unique : 0),
	       (unsigned long long)sink->highest, (unsigned long long)sink->other,
	       (unsigned long long)sink->bytes, stats.tp_drops, seconds,
	       seconds > 0 ? (double)sink->received / seconds : 0,
	       (unsigned long long)sink->first_ns, (unsigned long long)sink->last_ns,
	       (double)sink->gap_max_ns / 1e6);
	for (unsigned i = 0; i < sink->gap_count; i++)
		printf("%s{\"at_ns\": %llu, \"ms\": %.3f}", i ? ", " : "",
		       (unsigned long long)sink->gaps[i].at_ns, (double)sink->gaps[i].ns / 1e6);
	printf("], \"cpu_s\": %.6f, \"latency_us\": ", cpu_seconds() - sink->cpu_before);
	histogram_print_us(&sink->latency);
	printf("}\n");
}

int main(int argc, char **argv)
{
	static struct sink sink = {
	    .stream = 1,
	    .expect = UINT64_MAX,
	    .idle_ns = 1000000000,
	    .gap_ns = 5000000,
	    .seconds = 30,
	};

	options_read(&sink, argc, argv);
	stop_on_signals();
	/* Sparse: only what is counted is touched. */
	sink.seen = mmap(NULL, SEQ_MAX / 8, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (sink.seen == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	ring_open(&sink);
	sink.cpu_before = cpu_seconds();
	printf("{\"ready\": true}\n");
	fflush(stdout);
	run(&sink);
	report(&sink);
	close(sink.fd);
	return 0;
}
