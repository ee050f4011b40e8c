/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbookd's set-up, in an order that matters: the pid file first (nothing is touched while another overbookd runs), then
 * the sockets (its own, or those that systemd has passed), then privileges go, then the loop. It dies of nothing after that
 * but SIGTERM and SIGINT; machines do not notice when it does, and the next overbookd finds them again.
 *
 * SIGHUP reads the file of --config again. Without --config it ends overbookd as SIGTERM does: then it is a terminal that
 * has gone.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/meminfo.h"
#include "base/option.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/arbiter.h"
#include "daemon/config.h"
#include "daemon/link.h"
#include "daemon/notify.h"
#include "daemon/privilege.h"
#include "daemon/runtime.h"
#include "daemon/share.h"

#define SUBJECT   "overbookd"
#define FILES_MAX 8192 /* descriptors: three a machine (socket, pidfd, staging), one an extent (4096), one a client, and those of metrics */

enum {
	EXIT_USAGE = 2, OPTION_SETTING = 256, OPTION_CONFIG, OPTION_SOCKET_DIR, OPTION_FOREGROUND, OPTION_CHECK,
};

static const struct option options[] = {
	{ "budget", required_argument, NULL, OPTION_SETTING },
	{ "config", required_argument, NULL, OPTION_CONFIG },
	{ "socket-dir", required_argument, NULL, OPTION_SOCKET_DIR },
	{ "share", required_argument, NULL, OPTION_SETTING },
	{ "share-cpu", required_argument, NULL, OPTION_SETTING },
	{ "share-index", required_argument, NULL, OPTION_SETTING },
	{ "large-pages", required_argument, NULL, OPTION_SETTING },
	{ "min-free", required_argument, NULL, OPTION_SETTING },
	{ "balloon", required_argument, NULL, OPTION_SETTING },
	{ "balloon-floor", required_argument, NULL, OPTION_SETTING },
	{ "idle-tax", required_argument, NULL, OPTION_SETTING },
	{ "metrics", required_argument, NULL, OPTION_SETTING },
	{ "log", required_argument, NULL, OPTION_SETTING },
	{ "check", no_argument, NULL, OPTION_CHECK },
	{ "foreground", no_argument, NULL, OPTION_FOREGROUND },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL },
};

static const char usage[] =
	"usage: overbookd [--budget SIZE] [--share on|off] [--share-cpu PERMILLE] [--share-index INDEX] [--large-pages POLICY]\n"
	"                 [--min-free SIZE] [--balloon auto|off] [--balloon-floor SIZE|N%] [--idle-tax N%]\n"
	"                 [--metrics ADDRESS] [--log LEVEL] [--socket-dir DIR] [--foreground] [--check]\n"
	"       overbookd --config FILE [--socket-dir DIR] [--foreground] [--check]\n"
	"\n"
	"Divides the host's memory among the machines that `overbook run` starts.\n"
	"\n"
	"  --budget SIZE      memory that all machines together may cost (512M, 16G); without it each\n"
	"                     machine has its own limit and no other\n"
	"  --share on|off     whether machines of one domain share equal pages; default: on\n"
	"  --share-cpu N      permille of a processor that each machine may spend on looking for them; default: 20\n"
	"  --share-index I    how they are found: hash (the default), or cmd-subpage, which compares only pages of which\n"
	"                     the same quarters have changed (cmd-subpage,subpages=N: halves, eighths)\n"
	"  --large-pages P    when large pages are broken for what can be shared in them: proactive (the default: before memory\n"
	"                     is short), late (when it is), never; off: there are none\n"
	"  --min-free SIZE    memory is short when less of the budget is free; default: 6% of its first 4G, 4% up to 12G, 2% up to\n"
	"                     28G, 1% of the rest\n"
	"  --balloon auto|off whether the balloons of machines that say nothing of it take what a machine costs above its\n"
	"                     limit, before that is evicted; default: off\n"
	"  --balloon-floor F  what balloons leave to a guest at least: a size, or a part of its machine; default: 25%\n"
	"  --idle-tax N%      how much dearer memory is to a machine that does not use it, 0% (no dearer) to 99%: where the budget\n"
	"                     is short, idle machines give theirs to busy ones; default: 75% (four times as dear)\n"
	"  --metrics ADDRESS  serves metrics for Prometheus over HTTP at 127.0.0.1:9273, [::1]:9273 or unix:/path, to whoever can connect\n"
	"                     there; default: none\n"
	"  --log LEVEL        what is logged: error, warning, info (the default; or what $OVERBOOK_LOG says), debug\n"
	"  --config FILE      lines BALLOON=auto|off, BALLOON_FLOOR=F, BUDGET=SIZE, IDLE_TAX=N%, LARGE_PAGES=P, LOG=LEVEL,\n"
	"                     METRICS=ADDRESS, MIN_FREE=SIZE, SHARE=on|off, SHARE_CPU=N and SHARE_INDEX=I; read at the start and at each SIGHUP\n"
	"  --socket-dir DIR   where its sockets are; default: $OVERBOOK_RUNDIR, /run/overbook for root,\n"
	"                     $XDG_RUNTIME_DIR/overbook\n"
	"  --check            says what settings hold, with all defaults, as such a file, and does nothing else; exits with 1 when the file is\n"
	"                     not valid, with 2 when an option is not\n"
	"  --foreground       stay in the foreground: it always does\n"
	"  --help, --version\n";

