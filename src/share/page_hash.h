/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hash under which pages are offered: XXH3, 128 bits, over a page of 4 KiB, with a key of 192 bytes. */
#ifndef OB_SHARE_PAGE_HASH_H
#define OB_SHARE_PAGE_HASH_H

#include <stdint.h>

#define OB_PAGE_HASH_BYTES 4096
#define OB_PAGE_HASH_KEY   192

void ob_page_hash(const void *key, const void *page, uint64_t *ret_lo, uint64_t *ret_hi);

#endif
