/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Housekeeping: what the first reclaimer does besides reclaim, between its passes and at least once a second: adapts the bench,
 * accounts time above the limit, reports pages that cannot be read, gives disk space back, counts what is present while
 * there is no limit, samples what of it is used (active.c), and takes all memory into care when a limit is set.
 *
 * The bench's target: when faults on the pool and the store take more than 4 times as much of the guest's time as those on the bench, pages were taken off
 * too early, and it grows; when they take less than twice as much, hot pages are being lifted for nothing, and it
 * shrinks. It stays between 1/16 and 1/3 of what is left of the limit beside pool and tables. Faults on what the scanner watches say nothing about that.
 *
 * The pool's part of the limit, where there is a store: pool_size.h says whether it should be another one. It is half at most and at first, and a
 * sixteenth at least, and moves by an eighth of what the pool takes. A part that the pool does not fill is no larger for that.
 */
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "engine/pool_size.h"
#include "engine/scan.h"
#include "kern/pagemap.h"

#define POOL_PARTS_MIN (OB_POOL_PARTS / 16)
#define POOL_STEP      8u
#define PRICE_FAULTS   8u
#define BENCH_NS       (20 * OB_NS_PER_US) /* before there were so many */
#define UNPACK_NS      (10 * OB_NS_PER_US)
#define READ_NS        (100 * OB_NS_PER_US)
#define LOOK_NS        (16 * OB_NS_PER_SEC)
#define AROUND_SAMPLE 1024u
#define BENCH_LEAST_NS (2 * OB_NS_PER_MS) /* of a second, that faults have taken: before that the bench is left as it is */
#define AROUND_NS     (20 * OB_NS_PER_MS)
#define AROUND_MAX    32u

/* What faults took, as far as that depends on what is evicted. */
static uint64_t major_ns(const struct ob_engine *engine)
{
	const struct ob_stats *counters = &engine->counters;

	return ob_load(&counters->fault_compressed_fetch_ns) + ob_load(&counters->fault_compressed_install_ns) +
	       ob_load(&counters->fault_swapped_fetch_ns) + ob_load(&counters->fault_swapped_install_ns) +
	       ob_load(&counters->fault_zero_install_ns) + ob_load(&counters->fault_shared_fetch_ns) +
	       ob_load(&counters->fault_shared_install_ns);
}

/*
 * A longer bench tells better what is cold, and so fewer pages come back from far; a shorter one has fewer come back from itself. Both are measured by
 * what they take of the guest's time: what comes back from far takes 2 to 4 times as much of it where the bench is as long as it should be.
 */
static void adapt_bench(struct ob_engine *engine)
{
	struct ob_house *house = &engine->house;
	uint64_t bench = ob_load(&engine->counters.faults_bench), scanned = ob_scan_faults(engine), far_ns = major_ns(engine);
	uint64_t near_ns = ob_load(&engine->counters.fault_bench_install_ns);
	uint64_t came = bench - house->last_bench, near, far = far_ns - house->last_major_ns;
	uint64_t limit = ob_load(&engine->limit_bytes), other = ob_pool_bytes(engine->pool) + (uint64_t)ob_load(&engine->tables_bytes);
	uint64_t room = ob_less(limit, other) / OB_PAGE_SIZE, target = ob_load(&engine->bench_target_pages);

	/* What the scanner has lifted was not to make room. */
	near = came ? (near_ns - house->last_bench_ns) / came * ob_less(came, scanned - house->last_scanned) : 0;
	house->last_bench = bench;
	house->last_bench_ns = near_ns;
	house->last_scanned = scanned;
	house->last_major_ns = far_ns;
	if (near + far >= BENCH_LEAST_NS && far > 4 * near)
		target += target / 8;
	else if (near + far >= BENCH_LEAST_NS && far < 2 * near)
		target -= target / 8;
	target = OB_MIN(OB_MAX(target, room / 16), room / 3);
	ob_store(&engine->bench_target_pages, OB_MAX(target, OB_CHUNK_PAGES / 2));
}

/* What a fault took, on average since these were last looked at; as before where there were few. */
static void note_price(uint64_t *price_ns, uint64_t faults, uint64_t ns, uint64_t first_ns)
{
	if (faults >= PRICE_FAULTS)
		*price_ns = ns / faults;
	else if (!*price_ns)
		*price_ns = first_ns;
}

