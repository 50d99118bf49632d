/*
 * conntrack: states of TCP, UDP and ICMP, errors about a connection, fragments, limits and who is
 * evicted, ageing, dump and flush, takeover of what a killed forwarder left, and threads beside
 * each other. tests/property/test_conntrack.py compares long random histories with a model.
 */
#include "conntrack_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "packets.h"
#include "rule.h"

enum { BRIDGE = 3, NOW = 1000 };

static struct conntrack *table_new(uint32_t connections_max)
{
	struct conntrack *table = NULL;
	struct error err = {0};

	CHECK(conntrack_map(-1, connections_max, &table, &err) == 0);
	return table;
}

static enum flow_state look(struct conntrack *table, const struct packet *packet, uint32_t now)
{
	struct conntrack_ref ref;
	struct packet_frame made;

	packet_make(packet, &made);
	return conntrack_lookup(table, &made.key, &made.frame, BRIDGE, now, &ref);
}

/* Looks it up and commits it; *status: of the commit. */
static enum flow_state pass_status(struct conntrack *table, const struct packet *packet,
				   uint32_t now, int *status)
{
	struct conntrack_ref ref;
	struct packet_frame made;
	enum flow_state state;

	packet_make(packet, &made);
	state = conntrack_lookup(table, &made.key, &made.frame, BRIDGE, now, &ref);
	*status = conntrack_commit(table, &made.key, &made.frame, BRIDGE, now, &ref);
	return state;
}

static enum flow_state pass(struct conntrack *table, const struct packet *packet, uint32_t now)
{
	int status;
	enum flow_state state = pass_status(table, packet, now, &status);

	CHECK(status == 0);
	return state;
}

static enum flow_state tcp(struct conntrack *table, struct packet packet, uint8_t flags)
{
	packet.flags = flags;
	return pass(table, &packet, NOW);
}

static const struct conntrack_filter all = {.bridge = RULE_NONE, .port = RULE_NONE};

static int flush(struct conntrack *table, uint16_t bridge, uint16_t port)
{
	struct conntrack_filter filter = {.bridge = bridge, .port = port};

	return conntrack_flush(table, &filter);
}

static struct conntrack_row only_row(struct conntrack *table, uint32_t now)
{
	struct conntrack_row rows[2];
	uint32_t cursor = 0;

	memset(rows, 0, sizeof(rows));
	CHECK(conntrack_dump(table, &all, now, &cursor, rows, 2) == 1);
	CHECK(cursor == 0);
	return rows[0];
}

static const struct packet client = {
    .src = 1, .dst = 2, .proto = P_TCP, .sport = 40000, .dport = 80, .port = 5};
static const struct packet asking = {
    .src = 1, .dst = 2, .proto = P_UDP, .sport = 5000, .dport = 53, .port = 5};

/* A complete handshake; the table then knows the connection. */
static void shake(struct conntrack *table, struct packet from)
{
	struct packet to = packet_reply(from, 0, 6);

	CHECK(tcp(table, from, F_SYN) == FLOW_NEW);
	CHECK(tcp(table, to, F_SYN | F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, from, F_ACK) == FLOW_ESTABLISHED);
}

/* --- TCP ----------------------------------------------------------------------------------------
 */

