/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The four policies on a simulated host (large_sim.h): what each swaps, and what it keeps of large pages. Lines that start
 * with "#" are the table of docs/large-pages.md.
 */
#include "test.h"

#include "large_sim.h"

#define MOST_CHUNKS (SIM_BUDGET * 14 / 10) /* memory that machines fill: 1.4 times the budget */
#define SCAN_PAGES  10000u /* a second: bench/results/share-live.json has 18 MiB shared a second, on two cores */

static unsigned ramp(unsigned second, unsigned seconds)
{
	return second >= seconds ? MOST_CHUNKS : MOST_CHUNKS * second / seconds;
}

static unsigned slow(unsigned second)
{
	return ramp(second, 1800);
}

static unsigned medium(unsigned second)
{
	return ramp(second, 600);
}

static unsigned fast(unsigned second)
{
	return ramp(second, 120);
}

static unsigned burst(unsigned second)
{
	return ramp(second, 20);
}

/* Between 0.7 and 1.3 times the budget. */
static unsigned waves(unsigned second)
{
	unsigned at = second % 600;

	if (second < 600)
		return SIM_BUDGET * 7 / 10 * second / 600;
	at = at < 300 ? at : 600 - at;
	return SIM_BUDGET * 7 / 10 + SIM_BUDGET * 6 / 10 * at / 300;
}

/* Three quarters of the budget, and no more: plenty. */
static unsigned plenty(unsigned second)
{
	return second < 300 ? SIM_BUDGET * 3 / 4 * second / 300 : SIM_BUDGET * 3 / 4;
}

static struct sim_result run(enum ob_large_policy policy, unsigned (*chunks_at)(unsigned second), unsigned percent)
{
	struct sim_setting setting = { .policy = policy, .shareable_percent = percent, .scan_pages = SCAN_PAGES, .seconds = 2400,
				       .chunks_at = chunks_at };

	return sim_run(&setting);
}

static uint64_t mib(uint64_t pages)
{
	return pages / 256;
}

/* All policies on one trace; tells what they did. */
static void run_all(const char *name, unsigned (*chunks_at)(unsigned second), unsigned percent, struct sim_result *ret)
{
	for (int policy = 0; policy < OB_LARGE_POLICIES; policy++) {
		struct sim_result r = run(policy, chunks_at, percent);

		print_message("# %2u%% %-6s %-9s swapped %5llu MiB, back %5llu, shared %4llu at the end; hot pages large %3llu%% of the time; "
			      "broken %llu, by eviction %llu, collapsed %llu, looks %llu, changes %llu\n", percent, name,
			      ob_large_policy_name(policy), (unsigned long long)mib(r.swapped_pages), (unsigned long long)mib(r.returned_pages),
			      (unsigned long long)mib(r.shared_pages),
			      (unsigned long long)(r.hot_seconds ? 100 * r.hot_large_seconds / r.hot_seconds : 0),
			      (unsigned long long)r.broken, (unsigned long long)r.forced, (unsigned long long)r.collapsed,
			      (unsigned long long)r.sampled, (unsigned long long)r.changes);
		ret[policy] = r;
	}
	assert_int_equal(ret[OB_LARGE_NEVER].broken, 0);
}

/* The issue's figure: where half is shareable, and the scanner could keep up with those who fill memory. */
static void half_of_what_late_swaps_at_most(const char *name, unsigned (*chunks_at)(unsigned second), unsigned late_mib)
{
	struct sim_result r[OB_LARGE_POLICIES];

	run_all(name, chunks_at, 50, r);
	assert_true(2 * r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_LATE].swapped_pages);
	assert_true(r[OB_LARGE_LATE].swapped_pages <= r[OB_LARGE_NEVER].swapped_pages);
	/* That says nothing where late swaps nothing either. */
	assert_true(mib(r[OB_LARGE_LATE].swapped_pages) >= late_mib);
}

static void filled_slowly(void **state)
{
	half_of_what_late_swaps_at_most("slow", slow, 0);
}

static void filled_at_the_rate_of_sharing(void **state)
{
	half_of_what_late_swaps_at_most("medium", medium, 500);
}

static void filled_in_waves(void **state)
{
	half_of_what_late_swaps_at_most("waves", waves, 100);
}

/* Faster than anybody can share: nothing helps much, large pages or not. It must be no worse than late, and near to having none. */
static void filled_faster_than_can_be_shared(void **state)
{
	struct sim_result r[OB_LARGE_POLICIES];

	run_all("fast", fast, 50, r);
	assert_true(r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_LATE].swapped_pages);
	assert_true(r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_OFF].swapped_pages * 5 / 4);
	run_all("burst", burst, 50, r);
	assert_true(r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_LATE].swapped_pages);
	assert_true(r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_OFF].swapped_pages * 5 / 4);
}

static void with_plenty_no_hot_large_page_is_lost(void **state)
{
	struct sim_result r[OB_LARGE_POLICIES];

	run_all("plenty", plenty, 50, r);
	assert_int_equal(r[OB_LARGE_PROACTIVE].swapped_pages, 0);
	assert_int_equal(r[OB_LARGE_PROACTIVE].hot_large_seconds, r[OB_LARGE_PROACTIVE].hot_seconds);
	assert_true(r[OB_LARGE_PROACTIVE].shared_pages > 0); /* of cold ones */
	assert_int_equal(r[OB_LARGE_OFF].hot_large_seconds, 0);
}

/* Nothing to share: nothing is broken for it, and as much is swapped as by anybody. */
static void with_nothing_to_share_nothing_is_broken(void **state)
{
	struct sim_result r[OB_LARGE_POLICIES];

	run_all("medium", medium, 0, r);
	assert_int_equal(r[OB_LARGE_PROACTIVE].broken, 0);
	assert_int_equal(r[OB_LARGE_LATE].broken, 0);
	assert_true(r[OB_LARGE_PROACTIVE].swapped_pages <= r[OB_LARGE_NEVER].swapped_pages * 101 / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filled_slowly),
		cmocka_unit_test(filled_at_the_rate_of_sharing),
		cmocka_unit_test(filled_in_waves),
		cmocka_unit_test(filled_faster_than_can_be_shared),
		cmocka_unit_test(with_plenty_no_hot_large_page_is_lost),
		cmocka_unit_test(with_nothing_to_share_nothing_is_broken),
	};

	return cmocka_run_group_tests_name("large_policies", tests, NULL, NULL);
}
