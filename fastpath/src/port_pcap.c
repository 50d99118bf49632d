/*
 * pcap: receives what a file holds and writes what it is given to another, so that captures can
 * be replayed and taken without a device.
 *
 *   in             file to replay; none: the port receives nothing
 *   out            file to append to (pcap_file.h); none: frames are discarded and count as sent
 *   rate           frames a second; 0: as fast as they are taken; absent: with the recorded gaps
 *   loop           begin again at the end
 *   out_bytes_max  the file grows to this, default 1 GiB; frames beyond are dropped (queue_full)
 *   directory      where the files are; set by the keeper, not by users
 *
 * acquire opens in the keeper, which may hold files that the forwarder could not open. The fds:
 * in, out, a timer, a journal, in this order, those that do not exist left out. The journal is a
 * memfd with the position of both files: a new forwarder goes on behind the last committed batch,
 * and cuts off a record that the killed one wrote in part.
 *
 * Records cut short by their snap length are booked as truncated, those larger than a frame can be
 * as too_big, those shorter than an Ethernet header as malformed. A damaged record ends the file.
 *
 * Runs on: keeper (acquire), control thread (attach, detach, poll_status), workers (rx, tx).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "pcap_file.h"
#include "port.h"

enum {
	BUFFER_BYTES = 1 << 20,
	REFILL_BYTES = BUFFER_BYTES / 2, /* more than any record; read on when less is left */
	RECORDS_MAX = 4 * FRAME_BATCH,	 /* looked at for one batch */
	IOVS_MAX = 1024,		 /* IOV_MAX */
	RATE_RECORDED = -1
};

static const uint32_t out_bytes_default = 1u << 30;
static const uint64_t second_ns = 1000000000;

static const char *const pcap_options[] = {"in",	"out", "rate", "loop", "out_bytes_max",
					   "directory", NULL};

struct journal {
	_Atomic uint64_t in_offset; /* next record to receive; 0: the first */
	_Atomic uint64_t out_bytes; /* of whole records, header included */
};

struct reader {
	int fd, timer_fd;
	struct pcap_format format;
	int64_t rate; /* frames/s, 0 unpaced, RATE_RECORDED */
	bool loop;
	uint8_t *buffer;
	uint64_t offset;   /* in the file, of buffer[0] */
	size_t fill, at;   /* bytes in the buffer; where the next record begins */
	bool started;	   /* the clocks below are set */
	uint64_t start_ns; /* CLOCK_MONOTONIC, of the first record since */
	uint64_t first_ns; /* the file's time of that record */
	uint64_t made;	   /* frames since, for rate */
	uint64_t due_ns;   /* of the next record, where that is what rx waits for */
	uint64_t pass_frames;
	_Atomic bool ended;
};

struct writer {
	int fd;
	uint64_t bytes_max;
	uint8_t headers[FRAME_BATCH][PCAP_RECORD_BYTES];
	struct iovec iovs[IOVS_MAX];
};

struct pcap {
	bool has_in, has_out;
	struct reader in;
	struct writer out;
	struct journal *journal;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * second_ns + (uint64_t)now.tv_nsec;
}

/* --- keeper ------------------------------------------------------------------------------------
 */

struct settings {
	const char *in, *out;
	int64_t rate;
	bool loop;
	uint32_t out_bytes_max;
};

static int settings_read(struct settings *settings, const struct port_options *options,
			 struct error *err)
{
	uint32_t rate;
	int status;

	settings->in = port_option_text(options, "in", NULL);
	settings->out = port_option_text(options, "out", NULL);
	if (!settings->in && !settings->out)
		return error_set(err, EINVAL, "%s: a pcap port needs in, out or both",
				 options->port);
	if (settings->in && settings->out && strcmp(settings->in, settings->out) == 0)
		return error_set(err, EINVAL, "%s: in and out are the same file", options->port);
	status = port_option_u32(options, "rate", 0, 0, UINT32_MAX, &rate, err);
	if (!status)
		status = port_option_bool(options, "loop", false, &settings->loop, err);
	if (!status)
		status =
		    port_option_u32(options, "out_bytes_max", out_bytes_default, PCAP_HEADER_BYTES,
				    UINT32_MAX, &settings->out_bytes_max, err);
	settings->rate = port_option_text(options, "rate", NULL) ? (int64_t)rate : RATE_RECORDED;
	return status;
}

