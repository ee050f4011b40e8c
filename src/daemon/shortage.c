/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ladder is told, once a second, and what its states are good for: balloon.c asks whether a cut may wait, arbiter.c whether limits may grow,
 * large.c has gone first and decides about large pages by itself.
 *
 * `waiting` is what machines cost above what they are entitled to and have not been cut to, because of a grace. `room` is what those have below their
 * limits who are entitled to more than these, by as much as a limit grows at least; `used` is what they have grown by, `given` what those in a grace have come
 * down by. What anybody says is made sane before it is added up.
 *
 * The host hardly has anything when less is available (/proc/meminfo) than min_free would be, were all its memory the budget. Where the kernel does not
 * account for pressure it plays no part.
 *
 * While machines of before are expected back there are no steps, and things are as in high.
 */
#include "daemon/shortage.h"

#include "base/clock.h"
#include "base/meminfo.h"
#include "base/units.h"
#include "daemon/arbiter.h"

#define BYTES_SANE (1ull << 56)

static uint64_t sane(uint64_t bytes)
{
	return OB_MIN(bytes, BYTES_SANE);
}

static void look_at_machine(struct ob_machine *machine, struct ob_ladder_input *input)
{
	uint64_t cost = sane(machine->stats.cost_bytes), limit = machine->limit_bytes, target = machine->target_bytes;
	struct ob_ladder_way way;

	if (!machine->stats_seen || !ob_arbiter_is_orderable(machine)) {
		machine->follower.is_seen = false;
		return;
	}
	way = ob_ladder_follow(&machine->follower, cost, ob_budget_marks(limit), input->elapsed_ns);
	if (machine->balloon.grace_ns)
		input->given_bytes += way.down_bytes;
	if (limit > target) {
		input->waiting_bytes += ob_less(cost, target);
	} else if (target - limit >= OB_BUDGET_GROW_STEP) {
		input->room_bytes += ob_less(limit, cost);
		input->used_bytes += way.up_bytes;
	}
}

static enum ob_ladder_state upper_of(const struct ob_daemon *daemon)
{
	static const enum ob_ladder_state of[OB_LARGE_STATES] = {
		[OB_LARGE_HIGH] = OB_LADDER_HIGH, [OB_LARGE_CLEAR] = OB_LADDER_CLEAR, [OB_LARGE_LOW] = OB_LADDER_SOFT,
	};

	return of[daemon->large.host.state];
}

static void tell_change(const struct ob_daemon *daemon, enum ob_ladder_state before)
{
	const struct ob_ladder *ladder = &daemon->shortage.ladder;
	const char *because = ob_ladder_reason_text(ladder->reason);
	char free_text[16], budget[16];

	if (daemon->config.budget_bytes == OB_BUDGET_NONE)
		ob_event(OB_EVENT_MEMORY_STATE, NULL, 0, "memory: %s -> %s, since there is no budget", ob_ladder_state_name(before),
			 ob_ladder_state_name(ladder->state));
	else
		ob_event(OB_EVENT_MEMORY_STATE, NULL, 0, "memory: %s -> %s, %s of the budget of %s free%s%s; large pages: %s", ob_ladder_state_name(before),
			 ob_ladder_state_name(ladder->state), ob_size_format(free_text, sizeof(free_text), daemon->large.host.free_bytes),
			 ob_size_format(budget, sizeof(budget), daemon->config.budget_bytes), because ? ", " : "", because ? because : "",
			 ob_large_policy_name(daemon->config.large_policy));
}

void ob_shortage_step(struct ob_daemon *daemon)
{
	struct ob_shortage *shortage = &daemon->shortage;
	enum ob_ladder_state before = shortage->ladder.state;
	struct ob_ladder_input input = { .upper = upper_of(daemon) };
	uint64_t now_ns = ob_now_ns();

	if (ob_arbiter_is_settling(daemon))
		return;
	input.elapsed_ns = shortage->ladder.is_started ? now_ns - shortage->step_ns : 0;
	if (daemon->config.budget_bytes != OB_BUDGET_NONE) {
		input.budget_bytes = daemon->config.budget_bytes;
		input.over_bytes = ob_less(ob_arbiter_spent(daemon), input.budget_bytes);
		input.has_pressure = ob_memory_pressure(&input.some_us, &input.full_us) == 0;
		input.available_bytes = ob_meminfo("MemAvailable");
		input.scarce_bytes = ob_large_min_free(ob_meminfo("MemTotal"));
		for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
			look_at_machine(machine, &input);
	}
	shortage->step_ns = now_ns;
	if (!ob_ladder_step(&shortage->ladder, &input))
		return;
	tell_change(daemon, before);
	ob_arbiter_kick(daemon);
}

bool ob_shortage_may_wait(const struct ob_daemon *daemon)
{
	return daemon->shortage.ladder.state < OB_LADDER_HARD;
}

bool ob_shortage_is_severe(const struct ob_daemon *daemon)
{
	return daemon->shortage.ladder.state == OB_LADDER_LOW;
}

json_t *ob_shortage_render(const struct ob_daemon *daemon)
{
	const struct ob_ladder *ladder = &daemon->shortage.ladder;

	if (!ladder->is_started)
		return json_null();
	return json_pack("{s:s, s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:I}", "state", ob_ladder_state_name(ladder->state), "because",
			 ob_ladder_reason_text(ladder->reason), "free_bytes", (json_int_t)daemon->large.host.free_bytes, "over_bytes",
			 (json_int_t)sane(ladder->over_bytes), "waiting_bytes", (json_int_t)sane(ladder->waiting_bytes), "room_bytes",
			 (json_int_t)sane(ladder->room_bytes), "outrun_bytes", (json_int_t)sane(ladder->use), "gentle_bytes",
			 (json_int_t)sane(ladder->speed), "pressure_some_permille",
			 ladder->has_pressure ? json_integer(ladder->some_share / 1000) : json_null(), "pressure_full_permille",
			 ladder->has_pressure ? json_integer(ladder->full_share / 1000) : json_null(), "changes", (json_int_t)ladder->changes);
}
