/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How short memory is: cases by hand, machines that use up the room they have against balloons of several speeds, and what must hold over
 * thousands of steps of any input.
 */
#include "test.h"

#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/ladder.h"

#define SECOND OB_NS_PER_SEC
#define BUDGET (16 * OB_GIB)
#define STEPS  40000u

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 16) % below;
}

/* A ladder, and what is seen of it. */
struct watched {
	struct ob_ladder ladder;
	struct ob_ladder_input input;
	unsigned left; /* how often hard or low was left for something better */
};

static void start(struct watched *w)
{
	*w = (struct watched){ .input = { .budget_bytes = BUDGET, .upper = OB_LADDER_SOFT } };
	ob_ladder_step(&w->ladder, &w->input);
}

static enum ob_ladder_state step(struct watched *w, uint64_t elapsed_ns)
{
	enum ob_ladder_state grip = w->ladder.grip, before = w->ladder.state;
	uint64_t changes = w->ladder.changes;
	bool has_changed;

	w->input.elapsed_ns = elapsed_ns;
	has_changed = ob_ladder_step(&w->ladder, &w->input);
	assert_int_equal(has_changed, before != w->ladder.state);
	assert_int_equal(w->ladder.changes - changes, has_changed);
	assert_true(!w->input.budget_bytes || w->ladder.state >= (w->input.upper < OB_LADDER_SOFT ? w->input.upper : OB_LADDER_SOFT));
	assert_true(w->ladder.grip == OB_LADDER_HIGH || w->ladder.grip == OB_LADDER_HARD || w->ladder.grip == OB_LADDER_LOW);
	assert_int_equal(ob_ladder_reason_text(w->ladder.reason) == NULL, w->ladder.state <= OB_LADDER_SOFT);
	assert_true(w->ladder.some_share <= 1000000 && w->ladder.full_share <= 1000000);
	if (w->ladder.grip < grip && w->input.budget_bytes) {
		/* A state at a time, and not soon. */
		assert_true(w->ladder.grip == OB_LADDER_HARD || grip == OB_LADDER_HARD);
		assert_true(w->ladder.calm_ns == 0);
		w->left++;
	}
	return w->ladder.state;
}

static void expect(struct watched *w, enum ob_ladder_state state, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++)
		assert_int_equal(step(w, SECOND), state);
}

static void above_it_is_what_is_free(void **state)
{
	struct watched w;

	start(&w);
	assert_true(w.ladder.state == OB_LADDER_SOFT && w.ladder.changes == 1);
	for (int upper = OB_LADDER_SOFT; upper >= OB_LADDER_HIGH; upper--) {
		w.input.upper = (enum ob_ladder_state)upper;
		expect(&w, w.input.upper, 3);
	}
	/* It knows nothing better than these. */
	w.input.upper = (enum ob_ladder_state)77;
	expect(&w, OB_LADDER_SOFT, 1);
	w.input.budget_bytes = 0;
	expect(&w, OB_LADDER_HIGH, 2);
	assert_string_equal(ob_ladder_state_name(OB_LADDER_HARD), "hard");
	assert_string_equal(ob_ladder_state_name((enum ob_ladder_state)9), "?");
	assert_null(ob_ladder_reason_text((enum ob_ladder_reason)9));
}

static void above_the_budget_it_is_low_at_once(void **state)
{
	struct watched w;

	start(&w);
	/* Rounding, and a store that has grown in advance. */
	w.input.over_bytes = 4 * OB_MIB;
	expect(&w, OB_LADDER_SOFT, 20);
	w.input.over_bytes = BUDGET / 256 + 1;
	expect(&w, OB_LADDER_LOW, 1);
	assert_int_equal(w.ladder.reason, OB_LADDER_BY_EXCESS);
	/* Nearly is not over. */
	w.input.over_bytes = BUDGET / 512 + 1;
	expect(&w, OB_LADDER_LOW, 100);
	w.input.over_bytes = 0;
	expect(&w, OB_LADDER_LOW, 2);
	expect(&w, OB_LADDER_HARD, 10);
	expect(&w, OB_LADDER_SOFT, 30);
	/* A budget that goes takes everything with it. */
	w.input.over_bytes = OB_GIB;
	expect(&w, OB_LADDER_LOW, 1);
	w.input.budget_bytes = 0;
	expect(&w, OB_LADDER_HIGH, 1);
	w.input.budget_bytes = BUDGET;
	w.input.over_bytes = 0;
	expect(&w, OB_LADDER_SOFT, 1);
}

