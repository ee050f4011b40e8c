/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The canonical store: order, holds and their ends, seals, and what it says it takes. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/store.h"

static unsigned freed_count;
static uint64_t freed_lo;

static void on_freed(void *context, uint32_t slot, uint64_t lo, uint64_t hi)
{
	freed_count++;
	freed_lo = lo;
	assert_true(hi == lo + 1);
}

static uint8_t page[OB_STORE_PAGE];

static uint32_t fill(struct ob_store *store, uint8_t byte)
{
	uint32_t slot = UINT32_MAX;

	memset(page, byte, sizeof(page));
	assert_int_equal(ob_store_fill(store, page, byte, byte + 1ull, true, true, &slot), 0);
	return slot;
}

static void slots_come_in_order_and_go_with_their_last_hold(void **state)
{
	struct ob_store *store = ob_store_new(on_freed, NULL);
	struct ob_holder a = { 0 }, b = { 0 };
	uint32_t first = fill(store, 1), second = fill(store, 2), slot;
	uint64_t id = ob_store_id(store, first);

	freed_count = 0;
	assert_int_equal(second, first + 1);
	assert_int_equal(ob_store_id(store, second), id);
	assert_memory_equal(ob_store_bytes(store, second), page, sizeof(page));
	assert_int_equal(ob_store_hold(store, &a, first), 0);
	assert_int_equal(ob_store_hold(store, &a, first), 0);
	assert_int_equal(ob_store_hold(store, &b, first), 0);
	ob_store_unpin(store, first);
	assert_int_equal(ob_store_let_go(store, &b, second, 1), -EINVAL);
	assert_int_equal(ob_store_let_go(store, &b, first, 2), -EINVAL);
	assert_int_equal(ob_store_let_go(store, &b, first, 1), 0);
	assert_int_equal(ob_store_let_go(store, &a, first, 1), 0);
	assert_int_equal(freed_count, 0);
	assert_int_equal(ob_holder_count(&a, first), 1);
	assert_int_equal(ob_store_find(store, id, first % OB_STORE_SLOTS, &slot), 0);
	assert_int_equal(slot, first);
	assert_int_equal(ob_store_let_go(store, &a, first, 1), 0);
	assert_int_equal(freed_count, 1);
	assert_int_equal(freed_lo, 1);
	assert_int_equal(ob_store_find(store, id, first % OB_STORE_SLOTS, &slot), -ENOENT);
	assert_int_equal(ob_store_find(store, id, OB_STORE_SLOTS, &slot), -ENOENT);
	assert_int_equal(ob_store_find(store, id + 1, 0, &slot), -ENOENT);
	/* Without growth the slot that is free is used again. */
	assert_int_equal(ob_store_fill(store, page, 9, 10, false, false, &slot), 0);
	assert_int_equal(slot, first);
	assert_int_equal(ob_store_fill(store, page, 9, 10, false, false, &slot), -ENOSPC);
	assert_int_equal(ob_store_used_pages(store), 2);
	assert_int_equal(ob_store_memory_pages(store), 2);
	ob_store_let_go_all(store, &a);
	ob_store_let_go_all(store, &b);
	ob_store_free(store);
}

