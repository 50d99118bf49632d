/*
 * The netmap client library where more than one thread or process has a session: fork, fds passed
 * on, programs that are killed, switches that go away.
 */
#include "netmap_program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "../support/netmap_switch.h"
#include "client_wire.h"

static struct netmap_switch *sw;

static const uint8_t frame[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0};

static bool child_succeeds(pid_t child)
{
	int status = -1;

	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/* --- fds --- */

static void test_dup(void)
{
	struct program p;
	struct nmreq_port_info_get info = {0};
	int copy;

	CHECK(program_open(&p, "vale0:a", (struct nmreq_register){0}) == 0);
	copy = dup(p.fd);
	vsn_copied(p.fd, copy);
	CHECK(vsn_find(copy, false) == p.session);
	vsn_closed(p.fd);
	close(p.fd);
	CHECK(vsn_find(p.fd, false) == NULL);
	p.fd = copy;
	CHECK(program_sync(&p, NIOCTXSYNC) == 0);
	CHECK(program_ask(&p, NETMAP_REQ_PORT_INFO_GET, "vale0:a", &info, NULL) == 0);
	CHECK(netmap_switch_ports(sw) == 1);
	program_close(&p);
	CHECK(netmap_switch_settles(sw, 0));
	/* the mapping outlives the fd */
	CHECK(program_open(&p, "vale0:a", (struct nmreq_register){0}) == 0);
	vsn_closed(p.fd);
	close(p.fd);
	program_tx(&p, 0)->slot[0].len = 1;
	CHECK(program_tx(&p, 0)->slot[0].len == 1);
	munmap(p.memory, p.reg.nr_memsize);
	CHECK(netmap_switch_settles(sw, 0));
}

static void test_not_ours(void)
{
	int ends[2];

	CHECK(vsn_find(-1, true) == NULL && vsn_find(1 << 30, true) == NULL);
	CHECK(vsn_find(0, true) == NULL);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK(vsn_find(ends[0], true) == NULL);
	close(ends[0]);
	close(ends[1]);
}

static void test_fork(void)
{
	struct program a, b;
	pid_t child;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	child = fork();
	if (!child) {
		bool good = program_put(program_tx(&a, 0), frame, sizeof(frame), 0) &&
			    program_sync(&a, NIOCTXSYNC) == 0;

		_exit(good ? 0 : 1);
	}
	CHECK(child_succeeds(child));
	CHECK(program_poll(&b, POLLIN, 2000) == POLLIN && program_get(program_rx(&b, 0)));
	CHECK(program_put(program_tx(&a, 0), frame, sizeof(frame), 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(program_poll(&b, POLLIN, 2000) == POLLIN);
	/* the port stays while one of the two has it */
	child = fork();
	if (!child) {
		usleep(100000);
		_exit(program_sync(&a, NIOCRXSYNC) ? 1 : 0);
	}
	program_close(&a);
	CHECK(netmap_switch_ports(sw) == 2);
	CHECK(child_succeeds(child));
	CHECK(netmap_switch_settles(sw, 1));
	program_close(&b);
}

/* In a program of its own: all it has is the fd's number. */
static int adopted(int fd)
{
	struct program p = {.fd = fd, .session = vsn_find(fd, true)};
	struct nmreq_port_info_get info = {0};

	if (!CHECK(p.session != NULL))
		return 1;
	CHECK(program_ask(&p, NETMAP_REQ_PORT_INFO_GET, "vale0:a", &info, NULL) == 0);
	CHECK(vsn_mmap(p.session, NULL, info.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, 0,
		       &p.memory) == 0);
	CHECK(vsn_mmap(p.session, NULL, info.nr_memsize + 1, PROT_READ | PROT_WRITE, MAP_SHARED, 0,
		       &p.memory) == -EINVAL);
	p.reg.nr_memsize = info.nr_memsize;
	p.nifp = p.memory;
	CHECK(program_put(program_tx(&p, 0), frame, sizeof(frame), 0));
	CHECK(program_sync(&p, NIOCTXSYNC) == 0);
	CHECK(program_ask(&p, NETMAP_REQ_REGISTER, "vale0:b", &p.reg, NULL) == -EBUSY);
	program_close(&p);
	return check_result();
}

static void test_exec(char *self)
{
	struct program a, b;
	char number[16];
	pid_t child;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	snprintf(number, sizeof(number), "%d", a.fd);
	fcntl(a.fd, F_SETFD, 0);
	for (unsigned i = 0; i < 3; i++) {
		child = fork();
		if (!child) {
			execl(self, self, "adopt", number, NULL);
			_exit(2);
		}
		CHECK(child_succeeds(child));
		CHECK(program_poll(&b, POLLIN, 2000) == POLLIN && program_get(program_rx(&b, 0)));
		CHECK(program_tx(&a, 0)->head == i + 1); /* one ring */
	}
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	program_close(&a);
	program_close(&b);
}

/* --- killed --- */

static void sync_for_ever(struct program *p)
{
	for (;;) {
		while (program_put(program_tx(p, 0), frame, sizeof(frame), 0))
			;
		program_sync(p, NIOCTXSYNC);
		program_sync(p, NIOCRXSYNC);
	}
}

/* Whatever it held, those that have the session with it go on. */
static void test_killed_holder(void)
{
	struct program a, b;
	uint64_t random = 1;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	for (unsigned i = 0; i < 60; i++) {
		pid_t child = fork();

		if (!child)
			sync_for_ever(&a);
		usleep(random_below(&random, 3000));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		CHECK(program_sync(&a, NIOCTXSYNC) == 0);
		CHECK(program_sync(&a, NIOCRXSYNC) == 0);
	}
	do /* what is on its way */
		while (program_get(program_rx(&b, 0)))
			;
	while (program_poll(&b, POLLIN, 50) == POLLIN);
	CHECK(program_poll(&a, POLLOUT, 2000) & POLLOUT);
	CHECK(program_put(program_tx(&a, 0), frame, sizeof(frame), 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	CHECK(program_poll(&b, POLLIN, 2000) == POLLIN);
	program_close(&a);
	program_close(&b);
	CHECK(netmap_switch_settles(sw, 0));
}

static void test_killed_owner(void)
{
	for (unsigned i = 0; i < 20; i++) {
		pid_t child = fork();
		struct program p;

		if (!child) {
			if (program_open(&p, "vale0:k", (struct nmreq_register){0}))
				_exit(1);
			sync_for_ever(&p);
		}
		CHECK(netmap_switch_settles(sw, 1));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		CHECK(netmap_switch_settles(sw, 0));
	}
}

/* A port that ended by SIGKILL in a region that lives on: its rings are there for the next one. */
static void test_killed_in_region(void)
{
	struct program a;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	for (unsigned i = 0; i < 30; i++) {
		pid_t child = fork();
		struct program p;

		if (!child) {
			struct nmreq_register reg = {.nr_mem_id = a.reg.nr_mem_id,
						     .nr_extra_bufs = 5000};

			if (program_open(&p, "vale0:k", reg) || p.reg.nr_extra_bufs != 5000)
				_exit(1);
			raise(SIGKILL);
		}
		waitpid(child, NULL, 0);
		CHECK(netmap_switch_settles(sw, 1));
	}
	program_close(&a);
}

/* One that shared the port: what it had in the region is there again for the next. */
static void test_killed_sharer(void)
{
	struct program a;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){.nr_extra_bufs = 100}) == 0);
	for (unsigned i = 0; i < 30; i++) {
		pid_t child = fork();
		struct program p;
		int status;

		if (!child) {
			if (program_open(&p, "vale0:a",
					 (struct nmreq_register){.nr_extra_bufs = 9000}) ||
			    p.reg.nr_extra_bufs != 9000 || p.reg.nr_mem_id != a.reg.nr_mem_id)
				_exit(1);
			raise(SIGKILL);
		}
		waitpid(child, &status, 0);
		CHECK(WIFSIGNALED(status));
	}
	CHECK(program_put(program_tx(&a, 0), frame, sizeof(frame), 0));
	CHECK(program_sync(&a, NIOCTXSYNC) == 0);
	program_close(&a);
	CHECK(netmap_switch_settles(sw, 0));
}

/* --- the switch --- */

static void test_switch_gone(void)
{
	char none[] = "/nonexistent", was[128];
	struct nmreq_port_info_get info = {0};
	struct program p = {.fd = vsn_open(true)};
	uint64_t before;

	p.session = vsn_find(p.fd, false);
	netmap_switch_forget(sw);
	CHECK(program_ask(&p, NETMAP_REQ_PORT_INFO_GET, "vale0:a", &info, NULL) == 0);
	CHECK(vsn_find(p.fd, false) == p.session);
	/* no answer: asked again after a second */
	before = now_ms();
	netmap_switch_deaf(sw, 1);
	CHECK(program_register(&p, "vale0:a", NULL) == 0);
	CHECK(now_ms() - before >= 900);
	CHECK(program_sync(&p, NIOCTXSYNC) == 0);
	netmap_switch_evict(sw, "vale0:a");
	CHECK(program_sync(&p, NIOCTXSYNC) == -ENXIO);
	CHECK(vsn_poll(p.session, POLLIN) == POLLERR);
	program_close(&p);
	snprintf(was, sizeof(was), "%s", getenv("VSWITCH_RUN_DIR"));
	setenv("VSWITCH_RUN_DIR", none, 1);
	CHECK(vsn_open(true) == -ENOENT);
	setenv("VSWITCH_RUN_DIR", was, 1);
}

/* --- threads --- */

enum { THREADS = 4, ROUNDS = 200 };

static void *ask_often(void *data)
{
	struct program *p = data;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct nmreq_port_info_get info = {.nr_tx_rings = 1};
		char name[16];

		snprintf(name, sizeof(name), "vale0:%u", i);
		CHECK(program_ask(p, NETMAP_REQ_PORT_INFO_GET, name, &info, NULL) == 0);
		CHECK(info.nr_tx_slots == 1024);
	}
	return NULL;
}

static void *sync_often(void *data)
{
	for (unsigned i = 0; i < ROUNDS * 10; i++)
		CHECK(program_sync(data, NIOCTXSYNC) == 0);
	return NULL;
}

static void *open_often(void *data)
{
	char name[16];

	snprintf(name, sizeof(name), "vale0:t%u", *(unsigned *)data);
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		struct program p;

		CHECK(program_open(&p, name, (struct nmreq_register){0}) == 0);
		CHECK(program_sync(&p, NIOCTXSYNC) == 0);
		program_close(&p);
	}
	return NULL;
}