/* Returns 0, 1 when there is nothing left to do, or -EINVAL with the reason. */
static int parse_options(int argc, char **argv, struct ob_daemon *daemon, const char **ret_dir, bool *ret_is_check, struct ob_error *err)
{
	const char *given = NULL; /* an option that excludes --config */
	int option, index;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "hV", options, &index)) >= 0) {
		switch (option) {
		case OPTION_SETTING:
			if (ob_config_take_option(&daemon->config, options[index].name, optarg, err) < 0)
				return -EINVAL;
			given = options[index].name;
			break;
		case OPTION_CONFIG:
			daemon->config_path = optarg;
			break;
		case OPTION_SOCKET_DIR:
			if (*optarg != '/')
				return ob_error_set(err, EINVAL, "--socket-dir \"%s\" is not an absolute path", optarg);
			*ret_dir = optarg;
			break;
		case OPTION_CHECK:
			*ret_is_check = true;
			break;
		case OPTION_FOREGROUND:
			break;
		case 'h':
			fputs(usage, stdout);
			return 1;
		case 'V':
			puts("overbookd " OB_VERSION);
			return 1;
		default:
			return ob_error_set(err, EINVAL, "option \"%s\" is not known or lacks its value; see overbookd --help",
					    ob_option_refused(argv));
		}
	}
	if (optind < argc)
		return ob_error_set(err, EINVAL, "\"%s\" is not an option; see overbookd --help", argv[optind]);
	if (given && daemon->config_path)
		return ob_error_set(err, EINVAL, "--%s and --config exclude each other: write it into \"%s\"", given, daemon->config_path);
	return 0;
}

static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= FILES_MAX)
		return;
	limit.rlim_cur = OB_MIN(limit.rlim_max, (rlim_t)FILES_MAX);
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		ob_log(OB_LOG_WARNING, "cannot raise the number of open files: %s", strerror(errno));
}

/* Where none is set the environment's level counts, again if it had been another one. */
static void take_log_level(const struct ob_daemon *daemon)
{
	ob_log_set_level(daemon->config.log_level);
	ob_log_set_subject(SUBJECT);
}

static int apply_config(struct ob_daemon *daemon, struct ob_error *err)
{
	struct ob_config config;
	int r = ob_config_read(daemon->config_path, &config, err);
	bool is_other;

	if (r < 0)
		return r;
	is_other = daemon->config.sharing != config.sharing || daemon->config.share_cpu_permille != config.share_cpu_permille ||
		   daemon->config.share_subpages != config.share_subpages;
	daemon->config = config;
	if (daemon->share && is_other)
		ob_share_reconfigure(daemon);
	take_log_level(daemon);
	return 0;
}

/* What is no error, and can hardly be meant. */
static void doubt(const struct ob_daemon *daemon)
{
	uint64_t budget = daemon->config.budget_bytes, total = ob_meminfo("MemTotal");
	char has[16], wanted[16];

	if (budget != OB_BUDGET_NONE && total && budget > total)
		ob_log(OB_LOG_WARNING, "a budget of %s is more than the %s that this host has", ob_size_format(wanted, sizeof(wanted), budget),
		       ob_size_format(has, sizeof(has), total));
	if (budget != OB_BUDGET_NONE && daemon->config.min_free_bytes > budget / 2)
		ob_log(OB_LOG_WARNING, "a MIN_FREE of %s is more than half of the budget, and is taken for %s",
		       ob_size_format(wanted, sizeof(wanted), daemon->config.min_free_bytes), ob_size_format(has, sizeof(has), budget / 2));
}

