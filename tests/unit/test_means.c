/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What means of taking memory have given and cost: cases by hand, guests of several kinds, and any input. */
#include "test.h"

#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/means.h"

#define SECOND OB_NS_PER_SEC
#define STEPS  40000u

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 16) % below;
}

/* A machine's record, and what is seen of the machine. */
struct machine {
	struct ob_means means;
	struct ob_means_seen seen[OB_MEANS_KINDS];
	uint64_t now_ns;
};

static void start(struct machine *m)
{
	*m = (struct machine){ .now_ns = 1000 * SECOND };
	for (unsigned i = 0; i < OB_MEANS_KINDS; i++)
		m->seen[i].came_permille = 1000;
	ob_means_step(&m->means, m->seen, 0, m->now_ns);
}

static void pass(struct machine *m, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		m->now_ns += SECOND;
		ob_means_step(&m->means, m->seen, SECOND, m->now_ns);
	}
}

static bool may_wait(const struct machine *m)
{
	return ob_means_may_wait(&m->means, m->now_ns);
}

static bool may_ask(const struct machine *m)
{
	return ob_means_may_ask(&m->means, m->now_ns);
}

static void what_was_asked_and_what_came_is_kept_for_minutes(void **state)
{
	struct ob_means_record *swap;
	struct machine m;

	start(&m);
	swap = &m.means.record[OB_MEANS_SWAP];
	/* What was counted before it was met is not of late. */
	m.seen[OB_MEANS_SWAP].asked_bytes = m.seen[OB_MEANS_SWAP].came_bytes = OB_GIB;
	m.means.is_seen = false;
	pass(&m, 1);
	assert_int_equal(swap->asked_bytes, 0);
	m.seen[OB_MEANS_SWAP].asked_bytes += 100 * OB_MIB;
	m.seen[OB_MEANS_SWAP].came_bytes += 60 * OB_MIB;
	pass(&m, 1);
	assert_true(swap->asked_bytes == 100 * OB_MIB && swap->came_bytes == 60 * OB_MIB);
	pass(&m, 180);
	assert_in_range(swap->asked_bytes, 35 * OB_MIB, 39 * OB_MIB);
	assert_in_range(swap->came_bytes, 20 * OB_MIB, 24 * OB_MIB);
	pass(&m, 1800);
	assert_true(swap->asked_bytes < OB_MIB);
	assert_true(swap->asked_total_bytes == 100 * OB_MIB && swap->came_total_bytes == 60 * OB_MIB);
	/* A counter that goes back is another process's, a level that falls is nothing that was asked for. */
	m.seen[OB_MEANS_SWAP].asked_bytes = m.seen[OB_MEANS_SWAP].came_bytes = 0;
	pass(&m, 1);
	assert_true(swap->asked_bytes < OB_MIB && swap->came_bytes <= swap->asked_bytes);
	assert_true(swap->asked_total_bytes == 100 * OB_MIB && swap->came_total_bytes == 60 * OB_MIB);
	/* A part of it is a relief; what comes unasked is not counted. */
	m.seen[OB_MEANS_COMPRESSION].asked_bytes = m.seen[OB_MEANS_COMPRESSION].came_bytes = 100 * OB_MIB;
	m.seen[OB_MEANS_COMPRESSION].came_permille = 700;
	m.seen[OB_MEANS_BALLOON].came_bytes = OB_GIB;
	pass(&m, 1);
	assert_int_equal(m.means.record[OB_MEANS_COMPRESSION].came_bytes, 70 * OB_MIB);
	assert_int_equal(m.means.record[OB_MEANS_BALLOON].came_bytes, 0);
}

