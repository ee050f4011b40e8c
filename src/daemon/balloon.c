/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Machines' balloons: whose, in what mode, towards what goal. How a guest is led to the goal is balloon_policy.h's
 * matter; that QEMU is told by the machine's agent, and why, the matter of agent/balloon.c.
 *
 * Modes. `off`: the balloon is left alone, once it holds nothing that Overbook has put there: what others have is
 * theirs. `fixed`: so much is to be left to the guest, if it can do with it. `auto`: as much is taken as the machine
 * needs above what it is entitled to, and given back when there is room (ob_balloon_auto_goal). A machine that has none said goes by
 * overbookd's setting. An agent says the mode after HELLO and is told it with every order, so that a new overbookd takes
 * up what it finds: drives on, or deflates.
 *
 * In `auto` a cut of the machine's limit is first the balloon's. For OB_LADDER_GRACE_NS, GRACE_URGENT_NS while a newcomer waits
 * for room, the limit follows what the machine costs down instead of going ahead of it, so that the guest has the choice
 * of what to do without; it cannot grow meanwhile. The grace ends before that when nothing more is to be had: no driver,
 * nothing told, nothing to spare, a guest that suffers or has just started. Then the limit goes where it is due, and the engine evicts the
 * rest, and means.h decides how soon a cut waits again, by what has come of it. There is no grace while memory is so short that cuts must not wait (shortage.c), and one that is
 * under way ends then; the balloon goes on towards its goal. To cut later is always safe, since nobody else grows before a cut
 * is confirmed (arbiter.c).
 *
 * Two bounds on what agents say. Numbers are made sane before they are added up. And gone_bytes is the engine's count,
 * not the guest's: what is ballooned, was never touched, or is zero; memory that the engine does not look after cannot
 * be checked and counts as gone.
 *
 * It is looked at every LOOK_MS while it is driven, seldom while there is nothing to do. While machines of before are
 * expected back there are no steps, since what anybody is entitled to is not known.
 */
#include "daemon/balloon.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/arbiter.h"
#include "daemon/guest.h"
#include "daemon/link.h"
#include "daemon/shortage.h"

#define GRACE_URGENT_NS (3 * OB_NS_PER_SEC)
#define GRACE_CHANCE_NS (3 * OB_NS_PER_SEC) /* before what the balloon does is judged */
#define GRACE_GRAIN     (4 * OB_MIB)
#define LOOK_MS         1000
#define LOOK_IDLE_MS    5000
#define LOOK_OFF_MS     10000
#define FLOOR_LEAST     (64 * OB_MIB)
#define BYTES_SANE      (1ull << 56)

static uint64_t sane(uint64_t bytes)
{
	return OB_MIN(bytes, BYTES_SANE);
}

static enum ob_balloon_mode mode_of(const struct ob_machine *machine)
{
	if (machine->balloon.mode != OB_BALLOON_DEFAULT)
		return machine->balloon.mode;
	return machine->daemon->config.balloon_auto ? OB_BALLOON_AUTO : OB_BALLOON_OFF;
}

/* Whether there is something in it that Overbook has put there, or is about to. */
static bool is_ours(const struct ob_machine *machine)
{
	return machine->balloon.policy.target_bytes || machine->stats.balloon_target_bytes;
}

static uint64_t machine_bytes(const struct ob_machine *machine)
{
	return machine->stats.machine_bytes ? sane(machine->stats.machine_bytes) : ob_arbiter_ram(machine);
}

static uint64_t floor_of(const struct ob_machine *machine)
{
	const struct ob_balloon_floor *floor = &machine->daemon->config.balloon_floor;

	return OB_MAX(floor->percent ? machine_bytes(machine) / 100 * floor->percent : floor->bytes, FLOOR_LEAST);
}

/* What the host does not have to keep, by the engine. */
static uint64_t gone_bytes(const struct ob_machine *machine)
{
	const struct ob_stats *stats = &machine->stats;

	return sane(stats->ballooned_bytes) + sane(stats->absent_bytes) + sane(stats->zero_bytes) +
	       ob_less(machine_bytes(machine), sane(stats->ram_bytes));
}

