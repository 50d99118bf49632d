/*
 * vlan: what each mode takes in, as which VLAN, and what it sends out; then the bytes of every
 * edit, in place and aside. The table is the one in vlan.h, written out by hand.
 */
#include <string.h>

#include "check.h"
#include "parse.h"
#include "vlan.h"

enum { REFUSED = 0xffff };

static struct vlan_port port_of(enum vlan_mode mode)
{
	struct vlan_port port = {.mode = (uint8_t)mode, .pvid = 10};

	if (mode == VLAN_TRUNK || mode == VLAN_NATIVE)
		port.tagged[20 / 64] = (uint64_t)1 << 20;
	return port;
}

/* tags 0: untagged. Returns the VLAN or REFUSED. */
static unsigned enter(enum vlan_mode mode, unsigned tags, unsigned tci, struct frame *frame)
{
	struct vlan_port port = port_of(mode);

	*frame = (struct frame){.tags = (uint8_t)tags};
	return vlan_in(&port, frame, (uint16_t)tci) ? frame->vid : REFUSED;
}

static void test_in(void)
{
	static const struct {
		unsigned tags, tci;
		unsigned vid[4]; /* access, trunk, native, tunnel */
	} table[] = {
	    {0, 0, {10, REFUSED, 10, 10}},		  /* untagged */
	    {1, 0xa000, {10, REFUSED, 10, 10}},		  /* priority only */
	    {1, 0xa000 | 10, {REFUSED, REFUSED, 10, 10}}, /* the pvid */
	    {1, 20, {REFUSED, 20, 20, 10}},		  /* a member */
	    {2, 20, {REFUSED, 20, 20, 10}},		  /* with an inner tag */
	    {1, 21, {REFUSED, REFUSED, REFUSED, 10}},	  /* not a member */
	    {1, 4095, {REFUSED, REFUSED, REFUSED, 10}},	  /* reserved */
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		for (unsigned mode = VLAN_ACCESS; mode <= VLAN_TUNNEL; mode++) {
			struct frame frame;

			CHECK(enter(mode, table[i].tags, table[i].tci, &frame) ==
			      table[i].vid[mode]);
		}
	}
}

/* VLAN 4095 is nobody's, even where a trunk lists it. */
static void test_reserved_vid(void)
{
	struct vlan_port port = {.mode = VLAN_TRUNK};
	struct frame frame = {.tags = 1};

	memset(port.tagged, 0xff, sizeof(port.tagged));
	CHECK(!vlan_in(&port, &frame, 4095));
	CHECK(vlan_in(&port, &frame, 4094));
}

static void test_out(void)
{
	static const struct {
		enum vlan_mode from;
		unsigned tags, tci;
		enum vlan_edit edit[4]; /* to access, trunk, native, tunnel */
	} table[] = {
	    {VLAN_ACCESS, 0, 0, {VLAN_EDIT_NONE, VLAN_EDIT_PUSH, VLAN_EDIT_NONE, VLAN_EDIT_NONE}},
	    {VLAN_ACCESS, 1, 0xa000, {VLAN_EDIT_POP, VLAN_EDIT_SET, VLAN_EDIT_POP, VLAN_EDIT_NONE}},
	    {VLAN_NATIVE, 1, 10, {VLAN_EDIT_POP, VLAN_EDIT_NONE, VLAN_EDIT_POP, VLAN_EDIT_POP}},
	    {VLAN_TUNNEL, 0, 0, {VLAN_EDIT_NONE, VLAN_EDIT_PUSH, VLAN_EDIT_NONE, VLAN_EDIT_NONE}},
	    {VLAN_TUNNEL, 1, 20, {VLAN_EDIT_NONE, VLAN_EDIT_PUSH, VLAN_EDIT_NONE, VLAN_EDIT_NONE}},
	    {VLAN_TRUNK, 1, 20, {VLAN_EDIT_POP, VLAN_EDIT_NONE, VLAN_EDIT_NONE, VLAN_EDIT_POP}},
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		for (unsigned mode = VLAN_ACCESS; mode <= VLAN_TUNNEL; mode++) {
			struct vlan_port port = port_of(mode);
			struct frame frame;

			CHECK(enter(table[i].from, table[i].tags, table[i].tci, &frame) != REFUSED);
			CHECK(vlan_out(&port, &frame) == table[i].edit[mode]);
		}
	}
}

