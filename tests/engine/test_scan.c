/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The scanner, with a test that plays overbookd (keeper.h): it finds what is not used, takes no more than it may, and loses nothing. */
#include "share_bed.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "account.h"
#include "engine/scan.h"
#include "engine/scan_balance.h"
#include "engine/warmth.h"
#include "base/clock.h"
#include "base/fault.h"
#include "player.h"

static int set_up_scanner(void **state)
{
	return share_make_scanner(SHARE_COLD_MS, 1000);
}

/* Nothing is scanned before the test says so. */
static int set_up_resting_scanner(void **state)
{
	return share_make_scanner(SHARE_COLD_MS, 0);
}

static void scanning_shares_equal_pages_without_a_limit(void **state)
{
	struct ob_stats stats;

	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(share_most_is_shared, NULL, HANG_MS));
	stats = bed_stats(bed);
	print_message("# cost %.1f MiB of %.1f; %llu pages looked at; %.1f ms of CPU\n", (double)stats.cost_bytes / OB_MIB,
		      (double)stats.ram_bytes / OB_MIB, (unsigned long long)stats.scan_pages, (double)stats.scan_cpu_ns / 1e6);
	assert_true(stats.cost_bytes < 16 * OB_MIB);
	if (!BED_SANITIZED)
		assert_true(account_pss_bytes(bed->engine) < (int64_t)(16 * OB_MIB));
	share_check_all();
	share_finish();
}

static int zeros_are_gone(void *context)
{
	return bed_stats(bed).zero_bytes >= RAM_MIB * OB_MIB * 9 / 10;
}

static void scanning_drops_zero_pages_without_anybody_s_help(void **state)
{
	ram_write_all(ram[0], PATTERN_ZERO);
	bed_assert_ok(bed, account_wait(zeros_are_gone, NULL, HANG_MS));
	assert_true(bed_stats(bed).cost_bytes < 8 * OB_MIB);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

static int all_was_looked_at(void *context)
{
	return bed_stats(bed).scan_pages >= 2 * RAMS * RAM_PAGES;
}

static int some_was_looked_at(void *context)
{
	return bed_stats(bed).scan_pages >= OB_CHUNK_PAGES && bed_stats(bed).scan_cpu_ns >= OB_NS_PER_MS;
}

/* Pages that nobody else has are moved back as they came, without a fault; soon their chunks are looked at seldom. */
static void what_nobody_wants_goes_back(void **state)
{
	struct account_mapping before, after;
	struct ob_stats stats;

	share_write_different();
	bed_assert_ok(bed, account_mapping(ram[0]->base, RAM_MIB * OB_MIB, &before));
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(all_was_looked_at, NULL, HANG_MS));
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	stats = bed_stats(bed);
	assert_int_equal(stats.shared_bytes, 0);
	assert_int_equal(stats.faults_bench, 0);
	assert_int_equal(stats.scan_returned_pages, 0);
	bed_assert_ok(bed, account_mapping(ram[0]->base, RAM_MIB * OB_MIB, &after));
	print_message("# large pages: %.0f MiB before, %.0f after\n", (double)before.huge_bytes / OB_MIB, (double)after.huge_bytes / OB_MIB);
	assert_true(after.huge_bytes >= before.huge_bytes);
	keeper_halt(&keeper);
	share_check_all();
	share_assert_holds();
}

/* Of four pages one is shared, one zeros, and the other two go back around them. */
static void write_in_turns(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % 4 == 1)
				ram_write(ram[i], page, PATTERN_ZERO, 0);
			else
				ram_write_twin(ram[i], page, page % 4 == 2 ? page : (i + 1) * RAM_PAGES + page);
}

/* What is written next is not remembered to have come back. */
static void give_everything_back(void)
{
	for (unsigned i = 0; i < RAMS; i++) {
		ram_lock_range(ram[i], 0, RAM_PAGES);
		bed_assert_ok(bed, ram_discard(ram[i], bed->engine, 0, RAM_PAGES));
		ram_unlock_range(ram[i], 0, RAM_PAGES);
	}
}

static int most_have_gone(void *context)
{
	const uint64_t most = RAMS * RAM_MIB * OB_MIB / 4 * 9 / 10;

	return bed_stats(bed).shared_bytes >= most && bed_stats(bed).zero_bytes >= most;
}

