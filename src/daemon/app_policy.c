/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/app_policy.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"

#define GRAIN         OB_MIB
#define WAIT_LEAST_NS (10 * OB_NS_PER_SEC)
#define WAIT_MOST_NS  (600 * OB_NS_PER_SEC)
#define SETTLE        3
#define FILL          (2 * OB_MIB)
#define BACK_PARTS    4 /* of the room that there is, what is given back at once */
#define FORGET_PARTS  64 /* of what was told to be taken back and is not used, a step */

/* Whether a is above b by more than is looked at. */
static bool is_above(uint64_t a, uint64_t b)
{
	return a > b && a - b >= GRAIN;
}

const char *ob_app_state_name(enum ob_app_state state)
{
	static const char *const names[] = {
		[OB_APP_RESTING] = "resting", [OB_APP_ASKED] = "asked", [OB_APP_GIVEN] = "given", [OB_APP_SHORT] = "short", [OB_APP_RETURNING] = "returning",
	};

	return names[state];
}

static void settle(struct ob_app *app)
{
	app->state = app->target_bytes ? OB_APP_GIVEN : OB_APP_RESTING;
}

static void tell(struct ob_app *app, enum ob_app_state state, uint64_t target_bytes)
{
	uint64_t excess = ob_less(app->told_bytes, app->target_bytes);

	app->state = state;
	app->target_bytes = target_bytes;
	app->told_bytes = target_bytes ? target_bytes + excess : 0;
	app->is_final = false;
}

/* What it has given is all that counts. If that is nearly what it was told, it is told no less. */
static void count_given(struct ob_app *app)
{
	app->told_bytes = app->given_bytes >= app->told_bytes / 4 * 3 ? app->told_bytes : app->given_bytes;
	app->state = OB_APP_SHORT;
	app->target_bytes = app->given_bytes;
	app->is_final = false;
}

static void ask(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	tell(app, OB_APP_ASKED, wanted_bytes);
	app->full_bytes = app->holes_bytes = 0;
	app->until_ns = now_ns + OB_APP_DEADLINE_MS * OB_NS_PER_MS;
}

/* What it has given is all that is to be had. */
static void fall_short(struct ob_app *app, uint64_t now_ns)
{
	app->wait_ns = app->wait_ns ? OB_MIN(2 * app->wait_ns, WAIT_MOST_NS) : WAIT_LEAST_NS;
	app->until_ns = now_ns + app->wait_ns;
	app->shorts++;
	count_given(app);
}

/* Less is wanted. */
static void take_back(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	enum ob_app_state before = app->state;
	uint64_t told = app->told_bytes;

	tell(app, OB_APP_RETURNING, wanted_bytes);
	if (is_above(app->given_bytes, wanted_bytes)) {
		app->full_bytes = OB_MAX(app->full_bytes, app->used_bytes) + told - app->told_bytes;
		return;
	}
	if (!is_above(wanted_bytes, app->given_bytes))
		settle(app);
	else if (before == OB_APP_ASKED)
		/* Of what was asked for, less: some may still be on its way. */
		app->state = OB_APP_ASKED;
	else if (before == OB_APP_SHORT)
		count_given(app);
	else
		fall_short(app, now_ns);
}

static void step_asked(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	/* By the same deadline. */
	if (is_above(wanted_bytes, app->target_bytes)) {
		tell(app, OB_APP_ASKED, wanted_bytes);
	} else if (!is_above(app->target_bytes, app->given_bytes)) {
		app->wait_ns = 0;
		settle(app);
	} else if (app->is_final || now_ns >= app->until_ns) {
		fall_short(app, now_ns);
		app->holes_bytes = app->told_bytes - app->target_bytes;
	}
}

static void step_given(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	if (is_above(app->target_bytes, app->given_bytes))
		fall_short(app, now_ns);
	else if (is_above(wanted_bytes, app->target_bytes))
		ask(app, wanted_bytes, now_ns);
}

static void step_short(struct ob_app *app, uint64_t now_ns)
{
	if (is_above(app->target_bytes, app->given_bytes)) {
		count_given(app);
	} else if (now_ns >= app->until_ns) {
		/* What has come after the deadline was no hole. */
		app->holes_bytes = OB_MIN(app->holes_bytes, ob_less(app->told_bytes, app->given_bytes));
		settle(app);
	}
}

