/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Invariants: the root is black; a red node has no red child; each way down from a node passes equally many black nodes.
 * NULL counts as black. Both repairs go up from the place of the change: after linking, two reds in a row are recoloured or
 * turned away; after taking a black node out, the side that lacks one borrows it from its sibling.
 */
#include "share/tree.h"

static int is_red(const struct ob_tree_node *node)
{
	return node && node->red;
}

static int side_of(const struct ob_tree_node *node)
{
	return node->parent->child[1] == node;
}

/* Puts `with` (NULL: nothing) where node hangs. */
static void replace(struct ob_tree *tree, struct ob_tree_node *node, struct ob_tree_node *with)
{
	if (!node->parent)
		tree->root = with;
	else
		node->parent->child[side_of(node)] = with;
	if (with)
		with->parent = node->parent;
}

/* Turns node down to that side; its child of the other side takes its place. */
static void rotate(struct ob_tree *tree, struct ob_tree_node *node, int side)
{
	struct ob_tree_node *up = node->child[!side];

	replace(tree, node, up);
	node->child[!side] = up->child[side];
	if (up->child[side])
		up->child[side]->parent = node;
	up->child[side] = node;
	node->parent = up;
}

void ob_tree_link(struct ob_tree *tree, struct ob_tree_node *node, struct ob_tree_node *parent, int side)
{
	*node = (struct ob_tree_node){ .parent = parent, .red = 1 };
	if (!parent)
		tree->root = node;
	else
		parent->child[side] = node;

	while (is_red(node->parent)) {
		struct ob_tree_node *above = node->parent, *top = above->parent;
		int s = side_of(above);
		struct ob_tree_node *uncle = top->child[!s];

		if (is_red(uncle)) {
			above->red = uncle->red = 0;
			top->red = 1;
			node = top;
			continue;
		}
		if (side_of(node) != s) {
			rotate(tree, above, s);
			above = node;
		}
		above->red = 0;
		top->red = 1;
		rotate(tree, top, !s);
		break;
	}
	tree->root->red = 0;
}

/* On that side of parent hangs a subtree whose black height is one too small. */
static void repair(struct ob_tree *tree, struct ob_tree_node *parent, int side)
{
	while (parent && !is_red(parent->child[side])) {
		struct ob_tree_node *sibling = parent->child[!side];

		if (sibling->red) {
			sibling->red = 0;
			parent->red = 1;
			rotate(tree, parent, side);
			sibling = parent->child[!side];
		}
		if (!is_red(sibling->child[0]) && !is_red(sibling->child[1])) {
			sibling->red = 1;
			if (!parent->parent)
				return;
			if (parent->red) {
				parent->red = 0;
				return;
			}
			side = side_of(parent);
			parent = parent->parent;
			continue;
		}
		if (!is_red(sibling->child[!side])) {
			sibling->child[side]->red = 0;
			sibling->red = 1;
			rotate(tree, sibling, !side);
			sibling = parent->child[!side];
		}
		sibling->red = parent->red;
		parent->red = 0;
		sibling->child[!side]->red = 0;
		rotate(tree, parent, side);
		return;
	}
	if (parent)
		parent->child[side]->red = 0;
}

void ob_tree_remove(struct ob_tree *tree, struct ob_tree_node *node)
{
	struct ob_tree_node *child, *parent;
	int black, side;

	if (node->child[0] && node->child[1]) {
		struct ob_tree_node *next = node->child[1];

		while (next->child[0])
			next = next->child[0];
		black = !next->red;
		child = next->child[1];
		parent = next->parent == node ? next : next->parent;
		side = next->parent == node;
		if (next->parent != node) {
			replace(tree, next, child);
			next->child[1] = node->child[1];
			next->child[1]->parent = next;
		}
		replace(tree, node, next);
		next->child[0] = node->child[0];
		next->child[0]->parent = next;
		next->red = node->red;
	} else {
		black = !node->red;
		child = node->child[node->child[0] ? 0 : 1];
		parent = node->parent;
		side = parent ? side_of(node) : 0;
		replace(tree, node, child);
	}
	if (!black)
		return;
	if (parent)
		repair(tree, parent, side);
	else if (tree->root)
		tree->root->red = 0;
}

static int check(const struct ob_tree_node *node, const struct ob_tree_node *parent)
{
	int before, after;

	if (!node)
		return 0;
	if (node->parent != parent || (node->red && is_red(parent)))
		return -1;
	before = check(node->child[0], node);
	after = check(node->child[1], node);
	return before < 0 || before != after ? -1 : before + !node->red;
}

int ob_tree_check(const struct ob_tree *tree)
{
	return is_red(tree->root) ? -1 : check(tree->root, NULL);
}
