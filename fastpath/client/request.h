/* A NIOCCTRL request in our own memory: copied in, served, copied out. */
#pragma once

#include "core.h"

enum { REQUEST_OPTIONS_MAX = 128 }; /* in a list; more of them is a loop */

union request_body {
	struct nmreq_register reg;
	struct nmreq_port_info_get info;
	struct nmreq_vale_attach attach;
	struct nmreq_vale_detach detach;
	struct nmreq_vale_list list;
	struct nmreq_port_hdr hdr;
	struct nmreq_vale_newif newif;
	struct nmreq_vale_polling polling;
	struct nmreq_pools_info pools;
	struct nmreq_sync_kloop_start kloop;
};

struct request_option {
	uint64_t at; /* the program's address */
	struct nmreq_option head;
};

struct request {
	struct nmreq_header header;
	union request_body body;
	unsigned options;
	struct request_option list[REQUEST_OPTIONS_MAX];
	/* where in the list, and the whole of it; NULL: not there */
	struct nmreq_option *extmem_head, *offsets_head, *csb_head;
	struct nmreq_opt_extmem extmem;
	struct nmreq_opt_offsets offsets;
};

/* request_copy.c. Errors are negative errnos. */
int request_copy_in(struct request *request, uint64_t user);
/* Returns `error`, or -EFAULT. */
int request_copy_out(struct request *request, uint64_t user, int error);

/* request.c: header.nr_reqtype, as if it came from the kernel's side. */
int request_serve(struct vsn_session *session, struct request *request);
