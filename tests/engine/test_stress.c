/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main stress: players use memory in every way while the limit moves, memory is pinned, children are forked, regions
 * come and go, and the engine is told to let go and to engage again. Meanwhile what looks alike is shared, by a keeper that also
 * lies (keeper.h), and looked for by the scanner; a second time it is mapped too, single pages and all. One region is not aligned to 2 MiB, so that two of
 * its chunks share a page table. Not a byte may be wrong, every counter must add up,
 * and at the end every transition of the page table must have been taken at least once.
 *
 * The director (this thread) walks a script; a step is taken when the players have done some more operations, so nothing
 * depends on the clock. What the players cannot be relied upon to reach (pages that a device holds, chunks that are left
 * to the kernel) has steps of its own.
 */
#include "bed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account.h"
#include "base/fault.h"
#include "base/log.h"
#include "engine/page.h"
#include "keeper.h"
#include "pin.h"
#include "player.h"

#define PLAYERS     3u
#define MAIN_MIB    96u
#define SIDE_MIB    30u
#define COUNTER_MIB 2u
#define ALL_MIB     (MAIN_MIB + SIDE_MIB + COUNTER_MIB)
#define SPARE_MIB   8u
#define SCAN_PERMILLE 200u
#define SCAN_COLD_MS  30u
#define ACTIVE_WATCH_MS 20u

struct stage {
	struct bed *bed;
	struct ram *main_ram, *side_ram, *counters, *spare;
	struct crew *crew;
	struct keeper keeper;
	int pin_fd, pin_errno;
	int child_pipe;
	pid_t child;
	unsigned releases;
};

static int set_percent(struct stage *stage, unsigned percent)
{
	return ob_engine_set_limit(stage->bed->engine, ALL_MIB * OB_MIB * percent / 100);
}

static int step_limit_75(struct stage *stage)
{
	return set_percent(stage, 75);
}

static int step_limit_50(struct stage *stage)
{
	return set_percent(stage, 50);
}

static int step_limit_25(struct stage *stage)
{
	return set_percent(stage, 25);
}

static int step_no_limit(struct stage *stage)
{
	return ob_engine_set_limit(stage->bed->engine, 0);
}

static void on_progress(void *context, uint64_t done, uint64_t total)
{
	uint64_t *last = context;

	if (done > total || done < *last)
		*last = UINT64_MAX;
	else if (*last != UINT64_MAX)
		*last = done;
}

static int step_release(struct stage *stage)
{
	uint64_t last = 0;
	int r = ob_engine_release(stage->bed->engine, on_progress, &last, &stage->bed->err);

	stage->releases++;
	return r ? r : last == UINT64_MAX ? -ERANGE : 0;
}

/* Holds pages all over a few chunks of both regions, written and unwritten, as they come. */
static int step_pin(struct stage *stage)
{
	if (stage->pin_fd >= 0 || stage->pin_errno)
		return 0;
	stage->pin_fd = pin_hold(ram_page(stage->main_ram, 700), 1200 * PATTERN_PAGE);
	if (stage->pin_fd >= 0)
		return 0;
	stage->pin_errno = -stage->pin_fd;
	ob_log(OB_LOG_WARNING, "test: memory cannot be pinned here: %s", strerror(stage->pin_errno));
	return 0;
}

static int step_unpin(struct stage *stage)
{
	pin_release(stage->pin_fd);
	stage->pin_fd = -1;
	return 0;
}

static int step_discard_pinned(struct stage *stage)
{
	int r;

	ram_lock_range(stage->main_ram, 700, 1200);
	r = ram_discard(stage->main_ram, stage->bed->engine, 700, 64);
	ram_unlock_range(stage->main_ram, 700, 1200);
	return r;
}

/* A child that lives for a few steps and does nothing, as a helper that QEMU started. */
static int step_fork(struct stage *stage)
{
	int ends[2];
	char byte;

	if (stage->child)
		return 0;
	if (pipe(ends))
		return -errno;
	stage->child = fork();
	if (stage->child == 0) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
	}
	close(ends[0]);
	stage->child_pipe = ends[1];
	return stage->child < 0 ? -errno : 0;
}

static int step_reap(struct stage *stage)
{
	int status = 0;

	if (!stage->child)
		return 0;
	close(stage->child_pipe);
	if (waitpid(stage->child, &status, 0) != stage->child || status)
		return -ECHILD;
	stage->child = 0;
	return 0;
}

static int step_add_spare(struct stage *stage)
{
	static uint64_t seed = 0x5000;

	if (stage->spare)
		return 0;
	stage->spare = ram_new(SPARE_MIB * MIB_PAGES, seed++);
	ram_write_all(stage->spare, PATTERN_ANY); /* before the engine knows it: adopted with its pages */
	return ob_engine_add_region(stage->bed->engine, stage->spare->base, SPARE_MIB * OB_MIB, &stage->bed->err);
}

