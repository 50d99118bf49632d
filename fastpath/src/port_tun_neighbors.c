/*
 * tun: who is where. The port answers for an address when it is behind it: named by `address`, or
 * seen as the source of a packet from the TUN, or found there by a knock. It does not answer for
 * one that a station of the bridge has. The single address of `address` is the exception: it is
 * the port's by configuration, whatever a station claims.
 *
 * Runs on: see port_tun.h.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "port_tun.h"

/* "tun", and the version of struct tun_memory */
static const uint64_t memory_magic = 0x74756e0000000001;

void tun_lock(struct tun *tun)
{
	while (pthread_spin_trylock(&tun->lock))
		sched_yield(); /* the holder may be waiting for our processor */
}

static void ring(struct tun *tun)
{
	uint64_t one = 1;

	/* In this order: a bell that rings unread is heard again, a flag without a bell is not. */
	if (write(tun->bell_fd, &one, sizeof(one)) == sizeof(one))
		atomic_store(&tun->rung, true);
}

void tun_unlock(struct tun *tun)
{
	bool ring_it = tun->mail_count || tun->ready.first != NEIGHBOR_NOBODY;

	atomic_store(&tun->news, ring_it || tun->dead.first != NEIGHBOR_NOBODY);
	atomic_store_explicit(&tun->changes,
			      tun->memory->stations.changes + tun->memory->behind.changes,
			      memory_order_relaxed);
	atomic_store_explicit(&tun->known, tun->memory->stations.known, memory_order_relaxed);
	atomic_store_explicit(&tun->known_behind, tun->memory->behind.known, memory_order_relaxed);
	pthread_spin_unlock(&tun->lock);
	if (ring_it && !atomic_load(&tun->rung))
		ring(tun);
}

/* --- waiting packets: chains of numbers ---------------------------------------------------------
 */

static void chain_put(struct tun *tun, struct tun_chain *chain, uint16_t number)
{
	tun->waiting[number].next = NEIGHBOR_NOBODY;
	if (chain->first == NEIGHBOR_NOBODY)
		chain->first = number;
	else
		tun->waiting[chain->last].next = number;
	chain->last = number;
}

static uint16_t chain_take(struct tun *tun, struct tun_chain *chain)
{
	uint16_t number = chain->first;

	if (number != NEIGHBOR_NOBODY)
		chain->first = tun->waiting[number].next;
	return number;
}

/* Everything that waits for the entry goes to another chain. */
static void entry_empty(struct tun *tun, struct neighbor_entry *entry, struct tun_chain *to)
{
	struct tun_chain chain = {entry->first, entry->last};
	uint16_t number;

	while (entry->waiting && (number = chain_take(tun, &chain)) != NEIGHBOR_NOBODY) {
		tun->waiting[number].mac = entry->mac;
		chain_put(tun, to, number);
	}
	entry->waiting = 0;
	entry->first = entry->last = NEIGHBOR_NOBODY;
}

int tun_neighbors_init(struct tun *tun, struct error *err)
{
	struct tun_memory *memory = tun->memory;
	uint64_t keys[3];

	if (getrandom(keys, sizeof(keys), 0) != sizeof(keys))
		return error_set(err, errno, "random bytes: %s", strerror(errno));
	tun->key = keys[2];
	if (memory->magic == memory_magic) {
		neighbor_table_recover(&memory->stations);
		neighbor_table_recover(&memory->behind);
	} else {
		memset(memory, 0, sizeof(*memory));
		neighbor_table_init(&memory->stations, keys[0]);
		neighbor_table_init(&memory->behind, keys[1]);
		memory->magic = memory_magic;
	}
	tun->unused = tun->ready = tun->dead = (struct tun_chain){NEIGHBOR_NOBODY, NEIGHBOR_NOBODY};
	for (uint16_t i = 0; i < TUN_WAITING; i++)
		chain_put(tun, &tun->unused, i);
	return 0;
}

/* --- who is where -------------------------------------------------------------------------------
 */