static int journal_create(uint64_t out_bytes, struct error *err)
{
	int fd = memfd_create("vswitch-pcap", MFD_CLOEXEC);
	struct journal journal = {.out_bytes = out_bytes};

	if (fd >= 0 && write(fd, &journal, sizeof(journal)) == sizeof(journal))
		return fd;
	if (fd >= 0)
		close(fd);
	return error_set(err, ENOMEM, "pcap: no memory for the journal");
}

static int timer_create_fd(struct error *err)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	return fd < 0 ? error_set(err, errno, "pcap: no timer: %s", strerror(errno)) : fd;
}

/* Keeps fd, or passes on the error that it is. */
static int fds_push(struct port_fds *fds, int fd)
{
	if (fd < 0)
		return fd;
	fds->fd[fds->count++] = fd;
	return 0;
}

static int pcap_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	const char *directory = port_option_text(options, "directory", NULL);
	struct settings settings;
	uint64_t end = 0;
	int status = settings_read(&settings, options, err);

	if (status)
		return status;
	if (settings.in)
		status = fds_push(fds, pcap_open_read(directory, settings.in, err));
	if (!status && settings.out)
		status = fds_push(fds, pcap_open_append(directory, settings.out,
							settings.out_bytes_max, &end, err));
	if (!status)
		status = fds_push(fds, timer_create_fd(err));
	if (!status)
		status = fds_push(fds, journal_create(end, err));
	if (status) {
		while (fds->count)
			close(fds->fd[--fds->count]);
		return status;
	}
	snprintf(fds->state, sizeof(fds->state), "in=%d out=%d", settings.in != NULL,
		 settings.out != NULL);
	return 0;
}

/* --- attach ------------------------------------------------------------------------------------
 */

static int reader_open(struct pcap *pcap, const char *name, struct error *err)
{
	struct reader *in = &pcap->in;
	uint64_t offset = atomic_load_explicit(&pcap->journal->in_offset, memory_order_relaxed);
	uint8_t header[PCAP_HEADER_BYTES];

	if (pread(in->fd, header, sizeof(header), 0) != sizeof(header))
		return error_set(err, EINVAL, "pcap: %s is shorter than a pcap header", name);
	in->buffer = malloc(BUFFER_BYTES);
	if (!in->buffer)
		return error_set(err, ENOMEM, "pcap: no memory");
	in->offset = offset > PCAP_HEADER_BYTES ? offset : PCAP_HEADER_BYTES;
	return pcap_header_parse(header, name, &in->format, err);
}

static int writer_open(struct pcap *pcap, const char *name, struct error *err)
{
	uint64_t end = atomic_load_explicit(&pcap->journal->out_bytes, memory_order_relaxed);

	if (lseek(pcap->out.fd, 0, SEEK_END) > (off_t)end &&
	    ftruncate(pcap->out.fd, (off_t)end) < 0)
		return error_set(err, errno, "pcap: the end of %s cannot be cut off", name);
	return 0;
}

