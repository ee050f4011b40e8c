/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the engine share. Nothing outside src/engine includes this.
 *
 * Threads: fault workers (fault_service.c), one reclaimer that also does the housekeeping (reclaim.c), and the host's
 * own threads in ob_engine_discard(), ob_engine_io_begin() and so on.
 *
 * Lock order, outermost first; nobody takes a lock to the left of one that he holds:
 *
 *     regions_lock (read)  ->  chunk.lock  ->  swap's lock, pool's lock
 *                                          ->  pending_lock, reclaim_lock, unreadable_lock (leaves)
 *
 * No lock of a chunk is held during I/O: a page that is being read is BUSY, one that is being written is WRITING.
 * regions_lock is held for reading meanwhile, so a region does not go while a page of it is under way.
 *
 * Chunks are open or tracked. An open chunk is not registered with userfaultfd: the kernel answers its first touches,
 * with large pages where it can, and the engine does not know which of its pages are there; under a limit it counts as
 * full. A tracked chunk is registered and each of its words is exact. Chunks are opened when they are touched for the
 * first time and there is plenty of room, and tracked again when room gets short.
 */
#ifndef OB_ENGINE_INTERNAL_H
#define OB_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdint.h>

#include "engine/content.h"
#include "engine/engine.h"
#include "engine/page.h"
#include "engine/pool.h"
#include "engine/swap.h"

#define OB_FAULT_THREADS_MAX 8
#define OB_PENDING_MAX       1024
#define OB_WINDOW_MAX        16u /* pages that one fault brings back at most */
#define OB_QUEUE_END         UINT32_MAX
#define OB_BATCH_PAGES       64u /* pages that one write to the store takes at most */

struct ob_chunk {
	pthread_mutex_t lock;
	uint32_t waiters;      /* atomic: those who want the lock in a hurry; background work steps aside for them */
	uint32_t io_inflight;  /* atomic: system calls of the host on this chunk's memory */
	uint16_t count[OB_PAGE_STATES];
	uint16_t pages;        /* 512, or less in the last chunk of a region */
	uint16_t granted;      /* while open: pages charged for it */
	uint16_t last_fault;   /* page number in the chunk */
	uint8_t window;        /* pages that the next fault brings along: 1 to OB_WINDOW_MAX */
	uint8_t heat;          /* what came back from the bench since the clock last passed, in units of 8 pages */
	uint8_t open;
	uint8_t inexact;       /* some RESIDENT pages may be holes: the kernel could not be asked */
	uint8_t queued;        /* in the bench queue; this and the next are the reclaimer's */
	uint32_t queue_next;   /* id of the chunk that was queued after this one */
};

struct ob_region {
	uint64_t base, length; /* base is 0 in an unused slot; both are atomic for ob_engine_covers() */
	char *bench;           /* congruent to base modulo 2 MiB: page n of the region lies at page n of the bench */
	uint64_t *words;
	struct ob_chunk *chunks;
	uint32_t chunk_count;
	size_t words_bytes, chunks_bytes;
};

/* A fault that could not be answered yet. */
struct ob_pending {
	uint64_t address;
	uint64_t arrived_ns;
	uint64_t retry_ns;   /* 0: as soon as there is room */
	int stalled;         /* has been counted as waiting for room */
	int unreadable;      /* counted in engine->unreadable */
};

struct ob_worker {
	struct ob_engine *engine;
	pthread_t thread;
	char *buffer;         /* OB_WINDOW_MAX pages */
	uint64_t gap_ns;      /* average time between batches of events, to decide whether to spin */
	uint64_t last_ns;
};

struct ob_batch_entry {
	uint32_t region, slot;
	uint64_t page;
};

struct ob_batch {
	struct ob_batch_entry entry[OB_BATCH_PAGES];
	unsigned count;
	char *buffer;         /* OB_BATCH_PAGES pages */
};

struct ob_reclaimer {
	pthread_t thread;
	uint32_t queue_head, queue_tail, queue_count; /* ids of chunks with benched pages, oldest first */
	uint32_t clock_region, clock_chunk;
	unsigned refused;     /* pages that found no place since a round last freed something */
	struct ob_compressor compressor;
	struct ob_batch batch;
	char *page;           /* a page to decompress into */
	uint64_t last_second_ns, last_bench, last_major;
	uint64_t present_scan_ns, swap_retry_ns, last_over_check_ns, round_end_ns;
};

struct ob_engine {
	int uffd, pagemap, room_event, stop_event;
	unsigned worker_count, ncpus;
	int started;          /* threads that run, for tear-down: workers, then 1 for the reclaimer */
	struct ob_engine_config config;
	struct ob_hash_key key;

	pthread_mutex_t limit_lock;   /* outermost: setting the limit against releasing; see release.c */
	pthread_rwlock_t regions_lock;
	struct ob_region region[OB_REGIONS_MAX];
	uint64_t ram_pages;

