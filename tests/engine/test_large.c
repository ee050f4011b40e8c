/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large pages under orders: which are kept, broken and made whole, that a touch brings a lifted one back as one, and that no byte is
 * lost while orders change. The test plays overbookd (keeper.h), and a guest that leaves memory alone or uses it all the time.
 */
#include "share_bed.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "account.h"
#include "base/fault.h"
#include "engine/internal.h"
#include "kern/memory.h"
#include "largepages/chunk.h"
#include "player.h"

#define COLD_MS 60u
#define CHUNKS  (RAM_PAGES / OB_CHUNK_PAGES)
#define NEVER   OB_LARGE_NO_THRESHOLD

static int set_up(void **state)
{
	bed_scan_cold_ms = COLD_MS;
	share_make(0, 1, 1000);
	bed_scan_cold_ms = 0;
	return 0;
}

static struct ob_large_orders orders_of(enum ob_large_policy policy, enum ob_large_state state, unsigned hot, unsigned cold)
{
	return (struct ob_large_orders){
		.policy = policy, .state = state, .hot_pages = (uint16_t)hot, .cold_pages = (uint16_t)cold,
		.may_make = state == OB_LARGE_HIGH && policy != OB_LARGE_OFF, .scan_rate = 2048, .break_rate = 512,
		.collapse_rate = state == OB_LARGE_HIGH ? 64 : 0,
	};
}

static void order(enum ob_large_state state, unsigned hot, unsigned cold)
{
	const struct ob_large_orders orders = orders_of(OB_LARGE_PROACTIVE, state, hot, cold);

	ob_engine_large(bed->engine, &orders);
}

/* What the kernel says of the regions from `first` on. */
static uint64_t large_in(unsigned first, unsigned count)
{
	uint64_t bytes = 0;

	for (unsigned i = first; i < first + count; i++) {
		struct account_mapping mapping;

		assert_int_equal(account_mapping(ram[i]->base, RAM_MIB * OB_MIB, &mapping), 0);
		bytes += mapping.huge_bytes;
	}
	return bytes;
}

/* Every page has something of its own, and there are large pages; else there is nothing to try here. */
static void write_all_different(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			ram_write_twin(ram[i], page, i * RAM_PAGES + page);
	if (large_in(0, RAMS) < RAMS * RAM_MIB * OB_MIB / 2) {
		print_message("# the kernel has made no large pages here\n");
		skip();
	}
}

/* So many pages, the first ones, are the same in each chunk of both regions. */
static void write_equal(unsigned equal)
{
	write_all_different();
	for (uint32_t page = 0; page < RAM_PAGES; page++)
		for (unsigned i = 0; page % OB_CHUNK_PAGES < equal && i < RAMS; i++)
			ram_write_twin(ram[i], page, 4 * RAM_PAGES + page % OB_CHUNK_PAGES);
}

/* --- a guest that uses its memory --- */

static struct {
	pthread_t thread;
	unsigned region, stride, spared;
	int is_running, stop;
	uintptr_t wrong;
} user;

/* Reads every stride'th page of a region, or of all (RAMS), again and again, but for the first ones of each chunk that are spared. */
static void *use(void *context)
{
	while (!ob_load(&user.stop))
		for (uint32_t page = 5; page < RAM_PAGES && !ob_load(&user.stop); page += user.stride) {
			if (page % OB_CHUNK_PAGES < user.spared)
				continue;
			for (unsigned i = 0; i < RAMS; i++) {
				if (user.region < RAMS && user.region != i)
					continue;
				ram_lock_range(ram[i], page, 1);
				user.wrong |= ram_check(ram[i], page) != 0;
				ram_unlock_range(ram[i], page, 1);
			}
		}
	return NULL;
}

static void begin_use_but(unsigned region, unsigned stride, unsigned spared)
{
	user.region = region;
	user.stride = stride;
	user.spared = spared;
	user.stop = 0;
	user.wrong = 0;
	user.is_running = 1;
	assert_int_equal(pthread_create(&user.thread, NULL, use, NULL), 0);
}

static void begin_use(unsigned region, unsigned stride)
{
	begin_use_but(region, stride, 0);
}

static void stop_user(void)
{
	ob_store(&user.stop, 1);
	if (user.is_running)
		pthread_join(user.thread, NULL);
	user.is_running = 0;
}

static void end_use(void)
{
	stop_user();
	assert_int_equal(user.wrong, 0);
}

