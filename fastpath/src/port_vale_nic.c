/*
 * An interface in a VALE switch of the netmap module: the kernel forwards, no frame comes here.
 *
 * acquire attaches it with NIOCCTRL VALE_ATTACH (options `switch`, `ifname`; `host` 1: the host's
 * stack is a port of the switch too), release detaches it. The attachment is the kernel's and
 * outlives every process, so a keeper that finds the interface in this switch already, left by one
 * that was killed, attaches it anew. The one fd is a packet socket that receives nothing: it holds
 * the interface promiscuous, which a switch needs, and answers for its link.
 *
 * Runs on: acquire, release in the keeper; the rest on the forwarder's control thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netmap_abi.h"
#include "port.h"

struct vale_nic {
	int socket; /* borrowed */
	uint32_t ifindex;
	bool host;
	char ifname[IFNAMSIZ];
	char name[NETMAP_REQ_IFNAMSIZ]; /* "vale0:eth1" */
};

static const char *const vale_nic_options[] = {"switch", "ifname", "host", NULL};

static int read_options(const struct port_options *options, struct vale_nic *nic, struct error *err)
{
	const char *vale = port_option_text(options, "switch", "");
	const char *ifname = port_option_text(options, "ifname", "");

	if (strncmp(vale, "vale", 4) != 0 || strlen(vale) >= IFNAMSIZ)
		return error_set(err, EINVAL, "%s: \"%s\" is no name of a VALE switch",
				 options->port, vale);
	if (!*ifname || strlen(ifname) >= IFNAMSIZ)
		return error_set(err, EINVAL, "%s: ifname is missing or too long", options->port);
	snprintf(nic->ifname, sizeof(nic->ifname), "%s", ifname);
	snprintf(nic->name, sizeof(nic->name), "%s:%s", vale, ifname);
	return port_option_bool(options, "host", false, &nic->host, err);
}

static int control(int device, uint16_t type, const char *name, void *body)
{
	struct nmreq_header header = {
	    .nr_version = NETMAP_API,
	    .nr_reqtype = type,
	    .nr_body = (uintptr_t)body,
	};

	snprintf(header.nr_name, sizeof(header.nr_name), "%s", name);
	return ioctl(device, NIOCCTRL, &header) < 0 ? -errno : 0;
}

static int detach(int device, const char *name)
{
	struct nmreq_vale_detach body = {0};

	return control(device, NETMAP_REQ_VALE_DETACH, name, &body);
}

static int attach_request(int device, const struct vale_nic *nic)
{
	struct nmreq_vale_attach body = {
	    .reg.nr_mode = nic->host ? NR_REG_NIC_SW : NR_REG_ALL_NIC,
	};

	return control(device, NETMAP_REQ_VALE_ATTACH, nic->name, &body);
}

static int attach(int device, const struct port_options *options, const struct vale_nic *nic,
		  struct error *err)
{
	int status = attach_request(device, nic);

	/* Detaching succeeds where the interface is in this very switch. */
	if (status == -EBUSY && detach(device, nic->name) == 0)
		status = attach_request(device, nic);
	switch (-status) {
	case 0:
		return 0;
	case EBUSY:
		return error_named(err, EBUSY, "PORT_BUSY",
				   "%s: %s is in netmap mode for somebody else", options->port,
				   nic->ifname);
	case ENOMEM:
		return error_named(err, ENOMEM, "VALE_LIMIT",
				   "%s: the module has no switch or port left for %s",
				   options->port, nic->name);
	default:
		return error_set(err, -status, "%s: attach %s: %s", options->port, nic->name,
				 strerror(-status));
	}
}

static int open_device(const struct port_options *options, struct error *err)
{
	int device = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);

	if (device < 0 && (errno == ENOENT || errno == ENXIO || errno == ENODEV))
		return error_named(err, ENOENT, "NETMAP_ABSENT",
				   "%s: the netmap kernel module is not loaded", options->port);
	if (device < 0)
		return error_set(err, errno, "%s: " NETMAP_DEVICE ": %s", options->port,
				 strerror(errno));
	return device;
}

/* Protocol 0: it never receives. */
static int open_socket(const struct port_options *options, struct vale_nic *nic, struct error *err)
{
	struct packet_mreq promisc = {.mr_type = PACKET_MR_PROMISC};
	struct ifreq ifr = {0};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_set(err, errno, "%s: packet socket: %s", options->port,
				 strerror(errno));
	memcpy(ifr.ifr_name, nic->ifname, IFNAMSIZ);
	if (ioctl(fd, SIOCGIFINDEX, &ifr) < 0) {
		close(fd);
		return error_named(err, ENODEV, "IFACE_NOT_FOUND", "%s: there is no interface %s",
				   options->port, nic->ifname);
	}
	nic->ifindex = (uint32_t)ifr.ifr_ifindex;
	promisc.mr_ifindex = ifr.ifr_ifindex;
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof(promisc)) < 0) {
		error_set(err, errno, "%s: %s cannot be made promiscuous: %s", options->port,
			  nic->ifname, strerror(errno));
		close(fd);
		return -err->code;
	}
	return fd;
}

