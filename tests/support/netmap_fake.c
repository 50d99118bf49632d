#include "netmap_fake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum {
	REGIONS = 4,
	ADAPTERS = 8,
	FDS = 1024,
	SLOTS_MAX = 4096,
	BUFFERS = 32768,
	IF_BYTES = 4096, /* of a netmap_if: one page each */
	IFS = 256,
	RING_BYTES = 256 + SLOTS_MAX * 16,
	RINGS = 64,
	BUFFERS_AT = IF_BYTES * IFS + RING_BYTES * RINGS,
	REGION_BYTES = BUFFERS_AT + BUFFERS * FAKE_BUFFER_BYTES
};
static_assert(BUFFERS_AT % 4096 == 0, "pages");

struct region {
	unsigned id; /* 0: none */
	int fd;
	uint8_t *base;
	unsigned ifs, rings, buffers;
};

/* One ring, kernel's side. rx: done..ready-1 hold frames; tx: done..head-1 wait to be taken. */
struct kring {
	struct netmap_ring *ring;
	uint64_t offset;
	uint32_t head; /* the user's, as of the last sync */
	uint32_t ready;
	uint32_t done;
	bool tx;
	atomic_int inside;
	uint32_t shown[SLOTS_MAX]; /* buffers the kernel knows of */
};

struct adapter {
	char name[64];
	struct fake_shape shape;
	struct region *region;
	struct kring rings[2][2][FAKE_RINGS_MAX]; /* host, tx, number */
	int bells[2][FAKE_RINGS_MAX];		  /* fd whose owner waits for this rx ring, or 0 */
	bool gone, down;
	int promiscuous; /* an fd, or 0 */
};

struct binding {
	struct adapter *adapter;
	bool host, rx, tx;
	unsigned ring;
	uint64_t flags;
	ino_t inode; /* of the fd when it was opened: numbers are used again */
};

static struct region regions[REGIONS];
static struct adapter *adapters[ADAPTERS];
static struct binding bindings[FDS];
static unsigned faults;
static char first_fault[128];
static uint64_t last_buffer, last_flags;
static uint16_t last_slot_flags;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fault(const char *what, const struct kring *kring)
{
	if (!faults++)
		snprintf(first_fault, sizeof(first_fault), "%s (%s ring)", what,
			 kring && kring->tx ? "tx" : "rx");
}

/* --- making ---------------------------------------------------------------------------------- */

static struct region *region_of(unsigned id)
{
	struct region *region = regions;

	while (region->id && region->id != id)
		region++;
	if (!region->id) {
		*region = (struct region){.id = id, .buffers = NETMAP_FIRST_BUFFER};
		region->fd = memfd_create("netmap-fake", MFD_CLOEXEC);
		if (region->fd < 0 || ftruncate(region->fd, REGION_BYTES) < 0)
			abort();
		region->base =
		    mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);
		if (region->base == MAP_FAILED)
			abort();
	}
	return region;
}

static void kring_make(struct kring *kring, struct region *region, unsigned slots, unsigned number,
		       bool tx)
{
	struct netmap_ring *ring;

	kring->offset = IF_BYTES * IFS + (uint64_t)region->rings++ * RING_BYTES;
	ring = kring->ring = (struct netmap_ring *)(region->base + kring->offset);
	kring->tx = tx;
	*ring = (struct netmap_ring){.buf_ofs = (int64_t)(BUFFERS_AT - kring->offset),
				     .num_slots = slots,
				     .nr_buf_size = FAKE_BUFFER_BYTES,
				     .ringid = (uint16_t)number,
				     .dir = tx,
				     .tail = tx ? slots - 1 : 0};
	for (unsigned i = 0; i < slots; i++)
		ring->slot[i].buf_idx = kring->shown[i] = region->buffers++;
	if (region->buffers > BUFFERS || region->rings > RINGS)
		abort();
}

void fake_adapter(const char *name, const struct fake_shape *shape)
{
	struct adapter *adapter = calloc(1, sizeof(*adapter));
	unsigned free = 0;

	while (adapters[free])
		free++;
	adapters[free] = adapter;
	snprintf(adapter->name, sizeof(adapter->name), "%s", name);
	adapter->shape = *shape;
	adapter->region = region_of(shape->mem_id);
	for (unsigned host = 0; host < 2; host++) {
		for (unsigned i = 0; i < (host ? shape->host_rings : shape->rings); i++) {
			for (unsigned tx = 0; tx < 2; tx++)
				kring_make(&adapter->rings[host][tx][i], adapter->region,
					   shape->slots, i, tx);
		}
	}
}

