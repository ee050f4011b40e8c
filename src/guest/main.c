/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbook-guest's options and loop. It stays in the foreground, and ends with SIGTERM; what applications have given stays given, since
 * the host has it still, and the next overbook-guest is told of it by them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/option.h"
#include "base/units.h"
#include "guest/adaptor.h"
#include "guest/compact.h"
#include "guest/guest.h"

#define EXIT_USAGE 2
#define CONFIG     "/etc/overbook-guest.conf"

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "port", required_argument, NULL, 'p' },
	{ "socket", required_argument, NULL, 's' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

static const char usage[] =
	"Usage: overbook-guest [--config FILE] [--port PATH] [--socket PATH]\n"
	"\n"
	"Runs in a guest of Overbook's, and tells the host's overbookd how it is with memory here, which applications could do\n"
	"with less of it, and those what they are asked to give.\n"
	"\n"
	"  --config FILE  which servers to ask, and how; default: " CONFIG ", if it is there\n"
	"  --port PATH    the port to the host; default: the virtio-serial port " OB_GUEST_PORT "\n"
	"  --socket PATH  where applications connect; default: " OB_GUEST_SOCKET "\n"
	"  --help, --version\n";

static volatile sig_atomic_t is_ending;

static void on_signal(int number)
{
	is_ending = number;
}

/* The lock on the socket's directory is what makes us the only one there. Returns a descriptor, or -errno with the reason. */
static int claim(const char *socket, char *ret_dir, size_t size, struct ob_error *err)
{
	const char *slash = strrchr(socket, '/');
	int OB_FD fd = -1;

	if (!slash || slash == socket || snprintf(ret_dir, size, "%.*s", (int)(slash - socket), socket) >= (int)size)
		return ob_error_set(err, EINVAL, "--socket \"%s\" is not an absolute path of at most %zu bytes in a directory of its own", socket, size - 1);
	if (mkdir(ret_dir, 0755) < 0 && errno != EEXIST)
		return ob_error_sys(err, errno, "cannot make the directory \"%s\"", ret_dir);
	fd = open(ret_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot open the directory \"%s\"", ret_dir);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return ob_error_set(err, EBUSY, "another overbook-guest runs in \"%s\"", ret_dir);
	return ob_fd_take(&fd);
}

/* How long poll() may wait. */
static struct timespec get_wait(void)
{
	uint64_t now_ns = ob_now_ns(), port = ob_port_due_ns(), adaptors = ob_adaptors_due_ns(), compact = ob_compact_due_ns(), due = ob_clients_due_ns();

	due = OB_MIN(due, port);
	due = OB_MIN(due, adaptors);
	due = OB_MIN(due, compact);
	due = ob_less(due, now_ns);
	/* A millisecond at least: nothing here is worth a loop without rest. */
	due = OB_MAX(due, OB_NS_PER_MS);
	due = OB_MIN(due, 60 * OB_NS_PER_SEC);
	return (struct timespec){ .tv_sec = (time_t)(due / OB_NS_PER_SEC), .tv_nsec = (long)(due % OB_NS_PER_SEC) };
}

static void run(const sigset_t *waiting)
{
	while (!is_ending) {
		struct pollfd fds[2 + OB_CLIENTS_MAX];
		struct timespec wait = get_wait();
		unsigned n;

		ob_port_poll(&fds[0]);
		n = ob_clients_poll(&fds[1]);
		if (ppoll(fds, n + 1, &wait, waiting) < 0) {
			if (errno != EINTR)
				ob_log_limited(OB_LOG_ERROR, "poll: %s", strerror(errno));
			continue;
		}
		ob_clients_turn(&fds[1], n);
		ob_port_turn(&fds[0]);
		ob_adaptors_turn();
		ob_compact_turn(ob_port_has_host(), ob_clients_asked_bytes(), ob_clients_given_bytes());
		ob_port_gathers(ob_compact_is_gathering());
	}
}

static void set_up_signals(sigset_t *ret_waiting)
{
	const struct sigaction end = { .sa_handler = on_signal };
	sigset_t blocked;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, ret_waiting);
	sigdelset(ret_waiting, SIGTERM);
	sigdelset(ret_waiting, SIGINT);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGINT, &end, NULL);
}

int main(int argc, char **argv)
{
	const char *port = NULL, *socket = OB_GUEST_SOCKET, *config_path = NULL;
	struct ob_guest_config config;
	struct ob_error err = { 0 };
	char dir[128];
	sigset_t waiting;
	int letter, OB_FD lock = -1;

	ob_log_set_subject("overbook-guest");
	opterr = 0;
	while ((letter = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (letter) {
		case 'c':
			config_path = optarg;
			break;
		case 'p':
			port = optarg;
			break;
		case 's':
			socket = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		case 'V':
			puts("overbook-guest " OB_VERSION);
			return EXIT_SUCCESS;
		default:
			ob_log(OB_LOG_ERROR, "option \"%s\" is not known or lacks its value; see overbook-guest --help", ob_option_refused(argv));
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		ob_log(OB_LOG_ERROR, "\"%s\" is not an option; see overbook-guest --help", argv[optind]);
		return EXIT_USAGE;
	}
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	set_up_signals(&waiting);
	if (ob_guest_config_read(config_path ? config_path : CONFIG, !config_path, &config, &err) < 0) {
		ob_log(OB_LOG_ERROR, "%s", err.text);
		return EXIT_USAGE;
	}
	lock = claim(socket, dir, sizeof(dir), &err);
	if (lock < 0 || ob_clients_listen(socket, &err) < 0) {
		ob_log(OB_LOG_ERROR, "%s", err.text);
		return EXIT_FAILURE;
	}
	ob_port_init(port);
	ob_adaptors_init(&config, dir);
	ob_compact_init(config.compact);
	ob_log(OB_LOG_INFO, "version " OB_VERSION " is ready");
	run(&waiting);
	ob_adaptors_end();
	ob_compact_end();
	ob_log(OB_LOG_INFO, "ends on signal %d; what applications have given stays given", (int)is_ending);
	return EXIT_SUCCESS;
}
