/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How warm a page is: whether it is worth sharing, by what came of it before. Pure functions on the page's word (page.h).
 *
 * Theory of operation. A page is cold when nobody has touched it while it was watched, which is for three seconds: what is used every six is found
 * cold half of the time. If it has an equal it is shared, and copied back a moment later; the guest waits for that, and the saving lasted for
 * that moment. So each page remembers how often in a row it came back soon, its warmth, and is left in place for longer each time:
 *
 *     wait     5 times what pages are watched for, and 4 times as long with each step of warmth: 15 s, 1, 4, 16 minutes
 *     warmer   a shared page that is touched within the wait that it would have if it were a step warmer
 *     cooler   one that is touched later; what is never touched is not asked
 *
 * A page that comes back as the neighbour of a touched one stays as warm as it was.
 *
 * Only the scanner asks, and who would take a page out of use for sharing (share.c): what is evicted is offered however warm it is. Nothing here needs to be right, and it is forgotten when a page goes
 * elsewhere; the hand of the scanner has its own memory of chunks (scan.c).
 *
 * In the word, in the bits of the handle, which a page in these states has not: three for the warmth, and 23 for the time at which it came back, or
 * was shared, in steps of 17 ms: they come round in 39 hours. The two between them are of chances.h.
 */
#ifndef OB_ENGINE_WARMTH_H
#define OB_ENGINE_WARMTH_H

#include <stdint.h>

#include "engine/page.h"

#define OB_WARMTH_MOST  4u
#define OB_WARMTH_WAIT  5u /* times what pages are watched for */
#define OB_WARMTH_SHIFT 25 /* in the handle */
#define OB_WARMTH_BITS  23 /* of the time */
#define OB_WARMTH_STEP_SHIFT 24 /* a step of time is so many bits of nanoseconds */

static inline uint64_t ob_warmth_bits(unsigned warmth, uint64_t now_ns)
{
	uint64_t time = now_ns >> OB_WARMTH_STEP_SHIFT & ((1u << OB_WARMTH_BITS) - 1);

	return ob_page_with_handle(warmth << OB_WARMTH_SHIFT | (uint32_t)time);
}

static inline unsigned ob_warmth_of(uint64_t word)
{
	return ob_page_handle(word) >> OB_WARMTH_SHIFT;
}

/* Since it was shared, or came back. */
static inline uint64_t ob_warmth_age_ns(uint64_t word, uint64_t now_ns)
{
	uint64_t steps = (now_ns >> OB_WARMTH_STEP_SHIFT) - ob_page_handle(word);

	return (steps & ((1u << OB_WARMTH_BITS) - 1)) << OB_WARMTH_STEP_SHIFT;
}

/* watched_ns: what pages are watched for. */
static inline uint64_t ob_warmth_wait_ns(unsigned warmth, uint64_t watched_ns)
{
	return warmth ? OB_WARMTH_WAIT * watched_ns << 2 * (warmth - 1) : 0;
}

/* The bits of a page that is shared now; word: of before. */
static inline uint64_t ob_warmth_shared(uint64_t word, uint64_t now_ns)
{
	return ob_warmth_bits(ob_warmth_of(word), now_ns);
}

/* The bits of one that comes back, by itself or as a neighbour. */
static inline uint64_t ob_warmth_back(uint64_t word, int is_touched, uint64_t now_ns, uint64_t watched_ns)
{
	unsigned warmth = ob_warmth_of(word);

	if (is_touched && ob_warmth_age_ns(word, now_ns) < ob_warmth_wait_ns(warmth + 1, watched_ns))
		warmth = OB_MIN(warmth + 1, OB_WARMTH_MOST);
	else if (is_touched && warmth)
		warmth--;
	return warmth ? ob_warmth_bits(warmth, now_ns) : 0;
}

/* Whether a page is to be left in place. */
static inline int ob_warmth_is_warm(uint64_t word, uint64_t now_ns, uint64_t watched_ns)
{
	return ob_warmth_of(word) && ob_warmth_age_ns(word, now_ns) < ob_warmth_wait_ns(ob_warmth_of(word), watched_ns);
}

#endif
