/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/working_set.h"

#include <stdbool.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"

#define LATELY_NS    (16 * OB_NS_PER_SEC)
#define SURE         64u /* samples */
#define PRIOR        2u /* samples that are taken to be active before there are any */
#define GRAIN_MIN    (2 * OB_MIB)
#define GRAIN_SHARE  64u
#define STEP_MIN     (256 * OB_KIB)
#define STEP_SHARE   32u
#define BENCH_SHARE  8u
#define HEADROOM_MIN   (64 * OB_MIB)
#define HEADROOM_SHARE 16u /* of what it has, and HEADROOM_MIN is no more than this share of what it could have */
#define AWAY_SHARE     8u
#define PAGE_BYTES   4096u
#define BYTES_SANE   (1ull << 56)

__extension__ typedef unsigned __int128 wide;

void ob_working_set_forget(struct ob_working_set *set)
{
	*set = (struct ob_working_set){
		.believed_bytes = OB_BUDGET_NONE, .low_bytes = OB_BUDGET_NONE, .high_bytes = OB_BUDGET_NONE, .wanted_bytes = OB_BUDGET_NONE,
	};
}

/* What the guest has, wherever it is. */
static uint64_t contents(const struct ob_stats *stats)
{
	uint64_t ram = OB_MIN(stats->ram_bytes, BYTES_SANE);

	return ob_less(ob_less(ram, stats->absent_bytes), stats->ballooned_bytes);
}

static uint64_t estimate(const struct ob_stats *stats)
{
	uint64_t all = contents(stats), active = OB_MIN(stats->active_bytes, all);
	uint64_t samples = OB_MIN(stats->active_samples, 1u << 16);

	return active + (all - active) / (samples + PRIOR) * PRIOR;
}

/* Without the engine's tables. */
static uint64_t in_place(const struct ob_stats *stats)
{
	return ob_less(ob_less(OB_MIN(stats->cost_bytes, BYTES_SANE), stats->pool_bytes), stats->tables_bytes);
}

static uint64_t bytes_of(uint64_t pages)
{
	return OB_MIN(pages, BYTES_SANE / PAGE_BYTES) * PAGE_BYTES;
}

/* How many bytes have come back since the last step. */
static uint64_t take_back(struct ob_working_set_back *back, uint64_t pages, bool is_first)
{
	uint64_t came = is_first ? 0 : bytes_of(ob_less(pages, back->seen_pages));

	back->seen_pages = pages;
	return came;
}

/* part of whole, of amount; part is no more than whole. */
static uint64_t scale(uint64_t amount, uint64_t part, uint64_t whole)
{
	return whole ? (uint64_t)((wide)amount * part / whole) : 0;
}

/* What has come back of all kinds since the last step, and how what is in place has changed. */
struct change {
	uint64_t came, stays; /* bytes; stays: of what came */
	uint64_t had_stayed, goes; /* goes: of what had stayed before */
	uint64_t elapsed_ns;
};

/* Each kind has its part in what stays and what goes. No more is lacking than there is to come back. */
static void note_back(struct ob_working_set_back *back, uint64_t came, const struct change *change, uint64_t away_bytes)
{
	uint64_t stays = scale(came, change->stays, change->came), goes = scale(back->stays_bytes, change->goes, change->had_stayed);

	back->stays_bytes -= goes;
	back->stays_bytes -= scale(back->stays_bytes, change->elapsed_ns, LATELY_NS);
	back->stays_bytes = OB_MIN(back->stays_bytes + stays, BYTES_SANE);
	back->bytes -= scale(back->bytes, change->elapsed_ns, LATELY_NS);
	back->bytes = OB_MIN(back->bytes + goes + (came - stays), OB_MIN(away_bytes, BYTES_SANE));
}

