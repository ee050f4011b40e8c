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

static uint64_t opened_id, gone_id;
static unsigned gone_count;

static void on_opened(void *context, uint64_t id, int fd)
{
	opened_id = id;
	assert_true(fd >= 0);
}

static void on_gone(void *context, uint64_t id)
{
	gone_id = id;
	gone_count++;
}

static const struct ob_store_events events = { on_freed, on_opened, on_gone };
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
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 }, b = { 0 };
	uint32_t first = fill(store, 1), second = fill(store, 2), slot;
	uint64_t id = ob_store_id(store, first);

	freed_count = 0;
	assert_int_equal(second, first + 1);
	assert_int_equal(ob_store_id(store, second), id);
	assert_memory_equal(ob_store_bytes(store, second), page, sizeof(page));
	assert_int_equal(ob_store_hold(store, &a, first, 1), 0);
	assert_int_equal(ob_store_hold(store, &a, first, 1), 0);
	assert_int_equal(ob_store_hold(store, &b, first, 1), 0);
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
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
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
		assert_int_equal(ob_store_hold(store, &a, slots[i], 1), 0);
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
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
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

/* Machines have many pages alike, or few slots of many extents. */
static void a_slot_is_held_as_often_as_it_likes(void **state)
{
	static const uint32_t counts[] = { 1, 254, 255, 256, 65536, OB_STORE_HOLDS_MOST };
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 }, b = { 0 }, claim = { 0 };
	uint32_t slot = fill(store, 1), next = fill(store, 2);

	for (size_t i = 0; i < OB_ARRAY_LEN(counts); i++) {
		assert_int_equal(ob_store_hold(store, &b, next, 1), 0);
		assert_int_equal(ob_store_hold(store, &a, slot, counts[i] - ob_holder_count(&a, slot)), 0);
		assert_int_equal(ob_holder_count(&a, slot), counts[i]);
		assert_int_equal(ob_store_claim(&a, &claim, slot, counts[i] - ob_holder_count(&claim, slot)), 0);
		assert_int_equal(ob_store_claim(&a, &claim, slot, 1), -EINVAL);
		assert_int_equal(ob_store_hold(store, &a, next, 1), 0);
	}
	assert_int_equal(ob_store_hold(store, &a, slot, 1), -ENOMEM);
	assert_int_equal(ob_store_let_go(store, &a, slot, UINT32_MAX), -EINVAL);
	assert_int_equal(ob_holder_count(&a, next), 6);
	assert_int_equal(ob_holder_count(&b, slot), 0);
	for (size_t i = OB_ARRAY_LEN(counts) - 1; i; i--) {
		assert_int_equal(ob_store_let_go(store, &a, slot, counts[i] - counts[i - 1]), 0);
		assert_int_equal(ob_holder_count(&a, slot), counts[i - 1]);
		assert_int_equal(a.holds, counts[i - 1] + 6);
	}
	assert_int_equal(ob_holder_bytes(&a), 64 * 16);
	ob_holder_clear(&claim);
	ob_store_let_go_all(store, &a);
	ob_store_let_go_all(store, &b);
	ob_store_unpin(store, slot);
	ob_store_unpin(store, next);
	ob_store_free(store);
}

static void what_is_not_claimed_is_let_go_of(void **state)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 }, b = { 0 }, claim = { 0 };
	uint32_t slots[100];

	for (unsigned i = 0; i < OB_ARRAY_LEN(slots); i++) {
		slots[i] = fill(store, (uint8_t)i);
		for (unsigned holds = 0; holds < 3; holds++)
			assert_int_equal(ob_store_hold(store, &a, slots[i], 1), 0);
		if (i % 2)
			assert_int_equal(ob_store_hold(store, &b, slots[i], 1), 0);
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
	ob_holder_clear(&claim);
	assert_int_equal(ob_store_settle(store, &a, &claim, true), 100);
	assert_int_equal(a.holds, 0);
	assert_int_equal(ob_store_used_pages(store), 50);
	assert_int_equal(ob_store_worn_pages(store), 25);
	ob_store_let_go_all(store, &a);
	ob_store_let_go_all(store, &b);
	ob_store_free(store);
}

/* What an overbookd that has gone leaves behind: pages 0 to n - 1 of an extent, each full of its number and 1. Returns the descriptor. */
static int leave_extent(unsigned n, uint64_t *ret_id)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	uint32_t slot = 0;
	int fd;

	for (unsigned i = 0; i < n; i++)
		slot = fill(store, (uint8_t)(i + 1));
	fd = dup(ob_store_fd(store, slot));
	*ret_id = ob_store_id(store, slot);
	assert_true(*ret_id == opened_id && fd >= 0);
	ob_store_free(store);
	assert_true(gone_id == *ret_id);
	return fd;
}

