/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads /proc: small files that the kernel writes, which are looked at line by line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/units.h"
#include "guest/guest.h"

int ob_memory_find(const char *text, const char *key, uint64_t *ret_bytes)
{
	size_t length = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		unsigned long long kib;
		char unit[3];

		line += *line == '\n';
		if (strncmp(line, key, length) || line[length] != ':')
			continue;
		if (sscanf(line + length + 1, "%20llu %2s", &kib, unit) != 2 || strcmp(unit, "kB") || kib > OB_GUEST_BYTES_MAX / OB_KIB)
			return -EPROTO;
		*ret_bytes = kib * OB_KIB;
		return 0;
	}
	return -ENOENT;
}

/* The microseconds in all of a line "some ..." or "full ..." of a file about pressure. */
static int find_total(const char *text, const char *word, uint64_t *ret_us)
{
	const char *line = strstr(text, word), *total = line ? strstr(line, "total=") : NULL;
	unsigned long long us;

	if (!total || sscanf(total, "total=%20llu", &us) != 1)
		return -ENOENT;
	*ret_us = us;
	return 0;
}

int ob_memory_read(struct ob_guest_memory *ret_memory)
{
	struct ob_guest_memory memory = { 0 };
	uint64_t buffers = 0, cached = 0;
	char text[8192];
	int r = ob_read_text("/proc/meminfo", text, sizeof(text));

	if (r < 0)
		return r;
	if (ob_memory_find(text, "MemTotal", &memory.total_bytes) < 0 || ob_memory_find(text, "MemFree", &memory.free_bytes) < 0 ||
	    ob_memory_find(text, "MemAvailable", &memory.available_bytes) < 0 || ob_memory_find(text, "Buffers", &buffers) < 0 ||
	    ob_memory_find(text, "Cached", &cached) < 0 || ob_memory_find(text, "SwapTotal", &memory.swap_bytes) < 0 ||
	    ob_memory_find(text, "SwapFree", &memory.swap_free_bytes) < 0)
		return -EPROTO;
	memory.caches_bytes = buffers + cached;
	/* A kernel without it, or with psi=0, has no such file, or one that cannot be read. */
	if (ob_read_text("/proc/pressure/memory", text, sizeof(text)) > 0 && find_total(text, "some", &memory.some_us) == 0 &&
	    find_total(text, "full", &memory.full_us) == 0)
		memory.flags = OB_GUEST_HAS_PRESSURE;
	*ret_memory = memory;
	return 0;
}

int ob_memory_of_process(pid_t pid, uint64_t *ret_bytes)
{
	char path[64], text[4096];
	uint64_t resident, swapped = 0;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return r;
	/* One that is ending has no memory any more, and says nothing of it. */
	if (ob_memory_find(text, "VmRSS", &resident) < 0)
		return -ESRCH;
	(void)(ob_memory_find(text, "VmSwap", &swapped) < 0);
	*ret_bytes = resident + swapped;
	return 0;
}
