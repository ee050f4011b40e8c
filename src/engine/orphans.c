/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of orphan extents (share.c), whose overbookd has gone, are offered to the one that is here now: theirs is a copy too that it can use.
 *
 * Theory of operation. An old extent goes only when its last page has moved, and an offer may be lost (a full ring, a full socket, no room in
 * the store). So while there are any a hand of the scanner goes round for them alone, again and again, and passes over no chunk that has
 * shared pages, whatever the scanner's own hand thinks of it. It lifts nothing, since the bytes lie in the extent, and so waits for nothing but its
 * processor time, for the offers to be taken, and, where it sheds, for room. A page that is mapped (mapped.c) is taken out first. The hand rests as long as it took to go round.
 *
 * A page leaves its old slot when overbookd asks it to adopt one of its own (share.c). Or it is shed: what of an extent that overbookd
 * wants to go (DRAIN) was offered in ROUNDS rounds and not adopted has no place in the store, and where there is a limit and storage
 * it becomes a page of the machine's own on the bench, cold, to be evicted like any other. So an extent goes in the end, and overbookd gets rid of what nobody uses by draining an extent and not asking for it. In a second as
 * much is shed as a SHED_PARTth of the limit, lest all that is in use had to make room for it.
 *
 * Locking: as the scanner's (scan.c), in whose thread it runs: regions_lock (read) for a chunk, and the chunk's lock, in the background, for
 * STEP_PAGES pages at a time.
 */
#include <errno.h>

#include "base/clock.h"
#include "engine/scan.h"
#include "kern/uffd.h"

#define STEP_PAGES 16u
#define ROUNDS     3u /* what has been offered in so many, each as long at least as pages are watched for, and was not adopted nobody wants */
#define SHED_PART  64u
#define SHORT_NS   (100 * OB_NS_PER_MS) /* in which reclaim makes room */
#define SHED_NS    (10 * OB_NS_PER_SEC) /* no more is made up for of the time in which nothing was shed */
#define SKIPS_MAX  4096u /* chunks passed over before a pause */

static int may_evict(const struct ob_engine *engine)
{
	return ob_load(&engine->limit_bytes) && ob_evict_swap_usable(engine) && !ob_load(&engine->stuck);
}

/* Whether overbookd wants the slot's extent to go, and has not wanted the page in so many rounds of offers that it will not. */
static int is_forlorn(const struct ob_engine *engine, uint32_t slot)
{
	const struct ob_extent *extent = &ob_share_of(engine)->extent[slot / OB_EXTENT_PAGES];

	return ob_load(&extent->is_orphan) == OB_ORPHAN_DRAINED && ob_load(&extent->rounds) >= ROUNDS &&
	       ob_now_ns() - ob_load(&extent->orphan_ns) >= ROUNDS * ob_scan_cold_ns(engine);
}

/* Chunk locked, the page shared, and there is a limit. Makes it a page of the machine's own, on the bench. Returns 0, -ENOSPC while there is no room, or -errno. */
static int shed(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t *word = ob_place_word(place, place->page), done = 0;
	uint32_t slot = ob_page_slot(*word);
	int r;

	if (!ob_cost_try(engine, 1))
		return -ENOSPC;
	r = ob_uffd_copy(engine->uffd, (uint64_t)(uintptr_t)ob_place_bench(place, place->page), ob_share_bytes(engine, slot), OB_PAGE_SIZE, &done);
	if (!done) {
		ob_cost_add(engine, -1);
		return r < 0 ? r : -EAGAIN;
	}
	place->chunk->whole = 0;
	ob_page_move(engine, place->chunk, word, OB_T_SHED, 0);
	ob_share_let_go(engine, slot);
	ob_clock_push(engine, place);
	ob_count(engine, share_shed_pages, 1);
	return 0;
}

/* Of a page of an orphan extent that is not mapped: sheds it, if nobody has wanted it, or offers it. Its chunk is locked. */
static void offer_or_shed(struct ob_engine *engine, struct ob_place *place, uint64_t page, unsigned kind)
{
	struct ob_scan_hand *hand = &engine->scan.orphans;
	uint32_t slot = ob_page_slot(*ob_place_word(place, page));
	int r;

	if (kind == OB_SHARE_COLD_ORPHAN && is_forlorn(engine, slot)) {
		place->page = page;
		if (!hand->shed_left || hand->is_short || place->chunk->evicting)
			return;
		r = shed(engine, place);
		hand->is_short = r == -ENOSPC;
		hand->shed_left -= r == 0;
		return;
	}
	ob_share_offer(engine, place, page, ob_share_bytes(engine, slot), kind);
}

