/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What overbookd's rule must do on any trace: the real functions of src/daemon on many made-up traces, with seeds that are
 * the same every time, and on one that was recorded of real guests; and whether the rules of others do what they are described to do.
 * Usage: test_sim_rules TRACE.
 *
 * The bounds:
 *
 *     budget        0, where less than a page is no excess (sim.h): what a machine may cost is given to another one only when it
 *                   has been given up, and reported; so there is no window in which machines together cost more
 *     reservation   of a machine that runs, from REACTION seconds on: a newcomer starts with less
 *     entitlement   for REACTION seconds on end at most somebody loses memory below what he is entitled to while another one
 *                   has more than that
 */
#include "test.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "sim_world.h"

#define MACHINES 20u
#define SECONDS  900u
#define SEEDS    4u
#define REACTION 10u
#define RECORDED ((int)OB_SIM_SYNTHETICS) /* one more kind of trace; less than MACHINES and SECONDS are in it */
#define RECORDED_SECONDS 300u
#define RECORDED_IDLE    6u /* a machine of it that is idle most of the time */

static const char *recorded;

static struct sim_world world_of(int kind, uint64_t seed)
{
	if (kind == RECORDED)
		return (struct sim_world){ .trace = recorded, .synthetic = { .seconds = RECORDED_SECONDS, .seed = seed } };
	return (struct sim_world){ .synthetic = { .kind = (enum ob_sim_synthetic_kind)kind, .machines = MACHINES, .seconds = SECONDS, .seed = seed } };
}

/* Plays each kind of trace with each seed. */
static void play_all(struct sim_world template)
{
	for (int kind = 0; kind <= RECORDED; kind++) {
		for (uint64_t seed = 1; seed <= SEEDS; seed++) {
			struct sim_world world = world_of(kind, seed);

			world.change = template.change;
			world.look = template.look;
			world.budget_bytes = sim_world_ram(&world) / (1 + seed);
			sim_world_play(&world);
			assert_true(world.excess == 0);
			assert_int_equal(world.result.refused, 0);
			assert_true(world.result.machine_seconds > (kind == RECORDED ? 8 * RECORDED_SECONDS : MACHINES * SECONDS / 2));
			sim_world_end(&world);
		}
	}
}

/* --- the budget, reservations, entitlements --- */

static void the_budget_holds(void **state)
{
	play_all((struct sim_world){ 0 });
}

static unsigned since[MACHINES]; /* seconds for which it has been so */

static void reserve(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	load->reservation_bytes = machine % 3 ? load->ram_bytes / 6 : 0;
}

static void look_at_reservations(const struct sim_world *world, uint64_t second)
{
	for (uint32_t i = 0; i < MACHINES; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);

		since[i] = machine ? since[i] + 1 : 0;
		if (!machine)
			continue;
		assert_true(machine->target_bytes >= machine->load.reservation_bytes);
		assert_true(since[i] <= REACTION || machine->limit_bytes >= machine->load.reservation_bytes);
	}
}

static void reservations_are_honoured(void **state)
{
	memset(since, 0, sizeof(since));
	play_all((struct sim_world){ .change = reserve, .look = look_at_reservations });
}

static void reserve_too_much(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	load->reservation_bytes = load->ram_bytes;
}

static void who_cannot_be_guaranteed_anything_is_refused(void **state)
{
	struct sim_world world = world_of(OB_SIM_STEADY, 3);

	world.change = reserve_too_much;
	sim_world_play(&world);
	assert_true(world.result.refused > 0 && world.result.refused < MACHINES);
	assert_true(world.excess == 0);
	sim_world_end(&world);
}

static unsigned longest;

static void look_at_entitlements(const struct sim_world *world, uint64_t second)
{
	bool is_above = false;

	for (uint32_t i = 0; i < MACHINES; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);

		/* Nobody is left more than he is entitled to while there is a budget. */
		assert_true(!machine || machine->limit_bytes <= machine->target_bytes);
		is_above |= machine && (double)machine->stats.cost_bytes > (double)machine->target_bytes + OB_MIB;
	}
	for (uint32_t i = 0; i < MACHINES; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);
		bool loses = machine && is_above && machine->evicted_bytes > OB_MIB &&
			     machine->limit_bytes + OB_BUDGET_GROW_STEP < machine->target_bytes;

		since[i] = loses ? since[i] + 1 : 0;
		longest = OB_MAX(longest, since[i]);
	}
}

