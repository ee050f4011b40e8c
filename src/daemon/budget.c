/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/budget.h"

#include "base/units.h"

#define MARKS_MIN   OB_MIB
#define MARKS_MAX   (48 * OB_MIB)
#define NEARER      (384 * OB_KIB)
#define LEAST_SHARE 32u /* of what a machine could cost: its tables, and what is read at a time, grow with its RAM */

__extension__ typedef unsigned __int128 wide;

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? OB_BUDGET_NONE : sum;
}

/* part / whole of amount, rounded down; whole is not 0. */
static uint64_t scale(uint64_t amount, uint64_t part, uint64_t whole)
{
	return (uint64_t)((wide)amount * part / whole);
}

/* The most that a machine may be given. */
static uint64_t machine_cap(const struct ob_budget_machine *machine)
{
	return OB_MAX(OB_LIMIT_MIN, OB_MIN(machine->maximum_bytes, machine->ceiling_bytes));
}

uint64_t ob_budget_least(const struct ob_budget_machine *machine)
{
	return OB_MIN(OB_MIN(OB_MAX(machine->ceiling_bytes / LEAST_SHARE, OB_LIMIT_MIN), OB_BUDGET_LEAST_MAX), machine_cap(machine));
}

uint64_t ob_budget_floor(const struct ob_budget_machine *machine)
{
	return OB_MAX(ob_budget_least(machine), OB_MIN(machine->reservation_bytes, machine_cap(machine)));
}

uint64_t ob_budget_marks(uint64_t limit_bytes)
{
	return OB_MIN(OB_MAX(limit_bytes / 24, MARKS_MIN), MARKS_MAX) - NEARER;
}

uint64_t ob_budget_charge(const struct ob_budget_machine *machine)
{
	uint64_t exposed = OB_MAX(machine->exposed_bytes, machine->limit_bytes);

	if (machine->role == OB_BUDGET_FREE)
		return machine->cost_bytes;
	return OB_MAX(OB_MIN(exposed, machine->ceiling_bytes), machine->cost_bytes);
}

uint64_t ob_budget_ceiling(uint64_t ram_bytes)
{
	return ram_bytes ? ram_bytes + ram_bytes / 64 + 4 * OB_MIB : OB_BUDGET_NONE;
}

uint64_t ob_budget_need(uint64_t target_bytes)
{
	return OB_MIN(target_bytes, OB_MAX(OB_BUDGET_URGENT, target_bytes / 4));
}

uint64_t ob_budget_guaranteed(const struct ob_budget_machine *machines, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = add_saturated(sum, machines[i].role == OB_BUDGET_FREE ? machines[i].cost_bytes :
									      ob_budget_floor(&machines[i]));
	return sum;
}

/* The guarantees do not fit into available: everybody gets the least, and what is left in proportion to the guarantee. */
static void divide_scarcity(uint64_t available, struct ob_budget_machine *machines, size_t n)
{
	uint64_t above = 0, rest = available;

	for (size_t i = 0; i < n; i++) {
		if (machines[i].role == OB_BUDGET_FREE)
			continue;
		above = add_saturated(above, ob_budget_floor(&machines[i]) - ob_budget_least(&machines[i]));
		rest = ob_less(rest, ob_budget_least(&machines[i]));
	}
	for (size_t i = 0; i < n; i++) {
		if (machines[i].role == OB_BUDGET_FREE)
			continue;
		machines[i].target_bytes = ob_budget_least(&machines[i]);
		if (above)
			machines[i].target_bytes += scale(rest, ob_budget_floor(&machines[i]) - ob_budget_least(&machines[i]), above);
	}
}

/*
 * What is to be dealt on top of the targets that machines have already is dealt so that everybody pays alike: weight_sum units of
 * weight have `rest` between them. A machine pays for what it uses with all of its shares; what it has beyond that weighs less, by the
 * tax, which leaves it something fixed for what it uses; and when it has all that it can have, nothing weighs. Which of these it is rises
 * with the level, and the level with it.
 */
struct deal {
	unsigned tax_percent;
	bool as_wanted; /* nobody has more than he wants now; else, than he ever could */
	uint64_t rest, weight_sum;
};

/* How much more a machine can have. */
static uint64_t room_of(const struct ob_budget_machine *machine, const struct deal *deal)
{
	uint64_t most = machine_cap(machine);

	if (deal->as_wanted)
		most = OB_MAX(ob_budget_floor(machine), OB_MIN(most, machine->wanted_bytes));
	return ob_less(most, machine->target_bytes);
}

static uint64_t active_above_floor(const struct ob_budget_machine *machine)
{
	if (machine->active_bytes == OB_BUDGET_NONE)
		return OB_BUDGET_NONE;
	return ob_less(machine->active_bytes, ob_budget_floor(machine));
}

