/*
 * A netmap program in direct mode whose switch and whose peers mean no good: every load of a lane's
 * index or record, of what the switch tells, of a slot asks fuzz_shared, which gives what is there
 * or the input's next bytes; answers of the switch bring other numbers and other files; the table
 * of addresses holds anything. Built with FUZZ_SHARED.
 *
 * Input: one byte an operation (the program's syncs and sleeps, what forwarder, peers and switch
 * do, time), what they need and the bytes of shared memory in between. A group of four ports is
 * made once, and again after a run in which the program asked the switch for something; the source
 * of direct.c is part of this one so that its state can be made as new, and its clock is ours.
 * Beyond memory safety it checks that
 *
 *   - every sync and every wait comes to its end
 *   - rings and slots are what a program may be shown, whatever the lanes hold
 *   - a sender's lanes lie in memories that it shares, and no lane stays open behind a sync
 */
#define clock_gettime fuzz_clock_gettime
#define clock_nanosleep fuzz_clock_nanosleep
#include "../../fastpath/client/direct.c"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "../../fastpath/client/core.h"

enum {
	RINGS = 2,
	SLOTS = 16,
	BUFFERS = 10, /* so few that whoever writes past one soon writes past all */
	BUFFER_BYTES = 2048,
	PORTS = 4,
	OWN = 1, /* one peer has a lower number, the others higher ones */
	TABLE = 77,
	ASKS_MAX = 12, /* of a run: they cost more than all the rest */
	OPERATIONS_MAX = 300,
	NAP_MS = 40,
	FILES = 8
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t left;
static bool hostile;
static unsigned asked;
static uint64_t clock_ns = 1000000000;

static uint8_t next_byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

static uint64_t next_bytes(size_t bytes)
{
	uint64_t value = 0;

	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)&value)[i] = next_byte();
	return value;
}

int fuzz_clock_gettime(clockid_t id, struct timespec *now)
{
	(void)id;
	clock_ns += 100;
	*now = (struct timespec){.tv_sec = (time_t)(clock_ns / 1000000000),
				 .tv_nsec = (long)(clock_ns % 1000000000)};
	return 0;
}

int fuzz_clock_nanosleep(clockid_t id, int flags, const struct timespec *nap, struct timespec *rest)
{
	(void)id, (void)flags, (void)rest;
	clock_ns += (uint64_t)nap->tv_nsec;
	return 0;
}

/* --- the group, made once ----------------------------------------------------------------------
 */

struct peer {
	struct client_map map;
	int fds[1 + 2 * RINGS]; /* of the pair, as client_memory.h orders them */
	bool high;		/* its number is higher than ours: side 1 */
	struct lane_producer out[RINGS];
	struct lane_consumer in[RINGS];
};

static struct client_map home;
static int home_bell[2]; /* all rings' */
static struct lane_consumer outbox[RINGS];
static struct lane_producer inbox[RINGS];
static struct peer peers[PORTS];
static struct fdb_view *view;
static int view_fd;
static int files[FILES]; /* that a switch could send instead */
static struct binding binding;
static struct kring krings[RING_SIDES][RINGS];

static bool in_home_words(const volatile void *address)
{
	const volatile uint8_t *at = address, *begin = (const uint8_t *)home.memory;

	return at >= begin && at < begin + offsetof(struct client_memory, tx);
}

/* What the switch tells is looked at in every sync, and what follows from it is dear. */
uint64_t fuzz_shared(const volatile void *address, size_t bytes)
{
	uint64_t value = 0;
	uint8_t kind;

	memcpy(&value, (const void *)address, bytes);
	if (!hostile || !left)
		return value;
	kind = next_byte();
	if (kind < 128 || (in_home_words(address) && (kind < 255 || next_byte() < 224)))
		return value;
	if (kind < 192) /* near what is there */
		return value + (uint64_t)(8 * (kind - 160));
	return next_bytes(bytes);
}