/* What is free in the guest beyond its margin: in all, and of that, what the host does not keep. */
static void look_at_free(const struct ob_machine *machine, uint64_t *ret_free, uint64_t *ret_unused)
{
	const struct ob_stats *stats = &machine->stats;
	uint64_t nowhere = ob_less(gone_bytes(machine), sane(stats->balloon_bytes)), margin = ob_balloon_margin_bytes(machine_bytes(machine));
	uint64_t bytes = OB_MIN(sane(stats->guest_free_bytes), sane(stats->guest_available_bytes));

	if (~stats->guest_known & (OB_GUEST_FREE | OB_GUEST_AVAILABLE))
		bytes = 0;
	*ret_free = ob_less(bytes, margin);
	*ret_unused = ob_less(OB_MIN(bytes, nowhere), margin);
}

/* The goal, and what room there is for what is not in the balloon. */
static void set_goal(struct ob_machine *machine, uint64_t now_ns)
{
	const struct ob_stats *stats = &machine->stats;
	struct ob_balloon_machine *balloon = &machine->balloon;
	struct ob_balloon_balance balance = {
		.held_bytes = sane(stats->balloon_bytes), .cost_bytes = sane(stats->cost_bytes),
		.away_bytes = sane(stats->swapped_bytes) + ob_less(sane(stats->compressed_bytes), sane(stats->pool_bytes)),
		.back_bytes = ob_working_set_back_bytes(&machine->working_set), .entitled_bytes = machine->target_bytes,
		.have_given = ob_guest_has_given(machine),
	};

	balloon->room_bytes = UINT64_MAX;
	balloon->is_calm = false;
	balloon->goal_bytes = 0;
	if (mode_of(machine) == OB_BALLOON_FIXED) {
		balloon->goal_bytes = ob_less(machine_bytes(machine), balloon->size_bytes);
	} else if (mode_of(machine) == OB_BALLOON_AUTO && machine->release == OB_RELEASE_NO) {
		look_at_free(machine, &balance.free_bytes, &balance.unused_bytes);
		ob_balloon_note_room(&balloon->policy, &balance);
		balloon->room_bytes = ob_balloon_room(&balloon->policy, &balance);
		balloon->is_calm = ob_balloon_is_calm(&balance);
		/* 0: not divided yet. */
		balloon->goal_bytes = machine->target_bytes ? ob_balloon_auto_goal(&balloon->policy, &balance) : balloon->policy.target_bytes;
		if (!ob_means_may_ask(&machine->means.means, now_ns))
			balloon->goal_bytes = OB_MIN(balloon->goal_bytes, balloon->policy.target_bytes);
	}
}

/* An older QEMU does not say whether there is a driver: its guest is taken at its deeds. */
static bool has_driver(const struct ob_machine *machine)
{
	uint64_t flags = machine->stats.balloon_flags;

	return flags & OB_BALLOON_DEVICE && (!(flags & OB_BALLOON_STATUS) || flags & OB_BALLOON_DRIVER);
}

static struct ob_balloon_view view_of(const struct ob_machine *machine, uint64_t now_ns)
{
	const struct ob_stats *stats = &machine->stats;
	uint64_t size = machine_bytes(machine);

	return (struct ob_balloon_view){
		.now_ns = now_ns, .machine_bytes = size, .held_bytes = OB_MIN(stats->balloon_bytes, size),
		.gone_bytes = gone_bytes(machine), .floor_bytes = floor_of(machine), .goal_bytes = machine->balloon.goal_bytes,
		.has_driver = has_driver(machine), .may_be_blind = mode_of(machine) == OB_BALLOON_FIXED,
		.is_stalled = ob_stall_is(&machine->guest.stall, now_ns),
		.is_owed = ob_stall_goes_on(&machine->guest.stall, now_ns) && ob_shortage_may_wait(machine->daemon),
		.updates = stats->guest_updates, .known = stats->guest_known,
		.free_bytes = sane(stats->guest_free_bytes), .available_bytes = sane(stats->guest_available_bytes),
		.caches_bytes = sane(stats->guest_caches_bytes), .swap_in_bytes = stats->guest_swap_in_bytes,
		.swap_out_bytes = stats->guest_swap_out_bytes, .major_faults = stats->guest_major_faults,
	};
}

