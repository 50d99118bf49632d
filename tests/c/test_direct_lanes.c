/*
 * Direct mode as programs have it: a group of ports whose switch is played here. Who may be reached
 * by a pair lane, when, in which order; what a full, a silent and a hostile peer can do; how
 * sleepers are woken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "direct.h"
#include "fdb_view.h"

enum { PORTS = 4, RINGS = 2, FRAME = 60, TABLE = 77 };

struct port {
	struct client_map map;
	struct direct *direct;
	struct lane_producer outbox[RINGS];
	struct lane_consumer forwarder[RINGS]; /* the other side of the outboxes */
	unsigned number;
};

static struct port ports[PORTS];
static int pair_fds[PORTS][PORTS][1 + 2 * RINGS]; /* [low][high]; 0: none */
static struct fdb_view *view;
static int view_fd;
static bool dead;      /* the switch answers nothing */
static unsigned asked; /* requests */

/* --- the switch --- */

static void tell_news(unsigned number)
{
	__atomic_fetch_add(&ports[number].map.memory->news, 1, __ATOMIC_SEQ_CST);
}

static void pair_make(unsigned low, unsigned high)
{
	int *fds = pair_fds[low][high];

	fds[0] = client_memory_make("pair", RINGS, RINGS, LANE_BYTES_MIN, LANE_BYTES_MIN);
	CHECK(fds[0] > 0 && client_bells_make(RINGS, &fds[1], &fds[1 + RINGS]) == 0);
}

static void pair_end(unsigned low, unsigned high)
{
	for (unsigned i = 0; i < 1 + 2 * RINGS; i++)
		close(pair_fds[low][high][i]);
	memset(pair_fds[low][high], 0, sizeof(pair_fds[low][high]));
	tell_news(low);
	tell_news(high);
}

static void pair_give(unsigned to, unsigned other, struct client_answer *answer, int *fds,
		      unsigned *count)
{
	const int *all = pair_fds[to < other ? to : other][to < other ? other : to];

	answer->index = other;
	answer->side = to > other;
	fds[0] = dup(all[0]);
	for (unsigned i = 0; i < RINGS; i++)
		fds[1 + i] = dup(all[1 + i + (to > other ? 0 : RINGS)]);
	*count = 1 + RINGS;
}

static bool paired(unsigned a, unsigned b)
{
	return a != b && pair_fds[a < b ? a : b][a < b ? b : a][0];
}

static int ask(void *context, struct client_request *request, struct client_answer *answer,
	       int fds[CLIENT_FDS], unsigned *count)
{
	unsigned me = ((struct port *)context)->number, other = request->index;

	asked++;
	*count = 0;
	memset(answer, 0, sizeof(*answer));
	if (dead)
		return -EAGAIN;
	switch (request->type) {
	case CLIENT_FDB:
		answer->index = me;
		answer->fdb_number = TABLE;
		fds[0] = dup(view_fd);
		*count = 1;
		return 0;
	case CLIENT_PEER:
		if (other >= PORTS || other == me)
			return -ENXIO;
		if (!paired(me, other)) {
			pair_make(me < other ? me : other, me < other ? other : me);
			tell_news(other);
		}
		pair_give(me, other, answer, fds, count);
		return 0;
	case CLIENT_NEWS:
		while (other < PORTS && !paired(me, other))
			other++;
		if (other == PORTS)
			return -ENOENT;
		pair_give(me, other, answer, fds, count);
		answer->more = 1;
		return 0;
	default:
		return -EINVAL;
	}
}

/* --- the group --- */

static void mac(uint8_t to[6], unsigned port)
{
	memcpy(to, (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)port}, 6);
}

static void learn(unsigned port)
{
	uint8_t address[6];

	mac(address, port);
	fdb_view_put(view, fdb_view_key(address), (uint16_t)port);
}

static void port_open(unsigned number)
{
	struct port *port = &ports[number];
	struct direct_home home = {.map = &port->map, .ask = ask, .context = port};
	int fd = client_memory_make("port", RINGS, RINGS, LANE_BYTES_MIN, LANE_BYTES_MIN);

	port->number = number;
	CHECK(fd >= 0 && client_map_open(fd, &port->map) == 0);
	close(fd);
	for (unsigned r = 0; r < RINGS; r++) {
		client_outbox_producer(&port->map, r, &port->outbox[r]);
		client_outbox_consumer(&port->map, r, &port->forwarder[r]);
	}
	port->map.memory->direct = TABLE;
	port->direct = direct_open(&home);
	CHECK(port->direct != NULL);
}