static void step_returning(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	if (is_above(wanted_bytes, OB_MAX(app->given_bytes, app->target_bytes)))
		ask(app, wanted_bytes, now_ns);
	else if (!is_above(app->given_bytes, app->target_bytes) || app->is_final)
		settle(app);
}

void ob_app_step(struct ob_app *app, uint64_t wanted_bytes, uint64_t now_ns)
{
	/* What it says that it has given beyond its target is not asked back, and not counted on. */
	if (is_above(app->target_bytes, wanted_bytes) || (app->target_bytes && !wanted_bytes)) {
		take_back(app, wanted_bytes, now_ns);
		return;
	}
	switch (app->state) {
	case OB_APP_RESTING:
		if (is_above(wanted_bytes, 0))
			ask(app, wanted_bytes, now_ns);
		break;
	case OB_APP_ASKED:
		step_asked(app, wanted_bytes, now_ns);
		break;
	case OB_APP_GIVEN:
		step_given(app, wanted_bytes, now_ns);
		break;
	case OB_APP_SHORT:
		step_short(app, now_ns);
		break;
	default:
		step_returning(app, wanted_bytes, now_ns);
	}
}

bool ob_apps_are_asked(const struct ob_apps *apps)
{
	for (unsigned i = 0; i < apps->n; i++)
		if (apps->app[i].state == OB_APP_ASKED)
			return true;
	return false;
}

bool ob_apps_may_give(const struct ob_apps *apps)
{
	for (unsigned i = 0; i < apps->n && apps->looks; i++)
		if (apps->app[i].state != OB_APP_SHORT && is_above(apps->app[i].could_bytes, apps->app[i].target_bytes))
			return true;
	return ob_apps_are_asked(apps);
}

uint64_t ob_apps_hold(const struct ob_apps *apps, uint64_t goal_bytes, uint64_t told_bytes, uint64_t with_free_bytes)
{
	return ob_apps_are_asked(apps) ? OB_MIN(goal_bytes, OB_MAX(told_bytes, with_free_bytes)) : goal_bytes;
}

static uint64_t sum_of_targets(const struct ob_apps *apps)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < apps->n; i++)
		sum += apps->app[i].target_bytes;
	return sum;
}

/* What is missing when it has been missing for long enough; else 0. */
static uint64_t look(struct ob_apps *apps, const struct ob_apps_view *view)
{
	uint64_t there = view->held_bytes + view->spare_bytes, missing = view->is_known ? ob_less(view->goal_bytes, there) : 0;

	/* What comes of what was asked for is seen later than it is said to be given. */
	if (missing < GRAIN || view->is_stalled || ob_apps_are_asked(apps)) {
		apps->looks = 0;
		return 0;
	}
	apps->missing_bytes = apps->looks ? OB_MIN(apps->missing_bytes, missing) : missing;
	if (++apps->looks < SETTLE)
		return 0;
	apps->looks = 0;
	return apps->missing_bytes;
}

/* Unlike any other's: equals by their place. */
static int rank_of(const struct ob_apps *apps, int i, bool is_most_first)
{
	return (int)apps->app[i].pain * (is_most_first ? -1 : 1) * OB_GUEST_APPS_MAX + i;
}

/* The next by pain, from the one before on, either way. -1: there are no more. */
static int next_by_pain(const struct ob_apps *apps, int before, bool is_most_first)
{
	int found = -1;

	for (int i = 0; i < (int)apps->n; i++) {
		int rank = rank_of(apps, i, is_most_first);

		if (before >= 0 && rank <= rank_of(apps, before, is_most_first))
			continue;
		if (found < 0 || rank < rank_of(apps, found, is_most_first))
			found = i;
	}
	return found;
}

static void want_more(const struct ob_apps *apps, uint64_t more, uint64_t *wanted)
{
	for (int i = next_by_pain(apps, -1, false); i >= 0 && more; i = next_by_pain(apps, i, false)) {
		const struct ob_app *app = &apps->app[i];
		uint64_t could = app->state == OB_APP_SHORT ? 0 : ob_less(app->could_bytes, app->target_bytes);

		wanted[i] += OB_MIN(could, more);
		more -= OB_MIN(could, more);
	}
}

