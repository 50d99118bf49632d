/*
 * neighbor: messages against bytes that another implementation (scapy) made; what is refused;
 * knocks and their answers; and what a table keeps, pushes out and asks again.
 */
#include <string.h>

#include "check.h"
#include "neighbor.h"
#include "neighbor_table.h"

static const uint64_t self = 0x020000000001, station = 0x020000000002;
static const struct neighbor_addr us = {0, 0xffffc0000201};	 /* 192.0.2.1 */
static const struct neighbor_addr them = {0, 0xffffc0000202};	 /* 192.0.2.2 */
static const struct neighbor_addr us6 = {0x20010db800000000, 1}; /* 2001:db8::1 */
static const struct neighbor_addr them6 = {0x20010db800000000, 2};
static const struct neighbor_addr nobody;

/* "Who has us?" of them; the answer; "who has them?" of us. */
static const char arp_request[] = "ffffffffffff0200000000020806"
				  "0001080006040001020000000002c0000202000000000000c0000201";
static const char arp_reply[] = "0200000000020200000000010806"
				"0001080006040002020000000001c0000201020000000002c0000202";
static const char arp_ask[] = "ffffffffffff0200000000010806"
			      "0001080006040001020000000001c0000201000000000000c0000202";
static const char nd_request[] =
    "3333ff00000102000000000286dd6000000000203aff20010db8000000000000000000000002"
    "ff0200000000000000000001ff00000187001c270000000020010db8000000000000000000000001"
    "0101020000000002";
static const char nd_reply[] =
    "02000000000202000000000186dd6000000000203aff20010db8000000000000000000000001"
    "20010db800000000000000000000000288008a736000000020010db8000000000000000000000001"
    "0201020000000001";
static const char nd_ask[] =
    "3333ff00000202000000000186dd6000000000203aff20010db8000000000000000000000001"
    "ff0200000000000000000001ff00000287001c270000000020010db8000000000000000000000002"
    "0101020000000001";
/* Is our address free? And that it is not. */
static const char dad_request[] =
    "3333ff00000102000000000286dd6000000000183aff00000000000000000000000000000000"
    "ff0200000000000000000001ff00000187004ced0000000020010db8000000000000000000000001";
static const char dad_reply[] =
    "33330000000102000000000186dd6000000000203aff20010db8000000000000000000000001"
    "ff0200000000000000000000000000018800f92a2000000020010db8000000000000000000000001"
    "0201020000000001";

static unsigned bytes_of(const char *hex, uint8_t *bytes)
{
	unsigned len = 0, byte;

	for (; sscanf(hex + (size_t)2 * len, "%2x", &byte) == 1; len++)
		bytes[len] = (uint8_t)byte;
	return len;
}

static enum neighbor_kind parse(const uint8_t *bytes, unsigned len,
				struct neighbor_message *message)
{
	return neighbor_parse(bytes, len, 14, load_be16(bytes + 12), false, message);
}

static void test_read(void)
{
	struct neighbor_message message;
	uint8_t bytes[128];

	CHECK(parse(bytes, bytes_of(arp_request, bytes), &message) == NEIGHBOR_ASK);
	CHECK(neighbor_same(message.addr, them) && neighbor_same(message.target, us));
	CHECK(message.mac == station && message.override);
	CHECK(parse(bytes, bytes_of(arp_reply, bytes), &message) == NEIGHBOR_TELL);
	CHECK(neighbor_same(message.addr, us) && message.mac == self);
	CHECK(parse(bytes, bytes_of(nd_request, bytes), &message) == NEIGHBOR_ASK);
	CHECK(neighbor_same(message.addr, them6) && neighbor_same(message.target, us6));
	CHECK(message.mac == station);
	CHECK(parse(bytes, bytes_of(nd_reply, bytes), &message) == NEIGHBOR_TELL);
	CHECK(neighbor_same(message.addr, us6) && message.mac == self && message.override);
	CHECK(parse(bytes, bytes_of(dad_request, bytes), &message) == NEIGHBOR_ASK);
	CHECK(!neighbor_specified(message.addr) && message.mac == 0);
}

static void expect(const uint8_t *out, unsigned len, const char *hex)
{
	uint8_t bytes[128];

	CHECK(len == bytes_of(hex, bytes));
	CHECK(memcmp(out, bytes, len) == 0);
}

