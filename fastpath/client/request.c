/* NIOCCTRL: each request type, by what the switch answers and what the region has. */
#include "request.h"

#include <errno.h>
#include <string.h>

#include "sys.h"

/* A question whose answer brings no fds. */
static int ask(struct vsn_session *session, struct client_request *question, const char *name,
	       struct client_answer *answer)
{
	int fds[CLIENT_FDS];
	unsigned n;
	int error;

	memcpy(question->name, name, sizeof(question->name));
	error = wire_request(session, question, answer, fds, 0, &n);
	if (!error)
		wire_close(fds, n);
	return error;
}

/* Whether the session's port is the one of this name. */
static bool is_bound_to(struct vsn_session *session, const char *name)
{
	return atomic_load(&session->bound) &&
	       strncmp(session->binding.answer.name, name, CLIENT_NAME_MAX) == 0;
}

/* --- REGISTER --- */

/*
 * The program's own memory as a region: its pools one behind the other, and whatever is left over
 * becomes buffers.
 */
static int extmem_shape(struct nmreq_opt_extmem *option, struct region_shape *shape)
{
	enum { PAGE = 4096 };
	struct nmreq_pools_info *info = &option->nro_info;
	uint32_t *numbers[POOLS][2] = {
	    [POOL_IF] = {&info->nr_if_pool_objtotal, &info->nr_if_pool_objsize},
	    [POOL_RING] = {&info->nr_ring_pool_objtotal, &info->nr_ring_pool_objsize},
	    [POOL_BUFFER] = {&info->nr_buf_pool_objtotal, &info->nr_buf_pool_objsize},
	};
	static const uint32_t defaults[POOLS][2] = {
	    [POOL_IF] = {2, 1024}, [POOL_RING] = {4, 5 * PAGE}, [POOL_BUFFER] = {4098, 2048}};
	uint64_t memory = info->nr_memsize, at = 0;

	memset(shape, 0, sizeof(*shape));
	if (!option->nro_usrptr || option->nro_usrptr % PAGE || memory % PAGE)
		return -EINVAL;
	for (unsigned i = 0; i < POOLS; i++) {
		uint64_t total, bytes;

		for (unsigned k = 0; k < 2; k++)
			if (!*numbers[i][k])
				*numbers[i][k] = defaults[i][k];
		total = *numbers[i][0];
		bytes = *numbers[i][1];
		if (bytes < 64 || bytes % 64 || bytes > 1 << 20)
			return -EINVAL;
		if (at > memory || total > (memory - at) / bytes)
			return -ENOMEM;
		if (i == POOL_BUFFER)
			total = (memory - at) / bytes;
		shape->pools[i].total = total > UINT32_MAX ? UINT32_MAX : (uint32_t)total;
		shape->pools[i].object_bytes = (uint32_t)bytes;
		shape->pools[i].at = at;
		at = (at + total * bytes + PAGE - 1) / PAGE * PAGE;
	}
	shape->memsize = memory;
	shape->external = true;
	return 0;
}

/* What we serve of the options; who asks for more is told so before anything is done. */
static int options_check(struct request *request, struct region_shape *external)
{
	int error = 0;

	if (request->extmem_head) {
		error = extmem_shape(&request->extmem, external);
		request->extmem_head->nro_status = (uint32_t)-error;
	}
	if (request->offsets_head)
		request->offsets_head->nro_status = 0;
	for (unsigned i = 0; i < request->options && !error; i++)
		if (request->list[i].head.nro_status == EOPNOTSUPP)
			error = -EOPNOTSUPP;
	return error;
}

