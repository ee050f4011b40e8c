/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking pages off the bench. A reclaimer's own; see reclaim.c.
 *
 * A page goes, in this order: nowhere, if it is zero; nowhere, if the swap store still has the bytes that it came in with
 * (compared by hash now, when nobody can write it any more); to the compressed pool, while that is below its share of the
 * limit; to the swap store. What finds no place stays on the bench, and is counted as refused.
 *
 * Two steps. First pages are placed, 16 at a time (4 on a small machine) under the chunk's lock, so that a fault in it waits for some tens of
 * microseconds: what they become is made ready elsewhere, and their words are marked PLACED. Then the bench is emptied
 * below all those that are still marked, with one call for many (a call costs a flush of address caches on all processors,
 * more than the compression of a page), and their words change. A page that the guest wants in between is simply returned,
 * which takes the mark off, and what was made ready for it is thrown away. Between the steps the pool holds copies of pages
 * that still cost memory: it may grow by grow_bytes() before the second step is taken. In the first each page may open a span
 * of the pool. The limit has room for both, and on a small machine for the buffers of batches, which
 * are given back when they rest: ob_evict_needs_bytes().
 *
 * A chunk is evicted by one reclaimer at a time (chunk.evicting), so nobody else places its pages or lifts it again.
 *
 * What goes to the pool is offered for sharing, when that is on: its bytes can be had again without I/O.
 *
 * Effort: where most pages of a chunk did not compress of late, only every eighth is tried.
 *
 * What the store refuses (full, failing) is not offered to it again for a second.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/internal.h"

#define STEP_MAX      16u /* pages */
#define STEP_SMALL    4u
#define SPAN_BYTES    (32ll << 10)
#define SWAP_RETRY_NS OB_NS_PER_SEC
#define RAW_MAX       32u /* of a chunk's `raw` */
#define RAW_MANY      24u
#define GROW_MIN      (64ll << 10)
#define GROW_MAX      (1ll << 20)

static int64_t grow_bytes(const struct ob_engine *engine)
{
	return OB_MIN(OB_MAX((int64_t)ob_load(&engine->limit_bytes) / 512, GROW_MIN), GROW_MAX);
}

static unsigned step_pages(const struct ob_engine *engine)
{
	return ob_load(&engine->limit_bytes) < OB_SMALL_LIMIT ? STEP_SMALL : STEP_MAX;
}

int64_t ob_evict_needs_bytes(const struct ob_engine *engine)
{
	return step_pages(engine) * SPAN_BYTES + grow_bytes(engine) + ob_batch_needs_bytes(engine);
}

void ob_evict_swap_failed(struct ob_engine *engine, int r)
{
	if (!engine->swap || r == -ENOBUFS)
		return;
	ob_degraded_set(engine, r == -ENOSPC ? OB_DEGRADED_SWAP_FULL : OB_DEGRADED_SWAP_ERROR, 1);
	ob_store(&engine->swap_retry_ns, ob_now_ns() + SWAP_RETRY_NS);
}

int ob_evict_swap_usable(const struct ob_engine *engine)
{
	return engine->swap && !ob_load(&engine->swap_retry_ns);
}

uint64_t ob_evict_pool_share(const struct ob_engine *engine)
{
	uint64_t limit = ob_load(&engine->limit_bytes);

	if (!engine->swap)
		return limit - limit / 4;
	/* While the store takes nothing, the pool is all there is. */
	return limit / OB_POOL_PARTS * (ob_evict_swap_usable(engine) ? ob_load(&engine->pool_parts) : OB_POOL_PARTS_MAX);
}

int ob_evict_enough(const struct ob_engine *engine)
{
	return !ob_cost_over(engine, ob_cost_low(engine) + ob_load(&engine->leaving_pages) * (int64_t)OB_PAGE_SIZE);
}

int ob_evict_round_over(const struct ob_reclaimer *re)
{
	return ob_now_ns() >= re->round_end_ns;
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

/* Compresses a page, if it is worth trying. Returns the length, or 0. */
static unsigned try_compress(struct ob_reclaimer *re, struct ob_chunk *chunk, uint64_t page, const void *bytes)
{
	unsigned length;

	if (chunk->raw >= RAW_MANY && page % 8)
		return 0;
	length = ob_content_compress(&re->compressor, bytes);
	if (length)
		chunk->raw = chunk->raw > 2 ? (uint8_t)(chunk->raw - 2) : 0;
	else if (chunk->raw < RAW_MAX)
		chunk->raw++;
	ob_count(re->engine, incompressible_pages, !length);
	return length;
}

/* Decides where one benched page goes, and makes it ready there. */
static enum ob_outcome place_page(struct ob_reclaimer *re, struct ob_place *place, uint64_t page, uint64_t *ret_bits)
{
	struct ob_engine *engine = re->engine;
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
		return OB_TO_ZERO;
	}
	if (still_cached(engine, word, bytes)) {
		*ret_bits = ob_page_with_slot(ob_page_slot(*word));
		return OB_TO_CACHED;
	}
	length = try_compress(re, place->chunk, page, bytes);
	if (length && ob_pool_store(engine->pool, (uint64_t)place->region_index << 36 | page, re->compressor.out, length,
				    ob_evict_pool_share(engine), &handle) == 0) {
		*ret_bits = ob_page_with_handle(handle);
		re->placed_pool_bytes += length;
		if (ob_share_is_on(engine))
			ob_share_offer(engine, place, page, bytes, OB_SHARE_EVICTED);
		return OB_TO_POOL;
	}
	ob_degraded_set(engine, OB_DEGRADED_POOL_FULL, length && !ob_evict_swap_usable(engine));
	r = ob_evict_swap_usable(engine) ? ob_batch_add(re, place, page, bytes) : -ENOSPC;
	if (r == 0)
		return OB_TO_BATCH;
	re->refused++;
	if (ob_evict_swap_usable(engine))
		ob_evict_swap_failed(engine, r);
	return OB_KEEP;
}

