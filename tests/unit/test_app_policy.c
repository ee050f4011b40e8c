/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What applications are asked to give: each edge of the table of app_policy.h, and whole guests that are played with a balloon:
 * applications that give all, some, nothing, late, that take back, go, come; at each second what the policy promises is checked.
 */
#include "test.h"

#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/app_policy.h"

#define SEC OB_NS_PER_SEC
#define M   OB_MIB

/* --- one application --- */

static struct ob_app make_app(enum ob_app_state state, uint64_t target, uint64_t given)
{
	return (struct ob_app){ .state = state, .target_bytes = target * M, .told_bytes = target * M, .given_bytes = given * M,
				.could_bytes = 1000 * M, .until_ns = 100 * SEC };
}

static void expect_edge(struct ob_app app, uint64_t wanted, uint64_t now_s, enum ob_app_state state, uint64_t target)
{
	ob_app_step(&app, wanted * M, now_s * SEC);
	assert_string_equal(ob_app_state_name(app.state), ob_app_state_name(state));
	assert_int_equal(app.target_bytes, target * M);
	assert_false(app.is_final && app.state != OB_APP_GIVEN && app.state != OB_APP_RESTING);
}

static struct ob_app final(struct ob_app app)
{
	app.is_final = true;
	return app;
}

static void resting(void **state)
{
	expect_edge(make_app(OB_APP_RESTING, 0, 0), 0, 1, OB_APP_RESTING, 0);
	expect_edge(make_app(OB_APP_RESTING, 0, 0), 50, 1, OB_APP_ASKED, 50);
	/* What it says that it has given, and was not asked for, is nothing. */
	expect_edge(make_app(OB_APP_RESTING, 0, 80), 0, 1, OB_APP_RESTING, 0);
	expect_edge(make_app(OB_APP_RESTING, 0, 80), 50, 1, OB_APP_ASKED, 50);
}

static void asked(void **state)
{
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 50, 99, OB_APP_ASKED, 50);
	expect_edge(make_app(OB_APP_ASKED, 50, 50), 50, 99, OB_APP_GIVEN, 50);
	expect_edge(make_app(OB_APP_ASKED, 50, 50), 50, 100, OB_APP_GIVEN, 50);
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 50, 100, OB_APP_SHORT, 20);
	expect_edge(final(make_app(OB_APP_ASKED, 50, 20)), 50, 1, OB_APP_SHORT, 20);
	expect_edge(final(make_app(OB_APP_ASKED, 50, 0)), 50, 1, OB_APP_SHORT, 0);
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 10, 1, OB_APP_RETURNING, 10);
	expect_edge(make_app(OB_APP_ASKED, 50, 0), 0, 1, OB_APP_RESTING, 0);
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 0, 1, OB_APP_RETURNING, 0);
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 70, 99, OB_APP_ASKED, 70);
	expect_edge(make_app(OB_APP_ASKED, 50, 20), 30, 99, OB_APP_ASKED, 30);
	expect_edge(make_app(OB_APP_ASKED, 50, 30), 30, 99, OB_APP_GIVEN, 30);
	/* More is wanted, by the same deadline. */
	struct ob_app app = make_app(OB_APP_ASKED, 50, 20);

	ob_app_step(&app, 70 * M, 99 * SEC);
	assert_int_equal(app.until_ns, 100 * SEC);
	expect_edge(app, 70, 100, OB_APP_SHORT, 20);
}