/* Also when the kernel does not move some of them, or does and denies it. */
static void what_lies_around_others_goes_back(void **state)
{
	static const char *const faults[] = { NULL, "uffd_move:/3:EBUSY", "uffd_move:/2:denied" };

	bed_assert_ok(bed, keeper_run(&keeper));
	for (unsigned i = 0; i < OB_ARRAY_LEN(faults); i++) {
		write_in_turns();
		assert_int_equal(ob_fault_configure(faults[i], NULL), 0);
		share_begin_scanning();
		bed_assert_ok(bed, account_wait(most_have_gone, NULL, HANG_MS));
		ob_engine_share_off(bed->engine);
		bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
		assert_true(most_have_gone(NULL));
		assert_true(!faults[i] || ob_fault_fired(OB_FP_uffd_move) > 0);
		assert_int_equal(ob_fault_configure(NULL, NULL), 0);
		share_check_all();
		give_everything_back();
	}
	share_finish();
}

/* Touches everything as soon as most of it is shared, again and again. What comes back each time is left in place, for longer and longer. */
static void what_comes_back_soon_is_left_in_place(void **state)
{
	const uint64_t second_wait_ns = ob_warmth_wait_ns(2, SHARE_COLD_MS * OB_NS_PER_MS);
	uint64_t began_ns, waited_ns = 0;

	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(share_most_is_shared, NULL, HANG_MS));
	for (unsigned i = 0; i < 20 && waited_ns < second_wait_ns; i++) {
		share_check_all();
		began_ns = ob_now_ns();
		bed_assert_ok(bed, account_wait(share_most_is_shared, NULL, HANG_MS));
		waited_ns = ob_now_ns() - began_ns;
	}
	print_message("# shared again after %.1f s\n", (double)waited_ns / OB_NS_PER_SEC);
	assert_true(waited_ns >= second_wait_ns);
	share_check_all();
	share_finish();
}

/* Also across the moment at which the page's clock comes round. */
static void warmth_rises_and_falls(void **state)
{
	const uint64_t second = OB_NS_PER_SEC, round = 1ull << (OB_WARMTH_BITS + OB_WARMTH_STEP_SHIFT), watched = 3 * second;

	for (uint64_t now = round - 40 * second; now < round + 40 * second; now += 7 * second) {
		uint64_t word = OB_PAGE_RESIDENT;

		assert_false(ob_warmth_is_warm(word, now, watched));
		for (unsigned warmth = 1; warmth <= OB_WARMTH_MOST; warmth++) {
			word = OB_PAGE_SHARED | ob_page_with_slot(77) | ob_warmth_shared(word, now);
			assert_int_equal(ob_page_slot(word), 77);
			assert_int_equal(ob_warmth_of(word), warmth - 1);
			word = OB_PAGE_RESIDENT | ob_warmth_back(word, 1, now + 10 * second, watched);
			assert_int_equal(ob_warmth_of(word), warmth);
			now += 10 * second;
			assert_true(ob_warmth_is_warm(word, now + ob_warmth_wait_ns(warmth, watched) - second, watched));
			assert_false(ob_warmth_is_warm(word, now + ob_warmth_wait_ns(warmth, watched) + second, watched));
		}
		word = OB_PAGE_SHARED | ob_warmth_shared(word, now);
		assert_int_equal(ob_warmth_of(ob_warmth_back(word, 1, now + second, watched)), OB_WARMTH_MOST);
		assert_int_equal(ob_warmth_of(ob_warmth_back(word, 0, now + second, watched)), OB_WARMTH_MOST);
		assert_int_equal(ob_warmth_of(ob_warmth_back(word, 1, now + 5000 * second, watched)), OB_WARMTH_MOST - 1);
	}
	assert_int_equal(ob_warmth_back(OB_PAGE_SHARED | ob_warmth_bits(1, 0), 1, 100 * second, watched), 0);
}

static uint64_t cpu_of_scanner(void)
{
	return bed_stats(bed).scan_cpu_ns;
}

static int more_was_taken(void *context)
{
	return cpu_of_scanner() > *(const uint64_t *)context;
}

