/*
 * bridge: who gets what. One frame at a time through memory ports; after each the receivers, the
 * bytes and the one counter that moved are checked, and the ledger.
 */
#include <errno.h>

#include "switch.h"

enum { ALL = SW_PORTS, FRAME = 60 };

static uint8_t frame[4096];

/* Sends and checks that exactly the ports of the mask got `expected` (the frame if NULL). */
static void deliver(struct sw *sw, uint16_t from, uint32_t len, uint32_t to_mask)
{
	CHECK(sw_put(sw, from, frame, len));
	sw_settle(sw);
	for (uint16_t p = 0; p < SW_PORTS; p++) {
		if (to_mask >> p & 1)
			sw_expect(sw, p, frame, len);
		CHECK(sw_empty(sw, p) == 0);
	}
}

/* Sends and checks that the frame was dropped by port `at` for the reason. */
static void dropped(struct sw *sw, uint16_t from, uint32_t len, enum drop_reason reason, bool on_tx,
		    uint16_t at)
{
	struct port_counters before, after;
	uint64_t moved;

	engine_port_counters(sw->engine, at, &before);
	deliver(sw, from, len, 0);
	engine_port_counters(sw->engine, at, &after);
	moved = on_tx ? after.tx_drops[reason] - before.tx_drops[reason]
		      : after.rx_drops[reason] - before.rx_drops[reason];
	if (!CHECK(moved == 1))
		fprintf(stderr, "  %s\n", drop_reason_name(reason));
}

static void rx_dropped(struct sw *sw, uint16_t from, uint32_t len, enum drop_reason reason)
{
	dropped(sw, from, len, reason, false, from);
}

static void test_learning(void)
{
	struct port_counters counters;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 4; p++)
		sw_port(&sw, p, 0);
	sw_publish(&sw);
	deliver(&sw, 0, frame_make(frame, 11, 10, FRAME), 0xe); /* unknown: flooded */
	deliver(&sw, 1, frame_make(frame, 10, 11, FRAME), 0x1); /* learned */
	deliver(&sw, 0, frame_make(frame, 11, 10, FRAME), 0x2);
	deliver(&sw, 2, frame_make(frame, 11, 10, FRAME), 0x2); /* 10 moves to port 2 */
	deliver(&sw, 1, frame_make(frame, 10, 11, FRAME), 0x4);
	engine_port_counters(sw.engine, 2, &counters);
	CHECK(counters.moved == 1 && counters.learned == 0);
	CHECK(engine_fdb_count(sw.engine, 0) == 2);
	rx_dropped(&sw, 2, frame_make(frame, 10, 12, FRAME), DROP_SAME_PORT);
	memset(frame, 0xff, 6); /* broadcast */
	deliver(&sw, 2, FRAME, 0xb);
	memcpy(frame, "\x01\x00\x5e\x00\x00\x01", 6);
	deliver(&sw, 1, FRAME, 0xd);
	engine_total_counters(sw.engine, &counters);
	CHECK(counters.copies == 2 * 3);
	sw_close(&sw);
}

static void test_sizes(void)
{
	static const uint32_t sizes[] = {14, 15, 60, 1514, 2048, 2049, 4000};
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 3; p++)
		sw_port(&sw, p, 0);
	sw_publish(&sw);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		deliver(&sw, 0, frame_make(frame, 99, 10, sizes[i]), 0x6);
		deliver(&sw, 1, frame_make(frame, 10, 11, sizes[i]), 0x1);
	}
	sw_close(&sw);
}

