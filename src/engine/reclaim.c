/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reclaim: keeps the machine's cost under its limit. One thread, which also does the housekeeping.
 *
 * Theory of operation. When the cost passes the high mark, chunks are lifted whole, in the order of a clock hand, until
 * the bench holds its target; then the pages that have lain on the bench longest are taken off it until the cost is at
 * the low mark. So the bench is the inactive list: what is touched comes back for a minor fault, and what is not has
 * shown itself to be cold. A chunk from which much came back since the hand last passed is passed over, with a heat that
 * halves each time.
 *
 * clock.c says what is lifted, evict.c where a page goes that is taken off the bench, housekeeping.c how large the bench is.
 *
 * A round takes a few chunks or 20 ms, so that regions_lock is free now and then. When rounds go through the whole bench without
 * success, and pages found no place or there is nothing to lift, the engine is stuck: the limit gives way, visibly,
 * until something helps; it is tried again every 50 ms.
 */
#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "engine/internal.h"

#define IDLE_WAIT_NS   OB_NS_PER_SEC
#define BUSY_WAIT_NS   (50 * OB_NS_PER_MS) /* while something waits that no kick announces */
#define ROUND_CHUNKS   4u
#define ROUND_NS       (20 * OB_NS_PER_MS)

void ob_reclaim_kick(struct ob_engine *engine)
{
	if (__atomic_exchange_n(&engine->reclaim_kicked, 1, __ATOMIC_ACQ_REL))
		return;
	pthread_mutex_lock(&engine->reclaim_lock);
	pthread_cond_signal(&engine->reclaim_cond);
	pthread_mutex_unlock(&engine->reclaim_lock);
}

/* Takes the oldest chunks of the bench in turn. Returns how many pages that freed. */
static unsigned empty_bench(struct ob_engine *engine)
{
	unsigned freed = 0;

	for (unsigned i = 0; i < ROUND_CHUNKS && ob_cost_over(engine, ob_cost_low(engine)) && !ob_evict_round_over(engine); i++) {
		struct ob_place place;

		if (ob_clock_pop(engine, &place) < 0)
			break;
		freed += ob_evict_chunk(engine, &place);
		ob_chunk_lock_background(place.chunk);
		if (place.chunk->count[OB_PAGE_BENCHED])
			ob_clock_push(engine, &place);
		ob_chunk_unlock(place.chunk);
	}
	return freed + (unsigned)ob_evict_flush(engine);
}

/* One round of reclaim. Returns whether it freed anything. */
static int reclaim_round(struct ob_engine *engine)
{
	unsigned freed = 0;
	uint64_t now = ob_now_ns();

	if (engine->reclaimer.swap_retry_ns && now >= engine->reclaimer.swap_retry_ns)
		engine->reclaimer.swap_retry_ns = 0;
	if (ob_evict_swap_usable(engine) && ob_pool_bytes(engine->pool) + 32 * OB_PAGE_SIZE > ob_evict_pool_share(engine))
		freed += ob_evict_shrink_pool(engine);
	ob_clock_fill_bench(engine);
	freed += empty_bench(engine);
	if (freed && !engine->reclaimer.swap_retry_ns)
		ob_degraded_set(engine, OB_DEGRADED_SWAP_FULL | OB_DEGRADED_SWAP_ERROR, 0);
	if (!freed && (ob_load(&engine->degraded) & OB_DEGRADED_SWAP_FULL) && ob_load(&engine->cached_pages) > 0 &&
	    ob_evict_drop_cached(engine)) {
		engine->reclaimer.swap_retry_ns = 0;
		return 1;
	}
	return freed > 0;
}

/* How many rounds without success go once through the whole bench. */
static unsigned patience(const struct ob_engine *engine)
{
	return engine->reclaimer.queue_count / ROUND_CHUNKS + 2;
}

/*
 * Whether rounds without success mean that nothing can be reclaimed: pages found no place, or there are none to lift. When
 * the guest merely takes everything back from the bench as quickly as it is lifted, there is something left to do.
 */
static int nothing_left(const struct ob_engine *engine)
{
	return engine->reclaimer.refused || ob_load(&engine->in_state[OB_PAGE_BENCHED]) <= 0;
}

/* Brings the cost down to the low mark, or finds out that nothing can. */
static void reclaim(struct ob_engine *engine)
{
	unsigned idle = 0;
	int stuck = 0;

	if (!ob_cost_over(engine, ob_cost_high(engine))) {
		ob_store(&engine->stuck, 0);
		ob_fault_room(engine);
		return;
	}
	engine->reclaimer.refused = 0;
	while (ob_cost_over(engine, ob_cost_low(engine)) && !ob_load(&engine->stop)) {
		int freed;

		ob_housekeeping(engine);
		engine->reclaimer.round_end_ns = ob_now_ns() + ROUND_NS;
		pthread_rwlock_rdlock(&engine->regions_lock);
		/* A release has waited for this lock after it took the limit away: whoever has it now sees that. */
		freed = ob_load(&engine->limit_bytes) ? reclaim_round(engine) : 1;
		pthread_rwlock_unlock(&engine->regions_lock);
		idle = freed ? 0 : idle + 1;
		if (freed)
			engine->reclaimer.refused = 0;
		stuck = idle > patience(engine) && nothing_left(engine);
		if (stuck)
			break;
	}
	ob_store(&engine->stuck, stuck);
	ob_fault_room(engine);
}

static void wait_for_kick(struct ob_engine *engine)
{
	int busy = ob_load(&engine->pending_count) || ob_load(&engine->stuck) ||
		   ob_cost_over(engine, (int64_t)ob_load(&engine->limit_bytes));
	uint64_t wait_ns = busy ? BUSY_WAIT_NS : IDLE_WAIT_NS;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(wait_ns % OB_NS_PER_SEC);
	until.tv_sec += (time_t)(wait_ns / OB_NS_PER_SEC) + until.tv_nsec / (long)OB_NS_PER_SEC;
	until.tv_nsec %= (long)OB_NS_PER_SEC;
	pthread_mutex_lock(&engine->reclaim_lock);
	/* While stuck every fault kicks, and a pass would find what the last one found: wait the time out. */
	while (!ob_load(&engine->stop) && (!ob_load(&engine->reclaim_kicked) || ob_load(&engine->stuck)))
		if (pthread_cond_timedwait(&engine->reclaim_cond, &engine->reclaim_lock, &until) == ETIMEDOUT)
			break;
	__atomic_store_n(&engine->reclaim_kicked, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&engine->reclaim_lock);
}

void *ob_reclaim_thread(void *context)
{
	struct ob_engine *engine = context;

	prctl(PR_SET_NAME, "overbook-reclaim");
	engine->reclaimer.last_second_ns = engine->reclaimer.last_over_check_ns = ob_now_ns();
	while (!ob_load(&engine->stop)) {
		if (__atomic_exchange_n(&engine->engage_pending, 0, __ATOMIC_ACQ_REL))
			ob_engage(engine);
		if (ob_load(&engine->limit_bytes))
			reclaim(engine);
		ob_housekeeping(engine);
		wait_for_kick(engine);
	}
	return NULL;
}
