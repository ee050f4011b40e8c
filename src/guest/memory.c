/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads /proc: small files that the kernel writes, which are looked at line by line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/meminfo.h"
#include "base/units.h"
#include "guest/guest.h"

/* Whether the text of meminfo, or status, has a line "KEY: N kB". */
static int find_bytes(const char *text, const char *key, uint64_t *ret_bytes)
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

int ob_memory_read(struct ob_guest_memory *ret_memory)
{
	struct ob_guest_memory memory = { 0 };
	uint64_t buffers = 0, cached = 0;
	char text[8192];
	int r = ob_read_text("/proc/meminfo", text, sizeof(text));

	if (r < 0)
		return r;
	if (find_bytes(text, "MemTotal", &memory.total_bytes) < 0 || find_bytes(text, "MemFree", &memory.free_bytes) < 0 ||
	    find_bytes(text, "MemAvailable", &memory.available_bytes) < 0 || find_bytes(text, "Buffers", &buffers) < 0 ||
	    find_bytes(text, "Cached", &cached) < 0 || find_bytes(text, "SwapTotal", &memory.swap_bytes) < 0 ||
	    find_bytes(text, "SwapFree", &memory.swap_free_bytes) < 0)
		return -EPROTO;
	memory.caches_bytes = buffers + cached;
	if (ob_memory_pressure(&memory.some_us, &memory.full_us) == 0)
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
	if (find_bytes(text, "VmRSS", &resident) < 0)
		return -ESRCH;
	(void)(find_bytes(text, "VmSwap", &swapped) < 0);
	*ret_bytes = resident + swapped;
	return 0;
}
