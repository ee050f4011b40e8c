/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lift, the one primitive: UFFDIO_MOVE between guest RAM and the bench, which takes or puts back pages atomically and
 * without a copy. All functions want the chunk's lock.
 *
 * A page that a device, direct I/O or a fork holds does not move (EBUSY): it becomes PINNED and is tried again when the
 * clock comes round. What the kernel does not see (direct I/O on file systems that take old-style references) the hooks
 * mark in io_inflight; the mark is looked at again after the move, since I/O that began before it has marked by then, and
 * I/O that begins later finds the hole and waits in the fault handler.
 *
 * A large page moves as one onto nothing: where there is a page table, be it empty, the kernel breaks it first. The bench has one after
 * single pages have lain there, and guest RAM after a fault that found nothing, where the kernel may make no large page (MADV_NOHUGEPAGE)
 * or had none. Dropping all 2 MiB, where nothing is, frees it on kernels with CONFIG_PT_RECLAIM; on others the large page is lost.
 * A part of one moves as small pages: so is lifted where there are to be no large ones.
 *
 * A move that says EEXIST or ENOENT may have been done all the same: since its moves are batched (6.18), the kernel that has
 * had to try again for a moment (the page was being aged, locked, split) forgets that it then succeeded, tries the same
 * page once more and finds its place taken. So where pages are after such an answer is looked up, in both places.
 */
#include <errno.h>
#include <string.h>

#include "base/fault.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/pagemap.h"
#include "kern/uffd.h"

int ob_lift_io_inflight(const struct ob_chunk *chunk)
{
	return __atomic_load_n(&chunk->io_inflight, __ATOMIC_SEQ_CST) != 0;
}

int ob_lift_drop(const struct ob_place *place, uint64_t page, unsigned n)
{
	return ob_memory_drop(ob_place_bench(place, page), n * OB_PAGE_SIZE);
}

unsigned ob_lift_drop_many(struct ob_engine *engine, const struct ob_place *place, const uint16_t *pages, unsigned n)
{
	struct iovec ranges[OB_DROP_RANGES];
	unsigned ends[OB_DROP_RANGES], count = 0, i = 0, gone;

	while (i < n && count < OB_DROP_RANGES) {
		unsigned start = i++;

		while (i < n && pages[i] == pages[i - 1] + 1)
			i++;
		ranges[count] = (struct iovec){ ob_place_bench(place, place->chunk_first + pages[start]), (i - start) * OB_PAGE_SIZE };
		ends[count++] = i;
	}
	gone = ob_memory_drop_ranges(engine->self, ranges, count);
	return gone ? ends[gone - 1] : 0;
}

void ob_lift_mutate(void *page)
{
	if (OB_UNLIKELY(ob_fault(OB_FP_page_return) == OB_FAULT_FLIP))
		((unsigned char *)page)[2345] ^= 16;
}

const void *ob_lift_mutated(const void *page, char *buffer)
{
	if (OB_LIKELY(ob_fault(OB_FP_page_return) != OB_FAULT_FLIP))
		return page;
	memcpy(buffer, page, OB_PAGE_SIZE);
	buffer[2345] ^= 16;
	return buffer;
}

static int is_in_place(uint64_t word)
{
	return ob_page_state(word) == OB_PAGE_RESIDENT || ob_page_state(word) == OB_PAGE_PINNED;
}

static void lifted(struct ob_engine *engine, struct ob_place *place, uint64_t page)
{
	uint64_t *word = ob_place_word(place, page);
	uint64_t bits = *word & ~15ull;

	ob_page_move(engine, place->chunk, word, ob_page_state(*word) == OB_PAGE_PINNED ? OB_T_LIFT_PINNED : OB_T_LIFT, bits);
}

/* Whether the kernel has a page there; -errno when it does not say. */
static int is_there(const struct ob_engine *engine, uint64_t address)
{
	uint64_t bitmap = 0;

	return ob_pagemap_present(engine->pagemap, address, OB_PAGE_SIZE, &bitmap);
}

