/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sharing, with a test that plays overbookd (keeper.h): equal pages share one slot and come back right, others never do,
 * whatever is claimed; every hold is counted, and told once when it ends.
 */
#include "bed.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "account.h"
#include "base/fault.h"
#include "engine/content.h"
#include "player.h"
#include "share_bed.h"

static int set_up(void **state)
{
	share_make(16 * OB_MIB, 0, 0);
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	return 0;
}

static int set_up_without_limit(void **state)
{
	share_make(0, 0, 0);
	return 0;
}

static void expected_bytes(unsigned which, uint32_t page, uint8_t bytes[PATTERN_PAGE])
{
	pattern_fill(bytes, &ram[which]->expected[page]);
}

/* The first page from `page` on that is away, without a touch. */
static uint32_t find_away(unsigned which, uint32_t page)
{
	uint8_t bytes[PATTERN_PAGE];

	while (page < RAM_PAGES && share_fetch(which, page, bytes) < 0)
		page++;
	assert_true(page < RAM_PAGES);
	return page;
}

static void equal_pages_share_and_come_back_right(void **state)
{
	struct ob_stats before = bed_stats(bed), after;
	uint64_t shared = share_equals();

	after = bed_stats(bed);
	print_message("# %llu pages shared; cost %.1f MiB before, %.1f after\n", (unsigned long long)shared,
		      (double)before.cost_bytes / OB_MIB, (double)after.cost_bytes / OB_MIB);
	assert_true(shared > RAM_PAGES / 2);
	assert_int_equal(after.shared_bytes, shared * OB_PAGE_SIZE);
	assert_int_equal(after.share_adopted_pages, shared);
	assert_true(after.cost_bytes < before.cost_bytes - OB_MIB / 2);
	if (!BED_SANITIZED)
		assert_true(account_pss_bytes(bed->engine) <= (int64_t)after.cost_bytes);
	share_assert_holds();
	share_check_all();
	after = bed_stats(bed);
	assert_true(after.faults_shared > 0);
	assert_true(after.prefetched_pages > before.prefetched_pages);
	share_assert_holds();
	/* The memory is the engine's own again, and written like any other. */
	share_write_all(PATTERN_ANY);
	share_check_all();
	share_assert_holds();
}

static void runs_of_slots_come_back_together(void **state)
{
	struct ob_stats before, after;
	uint64_t shared = share_equals();

	before = bed_stats(bed);
	bed_assert_ok(bed, ram_check_all(ram[0]));
	share_settle();
	after = bed_stats(bed);
	print_message("# %llu shared pages of both: %llu faults for %llu pages\n", (unsigned long long)shared,
		      (unsigned long long)(after.faults_shared - before.faults_shared),
		      (unsigned long long)(after.share_dropped_pages - before.share_dropped_pages));
	assert_true(after.share_dropped_pages - before.share_dropped_pages >= 4 * (after.faults_shared - before.faults_shared));
	share_assert_holds();
}

static void pages_one_bit_apart_never_share(void **state)
{
	static const unsigned bits[] = { 0, 1, 7, 8, 4095, 16384, 20000, 32759, 32760, 32767 };
	uint8_t bytes[PATTERN_PAGE], away[PATTERN_PAGE];
	uint32_t page = 0, index;

	for (unsigned i = 0; i < 200; i++, page++) {
		unsigned bit = i < OB_ARRAY_LEN(bits) ? bits[i] : i * 163 % (8 * PATTERN_PAGE);
		int extent;

		page = find_away(0, page);
		expected_bytes(0, page, bytes);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		extent = keeper_put(&keeper, bytes, &index);
		assert_true(extent >= 0);
		assert_int_equal(keeper_adopt(&keeper, keeper_page(0, page), (uint32_t)extent, index), -ESTALE);
		bed_assert_ok(bed, share_fetch(0, page, away));
	}
	assert_int_equal(bed_stats(bed).share_refused_pages, 200);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	share_assert_holds();
	share_check_all();
}

