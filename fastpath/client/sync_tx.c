/*
 * txsync: slots between the last sync and head become records in the outbox. A slot is loaded once.
 * What finds no room stays in the ring: the tail does not move over it, and the next sync goes on
 * there.
 *
 * As in the module: a frame shorter than an Ethernet header, a slot longer than its buffer and a
 * chain of more than NETMAP_MAX_FRAGS slots are dropped without a word; a chain that ends at head
 * is what there is of it.
 */
#include <string.h>

#include "pipe.h"
#include "user.h"

enum {
	PUBLISH_FRAMES = 64,
	PREFETCH_SLOTS = 16,
	ETHER_BYTES = 14,
	VNET_USED = 10 /* struct virtio_net_hdr without num_buffers */
};

struct fragment {
	const uint8_t *data;
	uint64_t user; /* NS_INDIRECT: the address instead */
	uint32_t len;
};

struct tx_work {
	const struct region *region;
	struct ring_view *view;
	struct netmap_slot *slots;
	struct lane_producer out;
	struct direct_tx *direct; /* NULL: all goes into `out` */
	uint32_t at, head, hdr_len;
	uint32_t unpublished;
	bool ring_bell;
	uint64_t invalid;
};

static void publish(struct tx_work *work)
{
	work->unpublished = 0;
	work->ring_bell |= lane_publish(&work->out);
}

/* --- any frame: chains, indirect buffers, headers --- */

static void fragment_of(struct tx_work *work, const struct netmap_slot *slot, struct fragment *f)
{
	const struct region *region = work->region;
	struct netmap_slot now = slot_load(slot);
	uint32_t offset = slot_offset(work->view->kring, slot);

	*f = (struct fragment){.len = now.len};
	if (now.flags & NS_INDIRECT) {
		f->user = load_shared(&slot->ptr);
		offset = 0;
	} else {
		f->data = buffer_at(region, now.buf_idx) + offset;
	}
	if (now.len > region->buffer_bytes - offset || (now.flags & NS_INDIRECT && !f->user)) {
		work->invalid++;
		f->data = buffer_at(region, 0);
		f->user = 0;
		f->len = 0;
	}
	work->invalid += !(now.flags & NS_INDIRECT) && now.buf_idx >= region->buffers;
}

/* The slots of the frame at work->at: how many there are, and those that fit in *n fragments. */
static uint32_t chain_of(struct tx_work *work, struct fragment list[NETMAP_MAX_FRAGS], uint32_t *n,
			 uint16_t *flags)
{
	uint32_t at = work->at, slots = 0;

	*n = 0;
	*flags = load_shared(&work->slots[at].flags);
	for (;;) {
		uint16_t now = load_shared(&work->slots[at].flags);

		if (slots < NETMAP_MAX_FRAGS)
			fragment_of(work, &work->slots[at], &list[(*n)++]);
		slots++;
		at = at + 1 == work->view->num_slots ? 0 : at + 1;
		if (!(now & NS_MOREFRAG) || at == work->head)
			return slots;
	}
}

static bool fragment_read(uint8_t *to, const struct fragment *f, uint32_t from, uint32_t bytes)
{
	if (f->user)
		return user_read(to, f->user + from, bytes) == 0;
	memcpy(to, f->data + from, bytes);
	return true;
}

/* Takes the virtio-net header off the first fragment, as far as anybody needs it. False: bad. */
static bool header_take(const struct tx_work *work, struct fragment *list, uint32_t n,
			uint8_t vnet[LANE_VNET_BYTES], uint32_t *vnet_bytes)
{
	uint8_t header[VNET_USED];

	*vnet_bytes = 0;
	if (work->hdr_len > list[0].len || (work->hdr_len == list[0].len && n == 1))
		return false;
	if (!fragment_read(header, &list[0], 0, sizeof(header)))
		return false;
	if (list[0].user)
		list[0].user += work->hdr_len;
	else
		list[0].data += work->hdr_len;
	list[0].len -= work->hdr_len;
	if (header[0] || header[1]) { /* a checksum to fill in, or a segmentation */
		memset(vnet, 0, LANE_VNET_BYTES);
		memcpy(vnet, header, sizeof(header));
		*vnet_bytes = LANE_VNET_BYTES;
	}
	return true;
}

