/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Release: brings every page back and unregisters the memory, the guest running on. Chunk by chunk; faults of the guest
 * are answered as ever meanwhile. Zero, absent and ballooned pages need no bytes: once a chunk is unregistered the kernel
 * fills them in.
 *
 * Unsharing brings the shared pages back alone, under the limit: where there is no room it waits, with no lock held, until
 * the reclaimer has made some or lets the limit give way.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "kern/uffd.h"

#define ROOM_WAIT_NS (2 * OB_NS_PER_MS)
#define TRIES 100 /* for one page, where the kernel has no memory; one that somebody else is reading is waited for */

/* Brings one page back, or a mapped one a step nearer. Returns how many pages came, or -errno. */
static int bring_back(struct ob_engine *engine, struct ob_place *place, uint64_t page, char *buffer)
{
	uint64_t word = *ob_place_word(place, page);
	int r;

	if (ob_page_state(word) == OB_PAGE_MAPPED) {
		r = ob_mapped_take_out(engine, place, page, ob_place_end(place));
		return r < 0 ? r : 1;
	}
	if (ob_page_state(word) == OB_PAGE_BENCHED)
		return ob_lift_return(engine, place, page, ob_page_run(place, page, ob_place_end(place)));
	r = ob_fault_fill(engine, place, page, OB_FILL_MAX, buffer, NULL);
	/* A fault that came while this thread was reading was left to it: whoever waits must ask again. */
	if (r < 0 && r != -EALREADY)
		ob_uffd_wake(engine->uffd, ob_place_ram(place, page), OB_PAGE_SIZE);
	return r < 0 ? r : 1;
}

static int is_shared(enum ob_page_state state)
{
	return state == OB_PAGE_SHARED || state == OB_PAGE_MAPPED;
}

/* Brings the pages of a chunk back that are in one of the wanted states; its lock is held, and let go of at times. */
static int bring_back_chunk(struct ob_engine *engine, struct ob_place *place, int (*is_wanted)(enum ob_page_state state), char *buffer)
{
	unsigned tries = 0;

	for (uint64_t page = place->chunk_first; page < ob_place_end(place);) {
		int r;

		if (!is_wanted(ob_page_state(*ob_place_word(place, page)))) {
			page++;
			tries = 0;
			continue;
		}
		r = bring_back(engine, place, page, buffer);
		if (r >= 0)
			continue;
		if (r != -EALREADY && ((r != -EBUSY && r != -EAGAIN && r != -ENOMEM) || ++tries == TRIES))
			return r;
		ob_chunk_unlock(place->chunk);
		sched_yield();
		ob_chunk_lock(place->chunk);
	}
	return 0;
}

/* A chunk whose lock was let go for a read may have been changed by a discard, but by nothing that lifts: there is no limit. */
static int release_chunk(struct ob_engine *engine, struct ob_place *place, char *buffer)
{
	struct ob_chunk *chunk = place->chunk;
	int r = 0;

	ob_chunk_lock(chunk);
	if (!chunk->open) {
		r = bring_back_chunk(engine, place, ob_page_away, buffer);
		/* Its pages stay, but nobody counts them from now on. */
		if (r == 0) {
			int64_t present = chunk->count[OB_PAGE_RESIDENT] + chunk->count[OB_PAGE_PINNED];

			r = ob_chunk_open(engine, place, 0);
			if (r == 0)
				ob_cost_add(engine, -present);
		}
	} else if (chunk->granted) {
		ob_cost_add(engine, -(int64_t)chunk->granted);
		__atomic_fetch_sub(&engine->open_pages, chunk->granted, __ATOMIC_RELAXED);
		chunk->granted = 0;
	}
	ob_chunk_unlock(chunk);
	return r;
}

/* Brings the shared pages of a chunk back. -ENOSPC: there is no room for the next. */
static int unshare_chunk(struct ob_engine *engine, struct ob_place *place, char *buffer)
{
	int r;

	ob_chunk_lock(place->chunk);
	r = bring_back_chunk(engine, place, is_shared, buffer);
	ob_chunk_unlock(place->chunk);
	return r;
}

