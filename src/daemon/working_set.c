/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/working_set.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "base/units.h"
#include "daemon/budget.h"

#define LATELY_NS    (16 * OB_NS_PER_SEC)
#define SAMPLES_MIN  16u
#define PRIOR        2u /* samples that are taken to be active before there are any */
#define GRAIN_MIN    (16 * OB_MIB)
#define GRAIN_SHARE  32u
#define BENCH_SHARE  8u
#define PAGE_BYTES   4096u
#define BYTES_SANE   (1ull << 56)

void ob_working_set_forget(struct ob_working_set *set)
{
	*set = (struct ob_working_set){ .believed_bytes = OB_BUDGET_NONE };
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

/* What has come back since the last step is added to what is left of what came before. */
static void note_demand(struct ob_working_set *set, const struct ob_stats *stats, uint64_t now_ns)
{
	uint64_t pages = stats->faults_compressed + stats->faults_swapped, away = stats->compressed_bytes + stats->swapped_bytes;
	uint64_t elapsed = OB_MIN(ob_less(now_ns, set->seen_ns), LATELY_NS), came = set->seen_ns ? ob_less(pages, set->seen_pages) : 0;

	set->demand_bytes -= set->demand_bytes / LATELY_NS * elapsed + set->demand_bytes % LATELY_NS * elapsed / LATELY_NS;
	set->demand_bytes = OB_MIN(set->demand_bytes + OB_MIN(came, BYTES_SANE / PAGE_BYTES) * PAGE_BYTES, OB_MIN(away, BYTES_SANE));
	set->seen_ns = now_ns;
	set->seen_pages = pages;
}

void ob_working_set_step(struct ob_working_set *set, const struct ob_stats *stats, uint64_t most_bytes, uint64_t now_ns)
{
	uint64_t most = OB_MIN(most_bytes, BYTES_SANE), grain = OB_MAX(GRAIN_MIN, most / GRAIN_SHARE), bytes;

	note_demand(set, stats, now_ns);
	if (stats->active_samples < SAMPLES_MIN)
		return;
	bytes = estimate(stats) + set->demand_bytes;
	bytes += bytes / BENCH_SHARE + OB_MIN(stats->tables_bytes, BYTES_SANE);
	bytes = (OB_MIN(bytes, most) + grain - 1) / grain * grain;
	if (set->believed_bytes == OB_BUDGET_NONE || bytes >= ob_less(set->believed_bytes, grain)) {
		if (set->believed_bytes == OB_BUDGET_NONE || bytes > set->believed_bytes)
			set->believed_bytes = bytes;
		set->fell_ns = now_ns;
	} else if (now_ns - set->fell_ns >= OB_WORKING_SET_REST_NS) {
		set->believed_bytes -= OB_MAX((set->believed_bytes - bytes) / 4 / grain, 1u) * grain;
		set->fell_ns = now_ns;
	}
}
