/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large pages that are kept, broken, and made whole, as overbookd orders (largepages/host.h) and largepages/chunk.h judges. This
 * file finds out what the judge wants to know, and does what it says. docs/large-pages.md has the whole.
 *
 * Theory of operation. It goes with the scanner's hand (scan.c), chunk by chunk. Whether a chunk is a large page the kernel tells (PAGEMAP_SCAN), which takes a microsecond.
 *
 *     the hand comes by     a large page is lifted, and lies on the bench WHOLE: a fault brings all of it back with one move, a
 *                           large page still, and says that it is hot. So to see whether it is cold takes one fault of the guest, and no
 *                           bit of the processor's. Where nothing could break it, whatever it holds, it is not even lifted
 *     it did not come back  it is cold. All its pages are hashed and offered, and lie where they are. Pages of zeros, and those that
 *                           overbookd asks for (somebody has an equal), count as shareable, and are refused at first. As soon as
 *                           there are enough it is broken: it is WHOLE no more, and what is found after that is dropped, adopted,
 *                           and comes back, page by page like any other. What was refused before is looked at once more
 *     it came back          it is hot. If hot ones are to be broken too, 64 random pages of it are offered where they are, as soon as it is
 *                           settled, or the hand comes by; what was asked for of them a second later tells how much is
 *                           shareable (estimate.h). To break it is to lift it and have it lie there as small pages: what is touched
 *                           comes back, what is not is shared
 *     settled               a chunk that was broken and gave nothing was broken in vain, which is remembered
 *
 * Making whole (collapse.c), where memory is plenty. A broken chunk that is all there is to be made whole when nearly all of it came back
 * while it was watched; or so much, of late, that the hand leaves it alone as hot. What little of it lies on the bench still goes
 * back then, limit or not. Such chunks wait in a list for the rate to allow it, the hottest first: of which most pages came back. The
 * list goes when memory is plenty no more; what is true of a chunk is looked at once more when its turn has come. When collapses
 * begin to be allowed, the next round passes over no chunk that could be made whole.
 *
 * Where pages are not shared the scanner goes round for this alone: it lifts broken chunks that are all there, watches them, hashes
 * nothing and drops nothing. They are those that eviction has broken, or sharing when it was on.
 *
 * The index knows what was offered, so both copies of a page must have been: pages of cold chunks all are, which costs the hashes
 * that it takes to share them anyway; of hot ones only a sample is, which finds what is equal to cold pages and to shared ones, and
 * what is equal to another hot one after some samples of both, since the index remembers the earlier ones. The paper's host (ESXi) has hashes of all small pages of large ones; we would have to read
 * what is being written all the time.
 *
 * With a limit a cold chunk that is kept stays on the bench, for the reclaimer to find, who breaks it by taking pages of it; until then
 * it comes back whole. New large pages come about by first touches of empty chunks (fault_service.c), and khugepaged's work; neither
 * does any more where orders say so (MADV_NOHUGEPAGE on guest RAM, taken back later: QEMU asks for large pages itself,
 * when it has mapped its memory, and is not heard while there are to be none).
 *
 * Rates: what may be sampled, broken and collapsed a second, in buckets. The scanner's share of a processor bounds the rest,
 * collapses included: their work is done on its thread.
 *
 * Until orders have come there are none of these rules: the scanner treats a large page as 512 pages. Nor are there where there are to be no
 * large pages, and what is lifted is broken besides (lift.c), at no rate but that of whoever lifts.
 *
 * Locking: orders under regions_lock, written with it held for writing; what is kept of a chunk under its lock; buckets under a lock of
 * their own, a leaf.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/scan.h"
#include "kern/memory.h"
#include "kern/pagemap.h"
#include "largepages/chunk.h"

#define FOUND_IN_VAIN 8u  /* pages: who broke a chunk for no more than that did it in vain */
#define REST_VISITS   16u /* before a chunk that the kernel would not collapse is tried again */
#define REST_PAGES    64u /* of a chunk that is in use, that may have to be put back to make it whole */
#define DUE_SECONDS   8u  /* where nothing is shared no more is looked at than can be made whole in this */

_Static_assert(OB_LARGE_PAGES == OB_CHUNK_PAGES, "a chunk is a large page");

/* --- orders --- */

void ob_large_advise(const struct ob_region *region, int may_make)
{
	/* Where the kernel has no large pages there is nothing to forbid. */
	(void)!ob_memory_large_pages((void *)(uintptr_t)region->base, region->length, may_make);
	/* What lies aside comes back, and should fit its neighbours. */
	if (region->aside)
		(void)!ob_memory_large_pages(region->aside, region->length, may_make);
}