static int step_check_spare(struct stage *stage)
{
	if (!stage->spare)
		return 0;
	for (uint32_t page = 0; page < stage->spare->pages; page += 3)
		ram_write(stage->spare, page, PATTERN_ANY, 0);
	return ram_check_all(stage->spare);
}

static int step_remove_spare(struct stage *stage)
{
	int r;

	if (!stage->spare)
		return 0;
	r = ram_check_all(stage->spare);
	if (!r)
		r = ob_engine_remove_region(stage->bed->engine, stage->spare->base);
	ram_free(stage->spare);
	stage->spare = NULL;
	return r;
}

/* A discarded chunk in memory without a limit: left to the kernel, used there, and then taken into care again. */
static int step_discard_chunks(struct stage *stage)
{
	uint32_t first = 40 * OB_CHUNK_PAGES, count = 2 * OB_CHUNK_PAGES;
	int r;

	ram_lock_range(stage->main_ram, first, count);
	r = ram_discard(stage->main_ram, stage->bed->engine, first, count);
	for (uint32_t page = first; page < first + count && !r; page += 5)
		ram_write(stage->main_ram, page, PATTERN_ANY, 0);
	for (uint32_t page = first; page < first + count && !r; page += 10)
		r = ram_check(stage->main_ram, page);
	ram_unlock_range(stage->main_ram, first, count);
	return r;
}

/* Parts of open chunks, so that some of their pages are given back and others are not. */
static int step_discard_parts(struct stage *stage)
{
	int r = 0;

	for (uint32_t first = 100; first + 64 < stage->main_ram->pages && !r; first += 1000) {
		ram_lock_range(stage->main_ram, first, 64);
		r = ram_discard(stage->main_ram, stage->bed->engine, first, 64);
		for (uint32_t page = first; page < first + 16 && !r; page++)
			ram_write(stage->main_ram, page, PATTERN_ANY, 0);
		for (uint32_t page = first; page < first + 32 && !r; page++)
			r = ram_check(stage->main_ram, page);
		ram_unlock_range(stage->main_ram, first, 64);
	}
	return r;
}

/* The states' bytes add up; while players run, two counters may be read between the halves of one change. */
static int step_check_stats(struct stage *stage)
{
	struct ob_stats stats = bed_stats(stage->bed);
	uint64_t sum = bed_states_bytes(&stats);
	uint64_t gap = sum > stats.ram_bytes ? sum - stats.ram_bytes : stats.ram_bytes - sum;

	if (stats.internal_errors || stats.swap_read_errors || stats.swap_write_errors)
		return -EPROTO;
	return gap > stats.ram_bytes / 50 ? -ERANGE : 0;
}

static int share(struct stage *stage)
{
	return ob_engine_share_on(stage->bed->engine, stage->keeper.key.secret, SCAN_PERMILLE, keeper_ready, &stage->keeper);
}

/* Another overbookd, it seems: what is shared already is offered once more. */
static int step_share_again(struct stage *stage)
{
	return share(stage);
}

static int step_share_off(struct stage *stage)
{
	ob_engine_share_off(stage->bed->engine);
	return 0;
}

/* What has been offered may be adopted even now. */
static int step_unshare(struct stage *stage)
{
	uint64_t last = 0;
	int r = ob_engine_unshare(stage->bed->engine, on_progress, &last, &stage->bed->err);

	return r ? r : last == UINT64_MAX ? -ERANGE : 0;
}

/* All that there is of the store is to go, while pages go on adopting slots of it. */
static int step_drain(struct stage *stage)
{
	struct ob_share_held held[KEEPER_EXTENTS];
	unsigned n = ob_engine_share_held(stage->bed->engine, held, KEEPER_EXTENTS);

	for (unsigned i = 0; i < n && i < KEEPER_EXTENTS; i++)
		ob_engine_share_orphan(stage->bed->engine, held[i].extent, 1);
	return 0;
}

/* Beside what the scanner maps by its own rule. */
static int step_map(struct stage *stage)
{
	for (uint32_t page = 0; page < stage->main_ram->pages; page += OB_CHUNK_PAGES)
		ob_engine_share_map(stage->bed->engine, keeper_page(0, page), OB_CHUNK_PAGES);
	return 0;
}

static uint64_t transitions[OB_TRANSITION_COUNT]; /* of all engines of this program */
static int pin_errno;