static void given(void **state)
{
	expect_edge(make_app(OB_APP_GIVEN, 50, 50), 50, 1, OB_APP_GIVEN, 50);
	expect_edge(make_app(OB_APP_GIVEN, 50, 50), 90, 1, OB_APP_ASKED, 90);
	expect_edge(make_app(OB_APP_GIVEN, 50, 50), 20, 1, OB_APP_RETURNING, 20);
	expect_edge(make_app(OB_APP_GIVEN, 50, 50), 0, 1, OB_APP_RETURNING, 0);
	expect_edge(make_app(OB_APP_GIVEN, 50, 30), 50, 1, OB_APP_SHORT, 30);
	expect_edge(make_app(OB_APP_GIVEN, 50, 30), 90, 1, OB_APP_SHORT, 30);
	expect_edge(make_app(OB_APP_GIVEN, 50, 0), 50, 1, OB_APP_SHORT, 0);
	expect_edge(make_app(OB_APP_GIVEN, 50, 30), 40, 1, OB_APP_SHORT, 30);
	expect_edge(make_app(OB_APP_GIVEN, 50, 30), 30, 1, OB_APP_GIVEN, 30);
	expect_edge(make_app(OB_APP_GIVEN, 50, 70), 50, 1, OB_APP_GIVEN, 50);
}

static void short_of_it(void **state)
{
	expect_edge(make_app(OB_APP_SHORT, 20, 20), 20, 99, OB_APP_SHORT, 20);
	expect_edge(make_app(OB_APP_SHORT, 20, 20), 20, 100, OB_APP_GIVEN, 20);
	expect_edge(make_app(OB_APP_SHORT, 0, 0), 0, 99, OB_APP_SHORT, 0);
	expect_edge(make_app(OB_APP_SHORT, 0, 0), 0, 100, OB_APP_RESTING, 0);
	expect_edge(make_app(OB_APP_SHORT, 20, 20), 5, 1, OB_APP_RETURNING, 5);
	expect_edge(make_app(OB_APP_SHORT, 20, 10), 20, 1, OB_APP_SHORT, 10);
	expect_edge(make_app(OB_APP_SHORT, 20, 20), 90, 99, OB_APP_SHORT, 20);
	expect_edge(make_app(OB_APP_SHORT, 20, 5), 10, 1, OB_APP_SHORT, 5);
	expect_edge(make_app(OB_APP_SHORT, 20, 5), 5, 1, OB_APP_GIVEN, 5);
	expect_edge(make_app(OB_APP_SHORT, 20, 0), 0, 1, OB_APP_RESTING, 0);
	/* Its WAIT goes on: it is nothing new that it falls short of. */
	struct ob_app app = make_app(OB_APP_SHORT, 20, 5);

	ob_app_step(&app, 10 * M, 1 * SEC);
	assert_int_equal(app.until_ns, 100 * SEC);
	assert_int_equal(app.shorts, 0);
}

static void returning(void **state)
{
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 20, 1, OB_APP_RETURNING, 20);
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 20, 999, OB_APP_RETURNING, 20);
	expect_edge(make_app(OB_APP_RETURNING, 20, 20), 20, 1, OB_APP_GIVEN, 20);
	expect_edge(make_app(OB_APP_RETURNING, 0, 0), 0, 1, OB_APP_RESTING, 0);
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 90, 1, OB_APP_ASKED, 90);
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 40, 1, OB_APP_RETURNING, 20);
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 5, 1, OB_APP_RETURNING, 5);
	expect_edge(make_app(OB_APP_RETURNING, 20, 50), 0, 1, OB_APP_RETURNING, 0);
	expect_edge(make_app(OB_APP_RETURNING, 20, 5), 10, 1, OB_APP_SHORT, 5);
	expect_edge(final(make_app(OB_APP_RETURNING, 20, 50)), 20, 1, OB_APP_GIVEN, 20);
	expect_edge(final(make_app(OB_APP_RETURNING, 0, 50)), 0, 1, OB_APP_RESTING, 0);
}

static void waits_double_and_are_forgotten(void **state)
{
	static const uint64_t waits[] = { 10, 20, 40, 80, 160, 320, 600, 600 };
	struct ob_app app = make_app(OB_APP_RESTING, 0, 0);
	uint64_t now = 1000 * SEC;

	for (size_t i = 0; i < OB_ARRAY_LEN(waits); i++) {
		ob_app_step(&app, 50 * M, now);
		assert_int_equal(app.state, OB_APP_ASKED);
		now += 10 * SEC;
		ob_app_step(&app, 50 * M, now);
		assert_int_equal(app.state, OB_APP_SHORT);
		assert_int_equal(app.until_ns - now, waits[i] * SEC);
		assert_int_equal(app.shorts, i + 1);
		now = app.until_ns;
		ob_app_step(&app, 0, now);
		assert_int_equal(app.state, OB_APP_RESTING);
	}
	ob_app_step(&app, 50 * M, now);
	app.given_bytes = 50 * M;
	ob_app_step(&app, 50 * M, now);
	assert_int_equal(app.state, OB_APP_GIVEN);
	app.given_bytes = 0;
	ob_app_step(&app, 50 * M, now);
	assert_int_equal(app.until_ns - now, 10 * SEC);
}