/* The memory that the port shall be in. */
static int region_wanted(struct vsn_session *session, uint32_t mem_id)
{
	struct client_request question = {.type = CLIENT_REGION, .mem_id = mem_id};
	struct client_answer answer;
	int fds[CLIENT_FDS];
	unsigned n;
	int error;

	if (!mem_id)
		return region_memory();
	error = wire_request(session, &question, &answer, fds, 0, &n);
	if (error && mem_id == VSN_MEM_ID_GLOBAL)
		return region_memory(); /* whoever asks for it first makes it */
	if (error)
		return error == -ENOENT || error == -ENXIO ? -EINVAL : error;
	if (!n)
		return -EPROTO;
	wire_close(fds + 1, n - 1);
	return fds[0];
}

static void register_answer(const struct vsn_session *session, struct nmreq_register *reg)
{
	const struct binding *binding = &session->binding;
	const struct seat *seat = &binding->region.head->seats[binding->seat];
	const struct adapter *adapter = binding->adapter;

	reg->nr_offset = seat->if_at;
	reg->nr_memsize = binding->region.memsize;
	reg->nr_tx_slots = adapter->slots[RING_TX];
	reg->nr_rx_slots = adapter->slots[RING_RX];
	reg->nr_tx_rings = (uint16_t)adapter->rings[RING_TX];
	reg->nr_rx_rings = (uint16_t)adapter->rings[RING_RX];
	reg->nr_host_tx_rings = reg->nr_host_rx_rings = 0;
	reg->nr_mem_id = (uint16_t)binding->region.head->mem_id;
	reg->nr_extra_bufs = seat->extra_bufs;
}

/* The switch has been asked: with its answer to rings, or the port given back. */
static int register_bind(struct vsn_session *session, const struct request *request,
			 const struct client_answer *answer, int fds[], unsigned n,
			 struct bind_wish *wish)
{
	int error;

	wish->flags = request->body.reg.nr_flags;
	if (answer->hdr_len && !(wish->flags & NR_ACCEPT_VNET_HDR)) {
		wire_close(fds, n);
		error = -EIO;
	} else {
		error = bind_answer(session, answer, fds, n, wish);
	}
	if (error)
		wire_reset(session);
	return error;
}

/* A monitor without copies is one of both directions, whatever else is said. */
static uint64_t flags_meant(uint64_t flags)
{
	return flags & NR_ZCOPY_MON ? flags | NR_MONITOR_TX | NR_MONITOR_RX : flags;
}

static int register_locked(struct vsn_session *session, struct request *request)
{
	struct nmreq_register *reg = &request->body.reg;
	struct region_shape external;
	struct client_request question = {.type = CLIENT_REGISTER,
					  .mode = reg->nr_mode,
					  .ring_id = reg->nr_ringid,
					  .flags = reg->nr_flags = flags_meant(reg->nr_flags),
					  .tx_rings = reg->nr_tx_rings,
					  .rx_rings = reg->nr_rx_rings,
					  .tx_slots = reg->nr_tx_slots,
					  .rx_slots = reg->nr_rx_slots,
					  .mem_id = reg->nr_mem_id};
	struct bind_wish wish = {.mode = reg->nr_mode,
				 .ring_id = reg->nr_ringid,
				 .extra_bufs = reg->nr_extra_bufs,
				 .slots = {reg->nr_tx_slots, reg->nr_rx_slots}};
	struct client_answer answer;
	int fds[CLIENT_FDS];
	unsigned n;
	int error;

	if (atomic_load(&session->bound))
		return -EBUSY;
	error = options_check(request, &external);
	if (error)
		return error;
	if (request->extmem_head) {
		wish.external = (uint8_t *)(uintptr_t)request->extmem.nro_usrptr;
		wish.external_shape = &external;
	}
	if (reg->nr_mode == NR_REG_NULL && !reg->nr_mem_id && !wish.external)
		return -EINVAL; /* in which region? */
	wish.offsets = request->offsets_head ? &request->offsets : NULL;
	wish.region_fd = region_wanted(session, wish.external ? 0 : reg->nr_mem_id);
	if (wish.region_fd < 0)
		return wish.region_fd;
	memcpy(question.name, request->header.nr_name, sizeof(question.name));
	fds[0] = wish.region_fd;
	error = wire_request(session, &question, &answer, fds, 1, &n);
	if (!error)
		error = register_bind(session, request, &answer, fds, n, &wish);
	sys_close(wish.region_fd);
	if (error && request->offsets_head)
		request->offsets_head->nro_status = (uint32_t)-error;
	if (!error)
		register_answer(session, reg);
	return error;
}

