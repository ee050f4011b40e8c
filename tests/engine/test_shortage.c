/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A host that runs out of memory: players under a limit that the host cannot meet. They are in a child process in a memory
 * cgroup that is smaller than the engine's limit; the test stays outside of it and gives and takes.
 *
 * Where tasks in such a group wait (cgroup version 1), UFFDIO_COPY, UFFDIO_ZEROPAGE, mmap and plain faults all run into it.
 * What must hold: no byte is ever wrong, and nothing waits on once there is memory again. Where the kernel kills, it kills
 * the process as a whole.
 */
#include "bed.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "group.h"
#include "player.h"

#define RAM_MIB    96u
#define LIMIT      (64 * OB_MIB)
#define GROUP_MIN  (36 * OB_MIB)
#define GROUP_STEP (6 * OB_MIB)
#define PATIENCE_NS (120 * OB_NS_PER_SEC)
#define HOLD_NS    (OB_NS_PER_SEC / 2) /* how long a shortage lasts */

/* What the child tells; in memory that the test has paid for. */
static struct report {
	uint64_t internal_errors, wrong, ops;
	int result;
	char text[2048];
} *report;

static int play(void)
{
	struct crew_config config = { .ram_count = 1, .players = 2, .seed = 11, .mix = CREW_CHECK_WRITE,
				      .ops_each = bed_scale(20000, 60000, 600000) };
	struct ram *ram = ram_new(RAM_MIB * MIB_PAGES, 0x5047);
	struct crew *crew = NULL;
	struct bed *bed;
	int r = bed_try(LIMIT, bed_dir(), &bed);

	if (r == 0)
		r = ob_engine_add_region(bed->engine, ram->base, RAM_MIB * OB_MIB, &bed->err);
	config.engine = bed->engine;
	config.rams[0] = ram;
	if (r == 0)
		r = crew_start(&config, &crew, &bed->err);
	if (r == 0)
		r = crew_finish(crew, 4 * HANG_MS);
	if (r == 0)
		r = ram_check_all(ram);
	if (bed->engine)
		report->internal_errors = bed_stats(bed).internal_errors;
	report->wrong = ram_wrong_count();
	report->ops = ram_checked_count();
	snprintf(report->text, sizeof(report->text), "%s; %s", bed->err.text, ram_wrong_text());
	report->result = r;
	return r;
}

static pid_t start_child(const struct group *group)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (group_join(group) < 0)
		_exit(2);
	_exit(play() < 0);
}

static void rest(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

/* Waits until the group is short or the child has ended. Returns 1 when it is short. */
static int wait_short(const struct group *group, pid_t pid)
{
	uint64_t until = ob_now_ns() + PATIENCE_NS;
	siginfo_t info;

	while (ob_now_ns() < until) {
		info.si_pid = 0;
		if (group_is_short(group))
			return 1;
		if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid)
			return 0;
		rest();
	}
	fail_msg("neither short of memory nor at an end");
	return 0;
}

static int set_up(void **state)
{
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(report, 0, sizeof(*report));
	*state = calloc(1, sizeof(struct group));
	return !*state;
}

static int tear_down(void **state)
{
	group_remove(*state);
	free(*state);
	munmap(report, sizeof(*report));
	return 0;
}

static void need_group(struct group *group, enum group_mode mode)
{
	struct ob_error err = { 0 };

	if (group_make(group, mode, &err) == 0)
		return;
	print_message("# skipped: %s\n", err.text);
	skip();
}

/* Memory is short again and again, each time a little later, and then there is enough. */
static void a_shortage_is_outlived(void **state)
{
	struct group *group = *state;
	uint64_t bytes = GROUP_MIN, began;
	unsigned rounds = 0;
	int status;
	pid_t pid;

	need_group(group, GROUP_WAITS);
	assert_int_equal(group_limit(group, bytes), 0);
	pid = start_child(group);
	while (bytes < LIMIT && wait_short(group, pid)) {
		rounds++;
		for (began = ob_now_ns(); ob_now_ns() < began + HOLD_NS;)
			rest();
		bytes += GROUP_STEP;
		assert_int_equal(group_limit(group, bytes), 0);
	}
	assert_int_equal(group_limit(group, 0), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	print_message("# %u shortages, %llu pages checked, %llu internal errors\n", rounds, (unsigned long long)report->ops,
		      (unsigned long long)report->internal_errors);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("status %x, result %d, %llu wrong: %s", (unsigned)status, report->result,
			 (unsigned long long)report->wrong, report->text);
	assert_true(rounds > 0);
	assert_int_equal(report->internal_errors, 0);
}

static void a_kill_takes_the_process_as_a_whole(void **state)
{
	struct group *group = *state;
	int status;
	pid_t pid;

	need_group(group, GROUP_KILLS);
	assert_int_equal(group_limit(group, GROUP_MIN), 0);
	pid = start_child(group);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(report->wrong, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_shortage_is_outlived, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_kill_takes_the_process_as_a_whole, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