/* The host has waited so much of each second. */
static void press(struct watched *w, unsigned some_permille, unsigned full_permille, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		w->input.some_us += some_permille * 1000ull;
		w->input.full_us += full_permille * 1000ull;
		step(w, SECOND);
	}
}

static void pressure_counts_where_there_is_nothing_available(void **state)
{
	struct watched w;

	start(&w);
	w.input.has_pressure = true;
	w.input.scarce_bytes = OB_GIB;
	w.input.available_bytes = OB_GIB;
	/* What it has waited before is not of late. */
	w.input.some_us = w.input.full_us = 1ull << 50;
	press(&w, 0, 0, 1);
	assert_int_equal(w.ladder.some_share, 0);
	press(&w, 1000, 1000, 30);
	assert_true(w.ladder.state == OB_LADDER_SOFT && w.ladder.full_share > 900000);
	/* Somebody waits in a small place of his own; nothing is known of the host. */
	w.input.available_bytes = 0;
	press(&w, 1000, 1000, 30);
	assert_int_equal(w.ladder.state, OB_LADDER_SOFT);
	w.input.available_bytes = OB_GIB - 1;
	press(&w, 1000, 1000, 1);
	assert_true(w.ladder.state == OB_LADDER_LOW && w.ladder.reason == OB_LADDER_BY_PRESSURE);
	press(&w, 0, 0, 60);
	assert_true(w.ladder.state == OB_LADDER_SOFT && w.ladder.full_share < 1000);
	/* A moment is nothing. */
	press(&w, 300, 80, 1);
	assert_int_equal(w.ladder.state, OB_LADDER_SOFT);
	press(&w, 150, 80, 20);
	assert_int_equal(w.ladder.state, OB_LADDER_HARD);
	press(&w, 0, 0, 60);
	press(&w, 300, 20, 20);
	assert_int_equal(w.ladder.state, OB_LADDER_HARD);
	press(&w, 0, 0, 60);
	press(&w, 150, 40, 100);
	assert_int_equal(w.ladder.state, OB_LADDER_SOFT);
	/* A little more than it takes, for long; and a little less than would keep it there. */
	press(&w, 0, 52, 60);
	assert_int_equal(w.ladder.state, OB_LADDER_HARD);
	press(&w, 0, 23, 60);
	assert_int_equal(w.ladder.state, OB_LADDER_SOFT);
	/* Another kernel's sum, or none. */
	w.input.some_us = w.input.full_us = 0;
	press(&w, 0, 0, 1);
	assert_true(w.ladder.some_share < 150000);
	w.input.has_pressure = false;
	press(&w, 1000, 1000, 30);
	assert_true(w.ladder.state == OB_LADDER_SOFT && !w.ladder.some_share && !w.ladder.full_share);
}

/*
 * One machine wants more, by `use` a second, as far as its limit goes; another one has it, and its balloon gives `give` a second once it has been asked for
 * LAG seconds, as overbookd waits for it: the one's limit rises with what the other gives. Returns the second in which cuts did not wait any more; 0: they
 * always did.
 */
#define LAG 2

static unsigned play(struct watched *w, uint64_t use, uint64_t give, uint64_t room, uint64_t wanted, uint64_t *ret_room)
{
	uint64_t waiting = 0, used = 0;

	for (unsigned second = 1; second <= 60; second++) {
		uint64_t more = OB_MIN(OB_MIN(use, room), wanted), given = second > LAG ? OB_MIN(give, waiting) : 0;

		used += more;
		wanted -= more;
		/* What is used up is wanted of the other. */
		waiting = ob_less(waiting + more, given);
		room = room - more + given;
		w->input.used_bytes = more;
		w->input.given_bytes = given;
		w->input.waiting_bytes = waiting;
		w->input.room_bytes = room;
		*ret_room = room;
		if (step(w, SECOND) == OB_LADDER_HARD)
			return second;
		if (!wanted && !waiting)
			break;
	}
	return 0;
}