/* --- a guest --- */

/* An application as it is: it obeys at `speed` a second, or never, and uses what it has not given. */
struct player {
	uint64_t full, floor, speed, takes_back; /* takes_back: of what it has given, by itself */
	bool refuses;
	unsigned unseen; /* percent of what it has given, by its own count, that is not gone from its process */
	uint64_t given;
};

struct guest {
	uint64_t machine, kernel, cache; /* cache: what can be dropped */
	uint64_t held, goal, balloon_speed;
	uint64_t margin;
	uint64_t now;
	bool keeps;    /* the host has no room for what is not in the balloon */
	bool is_tight; /* it needs what it is given back for something else */
	struct ob_apps apps;
	struct player player[OB_GUEST_APPS_MAX];
	uint64_t told_before[OB_GUEST_APPS_MAX];
	unsigned rises[OB_GUEST_APPS_MAX], falls[OB_GUEST_APPS_MAX];
};

static uint64_t seen_of(const struct player *p)
{
	return p->given / 100 * (100 - p->unseen);
}

static uint64_t used_by_apps(const struct guest *g)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < g->apps.n; i++)
		sum += g->player[i].full - seen_of(&g->player[i]);
	return sum;
}

static uint64_t available(const struct guest *g)
{
	uint64_t used = g->kernel + used_by_apps(g) + g->held;

	return used < g->machine ? g->machine - used : 0;
}

static void add_player(struct guest *g, uint32_t pain, struct player player)
{
	g->player[g->apps.n] = player;
	g->apps.app[g->apps.n++] = (struct ob_app){ .pain = pain, .could_bytes = player.full - player.floor };
}

static struct guest make_guest(void)
{
	return (struct guest){ .machine = 1024 * M, .kernel = 100 * M, .margin = 64 * M, .balloon_speed = 64 * M, .now = 1000 * SEC };
}

static void live(struct guest *g)
{
	for (unsigned i = 0; i < g->apps.n; i++) {
		struct player *p = &g->player[i];
		uint64_t target = g->apps.app[i].told_bytes;

		if (!p->refuses && p->given < target)
			p->given = OB_MIN(OB_MIN(p->given + p->speed, target), p->full - p->floor);
		else if (p->given > target)
			p->given = target;
		p->given -= OB_MIN(p->takes_back, p->given);
		g->apps.app[i].given_bytes = p->unseen ? seen_of(p) : p->given;
	}
}

/* The balloon takes what it can do with, and gives at once. */
static void move_balloon(struct guest *g)
{
	uint64_t free_bytes = available(g) > g->cache ? available(g) - g->cache : 0, spare = available(g) > g->margin ? available(g) - g->margin : 0;
	uint64_t goal = ob_apps_hold(&g->apps, g->goal, g->held, g->held + (free_bytes > g->margin ? free_bytes - g->margin : 0));

	if (g->held > goal)
		g->held -= OB_MIN(g->held - goal, 2 * g->balloon_speed);
	else
		g->held += OB_MIN(OB_MIN(goal - g->held, g->balloon_speed), spare / 2);
}

