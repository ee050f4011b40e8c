/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "largepages/estimate.h"

#include "base/compiler.h"
#include "largepages/host.h"

/*
 * P(X <= k), where n of N pages are drawn and K of the N are shareable. The first term is a product of fractions: no less
 * than 1 / C(512, 256), which a double holds; the others follow from it.
 */
static double at_most(unsigned N, unsigned K, unsigned n, unsigned k)
{
	unsigned x = n > N - K ? n - (N - K) : 0, draws = x ? N - n : n, good = x ? K : N - K;
	double p = 1, sum;

	if (k < x)
		return 0;
	for (unsigned i = 0; i < draws; i++)
		p *= (double)(good - i) / (N - i);
	for (sum = p; x < k && x < K && x < n; x++) {
		p *= (double)(K - x) * (n - x) / ((double)(x + 1) * (N - K - n + x + 1));
		sum += p;
	}
	return sum;
}

/* The largest K with which so few shareable ones are not too unlikely: P(X <= k) falls as K grows. */
static unsigned most_of(unsigned N, unsigned n, unsigned k)
{
	unsigned low = k, high = N - (n - k);

	while (low < high) {
		unsigned middle = (low + high + 1) / 2;

		if (at_most(N, middle, n, k) >= OB_LARGE_LOOK_ERROR)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

struct ob_large_estimate ob_large_estimate(const struct ob_large_sample *sample)
{
	unsigned N = OB_MIN(sample->pages, OB_LARGE_PAGES), n = OB_MIN(sample->sampled, N), k = OB_MIN(sample->shareable, n);

	if (!n)
		return (struct ob_large_estimate){ .most = (uint16_t)N };
	/* Least: what is not shareable is hypergeometric too. */
	return (struct ob_large_estimate){
		.least = (uint16_t)(N - most_of(N, n, n - k)), .likely = (uint16_t)((2 * N * k + n) / (2 * n)),
		.most = (uint16_t)most_of(N, n, k),
	};
}

unsigned ob_large_sample_size(unsigned pages, unsigned error)
{
	unsigned N = OB_MIN(pages, OB_LARGE_PAGES);

	for (unsigned n = 1; n < N; n++) {
		unsigned widest = 0;

		for (unsigned k = 0; k <= n; k++) {
			unsigned width = most_of(N, n, k) - (N - most_of(N, n, n - k));

			widest = OB_MAX(widest, width);
		}
		if (widest <= 2 * error)
			return n;
	}
	return N;
}

/* SplitMix64 (Steele, Lea and Flood 2014): any seed will do. */
static uint64_t next_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

unsigned ob_large_sample_pages(uint64_t seed, unsigned pages, unsigned from, unsigned to, uint16_t *ret_numbers)
{
	uint16_t order[OB_LARGE_PAGES];
	unsigned count = 0;

	pages = OB_MIN(pages, OB_LARGE_PAGES);
	to = OB_MIN(to, pages);
	for (unsigned i = 0; i < pages; i++)
		order[i] = (uint16_t)i;
	for (unsigned i = 0; i < to; i++) {
		/* 512 of 2^32 at most: the error of this is below one in eight million. */
		unsigned other = i + (unsigned)(((next_random(&seed) >> 32) * (pages - i)) >> 32);
		uint16_t number = order[other];

		order[other] = order[i];
		if (i >= from)
			ret_numbers[count++] = number;
	}
	return count;
}

int ob_large_is_zero(const void *bytes, size_t size, size_t *ret_read)
{
	const uint64_t *words = bytes;
	size_t n = size / sizeof(*words), i = 0;

	/* Most pages that are not zero say so in their first words; for the others it is cheaper to look at a line at a time. */
	while (i < n && i < 8 && !words[i])
		i++;
	if (i == 8)
		while (i < n && !(words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
				  words[i + 7]))
			i += 8;
	while (i < n && !words[i])
		i++;
	if (ret_read)
		*ret_read = OB_MIN(i + 1, n) * sizeof(*words);
	return i == n;
}
