/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the first touch of a shared page costs, for bench/share-break.
 *
 * Two ranges of memory with the same pages, in one process. They are shared, and when that is done each page of the second is touched
 * once, in a random order, and each touch is timed. Then every byte of both is compared.
 *
 *   --by engine    the engine of this project, linked in, with the keeper of its tests in overbookd's place (in this process, so
 *                  that nothing of the merge is measured: a touch does not ask overbookd). Sharing is switched off before the touches:
 *                  no scanner runs beside them
 *   --by ksm       the kernel's KSM, which the caller has switched on; only this memory is offered to it
 *   --by nothing   nobody: what the clock and a miss in the processor's caches cost
 *
 *   --touch write  the sharing is broken: KSM copies the page, the engine puts a copy back
 *   --touch read   KSM's page is there; the engine puts a copy back, since a cold share is not mapped
 *
 * The result is one JSON object on stdout: pages that were touched, how many of them were shared by then, and the times of the touches.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../tests/engine/keeper.h"
#include "base/clock.h"
#include "base/units.h"
#include "engine/engine.h"

#define PAGES      8192u /* of each range */
#define BYTES      (PAGES * OB_PAGE_SIZE)
#define COLD_MS    300u
#define PATIENCE_S 120u
#define SETTLED_S  5u    /* without one more */

enum by { NOTHING, ENGINE, KSM };
static const char *const by_names[] = { "nothing", "engine", "ksm" };

static struct ob_engine *engine;
static struct keeper keeper;

static void die(const char *what, int r)
{
	fprintf(stderr, "share_break: %s: %s\n", what, strerror(-r));
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

static void fill(uint64_t *page, uint32_t number)
{
	uint64_t state = (number + 1) * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < OB_PAGE_SIZE / sizeof(*page); i++)
		page[i] = next_random(&state);
}

static uint8_t *map_range(void)
{
	uint8_t *base = mmap(NULL, BYTES + 2 * OB_MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		die("mmap", -errno);
	base = (uint8_t *)(((uintptr_t)base + 2 * OB_MIB - 1) & ~(2 * OB_MIB - 1));
	for (uint32_t i = 0; i < PAGES; i++)
		fill((uint64_t *)(base + i * OB_PAGE_SIZE), i);
	return base;
}

/* Pages that have another's page for their own, of both ranges; KSM counts the one that the others have as well. */
static uint64_t shared_pages(enum by by)
{
	struct ob_engine_stats stats;
	unsigned long pages = 0;
	FILE *file;

	if (by == ENGINE) {
		ob_engine_get_stats(engine, &stats);
		return stats.values.shared_bytes / OB_PAGE_SIZE;
	}
	file = by == KSM ? fopen("/proc/self/ksm_merging_pages", "r") : NULL;
	if (file && fscanf(file, "%lu", &pages) != 1)
		pages = 0;
	if (file)
		fclose(file);
	return pages;
}

static uint64_t benched_bytes(void)
{
	struct ob_engine_stats stats;

	ob_engine_get_stats(engine, &stats);
	return stats.values.benched_bytes;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 50 * OB_NS_PER_MS }, NULL);
}

static void start(enum by by, uint8_t *const ranges[2])
{
	struct ob_engine_config config = { .scan_cold_ms = COLD_MS };
	struct ob_error err;
	int r = 0;

	if (by == ENGINE) {
		if (ob_engine_create(&config, &engine, &err) < 0) {
			fprintf(stderr, "share_break: %s\n", err.text);
			exit(1);
		}
		for (unsigned i = 0; i < 2 && r == 0; i++)
			r = ob_engine_add_region(engine, ranges[i], BYTES, &err);
		r = r < 0 ? r : keeper_start(&keeper, engine, 4096, 1000);
		r = r < 0 ? r : keeper_run(&keeper);
	}
	for (unsigned i = 0; i < 2 && by == KSM; i++)
		if (madvise(ranges[i], BYTES, MADV_MERGEABLE) < 0)
			r = -errno;
	if (r < 0)
		die("cannot start sharing", r);
}

