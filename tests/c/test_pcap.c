/*
 * pcap: both byte orders and units, hostile bytes, names that would leave the directory, pace,
 * records of a killed writer. Driven through port_ops as the worker does it.
 */
#include "pcap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "port.h"

static char directory[] = "/tmp/vswitch-pcap-XXXXXX";

static void path_of(char path[256], const char *name)
{
	snprintf(path, 256, "%s/%s", directory, name);
}

static void file_write(const char *name, const void *bytes, size_t length)
{
	char path[256];
	int fd;

	path_of(path, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CHECK(fd >= 0 && write(fd, bytes, length) == (ssize_t)length);
	close(fd);
}

static size_t file_read(const char *name, uint8_t *bytes, size_t room)
{
	char path[256];
	ssize_t got;
	int fd;

	path_of(path, name);
	fd = open(path, O_RDONLY);
	got = read(fd, bytes, room);
	CHECK(fd >= 0 && got >= 0);
	close(fd);
	return (size_t)got;
}

/* A port that is attached, its options and what the keeper would hold. */
struct rig {
	struct port port;
	struct port_option items[8];
	struct port_options options;
	struct port_fds fds;
	struct error err;
	struct port_counters cell;
	struct frame batch[FRAME_BATCH];
};

/* Options as "name value name value ..."; the directory is added. */
static int rig_acquire(struct rig *rig, unsigned count, const char *const *words)
{
	memset(rig, 0, sizeof(*rig));
	rig->options = (struct port_options){"p1", rig->items, count / 2 + 1};
	for (unsigned n = 0; n < count / 2; n++)
		rig->items[n] = (struct port_option){words[2 * n], words[2 * n + 1]};
	rig->items[count / 2] = (struct port_option){"directory", directory};
	return port_acquire("pcap", &rig->options, &rig->fds, &rig->err);
}
#define ACQUIRE(rig, ...)                                                                          \
	rig_acquire(rig, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *),              \
		    (const char *const[]){__VA_ARGS__})

static int rig_attach(struct rig *rig)
{
	struct port *port = &rig->port;

	memset(port, 0, sizeof(*port));
	port->ops = port_type_find("pcap");
	port->rxq[0].port = port->txq[0].port = port;
	strcpy(port->name, "p1");
	return port->ops->attach(port, &rig->options, &rig->fds, &rig->err);
}

static void rig_close(struct rig *rig)
{
	if (rig->port.priv)
		rig->port.ops->detach(&rig->port);
	for (unsigned n = 0; n < rig->fds.count; n++)
		close(rig->fds.fd[n]);
}

static int rig_rx(struct rig *rig)
{
	return rig->port.ops->rx(&rig->port.rxq[0], rig->batch, FRAME_BATCH, &rig->cell);
}

static void rig_done(struct rig *rig)
{
	rig->port.ops->rx_done(&rig->port.rxq[0]);
}

static struct tx_report rig_tx(struct rig *rig, const uint8_t *bytes, uint32_t length)
{
	struct frame frame = {.data = (uint8_t *)bytes, .len = length, .frame_len = length};
	struct frame *frames[1] = {&frame};
	struct tx_report report = {0};

	rig->port.ops->tx(&rig->port.txq[0], frames, 1, &report);
	return report;
}

/* --- files ------------------------------------------------------------------------------------ */

static void put(uint8_t *bytes, uint32_t value, unsigned width, bool big)
{
	for (unsigned n = 0; n < width; n++)
		bytes[n] = (uint8_t)(value >> 8 * (big ? width - 1 - n : n));
}

static size_t make_header(uint8_t *bytes, bool big, bool nanoseconds, uint32_t link)
{
	memset(bytes, 0, PCAP_HEADER_BYTES);
	put(bytes, nanoseconds ? 0xa1b23c4d : 0xa1b2c3d4, 4, big);
	put(bytes + 4, 2, 2, big);
	put(bytes + 6, 4, 2, big);
	put(bytes + 16, 65535, 4, big);
	put(bytes + 20, link, 4, big);
	return PCAP_HEADER_BYTES;
}

