/*
 * af_packet, lives: options refused, interfaces that go down, grow, are renamed and vanish,
 * frames that cannot be sent, and a forwarder that dies at every step of its loop, its successor
 * going on with the same fds.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "af_packet.h"
#include "af_packet_net.h"

static int host0, host1;
static struct net_frame sent_frame, got_frame;

/* --- options ---------------------------------------------------------------------------------- */

static void check_refused(const char *name, const char *value, const char *code, const char *says)
{
	struct port_option items[] = {{"ifname", "p0"}, {name, value}};
	struct port_options options = {.port = "p", .items = items, .count = 2};
	struct port_fds fds;
	struct error err = {0};

	if (!strcmp(name, "ifname")) {
		items[0] = items[1];
		options.count = 1;
	}
	CHECK(port_acquire("af_packet", &options, &fds, &err) < 0);
	CHECK(!fds.count && !strcmp(err.name, code) && strstr(err.message, says));
}

static void test_options(void)
{
	int before = dup(0), after;

	close(before);
	check_refused("ifname", "nowhere", "IFACE_NOT_FOUND", "nowhere");
	check_refused("ifname", "lo", "NOT_ETHERNET", "lo");
	check_refused("ifname", "..", "", "ifname");
	check_refused("ifname", "a/b", "", "ifname");
	check_refused("ifname", "sixteen-letters-", "", "ifname");
	check_refused("version", "4", "", "version");
	check_refused("optimize_for", "fun", "", "optimize_for");
	check_refused("queues", "0", "", "queues");
	check_refused("queues", "17", "", "queues");
	check_refused("fanout", "cats", "", "fanout");
	check_refused("qdisc_bypass", "maybe", "", "qdisc_bypass");
	check_refused("colour", "red", "", "colour");
	after = dup(0);
	close(after);
	CHECK(before == after); /* nothing was left open */
}

/* --- queues ----------------------------------------------------------------------------------- */

/* 256 UDP flows, each packet of a flow on the same queue, every frame exactly once. */
static void test_queues(const char *version)
{
	enum { QUEUES = 4, FLOWS = 256, ROUNDS = 8 };
	static const uint8_t headers[] = {8, 0, 0x45, 0,  0, 46, 0, 0, 0, 0, 64, 17, 0,	 0, 10,
					  0, 0, 1,    10, 0, 0,	 2, 0, 0, 0, 9,	 0,  26, 0, 0};
	uint8_t queue_of[FLOWS], got[FLOWS] = {0};
	unsigned per_queue[QUEUES] = {0}, busy = 0;
	struct end end;

	end_open_with(&end, "p0", version, "queues", "4", NULL);
	end_attach(&end);
	CHECK(end.port.rx_queue_count == QUEUES && end.port.tx_queue_count == QUEUES);
	memset(queue_of, 0xff, sizeof(queue_of));
	frame_make(&sent_frame, 0, 60, "");
	memcpy(sent_frame.data + 12, headers, sizeof(headers));
	for (unsigned i = 0; i < FLOWS * ROUNDS; i++) {
		sent_frame.data[34] = (uint8_t)(i % FLOWS); /* source port */
		CHECK(!host_send(host0, &sent_frame));
	}
	for (unsigned q = 0; q < QUEUES; q++) {
		struct frame batch[FRAME_BATCH];
		unsigned n;

		while ((n = end_receive_queue(&end, q, batch, FRAME_BATCH, 20))) {
			for (unsigned i = 0; i < n; i++) {
				uint8_t flow = batch[i].data[34];

				CHECK(queue_of[flow] == 0xff || queue_of[flow] == q);
				queue_of[flow] = (uint8_t)q;
				got[flow]++;
				per_queue[q]++;
			}
			end.port.ops->rx_done(&end.port.rxq[q]);
		}
		busy += per_queue[q] > 0;
	}
	for (unsigned flow = 0; flow < FLOWS; flow++)
		CHECK(got[flow] == ROUNDS);
	CHECK(busy == QUEUES);
	end_close(&end);
}

/* --- the interface changes -------------------------------------------------------------------- */

static struct port_status status_of(struct end *end)
{
	struct port_status status;

	end->port.ops->poll_status(&end->port, &status);
	return status;
}

/* Frames pass from h0 to the port again, without another acquire. */
static void check_receives(struct end *end, uint32_t number)
{
	struct frame batch[FRAME_BATCH];
	uint64_t deadline = now_ms() + NET_WAIT_MS;
	unsigned n = 0;

	frame_make(&sent_frame, number, 60, "");
	while (!n && now_ms() < deadline) {
		/* While the link comes up the other side may refuse. */
		host_send(host0, &sent_frame);
		n = end_receive(end, batch, FRAME_BATCH, 10);
	}
	CHECK(n && frame_number(batch[0].data) == number);
	end_done(end);
}