static void what_is_no_candidate_is_refused(void **state)
{
	uint8_t bytes[PATTERN_PAGE];
	uint32_t away = find_away(0, 0), index;
	struct ob_hash hash;
	int extent;

	expected_bytes(0, away, bytes);
	extent = keeper_put(&keeper, bytes, &index);
	assert_true(extent >= 0);
	hash = share_hash(0, away);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(0, away), hash.low ^ 1, hash.high, bytes), -ESTALE);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(0, away), hash.low, hash.high ^ 1, bytes), -ESTALE);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(2, 0), hash.low, hash.high, bytes), -ENOENT);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(OB_REGIONS_MAX, 0), hash.low, hash.high, bytes), -ENOENT);
	assert_int_equal(ob_engine_share_fetch(bed->engine, UINT64_MAX, hash.low, hash.high, bytes), -ENOENT);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(0, RAM_PAGES), hash.low, hash.high, bytes), -ENOENT);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, RAM_PAGES), (uint32_t)extent, index), -ENOENT);
	assert_int_equal(keeper_adopt(&keeper, UINT64_MAX, (uint32_t)extent, index), -ENOENT);
	assert_int_equal(ob_engine_share_adopt(bed->engine, keeper_page(0, away), 12345, 0), -ENOENT);
	assert_int_equal(ob_engine_share_adopt(bed->engine, keeper_page(0, away), 0, 0), -ENOENT);
	assert_int_equal(ob_engine_share_adopt(bed->engine, keeper_page(0, away), keeper.extent[extent].id, 1024), -ENOENT);
	/* In use: not even looked at. */
	bed_assert_ok(bed, ram_check(ram[0], away));
	assert_int_equal(share_fetch(0, away, bytes), -ENOENT);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, away), (uint32_t)extent, index), -ESTALE);
	share_assert_holds();
}

/* While a system call of the host is on the chunk's memory, its pages stay what they are. */
static void nothing_is_adopted_during_io(void **state)
{
	uint8_t bytes[PATTERN_PAGE];
	uint32_t away = find_away(0, 0), index;
	int extent;

	expected_bytes(0, away, bytes);
	extent = keeper_put(&keeper, bytes, &index);
	assert_true(extent >= 0);
	ob_engine_io_begin(bed->engine, ram_page(ram[0], away), 1);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, away), (uint32_t)extent, index), -ESTALE);
	ob_engine_io_end(bed->engine, ram_page(ram[0], away), 1);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, away), (uint32_t)extent, index), 0);
	share_assert_holds();
	share_check_all();
}

/* Shares one page that is away, by itself. */
static uint32_t share_one(uint32_t from, uint32_t *ret_extent, uint32_t *ret_index)
{
	uint8_t bytes[PATTERN_PAGE];
	uint32_t page = find_away(0, from);
	int extent;

	expected_bytes(0, page, bytes);
	extent = keeper_put(&keeper, bytes, ret_index);
	assert_true(extent >= 0);
	*ret_extent = (uint32_t)extent;
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, page), *ret_extent, *ret_index), 0);
	return page;
}

static void an_extent_goes_when_nothing_of_it_is_held(void **state)
{
	struct ob_share_drop drop;
	struct ob_share_held list;
	uint32_t extent, index, page = share_one(0, &extent, &index);
	uint64_t id = keeper.extent[extent].id;

	assert_int_equal(ob_engine_share_drop_extent(bed->engine, 77), -ENOENT);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, 0), -ENOENT);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, id), -EBUSY);
	assert_int_equal(ob_engine_share_held(bed->engine, &list, 1), 1);
	assert_int_equal(list.extent, id);
	assert_int_equal(list.held, 1);
	assert_int_equal(ob_engine_share_held(bed->engine, NULL, 0), 1);
	bed_assert_ok(bed, ram_check(ram[0], page));
	share_settle();
	assert_int_equal(ob_engine_share_held(bed->engine, &list, 1), 0);
	/* Let go, but overbookd has not been told. */
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, id), -EBUSY);
	assert_int_equal(ob_engine_share_drops(bed->engine, &drop, 1), 1);
	assert_int_equal(drop.extent, id);
	assert_int_equal(drop.index, index);
	assert_int_equal(drop.count, 1);
	assert_int_equal(ob_engine_share_drops(bed->engine, &drop, 1), 0);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, id), 0);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, id), -ENOENT);
	assert_int_equal(ob_engine_share_adopt(bed->engine, keeper_page(0, page), id, index), -ENOENT);
}

