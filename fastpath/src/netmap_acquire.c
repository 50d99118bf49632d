/* netmap ports, keeper: opens what a portspec names. netmap.h says what comes of it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "netmap.h"

/* What acquire has found out so far. */
struct opening {
	const char *port;
	const char *directory; /* where files of @extmem may be; NULL: nowhere */
	struct portspec spec;
	struct port_fds *fds;
	struct error *err;
	uint16_t version; /* of the ABI, as the module takes it */
	uint32_t flags;	  /* of every REGISTER */
	uint32_t vnet_bytes;
	struct nmreq_register first; /* the reply for the first fd */
	uint64_t offset[PORT_FDS_MAX];
	unsigned nic, host; /* fds of each */
	void *memory;	    /* the mapped file of @extmem */
	uint64_t memory_bytes;
	int memory_fd;
};

static int control(struct opening *opening, int fd, uint16_t type, const char *name, void *body,
		   void *options)
{
	struct nmreq_header header = {.nr_version = opening->version,
				      .nr_reqtype = type,
				      .nr_options = (uint64_t)(uintptr_t)options,
				      .nr_body = (uint64_t)(uintptr_t)body};
	int status;

	memcpy(header.nr_name, name, sizeof(header.nr_name));
	status = netmap_device->control(fd, &header);
	if (status != -EINVAL || opening->version == NETMAP_MAX_API)
		return status;
	/* it may be the version that it does not take */
	header.nr_version = NETMAP_MAX_API;
	if (netmap_device->control(fd, &header))
		return status;
	opening->version = NETMAP_MAX_API;
	return 0;
}

/* --- refusals -------------------------------------------------------------------------------- */

static int absent(const struct opening *opening, int error)
{
	if (error == ENOENT || error == ENXIO || error == ENODEV)
		return error_named(opening->err, error, "NETMAP_ABSENT",
				   "%s: there is no %s: load the module netmap; without it vale, "
				   "pipe and monitor ports are served by this switch's own engine",
				   opening->port, NETMAP_DEVICE);
	return error_set(opening->err, error, "%s: opening %s: %s", opening->port, NETMAP_DEVICE,
			 strerror(error));
}

static int refused(const struct opening *opening, int error)
{
	const struct portspec_name *name = &opening->spec.port;
	struct error *err = opening->err;

	switch (error) {
	case ENXIO:
		if (opening->flags & NETMAP_MONITOR)
			return error_named(err, error, "IFACE_NOT_FOUND",
					   "%s: nobody has %s open, so there is nothing to monitor",
					   opening->port, name->name);
		return error_named(err, error, "IFACE_NOT_FOUND", "%s: netmap knows no port %s",
				   opening->port, name->name);
	case EBUSY:
		return error_named(err, error, "PORT_BUSY",
				   "%s: %s is in use, by a switch or exclusively", opening->port,
				   name->name);
	case ENOMEM:
		if (!name->ifname[0])
			return error_named(
			    err, error, "VALE_LIMIT",
			    "%s: netmap has no room for %s: no switch (8 by default: "
			    "parameter max_bridges), no port (254 a switch) or no "
			    "memory (priv_buf_num, priv_ring_num) is left",
			    opening->port, name->name);
		return error_named(err, error, "NETMAP_MEMORY",
				   "%s: netmap has no memory for %s: raise buf_num or ring_num in "
				   "/sys/module/netmap/parameters while no port is open",
				   opening->port, name->name);
	case EINVAL:
		return error_set(err, error,
				 "%s: netmap refuses %s: there is no such ring, it has no host "
				 "rings, or its MTU needs larger buffers (parameter buf_size)",
				 opening->port, name->name);
	default:
		return error_set(err, error, "%s: netmap: %s: %s", opening->port, name->name,
				 strerror(error));
	}
}

/* --- options of the request ------------------------------------------------------------------ */