	/* All atomic. */
	uint64_t limit_bytes;
	int64_t cost_bytes;
	int64_t tables_bytes;
	int64_t open_pages;           /* granted to open chunks */
	int64_t open_present_pages;   /* found present in open chunks while there is no limit */
	int64_t open_chunks;
	int64_t in_state[OB_PAGE_STATES];
	uint64_t transitions[OB_TRANSITION_COUNT];
	int64_t cached_pages;
	uint64_t bench_target_pages;
	int engaged;                  /* a limit has been set and not been released */
	int engage_pending;           /* ... and the reclaimer has yet to take the memory into care */
	int counted;                  /* that has been done: in_state and cost_bytes tell the whole truth */
	int releasing;
	int stuck;                    /* nothing more can be reclaimed for now: the limit gives way */
	int degraded;
	int stop;
	struct ob_stats counters;     /* only the counters among its fields are used */
	struct ob_hists hists;

	struct ob_pool *pool;
	struct ob_swap *swap;         /* NULL: none */

	pthread_mutex_t event_lock;   /* who reads the userfaultfd */
	struct ob_worker worker[OB_FAULT_THREADS_MAX];

	pthread_mutex_t pending_lock;
	struct ob_pending pending[OB_PENDING_MAX];
	unsigned pending_count;       /* atomic for reading */

	pthread_mutex_t reclaim_lock;
	pthread_cond_t reclaim_cond;
	int reclaim_kicked;           /* atomic */
	struct ob_reclaimer reclaimer;

	pthread_mutex_t unreadable_lock;
	unsigned unreadable;          /* faults that wait for an unreadable page */
	int unreadable_told;
	char unreadable_cause[256];

	void *scratch;                /* one mapping for all buffers */
	size_t scratch_bytes;
	unsigned long vma_budget;     /* open chunks at most */
};

#define ob_count(engine, counter, n) __atomic_fetch_add(&(engine)->counters.counter, (uint64_t)(n), __ATOMIC_RELAXED)
#define ob_load(p)                   __atomic_load_n((p), __ATOMIC_RELAXED)
#define ob_store(p, v)               __atomic_store_n((p), (v), __ATOMIC_RELAXED)

/* --- chunk.c --- */

/* A chunk and the page in it that an address names. */
struct ob_place {
	struct ob_region *region;
	struct ob_chunk *chunk;
	uint32_t region_index;
	uint64_t chunk_first; /* page number, within the region, of the chunk's first page */
	uint64_t page;        /* page number within the region */
};

/* Finds the place of an address; the caller holds regions_lock. Returns 0, or -ENOENT. */
int ob_place_find(struct ob_engine *engine, uint64_t address, struct ob_place *ret_place);
/* The place of a chunk's first page. */
void ob_place_chunk(struct ob_engine *engine, uint32_t region, uint32_t chunk, struct ob_place *ret_place);

static inline uint64_t *ob_place_word(const struct ob_place *place, uint64_t page)
{
	return &place->region->words[page];
}

static inline uint64_t ob_place_ram(const struct ob_place *place, uint64_t page)
{
	return place->region->base + page * OB_PAGE_SIZE;
}

static inline char *ob_place_bench(const struct ob_place *place, uint64_t page)
{
	return place->region->bench + page * OB_PAGE_SIZE;
}

/* One past the chunk's last page. */
static inline uint64_t ob_place_end(const struct ob_place *place)
{
	return place->chunk_first + place->chunk->pages;
}

/* Locks a chunk in a hurry; or in the background, letting those in a hurry go first. */
void ob_chunk_lock(struct ob_chunk *chunk);
void ob_chunk_lock_background(struct ob_chunk *chunk);
void ob_chunk_unlock(struct ob_chunk *chunk);

/* Changes a page's state and counts it. bits: flags, slot and handle of the new word. */
void ob_page_move(struct ob_engine *engine, struct ob_chunk *chunk, uint64_t *word, enum ob_transition transition, uint64_t bits);

/* Replaces flags, slot and handle, not the state. */
void ob_page_set_bits(struct ob_engine *engine, uint64_t *word, uint64_t bits);

/* The run of pages from `page` on, up to `end`, whose words equal that of `page` in state and flags. */
unsigned ob_page_run(const struct ob_place *place, uint64_t page, uint64_t end);

/* Chunk locked. Registers an open chunk and finds out what is there. 0 or -errno: then it stays open. */
int ob_chunk_track(struct ob_engine *engine, struct ob_place *place);

/* Chunk locked, tracked, no page away. Unregisters it; granted is what the caller has charged for it. 0 or -errno. */
int ob_chunk_open(struct ob_engine *engine, struct ob_place *place, unsigned granted);

/* Something of the kernel's that should not happen: counted, and said at most once a second. */
void ob_engine_internal_error(struct ob_engine *engine, const char *what, int r, uint64_t address);

/* --- cost.c --- */

/* Adds to the machine's cost if it stays under the limit, or there is none, or nothing can be reclaimed. Returns whether it did. */
int ob_cost_try(struct ob_engine *engine, uint64_t pages);
/* The same, only if a reserve of an eighth of the limit stays free after it. */
int ob_cost_try_plenty(struct ob_engine *engine, uint64_t pages);
/* Adds or takes away without asking. */
void ob_cost_add(struct ob_engine *engine, int64_t pages);
/* Bytes of pool spans and tables; in the form that pool and store call back. */
void ob_cost_pool(void *engine, int64_t delta_bytes);
void ob_cost_tables(void *engine, int64_t delta_bytes);
/* Cost at which reclaim starts, and down to which it goes. */
int64_t ob_cost_high(const struct ob_engine *engine);
int64_t ob_cost_low(const struct ob_engine *engine);

