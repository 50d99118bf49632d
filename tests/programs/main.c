/*
 * nmtest: netmap programs for the tests, all in one.
 *
 *   send PORT       --frames N --bytes B --from Y --to X --burst N --pause-us T --wait poll|ioctl
 *   receive PORT    --frames N --wait HOW --idle MS                  counts, as JSON
 *   ping PORT       --frames N       one frame at a time;  pong PORT: sends everything back
 *   bridge A B      frames from each port to the other; buffers are swapped within a region
 *   fork PORT       a child sends half of the frames by what it inherited
 *   exec PORT       executes itself, which receives by the fd that it inherits
 *   pass PORT       hands its fd to another process, which receives
 *   dup PORT        works by a copy of a copy, and under another number
 *   close-all PORT  closes what it does not know, and goes on
 *   mapped PORT     closes its fd and keeps its memory
 *   read PORT       tries to read and write its fd, then receives
 *   threads PORT    one thread receives while another sends
 *   signal PORT     poll's times and signals
 *   edges PORT      epoll: edges, one shot, a set of many, errors
 *
 * Every port takes --mode, --flags, --region, --rings, --slots (as in struct nmreq_register).
 */
#include <unistd.h>

#include "port.h"
#include "programs.h"

static const struct {
	const char *name;
	int (*main)(char **argv);
} programs[] = {
    {"send", send_main},	   {"receive", receive_main}, {"ping", ping_main},
    {"pong", pong_main},	   {"bridge", bridge_main},   {"fork", fork_main},
    {"exec", exec_main},	   {"pass", pass_main},	      {"dup", dup_main},
    {"close-all", close_all_main}, {"mapped", mapped_main},   {"read", read_main},
    {"threads", threads_main},	   {"signal", signal_main},   {"edges", edges_main},
    {"inherited", inherited_main},
};

int main(int argc, char **argv)
{
	alarm(SECONDS);
	for (size_t i = 0; argc > 2 && i < sizeof programs / sizeof *programs; i++)
		if (!strcmp(argv[1], programs[i].name))
			return programs[i].main(argv + 2);
	die("usage: nmtest PROGRAM PORT [--option value]...");
}
