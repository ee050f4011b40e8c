/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages in use are offered and shared where they would be mapped (engine/offers.c, and take_used() in share.c). */
#include "bed.h"

#include <errno.h>

#include "base/fault.h"
#include "engine/content.h"
#include "engine/internal.h"
#include "share_bed.h"

#define LAST (RAMS - 1) /* the region that was written last: some of it is in place */

static int set_up_with_store(void **state)
{
	bed_map_shared = 1;
	share_make(16 * OB_MIB, 1, 0);
	share_write_all(PATTERN_INCOMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	return 0;
}

/* The first page of a region from `from` on that is in a state. */
static uint32_t find_in(unsigned which, enum ob_page_state wanted, uint32_t from)
{
	uint32_t page = from;

	pthread_rwlock_rdlock(&bed->engine->regions_lock);
	while (page < RAM_PAGES && ob_page_state(bed->engine->region[which].words[page]) != wanted)
		page++;
	pthread_rwlock_unlock(&bed->engine->regions_lock);
	assert_true(page < RAM_PAGES);
	return page;
}

/* Takes all offers. Returns how many of them are of a page, as one that is in use. */
static unsigned offered_as_used(unsigned which, uint32_t page)
{
	struct ob_share_offer offers[256];
	unsigned n, found = 0;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			found += offers[i].page == keeper_page(which, page) && offers[i].class == OB_SHARE_USED;
	return found;
}

/* What a read brings back is offered as used; what a write does, is not. */
static void what_is_read_is_offered_as_used(void **state)
{
	unsigned read[2] = { 0 }, written = 0; /* of those that were benched, and swapped */

	for (unsigned i = 0; i < 16; i++) {
		uint32_t page;

		(void)offered_as_used(0, 0);
		page = find_in(LAST, i % 2 ? OB_PAGE_SWAPPED : OB_PAGE_BENCHED, 0);
		bed_assert_ok(bed, ram_check(ram[LAST], page));
		share_settle();
		read[i % 2] += offered_as_used(LAST, page);
		page = find_in(LAST, i % 2 ? OB_PAGE_SWAPPED : OB_PAGE_BENCHED, 0);
		ram_write(ram[LAST], page, PATTERN_INCOMPRESSIBLE, 0);
		share_settle();
		written += offered_as_used(LAST, page);
	}
	/* The reclaimer may have been faster with a page that was benched. */
	assert_true(read[0] >= 4 && read[1] >= 4);
	assert_int_equal(written, 0);
}

/* A page that is in place adopts a slot at once, if it would be mapped when it is read; if its bytes are others it stays what it is. */
static void what_is_in_use_is_taken_in_place(void **state)
{
	uint32_t page = find_in(LAST, OB_PAGE_RESIDENT, 0), other = find_in(LAST, OB_PAGE_RESIDENT, page + 1), index;
	uint8_t bytes[PATTERN_PAGE];
	struct ob_hash hash;
	int extent;

	hash = share_hash(LAST, page);
	assert_int_equal(ob_engine_share_fetch(bed->engine, keeper_page(LAST, page), hash.low, hash.high, bytes), 0);
	assert_int_equal(find_in(LAST, OB_PAGE_BENCHED, page), page);
	bed_assert_ok(bed, ram_check(ram[LAST], page));
	assert_int_equal(find_in(LAST, OB_PAGE_RESIDENT, page), page);
	extent = keeper_put(&keeper, bytes, &index);
	assert_true(extent >= 0);
	assert_int_equal(keeper_adopt(&keeper, keeper_page(LAST, other), (uint32_t)extent, index), -ESTALE);
	bed_assert_ok(bed, ram_check(ram[LAST], other));
	assert_int_equal(keeper_adopt(&keeper, keeper_page(LAST, page), (uint32_t)extent, index), 0);
	assert_int_equal(bed_stats(bed).mapped_bytes / OB_PAGE_SIZE, 0);
	bed_assert_ok(bed, ram_check(ram[LAST], page));
	share_settle();
	assert_int_equal(bed_stats(bed).mapped_bytes / OB_PAGE_SIZE, 1);
	share_check_all();
	share_write_all(PATTERN_ANY);
	share_check_all();
	share_assert_holds();
}

/* I/O begins while one page of a list is lifted: all of its chunk goes back, also what was about to be given up. */
static void what_goes_back_is_not_given_up(void **state)
{
	uint32_t first = find_in(LAST, OB_PAGE_RESIDENT, 0), second = first + 16;
	struct ob_share_adoption items[2] = { { .page = keeper_page(LAST, first) }, { .page = keeper_page(LAST, second) } };
	uint8_t bytes[PATTERN_PAGE];
	struct ob_hash hash;

	while (first / OB_CHUNK_PAGES != second / OB_CHUNK_PAGES || find_in(LAST, OB_PAGE_RESIDENT, second) != second) {
		first = find_in(LAST, OB_PAGE_RESIDENT, first + 1);
		second = first + 16;
	}
	items[0].page = keeper_page(LAST, first);
	items[1].page = keeper_page(LAST, second);
	for (unsigned i = 2; i-- > 0;) {
		hash = share_hash(LAST, i ? second : first);
		assert_int_equal(ob_engine_share_fetch(bed->engine, items[i].page, hash.low, hash.high, bytes), 0);
		items[i].extent = keeper.extent[keeper_put(&keeper, bytes, &items[i].index)].id;
		if (i)
			bed_assert_ok(bed, ram_check(ram[LAST], second));
	}
	assert_int_equal(find_in(LAST, OB_PAGE_BENCHED, first), first);
	assert_int_equal(find_in(LAST, OB_PAGE_RESIDENT, second), second);
	assert_int_equal(ob_fault_configure("lift_io:1:EBUSY", NULL), 0);
	keeper_adopt_all(&keeper, items, 2);
	assert_int_equal(ob_fault_fired(OB_FP_lift_io), 1);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(items[0].result, -ESTALE);
	assert_int_equal(items[1].result, -ESTALE);
	assert_int_equal(find_in(LAST, OB_PAGE_RESIDENT, first), first);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	share_check_all();
	share_assert_holds();
}

static int tear_down(void **state)
{
	bed_map_shared = 0;
	return share_tear_down(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_read_is_offered_as_used, set_up_with_store, tear_down),
		cmocka_unit_test_setup_teardown(what_is_in_use_is_taken_in_place, set_up_with_store, tear_down),
		cmocka_unit_test_setup_teardown(what_goes_back_is_not_given_up, set_up_with_store, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
