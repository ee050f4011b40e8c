/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How large the compressed pool is to be, of the memory that a machine may have. A pure function of what was seen.
 *
 * Theory of operation. What the pool takes the guest cannot have in place: with more pool fewer pages come back from storage, with more in
 * place fewer come back at all. So a byte is where it saves the guest more time, and what comes back says where that is. Of the same
 * number of bytes, were they moved from the pool into place, or kept from being moved there:
 *
 *     near     pages that came back from the pool when fewer others had been stored since than these bytes hold: they would never have
 *              gone. Pages that do not compress, or that the store has already, go and come as they do, past the pool, and for each there is a
 *              read; they are added in proportion.
 *              So are pages that came back from the bench: for each that goes some are lifted that the guest still uses.
 *     far      other pages that came back from the oldest part of the pool, which these bytes are: they would have been read from storage. (What
 *              was stored lately may lie there as well, in a hole that another page has left; but that would not have gone)
 *
 * A pool from which next to nothing comes back holds what is colder than anything in place. It is to be smaller when pages that are in use are lifted to make
 * room: without that its size is of no consequence.
 *
 * This is the refault distance of Linux (mm/workingset.c), taken at both ends of the pool. A guest that uses all of its memory alike has near and far
 * alike and, as storage is slow, a large pool; one that has a working set, and cold memory besides, needs none of it compressed.
 *
 * Where there is no store the pool is all there is, and nothing is asked here.
 */
#ifndef OB_ENGINE_POOL_SIZE_H
#define OB_ENGINE_POOL_SIZE_H

#include <stdint.h>

#include "base/compiler.h"

#define OB_POOL_BENCH_MOST 4.0 /* faults on the bench for each page that went: where more are seen, pages went that are not counted here */
#define OB_POOL_SEEN_LEAST 24u /* near and far together, or back, or bench, before anything is made of them */

struct ob_pool_seen {
	uint64_t near, far;
	uint64_t back;                /* pages that came back from anywhere in the pool */
	uint64_t stored, past;        /* pages that went to the pool, and past it */
	uint64_t bench;               /* faults on the bench */
	uint64_t unpack_ns, read_ns;  /* what bringing back one from the pool takes, and one from storage */
	uint64_t bench_ns;            /* ... and one from the bench */
};

/* Returns whether the pool should be larger (1), smaller (-1), or what it is (0). */
static inline int ob_pool_size_wish(const struct ob_pool_seen *seen)
{
	double near, far, stored = (double)(seen->stored ? seen->stored : 1), past = (double)seen->past / stored;
	double bench = OB_MIN((double)seen->bench / (stored + (double)seen->past), OB_POOL_BENCH_MOST) * (1 + past);

	if (seen->near + seen->far < OB_POOL_SEEN_LEAST)
		return seen->back < OB_POOL_SEEN_LEAST && seen->bench >= OB_POOL_SEEN_LEAST ? -1 : 0;
	if (seen->read_ns <= seen->unpack_ns)
		return 0;
	near = (double)seen->near * ((double)seen->unpack_ns + past * (double)seen->read_ns + bench * (double)seen->bench_ns);
	far = (double)seen->far * (double)(seen->read_ns - seen->unpack_ns);
	return far > near * 1.5 ? 1 : near > far * 1.5 ? -1 : 0;
}

#endif
