/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Broken chunks made large pages again: what is refused, that no write is lost meanwhile, and that it lasts. These tests take the
 * engine's own locks, as its threads do; when it is done by itself test_large_whole.c looks at.
 */
#include "bed.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#include "account.h"
#include "base/fault.h"
#include "engine/internal.h"
#include "kern/pagemap.h"
#include "ram.h"

#define CHUNKS  4u
#define WRITERS 2u

static struct bed *bed;
static struct ram *ram;
static int writing;

/* A limit that is far away: chunks are opened at first touch, and nothing is reclaimed. */
static int set_up_ram(struct ram *made)
{
	bed = bed_new(OB_GIB, 1);
	ram = made;
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, ram->pages * OB_PAGE_SIZE, &bed->err));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	return 0;
}

static int set_up(void **state)
{
	return set_up_ram(ram_new(CHUNKS * OB_CHUNK_PAGES, 0xc0));
}

static int tear_down(void **state)
{
	bed_free(bed);
	ram_free(ram);
	return 0;
}

/* The chunk's place, with its lock. */
static struct ob_place enter(uint32_t chunk)
{
	struct ob_place place;

	pthread_rwlock_rdlock(&bed->engine->regions_lock);
	assert_int_equal(ob_place_find(bed->engine, (uint64_t)(uintptr_t)ram_page(ram, chunk * OB_CHUNK_PAGES), &place), 0);
	ob_chunk_lock(place.chunk);
	return place;
}

static void leave(struct ob_place *place)
{
	ob_chunk_unlock(place->chunk);
	pthread_rwlock_unlock(&bed->engine->regions_lock);
}

/* Lifts a tracked chunk and moves it back in two parts. Returns whether all of it is there again. */
static int break_it(struct ob_place *place)
{
	if (place->chunk->open)
		assert_int_equal(ob_chunk_track(bed->engine, place), 0);
	ob_lift_chunk(bed->engine, place);
	ob_lift_return(bed->engine, place, place->chunk_first, 8);
	ob_lift_return_all(bed->engine, place);
	return place->chunk->count[OB_PAGE_RESIDENT] == OB_CHUNK_PAGES;
}

static uint64_t large_bytes(const void *start, size_t length)
{
	struct account_mapping mapping;

	assert_int_equal(account_mapping(start, length, &mapping), 0);
	return mapping.huge_bytes;
}

static uint64_t large_in_ram(void)
{
	return large_bytes(ram->base, ram->pages * OB_PAGE_SIZE);
}

static void break_all(void)
{
	for (uint32_t i = 0; i < CHUNKS; i++) {
		struct ob_place place = enter(i);

		assert_true(break_it(&place));
		leave(&place);
	}
}

static int collapse(uint32_t chunk)
{
	struct ob_place place = enter(chunk);
	int r = ob_chunk_collapse(bed->engine, &place);

	leave(&place);
	return r;
}

static void a_broken_chunk_becomes_a_large_page_with_the_same_bytes(void **state)
{
	break_all();
	assert_int_equal(large_in_ram(), 0);
	for (uint32_t i = 0; i < CHUNKS; i++)
		assert_int_equal(collapse(i), 1);
	if (!BED_SANITIZED)
		assert_int_equal(large_in_ram(), CHUNKS * OB_CHUNK_SIZE);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(bed_stats(bed).internal_errors, 0);
}

static unsigned long page_tables_kib(void)
{
	unsigned long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/self/status", "re");

	assert_non_null(file);
	while (fgets(line, sizeof(line), file) && sscanf(line, "VmPTE: %lu", &kib) != 1)
		;
	fclose(file);
	return kib;
}

/* Whether the kernel frees a page table of which everything was dropped (CONFIG_PT_RECLAIM): tried with 64 of them. */
static int kernel_frees_page_tables(void)
{
	size_t bytes = 64 * OB_CHUNK_SIZE;
	unsigned long before;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	assert_int_equal(madvise(memory, bytes, MADV_NOHUGEPAGE), 0);
	for (size_t at = 0; at < bytes; at += OB_CHUNK_SIZE)
		memory[at] = 1;
	before = page_tables_kib();
	assert_int_equal(madvise(memory, bytes, MADV_DONTNEED), 0);
	before -= page_tables_kib();
	munmap(memory, bytes);
	return before >= 32 * 4 && before <= 66 * 4;
}

/* It is lifted and moved back in one piece, where the kernel frees the bench's page table. */
static void it_survives_the_next_lift(void **state)
{
	struct ob_place place;
	uint64_t benched;

	break_all();
	assert_int_equal(collapse(1), 1);
	place = enter(1);
	assert_int_equal(ob_lift_chunk(bed->engine, &place), OB_CHUNK_PAGES);
	benched = large_bytes(ob_place_bench(&place, place.chunk_first), OB_CHUNK_SIZE);
	ob_lift_return_all(bed->engine, &place);
	assert_int_equal(place.chunk->count[OB_PAGE_RESIDENT], OB_CHUNK_PAGES);
	leave(&place);
	print_message("# %llu KiB lay on the bench as a large page\n", (unsigned long long)benched / 1024);
	assert_int_equal(large_in_ram(), benched);
	if (kernel_frees_page_tables())
		assert_int_equal(benched, OB_CHUNK_SIZE);
	bed_assert_ok(bed, ram_check_all(ram));
}

