/*
 * AF_XDP, the program at the interface. Seven instructions, written here as such, so that no
 * compiler and no loader is needed where the switch runs.
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

int xdp_map_make(const int *sockets, unsigned count, struct error *err)
{
	union bpf_attr attr = {
	    .map_type = BPF_MAP_TYPE_XSKMAP,
	    .key_size = sizeof(uint32_t),
	    .value_size = sizeof(uint32_t),
	    .max_entries = count,
	    .map_name = "vswitch",
	};
	int map = bpf(BPF_MAP_CREATE, &attr);

	if (map < 0)
		return bpf_failed("a map of sockets", err);
	for (uint32_t queue = 0; queue < count; queue++) {
		attr = (union bpf_attr){
		    .map_fd = (uint32_t)map,
		    .key = (uintptr_t)&queue,
		    .value = (uintptr_t)&sockets[queue],
		};
		if (bpf(BPF_MAP_UPDATE_ELEM, &attr)) {
			int rc = bpf_failed("the map of sockets", err);

			close(map);
			return rc;
		}
	}
	return map;
}

static int program_load(int map, struct error *err)
{
	/* return bpf_redirect_map(map, ctx->rx_queue_index, XDP_PASS) */
	const struct bpf_insn program[] = {
	    INSN(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_1,
		 offsetof(struct xdp_md, rx_queue_index), 0),
	    INSN(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map),
	    INSN(0, 0, 0, 0, 0),
	    INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, XDP_PASS),
	    INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map),
	    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr attr = {
	    .prog_type = BPF_PROG_TYPE_XDP,
	    .insn_cnt = sizeof(program) / sizeof(*program),
	    .insns = (uintptr_t)program,
	    .license = (uintptr_t) "MIT",
	    .prog_name = "vswitch",
	    .expected_attach_type = BPF_XDP,
	    .prog_flags = BPF_F_XDP_HAS_FRAGS,
	};
	int fd = bpf(BPF_PROG_LOAD, &attr);

	if (fd < 0 && errno == EINVAL) { /* before Linux 5.18 */
		attr.prog_flags = 0;
		fd = bpf(BPF_PROG_LOAD, &attr);
	}
	return fd < 0 ? bpf_failed("loading its program", err) : fd;
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

int xdp_program_attach(int map, uint32_t ifindex, const char *ifname, bool *native,
		       struct error *err)
{
	int program = program_load(map, err);
	int link;

	if (program < 0)
		return program;
	link = link_make(program, ifindex, XDP_FLAGS_DRV_MODE);
	*native = link >= 0;
	if (link < 0 && errno != EBUSY && errno != EEXIST && errno != EPERM)
		link = link_make(program, ifindex, XDP_FLAGS_SKB_MODE);
	if (link < 0 && (errno == EBUSY || errno == EEXIST))
		error_named(err, EBUSY, "PORT_BUSY",
			    "af_xdp: %s has an XDP program already; ip link show %s names it",
			    ifname, ifname);
	else if (link < 0)
		bpf_failed("attaching its program", err);
	close(program); /* the link holds it */
	return link < 0 ? -err->code : link;
}

void xdp_program_detach(int link)
{
	union bpf_attr attr = {.link_detach = {.link_fd = (uint32_t)link}};

	(void)bpf(BPF_LINK_DETACH, &attr);
}