static bool is_configured(const struct tun *tun, struct neighbor_addr addr)
{
	return tun->has_prefix && tun->prefix.bits == 128 &&
	       neighbor_prefix_has(&tun->prefix, addr);
}

static struct neighbor_entry *known(struct neighbor_table *table, struct neighbor_addr addr)
{
	struct neighbor_entry *entry = neighbor_find(table, addr);

	return entry && entry->state == NEIGHBOR_KNOWN ? entry : NULL;
}

static bool is_behind(struct tun *tun, struct neighbor_addr addr)
{
	if (is_configured(tun, addr))
		return true;
	if (known(&tun->memory->stations, addr))
		return false;
	return (tun->has_prefix && neighbor_prefix_has(&tun->prefix, addr)) ||
	       known(&tun->memory->behind, addr);
}

static void learn(struct tun *tun, struct neighbor_addr addr, uint32_t now_s)
{
	struct neighbor_entry out;

	if (!neighbor_is_unicast(addr) || known(&tun->memory->stations, addr))
		return;
	neighbor_told(&tun->memory->behind, neighbor_add(&tun->memory->behind, addr, &out), 0,
		      now_s);
}

static struct neighbor_entry *station_add(struct tun *tun, struct neighbor_addr addr)
{
	struct neighbor_entry out, *entry = neighbor_add(&tun->memory->stations, addr, &out);

	if (out.state != NEIGHBOR_FREE)
		entry_empty(tun, &out, &tun->dead);
	return entry;
}

/* --- mail ---------------------------------------------------------------------------------------
 */

/* NULL: there is no room. */
static struct tun_message *mail_new(struct tun *tun)
{
	if (tun->mail_count == TUN_MAIL)
		return NULL;
	return &tun->mail[(tun->mail_first + tun->mail_count++) % TUN_MAIL];
}

/* A question that finds no room is asked again a second later. */
static void mail_ask(struct tun *tun, const struct neighbor_entry *entry)
{
	struct tun_message *message = mail_new(tun);

	if (message)
		message->len = neighbor_ask(message->bytes, tun->mac, entry->asker, entry->addr,
					    entry->state == NEIGHBOR_KNOWN ? entry->mac : 0);
}

static bool mail_tell(struct tun *tun, struct neighbor_addr target, struct neighbor_addr asker,
		      uint64_t mac)
{
	struct tun_message *message = mail_new(tun);

	if (message)
		message->len = neighbor_tell(message->bytes, tun->mac, target, asker, mac);
	return message;
}

static void frame_of_ours(struct frame *frame, uint8_t *data, uint32_t len)
{
	*frame =
	    (struct frame){.data = data, .len = len, .frame_len = len, .headroom = FRAME_HEADROOM};
}

unsigned tun_post(struct tun *tun, struct frame *batch, unsigned max)
{
	unsigned count = 0;

	tun_lock(tun);
	for (; count < max && tun->mail_count; count++) {
		tun->out[count] = tun->mail[tun->mail_first];
		tun->mail_first = (tun->mail_first + 1) % TUN_MAIL;
		tun->mail_count--;
		frame_of_ours(&batch[count], tun->out[count].bytes, tun->out[count].len);
		batch[count].flags = FRAME_ORIGINATED;
	}
	tun_unlock(tun);
	return count;
}

/* --- packets from the TUN -----------------------------------------------------------------------
 */

static void store_header(uint8_t *at, uint64_t dst, uint64_t src, uint16_t ethertype)
{
	for (unsigned i = 0; i < 6; i++) {
		at[i] = (uint8_t)(dst >> (40 - 8 * i));
		at[6 + i] = (uint8_t)(src >> (40 - 8 * i));
	}
	at[12] = (uint8_t)(ethertype >> 8);
	at[13] = (uint8_t)ethertype;
}