static uint64_t fixed_part(const struct ob_budget_machine *machine, const struct deal *deal)
{
	if (machine->stage == OB_BUDGET_FULL)
		return room_of(machine, deal);
	return machine->stage == OB_BUDGET_IDLE ? scale(active_above_floor(machine), deal->tax_percent, 100) : 0;
}

static uint64_t weight_of(const struct ob_budget_machine *machine, const struct deal *deal)
{
	if (machine->stage == OB_BUDGET_FULL)
		return 0;
	return (uint64_t)machine->shares * (machine->stage == OB_BUDGET_IDLE ? 100 - deal->tax_percent : 100);
}

static uint64_t part_of(const struct ob_budget_machine *machine, const struct deal *deal)
{
	uint64_t weight = weight_of(machine, deal);

	return fixed_part(machine, deal) + (weight ? scale(deal->rest, weight, deal->weight_sum) : 0);
}

static void weigh(uint64_t rest, const struct ob_budget_machine *machines, size_t n, struct deal *deal)
{
	deal->rest = rest;
	deal->weight_sum = 0;
	for (size_t i = 0; i < n; i++) {
		if (machines[i].role == OB_BUDGET_FREE)
			continue;
		deal->rest = ob_less(deal->rest, fixed_part(&machines[i], deal));
		deal->weight_sum += weight_of(&machines[i], deal);
	}
}

/* Moves on those who would get more than their stage is for. Returns whether there was one. */
static bool raise_stages(const struct deal *deal, struct ob_budget_machine *machines, size_t n)
{
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		struct ob_budget_machine *machine = &machines[i];
		uint64_t part;

		if (machine->role == OB_BUDGET_FREE || machine->stage == OB_BUDGET_FULL)
			continue;
		part = part_of(machine, deal);
		if (machine->stage == OB_BUDGET_USED && part > active_above_floor(machine))
			machine->stage = OB_BUDGET_IDLE;
		else if (part > room_of(machine, deal))
			machine->stage = OB_BUDGET_FULL;
		else
			continue;
		any = true;
	}
	return any;
}

/* Deals rest. Returns what is left when everybody has all that he can have. */
static uint64_t deal_out(uint64_t rest, unsigned tax_percent, bool as_wanted, struct ob_budget_machine *machines, size_t n)
{
	struct deal deal = { .tax_percent = tax_percent, .as_wanted = as_wanted };

	for (size_t i = 0; i < n; i++)
		machines[i].stage = OB_BUDGET_USED;
	do
		weigh(rest, machines, n, &deal);
	while (raise_stages(&deal, machines, n));
	for (size_t i = 0; i < n; i++)
		if (machines[i].role != OB_BUDGET_FREE)
			machines[i].target_bytes += part_of(&machines[i], &deal);
	return deal.weight_sum ? 0 : deal.rest;
}

void ob_budget_divide(uint64_t budget_bytes, unsigned tax_percent, struct ob_budget_machine *machines, size_t n)
{
	uint64_t available = budget_bytes, guaranteed = 0, rest;

	for (size_t i = 0; i < n; i++) {
		if (machines[i].role == OB_BUDGET_FREE) {
			available = ob_less(available, machines[i].cost_bytes);
			machines[i].target_bytes = machines[i].cost_bytes;
			continue;
		}
		machines[i].target_bytes = ob_budget_floor(&machines[i]);
		guaranteed = add_saturated(guaranteed, machines[i].target_bytes);
	}
	if (guaranteed > available) {
		divide_scarcity(available, machines, n);
		return;
	}
	rest = deal_out(available - guaranteed, tax_percent, true, machines, n);
	/* Nobody lacks anything: what is left is room to grow. */
	if (rest)
		deal_out(rest, 0, false, machines, n);
	for (size_t i = 0; i < n; i++) {
		struct ob_budget_machine *machine = &machines[i];

		if (machine->role != OB_BUDGET_FREE && machine->target_bytes < machine_cap(machine))
			machine->target_bytes = OB_MAX(ob_budget_floor(machine),
						       machine->target_bytes - machine->target_bytes % OB_BUDGET_GRAIN);
	}
}

uint64_t ob_budget_lack(const struct ob_budget_machine *machines, size_t n)
{
	uint64_t lack = 0;

	for (size_t i = 0; i < n; i++)
		if (machines[i].role == OB_BUDGET_ORDERED && machines[i].active_bytes != OB_BUDGET_NONE)
			lack = add_saturated(lack, ob_less(OB_MIN(OB_MIN(machines[i].active_bytes, machines[i].wanted_bytes), machine_cap(&machines[i])),
							   machines[i].target_bytes));
	return lack;
}

/* What a machine lacks of want, counted from what is set aside for it already. */
static uint64_t machine_lack(const struct ob_budget_machine *machine, uint64_t charge, uint64_t want)
{
	if (machine->role != OB_BUDGET_ORDERED)
		return 0;
	return ob_less(want, OB_MAX(charge, machine->grant_bytes));
}

