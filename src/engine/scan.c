/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The scanner: finds pages that nobody uses, also on a machine that has no limit or is far below it, so that zero pages are
 * dropped and equal pages shared; and broken chunks that are in use, to be made large pages again. One thread, "overbook-scan", which
 * sleeps while there is neither to do.
 *
 * Theory of operation. A hand goes round all chunks. A chunk is lifted whole, and watched: what is still on the bench after
 * a few seconds is cold. Then it is judged: pages of zeros are dropped at once, the others hashed and offered. After a
 * further grace, long enough for overbookd to fetch and to have pages adopted, the chunk is settled: without a limit the pages that
 * nobody wanted are moved back, with one call if they can, so that large pages stay large; with a limit they are left on the bench,
 * where the reclaimer finds them (a lifted chunk is in its queue from the beginning: scanning never keeps memory from him).
 *
 * What is large pages is lifted and moved back as such, and large.c says when its pages may be taken one by one: until then what is found
 * in it is only counted. A chunk that it breaks for that is judged once more.
 *
 * What was judged and moved back is armed: the kernel keeps a mark on each page (asynchronous write-protection) that goes with the
 * next write, with whatever else changes it, and with every lift. When the hand comes round again marked pages stay where they
 * are. So a page that does not change is read once, not in every round. Only chunks with holes are armed: a write to an armed
 * large page would split it, and the kernel makes no large page of armed ones; in a chunk with a hole there is no large
 * page and can be none. A chunk is looked at whole when a page of it was asked for in vain, in the first round, and in one of
 * WHOLE_VISITS visits: offers get lost, and between being moved back and armed a page may have been written. That costs
 * sharing, for a while; bytes are always compared. Where the kernel has no such marks everything is looked at each time.
 *
 * A machine without a limit is taken into care like one that has a limit (engaged, with nothing to keep it under): all chunks
 * are tracked, but for those that were empty and have been opened since. The hand tracks them again.
 *
 * Pages that are noted (notes.c: just read from a disk image, or wanted by overbookd) are visited ahead of the hand: they alone, unless their chunk
 * is a large page. What their chunk gave before counts no more.
 *
 * Pages of orphan extents are offered again by a hand of their own (orphans.c).
 *
 * In the first round after sharing was switched on no chunk is passed over, and compressed pages are offered as well: whoever
 * keeps the index now has not heard of them.
 *
 * What it takes from the guest is bounded:
 *     processor    its own time, as the kernel measures it, at most so many thousandths of a core as sharing was switched on with
 *     faults       about FAULTS_A_SECOND returns from the bench that it has caused: the rate at which it lifts follows that. And in the long run no more
 *                  than what is found is worth, and a few besides (scan_balance.h): while they were more the hand goes on round, and lifts nothing
 *                  for the sake of sharing. That is not for the first round, nor for chunks that other orders for large pages concern: those that
 *                  are large, or could be. Noted pages are lifted in any case, and chunks that are open: since they were empty nobody has looked at them
 *     memory       at most 1/16 of the RAM, 1/4 in the first round and while the host's memory is short, is on the bench for its sake at any
 *                  time (but one chunk always may be). Of noted pages it is another 1/4: as in the first round most of them are expected
 *                  to go for good, and they come many at a time. Half of the places in the rings are the hand's
 *     in vain      a chunk from which nearly everything came back, or in which fewer pages were found than the guest had faults for it, is passed
 *                  over for 1, 2, 4 ... 64 rounds. A round lasts as long as a chunk is watched, at least. But when the bytes of a page are asked
 *                  for that has been moved back, somebody has its equal: it is noted, and its chunk's turn is in the next round
 * A page that was shared and came back soon after is left in place for a while, longer each time (warmth.h): it is not offered, nor noted when it is asked for.
 *
 * A chunk that is hot (clock.c), being evicted, lifted as a large page for a sample (active.c), or that a system call of the host is working
 * on, is left for the next round.
 * While nobody takes the offers there are, nothing more is lifted.
 *
 * Watched and judged chunks wait in two rings, in the order in which their time comes; a chunk that has gone meanwhile is
 * forgotten. When there is nothing to do any more, or everything is released, what is watched is settled at once.
 *
 * Where sharing is off and large pages may be made whole (large.c), it lifts for that alone: no more than can be made whole in some
 * seconds, nothing is judged but whether it is cold, and open chunks, empty before and left to the kernel, stay so.
 *
 * Locking: regions_lock (read) for each piece of work, under which the switches and `releasing` are looked at, then the
 * chunk's lock, in the background, for OB_JUDGE_PAGES pages at a time. The scanner's own data are its thread's alone; scan.lock is for
 * sleeping.
 */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "engine/chances.h"
