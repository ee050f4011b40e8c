/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The strategies of src/share against a model that knows no trees and no tables: lists, searched from one end to the other.
 * After each pass the groups must be the same.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "share/strategy.h"
#include "share/tree.h"

#define PAGES    240u
#define CONTENTS 70u
#define BYTES    32u

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

/* The world: what pages hold, and how it is told. A content is a number, its bytes are in bytes[]. */
static struct world {
	unsigned char bytes[CONTENTS][BYTES];
	uint32_t content[PAGES];
	int written[PAGES], is_zero[PAGES];
	uint32_t writes[PAGES];   /* all to one eighth, which the page's number says */
	uint32_t sums, hashes;    /* so many different values: 1 forces collisions */
} world;

static uint64_t world_content(void *context, uint32_t page)
{
	assert_ptr_equal(context, &world);
	assert_true(page < PAGES);
	return world.content[page];
}

static int world_compare(void *context, uint64_t a, uint64_t b, uint32_t *ret_bytes)
{
	uint32_t n = 0;

	assert_ptr_equal(context, &world);
	while (n < BYTES && world.bytes[a][n] == world.bytes[b][n])
		n++;
	*ret_bytes = n < BYTES ? n + 1 : BYTES;
	return n < BYTES ? world.bytes[a][n] - world.bytes[b][n] : 0;
}

static uint32_t world_checksum(void *context, uint64_t content)
{
	return (uint32_t)content * 2654435761u % world.sums;
}

static struct ob_strategy_hash128 world_hash(void *context, uint64_t content)
{
	return (struct ob_strategy_hash128){ (content * 0x9e3779b97f4a7c15ull >> 20) % world.hashes, 7 };
}

static const struct ob_strategy_source source = { world_content, world_compare, world_checksum, world_hash };

/* Contents that differ late, so that an order which stops early shows. */
static void make_world(uint32_t sums, uint32_t hashes)
{
	memset(&world, 0, sizeof(world));
	world.sums = sums;
	world.hashes = hashes;
	for (uint32_t i = 0; i < CONTENTS; i++) {
		memset(world.bytes[i], (int)draw(2), BYTES - 2);
		world.bytes[i][BYTES - 2] = (unsigned char)(i / 7);
		world.bytes[i][BYTES - 1] = (unsigned char)(i % 7 * 40);
	}
	for (uint32_t page = 0; page < PAGES; page++) {
		world.content[page] = draw(CONTENTS);
		world.writes[page] = draw(40);
	}
}

static void change_world(uint32_t percent)
{
	for (uint32_t page = 0; page < PAGES; page++) {
		world.written[page] = 0;
		if (draw(100) >= percent)
			continue;
		world.written[page] = 1;
		world.content[page] = draw(CONTENTS);
		world.writes[page] = draw(40);
		world.is_zero[page] = !draw(12);
	}
}

static struct ob_strategy_view view_of(uint32_t page)
{
	struct ob_strategy_view view = { .page = page, .written = world.written[page] };

	view.writes[page % OB_STRATEGY_SUBPAGES_MAX] = world.writes[page];
	return view;
}

/* The model. */
static struct model {
	const char *name;
	struct ob_strategy_options options;
	uint32_t groups;
	struct {
		uint32_t content, class, pages;
	} group[PAGES * 400];
	uint32_t group_of[PAGES]; /* and 1 */
	int has_sum[PAGES], is_candidate[PAGES];
	uint64_t sum[PAGES];
	uint32_t class[PAGES];
} model;

static uint64_t model_sum(uint32_t page)
{
	return !strcmp(model.name, "hash") ? world_hash(NULL, world.content[page]).low : world_checksum(NULL, world.content[page]);
}

