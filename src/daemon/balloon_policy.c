/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/balloon_policy.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "proto/stats.h"

#define STUCK_NS      (10 * OB_NS_PER_SEC)
#define DOUBT_NS      (15 * OB_NS_PER_SEC)
#define STALE_NS      (10 * OB_NS_PER_SEC) /* statistics that are older count for nothing */
#define WAIT_LEAST_NS (10 * OB_NS_PER_SEC)
#define WAIT_MOST_NS  (600 * OB_NS_PER_SEC)
#define FORGET_WAITS  8
#define FREE_STEPS    4 /* of free memory, in one */
#define START_NS      (10 * OB_NS_PER_SEC)
#define BLIND_NS      (5 * OB_NS_PER_SEC)
#define GAP_NS        (2 * OB_NS_PER_SEC) /* after it has given memory back: until that shows */
#define ARRIVED       OB_MIB              /* so much less than the target is as good as the target */
#define DOUBT_LEAST   (16 * OB_MIB)
#define SWAP_RATE     OB_MIB /* bytes a second */
#define FAULT_RATE    200    /* a second */
#define BACK_SHARE    16 /* of what a machine is entitled to, may come and go */
#define CALM_SHARE    64
#define SLACK_LEAST   (16 * OB_MIB)
#define SLACK_MOST    (256 * OB_MIB)
#define REST_LEAST    (2 * OB_MIB) /* twice the engine's marks */
#define REST_MOST     (32 * OB_MIB)
#define AHEAD_MOST    (36 * OB_MIB)

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
	return value < least ? least : value > most ? most : value;
}

static uint64_t whole_mib(uint64_t bytes)
{
	return bytes - bytes % OB_MIB;
}

const char *ob_balloon_state_name(enum ob_balloon_state state)
{
	static const char *const names[] = {
		[OB_BALLOON_EMPTY] = "empty", [OB_BALLOON_INFLATING] = "inflating", [OB_BALLOON_HOLDING] = "holding",
		[OB_BALLOON_DEFLATING] = "deflating", [OB_BALLOON_EASING] = "easing", [OB_BALLOON_STUCK] = "stuck",
		[OB_BALLOON_BLIND] = "blind", [OB_BALLOON_NO_DRIVER] = "no driver",
		[OB_BALLOON_STARTING] = "starting",
	};

	return names[state];
}

uint64_t ob_balloon_step_bytes(uint64_t machine_bytes)
{
	return whole_mib(clamp(machine_bytes / 16, 8 * OB_MIB, 512 * OB_MIB));
}

uint64_t ob_balloon_margin_bytes(uint64_t machine_bytes)
{
	return clamp(machine_bytes / 16, 32 * OB_MIB, OB_GIB);
}

/* What programs could have, as far as the guest tells. Returns whether it does. */
static bool get_available(const struct ob_balloon_view *view, uint64_t *ret_bytes)
{
	uint64_t most = ob_less(view->machine_bytes, view->held_bytes), caches = view->known & OB_GUEST_CACHES ? view->caches_bytes : 0;

	if (view->known & OB_GUEST_AVAILABLE)
		*ret_bytes = OB_MIN(view->available_bytes, most);
	else if (view->known & OB_GUEST_FREE)
		*ret_bytes = OB_MIN(OB_MIN(view->free_bytes, most) + OB_MIN(caches, most) / 2, most);
	else
		return false;
	return true;
}

static bool is_above(uint64_t now, uint64_t before, uint64_t elapsed_ns, uint64_t rate)
{
	return now > before && (now - before) / rate >= OB_MAX(elapsed_ns / OB_NS_PER_SEC, 1u);
}

