/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The division of the budget: a few cases by hand, and properties that must hold for any machines. */
#include "test.h"

#include <string.h>

#include "base/units.h"
#include "daemon/budget.h"

#define N_MAX 12
#define TAX   75u

static struct ob_budget_machine machine(uint64_t ram_mib, uint64_t limit_mib, uint64_t cost_mib)
{
	return (struct ob_budget_machine){
		.role = OB_BUDGET_ORDERED, .shares = 1000, .maximum_bytes = OB_BUDGET_NONE, .ceiling_bytes = ram_mib * OB_MIB,
		.limit_bytes = limit_mib * OB_MIB, .exposed_bytes = limit_mib * OB_MIB, .cost_bytes = cost_mib * OB_MIB,
		.active_bytes = OB_BUDGET_NONE, .wanted_bytes = OB_BUDGET_NONE,
	};
}

static void the_rest_follows_shares_and_flows_over(void **state)
{
	struct ob_budget_machine m[3] = { machine(2048, 16, 0), machine(2048, 16, 0), machine(2048, 16, 0) };

	m[0].reservation_bytes = 216 * OB_MIB;
	m[1].shares = 3000;
	ob_budget_divide(748 * OB_MIB, 0, m, 2);
	/* 748 - 216 - 16 = 516: a quarter and three quarters. */
	assert_int_equal(m[0].target_bytes, (216 + 129) * OB_MIB);
	assert_int_equal(m[1].target_bytes, (16 + 387) * OB_MIB);

	m[1].maximum_bytes = 103 * OB_MIB;
	ob_budget_divide(748 * OB_MIB, 0, m, 2);
	assert_int_equal(m[1].target_bytes, 103 * OB_MIB);
	assert_int_equal(m[0].target_bytes, 645 * OB_MIB);

	m[2].role = OB_BUDGET_FREE;
	m[2].cost_bytes = 100 * OB_MIB;
	ob_budget_divide(748 * OB_MIB, 0, m, 3);
	assert_int_equal(m[0].target_bytes, 545 * OB_MIB);
	assert_int_equal(m[2].target_bytes, 100 * OB_MIB);
}

static void idle_memory_is_dearer(void **state)
{
	struct ob_budget_machine m[2] = { machine(4096, 16, 0), machine(4096, 16, 0) };

	m[0].active_bytes = (16 + 100) * OB_MIB;
	ob_budget_divide((32 + 1000) * OB_MIB, 75, m, 2);
	/* 100 MiB are used, and 160 idle at four times the price: 740, as the other pays for what it uses. */
	assert_int_equal(m[0].target_bytes, (16 + 260) * OB_MIB);
	assert_int_equal(m[1].target_bytes, (16 + 740) * OB_MIB);
	ob_budget_divide((32 + 1000) * OB_MIB, 0, m, 2);
	assert_int_equal(m[0].target_bytes, (16 + 500) * OB_MIB);

	/* Where nobody uses what there is, all of it is dealt all the same. */
	m[1].active_bytes = (16 + 100) * OB_MIB;
	ob_budget_divide((32 + 1000) * OB_MIB, 75, m, 2);
	assert_int_equal(m[0].target_bytes, (16 + 500) * OB_MIB);
	assert_int_equal(m[1].target_bytes, (16 + 500) * OB_MIB);

	/* What the busy one cannot use the idle one has. */
	m[1].active_bytes = OB_BUDGET_NONE;
	m[1].maximum_bytes = (16 + 300) * OB_MIB;
	ob_budget_divide((32 + 1000) * OB_MIB, 75, m, 2);
	assert_int_equal(m[1].target_bytes, (16 + 300) * OB_MIB);
	assert_int_equal(m[0].target_bytes, (16 + 700) * OB_MIB);

	/* A reservation is not taxed. */
	m[1].maximum_bytes = OB_BUDGET_NONE;
	m[0].reservation_bytes = 616 * OB_MIB;
	ob_budget_divide((632 + 400) * OB_MIB, 75, m, 2);
	assert_int_equal(m[0].target_bytes, (616 + 80) * OB_MIB);
	assert_int_equal(m[1].target_bytes, (16 + 320) * OB_MIB);
}

