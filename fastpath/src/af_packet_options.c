/*
 * The options of an af_packet port, and the geometry of its rings.
 *
 * The rules of a ring are the kernel's (packet_set_ring in net/packet/af_packet.c); it answers
 * EINVAL to each, here the option that breaks one is named.
 *
 * Runs on: the keeper.
 */
#include "af_packet.h"

#include <errno.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const af_option_names[] = {
    "ifname",
    "version",
    "optimize_for",
    "queues",
    "ring",
    "retire_ms",
    "rxhash",
    "qdisc_bypass",
    "timestamp",
    "filter",
    "geometry_block_bytes",
    "geometry_blocks",
    "geometry_frame_bytes",
    "fanout",
    "fanout_program",
    "fanout_rollover",
    "fanout_defrag",
    "fanout_group",
    NULL,
};

struct word {
	const char *word;
	uint32_t value;
};

static const struct word fanout_words[] = {
    {"hash", PACKET_FANOUT_HASH},
    {"lb", PACKET_FANOUT_LB},
    {"cpu", PACKET_FANOUT_CPU},
    {"rnd", PACKET_FANOUT_RND},
    {"rollover", PACKET_FANOUT_ROLLOVER},
    {"qm", PACKET_FANOUT_QM},
    {"cbpf", PACKET_FANOUT_CBPF},
    {"ebpf", PACKET_FANOUT_EBPF},
    {NULL, 0},
};
static const struct word ring_words[] = {
    {"rx", AF_RING_RX},
    {"tx", AF_RING_TX},
    {"both", AF_RING_RX | AF_RING_TX},
    {NULL, 0},
};
static const struct word timestamp_words[] = {
    {"kernel", 0},
    {"software", SOF_TIMESTAMPING_SOFTWARE},
    {"hardware", SOF_TIMESTAMPING_RAW_HARDWARE},
    {NULL, 0},
};
static const struct word goal_words[] = {{"latency", 2}, {"throughput", 3}, {NULL, 0}};

static int word_read(const struct port_options *options, const char *name, const struct word *words,
		     uint32_t *value, struct error *err)
{
	const char *text = port_option_text(options, name, words->word);

	for (; words->word; words++) {
		if (!strcmp(words->word, text)) {
			*value = words->value;
			return 0;
		}
	}
	return error_set(err, EINVAL, "af_packet: %s has no word %s", name, text);
}

static bool ifname_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len >= IFNAMSIZ || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (; *name; name++) {
		if (!(*name >= 'a' && *name <= 'z') && !(*name >= 'A' && *name <= 'Z') &&
		    !(*name >= '0' && *name <= '9') && !strchr("_.-", *name))
			return false;
	}
	return true;
}

/* A program travels as text; NULL: there is none. */
static int program_read(const struct port_options *options, const char *name, struct cbpf **program,
			struct error *err)
{
	const char *text = port_option_text(options, name, "");

	if (!*text)
		return 0;
	*program = malloc(sizeof(**program));
	if (!*program)
		return error_set(err, ENOMEM, "af_packet: no memory");
	return cbpf_parse(text, *program, err);
}

static int fanout_read(const struct port_options *options, struct af_wanted *wanted,
		       struct error *err)
{
	bool rollover = false, defrag = false;
	uint32_t mode = 0;
	int rc = word_read(options, "fanout", fanout_words, &mode, err);

	if (!rc)
		rc = port_option_bool(options, "fanout_rollover", false, &rollover, err);
	if (!rc)
		rc = port_option_bool(options, "fanout_defrag", false, &defrag, err);
	if (!rc)
		rc = port_option_u32(options, "fanout_group", AF_GROUP_OWN, 0, UINT16_MAX,
				     &wanted->fanout_group, err);
	if (!rc)
		rc = program_read(options, "fanout_program", &wanted->fanout_program, err);
	if (rc)
		return rc;
	if (!wanted->fanout_program != (mode != PACKET_FANOUT_CBPF))
		return error_set(err, EINVAL,
				 "af_packet: fanout_program and fanout cbpf go together");
	if (rollover && mode == PACKET_FANOUT_ROLLOVER)
		return error_set(err, EINVAL,
				 "af_packet: fanout_rollover is the other modes' way out, "
				 "rollover is one itself");
	wanted->fanout = (uint16_t)mode;
	wanted->fanout_flags = (uint16_t)((rollover ? PACKET_FANOUT_FLAG_ROLLOVER : 0) |
					  (defrag ? PACKET_FANOUT_FLAG_DEFRAG : 0));
	return 0;
}

