/*
 * parse.c, vlan.c, fdb.c and cbpf.c as Python tests call them (tests/support/core.py): bytes in,
 * plain results out. Inline functions get a body here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cbpf.h"
#include "fdb.h"
#include "overlay_inner.h"
#include "overlay_wire.h"
#include "parse.h"
#include "vlan.h"
#include "vxlan_wire.h"

/* cffi: begin */
/*
 * A frame of `len` bytes cut into fragments of the given lengths. Returns whether parse_l2 found
 * its end inside its header (0), else 1 with tags, l3_offset, ethertype and the first TCI.
 */
struct shim_l2 {
	uint8_t dst[6];
	uint8_t src[6];
	uint16_t tci;
	uint16_t tags;
	uint16_t l3_offset;
	uint16_t ethertype;
};
int shim_parse_l2(const uint8_t *bytes, const uint32_t *lengths, unsigned fragments,
		  struct shim_l2 *out);
void shim_parse_flow(const uint8_t *bytes, const uint32_t *lengths, unsigned fragments,
		     uint16_t vid, struct flow_key *key);
uint32_t shim_flow_hash(const struct flow_key *key);

struct shim_vlan_port {
	uint8_t mode;
	uint16_t pvid;
	uint64_t tagged[64];
};
/*
 * From one port to another through the VLAN stages. Returns the bytes written to out, or -1: not
 * admitted, -2: the destination is no member, -3: not a frame. *vid: the VLAN it was assigned.
 */
int shim_vlan(const struct shim_vlan_port *from, const struct shim_vlan_port *to,
	      const uint8_t *bytes, uint32_t len, uint8_t *out, uint16_t *vid);

struct fdb *shim_fdb_open(void *memory, uint32_t entries_max, uint32_t port_quota,
			  const uint64_t seed[4], _Bool reset);
uint64_t shim_fdb_key(const uint8_t mac[6], uint16_t vid);
int shim_fdb_lookup(struct fdb *fdb, uint64_t key);
int shim_fdb_learn(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick);
uint32_t shim_fdb_count(struct fdb *fdb);
uint32_t shim_fdb_port_count(struct fdb *fdb, uint16_t port);
uint64_t shim_fdb_slots(struct fdb *fdb);

/* -EINVAL: no program. */
int shim_cbpf(const char *text, const uint8_t *bytes, uint32_t have, uint32_t len,
	      uint32_t *wanted);

/* What overlay_inner says of a frame, as flags, gso_type, csum_start, csum_offset, gso_size. */
void shim_inner(const uint8_t *bytes, uint32_t len, uint32_t mtu, uint16_t said[5]);
/* cffi: end */

/* Copies every fragment to memory of its own, so that none touches the next. */
static struct frame *chain_make(const uint8_t *bytes, const uint32_t *lengths, unsigned fragments)
{
	struct frame *chain = calloc(fragments, sizeof(*chain));
	uint32_t at = 0;

	for (unsigned i = 0; i < fragments; i++) {
		chain[i].data = malloc(lengths[i] ? lengths[i] : 1);
		memcpy(chain[i].data, bytes + at, lengths[i]);
		chain[i].len = lengths[i];
		chain[i].next = i + 1 < fragments ? &chain[i + 1] : NULL;
		at += lengths[i];
	}
	chain->frame_len = at;
	return chain;
}

static void chain_free(struct frame *chain, unsigned fragments)
{
	for (unsigned i = 0; i < fragments; i++)
		free(chain[i].data);
	free(chain);
}

int shim_parse_l2(const uint8_t *bytes, const uint32_t *lengths, unsigned fragments,
		  struct shim_l2 *out)
{
	struct frame *chain = chain_make(bytes, lengths, fragments);
	struct l2 l2;
	bool good = parse_l2(chain, &l2);

	if (good) {
		for (unsigned i = 0; i < 6; i++) {
			out->dst[i] = (uint8_t)(l2.dst >> (40 - 8 * i));
			out->src[i] = (uint8_t)(l2.src >> (40 - 8 * i));
		}
		out->tci = l2.tci;
		out->tags = chain->tags;
		out->l3_offset = chain->l3_offset;
		out->ethertype = chain->ethertype;
	}
	chain_free(chain, fragments);
	return good;
}