static void test_tcp_life(void)
{
	struct conntrack *table = table_new(16);
	struct packet server = packet_reply(client, 0, 6);
	struct conntrack_row row;

	shake(table, client);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_ESTABLISHED);
	CHECK(tcp(table, server, F_ACK | F_PSH) == FLOW_ESTABLISHED);
	/* half close: the other side goes on sending */
	CHECK(tcp(table, client, F_FIN | F_ACK) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_FIN_WAIT);
	CHECK(tcp(table, server, F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, server, F_FIN | F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, client, F_ACK) == FLOW_ESTABLISHED);
	row = only_row(table, NOW);
	CHECK(row.tcp_state == CONNTRACK_TCP_CLOSING && row.state == FLOW_ESTABLISHED);
	CHECK(row.frames[0] == 4 && row.frames[1] == 4 && row.bytes[0] == 4 * 54);
	CHECK(row.src[15] == 1 && row.dst[15] == 2 && row.src_port == 40000 && row.dst_port == 80);
	CHECK(row.port == 5 && row.bridge == BRIDGE && row.vid == 0 && row.expires_s == 120);
	/* the server's port is used again, from the other side */
	CHECK(tcp(table, server, F_SYN) == FLOW_NEW);
	row = only_row(table, NOW);
	CHECK(row.src[15] == 2 && row.port == 6 && row.frames[0] == 1 && row.frames[1] == 0);
	conntrack_unmap(table);
}

static void test_tcp_refused(void)
{
	static const uint8_t none[] = {0,
				       F_FIN,
				       F_SYN | F_FIN,
				       F_SYN | F_RST,
				       F_FIN | F_RST,
				       F_ACK,
				       F_FIN | F_ACK,
				       F_SYN | F_ACK,
				       F_RST,
				       F_RST | F_ACK,
				       F_SYN | F_FIN | F_ACK,
				       0xff,
				       F_FIN | F_PSH | 32};
	struct conntrack *table = table_new(16);
	struct packet server = packet_reply(client, 0, 6);

	for (unsigned i = 0; i < sizeof(none); i++)
		CHECK(tcp(table, client, none[i]) == FLOW_INVALID);
	CHECK(conntrack_count(table) == 0);
	/* before there is an answer only a SYN fits */
	CHECK(tcp(table, client, F_SYN) == FLOW_NEW);
	CHECK(tcp(table, client, F_ACK) == FLOW_INVALID);
	CHECK(tcp(table, client, F_SYN) == FLOW_NEW); /* sent again */
	CHECK(tcp(table, client, F_RST) == FLOW_NEW); /* given up */
	CHECK(tcp(table, client, F_ACK) == FLOW_INVALID);
	CHECK(tcp(table, client, F_SYN) == FLOW_NEW); /* and again */
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_SYN_SENT);
	CHECK(only_row(table, NOW).frames[0] == 1);
	/* refused by the server */
	CHECK(tcp(table, server, F_RST | F_ACK) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_CLOSED);
	CHECK(tcp(table, client, F_SYN) == FLOW_NEW);
	conntrack_unmap(table);
}

static void test_tcp_middle(void)
{
	struct conntrack *table = table_new(16);
	struct packet server = packet_reply(client, 0, 6);

	shake(table, client);
	/* a SYN within changes nothing; the answer to it is a RST at most */
	CHECK(tcp(table, client, F_SYN) == FLOW_ESTABLISHED);
	CHECK(tcp(table, server, F_SYN) == FLOW_INVALID);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_ESTABLISHED);
	/* a RST that may be forged: who goes on sending goes on passing */
	CHECK(tcp(table, server, F_RST) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).expires_s == 120);
	CHECK(tcp(table, client, F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, server, F_ACK) == FLOW_ESTABLISHED);
	CHECK(conntrack_count(table) == 1);
	conntrack_unmap(table);
}

static void test_tcp_simultaneous(void)
{
	struct conntrack *table = table_new(16);
	struct packet other = packet_reply(client, 0, 6);

	CHECK(tcp(table, client, F_SYN) == FLOW_NEW);
	CHECK(tcp(table, other, F_SYN) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_SIMULTANEOUS);
	CHECK(tcp(table, client, F_SYN | F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, other, F_SYN | F_ACK) == FLOW_ESTABLISHED);
	CHECK(tcp(table, client, F_ACK) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).tcp_state == CONNTRACK_TCP_ESTABLISHED);
	conntrack_unmap(table);
}

