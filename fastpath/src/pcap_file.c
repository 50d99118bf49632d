/* Runs on: see pcap_file.h. */
#include "pcap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uint32_t magic_us = 0xa1b2c3d4;
static const uint32_t magic_ns = 0xa1b23c4d;
static const uint32_t magic_pcapng = 0x0a0d0d0a;

enum { VERSION_MAJOR = 2, VERSION_MINOR = 4, LINKTYPE_ETHERNET = 1, SCAN_BYTES = 1 << 16 };

static const uint32_t second_ns = 1000000000;

/* --- fields ------------------------------------------------------------------------------------
 */

static uint32_t get32(const uint8_t *bytes, bool swapped)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return swapped ? __builtin_bswap32(value) : value;
}

static uint16_t get16(const uint8_t *bytes, bool swapped)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return swapped ? __builtin_bswap16(value) : value;
}

static void put32(uint8_t *bytes, uint32_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

static void put16(uint8_t *bytes, uint16_t value)
{
	memcpy(bytes, &value, sizeof(value));
}

int pcap_header_parse(const uint8_t bytes[PCAP_HEADER_BYTES], const char *name,
		      struct pcap_format *format, struct error *err)
{
	uint32_t magic = get32(bytes, false);
	uint32_t link;

	if (magic == magic_pcapng)
		return error_set(err, EINVAL,
				 "pcap: %s is pcapng; \"editcap -F pcap\" makes it classic pcap",
				 name);
	format->swapped =
	    magic == __builtin_bswap32(magic_us) || magic == __builtin_bswap32(magic_ns);
	magic = get32(bytes, format->swapped);
	if (magic != magic_us && magic != magic_ns)
		return error_set(err, EINVAL, "pcap: %s is not a pcap file (magic %08x)", name,
				 magic);
	format->nanoseconds = magic == magic_ns;
	if (get16(bytes + 4, format->swapped) != VERSION_MAJOR ||
	    get16(bytes + 6, format->swapped) != VERSION_MINOR)
		return error_set(err, EINVAL, "pcap: %s has version %u.%u, 2.4 is read", name,
				 get16(bytes + 4, format->swapped),
				 get16(bytes + 6, format->swapped));
	link = get32(bytes + 20, format->swapped);
	if (link != LINKTYPE_ETHERNET)
		return error_set(
		    err, EINVAL,
		    "pcap: %s has link type %u (flags %x), Ethernet without FCS is read", name,
		    link & 0xffff, link >> 16);
	return 0;
}

void pcap_header_make(uint8_t bytes[PCAP_HEADER_BYTES])
{
	memset(bytes, 0, PCAP_HEADER_BYTES);
	put32(bytes, magic_ns);
	put16(bytes + 4, VERSION_MAJOR);
	put16(bytes + 6, VERSION_MINOR);
	put32(bytes + 16, PCAP_SNAPLEN_MAX);
	put32(bytes + 20, LINKTYPE_ETHERNET);
}

bool pcap_record_parse(const struct pcap_format *format, const uint8_t bytes[PCAP_RECORD_BYTES],
		       struct pcap_record *record)
{
	uint32_t part = get32(bytes + 4, format->swapped);

	record->time_ns = (uint64_t)get32(bytes, format->swapped) * second_ns +
			  (format->nanoseconds ? part : part * 1000ull);
	record->captured = get32(bytes + 8, format->swapped);
	record->original = get32(bytes + 12, format->swapped);
	return record->captured <= PCAP_SNAPLEN_MAX;
}

void pcap_record_make(uint8_t bytes[PCAP_RECORD_BYTES], const struct pcap_record *record)
{
	put32(bytes, (uint32_t)(record->time_ns / second_ns));
	put32(bytes + 4, (uint32_t)(record->time_ns % second_ns));
	put32(bytes + 8, record->captured);
	put32(bytes + 12, record->original);
}

/* --- opening -----------------------------------------------------------------------------------
 */

static bool name_plain(const char *name)
{
	size_t length = strlen(name);

	return length > 0 && length <= PCAP_NAME_MAX && name[0] != '.' &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") ==
		   length;
}

static int file_open(const char *directory, const char *name, uint64_t flags, struct error *err)
{
	struct open_how how = {.flags = flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
			       .mode = flags & O_CREAT ? 0640 : 0,
			       .resolve =
				   RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	struct stat file;
	int dir, fd, code;

	if (!directory)
		return error_set(err, EINVAL, "pcap: no directory is set for %s", name);
	if (!name_plain(name))
		return error_named(err, EINVAL, "FILE_NAME_INVALID",
				   "pcap: \"%.80s\" is not a plain file name of letters, digits, "
				   "\"_\", \".\" and \"-\"",
				   name);
	dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return error_set(err, errno, "pcap: the directory %s cannot be opened: %s",
				 directory, strerror(errno));
	fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
	code = errno;
	close(dir);
	if (fd < 0 && code == ENOENT)
		return error_named(err, ENOENT, "FILE_NOT_FOUND", "pcap: there is no %s in %s",
				   name, directory);
	if (fd < 0)
		return error_set(err, code, "pcap: %s in %s cannot be opened: %s", name, directory,
				 strerror(code));
	if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode) || file.st_nlink != 1) {
		close(fd);
		return error_named(err, EINVAL, "FILE_NOT_PLAIN",
				   "pcap: %s is not a plain file with one name", name);
	}
	return fd;
}

