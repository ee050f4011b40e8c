/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "kern/probe.h"

/* ABI that is newer than Debian 12's headers (Linux 6.1): include/uapi/linux/fs.h of 6.7. */
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct scan_region {
	uint64_t start, end, categories;
};
#define SCAN_IOCTL   _IOWR('f', 16, struct scan_arg)
#define PAGE_WRITTEN (1ull << 1)
#define PAGE_PRESENT (1ull << 3)
#define PAGE_SWAPPED (1ull << 4)
#define PAGE_ZERO    (1ull << 5)
#define PAGE_HUGE    (1ull << 6)

#define SCAN_ARM     (1ull << 0) /* PM_SCAN_WP_MATCHING */
#define SCAN_CHECK   (1ull << 1) /* PM_SCAN_CHECK_WPASYNC: fail rather than pass over what cannot be armed */

#define PAGE_BYTES  4096ull
#define LARGE_BYTES (2ull << 20)
#define MAX_FOUND  64

typedef void found_function(void *context, uint64_t start, uint64_t end);

/* What is looked for among the pages that are there; and what is done with them. */
enum look { LOOK_PRESENT, LOOK_IN_RAM, LOOK_UNWRITTEN, LOOK_AND_ARM, LOOK_LARGE, LOOK_ZERO };

static uint64_t category_of(enum look look)
{
	switch (look) {
	case LOOK_IN_RAM:
		return PAGE_PRESENT;
	case LOOK_UNWRITTEN:
		return PAGE_WRITTEN;
	case LOOK_LARGE:
		return PAGE_HUGE;
	case LOOK_ZERO:
		return PAGE_ZERO;
	default:
		return 0;
	}
}

/* Walks the range and hands each run of pages that are there, and such as are looked for, to found(). */
static int scan(int fd, enum look look, uint64_t start, uint64_t end, found_function *found, void *context)
{
	int r = ob_fault(OB_FP_pagemap_scan);

	if (r < 0)
		return r;
	while (start < end) {
		struct scan_region regions[MAX_FOUND];
		struct scan_arg arg = {
			.size = sizeof(arg),
			.flags = look == LOOK_AND_ARM ? SCAN_ARM | SCAN_CHECK : 0,
			.category_inverted = look == LOOK_UNWRITTEN ? PAGE_WRITTEN : 0,
			.category_mask = category_of(look),
			.start = start,
			.end = end,
			.vec = (uint64_t)(uintptr_t)regions,
			.vec_len = MAX_FOUND,
			.category_anyof_mask = PAGE_PRESENT | PAGE_SWAPPED,
			.return_mask = PAGE_PRESENT | PAGE_SWAPPED,
		};
		long n = syscall(SYS_ioctl, fd, SCAN_IOCTL, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (long i = 0; i < n; i++)
			found(context, regions[i].start, regions[i].end);
		if (arg.walk_end <= start)
			return -EIO;
		start = arg.walk_end;
	}
	return 0;
}

struct present {
	uint64_t start, *bitmap;
	int pages;
};

static void mark_present(void *context, uint64_t start, uint64_t end)
{
	struct present *present = context;

	for (uint64_t at = start; at < end; at += PAGE_BYTES) {
		uint64_t page = (at - present->start) / PAGE_BYTES;

		present->bitmap[page / 64] |= 1ull << (page % 64);
		present->pages++;
	}
}

static int mark(int fd, enum look look, uint64_t start, uint64_t length, uint64_t *bitmap)
{
	struct present present = { start, bitmap, 0 };
	int r;

	memset(bitmap, 0, (length / PAGE_BYTES + 63) / 64 * 8);
	r = scan(fd, look, start, start + length, mark_present, &present);
	return r < 0 ? r : present.pages;
}

int ob_pagemap_present(int fd, uint64_t start, uint64_t length, uint64_t *bitmap)
{
	return mark(fd, LOOK_PRESENT, start, length, bitmap);
}

int ob_pagemap_in_ram(int fd, uint64_t start, uint64_t length, uint64_t *bitmap)
{
	return mark(fd, LOOK_IN_RAM, start, length, bitmap);
}

int ob_pagemap_unwritten(int fd, uint64_t start, uint64_t length, uint64_t *bitmap)
{
	return mark(fd, LOOK_UNWRITTEN, start, length, bitmap);
}

int ob_pagemap_zero(int fd, uint64_t start, uint64_t length, uint64_t *bitmap)
{
	return mark(fd, LOOK_ZERO, start, length, bitmap);
}

static void count_present(void *context, uint64_t start, uint64_t end)
{
	*(uint64_t *)context += (end - start) / PAGE_BYTES;
}

int ob_pagemap_count(int fd, uint64_t start, uint64_t length, uint64_t *ret_pages)
{
	uint64_t pages = 0;
	int r = scan(fd, LOOK_PRESENT, start, start + length, count_present, &pages);

	if (r == 0)
		*ret_pages = pages;
	return r;
}

int ob_pagemap_is_large(int fd, uint64_t start)
{
	uint64_t pages = 0;
	int r = scan(fd, LOOK_LARGE, start, start + LARGE_BYTES, count_present, &pages);

	return r < 0 ? r : pages == LARGE_BYTES / PAGE_BYTES;
}

int ob_pagemap_arm(int fd, uint64_t start, uint64_t length)
{
	uint64_t pages = 0;

	return scan(fd, LOOK_AND_ARM, start, start + length, count_present, &pages);
}

int ob_pagemap_open(void)
{
	int OB_FD fd = -1;
	uint64_t pages;
	int r;

	if (ob_kern_pretend_without("pagemap_scan"))
		return -ENOSYS;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = ob_pagemap_count(fd, (uint64_t)(uintptr_t)&ob_fault_armed & ~(PAGE_BYTES - 1), PAGE_BYTES, &pages);
	if (r < 0)
		return r == -ENOTTY || r == -EINVAL ? -ENOSYS : r;
	return ob_fd_take(&fd);
}
