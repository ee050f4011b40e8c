/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The budget divided on paper. */
#include "test.h"

#include "base/units.h"
#include "daemon/plan.h"

#define MOST 64

static struct ob_budget_machine scratch[2 * MOST];

static struct ob_budget_machine machine(uint64_t ram_mib, uint64_t uses_mib, uint64_t reservation_mib)
{
	return (struct ob_budget_machine){
		.role = OB_BUDGET_ORDERED, .shares = 1000, .maximum_bytes = OB_BUDGET_NONE, .ceiling_bytes = ram_mib * OB_MIB,
		.active_bytes = uses_mib * OB_MIB, .wanted_bytes = OB_BUDGET_NONE, .reservation_bytes = reservation_mib * OB_MIB,
	};
}

static struct ob_plan_question ask(uint64_t budget_mib, const struct ob_budget_machine *machines, size_t n, struct ob_budget_machine newcomer)
{
	return (struct ob_plan_question){
		.budget_bytes = budget_mib * OB_MIB, .tax_percent = 75, .machines = machines, .n = n, .newcomer = newcomer, .most = MOST,
		.scratch = scratch,
	};
}

static struct ob_plan make(uint64_t budget_mib, const struct ob_budget_machine *machines, size_t n, struct ob_budget_machine newcomer,
			   size_t count)
{
	struct ob_plan_question question = ask(budget_mib, machines, n, newcomer);
	struct ob_plan plan;

	question.count = count;
	ob_plan_make(&question, &plan);
	return plan;
}

static size_t at_ease(uint64_t budget_mib, const struct ob_budget_machine *machines, size_t n, struct ob_budget_machine newcomer)
{
	struct ob_plan_question question = ask(budget_mib, machines, n, newcomer);

	return ob_plan_at_ease(&question);
}

/* Two use 200 of 1000, each newcomer 200 more. */
static void what_is_used_decides_who_is_at_ease(void **state)
{
	const struct ob_budget_machine m[2] = { machine(512, 200, 0), machine(512, 200, 0) };
	struct ob_plan plan = make(1000, m, 2, machine(512, 200, 0), 2);

	assert_int_equal(plan.uses_bytes, 800 * OB_MIB);
	assert_int_equal(plan.lacking, 0);
	assert_int_equal(plan.lacks_bytes, 0);
	assert_int_equal(plan.most_at_ease, 3);
	/* 16 MiB each are guaranteed. */
	assert_int_equal(plan.guaranteed_bytes, 4 * OB_BUDGET_LEAST_MAX);
	assert_int_equal(plan.most_admitted, 1000 / 16 - 2);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(scratch[i].target_bytes, 250 * OB_MIB);

	plan = make(1000, m, 2, machine(512, 200, 0), 8);
	assert_int_equal(plan.lacking, 10);
	assert_in_range(plan.lacks_bytes, 1000 * OB_MIB, 1001 * OB_MIB);
	assert_in_range(ob_plan_lacks(&scratch[9]), 100 * OB_MIB, 100 * OB_MIB + OB_BUDGET_GRAIN);
	assert_int_equal(plan.most_at_ease, 3);
	/* Asked for alone, and if they used more. */
	assert_int_equal(at_ease(1000, m, 2, machine(512, 200, 0)), 3);
	assert_int_equal(at_ease(1000, m, 2, machine(512, 300, 0)), 1);
}

static void what_is_reserved_decides_who_is_admitted(void **state)
{
	const struct ob_budget_machine m[1] = { machine(512, 100, 300) };
	struct ob_plan plan = make(1000, m, 1, machine(512, 100, 300), 1);

	assert_int_equal(plan.guaranteed_bytes, 600 * OB_MIB);
	assert_int_equal(plan.most_admitted, 2);
	assert_int_equal(plan.most_at_ease, 2);
	plan = make(1000, m, 1, machine(512, 100, 300), 5);
	assert_int_equal(plan.guaranteed_bytes, 1800 * OB_MIB);
	assert_int_equal(plan.most_admitted, 2);
	/* The present may be too much already. */
	plan = make(200, m, 1, machine(512, 100, 0), 0);
	assert_int_equal(plan.guaranteed_bytes, 300 * OB_MIB);
	assert_int_equal(plan.most_admitted, 0);
	assert_int_equal(plan.most_at_ease, 0);
}

/* It could use all that it has; a released one uses what it costs, and lacks nothing. */
static void what_is_not_known_is_taken_for_all(void **state)
{
	struct ob_budget_machine m[2] = { machine(512, 0, 0), machine(512, 0, 0) };
	struct ob_plan plan;

	m[0].active_bytes = OB_BUDGET_NONE;
	m[1].role = OB_BUDGET_FREE;
	m[1].cost_bytes = 300 * OB_MIB;
	plan = make(1000, m, 2, machine(188, 188, 0), 1);
	assert_int_equal(plan.uses_bytes, 1000 * OB_MIB);
	assert_int_equal(plan.most_at_ease, 1);
	m[0].maximum_bytes = 100 * OB_MIB;
	assert_int_equal(ob_plan_uses(&m[0]), 100 * OB_MIB);
	m[0].maximum_bytes = m[0].ceiling_bytes = OB_BUDGET_NONE;
	plan = make(1000, m, 2, machine(188, 188, 0), 1);
	assert_true(plan.uses_bytes == OB_BUDGET_NONE && plan.most_at_ease == 0);
}

static void nobody_is_here(void **state)
{
	const struct ob_budget_machine none[1] = { 0 };
	struct ob_plan plan = make(1000, none, 0, machine(512, 512, 0), 0);

	assert_int_equal(plan.uses_bytes, 0);
	assert_int_equal(plan.most_at_ease, 1);
	assert_int_equal(plan.most_admitted, 1000 / 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_used_decides_who_is_at_ease),
		cmocka_unit_test(what_is_reserved_decides_who_is_admitted),
		cmocka_unit_test(what_is_not_known_is_taken_for_all),
		cmocka_unit_test(nobody_is_here),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
