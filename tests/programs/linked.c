/*
 * nmlinked: a program that is linked with libvswitch-netmap.a, statically, and knows ports by
 * libnetmap's functions.
 *
 *   nmlinked send|receive PORTSPEC [--frames N]
 */
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "nmport.h"
#include "port.h"

static void send_all(struct nmport_d *port, uint64_t count)
{
	uint8_t frame[60];
	for (uint64_t number = 0; number < count;) {
		frame_fill(frame, sizeof frame, 1, 2, number);
		if (nmport_inject(port, frame, sizeof frame) == 0) {
			number++;
			if (number % 64)
				continue;
		}
		if (ioctl(port->fd, NIOCTXSYNC, NULL) < 0)
			die("NIOCTXSYNC: %s", strerror(errno));
		usleep(500);
	}
	ioctl(port->fd, NIOCTXSYNC, NULL);
	usleep(200000);
}

static void receive_all(struct nmport_d *port, uint64_t count)
{
	struct port view = {.fd = port->fd, .nifp = port->nifp};
	struct tally tally = {0};
	struct pollfd fd = {.fd = port->fd, .events = POLLIN};
	while (tally.frames < count && poll(&fd, 1, 3000) > 0)
		take_all(&view, &tally);
	tally_print(&tally);
}

static void check_parsing(void)
{
	nmctx_get()->verbose = 0;
	if (nmport_prepare("nonsense") || errno != EINVAL)
		die("a portspec that is none");
	struct nmport_d *port = nmport_prepare("vale9:x{1-2/xT@3@conf:rings=4,tx-slots=64");
	if (!port || strcmp(port->hdr.nr_name, "vale9:x{1") ||
	    port->reg.nr_mode != NR_REG_ONE_NIC || port->reg.nr_ringid != 2 ||
	    port->reg.nr_mem_id != 3 || port->reg.nr_tx_rings != 4 || port->reg.nr_tx_slots != 64 ||
	    port->reg.nr_flags != (NR_EXCLUSIVE | NR_TX_RINGS_ONLY))
		die("a portspec is misunderstood");
	nmport_close(port);
	nmctx_get()->verbose = 1;
}

int main(int argc, char **argv)
{
	alarm(SECONDS);
	if (argc < 3)
		die("usage: nmlinked send|receive PORTSPEC [--frames N]");
	check_parsing();
	uint64_t count = (uint64_t)option(argv, "frames", 1000);
	struct nmport_d *port = nmport_open(argv[2]);
	if (!port)
		die("%s: %s", argv[2], strerror(errno));
	ready();
	if (!strcmp(argv[1], "send"))
		send_all(port, count);
	else
		receive_all(port, count);
	nmport_close(port);
	return 0;
}