static void header_push(struct tun *tun, struct frame *frame, uint64_t dst, uint16_t ethertype)
{
	frame->data -= FRAME_LEN_MIN;
	frame->headroom -= FRAME_LEN_MIN;
	frame->len += FRAME_LEN_MIN;
	frame->frame_len += FRAME_LEN_MIN;
	store_header(frame->data, dst, tun->mac, ethertype);
	if (frame_has_offload(frame)) {
		frame->offload.csum_start += FRAME_LEN_MIN;
		frame->offload.hdr_len += FRAME_LEN_MIN;
	}
}

static uint8_t *buffer_of(struct tun *tun, uint16_t number)
{
	return tun->buffers + (size_t)number * TUN_BUFFER_BYTES + FRAME_HEADROOM;
}

/* A copy of the packet at the end of the entry's chain, or of the ready ones. */
static bool wait_for(struct tun *tun, struct neighbor_entry *entry, const struct frame *frame,
		     uint16_t ethertype)
{
	struct tun_chain chain = {entry->first, entry->last};
	uint16_t number;

	if (entry->waiting >= NEIGHBOR_QUEUE) {
		/* RFC 4861, 7.2.2: the new one replaces the oldest. */
		chain_put(tun, &tun->dead, chain_take(tun, &chain));
		entry->waiting--;
		entry->first = chain.first;
	}
	number = chain_take(tun, &tun->unused);
	if (number == NEIGHBOR_NOBODY)
		return false;
	memcpy(buffer_of(tun, number), frame->data, frame->len);
	tun->waiting[number] = (struct tun_waiting){.len = frame->len,
						    .ethertype = ethertype,
						    .mac = entry->mac,
						    .offload = frame->offload};
	if (entry->state == NEIGHBOR_KNOWN) {
		chain_put(tun, &tun->ready, number);
		return true;
	}
	chain_put(tun, &chain, number);
	entry->first = chain.first;
	entry->last = chain.last;
	entry->waiting++;
	return true;
}

/* Under the lock: the address is not among the routes. */
static enum tun_verdict route_find(struct tun *tun, const struct frame *frame,
				   const struct neighbor_packet *packet, uint32_t now_s,
				   uint64_t *mac, enum drop_reason *reason)
{
	struct neighbor_entry *entry;

	*reason = DROP_SAME_PORT;
	if (is_behind(tun, packet->dst))
		return TUN_DROP;
	*reason = DROP_SOURCE_INVALID; /* nobody could answer, and nobody may ask in its name */
	if (!neighbor_is_unicast(packet->src))
		return TUN_DROP;
	*reason = DROP_NO_NEIGHBOR;
	if (!neighbor_is_unicast(packet->dst))
		return TUN_DROP;
	entry = station_add(tun, packet->dst);
	entry->asker = packet->src;
	if (entry->state == NEIGHBOR_FREE) {
		entry->state = NEIGHBOR_ASKED;
		entry->tries = 1;
		entry->asked_s = now_s;
		mail_ask(tun, entry);
	}
	if (entry->state == NEIGHBOR_KNOWN) {
		entry->used_s = now_s;
		/* Those that waited go first. */
		if (tun->ready.first == NEIGHBOR_NOBODY) {
			*mac = entry->mac;
			return TUN_SEND;
		}
	}
	return wait_for(tun, entry, frame, packet->ethertype) ? TUN_WAIT : TUN_DROP;
}

/* The answer to a knock: its source is behind the port, and who asked shall know. */
static void knock_answered(struct tun *tun, const struct neighbor_packet *packet, uint32_t now_s)
{
	struct neighbor_entry *entry;
	uint64_t mac = 0;

	tun_lock(tun);
	entry = neighbor_find(&tun->memory->behind, packet->src);
	if (entry && entry->state == NEIGHBOR_ASKED && neighbor_same(entry->asker, packet->dst))
		mac = entry->mac;
	learn(tun, packet->src, now_s);
	if (mac && is_behind(tun, packet->src))
		mail_tell(tun, packet->src, packet->dst, mac);
	tun_unlock(tun);
}