static void group_open(void)
{
	dead = false;
	CHECK(fdb_view_open(64, &view, &view_fd) == 0);
	for (unsigned i = 0; i < PORTS; i++)
		port_open(i);
}

static void group_close(void)
{
	for (unsigned i = 0; i < PORTS; i++) {
		direct_close(ports[i].direct);
		client_map_close(&ports[i].map);
		for (unsigned j = i + 1; j < PORTS; j++) {
			for (unsigned k = 0; paired(i, j) && k < 1 + 2 * RINGS; k++)
				close(pair_fds[i][j][k]);
			memset(pair_fds[i][j], 0, sizeof(pair_fds[i][j]));
		}
	}
	fdb_view_close(view);
	close(view_fd);
}

/*
 * One sync of a tx ring: frames numbered first, first + 1 ..., to a port (PORTS: broadcast). How
 * many went by pair lanes; *full: of those that would have, how many found no room.
 */
static unsigned send_some(unsigned from, unsigned ring, unsigned to, uint32_t first, unsigned count,
			  unsigned *full)
{
	struct port *port = &ports[from];
	struct lane_producer *outbox = &port->outbox[ring];
	struct direct_tx *tx = direct_begin(port->direct, ring, outbox, -1);
	unsigned direct = 0, lost = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint8_t frame[FRAME] = {0}, *at;
		uint32_t number = first + i;
		struct lane_producer *lane = NULL;

		mac(frame, to);
		if (to == PORTS)
			memset(frame, 0xff, 6);
		mac(frame + 6, from);
		memcpy(frame + 14, &number, sizeof(number));
		if (tx)
			lane = direct_route(tx, frame, true);
		direct += lane != NULL;
		at = lane_reserve(lane ? lane : outbox, FRAME);
		if (at) {
			memcpy(at, frame, FRAME);
			lane_add(lane ? lane : outbox, FRAME, 0);
		} else if (lane) {
			lane_full(lane);
			lost++;
		}
	}
	lane_publish(outbox);
	if (tx)
		direct_end(tx);
	if (full)
		*full = lost;
	return direct;
}

/* The forwarder has taken everything out of an outbox. */
static unsigned forward(unsigned from, unsigned ring)
{
	struct lane_consumer *c = &ports[from].forwarder[ring];
	struct lane_frame frame;
	unsigned count = 0;

	while (lane_ready(c)) {
		while (lane_next(c, &frame))
			count++;
		lane_release(c);
	}
	return count;
}

/* One sync of an rx ring's pair lanes; checks that each sender's numbers go on from next[]. */
static unsigned receive(unsigned at, unsigned ring, uint32_t next[PORTS])
{
	struct direct_rx *rx = direct_rx_begin(ports[at].direct, ring);
	struct lane_consumer *lane;
	struct lane_frame frame;
	unsigned count = 0;

	while (rx && (lane = direct_rx_lane(rx))) {
		while (lane_next(lane, &frame)) {
			uint32_t number;
			unsigned from = frame.data[11];

			memcpy(&number, frame.data + 14, sizeof(number));
			if (next && CHECK(from < PORTS))
				CHECK(number == next[from]++);
			count++;
		}
	}
	if (rx)
		direct_rx_end(rx);
	return count;
}

/* Learned, paired, and the first frames through. */
static void acquaint(unsigned a, unsigned b)
{
	learn(a);
	learn(b);
	send_some(a, 0, b, 0, 1, NULL); /* by the outbox, and asks for the pair */
	forward(a, 0);
	CHECK(send_some(a, 0, b, 0, 1, NULL) == 1);
	CHECK(receive(b, 0, NULL) == 1);
}