static void second(struct guest *g)
{
	struct ob_apps_view view = { .now_ns = g->now, .goal_bytes = g->goal, .held_bytes = g->held, .is_known = true,
				     .room_bytes = g->keeps ? 0 : UINT64_MAX };
	uint64_t told = 0;

	g->now += SEC;
	live(g);
	move_balloon(g);
	view.held_bytes = g->held;
	view.spare_bytes = available(g) > g->margin ? available(g) - g->margin : 0;
	ob_apps_step(&g->apps, &view);
	for (unsigned i = 0; i < g->apps.n; i++) {
		const struct ob_app *app = &g->apps.app[i];

		assert_true(app->target_bytes <= app->could_bytes);
		told += app->target_bytes;
		assert_true(app->told_bytes >= app->target_bytes);
		g->rises[i] += app->told_bytes > g->told_before[i];
		g->falls[i] += app->told_bytes < g->told_before[i];
		g->told_before[i] = app->told_bytes;
	}
	/* Nobody is told of memory that is not there, and nothing is wanted that the host does not want. */
	assert_true(g->is_tight || g->keeps || told <= OB_MAX(g->goal, g->held));
}

static void seconds(struct guest *g, unsigned n)
{
	while (n--)
		second(g);
}

static void who_suffers_least_is_asked_first(void **state)
{
	struct guest g = make_guest();

	add_player(&g, 60, (struct player){ .full = 400 * M, .floor = 100 * M, .speed = 50 * M });
	add_player(&g, 20, (struct player){ .full = 300 * M, .floor = 100 * M, .speed = 50 * M });
	seconds(&g, 10);
	assert_int_equal(g.apps.app[0].target_bytes + g.apps.app[1].target_bytes, 0);
	/* There are 224 MiB available, 64 are to stay. */
	g.goal = 300 * M;
	seconds(&g, 60);
	assert_in_range(g.held, 299 * M, 300 * M);
	assert_in_range(g.player[1].given, 138 * M, 150 * M);
	assert_int_equal(g.player[0].given, 0);
	g.goal = 500 * M;
	seconds(&g, 60);
	assert_in_range(g.held, 499 * M, 500 * M);
	assert_int_equal(g.player[1].given, 200 * M);
	assert_in_range(g.player[0].given, 138 * M, 150 * M);
	assert_true(g.falls[0] == 0 && g.falls[1] == 0);
	/* Halfway back: who suffers most gets it. */
	g.goal = 400 * M;
	seconds(&g, 60);
	assert_int_equal(g.held, 400 * M);
	assert_in_range(g.player[0].given, 38 * M, 50 * M);
	assert_int_equal(g.player[1].given, 200 * M);
	g.goal = 0;
	seconds(&g, 60);
	assert_int_equal(g.held + g.player[0].given + g.player[1].given, 0);
	assert_true(g.apps.app[0].state == OB_APP_RESTING && g.apps.app[1].state == OB_APP_RESTING);
	assert_true(g.rises[0] <= 4 && g.rises[1] <= 4);
}

static void caches_are_left_alone_while_applications_are_asked(void **state)
{
	struct guest g = make_guest();

	add_player(&g, 50, (struct player){ .full = 400 * M, .floor = 100 * M, .speed = 20 * M });
	g.cache = 300 * M;
	g.goal = 600 * M;
	for (unsigned i = 0; i < 8; i++) {
		second(&g);
		if (ob_apps_are_asked(&g.apps))
			break;
	}
	assert_true(ob_apps_are_asked(&g.apps));
	for (unsigned i = 0; i < 9; i++) {
		second(&g);
		if (ob_apps_are_asked(&g.apps))
			assert_true(available(&g) >= g.cache);
	}
	/* The deadline is over: the balloon takes the rest. */
	seconds(&g, 40);
	assert_int_equal(available(&g) / M, g.margin / M);
}

static void one_that_refuses_is_not_waited_for(void **state)
{
	struct guest g = make_guest();

	add_player(&g, 20, (struct player){ .full = 400 * M, .floor = 100 * M, .refuses = true });
	add_player(&g, 60, (struct player){ .full = 300 * M, .floor = 100 * M, .speed = 50 * M });
	g.goal = 340 * M;
	seconds(&g, 8);
	assert_int_equal(g.apps.app[0].state, OB_APP_ASKED);
	seconds(&g, 40);
	assert_in_range(g.held, 339 * M, 340 * M);
	assert_true(g.player[0].given == 0 && g.apps.app[0].shorts >= 1);
	assert_in_range(g.player[1].given, 178 * M, 190 * M);
	/* It is not asked again for what is there. */
	g.rises[0] = 0;
	seconds(&g, 600);
	assert_int_equal(g.rises[0], 0);
}

