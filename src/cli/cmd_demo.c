/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overbook demo: several real guests in less memory than they use, every byte checked.
 *
 *     boot --all witnesses started--> fill --all pages written--> run --(--seconds)--> check --every page read--> end
 *
 * One loop waits for whatever comes first: a line of a guest, the end of a child, a signal, the next look at the figures.
 * The phases differ only in when they are over (phase_over). A wrong byte, a machine or overbookd that ends, a guest
 * that falls silent, or a cost above the budget by more than 2% is a failure: it is told in one line and the exit
 * status is 1; the demo ends at once, except for wrong bytes and costs, which the summary tells.
 *
 * Whatever happens, children are ended and the directory is removed before the program returns.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/option.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/demo.h"

#define MEMORY_MIN      (160 * OB_MIB)
#define MEMORY_MAX      (64 * OB_GIB)
#define BUDGET_MIN      (32 * OB_MIB) /* a machine */
#define QEMU_OVERHEAD   (160 * OB_MIB) /* a machine: code, translated code, buffers */
#define BOOT_TIMEOUT_NS (180 * OB_NS_PER_SEC)
#define FILL_TIMEOUT_NS (900 * OB_NS_PER_SEC)
#define SILENCE_NS      (60 * OB_NS_PER_SEC) /* the witness speaks once a second */
#define STOP_TIMEOUT_NS (30 * OB_NS_PER_SEC)

enum phase { PHASE_BOOT, PHASE_FILL, PHASE_RUN, PHASE_CHECK, PHASE_STOP };

static const char usage[] =
	"usage: overbook demo [--machines N] [--memory SIZE] [--budget SIZE] [--seconds S] [--json FILE]\n"
	"                     [--guest DIR] [--directory DIR] [--accel tcg|kvm] [--qemu PROGRAM]\n"
	"\n"
	"Boots N guests of SIZE (4 of 512M) in a budget (768M), has them work for S seconds (60), and checks every byte.\n"
	"  --json FILE       write the result there as JSON\n"
	"  --guest DIR       the guest's vmlinuz and initrd.gz (default: the build tree's; scripts/guest-image.sh makes them)\n"
	"  --directory DIR   where swap, disks and logs go meanwhile (default: /var/tmp)\n"
	"  --accel NAME      what QEMU runs the guests by (default: tcg, which works everywhere)\n"
	"  --qemu PROGRAM    default: qemu-system-x86_64\n";

static const struct option long_options[] = {
	{ "machines", required_argument, NULL, 'n' }, { "memory", required_argument, NULL, 'm' },
	{ "budget", required_argument, NULL, 'b' },   { "seconds", required_argument, NULL, 's' },
	{ "json", required_argument, NULL, 'j' },     { "guest", required_argument, NULL, 'g' },
	{ "directory", required_argument, NULL, 'd' }, { "accel", required_argument, NULL, 'a' },
	{ "qemu", required_argument, NULL, 'q' },     { "help", no_argument, NULL, 'h' },
	{ 0 },
};

static int parse_count(const char *option, const char *text, unsigned least, unsigned most, unsigned *ret)
{
	uint64_t number = 0;
	int r = ob_cli_take_count(option, text, least, most, &number);

	if (!r)
		*ret = (unsigned)number;
	return r;
}

static int parse_size(const char *option, const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	int r = ob_cli_take_size(option, text, least, most, ret);

	if (r == 0)
		*ret -= *ret % OB_MIB;
	return r;
}