static void log_change(const struct ob_machine *machine, enum ob_balloon_state before)
{
	const struct ob_balloon_policy *policy = &machine->balloon.policy;
	char target[16], held[16];

	if (policy->state == before)
		return;
	ob_log(OB_LOG_DEBUG, "machine \"%s\": balloon %s -> %s, %s in it, told to hold %s", machine->name,
	       ob_balloon_state_name(before), ob_balloon_state_name(policy->state),
	       ob_size_format(held, sizeof(held), machine->stats.balloon_bytes),
	       ob_size_format(target, sizeof(target), policy->target_bytes));
}

static void step_machine(struct ob_machine *machine, uint64_t now_ns)
{
	struct ob_balloon_machine *balloon = &machine->balloon;
	enum ob_balloon_state before = balloon->policy.state;
	struct ob_balloon_view view;

	/* A machine that stands still can give nothing, and takes nothing. */
	if (!machine->link || !balloon->is_known || machine->state == OB_MACHINE_STOPPED ||
	    !(machine->stats.balloon_flags & OB_BALLOON_LOOKED))
		return;
	set_goal(machine, now_ns);
	view = view_of(machine, now_ns);
	ob_guest_step(machine, &view);
	if (mode_of(machine) == OB_BALLOON_OFF && !is_ours(machine))
		balloon->policy = (struct ob_balloon_policy){ .state = OB_BALLOON_EMPTY };
	else
		(void)ob_balloon_policy_step(&balloon->policy, &view);
	log_change(machine, before);
}

static struct ob_wire_balloon wanted(const struct ob_machine *machine)
{
	const struct ob_balloon_machine *balloon = &machine->balloon;
	struct ob_wire_balloon order = {
		.mode = balloon->mode, .size_bytes = balloon->size_bytes, .target_bytes = balloon->policy.target_bytes,
		.look_ms = LOOK_MS,
	};

	if (mode_of(machine) != OB_BALLOON_OFF || is_ours(machine))
		order.flags = OB_WIRE_BALLOON_DRIVE;
	if (!order.flags)
		order.look_ms = LOOK_OFF_MS;
	else if (!is_ours(machine) && !balloon->goal_bytes)
		order.look_ms = LOOK_IDLE_MS;
	return order;
}

static bool is_due(const struct ob_machine *machine, const struct ob_wire_balloon *order)
{
	const struct ob_wire_balloon *told = &machine->balloon.told;

	return machine->balloon.is_known &&
	       (!machine->balloon.is_told || told->mode != order->mode || told->flags != order->flags || told->look_ms != order->look_ms ||
		told->size_bytes != order->size_bytes || told->target_bytes != order->target_bytes);
}

int ob_balloon_flush(struct ob_machine *machine)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_BALLOON, .balloon = wanted(machine) };
	int r;

	if (!is_due(machine, &msg.balloon))
		return 0;
	r = ob_link_send(machine, &msg, -1);
	if (r < 0)
		return r;
	machine->balloon.told = msg.balloon;
	machine->balloon.is_told = true;
	return 0;
}

static void step_and_tell(struct ob_machine *machine)
{
	step_machine(machine, ob_now_ns());
	if (machine->link)
		ob_link_flush(machine);
}

void ob_balloon_step(struct ob_daemon *daemon)
{
	if (ob_arbiter_is_settling(daemon))
		return;
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		step_and_tell(machine);
}

void ob_balloon_connected(struct ob_machine *machine)
{
	machine->balloon.is_known = machine->balloon.is_told = false;
}

