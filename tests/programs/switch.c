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
	bool settled = netmap_switch_settles(sw, 0);
	netmap_switch_stop(sw);
	return settled ? 0 : 1;
}
