/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Applies the division of the budget (budget.h) to the machines that are here.
 *
 * Everything that happens (an agent reports, comes, goes, confirms an order; a client asks) kicks the arbiter, and it
 * divides once at the end of that turn of the loop; a tick a second catches what no event tells. Dividing is a pass over
 * an array, so it is done anew each time rather than kept up to date.
 *
 * Invariant: the sum over machines of max(limit in force, cost) never grows above the budget by an order given here. Its
 * difficulty is that agents are told and report later. So an order to grow counts from the moment it is decided, and an
 * order to shrink counts only once (1) the agent has confirmed it and (2) has reported its cost since; until then the old
 * limit stays "exposed". A machine that has not reported since it connected may cost as much as it has RAM.
 *
 * Agents report every 50 ms while memory is moving to their machine or from it, or somebody waits to be admitted, every second otherwise: on a host that is full some
 * limit moves most of the time, and each report wakes a thread of a machine that may have nothing to do with it. A movement that makes no
 * headway for STIR_NS (a machine above its limit whose swap store is full, say) is no reason to ask often.
 *
 * A new overbookd knows nobody. When the run directory shows living machines, nobody grows and nobody is admitted until
 * they have come back or SETTLE_NS have passed: else the first one to return would be given everything.
 *
 * The stores of shared pages are paid for first: what they take, what is set aside for them to grow (budget.h), and the extents
 * that a former overbookd has left. Machines divide the rest. What is set aside is allowed only once the machines have given
 * it up, in the way that a machine's growth is; or in advance, within bounds, while the sum is above the budget anyhow.
 *
 * What machines use (working_set.h) is looked at once a second, and whether they want more at each report; a machine that was just connected is
 * taken to use and want all that it can have.
 *
 * Without a budget a machine's limit is the maximum that its user set.
 *
 * A cut is not made at once where the machine's balloon has a chance to take what is above it (balloon.c), unless memory is short in a way that
 * does not allow for it (shortage.c). When it is shorter still nobody grows beyond what is guaranteed to him, and newcomers wait whose guarantee is not
 * what they need to start.
 */
#include "daemon/arbiter.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "daemon/api.h"
#include "daemon/balloon.h"
#include "daemon/link.h"
#include "daemon/machine_means.h"
#include "daemon/notify.h"
#include "daemon/runtime.h"
#include "daemon/share.h"
#include "daemon/shortage.h"

#define STIR_NS       (10 * OB_NS_PER_SEC)
#define SETTLE_NS     (5 * OB_NS_PER_SEC)
#define TICK_NS       OB_NS_PER_SEC
#define RETRY_NS      OB_NS_PER_SEC
#define TELL_NS       (10 * OB_NS_PER_SEC) /* no more often, since what stores take comes and goes */
#define POLL_BUSY_MS  50
#define POLL_IDLE_MS  1000
#define FREE_STEP     (16 * OB_MIB) /* what released machines cost is rounded up to this, lest every report moves everybody */
#define HEADWAY       OB_MIB        /* a machine above its limit that comes down by so much is getting somewhere */
#define BYTES_SANE    (1ull << 56)  /* more than any host has */

static struct ob_budget_machine shares_of[OB_DAEMON_MACHINES_MAX];

uint64_t ob_arbiter_ram(const struct ob_machine *machine)
{
	/* What an agent says may be anything; sums must not wrap. */
	return OB_MIN(OB_MAX(machine->ram_bytes, machine->stats.ram_bytes), BYTES_SANE);
}

uint64_t ob_arbiter_released_cost(const struct ob_machine *machine)
{
	return OB_MAX(OB_MIN(machine->stats.cost_bytes, BYTES_SANE), ob_arbiter_ram(machine));
}

bool ob_arbiter_is_orderable(const struct ob_machine *machine)
{
	return machine->link && machine->release == OB_RELEASE_NO;
}

static uint64_t machine_ceiling(const struct ob_machine *machine)
{
	return ob_budget_ceiling(ob_arbiter_ram(machine));
}