/* Maps the file of @extmem, a plain one in the keeper's own directory. */
static int memory_open(struct opening *opening)
{
	const char *file = strrchr(opening->spec.file, '/');
	size_t length = opening->directory ? strlen(opening->directory) : 0;
	struct stat st;
	int fd;

	if (!opening->directory)
		return error_named(opening->err, EINVAL, "FILE_DENIED",
				   "%s: the keeper was given no directory for @extmem",
				   opening->port);
	if (!file || (size_t)(file - opening->spec.file) != length || !file[1] ||
	    strncmp(opening->spec.file, opening->directory, length) != 0 ||
	    strcmp(file, "/..") == 0 || strcmp(file, "/.") == 0)
		return error_named(opening->err, EINVAL, "FILE_DENIED",
				   "%s: %s is no file of the directory %s", opening->port,
				   opening->spec.file, opening->directory);
	fd = open(opening->spec.file, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set(opening->err, errno, "%s: %s: %s", opening->port,
				 opening->spec.file, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0) {
		close(fd);
		return error_set(opening->err, EINVAL, "%s: %s is no file with room in it",
				 opening->port, opening->spec.file);
	}
	opening->memory_bytes = (uint64_t)st.st_size;
	opening->memory =
	    mmap(NULL, opening->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (opening->memory == MAP_FAILED) {
		opening->memory = NULL;
		close(fd);
		return error_set(opening->err, ENOMEM, "%s: %s cannot be mapped", opening->port,
				 opening->spec.file);
	}
	opening->memory_fd = fd;
	return 0;
}

static struct nmreq_opt_extmem option_extmem(const struct opening *opening)
{
	const struct portspec *spec = &opening->spec;

	return (struct nmreq_opt_extmem){
	    .nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_EXTMEM},
	    .nro_usrptr = (uint64_t)(uintptr_t)opening->memory,
	    .nro_info = {.nr_memsize = opening->memory_bytes,
			 .nr_if_pool_objtotal = spec->if_num,
			 .nr_if_pool_objsize = spec->if_size,
			 .nr_ring_pool_objtotal = spec->ring_num,
			 .nr_ring_pool_objsize = spec->ring_size,
			 .nr_buf_pool_objtotal = spec->buf_num,
			 .nr_buf_pool_objsize = spec->buf_size},
	};
}

/* The region of the port that @share names. */
static int share_region(struct opening *opening, int fd)
{
	struct portspec *spec = &opening->spec;
	struct nmreq_port_info_get info = {0};
	int status;

	if (!spec->share.name[0])
		return 0;
	status = control(opening, fd, NETMAP_REQ_PORT_INFO_GET, spec->share.name, &info, NULL);
	if (status)
		return error_set(opening->err, -status, "%s: netmap knows no region of %s: %s",
				 opening->port, spec->share.name, strerror(-status));
	if (spec->mem_id && spec->mem_id != info.nr_mem_id)
		return error_set(opening->err, EINVAL,
				 "%s: @%u is not the region of %s, which is %u", opening->port,
				 spec->mem_id, spec->share.name, info.nr_mem_id);
	spec->mem_id = info.nr_mem_id;
	return 0;
}

/* --- registering ----------------------------------------------------------------------------- */

static int register_ring(struct opening *opening, int fd, uint32_t mode, unsigned ring,
			 struct nmreq_register *reply)
{
	const struct portspec *spec = &opening->spec;
	struct nmreq_opt_extmem extmem = option_extmem(opening);
	struct nmreq_opt_offsets offsets = {
	    .nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_OFFSETS},
	    .nro_max_offset = spec->offset_initial,
	    .nro_initial_offset = spec->offset_initial,
	    .nro_offset_bits = spec->offset_bits,
	};
	struct nmreq_option *options = NULL;
	int status;

	*reply = (struct nmreq_register){
	    .nr_tx_slots = spec->tx_slots,
	    .nr_rx_slots = spec->rx_slots,
	    .nr_tx_rings = spec->tx_rings,
	    .nr_rx_rings = spec->rx_rings,
	    .nr_host_tx_rings = spec->host_tx_rings,
	    .nr_host_rx_rings = spec->host_rx_rings,
	    .nr_mem_id = spec->mem_id,
	    .nr_ringid = (uint16_t)ring,
	    .nr_mode = mode,
	    .nr_flags = opening->flags,
	};
	if (opening->memory)
		options = &extmem.nro_opt;
	if (spec->has_offset) {
		offsets.nro_opt.nro_next = (uint64_t)(uintptr_t)options;
		options = &offsets.nro_opt;
	}
	status = control(opening, fd, NETMAP_REQ_REGISTER, spec->port.name, reply, options);
	if (status && spec->has_offset && offsets.nro_opt.nro_status)
		return error_set(opening->err, (int)offsets.nro_opt.nro_status,
				 "%s: netmap refuses @offset for %s", opening->port,
				 spec->port.name);
	if (status && opening->memory && extmem.nro_opt.nro_status)
		return error_set(opening->err, (int)extmem.nro_opt.nro_status,
				 "%s: netmap refuses @extmem for %s", opening->port,
				 spec->port.name);
	return status ? refused(opening, -status) : 0;
}

