/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bringing a page back that is away, with neighbours: from the compressed pool, from a canonical page, and from the swap store in the foreground
 * (fault_read.c does that in the background). For faults, and for a release.
 *
 * Of several pages the first, which somebody waits for, comes by itself, so that he goes on while the rest comes. Room for all is charged before, and what did
 * not come is given back.
 *
 * Locking: the chunk's, which is let go of only while the store is read; the pages are BUSY then.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "engine/scan.h"
#include "engine/warmth.h"
#include "kern/uffd.h"

/* Decompresses n pages into the buffer. Returns how many, from the first on; -EBADMSG if not even that. */
static int unpack(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, char *buffer)
{
	unsigned done = 0;

	for (; done < n; done++) {
		unsigned length;
		const void *data = ob_pool_load(engine->pool, ob_page_handle(*ob_place_word(place, page + done)), &length);

		if (ob_content_decompress(data, length, buffer + done * OB_PAGE_SIZE) < 0)
			break;
	}
	return done || !n ? (int)done : -EBADMSG;
}

/* Brings n compressed pages with one call; the guest wants them, or neighbours of theirs. Returns how many came, or -errno if not even the first. */
static int fill_unpacked(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, int is_touched, char *buffer,
			 uint64_t *ret_fetched_ns)
{
	int r = unpack(engine, place, page, n, buffer);
	unsigned came = 0;

	if (ret_fetched_ns)
		*ret_fetched_ns = ob_now_ns();
	if (r > 0)
		r = ob_fault_copy_in(engine, place, page, (unsigned)r, buffer, &came);
	for (unsigned i = 0; i < came; i++) {
		uint64_t *word = ob_place_word(place, page + i);
		uint32_t handle = ob_page_handle(*word);

		ob_page_move(engine, place->chunk, word, OB_T_DECOMPRESS, 0);
		if (is_touched)
			ob_pool_touched(engine->pool, handle);
		ob_pool_free(engine->pool, handle);
	}
	return came ? (int)came : r;
}

/* The page that somebody waits for first, by itself, so that he goes on while the rest comes. */
static int fill_compressed(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer,
			   uint64_t *ret_fetched_ns)
{
	uint64_t end = OB_MIN(page + OB_MIN(window, OB_FILL_MAX), ob_place_end(place));
	unsigned n = ob_fault_charge(engine, ob_page_run(place, page, end)), came = 0;
	int r;

	if (!n)
		return -ENOSPC;
	r = fill_unpacked(engine, place, page, 1, 1, buffer, ret_fetched_ns);
	if (r > 0) {
		int more = n > 1 ? fill_unpacked(engine, place, page + 1, n - 1, 0, buffer, NULL) : 0;

		came = 1 + (unsigned)OB_MAX(more, 0);
		ob_count(engine, prefetched_pages, came - 1);
	}
	ob_cost_add(engine, (int64_t)came - n);
	return OB_MIN(r, 0);
}

/* How many pages from `page` on, of those that are shared, lie in slots of one extent that follow each other. */
static unsigned shared_run(const struct ob_place *place, uint64_t page, uint64_t end)
{
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	unsigned n = 1;

	while (page + n < end && ob_page_slot(*ob_place_word(place, page + n)) == slot + n && (slot + n) % OB_EXTENT_PAGES)
		n++;
	return n;
}

/*
 * Copies shared pages in from the canonical store, as many calls as there are runs. is_touched: the guest wants them, not a neighbour of theirs. Returns
 * how many came, or -errno if not even the first.
 */
static int fill_canonical(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, int is_touched, char *buffer)
{
	uint64_t first = page, end = page + n, now_ns = ob_now_ns();
	int r = 0;

	while (page < end && r == 0) {
		unsigned run = shared_run(place, page, end);
		const char *bytes = ob_share_bytes(engine, ob_page_slot(*ob_place_word(place, page)));
		uint64_t done = 0;

		r = ob_uffd_copy(engine->uffd, ob_place_ram(place, page), run > 1 ? bytes : ob_lift_mutated(bytes, buffer),
				 run * OB_PAGE_SIZE, &done);
		if (r < 0 && r != -ENOMEM && r != -EAGAIN)
			ob_engine_internal_error(engine, "UFFDIO_COPY", r, ob_place_ram(place, page) + done);
		for (; done; done -= OB_PAGE_SIZE, page++) {
			uint64_t *word = ob_place_word(place, page);
			uint32_t slot = ob_page_slot(*word);

			ob_page_move(engine, place->chunk, word, OB_T_UNSHARE, ob_warmth_back(*word, is_touched, now_ns, ob_scan_cold_ns(engine)));
			ob_share_let_go(engine, slot);
		}
	}
	return page > first ? (int)(page - first) : r;
}