static uint32_t model_class(uint32_t page)
{
	const struct ob_strategy_options *o = &model.options;

	if (!strcmp(model.name, "cmd-address"))
		return page / (PAGES / o->ranges);
	if (!strcmp(model.name, "cmd-pagecount"))
		return OB_MIN(world.writes[page] / o->count_width, o->count_classes - 1);
	if (!strcmp(model.name, "cmd-subpage"))
		return world.writes[page] < o->threshold ? 0 : 1u << (page % 8 / (8 / o->subpages));
	return 0;
}

static void model_forget(uint32_t page)
{
	if (model.group_of[page])
		model.group[model.group_of[page] - 1].pages--;
	model.group_of[page] = 0;
	model.is_candidate[page] = 0;
	model.has_sum[page] = 0;
}

static void model_join(uint32_t group, uint32_t page)
{
	model.group_of[page] = group + 1;
	model.group[group].pages++;
	model.is_candidate[page] = 0;
}

static void model_look(uint32_t page)
{
	uint32_t class = model_class(page);
	uint64_t sum = model_sum(page);
	int rested;

	if (model.group_of[page] && !world.written[page])
		return;
	if (model.group_of[page])
		model.group[model.group_of[page] - 1].pages--;
	model.group_of[page] = 0;
	model.is_candidate[page] = 0;
	for (uint32_t i = 0; i < model.groups; i++)
		if (model.group[i].pages && model.group[i].class == class && model.group[i].content == world.content[page]) {
			/* The hash is always taken before the search, a checksum only after it, unless it gives the class. */
			if (!strcmp(model.name, "hash")) {
				model.sum[page] = sum;
				model.has_sum[page] = 1;
			}
			model_join(i, page);
			return;
		}
	rested = model.options.eager || (model.has_sum[page] && model.sum[page] == sum);
	model.sum[page] = sum;
	model.has_sum[page] = 1;
	if (!rested)
		return;
	for (uint32_t i = 0; i < PAGES; i++)
		if (model.is_candidate[i] && model.class[i] == class && model.sum[i] == sum &&
		    world.content[i] == world.content[page]) {
			assert_true(model.groups < OB_ARRAY_LEN(model.group));
			model.group[model.groups].content = world.content[page];
			model.group[model.groups].class = class;
			model_join(model.groups, i);
			model_join(model.groups, page);
			model.groups++;
			return;
		}
	model.is_candidate[page] = 1;
	model.class[page] = class;
}

static void compare_with_model(const struct ob_strategy *strategy)
{
	struct ob_strategy_counters counters;
	uint64_t saved = 0, number[PAGES], content = 0;

	for (uint32_t page = 0; page < PAGES; page++) {
		number[page] = ob_strategy_group_of(strategy, page, &content);
		assert_int_equal(!number[page], !model.group_of[page]);
		if (number[page])
			assert_true(content == world.content[page]);
	}
	for (uint32_t a = 0; a < PAGES; a++) {
		int first = 1;

		for (uint32_t b = 0; b < a; b++) {
			if (!number[a] || !number[b])
				continue;
			assert_int_equal(number[a] == number[b], model.group_of[a] == model.group_of[b]);
			first &= number[a] != number[b];
		}
		saved += number[a] && !first;
	}
	ob_strategy_count(strategy, &counters);
	assert_true(counters.saved_pages == saved);
	assert_true(counters.futile_comparisons <= counters.comparisons);
}

static void one_pass(struct ob_strategy *strategy)
{
	for (uint32_t page = 0; page < PAGES; page++) {
		struct ob_strategy_view view = view_of(page);

		if (world.is_zero[page]) {
			ob_strategy_forget(strategy, page);
			model_forget(page);
			continue;
		}
		assert_true(ob_strategy_look(strategy, &view) >= 0);
		model_look(page);
	}
	ob_strategy_pass_end(strategy);
	compare_with_model(strategy);
	/* A table's candidates stay. */
	if (strcmp(model.name, "hash"))
		memset(model.is_candidate, 0, sizeof(model.is_candidate));
}

static uint64_t exact(void)
{
	uint64_t saved = 0, n[CONTENTS] = { 0 };

	for (uint32_t page = 0; page < PAGES; page++)
		saved += !world.is_zero[page] && n[world.content[page]]++;
	return saved;
}

