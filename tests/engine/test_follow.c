/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leases (follow.c): a thread whose faults are many is kept on one processor, and nobody is to notice afterwards. A storm is a
 * thread that checks random pages of a memory twice its limit, so that every second check or so is a fault.
 */
#include "bed.h"

#include <linux/magic.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "engine/internal.h"
#include "kern/cpu.h"
#include "ram.h"

#define PAGES  (32u * MIB_PAGES)
#define LIMIT  (16u * OB_MIB)
#define SHM    "/dev/shm"
#define MANY   5000u /* faults */
#define HOGS   4u
#define STORMS 2u

struct storm {
	pthread_t thread;
	uint32_t tid;           /* atomic */
	cpu_set_t had, child;   /* its mask before, and that of a thread that it has made */
	int is_resting, ends;   /* atomic: what is wanted of it */
	int makes_a_thread;     /* when it has a lease; then it ends */
	sem_t *turn, *next;     /* NULL: it need not wait for another one */
};

static struct bed *bed;
static struct ram *ram;

static int fill(enum pattern_kind kind)
{
	ram = ram_new(PAGES, 0xf0110);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, ram->pages * OB_PAGE_SIZE, &bed->err));
	ram_write_all(ram, kind);
	return 0;
}

static int set_up(void **state)
{
	bed = bed_new(LIMIT, 0);
	return fill(PATTERN_COMPRESSIBLE);
}

static int has_shm(void)
{
	struct statfs fs;

	if (statfs(SHM, &fs) == 0 && fs.f_type == TMPFS_MAGIC)
		return 1;
	print_message("skipped: " SHM " is not in memory\n");
	return 0;
}

/* A store in memory, which answers at once. */
static int set_up_brisk(void **state)
{
	if (bed_try(LIMIT, has_shm() ? SHM : bed_dir(), &bed) < 0)
		return -1;
	return fill(PATTERN_INCOMPRESSIBLE);
}

static int tear_down(void **state)
{
	if (bed)
		bed_free(bed);
	bed = NULL;
	ram_free(ram);
	return 0;
}

static int needs_processors(void)
{
	cpu_set_t mask;

	if (sched_getaffinity(0, sizeof(mask), &mask) == 0 && CPU_COUNT(&mask) > 1)
		return 0;
	print_message("skipped: a thread that may run on one processor alone is never given a lease\n");
	return 1;
}

static cpu_set_t mask_of(uint32_t tid)
{
	cpu_set_t mask;

	assert_int_equal(sched_getaffinity((pid_t)tid, sizeof(mask), &mask), 0);
	return mask;
}

static uint64_t faults(void)
{
	return ob_load(&bed->engine->follow.faults);
}

static void check_one(uint64_t *seed)
{
	uint32_t page;

	*seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
	page = (uint32_t)(*seed % ram->pages);
	ram_lock_range(ram, page, 1);
	ram_check(ram, page);
	ram_unlock_range(ram, page, 1);
}

static void *child_main(void *context)
{
	sched_getaffinity(0, sizeof(cpu_set_t), context);
	return NULL;
}

static void make_a_thread(struct storm *storm)
{
	pthread_t child;

	ob_engine_before_thread(bed->engine);
	if (pthread_create(&child, NULL, child_main, &storm->child) == 0)
		pthread_join(child, NULL);
}

static void *storm_main(void *context)
{
	struct storm *storm = context;
	uint64_t seed = (uint64_t)gettid();

	sched_getaffinity(0, sizeof(storm->had), &storm->had);
	__atomic_store_n(&storm->tid, (uint32_t)gettid(), __ATOMIC_RELEASE);
	while (!ob_load(&storm->ends)) {
		cpu_set_t mask;

		if (ob_load(&storm->is_resting)) {
			nanosleep(&(struct timespec){ .tv_nsec = OB_NS_PER_MS }, NULL);
			continue;
		}
		if (storm->turn)
			sem_wait(storm->turn);
		check_one(&seed);
		if (storm->turn)
			sem_post(storm->next);
		if (storm->makes_a_thread && sched_getaffinity(0, sizeof(mask), &mask) == 0 && CPU_COUNT(&mask) == 1) {
			make_a_thread(storm);
			break;
		}
	}
	return NULL;
}