#include "engine/scan.h"
#include "engine/scan_balance.h"
#include "engine/warmth.h"
#include "kern/pagemap.h"

#define COLD_NS          (3 * OB_NS_PER_SEC)
#define GRACE_SHARE      3u    /* of what a chunk is watched for, the grace is a third */
#define TICKS            8u    /* a second */
#define TICK_NS          (OB_NS_PER_SEC / TICKS)
#define REST_NS          (TICK_NS / 4) /* at a time, at least */
#define FAULTS_A_SECOND  1000u
#define RATE_MIN         2u    /* chunks a second */
#define RATE_START       32u
#define RATE_MAX         2048u
#define BACKOFF_MAX      6u    /* rounds passed over: 2 to the power of it, less one */
#define BACKOFF_BROKEN   4u    /* the same of a chunk that would be made a large page if it were in use */
#define RETURN_PAGES     8u    /* come back from the bench with each fault, at least */
#define WHOLE_PERMILLE   20u   /* of a processor, while it works for large pages alone: what it has for sharing by default */
#define WHOLE_VISITS     8u
#define MUCH_FOUND       16u   /* pages: a chunk with so many is worth the next round */
#define SKIPS_MAX        4096u /* chunks passed over before a pause */
#define FRACTION         16u   /* of RAM that may be lifted at a time */
#define FRACTION_SHORT   4u    /* in the first round, which finds nearly all that there is, and where the host's memory is short */
#define FRACTION_NOTED   4u    /* of noted pages, besides */

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts) ? 0 : (uint64_t)ts.tv_sec * OB_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t ob_scan_cold_ns(const struct ob_engine *engine)
{
	return engine->config.scan_cold_ms ? engine->config.scan_cold_ms * OB_NS_PER_MS : COLD_NS;
}

static uint64_t grace_ns(const struct ob_engine *engine)
{
	return ob_scan_cold_ns(engine) / GRACE_SHARE;
}

static int is_sharing(const struct ob_engine *engine)
{
	return ob_share_is_on(engine) && ob_load(&engine->share->cpu_permille);
}

static int may_work(const struct ob_engine *engine)
{
	return ob_load(&engine->counted) && !ob_load(&engine->releasing);
}

/* How much of a processor may be used, in thousandths; 0: there is nothing to do. */
static unsigned leave_permille(const struct ob_engine *engine)
{
	if (is_sharing(engine))
		return ob_load(&engine->share->cpu_permille);
	return ob_large_makes_whole(engine) && may_work(engine) ? WHOLE_PERMILLE : 0;
}

int ob_scan_may_look(const struct ob_engine *engine)
{
	return is_sharing(engine) && may_work(engine);
}

/* Whether there is leave to lift chunks, be it only for large pages. regions_lock is held. */
static int may_lift(const struct ob_engine *engine)
{
	return leave_permille(engine) && may_work(engine);
}

/* --- the rings --- */

static struct ob_scanned *oldest(struct ob_scan_ring *ring)
{
	return ring->count ? &ring->entry[ring->first] : NULL;
}

static void put(struct ob_scan_ring *ring, const struct ob_scanned *entry)
{
	ring->entry[(ring->first + ring->count++) % OB_SCANNED_MAX] = *entry;
}

static struct ob_scanned take(struct ob_scan_ring *ring)
{
	struct ob_scanned entry = ring->entry[ring->first];

	ring->first = (ring->first + 1) % OB_SCANNED_MAX;
	ring->count--;
	return entry;
}

/* Counts what was lifted of a chunk that goes into a ring, or has left them. */
static void count_lifted(struct ob_scan *scan, const struct ob_scanned *entry, int sign)
{
	if (entry->noted) {
		scan->noted_pages += (uint64_t)(sign * entry->lifted);
		scan->noted_chunks += (unsigned)sign;
	} else {
		scan->lifted_pages += (uint64_t)(sign * entry->lifted);
	}
}

