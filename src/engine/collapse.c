/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a broken chunk a large page again. Nobody decides that here: large.c does, by largepages/chunk.h.
 *
 * Theory of operation. The kernel copies the 512 pages into a large one (MADV_COLLAPSE). That takes some milliseconds, in
 * which page faults in the same mapping wait: that is all of guest RAM. So few a second. The chunk's lock is held, so that no
 * page of it is lifted, shared, or discarded meanwhile; guest and devices go on, and the kernel sees to it that no write of
 * theirs is lost: it gives up where something holds a page (-EAGAIN), be it by a pin or a plain reference.
 *
 * It is asked only where it can say yes: the chunk is aligned and whole, tracked, and each page RESIDENT. It refuses a
 * registered chunk with a hole (-EBUSY), with a page that is armed (-EINVAL), and with one of its zero pages (-EBUSY). Those
 * are RESIDENT too, which cannot be seen in the words, and cost nothing in truth: read faults put them there, and since 6.12
 * the kernel does, when it breaks a large page, for each small page of zeros. A few are made pages of their own first, and are
 * what they are charged for then; a chunk that has many is better left as it is.
 *
 * Then the bench's page table goes. Where single pages have lain on the bench there is one, empty, and a large page that is
 * lifted to it would be broken at once. Dropping all 2 MiB of the bench, where nothing is, frees the table on kernels with
 * CONFIG_PT_RECLAIM; on others the next lift breaks the page again.
 *
 * Words do not change: RESIDENT pages stay what they are, with the copies that the store may have of them (CACHED). So does
 * the cost. docs/large-pages.md has what the kernel was seen to do.
 */
#include <errno.h>

#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/pagemap.h"

#define ZEROS_MOST 64 /* of the kernel's, in a chunk that is made whole */

/* Whether every page of it is in place, and nobody is about to take it. */
static int may_collapse(const struct ob_place *place)
{
	const struct ob_chunk *chunk = place->chunk;

	if (chunk->open || chunk->inexact || chunk->armed || chunk->evicting || chunk->watched || ob_lift_io_inflight(chunk))
		return 0;
	return chunk->pages == OB_CHUNK_PAGES && chunk->count[OB_PAGE_RESIDENT] == OB_CHUNK_PAGES &&
	       ob_place_ram(place, place->chunk_first) % OB_CHUNK_SIZE == 0;
}

/* Makes the kernel's pages of zeros in a chunk pages of its own. Returns how many, 0 also when there are too many, or -errno. */
static int own_zeros(struct ob_engine *engine, const struct ob_place *place)
{
	uint64_t zero[OB_CHUNK_PAGES / 64];
	int n = ob_pagemap_zero(engine->pagemap, ob_place_ram(place, place->chunk_first), OB_CHUNK_SIZE, zero), r = 0;

	if (n <= 0 || n > ZEROS_MOST)
		return OB_MIN(n, 0);
	/* They are there, as the kernel has just said, and the chunk is locked: nobody has to answer a fault for this. */
	for (unsigned i = 0; i < OB_CHUNK_PAGES && r == 0; i++)
		if (zero[i / 64] >> (i % 64) & 1)
			r = ob_memory_own((void *)(uintptr_t)ob_place_ram(place, place->chunk_first + i), OB_PAGE_SIZE);
	return r < 0 ? r : n;
}

int ob_chunk_collapse(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t ram = ob_place_ram(place, place->chunk_first);
	int r;

	if (!may_collapse(place))
		return 0;
	r = ob_memory_collapse((void *)(uintptr_t)ram, OB_CHUNK_SIZE);
	if (r == -EBUSY && own_zeros(engine, place) > 0)
		r = ob_memory_collapse((void *)(uintptr_t)ram, OB_CHUNK_SIZE);
	if (r < 0)
		return r;
	r = ob_lift_drop(place, place->chunk_first, OB_CHUNK_PAGES);
	/* If not now, the next lift breaks the page again, as on kernels that free no tables. */
	if (r < 0 && r != -EAGAIN)
		ob_engine_internal_error(engine, "emptying the bench of a large page", r, ram);
	return 1;
}
