/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sim/memory.h"

#include "base/compiler.h"

#define PAGE_BYTES   4096.0
#define TICK_SECONDS (1.0 / OB_SIM_TICKS)
#define RECLAIM      1e9 /* bytes a second */
#define FIRST_TOUCH  1e9
#define TABLES_SHARE 256.0 /* of RAM: the engine's tables */
#define POOL_SHARE   0.5
#define ROUNDING     1.0 /* bytes: less than that is nothing */

static const double fault_seconds[OB_SIM_PLACES] = { 0, 9e-6, 20e-6, 70e-6 };

static double least(double a, double b)
{
	return a < b ? a : b;
}

static double above_zero(double a)
{
	return a > 0 ? a : 0;
}

static double sum(const double amounts[OB_SIM_PLACES])
{
	return amounts[OB_SIM_IN_PLACE] + amounts[OB_SIM_SPARE] + amounts[OB_SIM_POOL] + amounts[OB_SIM_STORE];
}

double ob_sim_memory_in(const struct ob_sim_memory *memory, enum ob_sim_place place)
{
	return memory->hot[place] + memory->cold[place];
}

double ob_sim_memory_all(const struct ob_sim_memory *memory)
{
	return sum(memory->hot) + sum(memory->cold);
}

static double pool_ratio(const struct ob_sim_load *load)
{
	return (double)load->compressed_permille / 1000;
}

double ob_sim_memory_cost(const struct ob_sim_memory *memory, const struct ob_sim_load *load)
{
	return ob_sim_memory_in(memory, OB_SIM_IN_PLACE) + ob_sim_memory_in(memory, OB_SIM_POOL) * pool_ratio(load) +
	       (double)load->ram_bytes / TABLES_SHARE;
}

/* --- change --- */

/* Takes an amount from all places alike, and adds it where it lies to `to`, which may be NULL: then it is given back. */
static void shift(double from[OB_SIM_PLACES], double *to, double amount)
{
	double all = sum(from), part = all > 0 ? least(amount / all, 1) : 0;

	for (int place = 0; place < OB_SIM_PLACES; place++) {
		double moved = from[place] * part;

		from[place] = above_zero(from[place] - moved);
		if (to)
			to[place] += moved;
	}
}

void ob_sim_memory_follow(struct ob_sim_memory *memory, const struct ob_sim_load *load)
{
	double excess = above_zero(ob_sim_memory_all(memory) - (double)load->content_bytes), hot;

	shift(memory->hot, NULL, above_zero(excess - sum(memory->cold)));
	shift(memory->cold, NULL, excess);
	hot = sum(memory->hot);
	shift(memory->hot, memory->cold, above_zero(hot - (double)load->working_set_bytes));
	shift(memory->cold, memory->hot, above_zero((double)load->working_set_bytes - hot));
}

/* --- reclaim --- */

/* Of what is in place, so much leaves it: each part to where it can go. */
static void evict_from(double amounts[OB_SIM_PLACES], const struct ob_sim_load *load, double bytes, struct ob_sim_flow *flow)
{
	double spare = (double)load->spare_permille / 1000, compressible = (double)load->compressible_permille / 1000;
	double parts[OB_SIM_PLACES] = { 0, spare, compressible, 1 - spare - compressible };

	amounts[OB_SIM_IN_PLACE] = above_zero(amounts[OB_SIM_IN_PLACE] - bytes);
	for (int place = OB_SIM_SPARE; place < OB_SIM_PLACES; place++) {
		amounts[place] += bytes * parts[place];
		flow->went[place] += bytes * parts[place];
	}
}

static void write_back_from(double amounts[OB_SIM_PLACES], double bytes, struct ob_sim_flow *flow)
{
	amounts[OB_SIM_POOL] = above_zero(amounts[OB_SIM_POOL] - bytes);
	amounts[OB_SIM_STORE] += bytes;
	flow->went[OB_SIM_IN_PLACE] += bytes;
}

/* Brings the pool down to what it may cost, or, where nothing else is left, by what is wanted. Returns what is left of rate. */
static double write_back(struct ob_sim_memory *memory, const struct ob_sim_load *load, double pool_may_cost, double rate,
			 struct ob_sim_flow *flow)
{
	double ratio = pool_ratio(load), much, cold;

	if (ratio <= 0)
		return rate;
	much = least(above_zero(ob_sim_memory_in(memory, OB_SIM_POOL) - pool_may_cost / ratio), rate);
	cold = least(much, memory->cold[OB_SIM_POOL]);
	write_back_from(memory->cold, cold, flow);
	write_back_from(memory->hot, least(much - cold, memory->hot[OB_SIM_POOL]), flow);
	return rate - much;
}

/* Down to a cost, as far as rate (bytes of guest memory) allows. Returns what is left of it. */
static double reclaim(struct ob_sim_memory *memory, const struct ob_sim_load *load, double limit, double cost_wanted, double rate,
		      struct ob_sim_flow *flow)
{
	double gain = 1 - (double)load->compressible_permille / 1000 * pool_ratio(load), excess, much, cold;