static int serve_register(struct vsn_session *session, struct request *request)
{
	int error;

	own_lock(&session->binding_lock);
	error = register_locked(session, request);
	own_unlock(&session->binding_lock);
	return error;
}

/* --- what a port is like --- */

/* Rings and slots of a port, there or as it would be, and the shape of its region. */
static int ask_info(struct vsn_session *session, const char *name, struct client_request *question,
		    struct client_answer *answer, struct region_shape *shape)
{
	int error;

	question->type = CLIENT_INFO;
	error = ask(session, question, name, answer);
	if (error)
		return error;
	if (!answer->tx_slots)
		answer->tx_slots = VSN_SLOTS_DEFAULT;
	if (!answer->rx_slots)
		answer->rx_slots = VSN_SLOTS_DEFAULT;
	return region_shape_private(shape, answer->tx_rings, answer->tx_slots, answer->rx_rings,
				    answer->rx_slots, 0);
}

static int serve_info(struct vsn_session *session, struct request *request)
{
	struct nmreq_port_info_get *info = &request->body.info;
	struct client_request question = {.tx_rings = info->nr_tx_rings,
					  .rx_rings = info->nr_rx_rings,
					  .tx_slots = info->nr_tx_slots,
					  .rx_slots = info->nr_rx_slots,
					  .mem_id = info->nr_mem_id};
	struct client_answer answer;
	struct region_shape shape;
	int error;

	if (!request->header.nr_name[0])
		return -EINVAL; /* the region of all NICs: there is none */
	error = ask_info(session, request->header.nr_name, &question, &answer, &shape);
	if (error)
		return error;
	*info = (struct nmreq_port_info_get){.nr_memsize = shape.memsize,
					     .nr_tx_slots = answer.tx_slots,
					     .nr_rx_slots = answer.rx_slots,
					     .nr_tx_rings = (uint16_t)answer.tx_rings,
					     .nr_rx_rings = (uint16_t)answer.rx_rings,
					     .nr_mem_id = (uint16_t)answer.mem_id};
	if (is_bound_to(session, request->header.nr_name)) {
		info->nr_memsize = session->binding.region.memsize;
		info->nr_mem_id = (uint16_t)session->binding.region.head->mem_id;
	}
	return 0;
}

static void shape_of(const struct region_head *head, struct region_shape *shape)
{
	shape->memsize = head->memsize;
	for (unsigned i = 0; i < POOLS; i++) {
		shape->pools[i].total = head->pools[i].total;
		shape->pools[i].object_bytes = head->pools[i].object_bytes;
		shape->pools[i].at = head->pools[i].at;
	}
}

static int serve_pools(struct vsn_session *session, struct request *request)
{
	struct client_request question = {.mem_id = request->body.pools.nr_mem_id};
	struct client_answer answer;
	struct region_shape shape = {0};
	uint32_t mem_id;

	if (is_bound_to(session, request->header.nr_name)) {
		shape_of(session->binding.region.head, &shape);
		mem_id = session->binding.region.head->mem_id;
	} else {
		int error = ask_info(session, request->header.nr_name, &question, &answer, &shape);

		if (error)
			return error;
		mem_id = answer.mem_id;
	}
	request->body.pools = (struct nmreq_pools_info){
	    .nr_memsize = shape.memsize,
	    .nr_mem_id = (uint16_t)mem_id,
	    .nr_if_pool_offset = shape.pools[POOL_IF].at,
	    .nr_if_pool_objtotal = shape.pools[POOL_IF].total,
	    .nr_if_pool_objsize = shape.pools[POOL_IF].object_bytes,
	    .nr_ring_pool_offset = shape.pools[POOL_RING].at,
	    .nr_ring_pool_objtotal = shape.pools[POOL_RING].total,
	    .nr_ring_pool_objsize = shape.pools[POOL_RING].object_bytes,
	    .nr_buf_pool_offset = shape.pools[POOL_BUFFER].at,
	    .nr_buf_pool_objtotal = shape.pools[POOL_BUFFER].total,
	    .nr_buf_pool_objsize = shape.pools[POOL_BUFFER].object_bytes,
	};
	return 0;
}

