/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a machine is taken to need: how soon it is believed, and how long. Seconds are the test's own. */
#include "test.h"

#include "base/clock.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "daemon/working_set.h"

#define MOST (4 * OB_GIB)
#define GRAIN (MOST / 64)

static uint64_t now_ns;
static struct ob_working_set set;
static struct ob_stats stats;

static int set_up(void **state)
{
	now_ns = OB_NS_PER_SEC;
	ob_working_set_forget(&set);
	stats = (struct ob_stats){ .ram_bytes = 4 * OB_GIB, .absent_bytes = 2 * OB_GIB, .cost_bytes = 2 * OB_GIB, .active_samples = 1000 };
	return 0;
}

static void seconds_of(uint64_t most_bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		now_ns += OB_NS_PER_SEC;
		ob_working_set_step(&set, &stats, most_bytes, now_ns);
	}
}

static void seconds(unsigned n)
{
	seconds_of(MOST, n);
}

static void it_is_not_known_before_there_are_samples(void **state)
{
	stats.active_samples = 15;
	seconds(100);
	assert_true(set.believed_bytes == OB_BUDGET_NONE);
	/* Two of 18 samples more than were active of 16: a ninth of 2 GiB, an eighth on top. */
	stats.active_samples = 16;
	seconds(1);
	assert_in_range(set.believed_bytes, 2 * OB_GIB / 8, 2 * OB_GIB / 8 + GRAIN);
	ob_working_set_forget(&set);
	assert_true(set.believed_bytes == OB_BUDGET_NONE);
}

static void it_rises_at_once_and_falls_after_a_rest(void **state)
{
	uint64_t before;

	stats.active_bytes = OB_GIB;
	seconds(1);
	before = set.believed_bytes;
	assert_in_range(before, OB_GIB + OB_GIB / 8, OB_GIB + OB_GIB / 8 + GRAIN);
	stats.active_bytes = 0;
	seconds(3);
	stats.active_bytes = OB_GIB / 4;
	seconds(1);
	stats.active_bytes = 0;
	seconds(5);
	assert_int_equal(set.believed_bytes, before);
	/* To the most of that time, and after another rest to what it is. */
	seconds(1);
	assert_in_range(set.believed_bytes, OB_GIB / 4 + OB_GIB / 32, OB_GIB / 4 + OB_GIB / 32 + GRAIN);
	seconds(10);
	assert_in_range(set.believed_bytes, 0, 2 * GRAIN);
	stats.active_bytes = OB_GIB;
	seconds(1);
	assert_int_equal(set.believed_bytes, before);
}

/* Its guest waits for memory: who waits uses little. */
static void it_falls_a_rest_after_it_was_kept(void **state)
{
	uint64_t before, wanted;

	stats.active_bytes = OB_GIB;
	seconds(1);
	before = set.believed_bytes;
	wanted = set.wanted_bytes;
	stats.active_bytes = OB_GIB / 4;
	stats.cost_bytes = OB_GIB;
	stats.absent_bytes = 3 * OB_GIB;
	for (unsigned i = 0; i < 30; i++) {
		ob_working_set_keep(&set, now_ns);
		seconds(1);
		assert_int_equal(set.believed_bytes, before);
		assert_int_equal(set.wanted_bytes, wanted);
	}
	stats.active_bytes = 0;
	seconds(8);
	assert_int_equal(set.believed_bytes, before);
	assert_int_equal(set.wanted_bytes, wanted);
	/* To the most of that time, which is none of the time before. */
	seconds(2);
	assert_in_range(set.wanted_bytes, OB_GIB, wanted - 1);
	assert_true(set.believed_bytes < before);
}

/* A guest whose use goes up and down faster than it rests keeps what it needs at the most. */
static void what_swings_is_believed_at_its_height(void **state)
{
	uint64_t height;

	stats.active_bytes = OB_GIB;
	seconds(1);
	height = set.believed_bytes;
	for (unsigned i = 0; i < 100; i++) {
		stats.active_bytes = i % 2 ? OB_GIB : OB_GIB / 2;
		seconds(4);
		assert_int_equal(set.believed_bytes, height);
	}
}

