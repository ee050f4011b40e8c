/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Nth failure of everything that the engine asks of the kernel and of its store, for N = 1, 2, 3, ...
 *
 * Each case is a child process of its own: it arms one fault rule, makes an engine under a tight limit, fills memory, lets
 * players play while what looks alike is shared and looked for, moves the limit, releases, checks every byte. It ends in one of these ways:
 *
 *     intact      every byte was right all the time
 *     refused     ob_engine_create() or ob_engine_add_region() failed and said why
 *     stopped     a page could not be brought back: reported with a cause, and when the fault was taken away it was read
 *                 after all, reported too, and every byte was right
 *     wrong, hung, silent, crashed     what must not be; "silent" is a refusal or a stop without a cause
 *
 * N grows until the rule no longer fires within the workload; "/N" rules fail again and again, "N+" rules for ever, until
 * the report of an unreadable page takes them away. A rule that flips bits of returning pages must end as wrong: that proves
 * that the players can see. It is armed when all memory has been written, since a page that comes back before its bytes are
 * written, as one does that is lifted between a fault and the write that made it, loses the flip to them.
 *
 * Usage: test_fault GROUP (kernel, memory, store, mutation); prints TAP.
 */
#include "bed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "keeper.h"
#include "player.h"

#define RAM_MIB       26u
#define SCAN_COLD_MS  40u
#define ACTIVE_WATCH_MS 20u
#define CASE_SECONDS  90u /* a case that takes longer hangs */
#define REPORT_FD     3
#define JOBS          6

enum outcome { INTACT = 1, REFUSED = 2, STOPPED = 4, WRONG = 8, HUNG = 16, SILENT = 32, CRASHED = 64 };

struct report {
	enum outcome outcome;
	uint64_t fired, passed;
	char text[256];
};

/* One case. --------------------------------------------------------------------------------------------------------- */

struct scene {
	const char *spec;
	enum ob_fault_point point;
	struct bed *bed;
	struct ram *ram;
	struct keeper keeper;
	struct report report;
	pthread_t watch;
	int ended, was_unreadable;
};

static void send_report(struct scene *scene, enum outcome outcome, const char *text)
{
	scene->report.outcome = outcome;
	snprintf(scene->report.text, sizeof(scene->report.text), "%s", text);
	if (!scene->report.fired)
		scene->report.fired = ob_fault_fired(scene->point);
	if (!scene->report.passed)
		scene->report.passed = ob_fault_passed(scene->point);
	if (ob_write_full(REPORT_FD, &scene->report, sizeof(scene->report)) < 0)
		_exit(1);
	_exit(0);
}

static void clear_faults(struct scene *scene)
{
	scene->report.fired = ob_fault_fired(scene->point);
	scene->report.passed = ob_fault_passed(scene->point);
	if (ob_fault_configure(NULL, NULL) < 0)
		abort();
}

static unsigned read_locked(struct bed *bed, const unsigned *counter)
{
	unsigned value;

	pthread_mutex_lock(&bed->lock);
	value = *counter;
	pthread_mutex_unlock(&bed->lock);
	return value;
}

static int unreadable_or_ended(void *context)
{
	struct scene *scene = context;

	return __atomic_load_n(&scene->ended, __ATOMIC_ACQUIRE) || read_locked(scene->bed, &scene->bed->unreadable_count);
}

static int readable_again(void *context)
{
	struct scene *scene = context;

	return (int)read_locked(scene->bed, &scene->bed->readable_count);
}

/* What an operator would do: sees that the machine is stopped and mends what is broken. */
static void *watch(void *argument)
{
	struct scene *scene = argument;

	if (account_wait(unreadable_or_ended, scene, CASE_SECONDS * 1000) < 0)
		return NULL;
	if (__atomic_load_n(&scene->ended, __ATOMIC_ACQUIRE))
		return NULL;
	if (!bed_stats(scene->bed).degraded)
		send_report(scene, SILENT, "a page is unreadable and stats do not show it");
	if (!strlen(scene->bed->cause))
		send_report(scene, SILENT, "a page is unreadable without a cause");
	clear_faults(scene);
	scene->was_unreadable = 1;
	if (account_wait(readable_again, scene, CASE_SECONDS * 1000) < 0)
		send_report(scene, HUNG, "the page is still unreadable after the fault has gone");
	return NULL;
}

static void must(struct scene *scene, int r, const char *what)
{
	char text[200];

	if (ram_wrong_count())
		send_report(scene, WRONG, ram_wrong_text());
	if (!r)
		return;
	snprintf(text, sizeof(text), "%s: %s", what, strerror(-r));
	send_report(scene, r == -ETIMEDOUT ? HUNG : WRONG, text);
}