static void a_price_is_time_for_memory(void **state)
{
	struct machine m;

	assert_int_equal(ob_means_price(1000, 0), 0);
	assert_int_equal(ob_means_price(1000, OB_GIB), 1000);
	assert_int_equal(ob_means_price(1000, OB_GIB / 4), 4000);
	assert_true(ob_means_price(UINT64_MAX, 1) == UINT64_MAX);
	start(&m);
	m.seen[OB_MEANS_SWAP].held_bytes = OB_GIB / 2;
	for (unsigned i = 1; i <= 600; i++) {
		const struct ob_means_record *swap = &m.means.record[OB_MEANS_SWAP];

		m.seen[OB_MEANS_SWAP].lost_ns += 5 * OB_NS_PER_MS;
		pass(&m, 1);
		/* From the beginning: both averages have seen as much. */
		assert_in_range(ob_means_price(swap->lost_ns, swap->held_bytes), 10 * OB_NS_PER_MS - 2000, 10 * OB_NS_PER_MS + 2000);
	}
	assert_in_range(m.means.record[OB_MEANS_SWAP].held_bytes, OB_GIB / 2 - OB_GIB / 32, OB_GIB / 2);
	assert_int_equal(m.means.record[OB_MEANS_SWAP].lost_total_ns, 600 * 5 * OB_NS_PER_MS);
}

static void a_guest_that_gives_little_loses_its_turn_ever_longer(void **state)
{
	struct machine m;
	uint64_t wait = 10;

	start(&m);
	assert_true(may_wait(&m) && may_ask(&m));
	for (unsigned i = 0; i < 10; i++) {
		ob_means_cut_ended(&m.means, 400 * OB_MIB, 99 * OB_MIB, m.now_ns);
		assert_true(!may_wait(&m) && !may_ask(&m) && m.means.losses == i + 1 && m.means.reason == OB_MEANS_GAVE_LITTLE);
		pass(&m, (unsigned)wait - 1);
		assert_true(!may_wait(&m) && !may_ask(&m));
		pass(&m, 1);
		assert_true(may_wait(&m) && may_ask(&m) && m.means.reason == OB_MEANS_NO_REASON);
		wait = OB_MIN(2 * wait, 600u);
	}
	/* It gives what it is asked for: all is forgotten. */
	ob_means_cut_ended(&m.means, 400 * OB_MIB, 400 * OB_MIB, m.now_ns);
	assert_true(may_wait(&m));
	ob_means_cut_ended(&m.means, 400 * OB_MIB, 0, m.now_ns);
	pass(&m, 10);
	assert_true(may_wait(&m));
	/* Or time does it. */
	pass(&m, 80);
	ob_means_cut_ended(&m.means, 400 * OB_MIB, 0, m.now_ns);
	assert_int_equal(m.means.wait_ns, OB_MEANS_WAIT_LEAST_NS);
}

static void something_is_not_little(void **state)
{
	struct machine m;

	start(&m);
	for (unsigned i = 0; i < 20; i++) {
		ob_means_cut_ended(&m.means, 400 * OB_MIB, 100 * OB_MIB, m.now_ns);
		assert_true(!may_wait(&m) && may_ask(&m));
		pass(&m, 10);
		assert_true(may_wait(&m));
		/* Nor is there much to be seen of a guest in a small cut. */
		ob_means_cut_ended(&m.means, 7 * OB_MIB, 0, m.now_ns);
		assert_true(!may_wait(&m) && may_ask(&m));
		pass(&m, 10);
		assert_true(may_wait(&m));
	}
	assert_int_equal(m.means.losses, 0);
	ob_means_pause(&m.means, m.now_ns);
	assert_true(!may_wait(&m) && may_ask(&m));
	/* A pause makes no WAIT shorter, and a cut that was called off forgets none. */
	pass(&m, 10);
	ob_means_cut_ended(&m.means, 400 * OB_MIB, 0, m.now_ns);
	pass(&m, 10);
	ob_means_cut_ended(&m.means, 400 * OB_MIB, 0, m.now_ns);
	ob_means_pause(&m.means, m.now_ns);
	ob_means_cut_ended(&m.means, 0, 0, m.now_ns);
	pass(&m, 19);
	assert_true(!may_wait(&m) && !may_ask(&m));
	pass(&m, 1);
	assert_true(may_wait(&m) && may_ask(&m));
}

