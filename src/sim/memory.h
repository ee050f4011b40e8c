/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a machine's memory is, and what becomes of it in a tenth of a second under a limit. Pure functions on one struct.
 *
 * Theory of operation. Memory is a fluid: amounts of bytes, no pages that could be told apart. What the machine uses (hot)
 * and the rest (cold) are each in one of four places, and a tick moves amounts between them:
 *
 *                 above the limit, at RECLAIM a second at most, cold before hot
 *     in place  ---------------------------------------------------------------->  spare   zero, or equal to others': costs nothing
 *               ---------------------------------------------------------------->  pool    compressed; costs what it compresses to
 *               ---------------------------------------------------------------->  store   on the disk: costs nothing
 *                                             pool -> store, above POOL_SHARE of the limit
 *               <----------------------------------------------------------------
 *                 hot memory, as it is touched; each page waits as long as a fault of its kind takes
 *
 *     touches    a machine that is not held up touches so many pages of what it uses in a second, all of them alike: the
 *                part that is away faults. A second of faults is a second in which it does not touch: progress = 1 / (1 +
 *                time of faults in a second at full speed)
 *     room       what comes back, and what is touched first, has to fit under the limit, else it waits: the machine makes
 *                progress only as far as reclaim makes room. So a machine is never above its limit but after the limit was
 *                cut, and stands still until it is below
 *     change     a working set that grows takes from cold memory wherever that is, in proportion; one that shrinks leaves it
 *                where it is. New content is touched first, at FIRST_TOUCH a second
 *
 * The figures are measured, bench/results/paging.json (as of c5c996f) and reclaim.json on two processors:
 *
 *     fault      the time of a run by the faults in it, 1 / (accesses a second x faults an access): zero 16 us (zero/random:
 *                88,240 x 0.691), compressed 18 us (compressible/random: 61,930 x 0.894), disk 68 us (incompressible/random:
 *                22,640 x 0.648)
 *     RECLAIM    1 GB/s (compressible; to the store it was 2.7, of zeros 13.8)
 *     POOL_SHARE half of the limit, which is the most that the engine lets it be (pool_size.h)
 *     tables     what a machine costs beside its memory: 0.2075% of its RAM, and 0.6 MiB (bench/results/scale.json)
 *
 * What it leaves out: processors and disks that are shared with others, read-ahead, reclaim that errs about what is cold, a
 * working set that becomes another of the same size, large pages, balloons, page cache that a guest would rather drop,
 * sharing that costs a store. All of this is the same for every rule.
 *
 * Invariants, which tests check: no amount is negative, nothing is lost between places, and a machine that was not above its
 * limit is not after a tick.
 */
#ifndef OB_SIM_MEMORY_H
#define OB_SIM_MEMORY_H

#include <stdint.h>

#include "sim/trace.h"

#define OB_SIM_TICKS 10u /* a second */

enum ob_sim_place { OB_SIM_IN_PLACE, OB_SIM_SPARE, OB_SIM_POOL, OB_SIM_STORE, OB_SIM_PLACES };

struct ob_sim_memory {
	double hot[OB_SIM_PLACES], cold[OB_SIM_PLACES]; /* bytes of guest memory */
};

/* What a tick has moved, in bytes of guest memory, and how far the machine came. */
struct ob_sim_flow {
	double progress;                /* 0 to 1 */
	double went[OB_SIM_PLACES];     /* from in place to there; [OB_SIM_IN_PLACE]: from the pool to the store */
	double came[OB_SIM_PLACES];     /* back from there; [OB_SIM_IN_PLACE]: touched first */
};

/* The load has changed, or a machine comes: { 0 } has nothing yet. */
void ob_sim_memory_follow(struct ob_sim_memory *memory, const struct ob_sim_load *load);

/* A tick goes by. limit_bytes: OB_SIM_NONE is none. */
void ob_sim_memory_tick(struct ob_sim_memory *memory, const struct ob_sim_load *load, uint64_t limit_bytes, struct ob_sim_flow *ret);

/* Somebody else takes so much of what is in place to the disk. Returns how much there was. */
double ob_sim_memory_take(struct ob_sim_memory *memory, double bytes);

/* What it costs the host; what is away, in a place; all of it. */
double ob_sim_memory_cost(const struct ob_sim_memory *memory, const struct ob_sim_load *load);
double ob_sim_memory_in(const struct ob_sim_memory *memory, enum ob_sim_place place);
double ob_sim_memory_all(const struct ob_sim_memory *memory);
/* The engine's tables, which are part of the cost. */
double ob_sim_memory_tables(const struct ob_sim_load *load);

#endif