static void make_engine(struct scene *scene)
{
	int r;

	bed_scan_cold_ms = SCAN_COLD_MS;
	bed_active_watch_ms = ACTIVE_WATCH_MS;
	r = bed_try(16 * OB_MIB, bed_dir(), &scene->bed);
	scene->ram = ram_new(RAM_MIB * MIB_PAGES, 0xfa);
	if (!r)
		r = ob_engine_add_region(scene->bed->engine, scene->ram->base, RAM_MIB * OB_MIB, &scene->bed->err);
	if (!r)
		return;
	ram_write_all(scene->ram, PATTERN_ANY);
	must(scene, ram_check_all(scene->ram), "after a refusal");
	if (scene->bed->engine)
		ob_engine_destroy(scene->bed->engine);
	must(scene, ram_check_all(scene->ram), "after a refusal");
	send_report(scene, strlen(scene->bed->err.text) ? REFUSED : SILENT, scene->bed->err.text);
}

/* A machine that cannot share is as whole as any. */
static void share(struct scene *scene)
{
	int r = keeper_start(&scene->keeper, scene->bed->engine, 256, 200);

	if (r == 0) {
		scene->keeper.lies = 1;
		must(scene, keeper_run(&scene->keeper), "keeper");
		return;
	}
	ram_write_all(scene->ram, PATTERN_ANY);
	must(scene, ram_check_all(scene->ram), "without sharing");
	clear_faults(scene);
	ob_engine_destroy(scene->bed->engine);
	must(scene, ram_check_all(scene->ram), "without sharing");
	send_report(scene, REFUSED, "sharing cannot be switched on");
}

/* All that was shared has been told to be so no longer. */
static void end_sharing(struct scene *scene)
{
	keeper_halt(&scene->keeper);
	keeper_serve(&scene->keeper);
	if (scene->keeper.wrong || keeper_held(&scene->keeper))
		send_report(scene, WRONG, "holds do not add up");
}

static void play(struct scene *scene, enum crew_mix mix, uint64_t ops_each)
{
	struct crew_config config = { .engine = scene->bed->engine, .rams = { scene->ram }, .ram_count = 1, .players = 2,
				      .ops_each = ops_each, .seed = 3, .mix = mix, .discards_may_fail = 1 };
	struct crew *crew = NULL;

	must(scene, crew_start(&config, &crew, &scene->bed->err), "crew");
	must(scene, crew_wait_ops(crew, ops_each, CASE_SECONDS * 1000), "players");
	must(scene, ob_engine_set_limit(scene->bed->engine, 24 * OB_MIB), "limit");
	must(scene, crew_wait_ops(crew, ops_each + ops_each / 2, CASE_SECONDS * 1000), "players");
	must(scene, ob_engine_set_limit(scene->bed->engine, 16 * OB_MIB), "limit");
	must(scene, crew_finish(crew, CASE_SECONDS * 1000), "players");
}

static void arm(struct scene *scene)
{
	struct ob_error err = { 0 };

	if (ob_fault_configure(scene->spec, &err) < 0)
		send_report(scene, CRASHED, err.text);
}

static void run_case(const char *spec, enum ob_fault_point point, enum crew_mix mix)
{
	struct scene scene = { .spec = spec, .point = point };
	int flips = point == OB_FP_page_return, r;

	alarm(CASE_SECONDS);
	if (!flips)
		arm(&scene);
	make_engine(&scene);
	if (pthread_create(&scene.watch, NULL, watch, &scene))
		send_report(&scene, CRASHED, "no thread");
	share(&scene);
	ram_write_all(scene.ram, PATTERN_ANY);
	if (flips)
		arm(&scene);
	play(&scene, mix, bed_scale(300, 600, 4000));
	must(&scene, ram_check_all(scene.ram), "memory");
	r = ob_engine_release(scene.bed->engine, NULL, NULL, &scene.bed->err);
	if (r && !strlen(scene.bed->err.text))
		send_report(&scene, SILENT, "release failed without a cause");
	must(&scene, ram_check_all(scene.ram), "memory after a release");
	__atomic_store_n(&scene.ended, 1, __ATOMIC_RELEASE);
	pthread_join(scene.watch, NULL);
	if (!scene.was_unreadable)
		clear_faults(&scene);
	must(&scene, ob_engine_release(scene.bed->engine, NULL, NULL, &scene.bed->err), "release without faults");
	end_sharing(&scene);
	ob_engine_destroy(scene.bed->engine);
	must(&scene, ram_check_all(scene.ram), "memory after the engine");
	send_report(&scene, scene.was_unreadable ? STOPPED : INTACT, scene.bed->cause);
}

/* All cases. -------------------------------------------------------------------------------------------------------- */

