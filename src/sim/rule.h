/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a rule sees of a host, and what it may do: say how much each machine may cost. Nothing else differs between rules: by
 * which means memory is taken, how fast, and what it costs to bring it back is memory.h's.
 *
 * A rule is called once a tick, and acts when it is its time. It sees what machines have last reported, not the model; and
 * what it orders is in force from the next tick on.
 *
 *     overbook  ob_budget_divide(), ob_budget_grant() and ob_working_set_step(), as overbookd calls them (rule_overbook.c)
 *     static    an equal split, by shares
 *     proxmox   the auto-balloon of Proxmox VE (rule_peers.c, as the others)
 *     mom       the balloon rules of oVirt's MoM
 *     esxi      ESX Server's memory states, and its idle memory tax
 *
 * The peers are written anew from what their makers have published, each with its source, and with what it leaves out.
 */
#ifndef OB_SIM_RULE_H
#define OB_SIM_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/working_set.h"
#include "sim/memory.h"

#define OB_SIM_WATCHED 32u /* engine/active.c: so many pages are watched, each for 16 s */

/* What only the rule `overbook` keeps of a machine: as struct ob_machine of overbookd does. */
struct ob_sim_ordered {
	struct ob_working_set working_set;
	uint64_t exposed_bytes;
	uint64_t reported_cost_bytes;
	bool is_sent, is_confirmed, has_reported, is_asked_often;
};

struct ob_sim_machine {
	uint32_t number, host;
	bool is_here;    /* by the trace */
	bool is_refused; /* not admitted: as if it were not here */
	bool runs;       /* the rule has let it start */
	struct ob_sim_load load;
	struct ob_sim_memory memory;

	/* What a rule sees: */
	struct ob_stats stats; /* as its engine reports; only what is of use to a rule is filled in */
	uint64_t used_bytes;   /* of its RAM, as its guest says: page cache counts */
	/* What it decides: */
	uint64_t limit_bytes;  /* ordered last; OB_SIM_NONE */
	uint64_t target_bytes; /* what it is entitled to; OB_SIM_NONE where the rule knows no such thing */
	struct ob_sim_ordered ordered;
	double planned_bytes; /* of others' rules, during a step */
	bool is_settled;

	/* The simulation's own. */
	uint64_t in_force_bytes, orders;
	float watched[OB_SIM_WATCHED]; /* the engine's samples that nobody has touched yet: where they lie, in parts of the content; 1: none */
	double average[2], weight[2];  /* of those that are judged */
	double faults_pool, faults_store; /* pages */
	double second_progress, evicted_bytes; /* of this second, and in how many ticks of it it ran */
	unsigned second_ticks;
	double progress;             /* sum over its seconds ... */
	uint64_t seconds, wanted_seconds; /* in which it ran, and in which it would have */
};

struct ob_sim_host {
	uint64_t budget_bytes, tick; /* since the beginning */
	struct ob_sim_machine **machines; /* that are here and not refused, in the order in which they came */
	size_t n;
	struct ob_budget_machine *scratch; /* room for n */
	/* `overbook`: the tax on what is not used; memory is moving, and when it last began to. `esxi`: its state. */
	unsigned idle_tax_percent;
	bool is_busy;
	uint64_t stirred_tick;
	int state;
};

struct ob_sim_rule {
	const char *name, *summary;
	/* Whether a machine that has come may stay; NULL: always. It is among the machines already. */
	bool (*admit)(struct ob_sim_host *host, struct ob_sim_machine *machine);
	void (*step)(struct ob_sim_host *host);
};

/* The rule of that name, or NULL; and all of them. */
const struct ob_sim_rule *ob_sim_rule_find(const char *name);
#define OB_SIM_RULES 5u
extern const struct ob_sim_rule *const ob_sim_rules[OB_SIM_RULES];

extern const struct ob_sim_rule ob_sim_rule_overbook, ob_sim_rule_static, ob_sim_rule_proxmox, ob_sim_rule_mom, ob_sim_rule_esxi;

/* For rules: an order, if it differs from the last one; the first one lets a machine start. */
void ob_sim_order(struct ob_sim_machine *machine, uint64_t limit_bytes);

/* What all machines cost, and what is left of the budget. */
double ob_sim_host_cost(const struct ob_sim_host *host);
double ob_sim_host_free(const struct ob_sim_host *host);

/* Whether a tick begins such a period. */
static inline bool ob_sim_is_time(const struct ob_sim_host *host, unsigned seconds)
{
	return host->tick % ((uint64_t)seconds * OB_SIM_TICKS) == 0;
}

#endif
