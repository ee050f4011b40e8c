/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The limit is held by the kernel's accounting, not only by the engine's.
 *
 * Players dirty incompressible memory as fast as they can, from the very first touch, while a thread samples what the
 * process holds: its anonymous and shared memory (one figure, taken at once) less what it held before the engine was made,
 * and the Pss of the engine's ranges. The second is read mapping by mapping, so a page that moves from one to the other
 * meanwhile is seen twice or never, and one that has gone is seen beside the one that came in its place. On a busy processor that may
 * be megabytes. So what has left a mapping meanwhile, by the engine's count, is taken off, which leaves the least that can have
 * been there at the end. The count comes a moment after the move: a sample above the limit counts when three in a row are above.
 */
#include "bed.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "account.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "engine/internal.h"
#include "player.h"

#define RAM_MIB     96u
#define OWN_BYTES   (512 * OB_KIB) /* what the test itself may take after its first look: stacks, stdio */
#define PSS_RETRIES 3

struct sampler {
	struct bed *bed;
	int64_t before_bytes; /* RSS without the engine */
	pthread_t thread;
	int stop;
	uint64_t allowed_bytes; /* 0: not judged */
	uint64_t samples, over, worst_rss_bytes, worst_pss_bytes;
};

static int64_t rss_of_engine(const struct sampler *sampler)
{
	int64_t rss = BED_SANITIZED ? 0 : account_rss_bytes();

	return rss <= 0 ? rss : rss - sampler->before_bytes - (int64_t)OWN_BYTES;
}

/* How many times a page has left a place that costs memory. */
static uint64_t departures(const struct bed *bed)
{
	uint64_t count = 0;

	for (unsigned t = 0; t < OB_TRANSITION_COUNT; t++)
		if (ob_page_costs(ob_transition_table[t].from) || ob_transition_table[t].from == OB_PAGE_COMPRESSED)
			count += ob_engine_transition_count(bed->engine, t);
	return count;
}

static int64_t least_pss(const struct bed *bed)
{
	uint64_t before = departures(bed);
	int64_t pss = account_pss_bytes(bed->engine), left = (int64_t)((departures(bed) - before) * OB_PAGE_SIZE);

	return pss < 0 ? pss : OB_MAX(pss - left, 0);
}

static void take_sample(struct sampler *sampler, uint64_t allowed)
{
	int64_t rss = rss_of_engine(sampler), pss = least_pss(sampler->bed);

	for (int i = 0; i < PSS_RETRIES - 1 && allowed && pss > (int64_t)allowed; i++)
		pss = least_pss(sampler->bed);
	sampler->samples++;
	if (!allowed)
		return;
	if (rss > (int64_t)allowed || pss > (int64_t)allowed || rss < -(int64_t)OB_GIB || pss < 0) {
		if (!sampler->over++)
			ob_log(OB_LOG_ERROR, "test: sample %llu: RSS %lld, Pss %lld, allowed %llu",
			       (unsigned long long)sampler->samples, (long long)rss, (long long)pss,
			       (unsigned long long)allowed);
	}
	if (rss > 0)
		sampler->worst_rss_bytes = OB_MAX(sampler->worst_rss_bytes, (uint64_t)rss);
	if (pss > 0)
		sampler->worst_pss_bytes = OB_MAX(sampler->worst_pss_bytes, (uint64_t)pss);
}

