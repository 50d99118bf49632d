/* Runs on: workers. See vxlan_wire.h. */
#include "vxlan_wire.h"

#include <string.h>

enum { FLAG_VNI = 0x08 };

void vxlan_encode(uint8_t *header, uint32_t vni)
{
	const uint8_t bytes[VXLAN_HEADER_BYTES] = {
	    FLAG_VNI, 0, 0, 0, (uint8_t)(vni >> 16), (uint8_t)(vni >> 8), (uint8_t)vni, 0,
	};

	memcpy(header, bytes, sizeof(bytes));
}

bool vxlan_decode(const uint8_t *header, uint32_t len, uint32_t *vni)
{
	uint8_t bytes[VXLAN_HEADER_BYTES];

	if (len < VXLAN_HEADER_BYTES)
		return false;
	memcpy(bytes, header, sizeof(bytes));
	*vni = (uint32_t)bytes[4] << 16 | (uint32_t)bytes[5] << 8 | bytes[6];
	return bytes[0] & FLAG_VNI;
}
