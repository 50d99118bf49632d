/*
 * What the files of the netmap client library share. client.h is what others see.
 *
 *     session      an open file description of /dev/netmap as this process has it: which of its
 *                  fds name it, and what it is bound to. Private to the process; fork copies it.
 *     region head  what all processes with the same region have to agree on: the allocator and, for
 *                  each port in it, what a kernel would keep of its rings (struct kring). It
 *                  lies in front of what the program maps, so programs do not see it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>

#include "client.h"
#include "client_memory.h"
#include "client_wire.h"
#include "direct.h"
#include "netmap_abi.h"

enum {
	VSN_RINGS_MAX = CLIENT_RINGS_MAX,
	VSN_SLOTS_MAX = 65536,
	VSN_SLOTS_DEFAULT = 1024,
	VSN_ADAPTERS_MAX = 256,
	VSN_ADAPTER_NAME = CLIENT_NAME_MAX + 16,
	VSN_SEATS_MAX = 1024,
	VSN_MEM_ID_GLOBAL = 1,
	VSN_FDS_MAX = 1 << 20
};

enum ring_side { RING_TX, RING_RX, RING_SIDES };

/* --- the region's head ------------------------------------------------------------------------ */

/* A pool of equal objects of the region. Bits of its bitmap in the head: 1 is taken. */
struct region_pool {
	uint32_t total, object_bytes;
	uint64_t at;	    /* in what the program maps */
	uint64_t bitmap_at; /* in the head */
	uint32_t hint;	    /* first word that may have a free object */
	uint32_t taken;
};

enum region_pool_kind { POOL_IF, POOL_RING, POOL_BUFFER, POOLS };

/* What the module keeps of a ring in the kernel. Locked by its lock, but for what is said. */
struct kring {
	_Alignas(64) pthread_mutex_t lock; /* robust, shared */
	uint32_t hwcur, hwtail;		   /* of the last sync */
	uint32_t num_slots;
	uint32_t users;	  /* seats that have it; the region's lock */
	uint64_t ring_at; /* in what the program maps; 0: not made; the region's lock */
	union {		  /* our side of the lane; where it is mapped differs between processes */
		struct lane_producer out;
		struct lane_consumer in;
	};
	uint64_t offset_mask, offset_max;
	uint32_t pending; /* bytes of the record that found no room in the last txsync; 0: none */
	/* of pipes (pipe.c), sending: slots that the other end has, and up to where they came back
	 */
	uint32_t in_flight;
	uint64_t freed;
	uint64_t
	    seen[RING_SIDES]; /* of monitors of pipes (watch.c): where in which lane they are */
};

/* A port, pipe end or monitor in the region. Locked by the region's lock. */
struct adapter {
	char name[VSN_ADAPTER_NAME]; /* empty: none */
	bool locks;		     /* of the krings are made, for good */
	uint32_t rings[RING_SIDES];  /* without the host rings that netmap_if speaks of */
	uint32_t slots[RING_SIDES];
	uint32_t seats;
	struct kring krings[RING_SIDES][VSN_RINGS_MAX];
};

/* A registration in the region: what its end gives back. Locked by the region's lock. */
struct seat {
	uint32_t session;   /* its number; 0: free */
	uint32_t processes; /* that have it; also changed without the lock, before a fork */
	uint32_t adapter;
	uint32_t first[RING_SIDES], last[RING_SIDES]; /* rings [first, last) */
	uint32_t extra_bufs;
	uint64_t if_at;
	uint64_t flags; /* NR_* */
};

struct region_head {
	uint64_t magic; /* written last */
	uint32_t version;
	uint32_t mem_id;
	uint64_t head_bytes; /* the program's mapping begins behind it */
	uint64_t memsize;    /* of the program's mapping */
	uint32_t external;   /* the program's mapping is its own memory (NETMAP_REQ_OPT_EXTMEM) */
	struct region_pool pools[POOLS];
	pthread_mutex_t lock; /* robust, shared */
	struct seat seats[VSN_SEATS_MAX];
	struct adapter adapters[VSN_ADAPTERS_MAX];
	/* bitmaps follow */
};