void ob_engine_large(struct ob_engine *engine, const struct ob_large_orders *orders)
{
	struct ob_large *large = &engine->large;

	pthread_rwlock_wrlock(&engine->regions_lock);
	/* Those that were hot, or had too little to give, are to be looked at again, and those that may be made whole now. */
	if (!large->is_ordered || large->orders.policy != orders->policy || large->orders.state != orders->state)
		ob_store(&large->look_at_all, 1);
	large->orders = *orders;
	large->is_ordered = 1;
	ob_store(&large->is_short, orders->state != OB_LARGE_HIGH);
	ob_store(&large->collapse_rate, orders->policy == OB_LARGE_OFF ? 0 : orders->collapse_rate);
	if (large->is_forbidden != !orders->may_make) {
		large->is_forbidden = !orders->may_make;
		for (unsigned i = 0; i < OB_REGIONS_MAX; i++)
			if (engine->region[i].base)
				ob_large_advise(&engine->region[i], orders->may_make);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	/* Without the thread nothing is made whole; the next orders try again. */
	if (ob_large_makes_whole(engine) && ob_scan_start(engine) == 0)
		ob_scan_kick(engine);
}

int ob_engine_allow_large(struct ob_engine *engine, void *addr, size_t length)
{
	int r = 0;

	pthread_rwlock_rdlock(&engine->regions_lock);
	if (!engine->large.is_forbidden)
		r = ob_memory_large_pages(addr, length, 1);
	pthread_rwlock_unlock(&engine->regions_lock);
	return r;
}

int ob_large_is_short(const struct ob_engine *engine)
{
	return ob_load(&engine->large.is_short);
}

int ob_large_look_at_all(struct ob_engine *engine)
{
	return __atomic_exchange_n(&engine->large.look_at_all, 0, __ATOMIC_RELAXED);
}

int ob_large_is_off(const struct ob_engine *engine)
{
	return engine->large.is_ordered && engine->large.orders.policy == OB_LARGE_OFF;
}

static int has_rules(const struct ob_engine *engine)
{
	return engine->large.is_ordered && !ob_large_is_off(engine);
}

enum rate { RATE_LOOKS, RATE_BREAKS, RATE_COLLAPSES };
_Static_assert(RATE_COLLAPSES + 1 == OB_LARGE_RATES, "a bucket each");

/* Takes n, 0 or 1, from what a rate allows. Returns whether there was one. */
static int take_of(struct ob_engine *engine, enum rate which, unsigned n)
{
	struct ob_large *large = &engine->large;
	const uint32_t rates[] = { large->orders.scan_rate, large->orders.break_rate, large->orders.collapse_rate };
	uint64_t now = ob_now_ns();
	int r;

	pthread_mutex_lock(&large->lock);
	r = ob_large_bucket_fill(&large->bucket[which], rates[which], now - large->filled_ns[which]) > 0;
	large->filled_ns[which] = now;
	if (n)
		r = ob_large_bucket_take(&large->bucket[which]);
	pthread_mutex_unlock(&large->lock);
	return r;
}

static int take(struct ob_engine *engine, enum rate which)
{
	return take_of(engine, which, 1);
}

/* --- what is known of a chunk --- */

/* Asks the kernel whether a chunk that is all in place is a large page; notes the answer. */
static int look(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t ram = ob_place_ram(place, place->chunk_first);
	int is_large = chunk->count[OB_PAGE_RESIDENT] == OB_CHUNK_PAGES && ram % OB_CHUNK_SIZE == 0 &&
		       ob_pagemap_is_large(engine->pagemap, ram) == 1;

	ob_large_note(engine, chunk, is_large);
	return is_large;
}

void ob_large_note(struct ob_engine *engine, struct ob_chunk *chunk, int is_large)
{
	if (chunk->is_large == is_large)
		return;
	__atomic_fetch_add(&engine->large.chunks, is_large - chunk->is_large, __ATOMIC_RELAXED);
	chunk->is_large = (uint8_t)is_large;
}

int ob_large_moves_whole(const struct ob_engine *engine, const struct ob_place *place)
{
	return !ob_large_is_off(engine) && ob_pagemap_is_large(engine->pagemap, ob_place_ram(place, place->chunk_first)) == 1;
}

static unsigned found_count(const struct ob_chunk *chunk)
{
	unsigned n = 0;

	for (unsigned i = 0; i < OB_CHUNK_PAGES / 64; i++)
		n += (unsigned)__builtin_popcountll(chunk->large_found[i]);
	return n;
}

static void forget_found(struct ob_chunk *chunk)
{
	for (unsigned i = 0; i < OB_CHUNK_PAGES / 64; i++)
		chunk->large_found[i] = 0;
	chunk->large_sampled = chunk->large_refused = 0;
}

void ob_large_forget(struct ob_engine *engine, struct ob_chunk *chunk)
{
	ob_large_note(engine, chunk, 0);
	chunk->large_hot = chunk->large_asked = 0;
	forget_found(chunk);
}

/* What the judge is to know of a large one: so many pages of it were looked at, and of those were shareable what was found. */
static struct ob_large_verdict judge(const struct ob_engine *engine, const struct ob_chunk *chunk, unsigned sampled, unsigned shareable,
				     int is_hot)
{
	const struct ob_large_chunk known = {
		.sample = { OB_CHUNK_PAGES, (uint16_t)sampled, (uint16_t)shareable },
		.is_large = 1, .is_hot = (uint8_t)is_hot, .vain = chunk->large_vain,
	};

	return ob_large_chunk_judge(&engine->large.orders, &known, 1, 1);
}

/* Whether it would be broken if all of it were shareable: else looking is of no use. */
static int could_break(const struct ob_engine *engine, const struct ob_chunk *chunk, int is_hot)
{
	return judge(engine, chunk, OB_CHUNK_PAGES, OB_CHUNK_PAGES, is_hot).action == OB_LARGE_BREAK;
}

static void count_looked_at(struct ob_engine *engine, unsigned sampled, unsigned shareable)
{
	ob_count(engine, large_sampled_pages, sampled);
	ob_count(engine, large_shareable_pages, shareable);
}

/* --- hot ones: a sample, in place --- */

static uint64_t seed_of(const struct ob_place *place)
{
	return (place->chunk_first << 8 | place->chunk->large_seed) * 0x9e3779b97f4a7c15ull + place->region_index;
}

/* All at once: a visit is dearer than what the estimate would save by stopping early. */
static void sample(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint16_t numbers[OB_LARGE_SAMPLE_MAX];
	unsigned n = ob_large_sample_pages(seed_of(place), OB_CHUNK_PAGES, 0, OB_LARGE_SAMPLE_MAX, numbers);

	for (unsigned i = 0; i < n; i++) {
		/* It is there: the kernel has just said so, and the chunk is locked. The guest may be writing it: the hash is a hint. */
		const void *bytes = (const void *)(uintptr_t)ob_place_ram(place, place->chunk_first + numbers[i]);

		if (ob_content_is_zero(bytes))
			chunk->large_found[numbers[i] / 64] |= 1ull << (numbers[i] % 64);
		else
			ob_share_offer(engine, place, place->chunk_first + numbers[i], bytes, OB_SHARE_COLD);
	}
	chunk->large_sampled = (uint8_t)n;
	ob_share_offered(engine);
}

static int is_sampled(const struct ob_place *place, unsigned number)
{
	uint16_t numbers[OB_LARGE_SAMPLE_MAX];
	unsigned n = ob_large_sample_pages(seed_of(place), OB_CHUNK_PAGES, 0, place->chunk->large_sampled, numbers);

	for (unsigned i = 0; i < n; i++)
		if (numbers[i] == number)
			return 1;
	return 0;
}

/* What is kept all the same is wanted again and again: once a round is enough. */
int ob_large_wanted(const struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned number = (unsigned)(place->page - place->chunk_first);
	int was_asked = chunk->large_asked;

	if (chunk->large_sampled && is_sampled(place, number))
		chunk->large_found[number / 64] |= 1ull << (number % 64);
	chunk->large_asked = chunk->is_large;
	return !chunk->is_large || (!was_asked && !chunk->large_sampled && !chunk->large_hot);
}

/* A large page that came back when it was lifted last. */
static enum ob_large_visit visit_hot(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;

	/* Whether it is hot has to be found out anew, some time. */
	chunk->large_hot = 0;
	if (!could_break(engine, chunk, 1))
		return OB_VISIT_LEAVE;
	if (!take(engine, RATE_LOOKS)) {
		chunk->large_hot = 1;
		return OB_VISIT_LEAVE;
	}
	forget_found(chunk);
	chunk->large_seed++;
	sample(engine, place);
	return OB_VISIT_SAMPLE;
}

int ob_large_sample_hot(struct ob_engine *engine, struct ob_place *place)
{
	return place->chunk->large_hot && has_rules(engine) && could_break(engine, place->chunk, 1) && look(engine, place) &&
	       visit_hot(engine, place) == OB_VISIT_SAMPLE;
}

int ob_large_sampled(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned sampled = chunk->large_sampled, found = found_count(chunk);
	int is_broken;

	forget_found(chunk);
	if (!sampled || !has_rules(engine) || !look(engine, place))
		return 0;
	count_looked_at(engine, sampled, found);
	chunk->large_likely = (uint16_t)(found * OB_CHUNK_PAGES / sampled);
	is_broken = judge(engine, chunk, sampled, found, 1).action == OB_LARGE_BREAK && take(engine, RATE_BREAKS);
	ob_count(engine, large_broken_chunks, is_broken);
	ob_count(engine, large_kept_chunks, !is_broken);
	chunk->large_broken = (uint8_t)is_broken;
	return is_broken;
}

/* --- cold ones, on the bench --- */

enum ob_large_visit ob_large_visit(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;

	if (!has_rules(engine)) {
		chunk->whole = 0;
		return OB_VISIT_PAGES;
	}
	/* Left on the bench under a limit. */
	if (ob_chunk_is_whole(chunk)) {
		forget_found(chunk);
		return OB_VISIT_WHOLE;
	}
	chunk->whole = 0;
	if (!look(engine, place))
		return OB_VISIT_PAGES;
	if (chunk->large_hot)
		return visit_hot(engine, place);
	if (!could_break(engine, chunk, 0) && !could_break(engine, chunk, 1))
		return OB_VISIT_LEAVE;
	forget_found(chunk);
	ob_lift_clear_bench(engine, place);
	return OB_VISIT_WHOLE;
}

void ob_large_came_back(struct ob_chunk *chunk)
{
	chunk->whole = 0;
	chunk->large_hot = chunk->watched;
}

int ob_large_may_take(struct ob_engine *engine, const struct ob_place *place, uint64_t page)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned number = (unsigned)(page - place->chunk_first), found;

	if (!ob_chunk_is_whole(chunk))
		return 1;
	chunk->large_found[number / 64] |= 1ull << (number % 64);
	found = found_count(chunk);
	if (judge(engine, chunk, OB_CHUNK_PAGES, found, 0).action != OB_LARGE_BREAK || !take(engine, RATE_BREAKS)) {
		chunk->large_refused = 1;
		return 0;
	}
	chunk->whole = 0;
	chunk->large_broken = 1;
	ob_count(engine, large_broken_chunks, 1);
	return 1;
}

