/* NIOCCTRL and the requests of old, against a switch of the tests' own: answers, options, errors.
 */
#include "netmap_program.h"

#include <errno.h>
#include <sys/mman.h>

#include "../support/netmap_switch.h"
#include "client_wire.h"

static struct netmap_switch *sw;

static struct program unbound(void)
{
	struct program p = {.fd = vsn_open(true)};

	CHECK(p.fd >= 0);
	p.session = vsn_find(p.fd, false);
	return p;
}

static int header_result(struct program *p, struct nmreq_header header)
{
	return vsn_ioctl(p->session, NIOCCTRL, &header);
}

static void test_versions(void)
{
	struct program p = unbound();
	struct nmreq_port_info_get info;

	for (unsigned version = 12; version <= 17; version++) {
		struct nmreq_header header = {.nr_version = (uint16_t)version,
					      .nr_reqtype = NETMAP_REQ_PORT_INFO_GET,
					      .nr_name = "vale0:a",
					      .nr_body = (uintptr_t)&info};
		int expected = version == 14 || version == 15 ? 0 : -EINVAL;

		memset(&info, 0, sizeof(info));
		CHECK(vsn_ioctl(p.session, NIOCCTRL, &header) == expected);
		CHECK(header.nr_version == version);
	}
	program_close(&p);
}

static void test_bad_addresses(void)
{
	struct program p = unbound();
	struct nmreq_register reg = {.nr_mode = NR_REG_ALL_NIC};
	struct nmreq_header header = {
	    .nr_version = NETMAP_API, .nr_reqtype = NETMAP_REQ_REGISTER, .nr_name = "vale0:a"};
	void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(vsn_ioctl(p.session, NIOCCTRL, NULL) == -EFAULT);
	CHECK(vsn_ioctl(p.session, NIOCCTRL, (void *)(uintptr_t)8) == -EFAULT);
	CHECK(vsn_ioctl(p.session, NIOCREGIF, (void *)(uintptr_t)8) == -EFAULT);
	CHECK(header_result(&p, header) == -EINVAL); /* no body */
	header.nr_body = 4096;
	CHECK(header_result(&p, header) == -EFAULT);
	header.nr_body = (uintptr_t)&reg;
	header.nr_options = 4096;
	CHECK(header_result(&p, header) == -EFAULT);
	header.nr_options = 0;
	header.nr_reserved = 1;
	CHECK(header_result(&p, header) == -EINVAL);
	header.nr_reserved = 0;
	header.nr_reqtype = NETMAP_REQ_PORT_INFO_GET;
	header.nr_body = (uintptr_t)page; /* read only: the answer cannot be written */
	CHECK(header_result(&p, header) == -EFAULT);
	munmap(page, 4096);
	program_close(&p);
}

static void test_requests_not_served(void)
{
	static const struct {
		unsigned type;
		bool body;
		int error;
	} cases[] = {
	    {NETMAP_REQ_VALE_ATTACH, true, -EOPNOTSUPP},
	    {NETMAP_REQ_VALE_DETACH, true, -ENXIO},
	    {NETMAP_REQ_VALE_NEWIF, true, -EOPNOTSUPP},
	    {NETMAP_REQ_VALE_DELIF, false, -ENXIO},
	    {NETMAP_REQ_VALE_DELIF, true, -EINVAL},
	    {NETMAP_REQ_VALE_POLLING_ENABLE, true, -EOPNOTSUPP},
	    {NETMAP_REQ_VALE_POLLING_DISABLE, true, -EOPNOTSUPP},
	    {NETMAP_REQ_SYNC_KLOOP_START, true, -EOPNOTSUPP},
	    {NETMAP_REQ_SYNC_KLOOP_STOP, false, -ENXIO},
	    {NETMAP_REQ_CSB_ENABLE, false, -EINVAL},
	    {99, false, -EINVAL},
	};
	struct program p = unbound();
	uint8_t body[64] = {0};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		CHECK(program_ask(&p, cases[i].type, "vale0:a", cases[i].body ? body : NULL,
				  NULL) == cases[i].error);
	CHECK(vsn_ioctl(p.session, 0x5421, body) == -EOPNOTSUPP);
	CHECK(program_sync(&p, NIOCTXSYNC) == -ENXIO);
	CHECK(program_sync(&p, NIOCRXSYNC) == -ENXIO);
	CHECK(vsn_poll(p.session, POLLIN) == POLLERR);
	CHECK(vsn_mmap(p.session, NULL, 4096, PROT_READ, MAP_SHARED, 0, &p.memory) == -EINVAL);
	p.memory = NULL;
	program_close(&p);
}

