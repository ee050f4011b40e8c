/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Batches of pages on their way to the swap store.
 *
 * Theory of operation. A page that is to be written is copied to a batch's buffer, gets a slot, and its word is marked
 * WRITING with that slot; it stays where it is, benched or compressed. A full batch is given to the store's queue, and the
 * next one is filled while it is written. When a write has ended each of its pages is looked at again: if its word still
 * says WRITING with this slot, nothing has happened to it, its old place is emptied and it is swapped. If the word has
 * changed, the page was wanted meanwhile, and the slot is freed. A slot is in at most one word and is freed by the batch
 * alone, so the comparison cannot be fooled; a region that has gone meanwhile has no such word.
 *
 * Slots are taken in runs, so a batch is mostly one write, and pages that leave together can come back together.
 *
 * A page whose copy has a slot for a write that failed goes back to what it was; no byte depends on the write.
 *
 * Batches belong to one reclaimer. No lock of a chunk is held but where said.
 */
#include <errno.h>
#include <string.h>

#include "engine/internal.h"

/* A small machine has few batches, and small ones. */
static int is_small(const struct ob_engine *engine)
{
	return ob_load(&engine->limit_bytes) < OB_SMALL_LIMIT;
}

static unsigned batch_pages(const struct ob_engine *engine)
{
	return is_small(engine) ? OB_BATCH_PAGES / 4 : OB_BATCH_PAGES;
}

static unsigned batch_count(const struct ob_engine *engine)
{
	return is_small(engine) ? OB_BATCHES / 2 : OB_BATCHES;
}

int64_t ob_batch_needs_bytes(const struct ob_engine *engine)
{
	return is_small(engine) ? (int64_t)(batch_count(engine) * batch_pages(engine) * OB_PAGE_SIZE) : 0;
}

/* The next slot of the run that has been taken, or of another. */
static int next_slot(struct ob_reclaimer *re, uint32_t *ret_slot)
{
	if (!re->run_left) {
		int r = ob_swap_alloc(re->engine->swap, batch_pages(re->engine), &re->run_slot);

		if (r < 0)
			return r;
		re->run_left = (uint32_t)r;
	}
	*ret_slot = re->run_slot++;
	re->run_left--;
	return 0;
}

void ob_batch_rest(struct ob_reclaimer *re)
{
	for (; re->run_left; re->run_left--)
		ob_swap_free(re->engine->swap, re->run_slot++);
}

int ob_batch_has_buffers(const struct ob_reclaimer *re)
{
	int any = 0;

	for (unsigned b = 0; b < OB_BATCHES; b++)
		any |= ob_load(&re->batch[b].touched) > 0;
	return any && is_small(re->engine);
}

void ob_batch_drop_buffers(struct ob_reclaimer *re)
{
	if (!ob_batch_has_buffers(re))
		return;
	if (re->filling && !re->filling->count)
		re->filling = NULL;
	for (unsigned b = 0; b < OB_BATCHES; b++)
		if (!re->batch[b].count)
			ob_buffer_drop(re->engine, re->batch[b].buffer, &re->batch[b].touched);
}

int ob_batch_add(struct ob_reclaimer *re, const struct ob_place *place, uint64_t page, const void *bytes)
{
	struct ob_engine *engine = re->engine;
	struct ob_batch *batch = re->filling;
	uint64_t *word = ob_place_word(place, page);
	uint32_t slot;
	char *copy;
	int r;

	if (!engine->swap)
		return -ENOSPC;
	if (!batch || batch->count == OB_BATCH_PAGES)
		return -ENOBUFS;
	r = next_slot(re, &slot);
	if (r < 0)
		return r;
	copy = batch->buffer + batch->count * OB_PAGE_SIZE;
	memcpy(copy, bytes, OB_PAGE_SIZE);
	ob_swap_set_hash(engine->swap, slot, ob_content_hash(&engine->key, copy));
	batch->entry[batch->count++] = (struct ob_batch_entry){ place->region_index, slot, page };
	ob_page_set_bits(engine, word, OB_PAGE_WRITING | ob_page_with_slot(slot) | ob_page_with_handle(ob_page_handle(*word)));
	if (ob_page_state(*word) == OB_PAGE_BENCHED) {
		batch->leaving++;
		__atomic_fetch_add(&engine->leaving_pages, 1, __ATOMIC_RELAXED);
	}
	return 0;
}

