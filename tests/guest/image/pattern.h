/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the witness writes into a page, and how it knows that a page is right.
 *
 * The content is a function of (seed, id of the page, version): each 8-byte word differs from the word at the same
 * place in every other page and in every other version of the same page, so a page that is stale, belongs elsewhere,
 * is half old and half new, or has one wrong bit never passes. The kind of the content follows from the same three:
 *
 *     random    does not compress
 *     patterned 3 of 16 words are unlike, the rest repeat a word of the page's own: about 4:1 for the LZ family
 *     zero      512 zero words; also every page of version 0, which stands for "never written"
 *
 * Of some pages the content follows from their id and version alone, so that machines have them in common (`same`), or but for
 * one bit, which is of each machine's own (`nearly`).
 *
 * A page's kind changes from version to version, so that rewriting walks pages through all of them.
 */
#ifndef WITNESS_PATTERN_H
#define WITNESS_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / 8)

enum pattern_kind { PATTERN_RANDOM, PATTERN_PATTERNED, PATTERN_ZERO };

struct pattern_mix {
	uint64_t seed;
	unsigned random_percent, zero_percent; /* of the pages; what is left is patterned */
	unsigned same_percent, nearly_percent; /* what is left is the machine's own */
};

/* Fills a page of 4096 bytes, 8-byte aligned. */
void pattern_fill(const struct pattern_mix *mix, uint64_t id, uint32_t version, void *page);

/* Reads every byte. Returns -1 when the page is right, else the first word that is wrong, with what belongs there. */
int pattern_check(const struct pattern_mix *mix, uint64_t id, uint32_t version, const void *page, uint64_t *ret_want);

/* A word on what a wrong page looks like: "zero", "common" (as in other machines, without the bit of its own), "stale" (an earlier version), "word" (one word is wrong), "torn" (right at its end), "unknown". */
const char *pattern_guess(const struct pattern_mix *mix, uint64_t id, uint32_t version, const void *page);

#endif