static void test_register_errors(void)
{
	struct program p = unbound();

	for (unsigned mode = 0; mode <= 9; mode++) {
		struct nmreq_register reg = {.nr_mode = mode};

		if (mode == NR_REG_ALL_NIC || mode == NR_REG_ONE_NIC)
			continue;
		CHECK(program_ask(&p, NETMAP_REQ_REGISTER, "vale0:a", &reg, NULL) == -EINVAL);
	}
	p.reg = (struct nmreq_register){.nr_mode = NR_REG_ONE_NIC, .nr_ringid = 1};
	CHECK(program_register(&p, "vale0:a", NULL) == -EINVAL);
	p.reg = (struct nmreq_register){.nr_mem_id = 999};
	CHECK(program_register(&p, "vale0:a", NULL) == -EINVAL);
	p.reg = (struct nmreq_register){0};
	CHECK(program_register(&p, "eth0", NULL) == -ENXIO);
	/* none of it has used the fd up */
	p.reg = (struct nmreq_register){0};
	CHECK(program_register(&p, "vale0:a", NULL) == 0);
	CHECK(program_register(&p, "vale0:b", NULL) == -EBUSY);
	CHECK(netmap_switch_settles(sw, 1));
	program_close(&p);
}

/* A list that is too long for the module, which keeps a pointer for each of them. */
static void test_many_options(struct program *p)
{
	enum { MANY = 100 };
	static struct nmreq_option list[MANY];

	memset(list, 0, sizeof(list));
	for (unsigned i = 0; i + 1 < MANY; i++) {
		list[i].nro_reqtype = NETMAP_REQ_OPT_MAX;
		list[i].nro_next = (uintptr_t)&list[i + 1];
	}
	list[MANY - 1].nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS;
	list[MANY - 1].nro_size = 1000;
	CHECK(program_register(p, "vale0:a", list) == -EMSGSIZE);
	list[MANY - 1].nro_size = sizeof(list[0]);
	CHECK(program_register(p, "vale0:a", list) == -EOPNOTSUPP);
}

static void test_options(void)
{
	struct nmreq_option unknown = {.nro_reqtype = 77};
	struct nmreq_option loop = {.nro_reqtype = 77};
	struct nmreq_opt_csb csb = {.nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_CSB}};
	struct nmreq_opt_csb again = csb;
	struct nmreq_option nothing = {.nro_reqtype = 0};
	struct program p = unbound();

	CHECK(program_register(&p, "vale0:a", &unknown) == -EOPNOTSUPP);
	CHECK(unknown.nro_status == EOPNOTSUPP);
	CHECK(program_register(&p, "vale0:a", &csb) == -EOPNOTSUPP);
	CHECK(csb.nro_opt.nro_status == EOPNOTSUPP);
	csb.nro_opt.nro_next = (uintptr_t)&again;
	CHECK(program_register(&p, "vale0:a", &csb) == -EINVAL);
	CHECK(csb.nro_opt.nro_status == EINVAL && again.nro_opt.nro_status == EINVAL);
	CHECK(program_register(&p, "vale0:a", &nothing) == -EINVAL);
	test_many_options(&p);
	loop.nro_next = (uintptr_t)&loop;
	CHECK(program_register(&p, "vale0:a", &loop) == -EMSGSIZE);
	CHECK(netmap_switch_settles(sw, 0));
	CHECK(program_ask(&p, NETMAP_REQ_CSB_ENABLE, "", NULL, &again) == -EOPNOTSUPP);
	program_close(&p);
}

