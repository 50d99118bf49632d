/* Requests of nmport.h: headers, lists of options, and the parts of a portspec. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "nmport.h"
#include "portspec.h"

void nmreq_header_init(struct nmreq_header *hdr, uint16_t type, void *body)
{
	*hdr = (struct nmreq_header){
	    .nr_version = NETMAP_API, .nr_reqtype = type, .nr_body = (uintptr_t)body};
}

/* --- options ---------------------------------------------------------------------------------- */

static struct nmreq_option *at(uint64_t address)
{
	return (struct nmreq_option *)(uintptr_t)address;
}

void nmreq_push_option(struct nmreq_header *hdr, struct nmreq_option *option)
{
	option->nro_next = hdr->nr_options;
	hdr->nr_options = (uintptr_t)option;
}

void nmreq_remove_option(struct nmreq_header *hdr, struct nmreq_option *option)
{
	uint64_t *link = &hdr->nr_options;
	while (*link && at(*link) != option)
		link = &at(*link)->nro_next;
	if (*link)
		*link = option->nro_next;
	option->nro_next = 0;
}

struct nmreq_option *nmreq_find_option(struct nmreq_header *hdr, uint32_t type)
{
	struct nmreq_option *option = at(hdr->nr_options);
	while (option && option->nro_reqtype != type)
		option = at(option->nro_next);
	return option;
}

void nmreq_free_options(struct nmreq_header *hdr)
{
	while (hdr->nr_options) {
		struct nmreq_option *option = at(hdr->nr_options);
		hdr->nr_options = option->nro_next;
		nmctx_free(nmctx_get(), option);
	}
}

const char *nmreq_option_name(uint32_t type)
{
	switch (type) {
	case NETMAP_REQ_OPT_EXTMEM:
		return "extmem";
	case NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS:
		return "sync-kloop-eventfds";
	case NETMAP_REQ_OPT_CSB:
		return "csb";
	case NETMAP_REQ_OPT_SYNC_KLOOP_MODE:
		return "sync-kloop-mode";
	case NETMAP_REQ_OPT_OFFSETS:
		return "offsets";
	default:
		return "unknown";
	}
}

/* --- parts of a portspec ---------------------------------------------------------------------- */

/* Where the name ends: before rings, flags, region and options. A VALE switch's id has no such. */
static size_t name_bytes(const char *text)
{
	return strcspn(text, "-*^/@");
}

static int parse(const char *text, size_t bytes, const char *before, struct portspec *spec,
		 struct nmctx *ctx)
{
	char whole[PORTSPEC_MAX];
	struct error err = {0};
	size_t prefix = strlen(before);
	if (prefix + bytes >= sizeof whole) {
		nmctx_ferror(ctx, "%s: too long", text);
		errno = EINVAL;
		return -1;
	}
	memcpy(whole, before, prefix);
	memcpy(whole + prefix, text, bytes);
	whole[prefix + bytes] = 0;
	int error = portspec_parse(whole, spec, &err);
	if (!error)
		return 0;
	nmctx_ferror(ctx, "%s: %s", whole, err.message);
	errno = -error;
	return -1;
}

int nmreq_header_decode(const char **text, struct nmreq_header *hdr, struct nmctx *ctx)
{
	struct portspec spec;
	size_t bytes = name_bytes(*text);
	if (parse(*text, bytes, "", &spec, ctx))
		return -1;
	memcpy(hdr->nr_name, spec.port.name, sizeof hdr->nr_name);
	*text += bytes;
	return 0;
}

/* Up to an '@' that no number follows: the options begin there. */
static size_t register_bytes(const char *text)
{
	size_t bytes = strcspn(text, "@");
	size_t digits = text[bytes] == '@' ? strspn(text + bytes + 1, "0123456789") : 0;
	return digits ? bytes + 1 + digits : bytes;
}

int nmreq_register_decode(const char **text, struct nmreq_register *reg, struct nmctx *ctx)
{
	struct portspec spec;
	size_t bytes = register_bytes(*text);
	/* the name is not known here, and says nothing about what follows it */
	if (parse(*text, bytes, "netmap:x", &spec, ctx))
		return -1;
	reg->nr_mode = spec.mode;
	reg->nr_ringid = spec.ringid;
	reg->nr_flags = spec.flags;
	if (spec.mem_id)
		reg->nr_mem_id = spec.mem_id;
	*text += bytes;
	return 0;
}

int32_t nmreq_get_mem_id(const char **text, struct nmctx *ctx)
{
	struct nmreq_port_info_get info = {0};
	struct nmreq_header hdr;
	const char *rest = *text;
	nmreq_header_init(&hdr, NETMAP_REQ_PORT_INFO_GET, &info);
	if (nmreq_header_decode(&rest, &hdr, ctx))
		return -1;
	int fd = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);
	int result = fd < 0 ? -1 : ioctl(fd, NIOCCTRL, &hdr);
	int error = errno;
	if (fd >= 0)
		close(fd);
	errno = error;
	if (result < 0) {
		nmctx_ferror(ctx, "%s: %s", fd < 0 ? NETMAP_DEVICE : hdr.nr_name, strerror(error));
		return -1;
	}
	*text = rest;
	return info.nr_mem_id;
}
