/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The balloon's policy with guests that are played: one that gives what it is asked for, those that have only caches,
 * that swap, that refuse, that lie, that take back, that have no driver, that restart. After each second the invariants
 * are checked: the target is whole, within the floor, rises by at most a step, and not while it waits.
 */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "daemon/balloon_policy.h"
#include "daemon/budget.h"
#include "proto/stats.h"

#define ALL (OB_GUEST_TOTAL | OB_GUEST_FREE | OB_GUEST_AVAILABLE | OB_GUEST_CACHES | OB_GUEST_SWAP_IN | OB_GUEST_SWAP_OUT | OB_GUEST_MAJOR_FAULTS)

/* A guest. Its memory is used (by programs), cached or free; what it uses beyond what there is goes to its swap. */
struct guest {
	uint64_t machine, used, hot_cache; /* hot_cache: of its caches, what it reads all the time */
	uint64_t cache;                    /* what it would cache if it could */
	uint64_t speed;                    /* of the balloon, a second */
	uint64_t held, swapped, swap_in, swap_out, faults, updates, known;
	bool has_driver, has_swap, refuses, lies, is_silent, tells_late; /* tells_late: of a second ago */
	uint64_t free_before;
	uint64_t refuses_above;
	bool is_stalled, is_owed; /* by its own account */
	uint64_t goal, floor;
	struct ob_balloon_policy policy;
	uint64_t now_ns;
	unsigned turns, reversals; /* of the target's direction */
	int direction;
	uint64_t peak;
};

static struct guest make_guest(uint64_t machine, uint64_t used)
{
	return (struct guest){ .machine = machine, .used = used, .speed = machine / 4, .known = ALL, .has_driver = true, .floor = machine / 4,
			       .refuses_above = UINT64_MAX, .now_ns = 1000 * OB_NS_PER_SEC };
}

/* A second of the guest's own life. */
static void live(struct guest *g)
{
	uint64_t target = g->policy.target_bytes, room, need;

	if (g->has_driver && !g->refuses && !g->lies) {
		if (g->held < target)
			g->held = OB_MIN(OB_MIN(target, g->held + g->speed), OB_MAX(g->refuses_above, g->held));
		else
			g->held -= OB_MIN(g->held - target, g->speed);
	}
	if (g->lies)
		g->held = target;
	room = g->lies ? g->machine : g->machine - OB_MIN(g->held, g->machine);
	need = g->used - g->swapped;
	if (need > room && g->has_swap) {
		uint64_t out = need - room;

		g->swapped += out;
		g->swap_out += out;
	} else if (g->swapped && need < room) {
		uint64_t in = OB_MIN(OB_MIN(g->swapped, room - need), 4 * OB_MIB);

		g->swapped -= in;
		g->swap_in += in;
	}
	need = g->used - g->swapped;
	if (need + g->hot_cache > room)
		g->faults += (need + g->hot_cache - room) / 4096 / 8;
	g->updates += !g->is_silent && g->has_driver;
}

static uint64_t free_of(const struct guest *g)
{
	uint64_t room = g->lies ? g->machine : g->machine - OB_MIN(g->held, g->machine), need = g->used - g->swapped;

	return room > need ? room - need : 0;
}

static struct ob_balloon_view look(const struct guest *g)
{
	uint64_t available = g->tells_late ? g->free_before : free_of(g), cache = OB_MIN(g->cache, available);

	return (struct ob_balloon_view){
		.now_ns = g->now_ns, .machine_bytes = g->machine, .held_bytes = g->held, .gone_bytes = g->lies ? 0 : g->held,
		.floor_bytes = g->floor, .goal_bytes = g->goal, .has_driver = g->has_driver, .updates = g->updates,
		.known = g->updates ? g->known : 0, .free_bytes = available - cache, .available_bytes = available, .caches_bytes = cache,
		.swap_in_bytes = g->swap_in, .swap_out_bytes = g->swap_out, .major_faults = g->faults,
		.is_stalled = g->is_stalled, .is_owed = g->is_stalled && g->is_owed,
	};
}

