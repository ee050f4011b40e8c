/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The demo's processes: an overbookd of its own, and the machines, started by `overbook run` exactly as a user would.
 *
 * Everything lies in one private directory under /var/tmp (or --directory): the sockets, the swap stores, the disks, the
 * logs. It is not /tmp, which is memory on many hosts. Children run in process groups of their own, so that an interrupt
 * at the terminal reaches the demo alone, and get SIGKILL should the demo die without cleaning up.
 *
 * A machine's console is a pair of pipes. What it says is the witness's protocol (tests/guest/image/witness.c); a line
 * that is not part of it, or makes no sense, is ignored; numbers are parsed with bounds.
 */
#include "cli/demo.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/units.h"
#include "cli/client.h"

#define GUEST_OVERHEAD_MIB  72 /* what Debian's kernel and the initrd keep of a guest's memory */
#define DAEMON_TIMEOUT_NS   (10 * OB_NS_PER_SEC)
#define END_TIMEOUT_NS      (10 * OB_NS_PER_SEC)

const struct demo_role demo_roles[] = {
	{ .name = "anon", .what = "anonymous memory, read and rewritten all the time", .anon = 85, .rate = 4000, .writes = 30, .drift = 15 },
	{ .name = "cache", .what = "page cache: a disk, read and written, buffered and direct", .anon = 10, .cache = 66, .direct = 10,
	  .rate = 1500, .writes = 20 },
	{ .name = "idle", .what = "filled once, then mostly idle", .anon = 74, .rate = 20, .writes = 10 },
	{ .name = "mixed", .what = "anonymous memory, tmpfs, forks and network", .anon = 45, .tmpfs = 22, .fork = 5, .rate = 2000,
	  .writes = 30, .net = 1 },
};
const unsigned demo_role_count = OB_ARRAY_LEN(demo_roles);

void demo_failed(struct demo *demo, const char *fmt, ...)
{
	va_list args;

	if (demo->failures == DEMO_FAILURES_MAX)
		return;
	va_start(args, fmt);
	vsnprintf(demo->failure[demo->failures++], sizeof(demo->failure[0]), fmt, args);
	va_end(args);
}

static int guest_in(struct demo *demo, const char *directory)
{
	if (snprintf(demo->kernel, sizeof(demo->kernel), "%s/vmlinuz", directory) >= (int)sizeof(demo->kernel) ||
	    snprintf(demo->initrd, sizeof(demo->initrd), "%s/initrd.gz", directory) >= (int)sizeof(demo->initrd))
		return 0;
	return access(demo->kernel, R_OK) == 0 && access(demo->initrd, R_OK) == 0;
}

/* The directory of this executable: a build tree has its parts around it. */
static int find_self(struct demo *demo, char *ret_directory, size_t size, struct ob_error *err)
{
	ssize_t n = readlink("/proc/self/exe", demo->self, sizeof(demo->self) - 1);

	if (n < 0)
		return ob_error_sys(err, errno, "cannot find out where this program lies");
	demo->self[n] = 0;
	snprintf(ret_directory, size, "%.*s", (int)(strrchr(demo->self, '/') - demo->self), demo->self);
	return 0;
}

