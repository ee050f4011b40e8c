/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine as a whole: making and ending it, its limit, its statistics. */
#include "engine/engine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "engine/scan.h"
#include "kern/memory.h"
#include "kern/pagemap.h"
#include "kern/probe.h"
#include "kern/uffd.h"

#define STACK_BYTES     (256u << 10)
#define POOL_ARENA      (16ull << 30) /* of address space */
#define FAULT_THREADS   2u            /* so that one works while the other waits for events */
#define CPUS_A_WORKER   8u            /* one more for so many processors */

static int open_kernel(struct ob_engine *engine, struct ob_error *err)
{
	uint64_t features = 0;

	engine->uffd = engine->config.map_shared ? ob_mapped_open(engine, &features) : -1;
	if (engine->uffd < 0)
		engine->uffd = ob_uffd_open(&features, NULL);
	engine->can_arm = (features & OB_UFFD_FEATURE_WP_ASYNC) != 0;
	if (engine->uffd < 0)
		return ob_error_sys(err, -engine->uffd, "cannot open a userfaultfd that can move pages");
	engine->pagemap = ob_pagemap_open();
	if (engine->pagemap < 0)
		return ob_error_sys(err, -engine->pagemap, "cannot scan this process's page map");
	engine->self = ob_memory_self(); /* without it pages are dropped one range at a time */
	engine->room_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	engine->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (engine->room_event < 0 || engine->stop_event < 0)
		return ob_error_sys(err, errno, "cannot make an eventfd");
	return 0;
}

/* One mapping for all buffers: a window for each worker, and for each reclaimer his batches and a page to decompress into. */
static int make_buffers(struct ob_engine *engine)
{
	size_t window = OB_FILL_MAX * OB_PAGE_SIZE, batch = OB_BATCH_PAGES * OB_PAGE_SIZE;
	size_t reclaimer = OB_BATCHES * batch + OB_PAGE_SIZE;
	char *at;
	int r;

	engine->scratch_bytes = engine->worker_count * window + engine->reclaimer_count * reclaimer;
	r = ob_memory_reserve(engine->scratch_bytes, 0, &engine->scratch);
	if (r < 0)
		return r;
	at = engine->scratch;
	for (unsigned i = 0; i < engine->worker_count; i++, at += window)
		engine->worker[i].buffer = at;
	for (unsigned i = 0; i < engine->reclaimer_count; i++) {
		for (unsigned b = 0; b < OB_BATCHES; b++, at += batch)
			engine->reclaimer[i].batch[b].buffer = at;
		engine->reclaimer[i].page = at;
		at += OB_PAGE_SIZE;
	}
	/* Windows and batches are charged when they are used first. */
	ob_cost_tables(engine, (int64_t)(engine->reclaimer_count * OB_PAGE_SIZE + sizeof(*engine)));
	return 0;
}

int ob_engine_start_thread(pthread_t *ret_thread, void *(*run)(void *), void *context)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int r = ob_fault(OB_FP_thread_create);

	if (r < 0)
		return r;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(ret_thread, &attr, run, context);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

static int start_threads(struct ob_engine *engine)
{
	int r = ob_mapped_start(engine);

	for (unsigned i = 0; i < engine->worker_count && r == 0; i++) {
		engine->worker[i].engine = engine;
		r = ob_engine_start_thread(&engine->worker[i].thread, ob_fault_thread, &engine->worker[i]);
		engine->started += r == 0;
	}
	for (unsigned i = 0; i < engine->reclaimer_count && r == 0; i++) {
		r = ob_engine_start_thread(&engine->reclaimer[i].thread, ob_reclaim_thread, &engine->reclaimer[i]);
		engine->started += r == 0;
	}
	return r;
}

static void stop_threads(struct ob_engine *engine)
{
	uint64_t one = 1;

	pthread_mutex_lock(&engine->reclaim_lock);
	ob_store(&engine->stop, 1);
	pthread_cond_signal(&engine->reclaim_cond);
	pthread_cond_broadcast(&engine->help_cond);
	pthread_mutex_unlock(&engine->reclaim_lock);
	ob_scan_stop(engine);
	for (unsigned i = 0; (int)(engine->worker_count + i) < engine->started; i++)
		pthread_join(engine->reclaimer[i].thread, NULL);
	if (engine->stop_event >= 0 && write(engine->stop_event, &one, sizeof(one)) < 0)
		return;
	for (unsigned i = 0; i < engine->worker_count && (int)i < engine->started; i++)
		pthread_join(engine->worker[i].thread, NULL);
	ob_follow_stop(engine);
	ob_mapped_stop(engine);
}

