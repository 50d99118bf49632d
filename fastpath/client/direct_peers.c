/* With whom direct.c exchanges frames: the table of addresses, pairs, and what becomes of them. */
#include "direct_set.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fds.h"
#include "real.h"
#include "sys.h"

/* --- memory ------------------------------------------------------------------------------------
 */

static void *pages(size_t bytes)
{
	return sys_map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void fds_close(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		sys_close(fds[i]);
}

struct direct *direct_open(const struct direct_home *home)
{
	struct direct *direct = pages(sizeof(*direct));

	if (!direct)
		return NULL;
	direct->home = *home;
	direct->epoll = -1;
	atomic_store(&direct->version, 1);
	for (unsigned ring = 0; ring < CLIENT_RINGS_MAX; ring++) {
		direct->tx[ring].direct = direct->rx[ring].direct = direct;
		direct->tx[ring].ring = direct->rx[ring].ring = ring;
	}
	return direct;
}

/* --- peers -------------------------------------------------------------------------------------
 */

static void peer_free(struct direct_peer *peer)
{
	client_map_close(&peer->map);
	for (unsigned i = 0; i < peer->bells; i++)
		vsn_hidden_close(peer->bell[i]); /* leaves the epoll, too */
	sys_unmap(peer, sizeof(*peer));
}

/* A bell that the peer rings when we sleep, at the lanes that we read. */
static bool bell_watch(struct direct *direct, int bell)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = bell};

	if (direct->epoll < 0) {
		int epoll = (int)SYS_RESULT(epoll_create1(EPOLL_CLOEXEC));

		direct->epoll = epoll < 0 ? -1 : vsn_hide(epoll);
	}
	return direct->epoll >= 0 &&
	       SYS_RESULT(vsn_real.epoll_ctl(direct->epoll, EPOLL_CTL_ADD, bell, &event)) >= 0;
}

/* Does the memory have a lane for each of our rings, and came its bells along? */
static bool peer_sound(const struct direct *direct, const struct direct_peer *peer, unsigned count)
{
	const struct client_map *map = &peer->map;
	uint32_t lanes_out = peer->side ? map->rx_rings : map->tx_rings;

	return lanes_out >= direct->home.map->tx_rings &&
	       count == 1 + client_bells(map->tx_rings, map->rx_rings);
}

/* From an answer; the fds are taken. NULL: there is none. */
static struct direct_peer *peer_make(struct direct *direct, const struct client_answer *answer,
				     int *fds, unsigned count)
{
	struct direct_peer *peer = pages(sizeof(*peer));
	struct stat file;

	if (!peer || !count || answer->side > 1 || SYS_RESULT(fstat(fds[0], &file)) < 0 ||
	    client_map_open(fds[0], &peer->map) < 0)
		goto fail;
	peer->number = answer->index;
	peer->side = answer->side;
	peer->inode = file.st_ino;
	if (!peer_sound(direct, peer, count)) {
		client_map_close(&peer->map);
		goto fail;
	}
	peer->lanes_in = peer->side ? peer->map.tx_rings : peer->map.rx_rings;
	sys_close(fds[0]);
	for (unsigned i = 1; i < count; i++) {
		int bell = vsn_hide(fds[i]);

		peer->bell[peer->bells++] = bell;
		if (bell < 0 || !bell_watch(direct, bell)) {
			fds_close(&fds[i + 1], count - i - 1);
			peer_free(peer);
			return NULL;
		}
	}
	return peer;

fail:
	fds_close(fds, count);
	sys_unmap(peer, peer ? sizeof(*peer) : 0);
	return NULL;
}

/* --- sets --------------------------------------------------------------------------------------
 */

static struct direct_set *set_copy(const struct direct *direct)
{
	const struct direct_set *old = atomic_load(&direct->set);
	struct direct_set *set = pages(sizeof(*set));

	if (!set || !old)
		return set;
	set->view = old->view;
	set->view_bytes = old->view_bytes;
	set->buckets = old->buckets;
	set->number = old->number;
	set->own = old->own;
	memcpy(set->peer, old->peer, sizeof(set->peer));
	return set;
}

static void set_free(struct direct_set *set)
{
	if (set->view_ends)
		sys_unmap((void *)(uintptr_t)set->view, set->view_bytes);
	for (unsigned i = 0; i < set->end_count; i++)
		peer_free(set->ends[i]);
	sys_unmap(set, sizeof(*set));
}

