/*
 * Fuzz target: bytes as frames through a whole switch of memory ports, without threads. The first
 * byte chooses the bridge's configuration; then follow records of one byte for the port, two for
 * the length and the frame. Two of the ports have a virtio-net header, so checksum and
 * segmentation state is hostile too. Half of the configurations have rules of every sort at all
 * stages. After each input every frame is accounted for and what the ports sent is what can be
 * taken from them.
 */
#include <stdlib.h>
#include <string.h>

#include "port_memory.h"
#include "rules_tables.h"
#include "snapshot.h"
#include "worker.h"

enum {
	PORTS = 6,
	CONFIGS = 16,
	SETS = 3,
	CONNECTIONS = 1024,
	ENTRIES = 64,
	ROOM = FRAME_LEN_MAX + 64
};

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

/* --- rules --------------------------------------------------------------------------------------
 */

static struct classifier *sets[SETS];
static uint32_t jumps[SETS][SETS];
static struct rules_refs refs[SETS];
static struct policer policer;
static struct conntrack *conntrack;

/* Rule n of a set, of what actions there are in turn, on some bits of a key that n chooses. */
static void add_rule(uint16_t set, uint32_t n)
{
	struct rule_match match = {.l4_src_hi = 0xffff, .l4_dst_hi = 0xffff};
	struct rule_config rule = {
	    .slot = set * 64u + n,
	    .priority = (int32_t)n,
	    .action = {.type = (uint8_t)(n % RULE_ACTIONS),
		       .log = n & 1,
		       .set_fields = (uint8_t)(n % 32),
		       .pcp = 5,
		       .dscp = 46,
		       .vid = (uint16_t)(n % 5),
		       .port = (uint16_t)(n % (PORTS + 1)),
		       .set = SETS - 1,
		       .snaplen = n % 3 * 33},
	    .match_count = 1,
	    .matches = &match,
	};
	struct classifier *next;
	struct error err;

	if (set == SETS - 1 && rule.action.type == RULE_JUMP)
		return;
	if (rule.action.type == RULE_JUMP)
		jumps[set][SETS - 1]++;
	rule.id[0] = (char)('0' + n);
	/* about a quarter of all frames each, another one in each set */
	n += 5u * set;
	match.mask.eth_src[5] = 1;
	match.value.eth_src[5] = (uint8_t)(n / 2 & 1);
	match.mask.ip_proto = n % 3 ? 1 : 0;
	match.value.ip_proto = (uint8_t)(n / 3 & match.mask.ip_proto);
	match.mask.eth_dst[0] = n % 5 ? 0 : 1;
	match.value.eth_dst[0] = (uint8_t)(n & match.mask.eth_dst[0]);
	match.mask.state = match.value.state = (uint8_t)(n % 7 ? 0 : 1 << n / 7 % 4);
	match.l4_dst_lo = n % 11 ? 0 : 400;
	need(classifier_update(sets[set], NULL, 0, &rule, 1, &next, &err) == 0);
	classifier_free(sets[set]);
	sets[set] = next;
}

static void open_rules(void)
{
	struct policer_config slow = {.frames = true, .rate = 1, .burst = 40};
	struct error err;

	for (uint16_t s = 0; s < SETS; s++) {
		sets[s] = classifier_empty();
		refs[s] = (struct rules_refs){.jumps = jumps[s]};
		for (uint32_t n = 0; n < 60; n++)
			add_rule(s, n);
	}
	policer_init(&policer, &slow);
	need(conntrack_map(-1, CONNECTIONS, &conntrack, &err) == 0);
}

static void configure_rules(struct snapshot *snapshot, uint64_t generation)
{
	static const struct rules_set_config named[SETS] = {{.id = 0}, {.id = 1}, {.id = 2}};
	static const struct rules_attach_config attaches[] = {
	    {.set = 0, .bridge = 0, .port = RULE_NONE},
	    {.set = 1, .bridge = 0, .port = RULE_NONE, .egress = true},
	    {.set = 1, .bridge = RULE_NONE, .port = 2},
	    {.set = 0, .bridge = RULE_NONE, .port = 3, .egress = true},
	};
	struct rules_config config = {
	    .sets = named, .set_count = SETS, .attaches = attaches, .attach_count = 4};
	struct policer *policers[] = {&policer};
	struct rules_source source = {
	    .generation = generation,
	    .ports_max = PORTS,
	    .bridges_max = 1,
	    .sets_max = SETS,
	    .policers_max = 1,
	    .ports = snapshot->bridge_ports,
	    .classifiers = (const struct classifier *const *)sets,
	    .refs = refs,
	    .policers = policers,
	    .conntrack = conntrack,
	};
	struct error err;

	need(rules_tables_build(&config, &source, &snapshot->rules, &err) == 0);
}

/* --- the switch ---------------------------------------------------------------------------------
 */

/* Bits of `which`: VLAN filtering, MTU, offload policy, rules. */
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
	if (which & 8)
		configure_rules(snapshot, which);
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
	open_rules();
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
		workers[p]->rules = rules_work_create(PORTS, SETS * 64, 1);
		need(workers[p]->rules != NULL);
		workers[p]->rules->cells = stats_cells(stats, p);
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
	need(total.rx_frames + total.copies + total.segments + total.originated ==
	     total.tx_frames + drops);
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