static void small_changes_move_nothing(void **state)
{
	uint64_t before;

	stats.active_bytes = OB_GIB;
	seconds(1);
	before = set.believed_bytes;
	for (unsigned i = 0; i < 200; i++) {
		stats.active_bytes = OB_GIB - (i * 7919 % 97) * OB_MIB;
		seconds(1);
		assert_int_equal(set.believed_bytes, before);
	}
}

/* Before samples say so: 20000 pages a second come back, which is 1.2 GiB in 16 seconds. */
static void what_comes_back_counts_at_once(void **state)
{
	stats.compressed_bytes = OB_GIB;
	stats.swapped_bytes = OB_GIB / 2;
	seconds(1);
	for (unsigned i = 0; i < 4; i++) {
		stats.faults_compressed += 10000;
		stats.faults_swapped += 10000;
		seconds(1);
	}
	assert_in_range(set.demand.bytes, 3 * 20000 * 4096ull, 4 * 20000 * 4096ull);
	assert_true(set.believed_bytes >= set.demand.bytes);
	/* Never more than there is to come back. */
	stats.faults_compressed += 10000000;
	seconds(1);
	assert_int_equal(set.demand.bytes, OB_GIB + OB_GIB / 2);
	seconds(300);
	assert_in_range(set.demand.bytes, 0, OB_MIB);
	assert_in_range(set.believed_bytes, 0, 2 * GRAIN);
	/* An engine that began anew counts from 0. */
	stats.faults_compressed = stats.faults_swapped = 0;
	seconds(1);
	assert_in_range(set.demand.bytes, 0, OB_MIB);
}

/* 400 MiB are in place and 200 in the pool, and nothing comes back: however many samples were touched, no more than that is used. */
static void no_more_is_used_than_is_in_place_or_came_back(void **state)
{
	uint64_t before;

	stats.active_bytes = 2 * OB_GIB;
	stats.cost_bytes = 600 * OB_MIB;
	stats.pool_bytes = 200 * OB_MIB;
	stats.swapped_bytes = stats.shared_bytes = OB_GIB;
	seconds(1);
	assert_in_range(set.believed_bytes, 450 * OB_MIB, 450 * OB_MIB + GRAIN);
	/* What comes back is in use, and who lacks it comes first. */
	before = set.believed_bytes;
	stats.faults_swapped += 100 * OB_MIB / 4096;
	stats.faults_shared += 100 * OB_MIB / 4096;
	seconds(1);
	assert_in_range(set.believed_bytes, before + 400 * OB_MIB, before + 450 * OB_MIB + GRAIN);
}

/* After a cut 400 MiB come back, and nothing goes for them: they are in place then, and it uses no more than is. */
static void what_comes_back_and_stays_is_in_place(void **state)
{
	stats.active_bytes = 2 * OB_GIB;
	stats.cost_bytes = 200 * OB_MIB;
	stats.swapped_bytes = stats.shared_bytes = OB_GIB;
	seconds(1);
	for (unsigned i = 0; i < 20; i++) {
		stats.faults_swapped += 5 * OB_MIB / 4096;
		stats.swap_in_pages += 10 * OB_MIB / 4096;
		stats.faults_shared += 5 * OB_MIB / 4096;
		stats.share_dropped_pages += 10 * OB_MIB / 4096;
		stats.cost_bytes += 20 * OB_MIB;
		seconds(1);
	}
	assert_int_equal(set.demand.bytes + set.shared.bytes + set.all.bytes, 0);
	assert_in_range(set.believed_bytes, 600 * OB_MIB + ob_budget_marks(600 * OB_MIB), 600 * OB_MIB + ob_budget_marks(600 * OB_MIB) + GRAIN);
	/* Now half of what comes has to go again: of two pages that were asked for one is lacking. */
	stats.faults_swapped += 40 * OB_MIB / 4096;
	stats.swap_in_pages += 40 * OB_MIB / 4096;
	stats.cost_bytes += 20 * OB_MIB;
	seconds(1);
	assert_int_equal(set.demand.bytes, 20 * OB_MIB);
	assert_int_equal(set.all.bytes, 20 * OB_MIB);
	/* A cut: what had stayed of late is lacking, in the parts in which it came. */
	stats.cost_bytes -= 400 * OB_MIB;
	seconds(1);
	assert_in_range(set.all.bytes, 200 * OB_MIB, 300 * OB_MIB);
	assert_in_range(set.demand.bytes, set.all.bytes / 4, set.all.bytes / 2);
	assert_int_equal(set.all.stays_bytes, 0);
}

