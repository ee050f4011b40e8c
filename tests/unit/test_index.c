/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The indices of offered pages: what is added is found, by its class if there are any; quotas push out the owner's oldest; a model agrees with all of it. */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "share/index.h"

static struct ob_index_entry entry(uint64_t hash, uint16_t owner, uint64_t where)
{
	return (struct ob_index_entry){ .lo = hash, .hi = ~hash, .where = where, .owner = owner, .class = (uint16_t)(where % 3) };
}

static unsigned found_in(struct ob_index *index, uint64_t hash, uint16_t class, struct ob_index_entry *ret_first)
{
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry at;
	unsigned n = 0;

	while (ob_index_find(index, hash, ~hash, class, &cursor, &at)) {
		assert_true(at.lo == hash && at.hi == ~hash);
		if (!n++)
			*ret_first = at;
	}
	return n;
}

static unsigned found(struct ob_index *index, uint64_t hash, struct ob_index_entry *ret_first)
{
	return found_in(index, hash, 0, ret_first);
}

static void what_is_added_is_found_and_the_slot_comes_first(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_hash, 1);
	struct ob_index_entry at, page = entry(7, 1, 100), slot = entry(7, OB_INDEX_STORE, 5), other = entry(7, 1, 100);

	assert_int_equal(ob_index_add(index, &page), 0); /* no quota */
	ob_index_set_quota(index, 1, 10);
	assert_int_equal(found(index, 7, &at), 0);
	assert_int_equal(ob_index_add(index, &page), 1);
	assert_int_equal(ob_index_add(index, &page), 1);
	assert_int_equal(ob_index_add(index, &slot), 1);
	other.where++;
	assert_int_equal(ob_index_add(index, &other), 1);
	other.hi++; /* half of the hash is not enough */
	assert_int_equal(ob_index_add(index, &other), 1);
	assert_int_equal(found(index, 7, &at), 3);
	assert_int_equal(at.owner, OB_INDEX_STORE);
	assert_int_equal(at.where, 5);
	assert_int_equal(ob_index_count(index, 1), 3);
	assert_int_equal(ob_index_count(index, OB_INDEX_STORE), 1);
	assert_int_equal(ob_index_remove(index, &slot), 1);
	assert_int_equal(ob_index_remove(index, &slot), 0);
	assert_int_equal(found(index, 7, &at), 2);
	ob_index_remove_owner(index, 1);
	assert_int_equal(found(index, 7, &at), 0);
	assert_int_equal(ob_index_count(index, 1), 0);
	ob_index_free(index);
}

/* Also of an index that is empty, and of hashes that are not there. */
static void to_expect_a_hash_changes_nothing(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_cmd_subpage, 2);
	struct ob_index_entry at, page = { .lo = 5, .hi = ~5ull, .where = 1, .owner = 1, .class = 1 };

	ob_index_set_quota(index, 1, 1);
	for (unsigned pages = 0; pages < 2; pages++) {
		assert_int_equal(pages ? ob_index_add(index, &page) : 1, 1);
		for (uint64_t hash = 0; hash < 10; hash++)
			for (int step = 0; step < OB_INDEX_EXPECT_STEPS; step++)
				ob_index_expect(index, hash, ~hash, (uint16_t)(hash % 3), step);
		assert_int_equal(ob_index_count(index, 1), pages);
		assert_int_equal(found_in(index, 5, 1, &at), pages);
		assert_int_equal(found_in(index, 5, 0, &at), 0);
	}
	assert_int_equal(index->comparisons, 1);
	ob_index_free(index);
}

