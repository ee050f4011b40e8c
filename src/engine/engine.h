/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine: keeps the memory of one machine inside a limit. See docs/architecture.md for the whole and page.h for
 * the states of a page.
 *
 * One engine a process. The caller owns the regions' mappings (private, anonymous, read-write, starting at a multiple
 * of 2 MiB for large pages to survive a lift) and must tell the engine of every discard before it happens, by calling
 * ob_engine_discard() instead of madvise(). All functions may be called from any thread, except as noted.
 */
#ifndef OB_ENGINE_ENGINE_H
#define OB_ENGINE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/error.h"
#include "engine/stats.h"
#include "largepages/host.h"
#include "proto/env.h" /* OB_LIMIT_MIN */

struct ob_engine;

#define OB_PAGE_SIZE    4096ull
#define OB_CHUNK_SIZE   (2ull << 20)
#define OB_CHUNK_PAGES  512u
#define OB_REGIONS_MAX  32

struct ob_engine_config {
	uint64_t limit_bytes;  /* 0: no limit */
	const char *swap_dir;  /* NULL: no swap store; copied */
	unsigned fault_threads; /* 0: choose */
	unsigned scan_cold_ms; /* how long pages must lie untouched for the scanner to call them cold; 0: choose */
	unsigned active_watch_ms; /* how long a page is watched for whether it is used at all; 0: choose */
	int map_shared;        /* shared pages that are read again and again may be mapped: mapped.c */
	int keep_affinity;     /* threads of the host are never kept on a processor: follow.c */
	int no_large;          /* no new large pages of its regions come about before orders allow them: ob_engine_large() */
	unsigned map_run_pages, map_mappings; /* the shortest run; what they may take of vm.max_map_count; 0: choose */
	/* An unreadable page: called from the engine's own thread, never more than once a second; cause NULL when it is read at last. */
	void (*on_unreadable)(void *context, const char *cause);
	void *context;
};

/* What a memory range of the engine is (the values are those of the wire protocol). */
enum ob_engine_range_kind { OB_ENGINE_RAM = 1, OB_ENGINE_BENCH = 2, OB_ENGINE_POOL = 3, OB_ENGINE_TABLES = 4 };
struct ob_engine_range {
	uint32_t kind;
	uint64_t start, end;
};

/*
 * Probes the kernel, opens the userfaultfd and the swap store, starts the threads (all signals blocked). Returns 0, or
 * -errno with the cause: -ENOSYS or -EPERM where the host cannot do it.
 */
int ob_engine_create(const struct ob_engine_config *config, struct ob_engine **ret_engine, struct ob_error *err) OB_MUST_CHECK;

/*
 * Stops the threads and brings every page back first, so that the memory is whole afterwards. NULL is allowed. For
 * tests; a real machine's engine lives until its process ends.
 */
void ob_engine_destroy(struct ob_engine *engine);

/* Takes a mapping under the engine's care. Returns 0, -EINVAL (not page aligned, overlaps), -ENOSPC (too many), -ENOMEM, or a kernel error. */
int ob_engine_add_region(struct ob_engine *engine, void *base, size_t length, struct ob_error *err) OB_MUST_CHECK;

/* Forgets the region that starts at base; what it held elsewhere is dropped. Its mapping must be unused and is left to the caller. 0 or -ENOENT. */
int ob_engine_remove_region(struct ob_engine *engine, void *base);

/* Whether any byte of [addr, addr + length) lies in a region. Takes no lock: fit for every hook. */
int ob_engine_covers(const struct ob_engine *engine, const void *addr, size_t length);

/*
 * The guest gives [addr, addr + length) back; both page aligned, anywhere in regions. The bytes are zero afterwards.
 * Waits for at most the I/O that is under way on these pages. Returns 0 or -errno (then nothing may be assumed).
 */
int ob_engine_discard(struct ob_engine *engine, void *addr, size_t length);

/* Marks the chunks of a buffer as being read or written by a system call of the caller: their pages are not lifted meanwhile. Lock-free; nests. */
void ob_engine_io_begin(struct ob_engine *engine, const void *addr, size_t length);
void ob_engine_io_end(struct ob_engine *engine, const void *addr, size_t length);

/*
 * A buffer has been read from a disk image that other machines may have read from too: what whole pages it covers are looked at soon, to be
 * shared. A hint; lock-free. It does nothing while nobody wants to know, which can be asked before (no lock either).
 */
void ob_engine_note_image(struct ob_engine *engine, const void *addr, size_t length);
int ob_engine_wants_notes(const struct ob_engine *engine);

