/*
 * af_packet, send rings: each version with each set of rings, the states of a slot, order over
 * many turns, a ring that is never stuck, bytes that nobody overwrites, and a sender that dies at
 * every step of a batch.
 */
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "af_packet.h"
#include "af_packet_net.h"

static const char *const versions[] = {"1", "2", "3"};
enum { VERSIONS = 3 };

static int host1;
static struct net_frame sent_frame, got_frame;

static struct frame frame_of(struct net_frame *from)
{
	return (struct frame){
	    .data = from->data, .len = from->len, .frame_len = from->len, .offload = from->offload};
}

static void check_arrives(uint32_t number, uint32_t len)
{
	if (!CHECK(host_receive(host1, &got_frame, NET_WAIT_MS)))
		return;
	frame_make(&sent_frame, number, len, "");
	CHECK(got_frame.len == len && !memcmp(got_frame.data, sent_frame.data, len));
}

static void send_one(struct end *end, uint32_t number, uint32_t len)
{
	struct frame frame;

	frame_make(&sent_frame, number, len, "");
	frame = frame_of(&sent_frame);
	end_send(end, &frame, 1);
	CHECK(end->report.sent == 1 && end->report.sent_bytes == len);
}

/* P1: what each set of rings can do. */
static void test_P1_matrix(const char *version, const char *ring)
{
	bool receives = strcmp(ring, "tx") != 0, sends = strcmp(ring, "rx") != 0;
	struct frame batch[FRAME_BATCH];
	struct port_status status;
	struct end end;

	end_open_with(&end, "p1", version, "ring", ring, NULL);
	end_attach(&end);
	CHECK(end.port.rx_queue_count == receives && end.port.tx_queue_count == 1);
	end.port.ops->poll_status(&end.port, &status);
	CHECK(status.link_up && !!strstr(status.detail, "rx ring") == receives);
	CHECK(!!strstr(status.detail, "tx ring") == sends);
	for (uint32_t i = 0; i < 3; i++) {
		send_one(&end, i, 60 + 700 * i);
		check_arrives(i, 60 + 700 * i);
	}
	frame_make(&sent_frame, 9, 300, "");
	CHECK(!host_send(host1, &sent_frame));
	if (receives) {
		CHECK(end_receive(&end, batch, FRAME_BATCH, NET_WAIT_MS) == 1);
		CHECK(batch[0].len == 300 && frame_number(batch[0].data) == 9);
		end_done(&end);
		CHECK(!end_receive(&end, batch, FRAME_BATCH, 20)); /* nothing of its own */
	} else {
		CHECK(!poll(&(struct pollfd){.fd = end.fds.fd[1], .events = POLLIN}, 1, 20));
	}
	end_close(&end);
}

/* A thousand turns of a ring of eight slots, with frames that do not fit between the others. */
static void test_P4_ring_wraps(const char *version)
{
	enum { TURNS = 1000, SLOTS = 8 };
	struct end end;

	end_open_with(&end, "p1", version, "ring", "tx", "geometry_block_bytes", "4096",
		      "geometry_blocks", "8", "geometry_frame_bytes", "2064", NULL);
	end_attach(&end);
	for (uint32_t i = 0; i < TURNS * SLOTS; i++) {
		uint32_t len = i % 5 ? 60 + i % 900 : 1514;

		send_one(&end, i, len);
		check_arrives(i, len);
	}
	end_close(&end);
}

/*
 * A hundred thousand turns of a receive ring of two slots, in order. Of version 3's two blocks a
 * thousand: each is handed over by its timeout.
 */
