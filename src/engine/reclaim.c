/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reclaim: keeps the machine's cost under its limit. One or two threads; the first also does the housekeeping.
 *
 * Theory of operation. When the cost passes the high mark, chunks are lifted, in the order of a clock hand, until
 * the bench holds its target; then the pages that have lain on the bench longest are taken off it until the cost is at
 * the low mark. So the bench is the inactive list: what is touched comes back for a minor fault, and what is not has
 * shown itself to be cold. A chunk from which much came back since the hand last passed is passed over, with a heat that
 * halves each time; and so are, in other chunks, pages that came back before (chances.h).
 *
 * clock.c says what is lifted, evict.c where a page goes that is taken off the bench, write_batch.c how it is written,
 * write_back.c how room is made in pool and store, housekeeping.c how large the bench is.
 *
 * A round takes a few chunks or 20 ms, so that regions_lock is free now and then. When rounds go through the whole bench without
 * success, and pages found no place or there is nothing to lift, the engine is stuck: the limit gives way, visibly,
 * until something helps; it is tried again every 50 ms.
 *
 * The second reclaimer helps when there is far to go (a limit that was lowered) or faults wait for room, and leaves the
 * pool, the store and the question whether the engine is stuck to the first. Each takes chunks from one queue.
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
#define HELP_LIMIT     (96ull << 20) /* bytes; below it a second reclaimer's needs would be too much of the limit */

void ob_reclaim_kick(struct ob_engine *engine)
{
	if (__atomic_exchange_n(&engine->reclaim_kicked, 1, __ATOMIC_ACQ_REL))
		return;
	pthread_mutex_lock(&engine->reclaim_lock);
	pthread_cond_signal(&engine->reclaim_cond);
	pthread_mutex_unlock(&engine->reclaim_lock);
}

/* Takes the oldest chunks of the bench in turn. Returns how many pages that freed. */
static unsigned empty_bench(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;
	unsigned freed = 0;

	for (unsigned i = 0; i < ROUND_CHUNKS && !ob_evict_enough(engine) && !ob_evict_round_over(re); i++) {
		struct ob_place place;

		if (ob_clock_pop(engine, &place) < 0)
			break;
		ob_chunk_lock_background(place.chunk);
		place.chunk->evicting = 1;
		ob_chunk_unlock(place.chunk);
		freed += ob_evict_chunk(re, &place);
		ob_chunk_lock_background(place.chunk);
		place.chunk->evicting = 0;
		if (place.chunk->count[OB_PAGE_BENCHED])
			ob_clock_push(engine, &place);
		ob_chunk_unlock(place.chunk);
	}
	/* What is being written may be all that is left to do. */
	return freed + ob_batch_flush(re, !freed || ob_evict_enough(engine));
}

/* One round of reclaim. Returns whether it freed anything. */
static int reclaim_round(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;
	uint64_t retry = ob_load(&engine->swap_retry_ns);
	unsigned freed = 0;

	re->round_end_ns = ob_now_ns() + ROUND_NS;
	if (re->number) {
		ob_clock_fill_bench(engine);
		return empty_bench(re) > 0;
	}
	if (retry && ob_now_ns() >= retry)
		ob_store(&engine->swap_retry_ns, 0);
	if (ob_evict_swap_usable(engine) && ob_pool_bytes(engine->pool) + 32 * OB_PAGE_SIZE > ob_evict_pool_share(engine))
		freed += ob_evict_shrink_pool(re);
	ob_clock_fill_bench(engine);
	freed += empty_bench(re);
	/* A few slots that came free are no cure while the limit gives way. */
	if (freed && !ob_load(&engine->swap_retry_ns) && !ob_cost_over(engine, (int64_t)ob_load(&engine->limit_bytes)))
		ob_degraded_set(engine, OB_DEGRADED_SWAP_FULL | OB_DEGRADED_SWAP_ERROR, 0);
	if (!freed && (ob_load(&engine->degraded) & OB_DEGRADED_SWAP_FULL) && ob_load(&engine->cached_pages) > 0 &&
	    ob_evict_drop_cached(engine)) {
		ob_store(&engine->swap_retry_ns, 0);
		return 1;
	}
	return freed > 0;
}

/* A round, unless the limit has been taken away meanwhile. */
static int locked_round(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;
	int freed;

	pthread_rwlock_rdlock(&engine->regions_lock);
	/* A release has waited for this lock after it took the limit away: whoever has it now sees that. */
	freed = ob_load(&engine->limit_bytes) ? reclaim_round(re) : 1;
	pthread_rwlock_unlock(&engine->regions_lock);
	return freed;
}

/* How many rounds without success go once through the whole bench. */
static unsigned patience(const struct ob_engine *engine)
{
	return ob_load(&engine->clock.queue_count) / ROUND_CHUNKS + 2;
}

/*
 * Whether rounds without success mean that nothing can be reclaimed: pages found no place, or there are none to lift. When
 * the guest merely takes everything back from the bench as quickly as it is lifted, there is something left to do.
 */
static int nothing_left(const struct ob_reclaimer *re)
{
	return !ob_load(&re->engine->helping) &&
	       (re->refused || ob_load(&re->engine->in_state[OB_PAGE_BENCHED]) <= 0);
}

int ob_reclaim_has_help(const struct ob_engine *engine)
{
	return engine->reclaimer_count > 1 && ob_load(&engine->limit_bytes) >= HELP_LIMIT;
}