int pcap_open_read(const char *directory, const char *name, struct error *err)
{
	uint8_t header[PCAP_HEADER_BYTES];
	struct pcap_format format;
	int status;
	int fd = file_open(directory, name, O_RDONLY, err);

	if (fd < 0)
		return fd;
	if (pread(fd, header, sizeof(header), 0) != sizeof(header))
		status = error_set(err, EINVAL, "pcap: %s is shorter than a pcap header", name);
	else
		status = pcap_header_parse(header, name, &format, err);
	if (status) {
		close(fd);
		return status;
	}
	return fd;
}

/* Where the last whole record of a file ends; one read a SCAN_BYTES, or a record where larger. */
static uint64_t records_end(int fd, const struct pcap_format *format)
{
	uint8_t bytes[SCAN_BYTES];
	struct pcap_record record;
	uint64_t end = PCAP_HEADER_BYTES;
	uint64_t length = (uint64_t)lseek(fd, 0, SEEK_END);

	for (;;) {
		ssize_t got = pread(fd, bytes, sizeof(bytes), (off_t)end);
		uint64_t at = 0;

		while (got >= 0 && at + PCAP_RECORD_BYTES <= (uint64_t)got) {
			uint64_t next;

			if (!pcap_record_parse(format, bytes + at, &record))
				return end + at;
			next = at + PCAP_RECORD_BYTES + record.captured;
			if (end + next > length)
				return end + at;
			at = next;
		}
		if (!at)
			return end;
		end += at;
	}
}

/* Makes an opened file one that ends with a whole record. */
static int append_prepare(int fd, const char *name, uint64_t bytes_max, uint64_t *end,
			  struct error *err)
{
	uint8_t header[PCAP_HEADER_BYTES], ours[PCAP_HEADER_BYTES];
	struct pcap_format format = {.nanoseconds = true};
	ssize_t got;

	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return error_named(err, EBUSY, "FILE_BUSY", "pcap: another port writes to %s",
				   name);
	pcap_header_make(ours);
	got = pread(fd, header, sizeof(header), 0);
	if (got < 0)
		return error_set(err, errno, "pcap: %s cannot be read: %s", name, strerror(errno));
	if (memcmp(header, ours, (size_t)got) != 0)
		return error_named(err, EEXIST, "FILE_EXISTS",
				   "pcap: %s exists and is not a file that a pcap port wrote",
				   name);
	if (got < PCAP_HEADER_BYTES) {
		*end = PCAP_HEADER_BYTES;
		if (ftruncate(fd, 0) < 0 || write(fd, ours, sizeof(ours)) != sizeof(ours))
			return error_set(err, EIO, "pcap: no header can be written to %s", name);
		return 0;
	}
	*end = records_end(fd, &format);
	if (*end > bytes_max)
		return error_named(err, ENOSPC, "FILE_FULL",
				   "pcap: %s holds %llu bytes, out_bytes_max is %llu", name,
				   (unsigned long long)*end, (unsigned long long)bytes_max);
	if (ftruncate(fd, (off_t)*end) < 0)
		return error_set(err, errno, "pcap: the end of %s cannot be cut off", name);
	return 0;
}

int pcap_open_append(const char *directory, const char *name, uint64_t bytes_max, uint64_t *end,
		     struct error *err)
{
	int fd = file_open(directory, name, O_RDWR | O_CREAT | O_APPEND, err);
	int status;

	if (fd < 0)
		return fd;
	status = append_prepare(fd, name, bytes_max, end, err);
	if (status) {
		close(fd);
		return status;
	}
	return fd;
}
