/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which parts of a page are written: for whoever groups pages by that (overbookd's index "cmd-subpage").
 *
 * Theory of operation. A page is divided into equal sub-pages. Each time that it is looked at to be offered, a sum of each sub-page is
 * kept, and compared with that of the time before: a bit for each sub-page that has other bytes. So it tells that a sub-page was
 * written between two looks, not how often, and a write of the same bytes is none; a page that was not looked at before has no
 * bits. The CMD paper counts writes on the memory bus by a card that listens there, and sets a bit from 16 writes in a scan on. What
 * comes of it is alike where it matters here: a page that is offered twice and rests in between is of class 0.
 *
 * Memory: 8 bytes a page, which all its sums share, 64 bits for 1 sub-page and 8 bits each for 8 (one change in 256 is missed
 * then, and the page is in another class than it should be until the next look). The table of a chunk is one page, and
 * costs the machine nothing until something of the chunk is looked at. There are no tables while nobody wants to know.
 *
 * Locking: the tables come and go with regions_lock held for writing; a chunk's lock is for its sums.
 */
#include <errno.h>

#include "engine/internal.h"
#include "kern/memory.h"

_Static_assert(OB_CHUNK_PAGES * sizeof(uint64_t) == OB_PAGE_SIZE, "the sums of a chunk are a page");

static uint64_t sums_bytes(const struct ob_region *region)
{
	return region->chunk_count * OB_PAGE_SIZE;
}

void ob_subpage_forget(struct ob_engine *engine, struct ob_region *region)
{
	if (!region->sums)
		return;
	for (uint32_t i = 0; i < region->chunk_count; i++) {
		ob_cost_tables(engine, -(int64_t)(region->chunks[i].has_sums * OB_PAGE_SIZE));
		region->chunks[i].has_sums = 0;
	}
	ob_memory_unreserve(region->sums, sums_bytes(region));
	region->sums = NULL;
}

void ob_subpage_begin(const struct ob_engine *engine, struct ob_region *region)
{
	void *sums = NULL;

	/* Without address space for it the pages of this region have no bits. */
	if (engine->subpages && ob_memory_reserve(sums_bytes(region), 0, &sums) == 0)
		region->sums = sums;
}

int ob_subpage_range(const struct ob_region *region, uint64_t *ret_bytes)
{
	*ret_bytes = region->sums ? sums_bytes(region) : 0;
	return region->sums != NULL;
}

int ob_engine_share_subpages(struct ob_engine *engine, unsigned subpages)
{
	if (subpages > OB_SUBPAGES_MAX || (subpages & (subpages - 1)))
		return -EINVAL;
	pthread_rwlock_wrlock(&engine->regions_lock);
	if (subpages != engine->subpages) {
		engine->subpages = subpages;
		for (unsigned i = 0; i < OB_REGIONS_MAX; i++) {
			ob_subpage_forget(engine, &engine->region[i]);
			if (engine->region[i].base)
				ob_subpage_begin(engine, &engine->region[i]);
		}
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return 0;
}

unsigned ob_subpage_changed(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes)
{
	unsigned n = engine->subpages, bits = n ? 64 / n : 0, changed = 0;
	uint64_t mask = bits < 64 ? (1ull << bits) - 1 : UINT64_MAX, now, before;

	if (!place->region->sums)
		return 0;
	if (!place->chunk->has_sums) {
		place->chunk->has_sums = 1;
		ob_cost_tables(engine, OB_PAGE_SIZE);
	}
	now = ob_content_sums(bytes, n);
	before = place->region->sums[page];
	place->region->sums[page] = now;
	for (unsigned i = 0; i < n && before; i++)
		changed |= ((before ^ now) >> i * bits & mask ? 1u : 0) << i;
	return changed;
}