/* At its limit, with the marks of an engine: 3 MiB a second come back, and every seventh second 21 have to go. As if they went one by one. */
static void a_reclaimer_that_works_now_and_then_hides_nothing(void **state)
{
	uint64_t least = UINT64_MAX;

	stats.cost_bytes = OB_GIB;
	stats.swapped_bytes = OB_GIB;
	for (unsigned i = 0; i < 140; i++) {
		stats.faults_swapped += 3 * OB_MIB / 4096;
		stats.swap_in_pages += 3 * OB_MIB / 4096;
		stats.cost_bytes += 3 * OB_MIB;
		if (i % 7 == 6)
			stats.cost_bytes -= 21 * OB_MIB;
		seconds(1);
		if (i > 70)
			least = OB_MIN(least, set.demand.bytes);
	}
	/* Decayed by up to a rest of seven seconds: two thirds of 48 MiB, in the worst of them. */
	assert_in_range(least, 16 * OB_MIB, 48 * OB_MIB);
}

/* It goes through 4 GiB in order, of which little is in place: what comes along with each fault is used as well. */
static void what_comes_along_may_be_in_use(void **state)
{
	stats.active_bytes = 2 * OB_GIB;
	stats.cost_bytes = 600 * OB_MIB;
	stats.swapped_bytes = stats.compressed_bytes = OB_GIB;
	stats.compressed_pages = stats.compressed_bytes / 4096;
	seconds(1);
	for (unsigned i = 0; i < 60; i++) {
		stats.faults_swapped += 20 * OB_MIB / 4096 / 32;
		stats.faults_compressed += 20 * OB_MIB / 4096 / 32;
		stats.swap_in_pages += 20 * OB_MIB / 4096;
		stats.compressed_pages += 20 * OB_MIB / 4096;
		seconds(1);
	}
	/* 40 MiB a second over 16 seconds. */
	assert_in_range(set.believed_bytes, (600 + 600) * OB_MIB + ob_budget_marks(1200 * OB_MIB), (600 + 700) * OB_MIB * 9 / 8 + GRAIN);
}

/* What is lost in the time in which demand decays is all of it, however much there was. */
static void a_long_time_leaves_nothing_of_demand(void **state)
{
	stats.swapped_bytes = OB_GIB + OB_GIB / 2;
	seconds(1);
	stats.faults_swapped = (OB_GIB + OB_GIB / 2) / 4096;
	seconds(1);
	assert_int_equal(set.demand.bytes, OB_GIB + OB_GIB / 2);
	now_ns += 20 * OB_NS_PER_SEC;
	ob_working_set_step(&set, &stats, MOST, now_ns);
	assert_int_equal(set.demand.bytes, 0);
}

static void assert_wanted(uint64_t bytes)
{
	assert_in_range(set.wanted_bytes, bytes + bytes / 16, bytes + bytes / 16 + GRAIN - 1);
}