/* A record of `captured` bytes, the n-th all n; its time is n units. */
static size_t make_record(uint8_t *bytes, bool big, uint32_t n, uint32_t captured,
			  uint32_t original)
{
	put(bytes, 1000, 4, big);
	put(bytes + 4, n, 4, big);
	put(bytes + 8, captured, 4, big);
	put(bytes + 12, original, 4, big);
	memset(bytes + PCAP_RECORD_BYTES, (int)n, captured);
	return PCAP_RECORD_BYTES + captured;
}

static void test_formats(void)
{
	static uint8_t bytes[1 << 18];

	for (unsigned kind = 0; kind < 4; kind++) {
		bool big = kind & 1;
		struct rig rig;
		size_t length = make_header(bytes, big, kind & 2, 1);
		uint64_t seen = 0;
		int count;

		for (uint32_t n = 0; n < 200; n++)
			length += make_record(bytes + length, big, n, 60 + n, 60 + n);
		length += make_record(bytes + length, big, 7, 60, 1500); /* cut short */
		length += make_record(bytes + length, big, 7, 13, 13);
		length += make_record(bytes + length, big, 7, FRAME_LEN_MAX + 1, FRAME_LEN_MAX + 1);
		length += make_record(bytes + length, big, 200, 14, 14);
		file_write("in.pcap", bytes, length - 1 + (kind & 1)); /* the last one not whole */
		CHECK(ACQUIRE(&rig, "in", "in.pcap", "rate", "0") == 0);
		CHECK(rig_attach(&rig) == 0);
		while ((count = rig_rx(&rig)) > 0) {
			for (int i = 0; i < count; i++, seen++) {
				const struct frame *frame = &rig.batch[i];

				CHECK(frame->len == (seen < 200 ? 60 + seen : 14));
				CHECK(frame->frame_len == frame->len && !frame->next);
				CHECK(frame->data[0] == (uint8_t)seen &&
				      frame->data[frame->len - 1] == (uint8_t)seen);
				/* Writing over the headroom harms no other frame. */
				memset(frame->data - frame->headroom, 0xee, frame->headroom);
			}
			rig_done(&rig);
		}
		CHECK(seen == 200 + (kind & 1));
		CHECK(rig.cell.rx_frames == 3 && rig.cell.rx_drops[DROP_TRUNCATED] == 1);
		CHECK(rig.cell.rx_drops[DROP_MALFORMED] == 1);
		CHECK(rig.cell.rx_drops[DROP_TOO_BIG] == 1);
		rig_close(&rig);
	}
}

static void test_refusals(void)
{
	static const char *const names[] = {
	    "../in.pcap", "/etc/passwd", "a/b", ".",	     "..",   ".hidden",	 "",
	    "a b",	  "link.pcap",	 "sub", "hard.pcap", "fifo", "none.pcap"};
	uint8_t bytes[PCAP_HEADER_BYTES];
	char path[256], other[256];
	struct rig rig;

	make_header(bytes, false, true, 1);
	file_write("in.pcap", bytes, sizeof(bytes));
	path_of(path, "link.pcap");
	CHECK(symlink("in.pcap", path) == 0);
	file_write("one.pcap", bytes, sizeof(bytes));
	path_of(path, "one.pcap");
	path_of(other, "hard.pcap");
	CHECK(link(path, other) == 0);
	path_of(path, "sub");
	CHECK(mkdir(path, 0700) == 0);
	path_of(path, "fifo");
	CHECK(mkfifo(path, 0600) == 0);
	for (unsigned n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
		CHECK(ACQUIRE(&rig, "in", names[n]) < 0 && rig.err.message[0]);
		if (strcmp(names[n], "none.pcap") != 0)
			CHECK(ACQUIRE(&rig, "out", names[n]) < 0 && rig.err.message[0]);
		CHECK(rig.fds.count == 0);
	}
	make_header(bytes, false, true, 113); /* LINUX_SLL */
	file_write("sll.pcap", bytes, sizeof(bytes));
	CHECK(ACQUIRE(&rig, "in", "sll.pcap") == -EINVAL);
	put(bytes + 20, 1 | 0x24000000, 4, false); /* Ethernet with 4 bytes of FCS */
	file_write("fcs.pcap", bytes, sizeof(bytes));
	CHECK(ACQUIRE(&rig, "in", "fcs.pcap") == -EINVAL);
	file_write("short.pcap", bytes, 23);
	CHECK(ACQUIRE(&rig, "in", "short.pcap") == -EINVAL);
	CHECK(ACQUIRE(&rig, "out", "sll.pcap") == -EEXIST);
	put(bytes, 0x0a0d0d0a, 4, false);
	file_write("ng.pcap", bytes, sizeof(bytes));
	CHECK(ACQUIRE(&rig, "in", "ng.pcap") == -EINVAL && strstr(rig.err.message, "pcapng"));
	CHECK(ACQUIRE(&rig, "rate", "1") == -EINVAL);
	CHECK(ACQUIRE(&rig, "in", "in.pcap", "out", "in.pcap") == -EINVAL);
	CHECK(ACQUIRE(&rig, "in", "in.pcap", "rate", "fast") == -EINVAL);
	CHECK(ACQUIRE(&rig, "in", "in.pcap", "speed", "1") == -EINVAL);
}

