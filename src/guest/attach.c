/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How jcmd comes to a Java virtual machine: /tmp/.java_pidPID, in the mount namespace of its process and by its number there, is a unix socket that it
 * listens on. It does so from the moment on when it gets SIGQUIT while there is a file /tmp/.attach_pidPID of its user's.
 *
 * To anything else SIGQUIT is the end. So it is sent only to a process that has libjvm.so mapped as code and catches SIGQUIT (one that was started
 * with -Xrs does not, and listens from the beginning), by a pidfd, and once: it makes one that does not listen then (-XX:+DisableAttachMechanism)
 * print its threads, so that this one is not asked again while it lives.
 *
 * It talks to its own user alone, whose files these are: for that time we are that user, with no group but its own. All of it may be a trap of that
 * user's, or of another one's for us both, since everybody writes to /tmp. So
 *
 * 1. who the user is comes from /proc/PID/status: /proc/PID may be root's. A process that is of several users at once is none of ours;
 * 2. the process's /tmp is opened once, and no link is followed: one in a mount namespace of the user's would lead through ours;
 * 3. the files must be that user's, and who listens that process. Nothing is said before that is seen;
 * 4. that all of it was of one process is seen by the pidfd, afterwards: nobody else had its number while it lived.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "guest/jvm.h"

#define LOOK_US   50000
#define LOOKS     200 /* until it listens: 10 s */
#define LINE_SIZE 4400 /* of maps: a path and what stands before it */

struct process {
	uid_t uid;
	gid_t gid;
	int number;        /* in its own namespace */
	bool catches_quit;
};

static bool is_refused; /* for good */

/* --- which process it is --- */

/* What the kernel says of it. Returns 0 or -errno: -EPERM, it is of several users, or groups. */
static int read_process(pid_t pid, struct process *ret_process)
{
	static char text[OB_MIB]; /* groups can be many */
	const char *users, *groups, *numbers, *caught;
	unsigned uid[4], gid[4];
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return r;
	users = strstr(text, "\nUid:\t");
	groups = strstr(text, "\nGid:\t");
	numbers = strstr(text, "\nNSpid:");
	caught = strstr(text, "\nSigCgt:");
	if (!users || sscanf(users, "\nUid:\t%u\t%u\t%u\t%u", &uid[0], &uid[1], &uid[2], &uid[3]) != 4 ||
	    !groups || sscanf(groups, "\nGid:\t%u\t%u\t%u\t%u", &gid[0], &gid[1], &gid[2], &gid[3]) != 4 || !numbers || !caught)
		return -EPROTO;
	for (unsigned i = 1; i < OB_ARRAY_LEN(uid); i++)
		if (uid[i] != uid[0] || gid[i] != gid[0])
			return -EPERM;
	ret_process->uid = uid[0];
	ret_process->gid = gid[0];
	/* Of nested namespaces the last. */
	numbers += strlen("\nNSpid:");
	for (char *end; *numbers == '\t'; numbers = end)
		ret_process->number = (int)strtol(numbers, &end, 10);
	ret_process->catches_quit = strtoull(caught + strlen("\nSigCgt:"), NULL, 16) >> (SIGQUIT - 1) & 1;
	return 0;
}

/* Whether the arguments, each ended by NUL, are of java, and one of them is that. */
static bool is_java(const char *arguments, size_t size, const char *that)
{
	const char *name = strrchr(arguments, '/');

	if (strcmp(name ? name + 1 : arguments, "java"))
		return false;
	for (size_t at = strlen(arguments) + 1; at < size; at += strlen(arguments + at) + 1)
		if (!strcmp(arguments + at, that))
			return true;
	return false;
}

/* Whether it is the one that the service names. */
static bool is_named(const struct ob_service *service, pid_t pid)
{
	static char arguments[OB_MIB]; /* class paths are long */
	struct process process;
	char path[64];
	int n;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	n = ob_read_text(path, arguments, sizeof(arguments));
	if (n <= 0 || !is_java(arguments, (size_t)n, service->process))
		return false;
	return !service->user[0] || (read_process(pid, &process) == 0 && process.uid == strtoul(service->user, NULL, 10));
}

pid_t ob_jvm_find(const struct ob_service *service)
{
	DIR *proc = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *entry = proc ? readdir(proc) : NULL; entry; entry = readdir(proc)) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;

		if (pid > 0 && (!found || pid < found) && is_named(service, pid))
			found = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}

/* --- as its user --- */