/*
 * To be called by a thread of the host that is about to make a thread or to fork: it may be kept on one processor for a moment
 * (follow.c), which what it makes would inherit for good. Gives it its own processors back, for a second at least. Takes one lock,
 * and that only in a thread whose faults are many.
 */
void ob_engine_before_thread(struct ob_engine *engine);

/* Sets the limit (0: none). Returns at once; reclaim follows. -EINVAL below OB_LIMIT_MIN. */
int ob_engine_set_limit(struct ob_engine *engine, uint64_t bytes) OB_MUST_CHECK;

/*
 * Takes the limit away, brings every page back and unregisters all memory; the guest runs on and the engine sleeps until
 * a new limit is set. progress (may be NULL) is told done and total pages. Returns 0, or -errno with the cause; what has
 * come back by then stays.
 */
int ob_engine_release(struct ob_engine *engine, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
		      struct ob_error *err) OB_MUST_CHECK;

/*
 * Sharing; share.c has the theory. A page is named by its region's number << OB_SHARE_REGION_SHIFT | its number in the region:
 * opaque to whoever is offered it. These are called from one thread.
 */
#define OB_SHARE_REGION_SHIFT 36
#define OB_SHARE_COLD         0u /* classes of offers, the low byte: found by the scanner; or on its way to the pool */
#define OB_SHARE_EVICTED      1u
#define OB_SHARE_ORPHAN       2u /* OB_WIRE_CLASS_ORPHAN: it is a slot of an orphan extent */
#define OB_SHARE_USED         3u /* OB_WIRE_CLASS_USED: it goes on taking memory, since it is in use, or there is no store to evict it to */
#define OB_SHARE_COLD_ORPHAN  4u /* OB_WIRE_CLASS_COLD_ORPHAN: as an orphan, but nobody uses it, and it is evicted if it is not adopted */
#define OB_SHARE_CHANGED_SHIFT 8  /* the next byte: which sub-pages have changed since the page was looked at before */
struct ob_share_offer {
	uint64_t page, lo, hi; /* lo, hi: its hash */
	uint32_t class;
};
struct ob_share_drop {
	uint64_t extent;
	uint32_t index, count;
	uint32_t was_mapped; /* the slot must not be written again: a device may be reading it still */
};
struct ob_share_held {
	uint64_t extent;
	uint32_t held;
};

/*
 * Switches offering on, with a key of 192 bytes for the hashes, for somebody who has not heard of any page yet; cpu_permille of one core
 * may go into looking for pages (0: only what is evicted anyhow is offered). With another key than before, known extents are orphans until
 * they are announced again. ready is called from the engine's threads, with locks held, when there begin to be offers or drops to take: it
 * must do no more than ask for ob_engine_share_waiting() and write to an eventfd. Returns 0 or -errno.
 */
int ob_engine_share_on(struct ob_engine *engine, const void *key192, unsigned cpu_permille, void (*ready)(void *context),
		       void *context) OB_MUST_CHECK;
/* How many offers wait to be taken; takes no lock, so that ready() may ask. */
unsigned ob_engine_share_waiting(const struct ob_engine *engine);
/*
 * Changes how much may go into looking for pages, as above, while offering is on: nothing is offered anew for that. 0, or -EINVAL while it is off,
 * or another -errno.
 */
int ob_engine_share_pace(struct ob_engine *engine, unsigned cpu_permille) OB_MUST_CHECK;
/*
 * How many sub-pages the class of an offer is to tell of from now on: 1, 2, 4 or OB_SUBPAGES_MAX; 0, as at the start: of none, and no memory is
 * used for it. Returns 0 or -EINVAL.
 */
#define OB_SUBPAGES_MAX 8u
int ob_engine_share_subpages(struct ob_engine *engine, unsigned subpages) OB_MUST_CHECK;

/* Offers nothing more. What is shared stays so, and drops are announced as before. */
void ob_engine_share_off(struct ob_engine *engine);

/* Takes up to max offers, the oldest first; or drops: holds that have ended, summed for each slot. Returns how many. */
unsigned ob_engine_share_offers(struct ob_engine *engine, struct ob_share_offer *ret, unsigned max);
unsigned ob_engine_share_drops(struct ob_engine *engine, struct ob_share_drop *ret, unsigned max);

/*
 * What whoever counts the holds must have counted, slot by slot: those that were adopted and that no drop was taken of. From
 * *position on, 0 at first, which is moved on. Fills at most max; returns how many, 0 at the end. Nothing may be adopted or taken meanwhile.
 */
unsigned ob_engine_share_counts(struct ob_engine *engine, uint32_t *position, struct ob_share_drop *ret, unsigned max);

