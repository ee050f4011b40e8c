/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the strategies have in common: groups, counting, memory. strategy.h is the outside. */
#ifndef OB_SHARE_INTERNAL_H
#define OB_SHARE_INTERNAL_H

#include "share/strategy.h"
#include "share/tree.h"

/* Pages that share one copy. A strategy keeps it where it finds it again: in a tree, or in the index. */
struct ob_strategy_group {
	union {
		struct ob_tree_node node;
		struct ob_strategy_hash128 hash;
	};
	uint64_t content;
	uint32_t pages;
	uint32_t class;
	struct ob_strategy_group *next_free; /* of those without pages */
};

struct ob_strategy_ops {
	/* Both after the common part was set up. */
	int (*open)(struct ob_strategy *strategy);
	void (*close)(struct ob_strategy *strategy);
	/* The page is in no group. Returns the group that it is to join, NULL: none, or -ENOMEM by *ret_error. The group may be a
	   new one, which its partner has joined already. */
	struct ob_strategy_group *(*find)(struct ob_strategy *strategy, const struct ob_strategy_view *view, int *ret_error);
	/* The group has no pages left: take it out of where it is kept. */
	void (*dissolve)(struct ob_strategy *strategy, struct ob_strategy_group *group);
	/* Forget what is known of a page beside its group. */
	void (*forget)(struct ob_strategy *strategy, uint32_t page);
	void (*pass_end)(struct ob_strategy *strategy);
};

struct ob_strategy {
	const struct ob_strategy_ops *ops;
	const struct ob_strategy_source *source;
	void *context;
	struct ob_strategy_options options;
	struct ob_strategy_counters counters;
	struct ob_strategy_group **group_of; /* by page; NULL: in none */
	struct ob_strategy_group *free_groups;
	struct ob_strategy_slab *slabs; /* of groups */
	unsigned (*class_of)(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
	void *own; /* the strategy's */
};

/* An array of so many, zeroed and counted in memory_bytes; NULL: no memory. */
void *ob_strategy_array(struct ob_strategy *strategy, uint64_t n, uint64_t size);

/* A group of these bytes without pages, or NULL. */
struct ob_strategy_group *ob_strategy_group_new(struct ob_strategy *strategy, uint64_t content);

/* A group that no page has joined, and that is kept nowhere. Dissolved ones are freed by the common part. */
void ob_strategy_group_free(struct ob_strategy *strategy, struct ob_strategy_group *group);

/* The page, which is in no group, joins one. */
void ob_strategy_join(struct ob_strategy *strategy, struct ob_strategy_group *group, uint32_t page);

/* Compares and counts. */
int ob_strategy_compare(struct ob_strategy *strategy, uint64_t a, uint64_t b);

uint32_t ob_strategy_checksum(struct ob_strategy *strategy, uint64_t content);
struct ob_strategy_hash128 ob_strategy_hash(struct ob_strategy *strategy, uint64_t content);

/* Which class a page is of; sum: its checksum, for the strategy "checksum" alone. */
unsigned ob_strategy_class_one(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
unsigned ob_strategy_class_address(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
unsigned ob_strategy_class_pagecount(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
unsigned ob_strategy_class_subpage(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
unsigned ob_strategy_class_checksum(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);

extern const struct ob_strategy_ops ob_strategy_trees, ob_strategy_hashes;

#endif