static int pcap_attach(struct port *port, const struct port_options *options,
		       const struct port_fds *fds, struct error *err)
{
	struct pcap *pcap;
	struct settings settings = {0};
	unsigned next = 0;
	int status = settings_read(&settings, options, err);

	if (status)
		return status;
	if (fds->count != 2u + (settings.in != NULL) + (settings.out != NULL) ||
	    port_state_u32(fds, "in", 2) != (settings.in != NULL))
		return error_set(err, EPROTO, "%s: the files held are not those asked for",
				 port->name);
	pcap = calloc(1, sizeof(*pcap));
	if (!pcap)
		return error_set(err, ENOMEM, "%s: no memory", port->name);
	pcap->has_in = settings.in;
	pcap->has_out = settings.out;
	pcap->in.rate = settings.rate;
	pcap->in.loop = settings.loop;
	pcap->out.bytes_max = settings.out_bytes_max;
	pcap->in.fd = pcap->has_in ? fds->fd[next++] : -1;
	pcap->out.fd = pcap->has_out ? fds->fd[next++] : -1;
	pcap->in.timer_fd = fds->fd[next++];
	pcap->journal = mmap(NULL, sizeof(*pcap->journal), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_POPULATE, fds->fd[next], 0);
	if (pcap->journal == MAP_FAILED) {
		status = error_set(err, errno, "%s: the journal cannot be mapped", port->name);
		goto no_journal;
	}
	if (pcap->has_in)
		status = reader_open(pcap, settings.in, err);
	if (!status && pcap->has_out)
		status = writer_open(pcap, settings.out, err);
	if (status)
		goto failed;
	port->priv = pcap;
	port->pool = 0;
	port->caps = PORT_CAP_FRAGS;
	port->rx_queue_count = pcap->has_in;
	port->tx_queue_count = 1;
	port->rxq[0].priv = pcap;
	port->txq[0].priv = pcap;
	return 0;

failed:
	free(pcap->in.buffer);
	munmap(pcap->journal, sizeof(*pcap->journal));
no_journal:
	free(pcap);
	return status;
}

static void pcap_detach(struct port *port)
{
	struct pcap *pcap = port->priv;

	free(pcap->in.buffer);
	munmap(pcap->journal, sizeof(*pcap->journal));
	free(pcap);
	port->priv = NULL;
}

static void pcap_poll_status(struct port *port, struct port_status *status)
{
	const struct pcap *pcap = port->priv;
	const char *in = !pcap->has_in ? "reads nothing"
			 : atomic_load_explicit(&pcap->in.ended, memory_order_relaxed) ? "has read"
										       : "reads";

	status->link_up = true;
	status->caps = port->caps;
	status->rx_queues = port->rx_queue_count;
	status->tx_queues = port->tx_queue_count;
	snprintf(status->detail, sizeof(status->detail), "%s, at byte %llu; %s, %llu bytes", in,
		 (unsigned long long)atomic_load_explicit(&pcap->journal->in_offset,
							  memory_order_relaxed),
		 pcap->has_out ? "writes" : "writes nothing",
		 (unsigned long long)atomic_load_explicit(&pcap->journal->out_bytes,
							  memory_order_relaxed));
}

/* --- rx ----------------------------------------------------------------------------------------
 */

/* Nothing points into the buffer now. Afterwards it holds a whole record, or the file's end. */
static void reader_refill(struct reader *in)
{
	size_t left = in->fill - in->at;

	if (left >= REFILL_BYTES)
		return;
	memmove(in->buffer, in->buffer + in->at, left);
	in->offset += in->at;
	in->at = 0;
	in->fill = left;
	while (in->fill < BUFFER_BYTES) {
		ssize_t got = pread(in->fd, in->buffer + in->fill, BUFFER_BYTES - in->fill,
				    (off_t)(in->offset + in->fill));

		if (got <= 0)
			return;
		in->fill += (size_t)got;
	}
}

static void reader_rewind(struct reader *in)
{
	if (!in->loop || !in->pass_frames) {
		atomic_store_explicit(&in->ended, true, memory_order_relaxed);
		return;
	}
	in->pass_frames = 0;
	in->offset = PCAP_HEADER_BYTES;
	in->fill = in->at = 0;
	if (in->rate == RATE_RECORDED)
		in->started = false;
	reader_refill(in);
}