static void test_ingress_drops(void)
{
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 3; p++)
		sw_port(&sw, p, 0);
	sw_port(&sw, 3, ENGINE_NO_BRIDGE);
	sw_port(&sw, 4, 0)->admin_up = false;
	sw_publish(&sw);
	frame_make(frame, 1, 2, FRAME);
	for (uint32_t len = 1; len < 14; len++)
		rx_dropped(&sw, 0, len, DROP_MALFORMED);
	frame_tag(frame, FRAME, 0x8100, 5);
	rx_dropped(&sw, 0, 17, DROP_MALFORMED);
	frame_tag(frame, FRAME, 0x88a8, 5);
	rx_dropped(&sw, 0, 21, DROP_MALFORMED);
	deliver(&sw, 0, 22, 0x6); /* tags pass where VLANs are not filtered */
	frame_make(frame, 1, 2, FRAME);
	rx_dropped(&sw, 3, FRAME, DROP_NO_BRIDGE);
	rx_dropped(&sw, 4, FRAME, DROP_PORT_DOWN);
	frame[6] |= 1;
	rx_dropped(&sw, 0, FRAME, DROP_SOURCE_INVALID);
	memset(frame + 6, 0, 6);
	rx_dropped(&sw, 0, FRAME, DROP_SOURCE_INVALID);
	for (unsigned i = 0; i < 16; i++) {
		frame_make(frame, 0, 2, FRAME);
		memcpy(frame, "\x01\x80\xc2\x00\x00", 5);
		frame[5] = (uint8_t)i;
		rx_dropped(&sw, 0, FRAME, DROP_RESERVED_MAC);
	}
	frame[5] = 0x10;
	deliver(&sw, 0, FRAME, 0x6);
	sw.bridges[0].reserved_forward = true;
	sw_publish(&sw);
	frame[5] = 0x0e;
	deliver(&sw, 0, FRAME, 0x6);
	/* what no station sent is forwarded there, too, and never learned */
	for (int group = 0; group < 2; group++) {
		frame_make(frame, 11, 10, FRAME);
		memset(frame + 6, group ? 0xff : 0, 6);
		deliver(&sw, 0, FRAME, 0x6);
		frame_make(frame, 11, 12, FRAME);
		memset(frame, group ? 0xff : 0, 6);
		deliver(&sw, 1, FRAME, 0x5);
	}
	sw_close(&sw);
}

static void test_flood_switches(void)
{
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 4; p++)
		sw_port(&sw, p, 0);
	sw.ports[3].flood = false;
	sw_publish(&sw);
	deliver(&sw, 0, frame_make(frame, 11, 10, FRAME), 0x6);
	deliver(&sw, 3, frame_make(frame, 10, 13, FRAME), 0x1);
	deliver(&sw, 0, frame_make(frame, 13, 10, FRAME), 0x8); /* known: not flooding */
	sw.bridges[0].flood_unknown_unicast = false;
	sw_publish(&sw);
	rx_dropped(&sw, 0, frame_make(frame, 11, 10, FRAME), DROP_FLOOD_OFF);
	memset(frame, 0xff, 6);
	deliver(&sw, 0, FRAME, 0x6);
	sw.bridges[0].flood_broadcast = false;
	sw_publish(&sw);
	rx_dropped(&sw, 0, FRAME, DROP_FLOOD_OFF);
	memcpy(frame, "\x33\x33\x00\x00\x00\x01", 6);
	deliver(&sw, 0, FRAME, 0x6);
	sw.bridges[0].flood_multicast = false;
	sw_publish(&sw);
	rx_dropped(&sw, 0, FRAME, DROP_FLOOD_OFF);
	/* only the port that takes no floods is left */
	sw.bridges[0].flood_broadcast = true;
	sw.ports[1].bridge = sw.ports[2].bridge = ENGINE_NO_BRIDGE;
	sw_publish(&sw);
	memset(frame, 0xff, 6);
	rx_dropped(&sw, 0, FRAME, DROP_FLOOD_OFF);
	sw.ports[3].bridge = ENGINE_NO_BRIDGE;
	sw_publish(&sw);
	rx_dropped(&sw, 0, FRAME, DROP_NO_DESTINATION);
	sw_close(&sw);
}

static void test_isolation(void)
{
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 4; p++)
		sw_port(&sw, p, 0)->isolation_group = p < 2 ? 7 : p == 2 ? 8 : 0;
	sw_publish(&sw);
	deliver(&sw, 0, frame_make(frame, 99, 10, FRAME), 0xc);
	deliver(&sw, 1, frame_make(frame, 99, 11, FRAME), 0xc);
	rx_dropped(&sw, 0, frame_make(frame, 11, 10, FRAME), DROP_ISOLATED);
	deliver(&sw, 3, frame_make(frame, 10, 13, FRAME), 0x1);
	deliver(&sw, 2, frame_make(frame, 11, 12, FRAME), 0x2);
	sw.ports[2].bridge = sw.ports[3].bridge = ENGINE_NO_BRIDGE;
	sw_publish(&sw);
	rx_dropped(&sw, 0, frame_make(frame, 99, 10, FRAME), DROP_ISOLATED);
	sw_close(&sw);
}