static void reload(struct ob_daemon *daemon)
{
	struct ob_error err = { 0 };
	const char *what = "";
	char budget[16];

	ob_notify_reloading();
	if (apply_config(daemon, &err) < 0) {
		what = "not reloaded: ";
		ob_log(OB_LOG_ERROR, "goes on with what it had: %s", err.text);
	} else {
		ob_log(OB_LOG_INFO, "has read \"%s\" again, budget %s", daemon->config_path, ob_notify_budget(daemon, budget));
		doubt(daemon);
		if (ob_metrics_listen(daemon, &err) < 0) {
			what = "metrics stay where they were: ";
			ob_log(OB_LOG_ERROR, "%s%s", what, err.text);
		}
	}
	ob_notify_ready(daemon, what, err.text);
	ob_large_step(daemon);
	ob_shortage_step(daemon);
	ob_balloon_step(daemon);
	ob_arbiter_stir(daemon);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *context)
{
	struct ob_daemon *daemon = context;

	if (info->ssi_signo == SIGHUP && daemon->config_path) {
		reload(daemon);
		return 0;
	}
	ob_log(OB_LOG_INFO, "ends on signal %u; machines go on without it", info->ssi_signo);
	return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int set_up_signals(struct ob_daemon *daemon, struct ob_error *err)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	sigset_t set;
	int r;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	for (size_t i = 0; i < OB_ARRAY_LEN(signals); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < OB_ARRAY_LEN(signals); i++) {
		r = sd_event_add_signal(daemon->event, NULL, signals[i], on_signal, daemon);
		if (r < 0)
			return ob_error_sys(err, -r, "cannot watch signal %d", signals[i]);
	}
	return 0;
}

static int set_up(struct ob_daemon *daemon, const char *dir, struct ob_error *err)
{
	int r;

	umask(077);
	raise_file_limit();
	r = daemon->config_path ? apply_config(daemon, err) : 0;
	if (r >= 0)
		r = ob_runtime_claim(daemon, dir, err);
	if (r < 0)
		return r;
	r = sd_event_new(&daemon->event);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot make an event loop");
	r = set_up_signals(daemon, err);
	if (r >= 0)
		r = ob_notify_watchdog(daemon, err);
	if (r >= 0)
		r = ob_share_init(daemon, err);
	if (r >= 0)
		r = ob_arbiter_init(daemon, err);
	if (r >= 0)
		r = ob_runtime_listen(daemon, err);
	if (r >= 0)
		r = ob_link_listen(daemon, err);
	if (r >= 0)
		r = ob_api_listen(daemon, err);
	if (r >= 0)
		r = ob_metrics_listen(daemon, err);
	return r < 0 ? r : ob_privilege_drop(err);
}

/* Says what would hold, and what is wrong with it. */
static int check(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = daemon->config_path ? apply_config(daemon, err) : 0;

	if (r < 0)
		return r;
	/* They were asked for, whatever is to be logged. */
	if (!ob_log_is_wanted(OB_LOG_WARNING))
		ob_log_set_level(OB_LOG_WARNING);
	doubt(daemon);
	ob_config_write(&daemon->config, stdout);
	return fflush(stdout) ? ob_error_sys(err, errno, "cannot write") : 0;
}

static void tear_down(struct ob_daemon *daemon)
{
	ob_api_close_all(daemon);
	ob_metrics_close(daemon);
	ob_share_outlive(daemon);
	ob_registry_clear(daemon);
	ob_link_close_all(daemon);
	ob_share_close(daemon);
	ob_arbiter_close(daemon);
	ob_runtime_close(daemon);
	sd_event_unref(daemon->event);
}

static void announce(const struct ob_daemon *daemon)
{
	char budget[16];

	ob_log(OB_LOG_INFO, "version " OB_VERSION " is ready in %s%s, budget %s", daemon->dir,
	       daemon->agents_passed || daemon->clients_passed ? " on sockets of systemd's" : "", ob_notify_budget(daemon, budget));
	doubt(daemon);
	ob_notify_ready(daemon, "", "");
}

/*
 * Tables from this size on are mappings of their own, whatever has been freed before: what a table was before it grew, and one that is not needed any
 * more, goes back to the host at once.
 */
#define TABLE_BYTES (64 << 10)

int main(int argc, char **argv)
{
	struct ob_daemon daemon = {
		.config = ob_config_default, .lock_fd = -1, .agents_fd = -1, .clients_fd = -1,
	};
	struct ob_error err = { 0 };
	const char *dir = NULL;
	bool is_check = false;
	int r;

	(void)mallopt(M_MMAP_THRESHOLD, TABLE_BYTES);
	ob_log_set_subject(SUBJECT);
	r = parse_options(argc, argv, &daemon, &dir, &is_check, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r < 0) {
		ob_log(OB_LOG_ERROR, "%s", err.text);
		return EXIT_USAGE;
	}
	take_log_level(&daemon);
	if (is_check) {
		if (check(&daemon, &err) == 0)
			return EXIT_SUCCESS;
		ob_log(OB_LOG_ERROR, "%s", err.text);
		return EXIT_FAILURE;
	}
	r = set_up(&daemon, dir, &err);
	if (r < 0) {
		ob_log(OB_LOG_ERROR, "%s", err.text);
		tear_down(&daemon);
		return EXIT_FAILURE;
	}
	announce(&daemon);
	r = sd_event_loop(daemon.event);
	if (r < 0)
		ob_log(OB_LOG_ERROR, "the event loop has failed: %s", strerror(-r));
	ob_notify_stopping();
	tear_down(&daemon);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