/* A 32nd, between its bounds and the machine's own. */
static void the_least_is_less_of_small_machines(void **state)
{
	static const struct {
		uint64_t ram_mib, least_mib;
	} cases[] = { { 64, 8 }, { 256, 8 }, { 320, 10 }, { 512, 16 }, { 1 << 20, 16 } };
	struct ob_budget_machine m = machine(2048, 16, 0);

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		m.ceiling_bytes = cases[i].ram_mib * OB_MIB;
		assert_int_equal(ob_budget_least(&m), cases[i].least_mib * OB_MIB);
		assert_int_equal(ob_budget_floor(&m), cases[i].least_mib * OB_MIB);
		ob_budget_divide(0, 0, &m, 1);
		assert_int_equal(m.target_bytes, cases[i].least_mib * OB_MIB);
	}
	m.ceiling_bytes = OB_BUDGET_NONE;
	assert_int_equal(ob_budget_least(&m), OB_BUDGET_LEAST_MAX);
	m.maximum_bytes = 9 * OB_MIB;
	assert_int_equal(ob_budget_least(&m), 9 * OB_MIB);
	m.maximum_bytes = OB_MIB;
	assert_int_equal(ob_budget_least(&m), OB_LIMIT_MIN);
}

static void guarantees_that_do_not_fit_shrink_alike(void **state)
{
	struct ob_budget_machine m[2] = { machine(2048, 16, 0), machine(2048, 16, 0) };

	m[0].reservation_bytes = (16 + 300) * OB_MIB;
	m[1].reservation_bytes = (16 + 100) * OB_MIB;
	ob_budget_divide((32 + 200) * OB_MIB, 0, m, 2);
	assert_int_equal(m[0].target_bytes, (16 + 150) * OB_MIB);
	assert_int_equal(m[1].target_bytes, (16 + 50) * OB_MIB);
	ob_budget_divide(OB_MIB, 0, m, 2);
	assert_int_equal(m[0].target_bytes, OB_BUDGET_LEAST_MAX);
}

static void a_newcomer_gets_what_is_free_and_the_rest_when_others_have_shrunk(void **state)
{
	struct ob_budget_machine m[2] = { machine(520, 520, 500), machine(520, 0, 0) };
	uint64_t budget = 768 * OB_MIB;

	m[1].urgent_bytes = 64 * OB_MIB;
	ob_budget_divide(budget, TAX, m, 2);
	assert_int_equal(m[0].target_bytes, 384 * OB_MIB);
	assert_int_equal(ob_budget_grant(budget, m, 2), 0);
	assert_int_equal(m[0].grant_bytes, 384 * OB_MIB);
	assert_int_equal(m[1].grant_bytes, 248 * OB_MIB);

	/* It was told and costs less already, but the old limit may still be in force. */
	m[0].limit_bytes = 384 * OB_MIB;
	m[0].cost_bytes = 300 * OB_MIB;
	ob_budget_grant(budget, m, 2);
	assert_int_equal(m[1].grant_bytes, 248 * OB_MIB);

	m[0].exposed_bytes = 384 * OB_MIB;
	ob_budget_grant(budget, m, 2);
	assert_int_equal(m[1].grant_bytes, 384 * OB_MIB);
}

static void small_growth_is_no_order_and_every_cut_is(void **state)
{
	assert_true(ob_budget_is_worth_an_order(100 * OB_MIB, 200 * OB_MIB, 100 * OB_MIB - 1));
	assert_false(ob_budget_is_worth_an_order(100 * OB_MIB, 200 * OB_MIB, 100 * OB_MIB));
	assert_false(ob_budget_is_worth_an_order(100 * OB_MIB, 200 * OB_MIB, 104 * OB_MIB - 1));
	assert_true(ob_budget_is_worth_an_order(100 * OB_MIB, 200 * OB_MIB, 104 * OB_MIB));
	assert_true(ob_budget_is_worth_an_order(100 * OB_MIB, 101 * OB_MIB, 101 * OB_MIB));
	assert_true(ob_budget_is_worth_an_order(0, 200 * OB_MIB, OB_BUDGET_NONE));
}