static void check_step(struct guest *g, const struct ob_balloon_view *view, const struct ob_balloon_policy *before)
{
	uint64_t target = g->policy.target_bytes, step = ob_balloon_step_bytes(g->machine);
	int direction = target > before->target_bytes ? 1 : target < before->target_bytes ? -1 : 0;

	assert_true(target % OB_MIB == 0);
	assert_true(!target || target + g->floor <= g->machine);
	if (view->known & OB_GUEST_FREE && before->target_bytes && !g->policy.trouble_ns)
		step = OB_MAX(step, OB_MIN(4 * step, view->free_bytes / 2));
	assert_true(target - OB_MIN(target, OB_MAX(before->target_bytes, view->held_bytes)) <= step);
	if (direction > 0) {
		assert_true(view->now_ns >= before->until_ns || (before->state == OB_BALLOON_NO_DRIVER && view->held_bytes > OB_MIB));
		assert_true(target <= view->goal_bytes);
	}
	assert_true(g->policy.state < OB_BALLOON_STATES && *ob_balloon_state_name(g->policy.state));
	if (direction && g->direction && direction != g->direction)
		g->reversals++;
	g->direction = direction ? direction : g->direction;
	g->peak = OB_MAX(g->peak, target);
}

static void run(struct guest *g, unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++) {
		struct ob_balloon_policy before = g->policy;
		struct ob_balloon_view view;
		uint64_t target;

		g->now_ns += OB_NS_PER_SEC;
		g->free_before = free_of(g);
		live(g);
		view = look(g);
		target = ob_balloon_policy_step(&g->policy, &view);
		assert_int_equal(target, g->policy.target_bytes);
		check_step(g, &view, &before);
	}
}

static void willing_guest(void **state)
{
	struct guest g = make_guest(2 * OB_GIB, 400 * OB_MIB);

	run(&g, 10);
	assert_int_equal(g.policy.state, OB_BALLOON_EMPTY);
	g.goal = OB_GIB;
	run(&g, 20);
	assert_int_equal(g.held, OB_GIB);
	assert_int_equal(g.policy.state, OB_BALLOON_HOLDING);
	assert_int_equal(g.reversals, 0);
	g.goal = 200 * OB_MIB;
	run(&g, 2);
	assert_int_equal(g.policy.state, OB_BALLOON_DEFLATING);
	run(&g, 5);
	assert_int_equal(g.held, 200 * OB_MIB);
	g.goal = 0;
	run(&g, 5);
	assert_int_equal(g.held, 0);
	assert_int_equal(g.policy.state, OB_BALLOON_EMPTY);
	assert_int_equal(g.policy.eased + g.policy.stuck, 0);
}

/* What it tells is of before the last step has arrived: it is left what is to stay, all the same. */
static void tells_late(void **state)
{
	for (uint64_t machine = 256 * OB_MIB; machine <= 16 * OB_GIB; machine *= 2) {
		struct guest g = make_guest(machine, machine / 3);

		g.goal = UINT64_MAX;
		g.tells_late = true;
		g.floor = machine / 8;
		run(&g, 100);
		assert_int_equal(g.policy.eased, 0);
		assert_true(free_of(&g) >= ob_balloon_margin_bytes(machine) && free_of(&g) <= ob_balloon_margin_bytes(machine) + 4 * OB_MIB);
	}
}

/* Asked for more than it has: it is brought near to its margin, and left there. */
static void nothing_to_spare(void **state)
{
	for (uint64_t machine = 128 * OB_MIB; machine <= 64 * OB_GIB; machine *= 2) {
		struct guest g = make_guest(machine, machine / 2);
		uint64_t margin = ob_balloon_margin_bytes(machine);

		g.goal = UINT64_MAX;
		run(&g, 300);
		assert_int_equal(g.policy.state, OB_BALLOON_HOLDING);
		assert_int_equal(g.reversals, 0);
		assert_int_equal(g.policy.eased, 0);
		assert_true(free_of(&g) >= margin && free_of(&g) <= margin + 4 * OB_MIB);
		/* It needs more, slowly: the balloon gives it back, and swings ever more slowly. */
		g.used += margin * 3 / 4;
		run(&g, 5);
		assert_true(g.policy.eased && free_of(&g) >= margin / 2);
		run(&g, 3600);
		assert_true(free_of(&g) >= margin / 2);
		assert_in_range(g.policy.eased, 1, 16);
		assert_true(g.reversals <= 24);
	}
}

