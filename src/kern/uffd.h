/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userfaultfd: the calls that the engine makes, each with its fault point in front.
 *
 * Everything takes page-aligned addresses as integers. Kernel structures and numbers that Debian 12's headers lack are
 * in uffd.c. The ioctls go straight to the kernel, past any hook of ioctl() in this process.
 */
#ifndef OB_KERN_UFFD_H
#define OB_KERN_UFFD_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct ob_uffd_fault {
	uint64_t address; /* of the page */
	uint32_t thread;  /* the thread that waits, by the kernel's id */
	int is_write;
};

/*
 * Opens a userfaultfd (close-on-exec, non-blocking) that also sees faults of the kernel and can move pages; by the
 * system call, else by /dev/userfaultfd. *ret_features (may be NULL) gets the kernel's feature bits; WP_ASYNC only if it is
 * in effect, which it is where the kernel has it. Returns the
 * descriptor, -EPERM (neither way is allowed), -ENOSYS (no UFFDIO_MOVE), or another -errno.
 */
int ob_uffd_open(uint64_t *ret_features, int *ret_by_device) OB_MUST_CHECK;

/*
 * The same with mappings that keep their registration when they are moved (EVENT_REMAP): whoever moves one sleeps until somebody
 * has read that, and all that fills memory here answers -EAGAIN meanwhile. ob_uffd_read() reads it, and says nothing of it.
 */
int ob_uffd_open_movable(uint64_t *ret_features) OB_MUST_CHECK;

/*
 * A second one, of which mappings of memory files can be registered so that writes to them wait, and that are moved as above. The
 * faults that it tells of are such writes. Returns the descriptor, -ENOSYS (the kernel cannot), or another -errno.
 */
int ob_uffd_open_guard(void) OB_MUST_CHECK;
/* Registers a mapping of a memory file and protects it: every write waits, also to pages that come later. 0 or -errno. */
int ob_uffd_guard(int fd, uint64_t start, uint64_t length) OB_MUST_CHECK;

#define OB_UFFD_FEATURE_MOVE     (1ull << 16)
#define OB_UFFD_FEATURE_WP_ASYNC (1ull << 15)

/* Registers for missing faults, or takes that back (which wakes all who wait there). 0 or -errno. */
int ob_uffd_register(int fd, uint64_t start, uint64_t length) OB_MUST_CHECK;
/* The same, where WP_ASYNC is in effect, with memory that ob_pagemap_arm() works on. */
int ob_uffd_register_armable(int fd, uint64_t start, uint64_t length) OB_MUST_CHECK;
int ob_uffd_unregister(int fd, uint64_t start, uint64_t length) OB_MUST_CHECK;

/*
 * Moves, copies or zero-fills length bytes; wakes those who wait on dst unless nowake. Goes as far as it can:
 * *ret_done is how many bytes were done, from the start; the return value is 0 when that is all, or the -errno of the
 * first page that was not: -EBUSY pinned or shared by a fork, -ENOENT a hole in the source, -EEXIST dst has a page,
 * -EAGAIN the kernel could not lock it in many tries.
 */
int ob_uffd_move(int fd, uint64_t dst, uint64_t src, uint64_t length, int nowake, uint64_t *ret_done) OB_MUST_CHECK;
/* Waking, and passing over holes in the source, which count as done. */
int ob_uffd_move_with_holes(int fd, uint64_t dst, uint64_t src, uint64_t length, uint64_t *ret_done) OB_MUST_CHECK;
int ob_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t length, uint64_t *ret_done) OB_MUST_CHECK;
int ob_uffd_zeropage(int fd, uint64_t dst, uint64_t length, uint64_t *ret_done) OB_MUST_CHECK;

/* Makes those who wait on the range try again. 0 or -errno. */
int ob_uffd_wake(int fd, uint64_t start, uint64_t length);

/* Takes at most max faults that wait, without blocking. Returns their number (0: none now) or -errno. */
int ob_uffd_read(int fd, struct ob_uffd_fault *faults, unsigned max) OB_MUST_CHECK;

#endif