static void test_tcp_loose(void)
{
	struct conntrack *table = table_new(16);
	struct conntrack_settings settings = conntrack_defaults(16);
	struct packet server = packet_reply(client, 0, 6);

	settings.tcp_loose = true;
	conntrack_set(table, &settings);
	CHECK(tcp(table, client, F_RST) == FLOW_INVALID);
	CHECK(tcp(table, client, F_ACK) == FLOW_NEW);
	CHECK(only_row(table, NOW).expires_s == 60); /* until it is answered */
	CHECK(tcp(table, client, F_ACK) == FLOW_NEW);
	CHECK(tcp(table, server, F_ACK) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).expires_s == 7440);
	conntrack_unmap(table);
}

/* --- UDP, ICMP, others --------------------------------------------------------------------------
 */

static void test_udp(void)
{
	struct conntrack *table = table_new(16);
	struct packet query = asking, answer = packet_reply(query, 0, 6), other = query;

	CHECK(look(table, &query, NOW) == FLOW_NEW);
	CHECK(conntrack_count(table) == 0); /* a look leaves no trace */
	CHECK(look(table, &query, NOW) == FLOW_NEW);
	CHECK(pass(table, &query, NOW) == FLOW_NEW);
	CHECK(pass(table, &query, NOW) == FLOW_NEW);
	CHECK(pass(table, &answer, NOW) == FLOW_ESTABLISHED);
	CHECK(pass(table, &query, NOW) == FLOW_ESTABLISHED);
	other.dport++;
	CHECK(look(table, &other, NOW) == FLOW_NEW);
	/* the same ends in another VLAN are somebody else */
	other = answer;
	other.tag = 7;
	CHECK(look(table, &other, NOW) == FLOW_NEW);
	/* silence */
	CHECK(look(table, &query, NOW + 179) == FLOW_ESTABLISHED);
	CHECK(look(table, &answer, NOW + 180) == FLOW_NEW);
	conntrack_tick(table, NOW + 179);
	CHECK(conntrack_count(table) == 1);
	conntrack_tick(table, NOW + 180);
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
}

static void test_icmp(bool ipv6)
{
	struct conntrack *table = table_new(16);
	struct packet ping = {.src = 1,
			      .dst = 2,
			      .ipv6 = ipv6,
			      .proto = ipv6 ? P_ICMPV6 : P_ICMP,
			      .sport = ipv6 ? 128 << 8 : 8 << 8,
			      .dport = 77,
			      .port = 5};
	struct packet pong = packet_reply(ping, 0, 6), back = packet_reply(ping, 0, 6);
	struct conntrack_row row;

	pong.sport = ipv6 ? 129 << 8 : 0;
	CHECK(pass(table, &pong, NOW) == FLOW_INVALID);
	CHECK(pass(table, &ping, NOW) == FLOW_NEW);
	CHECK(pass(table, &pong, NOW) == FLOW_ESTABLISHED);
	CHECK(pass(table, &ping, NOW) == FLOW_ESTABLISHED);
	/* who was asked may not ask for that */
	CHECK(look(table, &back, NOW) == FLOW_NEW);
	pong.dport++;
	CHECK(look(table, &pong, NOW) == FLOW_INVALID);
	row = only_row(table, NOW);
	CHECK(row.src_port == 77 && row.dst_port == 77 && row.src[15] == 1);
	CHECK(row.frames[0] == 2 && row.frames[1] == 1 && row.tcp_state == CONNTRACK_TCP_NONE);
	conntrack_unmap(table);
}

static void test_not_tracked(void)
{
	struct conntrack *table = table_new(16);
	struct packet packet = {.src = 1, .dst = 2, .proto = 47, .port = 5};
	static const uint8_t quiet[] = {130, 131, 132, 133, 134, 135, 136, 137, 143};

	CHECK(pass(table, &packet, NOW) == 0);
	packet.proto = P_ICMPV6; /* over IPv4 it is nothing we know */
	CHECK(pass(table, &packet, NOW) == 0);
	packet.ipv6 = true;
	for (unsigned i = 0; i < sizeof(quiet); i++) {
		packet.sport = (uint16_t)(quiet[i] << 8);
		CHECK(pass(table, &packet, NOW) == 0);
	}
	packet.sport = 5 << 8; /* an error nobody has defined */
	CHECK(pass(table, &packet, NOW) == FLOW_INVALID);
	packet = client;
	packet.cut = 1;
	CHECK(pass(table, &packet, NOW) == FLOW_INVALID);
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
}