/* --- sessions --------------------------------------------------------------------------------- */

/* A lock that a child does not inherit locked: held by a process, not by its copy. */
struct own_lock {
	_Atomic uint32_t holder; /* pid, 0: free */
};

void own_lock(struct own_lock *lock);
bool own_trylock(struct own_lock *lock);
void own_unlock(struct own_lock *lock);

/* The memory between this program and the switch, or the other end of a pipe. */
struct link {
	struct client_map map;
	uint32_t side;		    /* of client_memory.h */
	uint32_t rings[RING_SIDES]; /* lanes that we write, that we read */
	int bells[VSN_RINGS_MAX];   /* our ends, one a ring pair; hidden fds */
	bool shut[VSN_RINGS_MAX];   /* nobody has the other end: it would ring for ever */
	unsigned nap_us;	    /* of a pipe's monitor: how long it slept last */
};

/* The region as this process has mapped it. */
struct region {
	struct region_head *head;
	size_t head_bytes, mapped_bytes;
	uint8_t *base; /* what the program maps: behind the head, or its own memory */
	uint64_t memsize;
	/* checked when it was mapped, never read from the head again */
	uint64_t buffers_at;
	uint32_t buffers, buffer_bytes;
};

/* A ring as a sync sees it. */
struct ring_view {
	struct netmap_ring *ring; /* NULL: not bound */
	struct kring *kring;
	uint32_t num_slots;
	struct lane *lane;
	uint8_t *data; /* of the lane */
	uint32_t lane_bytes;
	int bell;
	struct client_ring_stats *stats;
};

/* What a session is bound to. Syncs of all but ports are in pipe.h. */
enum bound {
	BOUND_PORT,  /* of a switch */
	BOUND_PIPE,  /* an end of one */
	BOUND_WATCH, /* a monitor of a pipe's end: reads the pipe's memory */
	BOUND_NULL   /* nothing: rings in a region, and nobody at their other end (NR_REG_NULL) */
};

/* What REGISTER and DESCRIBE answered. */
struct binding {
	uint32_t number; /* of the registration */
	uint32_t seat;
	uint32_t first[RING_SIDES], last[RING_SIDES];
	uint64_t flags; /* NR_* */
	struct client_answer answer;
	enum bound kind;
	struct adapter *adapter;
	struct link link;
	struct region region;
	struct ring_view views[RING_SIDES][VSN_RINGS_MAX];
	struct direct *direct; /* of a port, NULL: of a pipe, or no memory for it */
};

struct vsn_session {
	_Atomic uint32_t used;	/* 0: free */
	_Atomic uint32_t fds;	/* that name it */
	_Atomic uint32_t calls; /* under way */
	_Atomic int asleep;	/* threads, between vsn_asleep and vsn_awake */
	_Atomic uint32_t late;	/* wakes since all were awake */
	_Atomic int fd;		/* one that names it */
	_Atomic int kept;	/* one that the program does not see (mapped.c), -1: none */
	struct own_lock lock;	/* requests, one at a time */
	struct own_lock binding_lock;
	_Atomic bool bound; /* `binding` is valid, until the last fd is closed */
	_Atomic bool gone;  /* the switch closed it */
	struct binding binding;
};

#define WIRE_SOCKET "netmap.sock"

/* mapped.c: the session has ended. */
void mapped_forget(struct vsn_session *session);

/* session.c */
bool session_enter(struct vsn_session *session); /* false: it has been closed */
void session_leave(struct vsn_session *session);
/* visit for every session that is not closed. */
void session_all(void (*visit)(struct vsn_session *session));
/* visit(fd) for every fd that names the session, until it returns true. */
void session_visit(struct vsn_session *session, bool (*visit)(int fd, void *data), void *data);

/*
 * wire.c: a request and its answer. `fds`: in, the n_in to send; out, the *n_out that came, which
 * the caller closes. Returns 0 or a negative errno, the switch's or our own. One at a time:
 * between threads by the session's lock, between processes by a lock on the connection.
 */
