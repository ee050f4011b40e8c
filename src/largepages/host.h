/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large pages, for the whole host: how short memory is, and what is to be done with large pages at that. Pure functions on
 * one struct: no clock, no I/O, no memory of their own. overbookd calls ob_large_host_step() with what is free, and passes
 * the orders on; chunk.h says what an order means for one chunk, estimate.h how many of its pages are worth sharing.
 * docs/large-pages.md has the whole.
 *
 * Theory of operation. After Guo, Kim, Baskakov and Banerjee, "Proactively Breaking Large Pages to Improve Memory
 * Overcommitment Performance in VMware ESXi" (VEE 2015). The host is in one of three states by its free memory:
 *
 *         0          min_free                boundary                 budget
 *         |   low    |         clear         |         high           |
 *                    |       [floor ...  the boundary moves ... default ... most]
 *
 *     high    plenty: large pages are made and kept, broken ones made whole; cold ones with something to share are broken
 *     clear   getting short: no new ones; hot ones too are broken where enough is shareable, the fewer bytes are free the
 *             less is enough
 *     low     short: as many as can be
 *
 * min_free is the product's sliding scale (vSphere: 6% of the first 4 GiB, 4% up to 12, 2% up to 28, 1% of the rest), or a
 * setting. The default of the boundary is the product's 400% of min_free: the paper's own figure is not known to us.
 *
 * The boundary moves as in the paper: while free memory rises in clear it is lowered, so that a host that has gained enough
 * by sharing gets back to high; when free memory falls fast it goes back to its default at once. "Fast" is: what is above
 * min_free would be used up within HORIZON at the rate of late.
 *
 * What is looked at and broken in clear follows the rate at which memory is used up, what is missing to the boundary, and
 * what a look is likely to give: the less is shareable, the more are looked at.
 *
 * Where this differs from the paper, and why:
 *   1. The boundary has a floor (5/4 of min_free), or a host that shares well would have no clear at all.
 *   2. It also returns to its default when free memory is above that anyway: that changes no state, and makes ready for the
 *      next time.
 *   3. It is lowered only as far as high can be reached now: lower is no use, and the reset may come late.
 *   4. Down at once, up slowly. The product has "separate upper and lower bounds", whose values are not public. Here up
 *      takes min_free/8 more than down, for `dwell` on end, a state at a time; dwell doubles when an up was soon undone, and
 *      halves again in calm.
 *   5. While free memory falls fast the boundary lies where it takes AHEAD to min_free, if that is more than the default, up to 3/4 of the
 *      budget, and no more above min_free than machines could still use up: to break and to share takes some seconds. Four guests that fill their memory in 12 s leave the default boundary two
 *      seconds (bench/results/largepages-fast.json has what it is good for).
 *   6. Where nothing at all is shareable, looking faster finds nothing: the rate is the least then, not the most.
 *
 * Invariants, which the unit tests check against any input:
 *   1. floor <= boundary <= most, and above default only while memory falls fast; min_free <= budget/2 and default <= most, 3/4 of the budget, so that high can be reached.
 *   2. free < min_free is low after that very step; free < boundary is clear or low.
 *   3. In any time T there are at most 2 T/OB_LARGE_DWELL_MIN_NS + 4 changes of state; in the long run T/(2
 *      OB_LARGE_DWELL_MIN_NS) + 16.
 *   4. With less free memory, or in a worse state, the thresholds are the same or lower.
 *
 * What comes in may be anything: free above the budget counts as the budget, sums saturate, time that goes by in one leap
 * counts for at most OB_LARGE_STEP_MAX_NS of calm. A budget of 0 is a host without one: high.
 */
#ifndef OB_LARGEPAGES_HOST_H
#define OB_LARGEPAGES_HOST_H

#include <stdint.h>

