/*
 * af_packet, several sockets on one interface: how each mode spreads frames, what happens when
 * one socket is not read, and the program that comes with us.
 */
#include <netinet/in.h>
#include <sched.h>

#include "af_packet.h"
#include "af_packet_net.h"

enum { QUEUES = 4, FLOWS = 256 };

static int host0;
static struct net_frame sent_frame;

/* Frames of each queue and, where a flow was ever on one, which. */
struct spread {
	unsigned per_queue[QUEUES];
	unsigned total;
	uint8_t queue_of[FLOWS]; /* 0xff: none yet; 0xfe: several */
};

/* A UDP packet; the flow is its source port, and its number the payload. */
static void udp_make(struct net_frame *frame, uint8_t flow, uint8_t source, uint8_t destination)
{
	uint8_t headers[] = {8, 0, 0x45,   0,  0, 46, 0,	   0,	 0,    0, 64, 17, 0,  0, 10,
			     0, 0, source, 10, 0, 0,  destination, 0x30, flow, 0, 9,  0,  26, 0, 0};

	frame_make(frame, flow, 60, "");
	memcpy(frame->data + 12, headers, sizeof(headers));
}

static void send_flow(uint8_t flow)
{
	udp_make(&sent_frame, flow, 1, 2);
	CHECK(!host_send(host0, &sent_frame));
}

static void note(struct spread *spread, unsigned queue, uint8_t flow)
{
	uint8_t *known = &spread->queue_of[flow];

	*known = *known == 0xff || *known == queue ? (uint8_t)queue : 0xfe;
	spread->per_queue[queue]++;
	spread->total++;
}

/* Everything that comes to one queue before it is quiet for that long. */
static void drain_for(struct end *end, unsigned queue, struct spread *spread, int wait_ms)
{
	struct frame batch[FRAME_BATCH];
	unsigned n;

	while ((n = end_receive_queue(end, queue, batch, FRAME_BATCH, wait_ms))) {
		for (unsigned i = 0; i < n; i++)
			note(spread, queue, batch[i].data[35]);
		end->port.ops->rx_done(&end->port.rxq[queue]);
	}
}

static void drain_queue(struct end *end, unsigned queue, struct spread *spread)
{
	drain_for(end, queue, spread, 20);
}

static struct spread drain(struct end *end)
{
	struct spread spread = {0};

	memset(spread.queue_of, 0xff, sizeof(spread.queue_of));
	for (unsigned queue = 0; queue < QUEUES; queue++)
		drain_queue(end, queue, &spread);
	return spread;
}

static void open_mode(struct end *end, const char *version, const char *mode)
{
	end_open_with(end, "p0", version, "queues", "4", "fanout", mode, NULL);
	end_attach(end);
}

static uint64_t kernel_drops(struct end *end)
{
	struct port_status status;

	end->port.ops->poll_status(&end->port, &status);
	return status.kernel_drops;
}

/* Each of 256 flows on one socket, all sockets in use. */
static void test_P9_flows(const char *version, const char *mode)
{
	enum { ROUNDS = 8 };
	struct spread spread;
	struct end end;

	open_mode(&end, version, mode);
	for (unsigned i = 0; i < FLOWS * ROUNDS; i++)
		send_flow((uint8_t)i);
	spread = drain(&end);
	CHECK(spread.total == FLOWS * ROUNDS);
	for (unsigned flow = 0; flow < FLOWS; flow++)
		CHECK(spread.queue_of[flow] < QUEUES);
	for (unsigned queue = 0; queue < QUEUES; queue++)
		CHECK(spread.per_queue[queue]);
	end_close(&end);
}

/* In turn: no socket has two frames more than another. */
static void test_P9_lb(const char *version)
{
	struct spread spread;
	struct end end;

	open_mode(&end, version, "lb");
	for (unsigned i = 0; i < 1002; i++)
		send_flow(7);
	spread = drain(&end);
	CHECK(spread.total == 1002);
	for (unsigned queue = 0; queue < QUEUES; queue++)
		CHECK(spread.per_queue[queue] == 250 || spread.per_queue[queue] == 251);
	end_close(&end);
}

/* Every socket gets some of many, none gets nearly all. */
static void test_P9_rnd(void)
{
	struct spread spread;
	struct end end;

	open_mode(&end, "2", "rnd");
	for (unsigned i = 0; i < 4000; i++)
		send_flow(7);
	spread = drain(&end);
	CHECK(spread.total == 4000);
	for (unsigned queue = 0; queue < QUEUES; queue++)
		CHECK(spread.per_queue[queue] > 800 && spread.per_queue[queue] < 1200);
	end_close(&end);
}

