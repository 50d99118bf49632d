#include "nmport.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "portspec.h"
#include "ring.h"

/* What a port's options occupy; one a port, made with the first of them. */
struct nmport_cleanup_d {
	struct nmreq_opt_extmem extmem;
	struct nmreq_opt_offsets offsets;
	void *file; /* mapped for extmem, NULL: none */
	size_t file_bytes;
};

static struct {
	const char *name;
	bool allowed;
} portspec_options[] = {{"share", true}, {"extmem", true}, {"conf", true}, {"offset", false}};
enum { OPTION_SHARE, OPTION_EXTMEM, OPTION_CONF, OPTION_OFFSET, OPTIONS };

static int fails(struct nmport_d *port, int error, const char *what)
{
	const char *name = port->hdr.nr_name[0] ? port->hdr.nr_name : "port";
	nmctx_ferror(port->ctx, "%s: %s: %s", name, what, strerror(error));
	errno = error;
	return -1;
}

/* --- options ---------------------------------------------------------------------------------- */

static int allow_option(const char *option, bool allowed)
{
	for (unsigned i = 0; i < OPTIONS; i++)
		if (!strcmp(portspec_options[i].name, option)) {
			portspec_options[i].allowed = allowed;
			return 0;
		}
	errno = EOPNOTSUPP;
	return -1;
}

void nmport_disable_option(const char *option)
{
	int error = errno;
	allow_option(option, false);
	errno = error;
}

int nmport_enable_option(const char *option)
{
	return allow_option(option, true);
}

static struct nmport_cleanup_d *resources(struct nmport_d *port)
{
	if (port->clist)
		return port->clist;
	port->clist = nmctx_malloc(port->ctx, sizeof *port->clist);
	if (!port->clist)
		fails(port, ENOMEM, "an option");
	else
		memset(port->clist, 0, sizeof *port->clist);
	return port->clist;
}

int nmport_extmem(struct nmport_d *port, void *base, size_t bytes)
{
	if (port->register_done || port->extmem)
		return fails(port, EINVAL, "external memory comes once, before the registration");
	struct nmport_cleanup_d *own = resources(port);
	if (!own)
		return -1;
	own->extmem = (struct nmreq_opt_extmem){
	    .nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_EXTMEM},
	    .nro_usrptr = (uintptr_t)base,
	    .nro_info = {.nr_memsize = bytes},
	};
	port->extmem = &own->extmem;
	nmreq_push_option(&port->hdr, &own->extmem.nro_opt);
	return 0;
}

int nmport_extmem_from_file(struct nmport_d *port, const char *path)
{
	struct nmport_cleanup_d *own = resources(port);
	struct stat about;
	if (!own)
		return -1;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fails(port, errno, path);
	void *memory = MAP_FAILED;
	if (!fstat(fd, &about))
		memory =
		    mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int error = errno;
	close(fd);
	if (memory == MAP_FAILED)
		return fails(port, error, path);
	if (nmport_extmem(port, memory, (size_t)about.st_size)) {
		munmap(memory, (size_t)about.st_size);
		return -1;
	}
	own->file = memory;
	own->file_bytes = (size_t)about.st_size;
	return 0;
}

struct nmreq_pools_info *nmport_extmem_getinfo(struct nmport_d *port)
{
	return port->extmem ? &port->extmem->nro_info : NULL;
}

int nmport_offset(struct nmport_d *port, uint64_t initial, uint64_t most, uint64_t bits,
		  uint64_t min_gap)
{
	struct nmport_cleanup_d *own = resources(port);
	if (!own)
		return -1;
	nmreq_remove_option(&port->hdr, &own->offsets.nro_opt);
	own->offsets = (struct nmreq_opt_offsets){
	    .nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_OFFSETS},
	    .nro_max_offset = most,
	    .nro_initial_offset = initial,
	    .nro_offset_bits = (uint32_t)bits,
	    .nro_min_gap = min_gap,
	};
	nmreq_push_option(&port->hdr, &own->offsets.nro_opt);
	return 0;
}

static void drop_options(struct nmport_d *port)
{
	struct nmport_cleanup_d *own = port->clist;
	if (!own)
		return;
	nmreq_remove_option(&port->hdr, &own->extmem.nro_opt);
	nmreq_remove_option(&port->hdr, &own->offsets.nro_opt);
	if (own->file)
		munmap(own->file, own->file_bytes);
	nmctx_free(port->ctx, own);
	port->clist = NULL;
	port->extmem = NULL;
}

