/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The edges of engine.h: what is refused and how, regions that come and go, discards at odd places, unprivileged hosts. */
#include "bed.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account.h"
#include "ram.h"

static void a_limit_below_the_least_is_refused(void **state)
{
	struct bed *bed = bed_new(0, 0);

	assert_int_equal(ob_engine_set_limit(bed->engine, OB_LIMIT_MIN - 1), -EINVAL);
	assert_int_equal(ob_engine_set_limit(bed->engine, 1), -EINVAL);
	assert_int_equal(ob_engine_set_limit(bed->engine, OB_LIMIT_MIN), 0);
	assert_int_equal(bed_stats(bed).limit_bytes, OB_LIMIT_MIN);
	assert_int_equal(ob_engine_set_limit(bed->engine, UINT64_MAX), 0);
	assert_int_equal(ob_engine_set_limit(bed->engine, 0), 0);
	assert_int_equal(bed_stats(bed).limit_bytes, 0);
	bed_free(bed);
}

static void create_names_what_is_wrong(void **state)
{
	static const char *const missing[] = { "uffd", "move", "pagemap_scan" };
	struct bed *bed;
	int r;

	r = bed_try(0, "/nonexistent/overbook-swap", &bed);
	assert_true(r < 0);
	assert_null(bed->engine);
	assert_non_null(strstr(bed->err.text, "/nonexistent/overbook-swap"));
	bed_free(bed);
	r = bed_try(0, "/proc", &bed); /* there, but nothing can be made in it */
	assert_true(r < 0);
	assert_true(strlen(bed->err.text) > 0);
	bed_free(bed);
	r = bed_try(OB_LIMIT_MIN - 1, NULL, &bed);
	assert_int_equal(r, -EINVAL);
	bed_free(bed);
	for (size_t i = 0; i < OB_ARRAY_LEN(missing); i++) {
		setenv("OVERBOOK_PRETEND_WITHOUT", missing[i], 1);
		r = bed_try(0, NULL, &bed);
		unsetenv("OVERBOOK_PRETEND_WITHOUT");
		assert_true(r == -ENOSYS || r == -EPERM);
		assert_null(bed->engine);
		assert_true(strlen(bed->err.text) > 0);
		bed_free(bed);
	}
	bed = bed_new(0, 1);
	bed_free(bed);
	ob_engine_destroy(NULL);
}

static void regions_are_checked(void **state)
{
	struct bed *bed = bed_new(0, 0);
	struct ram *ram = ram_new(8 * MIB_PAGES, 1);
	struct ob_engine *engine = bed->engine;
	size_t length = 8 * OB_MIB;

	assert_int_equal(ob_engine_add_region(engine, ram->base + 100, OB_MIB, NULL), -EINVAL);
	assert_int_equal(ob_engine_add_region(engine, ram->base, OB_MIB + 1, NULL), -EINVAL);
	assert_int_equal(ob_engine_add_region(engine, ram->base, 0, NULL), -EINVAL);
	assert_int_equal(ob_engine_add_region(engine, (void *)(UINTPTR_MAX & ~4095ull), 2 * OB_MIB, NULL), -EINVAL);
	assert_false(ob_engine_covers(engine, ram->base, 1));
	bed_assert_ok(bed, ob_engine_add_region(engine, ram->base, length, &bed->err));
	assert_int_equal(ob_engine_add_region(engine, ram->base, length, NULL), -EINVAL);
	assert_int_equal(ob_engine_add_region(engine, ram->base + OB_MIB, OB_MIB, NULL), -EINVAL);
	assert_int_equal(ob_engine_add_region(engine, ram->base - OB_MIB, 2 * OB_MIB, NULL), -EINVAL);
	assert_int_equal(bed_stats(bed).ram_bytes, length);
	assert_true(ob_engine_covers(engine, ram->base, 1));
	assert_true(ob_engine_covers(engine, ram->base + length - 1, 1));
	assert_true(ob_engine_covers(engine, ram->base - 100, 101));
	assert_true(ob_engine_covers(engine, ram->base - 100, length + 200));
	assert_false(ob_engine_covers(engine, ram->base - 100, 100));
	assert_false(ob_engine_covers(engine, ram->base + length, 4096));
	assert_false(ob_engine_covers(engine, ram->base + length / 2, 0));
	assert_false(ob_engine_covers(engine, (void *)UINTPTR_MAX, 1));
	assert_int_equal(ob_engine_remove_region(engine, ram->base + 4096), -ENOENT);
	assert_int_equal(ob_engine_remove_region(engine, ram->base), 0);
	assert_int_equal(ob_engine_remove_region(engine, ram->base), -ENOENT);
	assert_false(ob_engine_covers(engine, ram->base, 1));
	assert_int_equal(bed_stats(bed).ram_bytes, 0);
	bed_free(bed);
	ram_free(ram);
}