static void test_no_learning(void)
{
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 3; p++)
		sw_port(&sw, p, 0)->learning = p != 0;
	sw_publish(&sw);
	deliver(&sw, 0, frame_make(frame, 99, 10, FRAME), 0x6);
	deliver(&sw, 1, frame_make(frame, 10, 11, FRAME), 0x5); /* 10 is not known */
	CHECK(engine_fdb_count(sw.engine, 0) == 1);
	sw.bridges[0].learning = false;
	sw_publish(&sw);
	deliver(&sw, 2, frame_make(frame, 99, 12, FRAME), 0x3);
	CHECK(engine_fdb_count(sw.engine, 0) == 1);
	sw_close(&sw);
}

static void test_static(void)
{
	static const uint8_t mac[] = {2, 0, 0, 0, 0, 50}, group[] = {1, 0, 94, 0, 0, 1};
	struct fdb_row rows[8];
	struct error err;
	uint32_t cursor = 0;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	for (uint16_t p = 0; p < 3; p++)
		sw_port(&sw, p, 0);
	sw_publish(&sw);
	CHECK(engine_fdb_set_static(sw.engine, 0, group, 0, 2, &err) == -EINVAL);
	CHECK(engine_fdb_set_static(sw.engine, 0, mac, 0, 20, &err) == -ENOENT);
	CHECK(engine_fdb_set_static(sw.engine, 1, mac, 0, 2, &err) == -ENOENT);
	CHECK(engine_fdb_set_static(sw.engine, 0, mac, 0, 2, &err) == 0);
	deliver(&sw, 0, frame_make(frame, 50, 10, FRAME), 0x4);
	deliver(&sw, 1, frame_make(frame, 10, 50, FRAME), 0x1); /* a stranger with that address */
	deliver(&sw, 0, frame_make(frame, 50, 10, FRAME), 0x4); /* changes nothing */
	CHECK(engine_fdb_flush(sw.engine, 0, 0xffff, 0xffff) == 1);
	CHECK(engine_fdb_dump(sw.engine, 0, &cursor, rows, 8) == 1 && cursor == 0);
	CHECK(rows[0].is_static && rows[0].port == 2 && memcmp(rows[0].mac, mac, 6) == 0);
	sw.ports[2].admin_up = false;
	sw_publish(&sw);
	rx_dropped(&sw, 0, frame_make(frame, 50, 10, FRAME), DROP_DESTINATION_DOWN);
	CHECK(engine_fdb_clear_static(sw.engine, 0, mac, 0, &err) == 0);
	CHECK(engine_fdb_clear_static(sw.engine, 0, mac, 0, &err) == -ENOENT);
	deliver(&sw, 0, frame_make(frame, 50, 10, FRAME), 0x2);
	sw_close(&sw);
}

/* A port that leaves a bridge takes its entries with it. */
static void test_leaving(void)
{
	struct error err;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_bridge(&sw, 1);
	for (uint16_t p = 0; p < 4; p++)
		sw_port(&sw, p, 0);
	sw_publish(&sw);
	deliver(&sw, 3, frame_make(frame, 99, 13, FRAME), 0x7);
	deliver(&sw, 0, frame_make(frame, 13, 10, FRAME), 0x8);
	sw.ports[3].bridge = 1;
	sw_publish(&sw);
	CHECK(engine_fdb_count(sw.engine, 0) == 1);
	deliver(&sw, 0, frame_make(frame, 13, 10, FRAME), 0x6);
	rx_dropped(&sw, 3, frame_make(frame, 10, 13, FRAME), DROP_NO_DESTINATION);
	CHECK(engine_port_remove(sw.engine, 3, false, &err) == -EBUSY);
	CHECK(engine_bridge_remove(sw.engine, 1, &err) == -EBUSY);
	sw.port_count = 3;
	sw.bridge_count = 1;
	sw_publish(&sw);
	CHECK(engine_port_remove(sw.engine, 3, false, &err) == 0);
	CHECK(engine_bridge_remove(sw.engine, 1, &err) == 0);
	sw_settle(&sw); /* the books balance with the departed port's counters */
	sw_close(&sw);
}

