/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the engine share. Nothing outside src/engine includes this.
 *
 * Threads: fault workers (fault_service.c), reclaimers, of which the first also does the housekeeping (reclaim.c), the scanner
 * while pages are shared or large pages made whole (scan.c), one that reads events where shared pages are mapped (mapped.c), and the host's own threads in ob_engine_discard(), ob_engine_io_begin() and so on.
 *
 * Lock order, outermost first; nobody takes a lock to the left of one that he holds:
 *
 *     event_lock  ->  regions_lock (read)  ->  chunk.lock  ->  pool's class lock -> pool's lock; swap's locks
 *                                                         ->  mapped.lock
 *                                                         ->  clock.lock, pending_lock, reclaim_lock, unreadable_lock,
 *                                                             share.lock, large.lock, follow.lease.lock (leaves)
 *
 * No lock is held during I/O: a page that is being read is BUSY, one that is being written is WRITING. A region does not go
 * while a read of it is under way (region.reads); what was written of one that has gone is thrown away.
 *
 * Chunks are open or tracked. An open chunk is not registered with userfaultfd: the kernel answers its first touches,
 * with large pages where it can, and the engine does not know which of its pages are there; under a limit it counts as
 * full. A tracked chunk is registered and each of its words is exact. Chunks are opened when they are touched for the
 * first time and there is plenty of room, and tracked again when room gets short.
 */
#ifndef OB_ENGINE_INTERNAL_H
#define OB_ENGINE_INTERNAL_H

#include <pthread.h>
#include <sched.h>
#include <stdint.h>

#include "engine/content.h"
#include "engine/engine.h"
#include "engine/mapped.h"
#include "engine/page.h"
#include "engine/pool.h"
#include "engine/share.h"
#include "engine/swap.h"
#include "engine/swap_io.h"
#include "kern/uffd.h"

#define OB_FAULT_THREADS_MAX 8u
#define OB_PENDING_MAX       1024
#define OB_WINDOW_MAX        64u /* pages that one read from the store brings back at most */
#define OB_FILL_MAX          32u /* ... and that one fault decompresses, or reads in the foreground */
#define OB_READS_MAX         32u /* reads from the store under way */
#define OB_READ_RUNS         16u /* parts that one is made of at most */
#define OB_QUEUE_END         UINT32_MAX
#define OB_SMALL_LIMIT       (64ull << 20) /* bytes; below it less is done at a time, which takes less memory */
#define OB_BATCH_PAGES       64u /* pages that one write to the store takes at most */
#define OB_BATCHES           4u  /* ... of which so many are under way for each reclaimer */
#define OB_RECLAIMERS_MAX    2u

struct ob_chunk {
	pthread_mutex_t lock;
	uint32_t waiters;      /* atomic: those who want the lock in a hurry; background work steps aside for them */
	uint32_t io_inflight;  /* atomic: system calls of the host on this chunk's memory */
	uint16_t count[OB_PAGE_STATES]; /* atomic for reading */
	uint16_t pages;        /* 512, or less in the last chunk of a region */
	uint16_t granted;      /* while open: pages charged for it */
	uint16_t last_fault;   /* page number in the chunk */
	uint16_t rush;         /* evicted pages that have come back in a row, and */
	uint32_t rush_since;   /* ... what engine.fetched was when that began: fault_window.c */
	uint8_t window;        /* pages that a fault in sequence brings along: 1 to OB_WINDOW_MAX */
	uint8_t brought;       /* that the last fault was to bring along, for whatever reason */
	uint8_t passes;        /* of the clock's hand, that lifted of it what had its turn, modulo 256: chances.h */
	uint8_t heat;          /* what came back from the bench since the clock last passed, in units of 8 pages */
	uint8_t open;
	uint8_t inexact;       /* some RESIDENT pages may be holes: the kernel could not be asked */
	uint8_t raw;           /* how much of late did not compress: 0 to 32 */
	uint8_t evicting;      /* a reclaimer is taking its pages off the bench */
	uint8_t watched;       /* the scanner has lifted it, and waits for what comes back */
	uint8_t scan_backoff;  /* atomic: it passes the chunk over in all rounds but one of 2 to the power of this */
	uint8_t scan_visits;   /* how often the scanner came by, modulo 256 */
	uint8_t scan_whole;    /* next time it looks also at what has not been written */
	uint8_t armed;         /* some of its pages are, or were: scan.c */
	uint8_t map_reads;     /* read faults on shared pages since one that was mapped was written: mapped.c */
	uint8_t map_breaks;    /* how often that happened */
	uint8_t has_sums;      /* its page of region.sums is used, and paid for: subpage.c */
	uint8_t whole;         /* lies on the bench as a large page, and goes back as one: large.c, as all up to large_found */
	uint8_t sampled;       /* it was lifted as a large page for a sample, whose time is not over: active.c */
	uint8_t is_large;      /* it was a large page when the kernel was asked last, and has not been broken since */
	uint8_t large_hot;     /* it was one, and came back while it was watched */
	uint8_t large_broken;  /* it has been broken for what is shareable in it, and is not settled yet */
	uint8_t large_refused; /* shareable pages were refused since there were too few of them */
	uint8_t large_sampled; /* so many pages of it have been looked at where they are */
	uint8_t large_seed;    /* changes with each sample */
	uint8_t large_asked;   /* a page of it was wanted, and the scanner's round has not come by since */
	uint8_t large_vain;    /* how often it was broken in vain */
	uint8_t large_rest;    /* so many more visits before it is collapsed */
	uint16_t large_likely; /* shareable pages, by the last look */
	uint64_t large_found[OB_CHUNK_PAGES / 64]; /* bits: pages that are shareable, by the look that is under way */
	uint8_t is_noted;      /* atomic: it is in the queue of notes.c */
	uint64_t noted[OB_CHUNK_PAGES / 64]; /* atomic: bits: pages to look at ahead of the scanner's round: notes.c */
	uint8_t queued;        /* in the bench queue; this and the next under clock.lock */
	uint32_t queue_next;   /* id of the chunk that was queued after this one */
};

