/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making room where evicted pages lie: from the pool to the store, and in the store. A reclaimer's own; see reclaim.c.
 *
 * When the pool has reached its share, its oldest spans, which hold what has been cold for longest, are decompressed and
 * written to the store. When the store is full, resident pages give up the copies of them that it still has.
 */
#include "engine/internal.h"

#define SHRINK_SPANS 32u /* of the pool, at most, in one go */

static void write_back_object(struct ob_reclaimer *re, const struct ob_pool_object *object)
{
	struct ob_engine *engine = re->engine;
	uint64_t page = object->page & ((1ull << 36) - 1), word;
	struct ob_place place;
	const void *data;
	unsigned length;
	int r = 0;

	if (ob_clock_place(engine, ob_clock_id((uint32_t)(object->page >> 36), (uint32_t)(page / OB_CHUNK_PAGES)), &place) < 0)
		return;
	ob_chunk_lock_background(place.chunk);
	word = *ob_place_word(&place, page);
	if (ob_page_state(word) == OB_PAGE_COMPRESSED && ob_page_handle(word) == object->handle && !(word & OB_PAGE_WRITING)) {
		data = ob_pool_load(engine->pool, object->handle, &length);
		/* What does not decompress stays where it is: the guest's own access will say so. */
		if (ob_content_decompress(data, length, re->page) == 0)
			r = ob_batch_add(re, &place, page, re->page);
	}
	ob_chunk_unlock(place.chunk);
	if (r < 0)
		ob_evict_swap_failed(engine, r);
}

/* Until the pool is well below its share. Spans whose pages are on their way are passed over, until all are written. */
unsigned ob_evict_shrink_pool(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;
	struct ob_pool_object objects[OB_POOL_SPAN_OBJECTS];
	uint64_t target = ob_evict_pool_share(engine) - ob_evict_pool_share(engine) / 16;
	unsigned freed = 0;

	for (unsigned span = 0; span < SHRINK_SPANS && ob_pool_bytes(engine->pool) > target && !ob_evict_round_over(re); span++) {
		unsigned n = ob_pool_oldest(engine->pool, span, objects);

		if (!n)
			break;
		for (unsigned i = 0; i < n && ob_evict_swap_usable(engine); i++) {
			freed += ob_batch_prepare(re, 1);
			write_back_object(re, &objects[i]);
		}
	}
	freed += ob_batch_flush(re, 1);
	ob_pool_trim(engine->pool);
	return freed;
}

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
				/* Where a reclaimer counts on the slot, this takes his mark off too. */
				ob_swap_free(engine->swap, ob_page_slot(*word));
				ob_page_set_bits(engine, word, 0);
				freed = 1;
			}
			ob_chunk_unlock(place.chunk);
		}
	}
	return freed;
}