static int tear_down(void **state)
{
	stop_user();
	return share_tear_down(state);
}

static int so_many_were_kept(void *context)
{
	return bed_stats(bed).large_kept_chunks >= *(const uint64_t *)context;
}

static void wait_kept(uint64_t more)
{
	uint64_t goal = bed_stats(bed).large_kept_chunks + more;

	bed_assert_ok(bed, account_wait(so_many_were_kept, &goal, HANG_MS));
}

static int so_much_is_saved(void *context)
{
	struct ob_stats stats = bed_stats(bed);

	return stats.shared_bytes + stats.zero_bytes >= *(const uint64_t *)context;
}

static void wait_saved(uint64_t bytes)
{
	bed_assert_ok(bed, account_wait(so_much_is_saved, &bytes, HANG_MS));
}

static int bench_is_empty(void *context)
{
	return bed_stats(bed).benched_bytes == 0;
}

/* Ends scanning, and checks what there is to check. */
static void finish(void)
{
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	share_assert_holds();
}

static void nothing_to_share_nothing_broken(void **state)
{
	uint64_t before;
	struct ob_stats stats;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	order(OB_LARGE_LOW, 8, 1);
	before = large_in(0, RAMS);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_kept(3 * RAMS * CHUNKS);
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(bench_is_empty, NULL, HANG_MS));
	stats = bed_stats(bed);
	assert_int_equal(stats.large_broken_chunks, 0);
	assert_int_equal(stats.large_shareable_pages, 0);
	assert_true(stats.large_sampled_pages >= 3 * RAMS * CHUNKS * OB_CHUNK_PAGES);
	assert_int_equal(stats.faults_bench, 0);
	assert_int_equal(stats.large_bytes, large_in(0, RAMS));
	assert_true(large_in(0, RAMS) >= before);
	finish();
	assert_int_equal(ob_engine_remove_region(bed->engine, ram[0]->base), 0);
	assert_int_equal(bed_stats(bed).large_bytes, large_in(1, 1));
}

/* What has been read from an image is looked at with all of the large page that it lies in, which is broken as for the hand. */
static void noted_pages_break_a_large_page(void **state)
{
	uint32_t first = 3 * OB_CHUNK_PAGES;

	write_all_different();
	order(OB_LARGE_HIGH, NEVER, 16);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_kept(3 * RAMS * CHUNKS);
	for (uint32_t page = first; page < first + 32; page++)
		for (unsigned i = 0; i < RAMS; i++) {
			ram_write_twin(ram[i], page, 4 * RAM_PAGES + page);
			ob_engine_note_image(bed->engine, ram_page(ram[i], page), OB_PAGE_SIZE);
		}
	wait_saved(RAMS * 32 * OB_PAGE_SIZE);
	assert_int_equal(bed_stats(bed).large_broken_chunks, RAMS);
	assert_int_equal(bed_stats(bed).noted_image_pages, RAMS * 32);
	finish();
}

/* Asks for a page of a chunk that is kept, as somebody would who has its equal; until so many large pages were looked at and kept. */
static int kept_all_the_same(void *context)
{
	struct ob_share_offer offers[256];
	uint8_t bytes[OB_PAGE_SIZE];

	while (ob_engine_share_offers(bed->engine, offers, 256))
		;
	(void)!ob_engine_share_fetch(bed->engine, keeper_page(0, 3 * OB_CHUNK_PAGES + 7), 0, 0, bytes);
	return so_many_were_kept(context);
}

static void what_is_wanted_of_a_kept_one_is_looked_at_once_a_round(void **state)
{
	uint64_t goal = 8 * RAMS * CHUNKS;
	struct ob_stats stats;

	write_all_different();
	order(OB_LARGE_HIGH, NEVER, 400);
	bed_assert_ok(bed, account_wait(kept_all_the_same, &goal, HANG_MS));
	stats = bed_stats(bed);
	print_message("# kept %llu times, wanted %llu times\n", (unsigned long long)stats.large_kept_chunks,
		      (unsigned long long)stats.noted_wanted_pages);
	assert_in_range(stats.noted_wanted_pages, 1, stats.large_kept_chunks / 2);
	assert_int_equal(stats.large_broken_chunks, 0);
	finish();
}