/* --- from a portspec to a request ------------------------------------------------------------- */

static struct nmport_d *new_in(struct nmctx *ctx)
{
	struct nmport_d *port = nmctx_malloc(ctx, sizeof *port);
	if (!port) {
		nmctx_ferror(ctx, "no memory for a port");
		errno = ENOMEM;
		return NULL;
	}
	memset(port, 0, sizeof *port);
	nmreq_header_init(&port->hdr, NETMAP_REQ_REGISTER, &port->reg);
	port->ctx = ctx;
	port->fd = -1;
	return port;
}

struct nmport_d *nmport_new(void)
{
	return new_in(nmctx_get());
}

void nmport_delete(struct nmport_d *port)
{
	nmctx_free(port->ctx, port);
}

static int says_forbidden(struct nmport_d *port, const struct portspec *spec)
{
	const bool said[OPTIONS] = {
	    [OPTION_SHARE] = spec->share.name[0],
	    [OPTION_EXTMEM] = spec->file[0],
	    [OPTION_CONF] = spec->tx_slots || spec->rx_slots || spec->tx_rings || spec->rx_rings ||
			    spec->host_tx_rings || spec->host_rx_rings,
	    [OPTION_OFFSET] = spec->has_offset,
	};
	for (unsigned i = 0; i < OPTIONS; i++)
		if (said[i] && !portspec_options[i].allowed) {
			nmctx_ferror(port->ctx, "%s: option %s is not enabled", spec->port.name,
				     portspec_options[i].name);
			errno = EOPNOTSUPP;
			return -1;
		}
	return 0;
}

static int32_t region_of(struct nmport_d *port, const struct portspec *spec)
{
	char name[PORTSPEC_NAME_MAX + sizeof "netmap:"] = "";
	if (!spec->share.name[0])
		return spec->mem_id;
	strcat(name, spec->share.ifname[0] ? "netmap:" : "");
	strcat(name, spec->share.name);
	const char *rest = name;
	int32_t region = nmreq_get_mem_id(&rest, port->ctx);
	if (region < 0 || !spec->mem_id || region == spec->mem_id)
		return region;
	return fails(port, EINVAL, "two memory regions");
}

static int apply_extmem(struct nmport_d *port, const struct portspec *spec)
{
	if (!spec->file[0])
		return 0;
	if (nmport_extmem_from_file(port, spec->file))
		return -1;
	struct nmreq_pools_info *info = nmport_extmem_getinfo(port);
	info->nr_if_pool_objtotal = spec->if_num;
	info->nr_if_pool_objsize = spec->if_size;
	info->nr_ring_pool_objtotal = spec->ring_num;
	info->nr_ring_pool_objsize = spec->ring_size;
	info->nr_buf_pool_objtotal = spec->buf_num;
	info->nr_buf_pool_objsize = spec->buf_size;
	return 0;
}

int nmport_parse(struct nmport_d *port, const char *portspec)
{
	struct portspec spec;
	struct error err = {0};
	int error = portspec_parse(portspec, &spec, &err);
	if (error) {
		nmctx_ferror(port->ctx, "%s: %s", portspec, err.message);
		errno = -error;
		return -1;
	}
	if (says_forbidden(port, &spec))
		return -1;
	int32_t region = region_of(port, &spec);
	if (region < 0)
		return -1;
	if (apply_extmem(port, &spec) ||
	    (spec.has_offset &&
	     nmport_offset(port, spec.offset_initial, spec.offset_initial, spec.offset_bits, 0))) {
		drop_options(port);
		return -1;
	}
	memcpy(port->hdr.nr_name, spec.port.name, sizeof port->hdr.nr_name);
	port->reg = (struct nmreq_register){
	    .nr_tx_slots = spec.tx_slots,
	    .nr_rx_slots = spec.rx_slots,
	    .nr_tx_rings = spec.tx_rings,
	    .nr_rx_rings = spec.rx_rings,
	    .nr_host_tx_rings = spec.host_tx_rings,
	    .nr_host_rx_rings = spec.host_rx_rings,
	    .nr_mem_id = (uint16_t)region,
	    .nr_ringid = spec.ringid,
	    .nr_mode = spec.mode,
	    .nr_flags = spec.flags,
	};
	return 0;
}

