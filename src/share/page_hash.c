/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "share/page_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(OB_PAGE_HASH_KEY >= XXH3_SECRET_SIZE_MIN, "a secret of XXH3 is at least this long");

void ob_page_hash(const void *key, const void *page, uint64_t *ret_lo, uint64_t *ret_hi)
{
	XXH128_hash_t hash = XXH3_128bits_withSecret(page, OB_PAGE_HASH_BYTES, key, OB_PAGE_HASH_KEY);

	*ret_lo = hash.low64;
	*ret_hi = hash.high64;
}