int wire_connect(void); /* O_CLOEXEC */
int wire_request(struct vsn_session *session, struct client_request *request,
		 struct client_answer *answer, int fds[CLIENT_FDS], unsigned n_in, unsigned *n_out);
/* The same for what is not needed now: -EAGAIN, where the connection is in use or nobody answers.
 */
int wire_try(struct vsn_session *session, struct client_request *request,
	     struct client_answer *answer, int fds[CLIENT_FDS], unsigned *n_out);
/* A new connection under the same fds: what the old one was bound to goes. */
int wire_reset(struct vsn_session *session);
void wire_close(int fds[], unsigned n);

/* --- region.c --------------------------------------------------------------------------------- */

struct region_shape {
	struct {
		uint32_t total, object_bytes;
		uint64_t at;
	} pools[POOLS];
	uint64_t memsize;
	bool external;
};

/* As the module sizes the private region of a VALE port, pipes in it included. */
int region_shape_private(struct region_shape *shape, uint32_t tx_rings, uint32_t tx_slots,
			 uint32_t rx_rings, uint32_t rx_slots, uint32_t extra_bufs);
/* As the module sizes the region that all ports share which ask for it. */
void region_shape_global(struct region_shape *shape);
/* A new memory for a region, empty: an fd. */
int region_memory(void);
/*
 * Maps it, and lays it out where nobody has yet. `external`: the program's own memory, NULL: none.
 * Once mapped, the fd is not needed.
 */
int region_open(struct region *region, int fd, const struct region_shape *shape, uint32_t mem_id,
		uint8_t *external);
void region_close(struct region *region);
void region_lock_make(pthread_mutex_t *lock);
void region_lock(struct region_head *head);
void region_unlock(struct region_head *head);
/* What the numbers of a pool's object and its place are; under the region's lock. -1: none free. */
int64_t region_take(struct region_head *head, enum region_pool_kind kind);
void region_give(struct region_head *head, enum region_pool_kind kind, int64_t number);
/* Locks a ring, also when its holder was killed: *died then. */
void kring_lock(struct kring *kring, bool *died);

/* --- adapter.c: ports in a region and who has which of their rings; under the region's lock ----
 */

/*
 * The adapter of that name, made where there is none. `fresh`: the switch has just made the port,
 * so that what is there under its name is left from one whose programs were killed. NULL: no room.
 */
struct adapter *adapter_get(struct region *region, const char *name, bool fresh,
			    const uint32_t rings[RING_SIDES], const uint32_t slots[RING_SIDES]);
/*
 * A registration of adapter `wanted->adapter`: rings [first, last), a netmap_if, extra buffers (as
 * many as there are). The seat's number or -ENOMEM.
 */
int seat_make(struct region *region, const struct seat *wanted, const char *if_name);
int seat_find(const struct region *region, uint32_t session); /* -ENXIO: there is none */
/* One process less; the last one gives back what the seat has. */
void seat_leave(struct region *region, uint32_t number);
/* The switch says that this registration ended: its programs were killed. */
void seat_ended(struct region *region, uint32_t session);

/* --- bind.c: from what the switch answered to what a sync needs, and back ----------------------
 */

/* What a registration asked for; NULL where the switch described one that is there. */
struct bind_wish {
	uint32_t mode, ring_id, extra_bufs;
	uint32_t slots[RING_SIDES]; /* 0: the default */
	uint64_t flags;
	int region_fd;	   /* of our own; answer.shared: not needed after all */
	uint8_t *external; /* the program's own memory for the region, or NULL */
	const struct region_shape *external_shape;
	struct nmreq_opt_offsets *offsets; /* or NULL; filled in */
};

/* Takes over `fds`. On failure the session is as before; the connection may need a reset. */
int bind_answer(struct vsn_session *session, const struct client_answer *answer, int fds[],
		unsigned n, const struct bind_wish *wish);
