/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The model of a machine's memory: what must hold whatever happens, and a few cases that can be reckoned by hand. */
#include "test.h"

#include "base/compiler.h"
#include "base/units.h"
#include "proto/env.h"
#include "sim/memory.h"
#include "sim/sim.h"

#define NEAR 64.0 /* bytes by which sums may differ, of gigabytes */

static struct ob_sim_load load_of(uint64_t ram_mib, uint64_t content_mib, uint64_t uses_mib, uint64_t touches)
{
	struct ob_sim_load load = ob_sim_load_default();

	load.ram_bytes = ram_mib * OB_MIB;
	load.content_bytes = content_mib * OB_MIB;
	load.working_set_bytes = uses_mib * OB_MIB;
	load.touches = touches;
	return load;
}

static void run(struct ob_sim_memory *memory, const struct ob_sim_load *load, uint64_t limit_bytes, unsigned seconds, struct ob_sim_flow *ret)
{
	ob_sim_memory_follow(memory, load);
	for (unsigned i = 0; i < seconds * OB_SIM_TICKS; i++)
		ob_sim_memory_tick(memory, load, limit_bytes, ret);
}

/* The limit under which so much is left for memory. */
static uint64_t room_for(const struct ob_sim_load *load, uint64_t mib)
{
	return mib * OB_MIB + (uint64_t)ob_sim_memory_tables(load);
}

static void assert_near(double a, double b, double within)
{
	if (a > b + within || a < b - within)
		fail_msg("%f is not %f", a, b);
}

static void who_has_room_is_not_held_up(void **state)
{
	struct ob_sim_load load = load_of(1024, 800, 400, 50000);
	struct ob_sim_memory memory = { 0 };
	struct ob_sim_flow flow;

	run(&memory, &load, OB_SIM_NONE, 2, &flow);
	assert_near(ob_sim_memory_in(&memory, OB_SIM_IN_PLACE), 800.0 * OB_MIB, NEAR);
	assert_near(memory.hot[OB_SIM_IN_PLACE], 400.0 * OB_MIB, NEAR);
	assert_near(ob_sim_memory_tables(&load), 2.72 * OB_MIB, 0.01 * OB_MIB);
	assert_near(ob_sim_memory_cost(&memory, &load), 800.0 * OB_MIB + ob_sim_memory_tables(&load), NEAR);
	assert_true(flow.progress == 1);
}

/* Cold memory goes first: with room for what is used and the pool, nothing comes back. */
static void what_is_cold_costs_nothing(void **state)
{
	struct ob_sim_load load = load_of(1024, 800, 400, 50000);
	struct ob_sim_memory memory = { 0 };
	struct ob_sim_flow flow;

	load.spare_permille = 250;
	load.compressible_permille = 500;
	load.compressed_permille = 500;
	run(&memory, &load, OB_SIM_NONE, 2, &flow);
	run(&memory, &load, room_for(&load, 596), 10, &flow);
	assert_true(flow.progress == 1);
	assert_near(memory.hot[OB_SIM_IN_PLACE], 400.0 * OB_MIB, NEAR);
	/* Each byte that goes gains three quarters of one: 204 MiB too much are 272. */
	assert_near(memory.cold[OB_SIM_IN_PLACE], 128.0 * OB_MIB, NEAR);
	assert_near(memory.cold[OB_SIM_SPARE], 68.0 * OB_MIB, NEAR);
	assert_near(memory.cold[OB_SIM_POOL], 136.0 * OB_MIB, NEAR);
	assert_near(memory.cold[OB_SIM_STORE], 68.0 * OB_MIB, NEAR);
}

/* Half of what it uses is on the disk: 1000 touches a second fault 500 times, 68 us each: 1.034 s a second. */
static void faults_take_their_time(void **state)
{
	struct ob_sim_load load = load_of(1024, 1000, 1000, 1000);
	struct ob_sim_memory memory = { 0 };
	struct ob_sim_flow flow;

	run(&memory, &load, OB_SIM_NONE, 2, &flow);
	run(&memory, &load, room_for(&load, 500), 60, &flow);
	assert_near(1 / flow.progress, 1.034, 0.0005);
	load.compressible_permille = 1000;
	load.compressed_permille = 0;
	memory = (struct ob_sim_memory){ 0 };
	run(&memory, &load, OB_SIM_NONE, 2, &flow);
	run(&memory, &load, room_for(&load, 500), 60, &flow);
	assert_near(1 / flow.progress, 1.009, 0.0005);
}

static void the_pool_has_half_of_the_limit(void **state)
{
	struct ob_sim_load load = load_of(4096, 4000, 100, 100);
	struct ob_sim_memory memory = { 0 };
	struct ob_sim_flow flow;

	load.compressible_permille = 1000;
	load.compressed_permille = 500;
	run(&memory, &load, OB_SIM_NONE, 5, &flow);
	run(&memory, &load, 400 * OB_MIB, 30, &flow);
	assert_near(ob_sim_memory_in(&memory, OB_SIM_POOL), 400.0 * OB_MIB, 8.0 * OB_MIB);
	assert_true(flow.progress == 1);
}