/* Whether the statistics, if they are new, show a guest that suffers. */
static bool does_suffer(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t available, elapsed_ns = view->now_ns - policy->update_ns;
	const struct {
		uint64_t known, now, before, rate;
	} counters[] = {
		{ OB_GUEST_SWAP_IN, view->swap_in_bytes, policy->swap_in_bytes, SWAP_RATE },
		{ OB_GUEST_SWAP_OUT, view->swap_out_bytes, policy->swap_out_bytes, SWAP_RATE },
		{ OB_GUEST_MAJOR_FAULTS, view->major_faults, policy->major_faults, FAULT_RATE },
	};
	bool suffers;

	if (view->updates == policy->updates)
		return false;
	suffers = get_available(view, &available) && available < ob_balloon_margin_bytes(view->machine_bytes) / 2;
	/* There is something to compare with from the second time on. */
	for (size_t i = 0; policy->update_ns && i < OB_ARRAY_LEN(counters); i++)
		if (view->known & counters[i].known && is_above(counters[i].now, counters[i].before, elapsed_ns, counters[i].rate))
			suffers = true;
	policy->updates = view->updates;
	policy->update_ns = view->now_ns;
	policy->swap_in_bytes = view->swap_in_bytes;
	policy->swap_out_bytes = view->swap_out_bytes;
	policy->major_faults = view->major_faults;
	return suffers;
}

/* To a target that is not above the present one, and nowhere else for a while. */
static void retreat(struct ob_balloon_policy *policy, const struct ob_balloon_view *view, enum ob_balloon_state state, uint64_t bytes)
{
	uint64_t before = policy->target_bytes;

	policy->state = state;
	policy->target_bytes = policy->most_bytes = OB_MIN(whole_mib(bytes), policy->target_bytes);
	/* Longer each time; while it lasts it is the same time still. */
	if (view->now_ns >= policy->until_ns)
		policy->wait_ns = clamp(2 * policy->wait_ns, WAIT_LEAST_NS, WAIT_MOST_NS);
	policy->until_ns = view->now_ns + policy->wait_ns;
	policy->trouble_ns = policy->moved_ns = view->now_ns;
	policy->moved_bytes = view->held_bytes;
	policy->doubt_ns = 0;
	policy->eased += state == OB_BALLOON_EASING && policy->target_bytes < before;
	policy->stuck += state == OB_BALLOON_STUCK;
}

static void ease(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t available = 0, relief = 2 * ob_balloon_step_bytes(view->machine_bytes), missing = 0;

	if (get_available(view, &available))
		missing = ob_less(ob_balloon_margin_bytes(view->machine_bytes), available);
	retreat(policy, view, OB_BALLOON_EASING, ob_less(OB_MIN(view->held_bytes, policy->target_bytes), OB_MAX(relief, missing)));
}

/* No more, and a step less if it may be. */
static void spare(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t held = OB_MIN(view->held_bytes, policy->target_bytes);

	retreat(policy, view, OB_BALLOON_EASING, view->is_owed ? ob_less(held, ob_balloon_step_bytes(view->machine_bytes)) : held);
}

/* Whether the balloon has become smaller than it was, and nobody has asked for that. */
static bool has_shrunk(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t held = OB_MIN(view->held_bytes, policy->target_bytes);

	policy->most_bytes = OB_MAX(OB_MIN(policy->most_bytes, policy->target_bytes), held);
	return held + DOUBT_LEAST < policy->most_bytes;
}

/* Whether it is long since that less is gone from the host than the guest says it has given. */
static bool is_doubtful(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t missing = ob_less(view->held_bytes, view->gone_bytes);

	if (missing <= OB_MAX(view->held_bytes / 4, DOUBT_LEAST) || !policy->target_bytes)
		policy->doubt_ns = 0;
	else if (!policy->doubt_ns)
		policy->doubt_ns = view->now_ns;
	return policy->doubt_ns && view->now_ns - policy->doubt_ns >= DOUBT_NS;
}

/* Whether something is on its way; what has not moved for STUCK_NS is not. */
static bool is_under_way(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	if (view->held_bytes + ARRIVED >= policy->target_bytes)
		return false;
	if (view->held_bytes >= policy->moved_bytes + ARRIVED || view->held_bytes < policy->moved_bytes) {
		if (view->held_bytes > policy->moved_bytes)
			policy->moved_ns = view->now_ns;
		policy->moved_bytes = view->held_bytes;
	}
	return true;
}

/* Whether the guest tells how it fares. */
static bool does_tell(const struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t available;

	return policy->update_ns && view->now_ns - policy->update_ns <= STALE_NS && get_available(view, &available);
}

