/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A balloon that is driven by what its machine costs, with an engine and applications that are played: the whole loop as daemon/balloon.c
 * closes it. What one sees is of different moments: costs of now, the balloon and the guest's memory of LAG seconds ago.
 *
 * After each second: the balloon leaves the guest its floor, and nobody is asked where the host has enough. What swings is counted: how often
 * an application was told to give more and to take back, and how often the balloon turned round.
 */
#include "test.h"

#include "base/clock.h"
#include "base/units.h"
#include "daemon/app_policy.h"
#include "daemon/balloon_policy.h"
#include "daemon/budget.h"
#include "daemon/working_set.h"
#include "proto/stats.h"

#define M     OB_MIB
#define SEC   OB_NS_PER_SEC
#define ALL   (OB_GUEST_FREE | OB_GUEST_AVAILABLE)
#define LAG   2
#define GRACE 10

struct seen {
	uint64_t held, available;
};

struct world {
	/* The guest: its kernel and programs use `hot` all the time and `cold` never, the application what it has not given. */
	uint64_t machine, hot, cold;
	uint64_t full, floor, speed, given; /* of the application: gives and takes back so much a second */
	uint64_t held, balloon_speed;
	uint64_t touched;                   /* what the host has of it, but for what is in the balloon: also what became free, unless that is reported */
	bool reports, has_app;
	/* The engine: what has been evicted. */
	uint64_t away_hot, away_cold, came_pages, entitled;
	unsigned grace;
	/* overbookd */
	struct ob_balloon_policy policy;
	struct ob_apps apps;
	struct ob_working_set set;
	uint64_t goal, updates;
	struct seen before[LAG];
	unsigned seconds, rises, falls, turns;
	int direction;
};

static struct world make_world(uint64_t hot, uint64_t cold, uint64_t full)
{
	struct world w = { .machine = OB_GIB, .hot = hot, .cold = cold, .full = full, .floor = 64 * M, .speed = 64 * M, .balloon_speed = 64 * M,
			   .reports = true, .has_app = full > 0, .entitled = OB_BUDGET_NONE };

	w.touched = hot + cold + full;
	ob_working_set_forget(&w.set);
	for (unsigned i = 0; i < LAG; i++)
		w.before[i].available = w.machine - w.touched;
	return w;
}

static uint64_t used(const struct world *w)
{
	return w->hot + w->cold + (w->full - w->given);
}

static uint64_t available(const struct world *w)
{
	return ob_less(w->machine, w->held + used(w));
}

static void live(struct world *w)
{
	uint64_t target = w->has_app ? w->apps.app[0].told_bytes : 0, most = w->full - OB_MIN(w->full, w->floor);
	uint64_t goal = w->policy.target_bytes;

	if (w->given < target)
		w->given = OB_MIN(OB_MIN(w->given + w->speed, target), most);
	else
		w->given -= OB_MIN(OB_MIN(w->given - target, w->speed), available(w));
	if (w->held < goal)
		w->held += OB_MIN(OB_MIN(goal - w->held, w->balloon_speed), available(w));
	else
		w->held = goal;
	w->touched = w->reports ? used(w) : OB_MAX(used(w), OB_MIN(w->touched, w->machine - w->held));
}

static uint64_t cost(const struct world *w)
{
	return w->touched - w->away_hot - w->away_cold;
}

/* Keeps the limit, which follows the cost down in the grace; half of what is used and away comes back each second. */
static void keep_limit(struct world *w)
{
	uint64_t used_hot = w->hot + w->full - w->given, cold, over, came;

	w->away_hot = OB_MIN(w->away_hot, used_hot);
	cold = w->touched - used_hot;
	w->away_cold = OB_MIN(w->away_cold, cold);
	came = w->away_hot / 2;
	w->away_hot -= came;
	w->came_pages += came / 4096;
	if (w->grace && --w->grace)
		return;
	over = ob_less(cost(w), w->entitled);
	if (over)
		over += w->entitled / 64;
	w->away_cold += OB_MIN(over, cold - w->away_cold);
	w->away_hot += ob_less(cost(w), w->entitled);
}

static void look(struct world *w)
{
	const struct ob_stats stats = {
		.ram_bytes = w->machine, .ballooned_bytes = w->held, .absent_bytes = w->machine - w->held - w->touched,
		.swapped_bytes = w->away_hot + w->away_cold, .cost_bytes = cost(w), .faults_swapped = w->came_pages,
	};

	ob_working_set_step(&w->set, &stats, w->machine, w->seconds * SEC);
}

