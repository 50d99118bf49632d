/*
 * nmswitch: the tests' own switch (tests/support/netmap_switch.h) as a process. Says its run
 * directory, and ends with its standard input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "netmap_switch.h"

int main(void)
{
	struct netmap_switch *sw = netmap_switch_start();
	char byte;
	puts(getenv("VSWITCH_RUN_DIR"));
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	unsigned left = netmap_switch_ports(sw);
	netmap_switch_stop(sw);
	return left ? 1 : 0;
}