/* --- settling --- */

/* What is away for good: that is what was looked for. */
static unsigned pages_found(const struct ob_chunk *chunk)
{
	return chunk->count[OB_PAGE_ZERO] + chunk->count[OB_PAGE_SHARED] + chunk->count[OB_PAGE_MAPPED];
}

static unsigned pages_evicted(const struct ob_chunk *chunk)
{
	return chunk->count[OB_PAGE_COMPRESSED] + chunk->count[OB_PAGE_SWAPPED];
}

/* Pages that have gone since the chunk was lifted: shared, or zeros. */
static unsigned pages_gained(const struct ob_chunk *chunk, const struct ob_scanned *entry)
{
	unsigned found = pages_found(chunk);

	return found - OB_MIN(found, entry->found);
}

/* Whether nearly everything that was lifted has come back by itself. */
static int came_back(const struct ob_scanned *entry)
{
	return entry->cold < entry->lifted / 8u;
}

/* Whether the guest has had more faults of it than pages have gone. What a reclaimer has taken meanwhile was none. */
static int was_dear(const struct ob_chunk *chunk, const struct ob_scanned *entry, unsigned found)
{
	unsigned evicted = pages_evicted(chunk), away = entry->cold + evicted - OB_MIN(evicted, (unsigned)entry->evicted);

	return entry->all_judged && (entry->lifted - OB_MIN(away, (unsigned)entry->lifted)) / RETURN_PAGES > found;
}

/* How long the chunk is left alone after this. */
static void adapt_backoff(const struct ob_engine *engine, struct ob_chunk *chunk, const struct ob_scanned *entry)
{
	unsigned found = pages_gained(chunk, entry), backoff = chunk->scan_backoff;

	if (!found || came_back(entry) || was_dear(chunk, entry, found))
		backoff = OB_MIN(backoff + 1, !chunk->is_large && ob_large_could_be_whole(engine, chunk) ? BACKOFF_BROKEN : BACKOFF_MAX);
	else if (found >= MUCH_FOUND)
		backoff = 0;
	else if (backoff)
		backoff--;
	chunk->scan_backoff = (uint8_t)backoff;
}

/* Whether there is no hole in a chunk: it may be large pages, or become one. */
static int is_full(const struct ob_chunk *chunk)
{
	return chunk->count[OB_PAGE_RESIDENT] + chunk->count[OB_PAGE_PINNED] + chunk->count[OB_PAGE_BENCHED] == chunk->pages;
}

/* What nobody has asked for is not to be left in place by the clock's hand for what it was before. */
static void forget_chances(struct ob_engine *engine, struct ob_place *place)
{
	for (uint64_t page = place->chunk_first; page < ob_place_end(place); page++) {
		uint64_t *word = ob_place_word(place, page);

		if (ob_page_state(*word) == OB_PAGE_BENCHED)
			ob_page_set_bits(engine, word, ob_chances_none(*word) & ~15ull);
	}
}

/* Moves back what is on the bench, and arms it if that pays. */
static void put_back(struct ob_engine *engine, struct ob_place *place, const struct ob_scanned *entry)
{
	struct ob_chunk *chunk = place->chunk;

	forget_chances(engine, place);
	if (!engine->can_arm || !entry->all_judged || is_full(chunk)) {
		ob_lift_return_all(engine, place);
		return;
	}
	for (uint64_t page = place->chunk_first; page < ob_place_end(place);) {
		unsigned n = ob_lift_return_run(engine, place, page);

		/* Holes in it are not. What cannot be armed is looked at again: that is all. */
		if (n && ob_pagemap_arm(engine->pagemap, ob_place_ram(place, page), n * OB_PAGE_SIZE) == 0)
			chunk->armed = 1;
		page += n ? n : 1;
	}
}

/* --- judging --- */

