/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large pages under orders: which are kept and broken, that a touch brings a lifted one back as one, and that no byte is lost while orders
 * change. How they are made whole again: test_large_whole.c.
 *
 * One word: "cold" for the cases in which nobody uses the memory, which wait for the scanner, or "hot" for those that have a processor touch
 * it while it is looked at.
 */
#include "large_bed.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "account.h"
#include "base/fault.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "player.h"

static void nothing_to_share_nothing_broken(void **state)
{
	uint64_t before;
	struct ob_stats stats;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_LOW, 8, 1);
	before = large_in(0, RAMS);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_kept(3 * RAMS * CHUNKS);
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	stats = bed_stats(bed);
	assert_int_equal(stats.large_broken_chunks, 0);
	assert_int_equal(stats.large_shareable_pages, 0);
	assert_true(stats.large_sampled_pages >= 3 * RAMS * CHUNKS * OB_CHUNK_PAGES);
	assert_int_equal(stats.faults_bench, 0);
	assert_int_equal(stats.large_bytes, large_in(0, RAMS));
	assert_true(large_in(0, RAMS) >= before);
	share_finish();
	assert_int_equal(ob_engine_remove_region(bed->engine, ram[0]->base), 0);
	assert_int_equal(bed_stats(bed).large_bytes, large_in(1, 1));
}

/* What has been read from an image is looked at with all of the large page that it lies in, which is broken as for the hand. */
static void noted_pages_break_a_large_page(void **state)
{
	uint32_t first = 3 * OB_CHUNK_PAGES;

	large_write_different();
	large_order(OB_LARGE_HIGH, NEVER, 16);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_kept(3 * RAMS * CHUNKS);
	for (uint32_t page = first; page < first + 32; page++)
		for (unsigned i = 0; i < RAMS; i++) {
			ram_write_twin(ram[i], page, 4 * RAM_PAGES + page);
			ob_engine_note_image(bed->engine, ram_page(ram[i], page), OB_PAGE_SIZE);
		}
	large_wait_saved(RAMS * 32 * OB_PAGE_SIZE);
	assert_int_equal(bed_stats(bed).large_broken_chunks, RAMS);
	assert_int_equal(bed_stats(bed).noted_image_pages, RAMS * 32);
	share_finish();
}

/* Asks for a page of a chunk that is kept, as somebody would who has its equal; until so many large pages were looked at and kept. */
static int kept_all_the_same(void *context)
{
	struct ob_share_offer offers[256];
	uint8_t bytes[OB_PAGE_SIZE];

	while (ob_engine_share_offers(bed->engine, offers, 256))
		;
	(void)!ob_engine_share_fetch(bed->engine, keeper_page(0, 3 * OB_CHUNK_PAGES + 7), 0, 0, bytes);
	return large_were_kept(context);
}

static void what_is_wanted_of_a_kept_one_is_looked_at_once_a_round(void **state)
{
	uint64_t goal = 8 * RAMS * CHUNKS;
	struct ob_stats stats;

	large_write_different();
	large_order(OB_LARGE_HIGH, NEVER, 400);
	bed_assert_ok(bed, account_wait(kept_all_the_same, &goal, HANG_MS));
	stats = bed_stats(bed);
	print_message("# kept %llu times, wanted %llu times\n", (unsigned long long)stats.large_kept_chunks,
		      (unsigned long long)stats.noted_wanted_pages);
	assert_in_range(stats.noted_wanted_pages, 1, stats.large_kept_chunks / 2);
	assert_int_equal(stats.large_broken_chunks, 0);
	share_finish();
}

static void cold_ones_with_enough_equals_are_broken(void **state)
{
	struct ob_stats stats;

	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_equal(40);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_saved((uint64_t)RAMS * CHUNKS * 40 * OB_PAGE_SIZE);
	stats = bed_stats(bed);
	assert_int_equal(stats.large_broken_chunks, RAMS * CHUNKS);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	ob_engine_share_off(bed->engine);
	assert_int_equal(bed_stats(bed).large_bytes, 0);
	assert_int_equal(large_in(0, RAMS), 0);
	share_finish();
	stats = bed_stats(bed);
	assert_true(stats.large_given_pages > 0 && stats.large_given_pages <= RAMS * CHUNKS * 40);
	assert_true(stats.large_shareable_pages >= RAMS * CHUNKS * 16);
}

