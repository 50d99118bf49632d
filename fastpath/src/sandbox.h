/*
 * Takes away from keeper and forwarder what they do not need. Runs on: the main thread of either,
 * before any other thread exists.
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
 * Keeper: of the capabilities it was started with, those whose bits are set in `keep` stay, in
 * the bounding set too as far as allowed.
 */
int sandbox_limit(uint64_t keep, struct error *err);

/*
 * Installs the seccomp filter of the forwarder in every thread (libseccomp, TSYNC): an allow
 * list; a forbidden call kills the process. Needs no_new_privs, which it sets.
 */
int sandbox_enter(struct error *err);
/* cffi: end */
