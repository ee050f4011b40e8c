/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rules of others, from what they have published, with our means in the place of theirs: a balloon's size is a limit here.
 * So a guest that is told to give more than it has unused loses its coldest memory, where a real balloon makes it drop its
 * page cache and swap by itself; and where a rule lets all machines together cost more than the host has, the host swaps
 * (sim.c).
 *
 * static   Each machine may cost its part of the budget by its shares among those that are here; where that is more than its
 *          RAM or its limit the rest lies idle. Reservations play no part.
 *
 * proxmox  Proxmox VE's auto-ballooning, pve-manager's PVE/AutoBalloon.pm and PVE/Service/pvestatd.pm. Every 10 s, 80% of
 *          the host's memory less what is used is to be given, or taken where it is negative; up to 10 MiB nothing is done.
 *          Machines under pressure (less free than a quarter of their least) get first, the others give first; where that
 *          moves nothing, all of them. Each is led towards its least plus its part, by shares, of what the group has above
 *          its least, by 100 MiB at most in a cycle. The least, which there a user sets, is the reservation here, or where
 *          there is none a quarter of the RAM: without one a machine takes no part there. Left out: machines with shares of
 *          0, and those that migrate.
 *
 * mom      oVirt's MoM, doc/balloon.rules, to the letter. Every 10 s. With less than 20% of the host free each guest shrinks
 *          by 5%, else it grows by 5%. It has a floor: the lesser of its least and what it uses plus 20% of its size scaled by
 *          the pressure (at 5% free: minus 5%, which makes it swap). The rules take the lesser one, so that a guest without a
 *          least has no floor at all. Changes below 0.25% are none. The least is the reservation. Left out: averages over
 *          several samples, KSM.
 *
 * esxi     ESX Server. States by free memory as fractions of minFree, the sliding scale (largepages/host.h): high is about 400%,
 *          clear 100%, soft below 64%, hard below 32%, low below 16% (yellow-bricks.com on vSphere 6). The idle memory tax of 75%
 *          (Waldspurger, OSDI 2002, section 5.2): memory is taken from who pays least a page, shares / (memory x (active +
 *          idle / (1 - tax))), down to its reservation. Above soft nobody is limited. In soft so much is taken in a second
 *          as a balloon could take (1/16 of the RAM of each machine), until minFree is free; in hard and low without that
 *          bound; in low nobody grows. From what has been taken from a machine it is free again above soft. A state is left
 *          upwards with an eighth of minFree more than it takes to get there: the product's bounds are not public. Left out:
 *          page sharing and large pages (so high and clear are one), admission, the product's own sample of what is active (it
 *          sees what our engine samples), and how it moves memory between machines while there is enough.
 */
#include <string.h>

#include "base/units.h"
#include "daemon/budget.h"
#include "largepages/host.h"
#include "sim/rule.h"

#define PROXMOX_PERIOD  10u
#define PROXMOX_TARGET  0.8
#define PROXMOX_LEAST   (10.0 * (1 << 20))
#define PROXMOX_STEP    (100.0 * (1 << 20))
#define MOM_PERIOD      10u
#define MOM_PRESSURE    0.20
#define MOM_CRITICAL    0.05
#define MOM_GUEST_FREE  0.20
#define MOM_STEP        0.05
#define MOM_WORTH       0.0025
#define ESXI_TAX        0.75
#define ESXI_PIECE      (4.0 * (1 << 20)) /* is taken from one machine before the next is asked for */
#define ESXI_BALLOON    16.0

/* The most that a machine may ever be given. */
static double cap_of(const struct ob_sim_machine *machine)
{
	return (double)OB_MIN(machine->load.limit_bytes, ob_budget_ceiling(machine->load.ram_bytes));
}

static void order(struct ob_sim_machine *machine, double bytes)
{
	double cap = cap_of(machine);

	bytes = bytes > cap ? cap : bytes < (double)OB_LIMIT_MIN ? (double)OB_LIMIT_MIN : bytes;
	ob_sim_order(machine, (uint64_t)bytes);
}

static double now_of(const struct ob_sim_machine *machine)
{
	return (double)OB_MIN(machine->limit_bytes, machine->load.ram_bytes);
}

/* Machines start with all of their RAM. */
static void start_all(struct ob_sim_host *host)
{
	for (size_t i = 0; i < host->n; i++)
		if (!host->machines[i]->runs)
			order(host->machines[i], cap_of(host->machines[i]));
}

/* --- static --- */

static void step_static(struct ob_sim_host *host)
{
	double shares = 0;

	for (size_t i = 0; i < host->n; i++)
		shares += (double)host->machines[i]->load.shares;
	for (size_t i = 0; i < host->n; i++)
		order(host->machines[i], (double)host->budget_bytes * (double)host->machines[i]->load.shares / shares);
}

const struct ob_sim_rule ob_sim_rule_static = { "static", "an equal split by shares", NULL, step_static };

