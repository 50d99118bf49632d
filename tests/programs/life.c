/* fork, exec, pass, dup, close-all, threads: where an fd of /dev/netmap may get to. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port.h"
#include "programs.h"

static void wait_child(pid_t child)
{
	int status;
	if (waitpid(child, &status, 0) != child || status)
		die("the child ended with %#x", status);
}

int fork_main(char **argv)
{
	struct port port;
	uint64_t count = (uint64_t)option(argv, "frames", 1000);
	port_open(&port, argv[0], argv);
	ready();
	/* what a borrowed memory's child closes is closed for nobody else */
	pid_t borrower = vfork();
	if (!borrower) {
		close(port.fd);
		_exit(0);
	}
	wait_child(borrower);
	pid_t first = fork();
	if (!first) {
		send_frames(&port, argv, 0, count / 2);
		port_close(&port);
		return 0;
	}
	wait_child(first);
	/* the ring is where that child left it, and the port lives as long as anybody has its fd */
	pid_t second = fork();
	if (second) {
		port_close(&port);
		wait_child(second);
		return 0;
	}
	send_frames(&port, argv, count / 2, count - count / 2);
	usleep(200000);
	port_close(&port);
	return 0;
}

int exec_main(char **argv)
{
	struct port port;
	char words[4][32];
	port_open(&port, argv[0], argv);
	snprintf(words[0], sizeof words[0], "%d", port.fd);
	snprintf(words[1], sizeof words[1], "%ju", (uintmax_t)port.reg.nr_memsize);
	snprintf(words[2], sizeof words[2], "%ju", (uintmax_t)port.reg.nr_offset);
	snprintf(words[3], sizeof words[3], "%ld", option(argv, "frames", 1000));
	fcntl(port.fd, F_SETFD, 0);
	execl("/proc/self/exe", "nmtest", "inherited", words[0], "--memsize", words[1], "--offset",
	      words[2], "--frames", words[3], "--wait", word_option(argv, "wait", "poll"), NULL);
	die("exec: %s", strerror(errno));
}

int inherited_main(char **argv)
{
	struct tally tally = {0};
	struct port port = {.fd = atoi(argv[0])};
	port.reg.nr_memsize = (uint64_t)option(argv, "memsize", 0);
	port.reg.nr_offset = (uint64_t)option(argv, "offset", 0);
	port_map(&port);
	ready();
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	tally_print(&tally);
	return 0;
}

/* --- over a socket ---------------------------------------------------------------------------- */

struct parcel {
	struct nmreq_register reg;
};

static void hand_over(int channel, const struct port *port)
{
	struct parcel parcel = {port->reg};
	struct iovec part = {&parcel, sizeof parcel};
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof control};
	control.head = (struct cmsghdr){
	    .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.head), &port->fd, sizeof port->fd);
	if (sendmsg(channel, &message, 0) != sizeof parcel)
		die("sendmsg: %s", strerror(errno));
}

static void take_over(int channel, struct port *port)
{
	struct parcel parcel;
	struct iovec part = {&parcel, sizeof parcel};
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof control};
	if (recvmsg(channel, &message, 0) != sizeof parcel || !message.msg_controllen)
		die("recvmsg: %s", strerror(errno));
	memcpy(&port->fd, CMSG_DATA(&control.head), sizeof port->fd);
	port->reg = parcel.reg;
	port_map(port);
}

int pass_main(char **argv)
{
	int channel[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, channel))
		die("socketpair: %s", strerror(errno));
	pid_t child = fork(); /* before there is a port: nothing is inherited */
	if (child) {
		struct port port;
		port_open(&port, argv[0], argv);
		hand_over(channel[0], &port);
		port_close(&port); /* the other one's is the last */
		wait_child(child);
		return 0;
	}
	struct port port;
	struct tally tally = {0};
	alarm(SECONDS);
	take_over(channel[1], &port);
	ready();
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	tally_print(&tally);
	exit(0);
}

/* --- numbers ---------------------------------------------------------------------------------- */

int dup_main(char **argv)
{
	enum { ANOTHER = 77 };
	struct port port;
	struct tally tally = {0};
	uint64_t count = (uint64_t)option(argv, "frames", 1000);
	port_open(&port, argv[0], argv);
	int first = port.fd;
	int copy = dup(fcntl(dup(first), F_DUPFD_CLOEXEC, 20));
	if (copy < 0 || dup2(copy, ANOTHER) != ANOTHER || close(copy) || close(first))
		die("dup: %s", strerror(errno));
	/* its number may be a file's now */
	int file = open("/dev/null", O_RDWR);
	if (file != first || dup3(file, copy, O_CLOEXEC) != copy)
		die("number %d was not free", first);
	if (ioctl(file, NIOCRXSYNC, NULL) >= 0 || write(file, "x", 1) != 1)
		die("a file is taken for a port");
	port.fd = ANOTHER;
	ready();
	receive_frames(&port, argv, count, &tally);
	tally_print(&tally);
	return 0;
}