static void an_extent_is_taken_up_as_it_was_left(void **state)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 };
	uint64_t id, next = 0, lo, hi;
	uint32_t slot, other, place = 0, at = 0;
	int fd = leave_extent(10, &id);

	assert_int_equal(ob_store_restore(store, id, fd, NULL), 0);
	assert_true(ob_store_next_restored(store, &place, &next) && next == id && !ob_store_next_restored(store, &place, &next));
	assert_int_equal(ob_store_memory_pages(store), 10);
	assert_int_equal(ob_store_restored_pages(store), 10);
	assert_int_equal(ob_store_used_pages(store), 0);
	/* Nobody writes to it, its maker's successor included. */
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_true(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE);
	/* A slot is there when it was filled, and in use when it is held. */
	assert_int_equal(ob_store_find_restored(store, id, 10, &slot), -ENOENT);
	assert_int_equal(ob_store_find_restored(store, id, OB_STORE_SLOTS, &slot), -ENOENT);
	assert_int_equal(ob_store_find_restored(store, id + 1, 0, &slot), -ENOENT);
	assert_int_equal(ob_store_find_restored(store, id, 7, &slot), 0);
	assert_int_equal(ob_store_find(store, id, 7, &other), -ENOENT);
	assert_true(ob_store_is_free(store, slot));
	for (unsigned i = 0; i < 10; i++) {
		memset(page, (int)i + 1, sizeof(page));
		assert_memory_equal(ob_store_bytes(store, slot - 7 + i), page, sizeof(page));
	}
	assert_int_equal(ob_store_hold(store, &a, slot, UINT32_MAX), -ENOMEM);
	assert_int_equal(ob_store_hold(store, &a, slot, OB_STORE_HOLDS_MOST), 0);
	assert_int_equal(ob_store_hold(store, &a, slot, 1), -ENOMEM);
	ob_store_set_hash(store, slot, 8, 9);
	assert_true(ob_store_next_used(store, &at, &lo, &hi) && at == slot && lo == 8);
	assert_int_equal(ob_store_find(store, id, 7, &other), 0);
	/* What is new goes elsewhere, also where the store may not grow. */
	assert_int_equal(ob_store_fill(store, page, 1, 2, false, false, &other), -ENOSPC);
	fill(store, 77);
	assert_int_equal(ob_store_extents(store), 2);
	ob_store_wear(store, slot);
	freed_count = gone_count = 0;
	ob_store_let_go_all(store, &a);
	assert_int_equal(freed_count, 1);
	assert_int_equal(ob_store_worn_pages(store), 0);
	/* It is awaited still. */
	assert_true(ob_store_is_awaited(store) && gone_count == 0);
	ob_store_expire(store);
	assert_false(ob_store_is_awaited(store));
	assert_true(gone_count == 1 && gone_id == id && !ob_store_has(store, id));
	assert_int_equal(ob_store_memory_pages(store), 1);
	ob_store_free(store);
}

static void what_was_told_to_be_here_is_not_gone(void **state)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 }, b = { 0 };
	uint32_t slot, other;
	uint64_t id, next;
	int fd = leave_extent(2, &id);

	assert_int_equal(ob_store_restore(store, id, fd, NULL), 0);
	ob_store_name_restored(store, 3);
	ob_store_name_restored(store, 4);
	assert_int_equal(ob_store_find_restored(store, id, 0, &slot), 0);
	assert_int_equal(ob_store_hold(store, &a, slot, 1), 0);
	ob_store_set_hash(store, slot, 1, 2);
	ob_store_set_claimed(store, slot, 4);
	ob_store_has_claimed(store, 4);
	ob_store_expire(store);
	/* Who has claimed is sent it, who has not is not; who holds nothing any more is told at once. */
	assert_true(ob_store_next_unsent(store, 4, &other) && other / OB_STORE_SLOTS == slot / OB_STORE_SLOTS);
	assert_false(ob_store_next_unsent(store, 3, &other));
	gone_count = 0;
	ob_store_let_go_all(store, &a);
	assert_true(ob_store_next_closed(store, 4, &next) && next == id);
	assert_false(ob_store_next_closed(store, 3, &next));
	ob_store_forget_told(store, 4, id);
	assert_true(ob_store_has(store, id) && gone_count == 0);
	/* The other one does claim something. */
	assert_int_equal(ob_store_find_restored(store, id, 1, &slot), 0);
	assert_int_equal(ob_store_hold(store, &b, slot, 3), 0);
	ob_store_set_hash(store, slot, 1, 2);
	ob_store_set_claimed(store, slot, 3);
	ob_store_has_claimed(store, 3);
	assert_true(ob_store_next_unsent(store, 3, &other) && !ob_store_next_closed(store, 3, &next));
	assert_int_equal(ob_store_let_go(store, &b, slot, 3), 0);
	assert_true(ob_store_next_closed(store, 3, &next));
	ob_store_forget_told(store, 3, 0);
	assert_true(gone_count == 1 && !ob_store_extents(store));
	ob_holder_clear(&b);
	ob_store_free(store);
}