/* With too few equals a page stays, however often it is looked at; zeros count like others. */
static void cold_ones_with_too_few_are_kept(void **state)
{
	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_equal(8);
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % OB_CHUNK_PAGES / 4 == 5)
				ram_write(ram[i], page, PATTERN_ZERO, 0);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_kept(4 * RAMS * CHUNKS);
	assert_int_equal(bed_stats(bed).large_broken_chunks, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(bed_stats(bed).zero_bytes, 0);
	assert_true(bed_stats(bed).large_shareable_pages >= RAMS * CHUNKS * 4);
	/* Now they are enough. */
	large_order(OB_LARGE_CLEAR, NEVER, 3);
	large_wait_saved((uint64_t)RAMS * CHUNKS * (8 + 4) * OB_PAGE_SIZE);
	share_finish();
}

static void no_more_are_broken_than_the_rate_allows(void **state)
{
	struct ob_large_orders orders = large_orders(OB_LARGE_PROACTIVE, OB_LARGE_HIGH, 1, 1);

	orders.break_rate = 0;
	ob_engine_large(bed->engine, &orders);
	large_write_equal(256);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_kept(3 * RAMS * CHUNKS);
	assert_int_equal(bed_stats(bed).large_broken_chunks, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	orders.break_rate = 512;
	ob_engine_large(bed->engine, &orders);
	large_wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	share_finish();
}

static void the_policies_do_what_they_say(void **state)
{
	struct ob_large_orders orders = large_orders(OB_LARGE_NEVER, OB_LARGE_HIGH, NEVER, NEVER);
	uint64_t rounds;

	ob_engine_large(bed->engine, &orders);
	large_write_equal(256);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	rounds = ob_load(&bed->engine->scan.round) + 8;
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(large_went_round, &rounds, HANG_MS));
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_true(large_in(0, RAMS) > 0);
	orders = large_orders(OB_LARGE_OFF, OB_LARGE_HIGH, 0, 0);
	ob_engine_large(bed->engine, &orders);
	large_wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	share_finish();
}

static int all_lie_there_as_small_ones(void *context)
{
	return !large_in(0, RAMS) && share_bench_is_empty(context);
}

/* Not in use, and nothing of them equal to anything: they are lifted, and come back as small pages. */
static void off_breaks_where_nothing_is_shared_too(void **state)
{
	struct ob_large_orders orders = large_orders(OB_LARGE_OFF, OB_LARGE_HIGH, 0, 0);

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_order(OB_LARGE_LOW, 8, 1);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_kept(RAMS * CHUNKS);
	assert_true(bed_stats(bed).large_bytes > 0);
	ob_engine_large(bed->engine, &orders);
	bed_assert_ok(bed, account_wait(all_lie_there_as_small_ones, NULL, HANG_MS));
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(bed_stats(bed).large_bytes, 0);
	share_finish();
}

static int whole_ones_came_back(void *context)
{
	return bed_stats(bed).large_whole_returns >= 2 * CHUNKS;
}

/* A touch of a large page that lies on the bench brings all of it, and it is a large page still. */
static void come_back_whole(enum ob_large_state state)
{
	uint64_t before = large_in(0, 1);

	large_order(state, NEVER, 16);
	large_begin_use(0, 64);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(whole_ones_came_back, NULL, HANG_MS));
	large_end_use();
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	assert_true(large_in(0, 1) >= before);
	share_finish();
}

static void a_touch_brings_it_back_as_a_large_page(void **state)
{
	large_write_equal(256);
	come_back_whole(OB_LARGE_HIGH);
}

/* The kernel may make none then: what it does about the fault is not to break it. */
static void so_it_does_where_there_are_to_be_no_new_ones(void **state)
{
	large_write_equal(256);
	come_back_whole(OB_LARGE_CLEAR);
}

