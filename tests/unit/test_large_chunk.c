/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is done with one chunk: cases by hand, and properties over random chunks and orders. */
#include "test.h"

#include <string.h>

#include "base/compiler.h"
#include "largepages/chunk.h"

#define SECOND 1000000000ull
#define MIB    (1ull << 20)

/* The orders of a host of 8 GiB (min_free is 410 MiB, the default boundary 1638 MiB) that has so much free. */
static struct ob_large_orders orders_at(enum ob_large_policy policy, uint64_t free_mib)
{
	struct ob_large_host host = { 0 };
	struct ob_large_input input = { .elapsed_ns = SECOND, .budget_bytes = 8192 * MIB, .free_bytes = free_mib * MIB,
					.shareable_pages = OB_LARGE_UNKNOWN };

	return ob_large_host_step(&host, policy, &input);
}

static struct ob_large_chunk large(int is_hot, unsigned sampled, unsigned shareable)
{
	return (struct ob_large_chunk){ .sample = { OB_LARGE_PAGES, (uint16_t)sampled, (uint16_t)shareable }, .is_large = 1,
					.is_hot = (uint8_t)is_hot };
}

static struct ob_large_chunk broken(int is_hot)
{
	return (struct ob_large_chunk){ .sample = { .pages = OB_LARGE_PAGES }, .is_hot = (uint8_t)is_hot };
}

#define HIGH_MIB  4000
#define CLEAR_MIB 1000
#define LOW_MIB   100

static void expect(enum ob_large_policy policy, uint64_t free_mib, struct ob_large_chunk chunk, enum ob_large_action action,
		   enum ob_large_reason reason)
{
	struct ob_large_orders orders = orders_at(policy, free_mib);
	struct ob_large_verdict verdict = ob_large_chunk_judge(&orders, &chunk, 1, 1);

	if (verdict.action != action || verdict.reason != reason)
		print_message("# %s, %s: %s\n", ob_large_policy_name(policy), ob_large_state_name(orders.state),
			      ob_large_reason_text(verdict.reason));
	assert_int_equal(verdict.action, action);
	assert_int_equal(verdict.reason, reason);
}

static void in_high_cold_ones_with_something_to_share_are_broken(void **state)
{
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, large(0, 0, 0), OB_LARGE_SAMPLE, OB_LARGE_R_NOT_SAMPLED);
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, large(0, 16, 8), OB_LARGE_BREAK, OB_LARGE_R_COLD_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, large(0, 16, 1), OB_LARGE_SAMPLE, OB_LARGE_R_UNCERTAIN);
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, large(0, 64, 1), OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, large(1, 64, 64), OB_LARGE_KEEP, OB_LARGE_R_PLENTY);
}

static void in_clear_hot_ones_are_broken_for_the_less_the_shorter_memory_is(void **state)
{
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, large(1, 0, 0), OB_LARGE_SAMPLE, OB_LARGE_R_NOT_SAMPLED);
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, large(1, 64, 32), OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	/* 56 of 512 are likely: too few in the middle of clear, enough at its end. */
	expect(OB_LARGE_PROACTIVE, 1600, large(1, 64, 7), OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, 450, large(1, 64, 7), OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, large(1, 64, 0), OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, large(0, 64, 4), OB_LARGE_BREAK, OB_LARGE_R_COLD_SHAREABLE);
}