static int take_option(struct demo_options *o, int c)
{
	switch (c) {
	case 'n':
		return parse_count("machines", optarg, 1, DEMO_MACHINES_MAX, &o->machines);
	case 's':
		return parse_count("seconds", optarg, 1, 86400, &o->seconds);
	case 'm':
		return parse_size("memory", optarg, MEMORY_MIN, MEMORY_MAX, &o->memory_bytes);
	case 'b':
		return parse_size("budget", optarg, BUDGET_MIN, DEMO_MACHINES_MAX * MEMORY_MAX, &o->budget_bytes);
	case 'j':
		o->json = optarg;
		return 0;
	case 'g':
		o->guest = optarg;
		return 0;
	case 'd':
		o->directory = optarg;
		return 0;
	case 'a':
		o->accel = optarg;
		if (strcmp(optarg, "tcg") && strcmp(optarg, "kvm"))
			return ob_cli_fail(OB_EXIT_USAGE, "--accel %s: must be tcg or kvm", optarg);
		return 0;
	case 'q':
		o->qemu = optarg;
		return 0;
	default:
		return OB_EXIT_USAGE;
	}
}

/* Returns 0, an exit code, or -1 when help was asked for. */
static int parse_options(struct demo_options *o, int argc, char **argv)
{
	int c;

	optind = 0;
	while ((c = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		int r = c == 'h' ? -1 : take_option(o, c);

		if (c == ':')
			return ob_cli_fail(OB_EXIT_USAGE, "%s needs a value; see --help", ob_option_refused(argv));
		if (c == '?')
			return ob_cli_fail(OB_EXIT_USAGE, "option \"%s\" is not known; see --help", ob_option_refused(argv));
		if (r)
			return r;
	}
	if (optind < argc)
		return ob_cli_fail(OB_EXIT_USAGE, "\"%s\": no arguments but options are expected; see --help", argv[optind]);
	if (o->budget_bytes < o->machines * BUDGET_MIN)
		return ob_cli_fail(OB_EXIT_USAGE, "--budget: %u machines need at least %llu MiB", o->machines,
				   (unsigned long long)(o->machines * BUDGET_MIN / OB_MIB));
	return 0;
}

static uint64_t host_available_bytes(void)
{
	char text[4096], *at;

	if (ob_read_text("/proc/meminfo", text, sizeof(text)) < 0)
		return UINT64_MAX;
	at = strstr(text, "MemAvailable:");
	return at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) * 1024 : UINT64_MAX;
}

static int check_host(const struct demo *demo, struct ob_error *err)
{
	uint64_t need = demo->options.budget_bytes + demo->options.machines * QEMU_OVERHEAD, have = host_available_bytes();
	char need_text[16], have_text[16];

	if (have < need)
		return ob_error_set(err, ENOMEM, "this host has %s of memory available, and the budget and %u QEMUs need %s",
				    ob_size_format(have_text, sizeof(have_text), have), demo->options.machines,
				    ob_size_format(need_text, sizeof(need_text), need));
	return 0;
}

static int open_signals(struct demo *demo, struct ob_error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return ob_error_sys(err, errno, "cannot block signals");
	signal(SIGPIPE, SIG_IGN);
	demo->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return demo->signal_fd < 0 ? ob_error_sys(err, errno, "cannot wait for signals") : 0;
}