/* Until everything is shared, or nothing more comes. */
static uint64_t wait_for_sharing(enum by by)
{
	uint64_t start_ns = ob_now_ns(), most_ns = start_ns, most = 0, all = by == KSM ? PAGES : 2 * PAGES;

	while (by != NOTHING && most < all && ob_now_ns() - start_ns < PATIENCE_S * OB_NS_PER_SEC &&
	       (!most || ob_now_ns() - most_ns < SETTLED_S * OB_NS_PER_SEC)) {
		uint64_t now = shared_pages(by);

		if (now > most) {
			most = now;
			most_ns = ob_now_ns();
		}
		nap();
	}
	if (by == ENGINE) {
		keeper_halt(&keeper);
		ob_engine_share_off(engine);
		/* What the scanner has in hand goes back. */
		while (benched_bytes())
			nap();
	}
	return shared_pages(by);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void touch_all(uint8_t *base, int write, uint64_t *ns)
{
	static uint32_t order[PAGES];
	uint64_t random = 0x0123456789abcdefull;

	for (uint32_t i = 0; i < PAGES; i++)
		order[i] = i;
	for (uint32_t i = PAGES - 1; i; i--) {
		uint32_t other = (uint32_t)(next_random(&random) % (i + 1)), page = order[i];

		order[i] = order[other];
		order[other] = page;
	}
	for (uint32_t i = 0; i < PAGES; i++) {
		volatile uint8_t *byte = base + order[i] * OB_PAGE_SIZE;
		uint64_t start_ns = ob_now_ns();

		if (write)
			*byte ^= 0xff;
		else
			(void)*byte;
		ns[i] = ob_now_ns() - start_ns;
	}
}

static uint32_t wrong_pages(const uint8_t *base, int written)
{
	static uint64_t expected[OB_PAGE_SIZE / sizeof(uint64_t)];
	uint32_t wrong = 0;

	for (uint32_t i = 0; i < PAGES; i++) {
		fill(expected, i);
		if (written)
			*(uint8_t *)expected ^= 0xff;
		wrong += memcmp(base + i * OB_PAGE_SIZE, expected, OB_PAGE_SIZE) != 0;
	}
	return wrong;
}

static void parse(int argc, char **argv, enum by *ret_by, int *ret_write)
{
	static const struct option options[] = { { "by", required_argument, NULL, 'b' }, { "touch", required_argument, NULL, 't' }, { 0 } };
	int by = -1, write = -1, c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		for (unsigned i = 0; c == 'b' && i < sizeof(by_names) / sizeof(by_names[0]); i++)
			by = strcmp(optarg, by_names[i]) ? by : (int)i;
		if (c == 't')
			write = strcmp(optarg, "write") == 0 ? 1 : strcmp(optarg, "read") == 0 ? 0 : -1;
	}
	if (by < 0 || write < 0 || optind != argc) {
		fprintf(stderr, "share_break: --by nothing, engine or ksm, and --touch read or write are needed\n");
		exit(2);
	}
	*ret_by = (enum by)by;
	*ret_write = write;
}

int main(int argc, char **argv)
{
	static uint64_t ns[PAGES];
	uint8_t *ranges[2];
	uint64_t shared, total = 0;
	enum by by;
	int write;

	parse(argc, argv, &by, &write);
	for (unsigned i = 0; i < 2; i++)
		ranges[i] = map_range();
	start(by, ranges);
	shared = wait_for_sharing(by);
	touch_all(ranges[1], write, ns);
	for (uint32_t i = 0; i < PAGES; i++)
		total += ns[i];
	qsort(ns, PAGES, sizeof(*ns), compare_u64);
	if (wrong_pages(ranges[0], 0) + wrong_pages(ranges[1], write)) {
		fprintf(stderr, "share_break: a page has not its bytes\n");
		return 2;
	}
	printf("{\"touched\": %u, \"shared\": %" PRIu64 ", \"mean_ns\": %" PRIu64 ", \"p50_ns\": %" PRIu64 ", \"p99_ns\": %" PRIu64 "}\n", PAGES,
	       shared, total / PAGES, ns[PAGES / 2], ns[PAGES * 99 / 100]);
	return 0;
}