/* By its own account: nothing more is asked, it gets back a step every other second, and is asked again when that is long over. */
static void stalling_guest(void **state)
{
	struct guest g = make_guest(2 * OB_GIB, 400 * OB_MIB);
	uint64_t step = ob_balloon_step_bytes(g.machine), held, until_ns;

	g.is_stalled = g.is_owed = true;
	g.goal = OB_GIB;
	run(&g, 20);
	assert_int_equal(g.peak, 0);
	assert_int_equal(g.policy.state, OB_BALLOON_EASING);
	assert_int_equal(g.policy.eased, 0);
	g.is_stalled = false;
	run(&g, 60);
	assert_int_equal(g.held, OB_GIB);
	held = g.held;
	/* While memory is hard it stays as it is. */
	g.is_stalled = true;
	g.is_owed = false;
	g.goal = OB_GIB + OB_GIB / 4;
	run(&g, 20);
	assert_int_equal(g.held, held);
	assert_int_equal(g.policy.state, OB_BALLOON_EASING);
	assert_int_equal(g.policy.eased, 0);
	g.is_owed = true;
	run(&g, 6);
	assert_in_range(g.held, held - 4 * step, held - 2 * step);
	assert_in_range(g.policy.eased, 3, 4);
	held = g.policy.target_bytes;
	/* It has helped, by the last report; and then altogether. */
	g.is_owed = false;
	run(&g, 10);
	assert_int_equal(g.held, held);
	g.is_stalled = false;
	until_ns = g.now_ns + 9 * OB_NS_PER_SEC;
	while (g.now_ns < until_ns)
		run(&g, 1);
	assert_int_equal(g.policy.target_bytes, held);
	run(&g, 3600);
	assert_int_equal(g.held, g.goal);
	/* All of it, if it goes on. Nobody but it wants less of it than there is. */
	g.is_stalled = g.is_owed = true;
	run(&g, 45);
	assert_int_equal(g.held, 0);
	/* What is not wanted any more goes back as ever. */
	g.is_stalled = false;
	run(&g, 3600);
	assert_int_equal(g.held, g.goal);
	g.is_stalled = true;
	g.is_owed = false;
	g.goal = 0;
	run(&g, 10);
	assert_int_equal(g.held, 0);
	assert_int_equal(g.policy.state, OB_BALLOON_EMPTY);
}

/* One that says so half of the time has its memory more and more of the time. */
static void one_that_stalls_now_and_then(void **state)
{
	struct guest g = make_guest(2 * OB_GIB, 400 * OB_MIB);

	g.goal = OB_GIB;
	for (unsigned i = 0; i < 360; i++) {
		g.is_stalled = g.is_owed = g.held >= OB_GIB / 2;
		run(&g, 10);
	}
	assert_in_range(g.reversals, 2, 40);
}

static void never_below_the_floor(void **state)
{
	struct guest g = make_guest(OB_GIB, 10 * OB_MIB);

	g.goal = UINT64_MAX;
	run(&g, 200);
	assert_int_equal(g.held, OB_GIB - g.floor);
	/* A floor that is raised. */
	g.floor = 700 * OB_MIB;
	run(&g, 10);
	assert_int_equal(g.held, OB_GIB - g.floor);
	g.floor = 2 * OB_GIB;
	run(&g, 10);
	assert_int_equal(g.held, 0);
}

/* All that is not used is cache, most of which nobody misses. */
static void caches_alone(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);

	g.cache = OB_GIB;
	g.goal = 600 * OB_MIB;
	run(&g, 60);
	assert_int_equal(g.held, 600 * OB_MIB);
	assert_int_equal(g.policy.eased, 0);
	/* Caches that it reads all the time: it faults, and gets them back. */
	g.hot_cache = 500 * OB_MIB;
	run(&g, 5);
	assert_true(g.policy.eased && g.policy.state == OB_BALLOON_EASING);
	run(&g, 3600);
	assert_in_range(g.policy.eased, 1, 16);
	assert_true(g.reversals <= 24);
}

