/*
 * The decoder of our own encapsulation on an allocation of exactly the datagram's size: a header
 * that it accepts is the only one for its VNI and length. Then the whole way in: fuzz_decap.h.
 */
#include "fuzz_decap.h"
#include "overlay_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1), header[OVERLAY_HEADER_LEN];
	uint32_t vni = 0;

	assert(exact);
	memcpy(exact, data, size);
	if (overlay_decode(exact, (uint32_t)size, &vni)) {
		assert(size >= OVERLAY_HEADER_LEN && vni <= 0xffffff);
		overlay_encode(header, vni, (uint32_t)size - OVERLAY_HEADER_LEN);
		assert(memcmp(header, exact, sizeof(header)) == 0);
	}
	free(exact);
	return decap_input(&overlay_udp, data, size);
}
