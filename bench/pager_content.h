/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the pager's pages hold. A page's bytes are a function of a seed, the page's number and the kind of content, but for
 * one word of eight bytes, the stamp: the page's number and how often the page has been written. So what comes back from
 * wherever it was can be told from zeros, from another page and from an older version by one look at one word, and wholly
 * by a comparison of the page.
 *
 * PAGER_ZERO          all zero, the stamp too; a write writes zero
 * PAGER_COMPRESSIBLE  what a heap looks like, about 3:1 for LZ4 and for the kernel's lzo: words of eight bytes, drawn for
 *                     each page anew: zeros in runs, small numbers, pointers into one of four areas, and words of text from
 *                     a vocabulary; no two pages alike, and no run longer than eight words
 * PAGER_INCOMPRESSIBLE random bytes
 *
 * The stamp lies at another place in each page, so that the accesses of a small set of pages spread over the caches.
 */
#ifndef OB_BENCH_PAGER_CONTENT_H
#define OB_BENCH_PAGER_CONTENT_H

#include <stdint.h>

#define PAGER_PAGE  4096u
#define PAGER_WORDS (PAGER_PAGE / 8)

enum pager_content { PAGER_ZERO, PAGER_COMPRESSIBLE, PAGER_INCOMPRESSIBLE };

/* A good 64-bit mixing function, and the next number of the sequence at *state. */
static inline uint64_t pager_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t pager_random(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return pager_mix(*state);
}

/* Which word of the page is its stamp, and what the stamp is. */
static inline unsigned pager_stamp_word(uint32_t page)
{
	return (unsigned)((page * 0x9e3779b1u) >> 23);
}

static inline uint64_t pager_stamp(enum pager_content content, uint32_t page, uint32_t version)
{
	return content == PAGER_ZERO ? 0 : (uint64_t)version << 32 | page;
}

/* Writes all bytes of a page, stamped with a version. */
void pager_content_fill(uint64_t words[PAGER_WORDS], enum pager_content content, uint64_t seed, uint32_t page,
			uint32_t version);

#endif
