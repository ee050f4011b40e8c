/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

#define FREED 0xdb
#define WORN  (UINT32_MAX - 1) /* instead of an entry */

static void wrong(struct keeper *keeper, const char *what, long long number)
{
	if (!__atomic_fetch_add(&keeper->wrong, 1, __ATOMIC_RELAXED))
		ob_log(OB_LOG_ERROR, "test: keeper: %s: %lld", what, number);
}

void keeper_ready(void *context)
{
	const struct keeper *keeper = context;
	uint64_t one = 1;

	if (write(keeper->ready_fd, &one, sizeof(one)) < 0)
		ob_log(OB_LOG_ERROR, "test: keeper: eventfd: %m");
}

int keeper_start(struct keeper *keeper, struct ob_engine *engine, uint32_t extent_pages, unsigned cpu_permille)
{
	int r;

	*keeper = (struct keeper){ .engine = engine, .extent_pages = extent_pages, .next_id = 0x1000 };
	keeper->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	keeper->entry = calloc(KEEPER_INDEX, sizeof(*keeper->entry));
	if (keeper->ready_fd < 0 || !keeper->entry)
		return -ENOMEM;
	r = ob_hash_key_draw(&keeper->key);
	return r < 0 ? r : ob_engine_share_on(engine, keeper->key.secret, cpu_permille, keeper_ready, keeper);
}

static void free_extent(struct keeper *keeper, struct keeper_extent *extent)
{
	munmap(extent->base, keeper->extent_pages * OB_PAGE_SIZE);
	free(extent->refs);
	free(extent->entry);
	*extent = (struct keeper_extent){ 0 };
}

void keeper_end(struct keeper *keeper)
{
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++)
		if (keeper->extent[i].id)
			free_extent(keeper, &keeper->extent[i]);
	free(keeper->entry);
	ob_fd_close(&keeper->ready_fd);
}

/* An extent as overbookd makes it; the engine gets a mapping of its own. */
static int new_extent(struct keeper *keeper, struct keeper_extent *extent)
{
	size_t bytes = keeper->extent_pages * OB_PAGE_SIZE;
	OB_FD int fd = memfd_create("canonical", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *ours, *theirs;
	int r;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return -errno;
	ours = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ours == MAP_FAILED)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	theirs = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (theirs == MAP_FAILED)
		return -errno;
	*extent = (struct keeper_extent){ .id = keeper->next_id++, .base = ours };
	extent->refs = calloc(keeper->extent_pages, sizeof(*extent->refs));
	extent->entry = calloc(keeper->extent_pages, sizeof(*extent->entry));
	if (!extent->refs || !extent->entry)
		return -ENOMEM;
	r = ob_engine_share_extent(keeper->engine, extent->id, theirs, keeper->extent_pages);
	if (r < 0)
		munmap(theirs, bytes);
	else if (ob_engine_share_extent_file(keeper->engine, extent->id, fd) == 0)
		ob_fd_take(&fd);
	return r;
}

/* A slot without refs in an extent: they are handed out in order. */
static int free_slot(const struct keeper *keeper, const struct keeper_extent *extent, uint32_t *ret_index)
{
	if (!extent->id || extent->used == keeper->extent_pages)
		return 0;
	for (uint32_t i = 0; i < keeper->extent_pages; i++) {
		if (extent->refs[i] || extent->entry[i])
			continue;
		*ret_index = i;
		return 1;
	}
	return 0;
}

int keeper_put(struct keeper *keeper, const void *page, uint32_t *ret_index)
{
	struct keeper_extent *extent = NULL;
	int r;

	for (unsigned i = 0; i < KEEPER_EXTENTS && !extent; i++)
		if (free_slot(keeper, &keeper->extent[i], ret_index))
			extent = &keeper->extent[i];
	for (unsigned i = 0; i < KEEPER_EXTENTS && !extent; i++) {
		if (keeper->extent[i].id)
			continue;
		r = new_extent(keeper, &keeper->extent[i]);
		if (r < 0)
			return r;
		extent = &keeper->extent[i];
		*ret_index = 0;
	}
	if (!extent)
		return -ENOSPC;
	memcpy(extent->base + *ret_index * OB_PAGE_SIZE, page, OB_PAGE_SIZE);
	extent->entry[*ret_index] = UINT32_MAX; /* taken */
	extent->used++;
	return (int)(extent - keeper->extent);
}

