/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "player.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

#define TICK_OPS      32    /* how often a player tells of its progress */
#define WINDOW_OPS    4096  /* how long a working set lasts */
#define TWINS         96u   /* pages that many have alike */
#define COUNTER_SLOTS 8     /* counters a page */
#define MADV_COLLAPSE_ADVICE 25 /* MADV_COLLAPSE, which Debian 12's headers do not have */

struct player {
	struct crew *crew;
	pthread_t thread;
	unsigned number;
	uint64_t random;
	uint32_t window_start[CREW_RAMS_MAX];
	struct disk disk;
	int has_disk;
	int failed; /* negative errno */
};

struct crew {
	struct crew_config config;
	struct player players[CREW_PLAYERS_MAX];
	unsigned started, ended;
	uint64_t ops;
	int stop;
	uint64_t *counter_sums; /* what each counter must be at the end */
	pthread_mutex_t lock;   /* ops, ended */
	pthread_cond_t progress;
};

struct run {
	struct ram *ram;
	uint32_t first, count;
};

static uint64_t draw(struct player *player, uint64_t below)
{
	return (pattern_random(&player->random) >> 11) % below;
}

static uint32_t pick_page(struct player *player, unsigned ram_index)
{
	struct ram *ram = player->crew->config.rams[ram_index];
	uint32_t window = ram->pages / 8;

	if (draw(player, 16) == 0)
		return (uint32_t)draw(player, ram->pages);
	return (player->window_start[ram_index] + (uint32_t)draw(player, window)) % ram->pages;
}

static struct ram *pick_locked_page(struct player *player, uint32_t *ret_page)
{
	for (;;) {
		unsigned index = (unsigned)draw(player, player->crew->config.ram_count);
		struct ram *ram = player->crew->config.rams[index];
		uint32_t page = pick_page(player, index);

		if (ram_try_lock(ram, page)) {
			*ret_page = page;
			return ram;
		}
		sched_yield();
	}
}

/* A run of pages that are all locked; the caller holds no other lock. */
static struct run pick_locked_run(struct player *player, uint32_t count)
{
	unsigned index = (unsigned)draw(player, player->crew->config.ram_count);
	struct run run = { .ram = player->crew->config.rams[index], .count = count };

	run.first = pick_page(player, index);
	if (run.first > run.ram->pages - count)
		run.first = run.ram->pages - count;
	ram_lock_range(run.ram, run.first, run.count);
	return run;
}

static void unlock_run(const struct run *run)
{
	ram_unlock_range(run->ram, run->first, run->count);
}

static int op_check(struct player *player)
{
	uint32_t page;
	struct ram *ram = pick_locked_page(player, &page);
	int r = ram_check(ram, page);

	ram_unlock_range(ram, page, 1);
	return r;
}

static int op_write(struct player *player)
{
	uint32_t page;
	struct ram *ram = pick_locked_page(player, &page);

	ram_write(ram, page, PATTERN_ANY, (unsigned)draw(player, PATTERN_PAGE));
	ram_unlock_range(ram, page, 1);
	return 0;
}

static int op_write_random(struct player *player)
{
	uint32_t page;
	struct ram *ram = pick_locked_page(player, &page);

	ram_write(ram, page, PATTERN_INCOMPRESSIBLE, 0);
	ram_unlock_range(ram, page, 1);
	return 0;
}

/* Half of them in their neighbours' company, as the pages of a file would be. */
static int op_write_twins(struct player *player)
{
	struct run run = pick_locked_run(player, draw(player, 2) ? 1 : 8);
	uint32_t which = (uint32_t)draw(player, TWINS);

	for (uint32_t i = 0; i < run.count; i++)
		ram_write_twin(run.ram, run.first + i, (which + i) % TWINS);
	unlock_run(&run);
	return 0;
}

static int op_patch(struct player *player)
{
	uint32_t page;
	struct ram *ram = pick_locked_page(player, &page);
	int r = ram_patch(ram, page);

	ram_unlock_range(ram, page, 1);
	return r;
}

static int op_check_run(struct player *player)
{
	struct run run = pick_locked_run(player, 1 + (uint32_t)draw(player, 64));
	int r = 0;

	for (uint32_t i = 0; i < run.count && !r; i++)
		r = ram_check(run.ram, run.first + i);
	unlock_run(&run);
	return r;
}