/* The kernel refuses for a moment, now and then. */
static int nearly_all_can_be_made_whole(void *context)
{
	for (uint32_t c = 0; c < CHUNKS; c++)
		(void)!ob_memory_collapse(ram_page(ram[0], c * OB_CHUNK_PAGES), OB_CHUNK_SIZE);
	return large_in(0, 1) >= (CHUNKS - 2) * OB_CHUNK_SIZE;
}

/* khugepaged does that; single pages had lain on the bench. In clear nobody makes it whole anew. */
static void what_others_made_whole_stays_whole(void **state)
{
	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	large_write_different();
	large_break_region(0);
	bed_assert_ok(bed, account_wait(nearly_all_can_be_made_whole, NULL, HANG_MS));
	come_back_whole(OB_LARGE_CLEAR);
}

/* Hot ones are kept while there is plenty, and broken when there is not: a sample of them says that others have their pages. */
static void hot_ones_are_broken_when_memory_is_short(void **state)
{
	uint64_t half = (uint64_t)CHUNKS * 256 * OB_PAGE_SIZE;

	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_equal(256);
	large_begin_use(0, OB_CHUNK_PAGES);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(whole_ones_came_back, NULL, HANG_MS));
	assert_true(bed_stats(bed).shared_bytes <= half + half / 8);
	assert_true(large_in(0, 1) >= RAM_MIB * OB_MIB / 2);
	large_order(OB_LARGE_CLEAR, 64, 16);
	large_wait_saved(2 * half - half / 8);
	large_end_use();
	assert_true(large_in(0, RAMS) <= RAM_MIB * OB_MIB / 8);
	share_finish();
}

/* Half of each chunk of one region has an equal in the other, each at another place of another chunk. */
static void write_pairs(void)
{
	large_write_different();
	for (uint32_t page = 0; page < RAM_PAGES; page++) {
		uint32_t chunk = page / OB_CHUNK_PAGES, number = page % OB_CHUNK_PAGES;

		if (number < OB_CHUNK_PAGES / 2)
			ram_write_twin(ram[1], (chunk + 1) % CHUNKS * OB_CHUNK_PAGES + (number * 5 + 77) % OB_CHUNK_PAGES, page);
	}
}

/* A sample of one knows nothing of a sample of the other, but the index remembers both: it takes some looks at each. */
static void hot_ones_find_each_other_in_some_looks(void **state)
{
	uint64_t half = (uint64_t)CHUNKS * 256 * OB_PAGE_SIZE;
	struct ob_stats stats;

	large_order(OB_LARGE_HIGH, NEVER, NEVER);
	write_pairs();
	large_order(OB_LARGE_CLEAR, 64, 16);
	large_begin_use(RAMS, OB_CHUNK_PAGES);
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_saved(2 * half - half / 4);
	large_end_use();
	stats = bed_stats(bed);
	print_message("# %.1f looks at a chunk\n", (double)(stats.large_broken_chunks + stats.large_kept_chunks) / (RAMS * CHUNKS));
	share_finish();
}

/* --- broken in vain --- */

static struct ob_chunk *first_chunk(void)
{
	return &bed->engine->region[0].chunks[0];
}

static int was_broken_in_vain(void *context)
{
	struct ob_share_offer offer[64];
	unsigned n = ob_engine_share_offers(bed->engine, offer, OB_ARRAY_LEN(offer));
	uint8_t bytes[OB_PAGE_SIZE];
	unsigned vain;

	/* Somebody asks for all that he is offered, and then wants none of it. */
	for (unsigned i = 0; i < n; i++)
		(void)!ob_engine_share_fetch(bed->engine, offer[i].page, offer[i].lo, offer[i].hi, bytes);
	ob_chunk_lock(first_chunk());
	vain = first_chunk()->large_vain;
	ob_chunk_unlock(first_chunk());
	return vain >= *(const unsigned *)context;
}

