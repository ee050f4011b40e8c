/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How often the clock's hand passes a page by, by what came of it before. Pure functions on the page's word (page.h).
 *
 * Theory of operation. What the hand lifts and the guest uses comes back for a fault: that is how the engine learns that a page is in use, and
 * all that it ever learns of it. Where a guest uses most of what it has, nearly everything that is lifted comes back, and those
 * faults are more than all others. A chunk's heat (clock.c) is too coarse for that: in most chunks some pages are used and some are not.
 *
 * So a page remembers how often in a row it came back: its chances, 0 to OB_CHANCES_MOST. With n of them it is lifted in every 2^n-th pass of the
 * hand alone, counting those that lift of its chunk. It gets one more when the guest asks for it while it is on the bench, not when it comes back
 * as somebody's neighbour. It has none any more when it was taken off the bench for good, or was found cold by the scanner and put back. Sixteen
 * neighbours have their turns together: what is lifted by one call should lie together.
 *
 * That is the generalized CLOCK (Smith, Sequentiality and prefetching in database systems, ACM TODS 3(3), 1978) but for two things. There a
 * reference costs nothing, so the counter is raised by each and lowered by each pass; here it costs a fault, so those who were asked for once
 * more are asked again half as often. And however often a page was used before, what is cold by now is lifted within 2^OB_CHANCES_MOST such passes.
 *
 * Where a whole pass finds too little, everything is lifted (clock.c). A chunk of which all is there may be a large page, which is lifted as one.
 *
 * In the word, in two bits of the handle between those of the warmth (warmth.h), of pages that are RESIDENT, PINNED or BENCHED.
 */
#ifndef OB_ENGINE_CHANCES_H
#define OB_ENGINE_CHANCES_H

#include <stdint.h>

#include "engine/page.h"
#include "engine/warmth.h"

#define OB_CHANCES_MOST  3u
#define OB_CHANCES_SHIFT 23 /* in the handle */
#define OB_CHANCES_GROUP 16u /* pages */

_Static_assert(OB_CHANCES_SHIFT == OB_WARMTH_BITS && 1u << OB_WARMTH_SHIFT == (OB_CHANCES_MOST + 1) << OB_CHANCES_SHIFT,
	       "the handle's bits are one's or the other's");

static inline unsigned ob_chances_of(uint64_t word)
{
	return ob_page_handle(word) >> OB_CHANCES_SHIFT & OB_CHANCES_MOST;
}

/* The word of a page that was asked for. */
static inline uint64_t ob_chances_more(uint64_t word)
{
	return ob_chances_of(word) < OB_CHANCES_MOST ? word + ob_page_with_handle(1u << OB_CHANCES_SHIFT) : word;
}

/* The word of a page that nobody asked for. */
static inline uint64_t ob_chances_none(uint64_t word)
{
	return word & ~ob_page_with_handle(OB_CHANCES_MOST << OB_CHANCES_SHIFT);
}

/* Whether it is left in place. page: its number in the chunk; pass: how often the hand has come by there. */
static inline int ob_chances_is_left(uint64_t word, unsigned page, unsigned pass)
{
	return ((pass + page / OB_CHANCES_GROUP) & ((1u << ob_chances_of(word)) - 1)) != 0;
}

#endif