static void judge(struct ob_engine *engine, struct ob_scan *scan, struct ob_scanned *entry)
{
	struct ob_place place;

	pthread_rwlock_rdlock(&engine->regions_lock);
	if (may_lift(engine) && ob_clock_place(engine, entry->id, &place) == 0) {
		entry->all_judged = 1;
		for (uint64_t first = place.chunk_first; first < ob_place_end(&place); first += OB_JUDGE_PAGES) {
			unsigned n = (unsigned)OB_MIN(OB_JUDGE_PAGES, ob_place_end(&place) - first);
			int cold;

			ob_chunk_lock_background(place.chunk);
			cold = ob_judge_pages(engine, &place, first, n, entry->with_pool);
			ob_chunk_unlock(place.chunk);
			if (cold < 0)
				entry->all_judged = 0;
			else
				entry->cold = (uint16_t)(entry->cold + cold);
		}
		ob_share_offered(engine);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	entry->due_ns = ob_now_ns() + grace_ns(engine);
	put(&scan->judged, entry);
}

/* --- lifting --- */

void ob_scan_wanted(struct ob_engine *engine, struct ob_place *place)
{
	uint64_t word = *ob_place_word(place, place->page);

	if (ob_page_state(word) != OB_PAGE_RESIDENT || ob_warmth_is_warm(word, ob_now_ns(), ob_scan_cold_ns(engine)))
		return;
	ob_store(&place->chunk->scan_backoff, 0);
	place->chunk->scan_whole = 1;
	if (ob_large_wanted(place))
		ob_notes_want(engine, place);
}

/* Lifts what is in a chunk, but for pages that have been judged and not been written since. Returns how many went. */
static unsigned lift_changed(struct ob_engine *engine, const struct ob_scan *scan, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t unwritten[OB_CHUNK_PAGES / 64];
	int whole = scan->with_pool || chunk->scan_whole || ++chunk->scan_visits % WHOLE_VISITS == 0, n = 0;

	if (chunk->armed && !whole && !is_full(chunk))
		n = ob_pagemap_unwritten(engine->pagemap, ob_place_ram(place, place->chunk_first), chunk->pages * OB_PAGE_SIZE, unwritten);
	if (n > 0) {
		ob_count(engine, scan_unwritten_pages, OB_MAX(n - chunk->count[OB_PAGE_MAPPED], 0));
		return ob_lift_chunk_but(engine, place, unwritten);
	}
	chunk->armed = chunk->scan_whole = 0;
	return ob_lift_chunk(engine, place);
}

/* Whether a chunk is left alone this time; its lock is held. */
static int is_left_alone(struct ob_engine *engine, const struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	int hot = ob_chunk_is_hot(chunk);

	/* While there is nothing to reclaim the clock does not come round. */
	if (!ob_cost_over(engine, ob_cost_high(engine)))
		chunk->heat /= 2;
	return hot || chunk->evicting || chunk->watched || chunk->sampled || ob_lift_io_inflight(chunk) || ob_large_is_due(engine, place);
}

/* Whether the chunk has something that is worth judging. */
static int has_candidates(const struct ob_scan *scan, const struct ob_chunk *chunk)
{
	return chunk->count[OB_PAGE_BENCHED] || (scan->with_pool && chunk->count[OB_PAGE_COMPRESSED]);
}

/* Lifts those pages of a chunk whose bits are set; or all, if it is a large page, which moves as one. */
static unsigned lift_noted(struct ob_engine *engine, struct ob_place *place, const uint64_t *noted)
{
	if (is_full(place->chunk) && ob_large_moves_whole(engine, place))
		return ob_lift_chunk(engine, place);
	return ob_lift_only(engine, place, noted);
}

/* Lifts a chunk, whose lock is held, and watches it. noted: for the sake of these pages; NULL: the hand has come by. */
static void lift_and_watch(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place, int whole, const uint64_t *noted)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned lifted = noted ? lift_noted(engine, place, noted) : lift_changed(engine, scan, place);

	chunk->whole = whole && chunk->count[OB_PAGE_BENCHED] == OB_CHUNK_PAGES;
	ob_count(engine, scan_pages, lifted);
	ob_count(engine, noted_scan_pages, noted ? lifted : 0);
	if (has_candidates(scan, chunk)) {
		struct ob_scanned entry = {
			.id = ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES)),
			.lifted = (uint16_t)lifted, .found = (uint16_t)pages_found(chunk), .evicted = (uint16_t)pages_evicted(chunk),
			.with_pool = (uint16_t)scan->with_pool, .noted = noted != NULL, .due_ns = ob_now_ns() + ob_scan_cold_ns(engine),
		};

		chunk->watched = 1;
		put(&scan->watched, &entry);
		count_lifted(scan, &entry, 1);
		if (ob_load(&engine->limit_bytes) && chunk->count[OB_PAGE_BENCHED])
			ob_clock_push(engine, place);
	}
}

