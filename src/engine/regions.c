/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Regions: taking mappings into care and forgetting them. The engine's tables for a region are made and freed here. */
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/uffd.h"

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + OB_PAGE_SIZE - 1) & ~(OB_PAGE_SIZE - 1);
}

static void free_tables(struct ob_engine *engine, struct ob_region *region)
{
	ob_subpage_forget(engine, region);
	for (uint32_t i = 0; region->chunks && i < region->chunk_count; i++)
		pthread_mutex_destroy(&region->chunks[i].lock);
	if (region->words && region->chunks)
		ob_cost_tables(engine, -(int64_t)(region->words_bytes + region->chunks_bytes));
	ob_memory_unreserve(region->bench, region->length);
	if (!region->aside_is_torn)
		ob_memory_unreserve(region->aside, region->length);
	ob_memory_unreserve(region->words, region->words_bytes);
	ob_memory_unreserve(region->chunks, region->chunks_bytes);
	memset(region, 0, sizeof(*region));
}

static int make_tables(struct ob_engine *engine, struct ob_region *region, uint64_t base, uint64_t length)
{
	uint64_t pages = length / OB_PAGE_SIZE;
	void *bench = NULL, *words = NULL, *chunks = NULL;
	int r;

	region->length = length;
	region->chunk_count = (uint32_t)((pages + OB_CHUNK_PAGES - 1) / OB_CHUNK_PAGES);
	region->words_bytes = round_up(pages * sizeof(uint64_t));
	region->chunks_bytes = round_up(region->chunk_count * sizeof(struct ob_chunk));
	r = ob_memory_reserve(length, base, &bench);
	region->bench = bench;
	if (r == 0)
		r = ob_memory_reserve(region->words_bytes, 0, &words);
	region->words = words;
	if (r == 0)
		r = ob_memory_reserve(region->chunks_bytes, 0, &chunks);
	region->chunks = chunks;
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < region->chunk_count; i++) {
		struct ob_chunk *chunk = &region->chunks[i];

		pthread_mutex_init(&chunk->lock, NULL);
		chunk->pages = (uint16_t)OB_MIN(OB_CHUNK_PAGES, pages - (uint64_t)i * OB_CHUNK_PAGES);
		chunk->count[OB_PAGE_ABSENT] = chunk->pages;
		chunk->window = 1;
		chunk->open = 1;
	}
	ob_cost_tables(engine, (int64_t)(region->words_bytes + region->chunks_bytes));
	ob_subpage_begin(engine, region);
	/* The bench is the destination of moves, which must be registered. */
	return ob_uffd_register(engine->uffd, (uint64_t)(uintptr_t)region->bench, length);
}

