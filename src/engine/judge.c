/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of pages that the scanner has lifted, and that nobody has touched since: those of zeros are dropped, the others offered for sharing.
 * When, and of which chunks, is scan.c's.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/content.h"
#include "engine/scan.h"
#include "engine/warmth.h"

static int is_judged(uint64_t word)
{
	return ob_page_state(word) == OB_PAGE_BENCHED && !(word & (OB_PAGE_WRITING | OB_PAGE_PLACED));
}

/* Drops those pages of zeros, given by their numbers in the chunk. */
static void drop_zeros(struct ob_engine *engine, struct ob_place *place, const uint16_t *pages, unsigned n)
{
	unsigned gone = n ? ob_lift_drop_many(engine, place, pages, n) : 0;

	for (unsigned i = 0; i < gone; i++) {
		uint64_t *word = ob_place_word(place, place->chunk_first + pages[i]);

		if (*word & OB_PAGE_CACHED)
			ob_swap_free(engine->swap, ob_page_slot(*word));
		ob_page_move(engine, place->chunk, word, OB_T_DROP_ZERO, 0);
	}
	ob_cost_add(engine, -(int64_t)gone);
	ob_count(engine, zero_pages_found, gone);
	if (gone)
		ob_fault_room(engine);
}

static void offer_compressed(struct ob_engine *engine, const struct ob_place *place, uint64_t page)
{
	char bytes[OB_PAGE_SIZE];
	unsigned length;
	const void *data = ob_pool_load(engine->pool, ob_page_handle(*ob_place_word(place, page)), &length);

	if (ob_content_decompress(data, length, bytes) == 0)
		ob_share_offer(engine, place, page, bytes, OB_SHARE_EVICTED);
}

int ob_judge_pages(struct ob_engine *engine, struct ob_place *place, uint64_t first, unsigned n, int with_pool)
{
	int shares = ob_scan_may_look(engine);
	uint64_t now_ns = ob_now_ns();
	uint16_t zeros[OB_JUDGE_PAGES];
	unsigned zero_count = 0;
	int cold = 0;

	/* A page that I/O kept from going back stays where it is until that ends. */
	if (ob_lift_io_inflight(place->chunk))
		return -EBUSY;
	for (uint64_t page = first; page < first + n; page++) {
		uint64_t word = *ob_place_word(place, page);

		if (shares && page + 1 < first + n && is_judged(*ob_place_word(place, page + 1)))
			ob_content_expect(ob_place_bench(place, page + 1));
		cold += ob_page_state(word) == OB_PAGE_BENCHED;
		if (shares && ob_page_state(word) == OB_PAGE_COMPRESSED && with_pool)
			offer_compressed(engine, place, page);
		if (!shares || !is_judged(word))
			continue;
		if (ob_content_is_zero(ob_place_bench(place, page))) {
			if (ob_large_may_take(engine, place, page))
				zeros[zero_count++] = (uint16_t)(page - place->chunk_first);
		} else if (!ob_warmth_is_warm(word, now_ns, ob_scan_cold_ns(engine))) {
			ob_share_offer(engine, place, page, ob_place_bench(place, page), OB_SHARE_COLD);
		}
	}
	drop_zeros(engine, place, zeros, zero_count);
	return cold;
}