/* Offers the pages of a chunk again whose slots are those of orphan extents; regions_lock is held. */
static void offer_orphans(struct ob_engine *engine, struct ob_place *place)
{
	unsigned cold = may_evict(engine) ? OB_SHARE_COLD_ORPHAN : OB_SHARE_ORPHAN;

	for (uint64_t first = place->chunk_first; first < ob_place_end(place); first += STEP_PAGES) {
		uint64_t end = OB_MIN(first + STEP_PAGES, ob_place_end(place));
		uint32_t mapped = 0; /* bits: pages of this step */

		ob_chunk_lock_background(place->chunk);
		/* With the first page of a run all that follow it are taken out. */
		for (uint64_t page = first; page < end; page++)
			mapped |= (uint32_t)(ob_page_state(*ob_place_word(place, page)) == OB_PAGE_MAPPED) << (page - first);
		for (uint64_t page = first; page < end; page++) {
			uint64_t word = *ob_place_word(place, page);

			if (ob_page_state(word) == OB_PAGE_MAPPED && ob_share_is_orphan(engine, ob_page_slot(word)) &&
			    ob_mapped_take_out(engine, place, page, end) == 0)
				word = *ob_place_word(place, page);
			if (ob_page_state(word) == OB_PAGE_SHARED && ob_share_is_orphan(engine, ob_page_slot(word)))
				offer_or_shed(engine, place, page, mapped >> (page - first) & 1 ? OB_SHARE_ORPHAN : cold);
		}
		ob_chunk_unlock(place->chunk);
	}
	ob_share_offered(engine);
}

/* The hand's next chunk with shared pages, by a look without its lock. Returns 0 when there is none, or after SKIPS_MAX others. */
static int next_shared(struct ob_engine *engine, struct ob_scan_hand *hand, struct ob_place *ret_place)
{
	for (unsigned i = 0; i < SKIPS_MAX && hand->region < OB_REGIONS_MAX; i++) {
		const struct ob_region *region = &engine->region[hand->region];
		uint32_t number = hand->chunk++;

		if (!region->base || number >= region->chunk_count) {
			hand->region++;
			hand->chunk = 0;
		} else if (ob_load(&region->chunks[number].count[OB_PAGE_SHARED]) || ob_load(&region->chunks[number].count[OB_PAGE_MAPPED])) {
			ob_place_chunk(engine, hand->region, number, ret_place);
			return 1;
		}
	}
	return 0;
}

/* How many may be shed in so long. */
static uint64_t shed_pages(const struct ob_engine *engine, uint64_t ns)
{
	return ob_load(&engine->limit_bytes) / OB_PAGE_SIZE / SHED_PART * OB_MIN(ns, SHED_NS) / OB_NS_PER_SEC;
}

/* The hand has been round since start_ns. */
static void round_over(struct ob_engine *engine, uint64_t start_ns)
{
	struct ob_share *share = ob_share_of(engine);

	pthread_mutex_lock(&share->lock);
	for (unsigned i = 0; i < share->extent_count; i++)
		if (share->extent[i].is_orphan && share->extent[i].orphan_ns <= start_ns && share->extent[i].rounds < ROUNDS)
			ob_store(&share->extent[i].rounds, share->extent[i].rounds + 1);
	pthread_mutex_unlock(&share->lock);
}

static void begin_round(const struct ob_engine *engine, struct ob_scan_hand *hand, uint64_t now)
{
	uint64_t left = OB_MIN(hand->shed_left + shed_pages(engine, now - hand->start_ns), shed_pages(engine, SHED_NS));

	*hand = (struct ob_scan_hand){ .start_ns = now, .shed_left = left };
}

int ob_orphans_next(struct ob_engine *engine, uint64_t now, uint64_t rest_ns)
{
	struct ob_scan_hand *hand = &engine->scan.orphans;
	struct ob_place place;
	int found = 0;

	if (now < hand->due_ns || !ob_share_has_room(engine))
		return 0;
	if (hand->region == OB_REGIONS_MAX) {
		hand->due_ns = now + rest_ns;
		if (!ob_share_has_orphans(engine))
			return 0;
		begin_round(engine, hand, now);
	}
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (ob_scan_may_look(engine)) {
		found = next_shared(engine, hand, &place);
		if (found)
			offer_orphans(engine, &place);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	if (hand->region == OB_REGIONS_MAX) {
		round_over(engine, hand->start_ns);
		hand->due_ns = now + OB_MAX(now - hand->start_ns, hand->is_short ? SHORT_NS : rest_ns);
	}
	return found;
}