static void in_low_there_is_no_time_to_sample_on(void **state)
{
	expect(OB_LARGE_PROACTIVE, LOW_MIB, large(1, 16, 1), OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, LOW_MIB, large(1, 16, 0), OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	expect(OB_LARGE_PROACTIVE, LOW_MIB, large(1, 0, 0), OB_LARGE_SAMPLE, OB_LARGE_R_NOT_SAMPLED);
}

static void the_baselines_do_what_their_names_say(void **state)
{
	static const unsigned free_mib[] = { HIGH_MIB, CLEAR_MIB, LOW_MIB };

	for (unsigned i = 0; i < 3; i++)
		for (int hot = 0; hot < 2; hot++) {
			expect(OB_LARGE_NEVER, free_mib[i], large(hot, 64, 64), OB_LARGE_KEEP, OB_LARGE_R_POLICY);
			expect(OB_LARGE_OFF, free_mib[i], large(hot, 0, 0), OB_LARGE_BREAK, OB_LARGE_R_NO_LARGE_PAGES);
			expect(OB_LARGE_OFF, free_mib[i], broken(hot), OB_LARGE_KEEP, OB_LARGE_R_NO_LARGE_PAGES);
		}
	expect(OB_LARGE_LATE, HIGH_MIB, large(0, 64, 64), OB_LARGE_KEEP, OB_LARGE_R_POLICY);
	expect(OB_LARGE_LATE, CLEAR_MIB, large(0, 64, 64), OB_LARGE_KEEP, OB_LARGE_R_POLICY);
	expect(OB_LARGE_LATE, LOW_MIB, large(1, 64, 64), OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	expect(OB_LARGE_NEVER, HIGH_MIB, broken(1), OB_LARGE_COLLAPSE, OB_LARGE_R_HOT_WHOLE);
	expect(OB_LARGE_LATE, HIGH_MIB, broken(1), OB_LARGE_COLLAPSE, OB_LARGE_R_HOT_WHOLE);
}

static void what_was_in_vain_takes_more_next_time(void **state)
{
	struct ob_large_chunk chunk = large(1, 64, 32);

	/* 256 likely, at least 187; the threshold is 65 in the middle of clear. */
	chunk.vain = 1;
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, chunk, OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	chunk.vain = 3;
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_NOTHING_SHAREABLE);
	chunk = large(1, 64, 64);
	chunk.vain = 4;
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, chunk, OB_LARGE_BREAK, OB_LARGE_R_HOT_SHAREABLE);
	chunk.vain = OB_LARGE_VAIN_MAX;
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_IN_VAIN);
	chunk.vain = 255;
	expect(OB_LARGE_PROACTIVE, LOW_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_IN_VAIN);
}

static void only_hot_ones_that_are_all_there_are_made_whole(void **state)
{
	struct ob_large_chunk chunk = broken(1);

	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_COLLAPSE, OB_LARGE_R_HOT_WHOLE);
	expect(OB_LARGE_PROACTIVE, CLEAR_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_SHORT);
	expect(OB_LARGE_PROACTIVE, LOW_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_SHORT);
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, broken(0), OB_LARGE_KEEP, OB_LARGE_R_COLD);
	chunk.shared = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_NOT_WHOLE);
	chunk = broken(1);
	chunk.away = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_NOT_WHOLE);
	chunk = broken(1);
	chunk.holes = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_NOT_WHOLE);
	chunk = broken(1);
	chunk.sample.pages = 100;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_NOT_WHOLE);
	chunk = broken(1);
	chunk.held = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_HELD);
	chunk = broken(1);
	chunk.armed = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_HELD);
	chunk = broken(1);
	chunk.is_busy = 1;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_BUSY);
	chunk = broken(1);
	chunk.sample.sampled = 64;
	chunk.sample.shareable = 20;
	expect(OB_LARGE_PROACTIVE, HIGH_MIB, chunk, OB_LARGE_KEEP, OB_LARGE_R_WOULD_BREAK);
}

/* --- any chunk --- */

static uint64_t seed = 7;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % below;
}

static struct ob_large_chunk any_chunk(void)
{
	struct ob_large_chunk chunk = {
		.sample = { OB_LARGE_PAGES, (uint16_t)draw(80), (uint16_t)draw(80) }, .is_large = (uint8_t)draw(2),
		.is_hot = (uint8_t)draw(2), .is_busy = draw(10) == 0, .vain = (uint8_t)(draw(4) ? 0 : draw(8)),
		.shared = (uint16_t)(draw(2) ? 0 : draw(513)), .away = (uint16_t)(draw(2) ? 0 : draw(513)),
		.holes = (uint16_t)(draw(3) ? 0 : draw(513)), .held = draw(5) == 0, .armed = draw(5) == 0,
	};

	return chunk;
}