struct ob_region {
	uint64_t base, length; /* base is 0 in an unused slot; both are atomic for ob_engine_covers() */
	char *bench;           /* congruent to base modulo 2 MiB: page n of the region lies at page n of the bench */
	uint64_t *words;
	uint64_t *sums;        /* a page each, filled up to a whole chunk; NULL: none */
	struct ob_chunk *chunks;
	char *aside;           /* NULL, or addresses for what mapped runs stand in for: mapped.c; under mapped.lock */
	int aside_is_torn;     /* parts of it may belong to others */
	uint32_t chunk_count;
	uint32_t reads;        /* atomic: reads from the store under way */
	int closing;           /* atomic: no new ones */
	size_t words_bytes, chunks_bytes;
};

/* A fault that could not be answered yet. */
struct ob_pending {
	uint64_t address;
	uint64_t arrived_ns;
	uint64_t retry_ns;   /* 0: as soon as there is room */
	int is_write;
	int of_mapped;       /* a write to a page that was mapped: who writes waits in the guard */
	int stalled;         /* has been counted as waiting for room */
	int unreadable;      /* counted in engine->unreadable */
};

struct ob_worker {
	struct ob_engine *engine;
	pthread_t thread;
	char *buffer;         /* OB_FILL_MAX pages */
	unsigned touched;     /* of which so many cost memory */
	cpu_set_t allowed;    /* processors that it may run on, as at its start */
	int may_bind, bound;  /* bound: to this one; -1: to none */
	uint64_t followed_ns, asked_ns, waited_ns; /* waited_ns: for a processor, when it asked */
	int holds_events;     /* has event_lock */
};

/* A thread that is kept on one processor for a while: follow.c. All under its lock; thread is atomic for reading. */
struct ob_lease {
	pthread_mutex_t lock;
	uint32_t thread;            /* 0: there is none */
	int cpu;
	cpu_set_t had;              /* where it might run before */
	uint64_t pause_ns, paused_until_ns;
	uint64_t looked_ns, faults, reads; /* at the last look; reads: of the faults, those answered from the store */
	int mostly_reads;           /* ... most of those since the one before were */
	uint64_t waited_ns;         /* ... how long the thread had waited for a processor */
};

/* Whose faults there are; under event_lock. Who only reads leader and is_led does so without, and takes them as a hint. */
struct ob_follow {
	uint32_t leader, candidate; /* threads; leader is atomic for reading */
	unsigned seen, of_leader;
	int is_led;                 /* atomic for reading: nearly all of late were the leader's */
	uint64_t faults;            /* atomic for reading: all that there were */
	struct ob_lease lease;
};

struct ob_read;

/* A part of a read: pages that lie in slots that follow each other. */
struct ob_read_run {
	struct ob_swap_request request; /* first: what the queue gives back is this */
	struct ob_read *read;
	struct ob_read_run *next;       /* in a list of those that have ended */
	unsigned from;                  /* the first of its pages, in those of the read */
};

/* A read from the store that is under way: some pages of one chunk, BUSY meanwhile. */
struct ob_read {
	struct ob_read_run run[OB_READ_RUNS];
	unsigned runs_left;             /* atomic: that have not been settled */
	struct ob_read *next;           /* in the list of free ones */
	uint32_t region, chunk;
	uint16_t page[OB_WINDOW_MAX];   /* numbers in the chunk */
	struct ob_pending fault;        /* waits for the first page */
	uint64_t locked_ns;             /* when the fault got its chunk's lock */
	char *buffer;                   /* OB_WINDOW_MAX pages */
	unsigned touched;               /* pages of the buffer that cost memory */
};

struct ob_batch_entry {
	uint32_t region, slot;
	uint64_t page;
};

struct ob_batch;
struct ob_batch_write {
	struct ob_swap_request request; /* first */
	struct ob_batch *batch;
	unsigned from, to;              /* entries */
};

