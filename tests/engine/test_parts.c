/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The engine's parts by themselves: slots of the swap store, its queue, the compressed pool. */
#include "bed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/fault.h"
#include "engine/chances.h"
#include "engine/content.h"
#include "engine/pool.h"
#include "engine/pool_size.h"
#include "engine/scan_balance.h"
#include "engine/swap.h"
#include "engine/swap_io.h"
#include "engine/warmth.h"
#include "kern/memory.h"

#define PAGE 4096u

static int64_t tables_bytes, pool_cost_bytes;

static void count_tables(void *context, int64_t delta)
{
	tables_bytes += delta;
}

static void count_pool(void *context, int64_t delta)
{
	pool_cost_bytes += delta;
}

/* Slots. ------------------------------------------------------------------------------------------------------------ */

static struct ob_swap *open_store(void)
{
	struct ob_hash_key key;
	struct ob_swap *swap = NULL;
	struct ob_error err = { 0 };

	tables_bytes = 0;
	assert_int_equal(ob_hash_key_draw(&key), 0);
	assert_int_equal(ob_swap_create(bed_dir(), &key, count_tables, NULL, &swap, &err), 0);
	return swap;
}

static void slots_come_in_runs_and_are_never_handed_out_twice(void **state)
{
	struct ob_swap *swap = open_store();
	static uint8_t taken[3 * 4096];
	uint32_t slot = 0, total = 0;
	uint64_t random = 7;

	assert_int_equal(ob_swap_alloc(swap, 64, &slot), -ENOSPC);
	memset(taken, 0, sizeof(taken));
	for (int round = 0; round < 2000; round++) {
		int n;

		ob_swap_prepare(swap, 128);
		n = ob_swap_alloc(swap, 1 + (uint32_t)(rand_r(&(unsigned){ (unsigned)random++ }) % 64), &slot);
		assert_true(n > 0 && slot + (uint32_t)n <= sizeof(taken));
		for (int i = 0; i < n; i++)
			assert_int_equal(taken[slot + (uint32_t)i]++, 0);
		total += (uint32_t)n;
		/* Holes all over, some of them wide. */
		for (uint32_t i = (uint32_t)round % 5; total > 4000 && i < sizeof(taken); i += 1 + (uint32_t)round % 3) {
			if (!taken[i])
				continue;
			ob_swap_free(swap, i);
			taken[i] = 0;
			total--;
		}
	}
	for (uint32_t i = 0; i < sizeof(taken); i++)
		if (taken[i])
			ob_swap_free(swap, i);
	ob_swap_trim(swap);
	assert_true(ob_swap_file_bytes(swap) <= 16 * OB_MIB);
	ob_swap_destroy(swap);
}

/* The queue. -------------------------------------------------------------------------------------------------------- */

static void *pages(unsigned n)
{
	void *memory = NULL;

	assert_int_equal(ob_memory_reserve(n * PAGE, 0, &memory), 0);
	return memory;
}

/* Starts a request and waits for it. */
static int run(struct ob_swap_queue *queue, struct ob_swap_request *request)
{
	if (!ob_swap_start(queue, request))
		assert_ptr_equal(ob_swap_wait(queue), request);
	return request->result;
}

static void round_trip(struct ob_swap *swap, struct ob_swap_queue *queue)
{
	struct ob_swap_request requests[16];
	unsigned char *memory = pages(16 * 8), *back = pages(8);
	uint32_t slot = 0;
	unsigned under_way = 0;

	for (unsigned i = 0; i < 16; i++) {
		ob_swap_prepare(swap, 64);
		assert_int_equal(ob_swap_alloc(swap, 8, &slot), 8);
		memset(memory + i * 8 * PAGE, (int)i + 1, 8 * PAGE);
		requests[i] = (struct ob_swap_request){ .slot = slot, .pages = 8, .write = 1, .buffer = memory + i * 8 * PAGE };
		under_way += !ob_swap_start(queue, &requests[i]);
	}
	while (ob_swap_wait(queue))
		under_way--;
	assert_int_equal(under_way, 0);
	for (unsigned i = 0; i < 16; i++) {
		struct ob_swap_request read = { .slot = requests[i].slot, .pages = 8, .buffer = back };

		assert_int_equal(requests[i].result, 0);
		assert_int_equal(run(queue, &read), 0);
		assert_memory_equal(back, memory + i * 8 * PAGE, 8 * PAGE);
		for (uint32_t s = 0; s < 8; s++)
			ob_swap_free(swap, requests[i].slot + s);
	}
	ob_memory_unreserve(memory, 16 * 8 * PAGE);
	ob_memory_unreserve(back, 8 * PAGE);
}