/* 1 GiB in place and 400 MiB of pool, and 2 GiB away. */
static void it_wants_what_is_in_place_and_some_more(void **state)
{
	stats.absent_bytes = 0;
	stats.cost_bytes = OB_GIB + 400 * OB_MIB;
	stats.pool_bytes = 400 * OB_MIB;
	stats.compressed_bytes = OB_GIB;
	stats.swapped_bytes = OB_GIB;
	seconds(1);
	/* An eighth of what is away, which is less than the pool. */
	assert_wanted(OB_GIB + 256 * OB_MIB);
	/* It comes back: another quarter; and more than there is. */
	stats.faults_swapped += 512 * OB_MIB / 4096;
	seconds(1);
	assert_wanted(OB_GIB + 768 * OB_MIB);
	stats.faults_swapped += 4 * OB_GIB / 4096;
	seconds(1);
	assert_wanted(3 * OB_GIB);
}

static void what_it_wants_rises_at_once_and_falls_after_a_rest(void **state)
{
	uint64_t wanted;

	stats.cost_bytes = OB_GIB;
	seconds(1);
	assert_wanted(OB_GIB);
	/* What rises between two looks counts at the report, and from then on. */
	stats.cost_bytes = 2 * OB_GIB;
	now_ns += OB_NS_PER_SEC / 2;
	ob_working_set_note(&set, &stats, MOST, now_ns);
	wanted = set.wanted_bytes;
	assert_wanted(2 * OB_GIB);
	/* It falls at once to what is wanted then, after a rest. */
	stats.cost_bytes = OB_GIB;
	seconds(9);
	assert_int_equal(set.wanted_bytes, wanted);
	seconds(1);
	assert_wanted(OB_GIB);
	/* A small one has room to grow all the same. */
	stats.cost_bytes = 10 * OB_MIB;
	seconds(30);
	assert_in_range(set.wanted_bytes, 74 * OB_MIB, 74 * OB_MIB + GRAIN);
}

/* Of which no number of grains needs to be made up. */
static void nothing_is_more_than_it_could_cost(void **state)
{
	uint64_t most = MOST + 4 * OB_MIB + 1;

	stats.absent_bytes = 0;
	stats.active_bytes = stats.cost_bytes = MOST;
	now_ns += OB_NS_PER_SEC;
	ob_working_set_step(&set, &stats, most, now_ns);
	assert_int_equal(set.wanted_bytes, most);
	assert_int_equal(set.believed_bytes, most);
}

static uint64_t width(unsigned samples, uint64_t active_bytes)
{
	ob_working_set_forget(&set);
	stats.active_samples = samples;
	stats.active_bytes = active_bytes;
	seconds(1);
	assert_true(set.low_bytes <= set.believed_bytes && set.believed_bytes <= set.high_bytes);
	return set.high_bytes - set.low_bytes;
}

static void it_is_told_how_sure_that_is(void **state)
{
	const uint64_t full = 2 * OB_GIB + ob_budget_marks(2 * OB_GIB);

	stats.active_samples = 15;
	seconds(1);
	assert_true(set.low_bytes == OB_BUDGET_NONE && set.high_bytes == OB_BUDGET_NONE);
	/* Wilson's interval for half of 16 and of 64: 28% to 72%, 38% to 62%; of 2 GiB, and an eighth. */
	assert_in_range(width(16, OB_GIB), OB_GIB - 3 * GRAIN, OB_GIB + GRAIN);
	assert_in_range(set.low_bytes, 2 * OB_GIB / 100 * 28 * 9 / 8, 2 * OB_GIB / 100 * 28 * 9 / 8 + GRAIN);
	assert_in_range(width(64, OB_GIB), OB_GIB / 2, OB_GIB / 2 + 2 * GRAIN);
	/* More samples say no more. */
	assert_int_equal(width(64, OB_GIB), width(100000, OB_GIB));
	/* None of 16, and all: up to 19%, and from 81% on. */
	assert_in_range(width(16, 0), 2 * OB_GIB / 100 * 19 * 9 / 8 - GRAIN, 2 * OB_GIB / 100 * 20 * 9 / 8 + GRAIN);
	/* ... but no more than it costs, and what is left free below a limit. */
	assert_in_range(width(16, 2 * OB_GIB), full - 2 * OB_GIB / 100 * 81 * 9 / 8 - GRAIN, full - 2 * OB_GIB / 100 * 80 * 9 / 8 + GRAIN);
	/* What is in place and comes back bounds the most of it, too. */
	stats.cost_bytes = 600 * OB_MIB;
	assert_in_range(width(16, OB_GIB), 0, GRAIN);
	/* What is believed of a moment ago is within. */
	stats.cost_bytes = 2 * OB_GIB;
	(void)width(64, OB_GIB);
	stats.active_bytes = 0;
	seconds(3);
	assert_true(set.high_bytes == set.believed_bytes && set.low_bytes < OB_GIB / 4);
}