/* One more ring pair with an fd of its own; reply: what the module says of it. */
static int open_ring(struct opening *opening, uint32_t mode, unsigned ring,
		     struct nmreq_register *reply)
{
	struct port_fds *fds = opening->fds;
	int fd = netmap_device->open(), status;

	if (fd < 0)
		return absent(opening, -fd);
	fds->fd[fds->count++] = fd;
	if (fds->count == 1) {
		status = share_region(opening, fd);
		if (status)
			return status;
	}
	status = register_ring(opening, fd, mode, ring, reply);
	if (status)
		return status;
	if (reply->nr_offset > UINT32_MAX || reply->nr_memsize >> 10 > UINT32_MAX)
		return error_set(opening->err, EOVERFLOW, "%s: a region of %llu bytes is too large",
				 opening->port, (unsigned long long)reply->nr_memsize);
	opening->offset[fds->count - 1] = reply->nr_offset;
	if (fds->count == 1) {
		opening->first = *reply;
		/* the others are to be in the same region, whatever it is */
		opening->spec.mem_id = reply->nr_mem_id;
	} else if (reply->nr_mem_id != opening->first.nr_mem_id) {
		return error_set(opening->err, EPROTO, "%s: the rings of %s are in two regions",
				 opening->port, opening->spec.port.name);
	}
	return 0;
}

static unsigned most(unsigned a, unsigned b)
{
	return a > b ? a : b;
}

/* `count` ring pairs in this mode; 0: as many as the module says that there are. */
static int open_rings(struct opening *opening, uint32_t mode, unsigned first, unsigned count,
		      unsigned *opened)
{
	struct nmreq_register reply;

	do {
		int status = open_ring(opening, mode, first + *opened, &reply);

		if (status)
			return status;
		++*opened;
		if (!count)
			count = mode == NR_REG_ONE_NIC
				    ? most(reply.nr_tx_rings, reply.nr_rx_rings)
				    : most(reply.nr_host_tx_rings, reply.nr_host_rx_rings);
		if (opening->nic + opening->host + count - *opened > PORT_QUEUES_MAX)
			return error_set(opening->err, E2BIG,
					 "%s: %s has more than %u ring pairs: take fewer "
					 "(ethtool -L), or one by one (-0, -1, ...)",
					 opening->port, opening->spec.port.name, PORT_QUEUES_MAX);
	} while (*opened < count);
	return 0;
}

static int open_all_rings(struct opening *opening)
{
	const struct portspec *spec = &opening->spec;
	bool nic = spec->mode != NR_REG_SW && spec->mode != NR_REG_ONE_SW;
	bool host = spec->mode != NR_REG_ALL_NIC && spec->mode != NR_REG_ONE_NIC;
	int status = 0;

	if (nic)
		status = open_rings(opening, NR_REG_ONE_NIC, spec->ringid,
				    spec->mode == NR_REG_ONE_NIC, &opening->nic);
	if (!status && host)
		status = open_rings(opening, NR_REG_ONE_SW,
				    spec->mode == NR_REG_NIC_SW ? 0 : spec->ringid,
				    spec->mode == NR_REG_ONE_SW, &opening->host);
	return status;
}

/* --- what else a port needs ------------------------------------------------------------------ */

