/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "large_sim.h"

#include <string.h>

#include "base/compiler.h"

#define SECOND      1000000000ull
#define CHUNK_BYTES (2ull << 20)
#define PAGE_BYTES  4096ull

/* Pages of a chunk: those that are in memory and not looked at yet, shareable or not; looked at; shared; swapped. */
struct sim_chunk {
	uint16_t fresh_shareable, fresh_other, seen, shared, swapped_shareable, swapped_other;
	uint16_t looked_like;  /* shareable pages when it was filled */
	uint16_t part_returned; /* of a page, in thousandths */
	uint8_t is_large, is_hot, vain, was_judged;
};

struct sim {
	const struct sim_setting *setting;
	struct ob_large_host host;
	struct ob_large_orders orders;
	struct ob_large_bucket scans, breaks, collapses;
	struct sim_chunk chunk[SIM_CHUNKS];
	unsigned filled, hand, scanner, swapper;
	uint64_t seed, looked_chunks, looked_pages;
	int64_t resident_pages, shared_pages;
	struct sim_result result;
};

static uint64_t draw(struct sim *sim, uint64_t below)
{
	sim->seed = sim->seed * 6364136223846793005ull + 1442695040888963407ull;
	return (sim->seed >> 33) % below;
}

static int64_t free_pages(const struct sim *sim)
{
	return (int64_t)SIM_BUDGET * OB_LARGE_PAGES - sim->resident_pages - sim->shared_pages / SIM_COPIES;
}

static unsigned in_memory(const struct sim_chunk *chunk)
{
	return chunk->fresh_shareable + chunk->fresh_other + chunk->seen;
}

/* --- machines --- */

static void fill(struct sim *sim, struct sim_chunk *chunk)
{
	unsigned percent = sim->setting->shareable_percent, spread = OB_MIN(OB_MIN(percent, 100 - percent), 40u);
	unsigned shareable = OB_LARGE_PAGES * (draw(sim, 2) ? percent + spread : percent - spread) / 100;

	*chunk = (struct sim_chunk){ .fresh_shareable = (uint16_t)shareable, .fresh_other = (uint16_t)(OB_LARGE_PAGES - shareable),
				     .looked_like = (uint16_t)shareable, .is_large = sim->orders.may_make,
				     .is_hot = (uint8_t)draw(sim, 2) };
	sim->resident_pages += OB_LARGE_PAGES;
}

static void use_memory(struct sim *sim, unsigned second)
{
	unsigned wanted = sim->setting->chunks_at(second);

	while (sim->filled < wanted)
		fill(sim, &sim->chunk[sim->filled++]);
	while (sim->filled > wanted) {
		struct sim_chunk *chunk = &sim->chunk[--sim->filled];

		sim->resident_pages -= in_memory(chunk);
		sim->shared_pages -= chunk->shared;
		memset(chunk, 0, sizeof(*chunk));
	}
}

/* What comes back from swap, and what is shared no more; a page in the thousand is what a second adds at least. */
static void touch_memory(struct sim *sim)
{
	for (unsigned i = 0; i < sim->filled; i++) {
		struct sim_chunk *chunk = &sim->chunk[i];
		unsigned parts = (chunk->swapped_shareable + chunk->swapped_other) * (chunk->is_hot ? 50u : 1u) + chunk->part_returned;
		unsigned back = parts / 1000, shareable = OB_MIN(chunk->swapped_shareable, back / 2), other;

		chunk->part_returned = (uint16_t)(parts % 1000);
		other = OB_MIN(chunk->swapped_other, back - shareable);
		chunk->swapped_shareable -= shareable;
		chunk->fresh_shareable += shareable;
		chunk->swapped_other -= other;
		chunk->fresh_other += other;
		sim->resident_pages += shareable + other;
		sim->result.returned_pages += shareable + other;
		if (chunk->is_hot && chunk->shared && draw(sim, 1000000) < (uint64_t)SIM_UNSHARE_PPM * chunk->shared) {
			chunk->shared--;
			chunk->fresh_shareable++;
			sim->shared_pages--;
			sim->resident_pages++;
		}
		sim->result.hot_seconds += chunk->is_hot;
		sim->result.hot_large_seconds += chunk->is_hot && chunk->is_large;
	}
}

/* --- sharing --- */

static unsigned scan_chunk(struct sim *sim, struct sim_chunk *chunk)
{
	unsigned looked = chunk->fresh_shareable + chunk->fresh_other;
	unsigned written = chunk->is_hot ? chunk->fresh_shareable / 5 : 0, shared = chunk->fresh_shareable - written;

	chunk->shared += shared;
	chunk->seen += chunk->fresh_other + written;
	chunk->fresh_shareable = chunk->fresh_other = 0;
	sim->shared_pages += shared;
	sim->resident_pages -= shared;
	if (looked >= OB_LARGE_PAGES / 2 && !shared && chunk->vain < OB_LARGE_VAIN_MAX)
		chunk->vain++;
	return looked;
}

static void share(struct sim *sim)
{
	unsigned left = sim->setting->scan_pages;

	for (unsigned i = 0; i < sim->filled; i++) {
		struct sim_chunk *chunk = &sim->chunk[sim->scanner++ % sim->filled];

		if (chunk->is_large || !(chunk->fresh_shareable + chunk->fresh_other))
			continue;
		if (chunk->fresh_shareable + chunk->fresh_other > left) {
			sim->scanner--;
			break;
		}
		left -= scan_chunk(sim, chunk);
	}
}

/* --- large pages --- */