/* Whose lane the frame goes into; `first`: its first fragment, of ETHER_BYTES at least. */
static struct lane_producer *lane_for(struct tx_work *work, const struct fragment *first,
				      uint16_t flags)
{
	struct lane_producer *lane = NULL;
	uint8_t head[ETHER_BYTES];

	if (work->direct && fragment_read(head, first, 0, sizeof(head)))
		lane = direct_route(work->direct, head, !(flags & NS_NO_LEARN));
	return lane ? lane : &work->out;
}

/* 1: in a lane; 0: dropped; -1: no room. */
static int frame_put(struct tx_work *work, struct fragment *list, uint32_t n, uint16_t flags)
{
	uint8_t vnet[LANE_VNET_BYTES], *to;
	uint32_t vnet_bytes = 0, total = 0, first = 0;
	struct lane_producer *out;

	if (work->hdr_len && !header_take(work, list, n, vnet, &vnet_bytes))
		return 0;
	if (!list[0].len && n > 1)
		first = 1; /* all of the first slot was the header */
	for (uint32_t i = first; i < n; i++)
		total += list[i].len;
	if (list[first].len < ETHER_BYTES || total > LANE_FRAME_MAX)
		return 0;
	/* what is left to finish is the forwarder's to finish */
	out = vnet_bytes ? &work->out : lane_for(work, &list[first], flags);
	to = lane_reserve(out, total + vnet_bytes);
	if (!to && out != &work->out) {
		lane_full(out);
		return 0;
	}
	if (!to) {
		work->view->kring->pending = total + vnet_bytes;
		return -1;
	}
	memcpy(to, vnet, vnet_bytes);
	to += vnet_bytes;
	for (uint32_t i = first; i < n; to += list[i++].len)
		if (!fragment_read(to, &list[i], 0, list[i].len))
			return 0;
	lane_add(
	    out, total + vnet_bytes,
	    (uint16_t)((vnet_bytes ? LANE_VNET : 0) | (flags & NS_NO_LEARN ? LANE_NO_LEARN : 0)));
	return 1;
}

/* False: it has to wait for room. */
static bool send_any(struct tx_work *work)
{
	struct fragment list[NETMAP_MAX_FRAGS];
	uint64_t invalid = work->invalid;
	uint32_t n, slots, next;
	uint16_t flags;
	int put = 0;

	slots = chain_of(work, list, &n, &flags);
	if (slots == n)
		put = frame_put(work, list, n, flags);
	if (put < 0) {
		work->invalid = invalid; /* it is looked at again */
		return false;
	}
	next = work->at + slots;
	for (uint32_t i = 0; i < slots; i++) {
		struct netmap_slot *slot = &work->slots[(work->at + i) % work->view->num_slots];

		if (load_shared(&slot->flags) & NS_BUF_CHANGED)
			slot->flags &= (uint16_t)~NS_BUF_CHANGED;
	}
	work->at = next >= work->view->num_slots ? next - work->view->num_slots : next;
	work->unpublished += put > 0;
	return true;
}

/* --- the frames there are most of --- */

static inline void prefetch(const struct tx_work *work)
{
	uint32_t ahead = work->at + PREFETCH_SLOTS;

	if (ahead >= work->view->num_slots)
		ahead -= work->view->num_slots;
	if (__builtin_expect(ahead >= work->view->num_slots, 0))
		return; /* a ring of a few slots */
	__builtin_prefetch(buffer_at(work->region, load_shared(&work->slots[ahead].buf_idx)));
}

/* A frame in one buffer, without anything. False: it is something else, or there is no room. */
static inline bool send_plain(struct tx_work *work, bool plain_ring)
{
	struct netmap_slot *slot = &work->slots[work->at];
	struct netmap_slot now = slot_load(slot);
	struct lane_producer *out = &work->out, *pair;
	const uint8_t *from;
	uint8_t *to;

	if (!plain_ring || (now.flags & (NS_MOREFRAG | NS_INDIRECT)) || now.len < ETHER_BYTES ||
	    now.len > work->region->buffer_bytes || now.buf_idx >= work->region->buffers)
		return false;
	prefetch(work);
	from = buffer_at(work->region, now.buf_idx);
	if (work->direct) {
		pair = direct_route(work->direct, from, !(now.flags & NS_NO_LEARN));
		out = pair ? pair : out;
	}
	to = lane_reserve(out, now.len);
	if (to) {
		copy_short(to, from, now.len);
		lane_add(out, now.len, now.flags & NS_NO_LEARN ? LANE_NO_LEARN : 0);
	} else if (out == &work->out) {
		return false;
	} else {
		lane_full(out);
	}
	if (now.flags & NS_BUF_CHANGED)
		slot->flags = now.flags & (uint16_t)~NS_BUF_CHANGED;
	work->at = work->at + 1 == work->view->num_slots ? 0 : work->at + 1;
	work->unpublished += out == &work->out;
	return true;
}

