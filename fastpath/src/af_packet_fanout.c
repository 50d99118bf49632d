/*
 * AF_PACKET: which frames a socket gets. Its filter, and the group that shares an interface.
 *
 * Runs on: the keeper.
 */
#include "af_packet.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000 /* Linux 5.12 */
#endif

/* --- filters ------------------------------------------------------------------------------- */

static int filter_set(int fd, struct sock_filter *code, unsigned count, struct error *err)
{
	struct sock_fprog program = {.len = (uint16_t)count, .filter = code};

	if (!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		return 0;
	return error_set(err, errno, "af_packet: filter: %s", strerror(errno));
}

int af_filter_mute(int fd, struct error *err)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);

	return filter_set(fd, &nothing, 1, err);
}

/*
 * Version 1: the program twice, the second time for tagged frames, of which it leaves
 * AF_TAGGED_SNAPLEN bytes (af_packet.h).
 */
static int filter_set_v1(int fd, const struct cbpf *filter, struct error *err)
{
	static const struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, UINT16_MAX << 2);
	struct sock_filter code[2 * CBPF_INSTRUCTIONS_MAX + 3];
	const struct sock_filter *once = filter ? filter->code : &all;
	unsigned count = filter ? filter->count : 1, at = 3;

	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       (uint32_t)SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT);
	code[1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
	code[2] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, count);
	memcpy(code + at, once, count * sizeof(*code));
	at += count;
	memcpy(code + at, once, count * sizeof(*code));
	for (unsigned i = at; i < at + count; i++) {
		if (BPF_CLASS(code[i].code) != BPF_RET)
			continue;
		if (BPF_RVAL(code[i].code) != BPF_K)
			return error_named(err, EINVAL, "FILTER_INVALID",
					   "filter: returns a computed length");
		if (code[i].k)
			code[i].k = AF_TAGGED_SNAPLEN;
	}
	return filter_set(fd, code, at + count, err);
}

int af_filter_attach(int fd, const struct af_wanted *wanted, struct error *err)
{
	uint32_t none = 0;

	if (wanted->version == 1)
		return filter_set_v1(fd, wanted->filter, err);
	if (wanted->filter)
		return filter_set(fd, wanted->filter->code, wanted->filter->count, err);
	if (setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none)) && errno != ENOENT)
		return error_set(err, errno, "af_packet: filter: %s", strerror(errno));
	return 0;
}

/* --- programs of a group ------------------------------------------------------------------- */

#define EBPF(opcode, dst, src, offset, value)                                                      \
	((struct bpf_insn){.code = (opcode),                                                       \
			   .dst_reg = (dst),                                                       \
			   .src_reg = (src),                                                       \
			   .off = (offset),                                                        \
			   .imm = (int32_t)(value)})
/* R0 = the bytes at `at` from the Ethernet header, host order; not there: the program ends, 0 */
#define EBPF_LOAD(size, at)                                                                        \
	EBPF(BPF_LD | BPF_ABS | (size), 0, 0, 0, (uint32_t)SKF_LL_OFF + (uint32_t)(at))
#define EBPF_XOR(dst, src) EBPF(BPF_ALU64 | BPF_XOR | BPF_X, dst, src, 0, 0)
#define EBPF_XOR_LOAD(at) EBPF_LOAD(BPF_W, at), EBPF_XOR(BPF_REG_7, BPF_REG_0)
#define EBPF_UNLESS(reg, value, to) EBPF(BPF_JMP | BPF_JNE | BPF_K, reg, 0, to, value)

/*
 * A hash of the IP addresses, the same for both directions of a conversation: the sum (modulo 2)
 * of source and destination, multiplied by an odd number, its upper half. The kernel takes it
 * modulo the number of sockets. Frames that are not IP: the first socket.
 *
 * Addresses of IPv4 at 26 and 30, of IPv6 at 22 to 53, counted from the Ethernet header. No ports,
 * so that fragments stay with their conversation.
 */
