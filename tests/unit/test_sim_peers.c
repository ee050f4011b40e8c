/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules of others, one step at a time, against what their makers have published: what each decides for machines that a test
 * sets up. What becomes of hosts under them is in test_sim_rules.c.
 */
#include "test.h"

#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"
#include "largepages/host.h"
#include "sim/rule.h"

#define MACHINES 5u

/* A host on which nothing moves by itself. */
struct bed {
	struct ob_sim_host host;
	struct ob_sim_machine machines[MACHINES], *pointers[MACHINES];
	double cost;
};

static void begin(struct bed *bed)
{
	memset(bed, 0, sizeof(*bed));
	bed->host.machines = bed->pointers;
}

/* One that costs so much, all of it in place, and may cost all that it could. active_bytes: what its samples say that it uses. */
static struct ob_sim_machine *add(struct bed *bed, uint64_t ram_bytes, uint64_t shares, double cost, double active_bytes)
{
	struct ob_sim_machine *machine = &bed->machines[bed->host.n];

	assert_true(bed->host.n < MACHINES);
	*machine = (struct ob_sim_machine){ .number = (uint32_t)bed->host.n, .is_here = true, .runs = true, .load = ob_sim_load_default() };
	machine->load.ram_bytes = ram_bytes;
	machine->load.shares = shares;
	machine->limit_bytes = ob_budget_ceiling(ram_bytes);
	machine->memory.cold[OB_SIM_IN_PLACE] = cost - ob_sim_memory_tables(&machine->load);
	machine->stats.cost_bytes = (uint64_t)cost;
	machine->stats.active_bytes = (uint64_t)active_bytes;
	machine->stats.active_samples = 128;
	bed->pointers[bed->host.n++] = machine;
	bed->cost += cost;
	return machine;
}

/* --- ESX Server ---
 *
 * Published: minFree is 899 MB of a host with 28 GiB, and 1% of what is above that. By what is free, as a part of minFree: soft below 64%, memory is
 * taken by balloons; hard below 32%, by compressing and swapping; low below 16%, and who would have more has to wait. Memory is taken from who
 * has the least shares a page, S / (P (f + k (1 - f))): f of its P pages are active, and k = 1 / (1 - tax), with a tax of 75%.
 */

enum { HIGH, SOFT, HARD, LOW };

/* Makes a budget of which so many hundredths of minFree are free, of a host smaller than 4 GiB: there minFree is 6%. */
static void leave_free(struct bed *bed, double percent)
{
	bed->host.budget_bytes = (uint64_t)(bed->cost / (1 - 0.06 * percent / 100));
	assert_true(bed->host.budget_bytes < 4 * OB_GIB);
	assert_float_equal(100 * ob_sim_host_free(&bed->host) / (double)ob_large_min_free(bed->host.budget_bytes), percent, 0.01);
}

static double taken(const struct ob_sim_machine *machine)
{
	return (double)ob_less(machine->stats.cost_bytes, machine->limit_bytes);
}

static void min_free_is_the_sliding_scale(void **state)
{
	uint64_t of_28 = ob_large_min_free(28 * OB_GIB);

	assert_in_range(of_28, 899 * OB_MIB / 100 * 99, 899 * OB_MIB / 100 * 101);
	assert_in_range(ob_large_min_free(128 * OB_GIB), of_28 + OB_GIB - 1, of_28 + OB_GIB + 1);
}

static void states_begin_where_they_are_published(void **state)
{
	static const struct {
		int before;
		double percent;
		int after;
	} cases[] = {
		/* down */
		{ HIGH, 500, HIGH }, { HIGH, 399, HIGH }, { HIGH, 99, HIGH }, { HIGH, 64.5, HIGH }, { HIGH, 63.5, SOFT }, { SOFT, 32.5, SOFT },
		{ HIGH, 32.5, SOFT }, { SOFT, 31.5, HARD }, { HIGH, 31.5, HARD }, { HARD, 16.5, HARD }, { HIGH, 15.5, LOW }, { HARD, 15.5, LOW },
		{ HIGH, 1, LOW },
		/* up: an eighth of minFree more, of which nothing is published */
		{ LOW, 28, LOW }, { LOW, 29, HARD }, { HARD, 44, HARD }, { HARD, 45, SOFT }, { LOW, 45, SOFT }, { SOFT, 76, SOFT }, { SOFT, 77, HIGH },
		{ LOW, 77, HIGH },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct bed bed;

		begin(&bed);
		add(&bed, 4 * OB_GIB, 1000, 2.0 * OB_GIB, OB_GIB);
		leave_free(&bed, cases[i].percent);
		bed.host.state = cases[i].before;
		ob_sim_rule_esxi.step(&bed.host);
		assert_int_equal(bed.host.state, cases[i].after);
		/* Nothing is taken where there is enough, something everywhere else. */
		assert_int_equal(taken(&bed.machines[0]) > 0, cases[i].after != HIGH);
	}
}

