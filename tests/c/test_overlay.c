/*
 * Two switches in one engine, joined by tunnels over the loopback, under traffic both ways: vxlan
 * with two receive queues and a second remote that nobody is at, udp with one. Most of its worth
 * is in the sanitizer builds: chains of fragments, floods, segments and partial batches.
 */
#define frame_make net_frame_make /* switch.h's is the one that is used */
#include "af_packet_net.h"
#undef frame_make

#include "switch.h"

enum { LEFT, RIGHT, LEFT_TUNNEL, RIGHT_TUNNEL, ROUNDS = 300, BURST = 40, SIZES = 4 };

static const uint32_t sizes[SIZES] = {60, 1400, 5000, 9014};

static const char *const options_of[][2] = {
    {"vxlan", "vni=10 queues=2 source_ports=4 local=127.0.0.1 remotes=127.0.0.3,127.0.0.2"},
    {"vxlan", "vni=10 queues=2 source_ports=4 local=127.0.0.2 remotes=127.0.0.1"},
    {"udp", "vni=11 local=127.0.0.1:6081 peers=127.0.0.2:6082"},
    {"udp", "vni=11 local=127.0.0.2:6082 peers=127.0.0.1:6081"},
};

static struct port_fds tunnel_add(struct sw *sw, uint16_t id, uint16_t bridge,
				  const char *const typed[2])
{
	struct port_option items[8];
	struct port_options options = {.port = "t", .items = items};
	struct port_config *port = &sw->ports[sw->port_count++];
	struct port_fds fds = {0};
	struct error err = {0};
	char text[128], *rest = text, *word;

	snprintf(text, sizeof(text), "%s", typed[1]);
	while ((word = strtok_r(rest, " ", &rest)) && options.count < 8) {
		char *value = strchr(word, '=');

		*value = 0;
		items[options.count++] = (struct port_option){word, value + 1};
	}
	if (!CHECK(port_acquire(typed[0], &options, &fds, &err) == 0) ||
	    !CHECK(engine_port_add(sw->engine, id, "t", typed[0], &options, &fds, &err) == 0)) {
		fprintf(stderr, "  %s\n", err.message);
		exit(1);
	}
	*port = (struct port_config){.id = id,
				     .bridge = bridge,
				     .admin_up = true,
				     .learning = true,
				     .flood = true,
				     .pvid = 1};
	return fds;
}

/* A burst of one size now and then, of mixed ones otherwise, some for stations nobody knows. */
static unsigned burst(struct sw *sw, uint16_t from, uint64_t *seed)
{
	static uint8_t frame[SW_FRAME_MAX];
	uint8_t here = (uint8_t)(from + 1), there = (uint8_t)(2 - from);
	uint32_t size = sizes[random_below(seed, SIZES)];
	bool alike = random_below(seed, 2);
	unsigned put = 0;

	for (unsigned i = 0; i < BURST; i++) {
		uint8_t to = random_below(seed, 8) ? there : (uint8_t)(100 + i);

		if (!alike)
			size = sizes[random_below(seed, SIZES)] - random_below(seed, 3);
		put += engine_memory_put(sw->engine, from, 0, frame,
					 frame_make(frame, to, here, size)) == 0;
	}
	return put;
}

/* Frames for the other side that have arrived there, checked byte for byte. */
static unsigned take(struct sw *sw, uint16_t port)
{
	static uint8_t got[SW_FRAME_MAX], wanted[SW_FRAME_MAX];
	unsigned count = 0;
	int len;

	while ((len = engine_memory_take(sw->engine, port, 0, got, sizeof(got))) >= 0) {
		frame_make(wanted, got[5], (uint8_t)(2 - port), (uint32_t)len);
		CHECK(memcmp(got, wanted, (size_t)len) == 0);
		count++;
	}
	return count;
}

static void run(const char *const left[2], const char *const right[2])
{
	struct port_counters tunnels[2];
	unsigned put[2] = {0}, taken[2] = {0};
	struct port_status status = {0};
	struct port_fds fds[2];
	uint64_t seed = 7, deadline;
	struct sw sw;

	sw_open(&sw);
	for (uint16_t side = 0; side < 2; side++) {
		sw_bridge(&sw, side);
		sw_port(&sw, side, side);
		fds[side] =
		    tunnel_add(&sw, (uint16_t)(LEFT_TUNNEL + side), side, side ? right : left);
	}
	sw_publish(&sw);
	for (unsigned i = 0; i < ROUNDS; i++) {
		for (uint16_t side = 0; side < 2; side++) {
			put[side] += burst(&sw, side, &seed);
			deadline = now_ms() + SW_DEADLINE_MS;
			/* Sockets and rings have an end: no faster than the other side takes. */
			while (taken[!side] < put[side] && now_ms() < deadline) {
				taken[!side] += take(&sw, !side);
				sched_yield();
			}
		}
		if (i % 50 == 0)
			engine_port_status(sw.engine, LEFT_TUNNEL, &status);
	}
	CHECK(status.link_up && !status.lost && status.mtu > 60000);
	CHECK(put[LEFT] > ROUNDS * BURST / 2);
	CHECK(taken[RIGHT] == put[LEFT] && taken[LEFT] == put[RIGHT]);
	engine_quiesce(sw.engine);
	for (uint16_t side = 0; side < 2; side++) {
		engine_port_counters(sw.engine, (uint16_t)(LEFT_TUNNEL + side), &tunnels[side]);
		CHECK(tunnels[side].tx_frames == put[side]);
		CHECK(tunnels[side].rx_frames == put[!side]);
		CHECK(sum40(tunnels[side].rx_drops) + sum40(tunnels[side].tx_drops) == 0);
	}
	sw_close(&sw);
	for (unsigned side = 0; side < 2; side++) {
		for (unsigned i = 0; i < fds[side].count; i++)
			close(fds[side].fd[i]);
	}
}

int main(void)
{
	net_enter();
	net_run("ip link set lo up");
	run(options_of[0], options_of[1]);
	run(options_of[2], options_of[3]);
	return check_result();
}
