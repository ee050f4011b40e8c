/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shareable pages of a large page from a sample: the bounds hold as often as they say, and the table of estimate.h is right. */
#include "test.h"

#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "largepages/estimate.h"
#include "largepages/host.h"

#define N OB_LARGE_PAGES

static struct ob_large_estimate estimate(unsigned sampled, unsigned shareable)
{
	return ob_large_estimate(&(struct ob_large_sample){ .pages = N, .sampled = (uint16_t)sampled, .shareable = (uint16_t)shareable });
}

/* P(X = k), by the logarithms of factorials: another way than the code's. */
static double log_choose(unsigned n, unsigned k)
{
	double sum = 0;

	for (unsigned i = 0; i < k; i++)
		sum += log((double)(n - i) / (i + 1));
	return sum;
}

static double chance(unsigned K, unsigned n, unsigned k)
{
	if (k > K || n - k > N - K)
		return 0;
	return exp(log_choose(K, k) + log_choose(N - K, n - k) - log_choose(N, n));
}

static void without_a_sample_nothing_is_known(void **state)
{
	struct ob_large_estimate e = estimate(0, 0);

	assert_int_equal(e.least, 0);
	assert_int_equal(e.likely, 0);
	assert_int_equal(e.most, N);
}

static void a_whole_sample_is_exact(void **state)
{
	for (unsigned k = 0; k <= N; k++) {
		struct ob_large_estimate e = estimate(N, k);

		assert_int_equal(e.least, k);
		assert_int_equal(e.likely, k);
		assert_int_equal(e.most, k);
	}
}

static void the_bounds_are_in_order_and_grow_with_what_was_found(void **state)
{
	for (unsigned n = 1; n <= N; n += n < 70 ? 1 : 37) {
		struct ob_large_estimate last = { 0, 0, 0 };

		for (unsigned k = 0; k <= n; k++) {
			struct ob_large_estimate e = estimate(n, k);

			assert_true(k <= e.least && e.least <= e.likely && e.likely <= e.most && e.most <= N - (n - k));
			assert_true(e.least >= last.least && e.likely >= last.likely && e.most >= last.most);
			last = e;
		}
	}
}

/* For each true number the bounds are wrong in no more than 1.25% of samples, each side: added up exactly. */
static void the_bounds_hold_as_often_as_they_say(void **state)
{
	static const unsigned sizes[] = { 1, 16, 32, 64, 256, 500 };

	for (unsigned i = 0; i < OB_ARRAY_LEN(sizes); i++)
		for (unsigned K = 0; K <= N; K += 3) {
			double above = 0, below = 0;

			for (unsigned k = 0; k <= sizes[i]; k++) {
				struct ob_large_estimate e = estimate(sizes[i], k);

				above += K > e.most ? chance(K, sizes[i], k) : 0;
				below += K < e.least ? chance(K, sizes[i], k) : 0;
			}
			assert_true(above < OB_LARGE_LOOK_ERROR + 1e-9);
			assert_true(below < OB_LARGE_LOOK_ERROR + 1e-9);
		}
}

static void the_table_in_the_header_is_right(void **state)
{
	static const struct {
		unsigned sampled, half, none;
	} rows[] = { { 16, 141, 120 }, { 32, 101, 63 }, { 48, 81, 42 }, { 64, 69, 31 }, { 128, 45, 14 }, { 256, 26, 6 } };

	for (unsigned i = 0; i < OB_ARRAY_LEN(rows); i++) {
		unsigned widest = 0;

		for (unsigned k = 0; k <= rows[i].sampled; k++) {
			struct ob_large_estimate e = estimate(rows[i].sampled, k);

			widest = OB_MAX(widest, (unsigned)(e.most - e.least));
		}
		assert_int_equal((widest + 1) / 2, rows[i].half);
		assert_int_equal(estimate(rows[i].sampled, 0).most, rows[i].none);
	}
}

static void a_size_for_an_error_keeps_it_and_one_less_does_not(void **state)
{
	unsigned n = ob_large_sample_size(N, 80), less = 0;

	for (unsigned k = 0; k <= n; k++)
		assert_true(estimate(n, k).most - estimate(n, k).least <= 160);
	for (unsigned k = 0; k < n; k++)
		less = OB_MAX(less, (unsigned)(estimate(n - 1, k).most - estimate(n - 1, k).least));
	assert_true(less > 160);
	assert_int_equal(ob_large_sample_size(N, 0), N);
	assert_int_equal(ob_large_sample_size(N, N), 1);
	assert_int_equal(ob_large_sample_size(0, 5), 0);
}

