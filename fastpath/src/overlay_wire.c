/* Runs on: workers. See overlay_wire.h. */
#include "overlay_wire.h"

#include <string.h>

void overlay_encode(uint8_t *header, uint32_t vni, uint32_t length)
{
	const uint8_t bytes[OVERLAY_HEADER_BYTES] = {
	    OVERLAY_VERSION,	    0,
	    (uint8_t)(length >> 8), (uint8_t)length,
	    (uint8_t)(vni >> 16),   (uint8_t)(vni >> 8),
	    (uint8_t)vni,	    0,
	};

	memcpy(header, bytes, sizeof(bytes));
}

bool overlay_decode(const uint8_t *header, uint32_t len, uint32_t *vni)
{
	uint8_t bytes[OVERLAY_HEADER_BYTES];
	uint32_t length;

	if (len < OVERLAY_HEADER_BYTES)
		return false;
	memcpy(bytes, header, sizeof(bytes));
	length = (uint32_t)bytes[2] << 8 | bytes[3];
	*vni = (uint32_t)bytes[4] << 16 | (uint32_t)bytes[5] << 8 | bytes[6];
	return bytes[0] == OVERLAY_VERSION && bytes[1] == 0 && bytes[7] == 0 &&
	       length == len - OVERLAY_HEADER_BYTES && *vni != 0;
}
