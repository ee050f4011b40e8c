/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pattern.h"

#include <string.h>

#define GOLDEN 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

uint64_t pattern_random(uint64_t *state)
{
	*state += GOLDEN;
	return mix(*state);
}

/* The low three bits of a key hold its kind, and bit 3 is set so that no key is 0. */
uint64_t pattern_key(uint64_t seed, uint64_t page, uint64_t version, enum pattern_kind kind)
{
	uint64_t key = mix(seed + GOLDEN * (page + 1)) ^ mix(version * GOLDEN + seed);

	key = mix(key);
	if (kind == PATTERN_ANY) {
		unsigned draw = (unsigned)((key >> 40) % 7);

		kind = draw == 0 ? PATTERN_ZERO : (enum pattern_kind)(1 + (draw - 1) / 2);
	}
	return (key & ~15ull) | 8 | (unsigned)kind;
}

enum pattern_kind pattern_kind_of(uint64_t key)
{
	return key ? (enum pattern_kind)(key & 7) : PATTERN_ZERO;
}

static void fill_random(uint64_t *words, unsigned first, unsigned count, uint64_t key)
{
	for (unsigned i = first; i < first + count; i++)
		words[i] = mix(key + i * GOLDEN);
}

/* Runs of eight equal words: about a tenth of a page after LZ4. */
static void fill_runs(uint64_t *words, unsigned first, unsigned count, uint64_t key)
{
	for (unsigned i = first; i < first + count; i++)
		words[i] = (key & 0x00ffffff00ffff00ull) + (i / 64);
}

static void patch_at(uint64_t key, uint32_t n, unsigned *ret_offset, uint8_t *ret_value)
{
	uint64_t x = mix(key ^ ((n + 1) * GOLDEN));

	*ret_offset = (unsigned)(x % PATTERN_PAGE);
	*ret_value = (uint8_t)(x >> 56);
}

void pattern_patch(const struct pattern *pattern, unsigned *ret_offset, uint8_t *ret_value)
{
	patch_at(pattern->key, pattern->patches, ret_offset, ret_value);
}

void pattern_fill(uint8_t buf[PATTERN_PAGE], const struct pattern *pattern)
{
	uint64_t words[PATTERN_WORDS];
	unsigned offset;
	uint8_t value;

	switch (pattern_kind_of(pattern->key)) {
	case PATTERN_COMPRESSIBLE:
		fill_runs(words, 0, PATTERN_WORDS, pattern->key);
		break;
	case PATTERN_INCOMPRESSIBLE:
		fill_random(words, 0, PATTERN_WORDS, pattern->key);
		break;
	case PATTERN_MIXED:
		fill_random(words, 0, PATTERN_WORDS / 2, pattern->key);
		fill_runs(words, PATTERN_WORDS / 2, PATTERN_WORDS / 2, pattern->key);
		break;
	default:
		memset(words, 0, sizeof(words));
	}
	memcpy(buf, words, PATTERN_PAGE);
	for (uint32_t n = 0; n < pattern->patches; n++) {
		patch_at(pattern->key, n, &offset, &value);
		buf[offset] = value;
	}
}

int pattern_compare(const void *page, const struct pattern *pattern)
{
	uint8_t expected[PATTERN_PAGE], seen[PATTERN_PAGE];

	pattern_fill(expected, pattern);
	if (!memcmp(page, expected, PATTERN_PAGE))
		return -1;
	memcpy(seen, page, PATTERN_PAGE);
	for (unsigned i = 0; i < PATTERN_PAGE; i++)
		if (seen[i] != expected[i])
			return (int)i;
	return 0; /* it differed a moment ago: a byte that changes by itself is as wrong as any */
}
