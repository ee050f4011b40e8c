/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which free memory counts as pieces, and when they are worth the kernel's work. */
#include "test.h"

#include "base/clock.h"
#include "base/units.h"
#include "guest/compact.h"

#define GUEST (1024 * OB_MIB)
#define MANY  (100 * OB_MIB)

/* In pages of 4 KiB. */
static uint64_t pieces(const char *text, unsigned order)
{
	return ob_compact_pieces(text, order, 4096) / 4096;
}

static void pieces_are_what_is_free_below_the_order(void **state)
{
	const char *zone = "Node 0, zone    DMA32    100     10      0      0      0      0      0      0      1     40      3 \n";

	assert_int_equal(pieces(zone, 9), 100 + 20 + 256);
	assert_int_equal(pieces(zone, 10), 0);
	assert_int_equal(pieces(zone, 1), 100);
	assert_int_equal(pieces(zone, 0), 0);
}

static void zones_that_do_not_report_do_not_count(void **state)
{
	/* With less than 32 blocks free nothing of a zone is reported. */
	assert_int_equal(pieces("Node 0, zone   Normal   7000      0      0      0      0      0      0      0      0     18      0\n", 9), 0);
	assert_int_equal(pieces("Node 0, zone   Normal   7168      0      0      0      0      0      0      0      0     18      0\n", 9), 7168);
	assert_int_equal(pieces("Node 0, zone      DMA      1      0      0      0      0      0      0      0      1      1      3 \n"
				"Node 0, zone    DMA32     50      0      0      0      0      0      0      0      0      0    745 \n"
				"Node 1, zone   Normal    600      1      0      0      0      0      0      0      0      0     40 ",
				9), 50 + 602);
}

static void what_is_no_such_text_has_none(void **state)
{
	const char *const texts[] = { "", "\n\n", "Node", "Node 0, zone", "Node 0, zone Normal", "Node 0, zone Normal x y", "zone 0, Node Normal 1 2 3\n",
				      "Node 0, zone Normal\nNode 1, zone Normal\n" };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(pieces(texts[i], 9), 0);
}

/* Looks every two seconds, until the kernel is to be asked. Returns how many were needed, or 0 after a hundred. */
static unsigned looks(struct ob_compact *compact, uint64_t bytes, uint64_t memory, uint64_t *now_ns)
{
	for (unsigned i = 1; i <= 100; i++) {
		*now_ns += 2 * OB_NS_PER_SEC;
		if (ob_compact_look(compact, bytes, 0, memory, *now_ns) == OB_COMPACT_NOW)
			return i;
	}
	return 0;
}

