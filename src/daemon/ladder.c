/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ladder.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/average.h"

#define SPEED_FIRST  (32 * OB_MIB)         /* bytes a second, before gentle means have shown what they can */
#define SPEED_NS     (4 * OB_NS_PER_SEC)   /* what they have shown outweighs what was believed after this */
#define FORGET_NS    (64 * OB_NS_PER_SEC)  /* ... and it is believed again after this without anything to show */
#define LAG_NS       (2 * OB_NS_PER_SEC)   /* from when a guest is asked to when what it gives is seen */
#define PRESSURE_NS  (8 * OB_NS_PER_SEC)
#define RISE_NS      (8 * OB_NS_PER_SEC)   /* what was long ago is no rise */
#define SLACK_SHARE  256                   /* of the budget: so much above it is a matter of rounding, and of stores that grow in advance */
#define SLACK_LEAST  (4 * OB_MIB)
#define WHOLE        1000000u /* all of the time: finer than what is shown, or averages would come to rest before they are there */
#define SOME_HARD    (WHOLE / 5)
#define FULL_HARD    (WHOLE / 20)
#define FULL_LOW     (WHOLE / 10 * 3) /* systemd-oomd, as it comes, kills what has waited for twice as much for half a minute */

__extension__ typedef unsigned __int128 wide;

const char *ob_ladder_state_name(enum ob_ladder_state state)
{
	static const char *const names[OB_LADDER_STATES] = { "high", "clear", "soft", "hard", "low" };

	return (unsigned)state < OB_LADDER_STATES ? names[state] : "?";
}

const char *ob_ladder_reason_text(enum ob_ladder_reason reason)
{
	static const char *const texts[OB_LADDER_REASONS] = {
		[OB_LADDER_BY_RATE] = "used up faster than guests give", [OB_LADDER_BY_EXCESS] = "the budget is exceeded",
		[OB_LADDER_BY_PRESSURE] = "the host waits for memory",
	};

	return (unsigned)reason < OB_LADDER_REASONS ? texts[reason] : NULL;
}

static uint64_t a_second(uint64_t bytes, uint64_t elapsed_ns)
{
	/* Little time tells nothing of a second. */
	wide rate = (wide)bytes * OB_NS_PER_SEC / OB_MAX(elapsed_ns, OB_NS_PER_SEC);

	return rate > UINT64_MAX ? UINT64_MAX : (uint64_t)rate;
}

/* The part of the time that it was; a sum that goes back is another kernel's. */
static unsigned waited(uint64_t now_us, uint64_t before_us, uint64_t elapsed_ns)
{
	return now_us > before_us ? (unsigned)OB_MIN((wide)(now_us - before_us) * WHOLE * OB_NS_PER_US / elapsed_ns, (wide)WHOLE) : 0;
}

static void follow_pressure(struct ob_ladder *ladder, const struct ob_ladder_input *input)
{
	if (!input->has_pressure || !ladder->has_pressure) {
		ladder->some_share = ladder->full_share = 0;
	} else if (input->elapsed_ns) {
		ladder->some_share = (unsigned)ob_approach(ladder->some_share, waited(input->some_us, ladder->some_us, input->elapsed_ns),
							   input->elapsed_ns, PRESSURE_NS);
		ladder->full_share = (unsigned)ob_approach(ladder->full_share, waited(input->full_us, ladder->full_us, input->elapsed_ns),
							   input->elapsed_ns, PRESSURE_NS);
	}
	ladder->has_pressure = input->has_pressure;
	ladder->some_us = input->some_us;
	ladder->full_us = input->full_us;
}

static void follow_speed(struct ob_ladder *ladder, const struct ob_ladder_input *input)
{
	bool was_asked = ladder->waiting_bytes && input->elapsed_ns;

	ladder->use = a_second(ob_less(input->used_bytes, input->given_bytes), input->elapsed_ns);
	if (was_asked)
		ladder->speed = ob_approach(ladder->speed, a_second(input->given_bytes, input->elapsed_ns), input->elapsed_ns, SPEED_NS);
	else
		ladder->speed = ob_approach(ladder->speed, SPEED_FIRST, input->elapsed_ns, FORGET_NS);
}

