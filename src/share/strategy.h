/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Strategies that find equal pages, side by side behind one interface, to be compared with each other (bench/share-index).
 *
 *   ksm            two global trees ordered by the bytes of pages, as the kernel's KSM
 *   cmd-address    the same in classes: the range of memory in which the page lies
 *   cmd-pagecount  ... how often the page has been written since the last pass
 *   cmd-subpage    ... which parts of the page have been written often since the last pass
 *   checksum       ... the page's checksum modulo the number of classes (nuKSM); equal pages are always of one class
 *   hash           no order and no classes: hashes of 128 bits in the index of overbookd (index.h)
 *
 * Use: a pass looks at each page once, in any order, by ob_strategy_look(), and ends with ob_strategy_pass_end(). What a page
 * holds must not change while a pass goes on. A page that is no candidate any more (it is all zero, or gone) is forgotten.
 *
 * A **group** is pages that were found equal and share one copy, the group's: it stays what it was when one of them is written,
 * which takes that page out of the group. A group whose last page leaves is dissolved. All strategies but "hash" with a source
 * that cannot compare merge by comparing bytes, never by a hash alone.
 *
 * index.h is overbookd's, which sees hashes alone; what is here must be able to order pages by their bytes, and so has a wider
 * interface, on which the index of overbookd is one of the strategies.
 *
 * Nothing here reads pages. A `content` is the source's name for bytes: it is asked for that of a page when the page is looked
 * at, and must know it for as long as the page holds these bytes, or a group made of them exists.
 */
#ifndef OB_SHARE_STRATEGY_H
#define OB_SHARE_STRATEGY_H

#include <stdint.h>

#include "base/compiler.h"

#define OB_STRATEGY_SUBPAGES_MAX 8u
#define OB_STRATEGY_PAGE_BYTES   4096u

struct ob_strategy_hash128 {
	uint64_t low, high;
};

/* What the strategies ask of whoever has the pages. None may fail. */
struct ob_strategy_source {
	/* The bytes that a page holds now. */
	uint64_t (*content)(void *context, uint32_t page);
	/* As memcmp; *ret_bytes is how many bytes of each were looked at. NULL: there are no bytes, equal hashes are equal pages
	   (what is merged must then be compared by somebody else), and only "hash" works. */
	int (*compare)(void *context, uint64_t a, uint64_t b, uint32_t *ret_bytes);
	uint32_t (*checksum)(void *context, uint64_t content);
	struct ob_strategy_hash128 (*hash)(void *context, uint64_t content);
};

struct ob_strategy_options {
	uint32_t pages;          /* pages are numbered from 0 to this */
	uint32_t ranges;         /* cmd-address: so many classes, of equally many neighbouring pages (8) */
	uint32_t count_width;    /* cmd-pagecount: class = writes / width ... (64) */
	uint32_t count_classes;  /* ... the last class has the rest (16) */
	uint32_t subpages;       /* cmd-subpage: 1, 2, 4 or 8 parts of a page (4) */
	uint32_t threshold;      /* ... bit i of the class: part i was written at least so often (16) */
	uint64_t bytes_per_tree; /* checksum: one class for so much memory (100 MiB) */
	int eager;               /* hash: a page may find a partner that is in no group without having rested for a pass */
	int tracked;             /* hash: a page that was not written is not hashed again */
};
#define OB_STRATEGY_OPTIONS_DEFAULT { .ranges = 8, .count_width = 64, .count_classes = 16, .subpages = 4, .threshold = 16, \
	.bytes_per_tree = 100ull << 20 }

/* A page that is looked at. */
struct ob_strategy_view {
	uint32_t page;
	int written;                            /* it may have been written since it was last looked at. Only pages in groups (write-
	                                           protected: the break tells) are asked for it, and all by "hash" when tracked */
	uint32_t writes[OB_STRATEGY_SUBPAGES_MAX]; /* writes to each eighth of the page since the last pass: a monitor's */
};

struct ob_strategy_counters {
	uint64_t looks;
	uint64_t comparisons;        /* of two pages, each of them however short */
	uint64_t futile_comparisons; /* those of looks that found no equal page anywhere */
	uint64_t compared_bytes;     /* of one of the two pages */
	uint64_t hashed_pages;       /* read whole for a checksum or a hash */
	uint64_t merged;             /* pages that joined a group, or made one, each time they did */
	uint64_t broken;             /* pages that left a group because they were written or forgotten */
	uint64_t saved_pages;        /* now: pages in groups less groups */
	uint64_t classes;            /* that there can be */
	uint64_t memory_bytes;       /* of the index, the most there was; nothing for what a monitor or the source need */
};

struct ob_strategy;

/* The names of all strategies, NULL after the last. */
extern const char *const ob_strategy_names[];

/* Makes an empty index. 0; -ENOENT: there is no such strategy; -EINVAL: options that make no sense, or a source that cannot do
   what the strategy needs; -ENOMEM. Source and context must live as long. */
int ob_strategy_open(const char *name, const struct ob_strategy_options *options, const struct ob_strategy_source *source,
		     void *context, struct ob_strategy **ret) OB_MUST_CHECK;
void ob_strategy_close(struct ob_strategy *strategy);

/* Looks at a page: 1 when it is in a group now, 0 when not, -EINVAL: there is no such page, -ENOMEM. */
int ob_strategy_look(struct ob_strategy *strategy, const struct ob_strategy_view *view) OB_MUST_CHECK;
void ob_strategy_forget(struct ob_strategy *strategy, uint32_t page);
void ob_strategy_pass_end(struct ob_strategy *strategy);

/* The group that a page is in: a number that is the same for all in it, 0: none. *ret_content: the group's bytes. */
uint64_t ob_strategy_group_of(const struct ob_strategy *strategy, uint32_t page, uint64_t *ret_content);

void ob_strategy_count(const struct ob_strategy *strategy, struct ob_strategy_counters *ret);

#endif