static int ask(void *context, struct client_request *request, struct client_answer *answer,
	       int fds[CLIENT_FDS], unsigned *count);

static int memory_of(uint32_t rings)
{
	int fd = client_memory_make("fuzz", rings, rings, LANE_BYTES_MIN, LANE_BYTES_MIN);

	assert(fd >= 0);
	return fd;
}

static void ring_make(enum ring_side side, unsigned r)
{
	struct ring_view *ring = &binding.views[side][r];
	struct netmap_ring *memory =
	    calloc(1, sizeof(*memory) + SLOTS * sizeof(struct netmap_slot));

	assert(memory);
	*ring = (struct ring_view){
	    .ring = memory,
	    .kring = &krings[side][r],
	    .num_slots = SLOTS,
	    .lane = side == RING_TX ? &home.memory->outbox[r] : &home.memory->inbox[r],
	    .data = side == RING_TX ? client_outbox(&home, r) : client_inbox(&home, r),
	    .lane_bytes = LANE_BYTES_MIN,
	    .bell = home_bell[0],
	    .stats = side == RING_TX ? &home.memory->tx[r] : &home.memory->rx[r]};
	region_lock_make(&ring->kring->lock);
}

/* A memory without seals, a short one, one of another shape, and what is none. */
static void files_make(void)
{
	struct fdb_view *other;
	int ends[2];

	files[0] = memory_of(1);
	files[1] = memfd_create("fuzz", 0);
	files[2] = memfd_create("fuzz", MFD_ALLOW_SEALING);
	assert(ftruncate(files[2], FDB_VIEW_HEADER_BYTES + 4096) == 0);
	assert(pipe(ends) == 0);
	files[3] = ends[0];
	assert(fdb_view_open(1000, &other, &files[4]) == 0);
	files[5] = view_fd;
	files[6] = peers[0].fds[0];
	files[7] = home_bell[1];
}

static void make_once(void)
{
	int fd = memory_of(RINGS);

	assert(client_map_open(fd, &home) == 0);
	close(fd);
	assert(client_bells_make(1, &home_bell[0], &home_bell[1]) == 0);
	assert(fdb_view_open(16, &view, &view_fd) == 0);
	for (unsigned i = 0; i < PORTS; i++) {
		struct peer *peer = &peers[i];

		if (i == OWN)
			continue;
		peer->high = i > OWN;
		peer->fds[0] = memory_of(RINGS);
		assert(client_map_open(peer->fds[0], &peer->map) == 0);
		assert(client_bells_make(RINGS, &peer->fds[1], &peer->fds[1 + RINGS]) == 0);
	}
	files_make();
	binding.link.map = home;
	binding.region = (struct region){.base = malloc(BUFFERS * BUFFER_BYTES),
					 .buffers = BUFFERS,
					 .buffer_bytes = BUFFER_BYTES};
	assert(binding.region.base);
	memset(binding.region.base, 0, BUFFERS * BUFFER_BYTES);
	for (unsigned r = 0; r < RINGS; r++) {
		ring_make(RING_TX, r);
		ring_make(RING_RX, r);
	}
}

/* --- as new -------------------------------------------------------------------------------------
 */

static void mac(uint8_t to[6], uint8_t number)
{
	memcpy(to, (uint8_t[]){2, 0, 0, 0, 0, number}, 6);
	if (number == 0xff)
		memset(to, 0xff, 6);
}

static void learn(uint8_t station, uint16_t port)
{
	uint8_t address[6];

	mac(address, station);
	fdb_view_put(view, fdb_view_key(address), port);
}

static void lanes_clear(struct client_memory *memory)
{
	memset(memory->outbox, 0, sizeof(memory->outbox));
	memset(memory->inbox, 0, sizeof(memory->inbox));
}