static void nobody_below_his_part_is_evicted_for_one_above(void **state)
{
	memset(since, 0, sizeof(since));
	longest = 0;
	play_all((struct sim_world){ .look = look_at_entitlements });
	assert_true(longest <= REACTION);
}

/* --- shares --- */

static void all_busy(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	*load = ob_sim_load_default();
	load->ram_bytes = load->content_bytes = load->working_set_bytes = 4 * OB_GIB;
	load->touches = 20000;
	load->shares = 500 * (1 + machine % 4);
}

static void equal_loads_come_to_their_shares(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_world world = world_of(OB_SIM_STEADY, seed);
		uint64_t budget = MACHINES * OB_GIB, shares = 0;

		world.budget_bytes = budget;
		world.change = all_busy;
		sim_world_play(&world);
		for (uint32_t i = 0; i < MACHINES; i++)
			shares += sim_world_machine(&world, i)->load.shares;
		for (uint32_t i = 0; i < MACHINES; i++) {
			const struct ob_sim_machine *machine = sim_world_machine(&world, i);
			uint64_t part = OB_BUDGET_LEAST_MAX + (budget - MACHINES * OB_BUDGET_LEAST_MAX) / shares * machine->load.shares;

			assert_in_range(machine->limit_bytes, part - part / 100, part + part / 100);
		}
		sim_world_end(&world);
	}
}

static uint32_t favoured;
static double limit_sum, lack_sum;

static void favour(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	if (machine == favoured)
		load->shares *= 4;
}

static void sum_limit(const struct sim_world *world, uint64_t second)
{
	const struct ob_sim_machine *machine = sim_world_machine(world, favoured);

	if (!machine || second <= world->synthetic.seconds / 3)
		return;
	limit_sum += (double)machine->limit_bytes;
	lack_sum += (double)ob_less(machine->ordered.working_set.wanted_bytes, machine->limit_bytes);
}

static void more_shares_are_never_less_memory(void **state)
{
	static const int kinds[] = { OB_SIM_STEADY, OB_SIM_DIURNAL, OB_SIM_MIXED, OB_SIM_RAMP, RECORDED };

	for (size_t i = 0; i < 2 * OB_ARRAY_LEN(kinds); i++) {
		for (favoured = 0; favoured < MACHINES; favoured += 3) {
			int kind = kinds[i / 2];
			unsigned seed = i % 2 ? 9 : 5;
			struct sim_world plain = world_of(kind, seed), more = world_of(kind, seed);
			double before;

			plain.look = more.look = sum_limit;
			more.change = favour;
			limit_sum = 0;
			sim_world_play(&plain);
			before = limit_sum;
			limit_sum = lack_sum = 0;
			sim_world_play(&more);
			/*
			 * The other machines' samples are the same ones, its own come later or sooner as it runs faster or slower. What it wants
			 * depends on what it has had: who has all of that may have come to want less.
			 */
			assert_true(limit_sum >= before * 0.99 || lack_sum == 0);
			if (ob_sim_machine(more.sim, favoured))
				assert_true(ob_sim_machine(more.sim, favoured)->progress >= ob_sim_machine(plain.sim, favoured)->progress * 0.99);
			sim_world_end(&plain);
			sim_world_end(&more);
		}
	}
}

/* --- liars --- */

static bool lies, uses_all;

/* The first one is idle, and may say something else; the others use all that they have. */
static void one_may_lie(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	all_busy(load, machine, second);
	load->shares = 1000;
	if (machine || uses_all)
		return;
	load->working_set_bytes = load->ram_bytes / 20;
	if (lies)
		load->says_bytes = load->ram_bytes;
}

static struct sim_world play_liar(bool it_lies, bool it_uses_all)
{
	struct sim_world world = world_of(OB_SIM_STEADY, 2);

	lies = it_lies;
	uses_all = it_uses_all;
	world.change = one_may_lie;
	world.budget_bytes = MACHINES * OB_GIB;
	sim_world_play(&world);
	return world;
}

static void a_liar_has_no_more_than_if_it_were_true(void **state)
{
	struct sim_world honest = play_liar(false, false), liar = play_liar(true, false), busy = play_liar(false, true);
	uint64_t part = OB_GIB + OB_GIB / 100;

	/* Its part by shares at most, and the others have theirs. */
	assert_true(sim_world_machine(&liar, 0)->limit_bytes <= part);
	assert_true(sim_world_machine(&liar, 0)->limit_bytes <= sim_world_machine(&busy, 0)->limit_bytes + OB_MIB);
	assert_true(sim_world_machine(&honest, 0)->limit_bytes <= part / 4 * 3);
	for (uint32_t i = 1; i < MACHINES; i++) {
		assert_true(sim_world_machine(&liar, i)->limit_bytes + OB_MIB >= sim_world_machine(&busy, i)->limit_bytes);
		assert_true(sim_world_machine(&liar, i)->progress >= sim_world_machine(&busy, i)->progress * 0.999);
		assert_true(sim_world_machine(&honest, i)->progress >= sim_world_machine(&liar, i)->progress * 0.999);
	}
	sim_world_end(&honest);
	sim_world_end(&liar);
	sim_world_end(&busy);
}