/* However often a slot is let go of before somebody asks, each time counts. */
static void drops_are_summed_for_each_slot(void **state)
{
	struct ob_share_drop drops[4];
	uint32_t extent, index, pages[3];
	uint64_t adopted = 0;

	for (unsigned round = 0; round < 3; round++) {
		pages[round] = share_one(round ? pages[round - 1] + 40 : 0, &extent, &index);
		/* The same page again, from where it is. */
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(keeper_adopt(&keeper, keeper_page(0, pages[round]), extent, index), 0);
		adopted += 6;
	}
	assert_int_equal(bed_stats(bed).share_adopted_pages, adopted);
	assert_int_equal(bed_stats(bed).shared_bytes, 3 * OB_PAGE_SIZE);
	assert_int_equal(ob_engine_share_drops(bed->engine, drops, 2), 2);
	assert_int_equal(drops[0].count, 5);
	assert_int_equal(drops[1].count, 5);
	assert_int_equal(ob_engine_share_drops(bed->engine, drops, 4), 1);
	assert_int_equal(drops[0].count, 5);
	assert_int_equal(share_held(), 3);
	share_check_all();
	share_settle();
	assert_int_equal(ob_engine_share_drops(bed->engine, drops, 4), 3);
	assert_int_equal(share_held(), 0);
}

/* What was taken is told to nobody any more, what was not taken is counted as held; the words do not matter. */
static void what_must_be_counted_can_be_asked_for(void **state)
{
	struct ob_share_drop counts[4], drop;
	uint32_t extent, first, second, position = 0, page = share_one(0, &extent, &first), other;
	uint64_t id = keeper.extent[extent].id;

	other = share_one(page + 1, &extent, &second);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(keeper_adopt(&keeper, keeper_page(0, page), extent, first), 0);
	/* Refused: never counted. */
	assert_int_equal(ob_engine_share_adopt(bed->engine, keeper_page(0, page), id, second), -ESTALE);
	/* One at a time. */
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts, 1), 1);
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts + 1, 3), 1);
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts + 2, 2), 0);
	assert_int_equal(counts[0].extent, id);
	assert_int_equal(counts[0].index, first);
	assert_int_equal(counts[0].count, 6);
	assert_int_equal(counts[1].index, second);
	assert_int_equal(counts[1].count, 1);
	/* A touch in the middle of it changes nothing. */
	position = 0;
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts, 1), 1);
	bed_assert_ok(bed, ram_check(ram[0], page));
	bed_assert_ok(bed, ram_check(ram[0], other));
	share_settle();
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts + 1, 3), 1);
	assert_int_equal(counts[0].count + counts[1].count, 7);
	/* What is taken is. */
	assert_int_equal(ob_engine_share_drops(bed->engine, &drop, 1), 1);
	assert_int_equal(drop.index, first);
	assert_int_equal(drop.count, 6);
	position = 0;
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts, 4), 1);
	assert_int_equal(counts[0].index, second);
	assert_int_equal(ob_engine_share_drops(bed->engine, &drop, 1), 1);
	position = 0;
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, counts, 4), 0);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, id), 0);
}

/* A new overbookd: its store has the page again, and the word moves to the new slot. */
static void a_page_can_be_moved_to_another_slot(void **state)
{
	uint8_t bytes[PATTERN_PAGE];
	uint32_t extent, index, second, page = share_one(0, &extent, &index);
	int other;

	bed_assert_ok(bed, share_fetch(0, page, bytes));
	other = keeper_put(&keeper, bytes, &second);
	assert_true(other >= 0);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, page), (uint32_t)other, second), 0);
	assert_int_equal(keeper_take_drops(&keeper), 1);
	assert_int_equal(keeper.extent[extent].refs[index], 0);
	assert_int_equal(keeper.extent[other].refs[second], 1);
	/* The old slot holds something else by now: the page is refused, and stays where it is. */
	memset(bytes, 1, sizeof(bytes));
	other = keeper_put(&keeper, bytes, &index);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(0, page), (uint32_t)other, index), -ESTALE);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

