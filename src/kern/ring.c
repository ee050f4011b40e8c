/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/ring.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "kern/probe.h"

#define DEPTH_MAX 256u

struct ob_ring {
	struct io_uring uring;
	pthread_mutex_t lock; /* submission */
	unsigned depth;
	unsigned under_way;   /* atomic; it also orders what goes through the kernel: take_room() */
	int event;
};

int ob_ring_create(unsigned depth, struct ob_ring **ret_ring)
{
	struct ob_ring *ring;
	int r = ob_fault(OB_FP_ring_create);

	if (r < 0)
		return r;
	if (ob_kern_pretend_without("io_uring"))
		return -ENOSYS;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	ring->depth = OB_MIN(OB_MAX(depth, 1u), DEPTH_MAX);
	ring->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = ring->event < 0 ? -errno : io_uring_queue_init(ring->depth, &ring->uring, 0);
	if (r < 0) {
		ob_fd_close(&ring->event);
		free(ring);
		return r;
	}
	pthread_mutex_init(&ring->lock, NULL);
	io_uring_ring_dontfork(&ring->uring);
	r = io_uring_register_eventfd(&ring->uring, ring->event);
	if (r < 0) {
		ob_ring_destroy(ring);
		return r;
	}
	*ret_ring = ring;
	return 0;
}

void ob_ring_destroy(struct ob_ring *ring)
{
	if (!ring)
		return;
	io_uring_queue_exit(&ring->uring);
	ob_fd_close(&ring->event);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

int ob_ring_event(const struct ob_ring *ring)
{
	return ring->event;
}

void ob_ring_reset_event(struct ob_ring *ring)
{
	uint64_t drained;

	if (read(ring->event, &drained, sizeof(drained)) < 0)
		return; /* it was not set */
}

static void prepare(struct io_uring_sqe *sqe, const struct ob_ring_request *request)
{
	if (request->write)
		io_uring_prep_write(sqe, request->fd, request->buffer, (unsigned)request->length, request->offset);
	else
		io_uring_prep_read(sqe, request->fd, request->buffer, (unsigned)request->length, request->offset);
	io_uring_sqe_set_data(sqe, request->cookie);
}

/*
 * Gives what is queued to the kernel, the last n of it the caller's. What it will not take now is turned into requests for
 * nothing, so that nothing stays behind. Returns how many of the n it took, or -errno if none.
 */
static int give(struct ob_ring *ring, struct io_uring_sqe *const *sqes, unsigned n)
{
	unsigned left;
	int r;

	do
		r = io_uring_submit(&ring->uring);
	while (r == -EINTR);
	left = io_uring_sq_ready(&ring->uring);
	left = OB_MIN(left, n);
	for (unsigned i = n - left; i < n; i++) {
		io_uring_prep_nop(sqes[i]);
		io_uring_sqe_set_data(sqes[i], NULL);
	}
	return left < n ? (int)(n - left) : r < 0 ? r : -EAGAIN;
}

/*
 * Takes room for up to n requests under way. Returns for how many there was.
 *
 * What the caller wrote into a request must be seen by who reaps it. The kernel orders that; the language does not know of
 * it, nor does a tool that looks for races. So the counter that both change anyway carries it: released here, acquired by
 * ob_ring_reap(). All changes of it are read-modify-write, so each release holds until the counter is read.
 */
static unsigned take_room(struct ob_ring *ring, unsigned n)
{
	unsigned before = __atomic_fetch_add(&ring->under_way, n, __ATOMIC_RELEASE);
	unsigned room = before < ring->depth ? OB_MIN(ring->depth - before, n) : 0;

	__atomic_fetch_sub(&ring->under_way, n - room, __ATOMIC_RELAXED);
	return room;
}

int ob_ring_submit(struct ob_ring *ring, const struct ob_ring_request *requests, unsigned n)
{
	struct io_uring_sqe *sqes[OB_RING_SUBMIT_MAX];
	unsigned room = take_room(ring, OB_MIN(n, OB_RING_SUBMIT_MAX)), count = 0;
	int r = -EBUSY;

	if (!room)
		return -EBUSY;
	pthread_mutex_lock(&ring->lock);
	while (count < room && (sqes[count] = io_uring_get_sqe(&ring->uring))) {
		prepare(sqes[count], &requests[count]);
		count++;
	}
	if (count)
		r = give(ring, sqes, count);
	pthread_mutex_unlock(&ring->lock);
	__atomic_fetch_sub(&ring->under_way, room - (unsigned)OB_MAX(r, 0), __ATOMIC_RELAXED);
	return r;
}

int ob_ring_reap(struct ob_ring *ring, void **ret_cookie, int *ret_result)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		*ret_cookie = io_uring_cqe_get_data(cqe);
		*ret_result = cqe->res;
		io_uring_cqe_seen(&ring->uring, cqe);
		if (!*ret_cookie)
			continue; /* one that the kernel would not take at first */
		__atomic_fetch_sub(&ring->under_way, 1, __ATOMIC_ACQUIRE);
		return 1;
	}
	return 0;
}

int ob_ring_wait(struct ob_ring *ring)
{
	struct io_uring_cqe *cqe;
	int r;

	do
		r = io_uring_wait_cqe(&ring->uring, &cqe);
	while (r == -EINTR);
	return r;
}

static int spin(struct ob_ring *ring, uint64_t ns)
{
	uint64_t end = ns ? ob_now_ns() + ns : 0;

	while (!io_uring_cq_ready(&ring->uring)) {
		if (!ns || ob_now_ns() >= end)
			return -ETIME;
		__builtin_ia32_pause();
	}
	return 0;
}

int ob_ring_wait_quietly(struct ob_ring *ring, uint64_t spin_ns, uint64_t timeout_ns)
{
	struct __kernel_timespec timeout = { .tv_sec = (int64_t)(timeout_ns / 1000000000), .tv_nsec = (long long)(timeout_ns % 1000000000) };
	struct io_uring_cqe *cqe;
	int quiet = io_uring_cq_eventfd_toggle(&ring->uring, false) == 0, r;

	r = spin(ring, spin_ns);
	if (r < 0)
		r = io_uring_wait_cqe_timeout(&ring->uring, &cqe, &timeout);
	/* What ends from now on sets the event; what has ended before is reaped. */
	if (quiet && io_uring_cq_eventfd_toggle(&ring->uring, true) < 0)
		return -EIO;
	return r;
}