/* A second of a machine whose guest loses so many microseconds a second because of its balloon, and because of what is evicted. */
static void suffer(struct machine *m, uint64_t balloon_us, uint64_t eviction_us)
{
	m->seen[OB_MEANS_BALLOON].lost_ns += balloon_us * OB_NS_PER_US;
	m->seen[OB_MEANS_COMPRESSION].lost_ns += eviction_us / 2 * OB_NS_PER_US;
	m->seen[OB_MEANS_SWAP].lost_ns += eviction_us / 2 * OB_NS_PER_US;
	pass(m, 1);
}

static void start_holding(struct machine *m)
{
	start(m);
	m->seen[OB_MEANS_BALLOON].held_bytes = 200 * OB_MIB;
	m->seen[OB_MEANS_COMPRESSION].held_bytes = m->seen[OB_MEANS_SWAP].held_bytes = 100 * OB_MIB;
}

static void a_balloon_that_costs_more_than_eviction_loses_its_turn(void **state)
{
	struct machine m;
	unsigned without = 0, losses;

	start_holding(&m);
	/* As much for as much. */
	for (unsigned i = 0; i < 900; i++)
		suffer(&m, 20000, 20000);
	assert_int_equal(m.means.losses, 0);
	/* Nobody misses what is in the balloon. */
	start_holding(&m);
	for (unsigned i = 0; i < 900; i++)
		suffer(&m, 900, 10);
	assert_int_equal(m.means.losses, 0);
	for (unsigned i = 0; i < 900 && !m.means.losses; i++)
		suffer(&m, 50000, 20000);
	assert_true(m.means.losses == 1 && m.means.reason == OB_MEANS_COSTS_MORE && !may_wait(&m) && !may_ask(&m));
	/* It is tried again, and loses it again while it is dear; the longer, the less often. */
	for (unsigned i = 0; i < 3600; i++) {
		suffer(&m, 50000, 20000);
		without += !may_ask(&m);
	}
	losses = (unsigned)m.means.losses;
	assert_in_range(losses, 6, 12);
	assert_in_range(without, 3000, 3599);
	/* It is cheap: it has its turn, and keeps it. */
	for (unsigned i = 0; i < 700; i++)
		suffer(&m, 100, 20000);
	for (unsigned i = 0; i < 4800; i++) {
		suffer(&m, 100, 20000);
		assert_true(may_ask(&m));
	}
	assert_true(m.means.losses <= losses + 1 && m.means.wait_ns == 0);
}

static void nothing_is_concluded_from_next_to_nothing(void **state)
{
	struct machine m;

	start(&m);
	/* Nothing evicted. */
	m.seen[OB_MEANS_BALLOON].held_bytes = 200 * OB_MIB;
	for (unsigned i = 0; i < 900; i++)
		suffer(&m, 500000, 0);
	assert_int_equal(m.means.losses, 0);
	/* Nothing in the balloon. */
	start(&m);
	m.seen[OB_MEANS_BALLOON].held_bytes = OB_MIB;
	m.seen[OB_MEANS_SWAP].held_bytes = 200 * OB_MIB;
	for (unsigned i = 0; i < 900; i++)
		suffer(&m, 500000, 0);
	assert_int_equal(m.means.losses, 0);
}

