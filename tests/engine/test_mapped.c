/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mapped shares (engine/mapped.c): runs of shared pages are mapped from the store, read there without a fault, and taken out
 * by writes, I/O, discards, releases and all else, while every byte is checked; the kernel's mappings are counted.
 */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "account.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "engine/content.h"
#include "engine/page.h"
#include "player.h"
#include "share_bed.h"

#define RUN   16u  /* pages: the shortest run, as without a limit */
#define ALL   (RAMS * RAM_PAGES)

static unsigned mappings_before;

static unsigned mappings(void)
{
	struct account_mapping mapping;
	unsigned n = 0;

	for (unsigned i = 0; i < RAMS; i++) {
		bed_assert_ok(bed, account_mapping(ram[i]->base, RAM_MIB * OB_MIB, &mapping));
		n += (unsigned)mapping.mappings;
	}
	return n;
}

static uint64_t map_all(void)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page += OB_CHUNK_PAGES)
			pages += ob_engine_share_map(bed->engine, keeper_page(i, page), OB_CHUNK_PAGES);
	return pages;
}

static uint64_t mapped_pages(void)
{
	return bed_stats(bed).mapped_bytes / OB_PAGE_SIZE;
}

static int make(void)
{
	share_make(16 * OB_MIB, 0, 0);
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	return 0;
}

static int make_with_runs(void)
{
	bed_map_run_pages = RUN;
	return make();
}

/* Nearly all of both regions is shared, and mapped. */
static int set_up(void **state)
{
	uint64_t mapped;

	bed_map_shared = 1;
	make_with_runs();
	assert_true(share_equals() > RAM_PAGES / 2);
	mappings_before = mappings();
	mapped = map_all();
	assert_true(mapped > RAM_PAGES / 4);
	assert_int_equal(mapped_pages(), mapped);
	share_assert_holds();
	return 0;
}

static int set_up_few_mappings(void **state)
{
	bed_map_mappings = 32;
	bed_map_shared = 1;
	return make_with_runs();
}

static int set_up_without_maps(void **state)
{
	return make();
}

static int set_up_cold(void **state)
{
	bed_map_shared = 1;
	return make_with_runs();
}

static int set_up_single(void **state)
{
	bed_map_shared = 1;
	return make();
}

static int tear_down(void **state)
{
	bed_map_shared = 0;
	bed_map_mappings = bed_map_run_pages = bed_scan_cold_ms = 0;
	return share_tear_down(state);
}

/* A page that is mapped, from one on: it is read without a fault, and is no candidate for another slot. */
static uint32_t find_mapped(unsigned which, uint32_t from)
{
	uint8_t bytes[PATTERN_PAGE];

	for (uint32_t page = from; page < RAM_PAGES; page++) {
		uint64_t there = 0;
		int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		off_t at = (off_t)((uintptr_t)ram_page(ram[which], page) / PATTERN_PAGE * sizeof(there));

		assert_int_equal(pread(fd, &there, sizeof(there), at), sizeof(there));
		close(fd);
		/* Bit 61: a page of a file; bit 63: present. */
		if (share_fetch(which, page, bytes) < 0 && (there >> 61 & 1) && (there >> 63 & 1))
			return page;
	}
	fail();
	return 0;
}

static void mapped_pages_are_read_without_faults(void **state)
{
	struct ob_stats before = bed_stats(bed), after;

	share_check_all();
	share_settle();
	after = bed_stats(bed);
	print_message("# %llu pages mapped in %llu runs, %u mappings of guest RAM (%u before)\n",
		      (unsigned long long)before.mapped_bytes / OB_PAGE_SIZE, (unsigned long long)before.mapped_runs, mappings(),
		      mappings_before);
	assert_int_equal(after.mapped_bytes, before.mapped_bytes);
	assert_int_equal(after.map_breaks, 0);
	assert_true(mappings() <= mappings_before + 2 * before.mapped_runs);
	assert_true(after.shared_bytes >= after.mapped_bytes);
	share_assert_holds();
}