/* The same in what was recorded, all along: one that is idle says that it uses all, or does. */
static void a_recorded_one_may_lie(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	if (machine != RECORDED_IDLE)
		return;
	if (lies)
		load->says_bytes = load->ram_bytes;
	if (uses_all) {
		load->working_set_bytes = load->content_bytes;
		load->touches = 20000;
	}
}

static struct sim_world play_recorded_liar(bool it_lies, bool it_uses_all, double *ret_limit_sum)
{
	struct sim_world world = world_of(RECORDED, 1);

	lies = it_lies;
	uses_all = it_uses_all;
	favoured = RECORDED_IDLE;
	limit_sum = 0;
	world.change = a_recorded_one_may_lie;
	world.look = sum_limit;
	sim_world_play(&world);
	*ret_limit_sum = limit_sum;
	return world;
}

static void nor_has_one_among_real_guests(void **state)
{
	double honest_sum, liar_sum, busy_sum;
	struct sim_world honest = play_recorded_liar(false, false, &honest_sum), liar = play_recorded_liar(true, false, &liar_sum);
	struct sim_world busy = play_recorded_liar(false, true, &busy_sum);

	assert_true(honest_sum <= liar_sum && liar_sum <= busy_sum * 1.01);
	for (uint32_t i = 0; ob_sim_machine(busy.sim, i); i++)
		if (i != RECORDED_IDLE)
			assert_true(ob_sim_machine(liar.sim, i)->progress >= ob_sim_machine(busy.sim, i)->progress * 0.999);
	sim_world_end(&honest);
	sim_world_end(&liar);
	sim_world_end(&busy);
}

/* --- calm --- */

static uint64_t lowest[MACHINES], highest[MACHINES];

static void says_exactly(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	load->says_bytes = load->working_set_bytes;
}

static void note_range(const struct sim_world *world, uint64_t second)
{
	for (uint32_t i = 0; i < MACHINES && second >= SECONDS / 2; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);

		if (second == SECONDS / 2)
			lowest[i] = highest[i] = machine->limit_bytes;
		lowest[i] = OB_MIN(lowest[i], machine->limit_bytes);
		highest[i] = OB_MAX(highest[i], machine->limit_bytes);
	}
}

static double worst_range(const struct sim_world *world)
{
	double worst = 0;

	for (uint32_t i = 0; i < MACHINES; i++)
		worst = OB_MAX(worst, (double)(highest[i] - lowest[i]) / (double)sim_world_machine(world, i)->load.ram_bytes);
	return worst;
}

/* Under a load that stays nothing moves by itself: what is measured exactly gives limits that stay. */
static void nothing_moves_where_nothing_changes(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_world world = world_of(OB_SIM_STEADY, seed);

		world.change = says_exactly;
		world.look = note_range;
		sim_world_play(&world);
		assert_true(worst_range(&world) == 0);
		sim_world_end(&world);
	}
}

/* What the engine measures is a sample, and is taken at its height: each machine's limit moves with it, and with those of the others. */
static void limits_move_little_by_samples_alone(void **state)
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_world world = world_of(OB_SIM_STEADY, seed);

		world.look = note_range;
		sim_world_play(&world);
		assert_true(worst_range(&world) <= 0.2);
		assert_true(world.result.orders_per_machine_minute <= 30);
		sim_world_end(&world);
	}
}

/* --- everybody, and others' rules --- */

static void the_same_again_is_the_same(void **state)
{
	for (size_t i = 0; i < 2 * OB_SIM_RULES; i++) {
		int kind = i % 2 ? RECORDED : OB_SIM_CHURN;
		struct sim_world first = world_of(kind, 9), again = world_of(kind, 9);

		first.rule = again.rule = ob_sim_rules[i / 2];
		assert_ptr_equal(ob_sim_rule_find(first.rule->name), first.rule);
		sim_world_play(&first);
		sim_world_play(&again);
		assert_memory_equal(&first.result, &again.result, sizeof(first.result));
		assert_true(first.result.slowdown_mean >= 1 && first.result.slowdown_p99 >= first.result.slowdown_p95);
		assert_true(first.result.fairness > 0 && first.result.fairness <= 1);
		sim_world_end(&first);
		sim_world_end(&again);
	}
	assert_null(ob_sim_rule_find("senpai"));
}