static const struct {
	enum outcome outcome;
	const char *name;
} outcome_names[] = {
	{ INTACT, "intact" }, { REFUSED, "refused" }, { STOPPED, "stopped" }, { WRONG, "wrong" },
	{ HUNG, "hung" },     { SILENT, "silent" },   { CRASHED, "crashed" },
};

static const char *outcome_name(enum outcome outcome)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(outcome_names); i++)
		if (outcome_names[i].outcome == outcome)
			return outcome_names[i].name;
	return "?";
}

/* One line of the plan's results; the parent numbers them. */
static void tell(FILE *results, int ok, const char *spec, const struct report *report)
{
	fprintf(results, "%c%s: %s, fired %llu of %llu%s%s\n", ok ? '+' : '-', spec, outcome_name(report->outcome),
		(unsigned long long)report->fired, (unsigned long long)report->passed, report->text[0] ? ": " : "",
		report->text);
}

static void become_case(const char *spec, const char *point, const char *mix, int report_fd)
{
	if (report_fd != REPORT_FD) {
		dup2(report_fd, REPORT_FD);
		close(report_fd);
	}
	execl("/proc/self/exe", "test_fault", "--case", spec, point, mix, (char *)NULL);
	_exit(127);
}

static struct report spawn_case(const char *spec, enum ob_fault_point point, enum crew_mix mix)
{
	struct report report = { .outcome = CRASHED };
	char point_text[16], mix_text[16];
	int ends[2], status = 0;
	pid_t child;
	ssize_t n;

	snprintf(point_text, sizeof(point_text), "%d", (int)point);
	snprintf(mix_text, sizeof(mix_text), "%d", (int)mix);
	if (pipe(ends))
		return report;
	child = fork();
	if (child == 0) {
		close(ends[0]);
		become_case(spec, point_text, mix_text, ends[1]);
	}
	close(ends[1]);
	n = child < 0 ? -1 : read(ends[0], &report, sizeof(report));
	close(ends[0]);
	if (child > 0)
		waitpid(child, &status, 0);
	if (n == (ssize_t)sizeof(report))
		return report;
	report = (struct report){ .outcome = CRASHED, .fired = 1 };
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		report.outcome = HUNG;
	snprintf(report.text, sizeof(report.text), "wait status %#x", (unsigned)status);
	return report;
}

struct plan {
	const char *group;
	enum ob_fault_point point;
	const char *name, *what;
	/* Outcomes allowed to a rule that fires once, and to one that fires again and again (0: not tried). */
	int once, always;
	enum crew_mix mix;
};

#define P(name) OB_FP_##name, #name
static const struct plan plans[] = {
	{ "kernel", P(userfaultfd), "EPERM", REFUSED, REFUSED },
	{ "kernel", P(userfaultfd), "ENOSYS", REFUSED, REFUSED },
	{ "kernel", P(uffd_register), "ENOMEM", INTACT | REFUSED, INTACT | REFUSED },
	{ "kernel", P(uffd_register), "EINVAL", INTACT | REFUSED, INTACT | REFUSED },
	{ "kernel", P(uffd_unregister), "ENOMEM", INTACT, INTACT },
	{ "kernel", P(uffd_move), "EBUSY", INTACT, INTACT },
	{ "kernel", P(uffd_move), "EAGAIN", INTACT, 0 },
	{ "kernel", P(uffd_move), "ENOMEM", INTACT, INTACT | STOPPED },
	{ "kernel", P(uffd_move), "denied", INTACT, INTACT },
	{ "kernel", P(uffd_copy), "ENOMEM", INTACT, INTACT | STOPPED },
	{ "kernel", P(uffd_copy), "EAGAIN", INTACT, INTACT | STOPPED },
	{ "kernel", P(uffd_zeropage), "ENOMEM", INTACT, INTACT | STOPPED },
	{ "kernel", P(uffd_zeropage), "EAGAIN", INTACT, INTACT | STOPPED },
	{ "kernel", P(uffd_wake), "EINVAL", INTACT, INTACT },
	{ "kernel", P(pagemap_scan), "ENOMEM", INTACT | REFUSED, INTACT | REFUSED },
	{ "memory", P(madvise), "ENOMEM", INTACT, INTACT },
	{ "memory", P(madvise), "EAGAIN", INTACT, INTACT },
	{ "memory", P(mmap), "ENOMEM", INTACT | REFUSED, INTACT | REFUSED },
	{ "memory", P(pool_alloc), "ENOMEM", INTACT, INTACT },
	{ "memory", P(ring_create), "ENOSYS", INTACT, INTACT },
	{ "memory", P(ring_create), "EPERM", INTACT, INTACT },
	{ "memory", P(thread_create), "EAGAIN", REFUSED, REFUSED },
	{ "store", P(swap_open), "EPERM", REFUSED, REFUSED },
	{ "store", P(swap_open), "ENOSPC", REFUSED, REFUSED },
	{ "store", P(swap_grow), "ENOSPC", INTACT, INTACT },
	{ "store", P(swap_grow), "EIO", INTACT, INTACT },
	{ "store", P(swap_write), "EIO", INTACT, INTACT },
	{ "store", P(swap_write), "ENOSPC", INTACT, INTACT },
	{ "store", P(swap_write), "short", INTACT, INTACT },
	{ "store", P(swap_write), "slow", INTACT, 0 },
	{ "store", P(swap_read), "EIO", INTACT | STOPPED, INTACT | STOPPED },
	{ "store", P(swap_read), "short", INTACT | STOPPED, INTACT | STOPPED },
	{ "store", P(swap_read), "flip", INTACT | STOPPED, INTACT | STOPPED },
	{ "store", P(swap_read), "slow", INTACT, 0 },
	/* The checker must be able to fail: a bit that flips on its way back is seen, whichever page it is. */
	{ "mutation", P(page_return), "flip", WRONG, 0, CREW_READ },
};