/*
 * A run of such frames for the lane of the frame before, or the outbox: everything that a frame
 * needs stays in registers. Ends before the first frame that is not like that, needs another lane
 * or room, and when it is time to publish; send_plain sees to it.
 */
static inline void send_run(struct tx_work *work)
{
	const struct direct_tx *direct = work->direct;
	struct lane_producer *lane = direct ? direct_last(direct) : &work->out;
	uint32_t most = direct ? UINT32_MAX : PUBLISH_FRAMES - work->unpublished;
	const struct region region = *work->region;
	struct netmap_slot *slots = work->slots;
	uint32_t at = work->at, head = work->head, n = work->view->num_slots, count = 0;
	struct lane_producer out;

	if (!lane)
		return;
	for (out = *lane; at != head && count < most; count++) {
		struct netmap_slot now = slot_load(&slots[at]);
		uint32_t ahead = at + PREFETCH_SLOTS < n ? at + PREFETCH_SLOTS : at;
		const uint8_t *from;
		uint8_t *to;

		if (now.flags & ~NS_BUF_CHANGED || now.len < ETHER_BYTES ||
		    now.len > region.buffer_bytes)
			break;
		__builtin_prefetch(buffer_at(&region, load_shared(&slots[ahead].buf_idx)));
		from = buffer_at(&region, now.buf_idx);
		if (now.buf_idx >= region.buffers || (direct && !direct_same(direct, &out, from)))
			break;
		to = lane_reserve(&out, now.len);
		if (!to)
			break;
		copy_short(to, from, now.len);
		lane_add(&out, now.len, 0);
		if (now.flags)
			slots[at].flags = 0;
		at = at + 1 == n ? 0 : at + 1;
	}
	*lane = out;
	work->at = at;
	work->unpublished += direct ? 0 : count;
}

static void send_all(struct tx_work *work)
{
	bool plain = !work->hdr_len && !work->view->kring->offset_mask;

	work->view->kring->pending = 0;
	while (work->at != work->head) {
		if (plain)
			send_run(work);
		if (work->unpublished >= PUBLISH_FRAMES)
			publish(work);
		if (work->at == work->head)
			break;
		if (!send_plain(work, plain) && !send_any(work))
			break;
		if (work->unpublished >= PUBLISH_FRAMES)
			publish(work);
	}
	publish(work);
}

struct sync_result txsync(struct binding *binding, struct ring_view *view)
{
	struct kring *kring = view->kring;
	struct sync_result result = {0};
	struct ring_place place;
	struct tx_work work;
	bool died;

	if (binding->kind != BOUND_PORT)
		return other_txsync(binding, view);
	kring_lock(kring, &died);
	if (died)
		lane_producer_open(&kring->out, view->lane, view->data, view->lane_bytes);
	place = ring_enter(&binding->region, view);
	result.invalid = !place.valid;
	work = (struct tx_work){.region = &binding->region,
				.view = view,
				.slots = view->ring->slot,
				.out = kring->out,
				.at = kring->hwcur,
				.head = place.head,
				.hdr_len = header_bytes(binding)};
	work.out.lane = view->lane;
	work.out.data = view->data;
	work.out.bytes = view->lane_bytes;
	if (binding->direct)
		work.direct = direct_begin(binding->direct, ring_number(binding, RING_TX, view),
					   &work.out, view->bell);
	send_all(&work);
	if (work.direct)
		direct_end(work.direct);
	kring->out = work.out;
	result.sent = kring->hwcur != work.at;
	kring->hwcur = work.at;
	kring->hwtail = work.at ? work.at - 1 : view->num_slots - 1;
	__atomic_store_n(&view->ring->tail, kring->hwtail, __ATOMIC_RELEASE);
	result.found = place.cur != kring->hwtail;
	view->stats->syncs++;
	view->stats->invalid += work.invalid;
	pthread_mutex_unlock(&kring->lock);
	if (work.ring_bell)
		client_bell_ring(view->bell);
	return result;
}
