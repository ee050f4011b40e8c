/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Zeros in memory that is in no region: they go, and all else stays what it is, whoever uses it meanwhile and whatever fails. */
#include "bed.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "account.h"
#include "base/clock.h"
#include "base/fault.h"
#include "engine/page.h"
#include "pin.h"

#define CHUNKS  3u
#define PAGES   (CHUNKS * OB_CHUNK_PAGES)
#define FIRST   3u                 /* pages before the block, and behind it: neither end is a large page's */
#define BLOCK   (PAGES - 2 * FIRST)
#define WRITERS 3u

static struct bed *bed;
static char *memory, *block;
static int stop;

static unsigned io_inflight;

static int drop(void *base, size_t length)
{
	return ob_engine_drop_zeros(bed->engine, base, length, &io_inflight);
}

static int set_up(void **state)
{
	bed = bed_new(0, 0);
	memory = aligned_alloc(OB_CHUNK_SIZE, PAGES * OB_PAGE_SIZE);
	assert_non_null(memory);
	block = memory + FIRST * OB_PAGE_SIZE;
	return 0;
}

static int tear_down(void **state)
{
	free(memory);
	bed_free(bed);
	return 0;
}

static void empty(int advice)
{
	assert_int_equal(madvise(memory, PAGES * OB_PAGE_SIZE, MADV_DONTNEED), 0);
	assert_int_equal(madvise(memory, PAGES * OB_PAGE_SIZE, advice), 0);
}

/* What a page holds: nothing at all, zeros, one byte in 4096, or much. */
static unsigned kind_of(unsigned page)
{
	return page % 7 < 4 ? page % 7 : page / 64 % 4;
}

static void fill(void)
{
	for (unsigned page = 0; page < BLOCK; page++) {
		char *at = block + page * OB_PAGE_SIZE;

		if (kind_of(page) == 1)
			memset(at, 0, OB_PAGE_SIZE);
		else if (kind_of(page) == 2)
			at[OB_PAGE_SIZE - 1] = 1;
		else if (kind_of(page) == 3)
			for (unsigned i = 0; i < OB_PAGE_SIZE / 4; i++)
				((uint32_t *)(void *)at)[i] = page * 4096 + i;
	}
}

static unsigned has_bytes(void)
{
	static char filled[BLOCK][OB_PAGE_SIZE];
	char *real = block;
	unsigned pages = 0;

	block = filled[0];
	fill();
	block = real;
	for (unsigned page = 0; page < BLOCK; page++) {
		assert_memory_equal(block + page * OB_PAGE_SIZE, filled[page], OB_PAGE_SIZE);
		pages += kind_of(page) >= 2;
	}
	return pages;
}

/* In RAM, by the kernel's account. The kernel's own page of zeros is not. */
static uint64_t pages_in_ram(int *ret_is_registered)
{
	struct account_mapping mapping;

	assert_int_equal(account_mapping(block, BLOCK * OB_PAGE_SIZE, &mapping), 0);
	*ret_is_registered = mapping.is_registered;
	return mapping.pss_bytes / OB_PAGE_SIZE;
}

static uint64_t resident_pages(void)
{
	int is_registered;
	uint64_t pages = pages_in_ram(&is_registered);

	assert_int_equal(is_registered, 0);
	return pages;
}

static void zeros_go_and_all_else_stays(void **state)
{
	static const int advice[] = { MADV_NOHUGEPAGE, MADV_HUGEPAGE };

	for (size_t i = 0; i < OB_ARRAY_LEN(advice); i++) {
		uint64_t before;

		empty(advice[i]);
		fill();
		before = resident_pages();
		assert_int_equal(drop(block, BLOCK * OB_PAGE_SIZE), 0);
		assert_true(resident_pages() < before);
		/* What is beside the block in a large page of it is not looked at. */
		assert_in_range(resident_pages(), 0, has_bytes() + 2 * FIRST);
		/* Again, with little to be done. */
		assert_int_equal(drop(block, BLOCK * OB_PAGE_SIZE), 0);
		assert_in_range(resident_pages(), 0, has_bytes() + 2 * FIRST);
	}
	assert_int_equal(drop(block + 1, OB_PAGE_SIZE), -EINVAL);
	assert_int_equal(drop(block, OB_PAGE_SIZE - 1), -EINVAL);
}

/* Each has a word of its own in every page, and knows what is in it; zero half of the time, so that whole pages are. */
static void *use(void *number)
{
	unsigned me = (unsigned)(uintptr_t)number;
	uint64_t *known = calloc(BLOCK, sizeof(*known)), seed = 88172645463325252ull + me, uses = 0;
	int is_wrong = 0;

	for (; !__atomic_load_n(&stop, __ATOMIC_ACQUIRE); uses++) {
		unsigned page;
		volatile uint64_t *word;

		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		page = (unsigned)(seed % BLOCK);
		word = (volatile uint64_t *)(void *)(block + page * OB_PAGE_SIZE) + me * 100;
		is_wrong |= *word != known[page];
		known[page] = seed >> 40 & 1 ? seed : 0;
		*word = known[page];
	}
	for (unsigned page = 0; page < BLOCK; page++)
		is_wrong |= ((uint64_t *)(void *)(block + page * OB_PAGE_SIZE))[me * 100] != known[page];
	free(known);
	return is_wrong || !uses ? number : NULL;
}

