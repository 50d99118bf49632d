/*
 * af_packet, frames: bytes, tags and offload state through all ring versions, order over many
 * turns of the ring, overload and truncation booked exactly, no echo.
 */
#include <signal.h>
#include <sys/wait.h>

#include "af_packet_net.h"

static const char *const versions[] = {"1", "2", "3"};
enum { VERSIONS = 3 };

/* Version 1 cannot carry a tag. */
static bool carries_tags(const char *version)
{
	return version[0] != '1';
}

static int host0, host1;
static struct net_frame sent_frame, got_frame;

static void send_numbered(uint32_t number, uint32_t len)
{
	frame_make(&sent_frame, number, len, "");
	CHECK(!host_send(host0, &sent_frame));
}

/* All but hdr_len: the kernel says there how much of its buffer is in one piece. */
static bool same_offload(const struct frame_offload *a, const struct frame_offload *b)
{
	return a->flags == b->flags && a->gso_type == b->gso_type && a->gso_size == b->gso_size &&
	       a->csum_start == b->csum_start && a->csum_offset == b->csum_offset;
}

static bool frame_unfinished(const struct frame_offload *offload)
{
	return (offload->flags & FRAME_CSUM_NEEDED) || offload->gso_type != FRAME_GSO_NONE;
}

/* sent_frame goes in at p0, out at p1 and arrives at h1 as it was. */
static void check_passes(struct end *in, struct end *out)
{
	struct frame batch[FRAME_BATCH];

	CHECK(!host_send(host0, &sent_frame));
	if (!CHECK(end_receive(in, batch, FRAME_BATCH, NET_WAIT_MS) == 1))
		return;
	CHECK(batch[0].frame_len == sent_frame.len && batch[0].len == sent_frame.len);
	CHECK(!memcmp(batch[0].data, sent_frame.data, sent_frame.len));
	CHECK(same_offload(&batch[0].offload, &sent_frame.offload));
	CHECK(!batch[0].next && !batch[0].pool && batch[0].headroom >= FRAME_HEADROOM - 4);
	end_send(out, batch, 1);
	CHECK(out->report.sent == 1 && out->report.sent_bytes == sent_frame.len);
	end_done(in);
	CHECK(host_receive(host1, &got_frame, NET_WAIT_MS));
	CHECK(got_frame.len == sent_frame.len);
	CHECK(!memcmp(got_frame.data, sent_frame.data, sent_frame.len));
	CHECK(same_offload(&got_frame.offload, &sent_frame.offload));
}

static void test_bytes(const char *version, uint32_t mtu)
{
	static const char *const tags[] = {
	    "",
	    "8100a01d",		/* vid 29, priority 5 */
	    "8100a000",		/* priority only */
	    "88a800648100000c", /* QinQ */
	    "8100000181000002",
	};
	const uint32_t sizes[] = {60, 61, 64, 127, 1024, mtu, mtu + ETH_HLEN};
	struct end in, out;
	uint32_t number = 0;

	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu %u; done", mtu);
	end_open(&in, "p0", version);
	end_open(&out, "p1", version);
	end_attach(&in);
	end_attach(&out);
	for (unsigned t = 0; t < (carries_tags(version) ? sizeof(tags) / sizeof(*tags) : 1); t++) {
		for (unsigned s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
			frame_make(&sent_frame, number++, sizes[s], tags[t]);
			check_passes(&in, &out);
		}
	}
	if (carries_tags(version)) {
		frame_make(&sent_frame, number, mtu + ETH_HLEN + 4, tags[1]);
		check_passes(&in, &out);
		frame_make(&sent_frame, number, 20, tags[1]); /* shorter ones the kernel drops */
		check_passes(&in, &out);
	}
	end_close(&in);
	end_close(&out);
	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu 1500; done");
}

/* A larger MTU than at acquire: frames do not fit their slots any more. */
static void test_mtu_grows(const char *version)
{
	struct end in, out;

	end_open(&in, "p0", version);
	end_open(&out, "p1", version);
	end_attach(&in);
	end_attach(&out);
	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu 9000; done");
	frame_make(&sent_frame, 1, 9000 + ETH_HLEN, "");
	check_passes(&in, &out);
	if (carries_tags(version)) {
		frame_make(&sent_frame, 2, 9000 + ETH_HLEN + 4, "8100a01d");
		check_passes(&in, &out);
	}
	net_run("for i in h0 p0 h1 p1; do ip link set $i mtu 1500; done");
	end_close(&in);
	end_close(&out);
}

