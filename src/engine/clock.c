/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clock and the bench: which chunks are lifted, and in what order they leave the bench. The reclaimers' own; see
 * reclaim.c.
 *
 * The hand goes round all chunks of all regions. It lifts a chunk, tracking it first if it is open, unless much came
 * back from the bench since it last passed: such a chunk is passed over, with a heat that halves each time. Of the others it leaves
 * pages in place that came back before, for some passes (chances.h). Chunks with
 * benched pages hang in a queue, a list through the chunks themselves, the one that was lifted first at its head. Queue and
 * hand are under clock.lock. A chunk that is being evicted is in nobody's way: it is neither lifted nor queued meanwhile.
 */
#include <errno.h>

#include "engine/chances.h"
#include "engine/internal.h"

#define HEAT_HOT 8u /* fault returns that make a chunk hot */

uint32_t ob_clock_id(uint32_t region, uint32_t chunk)
{
	return region << 27 | chunk;
}

/* The place of a queued chunk; -ENOENT when its region has gone. */
int ob_clock_place(struct ob_engine *engine, uint32_t id, struct ob_place *ret_place)
{
	const struct ob_region *region = &engine->region[id >> 27];
	uint32_t chunk = id & ((1u << 27) - 1);

	if (!region->base || chunk >= region->chunk_count)
		return -ENOENT;
	ob_place_chunk(engine, id >> 27, chunk, ret_place);
	return 0;
}

void ob_clock_push(struct ob_engine *engine, const struct ob_place *place)
{
	struct ob_clock *clock = &engine->clock;
	uint32_t id = ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES));
	struct ob_place tail;

	pthread_mutex_lock(&clock->lock);
	if (!place->chunk->queued) {
		place->chunk->queued = 1;
		place->chunk->queue_next = OB_QUEUE_END;
		if (clock->queue_head == OB_QUEUE_END)
			clock->queue_head = id;
		else if (ob_clock_place(engine, clock->queue_tail, &tail) == 0)
			tail.chunk->queue_next = id;
		clock->queue_tail = id;
		ob_store(&clock->queue_count, clock->queue_count + 1);
	}
	pthread_mutex_unlock(&clock->lock);
}

int ob_clock_pop(struct ob_engine *engine, struct ob_place *ret_place)
{
	struct ob_clock *clock = &engine->clock;
	int r = -ENOENT;

	pthread_mutex_lock(&clock->lock);
	if (clock->queue_head != OB_QUEUE_END && ob_clock_place(engine, clock->queue_head, ret_place) == 0) {
		clock->queue_head = ret_place->chunk->queue_next;
		ob_store(&clock->queue_count, clock->queue_count - 1);
		ret_place->chunk->queued = 0;
		r = 0;
	}
	pthread_mutex_unlock(&clock->lock);
	return r;
}

void ob_clock_forget(struct ob_engine *engine, uint32_t region)
{
	struct ob_place place;
	uint32_t count = ob_load(&engine->clock.queue_count);

	for (uint32_t i = 0; i < count && ob_clock_pop(engine, &place) == 0; i++)
		if (place.region_index != region)
			ob_clock_push(engine, &place);
}

/* Advances the clock hand to the next chunk. Returns 0 when there is none at all. */
static int clock_next(struct ob_engine *engine, struct ob_place *ret_place)
{
	struct ob_clock *clock = &engine->clock;
	int found = 0;

	pthread_mutex_lock(&clock->lock);
	for (unsigned i = 0; i <= OB_REGIONS_MAX && !found; i++) {
		struct ob_region *region = &engine->region[clock->region];

		found = region->base && clock->chunk < region->chunk_count;
		if (found) {
			ob_place_chunk(engine, clock->region, clock->chunk++, ret_place);
		} else {
			clock->chunk = 0;
			clock->region = (clock->region + 1) % OB_REGIONS_MAX;
		}
	}
	pthread_mutex_unlock(&clock->lock);
	return found;
}

int ob_chunk_is_hot(const struct ob_chunk *chunk)
{
	return chunk->heat > HEAT_HOT;
}

static int chunk_is_hot(struct ob_chunk *chunk, int force)
{
	int hot = ob_chunk_is_hot(chunk);

	chunk->heat /= 2;
	return hot && !force;
}

/* Lifts of a chunk what has its turn; all of it by force, or if it may be a large page. */
static void lift_turns(struct ob_engine *engine, struct ob_place *place, int force)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t left[OB_CHUNK_PAGES / 64] = { 0 };
	unsigned pass = chunk->passes++;
	int all = force || chunk->count[OB_PAGE_RESIDENT] + chunk->count[OB_PAGE_PINNED] == chunk->pages;

	for (unsigned i = 0; i < chunk->pages && !all; i++)
		if (ob_chances_is_left(*ob_place_word(place, place->chunk_first + i), i, pass))
			left[i / 64] |= 1ull << (i % 64);
	ob_lift_chunk_but(engine, place, left);
}

void ob_clock_visit(struct ob_engine *engine, struct ob_place *place, int force)
{
	struct ob_chunk *chunk = place->chunk;

	ob_chunk_lock_background(chunk);
	if (chunk->evicting) {
		ob_chunk_unlock(chunk);
		return;
	}
	if (chunk->open && ob_chunk_track(engine, place) < 0) {
		ob_chunk_unlock(chunk);
		return;
	}
	if (chunk->count[OB_PAGE_RESIDENT] + chunk->count[OB_PAGE_PINNED] && !chunk_is_hot(chunk, force)) {
		lift_turns(engine, place, force);
		if (chunk->count[OB_PAGE_BENCHED])
			ob_clock_push(engine, place);
	}
	ob_chunk_unlock(chunk);
}

static uint64_t total_chunks(const struct ob_engine *engine)
{
	return ob_load(&engine->ram_pages) / OB_CHUNK_PAGES + OB_REGIONS_MAX;
}

/* Lifts until the bench holds its target, going round at most twice: the second time hot chunks too, and all of each. */
void ob_clock_fill_bench(struct ob_engine *engine)
{
	uint64_t chunks = total_chunks(engine);

	for (uint64_t i = 0; i < 2 * chunks; i++) {
		struct ob_place place;

		if (ob_load(&engine->in_state[OB_PAGE_BENCHED]) >= (int64_t)ob_load(&engine->bench_target_pages))
			return;
		if (!clock_next(engine, &place))
			return;
		ob_clock_visit(engine, &place, i >= chunks);
	}
}