/* Judged when it goes on: it has rested then as long as what it had taken asks for, however much that was at a time. */
static void scanning_keeps_to_its_allowance_and_sleeps_when_it_is_off(void **state)
{
	uint64_t start, cpu;

	share_write_twins();
	assert_int_equal(cpu_of_scanner(), 0);
	start = ob_now_ns();
	bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 5, NULL, NULL));
	bed_assert_ok(bed, account_wait(some_was_looked_at, NULL, HANG_MS));
	cpu = cpu_of_scanner();
	bed_assert_ok(bed, account_wait(more_was_taken, &cpu, HANG_MS));
	print_message("# %.2f%% of a core where 0.5%% is allowed\n", 100.0 * (double)cpu / (double)(ob_now_ns() - start));
	assert_true(cpu <= (ob_now_ns() - start) / 100);
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(share_bench_is_empty, NULL, HANG_MS));
	share_check_all(); /* takes a while: what its last work took has been counted then */
	cpu = cpu_of_scanner();
	share_check_all();
	assert_true(cpu_of_scanner() - cpu < OB_NS_PER_MS);
	share_assert_holds();
}

/* Who knows what has been offered, and only wants more or less of it, is not told everything anew. */
static void another_pace_is_no_beginning(void **state)
{
	unsigned generation;
	uint64_t cpu;

	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(share_most_is_shared, NULL, HANG_MS));
	generation = ob_load(&bed->engine->share->generation);
	bed_assert_ok(bed, ob_engine_share_pace(bed->engine, 0));
	assert_false(ob_scan_may_look(bed->engine));
	bed_assert_ok(bed, ob_engine_share_pace(bed->engine, 700));
	assert_true(ob_scan_may_look(bed->engine));
	assert_int_equal(ob_load(&bed->engine->share->cpu_permille), 700);
	assert_int_equal(ob_load(&bed->engine->share->generation), generation);
	cpu = cpu_of_scanner();
	bed_assert_ok(bed, account_wait(more_was_taken, &cpu, HANG_MS));
	assert_int_equal(bed->engine->scan.generation, generation);
	share_check_all();
	ob_engine_share_off(bed->engine);
	assert_int_equal(ob_engine_share_pace(bed->engine, 500), -EINVAL);
	share_finish();
}

static int guest_was_held_up(void *context)
{
	return ob_scan_faults(bed->engine) >= 400;
}

static int is_past(void *context)
{
	return ob_now_ns() >= *(const uint64_t *)context;
}

/* A guest that uses all of its memory, of which no page has an equal: after a while it is nearly left alone. */
static void a_guest_is_not_held_up_in_vain(void **state)
{
	const struct crew_config config = { .engine = bed->engine, .rams = { ram[0], ram[1] }, .ram_count = RAMS, .players = 2,
					    .ops_each = UINT64_MAX, .seed = 7, .mix = CREW_READ };
	struct crew *crew;
	uint64_t until, before;

	share_write_different();
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(guest_was_held_up, NULL, HANG_MS));
	until = ob_now_ns() + 8 * OB_NS_PER_SEC;
	bed_assert_ok(bed, account_wait(is_past, &until, HANG_MS));
	before = bed_stats(bed).scan_pages;
	until += 8 * OB_NS_PER_SEC;
	bed_assert_ok(bed, account_wait(is_past, &until, HANG_MS));
	print_message("# %llu pages looked at in 8 s, %llu before; %llu faults in all\n", (unsigned long long)(bed_stats(bed).scan_pages - before),
		      (unsigned long long)before, (unsigned long long)ob_scan_faults(bed->engine));
	assert_true(bed_stats(bed).scan_pages - before <= 4 * OB_CHUNK_PAGES);
	crew_stop(crew);
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	share_check_all();
	share_assert_holds();
}

#define DEBT_FAULTS 20 /* for which a guest so small is spared for 40 seconds; one chunk that is lifted in vain makes more */

static int scanner_is_in_debt(void *context)
{
	return ob_load(&bed->engine->scan.balance) < -DEBT_FAULTS * OB_SCAN_FAULT;
}

static int twins_are_shared(void *context)
{
	return bed_stats(bed).shared_bytes >= RAM_MIB * OB_MIB * 9 / 10;
}

/* Nobody has looked at memory that the guest takes into use: whatever the scanner owes for what it has looked at, it does not wait. */
static void new_memory_is_looked_at_whatever_was_in_vain(void **state)
{
	const struct crew_config config = { .engine = bed->engine, .rams = { ram[0] }, .ram_count = 1, .players = 2,
					    .ops_each = UINT64_MAX, .seed = 8, .mix = CREW_READ };
	struct crew *crew;

	for (uint32_t page = 0; page < RAM_PAGES; page++)
		ram_write_twin(ram[0], page, RAM_PAGES + page);
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(scanner_is_in_debt, NULL, HANG_MS));
	crew_stop(crew);
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	assert_true(scanner_is_in_debt(NULL));
	/* What is found then pays for it in the end: that chunks are visited while they are written is no harm. */
	for (uint32_t page = 0; page < RAM_PAGES; page++)
		ram_write_twin(ram[1], page, page / 2);
	bed_assert_ok(bed, account_wait(twins_are_shared, NULL, HANG_MS));
	share_check_all();
	share_finish();
}