/* Takes the chunks of a new region into care at once when there is a limit. */
static int track_all(struct ob_engine *engine, uint32_t index)
{
	struct ob_region *region = &engine->region[index];

	for (uint32_t c = 0; c < region->chunk_count; c++) {
		struct ob_place place;
		int r;

		ob_place_chunk(engine, index, c, &place);
		pthread_mutex_lock(&place.chunk->lock);
		r = ob_chunk_track(engine, &place);
		pthread_mutex_unlock(&place.chunk->lock);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Takes back what track_all did; the chunks hold nothing but what is in place. */
static void untrack_all(struct ob_engine *engine, uint32_t index)
{
	struct ob_region *region = &engine->region[index];

	for (uint32_t c = 0; c < region->chunk_count; c++) {
		struct ob_place place;
		int64_t present;

		ob_place_chunk(engine, index, c, &place);
		pthread_mutex_lock(&place.chunk->lock);
		present = place.chunk->count[OB_PAGE_RESIDENT];
		if (!place.chunk->open && ob_chunk_open(engine, &place, 0) == 0)
			ob_cost_add(engine, -present);
		pthread_mutex_unlock(&place.chunk->lock);
	}
}

static int find_slot(const struct ob_engine *engine, uint64_t base, uint64_t length)
{
	int slot = -ENOSPC;

	for (int i = OB_REGIONS_MAX - 1; i >= 0; i--) {
		const struct ob_region *region = &engine->region[i];

		if (!region->base)
			slot = i;
		else if (base < region->base + region->length && region->base < base + length)
			return -EINVAL;
	}
	return slot;
}

static int add_region(struct ob_engine *engine, int slot, uint64_t base, uint64_t length)
{
	struct ob_region *region = &engine->region[slot];
	int64_t pages = (int64_t)(length / OB_PAGE_SIZE);
	int r = make_tables(engine, region, base, length);

	if (r < 0) {
		free_tables(engine, region);
		return r;
	}
	__atomic_store_n(&region->base, base, __ATOMIC_RELEASE);
	__atomic_fetch_add(&engine->in_state[OB_PAGE_ABSENT], pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&engine->open_chunks, region->chunk_count, __ATOMIC_RELAXED);
	ob_store(&engine->ram_pages, engine->ram_pages + (uint64_t)pages);
	if (engine->large.is_forbidden)
		ob_large_advise(region, 0);
	if (!ob_load(&engine->engaged))
		return 0;
	r = track_all(engine, (uint32_t)slot);
	if (r < 0)
		untrack_all(engine, (uint32_t)slot);
	return r;
}

/* Takes the counts of a region's pages back and drops what it holds in the pool and the store. regions_lock is held for writing. */
static void forget_region(struct ob_engine *engine, uint32_t index)
{
	struct ob_region *region = &engine->region[index];

	ob_clock_forget(engine, index);
	for (uint64_t page = 0; page < region->length / OB_PAGE_SIZE; page++) {
		uint64_t word = region->words[page];
		enum ob_page_state state = ob_page_state(word);

		if (state == OB_PAGE_COMPRESSED)
			ob_pool_free(engine->pool, ob_page_handle(word));
		if (state == OB_PAGE_SHARED || state == OB_PAGE_MAPPED)
			ob_share_let_go(engine, ob_page_slot(word));
		if (state == OB_PAGE_SWAPPED || (word & OB_PAGE_CACHED))
			ob_swap_free(engine->swap, ob_page_slot(word));
		if (ob_page_costs(state))
			ob_cost_add(engine, -1);
		if (word & OB_PAGE_CACHED)
			__atomic_fetch_sub(&engine->cached_pages, 1, __ATOMIC_RELAXED);
		__atomic_fetch_sub(&engine->in_state[state], 1, __ATOMIC_RELAXED);
	}
	for (uint32_t c = 0; c < region->chunk_count; c++) {
		ob_large_note(engine, &region->chunks[c], 0);
		if (!region->chunks[c].open)
			continue;
		ob_cost_add(engine, -(int64_t)region->chunks[c].granted);
		__atomic_fetch_sub(&engine->open_pages, region->chunks[c].granted, __ATOMIC_RELAXED);
		__atomic_fetch_sub(&engine->open_chunks, 1, __ATOMIC_RELAXED);
	}
	ob_store(&engine->ram_pages, engine->ram_pages - region->length / OB_PAGE_SIZE);
	__atomic_store_n(&region->base, 0, __ATOMIC_RELEASE);
	free_tables(engine, region);
}

int ob_engine_add_region(struct ob_engine *engine, void *base, size_t length, struct ob_error *err)
{
	uint64_t start = (uint64_t)(uintptr_t)base;
	int slot, r;

	if (!start || !length || ((start | length) & (OB_PAGE_SIZE - 1)) || start + length < start)
		return ob_error_set(err, EINVAL, "guest RAM at %p of %zu bytes is not page aligned", base, length);
	pthread_rwlock_wrlock(&engine->regions_lock);
	slot = find_slot(engine, start, length);
	r = slot < 0 ? slot : add_region(engine, slot, start, length);
	if (r < 0 && slot >= 0 && engine->region[slot].base) {
		if (ob_uffd_unregister(engine->uffd, start, length) < 0)
			ob_engine_internal_error(engine, "UFFDIO_UNREGISTER", -EIO, start);
		forget_region(engine, (uint32_t)slot);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	if (r == -ENOSPC)
		return ob_error_set(err, ENOSPC, "more than %d regions of guest RAM", OB_REGIONS_MAX);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot take the guest RAM at %p (%zu MiB) into care", base, length >> 20);
	return 0;
}

/* Makes its mapped pages cold. What cannot be stays mapped, in memory that nobody uses. */
static void unmap_region(struct ob_engine *engine, uint32_t index)
{
	for (uint32_t c = 0; c < engine->region[index].chunk_count; c++) {
		struct ob_place place;
		int r;

		ob_place_chunk(engine, index, c, &place);
		r = ob_mapped_take_out(engine, &place, place.chunk_first, ob_place_end(&place));
		if (r < 0)
			ob_engine_internal_error(engine, "unmapping shared pages", r, ob_place_ram(&place, place.chunk_first));
	}
}

/* Waits, with no lock held, until no read from the store is under way for the region; no new one starts. */
static void close_region(struct ob_engine *engine, uint64_t start)
{
	struct ob_region *region = NULL;

	pthread_rwlock_wrlock(&engine->regions_lock);
	for (uint32_t i = 0; i < OB_REGIONS_MAX; i++)
		if (start && engine->region[i].base == start)
			region = &engine->region[i];
	if (region)
		ob_store(&region->closing, 1);
	pthread_rwlock_unlock(&engine->regions_lock);
	while (region && __atomic_load_n(&region->reads, __ATOMIC_ACQUIRE))
		sched_yield();
}

int ob_engine_remove_region(struct ob_engine *engine, void *base)
{
	uint64_t start = (uint64_t)(uintptr_t)base;
	int r = -ENOENT;

	close_region(engine, start);
	pthread_rwlock_wrlock(&engine->regions_lock);
	for (uint32_t i = 0; i < OB_REGIONS_MAX && r < 0; i++) {
		struct ob_region *region = &engine->region[i];

		if (!start || region->base != start)
			continue;
		unmap_region(engine, i);
		/* An unused mapping has no waiters; if this fails, the registration goes with the mapping. */
		if (ob_uffd_unregister(engine->uffd, region->base, region->length) < 0)
			ob_engine_internal_error(engine, "UFFDIO_UNREGISTER", -EIO, start);
		forget_region(engine, i);
		r = 0;
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return r;
}

int ob_engine_covers(const struct ob_engine *engine, const void *addr, size_t length)
{
	uint64_t at = (uint64_t)(uintptr_t)addr;

	for (unsigned i = 0; i < OB_REGIONS_MAX; i++) {
		uint64_t base = __atomic_load_n(&engine->region[i].base, __ATOMIC_ACQUIRE);

		if (base && length && at < base + engine->region[i].length && (base <= at || base - at < length))
			return 1;
	}
	return 0;
}

/* Adds delta to the marks of every chunk that the buffer touches. */
static void mark_io(struct ob_engine *engine, const void *addr, size_t length, uint32_t delta)
{
	uint64_t at = (uint64_t)(uintptr_t)addr, end = at + length < at ? UINT64_MAX : at + length;

	for (unsigned i = 0; i < OB_REGIONS_MAX; i++) {
		struct ob_region *region = &engine->region[i];
		uint64_t base = __atomic_load_n(&region->base, __ATOMIC_ACQUIRE);
		uint64_t first, last;

		if (!base || !length || at >= base + region->length || end <= base)
			continue;
		first = (OB_MAX(at, base) - base) / OB_CHUNK_SIZE;
		last = (OB_MIN(end, base + region->length) - 1 - base) / OB_CHUNK_SIZE;
		for (uint64_t c = first; c <= last; c++)
			__atomic_fetch_add(&region->chunks[c].io_inflight, delta, __ATOMIC_SEQ_CST);
	}
}

void ob_engine_io_begin(struct ob_engine *engine, const void *addr, size_t length)
{
	mark_io(engine, addr, length, 1);
}

void ob_engine_io_end(struct ob_engine *engine, const void *addr, size_t length)
{
	mark_io(engine, addr, length, (uint32_t)-1);
}

void ob_regions_free(struct ob_engine *engine)
{
	for (uint32_t i = 0; i < OB_REGIONS_MAX; i++)
		if (engine->region[i].base)
			forget_region(engine, i);
}