/* --- settling --- */

int ob_large_look_once_more(struct ob_chunk *chunk)
{
	int once_more = chunk->large_broken && chunk->large_refused;

	chunk->large_refused = 0;
	return once_more;
}

void ob_large_settle(struct ob_engine *engine, struct ob_place *place, unsigned gained)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned found = found_count(chunk);

	if (ob_chunk_is_whole(chunk)) {
		count_looked_at(engine, OB_CHUNK_PAGES, found);
		ob_count(engine, large_kept_chunks, 1);
		chunk->large_likely = (uint16_t)found;
		return;
	}
	if (!chunk->large_broken)
		return;
	/* What was found after it had been broken has been counted by what it gave. That of a sample has been counted before. */
	if (found)
		count_looked_at(engine, OB_CHUNK_PAGES, OB_MAX(found, gained));
	ob_count(engine, large_given_pages, gained);
	if (gained > FOUND_IN_VAIN)
		chunk->large_vain = 0;
	else if (chunk->large_vain < OB_LARGE_VAIN_MAX)
		chunk->large_vain++;
	chunk->large_likely = (uint16_t)gained;
	chunk->large_broken = 0;
	forget_found(chunk);
}

/* --- making whole --- */

int ob_large_makes_whole(const struct ob_engine *engine)
{
	return ob_load(&engine->large.collapse_rate) != 0;
}

