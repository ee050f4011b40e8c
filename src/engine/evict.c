/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking pages off the bench. The reclaimer's own; see reclaim.c.
 *
 * A page goes, in this order: nowhere, if it is zero; nowhere, if the swap store still has the bytes that it came in with
 * (compared by hash now, when nobody can write it any more); to the compressed pool, while that is below its share of the
 * limit; to the swap store. When the pool has reached its share its oldest spans are written to the store. What finds no
 * place stays on the bench, and is counted as refused.
 *
 * A chunk's lock is taken for 16 pages at a time, so that a fault in it waits for some tens of microseconds. What the store
 * refuses (full, failing) is not offered to it again for a second.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/internal.h"

#define STEP_PAGES    16u
#define SWAP_RETRY_NS OB_NS_PER_SEC
#define SHRINK_SPANS  16u /* of the pool, at most, in one go */

enum outcome { KEEP, ZERO, CACHED, COMPRESSED, STAGED };

struct step {
	enum outcome outcome[STEP_PAGES];
	uint64_t bits[STEP_PAGES];
};

uint64_t ob_evict_pool_share(const struct ob_engine *engine)
{
	uint64_t limit = ob_load(&engine->limit_bytes);

	return engine->swap ? limit / 2 : limit - limit / 4;
}

/* The store did not take a page: it is left alone for a while. */
static void swap_failed(struct ob_engine *engine, int r)
{
	if (!engine->swap || r == -ENOBUFS)
		return;
	ob_degraded_set(engine, r == -ENOSPC ? OB_DEGRADED_SWAP_FULL : OB_DEGRADED_SWAP_ERROR, 1);
	engine->reclaimer.swap_retry_ns = ob_now_ns() + SWAP_RETRY_NS;
}

int ob_evict_swap_usable(const struct ob_engine *engine)
{
	return engine->swap && !engine->reclaimer.swap_retry_ns;
}

int ob_evict_flush(struct ob_engine *engine)
{
	int r = ob_batch_flush(engine, &engine->reclaimer.batch);

	if (r < 0)
		swap_failed(engine, r);
	if (r > 0)
		ob_fault_room(engine);
	return r > 0 ? r : 0;
}

int ob_evict_round_over(const struct ob_engine *engine)
{
	return ob_now_ns() >= engine->reclaimer.round_end_ns;
}

/* Sees to it, with no chunk's lock held, that the store has slots for what comes: it may have to wait for the disk. */
static void prepare_store(struct ob_engine *engine)
{
	if (ob_evict_swap_usable(engine))
		ob_swap_prepare(engine->swap, OB_POOL_SPAN_OBJECTS);
}

/* Whether the store still holds these bytes, so that no write is needed. Gives the slot up when it does not. */
static int still_cached(struct ob_engine *engine, uint64_t *word, const void *bytes)
{
	uint32_t slot = ob_page_slot(*word);

	if (!(*word & OB_PAGE_CACHED))
		return 0;
	if (ob_swap_verify(engine->swap, slot, bytes) == 0)
		return 1;
	ob_page_set_bits(engine, word, 0);
	ob_swap_free(engine->swap, slot);
	return 0;
}

/* Decides where one benched page goes, and puts it there, but for the page on the bench itself. */
static enum outcome place_page(struct ob_engine *engine, struct ob_place *place, uint64_t page, uint64_t *ret_bits)
{
	struct ob_reclaimer *re = &engine->reclaimer;
	uint64_t *word = ob_place_word(place, page);
	const char *bytes = ob_place_bench(place, page);
	unsigned length;
	uint32_t handle;
	int r;