/* It stays where it is until what has been offered of it can have been asked for. */
static void wait_for_sample(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place)
{
	const struct ob_scanned entry = {
		.id = ob_clock_id(place->region_index, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES)),
		.in_place = 1, .due_ns = ob_now_ns() + grace_ns(engine),
	};

	place->chunk->watched = 1;
	put(&scan->judged, &entry);
}

/* Looks at a chunk that is not to be left alone, its lock held. noted: as for lift_and_watch(). */
static void look_at(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place, const uint64_t *noted)
{
	enum ob_large_visit how;

	if (!ob_scan_may_look(engine))
		how = ob_large_visit_unshared(engine, place);
	else if (place->chunk->open && ob_chunk_track(engine, place) < 0)
		how = OB_VISIT_LEAVE;
	else
		how = ob_large_visit(engine, place);
	if (how == OB_VISIT_SAMPLE)
		wait_for_sample(engine, scan, place);
	else if (how != OB_VISIT_LEAVE)
		lift_and_watch(engine, scan, place, how == OB_VISIT_WHOLE, noted);
}

/* Whether the hand goes by in this round, unless all are to be looked at: it does so for a chunk's back-off. */
static int is_passed_over(const struct ob_scan *scan, uint32_t number, unsigned backoff)
{
	/* Those with one back-off take turns. */
	return !scan->with_pool && (scan->round + number) & ((1u << backoff) - 1);
}

/* Whether the guest is to be spared. What is known to be hot is not lifted, if it is a large page. */
static int is_in_debt(const struct ob_engine *engine, const struct ob_scan *scan, const struct ob_chunk *chunk)
{
	return is_sharing(engine) && !scan->with_pool && !chunk->open && !(chunk->is_large && chunk->large_hot) && scan->balance < 0;
}

/* Whether it is not this chunk's turn, or none is to have one; its lock is held. A change of orders makes exceptions for those that it concerns. */
static int has_no_turn(const struct ob_engine *engine, const struct ob_scan *scan, const struct ob_place *place)
{
	const struct ob_chunk *chunk = place->chunk;

	if (scan->all_chunks && (chunk->is_large || ob_large_could_be_whole(engine, chunk)))
		return 0;
	return is_passed_over(scan, (uint32_t)(place->chunk_first / OB_CHUNK_PAGES), chunk->scan_backoff) || is_in_debt(engine, scan, chunk);
}

static void visit(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	unsigned heat;

	ob_chunk_lock_background(chunk);
	chunk->large_asked = 0;
	ob_mapped_consider(engine, place);
	heat = ob_chunk_is_hot(chunk) ? chunk->heat : 0;
	if (!is_left_alone(engine, place) && !has_no_turn(engine, scan, place))
		look_at(engine, scan, place, NULL);
	else if (heat)
		ob_large_consider_collapse(engine, place, heat * RETURN_PAGES);
	ob_chunk_unlock(chunk);
}

/* The same for what was noted of a chunk. If that is too early it waits once more; what is hot is the hand's. */
static void visit_noted(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place)
{
	struct ob_chunk *chunk = place->chunk;
	uint64_t noted[OB_CHUNK_PAGES / 64];

	ob_chunk_lock_background(chunk);
	if (chunk->watched || chunk->evicting || chunk->sampled || ob_lift_io_inflight(chunk)) {
		__atomic_store_n(&chunk->is_noted, 0, __ATOMIC_SEQ_CST);
		ob_notes_queue(engine, place);
	} else if (ob_notes_take(chunk, noted) && !ob_chunk_is_hot(chunk) && !ob_large_is_due(engine, place)) {
		ob_store(&chunk->scan_backoff, 0);
		look_at(engine, scan, place, noted);
	}
	ob_chunk_unlock(chunk);
}