static void swapping_guest(void **state)
{
	struct guest g = make_guest(OB_GIB, 900 * OB_MIB);

	/* It calls what it could swap available. */
	g.has_swap = true;
	g.known = OB_GUEST_SWAP_IN | OB_GUEST_SWAP_OUT | OB_GUEST_FREE;
	g.goal = 500 * OB_MIB;
	run(&g, 60);
	assert_true(g.held <= 100 * OB_MIB);
	g.used = 990 * OB_MIB;
	run(&g, 30);
	assert_true(g.held <= 34 * OB_MIB);
	run(&g, 3600);
	assert_true(g.reversals <= 24);
	/* One that swaps by itself, with an empty balloon, is never asked for anything. */
	g = make_guest(OB_GIB, 500 * OB_MIB);
	g.goal = 0;
	for (int i = 0; i < 100; i++) {
		g.swap_out += 50 * OB_MIB;
		run(&g, 1);
	}
	assert_int_equal(g.policy.eased, 0);
}

static void refusing_guest(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);

	g.refuses = true;
	g.goal = 500 * OB_MIB;
	run(&g, 14);
	assert_int_equal(g.policy.state, OB_BALLOON_STUCK);
	assert_int_equal(g.policy.target_bytes, 0);
	run(&g, 3600);
	assert_in_range(g.policy.stuck, 2, 12);
	assert_int_equal(g.peak, ob_balloon_step_bytes(g.machine));
	/* It does now. */
	g.refuses = false;
	run(&g, 1200);
	assert_int_equal(g.held, 500 * OB_MIB);
	/* One that gives some and no more is told to keep at that. */
	g = make_guest(OB_GIB, 100 * OB_MIB);
	g.refuses_above = 150 * OB_MIB + 4096;
	g.goal = 500 * OB_MIB;
	run(&g, 18);
	assert_int_equal(g.policy.state, OB_BALLOON_STUCK);
	assert_int_equal(g.policy.target_bytes, 150 * OB_MIB);
	run(&g, 3600);
	assert_in_range(g.policy.stuck, 2, 12);
}

/* It says that it has given what it has not. */
static void lying_guest(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);

	g.lies = true;
	g.goal = 500 * OB_MIB;
	run(&g, 20);
	assert_int_equal(g.policy.state, OB_BALLOON_STUCK);
	assert_int_equal(g.policy.target_bytes, 0);
	run(&g, 3600);
	assert_in_range(g.policy.stuck, 2, 12);
	g.lies = false;
	run(&g, 1300);
	assert_int_equal(g.held, 500 * OB_MIB);
}

/* Anything for numbers: only the invariants hold. */
static void mad_guest(void **state)
{
	struct guest g = make_guest(OB_GIB, 0);
	struct ob_balloon_policy before;

	srand(4711);
	for (int i = 0; i < 200000; i++) {
		struct ob_balloon_view view = look(&g);
		uint64_t *const fields[] = { &view.held_bytes, &view.gone_bytes, &view.updates, &view.known, &view.free_bytes, &view.available_bytes,
					     &view.caches_bytes, &view.swap_in_bytes, &view.swap_out_bytes, &view.major_faults, &view.goal_bytes };

		for (size_t f = 0; f < OB_ARRAY_LEN(fields); f++)
			*fields[f] = rand() % 3 ? (uint64_t)rand() << (rand() % 33) : rand() % 2 ? UINT64_MAX : 0;
		view.held_bytes = OB_MIN(view.held_bytes, view.machine_bytes);
		view.has_driver = rand() % 50;
		view.may_be_blind = rand() % 2;
		g.now_ns += (uint64_t)(rand() % 3000) * OB_NS_PER_MS;
		view.now_ns = g.now_ns;
		before = g.policy;
		(void)ob_balloon_policy_step(&g.policy, &view);
		check_step(&g, &view, &before);
	}
}

static void deflates_by_itself(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);

	g.goal = 500 * OB_MIB;
	run(&g, 30);
	assert_int_equal(g.held, 500 * OB_MIB);
	g.held = 300 * OB_MIB;
	g.speed = 0;
	run(&g, 1);
	assert_int_equal(g.policy.state, OB_BALLOON_EASING);
	assert_int_equal(g.policy.target_bytes, 300 * OB_MIB);
	run(&g, 9);
	assert_int_equal(g.policy.target_bytes, 300 * OB_MIB);
	g.speed = OB_GIB;
	run(&g, 120);
	assert_int_equal(g.held, 500 * OB_MIB);
	assert_int_equal(g.policy.eased, 1);
}