static void test_P4_receive_ring_wraps(const char *version)
{
	bool v3 = version[0] == '3';
	uint64_t turns = v3 ? 1000 : 100000, *released;
	uint32_t sent = 0, got = 0;
	struct frame batch[FRAME_BATCH];
	struct end end;

	end_open_with(&end, "p1", version, "geometry_block_bytes", "4096", "geometry_blocks",
		      v3 ? "2" : "1", NULL);
	end_attach(&end);
	released = &((struct af_rx *)end.port.rxq[0].priv)->released;
	while (*released < 2 * turns) {
		for (unsigned i = 0; i < 2; i++) {
			frame_make(&sent_frame, sent++, 60, "");
			CHECK(!host_send(host1, &sent_frame));
		}
		while (got < sent) {
			unsigned n = end_receive(&end, batch, FRAME_BATCH, NET_WAIT_MS);

			if (!CHECK(n))
				return;
			for (unsigned i = 0; i < n; i++)
				CHECK(frame_number(batch[i].data) == got++);
			end_done(&end);
		}
	}
	end_close(&end);
}

/* P8: EMSGSIZE marks the slot; it and offload state that cannot be are dropped, nothing else. */
static void test_P8_wrong_format(const char *version)
{
	enum { COUNT = 5 };
	static struct net_frame frames[COUNT];
	struct frame batch[COUNT];
	struct end end;

	net_run("ip link set p1 mtu 9000"); /* slots that take what the link then does not */
	end_open_with(&end, "p1", version, "ring", "both", NULL);
	net_run("ip link set p1 mtu 1500");
	end_attach(&end);
	for (uint32_t round = 0; round < 200; round++) {
		for (uint32_t i = 0; i < COUNT; i++) {
			frame_make(&frames[i], round + i, i == 1 ? 1600 : 100, "");
			batch[i] = frame_of(&frames[i]);
		}
		batch[3].offload = (struct frame_offload){
		    .flags = FRAME_CSUM_NEEDED, .csum_start = 99, .csum_offset = 16};
		end_send(&end, batch, COUNT);
		CHECK(end.report.sent == 3 && end.report.sent_bytes == 300);
		CHECK(end.report.drops[DROP_TOO_BIG] == 1);
		CHECK(end.report.drops[DROP_OFFLOAD_INVALID] == 1);
		check_arrives(round, 100);
		check_arrives(round + 2, 100);
		check_arrives(round + 4, 100);
	}
	net_run("ip link set p1 down");
	batch[0] = frame_of(&frames[0]);
	end_send(&end, batch, 1);
	CHECK(end.report.drops[DROP_LINK_DOWN] == 1);
	net_run("ip link set p1 up");
	send_one(&end, 77, 100);
	check_arrives(77, 100);
	end_close(&end);
}

/* P8: timestamps in a slot's status do not make it the kernel's. */
static void test_P8_P11_status_bits(const char *version)
{
	static const uint32_t stamps[] = {TP_STATUS_TS_SOFTWARE, TP_STATUS_TS_RAW_HARDWARE,
					  TP_STATUS_TS_SOFTWARE | TP_STATUS_TS_RAW_HARDWARE};
	struct end end;
	struct af_tx *tx;

	end_open_with(&end, "p1", version, "ring", "tx", "geometry_block_bytes", "4096",
		      "geometry_blocks", "1", "geometry_frame_bytes", "2048", NULL);
	end_attach(&end);
	tx = end.port.txq[0].priv;
	for (uint32_t i = 0; i < 30; i++) {
		uint8_t *slot = af_slot(&tx->slots, tx->head);
		_Atomic uint32_t *status =
		    (_Atomic uint32_t *)(version[0] == '3'
					     ? slot + offsetof(struct tpacket3_hdr, tp_status)
					     : slot);

		atomic_store(status, stamps[i % 3]);
		send_one(&end, i, 60);
		check_arrives(i, 60);
	}
	/* A slot that is the kernel's is left alone: the frame takes the other way. */
	uint8_t *slot = af_slot(&tx->slots, tx->head);
	uint8_t *at = version[0] == '3' ? slot + offsetof(struct tpacket3_hdr, tp_status) : slot;
	uint64_t head = tx->head;

	atomic_store((_Atomic uint32_t *)at, TP_STATUS_SENDING);
	send_one(&end, 4, 60);
	check_arrives(4, 60);
	CHECK(tx->head == head && atomic_load((_Atomic uint32_t *)at) == TP_STATUS_SENDING);
	atomic_store((_Atomic uint32_t *)at, TP_STATUS_AVAILABLE);
	send_one(&end, 5, 60);
	check_arrives(5, 60);
	end_close(&end);
}