/* What is due of a chunk is over; its lock is held. */
static void settle_chunk(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place, const struct ob_scanned *entry)
{
	int returns = !ob_load(&engine->limit_bytes) && !ob_load(&engine->releasing);
	unsigned gained = pages_gained(place->chunk, entry);

	place->chunk->watched = 0;
	adapt_backoff(engine, place->chunk, entry);
	scan->found += gained;
	ob_count(engine, noted_found_pages, entry->noted ? gained : 0);
	ob_large_settle(engine, place, gained);
	/* While everything is released anyhow that does it; a limit's bench is the reclaimer's. */
	if (returns)
		put_back(engine, place, entry);
	if (entry->all_judged && !entry->noted && came_back(entry)) {
		ob_large_consider_collapse(engine, place, entry->lifted - OB_MIN(entry->cold, entry->lifted));
		/* Then it was not lifted in vain. */
		scan->found += ob_large_is_due(engine, place) ? entry->lifted : 0;
	}
	if (!returns && place->chunk->count[OB_PAGE_BENCHED])
		ob_clock_push(engine, place);
	if (entry->all_judged && ob_scan_may_look(engine) && ob_large_sample_hot(engine, place))
		wait_for_sample(engine, scan, place);
}

/* Nothing of it was lifted; it is now, if the sample says so. */
static void settle_sample(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *place, int is_on)
{
	place->chunk->watched = 0;
	if (is_on && ob_scan_may_look(engine) && !is_left_alone(engine, place) && ob_large_sampled(engine, place))
		lift_and_watch(engine, scan, place, 0, NULL);
}