/* The socket of the processor that the sender runs on, by number. */
static void test_P9_cpu(void)
{
	cpu_set_t before, one;
	struct end end;

	CHECK(!sched_getaffinity(0, sizeof(before), &before));
	open_mode(&end, "2", "cpu");
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		struct spread spread;

		if (!CPU_ISSET(cpu, &before))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		CHECK(!sched_setaffinity(0, sizeof(one), &one));
		for (unsigned i = 0; i < 500; i++)
			send_flow((uint8_t)i);
		spread = drain(&end);
		CHECK(spread.total == 500 && spread.per_queue[cpu % QUEUES] == 500);
	}
	CHECK(!sched_setaffinity(0, sizeof(before), &before));
	end_close(&end);
}

/* The device's queue, of which a veth pair made so has one: all on the first socket. */
static void test_P9_qm(void)
{
	struct spread spread;
	struct end end;

	open_mode(&end, "2", "qm");
	for (unsigned i = 0; i < 500; i++)
		send_flow((uint8_t)i);
	spread = drain(&end);
	CHECK(spread.total == 500 && spread.per_queue[0] == 500);
	end_close(&end);
}

static struct tpacket_rollover_stats rollover_of(const struct end *end)
{
	struct tpacket_rollover_stats sum = {0};

	for (unsigned queue = 0; queue < QUEUES; queue++) {
		struct tpacket_rollover_stats one;
		socklen_t len = sizeof(one);

		CHECK(!getsockopt(end->fds.fd[1 + queue], SOL_PACKET, PACKET_ROLLOVER_STATS, &one,
				  &len));
		sum.tp_all += one.tp_all;
		sum.tp_failed += one.tp_failed;
	}
	return sum;
}

/* The first socket's ring is filled as far as the kernel likes (three quarters), then the next
 * one's; nothing is lost. */
static void test_P9_rollover_fills(void)
{
	struct port_status status;
	struct spread spread;
	struct end end;

	end_open_with(&end, "p0", "2", "queues", "4", "fanout", "rollover", "geometry_blocks", "4",
		      "geometry_frame_bytes", "2048", NULL);
	end_attach(&end); /* 128 slots each */
	for (unsigned i = 0; i < 60; i++)
		send_flow(1);
	spread = drain(&end);
	CHECK(spread.per_queue[0] == 60 && spread.total == 60);
	for (unsigned i = 0; i < 250; i++)
		send_flow(1);
	CHECK(!kernel_drops(&end));
	end.port.ops->poll_status(&end.port, &status);
	CHECK(strstr(status.detail, "rollover: "));
	spread = drain(&end);
	CHECK(spread.total == 250);
	CHECK(spread.per_queue[0] >= 90 && spread.per_queue[1] >= 90 && spread.per_queue[2]);
	CHECK(!spread.per_queue[3]);
	CHECK(rollover_of(&end).tp_all >= spread.per_queue[1] + spread.per_queue[2]);
	end_close(&end);
}

/*
 * One reader stops: its flows go to the others, the kernel counts them, none is lost. (In version
 * 3 the kernel looks for a free block only, so a frame may find too little of the last one left.)
 */
static void test_P9_stopped_reader(const char *version)
{
	enum { COUNT = 4000, STOPPED = 1 };
	struct spread spread = {0};
	uint64_t all, lost;
	struct end end;

	end_open_with(&end, "p0", version, "queues", "4", "fanout", "hash", "fanout_rollover", "1",
		      "geometry_block_bytes", "8192", "geometry_blocks",
		      version[0] == '3' ? "24" : "32", NULL);
	end_attach(&end);
	for (unsigned i = 0; i < FLOWS; i++)
		send_flow((uint8_t)i);
	CHECK(drain(&end).per_queue[STOPPED]);
	CHECK(!rollover_of(&end).tp_all);
	for (unsigned i = 0; i < COUNT; i++) {
		send_flow((uint8_t)i);
		if (i % 32)
			continue;
		for (unsigned queue = 0; queue < QUEUES; queue++) {
			if (queue != STOPPED)
				drain_for(&end, queue, &spread, 0);
		}
	}
	all = rollover_of(&end).tp_all;
	for (unsigned queue = 0; queue < QUEUES; queue++)
		drain_queue(&end, queue, &spread);
	lost = kernel_drops(&end);
	CHECK(spread.total + lost == COUNT);
	if (!CHECK(lost <= (version[0] == '3' ? 4 : 0)))
		fprintf(stderr, "%u lost\n", (unsigned)lost);
	CHECK(all && !rollover_of(&end).tp_failed);
	end_close(&end);
}

/* The result of the program modulo the number of sockets: here the last byte of the frame's flow.
 */