static void describe(const struct ob_machine *machine, struct ob_budget_machine *ret)
{
	*ret = (struct ob_budget_machine){
		.role = machine->state == OB_MACHINE_WAITING || ob_arbiter_is_orderable(machine) ? OB_BUDGET_ORDERED : OB_BUDGET_FIXED,
		.shares = machine->shares,
		.reservation_bytes = OB_MAX(machine->reservation_bytes, machine->least_bytes),
		.maximum_bytes = machine->maximum_bytes,
		.ceiling_bytes = machine_ceiling(machine),
		.limit_bytes = machine->limit_bytes,
		.exposed_bytes = machine->exposed_bytes,
		.cost_bytes = machine->stats.cost_bytes,
		.wanted_bytes = machine->working_set.wanted_bytes,
		.active_bytes = machine->working_set.believed_bytes,
	};
	if (machine->release != OB_RELEASE_NO) {
		ret->role = OB_BUDGET_FREE;
		ret->cost_bytes = (ob_arbiter_released_cost(machine) + FREE_STEP - 1) / FREE_STEP * FREE_STEP;
	}
	if (machine->link && !machine->stats_seen)
		ret->exposed_bytes = OB_BUDGET_NONE;
	/* It has what it had, and comes down from there. */
	if (machine->order == OB_ORDER_FAILED && machine->limit_bytes < machine->least_bytes)
		ret->limit_bytes = machine->exposed_bytes;
}

static size_t describe_all(const struct ob_daemon *daemon)
{
	size_t n = 0;

	for (const struct ob_machine *machine = daemon->machines; machine && n < OB_DAEMON_MACHINES_MAX; machine = machine->next)
		describe(machine, &shares_of[n++]);
	return n;
}

/* What is set aside for the stores of shared pages, orphans excepted. */
static uint64_t stores_want(const struct ob_daemon *daemon)
{
	return ob_budget_store_want(ob_share_store_bytes(daemon), ob_share_is_hungry(daemon));
}

/* What there is for the machines and the stores; for the machines alone. */
static uint64_t budget_of_all(const struct ob_daemon *daemon)
{
	uint64_t orphans = ob_share_orphan_bytes(daemon);

	return ob_less(daemon->config.budget_bytes, orphans);
}

static uint64_t budget_of_machines(const struct ob_daemon *daemon)
{
	uint64_t all = budget_of_all(daemon), stores = stores_want(daemon);

	return ob_less(all, stores);
}

uint64_t ob_arbiter_spent(struct ob_daemon *daemon)
{
	uint64_t sum = ob_share_orphan_bytes(daemon) + ob_share_store_bytes(daemon);
	size_t n = describe_all(daemon);

	for (size_t i = 0; i < n; i++)
		if (__builtin_add_overflow(sum, shares_of[i].cost_bytes, &sum))
			return UINT64_MAX;
	return sum;
}

uint64_t ob_arbiter_free(struct ob_daemon *daemon)
{
	uint64_t spent = ob_arbiter_spent(daemon);

	return ob_less(daemon->config.budget_bytes, spent);
}

uint64_t ob_arbiter_growth(struct ob_daemon *daemon)
{
	size_t n = describe_all(daemon);
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t most = OB_MIN(shares_of[i].maximum_bytes, shares_of[i].ceiling_bytes);

		if (__builtin_add_overflow(sum, ob_less(most, shares_of[i].cost_bytes), &sum))
			return UINT64_MAX;
	}
	return sum;
}

/* Targets and grants for everybody into shares_of, in the order of the registry. Returns what is still free. */
static uint64_t divide_budget(struct ob_daemon *daemon)
{
	size_t n = describe_all(daemon), i = 0;
	uint64_t budget = budget_of_machines(daemon);

	ob_budget_divide(budget, daemon->config.idle_tax_percent, shares_of, n);
	daemon->lack_bytes = ob_budget_lack(shares_of, n);
	for (struct ob_machine *machine = daemon->machines; i < n; machine = machine->next, i++) {
		machine->target_bytes = shares_of[i].target_bytes;
		if (machine->state == OB_MACHINE_WAITING)
			shares_of[i].urgent_bytes = ob_budget_need(shares_of[i].target_bytes);
	}
	return ob_budget_grant(budget, shares_of, n);
}