static int become(uid_t uid, gid_t gid)
{
	int r = seteuid(0) == 0 || geteuid() == uid ? 0 : -errno;

	if (r == 0 && (setegid(gid) < 0 || seteuid(uid) < 0))
		r = -errno;
	/* Which a change of user has undone. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return r;
}

/* As whom we were born. */
static void return_to_self(void)
{
	(void)(become(getuid(), getgid()) < 0);
}

static bool maps_libjvm(pid_t pid)
{
	char path[64], line[LINE_SIZE];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	while (maps && !found && fgets(line, sizeof(line), maps)) {
		const char *name = strrchr(line, '/');

		found = name && !strcmp(name, "/libjvm.so\n") && strstr(line, " r-xp ");
	}
	if (maps)
		fclose(maps);
	return found;
}

/* Its /tmp. Returns a descriptor, or -errno. */
static int open_tmp(const struct ob_server *server)
{
	char path[32];
	int tmp, OB_FD root = -1;

	snprintf(path, sizeof(path), "/proc/%d/root", (int)server->pid);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -errno;
	tmp = openat(root, "tmp", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return tmp < 0 ? -errno : tmp;
}

/* The socket as a descriptor that says where it is. -ENOENT: there is none, or -EPERM: it is none of that user's. */
static int find_socket(int tmp, const struct process *process)
{
	char name[32];
	struct stat st;
	int OB_FD fd = -1;

	snprintf(name, sizeof(name), ".java_pid%d", process->number);
	fd = openat(tmp, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == process->uid ? ob_fd_take(&fd) : -EPERM;
}

/* A file of that name, from a jcmd's or an adaptor's end, must be that user's: the JVM looks at none of another one's. */
static int make_file(int tmp, const char *name, uid_t uid)
{
	struct stat st;
	int OB_FD fd = openat(tmp, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd >= 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	return fstatat(tmp, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_uid == uid ? 0 : -EEXIST;
}

/* Makes it listen. Returns the socket as find_socket(), or -errno with the reason. */
static int wake(const struct ob_server *server, int tmp, const struct process *process, struct ob_error *err)
{
	char name[32];
	int r, fd = -ENOENT;

	if (!process->catches_quit || !maps_libjvm(server->pid))
		return ob_error_set(err, EPERM, "pid %d is no JVM that catches SIGQUIT", (int)server->pid);
	snprintf(name, sizeof(name), ".attach_pid%d", process->number);
	r = make_file(tmp, name, process->uid);
	if (r < 0)
		return ob_error_set(err, EPERM, "cannot make the JVM's \"/tmp/%s\": %s", name, strerror(-r));
	if (syscall(SYS_pidfd_send_signal, server->pidfd, SIGQUIT, NULL, 0) == 0)
		for (unsigned i = 0; i < LOOKS && fd == -ENOENT && !ob_server_has_ended(server); i++) {
			usleep(LOOK_US);
			fd = find_socket(tmp, process);
		}
	unlinkat(tmp, name, 0);
	is_refused = fd < 0;
	return fd < 0 ? ob_error_set(err, EPERM, "the JVM does not let anybody attach") : fd;
}

/* Connects to the socket, if the JVM listens there. */
static int connect_to(struct ob_server *server, int fd, struct ob_error *err)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = ob_server_connect(server, path, err);
	if (r < 0)
		return ob_error_wrap(err, "the JVM's socket");
	if (getsockopt(server->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid != server->pid)
		return ob_error_set(err, EPERM, "another process listens on the JVM's socket");
	return 0;
}

static int open_socket(struct ob_server *server, const struct process *process, struct ob_error *err)
{
	int OB_FD tmp = open_tmp(server), OB_FD fd = -1;

	if (ob_server_has_ended(server))
		return ob_error_set(err, ECONNRESET, "the JVM has ended");
	if (tmp < 0)
		return ob_error_set(err, EPERM, "cannot open the JVM's /tmp as its user %u: %s", (unsigned)process->uid, strerror(-tmp));
	fd = find_socket(tmp, process);
	if (fd == -ENOENT)
		fd = wake(server, tmp, process, err);
	else if (fd < 0)
		return ob_error_set(err, EPERM, "\"/tmp/.java_pid%d\" is no socket of the JVM's: %s", process->number, strerror(-fd));
	return fd < 0 ? -err->code : connect_to(server, fd, err);
}

int ob_jvm_open(struct ob_server *server, struct ob_error *err)
{
	struct process process = { 0 };
	int r = read_process(server->pid, &process);

	ob_fd_close(&server->fd);
	if (ob_server_has_ended(server))
		return ob_error_set(err, ECONNRESET, "the JVM has ended");
	if (r < 0)
		return ob_error_set(err, EPERM, "cannot see whose pid %d is: %s", (int)server->pid, r == -EPERM ? "it is of several users" : strerror(-r));
	if (is_refused)
		return ob_error_set(err, EPERM, "the JVM does not let anybody attach");
	if ((geteuid() == 0 && setgroups(0, NULL) < 0) || become(process.uid, process.gid) < 0)
		r = ob_error_set(err, EPERM, "cannot become the JVM's user %u; in systemd's unit that takes leave: overbook-guest(8)", (unsigned)process.uid);
	else
		r = open_socket(server, &process, err);
	return_to_self();
	return r;
}