void fake_reset(void)
{
	for (unsigned i = 0; i < ADAPTERS; i++) {
		free(adapters[i]);
		adapters[i] = NULL;
	}
	for (unsigned i = 0; i < REGIONS && regions[i].id; i++) {
		munmap(regions[i].base, REGION_BYTES);
		close(regions[i].fd);
		regions[i].id = 0;
	}
	memset(bindings, 0, sizeof(bindings));
	faults = 0;
	first_fault[0] = 0;
}

static struct adapter *find(const char *name)
{
	for (unsigned i = 0; i < ADAPTERS; i++) {
		if (adapters[i] && strcmp(adapters[i]->name, name) == 0)
			return adapters[i];
	}
	return NULL;
}

/* --- what the driver calls ------------------------------------------------------------------- */

static ino_t inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

/* A pipe with both ends in one fd: it has an inode of its own, and poll wakes by a byte in it. */
static int fake_open(void)
{
	char path[32];
	int ends[2], fd;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[0]);
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	close(ends[0]);
	close(ends[1]);
	if (fd < 0 || fd >= FDS)
		abort();
	bindings[fd] = (struct binding){.inode = inode_of(fd)};
	return fd;
}

static bool is_open(int fd)
{
	return bindings[fd].inode && bindings[fd].inode == inode_of(fd);
}

/* Wakes whoever waits for a receive ring. */
static void ring_bell(int fd)
{
	if (fd && is_open(fd) && write(fd, "", 1) < 0 && errno != EAGAIN)
		abort();
}

static unsigned owners(const struct adapter *adapter, bool host, unsigned ring, bool tx,
		       bool *alone)
{
	unsigned count = 0;

	*alone = false;
	for (int fd = 0; fd < FDS; fd++) {
		const struct binding *b = &bindings[fd];

		/* one that was closed is nobody's any more */
		if (b->adapter != adapter || b->host != host || b->ring != ring ||
		    !(tx ? b->tx : b->rx) || !is_open(fd))
			continue;
		count++;
		*alone |= (b->flags & NR_EXCLUSIVE) != 0;
	}
	return count;
}

/* The netmap_if of an fd that is bound to one ring pair. */
static uint64_t if_make(const struct adapter *adapter, const struct binding *binding)
{
	struct region *region = adapter->region;
	uint64_t at = (uint64_t)(region->ifs++ % IFS) * IF_BYTES;
	struct netmap_if *nifp = (struct netmap_if *)(region->base + at);
	uint32_t host = adapter->shape.host_rings ? adapter->shape.host_rings : 1;
	uint32_t rings = adapter->shape.rings, rx0 = rings + host;
	uint32_t place = binding->ring + (binding->host ? rings : 0);

	memset(nifp, 0, IF_BYTES);
	nifp->ni_tx_rings = nifp->ni_rx_rings = rings;
	nifp->ni_host_tx_rings = nifp->ni_host_rx_rings = host;
	if (binding->tx)
		nifp->ring_ofs[place] =
		    (int64_t)(adapter->rings[binding->host][1][binding->ring].offset - at);
	if (binding->rx)
		nifp->ring_ofs[rx0 + place] =
		    (int64_t)(adapter->rings[binding->host][0][binding->ring].offset - at);
	return at;
}

