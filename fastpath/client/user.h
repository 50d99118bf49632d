/*
 * The program's memory by addresses that it gave in a request or a slot: what is not there is
 * EFAULT, as from a kernel, and not the end of the program.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int user_read(void *to, uint64_t from, size_t bytes); /* 0 or -EFAULT */
int user_write(uint64_t to, const void *from, size_t bytes);