int demo_find_guest(struct demo *demo, struct ob_error *err)
{
	char directory[PATH_MAX], path[PATH_MAX + 64];
	int r = find_self(demo, directory, sizeof(directory), err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/../daemon/overbookd", directory);
	if (access(path, X_OK) < 0)
		snprintf(path, sizeof(path), "%s/overbookd", directory);
	if (access(path, X_OK) < 0)
		snprintf(path, sizeof(path), "%s/../sbin/overbookd", directory);
	if (access(path, X_OK) < 0)
		return ob_error_set(err, ENOENT, "overbookd is neither beside %s nor in ../sbin: install it", demo->self);
	if (snprintf(demo->daemon, sizeof(demo->daemon), "%s", path) >= (int)sizeof(demo->daemon))
		return ob_error_set(err, ENAMETOOLONG, "the path %s is too long", path);
	if (demo->options.guest) {
		if (guest_in(demo, demo->options.guest))
			return 0;
		return ob_error_set(err, ENOENT, "--guest %s: there must be vmlinuz and initrd.gz; scripts/guest-image.sh makes them",
				    demo->options.guest);
	}
	snprintf(path, sizeof(path), "%s/../../guest", directory);
	if (guest_in(demo, path))
		return 0;
	return ob_error_set(err, ENOENT, "there is no guest image: make one with scripts/guest-image.sh DIR from Overbook's sources, then say --guest DIR");
}

int demo_make_directory(struct demo *demo, struct ob_error *err)
{
	const char *parent = demo->options.directory ? demo->options.directory : "/var/tmp";
	uint64_t need = demo->options.machines * demo->options.memory_bytes * 2, have;
	char path[128], need_text[16], have_text[16];
	struct statvfs fs;

	if (statvfs(parent, &fs) < 0)
		return ob_error_sys(err, errno, "cannot use the directory \"%s\"", parent);
	have = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (have < need)
		return ob_error_set(err, ENOSPC, "swap and disks may take %s, and \"%s\" has %s: say --directory DIR",
				    ob_size_format(need_text, sizeof(need_text), need), parent,
				    ob_size_format(have_text, sizeof(have_text), have));
	if (snprintf(demo->directory, sizeof(demo->directory), "%s/overbook-demo.XXXXXX", parent) > 64) {
		demo->directory[0] = 0;
		return ob_error_set(err, ENAMETOOLONG, "\"%s\" is too long for the sockets below it", parent);
	}
	if (!mkdtemp(demo->directory)) {
		demo->directory[0] = 0;
		return ob_error_sys(err, errno, "cannot make a directory in \"%s\"", parent);
	}
	snprintf(demo->daemon_log, sizeof(demo->daemon_log), "%s/overbookd.log", demo->directory);
	snprintf(path, sizeof(path), "%s/swap", demo->directory);
	if (mkdir(path, 0700) < 0)
		return ob_error_sys(err, errno, "cannot make \"%s\"", path);
	snprintf(path, sizeof(path), "%s/run", demo->directory);
	if (mkdir(path, 0700) < 0 || setenv("OVERBOOK_RUNDIR", path, 1) < 0)
		return ob_error_sys(err, errno, "cannot make \"%s\"", path);
	return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)remove(path);
	return 0;
}