static void *sample(void *argument)
{
	struct sampler *sampler = argument;

	while (!__atomic_load_n(&sampler->stop, __ATOMIC_ACQUIRE)) {
		take_sample(sampler, __atomic_load_n(&sampler->allowed_bytes, __ATOMIC_RELAXED));
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return NULL;
}

static void judge(struct sampler *sampler, uint64_t limit_bytes)
{
	__atomic_store_n(&sampler->allowed_bytes, limit_bytes + limit_bytes / 50, __ATOMIC_RELAXED);
}

static void start_sampler(struct sampler *sampler, struct bed *bed, int64_t before_bytes)
{
	*sampler = (struct sampler){ .bed = bed, .before_bytes = before_bytes };
	assert_int_equal(pthread_create(&sampler->thread, NULL, sample, sampler), 0);
}

static void end_sampler(struct sampler *sampler, uint64_t least_samples)
{
	__atomic_store_n(&sampler->stop, 1, __ATOMIC_RELEASE);
	pthread_join(sampler->thread, NULL);
	print_message("# %llu samples, worst RSS %.1f MiB, worst Pss %.1f MiB\n", (unsigned long long)sampler->samples,
		      (double)sampler->worst_rss_bytes / OB_MIB, (double)sampler->worst_pss_bytes / OB_MIB);
	assert_true(BED_SANITIZED || sampler->samples >= least_samples);
	assert_int_equal(sampler->over, 0);
}

struct scene {
	struct bed *bed;
	struct ram *ram;
	struct crew *crew;
	struct sampler sampler;
};

static void set_scene(struct scene *scene, uint64_t limit_bytes, uint64_t ops_each, enum crew_mix mix)
{
	int64_t before;
	struct crew_config config = { .ram_count = 1, .players = 2, .ops_each = ops_each, .seed = 7, .mix = mix };

	scene->ram = ram_new(RAM_MIB * MIB_PAGES, 0x77);
	before = account_rss_bytes();
	assert_true(before > 0);
	scene->bed = bed_new(limit_bytes, 1);
	bed_assert_ok(scene->bed,
		      ob_engine_add_region(scene->bed->engine, scene->ram->base, RAM_MIB * OB_MIB, &scene->bed->err));
	start_sampler(&scene->sampler, scene->bed, before);
	if (limit_bytes)
		judge(&scene->sampler, limit_bytes);
	config.engine = scene->bed->engine;
	config.rams[0] = scene->ram;
	bed_assert_ok(scene->bed, crew_start(&config, &scene->crew, &scene->bed->err));
}

static void end_scene(struct scene *scene)
{
	bed_assert_ok(scene->bed, ram_check_all(scene->ram));
	bed_free(scene->bed);
	ram_free(scene->ram);
}

static void holds_while_memory_is_dirtied_from_first_touch(void **state)
{
	struct scene scene;
	struct ob_stats stats;

	set_scene(&scene, 32 * OB_MIB, bed_scale(8000, 30000, 1000000), CREW_DIRTY);
	bed_assert_ok(scene.bed, crew_finish(scene.crew, HANG_MS));
	end_sampler(&scene.sampler, 50);
	stats = bed_stats(scene.bed);
	assert_true(stats.swap_out_pages > 0);
	assert_true(stats.lifted_pages > 0);
	assert_int_equal(stats.degraded, 0);
	assert_int_equal(bed_states_bytes(&stats), RAM_MIB * OB_MIB);
	end_scene(&scene);
}

static void the_least_limit_is_kept(void **state)
{
	struct scene scene;
	struct ob_stats stats;

	set_scene(&scene, OB_LIMIT_MIN, bed_scale(4000, 15000, 500000), CREW_DIRTY);
	bed_assert_ok(scene.bed, crew_finish(scene.crew, HANG_MS));
	end_sampler(&scene.sampler, 50);
	stats = bed_stats(scene.bed);
	assert_true(stats.swap_out_pages > 0);
	assert_int_equal(stats.degraded, 0);
	assert_int_equal(bed_states_bytes(&stats), RAM_MIB * OB_MIB);
	end_scene(&scene);
}

/* Back-pressure: storage that is slower than any player. Faults wait, it shows, and the limit still holds. */
static void holds_on_slow_storage_by_holding_players_back(void **state)
{
	struct scene scene;
	struct ob_stats stats;

	assert_int_equal(ob_fault_configure("swap_write:1+:slow", NULL), 0);
	set_scene(&scene, 32 * OB_MIB, bed_scale(5000, 8000, 100000), CREW_DIRTY);
	bed_assert_ok(scene.bed, crew_finish(scene.crew, HANG_MS));
	end_sampler(&scene.sampler, 50);
	stats = bed_stats(scene.bed);
	assert_true(stats.swap_out_pages > 0);
	assert_true(stats.faults_stalled > 0);
	assert_true(stats.stall_ns > 0);
	assert_int_equal(stats.degraded, 0);
	end_scene(&scene);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
}

/* One sequential first touch of everything, the fastest way to outrun a limit. */
static void holds_against_a_sequential_first_touch(void **state)
{
	static const enum pattern_kind kinds[] = { PATTERN_INCOMPRESSIBLE, PATTERN_COMPRESSIBLE, PATTERN_ZERO };
	struct scene scene;

	set_scene(&scene, 24 * OB_MIB, 0, CREW_READ);
	bed_assert_ok(scene.bed, crew_finish(scene.crew, HANG_MS));
	for (unsigned i = 0; i < OB_ARRAY_LEN(kinds); i++)
		ram_write_all(scene.ram, kinds[i]);
	bed_assert_ok(scene.bed, ram_check_all(scene.ram));
	end_sampler(&scene.sampler, 20);
	end_scene(&scene);
}

static void is_reached_soon_after_it_is_lowered_and_then_held(void **state)
{
	static const unsigned limits_mib[] = { 72, 48, 20, 64, 32 };
	uint64_t ops_each = bed_scale(10000, 50000, 1000000);
	struct scene scene;

	set_scene(&scene, 0, ops_each, CREW_CHECK_WRITE);
	bed_assert_ok(scene.bed, crew_wait_ops(scene.crew, ops_each / 10, HANG_MS));
	for (unsigned i = 0; i < OB_ARRAY_LEN(limits_mib); i++) {
		uint64_t limit = limits_mib[i] * OB_MIB;

		__atomic_store_n(&scene.sampler.allowed_bytes, 0, __ATOMIC_RELAXED);
		bed_assert_ok(scene.bed, ob_engine_set_limit(scene.bed->engine, limit));
		bed_assert_ok(scene.bed, bed_wait_limit_kept(scene.bed, 10000));
		judge(&scene.sampler, limit);
		bed_assert_ok(scene.bed, crew_wait_ops(scene.crew, crew_ops(scene.crew) + ops_each / 10, HANG_MS));
	}
	crew_stop(scene.crew);
	bed_assert_ok(scene.bed, crew_finish(scene.crew, HANG_MS));
	end_sampler(&scene.sampler, 50);
	end_scene(&scene);
}

/* From the bench as from elsewhere: who goes on where the last fault had ended gets more each time. */
static void a_sequence_over_the_bench_takes_few_faults(void **state)
{
	enum { CHUNKS = 4 };
	struct ram *ram = ram_new(CHUNKS * OB_CHUNK_PAGES, 0x8f);
	struct bed *bed;
	uint64_t faults;

	bed_active_watch_ms = BED_NO_SAMPLES;
	bed = bed_new(64 * OB_MIB, 0);
	bed_active_watch_ms = 0;
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, CHUNKS * OB_CHUNK_SIZE, &bed->err));
	assert_int_equal(madvise(ram->base, CHUNKS * OB_CHUNK_SIZE, MADV_NOHUGEPAGE), 0);
	ram_write_all(ram, PATTERN_COMPRESSIBLE);
	for (uint32_t c = 0; c < CHUNKS; c++) {
		struct ob_place place;

		pthread_rwlock_rdlock(&bed->engine->regions_lock);
		ob_place_chunk(bed->engine, 0, c, &place);
		ob_chunk_lock(place.chunk);
		if (place.chunk->open)
			assert_int_equal(ob_chunk_track(bed->engine, &place), 0);
		assert_int_equal(ob_lift_chunk(bed->engine, &place), OB_CHUNK_PAGES);
		place.chunk->window = place.chunk->brought = 1;
		place.chunk->last_fault = 0;
		ob_chunk_unlock(place.chunk);
		pthread_rwlock_unlock(&bed->engine->regions_lock);
	}
	faults = bed_stats(bed).faults_bench;
	bed_assert_ok(bed, ram_check_all(ram));
	faults = bed_stats(bed).faults_bench - faults;
	print_message("# %llu faults for %u pages\n", (unsigned long long)faults, CHUNKS * (unsigned)OB_CHUNK_PAGES);
	assert_in_range(faults, CHUNKS, CHUNKS * 16);
	bed_free(bed);
	ram_free(ram);
}