static void what_is_urgent_comes_first(void **state)
{
	struct ob_budget_machine m[3] = { machine(1024, 400, 400), machine(1024, 100, 100), machine(1024, 0, 0) };

	m[0].role = OB_BUDGET_FIXED;
	m[2].urgent_bytes = 64 * OB_MIB;
	ob_budget_divide(600 * OB_MIB, TAX, m, 3);
	/* Each of the two that grow is rounded down by less than a byte. */
	assert_in_range(ob_budget_grant(600 * OB_MIB, m, 3), 0, 1);
	assert_int_equal(m[0].grant_bytes, 400 * OB_MIB);
	assert_in_range(m[2].grant_bytes, 64 * OB_MIB, 100 * OB_MIB);
	assert_in_range(m[1].grant_bytes + m[2].grant_bytes, 200 * OB_MIB - 1, 200 * OB_MIB);
}

static void an_unknown_machine_stops_all_growth(void **state)
{
	struct ob_budget_machine m[2] = { machine(520, 100, 90), machine(0, 100, 0) };

	m[1].ceiling_bytes = m[1].exposed_bytes = OB_BUDGET_NONE;
	ob_budget_divide(768 * OB_MIB, TAX, m, 2);
	ob_budget_grant(768 * OB_MIB, m, 2);
	assert_int_equal(m[0].grant_bytes, 100 * OB_MIB);
}

static void needs_and_guarantees(void **state)
{
	struct ob_budget_machine m[2] = { machine(2048, 16, 0), machine(2048, 16, 70) };

	assert_int_equal(ob_budget_need(20 * OB_MIB), 20 * OB_MIB);
	assert_int_equal(ob_budget_need(200 * OB_MIB), 64 * OB_MIB);
	assert_int_equal(ob_budget_need(1024 * OB_MIB), 256 * OB_MIB);
	m[0].reservation_bytes = 100 * OB_MIB;
	m[1].role = OB_BUDGET_FREE;
	assert_int_equal(ob_budget_guaranteed(m, 2), 170 * OB_MIB);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static uint64_t random_bytes(uint64_t *seed, unsigned mib)
{
	return random_next(seed) % (mib * OB_MIB);
}

static struct ob_budget_machine random_machine(uint64_t *seed)
{
	static const uint32_t shares[] = { 1, 1000, 1000, 3000, 1000000 };
	struct ob_budget_machine m = machine(0, 0, 0);
	uint64_t kind = random_next(seed) % 8;

	m.role = kind == 0 ? OB_BUDGET_FREE : kind == 1 ? OB_BUDGET_FIXED : OB_BUDGET_ORDERED;
	m.shares = shares[random_next(seed) % OB_ARRAY_LEN(shares)];
	m.reservation_bytes = random_next(seed) % 3 ? 0 : random_bytes(seed, 400);
	m.maximum_bytes = random_next(seed) % 2 ? OB_BUDGET_NONE : random_bytes(seed, 1024);
	m.ceiling_bytes = random_next(seed) % 6 ? random_bytes(seed, 2048) + 1 : OB_BUDGET_NONE;
	m.limit_bytes = random_next(seed) % 8 ? random_bytes(seed, 1024) : OB_BUDGET_NONE;
	m.exposed_bytes = m.limit_bytes;
	if (random_next(seed) % 3 == 0 && m.limit_bytes != OB_BUDGET_NONE)
		m.exposed_bytes += random_bytes(seed, 512);
	m.cost_bytes = random_bytes(seed, 800);
	m.urgent_bytes = random_next(seed) % 3 ? 0 : random_bytes(seed, 128);
	m.wanted_bytes = random_next(seed) % 2 ? OB_BUDGET_NONE : random_bytes(seed, 1024);
	m.active_bytes = random_next(seed) % 2 ? OB_BUDGET_NONE : random_bytes(seed, 1024);
	return m;
}

static uint64_t sum_saturated(uint64_t a, uint64_t b)
{
	return a + b < a ? UINT64_MAX : a + b;
}

static void check_targets(uint64_t budget, const struct ob_budget_machine *m, size_t n)
{
	uint64_t sum = 0, floors = ob_budget_guaranteed(m, n);

	for (size_t i = 0; i < n; i++) {
		uint64_t cap = OB_MAX(OB_LIMIT_MIN, OB_MIN(m[i].maximum_bytes, m[i].ceiling_bytes));

		sum = sum_saturated(sum, m[i].target_bytes);
		if (m[i].role == OB_BUDGET_FREE)
			continue;
		assert_true(m[i].target_bytes >= ob_budget_least(&m[i]) && m[i].target_bytes <= cap);
		if (floors <= budget)
			assert_true(m[i].target_bytes >= ob_budget_floor(&m[i]));
	}
	if (floors <= budget)
		assert_true(sum <= budget);
}

/* What a machine pays for its part of the rest: an idle byte is as dear as four that are used. */
static uint64_t price(const struct ob_budget_machine *m)
{
	uint64_t part = m->target_bytes - ob_budget_floor(m), active = UINT64_MAX;

	if (m->active_bytes != OB_BUDGET_NONE)
		active = ob_less(m->active_bytes, ob_budget_floor(m));
	return part <= active ? part : active + (part - active) * 100 / (100 - TAX);
}

static uint64_t most_wanted(const struct ob_budget_machine *m)
{
	return OB_MAX(ob_budget_floor(m), OB_MIN(OB_MIN(m->maximum_bytes, m->ceiling_bytes), m->wanted_bytes));
}

/* All pay as much a share, but for those who have all that they want, and pay less; unless everybody has. */
static void check_all_pay_alike(uint64_t budget, const struct ob_budget_machine *m, size_t n)
{
	bool is_short = false;

	if (ob_budget_guaranteed(m, n) > budget)
		return;
	for (size_t i = 0; i < n; i++)
		is_short |= m[i].role != OB_BUDGET_FREE && m[i].target_bytes + OB_BUDGET_GRAIN < most_wanted(&m[i]);
	for (size_t i = 0; is_short && i < n; i++)
		assert_true(m[i].role == OB_BUDGET_FREE || m[i].target_bytes <= OB_MAX(ob_budget_least(&m[i]), most_wanted(&m[i])));
	if (!is_short)
		return;
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++) {
			double mine = (double)price(&m[i]) / m[i].shares, other = (double)price(&m[j]) / m[j].shares;

			if (m[i].role == OB_BUDGET_FREE || m[j].role == OB_BUDGET_FREE || m[j].target_bytes + OB_BUDGET_GRAIN >= most_wanted(&m[j]))
				continue;
			assert_true(mine <= other + 4.0 * (double)(OB_BUDGET_GRAIN + n) / m[j].shares);
		}
	}
}