/* Shares for each page, as published. */
static double pays(double shares, double pages, double active)
{
	double f = active / pages, k = 1 / (1 - 0.75);

	return shares / (pages * (f + k * (1 - f)));
}

/* Of two machines, in MiB, who is the one that a piece of 4 MiB is taken from? */
static void memory_is_taken_from_who_pays_least(void **state)
{
	static const struct {
		double shares, cost, active;
	} cases[][2] = {
		{ { 1000, 30, 30 }, { 1000, 30, 3 } },  /* an idle one before one that is not */
		{ { 1000, 20, 20 }, { 1000, 40, 40 } }, /* a large one before a small one */
		{ { 1000, 30, 30 }, { 500, 30, 30 } },  /* fewer shares before more */
		/* An idle page costs four times one that is used. */
		{ { 1000, 30, 30 }, { 3900, 30, 0 } },
		{ { 4100, 30, 0 }, { 1000, 30, 30 } },
		/* Half idle: two and a half times. */
		{ { 1000, 30, 15 }, { 1000, 76, 76 } },
		{ { 1000, 74, 74 }, { 1000, 30, 15 } },
	};

	for (size_t i = 0; i < 2 * OB_ARRAY_LEN(cases); i++) {
		struct bed bed;
		unsigned poorer = 1;

		begin(&bed);
		for (unsigned j = 0; j < 2; j++) {
			unsigned which = i % 2 ? 1 - j : j; /* whoever comes first */

			add(&bed, 128 * OB_MIB, (uint64_t)cases[i / 2][which].shares, cases[i / 2][which].cost * OB_MIB, cases[i / 2][which].active * OB_MIB);
			poorer = which == 1 ? j : poorer;
		}
		assert_true(pays(cases[i / 2][1].shares, cases[i / 2][1].cost, cases[i / 2][1].active) <
			    pays(cases[i / 2][0].shares, cases[i / 2][0].cost, cases[i / 2][0].active));
		leave_free(&bed, 50);
		ob_sim_rule_esxi.step(&bed.host);
		assert_int_equal(bed.host.state, SOFT);
		assert_float_equal(taken(&bed.machines[poorer]), 4 * OB_MIB, 1);
		assert_true(taken(&bed.machines[1 - poorer]) == 0);
	}
}

/* When much is taken all pay alike in the end, but for a piece. */
static void in_the_end_all_pay_alike(void **state)
{
	struct bed bed;
	double highest = 0, lowest = 1e30;

	begin(&bed);
	add(&bed, 2 * OB_GIB, 1000, 900.0 * OB_MIB, 400.0 * OB_MIB);
	add(&bed, 2 * OB_GIB, 2000, 1100.0 * OB_MIB, 900.0 * OB_MIB);
	add(&bed, 2 * OB_GIB, 1500, 1000.0 * OB_MIB, 100.0 * OB_MIB);
	add(&bed, 2 * OB_GIB, 1000, 900.0 * OB_MIB, 890.0 * OB_MIB);
	leave_free(&bed, 1);
	ob_sim_rule_esxi.step(&bed.host);
	for (unsigned i = 0; i < 4; i++) {
		const struct ob_sim_machine *machine = &bed.machines[i];
		double pages = OB_MIN((double)machine->limit_bytes, (double)machine->stats.cost_bytes);
		double its = pays((double)machine->load.shares, pages, OB_MIN((double)machine->stats.active_bytes, pages));

		assert_int_equal(taken(machine) > 0, i == 0 || i == 2);
		if (taken(machine) > 0)
			highest = OB_MAX(highest, its);
		lowest = OB_MIN(lowest, its);
	}
	assert_true(highest <= lowest * 1.02);
}