/* Whether nothing has happened to the page since it was put in the batch. */
static int unchanged(const struct ob_place *place, const struct ob_batch_entry *entry)
{
	uint64_t word = *ob_place_word(place, entry->page);

	return (word & OB_PAGE_WRITING) && ob_page_slot(word) == entry->slot;
}

/* The write of a page failed, or its bench could not be emptied: it is what it was. */
static void take_back(struct ob_reclaimer *re, struct ob_place *place, const struct ob_batch_entry *entry)
{
	uint64_t *word = ob_place_word(place, entry->page);

	ob_page_set_bits(re->engine, word, ob_page_with_handle(ob_page_handle(*word)));
	ob_swap_free(re->engine->swap, entry->slot);
	re->refused++;
}

static void written_back(struct ob_engine *engine, struct ob_place *place, const struct ob_batch_entry *entry)
{
	uint64_t *word = ob_place_word(place, entry->page);
	uint32_t handle = ob_page_handle(*word);

	ob_page_move(engine, place->chunk, word, OB_T_WRITE_BACK, ob_page_with_slot(entry->slot));
	ob_pool_free(engine->pool, handle);
	ob_count(engine, swap_out_pages, 1);
	ob_count(engine, pool_writeback_pages, 1);
}

/* Empties the bench below those of n entries of one chunk whose word is unchanged and says benched. Returns how many that freed. */
static unsigned settle_benched(struct ob_reclaimer *re, struct ob_place *place, const struct ob_batch_entry *entry, unsigned n)
{
	struct ob_engine *engine = re->engine;
	const struct ob_batch_entry *benched[OB_BATCH_PAGES];
	uint16_t pages[OB_BATCH_PAGES];
	unsigned count = 0, gone;

	for (unsigned i = 0; i < n; i++) {
		if (!unchanged(place, &entry[i]) || ob_page_state(*ob_place_word(place, entry[i].page)) != OB_PAGE_BENCHED)
			continue;
		benched[count] = &entry[i];
		pages[count++] = (uint16_t)(entry[i].page - place->chunk_first);
	}
	gone = count ? ob_lift_drop_many(engine, place, pages, count) : 0;
	for (unsigned i = 0; i < gone; i++)
		ob_page_move(engine, place->chunk, ob_place_word(place, benched[i]->page), OB_T_SWAP_OUT,
			     ob_page_with_slot(benched[i]->slot));
	for (unsigned i = gone; i < count; i++)
		take_back(re, place, benched[i]);
	ob_cost_add(engine, -(int64_t)gone);
	ob_count(engine, swap_out_pages, gone);
	return gone;
}

/* n entries of one chunk. Returns how many pages of memory that freed. */
static unsigned settle_chunk(struct ob_reclaimer *re, struct ob_place *place, const struct ob_batch_entry *entry, unsigned n,
			     int written)
{
	unsigned freed = 0;

	ob_chunk_lock_background(place->chunk);
	for (unsigned i = 0; i < n; i++) {
		if (!unchanged(place, &entry[i])) {
			ob_swap_free(re->engine->swap, entry[i].slot);
		} else if (!written) {
			take_back(re, place, &entry[i]);
		} else if (ob_page_state(*ob_place_word(place, entry[i].page)) == OB_PAGE_COMPRESSED) {
			written_back(re->engine, place, &entry[i]);
			freed++;
		}
	}
	if (written)
		freed += settle_benched(re, place, entry, n);
	ob_chunk_unlock(place->chunk);
	return freed;
}