/* Work-conserving: what nobody has been given is less than a grain each, unless everybody is at the cap. */
static void check_nothing_is_wasted(uint64_t budget, const struct ob_budget_machine *m, size_t n)
{
	uint64_t sum = 0;
	int hungry = 0;

	if (ob_budget_guaranteed(m, n) > budget)
		return;
	for (size_t i = 0; i < n; i++) {
		sum += m[i].target_bytes;
		hungry |= m[i].role != OB_BUDGET_FREE &&
			  m[i].target_bytes < OB_MAX(OB_LIMIT_MIN, OB_MIN(m[i].maximum_bytes, m[i].ceiling_bytes));
	}
	if (hungry)
		assert_true(sum + n * (OB_BUDGET_GRAIN + n) >= budget);
}

static void check_grants(uint64_t budget, const struct ob_budget_machine *m, size_t n, uint64_t free_bytes)
{
	uint64_t before = 0, after = 0, promised = 0;

	for (size_t i = 0; i < n; i++) {
		struct ob_budget_machine next = m[i];

		before = sum_saturated(before, ob_budget_charge(&m[i]));
		next.limit_bytes = m[i].grant_bytes;
		next.exposed_bytes = OB_MAX(m[i].exposed_bytes, m[i].grant_bytes);
		after = sum_saturated(after, ob_budget_charge(&next));
		promised = sum_saturated(promised, m[i].role == OB_BUDGET_FREE ? m[i].cost_bytes :
					 OB_MAX(OB_MIN(m[i].grant_bytes, m[i].ceiling_bytes), m[i].cost_bytes));
		if (m[i].role == OB_BUDGET_FIXED)
			assert_true(m[i].grant_bytes == m[i].limit_bytes);
		if (m[i].role == OB_BUDGET_ORDERED) {
			assert_true(m[i].grant_bytes <= m[i].target_bytes);
			assert_true(m[i].grant_bytes >= OB_MIN(m[i].limit_bytes, m[i].target_bytes));
		}
	}
	/* Orders never take what is set aside above the budget, nor above what it was where it was above it already. */
	assert_true(after <= OB_MAX(budget, before));
	if (before <= budget)
		assert_true(promised <= budget && free_bytes <= budget - before);
	else
		assert_true(free_bytes == 0);
	/* Where more is set aside than there is, nobody grows. */
	for (size_t i = 0; i < n && before > budget; i++)
		assert_true(m[i].role == OB_BUDGET_FREE || m[i].grant_bytes <= m[i].limit_bytes);
}

