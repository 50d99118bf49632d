/*
 * The requests of old, struct nmreq: each is one of NIOCCTRL's in other clothes. nr_flags and
 * nr_ringid say the mode in one of two ways; pipes are modes there, and become names.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "request.h"
#include "user.h"

static int register_from(const struct nmreq *old, struct request *request)
{
	struct nmreq_register *reg = &request->body.reg;
	char *name = request->header.nr_name;
	uint32_t mode = old->nr_flags & NR_REG_MASK;

	*reg = (struct nmreq_register){.nr_tx_slots = old->nr_tx_slots,
				       .nr_rx_slots = old->nr_rx_slots,
				       .nr_tx_rings = old->nr_tx_rings,
				       .nr_rx_rings = old->nr_rx_rings,
				       .nr_mem_id = old->nr_arg2,
				       .nr_ringid = old->nr_ringid & NETMAP_RING_MASK,
				       .nr_mode = mode,
				       .nr_extra_bufs = old->nr_arg3,
				       .nr_flags = old->nr_flags & ~(uint32_t)NR_REG_MASK};
	if (mode == NR_REG_DEFAULT)
		reg->nr_mode = old->nr_ringid & NETMAP_SW_RING	 ? NR_REG_SW
			       : old->nr_ringid & NETMAP_HW_RING ? NR_REG_ONE_NIC
								 : NR_REG_ALL_NIC;
	if (mode == NR_REG_PIPE_MASTER || mode == NR_REG_PIPE_SLAVE) {
		size_t length = strlen(name);

		snprintf(name + length, sizeof(request->header.nr_name) - length, "%c%u",
			 mode == NR_REG_PIPE_MASTER ? '{' : '}', reg->nr_ringid);
		reg->nr_mode = NR_REG_ALL_NIC;
		reg->nr_ringid = 0;
	}
	if (old->nr_ringid & NETMAP_NO_TX_POLL)
		reg->nr_flags |= NR_NO_TX_POLL;
	if (old->nr_ringid & NETMAP_DO_RX_POLL)
		reg->nr_flags |= NR_DO_RX_POLL;
	return NETMAP_REQ_REGISTER;
}

static int info_from(const struct nmreq *old, struct request *request)
{
	if (old->nr_cmd == NETMAP_BDG_LIST) {
		request->body.list = (struct nmreq_vale_list){.nr_bridge_idx = old->nr_arg1,
							      .nr_port_idx = old->nr_arg2};
		return NETMAP_REQ_VALE_LIST;
	}
	request->body.info = (struct nmreq_port_info_get){.nr_tx_slots = old->nr_tx_slots,
							  .nr_rx_slots = old->nr_rx_slots,
							  .nr_tx_rings = old->nr_tx_rings,
							  .nr_rx_rings = old->nr_rx_rings,
							  .nr_mem_id = old->nr_arg2};
	return NETMAP_REQ_PORT_INFO_GET;
}

/* The request's type, its body filled in; a negative errno: none. */
static int request_from(const struct nmreq *old, unsigned long ioctl, struct request *request)
{
	if (ioctl == NIOCGINFO)
		return info_from(old, request);
	switch (old->nr_cmd) {
	case 0:
		return register_from(old, request);
	case NETMAP_BDG_VNET_HDR:
		request->body.hdr.nr_hdr_len = old->nr_arg1;
		return NETMAP_REQ_PORT_HDR_SET;
	case NETMAP_VNET_HDR_GET:
		return NETMAP_REQ_PORT_HDR_GET;
	case NETMAP_BDG_ATTACH:
		return NETMAP_REQ_VALE_ATTACH;
	case NETMAP_BDG_DETACH:
		return NETMAP_REQ_VALE_DETACH;
	case NETMAP_BDG_NEWIF:
		return NETMAP_REQ_VALE_NEWIF;
	case NETMAP_BDG_DELIF:
		return NETMAP_REQ_VALE_DELIF;
	case NETMAP_BDG_POLLING_ON:
		return NETMAP_REQ_VALE_POLLING_ENABLE;
	case NETMAP_BDG_POLLING_OFF:
		return NETMAP_REQ_VALE_POLLING_DISABLE;
	case NETMAP_PT_HOST_CREATE:
	case NETMAP_PT_HOST_DELETE:
		return -ENOMEM; /* the module's word for it */
	default:
		return -EINVAL;
	}
}

/* What is written back is what a program of old expects there. */
static void request_to(const struct request *request, struct nmreq *old)
{
	const struct nmreq_register *reg = &request->body.reg;
	const struct nmreq_port_info_get *info = &request->body.info;

	switch (request->header.nr_reqtype) {
	case NETMAP_REQ_REGISTER:
		old->nr_offset = (uint32_t)reg->nr_offset;
		old->nr_memsize = (uint32_t)reg->nr_memsize;
		old->nr_tx_slots = reg->nr_tx_slots;
		old->nr_rx_slots = reg->nr_rx_slots;
		old->nr_tx_rings = reg->nr_tx_rings;
		old->nr_rx_rings = reg->nr_rx_rings;
		old->nr_arg2 = reg->nr_mem_id;
		old->nr_arg3 = reg->nr_extra_bufs;
		break;
	case NETMAP_REQ_PORT_INFO_GET:
		old->nr_memsize = (uint32_t)info->nr_memsize;
		old->nr_tx_slots = info->nr_tx_slots;
		old->nr_rx_slots = info->nr_rx_slots;
		old->nr_tx_rings = info->nr_tx_rings;
		old->nr_rx_rings = info->nr_rx_rings;
		old->nr_arg2 = info->nr_mem_id;
		break;
	case NETMAP_REQ_VALE_LIST:
		memset(old->nr_name, 0, sizeof(old->nr_name));
		memcpy(old->nr_name, request->header.nr_name,
		       strnlen(request->header.nr_name, sizeof(old->nr_name) - 1));
		old->nr_arg1 = request->body.list.nr_bridge_idx;
		old->nr_arg2 = (uint16_t)request->body.list.nr_port_idx;
		break;
	case NETMAP_REQ_PORT_HDR_SET:
	case NETMAP_REQ_PORT_HDR_GET:
		old->nr_arg1 = (uint16_t)request->body.hdr.nr_hdr_len;
		break;
	default:
		break;
	}
}

int request_legacy(struct vsn_session *session, unsigned long ioctl, void *user)
{
	struct request request = {.header = {.nr_version = NETMAP_API}};
	struct nmreq old;
	int type;
	int error;

	if (ioctl == NIOCCONFIG) /* for switches whose module has such a call: ours have none */
		return -EOPNOTSUPP;
	error = user_read(&old, (uintptr_t)user, sizeof(old));
	if (error)
		return error;
	if (old.nr_version < NETMAP_MIN_API)
		return -EINVAL;
	memcpy(request.header.nr_name, old.nr_name, sizeof(old.nr_name) - 1);
	type = request_from(&old, ioctl, &request);
	if (type < 0)
		return type;
	request.header.nr_reqtype = (uint16_t)type;
	error = request_serve(session, &request);
	if (error)
		return error;
	request_to(&request, &old);
	return user_write((uintptr_t)user, &old, sizeof(old));
}