bool ob_arbiter_is_settling(const struct ob_daemon *daemon)
{
	return daemon->expected && ob_now_ns() < daemon->settle_until_ns;
}

static void order(struct ob_machine *machine, uint64_t limit_bytes)
{
	char before[16] = "none", after[16] = "none";

	if (machine->limit_bytes != OB_BUDGET_NONE)
		ob_size_format(before, sizeof(before), machine->limit_bytes);
	if (limit_bytes != OB_BUDGET_NONE)
		ob_size_format(after, sizeof(after), limit_bytes);
	ob_log(OB_LOG_DEBUG, "machine \"%s\": limit %s -> %s", machine->name, before, after);
	/* Nothing moves while it is refused. */
	if (machine->order != OB_ORDER_FAILED || limit_bytes != machine->limit_bytes)
		machine->daemon->stirred_ns = ob_now_ns();
	ob_link_order_limit(machine, limit_bytes);
}

/* Orders what is granted where the difference is worth an order, or where the last order has failed and it is time. */
static void apply(struct ob_machine *machine, uint64_t grant_bytes)
{
	bool told = machine->ordered_maximum_bytes == machine->maximum_bytes;

	if (machine->order == OB_ORDER_FAILED && ob_now_ns() < machine->retry_ns)
		return;
	if (machine->order == OB_ORDER_FAILED || !told ||
	    ob_budget_is_worth_an_order(machine->limit_bytes, machine->target_bytes, grant_bytes))
		order(machine, grant_bytes);
}

static void run_without_budget(struct ob_daemon *daemon)
{
	daemon->lack_bytes = 0;
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		machine->target_bytes = machine->maximum_bytes;
		if (machine->state == OB_MACHINE_WAITING) {
			ob_registry_start(machine, machine->maximum_bytes);
			ob_api_admitted(machine);
		} else if (ob_arbiter_is_orderable(machine)) {
			apply(machine, ob_balloon_soften(machine, machine->maximum_bytes));
		}
	}
}

static void run_with_budget(struct ob_daemon *daemon)
{
	bool settling = ob_arbiter_is_settling(daemon);
	size_t i = 0;

	divide_budget(daemon);
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next, i++) {
		uint64_t grant = shares_of[i].grant_bytes;

		if (settling)
			grant = OB_MIN(grant, machine->limit_bytes);
		else if (ob_shortage_is_severe(daemon))
			grant = OB_MIN(grant, OB_MAX(machine->limit_bytes, ob_budget_floor(&shares_of[i])));
		if (machine->state == OB_MACHINE_WAITING) {
			machine->free_bytes = grant;
			machine->need_bytes = shares_of[i].urgent_bytes;
			if (!settling && grant >= shares_of[i].urgent_bytes) {
				ob_registry_start(machine, grant);
				ob_api_admitted(machine);
			} else {
				ob_api_machine_changed(machine);
			}
		} else if (ob_arbiter_is_orderable(machine)) {
			apply(machine, ob_balloon_soften(machine, grant));
		}
	}
}

/* Machines are described as they are after the orders: what they have raised is charged. */
static void allow_stores(struct ob_daemon *daemon, size_t n)
{
	uint64_t used = ob_share_store_bytes(daemon), want = stores_want(daemon), budget = budget_of_all(daemon), allowed, advance;

	if (daemon->config.budget_bytes == OB_BUDGET_NONE) {
		daemon->least_bytes = OB_BUDGET_NONE;
		ob_share_allow(daemon, OB_BUDGET_NONE, false);
		return;
	}
	if (ob_arbiter_is_settling(daemon)) {
		ob_share_allow(daemon, used, false);
		return;
	}
	allowed = ob_budget_store_allow(budget, used, want, shares_of, n);
	advance = ob_budget_store_advance(budget, used, want, shares_of, n, &daemon->least_bytes);
	ob_share_allow(daemon, OB_MAX(allowed, advance), advance > allowed);
}