static double draw(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15ull;

	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (double)(state >> 11) / (double)(1ull << 53);
}

/* What the engine makes of samples (engine/active.c): the larger of a short and of a long memory. */
static void sample(double share, unsigned samples)
{
	double average[2] = { 0 }, weight[2] = { 0 }, keep[2] = { 1 - 1 / 32.0, 1 - 1 / 128.0 };

	for (unsigned i = 0; i < samples; i++) {
		bool is_active = draw() < share;

		for (unsigned k = 0; k < 2; k++) {
			average[k] = average[k] * keep[k] + is_active;
			weight[k] = weight[k] * keep[k] + 1;
		}
	}
	stats.active_samples = (uint64_t)weight[1];
	stats.active_bytes = (uint64_t)(2.0 * OB_GIB * OB_MAX(average[0] / weight[0], average[1] / weight[1]));
}

/* Of a thousand machines that use as much, nineteen of twenty are within their bounds, or nearly. */
static void so_sure_it_is(void **state)
{
	static const double shares[] = { 0.05, 0.3, 0.7, 0.95 };
	static const unsigned counts[] = { 18, 40, 80, 160, 600 };

	for (size_t i = 0; i < OB_ARRAY_LEN(shares) * OB_ARRAY_LEN(counts); i++) {
		double share = shares[i % OB_ARRAY_LEN(shares)];
		uint64_t used = (uint64_t)(share * 2.0 * OB_GIB), exact = used + OB_MAX(used / 8, ob_budget_marks(used));
		uint64_t most = 2 * OB_GIB + ob_budget_marks(2 * OB_GIB);
		unsigned within = 0;

		exact = OB_MIN(exact, most);
		for (unsigned round = 0; round < 1000; round++) {
			ob_working_set_forget(&set);
			sample(share, counts[i / OB_ARRAY_LEN(shares)]);
			seconds_of(OB_BUDGET_NONE, 1);
			/* Steps round up. */
			within += set.low_bytes <= exact + exact / 16 && exact <= set.high_bytes;
		}
		assert_in_range(within, 930, 1000);
	}
}

static void agents_may_say_anything(void **state)
{
	uint64_t seed = 0x13198a2e03707344ull, *fields = (uint64_t *)&stats;

	for (unsigned round = 0; round < 20000; round++) {
		uint64_t most;

		for (size_t i = 0; i < sizeof(stats) / sizeof(*fields); i++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			fields[i] = seed >> (seed >> 8) % 64;
		}
		most = seed % 3 ? seed >> 24 : OB_BUDGET_NONE;
		now_ns += seed % (100 * OB_NS_PER_SEC);
		ob_working_set_step(&set, &stats, most, now_ns);
		assert_true(set.believed_bytes == OB_BUDGET_NONE || set.believed_bytes < 1ull << 58);
		assert_true(set.wanted_bytes < 1ull << 58);
		assert_true(set.low_bytes <= set.believed_bytes && set.believed_bytes <= set.high_bytes);
		assert_true(set.high_bytes < 1ull << 58 || set.low_bytes == OB_BUDGET_NONE);
	}
}