static int do_register(int fd, const struct nmreq_header *header, struct nmreq_register *reg)
{
	struct binding *binding = &bindings[fd];
	struct adapter *adapter = find(header->nr_name);
	bool host = reg->nr_mode == NR_REG_ONE_SW || reg->nr_mode == NR_REG_SW, alone_tx, alone_rx;
	unsigned rings, taken;

	if (!adapter || adapter->gone)
		return -ENXIO;
	if (binding->adapter)
		return -EBUSY;
	rings = host ? adapter->shape.host_rings : adapter->shape.rings;
	if ((reg->nr_mode != NR_REG_ONE_NIC && reg->nr_mode != NR_REG_ONE_SW) ||
	    reg->nr_ringid >= rings || (reg->nr_mem_id && reg->nr_mem_id != adapter->shape.mem_id))
		return -EINVAL;
	*binding = (struct binding){.host = host,
				    .ring = reg->nr_ringid,
				    .rx = !(reg->nr_flags & NR_TX_RINGS_ONLY),
				    .tx = !(reg->nr_flags & NR_RX_RINGS_ONLY),
				    .flags = reg->nr_flags,
				    .inode = binding->inode};
	taken = owners(adapter, host, binding->ring, true, &alone_tx) +
		owners(adapter, host, binding->ring, false, &alone_rx);
	if (alone_tx || alone_rx || (taken && (reg->nr_flags & NR_EXCLUSIVE)))
		return -EBUSY;
	binding->adapter = adapter;
	adapter->bells[host][binding->ring] = fd;
	last_flags = reg->nr_flags;
	*reg = (struct nmreq_register){.nr_offset = if_make(adapter, binding),
				       .nr_memsize = REGION_BYTES,
				       .nr_tx_slots = adapter->shape.slots,
				       .nr_rx_slots = adapter->shape.slots,
				       .nr_tx_rings = (uint16_t)adapter->shape.rings,
				       .nr_rx_rings = (uint16_t)adapter->shape.rings,
				       .nr_host_tx_rings = (uint16_t)adapter->shape.host_rings,
				       .nr_host_rx_rings = (uint16_t)adapter->shape.host_rings,
				       .nr_mem_id = (uint16_t)adapter->shape.mem_id};
	return 0;
}

static int fake_control(int fd, struct nmreq_header *header)
{
	void *body = (void *)(uintptr_t)header->nr_body;
	struct adapter *adapter = find(header->nr_name);
	int status = 0;

	if (header->nr_version != NETMAP_API)
		return -EINVAL;
	pthread_mutex_lock(&lock);
	if (header->nr_reqtype == NETMAP_REQ_REGISTER)
		status = do_register(fd, header, body);
	else if (!adapter)
		status = -ENXIO;
	else if (header->nr_reqtype == NETMAP_REQ_PORT_HDR_GET)
		((struct nmreq_port_hdr *)body)->nr_hdr_len = adapter->shape.vnet_bytes;
	else if (header->nr_reqtype == NETMAP_REQ_PORT_INFO_GET)
		((struct nmreq_port_info_get *)body)->nr_mem_id = (uint16_t)adapter->shape.mem_id;
	else
		status = -EOPNOTSUPP;
	pthread_mutex_unlock(&lock);
	return status;
}

static void *fake_map(int fd, uint64_t bytes)
{
	const struct adapter *adapter = bindings[fd].adapter;
	void *base;

	if (!adapter || bytes > REGION_BYTES)
		return NULL;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, adapter->region->fd, 0);
	return base == MAP_FAILED ? NULL : base;
}

static uint32_t next(const struct kring *kring, uint32_t at)
{
	return ring_next(kring->ring, at);
}

/* What the user gives back or hands over: from..to-1. Buffers that changed have to say so. */
static void look_at_slots(struct kring *kring, uint32_t from, uint32_t to)
{
	for (; from != to; from = next(kring, from)) {
		struct netmap_slot *slot = &kring->ring->slot[from];

		if (slot->buf_idx != kring->shown[from] && !(slot->flags & NS_BUF_CHANGED))
			fault("a buffer changed without NS_BUF_CHANGED", kring);
		if (slot->buf_idx < NETMAP_FIRST_BUFFER || slot->buf_idx >= BUFFERS)
			fault("a buffer that is none", kring);
		if (slot->len > FAKE_BUFFER_BYTES)
			fault("a length beyond the buffer", kring);
		kring->shown[from] = slot->buf_idx;
		if (kring->tx)
			last_slot_flags = slot->flags;
		slot->flags &= (uint16_t)~NS_BUF_CHANGED;
	}
}

