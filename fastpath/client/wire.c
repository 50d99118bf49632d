/* Requests to the switch over the connection: client_wire.h. */
#include "core.h"
#include "sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum {
	RESEND_MS = 1000,
	TRY_MS = 100,
	TRIES = 20,	   /* a forwarder that died is back long before */
	CONNECT_TRIES = 50 /* of 100 ms */
};

union fd_space {
	struct cmsghdr header; /* for its alignment */
	char bytes[CMSG_SPACE(CLIENT_FDS * sizeof(int))];
};

/* As vswitch/paths.py has it. */
static bool socket_path(char *path, size_t bytes)
{
	const char *chosen = getenv("VSWITCH_RUN_DIR");
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (chosen && *chosen)
		n = snprintf(path, bytes, "%s/" WIRE_SOCKET, chosen);
	else if (geteuid() == 0)
		n = snprintf(path, bytes, "/run/vswitch/" WIRE_SOCKET);
	else if (runtime && *runtime)
		n = snprintf(path, bytes, "%s/vswitch/" WIRE_SOCKET, runtime);
	else
		n = snprintf(path, bytes, "/tmp/vswitch-%u/" WIRE_SOCKET, geteuid());
	return n > 0 && (size_t)n < bytes;
}

int wire_connect(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = (int)SYS_RESULT(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	int error;

	if (fd < 0)
		return fd;
	error = socket_path(address.sun_path, sizeof(address.sun_path))
		    ? (int)SYS_RESULT(connect(fd, (struct sockaddr *)&address, sizeof(address)))
		    : -ENAMETOOLONG;
	if (error) {
		sys_close(fd);
		return error == -ECONNREFUSED || error == -ENOTDIR ? -ENOENT : error;
	}
	return fd;
}

void wire_close(int fds[], unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (fds[i] >= 0)
			sys_close(fds[i]);
}

/* Between processes. A process that ends, or is killed, gives it back. */
static int connection_lock(int fd, short type, int how)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
	int error;

	do
		error = sys_fcntl(fd, how, (unsigned long)&lock);
	while (error == -EINTR);
	return error;
}

static int send_request(int fd, const struct client_request *request, const int *fds, unsigned n,
			int wait_ms)
{
	struct iovec data = {(void *)request, sizeof(*request)};
	union fd_space space;
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	struct pollfd room = {.fd = fd, .events = POLLOUT};
	ssize_t sent;

	memset(&space, 0, sizeof(space));
	if (n) {
		space.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
						.cmsg_type = SCM_RIGHTS,
						.cmsg_len = CMSG_LEN(n * sizeof(int))};
		memcpy(CMSG_DATA(&space.header), fds, n * sizeof(int));
		message.msg_control = &space;
		message.msg_controllen = CMSG_SPACE(n * sizeof(int));
	}
	sent = SYS_RESULT(vsn_real.sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
	if (sent == -EAGAIN && sys_poll(&room, 1, wait_ms) == 1)
		sent = SYS_RESULT(vsn_real.sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
	return sent < 0 && sent != -EAGAIN ? (int)sent : 0; /* it is sent again */
}

/* One packet. 0, or a negative errno; -EPIPE: the switch has gone. */
static int receive_answer(int fd, struct client_answer *answer, int fds[CLIENT_FDS], unsigned *n)
{
	struct iovec data = {answer, sizeof(*answer)};
	union fd_space space;
	struct msghdr message = {.msg_iov = &data,
				 .msg_iovlen = 1,
				 .msg_control = &space,
				 .msg_controllen = sizeof(space)};
	ssize_t bytes;

	*n = 0;
	bytes = SYS_RESULT(vsn_real.recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
	if (bytes < 0)
		return (int)bytes;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), *n * sizeof(int));
	}
	if (bytes == sizeof(*answer))
		return 0;
	wire_close(fds, *n);
	*n = 0;
	return bytes ? -EPROTO : -EPIPE;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The answer to request `id`; others, to requests whose process was killed, are thrown away. */
