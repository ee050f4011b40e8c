/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The compressed pool: where pages lie that compress.
 *
 * Theory of operation. One arena of address space, reserved at start and touched as needed, cut into spans of 32 KiB.
 * A span holds objects of one size class (a multiple of 64 bytes); a bitmap says which are live. Spans with room of a
 * class hang in a list, so allocation takes the first; a span whose last object goes is kept for the next that is needed,
 * and when many are kept, half of them are given back to the kernel with one call (a call each would cost more than all
 * else here). The pool costs what its spans cost, the kept ones too. All live spans also hang in a queue in the order of their making: the
 * oldest holds what has been cold for longest, and is what is written back when the pool has become too large.
 *
 * Each class in use has a span that is half empty on average: of 47 classes 3/4 of a MiB, which is more than the pool of a small machine
 * holds. While a pool may take less than 8 MiB objects go to every fourth class alone, and are 1/16 larger on average.
 *
 * An object starts with a header of 12 bytes: the number of its page, its length, and how many objects had been stored before it. A handle is the
 * object's place in the arena in units of 64 bytes: 28 bits, so a pool is at most 16 GiB.
 *
 * Whether the pool is too large or too small shows in what is taken out of it again (housekeeping.c has the rule): an object that comes
 * back when few others have been stored since would have been kept out by a little more memory in place; one that comes back from
 * the oldest spans would have been read from storage with a little less pool. Both are counted.
 *
 * Locking: a mutex for each size class, around its objects; inside it one for all spans, taken when a span comes or goes.
 * The bytes of an object belong to whoever holds the lock of its page's chunk. Freeing neither allocates nor waits for I/O,
 * so fault service may do it.
 *
 * Failure: when the arena is exhausted or the limit reached, ob_pool_store says -ENOSPC and changes nothing. When the
 * kernel does not take spans back, they stay kept, accounted for.
 */
#ifndef OB_ENGINE_POOL_H
#define OB_ENGINE_POOL_H

#include <stdint.h>

#include "base/compiler.h"

struct ob_pool;

#define OB_POOL_SPAN_OBJECTS 256u /* at most this many objects in a span */

struct ob_pool_object {
	uint64_t page; /* the number that ob_pool_store was given */
	uint32_t handle;
};

/* arena_bytes: address space for it, cut to 16 GiB. self: as for ob_memory_drop_ranges(). cost (may not be NULL) is told how many bytes more or less the pool takes. Returns 0 or -errno. */
int ob_pool_create(uint64_t arena_bytes, int self, void (*cost)(void *context, int64_t delta_bytes), void *context,
		   struct ob_pool **ret_pool) OB_MUST_CHECK;
void ob_pool_destroy(struct ob_pool *pool);

/* Copies length (1 to OB_COMPRESSED_MAX) bytes in. Returns 0, or -ENOSPC beyond max_bytes of host memory or when the arena is full. */
int ob_pool_store(struct ob_pool *pool, uint64_t page, const void *data, unsigned length, uint64_t max_bytes,
		  uint32_t *ret_handle) OB_MUST_CHECK;

/* The bytes of a live object and their length; valid while the caller holds the lock of its page's chunk. */
const void *ob_pool_load(const struct ob_pool *pool, uint32_t handle, unsigned *ret_length);

void ob_pool_free(struct ob_pool *pool, uint32_t handle);

/* The guest wants the page of this object: to be told before it is freed. */
void ob_pool_touched(struct ob_pool *pool, uint32_t handle);

/* Of what was touched since ob_pool_watch(): how much of it soon, and how much of the rest in the oldest spans. */
struct ob_pool_reuse {
	uint64_t near, far;
};

void ob_pool_reuse(const struct ob_pool *pool, struct ob_pool_reuse *ret);

/* Counts anew. Near is what has been stored less than near_objects ago, far what lies in the oldest spans of so many bytes (OB_POOL_WATCH_MAX at most). */
#define OB_POOL_WATCH_MAX (64ull << 20)
void ob_pool_watch(struct ob_pool *pool, uint32_t near_objects, uint64_t far_bytes);

/*
 * Lists the live objects of the span that follows the oldest by `skip` spans. A hint: by the time the caller looks at a
 * page it may be elsewhere. Returns their number, 0 when there is no such span.
 */
unsigned ob_pool_oldest(struct ob_pool *pool, unsigned skip, struct ob_pool_object objects[OB_POOL_SPAN_OBJECTS]);

/* Gives the spans that are kept empty back to the kernel. */
void ob_pool_trim(struct ob_pool *pool);

/* Host memory taken by spans, in bytes. Takes no lock. */
uint64_t ob_pool_bytes(const struct ob_pool *pool);

/* Where the arena and the pool's own tables lie, and what the tables cost. */
void ob_pool_ranges(const struct ob_pool *pool, uint64_t ret_arena[2], uint64_t ret_tables[2]);

#endif
