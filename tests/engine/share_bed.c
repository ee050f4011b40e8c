/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "share_bed.h"

#include <string.h>

#include "base/fault.h"

struct bed *bed;
struct ram *ram[RAMS];
struct keeper keeper, successor;

/* Two regions of equal pages. */
void share_make(uint64_t limit_bytes, int swap, unsigned cpu_permille)
{
	bed = bed_new(limit_bytes, swap);
	for (unsigned i = 0; i < RAMS; i++) {
		ram[i] = ram_new(RAM_PAGES, 0x51);
		bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram[i]->base, RAM_MIB * OB_MIB, &bed->err));
	}
	bed_assert_ok(bed, keeper_start(&keeper, bed->engine, 1024, cpu_permille));
}

int share_make_scanner(unsigned cold_ms, unsigned cpu_permille)
{
	bed_scan_cold_ms = cold_ms;
	share_make(0, 0, cpu_permille);
	bed_scan_cold_ms = 0;
	return 0;
}

void share_begin_scanning(void)
{
	bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 1000, keeper_ready, &keeper));
}

void share_write_twins(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, page / 2);
}

void share_write_all(enum pattern_kind kind)
{
	for (unsigned i = 0; i < RAMS; i++)
		ram_write_all(ram[i], kind);
}

void share_write_different(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, i * RAM_PAGES + page);
}

void share_check_all(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		bed_assert_ok(bed, ram_check_all(ram[i]));
}

int share_tear_down(void **state)
{
	if (ob_fault_configure(NULL, NULL) < 0)
		return -1;
	keeper_halt(&keeper);
	keeper_halt(&successor);
	bed_free(bed);
	keeper_end(&keeper);
	if (successor.engine)
		keeper_end(&successor);
	successor.engine = NULL;
	for (unsigned i = 0; i < RAMS; i++) {
		ram_free(ram[i]);
		ram[i] = NULL;
	}
	bed = NULL;
	return keeper.wrong || successor.wrong ? -1 : 0;
}

struct ob_hash share_hash(unsigned which, uint32_t page)
{
	uint8_t bytes[PATTERN_PAGE];

	pattern_fill(bytes, &ram[which]->expected[page]);
	return ob_content_hash(&keeper.key, bytes);
}

int share_fetch(unsigned which, uint32_t page, uint8_t bytes[PATTERN_PAGE])
{
	struct ob_hash hash = share_hash(which, page);

	return ob_engine_share_fetch(bed->engine, keeper_page(which, page), hash.low, hash.high, bytes);
}

uint64_t share_every(unsigned step)
{
	uint8_t first[PATTERN_PAGE], second[PATTERN_PAGE];
	uint64_t shared = 0;

	for (uint32_t page = 0; page < RAM_PAGES; page += step) {
		uint32_t index;
		int extent;

		if (share_fetch(0, page, first) < 0 || share_fetch(1, page, second) < 0)
			continue;
		assert_memory_equal(first, second, PATTERN_PAGE);
		extent = keeper_put(&keeper, first, &index);
		assert_true(extent >= 0);
		for (unsigned i = 0; i < RAMS; i++)
			shared += keeper_adopt(&keeper, keeper_page(i, page), (uint32_t)extent, index) == 0;
	}
	return shared;
}

uint64_t share_equals(void)
{
	return share_every(1);
}

/* Who faults goes on before the worker has done its counting; it has when it has let go of the chunk. */
void share_settle(void)
{
	uint8_t bytes[PATTERN_PAGE];

	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page += OB_CHUNK_PAGES)
			if (ob_engine_share_fetch(bed->engine, keeper_page(i, page), 0, 0, bytes) == 0)
				fail();
}

uint64_t share_held(void)
{
	struct ob_share_held list[KEEPER_EXTENTS];
	unsigned n = ob_engine_share_held(bed->engine, list, KEEPER_EXTENTS);
	uint64_t sum = 0;

	assert_true(n <= KEEPER_EXTENTS);
	for (unsigned i = 0; i < n; i++)
		sum += list[i].held;
	return sum;
}

/* What the engine believes that the keeper counts is what it counts, slot by slot. */
static void assert_counts(void)
{
	static uint32_t counts[KEEPER_EXTENTS][OB_CHUNK_PAGES * 8];
	struct ob_share_drop list[100];
	uint32_t position = 0;
	unsigned n;

	memset(counts, 0, sizeof(counts));
	while ((n = ob_engine_share_counts(bed->engine, &position, list, OB_ARRAY_LEN(list))))
		for (unsigned i = 0; i < n; i++)
			for (unsigned extent = 0; extent < KEEPER_EXTENTS; extent++)
				if (keeper.extent[extent].id == list[i].extent)
					counts[extent][list[i].index] += list[i].count;
	for (unsigned extent = 0; extent < KEEPER_EXTENTS; extent++)
		for (uint32_t index = 0; keeper.extent[extent].id && index < keeper.extent_pages; index++)
			assert_int_equal(counts[extent][index], keeper.extent[extent].refs[index]);
}

/* Four counts of one thing: by words, by extents, by the engine's counters, by the keeper. */
void share_assert_holds(void)
{
	struct ob_stats stats;
	uint64_t words;

	share_settle();
	stats = bed_stats(bed);
	words = stats.shared_bytes / OB_PAGE_SIZE;
	assert_counts();
	keeper_take_drops(&keeper);
	assert_counts();
	assert_int_equal(share_held(), words);
	assert_int_equal(stats.share_adopted_pages - stats.share_dropped_pages, words);
	assert_int_equal(keeper_held(&keeper), words);
	assert_int_equal(keeper.wrong, 0);
	assert_int_equal(stats.internal_errors, 0);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
}

void share_finish(void)
{
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	share_assert_holds();
}

/* After a release all that it costs is what is in place and the engine's own; the pool's table of spans stands nowhere. */
void share_assert_cost(void)
{
	struct ob_stats stats = bed_stats(bed);

	assert_in_range(stats.cost_bytes - stats.resident_bytes - stats.pool_bytes - stats.tables_bytes, 0, 256 * OB_KIB);
}

void share_finish_race(void)
{
	share_finish();
	ob_engine_share_off(bed->engine);
	share_assert_holds();
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	share_check_all();
	share_assert_cost();
	share_assert_holds();
}

void share_succeed(uint32_t extent_pages)
{
	bed_assert_ok(bed, keeper_start(&successor, bed->engine, extent_pages, 1000));
	successor.next_id = 0x900000;
	successor.forgives = 1; /* drops of what the old one had */
}

void share_finish_successor(void)
{
	keeper_halt(&successor);
	keeper_serve(&successor);
	assert_int_equal(share_held(), keeper_held(&successor));
	share_check_all();
}

int share_bench_is_empty(void *context)
{
	return bed_stats(bed).benched_bytes == 0;
}

int share_most_is_shared(void *context)
{
	return bed_stats(bed).shared_bytes >= 40 * OB_MIB;
}

int share_chunks_are_backed_off(void *context)
{
	return bed_stats(bed).scan_pages + bed_stats(bed).scan_unwritten_pages >= 5 * RAMS * RAM_PAGES;
}
