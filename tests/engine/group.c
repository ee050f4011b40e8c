/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "group.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define V1_ROOT "/sys/fs/cgroup/memory"
#define V2_ROOT "/sys/fs/cgroup"
#define CHARGE_BATCH (64 * 4096ull) /* what a processor takes at once, if it can */

static int put(const struct group *group, const char *file, const char *text)
{
	char path[320];
	int OB_FD fd = -1;

	snprintf(path, sizeof(path), "%s/%s", group->path, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}

static int has_v2_memory(void)
{
	char text[256];

	return ob_read_text(V2_ROOT "/cgroup.subtree_control", text, sizeof(text)) > 0 && strstr(text, "memory");
}

int group_make(struct group *group, enum group_mode mode, struct ob_error *err)
{
	const char *root = V1_ROOT;
	int r;

	*group = (struct group){ .version = access(V1_ROOT "/memory.oom_control", F_OK) == 0 ? 1 : has_v2_memory() ? 2 : 0 };
	if (!group->version)
		return ob_error_set(err, ENOTSUP, "this host has no memory cgroups");
	if (mode == GROUP_WAITS && group->version == 2)
		return ob_error_set(err, ENOTSUP, "a memory cgroup of version 2 always kills");
	if (group->version == 2)
		root = V2_ROOT;
	snprintf(group->path, sizeof(group->path), "%s/overbook-test-%ld", root, (long)getpid());
	if (mkdir(group->path, 0755) < 0) {
		r = -errno;
		group->path[0] = '\0';
		return ob_error_sys(err, -r, "cannot make a memory cgroup below %s", root);
	}
	/* Without the host's own swap, which would be a way out. */
	if (group->version == 1) {
		r = put(group, "memory.swappiness", "0");
		if (r == 0 && mode == GROUP_WAITS)
			r = put(group, "memory.oom_control", "1");
	} else {
		r = put(group, "memory.swap.max", "0");
		r = r == -ENOENT ? 0 : r; /* a kernel without swap */
	}
	if (r < 0) {
		group_remove(group);
		return ob_error_sys(err, -r, "cannot set up a memory cgroup below %s", root);
	}
	return 0;
}

void group_remove(struct group *group)
{
	if (group->path[0] && rmdir(group->path) < 0)
		perror(group->path);
	group->path[0] = '\0';
}

int group_join(const struct group *group)
{
	return put(group, "cgroup.procs", "0");
}

int group_limit(const struct group *group, uint64_t bytes)
{
	char text[32];

	if (bytes)
		snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	else
		snprintf(text, sizeof(text), group->version == 1 ? "-1" : "max");
	return put(group, group->version == 1 ? "memory.limit_in_bytes" : "memory.max", text);
}

static uint64_t get(const struct group *group, const char *file)
{
	char path[320], text[256];

	snprintf(path, sizeof(path), "%s/%s", group->path, file);
	return ob_read_text(path, text, sizeof(text)) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* Only a plain fault waits, and is seen as "under_oom"; a system call is refused, and leaves but the usage at the limit. */
int group_is_short(const struct group *group)
{
	char path[320], text[256];

	snprintf(path, sizeof(path), "%s/memory.oom_control", group->path);
	if (ob_read_text(path, text, sizeof(text)) > 0 && strstr(text, "under_oom 1"))
		return 1;
	return get(group, "memory.usage_in_bytes") + CHARGE_BATCH >= get(group, "memory.limit_in_bytes");
}