static void cold_ones_with_enough_equals_are_broken(void **state)
{
	struct ob_stats stats;

	order(OB_LARGE_HIGH, NEVER, 16);
	write_equal(40);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_saved((uint64_t)RAMS * CHUNKS * 40 * OB_PAGE_SIZE);
	stats = bed_stats(bed);
	assert_int_equal(stats.large_broken_chunks, RAMS * CHUNKS);
	bed_assert_ok(bed, account_wait(bench_is_empty, NULL, HANG_MS));
	ob_engine_share_off(bed->engine);
	assert_int_equal(bed_stats(bed).large_bytes, 0);
	assert_int_equal(large_in(0, RAMS), 0);
	finish();
	stats = bed_stats(bed);
	assert_true(stats.large_given_pages > 0 && stats.large_given_pages <= RAMS * CHUNKS * 40);
	assert_true(stats.large_shareable_pages >= RAMS * CHUNKS * 16);
}

/* With too few equals a page stays, however often it is looked at; zeros count like others. */
static void cold_ones_with_too_few_are_kept(void **state)
{
	order(OB_LARGE_HIGH, NEVER, 16);
	write_equal(8);
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			if (page % OB_CHUNK_PAGES / 4 == 5)
				ram_write(ram[i], page, PATTERN_ZERO, 0);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_kept(4 * RAMS * CHUNKS);
	assert_int_equal(bed_stats(bed).large_broken_chunks, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_int_equal(bed_stats(bed).zero_bytes, 0);
	assert_true(bed_stats(bed).large_shareable_pages >= RAMS * CHUNKS * 4);
	/* Now they are enough. */
	order(OB_LARGE_CLEAR, NEVER, 3);
	wait_saved((uint64_t)RAMS * CHUNKS * (8 + 4) * OB_PAGE_SIZE);
	finish();
}

static void no_more_are_broken_than_the_rate_allows(void **state)
{
	struct ob_large_orders orders = orders_of(OB_LARGE_PROACTIVE, OB_LARGE_HIGH, 1, 1);

	orders.break_rate = 0;
	ob_engine_large(bed->engine, &orders);
	write_equal(256);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_kept(3 * RAMS * CHUNKS);
	assert_int_equal(bed_stats(bed).large_broken_chunks, 0);
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	orders.break_rate = 512;
	ob_engine_large(bed->engine, &orders);
	wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	finish();
}

static int went_round(void *context)
{
	pthread_rwlock_rdlock(&bed->engine->regions_lock);
	pthread_rwlock_unlock(&bed->engine->regions_lock);
	return bed->engine->scan.round >= *(const uint64_t *)context;
}

static void the_policies_do_what_they_say(void **state)
{
	struct ob_large_orders orders = orders_of(OB_LARGE_NEVER, OB_LARGE_HIGH, NEVER, NEVER);
	uint64_t rounds;

	ob_engine_large(bed->engine, &orders);
	write_equal(256);
	bed_assert_ok(bed, account_wait(bench_is_empty, NULL, HANG_MS));
	rounds = ob_load(&bed->engine->scan.round) + 8;
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(went_round, &rounds, HANG_MS));
	assert_int_equal(bed_stats(bed).shared_bytes, 0);
	assert_true(large_in(0, RAMS) > 0);
	orders = orders_of(OB_LARGE_OFF, OB_LARGE_HIGH, 0, 0);
	ob_engine_large(bed->engine, &orders);
	wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	finish();
}

static int whole_ones_came_back(void *context)
{
	return bed_stats(bed).large_whole_returns >= 2 * CHUNKS;
}

/* A touch of a large page that lies on the bench brings all of it, and it is a large page still. */
static void come_back_whole(enum ob_large_state state)
{
	uint64_t before = large_in(0, 1);

	order(state, NEVER, 16);
	begin_use(0, 64);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(whole_ones_came_back, NULL, HANG_MS));
	end_use();
	ob_engine_share_off(bed->engine);
	bed_assert_ok(bed, account_wait(bench_is_empty, NULL, HANG_MS));
	assert_true(large_in(0, 1) >= before);
	finish();
}

static void a_touch_brings_it_back_as_a_large_page(void **state)
{
	write_equal(256);
	come_back_whole(OB_LARGE_HIGH);
}

/* The kernel may make none then: what it does about the fault is not to break it. */
static void so_it_does_where_there_are_to_be_no_new_ones(void **state)
{
	write_equal(256);
	come_back_whole(OB_LARGE_CLEAR);
}