/* Or is to be judged once more. */
static void settle(struct ob_engine *engine, struct ob_scan *scan, struct ob_scanned *entry, int is_on)
{
	struct ob_place place;
	int once_more = 0;

	pthread_rwlock_rdlock(&engine->regions_lock);
	if (ob_clock_place(engine, entry->id, &place) == 0) {
		ob_chunk_lock_background(place.chunk);
		once_more = is_on && !entry->in_place && ob_large_look_once_more(place.chunk);
		if (entry->in_place)
			settle_sample(engine, scan, &place, is_on);
		else if (!once_more)
			settle_chunk(engine, scan, &place, entry);
		ob_chunk_unlock(place.chunk);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	if (once_more) {
		entry->cold = 0;
		judge(engine, scan, entry);
	} else {
		count_lifted(scan, entry, -1);
	}
}

/* Advances the hand to the next chunk whose turn it is in this round. Returns whether there is one before the round ends, or a pause is due. */
static int next_chunk(struct ob_engine *engine, struct ob_scan *scan, struct ob_place *ret_place)
{
	for (unsigned i = 0; i < SKIPS_MAX && scan->region < OB_REGIONS_MAX; i++) {
		const struct ob_region *region = &engine->region[scan->region];
		uint32_t number = scan->chunk++;

		if (!region->base || number >= region->chunk_count) {
			scan->region++;
			scan->chunk = 0;
			continue;
		}
		if (!scan->all_chunks && is_passed_over(scan, number, ob_load(&region->chunks[number].scan_backoff)))
			continue;
		ob_place_chunk(engine, scan->region, number, ret_place);
		return 1;
	}
	return 0;
}

/* Another round begins, when the last one has lasted long enough. */
static void begin_round(struct ob_engine *engine, struct ob_scan *scan, uint64_t now)
{
	if (scan->region < OB_REGIONS_MAX || now - scan->round_ns < ob_scan_cold_ns(engine))
		return;
	ob_store(&scan->round, scan->round + 1);
	scan->round_ns = now;
	scan->region = scan->chunk = 0;
	scan->with_pool = ob_scan_may_look(engine) && scan->generation != engine->share->generation;
	if (scan->with_pool)
		scan->generation = engine->share->generation;
	scan->all_chunks = ob_large_look_at_all(engine);
}

/* Whether one more chunk may be lifted, of whose kind so many pages are. */
static int has_leave(struct ob_engine *engine, const struct ob_scan *scan, uint64_t lifted, unsigned fraction)
{
	unsigned under_way = scan->watched.count + scan->judged.count;

	return scan->tick_lifts && under_way < OB_SCANNED_MAX && (!lifted || lifted + OB_CHUNK_PAGES <= ob_load(&engine->ram_pages) / fraction) &&
	       (is_sharing(engine) ? ob_share_has_room(engine) : ob_large_has_leave(engine, under_way));
}

/* The rate: up while few of those that were lifted come back by faults, down when too many do. */
static void begin_tick(struct ob_engine *engine, struct ob_scan *scan, uint64_t now)
{
	uint64_t faults = ob_load(&scan->faults);

	if (now - scan->tick_ns < TICK_NS)
		return;
	scan->tick_ns = now;
	if (++scan->tick % TICKS == 0) {
		int64_t balance = ob_scan_balance(scan->balance, faults - scan->second_faults, scan->found, ob_load(&engine->ram_pages) * OB_PAGE_SIZE);

		/* What is lifted for what orders have changed does not count. */
		ob_store(&scan->balance, scan->with_pool ? 0 : scan->all_chunks ? scan->balance : balance);
		scan->found = 0;
		if (faults - scan->second_faults > FAULTS_A_SECOND / 2)
			scan->rate = OB_MAX(scan->rate / 2, RATE_MIN);
		else if (faults - scan->second_faults < FAULTS_A_SECOND / 4)
			scan->rate = OB_MIN(scan->rate + scan->rate / 2, RATE_MAX);
		scan->second_faults = faults;
	}
	/* A rate below one a tick is made of ticks with one and ticks without. */
	scan->tick_lifts = scan->rate * (scan->tick % TICKS + 1) / TICKS - scan->rate * (scan->tick % TICKS) / TICKS;
	if (faults - scan->second_faults >= FAULTS_A_SECOND)
		scan->tick_lifts = 0;
}

/* Visits a chunk for what was noted of it, if it is time. Returns whether it did something. */
static int noted_next(struct ob_engine *engine, struct ob_scan *scan, uint64_t now)
{
	uint64_t unused[OB_CHUNK_PAGES / 64];
	struct ob_place place;
	uint32_t id;

	if (scan->noted_chunks >= OB_SCANNED_MAX / 2 || !has_leave(engine, scan, scan->noted_pages, FRACTION_NOTED) ||
	    ob_notes_due(&engine->share->notes, now, grace_ns(engine), &id) < 0)
		return 0;
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (ob_clock_place(engine, id, &place) < 0) {
		; /* its region has gone */
	} else if (ob_scan_may_look(engine)) {
		scan->tick_lifts--;
		visit_noted(engine, scan, &place);
	} else {
		ob_notes_take(place.chunk, unused);
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return 1;
}

/* Lifts a chunk, if one may be. Returns whether it did something. */
static int lift_next(struct ob_engine *engine, struct ob_scan *scan, uint64_t now)
{
	struct ob_place place;
	int found = 0;

	if (!has_leave(engine, scan, scan->lifted_pages, scan->with_pool || ob_large_is_short(engine) ? FRACTION_SHORT : FRACTION))
		return 0;
	pthread_rwlock_rdlock(&engine->regions_lock);
	if (may_lift(engine)) {
		begin_round(engine, scan, now);
		found = next_chunk(engine, scan, &place);
		if (found) {
			scan->tick_lifts--;
			visit(engine, scan, &place);
		}
	}
	pthread_rwlock_unlock(&engine->regions_lock);
	return found;
}

/* --- the thread --- */

/* One piece of work. Returns whether there was any. */
static int work(struct ob_engine *engine, struct ob_scan *scan, int is_on)
{
	uint64_t now = ob_now_ns();
	struct ob_scanned *entry;

	if ((entry = oldest(&scan->judged)) && (!is_on || entry->due_ns <= now)) {
		struct ob_scanned due = take(&scan->judged);

		settle(engine, scan, &due, is_on);
		return 1;
	}
	if ((entry = oldest(&scan->watched)) && (!is_on || entry->due_ns <= now)) {
		struct ob_scanned due = take(&scan->watched);

		if (is_on)
			judge(engine, scan, &due);
		else
			settle(engine, scan, &due, is_on);
		return 1;
	}
	if (!is_on || (is_sharing(engine) && ob_orphans_next(engine, now, ob_scan_cold_ns(engine))))
		return is_on;
	begin_tick(engine, scan, now);
	return (is_sharing(engine) && noted_next(engine, scan, now)) || ob_large_collapse_next(engine) || lift_next(engine, scan, now);
}

/* Sleeps for so long, or until something changes; 0: until something does. */
static void sleep_ns(struct ob_engine *engine, struct ob_scan *scan, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)(ns % OB_NS_PER_SEC);
	until.tv_sec += (time_t)(ns / OB_NS_PER_SEC) + until.tv_nsec / (long)OB_NS_PER_SEC;
	until.tv_nsec %= (long)OB_NS_PER_SEC;
	pthread_mutex_lock(&scan->lock);
	while (!scan->is_kicked && !ob_load(&engine->stop))
		if (!ns)
			pthread_cond_wait(&scan->cond, &scan->lock);
		else if (pthread_cond_timedwait(&scan->cond, &scan->lock, &until) == ETIMEDOUT)
			break;
	scan->is_kicked = 0;
	pthread_mutex_unlock(&scan->lock);
}

/* How long to rest after so much work, for it to be no more than the share of a core that is allowed. */
static uint64_t rest_ns(unsigned permille, uint64_t cpu_ns)
{
	return permille >= 1000 ? 0 : cpu_ns * (1000 - permille) / OB_MAX(permille, 1u);
}

/* How long to rest when nothing is to be done: until the next tick, but what is watched is not to wait much longer than it has to. */
static uint64_t idle_ns(const struct ob_engine *engine)
{
	uint64_t since = ob_now_ns() - engine->scan.tick_ns, rest = since < TICK_NS ? TICK_NS - since : 0;

	return OB_MAX(OB_MIN(rest, grace_ns(engine)), REST_NS);
}

static void *scan_thread(void *context)
{
	struct ob_engine *engine = context;
	struct ob_scan *scan = &engine->scan;
	uint64_t owed_ns = 0, cpu = thread_cpu_ns();

	prctl(PR_SET_NAME, "overbook-scan");
	scan->rate = RATE_START;
	scan->region = scan->orphans.region = OB_REGIONS_MAX;
	while (!ob_load(&engine->stop)) {
		unsigned permille = leave_permille(engine);
		int is_on = permille != 0, did = work(engine, scan, is_on);
		uint64_t before = cpu;

		cpu = thread_cpu_ns();
		ob_count(engine, scan_cpu_ns, cpu - before);
		if (!is_on) {
			if (!did)
				sleep_ns(engine, scan, 0);
			continue;
		}
		owed_ns += rest_ns(permille, cpu - before);
		if (!did)
			owed_ns = OB_MAX(owed_ns, idle_ns(engine));
		/* Short rests are saved up: to fall asleep and to wake takes as long as some of the work. */
		if (owed_ns < REST_NS)
			continue;
		sleep_ns(engine, scan, owed_ns);
		owed_ns = 0;
	}
	return NULL;
}

void ob_scan_init(struct ob_scan *scan)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&scan->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&scan->cond, &attr);
	pthread_condattr_destroy(&attr);
}

