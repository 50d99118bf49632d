/*
 * VLANs: which one a frame belongs to when it comes in, and what its tag looks like when it goes
 * out (IEEE 802.1Q-2018, clauses 6.8, 6.9 and 15).
 *
 *   mode     in: untagged or vid 0   in: tagged                 out
 *   access   VLAN pvid               dropped                    untagged
 *   trunk    dropped                 VLAN of the tag            tagged
 *   native   VLAN pvid               VLAN of the tag            untagged in pvid, else tagged
 *   tunnel   VLAN pvid               VLAN pvid, tag is payload  without the outer tag
 *
 * A tag that goes out keeps the priority bits it came in with; one that is pushed for a tunnel
 * port's frame has TPID 88a8 and the priority of the customer's tag. VLAN 4095 does not exist.
 *
 * The functions look at parse results and bytes only. Whoever calls vlan_out decides where the
 * bytes of vlan_header go. Runs on: workers; struct vlan_port is immutable while they see it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"

/* cffi: begin */
enum vlan_mode {
	VLAN_ACCESS, /* untagged in and out, VLAN pvid */
	VLAN_TRUNK,  /* tagged in and out, VLANs of `tagged`; untagged frames are dropped */
	VLAN_NATIVE, /* a trunk whose untagged frames belong to pvid, in and out */
	VLAN_TUNNEL  /* 802.1ad: every frame, tagged or not, gets an outer tag pvid (TPID 88a8) */
};
/* cffi: end */

enum {
	VLAN_TPID_C = 0x8100,
	VLAN_TPID_S = 0x88a8,
	VLAN_TAG_BYTES = 4,
	VLAN_VID_MAX = 4094,
	VLAN_HEADER_MAX = 12 + 2 * VLAN_TAG_BYTES + 2 /* addresses, tags, ethertype */
};

/* frame->tag: what the first tag in line is to this switch. */
enum vlan_tag {
	VLAN_TAG_NONE,	   /* there is none, or it is the customer's */
	VLAN_TAG_VID,	   /* it names frame->vid */
	VLAN_TAG_PRIORITY, /* vid 0: priority only */
	VLAN_TAG_CUSTOMER  /* from a tunnel port: a tag that goes out is pushed with 88a8 */
};

/* cffi: begin */
/* What has to happen to the tag on the way out. */
enum vlan_edit {
	VLAN_EDIT_NONE,
	VLAN_EDIT_PUSH, /* a new tag behind the addresses */
	VLAN_EDIT_POP,	/* the first tag goes */
	VLAN_EDIT_SET	/* the first tag gets the vid: it was a priority tag */
};
/* cffi: end */

struct vlan_port {
	uint8_t mode; /* enum vlan_mode */
	uint16_t pvid;
	uint64_t tagged[64]; /* bit v: VLAN v may pass tagged */
};

static inline bool vlan_tagged(const struct vlan_port *port, uint16_t vid)
{
	return port->tagged[vid >> 6] >> (vid & 63) & 1;
}

/* Is the port a member of the VLAN, in whatever form? vid 1..4094. */
static inline bool vlan_member(const struct vlan_port *port, uint16_t vid)
{
	switch (port->mode) {
	case VLAN_TRUNK:
		return vlan_tagged(port, vid);
	case VLAN_NATIVE:
		return vid == port->pvid || vlan_tagged(port, vid);
	default:
		return vid == port->pvid;
	}
}

/* The long way of vlan_in. */
bool vlan_in_other(const struct vlan_port *port, struct frame *frame, uint16_t tci);

/*
 * Assigns frame->vid and frame->tag from the first tag's TCI (host order; looked at only where
 * frame->tags is not 0). False: the port is no member, or takes no such frame.
 */
static inline bool vlan_in(const struct vlan_port *port, struct frame *frame, uint16_t tci)
{
	if (__builtin_expect(frame->tags || port->mode == VLAN_TRUNK || port->mode == VLAN_TUNNEL,
			     0))
		return vlan_in_other(port, frame, tci);
	frame->tag = VLAN_TAG_NONE;
	frame->vid = port->pvid;
	return true;
}

/* What leaving through a member port does to the frame's tag. */
static inline enum vlan_edit vlan_out(const struct vlan_port *port, const struct frame *frame)
{
	bool tagged =
	    port->mode == VLAN_TRUNK || (port->mode == VLAN_NATIVE && frame->vid != port->pvid);

	switch (frame->tag) {
	case VLAN_TAG_VID:
		return tagged ? VLAN_EDIT_NONE : VLAN_EDIT_POP;
	case VLAN_TAG_PRIORITY:
		/* towards a tunnel's customer the tag is payload, as it is on the way in */
		if (tagged)
			return VLAN_EDIT_SET;
		return port->mode == VLAN_TUNNEL ? VLAN_EDIT_NONE : VLAN_EDIT_POP;
	default:
		return tagged ? VLAN_EDIT_PUSH : VLAN_EDIT_NONE;
	}
}

/* Does a frame without a tag in line leave through the port as it is? */
static inline bool vlan_out_bare(const struct vlan_port *port)
{
	return port->mode == VLAN_ACCESS || port->mode == VLAN_TUNNEL;
}

/*
 * Applies an edit to the first bytes of a frame: reads `old` (addresses and first tag, at least
 * 18 bytes where the frame has a tag, else 14), writes the new addresses and tag to `header` and
 * returns its length: 12, or 16 with a tag. *consumed tells how many bytes of the old frame it
 * replaces; header and old may be anywhere, also overlapping as an edit in place has them.
 */
unsigned vlan_header(enum vlan_edit edit, const struct frame *frame, const uint8_t *old,
		     uint8_t *header, unsigned *consumed);

/* By how many bytes an edit makes a frame longer. */
static inline int vlan_edit_bytes(enum vlan_edit edit)
{
	if (edit == VLAN_EDIT_NONE || edit == VLAN_EDIT_SET)
		return 0;
	return edit == VLAN_EDIT_PUSH ? VLAN_TAG_BYTES : -VLAN_TAG_BYTES;
}

/* Books an edit in the first fragment's fields that describe the whole. */
static inline void vlan_book(struct frame *frame, enum vlan_edit edit)
{
	int delta = vlan_edit_bytes(edit);

	frame->frame_len = (uint32_t)((int)frame->frame_len + delta);
	frame->l3_offset = (uint8_t)(frame->l3_offset + delta);
	frame->tags = (uint8_t)(frame->tags + (edit == VLAN_EDIT_PUSH) - (edit == VLAN_EDIT_POP));
	if (frame_has_offload(frame)) {
		frame->offload.csum_start = (uint16_t)(frame->offload.csum_start + delta);
		frame->offload.hdr_len = (uint16_t)(frame->offload.hdr_len + delta);
	}
}
