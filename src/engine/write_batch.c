/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A batch of pages on their way to the swap store.
 *
 * Theory of operation. A page that is to be written is copied to the batch's buffer, gets a slot, and its word is marked
 * WRITING with that slot; it stays where it is, benched or compressed. The batch is written with no chunk's lock held.
 * Then each page is looked at again: if its word still says WRITING with this slot, nothing has happened to it, its old
 * place is emptied and it is swapped. If the word has changed, the page was wanted meanwhile, and the slot is freed. A
 * slot is in at most one word and is freed by the batch alone, so the comparison cannot be fooled.
 *
 * A page whose copy has a slot for a write that failed goes back to what it was; no byte depends on the write.
 *
 * The batch belongs to one thread.
 */
#include <errno.h>
#include <string.h>

#include "engine/internal.h"

int ob_batch_add(struct ob_engine *engine, struct ob_batch *batch, const struct ob_place *place, uint64_t page, const void *bytes)
{
	uint64_t *word = ob_place_word(place, page);
	char *copy = batch->buffer + batch->count * OB_PAGE_SIZE;
	uint32_t slot;
	int r;

	if (batch->count == OB_BATCH_PAGES)
		return -ENOBUFS;
	if (!engine->swap)
		return -ENOSPC;
	r = ob_swap_alloc(engine->swap, &slot);
	if (r < 0)
		return r;
	memcpy(copy, bytes, OB_PAGE_SIZE);
	ob_swap_set_hash(engine->swap, slot, ob_content_hash(&engine->key, copy));
	batch->entry[batch->count++] = (struct ob_batch_entry){ place->region_index, slot, page };
	ob_page_set_bits(engine, word, OB_PAGE_WRITING | ob_page_with_slot(slot) | ob_page_with_handle(ob_page_handle(*word)));
	return 0;
}

/* Writes entries [from, to), whose slots follow each other. */
static int write_run(struct ob_engine *engine, struct ob_batch *batch, unsigned from, unsigned to)
{
	int r = ob_swap_write(engine->swap, batch->entry[from].slot, to - from, batch->buffer + from * OB_PAGE_SIZE);

	ob_count(engine, swap_write_ops, 1);
	if (r < 0)
		ob_count(engine, swap_write_errors, 1);
	return r;
}

/* Whether nothing has happened to the page since it was put in the batch. */
static int unchanged(const struct ob_place *place, const struct ob_batch_entry *entry)
{
	uint64_t word = *ob_place_word(place, entry->page);

	return (word & OB_PAGE_WRITING) && ob_page_slot(word) == entry->slot;
}

static void place_of(struct ob_engine *engine, const struct ob_batch_entry *entry, struct ob_place *ret_place)
{
	ob_place_chunk(engine, entry->region, (uint32_t)(entry->page / OB_CHUNK_PAGES), ret_place);
	ret_place->page = entry->page;
}

/* The write of a page has ended: moves its word on, or back. Returns 1 when that freed a page of memory. */
static unsigned settle(struct ob_engine *engine, struct ob_place *place, const struct ob_batch_entry *entry, int written)
{
	uint64_t *word = ob_place_word(place, entry->page);
	uint32_t handle = ob_page_handle(*word);

	if (!unchanged(place, entry)) {
		ob_swap_free(engine->swap, entry->slot);
		return 0;
	}
	if (written && ob_page_state(*word) == OB_PAGE_COMPRESSED) {
		ob_page_move(engine, place->chunk, word, OB_T_WRITE_BACK, ob_page_with_slot(entry->slot));
		ob_pool_free(engine->pool, handle);
		ob_count(engine, swap_out_pages, 1);
		ob_count(engine, pool_writeback_pages, 1);
		return 1;
	}
	if (written && ob_lift_drop(place, entry->page, 1) == 0) {
		ob_page_move(engine, place->chunk, word, OB_T_SWAP_OUT, ob_page_with_slot(entry->slot));
		ob_cost_add(engine, -1);
		ob_count(engine, swap_out_pages, 1);
		return 1;
	}
	ob_page_set_bits(engine, word, ob_page_with_handle(handle));
	ob_swap_free(engine->swap, entry->slot);
	engine->reclaimer.refused++;
	return 0;
}

/* Settles benched pages [from, from + n) of the batch, neighbours in one chunk, with one call to empty the bench. */
static unsigned settle_benched_run(struct ob_engine *engine, struct ob_place *place, const struct ob_batch_entry *entry, unsigned n)
{
	unsigned freed = 0;

	if (n > 1 && ob_lift_drop(place, entry->page, n) < 0)
		n = 0;
	for (unsigned i = 0; n > 1 && i < n; i++) {
		ob_page_move(engine, place->chunk, ob_place_word(place, entry[i].page), OB_T_SWAP_OUT,
			     ob_page_with_slot(entry[i].slot));
		freed++;
	}
	ob_cost_add(engine, -(int64_t)freed);
	ob_count(engine, swap_out_pages, freed);
	return freed;
}

/* How many entries from `from` on are unchanged benched pages that lie beside each other in one chunk. */
static unsigned benched_run(const struct ob_batch *batch, const struct ob_place *place, unsigned from, unsigned to)
{
	unsigned n = 0;

	while (from + n < to && batch->entry[from + n].region == batch->entry[from].region &&
	       batch->entry[from + n].page == batch->entry[from].page + n &&
	       batch->entry[from + n].page < ob_place_end(place) && unchanged(place, &batch->entry[from + n]) &&
	       ob_page_state(*ob_place_word(place, batch->entry[from + n].page)) == OB_PAGE_BENCHED)
		n++;
	return n;
}

static unsigned settle_range(struct ob_engine *engine, struct ob_batch *batch, unsigned from, unsigned to, int written)
{
	unsigned freed = 0;

	while (from < to) {
		struct ob_place place;
		unsigned n = 0;

		place_of(engine, &batch->entry[from], &place);
		ob_chunk_lock_background(place.chunk);
		if (written)
			n = settle_benched_run(engine, &place, &batch->entry[from], benched_run(batch, &place, from, to));
		freed += n;
		if (!n) {
			freed += settle(engine, &place, &batch->entry[from], written);
			n = 1;
		}
		ob_chunk_unlock(place.chunk);
		from += n;
	}
	return freed;
}

int ob_batch_flush(struct ob_engine *engine, struct ob_batch *batch)
{
	unsigned freed = 0;
	int failed = 0;

	for (unsigned from = 0, to; from < batch->count; from = to) {
		int r;

		for (to = from + 1; to < batch->count && batch->entry[to].slot == batch->entry[to - 1].slot + 1; to++)
			;
		r = write_run(engine, batch, from, to);
		if (r < 0)
			failed = r;
		freed += settle_range(engine, batch, from, to, r == 0);
	}
	batch->count = 0;
	return failed ? failed : (int)freed;
}
