/*
 * xgen: sends probe frames on one veth interface as XDP frames that the kernel makes, faster than
 * any socket can, and prints what it sent, as JSON.
 *
 *   xgen --if IF [--bytes 60] [--src 02:00:00:01:00:00] [--dst 02:00:00:02:00:00] [--seconds 5]
 *        [--stream ID]
 *
 * An XDP program that numbers each frame and redirects it to the interface is run over and over
 * (BPF_PROG_RUN with live frames, Documentation/bpf/bpf_prog_run.rst). Frames that the interface
 * has no room for are dropped by the kernel: they have a number all the same and count as sent. The
 * other end of the pair needs NAPI: an XDP program, or generic receive offload.
 *
 * The report is gen's (`refused` is always 0).
 */
#include <getopt.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"

enum {
	FRAMES = 1 << 18, /* of a call, which takes ten milliseconds before the first one */
	BATCH = 64,
	SECONDS_MAX = 60
};

struct xgen {
	const char *ifname;
	uint64_t src, dst;
	unsigned bytes;
	uint32_t stream;
	double seconds;
	int map, program;
	uint64_t sent;
	uint8_t frame[PROBE_FRAME_MAX];
};

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static void options_read(struct xgen *gen, int argc, char **argv)
{
	static const struct option options[] = {
	    {"if", required_argument, NULL, 'i'},
	    {"bytes", required_argument, NULL, 'b'},
	    {"src", required_argument, NULL, 's'},
	    {"dst", required_argument, NULL, 'd'},
	    {"seconds", required_argument, NULL, 't'},
	    {"stream", required_argument, NULL, 'x'},
	    {NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'i')
			gen->ifname = optarg;
		else if (option == 'b')
			gen->bytes = (unsigned)number("bytes", optarg, 1514);
		else if (option == 's')
			gen->src = mac_parse("src", optarg);
		else if (option == 'd')
			gen->dst = mac_parse("dst", optarg);
		else if (option == 't')
			gen->seconds = atof(optarg);
		else if (option == 'x')
			gen->stream = (uint32_t)number("stream", optarg, UINT32_MAX);
		else
			exit(2);
	}
	if (gen->ifname == NULL || optind != argc || gen->bytes < PROBE_FRAME_MIN ||
	    gen->seconds <= 0 || gen->seconds > SECONDS_MAX)
		fail("usage: xgen --if IF [--bytes %d..1514] [--seconds up to %d] ...",
		     PROBE_FRAME_MIN, SECONDS_MAX);
}

/* Cell 0 is the next frame's number. */
static void map_create(struct xgen *gen)
{
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY,
			       .key_size = sizeof(uint32_t),
			       .value_size = sizeof(uint64_t),
			       .max_entries = 1};

	gen->map = (int)bpf(BPF_MAP_CREATE, &attr);
	if (gen->map < 0)
		fail("BPF_MAP_CREATE: %s", strerror(errno));
}

#define INSN(op, to, from, offset, value)                                                          \
	((struct bpf_insn){                                                                        \
	    .code = (op), .dst_reg = (to), .src_reg = (from), .off = (offset), .imm = (value)})
#define MOVE(to, from) INSN(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0)
#define SET(to, value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value)
#define ADD(to, value) INSN(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, value)
#define CALL(helper) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, helper)

/*
 * seq = cell 0, which counts on; the frame gets seq and the time; redirect to the interface. Frames
 * come back from where they were sent with what was written to them, so both are written each time.
 */