static void test_member(void)
{
	for (unsigned vid = 1; vid <= VLAN_VID_MAX; vid++) {
		for (unsigned mode = VLAN_ACCESS; mode <= VLAN_TUNNEL; mode++) {
			struct vlan_port port = port_of(mode);
			bool pvid = vid == 10 && mode != VLAN_TRUNK;
			bool tagged = vid == 20 && (mode == VLAN_TRUNK || mode == VLAN_NATIVE);

			CHECK(vlan_member(&port, (uint16_t)vid) == (pvid || tagged));
		}
	}
}

/* --- bytes ---------------------------------------------------------------------------------------
 */

static const uint8_t addresses[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

/* A frame with the tags given as TPID and TCI, then ethertype 0800 and a few bytes. */
static unsigned build(uint8_t *at, const unsigned (*tags)[2], unsigned count)
{
	unsigned len = 12;

	memcpy(at, addresses, 12);
	for (unsigned i = 0; i < count; i++) {
		at[len++] = (uint8_t)(tags[i][0] >> 8);
		at[len++] = (uint8_t)tags[i][0];
		at[len++] = (uint8_t)(tags[i][1] >> 8);
		at[len++] = (uint8_t)tags[i][1];
	}
	memcpy(at + len, "\x08\x00payload", 9);
	return len + 9;
}

static void check_edit(enum vlan_edit edit, struct frame frame, const unsigned (*before)[2],
		       unsigned before_count, const unsigned (*after)[2], unsigned after_count)
{
	uint8_t old[64], expected[64], header[32], result[64], *start;
	unsigned old_len = build(old + 8, before, before_count);
	unsigned expected_len = build(expected, after, after_count);
	unsigned consumed, len;
	int delta = (int)expected_len - (int)old_len;

	frame.tags = (uint8_t)before_count;
	len = vlan_header(edit, &frame, old + 8, header, &consumed);
	memcpy(result, header, len);
	memcpy(result + len, old + 8 + consumed, old_len - consumed);
	CHECK(len + old_len - consumed == expected_len);
	CHECK(memcmp(result, expected, expected_len) == 0);

	start = old + 8 - delta;
	vlan_header(edit, &frame, old + 8, start, &consumed);
	CHECK(memcmp(start, expected, expected_len) == 0);
}

static void test_bytes(void)
{
	static const unsigned c29[][2] = {{0x8100, 0xa01d}}, priority[][2] = {{0x8100, 0xa000}},
			      s10_c29[][2] = {{0x88a8, 0xa00a}, {0x8100, 0xa01d}},
			      c10[][2] = {{0x8100, 10}}, s10[][2] = {{0x88a8, 10}},
			      c10_p5[][2] = {{0x8100, 0xa00a}};
	struct frame plain = {.vid = 10}, tagged = {.vid = 29, .tag = VLAN_TAG_VID};
	struct frame customer = {.vid = 10, .tag = VLAN_TAG_CUSTOMER};
	struct frame prio = {.vid = 10, .tag = VLAN_TAG_PRIORITY};

	check_edit(VLAN_EDIT_PUSH, plain, NULL, 0, c10, 1);
	check_edit(VLAN_EDIT_POP, tagged, c29, 1, NULL, 0);
	check_edit(VLAN_EDIT_POP, tagged, s10_c29, 2, c29, 1);
	check_edit(VLAN_EDIT_SET, prio, priority, 1, c10_p5, 1);
	check_edit(VLAN_EDIT_PUSH, customer, NULL, 0, s10, 1);
	check_edit(VLAN_EDIT_PUSH, customer, c29, 1, s10_c29, 2);
}

int main(void)
{
	test_in();
	test_reserved_vid();
	test_out();
	test_member();
	test_bytes();
	return check_result();
}