typedef void progress_fn(void *context, uint64_t done, uint64_t total);

/* Does something to every chunk, one after the other, and to one again for which there was no room. */
static int each_chunk(struct ob_engine *engine, int (*part)(struct ob_engine *engine, struct ob_place *place, char *buffer),
		      progress_fn *progress, void *context, char *buffer, struct ob_error *err)
{
	uint64_t done = 0;

	for (uint32_t i = 0; i < OB_REGIONS_MAX; i++) {
		for (uint32_t c = 0;; c++) {
			struct ob_place place;
			int r = 0, end;

			pthread_rwlock_rdlock(&engine->regions_lock);
			end = !engine->region[i].base || c >= engine->region[i].chunk_count;
			if (!end) {
				ob_place_chunk(engine, i, c, &place);
				r = part(engine, &place, buffer);
				done += r == -ENOSPC ? 0 : place.chunk->pages;
			}
			pthread_rwlock_unlock(&engine->regions_lock);
			/* The reclaimer makes some. Its call for those who wait for room goes to the fault workers: here time tells. */
			if (r == -ENOSPC) {
				ob_reclaim_kick(engine);
				nanosleep(&(struct timespec){ .tv_nsec = ROOM_WAIT_NS }, NULL);
				c--;
				continue;
			}
			if (r < 0)
				return ob_error_sys(err, -r, "cannot bring back the pages of the 2 MiB of guest RAM at %llu MiB",
						    (unsigned long long)c * 2);
			if (end)
				break;
			if (progress && c % 16 == 0)
				progress(context, done, engine->ram_pages);
		}
	}
	if (progress)
		progress(context, engine->ram_pages, engine->ram_pages);
	return 0;
}

int ob_engine_release(struct ob_engine *engine, progress_fn *progress, void *context, struct ob_error *err)
{
	uint64_t had;
	void *buffer = NULL;
	int r;

	pthread_mutex_lock(&engine->limit_lock);
	had = ob_load(&engine->limit_bytes);
	r = __atomic_exchange_n(&engine->releasing, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&engine->limit_lock);
	if (r)
		return ob_error_set(err, EALREADY, "a release is under way already");
	r = ob_memory_reserve(OB_FILL_MAX * OB_PAGE_SIZE, 0, &buffer);
	if (r < 0) {
		ob_error_sys(err, -r, "cannot get memory for a release");
	} else {
		ob_store(&engine->limit_bytes, 0);
		ob_share_suspend(engine, 1);
		/* Waits for reclaim that is under way; what starts later sees that there is no limit. */
		pthread_rwlock_wrlock(&engine->regions_lock);
		pthread_rwlock_unlock(&engine->regions_lock);
		r = each_chunk(engine, release_chunk, progress, context, buffer, err);
		ob_memory_unreserve(buffer, OB_FILL_MAX * OB_PAGE_SIZE);
		if (r < 0) {
			ob_store(&engine->limit_bytes, had);
			ob_share_suspend(engine, 0);
			__atomic_store_n(&engine->engage_pending, 1, __ATOMIC_RELEASE);
		} else {
			ob_count_present(engine);
			ob_store(&engine->counted, 0);
			ob_store(&engine->engaged, 0);
		}
	}
	__atomic_store_n(&engine->releasing, 0, __ATOMIC_RELEASE);
	ob_reclaim_kick(engine);
	return r;
}

int ob_engine_unshare(struct ob_engine *engine, progress_fn *progress, void *context, struct ob_error *err)
{
	void *buffer = NULL;
	int r;

	ob_engine_share_off(engine);
	/* Memory is in care for the sake of sharing alone. */
	if (!ob_load(&engine->limit_bytes))
		return ob_engine_release(engine, progress, context, err);
	r = ob_memory_reserve(OB_FILL_MAX * OB_PAGE_SIZE, 0, &buffer);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot get memory to unshare pages");
	r = each_chunk(engine, unshare_chunk, progress, context, buffer, err);
	ob_memory_unreserve(buffer, OB_FILL_MAX * OB_PAGE_SIZE);
	return r;
}
