/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many pages a fault brings along: the window, one for each chunk.
 *
 * Theory of operation. A fault costs two switches of threads, so the number of faults decides how fast a guest is that needs
 * what was evicted; but what comes along in vain takes the room of something else.
 *
 *     in sequence   a fault just behind what the last one of its chunk brought doubles the window, any other one halves it; a chunk
 *                   that is entered from the one below it, whose window was large, starts with that
 *     at no cost    when what is evicted does not come back (housekeeping.c) room for neighbours costs nothing
 *     in a rush     when the guest turns to other memory, whatever its order there: when what it asks for back lies so close together
 *                   that all of it will soon be there, and fits. Of what comes back everywhere a chunk then has got RUSH_FACTOR times what
 *                   it would if that were spread over as much memory as the limit lets be there. That is believed from RUSH_LEAST
 *                   pages on, and a chunk that is full is no longer asked for, so at worst a chunk is filled in vain for as many
 *                   faults. A guest that needs more than its limit at random shows no such places. Only what was evicted counts: what
 *                   comes back from the bench was wanted all the time, and of what was never used nobody knows whether it will be
 *
 * The largest of the three counts, up to what a machine of that size may bring at a time. A chunk keeps the first alone as its window, and
 * beside it what was brought, for whatever reason.
 */
#include "engine/internal.h"

#define ENTRY_PAGES 4u /* a fault so near its chunk's start may have come from the chunk below */
#define RUSH_LEAST  24u
#define RUSH_FACTOR 2u
#define RUSH_MAX    32u

/* The window with which a chunk is entered: that of the chunk below, when its end was reached in large steps. */
static unsigned entry_window(const struct ob_place *place)
{
	const struct ob_chunk *below = place->chunk - 1;

	if (!place->chunk_first || ob_load(&below->last_fault) + 2u * ob_load(&below->window) < OB_CHUNK_PAGES)
		return 1;
	return ob_load(&below->window);
}

/* How many pages come along because the guest has turned to this chunk; 1: it has not. */
static unsigned rush_of(struct ob_engine *engine, struct ob_chunk *chunk)
{
	uint32_t all = ob_load(&engine->fetched), since = all - chunk->rush_since;
	uint64_t limit = ob_load(&engine->limit_bytes) / OB_PAGE_SIZE;
	unsigned window = 1;

	if ((chunk->rush + 1) * limit < (uint64_t)RUSH_FACTOR * OB_CHUNK_PAGES * since) {
		chunk->rush = 0;
		chunk->rush_since = all;
	}
	if (chunk->rush >= RUSH_LEAST)
		window = OB_MIN((unsigned)chunk->rush, RUSH_MAX);
	chunk->rush = (uint16_t)OB_MIN(chunk->rush + window, (unsigned)UINT16_MAX);
	__atomic_fetch_add(&engine->fetched, window, __ATOMIC_RELAXED);
	return window;
}

static int was_evicted(enum ob_page_state state)
{
	return state == OB_PAGE_ZERO || state == OB_PAGE_COMPRESSED || state == OB_PAGE_SWAPPED || state == OB_PAGE_SHARED;
}

unsigned ob_fault_window(struct ob_engine *engine, struct ob_place *place, unsigned least)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned at = (unsigned)(place->page - place->chunk_first), window = chunk->window, last = chunk->last_fault, rush = 1;

	if (was_evicted(ob_page_state(*ob_place_word(place, place->page))))
		rush = rush_of(engine, chunk);
	if (at > last && at <= last + chunk->brought + chunk->brought / 2u)
		window = OB_MIN(2u * window, OB_WINDOW_MAX);
	else
		window = OB_MAX(window / 2u, at < ENTRY_PAGES ? entry_window(place) : 1);
	ob_store(&chunk->window, (uint8_t)window);
	ob_store(&chunk->last_fault, (uint16_t)at);
	window = OB_MIN(OB_MAX(OB_MAX(window, rush), ob_load(&engine->around)), ob_load(&engine->window_max));
	chunk->brought = (uint8_t)OB_MIN(OB_MAX(window, least), (unsigned)UINT8_MAX);
	return OB_MAX(window, least);
}