static void properties_hold_for_any_machines(void **state)
{
	uint64_t seed = 0x9e3779b97f4a7c15ull;

	for (unsigned round = 0; round < 100000; round++) {
		struct ob_budget_machine m[N_MAX];
		size_t n = random_next(&seed) % N_MAX + 1;
		uint64_t budget = OB_LIMIT_MIN + random_bytes(&seed, 4096), free_bytes;

		for (size_t i = 0; i < n; i++)
			m[i] = random_machine(&seed);
		ob_budget_divide(budget, TAX, m, n);
		check_targets(budget, m, n);
		check_all_pay_alike(budget, m, n);
		check_nothing_is_wasted(budget, m, n);
		free_bytes = ob_budget_grant(budget, m, n);
		check_grants(budget, m, n, free_bytes);
	}
}

/* Who wants less than his part leaves the rest to others; what nobody wants is room to grow, by shares. */
static void what_is_not_wanted_is_others(void **state)
{
	struct ob_budget_machine m[3] = { machine(2048, 16, 0), machine(2048, 16, 0), machine(2048, 16, 0) };

	m[0].wanted_bytes = 116 * OB_MIB;
	m[1].wanted_bytes = 1000 * OB_MIB;
	m[2].wanted_bytes = 1000 * OB_MIB;
	ob_budget_divide(1116 * OB_MIB, TAX, m, 3);
	assert_int_equal(m[0].target_bytes, 116 * OB_MIB);
	assert_int_equal(m[1].target_bytes, 500 * OB_MIB);
	assert_int_equal(m[2].target_bytes, 500 * OB_MIB);

	/* An idle one gives nothing while nobody lacks anything. */
	m[0].active_bytes = 0;
	m[1].wanted_bytes = m[2].wanted_bytes = 300 * OB_MIB;
	ob_budget_divide(1016 * OB_MIB, TAX, m, 3);
	assert_int_equal(m[0].target_bytes, 216 * OB_MIB);
	assert_int_equal(m[1].target_bytes, 400 * OB_MIB);
	/* Reservations are kept, wanted or not. */
	m[0].reservation_bytes = 500 * OB_MIB;
	ob_budget_divide(1100 * OB_MIB, TAX, m, 3);
	assert_int_equal(m[0].target_bytes, 500 * OB_MIB);
	assert_int_equal(m[1].target_bytes, 300 * OB_MIB);
}

/* What is used and cannot be had, but not what a machine's own maximum keeps from it, or what is not known. */
static void what_machines_lack_is_told(void **state)
{
	struct ob_budget_machine m[3] = { machine(2048, 16, 0), machine(2048, 16, 0), machine(2048, 16, 0) };

	ob_budget_divide(900 * OB_MIB, TAX, m, 3);
	assert_int_equal(ob_budget_lack(m, 3), 0);
	m[0].active_bytes = 400 * OB_MIB;
	m[1].active_bytes = 500 * OB_MIB;
	m[2].active_bytes = 100 * OB_MIB;
	for (size_t i = 0; i < 3; i++)
		m[i].wanted_bytes = m[i].active_bytes;
	ob_budget_divide(1000 * OB_MIB, TAX, m, 3);
	assert_int_equal(ob_budget_lack(m, 3), 0);
	ob_budget_divide(700 * OB_MIB, TAX, m, 3);
	assert_int_equal(m[2].target_bytes, 100 * OB_MIB);
	assert_in_range(ob_budget_lack(m, 3), 300 * OB_MIB, 301 * OB_MIB);
	m[1].maximum_bytes = 200 * OB_MIB;
	ob_budget_divide(700 * OB_MIB, TAX, m, 3);
	assert_int_equal(ob_budget_lack(m, 3), 0);
}