static int vale_nic_acquire(const struct port_options *options, struct port_fds *fds,
			    struct error *err)
{
	struct vale_nic nic = {0};
	int device, socket, status = read_options(options, &nic, err);

	if (status)
		return status;
	device = open_device(options, err);
	if (device < 0)
		return device;
	socket = open_socket(options, &nic, err);
	status = socket < 0 ? socket : attach(device, options, &nic, err);
	close(device);
	if (status) {
		if (socket >= 0)
			close(socket);
		return status;
	}
	fds->fd[0] = socket;
	fds->count = 1;
	snprintf(fds->state, sizeof(fds->state), "ifindex=%u", nic.ifindex);
	return 0;
}

static void vale_nic_release(const struct port_options *options, const struct port_fds *fds)
{
	struct vale_nic nic = {0};
	struct error err;
	int device;

	(void)fds;
	if (read_options(options, &nic, &err))
		return;
	device = open_device(options, &err);
	if (device < 0)
		return;
	(void)detach(device, nic.name); /* somebody may have been faster */
	close(device);
}

static int vale_nic_attach(struct port *port, const struct port_options *options,
			   const struct port_fds *fds, struct error *err)
{
	struct vale_nic *nic;
	int status;

	if (fds->count != 1)
		return error_set(err, EINVAL, "%s: %u fds instead of 1", port->name, fds->count);
	nic = calloc(1, sizeof(*nic));
	if (!nic)
		return error_set(err, ENOMEM, "%s: out of memory", port->name);
	status = read_options(options, nic, err);
	if (status) {
		free(nic);
		return status;
	}
	nic->socket = fds->fd[0];
	nic->ifindex = port_state_u32(fds, "ifindex", 0);
	port->priv = nic;
	port->rx_queue_count = 0;
	port->tx_queue_count = PORT_QUEUES_MAX; /* without state: nobody waits for another */
	port->pool = 0;
	port->caps = PORT_CAP_CSUM | PORT_CAP_TSO4 | PORT_CAP_TSO6 | PORT_CAP_USO | PORT_CAP_FRAGS;
	return 0;
}

static void vale_nic_detach(struct port *port)
{
	free(port->priv);
	port->priv = NULL;
}

static void vale_nic_poll_status(struct port *port, struct port_status *status)
{
	const struct vale_nic *nic = port->priv;
	struct ifreq ifr = {0};

	memcpy(ifr.ifr_name, nic->ifname, IFNAMSIZ);
	if (ioctl(nic->socket, SIOCGIFINDEX, &ifr) < 0 ||
	    (uint32_t)ifr.ifr_ifindex != nic->ifindex) {
		status->lost = true;
		snprintf(status->detail, sizeof(status->detail), "%s is gone", nic->ifname);
		return;
	}
	status->ifindex = nic->ifindex;
	if (ioctl(nic->socket, SIOCGIFFLAGS, &ifr) == 0)
		status->link_up = (ifr.ifr_flags & IFF_UP) && (ifr.ifr_flags & IFF_RUNNING);
	if (ioctl(nic->socket, SIOCGIFMTU, &ifr) == 0)
		status->mtu = (uint32_t)ifr.ifr_mtu;
	if (ioctl(nic->socket, SIOCGIFHWADDR, &ifr) == 0)
		memcpy(status->mac, ifr.ifr_hwaddr.sa_data, sizeof(status->mac));
	snprintf(status->detail, sizeof(status->detail), "%s in the kernel's switch%s", nic->name,
		 nic->host ? ", with its host" : "");
}

/* Nothing is sent through it: it is in no bridge of ours. Whatever is, is said to be refused. */
static void vale_nic_tx(struct port_queue *queue, struct frame *const *frames, unsigned count,
			struct tx_report *report)
{
	(void)queue;
	(void)frames;
	report->drops[DROP_TX_ERROR] += count;
}

static int vale_nic_rx(struct port_queue *queue, struct frame *batch, unsigned max,
		       struct port_counters *cell)
{
	(void)queue;
	(void)batch;
	(void)max;
	(void)cell;
	return 0;
}

static void vale_nic_rx_done(struct port_queue *queue)
{
	(void)queue;
}

static int vale_nic_rx_fd(const struct port_queue *queue)
{
	(void)queue;
	return -1;
}

const struct port_ops port_vale_nic_ops = {
    .type = "vale_nic",
    .options = vale_nic_options,
    .acquire = vale_nic_acquire,
    .release = vale_nic_release,
    .attach = vale_nic_attach,
    .detach = vale_nic_detach,
    .poll_status = vale_nic_poll_status,
    .rx = vale_nic_rx,
    .rx_done = vale_nic_rx_done,
    .tx = vale_nic_tx,
    .rx_fd = vale_nic_rx_fd,
};