void ob_scan_destroy(struct ob_scan *scan)
{
	pthread_mutex_destroy(&scan->lock);
	pthread_cond_destroy(&scan->cond);
}

void ob_scan_kick(struct ob_engine *engine)
{
	struct ob_scan *scan = &engine->scan;

	pthread_mutex_lock(&scan->lock);
	scan->is_kicked = 1;
	pthread_cond_signal(&scan->cond);
	pthread_mutex_unlock(&scan->lock);
}

int ob_scan_start(struct ob_engine *engine)
{
	struct ob_scan *scan = &engine->scan;
	int r;

	if (scan->is_started)
		return 0;
	r = ob_engine_start_thread(&scan->thread, scan_thread, engine);
	scan->is_started = r == 0;
	return r;
}

void ob_scan_stop(struct ob_engine *engine)
{
	if (!engine->scan.is_started)
		return;
	ob_scan_kick(engine);
	pthread_join(engine->scan.thread, NULL);
	engine->scan.is_started = 0;
}

void ob_scan_note_return(struct ob_engine *engine, unsigned pages)
{
	__atomic_fetch_add(&engine->scan.faults, 1, __ATOMIC_RELAXED);
	ob_count(engine, scan_returned_pages, pages);
}

uint64_t ob_scan_faults(const struct ob_engine *engine)
{
	return ob_load(&engine->scan.faults);
}