/* Touches new pages, one after the other. */
static struct {
	pthread_t thread;
	struct ram *ram;
	uint32_t touched;
	int stop;
} toucher;

static void *touch(void *context)
{
	for (uint32_t page = 0; page < toucher.ram->pages && !ob_load(&toucher.stop); page++) {
		ram_write(toucher.ram, page, PATTERN_INCOMPRESSIBLE, 0);
		ob_store(&toucher.touched, page + 1);
	}
	return NULL;
}

/*
 * Far above a limit, on slow storage: who needs a page does not wait until all is below it, and it comes down all the same, and is never
 * said to cost less than it may.
 */
static void a_guest_goes_on_while_it_comes_down(void **state)
{
	struct ram *old = ram_new(RAM_MIB * MIB_PAGES, 0x8d), *new = ram_new(RAM_MIB * MIB_PAGES, 0x8e);
	struct bed *bed = bed_new(0, 1);
	uint64_t cost, least, limit = 24 * OB_MIB;
	uint32_t began;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, old->base, RAM_MIB * OB_MIB, &bed->err));
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, new->base, RAM_MIB * OB_MIB, &bed->err));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 4 * RAM_MIB * OB_MIB));
	ram_write_all(old, PATTERN_INCOMPRESSIBLE);
	assert_int_equal(ob_fault_configure("swap_write:1+:slow", NULL), 0);
	cost = bed_stats(bed).cost_bytes;
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limit));
	toucher.ram = new;
	toucher.touched = 0;
	toucher.stop = 0;
	assert_int_equal(pthread_create(&toucher.thread, NULL, touch, NULL), 0);
	least = cost;
	while (cost > limit + OB_MIB) {
		uint64_t now = bed_stats(bed).cost_bytes;

		assert_in_range(now, 0, least + 2 * OB_MIB); /* what reclaim itself needs for a moment */
		least = OB_MIN(least, now);
		cost = now;
		began = ob_load(&toucher.touched);
		nanosleep(&(struct timespec){ .tv_nsec = OB_NS_PER_MS }, NULL);
	}
	ob_store(&toucher.stop, 1);
	print_message("# %u pages were touched meanwhile\n", began);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	pthread_join(toucher.thread, NULL);
	assert_true(began >= MIB_PAGES);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, HANG_MS));
	bed_assert_ok(bed, ram_check_all(old));
	bed_assert_ok(bed, ram_check_all(new));
	bed_free(bed);
	ram_free(old);
	ram_free(new);
}