static void an_extent_without_holds_goes_when_all_have_been_told(void **state)
{
	struct ob_store *store = ob_store_new(on_freed, NULL);
	struct ob_holder a = { 0 };
	uint32_t slots[OB_STORE_SLOTS + 1], slot;
	uint64_t id, first;

	for (unsigned i = 0; i <= OB_STORE_SLOTS; i++)
		slots[i] = fill(store, (uint8_t)i);
	assert_int_equal(ob_store_extents(store), 2);
	first = ob_store_id(store, slots[0]);
	ob_store_set_told(store, slots[0], 7);
	ob_store_set_told(store, slots[0], 1023);
	assert_true(ob_store_is_told(store, slots[0], 7) && !ob_store_is_told(store, slots[0], 8));
	ob_store_reconnected(store, 7);
	assert_false(ob_store_is_told(store, slots[0], 7));
	assert_false(ob_store_next_closed(store, 7, &id));
	for (unsigned i = 0; i < OB_STORE_SLOTS; i++) {
		assert_int_equal(ob_store_hold(store, &a, slots[i]), 0);
		ob_store_unpin(store, slots[i]);
	}
	assert_int_equal(a.holds, OB_STORE_SLOTS);
	ob_store_let_go_all(store, &a);
	assert_int_equal(ob_store_used_pages(store), 1);
	/* Closed, and nothing of it is handed out; but it is memory still. */
	assert_int_equal(ob_store_memory_pages(store), OB_STORE_SLOTS + 1);
	slot = fill(store, 77);
	assert_int_equal(slot, slots[OB_STORE_SLOTS] + 1);
	assert_true(ob_store_next_closed(store, 7, &id));
	assert_true(id == first);
	ob_store_forget_told(store, 7, id);
	assert_false(ob_store_next_closed(store, 7, &id));
	assert_int_equal(ob_store_extents(store), 2);
	ob_store_forget_told(store, 1023, 0);
	assert_int_equal(ob_store_extents(store), 1);
	assert_int_equal(ob_store_memory_pages(store), 2);
	assert_false(ob_store_has(store, first));
	ob_store_free(store);
}

static void nobody_writes_to_what_was_sent(void **state)
{
	struct ob_store *store = ob_store_new(on_freed, NULL);
	uint32_t slot = fill(store, 5);
	int fd = ob_store_fd(store, slot), again;
	char path[64];
	void *base;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	assert_true(again >= 0);
	for (int i = 0; i < 2; i++) {
		int at = i ? again : fd;

		assert_int_equal(pwrite(at, "x", 1, 0), -1);
		assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, at, 0) == MAP_FAILED);
		assert_int_equal(ftruncate(at, 4096), -1);
		assert_int_equal(ftruncate(at, 32 << 20), -1);
		assert_int_equal(fallocate(at, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
		assert_int_equal(fcntl(at, F_ADD_SEALS, F_SEAL_WRITE), -1);
		base = mmap(NULL, 4096, PROT_READ, MAP_SHARED, at, 0);
		assert_true(base != MAP_FAILED);
		assert_int_equal(mprotect(base, 4096, PROT_READ | PROT_WRITE), -1);
		assert_int_equal(madvise(base, 4096, MADV_REMOVE), -1);
		assert_memory_equal(base, page, 4096);
		munmap(base, 4096);
	}
	close(again);
	/* overbookd itself goes on. */
	fill(store, 6);
	ob_store_free(store);
}

