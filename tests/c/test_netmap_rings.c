/*
 * netmap ports: which rings a portspec opens and who owns them, host rings, chains, full rings,
 * headers, interfaces that go, and rings whose other user is not to be trusted.
 */
#include <errno.h>
#include <fcntl.h>

#include "netmap_ports.h"

enum { SLOTS = 64, ROOM = 70000 };

static struct np a, b;
static uint8_t bytes[ROOM], got[ROOM];
static const uint8_t host_mac[6] = {2, 0, 0, 0, 0xaa, 1};

static const struct fake_shape nic = {
    .rings = 4, .host_rings = 2, .slots = SLOTS, .mem_id = 1, .mtu = 1500};
static const struct fake_shape single = {
    .rings = 1, .host_rings = 1, .slots = SLOTS, .mem_id = 1, .mtu = 1500};
static const struct fake_shape vale = {.rings = 1, .slots = SLOTS, .mem_id = 5};

static void begin(const char *name, const struct fake_shape *shape)
{
	fake_reset();
	fake_adapter(name, shape);
}

static void end(void)
{
	np_check_faults();
}

/* How many rings a portspec owns: receive, transmit, of the NIC and of its host. */
static void owns(const char *portspec, unsigned rx, unsigned tx, unsigned host_rx, unsigned host_tx)
{
	unsigned have[2][2] = {{0}};

	begin("eth0", &nic);
	np_open(&a, portspec);
	for (unsigned host = 0; host < 2; host++) {
		for (unsigned i = 0; i < (host ? nic.host_rings : nic.rings); i++) {
			for (unsigned t = 0; t < 2; t++) {
				unsigned owners = fake_owners("eth0", host, i, t);

				CHECK(owners <= 1);
				have[host][t] += owners;
			}
		}
	}
	if (!CHECK(have[0][0] == rx && have[0][1] == tx && have[1][0] == host_rx &&
		   have[1][1] == host_tx))
		fprintf(stderr, "  %s\n", portspec);
	CHECK(a.port.rx_queue_count == rx + host_rx);
	np_close(&a);
	end();
}

static void test_N8_each_ring_has_one_owner(void)
{
	owns("netmap:eth0", 4, 4, 0, 0);
	owns("netmap:eth0*", 4, 4, 2, 2);
	owns("netmap:eth0^", 0, 0, 2, 2);
	owns("netmap:eth0^1", 0, 0, 1, 1);
	owns("netmap:eth0-3", 1, 1, 0, 0);
	owns("netmap:eth0/R", 4, 0, 0, 0);
	owns("netmap:eth0-2/T", 0, 1, 0, 0);
}

static void test_N8_queues_are_rings(void)
{
	uint32_t len = np_frame(bytes, 1, 60);

	begin("eth0", &nic);
	np_open(&a, "netmap:eth0");
	for (unsigned ring = 0; ring < nic.rings; ring++) {
		CHECK(fake_put("eth0", false, ring, bytes, len + ring));
		for (unsigned q = 0; q < nic.rings; q++)
			CHECK(np_rx(&a, q) == (q == ring));
		CHECK(a.batch[0].len == 0 || a.batch[0].len == len + ring);
		np_done(&a, ring);
		CHECK(np_send(&a, ring, bytes, 70 + ring).sent == 1);
		CHECK(fake_take("eth0", false, ring, got, ROOM) == (int)(70 + ring));
	}
	np_close(&a);
	end();
}

static void test_exclusive_and_flags(void)
{
	struct error err;

	begin("eth0", &nic);
	np_open(&a, "netmap:eth0-1/x");
	CHECK(fake_last_flags() & NR_EXCLUSIVE);
	CHECK(fake_last_flags() & NR_NO_TX_POLL);
	CHECK(np_acquire(&b, "netmap:eth0-1", &err) == -EBUSY && !strcmp(err.name, "PORT_BUSY"));
	CHECK(np_acquire(&b, "netmap:eth0-2", &err) == 0);
	while (b.fds.count)
		close(b.fds.fd[--b.fds.count]);
	np_close(&a);
	end();
}

