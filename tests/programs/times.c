/* signal and edges: what poll and epoll promise beyond readiness. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "port.h"
#include "programs.h"

static volatile sig_atomic_t rung;

static void ring_bell(int number)
{
	(void)number;
	rung++;
}

static double seconds(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void expect(bool holds, const char *what)
{
	if (!holds)
		die("%s (errno: %s)", what, strerror(errno));
}

static void timer_in(long us)
{
	struct itimerval timer = {.it_value = {.tv_usec = us}};
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* Timeouts are not shorter than was asked for; an empty port's poll lasts exactly as long. */
static void check_timeouts(const struct port *port)
{
	struct pollfd fd = {.fd = port->fd, .events = POLLIN};
	double before = seconds();
	expect(poll(&fd, 1, 0) == 0 && fd.revents == 0, "poll without time");
	expect(poll(&fd, 1, 30) == 0, "poll for 30 ms");
	expect(seconds() - before >= 0.030, "poll returned early");
	struct timeval timeout = {.tv_usec = 20000};
	fd_set in;
	FD_ZERO(&in);
	FD_SET(port->fd, &in);
	expect(select(port->fd + 1, &in, NULL, NULL, &timeout) == 0, "select for 20 ms");
	expect(!FD_ISSET(port->fd, &in), "select leaves what is not ready");
	expect(timeout.tv_sec == 0 && timeout.tv_usec == 0, "select says what remains");
	struct pollfd out = {.fd = port->fd, .events = POLLIN | POLLOUT};
	expect(poll(&out, 1, -1) == 1 && out.revents == POLLOUT, "an empty tx ring takes frames");
	struct timespec wrong = {.tv_nsec = 1000000000};
	expect(ppoll(&fd, 1, &wrong, NULL) < 0 && errno == EINVAL, "a time that is none");
}

static void check_signals(const struct port *port)
{
	struct pollfd fd = {.fd = port->fd, .events = POLLIN};
	struct sigaction action = {.sa_handler = ring_bell, .sa_flags = SA_RESTART};
	sigset_t bell, before;
	sigaction(SIGALRM, &action, NULL);
	timer_in(20000);
	expect(poll(&fd, 1, -1) < 0 && errno == EINTR && rung == 1, "a signal ends poll");
	/* blocked outside of the wait, it comes in it: also when it was pending already */
	sigemptyset(&bell);
	sigaddset(&bell, SIGALRM);
	sigprocmask(SIG_BLOCK, &bell, &before);
	raise(SIGALRM);
	expect(rung == 1, "it is blocked");
	expect(ppoll(&fd, 1, NULL, &before) < 0 && errno == EINTR && rung == 2,
	       "a pending signal ends ppoll");
	raise(SIGALRM);
	fd_set in;
	FD_ZERO(&in);
	FD_SET(port->fd, &in);
	expect(pselect(port->fd + 1, &in, NULL, NULL, NULL, &before) < 0 && errno == EINTR &&
		   rung == 3,
	       "a pending signal ends pselect");
	sigset_t now;
	sigprocmask(SIG_SETMASK, NULL, &now);
	expect(sigismember(&now, SIGALRM) == 1, "the mask is as before");
	sigprocmask(SIG_SETMASK, &before, NULL);
}

int signal_main(char **argv)
{
	struct port port;
	port_open(&port, argv[0], argv);
	check_timeouts(&port);
	check_signals(&port);
	puts("{\"signals\": 3}");
	return 0;
}

/* --- epoll ------------------------------------------------------------------------------------ */

static void check_edges(const struct port *port)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET, .data.u32 = 7}, got;
	int set = epoll_create1(0);
	expect(epoll_ctl(set, EPOLL_CTL_MOD, port->fd, &event) < 0 && errno == ENOENT, "MOD first");
	expect(epoll_ctl(set, EPOLL_CTL_ADD, port->fd, &event) == 0, "ADD");
	expect(epoll_wait(set, &got, 1, 1000) == 1 && got.events == EPOLLOUT && got.data.u32 == 7,
	       "room is told");
	expect(epoll_wait(set, &got, 1, 20) == 0, "and once");
	event.events = EPOLLOUT | EPOLLONESHOT;
	expect(epoll_ctl(set, EPOLL_CTL_MOD, port->fd, &event) == 0, "MOD");
	expect(epoll_wait(set, &got, 1, 1000) == 1, "one shot");
	expect(epoll_wait(set, &got, 1, 20) == 0, "is one");
	expect(epoll_ctl(set, EPOLL_CTL_MOD, port->fd, &event) == 0, "MOD again");
	expect(epoll_wait(set, &got, 1, 0) == 1, "is another one");
	expect(epoll_ctl(set, EPOLL_CTL_DEL, port->fd, NULL) == 0, "DEL");
	expect(epoll_ctl(set, EPOLL_CTL_DEL, port->fd, NULL) < 0 && errno == ENOENT, "DEL again");
	expect(epoll_wait(set, &got, 1, 0) == 0, "nothing is in it");
	expect(epoll_ctl(port->fd, EPOLL_CTL_ADD, port->fd, &event) < 0 && errno == EINVAL,
	       "a port is no set");
	close(set);
	expect(epoll_ctl(set, EPOLL_CTL_ADD, port->fd, &event) < 0 && errno == EBADF,
	       "a closed set");
}

/* Many copies of the port and a pipe in one set: each is told with its own data. */
static void check_many(const struct port *port)
{
	enum { MANY = 300 };
	static struct epoll_event got[MANY + 1];
	int set = epoll_create1(0), ends[2];
	bool told[MANY + 1] = {0};
	int copies[MANY];
	expect(pipe(ends) == 0 && write(ends[1], "x", 1) == 1, "a pipe");
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = MANY};
	expect(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event) == 0, "ADD of the pipe");
	for (uint32_t i = 0; i < MANY; i++) {
		event = (struct epoll_event){.events = EPOLLOUT, .data.u32 = i};
		copies[i] = dup(port->fd);
		expect(copies[i] >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, copies[i], &event) == 0,
		       "ADD of a copy");
	}
	int count = epoll_wait(set, got, MANY + 1, 1000);
	expect(count == MANY + 1, "all are ready");
	for (int i = 0; i < count; i++) {
		expect(got[i].data.u32 <= MANY && !told[got[i].data.u32], "told twice");
		told[got[i].data.u32] = true;
	}
	/* fewer places than are ready: in turns, everybody comes to be told */
	memset(told, 0, sizeof told);
	for (int i = 0; i < 20 * MANY; i++)
		if (epoll_wait(set, got, 1, 1000) == 1)
			told[got[0].data.u32] = true;
	for (int i = 0; i <= MANY; i++)
		expect(told[i], "one is never told");
	/* what is closed leaves the set */
	for (int i = 0; i < MANY; i++)
		close(copies[i]);
	expect(epoll_wait(set, got, MANY + 1, 1000) == 1 && got[0].data.u32 == MANY,
	       "the pipe remains");
}

int edges_main(char **argv)
{
	struct port port;
	port_open(&port, argv[0], argv);
	check_edges(&port);
	check_many(&port);
	puts("{\"edges\": true}");
	return 0;
}
