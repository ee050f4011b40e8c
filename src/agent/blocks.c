/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that guests see besides their RAM: what QEMU has for the tables of ACPI, for images of ROMs, for video. The engine does not look after it,
 * but while pages are shared what is zero in it is given back once a minute (engine/zeros.c). QEMU clears some of it at each reset of the guest.
 *
 * QEMU itself says which memory that is: it offers all that guests see to KSM (MADV_MERGEABLE), unless the user has said mem-merge=off; then it is
 * left alone. What it unmaps is forgotten before, and what it discards waits: the lock is held while memory is looked at. I/O does not wait for that,
 * it is counted, and memory is left alone meanwhile.
 * Blocks that are larger than BLOCK_MAX are not for this: they would be RAM that `overbook run` does not know.
 *
 * Whoever does I/O or discards memory asks first whether that is of a block, without the lock: a place in the table is filled and emptied as a whole as far
 * as he can see, since what is looked at is never what is just being unmapped or noted.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/log.h"

#define BLOCKS_MAX 16u
#define BLOCK_MAX  (64ull << 20)
#define PERIOD_NS  (60 * OB_NS_PER_SEC)

/* base is written last, and cleared first. */
struct block {
	char *base; /* NULL: none */
	size_t length;
};

static struct {
	pthread_mutex_t lock; /* of who changes the table, or the memory */
	struct block block[BLOCKS_MAX];
	unsigned top;         /* atomic: places beyond it were never used */
	unsigned io_inflight; /* atomic */
	uint64_t due_ns;      /* the link thread's own; 0: pages are not shared */
} blocks = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int overlaps(const struct block *block, const void *addr, size_t length)
{
	const char *base = __atomic_load_n(&block->base, __ATOMIC_ACQUIRE), *start = addr;

	return base && base < start + length && start < base + __atomic_load_n(&block->length, __ATOMIC_RELAXED);
}

static int is_of_block(const void *addr, size_t length)
{
	unsigned top = __atomic_load_n(&blocks.top, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; i < top; i++)
		if (overlaps(&blocks.block[i], addr, length))
			return 1;
	return 0;
}

void ob_blocks_note(void *addr, size_t length)
{
	unsigned i = 0;

	if (!length || length > BLOCK_MAX)
		return;
	ob_blocks_forget(addr, length);
	pthread_mutex_lock(&blocks.lock);
	while (i < blocks.top && blocks.block[i].base)
		i++;
	if (i < BLOCKS_MAX) {
		__atomic_store_n(&blocks.block[i].length, length, __ATOMIC_RELAXED);
		__atomic_store_n(&blocks.block[i].base, addr, __ATOMIC_RELEASE);
		if (i == blocks.top)
			__atomic_store_n(&blocks.top, i + 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&blocks.lock);
}

void ob_blocks_forget(const void *addr, size_t length)
{
	if (!is_of_block(addr, length))
		return;
	pthread_mutex_lock(&blocks.lock);
	for (unsigned i = 0; i < blocks.top; i++)
		if (overlaps(&blocks.block[i], addr, length))
			__atomic_store_n(&blocks.block[i].base, NULL, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&blocks.lock);
}

int ob_blocks_io_begin(const struct iovec *iov, int n)
{
	for (int i = 0; i < n; i++) {
		if (!is_of_block(iov[i].iov_base, iov[i].iov_len))
			continue;
		__atomic_fetch_add(&blocks.io_inflight, 1, __ATOMIC_SEQ_CST);
		return 1;
	}
	return 0;
}

void ob_blocks_io_end(int has_begun)
{
	if (has_begun)
		__atomic_fetch_sub(&blocks.io_inflight, 1, __ATOMIC_SEQ_CST);
}

int ob_blocks_advise(void *addr, size_t length, int advice)
{
	int is_known = is_of_block(addr, length), r;

	if (is_known)
		pthread_mutex_lock(&blocks.lock);
	r = (int)syscall(SYS_madvise, addr, length, advice);
	if (is_known)
		pthread_mutex_unlock(&blocks.lock);
	if (ob_agent.active && advice == MADV_MERGEABLE)
		ob_blocks_note(addr, length);
	else if (advice == MADV_UNMERGEABLE)
		ob_blocks_forget(addr, length);
	return r;
}

void ob_blocks_switch(int on)
{
	if (!on)
		blocks.due_ns = 0;
	else if (!blocks.due_ns)
		blocks.due_ns = ob_now_ns();
}

uint64_t ob_blocks_due_ns(void)
{
	return blocks.due_ns ? blocks.due_ns : UINT64_MAX;
}

void ob_blocks_turn(void)
{
	if (ob_now_ns() < ob_blocks_due_ns())
		return;
	pthread_mutex_lock(&blocks.lock);
	for (unsigned i = 0; i < blocks.top; i++) {
		const struct block *block = &blocks.block[i];
		int r = block->base ? ob_engine_drop_zeros(ob_agent_engine(), block->base, block->length, &blocks.io_inflight) : 0;

		if (r < 0)
			ob_log(OB_LOG_DEBUG, "zeros in %zu KiB at %p stay: %s", block->length >> 10, (void *)block->base, strerror(-r));
	}
	pthread_mutex_unlock(&blocks.lock);
	blocks.due_ns = ob_now_ns() + PERIOD_NS;
}
