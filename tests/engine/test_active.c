/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of its memory the guest uses, by samples (active.c): a guest whose use is known, and what is said of it.
 */
#include "bed.h"

#include <pthread.h>
#include <time.h>

#include "account.h"
#include "base/clock.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "ram.h"

#define WATCH_MS  320u
#define PAGES     (32u * MIB_PAGES)
#define ENOUGH    500u /* samples: four times what the longer average stands for */
#define PLENTY    (256u * OB_MIB)

static struct bed *bed;
static struct ram *ram;

/* Checks pages of the first ones at random, again and again. */
static struct {
	pthread_t thread;
	uint32_t pages;
	uint64_t touches; /* atomic */
	int is_running, stop;
} user;

static void *use(void *context)
{
	uint64_t x = 1;

	while (!ob_load(&user.stop)) {
		uint32_t page;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		page = (uint32_t)(x % user.pages);
		ram_lock_range(ram, page, 1);
		ram_check(ram, page);
		ram_unlock_range(ram, page, 1);
		ob_store(&user.touches, user.touches + 1);
	}
	return NULL;
}

static void begin_use(uint32_t pages)
{
	user.pages = pages;
	user.stop = 0;
	user.is_running = 1;
	assert_int_equal(pthread_create(&user.thread, NULL, use, NULL), 0);
}

static void end_use(void)
{
	ob_store(&user.stop, 1);
	if (user.is_running)
		pthread_join(user.thread, NULL);
	user.is_running = 0;
	assert_string_equal(ram_wrong_text(), "");
}

static void make(uint64_t limit, uint32_t pages, int large)
{
	bed_active_watch_ms = WATCH_MS;
	bed = bed_new(limit, 1);
	bed_active_watch_ms = 0;
	ram = ram_new(pages, 0xac71);
	(void)!ob_memory_large_pages(ram->base, pages * OB_PAGE_SIZE, large);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, pages * OB_PAGE_SIZE, &bed->err));
	ram_write_all(ram, PATTERN_COMPRESSIBLE);
}

static int tear_down(void **state)
{
	end_use();
	ram_check_all(ram);
	assert_string_equal(ram_wrong_text(), "");
	bed_free(bed);
	ram_free(ram);
	return 0;
}

/* Waits for so many more samples. Returns how much of 1000 pages of the RAM is said to be used. */
static uint64_t permille_after(uint64_t samples)
{
	uint64_t seen = bed_stats(bed).active_sampled_pages;
	struct ob_stats stats;

	for (unsigned ms = 0; stats = bed_stats(bed), stats.active_sampled_pages < seen + samples; ms++) {
		assert_true(ms < HANG_MS);
		ob_reclaim_kick(bed->engine); /* who would come by once a second */
		nanosleep(&(struct timespec){ .tv_nsec = OB_NS_PER_MS }, NULL);
	}
	print_message("# %llu of 1000, of %llu samples %llu were touched\n", (unsigned long long)(stats.active_bytes * 1000 / stats.ram_bytes),
		      (unsigned long long)stats.active_sampled_pages, (unsigned long long)stats.active_touched_pages);
	return stats.active_bytes * 1000 / stats.ram_bytes;
}

static void nothing_is_said_before_there_are_samples(void **state)
{
	struct ob_stats stats;

	make(PLENTY, PAGES, 0);
	stats = bed_stats(bed);
	if (!stats.active_sampled_pages)
		assert_int_equal(stats.active_bytes, 0);
	permille_after(16);
	assert_true(bed_stats(bed).active_samples >= 15);
}

static void half_of_it_is_used(void **state)
{
	make(PLENTY, PAGES, 0);
	begin_use(PAGES / 2);
	assert_in_range(permille_after(ENOUGH), 300, 700);
}

/* And all that was lifted goes back. */
static void nobody_uses_it(void **state)
{
	make(PLENTY, PAGES, 0);
	assert_in_range(permille_after(ENOUGH), 0, 50);
	assert_int_equal(bed_stats(bed).faults_bench, 0);
	assert_in_range(bed_stats(bed).benched_bytes, 0, OB_ACTIVE_SAMPLES * OB_PAGE_SIZE);
}

