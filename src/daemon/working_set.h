/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a machine needs for what it uses, from what its engine sees (engine/active.c): what overbookd divides the budget by. Pure
 * functions: no clock, no I/O; the state is the caller's. One step a second or so, for each machine.
 *
 *     estimate    the share of sampled pages that were active, with two more that would have been: few samples say little, and little is said
 *                 for all of the memory that the guest has. An eighth is added for what is on the bench at any time, and
 *                 the engine's tables
 *     demand      what has come back from the pool and the store of late, over LATELY: a machine that wakes up, or whose limit is too low,
 *                 is seen by that before samples tell. No more than it has there, since that is what it can want
 *     believed    the greater of the two, in steps of GRAIN (1/32 of what it could use, at least 16 MiB). It rises at once. It falls when the
 *                 estimate has been lower by two GRAINs for REST, by a quarter of the difference, and rests again: limits move seldom, and a
 *                 machine that only pauses keeps what it has
 *
 *     wanted      what it would cost if it might: what it costs, as much as has come back of late, of what has been evicted beyond that an
 *                 eighth, and HEADROOM to grow into before it is heard of again (1/16 of that, at least 64 MiB). In steps as above,
 *                 rises at each report, and falls as believed does, by all of the difference. Who wants less than his part of the budget leaves
 *                 the rest to others. (All that has been evicted would be too much: it is cold, and what is set aside for it nobody
 *                 else has. In simulations, docs/simulate.md, that lost more time than this; none of it, or twice the
 *                 headroom, did where machines work in bursts.)
 *
 * What the guest itself says of its memory plays no part: all of this is what it does.
 */
#ifndef OB_DAEMON_WORKING_SET_H
#define OB_DAEMON_WORKING_SET_H

#include <stdint.h>

#include "proto/stats.h"

#define OB_WORKING_SET_REST_NS 10000000000ull

struct ob_working_set {
	uint64_t believed_bytes; /* OB_BUDGET_NONE: not known */
	uint64_t fell_ns;        /* when it last fell, or the estimate was last as high */
	uint64_t seen_ns, seen_pages; /* the last step: what had come back by then */
	uint64_t demand_bytes;   /* decays over LATELY */
	uint64_t wanted_bytes;   /* OB_BUDGET_NONE: not known */
	uint64_t wanted_ns;      /* as fell_ns */
};

/* A machine's engine has come, or come back: nothing is known. */
void ob_working_set_forget(struct ob_working_set *set);

/* It has reported: what it wants may have risen. */
void ob_working_set_note(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes);

/* most_bytes: what the machine could cost, OB_BUDGET_NONE while not known. */
void ob_working_set_step(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns);

#endif
