/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a guest is taken to wait for memory: what it may say, how soon it is believed, and how long. Seconds are the test's own. */
#include "test.h"

#include "base/clock.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "daemon/stall.h"
#include "daemon/working_set.h"

#define SECOND OB_NS_PER_SEC

static uint64_t now_ns, some_us;
static struct ob_stall stall;

static int set_up(void **state)
{
	now_ns = 1000 * SECOND;
	some_us = 0;
	stall = (struct ob_stall){ 0 };
	ob_stall_note(&stall, true, some_us, now_ns);
	return 0;
}

static bool stalls(void)
{
	return ob_stall_is(&stall, now_ns);
}

static void report(uint64_t elapsed_ns, unsigned permille)
{
	now_ns += elapsed_ns;
	some_us += elapsed_ns / OB_NS_PER_US * permille / 1000;
	ob_stall_note(&stall, true, some_us, now_ns);
	assert_true(stalls() || !(ob_stall_goes_on(&stall, now_ns) || ob_stall_keeps(&stall, now_ns)));
}

/* Reports for so many seconds, or until it stalls, or does not. Returns how many. */
static unsigned seconds(unsigned n, unsigned permille)
{
	for (unsigned i = 0; i < n; i++)
		report(SECOND, permille);
	return n;
}

static unsigned until(bool wanted, unsigned permille)
{
	for (unsigned i = 0; i < 60; i++) {
		if (stalls() == wanted)
			return i;
		seconds(1, permille);
	}
	fail_msg("it never was so");
	return 0;
}

static void the_more_it_waits_the_sooner_it_is_seen(void **state)
{
	assert_in_range(until(true, 1000), 2, 2);
	set_up(NULL);
	assert_in_range(until(true, 200), 7, 9);
	set_up(NULL);
	assert_in_range(until(true, 120), 15, 20);
	set_up(NULL);
	seconds(1000, 95);
	assert_false(stalls());
	/* A moment is nothing, and nor is what comes and goes around the mean. */
	seconds(100, 0);
	report(SECOND, 900);
	assert_false(stalls());
	seconds(30, 0);
	for (unsigned i = 0; i < 200; i++) {
		seconds(1, i % 2 ? 170 : 0);
		assert_false(stalls());
	}
}

static void it_is_over_later_than_it_began(void **state)
{
	(void)until(true, 200);
	seconds(100, 70);
	assert_true(stalls() && ob_stall_goes_on(&stall, now_ns));
	/* It has been helped: that is seen at once, and believed when it lasts. */
	seconds(1, 20);
	assert_true(stalls());
	assert_false(ob_stall_goes_on(&stall, now_ns));
	assert_in_range(until(false, 20), 4, 8);
	seconds(100, 90);
	assert_false(stalls());
}

static void an_old_report_is_none(void **state)
{
	(void)until(true, 500);
	now_ns += OB_STALL_STALE_NS;
	assert_true(stalls());
	now_ns++;
	assert_false(stalls());
	/* What was meanwhile counts for nothing. */
	some_us += 600 * OB_NS_PER_SEC / OB_NS_PER_US;
	report(SECOND, 1000);
	assert_false(stalls());
	assert_in_range(until(true, 1000), 2, 2);
	/* Where it comes every five seconds it is as good. */
	report(5 * SECOND, 1000);
	now_ns += 9 * SECOND;
	assert_true(stalls());
}

static void no_account_is_none(void **state)
{
	(void)until(true, 500);
	/* overbook-guest has gone. */
	ob_stall_note(&stall, false, 0, now_ns);
	assert_false(stalls());
	seconds(1, 1000);
	assert_false(stalls());
	(void)until(true, 500);
	/* Another kernel. */
	some_us = 0;
	report(SECOND, 0);
	assert_false(stalls());
	(void)until(true, 500);
	/* One that does not measure. */
	now_ns += SECOND;
	ob_stall_note(&stall, false, some_us + SECOND, now_ns);
	assert_false(stalls());
}

static void reports_in_a_burst_are_one(void **state)
{
	/* Three that were held up: what they tell is of the time before them. */
	now_ns += 3 * SECOND;
	for (unsigned i = 0; i < 3; i++) {
		some_us += 90000;
		ob_stall_note(&stall, true, some_us, now_ns + i);
	}
	for (unsigned i = 0; i < 100; i++) {
		seconds(1, 90);
		assert_true(stall.share <= 90000);
	}
	/* However many there are, it is the time that counts. */
	for (unsigned i = 0; i < 499; i++)
		report(OB_NS_PER_MS, 1000);
	assert_false(stalls());
	for (unsigned i = 0; i < 1000; i++)
		report(OB_NS_PER_MS, 1000);
	assert_true(stalls());
}