#define STEPS(X)                                                                                                         \
	X(limit_75) X(pin) X(limit_50) X(add_spare) X(limit_25) X(check_stats) X(check_spare) X(fork) X(unpin)           \
	X(limit_50) X(share_again) X(limit_25) X(map) X(drain) X(remove_spare) X(reap) X(map) X(check_stats) X(pin) X(map) X(release)            \
	X(discard_parts)                                                                                                 \
	X(check_stats) X(limit_50) X(discard_pinned) X(limit_25) X(unpin) X(limit_75) X(no_limit) X(discard_chunks)      \
	X(map) X(unshare) X(check_stats) X(share_again) X(limit_75) X(map) X(drain) X(check_stats) X(share_off) X(limit_50) X(map) X(unshare)    \
	X(share_again)                                                                                                   \
	X(add_spare) X(limit_25) X(check_spare) X(pin) X(limit_50) X(map) X(limit_25) X(discard_pinned) X(remove_spare)  \
	X(check_stats) X(unpin) X(release) X(discard_chunks) X(limit_25)

static const struct {
	const char *name;
	int (*take)(struct stage *stage);
} script[] = {
#define X(name) { #name, step_##name },
	STEPS(X)
#undef X
};

static void add_ram(struct stage *stage, struct ram *ram)
{
	size_t bytes = (size_t)ram->pages * PATTERN_PAGE;

	bed_assert_ok(stage->bed, ob_engine_add_region(stage->bed->engine, ram->base, bytes, &stage->bed->err));
}

static void take_step(struct stage *stage, size_t number)
{
	int r = script[number % OB_ARRAY_LEN(script)].take(stage);

	if (r)
		print_error("step %zu, %s:\n", number, script[number % OB_ARRAY_LEN(script)].name);
	bed_assert_ok(stage->bed, r);
}

static void end_stage(struct stage *stage)
{
	struct ob_stats stats;

	bed_assert_ok(stage->bed, crew_finish(stage->crew, HANG_MS));
	keeper_halt(&stage->keeper);
	bed_assert_ok(stage->bed, step_unpin(stage));
	bed_assert_ok(stage->bed, step_remove_spare(stage));
	bed_assert_ok(stage->bed, step_reap(stage));
	bed_assert_ok(stage->bed, ram_check_all(stage->main_ram));
	bed_assert_ok(stage->bed, ram_check_all(stage->side_ram));
	/* Whatever happened to them, all holds are known on both sides. */
	bed_assert_ok(stage->bed, ob_engine_release(stage->bed->engine, NULL, NULL, &stage->bed->err));
	keeper_serve(&stage->keeper);
	assert_int_equal(keeper_held(&stage->keeper), 0);
	assert_int_equal(stage->keeper.wrong, 0);
	assert_int_equal(ob_engine_share_held(stage->bed->engine, NULL, 0), 0);
	stats = bed_stats(stage->bed);
	print_message("# %llu pages mapped, %llu breaks\n", (unsigned long long)stats.map_pages, (unsigned long long)stats.map_breaks);
	print_message("# %llu pages offered, %llu adopted, %llu refused; %llu scanned; %llu extents came and went\n",
		      (unsigned long long)stats.share_offered_pages, (unsigned long long)stats.share_adopted_pages,
		      (unsigned long long)stats.share_refused_pages, (unsigned long long)stats.scan_pages,
		      (unsigned long long)stage->keeper.extents_dropped);
	assert_int_equal(stats.share_adopted_pages, stats.share_dropped_pages);
	/* The pool's table of spans stands nowhere. */
	assert_in_range(stats.cost_bytes - stats.resident_bytes - stats.pool_bytes - stats.tables_bytes, 0, 256 * OB_KIB);
	assert_int_equal(stats.ram_bytes, ALL_MIB * OB_MIB);
	assert_int_equal(stats.internal_errors, 0);
	assert_int_equal(stats.swap_read_errors, 0);
	assert_int_equal(stage->bed->unreadable_count, 0);
}

static void add_transitions(const struct bed *bed)
{
	for (unsigned t = 0; t < OB_TRANSITION_COUNT; t++)
		transitions[t] += ob_engine_transition_count(bed->engine, t);
}