/* Whose test begins to scan once it has written: the faults of writing would be debts of the scanner, who would pay for them for minutes. */
static int set_up_quick_scanner(void **state)
{
	return share_make_scanner(SHARE_COLD_MS / 4, 0);
}

#define WANTED (6 * OB_CHUNK_PAGES + 3)

/* Asks for the bytes of a page all the time, as if another machine had its equal. */
static int wanted_is_offered_again(void *context)
{
	static uint8_t bytes[OB_PAGE_SIZE];
	struct ob_share_offer offers[256];
	unsigned n, *times = context;

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++)
			*times += offers[i].page == keeper_page(0, WANTED);
	return ob_engine_share_fetch(bed->engine, keeper_page(0, WANTED), 0, 0, bytes) == -ENOENT && *times >= 4;
}

/* What nobody wanted and is wanted now is looked at in the next round, not when its chunk's turn comes. */
static void what_is_wanted_has_its_turn_in_the_next_round(void **state)
{
	unsigned times = 0;
	uint64_t before;

	share_write_different();
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(share_chunks_are_backed_off, NULL, HANG_MS));
	keeper_halt(&keeper);
	before = bed_stats(bed).scan_pages;
	bed_assert_ok(bed, account_wait(wanted_is_offered_again, &times, HANG_MS));
	print_message("# offered %u times; %.2f times all was lifted\n", times,
		      (double)(bed_stats(bed).scan_pages - before) / (RAMS * RAM_PAGES));
	assert_true(bed_stats(bed).scan_pages - before < 2 * RAMS * RAM_PAGES);
	share_check_all();
	share_assert_holds();
}

#define FEW 64u /* pages: so few that no offer is lost */

struct looks {
	unsigned of_wanted;
	unsigned changed; /* of the wanted page */
	unsigned goal;
};

/* Takes offers until the page was seen changed, or offered so often; nothing else ever changes. */
static int wanted_was_looked_at(void *context)
{
	static uint8_t bytes[OB_PAGE_SIZE];
	struct ob_share_offer offers[256];
	struct looks *looks = context;
	unsigned n;

	/* As if somebody had its equal: so that it is looked at in each round. */
	(void)!ob_engine_share_fetch(bed->engine, keeper_page(0, WANTED), 0, 0, bytes);

	while ((n = ob_engine_share_offers(bed->engine, offers, 256)))
		for (unsigned i = 0; i < n; i++) {
			unsigned changed = offers[i].class >> OB_SHARE_CHANGED_SHIFT;
			int is_wanted = offers[i].page == keeper_page(0, WANTED);

			/* It has no store, and so goes on taking memory. */
			assert_int_equal(offers[i].class & ((1u << OB_SHARE_CHANGED_SHIFT) - 1), OB_SHARE_USED);
			looks->of_wanted += is_wanted;
			if (is_wanted)
				looks->changed |= changed;
			else
				assert_int_equal(changed, 0);
		}
	return looks->changed || looks->of_wanted >= looks->goal;
}

static void expect_looks(unsigned goal, unsigned changed)
{
	struct looks looks = { .goal = goal };

	bed_assert_ok(bed, account_wait(wanted_was_looked_at, &looks, HANG_MS));
	assert_int_equal(looks.changed, changed);
}

/* Two writes, of which either may be seen alone; until there is nothing left to be seen. */
static void expect_both_ends(unsigned changed)
{
	struct looks looks;
	unsigned seen = 0;

	do {
		looks = (struct looks){ .goal = 2 };
		bed_assert_ok(bed, account_wait(wanted_was_looked_at, &looks, HANG_MS));
		seen |= looks.changed;
	} while (looks.changed || seen != changed);
}