/* The next record, when the buffer holds it whole. */
static bool reader_peek(const struct reader *in, struct pcap_record *record)
{
	size_t left = in->fill - in->at;

	return left >= PCAP_RECORD_BYTES &&
	       pcap_record_parse(&in->format, in->buffer + in->at, record) &&
	       left - PCAP_RECORD_BYTES >= record->captured;
}

static bool reader_due(struct reader *in, const struct pcap_record *record, uint64_t now_ns)
{
	uint64_t since;

	if (in->rate == 0)
		return true;
	if (!in->started) {
		in->started = true;
		in->start_ns = now_ns;
		in->first_ns = record->time_ns;
		in->made = 0;
	}
	if (in->rate == RATE_RECORDED)
		since = record->time_ns > in->first_ns ? record->time_ns - in->first_ns : 0;
	else
		since = (uint64_t)((unsigned __int128)in->made * second_ns / (uint64_t)in->rate);
	in->due_ns = in->start_ns + since;
	if (in->due_ns > now_ns)
		return false;
	/* What was missed while nobody came for more than a second is not made up for. */
	if (in->rate > 0 && now_ns - in->due_ns > second_ns) {
		in->start_ns = now_ns;
		in->made = 0;
	}
	return true;
}

/* Books a record that is no frame; false when it is one. */
static bool record_refused(const struct pcap_record *record, struct port_counters *cell)
{
	enum drop_reason reason;

	if (record->original > record->captured)
		reason = DROP_TRUNCATED;
	else if (record->captured > FRAME_LEN_MAX)
		reason = DROP_TOO_BIG;
	else if (record->captured < FRAME_LEN_MIN)
		reason = DROP_MALFORMED;
	else
		return false;
	counter_add(&cell->rx_frames, 1);
	counter_add(&cell->rx_bytes, record->captured);
	counter_add(&cell->rx_drops[reason], 1);
	return true;
}

static void reader_commit(struct pcap *pcap)
{
	atomic_store_explicit(&pcap->journal->in_offset, pcap->in.offset + pcap->in.at,
			      memory_order_release);
}

static int pcap_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		   struct port_counters *cell)
{
	struct pcap *pcap = queue->priv;
	struct reader *in = &pcap->in;
	struct pcap_record record;
	uint64_t now_ns = in->rate ? clock_ns(CLOCK_MONOTONIC) : 0;
	unsigned count = 0;

	if (atomic_load_explicit(&in->ended, memory_order_relaxed))
		return 0;
	reader_refill(in);
	if (!reader_peek(in, &record))
		reader_rewind(in);
	for (unsigned looked = 0; count < max && looked < RECORDS_MAX; looked++) {
		uint8_t *data = in->buffer + in->at + PCAP_RECORD_BYTES;

		/* Cut off by the buffer, the next call reads on; by the file's end, it sees that.
		 */
		if (!reader_peek(in, &record) || !reader_due(in, &record, now_ns))
			break;
		in->at += PCAP_RECORD_BYTES + record.captured;
		in->made++;
		if (record_refused(&record, cell))
			continue;
		in->pass_frames++;
		/* The record's header is done with and may be written over. */
		batch[count++] = (struct frame){.data = data,
						.len = record.captured,
						.frame_len = record.captured,
						.headroom = PCAP_RECORD_BYTES};
	}
	if (!count)
		reader_commit(pcap);
	return (int)count;
}

/* rx_commit and rx_done: the file keeps its bytes, only the position moves. */
static void pcap_rx_commit(struct port_queue *queue)
{
	reader_commit(queue->priv);
}

