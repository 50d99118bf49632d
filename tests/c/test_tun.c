/*
 * tun, with a real device, under the sanitizers: packets towards unknown, known and forgotten
 * neighbours from one side while stations of the bridge ask, answer and move on the other. Three
 * threads meet in the port (its worker, the memory port's worker, the control thread).
 *
 *     packet socket === tun device ==fd== tun port -- bridge -- memory port === this process
 */
/* Both headers make frames of their own; this test needs neither's. */
#define frame_make net_frame_make
#include "af_packet_net.h"
#undef frame_make

#include "neighbor.h"
#include "switch.h"

enum { TUN = 0, MEMORY = 1, STATIONS = 40, ROUNDS = 3000 };

static const struct neighbor_addr inside = {0, 0xffff0a000001}; /* 10.0.0.1 */

static struct neighbor_addr station(uint32_t n)
{
	return (struct neighbor_addr){0, inside.low + 1 + n};
}

/* An empty datagram from behind the port to a station. */
static void packet_send(int fd, struct neighbor_addr src, struct neighbor_addr dst)
{
	struct net_frame packet = {.len = 28};
	uint32_t addresses[2] = {htonl((uint32_t)src.low), htonl((uint32_t)dst.low)};

	packet.data[0] = 0x45;
	packet.data[3] = 28;
	packet.data[8] = 64;
	packet.data[9] = 17;
	memcpy(packet.data + 12, addresses, 8);
	packet.data[25] = 8;
	host_send(fd, &packet);
}

static struct port_fds tun_add(struct sw *sw)
{
	struct port_option items[] = {{"name", "tun0"}, {"address", "10.0.0.1"}};
	struct port_options options = {.port = "t", .items = items, .count = 2};
	struct port_config *port = &sw->ports[sw->port_count++];
	struct port_fds fds;
	struct error err = {0};

	if (!CHECK(port_acquire("tun", &options, &fds, &err) == 0) ||
	    !CHECK(engine_port_add(sw->engine, TUN, "t", "tun", &options, &fds, &err) == 0)) {
		fprintf(stderr, "  %s\n", err.message);
		exit(1);
	}
	*port = (struct port_config){
	    .id = TUN, .admin_up = true, .learning = true, .flood = true, .pvid = 1};
	return fds;
}

/* A station that asks or answers, and takes what it is sent. */
static void station_act(struct sw *sw, uint64_t *seed, uint64_t *put)
{
	uint32_t n = random_below(seed, STATIONS);
	uint64_t mac = 0x020000000100u + n + 256 * random_below(seed, 2); /* they move, too */
	struct neighbor_addr target = random_below(seed, 2) ? inside : station(200 + n);
	uint8_t frame[NEIGHBOR_BYTES];
	unsigned len;

	if (random_below(seed, 2))
		len = neighbor_ask(frame, mac, station(n), target, 0);
	else
		len = neighbor_tell(frame, mac, station(n), inside, MAC_BROADCAST);
	*put += sw_put(sw, MEMORY, frame, len);
	sw_empty(sw, MEMORY);
}

/* Everything that was put has been taken, and the books balance. */
static bool settled(struct sw *sw, uint64_t put)
{
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;
	struct port_counters total, memory;

	do {
		engine_quiesce(sw->engine);
		engine_total_counters(sw->engine, &total);
		engine_port_counters(sw->engine, MEMORY, &memory);
		if (memory.rx_frames == put && ledger_in_flight(&total) == 0)
			return true;
		sched_yield();
	} while (now_ms() < deadline);
	return false;
}

int main(void)
{
	uint64_t seed = 42, put = 0;
	struct port_counters tun;
	struct port_status status;
	struct port_fds fds;
	struct sw sw;
	int fd;

	net_enter();
	sw_open(&sw);
	sw_bridge(&sw, 0);
	fds = tun_add(&sw);
	sw_port(&sw, MEMORY, 0);
	sw_publish(&sw);
	fd = host_open("tun0");
	for (unsigned i = 0; i < ROUNDS; i++) {
		packet_send(fd, inside, station(random_below(&seed, STATIONS)));
		if (i % 7 == 0)
			packet_send(fd, station(200 + random_below(&seed, 20)), station(300));
		station_act(&sw, &seed, &put);
		if (i % 100 == 0)
			engine_port_status(sw.engine, TUN, &status);
	}
	CHECK(settled(&sw, put));
	engine_port_counters(sw.engine, TUN, &tun);
	CHECK(tun.consumed > put / 2 && tun.originated > 0 && tun.rx_frames > 0);
	engine_destroy(sw.engine);
	close(fd);
	for (unsigned i = 0; i < fds.count; i++)
		close(fds.fd[i]);
	return check_result();
}
