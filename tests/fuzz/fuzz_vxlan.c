/*
 * VXLAN's decoder on an allocation of exactly the datagram's size: what it accepts has the I flag,
 * and a frame that it makes comes back with its VNI. Then the whole way in: fuzz_decap.h.
 */
#include "fuzz_decap.h"
#include "vxlan_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1), header[OVERLAY_HEADER_LEN];
	uint32_t vni = 0;

	assert(exact);
	memcpy(exact, data, size);
	if (vxlan_decode(exact, (uint32_t)size, &vni)) {
		assert(size >= OVERLAY_HEADER_LEN && vni <= 0xffffff);
		assert(exact[0] & 8);
		vxlan_encode(header, vni);
		assert(memcmp(header + 4, exact + 4, 3) == 0);
	}
	free(exact);
	return decap_input(&overlay_vxlan, data, size);
}