static void program_load(struct xgen *gen, unsigned ifindex)
{
	const size_t probe = ETH_HLEN;
	struct bpf_insn code[] = {
	    MOVE(BPF_REG_6, BPF_REG_1),
	    INSN(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0),
	    INSN(BPF_LD | BPF_IMM | BPF_DW, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, gen->map),
	    INSN(0, 0, 0, 0, 0),
	    MOVE(BPF_REG_2, BPF_REG_10),
	    ADD(BPF_REG_2, -4),
	    CALL(BPF_FUNC_map_lookup_elem),
	    INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 14, 0), /* to the end: drop */
	    SET(BPF_REG_7, 1),
	    INSN(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_0, BPF_REG_7, 0, BPF_ADD | BPF_FETCH),
	    CALL(BPF_FUNC_ktime_get_tai_ns),
	    INSN(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_1, BPF_REG_6, offsetof(struct xdp_md, data), 0),
	    INSN(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_6, offsetof(struct xdp_md, data_end),
		 0),
	    MOVE(BPF_REG_3, BPF_REG_1),
	    ADD(BPF_REG_3, PROBE_FRAME_MIN),
	    INSN(BPF_JMP | BPF_JGT | BPF_X, BPF_REG_3, BPF_REG_2, 6, 0), /* to the end: drop */
	    INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_7,
		 (int16_t)(probe + offsetof(struct probe, seq)), 0),
	    INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_0,
		 (int16_t)(probe + offsetof(struct probe, sent_ns)), 0),
	    SET(BPF_REG_1, (int)ifindex),
	    SET(BPF_REG_2, 0),
	    CALL(BPF_FUNC_redirect),
	    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	    SET(BPF_REG_0, XDP_DROP),
	    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	static char log[1 << 16];
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_XDP,
			       .insns = (uint64_t)(uintptr_t)code,
			       .insn_cnt = sizeof(code) / sizeof(code[0]),
			       .license = (uint64_t)(uintptr_t) "GPL",
			       .log_buf = (uint64_t)(uintptr_t)log,
			       .log_size = sizeof(log),
			       .log_level = 1};

	gen->program = (int)bpf(BPF_PROG_LOAD, &attr);
	if (gen->program < 0)
		fail("BPF_PROG_LOAD: %s\n%s", strerror(errno), log);
}

static void frame_prepare(struct xgen *gen)
{
	struct probe probe = {.magic = PROBE_MAGIC, .stream = gen->stream};

	mac_store(gen->frame, gen->dst);
	mac_store(gen->frame + 6, gen->src);
	gen->frame[12] = PROBE_ETHERTYPE >> 8;
	gen->frame[13] = PROBE_ETHERTYPE & 0xff;
	memcpy(gen->frame + ETH_HLEN, &probe, sizeof(probe));
}

static void run(struct xgen *gen)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + (uint64_t)(gen->seconds * 1e9);

	while (!stopped && clock_ns(CLOCK_MONOTONIC) < end) {
		union bpf_attr attr = {.test = {.prog_fd = (uint32_t)gen->program,
						.data_in = (uint64_t)(uintptr_t)gen->frame,
						.data_size_in = gen->bytes,
						.repeat = FRAMES,
						.flags = BPF_F_TEST_XDP_LIVE_FRAMES,
						.batch_size = BATCH}};

		if (bpf(BPF_PROG_RUN, &attr) < 0) {
			if (errno == EINTR)
				continue;
			fail("BPF_PROG_RUN: %s", strerror(errno));
		}
		gen->sent += FRAMES;
	}
}

int main(int argc, char **argv)
{
	static struct xgen gen = {
	    .src = 0x020000010000, .dst = 0x020000020000, .bytes = 60, .seconds = 5, .stream = 1};
	uint64_t first, last;
	double seconds, cpu_before;
	unsigned ifindex;

	options_read(&gen, argc, argv);
	ifindex = if_nametoindex(gen.ifname);
	if (ifindex == 0)
		fail("%s: %s", gen.ifname, strerror(errno));
	stop_on_signals();
	map_create(&gen);
	program_load(&gen, ifindex);
	frame_prepare(&gen);
	cpu_before = cpu_seconds();
	first = clock_ns(CLOCK_REALTIME);
	run(&gen);
	last = clock_ns(CLOCK_REALTIME);
	seconds = (double)(last - first) / 1e9;
	printf("{\"sent\": %llu, \"refused\": 0, \"seconds\": %.6f, \"frames_per_s\": %.0f, "
	       "\"first_ns\": %llu, \"last_ns\": %llu, \"cpu_s\": %.6f}\n",
	       (unsigned long long)gen.sent, seconds, (double)gen.sent / seconds,
	       (unsigned long long)first, (unsigned long long)last, cpu_seconds() - cpu_before);
	return 0;
}