/* Frees what no ring uses any more. */
static void retired_free(struct direct *direct)
{
	uint64_t oldest = UINT64_MAX;

	for (unsigned i = 0; i < 2 * CLIENT_RINGS_MAX; i++) {
		uint64_t since =
		    atomic_load(&direct->use[i / CLIENT_RINGS_MAX][i % CLIENT_RINGS_MAX].since);

		if (since && since < oldest)
			oldest = since;
	}
	for (struct direct_set **at = &direct->retired; *at;) {
		struct direct_set *set = *at;

		if (set->retired_at >= oldest) {
			at = &set->older;
			continue;
		}
		*at = set->older;
		set_free(set);
	}
}

/* `set` replaces what there was. Peers and a table that it does not have end with the old one. */
static void set_publish(struct direct *direct, struct direct_set *set)
{
	struct direct_set *old;

	set->serial = ++direct->last_serial;
	set->places = 0;
	for (unsigned i = 0; i < DIRECT_PEERS_MAX; i++)
		set->places = set->peer[i] ? i + 1 : set->places;
	old = atomic_exchange(&direct->set, set);
	if (old) {
		for (unsigned i = 0; i < DIRECT_PEERS_MAX; i++) {
			if (old->peer[i] && old->peer[i] != set->peer[i])
				old->ends[old->end_count++] = old->peer[i];
		}
		old->view_ends = old->view && old->view != set->view;
		old->retired_at = atomic_fetch_add(&direct->version, 1);
		old->older = direct->retired;
		direct->retired = old;
	}
	retired_free(direct);
}

void direct_forget(struct direct *direct)
{
	struct direct_set *set = pages(sizeof(*set));

	if (set) {
		set_publish(direct, set);
		atomic_store(&direct->set, NULL);
		retired_free(direct);
		set_free(set);
	}
	vsn_hidden_close(direct->epoll);
	direct->epoll = -1;
}

void direct_close(struct direct *direct)
{
	if (!direct)
		return;
	direct_forget(direct);
	sys_unmap(direct, sizeof(*direct));
}

/* --- asking ------------------------------------------------------------------------------------
 */

/* One thread at a time; a child does not inherit what a thread of its parent held. */
static bool learning_begin(struct direct *direct)
{
	uint32_t me = (uint32_t)getpid(), holder = 0;

	if (direct_now_ns() / 1000000 < direct->retry_ms)
		return false;
	return atomic_compare_exchange_strong(&direct->learning, &holder, me) ||
	       (holder != me && atomic_compare_exchange_strong(&direct->learning, &holder, me));
}

static void learning_end(struct direct *direct, int error)
{
	if (error)
		direct->retry_ms = direct_now_ns() / 1000000 + DIRECT_RETRY_MS;
	atomic_store(&direct->learning, 0);
}

static int ask(struct direct *direct, uint16_t type, uint32_t index, struct client_answer *answer,
	       int fds[CLIENT_FDS], unsigned *count)
{
	struct client_request request = {.type = type, .index = index};

	return direct->home.ask(direct->home.context, &request, answer, fds, count);
}

/* Nobody can cut it short under our mapping. */
static bool keeps_size(int fd)
{
	int seals = sys_fcntl(fd, F_GET_SEALS, 0);

	return seals >= 0 && seals & F_SEAL_SHRINK;
}

/* The table that `number` means, into the set; none where the switch has none for us. */
static int view_ask(struct direct *direct, struct direct_set *set)
{
	struct client_answer answer;
	const struct fdb_view *view;
	int fds[CLIENT_FDS];
	unsigned count = 0;
	struct stat file;
	uint32_t buckets;
	int error = ask(direct, CLIENT_FDB, 0, &answer, fds, &count);

	if (error)
		return error == -ENXIO ? 0 : error;
	if (count != 1 || SYS_RESULT(fstat(fds[0], &file)) < 0 ||
	    file.st_size <= FDB_VIEW_HEADER_BYTES || !keeps_size(fds[0])) {
		fds_close(fds, count);
		return -EPROTO;
	}
	view = vsn_real.mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_SHARED, fds[0], 0);
	sys_close(fds[0]);
	if (view == MAP_FAILED)
		return -ENOMEM;
	buckets = load_shared(&view->buckets);
	if (load_shared(&view->magic) != FDB_VIEW_MAGIC ||
	    load_shared(&view->version) != FDB_VIEW_VERSION || !buckets ||
	    buckets & (buckets - 1) || fdb_view_bytes(buckets) != (uint64_t)file.st_size) {
		sys_unmap((void *)(uintptr_t)view, (size_t)file.st_size);
		return -EPROTO;
	}
	set->view = view;
	set->view_bytes = (size_t)file.st_size;
	set->buckets = buckets;
	set->number = answer.fdb_number;
	set->own = answer.index;
	return 0;
}