static void without_driver(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);
	struct ob_balloon_view view;

	g.has_driver = false;
	g.goal = 500 * OB_MIB;
	run(&g, 100);
	assert_int_equal(g.policy.state, OB_BALLOON_NO_DRIVER);
	assert_int_equal(g.peak, 0);
	/* It starts, is driven, and starts anew: with all its memory. */
	g.has_driver = true;
	run(&g, 40);
	assert_int_equal(g.held, 500 * OB_MIB);
	g.has_driver = false;
	run(&g, 1);
	assert_int_equal(g.policy.target_bytes, 0);
	g.held = g.swap_out = g.faults = 0;
	g.has_driver = true;
	/* Nothing is asked while it starts. */
	run(&g, 9);
	assert_int_equal(g.policy.state, OB_BALLOON_STARTING);
	assert_int_equal(g.policy.target_bytes, 0);
	run(&g, 60);
	assert_int_equal(g.held, 500 * OB_MIB);
	assert_int_equal(g.policy.eased, 0);
	/* One that was migrated comes with what it held, and goes on. */
	g.policy = (struct ob_balloon_policy){ 0 };
	g.has_driver = false;
	run(&g, 3);
	g.held = 300 * OB_MIB;
	g.has_driver = true;
	g.now_ns += OB_NS_PER_SEC;
	g.updates++;
	view = look(&g);
	assert_true(ob_balloon_policy_step(&g.policy, &view) >= 300 * OB_MIB);
}

static void silent_guest(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);
	struct ob_balloon_view view;

	g.is_silent = true;
	g.goal = 500 * OB_MIB;
	run(&g, 100);
	assert_int_equal(g.policy.state, OB_BALLOON_BLIND);
	assert_int_equal(g.peak, 0);
	/* The user has named a size: half steps, after it has been waited for statistics. */
	for (int i = 0; i < 35; i++) {
		g.now_ns += OB_NS_PER_SEC;
		live(&g);
		view = look(&g);
		view.may_be_blind = true;
		(void)ob_balloon_policy_step(&g.policy, &view);
		assert_true(i > 4 || !g.policy.target_bytes);
	}
	assert_int_equal(g.held, 500 * OB_MIB);
	/* One that told and tells no more is left as it is. */
	g = make_guest(OB_GIB, 100 * OB_MIB);
	g.goal = 100 * OB_MIB;
	run(&g, 20);
	g.is_silent = true;
	g.goal = 500 * OB_MIB;
	for (int i = 0; i < 30; i++) {
		g.now_ns += OB_NS_PER_SEC;
		live(&g);
		view = look(&g);
		view.may_be_blind = true;
		(void)ob_balloon_policy_step(&g.policy, &view);
	}
	/* But for one step: that much it had told to be free. */
	assert_true(g.held <= 100 * OB_MIB + 4 * ob_balloon_step_bytes(g.machine));
	assert_int_equal(g.policy.state, OB_BALLOON_BLIND);
	g.is_silent = false;
	run(&g, 30);
	assert_int_equal(g.held, 500 * OB_MIB);
	/* Of an old kernel: no available, no caches. */
	g = make_guest(OB_GIB, 100 * OB_MIB);
	g.known = OB_GUEST_FREE | OB_GUEST_TOTAL;
	g.goal = 500 * OB_MIB;
	run(&g, 30);
	assert_int_equal(g.held, 500 * OB_MIB);
}

/* What somebody else has put into the balloon is left there, and added to. */
static void takes_up(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);
	struct ob_balloon_view view;

	g.held = 200 * OB_MIB;
	view = look(&g);
	assert_int_equal(ob_balloon_policy_step(&g.policy, &view), 0);
	assert_int_equal(g.policy.state, OB_BALLOON_EMPTY);
	g.goal = 300 * OB_MIB;
	g.now_ns += OB_NS_PER_SEC;
	g.updates++;
	view = look(&g);
	assert_true(ob_balloon_policy_step(&g.policy, &view) > 200 * OB_MIB);
	run(&g, 10);
	assert_int_equal(g.held, 300 * OB_MIB);
}