static void test_vlans(void)
{
	uint8_t tagged[FRAME + 8], double_tagged[FRAME + 8];
	uint32_t len = FRAME;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0)->vlan_filtering = true;
	for (uint16_t p = 0; p < 6; p++)
		sw_port(&sw, p, 0)->pvid = 10;
	sw.ports[1].pvid = 20;
	sw.ports[2].vlan_mode = VLAN_TRUNK; /* 10 and 20 */
	sw.ports[2].tagged[0] = 1 << 10 | 1 << 20;
	sw.ports[3].vlan_mode = VLAN_NATIVE; /* 10 untagged, 20 tagged */
	sw.ports[3].tagged[0] = 1 << 20;
	sw.ports[4].vlan_mode = VLAN_TUNNEL; /* 10 */
	sw_publish(&sw);

	/* untagged into 10: access 5 and native as it is, trunk with a tag, tunnel as it is */
	frame_make(frame, 99, 10, len);
	memcpy(tagged, frame, len);
	frame_tag(tagged, len, 0x8100, 10);
	CHECK(sw_put(&sw, 0, frame, len));
	sw_settle(&sw);
	sw_expect(&sw, 2, tagged, len + 4);
	sw_expect(&sw, 3, frame, len);
	sw_expect(&sw, 4, frame, len);
	sw_expect(&sw, 5, frame, len);
	CHECK(sw_empty(&sw, 1) == 0);

	/* tagged 20 from the trunk, priority kept: access 1 without, native with */
	memcpy(tagged, frame, len);
	tagged[11] = 12;
	frame_tag(tagged, len, 0x8100, 0xa000 | 20);
	CHECK(sw_put(&sw, 2, tagged, len + 4));
	sw_settle(&sw);
	frame[11] = 12;
	sw_expect(&sw, 1, frame, len);
	sw_expect(&sw, 3, tagged, len + 4);
	CHECK(sw_empty(&sw, 0) + sw_empty(&sw, 4) + sw_empty(&sw, 5) == 0);

	/* the same address in another VLAN is another entry: unicast back in 20 only */
	frame_make(frame, 12, 21, len);
	CHECK(sw_put(&sw, 1, frame, len));
	sw_settle(&sw);
	memcpy(tagged, frame, len);
	frame_tag(tagged, len, 0x8100, 20);
	sw_expect(&sw, 2, tagged, len + 4);
	CHECK(sw_empty(&sw, 3) == 0);

	/* a customer's tagged frame through the tunnel port leaves the trunk in two tags */
	frame_make(frame, 98, 14, len);
	memcpy(tagged, frame, len);
	frame_tag(tagged, len, 0x8100, 0x6000 | 300);
	memcpy(double_tagged, tagged, len + 4);
	frame_tag(double_tagged, len + 4, 0x88a8, 0x6000 | 10);
	CHECK(sw_put(&sw, 4, tagged, len + 4));
	sw_settle(&sw);
	sw_expect(&sw, 2, double_tagged, len + 8);
	CHECK(sw_empty(&sw, 0) == 1 && sw_empty(&sw, 3) == 1 && sw_empty(&sw, 5) == 1);
	/* and back: the outer tag goes, the inner one stays */
	frame_make(double_tagged, 14, 15, len);
	frame_tag(double_tagged, len, 0x8100, 300);
	memcpy(tagged, double_tagged, len + 4);
	frame_tag(double_tagged, len + 4, 0x88a8, 10);
	CHECK(sw_put(&sw, 2, double_tagged, len + 8));
	sw_settle(&sw);
	sw_expect(&sw, 4, tagged, len + 4);

	frame_make(frame, 99, 16, len);
	rx_dropped(&sw, 2, len, DROP_VLAN_INGRESS);
	len = frame_tag(frame, len, 0x8100, 10);
	rx_dropped(&sw, 0, len, DROP_VLAN_INGRESS);
	frame[15] = 30;
	rx_dropped(&sw, 2, len, DROP_VLAN_INGRESS);
	sw_close(&sw);
}

