/* Runs on: the keeper. */
#include "netdev.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void queues_ask(int fd, struct ifreq *request, struct netdev *found)
{
	struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};

	request->ifr_data = (char *)&channels;
	if (ioctl(fd, SIOCETHTOOL, request))
		return;
	if (channels.rx_count + channels.combined_count)
		found->rx_queues = channels.rx_count + channels.combined_count;
	if (channels.tx_count + channels.combined_count)
		found->tx_queues = channels.tx_count + channels.combined_count;
}

int netdev_find(const char *type, const char *ifname, struct netdev *found, struct error *err)
{
	struct ifreq request = {0};
	size_t length = strlen(ifname);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc = 0;

	*found = (struct netdev){.mtu = 1500, .rx_queues = 1, .tx_queues = 1};
	if (fd < 0)
		return error_set(err, errno, "%s: socket: %s", type, strerror(errno));
	if (length < IFNAMSIZ)
		memcpy(request.ifr_name, ifname, length);
	if (length >= IFNAMSIZ || ioctl(fd, SIOCGIFINDEX, &request)) {
		rc = error_named(err, ENODEV, "IFACE_NOT_FOUND", "%s: there is no interface %s",
				 type, ifname);
		goto close_fd;
	}
	found->ifindex = (uint32_t)request.ifr_ifindex;
	if (ioctl(fd, SIOCGIFHWADDR, &request) || request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
		rc = error_named(err, EINVAL, "NOT_ETHERNET", "%s: %s is no Ethernet interface",
				 type, ifname);
		goto close_fd;
	}
	if (!ioctl(fd, SIOCGIFMTU, &request))
		found->mtu = (uint32_t)request.ifr_mtu;
	queues_ask(fd, &request, found);
close_fd:
	close(fd);
	return rc;
}
