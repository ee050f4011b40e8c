/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The division of the host's memory budget among machines. Pure functions on an array: no clock, no I/O, no state.
 *
 * Two questions are answered one after the other:
 *
 * ob_budget_divide() - what is each machine entitled to? Everybody gets its reservation (and never less than its least, which
 *     is a 32nd of what it could cost, from 8 to 16 MiB), the rest goes in proportion to shares; nobody gets more than its maximum or than
 *     it wants now, and what it leaves flows to the others. What is left when everybody has what he wants is dealt by shares alone, up to what each could
 *     use at all: it is room to grow, which is taken back without anybody's losing anything as soon as another one wants more. Where the reservations do not fit (admission prevents it, a restarted
 *     overbookd may meet it) they are scaled down alike, towards the least limit that can be kept.
 *
 *     Memory that a machine does not use is dearer to it, by the idle memory tax (Waldspurger, "Memory Resource Management in
 *     VMware ESX Server", OSDI 2002, section 5.2): with a tax of t an idle byte costs as many shares as 1 / (1 - t) bytes that are used.
 *     So of two machines with equal shares of which one sleeps, the other gets what it uses, and with a tax of 3/4 four times as much of
 *     the rest. ESX takes memory from who pays least a page, a step at a time; here the level is found at which all pay alike,
 *     which is where that ends.
 *
 * ob_budget_grant() - what may each machine have now? A machine above its target is cut to it at once. A machine below it
 *     grows only into what is free: the budget less what every machine costs or may still come to cost before
 *     overbookd hears of it. Hence the sum of max(limit, cost) never exceeds the budget by an order given here.
 *
 * A machine's charge is what must be set aside for it: max(what it costs, what it may cost). What it may cost is the
 * highest limit that can still be in force (exposed_bytes: an order to shrink counts only when the agent has confirmed it
 * and reported since), but never more than the machine could use at all (ceiling_bytes).
 */
#ifndef OB_DAEMON_BUDGET_H
#define OB_DAEMON_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "proto/env.h" /* OB_LIMIT_MIN */

#define OB_BUDGET_NONE      UINT64_MAX   /* no limit, no maximum, not known */
#define OB_BUDGET_GRAIN     (64ull << 10) /* bytes; targets are multiples of it, rounded down */
#define OB_BUDGET_TAX_MAX     99u
#define OB_BUDGET_TAX_DEFAULT 75u
#define OB_BUDGET_LEAST_MAX (16ull << 20) /* bytes: no machine's least is more, that of one whose ceiling is not known is this */
#define OB_BUDGET_URGENT    (64ull << 20) /* bytes that a newcomer needs at least to start, if its target is not less */
#define OB_BUDGET_GROW_STEP (4ull << 20)  /* bytes by which a machine grows at least, or to its target */

enum ob_budget_role {
	OB_BUDGET_ORDERED, /* obeys orders; a newcomer is one whose limit, exposure and cost are 0 */
	OB_BUDGET_FIXED,   /* has a limit, but cannot be told another one now (starting, or its agent is silent) */
	OB_BUDGET_FREE,    /* has no limit by the user's wish (released): it costs what it costs */
};

/* While the budget is divided: what a machine would have next is used, is idle, or is more than it could have. */
enum ob_budget_stage { OB_BUDGET_USED, OB_BUDGET_IDLE, OB_BUDGET_FULL };

struct ob_budget_machine {
	enum ob_budget_role role;
	uint32_t shares;            /* at least 1 */
	uint64_t reservation_bytes; /* guaranteed; 0: nothing */
	uint64_t maximum_bytes;     /* the user's; OB_BUDGET_NONE */
	uint64_t ceiling_bytes;     /* what it could cost at most; OB_BUDGET_NONE while not known */
	uint64_t limit_bytes;       /* ordered last; OB_BUDGET_NONE: none */
	uint64_t exposed_bytes;     /* the highest limit that may still be in force */
	uint64_t cost_bytes;
	uint64_t wanted_bytes;      /* what it would cost now if it might, and some to grow (working_set.h); OB_BUDGET_NONE: not known, all that it could have */
	uint64_t active_bytes;      /* what it uses, or costs for what it uses; OB_BUDGET_NONE: not known, taken for all of it */
	uint64_t urgent_bytes;      /* it is served first up to here */
	enum ob_budget_stage stage; /* ob_budget_divide()'s own */
	uint64_t target_bytes;      /* set by ob_budget_divide() */
	uint64_t grant_bytes;       /* set by ob_budget_grant(): the limit to order */
};

/* tax_percent: 0 to OB_BUDGET_TAX_MAX. */
void ob_budget_divide(uint64_t budget_bytes, unsigned tax_percent, struct ob_budget_machine *machines, size_t n);

/* After ob_budget_divide(). Returns what is still free then. */
uint64_t ob_budget_grant(uint64_t budget_bytes, struct ob_budget_machine *machines, size_t n);

/* After ob_budget_divide(). How much more machines are known to use than they are entitled to: while it is not 0, what is given to anything else is taken from that. */
uint64_t ob_budget_lack(const struct ob_budget_machine *machines, size_t n);

/*
 * The canonical stores of shared pages are paid for by the same budget. They get ahead of what they need, in steps, so that they can
 * grow by a page at any time without a word to the machines: ob_budget_store_want() says how much is to be set aside for stores
 * that take used_bytes (0 when they take nothing and are not wanted), and ob_budget_store_allow() how much of that there is
 * beside what the machines may cost: never less than is used, which is a fact.
 */
#define OB_BUDGET_STORE_STEP  (4ull << 20)
#define OB_BUDGET_STORE_AHEAD (2ull << 20)

uint64_t ob_budget_store_want(uint64_t used_bytes, bool hungry);
uint64_t ob_budget_store_allow(uint64_t budget_bytes, uint64_t used_bytes, uint64_t want_bytes,
			       const struct ob_budget_machine *machines, size_t n);

/*
 * While machines and stores are above the budget (it has been cut, say) nothing is free, and a store that waited for room would wait until the
 * machines have evicted what it could have saved. So it may grow in advance of what that gives back, which is two pages for one at
 * least: by at most half of what the machines give up in this time, and OB_BUDGET_STORE_ADVANCE, but into nothing that is guaranteed. Thus the sum never
 * rises by more than that, and comes down half as fast as the machines do, whatever the store is filled with. *least_bytes keeps the
 * least that has been seen of what is compared, OB_BUDGET_NONE at first and while nothing is above the budget. Returns what the stores may
 * take by this alone.
 */
#define OB_BUDGET_STORE_ADVANCE (2ull << 20)

uint64_t ob_budget_store_advance(uint64_t budget_bytes, uint64_t used_bytes, uint64_t want_bytes,
				 const struct ob_budget_machine *machines, size_t n, uint64_t *least_bytes);

/* What must be set aside for a machine; saturates at OB_BUDGET_NONE. */
uint64_t ob_budget_charge(const struct ob_budget_machine *machine);

/* What a machine of so much RAM could cost at most: RAM, the engine's tables (0.4%) and its buffers. OB_BUDGET_NONE while its RAM is not known (0). */
uint64_t ob_budget_ceiling(uint64_t ram_bytes);

/* Whether a grant differs enough from the limit that was ordered last to be worth an order: a cut always does. */
bool ob_budget_is_worth_an_order(uint64_t limit_bytes, uint64_t target_bytes, uint64_t grant_bytes);

/* The least that a machine is left with by any division: OB_LIMIT_MIN to OB_BUDGET_LEAST_MAX, within its own bounds. */
uint64_t ob_budget_least(const struct ob_budget_machine *machine);

/* What is guaranteed to a machine: its reservation within its own bounds, and never less than its least. */
uint64_t ob_budget_floor(const struct ob_budget_machine *machine);

/* What an engine may leave free below a limit, between its marks: two margins of 1/48 of it, each 0.5 to 24 MiB, less 384 KiB (engine/cost.c). */
uint64_t ob_budget_marks(uint64_t limit_bytes);

/* What a newcomer must have to start: its target, but no more than OB_BUDGET_URGENT or a quarter of the target. */
uint64_t ob_budget_need(uint64_t target_bytes);

/* The sum of all that is guaranteed, what released machines cost included. Admission compares it with the budget. */
uint64_t ob_budget_guaranteed(const struct ob_budget_machine *machines, size_t n);

#endif