static const char *beside_stores(const struct ob_daemon *daemon)
{
	return budget_of_machines(daemon) < daemon->config.budget_bytes ? " without what the stores of shared pages take" : "";
}

static void tell_of_guarantees(struct ob_daemon *daemon, size_t n)
{
	uint64_t guaranteed = ob_budget_guaranteed(shares_of, n), budget = budget_of_machines(daemon), now = ob_now_ns();
	bool is_short = guaranteed > budget;
	char sum[16], has[16];

	if (is_short == daemon->is_short_of_guarantees || (daemon->guarantees_ns && now < daemon->guarantees_ns + TELL_NS))
		return;
	daemon->is_short_of_guarantees = is_short;
	daemon->guarantees_ns = now;
	ob_size_format(sum, sizeof(sum), guaranteed);
	if (is_short)
		ob_event(OB_EVENT_GUARANTEES_UNMET, NULL, 0,
			 "%s is guaranteed to machines (reservations, and their leasts), the budget is %s%s: each gets a part of its own", sum,
			 ob_size_format(has, sizeof(has), budget), beside_stores(daemon));
	else
		ob_event(OB_EVENT_GUARANTEES_MET, NULL, 0, "the budget has room again for the %s that is guaranteed to machines", sum);
}

static bool is_moving(const struct ob_machine *machine)
{
	if (!machine->link || machine->release != OB_RELEASE_NO)
		return false;
	return !machine->stats_seen || machine->balloon.grace_ns || machine->order != OB_ORDER_NONE ||
	       machine->stats.cost_bytes > machine->limit_bytes ||
	       ob_less(machine->target_bytes, machine->limit_bytes) >= OB_BUDGET_GROW_STEP;
}

static void set_pace(struct ob_daemon *daemon)
{
	bool recent = ob_now_ns() < daemon->stirred_ns + STIR_NS, urgent = false;

	/* Whatever becomes free anywhere is waited for. */
	for (const struct ob_machine *machine = daemon->machines; machine && !urgent; machine = machine->next)
		urgent = machine->state == OB_MACHINE_WAITING || machine->release == OB_RELEASE_RUNNING;
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		if (machine->link)
			ob_link_order_poll(machine, urgent || (recent && is_moving(machine)) ? POLL_BUSY_MS : POLL_IDLE_MS);
}

void ob_arbiter_run(struct ob_daemon *daemon)
{
	size_t n;

	if (daemon->config.budget_bytes == OB_BUDGET_NONE)
		run_without_budget(daemon);
	else
		run_with_budget(daemon);
	n = describe_all(daemon);
	allow_stores(daemon, n);
	tell_of_guarantees(daemon, n);
	set_pace(daemon);
}

void ob_arbiter_kick(struct ob_daemon *daemon)
{
	if (daemon->kick_source)
		sd_event_source_set_enabled(daemon->kick_source, SD_EVENT_ONESHOT);
}

void ob_arbiter_stir(struct ob_daemon *daemon)
{
	daemon->stirred_ns = ob_now_ns();
	ob_arbiter_kick(daemon);
}

/* Whether a machine above its limit comes down: then it is worth watching closely. */
static void note_headway(struct ob_machine *machine)
{
	uint64_t cost = machine->stats.cost_bytes;

	if (cost <= machine->limit_bytes) {
		machine->low_cost_bytes = OB_BUDGET_NONE;
	} else if (machine->low_cost_bytes > cost && machine->low_cost_bytes - cost >= HEADWAY) {
		machine->low_cost_bytes = cost;
		machine->daemon->stirred_ns = machine->stats_ns;
	}
}

void ob_arbiter_stats_came(struct ob_machine *machine)
{
	static const char unreadable[] = "an unreadable page";

	machine->stats_seen = true;
	machine->stats_ns = ob_now_ns();
	if (machine->order == OB_ORDER_CONFIRMED) {
		machine->order = OB_ORDER_NONE;
		machine->exposed_bytes = machine->limit_bytes;
	}
	ob_working_set_note(&machine->working_set, &machine->stats, machine_ceiling(machine), machine->stats_ns);
	note_headway(machine);
	if (machine->stats.degraded & OB_DEGRADED_STOPPED && machine->state == OB_MACHINE_RUNNING) {
		machine->state = OB_MACHINE_STOPPED;
		memcpy(machine->cause, unreadable, sizeof(unreadable));
	}
	ob_api_machine_changed(machine);
	ob_arbiter_kick(machine->daemon);
}