/* With memory for everybody no rule takes any, and nobody is slower; but by the split, which gives each its part. */
static void where_there_is_plenty_nobody_is_held_up(void **state)
{
	for (size_t i = 0; i < 2 * OB_SIM_RULES; i++) {
		struct sim_world world = world_of(i % 2 ? RECORDED : OB_SIM_MIXED, 4);

		world.rule = ob_sim_rules[i / 2];
		world.budget_bytes = sim_world_ram(&world) * 2;
		sim_world_play(&world);
		assert_true(world.excess == 0);
		assert_true(world.rule == &ob_sim_rule_static || world.result.swapped_out_bytes == 0);
		assert_true(world.rule == &ob_sim_rule_static || world.result.slowdown_p99 < 1.02);
		sim_world_end(&world);
	}
}

static uint64_t last_limit[MACHINES];
static double most_down, most_up; /* of a limit in a second, in MiB, or by the MoM in parts */

static void note_steps(const struct sim_world *world, uint64_t second)
{
	for (uint32_t i = 0; i < MACHINES; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);
		double now = machine ? (double)machine->limit_bytes : 0, before = (double)last_limit[i];

		last_limit[i] = machine ? machine->limit_bytes : 0;
		if (!machine || !before || machine->limit_bytes > machine->load.ram_bytes)
			continue;
		before = OB_MIN(before, (double)machine->load.ram_bytes);
		if (world->rule == &ob_sim_rule_mom)
			now = now / before * OB_MIB, before = OB_MIB;
		most_down = OB_MAX(most_down, (before - now) / OB_MIB);
		most_up = OB_MAX(most_up, (now - before) / OB_MIB);
	}
}

static void balloons_of_others_move_in_their_steps(void **state)
{
	static const struct ob_sim_rule *const rules[] = { &ob_sim_rule_proxmox, &ob_sim_rule_mom };
	static const double steps[] = { 100, 0.05 };

	for (size_t i = 0; i < 2 * OB_ARRAY_LEN(rules); i++) {
		struct sim_world world = world_of(i % 2 ? RECORDED : OB_SIM_DIURNAL, 2);

		memset(last_limit, 0, sizeof(last_limit));
		most_down = most_up = 0;
		world.rule = rules[i / 2];
		world.look = note_steps;
		sim_world_play(&world);
		assert_in_range(most_down * 1000, i % 2 ? 1 : steps[i / 2] * 999, steps[i / 2] * 1001);
		assert_in_range(most_up * 1000, 0, steps[i / 2] * 1001);
		sim_world_end(&world);
	}
}

static void a_split_is_by_shares(void **state)
{
	struct sim_world world = world_of(OB_SIM_STEADY, 1);

	world.rule = &ob_sim_rule_static;
	world.change = all_busy;
	world.budget_bytes = 50 * OB_GIB; /* 1250 shares each on average: 2 GiB a thousand */
	sim_world_play(&world);
	for (uint32_t i = 0; i < MACHINES; i++)
		assert_in_range(sim_world_machine(&world, i)->limit_bytes, sim_world_machine(&world, i)->load.shares * 2 * OB_GIB / 1000 - 1,
				sim_world_machine(&world, i)->load.shares * 2 * OB_GIB / 1000 + 1);
	sim_world_end(&world);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_budget_holds),
		cmocka_unit_test(reservations_are_honoured),
		cmocka_unit_test(who_cannot_be_guaranteed_anything_is_refused),
		cmocka_unit_test(nobody_below_his_part_is_evicted_for_one_above),
		cmocka_unit_test(equal_loads_come_to_their_shares),
		cmocka_unit_test(more_shares_are_never_less_memory),
		cmocka_unit_test(a_liar_has_no_more_than_if_it_were_true),
		cmocka_unit_test(nor_has_one_among_real_guests),
		cmocka_unit_test(nothing_moves_where_nothing_changes),
		cmocka_unit_test(limits_move_little_by_samples_alone),
		cmocka_unit_test(the_same_again_is_the_same),
		cmocka_unit_test(where_there_is_plenty_nobody_is_held_up),
		cmocka_unit_test(balloons_of_others_move_in_their_steps),
		cmocka_unit_test(a_split_is_by_shares),
	};

	if (argc != 2)
		return 2;
	recorded = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
