/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/meminfo.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

uint64_t ob_meminfo(const char *key)
{
	char text[8192], *at;
	unsigned long long kib;

	if (ob_read_text("/proc/meminfo", text, sizeof(text)) < 0)
		return 0;
	at = strstr(text, key);
	return at && sscanf(at + strlen(key), ": %llu kB", &kib) == 1 ? kib * 1024 : 0;
}

/* The microseconds in all of a line "some ..." or "full ...". */
static int find_total(const char *text, const char *word, uint64_t *ret_us)
{
	const char *line = strstr(text, word), *total = line ? strstr(line, "total=") : NULL;
	unsigned long long us;

	if (!total || sscanf(total, "total=%20llu", &us) != 1)
		return -ENOENT;
	*ret_us = us;
	return 0;
}

int ob_memory_pressure(uint64_t *ret_some_us, uint64_t *ret_full_us)
{
	char text[512];

	/* A kernel without it, or with psi=0, has no such file, or one that cannot be read. */
	if (ob_read_text("/proc/pressure/memory", text, sizeof(text)) <= 0 || find_total(text, "some", ret_some_us) < 0 ||
	    find_total(text, "full", ret_full_us) < 0)
		return -ENOENT;
	return 0;
}
