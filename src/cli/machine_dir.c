/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The name of a machine is the flock on RUNDIR/machines/NAME/lock. The file is opened without O_CLOEXEC and never closed:
 * the lock goes with the open file through exec into QEMU (and through QEMU's fork with -daemonize) and ends with it, by
 * whatever death. The pid in the file is for people; the lock is what counts.
 *
 * A machine that has ended leaves its directory. The next `overbook run` of any name sweeps such directories away. Claims
 * and sweeps of several runs at one moment are kept apart by a flock on RUNDIR/machines itself, held for as long as either
 * takes: so a lock that is held while that one is, is held by a machine, and what has been made stays until it is locked.
 *
 * Nothing is ever created in a directory that somebody else could write to.
 */
#include "cli/machine_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "proto/env.h"
#include "proto/wire.h"

#define MACHINES "machines"

static const char *const leftovers[] = { OB_FILE_QMP, OB_FILE_GUEST };

int ob_machine_dir_path(const char *rundir, const char *name, char *ret_path, size_t size, struct ob_error *err)
{
	const size_t room = sizeof(((struct sockaddr_un *)0)->sun_path);
	int length = snprintf(ret_path, size, "%s/" MACHINES "/%s", rundir, name);

	if (length < 0 || (size_t)length >= size || (size_t)length + strlen("/" OB_FILE_GUEST) >= room)
		return ob_error_set(err, ENAMETOOLONG, "the sockets of machine \"%s\" would have paths of more than %zu "
				    "bytes in \"%s\": choose a "
				    "shorter --name, or a shorter OVERBOOK_RUNDIR", name, room - 1, rundir);
	return 0;
}

/* Makes the directory if it is missing, and sees that only we (or root) can write to it. */
static int make_dir(const char *path, mode_t mode, struct ob_error *err)
{
	struct stat st;

	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return ob_error_sys(err, errno, "cannot make directory \"%s\"", path);
	if (lstat(path, &st) < 0)
		return ob_error_sys(err, errno, "cannot look at directory \"%s\"", path);
	if (!S_ISDIR(st.st_mode))
		return ob_error_set(err, ENOTDIR, "\"%s\" is not a directory: remove it", path);
	if ((st.st_uid != geteuid() && st.st_uid) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return ob_error_set(err, EPERM, "directory \"%s\" can be written by others (owner %u, mode %o): it must be "
				    "yours alone, with mode %o",
				    path, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, (unsigned)mode);
	return 0;
}

/* Opens and locks the file of an existing directory. Returns the descriptor, -EBUSY or another -errno. */
static int take_lock(const char *dir, int flags)
{
	char path[PATH_MAX + sizeof(OB_FILE_LOCK)];
	int OB_FD fd = -1;

	snprintf(path, sizeof(path), "%s/" OB_FILE_LOCK, dir);
	fd = open(path, O_RDWR | O_NOFOLLOW | flags, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	return ob_fd_take(&fd);
}

/* Waits until no other run claims or sweeps. Returns a descriptor that holds the others off until it is closed, or -errno. */
static int lock_machines(const char *rundir)
{
	char path[PATH_MAX];
	int OB_FD fd = -1;

	snprintf(path, sizeof(path), "%.*s/" MACHINES, (int)sizeof(path) - 16, rundir);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return -errno;
	return ob_fd_take(&fd);
}

static int report_busy(const char *dir, const char *name, struct ob_error *err)
{
	char path[PATH_MAX + sizeof(OB_FILE_LOCK)], pid[32] = "";

	snprintf(path, sizeof(path), "%s/" OB_FILE_LOCK, dir);
	if (ob_read_text(path, pid, sizeof(pid)) < 0 || !pid[0] || pid[strspn(pid, "0123456789")])
		snprintf(pid, sizeof(pid), "unknown");
	return ob_error_set(err, EBUSY, "machine \"%s\" is running already (pid %s): choose another --name, or end it first",
			    name, pid);
}

static void remove_leftovers(const char *dir)
{
	char path[PATH_MAX + 32];

	for (size_t i = 0; i < OB_ARRAY_LEN(leftovers); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, leftovers[i]);
		unlink(path);
	}
}

static int write_pid(int fd, struct ob_error *err)
{
	char text[32];
	int r, length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

	r = ftruncate(fd, 0) < 0 ? -errno : ob_pwrite_full(fd, text, (size_t)length, 0);
	return r < 0 ? ob_error_sys(err, -r, "cannot write the pid to the machine's lock") : 0;
}

static int make_parents(const char *rundir, struct ob_error *err)
{
	char path[PATH_MAX];
	int r = make_dir(rundir, 0755, err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%.*s/" MACHINES, (int)sizeof(path) - 16, rundir);
	return make_dir(path, 0755, err);
}

int ob_machine_dir_claim(const char *rundir, const char *name, struct ob_machine_dir *ret_dir, struct ob_error *err)
{
	int OB_FD machines = -1;
	int OB_FD fd = -1;
	int r = make_parents(rundir, err);

	if (r == 0)
		r = ob_machine_dir_path(rundir, name, ret_dir->path, sizeof(ret_dir->path), err);
	if (r < 0)
		return r;
	machines = lock_machines(rundir);
	if (machines < 0)
		return ob_error_sys(err, -machines, "cannot lock \"%s/" MACHINES "\"", rundir);
	r = make_dir(ret_dir->path, 0700, err);
	if (r < 0)
		return r;
	fd = take_lock(ret_dir->path, O_CREAT);
	if (fd == -EBUSY)
		return report_busy(ret_dir->path, name, err);
	if (fd < 0)
		return ob_error_sys(err, -fd, "cannot lock \"%s/" OB_FILE_LOCK "\"", ret_dir->path);
	remove_leftovers(ret_dir->path);
	r = write_pid(fd, err);
	if (r < 0)
		return r;
	ret_dir->lock_fd = ob_fd_take(&fd);
	return 0;
}

static void remove_locked(const char *dir)
{
	char path[PATH_MAX + sizeof(OB_FILE_LOCK)];

	remove_leftovers(dir);
	snprintf(path, sizeof(path), "%s/" OB_FILE_LOCK, dir);
	unlink(path);
	rmdir(dir);
}

void ob_machine_dir_discard(struct ob_machine_dir *dir)
{
	const char *name = strstr(dir->path, "/" MACHINES "/");
	char rundir[PATH_MAX];

	/* The last one: the run directory may be called like that, too. */
	for (const char *next = name; next; next = strstr(next + 1, "/" MACHINES "/"))
		name = next;
	snprintf(rundir, sizeof(rundir), "%.*s", name ? (int)(name - dir->path) : 0, dir->path);
	int OB_FD machines = lock_machines(rundir);

	remove_locked(dir->path);
	ob_fd_close(&dir->lock_fd);
}

void ob_machine_dir_sweep(const char *rundir)
{
	int OB_FD machines = lock_machines(rundir);
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *list;

	if (machines < 0)
		return;
	snprintf(path, sizeof(path), "%.*s/" MACHINES, (int)sizeof(path) - 16, rundir);
	list = opendir(path);
	while (list && (entry = readdir(list))) {
		if (!ob_name_valid(entry->d_name) || ob_machine_dir_path(rundir, entry->d_name, path, sizeof(path),
									 NULL) < 0)
			continue;
		int OB_FD fd = take_lock(path, O_CLOEXEC);

		/* Without a lock file: someone died between mkdir and open. */
		if (fd >= 0)
			remove_locked(path);
		else if (fd == -ENOENT)
			rmdir(path);
	}
	if (list)
		closedir(list);
}
