/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads from the swap store that faults start and that end in the background.
 *
 * Theory of operation. A fault on a swapped page takes a free read, charges room, marks the page and those that come along
 * BUSY, and starts the read; its worker goes on to the next fault. Whoever waits for events next, under event_lock, also
 * takes the reads that have ended, and settles each: every page's hash is checked, the page is copied in, and whoever waits
 * for it is woken. While a page is BUSY nobody else touches its word, so a read needs no lock while it is under way; its
 * region is kept by region.reads.
 *
 * What comes along: pages behind the one that is wanted, in the slots behind its slot; others may lie between them in the
 * guest, since what left together was written together. A large window is two reads: a short one with the page that is
 * wanted, so that it comes as quickly as if it were alone, and one for the rest.
 *
 * Failure. A read of several pages that fails is repeated for the wanted page alone, in the foreground. If that fails too,
 * the fault waits and is tried again (ob_fault_defer). Neighbours that did not come are swapped as before; who waits for one
 * is woken and asks again for himself.
 *
 * When all reads are under way, or there is no ring (swap_io.h), the fault is answered in the foreground by its worker.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/uffd.h"

#define LEAD_PAGES   8u   /* of a window, that are read together with the page that is wanted */
#define READ_NS_MAX  (2 * OB_NS_PER_MS) /* one that took longer says no more than that */
#define SPAN_FACTOR  3u   /* how far behind the wanted page neighbours are looked for, in windows */

void ob_buffer_touch(struct ob_engine *engine, unsigned *touched, unsigned pages)
{
	if (pages <= *touched)
		return;
	ob_cost_tables(engine, (int64_t)((pages - *touched) * OB_PAGE_SIZE));
	*touched = pages;
}

void ob_read_note(struct ob_engine *engine, uint64_t ns)
{
	ob_store(&engine->read_ns, (ob_load(&engine->read_ns) * 7 + OB_MIN(ns, READ_NS_MAX)) / 8);
}

int ob_reads_create(struct ob_engine *engine)
{
	size_t each = OB_WINDOW_MAX * OB_PAGE_SIZE;
	void *memory = NULL;
	int r = ob_swap_queue_create(engine->swap, OB_READS_MAX, &engine->read_queue);

	if (r < 0)
		return r;
	r = ob_memory_reserve(OB_READS_MAX * each, 0, &memory);
	if (r < 0)
		return r;
	engine->reads_memory = memory;
	for (unsigned i = 0; i < OB_READS_MAX; i++) {
		engine->read[i].buffer = engine->reads_memory + i * each;
		engine->read[i].next = i + 1 < OB_READS_MAX ? &engine->read[i + 1] : NULL;
	}
	engine->free_reads = &engine->read[0];
	return 0;
}

void ob_reads_destroy(struct ob_engine *engine)
{
	ob_swap_queue_destroy(engine->read_queue);
	ob_memory_unreserve(engine->reads_memory, OB_READS_MAX * OB_WINDOW_MAX * OB_PAGE_SIZE);
}

static struct ob_read *take_read(struct ob_engine *engine)
{
	struct ob_read *read;

	pthread_mutex_lock(&engine->reads_lock);
	read = engine->free_reads;
	if (read)
		engine->free_reads = read->next;
	pthread_mutex_unlock(&engine->reads_lock);
	return read;
}

static void give_read(struct ob_engine *engine, struct ob_read *read)
{
	pthread_mutex_lock(&engine->reads_lock);
	read->next = engine->free_reads;
	engine->free_reads = read;
	pthread_mutex_unlock(&engine->reads_lock);
}

/* Notes up to max swapped pages from `page` on that lie in slots from that of the first on, in their order. Returns how many. */
static unsigned gather(const struct ob_place *place, uint64_t page, unsigned max, uint16_t *ret_pages)
{
	uint64_t end = OB_MIN(page + SPAN_FACTOR * max, ob_place_end(place));
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	unsigned n = 0;

	for (; page < end && n < max; page++) {
		uint64_t word = *ob_place_word(place, page);

		if (ob_page_state(word) != OB_PAGE_SWAPPED)
			continue;
		if ((word & OB_PAGE_BUSY) || ob_page_slot(word) != slot + n)
			break;
		ret_pages[n++] = (uint16_t)(page - place->chunk_first);
	}
	return n;
}

/* Makes a read of n gathered pages, charged, and marks them. */
static void prepare(struct ob_engine *engine, struct ob_read *read, struct ob_place *place, const uint16_t *pages, unsigned n)
{
	read->request = (struct ob_swap_request){
		.slot = ob_page_slot(*ob_place_word(place, place->chunk_first + pages[0])), .pages = n, .buffer = read->buffer,
	};
	read->region = place->region_index;
	read->chunk = (uint32_t)(place->chunk_first / OB_CHUNK_PAGES);
	read->has_fault = 0;
	ob_buffer_touch(engine, &read->touched, n);
	for (unsigned i = 0; i < n; i++) {
		read->page[i] = pages[i];
		*ob_place_word(place, place->chunk_first + pages[i]) |= OB_PAGE_BUSY;
	}
	__atomic_fetch_add(&place->region->reads, 1, __ATOMIC_RELAXED);
	ob_count(engine, swap_read_ops, 1);
}

