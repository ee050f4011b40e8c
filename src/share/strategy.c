/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The common part of all strategies: who is in which group, counters, memory, and the table of strategies.
 *
 * A look counts its comparisons as futile when it ends without a group: as the CMD paper does, which speaks of pages for which
 * neither tree had an equal one. Groups are made in slabs that are given back when the index is closed; one that was
 * dissolved is used again.
 */
#include "share/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLAB_GROUPS 1024

struct ob_strategy_slab {
	struct ob_strategy_slab *next;
	struct ob_strategy_group groups[SLAB_GROUPS];
};

static uint32_t one_class(const struct ob_strategy_options *o)
{
	return 1;
}

static uint32_t address_classes(const struct ob_strategy_options *o)
{
	return o->ranges;
}

static uint32_t pagecount_classes(const struct ob_strategy_options *o)
{
	return o->count_width ? o->count_classes : 0;
}

static uint32_t subpage_classes(const struct ob_strategy_options *o)
{
	uint32_t n = o->subpages;

	return n && n <= OB_STRATEGY_SUBPAGES_MAX && OB_STRATEGY_SUBPAGES_MAX % n == 0 && o->threshold ? 1u << n : 0;
}

static uint32_t checksum_classes(const struct ob_strategy_options *o)
{
	uint64_t n = o->bytes_per_tree ? (uint64_t)o->pages * OB_STRATEGY_PAGE_BYTES / o->bytes_per_tree : 0;

	return o->bytes_per_tree ? (n ? (uint32_t)n : 1) : 0;
}

static const struct {
	const char *name;
	const struct ob_strategy_ops *ops;
	uint32_t (*classes)(const struct ob_strategy_options *options); /* 0: the options make no sense */
	unsigned (*class_of)(const struct ob_strategy *strategy, const struct ob_strategy_view *view, uint32_t sum);
	int compares, checksums, hashes; /* what it needs of the source */
} strategies[] = {
	{ "ksm", &ob_strategy_trees, one_class, ob_strategy_class_one, 1, 1, 0 },
	{ "cmd-address", &ob_strategy_trees, address_classes, ob_strategy_class_address, 1, 1, 0 },
	{ "cmd-pagecount", &ob_strategy_trees, pagecount_classes, ob_strategy_class_pagecount, 1, 1, 0 },
	{ "cmd-subpage", &ob_strategy_trees, subpage_classes, ob_strategy_class_subpage, 1, 1, 0 },
	{ "checksum", &ob_strategy_trees, checksum_classes, ob_strategy_class_checksum, 1, 1, 0 },
	{ "hash", &ob_strategy_hashes, one_class, ob_strategy_class_one, 0, 0, 1 },
};

const char *const ob_strategy_names[] = { "ksm", "cmd-address", "cmd-pagecount", "cmd-subpage", "checksum", "hash", NULL };

int ob_strategy_open(const char *name, const struct ob_strategy_options *options, const struct ob_strategy_source *source,
		     void *context, struct ob_strategy **ret)
{
	struct ob_strategy *strategy;
	size_t i;
	int r;

	for (i = 0; i < OB_ARRAY_LEN(strategies) && strcmp(strategies[i].name, name); i++)
		;
	if (i == OB_ARRAY_LEN(strategies))
		return -ENOENT;
	if (!options->pages || !strategies[i].classes(options) || !source->content || (strategies[i].compares && !source->compare) ||
	    (strategies[i].checksums && !source->checksum) || (strategies[i].hashes && !source->hash))
		return -EINVAL;
	strategy = calloc(1, sizeof(*strategy));
	if (!strategy)
		return -ENOMEM;
	strategy->ops = strategies[i].ops;
	strategy->class_of = strategies[i].class_of;
	strategy->source = source;
	strategy->context = context;
	strategy->options = *options;
	strategy->counters.classes = strategies[i].classes(options);
	strategy->counters.memory_bytes = sizeof(*strategy);
	strategy->group_of = ob_strategy_array(strategy, options->pages, sizeof(struct ob_strategy_group *));
	r = strategy->group_of ? strategy->ops->open(strategy) : -ENOMEM;
	if (r < 0) {
		ob_strategy_close(strategy);
		return r;
	}
	*ret = strategy;
	return 0;
}

