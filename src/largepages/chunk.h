/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large pages, for one chunk of 2 MiB: keep it, break it, or make it whole again. A pure function of the orders (host.h), of
 * what is known of the chunk, and of how many more may be broken and collapsed now.
 *
 * Theory of operation.
 *
 *     policy, state      a large chunk                                          a broken one
 *     proactive, high    broken if cold and cold_pages are shareable            made whole if hot, all there, and not to be broken
 *                                                                               again in clear
 *     proactive, clear   broken if hot_pages (cold: cold_pages) are shareable   left
 *     proactive, low     likewise, with the lowest thresholds                   left
 *     late               as above in low, else kept                             as above, in high
 *     never              kept                                                   as above, in high
 *     off                broken                                                 left
 *
 * "Are shareable" is asked of the bounds of the estimate. When even the most would be too few, it is kept; when the least is
 * enough, it is broken; in between it is sampled further, and when there are no more samples to take the likely number
 * decides. In low there is no time for more samples: the likely number decides at once. A chunk that has never been sampled
 * is sampled first.
 *
 * A chunk that was broken and gave nothing (whoever keeps `vain` says so) needs twice as many next time, and twice as many
 * again: what the sample takes for shareable may be written all the time. After OB_LARGE_VAIN_MAX times only eviction breaks
 * it.
 *
 * What the kernel can collapse (Linux 6.18; docs/large-pages.md): a registered chunk without holes and without pages that
 * are armed. A chunk of which a page is shared, mapped, or away has holes; that is why those are never collapsed, not
 * because it would cost sharing. Nor is one with a page that a device holds, or on which a system call is at work: the
 * kernel would have to give up half way.
 *
 * Differences from Guo (VEE 2015): the paper has no bounds and no memory of what was in vain; and it does not make pages
 * whole again in high by itself (ESXi does so elsewhere). HawkEye's rule, to break zero pages out of large ones from 85% use
 * on, is contained: zero pages are shareable ones.
 */
#ifndef OB_LARGEPAGES_CHUNK_H
#define OB_LARGEPAGES_CHUNK_H

#include <stdint.h>

#include "largepages/estimate.h"
#include "largepages/host.h"

#define OB_LARGE_VAIN_MAX      5u
#define OB_LARGE_COLLAPSE_MOST 64u /* shareable pages of a chunk that is made whole: half of what breaks a hot one at first */

struct ob_large_chunk {
	struct ob_large_sample sample;
	uint16_t shared; /* pages that name a slot of the canonical store, mapped or not; dropped pages of zeros */
	uint16_t away;   /* benched, compressed, on disk */
	uint16_t holes;  /* never touched, or given back */
	uint16_t held;   /* by a device, or the kernel */
	uint16_t armed;  /* for write tracking */
	uint8_t is_large;
	uint8_t is_hot;
	uint8_t is_busy; /* a system call is at work on it, or it is being evicted */
	uint8_t vain;    /* times that it was broken for sharing, and nothing of it was shared */
};

enum ob_large_action { OB_LARGE_KEEP, OB_LARGE_SAMPLE, OB_LARGE_BREAK, OB_LARGE_COLLAPSE };

/* X(name, text): why. */
#define OB_LARGE_REASONS(X)                                                                   \
	X(POLICY, "the policy leaves it")                                                     \
	X(NO_LARGE_PAGES, "there are to be no large pages")                                   \
	X(BUSY, "it is being worked on")                                                      \
	X(PLENTY, "hot, and memory is plenty")                                                \
	X(NOT_SAMPLED, "nobody has looked at it")                                             \
	X(UNCERTAIN, "the sample is too small to tell")                                       \
	X(NOTHING_SHAREABLE, "too little of it is shareable")                                 \
	X(IN_VAIN, "breaking it was in vain too often")                                       \
	X(COLD_SHAREABLE, "cold, with shareable pages")                                       \
	X(HOT_SHAREABLE, "hot, with shareable pages, and memory is short")                    \
	X(RATE, "enough has been done for now")                                               \
	X(SHORT, "memory is not plenty")                                                      \
	X(COLD, "cold, it gains nothing as a large page")                                     \
	X(NOT_WHOLE, "some of its pages are shared, away, or not there")                      \
	X(HELD, "a device holds some of it, or it is armed")                                  \
	X(WOULD_BREAK, "it would be broken again soon")                                       \
	X(HOT_WHOLE, "hot, all there, and memory is plenty")

enum ob_large_reason {
#define X(name, text) OB_LARGE_R_##name,
	OB_LARGE_REASONS(X)
#undef X
	OB_LARGE_REASON_COUNT
};

struct ob_large_verdict {
	enum ob_large_action action;
	enum ob_large_reason reason;
};

/* may_break, may_collapse: whether the rates of the orders allow one more (ob_large_bucket_take() when it is done). */
struct ob_large_verdict ob_large_chunk_judge(const struct ob_large_orders *orders, const struct ob_large_chunk *chunk, int may_break,
					     int may_collapse);

const char *ob_large_reason_text(enum ob_large_reason reason);

#endif