#define SMALL (180 * OB_MIB)

/* A guest of 176 MiB that uses few of them: with what lies below its marks, to half a MiB. Less by two steps is told, by one is not. */
static void little_use_is_told_in_small_steps(void **state)
{
	uint64_t before;

	stats = (struct ob_stats){ .ram_bytes = 176 * OB_MIB, .absent_bytes = 16 * OB_MIB, .cost_bytes = 160 * OB_MIB, .active_samples = 1u << 16,
				   .tables_bytes = OB_MIB };
	for (uint64_t used = 2 * OB_MIB; used <= 100 * OB_MIB; used += OB_MIB / 4 + 12345) {
		uint64_t exact = used + OB_MAX(used / 8, ob_budget_marks(used)) + OB_MIB, step = OB_MAX(exact / 32, OB_MIB / 4);

		ob_working_set_forget(&set);
		stats.active_bytes = used;
		seconds_of(SMALL, 1);
		assert_in_range(set.believed_bytes, exact, exact + step + OB_MIB / 64);
		before = set.believed_bytes;
		stats.active_bytes = used - OB_MIB / 8;
		seconds_of(SMALL, 100);
		assert_in_range(set.believed_bytes, ob_less(before, step + OB_MIB / 64), before);
		stats.active_bytes = ob_less(used, 3 * step);
		seconds_of(SMALL, 100);
		assert_true(set.believed_bytes < before);
	}
}

/* Up and down over where steps become larger: once a rest at most, and never below what it is. */
static void steps_change_size_quietly(void **state)
{
	unsigned changes = 0;
	uint64_t before = 0;

	stats = (struct ob_stats){ .ram_bytes = 176 * OB_MIB, .absent_bytes = 16 * OB_MIB, .cost_bytes = 160 * OB_MIB, .active_samples = 1u << 16 };
	for (unsigned i = 0; i < 1000; i++) {
		stats.active_bytes = 14 * OB_MIB + (i * 7919 % 97) * OB_MIB / 97 / 2; /* with an eighth more, about 16 */
		seconds_of(SMALL, 1);
		assert_true(set.believed_bytes >= stats.active_bytes + OB_MIB);
		changes += set.believed_bytes != before;
		before = set.believed_bytes;
	}
	assert_in_range(changes, 1, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(it_is_not_known_before_there_are_samples, set_up),
		cmocka_unit_test_setup(it_rises_at_once_and_falls_after_a_rest, set_up),
		cmocka_unit_test_setup(it_falls_a_rest_after_it_was_kept, set_up),
		cmocka_unit_test_setup(what_swings_is_believed_at_its_height, set_up),
		cmocka_unit_test_setup(small_changes_move_nothing, set_up),
		cmocka_unit_test_setup(what_comes_back_counts_at_once, set_up),
		cmocka_unit_test_setup(no_more_is_used_than_is_in_place_or_came_back, set_up),
		cmocka_unit_test_setup(what_comes_back_and_stays_is_in_place, set_up),
		cmocka_unit_test_setup(a_reclaimer_that_works_now_and_then_hides_nothing, set_up),
		cmocka_unit_test_setup(what_comes_along_may_be_in_use, set_up),
		cmocka_unit_test_setup(a_long_time_leaves_nothing_of_demand, set_up),
		cmocka_unit_test_setup(it_wants_what_is_in_place_and_some_more, set_up),
		cmocka_unit_test_setup(what_it_wants_rises_at_once_and_falls_after_a_rest, set_up),
		cmocka_unit_test_setup(nothing_is_more_than_it_could_cost, set_up),
		cmocka_unit_test_setup(it_is_told_how_sure_that_is, set_up),
		cmocka_unit_test_setup(so_sure_it_is, set_up),
		cmocka_unit_test_setup(agents_may_say_anything, set_up),
		cmocka_unit_test_setup(little_use_is_told_in_small_steps, set_up),
		cmocka_unit_test_setup(steps_change_size_quietly, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
