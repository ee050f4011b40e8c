/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Broken large pages that are in use are made whole again, the hottest first, and new ones come about only where they may. */
#include "large_bed.h"

#include "account.h"
#include "engine/internal.h"

static int all_are_large_again(void *context)
{
	return large_in(0, 1) >= (CHUNKS - 2) * OB_CHUNK_SIZE && bed_stats(bed).large_collapsed_chunks > 0;
}

static void hot_broken_ones_are_made_whole(void **state)
{
	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_different();
	large_break_region(0);
	assert_true(large_in(0, 1) <= 2 * OB_CHUNK_SIZE);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_begin_use(0, 1);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	large_end_use();
	share_finish();
}

/* The guest leaves the first pages of each chunk on the bench, where a limit keeps them: they go back for that. */
static void nor_does_a_limit_keep_the_rest_of_one_apart(void **state)
{
	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_break_region(0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 4 * RAMS * RAM_MIB * OB_MIB));
	bed_assert_ok(bed, keeper_run(&keeper));
	large_begin_use_but(0, 1, 32);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	large_end_use();
	share_finish();
}

static int all_chunks_had_their_turn(void *context)
{
	return ob_load(&bed->engine->scan.round) >= *(const uint64_t *)context;
}

/* They had been left alone for longer and longer, since nothing was found in them. */
static void when_memory_is_plenty_again_all_are_looked_at(void **state)
{
	uint64_t rounds;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_CLEAR, NEVER, NEVER);
	large_break_region(0);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_begin_use(0, 1);
	rounds = ob_load(&bed->engine->scan.round) + 3;
	bed_assert_ok(bed, account_wait(all_chunks_had_their_turn, &rounds, HANG_MS));
	assert_int_equal(bed_stats(bed).large_collapsed_chunks, 0);
	for (uint32_t c = 0; c < CHUNKS; c++)
		ob_store(&bed->engine->region[0].chunks[c].scan_backoff, 20); /* rounds: for ever */
	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	large_end_use();
	share_finish();
}

/* Heats the chunks of a region, the last one most. */
static void heat_by_number(unsigned i)
{
	for (uint32_t c = 0; c < CHUNKS; c++) {
		struct ob_chunk *chunk = &bed->engine->region[i].chunks[c];

		ob_chunk_lock(chunk);
		chunk->heat = (uint8_t)(16 + 4 * c);
		ob_chunk_unlock(chunk);
	}
}

static int so_many_were_made_whole(void *context)
{
	return bed_stats(bed).large_collapsed_chunks >= *(const uint64_t *)context;
}

/* What is left alone as hot is made whole without being lifted; the rate allows some, and the hottest are first. */
static void the_hottest_are_made_whole_first(void **state)
{
	struct ob_large_orders orders = large_orders(OB_LARGE_PROACTIVE, OB_LARGE_HIGH, NEVER, NEVER);
	const struct ob_chunk *chunks = bed->engine->region[0].chunks;
	uint64_t goal = CHUNKS / 2;
	unsigned cold = 0;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_CLEAR, NEVER, NEVER);
	large_break_region(0);
	/* A second's worth at once is for whom the hand finds first. */
	orders.collapse_rate = 2;
	heat_by_number(0);
	ob_engine_large(bed->engine, &orders);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(so_many_were_made_whole, &goal, HANG_MS));
	ob_engine_share_off(bed->engine);
	for (uint32_t c = 0; c < CHUNKS / 2; c++)
		cold += chunks[c].is_large;
	assert_true(cold <= goal / 2);
	assert_true(chunks[CHUNKS - 1].is_large && chunks[CHUNKS - 2].is_large);
	share_finish();
}