static void one_that_takes_back_is_left_alone_ever_longer(void **state)
{
	struct guest g = make_guest();

	add_player(&g, 20, (struct player){ .full = 500 * M, .floor = 100 * M, .speed = 400 * M, .takes_back = 60 * M });
	g.goal = 500 * M;
	seconds(&g, 1800);
	assert_true(g.rises[0] <= 12);
}

/* With one application, which has given what the balloon was to have. */
static struct guest make_guest_that_has_given(void)
{
	struct guest g = make_guest();

	add_player(&g, 20, (struct player){ .full = 600 * M, .floor = 100 * M, .speed = 50 * M });
	g.goal = 500 * M;
	seconds(&g, 60);
	return g;
}

static void a_balloon_that_shrinks_by_itself_tells_nobody(void **state)
{
	struct guest g = make_guest_that_has_given();
	uint64_t target = g.apps.app[0].target_bytes;

	assert_true(target > 200 * M && g.held >= 499 * M);
	/* Something else in the guest wants memory, and the balloon backs off. */
	g.kernel += 200 * M;
	g.held = 300 * M;
	seconds(&g, 1);
	assert_true(g.apps.app[0].target_bytes >= target);
	seconds(&g, 120);
	assert_true(g.apps.app[0].target_bytes >= target && g.falls[0] == 0);
}

static void what_is_given_stays_given_while_the_host_has_no_room(void **state)
{
	struct guest g = make_guest_that_has_given();
	uint64_t target = g.apps.app[0].target_bytes;

	/* The balloon backs off, and what is wanted is what it holds then. */
	g.keeps = true;
	g.held = g.goal = 300 * M;
	seconds(&g, 60);
	assert_int_equal(g.apps.app[0].target_bytes, target);
	assert_int_equal(g.rises[0] + g.falls[0], 1);
	g.goal = 200 * M;
	g.keeps = false;
	seconds(&g, 60);
	assert_in_range(g.apps.app[0].target_bytes, 0, 200 * M);
}

static void what_is_given_back_follows_the_balloon(void **state)
{
	struct guest g = make_guest_that_has_given();

	g.balloon_speed = 5 * M;
	g.goal = 0;
	for (unsigned i = 0; i < 60; i++) {
		uint64_t own = g.apps.own_bytes;

		second(&g);
		/* The application has no more back than the balloon has let go of. */
		assert_true(g.apps.app[0].target_bytes + own + M >= g.held);
		assert_true(available(&g) > 0);
	}
	assert_int_equal(g.apps.app[0].target_bytes, 0);
}

static void a_guest_that_shows_nothing_to_spare_gives_back_slowly_but_all(void **state)
{
	struct guest g = make_guest_that_has_given();

	g.kernel += 400 * M;
	g.is_tight = true;
	g.goal = 100 * M;
	seconds(&g, 10);
	assert_true(g.apps.app[0].target_bytes > 0);
	g.goal = 0;
	seconds(&g, 120);
	assert_int_equal(g.apps.app[0].target_bytes, 0);
}

static void without_statistics_nobody_is_asked(void **state)
{
	struct ob_apps apps = { .n = 1, .app = { { .could_bytes = 500 * M } } };
	struct ob_apps_view view = { .goal_bytes = 400 * M, .room_bytes = UINT64_MAX };

	for (view.now_ns = SEC; view.now_ns < 60 * SEC; view.now_ns += SEC)
		ob_apps_step(&apps, &view);
	assert_int_equal(apps.app[0].target_bytes, 0);
	/* But what has been given comes back. */
	apps.app[0] = (struct ob_app){ .could_bytes = 500 * M, .target_bytes = 300 * M, .told_bytes = 300 * M, .given_bytes = 300 * M,
					 .state = OB_APP_GIVEN };
	view.goal_bytes = 0;
	ob_apps_step(&apps, &view);
	assert_int_equal(apps.app[0].target_bytes, 0);
}

