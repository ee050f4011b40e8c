/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pattern.h"

#include <string.h>

#define STEP   0x9e3779b97f4a7c15ull
#define FACTOR 0xd6e8feb86659fd93ull
#define COMMON 0x436f6d6d6f6e2121ull /* the seed of what machines have in common */

static uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* What belongs into a page. */
struct content {
	enum pattern_kind kind;
	uint64_t base;
	unsigned word; /* the word that flip is applied to */
	uint64_t flip; /* 0, or of a nearly common page a bit */
};

static uint64_t base_of(uint64_t seed, uint64_t id, uint32_t version)
{
	return mix64(mix64(seed * STEP + id) + (version + 1ull) * FACTOR);
}

static enum pattern_kind kind_of(const struct pattern_mix *mix, uint64_t base, uint32_t version)
{
	unsigned draw = (unsigned)((base >> 20) % 100);

	if (!version || draw < mix->zero_percent)
		return PATTERN_ZERO;
	return draw < mix->zero_percent + mix->random_percent ? PATTERN_RANDOM : PATTERN_PATTERNED;
}

static struct content content_of(const struct pattern_mix *mix, uint64_t id, uint32_t version)
{
	uint64_t own = base_of(mix->seed, id, version);
	unsigned draw = (unsigned)(mix64(id * FACTOR) % 100);
	int common = draw < mix->same_percent + mix->nearly_percent;
	struct content c = { .base = common ? base_of(COMMON, id, version) : own };

	c.kind = kind_of(mix, c.base, version);
	if (common && draw >= mix->same_percent && version) {
		c.word = (unsigned)(own % PAGE_WORDS);
		c.flip = 1ull << (own >> 32) % 64;
	}
	return c;
}

static inline uint64_t random_word(uint64_t base, unsigned i)
{
	uint64_t w = (base + i * STEP) * FACTOR;

	return w ^ (w >> 29);
}

static uint64_t word_of(enum pattern_kind kind, uint64_t base, unsigned i)
{
	switch (kind) {
	case PATTERN_ZERO:
		return 0;
	case PATTERN_PATTERNED:
		return i % 16 < 3 ? random_word(base, i) : base;
	case PATTERN_RANDOM:
		break;
	}
	return random_word(base, i);
}

static uint64_t expected_word(const struct content *c, unsigned i)
{
	return word_of(c->kind, c->base, i) ^ (i == c->word ? c->flip : 0);
}

void pattern_fill(const struct pattern_mix *mix, uint64_t id, uint32_t version, void *page)
{
	struct content c = content_of(mix, id, version);
	uint64_t base = c.base, *word = page;

	switch (c.kind) {
	case PATTERN_ZERO:
		memset(page, 0, PAGE_BYTES);
		break;
	case PATTERN_PATTERNED:
		for (unsigned i = 0; i < PAGE_WORDS; i++)
			word[i] = word_of(PATTERN_PATTERNED, base, i);
		break;
	case PATTERN_RANDOM:
		for (unsigned i = 0; i < PAGE_WORDS; i++)
			word[i] = random_word(base, i);
		break;
	}
	word[c.word] ^= c.flip;
}

/* The fast pass: all differences at once, no branch a word. */
static uint64_t page_differs(enum pattern_kind kind, uint64_t base, const uint64_t *word)
{
	uint64_t differs = 0;

	switch (kind) {
	case PATTERN_ZERO:
		for (unsigned i = 0; i < PAGE_WORDS; i++)
			differs |= word[i];
		break;
	case PATTERN_PATTERNED:
		for (unsigned i = 0; i < PAGE_WORDS; i += 16) {
			for (unsigned k = 0; k < 3; k++)
				differs |= word[i + k] ^ random_word(base, i + k);
			for (unsigned k = 3; k < 16; k++)
				differs |= word[i + k] ^ base;
		}
		break;
	case PATTERN_RANDOM:
		for (unsigned i = 0; i < PAGE_WORDS; i++)
			differs |= word[i] ^ random_word(base, i);
		break;
	}
	return differs;
}

/* Whether the page is other than it should be. */
static uint64_t is_wrong(const struct content *c, const void *page)
{
	uint64_t copy[PAGE_WORDS];

	if (!c->flip)
		return page_differs(c->kind, c->base, page);
	memcpy(copy, page, sizeof(copy));
	copy[c->word] ^= c->flip;
	return page_differs(c->kind, c->base, copy);
}

int pattern_check(const struct pattern_mix *mix, uint64_t id, uint32_t version, const void *page, uint64_t *ret_want)
{
	struct content c = content_of(mix, id, version);
	const uint64_t *word = page;

	if (!is_wrong(&c, page))
		return -1;
	for (unsigned i = 0; i < PAGE_WORDS; i++)
		if (word[i] != expected_word(&c, i)) {
			*ret_want = expected_word(&c, i);
			return (int)i;
		}
	/* Wrong a moment ago and right now: memory that changes under its reader is wrong as well. */
	*ret_want = expected_word(&c, 0);
	return 0;
}

const char *pattern_guess(const struct pattern_mix *mix, uint64_t id, uint32_t version, const void *page)
{
	struct content c = content_of(mix, id, version), other = c;
	const uint64_t *word = page;
	uint64_t unused;
	unsigned wrong = 0;

	if (!page_differs(PATTERN_ZERO, 0, word))
		return "zero";
	other.flip = 0;
	if (c.flip && !is_wrong(&other, page))
		return "common";
	for (uint32_t back = 1; back < 64 && back < version; back++)
		if (pattern_check(mix, id, version - back, page, &unused) < 0)
			return "stale";
	for (unsigned i = 0; i < PAGE_WORDS; i++)
		wrong += word[i] != expected_word(&c, i);
	if (wrong == 1)
		return "word";
	return word[PAGE_WORDS - 1] == expected_word(&c, PAGE_WORDS - 1) ? "torn" : "unknown";
}
