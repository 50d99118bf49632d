/*
 * Ports by name for programs that are linked with libvswitch-netmap.a: the functions of netmap's
 * own library (libnetmap), under their names and with its structures, so that a program built
 * against its header links with this instead. For programs that cannot be preloaded (static ones)
 * the archive also stands in front of the C library's open, ioctl, mmap, poll, select, epoll, dup
 * and close: link it before the C library.
 *
 *     cc -static program.c libvswitch-netmap.a -o program
 *
 *     nmport_open  = nmport_prepare            + nmport_open_desc
 *                  = nmport_new, nmport_parse  + nmport_register, nmport_mmap
 *
 * Portspecs: "vale0:p1", "vale0:p1{3", "vale0:p1-2/x@conf:rings=4" and so on; src/portspec.h has
 * the grammar. Functions that return an int return 0, or -1 with errno set and, where the context
 * is verbose, a sentence for its error(). Pointers are NULL then.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "netmap_abi.h"

#pragma GCC visibility push(default)

struct nmport_cleanup_d; /* in libnetmap a list, here the resources of a port's options */

/* A memory region that ports of this program have mapped. */
struct nmem_d {
	uint16_t mem_id;
	int refcount; /* ports that use it */
	void *mem;
	size_t size;
	int is_extmem; /* the program's own memory */
	struct nmem_d *next, *prev;
};

/* Where memory comes from and errors go to; regions are shared within a context. */
struct nmctx {
	int verbose; /* 0: errors are not told */
	void (*error)(struct nmctx *ctx, const char *sentence);
	void *(*malloc)(struct nmctx *ctx, size_t bytes);
	void (*free)(struct nmctx *ctx, void *memory);
	void (*lock)(struct nmctx *ctx, int lock); /* 1: lock, 0: unlock; NULL: one thread only */
	struct nmem_d *mem_descs;
};

struct nmport_d {
	/* the request; a program may edit it between nmport_prepare and nmport_open_desc */
	struct nmreq_header hdr;
	struct nmreq_register reg;
	/* what follows is to be read only */
	struct nmem_d *mem; /* the same for two ports: buffers can be swapped between them */
	struct nmctx *ctx;
	int register_done, mmap_done;
	struct nmreq_opt_extmem *extmem; /* in hdr's options, or NULL */
	int fd;				 /* of /dev/netmap, -1: not open */
	struct netmap_if *nifp;
	/* inclusive; last < first: none */
	uint16_t first_tx_ring, last_tx_ring, first_rx_ring, last_rx_ring;
	uint16_t cur_tx_ring; /* nmport_inject's */
	uint16_t cur_rx_ring;
	struct nmport_cleanup_d *clist;
};

struct nmport_d *nmport_open(const char *portspec);
void nmport_close(struct nmport_d *port); /* NULL is fine */
/* Copies a frame into the next tx ring with room; it leaves with the next sync. -1: all are full.
 */
int nmport_inject(struct nmport_d *port, const void *frame, size_t bytes);

struct nmport_d *nmport_new(void);
struct nmport_d *nmport_prepare(const char *portspec);
int nmport_parse(struct nmport_d *port, const char *portspec);
int nmport_register(struct nmport_d *port);
int nmport_mmap(struct nmport_d *port);
int nmport_open_desc(struct nmport_d *port);
/* Prepared as `port` was, in the same region, without its options. */
struct nmport_d *nmport_clone(struct nmport_d *port);

void nmport_delete(struct nmport_d *port);
void nmport_undo_parse(struct nmport_d *port);
void nmport_undo_prepare(struct nmport_d *port);
void nmport_undo_register(struct nmport_d *port);
void nmport_undo_mmap(struct nmport_d *port);
void nmport_undo_open_desc(struct nmport_d *port);

/* Options of the request, before nmport_register. */
int nmport_extmem(struct nmport_d *port, void *base, size_t bytes);
int nmport_extmem_from_file(struct nmport_d *port, const char *path);
struct nmreq_pools_info *nmport_extmem_getinfo(struct nmport_d *port); /* NULL: no extmem */
int nmport_offset(struct nmport_d *port, uint64_t initial, uint64_t most, uint64_t bits,
		  uint64_t min_gap);
/* Portspecs may or may not say "share", "extmem", "conf" and "offset" (this one: not, at first). */
void nmport_disable_option(const char *option);
int nmport_enable_option(const char *option);

void nmreq_header_init(struct nmreq_header *hdr, uint16_t type, void *body);
/* The part of a portspec that they understand; *text moves behind it. */
int nmreq_header_decode(const char **text, struct nmreq_header *hdr, struct nmctx *ctx);
int nmreq_register_decode(const char **text, struct nmreq_register *reg, struct nmctx *ctx);
/* The region of a port: its number, or -1. */
int32_t nmreq_get_mem_id(const char **text, struct nmctx *ctx);
void nmreq_push_option(struct nmreq_header *hdr, struct nmreq_option *option);
void nmreq_remove_option(struct nmreq_header *hdr, struct nmreq_option *option);
struct nmreq_option *nmreq_find_option(struct nmreq_header *hdr, uint32_t type);
void nmreq_free_options(struct nmreq_header *hdr);
const char *nmreq_option_name(uint32_t type);

struct nmctx *nmctx_get(void);
struct nmctx *nmctx_set_default(struct nmctx *ctx); /* the one before */
void nmctx_set_threadsafe(void);		    /* the first context is, from the beginning */
void nmctx_ferror(struct nmctx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *nmctx_malloc(struct nmctx *ctx, size_t bytes);
void nmctx_free(struct nmctx *ctx, void *memory);
void nmctx_lock(struct nmctx *ctx);
void nmctx_unlock(struct nmctx *ctx);
extern int nmctx_threadsafe; /* libnetmap's header refers to it */

#pragma GCC visibility pop
