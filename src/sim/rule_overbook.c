/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rule of overbookd: its own functions, called as arbiter.c calls them.
 *
 * What is overbookd's: the division, the grants, whether a change is worth an order, working sets, what is guaranteed, what a newcomer
 * needs. What stands here, for arbiter.c and link.c, is when they are called:
 *
 *     reports    of a machine every tick while memory moves to it or from it (there: 50 ms), every second otherwise
 *     orders     are sent in one tick, in force and confirmed in the next. One to shrink counts with the first report after that
 *     newcomers  wait until there is what they need
 *
 * A machine whose cost is not known to overbookd yet counts with all that it could cost. Left out: balloons, stores of
 * shared pages, released machines, agents that are lost.
 */
#include "base/clock.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "sim/rule.h"

#define TICK_NS    (OB_NS_PER_SEC / OB_SIM_TICKS)
#define STIR_TICKS (10u * OB_SIM_TICKS)

static void describe(const struct ob_sim_machine *machine, struct ob_budget_machine *ret)
{
	*ret = (struct ob_budget_machine){
		.role = OB_BUDGET_ORDERED,
		.shares = (uint32_t)machine->load.shares,
		.reservation_bytes = machine->load.reservation_bytes,
		.maximum_bytes = machine->load.limit_bytes,
		.ceiling_bytes = ob_budget_ceiling(machine->load.ram_bytes),
		.limit_bytes = machine->runs ? machine->limit_bytes : 0,
		.exposed_bytes = machine->ordered.exposed_bytes,
		.cost_bytes = machine->ordered.reported_cost_bytes,
		.wanted_bytes = machine->ordered.working_set.wanted_bytes,
		.active_bytes = machine->ordered.working_set.believed_bytes,
	};
	if (machine->runs && !machine->ordered.has_reported)
		ret->exposed_bytes = OB_BUDGET_NONE;
}

static void describe_all(struct ob_sim_host *host)
{
	for (size_t i = 0; i < host->n; i++)
		describe(host->machines[i], &host->scratch[i]);
}

static bool admit(struct ob_sim_host *host, struct ob_sim_machine *machine)
{
	ob_working_set_forget(&machine->ordered.working_set);
	describe_all(host);
	return ob_budget_guaranteed(host->scratch, host->n) <= host->budget_bytes;
}

static void take_report(struct ob_sim_machine *machine)
{
	struct ob_sim_ordered *ordered = &machine->ordered;

	ordered->has_reported = true;
	ordered->reported_cost_bytes = machine->stats.cost_bytes;
	if (ordered->is_confirmed)
		ordered->exposed_bytes = machine->limit_bytes;
	ordered->is_confirmed = false;
	if (ordered->is_sent) {
		ordered->is_sent = false;
		ordered->is_confirmed = true;
	}
}

static void order(struct ob_sim_host *host, struct ob_sim_machine *machine, uint64_t limit_bytes)
{
	struct ob_sim_ordered *ordered = &machine->ordered;

	ordered->exposed_bytes = machine->runs ? OB_MAX(ordered->exposed_bytes, limit_bytes) : limit_bytes;
	ordered->is_sent = machine->runs;
	ordered->is_confirmed = false;
	host->stirred_tick = host->tick;
	ob_sim_order(machine, limit_bytes);
}

static bool is_moving(const struct ob_sim_machine *machine)
{
	const struct ob_sim_ordered *ordered = &machine->ordered;

	return !ordered->has_reported || ordered->is_sent || ordered->is_confirmed ||
	       ordered->reported_cost_bytes > machine->limit_bytes ||
	       ob_less(machine->target_bytes, machine->limit_bytes) >= OB_BUDGET_GROW_STEP;
}

static void set_pace(struct ob_sim_host *host)
{
	bool recent = host->tick < host->stirred_tick + STIR_TICKS, urgent = false;

	for (size_t i = 0; i < host->n && !urgent; i++)
		urgent = !host->machines[i]->runs;
	host->is_busy = false;
	for (size_t i = 0; i < host->n; i++) {
		host->machines[i]->ordered.is_asked_often = urgent || (recent && is_moving(host->machines[i]));
		host->is_busy |= host->machines[i]->ordered.is_asked_often;
	}
}

static void listen_to(struct ob_sim_host *host)
{
	uint64_t now_ns = (host->tick + 1) * TICK_NS;

	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		uint64_t most_bytes = ob_budget_ceiling(machine->load.ram_bytes);

		if (!machine->runs || !(machine->ordered.is_asked_often || ob_sim_is_time(host, 1)))
			continue;
		take_report(machine);
		ob_working_set_note(&machine->ordered.working_set, &machine->stats, most_bytes, now_ns);
		if (ob_sim_is_time(host, 1))
			ob_working_set_step(&machine->ordered.working_set, &machine->stats, most_bytes, now_ns);
	}
}

static void step(struct ob_sim_host *host)
{
	if (!host->is_busy && !ob_sim_is_time(host, 1))
		return;
	listen_to(host);
	describe_all(host);
	ob_budget_divide(host->budget_bytes, host->idle_tax_percent, host->scratch, host->n);
	for (size_t i = 0; i < host->n; i++) {
		host->machines[i]->target_bytes = host->scratch[i].target_bytes;
		if (!host->machines[i]->runs)
			host->scratch[i].urgent_bytes = ob_budget_need(host->scratch[i].target_bytes);
	}
	ob_budget_grant(host->budget_bytes, host->scratch, host->n);
	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		const struct ob_budget_machine *given = &host->scratch[i];

		if (machine->runs ? ob_budget_is_worth_an_order(machine->limit_bytes, given->target_bytes, given->grant_bytes) :
				    given->grant_bytes >= given->urgent_bytes)
			order(host, machine, given->grant_bytes);
	}
	set_pace(host);
}

const struct ob_sim_rule ob_sim_rule_overbook = { "overbook", "as overbookd does", admit, step };
