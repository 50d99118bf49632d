/*
 * Bytes of strangers through what an L3 port reads: ARP and Neighbor Discovery from the bridge,
 * packets and answers to knocks from behind. Input: 14 bytes of control, then a frame; its bytes
 * are an allocation of exactly their size, so that the sanitizer sees a read of one too many.
 * Beyond memory safety:
 *
 *   - a message that was understood names stations only; what is made of it is understood again
 *   - a knock is known by its answer and by nothing else
 *   - a table holds at most one entry of an address, counts what it knows, and gives everything
 *     that waits back through the entry it pushes out
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "neighbor.h"
#include "neighbor_table.h"

enum { CONTROL_BYTES = 14 };
static const uint64_t self = 0x020000000001, other = 0x020000000002, key = 0x123456789abcdef;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The mapping an answer states, as another station reads it. */
static void check_told(struct neighbor_addr target, struct neighbor_addr asker)
{
	struct neighbor_message message;
	uint8_t out[NEIGHBOR_BYTES];
	unsigned len = neighbor_tell(out, self, target, asker, other);
	uint16_t type = load_be16(out + 12);

	assert(len <= NEIGHBOR_BYTES);
	assert(neighbor_parse(out, len, 14, type, false, &message) == NEIGHBOR_TELL);
	assert(neighbor_same(message.addr, target) && message.mac == self);
}

static void check_asked(struct neighbor_addr sender, struct neighbor_addr target, uint64_t to)
{
	struct neighbor_message message;
	uint8_t out[NEIGHBOR_BYTES];
	unsigned len = neighbor_ask(out, self, sender, target, to);

	assert(len <= NEIGHBOR_BYTES);
	assert(neighbor_parse(out, len, 14, load_be16(out + 12), false, &message) == NEIGHBOR_ASK);
	assert(neighbor_same(message.target, target) && neighbor_same(message.addr, sender));
}

static void check_message(const uint8_t *bytes, uint32_t len, uint32_t l3, uint16_t type)
{
	struct neighbor_message message;
	enum neighbor_kind kind = neighbor_parse(bytes, len, l3, type, false, &message);

	if (kind != NEIGHBOR_ASK && kind != NEIGHBOR_TELL)
		return;
	assert(!neighbor_specified(message.addr) || neighbor_is_unicast(message.addr));
	assert(!(message.mac & MAC_GROUP));
	if (kind == NEIGHBOR_ASK && neighbor_is_unicast(message.target)) {
		check_told(message.target, message.addr);
		if (neighbor_specified(message.addr))
			check_asked(message.addr, message.target, message.mac);
	}
}

static void check_packet(const uint8_t *bytes, uint32_t len)
{
	uint8_t knock[NEIGHBOR_KNOCK_BYTES];
	struct neighbor_packet packet;
	unsigned knock_len;

	/*
	 * What passes for an answer to our knock is none to anybody else's, but for one in 2^64.
	 * That nobody can make one cannot be said here: the fuzzer watches what is compared.
	 */
	assert(neighbor_knock_parse(bytes, len, key) == NEIGHBOR_KNOCK_NONE ||
	       neighbor_knock_parse(bytes, len, ~key) == NEIGHBOR_KNOCK_NONE);
	if (!neighbor_packet_parse(bytes, len, &packet))
		return;
	if (neighbor_is_ipv4(packet.src) != neighbor_is_ipv4(packet.dst))
		return;
	knock_len = neighbor_knock(knock, packet.src, packet.dst, key);
	assert(knock_len <= NEIGHBOR_KNOCK_BYTES);
	assert(neighbor_knock_parse(knock, knock_len, key) == NEIGHBOR_KNOCK_NONE);
	assert(neighbor_packet_parse(knock, knock_len, &packet));
}

static void check_table(const uint8_t *ops, uint32_t count)
{
	static struct neighbor_table table;
	struct neighbor_entry out, *entry;
	unsigned known = 0, waiting = 0;

	memset(&table, 0, sizeof(table));
	neighbor_table_init(&table, key ^ ops[0]);
	for (uint32_t i = 0; i + 1 < count; i += 2) {
		struct neighbor_addr addr = {0, (uint64_t)0xffff << 32 | ops[i + 1]};
		uint32_t now = i / 8 + 1;

		entry = neighbor_add(&table, addr, &out);
		waiting -= out.state == NEIGHBOR_FREE ? 0 : out.waiting;
		assert(neighbor_same(entry->addr, addr));
		if (entry->state == NEIGHBOR_FREE)
			entry->state = NEIGHBOR_ASKED;
		assert(neighbor_find(&table, addr) == entry);
		if (ops[i] & 1)
			neighbor_told(&table, entry, other, now);
		if (ops[i] & 2) {
			entry->waiting++;
			waiting++;
		}
		if (ops[i] & 4 && neighbor_age(entry, now + ops[i]) == NEIGHBOR_GIVE_UP) {
			waiting -= entry->waiting;
			neighbor_forget(&table, entry);
		}
	}
	for (unsigned i = 0; i < NEIGHBOR_MAX; i++) {
		known += table.entries[i].state == NEIGHBOR_KNOWN;
		waiting -= table.entries[i].state == NEIGHBOR_FREE ? 0 : table.entries[i].waiting;
	}
	assert(known == table.known && waiting == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct neighbor_prefix prefix;
	uint32_t len;
	uint8_t *bytes;
	char text[24];

	if (size <= CONTROL_BYTES || size > 4096)
		return 0;
	len = (uint32_t)(size - CONTROL_BYTES);
	bytes = malloc(len);
	assert(bytes);
	memcpy(bytes, data + CONTROL_BYTES, len);
	check_message(bytes, len, data[0], data[1] & 1 ? NEIGHBOR_ARP : NEIGHBOR_IPV6);
	check_packet(bytes, len);
	if ((data[2] & 7) == 0) /* it begins with 45 KB of zeros */
		check_table(bytes, len);
	memcpy(text, data, CONTROL_BYTES);
	text[CONTROL_BYTES] = 0;
	if (neighbor_prefix_parse(text, &prefix))
		assert(neighbor_prefix_has(&prefix, prefix.addr));
	free(bytes);
	return 0;
}
