/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How short the host's memory is, and so what is to be done with large pages: the controller of largepages/host.h, fed with
 * what the arbiter and the agents know, once a second.
 *
 * Free is the budget less what machines cost and the stores take (ob_arbiter_free()), not less what they may cost: limits
 * that fill the budget are no shortage while nobody uses them. Without a budget the host is in high.
 *
 * What is shareable is said by the agents' counters, and since counters start anew with a process and come and go with
 * machines, only what is added between two steps counts. The sums forget by number, not by time: once they are larger than
 * WINDOW_PAGES, both are halved. So the average is of the latest looks, whenever they were, and stays while nobody looks. An
 * agent may lie: no machine adds more than a window in a step, nor more shareable pages than it has looked at.
 *
 * The orders are the host's, the rates of them for everybody together: each machine gets its part by RAM, and never less than
 * 1 of what is not 0. LARGE is sent after HELLO, and when what it would say is not what was said last, which a step decides:
 * at most once a second, although free memory moves the thresholds all the time. One that the socket does not take is sent
 * when it does (link.c), as it is wanted then.
 *
 * What QEMU puts into a new machine's memory is there before its agent can say HELLO. So whether new large pages may come
 * about is in the answer to its admission too, and holds until the first LARGE.
 *
 * While machines of before are expected back (arbiter.c) there are no steps: memory would look free that is not. Their
 * agents go on with what they were told last.
 */
#include "daemon/large.h"

#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "daemon/arbiter.h"
#include "daemon/link.h"

#define WINDOW_PAGES 16384u /* of 256 large pages at least, each looked at in 64 places at most */

__extension__ typedef unsigned __int128 wide;

/* What a machine has looked at since the last step. */
static void count_machine(struct ob_large *large, struct ob_machine *machine)
{
	struct ob_large_machine *own = &machine->large;
	uint64_t sampled = machine->stats.large_sampled_pages, shareable = machine->stats.large_shareable_pages;
	bool is_going_on = own->is_seen && sampled >= own->sampled_seen && shareable >= own->shareable_seen;
	uint64_t more = sampled - own->sampled_seen, good = shareable - own->shareable_seen;

	if (!machine->stats_ns)
		return;
	own->is_seen = true;
	own->sampled_seen = sampled;
	own->shareable_seen = shareable;
	if (!is_going_on || !more)
		return;
	good = OB_MIN(good, more);
	if (more > WINDOW_PAGES) {
		good = (uint64_t)((wide)good * WINDOW_PAGES / more);
		more = WINDOW_PAGES;
	}
	large->sampled_pages += more;
	large->shareable_pages += good;
}

static void count_all(struct ob_daemon *daemon)
{
	struct ob_large *large = &daemon->large;

	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		count_machine(large, machine);
	while (large->sampled_pages > WINDOW_PAGES) {
		large->sampled_pages /= 2;
		large->shareable_pages /= 2;
	}
}

uint32_t ob_large_shareable(const struct ob_large *large)
{
	uint64_t sampled = large->sampled_pages;

	return sampled ? (uint32_t)((large->shareable_pages * OB_LARGE_PAGES + sampled / 2) / sampled) : OB_LARGE_UNKNOWN;
}

bool ob_large_may_make(const struct ob_large *large)
{
	return !large->host.is_started || large->orders.may_make;
}

static wide ram_of_all(const struct ob_daemon *daemon)
{
	wide sum = 0;

	for (const struct ob_machine *machine = daemon->machines; machine; machine = machine->next)
		sum += ob_arbiter_ram(machine);
	return sum;
}

/* A machine's part of a rate for all. */
static uint32_t part_of(uint32_t rate, uint64_t ram, wide sum)
{
	wide part = sum ? ((wide)rate * ram + sum - 1) / sum : 0;

	return rate ? (uint32_t)OB_MAX(OB_MIN(part, (wide)OB_WIRE_LARGE_RATE_MAX), (wide)1) : 0;
}

static void set_wanted(struct ob_machine *machine, wide sum)
{
	const struct ob_large_orders *orders = &machine->daemon->large.orders;
	uint64_t ram = ob_arbiter_ram(machine);

	machine->large.wanted = (struct ob_wire_large){
		.policy = orders->policy, .state = orders->state, .hot_pages = orders->hot_pages, .cold_pages = orders->cold_pages,
		.flags = orders->may_make ? OB_WIRE_LARGE_MAY_MAKE : 0, .scan_rate = part_of(orders->scan_rate, ram, sum),
		.break_rate = part_of(orders->break_rate, ram, sum), .collapse_rate = part_of(orders->collapse_rate, ram, sum),
	};
}

/* Whether the agent lacks an order. */
static bool is_due(const struct ob_machine *machine)
{
	const struct ob_large_machine *own = &machine->large;

	return machine->daemon->large.host.is_started && (!own->is_told || memcmp(&own->told, &own->wanted, sizeof(own->told)));
}

int ob_large_flush(struct ob_machine *machine)
{
	struct ob_wire_msg msg = { .type = OB_WIRE_LARGE, .large = machine->large.wanted };
	int r;

	if (!is_due(machine))
		return 0;
	r = ob_link_send(machine, &msg, -1);
	if (r < 0)
		return r;
	machine->large.told = msg.large;
	machine->large.is_told = true;
	return 0;
}

void ob_large_connected(struct ob_machine *machine)
{
	machine->large.is_told = false;
	set_wanted(machine, ram_of_all(machine->daemon));
}

static void order_all(struct ob_daemon *daemon)
{
	wide sum = ram_of_all(daemon);

	for (struct ob_machine *machine = daemon->machines; machine; machine = machine->next) {
		set_wanted(machine, sum);
		if (machine->link && is_due(machine))
			ob_link_flush(machine);
	}
}

/* A budget where there was none, or none any more: the state is what it would be at a start, at once. */
static void start_anew(struct ob_large *large)
{
	large->host = (struct ob_large_host){ .changes = large->host.changes, .resets = large->host.resets };
}

void ob_large_step(struct ob_daemon *daemon)
{
	struct ob_large *large = &daemon->large;
	struct ob_large_input input = { .min_free_bytes = daemon->config.min_free_bytes };
	uint64_t now_ns = ob_now_ns();

	if (ob_arbiter_is_settling(daemon))
		return;
	count_all(daemon);
	input.shareable_pages = ob_large_shareable(large);
	if (daemon->config.budget_bytes != OB_BUDGET_NONE) {
		input.budget_bytes = daemon->config.budget_bytes;
		input.free_bytes = ob_arbiter_free(daemon);
		input.growth_bytes = ob_arbiter_growth(daemon);
	}
	if (!input.budget_bytes != !large->host.budget_bytes)
		start_anew(large);
	input.elapsed_ns = large->host.is_started ? now_ns - large->step_ns : 0;
	large->orders = ob_large_host_step(&large->host, daemon->config.large_policy, &input);
	large->step_ns = now_ns;
	order_all(daemon);
}