/* Nobody holds it: whoever reads it all the same shall notice. */
static void release_slot(struct keeper *keeper, struct keeper_extent *extent, uint32_t index)
{
	uint32_t entry = extent->entry[index];

	if (entry < WORN)
		keeper->entry[entry].has_slot = 0;
	extent->used--;
	/* A device may be reading it still: it is not used again, and goes with its extent. */
	if (entry == WORN)
		return;
	memset(extent->base + index * OB_PAGE_SIZE, FREED, OB_PAGE_SIZE);
	extent->entry[index] = 0;
}

/* A page of the slot was mapped: it is found by nobody any more. */
static void wear_out(struct keeper *keeper, struct keeper_extent *extent, uint32_t index)
{
	if (extent->entry[index] < WORN)
		keeper->entry[extent->entry[index]].has_slot = 0;
	extent->entry[index] = WORN;
}

int keeper_adopt(struct keeper *keeper, uint64_t page, uint32_t extent, uint32_t index)
{
	struct keeper_extent *e = &keeper->extent[extent];
	int r;

	e->refs[index]++;
	keeper->adopted++;
	r = ob_engine_share_adopt(keeper->engine, page, e->id, index);
	if (r == 0)
		return 0;
	e->refs[index]--;
	keeper->adopted--;
	keeper->refused++;
	return r;
}

static struct keeper_extent *find_extent(struct keeper *keeper, uint64_t id)
{
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++)
		if (keeper->extent[i].id == id)
			return &keeper->extent[i];
	return NULL;
}

static void hold(struct keeper *keeper, const struct ob_share_adoption *item, int by)
{
	struct keeper_extent *extent = find_extent(keeper, item->extent);

	if (!extent)
		return;
	extent->refs[item->index] += (uint32_t)by;
	keeper->adopted += (uint64_t)(int64_t)by;
}

void keeper_adopt_all(struct keeper *keeper, struct ob_share_adoption *items, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		hold(keeper, &items[i], 1);
	ob_engine_share_adopt_all(keeper->engine, items, n);
	for (unsigned i = 0; i < n; i++) {
		if (items[i].result == 0)
			continue;
		hold(keeper, &items[i], -1);
		keeper->refused++;
	}
}

unsigned keeper_take_drops(struct keeper *keeper)
{
	struct ob_share_drop drops[100];
	unsigned n, total = 0;

	while ((n = ob_engine_share_drops(keeper->engine, drops, OB_ARRAY_LEN(drops)))) {
		for (unsigned i = 0; i < n; i++) {
			struct keeper_extent *extent = find_extent(keeper, drops[i].extent);

			if (!extent && keeper->forgives)
				continue;
			if (!extent || drops[i].index >= keeper->extent_pages || !drops[i].count ||
			    extent->refs[drops[i].index] < drops[i].count) {
				wrong(keeper, "a drop of what is not held", drops[i].index);
				continue;
			}
			extent->refs[drops[i].index] -= drops[i].count;
			total += drops[i].count;
			keeper->dropped += drops[i].count;
			if (drops[i].was_mapped)
				wear_out(keeper, extent, drops[i].index);
			if (!extent->refs[drops[i].index])
				release_slot(keeper, extent, drops[i].index);
		}
	}
	return total;
}

static struct keeper_entry *find_entry(struct keeper *keeper, uint64_t lo, uint64_t hi)
{
	for (unsigned i = 0; i < 64; i++) {
		struct keeper_entry *entry = &keeper->entry[(lo + i) % KEEPER_INDEX];

		if (!entry->is_used || (entry->lo == lo && entry->hi == hi))
			return entry;
	}
	/* Full hereabouts: one that has no slot goes. */
	for (unsigned i = 0; i < 64; i++) {
		struct keeper_entry *entry = &keeper->entry[(lo + i) % KEEPER_INDEX];

		if (entry->has_slot)
			continue;
		entry->is_used = 0;
		return entry;
	}
	return NULL;
}

static unsigned adopt_entry(struct keeper *keeper, struct keeper_entry *entry, uint64_t page)
{
	int r = keeper_adopt(keeper, page, entry->extent, entry->index);

	if (r < 0 && r != -ESTALE && r != -ENOENT && r != -ENOMEM && r != -EAGAIN)
		wrong(keeper, "an adoption ended with an error", r);
	return r == 0;
}