	rate = write_back(memory, load, limit * POOL_SHARE, rate, flow);
	excess = ob_sim_memory_cost(memory, load) - cost_wanted;
	if (excess <= 0)
		return rate;
	much = least(least(gain > 0.001 ? excess / gain : rate, ob_sim_memory_in(memory, OB_SIM_IN_PLACE)), rate);
	cold = least(much, memory->cold[OB_SIM_IN_PLACE]);
	evict_from(memory->cold, load, cold, flow);
	evict_from(memory->hot, load, least(much - cold, memory->hot[OB_SIM_IN_PLACE]), flow);
	rate -= much;
	excess = ob_sim_memory_cost(memory, load) - cost_wanted;
	if (excess > 0 && ob_sim_memory_in(memory, OB_SIM_IN_PLACE) < PAGE_BYTES)
		rate = write_back(memory, load, above_zero(ob_sim_memory_in(memory, OB_SIM_POOL) * pool_ratio(load) - excess), rate, flow);
	return rate;
}

double ob_sim_memory_take(struct ob_sim_memory *memory, double bytes)
{
	double cold = least(bytes, memory->cold[OB_SIM_IN_PLACE]), hot = least(bytes - cold, memory->hot[OB_SIM_IN_PLACE]);

	memory->cold[OB_SIM_IN_PLACE] -= cold;
	memory->cold[OB_SIM_STORE] += cold;
	memory->hot[OB_SIM_IN_PLACE] -= hot;
	memory->hot[OB_SIM_STORE] += hot;
	return cold + hot;
}

/* --- a tick --- */

/* What would come back if nothing held the machine up for want of room. Returns the progress that faults leave it. */
static double wish(const struct ob_sim_memory *memory, const struct ob_sim_load *load, double ret_came[OB_SIM_PLACES])
{
	double touched = (double)load->touches * PAGE_BYTES * TICK_SECONDS, hot = sum(memory->hot), seconds = 0, progress, missing;

	for (int place = OB_SIM_SPARE; place < OB_SIM_PLACES; place++) {
		ret_came[place] = hot > 0 ? least(memory->hot[place], touched * (memory->hot[place] / hot)) : 0;
		seconds += ret_came[place] / PAGE_BYTES * fault_seconds[place];
	}
	progress = TICK_SECONDS / (TICK_SECONDS + seconds);
	for (int place = OB_SIM_SPARE; place < OB_SIM_PLACES; place++)
		ret_came[place] *= progress;
	missing = (double)load->content_bytes - ob_sim_memory_all(memory);
	ret_came[OB_SIM_IN_PLACE] = missing < ROUNDING ? 0 : least(missing, FIRST_TOUCH * TICK_SECONDS);
	return progress;
}

static double needs(const struct ob_sim_load *load, const double came[OB_SIM_PLACES])
{
	return came[OB_SIM_IN_PLACE] + came[OB_SIM_SPARE] + came[OB_SIM_STORE] + came[OB_SIM_POOL] * (1 - pool_ratio(load));
}

static void bring(struct ob_sim_memory *memory, const struct ob_sim_load *load, const double came[OB_SIM_PLACES], double part,
		  struct ob_sim_flow *flow)
{
	double first = came[OB_SIM_IN_PLACE] * part, hot;

	for (int place = OB_SIM_SPARE; place < OB_SIM_PLACES; place++) {
		/* The pool may have been written back meanwhile. */
		double bytes = least(came[place] * part, memory->hot[place]);

		memory->hot[place] -= bytes;
		memory->hot[OB_SIM_IN_PLACE] += bytes;
		flow->came[place] += bytes;
	}
	hot = least(first, above_zero((double)load->working_set_bytes - sum(memory->hot)));
	memory->hot[OB_SIM_IN_PLACE] += hot;
	memory->cold[OB_SIM_IN_PLACE] += first - hot;
	flow->came[OB_SIM_IN_PLACE] += first;
}

void ob_sim_memory_tick(struct ob_sim_memory *memory, const struct ob_sim_load *load, uint64_t limit_bytes, struct ob_sim_flow *ret)
{
	double limit = limit_bytes == OB_SIM_NONE ? 1e18 : (double)limit_bytes, came[OB_SIM_PLACES], need, room, part = 1;

	*ret = (struct ob_sim_flow){ 0 };
	ret->progress = wish(memory, load, came);
	need = needs(load, came);
	/* Room for all that is to come is made first; where there is less, less comes. */
	if (ob_sim_memory_cost(memory, load) + need > limit)
		reclaim(memory, load, limit, limit - need, RECLAIM * TICK_SECONDS, ret);
	room = above_zero(limit - ob_sim_memory_cost(memory, load));
	if (need > room + ROUNDING)
		part = room / need;
	bring(memory, load, came, part, ret);
	/* Nothing has to wait but faults and first touches: who needs no room is not held up. */
	ret->progress *= part;
}