static void play_all(int map_shared)
{
	uint64_t rounds = bed_scale(1, 1, 20), step_ops = bed_scale(600, 1500, 5000);
	struct stage stage = { .pin_fd = -1 };
	struct crew_config config = { .ram_count = 2, .players = PLAYERS, .ops_each = UINT64_MAX, .seed = 20,
				      .disk_dir = bed_dir() };
	size_t step = 0;

	bed_scan_cold_ms = SCAN_COLD_MS;
	bed_active_watch_ms = ACTIVE_WATCH_MS;
	bed_map_shared = map_shared;
	bed_map_run_pages = 1;
	stage.bed = bed_new(ALL_MIB * OB_MIB * 3 / 4, 1);
	bed_scan_cold_ms = bed_active_watch_ms = bed_map_run_pages = 0;
	bed_map_shared = 0;
	stage.main_ram = ram_new(MAIN_MIB * MIB_PAGES, 0x1001);
	stage.side_ram = ram_new_unaligned(SIDE_MIB * MIB_PAGES, 0x2002, 77);
	stage.counters = ram_new(COUNTER_MIB * MIB_PAGES, 0x3003);
	add_ram(&stage, stage.main_ram);
	add_ram(&stage, stage.side_ram);
	add_ram(&stage, stage.counters);
	config.engine = stage.bed->engine;
	config.rams[0] = stage.main_ram;
	config.rams[1] = stage.side_ram;
	config.counters = stage.counters;
	bed_assert_ok(stage.bed, keeper_start(&stage.keeper, stage.bed->engine, 128, SCAN_PERMILLE));
	stage.keeper.lies = 1;
	bed_assert_ok(stage.bed, keeper_run(&stage.keeper));
	/* More memory that compresses by half than the pool may hold, so that it has to be written back. */
	ram_write_all(stage.main_ram, PATTERN_MIXED);
	bed_assert_ok(stage.bed, crew_start(&config, &stage.crew, &stage.bed->err));
	while (step < rounds * OB_ARRAY_LEN(script) && !ram_wrong_count()) {
		bed_assert_ok(stage.bed, crew_wait_ops(stage.crew, crew_ops(stage.crew) + step_ops, HANG_MS));
		take_step(&stage, step++);
	}
	crew_stop(stage.crew);
	end_stage(&stage);
	add_transitions(stage.bed);
	pin_errno = stage.pin_errno;
	print_message("# %llu pages checked in %zu steps\n", (unsigned long long)ram_checked_count(), step);
	bed_free(stage.bed);
	keeper_end(&stage.keeper);
	/* The engine is gone: all memory is in place, and nobody answers faults any more. */
	assert_int_equal(ram_check_all(stage.main_ram), 0);
	assert_int_equal(ram_check_all(stage.side_ram), 0);
	ram_free(stage.main_ram);
	ram_free(stage.side_ram);
	ram_free(stage.counters);
}

static void memory_is_whole_whatever_happens(void **state)
{
	play_all(0);
}

static void memory_is_whole_where_shared_pages_are_mapped(void **state)
{
	play_all(1);
}

/* A kernel that does not say which pages are there: the engine must find the holes by itself and lose nothing. */
static void holes_are_found_where_the_kernel_does_not_tell(void **state)
{
	struct ram *ram = ram_new(64 * MIB_PAGES, 0x6006);
	struct bed *bed;

	assert_int_equal(ob_fault_configure("pagemap_scan:3-14:ENOMEM", NULL), 0);
	bed = bed_new(0, 1);
	bed_assert_ok(bed, ob_engine_add_region(bed->engine, ram->base, 64 * OB_MIB, &bed->err));
	assert_int_equal(madvise(ram->base, 64 * OB_MIB, MADV_NOHUGEPAGE), 0);
	for (uint32_t page = 0; page < ram->pages; page += 3)
		ram_write(ram, page, PATTERN_ANY, 0);
	bed_assert_ok(bed, ob_engine_set_limit(bed->engine, 16 * OB_MIB));
	bed_assert_ok(bed, bed_wait_limit_kept(bed, HANG_MS));
	bed_assert_ok(bed, ram_check_all(ram));
	for (uint32_t page = 1; page < ram->pages; page += 3)
		ram_write(ram, page, PATTERN_ANY, 0);
	bed_assert_ok(bed, ram_check_all(ram));
	assert_true(ob_fault_fired(OB_FP_pagemap_scan) > 0);
	add_transitions(bed);
	bed_free(bed);
	assert_int_equal(ob_fault_configure(NULL, NULL), 0);
	assert_int_equal(ram_check_all(ram), 0);
	ram_free(ram);
}

static int needs_pins(unsigned t)
{
	return t == OB_T_PIN || t == OB_T_LIFT_PINNED || t == OB_T_DISCARD_PINNED || t == OB_T_OPEN_PINNED;
}

static void every_transition_was_taken(void **state)
{
	unsigned missed = 0;

	for (unsigned t = 0; t < OB_TRANSITION_COUNT; t++) {
		ob_log(OB_LOG_DEBUG, "transition %s: %llu", ob_page_transition_name(t), (unsigned long long)transitions[t]);
		if (transitions[t] || (pin_errno && needs_pins(t)))
			continue;
		print_error("transition %s was never taken\n", ob_page_transition_name(t));
		missed++;
	}
	assert_int_equal(missed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_whole_whatever_happens),
		cmocka_unit_test(memory_is_whole_where_shared_pages_are_mapped),
		cmocka_unit_test(holes_are_found_where_the_kernel_does_not_tell),
		cmocka_unit_test(every_transition_was_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
