/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/meminfo.h"

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