static void a_quota_pushes_out_the_own_oldest(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_hash, 1);
	struct ob_index_entry at, e;
	uint64_t memory;

	ob_index_set_quota(index, 1, 1000);
	ob_index_set_quota(index, 2, 10);
	for (uint64_t i = 0; i < 10; i++) {
		e = entry(i, 2, i);
		assert_int_equal(ob_index_add(index, &e), 1);
	}
	for (uint64_t i = 0; i < 1000000; i++) {
		e = entry(i * 0x9e3779b97f4a7c15, 1, i);
		assert_int_equal(ob_index_add(index, &e), 1);
		if (i == 2000)
			memory = ob_index_memory(index);
	}
	assert_int_equal(ob_index_memory(index), memory);
	assert_int_equal(ob_index_count(index, 1), 1000);
	assert_int_equal(ob_index_count(index, 2), 10);
	assert_int_equal(found(index, 999000 * 0x9e3779b97f4a7c15, &at), 1);
	assert_int_equal(found(index, 998999 * 0x9e3779b97f4a7c15, &at), 0);
	for (uint64_t i = 0; i < 10; i++)
		assert_true(found(index, i, &at) >= 1);
	ob_index_set_quota(index, 1, 1);
	assert_int_equal(ob_index_count(index, 1), 1);
	assert_int_equal(found(index, 999999 * 0x9e3779b97f4a7c15, &at), 1);
	ob_index_remove_owner(index, 1);
	ob_index_remove_owner(index, 2);
	assert_true(ob_index_memory(index) < 65536);
	ob_index_free(index);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* As the CMD paper has it, pages of one class never meet those of another. */
static void pages_of_other_classes_are_not_found(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_cmd_subpage, 16);
	struct ob_index_entry at, page = entry(7, 1, 100), other = entry(7, 2, 200);

	assert_non_null(index);
	assert_string_equal(index->strategy->name, "cmd-subpage");
	ob_index_set_quota(index, 1, 10);
	ob_index_set_quota(index, 2, 10);
	page.class = 5;
	other.class = 0;
	assert_int_equal(ob_index_add(index, &page), 1);
	assert_int_equal(ob_index_is_elsewhere(index, 7, ~7ull, 5), 0);
	assert_int_equal(ob_index_add(index, &other), 1);
	assert_int_equal(found_in(index, 7, 5, &at), 1);
	assert_int_equal(at.owner, 1);
	assert_int_equal(found_in(index, 7, 0, &at), 1);
	assert_int_equal(at.owner, 2);
	assert_int_equal(found_in(index, 7, 1, &at), 0);
	assert_int_equal(ob_index_is_elsewhere(index, 7, ~7ull, 1), 1);
	assert_int_equal(ob_index_is_elsewhere(index, 7, ~7ull, 5), 1);
	assert_int_equal(ob_index_is_elsewhere(index, 8, ~8ull, 1), 0);
	/* What does not know its class finds itself all the same. */
	page.class = 3;
	assert_int_equal(ob_index_remove(index, &page), 1);
	assert_int_equal(ob_index_remove(index, &page), 0);
	assert_int_equal(found_in(index, 7, 5, &at), 0);
	assert_int_equal(ob_index_is_elsewhere(index, 7, ~7ull, 0), 0);
	ob_index_free(index);
	assert_null(ob_index_new(&ob_index_cmd_subpage, 0));
	assert_null(ob_index_new(&ob_index_cmd_subpage, OB_INDEX_CLASSES_MAX + 1));
}

static void a_page_whose_class_changes_stays_findable(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_cmd_subpage, 256);
	struct ob_index_entry at, page = entry(7, 1, 100);

	ob_index_set_quota(index, 1, 300);
	for (unsigned class = 0; class < 256; class++) {
		page.class = (uint16_t)class;
		assert_int_equal(ob_index_add(index, &page), 1);
		assert_int_equal(ob_index_count(index, 1), 1);
		for (unsigned other = 0; other < 256; other++)
			assert_int_equal(found_in(index, 7, (uint16_t)other, &at), other == class);
	}
	/* It is as young as if it were new: others are pushed out before it. */
	ob_index_set_quota(index, 1, 2);
	for (uint64_t i = 0; i < 3; i++) {
		struct ob_index_entry stranger = entry(8 + i, 1, 200 + i);

		assert_int_equal(ob_index_add(index, &page), 1);
		page.class = (uint16_t)i;
		assert_int_equal(ob_index_add(index, &page), 1);
		assert_int_equal(ob_index_add(index, &stranger), 1);
	}
	assert_int_equal(found_in(index, 7, 2, &at), 1);
	assert_int_equal(ob_index_count(index, 1), 2);
	ob_index_free(index);
}

