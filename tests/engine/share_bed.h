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

#define SHARE_COLD_MS 60u /* for which tests have pages watched, or a part of that */
/* The same with a scanner that watches for cold_ms; 0 permille: it rests until it is told to begin. For cmocka's set-up: returns 0. */
int share_make_scanner(unsigned cold_ms, unsigned cpu_permille);
void share_begin_scanning(void);

/* The same in both regions. */
void share_write_all(enum pattern_kind kind);
/* Of two neighbours both have the same, in both regions. */
void share_write_twins(void);
/* Every page has something of its own. */
void share_write_different(void);
void share_check_all(void);

/* As the keeper knows the page. */
struct ob_hash share_hash(unsigned which, uint32_t page);
/* The bytes of a page that is away, as overbookd asks for them. Returns what the engine says. */
int share_fetch(unsigned which, uint32_t page, uint8_t bytes[PATTERN_PAGE]);
/* Shares whatever page is away in both regions, in slots that follow each other. Returns how many words are SHARED. */
uint64_t share_equals(void);
uint64_t share_every(unsigned step); /* of every so many pages */

/* Waits until faults that have been answered have been counted too. */
void share_settle(void);

/* Holds, by the engine's extents. */
uint64_t share_held(void);
/* All counts of holds agree. Takes the drops there are. */
void share_assert_holds(void);
/* After a release: the cost adds up. */
void share_assert_cost(void);

/* Ends scanning, and checks what there is to check. */
void share_finish(void);
/* After threads have raced: the same, also once all has been brought back. */
void share_finish_race(void);

/* overbookd is another one, the successor, which knows nothing of what the first one had. */
void share_succeed(uint32_t extent_pages);
/* It ends, and what it counts is all that is held. */
void share_finish_successor(void);

/* For account_wait(). */
int share_bench_is_empty(void *context);
/* Of pages that were all written as twins. */
int share_most_is_shared(void *context);
/* Chunks without holes have been lifted so often that most are passed over in many rounds. */
int share_chunks_are_backed_off(void *context);

#endif
