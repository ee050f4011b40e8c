/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"

#define FIELDS_BEFORE_CPU 36 /* of /proc/PID/task/TID/stat, behind the name in parentheses */

/* Reads what the kernel tells of a thread. Returns the length, or -errno: -ENOENT where it is none of this process. */
static int read_task(uint32_t thread, const char *name, char *text, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%u/%s", thread, name);
	return ob_read_text(path, text, size);
}

int ob_cpu_of_thread(uint32_t thread)
{
	char text[1024], *at;
	int r = read_task(thread, "stat", text, sizeof(text));

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

int ob_cpu_waited(uint32_t thread, uint64_t *ret_ns)
{
	unsigned long long waited;
	char text[128];
	int r = read_task(thread, "schedstat", text, sizeof(text));

	if (r < 0)
		return r;
	if (sscanf(text, "%*u %llu", &waited) != 1)
		return -EIO;
	*ret_ns = waited;
	return 0;
}

/* As in linux/sched/types.h, which cannot be included beside sched.h everywhere. Its first version, which every kernel takes. */
struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

int ob_cpu_short_turns(void)
{
	struct sched_attributes own = { .size = sizeof(own) };

	if (syscall(SYS_sched_getattr, 0, &own, sizeof(own), 0) < 0)
		return -errno;
	/* A real-time thread has its turn anyway, and an idle one is not to have it. */
	if (own.policy != SCHED_OTHER)
		return 0;
	own.size = sizeof(own);
	own.runtime = OB_CPU_SHORT_NS;
	return syscall(SYS_sched_setattr, 0, &own, 0) < 0 ? -errno : 0;
}

int ob_cpu_mask(uint32_t thread, cpu_set_t *ret_mask)
{
	return sched_getaffinity((pid_t)thread, sizeof(*ret_mask), ret_mask) < 0 ? -errno : 0;
}

int ob_cpu_set_mask(uint32_t thread, const cpu_set_t *mask)
{
	int r = ob_fault(OB_FP_affinity);

	if (r < 0)
		return r;
	/* Its number may be another process's by now. */
	r = ob_cpu_of_thread(thread);
	if (r < 0)
		return r;
	return sched_setaffinity((pid_t)thread, sizeof(*mask), mask) < 0 ? -errno : 0;
}

int ob_cpu_restore_mask(uint32_t thread, const cpu_set_t *mask)
{
	cpu_set_t all, now;

	memset(&all, 0xff, sizeof(all));
	if (ob_cpu_set_mask(thread, &all) == 0 && ob_cpu_mask(thread, &now) == 0 && CPU_EQUAL(&now, mask))
		return 0;
	return ob_cpu_set_mask(thread, mask);
}