/* The class of an offer says which sub-pages have been written since the look before; no memory is used when nobody asks. */
static void a_page_written_in_one_sub_page_has_that_class(void **state)
{
	static const struct {
		unsigned subpages, at_2053, at_both_ends;
	} cases[] = { { 1, 1, 1 }, { 2, 2, 3 }, { 4, 4, 9 }, { 8, 16, 129 } };
	uint8_t *bytes = ram_page(ram[0], WANTED);
	uint64_t tables;

	for (uint32_t page = WANTED - 3; page < WANTED - 3 + FEW; page++)
		ram_write_twin(ram[0], page, page);
	share_begin_scanning();
	expect_looks(2, 0);
	tables = bed_stats(bed).tables_bytes;
	for (unsigned i = 0; i < OB_ARRAY_LEN(cases); i++) {
		bed_assert_ok(bed, ob_engine_share_subpages(bed->engine, cases[i].subpages));
		expect_looks(2, 0);
		assert_int_equal(bed_stats(bed).tables_bytes, tables + OB_PAGE_SIZE); /* one chunk */
		bytes[2053] ^= 1;
		expect_looks(100, cases[i].at_2053);
		expect_looks(2, 0);
		bytes[0] ^= 1;
		bytes[4095] ^= 1;
		expect_both_ends(cases[i].at_both_ends);
	}
	bed_assert_ok(bed, ob_engine_share_subpages(bed->engine, 0));
	assert_int_equal(bed_stats(bed).tables_bytes, tables);
	bytes[0] ^= 2;
	expect_looks(3, 0);
	bytes[0] ^= 2;
	assert_int_equal(ob_engine_share_subpages(bed->engine, 3), -EINVAL);
	assert_int_equal(ob_engine_share_subpages(bed->engine, 16), -EINVAL);
	/* With tables there is an end, too. */
	bed_assert_ok(bed, ob_engine_share_subpages(bed->engine, 4));
	expect_looks(2, 0);
	share_check_all();
	share_assert_holds();
}

#define ZEROS 8u /* in each chunk */

/* Pages that nobody else has, but for a few of zeros: so that each chunk gets holes, in which it is no large page. */
static void write_with_zeros(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % OB_CHUNK_PAGES < ZEROS)
				ram_write(ram[i], page, PATTERN_ZERO, 0);
			else
				ram_write_twin(ram[i], page, i * RAM_PAGES + page);
}

/* The same in two pages of each chunk, and something new in as many others as make a hundredth. */
static void write_a_few(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++) {
			uint32_t at = page % OB_CHUNK_PAGES;

			if (at == 100 || at == 101)
				ram_write_twin(ram[i], page, 2 * RAM_PAGES + i * RAM_PAGES + page - at);
			else if (at > 101 && at % 101 == 0)
				ram_write_twin(ram[i], page, 4 * RAM_PAGES + i * RAM_PAGES + page);
		}
}

static int zeros_have_gone(void *context)
{
	return bed_stats(bed).zero_bytes == RAMS * RAM_PAGES / OB_CHUNK_PAGES * ZEROS * OB_PAGE_SIZE;
}

static int so_much_was_passed_over(void *context)
{
	return bed_stats(bed).scan_unwritten_pages >= *(const uint64_t *)context;
}

static int written_twins_are_shared(void *context)
{
	return bed_stats(bed).shared_bytes == RAMS * RAM_PAGES / OB_CHUNK_PAGES * 2 * OB_PAGE_SIZE;
}

static void what_has_not_been_written_is_not_read_again(void **state)
{
	uint64_t all = RAMS * RAM_PAGES, goal = 4 * all;
	struct ob_stats before, stats;

	write_with_zeros();
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(zeros_have_gone, NULL, HANG_MS));
	bed_assert_ok(bed, account_wait(so_much_was_passed_over, &goal, HANG_MS));
	before = bed_stats(bed);
	goal = before.scan_unwritten_pages + 8 * all;
	bed_assert_ok(bed, account_wait(so_much_was_passed_over, &goal, HANG_MS));
	stats = bed_stats(bed);
	print_message("# %llu pages passed over, %llu looked at, in %.1f ms of CPU\n",
		      (unsigned long long)(stats.scan_unwritten_pages - before.scan_unwritten_pages),
		      (unsigned long long)(stats.scan_pages - before.scan_pages), (double)(stats.scan_cpu_ns - before.scan_cpu_ns) / 1e6);
	assert_true(stats.scan_pages - before.scan_pages < 3 * all);
	/* Where armed pages were there is room for zeros, and for what the scanner lifted from around them. */
	for (unsigned i = 0; i < RAMS; i++)
		bed_assert_ok(bed, ram_discard(ram[i], bed->engine, 2 * OB_CHUNK_PAGES + 50, 700));
	write_a_few();
	bed_assert_ok(bed, account_wait(written_twins_are_shared, NULL, HANG_MS));
	share_finish();
}