/* Whether the room is used up before what is waited for has come; `times` so fast. */
static bool is_outrun(const struct ob_ladder *ladder, unsigned times)
{
	wide need_ns = OB_LADDER_GRACE_NS;

	if (!ladder->waiting_bytes || !ladder->use)
		return false;
	if (ladder->speed)
		need_ns = OB_MIN(OB_MAX((wide)ladder->waiting_bytes * OB_NS_PER_SEC / ladder->speed, (wide)LAG_NS), need_ns);
	return (wide)ladder->use * times * need_ns / OB_NS_PER_SEC > ladder->room_bytes;
}

/* What is deserved; with `times` 2, what is nearly. */
static enum ob_ladder_state judge(const struct ob_ladder *ladder, const struct ob_ladder_input *input, unsigned times, enum ob_ladder_reason *ret_reason)
{
	uint64_t slack = OB_MAX(input->budget_bytes / SLACK_SHARE, SLACK_LEAST);
	bool is_scarce = input->available_bytes && input->available_bytes < input->scarce_bytes;

	*ret_reason = OB_LADDER_BY_EXCESS;
	if ((wide)input->over_bytes * times > slack)
		return OB_LADDER_LOW;
	*ret_reason = OB_LADDER_BY_PRESSURE;
	if (is_scarce && ladder->full_share * times > FULL_LOW)
		return OB_LADDER_LOW;
	if (is_scarce && (ladder->full_share * times > FULL_HARD || ladder->some_share * times > SOME_HARD))
		return OB_LADDER_HARD;
	*ret_reason = OB_LADDER_BY_RATE;
	if (is_outrun(ladder, times))
		return OB_LADDER_HARD;
	*ret_reason = OB_LADDER_BY_FREE;
	return OB_LADDER_HIGH;
}

static void move_grip(struct ob_ladder *ladder, const struct ob_ladder_input *input)
{
	enum ob_ladder_reason reason, nearly;
	enum ob_ladder_state worst = judge(ladder, input, 1, &reason), best = judge(ladder, input, 2, &nearly);
	uint64_t dwell_ns = ladder->grip == OB_LADDER_LOW ? OB_LADDER_HOLD_NS : OB_LADDER_DWELL_NS;

	if (worst >= ladder->grip) {
		ladder->grip = worst;
		ladder->reason = reason;
		ladder->calm_ns = 0;
		return;
	}
	ladder->calm_ns = best < ladder->grip ? ladder->calm_ns + OB_MIN(input->elapsed_ns, OB_LADDER_STEP_MAX_NS) : 0;
	if (ladder->calm_ns < dwell_ns)
		return;
	ladder->calm_ns = 0;
	ladder->grip = ladder->grip == OB_LADDER_LOW ? OB_LADDER_HARD : OB_LADDER_HIGH;
	if (ladder->grip == OB_LADDER_HIGH)
		ladder->reason = OB_LADDER_BY_FREE;
}

bool ob_ladder_step(struct ob_ladder *ladder, const struct ob_ladder_input *input)
{
	enum ob_ladder_state before = ladder->state, upper = input->upper <= OB_LADDER_SOFT ? input->upper : OB_LADDER_SOFT;

	if (!ladder->is_started || !input->budget_bytes)
		*ladder = (struct ob_ladder){ .state = before, .speed = SPEED_FIRST, .changes = ladder->changes, .is_started = true };
	follow_pressure(ladder, input);
	if (input->budget_bytes) {
		follow_speed(ladder, input);
		ladder->over_bytes = input->over_bytes;
		ladder->waiting_bytes = input->waiting_bytes;
		ladder->room_bytes = input->room_bytes;
		move_grip(ladder, input);
		ladder->state = OB_MAX(upper, ladder->grip);
	} else {
		ladder->state = OB_LADDER_HIGH;
	}
	ladder->changes += ladder->state != before;
	return ladder->state != before;
}

struct ob_ladder_way ob_ladder_follow(struct ob_ladder_follower *follower, uint64_t cost_bytes, uint64_t marks_bytes, uint64_t elapsed_ns)
{
	struct ob_ladder_way way = { 0 };

	if (!follower->is_seen)
		follower->cost_bytes = follower->low_bytes = cost_bytes;
	if (ob_less(cost_bytes, follower->low_bytes) > marks_bytes)
		way.up_bytes = ob_less(cost_bytes, follower->cost_bytes);
	way.down_bytes = ob_less(follower->cost_bytes, cost_bytes);
	follower->low_bytes = OB_MIN(ob_approach(follower->low_bytes, cost_bytes, elapsed_ns, RISE_NS), cost_bytes);
	follower->cost_bytes = cost_bytes;
	follower->is_seen = true;
	return way;
}