static void compressible_memory_stays_out_of_the_store_where_it_fits(void **state)
{
	struct bed *bed = bed_new(48 * OB_MIB, 1);
	struct ram *ram = ram_new(96 * MIB_PAGES, 0x88);
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 96 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	stats = bed_stats(bed);
	assert_true(stats.compressed_bytes > 30 * OB_MIB);
	assert_true(stats.pool_bytes < stats.compressed_bytes / 2);
	assert_true(stats.swapped_bytes < 16 * OB_MIB);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

/* Housekeeping has judged all that was lifted: it will not judge it later. */
static int all_was_judged(void *context)
{
	struct ob_engine *engine = context;

	ob_reclaim_kick(engine);
	return ob_load(&engine->counters.lifted_pages) - ob_load(&engine->house.last_lifted) < 1024;
}

/* What comes along because it costs nothing hides what comes along for other reasons. */
static void bring_none_along(struct bed *bed)
{
	bed_assert_ok(bed, account_wait(all_was_judged, bed->engine, HANG_MS));
	ob_store(&bed->engine->around, 1);
}

/* Looks at a page of the region. */
static void look_at(struct bed *bed, struct ram *ram, uint64_t page)
{
	ram_lock_range(ram, (uint32_t)page, 1);
	bed_assert_ok(bed, ram_check(ram, (uint32_t)page));
	ram_unlock_range(ram, (uint32_t)page, 1);
}

/*
 * Nearly all of a memory is evicted, then all of it may come back, so that nothing is lifted any more; and nothing comes along for free. The
 * first `pages` are looked at in any order. Returns the faults it took for each 1000 that were evicted.
 */
static uint64_t faults_to_come_back(uint32_t pages)
{
	struct ram *ram = ram_new(128 * MIB_PAGES, 0x8b);
	uint32_t *order = malloc(pages * sizeof(*order)), random = 1;
	struct ob_stats before, after;
	struct bed *bed;

	assert_non_null(order);
	bed_active_watch_ms = BED_NO_SAMPLES; /* nothing is lifted for a sample meanwhile */
	bed = bed_new(16 * OB_MIB, 0);
	bed_active_watch_ms = 0;
	for (uint32_t i = 0; i < pages; i++) {
		uint32_t at = (random = random * 1664525 + 1013904223) % (i + 1);

		order[i] = order[at];
		order[at] = i;
	}
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 128 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 30000));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 160 * OB_MIB));
	bring_none_along(bed);
	before = bed_stats(bed);
	for (uint32_t i = 0; i < pages; i++)
		look_at(bed, ram, order[i]);
	after = bed_stats(bed);
	assert_int_equal(after.lifted_pages, before.lifted_pages);
	assert_int_equal(ob_load(&bed->engine->around), 1);
	assert_true(before.compressed_bytes > after.compressed_bytes);
	print_message("# %u pages looked at, %llu came back by %llu faults\n", pages,
		      (unsigned long long)((before.compressed_bytes - after.compressed_bytes) / OB_PAGE_SIZE),
		      (unsigned long long)(after.faults_compressed - before.faults_compressed));
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
	free(order);
	return 1000 * (after.faults_compressed - before.faults_compressed) * OB_PAGE_SIZE / (before.compressed_bytes - after.compressed_bytes);
}

