/* Runs on: see cbpf.h. */
#include "cbpf.h"

#include <assert.h>
#include <errno.h>
#include <pcap/pcap.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

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
		if (!instruction(&text, i + 1 == count, &program->code[i]))
			return error_named(err, EINVAL, "FILTER_INVALID",
					   "filter: instruction %lu cannot be read", i);
	}
	if (!bpf_validate((const struct bpf_insn *)program->code, (int)count))
		return error_named(err, EINVAL, "FILTER_INVALID",
				   "filter: the program could run out of bounds");
	program->count = (unsigned)count;
	return 0;
}

uint32_t cbpf_run(const struct cbpf *program, const uint8_t *bytes, uint32_t have, uint32_t len)
{
	if (!program->count)
		return UINT32_MAX;
	return bpf_filter((const struct bpf_insn *)program->code, bytes, len, have);
}