static void there_is_room_for_so_many_regions(void **state)
{
	struct bed *bed = bed_new(0, 0);
	struct ram *ram = ram_new((OB_REGIONS_MAX + 1) * 2 * OB_CHUNK_PAGES, 2);
	struct ob_engine_range ranges[4 * OB_REGIONS_MAX + 16];
	uint8_t *one_more = ram->base + OB_REGIONS_MAX * 2 * OB_CHUNK_SIZE;
	unsigned count, of_ram = 0;

	for (uint8_t *base = ram->base; base < one_more; base += 2 * OB_CHUNK_SIZE)
		bed_assert_ok(bed, ob_engine_add_region(bed->engine, base, OB_CHUNK_SIZE, &bed->err));
	assert_int_equal(ob_engine_add_region(bed->engine, one_more, OB_CHUNK_SIZE, NULL), -ENOSPC);
	count = ob_engine_get_ranges(bed->engine, ranges, OB_ARRAY_LEN(ranges));
	assert_true(count <= OB_ARRAY_LEN(ranges));
	for (unsigned i = 0; i < count; i++) {
		assert_true(ranges[i].start < ranges[i].end);
		of_ram += ranges[i].kind == OB_ENGINE_RAM;
	}
	assert_int_equal(of_ram, OB_REGIONS_MAX);
	assert_int_equal(ob_engine_get_ranges(bed->engine, ranges, 1), count);
	assert_int_equal(ob_engine_get_ranges(bed->engine, NULL, 0), count);
	assert_int_equal(ob_engine_remove_region(bed->engine, ram->base), 0);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, one_more, OB_CHUNK_SIZE, &bed->err));
	bed_free(bed);
	ram_free(ram);
}

static void squeeze(struct bed *bed, uint64_t limit)
{
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limit));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
}

static void discards_are_zeros_in_every_state(void **state)
{
	struct bed *bed = bed_new(0, 1);
	struct ram *ram = ram_new(64 * MIB_PAGES, 3);
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 64 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_ANY);
	squeeze(bed, 16 * OB_MIB);
	for (uint32_t page = 0; page + 8 < ram->pages; page += 64)
		bed_assert_ok(bed, ram_discard(ram, bed->engine, page, 8));
	stats = bed_stats(bed);
	assert_int_equal(stats.ballooned_bytes, ram->pages / 64 * 8 * OB_PAGE_SIZE);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_assert_ok(bed, ram_discard(ram, bed->engine, 0, ram->pages));
	bed_assert_ok(bed, ram_discard(ram, bed->engine, 0, ram->pages)); /* again: QEMU's discards are two calls each */
	stats = bed_stats(bed);
	assert_int_equal(stats.swapped_bytes + stats.compressed_bytes + stats.benched_bytes + stats.resident_bytes, 0);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
	bed_assert_ok(bed, ram_check_all(ram));
	ram_write_all(ram, PATTERN_ANY);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

static void discards_outside_are_refused(void **state)
{
	struct bed *bed = bed_new(0, 0);
	struct ram *ram = ram_new(8 * MIB_PAGES, 4);

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 4 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_ANY);
	assert_true(ob_engine_discard(bed->engine, ram->base + 4 * OB_MIB, OB_MIB) < 0);
	assert_true(ob_engine_discard(bed->engine, ram->base + 100, OB_PAGE_SIZE) < 0);
	assert_true(ob_engine_discard(bed->engine, ram->base, 100) < 0);
	assert_true(ob_engine_discard(bed->engine, (void *)(UINTPTR_MAX & ~4095ull), 3 * OB_PAGE_SIZE) < 0);
	assert_int_equal(ob_engine_discard(bed->engine, ram->base, 0), 0);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