/* How many of the n pages that a move was asked for, and that it denied, it has moved all the same. */
static unsigned moved_and_denied(const struct ob_engine *engine, uint64_t dst, uint64_t src, unsigned n, int r)
{
	uint64_t come[OB_CHUNK_PAGES / 64], left[OB_CHUNK_PAGES / 64];
	unsigned count = 0;

	if ((r != -EEXIST && r != -ENOENT) || ob_pagemap_present(engine->pagemap, dst, n * OB_PAGE_SIZE, come) < 0 ||
	    ob_pagemap_present(engine->pagemap, src, n * OB_PAGE_SIZE, left) < 0)
		return 0;
	while (count < n && (come[count / 64] & ~left[count / 64]) >> (count % 64) & 1)
		count++;
	return count;
}

/*
 * The word says that the page is in place, and the kernel's answer to the move says otherwise. Nothing is dropped or
 * forgotten before it is known where the bytes are. Returns -EEXIST to try the page once more, 0 when its word is right
 * again, 1 when nothing could be found out.
 */
static int reconcile(struct ob_engine *engine, struct ob_place *place, uint64_t page, int r)
{
	uint64_t *word = ob_place_word(place, page), ram = ob_place_ram(place, page);
	int in_place = is_there(engine, ram);
	int on_bench = is_there(engine, (uint64_t)(uintptr_t)ob_place_bench(place, page));

	if (in_place < 0 || on_bench < 0)
		return 1;
	/* A page that went back by copying had left its original on the bench. */
	if (in_place && on_bench)
		return ob_lift_drop(place, page, 1) == 0 ? -EEXIST : 1;
	if (in_place)
		return 1;
	if (on_bench) {
		ob_engine_internal_error(engine, "a page that was thought to be in place lies on the bench", r, ram);
		lifted(engine, place, page);
		return 0;
	}
	if (!place->chunk->inexact)
		ob_engine_internal_error(engine, "there is no page where one was thought to be", r, ram);
	if (ob_page_state(*word) == OB_PAGE_PINNED)
		return 1;
	if (*word & OB_PAGE_CACHED)
		ob_swap_free(engine->swap, ob_page_slot(*word));
	ob_page_move(engine, place->chunk, word, OB_T_LIFT_HOLE, 0);
	ob_cost_add(engine, -1);
	return 0;
}

/* The page would not move: says why in its word. Returns -EEXIST when the same page should be tried once more. */
static int not_lifted(struct ob_engine *engine, struct ob_place *place, uint64_t page, int r)
{
	uint64_t *word = ob_place_word(place, page);
	int pinned = ob_page_state(*word) == OB_PAGE_PINNED;

	ob_count(engine, lift_busy_pages, r == -EBUSY);
	if (r == -EEXIST || r == -ENOENT) {
		int found = reconcile(engine, place, page, r);

		if (found <= 0)
			return found;
	}
	/* -ENOMEM: there is no memory for the bench's page tables, which passes. */
	if (r != -EBUSY && r != -EAGAIN && r != -ENOMEM)
		ob_engine_internal_error(engine, "UFFDIO_MOVE to the bench", r, ob_place_ram(place, page));
	if (!pinned)
		ob_page_move(engine, place->chunk, word, OB_T_PIN, *word & ~15ull);
	return 0;
}

/* Lifts pages [page, page + n), all in place. Returns how many went. */
static unsigned lift_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	unsigned count = 0;
	int retried = 0;

	while (n) {
		uint64_t done = 0, bench = (uint64_t)(uintptr_t)ob_place_bench(place, page), ram = ob_place_ram(place, page);
		int r = ob_uffd_move(engine->uffd, bench, ram, n * OB_PAGE_SIZE, 1, &done);
		unsigned moved = (unsigned)(done / OB_PAGE_SIZE);

		moved += moved_and_denied(engine, bench + done, ram + done, n - moved, r);
		for (unsigned i = 0; i < moved; i++)
			lifted(engine, place, page + i);
		count += moved;
		page += moved;
		n -= moved;
		if (r == 0 || !n)
			break;
		if (moved > done / OB_PAGE_SIZE)
			continue;
		if (not_lifted(engine, place, page, r) == -EEXIST && !retried) {
			retried = 1;
			continue;
		}
		retried = 0;
		page++;
		n--;
	}
	return count;
}