void ob_arbiter_order_answered(struct ob_machine *machine, int status, const char *text)
{
	if (status == 0) {
		machine->order = OB_ORDER_CONFIRMED;
		return;
	}
	if (status == -EINVAL && machine->limit_bytes < OB_BUDGET_LEAST_MAX)
		machine->least_bytes = OB_BUDGET_LEAST_MAX;
	machine->order = OB_ORDER_FAILED;
	machine->retry_ns = ob_now_ns() + RETRY_NS;
	ob_log_limited(OB_LOG_WARNING, "machine \"%s\": its limit could not be set: %s", machine->name,
		       *text ? text : strerror(-status));
}

int ob_arbiter_check_guarantees(struct ob_machine *newcomer, struct ob_error *err)
{
	struct ob_daemon *daemon = newcomer->daemon;
	char own[16], least[16], others[16], sum[16], budget[16];
	struct ob_budget_machine alone;
	uint64_t guaranteed, mine;

	if (daemon->config.budget_bytes == OB_BUDGET_NONE)
		return 0;
	guaranteed = ob_budget_guaranteed(shares_of, describe_all(daemon));
	if (guaranteed <= budget_of_machines(daemon))
		return 0;
	describe(newcomer, &alone);
	mine = ob_budget_floor(&alone);
	return ob_error_set(err, EPERM,
			    "machine \"%s\" does not fit: %s for it (its reservation, at least %s) and %s guaranteed to %u others make "
			    "%s; the budget is %s%s", newcomer->name, ob_size_format(own, sizeof(own), mine),
			    ob_size_format(least, sizeof(least), ob_budget_least(&alone)),
			    ob_size_format(others, sizeof(others), guaranteed - mine), daemon->machine_count - 1,
			    ob_size_format(sum, sizeof(sum), guaranteed), ob_size_format(budget, sizeof(budget), budget_of_machines(daemon)),
			    beside_stores(daemon));
}

int ob_arbiter_check_release(struct ob_machine *machine, struct ob_error *err)
{
	struct ob_daemon *daemon = machine->daemon;
	uint64_t cost = ob_arbiter_released_cost(machine), others = 0;
	char mine[16], rest[16], budget[16];
	size_t n, i = 0;

	if (daemon->config.budget_bytes == OB_BUDGET_NONE)
		return 0;
	n = describe_all(daemon);
	for (const struct ob_machine *at = daemon->machines; i < n; at = at->next, i++)
		if (at != machine)
			others += OB_MIN(ob_budget_guaranteed(&shares_of[i], 1), BYTES_SANE);
	if (cost + others <= budget_of_machines(daemon))
		return 0;
	return ob_error_set(err, EPERM, "machine \"%s\" may cost %s once released; with the %s guaranteed to the others that is more "
			    "than the budget of %s%s", machine->name, ob_size_format(mine, sizeof(mine), cost),
			    ob_size_format(rest, sizeof(rest), others), ob_size_format(budget, sizeof(budget), budget_of_machines(daemon)),
			    beside_stores(daemon));
}

/* As ob_plan_make() would find, if everybody used the one bound or the other. Leaves the machines as they were. */
static size_t at_ease(const struct ob_daemon *daemon, struct ob_plan_question question, uint64_t newcomer_bytes, bool is_high)
{
	const struct ob_machine *machine = daemon->machines;
	size_t most;

	question.newcomer.active_bytes = newcomer_bytes;
	for (size_t i = 0; i < question.n; i++, machine = machine->next)
		shares_of[i].active_bytes = is_high ? machine->working_set.high_bytes : machine->working_set.low_bytes;
	most = ob_plan_at_ease(&question);
	(void)describe_all(daemon);
	return most;
}

