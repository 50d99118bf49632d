/*
 * Takes away from the forwarder what it does not need once it has its fds. Runs on: the main
 * thread before any worker exists.
 */
#pragma once

#include <stdint.h>

#include "error.h"

/* cffi: begin */
/*
 * Supplementary groups, ids and every capability set, the bounding set as far as allowed: gone
 * for good. uid 0 keeps the ids as they are (a process that is not root cannot change them) and
 * drops only what it can. Sets no_new_privs.
 */
int sandbox_drop(uint32_t uid, uint32_t gid, struct error *err);

/*
 * Installs the seccomp filter of the forwarder in every thread (libseccomp, TSYNC): an allow
 * list; a forbidden call kills the process. Needs no_new_privs, which it sets.
 */
int sandbox_enter(struct error *err);
/* cffi: end */