/* Starts the reads that have been prepared; the chunk is locked, and is let go for one that ends at once. */
static void start(struct ob_engine *engine, struct ob_place *place, struct ob_read *read)
{
	if (ob_swap_start(engine->read_queue, &read->request) == 0)
		return;
	ob_chunk_unlock(place->chunk);
	ob_read_settle(engine, read);
	ob_chunk_lock(place->chunk);
}

int ob_read_start(struct ob_engine *engine, struct ob_place *place, unsigned window, const struct ob_pending *fault,
		  uint64_t locked_ns)
{
	uint16_t pages[OB_WINDOW_MAX];
	struct ob_read *lead, *rest = NULL;
	unsigned n, first;

	if (*ob_place_word(place, place->page) & OB_PAGE_BUSY)
		return -EALREADY;
	if (ob_swap_queue_event(engine->read_queue) < 0 || ob_load(&place->region->closing) || !(lead = take_read(engine)))
		return 1;
	n = ob_fault_charge(engine, gather(place, place->page, OB_MIN(window, OB_WINDOW_MAX), pages));
	if (!n) {
		give_read(engine, lead);
		return -ENOSPC;
	}
	first = n > 2 * LEAD_PAGES ? LEAD_PAGES : n;
	if (first < n && !(rest = take_read(engine))) {
		ob_cost_add(engine, (int64_t)first - n);
		n = first;
	}
	prepare(engine, lead, place, pages, first);
	lead->has_fault = 1;
	lead->fault = *fault;
	lead->locked_ns = locked_ns;
	if (rest)
		prepare(engine, rest, place, pages + first, n - first);
	start(engine, place, lead);
	if (rest)
		start(engine, place, rest);
	return 0;
}

struct ob_read *ob_reads_ended(struct ob_engine *engine)
{
	struct ob_read *list = NULL, **tail = &list;
	struct ob_swap_request *request;

	while (engine->read_queue && (request = ob_swap_reap(engine->read_queue))) {
		*tail = (struct ob_read *)(void *)request;
		tail = &(*tail)->next;
	}
	*tail = NULL;
	return list;
}

int ob_read_settle_page(struct ob_engine *engine, struct ob_place *place, uint64_t page, char *bytes, int was_read)
{
	uint64_t *word = ob_place_word(place, page);
	uint32_t slot = ob_page_slot(*word);
	int r = was_read < 0 ? was_read : ob_swap_verify(engine->swap, slot, bytes);

	ob_page_set_bits(engine, word, ob_page_with_slot(slot));
	if (r == 0)
		r = ob_fault_copy_in(engine, place, page, bytes, OB_T_SWAP_IN, OB_PAGE_CACHED | ob_page_with_slot(slot));
	else
		ob_count(engine, swap_read_errors, r != -EAGAIN);
	if (r == 0)
		ob_count(engine, swap_in_pages, 1);
	return r;
}

/* Settles the pages of a read, its chunk locked. Returns how many came; *ret_first is what became of the first. */
static unsigned settle_pages(struct ob_engine *engine, struct ob_read *read, struct ob_place *place, int was_read, int *ret_first)
{
	unsigned came = 0;

	for (unsigned i = 0; i < read->request.pages; i++) {
		uint64_t page = place->chunk_first + read->page[i];
		int r = ob_read_settle_page(engine, place, page, read->buffer + i * OB_PAGE_SIZE, i ? was_read : *ret_first);

		came += r == 0;
		if (i == 0)
			*ret_first = r;
		if (r < 0 && (i || !read->has_fault)) /* who waits for a neighbour must ask again for himself */
			ob_uffd_wake(engine->uffd, ob_place_ram(place, page), OB_PAGE_SIZE);
	}
	return came;
}

/* What a fault says of a read that has ended. */
static void settle_fault(struct ob_engine *engine, struct ob_read *read, uint64_t fetched_ns, int r)
{
	if (r < 0) {
		ob_fault_defer(engine, &read->fault, r);
		return;
	}
	ob_count(engine, faults_swapped, 1);
	ob_fault_served(engine, OB_HIST_swapped, &read->fault, read->locked_ns, fetched_ns);
	ob_fault_answered(engine, &read->fault);
}

void ob_read_settle(struct ob_engine *engine, struct ob_read *read)
{
	unsigned n = read->request.pages, came;
	uint64_t fetched_ns = ob_now_ns();
	int was_read = read->request.result, first = was_read;
	struct ob_region *region = &engine->region[read->region];
	struct ob_place place;

	if (was_read < 0 && n > 1 && read->has_fault) {
		first = ob_swap_read(engine->swap, read->request.slot, 1, read->buffer);
		ob_count(engine, swap_read_ops, 1);
		was_read = -EAGAIN; /* the neighbours were not asked for in the end */
	}
	ob_place_chunk(engine, read->region, read->chunk, &place);
	ob_chunk_lock(place.chunk);
	came = settle_pages(engine, read, &place, was_read, &first);
	ob_chunk_unlock(place.chunk);
	ob_cost_add(engine, (int64_t)came - n);
	if (came > (unsigned)read->has_fault)
		ob_count(engine, prefetched_pages, came - (unsigned)read->has_fault);
	if (read->has_fault) {
		ob_read_note(engine, fetched_ns - read->locked_ns);
		settle_fault(engine, read, fetched_ns, first);
	}
	give_read(engine, read);
	__atomic_fetch_sub(&region->reads, 1, __ATOMIC_RELEASE);
}