static void in_threads(void *(*work)(void *), void *data, size_t stride)
{
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, work, (uint8_t *)data + i * stride));
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void test_threads(void)
{
	unsigned numbers[THREADS] = {0, 1, 2, 3};
	struct program a, b;
	unsigned got = 0;

	CHECK(program_open(&a, "vale0:a", (struct nmreq_register){0}) == 0);
	CHECK(program_open(&b, "vale0:b", (struct nmreq_register){0}) == 0);
	in_threads(ask_often, &a, 0);
	for (unsigned i = 0; i < 1000; i++)
		CHECK(program_put(program_tx(&a, 0), frame, sizeof(frame), 0));
	in_threads(sync_often, &a, 0);
	while (got < 1000 && CHECK(program_poll(&b, POLLIN, 2000) == POLLIN))
		while (program_get(program_rx(&b, 0)))
			got++;
	CHECK(program_poll(&b, POLLIN, 20) == 0);
	program_close(&a);
	program_close(&b);
	in_threads(open_often, numbers, sizeof(*numbers));
	CHECK(netmap_switch_settles(sw, 0));
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "adopt") == 0)
		return adopted(atoi(argv[2]));
	sw = netmap_switch_start();
	test_dup();
	test_not_ours();
	test_fork();
	test_exec(argv[0]);
	test_killed_holder();
	test_killed_owner();
	test_killed_in_region();
	test_killed_sharer();
	test_switch_gone();
	test_threads();
	netmap_switch_stop(sw);
	return check_result();
}