/* A machine that sleeps leaves its memory where it is; what wakes it finds it there. */
static void a_working_set_takes_from_where_memory_is(void **state)
{
	struct ob_sim_load load = load_of(1024, 800, 100, 1000);
	struct ob_sim_memory memory = { 0 };
	struct ob_sim_flow flow;

	run(&memory, &load, OB_SIM_NONE, 2, &flow);
	run(&memory, &load, room_for(&load, 300), 10, &flow);
	assert_near(memory.cold[OB_SIM_STORE], 500.0 * OB_MIB, NEAR);
	load.working_set_bytes = 450 * OB_MIB;
	ob_sim_memory_follow(&memory, &load);
	/* Half of the 700 that were cold: of those 5/7 were away. */
	assert_near(memory.hot[OB_SIM_STORE], 250.0 * OB_MIB, NEAR);
	assert_near(memory.hot[OB_SIM_IN_PLACE], 200.0 * OB_MIB, NEAR);
	load.content_bytes = load.working_set_bytes = 50 * OB_MIB;
	ob_sim_memory_follow(&memory, &load);
	assert_near(ob_sim_memory_all(&memory), 50.0 * OB_MIB, NEAR);
}

static struct ob_sim_load draw_load(uint64_t seed, uint64_t n)
{
	struct ob_sim_load load = load_of(16 + ob_sim_draw(seed, n, 0) % 4096, 0, 0, 0);

	load.content_bytes = ob_sim_draw(seed, n, 1) % (load.ram_bytes + 1);
	load.working_set_bytes = ob_sim_draw(seed, n, 2) % (load.content_bytes + 1);
	load.touches = ob_sim_draw(seed, n, 3) % (1ull << (ob_sim_draw(seed, n, 4) % 30));
	load.spare_permille = ob_sim_draw(seed, n, 5) % 1001;
	load.compressible_permille = ob_sim_draw(seed, n, 6) % (1001 - load.spare_permille);
	load.compressed_permille = ob_sim_draw(seed, n, 7) % 1001;
	return load;
}

static void check_tick(struct ob_sim_memory *memory, const struct ob_sim_load *load, uint64_t limit)
{
	double before = ob_sim_memory_all(memory), cost = ob_sim_memory_cost(memory, load), after;
	struct ob_sim_flow flow;

	ob_sim_memory_tick(memory, load, limit, &flow);
	after = ob_sim_memory_all(memory);
	assert_true(flow.progress >= 0 && flow.progress <= 1);
	for (int place = 0; place < OB_SIM_PLACES; place++)
		assert_true(memory->hot[place] >= 0 && memory->cold[place] >= 0 && flow.went[place] >= 0 && flow.came[place] >= 0);
	/* Nothing but first touches makes it more, and nothing makes it less. */
	assert_near(after, before + flow.came[OB_SIM_IN_PLACE], NEAR);
	assert_true(after <= (double)load->content_bytes + NEAR);
	assert_true(ob_sim_memory_cost(memory, load) <= OB_MAX((double)limit, cost) + NEAR);
}

static void nothing_is_lost_and_no_limit_is_broken(void **state)
{
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct ob_sim_memory memory = { 0 };
		struct ob_sim_load load = draw_load(seed, 0), first = load;
		uint64_t limit = OB_SIM_NONE;

		for (uint64_t n = 1; n <= 60; n++) {
			/* A machine keeps its RAM, and how its memory compresses. */
			struct ob_sim_load next = draw_load(seed, n);

			load.content_bytes = OB_MIN(next.content_bytes, first.ram_bytes);
			load.working_set_bytes = OB_MIN(next.working_set_bytes, load.content_bytes);
			load.touches = next.touches;
			ob_sim_memory_follow(&memory, &load);
			limit = ob_sim_draw(seed, n, 8) % 4 ? OB_LIMIT_MIN + ob_sim_draw(seed, n, 9) % load.ram_bytes : OB_SIM_NONE;
			for (unsigned tick = 0; tick < 30; tick++)
				check_tick(&memory, &load, limit);
		}
	}
}

static void less_room_is_never_faster(void **state)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct ob_sim_load load = draw_load(seed, 0);
		double last = 0;

		for (uint64_t part = 1; part <= 8; part++) {
			struct ob_sim_memory memory = { 0 };
			struct ob_sim_flow flow;

			run(&memory, &load, OB_SIM_NONE, 6, &flow);
			run(&memory, &load, OB_MAX(OB_LIMIT_MIN, load.ram_bytes / 8 * part), 60, &flow);
			assert_true(flow.progress >= last - 0.01);
			last = flow.progress;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_has_room_is_not_held_up),
		cmocka_unit_test(what_is_cold_costs_nothing),
		cmocka_unit_test(faults_take_their_time),
		cmocka_unit_test(the_pool_has_half_of_the_limit),
		cmocka_unit_test(a_working_set_takes_from_where_memory_is),
		cmocka_unit_test(nothing_is_lost_and_no_limit_is_broken),
		cmocka_unit_test(less_room_is_never_faster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