static void what_the_guest_turns_to_comes_with_its_neighbours(void **state)
{
	assert_in_range(faults_to_come_back(8 * MIB_PAGES), 1, 500);
}

/* It is nearly as much as the limit lets be there: nothing says which of it will be wanted next. By chance some places look as if. */
static void what_it_asks_for_everywhere_comes_alone(void **state)
{
	assert_in_range(faults_to_come_back(128 * MIB_PAGES), 600, 1000);
}

/* The hand comes by a chunk, which is not hot. Returns how many of every so many pages it has lifted; all of them are in place before. */
static unsigned lifted_by_the_hand(struct bed *bed, uint32_t chunk, unsigned every)
{
	struct ob_place place;
	unsigned n = 0;

	pthread_rwlock_rdlock(&bed->engine->regions_lock);
	ob_place_chunk(bed->engine, 0, chunk, &place);
	ob_chunk_lock(place.chunk);
	place.chunk->heat = 0;
	ob_chunk_unlock(place.chunk);
	ob_clock_visit(bed->engine, &place, 0);
	ob_chunk_lock(place.chunk);
	for (uint64_t page = place.chunk_first; page < ob_place_end(&place); page += every)
		n += ob_page_state(*ob_place_word(&place, page)) == OB_PAGE_BENCHED;
	ob_chunk_unlock(place.chunk);
	pthread_rwlock_unlock(&bed->engine->regions_lock);
	return n;
}

/*
 * What is used of a chunk, 16 of its pages, always comes back: in the end the hand lifts each of them in every eighth pass. A chunk of which all is
 * there is always lifted whole.
 */
static void what_comes_back_again_and_again_is_lifted_less(void **state)
{
	enum { EVERY = 32, PASSES = 1 + 2 + 4 };
	struct ram *ram = ram_new(2 * OB_CHUNK_PAGES, 0x91);
	struct bed *bed;
	unsigned lifted = 0;

	bed_active_watch_ms = BED_NO_SAMPLES;
	bed = bed_new(0, 0); /* no limit: nobody else lifts */
	bed_active_watch_ms = 0;
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 2 * OB_CHUNK_SIZE, &bed->err));
	assert_int_equal(madvise(ram->base, 2 * OB_CHUNK_SIZE, MADV_NOHUGEPAGE), 0);
	/* One page of the first chunk is never touched: that can be no large page. */
	for (uint32_t page = 0; page < ram->pages; page++)
		if (page != OB_CHUNK_PAGES - 1)
			ram_write(ram, page, PATTERN_INCOMPRESSIBLE, 0);
	for (unsigned pass = 0; pass < PASSES + 8; pass++) {
		unsigned n = lifted_by_the_hand(bed, 0, EVERY);

		lifted += pass < PASSES ? 0 : n;
		assert_int_equal(lifted_by_the_hand(bed, 1, 1), OB_CHUNK_PAGES);
		for (uint32_t page = 0; page < ram->pages; page += page < OB_CHUNK_PAGES ? EVERY : 1)
			look_at(bed, ram, page);
	}
	assert_int_equal(lifted, OB_CHUNK_PAGES / EVERY);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

/* By the pages' words: by what the chunk counts nobody would see that another has changed them. */
static unsigned in_place(const struct bed *bed, unsigned chunk)
{
	const uint64_t *words = &bed->engine->region[0].words[(size_t)chunk * OB_CHUNK_PAGES];
	pthread_mutex_t *lock = &bed->engine->region[0].chunks[chunk].lock;
	unsigned n = 0;

	pthread_mutex_lock(lock);
	for (unsigned i = 0; i < OB_CHUNK_PAGES; i++)
		n += ob_page_state(words[i]) == OB_PAGE_RESIDENT;
	pthread_mutex_unlock(lock);
	return n;
}