static void discards_let_go(void **state)
{
	uint64_t shared = share_equals();
	struct ob_stats stats;

	for (uint32_t page = 0; page < RAM_PAGES; page += 512) {
		ram_lock_range(ram[0], page, 300);
		bed_assert_ok(bed, ram_discard(ram[0], bed->engine, page, 300));
		ram_unlock_range(ram[0], page, 300);
	}
	stats = bed_stats(bed);
	assert_true(stats.shared_bytes < shared * OB_PAGE_SIZE * 3 / 4);
	assert_true(stats.shared_bytes > 0);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

static void a_region_that_goes_lets_go(void **state)
{
	uint64_t shared = share_equals();

	bed_assert_ok(bed, ob_engine_remove_region(bed->engine, ram[1]->base));
	assert_true(bed_stats(bed).shared_bytes > 0);
	assert_true(bed_stats(bed).shared_bytes <= shared / 2 * OB_PAGE_SIZE);
	share_assert_holds();
	bed_assert_ok(bed, ram_check_all(ram[0]));
	share_assert_holds();
}

static void release_brings_shared_pages_back(void **state)
{
	struct account_mapping mapping;

	assert_true(share_equals() > 0);
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(share_held(), 0);
	bed_assert_ok(bed, account_mapping(ram[0]->base, RAM_MIB * OB_MIB, &mapping));
	assert_false(mapping.is_registered);
	share_assert_cost();
	share_check_all();
	share_assert_holds();
	keeper_serve(&keeper);
	assert_true(keeper.extents_dropped > 0);
}

static void see_progress(void *context, uint64_t done, uint64_t total)
{
	uint64_t *last = context;

	assert_true(done >= *last && done <= total);
	*last = done;
}

static void unsharing_keeps_the_limit(void **state)
{
	uint64_t last = 0;
	struct ob_stats stats;

	assert_true(share_equals() > 0);
	bed_assert_ok(bed, ob_engine_unshare(bed->engine, see_progress, &last, &bed->err));
	assert_int_equal(last, RAMS * RAM_PAGES);
	stats = bed_stats(bed);
	assert_int_equal(stats.shared_bytes, 0);
	assert_int_equal(stats.limit_bytes, 16 * OB_MIB);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	share_check_all();
	share_assert_holds();
}

static void the_table_of_extents_is_bounded(void **state)
{
	uint32_t extent, index, page = share_one(0, &extent, &index);
	char *mapping = mmap(NULL, 4097 * OB_PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t tables = bed_stats(bed).tables_bytes;

	assert_true(mapping != MAP_FAILED);
	assert_int_equal(ob_engine_share_extent(bed->engine, 0, mapping, 1), -EINVAL);
	assert_int_equal(ob_engine_share_extent(bed->engine, 5, mapping, 0), -EINVAL);
	assert_int_equal(ob_engine_share_extent(bed->engine, 5, mapping, 4097), -EINVAL);
	for (unsigned i = 0; i < 4095; i++)
		bed_assert_ok(bed, ob_engine_share_extent(bed->engine, 1 + i, mapping + i * OB_PAGE_SIZE, 1));
	assert_int_equal(ob_engine_share_extent(bed->engine, 5000, mapping + 4095 * OB_PAGE_SIZE, 1), -ENOSPC);
	assert_int_equal(ob_engine_share_extent(bed->engine, 17, mapping + 4095 * OB_PAGE_SIZE, 1), -EEXIST);
	assert_true(bed_stats(bed).tables_bytes - tables <= 4096 * 36 * OB_KIB);
	/* One that is dropped makes room for another. */
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, 17), 0);
	assert_int_equal(ob_engine_share_extent(bed->engine, 5000, mapping + 4095 * OB_PAGE_SIZE, 1), 0);
	bed_assert_ok(bed, ram_check(ram[0], page));
	share_check_all();
}