static void want_less(const struct ob_apps *apps, uint64_t less_bytes, uint64_t *wanted)
{
	for (int i = next_by_pain(apps, -1, true); i >= 0 && less_bytes; i = next_by_pain(apps, i, true)) {
		uint64_t bytes = OB_MIN(wanted[i], less_bytes);

		wanted[i] -= bytes;
		less_bytes -= bytes;
	}
}

/* One that does not make use of it will not do so soon. */
static void forget_promise(struct ob_app *app)
{
	app->full_bytes -= ob_less(app->full_bytes, app->used_bytes) / FORGET_PARTS;
}

/* What it is told less of then is promised like anything else. Returns whether there was one. */
static bool fill_holes(struct ob_app *app)
{
	uint64_t bytes = OB_MIN(OB_MIN(FILL, app->holes_bytes), ob_less(app->told_bytes, app->target_bytes));

	if (app->state != OB_APP_GIVEN || is_above(app->target_bytes, app->given_bytes) || !bytes)
		return false;
	app->full_bytes = OB_MAX(app->full_bytes, app->used_bytes) + bytes;
	app->told_bytes -= bytes;
	app->holes_bytes -= bytes;
	return true;
}

/* What they were told to take back and do not use yet. */
static uint64_t sum_of_promises(const struct ob_apps *apps)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < apps->n; i++)
		sum += ob_less(apps->app[i].full_bytes, apps->app[i].used_bytes);
	return sum;
}

bool ob_apps_have_given(const struct ob_apps *apps)
{
	return sum_of_targets(apps) > 0 || sum_of_promises(apps) >= GRAIN;
}

/* What they are to have back: what the balloon has let go of; and in parts, since it is seen late what they make of it, what is free beside it. */
static uint64_t get_due(const struct ob_apps *apps, const struct ob_apps_view *view, uint64_t told)
{
	uint64_t held = OB_MAX(view->goal_bytes, view->held_bytes), let_go = ob_less(told, ob_less(held + apps->beyond_bytes, apps->own_bytes));
	uint64_t room, part, due;

	if (view->room_bytes == UINT64_MAX)
		return ob_less(told, ob_less(held, apps->own_bytes));
	room = ob_less(view->room_bytes, sum_of_promises(apps));
	part = OB_MIN(room, view->spare_bytes);
	part = OB_MAX(part / BACK_PARTS, OB_MIN(part, GRAIN));
	due = OB_MIN(let_go + part, room);
	return due < GRAIN ? 0 : OB_MIN(told, due);
}

static void note_shares(struct ob_apps *apps, const struct ob_apps_view *view, uint64_t told)
{
	apps->own_bytes = ob_less(view->held_bytes, told);
	apps->beyond_bytes = ob_less(told, view->held_bytes);
}

void ob_apps_step(struct ob_apps *apps, const struct ob_apps_view *view)
{
	uint64_t wanted[OB_GUEST_APPS_MAX], told = sum_of_targets(apps), most, due, more;

	for (unsigned i = 0; i < apps->n; i++) {
		wanted[i] = apps->app[i].target_bytes;
		forget_promise(&apps->app[i]);
	}
	most = ob_less(OB_MAX(view->goal_bytes, view->held_bytes), apps->own_bytes);
	due = get_due(apps, view, told);
	/* While it shrinks it is known already, by what it was before, what of it is own. */
	if (!due && view->goal_bytes >= view->held_bytes && view->held_bytes >= apps->held_bytes)
		note_shares(apps, view, told);
	apps->held_bytes = view->held_bytes;
	if (due && view->held_bytes && view->is_known)
		due = OB_MIN(due, OB_MAX(OB_MAX(view->spare_bytes, due / 16), GRAIN));
	/* No more than the host has use for, even if what is said to be given does not show. */
	more = look(apps, view);
	if (due)
		want_less(apps, due, wanted);
	else
		want_more(apps, OB_MIN(more, ob_less(most, told)), wanted);
	for (unsigned i = 0; i < apps->n; i++)
		ob_app_step(&apps->app[i], wanted[i], view->now_ns);
	for (unsigned i = 0; i < apps->n && view->is_calm; i++)
		if (fill_holes(&apps->app[i]))
			break;
}