struct ob_batch {
	struct ob_batch_entry entry[OB_BATCH_PAGES];
	struct ob_batch_write write[OB_BATCH_PAGES];
	unsigned count, under_way, leaving; /* leaving: entries that were benched */
	char *buffer;         /* OB_BATCH_PAGES pages */
	unsigned touched;
};

/* Where a benched page goes. */
enum ob_outcome { OB_KEEP, OB_TO_ZERO, OB_TO_CACHED, OB_TO_POOL, OB_TO_BATCH };

struct ob_placed {
	uint16_t page;        /* number in the chunk */
	uint8_t outcome;      /* enum ob_outcome */
	uint64_t bits;        /* of the word to come */
};

struct ob_reclaimer {
	struct ob_engine *engine;
	unsigned number;
	pthread_t thread;
	unsigned refused;     /* pages that found no place since a round last freed something */
	uint64_t round_end_ns;
	struct ob_compressor compressor;
	char *page;           /* a page to decompress into */
	struct ob_placed placed[OB_CHUNK_PAGES]; /* of the chunk that is being evicted */
	unsigned placed_count;
	int64_t placed_pool_bytes;               /* what the pool took for them */
	struct ob_swap_queue *queue;             /* NULL: no store */
	struct ob_batch batch[OB_BATCHES], *filling;
	uint32_t run_slot, run_left;             /* slots taken and not used yet */
};

/* The bench queue and the clock hand. */
struct ob_clock {
	pthread_mutex_t lock;
	uint32_t queue_head, queue_tail; /* ids of chunks with benched pages, oldest first */
	uint32_t queue_count;            /* atomic for reading */
	uint32_t region, chunk;          /* the hand */
};

#define OB_POOL_PARTS     256u
#define OB_POOL_PARTS_MAX (OB_POOL_PARTS / 2)

/* What adapt_pool() looks at. */
struct ob_pool_counts {
	uint64_t stored, past, bench, scanned, unpacked, read, bench_ns, unpack_ns, read_ns;
};

/* The first reclaimer's own, for the housekeeping. */
struct ob_house {
	uint64_t last_second_ns, last_bench, last_bench_ns, last_scanned, last_major_ns, last_lifted, last_back;
	struct ob_pool_counts pool_before;
	uint64_t pool_looked_ns, bench_ns, unpack_ns, read_ns; /* the last three: of one page, lately */
	uint64_t present_scan_ns, last_over_check_ns, last_around_ns;
};

/* What is to be done with large pages: large.c. The first three are under regions_lock, written with it held for writing. */
#define OB_LARGE_RATES 3
struct ob_large {
	struct ob_large_orders orders;
	int is_ordered;      /* there are orders */
	int is_forbidden;    /* the kernel is to make no new large pages */
	int is_short;        /* atomic: the state is not high */
	uint32_t collapse_rate; /* atomic: so many a second may be made whole */
	int look_at_all;     /* atomic: in the next round no chunk that orders concern is passed over */
	int64_t chunks;      /* atomic: that are large pages */
	pthread_mutex_t lock; /* a leaf: the next two */
	struct ob_large_bucket bucket[OB_LARGE_RATES];
	uint64_t filled_ns[OB_LARGE_RATES];
};

/* A page that is watched for whether the guest touches it. */
struct ob_active_sample {
	uint32_t id;         /* of its chunk */
	uint16_t page;       /* number in the chunk */
	uint16_t lifted;     /* pages that were lifted for it */
	uint64_t until_ns;
};

/* How much of its memory the guest uses: active.c, the first reclaimer's own. */
#define OB_ACTIVE_SAMPLES 32u
struct ob_active {
	struct ob_active_sample sample[OB_ACTIVE_SAMPLES];
	unsigned n;
	uint64_t seed, next_ns, lifted_pages;
	double average[2], weight[2];
	uint32_t permille, samples; /* atomic: what share is active, and how many samples say so */
};

struct ob_engine {
	int uffd, pagemap, room_event, stop_event, self;
	unsigned worker_count, reclaimer_count, ncpus;
	int can_arm;          /* guest RAM is registered so that pages can be armed (kern/pagemap.h) */
	int started;          /* threads that run, for tear-down: workers, then reclaimers */
	struct ob_engine_config config;
	struct ob_hash_key key;

	pthread_mutex_t limit_lock;   /* outermost: setting the limit against releasing; see release.c */
	pthread_rwlock_t regions_lock;
	struct ob_region region[OB_REGIONS_MAX];
	uint64_t ram_pages;           /* changed under regions_lock (write); atomic for reading */
	unsigned subpages;            /* under regions_lock: that offers tell of; 0: of none */