/* Hot ones are kept while there is plenty, and broken when there is not: a sample of them says that others have their pages. */
static void hot_ones_are_broken_when_memory_is_short(void **state)
{
	uint64_t half = (uint64_t)CHUNKS * 256 * OB_PAGE_SIZE;

	order(OB_LARGE_HIGH, NEVER, 16);
	write_equal(256);
	begin_use(0, OB_CHUNK_PAGES);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(whole_ones_came_back, NULL, HANG_MS));
	assert_true(bed_stats(bed).shared_bytes <= half + half / 8);
	assert_true(large_in(0, 1) >= RAM_MIB * OB_MIB / 2);
	order(OB_LARGE_CLEAR, 64, 16);
	wait_saved(2 * half - half / 8);
	end_use();
	assert_true(large_in(0, RAMS) <= RAM_MIB * OB_MIB / 8);
	finish();
}

/* Half of each chunk of one region has an equal in the other, each at another place of another chunk. */
static void write_pairs(void)
{
	write_all_different();
	for (uint32_t page = 0; page < RAM_PAGES; page++) {
		uint32_t chunk = page / OB_CHUNK_PAGES, number = page % OB_CHUNK_PAGES;

		if (number < OB_CHUNK_PAGES / 2)
			ram_write_twin(ram[1], (chunk + 1) % CHUNKS * OB_CHUNK_PAGES + (number * 5 + 77) % OB_CHUNK_PAGES, page);
	}
}

/* A sample of one knows nothing of a sample of the other, but the index remembers both: it takes some looks at each. */
static void hot_ones_find_each_other_in_some_looks(void **state)
{
	uint64_t half = (uint64_t)CHUNKS * 256 * OB_PAGE_SIZE;
	struct ob_stats stats;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_pairs();
	order(OB_LARGE_CLEAR, 64, 16);
	begin_use(RAMS, OB_CHUNK_PAGES);
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_saved(2 * half - half / 4);
	end_use();
	stats = bed_stats(bed);
	print_message("# %.1f looks at a chunk\n", (double)(stats.large_broken_chunks + stats.large_kept_chunks) / (RAMS * CHUNKS));
	finish();
}

/* --- broken in vain --- */

static struct ob_chunk *first_chunk(void)
{
	return &bed->engine->region[0].chunks[0];
}

static int was_broken_in_vain(void *context)
{
	struct ob_share_offer offer[64];
	unsigned n = ob_engine_share_offers(bed->engine, offer, OB_ARRAY_LEN(offer));
	uint8_t bytes[OB_PAGE_SIZE];
	unsigned vain;

	/* Somebody asks for all that he is offered, and then wants none of it. */
	for (unsigned i = 0; i < n; i++)
		(void)!ob_engine_share_fetch(bed->engine, offer[i].page, offer[i].lo, offer[i].hi, bytes);
	ob_chunk_lock(first_chunk());
	vain = first_chunk()->large_vain;
	ob_chunk_unlock(first_chunk());
	return vain >= *(const unsigned *)context;
}

static void what_was_broken_in_vain_needs_more_each_time(void **state)
{
	unsigned times = OB_LARGE_VAIN_MAX;
	uint64_t broken;

	order(OB_LARGE_HIGH, NEVER, 4);
	write_all_different();
	bed_assert_ok(bed, account_wait(was_broken_in_vain, &times, HANG_MS));
	/* All are given up in the end, and are not even lifted. */
	times = OB_LARGE_VAIN_MAX + 1;
	assert_int_equal(account_wait(was_broken_in_vain, &times, 10 * COLD_MS), -ETIMEDOUT);
	broken = bed_stats(bed).large_broken_chunks;
	assert_true(broken >= OB_LARGE_VAIN_MAX);
	assert_int_equal(bed_stats(bed).large_given_pages, 0);
	finish();
}

/* --- made whole again --- */

/* Lifts each chunk of a region and moves it back in two parts. */
static void break_region(unsigned i)
{
	for (uint32_t c = 0; c < CHUNKS; c++) {
		struct ob_place place;

		pthread_rwlock_rdlock(&bed->engine->regions_lock);
		ob_place_chunk(bed->engine, i, c, &place);
		ob_chunk_lock(place.chunk);
		if (!place.chunk->open || ob_chunk_track(bed->engine, &place) == 0) {
			ob_lift_chunk(bed->engine, &place);
			if (place.chunk->count[OB_PAGE_BENCHED] == OB_CHUNK_PAGES)
				ob_lift_return(bed->engine, &place, place.chunk_first, 8);
			ob_lift_return_all(bed->engine, &place);
		}
		ob_chunk_unlock(place.chunk);
		pthread_rwlock_unlock(&bed->engine->regions_lock);
	}
}

