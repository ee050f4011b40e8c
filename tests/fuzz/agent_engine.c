/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "engine/engine.h"
#include "fuzz.h"
#include "kern/memory.h"

struct played_sharing played;
static void (*call_ready)(void *context);
static void *ready_context;

struct played_extent *played_find(uint64_t id)
{
	for (unsigned i = 0; i < PLAYED_EXTENTS; i++)
		if (id && played.extent[i].id == id)
			return &played.extent[i];
	return NULL;
}

static void tell(void)
{
	if (call_ready)
		call_ready(ready_context);
}

void played_touch(uint64_t id, uint32_t index, uint32_t count)
{
	struct played_extent *extent = played_find(id);

	if (!extent || index >= extent->pages)
		return;
	count = OB_MIN(count, extent->holds[index]);
	extent->holds[index] -= count;
	extent->held -= count;
	extent->dropped[index] += count;
	tell();
}

void played_offer(unsigned n)
{
	played.offers += n;
	tell();
}

static void unmap(struct played_extent *extent)
{
	ob_memory_unreserve(extent->base, extent->pages * OB_PAGE_SIZE);
	if (extent->file)
		ob_fd_close(&extent->file);
	memset(extent, 0, sizeof(*extent));
}

void played_reset(void)
{
	for (unsigned i = 0; i < PLAYED_EXTENTS; i++)
		if (played.extent[i].id)
			unmap(&played.extent[i]);
	memset(&played, 0, sizeof(played));
	call_ready = NULL;
}

int ob_engine_share_on(struct ob_engine *engine, const void *key192, unsigned cpu_permille, void (*ready)(void *context), void *context)
{
	for (unsigned i = 0; memcmp(played.key, key192, sizeof(played.key)) && i < PLAYED_EXTENTS; i++)
		played.extent[i].is_orphan = 1;
	memcpy(played.key, key192, sizeof(played.key));
	played.cpu_permille = cpu_permille;
	call_ready = ready;
	ready_context = context;
	if (cpu_permille == 999)
		return -ENOMEM;
	played.on = 1;
	played.begun++;
	return 0;
}

unsigned ob_engine_share_waiting(const struct ob_engine *engine)
{
	return played.offers;
}

int ob_engine_share_pace(struct ob_engine *engine, unsigned cpu_permille)
{
	if (!played.on)
		return -EINVAL;
	if (cpu_permille == 999)
		return -ENOMEM;
	played.cpu_permille = cpu_permille;
	return 0;
}

void ob_engine_share_orphan(struct ob_engine *engine, uint64_t id, int is_orphan)
{
	struct played_extent *extent = played_find(id);

	if (extent)
		extent->is_orphan = is_orphan;
}

int ob_engine_share_subpages(struct ob_engine *engine, unsigned subpages)
{
	played.subpages = subpages;
	return subpages > OB_SUBPAGES_MAX || (subpages & (subpages - 1)) ? -EINVAL : 0;
}

int ob_engine_drop_zeros(struct ob_engine *engine, void *base, size_t length, const unsigned *io_inflight)
{
	return 0;
}

void ob_engine_large(struct ob_engine *engine, const struct ob_large_orders *orders)
{
	played.large = *orders;
}

void ob_engine_share_off(struct ob_engine *engine)
{
	played.on = 0;
}

unsigned ob_engine_share_offers(struct ob_engine *engine, struct ob_share_offer *ret, unsigned max)
{
	unsigned n = OB_MIN(max, played.offers);

	for (unsigned i = 0; i < n; i++, played.next_offer++)
		ret[i] = (struct ob_share_offer){ played.next_offer, played.next_offer * 3, ~played.next_offer, i % 4 };
	played.offers -= n;
	return n;
}

unsigned ob_engine_share_drops(struct ob_engine *engine, struct ob_share_drop *ret, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PLAYED_EXTENTS; i++) {
		struct played_extent *extent = &played.extent[i];

		for (uint32_t slot = 0; slot < extent->pages && n < max; slot++) {
			if (!extent->dropped[slot])
				continue;
			extent->told_mapped[slot] |= extent->file && slot % 2 == 0;
			ret[n++] = (struct ob_share_drop){ extent->id, slot, extent->dropped[slot], extent->told_mapped[slot] };
			extent->dropped[slot] = 0;
		}
	}
	return n;
}