/* The FDB names a port that is no longer in the VLAN. */
static void test_vlan_destination(void)
{
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0)->vlan_filtering = true;
	for (uint16_t p = 0; p < 3; p++)
		sw_port(&sw, p, 0)->pvid = 10;
	sw_publish(&sw);
	deliver(&sw, 1, frame_make(frame, 99, 11, FRAME), 0x5);
	sw.ports[1].pvid = 20;
	sw_publish(&sw);
	rx_dropped(&sw, 0, frame_make(frame, 11, 10, FRAME), DROP_DESTINATION_DOWN);
	sw_close(&sw);
}

static void test_egress_drops(void)
{
	struct port_counters counters;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0)->mtu = 100;
	sw_port(&sw, 0, 0);
	sw_port_of(&sw, 1, 0, "memory", "slots=64");
	sw_publish(&sw);
	deliver(&sw, 0, frame_make(frame, 11, 10, 114), 0x2);
	dropped(&sw, 0, frame_make(frame, 11, 10, 115), DROP_TOO_BIG, true, 1);
	frame_make(frame, 11, 10, 114);
	deliver(&sw, 0, frame_tag(frame, 114, 0x8100, 5), 0x2); /* tags are not payload */
	for (unsigned i = 0; i < 63; i++) {
		CHECK(sw_put(&sw, 0, frame, FRAME));
		sw_settle(&sw);
	}
	CHECK(sw_put(&sw, 0, frame, FRAME));
	sw_settle(&sw);
	engine_port_counters(sw.engine, 1, &counters);
	CHECK(counters.tx_drops[DROP_QUEUE_FULL] == 1);
	CHECK(sw_empty(&sw, 1) == 63);
	deliver(&sw, 0, FRAME, 0x2);
	sw_close(&sw);
}

static void test_refusals(void)
{
	struct engine_config config = {0};
	struct bridge_config bridge = {.id = 3};
	struct port_config port = {.id = 9, .bridge = ENGINE_NO_BRIDGE};
	struct port_options none = {.port = "x"};
	struct port_option item = {"nonsense", "1"};
	struct port_options odd = {.port = "x", .items = &item, .count = 1};
	struct port_fds fds = {0};
	struct error err;
	struct sw sw;

	sw_open(&sw);
	sw_bridge(&sw, 0);
	sw_port(&sw, 0, 0);
	sw_port(&sw, 1, 0);
	sw_publish(&sw);
	config.bridges = &bridge;
	config.bridge_count = 1;
	CHECK(engine_publish(sw.engine, &config, &err) == -EINVAL);
	config.bridge_count = 0;
	config.ports = &port;
	config.port_count = 1;
	CHECK(engine_publish(sw.engine, &config, &err) == -EINVAL);
	port.id = 0;
	port.bridge = 0;
	CHECK(engine_publish(sw.engine, &config, &err) == -EINVAL);
	port.bridge = ENGINE_NO_BRIDGE;
	port.cpu_count = 1;
	port.cpus[0] = 1000;
	port.id = 1;
	CHECK(engine_publish(sw.engine, &config, &err) != 0);
	CHECK(engine_port_add(sw.engine, 0, "x", "memory", &none, &fds, &err) == -EEXIST);
	CHECK(engine_port_add(sw.engine, 999, "x", "memory", &none, &fds, &err) == -ENOSPC);
	CHECK(engine_port_add(sw.engine, 5, "x", "none", &none, &fds, &err) == -EOPNOTSUPP);
	CHECK(engine_port_add(sw.engine, 5, "x", "memory", &odd, &fds, &err) == -EINVAL);
	/* none of it disturbed the configuration in force */
	deliver(&sw, 0, frame_make(frame, 99, 10, FRAME), 0x2);
	sw_close(&sw);
}

int main(void)
{
	test_learning();
	test_sizes();
	test_ingress_drops();
	test_flood_switches();
	test_isolation();
	test_no_learning();
	test_static();
	test_leaving();
	test_vlans();
	test_vlan_destination();
	test_egress_drops();
	test_refusals();
	return check_result();
}
