/* Runs on: see policer.h. */
#include "policer.h"

/* Times are in 1/32 ns: 64 bytes take 1.3 ns at 400 Gbit/s. */
enum { SHIFT = 5, NS_PER_S = 1000000000 };

/* What `amount` frames or bytes take at the rate. */
static uint64_t duration(const struct policer_config *config, uint64_t amount)
{
	unsigned __int128 units = (unsigned __int128)amount * (config->frames ? 1 : 8);
	unsigned __int128 time = units * ((uint64_t)NS_PER_S << SHIFT) / config->rate;

	return time > UINT64_MAX / 4 ? UINT64_MAX / 4 : (uint64_t)time;
}

void policer_init(struct policer *policer, const struct policer_config *config)
{
	atomic_init(&policer->empty, 0);
	atomic_init(&policer->passed, 0);
	atomic_init(&policer->dropped, 0);
	policer->config = *config;
	policer->burst_time = duration(config, config->burst);
	/* 64 bits hold it where they hold the largest frame's time: no division of 128 a frame */
	policer->unit = (uint64_t)NS_PER_S * (config->frames ? 1 : 8) << SHIFT;
}

/* A frame: at most 65,554 bytes or 1,366 segments, so that the product fits in 64 bits. */
static uint64_t frame_time(const struct policer *policer, uint32_t bytes, uint32_t frames)
{
	uint64_t amount = policer->config.frames ? frames : bytes;

	return (amount * policer->unit + policer->config.rate / 2) / policer->config.rate;
}

/* Is there room at `now` in a bucket that is empty at `empty`? An empty one takes any frame. */
static bool conforms(const struct policer *policer, uint64_t empty, uint64_t now, uint64_t time)
{
	return empty <= now || empty - now + time <= policer->burst_time;
}

bool policer_take(struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames)
{
	uint64_t time = frame_time(policer, bytes, frames);
	uint64_t empty = atomic_load_explicit(&policer->empty, memory_order_relaxed);
	uint64_t now = now_ns << SHIFT;

	do {
		if (!conforms(policer, empty, now, time)) {
			atomic_fetch_add_explicit(&policer->dropped, 1, memory_order_relaxed);
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(
	    &policer->empty, &empty, (empty > now ? empty : now) + time, memory_order_relaxed,
	    memory_order_relaxed));
	atomic_fetch_add_explicit(&policer->passed, 1, memory_order_relaxed);
	return true;
}

bool policer_peek(const struct policer *policer, uint64_t now_ns, uint32_t bytes, uint32_t frames,
		  uint32_t times)
{
	uint64_t time = frame_time(policer, bytes, frames);
	uint64_t empty = atomic_load_explicit(&policer->empty, memory_order_relaxed);
	uint64_t now = now_ns << SHIFT;

	while (times--) {
		if (!conforms(policer, empty, now, time))
			return false;
		empty = (empty > now ? empty : now) + time;
	}
	return true;
}
