/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PAGEMAP_SCAN: which pages of this process are there. */
#ifndef OB_KERN_PAGEMAP_H
#define OB_KERN_PAGEMAP_H

#include <stdint.h>

#include "base/compiler.h"

/* Opens /proc/self/pagemap and tries a scan. Returns the descriptor, -ENOSYS (no PAGEMAP_SCAN: before Linux 6.7), or -errno. */
int ob_pagemap_open(void) OB_MUST_CHECK;

/*
 * Sets bit (page number within the range) for every page that is mapped, the zero page included, or that the kernel
 * swapped out. bitmap has one bit a page and is zeroed first. Returns the number of such pages, or -errno.
 */
int ob_pagemap_present(int fd, uint64_t start, uint64_t length, uint64_t *bitmap) OB_MUST_CHECK;

/* Counts the same without a bitmap, for ranges of any size. Returns 0 or -errno. */
int ob_pagemap_count(int fd, uint64_t start, uint64_t length, uint64_t *ret_pages) OB_MUST_CHECK;

#endif