static void one(const struct plan *plan, const char *when, int allowed, FILE *results, struct report *ret_report)
{
	char spec[96];

	snprintf(spec, sizeof(spec), "%s:%s:%s", plan->name, when, plan->what);
	*ret_report = spawn_case(spec, plan->point, plan->mix);
	if (!ret_report->fired)
		allowed = INTACT;
	tell(results, (ret_report->outcome & allowed) != 0, spec, ret_report);
}

static void run_plan(const struct plan *plan, FILE *results)
{
	static const unsigned quick[] = { 1, 2, 5, 40, 300, 0 };
	static const char *const again[] = { "/3", "/40", "1+", "100+" };
	int is_long = getenv("OVERBOOK_TEST_LONG") != NULL;
	struct report report = { .fired = 1 };
	char when[24];

	/* Every N at first, then ever larger steps. */
	for (unsigned i = 0, n = 1; report.fired && (is_long || quick[i]) && n < 100000; i++) {
		n = is_long ? (i < 24 ? i + 1 : n + n / 4) : quick[i];
		snprintf(when, sizeof(when), "%u", n);
		one(plan, when, plan->once, results, &report);
	}
	for (size_t i = is_long ? 0 : 1; i < OB_ARRAY_LEN(again) && plan->always; i++)
		one(plan, again[i], plan->always, results, &report);
}

struct job {
	pid_t pid;
	FILE *results;
};

static int start_job(const struct plan *plan, struct job *job)
{
	job->results = tmpfile();
	if (!job->results)
		return -errno;
	fflush(stdout);
	job->pid = fork();
	if (job->pid)
		return job->pid < 0 ? -errno : 0;
	run_plan(plan, job->results);
	_exit(fflush(job->results) ? 1 : 0);
}

/* Prints what a plan told, in TAP. Returns how many of its cases failed. */
static unsigned print_job(struct job *job, unsigned *number)
{
	unsigned failed = 0;
	char line[512];

	rewind(job->results);
	while (fgets(line, sizeof(line), job->results)) {
		failed += line[0] != '+';
		printf("%sok %u - %s", line[0] == '+' ? "" : "not ", ++*number, line + 1);
	}
	fclose(job->results);
	return failed;
}

/* Most cases wait more than they compute: a few plans at a time. Their results are printed in the order of the table. */
static unsigned run_group(const char *group, unsigned *number)
{
	struct job jobs[OB_ARRAY_LEN(plans)] = { { 0 } };
	unsigned running = 0, failed = 0;
	int status;

	for (size_t i = 0; i < OB_ARRAY_LEN(plans); i++) {
		if (strcmp(plans[i].group, group))
			continue;
		if (running == JOBS && wait(&status) > 0) {
			failed += status != 0;
			running--;
		}
		if (start_job(&plans[i], &jobs[i]) < 0)
			failed++;
		else
			running++;
	}
	while (running--)
		if (wait(&status) > 0)
			failed += status != 0;
	for (size_t i = 0; i < OB_ARRAY_LEN(plans); i++)
		if (jobs[i].results)
			failed += print_job(&jobs[i], number);
	return failed;
}

int main(int argc, char **argv)
{
	unsigned number = 0, failed;

	if (argc == 5 && !strcmp(argv[1], "--case"))
		run_case(argv[2], (enum ob_fault_point)atoi(argv[3]), (enum crew_mix)atoi(argv[4]));
	failed = run_group(argc == 2 ? argv[1] : "", &number);
	if (!number) {
		fprintf(stderr, "test_fault: \"%s\" is not one of kernel, memory, store, mutation\n",
			argc > 1 ? argv[1] : "");
		return 2;
	}
	printf("1..%u\n", number);
	return failed ? 1 : 0;
}