static void what_is_written_comes_back_with_a_ring_and_without(void **state)
{
	struct ob_swap *swap = open_store();
	struct ob_swap_queue *queue = NULL;

	assert_int_equal(ob_swap_queue_create(swap, 4, &queue), 0);
	round_trip(swap, queue);
	ob_swap_queue_destroy(queue);
	assert_int_equal(ob_fault_configure("ring_create:1+:EPERM", NULL), 0);
	assert_int_equal(ob_swap_queue_create(swap, 4, &queue), 0);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(ob_swap_queue_event(queue), -1);
	round_trip(swap, queue);
	ob_swap_queue_destroy(queue);
	ob_swap_destroy(swap);
}

static void requests_fail_as_they_are_told_to(void **state)
{
	static const struct {
		const char *rule;
		int write, result;
	} cases[] = {
		{ "swap_read:1:EIO", 0, -EIO },      { "swap_read:1:short", 0, -ENODATA }, { "swap_read:1:flip", 0, 0 },
		{ "swap_write:1:ENOSPC", 1, -ENOSPC }, { "swap_write:1:short", 1, -EIO },
	};
	struct ob_swap *swap = open_store();
	struct ob_swap_queue *queue = NULL;
	unsigned char *memory = pages(1);
	uint32_t slot = 0;

	assert_int_equal(ob_swap_queue_create(swap, 4, &queue), 0);
	ob_swap_prepare(swap, 1);
	assert_int_equal(ob_swap_alloc(swap, 1, &slot), 1);
	for (size_t i = 0; i < OB_ARRAY_LEN(cases); i++) {
		struct ob_swap_request request = { .slot = slot, .pages = 1, .write = 1, .buffer = memory };

		memset(memory, 0x5a, PAGE);
		assert_int_equal(run(queue, &request), 0);
		assert_int_equal(ob_fault_configure(cases[i].rule, NULL), 0);
		request.write = cases[i].write;
		assert_int_equal(run(queue, &request), cases[i].result);
		assert_int_equal(memory[1234], strstr(cases[i].rule, "flip") ? 0x5a ^ 4 : 0x5a);
		assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	}
	ob_swap_free(swap, slot);
	ob_swap_queue_destroy(queue);
	ob_memory_unreserve(memory, PAGE);
	ob_swap_destroy(swap);
}

/* The pool. --------------------------------------------------------------------------------------------------------- */

#define OBJECTS 4096u

static void fill_object(unsigned char *bytes, uint32_t i, unsigned length)
{
	for (unsigned k = 0; k < length; k++)
		bytes[k] = (unsigned char)(i * 31 + k);
}

