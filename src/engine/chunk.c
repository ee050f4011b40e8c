/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Chunks: finding them, locking them, changing words in them, opening and tracking them. See internal.h. */
#include <errno.h>
#include <sched.h>

#include "base/log.h"
#include "engine/internal.h"
#include "kern/pagemap.h"
#include "kern/uffd.h"

#define BACKGROUND_PATIENCE 64 /* how often background work yields to those in a hurry before it queues up itself */

void ob_place_chunk(struct ob_engine *engine, uint32_t region, uint32_t chunk, struct ob_place *ret_place)
{
	ret_place->region = &engine->region[region];
	ret_place->region_index = region;
	ret_place->chunk = &ret_place->region->chunks[chunk];
	ret_place->chunk_first = (uint64_t)chunk * OB_CHUNK_PAGES;
	ret_place->page = ret_place->chunk_first;
}

int ob_place_find(struct ob_engine *engine, uint64_t address, struct ob_place *ret_place)
{
	for (uint32_t i = 0; i < OB_REGIONS_MAX; i++) {
		const struct ob_region *region = &engine->region[i];
		uint64_t page;

		if (!region->base || address - region->base >= region->length)
			continue;
		page = (address - region->base) / OB_PAGE_SIZE;
		ob_place_chunk(engine, i, (uint32_t)(page / OB_CHUNK_PAGES), ret_place);
		ret_place->page = page;
		return 0;
	}
	return -ENOENT;
}

void ob_chunk_lock(struct ob_chunk *chunk)
{
	if (pthread_mutex_trylock(&chunk->lock) == 0)
		return;
	__atomic_fetch_add(&chunk->waiters, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&chunk->lock);
	__atomic_fetch_sub(&chunk->waiters, 1, __ATOMIC_RELAXED);
}

int ob_chunk_try_lock(struct ob_chunk *chunk)
{
	return pthread_mutex_trylock(&chunk->lock) == 0;
}

void ob_chunk_lock_background(struct ob_chunk *chunk)
{
	for (unsigned i = 0; i < BACKGROUND_PATIENCE && ob_load(&chunk->waiters); i++)
		sched_yield();
	pthread_mutex_lock(&chunk->lock);
}

void ob_chunk_unlock(struct ob_chunk *chunk)
{
	pthread_mutex_unlock(&chunk->lock);
}

void ob_engine_internal_error(struct ob_engine *engine, const char *what, int r, uint64_t address)
{
	ob_count(engine, internal_errors, 1);
	ob_log_limited(OB_LOG_WARNING, "engine: %s at %#llx: error %d", what, (unsigned long long)address, -r);
}

static void track_cached(struct ob_engine *engine, uint64_t before, uint64_t after)
{
	int delta = !!(after & OB_PAGE_CACHED) - !!(before & OB_PAGE_CACHED);

	if (delta)
		__atomic_fetch_add(&engine->cached_pages, delta, __ATOMIC_RELAXED);
}

void ob_page_move(struct ob_engine *engine, struct ob_chunk *chunk, uint64_t *word, enum ob_transition transition, uint64_t bits)
{
	const struct ob_transition_info *info = &ob_transition_table[transition];
	enum ob_page_state from = ob_page_state(*word);

	if (OB_UNLIKELY(from != info->from))
		ob_engine_internal_error(engine, info->name, -EINVAL, *word);
	ob_store(&chunk->count[from], (uint16_t)(chunk->count[from] - 1));
	ob_store(&chunk->count[info->to], (uint16_t)(chunk->count[info->to] + 1));
	__atomic_fetch_sub(&engine->in_state[from], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&engine->in_state[info->to], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&engine->transitions[transition], 1, __ATOMIC_RELAXED);
	track_cached(engine, *word, bits);
	if (chunk->is_large && info->to != OB_PAGE_BENCHED && info->to != OB_PAGE_RESIDENT && info->to != OB_PAGE_PINNED)
		ob_large_note(engine, chunk, 0);
	*word = (uint64_t)info->to | bits;
}

void ob_page_set_bits(struct ob_engine *engine, uint64_t *word, uint64_t bits)
{
	track_cached(engine, *word, bits);
	*word = (*word & 15) | bits;
}