/* Marks are for buffers anywhere: outside of regions, across their ends, nested. */
static void marks_are_harmless_anywhere(void **state)
{
	struct bed *bed = bed_new(16 * OB_MIB, 1);
	struct ram *ram = ram_new(32 * MIB_PAGES, 5);
	char own[64];
	uint32_t held = 3000;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 32 * OB_MIB, &bed->err));
	ob_engine_io_begin(bed->engine, own, sizeof(own));
	ob_engine_io_begin(bed->engine, ram->base - 4096, 32 * OB_MIB + 8192);
	ob_engine_io_end(bed->engine, ram->base - 4096, 32 * OB_MIB + 8192);
	ob_engine_io_begin(bed->engine, (void *)(UINTPTR_MAX - 10), 5);
	ob_engine_io_end(bed->engine, (void *)(UINTPTR_MAX - 10), 5);
	ob_engine_io_begin(bed->engine, ram->base, 0);
	ob_engine_io_end(bed->engine, ram->base, 0);
	ob_engine_io_end(bed->engine, own, sizeof(own));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	/* Under a nested mark a page stays where it is; the rest of memory goes on. */
	ob_engine_io_begin(bed->engine, ram_page(ram, held), 10 * OB_PAGE_SIZE);
	ob_engine_io_begin(bed->engine, ram_page(ram, held), OB_PAGE_SIZE);
	ob_engine_io_end(bed->engine, ram_page(ram, held), OB_PAGE_SIZE);
	for (uint32_t page = held; page < held + 10; page++)
		ram_write(ram, page, PATTERN_INCOMPRESSIBLE, 0);
	for (uint32_t page = 0; page < 2000; page++)
		ram_write(ram, page, PATTERN_INCOMPRESSIBLE, 0);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	for (uint32_t page = held; page < held + 10; page++) {
		unsigned char there = 0;

		assert_int_equal(mincore(ram_page(ram, page), OB_PAGE_SIZE, &there), 0);
		assert_true(there & 1);
	}
	ob_engine_io_end(bed->engine, ram_page(ram, held), 10 * OB_PAGE_SIZE);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

/* A region that is not a multiple of 2 MiB, nor starts at one: ROMs and odd -m sizes are like that. */
static void odd_regions_work(void **state)
{
	struct bed *bed = bed_new(16 * OB_MIB, 1);
	struct ram *ram = ram_new(40 * MIB_PAGES, 6);
	uint8_t *base = ram->base + 3 * OB_PAGE_SIZE;
	size_t length = 40 * OB_MIB - 8 * OB_PAGE_SIZE;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, base, length, &bed->err));
	assert_int_equal(bed_stats(bed).ram_bytes, length);
	for (int round = 0; round < 3; round++) {
		ram_write_all(ram, PATTERN_ANY);
		bed_assert_ok(bed, ram_discard(ram, bed->engine, 3, 300));
		bed_assert_ok(bed, ram_discard(ram, bed->engine, ram->pages - 5 - 20, 20));
		bed_assert_ok(bed, ram_check_all(ram));
	}
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

static unsigned count_entries(const char *dir)
{
	DIR *list = opendir(dir);
	unsigned count = 0;

	assert_non_null(list);
	while (readdir(list))
		count++;
	closedir(list);
	return count - 2; /* . and .. */
}

static void the_store_leaves_nothing_behind(void **state)
{
	char dir[512];
	struct bed *bed;
	struct ram *ram = ram_new(32 * MIB_PAGES, 7);

	snprintf(dir, sizeof(dir), "%s/overbook-test-swap.XXXXXX", bed_dir());
	assert_non_null(mkdtemp(dir));
	bed_assert_ok(NULL, bed_try(16 * OB_MIB, dir, &bed));
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 32 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_true(bed_stats(bed).swapped_bytes > 0);
	assert_int_equal(count_entries(dir), 0); /* unlinked, even while it is in use */
	bed_free(bed);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(ram_check_all(ram), 0);
	ram_free(ram);
}

/* Without a store incompressible memory has nowhere to go: the limit is exceeded, and it says so. */
static int time_above_the_limit_counts(void *context)
{
	return bed_stats(context).over_limit_ns > 0;
}

static void without_a_store_the_limit_gives_way_visibly(void **state)
{
	struct bed *bed = bed_new(16 * OB_MIB, 0);
	struct ram *ram = ram_new(48 * MIB_PAGES, 8);
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 48 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	bed_assert_ok(bed, ram_check_all(ram));
	stats = bed_stats(bed);
	assert_true(stats.over_limit_bytes > 20 * OB_MIB);
	assert_true(stats.cost_bytes >= stats.limit_bytes + 20 * OB_MIB);
	bed_assert_ok(bed, account_wait(time_above_the_limit_counts, bed, HANG_MS));
	bed_free(bed);
	ram_free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_limit_below_the_least_is_refused),
		cmocka_unit_test(create_names_what_is_wrong),
		cmocka_unit_test(regions_are_checked),
		cmocka_unit_test(there_is_room_for_so_many_regions),
		cmocka_unit_test(discards_are_zeros_in_every_state),
		cmocka_unit_test(discards_outside_are_refused),
		cmocka_unit_test(marks_are_harmless_anywhere),
		cmocka_unit_test(odd_regions_work),
		cmocka_unit_test(the_store_leaves_nothing_behind),
		cmocka_unit_test(without_a_store_the_limit_gives_way_visibly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
