/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A machine's directory, RUNDIR/machines/NAME: who owns the name, and the sockets of the machine. */
#ifndef OB_CLI_MACHINE_DIR_H
#define OB_CLI_MACHINE_DIR_H

#include <limits.h>

#include "base/error.h"

struct ob_machine_dir {
	char path[PATH_MAX];
	int lock_fd; /* open and locked; without O_CLOEXEC, so that QEMU holds it for as long as it lives */
};

/* Writes RUNDIR/machines/NAME. Returns 0, or -ENAMETOOLONG with the reason when a socket's path in it would not fit. */
int ob_machine_dir_path(const char *rundir, const char *name, char *ret_path, size_t size,
			struct ob_error *err) OB_MUST_CHECK;

/*
 * Makes the directory and takes its lock; what a dead machine of that name left is removed. Returns 0; -EBUSY with the
 * pid of the machine that has the name; -EPERM when somebody else could write there; or -errno.
 */
int ob_machine_dir_claim(const char *rundir, const char *name, struct ob_machine_dir *ret_dir,
			 struct ob_error *err) OB_MUST_CHECK;

/* Gives a claimed directory up and removes it. */
void ob_machine_dir_discard(struct ob_machine_dir *dir);

/* Removes the directories of machines that have ended. Failures are left for the next time. */
void ob_machine_dir_sweep(const char *rundir);

#endif