static int set_up_unarmed_scanner(void **state)
{
	setenv("OVERBOOK_PRETEND_WITHOUT", "wp_async", 1);
	set_up_quick_scanner(state);
	unsetenv("OVERBOOK_PRETEND_WITHOUT");
	return 0;
}

static int so_much_was_looked_at(void *context)
{
	return bed_stats(bed).scan_pages >= *(const uint64_t *)context;
}

/* Where the kernel does not say what has been written, everything is looked at each time. */
static void without_marks_everything_is_read_again(void **state)
{
	uint64_t all = RAMS * RAM_PAGES, goal;
	struct ob_stats before, stats;

	write_with_zeros();
	share_begin_scanning();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(zeros_have_gone, NULL, HANG_MS));
	before = bed_stats(bed);
	goal = before.scan_pages + 3 * all;
	bed_assert_ok(bed, account_wait(so_much_was_looked_at, &goal, HANG_MS));
	stats = bed_stats(bed);
	print_message("# %llu pages looked at, in %.1f ms of CPU\n", (unsigned long long)(stats.scan_pages - before.scan_pages),
		      (double)(stats.scan_cpu_ns - before.scan_cpu_ns) / 1e6);
	assert_int_equal(stats.scan_unwritten_pages, 0);
	write_a_few();
	bed_assert_ok(bed, account_wait(written_twins_are_shared, NULL, HANG_MS));
	share_finish();
}

static int pool_is_shared(void *context)
{
	return bed_stats(bed).shared_bytes >= 20 * OB_MIB;
}

/* Whoever keeps the index now has not heard of what was evicted before. */
static void what_was_evicted_before_is_offered_too(void **state)
{
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 16 * OB_MIB));
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_int_equal(bed_stats(bed).share_offered_pages, 0);
	bed_assert_ok(bed, keeper_run(&keeper));
	share_begin_scanning();
	bed_assert_ok(bed, account_wait(pool_is_shared, NULL, HANG_MS));
	assert_int_equal(bed_stats(bed).faults_compressed, 0);
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

static void scanning_races_with_writers(void **state)
{
	uint64_t ops_each = bed_scale(10000, 40000, 1000000);
	struct crew_config config = { .engine = bed->engine, .rams = { ram[0], ram[1] }, .ram_count = RAMS, .players = 3,
				      .ops_each = ops_each, .seed = 12, .mix = CREW_EVERYTHING, .disk_dir = bed_dir() };
	struct ob_stats stats;
	struct crew *crew;

	keeper.lies = 1;
	share_write_twins();
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	bed_assert_ok(bed, crew_wait_ops(crew, ops_each, HANG_MS));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 24 * OB_MIB));
	bed_assert_ok(bed, crew_wait_ops(crew, 2 * ops_each, HANG_MS));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	stats = bed_stats(bed);
	print_message("# %llu pages looked at, %llu of them wanted back; %llu adopted, %llu refused\n",
		      (unsigned long long)stats.scan_pages, (unsigned long long)stats.scan_returned_pages,
		      (unsigned long long)stats.share_adopted_pages, (unsigned long long)stats.share_refused_pages);
	assert_true(stats.share_adopted_pages > 100);
	share_finish_race();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(scanning_shares_equal_pages_without_a_limit, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(scanning_drops_zero_pages_without_anybody_s_help, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_nobody_wants_goes_back, set_up_resting_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_lies_around_others_goes_back, set_up_resting_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_comes_back_soon_is_left_in_place, set_up_scanner, share_tear_down),
		cmocka_unit_test(warmth_rises_and_falls),
		cmocka_unit_test_setup_teardown(scanning_keeps_to_its_allowance_and_sleeps_when_it_is_off, set_up_resting_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(another_pace_is_no_beginning, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(a_guest_is_not_held_up_in_vain, set_up_resting_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(new_memory_is_looked_at_whatever_was_in_vain, set_up_resting_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_is_wanted_has_its_turn_in_the_next_round, set_up_quick_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_has_not_been_written_is_not_read_again, set_up_quick_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(a_page_written_in_one_sub_page_has_that_class, set_up_quick_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(without_marks_everything_is_read_again, set_up_unarmed_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(what_was_evicted_before_is_offered_too, set_up_scanner, share_tear_down),
		cmocka_unit_test_setup_teardown(scanning_races_with_writers, set_up_scanner, share_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