static struct ob_pool_counts pool_counts(const struct ob_engine *engine)
{
	const struct ob_stats *counters = &engine->counters;

	return (struct ob_pool_counts){
		.stored = ob_load(&counters->compressed_pages),
		.past = ob_load(&counters->incompressible_pages) + ob_load(&counters->swap_out_saved_pages),
		.bench = ob_load(&counters->faults_bench), .scanned = ob_scan_faults(engine),
		.bench_ns = ob_load(&counters->fault_bench_install_ns),
		.unpacked = ob_load(&counters->faults_compressed), .read = ob_load(&counters->faults_swapped),
		.unpack_ns = ob_load(&counters->fault_compressed_fetch_ns) + ob_load(&counters->fault_compressed_install_ns),
		.read_ns = ob_load(&counters->fault_swapped_fetch_ns) + ob_load(&counters->fault_swapped_install_ns),
	};
}

/* Moves the pool's part of the limit. bytes: the step, which is what was looked at. */
static void move_pool(struct ob_engine *engine, int wish, uint64_t has, uint64_t bytes)
{
	uint64_t part = OB_MAX(ob_load(&engine->limit_bytes) / OB_POOL_PARTS, (uint64_t)OB_PAGE_SIZE), parts = ob_load(&engine->pool_parts);

	if (wish < 0)
		parts = OB_MIN(parts, (has - bytes) / part);
	else if (wish > 0 && has + bytes >= part * parts)
		parts += bytes / part + 1;
	ob_store(&engine->pool_parts, (uint32_t)OB_MIN(OB_MAX(parts, POOL_PARTS_MIN), OB_POOL_PARTS_MAX));
}

static void adapt_pool(struct ob_engine *engine, uint64_t now)
{
	struct ob_house *house = &engine->house;
	struct ob_pool_counts counts = pool_counts(engine), *before = &house->pool_before;
	uint64_t has = OB_MIN(ob_pool_bytes(engine->pool), ob_evict_pool_share(engine)), bytes = OB_MIN(has / POOL_STEP, OB_POOL_WATCH_MAX);
	struct ob_pool_seen seen = { .stored = counts.stored - before->stored, .past = counts.past - before->past };
	struct ob_pool_reuse reuse;

	ob_pool_reuse(engine->pool, &reuse);
	if (reuse.near + reuse.far < OB_POOL_SEEN_LEAST && now - house->pool_looked_ns < LOOK_NS)
		return;
	note_price(&house->bench_ns, counts.bench - before->bench, counts.bench_ns - before->bench_ns, BENCH_NS);
	note_price(&house->unpack_ns, counts.unpacked - before->unpacked, counts.unpack_ns - before->unpack_ns, UNPACK_NS);
	note_price(&house->read_ns, counts.read - before->read, counts.read_ns - before->read_ns, READ_NS);
	seen.near = reuse.near, seen.far = reuse.far, seen.back = counts.unpacked - before->unpacked;
	/* What the scanner has lifted, and watched, was not to make room. */
	seen.bench = ob_less(counts.bench - before->bench, counts.scanned - before->scanned);
	seen.bench_ns = house->bench_ns, seen.unpack_ns = house->unpack_ns, seen.read_ns = house->read_ns;
	move_pool(engine, ob_pool_size_wish(&seen), has, bytes);
	ob_pool_watch(engine->pool, (uint32_t)(bytes / OB_PAGE_SIZE * (seen.stored + 1) / (seen.stored + seen.past + 1)), bytes);
	house->pool_before = counts;
	ob_store(&house->pool_looked_ns, now);
}

/*
 * Neighbours come along with a fault when that costs the guest nothing: when next to nothing of what is lifted to make room
 * comes back. A guest that turns to other memory shows that at once.
 */
static void adapt_around(struct ob_engine *engine, uint64_t now)
{
	struct ob_house *house = &engine->house;
	uint64_t lifted = ob_load(&engine->counters.lifted_pages) - house->last_lifted;
	uint64_t back = ob_load(&engine->counters.returned_pages) - house->last_back;
	unsigned around = engine->around;

	if (lifted < AROUND_SAMPLE || now - house->last_around_ns < AROUND_NS)
		return;
	if (back < lifted / 32)
		around = OB_MIN(2 * around, AROUND_MAX);
	else if (back > lifted / 16)
		around = OB_MAX(around / 2, 1u);
	ob_store(&engine->around, around);
	house->last_around_ns = now;
	ob_store(&house->last_lifted, house->last_lifted + lifted);
	house->last_back += back;
}