static void learn_source(struct tun *tun, struct neighbor_addr src, uint32_t now_s)
{
	struct tun_route *last = &tun->sources[(src.low ^ src.high) % TUN_SOURCES];
	uint64_t changes = atomic_load_explicit(&tun->changes, memory_order_relaxed);

	if (neighbor_same(last->addr, src) && last->now_s == now_s && last->changes == changes)
		return;
	tun_lock(tun);
	learn(tun, src, now_s);
	*last = (struct tun_route){.addr = src,
				   .now_s = now_s,
				   .changes =
				       tun->memory->stations.changes + tun->memory->behind.changes};
	tun_unlock(tun);
}

enum tun_verdict tun_address(struct tun *tun, struct frame *frame, uint32_t now_s,
			     enum drop_reason *reason)
{
	struct neighbor_packet packet;
	struct tun_route *route;
	enum neighbor_knock knock;
	enum tun_verdict verdict;
	uint64_t mac;

	*reason = DROP_MALFORMED;
	if (!neighbor_packet_parse(frame->data, frame->len, &packet))
		return TUN_DROP;
	knock = neighbor_knock_parse(frame->data, frame->len, tun->key);
	if (knock == NEIGHBOR_KNOCK_ANSWERED)
		knock_answered(tun, &packet, now_s);
	if (knock != NEIGHBOR_KNOCK_NONE)
		return TUN_USED;
	learn_source(tun, packet.src, now_s);
	mac = neighbor_group_mac(packet.dst);
	if (mac) {
		header_push(tun, frame, mac, packet.ethertype);
		return TUN_SEND;
	}
	route = &tun->routes[(packet.dst.low ^ packet.dst.high) % TUN_ROUTES];
	if (!neighbor_same(route->addr, packet.dst) || route->now_s != now_s || !route->mac ||
	    route->changes != atomic_load_explicit(&tun->changes, memory_order_relaxed)) {
		tun_lock(tun);
		verdict = route_find(tun, frame, &packet, now_s, &mac, reason);
		*route = (struct tun_route){
		    packet.dst, verdict == TUN_SEND ? mac : 0,
		    tun->memory->stations.changes + tun->memory->behind.changes, now_s};
		tun_unlock(tun);
		if (verdict != TUN_SEND)
			return verdict;
	}
	header_push(tun, frame, route->mac, packet.ethertype);
	return TUN_SEND;
}

unsigned tun_release(struct tun *tun, struct frame *batch, unsigned max)
{
	unsigned count = 0;
	uint16_t number;

	tun_lock(tun);
	while (count < max && (number = chain_take(tun, &tun->ready)) != NEIGHBOR_NOBODY) {
		const struct tun_waiting *waiting = &tun->waiting[number];

		frame_of_ours(&batch[count], buffer_of(tun, number), waiting->len);
		batch[count].offload = waiting->offload;
		header_push(tun, &batch[count], waiting->mac, waiting->ethertype);
		tun->leaving[count++] = number;
	}
	tun_unlock(tun);
	tun->leaving_count = count;
	return count;
}

void tun_recycle(struct tun *tun)
{
	if (!tun->leaving_count)
		return;
	tun_lock(tun);
	while (tun->leaving_count)
		chain_put(tun, &tun->unused, tun->leaving[--tun->leaving_count]);
	tun_unlock(tun);
}

void tun_bury(struct tun *tun, struct port_counters *cell)
{
	uint16_t number;

	tun_lock(tun);
	while ((number = chain_take(tun, &tun->dead)) != NEIGHBOR_NOBODY) {
		counter_add(&cell->rx_frames, 1);
		counter_add(&cell->rx_bytes, tun->waiting[number].len + FRAME_LEN_MIN);
		counter_add(&cell->rx_drops[DROP_NO_NEIGHBOR], 1);
		chain_put(tun, &tun->unused, number);
	}
	tun_unlock(tun);
}