	/* All atomic. */
	uint64_t limit_bytes;
	int64_t credit_bytes;         /* of what a round of reclaim has freed above the limit, what may be taken still, */
	int64_t credit_given;         /* and what that was at first (the reclaimer's own) */
	int64_t cost_bytes;
	int64_t tables_bytes;
	int64_t open_pages;           /* granted to open chunks */
	int64_t open_present_pages;   /* found present in open chunks while there is no limit */
	int64_t open_chunks;
	int64_t in_state[OB_PAGE_STATES];
	uint64_t transitions[OB_TRANSITION_COUNT];
	int64_t cached_pages;
	uint64_t bench_target_pages;
	uint32_t pool_parts;          /* the pool may take so many OB_POOL_PARTSths of the limit, where there is a store */
	int64_t leaving_pages;        /* benched pages that are placed or being written: their memory is as good as free */
	uint64_t swap_retry_ns;       /* when the store is worth asking again; 0: now */
	unsigned window_max;          /* of a fault: the limit's size has a say */
	uint32_t fetched;             /* evicted pages that faults have brought back, modulo 2^32 */
	unsigned around;              /* neighbours that a fault brings along whatever its chunk's window says */
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
	struct ob_share *share;       /* atomic; NULL: nothing has ever been shared */
	struct ob_scan scan;
	struct ob_mapped mapped;
	struct ob_large large;

	pthread_mutex_t event_lock;   /* who reads the userfaultfd, and takes reads that have ended */
	struct ob_worker worker[OB_FAULT_THREADS_MAX];

	struct ob_follow follow;
	uint64_t read_ns;             /* atomic: how long a read for a fault takes, on average of late */

	struct ob_swap_queue *read_queue; /* NULL: no store */
	pthread_mutex_t reads_lock;
	struct ob_read read[OB_READS_MAX], *free_reads;
	char *reads_memory;           /* one mapping for their buffers */

	pthread_mutex_t pending_lock;
	struct ob_pending pending[OB_PENDING_MAX];
	unsigned pending_count;       /* atomic for reading */