/* After ever more pages of a chunk one is looked at from where a few more would reach into the next chunk: another lock guards that. */
static void what_comes_along_is_of_the_same_chunk(void **state)
{
	enum { MIB = 96, CHUNKS = MIB / 2, STEP = 12, LEAST = 6, BEFORE_END = 25 };
	struct ram *ram = ram_new(MIB * MIB_PAGES, 0x8c);
	struct bed *bed;
	unsigned judged = 0;

	bed_active_watch_ms = BED_NO_SAMPLES;
	bed = bed_new(0, 0);
	bed_active_watch_ms = 0;
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, MIB * OB_MIB, &bed->err));
	/* With nothing but zeros a chunk would be left to the kernel. */
	for (uint32_t page = 0; page < ram->pages; page++)
		ram_write(ram, page, page % OB_CHUNK_PAGES == 1 ? PATTERN_COMPRESSIBLE : PATTERN_ZERO, 0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 16 * OB_MIB));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 30000));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 2 * MIB * OB_MIB));
	bring_none_along(bed);
	for (unsigned c = 0; c + 1 < CHUNKS; c += 2) {
		uint64_t first = (uint64_t)c * OB_CHUNK_PAGES;

		if (in_place(bed, c) || in_place(bed, c + 1))
			continue;
		for (unsigned i = 0; i < LEAST + c / 2; i++)
			look_at(bed, ram, first + i * STEP);
		look_at(bed, ram, first + OB_CHUNK_PAGES - BEFORE_END);
		/* Who faulted goes on before the worker is done with its chunk. */
		assert_true(in_place(bed, c) > 0);
		assert_int_equal(in_place(bed, c + 1), 0);
		judged++;
	}
	print_message("# %u chunks were empty before\n", judged);
	assert_true(judged >= CHUNKS / 4);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(bed_stats(bed).internal_errors, 0);
	bed_free(bed);
	ram_free(ram);
}

/*
 * A memory that compresses by half is twice what the limit is, and so many MiB from its front on are looked at at random until housekeeping
 * has made up its mind about the pool's part so many times, or the pool is as small as `enough_bytes`. Returns what it takes then.
 */
static uint64_t pool_after_looking(unsigned hot_mib, unsigned decisions, uint64_t enough_bytes)
{
	struct ram *ram = ram_new(96 * MIB_PAGES, 0x8d);
	struct bed *bed = bed_new(48 * OB_MIB, 1);
	uint64_t random = 5, looked_ns = 0, pool;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 96 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_MIXED);
	do {
		for (unsigned i = 0; i < 256; i++)
			look_at(bed, ram, pattern_random(&random) % (hot_mib * MIB_PAGES));
		if (ob_load(&bed->engine->house.pool_looked_ns) != looked_ns && decisions--)
			looked_ns = ob_load(&bed->engine->house.pool_looked_ns);
		pool = bed_stats(bed).pool_bytes;
	} while (decisions && pool > enough_bytes);
	print_message("# of %u MiB %u are used: the pool takes %.1f MiB\n", ram->pages / MIB_PAGES, hot_mib, (double)pool / OB_MIB);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
	return pool;
}

static void the_pool_makes_way_for_what_is_used(void **state)
{
	assert_in_range(pool_after_looking(36, 30, 12 * OB_MIB), 0, 12 * OB_MIB);
}

static void the_pool_stays_where_all_is_used_alike(void **state)
{
	assert_in_range(pool_after_looking(96, 6, 0), 18 * OB_MIB, 25 * OB_MIB);
}

/* Budgets are divided often: what has been learnt of the bench is not forgotten by that. */
static void the_bench_keeps_its_part_of_the_limit(void **state)
{
	struct bed *bed = bed_new(96 * OB_MIB, 0);

	assert_int_equal(bed_stats(bed).bench_target_bytes, 12 * OB_MIB);
	ob_store(&bed->engine->bench_target_pages, 24 * MIB_PAGES);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 48 * OB_MIB));
	assert_int_equal(bed_stats(bed).bench_target_bytes, 12 * OB_MIB);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 48 * OB_MIB));
	assert_int_equal(bed_stats(bed).bench_target_bytes, 12 * OB_MIB);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 160 * OB_MIB));
	assert_int_equal(bed_stats(bed).bench_target_bytes, 20 * OB_MIB);
	bed_free(bed);
}

