#include "netmap_switch.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client_memory.h"
#include "client_wire.h"
#include "netmap_abi.h"

#ifdef __SANITIZE_THREAD__
/* It does not see the library's bare close(2), and takes a number that is used again for a race. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:netmap_switch.c";
}
#endif

enum { PORTS = 64, CONNECTIONS = 128, TYPES = 16, BATCH = 256, SETTLE_MS = 5000 };

struct fake_port {
	char name[CLIENT_NAME_MAX]; /* of a pipe: its master's; empty: none */
	bool pipe;
	unsigned users;
	unsigned mem_id[2]; /* a side's */
	int region[2];
	int memory, bells[2][CLIENT_RINGS_MAX]; /* by side */
	unsigned rings[2];
	uint32_t hdr_len;
	struct client_map map;
	struct lane_consumer from[CLIENT_RINGS_MAX];
	struct lane_producer to[CLIENT_RINGS_MAX];
};

struct fake_connection {
	int fd; /* -1: none */
	struct fake_port *port;
	unsigned side;
	struct client_answer answer;
};

struct netmap_switch {
	char dir[64];
	int listener;
	pthread_t thread;
	pthread_mutex_t lock;
	atomic_bool stop, paused;
	atomic_uint deaf;
	_Atomic uint16_t flags;
	unsigned tx_rings, rx_rings, numbers;
	struct client_request last[TYPES];
	struct fake_port ports[PORTS];
	struct fake_connection connections[CONNECTIONS];
};

/* --- ports --- */

static struct fake_port *port_find(struct netmap_switch *sw, const char *name)
{
	for (unsigned i = 0; i < PORTS; i++)
		if (sw->ports[i].name[0] && strcmp(sw->ports[i].name, name) == 0)
			return &sw->ports[i];
	return NULL;
}

static struct fake_port *port_make(struct netmap_switch *sw, const char *name, unsigned tx,
				   unsigned rx, bool pipe)
{
	for (unsigned i = 0; i < PORTS; i++) {
		struct fake_port *port = &sw->ports[i];

		if (port->name[0])
			continue;
		*port = (struct fake_port){.pipe = pipe, .region = {-1, -1}, .rings = {tx, rx}};
		port->memory =
		    client_memory_make("test", tx, rx, CLIENT_OUTBOX_BYTES, CLIENT_INBOX_BYTES);
		assert(port->memory >= 0);
		assert(!client_bells_make(client_bells(tx, rx), port->bells[1], port->bells[0]));
		assert(!client_map_open(port->memory, &port->map));
		for (unsigned t = 0; t < tx; t++)
			client_outbox_consumer(&port->map, t, &port->from[t]);
		for (unsigned r = 0; r < rx; r++)
			client_inbox_producer(&port->map, r, &port->to[r]);
		snprintf(port->name, sizeof(port->name), "%s", name);
		return port;
	}
	return NULL;
}

static void port_leave(struct fake_port *port)
{
	if (--port->users)
		return;
	for (unsigned i = 0; i < client_bells(port->rings[0], port->rings[1]); i++) {
		close(port->bells[0][i]);
		close(port->bells[1][i]);
	}
	for (unsigned side = 0; side < 2; side++)
		if (port->region[side] >= 0)
			close(port->region[side]);
	close(port->memory);
	client_map_close(&port->map);
	port->name[0] = 0;
}

/* --- requests --- */

struct exchange {
	struct client_request request;
	struct client_answer answer;
	int in[CLIENT_FDS], out[CLIENT_FDS];
	unsigned n_in, n_out;
};

static void give_port(struct exchange *x, const struct fake_port *port, unsigned side)
{
	x->out[x->n_out++] = port->memory;
	for (unsigned i = 0; i < client_bells(port->rings[0], port->rings[1]); i++)
		x->out[x->n_out++] = port->bells[side][i];
}

/* valeS:P, valeS:P{x, valeS:P}x: the master's name, and the side. */
static unsigned name_of(const char *name, char master[CLIENT_NAME_MAX], bool *pipe)
{
	char *brace = NULL;

	snprintf(master, CLIENT_NAME_MAX, "%s", name);
	brace = strpbrk(master, "{}");
	*pipe = brace != NULL;
	if (!brace || *brace == '{')
		return 0;
	*brace = '{';
	return 1;
}

