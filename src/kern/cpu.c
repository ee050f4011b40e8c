/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

#define FIELDS_BEFORE_CPU 36 /* of /proc/PID/task/TID/stat, behind the name in parentheses */

int ob_cpu_of_thread(uint32_t thread)
{
	char path[64], text[1024], *at;
	int r;

	snprintf(path, sizeof(path), "/proc/self/task/%u/stat", thread);
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return r;
	at = strrchr(text, ')');
	for (unsigned i = 0; at && i <= FIELDS_BEFORE_CPU; i++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -EIO;
}

int ob_cpu_bind(int cpu)
{
	cpu_set_t set;

	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return -EINVAL;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) < 0 ? -errno : 0;
}