/* But what they were asked for before, they are. */
static void while_the_guest_stalls_nobody_is_asked(void **state)
{
	struct ob_apps apps = { .n = 1, .app = { { .could_bytes = 500 * M } } };
	struct ob_apps_view view = { .goal_bytes = 300 * M, .room_bytes = UINT64_MAX, .is_known = true, .is_stalled = true };

	for (view.now_ns = SEC; view.now_ns < 60 * SEC; view.now_ns += SEC) {
		ob_apps_step(&apps, &view);
		assert_false(ob_apps_may_give(&apps));
	}
	assert_int_equal(apps.app[0].target_bytes, 0);
	view.is_stalled = false;
	for (unsigned i = 0; i < 3; i++, view.now_ns += SEC)
		ob_apps_step(&apps, &view);
	assert_int_equal(apps.app[0].target_bytes, 300 * M);
	view.is_stalled = true;
	view.goal_bytes = 400 * M;
	for (unsigned i = 0; i < 9; i++, view.now_ns += SEC)
		ob_apps_step(&apps, &view);
	assert_int_equal(apps.app[0].target_bytes, 300 * M);
	assert_int_equal(apps.app[0].state, OB_APP_ASKED);
}

/* What it counts as given is more than is seen: were it told what is seen, it would take some of it back, and less would be seen. */
static void one_that_counts_otherwise_is_not_chased(void **state)
{
	struct guest g = make_guest();
	uint64_t told;

	add_player(&g, 20, (struct player){ .full = 700 * M, .floor = 100 * M, .speed = 200 * M, .unseen = 15 });
	g.goal = 500 * M;
	seconds(&g, 20);
	told = g.apps.app[0].told_bytes;
	assert_int_equal(g.apps.app[0].state, OB_APP_SHORT);
	assert_in_range(g.apps.app[0].target_bytes, told * 84 / 100, told * 86 / 100);
	seconds(&g, 600);
	assert_int_equal(g.falls[0], 0);
	assert_true(g.rises[0] <= 4 && g.held >= 490 * M);
	/* Of less it is told that much less, and in the end nothing. */
	told = g.apps.app[0].told_bytes;
	g.goal = 400 * M;
	seconds(&g, 60);
	assert_in_range(g.apps.app[0].told_bytes, told - 130 * M, told - 80 * M);
	g.goal = 0;
	seconds(&g, 60);
	assert_int_equal(g.apps.app[0].told_bytes + g.held, 0);
}

/* It is told to take back what there is room for, and makes no use of it: nor is it told of the same room again. */
static void what_is_promised_is_promised_once(void **state)
{
	struct ob_app app = { .could_bytes = 500 * M, .target_bytes = 300 * M, .told_bytes = 300 * M, .given_bytes = 300 * M, .used_bytes = 100 * M,
			      .state = OB_APP_GIVEN };
	struct ob_apps apps = { .n = 1, .app = { app } };
	struct ob_apps_view view = { .spare_bytes = 200 * M, .is_known = true };

	ob_apps_step(&apps, &view);
	assert_int_equal(apps.app[0].target_bytes, 300 * M);
	view.room_bytes = 40 * M;
	for (unsigned i = 0; i < 16; i++) {
		ob_apps_step(&apps, &view);
		apps.app[0].given_bytes = apps.app[0].target_bytes;
	}
	assert_in_range(apps.app[0].target_bytes, 250 * M, 268 * M);
	/* Now it does, and there is room still. */
	apps.app[0].used_bytes += 300 * M - apps.app[0].target_bytes;
	ob_apps_step(&apps, &view);
	assert_in_range(apps.app[0].target_bytes, 240 * M, 258 * M);
}