static void test_made(void)
{
	uint8_t out[NEIGHBOR_BYTES];

	expect(out, neighbor_ask(out, self, us, them, 0), arp_ask);
	expect(out, neighbor_tell(out, self, us, them, station), arp_reply);
	expect(out, neighbor_ask(out, self, us6, them6, 0), nd_ask);
	expect(out, neighbor_tell(out, self, us6, them6, station), nd_reply);
	expect(out, neighbor_tell(out, self, us6, nobody, station), dad_reply);
}

/* One byte set to a value makes the message into something else. */
static void changed(const char *hex, unsigned at, uint8_t value, enum neighbor_kind kind)
{
	struct neighbor_message message;
	uint8_t bytes[128];
	unsigned len = bytes_of(hex, bytes);

	bytes[at] = value;
	if (!CHECK(parse(bytes, len, &message) == kind))
		fprintf(stderr, "  byte %u set to %u\n", at, value);
}

static void test_refused(void)
{
	struct neighbor_message message;
	uint8_t bytes[128];
	unsigned len;

	len = bytes_of(arp_request, bytes);
	for (unsigned cut = 14; cut < len; cut++)
		CHECK(parse(bytes, cut, &message) == NEIGHBOR_BAD);
	len = bytes_of(nd_request, bytes);
	for (unsigned cut = 14 + 41; cut < len; cut++)
		CHECK(parse(bytes, cut, &message) == NEIGHBOR_BAD);
	changed(arp_request, 15, 6, NEIGHBOR_NONE);  /* hardware that is not Ethernet */
	changed(arp_request, 18, 8, NEIGHBOR_NONE);  /* longer addresses */
	changed(arp_request, 21, 3, NEIGHBOR_NONE);  /* RARP */
	changed(arp_request, 22, 3, NEIGHBOR_BAD);   /* sent by a group */
	changed(arp_request, 28, 224, NEIGHBOR_BAD); /* for a group */
	changed(nd_request, 21, 254, NEIGHBOR_BAD);  /* it has been forwarded */
	changed(nd_request, 55, 1, NEIGHBOR_BAD);    /* code */
	changed(nd_request, 56, 0x1d, NEIGHBOR_BAD); /* checksum */
	changed(nd_request, 62, 0xff, NEIGHBOR_BAD); /* target is a group */
	changed(nd_request, 79, 0, NEIGHBOR_BAD);    /* an option of no length */
	changed(nd_request, 79, 2, NEIGHBOR_BAD);    /* one that is longer than the message */
	changed(nd_request, 54, 128, NEIGHBOR_NONE); /* an echo */
	changed(nd_request, 20, 17, NEIGHBOR_NONE);  /* UDP */
	len = bytes_of(nd_request, bytes);
	bytes[56] ^= 1;
	CHECK(neighbor_parse(bytes, len, 14, NEIGHBOR_IPV6, true, &message) == NEIGHBOR_ASK);
}

static void test_groups(void)
{
	const struct neighbor_addr all = {0, 0xffffffffffff}, mdns = {0, 0xffffe00000fb};
	const struct neighbor_addr high = {0, 0xffffeff00001}, node = {0xff02000000000000, 0x10002};

	CHECK(neighbor_group_mac(all) == MAC_BROADCAST);
	CHECK(neighbor_group_mac(mdns) == 0x01005e0000fb);
	CHECK(neighbor_group_mac(high) == 0x01005e700001); /* 23 bits are left of the address */
	CHECK(neighbor_group_mac(node) == 0x333300010002);
	CHECK(neighbor_group_mac(us) == 0 && neighbor_group_mac(us6) == 0);
	CHECK(neighbor_is_unicast(us) && neighbor_is_unicast(us6));
	CHECK(!neighbor_is_unicast(all) && !neighbor_is_unicast(mdns) &&
	      !neighbor_is_unicast(node));
	CHECK(!neighbor_is_unicast(nobody));
	CHECK(!neighbor_is_unicast((struct neighbor_addr){0, 1}));
	CHECK(!neighbor_is_unicast((struct neighbor_addr){0, 0xffff7f000001}));
}