static void writes_take_pages_out_and_mappings_heal(void **state)
{
	struct ob_stats stats;

	for (uint32_t page = 0; page < RAM_PAGES; page += 40) {
		ram_write(ram[0], page, PATTERN_ANY, 17);
		bed_assert_ok(bed, ram_check(ram[0], page));
	}
	stats = bed_stats(bed);
	print_message("# %llu breaks took out %llu pages; %llu runs left\n", (unsigned long long)stats.map_breaks,
		      (unsigned long long)stats.map_taken_out_pages, (unsigned long long)stats.mapped_runs);
	assert_true(stats.map_breaks > 50);
	assert_true(stats.map_taken_out_pages >= RUN * stats.map_breaks);
	share_assert_holds();
	share_check_all();
	share_write_all(PATTERN_ANY);
	share_check_all();
	share_assert_holds();
	stats = bed_stats(bed);
	assert_int_equal(stats.mapped_bytes, 0);
	assert_int_equal(stats.mapped_runs, 0);
	assert_true(mappings() <= mappings_before);
}

/* The last two are patched in the middle of a mapped page: what was not written is what it was. */
static void one_byte_is_enough(void **state)
{
	for (uint32_t page = 0; page < RAM_PAGES; page += 7)
		bed_assert_ok(bed, ram_patch(ram[page & 1], page));
	assert_true(bed_stats(bed).map_breaks > 0);
	share_check_all();
	share_assert_holds();
}

static void discards_show_zeros(void **state)
{
	uint64_t before = mapped_pages();

	for (uint32_t page = 0; page + 512 <= RAM_PAGES; page += 512) {
		uint32_t first = page + page / 512 % 7, count = 1 + page / 3 % 400;

		ram_lock_range(ram[0], first, count);
		bed_assert_ok(bed, ram_discard(ram[0], bed->engine, first, count));
		for (uint32_t i = 0; i < count; i++)
			bed_assert_ok(bed, ram_check(ram[0], first + i));
		ram_unlock_range(ram[0], first, count);
	}
	assert_true(mapped_pages() < before);
	assert_true(mapped_pages() > 0);
	assert_int_equal(bed_stats(bed).map_breaks, 0);
	share_assert_holds();
	share_check_all();
	share_assert_holds();
}

static void release_takes_all_out(void **state)
{
	struct account_mapping mapping;

	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	assert_int_equal(bed_stats(bed).mapped_bytes, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(share_held(), 0);
	bed_assert_ok(bed, account_mapping(ram[0]->base, RAM_MIB * OB_MIB, &mapping));
	assert_false(mapping.is_registered);
	share_assert_cost();
	share_check_all();
	share_assert_holds();
}

static void unsharing_takes_all_out(void **state)
{
	bed_assert_ok(bed, ob_engine_unshare(bed->engine, NULL, NULL, &bed->err));
	assert_int_equal(bed_stats(bed).mapped_bytes, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_true(mappings() <= mappings_before);
	share_check_all();
	share_assert_holds();
}

static void a_region_that_goes_is_unmapped(void **state)
{
	struct account_mapping mapping;

	bed_assert_ok(bed, ob_engine_remove_region(bed->engine, ram[1]->base));
	bed_assert_ok(bed, account_mapping(ram[1]->base, RAM_MIB * OB_MIB, &mapping));
	assert_false(mapping.is_registered);
	assert_int_equal(mapping.mappings, 1);
	assert_true(mapped_pages() > 0);
	share_assert_holds();
	bed_assert_ok(bed, ram_check_all(ram[0]));
	share_assert_holds();
}

/* What a device writes goes into the guest's page, and not into the store. */
static void direct_reads_break(void **state)
{
	char path[600];
	uint8_t *block = aligned_alloc(PATTERN_PAGE, PATTERN_PAGE);
	int OB_FD file = -1;
	unsigned done = 0;

	snprintf(path, sizeof(path), "%s/overbook-mapped-XXXXXX", bed_dir());
	file = mkostemp(path, O_DIRECT | O_CLOEXEC);
	assert_true(file >= 0);
	unlink(path);
	assert_non_null(block);
	memset(block, 0x5a, PATTERN_PAGE);
	assert_int_equal(pwrite(file, block, PATTERN_PAGE, 0), PATTERN_PAGE);
	for (uint32_t page = 3; page < RAM_PAGES; page += 100, done++) {
		/* From the guest's memory: not even a break. */
		uint64_t breaks = bed_stats(bed).map_breaks;
		uint8_t expected[PATTERN_PAGE];

		assert_int_equal(pwrite(file, ram_page(ram[1], page), PATTERN_PAGE, PATTERN_PAGE), PATTERN_PAGE);
		assert_int_equal(bed_stats(bed).map_breaks, breaks);
		assert_int_equal(pread(file, ram_page(ram[0], page), PATTERN_PAGE, PATTERN_PAGE), PATTERN_PAGE);
		pattern_fill(expected, &ram[1]->expected[page]);
		assert_memory_equal(ram_page(ram[0], page), expected, PATTERN_PAGE);
		ram[0]->expected[page] = ram[1]->expected[page];
	}
	assert_true(done > 50 && bed_stats(bed).map_breaks > 0);
	free(block);
	share_check_all();
	share_assert_holds();
}

/* A reference that was taken while a page was mapped outlives the hold: the slot must not change under it. */
static void a_reference_outlives_the_mapping(void **state)
{
	uint8_t seen[PATTERN_PAGE], expected[PATTERN_PAGE];
	uint32_t page = find_mapped(0, 100);
	struct iovec part = { ram_page(ram[0], page), PATTERN_PAGE };
	int ends[2];

	pattern_fill(expected, &ram[0]->expected[page]);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(vmsplice(ends[1], &part, 1, 0), PATTERN_PAGE);
	bed_assert_ok(bed, ob_engine_unshare(bed->engine, NULL, NULL, &bed->err));
	/* The keeper hears of the drops here, and overwrites what may be. */
	share_assert_holds();
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(read(ends[0], seen, sizeof(seen)), PATTERN_PAGE);
	assert_memory_equal(seen, expected, PATTERN_PAGE);
	close(ends[0]);
	close(ends[1]);
	keeper_serve(&keeper);
	assert_true(keeper.extents_dropped > 0);
}

/* A debugger's write does not wait, as little as for a page that is away: it fails, and the kernel copies nothing. */
static void a_debugger_cannot_write(void **state)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	uint32_t page = find_mapped(0, 200);
	off_t at = (off_t)(uintptr_t)ram_page(ram[0], page);
	uint8_t seen[PATTERN_PAGE];

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, seen, sizeof(seen), at), PATTERN_PAGE);
	assert_memory_equal(seen, ram_page(ram[0], page), PATTERN_PAGE);
	assert_int_equal(pwrite(fd, "\x55", 1, at), -1);
	assert_int_equal(errno, EIO);
	close(fd);
	share_check_all();
	share_assert_holds();
}

