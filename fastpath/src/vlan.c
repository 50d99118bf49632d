/* Runs on: workers. */
#include "vlan.h"

#include <string.h>

#include "parse.h"

bool vlan_in_other(const struct vlan_port *port, struct frame *frame, uint16_t tci)
{
	uint16_t vid = tci & 0xfff;

	if (port->mode == VLAN_TUNNEL) {
		frame->tag = VLAN_TAG_CUSTOMER;
		frame->vid = port->pvid;
		return true;
	}
	if (!frame->tags || !vid) {
		frame->tag = frame->tags ? VLAN_TAG_PRIORITY : VLAN_TAG_NONE;
		frame->vid = port->pvid;
		return port->mode != VLAN_TRUNK;
	}
	frame->tag = VLAN_TAG_VID;
	frame->vid = vid;
	return port->mode != VLAN_ACCESS && vid <= VLAN_VID_MAX && vlan_member(port, vid);
}

unsigned vlan_header(enum vlan_edit edit, const struct frame *frame, const uint8_t *old,
		     uint8_t *header, unsigned *consumed)
{
	uint16_t tpid = VLAN_TPID_C;
	uint16_t priority = 0; /* PCP and DEI, in place */
	uint8_t addresses[12];

	memcpy(addresses, old, sizeof(addresses));
	if (frame->tags) {
		tpid = load_be16(old + 12);
		priority = load_be16(old + 14) & 0xf000;
	}
	if (frame->tag == VLAN_TAG_CUSTOMER)
		tpid = VLAN_TPID_S;
	*consumed = edit == VLAN_EDIT_PUSH ? 12 : 16;
	memmove(header, addresses, sizeof(addresses));
	if (edit == VLAN_EDIT_POP)
		return 12;
	store_be16(header + 12, tpid);
	store_be16(header + 14, (uint16_t)(priority | frame->vid));
	return 16;
}