static void what_was_broken_in_vain_needs_more_each_time(void **state)
{
	unsigned times = OB_LARGE_VAIN_MAX;
	uint64_t broken;

	large_order(OB_LARGE_HIGH, NEVER, 4);
	large_write_different();
	bed_assert_ok(bed, account_wait(was_broken_in_vain, &times, HANG_MS));
	/* All are given up in the end, and are not even lifted. */
	times = OB_LARGE_VAIN_MAX + 1;
	assert_int_equal(account_wait(was_broken_in_vain, &times, 10 * LARGE_COLD_MS), -ETIMEDOUT);
	broken = bed_stats(bed).large_broken_chunks;
	assert_true(broken >= OB_LARGE_VAIN_MAX);
	assert_int_equal(bed_stats(bed).large_given_pages, 0);
	share_finish();
}

/* --- with a limit --- */

static void heat_all(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t c = 0; c < CHUNKS; c++) {
			struct ob_chunk *chunk = &bed->engine->region[i].chunks[c];

			ob_chunk_lock(chunk);
			chunk->heat = 255;
			ob_chunk_unlock(chunk);
		}
}

static int set_up_without_samples(void **state)
{
	int r;

	bed_active_watch_ms = BED_NO_SAMPLES;
	r = large_set_up(state);
	bed_active_watch_ms = 0;
	return r;
}

/*
 * What has been in use, and is not any more, is looked at some time: also where the limit is never reached. (What lies on the bench for
 * a sample is left alone for its time, and may be drawn once more.)
 */
static void what_was_hot_cools_under_a_distant_limit(void **state)
{
	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_equal(256);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 2 * RAMS * RAM_MIB * OB_MIB));
	heat_all();
	bed_assert_ok(bed, keeper_run(&keeper));
	large_wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	share_finish();
}

static int bench_is_full(void *context)
{
	return bed_stats(bed).benched_bytes >= RAM_MIB * OB_MIB;
}

/* What is kept stays on the bench, for the reclaimer to find; until he does it comes back whole, and he breaks it. */
static void with_a_limit_it_lies_on_the_bench_until_it_is_used_or_evicted(void **state)
{
	uint64_t whole;

	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_different();
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 2 * RAMS * RAM_MIB * OB_MIB));
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(bench_is_full, NULL, HANG_MS));
	large_wait_kept(RAMS * CHUNKS);
	whole = bed_stats(bed).large_whole_returns;
	bed_assert_ok(bed, ram_check_all(ram[0]));
	assert_true(bed_stats(bed).large_whole_returns > whole);
	assert_true(large_in(0, 1) > 0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 24 * OB_MIB));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, HANG_MS));
	assert_true(bed_stats(bed).swapped_bytes > 0);
	share_finish();
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	share_check_all();
	share_assert_holds();
}

/* --- all at once --- */

static void discard(struct ram *of, uint32_t first, uint32_t count)
{
	int r;

	/* What the kernel refused is as it was, or empty; who asks again gets it. */
	ram_lock_range(of, first, count);
	do
		r = ram_discard(of, bed->engine, first, count);
	while (r == -ENOMEM);
	ram_unlock_range(of, first, count);
	bed_assert_ok(bed, r);
}

/* Its turn comes eight times a second. */
static int scanner_has_been_at_work(void *context)
{
	return ob_load(&bed->engine->scan.tick) >= *(const uint64_t *)context;
}

/* Everything comes back, in large pages again. */
static void begin_anew(void)
{
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t c = 0; c < CHUNKS; c++)
			(void)!ob_memory_collapse(ram_page(ram[i], c * OB_CHUNK_PAGES), OB_CHUNK_SIZE);
	bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 1000, keeper_ready, &keeper));
}