/* --- errors about a connection ------------------------------------------------------------------
 */

static void test_related(bool ipv6, uint16_t tag)
{
	struct conntrack *table = table_new(16);
	struct packet query = asking, error, inner;

	query.ipv6 = ipv6;
	query.tag = tag;
	inner = query;
	error = packet_reply(query, 0, 6);
	error.src = 9; /* a router on the way */
	error.proto = ipv6 ? P_ICMPV6 : P_ICMP;
	error.sport = ipv6 ? 1 << 8 : 3 << 8;
	error.dport = 0;
	error.inner = &inner;
	CHECK(pass(table, &error, NOW) == FLOW_INVALID);
	CHECK(pass(table, &query, NOW) == FLOW_NEW);
	CHECK(pass(table, &error, NOW) == FLOW_RELATED);
	CHECK(conntrack_count(table) == 1 && only_row(table, NOW).frames[1] == 0);
	/* it goes to whoever sent the packet, or it is made up */
	error.dst = 3;
	CHECK(pass(table, &error, NOW) == FLOW_INVALID);
	error.dst = 1;
	inner.dport++;
	CHECK(pass(table, &error, NOW) == FLOW_INVALID);
	inner.dport--;
	error.cut = 1; /* seven of the eight bytes */
	CHECK(pass(table, &error, NOW) == FLOW_INVALID);
	error.cut = 0;
	inner.fragment = true;
	inner.offset = 100;
	CHECK(pass(table, &error, NOW) == FLOW_INVALID);
	inner.fragment = false;
	error.sport = ipv6 ? 137 << 8 : 5 << 8; /* a redirect changes routes */
	CHECK(pass(table, &error, NOW) == (ipv6 ? 0 : FLOW_INVALID));
	error.sport = ipv6 ? 3 << 8 : 11 << 8;
	CHECK(pass(table, &error, NOW + 29) == FLOW_RELATED);
	CHECK(pass(table, &error, NOW + 30) == FLOW_INVALID);
	conntrack_unmap(table);
}

/* --- fragments ----------------------------------------------------------------------------------
 */

static void test_fragments(bool ipv6)
{
	struct conntrack *table = table_new(16);
	struct packet first = asking, later, other;
	struct conntrack_row row;

	first.ipv6 = ipv6;
	first.fragment = first.more = true;
	first.id = 4242;
	later = first;
	later.offset = 100;
	later.more = false;
	CHECK(pass(table, &later, NOW) == FLOW_INVALID);
	CHECK(look(table, &first, NOW) == FLOW_NEW);
	CHECK(look(table, &later, NOW) == FLOW_INVALID); /* the first one was not let through */
	CHECK(pass(table, &first, NOW) == FLOW_NEW);
	CHECK(pass(table, &later, NOW) == FLOW_NEW);
	CHECK(pass(table, &later, NOW + 29) == FLOW_NEW);
	CHECK(pass(table, &later, NOW + 30) == FLOW_INVALID);
	row = only_row(table, NOW + 29);
	CHECK(row.frames[0] == 3 && row.frames[1] == 0);
	CHECK(conntrack_count(table) == 1);
	other = later;
	other.id++;
	CHECK(look(table, &other, NOW) == FLOW_INVALID);
	other = later;
	other.src = 7;
	CHECK(look(table, &other, NOW) == FLOW_INVALID);
	other = later;
	other.tag = 2;
	CHECK(look(table, &other, NOW) == FLOW_INVALID);
	/* an answer in two parts */
	first = packet_reply(first, 0, 6);
	later = packet_reply(later, 0, 6);
	CHECK(pass(table, &first, NOW) == FLOW_ESTABLISHED);
	CHECK(pass(table, &later, NOW) == FLOW_ESTABLISHED);
	CHECK(only_row(table, NOW).frames[1] == 2);
	conntrack_flush(table, &all);
	CHECK(pass(table, &later, NOW) == FLOW_ESTABLISHED); /* counts for nobody */
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
}