void nmport_undo_parse(struct nmport_d *port)
{
	drop_options(port);
	nmreq_header_init(&port->hdr, NETMAP_REQ_REGISTER, &port->reg);
	port->reg = (struct nmreq_register){0};
}

struct nmport_d *nmport_prepare(const char *portspec)
{
	struct nmport_d *port = nmport_new();
	if (port && nmport_parse(port, portspec)) {
		int error = errno;
		nmport_undo_prepare(port);
		errno = error;
		return NULL;
	}
	return port;
}

void nmport_undo_prepare(struct nmport_d *port)
{
	if (!port)
		return;
	nmport_undo_parse(port);
	nmport_delete(port);
}

struct nmport_d *nmport_clone(struct nmport_d *port)
{
	if (port->extmem && !port->register_done) {
		fails(port, EINVAL, "external memory is known after the registration only");
		return NULL;
	}
	struct nmport_d *clone = new_in(port->ctx);
	if (!clone)
		return NULL;
	clone->hdr = port->hdr;
	clone->hdr.nr_body = (uintptr_t)&clone->reg;
	clone->hdr.nr_options = 0;
	clone->reg = port->reg;
	return clone;
}

/* --- from a request to rings ------------------------------------------------------------------ */

static void tell_refusal(struct nmport_d *port, int error)
{
	bool told = false;
	for (uint64_t at = port->hdr.nr_options; at;) {
		const struct nmreq_option *option = (const void *)(uintptr_t)at;
		if (option->nro_status)
			nmctx_ferror(port->ctx, "%s: option %s: %s", port->hdr.nr_name,
				     nmreq_option_name(option->nro_reqtype),
				     strerror((int)option->nro_status));
		told |= option->nro_status != 0;
		at = option->nro_next;
	}
	if (!told)
		nmctx_ferror(port->ctx, "%s: %s", port->hdr.nr_name, strerror(error));
}

int nmport_register(struct nmport_d *port)
{
	if (port->register_done)
		return fails(port, EINVAL, "registered already");
	port->fd = open(NETMAP_DEVICE, O_RDWR);
	if (port->fd < 0)
		return fails(port, errno, NETMAP_DEVICE);
	if (ioctl(port->fd, NIOCCTRL, &port->hdr) < 0) {
		int error = errno;
		tell_refusal(port, error);
		nmport_undo_register(port);
		errno = error;
		return -1;
	}
	port->register_done = 1;
	return 0;
}

void nmport_undo_register(struct nmport_d *port)
{
	if (port->fd >= 0)
		close(port->fd);
	port->fd = -1;
	port->register_done = 0;
}

/* A region that no port of the context has mapped yet. Under the context's lock. */
static struct nmem_d *map_region(struct nmport_d *port)
{
	struct nmctx *ctx = port->ctx;
	struct nmem_d *region = nmctx_malloc(ctx, sizeof *region);
	if (!region) {
		errno = ENOMEM;
		return NULL;
	}
	*region = (struct nmem_d){.mem_id = port->reg.nr_mem_id, .next = ctx->mem_descs};
	if (port->extmem) {
		region->mem = (void *)(uintptr_t)port->extmem->nro_usrptr;
		region->size = port->extmem->nro_info.nr_memsize;
		region->is_extmem = 1;
	} else {
		region->size = port->reg.nr_memsize;
		region->mem =
		    mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, port->fd, 0);
	}
	if (region->mem == MAP_FAILED) {
		nmctx_free(ctx, region);
		return NULL;
	}
	if (ctx->mem_descs)
		ctx->mem_descs->prev = region;
	ctx->mem_descs = region;
	return region;
}

static const struct netmap_if *nifp_of(const struct nmport_d *port)
{
	return (const void *)((const char *)port->mem->mem + port->reg.nr_offset);
}

/* The first run of rings that are bound, of `count` whose offsets begin at `offsets`. */
static void bound_rings(const int64_t *offsets, unsigned count, uint16_t *first, uint16_t *last)
{
	unsigned i = 0;
	while (i < count && !offsets[i])
		i++;
	*first = (uint16_t)i;
	while (i < count && offsets[i])
		i++;
	*last = (uint16_t)(i - 1);
}