static void start(struct storm *storm)
{
	assert_int_equal(pthread_create(&storm->thread, NULL, storm_main, storm), 0);
	while (!__atomic_load_n(&storm->tid, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void end(struct storm *storm)
{
	ob_store(&storm->ends, 1);
	pthread_join(storm->thread, NULL);
	assert_string_equal(ram_wrong_text(), "");
}

/* Waits for what is said to be true. */
#define wait_until(what)                                                                       \
	do {                                                                                   \
		for (unsigned ms = 0; !(what); ms++) {                                         \
			assert_true(ms < HANG_MS);                                             \
			nanosleep(&(struct timespec){ .tv_nsec = OB_NS_PER_MS }, NULL);        \
		}                                                                              \
	} while (0)

static int has_lease(const struct storm *storm)
{
	cpu_set_t mask = mask_of(storm->tid);

	return CPU_COUNT(&mask) == 1 && ob_load(&bed->engine->follow.lease.thread) == storm->tid;
}

static int is_as_before(const struct storm *storm)
{
	cpu_set_t mask = mask_of(storm->tid);

	return CPU_EQUAL(&mask, &storm->had);
}

static void a_storm_has_a_lease_and_rest_has_none(void **state)
{
	struct storm storm = { 0 };

	if (needs_processors())
		skip();
	start(&storm);
	for (unsigned i = 0; i < 3; i++) {
		wait_until(has_lease(&storm));
		assert_true(bed_stats(bed).leases > i);
		assert_false(ob_load(&bed->engine->follow.lease.mostly_reads));
		ob_store(&storm.is_resting, 1);
		wait_until(is_as_before(&storm) && !ob_load(&bed->engine->follow.lease.thread));
		ob_store(&storm.is_resting, 0);
	}
	end(&storm);
	assert_int_equal(bed_stats(bed).leases_refused, 0);
}

/* A mask that does not have the lease's processor, as libvirt may give. */
static void what_somebody_else_sets_is_kept(void **state)
{
	struct storm storm = { 0 };
	cpu_set_t other, now;
	uint64_t seen;

	if (needs_processors())
		skip();
	start(&storm);
	wait_until(has_lease(&storm));
	now = mask_of(storm.tid);
	CPU_XOR(&other, &storm.had, &now);
	assert_int_equal(sched_setaffinity((pid_t)storm.tid, sizeof(other), &other), 0);
	wait_until(!ob_load(&bed->engine->follow.lease.thread));
	seen = faults();
	wait_until(faults() > seen + MANY);
	if (CPU_COUNT(&other) == 1) {
		now = mask_of(storm.tid);
		assert_true(CPU_EQUAL(&now, &other));
	}
	assert_true(bed_stats(bed).leases_broken > 0);
	/* It has the lease's processor again: none of it is remembered. */
	assert_int_equal(sched_setaffinity((pid_t)storm.tid, sizeof(storm.had), &storm.had), 0);
	wait_until(has_lease(&storm));
	ob_store(&storm.is_resting, 1);
	wait_until(is_as_before(&storm));
	end(&storm);
}

static void *hog_main(void *ends)
{
	while (!ob_load((int *)ends))
		;
	return NULL;
}

/* The lease of a storm ends early when so many others want its processor. */
static void crowd(const struct storm *storm, unsigned hogs)
{
	uint64_t broken = bed_stats(bed).leases_broken;
	cpu_set_t one = mask_of(storm->tid);
	pthread_t hog[HOGS];
	int ends = 0;

	for (unsigned i = 0; i < hogs; i++) {
		assert_int_equal(pthread_create(&hog[i], NULL, hog_main, &ends), 0);
		assert_int_equal(pthread_setaffinity_np(hog[i], sizeof(one), &one), 0);
	}
	wait_until(bed_stats(bed).leases_broken > broken && is_as_before(storm));
	ob_store(&ends, 1);
	for (unsigned i = 0; i < hogs; i++)
		pthread_join(hog[i], NULL);
}

static void others_need_not_wait_behind_it(void **state)
{
	struct storm storm = { 0 };

	if (needs_processors())
		skip();
	start(&storm);
	wait_until(has_lease(&storm));
	crowd(&storm, HOGS);
	end(&storm);
}

/* What is read from it is waited for without sleep; not when somebody else wants the processor, nor when it is brisk no more. */
static void a_brisk_store_is_spun_for(void **state)
{
	struct storm storm = { 0 };
	uint64_t seen = bed_stats(bed).faults_swapped;

	if (needs_processors() || !has_shm())
		skip();
	start(&storm);
	wait_until(has_lease(&storm) && ob_follow_spin_ns(bed->engine));
	wait_until(bed_stats(bed).faults_swapped > seen + MANY);
	wait_until(has_lease(&storm));
	crowd(&storm, 1);
	wait_until(has_lease(&storm));
	assert_int_equal(ob_fault_configure("swap_read:/4:slow", NULL), 0);
	wait_until(!ob_follow_spin_ns(bed->engine) && is_as_before(&storm));
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	end(&storm);
	assert_int_equal(ram_check_all(ram), 0);
}

static void what_it_makes_does_not_inherit_it(void **state)
{
	struct storm storm = { .makes_a_thread = 1 };

	if (needs_processors())
		skip();
	start(&storm);
	pthread_join(storm.thread, NULL);
	assert_true(CPU_EQUAL(&storm.child, &storm.had));
	assert_string_equal(ram_wrong_text(), "");
}

static void the_engine_s_end_is_its_end(void **state)
{
	struct storm storm = { 0 };

	if (needs_processors())
		skip();
	start(&storm);
	wait_until(has_lease(&storm));
	bed_free(bed);
	bed = NULL;
	assert_true(is_as_before(&storm));
	end(&storm);
	assert_int_equal(ram_check_all(ram), 0);
}

static void its_thread_may_die(void **state)
{
	if (needs_processors())
		skip();
	for (unsigned i = 0; i < 3; i++) {
		struct storm storm = { 0 };

		start(&storm);
		wait_until(has_lease(&storm));
		end(&storm);
		wait_until(!ob_load(&bed->engine->follow.lease.thread));
	}
}

/* They take turns, so that each has half of the faults. */
static void two_threads_have_none(void **state)
{
	struct storm storm[STORMS] = { 0 };
	sem_t turn[STORMS];
	uint64_t seen;

	for (unsigned i = 0; i < STORMS; i++) {
		sem_init(&turn[i], 0, i == 0);
		storm[i].turn = &turn[i];
		storm[i].next = &turn[(i + 1) % STORMS];
	}
	seen = bed_stats(bed).leases;
	for (unsigned i = 0; i < STORMS; i++)
		start(&storm[i]);
	wait_until(faults() > MANY);
	seen = bed_stats(bed).leases - seen;
	for (unsigned i = 0; i < STORMS; i++) {
		assert_true(is_as_before(&storm[i]));
		ob_store(&storm[i].ends, 1);
	}
	for (unsigned i = 0; i < STORMS; i++)
		sem_post(&turn[i]);
	for (unsigned i = 0; i < STORMS; i++)
		end(&storm[i]);
	assert_int_equal(seen, 0);
}

/* What makes processes is the main thread. */
static void the_main_thread_has_none(void **state)
{
	uint64_t seed = 1, before = faults();

	while (faults() < before + MANY)
		check_one(&seed);
	assert_int_equal(bed_stats(bed).leases, 0);
	assert_string_equal(ram_wrong_text(), "");
}

static void who_wants_none_has_none(void **state)
{
	struct storm storm = { 0 };
	uint64_t seen = faults();

	if (needs_processors())
		skip();
	ob_store(&bed->engine->config.keep_affinity, 1);
	start(&storm);
	wait_until(faults() > seen + MANY);
	assert_true(is_as_before(&storm));
	assert_int_equal(bed_stats(bed).leases, 0);
	ob_store(&bed->engine->config.keep_affinity, 0);
	wait_until(has_lease(&storm));
	end(&storm);
}

static void where_the_kernel_refuses_there_is_none(void **state)
{
	struct storm storm = { 0 };
	struct ob_error err;

	if (needs_processors())
		skip();
	assert_int_equal(ob_fault_configure("affinity:1+:EPERM", &err), 0);
	start(&storm);
	wait_until(bed_stats(bed).leases_refused > 0);
	assert_true(is_as_before(&storm));
	assert_int_equal(bed_stats(bed).leases, 0);
	assert_int_equal(ob_fault_configure(NULL, &err), 0);
	wait_until(has_lease(&storm));
	end(&storm);
}

/* For how long the calling thread has its turn, by the kernel; 0 where threads have no turns of their own. */
static uint64_t turn_ns(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} own = { 0 };

	return syscall(SYS_sched_getattr, 0, &own, sizeof(own), 0) < 0 ? 0 : own.runtime;
}

struct turns {
	int r[4], nice[2], class;
	uint64_t before, after;
};

/* A thread that has set something else of how it is scheduled before. */
static void *short_turns_main(void *context)
{
	struct turns *turns = context;
	id_t self = (id_t)gettid();

	turns->r[0] = setpriority(PRIO_PROCESS, self, 7);
	turns->before = turn_ns();
	turns->r[1] = ob_cpu_short_turns();
	turns->after = turn_ns();
	turns->nice[0] = getpriority(PRIO_PROCESS, self);
	turns->r[2] = sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ 0 });
	turns->r[3] = ob_cpu_short_turns();
	turns->nice[1] = getpriority(PRIO_PROCESS, self);
	turns->class = sched_getscheduler(0);
	return NULL;
}

