/* netmap ports by hand, over the module of tests/support/netmap_fake.h. */
#pragma once

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../support/netmap_fake.h"
#include "check.h"
#include "netmap_host.h"

struct np {
	struct port_fds fds;
	struct port port;
	struct frame batch[FRAME_BATCH];
	struct port_counters cell;
};

static inline struct port_options np_options(struct port_option *item, const char *portspec)
{
	*item = (struct port_option){"portspec", portspec};
	return (struct port_options){.port = "p", .items = item, .count = 1};
}

static inline int np_acquire(struct np *np, const char *portspec, struct error *err)
{
	struct port_option item;
	struct port_options options = np_options(&item, portspec);

	*err = (struct error){0};
	memset(np, 0, sizeof(*np));
	return port_acquire("netmap", &options, &np->fds, err);
}

static inline int np_attach(struct np *np, struct error *err)
{
	struct port_options options = {.port = "p"};

	*err = (struct error){0};
	memset(&np->port, 0, sizeof(np->port));
	np->port.ops = port_type_find("netmap");
	return np->port.ops->attach(&np->port, &options, &np->fds, err);
}

static inline void np_open(struct np *np, const char *portspec)
{
	struct error err;

	if (!CHECK(np_acquire(np, portspec, &err) == 0) || !CHECK(np_attach(np, &err) == 0)) {
		fprintf(stderr, "  %s: %s\n", portspec, err.message);
		exit(1);
	}
}

static inline void np_detach(struct np *np)
{
	np->port.ops->detach(&np->port);
}

static inline void np_close(struct np *np)
{
	np_detach(np);
	while (np->fds.count)
		close(np->fds.fd[--np->fds.count]);
}

static inline int np_rx(struct np *np, unsigned queue)
{
	return np->port.ops->rx(&np->port.rxq[queue], np->batch, FRAME_BATCH, &np->cell);
}

static inline void np_done(struct np *np, unsigned queue)
{
	np->port.ops->rx_done(&np->port.rxq[queue]);
}

/* `count` frames of from's last batch into a queue of to; the report adds up. */
static inline struct tx_report np_tx(struct np *to, unsigned queue, struct np *from, unsigned first,
				     unsigned count)
{
	struct tx_report report = {.source = from ? &from->port.rxq[0] : NULL};
	struct frame *list[FRAME_BATCH];
	uint32_t sum;

	for (unsigned i = 0; i < count; i++)
		list[i] = &from->batch[first + i];
	to->port.ops->tx(&to->port.txq[queue], list, count, &report);
	sum = report.sent + report.consumed;
	for (unsigned i = 0; i < DROP_REASONS; i++)
		sum += report.drops[i];
	CHECK(sum == count);
	return report;
}

/* A frame that no ring holds. */
static inline struct tx_report np_send(struct np *to, unsigned queue, uint8_t *bytes, uint32_t len)
{
	struct frame frame = {.data = bytes, .len = len, .frame_len = len}, *list = &frame;
	struct tx_report report = {0};

	to->port.ops->tx(&to->port.txq[queue], &list, 1, &report);
	return report;
}

static inline void np_check_faults(void)
{
	if (!CHECK(fake_faults() == 0))
		fprintf(stderr, "  %s\n", fake_fault());
}

/* What a frame carries: addresses, its number, bytes that follow from it. */
static inline uint32_t np_frame(uint8_t *bytes, uint32_t number, uint32_t len)
{
	memset(bytes, 2, 12);
	bytes[5] = 9;
	bytes[12] = 0x88;
	bytes[13] = 0xb5;
	for (uint32_t i = 14; i < len; i++)
		bytes[i] = (uint8_t)(number + i * 31 + (i >> 8));
	return len;
}

static inline unsigned np_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += lseek(fd, 0, SEEK_CUR) >= 0 || dup2(fd, fd) >= 0;
	return count;
}