/* Soft: a balloon's pace, 1/16 of RAM in a second, and then the next one. Hard: all from one. Each until minFree is free, but for a piece. */
static void balloons_first_then_whatever_it_takes(void **state)
{
	static const double percents[] = { 40, 20 };

	for (size_t i = 0; i < OB_ARRAY_LEN(percents); i++) {
		double missing;
		struct bed bed;

		begin(&bed);
		add(&bed, 2 * OB_GIB, 100, 1700.0 * OB_MIB, 0);
		add(&bed, 2 * OB_GIB, 1000, 1700.0 * OB_MIB, 1700.0 * OB_MIB);
		leave_free(&bed, percents[i]);
		missing = (double)ob_large_min_free(bed.host.budget_bytes) - ob_sim_host_free(&bed.host);
		ob_sim_rule_esxi.step(&bed.host);
		assert_int_equal(bed.host.state, i ? HARD : SOFT);
		assert_true(missing < 2 * 128.0 * OB_MIB);
		assert_float_equal(taken(&bed.machines[0]), i ? missing : OB_MIN(missing, 128.0 * OB_MIB), 4 * OB_MIB);
		assert_float_equal(taken(&bed.machines[0]) + taken(&bed.machines[1]), missing, 4 * OB_MIB);
	}
}

static void nobody_is_taken_below_his_reservation(void **state)
{
	for (int percent = 50; percent > 0; percent -= 40) {
		struct bed bed;

		begin(&bed);
		add(&bed, OB_GIB, 1, 600.0 * OB_MIB, 0)->load.reservation_bytes = 590 * OB_MIB;
		add(&bed, OB_GIB, 1000, 600.0 * OB_MIB, 600.0 * OB_MIB);
		leave_free(&bed, percent);
		ob_sim_rule_esxi.step(&bed.host);
		assert_in_range(bed.machines[0].limit_bytes, 590 * OB_MIB, 594 * OB_MIB);
		assert_true(taken(&bed.machines[1]) > 20.0 * OB_MIB);
	}
}

/* In low who has nothing to give does not grow either; in hard he may. Above soft nobody is held. */
static void in_low_nobody_grows(void **state)
{
	static const struct {
		double percent;
		bool may_grow;
	} cases[] = { { 80, true }, { 20, true }, { 10, false } };

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct bed bed;

		begin(&bed);
		add(&bed, 2 * OB_GIB, 1, 1700.0 * OB_MIB, 0);
		add(&bed, 2 * OB_GIB, 100000, 500.0 * OB_MIB, 500.0 * OB_MIB);
		leave_free(&bed, cases[i].percent);
		ob_sim_rule_esxi.step(&bed.host);
		assert_int_equal(bed.machines[1].limit_bytes, cases[i].may_grow ? ob_budget_ceiling(2 * OB_GIB) : 500 * OB_MIB);
		assert_int_equal(taken(&bed.machines[0]) > 0, cases[i].percent < 64);
		/* It is free again when there is enough. */
		bed.host.budget_bytes *= 2;
		ob_sim_rule_esxi.step(&bed.host);
		assert_int_equal(bed.machines[0].limit_bytes, ob_budget_ceiling(2 * OB_GIB));
		assert_int_equal(bed.machines[1].limit_bytes, ob_budget_ceiling(2 * OB_GIB));
	}
}

/* --- Proxmox VE --- */