void shim_parse_flow(const uint8_t *bytes, const uint32_t *lengths, unsigned fragments,
		     uint16_t vid, struct flow_key *key)
{
	struct frame *chain = chain_make(bytes, lengths, fragments);

	chain->vid = vid;
	parse_flow(chain, key);
	chain_free(chain, fragments);
}

uint32_t shim_flow_hash(const struct flow_key *key)
{
	return flow_hash(key);
}

static struct vlan_port vlan_port_of(const struct shim_vlan_port *shim)
{
	struct vlan_port port = {.mode = shim->mode, .pvid = shim->pvid};

	memcpy(port.tagged, shim->tagged, sizeof(port.tagged));
	return port;
}

int shim_vlan(const struct shim_vlan_port *from, const struct shim_vlan_port *to,
	      const uint8_t *bytes, uint32_t len, uint8_t *out, uint16_t *vid)
{
	struct vlan_port in = vlan_port_of(from), away = vlan_port_of(to);
	struct frame frame = {.data = (uint8_t *)bytes, .len = len, .frame_len = len};
	enum vlan_edit edit;
	unsigned made, consumed;
	struct l2 l2;

	if (!parse_l2(&frame, &l2))
		return -3;
	if (!vlan_in(&in, &frame, l2.tci))
		return -1;
	*vid = frame.vid;
	if (!vlan_member(&away, frame.vid))
		return -2;
	edit = vlan_out(&away, &frame);
	if (edit == VLAN_EDIT_NONE) {
		memcpy(out, bytes, len);
		return (int)len;
	}
	made = vlan_header(edit, &frame, bytes, out, &consumed);
	memcpy(out + made, bytes + consumed, len - consumed);
	return (int)(made + len - consumed);
}

struct fdb *shim_fdb_open(void *memory, uint32_t entries_max, uint32_t port_quota,
			  const uint64_t seed[4], bool reset)
{
	struct fdb_params params = {.memory = memory,
				    .bytes = fdb_bytes(entries_max),
				    .entries_max = entries_max,
				    .port_quota = port_quota,
				    .reset = reset,
				    .seed = seed};
	struct error err;
	struct fdb *fdb;

	return fdb_open(&params, &fdb, &err) ? NULL : fdb;
}

uint64_t shim_fdb_key(const uint8_t mac[6], uint16_t vid)
{
	return fdb_key(mac, vid);
}

int shim_fdb_lookup(struct fdb *fdb, uint64_t key)
{
	return fdb_lookup(fdb, key);
}

int shim_fdb_learn(struct fdb *fdb, uint64_t key, uint16_t port, uint32_t tick)
{
	return (int)fdb_learn(fdb, key, port, tick);
}

uint32_t shim_fdb_count(struct fdb *fdb)
{
	return fdb_count(fdb);
}

uint32_t shim_fdb_port_count(struct fdb *fdb, uint16_t port)
{
	return fdb_port_count(fdb, port);
}

uint64_t shim_fdb_slots(struct fdb *fdb)
{
	return fdb->mask + 1;
}

int shim_cbpf(const char *text, const uint8_t *bytes, uint32_t have, uint32_t len, uint32_t *wanted)
{
	struct cbpf program;
	struct error err;
	uint8_t *exact;
	int status = cbpf_parse(text, &program, &err);

	if (status)
		return status;
	exact = malloc(have ? have : 1); /* so that a sanitizer sees where it ends */
	memcpy(exact, bytes, have);
	*wanted = cbpf_run(&program, exact, have, len);
	free(exact);
	return 0;
}

void shim_inner(const uint8_t *bytes, uint32_t len, uint32_t mtu, uint16_t said[5])
{
	struct frame frame = {.data = malloc(len ? len : 1), .len = len, .frame_len = len};

	memcpy(frame.data, bytes, len);
	overlay_inner(&frame, mtu);
	said[0] = frame.offload.flags;
	said[1] = frame.offload.gso_type;
	said[2] = frame.offload.csum_start;
	said[3] = frame.offload.csum_offset;
	said[4] = frame.offload.gso_size;
	free(frame.data);
}
