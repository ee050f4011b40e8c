/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/plan.h"

#include <string.h>

#include "base/units.h"

uint64_t ob_plan_uses(const struct ob_budget_machine *machine)
{
	uint64_t most = OB_MIN(machine->maximum_bytes, machine->ceiling_bytes);

	return machine->role == OB_BUDGET_FREE ? machine->cost_bytes : OB_MIN(machine->active_bytes, most);
}

uint64_t ob_plan_lacks(const struct ob_budget_machine *machine)
{
	uint64_t lacks = ob_less(ob_plan_uses(machine), machine->target_bytes);

	return lacks < OB_BUDGET_GRAIN ? 0 : lacks;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? OB_BUDGET_NONE : sum;
}

/* With so many newcomers. */
static void divide(const struct ob_plan_question *question, size_t count, struct ob_plan *ret)
{
	size_t n = question->n + count;

	memcpy(question->scratch, question->machines, question->n * sizeof(*question->scratch));
	for (size_t i = question->n; i < n; i++)
		question->scratch[i] = question->newcomer;
	ob_budget_divide(question->budget_bytes, question->tax_percent, question->scratch, n);
	*ret = (struct ob_plan){ .budget_bytes = question->budget_bytes, .guaranteed_bytes = ob_budget_guaranteed(question->scratch, n) };
	for (size_t i = 0; i < n; i++) {
		uint64_t lacks = ob_plan_lacks(&question->scratch[i]);

		ret->uses_bytes = add(ret->uses_bytes, ob_plan_uses(&question->scratch[i]));
		ret->lacks_bytes = add(ret->lacks_bytes, lacks);
		ret->lacking += lacks > 0;
	}
}

/* The largest number of newcomers of whom it is true; with more of them it never is again. */
static size_t find_most(const struct ob_plan_question *question, int at_ease)
{
	size_t low = 0, high = question->most + 1;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		struct ob_plan plan;

		divide(question, middle, &plan);
		if (plan.guaranteed_bytes <= question->budget_bytes && (!at_ease || !plan.lacking))
			low = middle;
		else
			high = middle;
	}
	return low;
}

size_t ob_plan_at_ease(const struct ob_plan_question *question)
{
	return find_most(question, 1);
}

void ob_plan_make(const struct ob_plan_question *question, struct ob_plan *ret)
{
	size_t admitted = find_most(question, 0), at_ease = find_most(question, 1);

	divide(question, question->count, ret);
	ret->most_admitted = admitted;
	ret->most_at_ease = at_ease;
}