/* Of no port. */
static int serve_null(struct netmap_switch *sw, struct exchange *x)
{
	const struct client_request *request = &x->request;

	x->answer = (struct client_answer){.session = ++sw->numbers,
					   .mode = request->mode,
					   .tx_rings = request->tx_rings,
					   .rx_rings = request->rx_rings,
					   .tx_slots = request->tx_slots,
					   .rx_slots = request->rx_slots,
					   .mem_id = request->mem_id};
	memcpy(x->answer.name, request->name, sizeof(request->name));
	return 0;
}

/* A monitor of a pipe's end: it gets the memory and no bells, and no port goes with it. */
static int serve_monitor(struct netmap_switch *sw, struct exchange *x, struct fake_port *port,
			 unsigned side)
{
	const struct client_request *request = &x->request;

	if (!port)
		return ENXIO;
	x->answer = (struct client_answer){.session = ++sw->numbers,
					   .mode = request->mode,
					   .flags = request->flags,
					   .tx_rings = 1,
					   .rx_rings = client_bells(port->rings[0], port->rings[1]),
					   .tx_slots = request->tx_slots,
					   .rx_slots = request->rx_slots,
					   .mem_id = 2 + sw->numbers,
					   .side = side};
	memcpy(x->answer.name, request->name, sizeof(request->name));
	x->out[x->n_out++] = port->memory;
	return 0;
}

static int serve_register(struct netmap_switch *sw, struct fake_connection *from,
			  struct exchange *x)
{
	struct client_request *request = &x->request;
	char master[CLIENT_NAME_MAX];
	unsigned tx = request->tx_rings ? request->tx_rings : sw->tx_rings;
	unsigned rx = request->rx_rings ? request->rx_rings : sw->rx_rings;
	bool pipe;
	unsigned side = name_of(request->name, master, &pipe);
	struct fake_port *port = port_find(sw, master);
	bool shared;

	if (request->mode == NR_REG_NULL)
		return serve_null(sw, x);
	if (strncmp(request->name, "vale", 4) != 0)
		return ENXIO;
	if (request->mode != NR_REG_ALL_NIC && request->mode != NR_REG_ONE_NIC)
		return EINVAL;
	if (pipe && request->flags & (NR_MONITOR_TX | NR_MONITOR_RX))
		return serve_monitor(sw, x, port, side);
	if (!port)
		port = port_make(sw, master, tx, rx, pipe);
	if (!port)
		return ENOMEM;
	if (port->users && request->flags & NR_EXCLUSIVE)
		return EBUSY;
	shared = port->region[side] >= 0;
	port->users++;
	if (!shared) {
		port->region[side] = dup(x->in[0]);
		port->mem_id[side] = request->mem_id ? request->mem_id : 2 + sw->numbers;
	}
	sw->numbers++;
	x->answer = (struct client_answer){.session = sw->numbers,
					   .mode = request->mode,
					   .ring_id = request->ring_id,
					   .flags = request->flags,
					   .tx_rings = port->rings[side],
					   .rx_rings = port->rings[!side],
					   .tx_slots = request->tx_slots,
					   .rx_slots = request->rx_slots,
					   .mem_id = port->mem_id[side],
					   .shared = shared,
					   .hdr_len = port->hdr_len,
					   .side = side};
	memcpy(x->answer.name, request->name, sizeof(request->name));
	if (shared)
		x->out[x->n_out++] = port->region[side];
	give_port(x, port, side);
	from->port = port;
	from->side = side;
	from->answer = x->answer;
	return 0;
}

static int serve_describe(struct fake_connection *from, struct exchange *x)
{
	if (!from->port)
		return ENXIO;
	x->answer = from->answer;
	x->out[x->n_out++] = from->port->region[from->side];
	give_port(x, from->port, from->side);
	return 0;
}

