/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kern/ring.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "kern/probe.h"

#define DEPTH_MAX 256

struct ob_ring {
	struct io_uring uring;
	pthread_mutex_t lock; /* submission */
	unsigned depth;
	unsigned under_way;   /* atomic */
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

/* Gives what is queued to the kernel. What it will not take now is turned into a request for nothing, so that nothing stays behind. */
static int give(struct ob_ring *ring, struct io_uring_sqe *sqe)
{
	int r;

	do
		r = io_uring_submit(&ring->uring);
	while (r == -EINTR);
	if (r >= 0 && !io_uring_sq_ready(&ring->uring))
		return 0;
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	return r < 0 ? r : -EAGAIN;
}

int ob_ring_submit(struct ob_ring *ring, const struct ob_ring_request *request)
{
	struct io_uring_sqe *sqe;
	int r = -EBUSY;

	if (__atomic_add_fetch(&ring->under_way, 1, __ATOMIC_RELAXED) > ring->depth) {
		__atomic_fetch_sub(&ring->under_way, 1, __ATOMIC_RELAXED);
		return -EBUSY;
	}
	pthread_mutex_lock(&ring->lock);
	sqe = io_uring_get_sqe(&ring->uring);
	if (sqe) {
		prepare(sqe, request);
		r = give(ring, sqe);
	}
	pthread_mutex_unlock(&ring->lock);
	if (r < 0)
		__atomic_fetch_sub(&ring->under_way, 1, __ATOMIC_RELAXED);
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
		__atomic_fetch_sub(&ring->under_way, 1, __ATOMIC_RELAXED);
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
