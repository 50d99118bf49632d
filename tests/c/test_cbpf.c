/*
 * cbpf: texts that are programs and texts that are none, and what a program may look at. Programs
 * of every kind against an interpreter of its own: tests/property/test_cbpf.py.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cbpf.h"
#include "check.h"

static const char *const bad[] = {
    "0",
    "0,",
    "1",
    "1,",
    ",",
    " 1,6 0 0 1",
    "1, 6 0 0 1",
    "1,6 0 0 1 ",
    "1,6 0 0 1,",
    "1,6 0 0 1,6 0 0 1",
    "2,6 0 0 1",
    "1,6 0 0",
    "1,6 0 0 ",
    "1,6 0 0 -1",
    "1,6 0 0 +1",
    "1,6 0 0 0x1",
    "1,6  0 0 1",
    "1,6\t0 0 1",
    "1,65536 0 0 1",
    "1,6 256 0 1",
    "1,6 0 256 1",
    "1,6 0 0 4294967296",
    "1,6 0 0 99999999999999999999999",
    "513,6 0 0 1",
    "99999999999999999999999,6 0 0 1",
    "1,40 0 0 12",			  /* does not end */
    "2,21 1 0 0,6 0 0 1",		  /* jumps out */
    "2,21 0 255 0,6 0 0 1",		  /* on the other way */
    "2,5 0 0 1,6 0 0 1",		  /* always */
    "3,6 0 0 1,5 0 0 4294967295,6 0 0 1", /* back */
    "2,52 0 0 0,6 0 0 1",		  /* divides by 0 */
    "2,148 0 0 0,6 0 0 1",		  /* and what is left of it */
    "2,2 0 0 16,6 0 0 1",		  /* M[16] */
    "2,96 0 0 0,22 0 0 0",		  /* M[0], not written */
    "2,100 0 0 32,6 0 0 1",		  /* shifts by 32 */
    "2,116 0 0 4294967295,6 0 0 1",	  /* the other way */
    "2,140 0 0 0,6 0 0 1",		  /* negates X */
    "2,65535 0 0 0,6 0 0 1",		  /* nothing that is known */
};

static const char *const good[] = {
    "",
    "1,6 0 0 0",
    "1,6 255 255 4294967295",
    "1,22 0 0 0",
    "3,21 1 0 0,6 0 0 1,6 0 0 2",
    "4,40 0 0 12,21 0 1 2048,6 0 0 262144,6 0 0 0",
};

static void test_texts(void)
{
	static struct cbpf program;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error err = {0};

		if (!CHECK(cbpf_parse(bad[i], &program, &err) == -EINVAL))
			fprintf(stderr, "  \"%s\" was taken\n", bad[i]);
		CHECK(program.count == 0);
		CHECK(err.message[0] && strcmp(err.name, "FILTER_INVALID") == 0);
	}
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct error err = {0};

		if (!CHECK(cbpf_parse(good[i], &program, &err) == 0))
			fprintf(stderr, "  \"%s\": %s\n", good[i], err.message);
	}
}

/* A program of so many instructions, as text. */
static char *text_of(unsigned count)
{
	static char text[16 * 1024];
	int at = snprintf(text, sizeof(text), "%u", count);

	for (unsigned i = 0; i < count; i++)
		at += snprintf(text + at, sizeof(text) - (size_t)at, ",%u 0 0 %u",
			       i + 1 == count ? 6u : 0u, i);
	return text;
}

static void test_longest(void)
{
	static struct cbpf program;
	struct error err;

	CHECK(cbpf_parse(text_of(CBPF_INSTRUCTIONS_MAX), &program, &err) == 0);
	CHECK(program.count == CBPF_INSTRUCTIONS_MAX);
	CHECK(cbpf_run(&program, NULL, 0, 0) == CBPF_INSTRUCTIONS_MAX - 1);
	CHECK(cbpf_parse(text_of(CBPF_INSTRUCTIONS_MAX + 1), &program, &err) == -EINVAL);
}

/* The bytes that are there are read, none behind them; `len` is what the frame claims. */
static void test_bounds(void)
{
	static const struct {
		const char *text;
		uint32_t have, len, wanted;
	} cases[] = {
	    {"2,48 0 0 19,6 0 0 7", 20, 20, 7},
	    {"2,48 0 0 20,6 0 0 7", 20, 21, 0},
	    {"2,40 0 0 18,6 0 0 7", 20, 20, 7},
	    {"2,40 0 0 19,6 0 0 7", 20, 20, 0},
	    {"2,32 0 0 16,6 0 0 7", 20, 20, 7},
	    {"2,32 0 0 17,6 0 0 7", 20, 20, 0},
	    {"2,32 0 0 4294967295,6 0 0 7", 20, 20, 0},
	    {"2,32 0 0 4294967292,6 0 0 7", 20, 20, 0},
	    {"3,1 0 0 4294967295,80 0 0 20,6 0 0 7", 20, 20, 0},
	    {"3,1 0 0 1,80 0 0 18,6 0 0 7", 20, 20, 7},
	    {"3,1 0 0 2,80 0 0 18,6 0 0 7", 20, 20, 0},
	    {"2,177 0 0 19,6 0 0 7", 20, 20, 7},
	    {"2,177 0 0 20,6 0 0 7", 20, 20, 0},
	    {"2,128 0 0 0,22 0 0 0", 20, 1514, 1514},
	    {"2,129 0 0 0,6 0 0 9", 0, 5, 9},
	    {"2,48 0 0 0,6 0 0 7", 0, 60, 0},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *exact = calloc(1, cases[i].have ? cases[i].have : 1);
		static struct cbpf program;
		struct error err;

		if (CHECK(cbpf_parse(cases[i].text, &program, &err) == 0) &&
		    !CHECK(cbpf_run(&program, exact, cases[i].have, cases[i].len) ==
			   cases[i].wanted))
			fprintf(stderr, "  case %u\n", i);
		free(exact);
	}
}

static void test_no_program_takes_all(void)
{
	static struct cbpf program;
	struct error err;

	CHECK(cbpf_parse("", &program, &err) == 0 && program.count == 0);
	CHECK(cbpf_run(&program, NULL, 0, 60) == UINT32_MAX);
}

int main(void)
{
	test_texts();
	test_longest();
	test_bounds();
	test_no_program_takes_all();
	return check_result();
}