/* Two pages look alike: if they are, they get a slot. One whose equal is in use gets it alone, and that one will find it. */
static unsigned share_pair(struct keeper *keeper, struct keeper_entry *entry, uint64_t page)
{
	uint8_t first[OB_PAGE_SIZE], second[OB_PAGE_SIZE];
	uint64_t before = entry->page;
	unsigned adopted;
	int extent, r;

	if (before == page)
		return 0;
	entry->page = page;
	if (ob_engine_share_fetch(keeper->engine, page, entry->lo, entry->hi, second) < 0)
		return 0;
	r = ob_engine_share_fetch(keeper->engine, before, entry->lo, entry->hi, first);
	if (r < 0 && r != -ENOENT)
		return 0;
	if (r == 0 && memcmp(first, second, sizeof(first))) {
		wrong(keeper, "two pages have one hash", (long long)entry->lo);
		return 0;
	}
	extent = keeper_put(keeper, second, &entry->index);
	if (extent < 0)
		return 0;
	entry->extent = (uint32_t)extent;
	entry->has_slot = 1;
	keeper->extent[extent].entry[entry->index] = (uint32_t)(entry - keeper->entry);
	/* Entry 0 cannot be told from no entry. */
	if (entry == keeper->entry)
		keeper->extent[extent].entry[entry->index] = UINT32_MAX;
	adopted = (r == 0 ? adopt_entry(keeper, entry, before) : 0) + adopt_entry(keeper, entry, page);
	if (!keeper->extent[extent].refs[entry->index])
		release_slot(keeper, &keeper->extent[extent], entry->index);
	if (entry == keeper->entry)
		entry->has_slot = 0;
	return adopted;
}

/* A page is asked to adopt what its bytes are not: the answer must be that it does not. */
static void lie(struct keeper *keeper, uint64_t page, const struct keeper_entry *but)
{
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++) {
		struct keeper_extent *extent = &keeper->extent[i];
		uint32_t index = (uint32_t)(keeper->turn % keeper->extent_pages);
		uint8_t bytes[OB_PAGE_SIZE];

		if (!extent->id || !extent->refs[index] || (but->has_slot && but->extent == i && but->index == index))
			continue;
		if (ob_engine_share_fetch(keeper->engine, page, but->lo, but->hi, bytes) < 0 ||
		    !memcmp(bytes, extent->base + index * OB_PAGE_SIZE, OB_PAGE_SIZE))
			return;
		/* It may have become equal to it since: no error then, and a hold like any other. */
		keeper_adopt(keeper, page, i, index);
		return;
	}
}

static unsigned serve_offer(struct keeper *keeper, const struct ob_share_offer *offer)
{
	struct keeper_entry *entry = find_entry(keeper, offer->lo, offer->hi);

	keeper->turn++;
	if (!entry)
		return 0;
	if (!entry->is_used) {
		*entry = (struct keeper_entry){ .lo = offer->lo, .hi = offer->hi, .page = offer->page, .is_used = 1 };
		return 0;
	}
	if (keeper->lies && keeper->turn % 8 == 0)
		lie(keeper, offer->page, entry);
	return entry->has_slot ? adopt_entry(keeper, entry, offer->page) : share_pair(keeper, entry, offer->page);
}

static void drop_extents(struct keeper *keeper)
{
	for (unsigned i = 0; i < KEEPER_EXTENTS; i++) {
		struct keeper_extent *extent = &keeper->extent[i];
		int r;

		if (!extent->id || extent->used)
			continue;
		r = ob_engine_share_drop_extent(keeper->engine, extent->id);
		if (r < 0)
			wrong(keeper, "an extent of which nothing is held is not dropped", r);
		keeper->extents_dropped++;
		free_extent(keeper, extent);
	}
}

unsigned keeper_serve(struct keeper *keeper)
{
	struct ob_share_offer offers[64];
	unsigned n, adopted = 0;

	while ((n = ob_engine_share_offers(keeper->engine, offers, OB_ARRAY_LEN(offers))))
		for (unsigned i = 0; i < n; i++)
			adopted += serve_offer(keeper, &offers[i]);
	keeper_take_drops(keeper);
	drop_extents(keeper);
	return adopted;
}

static void *run(void *context)
{
	struct keeper *keeper = context;
	uint64_t drained;

	while (!__atomic_load_n(&keeper->stop, __ATOMIC_ACQUIRE)) {
		struct pollfd fd = { .fd = keeper->ready_fd, .events = POLLIN };

		if (poll(&fd, 1, 50) > 0 && read(keeper->ready_fd, &drained, sizeof(drained)) < 0)
			wrong(keeper, "eventfd", errno);
		keeper_serve(keeper);
	}
	return NULL;
}

int keeper_run(struct keeper *keeper)
{
	int r;

	keeper->stop = 0;
	r = pthread_create(&keeper->thread, NULL, run, keeper);
	keeper->is_running = r == 0;
	return -r;
}

void keeper_halt(struct keeper *keeper)
{
	if (!keeper->is_running)
		return;
	__atomic_store_n(&keeper->stop, 1, __ATOMIC_RELEASE);
	pthread_join(keeper->thread, NULL);
	keeper->is_running = 0;
}
