/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Orphans: what is held of an overbookd that is gone is offered to the next one, and moves to its slots without being touched or lifted. */
#include "share_bed.h"

#include "account.h"
#include "engine/scan.h"

#define TWINS 8u /* in each chunk: too few to keep it in every round */

static int set_up_scanner(void **state)
{
	return share_make_scanner(SHARE_COLD_MS, 1000);
}

/* Nothing is scanned before the test says so. */
static int set_up_quick_scanner(void **state)
{
	return share_make_scanner(SHARE_COLD_MS / 4, 0);
}

static int old_extents_are_free(void *context)
{
	struct ob_share_held list[KEEPER_EXTENTS];
	unsigned n = ob_engine_share_held(bed->engine, list, KEEPER_EXTENTS);
	struct keeper *old = context;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < KEEPER_EXTENTS; k++)
			if (old->extent[k].id == list[i].extent)
				return 0;
	return 1;
}

/* Once nothing of it is held, and that has been told. */
static int extent_is_dropped(void *context)
{
	return ob_engine_share_drop_extent(bed->engine, *(const uint64_t *)context) == 0;
}

/* Most of what can be is shared, and overbookd is no more. Returns the bytes. */
static uint64_t share_twins_until_it_goes(void)
{
	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(share_most_is_shared, NULL, HANG_MS));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	return bed_stats(bed).shared_bytes;
}

/* overbookd is another one: it is offered the pages again, and they move to its slots without a touch. */
static void orphans_find_a_new_home(void **state)
{
	struct ob_stats stats;
	uint64_t shared;

	shared = share_twins_until_it_goes();
	share_succeed(512);
	bed_assert_ok(bed, keeper_run(&successor));
	bed_assert_ok(bed, account_wait(old_extents_are_free, &keeper, HANG_MS));
	stats = bed_stats(bed);
	assert_true(stats.shared_bytes >= shared);
	assert_int_equal(stats.faults_shared, 0);
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++)
		if (keeper.extent[i].id)
			bed_assert_ok(bed, account_wait(extent_is_dropped, &keeper.extent[i].id, HANG_MS));
	share_finish_successor();
}

struct leaving {
	unsigned char seen[RAMS][RAM_PAGES];
	unsigned pages, least; /* that are to leave their slots; how many are waited for */
	uint64_t round;         /* of the scanner's hand, that has begun by then */
};

static int some_leave(void *context)
{
	struct ob_share_offer offers[256];
	struct leaving *leaving = context;
	unsigned n;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++) {
			unsigned char *seen = &leaving->seen[offers[i].page >> OB_SHARE_REGION_SHIFT][offers[i].page % RAM_PAGES];

			leaving->pages += offers[i].class == OB_SHARE_ORPHAN && !*seen;
			*seen |= offers[i].class == OB_SHARE_ORPHAN;
		}
	return leaving->pages >= leaving->least && ob_load(&bed->engine->scan.round) >= leaving->round;
}

static unsigned held_of(uint64_t id)
{
	struct ob_share_held held[KEEPER_EXTENTS];
	unsigned n = ob_engine_share_held(bed->engine, held, KEEPER_EXTENTS);

	for (unsigned i = 0; i < n && i < KEEPER_EXTENTS; i++)
		if (held[i].extent == id)
			return held[i].held;
	return 0;
}

/* Another overbookd that has its extents: nothing moves, until it wants one of them to be left. */
static void what_is_kept_is_no_orphan(void **state)
{
	static struct leaving leaving;
	uint64_t shared, round;

	shared = share_twins_until_it_goes();
	bed_assert_ok(bed, keeper_start(&successor, bed->engine, 512, 1000));
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++)
		if (keeper.extent[i].id)
			ob_engine_share_orphan(bed->engine, keeper.extent[i].id, 0);
	ob_engine_share_orphan(bed->engine, 0x777777, 1); /* there is none */
	/* What was begun before that. */
	round = ob_load(&bed->engine->scan.round);
	leaving = (struct leaving){ .round = round + 2 };
	bed_assert_ok(bed, account_wait(some_leave, &leaving, HANG_MS));
	leaving = (struct leaving){ .round = round + 8 };
	bed_assert_ok(bed, account_wait(some_leave, &leaving, HANG_MS));
	assert_int_equal(leaving.pages, 0);
	leaving = (struct leaving){ .least = held_of(keeper.extent[0].id) };
	assert_true(leaving.least > 0);
	ob_engine_share_orphan(bed->engine, keeper.extent[0].id, 1);
	bed_assert_ok(bed, account_wait(some_leave, &leaving, HANG_MS));
	assert_int_equal(leaving.pages, leaving.least);
	ob_engine_share_orphan(bed->engine, keeper.extent[0].id, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, shared);
	assert_int_equal(bed_stats(bed).faults_shared, 0);
	assert_int_equal(share_held(), keeper_held(&keeper));
	/* The ends of holds are told as ever. */
	share_check_all();
	share_settle();
	keeper_serve(&keeper);
	assert_int_equal(share_held(), keeper_held(&keeper));
}

static void write_few_twins(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, i * RAM_PAGES + (page % OB_CHUNK_PAGES < TWINS ? page & ~1u : page));
}

static int all_twins_are_shared(void *context)
{
	return bed_stats(bed).shared_bytes == RAMS * RAM_PAGES / OB_CHUNK_PAGES * TWINS * OB_PAGE_SIZE;
}