static int serve_list(struct vsn_session *session, struct request *request)
{
	struct nmreq_vale_list *list = &request->body.list;
	struct client_request question = {
	    .type = CLIENT_LIST, .index = list->nr_port_idx, .switch_index = list->nr_bridge_idx};
	struct client_answer answer;
	char *name = request->header.nr_name;
	int error;

	if (*name && strncmp(name, "vale", 4) != 0)
		return -EINVAL;
	error = ask(session, &question, name, &answer);
	if (error)
		return error;
	list->nr_bridge_idx = (uint16_t)answer.switch_index;
	list->nr_port_idx = answer.index;
	if (!*name) {
		memcpy(name, answer.name, CLIENT_NAME_MAX);
		name[CLIENT_NAME_MAX - 1] = 0;
	}
	return 0;
}

static int serve_header(struct vsn_session *session, struct request *request, bool set)
{
	struct nmreq_port_hdr *hdr = &request->body.hdr;
	struct client_request question = {.type = set ? CLIENT_HDR_SET : CLIENT_HDR_GET,
					  .hdr_len = hdr->nr_hdr_len};
	struct client_answer answer;
	int error;

	if (set && hdr->nr_hdr_len != 0 && hdr->nr_hdr_len != 10 && hdr->nr_hdr_len != 12)
		return -EINVAL;
	error = ask(session, &question, request->header.nr_name, &answer);
	if (error)
		return error;
	if (!set)
		hdr->nr_hdr_len = answer.hdr_len;
	return 0;
}

/* --- all of them --- */

static int serve_csb(const struct request *request)
{
	return request->csb_head ? -EOPNOTSUPP : -EINVAL;
}

int request_serve(struct vsn_session *session, struct request *request)
{
	switch (request->header.nr_reqtype) {
	case NETMAP_REQ_REGISTER:
		return serve_register(session, request);
	case NETMAP_REQ_PORT_INFO_GET:
		return serve_info(session, request);
	case NETMAP_REQ_VALE_LIST:
		return serve_list(session, request);
	case NETMAP_REQ_PORT_HDR_SET:
		return serve_header(session, request, true);
	case NETMAP_REQ_PORT_HDR_GET:
		return serve_header(session, request, false);
	case NETMAP_REQ_POOLS_INFO_GET:
		return serve_pools(session, request);
	case NETMAP_REQ_CSB_ENABLE:
		return serve_csb(request);
	case NETMAP_REQ_VALE_DETACH: /* of what nobody can attach this way */
	case NETMAP_REQ_VALE_DELIF:
		return -ENXIO;
	case NETMAP_REQ_SYNC_KLOOP_STOP:
		return atomic_load(&session->bound) ? -EOPNOTSUPP : -ENXIO;
	case NETMAP_REQ_VALE_ATTACH:
	case NETMAP_REQ_VALE_NEWIF:
	case NETMAP_REQ_VALE_POLLING_ENABLE:
	case NETMAP_REQ_VALE_POLLING_DISABLE:
	case NETMAP_REQ_SYNC_KLOOP_START:
		return -EOPNOTSUPP;
	default:
		return -EINVAL;
	}
}

int request_control(struct vsn_session *session, void *user)
{
	struct request request;
	int error = request_copy_in(&request, (uintptr_t)user);

	return error
		   ? error
		   : request_copy_out(&request, (uintptr_t)user, request_serve(session, &request));
}
