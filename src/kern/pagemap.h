/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PAGEMAP_SCAN: which pages of this process are there, and which of them have not been written since they were armed. */
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

/*
 * Arms all pages of the range that are there, in memory registered with ob_uffd_register_armable(): the next write to one, or
 * its being moved or copied to, disarms it. Holes are left alone (an armed one would refuse UFFDIO_MOVE). 0 or -errno; what was armed stays so.
 */
int ob_pagemap_arm(int fd, uint64_t start, uint64_t length) OB_MUST_CHECK;

/*
 * Like ob_pagemap_present(), the bits being those of pages that are armed still: nobody has written them since. What
 * ob_uffd_guard() protects is among them.
 */
int ob_pagemap_unwritten(int fd, uint64_t start, uint64_t length, uint64_t *bitmap) OB_MUST_CHECK;

/* Like ob_pagemap_present(), without what the kernel has swapped out. */
int ob_pagemap_in_ram(int fd, uint64_t start, uint64_t length, uint64_t *bitmap) OB_MUST_CHECK;

/* Like ob_pagemap_present(), the bits being those of the kernel's one page of zeros. */
int ob_pagemap_zero(int fd, uint64_t start, uint64_t length, uint64_t *bitmap) OB_MUST_CHECK;

/* Whether a large page is mapped at start, a multiple of 2 MiB. 1, 0, or -errno. */
int ob_pagemap_is_large(int fd, uint64_t start) OB_MUST_CHECK;

#endif
