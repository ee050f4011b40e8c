/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The run directory: its pid file, which only one overbookd can hold, and the two listening sockets. */
#ifndef OB_DAEMON_RUNTIME_H
#define OB_DAEMON_RUNTIME_H

#include <sys/socket.h>

#include "daemon/daemon.h"

#define OB_RUNTIME_PID_FILE "overbookd.pid"
#define OB_RUNTIME_CLIENTS  "overbookd.sock"
#define OB_RUNTIME_AGENTS   "agents.sock"

/*
 * Chooses the directory (given, or $OVERBOOK_RUNDIR, /run/overbook for root, $XDG_RUNTIME_DIR/overbook), makes it if it is
 * missing, and takes the pid file's lock. Returns 0; -EBUSY with the pid of the overbookd that is running; or -errno.
 */
int ob_runtime_claim(struct ob_daemon *daemon, const char *dir, struct ob_error *err) OB_MUST_CHECK;

/*
 * Takes the listening sockets that systemd has passed, and binds the ones that it has not; what a dead overbookd left is
 * replaced. Call with the lock held.
 */
int ob_runtime_listen(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;

/* Removes the sockets that it has bound and closes everything. The pid file stays: to remove it would race with a successor. */
void ob_runtime_close(struct ob_daemon *daemon);

/* How many machines of this directory live: their lock file names a process that exists. */
unsigned ob_runtime_count_machines(const struct ob_daemon *daemon);

/* Accepts one connection (non-blocking) of root or of overbookd's own user. Returns the descriptor, -EAGAIN, -EPERM with who it was, or -errno. */
int ob_runtime_accept(int listener, struct ucred *ret_peer, struct ob_error *err) OB_MUST_CHECK;

#endif
