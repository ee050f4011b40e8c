/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Plays overbookd for one engine: an index of offered pages, a canonical store, and a count of who holds what.
 *
 * It is stricter than overbookd: a slot that nobody holds any more is overwritten at once, so that an engine that counts
 * its holds wrongly shows wrong bytes (one that was mapped is not, as the engine asks); a drop of what is not held is an error that is kept. It can also lie, and ask pages
 * to adopt slots that hold something else.
 */
#ifndef OB_TESTS_ENGINE_KEEPER_H
#define OB_TESTS_ENGINE_KEEPER_H

#include <pthread.h>
#include <stdint.h>

#include "engine/content.h"
#include "engine/engine.h"

#define KEEPER_EXTENTS 256u
#define KEEPER_INDEX   (1u << 16)

struct keeper_extent {
	uint64_t id;       /* 0: none */
	uint8_t *base;     /* writable */
	uint32_t used;
	uint32_t *refs;    /* a slot each */
	uint32_t *entry;   /* of the index, for each slot in use */
};

struct keeper_entry {
	uint64_t lo, hi, page;
	uint32_t extent, index;
	int has_slot, is_used;
};

struct keeper {
	struct ob_engine *engine;
	struct ob_hash_key key;
	uint32_t extent_pages;
	int ready_fd;
	int forgives;             /* drops of extents that it does not have */
	int lies;                 /* every 8th time asks for an adoption that must be refused */
	struct keeper_extent extent[KEEPER_EXTENTS];
	struct keeper_entry *entry;
	uint64_t next_id, turn;
	uint64_t adopted, refused, dropped, extents_dropped; /* pages; the last: extents */
	unsigned wrong;           /* what must not be: the first is said */
	pthread_t thread;
	int stop, is_running;
};

/* Switches sharing on. Asserts nothing; returns 0 or -errno. */
int keeper_start(struct keeper *keeper, struct ob_engine *engine, uint32_t extent_pages, unsigned cpu_permille);
/* What it gives the engine to call, with itself. */
void keeper_ready(void *context);
/* Before or after the engine has gone. */
void keeper_end(struct keeper *keeper);

/* Puts a page into the store. Returns the extent's place in the table, or -errno. */
int keeper_put(struct keeper *keeper, const void *page, uint32_t *ret_index);
/* Asks a page to adopt a slot, and counts the hold if it does. Returns what the engine said. */
int keeper_adopt(struct keeper *keeper, uint64_t page, uint32_t extent, uint32_t index);
/* A list of them; of an extent that is not the keeper's nothing is noted. */
void keeper_adopt_all(struct keeper *keeper, struct ob_share_adoption *items, unsigned n);
/* Takes the drops there are. Returns how many holds they ended. */
unsigned keeper_take_drops(struct keeper *keeper);
/* Looks at the offers there are, shares what is equal, takes drops, drops extents that nobody holds. Returns how many pages were adopted. */
unsigned keeper_serve(struct keeper *keeper);

/* The same, again and again, in a thread. */
int keeper_run(struct keeper *keeper);
void keeper_halt(struct keeper *keeper);

/* Holds by its own count. */
static inline uint64_t keeper_held(const struct keeper *keeper)
{
	return keeper->adopted - keeper->dropped;
}

static inline uint64_t keeper_page(uint32_t region, uint64_t page)
{
	return (uint64_t)region << OB_SHARE_REGION_SHIFT | page;
}

#endif