static void ring_renew(enum ring_side side, unsigned r)
{
	struct ring_view *ring = &binding.views[side][r];
	struct kring *kring = ring->kring;

	for (unsigned i = 0; i < SLOTS; i++)
		ring->ring->slot[i] = (struct netmap_slot){.buf_idx = 2 + i % (BUFFERS - 2)};
	kring->num_slots = SLOTS;
	kring->hwcur = 0;
	kring->hwtail = side == RING_TX ? SLOTS - 1 : 0;
	kring->offset_mask = kring->offset_max = 0;
	kring->pending = 0;
	ring->ring->head = ring->ring->cur = 0;
	ring->ring->tail = kring->hwtail;
	if (side == RING_TX) {
		client_outbox_producer(&home, r, &kring->out);
		client_outbox_consumer(&home, r, &outbox[r]);
	} else {
		client_inbox_consumer(&home, r, &kring->in);
		client_inbox_producer(&home, r, &inbox[r]);
	}
}

static void peer_renew(struct peer *peer)
{
	lanes_clear(peer->map.memory);
	for (unsigned r = 0; r < RINGS; r++) {
		if (peer->high) {
			client_outbox_consumer(&peer->map, r, &peer->in[r]);
			client_inbox_producer(&peer->map, r, &peer->out[r]);
		} else {
			client_inbox_consumer(&peer->map, r, &peer->in[r]);
			client_outbox_producer(&peer->map, r, &peer->out[r]);
		}
	}
}

/* A direct that knows the group, by honest answers. */
static void direct_make(void)
{
	const struct direct_home at = {.map = &home, .ask = ask};

	direct_close(binding.direct);
	binding.direct = direct_open(&at);
	assert(binding.direct);
	direct_learn(binding.direct);
	assert(atomic_load(&binding.direct->set)->view);
}

static void direct_renew(struct direct *direct)
{
	direct->retry_ms = 0;
	atomic_store(&direct->news, home.memory->news);
	for (unsigned r = 0; r < RINGS; r++) {
		direct->tx[r].routed = 0;
		direct->tx[r].patience_ns = 0;
		direct->rx[r].turn = 0;
		for (unsigned i = 0; i < DIRECT_PEERS_MAX && i < PORTS; i++)
			direct->out[r][i].open = false;
	}
}

static void renew(void)
{
	lanes_clear(home.memory);
	home.memory->direct = TABLE;
	home.memory->news = 0;
	home.memory->hdr_len = 0;
	fdb_view_clear(view);
	for (uint8_t i = 0; i < PORTS; i++) {
		learn(i, i);
		if (i != OWN)
			peer_renew(&peers[i]);
	}
	for (unsigned r = 0; r < RINGS; r++) {
		ring_renew(RING_TX, r);
		ring_renew(RING_RX, r);
	}
	if (asked || !binding.direct)
		direct_make();
	direct_renew(binding.direct);
	asked = 0;
}

/* --- the switch ---------------------------------------------------------------------------------
 */

static void pair_give(unsigned port, struct client_answer *answer, int *fds, unsigned *count)
{
	const struct peer *peer = &peers[port];

	answer->index = port;
	answer->side = !peer->high;
	fds[0] = dup(peer->fds[0]);
	for (unsigned i = 0; i < RINGS; i++)
		fds[1 + i] = dup(peer->fds[1 + i + (peer->high ? RINGS : 0)]);
	*count = 1 + RINGS;
}

static int answer_well(const struct client_request *request, struct client_answer *answer, int *fds,
		       unsigned *count)
{
	unsigned port = request->index;

	switch (request->type) {
	case CLIENT_FDB:
		answer->index = OWN;
		answer->fdb_number = TABLE;
		fds[0] = dup(view_fd);
		*count = 1;
		return 0;
	case CLIENT_NEWS:
		port += port == OWN;
		if (port >= PORTS)
			return -ENOENT;
		answer->more = 1;
		pair_give(port, answer, fds, count);
		return 0;
	default:
		if (port >= PORTS || port == OWN)
			return -ENXIO;
		pair_give(port, answer, fds, count);
		return 0;
	}
}