/* Also when it is all that is wanted, and all that the guest can spare: it can be told to go again. */
static void takes_up_all(void **state)
{
	struct guest g = make_guest(OB_GIB, 780 * OB_MIB);

	g.held = g.goal = 200 * OB_MIB;
	g.updates++;
	for (unsigned i = 0; i < 3; i++) {
		struct ob_balloon_view view = look(&g);

		assert_int_equal(ob_balloon_policy_step(&g.policy, &view), 200 * OB_MIB);
		assert_int_equal(g.policy.state, OB_BALLOON_HOLDING);
		g.now_ns += OB_NS_PER_SEC;
		g.updates++;
	}
	g.goal = 0;
	run(&g, 10);
	assert_int_equal(g.held, 0);
}

static void machine_is_not_known(void **state)
{
	struct guest g = make_guest(OB_GIB, 100 * OB_MIB);
	struct ob_balloon_view view = { .has_driver = true, .now_ns = OB_NS_PER_SEC, .goal_bytes = OB_GIB };

	g.goal = 500 * OB_MIB;
	run(&g, 30);
	assert_int_equal(ob_balloon_policy_step(&g.policy, &view), 500 * OB_MIB);
}

static uint64_t auto_goal(const struct guest *g, uint64_t held, uint64_t cost, uint64_t away, uint64_t back, uint64_t entitled)
{
	return ob_balloon_auto_goal(&g->policy, &(struct ob_balloon_balance){ .held_bytes = held, .cost_bytes = cost, .away_bytes = away,
				    .back_bytes = back, .entitled_bytes = entitled });
}

/*
 * Driven by what the machine costs: the engine keeps the limit by evicting what is above it, after a grace. Memory is
 * used, cached or free; the machine costs what of it was touched and is not in the balloon, and not evicted.
 */