int ob_large_has_leave(const struct ob_engine *engine, unsigned under_way)
{
	return under_way + engine->scan.due_count < DUE_SECONDS * ob_load(&engine->large.collapse_rate);
}

int ob_large_could_be_whole(const struct ob_engine *engine, const struct ob_chunk *chunk)
{
	const struct ob_large_chunk known = {
		/* What others have equals of counts where it can be shared. */
		.sample = { chunk->pages, chunk->pages, ob_share_is_on(engine) ? chunk->large_likely : 0 },
		.shared = (uint16_t)(chunk->count[OB_PAGE_SHARED] + chunk->count[OB_PAGE_MAPPED] + chunk->count[OB_PAGE_ZERO]),
		.away = (uint16_t)(chunk->count[OB_PAGE_COMPRESSED] + chunk->count[OB_PAGE_SWAPPED]),
		.holes = (uint16_t)(chunk->count[OB_PAGE_ABSENT] + chunk->count[OB_PAGE_BALLOONED]),
		.held = chunk->count[OB_PAGE_PINNED], .armed = chunk->armed, .is_hot = 1, .vain = chunk->large_vain,
		.is_busy = (uint8_t)(chunk->evicting || ob_lift_io_inflight(chunk)),
	};

	return has_rules(engine) && ob_large_makes_whole(engine) &&
	       ob_large_chunk_judge(&engine->large.orders, &known, 1, 1).action == OB_LARGE_COLLAPSE;
}