static int op_count(struct player *player)
{
	struct crew *crew = player->crew;
	struct ram *counters = crew->config.counters;
	uint32_t page, slot;
	uint64_t add = 1 + draw(player, 1000), *words;

	if (!counters)
		return op_check(player);
	page = (uint32_t)draw(player, counters->pages);
	slot = (uint32_t)draw(player, COUNTER_SLOTS);
	words = (uint64_t *)(void *)ram_page(counters, page);
	__atomic_fetch_add(&words[slot * (PATTERN_WORDS / COUNTER_SLOTS)], add, __ATOMIC_RELAXED);
	__atomic_fetch_add(&crew->counter_sums[page * COUNTER_SLOTS + slot], add, __ATOMIC_RELAXED);
	return 0;
}

/* Gives a run back and looks at a few of its pages at once, or writes them. */
static int discard_run(struct player *player, struct run *run)
{
	int r = ram_discard(run->ram, player->crew->config.engine, run->first, run->count);

	if (r < 0 && player->crew->config.discards_may_fail) {
		for (uint32_t i = 0; i < run->count; i++)
			ram_write(run->ram, run->first + i, PATTERN_ANY, 0);
		r = 0;
	}
	for (uint32_t i = 0; i < run->count && !r; i += 1 + (uint32_t)draw(player, run->count))
		r = ram_check(run->ram, run->first + i);
	if (!r && draw(player, 2))
		ram_write(run->ram, run->first, PATTERN_ANY, 0);
	unlock_run(run);
	return r;
}

static int op_discard(struct player *player)
{
	struct run run = pick_locked_run(player, draw(player, 2) ? 1 : 1 + (uint32_t)draw(player, 48));

	return discard_run(player, &run);
}

static int op_discard_chunk(struct player *player)
{
	struct ram *ram = player->crew->config.rams[draw(player, player->crew->config.ram_count)];
	uint32_t chunks = ram->pages / OB_CHUNK_PAGES;
	struct run run = { .ram = ram, .count = OB_CHUNK_PAGES };

	if (chunks > 1 && draw(player, 4) == 0)
		run.count = 2 * OB_CHUNK_PAGES;
	run.first = (uint32_t)draw(player, chunks - run.count / OB_CHUNK_PAGES + 1) * OB_CHUNK_PAGES;
	ram_lock_range(ram, run.first, run.count);
	return discard_run(player, &run);
}

static int do_io(struct player *player, int write, enum disk_how how)
{
	struct disk_request request = { .write = write };
	struct run run;
	int r;

	if (!player->has_disk)
		return op_check(player);
	run = pick_locked_run(player, 1 + (uint32_t)draw(player, DISK_RUN));
	request.ram = run.ram;
	request.page = run.first;
	request.count = run.count;
	request.block = (uint32_t)draw(player, DISK_PAGES - run.count + 1);
	r = disk_transfer(&player->disk, player->crew->config.engine, &request, how);
	if (!r)
		r = ram_check(run.ram, run.first + (uint32_t)draw(player, run.count));
	unlock_run(&run);
	return r;
}

static int op_direct_read(struct player *player)
{
	return do_io(player, 0, DISK_DIRECT);
}

static int op_direct_write(struct player *player)
{
	return do_io(player, 1, DISK_DIRECT);
}

static int op_buffered_read(struct player *player)
{
	return do_io(player, 0, DISK_BUFFERED);
}

static int op_buffered_write(struct player *player)
{
	return do_io(player, 1, DISK_BUFFERED);
}

/* Looks at pages near a run that is in flight, so that the engine works on its chunk meanwhile. */
static int check_around(struct player *player, const struct run *run)
{
	int r = 0;

	for (int i = 0; i < 4 && !r; i++) {
		uint32_t page = (run->first + 600 + (uint32_t)draw(player, 512)) % run->ram->pages;

		if (!ram_try_lock(run->ram, page))
			continue;
		r = ram_check(run->ram, page);
		ram_unlock_range(run->ram, page, 1);
	}
	return r;
}

/* Two requests in flight at once, a read and a write as it comes, of which nobody tells the engine. */
static int op_async(struct player *player)
{
	struct disk_request requests[2];
	struct run run;
	uint32_t half;
	int r, around;

	if (!player->has_disk || !player->disk.has_aio)
		return op_check(player);
	run = pick_locked_run(player, 2 + (uint32_t)draw(player, 2 * DISK_RUN - 2));
	half = run.count / 2;
	for (unsigned i = 0; i < 2; i++) {
		/* Each request has its own half of the disk: the order in which they end does not matter. */
		requests[i] = (struct disk_request){ .ram = run.ram, .page = run.first + i * half,
						     .count = i ? run.count - half : half, .write = (int)draw(player, 2) };
		requests[i].block = i * (DISK_PAGES / 2) + (uint32_t)draw(player, DISK_PAGES / 2 - requests[i].count + 1);
	}
	r = disk_submit(&player->disk, requests, 2);
	around = check_around(player, &run);
	if (!r)
		r = disk_wait(&player->disk, requests, 2);
	for (uint32_t i = 0; i < run.count && !r; i += 3)
		r = ram_check(run.ram, run.first + i);
	unlock_run(&run);
	return r ? r : around;
}