static void a_guest_is_measured_by_what_is_not_usual(void **state)
{
	struct ob_means_guest guest = { 0 };
	uint64_t now = SECOND, faults = 1000000, lost;

	/* What it has done before it was met is no matter. */
	ob_means_follow_guest(&guest, 1, faults, false, OB_NS_PER_MS, now);
	assert_int_equal(guest.lost_ns, 0);
	for (unsigned i = 2; i < 1000; i++)
		ob_means_follow_guest(&guest, i, faults += 50, true, OB_NS_PER_MS, now += SECOND);
	assert_int_equal(guest.lost_ns, 0);
	assert_in_range(guest.usual_permille, 49000, 50000);
	for (unsigned i = 1000; i < 1100; i++)
		ob_means_follow_guest(&guest, i, faults += 50, false, OB_NS_PER_MS, now += SECOND);
	assert_true(guest.lost_ns <= 100 * OB_NS_PER_MS);
	lost = guest.lost_ns;
	for (unsigned i = 1100; i < 1200; i++)
		ob_means_follow_guest(&guest, i, faults += 150, false, OB_NS_PER_MS, now += SECOND);
	assert_in_range(guest.lost_ns - lost, 100 * 100 * OB_NS_PER_MS, 100 * 101 * OB_NS_PER_MS);
	/* The same statistics again, and a guest that starts anew. */
	lost = guest.lost_ns;
	ob_means_follow_guest(&guest, 1199, faults + 1000, false, OB_NS_PER_MS, now += SECOND);
	ob_means_follow_guest(&guest, 1200, 7, false, OB_NS_PER_MS, now += SECOND);
	assert_int_equal(guest.lost_ns, lost);
}

static uint64_t draw_any(void)
{
	static const uint64_t edges[] = { 0, 1, OB_MIB, OB_GIB, INT64_MAX, UINT64_MAX - 1, UINT64_MAX };

	return draw(2) ? edges[draw(OB_ARRAY_LEN(edges))] : draw(2) ? draw(OB_GIB) : seed;
}

static void anything_may_come_in(void **state)
{
	struct ob_means_guest guest = { 0 };
	struct machine m;

	start(&m);
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t elapsed = draw(8) ? draw(3 * SECOND) : draw(1000 * SECOND), wait = m.means.wait_ns;
		struct ob_means before = m.means;

		for (unsigned kind = 0; kind < OB_MEANS_KINDS; kind++)
			m.seen[kind] = (struct ob_means_seen){ draw_any(), draw_any(), (unsigned)draw_any(), draw_any(), draw_any() };
		m.now_ns += elapsed;
		ob_means_step(&m.means, m.seen, draw(9) ? elapsed : draw_any(), m.now_ns);
		if (!draw(5))
			ob_means_cut_ended(&m.means, draw_any(), draw_any(), m.now_ns);
		if (!draw(50))
			ob_means_pause(&m.means, m.now_ns);
		ob_means_follow_guest(&guest, draw_any(), draw_any(), draw(2), draw_any(), draw(9) ? m.now_ns : draw_any());
		for (unsigned kind = 0; kind < OB_MEANS_KINDS; kind++) {
			const struct ob_means_record *record = &m.means.record[kind], *had = &before.record[kind];

			assert_true(record->came_bytes <= record->asked_bytes && record->came_total_bytes <= record->asked_total_bytes);
			assert_true(record->asked_total_bytes >= had->asked_total_bytes && record->came_total_bytes >= had->came_total_bytes &&
				    record->lost_total_ns >= had->lost_total_ns);
		}
		assert_true(m.means.until_ns <= m.now_ns + OB_MEANS_WAIT_MOST_NS && m.means.wait_ns <= OB_MEANS_WAIT_MOST_NS);
		assert_true(m.means.wait_ns <= OB_MAX(4 * wait, 2 * OB_MEANS_WAIT_LEAST_NS));
		assert_true(may_ask(&m) || !may_wait(&m));
	}
	assert_string_equal(ob_means_name(OB_MEANS_SWAP), "swap");
	assert_string_equal(ob_means_name((enum ob_means_kind)99), "?");
	assert_null(ob_means_reason_text((enum ob_means_reason)99));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_asked_and_what_came_is_kept_for_minutes),
		cmocka_unit_test(a_price_is_time_for_memory),
		cmocka_unit_test(a_guest_that_gives_little_loses_its_turn_ever_longer),
		cmocka_unit_test(something_is_not_little),
		cmocka_unit_test(a_balloon_that_costs_more_than_eviction_loses_its_turn),
		cmocka_unit_test(nothing_is_concluded_from_next_to_nothing),
		cmocka_unit_test(a_guest_is_measured_by_what_is_not_usual),
		cmocka_unit_test(anything_may_come_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