#define OB_LARGE_PAGES         512u /* small pages of a large one */
#define OB_LARGE_NO_THRESHOLD  (OB_LARGE_PAGES + 1) /* more than there can be */
#define OB_LARGE_UNKNOWN       UINT32_MAX
#define OB_LARGE_DWELL_MIN_NS  10000000000ull
#define OB_LARGE_DWELL_MAX_NS  160000000000ull
#define OB_LARGE_STEP_MAX_NS   2000000000ull
#define OB_LARGE_SCAN_MIN      32u   /* chunks a second, for the whole host; more where a round would take more than an hour */
#define OB_LARGE_SCAN_MAX      2048u /* about a tenth of a processor, where a look takes 50 us */
#define OB_LARGE_BREAK_MAX     512u  /* 1 GiB a second */
#define OB_LARGE_COLLAPSE_MAX  8u    /* each takes 4.5 ms where it was measured, and page faults of the guest wait */

enum ob_large_state { OB_LARGE_HIGH, OB_LARGE_CLEAR, OB_LARGE_LOW, OB_LARGE_STATES };

enum ob_large_policy {
	OB_LARGE_PROACTIVE, /* the above */
	OB_LARGE_LATE,      /* as before the paper: nothing is broken before the state is low */
	OB_LARGE_NEVER,     /* nothing is broken but by eviction */
	OB_LARGE_OFF,       /* there are no large pages */
	OB_LARGE_POLICIES
};

/* What was seen since the last step. */
struct ob_large_input {
	uint64_t elapsed_ns;
	uint64_t budget_bytes, free_bytes;
	uint64_t min_free_bytes;  /* a setting; 0: by the sliding scale */
	uint64_t growth_bytes;    /* by which machines could come to cost more at most; UINT64_MAX: not known */
	uint32_t shareable_pages; /* of a large page, on average of those looked at: 0 to 512, or OB_LARGE_UNKNOWN */
};

/* What everybody is to do with large pages. */
struct ob_large_orders {
	enum ob_large_policy policy;
	enum ob_large_state state;
	uint16_t hot_pages, cold_pages; /* so many shareable pages make it worth while to break a hot or cold one; 0: breaks all */
	uint8_t may_make;               /* new ones may come about, by first touch or khugepaged */
	uint32_t scan_rate, break_rate, collapse_rate; /* chunks a second at most, for the whole host */
};

struct ob_large_host {
	enum ob_large_state state;
	uint64_t budget_bytes, min_free_bytes, boundary_bytes, free_bytes; /* as of the last step */
	uint64_t setting_bytes, growth_bytes;
	int64_t trend;       /* bytes a second by which free memory has grown, on average of the last seconds */
	uint64_t calm_ns;    /* for so long a better state has been deserved */
	uint64_t dwell_ns;   /* ... which is granted after this */
	uint64_t since_up_ns, since_change_ns;
	uint64_t changes, resets; /* counters: of the state; of the boundary to its default by a fast fall */
	uint8_t is_started;
};

/* Everything 0 is a host that has not started; the first step gives it the state that its free memory says. */
struct ob_large_orders ob_large_host_step(struct ob_large_host *host, enum ob_large_policy policy, const struct ob_large_input *input);

/* The sliding scale. */
uint64_t ob_large_min_free(uint64_t budget_bytes);
/* Between what the boundary may lie, for a min_free (of at most half the budget); and where it lies while nothing moves it. */
uint64_t ob_large_boundary_floor(uint64_t min_free_bytes);
uint64_t ob_large_boundary_most(uint64_t budget_bytes, uint64_t min_free_bytes);
uint64_t ob_large_boundary_default(uint64_t budget_bytes, uint64_t min_free_bytes);

const char *ob_large_state_name(enum ob_large_state state);
const char *ob_large_policy_name(enum ob_large_policy policy);
/* The policy of that name, or -1. */
int ob_large_policy_parse(const char *name);

/* What a rate allows, piece by piece; starts as { 0 }. */
struct ob_large_bucket {
	uint64_t parts; /* 2^-30 of a piece, saved up for at most a second */
};

/* Time has gone by. Returns how many whole pieces there are. */
uint32_t ob_large_bucket_fill(struct ob_large_bucket *bucket, uint32_t rate, uint64_t elapsed_ns);
/* Takes a piece, if there is one. Returns whether there was. */
int ob_large_bucket_take(struct ob_large_bucket *bucket);

#endif
