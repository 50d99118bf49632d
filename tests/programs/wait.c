/* All ways in which a program may wait for a netmap fd, alone and among others. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#include "port.h"

static struct timespec of_ms(int ms)
{
	return (struct timespec){ms / 1000, (long)(ms % 1000) * 1000000};
}

/* A pipe that is never written to. */
static int quiet_fd(void)
{
	static int ends[2] = {-1, -1};
	if (ends[0] < 0 && pipe(ends))
		die("pipe: %s", strerror(errno));
	return ends[0];
}

static int by_poll(const struct port *port, int ms)
{
	struct pollfd fd = {.fd = port->fd, .events = POLLIN};
	int result = poll(&fd, 1, ms);
	if (fd.revents & ~POLLIN)
		die("revents %#x", (unsigned)fd.revents);
	return result;
}

static int by_ppoll(const struct port *port, int ms)
{
	struct pollfd fd = {.fd = port->fd, .events = POLLIN};
	struct timespec timeout = of_ms(ms);
	sigset_t none;
	sigemptyset(&none);
	return ppoll(&fd, 1, &timeout, &none);
}

static int by_mixed_poll(const struct port *port, int ms)
{
	struct pollfd fds[3] = {
	    {.fd = quiet_fd(), .events = POLLIN}, {.fd = -1}, {.fd = port->fd, .events = POLLIN}};
	int result = poll(fds, 3, ms);
	if (fds[0].revents || fds[1].revents)
		die("a quiet fd is ready");
	return result;
}

static int by_select(const struct port *port, int ms)
{
	int quiet = quiet_fd();
	fd_set in;
	FD_ZERO(&in);
	FD_SET(port->fd, &in);
	FD_SET(quiet, &in);
	struct timeval timeout = {ms / 1000, ms % 1000 * 1000};
	int result = select((port->fd > quiet ? port->fd : quiet) + 1, &in, NULL, NULL, &timeout);
	if (result > 0 && (!FD_ISSET(port->fd, &in) || FD_ISSET(quiet, &in)))
		die("select says another fd");
	return result;
}

static int by_pselect(const struct port *port, int ms)
{
	fd_set in;
	FD_ZERO(&in);
	FD_SET(port->fd, &in);
	struct timespec timeout = of_ms(ms);
	return pselect(port->fd + 1, &in, NULL, NULL, &timeout, NULL);
}

static int by_epoll_with(const struct port *port, int ms, uint32_t more)
{
	static int set = -1;
	struct epoll_event event = {.events = EPOLLIN | more, .data.u64 = 0x123456789abcdef0};
	struct epoll_event quiet = {.events = EPOLLIN, .data.fd = -1};
	if (set < 0) {
		set = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_ctl(set, EPOLL_CTL_ADD, port->fd, &event) ||
		    epoll_ctl(set, EPOLL_CTL_ADD, quiet_fd(), &quiet))
			die("epoll_ctl: %s", strerror(errno));
		if (!epoll_ctl(set, EPOLL_CTL_ADD, port->fd, &event) || errno != EEXIST)
			die("the same fd twice in an epoll set");
	}
	struct epoll_event events[4] = {0};
	int result = epoll_wait(set, events, 4, ms);
	if (result > 0 && (result != 1 || events[0].data.u64 != event.data.u64))
		die("epoll says another fd");
	if (result > 0 && more & EPOLLONESHOT && epoll_ctl(set, EPOLL_CTL_MOD, port->fd, &event))
		die("EPOLL_CTL_MOD: %s", strerror(errno));
	return result;
}

static int by_ioctl(const struct port *port, int ms)
{
	for (int waited_us = 0; waited_us < ms * 1000; waited_us += 100) {
		if (ioctl(port->fd, NIOCRXSYNC, NULL) < 0)
			return -1;
		for (unsigned i = 0; i < port->nifp->ni_rx_rings; i++) {
			const struct netmap_ring *ring = rx_ring(port, i);
			if (ring && ring->head != ring->tail)
				return 1;
		}
		usleep(100);
	}
	return 0;
}

static int wait_by(const struct port *port, const char *how, int ms)
{
	if (!strcmp(how, "poll"))
		return by_poll(port, ms);
	if (!strcmp(how, "ppoll"))
		return by_ppoll(port, ms);
	if (!strcmp(how, "mixed"))
		return by_mixed_poll(port, ms);
	if (!strcmp(how, "select"))
		return by_select(port, ms);
	if (!strcmp(how, "pselect"))
		return by_pselect(port, ms);
	if (!strcmp(how, "epoll"))
		return by_epoll_with(port, ms, 0);
	if (!strcmp(how, "epoll-edge"))
		return by_epoll_with(port, ms, EPOLLET);
	if (!strcmp(how, "epoll-once"))
		return by_epoll_with(port, ms, EPOLLONESHOT);
	if (!strcmp(how, "ioctl"))
		return by_ioctl(port, ms);
	die("--wait %s", how);
}

bool wait_rx(const struct port *port, const char *how, int ms)
{
	int result = wait_by(port, how, ms);
	if (result < 0 && errno != EINTR)
		die("%s: %s", how, strerror(errno));
	return result != 0;
}