static void objects_keep_their_bytes_and_spans_come_back(void **state)
{
	static uint32_t handles[OBJECTS];
	static uint16_t lengths[OBJECTS];
	unsigned char bytes[OB_COMPRESSED_MAX];
	struct ob_pool *pool = NULL;
	unsigned seed = 3;

	pool_cost_bytes = 0;
	assert_int_equal(ob_pool_create(64 * OB_MIB, ob_memory_self(), count_pool, NULL, &pool), 0);
	memset(lengths, 0, sizeof(lengths));
	for (unsigned round = 0; round < 8 * OBJECTS; round++) {
		uint32_t i = (uint32_t)rand_r(&seed) % OBJECTS;

		if (lengths[i]) {
			unsigned length;
			const void *data = ob_pool_load(pool, handles[i], &length);

			fill_object(bytes, i, lengths[i]);
			assert_int_equal(length, lengths[i]);
			assert_memory_equal(data, bytes, length);
			ob_pool_free(pool, handles[i]);
			lengths[i] = 0;
			continue;
		}
		lengths[i] = (uint16_t)(1 + (unsigned)rand_r(&seed) % OB_COMPRESSED_MAX);
		fill_object(bytes, i, lengths[i]);
		assert_int_equal(ob_pool_store(pool, i, bytes, lengths[i], 64 * OB_MIB, &handles[i]), 0);
	}
	for (uint32_t i = 0; i < OBJECTS; i++)
		if (lengths[i])
			ob_pool_free(pool, handles[i]);
	ob_pool_trim(pool);
	assert_int_equal(ob_pool_bytes(pool), 0);
	ob_pool_destroy(pool);
}

static void a_pool_stays_below_what_it_may_take(void **state)
{
	unsigned char bytes[OB_COMPRESSED_MAX] = { 1 };
	struct ob_pool *pool = NULL;
	uint32_t handle, last = 0;
	unsigned n = 0;

	pool_cost_bytes = 0;
	assert_int_equal(ob_pool_create(64 * OB_MIB, -1, count_pool, NULL, &pool), 0);
	for (; ob_pool_store(pool, n, bytes, OB_COMPRESSED_MAX, OB_MIB, &handle) == 0; n++)
		last = handle;
	assert_true(n >= 32 * 10 && ob_pool_bytes(pool) <= OB_MIB);
	ob_pool_free(pool, last);
	assert_int_equal(ob_pool_store(pool, n, bytes, OB_COMPRESSED_MAX, OB_MIB, &handle), 0);
	ob_pool_destroy(pool);
}

static void a_small_pool_wastes_little(void **state)
{
	static char bytes[OB_COMPRESSED_MAX];
	uint64_t random = 1, held = 0;
	struct ob_pool *pool = NULL;
	uint32_t handle;

	(void)state;
	assert_int_equal(ob_pool_create(64 * OB_MIB, -1, count_pool, NULL, &pool), 0);
	for (unsigned n = 0;; n++) {
		unsigned length = 400 + (random = random * 6364136223846793005u + 1442695040888963407u, random >> 33) % (OB_COMPRESSED_MAX - 400);

		if (ob_pool_store(pool, n, bytes, length, OB_MIB, &handle) < 0)
			break;
		held += length;
	}
	assert_true(held >= OB_MIB * 2 / 3);
	ob_pool_destroy(pool);
}

/* The kernel takes no span back: they are kept, counted, and used again before any other. */
static void spans_that_stay_are_used_again(void **state)
{
	unsigned char bytes[OB_COMPRESSED_MAX] = { 1 };
	static uint32_t handles[1000];
	struct ob_pool *pool = NULL;
	uint64_t full;

	pool_cost_bytes = 0;
	assert_int_equal(ob_pool_create(64 * OB_MIB, -1, count_pool, NULL, &pool), 0);
	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 1000; i++)
			assert_int_equal(ob_pool_store(pool, i, bytes, 2048, 64 * OB_MIB, &handles[i]), 0);
		full = ob_pool_bytes(pool);
		assert_int_equal(ob_fault_configure("madvise:1+:ENOMEM", NULL), 0);
		for (unsigned i = 0; i < 1000; i++)
			ob_pool_free(pool, handles[i]);
		assert_int_equal(ob_fault_configure(NULL, NULL), 0);
		assert_int_equal(ob_pool_bytes(pool), full);
		assert_true(pool_cost_bytes >= (int64_t)full);
	}
	ob_pool_destroy(pool);
}