struct offered {
	unsigned times[RAMS][RAM_PAGES];
	unsigned wanted;
};

/* Takes offers, and does nothing about them. */
static int orphans_are_offered(void *context)
{
	struct ob_share_offer offers[256];
	struct offered *offered = context;
	unsigned n, least = UINT32_MAX;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			if (offers[i].class == OB_SHARE_ORPHAN)
				offered->times[offers[i].page >> OB_SHARE_REGION_SHIFT][offers[i].page % RAM_PAGES]++;
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % OB_CHUNK_PAGES < TWINS)
				least = OB_MIN(least, offered->times[i][page]);
	return least >= offered->wanted;
}

/* Whatever became of the offers before, orphans are offered again soon, also where the scanner finds nothing else: and nothing is lifted for that. */
static void orphans_are_offered_while_their_chunk_is_passed_over(void **state)
{
	static struct offered offered;
	struct ob_stats before, stats;

	write_few_twins();
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(all_twins_are_shared, NULL, HANG_MS));
	bed_assert_ok(bed, account_wait(share_chunks_are_backed_off, NULL, HANG_MS));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	before = bed_stats(bed);
	share_succeed(512);
	offered = (struct offered){ .wanted = 5 };
	bed_assert_ok(bed, account_wait(orphans_are_offered, &offered, HANG_MS));
	stats = bed_stats(bed);
	print_message("# orphans offered %u times; %.2f times all was lifted\n", offered.wanted,
		      (double)(stats.scan_pages - before.scan_pages) / (RAMS * RAM_PAGES));
	assert_true(stats.scan_pages - before.scan_pages < 3 * RAMS * RAM_PAGES);
	assert_int_equal(stats.shared_bytes, before.shared_bytes);
	bed_assert_ok(bed, keeper_run(&successor));
	bed_assert_ok(bed, account_wait(old_extents_are_free, &keeper, HANG_MS));
	assert_int_equal(bed_stats(bed).faults_shared, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, before.shared_bytes);
	share_finish_successor();
}

static int set_up_with_store(void **state)
{
	bed_scan_cold_ms = SHARE_COLD_MS;
	share_make(28 * OB_MIB, 1, 1000);
	bed_scan_cold_ms = 0;
	return 0;
}

static int much_is_shared(void *context)
{
	return bed_stats(bed).shared_bytes >= 4 * OB_MIB;
}

struct shed {
	uint32_t page;
	unsigned cold; /* offers of pages that would be evicted */
};

/* Takes offers and does nothing about them, while a page here and there is checked, and written. */
static int nothing_is_held(void *context)
{
	struct ob_share_offer offers[256];
	struct shed *shed = context;
	unsigned n;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			shed->cold += offers[i].class == OB_SHARE_COLD_ORPHAN;
	shed->page = (shed->page + 997) % RAM_PAGES;
	bed_assert_ok(bed, ram_check(ram[shed->page & 1], shed->page));
	bed_assert_ok(bed, ram_patch(ram[~shed->page & 1], shed->page));
	return share_held() == 0;
}

/* There is a limit, and storage: what is to leave its extent and is not adopted by any other is evicted, with its bytes. */
static void what_nobody_wants_is_shed(void **state)
{
	struct shed shed = { 0 };
	struct ob_stats stats;

	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(much_is_shared, NULL, HANG_MS));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++)
		if (keeper.extent[i].id)
			ob_engine_share_orphan(bed->engine, keeper.extent[i].id, 1);
	bed_assert_ok(bed, account_wait(nothing_is_held, &shed, HANG_MS));
	stats = bed_stats(bed);
	print_message("# %llu pages shed, after %u offers\n", (unsigned long long)stats.share_shed_pages, shed.cold);
	assert_true(stats.share_shed_pages > 512 && shed.cold >= stats.share_shed_pages);
	assert_int_equal(stats.shared_bytes, 0);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, HANG_MS));
	share_check_all();
	share_settle();
	while (keeper_take_drops(&keeper))
		;
	assert_int_equal(keeper_held(&keeper), 0);
}

struct cold {
	unsigned offers, goal;
};

static int are_offered_often(void *context)
{
	struct ob_share_offer offers[256];
	struct cold *cold = context;
	unsigned n;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			cold->offers += offers[i].class == OB_SHARE_COLD_ORPHAN;
	return cold->offers >= cold->goal;
}

/* What another overbookd has not asked for yet it may still ask for, however often it was offered: offers get lost. */
static void what_a_former_one_left_is_not_shed(void **state)
{
	struct ob_stats before;
	struct cold cold;

	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(much_is_shared, NULL, HANG_MS));
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_succeed(512);
	before = bed_stats(bed);
	cold = (struct cold){ .goal = (unsigned)(before.shared_bytes / OB_PAGE_SIZE) * 10 };
	bed_assert_ok(bed, account_wait(are_offered_often, &cold, HANG_MS));
	assert_int_equal(bed_stats(bed).share_shed_pages, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, before.shared_bytes);
	share_check_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(orphans_find_a_new_home, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_is_kept_is_no_orphan, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(orphans_are_offered_while_their_chunk_is_passed_over, set_up_quick_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_nobody_wants_is_shed, set_up_with_store, share_tear_down),
		cmocka_unit_test_setup_teardown(what_a_former_one_left_is_not_shed, set_up_with_store, share_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