static void play(const char *name, struct ob_strategy_options options, uint32_t sums, uint32_t hashes)
{
	struct ob_strategy_counters counters;
	struct ob_strategy *strategy;

	make_world(sums, hashes);
	memset(&model, 0, sizeof(model));
	options.pages = PAGES;
	model.name = name;
	model.options = options;
	assert_int_equal(ob_strategy_open(name, &options, &source, &world, &strategy), 0);
	for (unsigned i = 0; i < 40; i++) {
		one_pass(strategy);
		change_world(i % 10 < 7 ? draw(60) : 0);
	}
	change_world(0);
	for (unsigned i = 0; i < 3; i++)
		one_pass(strategy);
	ob_strategy_count(strategy, &counters);
	assert_true(counters.saved_pages <= exact());
	if (counters.classes == 1 || !strcmp(name, "checksum"))
		assert_true(counters.saved_pages == exact());
	ob_strategy_close(strategy);
}

static const struct ob_strategy_options options_of_tests = {
	.ranges = 8, .count_width = 4, .count_classes = 6, .subpages = 4, .threshold = 16, .bytes_per_tree = 30 * OB_STRATEGY_PAGE_BYTES,
};

static void agrees_with_the_model(void **state)
{
	for (unsigned i = 0; ob_strategy_names[i]; i++)
		for (seed = 1; seed < 6; seed++)
			play(ob_strategy_names[i], options_of_tests, UINT32_MAX, UINT32_MAX);
}

static void options_change_what_they_say(void **state)
{
	struct ob_strategy_options options = options_of_tests;

	seed = 3;
	options.subpages = 8;
	options.threshold = 1;
	play("cmd-subpage", options, UINT32_MAX, UINT32_MAX);
	options.subpages = 1;
	play("cmd-subpage", options, UINT32_MAX, UINT32_MAX);
	options.ranges = 3;
	play("cmd-address", options, UINT32_MAX, UINT32_MAX);
	options.tracked = 1;
	play("hash", options, UINT32_MAX, UINT32_MAX);
}

/* Equal hashes and checksums of unequal pages: compare_with_model sees that no group has two contents. */
static void collisions_merge_nothing(void **state)
{
	for (unsigned i = 0; ob_strategy_names[i]; i++)
		for (uint32_t values = 1; values < 8; values += 3) {
			seed = values;
			play(ob_strategy_names[i], options_of_tests, values, values);
		}
}

/* "eager" makes groups in the first pass. */
static void the_eager_do_not_wait(void **state)
{
	struct ob_strategy_options options = options_of_tests;
	struct ob_strategy_counters counters;
	struct ob_strategy *strategy;

	seed = 9;
	make_world(UINT32_MAX, UINT32_MAX);
	options.pages = PAGES;
	options.eager = 1;
	assert_int_equal(ob_strategy_open("hash", &options, &source, &world, &strategy), 0);
	for (uint32_t page = 0; page < PAGES; page++) {
		struct ob_strategy_view view = view_of(page);

		assert_true(ob_strategy_look(strategy, &view) >= 0);
	}
	ob_strategy_count(strategy, &counters);
	assert_true(counters.saved_pages == exact());
	assert_true(counters.hashed_pages == PAGES);
	ob_strategy_close(strategy);
}

static int look(struct ob_strategy *strategy, uint32_t page, int written, uint32_t writes)
{
	struct ob_strategy_view view = { .page = page, .written = written, .writes = { writes } };

	return ob_strategy_look(strategy, &view);
}