/* Whether there is a limit and the cost is above the mark. */
int ob_cost_over(const struct ob_engine *engine, int64_t mark);
/* Sets or clears bits of `degraded`. */
void ob_degraded_set(struct ob_engine *engine, int bits, int on);

/* --- lift.c --- */

/* Chunk locked. Lifts what it can of the resident and pinned pages of a tracked chunk. Returns how many lie on the bench more than before. */
unsigned ob_lift_chunk(struct ob_engine *engine, struct ob_place *place);
/* Whether a system call of the host is reading or writing the chunk's memory. */
int ob_lift_io_inflight(const struct ob_chunk *chunk);
/* Chunk locked. Moves n benched pages from `page` on back and wakes those who wait. Returns how many came back, or -errno if not even the first. */
int ob_lift_return(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n);
/* Chunk locked. Empties the bench below n pages. 0 or -errno. */
int ob_lift_drop(const struct ob_place *place, uint64_t page, unsigned n) OB_MUST_CHECK;
/* Flips a bit of a page that is on its way back, when a test wants to see that noticed. */
void ob_lift_mutate(void *page);

/* --- fault_service.c --- */

void *ob_fault_thread(void *worker);
/*
 * Chunk locked; may unlock and lock it again. Brings one compressed or swapped page back, and up to window - 1 neighbours
 * that lie beside it, charging the cost. Returns 0; -ENOSPC (no room); -EIO or -EBADMSG (unreadable); -EALREADY (somebody
 * else is reading it); or another -errno. buffer has OB_WINDOW_MAX pages.
 */
int ob_fault_fill(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer);
/* Tells the workers to look at the faults that wait. */
void ob_fault_room(struct ob_engine *engine);

/* --- reclaim.c --- */

void *ob_reclaim_thread(void *engine);
void ob_reclaim_kick(struct ob_engine *engine);

/* --- clock.c: the reclaimer's own; regions_lock is held --- */

/* Lifts until the bench holds its target, going round at most twice: the second time hot chunks too. */
void ob_clock_fill_bench(struct ob_engine *engine);
/* Appends a chunk to the bench queue, or takes its head: 0, or -ENOENT when it is empty. */
void ob_clock_push(struct ob_engine *engine, const struct ob_place *place);
int ob_clock_pop(struct ob_engine *engine, struct ob_place *ret_place);
/* A chunk's number among all, and the place of one: -ENOENT when there is no such chunk now. */
uint32_t ob_clock_id(uint32_t region, uint32_t chunk);
int ob_clock_place(struct ob_engine *engine, uint32_t id, struct ob_place *ret_place);
/* A region is about to go; regions_lock is held for writing. */
void ob_clock_forget(struct ob_engine *engine, uint32_t region);

/* --- evict.c: the reclaimer's own; regions_lock is held --- */

/* Takes a chunk's pages off the bench until the cost is at the low mark. Returns how many pages that freed. */
unsigned ob_evict_chunk(struct ob_engine *engine, struct ob_place *place);
/* Writes out what waits in the batch. Returns how many pages that freed. */
int ob_evict_flush(struct ob_engine *engine);
/* Whether this round has lasted long enough. */
int ob_evict_round_over(const struct ob_engine *engine);
/* Bytes that the pool may take, and whether the store is worth asking. */
uint64_t ob_evict_pool_share(const struct ob_engine *engine);
int ob_evict_swap_usable(const struct ob_engine *engine);
/* Writes the oldest spans of the pool to the store. Returns how many pages that freed. */
unsigned ob_evict_shrink_pool(struct ob_engine *engine);
/* Makes resident pages give up the copies of them that the store still holds. Returns whether that freed a slot. */
int ob_evict_drop_cached(struct ob_engine *engine);

/* --- housekeeping.c: the reclaimer's own --- */

void ob_housekeeping(struct ob_engine *engine);
/* Asks the kernel how much is present; the answer counts while there is no limit. */
void ob_count_present(struct ob_engine *engine);
/* A limit has been set on a machine that had none: takes all its memory into care. */
void ob_engage(struct ob_engine *engine);

/* --- write_batch.c --- */

/*
 * Chunk locked. Puts a copy of the page's bytes in the batch and marks its word WRITING. Returns 0, -ENOBUFS (flush first) or -ENOSPC / -errno
 * of the store. The batch is flushed with no lock held but regions_lock.
 */
int ob_batch_add(struct ob_engine *engine, struct ob_batch *batch, const struct ob_place *place, uint64_t page, const void *bytes);
/* Writes what is in the batch and settles its pages. Returns how many pages were freed, or -errno of a write that failed. */
int ob_batch_flush(struct ob_engine *engine, struct ob_batch *batch);

/* --- regions.c --- */

void ob_regions_free(struct ob_engine *engine);

#endif
