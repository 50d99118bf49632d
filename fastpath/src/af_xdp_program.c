/*
 * AF_XDP, the program at the interface, written here in instructions, so that no compiler and no
 * loader is needed where the switch runs.
 *
 * Attached by a link (BPF_LINK_CREATE), which is an fd: the program is there as long as somebody
 * holds it, and nobody else can replace it meanwhile.
 *
 * Runs on: the keeper.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "af_xdp.h"

/* Newer than the headers of Debian 12. */
#ifndef BPF_F_XDP_DEV_BOUND_ONLY
#define BPF_F_XDP_DEV_BOUND_ONLY (1U << 6)
#endif

#define INSN(opcode, dst, src, offset, value)                                                      \
	{                                                                                          \
		.code = (opcode), .dst_reg = (dst), .src_reg = (src), .off = (offset),             \
		.imm = (value)                                                                     \
	}

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int bpf_failed(const char *what, struct error *err)
{
	if (errno == EPERM)
		return error_named(err, EPERM, "PRIVILEGE_MISSING",
				   "af_xdp: %s needs the capability BPF", what);
	return error_set(err, errno, "af_xdp: %s: %s", what, strerror(errno));
}

int xdp_map_make(unsigned queues, struct error *err)
{
	union bpf_attr attr = {
	    .map_type = BPF_MAP_TYPE_XSKMAP,
	    .key_size = sizeof(uint32_t),
	    .value_size = sizeof(uint32_t),
	    .max_entries = queues,
	    .map_name = "vswitch",
	};
	int map = bpf(BPF_MAP_CREATE, &attr);

	return map < 0 ? bpf_failed("a map of sockets", err) : map;
}

int xdp_map_fill(int map, const int *sockets, unsigned queues, struct error *err)
{
	for (uint32_t queue = 0; queue < queues; queue++) {
		union bpf_attr attr = {
		    .map_fd = (uint32_t)map,
		    .key = (uintptr_t)&queue,
		    .value = (uintptr_t)&sockets[queue],
		};

		if (bpf(BPF_MAP_UPDATE_ELEM, &attr))
			return bpf_failed("the map of sockets", err);
	}
	return 0;
}

#define MOVE(dst, src) INSN(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
#define SET(dst, value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value)
#define ADD(dst, value) INSN(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, value)
#define LOAD(size, dst, src, at) INSN(BPF_LDX | BPF_MEM | (size), dst, src, at, 0)
#define STORE(size, dst, at, src) INSN(BPF_STX | BPF_MEM | (size), dst, src, at, 0)
#define STORE_ZERO(size, dst, at) INSN(BPF_ST | BPF_MEM | (size), dst, 0, at, 0)
#define LOAD_MAP(dst, map)                                                                         \
	INSN(BPF_LD | BPF_DW | BPF_IMM, dst, BPF_PSEUDO_MAP_FD, 0, map),                           \
	{                                                                                          \
		0                                                                                  \
	}
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)
#define CALL_KERNEL(id) INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, (int)(id))
#define IF_EQUAL(reg, value, to) INSN(BPF_JMP | BPF_JEQ | BPF_K, reg, 0, to, value)
#define IF_NOT(reg, value, to) INSN(BPF_JMP | BPF_JNE | BPF_K, reg, 0, to, value)
#define IF_GREATER(reg, than, to) INSN(BPF_JMP | BPF_JGT | BPF_X, reg, than, to, 0)
#define TO_BIG_ENDIAN(reg, bits) INSN(BPF_ALU | BPF_END | BPF_TO_BE, reg, 0, 0, bits)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define CONTEXT(member) offsetof(struct xdp_md, member)
#define TO_SOCKET(map)                                                                             \
	LOAD_MAP(BPF_REG_1, map), SET(BPF_REG_3, XDP_PASS), CALL(BPF_FUNC_redirect_map), EXIT