/* What the next step may be. */
static uint64_t get_room(const struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t step = ob_balloon_step_bytes(view->machine_bytes), margin = ob_balloon_margin_bytes(view->machine_bytes), available;

	/* The first that is told after a step may have been looked at before it arrived. */
	if (policy->updates - policy->step_updates == 1)
		margin += policy->step_bytes;
	/* After trouble: feeling its way. */
	if (policy->trouble_ns)
		step /= 4;
	if (!get_available(view, &available) || !policy->update_ns)
		return step / 2;
	/* What nobody uses is no loss to the guest, once the driver has shown that it gives. */
	if (!policy->trouble_ns && policy->target_bytes && view->known & OB_GUEST_FREE)
		step = OB_MAX(step, OB_MIN(FREE_STEPS * step, ob_less(view->free_bytes, margin) / 2));
	return OB_MIN(step, ob_less(available, margin) / 2);
}

/* Whether a guest that has never told anything may be asked all the same; the first statistics take a moment. */
static bool may_be_blind(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	if (!view->may_be_blind || policy->update_ns)
		return false;
	if (!policy->blind_ns)
		policy->blind_ns = view->now_ns;
	return view->now_ns - policy->blind_ns >= BLIND_NS;
}

static void grow(struct ob_balloon_policy *policy, const struct ob_balloon_view *view, uint64_t goal)
{
	bool tells = does_tell(policy, view);
	uint64_t room = whole_mib(get_room(policy, view));

	/* What it has told last may be of before the last step. */
	if (view->now_ns < policy->until_ns || (tells && policy->step_updates == policy->updates))
		return;
	/* One that has told and does so no more is in no state to be asked. */
	if (!tells && !may_be_blind(policy, view)) {
		policy->state = OB_BALLOON_BLIND;
		return;
	}
	policy->state = OB_BALLOON_HOLDING;
	/* What has come with a machine that was migrated is no growth, and can be told to go again. */
	policy->target_bytes = OB_MIN(goal, OB_MAX(policy->target_bytes, whole_mib(view->held_bytes)));
	if (!room)
		return;
	policy->state = OB_BALLOON_INFLATING;
	policy->step_bytes = OB_MIN(goal - policy->target_bytes, room);
	policy->target_bytes += policy->step_bytes;
	policy->step_updates = policy->updates;
	policy->moved_ns = view->now_ns;
	policy->moved_bytes = view->held_bytes;
}

static void shrink(struct ob_balloon_policy *policy, const struct ob_balloon_view *view, uint64_t goal)
{
	policy->target_bytes = OB_MAX(goal, ob_less(policy->target_bytes, 4 * ob_balloon_step_bytes(view->machine_bytes)));
	policy->most_bytes = OB_MIN(policy->most_bytes, policy->target_bytes);
	policy->moved_bytes = view->held_bytes;
	policy->moved_ns = view->now_ns;
	policy->state = OB_BALLOON_DEFLATING;
}

static void forget_trouble(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	if (!policy->trouble_ns || view->now_ns - policy->trouble_ns < FORGET_WAITS * policy->wait_ns)
		return;
	policy->trouble_ns = policy->wait_ns = 0;
}

/* Nothing is to be changed: what it is called. */
static void rest(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	if (view->now_ns < policy->until_ns &&
	    (policy->state == OB_BALLOON_EASING || policy->state == OB_BALLOON_STUCK || policy->state == OB_BALLOON_STARTING))
		return;
	if (!policy->target_bytes)
		policy->state = OB_BALLOON_EMPTY;
	else if (view->held_bytes + ARRIVED < policy->target_bytes)
		policy->state = OB_BALLOON_INFLATING;
	else if (view->held_bytes > policy->target_bytes + ARRIVED)
		policy->state = OB_BALLOON_DEFLATING;
	else
		policy->state = OB_BALLOON_HOLDING;
}