static void sync_ring(struct kring *kring)
{
	struct netmap_ring *ring = kring->ring;
	uint32_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE), cur = ring->cur;
	uint32_t had = ring_space(kring->head, ring->tail, ring->num_slots);
	uint32_t tail;

	if (head >= ring->num_slots || ring_space(kring->head, head, ring->num_slots) > had ||
	    cur >= ring->num_slots ||
	    ring_space(kring->head, cur, ring->num_slots) <
		ring_space(kring->head, head, ring->num_slots) ||
	    ring_space(kring->head, cur, ring->num_slots) > had) {
		fault("head or cur is outside what is the user's", kring);
		return;
	}
	look_at_slots(kring, kring->head, head);
	kring->head = head;
	if (!kring->tx)
		kring->done = head;
	tail = kring->tx ? (kring->done ? kring->done : ring->num_slots) - 1 : kring->ready;
	__atomic_store_n(&ring->tail, tail, __ATOMIC_RELEASE);
}

static int fake_sync(int fd, bool tx)
{
	struct binding *binding = &bindings[fd];
	struct kring *kring;
	char rung[64];

	if (!binding->adapter || binding->adapter->gone)
		return -ENXIO;
	if (!(tx ? binding->tx : binding->rx))
		return 0;
	kring = &binding->adapter->rings[binding->host][tx][binding->ring];
	if (atomic_fetch_add(&kring->inside, 1))
		fault("two threads in one ring", kring);
	pthread_mutex_lock(&lock);
	while (!tx && read(fd, rung, sizeof(rung)) > 0)
		;
	sync_ring(kring);
	pthread_mutex_unlock(&lock);
	atomic_fetch_sub(&kring->inside, 1);
	return 0;
}

/* Polls as the kernel wakes: when the tail has moved past cur. */
static int fake_wait(int fd, uint64_t timeout_ns)
{
	struct binding *binding = &bindings[fd];
	struct netmap_ring *ring = binding->adapter->rings[binding->host][1][binding->ring].ring;
	const struct timespec nap = {.tv_nsec = 50000};

	for (uint64_t slept = 0; slept < timeout_ns; slept += 50000) {
		int status = fake_sync(fd, true);

		if (status)
			return status;
		if (ring->cur != ring->tail)
			return 1;
		nanosleep(&nap, NULL);
	}
	return 0;
}

static int fake_interface_open(const char *ifname, bool promiscuous, uint32_t *ifindex)
{
	struct adapter *adapter = find(ifname);
	int fd = fake_open();

	if (!adapter)
		return -ENODEV;
	for (unsigned i = 0; i < ADAPTERS; i++) {
		if (adapters[i] == adapter)
			*ifindex = i + 1;
	}
	if (promiscuous)
		adapter->promiscuous = fd;
	return fd;
}

static bool fake_interface_status(int fd, uint32_t ifindex, struct port_status *status)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0xaa, 1};
	struct adapter *adapter = adapters[ifindex - 1];

	(void)fd;
	if (!adapter || adapter->gone)
		return false;
	status->link_up = !adapter->down;
	status->mtu = adapter->shape.mtu ? adapter->shape.mtu : 1500;
	memcpy(status->mac, mac, sizeof(mac));
	return true;
}

const struct netmap_device netmap_fake = {
    .open = fake_open,
    .control = fake_control,
    .map = fake_map,
    .sync = fake_sync,
    .wait = fake_wait,
    .interface_open = fake_interface_open,
    .interface_status = fake_interface_status,
};

const struct netmap_device *fake_device(void)
{
	return &netmap_fake;
}

/* --- what a test does ------------------------------------------------------------------------ */

static uint8_t *bytes_of(struct kring *kring, const struct netmap_slot *slot)
{
	last_buffer = kring->offset + (uint64_t)kring->ring->buf_ofs +
		      (uint64_t)slot->buf_idx * FAKE_BUFFER_BYTES;
	return ring_buffer(kring->ring, slot->buf_idx);
}

static bool put_locked(struct kring *kring, const uint8_t *bytes, uint32_t len)
{
	uint32_t at = kring->ready, slots = kring->ring->num_slots;
	uint32_t need = (len + FAKE_BUFFER_BYTES - 1) / FAKE_BUFFER_BYTES;

	if (slots - 1 - ring_space(kring->done, kring->ready, slots) < need)
		return false;
	for (uint32_t sent = 0; sent < len;) {
		struct netmap_slot *slot = &kring->ring->slot[at];
		uint32_t part =
		    len - sent < FAKE_BUFFER_BYTES ? len - sent : (uint32_t)FAKE_BUFFER_BYTES;

		memcpy(bytes_of(kring, slot), bytes + sent, part);
		sent += part;
		slot->len = (uint16_t)part;
		slot->flags = sent < len ? NS_MOREFRAG : 0;
		at = next(kring, at);
	}
	kring->ready = at;
	return true;
}