static int await_answer(int fd, uint32_t id, int wait_ms, struct client_answer *answer,
			int fds[CLIENT_FDS], unsigned *n)
{
	int64_t end = now_ms() + wait_ms;

	for (;;) {
		struct pollfd data = {.fd = fd, .events = POLLIN};
		int64_t left = end - now_ms();
		int error;

		if (left <= 0)
			return -ETIMEDOUT;
		if (sys_poll(&data, 1, (int)left) <= 0)
			continue;
		error = receive_answer(fd, answer, fds, n);
		if (error == -EAGAIN || error == -EINTR || error == -EPROTO)
			continue;
		if (error || answer->id == id)
			return error;
		wire_close(fds, *n);
	}
}

static bool replace_fd(int fd, void *connection)
{
	int flags = sys_fcntl(fd, F_GETFD, 0);

	(void)SYS_RESULT(vsn_real.dup3(*(int *)connection, fd,
				       flags > 0 && (flags & FD_CLOEXEC) ? O_CLOEXEC : 0));
	return false;
}

/* An unbound connection is as good as any other: when the switch lost it, too. */
int wire_reset(struct vsn_session *session)
{
	int connection = -ENOENT;

	for (unsigned i = 0; i < CONNECT_TRIES; i++) {
		connection = wire_connect();
		if (connection != -ENOENT)
			break;
		(void)sys_poll(NULL, 0, 100);
	}
	if (connection < 0)
		return connection;
	session_visit(session, replace_fd, &connection);
	sys_close(connection);
	return 0;
}

static int request_locked(struct vsn_session *session, struct client_request *request,
			  struct client_answer *answer, int fds[CLIENT_FDS], unsigned n_in,
			  unsigned *n_out)
{
	int out[CLIENT_FDS];
	int error = -ETIMEDOUT;

	memcpy(out, fds, n_in * sizeof(int));
	for (unsigned i = 0; i < TRIES; i++) {
		int fd = atomic_load(&session->fd);

		error = connection_lock(fd, F_WRLCK, F_SETLKW);
		if (error)
			return error;
		error = send_request(fd, request, out, n_in, RESEND_MS);
		if (!error)
			error = await_answer(fd, request->id, RESEND_MS, answer, fds, n_out);
		(void)connection_lock(fd, F_UNLCK, F_SETLKW);
		if (error == -EPIPE || error == -ECONNRESET || error == -ENOTCONN) {
			if (atomic_load(&session->bound)) {
				atomic_store(&session->gone, true);
				return -ENXIO;
			}
			error = wire_reset(session);
			if (error)
				return error;
			error = -ETIMEDOUT;
		} else if (error != -ETIMEDOUT) {
			return error;
		}
	}
	return error;
}

static void request_sign(struct client_request *request)
{
	static _Atomic uint32_t requests;

	request->version = CLIENT_WIRE_VERSION;
	request->id = (uint32_t)getpid() * 2654435761u + atomic_fetch_add(&requests, 1);
	snprintf(request->program, sizeof(request->program), "%.*s", CLIENT_PROGRAM_MAX - 1,
		 program_invocation_short_name);
}

/* What the switch says counts, when there is an answer at all. */
static int answered(int error, const struct client_answer *answer, int fds[CLIENT_FDS],
		    unsigned *n_out)
{
	if (error || !answer->error)
		return error;
	wire_close(fds, *n_out);
	*n_out = 0;
	return answer->error < 4096 ? -(int)answer->error : -EIO;
}

int wire_request(struct vsn_session *session, struct client_request *request,
		 struct client_answer *answer, int fds[CLIENT_FDS], unsigned n_in, unsigned *n_out)
{
	int error;

	request_sign(request);
	*n_out = 0;
	own_lock(&session->lock);
	error = request_locked(session, request, answer, fds, n_in, n_out);
	own_unlock(&session->lock);
	return answered(error, answer, fds, n_out);
}

int wire_try(struct vsn_session *session, struct client_request *request,
	     struct client_answer *answer, int fds[CLIENT_FDS], unsigned *n_out)
{
	int fd = atomic_load(&session->fd), error;

	request_sign(request);
	*n_out = 0;
	if (!own_trylock(&session->lock))
		return -EAGAIN;
	error = connection_lock(fd, F_WRLCK, F_SETLK);
	if (!error) {
		error = send_request(fd, request, NULL, 0, TRY_MS);
		if (!error)
			error = await_answer(fd, request->id, TRY_MS, answer, fds, n_out);
		(void)connection_lock(fd, F_UNLCK, F_SETLK);
		if (error)
			error = -EAGAIN;
	}
	own_unlock(&session->lock);
	return answered(error, answer, fds, n_out);
}
