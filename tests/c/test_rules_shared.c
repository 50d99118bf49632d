/*
 * Frames whose bytes somebody else goes on writing while rules look at them: whatever was decided
 * for them meanwhile, the flow cache keeps nothing that the rules do not say.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "classify.h"
#include "rules_tables.h"
#include "rules_work.h"

enum { PORTS = 2, FRAME_BYTES = 64, PORT_AT = 37, FORBIDDEN = 80, ALLOWED = 81 };
enum { ROUNDS = 1000, BATCHES = 10 };

/* The frames' bytes twice: as the worker has them, and as a program does that shares them. */
struct shared {
	uint8_t *mine;
	uint8_t *theirs;
	pthread_t writer;
	_Atomic bool writing; /* wanted */
	_Atomic bool written; /* is */
	_Atomic bool over;
};

static void ports_write(uint8_t *bytes, uint8_t port)
{
	for (unsigned n = 0; n < FRAME_BATCH; n++)
		*(volatile uint8_t *)&bytes[n * FRAME_BYTES + PORT_AT] = port;
}

static void *writer_main(void *arg)
{
	struct shared *shared = arg;

	while (!atomic_load(&shared->over)) {
		bool writing = atomic_load(&shared->writing);

		if (writing) {
			ports_write(shared->theirs, FORBIDDEN);
			ports_write(shared->theirs, ALLOWED);
		}
		atomic_store(&shared->written, writing);
	}
	return NULL;
}

static void writer_set(struct shared *shared, bool writing)
{
	atomic_store(&shared->writing, writing);
	while (atomic_load(&shared->written) != writing)
		usleep(10);
}

static bool shared_open(struct shared *shared)
{
	size_t bytes = (size_t)FRAME_BATCH * FRAME_BYTES;
	int fd = memfd_create("frames", MFD_CLOEXEC);

	if (!CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0))
		return false;
	shared->mine = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	shared->theirs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (!CHECK(shared->mine != MAP_FAILED && shared->theirs != MAP_FAILED))
		return false;
	for (unsigned n = 0; n < FRAME_BATCH; n++) {
		uint8_t *at = &shared->mine[n * FRAME_BYTES];

		at[12] = 0x08;
		at[14] = 0x45;
		at[17] = FRAME_BYTES - 14;
		at[23] = 6;
		at[29] = (uint8_t)n; /* flows of their own */
		at[46] = 0x50;
	}
	return CHECK(pthread_create(&shared->writer, NULL, writer_main, shared) == 0);
}

/* --- a switch with one rule --------------------------------------------------------------------
 */

struct ruled {
	struct classifier *classifier;
	struct rules_tables tables;
	struct rules_work *work;
	struct bridge bridges[1];
	struct bridge_port ports[PORTS];
	struct bridge_tables bridge_tables;
	struct port_counters cells[PORTS];
	struct frame batch[FRAME_BATCH];
};

static struct classifier *one_rule(void)
{
	struct rule_match matches[] = {
	    {.l4_src_hi = UINT16_MAX,
	     .l4_dst_lo = FORBIDDEN,
	     .l4_dst_hi = FORBIDDEN,
	     .value = {.l4_dst = FORBIDDEN, .layers = FLOW_PORTS},
	     .mask = {.l4_dst = UINT16_MAX, .layers = FLOW_PORTS}},
	    /* an address of none of them, so that each is a flow of its own */
	    {.l4_src_hi = UINT16_MAX,
	     .l4_dst_hi = UINT16_MAX,
	     .value = {.ip_src[15] = FRAME_BATCH},
	     .mask = {.ip_src[15] = UINT8_MAX}},
	};
	struct rule_config rule = {
	    .id = "no", .action.type = RULE_DROP, .match_count = 2, .matches = matches};
	struct classifier *none = classifier_empty(), *made = NULL;
	struct error err;

	CHECK(none && !classifier_update(none, NULL, 0, &rule, 1, &made, &err));
	classifier_free(none);
	return made;
}

static bool ruled_open(struct ruled *ruled)
{
	static const struct rules_set_config set = {0};
	static const struct rules_attach_config attach = {.port = RULE_NONE};
	static uint32_t none[1];
	struct rules_config config = {
	    .sets = &set, .set_count = 1, .attaches = &attach, .attach_count = 1};
	const struct classifier *classifier = ruled->classifier = one_rule();
	struct rules_refs refs = {.jumps = none, .policers = none};
	struct rules_source source = {.generation = 1,
				      .ports_max = PORTS,
				      .bridges_max = 1,
				      .sets_max = 1,
				      .ports = ruled->ports,
				      .classifiers = &classifier,
				      .refs = &refs};
	struct error err;

	ruled->ports[0].present = ruled->ports[0].admin_up = true;
	ruled->bridge_tables = (struct bridge_tables){
	    .bridges = ruled->bridges, .ports = ruled->ports, .ports_max = PORTS};
	ruled->work = rules_work_create(PORTS, 1, 3);
	if (!CHECK(classifier && ruled->work && ruled->work->cache &&
		   !rules_tables_build(&config, &source, &ruled->tables, &err)))
		return false;
	ruled->work->cells = ruled->cells;
	return true;
}

/* The bits of the frames that go on. */
static uint64_t enter(struct ruled *ruled, uint8_t *bytes)
{
	uint64_t edited;

	for (unsigned n = 0; n < FRAME_BATCH; n++)
		ruled->batch[n] = (struct frame){
		    .data = bytes + n * FRAME_BYTES, .len = FRAME_BYTES, .frame_len = FRAME_BYTES};
	rules_begin(ruled->work, &ruled->tables, &ruled->bridge_tables, 1, 0, ruled->batch,
		    FRAME_BATCH);
	return rules_ingress(ruled->work, ruled->tables.ingress[0], ruled->batch,
			     bits_below(FRAME_BATCH), &edited);
}

static void test_written_meanwhile(struct ruled *ruled, struct shared *shared)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		ruled->tables.generation++; /* nothing is known */
		writer_set(shared, true);
		for (unsigned n = 0; n < BATCHES; n++)
			enter(ruled, shared->mine);
		writer_set(shared, false);
		ports_write(shared->mine, FORBIDDEN);
		CHECK(enter(ruled, shared->mine) == 0);
		ports_write(shared->mine, ALLOWED);
		CHECK(enter(ruled, shared->mine) == bits_below(FRAME_BATCH));
	}
}

int main(void)
{
	static struct ruled ruled;
	static struct shared shared;

	if (!ruled_open(&ruled) || !shared_open(&shared))
		return check_result();
	test_written_meanwhile(&ruled, &shared);
	atomic_store(&shared.over, true);
	pthread_join(shared.writer, NULL);
	munmap(shared.mine, (size_t)FRAME_BATCH * FRAME_BYTES);
	munmap(shared.theirs, (size_t)FRAME_BATCH * FRAME_BYTES);
	rules_tables_free(&ruled.tables);
	rules_work_destroy(ruled.work);
	classifier_free(ruled.classifier);
	return check_result();
}