/* The peer of `set` that an answer speaks of, which is taken from there; NULL: a new one. */
static struct direct_peer *peer_take(struct direct_set *set, const struct client_answer *answer,
				     const int *fds, unsigned count)
{
	struct stat file;

	if (!count || SYS_RESULT(fstat(fds[0], &file)) < 0)
		return NULL;
	for (unsigned i = 0; i < DIRECT_PEERS_MAX; i++) {
		struct direct_peer *peer = set->peer[i];

		if (peer && peer->map.memory && peer->number == answer->index &&
		    peer->inode == file.st_ino)
			return peer;
	}
	return NULL;
}

/* Where the peer is, or may be. -1: no room. */
static int place_of(const struct direct_set *set, const struct direct_peer *peer)
{
	for (int i = 0; i < DIRECT_PEERS_MAX; i++) {
		if (set->peer[i] == peer)
			return i;
	}
	return -1;
}

/* All pairs that there are, into set->peer, which holds those that there were. */
static int peers_ask(struct direct *direct, struct direct_set *set)
{
	bool stays[DIRECT_PEERS_MAX] = {0};
	uint32_t index = 0;

	for (;;) {
		struct client_answer answer;
		struct direct_peer *peer;
		int fds[CLIENT_FDS];
		unsigned count = 0;
		int place, error = ask(direct, CLIENT_NEWS, index, &answer, fds, &count);

		if (error == -ENOENT || error == -ENXIO)
			break;
		if (error)
			return error;
		if (answer.index < index || answer.index > UINT16_MAX) {
			fds_close(fds, count);
			return -EPROTO;
		}
		peer = peer_take(set, &answer, fds, count);
		if (peer) {
			fds_close(fds, count);
			stays[place_of(set, peer)] = true;
		} else {
			place = place_of(set, NULL);
			peer = place < 0 ? NULL : peer_make(direct, &answer, fds, count);
			if (place < 0)
				fds_close(fds, count);
			if (peer) {
				set->peer[place] = peer;
				stays[place] = true;
			}
		}
		index = answer.index + 1;
		if (!answer.more)
			break;
	}
	for (unsigned i = 0; i < DIRECT_PEERS_MAX; i++) {
		if (!stays[i])
			set->peer[i] = NULL;
	}
	return 0;
}

void direct_learn(struct direct *direct)
{
	uint32_t news = load_shared_acquire(&direct->home.map->memory->news);
	uint32_t number = direct_number(direct);
	struct direct_set *set;
	int error = 0;

	if (!learning_begin(direct))
		return;
	set = set_copy(direct);
	if (!set) {
		learning_end(direct, -ENOMEM);
		return;
	}
	if (number && number != set->number) {
		set->view = NULL;
		set->number = number;
		error = view_ask(direct, set);
		if (error)
			set->number = 0;
	}
	if (!error)
		error = peers_ask(direct, set);
	if (!error) /* else what is known is used, and the rest asked for again */
		atomic_store(&direct->news, news);
	set_publish(direct, set);
	learning_end(direct, error);
}

/* A pair that the switch does not give is not asked for with every frame. */
static struct direct_peer *peer_refused(uint32_t number)
{
	struct direct_peer *peer = pages(sizeof(*peer));

	if (peer) {
		peer->number = number;
		peer->refused_at = direct_now_ns() / 1000000;
	}
	return peer;
}

/* Puts a peer into the set, in the place of one that was refused before. */
static void peer_enter(struct direct_set *set, struct direct_peer *peer)
{
	int place;

	for (unsigned i = 0; i < DIRECT_PEERS_MAX; i++) {
		if (set->peer[i] && set->peer[i]->number == peer->number)
			set->peer[i] = NULL;
	}
	place = place_of(set, NULL);
	if (place < 0)
		peer_free(peer);
	else
		set->peer[place] = peer;
}

void direct_meet(struct direct *direct, uint32_t number)
{
	struct client_answer answer;
	struct direct_peer *peer = NULL;
	struct direct_set *set;
	int fds[CLIENT_FDS];
	unsigned count = 0;
	int error;

	if (!learning_begin(direct))
		return;
	set = set_copy(direct);
	error = set ? ask(direct, CLIENT_PEER, number, &answer, fds, &count) : -ENOMEM;
	if (!set) {
		learning_end(direct, error);
		return;
	}
	if (!error) {
		answer.index = number;
		peer = peer_make(direct, &answer, fds, count);
	}
	if (!peer)
		peer = peer_refused(number);
	if (peer)
		peer_enter(set, peer);
	set_publish(direct, set);
	learning_end(direct, error == -ENXIO || error == -ENOSPC ? 0 : error);
}