/* What the kernel may refuse on the way: there is no hold, and the page stays what it was. */
static void an_adoption_that_fails_changes_nothing(void **state)
{
	uint8_t bytes[PATTERN_PAGE];
	struct ob_stats stats;
	unsigned failed = 0;

	assert_int_equal(ob_fault_configure("madvise:1+:ENOMEM", NULL), 0);
	for (uint32_t i = 0; i < RAMS * RAM_PAGES; i++) {
		unsigned which = i / RAM_PAGES;
		uint32_t page = i % RAM_PAGES, index;
		int extent, r;

		if (share_fetch(which, page, bytes) < 0)
			continue;
		extent = keeper_put(&keeper, bytes, &index);
		assert_true(extent >= 0);
		r = keeper_adopt(&keeper, keeper_page(which, page), (uint32_t)extent, index);
		assert_true(r == 0 || r == -ENOMEM);
		failed += r < 0;
	}
	assert_true(failed > 0); /* those on the bench */
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	stats = bed_stats(bed);
	assert_true(stats.shared_bytes > 0);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

/* Items of a list, of which some cannot be adopted, and some come twice. Returns how many there are. */
static unsigned make_list(struct ob_share_adoption *items, int *expected, unsigned max)
{
	uint8_t bytes[PATTERN_PAGE];
	uint32_t index, before = 0;
	unsigned n = 0;

	for (uint32_t i = 0; i < RAMS * RAM_PAGES && n + 2 <= max; i++) {
		uint32_t page = i % RAM_PAGES;
		unsigned which = i / RAM_PAGES;
		int extent;

		if (share_fetch(which, page, bytes) < 0)
			continue;
		extent = keeper_put(&keeper, bytes, &index);
		assert_true(extent >= 0);
		items[n] = (struct ob_share_adoption){ keeper_page(which, page), keeper.extent[extent].id, index, 1 };
		expected[n] = 0;
		if (page % 7 == 3 && index) {
			items[n].index = before; /* the slot of another */
			expected[n] = -ESTALE;
		} else if (page % 11 == 3) {
			items[n].extent = 12345;
			expected[n] = -ENOENT;
		} else if (page % 13 == 3) {
			items[n + 1] = items[n];
			expected[++n] = 0;
		}
		before = index;
		n++;
	}
	return n;
}

static void a_list_is_adopted_like_its_pages(void **state)
{
	enum { MOST = 2 * RAMS * RAM_PAGES };
	static struct ob_share_adoption items[MOST];
	static int expected[MOST];
	unsigned n = make_list(items, expected, MOST), results[3] = { 0 };

	assert_true(n > 200);
	/* The kernel refuses every second call: what it has not done is not adopted, and can be later. */
	assert_int_equal(ob_fault_configure("madvise:/2:ENOMEM", NULL), 0);
	for (unsigned round = 0; round < 2; round++) {
		keeper_adopt_all(&keeper, items, n);
		for (unsigned i = 0; i < n; i++) {
			assert_true(items[i].result == expected[i] || (!round && !expected[i] && items[i].result == -ENOMEM));
			results[items[i].result == 0 ? 0 : items[i].result == -ENOMEM ? 1 : 2]++;
		}
		assert_int_equal(ob_fault_configure(NULL, NULL), 0);
		share_assert_holds();
	}
	print_message("# of %u: %u adopted in two rounds, %u times no memory, %u wrong\n", n, results[0], results[1], results[2]);
	assert_true(results[1] > 0 && results[2] > 0);
	share_check_all();
	share_assert_holds();
}

static void a_fault_that_fails_is_tried_again(void **state)
{
	assert_true(share_equals() > 0);
	assert_int_equal(ob_fault_configure("uffd_copy:/3:ENOMEM", NULL), 0);
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page += 256)
			bed_assert_ok(bed, ram_check(ram[i], page));
	assert_true(ob_fault_fired(OB_FP_uffd_copy) > 0);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	share_check_all();
	share_assert_holds();
}

static void a_wrong_bit_on_the_way_back_is_seen(void **state)
{
	uint8_t seen[PATTERN_PAGE], bytes[PATTERN_PAGE];
	uint32_t extent, index, page = share_one(0, &extent, &index);

	assert_int_equal(ob_fault_configure("page_return:1:flip", NULL), 0);
	memcpy(seen, ram_page(ram[0], page), PATTERN_PAGE);
	share_settle();
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	expected_bytes(0, page, bytes);
	assert_memory_not_equal(seen, bytes, PATTERN_PAGE);
	/* The canonical page is as it was. */
	assert_memory_equal(keeper.extent[extent].base + index * OB_PAGE_SIZE, bytes, PATTERN_PAGE);
	assert_int_equal(keeper_take_drops(&keeper), 1);
}