static void read_signals(struct demo *demo)
{
	struct signalfd_siginfo info;

	while (read(demo->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		if (info.ssi_signo != SIGCHLD)
			demo->interrupted = (int)info.ssi_signo;
	demo_reap(demo);
}

static void watch_silence(struct demo *demo, enum phase phase)
{
	uint64_t now_ns = ob_now_ns();

	for (unsigned i = 0; i < demo->machines; i++) {
		struct demo_machine *m = &demo->machine[i];

		if (m->state != DEMO_BOOTING && m->state != DEMO_ENDED && now_ns > m->heard_ns + SILENCE_NS)
			demo_failed(demo, "machine %s has said nothing for %llu seconds", m->name, SILENCE_NS / OB_NS_PER_SEC);
	}
	if (phase == PHASE_BOOT && now_ns > demo->phase_ns + BOOT_TIMEOUT_NS)
		demo_failed(demo, "the machines have not booted within %llu seconds", BOOT_TIMEOUT_NS / OB_NS_PER_SEC);
	if ((phase == PHASE_FILL || phase == PHASE_CHECK) && now_ns > demo->phase_ns + FILL_TIMEOUT_NS)
		demo_failed(demo, "the phase \"%s\" was not over within %llu seconds", demo->phase, FILL_TIMEOUT_NS / OB_NS_PER_SEC);
}

static int all_at_least(const struct demo *demo, enum demo_state state)
{
	for (unsigned i = 0; i < demo->machines; i++)
		if (demo->machine[i].state < state)
			return 0;
	return 1;
}

static int phase_over(const struct demo *demo, enum phase phase)
{
	switch (phase) {
	case PHASE_BOOT:
		return all_at_least(demo, DEMO_FILLING);
	case PHASE_FILL:
		return all_at_least(demo, DEMO_READY);
	case PHASE_RUN:
		return ob_now_ns() >= demo->phase_ns + demo->options.seconds * OB_NS_PER_SEC;
	case PHASE_CHECK:
		return all_at_least(demo, DEMO_CHECKED);
	case PHASE_STOP:
		break;
	}
	return all_at_least(demo, DEMO_ENDED) || ob_now_ns() >= demo->phase_ns + STOP_TIMEOUT_NS;
}

static void wait_for_something(struct demo *demo)
{
	struct pollfd fds[DEMO_MACHINES_MAX + 1] = { { .fd = demo->signal_fd, .events = POLLIN } };
	uint64_t now_ns = ob_now_ns(), until_ns = OB_MIN(demo->figures_ns, now_ns + 200 * OB_NS_PER_MS);

	for (unsigned i = 0; i < demo->machines; i++)
		fds[i + 1] = (struct pollfd){ .fd = demo->machine[i].output_fd, .events = POLLIN };
	if (poll(fds, demo->machines + 1, until_ns > now_ns ? (int)((until_ns - now_ns) / OB_NS_PER_MS) + 1 : 0) <= 0)
		return;
	for (unsigned i = 0; i < demo->machines; i++)
		if (fds[i + 1].revents)
			demo_read_machine(demo, &demo->machine[i]);
	if (fds[0].revents)
		read_signals(demo);
}

/* Whether what has gone wrong ends the demo: a wrong byte does not, it is counted to the end. */
static int must_end(const struct demo *demo)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < demo->machines; i++)
		wrong += demo->machine[i].pages_wrong;
	return demo->interrupted || (demo->failures && !wrong);
}

/* Returns the seconds it took. */
static double run_phase(struct demo *demo, enum phase phase)
{
	while (!phase_over(demo, phase) && !must_end(demo)) {
		wait_for_something(demo);
		if (phase == PHASE_STOP)
			continue;
		watch_silence(demo, phase);
		if (ob_now_ns() >= demo->figures_ns)
			demo_fetch_figures(demo);
		if (ob_now_ns() >= demo->screen_ns)
			demo_show(demo);
	}
	return (double)(ob_now_ns() - demo->phase_ns) / 1e9;
}

static void tell_all(struct demo *demo, const char *line, enum demo_state state)
{
	for (unsigned i = 0; i < demo->machines; i++) {
		if (demo->machine[i].state == DEMO_ENDED)
			continue;
		demo->machine[i].state = state;
		demo_tell_machine(&demo->machine[i], line);
	}
}

static int start_all(struct demo *demo, struct ob_error *err)
{
	int r = demo_start_daemon(demo, err);

	if (r < 0)
		return r;
	r = demo_sampler_start(demo, err);
	for (unsigned i = 0; r == 0 && i < demo->options.machines; i++)
		r = demo_start_machine(demo, i, err);
	return r;
}

