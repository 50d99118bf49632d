/*
 * Fuzz target: a program's text up to a zero byte, then a frame. What parses runs, to its end and
 * within the bytes that are there, and says the same twice. Inputs that do not begin with a digit
 * are instructions of 8 bytes each, put into words here, so that programs come about quickly.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbpf.h"

enum { TEXT_MAX = 16 * 1024, FRAME_MAX = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes the instructions from the input; returns how many bytes these were. */
static size_t text_make(char *text, const uint8_t *data, size_t size)
{
	unsigned count = data[0] % 32 + 1;
	size_t used = 1;
	int at = snprintf(text, TEXT_MAX, "%u", count);

	for (unsigned i = 0; i < count; i++) {
		uint8_t raw[8] = {0};
		size_t part = size - used < sizeof(raw) ? size - used : sizeof(raw);
		uint32_t k;

		memcpy(raw, data + used, part);
		used += part;
		memcpy(&k, raw + 4, sizeof(k));
		if (raw[1] & 1)
			k %= 64;
		/* jumps within the program, an end at its end */
		at += snprintf(text + at, TEXT_MAX - (size_t)at, ",%u %u %u %u",
			       i + 1 == count ? 22u : raw[0], raw[2] % (count - i),
			       raw[3] % (count - i), k);
	}
	return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[TEXT_MAX];
	static struct cbpf program;
	struct error err;
	size_t used;
	uint8_t *frame;

	if (!size)
		return 0;
	if (data[0] >= '0' && data[0] <= '9') {
		used = strnlen((const char *)data, size < TEXT_MAX - 1 ? size : TEXT_MAX - 1);
		memcpy(text, data, used);
		text[used] = 0;
		used += used < size;
	} else {
		used = text_make(text, data, size);
	}
	if (cbpf_parse(text, &program, &err))
		return 0;
	size -= used;
	if (size > FRAME_MAX)
		size = FRAME_MAX;
	frame = malloc(size ? size : 1); /* of its own length: a sanitizer sees its end */
	memcpy(frame, data + used, size);
	for (unsigned more = 0; more < 2; more++) {
		uint32_t len = (uint32_t)size + 1000 * more;

		if (cbpf_run(&program, frame, (uint32_t)size, len) !=
		    cbpf_run(&program, frame, (uint32_t)size, len))
			abort();
	}
	free(frame);
	return 0;
}
