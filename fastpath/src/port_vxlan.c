/*
 * vxlan: one VXLAN network (RFC 7348) with static peers. Interoperates with the kernel's vxlan
 * device and with other VTEPs; multicast groups are not used, replication is at the head end.
 *
 * Options: vni, local (an address), remotes (addresses, with commas), port (of all of them,
 * 4789), source_ports (how many UDP source ports the flows are spread over, 8), queues.
 *
 * The outer UDP checksum is sent (RFC 7348 allows it, and UDP_SEGMENT needs it) and one that is 0
 * is accepted. A peer may send from any port.
 *
 * The rest is port_overlay.h's.
 */
#include "port_overlay.h"
#include "vxlan_wire.h"

static void encode(uint8_t *header, uint32_t vni, uint32_t frame_len)
{
	(void)frame_len;
	vxlan_encode(header, vni);
}

const struct overlay_kind overlay_vxlan = {
    .encode = encode,
    .decode = vxlan_decode,
    .peers_option = "remotes",
    .default_port = VXLAN_PORT,
};

static_assert((int)VXLAN_HEADER_BYTES == (int)OVERLAY_HEADER_LEN,
	      "the shared code knows one length");

static const char *const options_known[] = {"vni",	    "local",  "remotes", "port",
					    "source_ports", "queues", NULL};

static int vxlan_acquire(const struct port_options *options, struct port_fds *fds,
			 struct error *err)
{
	return overlay_acquire(&overlay_vxlan, options, fds, err);
}

static int vxlan_attach(struct port *port, const struct port_options *options,
			const struct port_fds *fds, struct error *err)
{
	return overlay_attach(&overlay_vxlan, port, options, fds, err);
}

extern const struct port_ops port_vxlan_ops;

const struct port_ops port_vxlan_ops = {
    .type = "vxlan",
    .options = options_known,
    .acquire = vxlan_acquire,
    .attach = vxlan_attach,
    .detach = overlay_detach,
    .poll_status = overlay_poll_status,
    .rx = overlay_rx,
    .rx_commit = overlay_rx_commit,
    .rx_done = overlay_rx_commit,
    .tx_commits = true,
    .tx = overlay_tx,
    .rx_fd = overlay_rx_fd,
};