/* --- proxmox --- */

static double proxmox_least(const struct ob_sim_machine *machine)
{
	const struct ob_sim_load *load = &machine->load;

	return (double)(load->reservation_bytes ? OB_MAX(load->reservation_bytes, OB_LIMIT_MIN) : OB_MAX(load->ram_bytes / 4, OB_LIMIT_MIN));
}

static bool proxmox_has_enough(const struct ob_sim_machine *machine)
{
	double free_bytes = now_of(machine) - (double)machine->used_bytes;

	return free_bytes > proxmox_least(machine) * 0.25;
}

enum proxmox_group { PROXMOX_ALL, PROXMOX_PRESSED, PROXMOX_AT_EASE };

static bool proxmox_is_in(const struct ob_sim_machine *machine, enum proxmox_group group)
{
	return group == PROXMOX_ALL || proxmox_has_enough(machine) == (group == PROXMOX_AT_EASE);
}

/* What one should have, of so much for each of its shares above its least. */
static double proxmox_wanted(const struct ob_sim_machine *machine, double for_each_share)
{
	double least = proxmox_least(machine), above = (double)(int64_t)(for_each_share * (double)machine->load.shares);

	return OB_MIN(OB_MAX(least + above, least), (double)machine->load.ram_bytes);
}

/*
 * One division of what is to be given or taken among a group; what is left of it is in *rest. A machine that is where it should be, or
 * should have more while memory is taken, has no part in the divisions that follow, and keeps what an earlier one has planned for it. Returns
 * whether any plan has changed.
 */
static bool proxmox_round(struct ob_sim_host *host, enum proxmox_group group, double *rest, bool grows)
{
	double shares = 0, above = *rest;
	bool any = false;

	for (size_t i = 0; i < host->n; i++) {
		const struct ob_sim_machine *machine = host->machines[i];

		if (machine->is_settled || !proxmox_is_in(machine, group))
			continue;
		shares += (double)machine->load.shares;
		above += machine->planned_bytes - proxmox_least(machine);
	}
	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		double now = now_of(machine), wanted, next;

		if (machine->is_settled || !proxmox_is_in(machine, group))
			continue;
		wanted = proxmox_wanted(machine, above / shares);
		machine->is_settled = wanted == now || (wanted > now && !grows);
		if (machine->is_settled)
			continue;
		next = wanted > now ? OB_MIN(wanted, now + PROXMOX_STEP) : OB_MAX(wanted, now - PROXMOX_STEP);
		any |= next != machine->planned_bytes;
		*rest -= next - machine->planned_bytes;
		machine->planned_bytes = next;
	}
	return any;
}

/* Returns what is left to be given or taken. */
static double proxmox_change(struct ob_sim_host *host, enum proxmox_group group, double goal)
{
	double rest = goal;

	for (size_t i = 0; i < host->n; i++)
		host->machines[i]->is_settled = false;
	/* Without another one settled a round would plan what the one before has. */
	for (size_t round = 0; round <= host->n + 1 && rest != 0; round++)
		if (!proxmox_round(host, group, &rest, goal > 0))
			break;
	return rest;
}

static void step_proxmox(struct ob_sim_host *host)
{
	double goal = (double)host->budget_bytes * PROXMOX_TARGET - ob_sim_host_cost(host), rest;

	start_all(host);
	if (!ob_sim_is_time(host, PROXMOX_PERIOD) || (goal <= PROXMOX_LEAST && goal >= -PROXMOX_LEAST))
		return;
	for (size_t i = 0; i < host->n; i++)
		host->machines[i]->planned_bytes = now_of(host->machines[i]);
	rest = proxmox_change(host, goal > 0 ? PROXMOX_PRESSED : PROXMOX_AT_EASE, goal);
	if (goal > 0 ? rest >= goal : rest <= goal)
		proxmox_change(host, PROXMOX_ALL, rest);
	for (size_t i = 0; i < host->n; i++)
		order(host->machines[i], host->machines[i]->planned_bytes);
}

const struct ob_sim_rule ob_sim_rule_proxmox = { "proxmox", "the auto-balloon of Proxmox VE", NULL, step_proxmox };

/* --- mom --- */

static void mom_order(struct ob_sim_machine *machine, double size)
{
	double now = now_of(machine), change = size > now ? size - now : now - size;

	if (change > MOM_WORTH * now)
		order(machine, size);
}

static double mom_floor(const struct ob_sim_machine *machine, double free_part)
{
	return OB_MIN((double)machine->load.reservation_bytes, (double)machine->used_bytes + free_part * now_of(machine));
}

