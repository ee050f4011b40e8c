/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a page holds: zero or not, its hash, its compressed form. Pure functions over one page of 4 KiB. */
#ifndef OB_ENGINE_CONTENT_H
#define OB_ENGINE_CONTENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_COMPRESSED_MAX 3072u /* bytes; a page that does not get this small is called incompressible */

struct ob_hash {
	uint64_t low, high;
};

/* A secret of this process, so that nobody can prepare two pages with one hash. */
struct ob_hash_key {
	unsigned char secret[192];
};

/* What a thread needs to compress: no heap, and too large for a small stack. */
struct ob_compressor {
	union {
		char bytes[16416 + 64];
		uint64_t align;
	} state;
	char out[OB_COMPRESSED_MAX];
};

/* Draws a key from the kernel. Returns 0 or -errno. */
int ob_hash_key_draw(struct ob_hash_key *ret_key) OB_MUST_CHECK;

/* XXH3, 128 bits, keyed. */
struct ob_hash ob_content_hash(const struct ob_hash_key *key, const void *page);

static inline int ob_hash_equal(struct ob_hash a, struct ob_hash b)
{
	return a.low == b.low && a.high == b.high;
}

/*
 * Sums of its n equal parts (1, 2, 4 or 8), 64 / n bits each, the first in the lowest. Never 0. Parts that differ may have the same sum:
 * whoever writes a page can make it so.
 */
uint64_t ob_content_sums(const void *page, unsigned n);

/* It will be read soon, and has not been for long: it is on its way into the cache afterwards. */
static inline void ob_content_expect(const void *page)
{
	for (unsigned i = 0; i < 4096; i += 64)
		__builtin_prefetch((const char *)page + i);
}

/* Whether every byte is zero. Stops at the first 64 bytes that are not. */
int ob_content_is_zero(const void *page);

/* LZ4 into c->out. Returns the length, or 0 when the page is incompressible. */
unsigned ob_content_compress(struct ob_compressor *c, const void *page);

/* The reverse. Returns 0, or -EILSEQ when data is not the compressed form of a page; page may be half written then. */
int ob_content_decompress(const void *data, unsigned length, void *page) OB_MUST_CHECK;

#endif