/* A port that sends first fragments only pushes out its own. */
static void test_fragments_fair(void)
{
	struct conntrack *table = table_new(16);
	struct packet good = asking, flood = asking;

	good.fragment = good.more = flood.fragment = flood.more = true;
	flood.src = 66;
	flood.port = 9;
	CHECK(pass(table, &flood, NOW) == FLOW_NEW);
	for (unsigned i = 0; i < 5000; i++) {
		flood.id = (uint16_t)i;
		CHECK(pass(table, &flood, NOW) == FLOW_NEW);
		if (i == 2500)
			CHECK(pass(table, &good, NOW) == FLOW_NEW);
	}
	good.offset = 100;
	CHECK(look(table, &good, NOW) == FLOW_NEW);
	conntrack_unmap(table);
}

/* --- limits -------------------------------------------------------------------------------------
 */

static struct packet numbered(unsigned n, uint16_t port)
{
	struct packet packet = asking;

	packet.sport = (uint16_t)(1000 + n);
	packet.src = (uint8_t)port;
	packet.port = port;
	return packet;
}

static void answer(struct conntrack *table, struct packet packet)
{
	struct packet reply = packet_reply(packet, 0, 6);

	CHECK(pass(table, &reply, NOW) == FLOW_ESTABLISHED);
}

static void test_quota(void)
{
	struct conntrack *table = table_new(16);
	struct conntrack_settings settings = conntrack_defaults(16);
	struct packet packet;
	int status;

	CHECK(settings.port_quota == 4);
	for (unsigned n = 0; n < 4; n++) {
		packet = numbered(n, 5);
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	}
	answer(table, numbered(0, 5)); /* may stay; the oldest without an answer is 1 now */
	packet = numbered(1, 5);
	CHECK(pass(table, &packet, NOW + 1) == FLOW_NEW); /* but was seen again: 2 */
	packet = numbered(9, 8);
	CHECK(pass(table, &packet, NOW) == FLOW_NEW); /* another port's, untouched */
	packet = numbered(4, 5);
	CHECK(pass(table, &packet, NOW + 1) == FLOW_NEW);
	CHECK(conntrack_count(table) == 5);
	packet = packet_reply(numbered(2, 5), 0, 6);
	CHECK(look(table, &packet, NOW + 1) == FLOW_NEW); /* gone */
	for (unsigned n = 0; n < 5; n++) {
		packet = packet_reply(numbered(n, 5), 0, 6);
		if (n != 2)
			CHECK(pass(table, &packet, NOW + 1) == FLOW_ESTABLISHED);
	}
	packet = numbered(5, 5);
	CHECK(pass_status(table, &packet, NOW + 1, &status) == FLOW_NEW && status == -ENOSPC);
	CHECK(conntrack_count(table) == 5);
	settings.port_quota = 5;
	conntrack_set(table, &settings);
	CHECK(pass(table, &packet, NOW + 1) == FLOW_NEW);
	/* a port nobody can have */
	packet.port = CONNTRACK_PORTS_MAX;
	packet.sport = 1;
	pass_status(table, &packet, NOW, &status);
	CHECK(status == -ENOSPC);
	conntrack_unmap(table);
}