enum ob_large_visit ob_large_visit_unshared(struct ob_engine *engine, struct ob_place *place)
{
	return ob_large_could_be_whole(engine, place->chunk) && !look(engine, place) ? OB_VISIT_PAGES : OB_VISIT_LEAVE;
}

static uint32_t id_of(const struct ob_place *place)
{
	return ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES));
}

int ob_large_is_due(const struct ob_engine *engine, const struct ob_place *place)
{
	for (unsigned i = 0; i < engine->scan.due_count; i++)
		if (engine->scan.due[i].id == id_of(place))
			return 1;
	return 0;
}

/* Remembers it; when there are too many, the coldest is forgotten. */
static void put_due(struct ob_scan *scan, const struct ob_scan_due *due)
{
	struct ob_scan_due *coldest = scan->due;

	if (scan->due_count < OB_SCAN_DUE_MAX) {
		scan->due[scan->due_count++] = *due;
		return;
	}
	for (unsigned i = 1; i < scan->due_count; i++)
		if (scan->due[i].pages < coldest->pages)
			coldest = &scan->due[i];
	if (due->pages > coldest->pages)
		*coldest = *due;
}

static struct ob_scan_due take_hottest(struct ob_scan *scan)
{
	struct ob_scan_due hottest;
	unsigned best = 0;

	for (unsigned i = 1; i < scan->due_count; i++)
		if (scan->due[i].pages > scan->due[best].pages)
			best = i;
	hottest = scan->due[best];
	scan->due[best] = scan->due[--scan->due_count];
	return hottest;
}

void ob_large_consider_collapse(struct ob_engine *engine, struct ob_place *place, unsigned pages)
{
	struct ob_chunk *chunk = place->chunk;
	const struct ob_scan_due due = { .id = id_of(place), .pages = OB_MIN(pages, chunk->pages) };

	if (chunk->watched || !ob_large_could_be_whole(engine, chunk) || chunk->count[OB_PAGE_BENCHED] > REST_PAGES ||
	    ob_large_is_due(engine, place))
		return;
	ob_lift_return_all(engine, place);
	if (chunk->count[OB_PAGE_RESIDENT] != chunk->pages || look(engine, place))
		return;
	if (chunk->large_rest)
		chunk->large_rest--;
	else
		put_due(&engine->scan, &due);
}

/* Its turn has come; what was true of it may not be any more. */
static void make_whole(struct ob_engine *engine, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	int r;

	if (!ob_large_could_be_whole(engine, chunk) || look(engine, place) || !take(engine, RATE_COLLAPSES))
		return;
	r = ob_chunk_collapse(engine, place);
	if (r == 1) {
		ob_count(engine, large_collapsed_chunks, 1);
		ob_large_note(engine, chunk, 1);
	} else if (r == -EAGAIN) {
		/* Somebody holds a page, which passes. */
		ob_store(&chunk->scan_backoff, 0);
	} else {
		chunk->large_rest = REST_VISITS;
	}
}

int ob_large_collapse_next(struct ob_engine *engine)
{
	struct ob_scan *scan = &engine->scan;
	struct ob_place place;
	int did = 0;

	if (!scan->due_count)
		return 0;
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (!ob_large_makes_whole(engine)) {
		scan->due_count = 0;
	} else if (!ob_load(&engine->releasing) && take_of(engine, RATE_COLLAPSES, 0)) {
		const struct ob_scan_due due = take_hottest(scan);

		did = ob_clock_place(engine, due.id, &place) == 0;
		if (did) {
			ob_chunk_lock_background(place.chunk);
			make_whole(engine, &place);
			ob_chunk_unlock(place.chunk);
		}
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return did;
}
