/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A red-black tree whose nodes lie in the caller's structures. It knows no order: the caller walks down from `root`, comparing
 * as it likes (and counting), and links the new node where it fell off.
 */
#ifndef OB_SHARE_TREE_H
#define OB_SHARE_TREE_H

#include <stddef.h>

struct ob_tree_node {
	struct ob_tree_node *parent, *child[2]; /* child[0] is before, child[1] after */
	int red;
};

struct ob_tree {
	struct ob_tree_node *root;
};

/* Links node below parent (NULL: the tree is empty) on that side, where nothing hangs yet, and restores the balance. */
void ob_tree_link(struct ob_tree *tree, struct ob_tree_node *node, struct ob_tree_node *parent, int side);

/* Takes node out. The others stay where they are in memory. */
void ob_tree_remove(struct ob_tree *tree, struct ob_tree_node *node);

/* Whether parents, colours and black heights are as they must be: for tests. Returns the black height, or -1. */
int ob_tree_check(const struct ob_tree *tree);

#endif