/* The goal, and machines by RAM, shares, least, balloon and what is used, in MiB; what PVE::AutoBalloon of pve-manager makes of them. */
static void proxmox_does_as_published(void **state)
{
	static const struct {
		double goal;
		struct {
			uint64_t ram, shares, least, now, used;
			double becomes;
		} machines[MACHINES];
	} cases[] = {
		/* Who has less free than a quarter of his least gets first, the others only if nobody of those can take anything. */
		{ 60, { { 4096, 1000, 1024, 2048, 1948, 2108 }, { 4096, 1000, 1024, 2048, 1024, 2048 } } },
		{ 150, { { 4096, 1000, 1024, 2048, 1024, 1948 }, { 4096, 2000, 1024, 2048, 1024, 2148 } } },
		/* By shares, 100 MiB at most, and some of the same group may have to give for it. */
		{ 250, { { 4096, 1000, 1024, 2048, 1948, 1948 }, { 4096, 2000, 1024, 2048, 2000, 2148 } } },
		/* Who has enough gives first, but not who has less than his part. */
		{ -150, { { 4096, 1000, 1024, 2048, 1948, 2048 }, { 4096, 1000, 1024, 2048, 1024, 1948 }, { 4096, 3000, 1024, 2048, 1024, 2048 } } },
		{ -150, { { 4096, 1000, 1024, 2048, 1948, 1948 }, { 4096, 3000, 1024, 2048, 1948, 2048 } } },
		{ -400, { { 2048, 1000, 1024, 1040, 512, 1040 }, { 2048, 1000, 1024, 2048, 512, 1948 } } },
		/* What was planned for one before another one turned out to have too little stays. */
		{ -28, { { 1024, 500, 848, 992, 704, 992 }, { 2048, 1000, 1328, 1776, 608, 1770 }, { 2048, 500, 832, 1152, 688, 1130 } } },
		/* 10 MiB are not worth it. */
		{ 9, { { 4096, 1000, 1024, 2048, 1948, 2048 } } },
		{ -9, { { 4096, 1000, 1024, 2048, 1024, 2048 } } },
		{ 11, { { 4096, 1000, 1024, 2048, 1948, 2059 } } },
		{ -11, { { 4096, 1000, 1024, 2048, 1024, 2037 } } },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct bed bed;

		begin(&bed);
		for (unsigned j = 0; j < MACHINES && cases[i].machines[j].ram; j++) {
			struct ob_sim_machine *machine = add(&bed, cases[i].machines[j].ram * OB_MIB, cases[i].machines[j].shares, OB_GIB, 0);

			machine->load.reservation_bytes = cases[i].machines[j].least * OB_MIB;
			machine->limit_bytes = cases[i].machines[j].now * OB_MIB;
			machine->used_bytes = cases[i].machines[j].used * OB_MIB;
		}
		/* 80% of the host's memory less what is used. */
		bed.host.budget_bytes = (uint64_t)((bed.cost + cases[i].goal * OB_MIB) / 0.8);
		bed.host.tick = 1;
		ob_sim_rule_proxmox.step(&bed.host);
		for (unsigned j = 0; j < bed.host.n; j++)
			assert_int_equal(bed.machines[j].limit_bytes, cases[i].machines[j].now * OB_MIB);
		bed.host.tick = 10 * OB_SIM_TICKS;
		ob_sim_rule_proxmox.step(&bed.host);
		for (unsigned j = 0; j < bed.host.n; j++)
			assert_float_equal((double)bed.machines[j].limit_bytes / OB_MIB, cases[i].machines[j].becomes, 0.001);
	}
}

/* --- MoM --- */

/* What of the host is free, in percent; a machine of 1000 MiB of 2 GiB by its least and what it uses, in MiB; what it becomes by balloon.rules. */
static void mom_does_as_published(void **state)
{
	static const struct {
		double free_percent;
		uint64_t least, used;
		double becomes;
	} cases[] = {
		{ 25, 0, 500, 1050 },    /* enough is free: 5% more */
		{ 20.1, 0, 500, 1050 },  /* under pressure below 20% */
		{ 19.9, 0, 500, 950 },   /* 5% less; without a least that is all */
		{ 10, 960, 900, 960 },   /* not below its least ... */
		{ 10, 960, 855, 955 },   /* ... or what it uses and of its size what is free: 10% */
		{ 10, 960, 840, 950 },
		{ 6, 1000, 900, 960 },
		{ 10, 1000, 898, 1000 }, /* a change up to 0.25% is none */
		{ 10, 1000, 897, 997 },
		{ 5.1, 1000, 940, 991 },
		{ 4.9, 1000, 990, 989 }, /* critical: 5% less than what is free, which makes it swap */
		{ 2, 1000, 990, 960 },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct ob_sim_machine *machine;
		struct bed bed;

		begin(&bed);
		machine = add(&bed, 2 * OB_GIB, 1000, OB_GIB, 0);
		machine->limit_bytes = 1000 * OB_MIB;
		machine->load.reservation_bytes = cases[i].least * OB_MIB;
		machine->used_bytes = cases[i].used * OB_MIB;
		bed.host.budget_bytes = (uint64_t)(bed.cost / (1 - cases[i].free_percent / 100));
		bed.host.tick = 1;
		ob_sim_rule_mom.step(&bed.host);
		assert_int_equal(machine->limit_bytes, 1000 * OB_MIB);
		bed.host.tick = 10 * OB_SIM_TICKS;
		ob_sim_rule_mom.step(&bed.host);
		assert_float_equal((double)machine->limit_bytes / OB_MIB, cases[i].becomes, 0.001);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(min_free_is_the_sliding_scale),
		cmocka_unit_test(states_begin_where_they_are_published),
		cmocka_unit_test(memory_is_taken_from_who_pays_least),
		cmocka_unit_test(in_the_end_all_pay_alike),
		cmocka_unit_test(balloons_first_then_whatever_it_takes),
		cmocka_unit_test(nobody_is_taken_below_his_reservation),
		cmocka_unit_test(in_low_nobody_grows),
		cmocka_unit_test(proxmox_does_as_published),
		cmocka_unit_test(mom_does_as_published),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