unsigned ob_lift_chunk(struct ob_engine *engine, struct ob_place *place)
{
	static const uint64_t none[OB_CHUNK_PAGES / 64];

	return ob_lift_chunk_but(engine, place, none);
}

/*
 * Frees the page table of 2 MiB in which nothing should be. The words say so, but a page may lie where its word does not look for it, when
 * the kernel has denied a move and then not said what is where: only what it says is empty is dropped.
 */
static void free_page_table(const struct ob_engine *engine, uint64_t at)
{
	uint64_t pages = 1;

	if (ob_pagemap_count(engine->pagemap, at, OB_CHUNK_SIZE, &pages) == 0 && !pages)
		(void)!ob_memory_drop((void *)(uintptr_t)at, OB_CHUNK_SIZE);
}

void ob_lift_clear_bench(const struct ob_engine *engine, const struct ob_place *place)
{
	free_page_table(engine, (uint64_t)(uintptr_t)ob_place_bench(place, place->chunk_first));
}

int ob_lift_return_whole(struct ob_engine *engine, struct ob_place *place)
{
	free_page_table(engine, ob_place_ram(place, place->chunk_first));
	return ob_lift_return(engine, place, place->chunk_first, OB_CHUNK_PAGES);
}

static int is_wanted(const struct ob_place *place, uint64_t page, const uint64_t *left)
{
	uint64_t i = page - place->chunk_first;

	return is_in_place(*ob_place_word(place, page)) && !(left[i / 64] >> (i % 64) & 1);
}

unsigned ob_lift_chunk_but(struct ob_engine *engine, struct ob_place *place, const uint64_t *left)
{
	int is_off = ob_large_is_off(engine);
	unsigned count = 0, longest = is_off ? OB_CHUNK_PAGES / 2 : OB_CHUNK_PAGES;

	if (ob_lift_io_inflight(place->chunk))
		return 0;
	place->chunk->whole = 0;
	for (uint64_t page = place->chunk_first; page < ob_place_end(place);) {
		unsigned n = 0;

		while (n < longest && page + n < ob_place_end(place) && is_wanted(place, page + n, left))
			n++;
		if (n)
			count += lift_run(engine, place, page, n);
		page += n ? n : 1;
	}
	if (is_off && count)
		ob_large_forget(engine, place->chunk);
	/* I/O began while the chunk was being lifted. */
	if (count && (ob_lift_io_inflight(place->chunk) || ob_fault(OB_FP_lift_io) < 0)) {
		ob_lift_return_all(engine, place);
		count = 0;
	}
	ob_count(engine, lifted_pages, count);
	return count;
}

unsigned ob_lift_only(struct ob_engine *engine, struct ob_place *place, const uint64_t *wanted)
{
	uint64_t left[OB_CHUNK_PAGES / 64];

	for (unsigned i = 0; i < OB_CHUNK_PAGES / 64; i++)
		left[i] = ~wanted[i];
	return ob_lift_chunk_but(engine, place, left);
}

static int is_benched(const struct ob_place *place, uint64_t page)
{
	return ob_page_state(*ob_place_word(place, page)) == OB_PAGE_BENCHED;
}

/* Those of the n pages that were on the bench are in place. Returns how many. */
static unsigned returned(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	unsigned count = 0;

	for (uint64_t end = page + n; page < end; page++) {
		uint64_t *word = ob_place_word(place, page), bits = *word & ~15ull & ~OB_PAGE_PLACED;

		if (!is_benched(place, page))
			continue;
		/* What is being written or is placed belongs to a reclaimer, who frees it when he sees that the word has changed. */
		if (bits & OB_PAGE_WRITING)
			bits = ob_page_with_handle(ob_page_handle(bits));
		ob_page_move(engine, place->chunk, word, OB_T_RETURN, bits);
		count++;
	}
	return count;
}

