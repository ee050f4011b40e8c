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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
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
	EXIT_USAGE = 2, OPTION_BUDGET = 256, OPTION_CONFIG, OPTION_SOCKET_DIR, OPTION_FOREGROUND, OPTION_SHARE, OPTION_SHARE_CPU,
	OPTION_SHARE_INDEX, OPTION_LARGE_PAGES, OPTION_MIN_FREE, OPTION_BALLOON, OPTION_BALLOON_FLOOR,
	OPTION_IDLE_TAX, OPTION_METRICS,
};

static const struct option options[] = {
	{ "budget", required_argument, NULL, OPTION_BUDGET },
	{ "config", required_argument, NULL, OPTION_CONFIG },
	{ "socket-dir", required_argument, NULL, OPTION_SOCKET_DIR },
	{ "share", required_argument, NULL, OPTION_SHARE },
	{ "share-cpu", required_argument, NULL, OPTION_SHARE_CPU },
	{ "share-index", required_argument, NULL, OPTION_SHARE_INDEX },
	{ "large-pages", required_argument, NULL, OPTION_LARGE_PAGES },
	{ "min-free", required_argument, NULL, OPTION_MIN_FREE },
	{ "balloon", required_argument, NULL, OPTION_BALLOON },
	{ "balloon-floor", required_argument, NULL, OPTION_BALLOON_FLOOR },
	{ "idle-tax", required_argument, NULL, OPTION_IDLE_TAX },
	{ "metrics", required_argument, NULL, OPTION_METRICS },
	{ "foreground", no_argument, NULL, OPTION_FOREGROUND },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL },
};

static const char usage[] =
	"usage: overbookd [--budget SIZE] [--share on|off] [--share-cpu PERMILLE] [--share-index INDEX] [--large-pages POLICY]\n"
	"                 [--min-free SIZE] [--balloon auto|off] [--balloon-floor SIZE|N%] [--idle-tax N%]\n"
	"                 [--metrics ADDRESS] [--socket-dir DIR] [--foreground]\n"
	"       overbookd --config FILE [--socket-dir DIR] [--foreground]\n"
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
	"  --config FILE      lines BALLOON=auto|off, BALLOON_FLOOR=F, BUDGET=SIZE, IDLE_TAX=N%, LARGE_PAGES=P, LOG=LEVEL,\n"
	"                     METRICS=ADDRESS, MIN_FREE=SIZE, SHARE=on|off, SHARE_CPU=N and SHARE_INDEX=I; read at the start and at each SIGHUP\n"
	"  --socket-dir DIR   where its sockets are; default: $OVERBOOK_RUNDIR, /run/overbook for root,\n"
	"                     $XDG_RUNTIME_DIR/overbook\n"
	"  --foreground       stay in the foreground: it always does\n"
	"  --help, --version\n";

/* Returns 0, 1 when there is nothing left to do, or -EINVAL with the reason. */
static int parse_options(int argc, char **argv, struct ob_daemon *daemon, const char **ret_dir, struct ob_error *err)
{
	const char *given = NULL; /* an option that excludes --config */
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "hV", options, NULL)) >= 0) {
		switch (option) {
		case OPTION_BUDGET:
			if (ob_config_parse_budget("--budget", optarg, &daemon->budget_bytes, err) < 0)
				return -EINVAL;
			given = "--budget";
			break;
		case OPTION_SHARE:
			if (ob_config_parse_share("--share", optarg, &daemon->sharing, err) < 0)
				return -EINVAL;
			given = "--share";
			break;
		case OPTION_SHARE_CPU:
			if (ob_config_parse_share_cpu("--share-cpu", optarg, &daemon->share_cpu_permille, err) < 0)
				return -EINVAL;
			given = "--share-cpu";
			break;
		case OPTION_SHARE_INDEX:
			if (ob_config_parse_share_index("--share-index", optarg, &daemon->share_subpages, err) < 0)
				return -EINVAL;
			given = "--share-index";
			break;
		case OPTION_LARGE_PAGES:
			if (ob_config_parse_large_pages("--large-pages", optarg, &daemon->large_policy, err) < 0)
				return -EINVAL;
			given = "--large-pages";
			break;
		case OPTION_MIN_FREE:
			if (ob_config_parse_min_free("--min-free", optarg, &daemon->min_free_bytes, err) < 0)
				return -EINVAL;
			given = "--min-free";
			break;
		case OPTION_BALLOON:
			if (ob_config_parse_balloon("--balloon", optarg, &daemon->balloon_auto, err) < 0)
				return -EINVAL;
			given = "--balloon";
			break;
		case OPTION_BALLOON_FLOOR:
			if (ob_config_parse_balloon_floor("--balloon-floor", optarg, &daemon->balloon_floor, err) < 0)
				return -EINVAL;
			given = "--balloon-floor";
			break;
		case OPTION_IDLE_TAX:
			if (ob_config_parse_idle_tax("--idle-tax", optarg, &daemon->idle_tax_percent, err) < 0)
				return -EINVAL;
			given = "--idle-tax";
			break;
		case OPTION_METRICS:
			if (ob_metrics_parse("--metrics", optarg, &daemon->metrics_address, err) < 0)
				return -EINVAL;
			given = "--metrics";
			break;
		case OPTION_CONFIG:
			daemon->config_path = optarg;
			break;
		case OPTION_SOCKET_DIR:
			*ret_dir = optarg;
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
					    argv[optind - 1]);
		}
	}
	if (optind < argc)
		return ob_error_set(err, EINVAL, "\"%s\" is not an option; see overbookd --help", argv[optind]);
	if (given && daemon->config_path)
		return ob_error_set(err, EINVAL, "%s and --config exclude each other: write it into \"%s\"", given, daemon->config_path);
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