static void decide(struct world *w)
{
	const struct seen *seen = &w->before[w->seconds % LAG];
	uint64_t margin = ob_balloon_margin_bytes(w->machine), gone = w->machine - w->touched;
	const struct ob_balloon_balance balance = {
		.held_bytes = seen->held, .unused_bytes = ob_less(OB_MIN(ob_less(gone, seen->held), seen->available), margin), .cost_bytes = cost(w),
		.free_bytes = ob_less(seen->available, margin),
		.away_bytes = w->away_hot + w->away_cold, .back_bytes = w->set.demand.bytes, .entitled_bytes = w->entitled,
		.have_given = ob_apps_have_given(&w->apps),
	};
	struct ob_apps_view apps = {
		.now_ns = w->seconds * SEC, .held_bytes = seen->held, .spare_bytes = ob_less(seen->available, margin), .is_known = true,
	};
	struct ob_balloon_view view = {
		.now_ns = w->seconds * SEC, .machine_bytes = w->machine, .held_bytes = seen->held, .gone_bytes = gone, .floor_bytes = w->machine / 4,
		.has_driver = true, .updates = ++w->updates, .known = ALL, .free_bytes = seen->available, .available_bytes = seen->available,
	};

	ob_balloon_note_room(&w->policy, &balance);
	apps.room_bytes = ob_balloon_room(&w->policy, &balance);
	apps.goal_bytes = w->goal = ob_balloon_auto_goal(&w->policy, &balance);
	if (w->has_app) {
		w->apps.n = 1;
		w->apps.app[0].could_bytes = w->full - w->floor;
		w->apps.app[0].given_bytes = w->given;
		w->apps.app[0].used_bytes = w->full - w->given;
	}
	ob_apps_step(&w->apps, &apps);
	view.goal_bytes = ob_apps_hold(&w->apps, w->goal, w->policy.target_bytes, seen->held + apps.spare_bytes);
	(void)ob_balloon_policy_step(&w->policy, &view);
}

static void second(struct world *w)
{
	uint64_t told = w->apps.app[0].told_bytes, target = w->policy.target_bytes, now;
	int direction;

	w->seconds++;
	live(w);
	keep_limit(w);
	look(w);
	decide(w);
	w->before[w->seconds % LAG] = (struct seen){ w->held, available(w) };
	now = w->apps.app[0].told_bytes;
	w->rises += now > told;
	w->falls += now < told;
	direction = w->policy.target_bytes > target ? 1 : w->policy.target_bytes < target ? -1 : 0;
	w->turns += direction && w->direction && direction != w->direction;
	w->direction = direction ? direction : w->direction;
	assert_true(w->policy.target_bytes <= w->machine - w->machine / 4);
	if (w->entitled == OB_BUDGET_NONE || w->entitled >= w->machine)
		assert_true(now <= told);
}

static void seconds(struct world *w, unsigned n)
{
	while (n--)
		second(w);
}

static void cut(struct world *w, uint64_t entitled)
{
	w->entitled = entitled;
	w->grace = cost(w) > entitled ? GRACE : 0;
}

/* It is where it should be: nothing that is used is away, and what has been given is no more than was needed. */
static void assert_settled(struct world *w)
{
	uint64_t slack = w->has_app && w->given ? w->entitled / 36 : w->entitled / 8;

	assert_true(w->away_hot <= 8 * M);
	assert_true(w->touched + slack + 24 * M >= w->entitled);
	w->rises = w->falls = w->turns = 0;
	seconds(w, 1000);
	assert_int_equal(w->rises, 0);
	assert_int_equal(w->falls, 0);
	assert_int_equal(w->turns, 0);
	assert_int_equal(w->policy.eased, 0);
}

static void what_is_asked_for_is_given(void **state)
{
	for (int reports = 0; reports < 2; reports++) {
		struct world w = make_world(100 * M, 50 * M, 700 * M);

		w.reports = reports;
		seconds(&w, 20);
		assert_int_equal(w.rises, 0);
		cut(&w, 500 * M);
		seconds(&w, 60);
		assert_true(w.rises <= 3 && w.turns == 0);
		assert_true(cost(&w) <= 500 * M);
		assert_settled(&w);
	}
}

/* The engine has evicted what is used before the application, or the balloon, was so far: the limit is kept, and yet the rest is asked for. */
static void the_engine_was_faster(void **state)
{
	for (int i = 0; i < 4; i++) {
		struct world w = make_world(100 * M, 50 * M, 700 * M);

		w.reports = i & 1;
		w.speed = (i & 2 ? 5 : 64) * M;
		w.balloon_speed = 6 * M;
		cut(&w, 500 * M);
		seconds(&w, GRACE + 1);
		assert_true(cost(&w) <= 500 * M);
		/* What was too much it gets back, and keeps. */
		seconds(&w, 600);
		assert_true(w.rises == 1 || i & 2);
		assert_settled(&w);
	}
}