static void test_who_goes_by_pairs(void)
{
	uint32_t next[PORTS] = {0};

	group_open();
	CHECK(send_some(0, 0, 1, 0, 4, NULL) == 0); /* nobody is known */
	learn(1);
	CHECK(send_some(0, 0, 1, 0, 4, NULL) == 0); /* nor is the sender */
	learn(0);
	CHECK(forward(0, 0) == 8);
	CHECK(paired(0, 1)); /* it was asked for, not used */
	CHECK(send_some(0, 0, 1, 0, 100, NULL) == 100);
	CHECK(receive(1, 0, next) == 100 && next[0] == 100);
	CHECK(receive(1, 1, next) == 0);
	CHECK(send_some(0, 0, PORTS, 0, 3, NULL) == 0 && forward(0, 0) == 3); /* broadcast */
	CHECK(send_some(0, 0, 0, 0, 3, NULL) == 0 && forward(0, 0) == 3);     /* itself */
	CHECK(send_some(0, 0, 9, 0, 3, NULL) == 0 && forward(0, 0) == 3);     /* nobody */
	/* the other way, by another ring, each with lanes of its own */
	CHECK(send_some(1, 1, 0, 0, 10, NULL) == 10);
	CHECK(receive(0, 0, NULL) == 0 && receive(0, 1, NULL) == 10);
	/* the station moves away: at the next sync nothing goes there any more */
	fdb_view_put(view, fdb_view_key((uint8_t[]){2, 0, 0, 0, 0, 1}), 3);
	CHECK(send_some(0, 0, 1, 0, 1, NULL) == 0);
	fdb_view_drop(view, fdb_view_key((uint8_t[]){2, 0, 0, 0, 0, 1}));
	CHECK(send_some(0, 0, 1, 0, 1, NULL) == 0);
	group_close();
}

/* A flow leaves the outbox for a pair lane only when nothing of it is in there. */
static void test_order(void)
{
	uint32_t next[PORTS] = {0};

	group_open();
	acquaint(0, 1);
	fdb_view_drop(view, fdb_view_key((uint8_t[]){2, 0, 0, 0, 0, 1}));
	CHECK(send_some(0, 0, 1, 0, 5, NULL) == 0);
	learn(1);
	CHECK(send_some(0, 0, 1, 5, 5, NULL) == 0); /* the forwarder does not move */
	CHECK(forward(0, 0) == 10);
	next[0] = 10;
	CHECK(send_some(0, 0, 1, 10, 5, NULL) == 5);
	CHECK(receive(1, 0, next) == 5);
	group_close();
}

static void test_suspension(void)
{
	group_open();
	acquaint(0, 1);
	ports[0].map.memory->direct = 0;
	CHECK(send_some(0, 0, 1, 0, 5, NULL) == 0 && forward(0, 0) == 5);
	ports[0].map.memory->direct = TABLE;
	CHECK(send_some(0, 0, 1, 0, 5, NULL) == 5);
	CHECK(receive(1, 0, NULL) == 5);
	/* within a sync: what was not asked for yet */
	{
		struct lane_producer *outbox = &ports[0].outbox[0];
		struct direct_tx *tx = direct_begin(ports[0].direct, 0, outbox, -1);
		uint8_t frame[FRAME] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0};
		unsigned direct = 0;

		CHECK(tx != NULL);
		for (unsigned i = 0; i < 1000; i++) {
			struct lane_producer *lane = direct_route(tx, frame, true);

			if (i == 10)
				ports[0].map.memory->direct = 0;
			if (lane && lane_reserve(lane, FRAME))
				lane_add(lane, FRAME, 0);
			direct += lane != NULL;
		}
		direct_end(tx);
		CHECK(direct > 10 && direct <= DIRECT_PUBLISH_BYTES / FRAME + 10);
	}
	group_close();
}

/* A receiver that stands still loses what is meant for it; the others go on. */
static void test_full(void)
{
	unsigned full;
	uint32_t next[PORTS] = {0};
	const struct lane *lane;
	struct client_map map;

	group_open();
	acquaint(0, 1);
	acquaint(0, 2);
	CHECK(send_some(0, 0, 1, 0, 10000, &full) == 10000 && full > 5000);
	CHECK(client_map_open(pair_fds[0][1][0], &map) == 0);
	lane = &map.memory->outbox[0];
	CHECK(lane->full == full && lane->frames == 10001 - full);
	CHECK(send_some(0, 0, 2, 0, 1000, &full) == 1000 && full == 0);
	CHECK(receive(2, 0, next) == 1000);
	CHECK(receive(1, 0, NULL) == lane->frames - 1);
	client_map_close(&map);
	group_close();
}

/* A switch that is gone: what is known goes on, what is not waits for the next one. */
static void test_switch_gone(void)
{
	unsigned before;

	group_open();
	acquaint(0, 1);
	learn(2);
	dead = true;
	tell_news(0);
	CHECK(send_some(0, 0, 1, 0, 50, NULL) == 50);
	CHECK(receive(1, 0, NULL) == 50);
	before = asked;
	for (unsigned i = 0; i < 100; i++)
		CHECK(send_some(0, 0, 2, 0, 1, NULL) == 0);
	CHECK(asked - before <= 1);
	group_close();
}