	*ret_bits = 0;
	if (ob_content_is_zero(bytes)) {
		if (*word & OB_PAGE_CACHED)
			ob_swap_free(engine->swap, ob_page_slot(*word));
		ob_page_set_bits(engine, word, 0);
		return ZERO;
	}
	if (still_cached(engine, word, bytes)) {
		*ret_bits = ob_page_with_slot(ob_page_slot(*word));
		return CACHED;
	}
	length = ob_content_compress(&re->compressor, bytes);
	if (length && ob_pool_store(engine->pool, (uint64_t)place->region_index << 36 | page, re->compressor.out, length,
				    ob_evict_pool_share(engine), &handle) == 0) {
		*ret_bits = ob_page_with_handle(handle);
		return COMPRESSED;
	}
	ob_count(engine, incompressible_pages, !length);
	ob_degraded_set(engine, OB_DEGRADED_POOL_FULL, length && !ob_evict_swap_usable(engine));
	r = ob_evict_swap_usable(engine) ? ob_batch_add(engine, &re->batch, place, page, bytes) : -ENOSPC;
	if (r == 0)
		return STAGED;
	re->refused++;
	if (ob_evict_swap_usable(engine))
		swap_failed(engine, r);
	return KEEP;
}

static void finish_page(struct ob_engine *engine, struct ob_place *place, uint64_t page, enum outcome outcome, uint64_t bits)
{
	static const enum ob_transition transitions[] = {
		[ZERO] = OB_T_DROP_ZERO, [CACHED] = OB_T_DROP_CACHED, [COMPRESSED] = OB_T_COMPRESS,
	};

	ob_page_move(engine, place->chunk, ob_place_word(place, page), transitions[outcome], bits);
	ob_count(engine, zero_pages_found, outcome == ZERO);
	ob_count(engine, swap_out_saved_pages, outcome == CACHED);
	ob_count(engine, compressed_pages, outcome == COMPRESSED);
}

/* The bench could not be emptied: the pages stay there, and what was stored of them is taken back. */
static void undo_page(struct ob_engine *engine, enum outcome outcome, uint64_t bits)
{
	if (outcome == COMPRESSED)
		ob_pool_free(engine->pool, ob_page_handle(bits));
}

static int leaves_bench(enum outcome outcome)
{
	return outcome == ZERO || outcome == CACHED || outcome == COMPRESSED;
}

/* Empties the bench below what has been placed, run by run. Returns how many pages that freed. */
static unsigned finish_step(struct ob_engine *engine, struct ob_place *place, uint64_t first, unsigned n, struct step *step)
{
	unsigned freed = 0;

	for (unsigned i = 0, run; i < n; i += run) {
		int dropped;

		for (run = 0; i + run < n && leaves_bench(step->outcome[i + run]); run++)
			;
		if (!run) {
			run = 1;
			continue;
		}
		dropped = ob_lift_drop(place, first + i, run) == 0;
		for (unsigned k = i; k < i + run; k++) {
			if (dropped)
				finish_page(engine, place, first + k, step->outcome[k], step->bits[k]);
			else
				undo_page(engine, step->outcome[k], step->bits[k]);
			engine->reclaimer.refused += !dropped;
		}
		freed += dropped ? run : 0;
	}
	ob_cost_add(engine, -(int64_t)freed);
	return freed;
}

/* Takes up to STEP_PAGES pages from `first` on off the bench; its chunk is locked. Returns how many it freed at once. */
static unsigned evict_step(struct ob_engine *engine, struct ob_place *place, uint64_t first, unsigned n)
{
	struct step step;

	/* A page that I/O kept from going back stays where it is until that ends. */
	if (ob_lift_io_inflight(place->chunk))
		return 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t word = *ob_place_word(place, first + i);

		step.outcome[i] = KEEP;
		if (ob_page_state(word) == OB_PAGE_BENCHED && !(word & OB_PAGE_WRITING))
			step.outcome[i] = place_page(engine, place, first + i, &step.bits[i]);
	}
	return finish_step(engine, place, first, n, &step);
}

