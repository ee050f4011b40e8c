/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The accesses. Each thread owns the pages whose number is its own modulo the number of threads (with "sequential", one
 * run of pages), so that no lock stands between two of them, and neighbours on memory belong to different threads.
 *
 * One access is one load, or one exchange, of a page's stamp. One in sixteen, chosen at random, is timed: the processor's
 * counter before and after it, and the faults that the kernel has counted for the thread. So what is a fault is known, not
 * guessed from the time, and an interrupt or a lost processor under a page that is there is none. Userfaultfd's faults are
 * counted by the kernel as all others. Reading the counts costs what one access in sixteen can bear: some 40 ns an access.
 */
#include "pager.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "base/clock.h"

#define ZIPF_S       0.99
#define PHASE_ROUNDS 4  /* how often a phase goes through its window, on average */
#define TIMED_MASK   15 /* of a random number: one access in sixteen is timed */

/* Jim Gray's way to draw from a zipf distribution, as most benches of key-value stores do. */
struct zipf {
	double n, alpha, zeta, eta, second;
};

struct player {
	struct pager_play *play;
	pthread_t thread;
	unsigned number;
	uint32_t pages;             /* its own */
	uint64_t random, position, window_start, window_left;
	uint64_t ops, deadline;     /* of the stage that runs: one of the two is 0 */
	struct zipf zipf;
	struct pager_tally tally;
};

struct pager_play {
	struct pager *pager;
	uint32_t window_pages;      /* of each player */
	uint64_t phase_ops;
	struct player players[PAGER_THREADS_MAX];
};

uint64_t pager_ticks(void)
{
	unsigned processor;

	return __builtin_ia32_rdtscp(&processor);
}

double pager_seconds_of(const struct timeval *time)
{
	return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static unsigned bucket_of(uint64_t ticks)
{
	unsigned octave;

	if (ticks < PAGER_SUBBUCKETS)
		return (unsigned)ticks;
	octave = 63u - (unsigned)__builtin_clzll(ticks) - 4;
	return (octave + 1) * PAGER_SUBBUCKETS + (unsigned)((ticks >> octave) & (PAGER_SUBBUCKETS - 1));
}

static double bucket_middle(unsigned bucket)
{
	if (bucket < PAGER_SUBBUCKETS)
		return bucket + 0.5;
	return ldexp(PAGER_SUBBUCKETS + bucket % PAGER_SUBBUCKETS + 0.5, (int)(bucket / PAGER_SUBBUCKETS) - 1);
}

double pager_quantile_ns(const struct pager *pager, const uint64_t buckets[PAGER_BUCKETS], double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < PAGER_BUCKETS; i++)
		total += buckets[i];
	for (unsigned i = 0; i < PAGER_BUCKETS && total; i++) {
		seen += buckets[i];
		if ((double)seen >= share * (double)total)
			return bucket_middle(i) * pager->ns_per_tick;
	}
	return 0;
}

static void zipf_open(struct zipf *zipf, uint32_t n)
{
	double zeta = 0;

	for (uint32_t i = 1; i <= n; i++)
		zeta += pow(i, -ZIPF_S);
	*zipf = (struct zipf){ .n = n, .alpha = 1 / (1 - ZIPF_S), .zeta = zeta, .second = 1 + pow(0.5, ZIPF_S) };
	zipf->eta = (1 - pow(2.0 / n, 1 - ZIPF_S)) / (1 - zipf->second / zeta);
}

static uint32_t zipf_draw(const struct zipf *zipf, uint64_t *random)
{
	double u = (double)(pager_random(random) >> 11) * 0x1p-53, uz = u * zipf->zeta;
	double rank;

	if (uz < 1)
		return 0;
	if (uz < zipf->second)
		return 1;
	rank = zipf->n * pow(zipf->eta * u - zipf->eta + 1, zipf->alpha);
	return (uint32_t)(rank < zipf->n ? rank : zipf->n - 1);
}

/* A number below n; the high half of a product is as even as is needed here and needs no division. */
static uint32_t draw(uint64_t *random, uint32_t n)
{
	return (uint32_t)(((pager_random(random) >> 32) * n) >> 32);
}

/* Which of its own pages a player touches next. */
static uint32_t next_own(struct player *player)
{
	switch (player->play->pager->options->pattern) {
	case PAGER_ZIPF:
		return zipf_draw(&player->zipf, &player->random);
	case PAGER_SEQUENTIAL:
		player->position = player->position + 1 < player->pages ? player->position + 1 : 0;
		return (uint32_t)player->position;
	case PAGER_PHASE:
		if (player->window_left-- == 0) {
			player->window_left = player->play->phase_ops - 1;
			player->window_start = draw(&player->random, player->pages);
		}
		return (uint32_t)((player->window_start + draw(&player->random, player->play->window_pages)) % player->pages);
	default:
		return draw(&player->random, player->pages);
	}
}

static uint32_t next_page(struct player *player)
{
	struct pager *pager = player->play->pager;
	uint32_t own = next_own(player);

	if (pager->options->pattern == PAGER_SEQUENTIAL)
		return player->number * player->pages + own;
	own = own * pager->options->threads + player->number;
	return pager->order ? pager->order[own] : own;
}

static void access_page(struct player *player, uint32_t page, int write)
{
	struct pager *pager = player->play->pager;
	uint64_t expected = pager_stamp(pager->options->content, page, pager->versions[page]), seen;

	if (write)
		seen = __atomic_exchange_n(pager_stamp_at(pager, page),
					   pager_stamp(pager->options->content, page, ++pager->versions[page]), __ATOMIC_RELAXED);
	else
		seen = __atomic_load_n(pager_stamp_at(pager, page), __ATOMIC_RELAXED);
	if (seen != expected)
		pager_wrong(pager, page, seen, expected);
}

