/*
 * Fuzz target: bytes as frames through a whole switch of memory ports, without threads. The first
 * byte chooses the bridge's configuration; then follow records of one byte for the port, two for
 * the length and the frame. Two of the ports have a virtio-net header, so checksum and
 * segmentation state is hostile too. After each input every frame is accounted for and what the
 * ports sent is what can be taken from them.
 */
#include <stdlib.h>
#include <string.h>

#include "port_memory.h"
#include "snapshot.h"
#include "worker.h"

enum { PORTS = 6, CONFIGS = 8, ENTRIES = 64, ROOM = FRAME_LEN_MAX + 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct port ports[PORTS];
static pthread_spinlock_t locks[PORTS][PORT_QUEUES_MAX];
static struct fdb *fdb;
static struct stats *stats;
static struct snapshot *snapshots[CONFIGS];
static struct snapshot_domain domain;
static struct worker *workers[PORTS];
static uint64_t put, taken;

static void need(bool good)
{
	if (!good)
		abort();
}

/* Bits of `which`: VLAN filtering, MTU, offload policy. */
static struct snapshot *configure(unsigned which)
{
	struct port *port_table[PORTS];
	pthread_spinlock_t *lock_table[PORTS];
	struct bridge_config bridge = {.vlan_filtering = which & 1,
				       .learning = true,
				       .flood_unknown_unicast = true,
				       .flood_multicast = true,
				       .flood_broadcast = true,
				       .reserved_forward = which & 2,
				       .mtu = which & 4 ? 1500 : 0};
	struct port_config config[PORTS];
	struct engine_config wanted = {.generation = which + 1,
				       .bridges = &bridge,
				       .bridge_count = 1,
				       .ports = config,
				       .port_count = PORTS};
	struct snapshot_parts parts = {.ports_max = PORTS,
				       .bridges_max = 1,
				       .ports = port_table,
				       .locks = lock_table,
				       .fdbs = &fdb,
				       .ordinals = PORTS};
	struct snapshot *snapshot;
	struct error err;

	for (unsigned p = 0; p < PORTS; p++) {
		port_table[p] = &ports[p];
		lock_table[p] = locks[p];
		config[p] = (struct port_config){.id = (uint16_t)p,
						 .admin_up = true,
						 .learning = true,
						 .flood = true,
						 .vlan_mode = (uint8_t)(p % 4),
						 .offload_policy = (uint8_t)(which & 2 ? p % 3 : 0),
						 .pvid = 1};
		config[p].tagged[0] = 0xe;
	}
	need(snapshot_build(&wanted, &parts, &snapshot, &err) == 0);
	return snapshot;
}

static void open_switch(void)
{
	struct fdb_params params = {.entries_max = ENTRIES};
	struct port_option options[] = {{"slots", "512"}, {"vnet_hdr", "true"}};
	struct port_fds fds = {0};
	struct error err;

	need(fdb_map(-1, ENTRIES, &params.memory, &err) == 0);
	params.bytes = fdb_bytes(ENTRIES);
	need(fdb_open(&params, &fdb, &err) == 0);
	need(stats_map(-1, PORTS, PORTS, &stats, &err) == 0);
	for (unsigned p = 0; p < PORTS; p++) {
		struct port_options list = {
		    .port = "fuzz", .items = options, .count = p == 1 || p == 4 ? 2 : 1};

		ports[p].ops = port_type_find("memory");
		ports[p].id = (uint16_t)p;
		ports[p].rxq[0].port = ports[p].txq[0].port = &ports[p];
		pthread_spin_init(&locks[p][0], PTHREAD_PROCESS_PRIVATE);
		need(ports[p].ops->attach(&ports[p], &list, &fds, &err) == 0);
	}
	for (unsigned c = 0; c < CONFIGS; c++)
		snapshots[c] = configure(c);
	snapshot_domain_init(&domain, snapshots[0]);
	for (unsigned p = 0; p < PORTS; p++) {
		struct worker_params worker = {.port = &ports[p],
					       .row = p,
					       .ports_max = PORTS,
					       .stats = stats,
					       .domain = &domain};

		need(worker_create(&worker, false, &workers[p], &err) == 0);
	}
}

static void check_ledger(void)
{
	struct port_counters total;
	uint64_t drops = 0;

	stats_total(stats, &total);
	for (unsigned i = 0; i < DROP_REASONS; i++)
		drops += total.rx_drops[i] + total.tx_drops[i];
	need(total.rx_frames == put && total.tx_frames == taken);
	need(total.rx_frames + total.copies + total.segments == total.tx_frames + drops);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t room[ROOM];
	const struct snapshot *snapshot;
	size_t at = 1;

	if (!fdb)
		open_switch();
	if (size < 1)
		return 0;
	snapshot = snapshots[data[0] % CONFIGS];
	while (size - at >= 3) {
		unsigned p = data[at] % PORTS;
		uint32_t len = (uint32_t)data[at + 1] << 8 | data[at + 2];

		at += 3;
		if (len > size - at)
			len = (uint32_t)(size - at);
		if (memory_put(&ports[p], 0, data + at, len) == 0)
			put++;
		at += len;
		if (data[at - 1] & 1)
			worker_batch(workers[p], snapshot);
	}
	for (unsigned p = 0; p < PORTS; p++) {
		while (worker_batch(workers[p], snapshot) > 0)
			;
	}
	for (unsigned p = 0; p < PORTS; p++) {
		while (memory_take(&ports[p], 0, room, sizeof(room)) >= 0)
			taken++;
	}
	check_ledger();
	return 0;
}