static void init_locks(struct ob_engine *engine)
{
	pthread_rwlockattr_t rw;
	pthread_condattr_t cond;

	pthread_rwlockattr_init(&rw);
	pthread_rwlockattr_setkind_np(&rw, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&engine->regions_lock, &rw);
	pthread_rwlockattr_destroy(&rw);
	pthread_condattr_init(&cond);
	pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->reclaim_cond, &cond);
	pthread_cond_init(&engine->help_cond, &cond);
	pthread_condattr_destroy(&cond);
	pthread_mutex_init(&engine->limit_lock, NULL);
	pthread_mutex_init(&engine->event_lock, NULL);
	pthread_mutex_init(&engine->pending_lock, NULL);
	pthread_mutex_init(&engine->reclaim_lock, NULL);
	pthread_mutex_init(&engine->unreadable_lock, NULL);
	pthread_mutex_init(&engine->reads_lock, NULL);
	pthread_mutex_init(&engine->clock.lock, NULL);
	pthread_mutex_init(&engine->mapped.lock, NULL);
	pthread_mutex_init(&engine->large.lock, NULL);
	ob_scan_init(&engine->scan);
	pthread_mutex_init(&engine->follow.lease.lock, NULL);
}

static void free_engine(struct ob_engine *engine)
{
	stop_threads(engine);
	for (unsigned i = 0; i < OB_RECLAIMERS_MAX; i++)
		ob_swap_queue_destroy(engine->reclaimer[i].queue);
	ob_reads_destroy(engine);
	ob_regions_free(engine);
	ob_pool_destroy(engine->pool);
	ob_swap_destroy(engine->swap);
	ob_share_destroy(engine);
	ob_memory_unreserve(engine->scratch, engine->scratch_bytes);
	ob_fd_close(&engine->uffd);
	ob_mapped_close(engine);
	ob_fd_close(&engine->pagemap);
	ob_fd_close(&engine->self);
	ob_fd_close(&engine->room_event);
	ob_fd_close(&engine->stop_event);
	pthread_rwlock_destroy(&engine->regions_lock);
	pthread_cond_destroy(&engine->reclaim_cond);
	pthread_cond_destroy(&engine->help_cond);
	pthread_mutex_destroy(&engine->limit_lock);
	pthread_mutex_destroy(&engine->event_lock);
	pthread_mutex_destroy(&engine->pending_lock);
	pthread_mutex_destroy(&engine->reclaim_lock);
	pthread_mutex_destroy(&engine->unreadable_lock);
	pthread_mutex_destroy(&engine->reads_lock);
	pthread_mutex_destroy(&engine->clock.lock);
	pthread_mutex_destroy(&engine->mapped.lock);
	ob_scan_destroy(&engine->scan);
	pthread_mutex_destroy(&engine->follow.lease.lock);
	free((void *)engine->config.swap_dir);
	free(engine);
}

static int open_stores(struct ob_engine *engine, struct ob_error *err)
{
	int r = ob_hash_key_draw(&engine->key);

	if (r < 0)
		return ob_error_sys(err, -r, "cannot draw a key for page hashes");
	r = ob_pool_create(OB_MIN(POOL_ARENA, ob_memory_address_space() / 8), engine->self, ob_cost_pool, engine, &engine->pool);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot make the compressed pool");
	engine->pool_parts = OB_POOL_PARTS_MAX;
	if (!engine->config.swap_dir)
		return 0;
	r = ob_swap_create(engine->config.swap_dir, &engine->key, ob_cost_tables, engine, &engine->swap, err);
	if (r < 0)
		return r;
	r = ob_reads_create(engine);
	for (unsigned i = 0; i < engine->reclaimer_count && r == 0; i++)
		r = ob_swap_queue_create(engine->swap, OB_BATCHES * 4, &engine->reclaimer[i].queue);
	return r < 0 ? ob_error_sys(err, -r, "cannot get memory for the swap store's queues") : 0;
}