/* The timer fires when the next record is due; at the end of the file never. */
static int pcap_rx_fd(const struct port_queue *queue)
{
	const struct pcap *pcap = queue->priv;
	const struct reader *in = &pcap->in;
	struct itimerspec when = {0};

	if (!atomic_load_explicit(&in->ended, memory_order_relaxed)) {
		uint64_t due_ns = in->rate && in->due_ns ? in->due_ns : 1;

		when.it_value.tv_sec = (time_t)(due_ns / second_ns);
		when.it_value.tv_nsec = (long)(due_ns % second_ns);
	}
	timerfd_settime(in->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
	return in->timer_fd;
}

/* --- tx ----------------------------------------------------------------------------------------
 */

/* Appends frames [0, count) as whole records; returns how many are in the file. */
static unsigned writer_append(struct pcap *pcap, struct frame *const *frames, unsigned count,
			      unsigned iov_count, struct tx_report *report)
{
	uint64_t end = atomic_load_explicit(&pcap->journal->out_bytes, memory_order_relaxed);
	uint64_t whole = 0;
	unsigned sent = 0;
	ssize_t written;

	port_commit(report);
	written = writev(pcap->out.fd, pcap->out.iovs, (int)iov_count);

	while (sent < count) {
		uint64_t next = whole + PCAP_RECORD_BYTES + frames[sent]->frame_len;

		if (written < 0 || next > (uint64_t)written)
			break;
		whole = next;
		sent++;
	}
	if (written > 0 && whole < (uint64_t)written &&
	    ftruncate(pcap->out.fd, (off_t)(end + whole)))
		return 0; /* the disk fails: what is there stays unsaid, attach cuts it off */
	atomic_store_explicit(&pcap->journal->out_bytes, end + whole, memory_order_release);
	return sent;
}

static unsigned iovs_fill(struct writer *out, unsigned at, const struct frame *frame, unsigned n,
			  uint64_t time_ns)
{
	struct pcap_record record = {
	    .time_ns = time_ns, .captured = frame->frame_len, .original = frame->frame_len};

	pcap_record_make(out->headers[n], &record);
	out->iovs[at++] = (struct iovec){out->headers[n], PCAP_RECORD_BYTES};
	for (; frame; frame = frame->next)
		out->iovs[at++] = (struct iovec){frame->data, frame->len};
	return at;
}

static unsigned fragments(const struct frame *frame)
{
	unsigned count = 0;

	for (; frame; frame = frame->next)
		count++;
	return count;
}

static void pcap_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
		    struct tx_report *report)
{
	struct pcap *pcap = queue->priv;
	uint64_t time_ns = pcap->has_out ? clock_ns(CLOCK_REALTIME) : 0;
	unsigned next = 0;

	while (next < count && pcap->has_out) {
		uint64_t room =
		    atomic_load_explicit(&pcap->journal->out_bytes, memory_order_relaxed);
		unsigned taken = 0, iov_count = 0, sent;

		room = room < pcap->out.bytes_max ? pcap->out.bytes_max - room : 0;
		while (next + taken < count && taken < FRAME_BATCH) {
			const struct frame *frame = frames[next + taken];
			uint64_t bytes = PCAP_RECORD_BYTES + (uint64_t)frame->frame_len;

			if (bytes > room || iov_count + 1 + fragments(frame) > IOVS_MAX)
				break;
			room -= bytes;
			iov_count = iovs_fill(&pcap->out, iov_count, frame, taken++, time_ns);
		}
		if (!taken) {
			report->drops[DROP_QUEUE_FULL]++;
			next++;
			continue;
		}
		sent = writer_append(pcap, frames + next, taken, iov_count, report);
		report->sent += sent;
		for (unsigned n = 0; n < sent; n++)
			report->sent_bytes += frames[next + n]->frame_len;
		report->drops[DROP_TX_ERROR] += taken - sent;
		next += taken;
	}
	for (; next < count; next++) {
		report->sent++;
		report->sent_bytes += frames[next]->frame_len;
	}
}

const struct port_ops port_pcap_ops = {
    .type = "pcap",
    .options = pcap_options,
    .acquire = pcap_acquire,
    .attach = pcap_attach,
    .detach = pcap_detach,
    .poll_status = pcap_poll_status,
    .rx = pcap_rx,
    .rx_commit = pcap_rx_commit,
    .rx_done = pcap_rx_commit,
    .tx = pcap_tx,
    .tx_commits = true,
    .rx_fd = pcap_rx_fd,
};
