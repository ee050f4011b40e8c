/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "account.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define MAX_RANGES (4 * OB_REGIONS_MAX + 16)

struct area {
	uint64_t start, end, pss_kib, huge_kib;
	int is_registered, large_forbidden;
};

/* Calls see for every mapping of /proc/self/smaps. */
static int walk_smaps(void (*see)(void *context, const struct area *area), void *context)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	struct area area = { 0 };
	char line[512];

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		unsigned long long start, end, value;

		if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
			area = (struct area){ .start = start, .end = end };
		else if (sscanf(line, "Pss: %llu kB", &value) == 1)
			area.pss_kib = value;
		else if (sscanf(line, "AnonHugePages: %llu kB", &value) == 1)
			area.huge_kib = value;
		else if (!strncmp(line, "VmFlags:", 8)) {
			area.is_registered = strstr(line, " um") || strstr(line, " uw");
			area.large_forbidden = strstr(line, " nh") != NULL;
			see(context, &area);
		}
	}
	fclose(file);
	return 0;
}

struct pss_walk {
	struct ob_engine_range ranges[MAX_RANGES];
	unsigned count;
	uint64_t bytes;
};

/* A mapping that is partly the engine's is counted at most as far as the engine's part reaches. */
static void see_pss(void *context, const struct area *area)
{
	struct pss_walk *walk = context;
	uint64_t covered = 0;

	for (unsigned i = 0; i < walk->count; i++) {
		uint64_t start = OB_MAX(area->start, walk->ranges[i].start), end = OB_MIN(area->end, walk->ranges[i].end);

		covered += start < end ? end - start : 0;
	}
	walk->bytes += OB_MIN(covered, area->pss_kib * 1024);
}

int64_t account_pss_bytes(struct ob_engine *engine)
{
	struct pss_walk walk = { 0 };
	int r;

	walk.count = ob_engine_get_ranges(engine, walk.ranges, MAX_RANGES);
	if (walk.count > MAX_RANGES)
		return -ENOSPC;
	r = walk_smaps(see_pss, &walk);
	return r < 0 ? r : (int64_t)walk.bytes;
}

int64_t account_rss_bytes(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long value, total = 0;
	char line[256];

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %llu kB", &value) == 1 || sscanf(line, "RssShmem: %llu kB", &value) == 1)
			total += value * 1024;
	fclose(file);
	return (int64_t)total;
}

struct mapping_walk {
	uint64_t start, end;
	struct account_mapping *result;
};

static void see_mapping(void *context, const struct area *area)
{
	struct mapping_walk *walk = context;

	if (area->end <= walk->start || area->start >= walk->end)
		return;
	walk->result->huge_bytes += area->huge_kib * 1024;
	walk->result->pss_bytes += area->pss_kib * 1024;
	walk->result->is_registered |= area->is_registered;
	walk->result->large_forbidden |= area->large_forbidden;
	walk->result->mappings++;
}

int account_mapping(const void *start, size_t length, struct account_mapping *ret_mapping)
{
	struct account_mapping mapping = { 0 };
	struct mapping_walk walk = { .start = (uintptr_t)start, .end = (uintptr_t)start + length, .result = &mapping };
	int r = walk_smaps(see_mapping, &walk);

	if (!r)
		*ret_mapping = mapping;
	return r;
}

uint64_t account_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * OB_NS_PER_SEC + (uint64_t)t.tv_nsec;
}

int account_wait(int (*check)(void *context), void *context, unsigned timeout_ms)
{
	uint64_t until = ob_now_ns() + timeout_ms * OB_NS_PER_MS;

	while (!check(context)) {
		if (ob_now_ns() > until)
			return -ETIMEDOUT;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return 0;
}
