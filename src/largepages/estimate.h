/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How many small pages of a large page are worth sharing, without breaking it: from a random sample. Pure functions.
 *
 * Theory of operation. Whoever asks draws page numbers with ob_large_sample_page(), looks whether each is shareable (all
 * zero, or its hash is in the index), and gives the counts to ob_large_estimate(). Pages are drawn without replacement, so
 * the count of shareable ones in the sample is hypergeometric, and the bounds are exact ones: the smallest and the largest
 * number of shareable pages with which such a sample is not less likely than OB_LARGE_LOOK_ERROR, each side. Guo (VEE 2015)
 * samples at random and says no error; a bound makes it possible to stop early: a page of which 16 samples are all zero
 * needs no more, one on the verge does.
 *
 * The sample may grow (OB_LARGE_SAMPLE_STEP, looks at 16, 32, 48 and 64 pages): the same seed goes on where it stopped. Who
 * looks four times errs four times as often, so a look is allowed a quarter of what all may be wrong together (5%, each
 * side; Bonferroni).
 *
 *     pages sampled            16    32    48    64   128   256
 *     half the width at most  141   101    81    69    45    26     of 512, where about half is shareable
 *     none was shareable:  <= 120    63    42    31    14     6
 *
 * (tests/unit/test_large_estimate.c checks the table.) What a look costs: a hash of 4 KiB a page, or a few bytes: pages of
 * zeros are found as in HawkEye (Panwar, Bansal and Gopinath, ASPLOS 2019), which stops at the first byte that is not zero:
 * after 9 bytes on average there, over 56 workloads.
 *
 * The sample says what was there when it was taken. A page that is written all the time looks as shareable as one that
 * rests, unless who looks counts only hashes that were the same twice; and "in the index" says less than "will be shared".
 * So breaking may be in vain: chunk.h has what is done about that.
 */
#ifndef OB_LARGEPAGES_ESTIMATE_H
#define OB_LARGEPAGES_ESTIMATE_H

#include <stddef.h>
#include <stdint.h>

#define OB_LARGE_SAMPLE_STEP 16u
#define OB_LARGE_SAMPLE_MAX  64u
#define OB_LARGE_LOOK_ERROR  0.0125 /* a look's, each side */

/* Of how many pages (1 to 512) so many were sampled, and so many of those shareable. */
struct ob_large_sample {
	uint16_t pages, sampled, shareable;
};

struct ob_large_estimate {
	uint16_t least, likely, most; /* shareable pages; without a sample: 0, 0, all */
};

/* What the sample says. More shareable than sampled, or more sampled than pages, count as all. */
struct ob_large_estimate ob_large_estimate(const struct ob_large_sample *sample);

/*
 * The numbers of the pages to sample, `from` to `to` - 1 in an order that the seed gives (of OB_LARGE_PAGES at most; `pages`
 * is how many there are). All different, each set equally likely. ret_numbers has room for to - from. Returns how many there
 * are.
 */
unsigned ob_large_sample_pages(uint64_t seed, unsigned pages, unsigned from, unsigned to, uint16_t *ret_numbers);

/* How many pages of so many must be sampled, for the bounds to be no further than `error` pages from each other's middle. */
unsigned ob_large_sample_size(unsigned pages, unsigned error);

/*
 * Whether all bytes are zero; size is a multiple of 64, the address of 8. *ret_read gets how many bytes were looked at: up
 * to the first word of 8 that is not zero. NULL is allowed.
 */
int ob_large_is_zero(const void *bytes, size_t size, size_t *ret_read);

#endif