static int all_are_large_again(void *context)
{
	return large_in(0, 1) >= (CHUNKS - 2) * OB_CHUNK_SIZE && bed_stats(bed).large_collapsed_chunks > 0;
}

static void hot_broken_ones_are_made_whole(void **state)
{
	order(OB_LARGE_HIGH, NEVER, 16);
	write_all_different();
	break_region(0);
	assert_true(large_in(0, 1) <= 2 * OB_CHUNK_SIZE);
	bed_assert_ok(bed, keeper_run(&keeper));
	begin_use(0, 1);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	end_use();
	finish();
}

/* The guest leaves the first pages of each chunk on the bench, where a limit keeps them: they go back for that. */
static void nor_does_a_limit_keep_the_rest_of_one_apart(void **state)
{
	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	break_region(0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 4 * RAMS * RAM_MIB * OB_MIB));
	bed_assert_ok(bed, keeper_run(&keeper));
	begin_use_but(0, 1, 32);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	end_use();
	finish();
}

static int all_chunks_were_left(void *context)
{
	for (uint32_t c = 0; c < CHUNKS; c++)
		if (ob_load(&bed->engine->region[0].chunks[c].scan_backoff) < *(const unsigned *)context)
			return 0;
	return 1;
}

/* They had been left alone for longer and longer, since nothing was found in them. */
static void when_memory_is_plenty_again_all_are_looked_at(void **state)
{
	unsigned backoff = 2;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	order(OB_LARGE_CLEAR, NEVER, NEVER);
	break_region(0);
	bed_assert_ok(bed, keeper_run(&keeper));
	begin_use(0, 1);
	bed_assert_ok(bed, account_wait(all_chunks_were_left, &backoff, HANG_MS));
	assert_int_equal(bed_stats(bed).large_collapsed_chunks, 0);
	for (uint32_t c = 0; c < CHUNKS; c++)
		ob_store(&bed->engine->region[0].chunks[c].scan_backoff, 20); /* rounds: for ever */
	order(OB_LARGE_HIGH, NEVER, NEVER);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	end_use();
	finish();
}

/* Heats the chunks of a region, the last one most. */
static void heat_by_number(unsigned i)
{
	for (uint32_t c = 0; c < CHUNKS; c++) {
		struct ob_chunk *chunk = &bed->engine->region[i].chunks[c];

		ob_chunk_lock(chunk);
		chunk->heat = (uint8_t)(16 + 4 * c);
		ob_chunk_unlock(chunk);
	}
}

static int so_many_were_made_whole(void *context)
{
	return bed_stats(bed).large_collapsed_chunks >= *(const uint64_t *)context;
}

/* What is left alone as hot is made whole without being lifted; the rate allows some, and the hottest are first. */
static void the_hottest_are_made_whole_first(void **state)
{
	struct ob_large_orders orders = orders_of(OB_LARGE_PROACTIVE, OB_LARGE_HIGH, NEVER, NEVER);
	const struct ob_chunk *chunks = bed->engine->region[0].chunks;
	uint64_t goal = CHUNKS / 2;
	unsigned cold = 0;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	order(OB_LARGE_CLEAR, NEVER, NEVER);
	break_region(0);
	/* A second's worth at once is for whom the hand finds first. */
	orders.collapse_rate = 2;
	heat_by_number(0);
	ob_engine_large(bed->engine, &orders);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(so_many_were_made_whole, &goal, HANG_MS));
	ob_engine_share_off(bed->engine);
	for (uint32_t c = 0; c < CHUNKS / 2; c++)
		cold += chunks[c].is_large;
	assert_true(cold <= goal / 2);
	assert_true(chunks[CHUNKS - 1].is_large && chunks[CHUNKS - 2].is_large);
	finish();
}