/* What fills the holes in its allocator's pages costs the host nothing: the room is there still. */
static void a_little_room_is_given_back_too(void **state)
{
	struct ob_app app = { .could_bytes = 500 * M, .target_bytes = 300 * M, .told_bytes = 300 * M, .given_bytes = 300 * M, .used_bytes = 100 * M,
			      .state = OB_APP_GIVEN };
	struct ob_apps apps = { .n = 1, .app = { app } };
	struct ob_apps_view view = { .spare_bytes = 200 * M, .is_known = true };

	ob_apps_step(&apps, &view);
	for (unsigned i = 0; i < 30; i++) {
		view.room_bytes = i < 20 ? 3 * M : M - 1;
		ob_apps_step(&apps, &view);
		apps.app[0].used_bytes = 400 * M - apps.app[0].told_bytes;
		apps.app[0].given_bytes = apps.app[0].target_bytes;
	}
	assert_int_equal(apps.app[0].target_bytes, 280 * M);
}

/* It has given nearly all, as its allocator's pages are filled: so much it may take back into them, once, and where that costs nothing. */
static void holes_are_filled_while_all_is_calm(void **state)
{
	struct ob_app app = { .could_bytes = 500 * M, .target_bytes = 300 * M, .told_bytes = 300 * M, .given_bytes = 260 * M, .used_bytes = 100 * M,
			      .state = OB_APP_ASKED, .is_final = true, .until_ns = 100 * SEC };
	struct ob_apps apps = { .n = 1, .app = { app } };
	struct ob_apps_view view = { .goal_bytes = 260 * M, .held_bytes = 260 * M, .is_known = true };

	for (unsigned i = 1; i <= 30; i++) {
		view.now_ns = i * SEC;
		/* While it is short, and while it is not calm, it is told what it was. */
		view.is_calm = i < 10;
		ob_apps_step(&apps, &view);
		assert_int_equal(apps.app[0].target_bytes, 260 * M);
		assert_int_equal(apps.app[0].told_bytes, 300 * M);
	}
	view.is_calm = true;
	for (unsigned i = 31; i <= 35; i++) {
		view.now_ns = i * SEC;
		ob_apps_step(&apps, &view);
	}
	assert_int_equal(apps.app[0].told_bytes, 290 * M);
	/* It is seen to have more: no further, for as long as it is short. */
	apps.app[0].given_bytes = 250 * M;
	for (unsigned i = 36; i <= 50; i++) {
		view.now_ns = i * SEC;
		ob_apps_step(&apps, &view);
		assert_int_equal(apps.app[0].state, OB_APP_SHORT);
		assert_int_equal(apps.app[0].told_bytes, 290 * M);
	}
	for (unsigned i = 51; i <= 500; i++) {
		view.now_ns = i * SEC;
		ob_apps_step(&apps, &view);
	}
	assert_int_equal(apps.app[0].told_bytes, 260 * M);
	assert_int_equal(apps.app[0].target_bytes, 250 * M);
}

/* It gives after its deadline what it had been asked for: then there are no holes, and nothing that it could have back for nothing. */
static void what_comes_late_is_no_hole(void **state)
{
	struct ob_app app = { .could_bytes = 500 * M, .target_bytes = 300 * M, .told_bytes = 300 * M, .given_bytes = 260 * M, .used_bytes = 100 * M,
			      .state = OB_APP_ASKED, .is_final = true, .until_ns = 100 * SEC };
	struct ob_apps apps = { .n = 1, .app = { app } };
	struct ob_apps_view view = { .goal_bytes = 260 * M, .held_bytes = 260 * M, .is_known = true, .is_calm = true };

	for (unsigned i = 1; i <= 60; i++) {
		view.now_ns = i * SEC;
		apps.app[0].given_bytes = i < 5 ? 260 * M : 300 * M;
		ob_apps_step(&apps, &view);
		assert_int_equal(apps.app[0].told_bytes, 300 * M);
	}
	assert_int_equal(apps.app[0].state, OB_APP_GIVEN);
}

