/*
 * Takes away from the forwarder what it does not need once it has its fds. Runs on: the main
 * thread before any worker exists.
 */
#pragma once

#include "error.h"

/* cffi: begin */
/*
 * Installs the seccomp filter of the forwarder in every thread (libseccomp, TSYNC): an allow
 * list; a forbidden call kills the process. Needs no_new_privs, which it sets.
 */
int sandbox_enter(struct error *err);
/* cffi: end */