/* Where nothing is shared they are lifted for that alone: nothing is dropped, however much there is. */
static void also_where_sharing_is_off(void **state)
{
	struct ob_stats stats;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	order(OB_LARGE_CLEAR, NEVER, NEVER);
	ob_engine_share_off(bed->engine);
	for (uint32_t page = 0; page < RAM_PAGES; page += 64)
		ram_write(ram[0], page, PATTERN_ZERO, 0);
	break_region(0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 4 * RAMS * RAM_MIB * OB_MIB));
	begin_use(0, 1);
	order(OB_LARGE_HIGH, NEVER, 16);
	bed_assert_ok(bed, account_wait(all_are_large_again, NULL, HANG_MS));
	end_use();
	stats = bed_stats(bed);
	assert_int_equal(stats.share_offered_pages, 0);
	assert_int_equal(stats.zero_bytes + stats.zero_pages_found, 0);
	/* Nothing is lifted that is large, or when memory is not plenty. */
	assert_true(stats.scan_pages <= 8 * RAM_PAGES);
	order(OB_LARGE_CLEAR, NEVER, NEVER);
	break_region(1);
	share_check_all();
	order(OB_LARGE_HIGH, NEVER, NEVER);
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	share_check_all();
}

static void in_clear_broken_ones_are_left(void **state)
{
	uint64_t rounds;

	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	order(OB_LARGE_CLEAR, 128, 16);
	break_region(0);
	bed_assert_ok(bed, keeper_run(&keeper));
	begin_use(0, 1);
	rounds = ob_load(&bed->engine->scan.round) + 6;
	bed_assert_ok(bed, account_wait(went_round, &rounds, HANG_MS));
	end_use();
	assert_int_equal(bed_stats(bed).large_collapsed_chunks, 0);
	finish();
}

/* Whether the kernel is forbidden to make large pages there (VmFlags: nh). */
static int is_forbidden(const void *at)
{
	unsigned long start, end;
	int inside = 0, found = -1;
	char line[512];
	FILE *file = fopen("/proc/self/smaps", "re");

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (unsigned long)at >= start && (unsigned long)at < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, " nh") != NULL;
	}
	fclose(file);
	return found;
}

static void new_ones_come_about_only_where_they_may(void **state)
{
	struct ram *more = ram_new(4 * OB_CHUNK_PAGES, 0x99);
	struct account_mapping mapping;

	order(OB_LARGE_CLEAR, 128, 16);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, more->base, more->pages * OB_PAGE_SIZE, &bed->err));
	/* As QEMU does with what it has mapped. */
	assert_int_equal(ob_engine_allow_large(bed->engine, more->base, more->pages * OB_PAGE_SIZE), 0);
	assert_int_equal(is_forbidden(ram[0]->base), 1);
	assert_int_equal(is_forbidden(more->base), 1);
	ram_write_all(more, PATTERN_INCOMPRESSIBLE);
	assert_int_equal(account_mapping(more->base, more->pages * OB_PAGE_SIZE, &mapping), 0);
	assert_int_equal(mapping.huge_bytes, 0);
	order(OB_LARGE_HIGH, NEVER, 16);
	assert_int_equal(is_forbidden(ram[0]->base), 0);
	assert_int_equal(is_forbidden(more->base), 0);
	write_all_different();
	bed_assert_ok(bed, ram_check_all(more));
	assert_int_equal(ob_engine_remove_region(bed->engine, more->base), 0);
	ram_free(more);
	finish();
}

static int set_up_without(void **state)
{
	int r;

	bed_no_large = 1;
	r = set_up(state);
	bed_no_large = 0;
	return r;
}

/* A machine that is started while memory is short is told before anybody has told it what else to do. */
static void none_come_about_from_the_beginning(void **state)
{
	for (unsigned i = 0; i < RAMS; i++)
		assert_int_equal(ob_engine_allow_large(bed->engine, ram[i]->base, RAM_MIB * OB_MIB), 0);
	share_write_all(PATTERN_INCOMPRESSIBLE);
	assert_int_equal(large_in(0, RAMS), 0);
	assert_int_equal(is_forbidden(ram[0]->base), 1);
	order(OB_LARGE_CLEAR, 128, 16);
	assert_int_equal(is_forbidden(ram[1]->base), 1);
	order(OB_LARGE_HIGH, NEVER, 16);
	assert_int_equal(is_forbidden(ram[0]->base), 0);
	assert_int_equal(is_forbidden(ram[1]->base), 0);
	finish();
}

/* The kernel refuses for a moment, now and then. */
static int nearly_all_can_be_made_whole(void *context)
{
	for (uint32_t c = 0; c < CHUNKS; c++)
		(void)!ob_memory_collapse(ram_page(ram[0], c * OB_CHUNK_PAGES), OB_CHUNK_SIZE);
	return large_in(0, 1) >= (CHUNKS - 2) * OB_CHUNK_SIZE;
}