static int nothing_is_mapped(void *context)
{
	return !mapped_pages();
}

static int nothing_is_held_of_the_old(void *context)
{
	struct ob_share_held list[KEEPER_EXTENTS];
	unsigned n = ob_engine_share_held(bed->engine, list, KEEPER_EXTENTS);

	for (unsigned i = 0; i < n; i++)
		if (list[i].extent < 0x900000)
			return 0;
	return 1;
}

/* overbookd is another one: pages that are mapped from the old one's store move to the new one's without a touch. */
static void orphans_are_taken_out_and_move(void **state)
{
	uint64_t shared = bed_stats(bed).shared_bytes;
	struct ob_stats stats;

	share_succeed(1024);
	bed_assert_ok(bed, keeper_run(&successor));
	bed_assert_ok(bed, account_wait(nothing_is_mapped, NULL, HANG_MS));
	bed_assert_ok(bed, account_wait(nothing_is_held_of_the_old, NULL, HANG_MS));
	stats = bed_stats(bed);
	assert_true(stats.shared_bytes >= shared / 2);
	assert_int_equal(stats.map_breaks, 0);
	share_finish_successor();
}

static void mappings_are_never_more_than_allowed(void **state)
{
	uint64_t refused;

	assert_true(share_equals() > RAM_PAGES / 2);
	mappings_before = mappings();
	assert_true(map_all() > 0);
	assert_int_equal(bed_stats(bed).mapped_runs, 8);
	refused = bed_stats(bed).map_refused_runs;
	assert_true(refused > 0);
	for (uint32_t i = 0; i < ALL; i += 53) {
		ram_write(ram[i & 1], i / 2, PATTERN_ANY, 0);
		assert_true(bed_stats(bed).mapped_runs <= 8);
		assert_true(mappings() <= mappings_before + 2 * 8);
	}
	map_all();
	assert_true(bed_stats(bed).mapped_runs <= 8);
	share_check_all();
	share_assert_holds();
}

