/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/swap_io.h"

#include <errno.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/fd.h"
#include "kern/ring.h"

#define PAGE_BYTES 4096ull

struct ob_swap_queue {
	struct ob_swap *swap;
	struct ob_ring *ring;  /* NULL: none here */
	unsigned under_way;    /* atomic */
};

int ob_swap_queue_create(struct ob_swap *swap, unsigned depth, struct ob_swap_queue **ret_queue)
{
	struct ob_swap_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return -ENOMEM;
	queue->swap = swap;
	if (ob_ring_create(depth, &queue->ring) < 0)
		queue->ring = NULL;
	*ret_queue = queue;
	return 0;
}

void ob_swap_queue_destroy(struct ob_swap_queue *queue)
{
	if (!queue)
		return;
	while (ob_swap_wait(queue))
		;
	ob_ring_destroy(queue->ring);
	free(queue);
}

int ob_swap_queue_event(const struct ob_swap_queue *queue)
{
	return queue->ring ? ob_ring_event(queue->ring) : -1;
}

void ob_swap_queue_reset_event(struct ob_swap_queue *queue)
{
	if (queue->ring)
		ob_ring_reset_event(queue->ring);
}

static int carry_out(struct ob_swap_queue *queue, const struct ob_swap_request *request)
{
	return request->write ? ob_swap_write_raw(queue->swap, request->slot, request->pages, request->buffer) :
				ob_swap_read_raw(queue->swap, request->slot, request->pages, request->buffer);
}

/* What a fault point had said takes effect when the request ends. */
static void end(struct ob_swap_request *request, int r)
{
	if (r == 0 && request->injected == OB_FAULT_SHORT)
		r = request->write ? -EIO : -ENODATA;
	if (r == 0 && !request->write && request->injected == OB_FAULT_FLIP)
		((unsigned char *)request->buffer)[1234] ^= 4;
	request->result = r;
}

/* Gives requests to the ring. Returns how many it took, from the first on. */
static unsigned submit(struct ob_swap_queue *queue, struct ob_swap_request *const *requests, unsigned n)
{
	struct ob_ring_request ring_requests[OB_SWAP_START_MAX];
	int taken;

	if (!queue->ring || !n)
		return 0;
	for (unsigned i = 0; i < n; i++)
		ring_requests[i] = (struct ob_ring_request){
			.fd = ob_swap_fd(queue->swap),
			.write = requests[i]->write,
			.buffer = requests[i]->buffer,
			.length = requests[i]->pages * PAGE_BYTES,
			.offset = requests[i]->slot * PAGE_BYTES,
			.cookie = requests[i],
		};
	__atomic_fetch_add(&queue->under_way, n, __ATOMIC_RELAXED);
	taken = ob_ring_submit(queue->ring, ring_requests, n);
	taken = OB_MAX(taken, 0);
	__atomic_fetch_sub(&queue->under_way, n - (unsigned)taken, __ATOMIC_RELAXED);
	return (unsigned)taken;
}

uint32_t ob_swap_start_many(struct ob_swap_queue *queue, struct ob_swap_request *const *requests, unsigned n)
{
	struct ob_swap_request *good[OB_SWAP_START_MAX];
	uint32_t ended = 0;
	unsigned count = 0, number[OB_SWAP_START_MAX];

	for (unsigned i = 0; i < n; i++) {
		struct ob_swap_request *request = requests[i];

		request->injected = ob_fault(request->write ? OB_FP_swap_write : OB_FP_swap_read);
		if (request->injected < 0) {
			request->result = request->injected;
			ended |= 1u << i;
			continue;
		}
		number[count] = i;
		good[count++] = request;
	}
	for (unsigned i = submit(queue, good, count); i < count; i++) {
		end(good[i], carry_out(queue, good[i]));
		ended |= 1u << number[i];
	}
	return ended;
}

/* A request that ended early is carried out once more, here. */
static void settle(struct ob_swap_queue *queue, struct ob_swap_request *request, int result)
{
	int all = (int)(request->pages * PAGE_BYTES);

	if (result < 0 && result != -EINTR && result != -EAGAIN)
		end(request, result);
	else
		end(request, result == all ? 0 : carry_out(queue, request));
	if (request->write && result == all)
		ob_swap_uncache(queue->swap, request->slot, request->pages);
}

struct ob_swap_request *ob_swap_reap(struct ob_swap_queue *queue)
{
	void *cookie;
	int result;

	if (!queue->ring || !ob_ring_reap(queue->ring, &cookie, &result))
		return NULL;
	__atomic_fetch_sub(&queue->under_way, 1, __ATOMIC_RELAXED);
	settle(queue, cookie, result);
	return cookie;
}

struct ob_swap_request *ob_swap_wait(struct ob_swap_queue *queue)
{
	struct ob_swap_request *request;

	while (!(request = ob_swap_reap(queue)))
		if (!__atomic_load_n(&queue->under_way, __ATOMIC_RELAXED) || ob_ring_wait(queue->ring) < 0)
			return NULL;
	return request;
}

void ob_swap_wait_quietly(struct ob_swap_queue *queue, uint64_t spin_ns, uint64_t timeout_ns)
{
	if (queue->ring && ob_ring_wait_quietly(queue->ring, spin_ns, timeout_ns) == -EIO)
		ob_swap_queue_reset_event(queue);
}