/* Takes a chunk's pages off the bench until the cost is at the low mark. Returns how many pages that freed. */
unsigned ob_evict_chunk(struct ob_engine *engine, struct ob_place *place)
{
	unsigned freed = 0;

	for (uint64_t first = place->chunk_first; first < ob_place_end(place); first += STEP_PAGES) {
		unsigned n = (unsigned)OB_MIN(STEP_PAGES, ob_place_end(place) - first), now;

		if (!ob_cost_over(engine, ob_cost_low(engine)) || ob_evict_round_over(engine))
			break;
		prepare_store(engine);
		if (engine->reclaimer.batch.count + STEP_PAGES > OB_BATCH_PAGES)
			freed += (unsigned)ob_evict_flush(engine);
		ob_chunk_lock_background(place->chunk);
		now = evict_step(engine, place, first, n);
		ob_chunk_unlock(place->chunk);
		if (now)
			ob_fault_room(engine);
		freed += now;
	}
	return freed;
}

static unsigned write_back_object(struct ob_engine *engine, const struct ob_pool_object *object)
{
	struct ob_reclaimer *re = &engine->reclaimer;
	uint64_t page = object->page & ((1ull << 36) - 1);
	struct ob_place place;
	const void *data;
	unsigned length, freed = 0;
	uint64_t word;
	int r = 0;

	if (ob_clock_place(engine, ob_clock_id((uint32_t)(object->page >> 36), (uint32_t)(page / OB_CHUNK_PAGES)), &place) < 0)
		return 0;
	if (re->batch.count == OB_BATCH_PAGES)
		freed = (unsigned)ob_evict_flush(engine);
	ob_chunk_lock_background(place.chunk);
	word = *ob_place_word(&place, page);
	if (ob_page_state(word) == OB_PAGE_COMPRESSED && ob_page_handle(word) == object->handle && !(word & OB_PAGE_WRITING)) {
		data = ob_pool_load(engine->pool, object->handle, &length);
		/* What does not decompress stays where it is: the guest's own access will say so. */
		if (ob_content_decompress(data, length, re->page) == 0)
			r = ob_batch_add(engine, &re->batch, &place, page, re->page);
	}
	ob_chunk_unlock(place.chunk);
	if (r < 0)
		swap_failed(engine, r);
	return freed;
}

/* Writes the oldest spans of the pool to the store until the pool is well below its share. Returns how many pages went. */
unsigned ob_evict_shrink_pool(struct ob_engine *engine)
{
	struct ob_pool_object objects[OB_POOL_SPAN_OBJECTS];
	uint64_t target = ob_evict_pool_share(engine) - ob_evict_pool_share(engine) / 16;
	unsigned freed = 0;

	for (unsigned spans = 0; spans < SHRINK_SPANS && ob_evict_swap_usable(engine) && ob_pool_bytes(engine->pool) > target; spans++) {
		prepare_store(engine);
		if (ob_evict_round_over(engine))
			break;
		unsigned n = ob_pool_oldest(engine->pool, 0, objects), gone;

		if (!n)
			break;
		for (unsigned i = 0; i < n && ob_evict_swap_usable(engine); i++)
			freed += write_back_object(engine, &objects[i]);
		gone = (unsigned)ob_evict_flush(engine);
		freed += gone;
		if (!gone)
			break;
	}
	return freed;
}

/* The store is full: resident pages give up the copies of them that it still holds. Returns whether that freed a slot. */
int ob_evict_drop_cached(struct ob_engine *engine)
{
	int freed = 0;

	for (uint32_t r = 0; r < OB_REGIONS_MAX; r++) {
		for (uint32_t c = 0; engine->region[r].base && c < engine->region[r].chunk_count; c++) {
			struct ob_place place;

			ob_place_chunk(engine, r, c, &place);
			ob_chunk_lock_background(place.chunk);
			for (uint64_t page = place.chunk_first; page < ob_place_end(&place); page++) {
				uint64_t *word = ob_place_word(&place, page);

				if (!(*word & OB_PAGE_CACHED) || ob_page_state(*word) == OB_PAGE_SWAPPED)
					continue;
				ob_swap_free(engine->swap, ob_page_slot(*word));
				ob_page_set_bits(engine, word, 0);
				freed = 1;
			}
			ob_chunk_unlock(place.chunk);
		}
	}
	return freed;
}
