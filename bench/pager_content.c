/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pager_content.h"

#include <string.h>

/* Eight bytes each, as text lies in memory when programs keep it. */
static const char vocabulary[][9] = {
	"content-", "request ", "response", "accept: ", "encoding", "gzip, de", "session=", "user_id\"", "{\"name\":",
	"\"value\":", "timeout ", "warning:", "error at", "connect ", "https://", "www.exam", "ple.com/", "index.ht",
	"ml?page=", "2024-11-", "T08:31:4", "INFO   [", "worker-3", "] handle", "d in 12 ", "ms (cach", "e hit), ",
	"next try", "SELECT *", " FROM it", "ems WHER", "E id = ?",
};

struct filling {
	uint64_t random;     /* state */
	uint64_t areas[4];   /* where the page's pointers point to */
	uint64_t *words;
	unsigned at;
};

static void put(struct filling *filling, uint64_t word)
{
	if (filling->at < PAGER_WORDS)
		filling->words[filling->at++] = word;
}

/* One object of a heap: what its bits say that it is. */
static void put_object(struct filling *filling)
{
	uint64_t bits = pager_random(&filling->random), word;
	unsigned kind = (unsigned)(bits & 15), length = 1 + (unsigned)((bits >> 4) & 7);

	bits >>= 8;
	if (kind < 5) {
		for (unsigned i = 0; i < length; i++)
			put(filling, 0);
	} else if (kind < 8) {
		put(filling, bits & 0xfff);
	} else if (kind < 12) {
		put(filling, filling->areas[bits & 3] + ((bits >> 2) & 0xfff0));
	} else if (kind < 14) {
		for (unsigned i = 0; i < (length + 1) / 2; i++, bits >>= 5) {
			memcpy(&word, vocabulary[bits & 31], sizeof(word));
			put(filling, word);
		}
	} else {
		put(filling, bits);
	}
}

static void fill_compressible(uint64_t *words, uint64_t random)
{
	struct filling filling = { .random = random, .words = words };

	for (unsigned i = 0; i < 4; i++)
		filling.areas[i] = 0x7f0000000000ull + (pager_random(&filling.random) & 0xfffffff0000ull);
	while (filling.at < PAGER_WORDS)
		put_object(&filling);
}

void pager_content_fill(uint64_t words[PAGER_WORDS], enum pager_content content, uint64_t seed, uint32_t page,
			uint32_t version)
{
	uint64_t random = pager_mix(seed * 0x9e3779b97f4a7c15ull + page);

	switch (content) {
	case PAGER_ZERO:
		memset(words, 0, PAGER_PAGE);
		return;
	case PAGER_COMPRESSIBLE:
		fill_compressible(words, random);
		break;
	case PAGER_INCOMPRESSIBLE:
		for (unsigned i = 0; i < PAGER_WORDS; i++)
			words[i] = pager_random(&random);
		break;
	}
	words[pager_stamp_word(page)] = pager_stamp(content, page, version);
}