static void test_refusals_leave_nothing_open(void)
{
	static const struct {
		const char *portspec, *name;
		int status;
	} rows[] = {
	    {"netmap:eth9", "IFACE_NOT_FOUND", -ENXIO},
	    {"netmap:eth0-4", "", -EINVAL},
	    {"netmap:eth0^2", "", -EINVAL},
	    {"netmap:eth0-", "", -EINVAL},
	    {"netmap:eth0@7", "", -EINVAL},
	    {"netmap:eth0@share=netmap:eth9", "", -ENXIO},
	    {"netmap:eth0@extmem=/tmp/x", "FILE_DENIED", -EINVAL},
	};
	struct error err;
	unsigned before;

	fake_reset();
	before = np_descriptors();
	begin("eth0", &nic);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!CHECK(np_acquire(&a, rows[i].portspec, &err) == rows[i].status) ||
		    !CHECK(strcmp(err.name, rows[i].name) == 0))
			fprintf(stderr, "  %s: %s %s\n", rows[i].portspec, err.name, err.message);
		CHECK(a.fds.count == 0 && err.message[0]);
	}
	fake_reset();
	CHECK(np_descriptors() == before);
}

/* Files of @extmem: plain ones of the keeper's directory, and no other. */
static void test_extmem_stays_in_its_directory(void)
{
	static const char *const bad[] = {"/etc/passwd", "%s/../x", "%s/sub/x", "%s",
					  "%s/.",	 "%s/..",   "%s/link",	"%s/empty"};
	char directory[] = "/tmp/test-netmap-XXXXXX", link[64], empty[64];

	if (!CHECK(mkdtemp(directory) != NULL))
		return;
	snprintf(link, sizeof(link), "%s/link", directory);
	snprintf(empty, sizeof(empty), "%s/empty", directory);
	CHECK(symlink("/etc/passwd", link) == 0);
	close(open(empty, O_RDWR | O_CREAT, 0600));
	begin("eth0", &nic);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char file[64], portspec[128];
		struct port_option items[] = {{"directory", directory}, {"portspec", portspec}};
		struct port_options options = {.port = "p", .items = items, .count = 2};
		struct error err = {0};

		snprintf(file, sizeof(file), bad[i], directory);
		snprintf(portspec, sizeof(portspec), "netmap:eth0@extmem=%s", file);
		CHECK(port_acquire("netmap", &options, &a.fds, &err) < 0);
		CHECK(a.fds.count == 0 && strstr(err.message, file));
	}
	CHECK(unlink(link) == 0 && unlink(empty) == 0 && rmdir(directory) == 0);
	end();
}

static void test_N6_promiscuous_as_long_as_the_port_is_there(void)
{
	begin("eth0", &nic);
	np_open(&a, "netmap:eth0");
	CHECK(fake_promiscuous("eth0"));
	np_close(&a);
	CHECK(!fake_promiscuous("eth0"));
	np_open(&a, "netmap:eth0^"); /* the host sends what it likes */
	CHECK(!fake_promiscuous("eth0"));
	np_close(&a);
	end();
}

/* --- one way only ---------------------------------------------------------------------------- */

static void test_ports_that_only_receive(void)
{
	static const char *const specs[] = {"netmap:eth0/R", "netmap:eth0/rz", "netmap:eth0/t"};

	for (unsigned i = 0; i < 3; i++) {
		begin("eth0", &single);
		np_open(&a, specs[i]);
		CHECK(fake_put("eth0", false, 0, bytes, np_frame(bytes, 5, 99)));
		CHECK(np_rx(&a, 0) == 1 && a.batch[0].len == 99);
		np_done(&a, 0);
		CHECK(np_send(&a, 0, bytes, 60).drops[DROP_RECEIVE_ONLY] == 1);
		np_close(&a);
		end();
	}
	begin("eth0", &single);
	np_open(&a, "netmap:eth0/z"); /* both directions */
	CHECK((fake_last_flags() & NETMAP_MONITOR) == NETMAP_MONITOR);
	np_close(&a);
}

/* --- chains, headers ------------------------------------------------------------------------- */