static int geometry_read(const struct port_options *options, struct af_wanted *wanted,
			 struct error *err)
{
	struct af_geometry *geometry = &wanted->geometry;
	int rc = port_option_u32(options, "geometry_block_bytes", 0, 1, INT32_MAX,
				 &geometry->block_bytes, err);

	if (!rc)
		rc = port_option_u32(options, "geometry_blocks", 0, 1, AF_SLOTS_MAX,
				     &geometry->blocks, err);
	if (!rc)
		rc = port_option_u32(options, "geometry_frame_bytes", 0, 1, INT32_MAX,
				     &geometry->frame_bytes, err);
	return rc;
}

/* latency: V2, every frame at once. throughput: V3, a block at a time. */
static int version_read(const struct port_options *options, struct af_wanted *wanted,
			struct error *err)
{
	uint32_t version = 0;
	int rc = word_read(options, "optimize_for", goal_words, &version, err);

	if (!rc)
		rc = port_option_u32(options, "version", version, 1, 3, &wanted->version, err);
	if (!rc)
		rc = port_option_u32(options, "retire_ms", 0, 1, AF_RETIRE_MS_MAX,
				     &wanted->retire_ms, err);
	if (!rc)
		rc = port_option_bool(options, "rxhash", false, &wanted->rxhash, err);
	if (rc || wanted->version == 3)
		return rc;
	if (wanted->retire_ms || wanted->rxhash)
		return error_set(err, EINVAL, "af_packet: %s needs version 3",
				 wanted->rxhash ? "rxhash" : "retire_ms");
	return 0;
}

int af_options_read(const struct port_options *options, struct af_wanted *wanted, struct error *err)
{
	int rc;

	wanted->ifname = port_option_text(options, "ifname", "");
	if (!ifname_valid(wanted->ifname))
		return error_set(err, EINVAL, "af_packet: ifname '%s' is no interface name",
				 wanted->ifname);
	rc = version_read(options, wanted, err);
	if (!rc)
		rc =
		    port_option_u32(options, "queues", 1, 1, PORT_QUEUES_MAX, &wanted->queues, err);
	if (!rc)
		rc = word_read(options, "ring", ring_words, &wanted->rings, err);
	if (!rc)
		rc = geometry_read(options, wanted, err);
	if (!rc)
		rc = word_read(options, "timestamp", timestamp_words, &wanted->timestamp, err);
	if (!rc)
		rc = port_option_bool(options, "qdisc_bypass", false, &wanted->qdisc_bypass, err);
	if (!rc)
		rc = program_read(options, "filter", &wanted->filter, err);
	if (!rc)
		rc = fanout_read(options, wanted, err);
	return rc;
}

void af_options_free(struct af_wanted *wanted)
{
	free(wanted->filter);
	free(wanted->fanout_program);
	wanted->filter = wanted->fanout_program = NULL;
}

/* --- geometry ------------------------------------------------------------------------------ */

/* The least a slot can be: its header and what PACKET_RESERVE asks for behind it. */
static uint32_t frame_bytes_min(uint32_t version)
{
	static const uint32_t header[] = {0, AF_V1_HEADER, AF_V2_HEADER, AF_V3_HEADER};

	return header[version] + AF_RESERVE_BYTES;
}

