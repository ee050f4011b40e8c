/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault points: places at which a test can make the code fail, in the real binaries.
 *
 * A point is named after the call that it stands in front of. Which points fire is set once, before threads start, by a
 * text in OVERBOOK_FAULT; or by ob_fault_configure(), while threads run too, by one thread at a time:
 *
 *     point:when:what[,point:when:what...]
 *     when   N      the Nth time only (1, 2, 3, ...)
 *            N+     the Nth time and ever after
 *            /N     every Nth time
 *            N-M    from the Nth to the Mth time
 *     what   an errno name (EIO, ENOSPC, ENOMEM, EAGAIN, EBUSY, EEXIST, EINVAL, ENOSYS, EPERM, ETIMEDOUT),
 *            short (the I/O is cut short; mremap: the target is gone, and nothing is moved), flip (one bit of the data is flipped), slow (20 ms of delay),
 *            denied (it is done, and EEXIST is answered as if it had not been: uffd_move alone)
 *
 * While nothing is configured a point costs one load and a branch. Counting is atomic; any thread may pass.
 */
#ifndef OB_BASE_FAULT_H
#define OB_BASE_FAULT_H

#include <stdint.h>

#include "base/compiler.h"
#include "base/error.h"

/* One line a point: name. The order is private. */
#define OB_FAULT_POINTS(X) \
	X(userfaultfd)     \
	X(uffd_register)   \
	X(uffd_unregister) \
	X(uffd_move)       \
	X(uffd_copy)       \
	X(uffd_zeropage)   \
	X(uffd_wake)       \
	X(uffd_protect)    \
	X(lift_io)         \
	X(pagemap_scan)    \
	X(madvise)         \
	X(mmap)            \
	X(mremap)          \
	X(ring_create)     \
	X(swap_open)       \
	X(swap_grow)       \
	X(swap_write)      \
	X(swap_read)       \
	X(pool_alloc)      \
	X(thread_create)   \
	X(affinity)        \
	X(page_return)     \
	X(link_connect)    \
	X(link_send)

enum ob_fault_point {
#define X(name) OB_FP_##name,
	OB_FAULT_POINTS(X)
#undef X
	OB_FP_COUNT
};

/* What a point answers when it is neither 0 nor a negative errno. */
#define OB_FAULT_SHORT  1
#define OB_FAULT_FLIP   2
#define OB_FAULT_DENIED 4

extern int ob_fault_armed; /* private to ob_fault() */
int ob_fault_slow(enum ob_fault_point point);

/* Returns 0 (go on), a negative errno to fail with, or OB_FAULT_*. */
static inline int ob_fault(enum ob_fault_point point)
{
	return OB_LIKELY(!__atomic_load_n(&ob_fault_armed, __ATOMIC_RELAXED)) ? 0 : ob_fault_slow(point);
}

/* Replaces the configuration; NULL or "" disarms everything. Counters start again at 0. Returns 0 or -EINVAL with the reason. */
int ob_fault_configure(const char *text, struct ob_error *err) OB_MUST_CHECK;

/* How often a point was passed, and how often it fired, since the last configuration. Only counted while armed. */
uint64_t ob_fault_passed(enum ob_fault_point point);
uint64_t ob_fault_fired(enum ob_fault_point point);

#endif