static const struct bpf_insn hash_program[] = {
    EBPF(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_6, BPF_REG_1, 0, 0), /* what BPF_LD wants */
    EBPF(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_7, 0, 0, 0),
    EBPF_LOAD(BPF_H, 12),
    EBPF_UNLESS(BPF_REG_0, ETH_P_IP, 5),
    EBPF_XOR_LOAD(26),
    EBPF_XOR_LOAD(30),
    EBPF(BPF_JMP | BPF_JA, 0, 0, 17, 0),
    EBPF_UNLESS(BPF_REG_0, ETH_P_IPV6, 20),
    EBPF_XOR_LOAD(22),
    EBPF_XOR_LOAD(26),
    EBPF_XOR_LOAD(30),
    EBPF_XOR_LOAD(34),
    EBPF_XOR_LOAD(38),
    EBPF_XOR_LOAD(42),
    EBPF_XOR_LOAD(46),
    EBPF_XOR_LOAD(50),
    EBPF(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_0, BPF_REG_7, 0, 0),
    EBPF(BPF_ALU | BPF_MUL | BPF_K, BPF_REG_0, 0, 0, 0x9e3779b1), /* 2^32 / golden ratio */
    EBPF(BPF_ALU | BPF_RSH | BPF_K, BPF_REG_0, 0, 0, 16),
    EBPF(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    EBPF(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
    EBPF(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
};

/* Loaded once; the keeper holds it as long as it lives. */
static int hash_program_fd = -1;

/* Needs CAP_BPF, or a kernel that lets everybody load programs. */
static int hash_program_load(void)
{
	union bpf_attr attr = {
	    .prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
	    .insn_cnt = sizeof(hash_program) / sizeof(*hash_program),
	    .insns = (uintptr_t)hash_program,
	    .license = (uintptr_t) "MIT",
	};

	if (hash_program_fd < 0)
		hash_program_fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	return hash_program_fd;
}

void af_packet_prepare(void)
{
	hash_program_load();
}

static int hash_program_give(int member, struct error *err)
{
	int fd = hash_program_load();

	if (fd < 0 && errno == EPERM)
		return error_named(err, EPERM, "PRIVILEGE_MISSING",
				   "af_packet: fanout ebpf: when the keeper starts it needs the "
				   "capability BPF");
	if (fd < 0 || setsockopt(member, SOL_PACKET, PACKET_FANOUT_DATA, &fd, sizeof(fd)))
		return error_set(err, errno, "af_packet: fanout ebpf: %s", strerror(errno));
	return 0;
}

/* Of the group, once a member is in it. */
static int program_give(int member, const struct af_wanted *wanted, struct error *err)
{
	struct sock_fprog program = {0};

	if (wanted->fanout == PACKET_FANOUT_EBPF)
		return hash_program_give(member, err);
	if (wanted->fanout != PACKET_FANOUT_CBPF)
		return 0;
	program.len = (uint16_t)wanted->fanout_program->count;
	program.filter = wanted->fanout_program->code;
	if (!setsockopt(member, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program)))
		return 0;
	return error_set(err, errno, "af_packet: fanout_program: %s", strerror(errno));
}

/* --- groups -------------------------------------------------------------------------------- */

/*
 * The first socket gets a group of its own from the kernel (or the one asked for), the others
 * join it. All were mute so far: between bind and here each would have got every frame.
 */
int af_fanout_join(const int *rx, const struct af_wanted *wanted, const struct af_opened *opened,
		   struct error *err)
{
	bool own = wanted->fanout_group == AF_GROUP_OWN;
	uint32_t mode = wanted->fanout | wanted->fanout_flags, group = wanted->fanout_group;
	socklen_t len = sizeof(group);
	int rc;

	if (opened->ignores_outgoing)
		mode |= PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
	rc = af_set_u32(rx[0], SOL_PACKET, PACKET_FANOUT, "fanout_group",
			own ? (mode | PACKET_FANOUT_FLAG_UNIQUEID) << 16 : mode << 16 | group, err);
	if (rc)
		return rc;
	if (getsockopt(rx[0], SOL_PACKET, PACKET_FANOUT, &group, &len))
		return error_set(err, errno, "af_packet: fanout_group: %s", strerror(errno));
	group = (group & UINT16_MAX) | mode << 16;
	for (uint32_t i = 1; i < wanted->queues && !rc; i++)
		rc = af_set_u32(rx[i], SOL_PACKET, PACKET_FANOUT, "fanout_group", group, err);
	if (!rc)
		rc = program_give(rx[0], wanted, err);
	for (uint32_t i = 0; i < wanted->queues && !rc; i++)
		rc = af_filter_attach(rx[i], wanted, err);
	return rc;
}