/* What was evicted and nobody misses is not asked for of anybody. */
static void cold_memory_is_not_made_room_for(void **state)
{
	struct world w = make_world(200 * M, 400 * M, 300 * M);

	w.speed = 0;
	cut(&w, 600 * M);
	seconds(&w, 60);
	assert_int_equal(w.away_hot, 0);
	assert_true(w.away_cold >= 250 * M);
	w.speed = 64 * M;
	seconds(&w, 1000);
	assert_int_equal(w.given, 0);
	assert_int_equal(w.away_hot, 0);
}

/* What the machine does not cost any more (it is zero now, or shared) its application gets back, and no more than that. */
static void what_was_too_much_comes_back(void **state)
{
	struct world w = make_world(100 * M, 150 * M, 600 * M);
	uint64_t given;

	cut(&w, 500 * M);
	seconds(&w, 60);
	given = w.given;
	w.cold -= 60 * M;
	for (unsigned i = 0; i < 60; i++) {
		second(&w);
		assert_true(cost(&w) + w.entitled / 36 <= w.entitled + M);
	}
	assert_in_range(given - w.given, 50 * M, 62 * M);
	assert_settled(&w);
}

/* The guest has no application to ask: what it can spare is taken, and no more. */
static void without_applications(void **state)
{
	struct world w = make_world(600 * M, 0, 0);

	w.reports = false;
	w.touched = w.machine;
	cut(&w, 700 * M);
	seconds(&w, 60);
	assert_int_equal(w.away_hot, 0);
	assert_true(w.held >= 320 * M && cost(&w) <= 700 * M);
	assert_settled(&w);
	/* It uses more than it may: it faults, and the balloon keeps off. */
	w.hot = 780 * M;
	seconds(&w, 1000);
	assert_true(w.turns <= 8);
	assert_true(available(&w) >= ob_balloon_margin_bytes(w.machine) / 2);
}

/* The host first, then the balloon, then the application, and never more than there is. */
static void come_back_in_reverse(bool reports)
{
	struct world w = make_world(100 * M, 0, 700 * M);

	w.reports = reports;
	cut(&w, 450 * M);
	seconds(&w, 60);
	for (uint64_t entitled = 600 * M; entitled <= 750 * M; entitled += 150 * M) {
		uint64_t given = w.given, held = w.held;

		w.rises = w.turns = 0;
		cut(&w, entitled);
		for (unsigned i = 0; i < 90; i++) {
			second(&w);
			/* What was reported as free the balloon may never have got. */
			assert_true(reports || w.given + M >= given || w.held < held);
			assert_int_equal(w.away_hot + w.rises, 0);
		}
		assert_true(w.given + 40 * M < given);
		assert_settled(&w);
	}
	cut(&w, OB_BUDGET_NONE);
	seconds(&w, 60);
	assert_int_equal(w.given + w.held, 0);
	assert_int_equal(w.apps.app[0].state, OB_APP_RESTING);
}

static void it_comes_back_in_reverse(void **state)
{
	come_back_in_reverse(false);
	come_back_in_reverse(true);
}

/* Where the host has enough, what comes back is no reason to ask for anything. */
static void enough_for_all(void **state)
{
	struct world w = make_world(100 * M, 50 * M, 700 * M);

	w.speed = 0;
	cut(&w, 500 * M);
	seconds(&w, 60);
	assert_true(w.away_hot > 50 * M);
	cut(&w, OB_BUDGET_NONE);
	w.speed = 64 * M;
	seconds(&w, 5);
	w.rises = 0;
	seconds(&w, 100);
	assert_int_equal(w.rises, 0);
	assert_int_equal(w.given, 0);
}

/* Something else in the guest comes and goes: the balloon backs off when it has to, and the application is told no less for that. */
static void what_swings_in_the_guest_swings_nothing(void **state)
{
	struct world w = make_world(100 * M, 50 * M, 700 * M);

	cut(&w, 500 * M);
	seconds(&w, 60);
	w.falls = w.rises = 0;
	for (unsigned i = 0; i < 100; i++) {
		w.hot = i % 2 ? 160 * M : 100 * M;
		seconds(&w, 7);
	}
	assert_int_equal(w.falls, 0);
	assert_true(w.rises <= 4);
	assert_true(w.policy.eased <= 16);
	w.hot = 100 * M;
	seconds(&w, 100);
	assert_true(w.away_hot <= 8 * M);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_asked_for_is_given),
		cmocka_unit_test(the_engine_was_faster),
		cmocka_unit_test(cold_memory_is_not_made_room_for),
		cmocka_unit_test(what_was_too_much_comes_back),
		cmocka_unit_test(without_applications),
		cmocka_unit_test(it_comes_back_in_reverse),
		cmocka_unit_test(enough_for_all),
		cmocka_unit_test(what_swings_in_the_guest_swings_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
