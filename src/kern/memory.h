/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Anonymous memory of the engine's own, memory shared with overbookd, and advice about them; past any hook of mmap() and madvise() in this process. */
#ifndef OB_KERN_MEMORY_H
#define OB_KERN_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/compiler.h"

/*
 * Reserves length bytes of private anonymous memory that a child does not inherit and that no core dump holds; nothing
 * is allocated until it is touched. The address is congruent to `like` modulo 2 MiB, so that a large page can move
 * between the two whole; where `like` is 0 there are no large pages, since sparse tables would pay for all of each. Returns 0 or -errno.
 */
int ob_memory_reserve(size_t length, uint64_t like, void **ret_base) OB_MUST_CHECK;

/* The opposite; length as given then. NULL is allowed. */
void ob_memory_unreserve(void *base, size_t length);

/*
 * Maps a memory file of exactly length bytes, which nobody can make shorter or longer any more, shared with whoever else has it:
 * to write, or else to read what nobody can map to write any more. A child does not inherit it, and no core dump holds it.
 * Undone by ob_memory_unreserve(). Returns 0, -EINVAL (another size), -EPERM (it is not sealed so), or -errno.
 */
int ob_memory_map_sealed(int fd, size_t length, int writable, void **ret_base) OB_MUST_CHECK;

/*
 * For pages of a memory file that stand in for others: a private mapping of [offset, offset + length) that may be written as far as
 * its protection goes, and the other steps of putting it in place (engine/mapped.c). A child does not inherit it, and no core dump
 * holds it. 0 or -errno.
 */
int ob_memory_map_private(int fd, uint64_t offset, size_t length, void **ret_base) OB_MUST_CHECK;
/* Maps what is to be read there, so that the first reads are no faults; what it does not map they do. */
void ob_memory_populate(void *base, size_t length);

/* Makes pages that are there writable ones, which no page of zeros of the kernel is. Returns 0 or -errno. */
int ob_memory_own(void *base, size_t length);
/*
 * Moves a mapping, or a part of one, over whatever is at `to`; keep: and leaves one like it, without pages, where it was. One and
 * the same mapping has to span the range. Returns 0, -EFAULT (it does not), or another -errno; what was at `to` may be gone then.
 */
int ob_memory_move(void *from, size_t length, void *to, int keep) OB_MUST_CHECK;
/* Whether there is a mapping everywhere in the range (at most 2 MiB). */
int ob_memory_is_mapped(const void *base, size_t length);
/* Reserves addresses for later, 2 MiB aligned as above; or makes a part of them empty again. 0 or -errno. */
int ob_memory_reserve_addresses(size_t length, uint64_t like, void **ret_base) OB_MUST_CHECK;
int ob_memory_empty_addresses(void *base, size_t length) OB_MUST_CHECK;

/* madvise(MADV_DONTNEED): the pages are gone, the range reads as zero (or faults, where it is registered). 0 or -errno. */
int ob_memory_drop(void *addr, size_t length) OB_MUST_CHECK;

/*
 * madvise(MADV_COLLAPSE): makes a large page of 2 MiB (aligned) of small ones, whose bytes stay what they are. Page faults in the same
 * mapping wait for it: milliseconds. Returns 0; -EBUSY: there is a hole, or one of the kernel's zero pages, and the range is registered; -EAGAIN:
 * something holds a page; -EINVAL: a page is armed, there are to be no large pages, or the kernel is older than 6.1; or -errno.
 */
int ob_memory_collapse(void *addr, size_t length) OB_MUST_CHECK;

/*
 * Whether the kernel may make large pages of these small ones from now on (madvise(MADV_HUGEPAGE), or MADV_NOHUGEPAGE); those that there are
 * stay. Holes between mappings are passed over. 0, -EINVAL where the kernel has none, or -errno.
 */
int ob_memory_large_pages(void *addr, size_t length, int may_make) OB_MUST_CHECK;

/*
 * The same as ob_memory_drop() for up to OB_DROP_RANGES ranges, with one call and one flush of the processors' address caches where the kernel
 * can (process_madvise() on oneself: Linux 6.13, with one flush 6.16), else one by one. self is a pidfd of this process, or
 * -1. Returns how many ranges, from the first on, are gone.
 */
#define OB_DROP_RANGES 256u
unsigned ob_memory_drop_ranges(int self, const struct iovec *ranges, unsigned n);

/* A pidfd of this process, or -errno. */
int ob_memory_self(void);

/* The process's address space at most (RLIMIT_AS), in bytes; UINT64_MAX: no limit. */
uint64_t ob_memory_address_space(void);

#endif