/* What must hold of every verdict. */
static void check(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk, struct ob_large_verdict v, int may_break,
		  int may_collapse)
{
	assert_true((unsigned)v.reason < OB_LARGE_REASON_COUNT);
	if (v.action == OB_LARGE_BREAK) {
		assert_true(chunk->is_large && may_break && !chunk->is_busy);
		assert_int_not_equal(orders->policy, OB_LARGE_NEVER);
		assert_true(orders->policy != OB_LARGE_LATE || orders->state == OB_LARGE_LOW);
		assert_true(orders->policy != OB_LARGE_PROACTIVE || orders->state != OB_LARGE_HIGH || !chunk->is_hot);
	}
	if (v.action == OB_LARGE_SAMPLE)
		assert_true(chunk->is_large && chunk->sample.sampled < OB_LARGE_SAMPLE_MAX);
	if (v.action == OB_LARGE_COLLAPSE) {
		assert_true(!chunk->is_large && may_collapse && !chunk->is_busy && chunk->is_hot);
		assert_int_equal(chunk->shared + chunk->away + chunk->holes + chunk->held + chunk->armed, 0);
		assert_int_equal(orders->state, OB_LARGE_HIGH);
		assert_int_not_equal(orders->policy, OB_LARGE_OFF);
	}
}

static void no_verdict_is_against_its_orders(void **state)
{
	for (unsigned i = 0; i < 200000; i++) {
		struct ob_large_orders orders = orders_at((enum ob_large_policy)draw(OB_LARGE_POLICIES), draw(8192));
		struct ob_large_chunk chunk = any_chunk();
		int may_break = draw(4) != 0, may_collapse = draw(4) != 0;

		check(&orders, &chunk, ob_large_chunk_judge(&orders, &chunk, may_break, may_collapse), may_break, may_collapse);
	}
}

/* Less free memory never keeps what more would have broken, where the sample is as large as it gets. */
static void what_is_broken_with_more_is_broken_with_less(void **state)
{
	for (unsigned i = 0; i < 20000; i++) {
		struct ob_large_chunk chunk = any_chunk();
		int was_broken = 0;

		chunk.is_large = 1;
		chunk.sample.sampled = 64;
		for (uint64_t mib = 8192; mib; mib -= 256) {
			struct ob_large_orders orders = orders_at(OB_LARGE_PROACTIVE, mib);
			int breaks = ob_large_chunk_judge(&orders, &chunk, 1, 1).action == OB_LARGE_BREAK;

			assert_true(breaks || !was_broken);
			was_broken = breaks;
		}
	}
}

/* A chunk that is made whole in high is not broken by the next step into clear. */
static void nothing_is_made_whole_to_be_broken_at_once(void **state)
{
	struct ob_large_orders high = orders_at(OB_LARGE_PROACTIVE, HIGH_MIB), clear = orders_at(OB_LARGE_PROACTIVE, 1500);

	for (unsigned i = 0; i < 200000; i++) {
		struct ob_large_chunk chunk = any_chunk();

		chunk.is_large = 0;
		if (!chunk.sample.sampled || ob_large_chunk_judge(&high, &chunk, 1, 1).action != OB_LARGE_COLLAPSE)
			continue;
		chunk.is_large = 1;
		assert_int_not_equal(ob_large_chunk_judge(&clear, &chunk, 1, 1).action, OB_LARGE_BREAK);
	}
}

static void every_reason_has_a_text(void **state)
{
	for (int i = 0; i < OB_LARGE_REASON_COUNT; i++)
		assert_true(strlen(ob_large_reason_text(i)) > 3);
	assert_string_equal(ob_large_reason_text(OB_LARGE_REASON_COUNT), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_high_cold_ones_with_something_to_share_are_broken),
		cmocka_unit_test(in_clear_hot_ones_are_broken_for_the_less_the_shorter_memory_is),
		cmocka_unit_test(in_low_there_is_no_time_to_sample_on),
		cmocka_unit_test(the_baselines_do_what_their_names_say),
		cmocka_unit_test(what_was_in_vain_takes_more_next_time),
		cmocka_unit_test(only_hot_ones_that_are_all_there_are_made_whole),
		cmocka_unit_test(no_verdict_is_against_its_orders),
		cmocka_unit_test(what_is_broken_with_more_is_broken_with_less),
		cmocka_unit_test(nothing_is_made_whole_to_be_broken_at_once),
		cmocka_unit_test(every_reason_has_a_text),
	};

	return cmocka_run_group_tests_name("large_chunk", tests, NULL, NULL);
}