/*
 * What the kernel does to memory by itself, and at any time: it ages pages, which changes entries of the page table under
 * whoever looks at them, splits large pages and makes new ones. No byte changes, whatever it answers.
 */
static int op_age(struct player *player)
{
	struct ram *ram = player->crew->config.rams[draw(player, player->crew->config.ram_count)];
	uint32_t count = draw(player, 4) ? OB_CHUNK_PAGES : 1 + (uint32_t)draw(player, 64);
	uint32_t first = (uint32_t)draw(player, ram->pages - count + 1);

	for (int i = 0; i < 4; i++)
		madvise(ram_page(ram, first), (size_t)count * PATTERN_PAGE, MADV_COLD);
	return 0;
}

static int op_collapse(struct player *player)
{
	struct ram *ram = player->crew->config.rams[draw(player, player->crew->config.ram_count)];
	uint32_t chunk = (uint32_t)draw(player, ram->pages / OB_CHUNK_PAGES);

	madvise(ram_page(ram, chunk * OB_CHUNK_PAGES), OB_CHUNK_SIZE, MADV_COLLAPSE_ADVICE);
	return 0;
}

static const struct {
	int (*run)(struct player *player);
	unsigned weight[CREW_MIXES]; /* everything, check and write, dirty, read */
} operations[] = {
	{ op_check,          { 400, 60, 4, 95 } },
	{ op_write,          { 250, 20, 0, 0 } },
	{ op_write_random,   { 30, 5, 95, 0 } },
	{ op_write_twins,    { 60, 0, 0, 0 } },
	{ op_patch,          { 130, 15, 0, 0 } },
	{ op_check_run,      { 10, 1, 0, 5 } },
	{ op_count,          { 200, 10, 1, 0 } },
	{ op_discard,        { 20, 0, 0, 0 } },
	{ op_discard_chunk,  { 1, 0, 0, 0 } },
	{ op_direct_read,    { 8, 0, 0, 0 } },
	{ op_direct_write,   { 8, 0, 0, 0 } },
	{ op_buffered_read,  { 8, 0, 0, 0 } },
	{ op_buffered_write, { 4, 0, 0, 0 } },
	{ op_async,          { 12, 0, 0, 0 } },
	{ op_age,            { 6, 0, 0, 0 } },
	{ op_collapse,       { 1, 0, 0, 0 } },
};

static int play_one(struct player *player)
{
	enum crew_mix mix = player->crew->config.mix;
	unsigned total = 0, chosen;
	size_t i;

	for (i = 0; i < OB_ARRAY_LEN(operations); i++)
		total += operations[i].weight[mix];
	chosen = (unsigned)draw(player, total);
	for (i = 0; chosen >= operations[i].weight[mix]; i++)
		chosen -= operations[i].weight[mix];
	return operations[i].run(player);
}

static void tell_progress(struct crew *crew, uint64_t ops, int ended)
{
	pthread_mutex_lock(&crew->lock);
	crew->ops += ops;
	crew->ended += ended ? 1 : 0;
	pthread_cond_broadcast(&crew->progress);
	pthread_mutex_unlock(&crew->lock);
}

static void move_window(struct player *player)
{
	for (unsigned i = 0; i < player->crew->config.ram_count; i++)
		player->window_start[i] = (uint32_t)draw(player, player->crew->config.rams[i]->pages);
}

static void *play(void *argument)
{
	struct player *player = argument;
	struct crew *crew = player->crew;
	uint64_t op;

	for (op = 0; op < crew->config.ops_each && !player->failed; op++) {
		if (__atomic_load_n(&crew->stop, __ATOMIC_RELAXED) || ram_wrong_count())
			break;
		if (op % WINDOW_OPS == 0)
			move_window(player);
		player->failed = play_one(player);
		if (player->failed && player->failed != -EILSEQ)
			ob_log(OB_LOG_ERROR, "test: player %u: operation %llu: %s", player->number, (unsigned long long)op,
			       strerror(-player->failed));
		if (op % TICK_OPS == TICK_OPS - 1)
			tell_progress(crew, TICK_OPS, 0);
	}
	tell_progress(crew, op % TICK_OPS, 1);
	return NULL;
}