/* A peer goes, another program gets its number: lanes of the old pair are not used for it. */
static void test_peer_replaced(void)
{
	group_open();
	acquaint(0, 1);
	for (unsigned turn = 0; turn < 50; turn++) {
		pair_end(0, 1);
		CHECK(send_some(0, 0, 1, 0, 1, NULL) == 0);
		forward(0, 0);
		CHECK(paired(0, 1));
		CHECK(send_some(0, 0, 1, 7, 1, NULL) == 1);
		CHECK(receive(1, 0, NULL) == 1);
	}
	group_close();
}

/* What a ring remembers of a group is not taken for what it knows of another one in its place. */
static void test_group_replaced_twice(void)
{
	group_open();
	acquaint(0, 1);
	pair_end(0, 1);
	receive(0, 0, NULL);
	tell_news(0);
	receive(0, 0, NULL);
	CHECK(send_some(0, 0, 1, 0, 1, NULL) == 0);
	CHECK(forward(0, 0) == 1);
	group_close();
}

/* A peer that writes anything into the pair: nothing happens but to its own frames. */
static void test_hostile_peer(void)
{
	uint64_t state = 11;
	struct client_map map;
	uint32_t next[PORTS] = {0};
	unsigned nonsense = 0;

	group_open();
	acquaint(0, 1);
	acquaint(0, 2);
	CHECK(client_map_open(pair_fds[0][1][0], &map) == 0);
	for (unsigned turn = 0; turn < 20000; turn++) {
		for (unsigned n = random_below(&state, 6); n; n--) {
			uint64_t *lanes = (uint64_t *)(void *)map.memory->outbox;
			size_t words = (sizeof(map.memory->outbox) + sizeof(map.memory->inbox)) / 8;
			size_t at = random_below(&state, (uint32_t)words);

			if (random_below(&state, 2)) /* lanes in use */
				at = random_below(&state, 2 * sizeof(struct lane) / 8);
			lanes[at] = random_next(&state) >> random_below(&state, 64);
			*(uint64_t *)(void *)(client_inbox(&map, 0) +
					      8ul * random_below(&state, LANE_BYTES_MIN / 8)) =
			    random_next(&state) >> random_below(&state, 64);
		}
		send_some(0, 0, 1, turn, 3, NULL);
		if (turn % 10 == 0)
			send_some(1, 0, 0, turn, 3, NULL);
		nonsense += receive(0, 0, NULL);
		CHECK(send_some(0, 0, 2, turn, 1, NULL) == 1);
		CHECK(receive(2, 0, next) == 1);
		if (turn % 100 == 0) {
			struct pollfd fd;

			direct_asleep(ports[0].direct, 0, RINGS, &fd);
			direct_awake(ports[0].direct);
		}
	}
	CHECK(next[0] == 20000);
	CHECK(nonsense > 0);
	client_map_close(&map);
	group_close();
}

static void test_sleep(void)
{
	struct pollfd fd;

	group_open();
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == 0);
	acquaint(0, 1);
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == 1);
	CHECK(poll(&fd, 1, 0) == 0);
	send_some(0, 1, 1, 0, 1, NULL);
	CHECK(poll(&fd, 1, 1000) == 1);
	direct_awake(ports[1].direct);
	CHECK(poll(&fd, 1, 0) == 0);
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == -1);
	CHECK(receive(1, 1, NULL) == 1);
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == 1);
	/* somebody opens a pair: to be asked for */
	tell_news(1);
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == -1);
	CHECK(receive(1, 0, NULL) == 0);
	CHECK(direct_asleep(ports[1].direct, 0, RINGS, &fd) == 1);
	/* a peer that shuts its bell is not waited for in a loop */
	CHECK(shutdown(pair_fds[0][1][1 + RINGS], SHUT_RDWR) == 0);
	CHECK(poll(&fd, 1, 0) == 1);
	direct_awake(ports[1].direct);
	CHECK(poll(&fd, 1, 0) == 0);
	group_close();
}

int main(void)
{
	test_who_goes_by_pairs();
	test_order();
	test_suspension();
	test_full();
	test_switch_gone();
	test_peer_replaced();
	test_group_replaced_twice();
	test_hostile_peer();
	test_sleep();
	return check_result();
}