/* Who has more shares, or uses more, never gets less for it. */
static void more_shares_and_more_use_never_give_less(void **state)
{
	uint64_t seed = 0x243f6a8885a308d3ull;

	for (unsigned round = 0; round < 20000; round++) {
		struct ob_budget_machine m[N_MAX];
		size_t n = random_next(&seed) % N_MAX + 1, i = random_next(&seed) % n;
		uint64_t budget = OB_LIMIT_MIN + random_bytes(&seed, 4096), before;

		for (size_t k = 0; k < n; k++)
			m[k] = random_machine(&seed);
		ob_budget_divide(budget, TAX, m, n);
		before = m[i].target_bytes;
		if (m[i].role == OB_BUDGET_FREE)
			continue;
		if (random_next(&seed) % 2)
			m[i].shares += (uint32_t)(random_next(&seed) % 5000);
		else if (m[i].active_bytes != OB_BUDGET_NONE)
			m[i].active_bytes += random_bytes(&seed, 512);
		ob_budget_divide(budget, TAX, m, n);
		assert_true(m[i].target_bytes + OB_BUDGET_GRAIN >= before);
	}
}

/* Machines that obey reach their targets in a few rounds, and the sum is inside the budget at each step. */
static void obedient_machines_converge(void **state)
{
	uint64_t seed = 0xdeadbeefcafef00dull, budget = 3000 * OB_MIB;

	for (unsigned round = 0; round < 2000; round++) {
		struct ob_budget_machine m[N_MAX];
		size_t n = random_next(&seed) % N_MAX + 1;

		for (size_t i = 0; i < n; i++) {
			m[i] = machine(512 + i * 64, 3000 / n, 3000 / n);
			m[i].shares = 100 + (uint32_t)(random_next(&seed) % 5000);
		}
		for (unsigned step = 0; step < 3; step++) {
			uint64_t sum = 0;

			ob_budget_divide(budget, TAX, m, n);
			ob_budget_grant(budget, m, n);
			for (size_t i = 0; i < n; i++) {
				/* The worst that can happen: everybody costs all that any limit allows. */
				uint64_t worst = OB_MIN(OB_MAX(m[i].limit_bytes, m[i].grant_bytes), m[i].ceiling_bytes);

				m[i].exposed_bytes = OB_MAX(m[i].exposed_bytes, m[i].grant_bytes);
				m[i].limit_bytes = m[i].grant_bytes;
				m[i].cost_bytes = OB_MAX(m[i].cost_bytes, worst);
				sum += m[i].cost_bytes;
			}
			assert_true(sum <= budget);
			for (size_t i = 0; i < n; i++) {
				m[i].exposed_bytes = m[i].limit_bytes;
				m[i].cost_bytes = OB_MIN(m[i].cost_bytes, m[i].limit_bytes);
			}
		}
		for (size_t i = 0; i < n; i++)
			assert_true(m[i].limit_bytes == m[i].target_bytes);
	}
}

static void stores_are_paid_for_first_and_ahead(void **state)
{
	struct ob_budget_machine m[2] = { machine(2048, 100, 80), machine(2048, 100, 100) };

	assert_int_equal(ob_budget_store_want(0, false), 0);
	assert_int_equal(ob_budget_store_want(0, true), 4 * OB_MIB);
	assert_int_equal(ob_budget_store_want(4096, false), 4 * OB_MIB);
	assert_int_equal(ob_budget_store_want(2 * OB_MIB, false), 4 * OB_MIB);
	assert_int_equal(ob_budget_store_want(2 * OB_MIB + 1, false), 8 * OB_MIB);
	/* 256 - 200 are free: all that is wanted. */
	assert_int_equal(ob_budget_store_allow(256 * OB_MIB, 0, 8 * OB_MIB, m, 2), 8 * OB_MIB);
	/* 3 are free; what is used already is a fact. */
	assert_int_equal(ob_budget_store_allow(203 * OB_MIB, OB_MIB, 8 * OB_MIB, m, 2), 3 * OB_MIB);
	assert_int_equal(ob_budget_store_allow(200 * OB_MIB, OB_MIB, 8 * OB_MIB, m, 2), OB_MIB);
	assert_int_equal(ob_budget_store_allow(150 * OB_MIB, 5 * OB_MIB, 8 * OB_MIB, m, 2), 5 * OB_MIB);
	/* A limit that is still in force counts, whatever has been ordered since. */
	m[0].limit_bytes = 50 * OB_MIB;
	assert_int_equal(ob_budget_store_allow(203 * OB_MIB, OB_MIB, 8 * OB_MIB, m, 2), 3 * OB_MIB);
	m[0].exposed_bytes = 50 * OB_MIB;
	assert_int_equal(ob_budget_store_allow(203 * OB_MIB, OB_MIB, 8 * OB_MIB, m, 2), 8 * OB_MIB);
	m[0].exposed_bytes = m[0].limit_bytes = OB_BUDGET_NONE;
	m[0].ceiling_bytes = OB_BUDGET_NONE;
	assert_int_equal(ob_budget_store_allow(UINT64_MAX - 1, 7, 8 * OB_MIB, m, 2), 7);
}