static int serve_region(struct netmap_switch *sw, struct exchange *x)
{
	for (unsigned i = 0; i < PORTS; i++)
		for (unsigned side = 0; side < 2; side++) {
			const struct fake_port *port = &sw->ports[i];

			if (!port->name[0] || port->region[side] < 0 ||
			    port->mem_id[side] != x->request.mem_id)
				continue;
			x->out[x->n_out++] = port->region[side];
			return 0;
		}
	return ENOENT;
}

static int serve_list(struct netmap_switch *sw, struct exchange *x)
{
	for (unsigned i = x->request.name[0] ? 0 : x->request.index; i < PORTS; i++) {
		if (!sw->ports[i].name[0] ||
		    (x->request.name[0] && strcmp(x->request.name, sw->ports[i].name) != 0))
			continue;
		x->answer.index = i;
		memcpy(x->answer.name, sw->ports[i].name, CLIENT_NAME_MAX);
		return 0;
	}
	x->answer.index = 255;
	return x->request.name[0] ? 0 : ENOENT;
}

static int serve_header(struct netmap_switch *sw, struct exchange *x, bool set)
{
	struct fake_port *port = port_find(sw, x->request.name);

	if (!port)
		return ENXIO;
	if (set)
		port->hdr_len = port->map.memory->hdr_len = x->request.hdr_len;
	x->answer.hdr_len = port->hdr_len;
	return 0;
}

static int serve(struct netmap_switch *sw, struct fake_connection *from, struct exchange *x)
{
	const struct fake_port *port;

	switch (x->request.type) {
	case CLIENT_REGISTER:
		return serve_register(sw, from, x);
	case CLIENT_DESCRIBE:
		return serve_describe(from, x);
	case CLIENT_REGION:
		return serve_region(sw, x);
	case CLIENT_INFO:
		port = port_find(sw, x->request.name);
		x->answer.tx_rings = port ? port->rings[0] : sw->tx_rings;
		x->answer.rx_rings = port ? port->rings[1] : sw->rx_rings;
		x->answer.mem_id = 2;
		return strncmp(x->request.name, "vale", 4) ? ENXIO : 0;
	case CLIENT_LIST:
		return serve_list(sw, x);
	case CLIENT_HDR_SET:
	case CLIENT_HDR_GET:
		return serve_header(sw, x, x->request.type == CLIENT_HDR_SET);
	case CLIENT_ALIVE:
		for (unsigned i = 0; i < CONNECTIONS; i++)
			if (sw->connections[i].fd >= 0 && sw->connections[i].port &&
			    sw->connections[i].answer.session == x->request.index)
				return 0;
		return ENXIO;
	default:
		return EOPNOTSUPP;
	}
}

/* --- the wire --- */

union fd_room {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(CLIENT_FDS * sizeof(int))];
};

static bool take_request(int fd, struct exchange *x)
{
	struct iovec data = {&x->request, sizeof(x->request)};
	union fd_room room;
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = &room,
				 .msg_controllen = sizeof(room)};

	memset(x, 0, sizeof(*x));
	if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(x->request))
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		x->n_in = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(x->in, CMSG_DATA(c), x->n_in * sizeof(int));
	}
	return true;
}

static void give_answer(int fd, struct exchange *x)
{
	struct iovec data = {&x->answer, sizeof(x->answer)};
	union fd_room room;
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

	memset(&room, 0, sizeof(room));
	if (x->n_out) {
		room.align = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
					      .cmsg_type = SCM_RIGHTS,
					      .cmsg_len = CMSG_LEN(x->n_out * sizeof(int))};
		memcpy(CMSG_DATA(&room.align), x->out, x->n_out * sizeof(int));
		message.msg_control = &room;
		message.msg_controllen = CMSG_SPACE(x->n_out * sizeof(int));
	}
	sendmsg(fd, &message, MSG_NOSIGNAL);
}