/* Copies a page of OB_PAGE_SIZE bytes out. Returns 0, -ESTALE (it has another hash now; `to` is overwritten), or -ENOENT (it is in use and would not be
 * mapped, or there is none). One that is in use and would be is lifted. */
int ob_engine_share_fetch(struct ob_engine *engine, uint64_t page, uint64_t lo, uint64_t hi, void *to) OB_MUST_CHECK;

/*
 * A read-only mapping of an extent of the canonical store, which nobody changes while anything of it is held. On success it
 * is the engine's. Returns 0, -EEXIST (known already: it is no orphan any more), -ENOSPC (there are 4096), -EINVAL, or -ENOMEM.
 */
int ob_engine_share_extent(struct ob_engine *engine, uint64_t id, void *base, uint32_t pages) OB_MUST_CHECK;
/*
 * Lets pages of an extent be mapped: a descriptor of the memory file that it is, page for page, good for reading alone. On success it is
 * the engine's. Returns 0, -ENOENT, -EEXIST, or -ENOTSUP (the engine maps none).
 */
int ob_engine_share_extent_file(struct ob_engine *engine, uint64_t id, int fd) OB_MUST_CHECK;
/* Whether its pages are to be offered anew, for other slots (the class of these offers is OB_SHARE_ORPHAN, or OB_SHARE_COLD_ORPHAN; of the latter
 * what is not adopted is shed: orphans.c). */
void ob_engine_share_orphan(struct ob_engine *engine, uint64_t id, int is_orphan);
/* Unmaps it. Returns 0, -EBUSY (something is held, or a drop has not been taken yet), or -ENOENT. */
int ob_engine_share_drop_extent(struct ob_engine *engine, uint64_t id);

/*
 * Makes a page a hold of a slot, if it has the same bytes: all are compared. Returns 0 (the hold lasts until a drop tells
 * its end), -ESTALE (they differ, or the page is in use and would not be mapped), -ENOENT (no such page or slot), or -errno. In case of failure there is no hold.
 */
int ob_engine_share_adopt(struct ob_engine *engine, uint64_t page, uint64_t extent, uint32_t index) OB_MUST_CHECK;
/* The same for many; what is said there is each one's result. Neighbours that follow each other in the list are given up with one call of the kernel. */
struct ob_share_adoption {
	uint64_t page, extent;
	uint32_t index;
	int result;
};
void ob_engine_share_adopt_all(struct ob_engine *engine, struct ob_share_adoption *items, unsigned n);

/* Stops offering and brings every shared page back; the limit stays, and is kept. As ob_engine_release(), which it is when there is no limit. */
int ob_engine_unshare(struct ob_engine *engine, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
		      struct ob_error *err) OB_MUST_CHECK;

/* For tests: maps what runs of shared pages there are among n pages of one chunk, read or not. Returns how many pages. */
unsigned ob_engine_share_map(struct ob_engine *engine, uint64_t page, unsigned n);

/* What is held of each extent of which something is. Fills at most max; returns how many there are. */
unsigned ob_engine_share_held(struct ob_engine *engine, struct ob_share_held *ret, unsigned max);

/*
 * What is to be done with large pages from now on; the rates are this machine's alone. Until it is called first nothing is broken or
 * made whole for their own sake: large.c.
 */
void ob_engine_large(struct ob_engine *engine, const struct ob_large_orders *orders);

/* MADV_HUGEPAGE for memory of which any lies in a region; without effect while there are to be no new large pages. 0 or -errno. */
int ob_engine_allow_large(struct ob_engine *engine, void *addr, size_t length);

/*
 * Private anonymous memory that guests see and that is in no region: gives back what of it is zeros, while it is in use. It must stay mapped meanwhile, and
 * nobody may discard any of it. io_inflight, atomic: how many of the process' I/Os that are under way may use it; it is counted before such
 * a system call. 0, or -errno: some of it has not been looked at (-EBUSY: I/O uses it, or it is registered with a userfaultfd).
 */
int ob_engine_drop_zeros(struct ob_engine *engine, void *base, size_t length, const unsigned *io_inflight);

/* A snapshot of everything that is counted; takes no lock that the data path uses. */
void ob_engine_get_stats(struct ob_engine *engine, struct ob_engine_stats *ret_stats);

/* Fills at most max ranges; returns how many there are. */
unsigned ob_engine_get_ranges(struct ob_engine *engine, struct ob_engine_range *ranges, unsigned max);

/* For tests: how often each transition of page.h was taken; NULL-terminated names by ob_page_transition_name(). */
uint64_t ob_engine_transition_count(const struct ob_engine *engine, unsigned transition);

#endif
