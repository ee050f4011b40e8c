/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Letting go and engaging again: memory comes back whole, the kernel may use large pages, and an idle engine is idle. */
#include "bed.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "account.h"
#include "base/clock.h"
#include "player.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define RAM_MIB 64u

static struct bed *bed;
static struct ram *ram;

static int set_up(void **state)
{
	bed = bed_new(0, 1);
	ram = ram_new(RAM_MIB * MIB_PAGES, 0x99);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, RAM_MIB * OB_MIB, &bed->err));
	return 0;
}

static int tear_down(void **state)
{
	bed_free(bed);
	ram_free(ram);
	bed = NULL;
	ram = NULL;
	return 0;
}

static void squeeze(uint64_t limit_bytes)
{
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limit_bytes));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
}

struct progress {
	uint64_t calls, done, total;
	int went_back;
};

static void on_progress(void *context, uint64_t done, uint64_t total)
{
	struct progress *progress = context;

	progress->went_back |= done < progress->done || done > total;
	progress->calls++;
	progress->done = done;
	progress->total = total;
}

static int collapse(uint8_t *chunk)
{
	return madvise(chunk, OB_CHUNK_SIZE, MADV_COLLAPSE) ? -errno : 0;
}

static void release_brings_everything_back_and_lets_go(void **state)
{
	struct progress progress = { 0 };
	struct account_mapping mapping;
	struct ob_stats stats;

	ram_write_all(ram, PATTERN_ANY);
	squeeze(16 * OB_MIB);
	stats = bed_stats(bed);
	assert_true(stats.swapped_bytes + stats.compressed_bytes + stats.zero_bytes > 30 * OB_MIB);
	bed_assert_ok(bed, ob_engine_release(bed->engine, on_progress, &progress, &bed->err));
	assert_true(progress.calls > 0);
	assert_false(progress.went_back);
	assert_int_equal(progress.done, progress.total);
	bed_assert_ok(bed, account_mapping(ram->base, RAM_MIB * OB_MIB, &mapping));
	assert_false(mapping.is_registered);
	stats = bed_stats(bed);
	assert_int_equal(stats.limit_bytes, 0);
	assert_int_equal(stats.swapped_bytes + stats.compressed_bytes + stats.benched_bytes, 0);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
	bed_assert_ok(bed, ram_check_all(ram));
	/* Nothing stands in the way of a large page now: khugepaged would do what this does. */
	bed_assert_ok(bed, collapse(ram->base + 4 * OB_CHUNK_SIZE));
	bed_assert_ok(bed, account_mapping(ram->base, RAM_MIB * OB_MIB, &mapping));
	assert_true(mapping.huge_bytes >= OB_CHUNK_SIZE);
	bed_assert_ok(bed, ram_check_all(ram));
}

static void release_of_what_is_free_already_does_nothing(void **state)
{
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	ram_write_all(ram, PATTERN_ANY);
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	bed_assert_ok(bed, ram_check_all(ram));
}

static void release_and_engage_while_players_play(void **state)
{
	uint64_t ops_each = bed_scale(5000, 30000, 500000);
	struct crew_config config = { .engine = bed->engine, .rams = { ram }, .ram_count = 1, .players = 2,
				      .ops_each = ops_each, .seed = 5, .mix = CREW_CHECK_WRITE };
	struct crew *crew;

	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	for (uint64_t i = 1; i <= 8; i++) {
		bed_assert_ok(bed, crew_wait_ops(crew, i * ops_each / 5, HANG_MS));
		if (i % 2)
			bed_assert_ok(bed, ob_engine_set_limit(bed->engine, (16 + 4 * i) * OB_MIB));
		else
			bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	}
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	bed_assert_ok(bed, ram_check_all(ram));
}

static void memory_without_a_limit_gets_large_pages(void **state)
{
	struct account_mapping mapping;

	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	if (collapse(ram->base)) {
		print_message("# this kernel has no large pages: nothing to see\n");
		return;
	}
	bed_assert_ok(bed, account_mapping(ram->base, RAM_MIB * OB_MIB, &mapping));
	assert_true(mapping.huge_bytes >= RAM_MIB * OB_MIB / 2);
	assert_false(mapping.is_registered);
	/* A limit far away changes nothing about that. */
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 1024 * OB_MIB));
	bed_assert_ok(bed, ram_check_all(ram));
	bed_assert_ok(bed, account_mapping(ram->base, RAM_MIB * OB_MIB, &mapping));
	assert_true(mapping.huge_bytes >= RAM_MIB * OB_MIB / 2);
}

/* This test is about time, so it does measure a stretch of it. */
static double idle_cpu_share(void)
{
	uint64_t cpu = account_cpu_ns(), start = ob_now_ns();

	nanosleep(&(struct timespec){ .tv_sec = 2 }, NULL);
	return (double)(account_cpu_ns() - cpu) / (double)(ob_now_ns() - start);
}

/* The CPU that the engine takes settles once it has nothing to do; it must get there within a few looks. */
static void assert_idle(const char *when)
{
	double share = 1;

	for (int i = 0; i < 3 && share >= 0.01; i++)
		share = idle_cpu_share();
	print_message("# idle %s: %.3f%% of a core\n", when, 100 * share);
	assert_true(share < 0.01);
}

static void an_idle_engine_takes_no_time(void **state)
{
	ram_write_all(ram, PATTERN_ANY);
	assert_idle("without a limit");
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 512 * OB_MIB));
	assert_idle("below a limit");
	squeeze(24 * OB_MIB);
	assert_idle("at a limit");
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	assert_idle("after a release");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(release_brings_everything_back_and_lets_go, set_up, tear_down),
		cmocka_unit_test_setup_teardown(release_of_what_is_free_already_does_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(release_and_engage_while_players_play, set_up, tear_down),
		cmocka_unit_test_setup_teardown(memory_without_a_limit_gets_large_pages, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_idle_engine_takes_no_time, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
