#include "bench_far.h"

#include "port_memory.h"
#include "ring.h"

static uint32_t random_below(struct bench_far *far, uint32_t n)
{
	far->random ^= far->random << 13;
	far->random ^= far->random >> 7;
	far->random ^= far->random << 17;
	return (uint32_t)((far->random >> 32) * n >> 32);
}

static void address(uint8_t *at, uint32_t n)
{
	at[0] = 2;
	at[1] = 0;
	at[2] = (uint8_t)(n >> 24);
	at[3] = (uint8_t)(n >> 16);
	at[4] = (uint8_t)(n >> 8);
	at[5] = (uint8_t)n;
}

void bench_far_init(struct bench_far *far, struct bench_engine *engine, unsigned group,
		    unsigned addresses, unsigned fill)
{
	uint8_t mac[6];

	*far = (struct bench_far){.engine = engine,
				  .group = group,
				  .addresses = addresses < group ? group : addresses,
				  .fill = fill,
				  .random = 88172645463325252u};
	for (unsigned b = 0; b < engine->bridge_count; b++) {
		for (uint32_t n = 0; n < far->addresses; n++) {
			address(mac, n);
			fdb_learn(engine->fdbs[b], fdb_key(mac, engine->vid),
				  (uint16_t)(b * group + n % group), 1);
		}
	}
}

/* Of a bridge's addresses one that lives at the port with this number in it. */
static uint32_t resident(struct bench_far *far, unsigned place)
{
	return random_below(far, far->addresses / far->group) * far->group + place;
}

static void fill_port(struct bench_far *far, unsigned p)
{
	struct netmap_ring *ring = memory_ring(&far->engine->ports[p], 0, false);
	unsigned place = p % far->group;
	uint32_t at = ring->tail;

	for (unsigned i = 0; i < far->fill; i++) {
		struct netmap_slot *slot = &ring->slot[at];
		uint8_t *data = ring_buffer(ring, slot->buf_idx);
		unsigned to = (place + 1 + random_below(far, far->group - 1)) % far->group;

		address(data, resident(far, to));
		address(data + 6, resident(far, place));
		data[12] = 0x08;
		data[13] = 0x00;
		slot->len = BENCH_FAR_BYTES;
		slot->flags = 0;
		at = ring_next(ring, at);
	}
	ring->tail = at;
	far->sent += far->fill;
}

void bench_far_fill(struct bench_far *far)
{
	for (unsigned p = 0; p < far->engine->port_count; p++)
		fill_port(far, p);
}

void bench_far_empty(struct bench_far *far)
{
	for (unsigned p = 0; p < far->engine->port_count; p++) {
		struct netmap_ring *ring = memory_ring(&far->engine->ports[p], 0, true);
		uint32_t last = (ring->head ? ring->head : ring->num_slots) - 1;

		far->took +=
		    ring->num_slots - 1 - ring_space(ring->head, ring->tail, ring->num_slots);
		ring->tail = last;
	}
}