/* A machine that wakes up is seen within some dozens of samples. */
static void it_wakes_up(void **state)
{
	make(PLENTY, PAGES, 0);
	assert_in_range(permille_after(ENOUGH), 0, 50);
	begin_use(PAGES);
	assert_in_range(permille_after(96), 700, 1000);
}

/* Most of it is not in place at any time. How much of it is touched while a page is watched is a matter of how fast the host is. */
static void what_is_evicted_is_used_too(void **state)
{
	uint64_t start, permille;
	double a_watch, expected;

	make(16 * OB_MIB, PAGES, 0);
	start = ob_now_ns();
	user.touches = 0;
	begin_use(PAGES);
	permille = permille_after(ENOUGH);
	a_watch = (double)ob_load(&user.touches) * WATCH_MS * OB_NS_PER_MS / (double)(ob_now_ns() - start);
	expected = 1000 * a_watch / (a_watch + PAGES); /* at least */
	print_message("# %.0f touches while a page is watched: %.0f of 1000 are to be seen\n", a_watch, expected);
	assert_in_range(permille, (uint64_t)(expected / 2), 1000);
}

static void what_the_guest_does_not_have_is_not_used(void **state)
{
	make(PLENTY, PAGES, 0);
	begin_use(PAGES / 4);
	ram_lock_range(ram, PAGES / 4, PAGES / 4 * 3);
	assert_int_equal(ram_discard(ram, bed->engine, PAGES / 4, PAGES / 4 * 3), 0);
	ram_unlock_range(ram, PAGES / 4, PAGES / 4 * 3);
	assert_in_range(permille_after(ENOUGH), 200, 251);
}

static uint64_t large_bytes(void)
{
	struct account_mapping mapping;

	assert_int_equal(account_mapping(ram->base, ram->pages * OB_PAGE_SIZE, &mapping), 0);
	return mapping.huge_bytes;
}

/* 16 chunks, of which one is on the bench at a time. */
static void large_pages_stay_large(void **state)
{
	uint64_t before;

	make(PLENTY, PAGES, 1);
	before = large_bytes();
	if (before < PAGES * OB_PAGE_SIZE / 2) {
		print_message("skipped: the kernel has made no large pages here\n");
		skip();
	}
	permille_after(ENOUGH / 10);
	begin_use(PAGES / 2);
	permille_after(ENOUGH / 10);
	end_use();
	/* The last ones may still lie on the bench. */
	assert_true(large_bytes() + bed_stats(bed).benched_bytes >= before);
	assert_true(bed_stats(bed).large_whole_returns > 0);
}

static int all_is_forgotten(void *context)
{
	ob_reclaim_kick(bed->engine);
	return !ob_load(&bed->engine->active.samples) && !ob_load(&bed->engine->active.permille);
}

/* And what was seen before says nothing of later. */
static void released_memory_is_left_alone(void **state)
{
	uint64_t seen;

	make(PLENTY, PAGES, 0);
	begin_use(PAGES);
	assert_in_range(permille_after(64), 700, 1000);
	end_use();
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	seen = bed_stats(bed).active_sampled_pages;
	assert_int_equal(bed_stats(bed).active_samples, 0);
	assert_int_equal(bed_stats(bed).benched_bytes, 0);
	bed_assert_ok(bed, account_wait(all_is_forgotten, NULL, HANG_MS));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, PLENTY));
	assert_in_range(permille_after(32), 0, 100);
	assert_true(bed_stats(bed).active_sampled_pages >= seen + 32);
}

#define with_end(f) cmocka_unit_test_teardown(f, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_end(nothing_is_said_before_there_are_samples),
		with_end(half_of_it_is_used),
		with_end(nobody_uses_it),
		with_end(it_wakes_up),
		with_end(what_is_evicted_is_used_too),
		with_end(what_the_guest_does_not_have_is_not_used),
		with_end(large_pages_stay_large),
		with_end(released_memory_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