/* As above: the first by itself. There is no buffer that would limit how many come. */
static int fill_shared(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer,
		       uint64_t *ret_fetched_ns)
{
	uint64_t end = OB_MIN(page + OB_MIN(window, OB_WINDOW_MAX), ob_place_end(place));
	unsigned n = ob_fault_charge(engine, ob_page_run(place, page, end)), came = 0;
	int r;

	if (!n)
		return -ENOSPC;
	if (ret_fetched_ns)
		*ret_fetched_ns = ob_now_ns();
	r = fill_canonical(engine, place, page, 1, 1, buffer);
	if (r > 0) {
		int more = n > 1 ? fill_canonical(engine, place, page + 1, n - 1, 0, buffer) : 0;

		came = 1 + (unsigned)OB_MAX(more, 0);
		ob_count(engine, prefetched_pages, came - 1);
	}
	ob_cost_add(engine, (int64_t)came - n);
	return OB_MIN(r, 0);
}

/* How many pages from `page` on lie in slots that follow each other. */
static unsigned swapped_run(const struct ob_place *place, uint64_t page, uint64_t end)
{
	unsigned n = ob_page_run(place, page, end);
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));

	for (unsigned i = 1; i < n; i++)
		if (ob_page_slot(*ob_place_word(place, page + i)) != slot + i)
			return i;
	return n;
}

/* Reads n slots; a run that fails is read again without the neighbours. Returns how many were read, or -errno. */
static int read_slots(struct ob_engine *engine, uint32_t slot, unsigned n, char *buffer)
{
	int r = ob_swap_read(engine->swap, slot, n, buffer);

	ob_count(engine, swap_read_ops, 1);
	if (r < 0 && n > 1) {
		n = 1;
		r = ob_swap_read(engine->swap, slot, 1, buffer);
		ob_count(engine, swap_read_ops, 1);
	}
	return r < 0 ? r : (int)n;
}

/* In the foreground, where nothing can be started in the background. */
static int fill_swapped(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer,
			uint64_t *ret_fetched_ns)
{
	uint64_t end = OB_MIN(page + OB_MIN(window, OB_FILL_MAX), ob_place_end(place));
	unsigned n = ob_fault_charge(engine, swapped_run(place, page, end)), came = 0;
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	int got, first = 0;

	if (!n)
		return -ENOSPC;
	for (unsigned i = 0; i < n; i++)
		*ob_place_word(place, page + i) |= OB_PAGE_BUSY;
	ob_chunk_unlock(place->chunk);
	got = read_slots(engine, slot, n, buffer);
	ob_chunk_lock(place->chunk);
	if (ret_fetched_ns)
		*ret_fetched_ns = ob_now_ns();
	for (unsigned i = 0; i < n;) {
		/* The first by itself, as above; it alone was asked for if the run could not be read. */
		unsigned run = i ? n - i : 1;
		int was_read = got < 0 ? got : (int)i < got ? 0 : -EAGAIN, r;
		unsigned now = ob_read_settle_run(engine, place, page + i, run, buffer + i * OB_PAGE_SIZE, was_read, &r);

		came += now;
		if (i == 0)
			first = now ? 0 : r;
		i += now;
		if (now == run)
			continue;
		if (i++) /* who waits for a neighbour must ask again by himself */
			ob_uffd_wake(engine->uffd, ob_place_ram(place, page + i - 1), OB_PAGE_SIZE);
	}
	ob_cost_add(engine, (int64_t)came - n);
	if (came > 1)
		ob_count(engine, prefetched_pages, came - 1);
	return first;
}

int ob_fault_fill(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer,
		  uint64_t *ret_fetched_ns)
{
	uint64_t word = *ob_place_word(place, page);

	if (word & OB_PAGE_BUSY)
		return -EALREADY;
	if (ob_page_state(word) == OB_PAGE_COMPRESSED)
		return fill_compressed(engine, place, page, window, buffer, ret_fetched_ns);
	if (ob_page_state(word) == OB_PAGE_SHARED)
		return fill_shared(engine, place, page, window, buffer, ret_fetched_ns);
	return fill_swapped(engine, place, page, window, buffer, ret_fetched_ns);
}