static void test_output(void)
{
	static uint8_t frame[1500], bytes[8192];
	struct rig rig, second;
	struct tx_report report;
	size_t length;

	memset(frame, 0x5a, sizeof(frame));
	CHECK(ACQUIRE(&rig, "out", "out.pcap", "out_bytes_max", "1700") == 0);
	CHECK(ACQUIRE(&second, "out", "out.pcap") == -EBUSY);
	CHECK(rig_attach(&rig) == 0);
	report = rig_tx(&rig, frame, 60);
	CHECK(report.sent == 1 && report.sent_bytes == 60);
	report = rig_tx(&rig, frame, 1500);
	CHECK(report.sent == 1);
	report = rig_tx(&rig, frame, 1500);
	CHECK(report.sent == 0 && report.drops[DROP_QUEUE_FULL] == 1);
	length = file_read("out.pcap", bytes, sizeof(bytes));
	CHECK(length == 24 + 16 + 60 + 16 + 1500);
	CHECK(!memcmp(bytes + 40, frame, 60) && bytes[24 + 8] == 60 && bytes[24 + 12] == 60);

	/* The forwarder dies having written a part of a record: the next one cuts it off. */
	rig.port.ops->detach(&rig.port);
	CHECK(write(rig.fds.fd[0], frame, 31) == 31);
	CHECK(rig_attach(&rig) == 0);
	CHECK(file_read("out.pcap", bytes, sizeof(bytes)) == length);
	report = rig_tx(&rig, frame, 14);
	CHECK(report.sent == 1);
	CHECK(file_read("out.pcap", bytes, sizeof(bytes)) == length + 30);

	/* All die: whoever opens the file anew finds its last whole record. */
	CHECK(write(rig.fds.fd[0], frame, 31) == 31);
	rig_close(&rig);
	CHECK(ACQUIRE(&rig, "out", "out.pcap") == 0);
	CHECK(file_read("out.pcap", bytes, sizeof(bytes)) == length + 30);
	CHECK(rig_attach(&rig) == 0);
	CHECK(rig_tx(&rig, frame, 1000).sent == 1);
	CHECK(file_read("out.pcap", bytes, sizeof(bytes)) == length + 30 + 1016);
	rig_close(&rig);
	CHECK(ACQUIRE(&rig, "out", "out.pcap", "out_bytes_max", "100") == -ENOSPC);

	/* What was written can be received. */
	CHECK(ACQUIRE(&rig, "in", "out.pcap", "rate", "0") == 0 && rig_attach(&rig) == 0);
	CHECK(rig_rx(&rig) == 4 && rig.batch[1].len == 1500 && rig.batch[3].len == 1000);
	rig_close(&rig);
}

