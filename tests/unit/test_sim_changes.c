/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entitlements under loads that change: after a change they settle, and do not swing.
 *
 * The changes:
 *
 *     stampede  all machines are idle, are busy within 5 seconds, are idle again
 *     step      half of the machines are idle and become busy, the others are busy and become idle; then back
 *     wave      a day, in which the load of each machine rises and falls over an hour of it
 *
 * An entitlement is here what a machine is to have of what it wants; the room to grow that is dealt out beside it comes and goes with what others
 * leave. A round is a second: so often overbookd divides the budget. The bounds:
 *
 *     SETTLE    rounds from a change on, then nothing swings, and who is busy has what he is to have, within a swing and as much again.
 *               What is believed falls by steps, each after 10 s of rest, and what has come back counts for 16 s; but most of it is
 *               memory that comes back: a machine with a working set of 6 GiB on the disk and in the pool has the most of it after two and a
 *               half minutes of faults. (An idle one that touches 200 pages a second takes longer, and its entitlement goes with it, in one
 *               direction.)
 *     swing     of an entitlement: a reversal of its direction by more than so much. Where statistics are exact, two of the steps in which overbookd
 *               takes note of what a machine wants (working_set.h), 1/32 of what it could cost: what falls has to be lower by two
 *               of them. Where they are samples, 1/8 of RAM: of 128 samples, of half of memory, the standard error is 4.4% of it
 *     CYCLES    of machines whose load stays, by exact statistics, may go down and up again by up to a swing: who has just what he needs loses some of it
 *               when what came back counts no more, since what his pool takes is not among what is believed or wanted of him (working_set.h says why); he
 *               gets it back as soon as that comes back, and so on, once a minute or so
 *     TURNS     of a wave: a machine's entitlement rises and falls with its own load, and falls and rises with those of the others: four
 *               in a day, of more than 1/8 of RAM, whatever the statistics
 */
#include "test.h"

#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "sim_world.h"

#define MACHINES 20u
#define SEEDS    4u
#define SETTLE   240u
#define THIRD    600u /* seconds of a phase */
#define SECONDS  (3 * THIRD)
#define STAMPEDE 5u /* synthetic.c: seconds in which all become busy */
#define DAY      2400u
#define LONGEST  DAY
#define BUSY     10000u /* touches a second */
#define TURNS    4u
#define CYCLES(n) ((n) / 200)
#define STEADY_SEEDS 20u
#define STEADY       900u
#define STEPS        64.0 /* working_set.c: in what a machine could cost */

static double entitled[MACHINES][LONGEST], ram[MACHINES];
static bool is_busy[MACHINES][LONGEST];
static bool is_exact;
static struct ob_sim_synthetic base;

static void note(const struct sim_world *world, uint64_t second)
{
	for (uint32_t i = 0; i < MACHINES; i++) {
		const struct ob_sim_machine *machine = sim_world_machine(world, i);

		if (!machine)
			continue;
		entitled[i][second] = (double)OB_MIN(machine->target_bytes, machine->ordered.working_set.wanted_bytes);
		is_busy[i][second] = machine->load.touches >= BUSY;
		ram[i] = (double)machine->load.ram_bytes;
	}
}

static void say_exactly(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	if (is_exact)
		load->says_bytes = load->working_set_bytes;
}

/* Of a stampede: every second machine is busy when the others are idle, and idle when they are busy. */
static void change_by_turns(struct ob_sim_load *load, uint32_t machine, uint64_t second)
{
	bool is_middle = second >= THIRD && second < 2 * THIRD;

	if (machine % 2)
		assert_int_equal(ob_sim_synthetic_load(&base, machine, is_middle ? THIRD - 1 : THIRD + STAMPEDE, load), 1);
	say_exactly(load, machine, second);
}

/* How often it turns by more than size, from one second to another. */
static unsigned count_swings(const double *values, uint64_t from, uint64_t to, double size)
{
	double highest = values[from], lowest = values[from];
	unsigned swings = 0;
	int direction = 0;

	for (uint64_t second = from; second < to; second++) {
		double value = values[second];

		highest = OB_MAX(highest, value);
		lowest = OB_MIN(lowest, value);
		if (direction >= 0 && value < highest - size) {
			swings += direction > 0;
			direction = -1;
			highest = lowest = value;
		} else if (direction <= 0 && value > lowest + size) {
			swings += direction < 0;
			direction = 1;
			highest = lowest = value;
		}
	}
	return swings;
}