void ob_balloon_is_set(struct ob_machine *machine, const struct ob_wire_balloon *set)
{
	struct ob_balloon_machine *balloon = &machine->balloon;

	balloon->is_known = true;
	if (!balloon->has_mode) {
		balloon->has_mode = true;
		balloon->mode = set->mode;
		balloon->size_bytes = set->size_bytes;
		balloon->policy.target_bytes = sane(set->target_bytes) / OB_MIB * OB_MIB;
	}
	ob_link_flush(machine);
}

int ob_balloon_set(struct ob_machine *machine, enum ob_balloon_mode mode, uint64_t size_bytes, struct ob_error *err)
{
	uint64_t size = machine_bytes(machine), floor = floor_of(machine);
	char given[16], has[16], least[16];

	if (!machine->balloon.is_known)
		return ob_error_set(err, EIO, "machine \"%s\" has an agent that does not drive balloons: it is of an older version, "
				    "or was not heard yet", machine->name);
	if (mode != OB_BALLOON_OFF && (machine->stats.balloon_flags & (OB_BALLOON_LOOKED | OB_BALLOON_DEVICE)) == OB_BALLOON_LOOKED)
		return ob_error_set(err, EPERM, "machine \"%s\" has no virtio-balloon", machine->name);
	if (mode == OB_BALLOON_FIXED && (size_bytes < floor || size_bytes > size))
		return ob_error_set(err, EPERM, "%s for the guest of machine \"%s\" is not between %s, below which no balloon is "
				    "driven, and its %s", ob_size_format(given, sizeof(given), size_bytes), machine->name,
				    ob_size_format(least, sizeof(least), floor), ob_size_format(has, sizeof(has), size));
	machine->balloon.has_mode = true;
	machine->balloon.mode = mode;
	machine->balloon.size_bytes = mode == OB_BALLOON_FIXED ? size_bytes : 0;
	step_and_tell(machine);
	return 0;
}

bool ob_balloon_is_anybody_waiting(const struct ob_daemon *daemon)
{
	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		if (machine->state == OB_MACHINE_WAITING)
			return true;
	return false;
}

/* Whether the balloon of a machine in its grace can be expected to take more. */
static bool has_prospects(struct ob_machine *machine, uint64_t now_ns)
{
	struct ob_balloon_machine *balloon = &machine->balloon;

	if (now_ns - balloon->grace_ns >= (ob_balloon_is_anybody_waiting(machine->daemon) ? GRACE_URGENT_NS : OB_LADDER_GRACE_NS))
		return false;
	if (ob_guest_may_give(machine) || ob_guest_gathers(machine, now_ns)) {
		balloon->hope_ns = now_ns;
		return true;
	}
	switch (balloon->policy.state) {
	case OB_BALLOON_NO_DRIVER:
	case OB_BALLOON_STARTING:
	case OB_BALLOON_EASING:
	case OB_BALLOON_STUCK:
		return false;
	case OB_BALLOON_INFLATING:
		balloon->hope_ns = now_ns;
		return true;
	default:
		/* What applications have given, and what the last step has left, the guest tells a moment later. */
		return now_ns - balloon->hope_ns < GRACE_CHANCE_NS;
	}
}

/* What has come of a grace is judged, unless it ended early for a newcomer's sake, or for what has a WAIT in balloon_policy.h. */
static void judge_grace(struct ob_machine *machine, uint64_t grant_bytes, uint64_t now_ns)
{
	uint64_t before = machine->balloon.grace_cost_bytes, cost = sane(machine->stats.cost_bytes);
	bool is_early = now_ns - machine->balloon.grace_ns < OB_LADDER_GRACE_NS && ob_balloon_is_anybody_waiting(machine->daemon);
	enum ob_balloon_state state = machine->balloon.policy.state;

	if (cost > grant_bytes && (is_early || state == OB_BALLOON_NO_DRIVER || state == OB_BALLOON_STARTING || state == OB_BALLOON_EASING ||
				   state == OB_BALLOON_STUCK))
		ob_means_pause(&machine->means.means, now_ns);
	else
		ob_means_cut_ended(&machine->means.means, ob_less(before, grant_bytes), ob_less(before, cost), now_ns);
}