static void test_frames_of_several_slots(void)
{
	static const uint32_t lengths[] = {2047, 2048, 2049, 4096, 9014, 64 * 1024};

	begin("vale0:p1", &vale);
	np_open(&a, "vale0:p1");
	for (unsigned i = 0; i < 6; i++) {
		uint32_t len = np_frame(bytes, i, lengths[i]), at = 0;

		CHECK(fake_put("vale0:p1", false, 0, bytes, len));
		CHECK(np_rx(&a, 0) == 1 && a.batch[0].frame_len == len);
		for (const struct frame *f = &a.batch[0]; f; at += f->len, f = f->next)
			CHECK(memcmp(bytes + at, f->data, f->len) == 0);
		CHECK(at == len);
		CHECK(np_tx(&a, 0, &a, 0, 1).sent == 1);
		np_done(&a, 0);
		CHECK(fake_take("vale0:p1", false, 0, got, ROOM) == (int)len);
		CHECK(memcmp(bytes, got, len) == 0);
	}
	np_close(&a);
	end();
	/* an interface whose MTU fits a buffer was never asked whether it knows chains */
	begin("eth0", &single);
	np_open(&a, "netmap:eth0*");
	CHECK(np_send(&a, 0, bytes, np_frame(bytes, 1, 2048)).sent == 1);
	CHECK(np_send(&a, 0, bytes, np_frame(bytes, 1, 2049)).drops[DROP_TOO_BIG] == 1);
	np_close(&a);
	end();
}

static void test_virtio_net_headers(void)
{
	const struct frame_offload offload = {.flags = FRAME_CSUM_NEEDED,
					      .gso_type = FRAME_GSO_TCPV4,
					      .gso_size = 1448,
					      .csum_start = 34,
					      .csum_offset = 16};

	for (unsigned header = 10; header <= 12; header += 2) {
		struct fake_shape shape = vale;

		shape.vnet_bytes = header;
		begin("vale0:p1", &shape);
		np_open(&a, "vale0:p1");
		CHECK(a.port.caps & PORT_CAP_TSO4);
		memset(bytes, 0, header);
		memcpy(bytes, &offload, sizeof(offload));
		np_frame(bytes + header, 3, 5000);
		CHECK(fake_put("vale0:p1", false, 0, bytes, header + 5000));
		CHECK(np_rx(&a, 0) == 1 && a.batch[0].frame_len == 5000);
		CHECK(memcmp(&a.batch[0].offload, &offload, sizeof(offload)) == 0);
		CHECK(memcmp(a.batch[0].data, bytes + header, 60) == 0);
		CHECK(np_tx(&a, 0, &a, 0, 1).sent == 1);
		np_done(&a, 0);
		CHECK(fake_take("vale0:p1", false, 0, got, ROOM) == (int)(header + 5000));
		CHECK(memcmp(bytes, got, header + 5000) == 0);
		CHECK(fake_put("vale0:p1", false, 0, bytes, header - 1)); /* no whole header */
		CHECK(np_rx(&a, 0) == 0 && a.cell.rx_drops[DROP_MALFORMED] == 1);
		np_close(&a);
		end();
	}
}

/* --- rings that are full, interfaces that go ------------------------------------------------- */

static void test_a_full_ring_waits_and_then_says_so(void)
{
	struct tx_report report;
	unsigned sent = 0;
	uint64_t before;

	begin("eth0", &single);
	np_open(&a, "netmap:eth0");
	while ((report = np_send(&a, 0, bytes, np_frame(bytes, sent, 100))).sent)
		sent++;
	CHECK(sent == SLOTS - 1);
	CHECK(report.drops[DROP_QUEUE_FULL] == 1);
	before = now_ms();
	CHECK(np_send(&a, 0, bytes, 100).drops[DROP_QUEUE_FULL] == 1);
	CHECK(now_ms() - before < 1000); /* bounded: a loaded machine keeps this, too */
	for (unsigned i = 0; i < sent; i++) {
		CHECK(fake_take("eth0", false, 0, got, ROOM) == 100);
		np_frame(bytes, i, 100);
		CHECK(memcmp(bytes, got, 100) == 0);
	}
	CHECK(np_send(&a, 0, bytes, 100).sent == 1);
	np_close(&a);
	end();
}