static void gentle_means_that_keep_pace_are_waited_for(void **state)
{
	static const struct {
		uint64_t use, give;
	} cases[] = { { 5, 8 }, { 5, 200 }, { 16, 32 }, { 10, 15 } };
	struct watched w;
	uint64_t room;

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		start(&w);
		assert_int_equal(play(&w, cases[i].use * OB_MIB, cases[i].give * OB_MIB, 64 * OB_MIB, 400 * OB_MIB, &room), 0);
		assert_true(room > 0);
	}
}

static void gentle_means_that_are_outrun_are_not(void **state)
{
	struct watched w;
	uint64_t room;

	/* Fast: at once. */
	for (uint64_t use = 100; use < 100000; use *= 10) {
		start(&w);
		assert_int_equal(play(&w, use * OB_MIB, 20 * OB_MIB, 64 * OB_MIB, OB_GIB, &room), 1);
	}
	/* A balloon that gives little of what is used, or nothing: before the room is used up. */
	for (uint64_t give = 0; give <= 4; give++) {
		unsigned second;

		start(&w);
		second = play(&w, 10 * OB_MIB, give * OB_MIB, 100 * OB_MIB, OB_GIB, &room);
		assert_true(second > LAG && second < 100 / (10 - give) + LAG && room > 0);
	}
}

static void a_machine_that_fills_what_it_is_given_is_no_reason(void **state)
{
	struct watched w;

	start(&w);
	w.input.waiting_bytes = OB_GIB;
	for (unsigned i = 0; i < 1000; i++) {
		w.input.used_bytes = w.input.given_bytes = draw(OB_GIB);
		expect(&w, OB_LADDER_SOFT, 1);
	}
	/* Nor is one that grows into what nobody has to give. */
	w.input.waiting_bytes = w.input.given_bytes = 0;
	w.input.used_bytes = OB_GIB;
	expect(&w, OB_LADDER_SOFT, 100);
}

static void what_balloons_have_shown_is_forgotten(void **state)
{
	struct watched w;

	start(&w);
	w.input.waiting_bytes = OB_GIB;
	for (unsigned i = 0; i < 60; i++)
		step(&w, SECOND);
	assert_true(w.ladder.speed < OB_MIB / 64);
	w.input.waiting_bytes = 0;
	for (unsigned i = 0; i < 300; i++)
		step(&w, SECOND);
	assert_true(w.ladder.speed > 28 * OB_MIB && w.ladder.speed <= 32 * OB_MIB);
}

static void a_machine_grows_by_more_than_lies_between_its_marks(void **state)
{
	struct ob_ladder_follower follower = { 0 };
	struct ob_ladder_way way = ob_ladder_follow(&follower, 900 * OB_MIB, 20 * OB_MIB, SECOND);

	assert_true(way.up_bytes == 0 && way.down_bytes == 0);
	/* Between them it comes and goes. */
	for (unsigned i = 0; i < 1000; i++) {
		way = ob_ladder_follow(&follower, (900 + draw(20)) * OB_MIB, 20 * OB_MIB, SECOND);
		assert_int_equal(way.up_bytes, 0);
	}
	way = ob_ladder_follow(&follower, 1000 * OB_MIB, 20 * OB_MIB, SECOND);
	assert_in_range(way.up_bytes, 80 * OB_MIB, 100 * OB_MIB);
	way = ob_ladder_follow(&follower, 700 * OB_MIB, 20 * OB_MIB, SECOND);
	assert_true(way.up_bytes == 0 && way.down_bytes == 300 * OB_MIB);
	/* Slowly, too: in time it is more. */
	for (unsigned i = 1; i < 20; i++)
		way = ob_ladder_follow(&follower, (700 + 5 * i) * OB_MIB, 20 * OB_MIB, SECOND);
	assert_int_equal(way.up_bytes, 5 * OB_MIB);
	for (unsigned i = 1; i < 20; i++)
		way = ob_ladder_follow(&follower, (795 + i) * OB_MIB, 20 * OB_MIB, SECOND);
	assert_int_equal(way.up_bytes, 0);
	way = ob_ladder_follow(&follower, UINT64_MAX, 0, UINT64_MAX);
	way = ob_ladder_follow(&follower, 0, UINT64_MAX, 0);
	assert_true(way.down_bytes == UINT64_MAX && way.up_bytes == 0);
}