int nmport_mmap(struct nmport_d *port)
{
	struct nmctx *ctx = port->ctx;
	if (port->mmap_done)
		return fails(port, EINVAL, "mapped already");
	if (!port->register_done)
		return fails(port, EINVAL, "not registered");
	nmctx_lock(ctx);
	struct nmem_d *region = ctx->mem_descs;
	while (region && region->mem_id != port->reg.nr_mem_id)
		region = region->next;
	if (!region)
		region = map_region(port);
	if (region)
		region->refcount++;
	nmctx_unlock(ctx);
	if (!region)
		return fails(port, errno, "mmap");

	port->mem = region;
	const struct netmap_if *nifp = nifp_of(port);
	port->nifp = (struct netmap_if *)(uintptr_t)nifp;
	unsigned tx = port->reg.nr_tx_rings + nifp->ni_host_tx_rings;
	unsigned rx = port->reg.nr_rx_rings + nifp->ni_host_rx_rings;
	bound_rings(nifp->ring_ofs, tx, &port->first_tx_ring, &port->last_tx_ring);
	bound_rings(nifp->ring_ofs + tx, rx, &port->first_rx_ring, &port->last_rx_ring);
	port->cur_tx_ring = port->first_tx_ring;
	port->cur_rx_ring = port->first_rx_ring;
	port->mmap_done = 1;
	return 0;
}

/* Under the context's lock. */
static void drop_region(struct nmctx *ctx, struct nmem_d *region)
{
	if (--region->refcount > 0)
		return;
	if (!region->is_extmem)
		munmap(region->mem, region->size);
	if (region->next)
		region->next->prev = region->prev;
	if (region->prev)
		region->prev->next = region->next;
	else
		ctx->mem_descs = region->next;
	nmctx_free(ctx, region);
}

void nmport_undo_mmap(struct nmport_d *port)
{
	if (!port->mem)
		return;
	nmctx_lock(port->ctx);
	drop_region(port->ctx, port->mem);
	nmctx_unlock(port->ctx);
	port->mem = NULL;
	port->nifp = NULL;
	port->mmap_done = 0;
	port->first_tx_ring = port->last_tx_ring = port->cur_tx_ring = 0;
	port->first_rx_ring = port->last_rx_ring = port->cur_rx_ring = 0;
}

int nmport_open_desc(struct nmport_d *port)
{
	if (nmport_register(port))
		return -1;
	if (nmport_mmap(port) == 0)
		return 0;
	int error = errno;
	nmport_undo_register(port);
	errno = error;
	return -1;
}

void nmport_undo_open_desc(struct nmport_d *port)
{
	nmport_undo_mmap(port);
	nmport_undo_register(port);
}

struct nmport_d *nmport_open(const char *portspec)
{
	struct nmport_d *port = nmport_prepare(portspec);
	if (port && nmport_open_desc(port)) {
		int error = errno;
		nmport_undo_prepare(port);
		errno = error;
		return NULL;
	}
	return port;
}

void nmport_close(struct nmport_d *port)
{
	if (!port)
		return;
	nmport_undo_open_desc(port);
	nmport_undo_prepare(port);
}

/* --- sending ---------------------------------------------------------------------------------- */

static struct netmap_ring *tx_ring(const struct nmport_d *port, unsigned i)
{
	return (void *)((char *)port->nifp + port->nifp->ring_ofs[i]);
}

/* Into as many slots as it takes. false: there is no room. */
static bool put(struct netmap_ring *ring, const uint8_t *frame, size_t bytes)
{
	uint32_t size = ring->nr_buf_size;
	uint32_t room = ring_space(ring->head, ring->tail, ring->num_slots);
	if (!size || (bytes + size - 1) / size > room || !bytes)
		return false;
	uint32_t i = ring->head;
	while (bytes) {
		struct netmap_slot *slot = &ring->slot[i];
		size_t now = bytes < size ? bytes : size;
		memcpy(ring_buffer(ring, slot->buf_idx), frame, now);
		slot->len = (uint16_t)now;
		frame += now;
		bytes -= now;
		slot->flags = bytes ? NS_MOREFRAG : 0;
		i = ring_next(ring, i);
	}
	ring->head = ring->cur = i;
	return true;
}

int nmport_inject(struct nmport_d *port, const void *frame, size_t bytes)
{
	unsigned rings = port->last_tx_ring - port->first_tx_ring + 1U;
	for (unsigned tried = 0; tried < rings; tried++) {
		unsigned i = port->cur_tx_ring + tried;
		if (i > port->last_tx_ring)
			i -= rings;
		if (put(tx_ring(port, i), frame, bytes)) {
			port->cur_tx_ring = (uint16_t)i;
			return 0;
		}
	}
	return -1;
}
