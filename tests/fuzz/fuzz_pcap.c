/* A file of a stranger: its header, then record after record, as port_pcap.c walks it. */
#include <assert.h>
#include <stddef.h>

#include "pcap_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pcap_format format;
	struct pcap_record record;
	struct error err = {0};
	size_t at = PCAP_HEADER_BYTES;

	if (size < PCAP_HEADER_BYTES || pcap_header_parse(data, "fuzz", &format, &err))
		return 0;
	while (size - at >= PCAP_RECORD_BYTES && pcap_record_parse(&format, data + at, &record)) {
		assert(record.captured <= PCAP_SNAPLEN_MAX);
		at += PCAP_RECORD_BYTES;
		if (record.captured > size - at)
			break;
		at += record.captured;
	}
	return 0;
}
