/* What it is and who runs it: netmap_host.h. */
#include "netmap_host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TO_NIC = 1, TO_HOST = 2, TO_SWITCH = 4 };

struct netmap_host {
	struct netmap_port *netmap;
	_Atomic uint64_t mac; /* as mac_of has it */
	_Atomic uint64_t lost;
	pthread_mutex_t lock[PORT_QUEUES_MAX]; /* of transmit rings, by their place in netmap->tx */
};

static uint64_t mac_of(const uint8_t bytes[6])
{
	uint64_t mac = 0;

	memcpy(&mac, bytes, 6);
	return mac;
}

struct netmap_host *netmap_host_new(struct netmap_port *netmap, const uint8_t mac[6])
{
	struct netmap_host *host = calloc(1, sizeof(*host));

	if (!host)
		return NULL;
	host->netmap = netmap;
	host->mac = mac_of(mac);
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_mutex_init(&host->lock[i], NULL);
	return host;
}

void netmap_host_free(struct netmap_host *host)
{
	if (!host)
		return;
	for (unsigned i = 0; i < PORT_QUEUES_MAX; i++)
		pthread_mutex_destroy(&host->lock[i]);
	free(host);
}

void netmap_host_set_mac(struct netmap_host *host, const uint8_t mac[6])
{
	atomic_store_explicit(&host->mac, mac_of(mac), memory_order_relaxed);
}

uint64_t netmap_host_lost(const struct netmap_host *host)
{
	return atomic_load_explicit(&host->lost, memory_order_relaxed);
}

/* Where a frame that did not come from the host goes, `others` when it is neither's in particular.
 */
static unsigned way_of(const struct netmap_host *host, const struct frame *frame, unsigned others)
{
	if (frame->len < 6)
		return others;
	if (frame->data[0] & 1)
		return TO_HOST | others;
	if (mac_of(frame->data) == atomic_load_explicit(&host->mac, memory_order_relaxed))
		return TO_HOST;
	return others;
}

/* The ring of the NIC (or of the host) that serves queue number `queue`; NULL: there is none. */
static struct netmap_tx *ring_for(const struct netmap_host *host, bool of_host, unsigned queue)
{
	struct netmap_port *netmap = host->netmap;
	unsigned nic = netmap->nic_tx, count = of_host ? netmap->tx_count - nic : nic;

	return count ? &netmap->tx[(of_host ? nic : 0) + queue % count] : NULL;
}

static void send_on(struct netmap_host *host, struct netmap_tx *tx, struct frame *const *frames,
		    unsigned count, struct tx_report *report, bool copy)
{
	pthread_mutex_t *lock = &host->lock[tx - host->netmap->tx];

	pthread_mutex_lock(lock);
	netmap_send(tx, frames, count, report, copy);
	pthread_mutex_unlock(lock);
}

/* Beside what the switch gets or asked for: nobody's books, but counted where it is lost. */
static void send_copies(struct netmap_host *host, struct netmap_tx *tx, struct frame *const *frames,
			unsigned count)
{
	struct tx_report report = {0};

	if (tx)
		send_on(host, tx, frames, count, &report, true);
	if (report.sent < count)
		atomic_fetch_add_explicit(&host->lost, count - report.sent, memory_order_relaxed);
}

unsigned netmap_host_rx(struct netmap_rx *rx, struct frame *batch, unsigned count)
{
	struct netmap_host *host = rx->host;
	unsigned queue = (unsigned)(rx - host->netmap->rx), kept = 0, beside = 0;
	bool of_host = queue >= host->netmap->nic_rx;
	struct frame *copies[FRAME_BATCH];

	for (unsigned i = 0; i < count; i++) {
		if (of_host || (way_of(host, &batch[i], TO_SWITCH) & TO_HOST))
			copies[beside++] = &batch[i];
	}
	if (beside)
		send_copies(
		    host, ring_for(host, !of_host, of_host ? queue - host->netmap->nic_rx : queue),
		    copies, beside);
	if (of_host)
		return count;
	for (unsigned i = 0; i < count; i++) {
		if (way_of(host, &batch[i], TO_SWITCH) & TO_SWITCH)
			batch[kept++] = batch[i];
	}
	return kept;
}

void netmap_host_tx(struct netmap_tx *tx, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	struct netmap_host *host = tx->host;
	struct netmap_tx *up = ring_for(host, true, (unsigned)(tx - host->netmap->tx));
	struct frame *to_nic[FRAME_BATCH], *to_host[FRAME_BATCH], *to_both[FRAME_BATCH];
	unsigned nic = 0, only_host = 0, both = 0;

	for (unsigned i = 0; i < count; i++) {
		unsigned way = way_of(host, frames[i], TO_NIC);

		if (way == TO_HOST && up)
			to_host[only_host++] = frames[i];
		else
			to_nic[nic++] = frames[i];
		if (way == (TO_HOST | TO_NIC))
			to_both[both++] = frames[i];
	}
	if (both)
		send_copies(host, up, to_both, both);
	if (only_host)
		send_on(host, up, to_host, only_host, report, false);
	if (nic)
		send_on(host, tx, to_nic, nic, report, false);
}
