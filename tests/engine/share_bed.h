/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The bed of a test of sharing: an engine with two regions whose pages can be made equal, and a keeper. One at a time. */
#ifndef OB_TESTS_ENGINE_SHARE_BED_H
#define OB_TESTS_ENGINE_SHARE_BED_H

#include "bed.h"
#include "keeper.h"
#include "ram.h"

#define RAM_MIB   24u
#define RAM_PAGES (RAM_MIB * MIB_PAGES)
#define RAMS      2u

extern struct bed *bed;
extern struct ram *ram[RAMS];
extern struct keeper keeper, successor; /* the second: for tests in which overbookd is another one later */

void share_make(uint64_t limit_bytes, int swap, unsigned cpu_permille);
/* For cmocka: undoes it, and fails if a keeper has seen what must not be. */
int share_tear_down(void **state);

/* The same in both regions. */
void share_write_all(enum pattern_kind kind);
void share_check_all(void);

/* Waits until faults that have been answered have been counted too. */
void share_settle(void);

/* Holds, by the engine's extents. */
uint64_t share_held(void);
/* All counts of holds agree. Takes the drops there are. */
void share_assert_holds(void);
/* After a release: the cost adds up. */
void share_assert_cost(void);

#endif