static int start(struct ob_engine *engine, struct ob_error *err)
{
	int r = open_kernel(engine, err);

	if (r == 0)
		r = open_stores(engine, err);
	if (r < 0)
		return r;
	r = make_buffers(engine);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot get memory for the engine's buffers");
	if (engine->config.limit_bytes) {
		r = ob_engine_set_limit(engine, engine->config.limit_bytes);
		if (r < 0)
			return ob_error_set(err, -r, "a limit of %llu bytes is below the least that can be kept, %llu",
					    (unsigned long long)engine->config.limit_bytes, (unsigned long long)OB_LIMIT_MIN);
	}
	r = start_threads(engine);
	return r < 0 ? ob_error_sys(err, -r, "cannot start the engine's threads") : 0;
}

int ob_engine_create(const struct ob_engine_config *config, struct ob_engine **ret_engine, struct ob_error *err)
{
	struct ob_kern_features features;
	struct ob_engine *engine;
	int r = ob_kern_probe(&features, err);

	if (r < 0)
		return r;
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return ob_error_sys(err, ENOMEM, "cannot make the engine");
	engine->mapped.guard = engine->mapped.event = -1;
	engine->uffd = engine->pagemap = engine->room_event = engine->stop_event = engine->self = -1;
	engine->config = *config;
	engine->large.is_forbidden = config->no_large;
	engine->config.swap_dir = config->swap_dir ? strdup(config->swap_dir) : NULL;
	engine->ncpus = (unsigned)OB_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
	engine->worker_count = OB_MIN(config->fault_threads ? config->fault_threads : FAULT_THREADS + engine->ncpus / CPUS_A_WORKER,
				      OB_FAULT_THREADS_MAX);
	engine->reclaimer_count = OB_MIN(engine->ncpus, OB_RECLAIMERS_MAX);
	for (unsigned i = 0; i < OB_RECLAIMERS_MAX; i++) {
		engine->reclaimer[i].engine = engine;
		engine->reclaimer[i].number = i;
	}
	engine->vma_budget = ob_kern_max_map_count() / 4;
	engine->clock.queue_head = OB_QUEUE_END;
	engine->window_max = OB_WINDOW_MAX;
	engine->around = 1;
	init_locks(engine);
	r = start(engine, err);
	if (r < 0) {
		free_engine(engine);
		return r;
	}
	*ret_engine = engine;
	return 0;
}

void ob_engine_destroy(struct ob_engine *engine)
{
	struct ob_error err;

	if (!engine)
		return;
	/* What cannot be brought back now cannot be later: the caller's memory has holes where it was, as he was told. */
	if (ob_engine_release(engine, NULL, NULL, &err) < 0)
		ob_engine_internal_error(engine, "release", -err.code, 0);
	free_engine(engine);
}

/* What one fault may bring: of a small machine less. */
static unsigned window_max(uint64_t limit)
{
	return limit ? (unsigned)OB_MIN(OB_MAX(limit / OB_PAGE_SIZE / 256, 16u), OB_WINDOW_MAX) : OB_WINDOW_MAX;
}

/* limit_lock is held. */
static void engage(struct ob_engine *engine)
{
	if (ob_load(&engine->engaged))
		return;
	ob_count_present(engine); /* what is told until the reclaimer has seen all chunks */
	ob_store(&engine->engaged, 1);
	__atomic_store_n(&engine->engage_pending, 1, __ATOMIC_RELEASE);
}

int ob_engine_engage(struct ob_engine *engine)
{
	int r = 0;

	pthread_mutex_lock(&engine->limit_lock);
	if (ob_load(&engine->releasing))
		r = -EBUSY;
	else
		engage(engine);
	pthread_mutex_unlock(&engine->limit_lock);
	ob_reclaim_kick(engine);
	return r;
}

/* An eighth of the first limit; of another one, as much as it has become of that one before: limits that are divided change often. */
static uint64_t bench_target(const struct ob_engine *engine, uint64_t limit)
{
	uint64_t had = ob_load(&engine->limit_bytes) / OB_PAGE_SIZE, target = ob_load(&engine->bench_target_pages);
	double part = had && target ? (double)target / (double)had : 1.0 / 8;

	return OB_MAX((uint64_t)((double)(limit / OB_PAGE_SIZE) * part), OB_CHUNK_PAGES / 2);
}