/* The Nth call fails, for N = 1, 2, ... until all of them pass: what could not be mapped is cold, and nothing else changes. */
static void what_the_kernel_refuses_stays_cold(void **state)
{
	static const char *const points[] = { "mmap", "mremap", "uffd_protect", "uffd_register" };
	char text[64];

	assert_true(share_equals() > RAM_PAGES / 2);
	mappings_before = mappings();
	for (unsigned i = 0; i < OB_ARRAY_LEN(points); i++) {
		for (unsigned nth = 1; nth <= 12; nth++) {
			struct ob_stats before, after;
			uint64_t pages;

			share_settle();
			before = bed_stats(bed);
			snprintf(text, sizeof(text), "%s:%u:ENOMEM", points[i], nth);
			assert_int_equal(ob_fault_configure(text, NULL), 0);
			pages = map_all();
			assert_int_equal(ob_fault_configure(NULL, NULL), 0);
			after = bed_stats(bed);
			assert_int_equal(after.mapped_bytes - before.mapped_bytes, pages * OB_PAGE_SIZE);
			assert_int_equal(after.shared_bytes, before.shared_bytes);
			share_assert_holds();
			/* Taken out again here and there, so that there is something to map. */
			for (uint32_t page = 0; page < RAM_PAGES; page += 8)
				bed_assert_ok(bed, ram_patch(ram[nth & 1], page + nth % 8));
		}
	}
	share_check_all();
	share_write_all(PATTERN_ANY);
	assert_true(mappings() <= mappings_before);
	share_assert_holds();
}

/* The kernel empties where something is to be moved to, and then has no memory to go on: nobody may ever touch that. */
static void a_gap_is_closed(void **state)
{
	struct ob_stats stats;

	assert_true(share_equals() > RAM_PAGES / 2);
	mappings_before = mappings();
	/* A chunk takes two moves. The fourth is the second chunk's: its holes are there again, and the rest goes on. */
	assert_int_equal(ob_fault_configure("mremap:4:short", NULL), 0);
	assert_true(map_all() > RAM_PAGES / 4);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(bed_stats(bed).map_refused_runs, 1);
	assert_true(mappings() <= mappings_before + 2 * bed_stats(bed).mapped_runs);
	share_check_all();
	/* While pages are taken out: until it succeeds. */
	assert_int_equal(ob_fault_configure("mremap:1-5:short", NULL), 0);
	share_write_all(PATTERN_ANY);
	assert_int_equal(ob_fault_fired(OB_FP_mremap), 5);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_true(mappings() <= mappings_before);
	share_check_all();
	share_assert_holds();
	/* What is to be put aside, and what was aside is gone: nothing is mapped ever more. */
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_true(share_equals() > RAM_PAGES / 2);
	assert_int_equal(ob_fault_configure("mremap:1:short", NULL), 0);
	assert_int_equal(map_all(), 0);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(map_all(), 0);
	stats = bed_stats(bed);
	assert_int_equal(stats.internal_errors, 1);
	assert_int_equal(stats.mapped_bytes, 0);
	share_check_all();
}

static void who_writes_waits_until_it_succeeds(void **state)
{
	assert_int_equal(ob_fault_configure("mremap:1-3:ENOMEM", NULL), 0);
	for (uint32_t page = 1; page < 60; page++)
		ram_write(ram[0], page, PATTERN_ANY, 0);
	assert_int_equal(ob_fault_fired(OB_FP_mremap), 3);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(bed->unreadable_count, 0);
	share_check_all();
	share_assert_holds();
}

static void a_kernel_that_cannot_guard_maps_nothing(void **state)
{
	assert_int_equal(share_tear_down(state), 0);
	bed_map_shared = 1;
	assert_int_equal(ob_fault_configure("userfaultfd:2:ENOSYS", NULL), 0);
	share_make(16 * OB_MIB, 0, 0);
	assert_true(ob_fault_fired(OB_FP_userfaultfd) > 0);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	share_write_all(PATTERN_COMPRESSIBLE);
	bed_assert_ok(bed, bed_wait_limit_kept(bed, 10000));
	assert_true(share_equals() > 0);
	assert_int_equal(map_all(), 0);
	share_check_all();
	share_assert_holds();
}

static void without_the_switch_nothing_is_mapped(void **state)
{
	int fd = memfd_create("canonical", MFD_CLOEXEC);

	assert_true(share_equals() > RAM_PAGES / 2);
	assert_int_equal(map_all(), 0);
	assert_int_equal(ob_engine_share_extent_file(bed->engine, keeper.extent[0].id, fd), -ENOTSUP);
	close(fd);
	assert_int_equal(mapped_pages(), 0);
	share_check_all();
}

