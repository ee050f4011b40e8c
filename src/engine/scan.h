/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The scanner: what its files, and who tells it something, say to each other. Nothing outside src/engine includes this. */
#ifndef OB_ENGINE_SCAN_H
#define OB_ENGINE_SCAN_H

#include "engine/internal.h"

/* --- notes.c --- */

/* Somebody wants place->page: it is noted. */
void ob_notes_want(struct ob_engine *engine, const struct ob_place *place);
/* Has a chunk visited (again) for the pages whose bits in chunk->noted are set. */
void ob_notes_queue(struct ob_engine *engine, const struct ob_place *place);
/* The scanner's own. A chunk that has been in the queue for wait_ns at least, and is in it no more: 0 or -ENOENT. */
int ob_notes_due(struct ob_notes *notes, uint64_t now, uint64_t wait_ns, uint32_t *ret_id);
/* Takes the bits of such a chunk, which may be queued again from now on. Returns how many. */
unsigned ob_notes_take(struct ob_chunk *chunk, uint64_t *ret_pages);

/* --- orphans.c --- */

/* The scanner's own. Offers the orphans of one chunk, if it is time; rest_ns: between rounds, at least. Returns whether it did something. */
int ob_orphans_next(struct ob_engine *engine, uint64_t now, uint64_t rest_ns);

/* --- judge.c --- */

/*
 * Judges pages from `first` on, OB_JUDGE_PAGES at most; their chunk is locked. Returns how many are cold, or -EBUSY: nothing was judged. Where nothing is
 * shared they are only counted. with_pool: compressed ones are offered as well.
 */
#define OB_JUDGE_PAGES 16u
int ob_judge_pages(struct ob_engine *engine, struct ob_place *place, uint64_t first, unsigned n, int with_pool);

/* --- scan.c --- */

void ob_scan_init(struct ob_scan *scan);
void ob_scan_destroy(struct ob_scan *scan);
/* Starts the thread, unless it runs; ends it. */
int ob_scan_start(struct ob_engine *engine);
void ob_scan_stop(struct ob_engine *engine);
/* A switch has changed. */
void ob_scan_kick(struct ob_engine *engine);
/* A fault brought pages back from the bench of a chunk that is watched. */
void ob_scan_note_return(struct ob_engine *engine, unsigned pages);
/* How many such faults there were. */
uint64_t ob_scan_faults(const struct ob_engine *engine);
/* For how long pages are watched before they are called cold. */
uint64_t ob_scan_cold_ns(const struct ob_engine *engine);
/* Whether there is leave to look for pages that could be shared. regions_lock is held. */
int ob_scan_may_look(const struct ob_engine *engine);
/* Somebody has the equal of a page whose bytes cannot be had now; its chunk is locked. */
void ob_scan_wanted(struct ob_engine *engine, struct ob_place *place);

#endif
