/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * io_uring: reads and writes of a file that go on while the thread that asked for them does something else.
 *
 * Any thread may queue and submit (a lock inside); one thread at a time reaps. The buffer of a request belongs to the ring
 * until the request has been reaped, and who reaps sees what was written before it was submitted. A ring may be refused to a process (kernel.io_uring_disabled, a seccomp filter, a
 * kernel without it): whoever uses one must be able to do without.
 */
#ifndef OB_KERN_RING_H
#define OB_KERN_RING_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define OB_RING_SUBMIT_MAX 32u /* requests that one call takes at most */

struct ob_ring;

/* depth: requests under way at most, 1 to 256. Returns 0, -ENOSYS or -EPERM (no rings here), or another -errno. */
int ob_ring_create(unsigned depth, struct ob_ring **ret_ring) OB_MUST_CHECK;

/* Nothing may be under way. NULL is allowed. */
void ob_ring_destroy(struct ob_ring *ring);

/* A descriptor that becomes readable when a request has ended. It is read (reset) by ob_ring_reset_event() alone. */
int ob_ring_event(const struct ob_ring *ring);
void ob_ring_reset_event(struct ob_ring *ring);

struct ob_ring_request {
	int fd, write;
	void *buffer;
	size_t length;
	uint64_t offset;
	void *cookie;
};

/*
 * Queues n requests and gives them to the kernel with one call. Returns how many it took, from the first on; or -EBUSY (there
 * are depth requests under way), or another -errno: then it took none.
 */
int ob_ring_submit(struct ob_ring *ring, const struct ob_ring_request *requests, unsigned n) OB_MUST_CHECK;

/* Takes one request that has ended, if there is one. Returns 1, or 0. *ret_result is bytes done, or -errno. */
int ob_ring_reap(struct ob_ring *ring, void **ret_cookie, int *ret_result);

/* Waits until a request has ended. Returns 0, or -errno. */
int ob_ring_wait(struct ob_ring *ring);

/*
 * The same for at most spin_ns without sleeping, and then timeout_ns, and without the event being set by what ends meanwhile; by one
 * thread at a time, the one that reaps. It must reap afterwards, whatever is returned: 0, -ETIME, or another -errno.
 */
int ob_ring_wait_quietly(struct ob_ring *ring, uint64_t spin_ns, uint64_t timeout_ns);

#endif