static void test_an_interface_that_goes(void)
{
	struct port_status status = {0};

	begin("eth0", &single);
	np_open(&a, "netmap:eth0");
	a.port.ops->poll_status(&a.port, &status);
	CHECK(status.link_up && !status.lost && status.mtu == 1500 && status.ifindex);
	CHECK(strstr(status.detail, "region 1") && strstr(status.detail, "1 ring pair"));
	fake_link("eth0", false);
	a.port.ops->poll_status(&a.port, &status);
	CHECK(!status.link_up && !status.lost);
	fake_gone("eth0");
	a.port.ops->poll_status(&a.port, &status);
	CHECK(status.lost);
	CHECK(np_rx(&a, 0) == -ENETDOWN);
	CHECK(np_send(&a, 0, bytes, 60).drops[DROP_LINK_DOWN] == 1);
	np_close(&a);
}

/* --- NIC and host together ------------------------------------------------------------------- */

static void address(uint8_t *frame, uint8_t last)
{
	memcpy(frame, host_mac, 6);
	frame[5] = last;
}

/* Where a frame goes that came from the network: the switch, the host. */
static void from_network(uint8_t last, bool group, bool to_switch, bool to_host)
{
	np_frame(bytes, last, 80);
	address(bytes, last);
	bytes[0] |= group;
	CHECK(fake_put("eth0", false, 0, bytes, 80));
	CHECK(np_rx(&a, 0) == to_switch);
	if (to_switch) {
		CHECK(memcmp(a.batch[0].data, bytes, 80) == 0);
		np_done(&a, 0);
	}
	CHECK((fake_take("eth0", true, 0, got, ROOM) == 80) == to_host);
	CHECK(!to_host || memcmp(bytes, got, 80) == 0);
	CHECK(fake_take("eth0", false, 0, got, ROOM) < 0);
}

static void from_switch(uint8_t last, bool group, bool to_network, bool to_host)
{
	np_frame(bytes, last, 80);
	address(bytes, last);
	bytes[0] |= group;
	CHECK(np_send(&a, 0, bytes, 80).sent == 1);
	CHECK((fake_take("eth0", true, 0, got, ROOM) == 80) == to_host);
	CHECK((fake_take("eth0", false, 0, got, ROOM) == 80) == to_network);
}

static void test_N3_network_host_and_switch_are_joined(void)
{
	begin("eth0", &single);
	np_open(&a, "netmap:eth0*");
	CHECK(a.port.rx_queue_count == 2 && a.port.tx_queue_count == 1);
	from_network(7, false, true, false);
	from_network(host_mac[5], false, false, true);
	from_network(7, true, true, true);
	from_switch(7, false, true, false);
	from_switch(host_mac[5], false, false, true);
	from_switch(7, true, true, true);
	/* what the host sends, all get */
	np_frame(bytes, 1, 90);
	CHECK(fake_put("eth0", true, 0, bytes, 90));
	CHECK(np_rx(&a, 1) == 1 && memcmp(a.batch[0].data, bytes, 90) == 0);
	np_done(&a, 1);
	CHECK(fake_take("eth0", false, 0, got, ROOM) == 90 && memcmp(bytes, got, 90) == 0);
	CHECK(fake_take("eth0", true, 0, got, ROOM) < 0);
	np_close(&a);
	end();
}

static void test_N3_copies_for_a_host_that_does_not_listen_are_counted(void)
{
	struct port_status status = {0};

	begin("eth0", &single);
	np_open(&a, "netmap:eth0*");
	for (unsigned i = 0; i < 2 * SLOTS; i++) {
		np_frame(bytes, i, 80);
		address(bytes, host_mac[5]);
		CHECK(fake_put("eth0", false, 0, bytes, 80));
		CHECK(np_rx(&a, 0) == 0);
	}
	CHECK(netmap_host_lost(((struct netmap_port *)a.port.priv)->host) == SLOTS + 1);
	a.port.ops->poll_status(&a.port, &status);
	CHECK(strstr(status.detail, "65 copies lost"));
	np_close(&a);
	end();
}

