/* What it is and who runs it: netmap_device.h. */
#include "netmap_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int device_open(void)
{
	int fd = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int device_control(int fd, struct nmreq_header *header)
{
	return ioctl(fd, NIOCCTRL, header) < 0 ? -errno : 0;
}

static void *device_map(int fd, uint64_t bytes)
{
	void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return base == MAP_FAILED ? NULL : base;
}

static int device_sync(int fd, bool tx)
{
	return ioctl(fd, tx ? NIOCTXSYNC : NIOCRXSYNC, NULL) < 0 ? -errno : 0;
}

static int device_wait(int fd, uint64_t timeout_ns)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000),
				   .tv_nsec = (long)(timeout_ns % 1000000000)};
	int ready = ppoll(&p, 1, &timeout, NULL);

	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	if (p.revents & (POLLERR | POLLNVAL))
		return -ENXIO;
	return ready;
}

/* A packet socket that hears nothing: its membership ends with its last fd, even after a kill. */
static int interface_open(const char *ifname, bool promiscuous, uint32_t *ifindex)
{
	struct packet_mreq membership = {.mr_type = PACKET_MR_PROMISC};
	struct ifreq ifr = {0};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), status;

	if (fd < 0)
		return -errno;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	if (ioctl(fd, SIOCGIFINDEX, &ifr) < 0)
		goto fail;
	membership.mr_ifindex = ifr.ifr_ifindex;
	*ifindex = (uint32_t)ifr.ifr_ifindex;
	if (ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		goto fail;
	if (!(ifr.ifr_flags & IFF_UP)) {
		ifr.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
			goto fail;
	}
	if (promiscuous &&
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof(membership)) < 0)
		goto fail;
	return fd;
fail:
	status = -errno;
	close(fd);
	return status;
}

static bool interface_status(int fd, uint32_t ifindex, struct port_status *status)
{
	struct ifreq ifr = {.ifr_ifindex = (int)ifindex};

	if (ioctl(fd, SIOCGIFNAME, &ifr) < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		return false;
	status->link_up = (ifr.ifr_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING);
	if (ioctl(fd, SIOCGIFMTU, &ifr) == 0)
		status->mtu = (uint32_t)ifr.ifr_mtu;
	if (ioctl(fd, SIOCGIFHWADDR, &ifr) == 0)
		memcpy(status->mac, ifr.ifr_hwaddr.sa_data, sizeof(status->mac));
	return true;
}

static const struct netmap_device netmap_kernel = {
    .open = device_open,
    .control = device_control,
    .map = device_map,
    .sync = device_sync,
    .wait = device_wait,
    .interface_open = interface_open,
    .interface_status = interface_status,
};

const struct netmap_device *netmap_device = &netmap_kernel;

void netmap_device_use(const struct netmap_device *device)
{
	netmap_device = device ? device : &netmap_kernel;
}