static void check_sends(struct end *end, uint32_t sent, enum drop_reason reason)
{
	struct frame frame;

	frame_make(&sent_frame, 1, 60, "");
	frame = (struct frame){.data = sent_frame.data, .len = 60, .frame_len = 60};
	end_send(end, &frame, 1);
	CHECK(end->report.sent == sent && end->report.drops[reason] == 1 - sent);
}

static bool promiscuous(const char *ifname)
{
	char command[128];

	snprintf(command, sizeof(command), "ip -d link show %s | grep -q 'promiscuity 1'", ifname);
	return !system(command);
}

static void test_interface(const char *version)
{
	struct frame batch[FRAME_BATCH];
	struct port_status status;
	struct end end;

	net_run("ip link add q0 type veth peer name p2 && ip link set q0 up && ip link set p2 up");
	host0 = host_open("q0");
	end_open(&end, "p2", version);
	end_attach(&end);
	CHECK(promiscuous("p2"));
	status = status_of(&end);
	CHECK(status.link_up && !status.lost && status.mtu == 1500 && status.rx_queues == 1);
	CHECK(status.ifindex == if_nametoindex("p2") && (status.caps & PORT_CAP_TSO4));
	check_receives(&end, 1);

	net_run("ip link set p2 down");
	CHECK(!status_of(&end).link_up && !status_of(&end).lost);
	check_sends(&end, 0, DROP_LINK_DOWN);
	/* Nobody who waits for frames is woken by that more than once. */
	CHECK(!end_receive(&end, batch, FRAME_BATCH, 0));
	CHECK(!poll(&(struct pollfd){.fd = end.fds.fd[1], .events = POLLIN}, 1, 0));
	net_run("ip link set p2 name p3 && ip link set p3 mtu 4000 up");
	status = status_of(&end);
	CHECK(!status.lost && status.mtu == 4000);
	check_receives(&end, 2);
	check_sends(&end, 1, DROP_LINK_DOWN);

	net_run("ip link del p3");
	net_run("ip link add q0 type veth peer name p3"); /* another one is not ours */
	CHECK(status_of(&end).lost && !status_of(&end).link_up);
	check_sends(&end, 0, DROP_LINK_DOWN);
	CHECK(end.port.ops->rx(&end.port.rxq[0], batch, FRAME_BATCH, &end.cell) <= 0);
	end_close(&end);
	CHECK(!promiscuous("p3"));
	net_run("ip link del p3");
	close(host0);
	host0 = host_open("h0");
}

/* --- frames that cannot be sent --------------------------------------------------------------- */

static void test_refused(void)
{
	static uint8_t bytes[2000] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
	struct frame batch[5];
	struct end end;

	end_open(&end, "p1", "2");
	end_attach(&end);
	for (unsigned i = 0; i < 5; i++)
		batch[i] = (struct frame){.data = bytes, .len = 60, .frame_len = 60};
	batch[1].len = batch[1].frame_len = 1600;
	batch[3].offload =
	    (struct frame_offload){.flags = FRAME_CSUM_NEEDED, .csum_start = 59, .csum_offset = 16};
	end_send(&end, batch, 5);
	CHECK(end.report.sent == 3 && end.report.sent_bytes == 180);
	CHECK(end.report.drops[DROP_TOO_BIG] == 1 && end.report.drops[DROP_OFFLOAD_INVALID] == 1);
	for (unsigned i = 0; i < 3; i++)
		CHECK(host_receive(host1, &got_frame, NET_WAIT_MS) && got_frame.len == 60);
	CHECK(!host_receive(host1, &got_frame, 0));
	end_close(&end);
}

/* A queue that does not move holds a batch up once, for a few milliseconds, and no more. */
static void test_queue_full(void)
{
	static uint8_t bytes[1514] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
	struct frame batch[FRAME_BATCH];
	struct end end;
	uint64_t sent = 0, dropped = 0, started;
	unsigned batches = 0;

	net_run("tc qdisc add dev p1 root tbf rate 8kbit burst 2kb limit 64mb");
	end_open(&end, "p1", "2");
	end_attach(&end);
	for (unsigned i = 0; i < FRAME_BATCH; i++)
		batch[i] = (struct frame){.data = bytes, .len = 1514, .frame_len = 1514};
	while (!dropped && batches++ < 1000) {
		end_send(&end, batch, FRAME_BATCH);
		sent += end.report.sent;
		dropped += end.report.drops[DROP_QUEUE_FULL];
		CHECK(end.report.sent + end.report.drops[DROP_QUEUE_FULL] == FRAME_BATCH);
	}
	CHECK(dropped && sent > 1000);
	started = now_ms();
	for (unsigned i = 0; i < 1000; i++)
		end_send(&end, batch, FRAME_BATCH);
	CHECK(now_ms() - started < 2000); /* it would be 4 s */
	net_run("tc qdisc del dev p1 root");
	check_sends(&end, 1, DROP_QUEUE_FULL);
	end_close(&end);
	while (host_receive(host1, &got_frame, 0))
		;
}