static unsigned sample(struct sim *sim, const struct sim_chunk *chunk, unsigned seed, unsigned from)
{
	uint16_t numbers[OB_LARGE_SAMPLE_STEP];
	unsigned n = ob_large_sample_pages(seed, OB_LARGE_PAGES, from, from + OB_LARGE_SAMPLE_STEP, numbers), found = 0;

	for (unsigned i = 0; i < n; i++)
		found += numbers[i] < chunk->looked_like;
	sim->result.sampled++;
	return found;
}

static void judge(struct sim *sim, struct sim_chunk *chunk)
{
	unsigned seed = (unsigned)draw(sim, UINT32_MAX), away = chunk->swapped_shareable + chunk->swapped_other;
	struct ob_large_chunk seen = { .sample.pages = OB_LARGE_PAGES, .is_large = chunk->is_large, .is_hot = chunk->is_hot,
				       .vain = chunk->vain, .shared = chunk->shared, .away = (uint16_t)away };
	struct ob_large_verdict verdict;

	/* A broken one that is whole is sampled too before it is collapsed. */
	if (!chunk->is_large && !chunk->shared && !away && sim->orders.collapse_rate) {
		seen.sample.shareable = (uint16_t)sample(sim, chunk, seed, 0);
		seen.sample.sampled = OB_LARGE_SAMPLE_STEP;
	}
	for (;;) {
		verdict = ob_large_chunk_judge(&sim->orders, &seen, sim->breaks.parts >> 30 != 0, sim->collapses.parts >> 30 != 0);
		if (verdict.action != OB_LARGE_SAMPLE)
			break;
		seen.sample.shareable += (uint16_t)sample(sim, chunk, seed, seen.sample.sampled);
		seen.sample.sampled += OB_LARGE_SAMPLE_STEP;
	}
	if (seen.is_large && seen.sample.sampled) {
		sim->looked_pages += ob_large_estimate(&seen.sample).likely;
		sim->looked_chunks++;
	}
	if (verdict.action == OB_LARGE_BREAK) {
		ob_large_bucket_take(&sim->breaks);
		chunk->is_large = 0;
		sim->result.broken++;
	} else if (verdict.action == OB_LARGE_COLLAPSE) {
		ob_large_bucket_take(&sim->collapses);
		chunk->is_large = 1;
		chunk->fresh_shareable = chunk->looked_like;
		chunk->fresh_other = (uint16_t)(OB_LARGE_PAGES - chunk->looked_like);
		chunk->seen = 0;
		sim->result.collapsed++;
	}
}

static void look_at_large(struct sim *sim)
{
	ob_large_bucket_fill(&sim->scans, sim->orders.scan_rate ? sim->orders.scan_rate : sim->orders.collapse_rate, SECOND);
	ob_large_bucket_fill(&sim->breaks, sim->orders.break_rate, SECOND);
	ob_large_bucket_fill(&sim->collapses, sim->orders.collapse_rate, SECOND);
	sim->looked_chunks = sim->looked_pages = 0;
	for (unsigned i = 0; i < sim->filled; i++) {
		struct sim_chunk *chunk = &sim->chunk[sim->hand++ % sim->filled];

		if (!chunk->is_large && !sim->orders.collapse_rate)
			continue;
		if (!ob_large_bucket_take(&sim->scans))
			break;
		judge(sim, chunk);
	}
}

/* --- shortage --- */

static void swap_chunk(struct sim *sim, struct sim_chunk *chunk)
{
	unsigned pages = in_memory(chunk);

	sim->result.forced += chunk->is_large;
	chunk->is_large = 0;
	chunk->swapped_shareable += chunk->fresh_shareable;
	chunk->swapped_other += chunk->fresh_other + chunk->seen;
	chunk->fresh_shareable = chunk->fresh_other = chunk->seen = 0;
	sim->resident_pages -= pages;
	sim->result.swapped_pages += pages;
}

static void keep_limit(struct sim *sim)
{
	int64_t least = (int64_t)(sim->host.min_free_bytes / PAGE_BYTES * 64 / 100);

	for (unsigned i = 0; i < 2 * sim->filled && free_pages(sim) < least; i++) {
		struct sim_chunk *chunk = &sim->chunk[sim->swapper++ % sim->filled];

		/* The first time round cold ones alone. */
		if (in_memory(chunk) && (!chunk->is_hot || i >= sim->filled))
			swap_chunk(sim, chunk);
	}
}

struct sim_result sim_run(const struct sim_setting *setting)
{
	static struct sim sim;

	memset(&sim, 0, sizeof(sim));
	sim.setting = setting;
	sim.seed = 1;
	for (unsigned second = 0; second < setting->seconds; second++) {
		uint64_t pages = (uint64_t)OB_MAX(free_pages(&sim), 0);
		struct ob_large_input input = {
			.elapsed_ns = SECOND, .budget_bytes = SIM_BUDGET * CHUNK_BYTES, .free_bytes = pages * PAGE_BYTES,
			.growth_bytes = UINT64_MAX,
			.shareable_pages = sim.looked_chunks ? (uint32_t)(sim.looked_pages / sim.looked_chunks) : OB_LARGE_UNKNOWN,
		};

		sim.orders = ob_large_host_step(&sim.host, setting->policy, &input);
		use_memory(&sim, second);
		touch_memory(&sim);
		look_at_large(&sim);
		share(&sim);
		keep_limit(&sim);
	}
	sim.result.shared_pages = (uint64_t)sim.shared_pages;
	sim.result.changes = sim.host.changes;
	return sim.result;
}