/* A slot stays where it was made, and two of the same bytes may be in two classes. */
static void slots_stay_in_their_class(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_cmd_subpage, 16);
	struct ob_index_entry at, page = entry(7, 1, 100), slot = entry(7, OB_INDEX_STORE, 5), second = entry(7, OB_INDEX_STORE, 6);

	ob_index_set_quota(index, 1, 10);
	slot.class = 4;
	page.class = 4;
	assert_int_equal(ob_index_add(index, &page), 1);
	assert_int_equal(ob_index_add(index, &slot), 1);
	assert_int_equal(found_in(index, 7, 4, &at), 2);
	assert_int_equal(at.owner, OB_INDEX_STORE);
	page.class = 0;
	assert_int_equal(ob_index_add(index, &page), 1);
	assert_int_equal(found_in(index, 7, 0, &at), 1);
	assert_int_equal(at.owner, 1);
	assert_int_equal(found_in(index, 7, 4, &at), 1);
	assert_int_equal(at.where, 5);
	second.class = 0;
	assert_int_equal(ob_index_add(index, &second), 1);
	assert_int_equal(found_in(index, 7, 0, &at), 2);
	assert_int_equal(at.where, 6);
	/* Whoever frees a slot does not know its class. */
	slot.class = 0;
	assert_int_equal(ob_index_remove(index, &slot), 1);
	assert_int_equal(found_in(index, 7, 4, &at), 0);
	assert_int_equal(found_in(index, 7, 0, &at), 2);
	assert_int_equal(ob_index_count(index, OB_INDEX_STORE), 1);
	ob_index_free(index);
}

static void comparisons_are_counted(void **state)
{
	struct ob_index *hash = ob_index_new(&ob_index_hash, 1), *cmd = ob_index_new(&ob_index_cmd_subpage, 16);
	struct ob_index_entry at, e;

	ob_index_set_quota(hash, 1, 10000);
	ob_index_set_quota(cmd, 1, 10000);
	for (uint64_t i = 0; i < 4096; i++) {
		e = entry(i * 0x9e3779b97f4a7c15, 1, i);
		e.class = (uint16_t)(i % 16);
		assert_int_equal(ob_index_add(hash, &e), 1);
		assert_int_equal(ob_index_add(cmd, &e), 1);
	}
	/* Adding compares nothing that counts. */
	assert_int_equal(hash->comparisons, 0);
	assert_int_equal(cmd->comparisons, 0);
	for (uint64_t i = 0; i < 4096; i++) {
		assert_int_equal(found(hash, i * 0x9e3779b97f4a7c15, &at), 1);
		assert_int_equal(found_in(cmd, i * 0x9e3779b97f4a7c15, (uint16_t)(i % 16), &at), 1);
	}
	/* At least the one that is equal, and few others: each class is a table of its own, as full as the one of all. */
	assert_in_range(hash->comparisons, 4096, 3 * 4096);
	assert_in_range(cmd->comparisons, 4096, 3 * 4096);
	ob_index_free(hash);
	ob_index_free(cmd);
}

