/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a machine needs for what it uses, from what its engine sees (engine/active.c): what overbookd divides the budget by. Pure
 * functions: no clock, no I/O; the state is the caller's. One step a second or so, for each machine.
 *
 *     estimate    the share of sampled pages that were active, with two more that would have been: few samples say little, and little is said
 *                 for all of the memory that the guest has. An eighth is added for what is on the bench at any time, or what the
 *                 engine leaves free below a limit, which is more where little is used, and its tables
 *     demand      what has come back from the pool and the store of late, over LATELY: a machine that wakes up, or whose limit is too low,
 *                 is seen by that before samples tell. No more than it has there, since that is what it can want; and not what has come back and
 *                 stayed, for which nothing had to go: that is in place now. A machine that gets back what it uses after a cut, and then has it, lacks nothing.
 *                 When there is less in place again, what had stayed of late counts as gone: an engine at its limit evicts a good deal at a time, and then
 *                 nothing for a while
 *     shared      the same of shared pages: they cost memory when they are back
 *     bound       what is in place, and all that has come back and gone again, be it as a neighbour of what was touched: what was touched over LATELY is among that, so
 *                 no more can be in use, whatever a few samples say. To that come its tables, what the engine leaves free below a limit, and its pool, as far as an
 *                 eighth has room for both
 *     believed    the lesser of estimate and bound, and besides demand and shared: who lacks what he uses comes before who has it. In steps of GRAIN (1/64 of
 *                 what it could use, at least 2 MiB), or finer: a 32nd to a 64th of what is believed, 256 KiB at least, so that how little it is
 *                 is told of machines that use little. It rises at once. It falls when it would have been lower by two steps for REST, to the most that it
 *                 would have been in that time: limits move seldom, and a machine that only pauses keeps what it has. Nor does it, or wanted, fall while the
 *                 guest waits for memory of its own and for REST after that, which may be believed for so long only (stall.h)
 *     low, high   how sure that is: what would be believed of the least and of the most of its memory of which the samples may well be, with 95%
 *                 confidence (the interval of Wilson, 1927); and as far as what is believed, which may be of a moment ago. An average of which the engine
 *                 says that it stands for more than SURE samples counts for no more: it may be the one with the short memory (engine/active.c), and is
 *                 the larger of two
 *
 *     wanted      what it would have in place if it might: what it costs without its pool, as much as has come back of late (what stayed counts too: more of
 *                 the same may be to come), of what has
 *                 been evicted beyond that an eighth, and HEADROOM to grow into before it is heard of again (1/16 of that, or of
 *                 what it could have, of which 64 MiB are enough). In GRAINs, rises and falls at each report: it falls when it has been lower by two GRAINs for REST,
 *                 by all of the difference. Who wants less than his part of the budget leaves the rest to others.
 *
 *                 So who has much in his pool wants less than he costs. While others want more he has to evict more, until what comes back
 *                 says that it is used: by that cold memory gets to where it is of use. In simulations (docs/simulate.md) it lost more
 *                 time to set aside what the pool takes for what is not to come back, or all that has been evicted; so did none of it
 *                 where machines work in bursts, and twice the headroom where they do not.
 *
 * What the guest itself says of its memory plays no part but in that: all of this is what it does.
 */
#ifndef OB_DAEMON_WORKING_SET_H
#define OB_DAEMON_WORKING_SET_H

#include <stdint.h>

#include "proto/stats.h"

#define OB_WORKING_SET_REST_NS 10000000000ull
#define OB_WORKING_SET_SAMPLES 16u /* before there are so many nothing is believed */

/* What has come back, of one kind. */
struct ob_working_set_back {
	uint64_t seen_pages;  /* in all, at the last step */
	uint64_t bytes;       /* of late, and has gone again; decays over LATELY */
	uint64_t stays_bytes; /* of late, and has stayed so far; the same */
};

struct ob_working_set {
	uint64_t believed_bytes; /* OB_BUDGET_NONE: not known */
	uint64_t low_bytes, high_bytes; /* it may be so much, and that is between these; the same */
	uint64_t fell_ns;        /* when it last fell, or the estimate was last as high */
	uint64_t highest_bytes;  /* of the estimates since then */
	uint64_t seen_ns;        /* the last step */
	struct ob_working_set_back demand, shared, all;
	uint64_t placed_bytes;   /* in place at the last step */
	uint64_t wanted_bytes;   /* OB_BUDGET_NONE: not known */
	uint64_t wanted_ns;      /* as fell_ns */
};

/* A machine's engine has come, or come back: nothing is known. */
void ob_working_set_forget(struct ob_working_set *set);

/* What has come back from pool and store of late, whether it has stayed or not. */
uint64_t ob_working_set_back_bytes(const struct ob_working_set *set);

/* It has reported: what it wants may have changed. */
void ob_working_set_note(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns);

/* What is known now does not fall for REST. */
void ob_working_set_keep(struct ob_working_set *set, uint64_t now_ns);

/* most_bytes: what the machine could cost, OB_BUDGET_NONE while not known. */
void ob_working_set_step(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns);

#endif