static void what_it_uses_is_kept_for_a_minute(void **state)
{
	unsigned keeps = 0;

	(void)until(true, 500);
	for (unsigned i = 0; i < 3600; i++) {
		keeps += ob_stall_keeps(&stall, now_ns);
		seconds(1, 500);
	}
	assert_int_equal(keeps, OB_STALL_KEEP_NS / SECOND);
	/* Neither a pause nor another overbook-guest makes it another minute; a minute without does. */
	(void)until(false, 0);
	seconds(30, 0);
	(void)until(true, 1000);
	assert_false(ob_stall_keeps(&stall, now_ns));
	ob_stall_note(&stall, false, 0, now_ns);
	(void)until(true, 1000);
	assert_false(ob_stall_keeps(&stall, now_ns));
	(void)until(false, 0);
	seconds(60, 0);
	(void)until(true, 1000);
	assert_true(ob_stall_keeps(&stall, now_ns));
}

/* A machine of 4 GiB that has used half of it, and now does not: for how long it is taken to use it, if its guest says that it stalls. */
static unsigned believed_for(unsigned permille)
{
	struct ob_stats stats = { .ram_bytes = 4 * OB_GIB, .absent_bytes = 2 * OB_GIB, .cost_bytes = 2 * OB_GIB, .active_samples = 1000,
				  .active_bytes = 2 * OB_GIB };
	struct ob_working_set set;
	uint64_t before;

	ob_working_set_forget(&set);
	(void)until(permille >= 100, permille);
	ob_working_set_step(&set, &stats, 4 * OB_GIB, now_ns);
	before = set.believed_bytes;
	stats.active_bytes = 0;
	for (unsigned i = 0; i < 600; i++) {
		seconds(1, permille);
		ob_working_set_step(&set, &stats, 4 * OB_GIB, now_ns);
		if (ob_stall_keeps(&stall, now_ns))
			ob_working_set_keep(&set, now_ns);
		assert_true(set.believed_bytes <= before);
		if (set.believed_bytes < before / 8)
			return i + 1;
	}
	return 600;
}

static void one_that_lies_is_taxed_a_minute_later(void **state)
{
	unsigned honest = believed_for(0);

	assert_in_range(honest, 10, 12);
	set_up(NULL);
	assert_in_range(believed_for(1000), 60, 60 + honest);
	/* It may go on lying. */
	assert_in_range(believed_for(1000), honest, honest);
}

static void whatever_it_says(void **state)
{
	uint64_t seed = 1, kept_ns = 0, began_ns = now_ns;

	for (unsigned i = 0; i < 100000; i++) {
		uint64_t before_ns = now_ns;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		now_ns += (seed >> 20) % (seed >> 60 ? 2 * SECOND : 20 * SECOND);
		some_us = seed >> 62 ? some_us + (seed >> 30) % 3000000 : seed;
		kept_ns += ob_stall_keeps(&stall, now_ns) ? now_ns - before_ns : 0;
		ob_stall_note(&stall, (seed >> 40) % 64, some_us, now_ns);
		assert_true(stall.share <= 1000000 && stall.last_share <= 1000000);
		assert_true(stalls() || !(ob_stall_goes_on(&stall, now_ns) || ob_stall_keeps(&stall, now_ns)));
	}
	assert_true(kept_ns <= (now_ns - began_ns) / 2 + OB_STALL_KEEP_NS);
	/* Without a clock, as where nothing is decided. */
	assert_false(ob_stall_is(&stall, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_more_it_waits_the_sooner_it_is_seen, set_up),
		cmocka_unit_test_setup(it_is_over_later_than_it_began, set_up),
		cmocka_unit_test_setup(an_old_report_is_none, set_up),
		cmocka_unit_test_setup(no_account_is_none, set_up),
		cmocka_unit_test_setup(reports_in_a_burst_are_one, set_up),
		cmocka_unit_test_setup(what_it_uses_is_kept_for_a_minute, set_up),
		cmocka_unit_test_setup(one_that_lies_is_taxed_a_minute_later, set_up),
		cmocka_unit_test_setup(whatever_it_says, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