/* --- who is mapped --- */

static int is_mapped_by_scanner(void *context)
{
	return mapped_pages() >= RAM_PAGES / 4;
}

static int is_shared_again(void *context)
{
	return bed_stats(bed).shared_bytes / OB_PAGE_SIZE >= RAM_PAGES;
}

/* The first reading maps runs in the place of copies: a fault a run, and none afterwards. */
static void what_is_read_is_mapped(void **state)
{
	struct ob_stats before, read;

	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(is_shared_again, NULL, HANG_MS));
	keeper_halt(&keeper);
	before = bed_stats(bed);
	assert_int_equal(before.mapped_bytes, 0);
	share_check_all();
	share_settle();
	read = bed_stats(bed);
	print_message("# %llu of %llu shared pages mapped by %llu faults, %llu runs\n", (unsigned long long)read.mapped_bytes / OB_PAGE_SIZE,
		      (unsigned long long)before.shared_bytes / OB_PAGE_SIZE, (unsigned long long)(read.faults_shared - before.faults_shared),
		      (unsigned long long)read.mapped_runs);
	assert_true(read.mapped_bytes >= before.shared_bytes / 8 * 7);
	assert_true(read.cost_bytes <= before.cost_bytes + before.shared_bytes / 8);
	share_check_all();
	share_settle();
	assert_int_equal(bed_stats(bed).faults_shared, read.faults_shared);
	share_write_all(PATTERN_ANY);
	share_check_all();
	share_assert_holds();
}

/* Runs of a page, which are charged for what the kernel needs for them. */
static void under_a_limit_one_page_is_enough(void **state)
{
	uint64_t tables;

	assert_true(share_every(2) > RAM_PAGES / 4);
	tables = bed_stats(bed).tables_bytes;
	share_check_all();
	share_settle();
	print_message("# %llu pages mapped, %llu runs\n", (unsigned long long)mapped_pages(), (unsigned long long)bed_stats(bed).mapped_runs);
	assert_true(mapped_pages() > RAM_PAGES / 8);
	assert_int_equal(bed_stats(bed).mapped_runs, mapped_pages());
	/* Each page stands alone. */
	assert_true(bed_stats(bed).tables_bytes >= tables + 1024 * mapped_pages());
	share_write_all(PATTERN_ANY);
	share_check_all();
	assert_int_equal(bed_stats(bed).mapped_runs, 0);
	assert_true(bed_stats(bed).tables_bytes < tables + OB_MIB);
	share_assert_holds();
}

/* Pages that are read, found equal again and read again are mapped; from then on reads are no faults. */
static void what_is_read_again_is_mapped(void **state)
{
	struct ob_stats before, after;

	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(is_shared_again, NULL, HANG_MS));
	assert_int_equal(mapped_pages(), 0);
	/* Two readings: each brings a chunk back by more than a few faults. */
	for (unsigned i = 0; i < 2; i++) {
		share_check_all();
		bed_assert_ok(bed, account_wait(is_shared_again, NULL, 2 * HANG_MS));
	}
	bed_assert_ok(bed, account_wait(is_mapped_by_scanner, NULL, 2 * HANG_MS));
	keeper_halt(&keeper);
	before = bed_stats(bed);
	share_check_all();
	after = bed_stats(bed);
	print_message("# %llu of %llu shared pages mapped, %llu runs; a reading took %llu shared faults\n",
		      (unsigned long long)before.mapped_bytes / OB_PAGE_SIZE, (unsigned long long)before.shared_bytes / OB_PAGE_SIZE,
		      (unsigned long long)before.mapped_runs, (unsigned long long)(after.faults_shared - before.faults_shared));
	assert_true(after.map_breaks == before.map_breaks);
	share_write_all(PATTERN_ANY);
	share_check_all();
	assert_true(bed_stats(bed).map_breaks > 0);
}

static int set_up_scanner(void **state)
{
	bed_map_shared = 1;
	bed_scan_cold_ms = 30;
	share_make(0, 0, 500);
	/* The halves of a chunk are equal, so that both are looked at together. */
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, page / OB_CHUNK_PAGES * (OB_CHUNK_PAGES / 2) + page % (OB_CHUNK_PAGES / 2));
	return 0;
}

/* --- players --- */

struct mapper {
	pthread_t thread;
	int stop;
	uint64_t pages;
};