/* Ten spans of 17 objects, the oldest three of which are far. */
static void what_comes_back_soon_or_from_the_oldest_spans_is_counted(void **state)
{
	unsigned char bytes[OB_COMPRESSED_MAX] = { 1 };
	struct ob_pool *pool = NULL;
	struct ob_pool_reuse reuse;
	uint32_t handles[160];

	pool_cost_bytes = 0;
	assert_int_equal(ob_pool_create(64 * OB_MIB, -1, count_pool, NULL, &pool), 0);
	for (unsigned i = 0; i < 160; i++)
		assert_int_equal(ob_pool_store(pool, i, bytes, 1900, 64 * OB_MIB, &handles[i]), 0);
	ob_pool_watch(pool, 20, 3 * 32768);
	for (unsigned i = 0; i < 160; i += 4)
		ob_pool_touched(pool, handles[i]);
	ob_pool_reuse(pool, &reuse);
	assert_int_equal(reuse.near, 5);
	assert_int_equal(reuse.far, 13); /* of 51 every fourth */
	/* What takes the place of another one in an old span has not been there for long. */
	ob_pool_free(pool, handles[4]);
	assert_int_equal(ob_pool_store(pool, 4, bytes, 1900, 64 * OB_MIB, &handles[4]), 0);
	ob_pool_touched(pool, handles[4]);
	ob_pool_reuse(pool, &reuse);
	assert_int_equal(reuse.near, 6);
	assert_int_equal(reuse.far, 13);
	/* What is made from now on is newer than that; and it is what others are measured against. */
	for (unsigned i = 0; i < 160; i++)
		ob_pool_free(pool, handles[i]);
	ob_pool_watch(pool, 20, 3 * 32768);
	for (unsigned i = 0; i < 160; i++)
		assert_int_equal(ob_pool_store(pool, i, bytes, 1900, 64 * OB_MIB, &handles[i]), 0);
	for (unsigned i = 0; i < 160; i++)
		ob_pool_touched(pool, handles[i]);
	ob_pool_reuse(pool, &reuse);
	assert_int_equal(reuse.near, 20);
	assert_int_equal(reuse.far, 0);
	ob_pool_destroy(pool);
}