/* All of a large table can be used, and then a port pays for itself only. */
static void test_full(void)
{
	enum { MANY = 4096 };
	struct conntrack *table = table_new(MANY);
	struct conntrack_settings settings = conntrack_defaults(MANY);
	struct packet packet;
	int status;

	settings.port_quota = 0;
	conntrack_set(table, &settings);
	for (unsigned n = 0; n < MANY; n++) {
		packet = numbered(n, n % 2 ? 5 : 7);
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	}
	CHECK(conntrack_count(table) == MANY);
	packet = numbered(0, 8);
	pass_status(table, &packet, NOW, &status);
	CHECK(status == -ENOSPC);
	packet = numbered(MANY, 7);
	CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	CHECK(conntrack_count(table) == MANY);
	packet = packet_reply(numbered(0, 7), 0, 6);
	CHECK(look(table, &packet, NOW) == FLOW_NEW); /* it was the oldest of port 7 */
	packet = packet_reply(numbered(1, 5), 0, 6);
	CHECK(look(table, &packet, NOW) == FLOW_ESTABLISHED);
	CHECK(flush(table, RULE_NONE, 5) == MANY / 2);
	packet = numbered(0, 8);
	CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	conntrack_tick(table, NOW + 30);
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
}

/* --- dump and flush -----------------------------------------------------------------------------
 */

static void test_dump_and_flush(void)
{
	enum { COUNT = 300 };
	struct conntrack *table = table_new(65536);
	struct conntrack_row rows[7];
	struct conntrack_filter some = {.bridge = BRIDGE,
					.port = 5,
					.ip_version = 4,
					.address = {[12] = 10, [15] = 2},
					.proto = P_UDP,
					.state = FLOW_NEW};
	bool seen[COUNT] = {false};
	uint32_t cursor = 0;
	unsigned found = 0;

	for (unsigned n = 0; n < COUNT; n++) {
		struct packet packet = numbered(n, 5);

		packet.ipv6 = n % 3 == 0;
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	}
	do {
		int count = conntrack_dump(table, &all, NOW, &cursor, rows, 7);

		for (int i = 0; i < count; i++) {
			unsigned n = rows[i].src_port - 1000u;

			CHECK(n < COUNT && !seen[n]);
			seen[n % COUNT] = true;
			CHECK(rows[i].ip_version == (n % 3 ? 4 : 6) && rows[i].dst[15] == 2);
			found++;
		}
	} while (cursor);
	CHECK(found == COUNT);
	for (unsigned fault = 0; fault < 3; fault++) {
		struct conntrack_filter none = some;

		none.proto = fault == 0 ? P_TCP : P_UDP;
		none.state = fault == 1 ? FLOW_ESTABLISHED : FLOW_NEW;
		none.address[15] = fault == 2 ? 3 : 2;
		CHECK(conntrack_dump(table, &none, NOW, &cursor, rows, 7) == 0 && cursor == 0);
		CHECK(conntrack_flush(table, &none) == 0);
	}
	CHECK(flush(table, BRIDGE + 1, RULE_NONE) == 0);
	CHECK(flush(table, RULE_NONE, 6) == 0);
	CHECK(conntrack_flush(table, &some) == COUNT - COUNT / 3);
	CHECK(conntrack_count(table) == COUNT / 3);
	CHECK(flush(table, BRIDGE, RULE_NONE) == COUNT / 3);
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
}

/* --- takeover -----------------------------------------------------------------------------------
 */

static int memory_new(uint32_t connections_max)
{
	int fd = memfd_create("conntrack", 0);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)conntrack_bytes(connections_max)) == 0);
	return fd;
}

static struct conntrack *table_of(int fd, uint32_t connections_max)
{
	struct conntrack *table = NULL;
	struct error err = {0};

	CHECK(conntrack_map(fd, connections_max, &table, &err) == 0);
	CHECK(conntrack_take_over(table, &err) == 0);
	return table;
}