/* Chains, and more of them than one writev takes. */
static void test_chains(void)
{
	static struct frame frags[FRAME_BATCH][FRAME_FRAGS_MAX];
	static uint8_t bytes[1 << 20];
	struct frame *frames[FRAME_BATCH];
	struct tx_report report = {0};
	struct rig rig;
	uint8_t data[FRAME_FRAGS_MAX];
	uint64_t sent = 0;

	for (unsigned i = 0; i < FRAME_FRAGS_MAX; i++)
		data[i] = (uint8_t)i;
	for (unsigned n = 0; n < FRAME_BATCH; n++) {
		frames[n] = frags[n];
		for (unsigned i = 0; i < FRAME_FRAGS_MAX; i++)
			frags[n][i] = (struct frame){
			    .data = &data[i],
			    .len = 1,
			    .frame_len = FRAME_FRAGS_MAX,
			    .next = i + 1 < FRAME_FRAGS_MAX ? &frags[n][i + 1] : NULL};
	}
	CHECK(ACQUIRE(&rig, "out", "chains.pcap") == 0 && rig_attach(&rig) == 0);
	rig.port.ops->tx(&rig.port.txq[0], frames, FRAME_BATCH, &report);
	CHECK(report.sent == FRAME_BATCH && report.sent_bytes == FRAME_BATCH * FRAME_FRAGS_MAX);
	rig_close(&rig);
	CHECK(file_read("chains.pcap", bytes, sizeof(bytes)) == 24 + FRAME_BATCH * (16 + 64));
	for (unsigned n = 0; n < FRAME_BATCH; n++)
		sent += !memcmp(bytes + 40 + n * 80, data, FRAME_FRAGS_MAX);
	CHECK(sent == FRAME_BATCH);
}

/* A killed forwarder's batch comes again, a committed one does not. */
static void test_takeover(void)
{
	static uint8_t bytes[1 << 16];
	size_t length = make_header(bytes, false, true, 1);
	struct rig rig;

	for (uint32_t n = 0; n < 200; n++)
		length += make_record(bytes + length, false, n, 60, 60);
	file_write("in.pcap", bytes, length);
	CHECK(ACQUIRE(&rig, "in", "in.pcap", "rate", "0") == 0 && rig_attach(&rig) == 0);
	CHECK(rig_rx(&rig) == FRAME_BATCH);
	rig_done(&rig);
	CHECK(rig_rx(&rig) == FRAME_BATCH && rig.batch[0].data[0] == 64);
	rig.port.ops->detach(&rig.port);
	CHECK(rig_attach(&rig) == 0);
	CHECK(rig_rx(&rig) == FRAME_BATCH && rig.batch[0].data[0] == 64);
	rig.port.ops->rx_commit(&rig.port.rxq[0]);
	rig.port.ops->detach(&rig.port);
	CHECK(rig_attach(&rig) == 0);
	CHECK(rig_rx(&rig) == FRAME_BATCH && rig.batch[0].data[0] == 128);
	rig_close(&rig);
}

/* Waits as a worker does until `count` frames came, or more; milliseconds it took. */
static uint64_t receive_paced(struct rig *rig, unsigned count)
{
	uint64_t start = now_ms();

	while (count && now_ms() - start < 10000) {
		int got = rig_rx(rig);

		if (got > 0) {
			count -= (unsigned)got < count ? (unsigned)got : count;
			rig_done(rig);
		} else {
			struct pollfd fd = {.fd = rig->port.ops->rx_fd(&rig->port.rxq[0]),
					    .events = POLLIN};

			CHECK(poll(&fd, 1, 10000) == 1);
		}
	}
	CHECK(count == 0);
	return now_ms() - start;
}

static void test_pace(void)
{
	uint8_t bytes[1024];
	size_t length = make_header(bytes, false, false, 1);
	struct pollfd fd = {.events = POLLIN};
	struct rig rig;

	for (uint32_t n = 0; n < 4; n++)
		length += make_record(bytes + length, false, n * 30000, 60, 60); /* every 30 ms */
	length += make_record(bytes + length, false, 0, 60, 60); /* back in time: at once */
	file_write("slow.pcap", bytes, length);
	CHECK(ACQUIRE(&rig, "in", "slow.pcap") == 0 && rig_attach(&rig) == 0);
	CHECK(receive_paced(&rig, 5) >= 89);
	/* At the end there is nothing to wake up for. */
	CHECK(rig_rx(&rig) == 0);
	fd.fd = rig.port.ops->rx_fd(&rig.port.rxq[0]);
	CHECK(poll(&fd, 1, 20) == 0);
	rig_close(&rig);

	CHECK(ACQUIRE(&rig, "in", "slow.pcap", "rate", "500", "loop", "true") == 0);
	CHECK(rig_attach(&rig) == 0);
	CHECK(receive_paced(&rig, 51) >= 99);
	rig_close(&rig);
}