uint64_t ob_balloon_soften(struct ob_machine *machine, uint64_t grant_bytes)
{
	struct ob_balloon_machine *balloon = &machine->balloon;
	uint64_t cost = sane(machine->stats.cost_bytes), now_ns = ob_now_ns();

	/* Without a limit the engine does not count all the time: it may cost what it has. */
	if (machine->limit_bytes == OB_BUDGET_NONE)
		cost = OB_MAX(cost, ob_arbiter_ram(machine));
	if (mode_of(machine) != OB_BALLOON_AUTO || !balloon->is_known || !has_driver(machine) || cost <= grant_bytes ||
	    grant_bytes >= machine->limit_bytes || !ob_shortage_may_wait(machine->daemon)) {
		if (balloon->grace_ns && cost <= grant_bytes)
			judge_grace(machine, grant_bytes, now_ns);
		balloon->grace_ns = 0;
		return grant_bytes;
	}
	if (!balloon->grace_ns) {
		if (!ob_means_may_wait(&machine->means.means, now_ns))
			return grant_bytes;
		balloon->grace_ns = balloon->hope_ns = now_ns;
		balloon->grace_cost_bytes = sane(machine->stats.cost_bytes);
		step_and_tell(machine);
	}
	if (!has_prospects(machine, now_ns)) {
		judge_grace(machine, grant_bytes, now_ns);
		balloon->grace_ns = 0;
		return grant_bytes;
	}
	/* A little above what it costs: at the limit itself the engine evicts. */
	cost = (cost + cost / 24 + GRACE_GRAIN - 1) / GRACE_GRAIN * GRACE_GRAIN;
	return OB_MAX(grant_bytes, OB_MIN(cost, machine->limit_bytes));
}

uint64_t ob_balloon_arrived(const struct ob_machine *machine)
{
	struct ob_balloon_view view = view_of(machine, 0);

	return OB_MIN(view.held_bytes, view.gone_bytes);
}

/* true, false, or null: not known. */
static json_t *fact(const struct ob_machine *machine, uint64_t known, uint64_t flag)
{
	uint64_t flags = machine->stats.balloon_flags;

	return (flags & known) == known ? json_boolean(flags & flag) : json_null();
}

json_t *ob_balloon_render(const struct ob_machine *machine)
{
	static const char *const modes[] = { [OB_BALLOON_OFF] = "off", [OB_BALLOON_FIXED] = "fixed", [OB_BALLOON_AUTO] = "auto" };
	const uint64_t agreed = OB_BALLOON_LOOKED | OB_BALLOON_DEVICE | OB_BALLOON_STATUS;
	const struct ob_balloon_machine *balloon = &machine->balloon;
	struct ob_balloon_view view = view_of(machine, 0);

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "mode", modes[mode_of(machine)], "state",
			 ob_balloon_state_name(balloon->policy.state), "size_bytes", (json_int_t)sane(balloon->size_bytes), "floor_bytes",
			 (json_int_t)sane(view.floor_bytes), "goal_bytes", (json_int_t)sane(balloon->goal_bytes), "target_bytes",
			 (json_int_t)balloon->policy.target_bytes, "held_bytes", (json_int_t)view.held_bytes, "arrived_bytes",
			 (json_int_t)ob_balloon_arrived(machine), "eased", (json_int_t)balloon->policy.eased, "stuck",
			 (json_int_t)balloon->policy.stuck, "device",
			 fact(machine, OB_BALLOON_LOOKED, OB_BALLOON_DEVICE), "driver", fact(machine, agreed, OB_BALLOON_DRIVER),
			 "reports_free_pages", fact(machine, agreed, OB_BALLOON_REPORTS), "takes_reports",
			 fact(machine, agreed, OB_BALLOON_OFFERED), "gives_statistics", fact(machine, agreed, OB_BALLOON_STATISTICS));
}