static void test_questions(void)
{
	struct program p, q = unbound();
	struct nmreq_port_info_get info = {0};
	struct nmreq_pools_info pools = {0};
	struct nmreq_vale_list list = {0};
	struct nmreq_header header = {.nr_version = NETMAP_API,
				      .nr_reqtype = NETMAP_REQ_VALE_LIST,
				      .nr_body = (uintptr_t)&list};

	CHECK(program_open(&p, "vale0:a", (struct nmreq_register){.nr_tx_rings = 2}) == 0);
	CHECK(program_ask(&p, NETMAP_REQ_PORT_INFO_GET, "vale0:a", &info, NULL) == 0);
	CHECK(info.nr_tx_rings == 2 && info.nr_rx_rings == 1 && info.nr_tx_slots == 1024);
	CHECK(info.nr_memsize == p.reg.nr_memsize && info.nr_mem_id == p.reg.nr_mem_id);
	info = (struct nmreq_port_info_get){0};
	CHECK(program_ask(&q, NETMAP_REQ_PORT_INFO_GET, "vale0:new", &info, NULL) == 0);
	CHECK(info.nr_memsize == 42369024 && info.nr_tx_rings == 1);
	CHECK(program_ask(&q, NETMAP_REQ_PORT_INFO_GET, "eth0", &info, NULL) == -ENXIO);
	CHECK(program_ask(&q, NETMAP_REQ_PORT_INFO_GET, "", &info, NULL) == -EINVAL);
	CHECK(program_ask(&p, NETMAP_REQ_POOLS_INFO_GET, "vale0:a", &pools, NULL) == 0);
	CHECK(pools.nr_memsize == p.reg.nr_memsize && pools.nr_if_pool_offset == 0);
	CHECK(pools.nr_buf_pool_objsize == 2048 && pools.nr_ring_pool_objsize == 5 * 4096);
	CHECK(pools.nr_buf_pool_offset ==
	      pools.nr_ring_pool_offset + (uint64_t)pools.nr_ring_pool_objtotal * 5 * 4096);
	CHECK(vsn_ioctl(q.session, NIOCCTRL, &header) == 0);
	CHECK(strcmp(header.nr_name, "vale0:a") == 0 && list.nr_port_idx == 0);
	list.nr_port_idx = 1;
	header.nr_name[0] = 0;
	CHECK(vsn_ioctl(q.session, NIOCCTRL, &header) == -ENOENT);
	CHECK(program_ask(&q, NETMAP_REQ_VALE_LIST, "vale0:none", &list, NULL) == 0);
	CHECK(list.nr_port_idx == 255);
	CHECK(program_ask(&q, NETMAP_REQ_VALE_LIST, "eth0", &list, NULL) == -EINVAL);
	program_close(&p);
	program_close(&q);
}