static int apply_config(struct ob_daemon *daemon, struct ob_error *err)
{
	struct ob_config config = {
		.budget_bytes = OB_BUDGET_NONE, .sharing = true, .share_cpu_permille = OB_SHARE_CPU_DEFAULT,
		.balloon_floor.percent = OB_BALLOON_FLOOR_PERCENT, .idle_tax_percent = OB_BUDGET_TAX_DEFAULT,
	};
	int r = ob_config_read(daemon->config_path, &config, err);
	bool is_other;

	if (r < 0)
		return r;
	daemon->budget_bytes = config.budget_bytes;
	is_other = daemon->sharing != config.sharing || daemon->share_cpu_permille != config.share_cpu_permille ||
		   daemon->share_subpages != config.share_subpages;
	daemon->sharing = config.sharing;
	daemon->share_cpu_permille = config.share_cpu_permille;
	daemon->share_subpages = config.share_subpages;
	daemon->large_policy = config.large_policy;
	daemon->min_free_bytes = config.min_free_bytes;
	daemon->balloon_auto = config.balloon_auto;
	daemon->balloon_floor = config.balloon_floor;
	daemon->idle_tax_percent = config.idle_tax_percent;
	daemon->metrics_address = config.metrics_address;
	if (daemon->share && is_other)
		ob_share_reconfigure(daemon);
	/* Without LOG= in the file the environment's level counts, again if it had been another one. */
	ob_log_set_level(config.log_level);
	ob_log_set_subject(SUBJECT);
	return 0;
}

static void reload(struct ob_daemon *daemon)
{
	struct ob_error err = { 0 };
	char budget[16];

	ob_notify_reloading();
	if (apply_config(daemon, &err) < 0)
		ob_log(OB_LOG_ERROR, "goes on with what it had: %s", err.text);
	else if (ob_metrics_listen(daemon, &err) < 0)
		ob_log(OB_LOG_ERROR, "metrics stay where they were: %s", err.text);
	else
		ob_log(OB_LOG_INFO, "has read \"%s\" again, budget %s", daemon->config_path, ob_notify_budget(daemon, budget));
	ob_notify_ready(daemon, err.text);
	ob_large_step(daemon);
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
	ob_notify_ready(daemon, "");
}

int main(int argc, char **argv)
{
	struct ob_daemon daemon = {
		.budget_bytes = OB_BUDGET_NONE, .sharing = true, .share_cpu_permille = OB_SHARE_CPU_DEFAULT,
		.balloon_floor.percent = OB_BALLOON_FLOOR_PERCENT, .idle_tax_percent = OB_BUDGET_TAX_DEFAULT, .lock_fd = -1, .agents_fd = -1, .clients_fd = -1,
	};
	struct ob_error err = { 0 };
	const char *dir = NULL;
	int r;

	ob_log_set_subject(SUBJECT);
	r = parse_options(argc, argv, &daemon, &dir, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r < 0) {
		ob_log(OB_LOG_ERROR, "%s", err.text);
		return EXIT_USAGE;
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
