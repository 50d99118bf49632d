/*
 * The short way through a stage: in every form that this machine has, it asks for the key that the
 * long way parses, and does what the way that the cache knows says, or nothing.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "flow_cache_lines.h"
#include "parse.h"
#include "rules_hits.h"
#include "rules_work.h"

enum { SLOTS = 64, STAGE = 5, GENERATION = 9, ROOM = 128, PORTS = 4, ROUNDS = 10000 };

/* What a flow's way is, told by its hash. */
enum way { UNKNOWN, ACTS, BY_DEFAULT, ALLOWED, DROPPED, DROPPED_BY_DEFAULT, WAYS };

struct hits_test {
	struct rules_work *work;
	rules_hits *hits;
	uint64_t random;
	uint8_t
	    *pages[FRAME_BATCH]; /* a frame ends where its page does, and behind it is nothing */
	struct frame frames[FRAME_BATCH];
	struct frame *list[FRAME_BATCH];
	struct rules_stage stage;
	struct rule_counter expected[SLOTS];
	uint64_t expected_drops[DROP_REASONS];
	uint64_t drops[DROP_REASONS];
};

static uint32_t any(struct hits_test *test, uint32_t n)
{
	return random_below(&test->random, n);
}

/* --- frames ------------------------------------------------------------------------------------
 */

static void store16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* Mostly sound packets of `len` bytes, each thing that can be wrong with them now and then. */
static void frame_bytes(struct hits_test *test, uint8_t *bytes, unsigned len)
{
	static const uint16_t types[] = {0x0800, 0x0800, 0x0800, 0x86dd, 0x86dd, 0x0806, 0x8100};
	static const uint8_t protos[] = {1, 6, 6, 6, 17, 17, 47, 58, 44, 0};
	static const uint16_t fragments[] = {0, 0, 0, 0x4000, 0x8000, 0x2000, 0x0001, 0x0100};
	uint16_t type = types[any(test, 7)];
	uint8_t proto = protos[any(test, 10)];
	unsigned l4 = type == 0x86dd ? 54 : 34;

	for (unsigned i = 0; i < ROOM; i++)
		bytes[i] = (uint8_t)any(test, 256);
	store16(bytes + 12, type);
	if (type == 0x0800) {
		bytes[14] = any(test, 16) ? 0x45 : 0x46;
		store16(bytes + 16, len - 14 - (any(test, 4) ? 0 : any(test, 40)) + !any(test, 16));
		store16(bytes + 20, fragments[any(test, 8)]);
		bytes[23] = proto;
	} else if (type == 0x86dd) {
		bytes[14] = (uint8_t)((any(test, 16) ? 0x60 : 0x50) | any(test, 16));
		store16(bytes + 18, len - 54 - (any(test, 4) ? 0 : any(test, 40)) + !any(test, 16));
		bytes[20] = proto;
	}
	bytes[l4 + 12] = (uint8_t)(any(test, 8) ? 0x50 : any(test, 256));
	if (!any(test, 8))
		bytes[any(test, 60)] = (uint8_t)any(test, 256);
}

static void frame_make(struct hits_test *test, unsigned n)
{
	unsigned len = 14 + any(test, ROOM - 14),
		 in_first = any(test, 8) ? len : 1 + any(test, len);
	struct frame *frame = &test->frames[n];
	uint8_t bytes[ROOM];

	frame_bytes(test, bytes, len);
	*frame = (struct frame){.data = test->pages[n] + sysconf(_SC_PAGESIZE) - in_first,
				.len = in_first,
				.frame_len = len,
				.in_port = (uint16_t)any(test, PORTS),
				.vid = (uint16_t)(any(test, 2) ? 0 : any(test, 4096))};
	if (!any(test, 16))
		frame->offload.gso_type = FRAME_GSO_TCPV4;
	memcpy(frame->data, bytes, in_first);
	if (in_first < len) { /* the rest is somewhere in another page */
		struct frame *rest = calloc(1, sizeof(*rest));

		CHECK(rest != NULL);
		rest->data = test->pages[n];
		rest->len = rest->frame_len = len - in_first;
		memcpy(rest->data, bytes + in_first, len - in_first);
		frame->next = rest;
	}
	test->list[n] = frame;
}

/* --- what is expected --------------------------------------------------------------------------
 */

static enum way way_of(uint64_t hash)
{
	return (enum way)((hash >> 20) % WAYS);
}

static void count_expected(struct hits_test *test, uint32_t slot, const struct frame *frame)
{
	test->expected[slot].frames++;
	test->expected[slot].bytes += frame->frame_len;
}

