/*
 * A switch of memory ports for tests: frames in, frames out, and the ledger.
 *
 * Nothing here sleeps for luck: sw_settle waits until every frame that was put has been received
 * and the books balance, or a deadline has passed.
 */
#pragma once

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "engine.h"

enum { SW_PORTS = 32, SW_BRIDGES = 8, SW_FRAME_MAX = 70000, SW_DEADLINE_MS = 20000 };

struct sw {
	struct engine *engine;
	struct bridge_config bridges[SW_BRIDGES];
	struct port_config ports[SW_PORTS];
	unsigned bridge_count;
	unsigned port_count;
	uint64_t generation;
	uint64_t put; /* frames accepted by engine_memory_put */
};

static inline void sw_open(struct sw *sw)
{
	struct engine_params params = {.ports_max = SW_PORTS,
				       .bridges_max = SW_BRIDGES,
				       .workers_max = 64,
				       .stats_fd = -1,
				       .conntrack_fd = -1};
	struct error err = {0};

	memset(sw, 0, sizeof(*sw));
	if (!CHECK(engine_create(&params, &sw->engine, &err) == 0)) {
		fprintf(stderr, "  %s\n", err.message);
		exit(1);
	}
}

static inline struct bridge_config *sw_bridge(struct sw *sw, uint16_t id)
{
	struct bridge_config *bridge = &sw->bridges[sw->bridge_count++];
	struct error err = {0};

	CHECK(engine_bridge_add(sw->engine, id, "br", 1024, -1, &err) == 0);
	*bridge = (struct bridge_config){.id = id,
					 .learning = true,
					 .flood_unknown_unicast = true,
					 .flood_multicast = true,
					 .flood_broadcast = true,
					 .ageing_s = 300};
	return bridge;
}

/* A port of any type; options as "name=value name=value". */
static inline struct port_config *sw_port_of(struct sw *sw, uint16_t id, uint16_t bridge,
					     const char *type, const char *options)
{
	struct port_config *port = &sw->ports[sw->port_count++];
	struct port_option items[8];
	struct port_options list = {.port = "p", .items = items};
	struct port_fds fds = {0};
	struct error err = {0};
	char text[256], name[16], *rest = text, *word;

	snprintf(text, sizeof(text), "%s", options);
	while ((word = strtok_r(rest, " ", &rest)) && list.count < 8) {
		char *value = strchr(word, '=');

		*value = 0;
		items[list.count++] = (struct port_option){.name = word, .value = value + 1};
	}
	snprintf(name, sizeof(name), "p%u", id);
	if (!CHECK(engine_port_add(sw->engine, id, name, type, &list, &fds, &err) == 0))
		fprintf(stderr, "  %s\n", err.message);
	*port = (struct port_config){.id = id,
				     .bridge = bridge,
				     .admin_up = true,
				     .learning = true,
				     .flood = true,
				     .pvid = 1};
	return port;
}

static inline struct port_config *sw_port(struct sw *sw, uint16_t id, uint16_t bridge)
{
	return sw_port_of(sw, id, bridge, "memory", "");
}

static inline void sw_publish(struct sw *sw)
{
	struct engine_config config = {.generation = ++sw->generation,
				       .bridges = sw->bridges,
				       .bridge_count = sw->bridge_count,
				       .ports = sw->ports,
				       .port_count = sw->port_count};
	struct error err = {0};

	if (!CHECK(engine_publish(sw->engine, &config, &err) == 0))
		fprintf(stderr, "  %s\n", err.message);
}

static inline bool sw_put(struct sw *sw, uint16_t port, const uint8_t *bytes, uint32_t len)
{
	if (engine_memory_put(sw->engine, port, 0, bytes, len) != 0)
		return false;
	sw->put++;
	return true;
}

static inline uint64_t sum40(const uint64_t counters[40])
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < DROP_REASONS; i++)
		sum += counters[i];
	return sum;
}

/* What came in or was made, less what went out or was dropped. */
static inline int64_t ledger_in_flight(const struct port_counters *c)
{
	return (int64_t)(c->rx_frames + c->copies + c->segments + c->originated - c->tx_frames -
			 sum40(c->rx_drops) - sum40(c->tx_drops) - c->consumed);
}

/* Waits until all frames put were received and accounted; false after the deadline. */
static inline bool sw_settle(struct sw *sw)
{
	uint64_t deadline = now_ms() + SW_DEADLINE_MS;
	struct port_counters total;

	do {
		engine_quiesce(sw->engine);
		engine_total_counters(sw->engine, &total);
		if (total.rx_frames == sw->put) {
			engine_quiesce(sw->engine);
			engine_total_counters(sw->engine, &total);
			return CHECK(ledger_in_flight(&total) == 0);
		}
		sched_yield();
	} while (now_ms() < deadline);
	fprintf(stderr, "put %llu, received %llu\n", (unsigned long long)sw->put,
		(unsigned long long)total.rx_frames);
	return check(false, "frames were not received in time", __FILE__, __LINE__);
}

/* Takes and forgets all frames of a port; returns how many. */
static inline unsigned sw_empty(struct sw *sw, uint16_t port)
{
	static _Thread_local uint8_t bytes[SW_FRAME_MAX];
	unsigned count = 0;

	while (engine_memory_take(sw->engine, port, 0, bytes, sizeof(bytes)) >= 0)
		count++;
	return count;
}

/* The next frame of the port is exactly these bytes. */
static inline bool sw_expect(struct sw *sw, uint16_t port, const uint8_t *bytes, uint32_t len)
{
	static uint8_t got[SW_FRAME_MAX];
	int got_len = engine_memory_take(sw->engine, port, 0, got, sizeof(got));

	return CHECK(got_len == (int)len) && CHECK(memcmp(got, bytes, len) == 0);
}

static inline void sw_close(struct sw *sw)
{
	engine_destroy(sw->engine);
}

/* An Ethernet frame of `len` bytes; addresses 02:00:00:00:00:xx, `tags` in line. */
static inline uint32_t frame_make(uint8_t *bytes, uint8_t dst, uint8_t src, uint32_t len)
{
	memset(bytes, 0, 12);
	bytes[0] = bytes[6] = 2;
	bytes[5] = dst;
	bytes[11] = src;
	bytes[12] = 0x88;
	bytes[13] = 0xb5;
	for (uint32_t i = 14; i < len; i++)
		bytes[i] = (uint8_t)(i * 7 + dst);
	return len;
}

/* Puts a tag behind the addresses. */
static inline uint32_t frame_tag(uint8_t *bytes, uint32_t len, uint16_t tpid, uint16_t tci)
{
	memmove(bytes + 16, bytes + 12, len - 12);
	bytes[12] = (uint8_t)(tpid >> 8);
	bytes[13] = (uint8_t)tpid;
	bytes[14] = (uint8_t)(tci >> 8);
	bytes[15] = (uint8_t)tci;
	return len + 4;
}
