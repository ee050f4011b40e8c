/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may run here, and where it listens.
 *
 * The pid file is locked with flock() for as long as overbookd lives, so a dead one never stands in the way, and whoever
 * holds the lock may remove stale sockets: nobody else can be listening on them. The file is never removed, since a
 * second overbookd could otherwise lock a file that has no name any more.
 *
 * The directory must belong to overbookd's user (or root) and nobody else may write in it; sockets are made under umask
 * 077, and each peer is checked by SO_PEERCRED on top of that.
 *
 * systemd may have made the sockets (overbookd.socket). They are told apart by their type, which is what the two protocols
 * differ in: all sockets of one unit carry one FileDescriptorName. One that was not passed is made here. A passed one is
 * neither made nor removed here, so that machines that connect while no overbookd runs wait in it for the next one. A listening socket of
 * an internet address is for metrics (metrics_server.c). Among the sockets
 * there may be what systemd has kept of an earlier overbookd: share_keep.c.
 */
#include "daemon/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/share.h"
#include "proto/env.h"

#define LISTEN_BACKLOG 128

static int choose_dir(struct ob_daemon *daemon, const char *dir, struct ob_error *err)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (!dir)
		dir = getenv("OVERBOOK_RUNDIR");
	if (dir && *dir)
		n = snprintf(daemon->dir, sizeof(daemon->dir), "%s", dir);
	else if (geteuid() == 0)
		n = snprintf(daemon->dir, sizeof(daemon->dir), "/run/overbook");
	else if (runtime && *runtime)
		n = snprintf(daemon->dir, sizeof(daemon->dir), "%s/overbook", runtime);
	else
		return ob_error_set(err, ENOENT, "no directory for sockets: give --socket-dir DIR, or set XDG_RUNTIME_DIR");
	/* The longest name in it must still fit into a socket address. */
	if ((size_t)n + sizeof("/" OB_RUNTIME_CLIENTS) > sizeof(daemon->dir))
		return ob_error_set(err, ENAMETOOLONG, "socket directory of %d bytes: a socket's path leaves room for %zu", n,
				    sizeof(daemon->dir) - sizeof("/" OB_RUNTIME_CLIENTS));
	if (*daemon->dir != '/')
		return ob_error_set(err, EINVAL, "socket directory \"%s\" is not an absolute path", daemon->dir);
	snprintf(daemon->clients_path, sizeof(daemon->clients_path), "%.*s/" OB_RUNTIME_CLIENTS, n, daemon->dir);
	snprintf(daemon->agents_path, sizeof(daemon->agents_path), "%.*s/" OB_RUNTIME_AGENTS, n, daemon->dir);
	return 0;
}

static int make_dir(const char *dir, struct ob_error *err)
{
	struct stat st;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return ob_error_sys(err, errno, "cannot make socket directory \"%s\"", dir);
	if (lstat(dir, &st) < 0)
		return ob_error_sys(err, errno, "cannot look at socket directory \"%s\"", dir);
	if (!S_ISDIR(st.st_mode))
		return ob_error_set(err, ENOTDIR, "socket directory \"%s\" is not a directory", dir);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return ob_error_set(err, EPERM, "socket directory \"%s\" belongs to uid %u: it must belong to uid %u or root", dir,
				    (unsigned)st.st_uid, (unsigned)geteuid());
	if (st.st_mode & 022)
		return ob_error_set(err, EPERM, "socket directory \"%s\" has mode %04o: others must not be able to write in it", dir,
				    (unsigned)st.st_mode & 07777);
	return 0;
}

static int claim_pid_file(struct ob_daemon *daemon, struct ob_error *err)
{
	char path[sizeof(daemon->dir) + 32], pid[32];
	int OB_FD fd = -1;
	int n;

	snprintf(path, sizeof(path), "%s/" OB_RUNTIME_PID_FILE, daemon->dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot open pid file \"%s\"", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return ob_error_sys(err, errno, "cannot lock pid file \"%s\"", path);
		n = (int)pread(fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = '\0';
		pid[strspn(pid, "0123456789")] = '\0';
		return ob_error_set(err, EBUSY, "overbookd is running already with pid %s: it holds \"%s\"", *pid ? pid : "unknown",
				    path);
	}
	n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n)
		return ob_error_sys(err, errno, "cannot write pid file \"%s\"", path);
	daemon->lock_fd = ob_fd_take(&fd);
	return 0;
}

int ob_runtime_claim(struct ob_daemon *daemon, const char *dir, struct ob_error *err)
{
	int r = choose_dir(daemon, dir, err);

	if (r < 0)
		return r;
	r = make_dir(daemon->dir, err);
	if (r < 0)
		return r;
	return claim_pid_file(daemon, err);
}

