/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * "hash": keyed hashes of 128 bits, in the index that overbookd uses (index.h, ob_index_hash).
 *
 * In the index are groups, as slots of the store, and candidates, which are single pages. A page that is in no group is hashed and
 *   1. joins the group of its hash;
 *   2. left alone until the next pass when its hash is not the last pass's (not with "eager");
 *   3. becomes a group with the candidate of its hash, or a candidate.
 * Candidates stay when a pass ends: a hash is no order, so a page that has changed spoils nothing. It is found out when it is
 * next looked at, or when a partner is compared with what it holds now, which is why that is asked for anew each time.
 *
 * Every merge compares the bytes, if the source can: the index may give several entries for one hash.
 */
#include "share/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "share/index.h"

struct item {
	struct ob_strategy_hash128 hash; /* when it was last looked at */
	uint8_t has_hash, is_candidate;
};

struct table {
	struct item *items;
	struct ob_index *index;
	uint64_t most_bytes; /* of the index, as far as they are counted */
};

static int hash_open(struct ob_strategy *strategy)
{
	struct table *table = strategy->own = ob_strategy_array(strategy, 1, sizeof(*table));

	if (!table)
		return -ENOMEM;
	table->items = ob_strategy_array(strategy, strategy->options.pages, sizeof(struct item));
	table->index = ob_index_new(&ob_index_hash, 1);
	if (!table->items || !table->index)
		return -ENOMEM;
	ob_index_set_quota(table->index, 0, strategy->options.pages);
	return 0;
}

static void hash_close(struct ob_strategy *strategy)
{
	struct table *table = strategy->own;

	if (!table)
		return;
	ob_index_free(table->index);
	free(table->items);
	free(table);
}

static int is_equal(struct ob_strategy_hash128 a, struct ob_strategy_hash128 b)
{
	return a.low == b.low && a.high == b.high;
}

static struct ob_index_entry page_entry(const struct table *table, uint32_t page)
{
	struct ob_strategy_hash128 hash = table->items[page].hash;

	return (struct ob_index_entry){ .lo = hash.low, .hi = hash.high, .where = page };
}

static struct ob_index_entry group_entry(const struct ob_strategy_group *group)
{
	return (struct ob_index_entry){
		.lo = group->hash.low, .hi = group->hash.high, .where = (uintptr_t)group, .owner = OB_INDEX_STORE,
	};
}

static void take_out(struct table *table, uint32_t page)
{
	struct ob_index_entry entry = page_entry(table, page);

	if (table->items[page].is_candidate)
		ob_index_remove(table->index, &entry);
	table->items[page].is_candidate = 0;
}

/* The first entry of that hash with these bytes: a group, or with `pages` a candidate too. Returns 1, or 0: there is none. */
static int find_equal(struct ob_strategy *strategy, struct ob_strategy_hash128 hash, uint64_t content, int pages,
		      struct ob_index_entry *ret_entry)
{
	const struct table *table = strategy->own;
	struct ob_index_cursor cursor = { 0 };

	while (ob_index_find(table->index, hash.low, hash.high, 0, &cursor, ret_entry)) {
		int is_group = ret_entry->owner == OB_INDEX_STORE;
		uint64_t other;

		if (!is_group && !pages)
			break;
		other = is_group ? ((const struct ob_strategy_group *)(uintptr_t)ret_entry->where)->content :
				   strategy->source->content(strategy->context, (uint32_t)ret_entry->where);
		if (!ob_strategy_compare(strategy, content, other))
			return 1;
	}
	return 0;
}

static struct ob_strategy_group *make_group(struct ob_strategy *strategy, struct ob_strategy_hash128 hash, uint64_t content,
					    uint32_t partner, int *ret_error)
{
	struct table *table = strategy->own;
	struct ob_strategy_group *group = ob_strategy_group_new(strategy, content);
	struct ob_index_entry entry;
	int r;

	if (!group) {
		*ret_error = -ENOMEM;
		return NULL;
	}
	group->hash = hash;
	take_out(table, partner);
	entry = group_entry(group);
	r = ob_index_add(table->index, &entry);
	if (r < 0) {
		*ret_error = r;
		ob_strategy_group_free(strategy, group);
		return NULL;
	}
	ob_strategy_join(strategy, group, partner);
	return group;
}

static void add_candidate(struct table *table, uint32_t page, int *ret_error)
{
	struct ob_index_entry entry = page_entry(table, page);
	int r = ob_index_add(table->index, &entry);

	if (r > 0)
		table->items[page].is_candidate = 1;
	else if (r < 0)
		*ret_error = r;
}

static struct ob_strategy_group *hash_find(struct ob_strategy *strategy, const struct ob_strategy_view *view, int *ret_error)
{
	struct table *table = strategy->own;
	struct item *item = &table->items[view->page];
	int is_known = strategy->options.tracked && !view->written && item->has_hash, may_pair;
	uint64_t content = strategy->source->content(strategy->context, view->page);
	struct ob_strategy_hash128 hash = is_known ? item->hash : ob_strategy_hash(strategy, content);
	struct ob_index_entry entry;

	may_pair = strategy->options.eager || (item->has_hash && is_equal(item->hash, hash));
	take_out(table, view->page);
	item->hash = hash;
	item->has_hash = 1;
	if (!find_equal(strategy, hash, content, may_pair, &entry)) {
		if (may_pair)
			add_candidate(table, view->page, ret_error);
		return NULL;
	}
	if (entry.owner == OB_INDEX_STORE)
		return (struct ob_strategy_group *)(uintptr_t)entry.where;
	return make_group(strategy, hash, content, (uint32_t)entry.where, ret_error);
}

static void hash_dissolve(struct ob_strategy *strategy, struct ob_strategy_group *group)
{
	const struct table *table = strategy->own;
	struct ob_index_entry entry = group_entry(group);

	ob_index_remove(table->index, &entry);
}

static void hash_forget(struct ob_strategy *strategy, uint32_t page)
{
	struct table *table = strategy->own;

	take_out(table, page);
	table->items[page].has_hash = 0;
}

static void hash_pass_end(struct ob_strategy *strategy)
{
	struct table *table = strategy->own;
	uint64_t bytes = ob_index_memory(table->index);

	if (bytes > table->most_bytes) {
		strategy->counters.memory_bytes += bytes - table->most_bytes;
		table->most_bytes = bytes;
	}
}

const struct ob_strategy_ops ob_strategy_hashes = {
	.open = hash_open,
	.close = hash_close,
	.find = hash_find,
	.dissolve = hash_dissolve,
	.forget = hash_forget,
	.pass_end = hash_pass_end,
};