/* khugepaged does that; single pages had lain on the bench. In clear nobody makes it whole anew. */
static void what_others_made_whole_stays_whole(void **state)
{
	order(OB_LARGE_HIGH, NEVER, NEVER);
	write_all_different();
	break_region(0);
	bed_assert_ok(bed, account_wait(nearly_all_can_be_made_whole, NULL, HANG_MS));
	come_back_whole(OB_LARGE_CLEAR);
}

/* --- with a limit --- */

static void heat_all(void)
{
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t c = 0; c < CHUNKS; c++) {
			struct ob_chunk *chunk = &bed->engine->region[i].chunks[c];

			ob_chunk_lock(chunk);
			chunk->heat = 255;
			ob_chunk_unlock(chunk);
		}
}

/* What has been in use, and is not any more, is looked at some time: also where the limit is never reached. */
static void what_was_hot_cools_under_a_distant_limit(void **state)
{
	order(OB_LARGE_HIGH, NEVER, 16);
	write_equal(256);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 2 * RAMS * RAM_MIB * OB_MIB));
	heat_all();
	bed_assert_ok(bed, keeper_run(&keeper));
	wait_saved((uint64_t)RAMS * CHUNKS * 256 * OB_PAGE_SIZE);
	finish();
}

static int bench_is_full(void *context)
{
	return bed_stats(bed).benched_bytes >= RAM_MIB * OB_MIB;
}

/* What is kept stays on the bench, for the reclaimer to find; until he does it comes back whole, and he breaks it. */
static void with_a_limit_it_lies_on_the_bench_until_it_is_used_or_evicted(void **state)
{
	uint64_t whole;

	order(OB_LARGE_HIGH, NEVER, 16);
	write_all_different();
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 2 * RAMS * RAM_MIB * OB_MIB));
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, account_wait(bench_is_full, NULL, HANG_MS));
	wait_kept(RAMS * CHUNKS);
	whole = bed_stats(bed).large_whole_returns;
	bed_assert_ok(bed, ram_check_all(ram[0]));
	assert_true(bed_stats(bed).large_whole_returns > whole);
	assert_true(large_in(0, 1) > 0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 24 * OB_MIB));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, HANG_MS));
	assert_true(bed_stats(bed).swapped_bytes > 0);
	finish();
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	share_check_all();
	share_assert_holds();
}

/* --- all at once --- */

static void discard(struct ram *of, uint32_t first, uint32_t count)
{
	int r;

	/* What the kernel refused is as it was, or empty; who asks again gets it. */
	ram_lock_range(of, first, count);
	do
		r = ram_discard(of, bed->engine, first, count);
	while (r == -ENOMEM);
	ram_unlock_range(of, first, count);
	bed_assert_ok(bed, r);
}

/* Its turn comes eight times a second. */
static int scanner_has_been_at_work(void *context)
{
	return ob_load(&bed->engine->scan.tick) >= *(const uint64_t *)context;
}

/* Everything comes back, in large pages again. */
static void begin_anew(void)
{
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 0));
	bed_assert_ok(bed, ob_engine_release(bed->engine, NULL, NULL, &bed->err));
	for (unsigned i = 0; i < RAMS; i++)
		for (uint32_t c = 0; c < CHUNKS; c++)
			(void)!ob_memory_collapse(ram_page(ram[i], c * OB_CHUNK_PAGES), OB_CHUNK_SIZE);
	bed_assert_ok(bed, ob_engine_share_on(bed->engine, keeper.key.secret, 1000, keeper_ready, &keeper));
}