static void test_takeover(uint32_t connections_max, unsigned count)
{
	int fd = memory_new(connections_max);
	struct conntrack *table = table_of(fd, connections_max);
	struct packet packet;
	struct error err = {0};

	for (unsigned n = 0; n < count; n++) {
		packet = numbered(n, 5);
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
		if (n % 2)
			answer(table, packet);
	}
	conntrack_lock(&table->shards[0].lock); /* its holder is killed */
	conntrack_lock(&table->ports[5].lock);
	conntrack_unmap(table);
	table = table_of(fd, connections_max);
	CHECK(conntrack_count(table) == count);
	for (unsigned n = 0; n < count; n++) {
		packet = numbered(n, 5);
		CHECK(look(table, &packet, NOW) == (n % 2 ? FLOW_ESTABLISHED : FLOW_NEW));
		packet = packet_reply(packet, 0, 6);
		CHECK(look(table, &packet, NOW) == FLOW_ESTABLISHED);
	}
	conntrack_unmap(table);
	CHECK(conntrack_map(fd, connections_max / 2, &table, &err) == -EPROTO);
	CHECK(conntrack_map(fd, connections_max * 64, &table, &err) == -EINVAL);
	CHECK(conntrack_map(fd, 0, &table, &err) == -EINVAL);
	close(fd);
}

/* Entries that nobody can have written whole, one fault each. */
static void spoil(struct conntrack_entry *entry, unsigned fault)
{
	switch (fault) {
	case 0:
		atomic_store(&entry->stamp, conntrack_stamp(entry) + 1);
		break;
	case 1:
		entry->tuple.proto = 99;
		break;
	case 2:
		entry->tuple.address[0][15] ^=
		    1; /* hashes to another shard, or to the wrong chain */
		break;
	case 3:
		entry->in_port = 0xfff0;
		break;
	case 4:
		entry->tcp = 200;
		break;
	case 5:
		entry->origin = 2;
		break;
	case 6:
		entry->tuple.ip_version = 9;
		break;
	case 7:
		entry->answered = 77;
		break;
	default:
		entry->tuple.address[1][0] = 1;
	}
	entry->next = entry->older = entry->newer = 0xdeadbeef;
	entry->hash = 0x12345678;
}

static void test_takeover_spoiled(void)
{
	enum { MAX = 8192, COUNT = 2000 };
	int fd = memory_new(MAX);
	struct conntrack *table = table_of(fd, MAX);
	struct conntrack_settings settings = conntrack_defaults(MAX);
	unsigned used = 0, spoiled = 0;
	struct packet packet;

	for (unsigned n = 0; n < COUNT; n++) {
		packet = numbered(n, 5);
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	}
	for (uint32_t i = 0; i < table->shard_count * table->shard_slots; i++) {
		struct conntrack_entry *entry = &table->entries[i];

		if (!(conntrack_stamp(entry) & 1))
			continue;
		if (used++ % 2 == 0 && (used / 2) % 9 != 2)
			spoil(entry, spoiled++ % 9 == 2 ? 0 : (used / 2) % 9);
	}
	conntrack_unmap(table);
	table = table_of(fd, MAX);
	CHECK(conntrack_count(table) == COUNT - spoiled);
	/* what is left works, up to the table's limit */
	settings.port_quota = 0;
	conntrack_set(table, &settings);
	for (unsigned n = 0; n < MAX; n++) {
		packet = numbered(n, 5);
		CHECK(pass(table, &packet, NOW) == FLOW_NEW);
	}
	CHECK(conntrack_count(table) == MAX);
	conntrack_tick(table, NOW + 100);
	CHECK(conntrack_count(table) == 0);
	conntrack_unmap(table);
	close(fd);
}

/* --- threads ------------------------------------------------------------------------------------
 */

enum { RACE_MAX = 4096, RACE_FLOWS = 6000, RACE_WORKERS = 3 };

struct race {
	struct conntrack *table;
	_Atomic bool *stop;
	unsigned number;
	uint64_t frames;
	uint64_t refused;
};