/* Lets the cache know the way, and books what the frame should do. True: it is left over. */
static bool expect(struct hits_test *test, const struct frame *frame, const struct flow_key *masked,
		   uint64_t *gone, unsigned n)
{
	uint64_t hash = flow_cache_prefetch(test->work->cache, STAGE, masked);
	struct flow_path path = {.slots = {hash % SLOTS, hash / SLOTS % SLOTS}};
	enum way way = way_of(hash);

	path.count = way == BY_DEFAULT ? 0 : way == DROPPED ? 2 : 1;
	path.verdict = way == DROPPED		   ? RULES_DROP
		       : way == DROPPED_BY_DEFAULT ? RULES_DROP_DEFAULT
						   : RULES_GO;
	if (way == ACTS)
		path.slots[0] = FLOW_PATH_ACTS;
	if (way != UNKNOWN)
		flow_cache_insert(test->work->cache, hash, GENERATION, STAGE, masked, &path);
	if (way == UNKNOWN || way == ACTS)
		return true;
	for (unsigned i = 0; i < path.count; i++)
		count_expected(test, path.slots[i], frame);
	if (path.verdict != RULES_GO) {
		test->expected_drops[way == DROPPED ? DROP_RULE : DROP_RULE_DEFAULT]++;
		*gone |= (uint64_t)1 << n;
	}
	return false;
}

/* --- the test ----------------------------------------------------------------------------------
 */

static void needs_make(struct hits_test *test)
{
	uint8_t *needs = (uint8_t *)&test->stage.needs;

	for (unsigned i = 0; i < sizeof(test->stage.needs); i++)
		needs[i] = any(test, 4) ? 0xff : (uint8_t)any(test, 256);
	for (unsigned i = 0, near_only = any(test, 2); near_only && i < FAR_WORDS; i++)
		memset(needs + far_word[i] * sizeof(uint64_t), 0, sizeof(uint64_t));
}

static void round_run(struct hits_test *test)
{
	unsigned count = 1 + any(test, FRAME_BATCH);
	uint64_t left = 0, gone = 0, acts = 0, found_left, found_gone;
	struct flow_key masked[FRAME_BATCH];

	needs_make(test);
	test->work->cache->scattered = any(test, 2);
	for (unsigned n = 0; n < count; n++) {
		struct flow_key key;
		struct cursor cursor;
		uint32_t fragment_id;

		frame_make(test, n);
		parse_flow_at(&test->frames[n], &key, &cursor, &fragment_id);
		rules_mask(&key, &test->stage.needs, &masked[n]);
		left |= (uint64_t)expect(test, &test->frames[n], &masked[n], &gone, n) << n;
	}
	found_left =
	    test->hits(test->work, &test->stage, test->list, count, test->drops, &found_gone);
	for (unsigned n = 0; n < count; n++)
		acts |= (uint64_t)(way_of(test->work->hashes[n]) == ACTS) << n;
	CHECK(found_left == left && found_gone == gone && test->work->known == acts);
	for (unsigned n = 0; n < count; n++) {
		if (acts >> n & 1)
			CHECK(test->work->paths[n].slots[0] == FLOW_PATH_ACTS);
		CHECK(!memcmp(&masked[n], &test->work->masked[n], sizeof(masked[n])));
		CHECK(test->work->hashes[n] ==
		      flow_cache_prefetch(test->work->cache, STAGE, &masked[n]));
		free(test->frames[n].next);
	}
}

static void test_hits(rules_hits *hits)
{
	static const struct rules_tables tables = {.generation = GENERATION};
	struct hits_test test = {.hits = hits, .random = 42, .stage.number = STAGE};
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	test.work = rules_work_create(PORTS, SLOTS, 7);
	if (!CHECK(test.work != NULL && test.work->cache != NULL))
		return;
	test.work->tables = &tables;
	test.work->now_s = 11;
	for (unsigned n = 0; n < FRAME_BATCH; n++) {
		test.pages[n] = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(test.pages[n] != MAP_FAILED &&
		      mprotect(test.pages[n] + page, page, PROT_NONE) == 0);
	}
	for (unsigned round = 0; round < ROUNDS; round++)
		round_run(&test);
	CHECK(!memcmp(test.drops, test.expected_drops, sizeof(test.drops)));
	for (unsigned slot = 0; slot < SLOTS; slot++) {
		test.expected[slot].last_s = 11;
		CHECK(test.expected[slot].frames &&
		      !memcmp(&test.work->counters[slot], &test.expected[slot],
			      sizeof(test.expected[slot])));
	}
	for (unsigned n = 0; n < FRAME_BATCH; n++)
		munmap(test.pages[n], 2 * page);
	rules_work_destroy(test.work);
}

int main(void)
{
	test_hits(rules_hits_portable);
	test_hits(rules_hits_choose());
	return check_result();
}