static void goal_follows_the_cost(void **state)
{
	struct guest g = make_guest(2 * OB_GIB, 300 * OB_MIB);
	uint64_t touched = 1500 * OB_MIB, away = 0, entitled = OB_BUDGET_NONE, cost, deflated;
	struct ob_balloon_balance balance;

	g.cache = OB_GIB;
	for (int second = 0; second < 2000; second++) {
		if (second == 100)
			entitled = 800 * OB_MIB;
		if (second == 600)
			entitled = 1200 * OB_MIB;
		if (second == 1200)
			entitled = 2 * OB_GIB;
		/* Caches grow into what there is. */
		touched = OB_MIN(touched + 20 * OB_MIB, g.machine);
		cost = OB_MIN(touched, g.machine - g.held);
		away = OB_MIN(away, cost);
		if (entitled != OB_BUDGET_NONE && cost - away > entitled && (second > 115 || second < 100))
			away = cost - entitled;
		g.goal = auto_goal(&g, g.held, cost - away, away, 0, entitled);
		run(&g, 1);
		if (second < 100)
			assert_int_equal(g.policy.target_bytes, 0);
		if (second == 115)
			assert_true(g.held > 1100 * OB_MIB);
		if (second == 599)
			deflated = g.held;
		if (second == 1199)
			assert_true(g.held + 240 * OB_MIB < deflated);
	}
	/* All of it could be resident: nothing is kept from the guest but the room that is kept free. */
	assert_true(g.held <= 256 * OB_MIB);
	assert_int_equal(g.policy.eased + g.policy.stuck, 0);
	assert_true(g.reversals <= 1);
	assert_int_equal(auto_goal(&g, g.held, UINT64_MAX / 4, 0, 0, OB_BUDGET_NONE), 0);
	/* What is held is of a moment ago, what it costs of now. */
	g.policy.target_bytes = 500 * OB_MIB;
	assert_int_equal(auto_goal(&g, 400 * OB_MIB, 650 * OB_MIB, 0, 0, 640 * OB_MIB), 500 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 650 * OB_MIB, 0, 0, 640 * OB_MIB), 530 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 640 * OB_MIB, 0, 0, 640 * OB_MIB), 500 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 400 * OB_MIB, 100 * OB_MIB, 0, 640 * OB_MIB), 485 * OB_MIB);
	/* Room is made for what comes back, but for a little; not for what is evicted and does not, and there is no more that could. */
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 630 * OB_MIB, 100 * OB_MIB, 10 * OB_MIB, 640 * OB_MIB), 500 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 630 * OB_MIB, 100 * OB_MIB, 50 * OB_MIB, 640 * OB_MIB), 500 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 630 * OB_MIB, 100 * OB_MIB, 90 * OB_MIB, 640 * OB_MIB), 560 * OB_MIB);
	assert_int_equal(auto_goal(&g, 500 * OB_MIB, 630 * OB_MIB, 20 * OB_MIB, 90 * OB_MIB, 640 * OB_MIB), 500 * OB_MIB);
	/* What has been given back, and is not used, is not given again. */
	balance = (struct ob_balloon_balance){ .cost_bytes = 400 * OB_MIB, .unused_bytes = 60 * OB_MIB, .entitled_bytes = 640 * OB_MIB };
	assert_int_equal(ob_balloon_room(&g.policy, &balance), 160 * OB_MIB);
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 475 * OB_MIB);
	balance.unused_bytes = 200 * OB_MIB;
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 500 * OB_MIB);
	/* What is free in the guest is taken while not everything fits. */
	balance = (struct ob_balloon_balance){ .held_bytes = 500 * OB_MIB, .cost_bytes = 630 * OB_MIB, .away_bytes = 60 * OB_MIB,
					       .free_bytes = 200 * OB_MIB, .entitled_bytes = 640 * OB_MIB };
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 550 * OB_MIB);
	balance.free_bytes = 20 * OB_MIB;
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 520 * OB_MIB);
	balance.unused_bytes = 20 * OB_MIB;
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 500 * OB_MIB);
	balance.away_bytes = 0;
	balance.free_bytes = balance.unused_bytes = 200 * OB_MIB;
	/* What is unused the balloon gets first, and it helps nobody. */
	balance.held_bytes = 400 * OB_MIB;
	balance.cost_bytes = 680 * OB_MIB;
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 660 * OB_MIB);
	/* Where applications have given: for what is cold there is no need of room, for what comes back there is, and it must have been there for long. */
	balance = (struct ob_balloon_balance){ .held_bytes = 500 * OB_MIB, .cost_bytes = 500 * OB_MIB, .away_bytes = 300 * OB_MIB,
					       .back_bytes = 20 * OB_MIB, .entitled_bytes = 720 * OB_MIB, .have_given = true };
	for (unsigned i = 0; i < OB_BALLOON_REST_STEPS; i++) {
		assert_int_equal(ob_balloon_room(&g.policy, &balance), 0);
		ob_balloon_note_room(&g.policy, &balance);
	}
	assert_int_equal(ob_balloon_room(&g.policy, &balance), 180 * OB_MIB);
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 455 * OB_MIB);
	/* What is free they can take: the balloon neither gives, nor takes it. */
	balance.free_bytes = 200 * OB_MIB;
	assert_int_equal(ob_balloon_auto_goal(&g.policy, &balance), 500 * OB_MIB);
	balance.cost_bytes = 600 * OB_MIB;
	ob_balloon_note_room(&g.policy, &balance);
	assert_int_equal(ob_balloon_room(&g.policy, &balance), 80 * OB_MIB);
	balance.cost_bytes = balance.entitled_bytes;
	balance.back_bytes = balance.entitled_bytes / 64 - 1;
	assert_true(ob_balloon_is_calm(&balance));
	balance.back_bytes++;
	assert_false(ob_balloon_is_calm(&balance));
	balance.back_bytes = 0;
	balance.cost_bytes++;
	assert_false(ob_balloon_is_calm(&balance));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(willing_guest), cmocka_unit_test(tells_late), cmocka_unit_test(nothing_to_spare),
		cmocka_unit_test(stalling_guest), cmocka_unit_test(one_that_stalls_now_and_then), cmocka_unit_test(never_below_the_floor),
		cmocka_unit_test(caches_alone), cmocka_unit_test(swapping_guest), cmocka_unit_test(refusing_guest),
		cmocka_unit_test(lying_guest), cmocka_unit_test(mad_guest), cmocka_unit_test(deflates_by_itself),
		cmocka_unit_test(without_driver), cmocka_unit_test(silent_guest), cmocka_unit_test(takes_up), cmocka_unit_test(takes_up_all),
		cmocka_unit_test(machine_is_not_known), cmocka_unit_test(goal_follows_the_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
