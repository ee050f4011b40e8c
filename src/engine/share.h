/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the engine keeps for sharing; share.c has the theory. Nothing outside src/engine includes this.
 *
 * A slot in a word is OB_EXTENT_PAGES times the engine's own number of the extent, plus the index in it.
 */
#ifndef OB_ENGINE_SHARE_H
#define OB_ENGINE_SHARE_H

#include <pthread.h>
#include <stdint.h>

#include "engine/content.h"
#include "engine/engine.h"

#define OB_EXTENTS_MAX  4096u
#define OB_EXTENT_PAGES 4096u
#define OB_OFFERS       4096u
#define OB_ORPHAN_DRAINED 2u

struct ob_extent {
	uint64_t id;          /* 0: unused */
	const char *base;
	uint32_t pages;
	uint32_t held;        /* words that name its slots, and adoptions under way */
	uint32_t to_tell;     /* holds that ended and that nobody has taken yet */
	uint32_t is_orphan;   /* not announced since the key changed: overbookd is another one; or OB_ORPHAN_DRAINED: overbookd wants it to go; atomic */
	uint32_t rounds;      /* of the orphans' hand since then; atomic, and so is the next: */
	uint64_t orphan_ns;   /* since when */
	int file;             /* a descriptor, if pages of it may be mapped; -1; atomic */
	uint64_t told[OB_EXTENT_PAGES / 64]; /* bits: slots of which there is something to tell */
	uint64_t mapped[OB_EXTENT_PAGES / 64]; /* bits: slots that have been mapped, whether they are still or not */
};

/* A chunk that the scanner has lifted. */
struct ob_scanned {
	uint32_t id;
	uint16_t lifted;      /* pages */
	uint16_t found;       /* pages of it that were zero or shared before */
	uint16_t evicted;     /* ... compressed or swapped */
	uint16_t cold;        /* that were on the bench still when it was judged */
	uint16_t with_pool;
	uint16_t all_judged;  /* no part of it was left out */
	uint16_t in_place;    /* it has not been lifted: a sample was offered */
	uint16_t noted;       /* what was noted of it has been lifted: notes.c */
	uint64_t due_ns;
};

#define OB_SCANNED_MAX 256u

struct ob_scan_ring {
	struct ob_scanned entry[OB_SCANNED_MAX];
	unsigned first, count;
};

#define OB_NOTES_MAX 2048u

/* Chunks of which pages are noted: notes.c. */
struct ob_notes {
	uint32_t head, tail;          /* atomic: places taken and emptied so far */
	uint32_t chunk[OB_NOTES_MAX]; /* atomic: ids, plus 1; 0: not filled */
	uint32_t seen, due;           /* the reader's own: the head when he looked last, and before that */
	uint64_t seen_ns;
};

/* The hand that goes round for orphans; region OB_REGIONS_MAX: between rounds, until due_ns. */
struct ob_scan_hand {
	uint32_t region, chunk;
	uint64_t start_ns, due_ns;
	uint64_t shed_left; /* pages that may be shed in this round */
	int is_short;       /* there was no room for one */
};

/* A chunk that is to be made a large page, and how many pages of it came back by faults. */
struct ob_scan_due {
	uint32_t id;
	unsigned pages;
};

#define OB_SCAN_DUE_MAX 256u

/* The scanner's own: scan.c; the last two large.c. */
struct ob_scan {
	pthread_t thread;
	int is_started;
	pthread_mutex_t lock; /* is_kicked */
	pthread_cond_t cond;
	int is_kicked;
	struct ob_scan_ring watched, judged; /* lifted and waiting to be judged; judged and waiting to be settled */
	uint64_t lifted_pages, noted_pages;  /* of the chunks in both: by the hand, and what was noted */
	unsigned noted_chunks;
	uint64_t faults;                     /* atomic: returns from the bench that it has caused */
	uint64_t round, round_ns;            /* the first atomic for reading */
	uint32_t region, chunk;              /* the hand; region OB_REGIONS_MAX: between rounds */
	uint64_t tick, tick_ns;
	uint64_t second_faults, found;       /* faults when this second began; pages found in it */
	int64_t balance;                     /* atomic for reading: scan_balance.h */
	unsigned rate, tick_lifts;           /* chunks a second; left in this tick */
	struct ob_scan_hand orphans;
	unsigned generation;                 /* of the round */
	int with_pool;                       /* in this round compressed pages are offered too */
	int all_chunks;                      /* ... and no chunk is passed over that orders for large pages concern */
	struct ob_scan_due due[OB_SCAN_DUE_MAX];
	unsigned due_count;
};

struct ob_share {
	pthread_mutex_t lock; /* a leaf: all but what is said to be under another */

	/* Under regions_lock: written with it held for writing. */
	struct ob_hash_key key;
	int is_on;            /* atomic */
	int is_suspended;     /* atomic: a release has let everything go */
	unsigned cpu_permille; /* atomic */
	unsigned generation;  /* how often sharing was switched on */

	void (*ready)(void *context);
	void *context;
	struct ob_share_offer offer[OB_OFFERS];
	unsigned offer_first, offer_count; /* the second atomic, for a look without the lock */
	unsigned offers_touched;           /* pages of the ring, which are charged */

	unsigned extent_count;  /* numbers that have been used: all others never were */
	unsigned last_extent;   /* that was found by its id: the next is most often the same */
	uint64_t to_tell;       /* over all extents */
	struct ob_extent extent[OB_EXTENTS_MAX];
	struct ob_notes notes;
	uint32_t (*ended)[OB_EXTENT_PAGES]; /* for each extent and slot, the holds that ended and that nobody has taken yet */
	uint32_t (*counted)[OB_EXTENT_PAGES]; /* and those that whoever counts them believes in: these, and those that have not ended */
};

#endif