static void enough_at_five_looks_in_a_row(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	assert_int_equal(looks(&compact, 16 * OB_MIB - 1, GUEST, &now_ns), 0);
	assert_int_equal(looks(&compact, 100 * OB_MIB, 64 * GUEST, &now_ns), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(ob_compact_look(&compact, MANY, 0, GUEST, now_ns), OB_COMPACT_NOT);
	/* The balloon has taken them, say. */
	assert_int_equal(ob_compact_look(&compact, OB_MIB, 0, GUEST, now_ns), OB_COMPACT_NOT);
	assert_int_equal(looks(&compact, 16 * OB_MIB, GUEST, &now_ns), 5);
}

static void work_in_vain_comes_ever_more_seldom(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC, before_ns = 0;

	assert_int_equal(looks(&compact, MANY, GUEST, &now_ns), 5);
	for (uint64_t seconds = 60; seconds < 4 * 3600; seconds *= 2) {
		uint64_t wait_ns = (seconds < 3600 ? seconds : 3600) * OB_NS_PER_SEC;

		before_ns = now_ns;
		ob_compact_did(&compact, MANY, MANY / 2 + 1, 0, now_ns);
		while (!looks(&compact, MANY, GUEST, &now_ns))
			;
		assert_in_range(now_ns - before_ns, wait_ns, wait_ns + 2 * OB_NS_PER_SEC);
	}
	/* Once it was worth it, it is a minute again. */
	before_ns = now_ns;
	ob_compact_did(&compact, MANY, MANY / 2, 0, now_ns);
	assert_int_equal(looks(&compact, MANY, GUEST, &now_ns), 30);
	assert_int_equal(now_ns - before_ns, 60 * OB_NS_PER_SEC);
}

/* A look a second. */
static enum ob_compact_advice look(struct ob_compact *compact, uint64_t bytes, uint64_t given, uint64_t *now_ns)
{
	*now_ns += OB_NS_PER_SEC;
	return ob_compact_look(compact, bytes, given, GUEST, *now_ns);
}

/* Applications are asked for so much more. */
static void ask(struct ob_compact *compact, uint64_t bytes, uint64_t now_ns)
{
	ob_compact_ask(compact, compact->asked_bytes + bytes, now_ns);
}

static void what_applications_give_is_put_together_at_once(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	ask(&compact, 200 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, MANY, 10 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, MANY, 40 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	ob_compact_did(&compact, MANY, OB_MIB, 0, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 200 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	/* What they take back and are asked for again counts, but not so soon. */
	assert_int_equal(look(&compact, MANY, 100 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	ask(&compact, 50 * OB_MIB, now_ns);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(look(&compact, MANY, 150 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, MANY, 150 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	/* It has taken long. */
	ob_compact_did(&compact, MANY, OB_MIB, 3 * OB_NS_PER_SEC, now_ns);
	ask(&compact, 50 * OB_MIB, now_ns);
	for (unsigned i = 0; i < 47; i++)
		assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	/* In vain. */
	ob_compact_did(&compact, MANY, MANY, 0, now_ns);
	ask(&compact, 50 * OB_MIB, now_ns);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(look(&compact, MANY, 250 * OB_MIB, &now_ns), OB_COMPACT_NOT);
}

static void what_they_give_in_blocks_needs_no_work(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 100 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, OB_MIB, 100 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	/* What is in pieces later is no part of it. */
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(look(&compact, MANY, 100 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, MANY, 100 * OB_MIB, &now_ns), OB_COMPACT_NOW);
}

/* Looks every second at what goes up and down, in blocks or in pieces. Returns at how many there was something to be done. */
static unsigned hover(struct ob_compact *compact, uint64_t bytes, uint64_t given, uint64_t by, unsigned seconds, uint64_t *now_ns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < seconds; i++)
		n += look(compact, bytes, given + (i % 2 ? by : 0), now_ns) != OB_COMPACT_NOT;
	return n;
}

static void what_goes_up_and_down_by_itself_is_not_given(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	/* Nothing was asked. */
	assert_int_equal(hover(&compact, OB_MIB, 0, 50 * OB_MIB, 100, &now_ns), 0);
	/* Once at most when something was, whether it is given in blocks or in pieces. */
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 100 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(hover(&compact, OB_MIB, 100 * OB_MIB, 50 * OB_MIB, 100, &now_ns), 0);
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 200 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	ob_compact_did(&compact, MANY, OB_MIB, 0, now_ns);
	assert_int_equal(hover(&compact, OB_MIB, 200 * OB_MIB, 50 * OB_MIB, 100, &now_ns), 0);
	/* What has come since by itself is no part of what is asked for then, */
	assert_int_equal(look(&compact, MANY, 200 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 250 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, 250 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	ob_compact_did(&compact, MANY, OB_MIB, 0, now_ns);
	assert_int_equal(hover(&compact, OB_MIB, 280 * OB_MIB, 0, 20, &now_ns), 0);
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, MANY, 280 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(hover(&compact, OB_MIB, 280 * OB_MIB, 10 * OB_MIB, 65, &now_ns), 0);
	assert_int_equal(look(&compact, OB_MIB, 200 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	/* nor is more than that. */
	ask(&compact, 10 * OB_MIB, now_ns);
	assert_int_equal(hover(&compact, OB_MIB, 200 * OB_MIB, 50 * OB_MIB, 100, &now_ns), 0);
	/* What comes in pieces is put together as if there were no applications. */
	assert_int_equal(look(&compact, MANY, 210 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(hover(&compact, MANY, 200 * OB_MIB, 50 * OB_MIB, 3, &now_ns), 0);
	assert_int_equal(look(&compact, MANY, 250 * OB_MIB, &now_ns), OB_COMPACT_NOW);
}

static void nobody_waits_twice_within_ten_seconds(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 100 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	/* They take it back, and are asked anew. */
	assert_int_equal(look(&compact, OB_MIB, OB_MIB, &now_ns), OB_COMPACT_NOT);
	ask(&compact, 100 * OB_MIB, now_ns);
	for (unsigned i = 2; i < 11; i++)
		assert_int_equal(look(&compact, OB_MIB, 10 * i * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, OB_MIB, 110 * OB_MIB, &now_ns), OB_COMPACT_SOON);
}

static void who_gives_for_long_is_waited_for_at_first_and_when_done(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC, given = 0;

	ask(&compact, 400 * OB_MIB, now_ns);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(look(&compact, MANY, given += 40 * OB_MIB, &now_ns), i < 3 ? OB_COMPACT_SOON : OB_COMPACT_LATER);
	assert_int_equal(look(&compact, MANY, given, &now_ns), OB_COMPACT_NOW);
}

static void what_comes_a_minute_later_is_not_waited_for(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(hover(&compact, OB_MIB, 0, 0, 59, &now_ns), 0);
	assert_int_equal(look(&compact, OB_MIB, 100 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	/* The first that was given is no part of what is given next. */
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, OB_MIB, 110 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	assert_int_equal(look(&compact, OB_MIB, 120 * OB_MIB, &now_ns), OB_COMPACT_SOON);
}

static void what_is_asked_while_the_kernel_works_counts(void **state)
{
	struct ob_compact compact = { 0 };
	uint64_t now_ns = OB_NS_PER_SEC;

	/* What is given may be less than 0. */
	assert_int_equal(look(&compact, MANY, -200 * OB_MIB, &now_ns), OB_COMPACT_NOT);
	ask(&compact, 100 * OB_MIB, now_ns);
	assert_int_equal(look(&compact, MANY, -100 * OB_MIB, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, -100 * OB_MIB, &now_ns), OB_COMPACT_NOW);
	ask(&compact, 100 * OB_MIB, now_ns);
	now_ns += 5 * OB_NS_PER_SEC;
	ob_compact_did(&compact, MANY, OB_MIB, 0, now_ns);
	now_ns += 10 * OB_NS_PER_SEC;
	assert_int_equal(look(&compact, MANY, 0, &now_ns), OB_COMPACT_SOON);
	assert_int_equal(look(&compact, MANY, 0, &now_ns), OB_COMPACT_NOW);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_are_what_is_free_below_the_order),
		cmocka_unit_test(zones_that_do_not_report_do_not_count),
		cmocka_unit_test(what_is_no_such_text_has_none),
		cmocka_unit_test(enough_at_five_looks_in_a_row),
		cmocka_unit_test(work_in_vain_comes_ever_more_seldom),
		cmocka_unit_test(what_applications_give_is_put_together_at_once),
		cmocka_unit_test(what_they_give_in_blocks_needs_no_work),
		cmocka_unit_test(what_goes_up_and_down_by_itself_is_not_given),
		cmocka_unit_test(nobody_waits_twice_within_ten_seconds),
		cmocka_unit_test(who_gives_for_long_is_waited_for_at_first_and_when_done),
		cmocka_unit_test(what_comes_a_minute_later_is_not_waited_for),
		cmocka_unit_test(what_is_asked_while_the_kernel_works_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
