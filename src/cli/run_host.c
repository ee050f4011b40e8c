/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/run_host.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"

#define AGENT_FILE "liboverbook-agent.so"

static int use_agent(const char *path, char *ret_path, size_t size, struct ob_error *err)
{
	char real[PATH_MAX];

	if (!realpath(path, real) || access(real, R_OK) < 0)
		return -ENOENT;
	/* The loader splits LD_PRELOAD at these, and there is no escape. */
	if (strpbrk(real, ": \t"))
		return ob_error_set(err, EINVAL, "the agent's path \"%s\" has a colon or space in it, which LD_PRELOAD "
				    "cannot express: move it", real);
	snprintf(ret_path, size, "%s", real);
	return 0;
}

int ob_host_find_agent(char *ret_path, size_t size, struct ob_error *err)
{
	char self[PATH_MAX], beside[PATH_MAX + 64];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;
	int r = -ENOENT;

	self[length > 0 ? length : 0] = 0;
	slash = strrchr(self, '/');
	if (slash) {
		*slash = 0;
		snprintf(beside, sizeof(beside), "%s/../agent/" AGENT_FILE, self);
		r = use_agent(beside, ret_path, size, err);
	}
	if (r == -ENOENT)
		r = use_agent(OB_PKGLIBDIR "/" AGENT_FILE, ret_path, size, err);
	if (r == -ENOENT)
		return ob_error_set(err, ENOENT, "the agent is neither "
				    "\"%s/../agent/" AGENT_FILE "\" nor \"" OB_PKGLIBDIR "/" AGENT_FILE
				    "\": install Overbook again", self);
	return r;
}

int ob_host_default_swap(char *ret_path, size_t size, struct ob_error *err)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int length;

	if (!geteuid())
		length = snprintf(ret_path, size, "/var/lib/overbook/swap");
	else if (state && *state == '/')
		length = snprintf(ret_path, size, "%s/overbook/swap", state);
	else if (home && *home == '/')
		length = snprintf(ret_path, size, "%s/.local/state/overbook/swap", home);
	else
		return ob_error_set(err, ENOENT, "there is no default swap directory without HOME: give --swap DIR");
	return (size_t)length < size ? 0 : ob_error_set(err, ENAMETOOLONG,
							"the default swap directory's path is too long: give --swap DIR");
}

/* As mkdir -p; what is made is for us alone. */
static int make_path(const char *path, struct ob_error *err)
{
	char part[PATH_MAX];

	snprintf(part, sizeof(part), "%s", path);
	for (char *at = strchr(part + 1, '/');; at = strchr(at + 1, '/')) {
		if (at)
			*at = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return ob_error_sys(err, errno, "cannot make swap directory \"%s\"", part);
		if (!at)
			return 0;
		*at = '/';
	}
}

int ob_host_find_swap(const char *given, int make, char *ret_path, size_t size, struct ob_error *err)
{
	char path[PATH_MAX], real[PATH_MAX];
	int OB_FD fd = -1;
	struct stat st;
	int r = 0;

	if (given)
		snprintf(path, sizeof(path), "%s", given);
	else
		r = ob_host_default_swap(path, sizeof(path), err);
	if (r == 0 && !given && make)
		r = make_path(path, err);
	if (r < 0)
		return r;
	if (!realpath(path, real) || stat(real, &st) < 0)
		return ob_error_sys(err, errno, "cannot use swap directory \"%s\"", path);
	if (!S_ISDIR(st.st_mode))
		return ob_error_set(err, ENOTDIR, "swap directory \"%s\" is not a directory: give one with --swap DIR",
				    path);
	fd = ob_fd_unnamed(real, 0);
	if (fd < 0)
		return ob_error_sys(err, -fd, "cannot make a file in swap directory \"%s\"", path);
	if (strlen(real) >= size)
		return ob_error_set(err, ENAMETOOLONG, "swap directory \"%s\": its path is too long", path);
	memcpy(ret_path, real, strlen(real) + 1);
	return 0;
}

int ob_host_check_file_size(uint64_t ram_bytes, struct ob_error *err)
{
	struct rlimit limit;
	char allowed[16], needed[16];

	if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= ram_bytes)
		return 0;
	ob_size_format(allowed, sizeof(allowed), limit.rlim_cur);
	ob_size_format(needed, sizeof(needed), ram_bytes);
	return ob_error_set(err, EFBIG, "files may have %s at most here (ulimit -f), and guest memory of %s is behind an empty "
			    "file of that size: raise the limit", allowed, needed);
}