static void discard(uint32_t first, uint32_t count)
{
	ram_lock_range(ram, first, count);
	bed_assert_ok(bed, ram_discard(ram, bed->engine, first, count));
	ram_unlock_range(ram, first, count);
}

static void what_is_not_all_there_is_left_alone(void **state)
{
	struct ob_place place;

	assert_int_equal(collapse(0), 0); /* open */
	break_all();
	place = enter(0);
	ob_lift_chunk(bed->engine, &place);
	ob_lift_return(bed->engine, &place, place.chunk_first, OB_CHUNK_PAGES - 1);
	assert_int_equal(ob_chunk_collapse(bed->engine, &place), 0);
	ob_lift_return_all(bed->engine, &place);
	leave(&place);

	ob_engine_io_begin(bed->engine, ram->base, OB_PAGE_SIZE);
	assert_int_equal(collapse(0), 0);
	ob_engine_io_end(bed->engine, ram->base, OB_PAGE_SIZE);

	discard(7, 1);
	assert_int_equal(collapse(0), 0);
}

/* Read where nothing was, they are the kernel's: a few become pages of the chunk's own. */
static void the_kernels_pages_of_zeros_do_not_matter_if_they_are_few(void **state)
{
	break_all();
	discard(7, 1);
	discard(100, 40);
	discard(511, 1);
	discard(OB_CHUNK_PAGES + 3, 65);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(collapse(0), 1);
	assert_int_equal(collapse(1), -EBUSY);
	bed_assert_ok(bed, ram_check_all(ram));
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE);
	assert_int_equal(collapse(1), 1);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(bed_stats(bed).internal_errors, 0);
}

static void an_armed_chunk_is_left_alone_and_the_kernel_says_so_too(void **state)
{
	struct ob_place place;
	int r;

	if (!bed->engine->can_arm)
		skip();
	break_all();
	place = enter(2);
	bed_assert_ok(bed, ob_pagemap_arm(bed->engine->pagemap, ob_place_ram(&place, place.chunk_first), OB_PAGE_SIZE));
	place.chunk->armed = 1;
	assert_int_equal(ob_chunk_collapse(bed->engine, &place), 0);
	place.chunk->armed = 0;
	r = ob_chunk_collapse(bed->engine, &place);
	leave(&place);
	assert_int_equal(r, -EINVAL);
	ram_write_all(ram, PATTERN_INCOMPRESSIBLE); /* which disarms it */
	assert_int_equal(collapse(2), 1);
	bed_assert_ok(bed, ram_check_all(ram));
}

static int set_up_unaligned(void **state)
{
	return set_up_ram(ram_new_unaligned(CHUNKS * OB_CHUNK_PAGES, 0xc1, 40));
}

static void an_unaligned_chunk_is_left_alone(void **state)
{
	break_all();
	for (uint32_t i = 0; i < CHUNKS; i++)
		assert_int_equal(collapse(i), 0);
	bed_assert_ok(bed, ram_check_all(ram));
}

static void where_the_kernel_refuses_nothing_changes(void **state)
{
	struct ob_error err = { 0 };

	break_all();
	assert_int_equal(ob_fault_configure("madvise:1+:ENOMEM", &err), 0);
	assert_int_equal(collapse(3), -ENOMEM);
	assert_int_equal(ob_fault_configure("", &err), 0);
	assert_int_equal(large_in_ram(), 0);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(collapse(3), 1);
	bed_assert_ok(bed, ram_check_all(ram));
}

static void *writer(void *context)
{
	uint32_t page = (uint32_t)(uintptr_t)context;
	uintptr_t wrong = 0;

	while (__atomic_load_n(&writing, __ATOMIC_RELAXED)) {
		page = (page * 5 + 1) % ram->pages;
		ram_lock_range(ram, page, 1);
		wrong |= ram_check(ram, page) != 0;
		wrong |= ram_patch(ram, page) != 0;
		ram_unlock_range(ram, page, 1);
	}
	return (void *)wrong;
}

static void no_write_is_lost_while_chunks_are_broken_and_made_whole(void **state)
{
	unsigned rounds = (unsigned)bed_scale(20, 100, 2000), made = 0;
	pthread_t thread[WRITERS];
	void *wrong;

	__atomic_store_n(&writing, 1, __ATOMIC_RELAXED);
	for (uintptr_t i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, writer, (void *)i), 0);
	for (unsigned i = 0; i < rounds; i++) {
		struct ob_place place = enter(i % CHUNKS);

		if (break_it(&place))
			made += ob_chunk_collapse(bed->engine, &place) == 1;
		leave(&place);
	}
	__atomic_store_n(&writing, 0, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(thread[i], &wrong);
		assert_null(wrong);
	}
	print_message("# %u of %u made whole\n", made, rounds);
	assert_true(made > rounds / 2);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_int_equal(bed_stats(bed).internal_errors, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_broken_chunk_becomes_a_large_page_with_the_same_bytes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(it_survives_the_next_lift, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_not_all_there_is_left_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_kernels_pages_of_zeros_do_not_matter_if_they_are_few, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_armed_chunk_is_left_alone_and_the_kernel_says_so_too, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_unaligned_chunk_is_left_alone, set_up_unaligned, tear_down),
		cmocka_unit_test_setup_teardown(where_the_kernel_refuses_nothing_changes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_write_is_lost_while_chunks_are_broken_and_made_whole, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("engine_collapse", tests, NULL, NULL);
}
