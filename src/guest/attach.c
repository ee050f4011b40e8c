/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How jcmd comes to a Java virtual machine: /tmp/.java_pidPID, in the mount namespace of its process and by its number there, is a unix socket that it
 * listens on. It does so from the moment on when it gets SIGQUIT while there is a file /tmp/.attach_pidPID of its user's.
 *
 * To anything else SIGQUIT is the end. So it is sent only to a process that has libjvm.so mapped as code and catches SIGQUIT (one that was started
 * with -Xrs does not, and listens from the beginning), by a pidfd, and once: it makes one that does not listen then (-XX:+DisableAttachMechanism)
 * print its threads, so that this one is not asked again while it lives.
 *
 * It talks to its own user alone, whose files these are: for that time we are that user, with no group but its own.
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "guest/jvm.h"

#define LOOK_US   50000
#define LOOKS     200 /* until it listens: 10 s */
#define LINE_SIZE 4400 /* of maps: a path and what stands before it */

static bool is_refused; /* for good */

/* --- which process it is --- */

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

pid_t ob_jvm_find(const struct ob_service *service)
{
	DIR *proc = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *entry = proc ? readdir(proc) : NULL; entry; entry = readdir(proc)) {
		char path[sizeof(entry->d_name) + 16], arguments[16384];
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;
		int n;

		snprintf(path, sizeof(path), "/proc/%s/cmdline", entry->d_name);
		n = pid > 0 && (!found || pid < found) ? ob_read_text(path, arguments, sizeof(arguments)) : 0;
		if (n > 0 && is_java(arguments, (size_t)n, service->process))
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

/* Its number in its own namespace, and whether it catches SIGQUIT. Returns 0 or -errno. */
static int read_status(pid_t pid, int *ret_number, bool *ret_catches)
{
	char path[64], text[8192];
	const char *numbers, *caught;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return r;
	numbers = strstr(text, "\nNSpid:");
	caught = strstr(text, "\nSigCgt:");
	if (!numbers || !caught)
		return -EPROTO;
	/* Of nested namespaces the last. */
	numbers += strlen("\nNSpid:");
	for (char *end; *numbers == '\t'; numbers = end)
		*ret_number = (int)strtol(numbers, &end, 10);
	*ret_catches = strtoull(caught + strlen("\nSigCgt:"), NULL, 16) >> (SIGQUIT - 1) & 1;
	return 0;
}

static bool is_socket(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Makes it listen there. */
static int wake(const struct ob_server *server, int number, const char *path, struct ob_error *err)
{
	char file[128];
	int OB_FD fd = -1;

	snprintf(file, sizeof(file), "/proc/%d/root/tmp/.attach_pid%d", (int)server->pid, number);
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno != EEXIST)
		return ob_error_sys(err, EPERM, "cannot make the JVM's \"%s\"", file);
	is_refused = true;
	if (syscall(SYS_pidfd_send_signal, server->pidfd, SIGQUIT, NULL, 0) == 0)
		for (unsigned i = 0; i < LOOKS && !is_socket(path) && !ob_server_has_ended(server); i++)
			usleep(LOOK_US);
	unlink(file);
	is_refused = !is_socket(path);
	return is_refused ? ob_error_set(err, EPERM, "the JVM does not let anybody attach") : 0;
}

static int open_socket(struct ob_server *server, struct ob_error *err)
{
	bool catches = false;
	int number = 0;
	char path[64];

	if (read_status(server->pid, &number, &catches) < 0)
		return ob_error_set(err, ECONNRESET, "the JVM has ended");
	snprintf(path, sizeof(path), "/proc/%d/root/tmp/.java_pid%d", (int)server->pid, number);
	if (!is_socket(path)) {
		if (!catches || !maps_libjvm(server->pid))
			return ob_error_set(err, EPERM, "pid %d is no JVM that catches SIGQUIT", (int)server->pid);
		if (wake(server, number, path, err) < 0)
			return -err->code;
	}
	return ob_server_connect(server, path, err);
}

int ob_jvm_open(struct ob_server *server, struct ob_error *err)
{
	char path[32];
	struct stat st;
	int r;

	ob_fd_close(&server->fd);
	snprintf(path, sizeof(path), "/proc/%d", (int)server->pid);
	if (server->pidfd < 0 || ob_server_has_ended(server) || stat(path, &st) < 0)
		return ob_error_set(err, ECONNRESET, "the JVM has ended");
	if (is_refused)
		return ob_error_set(err, EPERM, "the JVM does not let anybody attach");
	if ((geteuid() == 0 && setgroups(0, NULL) < 0) || become(st.st_uid, st.st_gid) < 0)
		r = ob_error_set(err, EPERM, "cannot be the JVM's user %u", (unsigned)st.st_uid);
	else
		r = open_socket(server, err);
	return_to_self();
	return r;
}
