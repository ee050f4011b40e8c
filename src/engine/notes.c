/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that the scanner looks at ahead of its round, since there is reason to believe that somebody has their equal.
 *
 * Theory of operation. The scanner's hand needs a minute and more to come by, and 64 times that where a chunk had nothing to give before. Of
 * some pages more is known before their bytes are looked at:
 *
 *     read from an image    machines made from one template read the same blocks of the same base image, and each keeps them in its
 *                           page cache: they are equal from the moment they are read. Whoever reads (the agent's hooks) notes which
 *                           pages it went to
 *     wanted                overbookd has asked for a page that has been moved back: another one has turned out to be its equal. So the page
 *                           that a machine read long ago meets the one that another reads now
 *
 *     noted    a bit for each page, in its chunk; the first one puts the chunk into a queue
 *     due      between one and two waits later (scan.c: as long as the grace). A page that is lifted before whoever asked for it
 *              has copied it costs a fault, and is not cold
 *     visited  the bits are taken, and those pages lifted, watched, judged and settled as what the hand lifts is
 *
 * A note is a hint of where to look. It says neither what a page holds nor who has its equal: that is overbookd's index to find, by
 * the same offers as ever, and bytes are compared as ever. Notes may get lost, or be about pages that hold something else by
 * now. So nothing is kept of which block of which image it was: who read that block before has offered its page already.
 *
 * Limits: OB_NOTES_MAX chunks wait; what comes when the queue is full is left to the hand. The scanner's own limits bound the rest.
 *
 * Locking: none. Bits and flag are atomic; the queue has many writers, who reserve a place, then fill it, and one reader, the
 * scanner, who waits at a place that is not filled yet. A bit is set before the flag, and the flag cleared before the bits are
 * taken: a page is noted while its chunk is queued, or queues it again. As with marks of I/O, a region does not go while somebody reads into it.
 */
#include <errno.h>

#include "engine/scan.h"

_Static_assert((OB_NOTES_MAX & (OB_NOTES_MAX - 1)) == 0, "places go on where the counts wrap");

/* Appends a chunk, if there is room. Returns whether it did. */
static int queue(struct ob_notes *notes, uint32_t id)
{
	uint32_t head = ob_load(&notes->head);

	do {
		if (head - __atomic_load_n(&notes->tail, __ATOMIC_ACQUIRE) >= OB_NOTES_MAX)
			return 0;
	} while (!__atomic_compare_exchange_n(&notes->head, &head, head + 1, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	__atomic_store_n(&notes->chunk[head % OB_NOTES_MAX], id + 1, __ATOMIC_RELEASE);
	return 1;
}

void ob_notes_queue(struct ob_engine *engine, const struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint32_t id = ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES));

	if (!__atomic_exchange_n(&chunk->is_noted, 1, __ATOMIC_SEQ_CST) && !queue(&engine->share->notes, id))
		__atomic_store_n(&chunk->is_noted, 0, __ATOMIC_SEQ_CST);
}

/* Pages [first, end) of a region, all in one chunk. */
static void note(struct ob_engine *engine, uint32_t region, uint64_t first, uint64_t end)
{
	struct ob_place place;
	unsigned added = 0;

	ob_place_chunk(engine, region, (uint32_t)(first / OB_CHUNK_PAGES), &place);
	for (uint64_t page = first; page < end;) {
		unsigned shift = page % 64, n = (unsigned)OB_MIN(64 - shift, end - page);
		uint64_t mask = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << shift;
		uint64_t *noted = &place.chunk->noted[page % OB_CHUNK_PAGES / 64];

		added += (unsigned)__builtin_popcountll(mask & ~__atomic_fetch_or(noted, mask, __ATOMIC_SEQ_CST));
		page += n;
	}
	if (!added)
		return;
	ob_count(engine, noted_image_pages, added);
	ob_notes_queue(engine, &place);
}

void ob_notes_want(struct ob_engine *engine, const struct ob_place *place)
{
	unsigned number = (unsigned)(place->page - place->chunk_first);

	if (__atomic_fetch_or(&place->chunk->noted[number / 64], 1ull << (number % 64), __ATOMIC_SEQ_CST) >> (number % 64) & 1)
		return;
	ob_count(engine, noted_wanted_pages, 1);
	ob_notes_queue(engine, place);
}

int ob_engine_wants_notes(const struct ob_engine *engine)
{
	return ob_share_is_on(engine) && ob_load(&engine->share->cpu_permille);
}

void ob_engine_note_image(struct ob_engine *engine, const void *addr, size_t length)
{
	uint64_t at = (uint64_t)(uintptr_t)addr, end = at + length < at ? UINT64_MAX : at + length;

	if (!ob_engine_wants_notes(engine))
		return;
	for (uint32_t i = 0; i < OB_REGIONS_MAX; i++) {
		const struct ob_region *region = &engine->region[i];
		uint64_t base = __atomic_load_n(&region->base, __ATOMIC_ACQUIRE);
		uint64_t first, last;

		if (!base || at >= base + region->length || end <= base)
			continue;
		/* Whole pages: of others the rest comes from elsewhere. */
		first = (OB_MAX(at, base) - base + OB_PAGE_SIZE - 1) / OB_PAGE_SIZE;
		last = (OB_MIN(end, base + region->length) - base) / OB_PAGE_SIZE;
		while (first < last) {
			uint64_t stop = OB_MIN((first / OB_CHUNK_PAGES + 1) * OB_CHUNK_PAGES, last);

			note(engine, i, first, stop);
			first = stop;
		}
	}
}

int ob_notes_due(struct ob_notes *notes, uint64_t now, uint64_t wait_ns, uint32_t *ret_id)
{
	uint32_t id, *place = &notes->chunk[notes->tail % OB_NOTES_MAX];

	if (now - notes->seen_ns >= wait_ns) {
		notes->due = notes->seen;
		notes->seen = ob_load(&notes->head);
		notes->seen_ns = now;
	}
	if (notes->tail == notes->due)
		return -ENOENT;
	id = __atomic_load_n(place, __ATOMIC_ACQUIRE);
	if (!id)
		return -ENOENT;
	ob_store(place, 0);
	__atomic_store_n(&notes->tail, notes->tail + 1, __ATOMIC_RELEASE);
	*ret_id = id - 1;
	return 0;
}

unsigned ob_notes_take(struct ob_chunk *chunk, uint64_t *ret_pages)
{
	unsigned n = 0;

	__atomic_store_n(&chunk->is_noted, 0, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < OB_CHUNK_PAGES / 64; i++) {
		ret_pages[i] = __atomic_exchange_n(&chunk->noted[i], 0, __ATOMIC_SEQ_CST);
		n += (unsigned)__builtin_popcountll(ret_pages[i]);
	}
	return n;
}
