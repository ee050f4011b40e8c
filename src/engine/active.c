/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of its memory the guest uses: a sample, as ESX Server takes one (Waldspurger, "Memory Resource Management in VMware ESX
 * Server", OSDI 2002, section 5.3). The first reclaimer's own.
 *
 * Theory of operation. Every WATCH/SAMPLES a page is drawn at random from all that the guest has, wherever its bytes are, and watched for WATCH.
 * One that is in place is lifted, so that the guest's next touch of it is a fault, which brings it back from the bench; of one that is away the next
 * touch is a fault anyhow. So what is in place when it is looked at, at least once a second, has been touched: it counts as active at once. What has not been
 * by the end of its time counts as idle, and goes back if it still lies where it was lifted to. The shares of active ones among those of late are kept,
 * once with a short memory and once with a long one. The larger counts: a guest that wakes up is soon seen to, one that falls asleep is believed
 * after a while. Both are told with how many samples they stand for, and what is made of them is overbookd's matter.
 *
 * Where this differs from the paper. ESX lifts its samples once in 30 seconds, 100 at a time; here they are spread over time, so that a machine is
 * never without some, and none comes in a burst. ESX samples what is in place; here also what was evicted is drawn, so that a machine whose limit is too low
 * for what it uses shows that.
 *
 * A large page is lifted whole, where there are to be such, and counts as a sample of the size of a page: it was drawn in proportion to its size.
 *
 * Pages that are mapped from the shared store are not drawn: they cost the machine nothing, and a touch does not show.
 *
 * Samples are taken where there is a limit: without one nobody divides anything by what they say.
 *
 * What it costs: two lifts a second and as many faults at most, and 1/16 of the RAM and a chunk on the bench at any time, from where the reclaimers take it
 * if they need it. What may be seen as touched and was not: neighbours that a fault brings along.
 *
 * A chunk that the scanner watches is not drawn from, and a sample in one that it takes up is dropped: what the scanner puts back nobody
 * has touched. One that was lifted as a large page it leaves alone meanwhile, or it would take it for cold and leave it on the bench.
 *
 * Regions may go at any time: a sample names its chunk by number, and one that is not there any more is dropped. If there is another
 * one by then, it is right or wrong by chance, once.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "engine/internal.h"

#define WATCH_NS     (16 * OB_NS_PER_SEC)
#define TRIES        8u  /* of drawing a page that the guest has */
#define FRACTION     16u /* of RAM that may be lifted at a time */
#define SHORT_MEMORY 32.0 /* samples that an average stands for */
#define LONG_MEMORY  128.0

static uint64_t watch_ns(const struct ob_engine *engine)
{
	return engine->config.active_watch_ms ? engine->config.active_watch_ms * OB_NS_PER_MS : WATCH_NS;
}

static uint64_t draw_number(struct ob_active *active, uint64_t below)
{
	uint64_t x = active->seed;

	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	active->seed = x;
	return x % below;
}

/* A page's place; regions_lock is held. Returns 0, or -ENOENT: there are fewer pages by now. */
static int find_page(struct ob_engine *engine, uint64_t number, struct ob_place *ret_place)
{
	for (uint32_t r = 0; r < OB_REGIONS_MAX; r++) {
		uint64_t pages = engine->region[r].base ? engine->region[r].length / OB_PAGE_SIZE : 0;

		if (number < pages) {
			ob_place_chunk(engine, r, (uint32_t)(number / OB_CHUNK_PAGES), ret_place);
			ret_place->page = number;
			return 0;
		}
		number -= pages;
	}
	return -ENOENT;
}

/* --- the averages --- */

static void remember(double *average, double *weight, double memory, int is_active)
{
	double keep = 1 - 1 / memory;

	*average = *average * keep + is_active;
	*weight = *weight * keep + 1;
}

static void judged(struct ob_engine *engine, int is_active)
{
	struct ob_active *active = &engine->active;
	double share;

	remember(&active->average[0], &active->weight[0], SHORT_MEMORY, is_active);
	remember(&active->average[1], &active->weight[1], LONG_MEMORY, is_active);
	share = OB_MAX(active->average[0] / active->weight[0], active->average[1] / active->weight[1]);
	ob_store(&active->permille, (uint32_t)(share * 1000 + 0.5));
	ob_store(&active->samples, (uint32_t)active->weight[1]);
	ob_count(engine, active_sampled_pages, 1);
	ob_count(engine, active_touched_pages, is_active);
}

/* --- samples --- */

/* Lifts the page; or all of a large page. Returns how many went. */
static unsigned lift(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t number = place->page - place->chunk_first, wanted[OB_CHUNK_PAGES / 64] = { 0 };
	unsigned n;

	if (chunk->count[OB_PAGE_RESIDENT] == OB_CHUNK_PAGES && ob_large_moves_whole(engine, place)) {
		ob_lift_clear_bench(engine, place);
		n = ob_lift_chunk(engine, place);
		chunk->whole = chunk->sampled = chunk->count[OB_PAGE_BENCHED] == OB_CHUNK_PAGES;
	} else {
		wanted[number / 64] = 1ull << (number % 64);
		n = ob_lift_only(engine, place, wanted);
	}
	/* The reclaimers find it like anything else on the bench. */
	if (n)
		ob_clock_push(engine, place);
	return n;
}

/* Begins to watch the page, its chunk locked. Returns whether it is one that the guest has, and that can be watched. */
static int take_sample(struct ob_engine *engine, struct ob_place *place, uint64_t now)
{
	struct ob_active *active = &engine->active;
	struct ob_active_sample *sample = &active->sample[active->n];
	struct ob_chunk *chunk = place->chunk;
	enum ob_page_state state;

	if (chunk->watched || chunk->evicting || chunk->sampled || ob_lift_io_inflight(chunk) || (chunk->open && ob_chunk_track(engine, place) < 0))
		return 0;
	state = ob_page_state(*ob_place_word(place, place->page));
	if (state == OB_PAGE_ABSENT || state == OB_PAGE_BALLOONED || state == OB_PAGE_PINNED || state == OB_PAGE_MAPPED)
		return 0;
	*sample = (struct ob_active_sample){
		.id = ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES)),
		.page = (uint16_t)(place->page - place->chunk_first), .until_ns = now + watch_ns(engine),
	};
	if (state == OB_PAGE_RESIDENT) {
		sample->lifted = (uint16_t)lift(engine, place);
		if (ob_page_state(*ob_place_word(place, place->page)) != OB_PAGE_BENCHED) {
			/* It would not move; others of its large page did. */
			if (sample->lifted)
				ob_lift_return_all(engine, place);
			return 0;
		}
	}
	active->lifted_pages += sample->lifted;
	active->n++;
	return 1;
}

