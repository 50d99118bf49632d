/*
 * udp: Ethernet frames in our own encapsulation (overlay_wire.h) between static peers. Each end is
 * an address and a port, from which it also sends: what comes from another port is not a peer's.
 *
 * Options: vni, local (address:port), peers (address:port, with commas), queues.
 *
 * The rest is port_overlay.h's.
 */
#include "overlay_wire.h"
#include "port_overlay.h"

const struct overlay_kind overlay_udp = {
    .encode = overlay_encode,
    .decode = overlay_decode,
    .peers_option = "peers",
    .from_one_port = true,
};

static_assert((int)OVERLAY_HEADER_BYTES == (int)OVERLAY_HEADER_LEN,
	      "the shared code knows one length");

static const char *const options_known[] = {"vni", "local", "peers", "queues", NULL};

static int udp_acquire(const struct port_options *options, struct port_fds *fds, struct error *err)
{
	return overlay_acquire(&overlay_udp, options, fds, err);
}

static int udp_attach(struct port *port, const struct port_options *options,
		      const struct port_fds *fds, struct error *err)
{
	return overlay_attach(&overlay_udp, port, options, fds, err);
}

extern const struct port_ops port_udp_ops;

const struct port_ops port_udp_ops = {
    .type = "udp",
    .options = options_known,
    .acquire = udp_acquire,
    .attach = udp_attach,
    .detach = overlay_detach,
    .poll_status = overlay_poll_status,
    .rx = overlay_rx,
    .rx_commit = overlay_rx_commit,
    .rx_done = overlay_rx_commit,
    .tx_commits = true,
    .tx = overlay_tx,
    .rx_fd = overlay_rx_fd,
};