static double step_of(uint32_t machine)
{
	return (double)ob_budget_ceiling((uint64_t)ram[machine]) / STEPS;
}

/* After SETTLE from a change, until the next one. */
static void check_phase(uint64_t change, uint64_t next)
{
	for (uint32_t i = 0; i < MACHINES; i++) {
		double last = entitled[i][next - 1], swing = is_exact ? 2 * step_of(i) : ram[i] / 8;

		assert_int_equal(count_swings(entitled[i], change + SETTLE, next, swing), 0);
		for (uint64_t second = change + SETTLE; second < next && is_busy[i][next - 1]; second++)
			assert_true(entitled[i][second] >= last - 2 * swing && entitled[i][second] <= last + 2 * swing);
	}
}

static void play(int kind, uint64_t seconds, uint64_t seed, uint64_t scarcity, void (*change)(struct ob_sim_load *, uint32_t, uint64_t))
{
	struct sim_world world = { .synthetic = { .kind = (enum ob_sim_synthetic_kind)kind, .machines = MACHINES, .seconds = seconds, .seed = seed },
				   .change = change, .look = note };

	base = world.synthetic;
	world.budget_bytes = ob_sim_synthetic_ram(&base) / scarcity;
	sim_world_play(&world);
	assert_true(world.excess == 0);
	sim_world_end(&world);
}

/* Both kinds of statistics, for each host. */
static void play_all(int kind, uint64_t seconds, void (*change)(struct ob_sim_load *, uint32_t, uint64_t), void (*check)(void))
{
	for (int exact = 0; exact < 2; exact++) {
		is_exact = exact;
		for (uint64_t seed = 1; seed <= SEEDS; seed++) {
			for (uint64_t scarcity = 2; scarcity <= 6; scarcity++) {
				play(kind, seconds, seed, scarcity, change);
				check();
			}
		}
	}
}

static unsigned cycles, steady_machines;

static void count_cycles(void)
{
	for (uint32_t i = 0; i < MACHINES; i++) {
		assert_int_equal(count_swings(entitled[i], STEADY / 2, STEADY, 2 * step_of(i)), 0);
		cycles += count_swings(entitled[i], STEADY / 2, STEADY, step_of(i) / 4) > 0;
		steady_machines++;
	}
}

static void where_nothing_changes_hardly_anybody_moves(void **state)
{
	cycles = steady_machines = 0;
	is_exact = true;
	for (uint64_t seed = 1; seed <= STEADY_SEEDS; seed++) {
		for (uint64_t scarcity = 2; scarcity <= 6; scarcity++) {
			play(OB_SIM_STEADY, STEADY, seed, scarcity, say_exactly);
			count_cycles();
		}
	}
	assert_in_range(cycles, 0, CYCLES(steady_machines));
}

static void check_both_changes(void)
{
	check_phase(THIRD + STAMPEDE, 2 * THIRD);
	check_phase(2 * THIRD, SECONDS);
}

static void a_stampede_comes_to_rest(void **state)
{
	play_all(OB_SIM_STAMPEDE, SECONDS, say_exactly, check_both_changes);
}

static void a_step_comes_to_rest(void **state)
{
	play_all(OB_SIM_STAMPEDE, SECONDS, change_by_turns, check_both_changes);
}

/* From when all machines are there. */
static void check_day(void)
{
	for (uint32_t i = 0; i < MACHINES; i++)
		assert_in_range(count_swings(entitled[i], DAY / 10, DAY, ram[i] / 8), 0, TURNS);
}

static void a_wave_is_followed_and_nothing_else(void **state)
{
	play_all(OB_SIM_DIURNAL, DAY, say_exactly, check_day);
}

/* The measure itself: it sees a saw, and its limits. */
static void swings_are_seen(void **state)
{
	double saw[90], slope[90];

	for (unsigned i = 0; i < 90; i++) {
		saw[i] = i % 10 < 5 ? 100 + i % 10 : 110 - i % 10;
		slope[i] = 100 - (double)i / 10;
	}
	assert_int_equal(count_swings(saw, 0, 90, 3), 17);
	assert_int_equal(count_swings(saw, 0, 90, 5), 0);
	assert_int_equal(count_swings(slope, 0, 90, 3), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(swings_are_seen),
		cmocka_unit_test(where_nothing_changes_hardly_anybody_moves),
		cmocka_unit_test(a_stampede_comes_to_rest),
		cmocka_unit_test(a_step_comes_to_rest),
		cmocka_unit_test(a_wave_is_followed_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