static unsigned settle_write(struct ob_reclaimer *re, const struct ob_batch_write *write)
{
	const struct ob_batch_entry *entries = write->batch->entry;
	unsigned freed = 0, n;

	for (unsigned from = write->from; from < write->to; from += n) {
		uint32_t chunk = (uint32_t)(entries[from].page / OB_CHUNK_PAGES);
		struct ob_place place;

		for (n = 1; from + n < write->to && entries[from + n].region == entries[from].region &&
			    entries[from + n].page / OB_CHUNK_PAGES == chunk; n++)
			;
		if (ob_clock_place(re->engine, ob_clock_id(entries[from].region, chunk), &place) == 0)
			freed += settle_chunk(re, &place, &entries[from], n, write->request.result == 0);
		else
			for (unsigned i = 0; i < n; i++)
				ob_swap_free(re->engine->swap, entries[from + i].slot);
	}
	return freed;
}

/* A write has ended. Returns how many pages of memory that freed. */
static unsigned end_write(struct ob_reclaimer *re, struct ob_batch_write *write)
{
	struct ob_batch *batch = write->batch;
	unsigned freed = settle_write(re, write);

	if (write->request.result < 0) {
		ob_count(re->engine, swap_write_errors, 1);
		ob_evict_swap_failed(re->engine, write->request.result);
	}
	if (--batch->under_way == 0) {
		__atomic_fetch_sub(&re->engine->leaving_pages, batch->leaving, __ATOMIC_RELAXED);
		batch->count = batch->leaving = 0;
	}
	if (freed)
		ob_fault_room(re->engine);
	return freed;
}

/* Starts the writes of the batch that is being filled: one for each run of slots. */
static unsigned start_writes(struct ob_reclaimer *re)
{
	struct ob_batch *batch = re->filling;
	unsigned writes = 0, freed = 0;

	re->filling = NULL;
	for (unsigned from = 0, to; from < batch->count; from = to) {
		struct ob_batch_write *write = &batch->write[writes++];

		for (to = from + 1; to < batch->count && batch->entry[to].slot == batch->entry[to - 1].slot + 1; to++)
			;
		*write = (struct ob_batch_write){
			.request = { .slot = batch->entry[from].slot, .pages = to - from, .write = 1,
				     .buffer = batch->buffer + from * OB_PAGE_SIZE },
			.batch = batch, .from = from, .to = to,
		};
	}
	batch->under_way = writes;
	ob_count(re->engine, swap_write_ops, writes);
	for (unsigned i = 0; i < writes; i++)
		if (ob_swap_start(re->queue, &batch->write[i].request))
			freed += end_write(re, &batch->write[i]);
	return freed;
}

static struct ob_batch *free_batch(struct ob_reclaimer *re)
{
	unsigned batches = batch_count(re->engine);

	for (unsigned i = 0; i < batches; i++)
		if (!re->batch[i].count)
			return &re->batch[i];
	return NULL;
}

unsigned ob_batch_prepare(struct ob_reclaimer *re, unsigned pages)
{
	struct ob_swap_request *request;
	unsigned freed = 0, most = batch_pages(re->engine);

	if (!ob_evict_swap_usable(re->engine))
		return 0;
	ob_swap_prepare(re->engine->swap, pages + most);
	if (re->filling && re->filling->count + pages > most)
		freed += start_writes(re);
	while ((request = ob_swap_reap(re->queue)))
		freed += end_write(re, (struct ob_batch_write *)(void *)request);
	while (!re->filling && !(re->filling = free_batch(re)) && (request = ob_swap_wait(re->queue)))
		freed += end_write(re, (struct ob_batch_write *)(void *)request);
	if (re->filling)
		ob_buffer_touch(re->engine, &re->filling->touched, most);
	return freed;
}

unsigned ob_batch_flush(struct ob_reclaimer *re, int wait)
{
	struct ob_swap_request *request;
	unsigned freed = 0;

	if (!re->queue)
		return 0;
	if (re->filling && re->filling->count)
		freed += start_writes(re);
	while ((request = wait ? ob_swap_wait(re->queue) : ob_swap_reap(re->queue)))
		freed += end_write(re, (struct ob_batch_write *)(void *)request);
	return freed;
}