void ob_strategy_close(struct ob_strategy *strategy)
{
	if (!strategy)
		return;
	strategy->ops->close(strategy);
	while (strategy->slabs) {
		struct ob_strategy_slab *next = strategy->slabs->next;

		free(strategy->slabs);
		strategy->slabs = next;
	}
	free(strategy->group_of);
	free(strategy);
}

void *ob_strategy_array(struct ob_strategy *strategy, uint64_t n, uint64_t size)
{
	void *array = calloc(n, size);

	if (array)
		strategy->counters.memory_bytes += n * size;
	return array;
}

struct ob_strategy_group *ob_strategy_group_new(struct ob_strategy *strategy, uint64_t content)
{
	struct ob_strategy_group *group;

	if (!strategy->free_groups) {
		struct ob_strategy_slab *slab = ob_strategy_array(strategy, 1, sizeof(*slab));

		if (!slab)
			return NULL;
		slab->next = strategy->slabs;
		strategy->slabs = slab;
		for (unsigned i = 0; i < SLAB_GROUPS; i++) {
			slab->groups[i].next_free = strategy->free_groups;
			strategy->free_groups = &slab->groups[i];
		}
	}
	group = strategy->free_groups;
	strategy->free_groups = group->next_free;
	*group = (struct ob_strategy_group){ .content = content };
	return group;
}

void ob_strategy_group_free(struct ob_strategy *strategy, struct ob_strategy_group *group)
{
	group->next_free = strategy->free_groups;
	strategy->free_groups = group;
}

void ob_strategy_join(struct ob_strategy *strategy, struct ob_strategy_group *group, uint32_t page)
{
	strategy->group_of[page] = group;
	if (group->pages++)
		strategy->counters.saved_pages++;
	strategy->counters.merged++;
}

static void leave(struct ob_strategy *strategy, uint32_t page)
{
	struct ob_strategy_group *group = strategy->group_of[page];

	strategy->group_of[page] = NULL;
	strategy->counters.broken++;
	if (--group->pages) {
		strategy->counters.saved_pages--;
		return;
	}
	strategy->ops->dissolve(strategy, group);
	ob_strategy_group_free(strategy, group);
}

int ob_strategy_look(struct ob_strategy *strategy, const struct ob_strategy_view *view)
{
	uint64_t before = strategy->counters.comparisons;
	struct ob_strategy_group *group;
	int error = 0;

	if (view->page >= strategy->options.pages)
		return -EINVAL;
	strategy->counters.looks++;
	if (strategy->group_of[view->page]) {
		if (!view->written)
			return 1;
		leave(strategy, view->page);
	}
	group = strategy->ops->find(strategy, view, &error);
	if (group) {
		ob_strategy_join(strategy, group, view->page);
		return 1;
	}
	strategy->counters.futile_comparisons += strategy->counters.comparisons - before;
	return error;
}

void ob_strategy_forget(struct ob_strategy *strategy, uint32_t page)
{
	if (page >= strategy->options.pages)
		return;
	if (strategy->group_of[page])
		leave(strategy, page);
	strategy->ops->forget(strategy, page);
}

void ob_strategy_pass_end(struct ob_strategy *strategy)
{
	strategy->ops->pass_end(strategy);
}

uint64_t ob_strategy_group_of(const struct ob_strategy *strategy, uint32_t page, uint64_t *ret_content)
{
	const struct ob_strategy_group *group = page < strategy->options.pages ? strategy->group_of[page] : NULL;

	if (group && ret_content)
		*ret_content = group->content;
	return (uintptr_t)group;
}

void ob_strategy_count(const struct ob_strategy *strategy, struct ob_strategy_counters *ret)
{
	*ret = strategy->counters;
}

int ob_strategy_compare(struct ob_strategy *strategy, uint64_t a, uint64_t b)
{
	uint32_t bytes = 0;
	int order = strategy->source->compare ? strategy->source->compare(strategy->context, a, b, &bytes) : 0;

	strategy->counters.comparisons++;
	strategy->counters.compared_bytes += bytes;
	return order;
}

uint32_t ob_strategy_checksum(struct ob_strategy *strategy, uint64_t content)
{
	strategy->counters.hashed_pages++;
	return strategy->source->checksum(strategy->context, content);
}

struct ob_strategy_hash128 ob_strategy_hash(struct ob_strategy *strategy, uint64_t content)
{
	strategy->counters.hashed_pages++;
	return strategy->source->hash(strategy->context, content);
}