static void test_header_requests(void)
{
	struct nmreq_port_hdr hdr = {.nr_hdr_len = 12};
	struct program p, q = unbound();

	CHECK(program_ask(&q, NETMAP_REQ_PORT_HDR_SET, "vale0:a", &hdr, NULL) == -ENXIO);
	CHECK(program_open(&p, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_ask(&q, NETMAP_REQ_PORT_HDR_SET, "vale0:a", &hdr, NULL) == 0);
	hdr.nr_hdr_len = 0;
	CHECK(program_ask(&q, NETMAP_REQ_PORT_HDR_GET, "vale0:a", &hdr, NULL) == 0);
	CHECK(hdr.nr_hdr_len == 12);
	hdr.nr_hdr_len = 11;
	CHECK(program_ask(&q, NETMAP_REQ_PORT_HDR_SET, "vale0:a", &hdr, NULL) == -EINVAL);
	/* who does not expect headers does not get them */
	CHECK(program_register(&q, "vale0:a", NULL) == -EIO);
	q.reg = (struct nmreq_register){.nr_flags = NR_ACCEPT_VNET_HDR};
	CHECK(program_register(&q, "vale0:a", NULL) == 0);
	program_close(&p);
	program_close(&q);
}

static void test_offsets_option(void)
{
	struct nmreq_opt_offsets offsets = {.nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_OFFSETS},
					    .nro_max_offset = 4096};
	struct program p = unbound();

	CHECK(program_register(&p, "vale0:a", &offsets) == -EINVAL);
	CHECK(offsets.nro_opt.nro_status == EINVAL);
	CHECK(netmap_switch_settles(sw, 0));
	offsets.nro_max_offset = 128;
	offsets.nro_initial_offset = 64;
	offsets.nro_offset_bits = 8;
	CHECK(program_register(&p, "vale0:b", &offsets) == 0);
	CHECK(program_tx(&p, 0)->offset_mask == 0xff && program_tx(&p, 0)->slot[5].ptr == 64);
	CHECK(offsets.nro_opt.nro_status == 0 && offsets.nro_max_offset == 128);
	program_close(&p);
}

static void test_extmem(void)
{
	enum { BYTES = 4 << 20 };
	void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct nmreq_opt_extmem option = {.nro_opt = {.nro_reqtype = NETMAP_REQ_OPT_EXTMEM},
					  .nro_usrptr = (uintptr_t)memory,
					  .nro_info = {.nr_memsize = BYTES,
						       .nr_ring_pool_objsize = 20480,
						       .nr_buf_pool_objtotal = 8192}};
	struct program p = unbound();

	p.reg = (struct nmreq_register){
	    .nr_mode = NR_REG_ALL_NIC, .nr_tx_slots = 256, .nr_rx_slots = 256};
	CHECK(program_ask(&p, NETMAP_REQ_REGISTER, "vale0:x", &p.reg, &option) == -ENOMEM);
	CHECK(option.nro_opt.nro_status == ENOMEM);
	option.nro_info.nr_buf_pool_objtotal = 1024;
	CHECK(program_ask(&p, NETMAP_REQ_REGISTER, "vale0:x", &p.reg, &option) == 0);
	CHECK(option.nro_opt.nro_status == 0 && p.reg.nr_memsize == BYTES);
	p.nifp = (void *)((uint8_t *)memory + p.reg.nr_offset);
	CHECK(strcmp(p.nifp->ni_name, "vale0:x") == 0 && program_tx(&p, 0)->num_slots == 256);
	CHECK(program_put(program_tx(&p, 0), "\xff\xff\xff\xff\xff\xff\2\0\0\0\0\1\x8\0", 14, 0));
	CHECK(program_sync(&p, NIOCTXSYNC) == 0);
	program_close(&p);
	munmap(memory, BYTES);
}

/* --- the requests of old --- */