/* NIC rings get every frame only while their interface is up and promiscuous. */
static int open_interface(struct opening *opening, uint32_t *ifindex)
{
	const struct portspec_name *name = &opening->spec.port;
	int fd;

	*ifindex = 0;
	if (!name->ifname[0] || name->pipe || (opening->flags & NETMAP_MONITOR))
		return 0;
	fd = netmap_device->interface_open(name->ifname, opening->nic > 0, ifindex);
	if (fd == -ENODEV)
		return error_named(opening->err, ENODEV, "IFACE_NOT_FOUND",
				   "%s: there is no interface %s", opening->port, name->ifname);
	if (fd < 0)
		return error_set(opening->err, -fd, "%s: bringing %s up: %s", opening->port,
				 name->ifname, strerror(-fd));
	opening->fds->fd[opening->fds->count++] = fd;
	return 0;
}

/* Frames may begin with a virtio-net header where the port says so. */
static void ask_header(struct opening *opening)
{
	struct nmreq_port_hdr header = {0};

	if (control(opening, opening->fds->fd[0], NETMAP_REQ_PORT_HDR_GET, opening->spec.port.name,
		    &header, NULL) == 0)
		opening->vnet_bytes = header.nr_hdr_len;
}

static int open_journal(struct opening *opening)
{
	int fd = memfd_create("netmap-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, PORT_QUEUES_MAX * sizeof(struct netmap_exchange)) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		if (fd >= 0)
			close(fd);
		return error_set(opening->err, ENOMEM, "%s: no memory for a journal",
				 opening->port);
	}
	opening->fds->fd[opening->fds->count++] = fd;
	return 0;
}

static int describe(struct opening *opening, uint32_t ifindex)
{
	const struct nmreq_register *first = &opening->first;
	struct port_fds *fds = opening->fds;
	size_t room = sizeof(fds->state), used;

	used = (size_t)snprintf(
	    fds->state, room,
	    "nic=%u host=%u first=%u tx=%u rx=%u htx=%u hrx=%u mem=%u kb=%u "
	    "hdr=%u ifindex=%u ext=%u pipe=%u flags=%u",
	    opening->nic, opening->host, opening->spec.ringid, first->nr_tx_rings,
	    first->nr_rx_rings, first->nr_host_tx_rings, first->nr_host_rx_rings, first->nr_mem_id,
	    (unsigned)(first->nr_memsize >> 10), opening->vnet_bytes, ifindex,
	    opening->memory ? 1 : 0, opening->spec.port.pipe ? 1 : 0, opening->flags);
	for (unsigned i = 0; i < opening->nic + opening->host && used < room; i++)
		used += (size_t)snprintf(fds->state + used, room - used, " o%u=%u", i,
					 (unsigned)opening->offset[i]);
	if (used >= room)
		return error_set(opening->err, EOVERFLOW, "%s: too many rings", opening->port);
	return 0;
}

static int open_everything(struct opening *opening)
{
	uint32_t ifindex = 0;
	int status = 0;

	if (opening->spec.file[0])
		status = memory_open(opening);
	if (!status)
		status = open_all_rings(opening);
	if (!status)
		status = open_interface(opening, &ifindex);
	if (!status && opening->memory) {
		opening->fds->fd[opening->fds->count++] = opening->memory_fd;
		opening->memory_fd = -1;
	}
	if (!status)
		status = open_journal(opening);
	if (status)
		return status;
	ask_header(opening);
	return describe(opening, ifindex);
}

int netmap_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	struct opening opening = {
	    .port = options->port,
	    .directory = port_option_text(options, "directory", NULL),
	    .fds = fds,
	    .err = err,
	    .version = NETMAP_API,
	    .memory_fd = -1,
	};
	int status;

	fds->count = 0;
	status = portspec_parse(port_option_text(options, "portspec", ""), &opening.spec, err);
	if (status)
		return status;
	/* poll(POLLIN) by who receives must not send for who fills the other ring */
	opening.flags = opening.spec.flags | NR_NO_TX_POLL | NR_ACCEPT_VNET_HDR;
	if ((opening.flags & NETMAP_MONITOR) == NR_ZCOPY_MON)
		opening.flags |= NR_MONITOR_TX | NR_MONITOR_RX;
	status = open_everything(&opening);
	if (opening.memory)
		munmap(opening.memory, opening.memory_bytes); /* the module holds its pages */
	if (!status)
		return 0;
	if (opening.memory_fd >= 0)
		close(opening.memory_fd);
	while (fds->count)
		close(fds->fd[--fds->count]);
	return status;
}
