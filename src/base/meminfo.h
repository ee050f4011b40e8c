/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What this system has of memory, and how it gets on with it. */
#ifndef OB_BASE_MEMINFO_H
#define OB_BASE_MEMINFO_H

#include <stdint.h>

/* Bytes that /proc/meminfo says of a key, such as "MemTotal"; 0 when it says nothing. */
uint64_t ob_meminfo(const char *key);

/*
 * For how long so far some, and all, of what runs here has waited for memory (/proc/pressure/memory). 0, or -ENOENT where the kernel does
 * not tell.
 */
int ob_memory_pressure(uint64_t *ret_some_us, uint64_t *ret_full_us);

#endif
