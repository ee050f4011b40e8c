/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes as people write them. Units are powers of 1024, as QEMU's. */
#ifndef OB_BASE_UNITS_H
#define OB_BASE_UNITS_H

#include <stdint.h>

#include "base/compiler.h"

#define OB_KIB (1ull << 10)
#define OB_MIB (1ull << 20)
#define OB_GIB (1ull << 30)

/* a - b, or 0 where that would be less. */
static inline uint64_t ob_less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/*
 * Parses "512M", "1.5G", "4096" (bytes), "2GiB", "64k"; suffixes B K M G T P in either case, with or without
 * "iB" or "B". Returns 0, -EINVAL (not a size) or -ERANGE (does not fit in 64 bits).
 */
int ob_size_parse(const char *text, uint64_t *ret_bytes) OB_MUST_CHECK;

/* The same, where a number without a suffix counts in units of default_unit bytes (QEMU's -m counts in MiB). */
int ob_size_parse_unit(const char *text, uint64_t default_unit, uint64_t *ret_bytes) OB_MUST_CHECK;

/* Writes "512 MiB", "1.5 GiB", "37 KiB", "12 B" to buf (at least 16 bytes); returns buf. */
char *ob_size_format(char *buf, size_t size, uint64_t bytes);

#endif
