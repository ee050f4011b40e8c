/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trees ordered by the bytes of pages: KSM, and with more than one class CMD and nuKSM.
 *
 * Each class has a stable tree, of groups, and an unstable one, of single pages. A page that is in no group is
 *   1. searched for in the stable tree of its class; found: it joins;
 *   2. left alone until the next pass when its checksum is not the last pass's: it is being written;
 *   3. searched for in the unstable tree, and put there when it is not found. Found: the two become a group, which goes into
 *      the stable tree (one more walk down, counted too), and the partner leaves the unstable one.
 * All unstable trees are dropped when a pass ends, since pages change under them. Stable ones are right for ever: a group keeps
 * its copy. A group stays in the tree of the class in which it was made, and knows it, whatever becomes of its pages' classes;
 * what CMD loses is pages that come later, or together, in another class. With "checksum" nothing is lost, but the checksum is
 * needed before the first search.
 *
 * Left out of the kernel's KSM: max_page_sharing (chains of copies of one content), NUMA, smart scan, and zero pages, which
 * are the caller's. Groups that lost their last page are taken out of the tree at once; the kernel leaves them until a
 * search meets them.
 */
#include "share/internal.h"

#include <errno.h>
#include <stdlib.h>

struct item {
	struct ob_tree_node node;
	uint64_t content;
	uint32_t pass; /* in which it was put into the unstable tree; it is there when that is this one; 0: never */
	uint32_t class;
	uint32_t sum;
	int has_sum;
};

struct trees {
	uint32_t pass;
	struct ob_tree *stable, *unstable;
	struct item *items;
};

#define CONTAINER(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

static int trees_open(struct ob_strategy *strategy)
{
	struct trees *trees = strategy->own = ob_strategy_array(strategy, 1, sizeof(*trees));

	if (!trees)
		return -ENOMEM;
	trees->pass = 1;
	trees->stable = ob_strategy_array(strategy, strategy->counters.classes, sizeof(struct ob_tree));
	trees->unstable = ob_strategy_array(strategy, strategy->counters.classes, sizeof(struct ob_tree));
	trees->items = ob_strategy_array(strategy, strategy->options.pages, sizeof(struct item));
	return trees->stable && trees->unstable && trees->items ? 0 : -ENOMEM;
}

static void trees_close(struct ob_strategy *strategy)
{
	struct trees *trees = strategy->own;

	if (!trees)
		return;
	free(trees->stable);
	free(trees->unstable);
	free(trees->items);
	free(trees);
}

/* Where a walk down a tree ended: at an equal node, or at the place where a new one goes. */
struct place {
	struct ob_tree_node *equal, *parent;
	int side;
};

static struct place walk(struct ob_strategy *strategy, struct ob_tree *tree, uint64_t content,
			 uint64_t (*content_of)(struct ob_tree_node *node))
{
	struct place place = { 0 };
	struct ob_tree_node *node = tree->root;

	while (node) {
		int order = ob_strategy_compare(strategy, content, content_of(node));

		if (!order) {
			place.equal = node;
			break;
		}
		place.parent = node;
		place.side = order > 0;
		node = node->child[place.side];
	}
	return place;
}

static uint64_t group_content(struct ob_tree_node *node)
{
	return CONTAINER(node, struct ob_strategy_group, node)->content;
}

static uint64_t item_content(struct ob_tree_node *node)
{
	return CONTAINER(node, struct item, node)->content;
}

/* Takes a page out of the unstable tree, if it is in one. */
static void take_out(struct trees *trees, struct item *item)
{
	if (item->pass == trees->pass)
		ob_tree_remove(&trees->unstable[item->class], &item->node);
	item->pass = 0;
}

/* Two single pages are equal: a group of the partner's. */
static struct ob_strategy_group *make_group(struct ob_strategy *strategy, unsigned class, struct item *partner)
{
	struct trees *trees = strategy->own;
	struct ob_strategy_group *group = ob_strategy_group_new(strategy, partner->content);
	struct place place;

	if (!group)
		return NULL;
	place = walk(strategy, &trees->stable[class], partner->content, group_content);
	group->class = class;
	ob_tree_link(&trees->stable[class], &group->node, place.parent, place.side);
	take_out(trees, partner);
	ob_strategy_join(strategy, group, (uint32_t)(partner - trees->items));
	return group;
}

static struct ob_strategy_group *trees_find(struct ob_strategy *strategy, const struct ob_strategy_view *view, int *ret_error)
{
	struct trees *trees = strategy->own;
	struct item *item = &trees->items[view->page];
	uint64_t content = strategy->source->content(strategy->context, view->page);
	int sum_first = strategy->class_of == ob_strategy_class_checksum, rested;
	uint32_t sum = sum_first ? ob_strategy_checksum(strategy, content) : 0;
	unsigned class = strategy->class_of(strategy, view, sum);
	struct ob_strategy_group *group;
	struct place place;

	/* Looked at twice in one pass. */
	take_out(trees, item);
	place = walk(strategy, &trees->stable[class], content, group_content);
	if (place.equal)
		return CONTAINER(place.equal, struct ob_strategy_group, node);
	if (!sum_first)
		sum = ob_strategy_checksum(strategy, content);
	rested = item->has_sum && item->sum == sum;
	item->has_sum = 1;
	item->sum = sum;
	if (!rested)
		return NULL;
	place = walk(strategy, &trees->unstable[class], content, item_content);
	if (!place.equal) {
		item->content = content;
		item->pass = trees->pass;
		item->class = class;
		ob_tree_link(&trees->unstable[class], &item->node, place.parent, place.side);
		return NULL;
	}
	group = make_group(strategy, class, CONTAINER(place.equal, struct item, node));
	if (!group)
		*ret_error = -ENOMEM;
	return group;
}

static void trees_dissolve(struct ob_strategy *strategy, struct ob_strategy_group *group)
{
	struct trees *trees = strategy->own;

	ob_tree_remove(&trees->stable[group->class], &group->node);
}

static void trees_forget(struct ob_strategy *strategy, uint32_t page)
{
	struct trees *trees = strategy->own;
	struct item *item = &trees->items[page];

	take_out(trees, item);
	item->has_sum = 0;
}

static void trees_pass_end(struct ob_strategy *strategy)
{
	struct trees *trees = strategy->own;

	for (unsigned i = 0; i < strategy->counters.classes; i++)
		trees->unstable[i].root = NULL;
	trees->pass++;
}

const struct ob_strategy_ops ob_strategy_trees = {
	.open = trees_open,
	.close = trees_close,
	.find = trees_find,
	.dissolve = trees_dissolve,
	.forget = trees_forget,
	.pass_end = trees_pass_end,
};