static void zero_pages_cost_nothing(void **state)
{
	struct bed *bed = bed_new(24 * OB_MIB, 0); /* no store: nowhere else to go */
	struct ram *ram = ram_new(96 * MIB_PAGES, 0x89);
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 96 * OB_MIB, &bed->err));
	ram_write_all(ram, PATTERN_ZERO);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	stats = bed_stats(bed);
	assert_true(stats.zero_bytes > 60 * OB_MIB);
	assert_int_equal(stats.swapped_bytes, 0);
	bed_assert_ok(bed, ram_check_all(ram));
	bed_free(bed);
	ram_free(ram);
}

static void tables_are_small(void **state)
{
	struct bed *bed = bed_new(0, 1);
	struct ram *ram = ram_new(1024 * MIB_PAGES, 0x8a); /* never touched */
	struct ob_stats stats;

	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 1024 * OB_MIB, &bed->err));
	stats = bed_stats(bed);
	print_message("# tables of 1 GiB: %.2f MiB (%.2f%%)\n", (double)stats.tables_bytes / OB_MIB,
		      100.0 * (double)stats.tables_bytes / (double)OB_GIB);
	assert_true(stats.tables_bytes <= OB_GIB / 1000 * 4);
	bed_free(bed);
	ram_free(ram);
}

/* Pages of buffers for what is written that cost memory. */
static unsigned buffer_pages(const struct ob_engine *engine)
{
	unsigned n = 0;

	for (unsigned i = 0; i < engine->reclaimer_count; i++)
		for (unsigned b = 0; b < OB_BATCHES; b++)
			n += ob_load(&engine->reclaimer[i].batch[b].touched);
	return n;
}

static int no_buffer_costs(void *context)
{
	return buffer_pages(context) == 0;
}

/* A machine becomes small, and nothing is written any more: what writing needed is given back, also by a reclaimer who has nothing to do since. */
static void buffers_that_rest_cost_a_small_machine_nothing(void **state)
{
	struct bed *bed;
	struct ram *ram = ram_new(160 * MIB_PAGES, 0x8d);
	uint64_t tables, others = 0;

	bed_active_watch_ms = BED_NO_SAMPLES;
	bed = bed_new(100 * OB_MIB, 1);
	bed_active_watch_ms = 0;
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 160 * OB_MIB, &bed->err));
	tables = bed_stats(bed).tables_bytes;
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_true(bed_stats(bed).swap_in_pages > 0);
	assert_true(buffer_pages(bed->engine) > 0); /* it is not small: they stay */
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 40 * OB_MIB));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 30000));
	bed_assert_ok(bed, account_wait(no_buffer_costs, bed->engine, HANG_MS));
	for (unsigned i = 0; i < bed->engine->worker_count; i++)
		others += ob_load(&bed->engine->worker[i].touched);
	for (unsigned i = 0; i < OB_READS_MAX; i++)
		others += ob_load(&bed->engine->read[i].touched);
	assert_int_equal(bed_stats(bed).tables_bytes, tables + others * OB_PAGE_SIZE + bed_stats(bed).swap_file_bytes / 256); /* 16 bytes a page */
	bed_assert_ok(bed, ram_check_all(ram));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 30000));
	bed_free(bed);
	ram_free(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holds_while_memory_is_dirtied_from_first_touch),
		cmocka_unit_test(the_least_limit_is_kept),
		cmocka_unit_test(holds_on_slow_storage_by_holding_players_back),
		cmocka_unit_test(holds_against_a_sequential_first_touch),
		cmocka_unit_test(is_reached_soon_after_it_is_lowered_and_then_held),
		cmocka_unit_test(a_sequence_over_the_bench_takes_few_faults),
		cmocka_unit_test(a_guest_goes_on_while_it_comes_down),
		cmocka_unit_test(compressible_memory_stays_out_of_the_store_where_it_fits),
		cmocka_unit_test(what_comes_along_is_of_the_same_chunk),
		cmocka_unit_test(what_comes_back_again_and_again_is_lifted_less),
		cmocka_unit_test(what_the_guest_turns_to_comes_with_its_neighbours),
		cmocka_unit_test(what_it_asks_for_everywhere_comes_alone),
		cmocka_unit_test(the_pool_makes_way_for_what_is_used),
		cmocka_unit_test(the_pool_stays_where_all_is_used_alike),
		cmocka_unit_test(the_bench_keeps_its_part_of_the_limit),
		cmocka_unit_test(zero_pages_cost_nothing),
		cmocka_unit_test(tables_are_small),
		cmocka_unit_test(buffers_that_rest_cost_a_small_machine_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