static int start_player(struct crew *crew, unsigned number, struct ob_error *err)
{
	struct player *player = &crew->players[number];
	int r;

	player->crew = crew;
	player->number = number;
	player->random = crew->config.seed * 1000003 + number;
	if (crew->config.disk_dir) {
		r = disk_open(&player->disk, crew->config.disk_dir, player->random, err);
		if (r < 0)
			return r;
		player->has_disk = 1;
	}
	r = pthread_create(&player->thread, NULL, play, player);
	return r ? ob_error_sys(err, r, "cannot start a player") : 0;
}

int crew_start(const struct crew_config *config, struct crew **ret_crew, struct ob_error *err)
{
	struct crew *crew = calloc(1, sizeof(*crew));
	pthread_condattr_t attr;
	int r = 0;

	if (!crew)
		return ob_error_sys(err, ENOMEM, "cannot start a crew");
	crew->config = *config;
	pthread_mutex_init(&crew->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&crew->progress, &attr);
	pthread_condattr_destroy(&attr);
	if (config->counters) {
		crew->counter_sums = calloc((size_t)config->counters->pages * COUNTER_SLOTS, sizeof(uint64_t));
		if (!crew->counter_sums)
			r = ob_error_sys(err, ENOMEM, "cannot start a crew");
	}
	for (unsigned i = 0; i < OB_MIN(config->players, CREW_PLAYERS_MAX) && !r; i++) {
		r = start_player(crew, i, err);
		crew->started += r ? 0 : 1;
	}
	if (r) {
		crew_stop(crew);
		return crew_finish(crew, 10000) == -ETIMEDOUT ? -ETIMEDOUT : r;
	}
	*ret_crew = crew;
	return 0;
}

static int wait_for(struct crew *crew, uint64_t ops, unsigned timeout_ms)
{
	uint64_t seen = 0;
	struct timespec deadline = { 0 };
	int r = 0;

	pthread_mutex_lock(&crew->lock);
	while (crew->ops < ops && crew->ended < crew->started && !r) {
		if (!deadline.tv_sec || crew->ops != seen) {
			uint64_t until = ob_now_ns() + timeout_ms * OB_NS_PER_MS;

			seen = crew->ops;
			deadline = (struct timespec){ .tv_sec = (time_t)(until / OB_NS_PER_SEC),
						      .tv_nsec = (long)(until % OB_NS_PER_SEC) };
		}
		r = -pthread_cond_timedwait(&crew->progress, &crew->lock, &deadline);
	}
	r = crew->ops >= ops || crew->ended == crew->started ? 0 : r;
	pthread_mutex_unlock(&crew->lock);
	return r;
}

int crew_wait_ops(struct crew *crew, uint64_t ops, unsigned timeout_ms)
{
	return wait_for(crew, ops, timeout_ms);
}

void crew_stop(struct crew *crew)
{
	__atomic_store_n(&crew->stop, 1, __ATOMIC_RELAXED);
}

uint64_t crew_ops(struct crew *crew)
{
	uint64_t ops;

	pthread_mutex_lock(&crew->lock);
	ops = crew->ops;
	pthread_mutex_unlock(&crew->lock);
	return ops;
}

/* A page of counters holds what was added and nothing else. */
static int check_counters(const struct crew *crew)
{
	struct ram *counters = crew->config.counters;

	for (uint32_t page = 0; page < counters->pages; page++) {
		const uint64_t *words = (const uint64_t *)(const void *)ram_page(counters, page);

		for (unsigned word = 0; word < PATTERN_WORDS; word++) {
			unsigned stride = PATTERN_WORDS / COUNTER_SLOTS;
			uint64_t expected = word % stride ? 0 : crew->counter_sums[page * COUNTER_SLOTS + word / stride];

			if (words[word] == expected)
				continue;
			ob_log(OB_LOG_ERROR, "test: counter page %u word %u is %llu instead of %llu", page, word,
			       (unsigned long long)words[word], (unsigned long long)expected);
			return -EILSEQ;
		}
	}
	return 0;
}

int crew_finish(struct crew *crew, unsigned timeout_ms)
{
	int r = wait_for(crew, UINT64_MAX, timeout_ms);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < crew->started; i++) {
		pthread_join(crew->players[i].thread, NULL);
		if (!r)
			r = crew->players[i].failed;
	}
	for (unsigned i = 0; i < CREW_PLAYERS_MAX; i++)
		if (crew->players[i].has_disk)
			disk_close(&crew->players[i].disk);
	if (!r && ram_wrong_count())
		r = -EILSEQ;
	if (!r && crew->counter_sums && crew->started)
		r = check_counters(crew);
	free(crew->counter_sums);
	pthread_cond_destroy(&crew->progress);
	pthread_mutex_destroy(&crew->lock);
	free(crew);
	return r;
}