/* All that has come back, neighbours too. What was discarded out of the pool, or shared, counts as well: more than is true, as a bound may be. */
static uint64_t pages_back(const struct ob_stats *stats)
{
	return ob_less(stats->compressed_pages, stats->pool_writeback_pages + stats->compressed_bytes / PAGE_BYTES) + stats->swap_in_pages +
	       ob_less(stats->share_dropped_pages, stats->share_shed_pages);
}

/* Whether it stayed or not: it is in use. */
uint64_t ob_working_set_back_bytes(const struct ob_working_set *set)
{
	return set->demand.bytes + set->demand.stays_bytes;
}

static void note_demand(struct ob_working_set *set, const struct ob_stats *stats, uint64_t now_ns)
{
	uint64_t elapsed = OB_MIN(ob_less(now_ns, set->seen_ns), LATELY_NS);
	bool is_first = !set->seen_ns;
	uint64_t demand = take_back(&set->demand, stats->faults_compressed + stats->faults_swapped, is_first);
	uint64_t shared = take_back(&set->shared, stats->faults_shared, is_first);
	/* What is told of faults and of pages may be of different moments. */
	uint64_t all = OB_MAX(take_back(&set->all, pages_back(stats), is_first), demand + shared);
	uint64_t placed = in_place(stats), had_stayed = set->all.stays_bytes;
	const struct change change = {
		.came = all, .stays = OB_MIN(all, ob_less(placed, set->placed_bytes)),
		.had_stayed = had_stayed, .goes = OB_MIN(had_stayed, ob_less(set->placed_bytes, placed)), .elapsed_ns = elapsed,
	};
	uint64_t evicted = OB_MIN(stats->compressed_bytes, BYTES_SANE) + OB_MIN(stats->swapped_bytes, BYTES_SANE);

	note_back(&set->demand, demand, &change, evicted);
	note_back(&set->shared, shared, &change, stats->shared_bytes);
	note_back(&set->all, all, &change, evicted + OB_MIN(stats->shared_bytes, BYTES_SANE));
	set->seen_ns = now_ns;
	set->placed_bytes = placed;
}

static uint64_t grain_of(uint64_t most_bytes)
{
	return OB_MAX(GRAIN_MIN, OB_MIN(most_bytes, BYTES_SANE) / GRAIN_SHARE);
}

/* A step of what is believed: a power of two, lest each number had steps of its own. */
static uint64_t step_of(uint64_t bytes, uint64_t most_bytes)
{
	uint64_t grain = grain_of(most_bytes), step = STEP_MIN;

	while (step <= bytes / STEP_SHARE / 2)
		step *= 2;
	return OB_MIN(step, grain);
}

/* In whole steps, and no more than could be. */
static uint64_t in_steps(uint64_t bytes, uint64_t most_bytes, uint64_t step)
{
	uint64_t most = OB_MIN(most_bytes, BYTES_SANE);

	return OB_MIN((OB_MIN(bytes, most) + step - 1) / step * step, most);
}

/* What is in place, and some of what is away; the pool holds what is away, and is no part of it. */
static uint64_t wants(const struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes)
{
	uint64_t away = OB_MIN(stats->compressed_bytes, BYTES_SANE) + OB_MIN(stats->swapped_bytes, BYTES_SANE);
	uint64_t bytes = ob_less(OB_MIN(stats->cost_bytes, BYTES_SANE), stats->pool_bytes) + OB_MIN(away, ob_working_set_back_bytes(set) + away / AWAY_SHARE);

	return in_steps(bytes + OB_MAX(bytes, OB_MIN(most_bytes, HEADROOM_SHARE * HEADROOM_MIN)) / HEADROOM_SHARE, most_bytes, grain_of(most_bytes));
}

void ob_working_set_note(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns)
{
	uint64_t bytes = wants(set, stats, most_bytes);

	if (set->wanted_bytes == OB_BUDGET_NONE || bytes >= ob_less(set->wanted_bytes, grain_of(most_bytes))) {
		if (set->wanted_bytes == OB_BUDGET_NONE || bytes > set->wanted_bytes)
			set->wanted_bytes = bytes;
		set->wanted_ns = now_ns;
	} else if (now_ns - set->wanted_ns >= OB_WORKING_SET_REST_NS) {
		set->wanted_bytes = bytes;
	}
}