static int program_give(const struct bpf_insn *program, size_t bytes, uint32_t flags,
			uint32_t ifindex)
{
	union bpf_attr attr = {
	    .prog_type = BPF_PROG_TYPE_XDP,
	    .insn_cnt = (uint32_t)(bytes / sizeof(*program)),
	    .insns = (uintptr_t)program,
	    .license = (uintptr_t) "Dual MIT/GPL", /* what functions of the kernel ask for */
	    .prog_name = "vswitch",
	    .expected_attach_type = BPF_XDP,
	    .prog_flags = flags,
	    .prog_ifindex = ifindex,
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

static int plain_load(int map)
{
	/* return bpf_redirect_map(map, ctx->rx_queue_index, XDP_PASS) */
	const struct bpf_insn program[] = {
	    LOAD(BPF_W, BPF_REG_2, BPF_REG_1, CONTEXT(rx_queue_index)),
	    TO_SOCKET(map),
	};
	int fd = program_give(program, sizeof(program), BPF_F_XDP_HAS_FRAGS, 0);

	if (fd < 0 && errno == EINVAL) /* before Linux 5.18 */
		fd = program_give(program, sizeof(program), 0, 0);
	return fd;
}

/*
 * The kernel and NICs keep a VLAN tag beside the frame, where a sender left it to its device or a
 * NIC took it out, and a socket gets the frame without it: it would be one of another VLAN. Since
 * Linux 6.8 a program that is bound to the interface may ask for the tag (veth and some NICs
 * answer); it is put back in line. A queue without a socket is left alone: on the way to the
 * host's stack the tag stays where it is.
 */
static int tagging_load(int map, uint32_t ifindex)
{
	enum { PROTOCOL = -8, TCI = -4, QUEUE = -12 }; /* on the stack */
	const uint32_t rx_vlan_tag = xdp_kernel_function("bpf_xdp_metadata_rx_vlan_tag");
	const struct bpf_insn program[] = {
	    MOVE(BPF_REG_6, BPF_REG_1),
	    LOAD(BPF_W, BPF_REG_9, BPF_REG_6, CONTEXT(rx_queue_index)),
	    STORE(BPF_W, BPF_REG_10, QUEUE, BPF_REG_9),
	    MOVE(BPF_REG_2, BPF_REG_10),
	    ADD(BPF_REG_2, QUEUE),
	    LOAD_MAP(BPF_REG_1, map),
	    CALL(BPF_FUNC_map_lookup_elem),
	    IF_NOT(BPF_REG_0, 0, 2),
	    SET(BPF_REG_0, XDP_PASS), /* no socket */
	    EXIT,
	    STORE_ZERO(BPF_DW, BPF_REG_10, PROTOCOL),
	    MOVE(BPF_REG_1, BPF_REG_6),
	    MOVE(BPF_REG_2, BPF_REG_10),
	    ADD(BPF_REG_2, PROTOCOL),
	    MOVE(BPF_REG_3, BPF_REG_10),
	    ADD(BPF_REG_3, TCI),
	    CALL_KERNEL(rx_vlan_tag),
	    IF_NOT(BPF_REG_0, 0, 20), /* no tag: to the socket */
	    MOVE(BPF_REG_1, BPF_REG_6),
	    SET(BPF_REG_2, -4),
	    CALL(BPF_FUNC_xdp_adjust_head),
	    IF_NOT(BPF_REG_0, 0, 22), /* no room: drop */
	    LOAD(BPF_W, BPF_REG_2, BPF_REG_6, CONTEXT(data)),
	    LOAD(BPF_W, BPF_REG_3, BPF_REG_6, CONTEXT(data_end)),
	    MOVE(BPF_REG_4, BPF_REG_2),
	    ADD(BPF_REG_4, 18),
	    IF_GREATER(BPF_REG_4, BPF_REG_3, 17), /* no header: drop */
	    LOAD(BPF_W, BPF_REG_5, BPF_REG_2, 4), /* both addresses move to the new beginning */
	    STORE(BPF_W, BPF_REG_2, 0, BPF_REG_5),
	    LOAD(BPF_W, BPF_REG_5, BPF_REG_2, 8),
	    STORE(BPF_W, BPF_REG_2, 4, BPF_REG_5),
	    LOAD(BPF_W, BPF_REG_5, BPF_REG_2, 12),
	    STORE(BPF_W, BPF_REG_2, 8, BPF_REG_5),
	    LOAD(BPF_H, BPF_REG_5, BPF_REG_10, PROTOCOL), /* in the order of the wire */
	    STORE(BPF_H, BPF_REG_2, 12, BPF_REG_5),
	    LOAD(BPF_H, BPF_REG_5, BPF_REG_10, TCI),
	    TO_BIG_ENDIAN(BPF_REG_5, 16),
	    STORE(BPF_H, BPF_REG_2, 14, BPF_REG_5),
	    MOVE(BPF_REG_2, BPF_REG_9), /* to the socket */
	    TO_SOCKET(map),
	    SET(BPF_REG_0, XDP_DROP), /* drop */
	    EXIT,
	};

	if (!rx_vlan_tag)
		return -1;
	return program_give(program, sizeof(program),
			    BPF_F_XDP_HAS_FRAGS | BPF_F_XDP_DEV_BOUND_ONLY, ifindex);
}

static int link_make(int program, uint32_t ifindex, uint32_t mode)
{
	union bpf_attr attr = {
	    .link_create =
		{
		    .prog_fd = (uint32_t)program,
		    .target_ifindex = ifindex,
		    .attach_type = BPF_XDP,
		    .flags = mode,
		},
	};

	return bpf(BPF_LINK_CREATE, &attr);
}

/* A program that the link holds from now on; < 0: errno says why not. */
static int loaded_attach(int program, uint32_t ifindex, uint32_t mode)
{
	int link, saved;

	if (program < 0)
		return -1;
	link = link_make(program, ifindex, mode);
	saved = errno;
	close(program);
	errno = saved;
	return link;
}

static bool taken(void)
{
	return errno == EBUSY || errno == EEXIST;
}

int xdp_program_attach(int map, uint32_t ifindex, const char *ifname, struct xdp_attached *how,
		       struct error *err)
{
	int link = loaded_attach(tagging_load(map, ifindex), ifindex, XDP_FLAGS_DRV_MODE);

	*how = (struct xdp_attached){.native = true, .tags = link >= 0};
	if (link < 0 && !taken())
		link = loaded_attach(plain_load(map), ifindex, XDP_FLAGS_DRV_MODE);
	if (link < 0 && !taken() && errno != EPERM) {
		how->native = false;
		link = loaded_attach(plain_load(map), ifindex, XDP_FLAGS_SKB_MODE);
	}
	if (link >= 0)
		return link;
	if (taken())
		return error_named(
		    err, EBUSY, "PORT_BUSY",
		    "af_xdp: %s has an XDP program already; ip link show %s names it", ifname,
		    ifname);
	return bpf_failed("loading and attaching its program", err);
}

void xdp_program_detach(int link)
{
	union bpf_attr attr = {.link_detach = {.link_fd = (uint32_t)link}};

	(void)bpf(BPF_LINK_DETACH, &attr);
}
