/*
 * Classic BPF programs (Linux Documentation/networking/filter.rst), as the control plane compiles
 * them from filter expressions: text in the form of `tcpdump -ddd`, commas for line ends.
 *
 * Runs on: keeper and control thread (cbpf_parse), workers (cbpf_run).
 */
#pragma once

#include <linux/filter.h>
#include <stdint.h>

#include "error.h"

enum { CBPF_INSTRUCTIONS_MAX = 512 };

struct cbpf {
	unsigned count; /* 0: takes everything */
	struct sock_filter code[CBPF_INSTRUCTIONS_MAX];
};

/* -EINVAL (FILTER_INVALID) when the text is no program, or one that could run out of bounds. */
int cbpf_parse(const char *text, struct cbpf *program, struct error *err);

/*
 * How many bytes of the frame the program wants; 0: it does not want it. `bytes` are the first
 * `have` of a frame of `len` bytes; a program that looks behind them does not want the frame.
 */
uint32_t cbpf_run(const struct cbpf *program, const uint8_t *bytes, uint32_t have, uint32_t len);