/* Whether samples of which so many were active may well come from memory of which `real` is: both in permille; 3.84 is 1.96 squared. */
static bool is_likely(uint64_t seen, uint64_t real, uint64_t samples)
{
	uint64_t off = seen > real ? seen - real : real - seen;

	return 100 * samples * off * off <= 384 * real * (1000 - real);
}

/* The share farthest from what was seen, towards 0 or 1000, of which that is so. */
static uint64_t find_share(uint64_t seen, uint64_t samples, bool is_most)
{
	uint64_t near = 0, far = (is_most ? 1000 - seen : seen) + 1;

	while (far - near > 1) {
		uint64_t middle = near + (far - near) / 2;

		if (is_likely(seen, is_most ? seen + middle : seen - middle, samples))
			near = middle;
		else
			far = middle;
	}
	return is_most ? seen + near : seen - near;
}

/* What it needs for what it uses, if it uses so much by the sample. */
static uint64_t needs(const struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t used_bytes)
{
	uint64_t came = set->demand.bytes + set->shared.bytes, bound = in_place(stats) + OB_MAX(came, set->all.bytes);
	uint64_t used = used_bytes + OB_MAX(used_bytes / BENCH_SHARE, ob_budget_marks(used_bytes)), marks = ob_budget_marks(bound);
	uint64_t pool = OB_MIN(OB_MIN(stats->pool_bytes, BYTES_SANE), ob_less(bound / BENCH_SHARE, marks));
	uint64_t bytes = OB_MIN(used, bound + marks + pool) + came + OB_MIN(stats->tables_bytes, BYTES_SANE);

	return in_steps(bytes, most_bytes, step_of(bytes, most_bytes));
}

static void believe(struct ob_working_set *set, uint64_t bytes, uint64_t most_bytes, uint64_t now_ns)
{
	uint64_t step = step_of(set->believed_bytes, most_bytes);

	if (set->believed_bytes == OB_BUDGET_NONE || bytes >= ob_less(set->believed_bytes, step)) {
		if (set->believed_bytes == OB_BUDGET_NONE || bytes > set->believed_bytes)
			set->believed_bytes = bytes;
		set->fell_ns = now_ns;
		set->highest_bytes = 0;
		return;
	}
	set->highest_bytes = OB_MAX(set->highest_bytes, bytes);
	if (now_ns - set->fell_ns >= OB_WORKING_SET_REST_NS) {
		set->believed_bytes = set->highest_bytes;
		set->fell_ns = now_ns;
		set->highest_bytes = 0;
	}
}

static void note_bounds(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes)
{
	uint64_t all = contents(stats), samples = OB_MIN(stats->active_samples, SURE), seen = scale(1000, OB_MIN(stats->active_bytes, all), all);
	uint64_t least = scale(all, find_share(seen, samples, false), 1000), most = scale(all, find_share(seen, samples, true), 1000);

	set->low_bytes = OB_MIN(needs(set, stats, most_bytes, least), set->believed_bytes);
	set->high_bytes = OB_MAX(needs(set, stats, most_bytes, most), set->believed_bytes);
}

void ob_working_set_keep(struct ob_working_set *set, uint64_t now_ns)
{
	set->fell_ns = set->wanted_ns = now_ns;
	set->highest_bytes = 0;
}

void ob_working_set_step(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns)
{
	note_demand(set, stats, now_ns);
	ob_working_set_note(set, stats, most_bytes, now_ns);
	if (stats->active_samples < OB_WORKING_SET_SAMPLES)
		return;
	believe(set, needs(set, stats, most_bytes, estimate(stats)), most_bytes, now_ns);
	note_bounds(set, stats, most_bytes);
}