/* What daemons do, before and after there is a port. */
int close_all_main(char **argv)
{
	struct port port;
	struct tally tally = {0};
	port_open(&port, argv[0], argv);
	for (int fd = 3; fd < (int)sysconf(_SC_OPEN_MAX) && fd < 1 << 16; fd++)
		close(fd);
	if (ioctl(port.fd, NIOCRXSYNC, NULL) >= 0 || errno != EBADF)
		die("a closed port answers");
	munmap(port.memory, port.bytes);

	port_open(&port, argv[0], argv);
	for (int fd = 3; fd < (int)sysconf(_SC_OPEN_MAX) && fd < 1 << 16; fd++)
		if (fd != port.fd)
			close(fd);
	if (port.fd > 3 && close_range(3, (unsigned)port.fd - 1, 0))
		die("close_range: %s", strerror(errno));
	closefrom(port.fd + 1);
	ready();
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	tally_print(&tally);
	return 0;
}

/* --- mapped --------------------------------------------------------------------------------- */

/* Alone on the port: whoever else has it is in the way. */
static int open_alone(const char *name)
{
	struct nmreq_register reg = {.nr_mode = NR_REG_ALL_NIC, .nr_flags = NR_EXCLUSIVE};
	struct nmreq_header header = {.nr_version = NETMAP_API,
				      .nr_reqtype = NETMAP_REQ_REGISTER,
				      .nr_body = (uintptr_t)&reg};
	int fd = open("/dev/netmap", O_RDWR);
	strncpy(header.nr_name, name, sizeof header.nr_name - 1);
	if (fd < 0 || ioctl(fd, NIOCCTRL, &header) == 0)
		return fd;
	int error = errno;
	close(fd);
	errno = error;
	return -1;
}

int mapped_main(char **argv)
{
	struct port port;
	int fd = -1;
	port_open(&port, argv[0], argv);
	close(port.fd);
	if (fcntl(port.fd, F_GETFD) >= 0)
		die("it is still open");
	usleep(50000);
	if (open_alone(argv[0]) >= 0 || errno != EBUSY)
		die("the port did not stay: %s", strerror(errno));
	memset(ring_buffer(tx_ring(&port, 0), tx_ring(&port, 0)->slot[0].buf_idx), 1, 60);
	munmap(port.memory, port.bytes / 4096 / 2 * 4096);
	if (open_alone(argv[0]) >= 0)
		die("half of the memory keeps nothing");
	munmap(port.memory, port.bytes);
	for (int i = 0; fd < 0 && i < 200; i++, usleep(10000))
		fd = open_alone(argv[0]);
	if (fd < 0)
		die("the port did not go: %s", strerror(errno));
	close(fd);
	puts("{\"kept\": true}");
	return 0;
}

/* --- read and write --------------------------------------------------------------------------- */

static void expect_einval(const char *what, ssize_t result)
{
	if (result >= 0 || errno != EINVAL)
		die("%s: %zd, %s", what, result, strerror(errno));
	errno = 0;
}

int read_main(char **argv)
{
	struct port port;
	struct tally tally = {0};
	char byte = 'x';
	struct iovec part = {&byte, 1};
	int ends[2];
	port_open(&port, argv[0], argv);
	expect_einval("read", read(port.fd, &byte, 1));
	expect_einval("write", write(port.fd, &byte, 1));
	expect_einval("readv", readv(port.fd, &part, 1));
	expect_einval("writev", writev(port.fd, &part, 1));
	if (pipe(ends) || write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1 ||
	    writev(ends[1], &part, 1) != 1 || readv(ends[0], &part, 1) != 1)
		die("a pipe of the host: %s", strerror(errno));
	ready();
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	tally_print(&tally);
	return 0;
}

/* --- threads ---------------------------------------------------------------------------------- */

struct sender {
	const struct port *port;
	char **argv;
};

static void *send_all(void *sender_)
{
	const struct sender *sender = sender_;
	send_frames(sender->port, sender->argv, 0, (uint64_t)option(sender->argv, "frames", 1000));
	return NULL;
}

int threads_main(char **argv)
{
	struct port port;
	struct tally tally = {0};
	pthread_t thread;
	port_open(&port, argv[0], argv);
	ready();
	struct sender sender = {&port, argv};
	if (pthread_create(&thread, NULL, send_all, &sender))
		die("no thread");
	receive_frames(&port, argv, (uint64_t)option(argv, "frames", 1000), &tally);
	pthread_join(thread, NULL);
	tally_print(&tally);
	return 0;
}