static uint64_t faults_of_thread(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

/* Returns the time at the end. */
static uint64_t access_timed(struct player *player, uint32_t page, int write)
{
	struct pager_tally *tally = &player->tally;
	uint64_t faults = faults_of_thread(), before = pager_ticks(), now, took;

	access_page(player, page, write);
	now = pager_ticks();
	took = now - before;
	tally->access_buckets[bucket_of(took)]++;
	if (faults_of_thread() != faults) {
		tally->fault_buckets[bucket_of(took)]++;
		tally->fault_max_ticks = OB_MAX(tally->fault_max_ticks, took);
		tally->timed_faults++;
	}
	return now;
}

/* With phases a stage that runs by time ends where a phase does: half a phase would count its faults, not its hits. */
static int may_end(const struct player *player)
{
	return player->play->pager->options->pattern != PAGER_PHASE || player->window_left == 0;
}

static void *play(void *argument)
{
	struct player *player = argument;
	uint64_t faults = faults_of_thread(), now = 0;
	uint64_t write_below = (uint64_t)player->play->pager->options->write_percent * (UINT64_MAX / 100);

	do {
		uint64_t random = pager_random(&player->random);
		uint32_t page = next_page(player);

		if ((random & TIMED_MASK) == 0)
			now = access_timed(player, page, random < write_below);
		else
			access_page(player, page, random < write_below);
		player->tally.ops++;
	} while (player->ops ? player->tally.ops < player->ops : now < player->deadline || !may_end(player));
	player->tally.faults = faults_of_thread() - faults;
	return NULL;
}

static void add_tally(struct pager_tally *sum, const struct pager_tally *one)
{
	sum->ops += one->ops;
	sum->faults += one->faults;
	sum->timed_faults += one->timed_faults;
	sum->fault_max_ticks = OB_MAX(sum->fault_max_ticks, one->fault_max_ticks);
	for (unsigned i = 0; i < PAGER_BUCKETS; i++) {
		sum->fault_buckets[i] += one->fault_buckets[i];
		sum->access_buckets[i] += one->access_buckets[i];
	}
}

int pager_play_run(struct pager_play *game, struct pager_stage *stage, struct ob_error *err)
{
	unsigned threads = game->pager->options->threads, started = 0;
	uint64_t start_ns = ob_now_ns(), deadline = pager_ticks() + (uint64_t)(stage->seconds * 1e9 / game->pager->ns_per_tick);
	struct rusage first, last;
	int r = 0;

	getrusage(RUSAGE_SELF, &first);
	memset(&stage->tally, 0, sizeof(stage->tally));
	for (; started < threads && !r; started += r ? 0 : 1) {
		struct player *player = &game->players[started];

		memset(&player->tally, 0, sizeof(player->tally));
		player->ops = stage->ops ? OB_MAX(stage->ops / threads, 1u) : 0;
		player->deadline = deadline;
		r = pthread_create(&player->thread, NULL, play, player);
	}
	for (unsigned i = 0; i < started; i++) {
		pthread_join(game->players[i].thread, NULL);
		add_tally(&stage->tally, &game->players[i].tally);
	}
	getrusage(RUSAGE_SELF, &last);
	stage->wall_seconds = (double)(ob_now_ns() - start_ns) / 1e9;
	stage->user_seconds = pager_seconds_of(&last.ru_utime) - pager_seconds_of(&first.ru_utime);
	stage->system_seconds = pager_seconds_of(&last.ru_stime) - pager_seconds_of(&first.ru_stime);
	return r ? ob_error_sys(err, r, "cannot start a thread") : 0;
}

/* Ranks lie anywhere in memory: a permutation of the pages, each thread's among its own. */
static int scatter(struct pager *pager, struct ob_error *err)
{
	uint64_t random = pager->options->seed ^ 0x5ca77e7ull;
	uint32_t threads = pager->options->threads, own = pager->pages / threads;

	pager->order = malloc(pager->pages * sizeof(*pager->order));
	if (!pager->order)
		return ob_error_sys(err, ENOMEM, "cannot scatter the pages");
	for (uint32_t i = 0; i < pager->pages; i++)
		pager->order[i] = i;
	for (uint32_t thread = 0; thread < threads; thread++) {
		for (uint32_t i = own - 1; i > 0; i--) {
			uint32_t other = draw(&random, i + 1) * threads + thread, one = i * threads + thread;
			uint32_t page = pager->order[one];

			pager->order[one] = pager->order[other];
			pager->order[other] = page;
		}
	}
	return 0;
}

int pager_play_open(struct pager *pager, struct pager_play **ret_play, struct ob_error *err)
{
	const struct pager_options *options = pager->options;
	struct pager_play *game = calloc(1, sizeof(*game));
	uint64_t window = options->window_bytes / PAGER_PAGE;

	if (!game)
		return ob_error_sys(err, ENOMEM, "cannot start");
	game->pager = pager;
	game->window_pages = (uint32_t)OB_MAX(OB_MIN(window, pager->pages) / options->threads, 1u);
	game->phase_ops = options->phase_ops ? OB_MAX(options->phase_ops / options->threads, 1u) :
			  (uint64_t)PHASE_ROUNDS * game->window_pages;
	if (options->pattern == PAGER_ZIPF && scatter(pager, err) < 0) {
		free(game);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < options->threads; i++) {
		struct player *player = &game->players[i];

		*player = (struct player){ .play = game, .number = i, .pages = pager->pages / options->threads,
					   .random = pager_mix(options->seed + 1 + i) };
		if (options->pattern == PAGER_ZIPF)
			zipf_open(&player->zipf, player->pages);
	}
	*ret_play = game;
	return 0;
}