static void what_is_not_claimed_is_let_go_of(void **state)
{
	struct ob_store *store = ob_store_new(on_freed, NULL);
	struct ob_holder a = { 0 }, b = { 0 }, claim = { 0 };
	uint32_t slots[100];

	for (unsigned i = 0; i < OB_ARRAY_LEN(slots); i++) {
		slots[i] = fill(store, (uint8_t)i);
		for (unsigned holds = 0; holds < 3; holds++)
			assert_int_equal(ob_store_hold(store, &a, slots[i]), 0);
		if (i % 2)
			assert_int_equal(ob_store_hold(store, &b, slots[i]), 0);
		ob_store_unpin(store, slots[i]);
	}
	/* Never more than is counted, in one piece or in several. */
	assert_int_equal(ob_store_claim(&a, &claim, slots[0], 4), -EINVAL);
	assert_int_equal(ob_store_claim(&a, &claim, slots[0], UINT32_MAX), -EINVAL);
	assert_int_equal(ob_store_claim(&b, &claim, slots[0], 1), -EINVAL);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(ob_store_claim(&a, &claim, slots[i], 2), 0);
	assert_int_equal(ob_store_claim(&a, &claim, slots[7], 2), -EINVAL);
	assert_int_equal(ob_store_claim(&a, &claim, slots[7], UINT32_MAX), -EINVAL);
	assert_int_equal(ob_store_claim(&a, &claim, slots[7], 1), 0);
	/* What was let go of since then is not missed. */
	assert_int_equal(ob_store_let_go(store, &a, slots[8], 2), 0);
	freed_count = 0;
	assert_int_equal(ob_store_settle(store, &a, &claim, false), 50 * 3 + 48);
	assert_int_equal(freed_count, 25);
	assert_int_equal(ob_holder_count(&a, slots[7]), 3);
	assert_int_equal(ob_holder_count(&a, slots[8]), 1);
	assert_int_equal(ob_holder_count(&a, slots[9]), 2);
	assert_int_equal(ob_holder_count(&a, slots[99]), 0);
	assert_int_equal(a.holds, 50 * 2);
	assert_int_equal(b.holds, 50);
	assert_int_equal(ob_store_used_pages(store), 75);
	assert_int_equal(ob_store_worn_pages(store), 0);
	/* Of a machine that maps it is worn. */
	ob_claim_clear(&claim);
	assert_int_equal(ob_store_settle(store, &a, &claim, true), 100);
	assert_int_equal(a.holds, 0);
	assert_int_equal(ob_store_used_pages(store), 50);
	assert_int_equal(ob_store_worn_pages(store), 25);
	ob_store_let_go_all(store, &a);
	ob_store_let_go_all(store, &b);
	ob_store_free(store);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Many holders and slots at random, beside a table of what must be so. */
static void a_model_agrees(void **state)
{
	enum { HOLDERS = 5, SLOTS = 3 * OB_STORE_SLOTS };
	static uint32_t held[HOLDERS][SLOTS];
	struct ob_store *store = ob_store_new(on_freed, NULL);
	struct ob_holder holder[HOLDERS] = { 0 };
	uint64_t seed = 88172645463325252ull, used = 0;

	for (unsigned step = 0; step < 100000; step++) {
		uint64_t r = random_next(&seed);
		unsigned who = (unsigned)(r % HOLDERS), sum = 0;
		uint32_t slot;

		if (step % 4 == 0) {
			if (ob_store_fill(store, page, step, step + 1, true, ob_store_extents(store) < 3, &slot) < 0)
				continue;
			for (unsigned i = 0; i < HOLDERS; i++)
				assert_int_equal(held[i][slot], 0);
			assert_int_equal(ob_store_hold(store, &holder[who], slot), 0);
			ob_store_unpin(store, slot);
			held[who][slot]++;
			used++;
			continue;
		}
		slot = (uint32_t)(r >> 8) % SLOTS;
		for (unsigned i = 0; i < HOLDERS; i++)
			sum += held[i][slot];
		if (sum && r >> 60 < 7) {
			assert_int_equal(ob_store_hold(store, &holder[who], slot), 0);
			held[who][slot]++;
		} else if (step % 20000 == 1) {
			ob_store_let_go_all(store, &holder[who]);
			for (unsigned i = 0; i < SLOTS; i++) {
				sum = 0;
				for (unsigned h = 0; h < HOLDERS; h++)
					sum += held[h][i];
				used -= sum && sum == held[who][i];
				held[who][i] = 0;
			}
		} else {
			assert_int_equal(ob_store_let_go(store, &holder[who], slot, 1), held[who][slot] ? 0 : -EINVAL);
			used -= held[who][slot] && sum == 1;
			held[who][slot] -= held[who][slot] != 0;
		}
		assert_int_equal(ob_store_used_pages(store), used);
	}
	for (unsigned i = 0; i < HOLDERS; i++)
		ob_store_let_go_all(store, &holder[i]);
	assert_int_equal(ob_store_used_pages(store), 0);
	assert_int_equal(ob_store_memory_pages(store), 0);
	ob_store_free(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots_come_in_order_and_go_with_their_last_hold),
		cmocka_unit_test(an_extent_without_holds_goes_when_all_have_been_told),
		cmocka_unit_test(nobody_writes_to_what_was_sent),
		cmocka_unit_test(what_is_not_claimed_is_let_go_of),
		cmocka_unit_test(a_model_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