uint64_t ob_balloon_policy_step(struct ob_balloon_policy *policy, const struct ob_balloon_view *view)
{
	uint64_t most = whole_mib(ob_less(view->machine_bytes, view->floor_bytes)), goal = OB_MIN(whole_mib(view->goal_bytes), most);
	bool suffers, is_due;

	if (!view->has_driver) {
		*policy = (struct ob_balloon_policy){ .state = OB_BALLOON_NO_DRIVER, .until_ns = view->now_ns + START_NS, .eased = policy->eased,
						      .stuck = policy->stuck };
		return 0;
	}
	if (policy->state == OB_BALLOON_NO_DRIVER) {
		/* One that comes with something in its balloon was migrated, and has started long ago. */
		policy->until_ns = view->held_bytes > ARRIVED ? 0 : policy->until_ns;
		policy->state = policy->until_ns ? OB_BALLOON_STARTING : OB_BALLOON_HOLDING;
	}
	if (!view->machine_bytes)
		return policy->target_bytes;
	suffers = does_suffer(policy, view);
	policy->target_bytes = OB_MIN(policy->target_bytes, most);
	forget_trouble(policy, view);
	is_due = view->now_ns - policy->trouble_ns >= GAP_NS;
	if (suffers && policy->target_bytes && is_due)
		ease(policy, view);
	else if (has_shrunk(policy, view))
		retreat(policy, view, OB_BALLOON_EASING, view->held_bytes);
	else if (is_doubtful(policy, view))
		retreat(policy, view, OB_BALLOON_STUCK, view->gone_bytes);
	else if (goal < policy->target_bytes)
		shrink(policy, view, goal);
	else if (view->is_stalled && goal && is_due)
		spare(policy, view);
	else if (is_under_way(policy, view) && view->now_ns - policy->moved_ns >= STUCK_NS)
		retreat(policy, view, OB_BALLOON_STUCK, view->held_bytes);
	else if (view->held_bytes + ARRIVED >= policy->target_bytes && goal > policy->target_bytes)
		grow(policy, view, goal);
	else
		rest(policy, view);
	return policy->target_bytes;
}

void ob_balloon_note_room(struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance)
{
	uint64_t slack = clamp(balance->entitled_bytes / 36, REST_LEAST, REST_MOST), back = OB_MIN(balance->away_bytes, balance->back_bytes);

	policy->room_bytes[policy->steps++ % OB_BALLOON_REST_STEPS] = ob_less(balance->entitled_bytes, balance->cost_bytes + back + slack);
}

bool ob_balloon_is_calm(const struct ob_balloon_balance *balance)
{
	uint64_t back = OB_MIN(balance->away_bytes, balance->back_bytes);

	return balance->cost_bytes <= balance->entitled_bytes && back < balance->entitled_bytes / CALM_SHARE;
}

uint64_t ob_balloon_room(const struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance)
{
	uint64_t slack = clamp(balance->entitled_bytes / 8, SLACK_LEAST, SLACK_MOST), least = policy->room_bytes[0];

	if (balance->entitled_bytes == OB_BUDGET_NONE)
		return OB_BUDGET_NONE;
	if (!balance->have_given)
		return ob_less(balance->entitled_bytes, balance->cost_bytes + balance->away_bytes + slack);
	for (unsigned i = 1; i < OB_BALLOON_REST_STEPS; i++)
		least = OB_MIN(least, policy->room_bytes[i]);
	return least;
}

uint64_t ob_balloon_auto_goal(const struct ob_balloon_policy *policy, const struct ob_balloon_balance *balance)
{
	uint64_t entitled = balance->entitled_bytes, back = OB_MIN(balance->back_bytes, balance->away_bytes), needed, wanted = 0;
	uint64_t room = ob_balloon_room(policy, balance);

	if (entitled == OB_BUDGET_NONE)
		return 0;
	/* At no loss to anybody, if applications are not about to take it back. */
	if (!balance->have_given || !room)
		wanted = OB_MIN(ob_less(balance->cost_bytes + balance->away_bytes, entitled), ob_less(balance->free_bytes, balance->unused_bytes));
	needed = balance->cost_bytes + ob_less(back, entitled / BACK_SHARE);
	/* Reclaim begins a little below the limit. */
	if (needed > entitled)
		wanted = OB_MAX(wanted, needed - entitled + OB_MIN(entitled / 32, AHEAD_MOST));
	/* What is held may be of before the cost: no reason to turn round. */
	if (wanted)
		return OB_MAX(policy->target_bytes, balance->held_bytes + balance->unused_bytes + wanted);
	/* In parts: that it is unused is seen later. */
	return ob_less(policy->target_bytes, ob_less(room, balance->have_given ? balance->free_bytes : balance->unused_bytes) / 4);
}
