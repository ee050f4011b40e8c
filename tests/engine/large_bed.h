/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bed of tests of large pages: that of sharing (share_bed.h), orders as overbookd would give them, and a guest that leaves memory alone or uses
 * it all the time.
 */
#ifndef OB_TESTS_ENGINE_LARGE_BED_H
#define OB_TESTS_ENGINE_LARGE_BED_H

#include "largepages/chunk.h"
#include "share_bed.h"

#define LARGE_COLD_MS 60u
#define CHUNKS        (RAM_PAGES / OB_CHUNK_PAGES)
#define NEVER         OB_LARGE_NO_THRESHOLD

/* For cmocka. */
int large_set_up(void **state);
int large_tear_down(void **state);

struct ob_large_orders large_orders(enum ob_large_policy policy, enum ob_large_state state, unsigned hot, unsigned cold);
/* Gives these, proactively. */
void large_order(enum ob_large_state state, unsigned hot, unsigned cold);

/* What the kernel says of the regions from `first` on. */
uint64_t large_in(unsigned first, unsigned count);

/* Every page has something of its own, and there are large pages; else there is nothing to try here. */
void large_write_different(void);
/* So many pages, the first ones, are the same in each chunk of both regions. */
void large_write_equal(unsigned equal);
/* Lifts each chunk of a region and moves it back in two parts. */
void large_break_region(unsigned i);

/* A guest that reads every stride'th page of a region, or of all (RAMS), but for the first ones of each chunk that are spared. */
void large_begin_use(unsigned region, unsigned stride);
void large_begin_use_but(unsigned region, unsigned stride, unsigned spared);
void large_end_use(void);

/* So many more were looked at and kept; so many bytes are shared or zero. */
void large_wait_kept(uint64_t more);
void large_wait_saved(uint64_t bytes);
/* For account_wait(), with a uint64_t: so many were kept in all; the scanner's round has that number. */
int large_were_kept(void *context);
int large_went_round(void *context);

#endif