void demo_remove_directory(struct demo *demo)
{
	if (*demo->directory)
		nftw(demo->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	demo->directory[0] = 0;
}

/* In the child, between fork and exec: input and output may be -1 for /dev/null. Never returns. */
static void become(char *const argv[], int input_fd, int output_fd, int log_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(input_fd < 0 ? null_fd : input_fd, STDIN_FILENO) < 0 ||
	    dup2(output_fd < 0 ? log_fd : output_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
		_exit(126);
	execvp(argv[0], argv);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int spawn(char *const argv[], int input_fd, int output_fd, const char *log, pid_t *ret_pid, struct ob_error *err)
{
	OB_FD int log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	pid_t pid;

	if (log_fd < 0)
		return ob_error_sys(err, errno, "cannot write \"%s\"", log);
	pid = fork();
	if (pid < 0)
		return ob_error_sys(err, errno, "cannot start %s", argv[0]);
	if (pid == 0)
		become(argv, input_fd, output_fd, log_fd);
	*ret_pid = pid;
	return 0;
}

/* The last line that a program wrote to its log, for a message. */
static const char *last_line(const char *log, char *buf, size_t size)
{
	OB_FD int fd = open(log, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;
	char *at;

	if (fd >= 0) {
		off_t end = lseek(fd, 0, SEEK_END);

		n = pread(fd, buf, size - 1, end > (off_t)size - 1 ? end - (off_t)size + 1 : 0);
	}
	if (n <= 0)
		return "it said nothing";
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	buf[n] = 0;
	at = strrchr(buf, '\n');
	return at ? at + 1 : buf;
}

int demo_start_daemon(struct demo *demo, struct ob_error *err)
{
	char budget[32], said[256];
	char *argv[] = { demo->daemon, (char *)"--budget", budget, NULL };
	uint64_t deadline_ns = ob_now_ns() + DAEMON_TIMEOUT_NS;
	int r;

	snprintf(budget, sizeof(budget), "%llu", (unsigned long long)demo->options.budget_bytes);
	r = spawn(argv, -1, -1, demo->daemon_log, &demo->daemon_pid, err);
	if (r < 0)
		return r;
	for (;;) {
		json_t *answer = NULL;

		r = ob_client_call("version", NULL, NULL, NULL, &answer, err);
		json_decref(answer);
		if (r == 0)
			return 0;
		if (waitpid(demo->daemon_pid, NULL, WNOHANG) == demo->daemon_pid) {
			demo->daemon_pid = 0;
			return ob_error_set(err, ECHILD, "overbookd ended at its start: %s", last_line(demo->daemon_log, said, sizeof(said)));
		}
		if (ob_now_ns() > deadline_ns)
			return ob_error_wrap(err, "overbookd does not answer within 10 seconds");
		/* Nothing tells from outside when a socket is there; ask again in a moment. */
		poll(NULL, 0, 20);
	}
}

static void witness_parameters(const struct demo *demo, unsigned index, const struct demo_role *role, char *buf, size_t size)
{
	uint64_t usable = demo->options.memory_bytes / OB_MIB - GUEST_OVERHEAD_MIB;

	snprintf(buf, size,
		 "console=ttyS0 quiet panic=-1 witness=seed=%u,anon=%llu,tmpfs=%llu,fork=%llu,cache=%llu,direct=%llu "
		 "witness=rate=%u,writes=%u,drift=%u,net=%u,scatter=%u",
		 index + 1, (unsigned long long)(usable * role->anon / 100), (unsigned long long)(usable * role->tmpfs / 100),
		 (unsigned long long)(usable * role->fork / 100), (unsigned long long)(usable * role->cache / 100),
		 (unsigned long long)(usable * role->direct / 100), role->rate, role->writes, role->drift, role->net, index & 1);
}

static int make_disk(const struct demo *demo, struct demo_machine *machine, struct ob_error *err)
{
	OB_FD int fd = -1;

	if (asprintf(&machine->disk, "%s/%s.disk", demo->directory, machine->name) < 0) {
		machine->disk = NULL;
		return ob_error_set(err, ENOMEM, "out of memory");
	}
	fd = open(machine->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)demo->options.memory_bytes) < 0)
		return ob_error_sys(err, errno, "cannot make the disk \"%s\"", machine->disk);
	return 0;
}

static int run_machine(struct demo *demo, struct demo_machine *machine, const char *append, int input_fd, int output_fd,
		       struct ob_error *err)
{
	char memory[32], drive[256], accel[32], swap[128];
	char *argv[48];
	unsigned n = 0;
	const char *const fixed[] = {
		demo->self, "run", "--name", machine->name, "--domain", "demo", "--swap", swap, "--require", "--", demo->options.qemu,
		"-accel", accel, "-m", memory, "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", demo->kernel, "-initrd", demo->initrd, "-append", append,
	};

	snprintf(swap, sizeof(swap), "%s/swap", demo->directory);
	snprintf(accel, sizeof(accel), "%s", !strcmp(demo->options.accel, "tcg") ? "tcg,thread=multi,tb-size=64" : demo->options.accel);
	snprintf(memory, sizeof(memory), "%lluM", (unsigned long long)(demo->options.memory_bytes / OB_MIB));
	for (size_t i = 0; i < OB_ARRAY_LEN(fixed); i++)
		argv[n++] = (char *)fixed[i];
	if (machine->disk) {
		snprintf(drive, sizeof(drive), "file=%s,format=raw,if=virtio,cache=none,aio=threads", machine->disk);
		argv[n++] = (char *)"-drive";
		argv[n++] = drive;
	}
	argv[n] = NULL;
	return spawn(argv, input_fd, output_fd, machine->log, &machine->pid, err);
}

int demo_start_machine(struct demo *demo, unsigned index, struct ob_error *err)
{
	struct demo_machine *machine = &demo->machine[index];
	OB_FD int their_input = -1;
	OB_FD int their_output = -1;
	int input[2], output[2], r;
	char append[512];

	machine->role = &demo_roles[index % demo_role_count];
	machine->input_fd = machine->output_fd = -1;
	machine->heard_ns = ob_now_ns();
	snprintf(machine->name, sizeof(machine->name), "%s-%u", machine->role->name, index + 1);
	if (asprintf(&machine->log, "%s/%s.log", demo->directory, machine->name) < 0) {
		machine->log = NULL;
		return ob_error_set(err, ENOMEM, "out of memory");
	}
	if (machine->role->cache || machine->role->direct) {
		r = make_disk(demo, machine, err);
		if (r < 0)
			return r;
	}
	if (pipe2(input, O_CLOEXEC) < 0)
		return ob_error_sys(err, errno, "cannot make a pipe");
	their_input = input[0];
	machine->input_fd = input[1];
	if (pipe2(output, O_CLOEXEC) < 0)
		return ob_error_sys(err, errno, "cannot make a pipe");
	their_output = output[1];
	machine->output_fd = output[0];
	if (fcntl(machine->output_fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(machine->input_fd, F_SETFL, O_NONBLOCK) < 0)
		return ob_error_sys(err, errno, "cannot prepare a pipe");
	witness_parameters(demo, index, machine->role, append, sizeof(append));
	demo->machines = index + 1;
	return run_machine(demo, machine, append, their_input, their_output, err);
}

void demo_tell_machine(struct demo_machine *machine, const char *line)
{
	/* A machine that does not read its console is noticed by its silence. */
	if (machine->input_fd >= 0 && write(machine->input_fd, line, strlen(line)) < 0 && errno == EPIPE)
		ob_fd_close(&machine->input_fd);
}

/* The number behind " key=" in a line of the witness; other (0 or what is known) when it is not there. */
static uint64_t value_of(const char *line, const char *key, uint64_t other)
{
	size_t length = strlen(key);

	for (const char *at = strchr(line, ' '); at; at = strchr(at + 1, ' ')) {
		if (!strncmp(at + 1, key, length) && at[1 + length] == '=') {
			char *end;
			unsigned long long value;

			errno = 0;
			value = strtoull(at + 2 + length, &end, 10);
			return errno || end == at + 2 + length ? other : value;
		}
	}
	return other;
}

static int begins(const char *line, const char *word)
{
	size_t n = strlen(word);

	return !strncmp(line, word, n) && (line[n] == ' ' || !line[n]);
}

static void read_totals(struct demo_machine *machine, const char *line)
{
	machine->pages_checked = value_of(line, "pages_checked", machine->pages_checked);
	machine->pages_written = value_of(line, "pages_written", machine->pages_written);
	machine->pages_wrong = value_of(line, "pages_wrong", machine->pages_wrong);
	machine->io_errors = value_of(line, "io_errors", machine->io_errors);
	machine->slowest_us = OB_MAX(machine->slowest_us, value_of(line, "slowest_us", 0));
}

static void take_line(struct demo *demo, struct demo_machine *machine, const char *line)
{
	machine->heard_ns = ob_now_ns();
	if (strstr(line, "Kernel panic") || strstr(line, "BUG: ") || strstr(line, "Oops: "))
		demo_failed(demo, "the guest's kernel of %s failed: %.200s", machine->name, line);
	line = strstr(line, "WITNESS ");
	if (!line)
		return;
	line += strlen("WITNESS ");
	if (begins(line, "start")) {
		machine->state = DEMO_FILLING;
		/* QEMU has it open; like this nothing is left should everything be killed. */
		if (machine->disk)
			unlink(machine->disk);
	} else if (begins(line, "ready")) {
		machine->state = DEMO_READY;
		machine->touched_bytes = value_of(line, "touched_bytes", 0);
	} else if (begins(line, "status")) {
		read_totals(machine, line);
	} else if (begins(line, "done")) {
		read_totals(machine, line);
	} else if (begins(line, "checked") && machine->state == DEMO_CHECKING) {
		machine->state = DEMO_CHECKED;
		machine->full_check_pages = value_of(line, "pages", 0);
		machine->touched_bytes = value_of(line, "touched_bytes", machine->touched_bytes);
	} else if (begins(line, "wrong")) {
		machine->pages_wrong++;
		demo_failed(demo, "a wrong byte in %s: %.300s", machine->name, line);
	} else if (begins(line, "refused") || begins(line, "error")) {
		demo_failed(demo, "the witness in %s says: %.300s", machine->name, line);
	}
}

void demo_read_machine(struct demo *demo, struct demo_machine *machine)
{
	char buf[4096];
	ssize_t n = read(machine->output_fd, buf, sizeof(buf));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		ob_fd_close(&machine->output_fd);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			machine->line[machine->line_length] = 0;
			machine->line_length = 0;
			take_line(demo, machine, machine->line);
		} else if (buf[i] >= ' ' && buf[i] != 0x7f && machine->line_length < sizeof(machine->line) - 1) {
			machine->line[machine->line_length++] = buf[i];
		}
	}
}

static void machine_ended(struct demo *demo, struct demo_machine *machine, int status)
{
	int orderly = machine->state == DEMO_STOPPING && WIFEXITED(status) && !WEXITSTATUS(status);
	char said[256];

	while (machine->output_fd >= 0 && !orderly) {
		int before = machine->output_fd;
		struct pollfd pfd = { .fd = before, .events = POLLIN };

		if (poll(&pfd, 1, 0) <= 0)
			break;
		demo_read_machine(demo, machine);
	}
	machine->pid = 0;
	machine->state = DEMO_ENDED;
	if (orderly || demo->interrupted)
		return;
	if (WIFSIGNALED(status))
		demo_failed(demo, "machine %s was ended by signal %d (%s)", machine->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		demo_failed(demo, "machine %s ended with status %d: %s", machine->name, WEXITSTATUS(status),
			    last_line(machine->log, said, sizeof(said)));
}

void demo_reap(struct demo *demo)
{
	char said[256];
	int status;

	for (unsigned i = 0; i < demo->machines; i++) {
		struct demo_machine *machine = &demo->machine[i];

		if (machine->pid > 0 && waitpid(machine->pid, &status, WNOHANG) == machine->pid)
			machine_ended(demo, machine, status);
	}
	if (demo->daemon_pid > 0 && waitpid(demo->daemon_pid, &status, WNOHANG) == demo->daemon_pid) {
		demo->daemon_pid = 0;
		demo_failed(demo, "overbookd ended: %s", last_line(demo->daemon_log, said, sizeof(said)));
	}
}

static int children_left(struct demo *demo)
{
	int left = 0;

	for (unsigned i = 0; i < demo->machines; i++) {
		pid_t *pid = &demo->machine[i].pid;

		if (*pid > 0 && waitpid(*pid, NULL, WNOHANG) == *pid)
			*pid = 0;
		left += *pid > 0;
	}
	if (demo->daemon_pid > 0 && waitpid(demo->daemon_pid, NULL, WNOHANG) == demo->daemon_pid)
		demo->daemon_pid = 0;
	return left + (demo->daemon_pid > 0);
}

static void signal_children(struct demo *demo, int signal_number)
{
	for (unsigned i = 0; i < demo->machines; i++)
		if (demo->machine[i].pid > 0)
			kill(demo->machine[i].pid, signal_number);
	if (demo->daemon_pid > 0)
		kill(demo->daemon_pid, signal_number);
}

void demo_end_children(struct demo *demo)
{
	uint64_t deadline_ns = ob_now_ns() + END_TIMEOUT_NS;

	signal_children(demo, SIGTERM);
	while (children_left(demo) && ob_now_ns() < deadline_ns)
		poll(NULL, 0, 20);
	signal_children(demo, SIGKILL);
	while (children_left(demo))
		poll(NULL, 0, 20);
	for (unsigned i = 0; i < demo->machines; i++) {
		ob_fd_close(&demo->machine[i].input_fd);
		ob_fd_close(&demo->machine[i].output_fd);
		free(demo->machine[i].log);
		free(demo->machine[i].disk);
		demo->machine[i].log = demo->machine[i].disk = NULL;
	}
}