static void who_uses_it_meanwhile_notices_nothing(void **state)
{
	uint64_t end = ob_now_ns() + bed_scale(1, 5, 60) * OB_NS_PER_SEC;
	pthread_t thread[WRITERS];
	void *wrong;

	empty(MADV_HUGEPAGE);
	stop = 0;
	for (uintptr_t i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, use, (void *)(i + 1)), 0);
	while (ob_now_ns() < end)
		assert_int_equal(drop(block, BLOCK * OB_PAGE_SIZE), 0);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < WRITERS; i++) {
		assert_int_equal(pthread_join(thread[i], &wrong), 0);
		assert_null(wrong);
	}
	assert_true(resident_pages() > 0);
}

/* A device may be about to write what it holds. */
static void what_is_pinned_stays(void **state)
{
	unsigned char there[2] = { 0 };
	int pin;

	empty(MADV_NOHUGEPAGE);
	memset(block, 0, 4 * OB_PAGE_SIZE);
	pin = pin_hold(block + OB_PAGE_SIZE, 2 * OB_PAGE_SIZE);
	if (pin < 0)
		skip();
	assert_int_equal(drop(block, 4 * OB_PAGE_SIZE), 0);
	assert_int_equal(mincore(block + OB_PAGE_SIZE, 2 * OB_PAGE_SIZE, there), 0);
	assert_true(there[0] & there[1] & 1);
	assert_int_equal(resident_pages(), 2);
	pin_release(pin);
	assert_int_equal(drop(block, 4 * OB_PAGE_SIZE), 0);
	assert_int_equal(resident_pages(), 0);
}

static void *drop_in_background(void *unused)
{
	return (void *)(intptr_t)drop(block, BLOCK * OB_PAGE_SIZE);
}

/* What has begun before holds pages in a way that nobody sees; what turns out to have begun while they were being moved as well. */
static void while_there_is_io_nothing_goes(void **state)
{
	int is_registered;
	uint64_t before;
	pthread_t thread;
	void *result;

	empty(MADV_NOHUGEPAGE);
	fill();
	before = resident_pages();
	io_inflight = 1;
	assert_int_equal(drop(block, BLOCK * OB_PAGE_SIZE), -EBUSY);
	assert_int_equal(resident_pages(), before);
	__atomic_store_n(&io_inflight, 0, __ATOMIC_SEQ_CST);
	/* The first piece, all of it moved aside, and no further. */
	assert_int_equal(ob_fault_configure("uffd_unregister:1+:ENOMEM", NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, drop_in_background, NULL), 0);
	while (pages_in_ram(&is_registered) > before - 64)
		;
	__atomic_store_n(&io_inflight, 1, __ATOMIC_SEQ_CST);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_int_equal((intptr_t)result, -EBUSY); /* of the next piece */
	assert_int_equal(resident_pages(), before);
	has_bytes();
	io_inflight = 0;
}

static void what_cannot_be_moved_is_left_alone(void **state)
{
	char *shared = mmap(NULL, OB_CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), byte = 1;

	assert_ptr_not_equal(shared, MAP_FAILED);
	for (unsigned i = 0; i < OB_CHUNK_SIZE; i++)
		shared[i] = (char)(i / OB_PAGE_SIZE % 2 ? i : 0);
	(void)!drop(shared, OB_CHUNK_SIZE);
	for (unsigned i = 0; i < OB_CHUNK_SIZE; i++)
		byte &= shared[i] == (char)(i / OB_PAGE_SIZE % 2 ? i : 0);
	assert_int_equal(byte, 1);
	munmap(shared, OB_CHUNK_SIZE);
	(void)!drop(shared, OB_CHUNK_SIZE);
}

/* The Nth time, or each Nth. */
static void whatever_fails_no_byte_is_lost(void **state)
{
	static const char *const faults[] = {
		"userfaultfd:%u:ENOMEM", "uffd_register:%u:ENOMEM", "uffd_unregister:%u:ENOMEM", "uffd_move:%u:ENOMEM", "uffd_move:%u:EBUSY",
		"uffd_move:%u:EINVAL", "uffd_move:%u:denied", "uffd_move:/%u:EBUSY", "uffd_move:/%u:denied", "uffd_move:/%u:EBUSY,uffd_copy:/2:ENOMEM",
		"pagemap_scan:%u:EIO", "uffd_move:/%u:denied,pagemap_scan:/3:EIO", "mmap:%u:ENOMEM",
	};
	struct ob_error err = { 0 };
	char spec[80];

	for (size_t i = 0; i < OB_ARRAY_LEN(faults); i++)
		for (unsigned n = 1; n < 12; n++) {
			empty(n % 2 ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
			fill();
			snprintf(spec, sizeof(spec), faults[i], n + (strchr(faults[i], '/') != NULL));
			assert_int_equal(ob_fault_configure(spec, &err), 0);
			(void)!drop(block, BLOCK * OB_PAGE_SIZE);
			assert_int_equal(ob_fault_configure("", &err), 0);
			has_bytes();
			assert_true(resident_pages() > 0);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(zeros_go_and_all_else_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(who_uses_it_meanwhile_notices_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_pinned_stays, set_up, tear_down),
		cmocka_unit_test_setup_teardown(while_there_is_io_nothing_goes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_cannot_be_moved_is_left_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(whatever_fails_no_byte_is_lost, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