static void converse(struct netmap_switch *sw, struct fake_connection *from)
{
	struct exchange x;
	int error;

	if (!take_request(from->fd, &x)) {
		close(from->fd);
		from->fd = -1;
		if (from->port)
			port_leave(from->port);
		from->port = NULL;
		return;
	}
	if (x.request.type < TYPES)
		sw->last[x.request.type] = x.request;
	if (atomic_load(&sw->deaf)) {
		atomic_fetch_sub(&sw->deaf, 1);
	} else {
		/* asked again: answered again */
		error = from->port && x.request.type == CLIENT_REGISTER ? serve_describe(from, &x)
									: serve(sw, from, &x);
		x.answer.error = (uint32_t)error;
		x.answer.id = x.request.id;
		give_answer(from->fd, &x);
	}
	for (unsigned i = 0; i < x.n_in; i++)
		close(x.in[i]);
}

/* --- frames --- */

static void put(struct fake_port *port, const uint8_t *data, uint32_t len, uint16_t flags)
{
	struct lane_producer *out = &port->to[0];
	uint8_t *to = lane_reserve(out, len);

	if (!to) {
		lane_full(out);
		return;
	}
	memcpy(to, data, len);
	lane_add(out, len, flags);
}

static void flood(struct netmap_switch *sw, const struct fake_port *from, const uint8_t *data,
		  uint32_t len, uint16_t flags)
{
	for (unsigned i = 0; i < PORTS; i++)
		if (sw->ports[i].name[0] && !sw->ports[i].pipe && &sw->ports[i] != from)
			put(&sw->ports[i], data, len, flags);
}

static void publish(struct netmap_switch *sw)
{
	for (unsigned i = 0; i < PORTS; i++) {
		struct fake_port *port = &sw->ports[i];

		if (port->name[0] && !port->pipe && lane_publish(&port->to[0]))
			client_bell_ring(port->bells[1][0]);
	}
}

static bool forward(struct netmap_switch *sw)
{
	bool busy = false;

	for (unsigned i = 0; i < PORTS && !atomic_load(&sw->paused); i++) {
		struct fake_port *port = &sw->ports[i];

		for (unsigned t = 0; port->name[0] && !port->pipe && t < port->rings[0]; t++) {
			struct lane_frame frame;
			unsigned n = 0;

			while (n < BATCH && lane_ready(&port->from[t]) &&
			       lane_next(&port->from[t], &frame)) {
				const uint8_t *data = frame.vnet ? frame.vnet : frame.data;
				uint32_t len =
				    frame.len + (frame.vnet ? (uint32_t)LANE_VNET_BYTES : 0);

				atomic_store(&sw->flags, frame.flags);
				flood(sw, port, data, len, frame.flags & LANE_VNET);
				n++;
			}
			if (lane_release(&port->from[t]))
				client_bell_ring(port->bells[1][t]);
			busy |= n > 0;
		}
	}
	publish(sw);
	return busy;
}

/* --- the thread --- */

static void accept_one(struct netmap_switch *sw)
{
	int fd = accept(sw->listener, NULL, NULL);

	for (unsigned i = 0; i < CONNECTIONS && fd >= 0; i++)
		if (sw->connections[i].fd < 0) {
			sw->connections[i] = (struct fake_connection){.fd = fd};
			return;
		}
	if (fd >= 0)
		close(fd);
}

static void *run(void *data)
{
	struct netmap_switch *sw = data;
	bool busy = false;

	while (!atomic_load(&sw->stop)) {
		struct pollfd fds[CONNECTIONS + 1];

		pthread_mutex_lock(&sw->lock);
		for (unsigned i = 0; i < CONNECTIONS; i++)
			fds[i] = (struct pollfd){.fd = sw->connections[i].fd, .events = POLLIN};
		pthread_mutex_unlock(&sw->lock);
		fds[CONNECTIONS] = (struct pollfd){.fd = sw->listener, .events = POLLIN};
		poll(fds, CONNECTIONS + 1, busy ? 0 : 1);
		pthread_mutex_lock(&sw->lock);
		for (unsigned i = 0; i < CONNECTIONS; i++)
			if (fds[i].revents && fds[i].fd == sw->connections[i].fd)
				converse(sw, &sw->connections[i]);
		if (fds[CONNECTIONS].revents)
			accept_one(sw);
		busy = forward(sw);
		pthread_mutex_unlock(&sw->lock);
	}
	return NULL;
}