/* As the arbiter does it, round after round, with a store that takes at once whatever it is allowed. */
static void a_store_that_grows_as_it_may_never_exceeds_the_budget(void **state)
{
	enum { BUDGET = 256 };
	struct ob_budget_machine m[3] = { machine(512, 128, 128), machine(512, 100, 100), machine(512, 28, 28) };
	uint64_t used = 0, seed = 88172645463325252ull;

	for (unsigned round = 0; round < 5000; round++) {
		uint64_t want = ob_budget_store_want(used, true), allowed, sum = 0, charged = 0;

		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		ob_budget_divide(BUDGET * OB_MIB - want, TAX, m, 3);
		ob_budget_grant(BUDGET * OB_MIB - want, m, 3);
		for (unsigned i = 0; i < 3; i++) {
			m[i].limit_bytes = m[i].grant_bytes;
			m[i].exposed_bytes = OB_MAX(m[i].exposed_bytes, m[i].limit_bytes);
			/* Some obey now, some later. */
			if (seed >> i & 1) {
				m[i].cost_bytes = m[i].exposed_bytes = m[i].limit_bytes;
			}
			charged += ob_budget_charge(&m[i]);
		}
		allowed = ob_budget_store_allow(BUDGET * OB_MIB, used, want, m, 3);
		assert_true(allowed >= used && allowed <= OB_MAX(want, used));
		used = seed >> 32 & 7 ? allowed : used / 2;
		used = OB_MIN(used, 100 * OB_MIB);
		for (unsigned i = 0; i < 3; i++)
			sum += OB_MAX(m[i].cost_bytes, m[i].exposed_bytes);
		assert_true(sum == charged && sum + used <= BUDGET * OB_MIB);
	}
}

static void above_the_budget_stores_grow_in_advance(void **state)
{
	struct ob_budget_machine m[2] = { machine(2048, 100, 180), machine(2048, 100, 100) };
	uint64_t least = OB_BUDGET_NONE, want = 40 * OB_MIB;

	/* 280 and 10 of 256. */
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 10 * OB_MIB, want, m, 2, &least), 12 * OB_MIB);
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 11 * OB_MIB, want, m, 2, &least), 12 * OB_MIB);
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 12 * OB_MIB, want, m, 2, &least), 12 * OB_MIB);
	/* Half of what is given up: 4 MiB, of which 2 are used. */
	m[0].cost_bytes -= 8 * OB_MIB;
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 12 * OB_MIB, want, m, 2, &least), 14 * OB_MIB);
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 14 * OB_MIB, want, m, 2, &least), 14 * OB_MIB);
	/* Two pages for one: nothing is owed any more. */
	m[0].cost_bytes -= 4 * OB_MIB;
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 14 * OB_MIB, want, m, 2, &least), 16 * OB_MIB);
	/* It is taken up again elsewhere; what is used is a fact. */
	m[1].cost_bytes += 8 * OB_MIB;
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 14 * OB_MIB, want, m, 2, &least), 14 * OB_MIB);
	m[1].cost_bytes -= 8 * OB_MIB;
	/* No more than is wanted, and nothing of what is guaranteed. */
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 14 * OB_MIB, 15 * OB_MIB, m, 2, &least), 15 * OB_MIB);
	m[1].reservation_bytes = 225 * OB_MIB;
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 14 * OB_MIB, want, m, 2, &least), 15 * OB_MIB);
	m[1].reservation_bytes = 0;
	/* Not above the budget: there may be room, but not by this. */
	m[0].cost_bytes = 141 * OB_MIB;
	assert_int_equal(ob_budget_store_advance(256 * OB_MIB, 15 * OB_MIB, want, m, 2, &least), 15 * OB_MIB);
	assert_int_equal(least, OB_BUDGET_NONE);
	/* And above it by another cut: it begins anew. */
	assert_int_equal(ob_budget_store_advance(200 * OB_MIB, 15 * OB_MIB, want, m, 2, &least), 17 * OB_MIB);
	m[0].exposed_bytes = m[0].limit_bytes = m[0].ceiling_bytes = OB_BUDGET_NONE;
	least = OB_BUDGET_NONE;
	assert_int_equal(ob_budget_store_advance(200 * OB_MIB, 15 * OB_MIB, want, m, 2, &least), 15 * OB_MIB);
}

