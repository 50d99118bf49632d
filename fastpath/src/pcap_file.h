/*
 * Classic pcap, by hand: a 24-byte header, then records of a 16-byte header and their bytes
 * (draft-ietf-opsawg-pcap, version 2.4). libpcap would want a FILE and a path of its own choosing,
 * allocates, and offers no way to go on in the middle of a file; the format takes less code than
 * its calls. Both byte orders and both time units are read, host order and nanoseconds written;
 * only LINKTYPE_ETHERNET without FCS. No field of a file is used before it was checked.
 *
 * Opening runs in the keeper, the rest anywhere; nothing here keeps state.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

enum {
	PCAP_HEADER_BYTES = 24,
	PCAP_RECORD_BYTES = 16,
	PCAP_SNAPLEN_MAX = 262144, /* no record holds more; a longer one is damage */
	PCAP_NAME_MAX = 64
};

struct pcap_format {
	bool swapped;	  /* not this machine's byte order */
	bool nanoseconds; /* else microseconds */
};

struct pcap_record {
	uint64_t time_ns;  /* since 1970 */
	uint32_t captured; /* bytes that follow */
	uint32_t original; /* bytes the frame had */
};

/* EINVAL with the reason when it is not a header of a file we read. `name` is for the message. */
int pcap_header_parse(const uint8_t bytes[PCAP_HEADER_BYTES], const char *name,
		      struct pcap_format *format, struct error *err);
void pcap_header_make(uint8_t bytes[PCAP_HEADER_BYTES]);

/* False when the record cannot be one (captured > PCAP_SNAPLEN_MAX): the file ends there. */
bool pcap_record_parse(const struct pcap_format *format, const uint8_t bytes[PCAP_RECORD_BYTES],
		       struct pcap_record *record);
void pcap_record_make(uint8_t bytes[PCAP_RECORD_BYTES], const struct pcap_record *record);

/*
 * Opens a plain file right under a directory. Letters, digits, "_", "." and "-" make a name, and
 * it does not begin with "."; the kernel resolves it without links and not out of the directory
 * (openat2(2), RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS). A file with a
 * second hard link is refused too. Returns an fd or -errno.
 */
int pcap_open_read(const char *directory, const char *name, struct error *err);

/*
 * The same for appending; makes the file (0640) and its header when there is none, else cuts off
 * what a killed writer left of a record. One writer a file: EBUSY. Sets *end to its length.
 * EEXIST when the file is not one of ours, ENOSPC when it is longer than bytes_max.
 */
int pcap_open_append(const char *directory, const char *name, uint64_t bytes_max, uint64_t *end,
		     struct error *err);