struct netmap_switch *netmap_switch_start(void)
{
	struct netmap_switch *sw = calloc(1, sizeof(*sw));
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	assert(sw);
	snprintf(sw->dir, sizeof(sw->dir), "/tmp/netmap-switch-XXXXXX");
	assert(mkdtemp(sw->dir));
	setenv("VSWITCH_RUN_DIR", sw->dir, 1);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/netmap.sock", sw->dir);
	sw->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert(!bind(sw->listener, (struct sockaddr *)&address, sizeof(address)));
	assert(!listen(sw->listener, CONNECTIONS));
	for (unsigned i = 0; i < CONNECTIONS; i++)
		sw->connections[i].fd = -1;
	sw->tx_rings = sw->rx_rings = 1;
	pthread_mutex_init(&sw->lock, NULL);
	assert(!pthread_create(&sw->thread, NULL, run, sw));
	return sw;
}

void netmap_switch_stop(struct netmap_switch *sw)
{
	char path[128];

	atomic_store(&sw->stop, true);
	pthread_join(sw->thread, NULL);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (sw->connections[i].fd < 0)
			continue;
		close(sw->connections[i].fd);
		if (sw->connections[i].port)
			port_leave(sw->connections[i].port);
	}
	close(sw->listener);
	snprintf(path, sizeof(path), "%s/netmap.sock", sw->dir);
	unlink(path);
	rmdir(sw->dir);
	free(sw);
}

/* --- what tests do to it --- */

unsigned netmap_switch_ports(struct netmap_switch *sw)
{
	unsigned n = 0;

	pthread_mutex_lock(&sw->lock);
	for (unsigned i = 0; i < PORTS; i++)
		n += sw->ports[i].name[0] != 0;
	pthread_mutex_unlock(&sw->lock);
	return n;
}

bool netmap_switch_settles(struct netmap_switch *sw, unsigned n)
{
	for (unsigned ms = 0; netmap_switch_ports(sw) != n && ms < SETTLE_MS; ms++)
		usleep(1000);
	return netmap_switch_ports(sw) == n;
}

void netmap_switch_pause(struct netmap_switch *sw, bool paused)
{
	pthread_mutex_lock(&sw->lock);
	atomic_store(&sw->paused, paused);
	pthread_mutex_unlock(&sw->lock);
}

void netmap_switch_deaf(struct netmap_switch *sw, unsigned n)
{
	atomic_store(&sw->deaf, n);
}

void netmap_switch_rings(struct netmap_switch *sw, unsigned tx, unsigned rx)
{
	pthread_mutex_lock(&sw->lock);
	sw->tx_rings = tx;
	sw->rx_rings = rx;
	pthread_mutex_unlock(&sw->lock);
}

void netmap_switch_forget(struct netmap_switch *sw)
{
	pthread_mutex_lock(&sw->lock);
	for (unsigned i = 0; i < CONNECTIONS; i++)
		if (sw->connections[i].fd >= 0 && !sw->connections[i].port) {
			close(sw->connections[i].fd);
			sw->connections[i].fd = -1;
		}
	pthread_mutex_unlock(&sw->lock);
}

void netmap_switch_evict(struct netmap_switch *sw, const char *name)
{
	struct fake_port *port;

	pthread_mutex_lock(&sw->lock);
	port = port_find(sw, name);
	assert(port);
	__atomic_store_n(&port->map.memory->gone, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&sw->lock);
}

struct client_request netmap_switch_last(struct netmap_switch *sw, unsigned type)
{
	struct client_request request;

	pthread_mutex_lock(&sw->lock);
	request = sw->last[type];
	pthread_mutex_unlock(&sw->lock);
	return request;
}

void netmap_switch_send(struct netmap_switch *sw, const void *data, uint32_t len, uint16_t flags)
{
	pthread_mutex_lock(&sw->lock);
	flood(sw, NULL, data, len, flags);
	publish(sw);
	pthread_mutex_unlock(&sw->lock);
}

uint16_t netmap_switch_flags(struct netmap_switch *sw)
{
	return atomic_load(&sw->flags);
}