/* One region is used everywhere, the other in a page of each chunk, at times; orders, limits and sharing change all the time. */
static void storm(const char *faults)
{
	static const uint64_t limits[] = { 0, 0, 0, 0, 0, 64 * OB_MIB, 0, 0, 0, 0, 28 * OB_MIB };
	const unsigned steps = (unsigned)bed_scale(20, 60, 2000);
	const struct crew_config config = {
		.engine = bed->engine, .rams = { ram[0] }, .ram_count = 1, .players = 1, .ops_each = UINT64_MAX, .seed = 77,
		.mix = CREW_CHECK_WRITE,
	};
	struct crew *crew = NULL;
	struct ob_stats stats;

	large_order(OB_LARGE_HIGH, NEVER, 16);
	large_write_equal(200);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, ob_fault_configure(faults, &bed->err));
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	for (unsigned i = 0; i < steps; i++) {
		struct ob_large_orders orders = large_orders((enum ob_large_policy)(i % 10 < 8 ? OB_LARGE_PROACTIVE : i / 10 % OB_LARGE_POLICIES),
							  (enum ob_large_state)(i % OB_LARGE_STATES), i % 2 ? NEVER : 8, i % 3 ? 4 : NEVER);

		uint64_t tick = ob_load(&bed->engine->scan.tick) + 1;

		bed_assert_ok(bed, crew_wait_ops(crew, crew_ops(crew) + 1000, HANG_MS));
		bed_assert_ok(bed, account_wait(scanner_has_been_at_work, &tick, HANG_MS));
		ob_engine_large(bed->engine, &orders);
		bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limits[i % OB_ARRAY_LEN(limits)]));
		if (i % 8 == 2)
			large_break_region(0);
		if (i % 5 == 1)
			discard(ram[1], i * 100 % (RAM_PAGES - 26) + 6, 20);
		if (i % 30 == 0)
			large_begin_use(1, OB_CHUNK_PAGES);
		if (i % 30 == 8)
			large_end_use();
		if (i % 30 == 29)
			begin_anew();
	}
	crew_stop(crew);
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	stats = bed_stats(bed);
	print_message("# broken %llu, kept %llu, collapsed %llu, came back whole %llu\n", (unsigned long long)stats.large_broken_chunks,
		      (unsigned long long)stats.large_kept_chunks, (unsigned long long)stats.large_collapsed_chunks,
		      (unsigned long long)stats.large_whole_returns);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
	assert_int_equal(keeper.wrong, 0);
}

static void no_byte_is_lost_while_orders_change(void **state)
{
	storm(NULL);
	share_assert_holds();
}

static void nor_when_the_kernel_refuses(void **state)
{
	storm("uffd_move:/40:denied,madvise:/50:ENOMEM");
}

static void nor_when_it_does_not_say_what_is_there(void **state)
{
	storm("pagemap_scan:/9:EAGAIN");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest cold[] = {
		cmocka_unit_test_setup_teardown(nothing_to_share_nothing_broken, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(noted_pages_break_a_large_page, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(what_is_wanted_of_a_kept_one_is_looked_at_once_a_round, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(cold_ones_with_enough_equals_are_broken, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(cold_ones_with_too_few_are_kept, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(no_more_are_broken_than_the_rate_allows, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(the_policies_do_what_they_say, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(off_breaks_where_nothing_is_shared_too, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(what_was_broken_in_vain_needs_more_each_time, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(with_a_limit_it_lies_on_the_bench_until_it_is_used_or_evicted, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(what_was_hot_cools_under_a_distant_limit, set_up_without_samples, large_tear_down),
	}, hot[] = {
		cmocka_unit_test_setup_teardown(a_touch_brings_it_back_as_a_large_page, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(so_it_does_where_there_are_to_be_no_new_ones, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(hot_ones_are_broken_when_memory_is_short, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(hot_ones_find_each_other_in_some_looks, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(what_others_made_whole_stays_whole, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(no_byte_is_lost_while_orders_change, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(nor_when_the_kernel_refuses, large_set_up, large_tear_down),
		cmocka_unit_test_setup_teardown(nor_when_it_does_not_say_what_is_there, large_set_up, large_tear_down),
	};

	if (argc == 2 && !strcmp(argv[1], "cold"))
		return cmocka_run_group_tests_name("engine_large_cold", cold, NULL, NULL);
	if (argc == 2 && !strcmp(argv[1], "hot"))
		return cmocka_run_group_tests_name("engine_large_hot", hot, NULL, NULL);
	fprintf(stderr, "test_large: cold or hot\n");
	return 2;
}