/* Whether there is so much to do that another thread is worth its waking. */
static int wants_help(const struct ob_engine *engine)
{
	int64_t low = ob_cost_low(engine), high = ob_cost_high(engine);

	return ob_reclaim_has_help(engine) &&
	       (ob_load(&engine->pending_count) || ob_cost_over(engine, high + 2 * (high - low)));
}

static void call_for_help(struct ob_engine *engine)
{
	pthread_mutex_lock(&engine->reclaim_lock);
	engine->help_wanted = 1;
	pthread_cond_broadcast(&engine->help_cond);
	pthread_mutex_unlock(&engine->reclaim_lock);
}

/* Brings the cost down to the low mark, or finds out that nothing can. */
static void reclaim(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;
	int64_t before = ob_load(&engine->cost_bytes);
	unsigned idle = 0;
	int stuck = 0;

	if (!ob_cost_over(engine, ob_cost_high(engine))) {
		ob_store(&engine->stuck, 0);
		ob_fault_room(engine);
		return;
	}
	re->refused = 0;
	while (ob_cost_over(engine, ob_cost_low(engine)) && !ob_load(&engine->stop)) {
		int freed;

		ob_housekeeping(engine);
		if (wants_help(engine))
			call_for_help(engine);
		freed = locked_round(re);
		ob_cost_round(engine, &before);
		idle = freed ? 0 : idle + 1;
		if (freed)
			re->refused = 0;
		stuck = idle > patience(engine) && nothing_left(re);
		if (stuck)
			break;
	}
	ob_store(&engine->stuck, stuck);
	ob_store(&engine->credit_given, 0);
	ob_store(&engine->credit_bytes, 0);
	ob_fault_room(engine);
}

/* What a reclaimer keeps between rounds goes back before he sleeps. */
static void rest(struct ob_reclaimer *re)
{
	pthread_rwlock_rdlock(&re->engine->regions_lock);
	ob_batch_flush(re, 1);
	ob_batch_rest(re);
	pthread_rwlock_unlock(&re->engine->regions_lock);
}

/* Returns whether there may be something to do. */
static int wait_for_kick(struct ob_engine *engine)
{
	int busy = ob_load(&engine->pending_count) || ob_load(&engine->stuck) ||
		   ob_cost_over(engine, (int64_t)ob_load(&engine->limit_bytes));
	uint64_t wait_ns = busy ? BUSY_WAIT_NS : IDLE_WAIT_NS;
	struct timespec until;
	int kicked;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(wait_ns % OB_NS_PER_SEC);
	until.tv_sec += (time_t)(wait_ns / OB_NS_PER_SEC) + until.tv_nsec / (long)OB_NS_PER_SEC;
	until.tv_nsec %= (long)OB_NS_PER_SEC;
	pthread_mutex_lock(&engine->reclaim_lock);
	/* While stuck every fault kicks, and a pass would find what the last one found: wait the time out. */
	while (!ob_load(&engine->stop) && (!ob_load(&engine->reclaim_kicked) || ob_load(&engine->stuck)))
		if (pthread_cond_timedwait(&engine->reclaim_cond, &engine->reclaim_lock, &until) == ETIMEDOUT)
			break;
	kicked = __atomic_exchange_n(&engine->reclaim_kicked, 0, __ATOMIC_ACQ_REL);
	pthread_mutex_unlock(&engine->reclaim_lock);
	return kicked || busy;
}

static void first_reclaimer(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;

	engine->house.last_second_ns = engine->house.last_over_check_ns = ob_now_ns();
	while (!ob_load(&engine->stop)) {
		if (__atomic_exchange_n(&engine->engage_pending, 0, __ATOMIC_ACQ_REL))
			ob_engage(engine);
		if (ob_load(&engine->limit_bytes))
			reclaim(re);
		rest(re);
		ob_housekeeping(engine);
		if (!wait_for_kick(engine)) {
			ob_batch_drop_buffers(re);
			/* The second one's are his own to give back. */
			if (engine->reclaimer_count > 1 && ob_batch_has_buffers(&engine->reclaimer[1]))
				call_for_help(engine);
		}
	}
}

static void helper(struct ob_reclaimer *re)
{
	struct ob_engine *engine = re->engine;

	for (;;) {
		pthread_mutex_lock(&engine->reclaim_lock);
		while (!ob_load(&engine->stop) && !engine->help_wanted)
			pthread_cond_wait(&engine->help_cond, &engine->reclaim_lock);
		engine->help_wanted = 0;
		pthread_mutex_unlock(&engine->reclaim_lock);
		if (ob_load(&engine->stop))
			return;
		__atomic_fetch_add(&engine->helping, 1, __ATOMIC_ACQ_REL);
		while (wants_help(engine) && !ob_load(&engine->stuck) && !ob_load(&engine->stop))
			if (!locked_round(re))
				break;
		rest(re);
		ob_batch_drop_buffers(re);
		__atomic_fetch_sub(&engine->helping, 1, __ATOMIC_ACQ_REL);
	}
}

void *ob_reclaim_thread(void *context)
{
	struct ob_reclaimer *re = context;

	prctl(PR_SET_NAME, "overbook-reclaim");
	if (re->number)
		helper(re);
	else
		first_reclaimer(re);
	return NULL;
}
