/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who gets how much: applies budget.h to the registry, orders limits, and decides how often agents report. */
#ifndef OB_DAEMON_ARBITER_H
#define OB_DAEMON_ARBITER_H

#include "daemon/plan.h"
#include "daemon/registry.h"

int ob_arbiter_init(struct ob_daemon *daemon, struct ob_error *err) OB_MUST_CHECK;
void ob_arbiter_close(struct ob_daemon *daemon);

/* Something has changed: divide again, at the end of this turn of the loop. */
void ob_arbiter_kick(struct ob_daemon *daemon);

/* The same, and watch closely for a while: memory is going to move. */
void ob_arbiter_stir(struct ob_daemon *daemon);

/* Divides at once. */
void ob_arbiter_run(struct ob_daemon *daemon);

/*
 * Whether a newcomer's guarantee fits into the budget beside everybody else's. newcomer is in the registry. Returns 0, or
 * -EPERM with the arithmetic.
 */
int ob_arbiter_check_guarantees(struct ob_machine *newcomer, struct ob_error *err) OB_MUST_CHECK;

/* A machine that there might be. */
struct ob_arbiter_newcomer {
	uint64_t ram_bytes, reservation_bytes, maximum_bytes; /* maximum: OB_BUDGET_NONE */
	uint64_t uses_bytes, uses_low_bytes, uses_high_bytes; /* OB_BUDGET_NONE: not known */
	uint32_t shares;
};

/*
 * What would be if so many of those were added, at most OB_DAEMON_MACHINES_MAX machines in all. Returns everybody as he would be, in the order of the
 * registry, newcomers last; valid until the next call. There is a budget.
 */
const struct ob_budget_machine *ob_arbiter_plan(struct ob_daemon *daemon, const struct ob_arbiter_newcomer *newcomer, size_t count,
						struct ob_plan *ret, struct ob_plan_doubt *ret_doubt);

/* Whether what a machine may cost when it is released leaves the others their guarantees. 0, or -EPERM with the arithmetic. */
int ob_arbiter_check_release(struct ob_machine *machine, struct ob_error *err) OB_MUST_CHECK;

/* Whether machines of before are still expected back, so that nobody is admitted yet. */
bool ob_arbiter_is_settling(const struct ob_daemon *daemon);

/* Whether it can be told a limit, and is to have one. */
bool ob_arbiter_is_orderable(const struct ob_machine *machine);

/* What machines cost and the stores of shared pages take; and what is free of the budget, if there is one. */
uint64_t ob_arbiter_spent(struct ob_daemon *daemon);
uint64_t ob_arbiter_free(struct ob_daemon *daemon);

/* By how much machines could come to cost more, at most. */
uint64_t ob_arbiter_growth(struct ob_daemon *daemon);

/* A machine's RAM as far as it is known, and no more than a host may have. */
uint64_t ob_arbiter_ram(const struct ob_machine *machine);

/* What is set aside for a released machine: all its RAM, since nothing limits it and its engine no longer looks. */
uint64_t ob_arbiter_released_cost(const struct ob_machine *machine);

/* News from a machine's agent: its statistics, and its answer to the limit that was ordered last. */
void ob_arbiter_stats_came(struct ob_machine *machine);
void ob_arbiter_order_answered(struct ob_machine *machine, int status, const char *text);

#endif