/* Some of it right, some of it anything. */
static void answer_badly(struct client_answer *answer, int *fds, unsigned *count)
{
	uint8_t what = next_byte();

	if (what & 1)
		answer->index = (uint32_t)next_bytes(4);
	if (what & 2)
		answer->side = next_byte() & 3;
	if (what & 4)
		answer->more = next_byte();
	if (what & 8)
		answer->fdb_number = (uint32_t)next_bytes(4);
	if (what & 16 && *count) {
		close(fds[0]);
		fds[0] = dup(files[next_byte() % FILES]);
	}
	if (what & 32) {
		while (*count > next_byte() % 4u)
			close(fds[--*count]);
	}
	if (what & 64) {
		for (unsigned n = next_byte() % 34; n && *count < CLIENT_FDS; n--)
			fds[(*count)++] = dup(files[n % FILES]);
	}
}

static int ask(void *context, struct client_request *request, struct client_answer *answer,
	       int fds[CLIENT_FDS], unsigned *count)
{
	static const int errors[] = {EAGAIN, ENXIO, ENOENT, ENOSPC, EPROTO};
	uint8_t how = hostile ? next_byte() : 0;
	int status;

	(void)context;
	memset(answer, 0, sizeof(*answer));
	*count = 0;
	if (hostile && ++asked > ASKS_MAX)
		return -EAGAIN;
	if (how >= 240)
		return -errors[how % 5];
	status = answer_well(request, answer, fds, count);
	if (how >= 128 && !status)
		answer_badly(answer, fds, count);
	return status;
}

static void switch_does(uint8_t what)
{
	uint64_t *entry;

	switch (what % 6) {
	case 0:
		learn(next_byte(), next_byte() % (2 * PORTS));
		break;
	case 1: /* no switch of ours writes that */
		entry = (uint64_t *)(void *)&view->bucket[next_byte() % view->buckets]
			    .entry[next_byte() % FDB_VIEW_WAYS];
		*entry = next_bytes(8);
		view->changes++;
		break;
	case 2:
		home.memory->news += next_byte() >> 7;
		break;
	case 3:
		home.memory->direct = what & 64 ? 0 : TABLE + (what >> 7);
		break;
	case 4:
		home.memory->hdr_len = (uint32_t[]){0, 10, 12, 7}[next_byte() % 4];
		break;
	default:
		fdb_view_clear(view);
	}
}

/* --- lanes' other sides -------------------------------------------------------------------------
 */

static bool within(const uint8_t *at, uint32_t len, const uint8_t *begin, uint32_t bytes)
{
	return at >= begin && len <= bytes && (size_t)(at - begin) <= bytes - len;
}

static void lane_write(struct lane_producer *out, unsigned count)
{
	while (count--) {
		uint32_t len = next_byte() * (count % 4 ? 1u : 257u);
		uint8_t *to = lane_reserve(out, len);

		if (!to)
			break;
		assert(within(to, len, out->data, out->bytes));
		memset(to, next_byte(), len);
		lane_add(out, len, next_byte() & 0xfe);
	}
	lane_publish(out);
}

static void lane_read(struct lane_consumer *in)
{
	struct lane_frame frame;

	while (lane_ready(in) && lane_next(in, &frame))
		assert(within(frame.data, frame.len, in->data, in->bytes));
	lane_release(in);
}

/* --- the program --------------------------------------------------------------------------------
 */

static void ring_check(const struct ring_view *ring)
{
	const struct kring *kring = ring->kring;

	assert(kring->hwcur < SLOTS && kring->hwtail < SLOTS);
	assert(ring->ring->tail == kring->hwtail);
}