unsigned ob_engine_share_counts(struct ob_engine *engine, uint32_t *position, struct ob_share_drop *ret, unsigned max)
{
	unsigned n = 0;

	for (; n < max && *position < PLAYED_EXTENTS * PLAYED_SLOTS; ++*position) {
		const struct played_extent *extent = &played.extent[*position / PLAYED_SLOTS];
		uint32_t slot = *position % PLAYED_SLOTS, count = extent->holds[slot] + extent->dropped[slot];

		if (extent->id && count)
			ret[n++] = (struct ob_share_drop){ extent->id, slot, count };
	}
	return n;
}

int ob_engine_share_fetch(struct ob_engine *engine, uint64_t page, uint64_t lo, uint64_t hi, void *to)
{
	if (page >= PLAYED_PAGES)
		return -ENOENT;
	if (lo != page)
		return -ESTALE;
	memset(to, (int)(page & 0xff), OB_PAGE_SIZE);
	return 0;
}

int ob_engine_share_extent_file(struct ob_engine *engine, uint64_t id, int fd)
{
	struct played_extent *extent = played_find(id);

	FUZZ_CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC, "a descriptor of extent %llu", (unsigned long long)id);
	FUZZ_CHECK(extent && !extent->file, "a second file of extent %llu, or one of none", (unsigned long long)id);
	extent->file = fd;
	return 0;
}

int ob_engine_share_extent(struct ob_engine *engine, uint64_t id, void *base, uint32_t pages)
{
	FUZZ_CHECK(id && pages && pages <= PLAYED_SLOTS && base, "extent %llu of %u pages", (unsigned long long)id, pages);
	/* All of it can be read. */
	FUZZ_CHECK(*((volatile char *)base + pages * OB_PAGE_SIZE - 1) == 0, "the extent's last byte");
	if (played_find(id)) {
		played_find(id)->is_orphan = 0;
		return -EEXIST;
	}
	for (unsigned i = 0; i < PLAYED_EXTENTS; i++) {
		if (played.extent[i].id)
			continue;
		played.extent[i].id = id;
		played.extent[i].base = base;
		played.extent[i].pages = pages;
		played.extent[i].is_orphan = 0;
		return 0;
	}
	return -ENOSPC;
}

int ob_engine_share_drop_extent(struct ob_engine *engine, uint64_t id)
{
	struct played_extent *extent = played_find(id);

	if (!extent)
		return -ENOENT;
	if (extent->held)
		return -EBUSY;
	unmap(extent);
	return 0;
}

static int play_adopt(uint64_t page, uint64_t id, uint32_t index)
{
	struct played_extent *extent = played_find(id);

	FUZZ_CHECK(played.on, "a page is adopted while sharing is off");
	if (!extent || page >= PLAYED_PAGES || index >= extent->pages)
		return -ENOENT;
	if (page & 1)
		return -ESTALE;
	extent->holds[index]++;
	extent->held++;
	return 0;
}

void ob_engine_share_adopt_all(struct ob_engine *engine, struct ob_share_adoption *items, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		items[i].result = play_adopt(items[i].page, items[i].extent, items[i].index);
}

int ob_engine_unshare(struct ob_engine *engine, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
		      struct ob_error *err)
{
	for (uint64_t i = 0; i < played.steps; i++)
		progress(context, i, played.steps);
	if (played.result)
		return ob_error_sys(err, played.result, "page %d cannot be brought back", 7);
	for (unsigned i = 0; i < PLAYED_EXTENTS; i++)
		for (uint32_t slot = 0; slot < played.extent[i].pages; slot++)
			played_touch(played.extent[i].id, slot, UINT32_MAX);
	return 0;
}

unsigned ob_engine_share_held(struct ob_engine *engine, struct ob_share_held *ret, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PLAYED_EXTENTS && n < max; i++)
		if (played.extent[i].id)
			ret[n++] = (struct ob_share_held){ played.extent[i].id, played.extent[i].held };
	return n;
}
