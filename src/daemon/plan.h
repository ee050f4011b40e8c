/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What would become of everybody if machines were added: the budget, divided on paper. Pure functions on arrays: no clock, no I/O.
 *
 * A machine lacks what it uses (working_set.h; all that it could have while that is not known) and would not be entitled to. Who would
 * lack something is not refused: it would be evicted, and come back, as it is used. What would be shared is not foreseen, nor what balloons would give.
 *
 * How sure the answer is, is asked by asking again: with the least, and with the most, that everybody may use (ob_plan_at_ease).
 */
#ifndef OB_DAEMON_PLAN_H
#define OB_DAEMON_PLAN_H

#include "daemon/budget.h"

struct ob_plan_question {
	uint64_t budget_bytes;
	unsigned tax_percent;
	const struct ob_budget_machine *machines; /* those that are here */
	size_t n;
	struct ob_budget_machine newcomer; /* each of those that would be added */
	size_t count, most;                /* of them; how many there could be at most, no less */
	struct ob_budget_machine *scratch; /* room for n + most */
};

struct ob_plan {
	uint64_t budget_bytes;     /* that was divided */
	uint64_t guaranteed_bytes; /* to all, newcomers included; above the budget: they would not be admitted */
	uint64_t uses_bytes;       /* all of them together; saturates */
	uint64_t lacks_bytes;      /* sum over all */
	size_t lacking;            /* machines that lack something */
	size_t most_admitted;      /* newcomers, by what is guaranteed */
	size_t most_at_ease;       /* newcomers with whom nobody lacks anything */
};

/* How sure a plan is. */
struct ob_plan_doubt {
	size_t unknown; /* machines that are here of which it is not known what they use: they are taken to use all that they could have */
	size_t low_at_ease, high_at_ease; /* as most_at_ease, if all use the least, and the most, that may be (working_set.h) */
};

/* On return the first n + count of question->scratch are as they would be, target_bytes included. */
void ob_plan_make(const struct ob_plan_question *question, struct ob_plan *ret);

/* plan.most_at_ease alone. question->scratch is anything afterwards. */
size_t ob_plan_at_ease(const struct ob_plan_question *question);

/* What a machine uses of what it could have, and how much of that it is not entitled to (target_bytes); by less than a grain does not count. */
uint64_t ob_plan_uses(const struct ob_budget_machine *machine);
uint64_t ob_plan_lacks(const struct ob_budget_machine *machine);

#endif