static void short_turns_change_nothing_else(void **state)
{
	struct turns turns = { .r = { -1, -1, -1, -1 } };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, short_turns_main, &turns), 0);
	pthread_join(thread, NULL);
	print_message("# turns of %llu us, %llu before\n", (unsigned long long)turns.after / 1000, (unsigned long long)turns.before / 1000);
	for (unsigned i = 0; i < OB_ARRAY_LEN(turns.r); i++)
		assert_int_equal(turns.r[i], 0);
	assert_int_equal(turns.after, turns.before ? OB_CPU_SHORT_NS : 0);
	assert_int_equal(turns.nice[0], 7);
	assert_int_equal(turns.nice[1], 7);
	assert_int_equal(turns.class, SCHED_BATCH);
}

#define with_bed(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_turns_change_nothing_else),
		with_bed(a_storm_has_a_lease_and_rest_has_none),
		cmocka_unit_test_setup_teardown(a_brisk_store_is_spun_for, set_up_brisk, tear_down),
		with_bed(what_somebody_else_sets_is_kept),
		with_bed(others_need_not_wait_behind_it),
		with_bed(what_it_makes_does_not_inherit_it),
		with_bed(the_engine_s_end_is_its_end),
		with_bed(its_thread_may_die),
		with_bed(two_threads_have_none),
		with_bed(the_main_thread_has_none),
		with_bed(who_wants_none_has_none),
		with_bed(where_the_kernel_refuses_there_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