/* Both directions of many connections, some by two workers, more than there is room for. */
static void *race_worker(void *arg)
{
	struct race *race = arg;
	uint64_t random = 77 + race->number;

	for (; !atomic_load(race->stop); race->frames++) {
		struct packet packet = numbered(random_below(&random, RACE_FLOWS), 5);
		uint32_t now = NOW + (uint32_t)(race->frames >> 12);
		int status;

		packet.proto = packet.sport % 2 ? P_TCP : P_UDP;
		packet.flags = (uint8_t[]){F_SYN, F_SYN | F_ACK, F_ACK, F_FIN | F_ACK,
					   F_RST}[random_below(&random, 5)];
		if (random_below(&random, 4) == 0) {
			packet.fragment = true;
			packet.more = random_below(&random, 2);
			packet.offset = packet.more ? 0 : 100;
		}
		packet.port = (uint16_t)(5 + race->number);
		if (random_below(&random, 2))
			packet = packet_reply(packet, packet.flags, (uint16_t)(5 + race->number));
		pass_status(race->table, &packet, now, &status);
		race->refused += status == -ENOSPC;
		CHECK(status == 0 || status == -ENOSPC);
	}
	return NULL;
}

static void *race_control(void *arg)
{
	struct race *race = arg;
	struct conntrack_row rows[64];
	struct conntrack_settings settings = conntrack_defaults(RACE_MAX);
	uint32_t now = NOW;

	for (; !atomic_load(race->stop); race->frames++) {
		uint32_t cursor = 0;

		do {
			int count = conntrack_dump(race->table, &all, now, &cursor, rows, 64);

			for (int i = 0; i < count; i++)
				CHECK(rows[i].bridge == BRIDGE && rows[i].ip_version == 4);
		} while (cursor);
		conntrack_tick(race->table, now += race->frames % 8 == 0);
		if (race->frames % 16 == 0)
			flush(race->table, BRIDGE, 5);
		settings.port_quota = 500 + (uint32_t)race->frames % 1000;
		conntrack_set(race->table, &settings);
		CHECK(conntrack_count(race->table) <= RACE_MAX);
	}
	return NULL;
}

static void test_threads(void)
{
	struct conntrack *table = table_new(RACE_MAX);
	struct race races[RACE_WORKERS + 1];
	pthread_t threads[RACE_WORKERS + 1];
	_Atomic bool stop = false;
	uint64_t end = now_ms() + 1500;
	uint32_t left = 0;

	for (unsigned n = 0; n <= RACE_WORKERS; n++) {
		races[n] = (struct race){.table = table, .stop = &stop, .number = n};
		CHECK(pthread_create(&threads[n], NULL,
				     n < RACE_WORKERS ? race_worker : race_control,
				     &races[n]) == 0);
	}
	while (now_ms() < end)
		usleep(10000);
	atomic_store(&stop, true);
	for (unsigned n = 0; n <= RACE_WORKERS; n++) {
		pthread_join(threads[n], NULL);
		CHECK(races[n].frames > 0);
	}
	/* the counts are those of what is there */
	for (uint32_t i = 0; i < table->shard_count * table->shard_slots; i++)
		left += conntrack_stamp(&table->entries[i]) & 1;
	CHECK(conntrack_count(table) == left);
	CHECK((uint32_t)conntrack_flush(table, &all) == left);
	for (unsigned port = 0; port < CONNTRACK_PORTS_MAX; port++)
		CHECK(table->ports[port].count == 0 && table->ports[port].oldest == 0);
	conntrack_unmap(table);
}

int main(void)
{
	test_tcp_life();
	test_tcp_refused();
	test_tcp_middle();
	test_tcp_simultaneous();
	test_tcp_loose();
	test_udp();
	test_icmp(false);
	test_icmp(true);
	test_not_tracked();
	test_related(false, 0);
	test_related(true, 0);
	test_related(false, 12);
	test_related(true, 12);
	test_fragments(false);
	test_fragments(true);
	test_fragments_fair();
	test_quota();
	test_full();
	test_dump_and_flush();
	test_takeover(16, 4);
	test_takeover(65536, 9000);
	test_takeover_spoiled();
	test_threads();
	return check_result();
}
