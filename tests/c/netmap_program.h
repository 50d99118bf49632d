/* A netmap program of the tests' own, on the client library's calls, with what it has open. */
#pragma once

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../fastpath/client/client.h"
#include "check.h"
#include "netmap_abi.h"
#include "ring.h"

struct program {
	int fd;
	struct vsn_session *session;
	struct nmreq_register reg;
	void *memory;
	struct netmap_if *nifp;
};

static inline int program_ask(struct program *p, unsigned type, const char *name, void *body,
			      void *options)
{
	struct nmreq_header header = {.nr_version = NETMAP_API,
				      .nr_reqtype = (uint16_t)type,
				      .nr_options = (uintptr_t)options,
				      .nr_body = (uintptr_t)body};

	strncpy(header.nr_name, name, sizeof(header.nr_name) - 1);
	return vsn_ioctl(p->session, NIOCCTRL, &header);
}

/* REGISTER with p->reg, and mmap. */
static inline int program_register(struct program *p, const char *name, void *options)
{
	int error;

	if (!p->reg.nr_mode)
		p->reg.nr_mode = NR_REG_ALL_NIC;
	error = program_ask(p, NETMAP_REQ_REGISTER, name, &p->reg, options);
	if (error)
		return error;
	error = vsn_mmap(p->session, NULL, p->reg.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, 0,
			 &p->memory);
	if (!error)
		p->nifp = (void *)((uint8_t *)p->memory + p->reg.nr_offset);
	return error;
}

static inline int program_open(struct program *p, const char *name, struct nmreq_register reg)
{
	*p = (struct program){.fd = vsn_open(true), .reg = reg};
	if (p->fd < 0)
		return p->fd;
	p->session = vsn_find(p->fd, false);
	return program_register(p, name, NULL);
}

static inline void program_close(struct program *p)
{
	if (p->memory)
		munmap(p->memory, p->reg.nr_memsize);
	vsn_closed(p->fd);
	close(p->fd);
	*p = (struct program){.fd = -1};
}

static inline struct netmap_ring *program_tx(const struct program *p, unsigned ring)
{
	return (void *)((uint8_t *)p->nifp + p->nifp->ring_ofs[ring]);
}

static inline struct netmap_ring *program_rx(const struct program *p, unsigned ring)
{
	unsigned at = p->nifp->ni_tx_rings + p->nifp->ni_host_tx_rings + ring;

	return (void *)((uint8_t *)p->nifp + p->nifp->ring_ofs[at]);
}

static inline int program_sync(struct program *p, unsigned long which)
{
	return vsn_ioctl(p->session, which, NULL);
}

/* poll(2) on it, as preload.c does it. */
static inline short program_poll(struct program *p, short events, int timeout_ms)
{
	uint64_t end = now_ms() + (uint64_t)timeout_ms;

	for (;;) {
		struct pollfd fds[VSN_BELLS_MAX];
		short revents = vsn_poll(p->session, events);
		int n;

		if (revents || now_ms() >= end)
			return revents;
		n = vsn_asleep(p->session, events, fds);
		if (n)
			poll(fds, (nfds_t)n, (int)(end - now_ms()));
		vsn_awake(p->session);
	}
}

/* Puts a slot into the tx ring; false: no room. */
static inline bool program_put(struct netmap_ring *ring, const void *data, uint16_t len,
			       uint16_t flags)
{
	struct netmap_slot *slot = &ring->slot[ring->head];

	if (ring->head == ring->tail)
		return false;
	slot->len = len;
	slot->flags = flags;
	memcpy(ring_buffer(ring, slot->buf_idx), data, len);
	ring->head = ring->cur = ring_next(ring, ring->head);
	return true;
}

/* The next received slot; NULL: there is none. */
static inline struct netmap_slot *program_get(struct netmap_ring *ring)
{
	struct netmap_slot *slot = &ring->slot[ring->head];

	if (ring->head == ring->tail)
		return NULL;
	ring->head = ring->cur = ring_next(ring, ring->head);
	return slot;
}