static int listen_on(const char *path, int type, int *ret_fd, struct ob_error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int OB_FD fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return ob_error_sys(err, errno, "cannot make a unix socket");
	if (unlink(path) < 0 && errno != ENOENT)
		return ob_error_sys(err, errno, "cannot remove the stale socket \"%s\"", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return ob_error_sys(err, errno, "cannot bind socket \"%s\"", path);
	if (listen(fd, LISTEN_BACKLOG) < 0)
		return ob_error_sys(err, errno, "cannot listen on socket \"%s\"", path);
	*ret_fd = ob_fd_take(&fd);
	return 0;
}

/* Where a passed socket is bound, for those who are told. */
static int find_path(int fd, char *ret_path, size_t size, struct ob_error *err)
{
	struct sockaddr_un address = { 0 };
	socklen_t length = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return ob_error_sys(err, errno, "cannot tell where the passed descriptor %d is bound", fd);
	if (length <= offsetof(struct sockaddr_un, sun_path) || address.sun_path[0] != '/')
		return ob_error_set(err, EINVAL, "the passed descriptor %d is not bound to an absolute path", fd);
	snprintf(ret_path, size, "%.*s", (int)sizeof(address.sun_path), address.sun_path);
	return 0;
}

/* One of internet addresses is for metrics. */
static int adopt_metrics(struct ob_daemon *daemon, int fd, struct ob_error *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (daemon->metrics_passed_fd)
		return ob_error_set(err, EINVAL, "two listening sockets of internet addresses were passed: one is wanted, for metrics");
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return ob_error_sys(err, errno, "cannot use the passed descriptor %d", fd);
	daemon->metrics_passed_fd = fd;
	return 0;
}

static int adopt(struct ob_daemon *daemon, int fd, struct ob_error *err)
{
	bool agents = sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) > 0;
	int *own = agents ? &daemon->agents_fd : &daemon->clients_fd;
	int flags = fcntl(fd, F_GETFL), r;

	if (sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) > 0)
		return adopt_metrics(daemon, fd, err);
	if (!agents && sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0)
		return ob_error_set(err, EINVAL, "the passed descriptor %d is no listening unix socket of type seqpacket (agents) or stream "
				    "(clients), nor one of an internet address (metrics)", fd);
	if (*own >= 0)
		return ob_error_set(err, EINVAL, "two listening sockets of type %s were passed: one is wanted", agents ? "seqpacket" : "stream");
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return ob_error_sys(err, errno, "cannot use the passed descriptor %d", fd);
	r = find_path(fd, agents ? daemon->agents_path : daemon->clients_path, sizeof(daemon->agents_path), err);
	if (r < 0)
		return r;
	*own = fd;
	*(agents ? &daemon->agents_passed : &daemon->clients_passed) = true;
	return 0;
}

/* Sockets, and what was kept. */
static int take_passed(struct ob_daemon *daemon, struct ob_error *err)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), r = 0;
	unsigned taken = 0;

	if (n < 0)
		return ob_error_sys(err, -n, "cannot take the sockets that were passed");
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;

		if (ob_share_is_kept(names[i]))
			taken += ob_share_take(daemon, fd, names[i]);
		else if (r == 0)
			r = adopt(daemon, fd, err);
		free(names[i]);
	}
	free(names);
	if (taken)
		ob_log(OB_LOG_INFO, "%u extents of shared pages of before are here", taken);
	return r;
}

int ob_runtime_listen(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = take_passed(daemon, err);

	if (r == 0 && daemon->agents_fd < 0)
		r = listen_on(daemon->agents_path, SOCK_SEQPACKET, &daemon->agents_fd, err);
	if (r == 0 && daemon->clients_fd < 0)
		r = listen_on(daemon->clients_path, SOCK_STREAM, &daemon->clients_fd, err);
	return r;
}

void ob_runtime_close(struct ob_daemon *daemon)
{
	if (daemon->agents_fd >= 0 && !daemon->agents_passed)
		unlink(daemon->agents_path);
	if (daemon->clients_fd >= 0 && !daemon->clients_passed)
		unlink(daemon->clients_path);
	ob_fd_close(&daemon->agents_fd);
	ob_fd_close(&daemon->clients_fd);
	ob_fd_close(&daemon->lock_fd);
}

static int machine_lives(const struct ob_daemon *daemon, const char *name)
{
	char path[sizeof(daemon->dir) + OB_NAME_MAX + 32], text[32];
	long pid;

	snprintf(path, sizeof(path), "%s/machines/%s/" OB_FILE_LOCK, daemon->dir, name);
	if (ob_read_text(path, text, sizeof(text)) <= 0)
		return 0;
	pid = strtol(text, NULL, 10);
	return pid > 0 && pid <= INT32_MAX && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}

unsigned ob_runtime_count_machines(const struct ob_daemon *daemon)
{
	char path[sizeof(daemon->dir) + 16];
	struct dirent *entry;
	unsigned count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/machines", daemon->dir);
	dir = opendir(path);
	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		if (*entry->d_name != '.' && strlen(entry->d_name) <= OB_NAME_MAX)
			count += (unsigned)machine_lives(daemon, entry->d_name);
	closedir(dir);
	return count;
}

int ob_runtime_accept(int listener, struct ucred *ret_peer, struct ob_error *err)
{
	int OB_FD fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	socklen_t size = sizeof(*ret_peer);

	if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return -EAGAIN;
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot accept a connection");
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		return ob_error_sys(err, errno, "cannot tell who has connected");
	if (ret_peer->uid != 0 && ret_peer->uid != geteuid())
		return ob_error_set(err, EPERM, "pid %d of uid %u has connected: only root and uid %u may", (int)ret_peer->pid,
				    (unsigned)ret_peer->uid, (unsigned)geteuid());
	return ob_fd_take(&fd);
}
