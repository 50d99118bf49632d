/*
 * pingpong: round-trip time of one UDP datagram at a time.
 *
 *   pingpong --listen ADDRESS [--port 7007] [--cpu N]          answers until SIGTERM
 *   pingpong --to ADDRESS [--port 7007] [--seconds 3] [--bytes 18] [--cpu N]
 *
 * The client prints {"rounds", "lost", "seconds", "rtt_us": {p50, p99, p99_9, max}}. A datagram
 * without an answer in 200 ms is lost; the next one carries another number, so a late answer
 * is not taken for it. The first 100 rounds (ARP, learning, cold caches) are not counted.
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "probe.h"

enum { WARM_UP = 100, BYTES_MIN = 8, BYTES_MAX = 1472, ANSWER_MS = 200 };

struct pingpong {
	struct sockaddr_in address;
	bool server;
	unsigned bytes;
	double seconds;
	int fd;
	uint64_t rounds, lost;
	struct histogram rtt;
};

static void options_read(struct pingpong *p, int argc, char **argv)
{
	static const struct option options[] = {
	    {"listen", required_argument, NULL, 'l'},
	    {"to", required_argument, NULL, 'o'},
	    {"port", required_argument, NULL, 'p'},
	    {"bytes", required_argument, NULL, 'b'},
	    {"seconds", required_argument, NULL, 't'},
	    {"cpu", required_argument, NULL, 'c'},
	    {NULL, 0, NULL, 0},
	};
	bool addressed = false;
	cpu_set_t cpus;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'l' || option == 'o') {
			p->server = option == 'l';
			addressed = true;
			if (inet_pton(AF_INET, optarg, &p->address.sin_addr) != 1)
				fail("%s is not an IPv4 address", optarg);
		} else if (option == 'p') {
			p->address.sin_port = htons((uint16_t)number("port", optarg, 65535));
		} else if (option == 'b') {
			p->bytes = (unsigned)number("bytes", optarg, BYTES_MAX);
		} else if (option == 't') {
			p->seconds = atof(optarg);
		} else if (option == 'c') {
			CPU_ZERO(&cpus);
			CPU_SET(number("cpu", optarg, CPU_SETSIZE - 1), &cpus);
			if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
				fail("--cpu %s: %s", optarg, strerror(errno));
		} else {
			exit(2);
		}
	}
	if (!addressed || optind != argc || p->bytes < BYTES_MIN)
		fail("usage: pingpong --listen ADDRESS | --to ADDRESS [--seconds N] [--bytes N]");
}

static void serve(struct pingpong *p)
{
	uint8_t buffer[BYTES_MAX];

	if (bind(p->fd, (const struct sockaddr *)&p->address, sizeof(p->address)) < 0)
		fail("bind: %s", strerror(errno));
	printf("{\"ready\": true}\n");
	fflush(stdout);
	while (!stopped) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);
		ssize_t n =
		    recvfrom(p->fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length);

		if (n > 0)
			sendto(p->fd, buffer, (size_t)n, 0, (const struct sockaddr *)&from, length);
	}
}

/* One datagram and its answer; false when none came. */
static bool round_trip(struct pingpong *p, uint64_t id)
{
	uint8_t buffer[BYTES_MAX] = {0};
	uint64_t answered;

	memcpy(buffer, &id, sizeof(id));
	if (send(p->fd, buffer, p->bytes, 0) < 0)
		return false;
	do {
		if (recv(p->fd, buffer, sizeof(buffer), 0) < (ssize_t)sizeof(answered))
			return false;
		memcpy(&answered, buffer, sizeof(answered));
	} while (answered != id);
	return true;
}

static void measure(struct pingpong *p)
{
	uint64_t start, now;

	if (connect(p->fd, (const struct sockaddr *)&p->address, sizeof(p->address)) < 0)
		fail("connect: %s", strerror(errno));
	for (uint64_t i = 0; i < WARM_UP && !stopped; i++)
		round_trip(p, i);
	start = now = clock_ns(CLOCK_MONOTONIC);
	while (!stopped && (double)(now - start) < p->seconds * 1e9) {
		uint64_t before = now;
		bool answered = round_trip(p, WARM_UP + p->rounds);

		now = clock_ns(CLOCK_MONOTONIC);
		p->rounds++;
		if (answered)
			histogram_add(&p->rtt, now - before);
		else
			p->lost++;
	}
	printf("{\"rounds\": %llu, \"lost\": %llu, \"seconds\": %.6f, \"rtt_us\": ",
	       (unsigned long long)p->rounds, (unsigned long long)p->lost,
	       (double)(now - start) / 1e9);
	histogram_print_us(&p->rtt);
	printf("}\n");
}

int main(int argc, char **argv)
{
	static struct pingpong p = {.bytes = 18, .seconds = 3};
	struct timeval timeout = {.tv_usec = ANSWER_MS * 1000};

	p.address.sin_family = AF_INET;
	p.address.sin_port = htons(7007);
	options_read(&p, argc, argv);
	stop_on_signals();
	prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
	p.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (p.fd < 0)
		fail("socket: %s", strerror(errno));
	setsockopt(p.fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (p.server)
		serve(&p);
	else
		measure(&p);
	close(p.fd);
	return 0;
}
