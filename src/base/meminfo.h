/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the host has of memory. */
#ifndef OB_BASE_MEMINFO_H
#define OB_BASE_MEMINFO_H

#include <stdint.h>

/* Bytes that /proc/meminfo says of a key, such as "MemTotal"; 0 when it says nothing. */
uint64_t ob_meminfo(const char *key);

#endif