int ob_engine_set_limit(struct ob_engine *engine, uint64_t bytes)
{
	if (bytes && bytes < OB_LIMIT_MIN)
		return -EINVAL;
	pthread_mutex_lock(&engine->limit_lock);
	if (ob_load(&engine->releasing)) {
		pthread_mutex_unlock(&engine->limit_lock);
		return -EBUSY;
	}
	if (bytes)
		ob_store(&engine->bench_target_pages, bench_target(engine, bytes));
	ob_store(&engine->limit_bytes, bytes);
	ob_store(&engine->window_max, window_max(bytes));
	if (bytes) {
		ob_share_suspend(engine, 0);
		engage(engine);
	}
	ob_store(&engine->stuck, 0);
	__atomic_store_n(&engine->reclaim_kicked, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&engine->limit_lock);
	ob_reclaim_kick(engine);
	ob_fault_room(engine);
	return 0;
}

static uint64_t bytes_of(const int64_t *pages)
{
	int64_t n = ob_load(pages);

	return n > 0 ? (uint64_t)n * OB_PAGE_SIZE : 0;
}

static uint64_t thread_cpu_ns(pthread_t thread)
{
	struct timespec ts;
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) || clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * OB_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/*
 * The levels. In open chunks no page's state is known: under a limit all that was granted counts as resident, without
 * one what the kernel said when it was asked last; the rest counts as absent.
 */
static void fill_levels(struct ob_engine *engine, struct ob_stats *s)
{
	int counted = ob_load(&engine->counted);
	int64_t open = counted ? ob_load(&engine->open_pages) : ob_load(&engine->open_present_pages);
	uint64_t open_bytes = (uint64_t)OB_MAX(open, 0) * OB_PAGE_SIZE, balloon = bytes_of(&engine->in_state[OB_PAGE_BALLOONED]);
	uint64_t absent = bytes_of(&engine->in_state[OB_PAGE_ABSENT]);
	int64_t cost = ob_load(&engine->cost_bytes) + ob_load(&engine->credit_bytes); /* what it may be */

	s->ram_bytes = ob_load(&engine->ram_pages) * OB_PAGE_SIZE;
	s->limit_bytes = ob_load(&engine->limit_bytes);
	s->resident_bytes = bytes_of(&engine->in_state[OB_PAGE_RESIDENT]) + open_bytes;
	s->benched_bytes = bytes_of(&engine->in_state[OB_PAGE_BENCHED]);
	s->zero_bytes = bytes_of(&engine->in_state[OB_PAGE_ZERO]);
	s->compressed_bytes = bytes_of(&engine->in_state[OB_PAGE_COMPRESSED]);
	s->swapped_bytes = bytes_of(&engine->in_state[OB_PAGE_SWAPPED]);
	s->large_bytes = (uint64_t)OB_MAX(ob_load(&engine->large.chunks), 0) * OB_CHUNK_SIZE;
	s->mapped_bytes = bytes_of(&engine->in_state[OB_PAGE_MAPPED]);
	s->mapped_runs = ob_load(&engine->mapped.runs);
	s->shared_bytes = bytes_of(&engine->in_state[OB_PAGE_SHARED]) + s->mapped_bytes;
	s->pinned_bytes = bytes_of(&engine->in_state[OB_PAGE_PINNED]);
	/* What is open and there is neither absent nor ballooned, whatever its word says. */
	s->absent_bytes = absent - OB_MIN(absent, open_bytes);
	s->ballooned_bytes = balloon - OB_MIN(balloon, open_bytes - OB_MIN(absent, open_bytes));
	s->active_samples = counted && s->limit_bytes ? ob_load(&engine->active.samples) : 0;
	s->active_bytes = s->active_samples ? (s->ram_bytes - OB_MIN(s->ram_bytes, s->absent_bytes + s->ballooned_bytes)) / 1000 *
						      ob_load(&engine->active.permille) : 0;
	s->pool_bytes = ob_pool_bytes(engine->pool);
	s->tables_bytes = (uint64_t)ob_load(&engine->tables_bytes);
	s->cost_bytes = (uint64_t)OB_MAX(cost, 0) + (counted ? 0 : open_bytes);
	s->over_limit_bytes = s->limit_bytes && s->cost_bytes > s->limit_bytes ? s->cost_bytes - s->limit_bytes : 0;
	s->swap_file_bytes = engine->swap ? ob_swap_file_bytes(engine->swap) : 0;
	s->swap_cached_bytes = bytes_of(&engine->cached_pages);
	s->bench_target_bytes = ob_load(&engine->bench_target_pages) * OB_PAGE_SIZE;
	s->open_chunks = (uint64_t)OB_MAX(ob_load(&engine->open_chunks), 0);
	s->degraded = (uint64_t)ob_load(&engine->degraded);
}

