/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of one guest page: a 64-bit word in a flat table, and the table of all transitions.
 *
 *     bits  0..3   state
 *     bit   4      BUSY     a thread is reading the page from the swap store without the chunk's lock; nobody else touches it
 *     bit   5      WRITING  the bytes are being written to the slot below; any other change of the word cancels that
 *     bit   6      CACHED   the slot below holds what the page held when it last came in: good if the hash still matches
 *     bit   7      PLACED   benched; what it becomes lies ready elsewhere, and the bench is about to be emptied; any other
 *                           change of the word cancels that
 *     bits  8..35  slot     of the swap store, meaningful for SWAPPED, WRITING and CACHED; of the canonical store for SHARED
 *                           (4096 times the engine's own number of the extent, plus the index in it: share.h)
 *     bits 36..63  handle   in the compressed pool, meaningful for COMPRESSED; of a page that is SHARED, or was, and is RESIDENT,
 *                           PINNED or BENCHED, how warm it is: warmth.h. Of one in these three states
 *                           two bits are its chances: chances.h. Nothing depends on either
 *
 * Words are read and written under the lock of the page's chunk only. Every change of state goes through
 * ob_page_move(), which checks it against the table and counts it; flags, slot and handle may change without.
 *
 * Invariants:
 *   1. A page's bytes lie in exactly one of: guest RAM, bench, pool, store, canonical store, nowhere (zero, absent, ballooned).
 *      CACHED and WRITING slots are spare copies that nobody trusts without comparing.
 *   2. BENCHED: guest RAM has a hole there, the bench has the page. Every other state: the bench has a hole.
 *   3. RESIDENT and PINNED: guest RAM maps it (or the kernel's zero page). MAPPED: guest RAM has a mapping of the canonical store
 *      there. Every other state, in a tracked chunk: a hole.
 *   4. In an open chunk all words are ABSENT or BALLOONED and say nothing about what the kernel holds.
 *   5. A slot of the swap store or a handle is named by at most one word. A slot of the canonical store may be named by many, of
 *      many machines: each SHARED or MAPPED word is one hold of it.
 */
#ifndef OB_ENGINE_PAGE_H
#define OB_ENGINE_PAGE_H

#include <stdint.h>

#include "base/compiler.h"

enum ob_page_state {
	OB_PAGE_ABSENT, /* zero, so that a fresh table needs no initialisation */
	OB_PAGE_RESIDENT,
	OB_PAGE_BENCHED,
	OB_PAGE_ZERO,
	OB_PAGE_COMPRESSED,
	OB_PAGE_SWAPPED,
	OB_PAGE_BALLOONED,
	OB_PAGE_PINNED,
	OB_PAGE_SHARED,
	OB_PAGE_MAPPED,
	OB_PAGE_STATES
};

#define OB_PAGE_BUSY    (1ull << 4)
#define OB_PAGE_WRITING (1ull << 5)
#define OB_PAGE_CACHED  (1ull << 6)
#define OB_PAGE_PLACED  (1ull << 7)

#define OB_SLOT_BITS   28
#define OB_HANDLE_BITS 28

/* X(name, from, to): who does it and when. */
#define OB_TRANSITIONS(X)                                                                                   \
	/* fault service */                                                                                 \
	X(TOUCH, ABSENT, RESIDENT)               /* first touch, a page at a time */                        \
	X(REUSE, BALLOONED, RESIDENT)            /* first touch after the guest gave it back */             \
	X(RETURN, BENCHED, RESIDENT)             /* moved back: a fault, or I/O that began meanwhile */     \
	X(ZERO_FILL, ZERO, RESIDENT)                                                                        \
	X(DECOMPRESS, COMPRESSED, RESIDENT)                                                                 \
	X(SWAP_IN, SWAPPED, RESIDENT)                                                                       \
	X(UNSHARE, SHARED, RESIDENT)             /* copied back: a fault, or a release */                   \
	X(OPEN_REUSE, BALLOONED, ABSENT)         /* a chunk without pages is left to the kernel */          \
	/* tracking and letting go */                                                                       \
	X(ADOPT, ABSENT, RESIDENT)               /* found present when its chunk is taken into care */      \
	X(ADOPT_REUSED, BALLOONED, RESIDENT)     /* the same, given back while nobody was looking */        \
	X(OPEN, RESIDENT, ABSENT)                /* its chunk is left to the kernel, with its pages */      \
	X(OPEN_PINNED, PINNED, ABSENT)                                                                      \
	X(OPEN_ZERO, ZERO, ABSENT)               /* the kernel fills in the zeros */                        \
	/* reclaim */                                                                                       \
	X(LIFT, RESIDENT, BENCHED)                                                                          \
	X(LIFT_PINNED, PINNED, BENCHED)          /* what held it has let go */                              \
	X(LIFT_HOLE, RESIDENT, ABSENT)           /* there was no page after all */                          \
	X(PIN, RESIDENT, PINNED)                 /* the kernel refused to move it */                        \
	X(DROP_ZERO, BENCHED, ZERO)                                                                         \
	X(COMPRESS, BENCHED, COMPRESSED)                                                                    \
	X(SWAP_OUT, BENCHED, SWAPPED)            /* written */                                              \
	X(DROP_CACHED, BENCHED, SWAPPED)         /* the store still had it: no write */                     \
	X(WRITE_BACK, COMPRESSED, SWAPPED)       /* from the pool to the store */                           \
	/* sharing */                                                                                       \
	X(SHARE, BENCHED, SHARED)                /* its bytes are those of a canonical page */              \
	X(SHARE_COMPRESSED, COMPRESSED, SHARED)                                                             \
	X(SHED, SHARED, BENCHED)                 /* its extent is to go, and it gets no other slot: it is evicted like any other */ \
	X(MAP, SHARED, MAPPED)                   /* the canonical page is mapped: mapped.c */               \
	X(UNMAP, MAPPED, SHARED)                 /* the guest wrote it, or anything else is to happen to it */ \
	/* discards */                                                                                      \
	X(DISCARD_ABSENT, ABSENT, BALLOONED)                                                                \
	X(DISCARD_RESIDENT, RESIDENT, BALLOONED)                                                            \
	X(DISCARD_PINNED, PINNED, BALLOONED)                                                                \
	X(DISCARD_BENCHED, BENCHED, BALLOONED)                                                              \
	X(DISCARD_ZERO, ZERO, BALLOONED)                                                                    \
	X(DISCARD_COMPRESSED, COMPRESSED, BALLOONED)                                                        \
	X(DISCARD_SWAPPED, SWAPPED, BALLOONED)                                                              \
	X(DISCARD_SHARED, SHARED, BALLOONED)

enum ob_transition {
#define X(name, from, to) OB_T_##name,
	OB_TRANSITIONS(X)
#undef X
	OB_TRANSITION_COUNT
};

struct ob_transition_info {
	const char *name;
	enum ob_page_state from, to;
};
extern const struct ob_transition_info ob_transition_table[OB_TRANSITION_COUNT];

const char *ob_page_state_name(enum ob_page_state state);
const char *ob_page_transition_name(unsigned transition);

/* The discard that starts from a state; OB_TRANSITION_COUNT for BALLOONED, which stays, and for MAPPED, which becomes SHARED first. */
enum ob_transition ob_page_discard_of(enum ob_page_state from);

static inline enum ob_page_state ob_page_state(uint64_t word)
{
	return (enum ob_page_state)(word & 15);
}

static inline uint32_t ob_page_slot(uint64_t word)
{
	return (uint32_t)(word >> 8) & ((1u << OB_SLOT_BITS) - 1);
}

static inline uint32_t ob_page_handle(uint64_t word)
{
	return (uint32_t)(word >> 36);
}

static inline uint64_t ob_page_with_slot(uint32_t slot)
{
	return (uint64_t)slot << 8;
}

static inline uint64_t ob_page_with_handle(uint32_t handle)
{
	return (uint64_t)handle << 36;
}

/* Whether the machine's cost includes a page of its own in this state. */
static inline int ob_page_costs(enum ob_page_state state)
{
	return state == OB_PAGE_RESIDENT || state == OB_PAGE_PINNED || state == OB_PAGE_BENCHED;
}

/* Whether the page's bytes are neither in guest RAM nor trivially zero: its chunk must not be let go. */
static inline int ob_page_away(enum ob_page_state state)
{
	return state == OB_PAGE_BENCHED || state == OB_PAGE_COMPRESSED || state == OB_PAGE_SWAPPED || state == OB_PAGE_SHARED ||
	       state == OB_PAGE_MAPPED;
}

#endif