static void draw(struct ob_engine *engine, uint64_t now)
{
	uint64_t pages = ob_load(&engine->ram_pages);
	int is_taken = 0;

	for (unsigned i = 0; i < TRIES && !is_taken && pages; i++) {
		struct ob_place place;

		if (find_page(engine, draw_number(&engine->active, pages), &place) < 0)
			continue;
		ob_chunk_lock_background(place.chunk);
		is_taken = take_sample(engine, &place, now);
		ob_chunk_unlock(place.chunk);
	}
}

/* The time of a sample is over: what was lifted for it and lies there still goes back. */
static void put_back(struct ob_engine *engine, const struct ob_active_sample *sample, struct ob_place *place)
{
	uint64_t word = *ob_place_word(place, place->page);

	if (!sample->lifted || place->chunk->evicting || place->chunk->watched || ob_page_state(word) != OB_PAGE_BENCHED ||
	    word & (OB_PAGE_WRITING | OB_PAGE_PLACED))
		return;
	if (ob_chunk_is_whole(place->chunk))
		(void)!ob_lift_return_whole(engine, place);
	else if (sample->lifted > 1)
		ob_lift_return_all(engine, place);
	else
		(void)!ob_lift_return(engine, place, place->page, 1);
}

/* What was lifted for the sample is the scanner's again. */
static void let_go(const struct ob_active_sample *sample, struct ob_chunk *chunk)
{
	if (sample->lifted > 1)
		chunk->sampled = 0;
}