static void test_prefixes(void)
{
	static const char *const wrong[] = {
	    "",		  "192.0.2.1/24",  "192.0.2.0/33", "192.0.2/24",
	    "host",	  "192.0.2.0/",	   "192.0.2.0/-1", "::/129",
	    "fe80::1/64", "192.0.2.0/24x", "1.2.3.4.5"};
	struct neighbor_prefix prefix;

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK(!neighbor_prefix_parse(wrong[i], &prefix));
	CHECK(neighbor_prefix_parse("192.0.2.0/24", &prefix) && prefix.bits == 120);
	CHECK(neighbor_prefix_has(&prefix, us) && !neighbor_prefix_has(&prefix, us6));
	CHECK(!neighbor_prefix_has(&prefix, (struct neighbor_addr){0, 0xffffc0000301}));
	CHECK(neighbor_prefix_parse("192.0.2.1", &prefix) && prefix.bits == 128);
	CHECK(neighbor_prefix_has(&prefix, us) && !neighbor_prefix_has(&prefix, them));
	CHECK(neighbor_prefix_parse("2001:db8::/32", &prefix) && prefix.bits == 32);
	CHECK(neighbor_prefix_has(&prefix, them6) && !neighbor_prefix_has(&prefix, us));
	CHECK(neighbor_prefix_parse("0.0.0.0/0", &prefix) && neighbor_prefix_has(&prefix, us));
	CHECK(neighbor_prefix_parse("::/0", &prefix) && neighbor_prefix_has(&prefix, us6));
}

/* As a stack answers an echo: addresses exchanged, another type. */
static void echo_answer(uint8_t *packet, bool v6)
{
	uint8_t *src = packet + (v6 ? 8 : 12), addr[16];
	size_t len = v6 ? 16 : 4;

	memcpy(addr, src, len);
	memcpy(src, src + len, len);
	memcpy(src + len, addr, len);
	packet[v6 ? 40 : 20] = v6 ? 129 : 0;
}

static void test_knocks(void)
{
	const struct neighbor_addr askers[] = {them, them6}, targets[] = {us, us6};
	uint8_t knock[NEIGHBOR_KNOCK_BYTES], error[128] = {0};
	const uint64_t key = 42;

	for (unsigned v6 = 0; v6 < 2; v6++) {
		unsigned head = v6 ? 40 : 20;
		unsigned len = neighbor_knock(knock, askers[v6], targets[v6], key);

		CHECK(knock[v6 ? 7 : 8] == 1); /* no router may pass it on */
		memcpy(error, knock, head);
		error[head] = v6 ? 3 : 11;
		memcpy(error + head + 8, knock, len);
		CHECK(neighbor_knock_parse(error, head + 8 + len, key) == NEIGHBOR_KNOCK_REFUSED);
		CHECK(neighbor_knock_parse(error, head + 8 + len - 1, key) == NEIGHBOR_KNOCK_NONE);
		CHECK(neighbor_knock_parse(knock, len, key) == NEIGHBOR_KNOCK_NONE);
		echo_answer(knock, v6);
		CHECK(neighbor_knock_parse(knock, len, key) == NEIGHBOR_KNOCK_ANSWERED);
		CHECK(neighbor_knock_parse(knock, len, key + 1) == NEIGHBOR_KNOCK_NONE);
		CHECK(neighbor_knock_parse(knock, len - 1, key) == NEIGHBOR_KNOCK_NONE);
		knock[head - 1] ^= 1; /* somebody else's */
		CHECK(neighbor_knock_parse(knock, len, key) == NEIGHBOR_KNOCK_NONE);
	}
}

static struct neighbor_addr numbered(uint32_t n)
{
	return (struct neighbor_addr){0, (uint64_t)0xffff << 32 | (0x0a000000 + n)};
}