static unsigned drained_slots;

static void on_drained(void *context, uint32_t slot, uint64_t lo, uint64_t hi)
{
	drained_slots++;
}

static void an_extent_of_little_use_is_drained(void **state)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 };
	uint64_t id, lo, hi;
	uint32_t slot, at = 0;
	int fd = leave_extent(10, &id);

	assert_int_equal(ob_store_restore(store, id, fd, NULL), 0);
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(ob_store_find_restored(store, id, i, &slot), 0);
		assert_int_equal(ob_store_hold(store, &a, slot, 2), 0);
		ob_store_set_hash(store, slot, i, i + 1);
	}
	ob_store_set_told(store, slot, 9);
	assert_false(ob_store_drain(store, on_drained)); /* awaited */
	ob_store_expire(store);
	assert_false(ob_store_drain(store, on_drained));
	assert_int_equal(ob_store_let_go(store, &a, slot, 2), 0);
	assert_false(ob_store_drains(store));
	drained_slots = 0;
	assert_true(ob_store_drain(store, on_drained));
	assert_false(ob_store_drain(store, on_drained));
	assert_int_equal(drained_slots, 4);
	assert_true(ob_store_drains(store) && ob_store_is_drained(store, slot));
	assert_true(ob_store_next_unsent(store, 9, &slot));
	assert_false(ob_store_next_used(store, &at, &lo, &hi));
	ob_store_let_go_all(store, &a);
	ob_store_forget_told(store, 9, 0);
	assert_true(!ob_store_drains(store) && !ob_store_extents(store));
	ob_store_free(store);
}

/* However much of it is held: the one that was opened first, but never the one that is being filled. */
static void the_oldest_extent_is_shed(void **state)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder a = { 0 };
	uint32_t slot, first = UINT32_MAX;
	uint64_t id;

	assert_int_equal(ob_store_shed(store, on_drained), 0);
	for (unsigned i = 0; i < OB_STORE_SLOTS + 10; i++) {
		assert_int_equal(ob_store_fill(store, page, i, i + 1ull, true, true, &slot), 0);
		assert_int_equal(ob_store_hold(store, &a, slot, 1), 0);
		ob_store_unpin(store, slot);
		first = i ? first : slot;
	}
	id = ob_store_id(store, first);
	assert_int_equal(ob_store_extents(store), 2);
	drained_slots = 0;
	assert_int_equal(ob_store_shed(store, on_drained), OB_STORE_SLOTS);
	assert_int_equal(drained_slots, OB_STORE_SLOTS);
	assert_true(ob_store_drains(store) && ob_store_is_drained(store, first) && !ob_store_is_drained(store, slot));
	assert_int_equal(ob_store_shed(store, on_drained), 0);
	/* What is free in it is not filled again. */
	assert_int_equal(ob_store_let_go(store, &a, first, 1), 0);
	assert_int_equal(ob_store_spare_pages(store), 0);
	assert_int_equal(ob_store_fill(store, page, 9000, 9001, true, true, &slot), 0);
	assert_true(ob_store_id(store, slot) != id);
	ob_store_unpin(store, slot);
	gone_count = 0;
	for (uint32_t i = 1; i < OB_STORE_SLOTS; i++)
		assert_int_equal(ob_store_let_go(store, &a, first + i, 1), 0);
	assert_int_equal(gone_count, 1);
	assert_true(gone_id == id && !ob_store_drains(store) && ob_store_memory_pages(store) == 11);
	ob_holder_clear(&a);
	ob_store_free(store);
}

static void expect_no_extent(int fd, const char *why)
{
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_error err = { 0 };

	assert_true(ob_store_restore(store, 5, fd, &err) < 0);
	assert_non_null(strstr(err.text, why));
	assert_true(!ob_store_extents(store) && !ob_store_memory_pages(store));
	close(fd);
	ob_store_free(store);
}