static int geometry_check(const struct af_geometry *geometry, const struct af_wanted *wanted,
			  struct error *err)
{
	uint32_t version = wanted->version;
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE), least = frame_bytes_min(version);

	if (geometry->block_bytes % page)
		return error_set(err, EINVAL,
				 "af_packet: geometry_block_bytes %u is no multiple of a page (%u)",
				 geometry->block_bytes, page);
	if (geometry->frame_bytes % TPACKET_ALIGNMENT)
		return error_set(err, EINVAL,
				 "af_packet: geometry_frame_bytes %u is no multiple of %u",
				 geometry->frame_bytes, TPACKET_ALIGNMENT);
	if (geometry->frame_bytes < least)
		return error_set(err, EINVAL,
				 "af_packet: geometry_frame_bytes %u: a slot of version %u has %u "
				 "bytes of headers",
				 geometry->frame_bytes, version, least);
	if (geometry->frame_bytes > geometry->block_bytes)
		return error_set(err, EINVAL,
				 "af_packet: geometry_frame_bytes %u: a slot lies within a block "
				 "(%u bytes)",
				 geometry->frame_bytes, geometry->block_bytes);
	if (af_geometry_bytes(geometry) * wanted->queues > AF_RING_BYTES_MAX)
		return error_set(err, EINVAL,
				 "af_packet: geometry_blocks %u: rings of %u queues have at most "
				 "%u MB",
				 geometry->blocks, wanted->queues,
				 (unsigned)AF_RING_BYTES_MAX >> 20);
	if ((uint64_t)(geometry->block_bytes / geometry->frame_bytes) * geometry->blocks >
	    AF_SLOTS_MAX)
		return error_set(err, EINVAL,
				 "af_packet: geometry_blocks %u: a ring has at most %u slots",
				 geometry->blocks, (unsigned)AF_SLOTS_MAX);
	return 0;
}

/* A slot takes a frame of the interface's MTU with two tags, if that is not out of proportion. */
static uint32_t slot_bytes_chosen(uint32_t mtu)
{
	uint32_t before = (AF_V2_HEADER + 16 + 15) / 16 * 16 + AF_RESERVE_BYTES + AF_VNET_BYTES;
	uint32_t bytes = AF_SLOT_BYTES_MIN;

	while (bytes < before + mtu + 2 * 4 && bytes < AF_SLOT_BYTES_MAX)
		bytes *= 2;
	return bytes < before + mtu + 2 * 4 ? AF_SLOT_BYTES_MIN : bytes;
}

/* A ring of slots, as far as it was not asked for. */
static void slots_choose(struct af_geometry *geometry, uint32_t mtu, uint32_t slots)
{
	if (!geometry->frame_bytes) {
		geometry->frame_bytes = slot_bytes_chosen(mtu);
		if (geometry->block_bytes && geometry->frame_bytes > geometry->block_bytes)
			geometry->frame_bytes = AF_SLOT_BYTES_MIN;
	}
	if (!geometry->block_bytes) {
		geometry->block_bytes = AF_SLOT_BLOCK_BYTES;
		while (geometry->block_bytes < geometry->frame_bytes &&
		       geometry->block_bytes < AF_RING_BYTES_CHOSEN)
			geometry->block_bytes *= 2;
	}
	if (geometry->blocks)
		return;
	while ((uint64_t)slots * geometry->frame_bytes > AF_RING_BYTES_CHOSEN)
		slots /= 2;
	geometry->blocks =
	    (uint32_t)((uint64_t)slots * geometry->frame_bytes / geometry->block_bytes);
	if (!geometry->blocks)
		geometry->blocks = 1;
}

static int blocks_choose(struct af_geometry *geometry, struct error *err)
{
	if (geometry->frame_bytes)
		return error_set(err, EINVAL,
				 "af_packet: geometry_frame_bytes: version 3 packs frames of every "
				 "size");
	geometry->frame_bytes = AF_SLOT_BYTES_MIN;
	if (!geometry->block_bytes)
		geometry->block_bytes = AF_BLOCK_BYTES;
	if (!geometry->blocks)
		geometry->blocks = AF_BLOCKS;
	return 0;
}

int af_geometry_choose(const struct af_wanted *wanted, struct af_opened *opened, struct error *err)
{
	int rc = 0;

	if (wanted->rings & AF_RING_RX) {
		opened->rx = wanted->geometry;
		if (wanted->version == 3)
			rc = blocks_choose(&opened->rx, err);
		else
			slots_choose(&opened->rx, opened->mtu, AF_SLOTS);
		if (!rc)
			rc = geometry_check(&opened->rx, wanted, err);
	} else {
		opened->tx = wanted->geometry;
	}
	if (rc || !(wanted->rings & AF_RING_TX))
		return rc;
	slots_choose(&opened->tx, opened->mtu, AF_TX_SLOTS);
	return geometry_check(&opened->tx, wanted, err);
}
