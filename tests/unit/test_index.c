/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The index of offered pages: what is added is found, quotas push out the owner's oldest, and a model agrees with all of it. */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "share/index.h"

static struct ob_index_entry entry(uint64_t hash, uint16_t owner, uint64_t where)
{
	return (struct ob_index_entry){ .lo = hash, .hi = ~hash, .where = where, .owner = owner, .class = (uint16_t)(where % 3) };
}

static unsigned found(const struct ob_index *index, uint64_t hash, struct ob_index_entry *ret_first)
{
	struct ob_index_cursor cursor = { 0 };
	struct ob_index_entry at;
	unsigned n = 0;

	while (ob_index_find(index, hash, ~hash, &cursor, &at)) {
		assert_true(at.lo == hash && at.hi == ~hash);
		if (!n++)
			*ret_first = at;
	}
	return n;
}

static void what_is_added_is_found_and_the_slot_comes_first(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_hash);
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

static void a_quota_pushes_out_the_own_oldest(void **state)
{
	struct ob_index *index = ob_index_new(&ob_index_hash);
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

/* Few hashes, owners and pages, so that all that can meet does meet. */
static void a_model_agrees(void **state)
{
	enum { HASHES = 40, OWNERS = 4, PAGES = 8 };
	static uint8_t there[HASHES][OWNERS][PAGES];
	struct ob_index *index = ob_index_new(&ob_index_hash);
	uint64_t seed = 88172645463325252ull;

	memset(there, 0, sizeof(there));
	for (uint16_t owner = 1; owner < OWNERS; owner++)
		ob_index_set_quota(index, owner, 100000);
	for (unsigned step = 0; step < 200000; step++) {
		uint64_t r = random_next(&seed), h = r % HASHES, page = r / HASHES % PAGES, n = 0;
		uint16_t owner = (uint16_t)(r / HASHES / PAGES % OWNERS);
		struct ob_index_entry e = entry(h * 64, owner ? owner : OB_INDEX_STORE, page), at;

		switch (random_next(&seed) % (step % 1000 ? 3 : 4)) {
		case 0:
			assert_int_equal(ob_index_add(index, &e), 1);
			there[h][owner][page] = 1;
			break;
		case 1:
			assert_int_equal(ob_index_remove(index, &e), there[h][owner][page]);
			there[h][owner][page] = 0;
			break;
		case 2:
			for (unsigned i = 0; i < OWNERS * PAGES; i++)
				n += there[h][i / PAGES][i % PAGES];
			assert_int_equal(found(index, h * 64, &at), n);
			break;
		default:
			ob_index_remove_owner(index, e.owner);
			for (unsigned i = 0; i < HASHES * PAGES; i++)
				there[i / PAGES][owner][i % PAGES] = 0;
		}
	}
	ob_index_free(index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_added_is_found_and_the_slot_comes_first),
		cmocka_unit_test(a_quota_pushes_out_the_own_oldest),
		cmocka_unit_test(a_model_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