static void switching_on_can_fail(void **state)
{
	struct keeper other;
	uint32_t position = 0;

	keeper_end(&keeper);
	bed_free(bed);
	bed = bed_new(0, 0);
	assert_int_equal(ob_fault_configure("mmap:1:ENOMEM", NULL), 0);
	assert_int_equal(keeper_start(&other, bed->engine, 64, 0), -ENOMEM);
	keeper_end(&other);
	assert_int_equal(ob_engine_share_offers(bed->engine, NULL, 0), 0);
	assert_int_equal(ob_engine_share_drops(bed->engine, NULL, 0), 0);
	assert_int_equal(ob_engine_share_held(bed->engine, NULL, 0), 0);
	assert_int_equal(ob_engine_share_counts(bed->engine, &position, NULL, 0), 0);
	assert_int_equal(ob_engine_share_adopt(bed->engine, 0, 1, 0), -ENOENT);
	assert_int_equal(ob_engine_share_drop_extent(bed->engine, 1), -ENOENT);
	ob_engine_share_off(bed->engine);
	assert_int_equal(ob_fault_configure("thread_create:1:EAGAIN", NULL), 0);
	assert_int_equal(keeper_start(&other, bed->engine, 64, 100), -EAGAIN);
	keeper_end(&other);
	bed_assert_ok(bed, keeper_start(&keeper, bed->engine, 64, 100));
}

static void what_is_evicted_is_offered(void **state)
{
	struct ob_stats stats;
	uint64_t drained;

	assert_true(read(keeper.ready_fd, &drained, sizeof(drained)) < 0); /* nobody has anything to say */
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 16 * OB_MIB));
	ram_write_all(ram[0], PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_int_equal(read(keeper.ready_fd, &drained, sizeof(drained)), sizeof(drained));
	stats = bed_stats(bed);
	assert_true(stats.share_offered_pages >= stats.compressed_pages);
	assert_int_equal(keeper_serve(&keeper), 0);
	/* Those of the second region are equal to them. */
	bed_assert_ok(bed, keeper_run(&keeper));
	ram_write_all(ram[1], PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	stats = bed_stats(bed);
	print_message("# %llu pages offered, %llu adopted\n", (unsigned long long)stats.share_offered_pages,
		      (unsigned long long)stats.share_adopted_pages);
	assert_true(stats.share_adopted_pages > 1000);
	share_assert_holds();
	share_check_all();
	ob_engine_share_off(bed->engine);
	stats = bed_stats(bed);
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_true(bed_stats(bed).compressed_pages > stats.compressed_pages);
	assert_int_equal(bed_stats(bed).share_offered_pages, stats.share_offered_pages);
	share_assert_holds();
}

/* Players write, discard and check while everything that looks alike is shared, and some that does not is asked to be. */
static void adoptions_race_with_writers(void **state)
{
	uint64_t ops_each = bed_scale(20000, 60000, 1000000);
	struct crew_config config = { .engine = bed->engine, .rams = { ram[0], ram[1] }, .ram_count = RAMS, .players = 3,
				      .ops_each = ops_each, .seed = 11, .mix = CREW_EVERYTHING, .disk_dir = bed_dir() };
	struct ob_stats stats;
	struct crew *crew;

	keeper.lies = 1;
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 16 * OB_MIB));
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, page % 32);
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	stats = bed_stats(bed);
	print_message("# %llu pages offered, %llu adopted, %llu refused; %llu faults on shared pages; %llu extents dropped\n",
		      (unsigned long long)stats.share_offered_pages, (unsigned long long)stats.share_adopted_pages,
		      (unsigned long long)stats.share_refused_pages, (unsigned long long)stats.faults_shared,
		      (unsigned long long)keeper.extents_dropped);
	assert_true(stats.share_adopted_pages > 1000);
	assert_true(stats.share_refused_pages > 0);
	share_assert_holds();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(equal_pages_share_and_come_back_right, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(runs_of_slots_come_back_together, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(pages_one_bit_apart_never_share, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(what_is_no_candidate_is_refused, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(nothing_is_adopted_during_io, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(an_extent_goes_when_nothing_of_it_is_held, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(drops_are_summed_for_each_slot, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(what_must_be_counted_can_be_asked_for, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(a_page_can_be_moved_to_another_slot, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(discards_let_go, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(a_region_that_goes_lets_go, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(release_brings_shared_pages_back, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(unsharing_keeps_the_limit, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(the_table_of_extents_is_bounded, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(an_adoption_that_fails_changes_nothing, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(a_list_is_adopted_like_its_pages, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(a_fault_that_fails_is_tried_again, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(a_wrong_bit_on_the_way_back_is_seen, set_up, share_tear_down),
		cmocka_unit_test_setup_teardown(what_is_evicted_is_offered, set_up_without_limit, share_tear_down),
		cmocka_unit_test_setup_teardown(adoptions_race_with_writers, set_up_without_limit, share_tear_down),
		cmocka_unit_test_setup_teardown(switching_on_can_fail, set_up_without_limit, share_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