static int run_phases(struct demo *demo, struct ob_error *err)
{
	int r;

	demo_show_phase(demo, "boot", "overbookd, then the machines, each by \"overbook run\"");
	r = start_all(demo, err);
	if (r < 0)
		return r;
	demo->boot_seconds = run_phase(demo, PHASE_BOOT);
	if (must_end(demo))
		return 0;
	demo_show_phase(demo, "fill", "every witness writes to all the memory it is to use");
	demo->fill_seconds = run_phase(demo, PHASE_FILL);
	if (must_end(demo))
		return 0;
	demo_show_phase(demo, "run", "they read, check and rewrite it, each in its own way");
	demo->run_seconds = run_phase(demo, PHASE_RUN);
	demo_fetch_figures(demo);
	demo_sum_figures(demo);
	if (must_end(demo))
		return 0;
	demo_show_phase(demo, "check", "every page of every machine is read once more");
	tell_all(demo, "rate 0\ncheck\n", DEMO_CHECKING);
	demo->check_seconds = run_phase(demo, PHASE_CHECK);
	demo_fetch_figures(demo);
	if (must_end(demo))
		return 0;
	demo_sampler_stop();
	demo_sampler_read(&demo->cost);
	demo_show_phase(demo, "end", "the machines power off");
	tell_all(demo, "stop\n", DEMO_STOPPING);
	run_phase(demo, PHASE_STOP);
	return 0;
}

static void judge(struct demo *demo)
{
	uint64_t budget = demo->options.budget_bytes, peak = demo->cost.peak_bytes;
	uint64_t wrong = 0;

	for (unsigned i = 0; i < demo->machines; i++)
		wrong += demo->machine[i].pages_wrong;
	if (wrong)
		demo_failed(demo, "%llu pages were wrong", (unsigned long long)wrong);
	if ((double)peak > (double)budget * (1 + DEMO_TOLERANCE))
		demo_failed(demo, "the machines cost %.1f MiB at their worst, %.1f%% more than the budget of %llu MiB",
			    (double)peak / OB_MIB, 100.0 * ((double)peak / (double)budget - 1), (unsigned long long)(budget / OB_MIB));
	if (!demo->cost.samples && !demo->failures)
		demo_failed(demo, "nothing was measured: overbookd never told where the machines' memory lies");
}

static int conclude(struct demo *demo)
{
	struct ob_error err = { 0 };
	int code;

	demo_sampler_stop();
	demo_sampler_read(&demo->cost);
	if (!demo->summed)
		demo_sum_figures(demo);
	if (demo->interrupted) {
		demo_end_children(demo);
		demo_remove_directory(demo);
		return ob_cli_fail(128 + demo->interrupted, "interrupted; the machines have been ended");
	}
	judge(demo);
	demo_end_children(demo);
	demo_show_summary(demo);
	code = demo->failures ? OB_EXIT_FAILED : OB_EXIT_OK;
	if (demo_write_json(demo, &err) < 0)
		code = ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	demo_remove_directory(demo);
	return code;
}

int ob_cmd_demo(int argc, char **argv)
{
	static struct demo demo; /* too large for a stack; the command runs once a process */
	struct ob_error err = { 0 };
	int r;

	demo.options = (struct demo_options){
		.machines = 4, .seconds = 60, .memory_bytes = 512 * OB_MIB, .budget_bytes = 768 * OB_MIB,
		.accel = "tcg", .qemu = "qemu-system-x86_64",
	};
	r = parse_options(&demo.options, argc, argv);
	if (r < 0)
		fputs(usage, stdout);
	if (r)
		return r < 0 ? OB_EXIT_OK : r;
	demo.terminal = isatty(STDOUT_FILENO);
	demo.began_ns = ob_now_ns();
	demo.signal_fd = -1;
	if (demo_find_guest(&demo, &err) < 0 || check_host(&demo, &err) < 0 || open_signals(&demo, &err) < 0 ||
	    demo_make_directory(&demo, &err) < 0) {
		demo_remove_directory(&demo);
		return ob_cli_fail(OB_EXIT_FAILED, "%s", err.text);
	}
	demo_show_start(&demo);
	if (run_phases(&demo, &err) < 0)
		demo_failed(&demo, "%s", err.text);
	return conclude(&demo);
}
