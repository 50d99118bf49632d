/* The netmap client library against a switch of the tests' own: registration and frames. */
#include "netmap_program.h"

#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include "../support/netmap_switch.h"
#include "client_wire.h"
#include "ring.h"

static const uint8_t frame_60[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, 1};

static void test_layout(void)
{
	struct program p;
	struct netmap_ring *tx, *rx;

	CHECK(program_open(&p, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(p.reg.nr_memsize == 42369024);
	CHECK(p.reg.nr_tx_rings == 1 && p.reg.nr_rx_rings == 1 && p.reg.nr_tx_slots == 1024);
	CHECK(p.reg.nr_host_tx_rings == 0 && p.reg.nr_mem_id >= 2);
	CHECK(strcmp(p.nifp->ni_name, "vale0:a") == 0);
	CHECK(p.nifp->ni_host_tx_rings == 1 && p.nifp->ni_host_rx_rings == 1);
	CHECK(p.nifp->ring_ofs[1] == 0 && p.nifp->ring_ofs[3] == 0);
	CHECK(p.nifp->ni_flags & NI_PRIV_MEM);
	tx = program_tx(&p, 0);
	rx = program_rx(&p, 0);
	CHECK(tx->dir == 1 && rx->dir == 0 && tx->num_slots == 1024 && rx->nr_buf_size == 2048);
	CHECK(tx->head == 0 && tx->tail == 1023 && rx->head == 0 && rx->tail == 0);
	CHECK(rx->slot[0].buf_idx == 2 && tx->slot[0].buf_idx == 2 + 1024);
	program_close(&p);
}

static void test_frames(void)
{
	struct program a, b;
	struct netmap_slot *slot;
	unsigned received = 0;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	for (unsigned i = 0; i < 3000;) {
		for (unsigned n = 0; n < 100; n++) {
			uint8_t frame[60];

			memcpy(frame, frame_60, sizeof(frame));
			memcpy(frame + 20, &i, sizeof(i));
			if (program_put(program_tx(&a, 0), frame, sizeof(frame), 0))
				i++;
		}
		CHECK(program_sync(&a, NIOCTXSYNC) == 0);
		while (received < i && CHECK(program_poll(&b, POLLIN, 2000) == POLLIN))
			while ((slot = program_get(program_rx(&b, 0)))) {
				uint32_t number;

				memcpy(&number, ring_buffer(program_rx(&b, 0), slot->buf_idx) + 20,
				       sizeof(number));
				CHECK(slot->len == 60 && slot->flags == 256 && number == received);
				received++;
			}
	}
	CHECK(program_poll(&a, POLLIN, 0) == 0);
	program_close(&a);
	program_close(&b);
}

/* How often this thread has gone to sleep. */
static long sleeps_so_far(void)
{
	struct rusage used;

	getrusage(RUSAGE_THREAD, &used);
	return used.ru_nvcsw;
}

/* Syncs so often that find nothing: did one sleep? */
static bool looks_sleep(struct program *p, unsigned looks)
{
	long before = sleeps_so_far();

	while (looks--)
		CHECK(program_sync(p, NIOCRXSYNC) == 0);
	return sleeps_so_far() != before;
}

/* Who looks in a loop gives its processor away, if that is the only one and nothing comes. */
static void test_looking(void)
{
	enum { LOOKS = 255 };
	const struct timespec while_remembered = {.tv_nsec = 50000000};
	struct program a, b;
	cpu_set_t all, one;

	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
	CPU_ZERO(&one);
	CPU_SET((unsigned)sched_getcpu(), &one);
	CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
	nanosleep(&while_remembered, NULL);
	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	CHECK(program_put(program_tx(&a, 0), frame_60, sizeof(frame_60), 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(!looks_sleep(&a, LOOKS) && looks_sleep(&a, 1));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0 && looks_sleep(&a, 1)); /* nothing to send */
	CHECK(program_put(program_tx(&b, 0), frame_60, sizeof(frame_60), 0));
	CHECK(program_sync(&b, NIOCTXSYNC) == 0);
	for (unsigned i = 0; i < 1000000 && !program_get(program_rx(&a, 0)); i++)
		CHECK(program_sync(&a, NIOCRXSYNC) == 0);
	CHECK(!looks_sleep(&a, LOOKS) && looks_sleep(&a, 1));
	program_close(&a);
	program_close(&b);
	CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
}

int main(void)
{
	struct netmap_switch *sw = netmap_switch_start();

	test_layout();
	test_frames();
	test_looking();
	netmap_switch_stop(sw);
	return check_result();
}