static void program_writes(struct ring_view *ring, unsigned count)
{
	struct netmap_ring *memory = ring->ring;
	uint32_t at = memory->head;

	while (count-- && at != memory->tail && at < SLOTS) {
		struct netmap_slot *slot = &memory->slot[at];
		uint8_t stations = next_byte();

		mac(buffer_at(&binding.region, slot->buf_idx), stations & 7);
		mac(buffer_at(&binding.region, slot->buf_idx) + 6,
		    stations & 64 ? OWN : stations >> 3 & 7);
		slot->len = (uint16_t)(next_byte() * (count % 4 ? 1 : 9));
		slot->flags =
		    next_byte() & (NS_MOREFRAG | NS_NO_LEARN | NS_INDIRECT | NS_BUF_CHANGED);
		slot->ptr =
		    slot->flags & NS_INDIRECT ? (uintptr_t)binding.region.base : next_byte();
		at = at + 1 == SLOTS ? 0 : at + 1;
	}
	memory->head = memory->cur = at;
}

static void program_sends(unsigned r, uint8_t what)
{
	struct ring_view *ring = &binding.views[RING_TX][r];

	if (what & 128)
		ring->ring->head = what % (SLOTS + 2);
	program_writes(ring, what % SLOTS);
	txsync(&binding, ring);
	ring_check(ring);
	assert(ring->kring->out.tail - ring->kring->out.head <= LANE_BYTES_MIN);
	for (unsigned i = 0; i < PORTS; i++)
		assert(!binding.direct->out[r][i].open);
}

static void program_receives(unsigned r, uint8_t what)
{
	struct ring_view *ring = &binding.views[RING_RX][r];
	uint32_t from = ring->kring->hwtail;

	ring->ring->head = what & 128 ? what % (SLOTS + 2) : ring->ring->tail;
	ring->ring->cur = what & 64 ? ring->ring->tail : ring->ring->head;
	rxsync(&binding, ring);
	ring_check(ring);
	for (uint32_t i = from; i != ring->kring->hwtail; i = i + 1 == SLOTS ? 0 : i + 1)
		assert(ring->ring->slot[i].len <= BUFFER_BYTES);
}

static void program_sleeps(unsigned r)
{
	struct pollfd fd = {.fd = -1};
	int asleep = direct_asleep(binding.direct, r, r + 1, &fd);

	assert(asleep >= -1 && asleep <= 1 && (asleep < 1 || fd.fd >= 0));
	direct_awake(binding.direct);
}

static void offsets_set(unsigned r, uint8_t what)
{
	struct kring *kring = &krings[what & 1 ? RING_TX : RING_RX][r];

	kring->offset_mask = what & 2 ? 0xfff : 0;
	kring->offset_max = what & 4 ? BUFFER_BYTES : 256;
}

static struct peer *a_peer(void)
{
	static const uint8_t others[] = {0, 2, 3};

	return &peers[others[next_byte() % 3]];
}

static void operate(uint8_t what)
{
	unsigned r = what & 1;

	switch (what >> 1 & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		program_sends(r, next_byte());
		break;
	case 4:
	case 5:
	case 6:
		program_receives(r, next_byte());
		break;
	case 7:
		program_sleeps(r);
		break;
	case 8:
		switch_does(next_byte());
		break;
	case 9:
		lane_write(&inbox[r], 1 + next_byte() % 8);
		break;
	case 10:
	case 11:
		lane_read(&outbox[r]);
		break;
	case 12:
		lane_write(&a_peer()->out[r], 1 + next_byte() % 8);
		break;
	case 13:
		lane_read(&a_peer()->in[r]);
		break;
	case 14:
		clock_ns += next_byte() * (uint64_t)NAP_MS * 1000000;
		break;
	default:
		offsets_set(r, next_byte());
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	hostile = false;
	if (!home.memory)
		make_once();
	renew();
	input = data;
	left = size;
	hostile = true;
	for (unsigned i = 0; left && i < OPERATIONS_MAX; i++)
		operate(next_byte());
	return 0;
}