void ob_engine_get_stats(struct ob_engine *engine, struct ob_engine_stats *ret_stats)
{
	const uint64_t *from = (const uint64_t *)&engine->counters;
	uint64_t *to = (uint64_t *)&ret_stats->values;

	for (size_t i = 0; i < sizeof(engine->counters) / sizeof(*from); i++)
		to[i] = ob_load(&from[i]);
	for (unsigned k = 0; k < OB_HIST_KINDS; k++)
		for (unsigned b = 0; b < OB_HIST_BUCKETS; b++)
			ret_stats->hists.count[k][b] = ob_load(&engine->hists.count[k][b]);
	fill_levels(engine, &ret_stats->values);
	for (unsigned i = 0; i < engine->reclaimer_count; i++)
		ret_stats->values.reclaim_cpu_ns += thread_cpu_ns(engine->reclaimer[i].thread);
	for (unsigned i = 0; i < engine->worker_count; i++)
		ret_stats->values.fault_cpu_ns += thread_cpu_ns(engine->worker[i].thread);
}

static unsigned put_range(struct ob_engine_range *ranges, unsigned n, unsigned max, uint32_t kind, uint64_t start, uint64_t end)
{
	if (n < max)
		ranges[n] = (struct ob_engine_range){ kind, start, end };
	return n + 1;
}

static unsigned put_table(struct ob_engine_range *ranges, unsigned n, unsigned max, const void *base, uint64_t length)
{
	uint64_t start = (uint64_t)(uintptr_t)base;

	return put_range(ranges, n, max, OB_ENGINE_TABLES, start, start + length);
}

unsigned ob_engine_get_ranges(struct ob_engine *engine, struct ob_engine_range *ranges, unsigned max)
{
	uint64_t arena[2], tables[2], bytes;
	unsigned n = 0;

	pthread_rwlock_rdlock(&engine->regions_lock);
	for (unsigned i = 0; i < OB_REGIONS_MAX; i++) {
		const struct ob_region *r = &engine->region[i];
		uint64_t bench = (uint64_t)(uintptr_t)r->bench;

		if (!r->base)
			continue;
		n = put_range(ranges, n, max, OB_ENGINE_RAM, r->base, r->base + r->length);
		n = put_range(ranges, n, max, OB_ENGINE_BENCH, bench, bench + r->length);
		n = put_table(ranges, n, max, r->words, r->words_bytes);
		n = put_table(ranges, n, max, r->chunks, r->chunks_bytes);
		if (ob_subpage_range(r, &bytes))
			n = put_table(ranges, n, max, r->sums, bytes);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	ob_pool_ranges(engine->pool, arena, tables);
	n = put_range(ranges, n, max, OB_ENGINE_POOL, arena[0], arena[1]);
	n = put_range(ranges, n, max, OB_ENGINE_TABLES, tables[0], tables[1]);
	n = put_table(ranges, n, max, engine->scratch, engine->scratch_bytes);
	if (ob_share_ranges(engine, tables))
		n = put_range(ranges, n, max, OB_ENGINE_TABLES, tables[0], tables[1]);
	if (engine->swap) {
		ob_swap_ranges(engine->swap, tables);
		n = put_range(ranges, n, max, OB_ENGINE_TABLES, tables[0], tables[1]);
	}
	return n;
}

uint64_t ob_engine_transition_count(const struct ob_engine *engine, unsigned transition)
{
	return transition < OB_TRANSITION_COUNT ? ob_load(&engine->transitions[transition]) : 0;
}
