/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Discards: the guest gives pages back (balloon, free-page reporting), or QEMU resets a range.
 *
 * Chunk by chunk, under its lock: what the engine keeps of the pages elsewhere is dropped, the kernel's pages are
 * dropped, and the words become BALLOONED, so that a fault sees either all of the old page or a page of zeros. A page that
 * is being read from the store is waited for. A page that is being written is taken out of its batch's hands.
 */
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/internal.h"

static int any_busy(const struct ob_place *place, uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end; page++)
		if (*ob_place_word(place, page) & OB_PAGE_BUSY)
			return 1;
	return 0;
}

static void forget_page(struct ob_engine *engine, struct ob_place *place, uint64_t page)
{
	uint64_t *word = ob_place_word(place, page);
	enum ob_page_state state = ob_page_state(*word);
	enum ob_transition transition = ob_page_discard_of(state);

	if (state == OB_PAGE_COMPRESSED)
		ob_pool_free(engine->pool, ob_page_handle(*word));
	if (state == OB_PAGE_SHARED)
		ob_share_let_go(engine, ob_page_slot(*word));
	if (state == OB_PAGE_SWAPPED || (*word & OB_PAGE_CACHED))
		ob_swap_free(engine->swap, ob_page_slot(*word));
	if (ob_page_costs(state))
		ob_cost_add(engine, -1);
	if (transition != OB_TRANSITION_COUNT)
		ob_page_move(engine, place->chunk, word, transition, 0);
}

/*
 * Empties the bench below the benched pages of the range, and forgets each run of them at once: in guest RAM they are holes
 * already. What the kernel does not drop stays as it was.
 */
static int discard_benched(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end)
{
	for (uint64_t page = first; page < end;) {
		unsigned n = ob_page_run(place, page, end);

		if (ob_page_state(*ob_place_word(place, page)) == OB_PAGE_BENCHED) {
			int r = ob_lift_drop(place, page, n);

			if (r < 0)
				return r;
			for (unsigned i = 0; i < n; i++)
				forget_page(engine, place, page + i);
		}
		page += n;
	}
	return 0;
}

/* One chunk's part of a discard, [first, end) pages of its region. */
static int discard_part(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end)
{
	struct ob_chunk *chunk = place->chunk;
	int r = 0;

	ob_chunk_lock(chunk);
	while (any_busy(place, first, end)) {
		ob_chunk_unlock(chunk);
		sched_yield();
		ob_chunk_lock(chunk);
	}
	/* When it cannot be tracked it stays counted as full, which errs on the right side. */
	if (chunk->open && chunk->granted)
		r = ob_chunk_track(engine, place);
	/* Dropped where it is mapped a canonical page would come back, not zeros. */
	if (!chunk->open)
		r = ob_mapped_take_out(engine, place, first, end);
	if (r == 0 && !chunk->open)
		r = discard_benched(engine, place, first, end);
	if (r == 0 && syscall(SYS_madvise, ob_place_ram(place, first), (end - first) * OB_PAGE_SIZE, MADV_DONTNEED) < 0)
		r = -errno;
	if (r == 0)
		for (uint64_t page = first; page < end; page++)
			forget_page(engine, place, page);
	ob_chunk_unlock(chunk);
	return r;
}

int ob_engine_discard(struct ob_engine *engine, void *addr, size_t length)
{
	uint64_t at = (uint64_t)(uintptr_t)addr, end = at + length;
	int r = 0;

	if (((at | length) & (OB_PAGE_SIZE - 1)) || end < at)
		return -EINVAL;
	pthread_rwlock_rdlock(&engine->regions_lock);
	while (at < end && r == 0) {
		struct ob_place place;
		uint64_t last;

		r = ob_place_find(engine, at, &place);
		if (r < 0)
			break;
		last = OB_MIN(ob_place_end(&place), place.page + (end - at) / OB_PAGE_SIZE);
		r = discard_part(engine, &place, place.page, last);
		ob_count(engine, discarded_pages, r == 0 ? last - place.page : 0);
		at += (last - place.page) * OB_PAGE_SIZE;
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return r;
}
