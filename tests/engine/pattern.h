/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the test's guests write into pages, so that every byte of a page can be foretold.
 *
 * The bytes of a page are a function of a key and a number of patches. Key 0 without patches is a page of zeros that
 * nobody wrote. Any other key says what kind of page it is (zeros that were written, compressible, incompressible, half
 * of each) and seeds its bytes, so that a page that turns up at the wrong place, or in an old version, does not match.
 * A patch changes one byte: the least change that a store with copies of pages could overlook.
 */
#ifndef OB_TESTS_ENGINE_PATTERN_H
#define OB_TESTS_ENGINE_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define PATTERN_PAGE  4096u
#define PATTERN_WORDS (PATTERN_PAGE / 8)

enum pattern_kind { PATTERN_ZERO, PATTERN_COMPRESSIBLE, PATTERN_INCOMPRESSIBLE, PATTERN_MIXED, PATTERN_ANY };

struct pattern {
	uint64_t key;
	uint32_t patches;
};

/* A small random generator: the next number of the sequence at *state. */
uint64_t pattern_random(uint64_t *state);

/* A key for a version of a page. kind PATTERN_ANY draws one: a seventh zero, the rest shared by the others. */
uint64_t pattern_key(uint64_t seed, uint64_t page, uint64_t version, enum pattern_kind kind);

enum pattern_kind pattern_kind_of(uint64_t key);

/* Writes the bytes of a page to buf. */
void pattern_fill(uint8_t buf[PATTERN_PAGE], const struct pattern *pattern);

/* Where and what the next patch of a page is. */
void pattern_patch(const struct pattern *pattern, unsigned *ret_offset, uint8_t *ret_value);

/* The offset of the first byte of page that is not as pattern says, or -1. */
int pattern_compare(const void *page, const struct pattern *pattern);

#endif
