/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A world under one rule: hosts with a budget each, and machines that are dealt to them by turns. It is told what machines
 * do, goes on by a second at a time, and measures. No I/O, no clock; with the same seed and events everything is the same
 * again.
 *
 * A tick (a tenth of a second), for each host by itself: what was ordered in the last tick comes into force; each machine's
 * memory moves (memory.h); what all machines cost is compared with the budget; each engine reports; the rule is asked.
 *
 * Above the budget the host itself swaps, as a kernel would: what is cold first, whoever's it is, in proportion, at
 * HOST_SWAP a second, to the disk. That is an emergency, not a means of any rule: the excess is counted before it.
 *
 * What is measured:
 *
 *     swapped, compressed   bytes of guest memory that went to the disk and the pool (from the pool to the disk included),
 *                           and came back
 *     slowdown              of each second of each machine that ran: 1 / progress, at most SLOWDOWN_MAX; mean, and
 *                           percentiles of all of them
 *     fairness              Jain's index of the mean progress p of machines, each counted as often as it has shares w: (sum
 *                           wp)^2 / (sum w x sum wp^2). 1 when all get on alike, 1/n when one alone does. A second in which
 *                           a machine waits to be let in is one without progress
 *     excess                of a host above its budget at the end of a tick, before it swaps, if it is more than a page: the
 *                           worst one, and for how many host-seconds there was any: the hosts' times are added up
 *     orders                changes of limits, the first limit of a machine not counted
 */
#ifndef OB_SIM_SIM_H
#define OB_SIM_SIM_H

#include "sim/rule.h"
#include "sim/trace.h"

struct ob_sim_result {
	uint64_t machines, refused;        /* that came; of those, not admitted */
	uint64_t machine_seconds, waited_seconds;
	double swapped_out_bytes, swapped_in_bytes, compressed_out_bytes, compressed_in_bytes;
	double slowdown_mean, slowdown_p95, slowdown_p99;
	double fairness;
	double excess_bytes, excess_seconds;
	double orders_per_machine_minute;
	double cost_mean_bytes;            /* of all hosts together, on average */
};

struct ob_sim;

/* Returns 0 or -ENOMEM. */
int ob_sim_create(const struct ob_sim_rule *rule, uint32_t hosts, uint64_t budget_bytes, uint64_t seed,
		  struct ob_sim **ret_sim) OB_MUST_CHECK;
void ob_sim_destroy(struct ob_sim *sim);

/* What overbookd is told by --idle-tax, 0 to OB_BUDGET_TAX_MAX percent; without it the default. To other rules it is nothing. */
void ob_sim_set_idle_tax(struct ob_sim *sim, unsigned percent);

/* Takes a load, or that a machine goes. Returns 0 or -ENOMEM. */
int ob_sim_take_event(struct ob_sim *sim, const struct ob_sim_event *event) OB_MUST_CHECK;
void ob_sim_second(struct ob_sim *sim);
void ob_sim_measure(const struct ob_sim *sim, struct ob_sim_result *ret);

/* A machine by its number, or NULL; how much the worst host was above its budget in the last second. For tests. */
const struct ob_sim_machine *ob_sim_machine(const struct ob_sim *sim, uint32_t number);
double ob_sim_excess_of_second(const struct ob_sim *sim);

/*
 * Plays a source to its end through n worlds at once. on_second (may be NULL) is called after each second; what it returns
 * other than 0 ends it. Returns 0, that, or -errno with the reason.
 */
int ob_sim_play(struct ob_sim_source *source, struct ob_sim *const *sims, size_t n, int (*on_second)(void *context, uint64_t second),
		void *context, struct ob_error *err) OB_MUST_CHECK;

/* Random numbers that depend on nothing but these: the same for every rule. */
uint64_t ob_sim_draw(uint64_t seed, uint64_t a, uint64_t b);

#endif
