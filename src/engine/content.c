/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/content.h"

#include <errno.h>
#include <lz4.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE_BYTES 4096

_Static_assert(sizeof(((struct ob_hash_key *)0)->secret) >= XXH3_SECRET_SIZE_MIN, "a secret of XXH3 is at least this long");

int ob_hash_key_draw(struct ob_hash_key *ret_key)
{
	ssize_t n = getrandom(ret_key->secret, sizeof(ret_key->secret), 0);

	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(ret_key->secret) ? 0 : -EIO;
}

struct ob_hash ob_content_hash(const struct ob_hash_key *key, const void *page)
{
	XXH128_hash_t h = XXH3_128bits_withSecret(page, PAGE_BYTES, key->secret, sizeof(key->secret));

	return (struct ob_hash){ h.low64, h.high64 };
}

uint64_t ob_content_sums(const void *page, unsigned n)
{
	unsigned bits = 64 / n;
	uint64_t sums = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t sum = XXH3_64bits((const char *)page + i * (PAGE_BYTES / n), PAGE_BYTES / n);

		sums |= sum >> (64 - bits) << i * bits;
	}
	return sums ? sums : 1;
}

int ob_content_is_zero(const void *page)
{
	const uint64_t *words = page;

	for (unsigned i = 0; i < PAGE_BYTES / 8; i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
		    words[i + 7])
			return 0;
	return 1;
}

unsigned ob_content_compress(struct ob_compressor *c, const void *page)
{
	int n;

	if ((size_t)LZ4_sizeofState() > sizeof(c->state))
		return 0;
	n = LZ4_compress_fast_extState(&c->state, page, c->out, PAGE_BYTES, (int)sizeof(c->out), 1);
	return n > 0 ? (unsigned)n : 0;
}

int ob_content_decompress(const void *data, unsigned length, void *page)
{
	return LZ4_decompress_safe(data, page, (int)length, PAGE_BYTES) == PAGE_BYTES ? 0 : -EILSEQ;
}
