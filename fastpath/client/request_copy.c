/*
 * Requests between the program's memory and ours. The rules are the module's: a body where one
 * belongs and nowhere else, a list of options that ends, each kind at most once; every option is
 * EOPNOTSUPP until somebody serves it.
 */
#include "request.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "user.h"

static size_t body_bytes(unsigned type)
{
	static const size_t bytes[] = {
	    [NETMAP_REQ_REGISTER] = sizeof(struct nmreq_register),
	    [NETMAP_REQ_PORT_INFO_GET] = sizeof(struct nmreq_port_info_get),
	    [NETMAP_REQ_VALE_ATTACH] = sizeof(struct nmreq_vale_attach),
	    [NETMAP_REQ_VALE_DETACH] = sizeof(struct nmreq_vale_detach),
	    [NETMAP_REQ_VALE_LIST] = sizeof(struct nmreq_vale_list),
	    [NETMAP_REQ_PORT_HDR_SET] = sizeof(struct nmreq_port_hdr),
	    [NETMAP_REQ_PORT_HDR_GET] = sizeof(struct nmreq_port_hdr),
	    [NETMAP_REQ_VALE_NEWIF] = sizeof(struct nmreq_vale_newif),
	    [NETMAP_REQ_VALE_POLLING_ENABLE] = sizeof(struct nmreq_vale_polling),
	    [NETMAP_REQ_VALE_POLLING_DISABLE] = sizeof(struct nmreq_vale_polling),
	    [NETMAP_REQ_POOLS_INFO_GET] = sizeof(struct nmreq_pools_info),
	    [NETMAP_REQ_SYNC_KLOOP_START] = sizeof(struct nmreq_sync_kloop_start),
	};

	return type < sizeof(bytes) / sizeof(*bytes) ? bytes[type] : 0;
}

/* Bytes behind the option's head, and where we keep those that we serve. */
static size_t option_bytes(struct request *request, const struct nmreq_option *option,
			   struct nmreq_option ***head, void **kept)
{
	static struct nmreq_option *nobody;

	*kept = NULL;
	*head = &nobody;
	switch (option->nro_reqtype) {
	case NETMAP_REQ_OPT_EXTMEM:
		*head = &request->extmem_head;
		*kept = &request->extmem.nro_usrptr;
		return sizeof(request->extmem) - sizeof(*option);
	case NETMAP_REQ_OPT_OFFSETS:
		*head = &request->offsets_head;
		*kept = &request->offsets.nro_max_offset;
		return sizeof(request->offsets) - sizeof(*option);
	case NETMAP_REQ_OPT_CSB:
		*head = &request->csb_head;
		return sizeof(struct nmreq_opt_csb) - sizeof(*option);
	case NETMAP_REQ_OPT_SYNC_KLOOP_MODE:
		return sizeof(struct nmreq_opt_sync_kloop_mode) - sizeof(*option);
	case NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS:
		return option->nro_size > sizeof(*option) ? option->nro_size - sizeof(*option) : 0;
	default:
		return 0;
	}
}

/*
 * The module keeps a request in one piece of memory, and refuses what does not fit there: body and
 * options as they are, a pointer before each option, and some for itself.
 */
enum {
	PIECE_POINTERS = 2 + NETMAP_REQ_OPT_MAX + NETMAP_REQ_OPT_MAX,
	PIECE_BYTES = PIECE_POINTERS * 8 + NETMAP_REQ_MAXSIZE,
	PIECE_FIRST = 2 * 8 + NETMAP_REQ_OPT_MAX * 8 /* used before the body */
};

struct room {
	size_t total; /* bytes of body and options */
	size_t used;  /* of the piece */
};

static int option_in(struct request *request, struct request_option *option, uint32_t *seen,
		     struct room *room)
{
	struct nmreq_option *head = &option->head, **place;
	size_t bytes;
	void *kept;

	head->nro_status = 0;
	if (head->nro_reqtype < 1) {
		head->nro_status = EINVAL;
		return -EINVAL;
	}
	if (head->nro_reqtype >= NETMAP_REQ_OPT_MAX)
		return 0;
	if (*seen & 1u << head->nro_reqtype) {
		for (unsigned i = 0; i < request->options; i++)
			if (request->list[i].head.nro_reqtype == head->nro_reqtype)
				request->list[i].head.nro_status = EINVAL;
		return -EINVAL;
	}
	*seen |= 1u << head->nro_reqtype;
	if (head->nro_size > NETMAP_REQ_MAXSIZE)
		return -EMSGSIZE;
	bytes = option_bytes(request, head, &place, &kept);
	room->total += bytes;
	room->used += bytes;
	if (room->total > NETMAP_REQ_MAXSIZE || room->used > PIECE_BYTES)
		return -EMSGSIZE;
	*place = head;
	return kept ? user_read(kept, option->at + sizeof(*head), bytes) : 0;
}

static int options_in(struct request *request, size_t body)
{
	struct room room = {.total = body, .used = PIECE_FIRST + body};
	uint32_t seen = 0;
	int error = 0;

	for (uint64_t at = request->header.nr_options; at && !error;) {
		struct request_option *option = &request->list[request->options];

		room.used += sizeof(uint64_t) + sizeof(option->head);
		if (request->options == REQUEST_OPTIONS_MAX || room.used > PIECE_BYTES) {
			request->options = 0; /* a loop: nothing is written to it */
			return -EMSGSIZE;
		}
		option->at = at;
		error = user_read(&option->head, at, sizeof(option->head));
		if (error)
			return error;
		request->options++;
		room.total += sizeof(option->head);
		at = option->head.nro_next;
		error = option_in(request, option, &seen, &room);
	}
	for (unsigned i = 0; i < request->options && !error; i++)
		request->list[i].head.nro_status = EOPNOTSUPP;
	return error;
}

int request_copy_in(struct request *request, uint64_t user)
{
	struct nmreq_header *header = &request->header;
	size_t bytes;
	int error;

	/* all but the list, which is as long as `options` says */
	memset(request, 0, offsetof(struct request, list));
	request->extmem_head = request->offsets_head = request->csb_head = NULL;
	error = user_read(header, user, sizeof(*header));
	if (error)
		return error;
	if (header->nr_version < NETMAP_MIN_API || header->nr_version > NETMAP_MAX_API ||
	    header->nr_reserved)
		return -EINVAL;
	bytes = body_bytes(header->nr_reqtype);
	if (!bytes != !header->nr_body)
		return -EINVAL;
	error = user_read(&request->body, header->nr_body, bytes);
	if (!error)
		error = options_in(request, bytes);
	if (error)
		return request_copy_out(request, user, error);
	header->nr_name[sizeof(header->nr_name) - 1] = 0;
	return 0;
}

static int option_out(struct request *request, const struct request_option *option, bool served)
{
	struct nmreq_option head = option->head, **place;
	int error = user_write(option->at, &head, sizeof(head));
	size_t bytes;
	void *kept;

	if (error || !served || head.nro_status)
		return error;
	bytes = option_bytes(request, &head, &place, &kept);
	return kept ? user_write(option->at + sizeof(head), kept, bytes) : 0;
}

int request_copy_out(struct request *request, uint64_t user, int error)
{
	const struct nmreq_header *header = &request->header;
	int fault = user_write(user, header, sizeof(*header));

	if (!error && !fault)
		fault = user_write(header->nr_body, &request->body, body_bytes(header->nr_reqtype));
	for (unsigned i = 0; i < request->options && !fault; i++)
		fault = option_out(request, &request->list[i], !error);
	return fault ? fault : error;
}