/* A 64 KB TCP segment with an unfinished checksum, as a local stack hands it over. */
static void tcp_make(struct net_frame *frame, uint32_t payload, const char *tags)
{
	uint8_t headers[40] = {0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
	uint32_t l3 = 14 + (uint32_t)strlen(tags) / 2;
	uint16_t length = htons((uint16_t)(40 + payload));

	frame_make(frame, payload, l3 + 40 + payload, tags);
	memcpy(headers + 2, &length, sizeof(length));
	headers[32] = 5 << 4; /* TCP header of 20 bytes */
	headers[33] = 0x10;   /* ACK */
	memcpy(frame->data + l3, headers, sizeof(headers));
	frame->data[l3 - 2] = 8;
	frame->data[l3 - 1] = 0;
	frame->offload = (struct frame_offload){
	    .flags = FRAME_CSUM_NEEDED,
	    .gso_type = payload > 1460 ? FRAME_GSO_TCPV4 : FRAME_GSO_NONE,
	    .hdr_len = payload > 1460 ? (uint16_t)(l3 + 40) : 0,
	    .gso_size = payload > 1460 ? 1400 : 0,
	    .csum_start = (uint16_t)(l3 + 20),
	    .csum_offset = 16,
	};
}

/* A tagged frame is seen, counted with its length on the wire, and never let through untagged. */
static void test_v1_drops_tagged(void)
{
	static const char *const tags[] = {"8100a01d", "8100a000", "88a800648100000c"};
	struct frame batch[FRAME_BATCH];
	struct end in;

	end_open(&in, "p0", "1");
	end_attach(&in);
	for (unsigned t = 0; t < 3; t++) {
		frame_make(&sent_frame, t, t ? 1500 : 60, tags[t]);
		CHECK(!host_send(host0, &sent_frame));
	}
	tcp_make(&sent_frame, 20000, "81000005"); /* one that would come by recvmsg */
	CHECK(!host_send(host0, &sent_frame));
	send_numbered(7, 60);
	CHECK(end_receive(&in, batch, FRAME_BATCH, NET_WAIT_MS) == 1);
	CHECK(batch[0].len == 60 && frame_number(batch[0].data) == 7);
	CHECK(in.cell.rx_drops[DROP_VLAN_UNSUPPORTED] == 4 && in.cell.rx_frames == 4);
	CHECK(in.cell.rx_bytes == 60 + 1500 + 1500 + 20058);
	end_done(&in);
	end_close(&in);
}

static void test_offload(const char *version)
{
	static const uint32_t payloads[] = {100, 1400, 3000, 20000, 65400};
	struct end in, out;

	end_open(&in, "p0", version);
	end_open(&out, "p1", version);
	end_attach(&in);
	end_attach(&out);
	for (unsigned i = 0; i < sizeof(payloads) / sizeof(*payloads); i++) {
		tcp_make(&sent_frame, payloads[i], "");
		check_passes(&in, &out);
		if (carries_tags(version)) {
			tcp_make(&sent_frame, payloads[i], "81000005");
			check_passes(&in, &out);
		}
	}
	end_close(&in);
	end_close(&out);
}

/* The device under the port can do nothing: the kernel cuts and sums in its place. */
static void test_offload_finished(void)
{
	struct frame batch[FRAME_BATCH];
	struct end in, out;
	uint32_t payload = 0, frames = 0;

	net_run("ethtool -K p1 tx off tso off gso off >/dev/null");
	end_open(&in, "p0", "2");
	end_open(&out, "p1", "2");
	end_attach(&in);
	end_attach(&out);
	tcp_make(&sent_frame, 20000, "");
	CHECK(!host_send(host0, &sent_frame));
	CHECK(end_receive(&in, batch, FRAME_BATCH, NET_WAIT_MS) == 1);
	end_send(&out, batch, 1);
	CHECK(out.report.sent == 1);
	end_done(&in);
	for (; payload < 20000 && host_receive(host1, &got_frame, NET_WAIT_MS); frames++) {
		CHECK(got_frame.len <= 1454 && !frame_unfinished(&got_frame.offload));
		CHECK(!memcmp(got_frame.data + 54, sent_frame.data + 54 + payload,
			      got_frame.len - 54));
		payload += got_frame.len - 54;
	}
	CHECK(payload == 20000 && frames == 15); /* of 1,400 bytes */
	net_run("ethtool -K p1 tx on tso on gso on >/dev/null");
	end_close(&in);
	end_close(&out);
}

/* Between its creation and its binding the socket saw nothing of the busy interface beside. */
static void test_bind(const char *version)
{
	struct frame batch[FRAME_BATCH];
	struct end end;
	pid_t child = fork();

	if (!child) {
		frame_make(&sent_frame, 1, 60, "");
		for (;;)
			host_send(host0, &sent_frame);
	}
	for (unsigned i = 0; i < 10; i++) {
		end_open(&end, "p1", version);
		end_attach(&end);
		CHECK(!end_receive(&end, batch, FRAME_BATCH, 5));
		end_close(&end);
	}
	CHECK(child > 0 && !kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
}

static void test_order(const char *version)
{
	enum { FRAMES = 60000, BURST = 500 };
	struct frame batch[FRAME_BATCH];
	struct end in;
	uint32_t sent = 0, got = 0;

	end_open(&in, "p0", version);
	end_attach(&in);
	net_run("ip link set h0 mtu 9000 && ip link set p0 mtu 9000");
	while (got < FRAMES) {
		unsigned n;

		/* Every 40th does not fit a slot of 2 KB. */
		for (unsigned i = 0; i < BURST && sent < FRAMES; i++, sent++)
			send_numbered(sent, sent % 40 ? 60 + sent % 1000 : 5000);
		while (got < sent && (n = end_receive(&in, batch, 1 + sent % 64, NET_WAIT_MS))) {
			for (unsigned i = 0; i < n; i++, got++) {
				CHECK(frame_number(batch[i].data) == got);
				CHECK(batch[i].len == (got % 40 ? 60 + got % 1000 : 5000));
				CHECK(batch[i].data[batch[i].len - 1] ==
				      (uint8_t)((batch[i].len - 1) * 7 + got));
			}
			end_done(&in);
		}
		if (!CHECK(got == sent))
			break;
	}
	CHECK(!in.cell.kernel_drops && !in.cell.rx_frames);
	net_run("ip link set h0 mtu 1500 && ip link set p0 mtu 1500");
	end_close(&in);
}

/* Offered is what was received and what the kernel had no room for, to the frame. */
static void test_overload(const char *version)
{
	struct frame batch[FRAME_BATCH];
	struct end in;
	struct port_status status;

	end_open(&in, "p0", version);
	end_attach(&in);
	for (unsigned run = 0; run < 10; run++) {
		uint64_t offered = version[0] != '3' ? 5000 + run : 60000, got = 0;
		uint64_t before = in.cell.kernel_drops;
		unsigned n;

		for (uint32_t i = 0; i < offered; i++)
			send_numbered(i, version[0] != '3' ? 60 : 1500);
		while ((n = end_receive(&in, batch, FRAME_BATCH, 20))) {
			got += n;
			end_done(&in);
		}
		in.port.ops->poll_status(&in.port, &status);
		CHECK(!in.port.ops->rx(&in.port.rxq[0], batch, FRAME_BATCH, &in.cell));
		CHECK(in.cell.kernel_drops > before);
		CHECK(got + in.cell.kernel_drops - before == offered);
	}
	end_close(&in);
}

/* The socket's queue is full: large frames come cut, without any flag. */
static void test_truncated(void)
{
	struct frame batch[FRAME_BATCH];
	struct end in;
	int bytes = 0;

	end_open(&in, "p0", "2");
	end_attach(&in);
	CHECK(!setsockopt(in.fds.fd[1], SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)));
	for (unsigned i = 0; i < 5; i++) {
		tcp_make(&sent_frame, 30000, "");
		CHECK(!host_send(host0, &sent_frame));
	}
	send_numbered(7, 60);
	CHECK(end_receive(&in, batch, FRAME_BATCH, NET_WAIT_MS) >= 1);
	CHECK(in.cell.rx_drops[DROP_TRUNCATED] >= 4); /* one may still have had room */
	CHECK(in.cell.rx_frames == in.cell.rx_drops[DROP_TRUNCATED]);
	CHECK(in.cell.rx_bytes == in.cell.rx_frames * 30054);
	end_done(&in);
	end_close(&in);
}

/* What the port or another program sends on the interface does not come in again. */
static void test_echo(const char *version, bool kernel_filters)
{
	struct frame batch[FRAME_BATCH], out = {0};
	int other = host_open("p0"), no = 0;
	char *outgoing;
	struct end end;

	end_open(&end, "p0", version);
	CHECK(strstr(end.fds.state, "outgoing=0"));
	if (!kernel_filters) {
		outgoing = strstr(end.fds.state, "outgoing=0");
		outgoing[strlen("outgoing=")] = '1';
		CHECK(!setsockopt(end.fds.fd[1], SOL_PACKET, PACKET_IGNORE_OUTGOING, &no,
				  sizeof(no)));
	}
	end_attach(&end);
	frame_make(&sent_frame, 1, 60, "");
	out = (struct frame){.data = sent_frame.data, .len = 60, .frame_len = 60};
	end_send(&end, &out, 1);
	CHECK(end.report.sent == 1);
	CHECK(!host_send(other, &sent_frame));
	send_numbered(2, 60);
	CHECK(end_receive(&end, batch, FRAME_BATCH, NET_WAIT_MS) == 1);
	CHECK(frame_number(batch[0].data) == 2);
	end_done(&end);
	CHECK(!end_receive(&end, batch, FRAME_BATCH, 20));
	while (host_receive(host0, &got_frame, 0))
		;
	close(other);
	end_close(&end);
}

int main(void)
{
	net_enter();
	host0 = host_open("h0");
	host1 = host_open("h1");
	for (unsigned v = 0; v < VERSIONS; v++) {
		test_bytes(versions[v], 1500);
		test_bytes(versions[v], 9000);
		test_mtu_grows(versions[v]);
		test_offload(versions[v]);
		test_order(versions[v]);
		test_overload(versions[v]);
		test_bind(versions[v]);
		test_echo(versions[v], true);
		test_echo(versions[v], false);
	}
	test_truncated();
	test_v1_drops_tagged();
	test_offload_finished();
	return check_result();
}