/* Pages 0 and 1 are merged in class 0. Whatever their class becomes, they stay so, and page 2 of class 0 finds them. */
static void merged_pages_stay_findable_when_their_class_changes(void **state)
{
	static const char *const names[] = { "cmd-pagecount", "cmd-subpage" };

	for (unsigned i = 0; i < OB_ARRAY_LEN(names); i++) {
		struct ob_strategy_options options = options_of_tests;
		struct ob_strategy *strategy;

		make_world(UINT32_MAX, UINT32_MAX);
		memset(world.content, 0, sizeof(world.content));
		options.pages = PAGES;
		assert_int_equal(ob_strategy_open(names[i], &options, &source, &world, &strategy), 0);
		for (unsigned pass = 0; pass < 2; pass++) {
			assert_int_equal(look(strategy, 0, 0, 0), 0);
			assert_int_equal(look(strategy, 1, 0, 0), pass);
			ob_strategy_pass_end(strategy);
		}
		assert_int_equal(look(strategy, 0, 0, 100), 1);
		assert_int_equal(look(strategy, 1, 0, 100), 1);
		assert_int_equal(look(strategy, 2, 0, 0), 1);
		assert_true(ob_strategy_group_of(strategy, 2, NULL) == ob_strategy_group_of(strategy, 0, NULL));
		/* A stranger of the other class does not: that is what CMD loses. */
		assert_int_equal(look(strategy, 3, 0, 100), 0);
		ob_strategy_pass_end(strategy);
		assert_int_equal(look(strategy, 3, 0, 100), 0);
		assert_int_equal(ob_strategy_group_of(strategy, 3, NULL), 0);
		ob_strategy_pass_end(strategy);

		/* All leave, in their new class: the group goes from the tree in which it is. */
		for (uint32_t page = 0; page < 3; page++) {
			world.content[page] = 1 + page;
			assert_int_equal(look(strategy, page, 1, 100), 0);
		}
		world.content[4] = 0;
		assert_int_equal(look(strategy, 4, 0, 0), 0);
		ob_strategy_pass_end(strategy);
		ob_strategy_close(strategy);
	}
}

/* Without bytes a hash is enough: overbookd's case, which has the bytes compared later. */
static void hash_works_without_bytes(void **state)
{
	static const struct ob_strategy_source blind = { .content = world_content, .hash = world_hash };
	struct ob_strategy_options options = options_of_tests;
	struct ob_strategy *strategy;

	make_world(UINT32_MAX, UINT32_MAX);
	world.content[0] = world.content[1] = 3;
	world.content[2] = 4;
	options.pages = PAGES;
	assert_int_equal(ob_strategy_open("ksm", &options, &blind, &world, &strategy), -EINVAL);
	assert_int_equal(ob_strategy_open("hash", &options, &blind, &world, &strategy), 0);
	for (unsigned pass = 0; pass < 2; pass++)
		for (uint32_t page = 0; page < 3; page++)
			assert_true(look(strategy, page, 0, 0) >= 0);
	assert_true(ob_strategy_group_of(strategy, 0, NULL));
	assert_true(ob_strategy_group_of(strategy, 0, NULL) == ob_strategy_group_of(strategy, 1, NULL));
	assert_int_equal(ob_strategy_group_of(strategy, 2, NULL), 0);
	ob_strategy_close(strategy);
}

/* Three pages, two of them equal: what is counted can be said beforehand. */
static void counts_what_was_compared(void **state)
{
	struct ob_strategy_options options = options_of_tests;
	struct ob_strategy_counters counters;
	struct ob_strategy *strategy;

	make_world(UINT32_MAX, UINT32_MAX);
	memset(world.bytes, 0, sizeof(world.bytes));
	world.bytes[1][9] = 1;
	world.content[0] = world.content[2] = 0;
	world.content[1] = 1;
	options.pages = 3;
	assert_int_equal(ob_strategy_open("ksm", &options, &source, &world, &strategy), 0);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (uint32_t page = 0; page < 3; page++)
			assert_int_equal(look(strategy, page, 0, 0), pass && page == 2);
		ob_strategy_pass_end(strategy);
	}
	ob_strategy_count(strategy, &counters);
	/* Page 1 with page 0 in vain, page 2 with page 0. */
	assert_true(counters.looks == 6 && counters.comparisons == 2 && counters.futile_comparisons == 1);
	assert_true(counters.compared_bytes == 10 + BYTES && counters.hashed_pages == 6);
	assert_true(counters.merged == 2 && counters.broken == 0 && counters.saved_pages == 1);
	assert_true(counters.memory_bytes > 0);
	/* Page 2 is written: it leaves. */
	world.content[2] = 1;
	assert_int_equal(look(strategy, 2, 1, 0), 0);
	ob_strategy_forget(strategy, 0);
	ob_strategy_count(strategy, &counters);
	assert_true(counters.broken == 2 && counters.saved_pages == 0);
	ob_strategy_close(strategy);
}