static void test_P9_cbpf(void)
{
	/* ldb [SKF_LL_OFF + 35]; ret a */
	static const char program[] = "2,48 0 0 4292870179,22 0 0 0";
	struct spread spread;
	struct end end;

	end_open_with(&end, "p0", "2", "queues", "4", "fanout", "cbpf", "fanout_program", program,
		      NULL);
	end_attach(&end);
	for (unsigned i = 0; i < FLOWS; i++)
		send_flow((uint8_t)i);
	spread = drain(&end);
	CHECK(spread.total == FLOWS);
	for (unsigned flow = 0; flow < FLOWS; flow++)
		CHECK(spread.queue_of[flow] == flow % QUEUES);
	end_close(&end);
}

/* Both directions of a conversation on one socket, conversations on all. */
static void test_P9_ebpf(void)
{
	struct spread spread = {0};
	struct end end;

	open_mode(&end, "2", "ebpf");
	memset(spread.queue_of, 0xff, sizeof(spread.queue_of));
	for (unsigned host = 0; host < FLOWS; host++) {
		for (unsigned direction = 0; direction < 2; direction++) {
			udp_make(&sent_frame, (uint8_t)host, (uint8_t)(direction ? 77 : host),
				 (uint8_t)(direction ? host : 77));
			CHECK(!host_send(host0, &sent_frame));
		}
	}
	for (unsigned queue = 0; queue < QUEUES; queue++)
		drain_queue(&end, queue, &spread);
	CHECK(spread.total == 2 * FLOWS);
	for (unsigned host = 0; host < FLOWS; host++)
		CHECK(spread.queue_of[host] < QUEUES);
	for (unsigned queue = 0; queue < QUEUES; queue++)
		CHECK(spread.per_queue[queue] > FLOWS / QUEUES);
	frame_make(&sent_frame, 1, 60, ""); /* no IP */
	CHECK(!host_send(host0, &sent_frame));
	drain_queue(&end, 0, &spread);
	CHECK(spread.total == 2 * FLOWS + 1);
	end_close(&end);
}

/* Fragments are put together first: what comes is the datagram as a whole. */
static void test_P9_defrag(void)
{
	struct frame batch[FRAME_BATCH];
	struct end end;
	unsigned frames = 0;

	end_open_with(&end, "p0", "2", "queues", "4", "fanout", "hash", "fanout_defrag", "1", NULL);
	end_attach(&end);
	net_run("ip address add 198.51.100.1/24 dev h0 && ip neigh add 198.51.100.2 lladdr "
		"02:00:00:00:00:02 dev h0");
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc6336402)};
	static uint8_t payload[4000];

	CHECK(sendto(udp, payload, sizeof(payload), 0, (struct sockaddr *)&to, sizeof(to)) ==
	      sizeof(payload));
	for (unsigned queue = 0; queue < QUEUES; queue++) {
		unsigned n = end_receive_queue(&end, queue, batch, FRAME_BATCH, 50);

		for (unsigned i = 0; i < n; i++)
			CHECK(batch[i].frame_len == 14 + 20 + 8 + sizeof(payload));
		frames += n;
		if (n)
			end.port.ops->rx_done(&end.port.rxq[queue]);
	}
	CHECK(frames == 1);
	close(udp);
	net_run("ip address del 198.51.100.1/24 dev h0");
	end_close(&end);
}

/* Two ports with one group share the frames; a group of one's own is nobody else's. */
static void test_P9_group(void)
{
	struct spread spread = {0};
	struct end one, two, own;

	end_open_with(&one, "p0", "2", "queues", "2", "fanout", "lb", "fanout_group", "77", NULL);
	end_open_with(&two, "p0", "2", "queues", "2", "fanout", "lb", "fanout_group", "77", NULL);
	end_open_with(&own, "p0", "2", "queues", "2", "fanout", "lb", NULL);
	end_attach(&one);
	end_attach(&two);
	end_attach(&own);
	for (unsigned i = 0; i < 400; i++)
		send_flow(1);
	drain_queue(&one, 0, &spread);
	drain_queue(&one, 1, &spread);
	CHECK(spread.total == 200);
	drain_queue(&two, 0, &spread);
	drain_queue(&two, 1, &spread);
	CHECK(spread.total == 400);
	drain_queue(&own, 0, &spread);
	drain_queue(&own, 1, &spread);
	CHECK(spread.total == 800);
	end_close(&one);
	end_close(&two);
	end_close(&own);
}

int main(void)
{
	net_enter();
	host0 = host_open("h0");
	for (unsigned v = 0; v < 3; v++) {
		const char *version = (const char *[]){"1", "2", "3"}[v];

		test_P9_flows(version, "hash");
		test_P9_lb(version);
		test_P9_stopped_reader(version);
	}
	test_P9_rnd();
	test_P9_cpu();
	test_P9_qm();
	test_P9_rollover_fills();
	test_P9_cbpf();
	test_P9_ebpf();
	test_P9_defrag();
	test_P9_group();
	return check_result();
}