/* Few hashes, owners, pages and classes, so that all that can meet does meet. */
static void check_against_model(const struct ob_index_strategy *strategy, unsigned classes)
{
	enum { HASHES = 40, OWNERS = 4, PAGES = 8 };
	static uint8_t there[HASHES][OWNERS][PAGES]; /* class plus one */
	struct ob_index *index = ob_index_new(strategy, classes);
	uint64_t seed = 88172645463325252ull;

	memset(there, 0, sizeof(there));
	for (uint16_t owner = 1; owner < OWNERS; owner++)
		ob_index_set_quota(index, owner, 100000);
	for (unsigned step = 0; step < 200000; step++) {
		uint64_t r = random_next(&seed), h = r % HASHES, page = r / HASHES % PAGES, n = 0, all = 0;
		uint16_t owner = (uint16_t)(r / HASHES / PAGES % OWNERS), class = (uint16_t)(r / HASHES / PAGES / OWNERS % classes);
		struct ob_index_entry e = entry(h * 64, owner ? owner : OB_INDEX_STORE, page), at;

		e.class = class;
		switch (random_next(&seed) % (step % 1000 ? 3 : 4)) {
		case 0:
			assert_int_equal(ob_index_add(index, &e), 1);
			there[h][owner][page] = (uint8_t)(class + 1);
			break;
		case 1:
			assert_int_equal(ob_index_remove(index, &e), there[h][owner][page] != 0);
			there[h][owner][page] = 0;
			break;
		case 2:
			for (unsigned i = 0; i < OWNERS * PAGES; i++) {
				n += there[h][i / PAGES][i % PAGES] == class + 1;
				all += there[h][i / PAGES][i % PAGES] != 0;
			}
			assert_int_equal(found_in(index, h * 64, class, &at), n);
			assert_int_equal(ob_index_is_elsewhere(index, h * 64, ~(h * 64), class), all > n);
			break;
		default:
			ob_index_remove_owner(index, e.owner);
			for (unsigned i = 0; i < HASHES * PAGES; i++)
				there[i / PAGES][owner][i % PAGES] = 0;
		}
	}
	ob_index_free(index);
}

/* Whoever makes hashes up, of whatever bits: they do not meet in one bucket. */
static void hashes_that_are_made_up_are_found_as_quickly(void **state)
{
	enum { MADE_UP = 4096 };
	struct ob_index_entry at;

	for (unsigned shift = 0; shift <= 52; shift += 4)
		for (int upper = 0; upper < 2; upper++) {
			struct ob_index *index = ob_index_new(&ob_index_hash, 1);
			struct ob_index_cursor cursor = { 0 };
			uint64_t before;

			ob_index_set_quota(index, 1, MADE_UP);
			for (uint64_t i = 0; i < MADE_UP; i++) {
				struct ob_index_entry made = { .lo = upper ? 5 : i << shift, .hi = upper ? i << shift : 5, .where = i, .owner = 1 };

				assert_int_equal(ob_index_add(index, &made), 1);
			}
			before = index->comparisons;
			assert_int_equal(ob_index_find(index, upper ? 5 : 7ull << shift, upper ? 7ull << shift : 5, 0, &cursor, &at), 1);
			assert_int_equal(ob_index_find(index, upper ? 5 : 7ull << shift, upper ? 7ull << shift : 5, 0, &cursor, &at), 0);
			assert_in_range(index->comparisons - before, 1, 32);
			ob_index_free(index);
		}
}

static void a_model_agrees(void **state)
{
	check_against_model(&ob_index_hash, 1);
	check_against_model(&ob_index_cmd_subpage, 1);
	check_against_model(&ob_index_cmd_subpage, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_added_is_found_and_the_slot_comes_first),
		cmocka_unit_test(to_expect_a_hash_changes_nothing),
		cmocka_unit_test(a_quota_pushes_out_the_own_oldest),
		cmocka_unit_test(pages_of_other_classes_are_not_found),
		cmocka_unit_test(a_page_whose_class_changes_stays_findable),
		cmocka_unit_test(slots_stay_in_their_class),
		cmocka_unit_test(comparisons_are_counted),
		cmocka_unit_test(hashes_that_are_made_up_are_found_as_quickly),
		cmocka_unit_test(a_model_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
