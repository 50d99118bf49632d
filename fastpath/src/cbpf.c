/* Runs on: see cbpf.h. */
#include "cbpf.h"

#include <assert.h>
#include <errno.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct bpf_insn) == sizeof(struct sock_filter), "one layout");
static_assert(offsetof(struct bpf_insn, k) == offsetof(struct sock_filter, k), "one layout");

/* A decimal number up to max, ended by `end`; moves the text behind it. */
static bool number(const char **text, unsigned long max, char end, unsigned long *value)
{
	char *after;

	if (**text < '0' || **text > '9')
		return false;
	errno = 0;
	*value = strtoul(*text, &after, 10);
	if (errno || *value > max || *after != end)
		return false;
	*text = end ? after + 1 : after;
	return true;
}

static bool instruction(const char **text, bool last, struct sock_filter *at)
{
	unsigned long code, jt, jf, k;

	if (!number(text, UINT16_MAX, ' ', &code) || !number(text, UINT8_MAX, ' ', &jt) ||
	    !number(text, UINT8_MAX, ' ', &jf) || !number(text, UINT32_MAX, last ? 0 : ',', &k))
		return false;
	*at = (struct sock_filter){
	    .code = (uint16_t)code, .jt = (uint8_t)jt, .jf = (uint8_t)jf, .k = (uint32_t)k};
	return true;
}

/*
 * Those that the kernel takes, no others: bpf_validate looks at less than all bits of a code, and
 * bpf_filter calls abort() for what it does not know.
 */
static bool code_known(uint16_t code)
{
	switch (code) {
	case BPF_LD | BPF_W | BPF_ABS:
	case BPF_LD | BPF_H | BPF_ABS:
	case BPF_LD | BPF_B | BPF_ABS:
	case BPF_LD | BPF_W | BPF_IND:
	case BPF_LD | BPF_H | BPF_IND:
	case BPF_LD | BPF_B | BPF_IND:
	case BPF_LD | BPF_W | BPF_LEN:
	case BPF_LD | BPF_IMM:
	case BPF_LD | BPF_MEM:
	case BPF_LDX | BPF_W | BPF_LEN:
	case BPF_LDX | BPF_B | BPF_MSH:
	case BPF_LDX | BPF_IMM:
	case BPF_LDX | BPF_MEM:
	case BPF_ST:
	case BPF_STX:
	case BPF_ALU | BPF_NEG:
	case BPF_JMP | BPF_JA:
	case BPF_RET | BPF_K:
	case BPF_RET | BPF_A:
	case BPF_MISC | BPF_TAX:
	case BPF_MISC | BPF_TXA:
		return true;
	default:
		break;
	}
	switch (code & ~BPF_X) { /* with a constant or with X */
	case BPF_ALU | BPF_ADD:
	case BPF_ALU | BPF_SUB:
	case BPF_ALU | BPF_MUL:
	case BPF_ALU | BPF_DIV:
	case BPF_ALU | BPF_MOD:
	case BPF_ALU | BPF_AND:
	case BPF_ALU | BPF_OR:
	case BPF_ALU | BPF_XOR:
	case BPF_ALU | BPF_LSH:
	case BPF_ALU | BPF_RSH:
	case BPF_JMP | BPF_JEQ:
	case BPF_JMP | BPF_JGT:
	case BPF_JMP | BPF_JGE:
	case BPF_JMP | BPF_JSET:
		return true;
	default:
		return false;
	}
}

/* Undefined in C; what X holds is looked at when it shifts. */
static bool shifts_too_far(const struct sock_filter *at)
{
	return (at->code == (BPF_ALU | BPF_LSH) || at->code == (BPF_ALU | BPF_RSH)) && at->k >= 32;
}

/* bpf_validate lets a program jump back, for protochain: a loop that a frame may keep going. */
static bool jumps_forward(const struct cbpf *program)
{
	for (unsigned i = 0; i < program->count; i++) {
		const struct sock_filter *at = &program->code[i];

		if (at->code == (BPF_JMP | BPF_JA) && at->k >= program->count - i - 1)
			return false;
	}
	return true;
}

/*
 * A cell of the scratch memory is read on no way before it is written: bpf_filter's memory holds
 * what the stack happened to hold. Jumps lead forward only, so one pass sees every way.
 */
static bool memory_written_first(const struct cbpf *program)
{
	uint16_t written[CBPF_INSTRUCTIONS_MAX + 1]; /* bit m: cell m, on all ways to here */

	memset(written, 0xff, sizeof(written));
	written[0] = 0;
	for (unsigned i = 0; i < program->count; i++) {
		const struct sock_filter *at = &program->code[i];
		uint16_t now = written[i];

		switch (at->code) {
		case BPF_LD | BPF_MEM:
		case BPF_LDX | BPF_MEM:
			if (!(now >> at->k & 1))
				return false;
			break;
		case BPF_ST:
		case BPF_STX:
			now |= (uint16_t)(1u << at->k);
			break;
		case BPF_JMP | BPF_JA:
			written[i + 1 + at->k] &= now;
			continue;
		default:
			break;
		}
		if (BPF_CLASS(at->code) == BPF_JMP) {
			written[i + 1 + at->jt] &= now;
			written[i + 1 + at->jf] &= now;
		} else if (BPF_CLASS(at->code) != BPF_RET) {
			written[i + 1] &= now;
		}
	}
	return true;
}

int cbpf_parse(const char *text, struct cbpf *program, struct error *err)
{
	unsigned long count;

	program->count = 0;
	if (!*text)
		return 0;
	if (!number(&text, CBPF_INSTRUCTIONS_MAX, ',', &count) || !count)
		return error_named(err, EINVAL, "FILTER_INVALID", "filter: 1 to %u instructions",
				   (unsigned)CBPF_INSTRUCTIONS_MAX);
	for (unsigned long i = 0; i < count; i++) {
		if (!instruction(&text, i + 1 == count, &program->code[i]) ||
		    !code_known(program->code[i].code) || shifts_too_far(&program->code[i]))
			return error_named(err, EINVAL, "FILTER_INVALID",
					   "filter: instruction %lu is none", i);
	}
	program->count = (unsigned)count;
	if (bpf_validate((const struct bpf_insn *)program->code, (int)count) &&
	    jumps_forward(program) && memory_written_first(program))
		return 0;
	program->count = 0;
	return error_named(err, EINVAL, "FILTER_INVALID",
			   "filter: the program could run out of bounds, for ever, or on memory "
			   "that it has not written");
}

uint32_t cbpf_run(const struct cbpf *program, const uint8_t *bytes, uint32_t have, uint32_t len)
{
	if (!program->count)
		return UINT32_MAX;
	return bpf_filter((const struct bpf_insn *)program->code, bytes, len, have);
}