unsigned ob_page_run(const struct ob_place *place, uint64_t page, uint64_t end)
{
	uint64_t like = *ob_place_word(place, page) & 0xff;
	unsigned n = 1;

	while (page + n < end && (*ob_place_word(place, page + n) & 0xff) == like)
		n++;
	return n;
}

static uint64_t chunk_bytes(const struct ob_chunk *chunk)
{
	return chunk->pages * OB_PAGE_SIZE;
}

/* What is there, as a bitmap; when the kernel does not say, everything may be. */
static void find_present(struct ob_engine *engine, struct ob_place *place, uint64_t *bitmap)
{
	int r = ob_pagemap_present(engine->pagemap, ob_place_ram(place, place->chunk_first), chunk_bytes(place->chunk), bitmap);

	place->chunk->inexact = r < 0;
	if (r >= 0)
		return;
	ob_engine_internal_error(engine, "PAGEMAP_SCAN", r, ob_place_ram(place, place->chunk_first));
	for (unsigned i = 0; i < OB_CHUNK_PAGES / 64; i++)
		bitmap[i] = ~0ull;
}

int ob_chunk_track(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t bitmap[OB_CHUNK_PAGES / 64];
	unsigned present = 0;
	uint64_t ram = ob_place_ram(place, place->chunk_first);
	int r = engine->can_arm ? ob_uffd_register_armable(engine->uffd, ram, chunk_bytes(chunk)) :
				  ob_uffd_register(engine->uffd, ram, chunk_bytes(chunk));

	if (r < 0)
		return r;
	find_present(engine, place, bitmap);
	for (unsigned i = 0; i < chunk->pages; i++) {
		uint64_t *word = ob_place_word(place, place->chunk_first + i);

		if (!(bitmap[i / 64] >> (i % 64) & 1))
			continue;
		ob_page_move(engine, chunk, word, ob_page_state(*word) == OB_PAGE_BALLOONED ? OB_T_ADOPT_REUSED : OB_T_ADOPT, 0);
		present++;
	}
	chunk->open = 0;
	ob_cost_add(engine, (int64_t)present - chunk->granted);
	__atomic_fetch_sub(&engine->open_pages, chunk->granted, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&engine->open_chunks, 1, __ATOMIC_RELAXED);
	chunk->granted = 0;
	return 0;
}

static enum ob_transition opening_of(enum ob_page_state state)
{
	switch (state) {
	case OB_PAGE_RESIDENT:
		return OB_T_OPEN;
	case OB_PAGE_PINNED:
		return OB_T_OPEN_PINNED;
	case OB_PAGE_ZERO:
		return OB_T_OPEN_ZERO;
	case OB_PAGE_BALLOONED:
		return OB_T_OPEN_REUSE;
	default:
		return OB_TRANSITION_COUNT;
	}
}

int ob_chunk_open(struct ob_engine *engine, struct ob_place *place, unsigned granted)
{
	struct ob_chunk *chunk = place->chunk;
	int r;

	/* Once it is unregistered the kernel fills its holes with zeros. */
	if (chunk->count[OB_PAGE_BENCHED] + chunk->count[OB_PAGE_COMPRESSED] + chunk->count[OB_PAGE_SWAPPED] +
	    chunk->count[OB_PAGE_SHARED] + chunk->count[OB_PAGE_MAPPED])
		return -EAGAIN;
	r = ob_uffd_unregister(engine->uffd, ob_place_ram(place, place->chunk_first), chunk_bytes(chunk));
	if (r < 0)
		return r;
	for (unsigned i = 0; i < chunk->pages; i++) {
		uint64_t *word = ob_place_word(place, place->chunk_first + i);
		enum ob_transition transition = opening_of(ob_page_state(*word));

		if (*word & OB_PAGE_CACHED)
			ob_swap_free(engine->swap, ob_page_slot(*word));
		if (transition != OB_TRANSITION_COUNT)
			ob_page_move(engine, chunk, word, transition, 0);
	}
	chunk->open = 1;
	chunk->armed = 0; /* unregistering has disarmed them */
	chunk->inexact = 0;
	chunk->granted = (uint16_t)granted;
	__atomic_fetch_add(&engine->open_pages, granted, __ATOMIC_RELAXED);
	__atomic_fetch_add(&engine->open_chunks, 1, __ATOMIC_RELAXED);
	return 0;
}