const struct ob_budget_machine *ob_arbiter_plan(struct ob_daemon *daemon, const struct ob_arbiter_newcomer *newcomer, size_t count,
						struct ob_plan *ret, struct ob_plan_doubt *ret_doubt)
{
	static struct ob_budget_machine scratch[OB_DAEMON_MACHINES_MAX];
	size_t n = describe_all(daemon);
	const struct ob_plan_question question = {
		.budget_bytes = budget_of_machines(daemon), .tax_percent = daemon->config.idle_tax_percent, .machines = shares_of, .n = n,
		.count = count, .most = OB_DAEMON_MACHINES_MAX - n, .scratch = scratch,
		.newcomer = {
			.role = OB_BUDGET_ORDERED, .shares = newcomer->shares, .reservation_bytes = newcomer->reservation_bytes,
			.maximum_bytes = newcomer->maximum_bytes, .ceiling_bytes = ob_budget_ceiling(newcomer->ram_bytes),
			.wanted_bytes = OB_BUDGET_NONE, .active_bytes = newcomer->uses_bytes,
		},
	};

	*ret_doubt = (struct ob_plan_doubt){
		.low_at_ease = at_ease(daemon, question, newcomer->uses_low_bytes, false),
		.high_at_ease = at_ease(daemon, question, newcomer->uses_high_bytes, true),
	};
	for (size_t i = 0; i < n; i++)
		ret_doubt->unknown += shares_of[i].role != OB_BUDGET_FREE && shares_of[i].active_bytes == OB_BUDGET_NONE;
	ob_plan_make(&question, ret);
	return scratch;
}

static int on_kick(sd_event_source *source, void *context)
{
	ob_arbiter_run(context);
	return 0;
}

static void note_working_set(struct ob_machine *machine, uint64_t now_ns)
{
	if (!machine->link || !machine->stats_seen)
		return;
	ob_working_set_step(&machine->working_set, &machine->stats, machine_ceiling(machine), now_ns);
	if (ob_stall_keeps(&machine->guest.stall, now_ns))
		ob_working_set_keep(&machine->working_set, now_ns);
}

static void note_working_sets(struct ob_daemon *daemon)
{
	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		note_working_set(machine, ob_now_ns());
}

static int on_tick(sd_event_source *source, uint64_t now_us, void *context)
{
	struct ob_daemon *daemon = context;

	note_working_sets(daemon);
	ob_arbiter_run(daemon);
	ob_large_step(daemon);
	ob_shortage_step(daemon);
	ob_machine_means_step(daemon);
	ob_balloon_step(daemon);
	ob_share_tick(daemon);
	ob_api_tick(daemon);
	ob_notify_machines(daemon);
	sd_event_source_set_time_relative(source, TICK_NS / OB_NS_PER_US);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int ob_arbiter_init(struct ob_daemon *daemon, struct ob_error *err)
{
	int r = sd_event_add_defer(daemon->event, &daemon->kick_source, on_kick, daemon);

	if (r >= 0)
		r = sd_event_add_time_relative(daemon->event, &daemon->tick_source, CLOCK_MONOTONIC, TICK_NS / OB_NS_PER_US, 0,
					       on_tick, daemon);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot set up the arbiter's timers");
	/* After everything else that this turn of the loop brings. */
	sd_event_source_set_priority(daemon->kick_source, SD_EVENT_PRIORITY_IDLE);
	daemon->least_bytes = OB_BUDGET_NONE;
	daemon->expected = ob_runtime_count_machines(daemon);
	daemon->settle_until_ns = ob_now_ns() + SETTLE_NS;
	if (daemon->expected)
		ob_log(OB_LOG_INFO, "%u machines of before are expected back", daemon->expected);
	ob_large_step(daemon);
	ob_shortage_step(daemon);
	return 0;
}

void ob_arbiter_close(struct ob_daemon *daemon)
{
	daemon->kick_source = sd_event_source_disable_unref(daemon->kick_source);
	daemon->tick_source = sd_event_source_disable_unref(daemon->tick_source);
}