/* How far a machine is served in the given pass: first what is urgent, then everything. */
static uint64_t machine_want(const struct ob_budget_machine *machine, int urgent_only)
{
	if (!urgent_only)
		return machine->target_bytes;
	return OB_MIN(machine->target_bytes, OB_MAX(ob_budget_floor(machine), machine->urgent_bytes));
}

/* Deals what is free in proportion to what each one lacks. Returns what is left. */
static uint64_t deal_by_lack(uint64_t free_bytes, struct ob_budget_machine *machines, size_t n, int urgent_only)
{
	uint64_t lack = 0, given = 0;

	for (size_t i = 0; i < n; i++)
		lack = add_saturated(lack, machine_lack(&machines[i], ob_budget_charge(&machines[i]),
							machine_want(&machines[i], urgent_only)));
	for (size_t i = 0; i < n; i++) {
		struct ob_budget_machine *machine = &machines[i];
		uint64_t charge = ob_budget_charge(machine), want = machine_want(machine, urgent_only);
		uint64_t mine = machine_lack(machine, charge, want), base = OB_MAX(charge, machine->grant_bytes);

		if (machine->role != OB_BUDGET_ORDERED || machine->grant_bytes >= want)
			continue;
		if (mine && free_bytes < lack)
			mine = scale(free_bytes, mine, lack);
		given += mine;
		machine->grant_bytes = OB_MIN(want, base + mine);
	}
	return ob_less(free_bytes, given);
}

uint64_t ob_budget_grant(uint64_t budget_bytes, struct ob_budget_machine *machines, size_t n)
{
	uint64_t charged = 0, free_bytes;

	for (size_t i = 0; i < n; i++) {
		struct ob_budget_machine *machine = &machines[i];

		machine->grant_bytes = machine->limit_bytes;
		if (machine->role == OB_BUDGET_FREE)
			machine->grant_bytes = OB_BUDGET_NONE;
		else if (machine->role == OB_BUDGET_ORDERED)
			machine->grant_bytes = OB_MIN(machine->limit_bytes, machine->target_bytes);
		charged = add_saturated(charged, ob_budget_charge(machine));
	}
	/* What is set aside above the budget may be an overestimate: nobody may grow even within his own part of it. */
	if (charged > budget_bytes)
		return 0;
	free_bytes = budget_bytes - charged;
	free_bytes = deal_by_lack(free_bytes, machines, n, 1);
	return deal_by_lack(free_bytes, machines, n, 0);
}

bool ob_budget_is_worth_an_order(uint64_t limit_bytes, uint64_t target_bytes, uint64_t grant_bytes)
{
	uint64_t step = ob_less(grant_bytes, limit_bytes);

	return grant_bytes < limit_bytes || step >= OB_BUDGET_GROW_STEP || (step && grant_bytes == target_bytes);
}

uint64_t ob_budget_store_want(uint64_t used_bytes, bool hungry)
{
	if (!used_bytes && !hungry)
		return 0;
	return (used_bytes + OB_BUDGET_STORE_AHEAD + OB_BUDGET_STORE_STEP - 1) / OB_BUDGET_STORE_STEP * OB_BUDGET_STORE_STEP;
}

static uint64_t charge_sum(const struct ob_budget_machine *machines, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = add_saturated(sum, ob_budget_charge(&machines[i]));
	return sum;
}

uint64_t ob_budget_store_allow(uint64_t budget_bytes, uint64_t used_bytes, uint64_t want_bytes,
			       const struct ob_budget_machine *machines, size_t n)
{
	uint64_t room = ob_less(budget_bytes, charge_sum(machines, n));

	room = OB_MIN(room, want_bytes);
	return OB_MAX(room, used_bytes);
}

uint64_t ob_budget_store_advance(uint64_t budget_bytes, uint64_t used_bytes, uint64_t want_bytes,
				 const struct ob_budget_machine *machines, size_t n, uint64_t *least_bytes)
{
	uint64_t sum = add_saturated(charge_sum(machines, n), used_bytes), doubled = add_saturated(sum, used_bytes), most;
	uint64_t guaranteed = ob_budget_guaranteed(machines, n), rest = ob_less(budget_bytes, guaranteed);

	if (sum <= budget_bytes) {
		*least_bytes = OB_BUDGET_NONE;
		return used_bytes;
	}
	*least_bytes = OB_MIN(*least_bytes, doubled);
	most = add_saturated(*least_bytes, 2 * OB_BUDGET_STORE_ADVANCE);
	most = used_bytes + ob_less(most, doubled) / 2;
	most = OB_MIN(most, OB_MIN(want_bytes, rest));
	return OB_MAX(most, used_bytes);
}