/* However many are asked for, those that are known and heard of last stay. */
static void test_table_is_bounded(void)
{
	static struct neighbor_table table;
	struct neighbor_entry out, *entry;
	unsigned kept = 0;

	neighbor_table_init(&table, 7);
	for (uint32_t n = 0; n < 100; n++)
		neighbor_told(&table, neighbor_add(&table, numbered(n), &out), station, 1);
	CHECK(table.known == 100);
	for (uint32_t n = 1000; n < 100000; n++) {
		entry = neighbor_add(&table, numbered(n), &out);
		entry->state = NEIGHBOR_ASKED;
		entry->asked_s = n;
	}
	for (uint32_t n = 0; n < 100; n++)
		kept += neighbor_find(&table, numbered(n)) != NULL;
	CHECK(kept == 100); /* no set of eight was full of them */
	CHECK(table.known == 100);
	for (uint32_t n = 0; n < 100000; n++)
		neighbor_told(&table, neighbor_add(&table, numbered(n), &out), station, n + 2);
	CHECK(table.known == NEIGHBOR_MAX);
	CHECK(neighbor_find(&table, numbered(99999)) && !neighbor_find(&table, numbered(0)));
}

static void test_table_ages(void)
{
	static struct neighbor_table table;
	struct neighbor_entry out, *entry = neighbor_add(&table, us, &out);
	uint64_t changes;

	entry->state = NEIGHBOR_ASKED;
	entry->asked_s = 10;
	entry->tries = 1;
	CHECK(neighbor_age(entry, 10) == NEIGHBOR_REST);
	CHECK(neighbor_age(entry, 11) == NEIGHBOR_ASK_AGAIN);
	CHECK(neighbor_age(entry, 11) == NEIGHBOR_REST);
	CHECK(neighbor_age(entry, 12) == NEIGHBOR_ASK_AGAIN);
	CHECK(neighbor_age(entry, 13) == NEIGHBOR_GIVE_UP);
	neighbor_told(&table, entry, station, 20);
	changes = table.changes;
	neighbor_told(&table, entry, station, 20);
	CHECK(table.changes == changes); /* the same again is no change */
	neighbor_told(&table, entry, self, 20);
	CHECK(table.changes != changes);
	CHECK(neighbor_age(entry, 20 + NEIGHBOR_FRESH_S) == NEIGHBOR_REST); /* nobody uses it */
	entry->used_s = 21;
	for (unsigned i = 0; i < NEIGHBOR_TRIES; i++)
		CHECK(neighbor_age(entry, 20 + NEIGHBOR_FRESH_S + i) == NEIGHBOR_ASK_AGAIN);
	CHECK(neighbor_age(entry, 20 + NEIGHBOR_FRESH_S + NEIGHBOR_TRIES) == NEIGHBOR_GIVE_UP);
	neighbor_told(&table, entry, self, 100);
	entry->used_s = 100;
	CHECK(neighbor_age(entry, 99 + NEIGHBOR_FORGET_S) == NEIGHBOR_REST);
	CHECK(neighbor_age(entry, 100 + NEIGHBOR_FORGET_S) == NEIGHBOR_GIVE_UP);
	neighbor_forget(&table, entry);
	CHECK(table.known == 0 && !neighbor_find(&table, us));
}

/* A process was killed in the middle of whatever: what makes sense stays. */
static void test_table_recovers(void)
{
	static struct neighbor_table table;
	struct neighbor_entry out, *entry;

	neighbor_table_init(&table, 9);
	for (uint32_t n = 0; n < 20; n++)
		neighbor_told(&table, neighbor_add(&table, numbered(n), &out), station, 5);
	neighbor_find(&table, numbered(3))->waiting = 7;
	neighbor_find(&table, numbered(4))->state = NEIGHBOR_ASKED;
	neighbor_find(&table, numbered(5))->mac = MAC_BROADCAST;
	neighbor_find(&table, numbered(6))->addr = nobody;
	neighbor_find(&table, numbered(7))->addr = numbered(8); /* in another set, or twice */
	neighbor_find(&table, numbered(9))->state = 77;
	table.known = 4711;
	neighbor_table_recover(&table);
	entry = neighbor_find(&table, numbered(3));
	CHECK(entry && entry->mac == station && entry->told_s == 5 && entry->waiting == 0);
	CHECK(entry->first == NEIGHBOR_NOBODY && entry->last == NEIGHBOR_NOBODY);
	for (uint32_t n = 4; n < 10; n++)
		CHECK(!neighbor_find(&table, numbered(n)) == (n != 8));
	CHECK(table.known >= 15 && table.known <= 16);
}

int main(void)
{
	test_read();
	test_made();
	test_refused();
	test_groups();
	test_prefixes();
	test_knocks();
	test_table_is_bounded();
	test_table_ages();
	test_table_recovers();
	return check_result();
}