/* Any bytes behind a valid header: frames lie inside the buffer, it ends, looping or not. */
static void test_hostile(void)
{
	static uint8_t bytes[4096];
	uint64_t state = 88172645463325252ull;

	for (unsigned round = 0; round < 300; round++) {
		const char *loop = round % 3 ? "false" : "true";
		size_t length = make_header(bytes, round & 1, round & 2, 1);
		uint64_t sum = 0;
		struct rig rig;

		while (length < sizeof(bytes) - 300) {
			state ^= state << 13, state ^= state >> 7, state ^= state << 17;
			length += make_record(bytes + length, round & 1, (uint32_t)state % 7,
					      (uint32_t)(state >> 40) % 200,
					      (uint32_t)(state >> 40) % 200);
			if (length > 300 && state >> 60 == 0)
				bytes[length - 1 - (state >> 20) % 30] = (uint8_t)state;
			if (length > 300 && state >> 56 == 3) /* a length of anything */
				put(bytes + length - 200, (uint32_t)(state >> 13), 4, false);
		}
		file_write("bad.pcap", bytes, length);
		CHECK(ACQUIRE(&rig, "in", "bad.pcap", "rate", "0", "loop", loop) == 0);
		CHECK(rig_attach(&rig) == 0);
		for (unsigned n = 0; n < 20; n++) {
			int count = rig_rx(&rig);

			for (int i = 0; i < count; i++)
				for (uint32_t at = 0; at < rig.batch[i].len; at++)
					sum += rig.batch[i].data[at];
			if (count > 0)
				rig_done(&rig);
		}
		CHECK(sum > 0 || round);
		rig_close(&rig);
	}
	/* Only refused records, for ever: every call returns. */
	make_header(bytes, false, true, 1);
	make_record(bytes + 24, false, 0, 5, 5);
	file_write("bad.pcap", bytes, 24 + 16 + 5);
	struct rig rig;
	CHECK(ACQUIRE(&rig, "in", "bad.pcap", "rate", "0", "loop", "true") == 0);
	CHECK(rig_attach(&rig) == 0);
	for (unsigned n = 0; n < 5; n++)
		CHECK(rig_rx(&rig) == 0);
	CHECK(rig.cell.rx_drops[DROP_MALFORMED] == 1);
	rig_close(&rig);
}

/* A file larger than the buffer comes whole and in order. */
static void test_large(void)
{
	enum { RECORDS = 4000, LENGTH = 1000 };
	size_t room = 24 + (size_t)RECORDS * (16 + LENGTH), length;
	uint8_t *bytes = malloc(room);
	struct rig rig;
	uint32_t seen = 0;
	int count;

	CHECK(bytes != NULL);
	length = make_header(bytes, false, true, 1);
	for (uint32_t n = 0; n < RECORDS; n++)
		length += make_record(bytes + length, false, n, LENGTH, LENGTH);
	file_write("large.pcap", bytes, length);
	CHECK(ACQUIRE(&rig, "in", "large.pcap", "rate", "0") == 0 && rig_attach(&rig) == 0);
	while ((count = rig_rx(&rig)) > 0) {
		for (int i = 0; i < count; i++, seen++)
			CHECK(rig.batch[i].len == LENGTH &&
			      rig.batch[i].data[LENGTH - 1] == seen % 256);
		rig_done(&rig);
	}
	CHECK(seen == RECORDS);
	rig_close(&rig);
	free(bytes);
}

int main(void)
{
	char command[300];

	if (!mkdtemp(directory))
		return 1;
	test_formats();
	test_refusals();
	test_output();
	test_chains();
	test_takeover();
	test_pace();
	test_hostile();
	test_large();
	snprintf(command, sizeof(command), "rm -r %s", directory);
	CHECK(system(command) == 0);
	return check_result();
}