/* A cut, and a store that takes at once whatever it is allowed: whether adoptions give back much or nothing, the budget is kept in the end. */
static void a_store_in_advance_keeps_no_machine_from_coming_down(void **state)
{
	enum { BUDGET = 256, MACHINES = 4, RECLAIMED = OB_MIB };

	for (unsigned equals = 0; equals <= MACHINES; equals++) {
		struct ob_budget_machine m[MACHINES];
		uint64_t used = 0, before = 0, least = OB_BUDGET_NONE, first = MACHINES * 150 * OB_MIB, sum = first;

		for (unsigned i = 0; i < MACHINES; i++)
			m[i] = machine(150, 150, 150);
		for (unsigned round = 0; sum > BUDGET * OB_MIB; round++) {
			uint64_t want = ob_budget_store_want(used, true), given = (used - before) * equals / MACHINES;

			assert_true(round < 1000);
			before = used;
			ob_budget_divide(ob_less(BUDGET * OB_MIB, want), TAX, m, MACHINES);
			ob_budget_grant(ob_less(BUDGET * OB_MIB, want), m, MACHINES);
			for (unsigned i = 0; i < MACHINES; i++) {
				m[i].limit_bytes = m[i].exposed_bytes = m[i].grant_bytes;
				m[i].cost_bytes = ob_less(m[i].cost_bytes, given);
				m[i].cost_bytes = OB_MAX(OB_MIN(m[i].cost_bytes, m[i].limit_bytes), ob_less(m[i].cost_bytes, RECLAIMED));
			}
			used = ob_budget_store_advance(BUDGET * OB_MIB, used, want, m, MACHINES, &least);
			sum = 0;
			for (unsigned i = 0; i < MACHINES; i++)
				sum += ob_budget_charge(&m[i]);
			assert_true(used <= (first - sum) / 2 + OB_BUDGET_STORE_ADVANCE);
			assert_true(used <= BUDGET * OB_MIB - MACHINES * OB_LIMIT_MIN);
			sum += used;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_rest_follows_shares_and_flows_over),
		cmocka_unit_test(idle_memory_is_dearer),
		cmocka_unit_test(what_is_not_wanted_is_others),
		cmocka_unit_test(what_machines_lack_is_told),
		cmocka_unit_test(more_shares_and_more_use_never_give_less),
		cmocka_unit_test(the_least_is_less_of_small_machines),
		cmocka_unit_test(guarantees_that_do_not_fit_shrink_alike),
		cmocka_unit_test(a_newcomer_gets_what_is_free_and_the_rest_when_others_have_shrunk),
		cmocka_unit_test(small_growth_is_no_order_and_every_cut_is),
		cmocka_unit_test(what_is_urgent_comes_first),
		cmocka_unit_test(an_unknown_machine_stops_all_growth),
		cmocka_unit_test(needs_and_guarantees),
		cmocka_unit_test(properties_hold_for_any_machines),
		cmocka_unit_test(obedient_machines_converge),
		cmocka_unit_test(stores_are_paid_for_first_and_ahead),
		cmocka_unit_test(a_store_that_grows_as_it_may_never_exceeds_the_budget),
		cmocka_unit_test(above_the_budget_stores_grow_in_advance),
		cmocka_unit_test(a_store_in_advance_keeps_no_machine_from_coming_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