int bind_described(struct vsn_session *session);
void bind_end(struct vsn_session *session);

/* --- request.c, legacy.c ---------------------------------------------------------------------- */

int request_control(struct vsn_session *session, void *user); /* NIOCCTRL */
int request_legacy(struct vsn_session *session, unsigned long request, void *user);

/* --- sync.c, sync_tx.c, sync_rx.c ------------------------------------------------------------- */

/* How a sync left a ring. */
struct sync_result {
	bool invalid; /* head or cur made no sense and were put back */
	bool found;   /* the program has slots that it has not seen (cur != tail) */
	bool sent;    /* txsync: took some of the program's */
};

struct sync_result txsync(struct binding *binding, struct ring_view *view);
struct sync_result rxsync(struct binding *binding, struct ring_view *view);

/*
 * head and cur as the program wrote them, where they lie between what the last sync left; else all
 * is put back to that, and bad slots are emptied. Under the kring's lock.
 */
struct ring_place {
	uint32_t head, cur;
	bool valid;
};
struct ring_place ring_enter(const struct region *region, struct ring_view *view);

static inline unsigned ring_number(const struct binding *binding, enum ring_side side,
				   const struct ring_view *view)
{
	return (unsigned)(view - binding->views[side]);
}

/* Bytes of virtio-net header in front of each frame of the program's, as the switch has it now. */
static inline uint32_t header_bytes(const struct binding *binding)
{
	uint32_t bytes = load_shared(&binding->link.map.memory->hdr_len);

	return bytes == 10 || bytes == 12 ? bytes : 0;
}

/* A buffer of the region; 0 where there is none of that number, as the module has it. */
static inline uint8_t *buffer_at(const struct region *region, uint32_t number)
{
	if (__builtin_expect(number >= region->buffers, 0))
		number = 0;
	return region->base + region->buffers_at + (size_t)number * region->buffer_bytes;
}

/* memcpy for short frames without a call: moves that may overlap, never beyond either end. */
static inline void copy_short(uint8_t *restrict to, const uint8_t *restrict from, uint32_t bytes)
{
	if (__builtin_expect(bytes > 256 || bytes < 16, 0)) {
		memcpy(to, from, bytes);
		return;
	}
	if (bytes < 32) {
		uint8_t last[16];

		memcpy(last, from + bytes - 16, 16);
		memcpy(to, from, 16);
		memcpy(to + bytes - 16, last, 16);
		return;
	}
	for (uint32_t at = 0; at + 32 < bytes; at += 32)
		memcpy(to + at, from + at, 32);
	memcpy(to + bytes - 32, from + bytes - 32, 32);
}

/*
 * Between a claim and the bytes that it is about (pipe.c), and between these and a look at the
 * claim (watch.c).
 */
static inline void fence(void)
{
#ifdef __SANITIZE_THREAD__ /* knows no fences, hence does not compile with one */
	atomic_signal_fence(memory_order_acq_rel);
#else
	atomic_thread_fence(memory_order_acq_rel);
#endif
}

/* All of a slot but its ptr, in one store. */
static inline void slot_fill(struct netmap_slot *slot, uint32_t buf_idx, uint32_t len,
			     uint32_t flags)
{
	__atomic_store_n((uint64_t *)slot, buf_idx | (uint64_t)len << 32 | (uint64_t)flags << 48,
			 __ATOMIC_RELAXED);
}

/* When the ring was synced. */
static inline void ring_stamp(struct netmap_ring *ring)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	ring->ts.tv_sec = now.tv_sec;
	ring->ts.tv_usec = now.tv_usec;
}

/* Where in its buffer a slot's frame begins (NETMAP_REQ_OPT_OFFSETS). */
static inline uint32_t slot_offset(const struct kring *kring, const struct netmap_slot *slot)
{
	uint64_t offset;

	if (__builtin_expect(!kring->offset_mask, 1))
		return 0;
	offset = load_shared(&slot->ptr) & kring->offset_mask;
	return (uint32_t)(offset > kring->offset_max ? kring->offset_max : offset);
}