static void step_mom(struct ob_sim_host *host)
{
	double free_part = ob_sim_host_free(host) / (double)host->budget_bytes, guest_free_part;

	start_all(host);
	if (!ob_sim_is_time(host, MOM_PERIOD))
		return;
	guest_free_part = free_part <= MOM_CRITICAL ? free_part - 0.05 : MOM_GUEST_FREE * (free_part / MOM_PRESSURE);
	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		double now = now_of(machine);

		if (free_part < MOM_PRESSURE) {
			double size = OB_MAX(now * (1 - MOM_STEP), mom_floor(machine, guest_free_part));

			if (size <= now)
				mom_order(machine, size);
		} else if (now < (double)machine->load.ram_bytes) {
			mom_order(machine, OB_MAX(now * (1 + MOM_STEP), mom_floor(machine, MOM_GUEST_FREE)));
		}
	}
}

const struct ob_sim_rule ob_sim_rule_mom = { "mom", "the balloon rules of oVirt's MoM", NULL, step_mom };

/* --- esxi --- */

enum esxi_state { ESXI_HIGH, ESXI_SOFT, ESXI_HARD, ESXI_LOW };

/* By what is free, in hundredths of minFree. Up only with an eighth of minFree more than down. */
static enum esxi_state esxi_state(enum esxi_state before, double free_percent)
{
	static const double below[] = { [ESXI_SOFT] = 64, [ESXI_HARD] = 32, [ESXI_LOW] = 16 };
	enum esxi_state state = ESXI_HIGH;

	for (int at = ESXI_SOFT; at <= ESXI_LOW; at++)
		if (free_percent < below[at] + ((int)before >= at ? 12.5 : 0))
			state = (enum esxi_state)at;
	return state;
}

/* What it pays a byte: the less it pays, the sooner memory is taken from it. */
static double esxi_pays(const struct ob_sim_machine *machine, double bytes)
{
	double active = machine->stats.active_samples ? OB_MIN((double)machine->stats.active_bytes, bytes) : bytes;

	return (double)machine->load.shares / (active + (bytes - active) / (1 - ESXI_TAX));
}

static double esxi_floor(const struct ob_sim_machine *machine, enum esxi_state state)
{
	double least = (double)OB_MAX(machine->load.reservation_bytes, OB_LIMIT_MIN), cost = (double)machine->stats.cost_bytes;
	double ballooned = (double)machine->load.ram_bytes / ESXI_BALLOON;

	return state == ESXI_SOFT ? OB_MAX(least, cost - ballooned) : least;
}

/* Takes so much from those who pay least, a piece at a time. */
static void esxi_take(struct ob_sim_host *host, enum esxi_state state, double wanted)
{
	for (size_t i = 0; i < host->n; i++)
		host->machines[i]->planned_bytes = (double)host->machines[i]->stats.cost_bytes;
	while (wanted > 0) {
		struct ob_sim_machine *poorest = NULL;
		double pays = 0;

		for (size_t i = 0; i < host->n; i++) {
			struct ob_sim_machine *machine = host->machines[i];
			double its = esxi_pays(machine, machine->planned_bytes);

			if (machine->planned_bytes - ESXI_PIECE < esxi_floor(machine, state) || (poorest && its >= pays))
				continue;
			poorest = machine;
			pays = its;
		}
		if (!poorest)
			break;
		poorest->planned_bytes -= ESXI_PIECE;
		wanted -= ESXI_PIECE;
	}
}

static void step_esxi(struct ob_sim_host *host)
{
	double min_free = (double)ob_large_min_free(host->budget_bytes), free_bytes = ob_sim_host_free(host);
	enum esxi_state state;

	start_all(host);
	if (!ob_sim_is_time(host, 1))
		return;
	state = esxi_state((enum esxi_state)host->state, 100 * free_bytes / min_free);
	host->state = (int)state;
	if (state != ESXI_HIGH)
		esxi_take(host, state, min_free - free_bytes);
	for (size_t i = 0; i < host->n; i++) {
		struct ob_sim_machine *machine = host->machines[i];
		bool taken_from = state != ESXI_HIGH && machine->planned_bytes < (double)machine->stats.cost_bytes;

		if (taken_from)
			order(machine, machine->planned_bytes);
		else if (state == ESXI_LOW)
			order(machine, OB_MIN((double)machine->stats.cost_bytes, now_of(machine)));
		else if (state == ESXI_HIGH)
			order(machine, cap_of(machine));
	}
}

const struct ob_sim_rule ob_sim_rule_esxi = { "esxi", "ESX Server's memory states and idle memory tax", NULL, step_esxi };

/* --- all of them --- */

const struct ob_sim_rule *const ob_sim_rules[OB_SIM_RULES] = {
	&ob_sim_rule_overbook, &ob_sim_rule_static, &ob_sim_rule_proxmox, &ob_sim_rule_mom, &ob_sim_rule_esxi,
};

const struct ob_sim_rule *ob_sim_rule_find(const char *name)
{
	for (size_t i = 0; i < OB_SIM_RULES; i++)
		if (!strcmp(ob_sim_rules[i]->name, name))
			return ob_sim_rules[i];
	return NULL;
}