/* P8 in the kernel's own terms: PACKET_LOSS skips a bad slot, PACKET_TX_HAS_OFF moves the data. */
static void test_P8_kernel_options(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0), yes = 1, version = TPACKET_V2;
	struct tpacket_req ring = {4096, 1, 2048, 2};
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
				      .sll_ifindex = (int)if_nametoindex("p1")};
	struct tpacket2_hdr *slot[2];
	uint8_t *map;

	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_LOSS, &yes, sizeof(yes)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_TX_HAS_OFF, &yes, sizeof(yes)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof(ring)));
	CHECK(!bind(fd, (struct sockaddr *)&address, sizeof(address)));
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(map != MAP_FAILED);
	slot[0] = (struct tpacket2_hdr *)map;
	slot[1] = (struct tpacket2_hdr *)(map + 2048);
	slot[0]->tp_mac = slot[1]->tp_mac = 256;
	slot[0]->tp_len = 1700; /* more than the link takes */
	slot[1]->tp_len = 60;
	frame_make(&sent_frame, 3, 60, "");
	memcpy(map + 2048 + 256, sent_frame.data, 60);
	slot[0]->tp_status = slot[1]->tp_status = TP_STATUS_SEND_REQUEST;
	CHECK(send(fd, NULL, 0, 0) == 60);
	CHECK(!(slot[0]->tp_status & (TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT)));
	check_arrives(3, 60);
	munmap(map, 4096);
	close(fd);
}

/* UDP to 198.51.100.2 with a payload of one letter; the checksum 0 says that there is none. */
static void udp_make(struct net_frame *frame, uint8_t letter, uint32_t payload)
{
	uint8_t headers[28] = {0x45, 0, 0,   0,	 0,   0, 0,    0, 64,	17, 0, 0, 198, 51,
			       100,  1, 198, 51, 100, 2, 0x30, 0, 0x30, 1,  0, 0, 0,   0};
	uint16_t length = htons((uint16_t)(28 + payload));
	uint32_t sum = 0;

	frame_make(frame, 0, 42 + payload, "");
	memset(frame->data, 0xff, 6);
	frame->data[12] = 8;
	frame->data[13] = 0;
	memcpy(headers + 2, &length, sizeof(length));
	length = htons((uint16_t)(8 + payload));
	memcpy(headers + 24, &length, sizeof(length));
	for (unsigned i = 0; i < 20; i += 2)
		sum += (uint32_t)(headers[i] << 8 | headers[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	headers[10] = (uint8_t)(~sum >> 8);
	headers[11] = (uint8_t)~sum;
	memcpy(frame->data + 14, headers, sizeof(headers));
	memset(frame->data + 42, letter, payload);
}

/*
 * P8: datagrams that a receiver behind the veth pair has not read yet, while their slots are used
 * again and again. Each still holds its own letter.
 */
static void test_P8_bytes_stay(const char *version)
{
	enum { DATAGRAMS = 64, PAYLOAD = 1400 };
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(0x3001)};
	int reader = socket(AF_INET, SOCK_DGRAM, 0), bytes = 8 << 20;
	uint8_t payload[PAYLOAD];
	struct end end;

	net_run("ip address add 198.51.100.2/24 dev h1");
	CHECK(!setsockopt(reader, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)));
	CHECK(!bind(reader, (struct sockaddr *)&address, sizeof(address)));
	end_open_with(&end, "p1", version, "ring", "tx", "geometry_block_bytes", "4096",
		      "geometry_blocks", "2", "geometry_frame_bytes", "2048", NULL);
	end_attach(&end);
	for (unsigned i = 0; i < DATAGRAMS; i++) {
		struct frame frame;

		udp_make(&sent_frame, (uint8_t)('A' + i), PAYLOAD);
		frame = frame_of(&sent_frame);
		end_send(&end, &frame, 1);
		CHECK(end.report.sent == 1);
	}
	for (unsigned i = 0; i < DATAGRAMS; i++) {
		CHECK(recv(reader, payload, sizeof(payload), MSG_DONTWAIT) == PAYLOAD);
		for (unsigned at = 0; at < PAYLOAD; at++) {
			if (!CHECK(payload[at] == (uint8_t)('A' + i)))
				break;
		}
	}
	end_close(&end);
	close(reader);
	net_run("ip address del 198.51.100.2/24 dev h1");
	while (host_receive(host1, &got_frame, 0))
		;
}