/* One region is used everywhere, the other in a page of each chunk, at times; orders, limits and sharing change all the time. */
static void storm(const char *faults)
{
	static const uint64_t limits[] = { 0, 0, 0, 0, 0, 64 * OB_MIB, 0, 0, 0, 0, 28 * OB_MIB };
	const unsigned steps = (unsigned)bed_scale(20, 60, 2000);
	const struct crew_config config = {
		.engine = bed->engine, .rams = { ram[0] }, .ram_count = 1, .players = 1, .ops_each = UINT64_MAX, .seed = 77,
		.mix = CREW_CHECK_WRITE,
	};
	struct crew *crew = NULL;
	struct ob_stats stats;

	order(OB_LARGE_HIGH, NEVER, 16);
	write_equal(200);
	bed_assert_ok(bed, keeper_run(&keeper));
	bed_assert_ok(bed, ob_fault_configure(faults, &bed->err));
	bed_assert_ok(bed, crew_start(&config, &crew, &bed->err));
	for (unsigned i = 0; i < steps; i++) {
		struct ob_large_orders orders = orders_of((enum ob_large_policy)(i % 10 < 8 ? OB_LARGE_PROACTIVE : i / 10 % OB_LARGE_POLICIES),
							  (enum ob_large_state)(i % OB_LARGE_STATES), i % 2 ? NEVER : 8, i % 3 ? 4 : NEVER);

		uint64_t tick = ob_load(&bed->engine->scan.tick) + 1;

		bed_assert_ok(bed, crew_wait_ops(crew, crew_ops(crew) + 1000, HANG_MS));
		bed_assert_ok(bed, account_wait(scanner_has_been_at_work, &tick, HANG_MS));
		ob_engine_large(bed->engine, &orders);
		bed_assert_ok(bed, ob_engine_set_limit(bed->engine, limits[i % OB_ARRAY_LEN(limits)]));
		if (i % 8 == 2)
			break_region(0);
		if (i % 5 == 1)
			discard(ram[1], i * 100 % (RAM_PAGES - 26) + 6, 20);
		if (i % 30 == 0)
			begin_use(1, OB_CHUNK_PAGES);
		if (i % 30 == 8)
			end_use();
		if (i % 30 == 29)
			begin_anew();
	}
	crew_stop(crew);
	bed_assert_ok(bed, crew_finish(crew, HANG_MS));
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	keeper_halt(&keeper);
	keeper_serve(&keeper);
	share_check_all();
	stats = bed_stats(bed);
	print_message("# broken %llu, kept %llu, collapsed %llu, came back whole %llu\n", (unsigned long long)stats.large_broken_chunks,
		      (unsigned long long)stats.large_kept_chunks, (unsigned long long)stats.large_collapsed_chunks,
		      (unsigned long long)stats.large_whole_returns);
	assert_int_equal(bed_states_bytes(&stats), stats.ram_bytes);
	assert_int_equal(keeper.wrong, 0);
}

static void no_byte_is_lost_while_orders_change(void **state)
{
	storm(NULL);
	share_assert_holds();
}

static void nor_when_the_kernel_refuses(void **state)
{
	storm("uffd_move:/40:denied,madvise:/50:ENOMEM");
}

static void nor_when_it_does_not_say_what_is_there(void **state)
{
	storm("pagemap_scan:/9:EAGAIN");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_to_share_nothing_broken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(noted_pages_break_a_large_page, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_wanted_of_a_kept_one_is_looked_at_once_a_round, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cold_ones_with_enough_equals_are_broken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cold_ones_with_too_few_are_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_more_are_broken_than_the_rate_allows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_policies_do_what_they_say, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_touch_brings_it_back_as_a_large_page, set_up, tear_down),
		cmocka_unit_test_setup_teardown(so_it_does_where_there_are_to_be_no_new_ones, set_up, tear_down),
		cmocka_unit_test_setup_teardown(hot_ones_are_broken_when_memory_is_short, set_up, tear_down),
		cmocka_unit_test_setup_teardown(hot_ones_find_each_other_in_some_looks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_broken_in_vain_needs_more_each_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(hot_broken_ones_are_made_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nor_does_a_limit_keep_the_rest_of_one_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(when_memory_is_plenty_again_all_are_looked_at, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_hottest_are_made_whole_first, set_up, tear_down),
		cmocka_unit_test_setup_teardown(also_where_sharing_is_off, set_up, tear_down),
		cmocka_unit_test_setup_teardown(in_clear_broken_ones_are_left, set_up, tear_down),
		cmocka_unit_test_setup_teardown(new_ones_come_about_only_where_they_may, set_up, tear_down),
		cmocka_unit_test_setup_teardown(none_come_about_from_the_beginning, set_up_without, tear_down),
		cmocka_unit_test_setup_teardown(what_others_made_whole_stays_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(with_a_limit_it_lies_on_the_bench_until_it_is_used_or_evicted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_hot_cools_under_a_distant_limit, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_byte_is_lost_while_orders_change, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nor_when_the_kernel_refuses, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nor_when_it_does_not_say_what_is_there, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("engine_large", tests, NULL, NULL);
}