/* The page cannot be moved (something holds it on the bench): copies it, and empties the bench. */
static int return_by_copy(struct ob_engine *engine, struct ob_place *place, uint64_t page)
{
	uint64_t done;
	int r = is_there(engine, (uint64_t)(uintptr_t)ob_place_bench(place, page));

	/* Copying from where nothing is would be a fault that nobody can answer, with the chunk locked. */
	if (r <= 0)
		return r < 0 ? r : -EIO;
	r = ob_uffd_copy(engine->uffd, ob_place_ram(place, page), ob_place_bench(place, page), OB_PAGE_SIZE, &done);
	if (r < 0)
		return r;
	/* If the bench cannot be emptied now, the next lift of this page finds that and does it. */
	r = ob_lift_drop(place, page, 1);
	if (r < 0)
		ob_engine_internal_error(engine, "emptying the bench", r, ob_place_ram(place, page));
	return 0;
}

/* The first of the n pages is on the bench; of the others those are holes that are not, and such there may be only with_holes. */
static int move_back(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, int with_holes)
{
	unsigned count = 0;
	int r = 0;

	ob_lift_mutate(ob_place_bench(place, page));
	while (n) {
		uint64_t done = 0, ram = ob_place_ram(place, page);
		uint64_t bench = (uint64_t)(uintptr_t)ob_place_bench(place, page);
		unsigned moved, denied;

		r = with_holes ? ob_uffd_move_with_holes(engine->uffd, ram, bench, n * OB_PAGE_SIZE, &done) :
				 ob_uffd_move(engine->uffd, ram, bench, n * OB_PAGE_SIZE, 0, &done);
		moved = (unsigned)(done / OB_PAGE_SIZE);
		denied = moved_and_denied(engine, ram + done, bench + done, n - moved, r);
		count += returned(engine, place, page, moved + denied);
		page += moved + denied;
		n -= moved + denied;
		/* The kernel wakes those only who wait for what it says that it has moved. */
		if (denied && ob_uffd_wake(engine->uffd, ram + done, denied * OB_PAGE_SIZE) < 0)
			ob_engine_internal_error(engine, "UFFDIO_WAKE", -EIO, ram + done);
		if (r == 0)
			break;
		if (denied)
			continue;
		if (r != -EBUSY && r != -EAGAIN && r != -ENOMEM)
			ob_engine_internal_error(engine, "UFFDIO_MOVE from the bench", r, ob_place_ram(place, page));
		if (is_benched(place, page))
			r = return_by_copy(engine, place, page);
		if (r < 0 && is_benched(place, page))
			break;
		count += returned(engine, place, page, 1);
		page++;
		n--;
	}
	ob_count(engine, returned_pages, count);
	return count ? (int)count : r;
}

int ob_lift_return(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n)
{
	return move_back(engine, place, page, n, 0);
}

/* Whether there is nothing of a page in guest RAM, and nothing on the bench: that was emptied before the page became what it is. */
static int is_nowhere(uint64_t word)
{
	return ob_page_state(word) == OB_PAGE_ZERO || ob_page_state(word) == OB_PAGE_SHARED;
}

unsigned ob_lift_return_run(struct ob_engine *engine, struct ob_place *place, uint64_t page)
{
	uint64_t end = page, holes = 0;

	/* By state alone: a large page that is in use can go back whole, but cannot be split. */
	for (uint64_t at = page; at < ob_place_end(place); at++) {
		if (is_benched(place, at)) {
			holes += at - end;
			end = at + 1;
		} else if (end == page || !is_nowhere(*ob_place_word(place, at))) {
			break;
		}
	}
	if (end > page)
		(void)!move_back(engine, place, page, (unsigned)(end - page), holes > 0);
	return (unsigned)(end - page);
}

void ob_lift_return_all(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t page = place->chunk_first;

	while (page < ob_place_end(place)) {
		unsigned n = ob_lift_return_run(engine, place, page);

		page += n ? n : 1;
	}
}
