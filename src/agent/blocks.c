/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that guests see besides their RAM: what QEMU has for the tables of ACPI, for images of ROMs, for video. The engine does not look after it,
 * but while pages are shared what is zero in it is given back once a minute (engine/zeros.c). QEMU clears some of it at each reset of the guest.
 *
 * QEMU itself says which memory that is: it offers all that guests see to KSM (MADV_MERGEABLE), unless the user has said mem-merge=off; then it is
 * left alone. What it unmaps is forgotten before: the lock is held while memory is looked at, so that it stays mapped for as long.
 * Blocks that are larger than BLOCK_MAX are not for this: they would be RAM that `overbook run` does not know.
 */
#include <pthread.h>
#include <string.h>

#include "agent/agent.h"
#include "base/clock.h"
#include "base/log.h"

#define BLOCKS_MAX 16u
#define BLOCK_MAX  (64ull << 20)
#define PERIOD_NS  (60 * OB_NS_PER_SEC)

static struct {
	pthread_mutex_t lock; /* the next two; count is atomic for reading */
	unsigned count;
	struct {
		char *base;
		size_t length;
	} block[BLOCKS_MAX];
	uint64_t due_ns; /* the link thread's own; 0: pages are not shared */
} blocks = { .lock = PTHREAD_MUTEX_INITIALIZER };

void ob_blocks_note(void *addr, size_t length)
{
	if (!length || length > BLOCK_MAX)
		return;
	ob_blocks_forget(addr, length);
	pthread_mutex_lock(&blocks.lock);
	if (blocks.count < BLOCKS_MAX) {
		blocks.block[blocks.count].base = addr;
		blocks.block[blocks.count].length = length;
		__atomic_store_n(&blocks.count, blocks.count + 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&blocks.lock);
}

void ob_blocks_forget(const void *addr, size_t length)
{
	const char *start = addr;

	if (!__atomic_load_n(&blocks.count, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&blocks.lock);
	for (unsigned i = blocks.count; i--;) {
		if (blocks.block[i].base >= start + length || start >= blocks.block[i].base + blocks.block[i].length)
			continue;
		blocks.block[i] = blocks.block[blocks.count - 1];
		__atomic_store_n(&blocks.count, blocks.count - 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&blocks.lock);
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
	for (unsigned i = 0; i < blocks.count; i++) {
		int r = ob_engine_drop_zeros(ob_agent_engine(), blocks.block[i].base, blocks.block[i].length);

		if (r < 0)
			ob_log(OB_LOG_DEBUG, "zeros in %zu KiB at %p stay: %s", blocks.block[i].length >> 10, (void *)blocks.block[i].base, strerror(-r));
	}
	pthread_mutex_unlock(&blocks.lock);
	blocks.due_ns = ob_now_ns() + PERIOD_NS;
}