/* Places n pages from `first` on; their chunk is locked. */
static void place_step(struct ob_reclaimer *re, struct ob_place *place, uint64_t first, unsigned n)
{
	/* A page that I/O kept from going back stays where it is until that ends. */
	if (ob_lift_io_inflight(place->chunk))
		return;
	for (unsigned i = 0; i < n; i++) {
		uint64_t *word = ob_place_word(place, first + i), bits;
		enum ob_outcome outcome;

		if (ob_page_state(*word) != OB_PAGE_BENCHED || *word & (OB_PAGE_WRITING | OB_PAGE_PLACED))
			continue;
		outcome = place_page(re, place, first + i, &bits);
		if (outcome == OB_KEEP || outcome == OB_TO_BATCH)
			continue;
		*word |= OB_PAGE_PLACED;
		re->placed[re->placed_count++] =
			(struct ob_placed){ (uint16_t)(first + i - place->chunk_first), (uint8_t)outcome, bits };
	}
}

static void finish_page(struct ob_engine *engine, struct ob_place *place, const struct ob_placed *placed)
{
	static const enum ob_transition transitions[] = {
		[OB_TO_ZERO] = OB_T_DROP_ZERO, [OB_TO_CACHED] = OB_T_DROP_CACHED, [OB_TO_POOL] = OB_T_COMPRESS,
	};

	ob_page_move(engine, place->chunk, ob_place_word(place, place->chunk_first + placed->page), transitions[placed->outcome],
		     placed->bits);
	ob_count(engine, zero_pages_found, placed->outcome == OB_TO_ZERO);
	ob_count(engine, swap_out_saved_pages, placed->outcome == OB_TO_CACHED);
	ob_count(engine, compressed_pages, placed->outcome == OB_TO_POOL);
}

/* What was made ready for a page is not needed: it went back, or its bench could not be emptied. */
static void undo_page(struct ob_engine *engine, const struct ob_placed *placed)
{
	if (placed->outcome == OB_TO_POOL)
		ob_pool_free(engine->pool, ob_page_handle(placed->bits));
}

static int still_placed(const struct ob_place *place, const struct ob_placed *placed)
{
	uint64_t word = *ob_place_word(place, place->chunk_first + placed->page);

	return ob_page_state(word) == OB_PAGE_BENCHED && (word & OB_PAGE_PLACED);
}

/* Empties the bench below what is still placed, the chunk locked. Returns how many pages that freed. */
static unsigned finish_locked(struct ob_reclaimer *re, struct ob_place *place)
{
	struct ob_engine *engine = re->engine;
	uint16_t pages[OB_CHUNK_PAGES];
	unsigned n = 0, gone = 0, more;

	for (unsigned i = 0; i < re->placed_count; i++) {
		if (!still_placed(place, &re->placed[i])) {
			undo_page(engine, &re->placed[i]);
			continue;
		}
		re->placed[n] = re->placed[i];
		pages[n++] = re->placed[i].page;
	}
	while (gone < n && (more = ob_lift_drop_many(engine, place, pages + gone, n - gone)))
		gone += more;
	for (unsigned i = 0; i < n; i++) {
		if (i < gone) {
			finish_page(engine, place, &re->placed[i]);
			continue;
		}
		*ob_place_word(place, place->chunk_first + pages[i]) &= ~OB_PAGE_PLACED;
		undo_page(engine, &re->placed[i]);
		re->refused++;
	}
	ob_cost_add(engine, -(int64_t)gone);
	return gone;
}

static unsigned finish(struct ob_reclaimer *re, struct ob_place *place)
{
	unsigned freed;

	if (!re->placed_count)
		return 0;
	ob_chunk_lock_background(place->chunk);
	freed = finish_locked(re, place);
	ob_chunk_unlock(place->chunk);
	__atomic_fetch_sub(&re->engine->leaving_pages, re->placed_count, __ATOMIC_RELAXED);
	re->placed_count = 0;
	re->placed_pool_bytes = 0;
	if (freed)
		ob_fault_room(re->engine);
	return freed;
}

unsigned ob_evict_chunk(struct ob_reclaimer *re, struct ob_place *place)
{
	struct ob_engine *engine = re->engine;
	unsigned freed = 0, step = step_pages(engine);

	for (uint64_t first = place->chunk_first; first < ob_place_end(place); first += step) {
		unsigned n = (unsigned)OB_MIN(step, ob_place_end(place) - first), before = re->placed_count;

		if (ob_evict_enough(engine) || ob_evict_round_over(re))
			break;
		freed += ob_batch_prepare(re, step);
		ob_chunk_lock_background(place->chunk);
		place_step(re, place, first, n);
		ob_chunk_unlock(place->chunk);
		__atomic_fetch_add(&engine->leaving_pages, re->placed_count - before, __ATOMIC_RELAXED);
		/* While somebody waits for room, sooner rather than all at once. */
		if (re->placed_pool_bytes > grow_bytes(engine) || (ob_load(&engine->pending_count) && re->placed_count > 4 * STEP_MAX))
			freed += finish(re, place);
	}
	freed += finish(re, place);
	ob_share_offered(engine);
	return freed;
}