/* Where the sample lies; regions_lock is held. 0, or -ENOENT when its region has gone. */
static int find_sample(struct ob_engine *engine, const struct ob_active_sample *sample, struct ob_place *ret_place)
{
	if (ob_clock_place(engine, sample->id, ret_place) < 0 || sample->page >= ret_place->chunk->pages)
		return -ENOENT;
	ret_place->page = ret_place->chunk_first + sample->page;
	return 0;
}

/* Looks at a sample. Returns whether it is done with. */
static int look_at(struct ob_engine *engine, const struct ob_active_sample *sample, uint64_t now)
{
	struct ob_place place;
	enum ob_page_state state;
	int is_over = now >= sample->until_ns;

	if (find_sample(engine, sample, &place) < 0)
		return 1;
	ob_chunk_lock_background(place.chunk);
	state = ob_page_state(*ob_place_word(&place, place.page));
	if (place.chunk->watched || state == OB_PAGE_ABSENT || state == OB_PAGE_BALLOONED || state == OB_PAGE_MAPPED) {
		/* An open chunk was empty, and then touched; of one that is not, the guest has given the page back. */
		is_over = 1;
		if (place.chunk->open)
			judged(engine, 1);
	} else if (state == OB_PAGE_RESIDENT || state == OB_PAGE_PINNED) {
		is_over = 1;
		judged(engine, 1);
	} else if (is_over) {
		put_back(engine, sample, &place);
		judged(engine, 0);
	}
	if (is_over)
		let_go(sample, place.chunk);
	ob_chunk_unlock(place.chunk);
	return is_over;
}

static void look_at_all(struct ob_engine *engine, uint64_t now)
{
	struct ob_active *active = &engine->active;
	unsigned left = 0;

	for (unsigned i = 0; i < active->n; i++) {
		if (look_at(engine, &active->sample[i], now))
			active->lifted_pages -= active->sample[i].lifted;
		else
			active->sample[left++] = active->sample[i];
	}
	active->n = left;
}

/* Nobody wants to know any more; and who does later is told nothing of today. */
static void forget(struct ob_engine *engine)
{
	struct ob_active *active = &engine->active;

	for (unsigned i = 0; i < active->n; i++) {
		struct ob_place place;

		if (find_sample(engine, &active->sample[i], &place) < 0)
			continue;
		ob_chunk_lock_background(place.chunk);
		put_back(engine, &active->sample[i], &place);
		let_go(&active->sample[i], place.chunk);
		ob_chunk_unlock(place.chunk);
	}
	active->n = 0;
	active->lifted_pages = 0;
	memset(active->average, 0, sizeof(active->average));
	memset(active->weight, 0, sizeof(active->weight));
	ob_store(&active->permille, 0);
	ob_store(&active->samples, 0);
}

void ob_active_step(struct ob_engine *engine, uint64_t now)
{
	struct ob_active *active = &engine->active;
	uint64_t pause = watch_ns(engine) / OB_ACTIVE_SAMPLES;

	if (now < active->next_ns)
		return;
	if (!active->seed) {
		active->seed = now | 1;
		active->next_ns = now + pause;
	}
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (ob_load(&engine->limit_bytes) && ob_load(&engine->counted) && !ob_load(&engine->releasing)) {
		look_at_all(engine, now);
		/* After a while without a step no more than would have been watched. */
		active->next_ns = OB_MAX(active->next_ns, now - OB_MIN(now, watch_ns(engine)));
		for (; active->next_ns <= now; active->next_ns += pause)
			if (active->n < OB_ACTIVE_SAMPLES && active->lifted_pages <= ob_load(&engine->ram_pages) / FRACTION)
				draw(engine, now);
	} else {
		active->next_ns = now + pause;
		forget(engine);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
}