static void nonsense_is_bounded(void **state)
{
	struct ob_large_sample odd = { .pages = UINT16_MAX, .sampled = UINT16_MAX, .shareable = UINT16_MAX };
	struct ob_large_estimate e = ob_large_estimate(&odd);

	assert_int_equal(e.least, N);
	assert_int_equal(e.most, N);
	odd = (struct ob_large_sample){ .pages = 0, .sampled = 9, .shareable = 9 };
	assert_int_equal(ob_large_estimate(&odd).most, 0);
	odd = (struct ob_large_sample){ .pages = 100, .sampled = 10, .shareable = 90 };
	assert_int_equal(ob_large_estimate(&odd).most, 100);
}

/* --- drawing --- */

static void pages_are_drawn_once_each_and_go_on_where_they_stopped(void **state)
{
	for (unsigned pages = 1; pages <= N; pages += 73) {
		uint16_t all[N], parts[N];
		unsigned n = ob_large_sample_pages(pages * 77u, pages, 0, N, all), count = 0;
		unsigned char seen[N] = { 0 };

		assert_int_equal(n, pages);
		for (unsigned i = 0; i < n; i++) {
			assert_true(all[i] < pages && !seen[all[i]]);
			seen[all[i]] = 1;
		}
		for (unsigned from = 0; from < N; from += OB_LARGE_SAMPLE_STEP)
			count += ob_large_sample_pages(pages * 77u, pages, from, from + OB_LARGE_SAMPLE_STEP, parts + count);
		assert_int_equal(count, pages);
		assert_memory_equal(all, parts, n * sizeof(all[0]));
	}
	assert_int_equal(ob_large_sample_pages(1, N, 16, 16, NULL), 0);
	assert_int_equal(ob_large_sample_pages(1, 0, 0, 16, NULL), 0);
}

/* Each page is in a sample of 64 with a chance of 1/8: over 40000 seeds, 5000 times with a deviation of 66. */
static void no_page_is_preferred(void **state)
{
	unsigned seen[N] = { 0 };
	uint16_t numbers[64];

	for (uint64_t seed = 0; seed < 40000; seed++) {
		ob_large_sample_pages(seed, N, 0, 64, numbers);
		for (unsigned i = 0; i < 64; i++)
			seen[numbers[i]]++;
	}
	for (unsigned i = 0; i < N; i++)
		assert_in_range(seen[i], 5000 - 330, 5000 + 330);
}

/* A chunk with runs of shareable pages, sampled a thousand times in steps as the rules do: how often the truth lies outside. */
static void four_looks_together_err_in_one_of_ten_at_most(void **state)
{
	unsigned wrong = 0, truth = 200;
	uint16_t numbers[OB_LARGE_SAMPLE_MAX];

	for (uint64_t seed = 0; seed < 2000; seed++) {
		unsigned found = 0, outside = 0;

		ob_large_sample_pages(seed, N, 0, OB_LARGE_SAMPLE_MAX, numbers);
		for (unsigned i = 0; i < OB_LARGE_SAMPLE_MAX; i++) {
			found += numbers[i] >= 100 && numbers[i] < 100 + truth;
			if ((i + 1) % OB_LARGE_SAMPLE_STEP == 0) {
				struct ob_large_estimate e = estimate(i + 1, found);

				outside |= truth < e.least || truth > e.most;
			}
		}
		wrong += outside;
	}
	print_message("# %u of 2000 wrong\n", wrong);
	assert_true(wrong < 200);
	assert_true(wrong > 0);
}

/* --- zeros --- */

static void zeros_are_told_from_others_wherever_they_differ(void **state)
{
	static uint64_t page[512];
	char *bytes = (char *)page;
	size_t read;

	assert_true(ob_large_is_zero(page, 4096, &read));
	assert_int_equal(read, 4096);
	for (size_t i = 0; i < 4096; i++) {
		bytes[i] = 1;
		assert_false(ob_large_is_zero(page, 4096, &read));
		assert_int_equal(read, i / 8 * 8 + 8);
		bytes[i] = 0;
	}
	for (size_t size = 0; size <= 4096; size += 64) {
		assert_true(ob_large_is_zero(page, size, NULL));
		if (size < 4096) {
			bytes[size] = 1;
			assert_true(ob_large_is_zero(page, size, NULL));
			bytes[size] = 0;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_sample_nothing_is_known),
		cmocka_unit_test(a_whole_sample_is_exact),
		cmocka_unit_test(the_bounds_are_in_order_and_grow_with_what_was_found),
		cmocka_unit_test(the_bounds_hold_as_often_as_they_say),
		cmocka_unit_test(the_table_in_the_header_is_right),
		cmocka_unit_test(a_size_for_an_error_keeps_it_and_one_less_does_not),
		cmocka_unit_test(nonsense_is_bounded),
		cmocka_unit_test(pages_are_drawn_once_each_and_go_on_where_they_stopped),
		cmocka_unit_test(no_page_is_preferred),
		cmocka_unit_test(four_looks_together_err_in_one_of_ten_at_most),
		cmocka_unit_test(zeros_are_told_from_others_wherever_they_differ),
	};

	return cmocka_run_group_tests_name("large_estimate", tests, NULL, NULL);
}
