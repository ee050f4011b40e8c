/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads and writes of the swap store that go on while their thread does something else.
 *
 * A queue is a ring of the kernel's (io_uring) on the store's file, or nothing where there are no rings: then a request is
 * carried out by whoever starts it. So is one for which the ring has no room. The caller owns the request and its buffer,
 * and touches neither until he has the request back. Any thread may start requests; one at a time takes them back.
 *
 * What ob_swap_read() and ob_swap_write() promise holds for each request: all of it, or an error.
 */
#ifndef OB_ENGINE_SWAP_IO_H
#define OB_ENGINE_SWAP_IO_H

#include <stdint.h>

#include "base/compiler.h"
#include "engine/swap.h"
#include "kern/ring.h"

struct ob_swap_request {
	uint32_t slot;
	unsigned pages;
	int write;
	void *buffer;   /* page aligned */
	int result;     /* when it has ended: 0 or -errno */
	int injected;   /* what the fault point said */
};

struct ob_swap_queue;

/* depth: requests under way at most. Returns 0 or -ENOMEM; a queue without a ring is a success. */
int ob_swap_queue_create(struct ob_swap *swap, unsigned depth, struct ob_swap_queue **ret_queue) OB_MUST_CHECK;

/* Waits for what is under way. NULL is allowed. */
void ob_swap_queue_destroy(struct ob_swap_queue *queue);

/* A descriptor that is readable when a request has ended, or -1: nothing is ever under way. */
int ob_swap_queue_event(const struct ob_swap_queue *queue);
void ob_swap_queue_reset_event(struct ob_swap_queue *queue);

#define OB_SWAP_START_MAX OB_RING_SUBMIT_MAX

/*
 * Starts up to OB_SWAP_START_MAX requests together. Returns a mask of those that have ended already; ob_swap_reap() will give
 * the others back, and may have done so to another thread by now.
 */
uint32_t ob_swap_start_many(struct ob_swap_queue *queue, struct ob_swap_request *const *requests, unsigned n) OB_MUST_CHECK;

/* Starts one. Returns 1 when it has ended already. */
static inline int ob_swap_start(struct ob_swap_queue *queue, struct ob_swap_request *request)
{
	return (int)ob_swap_start_many(queue, &request, 1);
}

/* A request that has ended, or NULL. */
struct ob_swap_request *ob_swap_reap(struct ob_swap_queue *queue);

/* Waits for the end of a request, as ob_ring_wait_quietly(). */
void ob_swap_wait_quietly(struct ob_swap_queue *queue, uint64_t spin_ns, uint64_t timeout_ns);

/* The same as ob_swap_reap(), and waits for one; NULL when none is under way. */
struct ob_swap_request *ob_swap_wait(struct ob_swap_queue *queue);

#endif