static void account_over_limit(struct ob_engine *engine, uint64_t now)
{
	struct ob_house *house = &engine->house;

	if (ob_cost_over(engine, (int64_t)ob_load(&engine->limit_bytes)))
		ob_count(engine, over_limit_ns, now - house->last_over_check_ns);
	house->last_over_check_ns = now;
}

static void report_unreadable(struct ob_engine *engine)
{
	char cause[sizeof(engine->unreadable_cause)];
	unsigned waiting;

	pthread_mutex_lock(&engine->unreadable_lock);
	waiting = engine->unreadable;
	memcpy(cause, engine->unreadable_cause, sizeof(cause));
	pthread_mutex_unlock(&engine->unreadable_lock);
	ob_degraded_set(engine, OB_DEGRADED_STOPPED, waiting > 0);
	if (!!waiting == engine->unreadable_told)
		return;
	engine->unreadable_told = !!waiting;
	if (engine->config.on_unreadable)
		engine->config.on_unreadable(engine->config.context, waiting ? cause : NULL);
}

void ob_count_present(struct ob_engine *engine)
{
	uint64_t total = 0;

	pthread_rwlock_rdlock(&engine->regions_lock);
	for (unsigned i = 0; i < OB_REGIONS_MAX; i++) {
		uint64_t pages = 0;

		if (engine->region[i].base &&
		    ob_pagemap_count(engine->pagemap, engine->region[i].base, engine->region[i].length, &pages) == 0)
			total += pages;
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	ob_store(&engine->open_present_pages, (int64_t)total);
}

/* Without a limit nobody counts pages as they come: asks the kernel, seldom enough to take 1/500 of a core. */
static void count_present_seldom(struct ob_engine *engine)
{
	struct ob_house *house = &engine->house;
	uint64_t start = ob_now_ns();

	if (ob_load(&engine->engaged) || start < house->present_scan_ns)
		return;
	ob_count_present(engine);
	house->present_scan_ns = ob_now_ns() + OB_MAX((ob_now_ns() - start) * 500, OB_NS_PER_SEC);
}

/* A limit has been set on a machine that had none: takes all its memory into care. */
void ob_engage(struct ob_engine *engine)
{
	/* Until all has been seen, what was present before stands beside what has been seen: too much rather than too little. */
	pthread_rwlock_rdlock(&engine->regions_lock);
	for (uint32_t r = 0; r < OB_REGIONS_MAX; r++) {
		for (uint32_t c = 0; engine->region[r].base && c < engine->region[r].chunk_count; c++) {
			struct ob_place place;

			if (ob_load(&engine->releasing) || !ob_load(&engine->engaged))
				break;
			ob_place_chunk(engine, r, c, &place);
			ob_chunk_lock_background(place.chunk);
			/* One that fails is counted as full, and tried again when the clock hand gets there. */
			if (place.chunk->open && !place.chunk->granted && ob_chunk_track(engine, &place) < 0) {
				place.chunk->granted = place.chunk->pages;
				__atomic_fetch_add(&engine->open_pages, place.chunk->pages, __ATOMIC_RELAXED);
				ob_cost_add(engine, place.chunk->pages);
			}
			ob_chunk_unlock(place.chunk);
		}
	}
	ob_store(&engine->counted, ob_load(&engine->engaged) && !ob_load(&engine->releasing));
	pthread_rwlock_unlock(&engine->regions_lock);
	ob_scan_kick(engine);
}

void ob_housekeeping(struct ob_engine *engine)
{
	uint64_t now = ob_now_ns();

	account_over_limit(engine, now);
	adapt_around(engine, now);
	report_unreadable(engine);
	if (ob_load(&engine->pending_count))
		ob_fault_room(engine);
	ob_active_step(engine, now);
	if (now - engine->house.last_second_ns < OB_NS_PER_SEC)
		return;
	engine->house.last_second_ns = now;
	if (ob_load(&engine->limit_bytes)) {
		adapt_bench(engine);
		if (engine->swap)
			adapt_pool(engine, now);
	}
	if (engine->swap)
		ob_swap_trim(engine->swap);
	count_present_seldom(engine);
}