/* --- deaths ----------------------------------------------------------------------------------- */

enum { BATCH = 20 };

/* The journal and the slots as a sender leaves them that dies at a step of a batch of BATCH. */
static void die_at(struct end *end, unsigned step, uint32_t number)
{
	struct af_tx *tx = end->port.txq[0].priv;
	struct af_journal_queue *journal = tx->journal;
	static uint8_t bytes[BATCH][2048];
	static struct net_frame frame;
	uint64_t marked = step == 1 ? BATCH / 2 : BATCH;

	for (uint32_t i = 0; i < BATCH; i++) {
		uint8_t *slot = af_slot(&tx->slots, tx->head + i);
		struct virtio_net_hdr header = {.hdr_len = 60};

		frame_make(&frame, number + i, 60, "");
		memcpy(bytes[i], &header, AF_VNET_BYTES);
		memcpy(bytes[i] + AF_VNET_BYTES, frame.data, 60);
		memcpy(slot + AF_V2_ADDRESS, bytes[i], AF_VNET_BYTES + 60);
		((struct tpacket2_hdr *)slot)->tp_len = AF_VNET_BYTES + 60;
	}
	atomic_store(&journal->tx_end, tx->head + BATCH);
	for (uint64_t i = 0; step && i < marked; i++)
		atomic_store((_Atomic uint32_t *)af_slot(&tx->slots, tx->head + i),
			     TP_STATUS_SEND_REQUEST);
	if (step >= 2)
		atomic_store(&journal->tx_kicked, tx->head + BATCH);
	if (step >= 3)
		CHECK(send(tx->ring_fd, NULL, 0, 0) > 0);
}

/* Filled; half marked; told; sent: each frame of the batch arrives once, and the ring goes on. */
static void test_P8_deaths(void)
{
	uint32_t number = 0;
	struct end end;

	end_open_with(&end, "p1", "2", "ring", "tx", NULL);
	for (unsigned life = 0; life < 400; life++) {
		end_attach(&end);
		if (life)
			send_one(&end, number++, 60);
		if (life)
			check_arrives(number - 1, 60);
		die_at(&end, life % 4, number);
		end.port.ops->detach(&end.port); /* writes nothing that a kill would not leave */
		end_attach(&end);
		for (uint32_t i = 0; i < BATCH; i++)
			check_arrives(number++, 60);
		CHECK(!host_receive(host1, &got_frame, 0));
		end.port.ops->detach(&end.port);
	}
	end.port.priv = NULL;
	end_close(&end);
}

int main(void)
{
	net_enter();
	host1 = host_open("h1");
	for (unsigned v = 0; v < VERSIONS; v++) {
		test_P1_matrix(versions[v], "rx");
		test_P1_matrix(versions[v], "tx");
		test_P1_matrix(versions[v], "both");
		test_P4_ring_wraps(versions[v]);
		test_P4_receive_ring_wraps(versions[v]);
		test_P8_wrong_format(versions[v]);
		test_P8_P11_status_bits(versions[v]);
		test_P8_bytes_stay(versions[v]);
	}
	test_P8_kernel_options();
	test_P8_deaths();
	return check_result();
}
