/*
 * Runs a fuzz target without libFuzzer: the files named, else a bounded number of inputs made
 * from a fixed seed, so that the target is part of every test run. Inputs are frames that are
 * nearly right (tags, IPv4, IPv6, TCP, offload headers) with a few bytes changed.
 *
 *     fuzz_x_driver [runs [seed] | file ...]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT_MAX = 16384, RUNS = 20000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state = 0x9e3779b97f4a7c15;

static uint32_t below(uint32_t n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)((state >> 32) * n >> 32);
}

static const struct {
	unsigned len;
	const char *bytes;
} pieces[] = {
    {3, "\x00\x00\x4a"},				      /* a record's head */
    {3, "\x01\x04\x60"},				      /* the same, longer */
    {10, "\x01\x01\x36\x00\x64\x00\x22\x00\x10\x00"},	      /* TSO4, TCP at 34 */
    {10, "\x01\x00\x00\x00\x00\x00\x22\x00\x06\x00"},	      /* checksum of UDP */
    {12, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"}, /* addresses */
    {12, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x03"}, /* broadcast */
    {4, "\x81\x00\x00\x01"},				      /* a tag */
    {4, "\x88\xa8\xa0\x02"},				      /* and an outer one */
    {2, "\x08\x00"},					      /* IPv4 */
    {2, "\x86\xdd"},					      /* IPv6 */
    {20, "\x45\x00\x00\x3c\x00\x00\x40\x00\x40\x06\x00\x00\x0a\x00\x00\x01\x0a\x00\x00\x02"},
    {8, "\x60\x00\x00\x00\x00\x28\x06\x40"}, /* IPv6, TCP next */
    {16, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"},
    {20, "\x9c\x40\x01\xbb\x00\x00\x00\x01\x00\x00\x00\x02\x50\x10\x20\x00\x00\x00\x00\x00"},
    {8, "\x2c\x00\x00\x01\x00\x00\x00\x00"}, /* a fragment header */
    {28, "\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x02\x0a\x00\x00\x01\x00\x00\x00"
	 "\x00\x00\x00\x0a\x00\x00\x02"}, /* ARP */
};

/* A record that is right: 600 bytes of TCP to be cut into segments of 256. */
static size_t make_segments(uint8_t *to)
{
	static const uint8_t head[] = {1,    2,	   152,	 1,    1,    54,   0,
				       0,    1,	   34,	 0,    16,   0, /* 664 bytes for port 1 */
				       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
				       0,    0,	   0,	 0,    2,    8,	   0, /* Ethernet */
				       0x45, 0,	   2,	 128,  0,    0,	   0x40,
				       0,    64,   6,	 0,    0,    10,   0, /* IPv4, 640 bytes */
				       0,    1,	   10,	 0,    0,    2,	      /* addresses */
				       0x9c, 0x40, 1,	 0xbb, 0,    0,	   0,
				       1,    0,	   0,	 0,    2,    0x50, 0x10, /* TCP */
				       0x20, 0,	   0,	 0,    0,    0};

	memset(to, 0, 3 + 664);
	memcpy(to, head, sizeof(head));
	return 3 + 664;
}

static size_t make(uint8_t *to)
{
	size_t size = 0, want = below(16) ? below(600) : below(INPUT_MAX);

	to[size++] = (uint8_t)below(256);
	if (below(4) == 0)
		size += make_segments(to + size);
	while (size < want && size + 64 < INPUT_MAX) {
		unsigned n = below(sizeof(pieces) / sizeof(pieces[0]));

		/* the pieces in their order make a frame; out of order, nonsense */
		for (unsigned i = n; i < sizeof(pieces) / sizeof(pieces[0]) && size < want; i++) {
			if (below(3) || size + pieces[i].len > INPUT_MAX)
				continue;
			memcpy(to + size, pieces[i].bytes, pieces[i].len);
			size += pieces[i].len;
		}
		for (unsigned i = below(40); i-- > 0 && size < INPUT_MAX;)
			to[size++] = (uint8_t)(below(4) ? 0 : below(256));
	}
	for (unsigned i = below(6); i-- > 0;)
		to[below((uint32_t)size)] = (uint8_t)below(256);
	return size;
}

static int run_file(const char *path)
{
	static uint8_t bytes[1 << 20];
	FILE *file = fopen(path, "rb");
	size_t size;

	if (!file) {
		perror(path);
		return 1;
	}
	size = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	LLVMFuzzerTestOneInput(bytes, size);
	return 0;
}

/* Zero would stay zero. */
static void seed(uint64_t number)
{
	state = (number + 1) * 0x9e3779b97f4a7c15;
	state = state ? state : 1;
}

int main(int argc, char **argv)
{
	unsigned long runs = RUNS;
	char *end = NULL;

	if (argc > 1)
		runs = strtoul(argv[1], &end, 10);
	if (end && *end) {
		int status = 0;

		for (int i = 1; i < argc; i++)
			status |= run_file(argv[i]);
		return status;
	}
	seed(argc > 2 ? strtoul(argv[2], NULL, 10) : 0);
	for (unsigned long i = 0; i < runs; i++) {
		size_t size;
		uint8_t *exact, input[INPUT_MAX];

		size = make(input);
		/* of its own length, so that a sanitizer sees where it ends */
		exact = malloc(size);
		if (!exact)
			return 1;
		memcpy(exact, input, size);
		LLVMFuzzerTestOneInput(exact, size);
		free(exact);
	}
	return 0;
}
