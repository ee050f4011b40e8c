/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the machine costs: one atomic sum of bytes that every change adds to, before memory is taken and after it is
 * given back, so that the sum is never below the truth by more than one span of the pool.
 *
 * Reclaim starts at the high mark and goes down to the low mark, both a little under the limit; whoever needs a page
 * between the high mark and the ceiling takes it and only kicks the reclaimer; at the ceiling he waits, unless nothing
 * can be reclaimed at all (stuck): then the limit gives way, visibly, and the guest goes on. The ceiling is below the limit
 * by what reclaim itself may need for a moment (evict.c).
 *
 * What lies below the limit is free for good, and of a machine that has 20 MiB two margins of 1 MiB would be a tenth. So margins are smaller there,
 * and so is what reclaim does at a time; and the marks are nearer to each other than to the limit, since what lies between them is only for reclaim
 * not to begin too often.
 *
 * A limit that was lowered below the cost would make everybody who needs a page wait until all that is above it has been reclaimed: a second
 * for each GiB, and much longer on slow storage. So, while the cost is above the limit, a quarter of what a round of reclaim has freed may be taken
 * again. That counts as told cost from the moment on when it may be: whoever divides memory never counts on what is not free to stay.
 */
#include "engine/internal.h"

#define MARGIN_MIN  (512ull << 10)
#define MARGIN_MAX  (24ull << 20)
#define NEARER      (384ull << 10) /* are the marks to each other than to the limit; less than a margin */
#define GUESTS_PART 4 /* of what is freed above the limit, for those who wait */

static int64_t margin(const struct ob_engine *engine)
{
	uint64_t limit = ob_load(&engine->limit_bytes);

	return (int64_t)OB_MIN(OB_MAX(limit / 48, MARGIN_MIN), MARGIN_MAX);
}

/* What reclaim may need for a moment; always less than the margin. */
static int64_t reclaim_needs(const struct ob_engine *engine)
{
	return ob_evict_needs_bytes(engine) * (ob_reclaim_has_help(engine) ? 2 : 1);
}

int64_t ob_cost_high(const struct ob_engine *engine)
{
	return (int64_t)ob_load(&engine->limit_bytes) - margin(engine);
}

int64_t ob_cost_low(const struct ob_engine *engine)
{
	return ob_cost_high(engine) - (margin(engine) - (int64_t)NEARER);
}

static int try_below(struct ob_engine *engine, uint64_t pages, int64_t ceiling)
{
	int64_t bytes = (int64_t)(pages * OB_PAGE_SIZE);
	int64_t cost = __atomic_load_n(&engine->cost_bytes, __ATOMIC_RELAXED);

	do {
		if (cost + bytes > ceiling)
			return 0;
	} while (!__atomic_compare_exchange_n(&engine->cost_bytes, &cost, cost + bytes, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return 1;
}

void ob_cost_round(struct ob_engine *engine, int64_t *before)
{
	int64_t cost = ob_load(&engine->cost_bytes), taken = ob_load(&engine->credit_given) - ob_load(&engine->credit_bytes);
	int64_t freed = *before - cost + taken;
	int64_t credit = cost > (int64_t)ob_load(&engine->limit_bytes) ? OB_MAX(freed, (int64_t)0) / GUESTS_PART : 0;

	ob_store(&engine->credit_given, credit);
	ob_store(&engine->credit_bytes, credit);
	*before = cost;
}

/* Takes what was freed above the limit, if that is where the cost is. */
static int try_credit(struct ob_engine *engine, uint64_t pages)
{
	int64_t bytes = (int64_t)(pages * OB_PAGE_SIZE), credit = ob_load(&engine->credit_bytes);

	do {
		if (credit < bytes || !ob_cost_over(engine, (int64_t)ob_load(&engine->limit_bytes)))
			return 0;
	} while (!__atomic_compare_exchange_n(&engine->credit_bytes, &credit, credit - bytes, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	__atomic_fetch_add(&engine->cost_bytes, bytes, __ATOMIC_RELAXED);
	return 1;
}

int ob_cost_try(struct ob_engine *engine, uint64_t pages)
{
	uint64_t limit = ob_load(&engine->limit_bytes);

	if (!limit || ob_load(&engine->stuck)) {
		ob_cost_add(engine, (int64_t)pages);
		return 1;
	}
	if (!try_below(engine, pages, (int64_t)limit - reclaim_needs(engine)) && !try_credit(engine, pages)) {
		ob_reclaim_kick(engine);
		return 0;
	}
	if (ob_load(&engine->cost_bytes) > ob_cost_high(engine))
		ob_reclaim_kick(engine);
	return 1;
}

int ob_cost_try_plenty(struct ob_engine *engine, uint64_t pages)
{
	uint64_t limit = ob_load(&engine->limit_bytes);

	if (!limit) {
		ob_cost_add(engine, (int64_t)pages);
		return 1;
	}
	return try_below(engine, pages, (int64_t)(limit - limit / 8));
}

void ob_cost_add(struct ob_engine *engine, int64_t pages)
{
	__atomic_fetch_add(&engine->cost_bytes, pages * (int64_t)OB_PAGE_SIZE, __ATOMIC_RELAXED);
}

void ob_cost_pool(void *engine, int64_t delta_bytes)
{
	__atomic_fetch_add(&((struct ob_engine *)engine)->cost_bytes, delta_bytes, __ATOMIC_RELAXED);
}

void ob_cost_tables(void *engine, int64_t delta_bytes)
{
	ob_cost_pool(engine, delta_bytes);
	__atomic_fetch_add(&((struct ob_engine *)engine)->tables_bytes, delta_bytes, __ATOMIC_RELAXED);
}

int ob_cost_over(const struct ob_engine *engine, int64_t mark)
{
	return ob_load(&engine->limit_bytes) && ob_load(&engine->cost_bytes) > mark;
}

void ob_degraded_set(struct ob_engine *engine, int bit, int on)
{
	if (on)
		__atomic_fetch_or(&engine->degraded, bit, __ATOMIC_RELAXED);
	else
		__atomic_fetch_and(&engine->degraded, ~bit, __ATOMIC_RELAXED);
}