	pthread_mutex_t reclaim_lock;
	pthread_cond_t reclaim_cond, help_cond;
	int reclaim_kicked;           /* atomic */
	int help_wanted;              /* under reclaim_lock */
	int helping;                  /* atomic: reclaimers beside the first that are at work */
	struct ob_reclaimer reclaimer[OB_RECLAIMERS_MAX];
	struct ob_clock clock;
	struct ob_house house;
	struct ob_active active;

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

/* Locks a chunk in a hurry; or in the background, letting those in a hurry go first. Or not at all: returns whether it did. */
void ob_chunk_lock(struct ob_chunk *chunk);
int ob_chunk_try_lock(struct ob_chunk *chunk);
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

/*
 * Chunk locked. Makes a large page of a chunk that is all there: collapse.c. Returns 1, 0 (its pages are not in a state for it), or
 * -errno (the kernel would not; worth another try later).
 */
int ob_chunk_collapse(struct ob_engine *engine, struct ob_place *place);

/* Something of the kernel's that should not happen: counted, and said at most once a second. */
void ob_engine_internal_error(struct ob_engine *engine, const char *what, int r, uint64_t address);

/* --- large.c --- */

/* Whether a chunk lies on the bench as a large page that is not to be broken. */
static inline int ob_chunk_is_whole(const struct ob_chunk *chunk)
{
	return chunk->whole && chunk->count[OB_PAGE_BENCHED] == OB_CHUNK_PAGES && !chunk->evicting;
}

enum ob_large_visit {
	OB_VISIT_LEAVE, /* it stays where it is */
	OB_VISIT_SAMPLE, /* so does it, for now: a sample of it has been offered */
	OB_VISIT_WHOLE, /* it is lifted as a large page */
	OB_VISIT_PAGES  /* it is lifted like any other chunk */
};
/* These want regions_lock and the chunk's lock. The scanner has come by a tracked chunk that is in nobody's hands. */
enum ob_large_visit ob_large_visit(struct ob_engine *engine, struct ob_place *place);
/* Its pages have gone back. If it is a large page that came back by itself, and such are to be broken, offers a sample of it. Returns whether it did. */
int ob_large_sample_hot(struct ob_engine *engine, struct ob_place *place);
/* What was asked for of the sample has been asked for. Returns whether the chunk is broken for it, which is to be lifted as small pages then. */
int ob_large_sampled(struct ob_engine *engine, struct ob_place *place);
/* A fault has brought it back whole. */
void ob_large_came_back(struct ob_chunk *chunk);
/* Somebody has an equal of this benched page, or it is zeros. Returns whether it may be taken out of its chunk, which is broken for it if it has to be. */
int ob_large_may_take(struct ob_engine *engine, const struct ob_place *place, uint64_t page);
/* The same of a page that is in place (place->page). Returns whether its chunk may be visited for it ahead of the scanner's round. */
int ob_large_wanted(const struct ob_place *place);
/* Whether pages were refused before the chunk was broken. */
int ob_large_look_once_more(struct ob_chunk *chunk);
/* Its pages are about to go back; so many were gained since they were lifted. */
void ob_large_settle(struct ob_engine *engine, struct ob_place *place, unsigned gained);
/*
 * So many of its pages came back by faults, or more, which says that it is in use. If it is to be made a large page, what lies on the bench of
 * it still goes back, and it is remembered until its turn comes.
 */
void ob_large_consider_collapse(struct ob_engine *engine, struct ob_place *place, unsigned pages);
/* Makes a large page of the hottest of those, if one more may be made now. Returns whether it did anything. No lock is held. */
int ob_large_collapse_next(struct ob_engine *engine);
/* Whether its turn is to come. */
int ob_large_is_due(const struct ob_engine *engine, const struct ob_place *place);
/* Whether it would be made a large page, were it in use; if it is none already. */
int ob_large_could_be_whole(const struct ob_engine *engine, const struct ob_chunk *chunk);
/* The same as ob_large_visit() where pages are not shared, and a chunk is looked at for this alone. */
enum ob_large_visit ob_large_visit_unshared(struct ob_engine *engine, struct ob_place *place);
/* Whether chunks may be made whole now; whether one more may be looked at for that, when so many are. They take no lock. */
int ob_large_makes_whole(const struct ob_engine *engine);
int ob_large_has_leave(const struct ob_engine *engine, unsigned under_way);
/* Whether it is a large page now. */
void ob_large_note(struct ob_engine *engine, struct ob_chunk *chunk, int is_large);
/* Whether there are to be no large pages. regions_lock is held. */
int ob_large_is_off(const struct ob_engine *engine);
/* It has been broken, whatever was known of it as a large one. Chunk locked. */
void ob_large_forget(struct ob_engine *engine, struct ob_chunk *chunk);
/* Whether a chunk of 2 MiB is a large page, by the kernel, and moves as one. Chunk locked, regions_lock held. */
int ob_large_moves_whole(const struct ob_engine *engine, const struct ob_place *place);
/* Whether memory is short on the host, as far as is known; takes no lock. */
int ob_large_is_short(const struct ob_engine *engine);
/* Whether no chunk is to be passed over in the round that begins now. */
int ob_large_look_at_all(struct ob_engine *engine);
/* Tells the kernel whether it may make large pages of a region's small ones; regions_lock is held for writing. */
void ob_large_advise(const struct ob_region *region, int may_make);

/* --- cost.c --- */

/* Adds to the machine's cost if it stays under the limit, or there is none, or nothing can be reclaimed. Returns whether it did. */
int ob_cost_try(struct ob_engine *engine, uint64_t pages);
/* The same, only if a reserve of an eighth of the limit stays free after it. */
int ob_cost_try_plenty(struct ob_engine *engine, uint64_t pages);
/*
 * A round of reclaim has ended, which began at a cost of *before bytes: some of what it has freed may be taken, if the cost is above the
 * limit. *before becomes the cost now.
 */
void ob_cost_round(struct ob_engine *engine, int64_t *before);
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
/* The same, but for pages whose bits, one for each of the chunk, are set. */
unsigned ob_lift_chunk_but(struct ob_engine *engine, struct ob_place *place, const uint64_t *left);
/* The same, of those pages alone. */
unsigned ob_lift_only(struct ob_engine *engine, struct ob_place *place, const uint64_t *wanted);
/* Whether a system call of the host is reading or writing the chunk's memory. */
int ob_lift_io_inflight(const struct ob_chunk *chunk);
/* Chunk locked. Moves n benched pages from `page` on back and wakes those who wait. Returns how many came back, or -errno if not even the first. */
int ob_lift_return(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n);
/*
 * Chunk locked. Moves the run of benched pages back that begins at `page`, with one call if it can, over shared and zero pages in between, of
 * which there is nothing anywhere. Returns how long it was, those included; 0 when the page is not benched. What does not move stays.
 */
unsigned ob_lift_return_run(struct ob_engine *engine, struct ob_place *place, uint64_t page);
/* The same of everything of the chunk that is benched. */
void ob_lift_return_all(struct ob_engine *engine, struct ob_place *place);
/* The same for a chunk of which everything is benched, and which is to come back as a large page. */
int ob_lift_return_whole(struct ob_engine *engine, struct ob_place *place);
/* Chunk locked, and nothing of it benched. Makes the bench fit for a large page. */
void ob_lift_clear_bench(const struct ob_engine *engine, const struct ob_place *place);
/* Chunk locked. Empties the bench below n pages. 0 or -errno. */
int ob_lift_drop(const struct ob_place *place, uint64_t page, unsigned n) OB_MUST_CHECK;
/*
 * Chunk locked. Empties the bench below pages whose numbers in the chunk are given in ascending order, with one call if it
 * can. Returns how many of them, from the first on, are gone.
 */
unsigned ob_lift_drop_many(struct ob_engine *engine, const struct ob_place *place, const uint16_t *pages, unsigned n);
/* Flips a bit of a page that is on its way back, when a test wants to see that noticed. */
void ob_lift_mutate(void *page);
/* The same for one that must not be changed where it lies: the page itself, or a changed copy of it in the buffer. */
const void *ob_lift_mutated(const void *page, char *buffer);

/* --- fault_window.c --- */

/* Chunk locked. How many pages a fault on place->page brings, itself included, at least so many; adapts the chunk's window: not to be asked twice. */
unsigned ob_fault_window(struct ob_engine *engine, struct ob_place *place, unsigned least);

/* --- fault_service.c --- */

void *ob_fault_thread(void *worker);
/*
 * fault_fill.c. Chunk locked; may unlock and lock it again. Brings one compressed, swapped or shared page back, and up to window - 1 neighbours
 * that lie beside it, charging the cost. Returns 0; -ENOSPC (no room); -EIO or -EBADMSG (unreadable); -EALREADY (somebody
 * else is reading it); or another -errno. buffer has OB_FILL_MAX pages. ret_fetched_ns (may be NULL): when the bytes were there.
 */
int ob_fault_fill(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned window, char *buffer,
		  uint64_t *ret_fetched_ns);
/* Leaves a fault to the workers, who are told by the next. */
void ob_fault_queue(struct ob_engine *engine, struct ob_pending *fault);
/* Tells the workers to look at the faults that wait. */
void ob_fault_room(struct ob_engine *engine);
/* Charges n pages, or one when there is no room for more. Returns how many. */
unsigned ob_fault_charge(struct ob_engine *engine, unsigned n);
/* Copies n pages that are in a buffer in, with one call. 0 when all came, or why the first of the others did not; the words are the caller's. */
int ob_fault_copy_in(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, void *bytes, unsigned *ret_came);
/* A fault could not be answered because of r: it waits, and is tried again. */
void ob_fault_defer(struct ob_engine *engine, struct ob_pending *fault, int r);
/* A fault that may have waited has been answered. */
void ob_fault_answered(struct ob_engine *engine, struct ob_pending *fault);
/* Counts an answer by kind, and by how long each part took. */
void ob_fault_served(struct ob_engine *engine, enum ob_hist_kind kind, struct ob_pending *fault, uint64_t locked_ns,
		     uint64_t fetched_ns);

/* --- follow.c --- */

/* A worker's thread has begun; it has taken faults, event_lock held; it may go to where they come from. */
void ob_follow_start(struct ob_worker *worker);
void ob_follow_note(struct ob_worker *worker, const struct ob_uffd_fault *faults, int n);
void ob_follow(struct ob_worker *worker, uint64_t now);
/* For how long the end of a read may be looked for without sleeping. */
uint64_t ob_follow_spin_ns(const struct ob_engine *engine);
/* For how long events may be waited for before ob_follow() must be called again, in ms; -1: for ever. */
int ob_follow_patience_ms(const struct ob_engine *engine);
/* The workers have ended. */
void ob_follow_stop(struct ob_engine *engine);

/* --- fault_read.c --- */

int ob_reads_create(struct ob_engine *engine);
void ob_reads_destroy(struct ob_engine *engine);
/*
 * Chunk locked. Starts to read the swapped page that a fault is for, and up to window - 1 that lie behind it in the guest.
 * Returns 0: under way, or settled already; 1: no read can be started in the background; or -errno, as ob_fault_fill().
 */
int ob_read_start(struct ob_engine *engine, struct ob_place *place, unsigned window, const struct ob_pending *fault,
		  uint64_t locked_ns);
/* Parts of reads that have ended, as a list; event_lock is held. Then settles one, with no lock held. */
struct ob_read_run *ob_reads_ended(struct ob_engine *engine);
void ob_read_settle(struct ob_engine *engine, struct ob_read_run *run);
/*
 * n pages that follow each other and were read into `bytes`, their chunk locked: checks each, and installs them with one call.
 * was_read: 0 or why not. Returns how many came, from the first on; the next one, if any, is as it was before the read, and
 * *ret_r says why; those behind it are still BUSY, and settled by another call.
 */
unsigned ob_read_settle_run(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned n, char *bytes, int was_read,
			    int *ret_r);
/* A read for a fault took so long. */
void ob_read_note(struct ob_engine *engine, uint64_t ns);
/* A buffer is used up to `pages` pages from now on: charges what it has not been charged for. */
void ob_buffer_touch(struct ob_engine *engine, unsigned *touched, unsigned pages);
/* Nobody uses it, and it need not cost memory until somebody does. */
void ob_buffer_drop(struct ob_engine *engine, char *buffer, unsigned *touched);

/* --- reclaim.c --- */

void *ob_reclaim_thread(void *reclaimer);
void ob_reclaim_kick(struct ob_engine *engine);
/* Whether there is a second reclaimer to be called. */
int ob_reclaim_has_help(const struct ob_engine *engine);

/* --- clock.c: the reclaimers' own; regions_lock is held --- */

/* The hand comes by a chunk: lifts of it what has its turn, unless it is hot; force: all of it, in any case. */
void ob_clock_visit(struct ob_engine *engine, struct ob_place *place, int force);
/* Lifts until the bench holds its target, going round at most twice: the second time hot chunks too, and all of each. */
void ob_clock_fill_bench(struct ob_engine *engine);
/* Whether so much of it comes back from the bench that it should be left alone; its lock is held. */
int ob_chunk_is_hot(const struct ob_chunk *chunk);
/* Appends a chunk to the bench queue, its lock held; or takes the queue's head: 0, or -ENOENT when it is empty. */
void ob_clock_push(struct ob_engine *engine, const struct ob_place *place);
int ob_clock_pop(struct ob_engine *engine, struct ob_place *ret_place);
/* A chunk's number among all, and the place of one: -ENOENT when there is no such chunk now. */
uint32_t ob_clock_id(uint32_t region, uint32_t chunk);
int ob_clock_place(struct ob_engine *engine, uint32_t id, struct ob_place *ret_place);
/* A region is about to go; regions_lock is held for writing. */
void ob_clock_forget(struct ob_engine *engine, uint32_t region);

/* --- evict.c: a reclaimer's own; regions_lock is held --- */

/* Takes a chunk's pages off the bench until the cost is at the low mark. Returns how many pages that freed at once. */
unsigned ob_evict_chunk(struct ob_reclaimer *re, struct ob_place *place);
/* Whether the cost will be at the low mark when what is leaving has left. */
int ob_evict_enough(const struct ob_engine *engine);
/* Whether this round has lasted long enough. */
int ob_evict_round_over(const struct ob_reclaimer *re);
/* Bytes that the pool may take, and whether the store is worth asking. */
uint64_t ob_evict_pool_share(const struct ob_engine *engine);
int ob_evict_swap_usable(const struct ob_engine *engine);
/* The store did not take a page: it is left alone for a while. */
void ob_evict_swap_failed(struct ob_engine *engine, int r);
/* Bytes by which the cost may rise for a moment because a reclaimer frees memory: new spans of the pool, copies of what is still on the bench, buffers. */
int64_t ob_evict_needs_bytes(const struct ob_engine *engine);

/* --- write_back.c: a reclaimer's own; regions_lock is held --- */

/* Writes the oldest spans of the pool to the store. Returns how many pages went. */
unsigned ob_evict_shrink_pool(struct ob_reclaimer *re);
/* Makes resident pages give up the copies of them that the store still holds. Returns whether that freed a slot. */
int ob_evict_drop_cached(struct ob_engine *engine);

/* --- housekeeping.c: the first reclaimer's own --- */

void ob_housekeeping(struct ob_engine *engine);
/* Asks the kernel how much is present; the answer counts while there is no limit. */
void ob_count_present(struct ob_engine *engine);
/* A limit has been set on a machine that had none: takes all its memory into care. */
void ob_engage(struct ob_engine *engine);

/* --- active.c: the first reclaimer's own --- */

/* Draws and judges samples. No lock is held. */
void ob_active_step(struct ob_engine *engine, uint64_t now);

/* --- write_batch.c: a reclaimer's own --- */

/*
 * Sees to it, with no chunk's lock held, that the store has slots for `pages` more pages and a batch has room for them: may
 * wait for the disk. Returns how many pages of memory writes that have ended have freed.
 */
unsigned ob_batch_prepare(struct ob_reclaimer *re, unsigned pages);
/* Chunk locked. Puts a copy of the page's bytes in the batch and marks its word WRITING. Returns 0, -ENOBUFS (no room), or what the store said. */
int ob_batch_add(struct ob_reclaimer *re, const struct ob_place *place, uint64_t page, const void *bytes);
/* Starts to write what is in the batch, settles what has been written; wait: until all is. No chunk is locked. Returns how many pages were freed. */
unsigned ob_batch_flush(struct ob_reclaimer *re, int wait);
/* Gives slots back that were taken ahead. Nothing is in the batch. */
void ob_batch_rest(struct ob_reclaimer *re);
/* On a small machine buffers of batches in which nothing is need cost no memory until they are used again. Whether there are such; gives them back. */
int ob_batch_has_buffers(const struct ob_reclaimer *re);
void ob_batch_drop_buffers(struct ob_reclaimer *re);
/* Bytes that its buffers may cost at once on a small machine. */
int64_t ob_batch_needs_bytes(const struct ob_engine *engine);

/* --- share.c, offers.c --- */

/* NULL when nothing has ever been shared. */
static inline struct ob_share *ob_share_of(const struct ob_engine *engine)
{
	return __atomic_load_n(&engine->share, __ATOMIC_ACQUIRE);
}

/* Whether pages are to be offered; regions_lock is held. */
int ob_share_is_on(const struct ob_engine *engine);
/* The bytes of a slot of the canonical store that a word names; its chunk is locked. */
const char *ob_share_bytes(const struct ob_engine *engine, uint32_t slot);
/* A word no longer names a slot: its hold ends, and overbookd will be told. */
void ob_share_let_go(struct ob_engine *engine, uint32_t slot);
/* Offers nothing, until somebody sets a limit or switches sharing on again: everything is let go. Who has regions_lock from then on sees it. */
void ob_share_suspend(struct ob_engine *engine, int suspended);
void ob_share_destroy(struct ob_engine *engine);
/* Whether nobody will tell overbookd of the slot's extent any more: the page is worth another offer. */
int ob_share_is_orphan(const struct ob_engine *engine, uint32_t slot);
/* Sharing is on, and the page's bytes lie still, its chunk locked: hashes and offers them. kind: OB_SHARE_COLD and so on. */
void ob_share_offer(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes, unsigned kind);
/* Chunk locked. A read fault has brought a page with these bytes: offers it as one that is in use, where it would be mapped and few offers wait. Takes about a microsecond. */
void ob_share_offer_used(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes);
/* Some may have been offered: wakes who takes them. */
void ob_share_offered(struct ob_engine *engine);
/* Whether any orphan is held; whether there is room for a chunk's offers. */
int ob_share_has_orphans(const struct ob_engine *engine);
int ob_share_has_room(const struct ob_engine *engine);
/* Where the tables lie; returns whether there are any. */
int ob_share_ranges(const struct ob_engine *engine, uint64_t ret_tables[2]);

/* The place of a page that an offer named; regions_lock is held. 0 or -ENOENT. */
int ob_share_find_page(struct ob_engine *engine, uint64_t name, struct ob_place *ret_place);
/* Where a slot lies in which file: a descriptor, or -ENOENT when there is none. A word names the slot, its chunk is locked. */
int ob_share_file(const struct ob_engine *engine, uint32_t slot, uint64_t *ret_offset);
/* Whether a slot's extent has a file, and is that of an overbookd that is there. */
int ob_share_is_mappable(const struct ob_engine *engine, uint32_t slot);
/* Slots are about to be mapped into guest RAM: who hears that they are let go of hears that too. */
void ob_share_note_mapped(struct ob_engine *engine, uint32_t slot, unsigned n);

/* --- mapped.c --- */

/* Where shared pages are to be mapped: opens what that takes. Returns the engine's userfaultfd, or -errno: nothing is ever mapped. */
int ob_mapped_open(struct ob_engine *engine, uint64_t *ret_features);
void ob_mapped_close(struct ob_engine *engine);
/* The thread without which no mapping moves: it starts before the others, and ends after them. */
int ob_mapped_start(struct ob_engine *engine);
void ob_mapped_stop(struct ob_engine *engine);
/* Chunk locked. A read fault wants this cold page: maps it with its run, if that is worth it. Returns whether it did, and who waited reads. */
int ob_mapped_read(struct ob_engine *engine, struct ob_place *place);
/* Chunk locked. Whether a read fault on a cold page of the chunk would be answered so. */
int ob_mapped_may_read(const struct ob_engine *engine, const struct ob_chunk *chunk);
/* Chunk locked. A read fault brought shared pages back. */
void ob_mapped_note_read(struct ob_chunk *chunk);
/* Chunk locked. Maps what is worth it. */
void ob_mapped_consider(struct ob_engine *engine, struct ob_place *place);
/* Chunk locked. Makes mapped pages in [first, end) shared ones, others of their runs too if need be, and wakes who waits for that. 0 or -errno. */
int ob_mapped_take_out(struct ob_engine *engine, struct ob_place *place, uint64_t first, uint64_t end);
/* Chunk locked. The same for place->page, which somebody writes, and at least `window` pages; the caller wakes him. */
int ob_mapped_break(struct ob_engine *engine, struct ob_place *place, unsigned window);
/* Wakes those who wait in the guard for a page of the chunk. */
void ob_mapped_wake(struct ob_engine *engine, const struct ob_place *place);

/* --- subpage.c --- */

/* With regions_lock held for writing: a region's table, if any is wanted; gives it up. */
void ob_subpage_begin(const struct ob_engine *engine, struct ob_region *region);
void ob_subpage_forget(struct ob_engine *engine, struct ob_region *region);
/* Whether the region has one, and its size. */
int ob_subpage_range(const struct ob_region *region, uint64_t *ret_bytes);
/* Chunk locked. Which sub-pages, a bit each, have other bytes than when this was last asked for the page. */
unsigned ob_subpage_changed(struct ob_engine *engine, const struct ob_place *place, uint64_t page, const void *bytes);

/* --- engine.c --- */

/* Starts a thread that takes no signal: those belong to the host process. 0 or -errno. */
int ob_engine_start_thread(pthread_t *ret_thread, void *(*run)(void *), void *context);
/* Takes all memory into care, without a limit if there is none. 0, or -EBUSY while it is being released. */
int ob_engine_engage(struct ob_engine *engine);

/* --- regions.c --- */

void ob_regions_free(struct ob_engine *engine);

#endif