void tun_tick(struct tun *tun, uint32_t now_s)
{
	tun_lock(tun);
	for (unsigned i = 0; i < NEIGHBOR_MAX; i++) {
		struct neighbor_entry *station = &tun->memory->stations.entries[i];
		struct neighbor_entry *behind = &tun->memory->behind.entries[i];
		uint32_t keep_s =
		    behind->state == NEIGHBOR_KNOWN ? NEIGHBOR_FORGET_S : NEIGHBOR_TRIES;
		uint32_t since_s =
		    behind->state == NEIGHBOR_KNOWN ? behind->told_s : behind->asked_s;

		if (behind->state != NEIGHBOR_FREE && now_s - since_s >= keep_s)
			neighbor_forget(&tun->memory->behind, behind);
		switch (neighbor_age(station, now_s)) {
		case NEIGHBOR_ASK_AGAIN:
			mail_ask(tun, station);
			break;
		case NEIGHBOR_GIVE_UP:
			entry_empty(tun, station, &tun->dead);
			neighbor_forget(&tun->memory->stations, station);
			break;
		case NEIGHBOR_REST:
			break;
		}
	}
	tun_unlock(tun);
}

/* --- messages from the bridge -------------------------------------------------------------------
 */

/* A station says where an address is: believed where it is asked for, or asks for what is ours. */
static void hear_claim(struct tun *tun, const struct neighbor_message *message, bool for_us,
		       uint32_t now_s)
{
	struct neighbor_entry *entry = known(&tun->memory->behind, message->addr);
	uint64_t mac = message->mac;

	if (is_configured(tun, message->addr))
		return;
	if (entry && mac)
		neighbor_forget(&tun->memory->behind,
				entry); /* it has moved, or was never behind us */
	entry = neighbor_find(&tun->memory->stations, message->addr);
	if (!entry && for_us && mac)
		entry = station_add(tun, message->addr);
	if (!entry)
		return;
	if (!mac && entry->state == NEIGHBOR_KNOWN)
		mac = entry->mac;
	if (!mac || (entry->state == NEIGHBOR_KNOWN && entry->mac != mac && !message->override))
		return;
	neighbor_told(&tun->memory->stations, entry, mac, now_s);
	entry_empty(tun, entry, &tun->ready);
}

/* May the stack behind the port be asked whether it has the target? */
static bool may_knock(struct tun *tun, const struct neighbor_message *message, uint64_t mac,
		      uint32_t now_s)
{
	struct neighbor_entry *entry, out;

	if (!neighbor_specified(message->addr) || neighbor_same(message->addr, message->target) ||
	    !neighbor_is_unicast(message->target) || known(&tun->memory->stations, message->target))
		return false;
	if (tun->knock_s != now_s) {
		tun->knock_s = now_s;
		tun->knocks = 0;
	}
	entry = neighbor_find(&tun->memory->behind, message->target);
	if ((entry && entry->asked_s == now_s) || tun->knocks >= TUN_KNOCKS_A_S)
		return false;
	tun->knocks++;
	entry = neighbor_add(&tun->memory->behind, message->target, &out);
	entry->state = NEIGHBOR_ASKED;
	entry->asked_s = now_s;
	entry->asker = message->addr;
	entry->mac = mac;
	return true;
}

bool tun_hear(struct tun *tun, enum neighbor_kind kind, const struct neighbor_message *message,
	      uint64_t source, uint32_t now_s, uint8_t knock[NEIGHBOR_KNOCK_BYTES],
	      unsigned *knock_len)
{
	uint64_t mac = message->mac ? message->mac : source;
	bool asks = kind == NEIGHBOR_ASK, room = true;

	*knock_len = 0;
	if (mac == tun->mac)
		return true;
	tun_lock(tun);
	if (neighbor_specified(message->addr))
		hear_claim(tun, message, asks && is_behind(tun, message->target), now_s);
	if (asks && is_behind(tun, message->target))
		room = mail_tell(tun, message->target, message->addr, mac);
	else if (asks && may_knock(tun, message, mac, now_s))
		*knock_len = neighbor_knock(knock, message->addr, message->target, tun->key);
	tun_unlock(tun);
	return room;
}