static void the_pool_is_as_large_as_it_is_worth(void **state)
{
	static const struct {
		struct ob_pool_seen seen;
		int wish;
	} cases[] = {
		{ { .near = 20, .far = 3, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, 0 },    /* too few to say */
		{ { .near = 3, .far = 20, .back = 23, .bench = 23, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, 0 },
		{ { .near = 3, .far = 20, .back = 24, .bench = 24, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, 0 },
		{ { .near = 3, .far = 20, .back = 23, .bench = 24, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, -1 }, /* while what is in use is lifted */
		{ { .near = 100, .far = 100, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, 1 },
		{ { .near = 100, .far = 100, .stored = 100, .unpack_ns = 10, .read_ns = 20 }, 0 },
		{ { .near = 100, .far = 5, .stored = 100, .unpack_ns = 10, .read_ns = 100 }, -1 },
		{ { .near = 100, .far = 100, .stored = 100, .past = 200, .unpack_ns = 10, .read_ns = 100 }, -1 }, /* two reads for each */
		{ { .near = 100, .far = 100, .stored = 100, .bench = 500, .bench_ns = 50, .unpack_ns = 10, .read_ns = 100 }, -1 }, /* many lifted in vain */
		{ { .near = 0, .far = 100, .stored = 0, .unpack_ns = 10, .read_ns = 100 }, 1 },
		{ { .near = 100, .far = 0, .stored = 100, .unpack_ns = 100, .read_ns = 100 }, 0 },  /* storage that costs nothing, or is not known */
	};

	for (unsigned i = 0; i < OB_ARRAY_LEN(cases); i++)
		assert_int_equal(ob_pool_size_wish(&cases[i].seen), cases[i].wish);
}

/* Of 16 passes, how many lift it. */
static unsigned lifts(uint64_t word, unsigned page)
{
	unsigned n = 0;

	for (unsigned pass = 250; pass < 266; pass++)
		n += !ob_chances_is_left(word, page, (uint8_t)pass);
	return n;
}

static void the_hand_passes_by_what_came_back(void **state)
{
	uint64_t word = OB_PAGE_RESIDENT | OB_PAGE_CACHED | ob_page_with_slot(77) | ob_warmth_bits(OB_WARMTH_MOST, 123 * OB_NS_PER_SEC);
	const uint64_t before = word;

	for (unsigned chances = 0; chances <= OB_CHANCES_MOST; chances++) {
		assert_int_equal(ob_chances_of(word), chances);
		for (unsigned page = 0; page < OB_CHUNK_PAGES; page += 7)
			assert_int_equal(lifts(word, page), 16 >> chances);
		word = ob_chances_more(word);
	}
	assert_int_equal(ob_chances_of(word), OB_CHANCES_MOST);
	/* The rest of the word is what it was. */
	assert_int_equal(word - before, ob_page_with_handle(OB_CHANCES_MOST << OB_CHANCES_SHIFT));
	assert_int_equal(ob_chances_none(word), before);
	assert_int_equal(ob_warmth_of(word), OB_WARMTH_MOST);
	assert_int_equal(ob_warmth_age_ns(word, 124 * OB_NS_PER_SEC), ob_warmth_age_ns(before, 124 * OB_NS_PER_SEC));
	/* Neighbours have their turns together, and not all at once. */
	for (unsigned page = 0; page < OB_CHUNK_PAGES; page++)
		assert_int_equal(ob_chances_is_left(word, page, 3), ob_chances_is_left(word, page / OB_CHANCES_GROUP * OB_CHANCES_GROUP, 3));
	assert_int_not_equal(ob_chances_is_left(word, 5 * OB_CHANCES_GROUP, 3), ob_chances_is_left(word, 6 * OB_CHANCES_GROUP, 3));
}

static int64_t after(unsigned seconds, int64_t balance, uint64_t faults, uint64_t found, uint64_t ram_bytes)
{
	while (seconds--)
		balance = ob_scan_balance(balance, faults, found, ram_bytes);
	return balance;
}

static void the_scanner_pays_for_its_faults(void **state)
{
	const uint64_t ram = 256 * OB_MIB;

	assert_true(after(1, 0, 1, 0, ram) < 0);
	assert_true(after(1, 0, 1, 4, ram) >= 0);
	/* One chunk that came back whole: a guest of this size is spared for two minutes, and then no longer. */
	assert_true(after(100, after(1, 0, 64, 0, ram), 0, 0, ram) < 0);
	assert_true(after(130, after(1, 0, 64, 0, ram), 0, 0, ram) >= 0);
	/* The same of a large guest. */
	assert_true(after(2, after(1, 0, 64, 0, 64 * OB_GIB), 0, 0, 64 * OB_GIB) >= 0);
	/* However many there were; and what was saved up is not for ever. */
	assert_true(after(599, after(1000, 0, 1000, 0, ram), 0, 0, ram) < 0);
	assert_true(after(600, after(1000, 0, 1000, 0, ram), 0, 0, ram) >= 0);
	assert_true(after(1, after(100000, 0, 0, 512, ram), 70, 0, ram) < 0);
	/* What is found pays for what it takes, a fault now and then for nothing. */
	assert_true(after(1000, 0, 10, 76, ram) >= 0);
	assert_true(after(1000, 0, 10, 70, ram) < 0);
	assert_true(after(1, after(100000, 0, 0, 0, ram), 1, 0, ram) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots_come_in_runs_and_are_never_handed_out_twice),
		cmocka_unit_test(what_is_written_comes_back_with_a_ring_and_without),
		cmocka_unit_test(requests_fail_as_they_are_told_to),
		cmocka_unit_test(objects_keep_their_bytes_and_spans_come_back),
		cmocka_unit_test(a_pool_stays_below_what_it_may_take),
		cmocka_unit_test(a_small_pool_wastes_little),
		cmocka_unit_test(spans_that_stay_are_used_again),
		cmocka_unit_test(what_comes_back_soon_or_from_the_oldest_spans_is_counted),
		cmocka_unit_test(the_pool_is_as_large_as_it_is_worth),
		cmocka_unit_test(the_hand_passes_by_what_came_back),
		cmocka_unit_test(the_scanner_pays_for_its_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