static int make_memory(off_t bytes, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0 && ftruncate(fd, bytes) == 0 && (!seals || fcntl(fd, F_ADD_SEALS, seals) == 0));
	return fd;
}

static void what_is_no_extent_is_not_taken_up(void **state)
{
	int good = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE, fd;
	struct ob_store *store;
	uint64_t id;
	void *base;

	expect_no_extent(open("/dev/null", O_RDWR | O_CLOEXEC), "no memory of 16777216 bytes");
	expect_no_extent(make_memory(4096, good), "no memory of 16777216 bytes");
	expect_no_extent(make_memory(32 << 20, good), "no memory of 16777216 bytes");
	expect_no_extent(make_memory(16 << 20, 0), "size is not sealed");
	expect_no_extent(make_memory(16 << 20, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), "size is not sealed");
	expect_no_extent(make_memory(16 << 20, good | F_SEAL_SEAL), "cannot be sealed against writing");
	/* Sealed, but somebody has mapped it to write before. */
	fd = make_memory(16 << 20, 0);
	base = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(base != MAP_FAILED && fcntl(fd, F_ADD_SEALS, good) == 0);
	expect_no_extent(fd, "somebody can write to it");
	munmap(base, 16 << 20);
	/* The same one twice. */
	store = ob_store_new("domain:d", &events, NULL);
	fd = leave_extent(1, &id);
	assert_int_equal(ob_store_restore(store, id, fd, NULL), 0);
	assert_int_equal(ob_store_restore(store, id, fd, NULL), -EEXIST);
	/* And again by the next one. */
	fd = dup(fd);
	ob_store_free(store);
	store = ob_store_new("domain:d", &events, NULL);
	assert_int_equal(ob_store_restore(store, id, fd, NULL), 0);
	assert_int_equal(ob_store_memory_pages(store), 1);
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
	struct ob_store *store = ob_store_new("domain:d", &events, NULL);
	struct ob_holder holder[HOLDERS] = { 0 };
	uint64_t seed = 88172645463325252ull, used = 0, sums;
	uint32_t most = 0;

	for (unsigned step = 0; step < 100000; step++) {
		uint64_t r = random_next(&seed);
		unsigned who = (unsigned)(r % HOLDERS), sum = 0;
		uint32_t slot, n;

		if (step % 4 == 0) {
			if (ob_store_fill(store, page, step, step + 1, true, ob_store_extents(store) < 3, &slot) < 0)
				continue;
			for (unsigned i = 0; i < HOLDERS; i++)
				assert_int_equal(held[i][slot], 0);
			assert_int_equal(ob_store_hold(store, &holder[who], slot, 1), 0);
			ob_store_unpin(store, slot);
			held[who][slot]++;
			used++;
			continue;
		}
		slot = (uint32_t)(r >> 8) % SLOTS;
		n = r >> 32 & 3 ? 1 : 200;
		for (unsigned i = 0; i < HOLDERS; i++)
			sum += held[i][slot];
		if (sum && r >> 60 < 7) {
			assert_int_equal(ob_store_hold(store, &holder[who], slot, n), 0);
			held[who][slot] += n;
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
			n = OB_MIN(n, OB_MAX(held[who][slot], 1u));
			assert_int_equal(ob_store_let_go(store, &holder[who], slot, n), held[who][slot] ? 0 : -EINVAL);
			used -= held[who][slot] && sum == n;
			held[who][slot] -= held[who][slot] ? n : 0;
		}
		assert_int_equal(ob_holder_count(&holder[who], slot), held[who][slot]);
		assert_int_equal(ob_store_used_pages(store), used);
	}
	for (unsigned i = 0; i < HOLDERS; i++) {
		sums = 0;
		for (uint32_t slot = 0; slot < SLOTS; slot++) {
			assert_int_equal(ob_holder_count(&holder[i], slot), held[i][slot]);
			sums += held[i][slot];
			most = OB_MAX(most, held[i][slot]);
		}
		assert_int_equal(holder[i].holds, sums);
		ob_store_let_go_all(store, &holder[i]);
	}
	assert_true(most > UINT8_MAX);
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
		cmocka_unit_test(a_slot_is_held_as_often_as_it_likes),
		cmocka_unit_test(what_is_not_claimed_is_let_go_of),
		cmocka_unit_test(a_model_agrees),
		cmocka_unit_test(an_extent_is_taken_up_as_it_was_left),
		cmocka_unit_test(what_was_told_to_be_here_is_not_gone),
		cmocka_unit_test(an_extent_of_little_use_is_drained),
		cmocka_unit_test(the_oldest_extent_is_shed),
		cmocka_unit_test(what_is_no_extent_is_not_taken_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