/* --- who else writes to the region ----------------------------------------------------------- */

static void test_nonsense_in_a_ring_leads_nowhere(void)
{
	struct netmap_ring *rx, *tx;

	begin("vale0:p1", &vale);
	np_open(&a, "vale0:p1");
	rx = fake_ring("vale0:p1", false, 0, false);
	tx = fake_ring("vale0:p1", false, 0, true);
	np_frame(bytes, 1, 60);
	for (unsigned i = 0; i < 4; i++)
		CHECK(fake_put("vale0:p1", false, 0, bytes, 60));
	rx->slot[0].buf_idx = 0xfffffff0; /* beyond the region */
	rx->slot[1].buf_idx = 1;	  /* the module's own */
	rx->slot[2].len = 2049;
	rx->slot[3].flags = NS_MOREFRAG; /* a chain that never ends */
	rx->num_slots = 1 << 30;	 /* nobody looks at these again */
	rx->buf_ofs = INT64_MAX;
	rx->tail = 4;
	CHECK(np_rx(&a, 0) == 0);
	CHECK(a.cell.rx_frames == 4 && a.cell.rx_drops[DROP_MALFORMED] == 4);
	rx->tail = 1 << 20;
	rx->num_slots = SLOTS;
	tx->slot[0].buf_idx = 0x7fffffff;
	CHECK(np_send(&a, 0, bytes, 60).drops[DROP_TX_ERROR] == 1);
	np_close(&a);
	fake_reset();
}

static void attach_refused(struct np *np)
{
	struct error err;

	CHECK(np_attach(np, &err) < 0 && err.message[0]);
}

static void test_a_region_that_is_none_is_not_attached(void)
{
	struct netmap_ring *rx, good;
	struct error err;
	char state[512];

	begin("vale0:p1", &vale);
	CHECK(np_acquire(&a, "vale0:p1", &err) == 0);
	rx = fake_ring("vale0:p1", false, 0, false);
	memcpy(&good, rx, sizeof(good));
	memcpy(state, a.fds.state, sizeof(state));
	rx->num_slots = 1 << 24;
	attach_refused(&a);
	memcpy(rx, &good, sizeof(good));
	rx->num_slots = 1;
	attach_refused(&a);
	memcpy(rx, &good, sizeof(good));
	rx->nr_buf_size = 0;
	attach_refused(&a);
	memcpy(rx, &good, sizeof(good));
	rx->buf_ofs = -(1 << 28);
	attach_refused(&a);
	rx->buf_ofs = INT64_MAX;
	attach_refused(&a);
	memcpy(rx, &good, sizeof(good));
	snprintf(a.fds.state, sizeof(a.fds.state), "nic=1 tx=1 rx=1 mem=5 kb=66064 o0=4294967295");
	attach_refused(&a);
	snprintf(a.fds.state, sizeof(a.fds.state), "nic=40 tx=1 rx=1 mem=5 kb=66064");
	attach_refused(&a);
	memcpy(a.fds.state, state, sizeof(state));
	CHECK(np_attach(&a, &err) == 0);
	np_close(&a);
	end();
}

int main(void)
{
	netmap_device_use(&netmap_fake);
	test_N8_each_ring_has_one_owner();
	test_N8_queues_are_rings();
	test_exclusive_and_flags();
	test_refusals_leave_nothing_open();
	test_extmem_stays_in_its_directory();
	test_N6_promiscuous_as_long_as_the_port_is_there();
	test_ports_that_only_receive();
	test_frames_of_several_slots();
	test_virtio_net_headers();
	test_a_full_ring_waits_and_then_says_so();
	test_an_interface_that_goes();
	test_N3_network_host_and_switch_are_joined();
	test_N3_copies_for_a_host_that_does_not_listen_are_counted();
	test_nonsense_in_a_ring_leads_nowhere();
	test_a_region_that_is_none_is_not_attached();
	return check_result();
}