bool fake_put(const char *name, bool host, unsigned ring, const uint8_t *bytes, uint32_t len)
{
	struct adapter *adapter = find(name);
	bool done;

	pthread_mutex_lock(&lock);
	done = put_locked(&adapter->rings[host][0][ring], bytes, len);
	if (done)
		ring_bell(adapter->bells[host][ring]);
	pthread_mutex_unlock(&lock);
	return done;
}

int fake_take(const char *name, bool host, unsigned ring, uint8_t *bytes, uint32_t room)
{
	struct kring *kring = &find(name)->rings[host][1][ring];
	uint32_t len = 0;
	bool more = true;

	pthread_mutex_lock(&lock);
	if (kring->done == kring->head) {
		pthread_mutex_unlock(&lock);
		return -1;
	}
	while (more && kring->done != kring->head) {
		struct netmap_slot *slot = &kring->ring->slot[kring->done];

		if (len + slot->len <= room)
			memcpy(bytes + len, bytes_of(kring, slot), slot->len);
		len += slot->len;
		more = slot->flags & NS_MOREFRAG;
		kring->done = next(kring, kring->done);
	}
	if (more)
		fault("a frame without its end", kring);
	pthread_mutex_unlock(&lock);
	return (int)len;
}

void fake_gone(const char *name)
{
	find(name)->gone = true;
}

void fake_link(const char *name, bool up)
{
	find(name)->down = !up;
}

uint64_t fake_last_buffer(void)
{
	return last_buffer;
}

uint16_t fake_last_slot_flags(void)
{
	return last_slot_flags;
}

uint64_t fake_offset(const void *address)
{
	for (unsigned i = 0; i < REGIONS && regions[i].id; i++) {
		const uint8_t *base = regions[i].base;

		if ((const uint8_t *)address >= base &&
		    (const uint8_t *)address < base + REGION_BYTES)
			return (uint64_t)((const uint8_t *)address - base);
	}
	return 0;
}

struct netmap_ring *fake_ring(const char *name, bool host, unsigned ring, bool tx)
{
	return find(name)->rings[host][tx][ring].ring;
}

unsigned fake_owners(const char *name, bool host, unsigned ring, bool tx)
{
	bool alone;

	return owners(find(name), host, ring, tx, &alone);
}

bool fake_promiscuous(const char *name)
{
	int fd = find(name)->promiscuous;

	return fd && is_open(fd);
}

uint64_t fake_last_flags(void)
{
	return last_flags;
}

static void audit_region(struct region *region, uint8_t *held)
{
	for (unsigned i = 0; i < ADAPTERS; i++) {
		struct adapter *adapter = adapters[i];

		if (!adapter || adapter->region != region)
			continue;
		for (unsigned which = 0; which < 4 * FAKE_RINGS_MAX; which++) {
			struct kring *kring =
			    &adapter->rings[which & 1][which >> 1 & 1][which >> 2];

			for (uint32_t s = 0; kring->ring && s < kring->ring->num_slots; s++) {
				uint32_t buffer = kring->ring->slot[s].buf_idx;

				if (buffer >= BUFFERS || held[buffer]++)
					fault("a buffer is in two slots, or none", kring);
			}
		}
	}
}

unsigned fake_faults(void)
{
	uint8_t *held = malloc(BUFFERS);

	for (unsigned i = 0; i < REGIONS && regions[i].id; i++) {
		unsigned count = 0;

		memset(held, 0, BUFFERS);
		audit_region(&regions[i], held);
		for (uint32_t b = 0; b < BUFFERS; b++)
			count += held[b];
		if (count != regions[i].buffers - NETMAP_FIRST_BUFFER)
			fault("a buffer is lost", NULL);
	}
	free(held);
	return faults;
}

const char *fake_fault(void)
{
	return first_fault;
}
