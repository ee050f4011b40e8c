/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine keeps for sharing; share.c has the theory. Nothing outside src/engine includes this.
 *
 * A slot in a word is OB_EXTENT_PAGES times the engine's own number of the extent, plus the index in it.
 */
#ifndef OB_ENGINE_SHARE_H
#define OB_ENGINE_SHARE_H

#include <pthread.h>
#include <stdint.h>

#include "engine/content.h"
#include "engine/engine.h"

#define OB_EXTENTS_MAX  4096u
#define OB_EXTENT_PAGES 4096u
#define OB_OFFERS       4096u

struct ob_extent {
	uint64_t id;          /* 0: unused */
	const char *base;
	uint32_t pages;
	uint32_t held;        /* words that name its slots, and adoptions under way */
	uint32_t to_tell;     /* holds that ended and that nobody has taken yet */
	uint32_t is_orphan;   /* not announced since sharing was last switched on: overbookd is another one */
	uint64_t told[OB_EXTENT_PAGES / 64]; /* bits: slots of which there is something to tell */
};

struct ob_share {
	pthread_mutex_t lock; /* a leaf: all but what is said to be under another */

	/* Under regions_lock: written with it held for writing. */
	struct ob_hash_key key;
	int is_on;
	int is_suspended;     /* atomic: a release has let everything go */
	unsigned cpu_permille;

	void (*ready)(void *context);
	void *context;
	struct ob_share_offer offer[OB_OFFERS];
	unsigned offer_first, offer_count;

	unsigned extent_count;  /* numbers that have been used: all others never were */
	unsigned last_extent;   /* that was found by its id: the next is most often the same */
	uint64_t to_tell;       /* over all extents */
	struct ob_extent extent[OB_EXTENTS_MAX];
	uint32_t (*ended)[OB_EXTENT_PAGES]; /* for each extent and slot, the holds that ended and that nobody has taken yet */
};

#endif