/* Where nothing is shared they are lifted for that alone: nothing is dropped, however much there is. */
static void also_where_sharing_is_off(void **state)
{
	struct ob_stats stats;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_CLEAR, NEVER, NEVER);
	ob_engine_share_off(bed->engine);
	for (uint32_t page = 0; page < RAM_PAGES; page += 64)
		ram_write(ram[0], page, PATTERN_ZERO, 0);
	large_break_region(0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 4 * RAMS * RAM_MIB * OB_MIB));
	large_begin_use(0, 1);
	large_order(OB_LARGE_HIGH, NEVER, 16);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	large_end_use();
	stats = bed_stats(bed);
	assert_int_equal(stats.share_offered_pages, 0);
	assert_int_equal(stats.zero_bytes + stats.zero_pages_found, 0);
	/* Nothing is lifted that is large, or when memory is not plenty. */
	assert_true(stats.scan_pages <= 8 * RAM_PAGES);
	large_order(OB_LARGE_CLEAR, NEVER, NEVER);
	large_break_region(1);
	share_check_all();
	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	share_check_all();
}

static void in_clear_broken_ones_are_left(void **state)
{
	uint64_t rounds;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_CLEAR, 128, 16);
	large_break_region(0);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_begin_use(0, 1);
	rounds = ob_load(&bed->engine->scan.round) + 6;
	bed_assert_ok(bed, account_wait(large_went_round, &rounds, HANG_MS));
	large_end_use();
	assert_int_equal(bed_stats(bed).large_collapsed_chunks, 0);
	share_finish();
}

static int is_forbidden(const void *at)
{
	struct account_mapping mapping;

	assert_int_equal(account_mapping(at, OB_PAGE_SIZE, &mapping), 0);
	return mapping.large_forbidden;
}

static void new_ones_come_about_only_where_they_may(void **state)
{
	struct ram *more = ram_new(4 * OB_CHUNK_PAGES, 0x99);
	struct account_mapping mapping;

	large_order(OB_LARGE_CLEAR, 128, 16);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, more->base, more->pages * OB_PAGE_SIZE, &bed->err));
	/* As QEMU does with what it has mapped. */
	assert_int_equal(ob_engine_allow_large(bed->engine, more->base, more->pages * OB_PAGE_SIZE), 0);
	assert_int_equal(is_forbidden(ram[0]->base), 1);
	assert_int_equal(is_forbidden(more->base), 1);
	ram_write_all(more, PATTERN_INCOMPRESSIBLE);
	assert_int_equal(account_mapping(more->base, more->pages * OB_PAGE_SIZE, &mapping), 0);
	assert_int_equal(mapping.huge_bytes, 0);
	large_order(OB_LARGE_HIGH, NEVER, 16);
	assert_int_equal(is_forbidden(ram[0]->base), 0);
	assert_int_equal(is_forbidden(more->base), 0);
	large_write_different();
	bed_assert_ok(bed, ram_check_all(more));
	assert_int_equal(ob_engine_remove_region(bed->engine, more->base), 0);
	ram_free(more);
	share_finish();
}

static int set_up_without(void **state)
{
	int r;

	bed_no_large = 1;
	r = large_set_up(state);
	bed_no_large = 0;
	return r;
}

/* A machine that is started while memory is short is told before anybody has told it what else to do. */
static void none_come_about_from_the_beginning(void **state)
{
	for (unsigned i = 0; i < RAMS; i++)
		assert_int_equal(ob_engine_allow_large(bed->engine, ram[i]->base, RAM_MIB * OB_MIB), 0);
	share_write_all(PATTERN_INCOMPRESSIBLE);
	assert_int_equal(large_in(0, RAMS), 0);
	assert_int_equal(is_forbidden(ram[0]->base), 1);
	large_order(OB_LARGE_CLEAR, 128, 16);
	assert_int_equal(is_forbidden(ram[1]->base), 1);
	large_order(OB_LARGE_HIGH, NEVER, 16);
	assert_int_equal(is_forbidden(ram[0]->base), 0);
	assert_int_equal(is_forbidden(ram[1]->base), 0);
	share_finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(hot_broken_ones_are_made_whole, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(nor_does_a_limit_keep_the_rest_of_one_apart, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(when_memory_is_plenty_again_all_are_looked_at, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(the_hottest_are_made_whole_first, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(also_where_sharing_is_off, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(in_clear_broken_ones_are_left, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(new_ones_come_about_only_where_they_may, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(none_come_about_from_the_beginning, set_up_without, large_tear_down),
	};

	return cmocka_run_group_tests_name("engine_large_whole", tests, NULL, NULL);
}
