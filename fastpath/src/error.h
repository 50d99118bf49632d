/*
 * Errors of the control path. A function that can fail returns 0 or -errno and fills the
 * caller's struct error; whoever stands at the edge logs or answers it, once.
 * Runs on: control thread, keeper. Never on a worker.
 */
#pragma once

/* cffi: begin */
struct error {
	int code;      /* positive errno value */
	char name[32]; /* stable API code, e.g. "IFACE_NOT_FOUND"; "" when errno says it all */
	char
	    message[256]; /* one sentence: "af_packet: block_bytes 100 is not a multiple of 4096" */
};
/* cffi: end */

/* Fills err (may be NULL) and returns -code. */
int error_set(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with a stable API code, for refusals a user can act on. */
int error_named(struct error *err, int code, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
