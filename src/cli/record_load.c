/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/record_load.h"

#include <errno.h>

#include "base/units.h"
#include "cli/client.h"
#include "proto/env.h"

#define PAGE_BYTES 4096u
#define WATCH_S    16u /* engine/active.c */

/* part of whole in thousandths, at most all of it; otherwise where there is no whole. */
static uint64_t permille(uint64_t part, uint64_t whole, uint64_t otherwise)
{
	if (part >= whole)
		return whole ? 1000 : otherwise;
	return (uint64_t)((double)part / (double)whole * 1000);
}

static uint64_t all_faults(const json_t *stats)
{
	static const char *const kinds[] = { "faults_bench", "faults_zero", "faults_compressed", "faults_swapped", "faults_shared" };
	uint64_t sum = 0;

	for (size_t i = 0; i < OB_ARRAY_LEN(kinds); i++)
		sum += OB_MIN(ob_client_number(stats, kinds[i]), UINT64_MAX / 8);
	return sum;
}

static uint64_t working_set(const json_t *machine, const json_t *stats, uint64_t content)
{
	if (ob_client_number(stats, "active_samples"))
		return OB_MIN(ob_client_number(stats, "active_bytes"), content);
	if (json_is_integer(json_object_get(machine, "working_set_bytes")))
		return OB_MIN(ob_client_number(machine, "working_set_bytes"), content);
	return content;
}

static void set_kinds(const json_t *stats, struct ob_sim_load *load)
{
	uint64_t spare = ob_client_number(stats, "zero_bytes") + ob_client_number(stats, "shared_bytes");
	uint64_t packed = ob_client_number(stats, "compressed_pages"), not_packed = ob_client_number(stats, "incompressible_pages");

	load->spare_permille = permille(spare, load->content_bytes, 0);
	load->compressible_permille = permille(packed, packed + not_packed, 0) * (1000 - load->spare_permille) / 1000;
	load->compressed_permille = permille(ob_client_number(stats, "pool_bytes"), ob_client_number(stats, "compressed_bytes"), 1000);
}

int ob_record_load(const json_t *machine, uint64_t seconds, uint64_t *faults, struct ob_sim_load *ret)
{
	const json_t *stats = json_object_get(machine, "stats");
	uint64_t now = all_faults(stats), came = *faults ? ob_less(now, *faults) : 0, maximum = ob_client_number(machine, "maximum_bytes");
	struct ob_sim_load load = ob_sim_load_default();

	if (!ob_client_number(stats, "ram_bytes"))
		return -ENODATA;
	*faults = now;
	load.ram_bytes = ob_client_number(stats, "ram_bytes");
	load.shares = OB_MIN(ob_client_number(machine, "shares"), OB_SHARES_MAX);
	load.limit_bytes = maximum ? maximum : OB_SIM_NONE;
	load.reservation_bytes = OB_MIN(ob_client_number(machine, "reservation_bytes"), OB_MIN(load.limit_bytes, load.ram_bytes));
	load.content_bytes = ob_less(ob_less(load.ram_bytes, ob_client_number(stats, "absent_bytes")), ob_client_number(stats, "ballooned_bytes"));
	load.working_set_bytes = working_set(machine, stats, load.content_bytes);
	load.touches = OB_MAX(came / OB_MAX(seconds, 1u), load.working_set_bytes / PAGE_BYTES / WATCH_S);
	load.touches = OB_MIN(load.touches, OB_SIM_TOUCHES_MAX);
	set_kinds(stats, &load);
	if (load.ram_bytes > OB_SIM_RAM_MAX || ob_sim_load_check(&load, NULL) < 0 || (maximum && maximum > OB_SIM_RAM_MAX))
		return -ENODATA;
	*ret = load;
	return 0;
}