static void one_that_goes_is_made_up_for_by_others(void **state)
{
	struct guest g = make_guest();

	add_player(&g, 60, (struct player){ .full = 300 * M, .floor = 100 * M, .speed = 50 * M });
	add_player(&g, 20, (struct player){ .full = 300 * M, .floor = 100 * M, .speed = 50 * M });
	g.goal = 450 * M;
	seconds(&g, 60);
	assert_in_range(g.held, 449 * M, 450 * M);
	assert_int_equal(g.player[0].given, 0);
	/* It starts anew, as large as it was, and the balloon backs off. */
	g.player[1].given = 0;
	g.apps.app[1] = (struct ob_app){ .pain = 20, .could_bytes = 0 };
	g.told_before[1] = 0;
	g.held = 250 * M;
	seconds(&g, 60);
	assert_in_range(g.held, 449 * M, 450 * M);
	assert_in_range(g.player[0].given, 188 * M, 200 * M);
}

/* Any numbers: a target is never above what could be given, nor the sum above what the host wants or has. */
static void whatever_a_guest_says(void **state)
{
	uint64_t seed = 88172645463325252ull;
	struct ob_apps apps = { .n = 0 };

	for (unsigned i = 0; i < 200000; i++) {
		struct ob_apps_view view;
		uint64_t r, told = 0, before = 0;

		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		r = seed;
		if (r % 50 == 0)
			memset(&apps, 0, sizeof(apps));
		apps.n = OB_MAX(apps.n, (unsigned)(r >> 8) % (OB_GUEST_APPS_MAX + 1));
		view = (struct ob_apps_view){
			i * SEC, (r >> 3) % (1ull << (r % 57)), (r >> 5) % (1ull << (r / 57 % 57)), (r >> 4) % (1ull << 40), r % 7,
			r % 11 == 0 ? 0 : r % 3 ? UINT64_MAX : r % (1ull << 40),
		};
		for (unsigned k = 0; k < apps.n; k++) {
			struct ob_app *app = &apps.app[k];

			app->pain = (uint32_t)((r >> k) % 101);
			app->given_bytes = (r >> k) % 3 ? app->target_bytes : (r >> k) % (1ull << 56);
			app->could_bytes = (r >> (k + 1)) % (1ull << 50);
			app->is_final = (r >> (k + 7)) % 5 == 0;
		}
		for (unsigned k = 0; k < apps.n; k++)
			before += apps.app[k].target_bytes;
		ob_apps_step(&apps, &view);
		for (unsigned k = 0; k < apps.n; k++) {
			assert_true(apps.app[k].state < OB_APP_STATES);
			told += apps.app[k].target_bytes;
		}
		assert_true(told <= before || told <= OB_MAX(view.goal_bytes, view.held_bytes));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resting),
		cmocka_unit_test(asked),
		cmocka_unit_test(given),
		cmocka_unit_test(short_of_it),
		cmocka_unit_test(returning),
		cmocka_unit_test(waits_double_and_are_forgotten),
		cmocka_unit_test(who_suffers_least_is_asked_first),
		cmocka_unit_test(caches_are_left_alone_while_applications_are_asked),
		cmocka_unit_test(one_that_refuses_is_not_waited_for),
		cmocka_unit_test(one_that_takes_back_is_left_alone_ever_longer),
		cmocka_unit_test(a_balloon_that_shrinks_by_itself_tells_nobody),
		cmocka_unit_test(what_is_given_stays_given_while_the_host_has_no_room),
		cmocka_unit_test(what_is_given_back_follows_the_balloon),
		cmocka_unit_test(a_guest_that_shows_nothing_to_spare_gives_back_slowly_but_all),
		cmocka_unit_test(without_statistics_nobody_is_asked),
		cmocka_unit_test(while_the_guest_stalls_nobody_is_asked),
		cmocka_unit_test(one_that_counts_otherwise_is_not_chased),
		cmocka_unit_test(what_is_promised_is_promised_once),
		cmocka_unit_test(a_little_room_is_given_back_too),
		cmocka_unit_test(holes_are_filled_while_all_is_calm),
		cmocka_unit_test(what_comes_late_is_no_hole),
		cmocka_unit_test(one_that_goes_is_made_up_for_by_others),
		cmocka_unit_test(whatever_a_guest_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