static void *map_again_and_again(void *context)
{
	struct mapper *mapper = context;

	while (!__atomic_load_n(&mapper->stop, __ATOMIC_ACQUIRE)) {
		mapper->pages += map_all();
		usleep(500);
	}
	return NULL;
}

/* Everything at once, with the shortest runs: mapped as soon as it is shared, and taken out by all that players and the limit do. */
static void everything_at_once(void **state)
{
	static const unsigned limits[] = { 16, 24, 20, 40, 0 };
	struct crew_config config = { .engine = bed->engine, .rams = { ram[0], ram[1] }, .ram_count = RAMS, .players = 3,
				      .ops_each = bed_scale(15000, 60000, 1000000), .seed = 23, .mix = CREW_EVERYTHING,
				      .disk_dir = bed_dir() };
	struct mapper mapper = { 0 };
	struct ob_stats stats;
	struct crew *crew;

	keeper.lies = 1;
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, page % 32);
	bed_assert_ok(bed, keeper_run(&keeper));
	assert_int_equal(pthread_create(&mapper.thread, NULL, map_again_and_again, &mapper), 0);
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	for (unsigned i = 1; i <= 20; i++) {
		bed_assert_ok(bed, crew_wait_ops(crew, config.ops_each * 3 * i / 22, HANG_MS));
		bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limits[i % OB_ARRAY_LEN(limits)] * OB_MIB));
		if (i % 7 == 3)
			bed_assert_ok(bed, ob_engine_unshare(bed->engine, NULL, NULL, &bed->err));
		if (i % 7 == 5)
			bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
		if (i % 7 == 3 || i % 7 == 5)
			bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 200, keeper_ready, &keeper));
	}
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	__atomic_store_n(&mapper.stop, 1, __ATOMIC_RELEASE);
	pthread_join(mapper.thread, NULL);
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	stats = bed_stats(bed);
	print_message("# %llu pages adopted, %llu mapped, %llu breaks, %llu taken out; %llu runs refused; %llu runs at the end\n",
		      (unsigned long long)stats.share_adopted_pages, (unsigned long long)stats.map_pages,
		      (unsigned long long)stats.map_breaks, (unsigned long long)stats.map_taken_out_pages,
		      (unsigned long long)stats.map_refused_runs, (unsigned long long)stats.mapped_runs);
	assert_true(stats.map_pages > 1000);
	assert_true(stats.map_breaks > 100);
	assert_int_equal(stats.map_pages - stats.map_taken_out_pages, stats.mapped_bytes / OB_PAGE_SIZE);
	share_assert_holds();
	assert_int_equal(ob_engine_transition_count(bed->engine, OB_T_MAP), stats.map_pages);
	assert_int_equal(ob_engine_transition_count(bed->engine, OB_T_UNMAP), stats.map_taken_out_pages);
}

static int set_up_players(void **state)
{
	bed_map_shared = 1;
	bed_map_run_pages = 1;
	bed_scan_cold_ms = 30;
	share_make(16 * OB_MIB, 1, 200);
	return 0;
}

#define TEST(name, up) cmocka_unit_test_setup_teardown(name, up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_read_is_mapped, set_up_scanner),
		TEST(under_a_limit_one_page_is_enough, set_up_single),
		TEST(mapped_pages_are_read_without_faults, set_up),
		TEST(writes_take_pages_out_and_mappings_heal, set_up),
		TEST(one_byte_is_enough, set_up),
		TEST(discards_show_zeros, set_up),
		TEST(release_takes_all_out, set_up),
		TEST(unsharing_takes_all_out, set_up),
		TEST(a_region_that_goes_is_unmapped, set_up),
		TEST(direct_reads_break, set_up),
		TEST(a_reference_outlives_the_mapping, set_up),
		TEST(a_debugger_cannot_write, set_up),
		TEST(orphans_are_taken_out_and_move, set_up),
		TEST(who_writes_waits_until_it_succeeds, set_up),
		TEST(mappings_are_never_more_than_allowed, set_up_few_mappings),
		TEST(what_the_kernel_refuses_stays_cold, set_up_cold),
		TEST(a_gap_is_closed, set_up_cold),
		TEST(a_kernel_that_cannot_guard_maps_nothing, set_up_without_maps),
		TEST(without_the_switch_nothing_is_mapped, set_up_without_maps),
		TEST(what_is_read_again_is_mapped, set_up_scanner),
		TEST(everything_at_once, set_up_players),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