static void refuses_what_makes_no_sense(void **state)
{
	struct ob_strategy_options good = options_of_tests, bad;
	struct ob_strategy_view view = { .page = PAGES };
	struct ob_strategy *strategy;

	good.pages = PAGES;
	assert_int_equal(ob_strategy_open("bogus", &good, &source, &world, &strategy), -ENOENT);
	bad = good;
	bad.pages = 0;
	assert_int_equal(ob_strategy_open("ksm", &bad, &source, &world, &strategy), -EINVAL);
	bad = good;
	bad.subpages = 3;
	assert_int_equal(ob_strategy_open("cmd-subpage", &bad, &source, &world, &strategy), -EINVAL);
	bad.count_width = bad.ranges = 0;
	bad.bytes_per_tree = 0;
	assert_int_equal(ob_strategy_open("cmd-pagecount", &bad, &source, &world, &strategy), -EINVAL);
	assert_int_equal(ob_strategy_open("cmd-address", &bad, &source, &world, &strategy), -EINVAL);
	assert_int_equal(ob_strategy_open("checksum", &bad, &source, &world, &strategy), -EINVAL);
	assert_int_equal(ob_strategy_open("ksm", &good, &source, &world, &strategy), 0);
	assert_int_equal(ob_strategy_look(strategy, &view), -EINVAL);
	ob_strategy_forget(strategy, PAGES);
	assert_int_equal(ob_strategy_group_of(strategy, PAGES, NULL), 0);
	ob_strategy_close(strategy);
	ob_strategy_close(NULL);
}

/* The tree alone: keys in random order, taken out in random order. */
static void trees_stay_balanced(void **state)
{
	enum { N = 500 };
	static struct {
		struct ob_tree_node node;
		uint32_t key;
		int is_in;
	} items[N];
	struct ob_tree tree = { NULL };

	seed = 17;
	for (unsigned step = 0; step < 20000; step++) {
		uint32_t i = draw(N);
		struct ob_tree_node *parent = NULL, *at = tree.root;
		int side = 0;

		if (items[i].is_in) {
			ob_tree_remove(&tree, &items[i].node);
		} else {
			items[i].key = draw(1000);
			while (at) {
				parent = at;
				side = items[i].key > ((typeof(&items[0]))(void *)at)->key;
				at = at->child[side];
			}
			ob_tree_link(&tree, &items[i].node, parent, side);
		}
		items[i].is_in = !items[i].is_in;
		assert_true(ob_tree_check(&tree) >= 0 && ob_tree_check(&tree) <= 10);
	}
	for (unsigned i = 0; i < N; i++)
		if (items[i].is_in)
			ob_tree_remove(&tree, &items[i].node);
	assert_null(tree.root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_the_model),
		cmocka_unit_test(options_change_what_they_say),
		cmocka_unit_test(collisions_merge_nothing),
		cmocka_unit_test(the_eager_do_not_wait),
		cmocka_unit_test(merged_pages_stay_findable_when_their_class_changes),
		cmocka_unit_test(hash_works_without_bytes),
		cmocka_unit_test(counts_what_was_compared),
		cmocka_unit_test(refuses_what_makes_no_sense),
		cmocka_unit_test(trees_stay_balanced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