/* --- deaths ----------------------------------------------------------------------------------- */

/* Where in its loop a forwarder dies. */
enum death { AFTER_RX, AFTER_COMMIT_AND_SEND, IN_RELEASE, AFTER_RELEASE, DEATHS };

/* Gives back only the first of what rx_done would. */
static void release_one(struct af_rx *rx)
{
	_Atomic uint32_t *status;

	if (rx->version == 3) {
		struct tpacket_block_desc *block =
		    (struct tpacket_block_desc *)(rx->ring + (rx->released % rx->blocks) *
								 (size_t)rx->block_bytes);

		if (rx->released == rx->cursor >> AF_PACKET_BITS)
			return;
		status = (_Atomic uint32_t *)&block->hdr.bh1.block_status;
	} else {
		/* V1's is a long; what a slot is ready with is in its lower half. */
		status = (_Atomic uint32_t *)af_slot(&rx->slots, rx->released);
	}
	atomic_store_explicit(status, TP_STATUS_KERNEL, memory_order_release);
}

/* A life: some batches from p0 to p1 as a worker moves them, then death. */
static void live(struct end *in, struct end *out, unsigned batches, enum death death)
{
	struct frame batch[FRAME_BATCH];
	struct frame *frames[FRAME_BATCH];
	struct port_queue *queue = &in->port.rxq[0];

	end_attach(in);
	end_attach(out);
	for (;;) {
		struct tx_report report = {.source = queue};
		unsigned n = end_receive(in, batch, FRAME_BATCH, 20);
		bool last = !n || !batches--;

		if (n && last && death == AFTER_RX)
			raise(SIGKILL);
		for (unsigned i = 0; i < n; i++)
			frames[i] = &batch[i];
		if (n)
			out->port.ops->tx(&out->port.txq[0], frames, n, &report);
		if (last && death == IN_RELEASE)
			release_one(in->port.rxq[0].priv);
		if (last && death != AFTER_RELEASE)
			raise(SIGKILL);
		if (n)
			end_done(in);
		if (last)
			raise(SIGKILL);
	}
}

static void spawn_and_wait(struct end *in, struct end *out, unsigned batches, enum death death)
{
	pid_t child = fork();
	int status;

	if (!child)
		live(in, out, batches, death);
	CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) &&
	      WTERMSIG(status) == SIGKILL);
}

static uint32_t lives_len(uint32_t number)
{
	return number % 30 ? 60 + number % 900 : 5000 + number % 3000;
}

/* What h1 gets is 0, 1, 2, ...: nothing lost, nothing twice, nothing changed. */
static void check_next(uint32_t *expected)
{
	while (host_receive(host1, &got_frame, 0)) {
		CHECK(frame_number(got_frame.data) == *expected);
		CHECK(got_frame.len == lives_len(*expected));
		CHECK(got_frame.data[got_frame.len - 1] ==
		      (uint8_t)((got_frame.len - 1) * 7 + *expected));
		++*expected;
	}
}

static void test_deaths(const char *version, const char *ring)
{
	enum { LIVES = 120 };
	uint64_t random = 88172645463325252ull;
	uint32_t sent = 0, expected = 0;
	struct end in, out;

	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu 9000; done");
	net_run("ip link set p0 mtu 1500"); /* slots of 2 KB, and frames that do not fit */
	end_open(&in, "p0", version);
	end_open_with(&out, "p1", version, "ring", ring, NULL);
	net_run("ip link set p0 mtu 9000");
	for (unsigned life = 0; life < LIVES; life++) {
		/* At times more than one life can take: the next ones meet a full ring. */
		uint32_t burst = life % 10 == 9 ? 3000 : random_below(&random, 300);

		for (uint32_t i = 0; i < burst && sent - expected < 3500; i++, sent++) {
			frame_make(&sent_frame, sent, lives_len(sent), "");
			CHECK(!host_send(host0, &sent_frame));
		}
		spawn_and_wait(&in, &out, random_below(&random, 6), life % DEATHS);
		check_next(&expected);
	}
	spawn_and_wait(&in, &out, UINT32_MAX, AFTER_RELEASE); /* until nothing is left */
	check_next(&expected);
	CHECK(expected == sent && sent > 10000);
	end_close(&in);
	end_close(&out);
	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu 1500; done");
}

int main(void)
{
	net_enter();
	host0 = host_open("h0");
	host1 = host_open("h1");
	test_options();
	test_queues("1");
	test_queues("2");
	test_queues("3");
	test_interface("1");
	test_interface("2");
	test_interface("3");
	test_refused();
	test_queue_full();
	test_deaths("1", "rx");
	test_deaths("1", "both");
	test_deaths("2", "rx");
	test_deaths("2", "both");
	test_deaths("3", "rx");
	test_deaths("3", "both");
	return check_result();
}