static void test_legacy(void)
{
	struct nmreq old = {.nr_version = 11, .nr_name = "vale0:a"};
	struct program p = unbound(), q = unbound();

	CHECK(vsn_ioctl(p.session, NIOCREGIF, &old) == -EINVAL);
	old.nr_version = NETMAP_API;
	CHECK(vsn_ioctl(p.session, NIOCGINFO, &old) == 0);
	CHECK(old.nr_memsize == 42369024 && old.nr_tx_rings == 1);
	old = (struct nmreq){.nr_version = NETMAP_API, .nr_name = "vale0:a", .nr_arg3 = 5};
	CHECK(vsn_ioctl(p.session, NIOCREGIF, &old) == 0);
	CHECK(old.nr_arg3 == 5 && old.nr_arg2 >= 2 && old.nr_rx_slots == 1024);
	old = (struct nmreq){
	    .nr_version = NETMAP_API, .nr_name = "vale0:a", .nr_cmd = NETMAP_BDG_LIST};
	CHECK(vsn_ioctl(p.session, NIOCGINFO, &old) == 0 && old.nr_arg2 == 0);
	old = (struct nmreq){.nr_version = NETMAP_API,
			     .nr_name = "vale0:a",
			     .nr_cmd = NETMAP_BDG_VNET_HDR,
			     .nr_arg1 = 10};
	CHECK(vsn_ioctl(p.session, NIOCREGIF, &old) == 0);
	old.nr_cmd = NETMAP_VNET_HDR_GET;
	old.nr_arg1 = 0;
	CHECK(vsn_ioctl(p.session, NIOCREGIF, &old) == 0 && old.nr_arg1 == 10);
	old = (struct nmreq){.nr_version = NETMAP_API,
			     .nr_name = "vale0:b",
			     .nr_flags = NR_REG_PIPE_SLAVE,
			     .nr_ringid = 7 | NETMAP_NO_TX_POLL};
	CHECK(vsn_ioctl(q.session, NIOCREGIF, &old) == 0);
	CHECK(strcmp(netmap_switch_last(sw, CLIENT_REGISTER).name, "vale0:b}7") == 0);
	CHECK(netmap_switch_last(sw, CLIENT_REGISTER).flags & NR_NO_TX_POLL);
	old = (struct nmreq){
	    .nr_version = NETMAP_API, .nr_name = "vale0:c", .nr_ringid = NETMAP_SW_RING};
	CHECK(vsn_ioctl(q.session, NIOCREGIF, &old) == -EBUSY);
	CHECK(vsn_ioctl(q.session, NIOCCONFIG, &old) == -EOPNOTSUPP);
	program_close(&p);
	program_close(&q);
}

/* Rings and buffers in another port's region, and nobody at their other end. */
static void test_no_port(void)
{
	struct nmreq_register nothing = {
	    .nr_mode = NR_REG_NULL, .nr_tx_rings = 3, .nr_rx_rings = 2, .nr_extra_bufs = 8};
	struct program port, null;

	CHECK(program_open(&null, "x", nothing) == -EINVAL); /* in which region? */
	program_close(&null);
	CHECK(program_open(&port, "vale0:a", (struct nmreq_register){0}) == 0);
	nothing.nr_mem_id = port.reg.nr_mem_id;
	nothing.nr_tx_slots = 16;
	CHECK(program_open(&null, "vale0:a", nothing) == 0);
	CHECK(null.reg.nr_mem_id == port.reg.nr_mem_id);
	CHECK(null.reg.nr_memsize == port.reg.nr_memsize && null.reg.nr_extra_bufs == 8);
	CHECK(null.reg.nr_tx_rings == 3 && null.reg.nr_rx_rings == 2 && null.reg.nr_tx_slots == 16);
	CHECK(program_put(program_tx(&null, 2), "x", 1, 0));
	CHECK(program_sync(&null, NIOCTXSYNC) == 0 && program_sync(&null, NIOCRXSYNC) == 0);
	CHECK(program_poll(&null, POLLIN, 10) == 0);
	CHECK(program_poll(&null, POLLOUT, 10) == POLLOUT);
	program_close(&null);
	nothing = (struct nmreq_register){.nr_mode = NR_REG_NULL, .nr_mem_id = port.reg.nr_mem_id};
	CHECK(program_open(&null, "x", nothing) == 0);
	CHECK(null.reg.nr_tx_rings == 0 && null.reg.nr_rx_rings == 0);
	CHECK(program_sync(&null, NIOCTXSYNC) == 0);
	program_close(&null);
	program_close(&port);
}

int main(void)
{
	sw = netmap_switch_start();
	test_versions();
	test_bad_addresses();
	test_requests_not_served();
	test_register_errors();
	test_options();
	test_questions();
	test_header_requests();
	test_offsets_option();
	test_extmem();
	test_legacy();
	test_no_port();
	netmap_switch_stop(sw);
	return check_result();
}