static uint64_t draw_any(void)
{
	static const uint64_t edges[] = { 0, 1, OB_MIB, OB_GIB, BUDGET, INT64_MAX, UINT64_MAX - 1, UINT64_MAX };

	return draw(2) ? edges[draw(OB_ARRAY_LEN(edges))] : draw(2) ? draw(OB_GIB) : seed;
}

static void anything_may_come_in(void **state)
{
	struct watched w;

	start(&w);
	for (unsigned i = 0; i < STEPS; i++) {
		struct ob_ladder_input *input = &w.input;
		enum ob_ladder_state is;

		input->budget_bytes = draw(50) ? BUDGET : draw_any();
		input->upper = (enum ob_ladder_state)draw(OB_LADDER_STATES + 1);
		input->over_bytes = draw(20) ? 0 : draw_any();
		input->waiting_bytes = draw_any();
		input->room_bytes = draw_any();
		input->used_bytes = draw_any();
		input->given_bytes = draw_any();
		input->has_pressure = draw(2);
		input->some_us = draw_any();
		input->full_us = draw_any();
		input->available_bytes = draw_any();
		input->scarce_bytes = draw_any();
		is = step(&w, draw(8) ? draw(3 * SECOND) : draw_any());
		if (input->budget_bytes && input->over_bytes > OB_MAX(input->budget_bytes / 256, 4 * OB_MIB))
			assert_int_equal(is, OB_LADDER_LOW);
	}
}

/* Whoever wants it to flap: amiss as soon as it is well, well as soon as it is not. */
static void it_does_not_flap(void **state)
{
	static const uint64_t steps_ns[] = { SECOND / 20, SECOND, 2 * SECOND, 7 * SECOND };

	for (size_t s = 0; s < OB_ARRAY_LEN(steps_ns); s++) {
		for (unsigned kind = 0; kind < 3; kind++) {
			struct watched w;
			uint64_t calm_ns = OB_MIN(steps_ns[s], OB_LADDER_STEP_MAX_NS), least_ns = kind == 1 ? OB_LADDER_DWELL_NS : OB_LADDER_HOLD_NS;

			start(&w);
			w.input.has_pressure = true;
			w.input.scarce_bytes = w.input.available_bytes = 2;
			for (unsigned i = 0; i < STEPS / 4; i++) {
				bool is_well = kind ? w.ladder.grip == OB_LADDER_HIGH : w.ladder.grip != OB_LADDER_LOW;

				w.input.over_bytes = is_well && kind == 0 ? OB_GIB : 0;
				w.input.waiting_bytes = w.input.used_bytes = is_well && kind == 1 ? OB_GIB : 0;
				w.input.available_bytes = is_well && kind == 2 ? 1 : 2;
				w.input.full_us += OB_NS_PER_SEC;
				step(&w, steps_ns[s]);
			}
			assert_true(w.left > 0);
			assert_true(w.left <= STEPS / 4 * calm_ns / least_ns + 1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(above_it_is_what_is_free),
		cmocka_unit_test(above_the_budget_it_is_low_at_once),
		cmocka_unit_test(pressure_counts_where_there_is_nothing_available),
		cmocka_unit_test(gentle_means_that_keep_pace_are_waited_for),
		cmocka_unit_test(gentle_means_that_are_outrun_are_not),
		cmocka_unit_test(a_machine_that_fills_what_it_is_given_is_no_reason),
		cmocka_unit_test(what_balloons_have_shown_is_forgotten),
		cmocka_unit_test(a_machine_grows_by_more_than_lies_between_its_marks),
		cmocka_unit_test(anything_may_come_in),
		cmocka_unit_test(it_does_not_flap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
